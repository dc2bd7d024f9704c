//! What became of every event, as counters. Per committed batch, so a rolled-back batch is not counted twice.
//!
//! Invariant: `events in = counted + not counted by outcome + late + duplicates + dead letters`.

use crate::event::Outcome;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// Names of the engine's counters; metric `portcullis_<name>_total`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Counter { $($(#[$doc])* $name),+ }
        impl Counter {
            pub const ALL: &'static [Counter] = &[$(Counter::$name),+];
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Counter::$name => $text),+ } }
        }
    };
}
counters! {
    /// Records of the input topic.
    EventsIn = "events_in",
    /// Checked attempts that entered the windows: successes and failures.
    Counted = "events_counted",
    /// Stopped, unknown or the site's own fault, or no login: they feed no failure count.
    NotCounted = "events_not_counted",
    Late = "events_late",
    Duplicates = "events_duplicate",
    DeadLetters = "events_dead_lettered",
    /// One id with different contents; processed, and in one of the sums above as well.
    ConflictingIds = "conflicting_ids",
    /// Enum names that this build does not know.
    UnknownNames = "unknown_names",
    /// `occurred_at` that lay ahead of arrival and was set to it.
    Ahead = "events_ahead",
    Successes = "successes",
    Failures = "failures",
    Stopped = "stopped",
    Verdicts = "verdicts",
    ShadowVerdicts = "shadow_verdicts",
    /// Blocklist entries written, prolonged ones included: those that block, and those that do less.
    Blocks = "blocks",
    Restrictions = "restrictions",
    /// Tombstones written.
    Lifts = "lifts",
    /// A playbook found somebody whom an exemption or the address itself protects.
    Spared = "spared",
    /// Findings on attempts too old to block for.
    TooOldToEnforce = "too_old_to_enforce",
    /// Findings of a playbook that had restricted as many as its cap allows.
    Capped = "capped",
    /// Entities lifted because people who had logged in from there before were refused.
    RolledBack = "rolled_back",
    /// Changes of control that could not be applied: an exemption that is no such thing, or one too many.
    RefusedControl = "refused_control",
    /// Changes of playbooks that do not pass their checks: what was in effect stays. Each is counted once.
    PlaybooksRejected = "playbooks_rejected",
    BrokenItems = "broken_items",
    /// Look-ups of a source in the files of networks that found something.
    NetworksFound = "networks_found",
    NetworksNotFound = "networks_not_found",
}

const N: usize = Counter::ALL.len();

/// Counts of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts([u64; N]);

impl Counts {
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.0[counter as usize] += n;
    }

    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    pub fn merge(&mut self, other: &Counts) {
        for (sum, n) in self.0.iter_mut().zip(other.0) {
            *sum += n;
        }
    }

    /// Counters that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::ALL.iter().map(|c| (*c, self.get(*c))).filter(|(_, n)| *n > 0)
    }

    /// Events that ended in one of the five ways.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        use Counter::{Counted, DeadLetters, Duplicates, Late, NotCounted};
        [Counted, NotCounted, Late, Duplicates, DeadLetters].into_iter().map(|c| self.get(c)).sum()
    }

    /// Takes note of an attempt's outcome.
    pub fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Success => self.add(Counter::Successes, 1),
            Outcome::Failure => self.add(Counter::Failures, 1),
            Outcome::Blocked | Outcome::Challenged => self.add(Counter::Stopped, 1),
            Outcome::Unknown => {}
        }
    }
}
