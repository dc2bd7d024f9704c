//! What is remembered about one entity over one window.

use serde::{Deserialize, Serialize};

use super::slices::{Slices, slice_width};
use super::{Distinct, Hashed};
use crate::event::Millis;

/// One attempt as a tally hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub at: Millis,
    /// A failure that counts: by a stranger, and not a repeat of the same wrong password.
    pub failed: bool,
    /// Keyed hash of the account, when a name was given.
    pub account: Option<Hashed>,
    /// Keyed hash of the source, for tallies of networks and accounts.
    pub source: Option<Hashed>,
}

/// Counts, distinct accounts and distinct sources of one entity over one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    over_ms: Millis,
    /// Attempts that count, see [`Tally::attempts_and_failures`], and the failures among them.
    counts: Slices<2>,
    accounts: Distinct,
    sources: Distinct,
}

impl Tally {
    #[must_use]
    pub fn new(over_ms: Millis) -> Self {
        Tally { over_ms, counts: Slices::new(over_ms), accounts: Distinct::default(), sources: Distinct::default() }
    }

    #[must_use]
    pub const fn over_ms(&self) -> Millis {
        self.over_ms
    }

    /// Counts an attempt. `false`: it lies before the entity's window.
    pub fn hear(&mut self, heard: Heard) -> bool {
        if !self.counts.add(heard.at, [1, u32::from(heard.failed)]) {
            return false;
        }
        let slice = self.counts.slice_of(heard.at);
        let newest = self.counts.newest().unwrap_or(slice);
        if heard.failed {
            if let Some(account) = heard.account {
                self.accounts.add(account, slice, newest);
            }
            if let Some(source) = heard.source {
                self.sources.add(source, slice, newest);
            }
        }
        true
    }

    /// Attempts in the window that ends with the entity's newest slice, and the failures among them. Failures are those
    /// of strangers; the successes beside them are anybody's, each account's counted once in a while.
    #[must_use]
    pub fn attempts_and_failures(&self) -> (u64, u64) {
        let [attempts, failures] = self.counts.sums(self.newest());
        (attempts, failures)
    }

    /// Distinct accounts among the failures.
    #[must_use]
    pub fn accounts_failed(&self) -> u64 {
        self.accounts.count(self.newest())
    }

    /// Distinct sources among the failures.
    #[must_use]
    pub fn sources(&self) -> u64 {
        self.sources.count(self.newest())
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
