//! Publishes login events for somebody who waits: what became of each record is told, record by record.
//!
//! ```text
//! hand_over([record, …]) ──▶ Handed: one answer for all of them, when the cluster has taken or refused each
//! ```
//!
//! Idempotent, `acks=all`, no transaction. A record that was not confirmed in time may have been written all the same, as
//! whoever sends it again must know. Nothing here reads a clock; deliveries are told by [`Deliverer::poll`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use tokio::sync::oneshot;

use super::client::{ANSWER_MAX, create, partitions, trace_error, trace_line};
use super::{ClientOptions, Error, ffi};
use crate::event::Millis;

/// Most records that wait for their delivery.
pub const DELIVERIES_MAX: usize = 100_000;
/// One wait for deliveries at a stop.
const STEP: Duration = Duration::from_millis(10);

/// A record to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

/// Why a record is not known to be on its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// The cluster refuses it for what it is, and would again.
    TooLarge,
    /// The cluster did not confirm it; sent again later it may be taken.
    Unavailable,
}

/// What became of each record that was handed over together: `None` is written on all in-sync replicas.
pub type Outcomes = Vec<Option<Undelivered>>;

/// A producer whose deliveries are waited for.
pub struct Deliverer {
    producer: BaseProducer<Telling>,
}

impl std::fmt::Debug for Deliverer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliverer").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Deliverer {
    /// A producer; the cluster is not asked yet. What the cluster does not confirm within `patience` is told as
    /// unavailable.
    ///
    /// # Errors
    /// [`Error::Setup`]: librdkafka refuses a property.
    pub fn new(client: &ClientOptions, patience: Duration) -> Result<Self, Error> {
        let patience = patience.as_millis().to_string();
        let mut defaults = DEFAULTS.to_vec();
        // A request may take as long as a delivery, and no longer.
        defaults.push(("request.timeout.ms", &patience));
        let mut fixed = FIXED.to_vec();
        fixed.push(("message.timeout.ms", &patience));
        let config = client.config(&defaults, &fixed)?;
        Ok(Deliverer { producer: create(&config, Telling)? })
    }

    /// Whether the topic exists and may be written; waits for the cluster's answer.
    ///
    /// # Errors
    /// [`Error::Setup`] with what to do; [`Error::Kafka`]: the cluster does not answer.
    pub fn check(&self, topic: &str) -> Result<(), Error> {
        partitions(self.producer.client(), topic, ANSWER_MAX).map(drop)
    }

    /// Hands over records with one timestamp, the arrival of all of them, and does not wait. The answer comes when the
    /// last of them was confirmed or given up; it never comes when this producer is dropped first.
    pub fn hand_over(&self, topic: &str, records: &[Outgoing], timestamp: Millis) -> oneshot::Receiver<Outcomes> {
        let (tell, told) = oneshot::channel();
        let batch = Arc::new(Batch {
            left: AtomicUsize::new(records.len()),
            outcomes: Mutex::new((vec![None; records.len()], Some(tell))),
        });
        if records.is_empty() {
            batch.tell();
        }
        for (index, outgoing) in records.iter().enumerate() {
            let mut headers = OwnedHeaders::new_with_capacity(outgoing.headers.len());
            for (key, value) in &outgoing.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let ticket = Box::new(Ticket { batch: Arc::clone(&batch), index });
            let record = BaseRecord::with_opaque_to(topic, ticket)
                .key(outgoing.key.as_slice())
                .payload(outgoing.value.as_slice())
                .headers(headers)
                .timestamp(timestamp);
            if let Err((error, back)) = self.producer.send(record) {
                back.delivery_opaque.told(Some(undelivered(&error)));
            }
        }
        told
    }

    /// Tells deliveries for at most `wait`. To be called without pause.
    pub fn poll(&self, wait: Duration) {
        self.producer.poll(wait);
    }

    /// Records that wait for their delivery.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or_default()
    }

    /// Why this producer can deliver nothing any more, and another one is needed.
    #[must_use]
    pub fn fatal(&self) -> Option<String> {
        self.producer.client().fatal_error().map(|(code, why)| format!("{code}: {why}"))
    }

    /// Tells what is still in flight, for at most `limit`; gives how many were left.
    pub fn drain(&self, limit: Duration) -> usize {
        for _ in 0..=limit.as_millis() / STEP.as_millis() {
            if self.in_flight() == 0 {
                break;
            }
            ffi::nudge(&self.producer);
            self.producer.poll(STEP);
        }
        self.in_flight()
    }
}

/// Records that are answered for together.
#[derive(Debug)]
struct Batch {
    left: AtomicUsize,
    outcomes: Mutex<(Outcomes, Option<oneshot::Sender<Outcomes>>)>,
}

impl Batch {
    fn tell(&self) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, tell) = &mut *outcomes;
        if let Some(tell) = tell.take() {
            // Who asked may have gone; the records are where they are all the same.
            drop(tell.send(std::mem::take(all)));
        }
    }
}

/// The place of one record among those of its batch.
#[derive(Debug)]
struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

impl Ticket {
    fn told(&self, why: Option<Undelivered>) {
        if why.is_some() {
            let mut outcomes = self.batch.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = outcomes.0.get_mut(self.index) {
                *outcome = why;
            }
        }
        if self.batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.batch.tell();
        }
    }
}

fn undelivered(error: &KafkaError) -> Undelivered {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) => Undelivered::TooLarge,
        Some(_) | None => Undelivered::Unavailable,
    }
}

/// Tells deliveries to their batches, and librdkafka's lines to `tracing`.
#[derive(Debug)]
struct Telling;

impl ClientContext for Telling {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        trace_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        trace_error(&error, reason);
    }
}

impl ProducerContext for Telling {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        ticket.told(result.as_ref().err().map(|(error, _)| undelivered(error)));
    }
}

const FIXED: &[(&str, &str)] =
    &[("enable.idempotence", "true"), ("acks", "all"), ("allow.auto.create.topics", "false")];

const DEFAULTS: &[(&str, &str)] = &[
    // As every Java client chooses, so that one key has one partition whoever wrote it.
    ("partitioner", "murmur2_random"),
    ("compression.codec", "lz4"),
    // Somebody waits for each record.
    ("linger.ms", "2"),
    ("queue.buffering.max.messages", "100000"),
    ("queue.buffering.max.kbytes", "262144"),
    // A record is at most a megabyte; the topic may be set to take less.
    ("message.max.bytes", "2097152"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_limit_is_the_one_that_is_set() {
        assert!(DEFAULTS.contains(&("queue.buffering.max.messages", DELIVERIES_MAX.to_string().as_str())));
    }

    #[test]
    fn each_record_is_told_and_a_cluster_that_is_away_is_told_in_time() {
        let deliverer = Deliverer::new(&ClientOptions::new("127.0.0.1:1"), Duration::from_millis(1_000)).unwrap();
        let record = |bytes: usize| Outgoing { key: b"k".to_vec(), value: vec![b'x'; bytes], headers: Vec::new() };
        let mut none = deliverer.hand_over("t", &[], 0);
        assert_eq!(none.try_recv(), Ok(Vec::new()));
        let mut told = deliverer.hand_over("t", &[record(1), record(5 << 20), record(2)], 0);
        assert_eq!(deliverer.drain(Duration::from_secs(30)), 0);
        let (away, large) = (Some(Undelivered::Unavailable), Some(Undelivered::TooLarge));
        assert_eq!(told.try_recv(), Ok(vec![away.clone(), large, away]));
    }
}
