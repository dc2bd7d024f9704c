//! A stranger to the account gets in from a source that is blocked, or with what the intruders of an attack share; at that
//! moment, or that is known soon after.
//!
//! Known gap: a taker-over to whom nothing else points.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Found;
use crate::event::{Millis, Source};
use crate::topology::format_duration;

/// What the source stage knows of an attempt's source and pair, carried to the account's owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceFacts {
    /// This source logged in to this account before, and that was not flagged.
    pub known_pair: bool,
    /// What points to an intruder, should this be a success.
    pub sign: Option<Sign>,
}

/// What points to an intruder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sign {
    /// The verdict that blocks the source, unless so many get in there that they are honest people.
    Blocked(Box<str>),
    /// A trait of the attack, in words: nearly all strangers who get in with it are the attack's.
    Shares(Box<str>),
}

/// One success, as a compromise is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessFacts<'a> {
    pub source: Source,
    pub at: Millis,
    pub known_pair: bool,
    /// At the success, or later.
    pub sign: Option<&'a Sign>,
    /// When that was known.
    pub known_at: Millis,
    /// The account's last success before this one that was not flagged, as far as it is remembered.
    pub last_success: Option<Millis>,
}

/// Judges a success.
#[must_use]
pub fn stranger_success(facts: &SuccessFacts<'_>) -> Option<Found> {
    let sign = facts.sign.filter(|_| !facts.known_pair)?;
    let late_by = facts.known_at.saturating_sub(facts.at).max(0);
    let when = match (sign, late_by) {
        (Sign::Blocked(_), 0) => "is blocked".to_owned(),
        (Sign::Blocked(_), _) => format!("was blocked {} s later", late_by / 1000),
        (Sign::Shares(what), 0) => format!("shares {what} with the attack's intruders"),
        (Sign::Shares(what), _) => {
            format!("shares {what} with the attack's intruders, as was known {} s later", late_by / 1000)
        }
    };
    let mut measures = BTreeMap::from([("seconds_to_identification".to_owned(), late_by as f64 / 1000.0)]);
    let idle = facts.last_success.map(|last| facts.at.saturating_sub(last).max(0));
    if let Some(idle) = idle {
        measures.insert("seconds_since_last_login".to_owned(), idle as f64 / 1000.0);
    }
    let before = match idle {
        Some(idle) => format!("The account's login before that was {} earlier.", format_duration(idle / 1000 * 1000)),
        None => "No login of the account is remembered before that.".to_owned(),
    };
    Some(Found {
        measures,
        explanation: format!(
            "A source that never logged in to this account before, {}, got in and {when}. {before}",
            facts.source
        ),
        window_start: facts.at,
        window_end: facts.known_at.max(facts.at),
        contributions: BTreeMap::new(),
    })
}
