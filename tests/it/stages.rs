//! The stage loop end to end on the log in memory: events in, verdicts and blocks out, whatever goes wrong in between.

use portcullis::engine::Counter;
use portcullis::log::memory::Fault;

use crate::support::stages::{Installation, PANICKING};

const START: i64 = 1_561_682_400_000;

/// A failed login of one address on one account.
fn failure(number: i64, ip: &str, account: &str) -> (i64, String) {
    let at = START + number * 1_000;
    let json = format!(
        r#"{{"event_id":"e{number}-{ip}","occurred_at":{at},"account":"{account}","outcome":"FAILURE","failure_reason":"WRONG_PASSWORD","source_ip":"{ip}"}}"#
    );
    (at, json)
}

/// Twenty failures of one address on twenty accounts, and somebody else's few.
fn attack(installation: &Installation) {
    for n in 0..20 {
        let (at, json) = failure(n, "203.0.113.9", &format!("user{n}@mail.example"));
        installation.publish(0, at, &json);
        if n % 5 == 0 {
            let (at, json) = failure(n, "198.51.100.7", "one@mail.example");
            installation.publish(0, at, &json);
        }
    }
    installation.set_now(START + 20_000);
}

/// Key and value of each record, in order.
type Records = Vec<(String, Option<serde_json::Value>)>;

fn summary(installation: &Installation) -> (Records, Records) {
    (installation.output("verdicts"), installation.output("blocklist"))
}

#[test]
fn an_address_that_fails_on_many_accounts_is_on_the_blocklist_and_nobody_else() {
    let mut installation = Installation::new(1);
    attack(&installation);
    installation.settle();
    let blocked = installation.output("blocklist");
    let seen: Vec<(&str, &str, &str)> = blocked
        .iter()
        .map(|(key, entry)| {
            let entry = entry.as_ref().unwrap();
            (key.as_str(), entry["action"].as_str().unwrap(), entry["playbook"].as_str().unwrap())
        })
        .collect();
    // Ten accounts, then twenty failures: of two claims the one that ends later shows.
    let address = "default|IP|203.0.113.9";
    assert_eq!(seen, [(address, "BLOCK", "ip-account-fanout"), (address, "BLOCK", "ip-failure-rate")]);
    let counts = installation.counts();
    assert_eq!((counts.get(Counter::EventsIn), counts.accounted()), (24, 24));
}

#[test]
fn a_block_that_ends_is_lifted_by_a_tombstone_when_time_passes() {
    let mut installation = Installation::new(1);
    attack(&installation);
    installation.settle();
    // The challenge for a day's failures is the last to end, after an hour.
    installation.set_now(START + 90 * 60_000);
    for _ in 0..100 {
        installation.turn();
    }
    let last = installation.output("blocklist").pop().unwrap();
    assert_eq!(last, ("default|IP|203.0.113.9".to_owned(), None));
}

#[test]
fn what_arrived_days_before_now_blocks_nobody_now() {
    let mut installation = Installation::new(1);
    installation.set_now(START + 2 * 86_400_000);
    // Somebody logs in, and then the stages hear what time it is.
    let (_, json) = failure(0, "192.0.2.1", "somebody@mail.example");
    installation.publish(0, START - 1_000, &json);
    installation.settle();
    for _ in 0..100 {
        installation.turn();
    }
    attack(&installation);
    installation.set_now(START + 2 * 86_400_000 + 10_000);
    installation.settle();
    assert_eq!(installation.output("blocklist"), []);
    let counts = installation.counts();
    assert_eq!((counts.get(Counter::EventsIn), counts.get(Counter::Counted)), (25, 25));
    assert!(counts.get(Counter::TooOldToEnforce) > 0);
}

#[test]
fn commits_that_abort_or_whose_outcome_is_unknown_change_nothing() {
    let mut calm = Installation::new(1);
    attack(&calm);
    calm.settle();
    let expected = summary(&calm);
    for fault in [Fault::Aborts, Fault::UnknownCommitted, Fault::UnknownLost] {
        for at in 0..12 {
            let mut installation = Installation::new(1);
            attack(&installation);
            for _ in 0..at {
                installation.turn();
            }
            installation.broker.fail_commits(&[fault, fault]);
            installation.settle();
            assert_eq!(summary(&installation), expected, "{fault:?} after {at} turns");
            assert_eq!(installation.counts().get(Counter::EventsIn), 24, "{fault:?} after {at} turns");
        }
    }
}

#[test]
fn a_kill_at_any_turn_changes_nothing() {
    let mut calm = Installation::new(1);
    attack(&calm);
    calm.settle();
    let expected = summary(&calm);
    for at in 0..60 {
        let mut installation = Installation::new(1);
        attack(&installation);
        for _ in 0..at {
            installation.turn();
        }
        installation.kill();
        installation.settle();
        assert_eq!(summary(&installation), expected, "killed after {at} turns");
    }
}

#[test]
fn a_lost_disk_is_restored_from_the_changelog() {
    let mut installation = Installation::new(1);
    attack(&installation);
    installation.settle();
    // Sums of the last second go to the site when it is over.
    installation.set_now(START + 30_000);
    for _ in 0..100 {
        installation.turn();
    }
    installation.stop();
    let rows = installation.disks.rows();
    installation.disks = crate::support::stages::Disks::default();
    installation.settle();
    installation.stop();
    let restored = installation.disks.rows();
    for (place, before) in rows {
        let after = &restored[&place];
        let differing: Vec<_> =
            before.iter().filter(|(key, value)| after.get(*key) != Some(*value)).map(|(key, _)| key).collect();
        // Time went on: a mark moves the clock and nothing else.
        assert!(differing.iter().all(|key| key.kind_byte() == 1), "{place:?}: {differing:?}");
        assert_eq!(before.len(), after.len(), "{place:?}");
    }
}

#[test]
fn an_event_on_which_steps_panic_is_set_aside_and_the_others_are_not_touched() {
    let mut calm = Installation::new(1);
    attack(&calm);
    calm.settle();
    let mut installation = Installation::new(1);
    attack(&installation);
    // The wire format of the schema registry, under the id of a schema on which decoding panics.
    let mut poison = vec![0, 0, 0, 0, PANICKING as u8];
    poison.extend_from_slice(b"anything");
    installation.broker.publish("login-events", 0, START + 20_000, None, Some(&poison));
    installation.settle();
    assert_eq!(summary(&installation), summary(&calm));
    let counts = installation.counts();
    assert_eq!((counts.get(Counter::EventsIn), counts.accounted()), (25, 25));
    let letters = installation.broker.records("login-events-dlq");
    let reasons: Vec<_> = letters.iter().map(|letter| letter.header("reason").unwrap()).collect();
    assert_eq!(reasons, [b"poison"]);
    assert_eq!(letters[0].value.as_deref(), Some(&poison[..]));
    assert_eq!(installation.progress.snapshot().panics, 3);
}
