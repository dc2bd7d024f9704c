//! What arrived in the last quarter of an hour, for looking back: bad attempts (traces), and whom strangers entered. An attack
//! is seen some hundred attempts after it began, and whoever tells of it later wants these as well.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Hashed;
use crate::event::{Millis, Source};

/// For how long it is kept, by arrival.
pub const TRACES_KEPT_MS: Millis = 15 * 60_000;
/// Most traces of one task; beyond it the oldest go early.
pub const TRACES_MAX: usize = 16_384;
/// Most of one row.
const PACK_MAX: usize = 256;

/// Something that is looked back upon.
pub trait Arrived: Clone {
    /// Most of one task.
    const MOST: usize;
    /// Arrival.
    fn at(&self) -> Millis;
    fn tenant(&self) -> &str;
}

/// What a bad attempt was, or one that got in and was found to be bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trial {
    /// It failed; whether on a name that belongs to nobody.
    Failed { unknown: bool },
    /// It repeats a failure, and counts for nothing but an attempt.
    Repeated,
    /// So many were stopped before the password was checked.
    Stopped(u32),
    /// It got in, and was taken for an intruder's. `entered`: just now; an earlier success leaves no attempt.
    Fell { from: Source, entered: bool },
}

/// One bad attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Arrival.
    pub at: Millis,
    pub tenant: Box<str>,
    /// Keyed hash of who it is kept for, and that in clear: a source or an account.
    pub who: Hashed,
    pub value: Box<str>,
    pub trial: Trial,
}

impl Arrived for Trace {
    const MOST: usize = TRACES_MAX;

    fn at(&self) -> Millis {
        self.at
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

/// Traces taken between two checkpoints, or some of them: one row of the state.
pub type TracePack = Vec<Trace>;

/// What one task looks back upon. What it finds never depends on when it committed.
#[derive(Debug)]
pub struct Lately<T> {
    /// Oldest first.
    held: VecDeque<T>,
    /// Rows, with how many of theirs are still held.
    packs: VecDeque<(u64, usize)>,
    /// How many at the end are in no row yet.
    open: usize,
    next_pack: u64,
}

impl<T> Default for Lately<T> {
    fn default() -> Self {
        Lately { held: VecDeque::new(), packs: VecDeque::new(), open: 0, next_pack: 0 }
    }
}

impl<T: Arrived> Lately<T> {
    /// Rebuilds from the rows of the state, in any order of their numbers.
    #[must_use]
    pub fn from_packs(mut packs: Vec<(u64, Vec<T>)>) -> Self {
        packs.sort_by_key(|(number, _)| *number);
        let mut lately = Lately::default();
        for (number, pack) in packs {
            lately.next_pack = number + 1;
            lately.packs.push_back((number, pack.len()));
            lately.held.extend(pack);
        }
        while lately.held.len() > T::MOST {
            lately.drop_oldest();
        }
        lately
    }

    pub fn note(&mut self, one: T) {
        self.held.push_back(one);
        self.open += 1;
        if self.held.len() > T::MOST {
            self.drop_oldest();
        }
    }

    /// A tenant's that arrived at `since` or later, seen from stream time `now`.
    pub fn since<'a>(&'a self, tenant: &'a str, since: Millis, now: Millis) -> impl Iterator<Item = &'a T> {
        let since = since.max(oldest(now));
        self.held.iter().filter(move |one| one.at() >= since && one.tenant() == tenant)
    }

    fn drop_oldest(&mut self) {
        self.held.pop_front();
        match self.packs.iter_mut().find(|(_, held)| *held > 0) {
            Some((_, held)) => *held -= 1,
            None => self.open = self.open.saturating_sub(1),
        }
    }

    /// Packs what was taken since the last time, and drops what is too old at stream time `now`: the new rows, and the
    /// numbers of the rows to remove.
    pub fn seal(&mut self, now: Millis) -> (Vec<(u64, Vec<T>)>, Vec<u64>) {
        // Of several sources of time the order is only nearly that of arrival: what is younger may hide behind what is older.
        while self.held.front().is_some_and(|one| one.at() < oldest(now)) {
            self.drop_oldest();
        }
        let mut sealed = Vec::new();
        let held = self.held.len() - self.open;
        let open: Vec<T> = self.held.iter().skip(held).cloned().collect();
        for pack in open.chunks(PACK_MAX) {
            sealed.push((self.next_pack, pack.to_vec()));
            self.packs.push_back((self.next_pack, pack.len()));
            self.next_pack += 1;
        }
        self.open = 0;
        let mut gone = Vec::new();
        while let Some((number, 0)) = self.packs.front() {
            gone.push(*number);
            self.packs.pop_front();
        }
        (sealed, gone)
    }
}

const fn oldest(now: Millis) -> Millis {
    now.saturating_sub(TRACES_KEPT_MS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn trace(at: Millis, who: Hashed) -> Trace {
        Trace { at, tenant: "t".into(), who, value: who.to_string().into(), trial: Trial::Failed { unknown: false } }
    }

    proptest! {
        /// Against a plain list, cut into commits and restarted anywhere.
        #[test]
        fn what_is_found_does_not_depend_on_the_commits(
            steps in prop::collection::vec((0i64..200_000, 1usize..700, 0u8..4), 1..40),
        ) {
            let mut traces = Lately::default();
            let mut rows = BTreeMap::new();
            let mut model: Vec<Trace> = Vec::new();
            let (mut at, mut who) = (1_000_000_000, 0);
            for (pause, many, what) in steps {
                at += pause;
                for _ in 0..many {
                    who += 1;
                    traces.note(trace(at, who));
                    model.push(trace(at, who));
                }
                if what > 0 {
                    let (new, gone) = traces.seal(at);
                    rows.extend(new);
                    for number in gone {
                        prop_assert!(rows.remove(&number).is_some());
                    }
                }
                if what > 2 {
                    traces = Lately::from_packs(rows.clone().into_iter().collect());
                }
                let newest = model.len().saturating_sub(TRACES_MAX);
                let must: Vec<&Trace> = model[newest..].iter().filter(|t| t.at >= at - TRACES_KEPT_MS).collect();
                let found: Vec<&Trace> = traces.since("t", 0, at).collect();
                prop_assert_eq!(found, must);
                prop_assert_eq!(traces.since("t", at, at).count(), many);
                prop_assert_eq!(traces.since("other", 0, at).count(), 0);
            }
        }
    }

    #[test]
    fn of_very_many_the_newest_are_kept_through_a_restart() {
        let mut traces = Lately::default();
        let mut rows = BTreeMap::new();
        let all = (TRACES_MAX + 700) as u64;
        for who in 0..all {
            traces.note(trace(1_000_000, who));
            if who % 1_000 == 0 {
                let (new, gone) = traces.seal(1_000_000);
                rows.extend(new);
                gone.iter().for_each(|number| drop(rows.remove(number)));
            }
        }
        let (new, gone) = traces.seal(1_000_000);
        rows.extend(new);
        gone.iter().for_each(|number| drop(rows.remove(number)));
        let again = Lately::from_packs(rows.into_iter().collect());
        for held in [&traces, &again] {
            let found: Vec<u64> = held.since("t", 0, 1_000_000).map(|trace| trace.who).collect();
            assert_eq!(found, (700..all).collect::<Vec<_>>());
        }
    }
}
