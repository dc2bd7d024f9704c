//! Reads whole topics without a group: from the start, to the end that they had at start, and then on.
//!
//! ```text
//! new ──▶ Record … Record ──▶ CaughtUp ──▶ Record … Idle … Record …
//! ```
//!
//! The end is that of the committed records, so an open transaction is not waited for. Records that are not delivered
//! (aborted ones, markers of transactions, what compaction took) count as read: what is compared is the position, not
//! the last offset seen. A broker that is away is waited for; what was read stays as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{ANSWER_MAX, Names, Traced, create, incoming, partitions};
use super::{ClientOptions, Error, Incoming, Part};

/// The name that these readers give as their group. They never join it and commit nothing to it; the client library
/// wants one, and asks the cluster who coordinates it.
pub const FOLLOW_GROUP: &str = "portcullis-follow";

/// How long the cluster may take for an answer while reading goes on: what is fed by it waits as long.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// One wait for a record, and how many that bring none are waited for before the cluster is given up.
const WAIT: Duration = Duration::from_millis(100);
const WAITS_MAX: u32 = 300;
/// While behind, positions are looked at when nothing comes, and after so many records.
const RECORDS_BETWEEN_LOOKS: u32 = 1_000;
/// After so many polls without a record while behind, the cluster is asked whether the ends still hold.
const IDLE_POLLS_BETWEEN_ENDS: u32 = 20;

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    Start,
    /// What is there already is passed over.
    End,
}

/// What polling brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Followed {
    Record(Incoming),
    /// Everything that was there at start has been given out. Told once.
    CaughtUp,
    /// Nothing for now.
    Idle,
}

/// A reader of every partition of some topics.
pub struct Follower {
    consumer: BaseConsumer<Traced>,
    topics: Vec<String>,
    names: Names,
    /// Partitions that are read, by topic.
    partitions: BTreeMap<String, i32>,
    /// Partitions not read to the end that they had at start, with that end.
    behind: BTreeMap<Part, i64>,
    told_caught_up: bool,
    records_since_look: u32,
    idle_polls: u32,
    /// Failures that were told to be waited out, since start.
    failures: u64,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("topics", &self.topics).field("behind", &self.behind).finish_non_exhaustive()
    }
}

impl Follower {
    /// Assigns every partition of the topics and asks for their ends.
    ///
    /// # Errors
    /// [`Error::Setup`] with what to do: a topic is missing or may not be read, a property is refused. [`Error::Kafka`]:
    /// the cluster does not answer.
    pub fn new(client: &ClientOptions, topics: &[String], from: ReadFrom) -> Result<Self, Error> {
        let config = client.config(DEFAULTS, FIXED)?;
        let mut follower = Follower {
            consumer: create(&config, Traced)?,
            topics: topics.to_vec(),
            names: Names::default(),
            partitions: BTreeMap::new(),
            behind: BTreeMap::new(),
            told_caught_up: false,
            records_since_look: 0,
            idle_polls: 0,
            failures: 0,
        };
        let mut start = TopicPartitionList::new();
        for topic in topics {
            let count = partitions(follower.consumer.client(), topic, ANSWER_MAX)?;
            follower.partitions.insert(topic.clone(), count);
            for partition in 0..count {
                let part = Part { topic: follower.names.get(topic), partition };
                let (low, high) = follower.ends(&part, ANSWER_MAX)?;
                let offset = match from {
                    ReadFrom::Start => Offset::Beginning,
                    ReadFrom::End => Offset::Offset(high),
                };
                start.add_partition_offset(topic, partition, offset).map_err(|e| broken(&e))?;
                if from == ReadFrom::Start && low < high {
                    follower.behind.insert(part, high);
                }
            }
        }
        follower.consumer.assign(&start).map_err(|e| broken(&e))?;
        Ok(follower)
    }

    /// Reads to the end that the topics had at the start, and hands each record on.
    ///
    /// # Errors
    /// As [`Follower::poll`]; [`Error::Kafka`] also when half a minute brings nothing; whatever `take` says.
    pub fn to_end<E: From<Error>>(&mut self, mut take: impl FnMut(&Incoming) -> Result<(), E>) -> Result<(), E> {
        let mut waits = 0;
        loop {
            match self.poll(WAIT)? {
                Followed::Record(record) => {
                    waits = 0;
                    take(&record)?;
                }
                Followed::CaughtUp => return Ok(()),
                Followed::Idle => waits += 1,
            }
            if waits > WAITS_MAX {
                let topics = self.topics.join(", ");
                return Err(Error::Kafka(format!("{topics}: the cluster does not give what is held there")).into());
            }
        }
    }

    /// Waits at most `wait` for something. Failures that pass are told in the log and waited out.
    ///
    /// # Errors
    /// The client is beyond repair.
    pub fn poll(&mut self, wait: Duration) -> Result<Followed, Error> {
        if self.behind.is_empty() && !self.told_caught_up {
            self.told_caught_up = true;
            return Ok(Followed::CaughtUp);
        }
        let record = match self.consumer.poll(wait) {
            Some(Ok(message)) => Some(incoming(&message, &mut self.names)),
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => return Err(Error::Kafka(code.to_string())),
            Some(Err(_)) => {
                // The client's context has told it with its reason.
                self.failures += 1;
                None
            }
            None => None,
        };
        match record {
            Some(record) => {
                self.pass(&record);
                Ok(Followed::Record(record))
            }
            None => {
                self.wait_for_ends()?;
                Ok(Followed::Idle)
            }
        }
    }

    /// Looks for partitions that were added to the topics since, and reads them from their start. To be called now and
    /// then.
    ///
    /// # Errors
    /// The cluster does not answer, or a topic is gone; what is read already stays so.
    pub fn refresh(&mut self) -> Result<(), Error> {
        for topic in self.topics.clone() {
            let known = self.partitions.get(&topic).copied().unwrap_or_default();
            let count = partitions(self.consumer.client(), &topic, LOOK_MAX)?;
            if count <= known {
                continue;
            }
            let mut added = TopicPartitionList::new();
            for partition in known..count {
                added.add_partition_offset(&topic, partition, Offset::Beginning).map_err(|e| broken(&e))?;
            }
            self.consumer.incremental_assign(&added).map_err(|e| broken(&e))?;
            tracing::info!(topic, partitions = count, "partitions were added");
            self.partitions.insert(topic, count);
        }
        Ok(())
    }

    /// Partitions that have not been read to the end that they had at start.
    #[must_use]
    pub fn behind(&self) -> usize {
        self.behind.len()
    }

    /// Failures that were waited out, since start.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        self.failures
    }

    fn pass(&mut self, record: &Incoming) {
        self.idle_polls = 0;
        if self.behind.is_empty() {
            return;
        }
        if self.behind.get(&record.part).is_some_and(|end| record.offset + 1 >= *end) {
            self.behind.remove(&record.part);
        }
        self.records_since_look += 1;
        if self.records_since_look >= RECORDS_BETWEEN_LOOKS {
            self.look_at_positions();
        }
    }

    fn wait_for_ends(&mut self) -> Result<(), Error> {
        if self.behind.is_empty() {
            return Ok(());
        }
        self.look_at_positions();
        self.idle_polls += 1;
        if self.idle_polls >= IDLE_POLLS_BETWEEN_ENDS {
            self.idle_polls = 0;
            self.look_at_ends();
        }
        Ok(())
    }

    /// Positions move over what is never delivered.
    fn look_at_positions(&mut self) {
        self.records_since_look = 0;
        let positions = match self.consumer.position() {
            Ok(positions) => positions,
            Err(e) => {
                tracing::debug!(error = %e, "no positions");
                return;
            }
        };
        for element in positions.elements() {
            // A partition of which nothing was read yet has no position.
            let Offset::Offset(position) = element.offset() else { continue };
            let part = Part { topic: self.names.get(element.topic()), partition: element.partition() };
            if self.behind.get(&part).is_some_and(|end| position >= *end) {
                self.behind.remove(&part);
            }
        }
    }

    /// An end may never be reached by reading: what lay before it was deleted since, or the log was cut by the loss of a
    /// broker.
    fn look_at_ends(&mut self) {
        let parts: Vec<Part> = self.behind.keys().cloned().collect();
        for part in parts {
            let (low, high) = match self.ends(&part, LOOK_MAX) {
                Ok(ends) => ends,
                Err(e) => {
                    tracing::warn!(error = %e, partition = %part, "waiting for the cluster");
                    return;
                }
            };
            let Some(end) = self.behind.get_mut(&part) else { continue };
            *end = high.min(*end);
            if low >= *end {
                self.behind.remove(&part);
            } else {
                tracing::info!(partition = %part, end = *end, "still reading what was there at start");
            }
        }
    }

    /// The first offset of a partition, and the end of its committed records.
    fn ends(&self, part: &Part, limit: Duration) -> Result<(i64, i64), Error> {
        let ends = self.consumer.fetch_watermarks(&part.topic, part.partition, limit);
        ends.map_err(|e| Error::Kafka(format!("{part}: the cluster does not say where it ends: {e}")))
    }
}

pub(super) fn broken(error: &KafkaError) -> Error {
    Error::Kafka(error.to_string())
}

pub(super) const FIXED: &[(&str, &str)] = &[
    ("isolation.level", "read_committed"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // The end is recognised by positions, which an event for it would not move.
    ("enable.partition.eof", "false"),
    // What was deleted before it was read is gone; reading goes on with what is there.
    ("auto.offset.reset", "earliest"),
];

pub(super) const DEFAULTS: &[(&str, &str)] = &[
    ("group.id", FOLLOW_GROUP),
    // Per partition.
    ("queued.max.messages.kbytes", "4096"),
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "100"),
    ("reconnect.backoff.max.ms", "2000"),
];
