//! What stands behind an incident: a line for every account that was tried, by its owner, and for every source that took
//! part, by its owner, with what was done about them and what an intruder did. None is left out.
//!
//! While no incident is known, bad attempts leave a trace for a quarter of an hour; when one becomes known, those since
//! its beginning become its first lines.

use std::collections::BTreeMap;

use super::env::Env;
use super::io::{Effects, Output};
use super::key::Key;
use super::row::{DetailCounts, DetailRow, Row};
use super::task::Task;
use crate::event::{Action, Activity, Attempt, DetailKind, Entity, IncidentDetail, Millis, Source};
use crate::topology::Stage;
use crate::window::{Hashed, Trace, Trial};

/// A line is told at once, and then at most this often.
const TOLD_EVERY_MS: Millis = 10_000;
/// How long after its last attempt a line goes on where it was: attackers invent names without end, so one that rests for
/// longer begins anew.
const KEPT_MS: Millis = 60 * 60_000;
/// Most steps of an intruder that are told of one account.
const STEPS_MAX: u16 = 100;
/// By how much an attack may be older than its epoch: the charts count blocks of attempts, and it may begin within the one
/// before.
pub(super) const BEFORE_MS: Millis = 60_000;
/// Longest agent that a line tells, in characters.
const AGENT_CHARS_MAX: usize = 200;

/// Of a target: the source that entered it first.
const ENTERED_FROM: &str = "entered_from";

/// What an attempt was to whom the line is about.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Part {
    /// What it did that was bad; nothing where it did not.
    pub(super) trial: Option<Trial>,
    /// A stranger got in.
    pub(super) is_entry: bool,
    /// An account was entered, and from where.
    pub(super) fallen: Option<Source>,
    pub(super) blocked: u64,
}

impl Part {
    /// An attempt of an account that the source is not known to belong to.
    pub(super) fn of(a: &Attempt, is_strange: bool, is_repeat: bool) -> Part {
        let trial = if a.is_stopped() {
            Some(Trial::Stopped(a.count))
        } else if !is_strange || !a.is_failure() {
            None
        } else if is_repeat {
            Some(Trial::Repeated)
        } else {
            Some(Trial::Failed { unknown: a.is_unknown_account() })
        };
        Part { trial, is_entry: is_strange && a.is_success(), ..Part::default() }
    }

    /// Whether somebody is part of an incident by it.
    const fn opens(self) -> bool {
        self.trial.is_some() || self.fallen.is_some() || self.blocked > 0
    }

    /// What it leaves behind where there is no line yet.
    fn trace(self) -> Option<Trial> {
        self.trial.or_else(|| self.fallen.map(|from| Trial::Fell { from, entered: self.is_entry }))
    }

    fn of_trace(trial: Trial) -> Part {
        match trial {
            Trial::Failed { .. } | Trial::Repeated | Trial::Stopped(_) => {
                Part { trial: Some(trial), ..Part::default() }
            }
            Trial::Fell { from, entered } => Part { is_entry: entered, fallen: Some(from), ..Part::default() },
        }
    }
}

impl DetailCounts {
    fn add(&mut self, part: Part) {
        match part.trial {
            Some(Trial::Failed { unknown }) => {
                self.attempts += 1;
                self.failures += 1;
                self.unknown += u64::from(unknown);
            }
            Some(Trial::Repeated) => self.attempts += 1,
            Some(Trial::Stopped(count)) => {
                self.attempts += u64::from(count);
                self.stopped += u64::from(count);
            }
            Some(Trial::Fell { .. }) | None => self.attempts += u64::from(part.is_entry),
        }
        self.successes += u64::from(part.is_entry);
        self.fallen += u64::from(part.fallen.is_some());
        self.blocked += part.blocked;
    }

    fn told(&self) -> BTreeMap<String, i64> {
        let DetailCounts { attempts, failures, unknown, stopped, successes, fallen, blocked } = *self;
        let named = [
            ("attempts", attempts),
            ("failures", failures),
            ("unknown", unknown),
            ("stopped", stopped),
            ("successes", successes),
            ("fallen", fallen),
            ("blocked", blocked),
        ];
        counts(named)
    }
}

/// Counts by name, those that are nothing left out.
pub(super) fn counts(named: impl IntoIterator<Item = (&'static str, u64)>) -> BTreeMap<String, i64> {
    let told = named.into_iter().filter(|(_, n)| *n > 0);
    told.map(|(name, n)| (name.to_owned(), i64::try_from(n).unwrap_or(i64::MAX))).collect()
}

/// The row that a line of this entity may touch.
pub(super) fn reads(task: &Task, env: &Env, tenant: &str, who: Hashed, keys: &mut Vec<Key>) {
    // One whose status has expired may be told of again.
    if let Some(incident) = task.told_incident(tenant) {
        keys.push(Key::detail(tenant, env.incident(incident), who));
    }
}

/// Whom a line is about.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) tenant: &'a str,
    pub(super) kind: DetailKind,
    /// Keyed hash of it.
    pub(super) who: Hashed,
    pub(super) value: &'a dyn std::fmt::Display,
}

/// Takes note of an attempt: in the line of the incident that is on, or as a trace. `came_with` is asked once a line.
pub(super) fn note(
    task: &mut Task,
    env: &Env,
    about: About<'_>,
    part: Part,
    came_with: impl FnOnce() -> Vec<(Box<str>, Box<str>)>,
    fx: &mut Effects,
) {
    if env.plan.campaign.is_empty() || env.plan.failures_alone || !(part.opens() || part.is_entry) {
        return;
    }
    let now = task.now();
    let Some((key, incident_id)) = line_of(task, env, about) else {
        if let Some(trial) = part.trace() {
            let value = about.value.to_string().into();
            task.traces.note(Trace { at: now, tenant: about.tenant.into(), who: about.who, value, trial });
        }
        return;
    };
    let held = task.view.take(&key, now).and_then(Row::detail);
    let mut row = match held {
        Some(row) => row,
        None if !part.opens() => return,
        None => Box::new(DetailRow::new(incident_id, about.kind, about.value.to_string().into(), now)),
    };
    row.counts.add(part);
    row.last_at = now;
    if row.about.is_empty() {
        row.about = came_with();
    }
    tell_soon(task, key, row, fx);
}

/// An intruder did something on an account that fell in the incident that is on.
pub(super) fn step(task: &mut Task, env: &Env, about: About<'_>, a: &Attempt, fx: &mut Effects) {
    let now = task.now();
    let Some((key, _)) = line_of(task, env, about) else { return };
    let Some(mut row) = task.view.take(&key, now).and_then(Row::detail) else { return };
    // Strangers fail at an account that was entered as they do elsewhere: that is nobody's step.
    let is_the_same = row.about.iter().any(|(name, value)| &**name == ENTERED_FROM && **value == *a.source.to_string());
    let is_step = is_the_same || a.is_success() || a.activity != Activity::Login;
    if row.counts.fallen == 0 || !is_step || row.steps >= STEPS_MAX {
        task.view.put_back(&key, Row::Detail(row));
        return;
    }
    row.steps += 1;
    let text = |text: &Option<Box<str>>| text.as_deref().map(|text| text.chars().take(AGENT_CHARS_MAX).collect());
    let told = [
        ("source", Some(a.source.to_string())),
        ("outcome", Some(a.outcome.as_str().to_owned())),
        ("activity", Some(a.activity.as_str().to_owned())),
        ("application", text(&a.application)),
        ("user_agent", text(&a.user_agent)),
    ];
    trail(&row.incident_id, (&a.event_id, &a.account), a.occurred_at, told, fx);
    task.view.put(key, Row::Detail(row), now.saturating_add(KEPT_MS));
}

/// A step of an intruder. An id may come again with another account, whose owner is another one: both name the line.
pub(super) fn trail<const N: usize>(
    incident_id: &str,
    (event_id, account): (&str, &str),
    at: Millis,
    about: [(&str, Option<String>); N],
    fx: &mut Effects,
) {
    let known = [("event_id", Some(event_id.to_owned())), ("account", Some(account.to_owned()))];
    let all = about.into_iter().chain(known);
    let about = all.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    fx.push(Output::Detail(Box::new(IncidentDetail {
        incident_id: incident_id.to_owned(),
        kind: DetailKind::Trail,
        value: format!("{event_id}|{account}"),
        sealed_account: None,
        counts: BTreeMap::new(),
        first_at: at,
        last_at: at,
        about,
    })));
}

/// Something was done in the course of an incident.
pub(super) fn action(
    incident_id: &str,
    id: &str,
    who: &Entity,
    action: Action,
    by: &[(&str, &str)],
    [since, until]: [Millis; 2],
    fx: &mut Effects,
) {
    let entity = [("scope", who.scope.as_str()), ("value", &*who.value), ("action", action.as_str())];
    let about = entity.iter().chain(by).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    fx.push(Output::Detail(Box::new(IncidentDetail {
        incident_id: incident_id.to_owned(),
        kind: DetailKind::Action,
        value: id.to_owned(),
        sealed_account: None,
        counts: BTreeMap::new(),
        first_at: since,
        last_at: until,
        about,
    })));
}

fn line_of(task: &Task, env: &Env, about: About<'_>) -> Option<(Key, Box<str>)> {
    let (_, incident_id) = task.state_of(about.tenant);
    let incident_id = incident_id?;
    Some((Key::detail(about.tenant, env.incident(incident_id), about.who), incident_id.into()))
}

/// Puts a line back, told now or when it falls due.
fn tell_soon(task: &mut Task, key: Key, mut row: Box<DetailRow>, fx: &mut Effects) {
    let now = task.now();
    let told_again_at = row.told_at.saturating_add(TOLD_EVERY_MS);
    if told_again_at <= now {
        tell(&mut row, now, fx);
    } else if !row.is_due {
        row.is_due = true;
        task.set_due(told_again_at, &key);
    }
    task.view.put(key, Row::Detail(row), now.saturating_add(KEPT_MS));
}

/// A line that changed since it was told falls due.
pub(super) fn due(task: &mut Task, key: &Key, fx: &mut Effects) {
    let now = task.now();
    let Some(mut row) = task.view.take(key, now).and_then(Row::detail) else { return };
    row.is_due = false;
    tell(&mut row, now, fx);
    task.view.put(key.clone(), Row::Detail(row), now.saturating_add(KEPT_MS));
}

fn tell(row: &mut DetailRow, now: Millis, fx: &mut Effects) {
    row.told_at = now;
    fx.push(Output::Detail(Box::new(IncidentDetail {
        incident_id: row.incident_id.to_string(),
        kind: row.kind,
        value: row.value.to_string(),
        sealed_account: None,
        counts: row.counts.told(),
        first_at: row.first_at,
        last_at: row.last_at,
        about: row.about.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    })));
}

/// An incident becomes known that began at `since`: what left traces until now becomes its first lines.
pub(super) fn look_back(task: &mut Task, env: &Env, tenant: &str, incident_id: &str, since: Millis, fx: &mut Effects) {
    let kind = match task.stage() {
        Stage::Source => DetailKind::Source,
        Stage::Account => DetailKind::Target,
        Stage::Intake | Stage::Site => return,
    };
    let now = task.now();
    let mut lines: BTreeMap<Box<str>, (Hashed, Box<DetailRow>)> = BTreeMap::new();
    for trace in task.traces.since(tenant, since.saturating_sub(BEFORE_MS), now) {
        let (_, row) = lines.entry(trace.value.clone()).or_insert_with(|| {
            (trace.who, Box::new(DetailRow::new(incident_id.into(), kind, trace.value.clone(), trace.at)))
        });
        let part = Part::of_trace(trace.trial);
        row.counts.add(part);
        row.last_at = trace.at;
        if let Some(from) = part.fallen.filter(|_| row.about.is_empty()) {
            row.about = entered_from(from);
        }
    }
    for (_, (who, mut row)) in lines {
        let key = Key::detail(tenant, env.incident(incident_id), who);
        // Nobody can have written it: its incident was not known.
        task.view.load(key.clone(), None);
        tell(&mut row, now, fx);
        task.view.put(key, Row::Detail(row), now.saturating_add(KEPT_MS));
    }
}

/// From where an account was entered first.
pub(super) fn entered_from(source: Source) -> Vec<(Box<str>, Box<str>)> {
    vec![(ENTERED_FROM.into(), source.to_string().into())]
}

/// What a source came with.
pub(super) fn came_with(a: &Attempt) -> Vec<(Box<str>, Box<str>)> {
    let told = [
        ("asn", a.asn.map(|asn| asn.to_string().into())),
        ("country", a.country.clone()),
        (
            "user_agent",
            a.user_agent.as_ref().map(|agent| agent.chars().take(AGENT_CHARS_MAX).collect::<String>().into()),
        ),
    ];
    told.into_iter().filter_map(|(name, value)| Some((name.into(), value?))).collect()
}

impl DetailRow {
    fn new(incident_id: Box<str>, kind: DetailKind, value: Box<str>, at: Millis) -> Self {
        DetailRow {
            incident_id,
            kind,
            value,
            counts: DetailCounts::default(),
            first_at: at,
            last_at: at,
            about: Vec::new(),
            told_at: Millis::MIN,
            is_due: false,
            steps: 0,
        }
    }
}
