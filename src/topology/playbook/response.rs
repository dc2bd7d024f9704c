//! What a playbook does about what it found, and for how long.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::event::{Action, Millis};
use crate::topology::duration::{duration, durations};

/// Most steps of a ladder.
pub const LADDER_STEPS_MAX: usize = 8;

const DAY_MS: Millis = 86_400_000;

/// What is done.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Response {
    pub action: Action,
    /// How long, by how often this entity was found within `ladder_memory`: first, second, and so on; the last step
    /// repeats. Empty for an action that restricts nobody.
    #[serde(default, deserialize_with = "durations")]
    #[schemars(with = "Vec<String>")]
    pub ladder: Vec<Millis>,
    /// How long an earlier block is held against an entity.
    #[serde(default = "ladder_memory_default", deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub ladder_memory: Millis,
    /// By how much a length is changed up or down, so that an attacker cannot tell when a block ends: `10%`. The change
    /// follows from the verdict's id, so a replay makes the same one.
    #[serde(default, deserialize_with = "percent")]
    #[schemars(with = "String")]
    pub jitter: f64,
    /// A stronger action for who is found again and again.
    #[serde(default)]
    pub escalate: Option<Escalation>,
    /// How many entities it may newly restrict within a time. Beyond it, it goes on in shadow.
    #[serde(default)]
    pub cap: Option<Cap>,
}

/// From which offence on something stronger is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    /// The number of the first offence with this action, from 2.
    pub from: u32,
    pub action: Action,
}

/// At most so many of a tenant's entities within so long. The tasks of a stage share it evenly, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    pub entities: u32,
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub within: Millis,
}

impl Response {
    /// What is done at the n-th offence, from 1.
    #[must_use]
    pub fn action_at(&self, offence: u32) -> Action {
        match self.escalate {
            Some(escalation) if offence >= escalation.from => escalation.action,
            Some(_) | None => self.action,
        }
    }

    /// How long at the n-th offence, from 1: the last step repeats. `None` without a ladder.
    #[must_use]
    pub fn step_at(&self, offence: u32) -> Option<Millis> {
        let at = usize::try_from(offence.saturating_sub(1)).unwrap_or(usize::MAX);
        self.ladder.get(at).or(self.ladder.last()).copied()
    }

    /// A length changed by the jitter, as far up or down as `part` of 0 to 1 says.
    #[must_use]
    pub fn jittered(&self, length: Millis, part: f64) -> Millis {
        ((length as f64) * (1.0 + self.jitter * (2.0 * part - 1.0))).round().max(1.0) as Millis
    }

    /// Its shortest length.
    #[must_use]
    pub fn shortest(&self) -> Option<Millis> {
        self.ladder.first().map(|first| self.jittered(*first, 0.0))
    }
}

fn ladder_memory_default() -> Millis {
    7 * DAY_MS
}

/// `10%` as 0.1.
fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    number
        .map(|percent| percent / 100.0)
        .filter(|part| (0.0..1.0).contains(part))
        .ok_or_else(|| serde::de::Error::custom(format_args!("`{text}` is no part such as 10%")))
}
