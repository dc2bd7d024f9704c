//! Login events as JSON: the contract's field names, enums by name, times as milliseconds or RFC 3339.
//!
//! Strict where a mistake would change a meaning (a duplicate key, a wrong type), lenient where a newer publisher
//! must not be refused (unknown fields, unknown enum names).

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::{ATTRIBUTES_MAX, Decoded, parse_millis};
use crate::event::{Activity, ChallengeResult, FailureReason, LoginEvent, Method, Millis, Outcome, Reason, Reject};

/// Decodes one JSON object.
///
/// # Errors
/// [`Reason::BrokenJson`], [`Reason::DuplicateKey`], [`Reason::WrongType`] or [`Reason::MissingField`], naming it.
pub fn json_login_event(bytes: &[u8]) -> Result<Decoded, Reject> {
    let field = Cell::new(None);
    let mut read = serde_json::Deserializer::from_slice(bytes);
    let decoded = read.deserialize_map(EventVisitor { field: &field }).and_then(|d| read.end().map(|()| d));
    decoded.map_err(|error| {
        let text = error.to_string();
        let reason =
            [(DUPLICATE, Reason::DuplicateKey), (MISSING, Reason::MissingField), (TOO_MANY, Reason::FieldTooLong)]
                .into_iter()
                .find_map(|(mark, reason)| text.starts_with(mark).then_some(reason))
                .unwrap_or(if error.is_data() { Reason::WrongType } else { Reason::BrokenJson });
        Reject::new(reason, field.get().map_or(text.clone(), |field| format!("field `{field}`: {text}")))
    })
}

const DUPLICATE: &str = "duplicate key";
const MISSING: &str = "missing field";
const TOO_MANY: &str = "too many";

struct EventVisitor<'a> {
    /// The field that is being read, for the text of an error.
    field: &'a Cell<Option<&'static str>>,
}

impl<'de> Visitor<'de> for EventVisitor<'_> {
    type Value = Decoded;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a login event as a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Decoded, A::Error> {
        let mut event = LoginEvent::default();
        let mut unknown_names = 0;
        let mut seen: u64 = 0;
        // Keys that we do not know, as many as a record holds: a newer publisher's few.
        let mut others = BTreeSet::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let position = FIELDS.iter().position(|name| *name == key);
            let is_repeated = position.is_some_and(|position| seen & (1 << position) != 0) || others.contains(&key);
            if is_repeated {
                return Err(de::Error::custom(format_args!("{DUPLICATE} `{key}`: name each field once")));
            }
            let Some(position) = position else {
                map.next_value::<de::IgnoredAny>()?;
                others.insert(key);
                continue;
            };
            seen |= 1 << position;
            self.field.set(FIELDS.get(position).copied());
            read_field(&mut event, &mut unknown_names, &key, &mut map)?;
            self.field.set(None);
        }
        for required in REQUIRED {
            if FIELDS.iter().position(|name| name == required).is_none_or(|p| seen & (1 << p) == 0) {
                return Err(de::Error::custom(format_args!("{MISSING} `{required}`")));
            }
        }
        Ok(Decoded { event, unknown_names })
    }
}

const FIELDS: &[&str] = &[
    "event_id", "occurred_at", "tenant", "application", "account", "account_exists", "outcome", "failure_reason",
    "method", "source_ip", "user_agent", "device_id", "tls_fingerprint", "asn", "country", "credential_leaked",
    "attributes", "activity", "subject_id", "session_id", "password_tag", "challenge", "account_created_at",
];
const REQUIRED: &[&str] = &["event_id", "occurred_at", "account", "outcome", "source_ip"];

fn read_field<'de, A: MapAccess<'de>>(
    event: &mut LoginEvent,
    unknown: &mut u32,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    match key {
        "event_id" => event.event_id = map.next_value()?,
        "occurred_at" => event.occurred_at = map.next_value::<Time>()?.0,
        "tenant" => event.tenant = map.next_value()?,
        "application" => event.application = map.next_value()?,
        "account" => event.account = map.next_value()?,
        "account_exists" => event.account_exists = map.next_value()?,
        "outcome" => event.outcome = name(map, unknown, Outcome::from_name, Outcome::UNKNOWN_BECOMES)?,
        "failure_reason" => {
            event.failure_reason = name(map, unknown, FailureReason::from_name, FailureReason::UNKNOWN_BECOMES)?;
        }
        "method" => event.method = name(map, unknown, Method::from_name, Method::UNKNOWN_BECOMES)?,
        "source_ip" => event.source_ip = map.next_value()?,
        "user_agent" => event.user_agent = map.next_value()?,
        "device_id" => event.device_id = map.next_value()?,
        "tls_fingerprint" => event.tls_fingerprint = map.next_value()?,
        "asn" => event.asn = map.next_value()?,
        "country" => event.country = map.next_value()?,
        "credential_leaked" => event.credential_leaked = map.next_value()?,
        "attributes" => event.attributes = map.next_value::<Attributes>()?.0,
        "activity" => event.activity = name(map, unknown, Activity::from_name, Activity::UNKNOWN_BECOMES)?,
        "subject_id" => event.subject_id = map.next_value()?,
        "session_id" => event.session_id = map.next_value()?,
        "password_tag" => event.password_tag = map.next_value()?,
        "challenge" => {
            event.challenge = name(map, unknown, ChallengeResult::from_name, ChallengeResult::UNKNOWN_BECOMES)?;
        }
        "account_created_at" => event.account_created_at = map.next_value::<Option<Time>>()?.map(|t| t.0),
        _ => {
            map.next_value::<de::IgnoredAny>()?;
        }
    }
    Ok(())
}

/// An enum by name; a name that we do not know is counted and becomes the default.
fn name<'de, A: MapAccess<'de>, T>(
    map: &mut A,
    unknown: &mut u32,
    from_name: fn(&str) -> Option<T>,
    default: T,
) -> Result<T, A::Error> {
    let text = map.next_value::<Cow<'de, str>>()?;
    Ok(from_name(&text).unwrap_or_else(|| {
        *unknown += 1;
        default
    }))
}

struct Time(Millis);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as integer milliseconds or RFC 3339 text")
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Time, E> {
                Ok(Time(v))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Time, E> {
                i64::try_from(v).map(Time).map_err(|_| E::custom("the time lies outside the calendar"))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Time, E> {
                parse_millis(v).map(Time).ok_or_else(|| E::invalid_value(de::Unexpected::Str(v), &self))
            }
        }
        deserializer.deserialize_any(TimeVisitor)
    }
}

struct Attributes(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AttributesVisitor;
        impl<'de> Visitor<'de> for AttributesVisitor {
            type Value = Attributes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if all.len() == ATTRIBUTES_MAX {
                        return Err(de::Error::custom(format_args!("{TOO_MANY} attributes; at most {ATTRIBUTES_MAX}")));
                    }
                    if all.contains_key(&key) {
                        return Err(de::Error::custom(format_args!("{DUPLICATE} `{key}`")));
                    }
                    all.insert(key, value);
                }
                Ok(Attributes(all))
            }
        }
        deserializer.deserialize_map(AttributesVisitor)
    }
}
