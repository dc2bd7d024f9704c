//! What people ask for, carried out by the owner of the entity; and whom they watch.

use std::collections::BTreeMap;

use super::details;
use super::dock::Dock;
use super::env::Env;
use super::frame::{Item, Mark};
use super::io::{ControlChange, Effects, Output};
use super::key::Key;
use super::task::Task;
use crate::decide::{Claim, OPERATOR};
use crate::detect::Found;
use crate::event::{Action, Attempt, Entity, Exemption, Millis, Scope, Source};
use crate::topology::exemptions::{pair_of, prefix_of};
use crate::topology::{Ask, Request, Stage};
use crate::window::Hashed;

/// Most entities that are watched, of all tenants.
pub(super) const WATCHES_MAX: usize = 1_000;
/// How far back a touch is said to reach: it has no window.
const TOUCH_MS: Millis = 1;

/// Who owns an entity: one stage, and within it whoever this number leads to.
fn owner_of(env: &Env, entity: &Entity) -> (Stage, Hashed) {
    let (tenant, value) = (&*entity.tenant, &*entity.value);
    let source = match entity.scope {
        Scope::Ip => value.parse::<Source>().ok(),
        Scope::Cidr => prefix_of(entity.scope, value)
            .filter(|net| net.prefix_len() >= if net.addr().is_ipv4() { 24 } else { 48 })
            .map(|net| Source::from(net.addr())),
        Scope::IpAccount => pair_of(value).map(|(source, _)| source),
        Scope::Account => return (Stage::Account, env.route_account(tenant, value)),
        Scope::Device => return (Stage::Account, env.route_device(tenant, value)),
        Scope::Other | Scope::Asn | Scope::Country | Scope::UserAgent | Scope::TlsFingerprint | Scope::Tenant => None,
    };
    match source {
        Some(source) => (Stage::Source, env.route_network(tenant, source)),
        None => (Stage::Site, env.route_tenant(tenant)),
    }
}

/// Intake: sends a command to the owner of its entity, and tells everybody whom to watch.
pub(super) fn send(env: &Env, version: i64, request: Request, at: Millis, fx: &mut Effects) {
    let is_range = matches!(request.entity.scope, Scope::Ip | Scope::Cidr | Scope::Asn | Scope::Account);
    let watch = match request.ask {
        Ask::Recorded => return,
        Ask::Lift => Some(None),
        // Whoever goes on at a range that a person blocked is worth a word, too.
        Ask::Watch => Some(Some(watched(&request, version))),
        Ask::Block(_) => (request.entity.scope == Scope::Cidr).then(|| Some(watched(&request, version))),
    };
    if let Some(watch) = watch.filter(|_| is_range) {
        let change = ControlChange::Watch { version, key: request.entity.key().into(), watch };
        fx.push(Output::MarkAll { to: Stage::Source, mark: Mark { at, changes: vec![change] } });
    }
    if request.ask != Ask::Watch {
        let (to, route) = owner_of(env, &request.entity);
        fx.push(Output::Item { to, route, item: Item::Request(Box::new(request)) });
    }
}

/// A watch is kept as an exemption is: about whom, for which tenant, until when, why.
fn watched(request: &Request, version: i64) -> Exemption {
    Exemption {
        tenant: request.entity.tenant.to_string(),
        scope: request.entity.scope,
        value: request.entity.value.to_string(),
        since: request.at,
        until: request.until,
        reason: request.reason.to_string(),
        actor: Some(request.actor.to_string()),
        generation: version,
    }
}

pub(super) fn reads(request: &Request, keys: &mut Vec<Key>) {
    keys.push(Key::standing(&request.entity));
}

/// The owner: does what is asked.
pub(super) fn obey(task: &mut Task, request: &Request, fx: &mut Effects) {
    // A partition that has seen nothing has no time of its own.
    let now = if task.now() == Millis::MIN { request.at } else { task.now() };
    let who = &request.entity;
    let until = request.until.unwrap_or(Millis::MAX);
    let mut dock = Dock::take(task, Key::standing(who), fx);
    let (_, incident_id) = task.state_of(&who.tenant);
    let incident_id: Option<Box<str>> = request.incident_id.clone().or_else(|| incident_id.map(Into::into));
    let action = match request.ask {
        Ask::Block(action) if until > now => {
            let claim = Claim {
                playbook: OPERATOR.into(),
                action,
                live: true,
                since: now,
                until,
                // Nobody's going on prolongs it.
                step_ms: 0,
                verdict_id: request.command_id.clone(),
                reason: request.reason.clone(),
                wide: true,
                actor: Some(request.actor.clone()),
            };
            dock.change(task, who, now, incident_id.as_deref(), fx, |standing| standing.ask(claim));
            action
        }
        Ask::Lift => {
            dock.change(task, who, now, incident_id.as_deref(), fx, |standing| standing.lift(until));
            Action::None
        }
        Ask::Block(_) | Ask::Watch | Ask::Recorded => Action::None,
    };
    dock.put(task);
    if let Some(incident_id) = incident_id {
        let asked = match request.ask {
            Ask::Block(_) => "BLOCK",
            Ask::Lift => "LIFT",
            Ask::Watch | Ask::Recorded => return,
        };
        let by = [("asked", asked), ("actor", &*request.actor), ("reason", &*request.reason)];
        details::action(&incident_id, &request.command_id, who, action, &by, [now, until], fx);
    }
}

/// What a person watches that this attempt touches: its address or range, its autonomous system, its account.
pub(super) fn touched(task: &Task, a: &Attempt) -> Option<(Entity, Found)> {
    let (set, now) = (task.watches(), task.now());
    if set.is_empty() {
        return None;
    }
    let by_asn = || set.covers_asn(&a.tenant, a.asn?, now);
    let by_account = || set.covers_account(&a.tenant, &a.account, now);
    let watch = set.covers_source(&a.tenant, a.source, now).or_else(by_asn).or_else(by_account)?;
    let who = Entity::source(&a.tenant, a.source);
    let found = Found {
        measures: BTreeMap::from([("touches".to_owned(), 1.0), ("touches.threshold".to_owned(), 1.0)]),
        explanation: format!(
            "{} touched {} {}, which {} watches: {}",
            who.value,
            watch.scope,
            shown(&watch.value),
            shown(watch.actor.as_deref().unwrap_or("somebody")),
            shown(&watch.reason),
        ),
        window_start: a.occurred_at,
        window_end: a.occurred_at.saturating_add(TOUCH_MS),
        contributions: BTreeMap::new(),
    };
    Some((who, found))
}

/// What people wrote, for a sentence.
fn shown(text: &str) -> String {
    text.chars().take(160).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
