//! One finding under one playbook: a verdict when it opens an episode, a longer block when the episode goes on.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{Change, Claim, Standing};
use crate::detect::Found;
use crate::event::{Entity, Millis, Mode, Verdict};
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

/// Whether there is nothing to say about an entity, whatever is found: the playbook is off, or its episode is open and
/// need not be prolonged yet.
#[must_use]
pub fn is_settled(playbook: &Playbook, standing: &Standing, now: Millis) -> bool {
    let claim = |mode| standing.claim(&playbook.id, restricts(playbook, mode), now);
    playbook.mode.verdict_mode().is_none_or(|mode| claim(mode).is_some_and(|c| !c.wants_prolonging(now)))
}

/// Whether whatever an attempt that arrived at `arrived_at` could open has ended by stream time `now`.
#[must_use]
pub fn is_over(playbook: &Playbook, arrived_at: Millis, now: Millis) -> bool {
    let shortest = playbook.then.ladder.first().copied().unwrap_or(playbook.over);
    arrived_at.saturating_add(shortest) <= now
}

/// Decides. Within an open episode nothing new is said; its claim is prolonged.
pub fn decide(playbook: &Playbook, found: &Found, standing: &mut Standing, case: &Case<'_>) -> Decision {
    let Some(mode) = playbook.mode.verdict_mode() else { return Decision::default() };
    let now = case.now;
    let live = restricts(playbook, mode);
    if standing.claim(&playbook.id, live, now).is_some() {
        standing.prolong(now, case.arrived_at, |claim| *claim.playbook == *playbook.id);
        return Decision { verdict: None, change: standing.settle(now), due: standing.next_end() };
    }
    let step_ms = if playbook.then.ladder.is_empty() {
        // Restricts nobody. Its episode lasts as long as its window, so that one finding is one verdict.
        playbook.over
    } else {
        step(playbook, standing.offend(&playbook.id, live, now, playbook.then.ladder_memory))
    };
    let until = case.arrived_at.saturating_add(step_ms);
    let verdict = verdict(playbook, found, case, mode, playbook.then.action.restricts().then_some(until));
    standing.add(Claim {
        playbook: playbook.id.as_str().into(),
        action: playbook.then.action,
        live,
        since: now,
        until,
        step_ms,
        verdict_id: verdict.verdict_id.as_str().into(),
        reason: verdict.explanation.as_str().into(),
    });
    Decision { verdict: Some(Box::new(verdict)), change: standing.settle(now), due: standing.next_end() }
}

fn restricts(playbook: &Playbook, mode: Mode) -> bool {
    mode == Mode::Live && playbook.then.action.restricts()
}

/// The step of the ladder for the n-th offence, from 1; the last one repeats.
fn step(playbook: &Playbook, offence: u32) -> Millis {
    let ladder = &playbook.then.ladder;
    let at = usize::try_from(offence.saturating_sub(1)).unwrap_or(usize::MAX);
    ladder.get(at).or(ladder.last()).copied().unwrap_or(playbook.over)
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

fn verdict(playbook: &Playbook, found: &Found, case: &Case<'_>, mode: Mode, until: Option<Millis>) -> Verdict {
    let entity = case.entity;
    Verdict {
        verdict_id: verdict_id(entity, &playbook.id, case.event_id, case.occurred_at),
        tenant: entity.tenant.to_string(),
        occurred_at: case.occurred_at,
        playbook: playbook.id.clone(),
        playbook_version: playbook.version,
        mode,
        finding: playbook.finding.as_str().to_owned(),
        severity: playbook.severity,
        confidence: 1.0,
        scope: entity.scope,
        value: entity.value.to_string(),
        action: playbook.then.action,
        until,
        window_start: found.window_start,
        window_end: found.window_end,
        measures: found.measures.clone(),
        explanation: found.explanation.clone(),
        contributions: BTreeMap::new(),
        related: Vec::new(),
        evidence: vec![case.event_id.to_owned()],
        tags: playbook.tags.clone(),
        incident_id: case.incident_id.map(str::to_owned),
    }
}
