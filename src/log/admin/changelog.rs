//! Reads a changelog partition for those who compare and never work: no group, no state, from a beginning to an end.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::log::client::{ANSWER_MAX, Traced, create, partitions};
use crate::log::follow::FOLLOW_GROUP;
use crate::log::{ClientOptions, Error, Part};

const POLL: Duration = Duration::from_millis(100);
/// Polls without a record before a reader gives up: longer than a transaction can hang.
const STILL_POLLS_MAX: u32 = 600;

/// Takes one record: offset, key, and value (or `None` for a removal).
pub type TakeRecord<'a> = dyn FnMut(i64, &[u8], Option<&[u8]>) + 'a;

/// A reader of changelogs.
pub struct ChangelogReader {
    client: ClientOptions,
    /// Asks for ends that count open transactions.
    asker: BaseConsumer<Traced>,
}

impl std::fmt::Debug for ChangelogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangelogReader").field("client", &self.client).finish_non_exhaustive()
    }
}

impl ChangelogReader {
    /// A connection; the cluster is not asked yet.
    ///
    /// # Errors
    /// [`Error::Setup`]: librdkafka refuses a property.
    pub fn new(client: &ClientOptions) -> Result<Self, Error> {
        let asker = create(&config(client, "read_uncommitted")?, Traced)?;
        Ok(ChangelogReader { client: client.clone(), asker })
    }

    /// Partitions of a topic.
    ///
    /// # Errors
    /// It does not exist, this user may not see it, or the cluster does not answer.
    pub fn partitions(&self, topic: &str) -> Result<i32, Error> {
        partitions(self.asker.client(), topic, ANSWER_MAX)
    }

    /// First and next offset of a partition, with what lies in open transactions.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn ends(&self, part: &Part) -> Result<(i64, i64), Error> {
        let ends = self.asker.fetch_watermarks(&part.topic, part.partition, ANSWER_MAX);
        ends.map_err(|e| Error::Kafka(format!("{part}: the cluster does not say where it ends: {e}")))
    }

    /// Gives every committed record from one offset to before another: offset, key, value.
    ///
    /// # Errors
    /// It cannot be read to there, or `each` fails.
    pub fn read(&self, part: &Part, (from, to): (i64, i64), each: &mut TakeRecord<'_>) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        let broken = |e: KafkaError| Error::Kafka(format!("reading {part}: {e}"));
        let reader: BaseConsumer<Traced> = create(&config(&self.client, "read_committed")?, Traced)?;
        let mut start = TopicPartitionList::new();
        start.add_partition_offset(&part.topic, part.partition, Offset::Offset(from)).map_err(broken)?;
        reader.assign(&start).map_err(broken)?;
        let mut still = 0;
        while still < STILL_POLLS_MAX {
            match reader.poll(POLL) {
                Some(Ok(message)) => {
                    still = 0;
                    if message.offset() < to {
                        each(message.offset(), message.key().unwrap_or_default(), message.payload());
                    }
                    if message.offset() + 1 < to {
                        continue;
                    }
                }
                Some(Err(error)) => return Err(broken(error)),
                None => still += 1,
            }
            // Markers and what compaction took are never delivered, and the position moves over them.
            let position = reader.position().map_err(broken)?;
            let at = position.find_partition(&part.topic, part.partition).map(|element| element.offset());
            if matches!(at, Some(Offset::Offset(at)) if at >= to) {
                return Ok(());
            }
        }
        Err(Error::Kafka(format!(
            "reading {part}: nothing came for {} s before offset {to}; is a transaction left open on it? \
             (kafka-transactions.sh find-hanging)",
            (POLL * STILL_POLLS_MAX).as_secs()
        )))
    }
}

fn config(client: &ClientOptions, isolation: &str) -> Result<rdkafka::ClientConfig, Error> {
    client.config(
        &[
            ("group.id", FOLLOW_GROUP),
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.message.max.bytes", "4194304"),
            ("queued.max.messages.kbytes", "65536"),
        ],
        &[
            ("isolation.level", isolation),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
        ],
    )
}
