//! What logins teach about a source: which pairs are known, and how many good accounts stand behind it.

use super::env::Env;
use super::io::{Effects, Output};
use super::key::Key;
use super::known::{KnownPair, day_of};
use super::row::{GOOD_MAX, GoodRow, PairRow, Row};
use super::task::Task;
use crate::event::{Attempt, Millis};
use crate::window::Hashed;

/// An account younger than two weeks may be the attacker's own.
const ESTABLISHED_MS: Millis = 14 * 86_400_000;
/// How exactly it is remembered when a good account was last there: it is forgotten after weeks.
const NOTED_EVERY_MS: Millis = 3_600_000;

/// The pair of this source and this account, when it is known: it logged in before, and that was neither flagged nor in
/// the midst of an attack.
pub(super) fn known_pair_of(task: &Task, env: &Env, a: &Attempt, account: Hashed) -> Option<PairRow> {
    let now = task.now();
    let key = Key::pair(&a.tenant, a.source, env.pair(a.source, account));
    match task.view.get(&key, now) {
        Some(Row::Pair(pair)) if pair.known_from <= now => Some(*pair),
        Some(_) | None => None,
    }
}

/// A success makes the pair known: at once in CALM, after a day otherwise. `true` when the account counts as a good one as
/// well: tolerance never rises during an attack, and never by an account that may be the attacker's own.
pub(super) fn learn_pair(
    task: &mut Task,
    env: &Env,
    a: &Attempt,
    account: Hashed,
    calm: bool,
    fx: &mut Effects,
) -> bool {
    let now = task.now();
    let key = Key::pair(&a.tenant, a.source, env.pair(a.source, account));
    let held = match task.view.get(&key, now) {
        Some(Row::Pair(pair)) => Some(*pair),
        Some(_) | None => None,
    };
    let taught = if calm { now } else { now.saturating_add(env.limits.teach_delay_ms) };
    let known_from = held.map_or(taught, |pair| pair.known_from.min(taught));
    // Whether it logged in twice within a part of `success_once_ms` says nothing to anybody, and costs a write.
    let part = |at: Millis| at.div_euclid(env.plan.success_once_ms);
    if held.is_none_or(|pair| pair.known_from != known_from || part(pair.last_success) != part(now)) {
        let row = Row::Pair(PairRow { known_from, last_success: now });
        task.view.put(key, row, now.saturating_add(env.limits.pair_memory_ms));
        let told = held.filter(|pair| pair.known_from <= pair.last_success).map(|pair| day_of(pair.last_success));
        if known_from <= now && told != Some(day_of(now)) {
            fx.outputs.extend(KnownPair::learnt(&env.hash_key, a, now).map(Output::KnownPair));
        }
    }
    calm && a.account_created_at.is_none_or(|at| at.saturating_add(ESTABLISHED_MS) <= now)
}

/// Takes back what an entry taught of its pair. It was a stranger's, so the pair is known from it or not at all, and its
/// row goes without having been read.
pub(super) fn unlearn_pair(task: &mut Task, env: &Env, a: &Attempt, account: Hashed) {
    task.view.remove(Key::pair(&a.tenant, a.source, env.pair(a.source, account)));
}

impl GoodRow {
    /// Good accounts that have been known for at least `age_ms`.
    pub(super) fn count(&self, now: Millis, age_ms: Millis) -> u64 {
        self.accounts.iter().filter(|(_, first, _)| first.saturating_add(age_ms) <= now).count() as u64
    }

    /// Whether [`GoodRow::note`] would change anything that matters: of successes within an hour, one is enough.
    pub(super) fn wants(&self, account: Hashed, now: Millis) -> bool {
        match self.accounts.iter().find(|(held, _, _)| *held == account) {
            Some((_, _, last)) => now.saturating_sub(*last) >= NOTED_EVERY_MS,
            None => {
                self.accounts.len() < GOOD_MAX
                    || self.accounts.iter().any(|(_, _, last)| last.saturating_add(NOTED_EVERY_MS) < now)
            }
        }
    }

    pub(super) fn note(&mut self, account: Hashed, now: Millis, memory_ms: Millis) {
        self.accounts.retain(|(_, _, last)| last.saturating_add(memory_ms) > now);
        if let Some((_, _, last)) = self.accounts.iter_mut().find(|(held, _, _)| *held == account) {
            *last = now;
        } else if self.accounts.len() < GOOD_MAX {
            self.accounts.push((account, now, now));
        }
    }

    /// Whether [`GoodRow::forget`] would take something away.
    pub(super) fn holds_since(&self, account: Hashed, since: Millis) -> bool {
        self.accounts.iter().any(|(held, first, _)| *held == account && *first >= since)
    }

    /// Forgets an account that counts as good only since a success that turned out otherwise.
    pub(super) fn forget(&mut self, account: Hashed, since: Millis) {
        self.accounts.retain(|(held, first, _)| *held != account || *first < since);
    }

    /// Until when it is remembered: from the last success on.
    pub(super) fn kept_to(&self, memory_ms: Millis) -> Millis {
        self.accounts.iter().map(|(_, _, last)| last.saturating_add(memory_ms)).max().unwrap_or(Millis::MIN)
    }
}
