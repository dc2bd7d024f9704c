//! What logins teach about a source: which pairs are known, and how many good accounts stand behind it.

use super::env::Env;
use super::held::Held;
use super::key::Key;
use super::row::{Entry, GOOD_MAX, GoodRow, PairRow, Row};
use super::task::Task;
use crate::event::{Attempt, Millis};
use crate::window::Hashed;

/// An account younger than two weeks may be the attacker's own.
const ESTABLISHED_MS: Millis = 14 * 86_400_000;

/// The good accounts behind one source and in its network, in hand for one attempt.
#[derive(Debug)]
pub(super) struct Memory {
    source: Held<GoodRow>,
    network: Held<GoodRow>,
}

impl Memory {
    pub(super) fn take(task: &mut Task, a: &Attempt) -> Memory {
        Memory {
            source: Held::take(task, Key::good_source(&a.tenant, a.source), Row::good),
            network: Held::take(task, Key::good_network(&a.tenant, a.source.network()), Row::good),
        }
    }

    /// The pair of this source and this account, when it is known: it logged in before, and that was neither flagged
    /// nor in the midst of an attack.
    pub(super) fn known_pair(task: &Task, env: &Env, a: &Attempt, account: Hashed) -> Option<PairRow> {
        let now = task.now();
        let key = Key::pair(&a.tenant, a.source, env.pair(a.source, account));
        match task.view.get(&key, now) {
            Some(Row::Pair(pair)) if pair.known_from <= now => Some(*pair),
            Some(_) | None => None,
        }
    }

    /// Good accounts that have been known behind the source for at least `age_ms`.
    pub(super) fn good_behind_source(&self, now: Millis, age_ms: Millis) -> u64 {
        self.source.row.count(now, age_ms)
    }

    /// Good accounts seen anywhere in the network, however lately.
    pub(super) fn good_in_network(&self, now: Millis) -> u64 {
        self.network.row.count(now, 0)
    }

    /// A success makes the pair known: at once in CALM, after a day otherwise.
    pub(super) fn learn(&mut self, task: &mut Task, env: &Env, a: &Attempt, account: Hashed, calm: bool) {
        let now = task.now();
        let memory_ms = env.limits.pair_memory_ms;
        let key = Key::pair(&a.tenant, a.source, env.pair(a.source, account));
        let known_from = match task.view.get(&key, now) {
            Some(Row::Pair(pair)) => Some(pair.known_from),
            Some(_) | None => None,
        };
        let taught = if calm { now } else { now.saturating_add(env.limits.teach_delay_ms) };
        let known_from = known_from.map_or(taught, |before| before.min(taught));
        let row = Row::Pair(PairRow { known_from, last_success: now });
        task.view.put(key, row, now.saturating_add(memory_ms));
        // Tolerance never rises during an attack.
        let established = a.account_created_at.is_none_or(|at| at.saturating_add(ESTABLISHED_MS) <= now);
        if calm && established {
            self.source.change().note(account, now, memory_ms);
            self.network.change().note(account, now, memory_ms);
        }
    }

    /// Takes back what an entry taught. It was a stranger's, so the pair is known from it or not at all, and its row
    /// goes without having been read.
    pub(super) fn unlearn(&mut self, task: &mut Task, env: &Env, a: &Attempt, entry: &Entry) {
        let account = env.account(&a.tenant, &entry.account);
        task.view.remove(Key::pair(&a.tenant, a.source, env.pair(a.source, account)));
        for good in [&mut self.source, &mut self.network] {
            let taught = |(held, first, _): &(Hashed, Millis, Millis)| *held == account && *first >= entry.arrived_at;
            if good.row.accounts.iter().any(taught) {
                good.change().accounts.retain(|held| !taught(held));
            }
        }
    }

    pub(super) fn put(self, task: &mut Task, env: &Env) {
        let kept_to = task.now().saturating_add(env.limits.pair_memory_ms);
        self.source.put(task, Row::Good, kept_to);
        self.network.put(task, Row::Good, kept_to);
    }
}

impl GoodRow {
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
