//! `portcullis backtest`: exact figures of hand-made pasts, and the topic against the same events in a file.

use std::path::PathBuf;
use std::process::{Command, Output};

use portcullis::event::wire::{login_event_to_avro, login_event_to_json};
use portcullis::event::{LoginEvent, Millis, Outcome};
use portcullis::ingest::simulate::{Edge, Options, Scenario, Simulation, Site};
use portcullis::log::ClientOptions;
use portcullis::log::range::{HELD_MAX, RangeReader, Ranged};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::support::job::Installed;
use crate::support::kafka::shared;
use crate::support::records::{DEADLINE, flush, make_topic, producer, read_all};
use crate::support::{repository, until};

/// A Monday morning.
const START: Millis = 1_767_607_200_000;
const SECOND: Millis = 1_000;
const MINUTE: Millis = 60_000;
const DAY: Millis = 86_400_000;
const BAD: &str = "203.0.113.7";

type Words<'a> = &'a [&'a dyn AsRef<std::ffi::OsStr>];

/// A folder of playbooks and a file of events.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Desk {
        Desk(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A folder with one playbook: an address that fails on so many accounts in ten minutes is kept out for fifteen.
    fn fanout(&self, folder: &str, accounts: u32, changes: &[(&str, &str)]) -> PathBuf {
        let mut text = format!(
            "id: fanout\nversion: 1\nowner: security\ndescription: Tests.\nmode: live\nfinding: account_fanout\n\
             per: address\nover: 10m\ntrigger:\n  accounts_failed:\n    at_least: {accounts}\nthen:\n  action: BLOCK\n  \
             ladder: [15m]\n"
        );
        for (line, instead) in changes {
            assert!(text.contains(line), "{line}");
            text = text.replace(line, instead);
        }
        let folder = self.path(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("fanout.yaml"), text).unwrap();
        folder
    }

    fn events(&self, events: &[LoginEvent]) -> PathBuf {
        let file = self.path("events.jsonl");
        let lines: Vec<u8> = events.iter().flat_map(|e| [login_event_to_json(e), b"\n".to_vec()].concat()).collect();
        std::fs::write(&file, lines).unwrap();
        file
    }

    fn output(&self, arguments: Words<'_>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(repository()).args(["--log", "warn", "backtest"]);
        command.args(arguments.iter().map(AsRef::as_ref));
        command.output().unwrap()
    }

    #[track_caller]
    fn report(&self, arguments: Words<'_>) -> Value {
        let output = self.output(&[arguments, &[&"--output", &"json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Exit code and words of what is refused.
    fn refused(&self, arguments: Words<'_>) -> (Option<i32>, String) {
        let output = self.output(arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn event(at: Millis, source: &str, account: &str, outcome: Outcome) -> LoginEvent {
    LoginEvent {
        event_id: format!("{at}-{source}-{account}"),
        occurred_at: at,
        tenant: "shop".to_owned(),
        source_ip: source.to_owned(),
        account: format!("{account}@mail.example"),
        outcome,
        ..LoginEvent::default()
    }
}

/// An address that fails on eight accounts, a second apart; people it shares the address with; another that fails on three.
fn an_attack() -> Vec<LoginEvent> {
    use Outcome::{Blocked, Failure, Success};
    let mut all = vec![
        // Bob's pair is known, Eve is known from her home.
        event(START - 2 * DAY, BAD, "bob", Success),
        event(START - 2 * DAY + 1, "198.51.100.9", "eve", Success),
    ];
    all.extend((0..8).map(|n| event(START + n * SECOND, BAD, &format!("victim{n}"), Failure)));
    all.push(all[8].clone());
    // An edge that was there already stopped four more.
    let mut stopped = event(START + 30 * SECOND, BAD, "", Blocked);
    (stopped.account, stopped.attributes) = (String::new(), [("count".to_owned(), "4".to_owned())].into());
    all.push(stopped);
    all.push(event(START + 60 * SECOND, BAD, "eve", Success));
    all.push(event(START + 61 * SECOND, BAD, "bob", Success));
    all.push(event(START + 62 * SECOND, BAD, "new", Success));
    all.push(event(START + 63 * SECOND, BAD, "new", Success));
    all.extend((0..3).map(|n| event(START + MINUTE * 2 + n, "203.0.113.99", &format!("other{n}"), Failure)));
    // The block of the new set ended at START + 2 s + 15 min, that of the old one two seconds later.
    all.push(event(START + 2 * SECOND + 15 * MINUTE, BAD, "eve", Success));
    all.push(event(START + 4 * SECOND + 15 * MINUTE, BAD, "eve", Success));
    all
}

fn figures(report: &Value, side: &str, names: [&str; 10]) -> [u64; 10] {
    names.map(|name| report[side]["all"][name].as_u64().unwrap())
}

#[test]
fn a_past_made_by_hand_has_these_figures() {
    let desk = Desk::new();
    let (old, new) = (desk.fanout("old", 5, &[]), desk.fanout("new", 3, &[]));
    let (file, out) = (desk.events(&an_attack()), desk.path("out"));
    let report = desk.report(&[&"--events", &file, &"--playbooks", &new, &"--against", &old, &"--out", &out]);
    let names = [
        "verdicts",
        "shadow_verdicts",
        "attempts_denied",
        "attempts_challenged",
        "attempts_stopped_anyway",
        "known_users_denied",
        "known_users_challenged",
        "others_denied",
        "others_challenged",
        "users_spared",
    ];
    // Old: blocked by the fifth failure; of the eight three come after it, one of them twice, which counts once. Eve and
    // somebody new, who comes twice, are refused, and Eve again a moment before the end; Bob's pair is known.
    assert_eq!(figures(&report, "old", names), [1, 0, 3 + 4, 0, 4, 1, 0, 1, 0, 1]);
    assert_eq!(figures(&report, "new", names), [2, 0, 5 + 3, 0, 4, 1, 0, 1, 0, 1]);
    assert_eq!(report["old"]["all"]["entities"], json!({"BLOCK": 1}));
    assert_eq!(report["new"]["all"]["entities"], json!({"BLOCK": 2}));
    assert_eq!(report["new"]["by_playbook"]["fanout"], report["new"]["all"]);
    assert_eq!((&report["only_old"], &report["only_new"]), (&json!(0), &json!(1)));
    let only = &report["only_new_first"][0];
    assert_eq!((&only["entity"], &only["since"]), (&json!("shop|IP|203.0.113.99"), &json!(START + 2 * MINUTE + 2)));
    assert_eq!(report["counts"]["events_duplicate"], 1);

    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(out.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let entities = lines("entities.jsonl");
    assert_eq!(entities.iter().map(|line| line["by"].as_str().unwrap()).collect::<Vec<_>>(), ["both", "new"]);
    let bad = &entities[0]["new"];
    let (since, until) = (START + 2 * SECOND, START + 2 * SECOND + 15 * MINUTE);
    assert_eq!((&bad["since"], &bad["until"], &bad["logins_stopped"]), (&json!(since), &json!(until), &json!(3)));
    assert_eq!((&bad["attempts_denied"], &bad["logins_spared"]), (&json!(8), &json!(1)));
    let logins = lines("logins.jsonl");
    let told = |side: &str| -> Vec<(String, String, bool)> {
        let of_side = logins.iter().map(|line| &line[side]).filter(|met| !met.is_null());
        let text = |met: &Value, name: &str| met[name].as_str().unwrap().to_owned();
        of_side.map(|m| (text(m, "account"), text(m, "fate"), m["known_user"].as_bool().unwrap())).collect()
    };
    let met = |account: &str, fate: &str, known: bool| (format!("{account}@mail.example"), fate.to_owned(), known);
    let first = [met("eve", "denied", true), met("bob", "spared", true), met("new", "denied", false)];
    assert_eq!(told("new"), [&first[..], &[met("new", "denied", false)]].concat());
    assert_eq!(told("old"), [&first[..], &[met("new", "denied", false), met("eve", "denied", true)]].concat());

    // For people.
    let output = desk.output(&[&"--events", &file, &"--playbooks", &new, &"--against", &old]);
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "entities blocked                                  1            2",
        "eve@mail.example from 203.0.113.7, by fanout",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn what_comes_before_is_learnt_from_and_not_counted() {
    let desk = Desk::new();
    let (new, file) = (desk.fanout("new", 3, &[]), desk.events(&an_attack()));
    let report = |from: Millis| {
        let at = from.to_string();
        let report = desk.report(&[&"--events", &file, &"--playbooks", &new, &"--count-from", &at]);
        let all = &report["new"]["all"];
        ["verdicts", "attempts_denied", "known_users_denied", "others_denied", "users_spared"]
            .map(|name| all[name].as_u64().unwrap())
    };
    assert_eq!(report(START), [2, 8, 1, 1, 1]);
    // The block stands, though its verdict came before.
    assert_eq!(report(START + 6 * SECOND), [1, 2 + 3, 1, 1, 1]);
    let cut = (START - DAY).to_string();
    let report = desk.report(&[&"--events", &file, &"--playbooks", &new, &"--from", &cut]);
    // Who was known is a stranger to a past that begins too late.
    let all = &report["new"]["all"];
    assert_eq!(
        (&all["users_spared"], &all["known_users_denied"], &all["others_denied"]),
        (&json!(0), &json!(0), &json!(3))
    );
}

#[test]
fn a_playbook_in_shadow_stops_nobody_unless_it_is_taken_for_live() {
    let desk = Desk::new();
    let (new, file) = (desk.fanout("new", 3, &[("mode: live", "mode: shadow")]), desk.events(&an_attack()));
    let shadow = desk.report(&[&"--events", &file, &"--playbooks", &new]);
    let all = &shadow["new"]["all"];
    assert_eq!((&all["verdicts"], &all["shadow_verdicts"], &all["attempts_denied"]), (&json!(0), &json!(2), &json!(0)));
    assert!(shadow["old"].is_null());
    let live = desk.report(&[&"--events", &file, &"--playbooks", &new, &"--shadow-as-live"]);
    assert_eq!(live["new"]["all"]["attempts_denied"], 8);
    // A challenge is counted apart.
    let challenges = [("mode: live", "mode: shadow"), ("action: BLOCK", "action: CHALLENGE")];
    let new = desk.fanout("new", 3, &challenges);
    let live = desk.report(&[&"--events", &file, &"--playbooks", &new, &"--shadow-as-live"]);
    let all = &live["new"]["all"];
    assert_eq!(
        (&all["attempts_denied"], &all["attempts_challenged"], &all["known_users_challenged"]),
        (&json!(0), &json!(8), &json!(1))
    );
    assert_eq!(all["entities"], json!({"CHALLENGE": 2}));
}

#[test]
fn events_out_of_order_count_at_the_time_that_has_come() {
    let desk = Desk::new();
    let (new, mut events) = (desk.fanout("new", 3, &[]), an_attack());
    // Eve's login reaches the file before the first failure, though it was later; all that follows is behind it.
    let eve = events.remove(12);
    assert_eq!((eve.account.as_str(), eve.occurred_at), ("eve@mail.example", START + 60 * SECOND));
    events.insert(2, eve);
    let file = desk.events(&events);
    let report = desk.report(&[&"--events", &file, &"--playbooks", &new]);
    let all = &report["new"]["all"];
    // She came before the block, so her pair is known when she comes again.
    let names = ["verdicts", "attempts_denied", "known_users_denied", "others_denied", "users_spared"];
    assert_eq!(names.map(|name| all[name].as_u64().unwrap()), [2, 5 + 2, 0, 1, 2]);
    assert_eq!(report, desk.report(&[&"--events", &file, &"--playbooks", &new]), "same input, same answer");
}

#[test]
fn incidents_are_lined_up_and_the_minutes_between_them_told() {
    let desk = Desk::new();
    let file = desk.path("night.jsonl");
    let simulated = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args([
            "--log", "warn", "simulate", "night", "--seed", "3", "--open", "--history", "14d", "--after", "30m",
            "--out",
        ])
        .arg(&file)
        .output()
        .unwrap();
    assert!(simulated.status.success());
    let shipped = repository().join("topology/playbooks");
    let late = desk.path("late");
    std::fs::create_dir_all(&late).unwrap();
    // The set that lacks every way to block a source but one of many failures.
    for name in ["site-campaign", "ip-failure-rate", "account-compromised"] {
        std::fs::copy(shipped.join(format!("{name}.yaml")), late.join(format!("{name}.yaml"))).unwrap();
    }
    let report = desk.report(&[&"--events", &file, &"--playbooks", &shipped, &"--against", &late]);
    let incidents = report["incidents"].as_array().unwrap();
    assert_eq!(incidents.len(), 1, "{report:#}");
    let (old, new) = (&incidents[0]["old"], &incidents[0]["new"]);
    assert_eq!(
        (old["attack_at"].as_i64(), &incidents[0]["attack_minutes_gained"]),
        (new["attack_at"].as_i64(), &json!(0.0))
    );
    let at = |side: &Value| side["first_block_at"].as_i64().unwrap();
    let gained = incidents[0]["block_minutes_gained"].as_f64().unwrap();
    assert!(at(old) > at(new) && (gained * 60_000.0 - (at(old) - at(new)) as f64).abs() < 1e-6, "{report:#}");
    // What it stops by its status stands under a name of its own.
    assert!(
        report["new"]["by_playbook"]["attack-status"]["attempts_challenged"].as_u64().unwrap() > 1_000,
        "{report:#}"
    );
    assert!(report["new"]["all"]["attempts_denied"].as_u64() > report["old"]["all"]["attempts_denied"].as_u64());
}

#[test]
fn a_threshold_keeps_a_budget_of_false_positives() {
    use Outcome::{Failure, Success};
    let desk = Desk::new();
    let mut events = Vec::new();
    // Ten days. On each, an office where known people log in fails on four accounts, and a stranger's address on six.
    for day in 0..10 {
        let at = START + day * DAY;
        events.push(event(at, "198.51.100.1", "clerk", Success));
        events.extend((0..4).map(|n| event(at + MINUTE + n, "198.51.100.1", &format!("typo{day}-{n}"), Failure)));
        let stranger = format!("203.0.113.{day}");
        events.extend((0..6).map(|n| event(at + 2 * MINUTE + n, &stranger, &format!("tried{day}-{n}"), Failure)));
        events.push(event(at + DAY / 2, "198.51.100.1", "clerk", Success));
    }
    events.push(event(START + 10 * DAY, "198.51.100.1", "clerk", Success));
    let (folder, file) = (desk.fanout("new", 5, &[]), desk.events(&events));
    let suggest = |budget: &str| {
        desk.report(&[
            &"--events", &file, &"--playbooks", &folder, &"--suggest-for", &"fanout", &"--false-positives", &budget,
        ])
    };
    let suggested = suggest("0.5/day");
    assert_eq!((&suggested["days"], &suggested["measure"]), (&json!(10.0), &json!("accounts_failed")));
    let tried: Vec<[f64; 3]> = suggested["tried"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tried| ["threshold", "fired_a_day", "with_known_users_a_day"].map(|name| tried[name].as_f64().unwrap()))
        .collect();
    let below = |threshold: f64| tried.iter().find(|tried| tried[0] >= threshold).unwrap();
    assert_eq!((below(1.0), below(4.0)), (&[1.0, 2.0, 1.0], &[4.0, 2.0, 1.0]));
    assert_eq!((below(5.0), below(6.0), below(7.0)), (&[5.0, 1.0, 0.0], &[6.0, 1.0, 0.0], &[7.0, 0.0, 0.0]));
    // Honest is who known people log in from: only the office. If all were, seven would be it.
    let found = |s: &Value| [&s["threshold"], &s["threshold_if_all_are_honest"]].map(Value::clone);
    assert_eq!(found(&suggested), [json!(5.0), json!(7.0)]);
    assert_eq!(found(&suggest("7/week")), [json!(1.0), json!(5.0)]);
    let own: Vec<f64> = suggested["tried"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|t| t["is_now"] == true)
        .map(|t| t["threshold"].as_f64().unwrap())
        .collect();
    assert_eq!(own, [5.0]);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_to_do() {
    let desk = Desk::new();
    let (good, file) = (desk.fanout("good", 3, &[]), desk.events(&an_attack()));
    let broken = desk.fanout("broken", 3, &[("over: 10m", "over: soon")]);
    let empty = desk.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let cases: &[(Words<'_>, &[&str])] = &[
        (&[], &["--events FILE", "--from TIME"]),
        (&[&"--events", &file, &"--playbooks", &broken], &["fanout.yaml", "`soon` is no duration"]),
        (&[&"--events", &file, &"--against", &broken], &["fanout.yaml", "`soon` is no duration"]),
        (&[&"--events", &file, &"--playbooks", &empty], &["no playbook in it"]),
        (&[&"--events", &desk.path("none.jsonl"), &"--playbooks", &good], &["none.jsonl"]),
        (&[&"--events", &file, &"--from", &"2030-01-01T00:00:00Z"], &["no event from 2030-01-01T00:00:00.000Z"]),
        (&[&"--events", &file, &"--from", &"7d", &"--to", &"14d"], &["is not before --to"]),
        (&[&"--events", &file, &"--from", &"yesterday"], &["how long ago: 7d"]),
        (
            &[&"--events", &file, &"--count-from", &"2030-01-01T00:00:00Z", &"--to", &"2029-01-01T00:00:00Z"],
            &["--count-from"],
        ),
        (
            &[&"--events", &file, &"--playbooks", &good, &"--suggest-for", &"fan-out"],
            &["none of the playbooks; they are fanout"],
        ),
        (
            &[&"--events", &file, &"--playbooks", &good, &"--suggest-for", &"fanout", &"--measure", &"sources"],
            &["--measure accounts_failed"],
        ),
        (&[&"--events", &file, &"--suggest-for", &"site-campaign"], &["no threshold"]),
        (&[&"--events", &file, &"--suggest-for", &"fanout", &"--false-positives", &"few"], &["1/day"]),
    ];
    for (arguments, words) in cases {
        let (code, said) = desk.refused(arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
}

/// A short attack among ordinary traffic, each event at a time of its own.
fn traffic() -> Vec<(Millis, LoginEvent)> {
    let options = Options { lead_in_ms: 5 * MINUTE, after_ms: MINUTE, logins_per_hour: 9_000, ..Options::default() };
    let mut simulation = Simulation::new(Scenario::SingleSource, 5, options).unwrap();
    let mut site = Site::new("default", Edge::Open);
    let mut all: Vec<(Millis, LoginEvent)> = Vec::new();
    while let Some(planned) = simulation.next(&mut site) {
        if all.last().is_none_or(|(last, _)| *last < planned.at) {
            all.push((planned.at, planned.event));
        }
    }
    all
}

fn publish(producer: &BaseProducer, topic: &str, partition: i32, at: Millis, value: &[u8]) {
    let send = || {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).timestamp(at).payload(value);
        producer.send(record).is_ok().then_some(())
    };
    until(DEADLINE, "room in the producer", || {
        send().or_else(|| {
            producer.poll(std::time::Duration::from_millis(1));
            None
        })
    });
}

#[test]
fn the_topic_says_what_the_same_events_in_a_file_say() {
    let installed = Installed::new("backtest");
    let topic = installed.topic("login-events");
    make_topic(shared().bootstrap(), &topic, 3, &[]);
    let events = traffic();
    let (first, last) = (events[0].0, events[events.len() - 1].0);
    let producer = producer(shared().bootstrap(), Some("backtest"));
    producer.begin_transaction().unwrap();
    // Outside of the range, on each side.
    for partition in 0..3 {
        publish(&producer, &topic, partition, first - 1, b"too early");
    }
    for (number, (at, event)) in events.iter().enumerate() {
        let avro = [&[0, 0, 0, 0, 1], &login_event_to_avro(event)[..]].concat();
        let value = if number % 2 == 0 { avro } else { login_event_to_json(event) };
        publish(&producer, &topic, i32::try_from(number % 3).unwrap(), *at, &value);
    }
    publish(&producer, &topic, 1, last + 1, b"too late");
    producer.commit_transaction(DEADLINE).unwrap();
    producer.begin_transaction().unwrap();
    for partition in 0..3 {
        publish(&producer, &topic, partition, last, b"aborted");
    }
    flush(&producer);
    producer.abort_transaction(DEADLINE).unwrap();

    let desk = Desk::new();
    let all: Vec<LoginEvent> = events.into_iter().map(|(_, event)| event).collect();
    let (file, old) = (desk.events(&all), desk.fanout("old", 4, &[]));
    let of_file = desk.report(&[&"--events", &file, &"--against", &old]);
    assert_eq!(of_file["new"]["all"]["entities"]["BLOCK"], 1, "{of_file:#}");
    assert!(of_file["new"]["all"]["attempts_denied"].as_u64().unwrap() > 1_000, "{of_file:#}");
    let ends = || read_all(&ClientOptions::new(shared().bootstrap()), &topic).len();
    let before = ends();
    let (from, to, old) = (first.to_string(), (last + 1).to_string(), old.display().to_string());
    let arguments = ["backtest", "--from", &from, "--to", &to, "--against", &old, "--output", "json"];
    let of_topic: Value = serde_json::from_str(&installed.done(&arguments)).unwrap();
    assert_eq!(of_topic, of_file);
    assert_eq!(ends(), before, "nothing is written");
    // And the same threshold.
    let suggest = ["--suggest-for", "ip-account-fanout", "--output", "json"];
    let by_topic = installed.done(&[&["backtest", "--from", &from, "--to", &to], &suggest[..]].concat());
    let by_file = desk.output(&[&"--events", &file, &suggest[0], &suggest[1], &suggest[2], &suggest[3]]);
    assert_eq!(by_topic.as_bytes(), by_file.stdout);

    // Nothing in that time.
    let output = installed.output(&["backtest", "--from", "1000", "--to", "2000"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no record from 1970") && said.contains("retention"), "{said}");
    let missing = Installed::new("backtest-nowhere").output(&["backtest", "--from", "7d"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("portcullis topics apply"));
}

#[test]
fn partitions_are_merged_by_time_however_far_one_is_ahead() {
    let topic = "backtest-merged";
    make_topic(shared().bootstrap(), topic, 2, &[]);
    let producer = producer(shared().bootstrap(), None);
    let many = Millis::try_from(HELD_MAX).unwrap() * 3;
    for n in 0..many {
        publish(&producer, topic, 0, START + n * 10, n.to_string().as_bytes());
    }
    // One in a thousand stands in the other partition; the last two are out of order there.
    let others: Vec<Millis> = (0..many).step_by(1_000).map(|n| START + n * 10 + 5).collect();
    for at in others.iter().chain([&(START + 7), &(START - 1)]) {
        publish(&producer, topic, 1, *at, b"other");
    }
    flush(&producer);
    let mut reader =
        RangeReader::new(&ClientOptions::new(shared().bootstrap()), topic, START, START + many * 10).unwrap();
    let mut read = Vec::new();
    until(DEADLINE, "the end of the range", || {
        loop {
            match reader.poll(std::time::Duration::from_millis(20)).unwrap() {
                Ranged::Record(record) => read.push((record.timestamp, record.part.partition)),
                Ranged::Idle => return None,
                Ranged::End => return Some(()),
            }
        }
    });
    // Within the range, but behind what stands before it in its partition.
    let late = read.iter().position(|record| *record == (START + 7, 1)).unwrap();
    assert_eq!(read.get(late - 1), Some(&(others[others.len() - 1], 1)));
    read.remove(late);
    assert_eq!(read.len(), usize::try_from(many).unwrap() + others.len());
    assert!(read.windows(2).all(|pair| pair[0] <= pair[1]));
}
