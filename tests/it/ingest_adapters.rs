//! What producers write, and the login events that it is: `tests/ingest/<adapter>/<case>.in.*` beside `<case>.out.json`.
//! `PORTCULLIS_BLESS=1` writes the latter anew, for reading.

use std::path::{Path, PathBuf};

use portcullis::event::wire::{canonical, login_event_to_json};
use portcullis::event::{Millis, Outcome};
use portcullis::ingest::adapters::{Adapters, Mapping, Read};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::repository;

/// A minute after most of the samples.
const NOW: Millis = 1_561_682_470_000;

/// A mapping as somebody would write one for a producer that nobody knows.
const OWN: &str = include_str!("../ingest/own-portal/own-portal.yaml");

fn adapters() -> Adapters {
    Adapters::new([("own-portal.yaml", OWN)]).unwrap()
}

/// The samples, with their adapters.
fn samples() -> Vec<(String, PathBuf)> {
    let mut samples = Vec::new();
    for folder in std::fs::read_dir(repository().join("tests/ingest")).unwrap() {
        let folder = folder.unwrap().path();
        for file in std::fs::read_dir(&folder).unwrap() {
            let file = file.unwrap().path();
            if file.file_name().unwrap().to_string_lossy().contains(".in.") {
                samples.push((folder.file_name().unwrap().to_string_lossy().into_owned(), file));
            }
        }
    }
    samples.sort();
    samples
}

fn read(adapters: &Adapters, name: &str, body: &[u8]) -> Value {
    let all = match adapters.read(name, body, NOW).expect("an adapter of this name") {
        Ok(all) => all,
        Err(reject) => return json!({ "refused": reject.to_string() }),
    };
    let all = all.into_iter().map(|read| match read {
        Read::Event(event) => {
            let value: Value = serde_json::from_slice(&login_event_to_json(&event)).unwrap();
            match canonical(*event, NOW, None) {
                Ok(_) => value,
                Err(reject) => json!({ "rejected": reject.to_string() }),
            }
        }
        Read::Ignored => json!("ignored"),
        Read::Rejected(reject) => json!({ "rejected": reject.to_string() }),
    });
    all.collect()
}

#[test]
fn every_sample_is_read_as_it_stands_beside_it() {
    let adapters = adapters();
    let bless = std::env::var("PORTCULLIS_BLESS").is_ok();
    let mut faults = Vec::new();
    for (name, file) in samples() {
        let seen = read(&adapters, &name, &std::fs::read(&file).unwrap());
        let stem = file.file_name().unwrap().to_string_lossy().split(".in.").next().unwrap().to_owned();
        let out = file.with_file_name(format!("{stem}.out.json"));
        if bless {
            std::fs::write(&out, format!("{}\n", serde_json::to_string_pretty(&seen).unwrap())).unwrap();
        }
        let want = std::fs::read_to_string(&out).unwrap_or_default();
        let want: Value = serde_json::from_str(&want).unwrap_or_default();
        if seen != want {
            faults.push(format!("{}:\n{}", file.display(), serde_json::to_string_pretty(&seen).unwrap()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_adapter_has_samples_with_an_event_something_ignored_and_something_bad() {
    let (adapters, samples) = (adapters(), samples());
    for name in adapters.names() {
        let all: Vec<Value> = samples
            .iter()
            .filter(|(of, _)| *of == name)
            .flat_map(|(_, file)| {
                let read = read(&adapters, &name, &std::fs::read(file).unwrap());
                read.as_array().cloned().unwrap_or_else(|| vec![read])
            })
            .collect();
        assert!(all.iter().any(|one| one.get("outcome").is_some()), "{name}: no event");
        assert!(all.iter().any(|one| one.get("rejected").is_some()), "{name}: nothing bad");
        // OpenSSH's lines are no events of their own, so which of them tell nothing is not told.
        assert!(name == "sshd" || all.iter().any(|one| one == "ignored"), "{name}: nothing ignored");
    }
}

#[test]
fn the_same_body_gives_the_same_ids_and_no_two_events_of_it_have_the_same() {
    let adapters = adapters();
    for (name, file) in samples() {
        let body = std::fs::read(&file).unwrap();
        let ids = || -> Vec<String> {
            let all = read(&adapters, &name, &body);
            let all = all.as_array().cloned().unwrap_or_default();
            all.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)).collect()
        };
        let (first, mut sorted) = (ids(), ids());
        assert_eq!(first, sorted, "{}", file.display());
        sorted.sort();
        sorted.dedup();
        // A retried delivery inside a sample would be the same event; none is in there.
        assert_eq!(sorted.len(), first.len(), "{}", file.display());
    }
}

#[test]
fn a_huge_body_is_refused_and_not_read_for_ever() {
    let adapters = adapters();
    for name in adapters.names() {
        for body in [vec![b'['; 4 << 20], b"{\"a\":".repeat(1 << 18), b"{}\n".repeat(1 << 20), vec![b'a'; 4 << 20]] {
            let read = adapters.read(&name, &body, NOW).unwrap();
            assert!(read.is_err() || read.is_ok_and(|all| all.len() <= 1_000), "{name}");
        }
    }
    assert!(adapters.read("ocata", b"{}", NOW).is_none());
}

/// What attackers and newer versions make of a sample: bytes changed, cut, doubled and put elsewhere.
#[derive(Debug, Clone)]
enum Mutation {
    Change(usize, u8),
    Cut(usize, usize),
    Copy(usize, usize, usize),
    Insert(usize, &'static str),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    const WORDS: [&str; 14] = [
        "null",
        "[]",
        "{}",
        "\"",
        "\\",
        "9999999999999999999",
        "-1",
        "1e999",
        "\u{0}",
        "é",
        "[[[[",
        "true",
        "\n",
        "=\"",
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Change(at, byte)),
        (any::<usize>(), 0..200_usize).prop_map(|(at, length)| Mutation::Cut(at, length)),
        (any::<usize>(), 0..200_usize, any::<usize>()).prop_map(|(from, length, to)| Mutation::Copy(from, length, to)),
        (any::<usize>(), 0..WORDS.len()).prop_map(|(at, word)| Mutation::Insert(at, WORDS[word])),
    ]
}

fn mutated(mut body: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let place = |at: usize| at % (body.len() + 1);
        match *mutation {
            Mutation::Change(at, byte) if !body.is_empty() => {
                let at = at % body.len();
                body[at] = byte;
            }
            Mutation::Change(..) => {}
            Mutation::Cut(at, length) => {
                let at = place(at);
                body.drain(at..(at + length).min(body.len()));
            }
            Mutation::Copy(from, length, to) => {
                let (from, to) = (place(from), place(to));
                let piece = body[from..(from + length).min(body.len())].to_vec();
                body.splice(to..to, piece);
            }
            Mutation::Insert(at, word) => {
                let at = place(at);
                body.splice(at..at, word.bytes());
            }
        }
    }
    body
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_adapter_panics_and_what_it_says_is_bounded(sample in any::<usize>(), mutations in prop::collection::vec(mutation(), 0..12)) {
        let (adapters, samples) = (adapters(), samples());
        let (name, file) = &samples[sample % samples.len()];
        let body = mutated(std::fs::read(file).unwrap(), &mutations);
        for adapter in [name.clone(), adapters.names().remove(sample % adapters.names().len())] {
            for read in adapters.read(&adapter, &body, NOW).unwrap().unwrap_or_default() {
                match read {
                    Read::Event(event) => {
                        prop_assert!(!event.event_id.is_empty());
                        drop(canonical(*event, NOW, None));
                    }
                    Read::Rejected(reject) => prop_assert!(reject.detail.chars().count() <= 300),
                    Read::Ignored => {}
                }
            }
        }
    }
}

#[test]
fn a_mapping_that_is_wrong_says_what_and_where() {
    for (from, to, what) in [
        ("name: own-portal", "name: Own Portal", "`name` has 1 to 63"),
        ("  source_ip: /client/ip\n", "", "`fields` has no `source_ip`"),
        ("  account: /who/login", "  acount: /who/login", "did you mean `account`?"),
        ("/client/ip", "client.ip", "is no JSON pointer"),
        ("failure_reason: UNKNOWN_ACCOUNT", "failure_reason: NO_SUCH_USER", "case 2: `NO_SUCH_USER` is none of"),
        ("set: { outcome: SUCCESS }", "set: { method: SSO }", "case 1: it sets no `outcome`"),
        ("as: rfc3339", "as: iso8601", "iso8601"),
        ("account_exists: false", "account_exists: perhaps", "case 2: field `account_exists`"),
        ("items: [/events]", "item: [/events]", "item"),
        ("requires: { /kind: \"*\" }", "requires: { kind: \"*\" }", "is no JSON pointer"),
    ] {
        assert!(OWN.contains(from), "{from}");
        let error = Mapping::parse(&OWN.replacen(from, to, 1)).expect_err(to);
        assert!(error.contains(what), "{to}: {error}");
    }
    let error = Adapters::new([("x.yaml", OWN.replacen("name: own-portal", "name: sshd", 1).as_str())]).unwrap_err();
    assert!(error.starts_with("x.yaml: `sshd` is read by code"), "{error}");
}

#[test]
fn the_example_in_the_documentation_of_mappings_is_one() {
    let source = std::fs::read_to_string(Path::new(repository()).join("src/ingest/adapters/mapping.rs")).unwrap();
    let example: String = source
        .lines()
        .skip_while(|line| *line != "//! ```yaml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.trim_start_matches("//!").strip_prefix(' ').unwrap_or_default()))
        .collect();
    assert_eq!(Mapping::parse(&example).unwrap().name(), "our-portal");
}

#[test]
fn outcomes_of_all_kinds_come_of_the_samples() {
    let adapters = adapters();
    let mut seen: Vec<Outcome> = Vec::new();
    for (name, file) in samples() {
        for read in adapters.read(&name, &std::fs::read(file).unwrap(), NOW).unwrap().unwrap_or_default() {
            if let Read::Event(event) = read {
                seen.push(event.outcome);
            }
        }
    }
    for outcome in Outcome::ALL {
        assert!(seen.contains(outcome), "{outcome:?}");
    }
}
