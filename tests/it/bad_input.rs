//! Whatever is on the input topic, it ends in one of the five sums, and nothing panics.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis::engine::frame::{FrameReader, FrameWriter};
use portcullis::engine::{Counter, Env, Item, Mark, Output, Pipeline, Raw};
use portcullis::event::wire::{self, ATTRIBUTES_MAX, RECORD_BYTES_MAX, WriterSchema};
use portcullis::event::{LoginEvent, Millis, Outcome, Reason, Reject};
use proptest::prelude::*;

use crate::support::core::{Record, START, default_env, failure};

/// The reject of one record, or what became of it.
fn fate(env: &Arc<Env>, raw: &Raw<'_>) -> Result<Counter, Reject> {
    let mut pipeline = Pipeline::new(Arc::clone(env));
    let mut emitted = pipeline.feed(*raw);
    let counts = pipeline.counts();
    assert_eq!((counts.get(Counter::EventsIn), counts.accounted()), (1, 1));
    match emitted.pop().map(|emission| emission.output) {
        Some(Output::DeadLetter(letter)) => {
            assert_eq!(counts.get(Counter::DeadLetters), 1);
            Err(letter.reject)
        }
        other => {
            assert_eq!(other, None);
            let ends = [Counter::Counted, Counter::NotCounted, Counter::Late, Counter::Duplicates];
            Ok(ends.into_iter().find(|end| counts.get(*end) == 1).expect("one of the sums"))
        }
    }
}

#[track_caller]
fn refused(value: Option<&[u8]>, header: Option<&[u8]>, reason: Reason, names: &str) {
    let record = Record { at: START, value: value.map(<[u8]>::to_vec) };
    let writer = header.is_none_or(|header| header == [0, 0, 0, 0, 1]).then_some(&WriterSchema::Bundled);
    let raw = Raw { schema_header: header, writer, ..record.raw() };
    let reject = fate(&default_env(), &raw).expect_err(names);
    assert_eq!(reject.reason, reason, "{reject}");
    assert!(reject.detail.contains(names), "{reject} does not name {names}");
    assert!(reject.detail.chars().count() <= Reject::DETAIL_CHARS_MAX);
    assert!(!reject.detail.contains(char::is_control));
}

#[test]
fn what_is_neither_json_nor_avro() {
    refused(None, None, Reason::EmptyValue, "no value");
    refused(Some(b""), None, Reason::EmptyValue, "no value");
    for value in [&b"hello"[..], b"[]", b"\xff\xfe{", b"\x00\x00", b"\x00\x00\x00\x00\x01", b"  \n"] {
        refused(Some(value), None, Reason::UnknownEncoding, "neither JSON");
    }
    refused(Some(&vec![b'{'; 10 << 20]), None, Reason::TooLarge, "10485760 bytes");
    refused(Some(&vec![0; RECORD_BYTES_MAX + 1]), None, Reason::TooLarge, "bytes");
    for header in [&b""[..], b"\x01\x00\x00\x00\x01", b"\x00\x00\x00\x01", b"one"] {
        refused(Some(b"{}"), Some(header), Reason::UnknownSchemaId, "__value_schema_id");
    }
}

#[test]
fn avro_that_does_not_hold_what_it_says() {
    let good = wire::login_event_to_avro(&failure(START, "1", "203.0.113.7", "a@example.org"));
    let framed = |body: &[u8]| [&[0, 0, 0, 0, 1], body].concat();
    for cut in 1..good.len() {
        refused(Some(&framed(&good[..cut])), None, Reason::BrokenAvro, "field");
    }
    refused(Some(&framed(&[&good[..], b"x"].concat())), None, Reason::BrokenAvro, "left over");
    let without_schema = Raw { writer: None, ..Record { at: START, value: None }.raw() };
    let unknown = [&[0, 0, 0, 9, 9], &good[..]].concat();
    let reject = fate(&default_env(), &Raw { value: Some(&unknown), ..without_schema }).unwrap_err();
    assert_eq!((reject.reason, reject.detail.contains("2313")), (Reason::UnknownSchemaId, true), "{reject}");
    // A text of two thousand million bytes; a map of as many entries; a map that never ends.
    refused(Some(&framed(&[0xfe, 0xff, 0xff, 0xff, 0x0f])), None, Reason::BrokenAvro, "`event_id`");
    refused(Some(&framed(&[0xff; 12])), None, Reason::BrokenAvro, "`event_id`");
    for (count, reason) in [(i64::MAX, Reason::BrokenAvro), (i64::MIN, Reason::BrokenAvro), (1, Reason::DuplicateKey)] {
        refused(Some(&framed(&with_attribute_blocks(&good, count))), None, reason, "`attributes`");
    }
}

/// The record with its empty map of attributes replaced by endless blocks of one empty entry, each said to have `count`.
fn with_attribute_blocks(good: &[u8], count: i64) -> Vec<u8> {
    // From behind: account_created_at, challenge, password_tag, session_id, subject_id, activity, then the map's end.
    let (head, tail) = good.split_at(good.len() - 7);
    let mut bytes = head.to_vec();
    for _ in 0..50_000 {
        let mut zigzag = ((count << 1) ^ (count >> 63)) as u64;
        while zigzag >= 0x80 {
            bytes.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        bytes.extend([zigzag as u8, 0, 0]);
    }
    bytes.extend(tail);
    bytes
}

#[test]
fn json_of_the_wrong_shape() {
    let at = START;
    let event = |rest: &str| {
        format!(
            "{{\"event_id\":\"1\",\"occurred_at\":{at},\"tenant\":\"shop\",\"account\":\"a\",\"outcome\":\"FAILURE\",\
             \"source_ip\":\"203.0.113.7\"{rest}}}"
        )
    };
    let table: &[(String, Reason, &str)] = &[
        (event(",\"account\":\"b\""), Reason::DuplicateKey, "`account`"),
        (event(",\"attributes\":{\"a\":\"1\",\"a\":\"2\"}"), Reason::DuplicateKey, "attributes"),
        (event(",\"attributes\":{\"a\":1}"), Reason::WrongType, "attributes"),
        (event(",\"attributes\":[]"), Reason::WrongType, "attributes"),
        (event(",\"asn\":\"many\""), Reason::WrongType, "asn"),
        (event(",\"asn\":1.5"), Reason::WrongType, "asn"),
        (event(",\"account_exists\":\"yes\""), Reason::WrongType, "account_exists"),
        (event(",\"method\":null"), Reason::WrongType, "method"),
        (event(",\"password_tag\":\"a password\""), Reason::WrongType, "password_tag"),
        (event(",\"x\":"), Reason::BrokenJson, "line 1"),
        (event("") + "{}", Reason::BrokenJson, "trailing"),
        (event(&format!(",\"x\":{}", "[".repeat(5_000))), Reason::BrokenJson, "expected value"),
        (event(",\"new\":1,\"new\":2"), Reason::DuplicateKey, "`new`"),
        (event(",\"country\":\"N"), Reason::BrokenJson, "`country`"),
        (event("").replace(&at.to_string(), "\"yesterday\""), Reason::WrongType, "occurred_at"),
        (event("").replace(&at.to_string(), "1e400"), Reason::BrokenJson, "number"),
        (event("").replace(&at.to_string(), "18446744073709551615"), Reason::WrongType, "occurred_at"),
        (event("").replace("\"event_id\":\"1\",", ""), Reason::MissingField, "`event_id`"),
        (event("").replace("\"1\"", "\"\""), Reason::MissingField, "`event_id`"),
        (event("").replace("203.0.113.7", "999.1.1.1"), Reason::BadAddress, "`source_ip`"),
        (event("").replace("203.0.113.7", "203.0.113.7:80"), Reason::BadAddress, "`source_ip`"),
        (event("").replace("shop", "a|b"), Reason::BadTenant, "`a|b`"),
        (event("").replace("shop", "Shop"), Reason::BadTenant, "`tenant`"),
        (event("").replace("shop", &"s".repeat(64)), Reason::BadTenant, "`tenant`"),
        (event("").replace("\"a\"", &format!("\"{}\"", "a".repeat(1025))), Reason::FieldTooLong, "`account`"),
        // One letter that lower-casing and NFKC make eighteen of.
        (event("").replace("\"a\"", &format!("\"{}\"", "\u{fdfa}".repeat(300))), Reason::FieldTooLong, "`account`"),
        (event(&format!(",\"user_agent\":\"{}\"", "u".repeat(900_000))), Reason::FieldTooLong, "`user_agent`"),
        (event(&format!(",\"device_id\":\"{}\"", "d".repeat(1025))), Reason::FieldTooLong, "`device_id`"),
        (event(&format!(",\"attributes\":{{\"a\":\"{}\"}}", "v".repeat(1025))), Reason::FieldTooLong, "`attributes`"),
        (event(&format!(",\"attributes\":{}", many_attributes())), Reason::FieldTooLong, "attributes"),
        (
            event(",\"attributes\":{\"count\":\"a lot\"}").replace("FAILURE", "BLOCKED"),
            Reason::WrongType,
            "`attributes.count`",
        ),
    ];
    for (text, reason, names) in table {
        refused(Some(text.as_bytes()), None, *reason, names);
    }
}

fn many_attributes() -> String {
    let all: BTreeMap<String, String> = (0..=ATTRIBUTES_MAX).map(|n| (n.to_string(), "v".to_owned())).collect();
    serde_json::to_string(&all).unwrap()
}

#[test]
fn what_a_newer_publisher_sends_is_taken() {
    let text = "\u{feff} {\"event_id\":\"1\",\"occurred_at\":\"2026-01-05T10:00:00Z\",\"account\":\"a\",\
                \"outcome\":\"FAILURE\",\"source_ip\":\"203.0.113.7\",\"new\":[1,{\"deep\":[]}],\"method\":\"TELEPATHY\"}";
    let record = Record { at: START, value: Some(text.as_bytes().to_vec()) };
    assert_eq!(fate(&default_env(), &record.raw()), Ok(Counter::Counted));
}

#[test]
fn tenants_cannot_be_invented_without_end() {
    let mut env = Arc::unwrap_or_clone(default_env());
    env.limits.tenants_max = 3;
    env.tenants = vec!["named".to_owned()];
    let mut pipeline = Pipeline::new(Arc::new(env));
    let mut feed = |tenant: &str| {
        let event = LoginEvent { tenant: tenant.to_owned(), ..failure(START, tenant, "203.0.113.7", "a") };
        let emitted = pipeline.feed(Record::json(START, &event).raw());
        emitted.iter().any(|e| matches!(&e.output, Output::DeadLetter(l) if l.reject.reason == Reason::TooManyTenants))
    };
    let fates = ["a", "b", "c", "d", "named", "a"].map(&mut feed);
    assert_eq!(fates, [false, false, false, true, false, false]);
}

#[test]
fn an_input_topic_of_one_tenant_speaks_for_no_other() {
    let event = LoginEvent { tenant: "somebody|else".to_owned(), ..failure(START, 1, "203.0.113.7", "a") };
    let record = Record::json(START, &event);
    assert_eq!(fate(&default_env(), &Raw { tenant: Some("museum"), ..record.raw() }), Ok(Counter::Counted));
}

/// Schemas that a registry may hold: newer and older versions, other orders, and ones made to do harm.
fn foreign(fields: &str) -> WriterSchema {
    let text = format!(
        "{{\"type\":\"record\",\"name\":\"LoginEvent\",\"namespace\":\"portcullis.v1\",\"fields\":[{fields}]}}"
    );
    WriterSchema::parse(&text).unwrap_or_else(|reject| panic!("{reject}"))
}

const REQUIRED: &str = r#"
    {"name":"source_ip","type":"string"},
    {"name":"account","type":["string","null"]},
    {"name":"outcome","type":{"type":"enum","name":"O","symbols":["FAILURE","TELEPORTED","SUCCESS"]}},
    {"name":"occurred_at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"event_id","type":"string"}"#;

fn required_bytes(outcome: u8) -> Vec<u8> {
    let mut bytes = b"\x16203.0.113.7\x00\x02a".to_vec();
    bytes.push(outcome);
    let mut zigzag = (START as u64) * 2000;
    while zigzag >= 0x80 {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes.extend(b"\x04e1");
    bytes
}

#[test]
fn another_writer_schema_is_read_by_name() {
    let decode = |schema: &WriterSchema, bytes: &[u8]| {
        wire::decode(bytes, wire::Encoding::Avro { schema_id: 7, body: 0 }, Some(schema))
    };
    let schema = foreign(REQUIRED);
    let decoded = decode(&schema, &required_bytes(0)).unwrap();
    let event = LoginEvent { tenant: "default".to_owned(), ..failure(START, "e1", "203.0.113.7", "a") };
    assert_eq!((decoded.event, decoded.unknown_names), (event, 0));
    let decoded = decode(&schema, &required_bytes(2)).unwrap();
    assert_eq!((decoded.event.outcome, decoded.unknown_names), (Outcome::Unknown, 1));
    let reject = decode(&foreign(r#"{"name":"event_id","type":"string"}"#), b"\x02e").unwrap_err();
    assert_eq!((reject.reason, reject.detail.as_str()), (Reason::MissingField, "missing field `occurred_at`"));
    let typed = REQUIRED.replace(r#"{"name":"source_ip","type":"string"}"#, r#"{"name":"source_ip","type":"double"}"#);
    let bytes = [&[0; 8][..], &required_bytes(0)[12..]].concat();
    let reject = decode(&foreign(&typed), &bytes).unwrap_err();
    assert_eq!((reject.reason, reject.detail.as_str()), (Reason::WrongType, "field `source_ip`: not a text"));
    // Fields that we do not know are skipped, whatever they are.
    for (kind, bytes) in [
        (r#"{"type":"array","items":"null"}"#, &b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"[..]),
        (r#"{"type":"array","items":{"type":"map","values":"double"}}"#, b"\x02\x02\x02k\0\0\0\0\0\0\0\0\0\0"),
        (r#"{"type":"fixed","name":"F","size":3}"#, b"abc"),
        (
            r#"["null",{"type":"record","name":"R","fields":[{"name":"next","type":["null","R"]}]}]"#,
            b"\x02\x02\x02\x00",
        ),
        (r#"{"type":"bytes","logicalType":"decimal","precision":4}"#, b"\x04ab"),
    ] {
        let schema = foreign(&format!("{{\"name\":\"more\",\"type\":{kind}}},{REQUIRED}"));
        let decoded = decode(&schema, &[bytes, &required_bytes(0)].concat());
        assert_eq!(decoded.map(|decoded| decoded.event.event_id), Ok("e1".to_owned()), "{kind}");
    }
}

#[test]
fn a_schema_made_to_do_harm_ends_in_a_dead_letter() {
    // Two values of nothing, each of two of the next: 2^60 steps without a byte.
    let mut bomb = r#""null""#.to_owned();
    for n in 0..50 {
        bomb = format!(
            r#"{{"type":"record","name":"B{n}","fields":[{{"name":"a","type":{bomb}}},{{"name":"b","type":{}}}]}}"#,
            if n == 0 { r#""null""#.to_owned() } else { format!("\"B{}\"", n - 1) }
        );
    }
    let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
    let schemas = [
        format!("{{\"name\":\"bomb\",\"type\":{bomb}}},{REQUIRED}"),
        format!("{{\"name\":\"list\",\"type\":{list}}},{REQUIRED}"),
    ];
    for (text, bytes) in schemas.iter().zip([vec![0; 100], vec![2; 100_000]]) {
        let result =
            WriterSchema::parse(&format!("{{\"type\":\"record\",\"name\":\"LoginEvent\",\"fields\":[{text}]}}"))
                .and_then(|schema| wire::decode(&bytes, wire::Encoding::Avro { schema_id: 7, body: 0 }, Some(&schema)));
        assert_eq!(result.unwrap_err().reason, Reason::BrokenAvro);
    }
}

/// A byte changed, removed, doubled or cut off.
fn mutated(bytes: &[u8], changes: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, what, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = at % bytes.len();
        match what % 4 {
            0 => bytes[at] = *byte,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, *byte),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn marks(times: &[Millis]) -> Vec<Item> {
    times.iter().map(|at| Item::Mark(Mark { at: *at, changes: Vec::new() })).collect()
}

fn frame(items: &[Item]) -> Vec<u8> {
    let mut writer = FrameWriter::default();
    items.iter().for_each(|item| writer.push(item));
    writer.finish()
}

#[test]
fn a_poison_item_is_set_aside_alone() {
    let items = marks(&[START, START + 1, START + 2]);
    let mut bytes = frame(&items);
    let read: Vec<_> = FrameReader::new(&bytes).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(read, items);
    // The kind of the second item is none that we know.
    let second = 1 + (bytes.len() - 1) / 3 + 1;
    bytes[second] = 99;
    let read: Vec<_> = FrameReader::new(&bytes).unwrap().collect();
    assert_eq!((read.len(), read[0].is_ok(), read[2].is_ok()), (3, true, true));
    let (reject, poison) = read[1].as_ref().unwrap_err();
    assert_eq!((reject.reason, poison[0]), (Reason::BrokenFrame, 99));
    for value in [&b""[..], b"\xff", b"{}"] {
        assert_eq!(FrameReader::new(value).unwrap_err().reason, Reason::BrokenFrame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_broken_frame_ends(changes in prop::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..9)) {
        let bytes = mutated(&frame(&marks(&[START; 5])), &changes);
        let items = FrameReader::new(&bytes).map_or(0, Iterator::count);
        prop_assert!(items <= bytes.len());
    }

    #[test]
    fn nothing_panics_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), avro in any::<bool>()) {
        let bytes = if avro { [&[0, 0, 0, 0, 1], &bytes[..]].concat() } else { [b"{", &bytes[..]].concat() };
        // Whichever it is; `fate` has added it up.
        drop(fate(&default_env(), &Record { at: START, value: Some(bytes) }.raw()));
    }

    #[test]
    fn nothing_panics_on_a_mutated_record(
        changes in prop::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6),
        encoding in 0u8..3,
    ) {
        let event = LoginEvent {
            attributes: BTreeMap::from([("count".to_owned(), "3".to_owned()), ("x".to_owned(), "\n|".to_owned())]),
            user_agent: Some("agent".to_owned()),
            account_created_at: Some(i64::MAX),
            ..failure(START, "1", "2001:db8::1", "Ⅷ\u{212b}|\u{0}@example.org")
        };
        let record = Record::json(START, &event);
        let record = if encoding == 1 { record.as_avro() } else { record };
        let mut value = record.value.unwrap();
        let mut writer = WriterSchema::Bundled;
        if encoding == 2 {
            value = [&[0, 0, 0, 0, 1], &required_bytes(0)[..]].concat();
            writer = foreign(REQUIRED);
        }
        let bytes = mutated(&value, &changes);
        let raw = Raw { value: Some(&bytes), writer: Some(&writer), ..Record { at: START, value: None }.raw() };
        if let Err(reject) = fate(&default_env(), &raw) {
            prop_assert!(!reject.detail.contains(char::is_control));
        }
    }

    #[test]
    fn nothing_panics_on_any_clock(
        occurred_at in any::<i64>(),
        timestamps in prop::collection::vec((any::<i64>(), any::<i64>()), 1..6),
    ) {
        let mut pipeline = Pipeline::new(default_env());
        for (n, (timestamp, clock)) in timestamps.iter().enumerate() {
            let event = failure(occurred_at, n, "203.0.113.7", "a");
            let record = Record::json(START, &event);
            pipeline.feed(Raw { timestamp: *timestamp, clock: *clock, ..record.raw() });
        }
        prop_assert_eq!(pipeline.counts().accounted(), timestamps.len() as u64);
    }
}
