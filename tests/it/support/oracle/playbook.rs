//! Playbooks as the oracle needs them, read from the same files.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Millis;
use super::frames::State;

#[derive(Debug, Clone, Deserialize)]
pub struct Playbook {
    pub id: String,
    mode: Option<String>,
    #[serde(default)]
    detector: Option<String>,
    pub finding: String,
    pub severity: String,
    per: String,
    over: String,
    #[serde(default)]
    pub trigger: BTreeMap<String, Bound>,
    #[serde(default)]
    pub scale_by_good_accounts: bool,
    then: Response,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Bound {
    pub at_least: Option<Least>,
    pub at_most: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Least {
    Same(f64),
    ByState { calm: f64, elevated: f64, attack: f64 },
}

#[derive(Debug, Clone, Deserialize)]
struct Response {
    action: String,
    #[serde(default)]
    ladder: Vec<String>,
    ladder_memory: Option<String>,
}

impl Least {
    pub fn at(&self, state: State) -> f64 {
        match (self, state) {
            (Least::Same(n), _) => *n,
            (Least::ByState { calm, .. }, State::Calm) => *calm,
            (Least::ByState { elevated, .. }, State::Elevated) => *elevated,
            (Least::ByState { attack, .. }, State::Attack) => *attack,
        }
    }
}

impl Playbook {
    pub fn is_live(&self) -> bool {
        self.mode.as_deref() == Some("live")
    }

    pub fn action(&self) -> &str {
        &self.then.action
    }

    /// Whether what it does belongs on the blocklist.
    pub fn restricts(&self) -> bool {
        self.is_live() && does_restrict(&self.then.action)
    }

    pub fn over(&self) -> Millis {
        millis(&self.over)
    }

    /// How long the n-th offence is answered, from 1; without a ladder as long as the window.
    pub fn step(&self, offence: usize) -> Millis {
        let steps = &self.then.ladder;
        steps.get(offence - 1).or(steps.last()).map_or_else(|| self.over(), |text| millis(text))
    }

    pub fn has_ladder(&self) -> bool {
        !self.then.ladder.is_empty()
    }

    pub fn ladder_memory(&self) -> Millis {
        self.then.ladder_memory.as_deref().map_or(7 * super::DAY_MS, millis)
    }
}

pub fn does_restrict(action: &str) -> bool {
    strength(action) > 1
}

/// Which of two actions shows.
pub fn strength(action: &str) -> usize {
    let by_strength =
        ["NONE", "NOTIFY", "THROTTLE", "CHALLENGE", "STEP_UP", "BLOCK", "REVOKE_SESSIONS", "LOCK_ACCOUNT"];
    by_strength.iter().position(|name| *name == action).unwrap_or_else(|| panic!("action {action}"))
}

/// Every playbook that is not off, by what it looks at, in the order of their ids.
#[derive(Debug, Default)]
pub struct Playbooks {
    pub address: Vec<Playbook>,
    pub network: Vec<Playbook>,
    pub account: Vec<Playbook>,
    pub compromise: Vec<Playbook>,
    pub proxy: Vec<Playbook>,
}

impl Playbooks {
    pub fn read(folder: &Path) -> Playbooks {
        let mut all: Vec<Playbook> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| serde_saphyr::from_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap()).unwrap())
            .collect();
        all.retain(|playbook| matches!(playbook.mode.as_deref(), Some("live" | "shadow") | None));
        all.sort_by(|a, b| a.id.cmp(&b.id));
        let mut sorted = Playbooks::default();
        for playbook in all {
            match (playbook.detector.as_deref(), playbook.per.as_str()) {
                (Some("compromise"), _) => sorted.compromise.push(playbook),
                (Some("proxy"), _) => sorted.proxy.push(playbook),
                // Nobody is watched here.
                (Some("campaign" | "posterior" | "tripwire"), _) => {}
                (_, "address") => sorted.address.push(playbook),
                (_, "network") => sorted.network.push(playbook),
                (_, "account") => sorted.account.push(playbook),
                (detector, per) => panic!("{detector:?} per {per}"),
            }
        }
        sorted
    }

    /// How far back entries are looked at when their source is identified.
    pub fn entry_memory(&self) -> Millis {
        self.compromise.iter().map(Playbook::over).max().unwrap_or(0)
    }

    /// Within so long the successes of one pair count once.
    pub fn success_once(&self) -> Millis {
        let windows = self.address.iter().chain(&self.network).map(|playbook| playbook.over().min(15 * 60_000));
        windows.chain([self.entry_memory(), 1]).max().unwrap_or(1)
    }
}

/// Milliseconds of `90s`, `15m` and the like.
fn millis(text: &str) -> Millis {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or_else(|| panic!("duration {text}"));
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        unit => panic!("duration {text}: {unit}"),
    };
    text[..digits].parse::<Millis>().unwrap() * unit
}
