//! From a producer's document to a login event, as a mapping says it: places to fields, cases to outcomes.
//!
//! ```yaml
//! name: our-portal                       # POST /v1/adapters/our-portal
//! input: json                            # or access_log, keycloak
//! items: [/events]                       # where a document has a list; without one it is an event itself
//! document: { /version: ["1.*", null] }  # what a document must say, else it is refused
//! requires: { /kind: "*" }               # the same of each event
//! ignore:                                # known, and no attempt to log in
//!   - { /kind: heartbeat }
//! fields:
//!   event_id: { at: /uid, prefix: portal- }    # without it: a hash of the event
//!   occurred_at: [{ at: /at, as: rfc3339 }, { at: /ts, as: s }]     # the first that is there
//!   account: /who/login
//!   source_ip: /client/ip
//!   method: { at: /how, map: { pw: PASSWORD, key: PASSKEY }, otherwise: OTHER }
//! attributes: { branch: /branch }
//! cases:                                 # the first whose every line holds; without one, the event is ignored
//!   - when: { /result: ok }
//!     set: { outcome: SUCCESS }
//!   - when: { /result: bad, /why: ["no-user", "gone*"] }
//!     set: { outcome: FAILURE, failure_reason: UNKNOWN_ACCOUNT, account_exists: false }
//! ```

use std::collections::BTreeMap;
use std::fmt;

use jiff::fmt::strtime;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Read;
use super::document::{Pointer, is_like, too_many};
use crate::event::wire::{ATTRIBUTES_MAX, parse_millis};
use crate::event::{Activity, ChallengeResult, FailureReason, LoginEvent, Method, Millis, Outcome, Reason, Reject};
use crate::ingest::gateway::body::{ITEMS_MAX, hex};

/// Largest mapping, in bytes.
pub const MAPPING_BYTES_MAX: usize = 256 << 10;
/// Most rules of a kind in one mapping.
const RULES_MAX: usize = 256;

/// A checked mapping.
#[derive(Debug, Clone)]
pub struct Mapping {
    name: String,
    input: InputKind,
    items: Vec<Pointer>,
    document: When,
    requires: When,
    ignore: Vec<When>,
    fields: Vec<(Field, Vec<Origin>)>,
    attributes: BTreeMap<String, Vec<Origin>>,
    cases: Vec<Case>,
}

/// How a body is made of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// JSON: one, a list, or one a line.
    #[default]
    Json,
    /// Lines of nginx or Apache: the combined format, or JSON by the names of nginx's variables.
    AccessLog,
    /// Keycloak's events as JSON, or its own log of them.
    Keycloak,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    input: InputKind,
    #[serde(default)]
    items: Vec<Pointer>,
    #[serde(default)]
    document: When,
    #[serde(default)]
    requires: When,
    #[serde(default)]
    ignore: Vec<When>,
    fields: BTreeMap<String, Origins>,
    #[serde(default)]
    attributes: BTreeMap<String, Origins>,
    #[serde(default)]
    cases: Vec<CaseFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    when: When,
    set: BTreeMap<String, Scalar>,
}

#[derive(Debug, Clone)]
struct Case {
    when: When,
    set: Vec<(Field, Option<String>)>,
}

/// Places and what must be there.
type When = BTreeMap<Pointer, Patterns>;

/// One pattern or several; `null` is nothing there.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Patterns {
    More(Vec<Option<Scalar>>),
    One(Option<Scalar>),
}

/// A word of YAML as text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Truth(bool),
    Number(i64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Scalar::Truth(truth) => truth.to_string(),
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text.clone(),
        }
    }
}

#[derive(Debug)]
struct Origins(Vec<OriginFile>);

#[derive(Debug)]
enum OriginFile {
    Place(Pointer),
    Rule(Box<Rule>),
}

/// By hand, so that what is wrong in one of them is told as it is.
impl<'de> Deserialize<'de> for OriginFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = OriginFile;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON pointer, or { at: POINTER, … }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OriginFile, E> {
                Pointer::try_from(text.to_owned()).map(OriginFile::Place).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OriginFile, A::Error> {
                Rule::deserialize(MapAccessDeserializer::new(map)).map(|rule| OriginFile::Rule(Box::new(rule)))
            }
        }
        deserializer.deserialize_any(One)
    }
}

impl<'de> Deserialize<'de> for Origins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Several;
        impl<'de> Visitor<'de> for Several {
            type Value = Origins;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON pointer, { at: POINTER, … }, or a list of these")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Origins, E> {
                OriginFile::deserialize(text.into_deserializer()).map(|one| Origins(vec![one]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Origins, A::Error> {
                OriginFile::deserialize(MapAccessDeserializer::new(map)).map(|one| Origins(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Origins, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Origins)
            }
        }
        deserializer.deserialize_any(Several)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    at: Option<Pointer>,
    #[serde(default, rename = "as")]
    form: Form,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    map: BTreeMap<String, Option<Scalar>>,
    otherwise: Option<Scalar>,
}

/// Where a value comes from.
#[derive(Debug, Clone)]
struct Origin {
    at: Option<Pointer>,
    form: Form,
    prefix: String,
    map: BTreeMap<String, Option<String>>,
    otherwise: Option<String>,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    #[default]
    Text,
    Rfc3339,
    /// Seconds since 1970, with a fraction or without; and thousandths, millionths and so on.
    S,
    Ms,
    Us,
    Ns,
    /// `28/Jun/2019:02:40:00 +0200`
    Clf,
    /// An address that may have a port or brackets.
    Address,
    /// Not from the document: when it came.
    Arrival,
}

macro_rules! fields {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// A field of a login event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Field { $($variant),+ }

        impl Field {
            const ALL: &'static [(&'static str, Field)] = &[$(($name, Field::$variant)),+];
        }
    };
}

fields! {
    EventId = "event_id", OccurredAt = "occurred_at", Tenant = "tenant", Application = "application",
    Account = "account", AccountExists = "account_exists", Outcome = "outcome", FailureReason = "failure_reason",
    Method = "method", SourceIp = "source_ip", UserAgent = "user_agent", DeviceId = "device_id",
    TlsFingerprint = "tls_fingerprint", Asn = "asn", Country = "country", CredentialLeaked = "credential_leaked",
    Activity = "activity", SubjectId = "subject_id", SessionId = "session_id", PasswordTag = "password_tag",
    Challenge = "challenge", AccountCreatedAt = "account_created_at",
}

impl Field {
    fn named(name: &str) -> Result<Field, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
        found.ok_or_else(|| {
            let near = Self::ALL
                .iter()
                .map(|(known, _)| *known)
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let shown: String = name.chars().take(64).collect();
            format!("`{shown}` is no field of a login event; did you mean `{}`?", near.unwrap_or_default())
        })
    }
}

impl Mapping {
    /// Reads a mapping and checks it.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Mapping, String> {
        if text.len() > MAPPING_BYTES_MAX {
            return Err(format!("a mapping has at most {MAPPING_BYTES_MAX} bytes"));
        }
        let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if file.name.is_empty() || file.name.len() > 63 || !file.name.chars().all(is_plain) {
            return Err("`name` has 1 to 63 lower-case letters, digits and `-`".to_owned());
        }
        if file.cases.len().max(file.ignore.len()).max(file.items.len()) > RULES_MAX {
            return Err(format!("a mapping has at most {RULES_MAX} rules of a kind"));
        }
        if file.attributes.len() > ATTRIBUTES_MAX {
            return Err(format!("`attributes` has at most {ATTRIBUTES_MAX} lines"));
        }
        let mut fields = Vec::new();
        for (name, origins) in file.fields {
            fields.push((Field::named(&name).map_err(|e| format!("`fields`: {e}"))?, origins.checked()?));
        }
        let has = |wanted: Field| fields.iter().any(|(field, _)| *field == wanted);
        for (wanted, name) in [(Field::OccurredAt, "occurred_at"), (Field::SourceIp, "source_ip")] {
            if !has(wanted) {
                return Err(format!("`fields` has no `{name}`; say where it stands"));
            }
        }
        if file.cases.is_empty() && !has(Field::Outcome) {
            return Err("there are neither `cases` nor `fields: outcome`; one of them says what became of an attempt"
                .to_owned());
        }
        let mut cases = Vec::new();
        for (index, case) in file.cases.into_iter().enumerate() {
            let wrong = |e: String| format!("case {}: {e}", index + 1);
            let mut set = Vec::new();
            for (name, value) in &case.set {
                let field = Field::named(name).map_err(wrong)?;
                check_word(field, &value.text()).map_err(wrong)?;
                set.push((field, Some(value.text())));
            }
            if !has(Field::Outcome) && !set.iter().any(|(field, _)| *field == Field::Outcome) {
                return Err(wrong("it sets no `outcome`".to_owned()));
            }
            cases.push(Case { when: case.when, set });
        }
        let mut attributes = BTreeMap::new();
        for (name, origins) in file.attributes {
            attributes.insert(name, origins.checked()?);
        }
        let File { name, input, items, document, requires, ignore, .. } = file;
        Ok(Mapping { name, input, items, document, requires, ignore, fields, attributes, cases })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn input(&self) -> InputKind {
        self.input
    }

    /// What documents hold, in their order, that came at `now`.
    pub(super) fn read(&self, documents: Vec<Result<Value, Reject>>, now: Millis) -> Result<Vec<Read>, Reject> {
        let mut read = Vec::new();
        // Two events with the same words are two events, and the first of them has the same id whenever it comes.
        let mut seen: BTreeMap<[u8; 32], u32> = BTreeMap::new();
        for document in documents {
            let document = match document.and_then(|document| demands(&self.document, &document).map(|()| document)) {
                Ok(document) => document,
                Err(reject) => {
                    read.push(Read::Rejected(reject));
                    continue;
                }
            };
            let list = self.items.iter().find_map(|items| items.of(&document));
            let items = match list {
                Some(Value::Array(items)) => items.as_slice(),
                Some(one) => std::slice::from_ref(one),
                None => std::slice::from_ref(&document),
            };
            if read.len() + items.len() > ITEMS_MAX {
                return Err(too_many());
            }
            for item in items {
                read.push(self.read_one(item, now, &mut seen).unwrap_or_else(Read::Rejected));
            }
        }
        Ok(read)
    }

    fn read_one(&self, item: &Value, now: Millis, seen: &mut BTreeMap<[u8; 32], u32>) -> Result<Read, Reject> {
        if !item.is_object() {
            return Err(Reject::new(Reason::WrongType, "this is no JSON object, and so no event"));
        }
        if self.ignore.iter().any(|when| holds(when, item)) {
            return Ok(Read::Ignored);
        }
        demands(&self.requires, item)?;
        let case = self.cases.iter().find(|case| holds(&case.when, item));
        if case.is_none() && !self.cases.is_empty() {
            return Ok(Read::Ignored);
        }
        let mut event = LoginEvent::default();
        for (field, origins) in &self.fields {
            let found = first_of(origins, item, now, *field)?;
            if let Some(text) = found {
                put(&mut event, *field, &text)?;
            } else if matches!(field, Field::OccurredAt | Field::SourceIp | Field::Outcome) && !sets(case, *field) {
                return Err(missing(origins));
            }
        }
        for (field, text) in case.into_iter().flat_map(|case| &case.set) {
            if let Some(text) = text {
                put(&mut event, *field, text)?;
            }
        }
        for (name, origins) in &self.attributes {
            if let Some(text) = first_of(origins, item, now, Field::Application)? {
                event.attributes.insert(name.clone(), text);
            }
        }
        if event.event_id.is_empty() {
            event.event_id = self.id_of(item, seen);
        }
        Ok(Read::Event(Box::new(event)))
    }

    /// The same event has the same id however often it is sent.
    fn id_of(&self, item: &Value, seen: &mut BTreeMap<[u8; 32], u32>) -> String {
        let hash: [u8; 32] = Sha256::digest(format!("{}\n{item}", self.name)).into();
        let number = seen.entry(hash).or_default();
        *number += 1;
        let digits: String = hex(&hash).chars().take(32).collect();
        if *number == 1 { digits } else { format!("{digits}-{number}") }
    }
}

fn sets(case: Option<&Case>, field: Field) -> bool {
    case.is_some_and(|case| case.set.iter().any(|(set, _)| *set == field))
}

fn missing(origins: &[Origin]) -> Reject {
    let places: Vec<&str> = origins.iter().filter_map(|origin| origin.at.as_ref()).map(Pointer::text).collect();
    Reject::new(Reason::MissingField, format!("missing field `{}`", places.join("` or `")))
}

/// Whether every place holds what it should.
fn holds(when: &When, item: &Value) -> bool {
    when.iter().all(|(place, patterns)| patterns.hold(&place.scalars(item)))
}

/// The same, with what is wrong where it does not.
fn demands(when: &When, item: &Value) -> Result<(), Reject> {
    for (place, patterns) in when {
        let found = place.scalars(item);
        if patterns.hold(&found) {
            continue;
        }
        let Some(first) = found.first() else {
            return Err(Reject::new(Reason::MissingField, format!("missing field `{}`", place.text())));
        };
        let shown: String = first.chars().take(64).collect();
        return Err(Reject::new(
            Reason::UnknownEncoding,
            format!(
                "field `{}`: `{shown}` is not what this adapter knows; is this another producer's, or a newer version?",
                place.text()
            ),
        ));
    }
    Ok(())
}

impl Patterns {
    fn hold(&self, found: &[String]) -> bool {
        let is_one = |pattern: &Option<Scalar>| match pattern {
            None => found.is_empty(),
            Some(pattern) => found.iter().any(|text| is_like(text, &pattern.text())),
        };
        match self {
            Patterns::One(pattern) => is_one(pattern),
            Patterns::More(patterns) => patterns.iter().any(is_one),
        }
    }
}

impl Origins {
    fn checked(self) -> Result<Vec<Origin>, String> {
        let Origins(all) = self;
        if all.is_empty() || all.len() > RULES_MAX {
            return Err(format!("a field comes from 1 to {RULES_MAX} places"));
        }
        all.into_iter().map(OriginFile::checked).collect()
    }
}

impl OriginFile {
    fn checked(self) -> Result<Origin, String> {
        let rule = match self {
            OriginFile::Rule(rule) => *rule,
            OriginFile::Place(at) => {
                Rule { at: Some(at), form: Form::Text, prefix: String::new(), map: BTreeMap::new(), otherwise: None }
            }
        };
        if rule.at.is_none() && rule.form != Form::Arrival {
            return Err("a field says `at` where it stands".to_owned());
        }
        let map = rule.map.into_iter().map(|(from, to)| (from, to.map(|to| to.text()))).collect();
        let otherwise = rule.otherwise.map(|otherwise| otherwise.text());
        Ok(Origin { at: rule.at, form: rule.form, prefix: rule.prefix, map, otherwise })
    }
}

/// The value of the first place that has one.
fn first_of(origins: &[Origin], item: &Value, now: Millis, field: Field) -> Result<Option<String>, Reject> {
    for origin in origins {
        let Some(at) = &origin.at else { return Ok(Some(now.to_string())) };
        let Some(text) = at.scalar(item)?.filter(|text| !text.is_empty()) else { continue };
        let mapped = match origin.map.get(&text) {
            Some(Some(to)) => to.clone(),
            Some(None) => continue,
            None => match &origin.otherwise {
                Some(otherwise) => otherwise.clone(),
                None => text,
            },
        };
        let formed = origin.form.read(&mapped).ok_or_else(|| {
            let shown: String = mapped.chars().take(64).collect();
            Reject::new(Reason::WrongType, format!("field `{}`: `{shown}` is not {}", at.text(), origin.form.wanted()))
        })?;
        // An address is that of the client alone, wherever it was found.
        let formed = if field == Field::SourceIp { Form::Address.read(&formed).unwrap_or(formed) } else { formed };
        return Ok(Some(format!("{}{formed}", origin.prefix)));
    }
    Ok(None)
}

impl Form {
    /// The value as the contract writes it: times as milliseconds.
    fn read(self, text: &str) -> Option<String> {
        let millis = match self {
            Form::Text | Form::Arrival => return Some(text.to_owned()),
            Form::Address => return Some(address(text)),
            Form::Rfc3339 => parse_millis(text)?,
            Form::S => {
                let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite())?;
                let millis = (seconds * 1_000.0).round();
                // As far as a number of this kind is exact.
                (millis.abs() < 9e15).then_some(millis as Millis)?
            }
            Form::Ms => whole(text)?,
            Form::Us => whole(text)?.div_euclid(1_000),
            Form::Ns => whole(text)?.div_euclid(1_000_000),
            Form::Clf => strtime::parse("%d/%b/%Y:%H:%M:%S %z", text).ok()?.to_timestamp().ok()?.as_millisecond(),
        };
        Some(millis.to_string())
    }

    const fn wanted(self) -> &'static str {
        match self {
            Form::Text | Form::Arrival => "a text",
            Form::Address => "an address",
            Form::Rfc3339 => "a time as 2019-06-28T02:40:00+02:00",
            Form::S => "a number of seconds since 1970",
            Form::Ms | Form::Us | Form::Ns => "a whole number of ms, us or ns since 1970",
            Form::Clf => "a time as 28/Jun/2019:02:40:00 +0200",
        }
    }
}

/// A whole number; some producers write one with a fraction that is 0.
fn whole(text: &str) -> Option<i64> {
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

/// `192.0.2.1:443` and `[2001:db8::1]:443` without their ports; anything else as it is.
fn address(text: &str) -> String {
    let text = text.trim();
    if let Ok(with_port) = text.parse::<std::net::SocketAddr>() {
        return with_port.ip().to_string();
    }
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text).to_owned()
}

/// Whether a word that a mapping sets is one of the contract's.
fn check_word(field: Field, word: &str) -> Result<(), String> {
    let mut event = LoginEvent::default();
    put(&mut event, field, word).map_err(|reject| reject.detail)?;
    let known = [
        (Field::Outcome, Outcome::from_name(word).is_some()),
        (Field::FailureReason, FailureReason::from_name(word).is_some()),
        (Field::Method, Method::from_name(word).is_some()),
        (Field::Activity, Activity::from_name(word).is_some()),
        (Field::Challenge, ChallengeResult::from_name(word).is_some()),
    ];
    let known = known.into_iter().find(|(of, _)| *of == field).is_none_or(|(_, known)| known);
    let shown: String = word.chars().take(64).collect();
    if known {
        Ok(())
    } else {
        Err(format!("`{shown}` is none of the contract's words for this field, such as SUCCESS, FAILURE"))
    }
}

/// Gives a field its value. Names that the contract does not know mean their defaults, as anywhere.
fn put(event: &mut LoginEvent, field: Field, text: &str) -> Result<(), Reject> {
    let owned = || Some(text.to_owned());
    match field {
        Field::EventId => event.event_id = text.to_owned(),
        Field::OccurredAt => event.occurred_at = millis(field, text)?,
        Field::Tenant => event.tenant = text.to_owned(),
        Field::Application => event.application = owned(),
        Field::Account => event.account = text.to_owned(),
        Field::AccountExists => event.account_exists = Some(truth(field, text)?),
        Field::Outcome => event.outcome = Outcome::from_name(text).unwrap_or(Outcome::UNKNOWN_BECOMES),
        Field::FailureReason => {
            event.failure_reason = FailureReason::from_name(text).unwrap_or(FailureReason::UNKNOWN_BECOMES);
        }
        Field::Method => event.method = Method::from_name(text).unwrap_or(Method::UNKNOWN_BECOMES),
        Field::SourceIp => event.source_ip = text.to_owned(),
        Field::UserAgent => event.user_agent = owned(),
        Field::DeviceId => event.device_id = owned(),
        Field::TlsFingerprint => event.tls_fingerprint = owned(),
        // What a lookup of somebody else's says is worth having and no reason to refuse an attempt.
        Field::Asn => event.asn = text.trim_start_matches("AS").parse::<u32>().ok().map(i64::from),
        Field::Country => {
            event.country =
                (text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic())).then(|| text.to_ascii_uppercase());
        }
        Field::CredentialLeaked => event.credential_leaked = Some(truth(field, text)?),
        Field::Activity => event.activity = Activity::from_name(text).unwrap_or(Activity::UNKNOWN_BECOMES),
        Field::SubjectId => event.subject_id = owned(),
        Field::SessionId => event.session_id = owned(),
        Field::PasswordTag => event.password_tag = owned(),
        Field::Challenge => {
            event.challenge = ChallengeResult::from_name(text).unwrap_or(ChallengeResult::UNKNOWN_BECOMES)
        }
        Field::AccountCreatedAt => event.account_created_at = Some(millis(field, text)?),
    }
    Ok(())
}

fn name(field: Field) -> &'static str {
    Field::ALL.iter().find(|(_, one)| *one == field).map_or("", |(name, _)| name)
}

fn truth(field: Field, text: &str) -> Result<bool, Reject> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Reject::new(Reason::WrongType, format!("field `{}`: neither true nor false", name(field)))),
    }
}

fn millis(field: Field, text: &str) -> Result<Millis, Reject> {
    text.parse().or_else(|_| parse_millis(text).ok_or(())).map_err(|()| {
        Reject::new(Reason::WrongType, format!("field `{}`: no time; say how it is written with `as`", name(field)))
    })
}
