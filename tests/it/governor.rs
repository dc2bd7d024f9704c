//! Playbooks that would hurt good people: what they block is rolled back, and who does so again and again is withdrawn.

use std::collections::BTreeSet;

use portcullis::engine::{Emission, Output, Pipeline};
use portcullis::event::{AttackStatus, LoginEvent, Millis, Mode, Outcome, Verdict};
use portcullis::topology::Exemptions;

use crate::support::core::{Core, Record, START, default_playbooks, env, failure};

const DAY: Millis = 86_400_000;
/// Two days after everybody logged in.
const LATER: Millis = START + 2 * DAY;

#[derive(Default)]
struct Heard {
    verdicts: Vec<Verdict>,
    statuses: Vec<AttackStatus>,
    listed: BTreeSet<String>,
    causes: Vec<(String, &'static str)>,
}

struct Site {
    pipeline: Pipeline,
    heard: Heard,
    n: u64,
}

impl Site {
    /// Of the shipped playbooks one, so that it is the one who does it.
    fn new() -> Site {
        let mut playbooks = default_playbooks();
        playbooks.retain(|playbook| playbook.id == "ip-account-fanout");
        let env = std::sync::Arc::new(env(&playbooks, Exemptions::default()));
        Site { pipeline: Pipeline::new(env), heard: Heard::default(), n: 0 }
    }

    fn take(&mut self, emitted: Vec<Emission>) {
        for emission in emitted {
            match emission.output {
                Output::Verdict(verdict) => self.heard.verdicts.push(*verdict),
                Output::Status(status) => self.heard.statuses.push(*status),
                Output::Block(change) if change.entry().is_some() => {
                    self.heard.listed.insert(change.entity.key());
                }
                Output::Block(change) => {
                    self.heard.listed.remove(&change.entity.key());
                    self.heard.causes.push((change.entity.key(), change.cause));
                }
                Output::Incident(_)
                | Output::Detail(_)
                | Output::Activity(_)
                | Output::KnownPair(_)
                | Output::DeadLetter(_)
                | Output::Playbook(_)
                | Output::Item { .. }
                | Output::MarkAll { .. } => {}
            }
        }
    }

    fn feed(&mut self, at: Millis, source: &str, account: &str, outcome: Outcome) {
        self.n += 1;
        let event = LoginEvent { outcome, ..failure(at, self.n, source, account) };
        let emitted = Core::feed(&mut self.pipeline, &Record::json(at, &event));
        self.take(emitted);
    }

    /// Somebody stuffs from a source until it is blocked.
    fn stuff(&mut self, at: Millis, source: &str) {
        let key = format!("shop|IP|{source}");
        for n in 0..60 {
            self.feed(at + n * 50, source, &format!("user{}@example.org", self.n), Outcome::Failure);
            if self.heard.listed.contains(&key) {
                return;
            }
        }
        panic!("{source} is not blocked: {:?}", self.heard.verdicts);
    }
}

#[test]
fn a_source_that_good_people_share_is_lifted_and_left_alone_for_an_hour() {
    const EXIT: &str = "203.0.113.9";
    let mut site = Site::new();
    for who in ["ada", "bob"] {
        site.feed(START, EXIT, who, Outcome::Success);
    }
    site.feed(LATER - 3_600_000, EXIT, "eve", Outcome::Success);
    site.stuff(LATER, EXIT);
    let key = format!("shop|IP|{EXIT}");
    let kept_out = |site: &Site| site.heard.listed.contains(&key);
    // Strangers, and who came for the first time an hour ago, are refused for all it matters; so is one who always came.
    for who in ["mallory", "eve", "ada", "ada"] {
        site.feed(LATER + 10_000, EXIT, who, Outcome::Blocked);
    }
    assert!(kept_out(&site));
    site.feed(LATER + 11_000, EXIT, "bob", Outcome::Blocked);
    assert!(!kept_out(&site));
    let verdict = site.heard.verdicts.last().unwrap();
    assert_eq!((&*verdict.finding, &*verdict.value, verdict.mode), ("collateral", EXIT, Mode::Live));
    assert!(verdict.explanation.contains("2 accounts that had logged in from there"), "{verdict:?}");
    // It goes on, and nothing shows before the hour is over.
    for n in 0..30 {
        site.feed(LATER + 20_000 + n * 1_000, EXIT, &format!("other{n}@example.org"), Outcome::Failure);
    }
    assert!(!kept_out(&site), "{:?}", site.heard.listed);
    site.stuff(LATER + 2 * 3_600_000, EXIT);
}

#[test]
fn a_playbook_that_hurts_again_and_again_is_withdrawn_for_everybody() {
    let mut site = Site::new();
    let exits: Vec<String> = (1..=25).map(|n| format!("198.18.{n}.7")).collect();
    for (n, exit) in exits.iter().enumerate() {
        for who in 0..2 {
            site.feed(START + n as i64, exit, &format!("person{n}-{who}@example.org"), Outcome::Success);
        }
    }
    // Somebody stuffs from all of these, and from one where nobody lives.
    site.stuff(LATER, "192.0.2.5");
    for (n, exit) in exits.iter().enumerate() {
        site.stuff(LATER + 5_000 + 3_000 * n as i64, exit);
    }
    let withdrawn = |site: &Site| site.heard.statuses.last().is_some_and(|status| !status.withdrawn.is_empty());
    for (n, exit) in exits.iter().enumerate() {
        let at = LATER + 90_000 + 100 * n as i64;
        assert_eq!(withdrawn(&site), n > 20, "after {n}");
        for who in 0..2 {
            site.feed(at, exit, &format!("person{n}-{who}@example.org"), Outcome::Blocked);
        }
        // The site is told once a second.
        let passed = site.pipeline.advance(at + 60);
        site.take(passed);
        if n == 20 {
            let passed = site.pipeline.advance(at + 2_000);
            site.take(passed);
        }
    }
    let status = site.heard.statuses.last().unwrap();
    let [playbook] = &status.withdrawn[..] else { panic!("{status:?}") };
    assert_eq!(playbook.playbook, "ip-account-fanout");
    assert!(!site.heard.listed.iter().any(|key| key.contains("192.0.2.5")), "{:?}", site.heard.listed);
    assert!(site.heard.causes.contains(&("shop|IP|192.0.2.5".to_owned(), "withdrawn")), "{:?}", site.heard.causes);
    // Meanwhile it says what it would do.
    let before = site.heard.verdicts.len();
    for n in 0..60 {
        site.feed(LATER + 200_000 + n * 50, "192.0.2.9", &format!("late{n}@example.org"), Outcome::Failure);
    }
    let said = site.heard.verdicts[before..].iter().find(|v| v.playbook == "ip-account-fanout").expect("a verdict");
    assert_eq!((said.mode, said.tags.last().map(String::as_str)), (Mode::Shadow, Some("withdrawn")));
    // An hour later it acts again.
    site.stuff(LATER + 2 * 3_600_000, "192.0.2.9");
}
