//! From the body of a request to the login events in it, each as JSON of its own.
//!
//! | media type | what the body is |
//! | --- | --- |
//! | `application/json`, or none | one event, or an array of them |
//! | `application/x-ndjson` (and its other names) | an event a line |
//! | `application/cloudevents+json` | one CloudEvent 1.0 with the event as `data` |
//! | `application/cloudevents-batch+json` | an array of these |
//! | `application/json` with `ce-` headers | the event; its id and time may stand in the headers |
//!
//! A CloudEvent lends its `id` (with its `source`, since only both together are unique) and its `time` to an event that
//! has no `event_id` and no `occurred_at` of its own.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::event::wire::EVENT_ID_BYTES_MAX;
use crate::event::{Reason, Reject};

/// Most events in one request.
pub const ITEMS_MAX: usize = 1_000;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    Json,
    Lines,
    CloudEvent,
    CloudEvents,
}

/// The media type of a `Content-Type` header; `None` of its absence is JSON.
///
/// # Errors
/// One that is not taken, with those that are.
pub fn media(content_type: Option<&str>) -> Result<Media, Reject> {
    let Some(text) = content_type else { return Ok(Media::Json) };
    let mut parts = text.split(';');
    let kind = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let charset = parts.find_map(|part| part.trim().to_ascii_lowercase().strip_prefix("charset=").map(str::to_owned));
    if let Some(charset) = charset.filter(|charset| !matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"))
    {
        return Err(Reject::new(
            Reason::UnknownEncoding,
            format!("header Content-Type: charset {charset} is not taken; write UTF-8"),
        ));
    }
    match kind.as_str() {
        "application/json" => Ok(Media::Json),
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/jsonlines"
        | "application/json-lines" => Ok(Media::Lines),
        "application/cloudevents+json" => Ok(Media::CloudEvent),
        "application/cloudevents-batch+json" => Ok(Media::CloudEvents),
        _ => Err(Reject::new(
            Reason::UnknownEncoding,
            format!(
                "header Content-Type: `{kind}` is not taken; send application/json, application/x-ndjson, \
                 application/cloudevents+json or application/cloudevents-batch+json"
            ),
        )),
    }
}

/// What the headers of a CloudEvent in binary mode say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BinaryMode {
    pub specversion: String,
    pub id: Option<String>,
    pub source: Option<String>,
    pub kind: Option<String>,
    pub time: Option<String>,
}

/// One event of a body: its JSON, or why it is none.
pub type Item<'a> = Result<Cow<'a, [u8]>, Reject>;

/// The events of a body, in their order.
///
/// # Errors
/// The body as a whole cannot be read, or holds more than [`ITEMS_MAX`] events ([`Reason::TooLarge`]) or none
/// ([`Reason::EmptyValue`]).
pub fn items<'a>(media: Media, binary: Option<&BinaryMode>, body: &'a [u8]) -> Result<Vec<Item<'a>>, Reject> {
    let body = body.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(body).trim_ascii();
    if body.is_empty() {
        return Err(Reject::new(Reason::EmptyValue, "the body is empty; send one login event, or an array of them"));
    }
    match (media, binary) {
        (Media::Json, Some(binary)) => Ok(vec![in_binary_mode(binary, body)]),
        (Media::Json, None) if body.first() == Some(&b'[') => {
            Ok(array(body)?.into_iter().map(|raw| Ok(Cow::Borrowed(raw.get().as_bytes()))).collect())
        }
        (Media::Json, None) => Ok(vec![Ok(Cow::Borrowed(body))]),
        (Media::Lines, _) => lines(body),
        (Media::CloudEvent, _) => Ok(vec![structured(body)]),
        (Media::CloudEvents, _) => Ok(array(body)?.into_iter().map(|raw| structured(raw.get().as_bytes())).collect()),
    }
}

fn too_many() -> Reject {
    Reject::new(Reason::TooLarge, format!("the body holds more than {ITEMS_MAX} events; send them in several requests"))
}

pub(crate) fn lines(body: &[u8]) -> Result<Vec<Item<'_>>, Reject> {
    let mut items = Vec::new();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if items.len() == ITEMS_MAX {
            return Err(too_many());
        }
        items.push(Ok(Cow::Borrowed(line)));
    }
    Ok(items)
}

/// The items of an array, as many as are taken.
fn array(body: &[u8]) -> Result<Vec<&RawValue>, Reject> {
    struct Items;
    impl<'de> Visitor<'de> for Items {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of events")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                if items.len() == ITEMS_MAX {
                    return Err(serde::de::Error::custom(TOO_MANY));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    const TOO_MANY: &str = "too many events";
    let mut read = serde_json::Deserializer::from_slice(body);
    let items = read.deserialize_seq(Items).and_then(|items| read.end().map(|()| items));
    let items = items.map_err(|error| {
        let text = error.to_string();
        if text.starts_with(TOO_MANY) { too_many() } else { Reject::new(Reason::BrokenJson, text) }
    })?;
    if items.is_empty() {
        return Err(Reject::new(Reason::EmptyValue, "the array is empty; put login events into it"));
    }
    Ok(items)
}

#[derive(Deserialize)]
struct Structured<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    datacontenttype: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<Cow<'a, str>>,
}

fn structured(bytes: &[u8]) -> Item<'_> {
    if bytes.first() != Some(&b'{') {
        return Err(Reject::new(Reason::WrongType, "this is no JSON object, and so no CloudEvent"));
    }
    let event: Structured<'_> = serde_json::from_slice(bytes).map_err(|error| {
        let reason = if error.is_data() { Reason::WrongType } else { Reason::BrokenJson };
        Reject::new(reason, format!("not a CloudEvent: {error}"))
    })?;
    let content = event.datacontenttype.as_deref().unwrap_or("application/json");
    let content = content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if content != "application/json" && !content.ends_with("+json") {
        return Err(Reject::new(
            Reason::UnknownEncoding,
            format!("field `datacontenttype`: `{content}` is not taken; send the event as application/json"),
        ));
    }
    let lent = Lent::new(
        event.specversion.as_deref(),
        event.id.as_deref(),
        event.source.as_deref(),
        event.kind.as_deref(),
        event.time.as_deref(),
    )?;
    match (event.data, event.data_base64) {
        (Some(_), Some(_)) => Err(Reject::new(Reason::DuplicateKey, "`data` and `data_base64` are both there")),
        (Some(data), None) => lent.to(Cow::Borrowed(data.get().as_bytes())),
        (None, Some(text)) => {
            let data = base64::prelude::BASE64_STANDARD.decode(text.as_bytes());
            let data = data.map_err(|_| Reject::new(Reason::WrongType, "field `data_base64`: not base64"))?;
            lent.to(Cow::Owned(data))
        }
        (None, None) => Err(Reject::new(Reason::MissingField, "missing field `data`: the login event itself")),
    }
}

fn in_binary_mode<'a>(binary: &BinaryMode, body: &'a [u8]) -> Item<'a> {
    let lent = Lent::new(
        Some(&binary.specversion),
        binary.id.as_deref(),
        binary.source.as_deref(),
        binary.kind.as_deref(),
        binary.time.as_deref(),
    )?;
    lent.to(Cow::Borrowed(body))
}

/// What a CloudEvent says about the login event in it.
struct Lent {
    event_id: String,
    occurred_at: Option<String>,
}

impl Lent {
    fn new(
        specversion: Option<&str>,
        id: Option<&str>,
        source: Option<&str>,
        kind: Option<&str>,
        time: Option<&str>,
    ) -> Result<Lent, Reject> {
        match specversion {
            Some("1.0") => {}
            Some(other) => {
                let shown: String = other.chars().take(16).collect();
                let what = format!("field `specversion`: `{shown}` is not taken; write CloudEvents 1.0");
                return Err(Reject::new(Reason::UnknownEncoding, what));
            }
            None => return Err(missing("specversion")),
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| missing("id"))?;
        let source = source.filter(|source| !source.is_empty()).ok_or_else(|| missing("source"))?;
        kind.filter(|kind| !kind.is_empty()).ok_or_else(|| missing("type"))?;
        let both = format!("{source}#{id}");
        let event_id = if both.len() <= EVENT_ID_BYTES_MAX { both } else { hex(&Sha256::digest(&both)) };
        Ok(Lent { event_id, occurred_at: time.map(str::to_owned) })
    }

    fn to(self, event: Cow<'_, [u8]>) -> Item<'_> {
        let mut fields = vec![("event_id", self.event_id)];
        fields.extend(self.occurred_at.map(|time| ("occurred_at", time)));
        with_fields(event, &fields)
    }
}

fn missing(attribute: &str) -> Reject {
    Reject::new(Reason::MissingField, format!("missing field `{attribute}`: every CloudEvent has one"))
}

/// In lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same object, with those of these text fields that it does not have. Every byte of its own stays; what is no
/// object stays as it is, and is refused where it is decoded.
///
/// # Errors
/// None now; the signature is that of an [`Item`].
pub fn with_fields<'a>(event: Cow<'a, [u8]>, fields: &[(&'static str, String)]) -> Item<'a> {
    let Some(absent) = absent(&event, fields) else { return Ok(event) };
    if absent.is_empty() {
        return Ok(event);
    }
    let Some(start) = event.iter().position(|byte| *byte == b'{') else { return Ok(event) };
    let (before, rest) = event.split_at(start + 1);
    let is_empty = rest.trim_ascii_start().first() == Some(&b'}');
    let added: Vec<String> =
        absent.iter().map(|(name, text)| format!("\"{name}\":{}", serde_json::Value::from(text.as_str()))).collect();
    let added = added.join(",");
    Ok(Cow::Owned([before, added.as_bytes(), if is_empty { b"" } else { b"," }, rest].concat()))
}

/// Those of the fields that an object does not have; `None` of what is no object.
fn absent<'f>(event: &[u8], fields: &'f [(&'static str, String)]) -> Option<Vec<&'f (&'static str, String)>> {
    struct Keys<'f>(Vec<&'f (&'static str, String)>);
    impl<'de, 'f> Visitor<'de> for Keys<'f> {
        type Value = Vec<&'f (&'static str, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
            while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                self.0.retain(|(name, _)| *name != key);
                map.next_value::<serde::de::IgnoredAny>()?;
            }
            Ok(self.0)
        }
    }
    serde_json::Deserializer::from_slice(event).deserialize_map(Keys(fields.iter().collect())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(media: Media, body: &str) -> Vec<Result<String, String>> {
        let items = items(media, None, body.as_bytes()).unwrap();
        items
            .into_iter()
            .map(|item| item.map(|bytes| String::from_utf8(bytes.into_owned()).unwrap()).map_err(|e| e.to_string()))
            .collect()
    }

    fn refused(media: Media, body: &str) -> String {
        items(media, None, body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn one_event_an_array_and_lines() {
        let ok = |texts: &[&str]| texts.iter().map(|text| Ok((*text).to_owned())).collect::<Vec<_>>();
        assert_eq!(texts(Media::Json, " {\"a\": 1}\n"), ok(&["{\"a\": 1}"]));
        assert_eq!(texts(Media::Json, "\u{feff}{}"), ok(&["{}"]));
        assert_eq!(texts(Media::Json, "[{\"a\": [1]}, 7 ,\n \"x\"]"), ok(&["{\"a\": [1]}", "7", "\"x\""]));
        assert_eq!(texts(Media::Lines, "{}\r\n\n x\n{\"b\":1}"), ok(&["{}", "x", "{\"b\":1}"]));
        assert_eq!(
            refused(Media::Json, " \n"),
            "empty_value: the body is empty; send one login event, or an array of them"
        );
        assert!(refused(Media::Json, "[]").starts_with("empty_value: the array is empty"));
        assert!(refused(Media::Json, "[{}").starts_with("broken_json: EOF"));
        assert!(refused(Media::Json, "[{}] x").starts_with("broken_json: trailing characters"));
        let many = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert_eq!(texts(Media::Json, &many(ITEMS_MAX)).len(), ITEMS_MAX);
        assert!(refused(Media::Json, &many(ITEMS_MAX + 1)).starts_with("too_large: the body holds more than 1000"));
        assert!(refused(Media::Lines, &"1\n".repeat(ITEMS_MAX + 1)).starts_with("too_large"));
    }

    #[test]
    fn a_cloud_event_lends_what_its_event_lacks() {
        let event = |data: &str| {
            format!(
                r#"{{"specversion":"1.0","id":"7","source":"/web","type":"login","time":"2019-06-28T00:40:00Z","x":1,"data":{data}}}"#
            )
        };
        let one = |data: &str| texts(Media::CloudEvent, &event(data)).remove(0);
        assert_eq!(
            one(r#"{ "account": "ada" }"#).unwrap(),
            r##"{"event_id":"/web#7","occurred_at":"2019-06-28T00:40:00Z", "account": "ada" }"##
        );
        assert_eq!(one("{}").unwrap(), r##"{"event_id":"/web#7","occurred_at":"2019-06-28T00:40:00Z"}"##);
        let own = r#"{"event_id":"own","occurred_at":5}"#;
        assert_eq!(one(own).unwrap(), own);
        assert_eq!(one("[1]").unwrap(), "[1]");
        let base64 = event("1").replace("\"data\":1", "\"data_base64\":\"e30=\"");
        assert!(texts(Media::CloudEvent, &base64)[0].as_ref().unwrap().starts_with("{\"event_id\""));
        let batch = format!("[{},{{}},5,{}]", event("{}"), event("{\"event_id\":\"b\"}"));
        let batch = texts(Media::CloudEvents, &batch);
        assert!(batch[0].is_ok() && batch[3].is_ok());
        assert_eq!(batch[1], Err("missing_field: missing field `specversion`: every CloudEvent has one".to_owned()));
        assert_eq!(batch[2], Err("wrong_type: this is no JSON object, and so no CloudEvent".to_owned()));
        for (from, to, what) in [
            ("\"1.0\"", "\"0.3\"", "unknown_encoding: field `specversion`: `0.3`"),
            ("\"id\":\"7\"", "\"id\":\"\"", "missing_field: missing field `id`"),
            ("\"id\":\"7\"", "\"id\":7", "wrong_type: not a CloudEvent: invalid type"),
            ("\"source\":\"/web\",", "", "missing_field: missing field `source`"),
            ("\"x\":1", "\"datacontenttype\":\"text/xml\"", "unknown_encoding: field `datacontenttype`"),
            ("\"x\":1", "\"data_base64\":\"e30=\"", "duplicate_key: `data` and"),
            ("\"data\":{}", "\"data_base64\":\"!\"", "wrong_type: field `data_base64`"),
            ("\"data\":{}", "\"y\":{}", "missing_field: missing field `data`"),
            ("\"x\":1", "\"x\":", "broken_json: not a CloudEvent"),
        ] {
            let error = texts(Media::CloudEvent, &event("{}").replace(from, to)).remove(0).unwrap_err();
            assert!(error.starts_with(what), "{to}: {error}");
        }
        let long = event("{}").replace("\"7\"", &format!("\"{}\"", "7".repeat(300)));
        let long = texts(Media::CloudEvent, &long).remove(0).unwrap();
        let long: serde_json::Value = serde_json::from_str(&long).unwrap();
        assert_eq!(long["event_id"].as_str().map(str::len), Some(64));
    }

    #[test]
    fn headers_are_a_cloud_event_in_binary_mode() {
        let text = |text: &str| Some(text.to_owned());
        let binary = BinaryMode {
            specversion: "1.0".to_owned(),
            id: text("7"),
            source: text("/web"),
            kind: text("login"),
            time: None,
        };
        let items = items(Media::Json, Some(&binary), b"{\"account\":\"\"}").unwrap();
        assert_eq!(items[0].as_deref(), Ok(br##"{"event_id":"/web#7","account":""}"##.as_slice()));
        let none = BinaryMode { id: None, ..binary };
        assert!(super::items(Media::Json, Some(&none), b"{}").unwrap()[0].is_err());
    }

    #[test]
    fn media_types_are_read_as_people_write_them() {
        assert_eq!(media(None), Ok(Media::Json));
        assert_eq!(media(Some("Application/JSON; charset=\"UTF-8\"")), Ok(Media::Json));
        assert_eq!(media(Some("application/x-ndjson")), Ok(Media::Lines));
        assert_eq!(media(Some("application/cloudevents+json; charset=utf-8")), Ok(Media::CloudEvent));
        assert_eq!(media(Some("application/cloudevents-batch+json")), Ok(Media::CloudEvents));
        for wrong in ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"] {
            assert!(media(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
