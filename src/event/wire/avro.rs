//! Login events as Avro.
//!
//! Events written with the bundled schema, nearly all, are read by a decoder for exactly that schema: no
//! intermediate tree, every length checked against what is left of the record before memory is taken. Other writer
//! schemas (from a registry) go through the library's generic value, field by field by name, without a reader
//! schema: resolution by the library panics on some remote schemas, and unknown symbols must be counted.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;

use super::{ATTRIBUTES_MAX, Decoded, RECORD_BYTES_MAX};
use crate::event::{Activity, ChallengeResult, FailureReason, LoginEvent, Method, Outcome, Reason, Reject};

/// What wrote an Avro record.
#[derive(Debug, Clone)]
pub enum WriterSchema {
    /// `schemas/login-event.avsc` as bundled.
    Bundled,
    /// Another version, from a registry.
    Other(Box<Schema>),
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
        if schema.canonical_form() == bundled.canonical_form() {
            return Ok(WriterSchema::Bundled);
        }
        match schema {
            Schema::Record(_) => Ok(WriterSchema::Other(Box::new(schema))),
            _ => Err(Reject::new(Reason::BrokenAvro, "the writer schema is not a record")),
        }
    }
}

pub(super) fn decode_with(writer: &WriterSchema, body: &[u8]) -> Result<Decoded, Reject> {
    match writer {
        WriterSchema::Bundled => avro_login_event(body).map(|event| Decoded { event, unknown_names: 0 }),
        WriterSchema::Other(schema) => generic(schema, body),
    }
}

/// Decodes an event written with the bundled schema.
///
/// # Errors
/// [`Reason::BrokenAvro`] with the field at which the bytes stopped making sense.
pub fn avro_login_event(body: &[u8]) -> Result<LoginEvent, Reject> {
    let mut r = Reader { rest: body, field: "event_id" };
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
    if r.rest.is_empty() { Ok(event) } else { Err(r.at("end").broken("bytes are left over")) }
}

/// Reads Avro's binary encoding from a slice; nothing is allocated beyond what the slice still holds.
struct Reader<'a> {
    rest: &'a [u8],
    field: &'static str,
}

impl Reader<'_> {
    fn at(&mut self, field: &'static str) -> &mut Self {
        self.field = field;
        self
    }

    fn broken(&self, what: &str) -> Reject {
        Reject::new(Reason::BrokenAvro, format!("field `{}`: {what}", self.field))
    }

    fn long(&mut self) -> Result<i64, Reject> {
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

    fn boolean(&mut self) -> Result<bool, Reject> {
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

    fn text(&mut self) -> Result<String, Reject> {
        let length = self.long()?;
        let length = usize::try_from(length).ok().filter(|n| *n <= self.rest.len());
        let length = length.ok_or_else(|| self.broken("the text is longer than the record"))?;
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| self.broken("the text is not UTF-8"))
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

    fn text_map(&mut self) -> Result<BTreeMap<String, String>, Reject> {
        let mut all = BTreeMap::new();
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(all);
            }
            if count < 0 {
                // A negative count is followed by the block's size in bytes.
                count = count.checked_neg().ok_or_else(|| self.broken("block count"))?;
                self.long()?;
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

fn generic(schema: &Schema, body: &[u8]) -> Result<Decoded, Reject> {
    apache_avro::util::max_allocation_bytes(RECORD_BYTES_MAX);
    let broken = |e: apache_avro::Error| Reject::new(Reason::BrokenAvro, e.to_string());
    let reader = GenericDatumReader::builder(schema).build().map_err(broken)?;
    let Value::Record(fields) = reader.read_value(&mut &*body).map_err(broken)? else {
        return Err(Reject::new(Reason::BrokenAvro, "not a record"));
    };
    let mut fields: BTreeMap<String, Value> = fields.into_iter().collect();
    for required in ["event_id", "occurred_at", "account", "outcome", "source_ip"] {
        if !fields.contains_key(required) {
            return Err(Reject::new(Reason::MissingField, format!("missing field `{required}`")));
        }
    }
    let mut unknown_names = 0;
    let mut take = |name: &str| match fields.remove(name) {
        Some(Value::Union(_, inner)) => Some(*inner),
        other => other,
    };
    let default = LoginEvent::default();
    let event = LoginEvent {
        event_id: text("event_id", take("event_id"))?.unwrap_or_default(),
        occurred_at: long("occurred_at", take("occurred_at"))?.unwrap_or_default(),
        tenant: text("tenant", take("tenant"))?.unwrap_or(default.tenant),
        application: text("application", take("application"))?,
        account: text("account", take("account"))?.unwrap_or_default(),
        account_exists: boolean("account_exists", take("account_exists"))?,
        outcome: symbol("outcome", take("outcome"), Outcome::from_name, Outcome::UNKNOWN_BECOMES, &mut unknown_names)?
            .unwrap_or(Outcome::Unknown),
        failure_reason: symbol(
            "failure_reason",
            take("failure_reason"),
            FailureReason::from_name,
            FailureReason::UNKNOWN_BECOMES,
            &mut unknown_names,
        )?
        .unwrap_or(default.failure_reason),
        method: symbol("method", take("method"), Method::from_name, Method::UNKNOWN_BECOMES, &mut unknown_names)?
            .unwrap_or(default.method),
        source_ip: text("source_ip", take("source_ip"))?.unwrap_or_default(),
        user_agent: text("user_agent", take("user_agent"))?,
        device_id: text("device_id", take("device_id"))?,
        tls_fingerprint: text("tls_fingerprint", take("tls_fingerprint"))?,
        asn: long("asn", take("asn"))?,
        country: text("country", take("country"))?,
        credential_leaked: boolean("credential_leaked", take("credential_leaked"))?,
        attributes: texts("attributes", take("attributes"))?,
        activity: symbol(
            "activity",
            take("activity"),
            Activity::from_name,
            Activity::UNKNOWN_BECOMES,
            &mut unknown_names,
        )?
        .unwrap_or(default.activity),
        subject_id: text("subject_id", take("subject_id"))?,
        session_id: text("session_id", take("session_id"))?,
        password_tag: text("password_tag", take("password_tag"))?,
        challenge: symbol(
            "challenge",
            take("challenge"),
            ChallengeResult::from_name,
            ChallengeResult::UNKNOWN_BECOMES,
            &mut unknown_names,
        )?
        .unwrap_or(default.challenge),
        account_created_at: long("account_created_at", take("account_created_at"))?,
    };
    Ok(Decoded { event, unknown_names })
}

fn wrong(field: &str, want: &str) -> Reject {
    Reject::new(Reason::WrongType, format!("field `{field}`: not {want}"))
}

fn text(field: &str, value: Option<Value>) -> Result<Option<String>, Reject> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s) | Value::Enum(_, s)) => Ok(Some(s)),
        Some(Value::Uuid(u)) => Ok(Some(u.to_string())),
        Some(_) => Err(wrong(field, "a text")),
    }
}

fn long(field: &str, value: Option<Value>) -> Result<Option<i64>, Reject> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Long(n) | Value::TimestampMillis(n)) => Ok(Some(n)),
        Some(Value::TimestampMicros(n)) => Ok(Some(n.div_euclid(1000))),
        Some(Value::Int(n)) => Ok(Some(i64::from(n))),
        Some(_) => Err(wrong(field, "an integer")),
    }
}

fn boolean(field: &str, value: Option<Value>) -> Result<Option<bool>, Reject> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Boolean(b)) => Ok(Some(b)),
        Some(_) => Err(wrong(field, "a boolean")),
    }
}

fn symbol<T>(
    field: &str,
    value: Option<Value>,
    from_name: fn(&str) -> Option<T>,
    default: T,
    unknown: &mut u32,
) -> Result<Option<T>, Reject> {
    Ok(text(field, value)?.map(|name| {
        from_name(&name).unwrap_or_else(|| {
            *unknown += 1;
            default
        })
    }))
}

fn texts(field: &str, value: Option<Value>) -> Result<BTreeMap<String, String>, Reject> {
    match value {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Map(map)) if map.len() <= ATTRIBUTES_MAX => {
            map.into_iter().map(|(key, value)| Ok((key, text(field, Some(value))?.unwrap_or_default()))).collect()
        }
        Some(Value::Map(_)) => Err(Reject::new(Reason::FieldTooLong, format!("field `{field}`: too many"))),
        Some(_) => Err(wrong(field, "a map of texts")),
    }
}
