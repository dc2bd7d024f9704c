//! An incident that tells itself: who was tried, who fell and when, from where, what was done, minute by minute.
//!
//! One value, from the board and from one pass over the incident's lines; the page, the exports and the command line are
//! ways to write it down. Lists are cut here and in no export of targets and sources.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use serde::Serialize;

use super::board::Board;
use super::disk::{Disk, Line, StoreError};

use crate::event::{ActivitySlice, DetailKind, Incident, IncidentState, Millis, Mode, Verdict};

/// Targets and sources that are shown, of all that can be exported.
pub(super) const SHOWN_MAX: usize = 50;
/// Deeds that are listed one by one; all are counted by playbook.
pub(super) const DEEDS_MAX: usize = 200;
/// Steps of intruders that are listed.
pub(super) const STEPS_MAX: usize = 500;
/// Most minutes of a timeline, a day; later ones are left out and counted.
pub(super) const MINUTES_MAX: usize = 1_440;
const MINUTE_MS: Millis = 60_000;

/// The counts of one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Minute {
    pub at: Millis,
    pub attempts: i64,
    pub failures: i64,
    pub stopped: i64,
    pub unknown: i64,
}

/// What is done by one playbook, in sum.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deeds {
    pub count: u64,
    pub first_at: Millis,
    pub last_at: Millis,
}

/// One thing that was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Deed {
    pub at: Millis,
    /// Of the verdict or the command.
    pub id: String,
    pub until: Option<Millis>,
    pub action: String,
    pub scope: String,
    pub value: String,
    /// The playbook or the person.
    pub by: String,
    pub is_shadow: bool,
    /// As its verdict says, while that is held; or a person's reason.
    pub why: String,
}

/// A step of an intruder after a success.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    pub event_id: String,
    pub at: Millis,
    pub counts: BTreeMap<String, i64>,
    pub about: BTreeMap<String, String>,
}

/// What one pass over an incident's lines gives.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lines {
    pub targets: u64,
    /// Targets that belong to nobody.
    pub targets_unknown: u64,
    pub targets_fallen: u64,
    pub sources: u64,
    pub sources_succeeded: u64,
    /// The first of them: fallen ones, then by attempts.
    pub top_targets: Vec<Line>,
    pub top_sources: Vec<Line>,
    pub minutes: Vec<Minute>,
    pub minutes_left_out: u64,
    pub actions: u64,
    /// The first of them, in the order of time.
    #[serde(skip)]
    pub first_actions: Vec<Deed>,
    pub steps: Vec<Step>,
    pub steps_left_out: u64,
}

/// The report of an incident.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub incident: Incident,
    /// When it was written.
    pub at: Millis,
    /// Accounts of the lists; where there is no list of them yet, as the incident estimates.
    pub lines: Lines,
    /// Whether minutes come from the incident's own lines, else from the traffic of the whole tenant.
    pub minutes_are_own: bool,
    pub usual_failures_a_minute: Option<f64>,
    pub deeds_by_playbook: BTreeMap<String, Deeds>,
    pub deeds: Vec<Deed>,
}

impl Lines {
    /// Reads every line of an incident once.
    ///
    /// # Errors
    /// The store does not read.
    pub fn read(disk: &Disk, incident: &str) -> Result<Lines, StoreError> {
        let mut lines = Lines::default();
        let mut top = Top::default();
        for line in disk.lines(incident, DetailKind::Target) {
            let line = line?;
            lines.targets += 1;
            lines.targets_unknown += u64::from(line.count("unknown") > 0);
            let fallen = line.count("fallen");
            lines.targets_fallen += u64::from(fallen > 0);
            top.push((fallen, line.count("attempts")), line);
        }
        lines.top_targets = std::mem::take(&mut top).sorted();
        for line in disk.lines(incident, DetailKind::Source) {
            let line = line?;
            lines.sources += 1;
            let successes = line.count("successes");
            lines.sources_succeeded += u64::from(successes > 0);
            top.push((successes, line.count("attempts")), line);
        }
        lines.top_sources = top.sorted();
        for line in disk.lines(incident, DetailKind::Minute) {
            let line = line?;
            let Ok(at) = line.value.parse() else { continue };
            let count = |name| line.count(name);
            let minute = Minute {
                at,
                attempts: count("attempts"),
                failures: count("failures"),
                stopped: count("stopped"),
                unknown: count("unknown"),
            };
            if lines.minutes.len() < MINUTES_MAX { lines.minutes.push(minute) } else { lines.minutes_left_out += 1 }
        }
        // The digits of a time sort as text only while there are equally many.
        lines.minutes.sort_unstable_by_key(|minute| minute.at);
        let mut actions = BinaryHeap::new();
        for line in disk.lines(incident, DetailKind::Action) {
            let line = line?;
            lines.actions += 1;
            actions.push(deed(line));
            if actions.len() > DEEDS_READ_MAX {
                actions.pop();
            }
        }
        lines.first_actions = actions.into_sorted_vec();
        for line in disk.lines(incident, DetailKind::Trail) {
            let Line { value, counts, first_at, about, .. } = line?;
            if lines.steps.len() < STEPS_MAX {
                lines.steps.push(Step { event_id: value, at: first_at, counts, about });
            } else {
                lines.steps_left_out += 1;
            }
        }
        lines.steps.sort_by(|a, b| (a.at, &a.event_id).cmp(&(b.at, &b.event_id)));
        Ok(lines)
    }
}

/// Deeds that are counted by playbook.
const DEEDS_READ_MAX: usize = 10_000;

/// The lines of the greatest weight.
#[derive(Default)]
struct Top {
    held: BinaryHeap<Reverse<Weighed>>,
}

struct Weighed {
    weight: (i64, i64),
    line: Line,
}

impl Weighed {
    /// Of equal weight the first value goes first.
    fn order(&self) -> ((i64, i64), Reverse<&str>) {
        (self.weight, Reverse(&self.line.value))
    }
}

impl PartialEq for Weighed {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Weighed {}

impl PartialOrd for Weighed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Weighed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl Top {
    fn push(&mut self, weight: (i64, i64), line: Line) {
        if self.held.len() >= SHOWN_MAX && self.held.peek().is_some_and(|least| weight < least.0.weight) {
            return;
        }
        self.held.push(Reverse(Weighed { weight, line }));
        if self.held.len() > SHOWN_MAX {
            self.held.pop();
        }
    }

    fn sorted(self) -> Vec<Line> {
        // Ascending in the reverse is the greatest first.
        self.held.into_sorted_vec().into_iter().map(|Reverse(weighed)| weighed.line).collect()
    }
}

impl Report {
    /// Writes down what is known of an incident; `None`: there is none of this id.
    #[must_use]
    pub fn new(board: &Board, id: &str, lines: Lines, now: Millis) -> Option<Report> {
        let incident = board.incident_of(id)?.clone();
        let mut lines = lines;
        let end = incident.ended_at.unwrap_or(incident.updated_at).max(incident.started_at);
        let slices = board.traffic().slices(&incident.tenant, incident.started_at - MINUTE_MS, end + MINUTE_MS);
        let usual_failures_a_minute = usual_a_minute(&slices);
        let minutes_are_own = !lines.minutes.is_empty();
        if !minutes_are_own {
            lines.minutes = minutes_of(&slices);
        }
        let (deeds_by_playbook, deeds) = deeds(board, &incident, &lines);
        Some(Report { incident, at: now, lines, minutes_are_own, usual_failures_a_minute, deeds_by_playbook, deeds })
    }

    /// Accounts that were tried: those that are listed, or as many as the incident estimates.
    #[must_use]
    pub fn targeted(&self) -> i64 {
        listed_or(self.lines.targets, self.incident.accounts_targeted)
    }

    #[must_use]
    pub fn sources(&self) -> i64 {
        listed_or(self.lines.sources, self.incident.sources)
    }

    /// Targets that belong to nobody.
    #[must_use]
    pub fn unknown(&self) -> i64 {
        if self.lines.targets > 0 { listed_or(self.lines.targets_unknown, 0) } else { self.incident.accounts_unknown }
    }

    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.incident.state, IncidentState::Open)
    }

    /// How long it lasted, or lasts so far.
    #[must_use]
    pub fn lasted(&self) -> Millis {
        self.incident.ended_at.unwrap_or(self.incident.updated_at).saturating_sub(self.incident.started_at).max(0)
    }

    /// What happened, in a few sentences that a person would send to a colleague.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.incident.summary
    }
}

fn listed_or(listed: u64, estimated: i64) -> i64 {
    if listed > 0 { i64::try_from(listed).unwrap_or(i64::MAX) } else { estimated }
}

fn usual_a_minute(slices: &[ActivitySlice]) -> Option<f64> {
    let (usual, ms) = slices.iter().fold((0.0, 0), |(usual, ms), slice| {
        let failures = slice.usual_failures.min(slice.usual_attempts);
        (usual + failures, ms + slice.slice_end - slice.slice_start)
    });
    (ms > 0 && usual > 0.0).then(|| usual * MINUTE_MS as f64 / ms as f64)
}

fn minutes_of(slices: &[ActivitySlice]) -> Vec<Minute> {
    let mut minutes: BTreeMap<Millis, Minute> = BTreeMap::new();
    for slice in slices {
        let at = slice.slice_start - slice.slice_start.rem_euclid(MINUTE_MS);
        let minute = minutes.entry(at).or_insert(Minute { at, ..Minute::default() });
        minute.attempts = minute.attempts.saturating_add(slice.attempts);
        minute.failures = minute.failures.saturating_add(slice.failures);
        minute.stopped = minute.stopped.saturating_add(slice.stopped);
        minute.unknown = minute.unknown.saturating_add(slice.unknown_accounts);
    }
    minutes.into_values().take(MINUTES_MAX).collect()
}

/// What was done: the incident's own lines, and verdicts that name it.
fn deeds(board: &Board, incident: &Incident, lines: &Lines) -> (BTreeMap<String, Deeds>, Vec<Deed>) {
    let mut found: BTreeMap<String, Deed> = BTreeMap::new();
    for deed in &lines.first_actions {
        let mut deed = deed.clone();
        if let Some(verdict) = board.verdict_of(&deed.id) {
            deed.is_shadow = verdict.mode == Mode::Shadow;
            deed.why.clone_from(&verdict.explanation);
        }
        found.insert(deed.id.clone(), deed);
    }
    let names_it = |verdict: &&Verdict| verdict.incident_id.as_deref() == Some(&incident.incident_id);
    for verdict in board.verdicts().filter(names_it) {
        found.entry(verdict.verdict_id.clone()).or_insert_with(|| deed_of(verdict));
    }
    let mut all: Vec<Deed> = found.into_values().collect();
    all.sort_unstable();
    let mut by_playbook: BTreeMap<String, Deeds> = BTreeMap::new();
    for deed in &all {
        let name = if deed.is_shadow { format!("{} (shadow)", deed.by) } else { deed.by.clone() };
        let deeds = by_playbook.entry(name).or_insert(Deeds { count: 0, first_at: deed.at, last_at: deed.at });
        deeds.count += 1;
        deeds.last_at = deed.at;
    }
    all.truncate(DEEDS_MAX);
    (by_playbook, all)
}

fn deed(line: Line) -> Deed {
    let by = [line.about("actor"), line.about("playbook")].into_iter().find(|by| !by.is_empty());
    Deed {
        at: line.first_at,
        until: (line.last_at > line.first_at).then_some(line.last_at),
        action: line.about("action").to_owned(),
        scope: line.about("scope").to_owned(),
        value: line.about("value").to_owned(),
        by: by.unwrap_or("nobody named").to_owned(),
        is_shadow: false,
        why: line.about("reason").to_owned(),
        id: line.value,
    }
}

fn deed_of(verdict: &Verdict) -> Deed {
    Deed {
        at: verdict.occurred_at,
        id: verdict.verdict_id.clone(),
        until: verdict.until,
        action: verdict.action.as_str().to_owned(),
        scope: verdict.scope.as_str().to_owned(),
        value: verdict.value.clone(),
        by: verdict.playbook.clone(),
        is_shadow: verdict.mode == Mode::Shadow,
        why: verdict.explanation.clone(),
    }
}
