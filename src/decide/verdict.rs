//! One finding under one playbook: a verdict when it opens an episode, a longer block when the episode goes on.

use sha2::{Digest, Sha256};

use super::{Change, Claim, Standing};
use crate::detect::Found;
use crate::event::{Action, Entity, Millis, Mode, Verdict};
use crate::topology::Playbook;

/// The attempt that completed a pattern, as a verdict cites it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case<'a> {
    pub entity: &'a Entity,
    /// Event time of the attempt.
    pub occurred_at: Millis,
    pub event_id: &'a str,
    /// When the attempt arrived: ends count from it, so that what arrives behind stream time is not held against anybody
    /// for longer than it would have been.
    pub arrived_at: Millis,
    /// Stream time.
    pub now: Millis,
    pub incident_id: Option<&'a str>,
}

/// What is to be published.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    pub verdict: Option<Box<Verdict>>,
    pub change: Option<Change>,
    /// When the entity must be looked at again.
    pub due: Option<Millis>,
}

/// How a playbook may speak this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    pub mode: Mode,
    /// Why it is in shadow though the playbook is live; a tag of its verdict.
    pub because: Option<&'static str>,
}

impl Manner {
    /// As the playbook says; `None` when it is off.
    #[must_use]
    pub fn of(playbook: &Playbook) -> Option<Manner> {
        playbook.mode.verdict_mode().map(|mode| Manner { mode, because: None })
    }

    /// In shadow, for a reason.
    #[must_use]
    pub const fn shadow(because: &'static str) -> Manner {
        Manner { mode: Mode::Shadow, because: Some(because) }
    }
}

/// Whether there is nothing to say about an entity, whatever is found: the playbook's episode is open and need not be
/// prolonged yet.
#[must_use]
pub fn is_settled(playbook: &Playbook, manner: Manner, standing: &Standing, now: Millis) -> bool {
    let claim = standing.claim(&playbook.id, restricts(playbook, manner.mode), now);
    claim.is_some_and(|claim| !claim.wants_prolonging(now))
}

/// Whether a finding would open an episode, and not go on with one.
#[must_use]
pub fn is_news(playbook: &Playbook, manner: Manner, standing: &Standing, now: Millis) -> bool {
    standing.claim(&playbook.id, restricts(playbook, manner.mode), now).is_none()
}

/// Whether whatever an attempt that arrived at `arrived_at` could open has ended by stream time `now`.
#[must_use]
pub fn is_over(playbook: &Playbook, arrived_at: Millis, now: Millis) -> bool {
    let shortest = playbook.then.shortest().unwrap_or(playbook.over);
    arrived_at.saturating_add(shortest) <= now
}

/// Decides. Within an open episode nothing new is said; its claim is prolonged.
pub fn decide(
    playbook: &Playbook,
    manner: Manner,
    found: &Found,
    standing: &mut Standing,
    case: &Case<'_>,
) -> Decision {
    let now = case.now;
    let live = restricts(playbook, manner.mode);
    if !is_news(playbook, manner, standing, now) {
        standing.prolong(now, case.arrived_at, |claim| *claim.playbook == *playbook.id);
        return Decision { verdict: None, change: standing.settle(now), due: standing.next_end() };
    }
    let verdict_id = verdict_id(case.entity, &playbook.id, case.event_id, case.occurred_at);
    let (action, step_ms) = if playbook.then.ladder.is_empty() {
        // Restricts nobody. Its episode lasts as long as its window, so that one finding is one verdict.
        (playbook.then.action, playbook.over)
    } else {
        let offence = standing.offend(&playbook.id, live, now, playbook.then.ladder_memory);
        let step_ms = playbook.then.step_at(offence).unwrap_or(playbook.over);
        (playbook.then.action_at(offence), playbook.then.jittered(step_ms, part_of(&verdict_id)))
    };
    let until = case.arrived_at.saturating_add(step_ms);
    let verdict = verdict(playbook, manner, found, case, verdict_id, action, action.restricts().then_some(until));
    standing.add(Claim {
        playbook: playbook.id.as_str().into(),
        action,
        live,
        since: now,
        until,
        step_ms,
        verdict_id: verdict.verdict_id.as_str().into(),
        reason: verdict.explanation.as_str().into(),
        wide: playbook.wide,
        actor: None,
    });
    Decision { verdict: Some(Box::new(verdict)), change: standing.settle(now), due: standing.next_end() }
}

fn restricts(playbook: &Playbook, mode: Mode) -> bool {
    mode == Mode::Live && playbook.then.action.restricts()
}

/// A number of 0 to 1 that follows from a verdict's id: nobody who does not know the id can tell it.
fn part_of(verdict_id: &str) -> f64 {
    let head = verdict_id.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(u32::MAX / 2);
    f64::from(head) / f64::from(u32::MAX)
}

/// Deterministic: a hash of tenant, playbook, scope, value and the episode: the event that opened it, with its time,
/// since an id may come twice.
#[must_use]
pub fn verdict_id(entity: &Entity, playbook: &str, event_id: &str, occurred_at: Millis) -> String {
    let mut hash = Sha256::new();
    for part in [&entity.tenant, playbook, entity.scope.as_str(), &entity.value, event_id] {
        hash.update((part.len() as u32).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(occurred_at.to_be_bytes());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn verdict(
    playbook: &Playbook,
    manner: Manner,
    found: &Found,
    case: &Case<'_>,
    verdict_id: String,
    action: Action,
    until: Option<Millis>,
) -> Verdict {
    let entity = case.entity;
    let mut tags = playbook.tags.clone();
    tags.extend(manner.because.map(str::to_owned));
    Verdict {
        verdict_id,
        tenant: entity.tenant.to_string(),
        occurred_at: case.occurred_at,
        playbook: playbook.id.clone(),
        playbook_version: playbook.version,
        mode: manner.mode,
        finding: playbook.finding.as_str().to_owned(),
        severity: playbook.severity,
        confidence: 1.0,
        scope: entity.scope,
        value: entity.value.to_string(),
        action,
        until,
        window_start: found.window_start,
        window_end: found.window_end,
        measures: found.measures.clone(),
        explanation: found.explanation.clone(),
        contributions: found.contributions.clone(),
        related: Vec::new(),
        // What rests on sums cites no event.
        evidence: if case.event_id.is_empty() { Vec::new() } else { vec![case.event_id.to_owned()] },
        tags,
        incident_id: case.incident_id.map(str::to_owned),
    }
}
