//! Where the past comes from: a file of login events, or a range of the topic.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::app::input::{FormatArgs, open};
use crate::engine::Raw;
use crate::event::Millis;
use crate::event::wire::{Encoding, WriterSchema, encoding_of};
use crate::ingest::Input;
use crate::log::range::{RangeReader, Ranged};
use crate::log::{ClientOptions, Schemas};
use crate::topology::networks::Networks;

/// One wait for a record, and how many that bring none are waited for before the cluster is given up: a minute.
const WAIT: Duration = Duration::from_millis(100);
const WAITS_MAX: u32 = 600;

/// One record of the past, as intake would have taken it.
#[derive(Debug)]
pub struct Record {
    value: Option<Vec<u8>>,
    schema_header: Option<Vec<u8>>,
    writer: Option<Arc<WriterSchema>>,
    traceparent: Option<String>,
    /// When it arrived.
    pub arrived_at: Millis,
}

impl Record {
    /// A record of a file: JSON, or Avro by the bundled schema.
    #[must_use]
    pub fn of_file(value: Vec<u8>, arrived_at: Millis) -> Self {
        let writer = Some(Arc::new(WriterSchema::Bundled));
        Record { value: Some(value), schema_header: None, writer, traceparent: None, arrived_at }
    }

    /// As a step takes it. Its arrival is its clock: the past is long over.
    #[must_use]
    pub fn raw<'a>(&'a self, tenant: Option<&'a str>, networks: &'a Networks) -> Raw<'a> {
        Raw {
            value: self.value.as_deref(),
            schema_header: self.schema_header.as_deref(),
            writer: self.writer.as_deref(),
            traceparent: self.traceparent.as_deref(),
            timestamp: self.arrived_at,
            clock: self.arrived_at,
            tenant,
            networks: Some(networks),
        }
    }
}

/// The past, one record at a time, in the order of arrival.
pub(super) struct History {
    records: Box<dyn Iterator<Item = Result<Record>>>,
    /// How much there is: bytes of a file, offsets of a topic.
    pub(super) length: Option<u64>,
    pub(super) is_topic: bool,
    read: Rc<Cell<u64>>,
}

impl History {
    /// A file, in the order of arrival; what lies outside of `from` to `to` is left out.
    pub(super) fn of_file(path: &Path, format: &FormatArgs, from: Millis, to: Millis, now: Millis) -> Result<History> {
        let (input, length, read) = open(path)?;
        let name = path.display().to_string();
        let mut last = 0;
        let arrived = move |event: io::Result<Input>| {
            let event = event.with_context(|| format!("reading {name}"))?;
            last = event.arrival.unwrap_or(last);
            Ok(Record::of_file(event.value, last))
        };
        let records = format.reader(input, now).map(arrived).filter(move |record| is_within(record, from, to));
        Ok(History { records: Box::new(records), length, is_topic: false, read })
    }

    /// A range of a topic.
    pub(super) fn of_topic(
        client: &ClientOptions,
        topic: &str,
        from: Millis,
        to: Millis,
        schemas: Arc<dyn Schemas>,
    ) -> Result<History> {
        let mut reader = RangeReader::new(client, topic, from, to)?;
        let (length, read) = (Some(reader.offsets()), Rc::new(Cell::new(0)));
        let counted = Rc::clone(&read);
        let records = std::iter::from_fn(move || next(&mut reader, &*schemas, &counted).transpose());
        Ok(History { records: Box::new(records), length, is_topic: true, read })
    }

    /// How much of it is behind: bytes of a file, records of a topic.
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        self.records.next().transpose()
    }
}

fn is_within(record: &Result<Record>, from: Millis, to: Millis) -> bool {
    // A failure passes, and ends the reading.
    record.as_ref().map_or(true, |record| (from..to).contains(&record.arrived_at))
}

fn next(reader: &mut RangeReader, schemas: &dyn Schemas, read: &Cell<u64>) -> Result<Option<Record>> {
    let record = loop {
        match reader.poll(WAIT)? {
            Ranged::Record(record) => break record,
            Ranged::End => return Ok(None),
            Ranged::Idle if reader.idle_polls() < WAITS_MAX => {}
            Ranged::Idle => bail!("nothing came from the cluster for a minute; is it up?"),
        }
    };
    read.set(read.get() + 1);
    let schema_header = record.header("__value_schema_id").map(<[u8]>::to_vec);
    let writer = match encoding_of(record.value.as_deref(), schema_header.as_deref()) {
        Ok(Encoding::Avro { schema_id, .. }) => schemas.writer(schema_id),
        Ok(Encoding::Json { .. }) | Err(_) => None,
    };
    let traceparent = record.header("traceparent").and_then(|header| std::str::from_utf8(header).ok());
    Ok(Some(Record {
        traceparent: traceparent.map(str::to_owned),
        arrived_at: record.timestamp,
        value: record.value,
        schema_header,
        writer,
    }))
}
