//! A sliding window as a list of attempts: it ends with the newest twentieth in which the entity was seen, and holds
//! twenty of them. Counting is scanning.

use std::collections::{BTreeMap, BTreeSet};

use super::frames::Source;
use super::{GRACE_MS, Millis};

/// Twentieths of a window.
const SLICES: i64 = 20;
/// More different ones than this are estimated by the engine; a workload stays below.
const EXACT_MAX: usize = 128;

/// One attempt that counts.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Millis,
    pub failed: bool,
    pub account: Option<String>,
    pub source: Option<Source>,
}

#[derive(Debug, Clone)]
pub struct Window {
    width: Millis,
    heard: Vec<Heard>,
}

pub fn width_of(over: Millis) -> Millis {
    // Rounded up, so that twenty of them are no shorter than the window.
    (over + SLICES - 1) / SLICES
}

impl Window {
    pub fn new(over: Millis) -> Window {
        Window { width: width_of(over), heard: Vec::new() }
    }

    /// The newest twentieth in which something was heard.
    pub fn newest(&self) -> Option<i64> {
        self.heard.iter().map(|heard| self.slice(heard.at)).max()
    }

    fn slice(&self, at: Millis) -> i64 {
        at.div_euclid(self.width)
    }

    pub fn hear(&mut self, heard: Heard) {
        let slice = self.slice(heard.at);
        if self.newest().is_some_and(|newest| slice <= newest - SLICES) {
            return;
        }
        self.heard.push(heard);
        // What has left the window never comes back: its end only moves on.
        let newest = self.newest().unwrap_or(slice);
        let width = self.width;
        self.heard.retain(|heard| heard.at.div_euclid(width) > newest - SLICES);
    }

    pub fn attempts(&self) -> usize {
        self.heard.len()
    }

    /// Those of the window that ends with twentieth `last`.
    pub fn attempts_until(&self, last: Option<i64>) -> usize {
        let last = last.unwrap_or(0);
        self.heard.iter().map(|heard| self.slice(heard.at)).filter(|s| *s > last - SLICES && *s <= last).count()
    }

    pub fn failures(&self) -> usize {
        self.heard.iter().filter(|heard| heard.failed).count()
    }

    pub fn accounts_failed(&self) -> usize {
        exact(self.heard.iter().filter(|heard| heard.failed).filter_map(|heard| heard.account.as_ref()))
    }

    pub fn sources(&self) -> usize {
        exact(self.heard.iter().filter(|heard| heard.failed).filter_map(|heard| heard.source))
    }

    /// First and last millisecond (exclusive).
    pub fn span(&self) -> (Millis, Millis) {
        let end = (self.newest().unwrap_or(0) + 1) * self.width;
        (end - SLICES * self.width, end)
    }
}

fn exact<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    let different = values.collect::<BTreeSet<T>>().len();
    assert!(different <= EXACT_MAX, "a workload for the oracle has at most {EXACT_MAX} different ones in a window");
    different
}

/// Windows of one entity, by their lengths.
#[derive(Debug, Clone, Default)]
pub struct Windows(BTreeMap<Millis, Window>);

impl Windows {
    pub fn hear(&mut self, lengths: impl Iterator<Item = Millis>, heard: &Heard) {
        for over in lengths.collect::<BTreeSet<Millis>>() {
            self.0.entry(over).or_insert_with(|| Window::new(over)).hear(heard.clone());
        }
    }

    pub fn of(&self, over: Millis) -> Option<&Window> {
        self.0.get(&over)
    }
}

/// How long after its last change an entity with such windows is remembered.
pub fn memory(lengths: impl Iterator<Item = Millis>) -> Millis {
    lengths.map(|over| over + 2 * width_of(over) + GRACE_MS).max().unwrap_or(0)
}
