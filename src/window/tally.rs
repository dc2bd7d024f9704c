//! What is remembered about one entity over one window.

use serde::{Deserialize, Serialize};

use super::slices::{Slices, slice_width};
use super::{Distinct, Hashed};
use crate::event::Millis;
use crate::topology::{Set, Window};

/// What an attempt was to those who hear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A failure that counts; whether on a name that belongs to nobody.
    Failed { unknown: bool },
    /// A success; whether of a stranger to the account.
    Succeeded { strange: bool },
    /// Something besides a login.
    Asked,
}

/// One attempt as a tally hears it.
#[derive(Clone, Copy)]
pub struct Heard<'a> {
    pub at: Millis,
    pub kind: Kind,
    /// The keyed hash of what the attempt adds to a set; `None` when it says nothing of it.
    pub member: &'a dyn Fn(Set) -> Option<Hashed>,
}

impl std::fmt::Debug for Heard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heard").field("at", &self.at).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Counts and distinct members of one entity over one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    over_ms: Millis,
    /// Which window of this length, see [`Window::id`].
    id: u32,
    /// Attempts that count, see [`Tally::attempts_and_failures`], and the failures among them.
    counts: Slices<2>,
    /// Failures on names that belong to nobody, and requests, where somebody asks for them.
    more: Option<Slices<2>>,
    sets: Vec<(Set, Distinct)>,
}

impl Tally {
    #[must_use]
    pub fn new(window: &Window) -> Self {
        Tally {
            over_ms: window.over_ms,
            id: window.id,
            counts: Slices::new(window.over_ms),
            more: None,
            sets: Vec::new(),
        }
    }

    /// Whether it is the tally of this window.
    #[must_use]
    pub const fn is_of(&self, window: &Window) -> bool {
        self.over_ms == window.over_ms && self.id == window.id
    }

    /// Counts an attempt. `false`: it lies before the entity's window.
    pub fn hear(&mut self, window: &Window, heard: &Heard<'_>) -> bool {
        let (attempts, failed, unknown) = match heard.kind {
            Kind::Failed { unknown } => (1, 1, u32::from(unknown)),
            Kind::Succeeded { .. } => (1, 0, 0),
            Kind::Asked => (0, 0, 0),
        };
        if !self.counts.add(heard.at, [attempts, failed]) {
            return false;
        }
        if window.counts_more {
            let asked = u32::from(heard.kind == Kind::Asked);
            self.more.get_or_insert_with(|| Slices::new(window.over_ms)).add(heard.at, [unknown, asked]);
        }
        let slice = self.counts.slice_of(heard.at);
        let newest = self.counts.newest().unwrap_or(slice);
        for set in window.sets.iter().filter(|set| takes(**set, heard.kind)) {
            let Some(member) = (heard.member)(*set) else { continue };
            let place = self.sets.iter().position(|(held, _)| held == set).unwrap_or_else(|| {
                self.sets.push((*set, Distinct::default()));
                self.sets.len() - 1
            });
            if let Some((_, members)) = self.sets.get_mut(place) {
                members.add(member, slice, newest);
            }
        }
        true
    }

    /// Adds sums, where single attempts are not known. `false`: they lie before the entity's window.
    pub fn add(&mut self, at: Millis, attempts: u32, failures: u32) -> bool {
        self.counts.add(at, [attempts, failures])
    }

    /// Attempts in the window that ends with the entity's newest slice, and the failures among them. Failures are those
    /// of strangers; the successes beside them are anybody's, each account's counted once in a while.
    #[must_use]
    pub fn attempts_and_failures(&self) -> (u64, u64) {
        let [attempts, failures] = self.counts.sums(self.newest());
        (attempts, failures)
    }

    /// Failures on names that belong to nobody, and requests.
    #[must_use]
    pub fn unknown_and_asked(&self) -> (u64, u64) {
        let [unknown, asked] = self.more.as_ref().map(|more| more.sums(self.newest())).unwrap_or_default();
        (unknown, asked)
    }

    /// Distinct members of a set.
    #[must_use]
    pub fn distinct(&self, set: Set) -> u64 {
        let members = self.sets.iter().find(|(held, _)| *held == set);
        members.map_or(0, |(_, members)| members.count(self.newest()))
    }

    /// First and last millisecond (exclusive) of the window.
    #[must_use]
    pub fn span(&self) -> (Millis, Millis) {
        self.counts.span(self.newest())
    }

    fn newest(&self) -> i64 {
        self.counts.newest().unwrap_or_default()
    }
}

/// Whether an attempt of this kind can add to a set.
const fn takes(set: Set, kind: Kind) -> bool {
    match (set, kind) {
        (Set::AccountsAsked, Kind::Asked) | (Set::AccountsEntered, Kind::Succeeded { strange: true }) => true,
        (Set::AccountsAsked | Set::AccountsEntered, _) => false,
        (Set::UnknownAccounts, Kind::Failed { unknown }) => unknown,
        (_, Kind::Failed { .. }) => true,
        (_, Kind::Succeeded { .. } | Kind::Asked) => false,
    }
}

/// How long after an attempt that was not late its window can matter, were the entity never seen again: the window,
/// the slice in which it began, and the time another attempt may be on its way.
#[must_use]
pub fn memory_ms(over_ms: Millis, grace_ms: Millis) -> Millis {
    over_ms.saturating_add(2 * slice_width(over_ms)).saturating_add(grace_ms)
}

/// Most repeated attempts of one source that are remembered one by one.
pub const REPEATS_MAX: usize = 64;

/// The same wrong password counts once: equal (pair, tag), or without a tag equal (pair, minute). So does a stranger
/// who logs in again and again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Repeats {
    /// Keyed hashes, oldest first.
    recent: Vec<Hashed>,
}

impl Repeats {
    /// Whether this attempt repeats a remembered one; remembers it. Beyond [`REPEATS_MAX`] the oldest is forgotten,
    /// and a repeat of that one counts: a source with so many different failures is no forgetful user.
    pub fn is_repeat(&mut self, attempt: Hashed) -> bool {
        if self.recent.contains(&attempt) {
            return true;
        }
        if self.recent.len() == REPEATS_MAX {
            self.recent.remove(0);
        }
        self.recent.push(attempt);
        false
    }
}
