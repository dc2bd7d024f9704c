//! From effects to records: frames for the stages, encoded records for the public topics, dead letters. They are held until
//! a transaction takes them, and while one is being committed there is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Error, Incoming, Log, Outgoing};
use crate::engine::frame::FrameWriter;
use crate::engine::{Became, BlockChange, Item, Output, PlaybookNews};
use crate::event::wire::Encoder;
use crate::event::{Entity, Reject};
use crate::topology::{Stage, Topics};

/// Names and encodings of everything that is written.
#[derive(Debug)]
pub struct Wiring {
    pub topics: Topics,
    pub encoder: Encoder,
    /// Partitions of the input of each stage behind intake.
    pub partitions: BTreeMap<Stage, i32>,
}

impl Wiring {
    fn partitions_of(&self, stage: Stage) -> i32 {
        self.partitions.get(&stage).copied().unwrap_or(1).max(1)
    }
}

/// Largest part of a bad record that a dead letter keeps.
pub(super) const DEAD_LETTER_BYTES_MAX: usize = 256 << 10;

/// Public topics that the stages write.
pub(super) const OUTPUTS: [&str; 8] = [
    "verdicts", "blocklist", "attack-status", "incidents", "incident-details", "activity", "known-pairs",
    "login-events-dlq",
];

/// Collects what steps bring about until the log takes it.
#[derive(Debug)]
pub struct Outbox {
    wiring: Arc<Wiring>,
    frames: BTreeMap<(Stage, i32), FrameWriter>,
    inputs: BTreeMap<Stage, Arc<str>>,
    names: BTreeMap<&'static str, Arc<str>>,
    held: Vec<Outgoing>,
    /// Bytes of records put in since the last commit began.
    bytes: usize,
}

impl Outbox {
    #[must_use]
    pub fn new(wiring: Arc<Wiring>) -> Self {
        let inputs = Stage::ALL.into_iter().map(|stage| (stage, wiring.topics.input(stage).into())).collect();
        let names = OUTPUTS.into_iter().map(|name| (name, wiring.topics.public(name).into())).collect();
        Outbox { wiring, frames: BTreeMap::new(), inputs, names, held: Vec::new(), bytes: 0 }
    }

    fn topic(&self, name: &'static str) -> Arc<str> {
        self.names.get(name).cloned().unwrap_or_else(|| name.into())
    }

    /// Carries out one effect; `cause` is the record it came from.
    ///
    /// # Errors
    /// A record does not fit its schema.
    pub fn put(&mut self, output: Output, cause: Option<&Incoming>) -> Result<(), Error> {
        match output {
            Output::Item { to, route, item } => {
                let partition = (route % self.wiring.partitions_of(to) as u64) as i32;
                self.item(to, partition, &item);
                Ok(())
            }
            Output::MarkAll { to, mark } => {
                let item = Item::Mark(mark);
                (0..self.wiring.partitions_of(to)).for_each(|p| self.item(to, p, &item));
                Ok(())
            }
            Output::Verdict(verdict) => {
                let key = Entity {
                    tenant: verdict.tenant.as_str().into(),
                    scope: verdict.scope,
                    value: verdict.value.as_str().into(),
                };
                self.record("verdicts", key.key(), Some(&*verdict), Vec::new())
            }
            Output::Block(change) => self.block(&change),
            Output::Status(status) => {
                let key = status.tenant.clone();
                self.record("attack-status", key, Some(&*status), Vec::new())
            }
            Output::Incident(incident) => {
                let key = incident.incident_id.clone();
                self.record("incidents", key, Some(&*incident), Vec::new())
            }
            Output::Detail(detail) => self.record("incident-details", detail.key(), Some(&*detail), Vec::new()),
            Output::Activity(slice) => {
                let key = slice.tenant.clone();
                self.record("activity", key, Some(&*slice), Vec::new())
            }
            Output::KnownPair(pair) => {
                let topic = self.topic("known-pairs");
                let (key, value) = (Some(pair.key.to_be_bytes().to_vec()), pair.value().map(|day| day.to_vec()));
                self.hold(Outgoing { topic, partition: None, key, value, headers: Vec::new() });
                Ok(())
            }
            Output::Playbook(news) => {
                tell(&news, cause);
                Ok(())
            }
            Output::DeadLetter(letter) => match cause {
                Some(record) => {
                    self.dead_letter(&letter.reject, Stage::Intake, record, None);
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    fn item(&mut self, to: Stage, partition: i32, item: &Item) {
        let frame = self.frames.entry((to, partition)).or_default();
        frame.push(item);
        if frame.is_full() {
            let value = frame.finish();
            self.frame(to, partition, value);
        }
    }

    fn frame(&mut self, to: Stage, partition: i32, value: Vec<u8>) {
        if let Some(topic) = self.inputs.get(&to).cloned() {
            self.hold(Outgoing {
                topic,
                partition: Some(partition),
                key: None,
                value: Some(value),
                headers: Vec::new(),
            });
        }
    }

    fn hold(&mut self, record: Outgoing) {
        self.bytes += record.value.as_ref().map_or(0, Vec::len);
        self.held.push(record);
    }

    /// Hands over what is held: full frames, and records.
    ///
    /// # Errors
    /// The log refuses a record for good.
    pub fn hand_over(&mut self, log: &mut dyn Log) -> Result<(), Error> {
        self.held.drain(..).try_for_each(|record| log.send(record))
    }

    /// Hands over everything, frames that are not full as well: a commit follows, and a new count of bytes.
    ///
    /// # Errors
    /// The log refuses a record for good.
    pub fn flush(&mut self, log: &mut dyn Log) -> Result<(), Error> {
        let begun: Vec<((Stage, i32), Vec<u8>)> = self
            .frames
            .iter_mut()
            .filter(|(_, frame)| !frame.is_empty())
            .map(|(place, frame)| (*place, frame.finish()))
            .collect();
        begun.into_iter().for_each(|((to, partition), value)| self.frame(to, partition, value));
        self.bytes = 0;
        self.hand_over(log)
    }

    /// Bytes of records that the next commit is to hold.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets everything: what brought it about is done once more.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.held.clear();
        self.bytes = 0;
    }

    fn block(&mut self, change: &BlockChange) -> Result<(), Error> {
        let key = change.entity.key();
        match change.entry() {
            Some(entry) => self.record("blocklist", key, Some(&entry), Vec::new()),
            None => {
                let generation = change.generation().to_string().into_bytes();
                let headers = vec![("generation", generation), ("cause", change.cause.as_bytes().to_vec())];
                self.record::<()>("blocklist", key, None, headers)
            }
        }
    }

    fn record<T: serde::Serialize>(
        &mut self,
        name: &'static str,
        key: String,
        record: Option<&T>,
        headers: Vec<(&'static str, Vec<u8>)>,
    ) -> Result<(), Error> {
        let value = record.map(|r| self.wiring.encoder.encode(name, r)).transpose();
        let value = value.map_err(|e| Error::Setup(e.to_string()))?;
        let topic = self.topic(name);
        self.hold(Outgoing { topic, partition: None, key: Some(key.into_bytes()), value, headers });
        Ok(())
    }

    /// Sets a record, or one item of a frame, aside with its reason and where it came from.
    pub fn dead_letter(&mut self, reject: &Reject, stage: Stage, record: &Incoming, item: Option<&[u8]>) {
        let value = item.or(record.value.as_deref());
        let length = value.map_or(0, <[u8]>::len);
        let kept = value.map(|v| v.get(..DEAD_LETTER_BYTES_MAX).unwrap_or(v).to_vec());
        let headers = vec![
            ("reason", reject.reason.as_str().as_bytes().to_vec()),
            ("detail", reject.detail.as_bytes().to_vec()),
            ("stage", stage.as_str().as_bytes().to_vec()),
            ("topic", record.part.topic.as_bytes().to_vec()),
            ("partition", record.part.partition.to_string().into_bytes()),
            ("offset", record.offset.to_string().into_bytes()),
            ("length", length.to_string().into_bytes()),
        ];
        let topic = self.topic("login-events-dlq");
        self.hold(Outgoing { topic, partition: None, key: record.key.clone(), value: kept, headers });
    }
}

/// Where a change of a playbook begins to be in effect, for people: from this record of the task's input on.
fn tell(news: &PlaybookNews, cause: Option<&Incoming>) {
    let from = cause.map_or_else(|| "what falls due".to_owned(), |record| format!("{}@{}", record.part, record.offset));
    let (playbook, change) = (&*news.key, news.offset);
    match &news.became {
        Became::InEffect(what) => tracing::info!(playbook, change, from, what, "playbook changed"),
        Became::Removed => tracing::info!(playbook, change, from, "change of a playbook removed"),
        Became::Ended => tracing::info!(playbook, change, from, "override of a playbook ended"),
        Became::Rejected(why) => tracing::warn!(playbook, change, from, why, "change of a playbook not taken"),
        Became::LeftOut(why) => tracing::warn!(playbook, change, from, why, "change of a playbook left out"),
    }
}
