//! Reads one topic from a time to a time, its partitions merged by the times of their records, without a group.
//!
//! ```text
//! new ──▶ Record … Idle … Record ──▶ End
//! ```
//!
//! A partition is read from the first record that is not older than the range to the first that is younger, and
//! [`DISORDER_MS`] beyond, since times within a partition need not ascend; records outside of the range are left out. The
//! one that is oldest among the heads of all partitions is given out first. That needs a head of each, so what one
//! partition is ahead of the others waits here, at most [`HELD_MAX`] records and [`HELD_BYTES_MAX`] of it. Committed records only.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{ANSWER_MAX, Names, Traced, create, incoming, partitions};
use super::follow::{DEFAULTS, FIXED, broken};
use super::{ClientOptions, Error, Incoming};
use crate::event::Millis;

/// Most records of a partition that wait for the other partitions; beyond it the partition is paused.
pub const HELD_MAX: usize = 4_096;
/// The same in bytes of their values.
pub const HELD_BYTES_MAX: usize = 16 << 20;
/// How long after the end of the range a record may stand in its partition and still be found.
pub const DISORDER_MS: Millis = 600_000;
/// Polls in a row that bring nothing before the ends are asked for again: what was to be read may have been deleted.
const IDLE_POLLS_BETWEEN_ENDS: u32 = 20;

/// What polling brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Ranged {
    Record(Incoming),
    /// Nothing for now.
    Idle,
    /// The range is read.
    End,
}

/// A partition that is read.
#[derive(Debug)]
struct Lane {
    /// The offset after the last one that is read; reached: nothing more comes.
    end: i64,
    is_read: bool,
    is_paused: bool,
    held: VecDeque<Incoming>,
    held_bytes: usize,
}

/// A reader of a range of one topic.
pub struct RangeReader {
    consumer: BaseConsumer<Traced>,
    topic: String,
    from: Millis,
    to: Millis,
    names: Names,
    lanes: BTreeMap<i32, Lane>,
    offsets: u64,
    idle_polls: u32,
}

impl std::fmt::Debug for RangeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangeReader").field("topic", &self.topic).field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

impl RangeReader {
    /// Finds where `from` and `to` lie in each partition and begins to read; `to` is not part of the range.
    ///
    /// # Errors
    /// [`Error::Setup`] with what to do: the topic is missing or may not be read, a property is refused. [`Error::Kafka`]:
    /// the cluster does not answer.
    pub fn new(client: &ClientOptions, topic: &str, from: Millis, to: Millis) -> Result<Self, Error> {
        let consumer: BaseConsumer<Traced> = create(&client.config(DEFAULTS, FIXED)?, Traced)?;
        let count = partitions(consumer.client(), topic, ANSWER_MAX)?;
        let mut reader = RangeReader {
            consumer,
            topic: topic.to_owned(),
            from,
            to,
            names: Names::default(),
            lanes: BTreeMap::new(),
            offsets: 0,
            idle_polls: 0,
        };
        let starts = reader.offsets_at(count, from)?;
        let ends = reader.offsets_at(count, to.saturating_add(DISORDER_MS))?;
        let mut assigned = TopicPartitionList::new();
        for partition in 0..count {
            let (low, high) = reader.ends(partition)?;
            // No record is that young: there is nothing to read.
            let start = starts.get(&partition).copied().unwrap_or(high).max(low);
            let end = ends.get(&partition).copied().unwrap_or(high).min(high);
            let is_read = start >= end;
            if !is_read {
                assigned.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(|e| broken(&e))?;
                reader.offsets += (end - start).unsigned_abs();
            }
            reader
                .lanes
                .insert(partition, Lane { end, is_read, is_paused: false, held: VecDeque::new(), held_bytes: 0 });
        }
        reader.consumer.assign(&assigned).map_err(|e| broken(&e))?;
        Ok(reader)
    }

    /// How many offsets are to be read: records, markers of transactions, and what compaction took.
    #[must_use]
    pub const fn offsets(&self) -> u64 {
        self.offsets
    }

    /// Polls in a row that brought nothing.
    #[must_use]
    pub const fn idle_polls(&self) -> u32 {
        self.idle_polls
    }

    /// The next record of the range; [`Ranged::Idle`] when the cluster sends nothing for `wait`. Failures that pass are told in the log and waited out.
    ///
    /// # Errors
    /// The client is beyond repair.
    pub fn poll(&mut self, wait: Duration) -> Result<Ranged, Error> {
        loop {
            while let Some(record) = self.oldest()? {
                if self.from <= record.timestamp && record.timestamp < self.to {
                    return Ok(Ranged::Record(record));
                }
            }
            if self.lanes.values().all(|lane| lane.is_read && lane.held.is_empty()) {
                return Ok(Ranged::End);
            }
            let record = match self.consumer.poll(wait) {
                Some(Ok(message)) => incoming(&message, &mut self.names),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => return Err(Error::Kafka(code.to_string())),
                // The client's context has told an error with its reason.
                Some(Err(_)) | None => {
                    self.look_at_positions()?;
                    return Ok(Ranged::Idle);
                }
            };
            self.idle_polls = 0;
            self.hold(record)?;
        }
    }

    /// The oldest head, once every partition that is not read to its end has one.
    fn oldest(&mut self) -> Result<Option<Incoming>, Error> {
        if self.lanes.values().any(|lane| !lane.is_read && lane.held.is_empty()) {
            return Ok(None);
        }
        let heads = self.lanes.iter().filter_map(|(partition, lane)| Some((lane.held.front()?.timestamp, *partition)));
        let Some((_, partition)) = heads.min() else { return Ok(None) };
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(None) };
        let record = lane.held.pop_front();
        lane.held_bytes -= record.as_ref().map_or(0, size);
        if lane.is_paused && lane.held.len() <= HELD_MAX / 2 && lane.held_bytes <= HELD_BYTES_MAX / 2 {
            lane.is_paused = false;
            let list = one(&self.topic, partition);
            self.consumer.resume(&list).map_err(|e| broken(&e))?;
        }
        Ok(record)
    }

    fn hold(&mut self, record: Incoming) -> Result<(), Error> {
        let partition = record.part.partition;
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        if lane.is_read {
            return Ok(());
        }
        lane.is_read = record.offset + 1 >= lane.end;
        if record.offset < lane.end {
            lane.held_bytes += size(&record);
            lane.held.push_back(record);
        }
        if lane.is_read || lane.held.len() >= HELD_MAX || lane.held_bytes >= HELD_BYTES_MAX {
            lane.is_paused = !lane.is_read;
            let list = one(&self.topic, partition);
            self.consumer.pause(&list).map_err(|e| broken(&e))?;
        }
        Ok(())
    }

    /// Positions move over what is never delivered: aborted records, markers of transactions.
    fn look_at_positions(&mut self) -> Result<(), Error> {
        let positions = self.consumer.position().map_err(|e| broken(&e))?;
        for element in positions.elements() {
            if let Offset::Offset(position) = element.offset()
                && let Some(lane) = self.lanes.get_mut(&element.partition())
            {
                lane.is_read |= position >= lane.end;
            }
        }
        self.idle_polls += 1;
        if self.idle_polls.is_multiple_of(IDLE_POLLS_BETWEEN_ENDS) {
            let unread: Vec<i32> = self.lanes.iter().filter(|(_, lane)| !lane.is_read).map(|(p, _)| *p).collect();
            for partition in unread {
                let Ok((low, high)) = self.ends(partition) else { return Ok(()) };
                if let Some(lane) = self.lanes.get_mut(&partition) {
                    lane.end = lane.end.min(high);
                    lane.is_read |= low >= lane.end;
                }
            }
        }
        Ok(())
    }

    /// The first offset of each partition whose record is not older than a time; none where there is none.
    fn offsets_at(&self, count: i32, at: Millis) -> Result<BTreeMap<i32, i64>, Error> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..count {
            // Times before 1970 mean something else to a broker.
            let offset = Offset::Offset(at.max(0));
            asked.add_partition_offset(&self.topic, partition, offset).map_err(|e| broken(&e))?;
        }
        let found = self.consumer.offsets_for_times(asked, ANSWER_MAX);
        let found = found.map_err(|e| {
            Error::Kafka(format!("{}: the cluster does not say which offset a time has: {e}", self.topic))
        })?;
        let elements = found.elements();
        let offsets = elements.iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
        });
        Ok(offsets.collect())
    }

    fn ends(&self, partition: i32) -> Result<(i64, i64), Error> {
        let ends = self.consumer.fetch_watermarks(&self.topic, partition, ANSWER_MAX);
        ends.map_err(|e| {
            Error::Kafka(format!("{}[{partition}]: the cluster does not say where it ends: {e}", self.topic))
        })
    }
}

fn size(record: &Incoming) -> usize {
    record.value.as_ref().map_or(0, Vec::len)
}

fn one(topic: &str, partition: i32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    list
}
