//! The playbooks in effect at a task: those of the folder, and what its input has told of the topic `playbooks` since.
//!
//! The plan is compiled when the set changes, never for an attempt. That is when a change is heard, and when stream time
//! passes the end of an override; both follow from the input, so a replay has the same plan at every input.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::env::Env;
use super::io::{Became, ControlChange, PlaybookNews};
use super::row::PlaybooksRow;
use crate::event::Millis;
use crate::topology::{Applied, OVERRIDE, PlaybookChange, PlaybookSet};

/// What a task has heard of playbooks.
#[derive(Debug)]
pub(super) struct Playbooks {
    /// What the process started from.
    start: Arc<Env>,
    set: PlaybookSet,
    pub(super) row: PlaybooksRow,
    /// The next end of an override.
    until: Millis,
    /// Changes that do not go with the others now.
    left_out: BTreeMap<Box<str>, String>,
    /// The plan became another one since somebody asked.
    has_turned: bool,
}

impl Playbooks {
    /// From the rows of a task, at its stream time; with the environment of its own.
    pub(super) fn open(
        start: &Arc<Env>,
        row: PlaybooksRow,
        changes: Vec<ControlChange>,
        now: Millis,
    ) -> (Playbooks, Arc<Env>) {
        let mut set = PlaybookSet::new(Arc::clone(&start.playbooks), start.plan.clone());
        for change in changes {
            if let ControlChange::Playbook { version, key, change: Some(change) } = change {
                // It was taken once. Should it not read any more, it is as if it did not go with the others.
                drop(set.restore(&key, version, &change));
            }
        }
        let mut playbooks = Playbooks {
            start: Arc::clone(start),
            set,
            row,
            until: Millis::MAX,
            left_out: BTreeMap::new(),
            has_turned: false,
        };
        // A copy of its own, so that no other thread counts who holds it.
        let mut env = Env::clone(start);
        if playbooks.set.held().next().is_some() {
            let effective = playbooks.set.effective(now);
            playbooks.until = effective.until;
            playbooks.left_out = effective.left_out.into_iter().collect();
            env.plan = effective.plan;
            env.plan.begin(&playbooks.row.since);
        }
        (playbooks, Arc::new(env))
    }

    pub(super) const fn start(&self) -> &Arc<Env> {
        &self.start
    }

    /// Whether a change is news.
    pub(super) const fn is_news(&self, version: i64) -> bool {
        version > self.row.heard
    }

    /// Hears the next change of the topic.
    ///
    /// # Errors
    /// It is not taken, and why.
    pub(super) fn hear(&mut self, version: i64, key: &str, change: Option<&PlaybookChange>) -> Result<Applied, String> {
        self.row.heard = version;
        self.set.apply(key, version, change)
    }

    /// Whether an override ends by this time.
    pub(super) const fn ends_by(&self, now: Millis) -> bool {
        self.until <= now
    }

    /// The environment for the set in effect at `now`, and what came of it. What it keeps and `env` does not begins now.
    pub(super) fn turn(&mut self, env: &Env, now: Millis) -> (Arc<Env>, Vec<PlaybookNews>) {
        let mut effective = self.set.effective(now);
        let before = env.plan.kept();
        let kept = effective.plan.kept();
        self.row.since.retain(|name, _| kept.contains(name));
        self.row.since.extend(kept.difference(&before).map(|name| (name.clone(), now)));
        effective.plan.begin(&self.row.since);
        let left_out: BTreeMap<Box<str>, String> = effective.left_out.into_iter().collect();
        let newly = left_out.iter().filter(|(key, _)| !self.left_out.contains_key(*key));
        let left = newly.map(|(key, why)| (key.clone(), Became::LeftOut(why.clone())));
        let was_until = self.until;
        let is_over = |end: Option<Millis>| end.is_some_and(|end| was_until <= end && end <= now);
        let over = self.set.held().filter(|(key, held)| key.ends_with(OVERRIDE) && is_over(held.expires_at));
        let over = over.map(|(key, _)| (key.into(), Became::Ended));
        let offset = |key: &str| self.set.held().find(|(held, _)| *held == key).map_or(-1, |(_, held)| held.offset);
        let news = left.chain(over).map(|(key, became)| PlaybookNews { offset: offset(&key), key, became }).collect();
        self.until = effective.until;
        self.left_out = left_out;
        self.has_turned = true;
        (Arc::new(Env { plan: effective.plan, ..env.clone() }), news)
    }

    /// Who, why and until when, of a change that was taken.
    pub(super) fn describe(&self, key: &str) -> String {
        self.set.held().find(|(held, _)| *held == key).map(|(_, held)| held.describe()).unwrap_or_default()
    }

    /// Whether the plan became another one since this was asked the last time.
    pub(super) fn has_turned(&mut self) -> bool {
        std::mem::take(&mut self.has_turned)
    }
}
