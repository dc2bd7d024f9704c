//! What the topic `known-pairs` is told: who may pass while strangers are challenged.

use std::sync::Arc;

use portcullis::engine::{Emission, KnownBy, KnownPair, Output, Pipeline, day_of, pair_key};
use portcullis::event::{AttackState, LoginEvent, Millis, Outcome, Source};

use crate::support::core::{Core, Record, START, default_env, failure, few_make_a_campaign};

const DAY: Millis = 86_400_000;
const HOME: &str = "203.0.113.7";
const ADA: &str = "ada@example.org";

fn success(at: Millis, id: &str, device: Option<&str>) -> LoginEvent {
    LoginEvent { outcome: Outcome::Success, device_id: device.map(str::to_owned), ..failure(at, id, HOME, ADA) }
}

fn told(emitted: &[Emission]) -> Vec<KnownPair> {
    emitted.iter().filter_map(|e| if let Output::KnownPair(pair) = &e.output { Some(*pair) } else { None }).collect()
}

fn key(by: KnownBy<'_>) -> u128 {
    pair_key(&default_env().hash_key, "shop", ADA, by)
}

fn home() -> u128 {
    key(KnownBy::Source(Source::from(HOME.parse::<std::net::IpAddr>().unwrap())))
}

fn feed(pipeline: &mut Pipeline, event: &LoginEvent) -> Vec<Emission> {
    Core::feed(pipeline, &Record::json(event.occurred_at, event))
}

#[test]
fn a_success_is_told_once_a_day_by_address_and_device() {
    let mut pipeline = Pipeline::new(default_env());
    let (day, first) = (day_of(START), success(START, "1", Some("laptop")));
    let known = |key: u128, day: i32| KnownPair { key, day: Some(day) };
    let laptop = key(KnownBy::Device("laptop"));
    assert_eq!(told(&feed(&mut pipeline, &first)), [known(home(), day), known(laptop, day)]);
    assert_eq!(told(&feed(&mut pipeline, &success(START + 3_600_000, "2", Some("laptop")))), []);
    assert_eq!(told(&feed(&mut pipeline, &failure(START + 3_700_000, "3", HOME, "bob@example.org"))), []);
    assert_eq!(told(&feed(&mut pipeline, &success(START + DAY, "4", None))), [known(home(), day + 1)]);
}

#[test]
fn what_is_learnt_in_an_attack_is_told_when_it_counts() {
    let mut env = Arc::unwrap_or_clone(default_env());
    env.limits.campaign = few_make_a_campaign();
    let mut pipeline = Pipeline::new(Arc::new(env));
    let mut state = AttackState::Calm;
    for n in 0..200 {
        let at = START + n * 500;
        let event = failure(at, n, &format!("198.51.{}.9", n % 100), &format!("nobody{n}@example.org"));
        for emission in feed(&mut pipeline, &event) {
            if let Output::Status(status) = emission.output {
                state = status.state;
            }
        }
    }
    assert_ne!(state, AttackState::Calm);
    let at = START + 120_000;
    assert_eq!(told(&feed(&mut pipeline, &success(at, "in", None))), []);
    let later = at + DAY + 60_000;
    let expected = KnownPair { key: home(), day: Some(day_of(later)) };
    assert_eq!(told(&feed(&mut pipeline, &success(later, "later", None))), [expected]);
}

#[test]
fn an_entry_of_a_source_that_is_identified_is_taken_back() {
    let mut pipeline = Pipeline::new(default_env());
    assert_eq!(told(&feed(&mut pipeline, &success(START, "in", Some("tool")))).len(), 2);
    let mut taken = Vec::new();
    for n in 0..60 {
        let event = failure(START + 1_000 + n * 500, n, HOME, &format!("somebody{n}@example.org"));
        taken.extend(told(&feed(&mut pipeline, &event)));
    }
    assert_eq!(taken, [home(), key(KnownBy::Device("tool"))].map(KnownPair::taken_back));
}

#[test]
fn a_record_reads_back_and_another_is_named() {
    let pair = KnownPair { key: home(), day: Some(20_000) };
    let key = pair.key.to_be_bytes();
    assert_eq!(KnownPair::of_record(&key, pair.value().as_ref().map(|v| &v[..])), Ok(pair));
    assert_eq!(KnownPair::of_record(&key, None), Ok(KnownPair::taken_back(pair.key)));
    assert_eq!(KnownPair::of_record(&key[1..], None), Err("a key of 15 bytes, not 16".to_owned()));
    assert_eq!(KnownPair::of_record(&key, Some(b"day")), Err("a value of 3 bytes, not 4 (a day)".to_owned()));
}
