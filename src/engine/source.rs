//! The source stage: everything that is keyed by an address. All attempts of a network meet here.
//!
//! For each attempt: is it a duplicate, is it late, is the pair known; count it for its source and its network; ask
//! the playbooks; pass it on with what is known of source and pair. When a source is identified, a note goes to the
//! owner of each account it entered lately.

use super::counts::Counter;
use super::env::Env;
use super::frame::{Item, Note, Partial, Sourced};
use super::io::{BlockChange, Effects, Output};
use super::key::Key;
use super::row::{ENTRIES_MAX, Entry, GOOD_MAX, GoodRow, NetworkRow, PairRow, Row, SourceRow, StandingRow};
use super::task::Task;
use crate::decide::{Case, Standing, decide};
use crate::detect::{Measures, SourceFacts, look};
use crate::event::{Activity, Attempt, AttackState, Entity, Millis, Outcome};
use crate::topology::{Playbook, Stage};
use crate::window::{Hashed, Heard, Sighting, Tally, Timeliness};

/// How long a source's entries are held for a note: the window of the compromise playbooks.
const ENTRY_MEMORY_MS: Millis = 15 * 60_000;
/// Most blocked addresses of one network that are remembered.
const BLOCKED_MAX: usize = 256;

pub(super) fn reads(env: &Env, a: &Attempt, keys: &mut Vec<Key>) {
    let network = a.source.network();
    keys.push(Key::source(&a.tenant, a.source));
    keys.push(Key::network(&a.tenant, network));
    keys.push(Key::good_source(&a.tenant, a.source));
    keys.push(Key::good_network(&a.tenant, network));
    keys.push(Key::standing(&Entity::source(&a.tenant, a.source)));
    keys.push(Key::standing(&Entity::network(&a.tenant, network)));
    keys.push(Key::partial(&a.tenant));
    if !a.account.is_empty() {
        let account = env.account(&a.tenant, &a.account);
        keys.push(Key::pair(&a.tenant, a.source, env.pair(a.source, account)));
    }
}

pub(super) fn attempt(task: &mut Task, env: &Env, a: Attempt, fx: &mut Effects) {
    let id = env.event_id(&a.tenant, a.source, &a.event_id);
    match task.seen.sight(id, content(env, &a), a.arrived_at) {
        Sighting::Duplicate => return fx.count(Counter::Duplicates),
        Sighting::Conflict => fx.count(Counter::ConflictingIds),
        Sighting::New => {}
    }
    let timeliness = env.limits.timing.judge(a.delay_ms());
    let checked = a.is_failure() || a.is_success();
    fx.count(match (timeliness, checked) {
        (Timeliness::Late, _) => Counter::Late,
        (Timeliness::Fresh | Timeliness::Stale, true) => Counter::Counted,
        (Timeliness::Fresh | Timeliness::Stale, false) => Counter::NotCounted,
    });
    if timeliness != Timeliness::Late {
        fx.counts.outcome(a.outcome);
    }
    let mut at = Scene::open(task, env, a, timeliness);
    at.hear(task, env);
    at.judge(task, env, fx);
    at.remember_success(task, env);
    at.tell_site(task, env, fx);
    at.pass_on(env, fx);
}

/// What makes two events with one id the same attempt.
fn content(env: &Env, a: &Attempt) -> u32 {
    env.content(&[
        a.account.as_bytes(),
        a.outcome.as_str().as_bytes(),
        a.failure_reason.as_str().as_bytes(),
        &a.occurred_at.to_be_bytes(),
        a.user_agent.as_deref().unwrap_or_default().as_bytes(),
    ])
}

/// One attempt with everything that is known of its source and pair.
struct Scene {
    a: Attempt,
    timeliness: Timeliness,
    state: AttackState,
    incident_id: Option<Box<str>>,
    account: Option<Hashed>,
    known_pair: bool,
    repeat: bool,
    /// A failure that counts against the source.
    counts: bool,
    source: SourceRow,
    network: NetworkRow,
    good_source: GoodRow,
    good_network: GoodRow,
    /// Entities newly restricted by this attempt, with the playbook.
    blocked: Vec<(Entity, Box<str>)>,
    /// The verdict that keeps the source out now.
    blocked_by: Option<Box<str>>,
}

macro_rules! take {
    ($task:expr, $key:expr, $kind:ident) => {
        match $task.view.take(&$key, $task.now()) {
            Some(Row::$kind(row)) => Some(row),
            Some(_) | None => None,
        }
    };
}

impl Scene {
    fn open(task: &mut Task, env: &Env, a: Attempt, timeliness: Timeliness) -> Scene {
        let now = task.now();
        let account = (!a.account.is_empty()).then(|| env.account(&a.tenant, &a.account));
        let known_pair = account.is_some_and(|account| {
            let key = Key::pair(&a.tenant, a.source, env.pair(a.source, account));
            matches!(task.view.get(&key, now), Some(Row::Pair(pair)) if pair.known_from <= now)
        });
        let (state, incident_id) = task.state_of(&a.tenant);
        let incident_id = incident_id.map(Into::into);
        let network = a.source.network();
        let mut source = take!(task, Key::source(&a.tenant, a.source), Source).map(|r| *r).unwrap_or_default();
        let repeat = a.is_failure() && account.is_some_and(|account| is_repeat(env, &mut source, &a, account));
        let blocked_by = blocked_by(task, &a);
        Scene {
            counts: a.is_failure() && !known_pair && !repeat && timeliness != Timeliness::Late,
            network: take!(task, Key::network(&a.tenant, network), Network).map(|r| *r).unwrap_or_default(),
            good_source: take!(task, Key::good_source(&a.tenant, a.source), Good).unwrap_or_default(),
            good_network: take!(task, Key::good_network(&a.tenant, network), Good).unwrap_or_default(),
            a,
            timeliness,
            state,
            incident_id,
            account,
            known_pair,
            repeat,
            source,
            blocked: Vec::new(),
            blocked_by,
        }
    }

    /// Counts the attempt for its source and its network. Known pairs are no strangers and count for nobody's share.
    fn hear(&mut self, task: &Task, env: &Env) {
        let checked = self.a.is_failure() || self.a.is_success();
        if !checked || self.known_pair || self.repeat || self.timeliness == Timeliness::Late {
            return;
        }
        let heard = Heard { at: self.a.occurred_at, failed: self.counts, account: self.account, source: None };
        hear(&mut self.source.tallies, &env.plan.address_windows, heard);
        let source = env.plan.network_sources.then(|| env.source(self.a.source));
        hear(&mut self.network.tallies, &env.plan.network_windows, Heard { source, ..heard });
        if self.a.is_success() {
            let now = task.now();
            self.source.entries.retain(|e| e.arrived_at.saturating_add(ENTRY_MEMORY_MS) > now);
            if self.source.entries.len() == ENTRIES_MAX {
                self.source.entries.remove(0);
            }
            self.source.entries.push(Entry {
                account: self.a.account.clone(),
                event_id: self.a.event_id.clone(),
                at: self.a.occurred_at,
                arrived_at: self.a.arrived_at,
            });
        }
    }

    /// Asks the playbooks about the source, then about its network.
    fn judge(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        let renews = self.a.is_stopped() && self.blocked_by.is_some();
        if !self.counts && !renews {
            return;
        }
        let who = Entity::source(&self.a.tenant, self.a.source);
        for playbook in &env.plan.address {
            let measures = Measures {
                totals: totals(&self.source.tallies, playbook.over),
                addresses_blocked: 0,
                good_accounts: self.good_source.count(task.now(), env.limits.good_age_ms),
            };
            if self.restrict(task, env, playbook, &measures, &who, fx) {
                self.source_identified(task, env, fx);
            }
        }
        let who = Entity::network(&self.a.tenant, self.a.source.network());
        let now = task.now();
        self.network.blocked.retain(|(_, until)| *until > now);
        for playbook in &env.plan.network {
            let measures = Measures {
                totals: totals(&self.network.tallies, playbook.over),
                addresses_blocked: self.network.blocked.len() as u64,
                good_accounts: self.good_network.count(now, 0),
            };
            self.restrict(task, env, playbook, &measures, &who, fx);
        }
    }

    /// One playbook about one entity; `true` when it is newly kept out.
    fn restrict(
        &mut self,
        task: &mut Task,
        env: &Env,
        playbook: &Playbook,
        measures: &Measures,
        who: &Entity,
        fx: &mut Effects,
    ) -> bool {
        let now = task.now();
        let key = Key::standing(who);
        let open = matches!(task.view.get(&key, now), Some(Row::Standing(row)) if row.standing.claim(&playbook.id, now).is_some());
        // What an edge stopped keeps an open claim alive and opens none.
        if !self.counts && !open {
            return false;
        }
        let found = look(playbook, measures, self.state, &who.value);
        let Some(found) = found else { return false };
        if !self.a.source.is_blockable() || task.exempt_entity(env, who) {
            fx.count(Counter::Spared);
            return false;
        }
        if self.timeliness != Timeliness::Fresh {
            fx.count(Counter::TooOldToEnforce);
            return false;
        }
        let mut row = match task.view.take(&key, now) {
            Some(Row::Standing(row)) => row,
            Some(_) | None => Box::new(StandingRow { entity: who.clone(), standing: Standing::default() }),
        };
        let case = Case {
            entity: who,
            occurred_at: self.a.occurred_at,
            event_id: &self.a.event_id,
            now,
            incident_id: self.incident_id.as_deref(),
        };
        let was_blocked = row.standing.blocked_by(now).is_some();
        let decision = decide(playbook, &found, &mut row.standing, &case);
        let newly = !was_blocked && row.standing.blocked_by(now).is_some();
        self.blocked_by = row.standing.blocked_by(now).map(|c| c.verdict_id.clone()).or(self.blocked_by.take());
        let forgotten = row.standing.forgotten_at();
        let until = row.standing.in_force(now).map(|c| c.until);
        task.view.put(key.clone(), Row::Standing(row), forgotten);
        if let Some(due) = decision.due {
            task.set_due(due, &key);
        }
        publish(decision, who, self.incident_id.as_deref(), fx);
        if newly {
            self.blocked.push((who.clone(), playbook.id.as_str().into()));
            if let (true, Some(until)) = (*who == Entity::source(&self.a.tenant, self.a.source), until) {
                self.network.blocked.retain(|(source, _)| *source != self.a.source);
                if self.network.blocked.len() < BLOCKED_MAX {
                    self.network.blocked.push((self.a.source, until));
                }
            }
        }
        newly
    }

    /// The source is identified: whoever it entered lately as a stranger must be looked at again.
    fn source_identified(&self, task: &Task, env: &Env, fx: &mut Effects) {
        let (Some(verdict_id), now) = (&self.blocked_by, task.now()) else { return };
        for entry in &self.source.entries {
            if entry.account.is_empty() || entry.arrived_at.saturating_add(ENTRY_MEMORY_MS) <= now {
                continue;
            }
            let note = Note {
                tenant: self.a.tenant.clone(),
                account: entry.account.clone(),
                source: self.a.source,
                event_id: entry.event_id.clone(),
                at: entry.at,
                verdict_id: verdict_id.clone(),
                known_at: now,
                incident_id: self.incident_id.clone(),
            };
            let route = env.route_account(&note.tenant, &note.account);
            fx.push(Output::Item { to: Stage::Account, route, item: Item::Note(note) });
        }
    }

    /// A success makes the pair known: at once in CALM, after a day otherwise, and never from a source that is kept
    /// out.
    fn remember_success(&mut self, task: &mut Task, env: &Env) {
        let now = task.now();
        if let (true, Some(account), None) = (self.a.is_success(), self.account, &self.blocked_by) {
            let calm = self.state == AttackState::Calm;
            let key = Key::pair(&self.a.tenant, self.a.source, env.pair(self.a.source, account));
            let before = match task.view.get(&key, now) {
                Some(Row::Pair(pair)) => Some(*pair),
                Some(_) | None => None,
            };
            let taught = if calm { now } else { now.saturating_add(env.limits.teach_delay_ms) };
            let known_from = before.map_or(taught, |pair| pair.known_from.min(taught));
            let expires = now.saturating_add(env.limits.pair_memory_ms);
            task.view.put(key, Row::Pair(PairRow { known_from, last_success: now }), expires);
            // Tolerance never rises during an attack.
            if calm && is_established(&self.a, now) {
                self.good_source.note(account, now, env.limits.pair_memory_ms);
                self.good_network.note(account, now, env.limits.pair_memory_ms);
            }
        }
        self.put_rows(task, env);
    }

    fn put_rows(&mut self, task: &mut Task, env: &Env) {
        let now = task.now();
        let network = self.a.source.network();
        let grace = env.limits.timing.grace_ms;
        let touched = self.a.is_failure() || self.a.is_success();
        let source = std::mem::take(&mut self.source);
        let network_row = std::mem::take(&mut self.network);
        let source_key = Key::source(&self.a.tenant, self.a.source);
        let network_key = Key::network(&self.a.tenant, network);
        if touched {
            let ends = source.tallies.iter().map(Tally::ends_at).max().unwrap_or(now);
            let ends = ends.max(now.saturating_add(ENTRY_MEMORY_MS)).saturating_add(grace);
            task.view.put(source_key, Row::Source(Box::new(source)), ends);
            let blocked_to = network_row.blocked.iter().map(|(_, until)| *until).max().unwrap_or(now);
            let ends = network_row.tallies.iter().map(Tally::ends_at).max().unwrap_or(now).max(blocked_to);
            task.view.put(network_key, Row::Network(Box::new(network_row)), ends.saturating_add(grace));
        } else {
            task.view.put_back(&source_key, Row::Source(Box::new(source)));
            task.view.put_back(&network_key, Row::Network(Box::new(network_row)));
        }
        let memory = now.saturating_add(env.limits.pair_memory_ms);
        let taught = self.a.is_success() && self.state == AttackState::Calm;
        for (key, row) in [
            (Key::good_source(&self.a.tenant, self.a.source), std::mem::take(&mut self.good_source)),
            (Key::good_network(&self.a.tenant, network), std::mem::take(&mut self.good_network)),
        ] {
            if taught && !row.accounts.is_empty() {
                task.view.put(key, Row::Good(row), memory);
            } else if !row.accounts.is_empty() {
                task.view.put_back(&key, Row::Good(row));
            }
        }
    }

    fn tell_site(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        if self.timeliness == Timeliness::Late || self.a.activity != Activity::Login {
            return;
        }
        let source = env.source(self.a.source);
        let blocked = std::mem::take(&mut self.blocked);
        let (a, account, counts) = (&self.a, self.account, self.counts);
        task.add_partial(env, &a.tenant, fx, |partial| {
            match a.outcome {
                Outcome::Success => partial.attempts += 1,
                Outcome::Failure if a.is_failure() => partial.attempts += 1,
                Outcome::Blocked | Outcome::Challenged => partial.stopped += a.count,
                Outcome::Failure | Outcome::Unknown => {}
            }
            if counts || a.is_stopped() {
                remember(&mut partial.sources, source);
                account.into_iter().for_each(|account| remember(&mut partial.accounts, account));
            }
            if counts {
                partial.failures += 1;
                if a.is_unknown_account() {
                    partial.unknown += 1;
                    account.into_iter().for_each(|account| remember(&mut partial.unknown_accounts, account));
                }
            }
            partial.blocked.extend(blocked);
        });
    }

    /// To the owner of the account, with what is known here.
    fn pass_on(self, env: &Env, fx: &mut Effects) {
        let outlived = self.timeliness == Timeliness::Late && !self.a.is_success();
        if self.a.account.is_empty() || outlived {
            return;
        }
        let route = env.route_account(&self.a.tenant, &self.a.account);
        let facts = SourceFacts { known_pair: self.known_pair, blocked_by: self.blocked_by };
        let sourced = Sourced { attempt: self.a, facts, repeat: self.repeat };
        fx.push(Output::Item { to: Stage::Account, route, item: Item::Sourced(Box::new(sourced)) });
    }
}

impl GoodRow {
    /// Accounts that have been good for at least `age_ms`.
    fn count(&self, now: Millis, age_ms: Millis) -> u64 {
        self.accounts.iter().filter(|(_, first, _)| first.saturating_add(age_ms) <= now).count() as u64
    }

    fn note(&mut self, account: Hashed, now: Millis, memory_ms: Millis) {
        self.accounts.retain(|(_, _, last)| last.saturating_add(memory_ms) > now);
        if let Some((_, _, last)) = self.accounts.iter_mut().find(|(held, _, _)| *held == account) {
            *last = now;
        } else if self.accounts.len() < GOOD_MAX {
            self.accounts.push((account, now, now));
        }
    }
}

/// An account younger than two weeks may be the attacker's own.
fn is_established(a: &Attempt, now: Millis) -> bool {
    const AGE_MS: Millis = 14 * 86_400_000;
    a.account_created_at.is_none_or(|at| at.saturating_add(AGE_MS) <= now)
}

/// Equal tags of one pair count once; without a tag, equal (pair, minute).
fn is_repeat(env: &Env, row: &mut SourceRow, a: &Attempt, account: Hashed) -> bool {
    let print = match a.password_tag {
        Some(tag) => env.repeat(account, &tag.to_be_bytes()),
        None => env.repeat(account, &a.occurred_at.div_euclid(60_000).to_be_bytes()),
    };
    row.repeats.is_repeat(print)
}

fn blocked_by(task: &Task, a: &Attempt) -> Option<Box<str>> {
    let now = task.now();
    [Entity::source(&a.tenant, a.source), Entity::network(&a.tenant, a.source.network())].iter().find_map(|who| {
        match task.view.get(&Key::standing(who), now) {
            Some(Row::Standing(row)) => row.standing.blocked_by(now).map(|c| c.verdict_id.clone()),
            Some(_) | None => None,
        }
    })
}

/// Counts into each window, keeping only those that the playbooks ask for.
pub(super) fn hear(tallies: &mut Vec<Tally>, windows: &[Millis], heard: Heard) {
    tallies.retain(|tally| windows.contains(&tally.over_ms()));
    for over in windows {
        match tallies.iter_mut().find(|tally| tally.over_ms() == *over) {
            Some(tally) => {
                tally.hear(heard);
            }
            None => {
                let mut tally = Tally::new(*over);
                tally.hear(heard);
                tallies.push(tally);
            }
        }
    }
}

pub(super) fn totals(tallies: &[Tally], over: Millis) -> crate::window::Totals {
    tallies.iter().find(|t| t.over_ms() == over).map(Tally::totals).unwrap_or_default()
}

/// What a decision publishes.
pub(super) fn publish(decision: crate::decide::Decision, who: &Entity, incident: Option<&str>, fx: &mut Effects) {
    if let Some(verdict) = decision.verdict {
        fx.count(match verdict.mode {
            crate::event::Mode::Live => Counter::Verdicts,
            crate::event::Mode::Shadow => Counter::ShadowVerdicts,
        });
        fx.push(Output::Verdict(verdict));
    }
    if let Some(change) = decision.change {
        fx.push(Output::Block(BlockChange {
            entity: who.clone(),
            change,
            cause: "lifted",
            incident_id: incident.map(Into::into),
        }));
    }
}

fn remember(list: &mut Vec<Hashed>, value: Hashed) {
    if list.len() < Partial::ATTEMPTS_MAX as usize && !list.contains(&value) {
        list.push(value);
    }
}

