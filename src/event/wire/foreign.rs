//! Avro records whose writer schema is not the bundled one: another version of it, from a registry.
//!
//! The schema is compiled once into shapes. A record is then read field by field by name: what we know is read, the
//! rest is skipped without being built, so no count in the bytes and no shape of the schema costs memory. Nothing is
//! resolved against a reader schema: unknown symbols must be counted, and absent fields take the contract's defaults.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, RecordSchema, UuidSchema};

use super::avro::Reader;
use super::{Decoded, RECORD_BYTES_MAX};
use crate::event::{Activity, ChallengeResult, FailureReason, LoginEvent, Method, Outcome, Reason, Reject};

/// Deepest nesting that is followed in a schema or a record.
const DEPTH_MAX: usize = 64;

/// A writer schema, compiled.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// In the order of the bytes.
    fields: Vec<(Box<str>, Shape)>,
    /// Records, enums and fixed types by their place, for shapes that contain themselves.
    named: Vec<Shape>,
}

/// How the bytes of one value are laid out.
#[derive(Debug, Clone)]
enum Shape {
    Null,
    Boolean,
    /// A zigzag number.
    Number,
    /// A number of microseconds.
    Micros,
    /// A number of nanoseconds.
    Nanos,
    Fixed(usize),
    Bytes,
    Text,
    Enum(Vec<Box<str>>),
    Array(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    Record(Vec<Shape>),
    Named(usize),
}

/// A value of a field that we know.
#[derive(Debug)]
enum Value {
    Null,
    Boolean(bool),
    Number(i64),
    Text(String),
    Texts(BTreeMap<String, String>),
    /// Of a type that no field of ours has.
    Other,
}

impl Foreign {
    /// Compiles a record schema.
    ///
    /// # Errors
    /// It nests too deep, or names a type that it does not define.
    pub(super) fn compile(schema: &RecordSchema) -> Result<Foreign, Reject> {
        let mut compiler = Compiler { places: BTreeMap::new(), named: Vec::new() };
        let own = compiler.place(schema.name.as_ref());
        let mut fields = Vec::with_capacity(schema.fields.len());
        for field in &schema.fields {
            fields.push((field.name.as_str().into(), compiler.shape(&field.schema, 0)?));
        }
        if let Some(place) = compiler.named.get_mut(own) {
            *place = Shape::Record(fields.iter().map(|(_, shape)| shape.clone()).collect());
        }
        Ok(Foreign { fields, named: compiler.named })
    }

    /// Decodes one record.
    ///
    /// # Errors
    /// The bytes do not fit the schema, or a field of ours has another type than the contract says.
    pub(super) fn decode(&self, body: &[u8]) -> Result<Decoded, Reject> {
        let mut walk = Walk { reader: Reader::new(body), named: &self.named, steps_left: RECORD_BYTES_MAX };
        let mut fields = Fields { values: BTreeMap::new(), unknown_names: 0 };
        for (name, shape) in &self.fields {
            if let Some(known) = FIELDS.iter().find(|known| ***known == **name) {
                walk.reader.at(known);
                fields.values.insert(known, walk.value(shape, 0)?);
            } else {
                walk.reader.at("of another schema");
                walk.skip(shape, 0)?;
            }
        }
        walk.reader.end()?;
        fields.event()
    }
}

struct Compiler {
    places: BTreeMap<String, usize>,
    named: Vec<Shape>,
}

impl Compiler {
    /// Reserves the place of a named type, so that it can be referred to from inside itself.
    fn place(&mut self, name: &str) -> usize {
        let place = self.named.len();
        self.named.push(Shape::Null);
        self.places.insert(name.to_owned(), place);
        place
    }

    fn shape(&mut self, schema: &Schema, depth: usize) -> Result<Shape, Reject> {
        if depth > DEPTH_MAX {
            return Err(Reject::new(Reason::BrokenAvro, "the writer schema nests too deep"));
        }
        Ok(match schema {
            Schema::Null => Shape::Null,
            Schema::Boolean => Shape::Boolean,
            Schema::Int
            | Schema::Long
            | Schema::Date
            | Schema::TimeMillis
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::LocalTimestampMillis => Shape::Number,
            Schema::TimestampMicros | Schema::LocalTimestampMicros => Shape::Micros,
            Schema::TimestampNanos | Schema::LocalTimestampNanos => Shape::Nanos,
            Schema::Float => Shape::Fixed(4),
            Schema::Double => Shape::Fixed(8),
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Shape::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Shape::Text,
            Schema::Array(array) => Shape::Array(Box::new(self.shape(&array.items, depth + 1)?)),
            Schema::Map(map) => Shape::Map(Box::new(self.shape(&map.types, depth + 1)?)),
            Schema::Union(union) => Shape::Union(self.shapes(union.variants(), depth)?),
            Schema::Record(record) => {
                let place = self.place(record.name.as_ref());
                let fields = record.fields.iter().map(|field| &field.schema);
                self.named[place] = Shape::Record(self.shapes(fields, depth)?);
                Shape::Named(place)
            }
            Schema::Enum(symbols) => {
                let place = self.place(symbols.name.as_ref());
                self.named[place] = Shape::Enum(symbols.symbols.iter().map(|symbol| symbol.as_str().into()).collect());
                Shape::Named(place)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Shape::Bytes,
                InnerDecimalSchema::Fixed(fixed) => self.fixed(fixed.name.as_ref(), fixed.size),
            },
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                self.fixed(fixed.name.as_ref(), fixed.size)
            }
            Schema::Ref { name } => {
                let place = self.places.get(&name.to_string()).copied();
                Shape::Named(place.ok_or_else(|| {
                    Reject::new(Reason::BrokenAvro, format!("the writer schema does not define `{name}`"))
                })?)
            }
        })
    }

    fn shapes<'a>(&mut self, all: impl IntoIterator<Item = &'a Schema>, depth: usize) -> Result<Vec<Shape>, Reject> {
        all.into_iter().map(|schema| self.shape(schema, depth + 1)).collect()
    }

    fn fixed(&mut self, name: &str, size: usize) -> Shape {
        let place = self.place(name);
        self.named[place] = Shape::Fixed(size);
        Shape::Named(place)
    }
}

/// One pass over the bytes of a record.
struct Walk<'a> {
    reader: Reader<'a>,
    named: &'a [Shape],
    /// Values still looked at. Most take a byte or more; those that take none could be counted without end.
    steps_left: usize,
}

impl<'a> Walk<'a> {
    fn step(&mut self, shape: &'a Shape, depth: usize) -> Result<&'a Shape, Reject> {
        self.steps_left = self.steps_left.saturating_sub(1);
        if self.steps_left == 0 || depth > DEPTH_MAX {
            return Err(self.reader.broken("the value nests too deep or holds too much"));
        }
        match shape {
            Shape::Named(place) => self.named.get(*place).ok_or_else(|| self.reader.broken("no such type")),
            Shape::Null
            | Shape::Boolean
            | Shape::Number
            | Shape::Micros
            | Shape::Nanos
            | Shape::Fixed(_)
            | Shape::Bytes
            | Shape::Text
            | Shape::Enum(_)
            | Shape::Array(_)
            | Shape::Map(_)
            | Shape::Union(_)
            | Shape::Record(_) => Ok(shape),
        }
    }

    fn value(&mut self, shape: &'a Shape, depth: usize) -> Result<Value, Reject> {
        match self.step(shape, depth)? {
            Shape::Null => Ok(Value::Null),
            Shape::Boolean => self.reader.boolean().map(Value::Boolean),
            Shape::Number => self.reader.long().map(Value::Number),
            Shape::Micros => Ok(Value::Number(self.reader.long()?.div_euclid(1_000))),
            Shape::Nanos => Ok(Value::Number(self.reader.long()?.div_euclid(1_000_000))),
            Shape::Text => self.reader.text().map(Value::Text),
            Shape::Enum(symbols) => {
                let at = usize::try_from(self.reader.long()?).ok().and_then(|at| symbols.get(at));
                at.map(|symbol| Value::Text(symbol.to_string())).ok_or_else(|| self.reader.broken("no such symbol"))
            }
            Shape::Map(of) if matches!(**of, Shape::Text) => self.reader.text_map().map(Value::Texts),
            Shape::Union(branches) => {
                let branch = self.branch(branches)?;
                self.value(branch, depth + 1)
            }
            other @ (Shape::Fixed(_)
            | Shape::Bytes
            | Shape::Array(_)
            | Shape::Map(_)
            | Shape::Record(_)
            | Shape::Named(_)) => {
                self.skip(other, depth + 1)?;
                Ok(Value::Other)
            }
        }
    }

    fn skip(&mut self, shape: &'a Shape, depth: usize) -> Result<(), Reject> {
        match self.step(shape, depth)? {
            Shape::Null => Ok(()),
            Shape::Boolean => self.reader.boolean().map(drop),
            Shape::Number | Shape::Micros | Shape::Nanos | Shape::Enum(_) => self.reader.long().map(drop),
            Shape::Fixed(size) => self.reader.take(*size).map(drop),
            Shape::Bytes | Shape::Text => self.reader.bytes().map(drop),
            Shape::Array(of) => self.skip_blocks(of, false, depth),
            Shape::Map(of) => self.skip_blocks(of, true, depth),
            Shape::Union(branches) => {
                let branch = self.branch(branches)?;
                self.skip(branch, depth + 1)
            }
            Shape::Record(fields) => fields.iter().try_for_each(|field| self.skip(field, depth + 1)),
            named @ Shape::Named(_) => self.skip(named, depth + 1),
        }
    }

    fn branch(&mut self, branches: &'a [Shape]) -> Result<&'a Shape, Reject> {
        let at = usize::try_from(self.reader.long()?).ok().and_then(|at| branches.get(at));
        at.ok_or_else(|| self.reader.broken("no such branch of the union"))
    }

    fn skip_blocks(&mut self, of: &'a Shape, keyed: bool, depth: usize) -> Result<(), Reject> {
        loop {
            let count = self.reader.block_count()?;
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                let before = self.reader.left();
                if keyed {
                    self.reader.bytes()?;
                }
                self.skip(of, depth + 1)?;
                if self.reader.left() == before {
                    // A value that takes no byte once takes none ever, however many there are said to be.
                    break;
                }
            }
        }
    }
}

const FIELDS: [&str; 23] = [
    "event_id", "occurred_at", "tenant", "application", "account", "account_exists", "outcome", "failure_reason",
    "method", "source_ip", "user_agent", "device_id", "tls_fingerprint", "asn", "country", "credential_leaked",
    "attributes", "activity", "subject_id", "session_id", "password_tag", "challenge", "account_created_at",
];

/// What a record held of our fields.
struct Fields {
    values: BTreeMap<&'static str, Value>,
    unknown_names: u32,
}

impl Fields {
    fn event(mut self) -> Result<Decoded, Reject> {
        for required in ["event_id", "occurred_at", "account", "outcome", "source_ip"] {
            if !self.values.contains_key(required) {
                return Err(Reject::new(Reason::MissingField, format!("missing field `{required}`")));
            }
        }
        let default = LoginEvent::default();
        let event = LoginEvent {
            event_id: self.text("event_id")?.unwrap_or_default(),
            occurred_at: self.number("occurred_at")?.unwrap_or_default(),
            tenant: self.text("tenant")?.unwrap_or(default.tenant),
            application: self.text("application")?,
            account: self.text("account")?.unwrap_or_default(),
            account_exists: self.boolean("account_exists")?,
            outcome: self.name("outcome", Outcome::from_name, Outcome::UNKNOWN_BECOMES, default.outcome)?,
            failure_reason: self.name(
                "failure_reason",
                FailureReason::from_name,
                FailureReason::UNKNOWN_BECOMES,
                default.failure_reason,
            )?,
            method: self.name("method", Method::from_name, Method::UNKNOWN_BECOMES, default.method)?,
            source_ip: self.text("source_ip")?.unwrap_or_default(),
            user_agent: self.text("user_agent")?,
            device_id: self.text("device_id")?,
            tls_fingerprint: self.text("tls_fingerprint")?,
            asn: self.number("asn")?,
            country: self.text("country")?,
            credential_leaked: self.boolean("credential_leaked")?,
            attributes: self.texts("attributes")?,
            activity: self.name("activity", Activity::from_name, Activity::UNKNOWN_BECOMES, default.activity)?,
            subject_id: self.text("subject_id")?,
            session_id: self.text("session_id")?,
            password_tag: self.text("password_tag")?,
            challenge: self.name(
                "challenge",
                ChallengeResult::from_name,
                ChallengeResult::UNKNOWN_BECOMES,
                default.challenge,
            )?,
            account_created_at: self.number("account_created_at")?,
        };
        Ok(Decoded { event, unknown_names: self.unknown_names })
    }

    fn text(&mut self, field: &str) -> Result<Option<String>, Reject> {
        match self.values.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Boolean(_) | Value::Number(_) | Value::Texts(_) | Value::Other) => Err(wrong(field, "a text")),
        }
    }

    fn number(&mut self, field: &str) -> Result<Option<i64>, Reject> {
        match self.values.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(n)) => Ok(Some(n)),
            Some(Value::Boolean(_) | Value::Text(_) | Value::Texts(_) | Value::Other) => {
                Err(wrong(field, "an integer"))
            }
        }
    }

    fn boolean(&mut self, field: &str) -> Result<Option<bool>, Reject> {
        match self.values.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Boolean(yes)) => Ok(Some(yes)),
            Some(Value::Number(_) | Value::Text(_) | Value::Texts(_) | Value::Other) => Err(wrong(field, "a boolean")),
        }
    }

    fn texts(&mut self, field: &str) -> Result<BTreeMap<String, String>, Reject> {
        match self.values.remove(field) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Texts(texts)) => Ok(texts),
            Some(Value::Boolean(_) | Value::Number(_) | Value::Text(_) | Value::Other) => {
                Err(wrong(field, "a map of texts"))
            }
        }
    }

    /// An enum by name, whatever numbers the writer gave its symbols.
    fn name<T>(&mut self, field: &str, from_name: fn(&str) -> Option<T>, unknown: T, absent: T) -> Result<T, Reject> {
        let Some(name) = self.text(field)? else { return Ok(absent) };
        Ok(from_name(&name).unwrap_or_else(|| {
            self.unknown_names += 1;
            unknown
        }))
    }
}

fn wrong(field: &str, want: &str) -> Reject {
    Reject::new(Reason::WrongType, format!("field `{field}`: not {want}"))
}
