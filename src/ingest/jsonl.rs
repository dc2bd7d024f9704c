//! Login events as JSON, one per line, passed on as their own bytes.
//!
//! A file is in arrival order. `received_at` of a line is its arrival; without it `occurred_at` is, and a line with
//! neither arrives with the line before it. Nothing else of a line is looked at: a broken one passes as it is.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Input;
use super::lines::Lines;
use crate::event::Millis;
use crate::event::wire::parse_millis;

/// Reads one event per line.
#[derive(Debug)]
pub struct JsonlReader<'a> {
    lines: Lines<'a>,
    arrival: Option<Millis>,
}

impl<'a> JsonlReader<'a> {
    #[must_use]
    pub fn new(input: Box<dyn BufRead + 'a>) -> Self {
        JsonlReader { lines: Lines::new(input), arrival: None }
    }
}

impl Iterator for JsonlReader<'_> {
    type Item = io::Result<Input>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.lines.next_line() {
            Ok(Some(value)) => {
                self.arrival = arrival_of(&value).or(self.arrival);
                Some(Ok(Input { value, arrival: self.arrival }))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

/// `received_at` of a JSON object when present and a time, else its `occurred_at`.
#[must_use]
pub fn arrival_of(value: &[u8]) -> Option<Millis> {
    let times: Times<'_> = serde_json::from_slice(without_bom(value)).ok()?;
    let time = |field: &Field<'_>| field.only().and_then(|raw| time_of(raw.get()));
    time(&times.received_at).or_else(|| time(&times.occurred_at))
}

/// The same object `offset_ms` later: `occurred_at` and, where the line has one, `received_at` move together and are
/// written as integers, so the delay between the two clocks stays what it was. Every other byte stays.
///
/// `None` when the bytes are no JSON object with exactly one usable `occurred_at`, or the moved time has no number.
#[must_use]
pub fn shift(value: &[u8], offset_ms: i64) -> Option<Vec<u8>> {
    let body = without_bom(value);
    let times: Times<'_> = serde_json::from_slice(body).ok()?;
    let occurred = moved(body, times.occurred_at.only()?, offset_ms)?;
    let received = times.received_at.only().and_then(|raw| moved(body, raw, offset_ms));
    let mut changes: Vec<Moved> = std::iter::once(occurred).chain(received).collect();
    changes.sort_by_key(|change| change.start);
    let mut out = Vec::with_capacity(body.len() + 8);
    let mut done = 0;
    for change in changes {
        out.extend_from_slice(body.get(done..change.start)?);
        out.extend_from_slice(change.at.to_string().as_bytes());
        done = change.end;
    }
    out.extend_from_slice(body.get(done..)?);
    Some(out)
}

/// A time that is to be written over the bytes from `start` to `end`.
struct Moved {
    start: usize,
    end: usize,
    at: Millis,
}

fn moved(body: &[u8], raw: &RawValue, offset_ms: i64) -> Option<Moved> {
    let at = time_of(raw.get())?.checked_add(offset_ms)?;
    // A borrowed raw value is a part of the body, so its place there is the distance of the two addresses.
    let start = (raw.get().as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    Some(Moved { start, end: start.checked_add(raw.get().len())?, at })
}

fn without_bom(value: &[u8]) -> &[u8] {
    value.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(value)
}

/// An integer in milliseconds or RFC 3339 text, as the contract has times.
fn time_of(json: &str) -> Option<Millis> {
    json.parse().ok().or_else(|| parse_millis(&serde_json::from_str::<Cow<'_, str>>(json).ok()?))
}

/// A field of an object: how often it stands there matters, because intake refuses a field named twice.
#[derive(Debug, Default)]
enum Field<'a> {
    #[default]
    Absent,
    Once(&'a RawValue),
    Repeated,
}

impl<'a> Field<'a> {
    fn only(&self) -> Option<&'a RawValue> {
        match self {
            Field::Once(raw) => Some(raw),
            Field::Absent | Field::Repeated => None,
        }
    }

    fn add(&mut self, raw: &'a RawValue) {
        *self = match self {
            Field::Absent => Field::Once(raw),
            Field::Once(_) | Field::Repeated => Field::Repeated,
        };
    }
}

/// The two times of an object; everything else is skipped.
#[derive(Debug, Default)]
struct Times<'a> {
    occurred_at: Field<'a>,
    received_at: Field<'a>,
}

impl<'de> Deserialize<'de> for Times<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TimesVisitor)
    }
}

struct TimesVisitor;

impl<'de> Visitor<'de> for TimesVisitor {
    type Value = Times<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Times<'de>, A::Error> {
        let mut times = Times::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "occurred_at" => times.occurred_at.add(map.next_value()?),
                "received_at" => times.received_at.add(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(times)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _seq: A) -> Result<Times<'de>, A::Error> {
        Err(serde::de::Error::custom("an array is no login event"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::event::wire::json_login_event;

    fn arrivals(text: &str) -> Vec<Option<Millis>> {
        JsonlReader::new(Box::new(Cursor::new(text.to_owned()))).map(|input| input.unwrap().arrival).collect()
    }

    #[test]
    fn arrival_is_received_at_then_occurred_at_then_the_line_before() {
        let text = concat!(
            "not json\n",
            "{\"occurred_at\": 1000}\n",
            "{\"occurred_at\": 1000, \"received_at\": 2000}\n",
            "{\"occurred_at\": 1000, \"received_at\": \"1970-01-01T00:00:03Z\"}\n",
            "{\"occurred_at\": \"1970-01-01T00:00:04.005Z\", \"received_at\": \"soon\"}\n",
            "{\"occurred_at\": null}\n",
            "{\"nested\": {\"occurred_at\": 9}}\n",
            "[1]\n",
            "{\"received_at\": 7, \"rest\"\n",
            "{\"occurred_at\": 8, \"occurred_at\": 9}\n",
        );
        let same = Some(4005);
        let want = [None, Some(1000), Some(2000), Some(3000), same, same, same, same, same, same];
        assert_eq!(arrivals(text), want);
    }

    #[test]
    fn a_line_passes_byte_for_byte() {
        let line = "{ \"occurred_at\" : 5,\"x\":1e400 , \"\\u00e9\": [1] }";
        let inputs: Vec<Input> =
            JsonlReader::new(Box::new(Cursor::new(format!("{line}\r\n\n")))).map(Result::unwrap).collect();
        assert_eq!(inputs, [Input { value: line.as_bytes().to_vec(), arrival: Some(5) }]);
    }

    #[test]
    fn shifting_moves_both_clocks_and_nothing_else() {
        let cases = [
            (r#"{"a": 1, "occurred_at": 1000, "b": 1.50}"#, r#"{"a": 1, "occurred_at": 1500, "b": 1.50}"#),
            (r#"{"occurred_at":"1970-01-01T00:00:01Z"}"#, r#"{"occurred_at":1500}"#),
            (
                r#"{"received_at": 2000, "account_created_at": 7, "occurred_at": 1000}"#,
                r#"{"received_at": 2500, "account_created_at": 7, "occurred_at": 1500}"#,
            ),
            ("\u{feff}{\"occurred_at\": -1}", r#"{"occurred_at": 499}"#),
            (r#"{"occurred\u005fat": 1}"#, r#"{"occurred\u005fat": 501}"#),
        ];
        for (before, after) in cases {
            assert_eq!(shift(before.as_bytes(), 500).as_deref(), Some(after.as_bytes()), "{before}");
        }
    }

    #[test]
    fn what_has_no_usable_time_is_not_shifted() {
        for text in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"occurred_at": null}"#,
            r#"{"occurred_at": 1.5}"#,
            r#"{"occurred_at": "later"}"#,
            r#"{"occurred_at": 1, "occurred_at": 2}"#,
            r#"{"occurred_at": 9223372036854775807}"#,
            r#"{"occurred_at": 1"#,
            r#"{"occurred_at": 1} {}"#,
            "[1, 2]",
        ] {
            assert_eq!(shift(text.as_bytes(), 1), None, "{text}");
        }
    }

    #[test]
    fn a_shifted_event_is_still_that_event() {
        let text = br#"{"event_id":"a","occurred_at":"2020-02-03T12:43:30.800Z","account":"x","outcome":"FAILURE","source_ip":"1.2.3.4"}"#;
        let mut before = json_login_event(text).unwrap().event;
        let after = json_login_event(&shift(text, 86_400_000).unwrap()).unwrap().event;
        before.occurred_at += 86_400_000;
        assert_eq!(before, after);
    }
}
