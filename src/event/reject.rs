//! Why an input was refused. A reject names the field and the remedy; it never carries the whole value.

use super::names::named;

named! {
    /// The closed list of reasons for a dead letter; header `reason` of `login-events-dlq`, label of its counter.
    Reason default Malformed {
        Malformed = "malformed", EmptyValue = "empty_value", TooLarge = "too_large", UnknownEncoding = "unknown_encoding",
        UnknownSchemaId = "unknown_schema_id", BrokenAvro = "broken_avro", BrokenJson = "broken_json",
        DuplicateKey = "duplicate_key", WrongType = "wrong_type", MissingField = "missing_field",
        FieldTooLong = "field_too_long", BadAddress = "bad_address", BadTenant = "bad_tenant",
        TooManyTenants = "too_many_tenants", BrokenFrame = "broken_frame", Poison = "poison",
    }
}

/// An input that cannot be used, and what its publisher should change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Reject {
    pub reason: Reason,
    /// One line without control characters, at most [`Reject::DETAIL_CHARS_MAX`] characters.
    pub detail: String,
}

impl Reject {
    /// Longest detail kept: enough for a field name and a shortened value.
    pub const DETAIL_CHARS_MAX: usize = 300;

    /// A reject; the detail is cut and freed of control characters, since an attacker may have chosen parts of it.
    #[must_use]
    pub fn new(reason: Reason, detail: impl AsRef<str>) -> Self {
        let detail = detail
            .as_ref()
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .take(Self::DETAIL_CHARS_MAX)
            .collect();
        Reject { reason, detail }
    }
}
