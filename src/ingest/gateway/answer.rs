//! What a publisher is told about its events.

use serde::Serialize;

use crate::event::{Reason, Reject};

/// The body of an answer. `accepted + ignored + rejected + unavailable` are the events of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// On the topic, on all in-sync replicas.
    pub accepted: usize,
    /// Known to an adapter and no attempt to log in.
    pub ignored: usize,
    /// Bad as they are; sent again they are refused again.
    pub rejected: Vec<Rejected>,
    /// Places of those that the cluster did not confirm: send them again, all or these alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<usize>,
    /// What is odd about events that were accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// In words, where the answer is about the request as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An event that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its place among the events of the request, from 0.
    pub index: usize,
    pub reason: &'static str,
    /// The field that is wrong, where one is.
    pub field: Option<String>,
    pub detail: String,
    /// What to do.
    pub fix: &'static str,
}

/// What is odd about an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub index: usize,
    pub detail: String,
}

impl Rejected {
    #[must_use]
    pub fn new(index: usize, reject: &Reject) -> Self {
        Rejected {
            index,
            reason: reject.reason.as_str(),
            field: field_of(&reject.detail),
            detail: reject.detail.clone(),
            fix: fix(reject.reason),
        }
    }
}

/// The field that a detail names: what stands in back quotes behind the word `field`, or `key` where one is there twice.
fn field_of(detail: &str) -> Option<String> {
    let (_, rest) = detail.split_once("field `").or_else(|| detail.split_once("key `"))?;
    rest.split_once('`').map(|(name, _)| name.to_owned())
}

/// What a publisher does about it.
#[must_use]
pub const fn fix(reason: Reason) -> &'static str {
    match reason {
        Reason::Malformed | Reason::BrokenFrame | Reason::Poison => "compare it with GET /v1/openapi.json",
        Reason::EmptyValue => "send at least one event",
        Reason::TooLarge => "send less in one event or request; the limits stand in GET /v1/openapi.json",
        Reason::UnknownEncoding => "say what the body is in Content-Type, and write UTF-8",
        Reason::UnknownSchemaId | Reason::BrokenAvro => "send JSON here; Avro goes onto the topic itself",
        Reason::BrokenJson => "send valid JSON, one object an event",
        Reason::DuplicateKey => "name every field once",
        Reason::WrongType => "give the field the type that GET /v1/openapi.json says",
        Reason::MissingField => "give the field",
        Reason::FieldTooLong => "shorten the field, or leave it out",
        Reason::BadAddress => "write the client's IPv4 or IPv6 address alone, without port or proxies",
        Reason::BadTenant | Reason::TooManyTenants => "name a tenant that this source may speak for, or none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_in_what_is_said() {
        for (detail, field) in [
            ("missing field `outcome` at line 1", Some("outcome")),
            ("field `source_ip`: `x` is no address", Some("source_ip")),
            ("duplicate key `account`: name each field once", Some("account")),
            ("this is no JSON object", None),
            ("field `", None),
        ] {
            let rejected = Rejected::new(3, &Reject::new(Reason::Malformed, detail));
            assert_eq!((rejected.index, rejected.field.as_deref()), (3, field), "{detail}");
        }
        for reason in Reason::ALL {
            assert!(!fix(*reason).is_empty());
        }
    }
}
