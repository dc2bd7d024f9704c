//! Login events as Avro.
//!
//! Events written with the bundled schema, nearly all, are read by a decoder for exactly that schema: no
//! intermediate tree, every length checked against what is left of the record before memory is taken. Other writer
//! schemas (from a registry) are read by their compiled shapes, see `foreign`.

use std::collections::BTreeMap;

use apache_avro::Schema;

use super::foreign::Foreign;
use super::{ATTRIBUTES_MAX, Decoded};
use crate::event::{Activity, ChallengeResult, FailureReason, LoginEvent, Method, Outcome, Reason, Reject};

/// What wrote an Avro record.
#[derive(Debug, Clone)]
pub enum WriterSchema {
    /// `schemas/login-event.avsc` as bundled.
    Bundled,
    /// Another version, from a registry.
    Other(Box<Foreign>),
}

impl WriterSchema {
    /// The bundled login-event schema as text.
    pub const BUNDLED_TEXT: &'static str = include_str!("../../../schemas/login-event.avsc");

    /// A schema as a registry gives it. The bundled one is recognised by its canonical form, field defaults and
    /// documentation aside.
    ///
    /// # Errors
    /// The text is no Avro record schema.
    pub fn parse(text: &str) -> Result<Self, Reject> {
        let broken = |e: &dyn std::fmt::Display| Reject::new(Reason::BrokenAvro, format!("writer schema: {e}"));
        let schema = Schema::parse_str(text).map_err(|e| broken(&e))?;
        let bundled = Schema::parse_str(Self::BUNDLED_TEXT).map_err(|e| broken(&e))?;
        if schema.canonical_form() == bundled.canonical_form() && !has_other_times(&schema) {
            return Ok(WriterSchema::Bundled);
        }
        if let Schema::Record(record) = &schema {
            return Ok(WriterSchema::Other(Box::new(Foreign::compile(record)?)));
        }
        Err(Reject::new(Reason::BrokenAvro, "the writer schema is not a record"))
    }
}

/// Whether a field counts time in another unit than ours, which the canonical form does not tell.
fn has_other_times(schema: &Schema) -> bool {
    if let Schema::Record(record) = schema {
        return record.fields.iter().any(|field| has_other_times(&field.schema));
    }
    if let Schema::Union(union) = schema {
        return union.variants().iter().any(has_other_times);
    }
    let others =
        [Schema::TimestampMicros, Schema::TimestampNanos, Schema::LocalTimestampMicros, Schema::LocalTimestampNanos];
    others.contains(schema)
}

pub(super) fn decode_with(writer: &WriterSchema, body: &[u8]) -> Result<Decoded, Reject> {
    match writer {
        WriterSchema::Bundled => avro_login_event(body).map(|event| Decoded { event, unknown_names: 0 }),
        WriterSchema::Other(foreign) => foreign.decode(body),
    }
}

/// Decodes an event written with the bundled schema.
///
/// # Errors
/// [`Reason::BrokenAvro`] with the field at which the bytes stopped making sense.
pub fn avro_login_event(body: &[u8]) -> Result<LoginEvent, Reject> {
    let mut r = Reader::new(body);
    let event = LoginEvent {
        event_id: r.at("event_id").text()?,
        occurred_at: r.at("occurred_at").long()?,
        tenant: r.at("tenant").text()?,
        application: r.at("application").nullable(Reader::text)?,
        account: r.at("account").text()?,
        account_exists: r.at("account_exists").nullable(Reader::boolean)?,
        outcome: r.at("outcome").symbol(Outcome::ALL)?,
        failure_reason: r.at("failure_reason").symbol(FailureReason::ALL)?,
        method: r.at("method").symbol(Method::ALL)?,
        source_ip: r.at("source_ip").text()?,
        user_agent: r.at("user_agent").nullable(Reader::text)?,
        device_id: r.at("device_id").nullable(Reader::text)?,
        tls_fingerprint: r.at("tls_fingerprint").nullable(Reader::text)?,
        asn: r.at("asn").nullable(Reader::long)?,
        country: r.at("country").nullable(Reader::text)?,
        credential_leaked: r.at("credential_leaked").nullable(Reader::boolean)?,
        attributes: r.at("attributes").text_map()?,
        activity: r.at("activity").symbol(Activity::ALL)?,
        subject_id: r.at("subject_id").nullable(Reader::text)?,
        session_id: r.at("session_id").nullable(Reader::text)?,
        password_tag: r.at("password_tag").nullable(Reader::text)?,
        challenge: r.at("challenge").symbol(ChallengeResult::ALL)?,
        account_created_at: r.at("account_created_at").nullable(Reader::long)?,
    };
    r.end()?;
    Ok(event)
}

/// Reads Avro's binary encoding from a slice; nothing is allocated beyond what the slice still holds.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    field: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Reader { rest: body, field: "event_id" }
    }

    pub(super) fn at(&mut self, field: &'static str) -> &mut Self {
        self.field = field;
        self
    }

    pub(super) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// # Errors
    /// Bytes are left.
    pub(super) fn end(&mut self) -> Result<(), Reject> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.at("end").broken("bytes are left over")) }
    }

    pub(super) fn broken(&self, what: &str) -> Reject {
        Reject::new(Reason::BrokenAvro, format!("field `{}`: {what}", self.field))
    }

    pub(super) fn long(&mut self) -> Result<i64, Reject> {
        let mut value = 0u64;
        for (i, &byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.broken("the number does not end"))
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Reject> {
        match self.rest.split_first() {
            Some((0, rest)) => {
                self.rest = rest;
                Ok(false)
            }
            Some((1, rest)) => {
                self.rest = rest;
                Ok(true)
            }
            Some(_) | None => Err(self.broken("not a boolean")),
        }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Reject> {
        let taken = self.rest.split_at_checked(length);
        let (taken, rest) = taken.ok_or_else(|| self.broken("the value is longer than the record"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Reject> {
        let length = self.long()?;
        let length = usize::try_from(length).map_err(|_| self.broken("a length below 0"))?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> Result<String, Reject> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.broken("the text is not UTF-8"))
    }

    /// How many items the next block of an array or a map says it has; 0 ends it.
    pub(super) fn block_count(&mut self) -> Result<u64, Reject> {
        let count = self.long()?;
        if count < 0 {
            // A negative count is followed by the size of the block in bytes.
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }

    fn nullable<T>(&mut self, read: fn(&mut Self) -> Result<T, Reject>) -> Result<Option<T>, Reject> {
        match self.long()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(self.broken("no such branch of the union")),
        }
    }

    fn symbol<T: Copy>(&mut self, all: &[T]) -> Result<T, Reject> {
        let position = usize::try_from(self.long()?).ok().and_then(|p| all.get(p).copied());
        position.ok_or_else(|| self.broken("no such symbol"))
    }

    pub(super) fn text_map(&mut self) -> Result<BTreeMap<String, String>, Reject> {
        let mut all = BTreeMap::new();
        loop {
            let count = self.block_count()?;
            if count == 0 {
                return Ok(all);
            }
            for _ in 0..count {
                if all.len() == ATTRIBUTES_MAX {
                    return Err(Reject::new(
                        Reason::FieldTooLong,
                        format!("field `attributes`: more than {ATTRIBUTES_MAX}"),
                    ));
                }
                let key = self.text()?;
                let value = self.text()?;
                if all.insert(key, value).is_some() {
                    return Err(Reject::new(Reason::DuplicateKey, "field `attributes`: one key twice"));
                }
            }
        }
    }
}
