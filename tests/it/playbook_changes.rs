//! Playbooks that change while the job runs: through the pure core, and through the real thing.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use portcullis::engine::frame::FrameReader;
use portcullis::engine::{Became, ControlChange, Counter, Emission, Env, Item, Kind, Output, Pipeline};
use portcullis::event::wire::login_event_to_json;
use portcullis::event::{LoginEvent, Millis, Outcome};
use portcullis::topology::{Exemptions, Playbook, PlaybookChange};
use proptest::prelude::*;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord};
use serde_json::Value;

use crate::support::core::{AfterCommit, Core, Record, START, Stored, env, failure};
use crate::support::fleet::{Instance, PATIENCE, wait_until_shared};
use crate::support::job::Installed;
use crate::support::kafka::shared;
use crate::support::records::{DEADLINE, flush, producer, read_all, send};
use crate::support::{repository, until};

const MINUTE: Millis = 60_000;

/// So many accounts within `over`, blocked for a quarter of an hour.
fn text(id: &str, version: i32, over: &str, accounts: u32) -> String {
    format!(
        "id: {id}\nversion: {version}\nowner: tests\ndescription: tests\nmode: live\nfinding: account_fanout\n\
         per: address\nover: {over}\ntrigger: {{accounts_failed: {{at_least: {accounts}}}}}\n\
         then: {{action: BLOCK, ladder: [15m]}}\n"
    )
}

fn start() -> Arc<Env> {
    Arc::new(env(&[Playbook::parse(&text("a", 1, "10m", 6)).unwrap()], Exemptions::default()))
}

fn change(text: &str, at: Millis, lasting: Option<Millis>) -> PlaybookChange {
    let expires_at = lasting.map(|ms| at + ms);
    PlaybookChange { text: text.into(), actor: "ann".into(), reason: "a test".into(), at, expires_at }
}

fn put(core: &mut dyn Core, at: Millis, key: &str, change: Option<&PlaybookChange>) -> Vec<Emission> {
    // Time passes with a mark and no sooner; the change comes behind it.
    let mut emitted = core.advance(at);
    emitted.extend(core.control(at, &|version| ControlChange::Playbook {
        version,
        key: key.into(),
        change: change.cloned(),
    }));
    emitted
}

/// Failures of one address on accounts of its own, a second apart; the versions of the verdicts that came, with the
/// number of the failure.
fn fail(core: &mut dyn Core, from: Millis, source: &str, accounts: std::ops::Range<i64>) -> Vec<(i64, i32)> {
    let mut found = Vec::new();
    for n in accounts {
        let at = from + 1_000 * n;
        let emitted = core.feed(&Record::json(at, &failure(at, format!("{source}-{n}"), source, &format!("user{n}"))));
        for emission in emitted {
            if let Output::Verdict(verdict) = emission.output {
                found.push((n, verdict.playbook_version));
            }
        }
    }
    found
}

/// What tasks said of changes, each once however many said it.
fn told(emitted: &[Emission]) -> BTreeSet<(String, String)> {
    let words = |became: &Became| match became {
        Became::InEffect(_) => "in effect".to_owned(),
        Became::Removed => "removed".to_owned(),
        Became::Ended => "ended".to_owned(),
        Became::Rejected(why) => format!("rejected: {why}"),
        Became::LeftOut(why) => format!("left out: {why}"),
    };
    let mut told = BTreeSet::new();
    for emission in emitted {
        if let Output::Playbook(news) = &emission.output {
            told.insert((news.key.to_string(), words(&news.became)));
        }
    }
    told
}

fn said(key: &str, words: &str) -> BTreeSet<(String, String)> {
    BTreeSet::from([(key.to_owned(), words.to_owned())])
}

/// In memory, and over stores from which every task is opened anew after every step.
fn both(test: impl Fn(&mut dyn Core)) {
    test(&mut Pipeline::new(start()));
    test(&mut Stored::new(start(), Box::new(|| Some(AfterCommit::Restart))));
}

#[test]
fn an_override_holds_from_its_mark_to_its_end_by_stream_time() {
    both(|core| {
        assert_eq!(fail(core, START, "203.0.113.1", 0..4), []);
        let tighter = change(&text("a", 2, "10m", 3), START + 10_000, Some(5 * MINUTE));
        let emitted = put(core, START + 10_000, "a#override", Some(&tighter));
        assert_eq!(told(&emitted), said("a#override", "in effect"));
        // What was counted before is there: the window is the same.
        assert_eq!(fail(core, START + 11_000, "203.0.113.1", 4..5), [(4, 2)]);
        assert_eq!(fail(core, START + 20_000, "203.0.113.2", 0..4), [(2, 2)]);
        // The last millisecond, and the next.
        let end = START + 10_000 + 5 * MINUTE;
        let mut ended = core.advance(end - 60_000);
        assert_eq!(fail(core, end - 3_001, "203.0.113.3", 0..3), [(2, 2)]);
        assert_eq!(fail(core, end - 2_000, "203.0.113.4", 0..6), [(5, 1)]);
        ended.extend(core.advance(end + MINUTE));
        assert!(told(&ended).is_empty(), "it ended with the attempt that reached its end: {:?}", told(&ended));
        assert_eq!(core.counts().get(Counter::PlaybooksRejected), 0);
    });
}

#[test]
fn an_override_ends_with_time_alone() {
    both(|core| {
        fail(core, START, "203.0.113.1", 0..1);
        let tighter = change(&text("a", 2, "10m", 3), START, Some(MINUTE));
        put(core, START + 2_000, "a#override", Some(&tighter));
        assert!(told(&core.advance(START + MINUTE - 1_000)).is_empty());
        assert_eq!(told(&core.advance(START + MINUTE)), said("a#override", "ended"));
        assert_eq!(fail(core, START + 2 * MINUTE, "203.0.113.2", 0..6), [(5, 1)]);
    });
}

#[test]
fn what_is_rejected_keeps_the_old_one_and_is_counted_and_told_once() {
    both(|core| {
        fail(core, START, "203.0.113.1", 0..1);
        let stale = change(&text("a", 1, "10m", 2), START, None);
        let emitted = put(core, START + 2_000, "a", Some(&stale));
        let told_of = emitted.iter().filter(|e| matches!(e.output, Output::Playbook(_))).count();
        assert_eq!((told_of, core.counts().get(Counter::PlaybooksRejected)), (1, 1), "{:?}", told(&emitted));
        assert!(told(&emitted).first().unwrap().1.contains("write `version: 2`"));
        assert_eq!(fail(core, START + 10_000, "203.0.113.2", 0..7), [(5, 1)]);
        // Bytes that intake would not have let through change nothing either.
        let broken = PlaybookChange { text: "id: [".into(), ..stale };
        put(core, START + 20_000, "a", Some(&broken));
        assert_eq!(core.counts().get(Counter::PlaybooksRejected), 2);
        assert_eq!(fail(core, START + 30_000, "203.0.113.3", 0..7), [(5, 1)]);
    });
}

#[test]
fn a_playbook_is_added_changed_and_taken_back() {
    both(|core| {
        let added = change(&text("b", 1, "10m", 4), START, None);
        put(core, START, "b", Some(&added));
        assert_eq!(fail(core, START + 2_000, "203.0.113.1", 0..5), [(3, 1)]);
        let loosened = change(&text("b", 2, "10m", 5), START + 8_000, None);
        put(core, START + 8_000, "b", Some(&loosened));
        assert_eq!(fail(core, START + 10_000, "203.0.113.2", 0..5), [(4, 2)]);
        assert_eq!(told(&put(core, START + 20_000, "b", None)), said("b", "removed"));
        assert_eq!(fail(core, START + 22_000, "203.0.113.3", 0..7), [(5, 1)]);
    });
}

/// What was heard is bounded by what stands: nobody grows a state by putting playbooks on and taking them off.
#[test]
fn what_is_taken_off_leaves_no_rows() {
    let mut stored = Stored::new(start(), Box::new(|| Some(AfterCommit::Restart)));
    for n in 0..50 {
        let id = format!("p{n}");
        let added = change(&text(&id, 1, "10m", 4), START, None);
        put(&mut stored, START + 2_000 * n, &id, Some(&added));
        put(&mut stored, START + 2_000 * n + 1_000, &id, None);
        put(&mut stored, START + 2_000 * n + 1_000, &format!("never-there-{n}"), None);
    }
    let held = stored.row_counts();
    assert_eq!(held.get(&(Kind::Control as u8)), None);
    assert_eq!(held.get(&(Kind::Playbooks as u8)), Some(&3), "one for each task that hears: {held:?}");
}

/// One thing that happens to the core.
#[derive(Debug, Clone)]
enum Event {
    Failure { source: u8, account: u8 },
    Success { source: u8, account: u8 },
    Change { id: u8, version: u8, over: u8, accounts: u8, lasting: Option<u8> },
    Remove { id: u8, is_override: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0u8..4, 0u8..8).prop_map(|(source, account)| Event::Failure { source, account }),
        2 => (0u8..4, 0u8..8).prop_map(|(source, account)| Event::Success { source, account }),
        3 => (0u8..4, 1u8..9, 0u8..5, 2u8..7, proptest::option::of(1u8..20)).prop_map(
            |(id, version, over, accounts, lasting)| Event::Change { id, version, over, accounts, lasting }
        ),
        1 => (0u8..4, any::<bool>()).prop_map(|(id, is_override)| Event::Remove { id, is_override }),
    ]
}

fn happen(core: &mut dyn Core, events: &[(Event, i64)]) -> Vec<Emission> {
    let mut at = START;
    let mut emitted = Vec::new();
    for (n, (event, pause)) in events.iter().enumerate() {
        at += pause;
        let attempt = |source: u8, account: u8, outcome: Outcome| {
            let event = failure(at, n, &format!("203.0.{}.{source}", source % 2), &format!("user{account}"));
            Record::json(at, &LoginEvent { outcome, ..event })
        };
        emitted.extend(match event {
            Event::Failure { source, account } => core.feed(&attempt(*source, *account, Outcome::Failure)),
            Event::Success { source, account } => core.feed(&attempt(*source, *account, Outcome::Success)),
            Event::Change { id, version, over, accounts, lasting } => {
                let id = ["a", "b", "c", "d"][usize::from(*id)];
                let text = text(id, i32::from(*version), &format!("{}m", 2 + over), u32::from(*accounts));
                let lasting = lasting.map(|n| i64::from(n) * 20_000);
                let key = if lasting.is_some() { format!("{id}#override") } else { id.to_owned() };
                put(core, at, &key, Some(&change(&text, at, lasting)))
            }
            Event::Remove { id, is_override } => {
                let id = ["a", "b", "c", "d"][usize::from(*id)];
                put(core, at, &if *is_override { format!("{id}#override") } else { id.to_owned() }, None)
            }
        });
    }
    emitted.extend(core.advance(at + 3_600_000));
    emitted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Wherever tasks are opened anew, they have the same playbooks at every input.
    #[test]
    fn a_restart_at_any_point_changes_nothing_about_playbooks(
        events in prop::collection::vec((event(), 0i64..30_000), 1..80),
        commits in prop::collection::vec(0u8..6, 1..40),
    ) {
        let mut whole = Pipeline::new(start());
        let expect = happen(&mut whole, &events);
        let mut turn = 0;
        let mut stored = Stored::new(start(), Box::new(move || {
            turn += 1;
            match commits[turn % commits.len()] {
                0 => Some(AfterCommit::Keep),
                1 => Some(AfterCommit::Trim),
                2 => Some(AfterCommit::Restart),
                _ => None,
            }
        }));
        let seen = happen(&mut stored, &events);
        prop_assert_eq!(&seen, &expect);
        prop_assert_eq!(stored.counts(), whole.counts().clone());
    }
}

/// Addresses of as many networks, so that they lie with all tasks.
const ADDRESSES: u32 = 24;

/// One run of addresses under test.
struct Publishing<'a> {
    installed: &'a Installed,
    producer: BaseProducer,
    sent: u64,
}

impl Publishing<'_> {
    /// One more failure of each address, on another account.
    fn fail(&mut self, group: u32, attempts: std::ops::Range<u32>) {
        let topic = self.installed.topic("login-events");
        for n in attempts {
            for address in 0..ADDRESSES {
                let event = LoginEvent {
                    event_id: format!("{group}-{address}-{n}"),
                    occurred_at: now(),
                    account: format!("user-{group}-{address}-{n}@mail.example"),
                    outcome: Outcome::Failure,
                    source_ip: address_of(group, address),
                    ..LoginEvent::default()
                };
                // All of an address in one partition, in order.
                let partition = Some(i32::try_from(address % 8).unwrap());
                send(&self.producer, &topic, partition, b"any", Some(&login_event_to_json(&event)), None);
                self.sent += 1;
            }
        }
        flush(&self.producer);
    }
}

fn address_of(group: u32, address: u32) -> String {
    format!("198.{}.{address}.7", 20 + group)
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Version and mode of a playbook's verdicts on a group of addresses, by address.
fn verdicts_of(installed: &Installed, playbook: &str, group: u32) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let addresses: BTreeSet<String> = (0..ADDRESSES).map(|address| address_of(group, address)).collect();
    for record in read_all(&installed.connection().client, &installed.topic("verdicts")) {
        let verdict: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let address = verdict["value"].as_str().unwrap().to_owned();
        if verdict["playbook"] == playbook && addresses.contains(&address) {
            let warming = if verdict["tags"].to_string().contains("warming") { " warming" } else { "" };
            let said = format!("v{} {}{warming}", verdict["playbook_version"], verdict["mode"].as_str().unwrap());
            found.entry(address).or_default().push(said);
        }
    }
    found
}

fn verdicts(installed: &Installed, group: u32) -> BTreeMap<String, Vec<String>> {
    verdicts_of(installed, "ip-account-fanout", group)
}

/// Waits until every address of a group has a verdict; all must be of this version, and one each, and all blocked.
#[track_caller]
fn wait_for_verdicts(installed: &Installed, group: u32, version: i64) {
    let expected = format!("v{version} LIVE");
    let all = until(DEADLINE, "a verdict on each address", || {
        let found = verdicts(installed, group);
        (found.len() == ADDRESSES as usize).then_some(found)
    });
    let others: Vec<_> = all.iter().filter(|(_, said)| **said != [expected.clone()]).collect();
    assert!(others.is_empty(), "not one {expected}: {others:?}");
    let blocked = read_all(&installed.connection().client, &installed.topic("blocklist"));
    let blocked: BTreeSet<Vec<u8>> = blocked.into_iter().filter_map(|record| record.key).collect();
    for address in all.keys() {
        assert!(blocked.contains(format!("default|IP|{address}").as_bytes()), "{address} is not blocked");
    }
}

fn counted(instances: &[&Instance], name: &str) -> u64 {
    instances.iter().map(|instance| instance.status()["counts"][name].as_u64().unwrap_or(0)).sum()
}

/// The offset of a change of a playbook in each partition of a stage's input, and when it was written there.
fn offsets_of(installed: &Installed, stage: &str, key: &str) -> BTreeMap<i32, (i64, Millis)> {
    let mut found = BTreeMap::new();
    for record in read_all(&installed.connection().client, &installed.topic(&format!("portcullis-{stage}"))) {
        for item in FrameReader::new(record.value.as_deref().unwrap()).unwrap() {
            let Item::Mark(mark) = item.unwrap() else { continue };
            let is_it = |c: &ControlChange| matches!(c, ControlChange::Playbook { key: of, .. } if **of == *key);
            if mark.changes.iter().any(is_it) {
                found.entry(record.part.partition).or_insert((record.offset, record.timestamp));
            }
        }
    }
    found
}

/// The shipped fanout, changed.
fn fanout(installed: &Installed, edit: impl Fn(String) -> String) -> String {
    let shipped = std::fs::read_to_string(repository().join("topology/playbooks/ip-account-fanout.yaml")).unwrap();
    let path = installed.folder.path().join("ip-account-fanout.yaml");
    std::fs::write(&path, edit(shipped)).unwrap();
    path.display().to_string()
}

fn with_threshold(version: i32, accounts: u32) -> impl Fn(String) -> String {
    move |text| {
        let text = text.replace("version: 1", &format!("version: {version}"));
        text.replace("{ calm: 10, elevated: 5, attack: 3 }", &accounts.to_string())
    }
}

fn json(installed: &Installed, arguments: &[&str]) -> Value {
    let text = installed.done(&[arguments, &["--output", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

const WHO: [&str; 4] = ["--actor", "ann", "--reason", "one try per account since 02:40"];

#[test]
fn a_playbook_is_tightened_on_the_fly_for_all_tasks_and_loosens_by_itself() {
    let installed = Installed::new("playbook-changes");
    installed.done(&["topics", "apply"]);
    let flags: [&str; 0] = [];
    let first = Instance::start(&installed, "first", &flags);
    let second = Instance::start(&installed, "second", &flags);
    let topics = installed.connection().topics;
    let read: BTreeSet<String> = portcullis::log::subscription(&topics).into_iter().collect();
    let all = topics.all().iter().filter(|topic| read.contains(&topic.name)).map(|t| t.partitions as usize).sum();
    wait_until_shared("two instances with half of the tasks each", all, &[&first, &second]);

    let mut publishing = Publishing { installed: &installed, producer: producer(shared().bootstrap(), None), sent: 0 };
    // Below every threshold of the folder's, whatever the state.
    publishing.fail(0, 0..2);
    let counted_all = |publishing: &Publishing<'_>, instances: &[&Instance]| {
        let sent = publishing.sent;
        until(PATIENCE, "every event counted", || (counted(instances, "events_counted") >= sent).then_some(()));
    };
    counted_all(&publishing, &[&first, &second]);
    assert!(verdicts(&installed, 0).is_empty());

    // What is refused is refused here, with what to do, and nothing is published.
    let file = fanout(&installed, |text| text.replace("at_least: 0.8", "at_least: 0.8\n    at_moost: 1"));
    let output = installed.output(&[&["playbooks", "set", &file][..], &WHO].concat());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("did you mean `at_most`?"), "{words}");
    let file = fanout(&installed, with_threshold(1, 3));
    let output = installed.output(&[&["playbooks", "set", &file][..], &WHO].concat());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("write `version: 2`") && words.contains("--raise"), "{words}");
    let set = ["playbooks", "set", &file, "--raise", "--for", "30s"];
    let dry = json(&installed, &[&set[..], &WHO, &["--dry-run"]].concat());
    assert_eq!((dry["published"].as_bool(), dry["version"].as_i64()), (Some(false), Some(2)), "{dry}");
    assert!(read_all(&installed.connection().client, &installed.topic("playbooks")).is_empty());

    let changed = json(&installed, &[&set[..], &WHO].concat());
    let returned = Instant::now();
    publishing.fail(0, 2..3);
    until(DEADLINE, "a verdict under the new one", || {
        verdicts(&installed, 0).values().flatten().any(|said| said == "v2 LIVE").then_some(())
    });
    // For people who read the output with --nocapture.
    eprintln!("from `playbooks set` returning to the first verdict under it: {} ms", returned.elapsed().as_millis());
    wait_for_verdicts(&installed, 0, 2);
    eprintln!("to a verdict on every address: {} ms", returned.elapsed().as_millis());
    let fields: Vec<&str> =
        changed["differences"].as_array().unwrap().iter().map(|d| d["field"].as_str().unwrap()).collect();
    let bound = "trigger.accounts_failed.at_least";
    let parts = [".attack", ".calm", ".elevated"].map(|state| format!("{bound}{state}"));
    assert_eq!(fields, [&[bound], &[&*parts[0], &parts[1], &parts[2]][..], &["version"]].concat(), "{changed}");
    assert_eq!(changed["notes"].as_array().map(Vec::len), Some(0), "{changed}");

    // From a recorded offset of each task's input.
    for stage in ["attempts-by-source", "attempts-by-account", "site-partials"] {
        let offsets = offsets_of(&installed, stage, "ip-account-fanout#override");
        assert_eq!(offsets.keys().copied().collect::<Vec<_>>(), (0..8).collect::<Vec<_>>(), "{stage}");
        let published = changed["expires_at"].as_i64().unwrap() - 30_000;
        let last = offsets.values().map(|(_, at)| at - published).max().unwrap();
        eprintln!("from its publishing to the last mark of it on {stage}: {last} ms");
    }

    // What intake cannot read, and what the tasks do not take.
    let topic = installed.topic("playbooks");
    send(&publishing.producer, &topic, None, b"ip-account-fanout", Some(b"id: [\xff"), None);
    let stale = with_threshold(1, 1)(
        std::fs::read_to_string(repository().join("topology/playbooks/ip-account-fanout.yaml")).unwrap(),
    );
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new().insert(header("actor", "mallory")).insert(header("reason", "none"));
    let record =
        BaseRecord::<[u8], [u8]>::to(&topic).key(b"ip-account-fanout").payload(stale.as_bytes()).headers(headers);
    publishing.producer.send(record).map_err(|(e, _)| e).unwrap();
    flush(&publishing.producer);
    until(DEADLINE, "two changes that are not taken", || {
        (counted(&[&first, &second], "playbooks_rejected") == 2).then_some(())
    });

    // Its end, by the time that the marks carry.
    let end = changed["expires_at"].as_i64().unwrap();
    let listed = |id: &str| {
        let list = json(&installed, &["playbooks", "list", "--in-effect"]);
        let of = list["playbooks"].as_array().unwrap().iter().find(|of| of["id"] == id).cloned();
        (of.unwrap_or_default(), list["rejected"].as_array().unwrap().len())
    };
    let (of, rejected) = listed("ip-account-fanout");
    if now() < end - 1_000 {
        let origin = ["from", "actor", "reason"].map(|name| of[name].as_str().unwrap().to_owned());
        assert_eq!(origin, ["override", "ann", "one try per account since 02:40"], "{of}");
        assert_eq!((of["until"].as_i64(), of["version"].as_i64()), (Some(end), Some(2)));
    }
    assert_eq!(rejected, 2);
    until(DEADLINE, "the end of the override", || (now() > end).then_some(()));
    publishing.fail(1, 0..4);
    publishing.fail(1, 4..10);
    wait_for_verdicts(&installed, 1, 1);
    assert_eq!(listed("ip-account-fanout").0["from"], "folder");

    // A change that stays, one instance killed behind it: the same playbooks hold when it is back.
    let file = fanout(&installed, with_threshold(3, 3));
    json(&installed, &[&["playbooks", "set", &file][..], &WHO].concat());
    publishing.fail(2, 0..2);
    drop(second);
    let second = Instance::start(&installed, "second", &flags);
    publishing.fail(2, 2..3);
    wait_for_verdicts(&installed, 2, 3);
    assert_eq!(listed("ip-account-fanout").0["from"], "topic");
    let removed = json(&installed, &[&["playbooks", "remove", "ip-account-fanout"][..], &WHO].concat());
    assert_eq!(removed["published"], true);
    let again = installed.output(&[&["playbooks", "remove", "ip-account-fanout"][..], &WHO].concat());
    assert_eq!(again.status.code(), Some(2));
    publishing.fail(3, 0..10);
    wait_for_verdicts(&installed, 3, 1);

    // What nobody counted before begins now, and blocks nobody until it has seen enough.
    let file = installed.folder.path().join("young.yaml");
    let young = "id: young\nversion: 1\nowner: us\ndescription: a window of its own\nmode: live\nfinding: failure_rate\n\
                 per: address\nover: 7m\ntrigger: {failures: {at_least: 2}}\nthen: {action: BLOCK, ladder: [15m]}\n";
    std::fs::write(&file, young).unwrap();
    let changed = json(&installed, &[&["playbooks", "set", file.to_str().unwrap()][..], &WHO].concat());
    assert!(changed["notes"].to_string().contains("stays in shadow for 7m"), "{changed}");
    publishing.fail(4, 0..3);
    let said = until(DEADLINE, "a verdict on each address", || {
        let found = verdicts_of(&installed, "young", 4);
        (found.len() == ADDRESSES as usize).then_some(found)
    });
    assert!(said.values().flatten().all(|said| said == "v1 SHADOW warming"), "{said:?}");

    for (name, instance) in [("first", first), ("second", second)] {
        instance.stop();
        let state = installed.folder.path().join(name).display().to_string();
        let verified = installed.output(&["state", "verify", &state]);
        assert_eq!(verified.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&verified.stdout));
    }
}

/// Whoever sets a playbook says so: the name of the login is not always there.
#[test]
fn a_change_needs_a_reason_and_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = repository().join("topology/playbooks/ip-account-fanout.yaml");
    for (arguments, missing) in [(vec!["--actor", "ann"], "--reason"), (vec!["--reason", "a test"], "--actor")] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let output = program
            .args(["playbooks", "set", file.to_str().unwrap(), "--bootstrap", "127.0.0.1:1"])
            .args(arguments)
            .env_remove("USER")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains(missing), "{words}");
    }
}
