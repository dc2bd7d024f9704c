//! Login events as a publisher writes them: what `produce`, `simulate` and the adapters put on the topic.

use serde_json::{Map, Value, json};

use crate::event::{Activity, ChallengeResult, FailureReason, LoginEvent, Method, Outcome};

/// The event as one JSON object; fields at their default are left out, times are integers.
#[must_use]
pub fn login_event_to_json(event: &LoginEvent) -> Vec<u8> {
    let default = LoginEvent::default();
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| {
        map.insert(name.to_owned(), value);
    };
    put("event_id", json!(event.event_id));
    put("occurred_at", json!(event.occurred_at));
    if event.tenant != default.tenant {
        put("tenant", json!(event.tenant));
    }
    put("account", json!(event.account));
    put("outcome", json!(event.outcome.as_str()));
    put("source_ip", json!(event.source_ip));
    for (name, text) in [
        ("application", &event.application),
        ("user_agent", &event.user_agent),
        ("device_id", &event.device_id),
        ("tls_fingerprint", &event.tls_fingerprint),
        ("country", &event.country),
        ("subject_id", &event.subject_id),
        ("session_id", &event.session_id),
        ("password_tag", &event.password_tag),
    ] {
        if let Some(text) = text {
            put(name, json!(text));
        }
    }
    if let Some(exists) = event.account_exists {
        put("account_exists", json!(exists));
    }
    if let Some(leaked) = event.credential_leaked {
        put("credential_leaked", json!(leaked));
    }
    if let Some(asn) = event.asn {
        put("asn", json!(asn));
    }
    if let Some(at) = event.account_created_at {
        put("account_created_at", json!(at));
    }
    if event.failure_reason != FailureReason::None {
        put("failure_reason", json!(event.failure_reason.as_str()));
    }
    if event.method != Method::Password {
        put("method", json!(event.method.as_str()));
    }
    if event.activity != Activity::Login {
        put("activity", json!(event.activity.as_str()));
    }
    if event.challenge != ChallengeResult::None {
        put("challenge", json!(event.challenge.as_str()));
    }
    if !event.attributes.is_empty() {
        put("attributes", json!(event.attributes));
    }
    Value::Object(map).to_string().into_bytes()
}

/// The event as Avro written with the bundled schema, without any prefix.
#[must_use]
pub fn login_event_to_avro(event: &LoginEvent) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    text(&mut out, &event.event_id);
    long(&mut out, event.occurred_at);
    text(&mut out, &event.tenant);
    nullable(&mut out, event.application.as_deref(), text);
    text(&mut out, &event.account);
    nullable(&mut out, event.account_exists, |out, v| out.push(u8::from(v)));
    symbol(&mut out, Outcome::ALL, event.outcome);
    symbol(&mut out, FailureReason::ALL, event.failure_reason);
    symbol(&mut out, Method::ALL, event.method);
    text(&mut out, &event.source_ip);
    nullable(&mut out, event.user_agent.as_deref(), text);
    nullable(&mut out, event.device_id.as_deref(), text);
    nullable(&mut out, event.tls_fingerprint.as_deref(), text);
    nullable(&mut out, event.asn, long);
    nullable(&mut out, event.country.as_deref(), text);
    nullable(&mut out, event.credential_leaked, |out, v| out.push(u8::from(v)));
    if !event.attributes.is_empty() {
        long(&mut out, event.attributes.len() as i64);
        for (key, value) in &event.attributes {
            text(&mut out, key);
            text(&mut out, value);
        }
    }
    long(&mut out, 0);
    symbol(&mut out, Activity::ALL, event.activity);
    nullable(&mut out, event.subject_id.as_deref(), text);
    nullable(&mut out, event.session_id.as_deref(), text);
    nullable(&mut out, event.password_tag.as_deref(), text);
    symbol(&mut out, ChallengeResult::ALL, event.challenge);
    nullable(&mut out, event.account_created_at, long);
    out
}

fn long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn text(out: &mut Vec<u8>, value: &str) {
    long(out, value.len() as i64);
    out.extend_from_slice(value.as_bytes());
}

fn symbol<T: PartialEq>(out: &mut Vec<u8>, all: &[T], value: T) {
    let position = all.iter().position(|v| *v == value).unwrap_or_default();
    long(out, position as i64);
}

fn nullable<T>(out: &mut Vec<u8>, value: Option<T>, write: fn(&mut Vec<u8>, T)) {
    match value {
        None => long(out, 0),
        Some(value) => {
            long(out, 1);
            write(out, value);
        }
    }
}
