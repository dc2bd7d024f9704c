//! Playbooks: if this is seen about an entity, then that is done. Parsed from YAML, then checked against themselves
//! and each other, so that what contradicts itself stops `run` at its start and not an honest user in the night.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::duration::{duration, durations};
use super::format_duration;
use crate::event::{Action, AttackState, Millis, Mode, Severity};

/// One playbook, as in `topology/playbooks/<id>.yaml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Playbook {
    /// Permanent name; lower-case words joined by `-`, equal to the file name.
    pub id: String,
    /// Raised at every change; stands in each verdict.
    pub version: i32,
    /// The team to ask.
    pub owner: String,
    /// One sentence for people.
    pub description: String,
    #[serde(default)]
    pub mode: PlaybookMode,
    #[serde(default = "severity_default")]
    pub severity: Severity,
    /// Which detector looks; `threshold` reads `over` and `trigger`.
    #[serde(default)]
    pub detector: Detector,
    /// The word that its verdicts carry.
    pub finding: Finding,
    /// The entity it watches and acts on.
    pub per: Per,
    /// Length of the sliding window, in milliseconds.
    #[serde(deserialize_with = "duration")]
    pub over: Millis,
    /// Every bound must hold at once.
    #[serde(default)]
    pub trigger: BTreeMap<Measure, Bound>,
    /// Raise lower bounds by `1 + log2(1 + good accounts)` of the source, so that an office is not taken for a botnet.
    #[serde(default)]
    pub scale_by_good_accounts: bool,
    /// Whose failures are counted.
    #[serde(default)]
    pub failures_of: FailuresOf,
    pub then: Response,
    /// Conditions under which nothing is done; `known_pairs_only`: all its failing pairs are known ones.
    #[serde(default)]
    pub tags: Vec<String>,
}

fn severity_default() -> Severity {
    Severity::Medium
}

/// Whose failures a playbook counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailuresOf {
    /// Those of pairs that are not known, and the same wrong password of one pair once.
    #[default]
    Strangers,
    /// Every one. It takes people who mistype for attackers, so such a playbook may report and not restrict. Where every
    /// playbook of the set is one, nobody's successes matter, and intake passes on failures alone.
    Everybody,
}

/// Whether a playbook acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaybookMode {
    Off,
    /// Verdicts are published and marked SHADOW; nothing is blocked.
    #[default]
    Shadow,
    Live,
}

impl PlaybookMode {
    /// The mode its verdicts carry; `None` when it is off.
    #[must_use]
    pub const fn verdict_mode(self) -> Option<Mode> {
        match self {
            PlaybookMode::Off => None,
            PlaybookMode::Shadow => Some(Mode::Shadow),
            PlaybookMode::Live => Some(Mode::Live),
        }
    }
}

/// The closed list of detectors (one file each in `detect`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Bounds on measures of one entity over a sliding window.
    #[default]
    Threshold,
    /// A success by a stranger from a source that is blocked, then or later.
    Compromise,
    /// Failures over the whole site far above the usual.
    FailureSurge,
    /// An address that carries over a fifth of a tenant's successes. Unless the playbook is off, it is
    /// never blocked.
    Proxy,
}

/// The closed vocabulary of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    AccountFanout,
    FailureRate,
    NetworkRollup,
    DistributedGuessing,
    AccountCompromised,
    CampaignStarted,
    ProxiedLogins,
}

impl Finding {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Finding::AccountFanout => "account_fanout",
            Finding::FailureRate => "failure_rate",
            Finding::NetworkRollup => "network_rollup",
            Finding::DistributedGuessing => "distributed_guessing",
            Finding::AccountCompromised => "account_compromised",
            Finding::CampaignStarted => "campaign_started",
            Finding::ProxiedLogins => "proxied_logins",
        }
    }
}

/// The entity a playbook watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// One IPv4 address or one IPv6 /64.
    Address,
    /// IPv4 /24 or IPv6 /48.
    Network,
    Account,
    Tenant,
}

/// What is measured over the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// `failures`, and successes of anybody; those of one pair count once in a while, see
    /// [`success_once_ms`](super::Plan::success_once_ms).
    Attempts,
    /// Failed attempts by pairs that are not known; a repeated wrong password counts once.
    Failures,
    /// `failures` over `attempts`.
    FailureShare,
    /// Distinct account names among the failures.
    AccountsFailed,
    /// Distinct sources among the failures (for an account or a network).
    Sources,
    /// Addresses of the network that are blocked now.
    AddressesBlocked,
    /// Good accounts known behind the source.
    GoodAccounts,
}

impl Measure {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Measure::Attempts => "attempts",
            Measure::Failures => "failures",
            Measure::FailureShare => "failure_share",
            Measure::AccountsFailed => "accounts_failed",
            Measure::Sources => "sources",
            Measure::AddressesBlocked => "addresses_blocked",
            Measure::GoodAccounts => "good_accounts",
        }
    }

    /// Whether it grows with what an attacker does, and so may be scaled by the good accounts behind a source.
    #[must_use]
    pub const fn is_count(self) -> bool {
        match self {
            Measure::Attempts | Measure::Failures | Measure::AccountsFailed | Measure::Sources => true,
            Measure::FailureShare | Measure::AddressesBlocked | Measure::GoodAccounts => false,
        }
    }
}

/// A bound on one measure.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    pub at_least: Option<Thresholds>,
    pub at_most: Option<f64>,
}

/// A threshold that tightens by itself while the tenant is under attack.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Thresholds {
    Same(f64),
    ByState(ByState),
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByState {
    pub calm: f64,
    pub elevated: f64,
    pub attack: f64,
}

impl Thresholds {
    #[must_use]
    pub const fn at(self, state: AttackState) -> f64 {
        match (self, state) {
            (Thresholds::Same(n), _) => n,
            (Thresholds::ByState(by), AttackState::Calm) => by.calm,
            (Thresholds::ByState(by), AttackState::Elevated) => by.elevated,
            (Thresholds::ByState(by), AttackState::Attack) => by.attack,
        }
    }
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    pub action: Action,
    /// How long, by how often this entity was found within `ladder_memory`: first, second, and so on; the last step
    /// repeats. Empty for an action that restricts nobody.
    #[serde(default, deserialize_with = "durations")]
    pub ladder: Vec<Millis>,
    /// How long an earlier block is held against an entity.
    #[serde(default = "ladder_memory_default", deserialize_with = "duration")]
    pub ladder_memory: Millis,
}

fn ladder_memory_default() -> Millis {
    7 * DAY_MS
}

const DAY_MS: Millis = 86_400_000;
/// Longest automatic block of an address or a range.
const BLOCK_MS_MAX: Millis = 12 * 3_600_000;
/// Most steps of a ladder.
pub const LADDER_STEPS_MAX: usize = 8;
/// Longest window of a threshold playbook; days are the slow detectors' (not a ring of slices).
const WINDOW_MS_MAX: Millis = DAY_MS;

/// Something wrong with a playbook: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub playbook: String,
    pub text: String,
}

impl Playbook {
    /// Parses one playbook.
    ///
    /// # Errors
    /// The YAML, with the line and a snippet.
    pub fn parse(text: &str) -> Result<Playbook, String> {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }

    /// One sentence from the live numbers, so that the documentation cannot lie about the configuration.
    #[must_use]
    pub fn describe(&self) -> String {
        let bounds: Vec<String> = self
            .trigger
            .iter()
            .flat_map(|(measure, bound)| {
                let least = bound.at_least.map(|t| match t {
                    Thresholds::Same(n) => format!("{} >= {n}", measure.as_str()),
                    Thresholds::ByState(s) => {
                        format!("{} >= {}/{}/{}", measure.as_str(), s.calm, s.elevated, s.attack)
                    }
                });
                let most = bound.at_most.map(|n| format!("{} <= {n}", measure.as_str()));
                least.into_iter().chain(most)
            })
            .collect();
        let steps: Vec<String> = self.then.ladder.iter().map(|ms| format_duration(*ms)).collect();
        format!(
            "{} [{:?}] per {:?} over {}: {} -> {} {}",
            self.id,
            self.mode,
            self.per,
            format_duration(self.over),
            if bounds.is_empty() { format!("{:?}", self.detector) } else { bounds.join(" and ") },
            self.then.action,
            steps.join(", ")
        )
    }
}

/// Checks playbooks against themselves and each other. Empty: all is well.
#[must_use]
pub fn check(playbooks: &[Playbook]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut ids = BTreeMap::new();
    for playbook in playbooks {
        if ids.insert(playbook.id.as_str(), ()).is_some() {
            problems.push(Problem {
                playbook: playbook.id.clone(),
                text: "this id is used twice; ids are permanent and unique, give one of them another".to_owned(),
            });
        }
        let texts =
            [check_names(playbook), check_trigger(playbook), check_everybody(playbook), check_response(playbook)];
        problems.extend(texts.into_iter().flatten().map(|text| Problem { playbook: playbook.id.clone(), text }));
    }
    let running = || playbooks.iter().filter(|p| p.mode != PlaybookMode::Off);
    let is_mixed = running().any(|p| p.failures_of == FailuresOf::Everybody)
        && running().any(|p| p.failures_of == FailuresOf::Strangers);
    if is_mixed {
        let strangers = running().filter(|p| p.failures_of == FailuresOf::Everybody);
        problems.extend(strangers.map(|p| Problem {
            playbook: p.id.clone(),
            text: "failures_of: a set counts everybody's failures in all of its playbooks or in none; let this one count \
                   strangers, or run the set under an application_id of its own"
                .to_owned(),
        }));
    }
    problems
}

/// What goes with counting everybody's failures.
fn check_everybody(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    if p.failures_of == FailuresOf::Strangers {
        return found;
    }
    if p.detector != Detector::Threshold {
        found.push(format!("failures_of: {:?} decides by itself whom it looks at; remove it", p.detector));
    }
    if p.then.action.restricts() {
        found.push(format!(
            "failures_of: everybody takes people who mistype for attackers; use NOTIFY, not {}",
            p.then.action
        ));
    }
    if p.scale_by_good_accounts {
        found.push("scale_by_good_accounts: nobody's successes are looked at with `failures_of: everybody`".to_owned());
    }
    let others = p.trigger.keys().filter(|measure| {
        !matches!(measure, Measure::Failures | Measure::AccountsFailed | Measure::Sources | Measure::AddressesBlocked)
    });
    found.extend(others.map(|measure| {
        format!("trigger.{}: needs successes, which `failures_of: everybody` does not look at", measure.as_str())
    }));
    found
}

fn check_names(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if p.id.is_empty() || p.id.len() > 64 || !p.id.bytes().all(plain) {
        found.push("id: use 1 to 64 of a-z, 0-9 and `-`".to_owned());
    }
    if p.version < 1 {
        found.push("version: starts at 1 and is raised at every change".to_owned());
    }
    if p.owner.trim().is_empty() {
        found.push("owner: name the team to ask".to_owned());
    }
    found
}

fn check_trigger(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    if p.over > WINDOW_MS_MAX {
        found.push(format!("over: at most {}", format_duration(WINDOW_MS_MAX)));
    }
    match (p.detector, p.trigger.is_empty()) {
        (Detector::Threshold, true) => {
            found.push("trigger: a threshold playbook without a bound matches everybody".to_owned())
        }
        (Detector::Compromise | Detector::FailureSurge | Detector::Proxy, false) => {
            found.push("trigger: this detector has bounds of its own; remove `trigger`".to_owned());
        }
        (Detector::Threshold, false) | (Detector::Compromise | Detector::FailureSurge | Detector::Proxy, true) => {}
    }
    let fits = match p.detector {
        Detector::Threshold => p.per != Per::Tenant,
        Detector::Compromise => p.per == Per::Account,
        Detector::FailureSurge => p.per == Per::Tenant,
        Detector::Proxy => p.per == Per::Address,
    };
    if !fits {
        found.push(format!("per: {:?} does not go with detector {:?}", p.per, p.detector));
    }
    let mut bites = p.detector != Detector::Threshold;
    for (measure, bound) in &p.trigger {
        found.extend(check_bound(p, *measure, *bound));
        bites |= bound.at_least.is_some() && !matches!(measure, Measure::Attempts | Measure::GoodAccounts);
    }
    if !bites {
        found.push("trigger: no lower bound on failures, accounts, sources, blocked addresses or a share: it would match everybody".to_owned());
    }
    found
}

fn check_bound(p: &Playbook, measure: Measure, bound: Bound) -> Vec<String> {
    let mut found = Vec::new();
    let name = measure.as_str();
    if bound.at_least.is_none() && bound.at_most.is_none() {
        found.push(format!("trigger.{name}: give at_least or at_most"));
    }
    let seen = match p.per {
        Per::Address => !matches!(measure, Measure::AddressesBlocked | Measure::Sources),
        Per::Network => true,
        Per::Account => !matches!(measure, Measure::AddressesBlocked | Measure::GoodAccounts | Measure::AccountsFailed),
        Per::Tenant => false,
    };
    if !seen {
        found.push(format!("trigger.{name}: not measured per {:?}", p.per));
    }
    if let Some(least) = bound.at_least {
        let at = |state| least.at(state);
        let [calm, elevated, attack] = [at(AttackState::Calm), at(AttackState::Elevated), at(AttackState::Attack)];
        if ![calm, elevated, attack].iter().all(|n| n.is_finite() && *n > 0.0) {
            found.push(format!("trigger.{name}.at_least: must be above 0, or it matches everybody"));
        }
        if calm < elevated || elevated < attack {
            found.push(format!(
                "trigger.{name}.at_least: {calm}/{elevated}/{attack} loosens under attack; it must tighten or stay"
            ));
        }
        if measure == Measure::FailureShare && calm > 1.0 {
            found.push("trigger.failure_share.at_least: a share is at most 1; this never fires".to_owned());
        }
        if bound.at_most.is_some_and(|most| most < attack) {
            found.push(format!("trigger.{name}: at_most lies below at_least; this never fires"));
        }
    }
    found
}

fn check_response(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    let then = &p.then;
    if then.action.restricts() && then.ladder.is_empty() {
        found.push("then.ladder: how long? For example [15m, 1h, 4h, 12h]".to_owned());
    }
    if !then.action.restricts() && !then.ladder.is_empty() {
        found.push(format!("then.ladder: {} restricts nobody; remove it", then.action));
    }
    if then.ladder.len() > LADDER_STEPS_MAX {
        found.push(format!("then.ladder: at most {LADDER_STEPS_MAX} steps"));
    }
    if then.ladder.windows(2).any(|pair| pair[0] > pair[1]) {
        found.push("then.ladder: a later step is shorter than an earlier one".to_owned());
    }
    if matches!(p.per, Per::Address | Per::Network) && then.ladder.iter().any(|ms| *ms > BLOCK_MS_MAX) {
        found.push(format!("then.ladder: an address changes hands; at most {}", format_duration(BLOCK_MS_MAX)));
    }
    let fits = match then.action {
        Action::None | Action::Notify => true,
        Action::Throttle | Action::Challenge | Action::Block => p.per != Per::Tenant,
        Action::StepUp | Action::LockAccount | Action::RevokeSessions => p.per == Per::Account,
    };
    if !fits {
        found.push(format!("then.action: {} does not go with per {:?}", then.action, p.per));
    }
    if then.action == Action::Block && p.per == Per::Account {
        found.push("then.action: blocking an account lets anybody lock its owner out; use STEP_UP".to_owned());
    }
    found
}
