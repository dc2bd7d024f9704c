//! What the publishers of the simulation write: people, attacks that are blocked and come back, and every kind of record
//! that is not simply one more attempt.

use portcullis::event::wire::login_event_to_json;
use portcullis::event::{FailureReason, LoginEvent, Millis, Outcome};

use super::simulation_dice::Dice;

/// One record of `login-events`, or of a control topic.
#[derive(Debug, Clone)]
pub struct Planned {
    pub at: Millis,
    pub topic: &'static str,
    pub partition: Option<i32>,
    pub key: Option<String>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

const MINUTE: Millis = 60_000;
/// Long enough for the first blocks to end.
const PAUSE: Millis = 17 * MINUTE;
const BURST: Millis = 100_000;

/// Two bursts with a pause between them, in the order of their times.
pub fn plan(dice: &mut Dice, start: Millis, partitions: i32) -> Vec<Planned> {
    let mut events: Vec<(Millis, LoginEvent)> = Vec::new();
    for burst in [start, start + BURST + PAUSE] {
        for actor in 0..dice.between(4, 7) {
            let from = burst + dice.between(0, BURST / 2);
            let tenant = *dice.pick(&["shop", "shop", "bank"]);
            act(dice, &mut events, from, tenant, actor);
        }
    }
    events.sort_by_key(|(at, _)| *at);
    let mut planned: Vec<Planned> = Vec::new();
    for (number, (at, event)) in events.into_iter().enumerate() {
        let partition = dice.below(partitions as u64) as i32;
        // The partition stands in the id, so that the order within it can be checked behind the next stage.
        let event = LoginEvent { event_id: format!("e{number}@{partition}"), ..event };
        let record = |value: Vec<u8>, at: Millis| Planned {
            at,
            topic: "login-events",
            partition: Some(partition),
            key: None,
            value: Some(value),
            headers: Vec::new(),
        };
        let value = login_event_to_json(&event);
        if dice.one_in(12) {
            planned.push(record(value.clone(), at + dice.between(1, 30_000)));
        }
        if dice.one_in(40) {
            let other = LoginEvent { account: format!("not-{}", event.account), ..event.clone() };
            planned.push(record(login_event_to_json(&other), at + dice.between(1, 5_000)));
        }
        if dice.one_in(30) {
            planned.push(record(b"{\"event_id\":\"broken".to_vec(), at + dice.between(1, 5_000)));
        }
        planned.push(record(value, at));
    }
    let exemption =
        format!(r#"{{"tenant":"shop","scope":"IP","value":"203.0.113.{}","reason":"ours"}}"#, dice.below(4));
    planned.push(Planned {
        at: start + dice.between(0, BURST + PAUSE),
        topic: "exemptions",
        partition: None,
        key: Some("shop|IP|203.0.113.1".to_owned()),
        value: Some(exemption.into_bytes()),
        headers: Vec::new(),
    });
    // Of their own dice, so that the events of a seed stay what they are.
    planned.extend(playbooks(&mut dice.clone(), start));
    planned.extend(commands(&mut dice.clone(), start));
    planned.sort_by_key(|record| record.at);
    planned
}

/// What people ask for: blocks, with and without an end, lifts, a watch, and something that makes no sense.
fn commands(dice: &mut Dice, start: Millis) -> Vec<Planned> {
    let mut planned = Vec::new();
    for n in 0..dice.between(2, 12) {
        let at = start + dice.between(0, 2 * BURST + PAUSE);
        let (scope, value) = match dice.below(6) {
            0 => ("ACCOUNT", "target0@mail.example".to_owned()),
            1 => ("CIDR", "203.0.113.0/24".to_owned()),
            2 => ("CIDR", "198.51.0.0/16".to_owned()),
            3 => ("IP", "10.0.0.1".to_owned()),
            _ => ("IP", format!("203.0.113.{}", dice.below(5))),
        };
        let kind = dice.pick(&["BLOCK", "BLOCK", "LIFT", "MARK_FALSE_POSITIVE", "WATCH"]);
        let until = if dice.one_in(3) { "null".to_owned() } else { (at + dice.between(1_000, PAUSE)).to_string() };
        let second = if dice.one_in(2) { "\"eve\"" } else { "null" };
        let text = format!(
            r#"{{"command_id":"c{n}","at":{at},"actor":"ada","role":"operator","tenant":"{}","kind":"{kind}",
            "scope":"{scope}","value":"{value}","action":"{}","until":{until},"reason":"a seed","approved_by":{second}}}"#,
            dice.pick(&["shop", "bank"]),
            dice.pick(&["BLOCK", "CHALLENGE"]),
        );
        let (key, value) = (Some(format!("c{n}")), Some(text.into_bytes()));
        planned.push(Planned { at, topic: "commands", partition: None, key, value, headers: Vec::new() });
    }
    planned
}

/// Changes of playbooks: of bounds and of windows, for good and for a while, taken back, and some that nobody takes.
fn playbooks(dice: &mut Dice, start: Millis) -> Vec<Planned> {
    const BASES: [(&str, &str, &str); 3] = [
        ("ip-account-fanout", "address", "accounts_failed: {at_least: 6}"),
        ("account-distributed-guessing", "account", "failures: {at_least: 5}, sources: {at_least: 4}"),
        ("of-the-simulation", "address", "failures: {at_least: 7}"),
    ];
    let mut planned = Vec::new();
    for _ in 0..dice.between(2, 9) {
        let at = start + dice.between(0, 2 * BURST + PAUSE);
        let (id, per, trigger) = *dice.pick(&BASES);
        let lasting = (!dice.one_in(3)).then(|| dice.between(60_000, PAUSE));
        let key = if lasting.is_some() { format!("{id}#override") } else { id.to_owned() };
        let over = dice.pick(&["10m", "30m", "3m", "45m"]);
        let then = if per == "account" { "STEP_UP" } else { "BLOCK" };
        let text = format!(
            "id: {id}\nversion: {}\nowner: us\ndescription: simulated\nmode: {}\nfinding: failure_rate\nper: {per}\n\
             over: {over}\ntrigger: {{{trigger}}}\nthen: {{action: {then}, ladder: [2m, 15m]}}\n",
            dice.between(1, 6),
            dice.pick(&["live", "live", "shadow", "off"]),
        );
        let value = match dice.below(8) {
            0 => None,
            1 => Some(b"id: [".to_vec()),
            _ => Some(text.into_bytes()),
        };
        let mut headers = vec![("actor", b"the dice".to_vec()), ("reason", b"a seed".to_vec())];
        headers.extend(lasting.map(|ms| ("expires_at", (at + ms).to_string().into_bytes())));
        planned.push(Planned { at, topic: "playbooks", partition: None, key: Some(key), value, headers });
    }
    planned
}

/// One of those who log in, or try to.
fn act(dice: &mut Dice, events: &mut Vec<(Millis, LoginEvent)>, from: Millis, tenant: &str, actor: i64) {
    let mut at = from;
    let pause = dice.between(200, 4_000);
    let address = format!("203.0.113.{}", dice.below(4));
    let mut push = |at: Millis, ip: String, account: String, outcome: Outcome| {
        let failure_reason = match outcome {
            Outcome::Failure => FailureReason::WrongPassword,
            Outcome::Unknown | Outcome::Success | Outcome::Challenged | Outcome::Blocked => FailureReason::None,
        };
        let event = LoginEvent {
            occurred_at: at,
            tenant: tenant.to_owned(),
            account,
            outcome,
            failure_reason,
            source_ip: ip,
            ..LoginEvent::default()
        };
        events.push((at, event));
    };
    match dice.below(6) {
        // One address on many accounts, with a success now and then; blocked, and knocking on.
        0 | 1 => {
            for n in 0..dice.between(11, 24) {
                let outcome = if dice.one_in(9) { Outcome::Success } else { Outcome::Failure };
                let outcome = if n > 16 { Outcome::Blocked } else { outcome };
                push(at, address.clone(), format!("user{n}-{actor}@mail.example"), outcome);
                at += pause;
            }
        }
        // Many addresses at one account.
        2 => {
            for n in 0..dice.between(9, 14) {
                push(at, format!("198.51.{n}.7"), format!("target{}@mail.example", dice.below(2)), Outcome::Failure);
                at += pause;
            }
        }
        // Addresses of one network.
        3 => {
            for n in 0..dice.between(12, 20) {
                push(at, format!("192.0.2.{}", n % 6), format!("user{n}@mail.example"), Outcome::Failure);
                at += pause;
            }
        }
        // People at home, who mistype and come back.
        _ => {
            for n in 0..dice.between(8, 16) {
                let who = n % 4;
                let outcome = if dice.one_in(4) { Outcome::Failure } else { Outcome::Success };
                push(at, format!("2001:db8:{who}::1"), format!("person{who}@mail.example"), outcome);
                at += pause;
            }
        }
    }
    // A clock that is behind by more than any grace.
    if dice.one_in(3)
        && let Some((_, event)) = events.last_mut()
    {
        event.occurred_at -= 10 * MINUTE;
    }
}
