//! `produce` onto a real cluster: what lands on the topic, at which times.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use portcullis::app::produce::{ProduceArgs, Speed, Summary, Times, run};
use portcullis::app::{Connection, FormatArgs, Output};
use portcullis::event::Millis;
use portcullis::event::wire::json_login_event;
use portcullis::ingest::FileFormat;
use portcullis::log::Incoming;

use crate::support::kafka::shared;
use crate::support::records::{connection, make_topic, read_all};
use crate::support::repository;

/// Early enough that no cluster takes it for the future, late enough to be told from the times of the files.
const NOW: Millis = 1_700_000_000_000;
/// The arrivals of `web-logins.jsonl`, the broken lines aside.
const WEB: [Millis; 5] =
    [1_580_733_810_800, 1_580_733_823_500, 1_580_733_835_900, 1_580_733_836_200, 1_580_733_839_400];

fn sample(name: &str) -> ProduceArgs {
    ProduceArgs::new(repository().join("tests/data/produce").join(name))
}

/// Sends a file to a topic of its own and gives what the command printed and what is on the topic, in the order of its
/// timestamps.
fn produce(test: &str, args: ProduceArgs) -> (Summary, Vec<Incoming>) {
    let (told, records, connection) = try_produce(test, args, || NOW);
    let summary: Told = serde_json::from_str(&told.unwrap_or_else(|e| panic!("{e:#}"))).unwrap();
    drop(connection);
    (summary.into(), records)
}

fn try_produce(
    test: &str,
    args: ProduceArgs,
    clock: impl Fn() -> Millis,
) -> (anyhow::Result<String>, Vec<Incoming>, Connection) {
    let connection = connection(shared().bootstrap(), test);
    let topic = connection.topics.public("login-events");
    make_topic(shared().bootstrap(), &topic, 3, &[]);
    let args = ProduceArgs { output: Output::Json, ..args };
    let mut out = Vec::new();
    let ended = run(&args, &connection, clock, &AtomicBool::new(false), &mut out);
    let mut records = read_all(&connection.client, &topic);
    records.sort_by_key(|record| (record.timestamp, record.value.clone()));
    (ended.map(|_| String::from_utf8(out).unwrap()), records, connection)
}

#[derive(serde::Deserialize)]
struct Told {
    sent: u64,
    left_out: u64,
    unmoved: u64,
    offset_ms: i64,
    first_at: Option<Millis>,
    last_at: Option<Millis>,
    took_ms: Millis,
    delivered: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl From<Told> for Summary {
    fn from(told: Told) -> Summary {
        let Told { sent, left_out, unmoved, offset_ms, first_at, last_at, took_ms, delivered, failed, first_failure } =
            told;
        let deliveries = portcullis::log::publish::Deliveries { delivered, failed, first_failure };
        Summary { sent, left_out, unmoved, offset_ms, first_at, last_at, took_ms, deliveries }
    }
}

/// `timestamp occurred_at`, or `timestamp broken`.
fn times(records: &[Incoming]) -> Vec<(Millis, Option<Millis>)> {
    let occurred =
        |record: &Incoming| json_login_event(record.value.as_deref().unwrap()).ok().map(|d| d.event.occurred_at);
    let mut times: Vec<_> = records.iter().map(|record| (record.timestamp, occurred(record))).collect();
    times.sort_unstable();
    times
}

/// What [`times`] should be when the whole sample was moved: its two broken lines arrive with their neighbours.
fn moved(offset: i64) -> Vec<(Millis, Option<Millis>)> {
    let mut times: Vec<_> = WEB.iter().map(|at| (at + offset, Some(at + offset))).collect();
    times.extend([(WEB[0] + offset, None), (WEB[2] + offset, None)]);
    times.sort_unstable();
    times
}

#[test]
fn as_fast_as_possible_the_last_attempt_is_now_and_the_distances_stay() {
    let (summary, records) = produce("produce-max", sample("web-logins.jsonl"));
    assert_eq!(times(&records), moved(NOW - WEB[4]));
    assert_eq!((summary.sent, summary.unmoved, summary.left_out), (7, 2, 0));
    assert_eq!((summary.deliveries.delivered, summary.deliveries.failed), (7, 0));
    assert_eq!((summary.first_at, summary.last_at), (Some(NOW - (WEB[4] - WEB[0])), Some(NOW)));
    // The source is the key, so that its attempts stay in order; a broken line has none.
    let keys: Vec<Option<&str>> =
        records.iter().map(|r| r.key.as_deref().map(|key| str::from_utf8(key).unwrap())).collect();
    assert_eq!(keys.iter().filter(|key| key.is_none()).count(), 2);
    assert!(keys.contains(&Some("194.87.207.6")), "{keys:?}");
    // Broken lines are there, byte for byte.
    assert!(records.iter().any(|r| r.value.as_deref() == Some(b"no JSON at all")));
}

#[test]
fn a_cut_becomes_now_and_nothing_after_it_is_sent() {
    let cut = WEB[2] + 100;
    let args = ProduceArgs { to: Some(cut), from: Some(WEB[1]), ..sample("web-logins.jsonl") };
    let (summary, records) = produce("produce-cut", args);
    let offset = NOW - cut;
    let expected = [WEB[1], WEB[2], WEB[2]].map(|at| at + offset);
    assert_eq!(times(&records).iter().map(|(at, _)| *at).collect::<Vec<_>>(), expected);
    // The first attempt and the broken line before it.
    assert_eq!((summary.sent, summary.left_out, summary.offset_ms), (3, 2, offset));
}

#[test]
fn original_times_stay_as_they_are() {
    let args = ProduceArgs { time: Times::Original, limit: Some(3), ..sample("web-logins.jsonl") };
    let (summary, records) = produce("produce-original", args);
    let expected = [(WEB[0], None), (WEB[0], Some(WEB[0])), (WEB[1], Some(WEB[1]))];
    assert_eq!(times(&records), expected);
    let file = std::fs::read(repository().join("tests/data/produce/web-logins.jsonl")).unwrap();
    let lines: Vec<&[u8]> = file.split(|b| *b == b'\n').collect();
    assert!(records.iter().all(|record| lines.contains(&record.value.as_deref().unwrap())));
    assert_eq!((summary.sent, summary.unmoved), (3, 0));
}

#[test]
fn paced_the_first_attempt_is_now_and_each_waits_for_its_time() {
    // A clock that passes a tenth of a second each time that it is read.
    let ticks = Cell::new(0);
    let clock = || {
        ticks.set(ticks.get() + 1);
        NOW + 100 * ticks.get()
    };
    let args = ProduceArgs { speed: Speed::Paced(2.0), ..sample("web-logins.jsonl") };
    let (told, records, _) = try_produce("produce-paced", args, clock);
    told.unwrap();
    let first = records.iter().map(|record| record.timestamp).min().unwrap();
    let occurred: Vec<Millis> = times(&records).into_iter().filter_map(|(_, occurred)| occurred).collect();
    let distances: Vec<Millis> = occurred.iter().map(|at| at - occurred[0]).collect();
    assert_eq!(distances, WEB.map(|at| at - WEB[0]));
    assert!(first >= NOW && first - occurred[0] <= 0, "{first} {}", occurred[0]);
    // 28.6 s of the file pass in 14.3 s of the clock, and no record is from its future.
    let read_to = NOW + 100 * ticks.get();
    let took = read_to - first;
    assert!(took >= (WEB[4] - WEB[0]) / 2, "{took}");
    assert!(records.iter().all(|record| record.timestamp <= read_to));
}

#[test]
fn lines_of_sshd_become_events() {
    let args = ProduceArgs {
        format: FormatArgs { format: FileFormat::Sshd, year: Some(2014), tenant: "ops".to_owned(), zone: 0 },
        ..sample("ssh-auth.log")
    };
    let (summary, records) = produce("produce-sshd", args);
    let events: Vec<_> = records.iter().map(|r| json_login_event(r.value.as_deref().unwrap()).unwrap().event).collect();
    let mut told: Vec<String> =
        events.iter().map(|e| format!("{} [{}] {}", e.source_ip, e.account, e.tenant)).collect();
    told.sort();
    let expected = [
        "122.225.103.87 [] ops",
        "122.225.103.87 [] ops",
        "124.205.250.51 [admin] ops",
        "124.205.250.51 [guest] ops",
        "187.12.249.74 [admin] ops",
    ];
    assert_eq!(told, expected);
    assert_eq!(summary.last_at, Some(NOW));
    // 8 h 15 min 29 s lie between the first line and the last.
    let (first, last) = (events.iter().map(|e| e.occurred_at).min(), events.iter().map(|e| e.occurred_at).max());
    assert_eq!(last.unwrap() - first.unwrap(), 1_000 * (8 * 3_600 + 15 * 60 + 29));
}

#[test]
fn what_cannot_be_sent_is_counted_and_the_rest_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("large.jsonl");
    let event = |account: &str| {
        format!(
            r#"{{"event_id":"1","occurred_at":1000,"account":"{account}","outcome":"FAILURE","source_ip":"203.0.113.9"}}"#
        )
    };
    std::fs::write(&file, format!("{}\n{}\n{}\n", event("a"), event(&"x".repeat(1_500_000)), event("b"))).unwrap();
    let (told, records, _) = try_produce("produce-large", ProduceArgs::new(file), || NOW);
    let error = told.unwrap_err().to_string();
    assert!(error.starts_with("1 of 3 events were not delivered: "), "{error}");
    assert_eq!(records.len(), 2);
}

#[test]
fn a_wrong_start_is_told_with_what_to_do() {
    let connection = connection(shared().bootstrap(), "produce-nowhere");
    let refused = |args: &ProduceArgs, connection: &Connection| {
        let error = run(args, connection, || NOW, &AtomicBool::new(false), &mut Vec::new()).unwrap_err();
        format!("{error:#}")
    };
    let missing_topic = refused(&sample("web-logins.jsonl"), &connection);
    assert!(missing_topic.contains("make it with `portcullis topics apply`"), "{missing_topic}");
    make_topic(shared().bootstrap(), "produce-nowhere.login-events", 1, &[]);
    let missing_file = refused(&sample("nothing.jsonl"), &connection);
    assert!(missing_file.contains("cannot open") && missing_file.contains("nothing.jsonl"), "{missing_file}");
    let folder = refused(&ProduceArgs::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")), &connection);
    assert!(folder.ends_with("is a folder; name a file"), "{folder}");
    let stdin = refused(&ProduceArgs::new(PathBuf::from("-")), &connection);
    assert!(stdin.contains("--to TIME"), "{stdin}");
}
