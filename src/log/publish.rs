//! Publishes login events as any service would: idempotent, no transaction.
//!
//! ```text
//! send … send ──▶ flush ──▶ Deliveries { delivered, failed, … }
//! ```
//!
//! What is in flight is bounded: `send` waits for room. A record that cannot be delivered is counted with the first
//! reason and never stops the others. Nothing here reads a clock; the caller says when a record happened.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use serde::Serialize;

use super::client::{ANSWER_MAX, create, partitions, trace_error, trace_line};
use super::{ClientOptions, Error, ffi};
use crate::event::Millis;

/// Most records that wait for their delivery.
pub const IN_FLIGHT_MAX: usize = 100_000;
/// One wait for room or for deliveries.
const STEP: Duration = Duration::from_millis(10);
/// So many waits for room in a row, and the cluster is taken to be away: 2 minutes, over the time-out of a delivery.
const STEPS_FOR_ROOM_MAX: u32 = 12_000;
/// Longest text that is kept of a failure.
const REASON_BYTES_MAX: usize = 256;

/// What became of the records so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deliveries {
    pub delivered: u64,
    /// Records that the cluster has not taken, or may not have taken.
    pub failed: u64,
    /// Why the first of those failed.
    pub first_failure: Option<String>,
}

/// A producer of login events.
pub struct Publisher {
    producer: BaseProducer<Counts>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("deliveries", &self.deliveries()).finish_non_exhaustive()
    }
}

impl Publisher {
    /// A producer; the cluster is not asked yet.
    ///
    /// # Errors
    /// [`Error::Setup`]: librdkafka refuses a property.
    pub fn new(client: &ClientOptions) -> Result<Self, Error> {
        let config = client.config(DEFAULTS, FIXED)?;
        Ok(Publisher { producer: create(&config, Counts::default())? })
    }

    /// Whether the topic exists and may be written. A topic that is missing would otherwise be waited for.
    ///
    /// # Errors
    /// [`Error::Setup`] with what to do; [`Error::Kafka`]: the cluster does not answer.
    pub fn check(&self, topic: &str) -> Result<(), Error> {
        partitions(self.producer.client(), topic, ANSWER_MAX).map(drop)
    }

    /// Hands over one record; waits while too many are in flight. `timestamp` is the arrival time of the event, in
    /// milliseconds since the epoch.
    ///
    /// # Errors
    /// The client is beyond repair, or there was no room for minutes. A record that is refused by itself is no error: it
    /// is counted.
    pub fn send(&self, topic: &str, key: Option<&[u8]>, value: &[u8], timestamp: Millis) -> Result<(), Error> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(value).timestamp(timestamp);
        record.key = key;
        self.hand_over(record)
    }

    /// As [`send`](Self::send), of a record for a control topic: with headers, and `None` as value for a tombstone.
    ///
    /// # Errors
    /// As there.
    pub fn send_control(
        &self,
        topic: &str,
        key: &[u8],
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
        timestamp: Millis,
    ) -> Result<(), Error> {
        let mut of = OwnedHeaders::new_with_capacity(headers.len());
        for (key, value) in headers {
            of = of.insert(Header { key, value: Some(*value) });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).key(key).headers(of).timestamp(timestamp);
        record.payload = value;
        self.hand_over(record)
    }

    fn hand_over(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), Error> {
        let topic = record.topic;
        for _ in 0..STEPS_FOR_ROOM_MAX {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(STEP);
                }
                Err((KafkaError::MessageProduction(code), _)) if is_of_the_record(code) => {
                    self.counts().fail(&code.to_string());
                    return Ok(());
                }
                Err((e, _)) => return Err(Error::Kafka(format!("{topic}: {e}"))),
            }
        }
        Err(Error::Kafka(format!("{topic}: nothing could be delivered for 2 minutes; is the cluster up?")))
    }

    /// Takes note of deliveries for at most `wait`; with zero, of those that are there. To be called often.
    pub fn poll(&self, wait: Duration) {
        self.producer.poll(wait);
    }

    /// Records that wait for their delivery.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or_default()
    }

    /// What became of the records so far.
    #[must_use]
    pub fn deliveries(&self) -> Deliveries {
        let counts = self.counts();
        Deliveries {
            delivered: counts.delivered.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            first_failure: counts.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Waits until everything was delivered or failed, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Kafka`] when records are still in flight after that.
    pub fn flush(&self, limit: Duration) -> Result<Deliveries, Error> {
        // A poll lasts as long as it says, so their number measures the time.
        let steps = limit.as_millis() / STEP.as_millis();
        for _ in 0..=steps {
            if self.in_flight() == 0 {
                return Ok(self.deliveries());
            }
            ffi::nudge(&self.producer);
            self.producer.poll(STEP);
        }
        match self.in_flight() {
            0 => Ok(self.deliveries()),
            left => Err(Error::Kafka(format!("{left} records were not delivered within {} s", limit.as_secs()))),
        }
    }

    fn counts(&self) -> &Counts {
        self.producer.client().context()
    }
}

/// Whether a record is refused for what it is.
fn is_of_the_record(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidArgument)
}

/// Counts deliveries, and sends librdkafka's lines to `tracing`.
#[derive(Debug, Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Counts {
    fn fail(&self, why: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(why.chars().take(REASON_BYTES_MAX).collect());
        }
    }
}

impl ClientContext for Counts {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        trace_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        trace_error(&error, reason);
    }
}

impl ProducerContext for Counts {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((e, _)) => self.fail(&e.to_string()),
        }
    }
}

const FIXED: &[(&str, &str)] =
    &[("enable.idempotence", "true"), ("acks", "all"), ("allow.auto.create.topics", "false")];

const DEFAULTS: &[(&str, &str)] = &[
    // As every Java client chooses, so that one key has one partition whoever wrote it.
    ("partitioner", "murmur2_random"),
    ("compression.codec", "lz4"),
    ("linger.ms", "5"),
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "65536"),
    ("message.timeout.ms", "60000"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_limit_is_the_one_that_is_set() {
        assert!(DEFAULTS.contains(&("queue.buffering.max.messages", IN_FLIGHT_MAX.to_string().as_str())));
    }

    #[test]
    fn what_cannot_be_delivered_is_counted_with_its_first_reason() {
        let mut client = ClientOptions::new("127.0.0.1:1");
        client.properties.insert("message.timeout.ms".to_owned(), "50".to_owned());
        let publisher = Publisher::new(&client).unwrap();
        publisher.send("t", None, &[b'x'; 2_000_000], 0).unwrap();
        publisher.send("t", Some(b"k"), b"v", 0).unwrap();
        let deliveries = publisher.flush(Duration::from_secs(30)).unwrap();
        assert_eq!((deliveries.delivered, deliveries.failed), (0, 2));
        assert!(deliveries.first_failure.unwrap().contains("size"), "the large one failed first");
    }
}
