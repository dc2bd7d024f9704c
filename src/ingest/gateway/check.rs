//! One event on its way to `login-events`: decoded and checked by the same code as in the job, and bound to the tenants
//! of its source. What passes here is never a dead letter there.

use std::borrow::Cow;

use super::body::with_fields;
use super::sources::Source;
use crate::event::wire::{canonical, json_login_event, login_event_to_json};
use crate::event::{LoginEvent, Millis, Reason, Reject};

/// Largest event, as it is written. The limits of its fields allow for less, but for what their escapes add.
pub const EVENT_BYTES_MAX: usize = 256 << 10;
/// An event that is later than its arrival by more than this has a wrong clock, in milliseconds.
const AHEAD_MAX_MS: Millis = 5_000;
/// An event that arrives later than this enters no window, unless the job's grace is longer.
const LATE_MS: Millis = 300_000;

/// An event that can be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The source address as the event writes it: as key it keeps the attempts of one source in order.
    pub key: Vec<u8>,
    /// The publisher's own bytes wherever they say all that is needed, so that fields of a version to come pass.
    pub value: Vec<u8>,
    pub warning: Option<String>,
}

/// Checks an event that a source sent as JSON at `now`.
///
/// # Errors
/// A [`Reject`] that names the field.
pub fn checked(bytes: Cow<'_, [u8]>, source: &Source, now: Millis) -> Result<Checked, Reject> {
    let bytes = match source.own_tenant() {
        Some(own) => with_fields(bytes, &[("tenant", own.to_owned())])?,
        None => bytes,
    };
    if bytes.len() > EVENT_BYTES_MAX {
        let what = format!("the event has {} bytes; at most {EVENT_BYTES_MAX} are taken", bytes.len());
        return Err(Reject::new(Reason::TooLarge, what));
    }
    if bytes.first() != Some(&b'{') {
        return Err(Reject::new(Reason::WrongType, "this is no JSON object, and so no login event"));
    }
    let decoded = json_login_event(&bytes)?;
    let unknown = (decoded.unknown_names > 0).then(|| {
        format!(
            "{} names of outcome, reason, method or the like are not known and mean their defaults",
            decoded.unknown_names
        )
    });
    let (key, warning) = check(decoded.event, source, now)?;
    Ok(Checked { key, value: bytes.into_owned(), warning: unknown.or(warning) })
}

/// The same of an event that an adapter made.
///
/// # Errors
/// As there.
pub fn checked_event(mut event: LoginEvent, source: &Source, now: Millis) -> Result<Checked, Reject> {
    if let Some(own) = source.own_tenant().filter(|_| event.tenant == LoginEvent::default().tenant) {
        event.tenant = own.to_owned();
    }
    let value = login_event_to_json(&event);
    let (key, warning) = check(event, source, now)?;
    Ok(Checked { key, value, warning })
}

fn check(event: LoginEvent, source: &Source, now: Millis) -> Result<(Vec<u8>, Option<String>), Reject> {
    let key = event.source_ip.clone().into_bytes();
    let occurred_at = event.occurred_at;
    let attempt = canonical(event, now, None)?;
    if !source.may_speak_for(&attempt.tenant) {
        return Err(Reject::new(
            Reason::BadTenant,
            format!(
                "field `tenant`: this source may not speak for `{}`; it may for {}",
                attempt.tenant,
                source.tenants().join(", ")
            ),
        ));
    }
    Ok((key, of_clock(occurred_at, now)))
}

/// What is to be said about the time of an event.
fn of_clock(occurred_at: Millis, now: Millis) -> Option<String> {
    let behind = now.saturating_sub(occurred_at);
    if behind < -AHEAD_MAX_MS {
        let ahead = behind.unsigned_abs() / 1_000;
        return Some(format!("field `occurred_at`: {ahead} s later than now; it counts as now, set the clock"));
    }
    (behind > LATE_MS).then(|| {
        format!("field `occurred_at`: {} s ago; so late an attempt enters no window and blocks nobody", behind / 1_000)
    })
}

#[cfg(test)]
mod tests {
    use super::super::sources::Sources;
    use super::*;
    use crate::event::wire::parse_millis;

    const NOW: Millis = 1_561_682_490_000;

    fn sources(tenants: &str) -> Sources {
        let hash = "00".repeat(32);
        let text = format!("sources: [{{name: a, tenants: {tenants}, bearer_sha256: '{hash}'}}]");
        Sources::parse(&text, &[], |_| Err(std::io::ErrorKind::NotFound.into())).unwrap()
    }

    fn check_one(tenants: &str, event: &str) -> Result<Checked, String> {
        // The only one; its token is not known to anybody.
        let sources = sources(tenants);
        let source = sources.only().unwrap();
        checked(Cow::Borrowed(event.as_bytes()), source, NOW).map_err(|e| e.to_string())
    }

    fn event(fields: &str) -> String {
        format!(
            r#"{{"event_id":"a","occurred_at":{NOW},"account":"ada","outcome":"FAILURE","source_ip":"203.0.113.9"{fields}}}"#
        )
    }

    #[test]
    fn an_event_passes_as_it_is_with_the_tenant_of_its_source() {
        let own = event(r#","tenant":"shop","to_come":[1.50]"#);
        let passed = check_one("[shop]", &own).unwrap();
        assert_eq!(
            (passed.value, passed.key, passed.warning),
            (own.clone().into_bytes(), b"203.0.113.9".to_vec(), None)
        );
        let stamped = check_one("[shop]", &event("")).unwrap().value;
        assert!(stamped.starts_with(br#"{"tenant":"shop","event_id""#));
        assert_eq!(check_one("['*']", &event("")).unwrap().value, event("").into_bytes());
        assert_eq!(check_one("[a, default]", &event("")).unwrap().value, event("").into_bytes());
        let error = check_one("[a, b]", &event("")).unwrap_err();
        assert_eq!(error, "bad_tenant: field `tenant`: this source may not speak for `default`; it may for a, b");
        assert!(check_one("[shop2]", &own).unwrap_err().starts_with("bad_tenant: field `tenant`: this source"));
    }

    #[test]
    fn what_the_job_would_refuse_is_refused_here() {
        let long = "x".repeat(2_000);
        for (event, what) in [
            ("{}".to_owned(), "missing_field: missing field `event_id`"),
            ("[]".to_owned(), "wrong_type: this is no JSON object"),
            ("{".to_owned(), "broken_json"),
            (event(r#","account":"b""#), "duplicate_key: duplicate key `account`"),
            (event(r#","user_agent":7"#), "wrong_type: field `user_agent`"),
            (event(&format!(r#","device_id":"{long}""#)), "field_too_long: field `device_id`"),
            (event("").replace("203.0.113.9", "203.0.113.9:80"), "bad_address: field `source_ip`"),
            (event("").replace("\"a\"", "\"\""), "missing_field: field `event_id` is empty"),
            (event(r#","tenant":"A b""#), "bad_tenant: field `tenant`: `A b` does not match"),
            (event(&format!(r#","x":"{}""#, "x".repeat(EVENT_BYTES_MAX))), "too_large: the event has"),
        ] {
            let error = check_one("['*']", &event).unwrap_err();
            assert!(error.starts_with(what), "{what}: {error}");
        }
    }

    #[test]
    fn a_wrong_clock_is_told_and_passes() {
        let at = |text: &str| {
            let event = event("").replace(&NOW.to_string(), &format!("\"{text}\""));
            check_one("[shop]", &event).unwrap().warning.unwrap_or_default()
        };
        assert_eq!(NOW, parse_millis("2019-06-28T00:41:30Z").unwrap());
        for (text, what) in [
            ("2019-06-28T00:41:35Z", ""),
            ("2019-06-28T00:36:30Z", ""),
            ("2019-06-28T00:36:29Z", "301 s ago"),
            ("2019-06-28T01:41:30Z", "3600 s later than now"),
            ("1970-01-01T00:00:00Z", "1561682490 s ago"),
        ] {
            let warning = at(text);
            assert!(warning.contains(what) && warning.is_empty() == what.is_empty(), "{text}: {warning}");
        }
        let unknown = event("").replace("FAILURE", "MAYBE");
        assert!(check_one("[shop]", &unknown).unwrap().warning.unwrap().starts_with("1 names of outcome"));
    }
}
