//! The only door between bytes and values of the public contract.
//!
//! In: which encoding a record has is decided by [`encoding_of`] in the order of the contract, then [`decode`] makes a
//! [`LoginEvent`], then [`canonical`] makes an [`Attempt`](super::Attempt). Every length is checked before memory is taken for it. Out:
//! [`Encoder`] writes the records of the output topics as JSON or as Avro in Confluent wire format.

mod avro;
mod canonical;
mod encode;
mod foreign;
mod json;
mod limits;
mod output;
mod time;

pub use avro::{WriterSchema, avro_login_event};
pub use canonical::{canonical, normal_account};
pub use encode::{login_event_to_avro, login_event_to_json};
pub use json::json_login_event;
pub use limits::*;
pub use output::{Encoder, Format, OUTPUT_SCHEMAS, SchemaIds, decode_output};
pub use time::{format_millis, parse_millis};

use super::{LoginEvent, Reason, Reject};

/// How one record of `login-events` is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Avro behind `body` bytes of prefix, written with the schema of this id.
    Avro { schema_id: u32, body: usize },
    /// JSON behind `body` bytes of byte order mark.
    Json { body: usize },
}

/// A decoded event and how many of its enum names this build does not know (they took their defaults).
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub event: LoginEvent,
    pub unknown_names: u32,
}

/// Decides the encoding: schema id in the header, Confluent prefix, or JSON, in this order.
///
/// `header` is the value of the record header `__value_schema_id`: a magic byte 0 and a big-endian id.
///
/// # Errors
/// An empty or too large value, a header that carries no known kind of id, or bytes that are neither.
pub fn encoding_of(value: Option<&[u8]>, header: Option<&[u8]>) -> Result<Encoding, Reject> {
    let value = value.filter(|v| !v.is_empty()).ok_or_else(|| {
        Reject::new(Reason::EmptyValue, "the record has no value; publish one login event per record")
    })?;
    if value.len() > RECORD_BYTES_MAX {
        return Err(Reject::new(
            Reason::TooLarge,
            format!("the record has {} bytes; at most {RECORD_BYTES_MAX} are taken", value.len()),
        ));
    }
    if let Some(header) = header {
        let &[0, a, b, c, d] = header else {
            return Err(Reject::new(
                Reason::UnknownSchemaId,
                "header __value_schema_id is not a zero byte and a four-byte id",
            ));
        };
        return Ok(Encoding::Avro { schema_id: u32::from_be_bytes([a, b, c, d]), body: 0 });
    }
    if let &[0, a, b, c, d, _, ..] = value {
        return Ok(Encoding::Avro { schema_id: u32::from_be_bytes([a, b, c, d]), body: 5 });
    }
    let bom = if value.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 };
    match value.iter().skip(bom).find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => Ok(Encoding::Json { body: bom }),
        Some(_) | None => Err(Reject::new(
            Reason::UnknownEncoding,
            "the value is neither JSON (`{`) nor Avro in Confluent wire format (a zero byte and a schema id)",
        )),
    }
}

/// Decodes one record whose encoding and writer schema are known.
///
/// # Errors
/// A [`Reject`] that names the field.
pub fn decode(value: &[u8], encoding: Encoding, writer: Option<&WriterSchema>) -> Result<Decoded, Reject> {
    match encoding {
        Encoding::Json { body } => json_login_event(value.get(body..).unwrap_or_default()),
        Encoding::Avro { schema_id, body } => {
            let writer = writer.ok_or_else(|| {
                Reject::new(
                    Reason::UnknownSchemaId,
                    format!("schema id {schema_id} is not known; register it, or list it in the setting schema_ids"),
                )
            })?;
            avro::decode_with(writer, value.get(body..).unwrap_or_default())
        }
    }
}
