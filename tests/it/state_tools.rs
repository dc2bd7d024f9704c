//! `portcullis state inspect | verify` over what a run left behind, with a real Kafka.

use std::process::Output;

use portcullis::engine::{Kind, Write};
use portcullis::event::wire::login_event_to_json;
use portcullis::event::{LoginEvent, Outcome};
use portcullis::state::{RocksStore, Shared, Store};
use portcullis::topology::Stage;
use serde_json::Value;

use crate::support::fleet::{Instance, Publishing, Watching};
use crate::support::job::Installed;
use crate::support::kafka::shared;
use crate::support::records::{flush, producer, send};

/// What a terminal would obey: colours, and text from right to left.
const HOSTILE: &str = "\u{1b}[31m\u{202e}lamia@mail.example";

/// One instance that worked for a while and was stopped.
struct Stopped {
    installed: Installed,
    state: String,
}

impl Stopped {
    fn after_a_run(name: &str) -> Stopped {
        let installed = Installed::new(name);
        installed.done(&["topics", "apply"]);
        let running = Instance::start(&installed, "state", &[]);
        let state = installed.folder.path().join("state").display().to_string();
        let refused = installed.output(&["state", "inspect", &state]);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{words}");
        assert!(words.contains("LOCK") && words.contains("stop that instance"), "{words}");

        let watching = Watching::start(&installed, "portcullis-attempts-by-account");
        let publishing = Publishing::start(&[&installed], 400);
        publishing.wait_for_more(1_600);
        let hostile = LoginEvent {
            event_id: HOSTILE.to_owned(),
            occurred_at: 1,
            account: HOSTILE.to_owned(),
            outcome: Outcome::Success,
            source_ip: "198.51.100.77".to_owned(),
            user_agent: Some(HOSTILE.to_owned()),
            ..LoginEvent::default()
        };
        let producer = producer(shared().bootstrap(), None);
        let topic = installed.topic("login-events");
        send(&producer, &topic, Some(0), b"any", Some(&login_event_to_json(&hostile)), None);
        flush(&producer);
        let published = publishing.stop();
        watching.wait_for(published + 1);
        running.stop();
        Stopped { installed, state }
    }

    fn state(&self, arguments: &[&str]) -> Output {
        self.installed.output(&[&["state"], arguments, &[&self.state]].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.state(&[arguments, &["--output", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn a_stopped_instance_is_shown_and_equals_its_changelogs_until_a_row_is_flipped() {
    let stopped = Stopped::after_a_run("state-tools");
    let inspected = stopped.json(&["inspect"]);
    let tasks = inspected["tasks"].as_array().unwrap();
    assert_eq!((inspected["application_id"].as_str(), tasks.len()), (Some("portcullis"), 32));
    let of = |name: &str| tasks.iter().find(|task| task["task"] == name).unwrap();
    let sum = |stage: &str, kind: &str| {
        let of_stage = tasks.iter().filter(|task| task["task"].as_str().unwrap().starts_with(stage));
        of_stage.map(|task| task["kinds"][kind]["rows"].as_u64().unwrap_or(0)).sum::<u64>()
    };
    // 400 people with one address each; whoever guesses has no success.
    assert!((300..=401).contains(&sum("source", "pair")), "{} pairs", sum("source", "pair"));
    assert_eq!((sum("source", "familiar"), sum("account", "pair")), (0, 0));
    let (intake, source) = (of("intake/0"), of("source/0"));
    assert!(intake["position"]["input_offset"].as_i64().unwrap() > 0, "{intake}");
    assert!(source["position"]["changelog_offset"].as_i64().unwrap() > 0, "{source}");
    assert!(source["position"]["stream_time"].as_i64().unwrap() > 1_700_000_000_000, "{source}");
    assert!(source["kinds"]["pair"]["oldest_expiry"].as_i64().unwrap() > 1_700_000_000_000, "{source}");
    assert!(source["sst_bytes"].as_u64().unwrap() > 0, "{source}");

    for kind in Kind::ALL {
        let listed = stopped.state(&["inspect", "--kind", &kind.name(), "--limit", "100000"]);
        let text = text(&listed);
        assert_eq!(listed.status.code(), Some(0), "{text}");
        let clear = text.lines().find(|line| line.contains("mail.example"));
        assert_eq!(clear, None, "{kind:?} shows an account's name");
        assert!(text.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{kind:?}");
    }
    let one = stopped.json(&["inspect", "--task", "account/3", "--kind", "account", "--limit", "2"]);
    assert_eq!(one["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(one["tasks"][0]["rows"].as_array().unwrap().len(), 2);
    let unknown = stopped.state(&["inspect", "--task", "account/99"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown).contains("holds no task account/99; it holds intake/0"), "{}", text(&unknown));

    let verified = stopped.json(&["verify"]);
    let equal: u64 = sum_of(&verified, "equal");
    let rows: u64 = tasks.iter().flat_map(|task| task["kinds"].as_object().unwrap().values()).map(rows_of).sum();
    assert_eq!((verified["is_equal"].as_bool(), equal), (Some(true), rows), "{verified}");
    assert_eq!(stopped.state(&["verify"]).status.code(), Some(0));

    spoil(&stopped.state);
    let spoilt = stopped.state(&["verify", "--task", "source/3"]);
    let words = text(&spoilt);
    assert_eq!(spoilt.status.code(), Some(3), "{words}");
    for part in ["1 differ, 1 only in the state, 1 only in the changelog", "pair default|", "remove the folder"] {
        assert!(words.contains(part), "{part} is not in: {words}");
    }
    let spoilt = stopped.json(&["verify"]);
    let faults: Vec<(&str, u64)> = spoilt["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| (task["task"].as_str().unwrap(), task["faults"].as_u64().unwrap()))
        .filter(|(_, faults)| *faults > 0)
        .collect();
    assert_eq!(faults, [("source/3", 3)]);
}

fn rows_of(kind: &Value) -> u64 {
    kind["rows"].as_u64().unwrap()
}

fn sum_of(verified: &Value, name: &str) -> u64 {
    let tasks = verified["tasks"].as_array().unwrap();
    tasks.iter().flat_map(|task| task["kinds"].as_object().unwrap().values()).map(|k| k[name].as_u64().unwrap()).sum()
}

/// Flips a bit of one row of `source/3`, forgets a second and invents a third.
fn spoil(state: &str) {
    let path = std::path::Path::new(state).join(Stage::Source.as_str()).join("3");
    let mut store = RocksStore::open(&path, &Shared::new(8 << 20)).unwrap();
    let meta = store.meta().unwrap().unwrap();
    let pairs = store.scan(Kind::Pair).unwrap();
    let (flipped, mut value) = pairs[0].clone();
    *value.last_mut().unwrap() ^= 1;
    let (forgotten, bytes) = pairs[1].clone();
    let invented = portcullis::engine::Key::from_bytes(&[flipped.as_bytes(), b"x"].concat());
    let writes: [Write; 3] = [(flipped, Some(value)), (forgotten, None), (invented, Some(bytes))];
    store.apply(&writes, &meta).unwrap();
}

#[test]
fn what_is_no_state_folder_is_said() {
    let installed = Installed::new("state-none");
    let nowhere = installed.folder.path().join("nowhere").display().to_string();
    for command in ["inspect", "verify"] {
        let output = installed.output(&["state", command, &nowhere]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("no state folder"), "{}", text(&output));
    }
    assert!(!std::path::Path::new(&nowhere).exists(), "looking made a folder");
}
