//! What of an incident is to be told, and from when on: the pure decision. No clock, no IO; what was told before, the
//! incident as it stands and the time go in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::{Incident, IncidentState, Millis, Severity};

/// How long an update rests after the message before it, by how many messages there were: the first follows the opening
/// at once. An incident that lasts for 40 minutes has six messages at most, its opening and its end among them.
pub const GAPS_MS: [Millis; 4] = [0, 60_000, 5 * 60_000, 20 * 60_000];
/// After this long without a message the figures alone are told; twice as long after each such digest.
pub const DIGEST_MS: Millis = 20 * 60_000;
/// Digests are never further apart than this.
pub const DIGEST_MS_MAX: Millis = 4 * 3_600_000;

/// Why something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Occasion {
    /// Nothing was told of the incident before.
    Opened,
    /// Accounts were entered that were not told yet.
    Fell,
    /// It is more severe than was ever told.
    Escalated,
    /// It goes on, and nothing of the above happened for long.
    Digest,
    /// It is over.
    Ended,
}

impl Occasion {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Occasion::Opened => "OPENED",
            Occasion::Fell => "FELL",
            Occasion::Escalated => "ESCALATED",
            Occasion::Digest => "DIGEST",
            Occasion::Ended => "ENDED",
        }
    }
}

/// What was told last of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `updated_at` of the record that was told.
    pub revision: Millis,
    /// When it was told, by the clock of the process.
    pub at: Millis,
    /// The highest that was told.
    pub severity: Severity,
    /// How many of the accounts that fell were told.
    pub fallen: usize,
    pub attempts: i64,
    pub stopped_at_edge: i64,
    pub is_over: bool,
    /// Messages so far.
    pub messages: u32,
    /// Those of them that told figures alone.
    pub digests: u32,
    /// Records heard of the incident when it was told; another process counts anew.
    #[serde(skip)]
    pub heard: u64,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// From when on.
    pub at: Millis,
    pub occasions: BTreeSet<Occasion>,
}

/// What is to be told of an incident of which `told` was told before. `digest_ms` is the time without a message after
/// which figures are told, `None` for never. Whether anything should be told of it at all is the caller's to know.
#[must_use]
pub fn due(told: Option<&Told>, incident: &Incident, digest_ms: Option<Millis>, now: Millis) -> Option<Due> {
    let is_over = incident.state == IncidentState::Closed;
    let Some(told) = told else {
        let fell = (!incident.compromised.is_empty()).then_some(Occasion::Fell);
        let ended = is_over.then_some(Occasion::Ended);
        return Some(Due { at: now, occasions: [Some(Occasion::Opened), fell, ended].into_iter().flatten().collect() });
    };
    if told.is_over {
        return None;
    }
    let fell = (incident.compromised.len() > told.fallen).then_some(Occasion::Fell);
    let escalated = (incident.severity > told.severity).then_some(Occasion::Escalated);
    let mut occasions: BTreeSet<Occasion> = [fell, escalated].into_iter().flatten().collect();
    if is_over {
        occasions.insert(Occasion::Ended);
        return Some(Due { at: now, occasions });
    }
    // A clock that was set back makes nobody wait for longer.
    let since = told.at.min(now);
    if occasions.is_empty() {
        let gap = digest_gap(told, digest_ms?);
        let has_news = incident.updated_at > told.revision;
        return has_news.then(|| Due { at: since.saturating_add(gap), occasions: [Occasion::Digest].into() });
    }
    Some(Due { at: since.saturating_add(update_gap(told)), occasions })
}

/// How it stands once an incident was told.
#[must_use]
pub fn after(told: Option<&Told>, incident: &Incident, occasions: &BTreeSet<Occasion>, now: Millis) -> Told {
    let is_digest = occasions.iter().eq([&Occasion::Digest]);
    Told {
        revision: incident.updated_at,
        at: now,
        severity: told.map_or(incident.severity, |told| told.severity.max(incident.severity)),
        fallen: told.map_or(0, |told| told.fallen).max(incident.compromised.len()),
        attempts: incident.attempts,
        stopped_at_edge: incident.stopped_at_edge,
        is_over: incident.state == IncidentState::Closed,
        messages: told.map_or(0, |told| told.messages).saturating_add(1),
        digests: told.map_or(0, |told| told.digests).saturating_add(u32::from(is_digest)),
        heard: 0,
    }
}

fn update_gap(told: &Told) -> Millis {
    let after_opening = usize::try_from(told.messages.saturating_sub(1)).unwrap_or(usize::MAX);
    GAPS_MS.get(after_opening).or(GAPS_MS.last()).copied().unwrap_or_default()
}

fn digest_gap(told: &Told, digest_ms: Millis) -> Millis {
    let doubled = digest_ms.saturating_mul(1 << told.digests.min(16)).min(DIGEST_MS_MAX.max(digest_ms));
    doubled.max(update_gap(told))
}
