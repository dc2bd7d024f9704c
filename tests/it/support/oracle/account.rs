//! The account stage anew: guessing from many sources, and who got in.

use std::collections::BTreeMap;

use super::control::Control;
use super::frames::{Fallen, Item, Note, Source, Sourced, items};
use super::playbook::{Playbook, Playbooks};
use super::said::{Said, number};
use super::standing::{Cause, Found, Standings, within_bounds};
use super::window::{Heard, Windows, memory};
use super::{GRACE_MS, Millis, Read, Who};

#[derive(Debug, Default)]
struct OfAccount {
    windows: Windows,
    forgotten_at: Millis,
}

/// The last two successes that were not flagged.
#[derive(Debug, Default, Clone, Copy)]
struct Logins {
    last: Option<Millis>,
    before: Option<Millis>,
}

/// A success, as it is judged.
struct Success<'a> {
    who: &'a Who,
    source: Source,
    event_id: &'a str,
    at: Millis,
    known_pair: bool,
    is_shown: bool,
    known_at: Millis,
    last: Option<Millis>,
}

struct Task<'a> {
    playbooks: &'a Playbooks,
    now: Millis,
    control: Control,
    accounts: BTreeMap<Who, OfAccount>,
    logins: BTreeMap<Who, Logins>,
    standings: Standings,
}

/// What the stage says over the committed records of its input, one partition after the other.
pub fn account_stage(playbooks: &Playbooks, input: &[Vec<Read>], said: &mut Said) {
    for (partition, records) in (0..).zip(input) {
        let mut task = Task {
            playbooks,
            now: Millis::MIN,
            control: Control::default(),
            accounts: BTreeMap::new(),
            logins: BTreeMap::new(),
            standings: Standings::default(),
        };
        for record in records {
            for item in items(record) {
                let place = format!("attempts-by-account[{partition}] offset {}", record.offset);
                match item {
                    Item::Sourced(sourced) => {
                        task.pass(sourced.attempt.arrived_at, said);
                        task.sourced(&sourced, &format!("{place}, event {}", sourced.attempt.event_id), said);
                    }
                    Item::Note(note) => {
                        task.pass(note.known_at, said);
                        task.note(&note, &format!("{place}, note on event {}", note.event_id), said);
                    }
                    Item::Mark(mark) => {
                        task.pass(mark.at, said);
                        let news = task.control.take(&mark);
                        said.news.entry(partition).or_default().extend(news);
                    }
                    other @ (Item::Attempt(_) | Item::Partial(_)) => panic!("{place}: {other:?}"),
                }
            }
        }
    }
}

impl Task<'_> {
    fn pass(&mut self, at: Millis, said: &mut Said) {
        self.standings.pass(&mut self.now, at, said);
        self.now = self.now.max(at);
    }

    fn sourced(&mut self, sourced: &Sourced, because: &str, said: &mut Said) {
        said.count("attempts on accounts");
        let a = &sourced.attempt;
        let who = Who { tenant: a.tenant.clone(), scope: "ACCOUNT", value: a.account.clone() };
        let is_strangers = a.is_failure() && !sourced.known_pair && !sourced.repeat;
        // A name that is nobody's has no owner to protect.
        if is_strangers && a.delay_ms() <= GRACE_MS && !a.is_nobodys() {
            self.guessed(sourced, &who, because, said);
        }
        if a.is_success() {
            let logins = self.logins.get(&who).copied().unwrap_or_default();
            let success = Success {
                who: &who,
                source: a.source,
                event_id: &a.event_id,
                at: a.occurred_at,
                known_pair: sourced.known_pair,
                is_shown: sourced.sign.is_some(),
                known_at: a.occurred_at,
                last: logins.last.filter(|last| *last < a.occurred_at),
            };
            // What is not flagged is learnt; of two, the later one is the last.
            if !self.entered(&success, because, said) && logins.last.is_none_or(|last| last <= a.occurred_at) {
                self.logins.insert(who, Logins { last: Some(a.occurred_at), before: logins.last });
            }
        }
    }

    fn note(&mut self, note: &Note, because: &str, said: &mut Said) {
        let who = Who { tenant: note.tenant.clone(), scope: "ACCOUNT", value: note.account.clone() };
        let logins = self.logins.entry(who.clone()).or_default();
        if logins.last.is_some_and(|last| last >= note.at) {
            *logins = Logins { last: logins.before.filter(|before| *before < note.at), before: None };
        }
        let success = Success {
            who: &who,
            source: note.source,
            event_id: &note.event_id,
            at: note.at,
            known_pair: false,
            is_shown: true,
            known_at: note.known_at,
            last: logins.last,
        };
        self.entered(&success, because, said);
    }

    fn guessed(&mut self, sourced: &Sourced, who: &Who, because: &str, said: &mut Said) {
        let (a, now) = (&sourced.attempt, self.now);
        let lengths = || self.playbooks.account.iter().map(Playbook::over);
        self.accounts.retain(|held, of| held != who || of.forgotten_at > now);
        let of = self.accounts.entry(who.clone()).or_default();
        of.forgotten_at = now + memory(lengths());
        let heard = Heard { at: a.occurred_at, failed: true, account: None, source: Some(a.source) };
        of.windows.hear(lengths(), &heard);
        let (state, incident_id) = self.control.state_of(&a.tenant, now);
        let cause = Cause {
            event_id: &a.event_id,
            occurred_at: a.occurred_at,
            arrived_at: a.arrived_at,
            delay_ms: a.delay_ms(),
            incident_id: incident_id.as_deref(),
            is_spared: self.control.spares(who, now),
            because,
        };
        self.standings.look(who, now, said);
        for playbook in &self.playbooks.account {
            let window = of.windows.of(playbook.over());
            self.standings.ask(playbook, who, now, &cause, said, || within_bounds(playbook, window, 0, 0, state));
        }
    }

    /// Whether a stranger got in from a source that is kept out, or was soon after.
    fn entered(&mut self, success: &Success<'_>, because: &str, said: &mut Said) -> bool {
        let Success { who, at, known_at, .. } = *success;
        if success.known_pair || !success.is_shown {
            return false;
        }
        let now = self.now;
        let late_by = known_at - at;
        let mut measures = BTreeMap::from([("seconds_to_identification".to_owned(), seconds(late_by))]);
        if let Some(last) = success.last {
            measures.insert("seconds_since_last_login".to_owned(), seconds(at - last));
        }
        let found = Found { measures, window: (at, known_at.max(at)) };
        let (_, incident_id) = self.control.state_of(&who.tenant, now);
        let cause = Cause {
            event_id: success.event_id,
            occurred_at: at,
            arrived_at: now,
            delay_ms: 0,
            incident_id: incident_id.as_deref(),
            is_spared: self.control.spares(who, now),
            because,
        };
        self.standings.look(who, now, said);
        let mut fell = false;
        for playbook in self.playbooks.compromise.iter().filter(|p| late_by <= p.over() + GRACE_MS) {
            let opened = self.standings.ask(playbook, who, now, &cause, said, || Some(found.clone()));
            fell |= opened && playbook.is_live();
        }
        if fell {
            let fallen = Fallen {
                account: who.value.clone(),
                source: success.source,
                at,
                flagged_at: now,
                event_id: success.event_id.to_owned(),
            };
            said.sums.entry(who.tenant.clone()).or_default().compromised.push(fallen);
        }
        true
    }
}

fn seconds(ms: Millis) -> String {
    number(ms.max(0) as f64 / 1000.0)
}
