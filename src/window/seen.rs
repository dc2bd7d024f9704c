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

/// One attempt as it is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Print {
    /// Keyed hash of tenant, source and id.
    id: Hashed,
    /// Keyed hash of the content.
    content: u32,
    /// Whole seconds by which it is older than the newest of its pack.
    age_s: u32,
}

/// Fingerprints taken between two checkpoints, or some of them: one row of the state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeenPack {
    /// Stream time of the newest, in whole seconds.
    at_s: i64,
    prints: Vec<Print>,
}

/// Content and stream time in seconds: of an id, or of a further content of an id.
#[derive(Debug, Clone, Copy)]
struct Known {
    content: u32,
    at_s: u32,
}

/// The fingerprints of one task. Each is forgotten `keep_ms` of stream time after it was taken, to the second, however
/// the packs are cut: what a task recognises never depends on when it committed.
#[derive(Debug, Default)]
pub struct Seen {
    known: FxHashMap<Hashed, Known>,
    packs: VecDeque<(u64, SeenPack)>,
    open: Vec<(Hashed, Known)>,
    next_pack: u64,
}

impl Seen {
    /// Most fingerprints of one task: 16 bytes each in memory twice over. Beyond it the oldest pack goes early.
    pub const PRINTS_MAX: usize = 4_000_000;

    /// Most fingerprints of one row, which has to fit into a record of the changelog: 18 bytes each at most.
    pub const PACK_PRINTS_MAX: usize = 16_384;

    /// Rebuilds from the packs of the state, in the order of their numbers.
    #[must_use]
    pub fn from_packs(packs: Vec<(u64, SeenPack)>) -> Self {
        let mut seen = Seen::default();
        for (number, pack) in packs {
            seen.known.extend(pack.prints.iter().map(|print| (print.id, pack.known(print))));
            seen.next_pack = number + 1;
            seen.packs.push_back((number, pack));
        }
        seen
    }

    /// Looks an attempt up at stream time `now` and remembers it.
    pub fn sight(&mut self, id: Hashed, content: u32, now: Millis, keep_ms: Millis) -> Sighting {
        let at_s = seconds(now);
        let oldest = seconds(now.saturating_sub(keep_ms));
        let held = |id: &Hashed| self.known.get(id).copied().filter(|known| known.at_s >= oldest);
        match held(&id) {
            None => {
                self.remember(id, Known { content, at_s });
                Sighting::New
            }
            Some(first) if first.content == content => Sighting::Duplicate,
            Some(first) => {
                let further = beside(id, content);
                if held(&further).is_some_and(|known| known.content == content) {
                    return Sighting::Duplicate;
                }
                self.remember(further, Known { content, at_s });
                // A further content is found only by way of the first, which therefore lives as long.
                self.remember(id, Known { content: first.content, at_s: first.at_s.max(at_s) });
                Sighting::Conflict
            }
        }
    }

    fn remember(&mut self, id: Hashed, known: Known) {
        self.known.insert(id, known);
        self.open.push((id, known));
    }

    /// Packs what was taken since the last time, and drops the packs that are older than `keep_ms` at `stream_time`: the
    /// new rows, and the numbers of the rows to remove.
    pub fn seal(&mut self, stream_time: Millis, keep_ms: Millis) -> (Vec<(u64, SeenPack)>, Vec<u64>) {
        let mut sealed = Vec::new();
        for prints in std::mem::take(&mut self.open).chunks(Self::PACK_PRINTS_MAX) {
            let pack = SeenPack::of(prints);
            sealed.push((self.next_pack, pack.clone()));
            self.packs.push_back((self.next_pack, pack));
            self.next_pack += 1;
        }
        let oldest = i64::from(seconds(stream_time.saturating_sub(keep_ms)));
        let mut gone = Vec::new();
        while let Some((number, pack)) = self.packs.front() {
            if pack.at_s >= oldest && self.known.len() <= Self::PRINTS_MAX {
                break;
            }
            for print in &pack.prints {
                // A later pack may have taken the print over.
                let known = pack.known(print);
                if self.known.get(&print.id).is_some_and(|k| k.content == known.content && k.at_s == known.at_s) {
                    self.known.remove(&print.id);
                }
            }
            gone.push(*number);
            self.packs.pop_front();
        }
        // A pack that came and went at once needs no row.
        sealed.retain(|(number, _)| !gone.contains(number));
        (sealed, gone)
    }
}

impl SeenPack {
    fn of(open: &[(Hashed, Known)]) -> Self {
        let newest = open.iter().map(|(_, known)| known.at_s).max().unwrap_or_default();
        let prints =
            open.iter().map(|(id, known)| Print { id: *id, content: known.content, age_s: newest - known.at_s });
        SeenPack { at_s: i64::from(newest), prints: prints.collect() }
    }

    fn known(&self, print: &Print) -> Known {
        let at_s = self.at_s.saturating_sub(i64::from(print.age_s));
        Known { content: print.content, at_s: u32::try_from(at_s).unwrap_or_default() }
    }
}

/// Seconds since the epoch; times before 1970 and after 2106 are held at the ends.
fn seconds(at: Millis) -> u32 {
    u32::try_from(at.div_euclid(1000).clamp(0, i64::from(u32::MAX))).unwrap_or(u32::MAX)
}

/// Where a further content of an id is held. Ids are keyed hashes, so nobody can aim at another one's place.
fn beside(id: Hashed, content: u32) -> Hashed {
    (id ^ u64::from(content)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const KEEP: Millis = 360_000;

    #[test]
    fn a_repeat_is_a_duplicate_and_another_content_is_a_conflict_once() {
        let mut seen = Seen::default();
        let mut sight = |id, content, at| seen.sight(id, content, at, KEEP);
        assert_eq!(sight(1, 10, 0), Sighting::New);
        assert_eq!(sight(1, 10, 1), Sighting::Duplicate);
        assert_eq!(sight(1, 11, 2), Sighting::Conflict);
        assert_eq!(sight(1, 12, 3), Sighting::Conflict);
        // A batch that is published twice, ids and all.
        assert_eq!([sight(1, 10, 4), sight(1, 11, 4), sight(1, 12, 4)], [Sighting::Duplicate; 3]);
        assert_eq!(sight(1, 10, KEEP + 4_000), Sighting::New, "forgotten");
    }

    proptest! {
        /// Against the slow model, cut into commits and restarted anywhere: a print is held for `KEEP`, and the first
        /// content of an id as long as any other.
        #[test]
        fn what_is_recognised_does_not_depend_on_the_commits(
            steps in prop::collection::vec((0u64..6, 0u32..4, 0i64..120_000, 0u8..4), 1..120),
        ) {
            let mut seen = Seen::default();
            let mut rows = BTreeMap::new();
            let mut model: BTreeMap<u64, Vec<(u32, i64)>> = BTreeMap::new();
            let mut at = 1_000_000_000;
            for (id, content, pause, what) in steps {
                at += pause;
                let second = at.div_euclid(1000);
                let oldest = (at - KEEP).div_euclid(1000);
                let id = (id + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
                let contents = model.entry(id).or_default();
                if contents.iter().all(|(_, last)| *last < oldest) {
                    contents.clear();
                }
                let held = |(n, (c, last)): (usize, &(u32, i64))| *c == content && (n == 0 || *last >= oldest);
                let expect = match contents.first() {
                    None => Sighting::New,
                    Some(_) if contents.iter().enumerate().any(held) => Sighting::Duplicate,
                    Some(_) => Sighting::Conflict,
                };
                prop_assert_eq!(seen.sight(id, content, at, KEEP), expect);
                if expect != Sighting::Duplicate {
                    contents.retain(|(c, _)| *c != content);
                    contents.push((content, second));
                }
                if what > 0 {
                    let (new, gone) = seen.seal(at, KEEP);
                    rows.extend(new);
                    for number in gone {
                        prop_assert!(rows.remove(&number).is_some());
                    }
                }
                if what > 2 {
                    seen = Seen::from_packs(rows.clone().into_iter().collect());
                }
            }
        }
    }
}
