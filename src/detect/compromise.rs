//! A stranger to the account gets in from a source that is blocked, at that moment or soon after.
//!
//! Known gap: a taker-over who uses an address that nothing else points to.

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
    /// The verdict that blocks the source now, unless so many get in there that they are honest people.
    pub blocked_by: Option<Box<str>>,
}

/// One success, as a compromise is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessFacts<'a> {
    pub source: Source,
    pub at: Millis,
    pub known_pair: bool,
    /// The verdict against the source: standing at the success, or given later.
    pub blocked_by: Option<&'a str>,
    /// When that was known.
    pub known_at: Millis,
    /// The account's last success before this one that was not flagged, as far as it is remembered.
    pub last_success: Option<Millis>,
}

/// Judges a success.
#[must_use]
pub fn stranger_success(facts: &SuccessFacts<'_>) -> Option<Found> {
    if facts.known_pair || facts.blocked_by.is_none() {
        return None;
    }
    let late_by = facts.known_at.saturating_sub(facts.at).max(0);
    let when = if late_by == 0 { "is blocked".to_owned() } else { format!("was blocked {} s later", late_by / 1000) };
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
