//! How far the loops are, for people and for probes. Written once a commit, read by `/status`, `/readyz` and metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::Part;
use crate::engine::Counts;
use crate::event::Millis;

/// Shared by all loops of a process.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: Counts,
    tasks: BTreeMap<Part, TaskProgress>,
    restoring: BTreeMap<Part, (i64, i64)>,
    /// Intake partitions that are behind, with their last arrival; those at their end are not listed.
    behind: BTreeMap<Part, Millis>,
    commits: u64,
    aborts: u64,
    unknown: u64,
    panics: u64,
    /// Assignments and revocations.
    rebalances: u64,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskProgress {
    /// `intake`, `source`, `account`, `site` or `control`.
    pub stage: &'static str,
    /// Next input offset, committed.
    pub offset: i64,
    /// Records of its input that were not polled yet; `None` before anything was heard.
    pub lag: Option<i64>,
    /// Highest arrival seen, milliseconds since the epoch.
    pub stream_time: Option<Millis>,
}

/// Everything, for `/status`.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    pub counts: BTreeMap<&'static str, u64>,
    pub tasks: BTreeMap<String, TaskProgress>,
    /// Changelog records read, and how many there are, of tasks that are being restored; then the same of their input
    /// since their last checkpoint, which is replayed.
    pub restoring: BTreeMap<String, (i64, i64)>,
    pub commits: u64,
    pub aborts: u64,
    /// Commits whose outcome had to be read back.
    pub unknown_outcomes: u64,
    /// Steps that panicked.
    pub panics: u64,
    pub rebalances: u64,
}

impl Progress {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner: MutexGuard<'_, Inner> = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut inner)
    }

    /// What became of all events that were committed since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.with(|inner| inner.counts.clone())
    }

    /// Whether at least one task runs and none is being restored.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.with(|inner| !inner.tasks.is_empty() && inner.restoring.is_empty())
    }

    /// Whether every task has polled all of its input, as far as it has heard of it.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.with(|inner| {
            let is_done = |task: &TaskProgress| task.lag == Some(0);
            !inner.tasks.is_empty() && inner.restoring.is_empty() && inner.tasks.values().all(is_done)
        })
    }

    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.with(|inner| Snapshot {
            counts: inner.counts.iter().map(|(counter, n)| (counter.as_str(), n)).collect(),
            tasks: inner.tasks.iter().map(|(part, task)| (part.to_string(), task.clone())).collect(),
            restoring: inner.restoring.iter().map(|(part, of)| (part.to_string(), *of)).collect(),
            commits: inner.commits,
            aborts: inner.aborts,
            unknown_outcomes: inner.unknown,
            panics: inner.panics,
            rebalances: inner.rebalances,
        })
    }

    /// Records read and records to read of all tasks that are being restored or replayed; `None` when there are none.
    #[must_use]
    pub fn restored_of(&self) -> Option<(u64, u64)> {
        self.with(|inner| {
            let sum = |which: fn(&(i64, i64)) -> i64| {
                inner.restoring.values().map(|of| which(of).max(0).unsigned_abs()).sum()
            };
            (!inner.restoring.is_empty()).then(|| (sum(|of| of.0), sum(|of| of.1)))
        })
    }

    pub(super) fn committed(&self, counts: &Counts) {
        self.with(|inner| {
            inner.counts.merge(counts);
            inner.commits += 1;
        });
    }

    pub(super) fn show(&self, tasks: impl IntoIterator<Item = (Part, TaskProgress)>) {
        self.with(|inner| inner.tasks.extend(tasks));
    }

    pub(super) fn aborted(&self) {
        self.with(|inner| inner.aborts += 1);
    }

    pub(super) fn unknown(&self) {
        self.with(|inner| inner.unknown += 1);
    }

    pub(super) fn panicked(&self) {
        self.with(|inner| inner.panics += 1);
    }

    pub(super) fn rebalanced(&self) {
        self.with(|inner| inner.rebalances += 1);
    }

    pub(super) fn opened(&self, part: &Part, task: TaskProgress) {
        self.with(|inner| {
            inner.tasks.insert(part.clone(), task);
        });
    }

    pub(super) fn closed(&self, part: &Part) {
        self.with(|inner| {
            inner.tasks.remove(part);
            inner.restoring.remove(part);
            inner.behind.remove(part);
        });
    }

    /// Says how far the restore of a task is, or the replay of its input that follows.
    pub(super) fn restoring(&self, part: &Part, done: i64, of: i64) {
        self.with(|inner| inner.restoring.insert(part.clone(), (done, of)));
    }

    pub(super) fn restored(&self, part: &Part) {
        self.with(|inner| inner.restoring.remove(part));
    }

    /// Says how far an intake partition is, and gives the time up to which no intake partition of this process has
    /// anything left: its clock where all are at their ends, else the last arrival of the one furthest behind.
    ///
    /// Without this, a partition that is done with its backlog would tell everybody that it is now, while others still
    /// bring attempts of an hour ago.
    pub(super) fn floor(&self, part: &Part, at_end: bool, last_arrival: Millis, clock: Millis) -> Millis {
        self.with(|inner| {
            if at_end {
                inner.behind.remove(part);
            } else {
                inner.behind.insert(part.clone(), last_arrival);
            }
            inner.behind.values().copied().min().unwrap_or(clock).min(clock)
        })
    }
}
