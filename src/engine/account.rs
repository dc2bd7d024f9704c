//! The account stage: everything that is keyed by an account. Guessing from many sources, and who got in.

use super::dock::{Circumstances, Dock};
use super::env::Env;
use super::frame::{Fallen, Note, Sourced};
use super::held::Held;
use super::io::Effects;
use super::key::Key;
use super::row::{AccountRow, FamiliarRow, Row};
use super::source::{hear, tally};
use super::task::Task;
use crate::detect::{Measures, SuccessFacts, look, stranger_success};
use crate::event::{Entity, Millis, Scope};
use crate::topology::PlaybookMode;
use crate::window::{Heard, Timeliness, memory_ms};

pub(super) fn reads(env: &Env, tenant: &str, account: &str, keys: &mut Vec<Key>) {
    let hashed = env.account(tenant, account);
    keys.push(Key::account(tenant, hashed));
    keys.push(Key::familiar(tenant, hashed));
    keys.push(Key::standing_of(tenant, Scope::Account, account));
    keys.push(Key::partial(tenant));
}

/// An attempt on the account.
pub(super) fn sourced(task: &mut Task, env: &Env, sourced: &Sourced, fx: &mut Effects) {
    let a = &sourced.attempt;
    let timeliness = env.limits.timing.judge(a.delay_ms());
    let strange = a.is_failure() && !sourced.facts.known_pair && !sourced.repeat;
    // A name that belongs to nobody has no owner to protect, and attackers invent as many as they like.
    if strange && timeliness != Timeliness::Late && !a.is_unknown_account() {
        guessed(task, env, sourced, timeliness, fx);
    }
    if a.is_success() {
        let who = Entity::account(&a.tenant, &a.account);
        let mut familiar = familiar(task, env, &who);
        let facts = SuccessFacts {
            source: a.source,
            at: a.occurred_at,
            known_pair: sourced.facts.known_pair,
            blocked_by: sourced.facts.blocked_by.as_deref(),
            known_at: a.occurred_at,
            last_success: familiar.row.last.filter(|last| *last < a.occurred_at),
        };
        if !compromised(task, env, &who, &a.event_id, &facts, fx) {
            familiar.change().learn(a.occurred_at);
        }
        put_familiar(task, env, familiar);
    }
}

/// An earlier success, whose source is identified now: it is unlearnt, and judged again.
pub(super) fn note(task: &mut Task, env: &Env, note: &Note, fx: &mut Effects) {
    let who = Entity::account(&note.tenant, &note.account);
    let mut familiar = familiar(task, env, &who);
    if familiar.row.last.is_some_and(|last| last >= note.at) {
        familiar.change().unlearn(note.at);
    }
    let facts = SuccessFacts {
        source: note.source,
        at: note.at,
        known_pair: false,
        blocked_by: Some(&note.verdict_id),
        known_at: note.known_at,
        last_success: familiar.row.last,
    };
    put_familiar(task, env, familiar);
    compromised(task, env, &who, &note.event_id, &facts, fx);
}

/// Failures of strangers, over the account's windows.
fn guessed(task: &mut Task, env: &Env, sourced: &Sourced, timeliness: Timeliness, fx: &mut Effects) {
    let a = &sourced.attempt;
    let now = task.now();
    let windows = &env.plan.account_windows;
    let who = Entity::account(&a.tenant, &a.account);
    let mut account: Held<Box<AccountRow>> =
        Held::take(task, Key::account(&a.tenant, env.account(&a.tenant, &a.account)), Row::account);
    let heard = Heard { at: a.occurred_at, failed: true, account: None, source: Some(env.source(a.source)) };
    hear(&mut account.change().tallies, windows, heard);
    let circumstances = Circumstances::of(task, &a.tenant, a.arrived_at, timeliness);
    let cause = circumstances.cause(&a.event_id, a.occurred_at, task.exempt_entity(env, &who));
    let mut dock = Dock::take(task, Key::standing(&who), fx);
    for playbook in &env.plan.account {
        let measures = Measures { tally: tally(&account.row.tallies, playbook.over), ..Measures::default() };
        let look = || look(playbook, &measures, circumstances.state, &who.value);
        dock.ask(task, playbook, &who, &cause, fx, look);
    }
    dock.put(task);
    let kept = windows.iter().map(|over| memory_ms(*over, env.limits.timing.grace_ms)).max().unwrap_or(0);
    account.put(task, Row::Account, now.saturating_add(kept));
}

/// Judges a success; `true` when the account fell. However late it is known, it is said.
fn compromised(
    task: &mut Task,
    env: &Env,
    who: &Entity,
    event_id: &str,
    facts: &SuccessFacts<'_>,
    fx: &mut Effects,
) -> bool {
    let late_by = facts.known_at.saturating_sub(facts.at);
    let Some(found) = stranger_success(facts) else { return false };
    let circumstances = Circumstances::of(task, &who.tenant, task.now(), Timeliness::Fresh);
    let cause = circumstances.cause(event_id, facts.at, task.exempt_entity(env, who));
    let mut dock = Dock::take(task, Key::standing(who), fx);
    let mut newly = false;
    // The source's owner looked back from arrival to arrival; the success itself may have been on its way for a while.
    let grace = env.limits.timing.grace_ms;
    for playbook in env.plan.compromise.iter().filter(|p| late_by <= p.over.saturating_add(grace)) {
        let opened = dock.ask(task, playbook, who, &cause, fx, || Some(found.clone()));
        newly |= opened && playbook.mode == PlaybookMode::Live;
    }
    dock.put(task);
    if newly {
        let fallen = Fallen {
            account: who.value.clone(),
            source: facts.source,
            at: facts.at,
            flagged_at: task.now(),
            event_id: event_id.into(),
        };
        task.add_partial(env, &who.tenant, fx, |partial| partial.compromised.push(fallen));
    }
    true
}

fn familiar(task: &mut Task, env: &Env, who: &Entity) -> Held<FamiliarRow> {
    Held::take(task, Key::familiar(&who.tenant, env.account(&who.tenant, &who.value)), Row::familiar)
}

fn put_familiar(task: &mut Task, env: &Env, familiar: Held<FamiliarRow>) {
    let kept_to: Millis = task.now().saturating_add(env.limits.pair_memory_ms);
    familiar.put(task, Row::Familiar, kept_to);
}

impl FamiliarRow {
    fn learn(&mut self, at: Millis) {
        // Successes may come out of order; of two, the later one is the last.
        if self.last.is_none_or(|last| last <= at) {
            self.before = self.last.replace(at);
        }
    }

    /// Forgets what came with the flagged success of `at`, or since: who has entered logs in again.
    fn unlearn(&mut self, at: Millis) {
        self.last = self.before.take().filter(|before| *before < at);
    }
}
