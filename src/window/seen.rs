//! Duplicates: attempts that were published twice.
//!
//! A duplicate has the id *and* the content of an earlier attempt of the same source. The same id with other content
//! is a conflict: counted and processed, since ids may come from a client's header and must not hide an attempt.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::Hashed;
use crate::event::Millis;

/// What a repeated id turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    New,
    Duplicate,
    Conflict,
}

/// Fingerprints taken in one commit: one row of the state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeenPack {
    /// Highest arrival among them.
    pub at: Millis,
    /// Keyed hash of tenant and id, and of the content.
    pub prints: Vec<(Hashed, u32)>,
}

/// The fingerprints of one task, kept for the grace and a minute; an older repeat is late and enters no window.
#[derive(Debug, Default)]
pub struct Seen {
    by_id: FxHashMap<Hashed, u32>,
    packs: VecDeque<(u64, SeenPack)>,
    open: SeenPack,
    next_pack: u64,
}

impl Seen {
    /// Most fingerprints of one task: 16 bytes each in memory twice over. Beyond it the oldest pack goes early.
    pub const PRINTS_MAX: usize = 4_000_000;

    /// Rebuilds from the packs of the state, in the order of their numbers.
    #[must_use]
    pub fn from_packs(packs: Vec<(u64, SeenPack)>) -> Self {
        let mut seen = Seen::default();
        for (number, pack) in packs {
            seen.by_id.extend(pack.prints.iter().copied());
            seen.next_pack = number + 1;
            seen.packs.push_back((number, pack));
        }
        seen
    }

    /// Looks an attempt up and remembers it.
    pub fn sight(&mut self, id: Hashed, content: u32, arrived_at: Millis) -> Sighting {
        let sighting = match self.by_id.get(&id) {
            Some(known) if *known == content => return Sighting::Duplicate,
            Some(_) => Sighting::Conflict,
            None => Sighting::New,
        };
        self.by_id.insert(id, content);
        self.open.at = if self.open.prints.is_empty() { arrived_at } else { self.open.at.max(arrived_at) };
        self.open.prints.push((id, content));
        sighting
    }

    /// Closes the open pack for a commit and drops what is older than `keep_ms` at `stream_time`: the new row, and
    /// the numbers of the rows to remove.
    pub fn seal(&mut self, stream_time: Millis, keep_ms: Millis) -> (Option<(u64, SeenPack)>, Vec<u64>) {
        let mut sealed = None;
        if !self.open.prints.is_empty() {
            let pack = std::mem::take(&mut self.open);
            sealed = Some((self.next_pack, pack.clone()));
            self.packs.push_back((self.next_pack, pack));
            self.next_pack += 1;
        }
        let mut gone = Vec::new();
        let mut held: usize = self.by_id.len();
        while let Some((number, pack)) = self.packs.front() {
            let old = pack.at.saturating_add(keep_ms) < stream_time;
            if !old && held <= Self::PRINTS_MAX {
                break;
            }
            for (id, content) in &pack.prints {
                // A conflict may have given the id another content since; that one is remembered by its own pack.
                if self.by_id.get(id) == Some(content) {
                    self.by_id.remove(id);
                    held = held.saturating_sub(1);
                }
            }
            gone.push(*number);
            self.packs.pop_front();
        }
        // A pack that came and went within one commit needs no row.
        if sealed.as_ref().is_some_and(|(number, _)| gone.contains(number)) {
            sealed = None;
        }
        (sealed, gone)
    }
}
