//! What is told when: tables, and whatever chance brings.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::ledger::{Ledger, Left, Next, Wish};
use super::message::Message;
use super::news::{DIGEST_MS, GAPS_MS, Occasion, Told, after, due};
use super::{BURST, HELD_MS, Incidents, NEWS_AGE_MAX_MS, REFILL_MS, REFUSALS_MAX, RETRY_MS_MAX, TRIED_MS_MAX};
use crate::event::{Compromise, Incident, IncidentState, Millis, Severity};

const MINUTE: Millis = 60_000;
const START: Millis = 1_561_682_400_000;

/// An incident of `shop` as it stands `at` after its start.
fn incident(id: &str, fallen: usize, severity: Severity, is_over: bool, at: Millis) -> Incident {
    let mut incident: Incident =
        serde_json::from_str(include_str!("../../schemas/examples/incident/closed.json")).unwrap();
    let fell = |n: usize| Compromise {
        account: format!("account-{n}"),
        source_ip: "203.0.113.9".to_owned(),
        at: START,
        flagged_at: START,
        event_id: format!("event-{n}"),
    };
    incident.incident_id = id.to_owned();
    incident.compromised = (0..fallen).map(fell).collect();
    incident.severity = severity;
    incident.state = if is_over { IncidentState::Closed } else { IncidentState::Open };
    incident.ended_at = is_over.then_some(START + at);
    incident.started_at = START;
    incident.updated_at = START + at;
    incident
}

fn wish() -> Wish {
    Wish {
        destination: "tests".to_owned(),
        tenants: None,
        severity: Severity::Info,
        digest_ms: Some(DIGEST_MS),
        burst: BURST,
        refill_ms: REFILL_MS,
        console: None,
    }
}

fn put(incidents: &mut Incidents, incident: &Incident) {
    let value = serde_json::to_vec(incident).unwrap();
    incidents.take(incident.incident_id.as_bytes(), Some(&value));
}

/// Everything that may go now, delivered.
fn drain(ledger: &mut Ledger, incidents: &Incidents, wish: &Wish, now: Millis) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Next::Send(message) = ledger.next(incidents, wish, now) {
        ledger.sent(now);
        messages.push(*message);
    }
    messages
}

fn names(occasions: &BTreeSet<Occasion>) -> String {
    occasions.iter().map(|occasion| occasion.as_str()).collect::<Vec<_>>().join("+")
}

#[test]
fn what_matters_is_told_and_when() {
    use Severity::{Critical, High};
    // Messages and digests told before, fallen and severity told, how it stands now, and what is due how much later.
    let told = |messages, digests, fallen, severity, is_over| Told {
        revision: START,
        at: START,
        severity,
        fallen,
        attempts: 0,
        stopped_at_edge: 0,
        is_over,
        messages,
        digests,
        heard: 0,
    };
    let rows = [
        (None, incident("i", 0, High, false, 1), "OPENED", 0),
        (None, incident("i", 1, High, false, 1), "OPENED+FELL", 0),
        (None, incident("i", 0, High, true, 1), "OPENED+ENDED", 0),
        (Some(told(1, 0, 0, High, false)), incident("i", 1, Critical, false, 1), "FELL+ESCALATED", GAPS_MS[0]),
        (Some(told(2, 0, 1, High, false)), incident("i", 2, High, false, 1), "FELL", GAPS_MS[1]),
        (Some(told(3, 0, 1, High, false)), incident("i", 1, Critical, false, 1), "ESCALATED", GAPS_MS[2]),
        (Some(told(4, 0, 1, High, false)), incident("i", 2, High, false, 1), "FELL", GAPS_MS[3]),
        (Some(told(99, 0, 1, High, false)), incident("i", 2, High, false, 1), "FELL", GAPS_MS[3]),
        // Less severe than was told is no news.
        (Some(told(1, 0, 0, Critical, false)), incident("i", 0, High, false, 1), "DIGEST", DIGEST_MS),
        (Some(told(2, 1, 0, High, false)), incident("i", 0, High, false, 1), "DIGEST", 2 * DIGEST_MS),
        (Some(told(9, 8, 0, High, false)), incident("i", 0, High, false, 1), "DIGEST", 240 * MINUTE),
        (Some(told(1, 0, 0, High, false)), incident("i", 0, High, false, 0), "", 0),
        (Some(told(5, 0, 1, High, false)), incident("i", 1, High, true, 1), "ENDED", MINUTE),
        (Some(told(5, 0, 1, High, false)), incident("i", 3, Critical, true, 1), "FELL+ESCALATED+ENDED", MINUTE),
        (Some(told(5, 0, 1, High, true)), incident("i", 3, Critical, true, 1), "", 0),
    ];
    for (number, (told, incident, occasions, later)) in rows.into_iter().enumerate() {
        // What is due at once is due now, which is a minute after the last message.
        let now = START + MINUTE;
        let found = due(told.as_ref(), &incident, Some(DIGEST_MS), now);
        let found = found.map(|due| (names(&due.occasions), due.at)).unwrap_or_default();
        let at = match (occasions, &told) {
            ("", _) => 0,
            (_, None) => now,
            _ => START + later,
        };
        assert_eq!(found, (occasions.to_owned(), at), "row {number}");
    }
    assert_eq!(due(Some(&told(1, 0, 0, High, false)), &incident("i", 0, High, false, 1), None, START), None);
}

#[test]
fn a_clock_that_was_set_back_holds_nothing_up() {
    let told = after(None, &incident("i", 0, Severity::High, false, 0), &BTreeSet::new(), START + 365 * 86_400_000);
    let found = due(Some(&told), &incident("i", 1, Severity::High, false, 1), None, START).unwrap();
    assert!(found.at <= START + GAPS_MS[3]);
    // Nor does an allowance that was used up by that clock.
    let mut ledger = Ledger::new(START);
    let mut incidents = Incidents::default();
    for n in 0..30 {
        put(&mut incidents, &incident(&format!("i{n}"), 0, Severity::High, false, 365 * 86_400_000));
    }
    assert_eq!(drain(&mut ledger, &incidents, &wish(), START + 365 * 86_400_000).len(), 1);
    for n in 0..20 {
        put(&mut incidents, &incident(&format!("j{n}"), 0, Severity::High, false, 0));
        drain(&mut ledger, &incidents, &wish(), START + 365 * 86_400_000);
    }
    put(&mut incidents, &incident("k", 0, Severity::High, false, 0));
    let Next::Wait(Some(until)) = ledger.next(&incidents, &wish(), START) else { panic!() };
    assert_eq!(until, START + REFILL_MS);
    assert_eq!(drain(&mut ledger, &incidents, &wish(), until).len(), 1);
}

#[test]
fn what_was_over_before_anybody_was_to_be_told_is_told_to_nobody() {
    let mut incidents = Incidents::default();
    put(&mut incidents, &incident("old", 2, Severity::Critical, true, -MINUTE));
    put(&mut incidents, &incident("open", 0, Severity::High, false, -MINUTE));
    put(&mut incidents, &incident("abandoned", 0, Severity::High, false, -2 * NEWS_AGE_MAX_MS));
    let mut ledger = Ledger::new(START);
    let told = drain(&mut ledger, &incidents, &wish(), START);
    assert_eq!(told.iter().map(|message| &*message.incidents[0].incident_id).collect::<Vec<_>>(), ["open"]);
    // What began and ended while nobody looked is told, and once.
    put(&mut incidents, &incident("missed", 1, Severity::Critical, true, 10 * MINUTE));
    let told = drain(&mut ledger, &incidents, &wish(), START + 11 * MINUTE);
    assert_eq!(
        told.iter().map(|message| names(&message.incidents[0].occasions)).collect::<Vec<_>>(),
        ["OPENED+FELL+ENDED"]
    );
    let again = serde_json::to_string(&ledger).unwrap();
    let mut ledger: Ledger = serde_json::from_str(&again).unwrap();
    for later in [11 * MINUTE, NEWS_AGE_MAX_MS, 2 * NEWS_AGE_MAX_MS, 9 * NEWS_AGE_MAX_MS] {
        assert_eq!(drain(&mut ledger, &incidents, &Wish { digest_ms: None, ..wish() }, START + later), []);
    }
}

#[test]
fn many_at_once_share_messages_and_none_is_left_out() {
    let mut incidents = Incidents::default();
    for n in 0..1_000 {
        put(&mut incidents, &incident(&format!("i{n:04}"), n % 2, Severity::High, false, 1));
    }
    let mut ledger = Ledger::new(START);
    let wish = wish();
    let (mut told, mut now) = (Vec::new(), START + 1);
    let mut counts = Vec::new();
    loop {
        match ledger.next(&incidents, &wish, now) {
            Next::Send(message) => {
                ledger.sent(now);
                counts.push((now, message.incidents.len()));
                told.extend(message.incidents.into_iter().map(|item| (item.fallen_new, item.incident_id)));
            }
            Next::Wait(Some(until)) if told.len() < 1_000 => now = until,
            Next::Wait(_) => break,
        }
    }
    assert_eq!(counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [200; 5]);
    assert!(told[..500].iter().all(|(fallen, _)| *fallen == 1), "who fell is told first");
    assert_eq!(told.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), 1_000);
    // Ten more, one after the other: five messages are left of the ten, then one every 30 seconds.
    let mut at = Vec::new();
    for n in 0..10 {
        put(&mut incidents, &incident(&format!("j{n}"), 0, Severity::High, false, 1));
        while drain(&mut ledger, &incidents, &Wish { digest_ms: None, ..wish.clone() }, now).is_empty() {
            let Next::Wait(Some(until)) = ledger.next(&incidents, &wish, now) else { panic!() };
            now = until;
        }
        at.push(now - START - 1);
    }
    assert_eq!(at, [0, 0, 0, 0, 0, 30_000, 60_000, 90_000, 120_000, 150_000]);
}

#[test]
fn a_message_stays_the_same_until_it_is_taken_or_given_up() {
    let mut incidents = Incidents::default();
    put(&mut incidents, &incident("i", 0, Severity::High, false, 0));
    let mut ledger = Ledger::new(START);
    let mut now = START;
    let Next::Send(first) = ledger.next(&incidents, &wish(), now) else { panic!() };
    let mut waits = Vec::new();
    let given_up = loop {
        match ledger.failed(None, false, now) {
            Left::Retry(at) => {
                waits.push(at - now);
                assert_eq!(ledger.next(&incidents, &wish(), at - 1), Next::Wait(Some(at)));
                now = at;
            }
            Left::GivenUp => break now,
        }
        // News in between, and a restart: it waits for the next message.
        put(&mut incidents, &incident("i", 1, Severity::Critical, false, now - START));
        ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
        let Next::Send(again) = ledger.next(&incidents, &wish(), now) else { panic!() };
        assert_eq!(again, first);
    };
    assert_eq!(waits[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300].map(|s| s * 1_000));
    assert!(waits.iter().all(|wait| *wait <= RETRY_MS_MAX) && given_up - START >= TRIED_MS_MAX);
    // What it told is not lost.
    let Next::Wait(Some(until)) = ledger.next(&incidents, &wish(), given_up) else { panic!() };
    let Next::Send(next) = ledger.next(&incidents, &wish(), until) else { panic!() };
    assert_eq!((until - given_up, names(&next.incidents[0].occasions)), (RETRY_MS_MAX, "OPENED+FELL".to_owned()));
    assert_ne!(next.id, first.id);

    // A receiver that will not have it is not asked for ever, and says how long it wants to be let alone.
    let left: Vec<Left> = (0..REFUSALS_MAX).map(|_| ledger.failed(Some(90_000), true, until)).collect();
    assert_eq!(left, [Left::Retry(until + 90_000), Left::Retry(until + 90_000), Left::GivenUp]);
    assert_eq!(ledger.next(&incidents, &wish(), until), Next::Wait(Some(until + HELD_MS)));
    // Others do not wait for it.
    put(&mut incidents, &incident("other", 0, Severity::High, false, until - START));
    let Next::Send(other) = ledger.next(&incidents, &wish(), until) else { panic!() };
    assert_eq!(other.incidents[0].incident_id, "other");
}

#[test]
fn everybody_is_told_of_what_they_want() {
    let mut incidents = Incidents::default();
    let mut theirs = incident("i", 0, Severity::Medium, false, 0);
    theirs.tenant = "bank".to_owned();
    put(&mut incidents, &theirs);
    let told = |wish: &Wish, incidents: &Incidents, ledger: &mut Ledger| drain(ledger, incidents, wish, START).len();
    let shop = Wish { tenants: Some(vec!["shop".to_owned()]), ..wish() };
    let severe = Wish { severity: Severity::High, ..wish() };
    let (mut of_shop, mut of_severe) = (Ledger::new(START), Ledger::new(START));
    assert_eq!((told(&shop, &incidents, &mut of_shop), told(&severe, &incidents, &mut of_severe)), (0, 0));
    // It gets severe: then it is told, and to its end, however severe it ends.
    theirs.severity = Severity::High;
    put(&mut incidents, &theirs);
    assert_eq!((told(&shop, &incidents, &mut of_shop), told(&severe, &incidents, &mut of_severe)), (0, 1));
    (theirs.severity, theirs.state) = (Severity::Low, IncidentState::Closed);
    put(&mut incidents, &theirs);
    assert_eq!((told(&shop, &incidents, &mut of_shop), told(&severe, &incidents, &mut of_severe)), (0, 1));
}

#[test]
fn what_is_no_incident_is_counted_and_changes_nothing() {
    let mut incidents = Incidents::default();
    let whole = serde_json::to_vec(&incident("i", 0, Severity::High, false, 0)).unwrap();
    let long = vec![b'x'; super::RECORD_BYTES_MAX + 1];
    for (key, value) in [(&b"\xff"[..], &whole[..]), (b"other", &whole), (b"i", b"{}"), (b"i", b""), (b"i", &long)] {
        assert!(!incidents.take(key, Some(value)));
    }
    assert_eq!((incidents.refused(), incidents.len()), (5, 0));
    assert!(incidents.take(b"i", Some(&whole)) && !incidents.take(b"i", Some(&whole)) && incidents.take(b"i", None));
}

/// What happens next: how much later, how many fall, how severe it is at least, and what the receiver does.
#[derive(Debug, Clone)]
struct Step {
    later: Millis,
    fall: usize,
    is_severe: bool,
    receiver: Receiver,
    restarts: bool,
}

#[derive(Debug, Clone, Copy)]
enum Receiver {
    Takes,
    IsAway,
    Refuses,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let receiver = prop_oneof![
        4 => Just(Receiver::Takes), 2 => Just(Receiver::IsAway), 1 => Just(Receiver::Refuses),
    ];
    let later = prop_oneof![0..2_000_i64, 2_000..5 * MINUTE, 5 * MINUTE..60 * MINUTE];
    let fall = prop_oneof![5 => Just(0_usize), 1 => 1..4_usize, 1 => 100..300_usize];
    let step = (later, fall, any::<bool>(), receiver, any::<bool>())
        .prop_map(|(later, fall, is_severe, receiver, restarts)| Step { later, fall, is_severe, receiver, restarts });
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Whatever comes, and however the receiver behaves: the opening is told once and first, the end once and last, and
    /// everybody who fell once; in between there is the room that was promised.
    #[test]
    fn nobody_who_fell_is_left_out_and_nobody_is_flooded(steps in steps()) {
        let wish = wish();
        let mut incidents = Incidents::default();
        let mut ledger = Ledger::new(START - 1);
        let mut now = START;
        let (mut fallen, mut severity) = (0, Severity::High);
        let mut sent: Vec<(Millis, Message)> = Vec::new();
        let mut tried: BTreeMap<String, Message> = BTreeMap::new();
        let last = steps.len() - 1;
        let mut was_over_at = None;
        for (number, step) in steps.iter().enumerate() {
            now += step.later;
            fallen += step.fall;
            if step.is_severe {
                severity = Severity::Critical;
            }
            put(&mut incidents, &incident("i", fallen, severity, number == last, now - START));
            if number == last {
                was_over_at = Some(now);
            }
            if step.restarts {
                ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
            }
            for _ in 0..3 {
                let Next::Send(message) = ledger.next(&incidents, &wish, now) else { break };
                // The same id is the same message.
                let known = tried.entry(message.id.clone()).or_insert_with(|| (*message).clone());
                prop_assert_eq!(&*known, &*message);
                match step.receiver {
                    Receiver::Takes => {
                        ledger.sent(now);
                        sent.push((now, *message));
                    }
                    Receiver::IsAway => drop(ledger.failed(None, false, now)),
                    Receiver::Refuses => drop(ledger.failed(None, true, now)),
                }
            }
        }
        // In the end the receiver takes what is left.
        for _ in 0..50 {
            match ledger.next(&incidents, &wish, now) {
                Next::Send(message) => {
                    ledger.sent(now);
                    sent.push((now, *message));
                }
                Next::Wait(Some(until)) => now = now.max(until),
                Next::Wait(None) => break,
            }
        }
        // An end that nobody took for a day is no news any more; a receiver that was away for less missed nothing.
        prop_assert_eq!(ledger.next(&incidents, &wish, now), Next::Wait(None));
        prop_assert!(now - was_over_at.unwrap() < NEWS_AGE_MAX_MS);
        let told: Vec<_> = sent.iter().map(|(at, message)| (*at, &message.incidents[0])).collect();
        let of = |wanted| told.iter().filter(|(_, item)| item.occasions.contains(&wanted)).count();
        prop_assert_eq!((of(Occasion::Opened), of(Occasion::Ended)), (1, 1));
        prop_assert!(told[0].1.occasions.contains(&Occasion::Opened));
        prop_assert!(told[told.len() - 1].1.occasions.contains(&Occasion::Ended));
        prop_assert_eq!(told.iter().map(|(_, item)| item.fallen_new).sum::<usize>(), fallen);
        prop_assert_eq!(told.iter().map(|(_, item)| item.severity).max(), Some(severity));
        for (number, pair) in told.windows(2).enumerate() {
            let gap = GAPS_MS.get(number).or(GAPS_MS.last()).copied().unwrap();
            let ended = pair[1].1.occasions.contains(&Occasion::Ended);
            // Counted from when a message was taken to when the next was made.
            prop_assert!(ended || sent[number + 1].1.at - pair[0].0 >= gap, "message {}", number + 2);
        }
        let hurried = told.iter().filter(|(at, _)| *at < told[0].0 + 40 * MINUTE).count();
        prop_assert!(hurried <= 6, "{} messages in 40 minutes", hurried);
    }
}
