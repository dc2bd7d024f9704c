//! What must hold of the core whatever comes in: the sum of all events, and that no restart changes an output.

use std::sync::Arc;

use portcullis::engine::{
    ControlChange, Counter, Effects, Emission, Env, Input, Item, Kind, Output, Pipeline, Raw, StatusChange, Task,
};
use portcullis::event::{Activity, AttackState, ChallengePolicy, FailureReason, LoginEvent, Millis, Outcome};
use portcullis::topology::{Exemptions, Plan, Playbook, Stage};
use proptest::prelude::*;

use crate::support::core::{
    AfterCommit, Core, Record, START, Stored, default_env, default_playbooks, env, failure, few_make_a_campaign,
};

/// Something that a publisher, or whoever writes to its topic, might send.
#[derive(Debug, Clone)]
enum Sent {
    Event(Box<LoginEvent>),
    Garbage(Vec<u8>),
    Nothing,
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        20 => event().prop_map(|event| Sent::Event(Box::new(event))),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Sent::Garbage),
        1 => Just(Sent::Nothing),
    ]
}

/// Few entities, so that everything meets: addresses of two networks and an IPv6 one, an attacker's way of going
/// through accounts, clocks that are wrong, repeats.
fn event() -> impl Strategy<Value = LoginEvent> {
    let source = prop_oneof![
        6 => (0u8..4).prop_map(|n| format!("203.0.113.{n}")),
        3 => (0u8..8).prop_map(|n| format!("198.51.100.{n}")),
        2 => (0u16..3).prop_map(|n| format!("2001:db8:0:{n:x}::1")),
        1 => Just("10.0.0.1".to_owned()),
        1 => Just("no address".to_owned()),
    ];
    let outcome = prop_oneof![
        12 => Just(Outcome::Failure),
        3 => Just(Outcome::Success),
        1 => Just(Outcome::Blocked),
        1 => Just(Outcome::Challenged),
        1 => Just(Outcome::Unknown),
    ];
    let reason = prop_oneof![
        4 => Just(FailureReason::WrongPassword),
        2 => Just(FailureReason::UnknownAccount),
        1 => Just(FailureReason::SystemError),
    ];
    let skew = prop_oneof![
        12 => Just(0i64),
        2 => -90_000i64..0,
        1 => -400_000i64..-300_000,
        1 => 1i64..20_000,
        1 => Just(i64::MIN / 4),
        1 => Just(i64::MAX / 4),
    ];
    let activity = prop_oneof![12 => Just(Activity::Login), 1 => Just(Activity::StatusCheck)];
    let tenant = prop_oneof![8 => Just("shop"), 1 => Just("other"), 1 => Just("no|tenant")];
    (source, outcome, reason, skew, activity, tenant, 0u8..40, 0u32..400, prop::option::of(0u8..3)).prop_map(
        |(source_ip, outcome, failure_reason, skew, activity, tenant, account, id, tag)| LoginEvent {
            tenant: tenant.to_owned(),
            outcome,
            failure_reason,
            activity,
            account: if account == 0 { String::new() } else { format!("user{account}@example.org") },
            password_tag: tag.map(|tag| format!("{tag:x}")),
            ..failure(skew, id, &source_ip, "")
        },
    )
}

/// Records with pauses between them; an event's time is relative to its arrival until here.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let pause = prop_oneof![20 => 0i64..500, 3 => 500i64..60_000, 1 => 60_000i64..2_000_000];
    prop::collection::vec((sent(), pause, any::<bool>()), 1..150).prop_map(|sent| {
        let mut at = START;
        sent.into_iter()
            .map(|(sent, pause, avro)| {
                at += pause;
                match sent {
                    Sent::Event(mut event) => {
                        event.occurred_at = event.occurred_at.saturating_add(at);
                        let record = Record::json(at, &event);
                        if avro { record.as_avro() } else { record }
                    }
                    Sent::Garbage(bytes) => Record { at, value: Some(bytes) },
                    Sent::Nothing => Record { at, value: None },
                }
            })
            .collect()
    })
}

/// The shipped playbooks, so tight that a few attempts complete them.
fn tight_env() -> Arc<Env> {
    let mut env = Arc::unwrap_or_clone(default_env());
    let text = |id: &str, per: &str, trigger: &str, then: &str, mode: &str| {
        format!(
            "id: {id}\nversion: 1\nowner: tests\ndescription: tests\nmode: {mode}\nfinding: failure_rate\nper: {per}\n\
             over: 10m\ntrigger: {trigger}\nthen: {then}\n"
        )
    };
    let ladder = "{action: BLOCK, ladder: [1m, 5m], ladder_memory: 1h}";
    let playbooks = [
        text("a", "address", "{accounts_failed: {at_least: {calm: 3, elevated: 2, attack: 2}}}", ladder, "live"),
        text("b", "address", "{failures: {at_least: 3}}", "{action: CHALLENGE, ladder: [3m]}", "live"),
        text("c", "address", "{failures: {at_least: 2}}", ladder, "shadow"),
        text("d", "network", "{addresses_blocked: {at_least: 2}}", ladder, "live"),
        text(
            "e",
            "account",
            "{failures: {at_least: 2}, sources: {at_least: 2}}",
            "{action: STEP_UP, ladder: [10m]}",
            "live",
        ),
        text("f", "address", "{failures: {at_least: 4}}", "{action: NOTIFY}", "live"),
    ];
    let mut all = default_playbooks();
    all.extend(playbooks.iter().map(|text| Playbook::parse(text).unwrap()));
    env.plan = Plan::compile(&all).unwrap();
    env.playbooks = all.into();
    // A site that is attacked by a handful of attempts.
    env.limits.campaign = few_make_a_campaign();
    Arc::new(env)
}

fn run(core: &mut dyn Core, records: &[Record]) -> Vec<Emission> {
    let mut emitted: Vec<Emission> = records.iter().flat_map(|record| core.feed(record)).collect();
    let end = records.last().map_or(START, |record| record.at);
    emitted.extend(core.advance(end + 2 * 86_400_000));
    emitted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Forgetting, restarting and expiring at any point changes nothing that is said.
    #[test]
    fn a_restart_at_any_point_changes_nothing(
        records in records(),
        commits in prop::collection::vec(0u8..8, 1..50),
    ) {
        let env = tight_env();
        let mut whole = Pipeline::new(Arc::clone(&env));
        let expect = run(&mut whole, &records);
        let mut turn = 0;
        let mut stored = Stored::new(env, Box::new(move || {
            turn += 1;
            match commits[turn % commits.len()] {
                0 => Some(AfterCommit::Keep),
                1 | 2 => Some(AfterCommit::Trim),
                3 => Some(AfterCommit::Restart),
                _ => None,
            }
        }));
        let seen = run(&mut stored, &records);
        prop_assert_eq!(&seen, &expect);
        prop_assert_eq!(stored.counts(), whole.counts().clone());
    }

    /// Events in = counted + not counted by outcome + late + duplicates + dead letters.
    #[test]
    fn every_event_is_accounted_for(records in records()) {
        let mut pipeline = Pipeline::new(tight_env());
        let emitted = run(&mut pipeline, &records);
        let counts = pipeline.counts();
        prop_assert_eq!(counts.get(Counter::EventsIn), records.len() as u64);
        prop_assert_eq!(counts.accounted(), records.len() as u64);
        let dead = emitted.iter().filter(|e| matches!(e.output, Output::DeadLetter(_))).count();
        prop_assert_eq!(counts.get(Counter::DeadLetters), dead as u64);
        invariants(&emitted)?;
    }
}

/// What holds of every sequence of outputs.
fn invariants(emitted: &[Emission]) -> Result<(), TestCaseError> {
    let mut generations = std::collections::BTreeMap::<String, i64>::new();
    let mut listed = std::collections::BTreeMap::<String, Millis>::new();
    let mut verdicts = std::collections::BTreeSet::new();
    let mut last = Millis::MIN;
    for Emission { at, output } in emitted {
        prop_assert!(*at >= last, "time goes back from {last} to {at}");
        last = *at;
        match output {
            Output::Block(change) => {
                let key = change.entity.key();
                let before = generations.insert(key.clone(), change.generation()).unwrap_or(Millis::MIN);
                prop_assert!(change.generation() > before, "{key}: generation {} after {before}", change.generation());
                match change.entry() {
                    Some(entry) => {
                        let until = entry.until.expect("a playbook's block ends");
                        prop_assert!(until > *at, "{key}: ended before it began");
                        listed.insert(key, until);
                    }
                    None => {
                        let until = listed.remove(&key);
                        prop_assert!(
                            until.is_some_and(|until| until <= *at),
                            "{key}: lifted at {at}, stood to {until:?}"
                        );
                    }
                }
            }
            Output::Verdict(verdict) => {
                prop_assert!(verdicts.insert(verdict.verdict_id.clone()), "twice: {verdict:?}");
                let shared = verdict.value.starts_with("10.");
                prop_assert!(!shared, "a private address: {verdict:?}");
            }
            Output::Status(_)
            | Output::Incident(_)
            | Output::KnownPair(_)
            | Output::Detail(_)
            | Output::Activity(_)
            | Output::DeadLetter(_)
            | Output::Playbook(_)
            | Output::Item { .. }
            | Output::MarkAll { .. } => {}
        }
    }
    prop_assert!(listed.is_empty(), "two days later nothing stands: {listed:?}");
    Ok(())
}

/// One playbook: three accounts within ten minutes, blocked for a quarter of an hour.
fn one_playbook() -> Arc<Env> {
    let text = "id: a\nversion: 1\nowner: tests\ndescription: tests\nmode: live\nfinding: account_fanout\n\
                per: address\nover: 10m\ntrigger: {accounts_failed: {at_least: 3}}\n\
                then: {action: BLOCK, ladder: [15m]}\n";
    Arc::new(env(&[Playbook::parse(text).unwrap()], Exemptions::default()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Against the slow model: keep every attempt of a source, and count again what lies in its window.
    #[test]
    fn verdicts_fall_where_a_recount_says(
        attempts in prop::collection::vec((0u8..3, 0u8..6, 0i64..240_000, 0i64..200_000), 1..120),
    ) {
        const SLICE: Millis = 30_000;
        const BLOCK: Millis = 900_000;
        let mut pipeline = Pipeline::new(one_playbook());
        let mut kept: Vec<(u8, u8, i64)> = Vec::new();
        let mut blocked = [Millis::MIN; 3];
        let mut at = START;
        for (n, (source, account, delay, pause)) in attempts.into_iter().enumerate() {
            at += pause;
            // Most arrive at once; a tag per attempt, so that none repeats another.
            let occurred_at = if n % 3 == 0 { at - delay } else { at };
            let mut event = failure(occurred_at, n, &format!("203.0.113.{source}"), &format!("user{account}"));
            event.password_tag = Some(format!("{n:x}"));
            let emitted = pipeline.feed(Record::json(at, &event).raw());
            let verdicts = emitted.iter().filter(|e| matches!(e.output, Output::Verdict(_))).count();

            kept.push((source, account, occurred_at.div_euclid(SLICE)));
            let own = || kept.iter().filter(|(held, ..)| *held == source);
            let newest = own().map(|(.., slice)| *slice).max().unwrap();
            let in_window = own().filter(|(.., slice)| *slice > newest - 20);
            let accounts: std::collections::BTreeSet<u8> = in_window.map(|(_, account, _)| *account).collect();
            let until = &mut blocked[usize::from(source)];
            let found = accounts.len() >= 3 && at - occurred_at <= 60_000;
            let is_open = *until > at;
            prop_assert_eq!(verdicts == 1, found && !is_open, "attempt {}", n);
            if found && (!is_open || *until - at <= BLOCK / 2) {
                *until = at + BLOCK;
            }
        }
    }
}

#[test]
fn what_attackers_invent_is_forgotten() {
    let mut steps: u32 = 0;
    let restart = move || {
        steps += 1;
        steps.is_multiple_of(500).then_some(AfterCommit::Restart)
    };
    let mut stored = Stored::new(default_env(), Box::new(restart));
    for n in 0..3_000u32 {
        let at = START + i64::from(n) * 1_000;
        // Every attempt another name, every second another /64; half of the names said to exist.
        let mut event = failure(at, n, &format!("2001:db8:{:x}::1", n / 2), &format!("name{n}"));
        event.account_exists = Some(n % 2 == 0);
        stored.feed(&Record::json(at, &event));
    }
    let held = stored.row_counts();
    assert!(held.get(&(Kind::Source as u8)).is_some_and(|n| *n > 100), "they were there: {held:?}");
    // Two hours after the longest window of a source, when everything due has been fed and the stores have forgotten what
    // they may.
    let longest = default_playbooks().iter().map(|playbook| playbook.over).max().unwrap();
    let end = START + 3_000_000 + longest + longest / 10 + 7_200_000;
    stored.advance(end);
    stored.after_commit = Box::new(|| Some(AfterCommit::Restart));
    for n in 0..2 {
        stored.advance(end + 1_000 * (n + 1));
    }
    let lasting = [Kind::Clock, Kind::Control, Kind::Site].map(|kind| kind as u8);
    let left = stored.row_counts();
    assert!(left.keys().all(|kind| lasting.contains(kind)), "{left:?}");
}

/// Whether three accounts that one address fails on, from `at` on, get it blocked: only in an attack.
fn three_are_enough(pipeline: &mut Pipeline, at: Millis, source: &str) -> bool {
    let blocks = |n: Millis| {
        let event = failure(at + n, format!("{source}-{n}"), source, &format!("user{n}"));
        let emitted = pipeline.feed(Record::json(at + n, &event).raw());
        emitted.iter().any(|e| matches!(e.output, Output::Block(_)))
    };
    (0..3).map(blocks).filter(|blocked| *blocked).count() == 1
}

#[test]
fn control_holds_by_its_version_and_a_status_ends_by_itself() {
    let mut pipeline = Pipeline::new(default_env());
    let status = |state, minutes: Millis| {
        let change = StatusChange {
            state,
            challenge: ChallengePolicy::Nobody,
            since: START,
            expires_at: START + minutes * 60_000,
            odds_permille: 0,
            traits: Vec::new(),
            incident_id: Some("incident".into()),
            withdrawn: Vec::new(),
            entered_permille: 0,
        };
        move |version| ControlChange::Status { version, tenant: "shop".into(), status: Some(change.clone()) }
    };
    assert!(!three_are_enough(&mut pipeline, START, "203.0.113.1"));
    pipeline.control(START + 1_000, |_| status(AttackState::Attack, 5)(20));
    assert!(three_are_enough(&mut pipeline, START + 2_000, "203.0.113.2"));
    // An older version arrives late, by another way.
    pipeline.control(START + 3_000, |_| status(AttackState::Calm, 5)(19));
    assert!(three_are_enough(&mut pipeline, START + 4_000, "203.0.113.3"));
    // Nobody refreshes the status: a silent detector fails open.
    assert!(three_are_enough(&mut pipeline, START + 299_000, "203.0.113.4"));
    assert!(!three_are_enough(&mut pipeline, START + 300_000, "203.0.113.5"));
    pipeline.control(START + 301_000, |_| status(AttackState::Attack, 10)(21));
    assert!(three_are_enough(&mut pipeline, START + 302_000, "203.0.113.6"));
    let gone = |version| ControlChange::Status { version, tenant: "shop".into(), status: None };
    pipeline.control(START + 303_000, |_| gone(22));
    assert!(!three_are_enough(&mut pipeline, START + 304_000, "203.0.113.7"));
}

#[test]
fn arrival_never_goes_back_and_never_runs_ahead_of_intake_s_clock() {
    let env = default_env();
    let mut intake = Task::open(Stage::Intake, Vec::new(), &env);
    let mut arrive = |timestamp: Millis, occurred_at: Millis| {
        let record = Record::json(timestamp, &failure(occurred_at, 1, "203.0.113.7", "a"));
        let mut fx = Effects::default();
        intake.step(Input::Raw(Raw { clock: START, ..record.raw() }), &mut fx);
        match fx.outputs.pop() {
            Some(Output::Item { to: Stage::Source, item: Item::Attempt(attempt), .. }) => {
                (attempt.arrived_at - START, attempt.occurred_at - START, attempt.ahead_ms)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(arrive(START - 9_000, START - 9_500), (-9_000, -9_500, 0));
    assert_eq!(arrive(START - 10_000, START - 10_000), (-9_000, -10_000, 0));
    assert_eq!(arrive(START - 8_000, START - 4_000), (-8_000, -8_000, 4_000));
    assert_eq!(arrive(START + 60_000, START), (5_000, 0, 0));
    assert_eq!(arrive(START, START), (5_000, 0, 0));
}
