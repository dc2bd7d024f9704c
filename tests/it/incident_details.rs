//! What stands behind an incident: a line for everybody who was tried and every source that took part, from the first
//! attempt on, the minutes that add up to the incident, what was done, and what an intruder did.

use std::collections::{BTreeMap, BTreeSet};

use portcullis::engine::{Emission, Output, Pipeline};
use portcullis::event::{
    ActivitySlice, AttackState, DetailKind, Incident, IncidentDetail, LoginEvent, Mode, Outcome, Source, Verdict,
};
use portcullis::ingest::simulate::{Edge, Label, Options, Planned, Scenario, Simulation, Site};

use crate::support::core::{Core, Record, default_env};

/// The newest record of each key, as a compacted topic keeps it.
#[derive(Default)]
struct Told {
    details: BTreeMap<String, IncidentDetail>,
    incidents: BTreeMap<String, Incident>,
    verdicts: Vec<Verdict>,
    activity: Vec<ActivitySlice>,
    records: usize,
}

impl Told {
    fn take(&mut self, emitted: Vec<Emission>) {
        for emission in emitted {
            match emission.output {
                Output::Detail(detail) => {
                    self.records += 1;
                    self.details.insert(detail.key(), *detail);
                }
                Output::Activity(slice) => self.activity.push(*slice),
                Output::Incident(incident) => drop(self.incidents.insert(incident.incident_id.clone(), *incident)),
                Output::Verdict(verdict) => self.verdicts.push(*verdict),
                Output::Status(_)
                | Output::Block(_)
                | Output::KnownPair(_)
                | Output::DeadLetter(_)
                | Output::Playbook(_)
                | Output::Item { .. }
                | Output::MarkAll { .. } => {}
            }
        }
    }

    fn of(&self, kind: DetailKind) -> impl Iterator<Item = &IncidentDetail> {
        self.details.values().filter(move |detail| detail.kind == kind)
    }

    fn sum(&self, kind: DetailKind, name: &str) -> i64 {
        self.of(kind).map(|detail| count(detail, name)).sum()
    }
}

fn count(detail: &IncidentDetail, name: &str) -> i64 {
    detail.counts.get(name).copied().unwrap_or_default()
}

/// The night as a fixed list, nobody stopped; what was told of it, and every event with its truth.
fn night() -> (Told, Vec<Planned>) {
    let mut site = Site::new("default", Edge::AddressList);
    let options = Options { history_ms: 14 * 86_400_000, ..Options::default() };
    let mut simulation = Simulation::new(Scenario::Night, 4, options).unwrap();
    let mut pipeline = Pipeline::new(default_env());
    let (mut told, mut planned) = (Told::default(), Vec::new());
    while let Some(next) = simulation.next(&mut site) {
        told.take(Core::feed(&mut pipeline, &Record::json(next.at, &next.event)));
        planned.push(next);
    }
    let last = planned.last().unwrap().at;
    told.take(pipeline.advance(last + 3 * 3_600_000));
    (told, planned)
}

#[test]
fn nobody_is_left_out_of_the_night() {
    let (told, planned) = night();
    let [incident] = &told.incidents.values().collect::<Vec<_>>()[..] else { panic!("{:?}", told.incidents) };
    let is_attack = |p: &&Planned| matches!(p.truth.label, Label::Attack { .. });
    let attacked: BTreeSet<&str> = planned.iter().filter(is_attack).map(|p| &*p.event.account).collect();
    assert!(attacked.len() > 10_000, "{}", attacked.len());

    // Every account that failed at the attack's hands, those of before the alarm among them. A person who mistyped
    // meanwhile from somewhere new is a target for all that the stages can know.
    let targets: BTreeSet<&str> = told.of(DetailKind::Target).map(|d| &*d.value).collect();
    let failed = |p: &&Planned| p.event.outcome == Outcome::Failure;
    let must: BTreeSet<&str> = planned.iter().filter(is_attack).filter(failed).map(|p| &*p.event.account).collect();
    assert_eq!(must.difference(&targets).count(), 0, "of {} attacked and {} told", must.len(), targets.len());
    let others: Vec<&&str> = targets.difference(&attacked).collect();
    assert!(others.len() < attacked.len() / 20, "{} others", others.len());
    // Nor is any source that failed.
    let source = |p: &Planned| p.event.source_ip.parse::<Source>().unwrap().to_string();
    let sources: BTreeSet<String> = planned.iter().filter(is_attack).filter(failed).map(source).collect();
    assert!(sources.len() > 300, "{}", sources.len());
    let took_part: BTreeSet<String> = told.of(DetailKind::Source).map(|d| d.value.clone()).collect();
    assert_eq!(sources.difference(&took_part).count(), 0);

    // The lines of sources, of targets, of minutes and the incident tell the same story.
    for name in ["failures", "unknown", "stopped"] {
        assert_eq!(told.sum(DetailKind::Source, name), told.sum(DetailKind::Target, name), "{name}");
    }
    // A stranger's success makes nobody a target, and is told of who is one already.
    let tried = |kind| told.sum(kind, "attempts") - told.sum(kind, "successes");
    assert_eq!(tried(DetailKind::Source), tried(DetailKind::Target));
    assert_eq!(told.sum(DetailKind::Minute, "attempts"), incident.attempts);
    assert_eq!(told.sum(DetailKind::Minute, "failures"), incident.failures);
    assert_eq!(told.sum(DetailKind::Minute, "stopped"), incident.stopped_at_edge);
    assert_eq!(told.sum(DetailKind::Minute, "fallen"), incident.compromised.len() as i64);
    let failures = told.sum(DetailKind::Source, "failures");
    assert!((failures - incident.failures).abs() * 100 <= incident.failures, "{failures}, {}", incident.failures);

    // Who fell, from where, and what was done there since.
    let fell: BTreeSet<&str> =
        told.of(DetailKind::Target).filter(|d| count(d, "fallen") > 0).map(|d| &*d.value).collect();
    assert_eq!(fell, incident.compromised.iter().map(|c| &*c.account).collect());
    assert_eq!(fell.len(), 2);
    for fallen in &incident.compromised {
        let target = &told.details[&format!("{}|TARGET|{}", incident.incident_id, fallen.account)];
        assert_eq!(target.about["entered_from"], fallen.source_ip);
        let step = &told.details[&format!("{}|TRAIL|{}|{}", incident.incident_id, fallen.event_id, fallen.account)];
        assert_eq!((&*step.about["account"], &*step.about["outcome"]), (&*fallen.account, "SUCCESS"));
    }
    // What was done: every live verdict of the incident, and nothing else.
    let done: BTreeSet<&str> = told.of(DetailKind::Action).map(|d| &*d.value).collect();
    let of_incident = |v: &&Verdict| v.mode == Mode::Live && v.incident_id.is_some();
    assert_eq!(done, told.verdicts.iter().filter(of_incident).map(|v| &*v.verdict_id).collect());
    // A line is told once, and again only when it has changed, every ten seconds at most.
    assert!(told.records < 3 * told.details.len(), "{} records of {} lines", told.records, told.details.len());
}

#[test]
fn every_ten_seconds_stand_beside_what_is_usual() {
    let (told, planned) = night();
    let login = planned.iter().filter(|p| p.event.activity == portcullis::event::Activity::Login);
    assert_eq!(told.activity.iter().map(|slice| slice.attempts).sum::<i64>(), login.count() as i64);
    for pair in told.activity.windows(2) {
        assert!(pair[0].slice_end <= pair[1].slice_start, "{pair:?}");
    }
    let calm = told.activity.iter().filter(|slice| slice.state == AttackState::Calm && slice.usual_attempts > 0.0);
    let near = calm.filter(|slice| (slice.attempts as f64) < 3.0 * slice.usual_attempts + 20.0).count();
    assert!(near > 30, "{near} slices as usual");
    let attacked: Vec<_> = told.activity.iter().filter(|slice| slice.state == AttackState::Attack).collect();
    assert!(attacked.iter().any(|slice| slice.failures as f64 > 5.0 * slice.usual_failures));
    assert!(attacked.iter().any(|slice| slice.statistic >= slice.alarm_level && slice.alarm_level > 0.0));
}

#[test]
fn hostile_names_stay_what_they_are_and_bring_no_others_down() {
    let mut env = std::sync::Arc::unwrap_or_clone(default_env());
    env.limits.campaign = crate::support::core::few_make_a_campaign();
    let mut pipeline = Pipeline::new(std::sync::Arc::new(env));
    let mut told = Told::default();
    let names = ["a|b", "=1+1", "<script>alert(1)</script>", "\u{202e}drow", "\u{1b}[31mred", "x"];
    let mut event = |n: i64, account: &str, told: &mut Told| {
        let at = crate::support::core::START + n * 500;
        let source = format!("198.51.{}.9", n % 100);
        let event = LoginEvent {
            user_agent: Some("a".repeat(1_000)),
            ..crate::support::core::failure(at, n, &source, account)
        };
        told.take(Core::feed(&mut pipeline, &Record::json(at, &event)));
    };
    for n in 0..200 {
        event(n, names[n as usize % names.len()], &mut told);
    }
    let targets: BTreeSet<&str> = told.of(DetailKind::Target).map(|d| &*d.value).collect();
    assert!(targets.contains("a|b") && targets.contains("<script>alert(1)</script>"), "{targets:?}");
    assert!(targets.len() >= names.len() - 1, "{targets:?}");
    let longest = told.details.values().flat_map(|d| d.about.values()).map(|text| text.chars().count()).max();
    assert!(longest.unwrap_or_default() <= 200, "{longest:?}");
}

#[test]
fn who_fell_before_anybody_saw_the_attack_is_told_of_it() {
    let mut site = Site::new("default", Edge::AddressList);
    let options = Options { history_ms: 14 * 86_400_000, ..Options::default() };
    let mut simulation = Simulation::new(Scenario::Night, 4, options).unwrap();
    let mut pipeline = Pipeline::new(default_env());
    let mut told = Told::default();
    // One of its sources is impatient: it is blocked, and gets in all the same.
    let source = "192.0.2.77";
    let record = |n: i64, account: &str, outcome, at| {
        let failed = crate::support::core::failure(at, 1_000_000 + n, source, account);
        let event = LoginEvent { tenant: "default".to_owned(), outcome, ..failed };
        Record::json(at, &event)
    };
    let mut begun = None;
    while let Some(next) = simulation.next(&mut site) {
        if begun.is_none() && matches!(next.truth.label, Label::Attack { .. }) {
            begun = Some(next.at);
            for n in 0..40 {
                let tried = record(n, &format!("walked-{n}@example.com"), Outcome::Failure, next.at);
                told.take(Core::feed(&mut pipeline, &tried));
            }
            let entered = record(40, "victim@example.com", Outcome::Success, next.at);
            told.take(Core::feed(&mut pipeline, &entered));
            let flagged = told.verdicts.iter().any(|v| v.value == "victim@example.com" && v.mode == Mode::Live);
            assert!(flagged && told.incidents.is_empty(), "{:?}", told.verdicts);
        }
        told.take(Core::feed(&mut pipeline, &Record::json(next.at, &next.event)));
        if begun.is_some_and(|begun| next.at > begun + 60_000) {
            break;
        }
    }
    let incident = told.incidents.values().next().expect("an incident");
    let victim = &told.details[&format!("{}|TARGET|victim@example.com", incident.incident_id)];
    assert_eq!((count(victim, "fallen"), count(victim, "successes")), (1, 1), "{victim:?}");
    assert_eq!(victim.about["entered_from"], source);
}
