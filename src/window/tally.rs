//! What is remembered about one entity over one window.

use serde::{Deserialize, Serialize};

use super::slices::{SLICES, Slices, slice_width};
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
    /// Attempts of strangers, and the failures among them.
    counts: Slices<2>,
    accounts: Distinct,
    sources: Distinct,
}

/// A tally read off at its newest slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub attempts: u64,
    pub failures: u64,
    pub accounts_failed: u64,
    pub sources: u64,
    pub window_start: Millis,
    pub window_end: Millis,
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

    /// Totals of the window that ends with the entity's newest slice.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let newest = self.counts.newest().unwrap_or_default();
        let [attempts, failures] = self.counts.sums(newest);
        let (window_start, window_end) = self.counts.span(newest);
        Totals {
            attempts,
            failures,
            accounts_failed: self.accounts.count(newest),
            sources: self.sources.count(newest),
            window_start,
            window_end,
        }
    }

    /// When nothing in it counts any more, were the entity never seen again.
    #[must_use]
    pub fn ends_at(&self) -> Millis {
        let newest = self.counts.newest().unwrap_or_default();
        (newest + 1 + SLICES).saturating_mul(slice_width(self.over_ms))
    }
}

/// Most repeated failures of one source that are remembered one by one.
pub const REPEATS_MAX: usize = 64;

/// The same wrong password counts once: equal (pair, tag), or without a tag equal (pair, minute).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Repeats {
    /// Keyed hashes, oldest first.
    recent: Vec<Hashed>,
}

impl Repeats {
    /// Whether this failure repeats a remembered one; remembers it. Beyond [`REPEATS_MAX`] the oldest is forgotten,
    /// and a repeat of that one counts: a source with so many different failures is no forgetful user.
    pub fn is_repeat(&mut self, failure: Hashed) -> bool {
        if self.recent.contains(&failure) {
            return true;
        }
        if self.recent.len() == REPEATS_MAX {
            self.recent.remove(0);
        }
        self.recent.push(failure);
        false
    }
}
