//! Names of the loop's metrics, in one place. Counters are raised once a commit, by what was committed.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, gauge, histogram};

use crate::engine::{Counter, Counts};

const COMMIT_SECONDS: &str = "portcullis_commit_seconds";
const PHASE_SECONDS: &str = "portcullis_commit_phase_seconds";
const COMMITS: &str = "portcullis_commits_total";

/// A part of a commit, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Ticks, and changed rows on their way to the changelog.
    Prepare,
    /// Until the brokers have every record.
    Drain,
    /// Input offsets into the transaction.
    Offsets,
    /// The end of the transaction.
    End,
    /// Rows into the store.
    Store,
}

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::Drain => "drain",
            Phase::Offsets => "offsets",
            Phase::End => "end",
            Phase::Store => "store",
        }
    }
}

pub(super) fn phase(phase: Phase, took: Duration) {
    histogram!(PHASE_SECONDS, "phase" => phase.as_str()).record(took.as_secs_f64());
}

/// Says what the metrics mean; once a process.
pub fn describe() {
    for counter in Counter::ALL {
        describe_counter!(name(*counter), "see `engine::counts`; raised once a commit by what was committed");
        // There from the start, so that a dashboard shows 0 and not nothing.
        counter!(name(*counter)).increment(0);
    }
    describe_counter!(COMMITS, "transactions committed");
    describe_histogram!(PHASE_SECONDS, metrics::Unit::Seconds, "a part of a commit");
    describe_histogram!(COMMIT_SECONDS, metrics::Unit::Seconds, "from the start of a commit to the rows in the store");
}

pub(super) fn committed(counts: &Counts, took: Duration) {
    for (which, n) in counts.iter() {
        counter!(name(which)).increment(n);
    }
    counter!(COMMITS).increment(1);
    histogram!(COMMIT_SECONDS).record(took.as_secs_f64());
}

fn name(counter: Counter) -> String {
    format!("portcullis_{}_total", counter.as_str())
}

/// Sets the gauges from a snapshot: when somebody asks, not once a commit.
pub fn gauges(snapshot: &super::Snapshot) {
    gauge!("portcullis_tasks").set(snapshot.tasks.len() as f64);
    gauge!("portcullis_tasks_restoring").set(snapshot.restoring.len() as f64);
    for (part, task) in &snapshot.tasks {
        if let Some(lag) = task.lag {
            let labels = [("stage", task.stage.to_owned()), ("part", part.clone())];
            gauge!("portcullis_input_lag_records", &labels).set(lag as f64);
        }
        if let Some(at) = task.stream_time {
            let labels = [("stage", task.stage.to_owned()), ("part", part.clone())];
            gauge!("portcullis_stream_time_seconds", &labels).set(at as f64 / 1000.0);
        }
    }
    counter!("portcullis_aborts_total").absolute(snapshot.aborts);
    counter!("portcullis_unknown_outcomes_total").absolute(snapshot.unknown_outcomes);
    counter!("portcullis_step_panics_total").absolute(snapshot.panics);
    counter!("portcullis_rebalances_total").absolute(snapshot.rebalances);
}
