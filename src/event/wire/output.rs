//! Records of the output topics as JSON or Avro in Confluent wire format; the same field names either way.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::{Reason, Reject};

/// How output records are encoded (`format` in the settings).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON with the contract's field names.
    #[default]
    Json,
    /// Avro behind a zero byte and a big-endian schema id.
    Avro,
}

/// Ids under which the output schemas are known, by record. Without a registry these are the fixed ones of
/// [`SchemaIds::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaIds {
    pub verdict: u32,
    pub blocklist_entry: u32,
    pub attack_status: u32,
    pub incident: u32,
    pub receipt: u32,
    pub incident_detail: u32,
    pub activity: u32,
}

impl Default for SchemaIds {
    fn default() -> Self {
        SchemaIds {
            verdict: 2,
            blocklist_entry: 3,
            attack_status: 4,
            incident: 5,
            receipt: 6,
            incident_detail: 7,
            activity: 8,
        }
    }
}

/// The bundled schema of every output record, with what it is called in a registry.
pub const OUTPUT_SCHEMAS: [(&str, &str); 7] = [
    ("verdicts", include_str!("../../../schemas/verdict.avsc")),
    ("blocklist", include_str!("../../../schemas/blocklist-entry.avsc")),
    ("attack-status", include_str!("../../../schemas/attack-status.avsc")),
    ("incidents", include_str!("../../../schemas/incident.avsc")),
    ("receipts", include_str!("../../../schemas/receipt.avsc")),
    ("incident-details", include_str!("../../../schemas/incident-detail.avsc")),
    ("activity", include_str!("../../../schemas/activity.avsc")),
];

/// Writes output records.
#[derive(Debug)]
pub struct Encoder {
    format: Format,
    ids: [u32; OUTPUT_SCHEMAS.len()],
    schemas: [Schema; OUTPUT_SCHEMAS.len()],
}

impl Encoder {
    /// An encoder over the bundled schemas.
    ///
    /// # Errors
    /// A bundled schema does not parse: the build is broken.
    pub fn new(format: Format, ids: SchemaIds) -> Result<Self, Reject> {
        let parse = |i: usize| {
            Schema::parse_str(OUTPUT_SCHEMAS[i].1).map_err(|e| Reject::new(Reason::BrokenAvro, e.to_string()))
        };
        Ok(Encoder {
            format,
            ids: [
                ids.verdict, ids.blocklist_entry, ids.attack_status, ids.incident, ids.receipt, ids.incident_detail,
                ids.activity,
            ],
            schemas: [parse(0)?, parse(1)?, parse(2)?, parse(3)?, parse(4)?, parse(5)?, parse(6)?],
        })
    }

    /// Encodes a record of the topic `topic` (its name without prefix, as in [`OUTPUT_SCHEMAS`]).
    ///
    /// # Errors
    /// The record does not fit its schema: a defect of this build.
    pub fn encode<T: Serialize>(&self, topic: &str, record: &T) -> Result<Vec<u8>, Reject> {
        let broken = |e: &dyn std::fmt::Display| Reject::new(Reason::Malformed, format!("{topic}: {e}"));
        match self.format {
            Format::Json => serde_json::to_vec(record).map_err(|e| broken(&e)),
            Format::Avro => {
                let at = OUTPUT_SCHEMAS.iter().position(|(name, _)| *name == topic);
                let at = at.ok_or_else(|| broken(&"no such output"))?;
                let mut bytes = vec![0];
                bytes.extend_from_slice(&self.ids[at].to_be_bytes());
                let writer = GenericDatumWriter::builder(&self.schemas[at]).build().map_err(|e| broken(&e))?;
                writer.write_ser(&mut bytes, record).map_err(|e| broken(&e))?;
                Ok(bytes)
            }
        }
    }
}

/// Records that are read and not written here.
const READ_ONLY_SCHEMAS: [(&str, &str); 2] = [
    ("exemptions", include_str!("../../../schemas/exemption.avsc")),
    ("commands", include_str!("../../../schemas/command.avsc")),
];

/// Schemas of before a field was added at the end, by topic: a compacted topic still holds such records.
const EARLIER_SCHEMAS: [(&str, &str); 5] = [
    ("attack-status", include_str!("../../../schemas/history/v1/attack-status.avsc")),
    ("blocklist", include_str!("../../../schemas/history/v1/blocklist-entry.avsc")),
    ("commands", include_str!("../../../schemas/history/v3/command.avsc")),
    ("commands", include_str!("../../../schemas/history/v1/command.avsc")),
    ("incident-details", include_str!("../../../schemas/history/v1/incident-detail.avsc")),
];

/// Parsed once: a sink decodes a whole topic at start. A schema that does not parse is missing here, and a test sees it.
static READ_SCHEMAS: LazyLock<Vec<(&str, Schema)>> = LazyLock::new(|| {
    let all = OUTPUT_SCHEMAS.into_iter().chain(READ_ONLY_SCHEMAS).chain(EARLIER_SCHEMAS);
    all.filter_map(|(name, text)| Some((name, Schema::parse_str(text).ok()?))).collect()
});

/// Decodes an output record, or an exemption, in either encoding. An Avro record is read with the bundled schema of its
/// topic, and where it ends too soon for that with an earlier one: fields are only ever added at the end, so a sink needs
/// no registry.
///
/// # Errors
/// The bytes are neither.
pub fn decode_output<T: DeserializeOwned>(topic: &str, value: &[u8]) -> Result<T, Reject> {
    let broken = |e: &dyn std::fmt::Display| Reject::new(Reason::Malformed, format!("{topic}: {e}"));
    if value.first() != Some(&0) {
        return serde_json::from_slice(value).map_err(|e| broken(&e));
    }
    let mut first = None;
    for (_, schema) in READ_SCHEMAS.iter().filter(|(name, _)| *name == topic) {
        let reader = GenericDatumReader::builder(schema).build().map_err(|e| broken(&e))?;
        match reader.read_deser(&mut value.get(5..).unwrap_or_default()) {
            Ok(record) => return Ok(record),
            // What the newest schema says of a broken record is what is told.
            Err(e) => first = first.or_else(|| Some(broken(&e))),
        }
    }
    Err(first.unwrap_or_else(|| broken(&"no such output")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BlocklistEntry;

    const EXAMPLE: &str = include_str!("../../../schemas/examples/blocklist-entry/address.json");

    #[test]
    fn an_entry_of_before_a_field_was_added_reads_and_so_does_one_of_today() {
        let mut entry: BlocklistEntry = serde_json::from_str(EXAMPLE).unwrap();
        for wide in [false, true] {
            entry.wide = wide;
            for format in [Format::Json, Format::Avro] {
                let bytes = Encoder::new(format, SchemaIds::default()).unwrap().encode("blocklist", &entry).unwrap();
                assert_eq!(decode_output::<BlocklistEntry>("blocklist", &bytes), Ok(entry.clone()));
            }
        }
        entry.wide = false;
        let mut old = Encoder::new(Format::Avro, SchemaIds::default()).unwrap().encode("blocklist", &entry).unwrap();
        assert_eq!(old.pop(), Some(0), "the new field is the last");
        assert_eq!(decode_output::<BlocklistEntry>("blocklist", &old), Ok(entry));
        old.truncate(old.len() - 5);
        let error = decode_output::<BlocklistEntry>("blocklist", &old).unwrap_err();
        assert!(error.detail.starts_with("blocklist: "), "{error}");
        assert_eq!(READ_SCHEMAS.len(), OUTPUT_SCHEMAS.len() + READ_ONLY_SCHEMAS.len() + EARLIER_SCHEMAS.len());
    }
}
