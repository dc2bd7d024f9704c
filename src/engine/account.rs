//! The account stage: everything that is keyed by an account. Guessing from many sources, and who got in.

use super::details::{self, About, Part};
use super::dock::{Asked, Circumstances, Dock};
use super::env::Env;
use super::frame::{Fallen, Note, Sourced};
use super::held::Held;
use super::io::Effects;
use super::key::Key;
use super::row::{AccountRow, FamiliarRow, Row};
use super::task::Task;
use super::windows::{Counts, hear, kept_ms, tally};
use crate::detect::{Measures, SuccessFacts, look, stranger_success};
use crate::event::{Activity, DetailKind, Entity, Millis, Outcome, Scope};
use crate::topology::PlaybookMode;
use crate::window::Timeliness;

pub(super) fn reads(env: &Env, tenant: &str, account: &str, keys: &mut Vec<Key>) {
    let hashed = env.account(tenant, account);
    keys.push(Key::account(tenant, hashed));
    keys.push(Key::familiar(tenant, hashed));
    keys.push(Key::standing_of(tenant, Scope::Account, account));
    keys.push(Key::partial(tenant));
    keys.extend(env.plan.account.watches.iter().filter_map(|watch| Some(Key::cap(tenant, watch.capped()?))));
}

/// An attempt on the account.
pub(super) fn sourced(task: &mut Task, env: &Env, sourced: &Sourced, fx: &mut Effects) {
    let a = &sourced.attempt;
    let timeliness = env.limits.timing.judge(a.delay_ms());
    // A name that belongs to nobody has no owner to protect, and attackers invent as many as they like.
    if timeliness != Timeliness::Late && !sourced.repeat && !a.is_unknown_account() {
        let strange = !sourced.facts.known_pair;
        watch(task, env, sourced, Counts::of(a, a.is_failure() && strange, strange, &env.plan.account), timeliness, fx);
    }
    let mut fell = false;
    if a.is_success() {
        let who = Entity::account(&a.tenant, &a.account);
        let mut familiar = familiar(task, env, &who);
        let facts = SuccessFacts {
            source: a.source,
            at: a.occurred_at,
            known_pair: sourced.facts.known_pair,
            sign: sourced.facts.sign.as_ref(),
            known_at: a.occurred_at,
            last_success: familiar.row.last.filter(|last| *last < a.occurred_at),
        };
        fell = compromised(task, env, &who, &a.event_id, &facts, fx);
        if !fell {
            familiar.change().learn(a.occurred_at);
        }
        put_familiar(task, env, familiar);
    }
    detail(task, env, sourced, timeliness, fell, fx);
}

/// What the account was to an incident, and what an intruder does.
fn detail(task: &mut Task, env: &Env, sourced: &Sourced, timeliness: Timeliness, fell: bool, fx: &mut Effects) {
    let (a, is_strange) = (&sourced.attempt, !sourced.facts.known_pair);
    if timeliness != Timeliness::Late && a.activity == Activity::Login {
        let part = Part { fallen: fell.then_some(a.source), ..Part::of(a, is_strange, sourced.repeat) };
        let entered_from = || details::entered_from(a.source).into_iter().filter(|_| fell).collect();
        details::note(task, env, about(env, &a.tenant, &a.account, &a.account), part, entered_from, fx);
    }
    if is_strange {
        details::step(task, env, about(env, &a.tenant, &a.account, &a.account), a, fx);
    }
}

fn about<'a>(env: &Env, tenant: &'a str, account: &str, value: &'a dyn std::fmt::Display) -> About<'a> {
    About { tenant, kind: DetailKind::Target, who: env.account(tenant, account), value }
}

/// An earlier success that is identified now: it is unlearnt, and judged again.
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
        sign: Some(&note.sign),
        known_at: note.known_at,
        last_success: familiar.row.last,
    };
    put_familiar(task, env, familiar);
    if !compromised(task, env, &who, &note.event_id, &facts, fx) {
        return;
    }
    // That success is looked at again, so it is no further attempt.
    let part = Part { fallen: Some(note.source), ..Part::default() };
    details::note(
        task,
        env,
        about(env, &note.tenant, &note.account, &note.account),
        part,
        || details::entered_from(note.source),
        fx,
    );
    if let Some(incident_id) = &note.incident_id {
        let told = [
            ("source", Some(note.source.to_string())),
            ("outcome", Some(Outcome::Success.as_str().to_owned())),
            ("activity", Some(Activity::Login.as_str().to_owned())),
        ];
        details::trail(incident_id, (&note.event_id, &note.account), note.at, told, fx);
    }
}

/// Counts the attempt over the account's windows, where a playbook looks at such, and asks.
fn watch(task: &mut Task, env: &Env, sourced: &Sourced, counts: Counts, timeliness: Timeliness, fx: &mut Effects) {
    let (a, watched) = (&sourced.attempt, &env.plan.account);
    if !counts.count_for(watched) {
        return;
    }
    let now = task.now();
    let who = Entity::account(&a.tenant, &a.account);
    let hashed = env.account(&a.tenant, &a.account);
    let mut account: Held<Box<AccountRow>> = Held::take(task, Key::account(&a.tenant, hashed), Row::account);
    if hear(&mut account.change().tallies, watched, a, counts, &|set| env.member(set, a)) {
        let familiar = familiar(task, env, &who);
        let idle_for_ms = familiar.row.last.map(|last| a.occurred_at.saturating_sub(last));
        put_familiar(task, env, familiar);
        let circumstances = Circumstances::of(task, &a.tenant, a.arrived_at, timeliness);
        let cause = circumstances.cause(&a.event_id, a.occurred_at, task.exempt_entity(env, &who));
        let mut dock = Dock::take(task, Key::standing(&who), fx);
        for watch in counts.asks(watched, a) {
            let tally = tally(&account.row.tallies, watched, watch);
            let measures = Measures { tally, idle_for_ms, ..Measures::default() };
            let look = || look(&watch.playbook, &measures, circumstances.state, &who.value);
            let asked = Asked::watching(task, env, watch, env.limits.account_partitions);
            dock.ask(task, asked, &who, &cause, fx, look);
        }
        dock.put(task);
    }
    account.put(task, Row::Account, now.saturating_add(kept_ms(watched, env.limits.timing.grace_ms)));
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
        let opened = dock.ask(task, Asked::plainly(playbook), who, &cause, fx, || Some(found.clone()));
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
