//! OpenSSH's log in the body of a request: its own lines, or what `journalctl -o json` writes.
//!
//! The lines of one connection belong together, so they should be in one request: an attempt whose lines come in two
//! requests may be told by both.

use std::io::Cursor;

use serde_json::Value;

use super::Read;
use super::document::{broken, lines};
use crate::event::wire::{format_millis, json_login_event};
use crate::event::{Millis, Reason, Reject};
use crate::ingest::SshdOptions;
use crate::ingest::sshd::SshdReader;

/// The attempts that a log tells, then the lines that were none of a log.
///
/// # Errors
/// The body is empty or has too many lines.
pub(super) fn read(body: &[u8], now: Millis) -> Result<Vec<Read>, Reject> {
    let all = lines(body, |line| match line.first() {
        Some(b'{') => of_journal(line),
        _ => Ok(line.to_vec()),
    })?;
    if all.is_empty() {
        return Err(Reject::new(Reason::EmptyValue, "the body is empty"));
    }
    let (mut text, mut rejected) = (Vec::new(), Vec::new());
    for line in all {
        match line {
            Ok(line) => {
                text.extend_from_slice(&line);
                text.push(b'\n');
            }
            Err(reject) => rejected.push(Read::Rejected(reject)),
        }
    }
    let options = SshdOptions { now, ..SshdOptions::default() };
    let attempts = SshdReader::new(Box::new(Cursor::new(text)), options).filter_map(Result::ok);
    let mut read: Vec<Read> = attempts
        .map(|input| match json_login_event(&input.value) {
            Ok(decoded) => Read::Event(Box::new(decoded.event)),
            Err(reject) => Read::Rejected(reject),
        })
        .collect();
    read.append(&mut rejected);
    if read.is_empty() {
        // Lines that tell of no attempt, taken note of as one.
        read.push(Read::Ignored);
    }
    Ok(read)
}

/// An entry of the journal as the line that a log would have.
fn of_journal(line: &[u8]) -> Result<Vec<u8>, Reject> {
    let entry: Value = serde_json::from_slice(line).map_err(|error| broken(&error))?;
    let missing = |field: &str| {
        Reject::new(
            Reason::MissingField,
            format!("missing field `{field}`; write the journal with `journalctl -o json`"),
        )
    };
    let text = |field: &str| entry.get(field).and_then(Value::as_str);
    let micros = text("__REALTIME_TIMESTAMP").ok_or_else(|| missing("__REALTIME_TIMESTAMP"))?;
    let micros: i64 = micros
        .parse()
        .map_err(|_| Reject::new(Reason::WrongType, "field `__REALTIME_TIMESTAMP`: not microseconds since 1970"))?;
    let message = entry.get("MESSAGE").and_then(message_of).ok_or_else(|| missing("MESSAGE"))?;
    let program = text("SYSLOG_IDENTIFIER").unwrap_or("sshd");
    let pid = text("_PID").or_else(|| text("SYSLOG_PID")).unwrap_or("0");
    let host = text("_HOSTNAME").unwrap_or("-");
    // What stands before the message is the journal's own; a line feed in it would be another line.
    let head = format!("{} {host} {program}[{pid}]: ", format_millis(micros.div_euclid(1_000)));
    let mut out = head.replace(['\n', '\r'], " ").into_bytes();
    out.extend(message.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
    Ok(out)
}

/// A text, or the bytes of one that is not UTF-8.
fn message_of(message: &Value) -> Option<String> {
    if let Some(text) = message.as_str() {
        return Some(text.to_owned());
    }
    let bytes: Option<Vec<u8>> =
        message.as_array()?.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
