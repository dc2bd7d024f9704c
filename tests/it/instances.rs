//! Several instances share the work and give it back, while events keep coming: nothing lost, nothing twice, and the
//! pause of each handover measured and printed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::fleet::{Instance, Publishing, Spans, Through, Watching, longest, wait_until_shared};
use crate::support::job::Installed;
use crate::support::kafka::Kafka;
use crate::support::records::read_all;

/// Events a second of the publisher.
const PACE: u32 = 80;
/// Events between two changes, so that each span has a quiet part.
const CALM: u64 = 4 * PACE as u64;

#[test]
fn work_is_shared_and_given_back_without_loss_or_duplicates() {
    handovers("instances-classic", "session_timeout: 30s\n");
}

/// The same with the broker handing out the tasks (KIP-848).
#[test]
fn work_is_shared_and_given_back_under_the_consumer_protocol() {
    handovers("instances-consumer", "group_protocol: consumer\n");
}

#[test]
fn a_broker_without_the_consumer_protocol_is_told_at_start() {
    let kafka = Kafka::start_with_features(&["group.version=0"]);
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.yaml");
    let state = folder.path().join("state");
    let text = format!("bootstrap: {}\ngroup_protocol: consumer\nstate_dir: {}\n", kafka.bootstrap(), state.display());
    std::fs::write(&settings, text).unwrap();
    let portcullis = |command: &[&str]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        program.args(command).arg("--settings").arg(&settings).output().unwrap()
    };
    assert!(portcullis(&["topics", "apply"]).status.success());
    let output = portcullis(&["run"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    for part in ["does not offer group_protocol consumer", "group_protocol: classic"] {
        assert!(words.contains(part), "{part} is not in: {words}");
    }
}

/// A stop and a start within the session: nothing moves, and the others do not even notice.
#[test]
fn a_restart_within_the_session_moves_nothing() {
    let installed = Installed::new("instances-restart");
    installed.done(&["topics", "apply"]);
    let settings = settings(&installed, "session_timeout: 60s\n");
    let flags = ["--settings", settings.as_str()];
    let all = all_tasks(&installed);
    let publishing = Publishing::start(&[&installed], PACE);
    let watching = Watching::start(&installed, "portcullis-attempts-by-account");
    let stays = Instance::start(&installed, "stays", &flags);
    let goes = Instance::start(&installed, "goes", &flags);
    wait_until_shared("two instances with half of the tasks each", all, &[&stays, &goes]);
    let (before, rebalances) = (goes.tasks(), stays.rebalances());
    publishing.wait_for_more(CALM);
    let mut spans = Spans::default();
    spans.begin("restart");
    let counted = goes.stop();
    let comes_back = Instance::start(&installed, "goes", &flags);
    wait_until_shared("the same halves", all, &[&stays, &comes_back]);
    publishing.wait_for_more(CALM);
    let published = publishing.stop();
    let seen = watching.wait_for(published);
    print_pauses("a restart within the session", &seen, &spans);
    assert_eq!(comes_back.tasks(), before);
    assert_eq!(stays.rebalances(), rebalances, "a rebalance reached the instance that stayed");
    once_each(&seen, published);
    add_up(&[counted, comes_back.stop(), stays.stop()], published);
}

/// One instance, two, three, two, one; what they did is compared with a run that was left alone.
fn handovers(name: &str, text: &str) {
    let installed = Installed::new(name);
    let alone = Installed::new(&format!("{name}-alone"));
    let settings = settings(&installed, text);
    let flags = ["--settings", settings.as_str(), "--leave-on-stop"];
    for installed in [&installed, &alone] {
        installed.done(&["topics", "apply"]);
    }
    let all = all_tasks(&installed);
    let publishing = Publishing::start(&[&installed, &alone], PACE);
    let watching = ["attempts-by-source", "attempts-by-account"]
        .map(|topic| Watching::start(&installed, &format!("portcullis-{topic}")));

    let mut spans = Spans::default();
    let first = Instance::start(&installed, "first", &flags);
    wait_until_shared("one instance with every task", all, &[&first]);
    publishing.wait_for_more(CALM);
    spans.begin("one alone");
    publishing.wait_for_more(CALM);
    spans.begin("a second joins");
    let second = Instance::start(&installed, "second", &flags);
    let held = wait_until_shared("two instances with half of the tasks each", all, &[&first, &second]);
    assert!(held.iter().all(|n| n.abs_diff(all / 2) <= 1), "{held:?} of {all}");
    publishing.wait_for_more(CALM);
    spans.begin("a third joins");
    let third = Instance::start(&installed, "third", &flags);
    wait_until_shared("three instances with a third each", all, &[&first, &second, &third]);
    publishing.wait_for_more(CALM);
    spans.begin("the third leaves");
    let third = third.stop();
    wait_until_shared("the two with half each again", all, &[&first, &second]);
    publishing.wait_for_more(CALM);
    spans.begin("the second leaves");
    let second = second.stop();
    wait_until_shared("the first with every task again", all, &[&first]);
    publishing.wait_for_more(CALM);
    spans.begin("one alone again");
    publishing.wait_for_more(CALM);
    let published = publishing.stop();

    let [at_source, at_account] = watching.map(|watching| watching.wait_for(published));
    print_pauses(&format!("{name}: to `attempts-by-source`"), &at_source, &spans);
    print_pauses(&format!("{name}: to `attempts-by-account`"), &at_account, &spans);
    once_each(&at_source, published);
    once_each(&at_account, published);
    wait_until_idle(&first);
    add_up(&[first.stop(), second, third], published);

    let state = alone.folder.path().join("state").display().to_string();
    alone.done(&["run", "--no-warm-up", "--until-caught-up", "--state-dir", &state]);
    for topic in ["verdicts", "blocklist"] {
        let [expected, found] = [&alone, &installed].map(|installed| said(installed, topic));
        assert!(expected.len() > 5, "{topic}: {expected:?}");
        let differing: Vec<_> = expected.symmetric_difference(&found).collect();
        assert!(differing.is_empty(), "{topic}: {differing:?} of {}", expected.len());
    }
}

/// Partitions of the group's topics.
fn all_tasks(installed: &Installed) -> usize {
    let topics = installed.connection().topics;
    let read: BTreeSet<String> = portcullis::log::subscription(&topics).into_iter().collect();
    topics.all().iter().filter(|topic| read.contains(&topic.name)).map(|topic| topic.partitions as usize).sum()
}

fn settings(installed: &Installed, text: &str) -> String {
    let path = installed.folder.path().join("settings.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn wait_until_idle(instance: &Instance) {
    let mut before = Value::Null;
    let mut same = 0;
    crate::support::until(crate::support::fleet::PATIENCE, "the stages to come to rest", || {
        let status = instance.status();
        same = if status["counts"] == before { same + 1 } else { 0 };
        before = status["counts"].clone();
        let caught_up = status["tasks"].as_object()?.values().all(|task| task["lag"] == 0);
        (caught_up && same > 40).then_some(())
    });
}

/// Every event came through, and no event twice.
fn once_each(seen: &[Through], published: u64) {
    let mut times: BTreeMap<&str, u64> = BTreeMap::new();
    for through in seen {
        *times.entry(&through.event_id).or_default() += 1;
    }
    let twice: Vec<_> = times.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "seen twice or more: {twice:?}");
    let lost: Vec<_> = (0..published).filter(|n| !times.contains_key(format!("paced-{n}").as_str())).collect();
    assert!(lost.is_empty(), "{} of {published} lost: {lost:?}", lost.len());
}

/// What the instances counted is what was published.
fn add_up(counts: &[BTreeMap<String, u64>], published: u64) {
    let sum = |name: &str| counts.iter().filter_map(|of| of.get(name)).sum::<u64>();
    let sums = ["events_counted", "events_not_counted", "events_late", "events_duplicate", "events_dead_lettered"];
    let seen = sums.map(sum);
    assert_eq!((sum("events_in"), seen), (published, [published, 0, 0, 0, 0]), "{counts:?}");
}

/// Key and playbook, and the action where there is one, of every record that has a value.
fn said(installed: &Installed, topic: &str) -> BTreeSet<(String, String, String)> {
    let records = read_all(&installed.connection().client, &installed.topic(topic));
    let said = records.into_iter().filter_map(|record| {
        let value: Value = serde_json::from_slice(&record.value?).unwrap();
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Some((String::from_utf8(record.key?).unwrap(), text("playbook"), text("action")))
    });
    said.collect()
}

/// For people who read the output with `--nocapture`: no figure is asserted.
fn print_pauses(what: &str, seen: &[Through], spans: &Spans) {
    eprintln!("{what}: longest wait of an event published in each span");
    for (name, span) in spans.ended() {
        let mut waits: Vec<i64> = seen
            .iter()
            .filter(|through| (span.0..span.1).contains(&through.published_at))
            .map(|through| through.seen_at - through.published_at)
            .collect();
        waits.sort_unstable();
        let median = waits.get(waits.len() / 2).copied().unwrap_or_default();
        eprintln!("  {name:<20} {:>6} ms (median {median} ms, {} events)", longest(seen, span), waits.len());
    }
}
