//! What a sink's edge confirmed, on its way to the topic `receipts`. It never holds up enforcement: what finds no room
//! waits in the sink, where a later receipt of the same entry takes its place; without the topic or the registry nothing
//! is sent until they are there.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::Connection;
use crate::edge::{Adapter, Said, Sink};
use crate::event::wire::{Encoder, Format, SchemaIds};
use crate::event::{Millis, Receipt};
use crate::log::publish::Publisher;
use crate::log::registry::{RegistryOptions, register_outputs};

/// Most receipts that wait for their delivery.
const IN_FLIGHT_MAX: usize = 20_000;
/// Most that are handed over between two looks at the edge.
const BATCH_MAX: usize = 5_000;
/// How long the last ones may take when a sink ends.
const LAST_MAX: Duration = Duration::from_secs(2);
/// Between two tries to reach the topic and the registry.
const RETRY: Duration = Duration::from_secs(10);

/// How receipts are encoded.
#[derive(Debug, Clone, Default)]
pub struct ReceiptOptions {
    pub format: Format,
    /// Where the schema gets its id in Avro; without one the id is that of the bundled schemas.
    pub registry: Option<RegistryOptions>,
}

/// How receipts stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReceiptStatus {
    /// The topic can be written.
    pub open: bool,
    pub delivered: u64,
    /// Receipts that the cluster has not taken; they are told again.
    pub failed: u64,
}

/// Sends receipts.
#[derive(Debug)]
pub(super) struct Sender {
    publisher: Arc<Publisher>,
    topic: String,
    sink: String,
    ready: Receiver<Encoder>,
    encoder: Option<Encoder>,
    /// Failed deliveries that the sink was told of.
    failed: u64,
}

impl Sender {
    /// Looks for the topic, and in Avro for the schema's id, on a thread of its own: a sink does not wait for them.
    ///
    /// # Errors
    /// The settings do not make a producer.
    pub(super) fn start(connection: &Connection, options: ReceiptOptions, sink: String) -> anyhow::Result<Sender> {
        let publisher = Arc::new(Publisher::new(&connection.client)?);
        let topic = connection.topics.public("receipts");
        let (tell, ready) = sync_channel(1);
        let (asks, of, prefix) = (Arc::downgrade(&publisher), topic.clone(), connection.topics.prefix().to_owned());
        let seek = move || {
            // Whoever wanted to know may have ended.
            while let Some(publisher) = asks.upgrade() {
                match open(&publisher, &of, &options, &prefix) {
                    Ok(encoder) => return drop(tell.send(encoder)),
                    Err(e) => tracing::warn!(error = %format!("{e:#}"), "no receipts until this is put right"),
                }
                drop(publisher);
                thread::park_timeout(RETRY);
            }
        };
        thread::Builder::new().name("receipts".to_owned()).spawn(seek).context("a thread for receipts")?;
        Ok(Sender { publisher, topic, sink, ready, encoder: None, failed: 0 })
    }

    /// Hands over what the sink has to tell and there is room for; whether there is more and room for it.
    ///
    /// # Errors
    /// The client is beyond repair.
    pub(super) fn send<A: Adapter>(&mut self, sink: &mut Sink<A>, now: Millis) -> anyhow::Result<bool> {
        self.publisher.poll(Duration::ZERO);
        if self.encoder.is_none() {
            match self.ready.try_recv() {
                Ok(encoder) => self.encoder = Some(encoder),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(false),
            }
        }
        let Some(encoder) = &self.encoder else { return Ok(false) };
        let failed = self.publisher.deliveries().failed;
        if failed > self.failed {
            self.failed = failed;
            sink.receipts_lost();
        }
        let room = IN_FLIGHT_MAX.saturating_sub(self.publisher.in_flight()).min(BATCH_MAX);
        if room == 0 || !sink.owes_receipts() {
            return Ok(false);
        }
        for said in sink.receipts(now, room) {
            let key = format!("{}|{}", self.sink, said.key);
            let value = encoder.encode("receipts", &receipt(&self.sink, said, now)).map_err(anyhow::Error::msg)?;
            self.publisher.send(&self.topic, Some(key.as_bytes()), &value, now)?;
        }
        Ok(sink.owes_receipts())
    }

    pub(super) fn status(&self) -> ReceiptStatus {
        let deliveries = self.publisher.deliveries();
        ReceiptStatus { open: self.encoder.is_some(), delivered: deliveries.delivered, failed: deliveries.failed }
    }

    /// Waits a little for the last ones.
    pub(super) fn finish(self) {
        if let Err(e) = self.publisher.flush(LAST_MAX) {
            tracing::warn!(error = %e, "the last receipts may be lost; they are told again at the next start");
        }
    }
}

fn open(publisher: &Publisher, topic: &str, options: &ReceiptOptions, prefix: &str) -> anyhow::Result<Encoder> {
    publisher.check(topic)?;
    let ids = match &options.registry {
        Some(registry) if options.format == Format::Avro => register_outputs(registry, prefix)?,
        Some(_) | None => SchemaIds::default(),
    };
    Encoder::new(options.format, ids).map_err(anyhow::Error::msg)
}

fn receipt(sink: &str, said: Said, now: Millis) -> Receipt {
    Receipt {
        sink: sink.to_owned(),
        key: said.key.to_string(),
        generation: said.generation,
        outcome: said.outcome,
        applied_at: now,
        detail: said.detail.map(|detail| detail.into_owned()),
    }
}
