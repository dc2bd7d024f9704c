//! The account stage: everything that is keyed by an account. Guessing from many sources, and who got in.

use super::env::Env;
use super::frame::{Fallen, Note, Sourced};
use super::io::Effects;
use super::key::Key;
use super::row::{AccountRow, FamiliarRow, Row, StandingRow};
use super::source::{hear, publish, totals};
use super::task::Task;
use crate::decide::{Case, Standing, decide};
use crate::detect::{Found, Measures, SuccessFacts, look, stranger_success};
use crate::event::{Entity, Millis, Source};
use crate::topology::Playbook;
use crate::window::{Heard, Tally, Timeliness};

pub(super) fn reads(env: &Env, tenant: &str, account: &str, keys: &mut Vec<Key>) {
    let hashed = env.account(tenant, account);
    keys.push(Key::account(tenant, hashed));
    keys.push(Key::familiar(tenant, hashed));
    keys.push(Key::standing(&Entity::account(tenant, account)));
    keys.push(Key::partial(tenant));
}

/// An attempt on the account.
pub(super) fn sourced(task: &mut Task, env: &Env, sourced: &Sourced, fx: &mut Effects) {
    let a = &sourced.attempt;
    let timeliness = env.limits.timing.judge(a.delay_ms());
    let strange = a.is_failure() && !sourced.facts.known_pair && !sourced.repeat;
    if strange && timeliness != Timeliness::Late {
        guessed(task, env, sourced, timeliness, fx);
    }
    if a.is_success() {
        let who = Entity::account(&a.tenant, &a.account);
        let facts = SuccessFacts {
            source: a.source,
            at: a.occurred_at,
            known_pair: sourced.facts.known_pair,
            blocked_by: sourced.facts.blocked_by.as_deref(),
            known_at: a.occurred_at,
        };
        let fell = compromised(task, env, &who, &a.event_id, &facts, fx);
        if !fell {
            let row = FamiliarRow { last_success: task.now(), last_facts: sourced.facts.clone() };
            let key = Key::familiar(&a.tenant, env.account(&a.tenant, &a.account));
            let expires = task.now().saturating_add(env.limits.pair_memory_ms);
            task.view.put(key, Row::Familiar(row), expires);
        }
    }
}

/// An earlier success, whose source is identified now.
pub(super) fn note(task: &mut Task, env: &Env, note: &Note, fx: &mut Effects) {
    let who = Entity::account(&note.tenant, &note.account);
    let facts = SuccessFacts {
        source: note.source,
        at: note.at,
        known_pair: false,
        blocked_by: Some(&note.verdict_id),
        known_at: note.known_at,
    };
    compromised(task, env, &who, &note.event_id, &facts, fx);
}

/// Failures of strangers, over the account's windows.
fn guessed(task: &mut Task, env: &Env, sourced: &Sourced, timeliness: Timeliness, fx: &mut Effects) {
    let a = &sourced.attempt;
    let now = task.now();
    let key = Key::account(&a.tenant, env.account(&a.tenant, &a.account));
    let mut row = match task.view.take(&key, now) {
        Some(Row::Account(row)) => row,
        Some(_) | None => Box::new(AccountRow::default()),
    };
    let source = Some(env.source(a.source));
    let heard = Heard { at: a.occurred_at, failed: true, account: None, source };
    hear(&mut row.tallies, &env.plan.account_windows, heard);
    let who = Entity::account(&a.tenant, &a.account);
    // An attempt that is too old to act upon counts and decides nothing.
    if timeliness == Timeliness::Fresh {
        let state = task.state_of(&a.tenant).0;
        for playbook in &env.plan.account {
            let measures = Measures { totals: totals(&row.tallies, playbook.over), ..Measures::default() };
            if let Some(found) = look(playbook, &measures, state, &who.value) {
                restrict(task, env, playbook, &found, &who, &a.event_id, a.occurred_at, fx);
            }
        }
    }
    let ends = row.tallies.iter().map(Tally::ends_at).max().unwrap_or(now);
    task.view.put(key, Row::Account(row), ends.saturating_add(env.limits.timing.grace_ms));
}

/// Judges a success; `true` when the account fell.
fn compromised(
    task: &mut Task,
    env: &Env,
    who: &Entity,
    event_id: &str,
    facts: &SuccessFacts<'_>,
    fx: &mut Effects,
) -> bool {
    let mut fell = false;
    for playbook in &env.plan.compromise {
        if let Some(found) = stranger_success(facts) {
            let new = restrict(task, env, playbook, &found, who, event_id, facts.at, fx);
            fell = true;
            if new {
                tell_site(task, env, who, facts.source, facts.at, event_id, fx);
            }
        }
    }
    fell
}

fn tell_site(task: &mut Task, env: &Env, who: &Entity, source: Source, at: Millis, event_id: &str, fx: &mut Effects) {
    let flagged_at = task.now();
    let fallen = Fallen { account: who.value.clone(), source, at, flagged_at, event_id: event_id.into() };
    task.add_partial(env, &who.tenant, fx, |partial| partial.compromised.push(fallen));
}

/// One playbook about one account; `true` when it opened an episode.
#[expect(clippy::too_many_arguments, reason = "the parts of one verdict, each of its own type")]
fn restrict(
    task: &mut Task,
    env: &Env,
    playbook: &Playbook,
    found: &Found,
    who: &Entity,
    event_id: &str,
    occurred_at: Millis,
    fx: &mut Effects,
) -> bool {
    if task.exempt_entity(env, who) {
        fx.count(super::Counter::Spared);
        return false;
    }
    let now = task.now();
    let key = Key::standing(who);
    let mut row = match task.view.take(&key, now) {
        Some(Row::Standing(row)) => row,
        Some(_) | None => Box::new(StandingRow { entity: who.clone(), standing: Standing::default() }),
    };
    let incident: Option<Box<str>> = task.state_of(&who.tenant).1.map(Into::into);
    let case = Case { entity: who, occurred_at, event_id, now, incident_id: incident.as_deref() };
    let decision = decide(playbook, found, &mut row.standing, &case);
    let opened = decision.verdict.is_some();
    let forgotten = row.standing.forgotten_at();
    task.view.put(key.clone(), Row::Standing(row), forgotten);
    if let Some(due) = decision.due {
        task.set_due(due, &key);
    }
    publish(decision, who, incident.as_deref(), fx);
    opened
}
