//! Incidents of two sets of playbooks over one past, side by side: when each knew, and when each first acted.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::event::{Action, AttackState, AttackStatus, Incident, IncidentState, Millis, Mode, Verdict};

/// Most incidents, and most times of blocks and of attacks, that are remembered.
pub const INCIDENTS_MAX: usize = 10_000;
const TIMES_MAX: usize = 2_000_000;

/// What one set of playbooks noticed, and when.
#[derive(Debug, Default)]
pub struct Story {
    incidents: BTreeMap<Box<str>, Noticed>,
    states: BTreeMap<Box<str>, AttackState>,
    /// By tenant, in the order of time.
    attacks: BTreeMap<Box<str>, Vec<Millis>>,
    blocks: BTreeMap<Box<str>, Vec<Millis>>,
    times: usize,
}

#[derive(Debug, Clone)]
struct Noticed {
    tenant: Box<str>,
    from: Millis,
    /// `None`: it was not over at the end of the past.
    to: Option<Millis>,
}

/// How a set of playbooks fared in an incident.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Fared {
    /// Ids of its incidents in that time.
    pub incidents: Vec<Box<str>>,
    pub attack_at: Option<Millis>,
    pub first_block_at: Option<Millis>,
}

/// Incidents of one tenant that overlap in time, of either set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideBySide {
    pub tenant: Box<str>,
    pub from: Millis,
    /// `None`: not over at the end.
    pub to: Option<Millis>,
    pub old: Option<Fared>,
    pub new: Fared,
    /// Minutes that the new set knew, and blocked, before the old one; below zero, after it.
    pub attack_minutes_gained: Option<f64>,
    pub block_minutes_gained: Option<f64>,
}

impl Story {
    pub(super) fn incident(&mut self, incident: &Incident) {
        let id: Box<str> = incident.incident_id.as_str().into();
        if self.incidents.len() >= INCIDENTS_MAX && !self.incidents.contains_key(&id) {
            return;
        }
        let to = (incident.state == IncidentState::Closed).then(|| incident.ended_at.unwrap_or(incident.updated_at));
        self.incidents.insert(id, Noticed { tenant: incident.tenant.as_str().into(), from: incident.started_at, to });
    }

    /// `counts`: what begins before that is not told.
    pub(super) fn status(&mut self, status: &AttackStatus, counts: bool) {
        let before = self.states.insert(status.tenant.as_str().into(), status.state).unwrap_or(AttackState::Calm);
        let begins = status.state == AttackState::Attack && before != AttackState::Attack;
        if begins && counts && self.has_room() {
            self.attacks.entry(status.tenant.as_str().into()).or_default().push(status.updated_at);
        }
    }

    pub(super) fn verdict(&mut self, at: Millis, verdict: &Verdict) {
        if verdict.mode == Mode::Live && verdict.action == Action::Block && self.has_room() {
            self.blocks.entry(verdict.tenant.as_str().into()).or_default().push(at);
        }
    }

    fn has_room(&mut self) -> bool {
        self.times += 1;
        self.times <= TIMES_MAX
    }

    fn fared(&self, tenant: &str, from: Millis, to: Option<Millis>) -> Fared {
        let is_within = |at: &Millis| *at >= from && to.is_none_or(|to| *at <= to);
        let first = |times: Option<&Vec<Millis>>| times.into_iter().flatten().copied().filter(is_within).min();
        let ids = self.incidents.iter().filter(|(_, own)| &*own.tenant == tenant && is_within(&own.from));
        Fared {
            incidents: ids.map(|(id, _)| id.clone()).collect(),
            attack_at: first(self.attacks.get(tenant)),
            first_block_at: first(self.blocks.get(tenant)),
        }
    }
}

/// Every incident of either, in the order of tenants and times.
#[must_use]
pub fn side_by_side(old: Option<&Story>, new: &Story) -> Vec<SideBySide> {
    let mut all: Vec<&Noticed> = old.into_iter().chain([new]).flat_map(|story| story.incidents.values()).collect();
    all.sort_by(|a, b| (&a.tenant, a.from).cmp(&(&b.tenant, b.from)));
    let mut spans: Vec<Noticed> = Vec::new();
    for one in all {
        match spans.last_mut().filter(|last| last.tenant == one.tenant && last.to.is_none_or(|to| one.from <= to)) {
            Some(last) => last.to = last.to.zip(one.to).map(|(a, b)| a.max(b)),
            None => spans.push(one.clone()),
        }
    }
    let gained = |old: Option<Millis>, new: Option<Millis>| Some((old? - new?) as f64 / 60_000.0);
    let compare = |Noticed { tenant, from, to }: Noticed| {
        let new = new.fared(&tenant, from, to);
        let old = old.map(|story| story.fared(&tenant, from, to));
        let of_old = |time: fn(&Fared) -> Option<Millis>| old.as_ref().and_then(time);
        SideBySide {
            attack_minutes_gained: gained(of_old(|fared| fared.attack_at), new.attack_at),
            block_minutes_gained: gained(of_old(|fared| fared.first_block_at), new.first_block_at),
            tenant,
            from,
            to,
            old,
            new,
        }
    };
    spans.into_iter().map(compare).collect()
}
