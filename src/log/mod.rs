//! The Kafka side: the stage loop over one small trait, with two implementations.
//!
//! [`StageLoop`] is *poll → step → produce → commit* and knows no Kafka client: it speaks [`Log`], which rdkafka
//! ([`kafka::KafkaLog`]) and a log in memory ([`memory::MemoryLog`]) implement. Rebalances and outcomes arrive as
//! values. Nothing here is async.

pub mod admin;
mod client;
mod committer;
pub mod deliver;
mod ffi;
pub mod follow;
pub mod kafka;
mod member;
pub mod memory;
pub mod metric;
pub mod model;
mod opening;
pub mod options;
mod outbox;
mod progress;
pub mod publish;
pub mod range;
pub mod registry;
mod stage;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

pub use client::{ClientOptions, Traced, create, trace_error, trace_line};
pub use outbox::{Outbox, Wiring};
pub use progress::{Progress, Snapshot, TaskProgress};
pub use stage::{Clock, Parts, Schemas, StageLoop, StageOptions, subscription};
pub use tasks::Stores;

use crate::engine::Key;
use crate::event::Millis;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    pub part: Part,
    pub offset: i64,
    pub timestamp: Millis,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Incoming {
    /// The last header of a name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(held, _)| held == name).map(|(_, value)| value.as_slice())
    }
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: Arc<str>,
    /// `None`: by the key, as every Kafka client does (murmur2).
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

/// What polling brought.
#[derive(Debug)]
pub enum Polled {
    Record(Incoming),
    /// These partitions are ours, once [`Log::assign`] says from where.
    Assigned(Vec<Part>),
    /// These partitions go to somebody else, once [`Log::release`] lets go. `lost`: they are gone already.
    Revoked {
        parts: Vec<Part>,
        lost: bool,
    },
    /// Nothing for now.
    Idle,
}

/// How a commit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// For each changelog partition written in it, the offset after its last record.
    Committed(Vec<(Part, i64)>),
    /// Nothing of it is visible; the transaction is over.
    Aborted(String),
    /// It may have happened. [`Log::written`] tells, once [`Log::recreate`] has ended every doubt.
    Unknown(String),
}

/// What ends a loop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another instance uses the transactional id of this one: {0}; give each instance its own state_dir")]
    Fenced(String),
    #[error("kafka: {0}")]
    Kafka(String),
    #[error("{0}")]
    Setup(String),
    /// A step panicked: the loop goes back and tries again, and sets the item aside when that does not help.
    #[error("{place}: a step panicked: {words}")]
    Panicked { place: Place, words: String },
    #[error(transparent)]
    State(#[from] crate::state::Error),
}

/// What a step was woken by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A record, and which item of it.
    Item {
        part: Part,
        offset: i64,
        item: usize,
    },
    Due {
        part: Part,
        at: Millis,
        what: Key,
    },
    Tick {
        part: Part,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Item { part, offset, item } => write!(f, "{part} offset {offset} item {item}"),
            Place::Due { part, at, what } => write!(f, "{part} due at {at}: {what:?}"),
            Place::Tick { part } => write!(f, "{part} tick"),
        }
    }
}

/// How long one look waits for the end of a commit that nothing can go on without.
const OUTCOME_LOOK: Duration = Duration::from_millis(50);

/// The log as the loop needs it. One owner; one open transaction at a time. Its calls wait for their answers, but for a
/// commit, which takes long and beside which steps go on.
pub trait Log: Send {
    /// Waits at most `wait` for something.
    ///
    /// # Errors
    /// The log is broken for good: a missing offset, a fatal client error.
    fn poll(&mut self, wait: Duration) -> Result<Polled, Error>;

    /// Starts reading partitions from the given offsets.
    ///
    /// # Errors
    /// The client refuses.
    fn assign(&mut self, parts: &[(Part, i64)]) -> Result<(), Error>;

    /// Lets go of partitions after a revoke.
    ///
    /// # Errors
    /// The client refuses.
    fn release(&mut self, parts: &[Part]) -> Result<(), Error>;

    /// The group's committed offsets; waits out transactions that are still open on them.
    ///
    /// # Errors
    /// The coordinator does not answer in time.
    fn committed(&mut self, parts: &[Part]) -> Result<Vec<Option<i64>>, Error>;

    /// The same, and of each whether the last commit that was asked of this log is what wrote it. The offset alone does not
    /// tell: a new owner may have come to the same one.
    ///
    /// # Errors
    /// The coordinator does not answer in time.
    fn written(&mut self, parts: &[Part]) -> Result<Vec<(Option<i64>, bool)>, Error>;

    /// Puts a record into the open transaction; opens one when none is.
    ///
    /// # Errors
    /// The client refuses for good.
    fn send(&mut self, record: Outgoing) -> Result<(), Error>;

    /// Begins to end the transaction with these input offsets in it. Until [`Log::outcome`] has told how it ended, nothing
    /// is sent and nothing else is begun; reading goes on.
    ///
    /// # Errors
    /// The client is beyond repair.
    fn commit(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error>;

    /// How the commit under way ended, once; `None` while that is not known, after waiting at most `wait`.
    ///
    /// # Errors
    /// [`Error::Fenced`], or the client is beyond repair.
    fn outcome(&mut self, wait: Duration) -> Result<Option<Outcome>, Error>;

    /// Commits and waits for the end of it.
    ///
    /// # Errors
    /// As [`Log::commit`] and [`Log::outcome`].
    fn commit_now(&mut self, offsets: &[(Part, i64)]) -> Result<Outcome, Error> {
        self.commit(offsets)?;
        loop {
            if let Some(outcome) = self.outcome(OUTCOME_LOOK)? {
                return Ok(outcome);
            }
        }
    }

    /// Drops the open transaction.
    ///
    /// # Errors
    /// The producer cannot be brought back.
    fn abort(&mut self) -> Result<(), Error>;

    /// Replaces the producer by a new one of the same transactional id, which ends whatever the old one left open.
    ///
    /// # Errors
    /// The new one does not come up.
    fn recreate(&mut self) -> Result<(), Error>;

    /// Goes back to offsets.
    ///
    /// # Errors
    /// The client refuses.
    fn seek(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error>;

    /// Partitions of a topic; `None` when it does not exist.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, Error>;

    /// The first offset that a partition still holds.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn beginning(&mut self, part: &Part) -> Result<i64, Error>;

    /// How many records of each partition that is being read were not polled yet, as far as was heard. Markers of
    /// transactions may be among them.
    fn lags(&self) -> Vec<(Part, i64)>;

    /// The end of a partition that is being read, as last heard; it may have been heard long ago. `None`: nothing was.
    fn heard_end(&self, part: &Part) -> Option<i64>;

    /// Begins to read a changelog partition, committed records only, from `from` up to the end that it has now, counting
    /// open transactions as well.
    ///
    /// # Errors
    /// The cluster does not answer, or the partition ends before `from`.
    fn restore(&mut self, part: &Part, from: i64) -> Result<(), Error>;

    /// Hands over some of what the restores under way have brought, and says how far each is. Waits at most `wait` for
    /// something. A restore that is at its end is over, and is named for the last time.
    ///
    /// # Errors
    /// One cannot be read to its end, or `each` fails.
    fn restored(&mut self, wait: Duration, each: &mut RestoreEach<'_>) -> Result<Vec<Restored>, Error>;

    /// Ends a restore before its end.
    fn end_restore(&mut self, part: &Part);

    /// Leaves the group. Partitions must have been released.
    fn close(&mut self);
}

/// Takes one restored record: its partition, key, and value (or `None` for a removal).
pub type RestoreEach<'a> = dyn FnMut(&Part, &[u8], Option<&[u8]>) -> Result<(), Error> + 'a;

/// How far a restore is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub part: Part,
    /// The offset up to which everything was handed over.
    pub next: i64,
    /// Where it is done.
    pub end: i64,
}

impl Restored {
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.next >= self.end
    }
}

/// A store that is ahead of its changelog belongs to another one.
fn check_start(part: &Part, from: i64, end: i64) -> Result<(), Error> {
    if from <= end {
        return Ok(());
    }
    Err(Error::Setup(format!(
        "{part}: the state folder was written up to offset {from}, but this changelog ends at {end}; it belongs to another \
         cluster, or the topic was made anew. Remove the task's folder to restore it from this changelog"
    )))
}
