//! From a published event to an attempt: checks, canonical forms, and the two clocks.

use unicode_normalization::UnicodeNormalization;

use super::{ACCOUNT_BYTES_MAX, COUNT_MAX, EVENT_ID_BYTES_MAX, TENANT_BYTES_MAX, TEXT_BYTES_MAX, USER_AGENT_BYTES_MAX};
use crate::event::{Attempt, LoginEvent, Millis, Outcome, Reason, Reject, Source};

/// Checks an event that arrived at `arrived_at` and brings it into canonical form.
///
/// # Errors
/// A [`Reject`] that names the field: too long a text, an impossible address, a tenant that breaks the pattern.
pub fn canonical(event: LoginEvent, arrived_at: Millis, traceparent: Option<&str>) -> Result<Attempt, Reject> {
    check_tenant(&event.tenant)?;
    check_length("event_id", &event.event_id, EVENT_ID_BYTES_MAX)?;
    if event.event_id.is_empty() {
        return Err(Reject::new(Reason::MissingField, "field `event_id` is empty; a UUID per attempt is usual"));
    }
    check_length("account", &event.account, ACCOUNT_BYTES_MAX)?;
    let source = event.source_ip.parse::<Source>().map_err(|e| {
        let shown: String = event.source_ip.chars().take(64).collect();
        Reject::new(Reason::BadAddress, format!("field `source_ip`: `{shown}` is {e}"))
    })?;
    let account = normal_account(&event.account);
    check_length("account", &account, ACCOUNT_BYTES_MAX)?;
    let count = repeat_count(&event)?;
    // A little ahead is a skewed clock within tolerance, much is a wrong one. Either is counted at its arrival, so
    // that event time never passes stream time.
    let occurred_at = event.occurred_at.min(arrived_at);
    let ahead_ms = event.occurred_at.saturating_sub(occurred_at);
    let mut attributes = Vec::with_capacity(event.attributes.len());
    for (key, value) in event.attributes {
        check_length("attributes", &key, TEXT_BYTES_MAX)?;
        check_length("attributes", &value, TEXT_BYTES_MAX)?;
        attributes.push((key.into(), value.into()));
    }
    Ok(Attempt {
        occurred_at,
        ahead_ms,
        arrived_at,
        tenant: event.tenant.into(),
        event_id: event.event_id.into(),
        source,
        account: account.into(),
        account_exists: event.account_exists,
        outcome: event.outcome,
        failure_reason: event.failure_reason,
        method: event.method,
        activity: event.activity,
        challenge: event.challenge,
        application: short("application", event.application, TEXT_BYTES_MAX)?,
        user_agent: short("user_agent", event.user_agent, USER_AGENT_BYTES_MAX)?,
        device_id: short("device_id", event.device_id, TEXT_BYTES_MAX)?,
        tls_fingerprint: short("tls_fingerprint", event.tls_fingerprint, TEXT_BYTES_MAX)?,
        asn: event.asn.and_then(|n| u32::try_from(n).ok()),
        country: short("country", event.country, 16)?,
        credential_leaked: event.credential_leaked,
        password_tag: event.password_tag.as_deref().map(parse_tag).transpose()?,
        subject_id: short("subject_id", event.subject_id, TEXT_BYTES_MAX)?,
        session_id: short("session_id", event.session_id, TEXT_BYTES_MAX)?,
        account_created_at: event.account_created_at,
        count,
        attributes,
        traceparent: traceparent.filter(|t| is_sampled(t)).map(Into::into),
    })
}

/// The form in which accounts are compared: NFKC, trimmed, lower case.
#[must_use]
pub fn normal_account(name: &str) -> String {
    if name.is_ascii() {
        return name.trim().to_ascii_lowercase();
    }
    // Lower-casing may take a text out of NFKC, so it is brought back into it.
    let lower = name.nfkc().collect::<String>().trim().to_lowercase();
    lower.nfkc().collect()
}

fn check_tenant(tenant: &str) -> Result<(), Reject> {
    let mut bytes = tenant.bytes();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
        && tenant.len() <= TENANT_BYTES_MAX;
    if good {
        return Ok(());
    }
    let shown: String = tenant.chars().take(64).collect();
    Err(Reject::new(Reason::BadTenant, format!("field `tenant`: `{shown}` does not match [a-z0-9][a-z0-9._-]{{0,62}}")))
}

fn check_length(field: &str, text: &str, bytes_max: usize) -> Result<(), Reject> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    Err(Reject::new(Reason::FieldTooLong, format!("field `{field}` has {} bytes; at most {bytes_max}", text.len())))
}

fn short(field: &str, text: Option<String>, bytes_max: usize) -> Result<Option<Box<str>>, Reject> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
    check_length(field, &text, bytes_max)?;
    Ok(Some(text.into()))
}

/// `attributes.count`: what an edge stopped may be reported as one event for many attempts of one source.
fn repeat_count(event: &LoginEvent) -> Result<u32, Reject> {
    let stopped = matches!(event.outcome, Outcome::Blocked | Outcome::Challenged);
    match event.attributes.get("count") {
        Some(text) if stopped => match text.parse::<u32>() {
            Ok(n) => Ok(n.clamp(1, COUNT_MAX)),
            Err(_) => Err(Reject::new(Reason::WrongType, "field `attributes.count`: not a whole number")),
        },
        Some(_) | None => Ok(1),
    }
}

/// At most 24 bits, hexadecimal.
fn parse_tag(tag: &str) -> Result<u32, Reject> {
    let digits = tag.strip_prefix("0x").unwrap_or(tag);
    let value = if (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        u32::from_str_radix(digits, 16).ok()
    } else {
        None
    };
    value.ok_or_else(|| {
        // The text is not repeated: somebody may have put a password there.
        Reject::new(Reason::WrongType, "field `password_tag`: not one to six hexadecimal digits (24 bits)")
    })
}

/// W3C trace context, version 00, flag 01.
fn is_sampled(traceparent: &str) -> bool {
    traceparent.len() == 55
        && traceparent.is_ascii()
        && traceparent.ends_with("-01")
        && traceparent.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}
