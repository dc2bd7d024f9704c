//! What playbooks can say: each file of `tests/playbooks` brings its cases with it. And what they do about it.

use std::path::Path;
use std::sync::Arc;

use portcullis::app::playbooks::play;
use portcullis::decide::Change;
use portcullis::engine::{Emission, Env, Output, Pipeline, Raw};
use portcullis::event::{Action, Millis, Mode, Verdict, wire};
use portcullis::topology::{Exemptions, Fixture, Measure, Playbook, Price, check};

use crate::support::core::{START, default_playbooks, env, failure};
use crate::support::repository;

fn playbooks(folder: &Path) -> Vec<Playbook> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| Playbook::parse(&std::fs::read_to_string(file).unwrap()).unwrap()).collect()
}

#[test]
fn every_fixture_ends_as_it_says() {
    let mut all = playbooks(&repository().join("tests/playbooks"));
    assert!(all.len() >= 9);
    for playbook in &all {
        assert_eq!(check(std::slice::from_ref(playbook)), []);
        assert!(playbook.fixtures.iter().any(|f| f.fires) && playbook.fixtures.iter().any(|f| !f.fires));
        assert!(playbook.read_aloud().contains(&playbook.description));
    }
    all.extend(default_playbooks());
    let mut played = 0;
    for playbook in &all {
        for fixture in &playbook.fixtures {
            let done = play(playbook, fixture).unwrap_or_else(|e| panic!("{}: {}: {e:#}", playbook.id, fixture.name));
            assert!(done.passed, "{done:?}");
            played += 1;
        }
    }
    assert!(played > 30);
}

#[test]
fn a_fixture_that_says_otherwise_fails() {
    let playbook = playbooks(&repository().join("tests/playbooks")).remove(0);
    for fixture in &playbook.fixtures {
        let other = Fixture { fires: !fixture.fires, value: None, at_event: None, ..fixture.clone() };
        assert!(!play(&playbook, &other).unwrap().passed, "{}", fixture.name);
    }
}

#[test]
fn the_schema_for_editors_is_that_of_this_build() {
    let file = std::fs::read_to_string(repository().join("topology/playbook.schema.json")).unwrap();
    let written: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(written, Playbook::schema(), "portcullis playbooks schema > topology/playbook.schema.json");
}

const BASE: &str = "
id: base
version: 1
owner: security
description: Three accounts.
mode: live
finding: account_fanout
per: address
over: 10m
trigger:
  accounts_failed:
    at_least: 3
then:
  action: CHALLENGE
  ladder: [15m, 1h]
";

fn with(more: &str) -> Playbook {
    let playbook = Playbook::parse(&format!("{BASE}{more}")).unwrap();
    assert_eq!(check(std::slice::from_ref(&playbook)), []);
    playbook
}

/// One address after the other fails on three accounts, an hour between.
struct Sources {
    pipeline: Pipeline,
    number: u32,
}

impl Sources {
    fn new(env: Env) -> Sources {
        Sources { pipeline: Pipeline::new(Arc::new(env)), number: 0 }
    }

    fn fail(&mut self, at: Millis, source: &str) -> Vec<Emission> {
        let mut all = self.pipeline.advance(at);
        for n in 0..3 {
            self.number += 1;
            let at = at + n;
            let event = failure(at, self.number, source, &format!("a{}@example.org", self.number));
            let bytes = wire::login_event_to_json(&event);
            let raw = Raw {
                value: Some(&bytes),
                schema_header: None,
                writer: None,
                traceparent: None,
                timestamp: at,
                clock: at,
                tenant: None,
                networks: None,
            };
            all.extend(self.pipeline.feed(raw));
        }
        all
    }
}

fn verdicts(all: &[Emission]) -> Vec<&Verdict> {
    all.iter().filter_map(|e| if let Output::Verdict(verdict) = &e.output { Some(&**verdict) } else { None }).collect()
}

fn puts(all: &[Emission]) -> Vec<(Action, Millis)> {
    let put = |e: &Emission| {
        let Output::Block(change) = &e.output else { return None };
        match &change.change {
            Change::Put { shown, .. } => Some((shown.action, shown.until - e.at)),
            Change::Lift { .. } => None,
        }
    };
    all.iter().filter_map(put).collect()
}

const MINUTE: Millis = 60_000;
const HOUR: Millis = 60 * MINUTE;

#[test]
fn who_is_found_again_is_dealt_with_more_strongly() {
    let playbook = with("  escalate: {from: 3, action: BLOCK}\n");
    let mut sources = Sources::new(env(&[playbook], Exemptions::default()));
    let mut seen = Vec::new();
    for n in 0..4 {
        seen.extend(puts(&sources.fail(START + n * 3 * HOUR, "203.0.113.7")));
    }
    let lengths = [15 * MINUTE, HOUR, HOUR, HOUR];
    let actions = [Action::Challenge, Action::Challenge, Action::Block, Action::Block];
    assert_eq!(seen, actions.into_iter().zip(lengths).collect::<Vec<_>>());
}

#[test]
fn an_entry_says_whether_its_playbook_is_wide() {
    for (more, wide) in [("", false), ("wide: true\n", true)] {
        let mut sources = Sources::new(env(&[with(more)], Exemptions::default()));
        let entries: Vec<bool> = sources
            .fail(START, "203.0.113.7")
            .iter()
            .filter_map(|e| if let Output::Block(change) = &e.output { change.entry() } else { None })
            .map(|entry| entry.wide)
            .collect();
        assert_eq!(entries, [wide]);
    }
}

#[test]
fn lengths_vary_within_the_jitter_and_the_same_in_every_run() {
    let lengths = || {
        let playbook = with("  jitter: 10%\n");
        let mut sources = Sources::new(env(&[playbook], Exemptions::default()));
        let fail = |n: i64| puts(&sources.fail(START + n * MINUTE, &format!("203.0.{n}.7")));
        (0..50).flat_map(fail).map(|(_, length)| length).collect::<Vec<_>>()
    };
    let first = lengths();
    assert_eq!(first.len(), 50);
    let (least, most) = (first.iter().min().unwrap(), first.iter().max().unwrap());
    assert!(*least >= 15 * MINUTE * 9 / 10 && *most <= 15 * MINUTE * 11 / 10, "{least} {most}");
    assert!(most - least > 15 * MINUTE / 10, "they hardly differ: {least} to {most}");
    assert_eq!(first, lengths());
}

#[test]
fn beyond_its_cap_a_playbook_goes_on_in_shadow() {
    let playbook = with("  cap: {entities: 3, within: 1h}\n");
    let mut sources = Sources::new(env(&[playbook], Exemptions::default()));
    let mut modes = Vec::new();
    for n in 0..6 {
        let all = sources.fail(START + n * MINUTE, &format!("203.0.{n}.7"));
        modes.extend(verdicts(&all).iter().map(|v| (v.mode, v.tags.contains(&"capped".to_owned()))));
    }
    assert_eq!(modes, [[(Mode::Live, false); 3], [(Mode::Shadow, true); 3]].concat());
    let later = sources.fail(START + 2 * HOUR, "203.0.9.7");
    assert_eq!(verdicts(&later)[0].mode, Mode::Live, "an hour later there is room again");
}

#[test]
fn a_playbook_warms_up_until_its_window_was_kept_for_its_whole_length() {
    let mut env = env(&[with("")], Exemptions::default());
    env.limits.warms_up = true;
    let mut sources = Sources::new(env);
    let cold = sources.fail(START, "203.0.113.7");
    let [verdict] = verdicts(&cold)[..] else { panic!("{cold:?}") };
    assert_eq!((verdict.mode, verdict.tags.as_slice()), (Mode::Shadow, &["warming".to_owned()][..]));
    assert!(puts(&cold).is_empty());
    let still = sources.fail(START + 10 * MINUTE - 1_000, "203.0.114.7");
    assert_eq!(verdicts(&still)[0].mode, Mode::Shadow);
    let warm = sources.fail(START + 10 * MINUTE, "203.0.115.7");
    assert_eq!(verdicts(&warm)[0].mode, Mode::Live);
    assert_eq!(puts(&warm).len(), 1);
}

#[test]
fn playbooks_that_share_a_window_keep_it_once_and_dear_ones_are_refused() {
    let playbook = with("");
    assert_eq!(Price::of(&playbook).rows, 0);
    let dear: Vec<Playbook> = (1..=8)
        .map(|n| {
            let mut dear = Playbook { id: format!("dear{n}"), over: n * MINUTE, ..playbook.clone() };
            let bound = dear.trigger[&Measure::AccountsFailed];
            for measure in Measure::ALL.into_iter().filter(|m| m.set().is_some() && *m != Measure::Sources) {
                if !matches!(measure, Measure::AccountsAsked) {
                    dear.trigger.insert(measure, bound);
                }
            }
            dear
        })
        .collect();
    let problems = check(&dear);
    assert!(problems.iter().any(|p| p.text.contains("bytes about one entity at worst")), "{problems:?}");
}
