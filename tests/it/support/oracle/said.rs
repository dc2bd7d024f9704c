//! What a stage says, in the form in which it is compared. What the oracle expects and what stood on a topic have one
//! type.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Millis;
use super::frames::{Fallen, Note, Sign};

/// A record of `verdicts`, without texts for people.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Verdict {
    pub verdict_id: String,
    pub occurred_at: Millis,
    pub playbook: String,
    pub mode: String,
    pub finding: String,
    pub severity: String,
    pub action: String,
    pub until: Option<Millis>,
    pub window_start: Millis,
    pub window_end: Millis,
    /// Numbers as text, since JSON may lose the last digit.
    #[serde(deserialize_with = "as_text")]
    pub measures: BTreeMap<String, String>,
    pub evidence: Vec<String>,
    pub incident_id: Option<String>,
}

fn as_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let numbers = BTreeMap::<String, f64>::deserialize(deserializer)?;
    Ok(numbers.into_iter().map(|(name, n)| (name, number(n))).collect())
}

/// A number with nine digits behind the point.
pub fn number(n: f64) -> String {
    format!("{n:.9}")
}

/// A record of `blocklist`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    Put {
        action: String,
        since: Millis,
        until: Option<Millis>,
        generation: i64,
        playbook: Option<String>,
        verdict_id: Option<String>,
        incident_id: Option<String>,
    },
    /// A tombstone, with its headers.
    Lift { generation: i64, cause: String },
}

#[derive(Deserialize)]
struct Entry {
    action: String,
    since: Millis,
    until: Option<Millis>,
    generation: i64,
    playbook: Option<String>,
    verdict_id: Option<String>,
    incident_id: Option<String>,
}

impl Block {
    /// Reads a record of the topic.
    pub fn read(value: Option<&[u8]>, header: impl Fn(&str) -> Option<String>) -> Block {
        match value {
            Some(value) => {
                let Entry { action, since, until, generation, playbook, verdict_id, incident_id } =
                    serde_json::from_slice(value).unwrap();
                Block::Put { action, since, until, generation, playbook, verdict_id, incident_id }
            }
            None => Block::Lift {
                generation: header("generation").and_then(|text| text.parse().ok()).expect("a tombstone's generation"),
                cause: header("cause").expect("a tombstone's cause"),
            },
        }
    }
}

impl Verdict {
    pub fn read(value: &[u8]) -> Verdict {
        let value: Value = serde_json::from_slice(value).unwrap();
        serde_json::from_value(value).unwrap()
    }
}

/// Something that a stage says, and why.
#[derive(Debug, Clone)]
pub struct Stated<T> {
    pub what: T,
    /// The attempt, or the time, that brought it about.
    pub because: String,
}

/// What a source task passes on to the owner of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    Attempt {
        tenant: String,
        account: String,
        event_id: String,
        occurred_at: Millis,
        arrived_at: Millis,
        known_pair: bool,
        sign: Option<Sign>,
        repeat: bool,
    },
    Note(Note),
}

/// Sums for the site, of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    pub attempts: u64,
    pub failures: u64,
    pub unknown: u64,
    pub stopped: u64,
    /// Entities newly kept out, with the playbook.
    pub blocked: Vec<(String, String)>,
    pub compromised: Vec<Fallen>,
}

/// Everything that the tasks of one stage say.
#[derive(Debug, Default)]
pub struct Said {
    /// By the key of the entity: one task owns it, so its records have an order.
    pub verdicts: BTreeMap<String, Vec<Stated<Verdict>>>,
    pub blocks: BTreeMap<String, Vec<Stated<Block>>>,
    /// By the partition of the task and the account, which lies in one partition.
    pub passed: BTreeMap<(i32, String), Vec<Stated<Passed>>>,
    /// By tenant.
    pub sums: BTreeMap<String, Sums>,
    /// Changes of control that were passed on, by the partition of the task.
    pub news: BTreeMap<i32, Vec<(String, i64)>>,
    /// What became of the attempts, for the table.
    pub tally: BTreeMap<&'static str, u64>,
}

impl Said {
    pub fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// What both stages say together.
    pub fn join(mut self, other: Said) -> Said {
        self.verdicts.extend(other.verdicts);
        self.blocks.extend(other.blocks);
        for (tenant, sums) in other.sums {
            self.sums.entry(tenant).or_default().compromised.extend(sums.compromised);
        }
        for (what, n) in other.tally {
            *self.tally.entry(what).or_default() += n;
        }
        self
    }

    pub fn verdict(&mut self, key: String, what: Verdict, because: &str) {
        self.count("verdicts");
        self.verdicts.entry(key).or_default().push(Stated { what, because: because.to_owned() });
    }

    pub fn block(&mut self, key: String, what: Block, because: &str) {
        self.count(match what {
            Block::Put { .. } => "entries",
            Block::Lift { .. } => "tombstones",
        });
        self.blocks.entry(key).or_default().push(Stated { what, because: because.to_owned() });
    }
}
