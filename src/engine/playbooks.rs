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
    /// The plan became another one, and whoever reads rows ahead does not know it yet.
    pub(super) has_turned: bool,
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
        // What was taken back has left windows that began when it went.
        if playbooks.row != PlaybooksRow::default() {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Limits;
    use crate::topology::{Exemptions, Plan, Playbook};
    use crate::window::HashKey;

    const NOW: Millis = 1_800_000_000_000;
    const MINUTE: Millis = 60_000;

    fn text(id: &str, version: i32, over: &str) -> String {
        format!(
            "id: {id}\nversion: {version}\nowner: us\ndescription: of a test\nmode: live\nfinding: account_fanout\n\
             per: address\nover: {over}\ntrigger: {{accounts_failed: {{at_least: {}}}}}\n\
             then: {{action: BLOCK, ladder: [15m]}}\n",
            version + 2
        )
    }

    fn start() -> Arc<Env> {
        let playbooks = [Playbook::parse(&text("a", 1, "10m")).unwrap()];
        Arc::new(Env {
            plan: Plan::compile(&playbooks).unwrap(),
            playbooks: playbooks.into(),
            exemptions: Arc::new(Exemptions::default()),
            hash_key: HashKey::new([7; 16]),
            limits: Limits::default(),
            tenants: Vec::new(),
        })
    }

    fn change(version: i64, key: &str, text: &str, lasting: Option<Millis>) -> ControlChange {
        let expires_at = lasting.map(|ms| NOW + ms);
        let change =
            PlaybookChange { text: text.into(), actor: "ann".into(), reason: "a test".into(), at: NOW, expires_at };
        ControlChange::Playbook { version, key: key.into(), change: Some(change) }
    }

    fn hear(playbooks: &mut Playbooks, change: &ControlChange) {
        if let ControlChange::Playbook { version, key, change } = change {
            assert!(playbooks.hear(*version, key, change.as_ref()).unwrap().is_changed);
        }
    }

    /// What is young, as `id since`.
    fn young(env: &Env) -> Vec<String> {
        let watches = env.plan.address.watches.iter().filter(|watch| watch.since > Millis::MIN);
        watches.map(|watch| format!("{} {}", watch.playbook.id, watch.since - NOW)).collect()
    }

    #[test]
    fn only_what_is_looked_at_anew_is_young_and_stays_so_over_a_restart() {
        let start = start();
        let (mut playbooks, env) = Playbooks::open(&start, PlaybooksRow::default(), Vec::new(), NOW);
        assert!(young(&env).is_empty());
        // Another bound over the same window, and one that shares it.
        let changes = [
            change(0, "a", &text("a", 2, "10m"), None),
            change(1, "b", &text("b", 1, "10m"), None),
            change(2, "c", &text("c", 1, "20m"), None),
            change(3, "a#override", &text("a", 3, "5m"), Some(30 * MINUTE)),
        ];
        hear(&mut playbooks, &changes[0]);
        hear(&mut playbooks, &changes[1]);
        let (env, _) = playbooks.turn(&env, NOW + 1);
        assert!(young(&env).is_empty());
        hear(&mut playbooks, &changes[2]);
        let (env, _) = playbooks.turn(&env, NOW + 2);
        assert_eq!(young(&env), ["c 2"]);
        hear(&mut playbooks, &changes[3]);
        let (env, _) = playbooks.turn(&env, NOW + 3);
        assert_eq!(young(&env), ["a 3", "c 2"]);

        let (mut opened, own) = Playbooks::open(&start, playbooks.row.clone(), changes.to_vec(), NOW + MINUTE);
        assert_eq!(format!("{:?}", own.plan), format!("{:?}", env.plan));
        for (playbooks, env) in [(&mut playbooks, &env), (&mut opened, &own)] {
            assert!(!playbooks.ends_by(NOW + 30 * MINUTE - 1) && playbooks.ends_by(NOW + 30 * MINUTE));
            let (env, news) = playbooks.turn(env, NOW + 30 * MINUTE);
            assert_eq!((news.len(), news[0].offset, &news[0].became), (1, 3, &Became::Ended));
            // What was kept below the override is as old as ever.
            assert_eq!(young(&env), ["c 2"]);
        }
        assert_eq!(opened.row, playbooks.row);
        assert!(!opened.is_news(3) && opened.is_news(4));
    }

    #[test]
    fn what_was_let_go_and_comes_back_is_young() {
        let start = start();
        let (mut playbooks, env) = Playbooks::open(&start, PlaybooksRow::default(), Vec::new(), NOW);
        hear(&mut playbooks, &change(0, "a", &text("a", 2, "20m"), None));
        let (env, _) = playbooks.turn(&env, NOW + 1);
        assert_eq!(young(&env), ["a 1"]);
        assert!(playbooks.hear(1, "a", None).unwrap().is_changed);
        let (env, _) = playbooks.turn(&env, NOW + 2);
        assert_eq!(young(&env), ["a 2"]);
        let (_, opened) = Playbooks::open(&start, playbooks.row.clone(), Vec::new(), NOW + 3);
        assert_eq!(young(&opened), ["a 2"]);
    }
}
