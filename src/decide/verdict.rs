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
    /// Stream time: `since` and `until` count from it.
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

/// Decides. Within an open episode nothing new is said; the claim is prolonged once half of it has passed.
pub fn decide(playbook: &Playbook, found: &Found, standing: &mut Standing, case: &Case<'_>) -> Decision {
    let Some(mode) = playbook.mode.verdict_mode() else { return Decision::default() };
    let now = case.now;
    if let Some(claim) = standing.claim(&playbook.id, now) {
        return prolong(claim.since, claim.until, playbook, standing, now);
    }
    let offence = standing.offend(&playbook.id, now, playbook.then.ladder_memory);
    let until = step(playbook, offence).map(|ms| now.saturating_add(ms));
    let verdict = verdict(playbook, found, case, mode, until);
    let mut decision = Decision::default();
    if let Some(until) = until {
        standing.add(Claim {
            playbook: playbook.id.as_str().into(),
            action: playbook.then.action,
            live: mode == Mode::Live && playbook.then.action.restricts(),
            since: now,
            until,
            verdict_id: verdict.verdict_id.as_str().into(),
            reason: verdict.explanation.as_str().into(),
        });
        decision.change = standing.settle(now);
        decision.due = Some(until);
    }
    decision.verdict = Some(Box::new(verdict));
    decision
}

fn prolong(since: Millis, until: Millis, playbook: &Playbook, standing: &mut Standing, now: Millis) -> Decision {
    let length = until.saturating_sub(since);
    // Prolonged at most every half step, so a flood of attempts is not a flood of blocklist records.
    let step_ms = playbook.then.ladder.iter().copied().filter(|ms| *ms <= length).max().unwrap_or(length);
    if until.saturating_sub(now) > step_ms / 2 {
        return Decision::default();
    }
    let until = now.saturating_add(step_ms);
    standing.prolong(&playbook.id, until);
    Decision { verdict: None, change: standing.settle(now), due: Some(until) }
}

/// The step of the ladder for the n-th offence, from 1.
fn step(playbook: &Playbook, offence: u32) -> Option<Millis> {
    let last = playbook.then.ladder.len().checked_sub(1)?;
    playbook.then.ladder.get((offence.saturating_sub(1) as usize).min(last)).copied()
}

/// Deterministic: a hash of tenant, playbook, scope, value and the episode (the event that opened it).
#[must_use]
pub fn verdict_id(entity: &Entity, playbook: &str, episode: &str) -> String {
    let mut hash = Sha256::new();
    for part in [&entity.tenant, playbook, entity.scope.as_str(), &entity.value, episode] {
        hash.update((part.len() as u32).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn verdict(playbook: &Playbook, found: &Found, case: &Case<'_>, mode: Mode, until: Option<Millis>) -> Verdict {
    let entity = case.entity;
    Verdict {
        verdict_id: verdict_id(entity, &playbook.id, case.event_id),
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
