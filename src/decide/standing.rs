//! What stands against one entity: its claims, and the one restriction they add up to.
//!
//! Every claim says who asked, for what and until when. The entry on the blocklist is their merge: the strongest
//! action, then the latest end. When a claim ends, the next one shows.

use serde::{Deserialize, Serialize};

use crate::event::{Action, Millis};

/// Most claims on one entity. A further playbook replaces the claim that ends first.
pub const CLAIMS_MAX: usize = 8;

/// One playbook's wish about one entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub playbook: Box<str>,
    pub action: Action,
    /// A claim in shadow holds its episode open and shows nothing.
    pub live: bool,
    pub since: Millis,
    pub until: Millis,
    pub verdict_id: Box<str>,
    pub reason: Box<str>,
}

/// How often a playbook found an entity: its place on the ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Offence {
    playbook: Box<str>,
    count: u32,
    forgotten_at: Millis,
}

/// The restriction that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub action: Action,
    pub since: Millis,
    pub until: Millis,
    pub playbook: Box<str>,
    pub verdict_id: Box<str>,
    pub reason: Box<str>,
}

/// A change of the published entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put { shown: Shown, generation: i64 },
    Lift { generation: i64 },
}

/// Everything that stands against one entity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    claims: Vec<Claim>,
    offences: Vec<Offence>,
    generation: i64,
    shown: Option<Shown>,
}

impl Standing {
    /// The claim of a playbook that is in force.
    #[must_use]
    pub fn claim(&self, playbook: &str, now: Millis) -> Option<&Claim> {
        self.claims.iter().find(|c| &*c.playbook == playbook && c.until > now)
    }

    /// The strongest claim in force: what an edge does now.
    #[must_use]
    pub fn in_force(&self, now: Millis) -> Option<&Claim> {
        self.claims.iter().filter(|c| c.live && c.until > now).max_by_key(|c| (c.action.strength(), c.until))
    }

    /// Whether somebody is kept out now.
    #[must_use]
    pub fn blocked_by(&self, now: Millis) -> Option<&Claim> {
        self.in_force(now).filter(|c| c.action == Action::Block)
    }

    /// Takes note of an offence and gives its number within the memory of the ladder, from 1.
    pub fn offend(&mut self, playbook: &str, now: Millis, memory_ms: Millis) -> u32 {
        self.offences.retain(|o| o.forgotten_at > now);
        let forgotten_at = now.saturating_add(memory_ms);
        if let Some(offence) = self.offences.iter_mut().find(|o| &*o.playbook == playbook) {
            offence.count = offence.count.saturating_add(1);
            offence.forgotten_at = forgotten_at;
            return offence.count;
        }
        if self.offences.len() == CLAIMS_MAX {
            self.offences.remove(0);
        }
        self.offences.push(Offence { playbook: playbook.into(), count: 1, forgotten_at });
        1
    }

    /// Adds a claim, or puts it in place of the same playbook's earlier one.
    pub fn add(&mut self, claim: Claim) {
        self.claims.retain(|c| c.playbook != claim.playbook && c.until > claim.since);
        if self.claims.len() == CLAIMS_MAX {
            let first_to_end = self.claims.iter().enumerate().min_by_key(|(_, c)| c.until).map(|(at, _)| at);
            if let Some(at) = first_to_end {
                self.claims.remove(at);
            }
        }
        self.claims.push(claim);
    }

    /// Prolongs the claim of a playbook.
    pub fn prolong(&mut self, playbook: &str, until: Millis) {
        if let Some(claim) = self.claims.iter_mut().find(|c| &*c.playbook == playbook) {
            claim.until = claim.until.max(until);
        }
    }

    /// Brings the published entry in line with the claims at stream time `now`; `None` when it already is.
    pub fn settle(&mut self, now: Millis) -> Option<Change> {
        self.claims.retain(|c| c.until > now);
        let wanted = self.in_force(now).map(|c| Shown {
            action: c.action,
            since: self.shown.as_ref().map_or(c.since, |s| s.since),
            until: c.until,
            playbook: c.playbook.clone(),
            verdict_id: c.verdict_id.clone(),
            reason: c.reason.clone(),
        });
        if wanted == self.shown {
            return None;
        }
        self.shown = wanted;
        self.generation = (self.generation + 1).max(now);
        let generation = self.generation;
        Some(match &self.shown {
            Some(shown) => Change::Put { shown: shown.clone(), generation },
            None => Change::Lift { generation },
        })
    }

    /// When the next claim ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Millis> {
        self.claims.iter().map(|c| c.until).min()
    }

    /// When nothing of it matters any more.
    #[must_use]
    pub fn forgotten_at(&self) -> Millis {
        let claims = self.claims.iter().map(|c| c.until);
        claims.chain(self.offences.iter().map(|o| o.forgotten_at)).max().unwrap_or_default()
    }
}
