//! Who got in with what the intruders of an attack share fell, however early: its source may have tried once and gone.

use std::collections::BTreeSet;

use portcullis::engine::{Emission, Output, Pipeline};
use portcullis::event::{AttackStatus, FailureReason, LoginEvent, Millis, Mode, Outcome, Verdict};

use crate::support::core::{AfterCommit, Core, Record, START, Stored, default_env, failure};

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0";
const TOOL: &str = "python-requests/2.22";
const PEOPLE: i64 = 700;
/// A morning: enough to know what is usual.
const CALM: i64 = 16_000;

fn person(n: i64) -> String {
    format!("person{n}@example.org")
}

fn success(at: Millis, id: String, source: &str, account: &str, agent: &str) -> LoginEvent {
    LoginEvent {
        outcome: Outcome::Success,
        user_agent: Some(agent.to_owned()),
        country: Some("FR".to_owned()),
        ..failure(at, id, source, account)
    }
}

fn login(at: Millis, n: i64) -> LoginEvent {
    let who = n % PEOPLE;
    success(at, format!("l{n}"), &format!("203.0.{}.{}", who / 200, who % 200), &person(who), FIREFOX)
}

/// Of an attacker's list, every `fits`th password is right. Each try comes from an address of its own.
fn attempt(at: Millis, n: i64, fits: i64) -> LoginEvent {
    let source = format!("2001:db8:{n:x}::1");
    if n % fits == 0 {
        success(at, format!("a{n}"), &source, &person(n % PEOPLE), TOOL)
    } else {
        LoginEvent {
            failure_reason: FailureReason::UnknownAccount,
            user_agent: Some(TOOL.to_owned()),
            country: Some("FR".to_owned()),
            ..failure(at, format!("a{n}"), &source, &format!("nobody{n}@example.org"))
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Heard {
    fallen: Vec<Verdict>,
    statuses: Vec<AttackStatus>,
    taken_back: BTreeSet<u128>,
}

impl Heard {
    fn take(&mut self, emitted: Vec<Emission>) {
        for emission in emitted {
            match emission.output {
                Output::Verdict(verdict) if verdict.playbook == "account-compromised" => self.fallen.push(*verdict),
                Output::Status(status) => self.statuses.push(*status),
                Output::KnownPair(pair) if pair.day.is_none() => drop(self.taken_back.insert(pair.key)),
                Output::Verdict(_)
                | Output::KnownPair(_)
                | Output::Block(_)
                | Output::Incident(_)
                | Output::Detail(_)
                | Output::Activity(_)
                | Output::DeadLetter(_)
                | Output::Playbook(_)
                | Output::Item { .. }
                | Output::MarkAll { .. } => {}
            }
        }
    }

    fn fallen(&self) -> BTreeSet<&str> {
        self.fallen.iter().map(|verdict| &*verdict.value).collect()
    }
}

/// A morning, then twenty seconds of an attack at ten tries a second.
fn attacked(core: &mut dyn Core, fits: i64) -> Heard {
    let mut heard = Heard::default();
    let mut feed = |event: &LoginEvent| heard.take(core.feed(&Record::json(event.occurred_at, event)));
    (0..CALM).for_each(|n| feed(&login(START + n * 1_000, n)));
    let began = START + CALM * 1_000;
    for n in 0..200 {
        let at = began + n * 100;
        if n % 3 == 0 {
            feed(&login(at, CALM + n / 3));
        }
        // Somebody has a new telephone, before the attack is known and after.
        if n == 5 || n == 195 {
            feed(&success(at + 1, format!("new{n}"), "198.18.0.9", &person(600 + n % 10), FIREFOX));
        }
        feed(&attempt(at + 2, n, fits));
    }
    heard.take(core.advance(began + 60_000));
    heard
}

#[test]
fn who_got_in_with_what_a_fresh_list_shares_fell_before_and_after_it_was_known() {
    let heard = attacked(&mut Pipeline::new(default_env()), 5);
    let expected: BTreeSet<String> = (0..200).step_by(5).map(person).collect();
    assert_eq!(heard.fallen(), expected.iter().map(String::as_str).collect(), "{:?}", heard.statuses.last());
    assert!(heard.fallen.iter().all(|verdict| verdict.mode == Mode::Live));
    assert!(heard.fallen.last().is_some_and(|verdict| verdict.incident_id.is_some()));
    let first = heard.statuses.iter().find(|status| status.entered_bad_to_good > 0.0).expect("a status that tells it");
    let (late, soon): (Vec<_>, Vec<_>) =
        heard.fallen.iter().partition(|verdict| verdict.measures["seconds_to_identification"] > 0.0);
    assert!(late.len() > 5 && soon.len() > 5, "{} late, {} at once", late.len(), soon.len());
    for verdict in &heard.fallen {
        assert!(verdict.explanation.contains("shares user_agent python-requests/2.22"), "{}", verdict.explanation);
        let told = verdict.occurred_at as f64 + 1_000.0 * verdict.measures["seconds_to_identification"];
        assert!(told - verdict.occurred_at.max(first.updated_at) as f64 <= 2_000.0, "{verdict:?} after {first:?}");
    }
    // What their entries had taught before anybody knew is taken back: nobody else's.
    assert!(heard.taken_back.len() >= 5 && heard.taken_back.len() <= late.len(), "{:?}", heard.taken_back.len());
}

#[test]
fn a_list_of_which_hardly_anything_fits_makes_nobody_who_gets_in_an_intruder() {
    let heard = attacked(&mut Pipeline::new(default_env()), 100);
    assert!(!heard.statuses.is_empty() && heard.statuses.iter().all(|status| status.entered_bad_to_good < 0.1));
    assert_eq!(heard.fallen(), BTreeSet::new());
}

#[test]
fn what_was_remembered_of_them_survives_any_restart() {
    let plain = attacked(&mut Pipeline::new(default_env()), 5);
    let mut steps = 0;
    let restart = move || {
        steps += 1;
        // Hardly ever in the morning, and then between any two.
        let is_time = if steps < 4 * CALM { steps % 997 == 0 } else { steps % 3 == 0 };
        is_time.then_some(AfterCommit::Restart)
    };
    assert_eq!(attacked(&mut Stored::new(default_env(), Box::new(restart)), 5), plain);
}
