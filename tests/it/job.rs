//! The main job as a user runs it: the program's own commands, a real Kafka, a real nginx.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portcullis::event::wire::{OUTPUT_SCHEMAS, WriterSchema, decode_output, login_event_to_avro, login_event_to_json};
use portcullis::event::{Action, BlocklistEntry, LoginEvent, Outcome};
use portcullis::ingest::jsonl::arrival_of;
use portcullis::log::Incoming;
use portcullis::log::publish::Publisher;
use portcullis::log::registry::register;
use serde_json::Value;

use crate::support::job::Installed;
use crate::support::kafka::shared;
use crate::support::kept::EndBy;
use crate::support::nginx::Nginx;
use crate::support::records::{DEADLINE, flush, latest, producer, read_all, send};
use crate::support::{repository, until};

#[test]
fn without_topics_run_says_what_to_type() {
    let installed = Installed::new("job-without-topics");
    let output = installed.output(&["run"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("portcullis topics apply"), "{words}");
}

#[test]
fn a_broken_playbook_or_setting_stops_run_at_its_start_with_place_and_remedy() {
    let broken = Installed::new("job-broken").with_topology(|name, text| match name {
        "ip-account-fanout.yaml" => text.replace("severity:", "severty:"),
        _ => text,
    });
    let output = broken.output(&["run"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    for part in ["ip-account-fanout.yaml", "severty", "did you mean `severity`?"] {
        assert!(words.contains(part), "{part} is not in: {words}");
    }
    let settings = broken.folder.path().join("settings.yaml");
    std::fs::write(&settings, "bootstrap: localhost:1\nthread: 2\n").unwrap();
    let output = broken.output(&["run", "--settings", settings.to_str().unwrap()]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("settings.yaml") && words.contains("did you mean `threads`?"), "{words}");
}

/// OpenSSH's own lines, cut while an address is at work, through the whole job to nginx; and through `replay`.
#[test]
fn an_address_that_guesses_at_ssh_gets_403_and_replay_blocks_the_same() {
    const GUESSES: &str = "220.99.93.50";
    let log = repository().join("tests/data/ssh/auth.log").display().to_string();
    let cut = ["--format", "sshd", "--year", "2014", "--to", "2014-12-02T05:26:00Z"];
    let installed = Installed::new("job-ssh");
    installed.done(&["topics", "apply"]);
    installed.done(&["topics", "check"]);
    let _job = installed.run(EndBy::Term);
    let geo_file = installed.folder.path().join("portcullis.geo");
    let nginx = Nginx::start(&geo_file);
    let sink = ["sink", "nginx", "--all-tenants", "--interval", "100ms", "--file", geo_file.to_str().unwrap()];
    let (conf, pid) = (nginx.conf(), nginx.pid_file());
    let sink: Vec<&str> =
        sink.into_iter().chain(["--conf", conf.to_str().unwrap(), "--pid-file", pid.to_str().unwrap()]).collect();
    let _sink = installed.start(&sink, EndBy::Term);
    assert_eq!(nginx.status_for(GUESSES), 200);

    installed.done(&[&["produce", &log][..], &cut].concat());
    until(DEADLINE, "403 for the address that guesses", || (nginx.status_for(GUESSES) == 403).then_some(()));
    assert_eq!(nginx.status_for("198.51.100.9"), 200);

    let out = installed.folder.path().join("replayed").display().to_string();
    installed.done(&[&["replay", "--events", &log, "--out", &out][..], &cut].concat());
    let in_force: BTreeSet<String> = replayed(&format!("{out}/blocklist.jsonl"));
    // A record whose end has passed is one that a sink drops by its own clock.
    let blocked = enforced(&installed, now());
    assert_eq!(blocked, in_force);
    assert_eq!(blocked, BTreeSet::from([format!("default|IP|{GUESSES}")]));
}

/// `kill -9` in the middle of the night: afterwards the list is that of a job that was left alone. Without the playbook that
/// weighs what the status says at that moment, when it arrives is nobody's promise.
#[test]
fn a_kill_in_the_middle_of_the_night_leaves_the_same_list() {
    let one_partition = |name: &str, text: String| match name {
        "topics.yaml" => text.replacen("partitions: 8", "partitions: 1", 2),
        "source-posterior.yaml" => text.replacen("mode: live", "mode: off", 1),
        // What it asks for shows when a stronger block has ended, which by then may be so in one run and not in the other.
        "slow-source.yaml" => text.replacen("mode: live", "mode: off", 1),
        _ => text,
    };
    let [alone, killed] = ["job-alone", "job-killed"].map(|name| Installed::new(name).with_topology(one_partition));
    let night = alone.folder.path().join("night.jsonl");
    let simulate = ["simulate", "night", "--open", "--seed", "5", "--lead-in", "1m", "--after", "0", "--out"];
    alone.done(&[&simulate[..], &[night.to_str().unwrap()]].concat());
    let events = std::fs::read_to_string(&night).unwrap();
    let last = events.lines().filter_map(|line| arrival_of(line.as_bytes())).max().unwrap();
    let offset = now() - last;
    let lines: Vec<&str> = events.lines().collect();
    let publish = |installed: &Installed, lines: &[&str]| {
        let publisher = Publisher::new(&installed.connection().client).unwrap();
        // A flush now and then keeps whoever publishes while a job runs from being done before the job has begun.
        for some in lines.chunks(250) {
            for line in some {
                let value = portcullis::ingest::jsonl::shift(line.as_bytes(), offset).unwrap();
                let at = arrival_of(&value).unwrap();
                publisher.send(&installed.topic("login-events"), None, &value, at).unwrap();
            }
            assert_eq!(publisher.flush(DEADLINE).unwrap().failed, 0);
        }
    };
    let (before, meanwhile) = lines.split_at(lines.len() / 3);
    for installed in [&alone, &killed] {
        installed.done(&["topics", "apply"]);
        publish(installed, before);
    }
    publish(&alone, meanwhile);
    let all = lines.len() as u64;

    let job = killed.run(EndBy::Kill);
    let half_way = std::thread::scope(|scope| {
        scope.spawn(|| publish(&killed, meanwhile));
        let half_way = until(DEADLINE, "more than there was at first", || {
            let n = killed.counted("events_in");
            (n > before.len() as u64).then_some(n)
        });
        drop(job);
        half_way
    });
    assert!(half_way < all, "killed after all {all} events: nothing was tested");
    let job = killed.run(EndBy::Term);
    wait_until_counted(&killed, all - half_way);
    drop(job);
    let job = alone.run(EndBy::Term);
    wait_until_counted(&alone, all);
    drop(job);

    let (expected, found) = (named(&alone), named(&killed));
    assert!(expected.len() > 500, "{} entries", expected.len());
    let all: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differing: Vec<_> = all.iter().filter(|key| expected.get(**key) != found.get(**key)).collect();
    assert!(differing.is_empty(), "{} of {}: {differing:?}", differing.len(), all.len());
}

/// What cannot be used becomes a dead letter that says why and where it came from, both encodings may be mixed, and every
/// event ends in exactly one sum.
#[test]
fn bad_input_becomes_dead_letters_and_the_sums_add_up() {
    let installed = Installed::new("job-bad-input");
    installed.done(&["topics", "apply"]);
    let topic = installed.topic("login-events");
    let at = now();
    let event = |id: &str| LoginEvent {
        event_id: id.to_owned(),
        occurred_at: at,
        account: format!("{id}@mail.example"),
        outcome: Outcome::Failure,
        source_ip: "203.0.113.77".to_owned(),
        ..LoginEvent::default()
    };
    let json = |change: &dyn Fn(&mut LoginEvent)| {
        let mut event = event("changed");
        change(&mut event);
        login_event_to_json(&event)
    };
    let avro = |id: u32, body: Vec<u8>| [&[0][..], &id.to_be_bytes(), &body].concat();
    let whole = login_event_to_avro(&event("avro"));
    let bad: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("broken_avro", Some(avro(1, whole[..whole.len() / 2].to_vec()))),
        ("unknown_schema_id", Some(avro(77, whole.clone()))),
        (
            "wrong_type",
            Some(
                br#"{"event_id": 5, "occurred_at": 1, "account": "a", "outcome": "FAILURE", "source_ip": "192.0.2.1"}"#
                    .to_vec(),
            ),
        ),
        ("missing_field", Some(br#"{"event_id": "a"}"#.to_vec())),
        ("broken_json", Some(br#"{"event_id": "a","#.to_vec())),
        ("unknown_encoding", Some(b"login failed for root".to_vec())),
        ("empty_value", None),
        ("bad_address", Some(json(&|e| e.source_ip = "999.1.1.1".to_owned()))),
        ("field_too_long", Some(json(&|e| e.account = "a".repeat(1_025)))),
        ("bad_tenant", Some(json(&|e| e.tenant = "a|b".to_owned()))),
        ("field_too_long", Some(json(&|e| e.user_agent = Some("x".repeat(900_000))))),
    ];
    let good: Vec<Vec<u8>> = vec![
        avro(1, whole),
        login_event_to_json(&event("json")),
        login_event_to_json(&event("json")),
        json(&|e| e.occurred_at = 0),
        json(&|e| e.occurred_at = 4_070_908_800_000),
        json(&|e| e.outcome = Outcome::Blocked),
    ];
    let producer = producer(shared().bootstrap(), None);
    for value in bad.iter().map(|(_, value)| value.as_deref()).chain(good.iter().map(|value| Some(&value[..]))) {
        send(&producer, &topic, Some(0), b"any", value, None);
    }
    flush(&producer);

    let _job = installed.run(EndBy::Term);
    let all = (bad.len() + good.len()) as u64;
    let sums = ["events_counted", "events_not_counted", "events_late", "events_duplicate", "events_dead_lettered"];
    let ended = || sums.iter().map(|name| installed.counted(name)).sum::<u64>();
    until(DEADLINE, "every event in one of the sums", || (ended() == all).then_some(()));
    let seen: Vec<u64> = sums.iter().map(|name| installed.counted(name)).collect();
    assert_eq!((installed.counted("events_in"), seen), (all, vec![3, 1, 1, 1, bad.len() as u64]));
    assert_eq!(installed.counted("events_ahead"), 1);

    let letters = read_all(&installed.connection().client, &installed.topic("login-events-dlq"));
    let text = |letter: &Incoming, name: &str| String::from_utf8(letter.header(name).unwrap().to_vec()).unwrap();
    let mut found: Vec<(i64, String)> = letters
        .iter()
        .map(|letter| {
            assert_eq!(
                (text(letter, "topic"), text(letter, "partition"), text(letter, "stage")),
                (topic.clone(), "0".to_owned(), "intake".to_owned())
            );
            (text(letter, "offset").parse().unwrap(), text(letter, "reason"))
        })
        .collect();
    found.sort();
    let expected: Vec<(i64, String)> =
        bad.iter().enumerate().map(|(n, (reason, _))| (n as i64, (*reason).to_owned())).collect();
    assert_eq!(found, expected);
}

/// With a registry, events written under its ids are read, and what is published is Avro under ids of its own.
#[test]
fn with_a_registry_avro_goes_in_and_comes_out() {
    let installed = Installed::new("job-registry");
    installed.done(&["topics", "apply"]);
    let registry = crate::support::registry::shared();
    let id = register(&registry, "job-registry.login-events-value", WriterSchema::BUNDLED_TEXT).unwrap();
    let _job = installed.run_with(&["--registry", &registry.url], EndBy::Term);
    let producer = producer(shared().bootstrap(), None);
    for n in 0..12 {
        let event = LoginEvent {
            event_id: format!("avro-{n}"),
            occurred_at: now(),
            account: format!("user{n}@mail.example"),
            outcome: Outcome::Failure,
            source_ip: "203.0.113.78".to_owned(),
            ..LoginEvent::default()
        };
        let value = [&[0][..], &id.to_be_bytes(), &login_event_to_avro(&event)].concat();
        send(&producer, &installed.topic("login-events"), Some(0), b"any", Some(&value), None);
    }
    flush(&producer);
    let blocklist = installed.topic("blocklist");
    let record = until(DEADLINE, "a block", || read_all(&installed.connection().client, &blocklist).pop());
    let value = record.value.unwrap();
    let entry: BlocklistEntry = decode_output("blocklist", &value).unwrap();
    assert_eq!((value[0], entry.value.as_str(), entry.action), (0, "203.0.113.78", Action::Block));
    let written_with = u32::from_be_bytes([value[1], value[2], value[3], value[4]]);
    let registered = register(&registry, "job-registry.blocklist-value", OUTPUT_SCHEMAS[1].1).unwrap();
    assert_eq!(written_with, registered);
}

/// Waits until the stages have counted so many events and have come to rest.
fn wait_until_counted(installed: &Installed, events: u64) {
    let sums = ["events_counted", "events_not_counted", "events_late", "events_duplicate", "events_dead_lettered"];
    until(Duration::from_secs(120), "every event in one of the sums", || {
        let sum: u64 = sums.iter().map(|name| installed.counted(name)).sum();
        // What was read before the kill and committed is not counted by the process after it.
        (sum >= events.saturating_sub(events / 3)).then_some(())
    });
    let mut before = Value::Null;
    let mut same = 0;
    until(Duration::from_secs(120), "the stages to come to rest", || {
        let status: Value = serde_json::from_str(&installed.get("/status").1).unwrap_or_default();
        same = if status["counts"] == before { same + 1 } else { 0 };
        before = status["counts"].clone();
        let caught_up = status["tasks"].as_object()?.values().all(|task| task["lag"] == 0);
        (caught_up && same > 40).then_some(())
    });
}

/// Keys of the entries that end after `now`.
fn enforced(installed: &Installed, now: i64) -> BTreeSet<String> {
    let records = read_all(&installed.connection().client, &installed.topic("blocklist"));
    let entries = latest(&records).into_iter().map(|(key, value)| (key, serde_json::from_str(&value).unwrap()));
    entries.filter(|(_, value): &(String, Value)| value["until"].as_i64().unwrap() > now).map(|(key, _)| key).collect()
}

/// Every key that was ever on the list, with the action and the playbook that it showed last. Which entries have ended
/// meanwhile depends on when one looks.
fn named(installed: &Installed) -> BTreeMap<String, (String, String)> {
    let records = read_all(&installed.connection().client, &installed.topic("blocklist"));
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut named = BTreeMap::new();
    for record in records {
        if let (Some(key), Some(value)) = (record.key, record.value) {
            let value: Value = serde_json::from_slice(&value).unwrap();
            named.insert(String::from_utf8(key).unwrap(), (text(&value, "action"), text(&value, "playbook")));
        }
    }
    named
}

/// Keys of a replayed blocklist that are in force at its end.
fn replayed(path: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let key = line["key"].as_str().unwrap().to_owned();
        if line["value"].is_null() {
            keys.remove(&key);
        } else {
            keys.insert(key);
        }
    }
    keys
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
