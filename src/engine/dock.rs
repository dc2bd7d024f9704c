//! What stands against one entity, in hand for one attempt: the only place where a standing changes.
//!
//! Taking it lets end what has ended, so what is published does not depend on whether the due index or an attempt
//! came first.

use std::collections::BTreeMap;

use super::counts::Counter;
use super::details;
use super::env::Env;
use super::io::{BlockChange, Effects, Output};
use super::key::Key;
use super::row::{Row, StandingRow};
use super::task::Task;
use crate::decide::{
    Case, Change, Claim, Decision, Manner, Standing, decide, is_news, is_over, is_settled, verdict_id,
};
use crate::detect::Found;
use crate::event::{Action, AttackState, Entity, Millis, Mode, Severity, Verdict};
use crate::topology::{Cap, Playbook, Watch};
use crate::window::Timeliness;

/// How long playbooks are kept off an entity with which good people were refused.
const ROLLED_BACK_MS: Millis = 3_600_000;

/// What is the same for every entity that an attempt touches.
#[derive(Debug)]
pub(super) struct Circumstances {
    pub(super) state: AttackState,
    pub(super) incident_id: Option<Box<str>>,
    /// When the attempt arrived.
    arrived_at: Millis,
    /// An attempt that arrived too late to act upon opens and prolongs nothing.
    is_fresh: bool,
}

impl Circumstances {
    pub(super) fn of(task: &Task, tenant: &str, arrived_at: Millis, timeliness: Timeliness) -> Self {
        let (state, incident_id) = task.state_of(tenant);
        let is_fresh = timeliness == Timeliness::Fresh;
        Circumstances { state, incident_id: incident_id.map(Into::into), arrived_at, is_fresh }
    }

    /// The cause that an attempt is for judging an entity, which an exemption or the address itself may protect.
    pub(super) fn cause<'a>(&'a self, event_id: &'a str, occurred_at: Millis, is_spared: bool) -> Cause<'a> {
        let incident_id = self.incident_id.as_deref();
        Cause { event_id, occurred_at, arrived_at: self.arrived_at, incident_id, is_fresh: self.is_fresh, is_spared }
    }
}

/// The attempt in whose course an entity is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause<'a> {
    event_id: &'a str,
    /// Event time.
    occurred_at: Millis,
    arrived_at: Millis,
    incident_id: Option<&'a str>,
    is_fresh: bool,
    is_spared: bool,
}

/// A playbook that is asked, and how it may speak.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    playbook: &'a Playbook,
    /// `None`: not at all.
    manner: Option<Manner>,
    cap: Option<Cap>,
}

impl<'a> Asked<'a> {
    /// As it says itself.
    pub(super) fn plainly(playbook: &'a Playbook) -> Asked<'a> {
        Asked { playbook, manner: Manner::of(playbook), cap: None }
    }

    /// One that watches a window. Until its window was kept for its whole length it would judge by a part, so until then it
    /// says what it would do and that it is warming. `tasks`: how many share its cap.
    pub(super) fn watching(task: &Task, env: &Env, watch: &'a Watch, tasks: u32) -> Asked<'a> {
        let playbook = &watch.playbook;
        let since = if env.limits.warms_up { watch.since.max(task.began()) } else { watch.since };
        let is_warming = since > Millis::MIN && task.now().saturating_sub(since) < playbook.over;
        let manner = Manner::of(playbook)
            .map(|manner| if is_warming && manner.mode == Mode::Live { Manner::shadow("warming") } else { manner });
        let share = |cap: Cap| Cap { entities: cap.entities.div_ceil(tasks.max(1)), ..cap };
        Asked { playbook, manner, cap: playbook.then.cap.map(share) }
    }
}

/// What a block does to people who belong where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Harm<'a> {
    pub(super) claim: &'a Claim,
    pub(super) playbook_version: i32,
    /// Accounts that were refused.
    pub(super) hurt: usize,
}

/// A standing in hand.
#[derive(Debug)]
pub(super) struct Dock {
    key: Key,
    row: Option<Box<StandingRow>>,
    is_changed: bool,
}

impl Dock {
    /// Takes the standing under `key`, as [`Key::standing`] made it.
    pub(super) fn take(task: &mut Task, key: Key, fx: &mut Effects) -> Dock {
        let now = task.now();
        let row = task.view.take(&key, now).and_then(Row::standing);
        let mut dock = Dock { key, row, is_changed: false };
        dock.let_end(now, fx);
        dock
    }

    /// Ends what ended by `now`.
    pub(super) fn let_end(&mut self, now: Millis, fx: &mut Effects) {
        let Some(row) = &mut self.row else { return };
        if row.standing.next_end().is_none_or(|end| end > now) {
            return;
        }
        self.is_changed = true;
        for change in row.standing.let_end(now) {
            publish_change(change, &row.entity, "expired", None, fx);
        }
    }

    /// The claim that keeps the entity out now.
    pub(super) fn blocked_by(&self, now: Millis) -> Option<&Claim> {
        self.row.as_ref()?.standing.blocked_by(now)
    }

    /// Asks one playbook; `true` when it opened an episode. `look` is called only when its answer matters.
    pub(super) fn ask(
        &mut self,
        task: &mut Task,
        asked: Asked<'_>,
        who: &Entity,
        cause: &Cause<'_>,
        fx: &mut Effects,
        look: impl FnOnce() -> Option<Found>,
    ) -> bool {
        let now = task.now();
        let playbook = asked.playbook;
        let Some(mut manner) = asked.manner else { return false };
        let nothing = Standing::default();
        let standing = self.row.as_ref().map_or(&nothing, |row| &row.standing);
        if is_settled(playbook, manner, standing, now) {
            return false;
        }
        let Some(found) = look() else { return false };
        if cause.is_spared {
            fx.count(Counter::Spared);
            return false;
        }
        let held_back = if task.is_switched_off(&who.tenant) {
            Some("kill_switch")
        } else {
            task.is_withdrawn(&who.tenant, &playbook.id).then_some("withdrawn")
        };
        if let Some(because) = held_back.filter(|_| manner.mode == Mode::Live) {
            manner = Manner::shadow(because);
            if is_settled(playbook, manner, standing, now) {
                return false;
            }
        }
        if !cause.is_fresh || is_over(playbook, cause.arrived_at, now) {
            fx.count(Counter::TooOldToEnforce);
            return false;
        }
        let is_capped = manner.mode == Mode::Live && is_news(playbook, manner, standing, now);
        if let Some(cap) = asked.cap.filter(|_| is_capped) {
            if !task.is_below_cap(&who.tenant, &playbook.id, cap) {
                manner = Manner::shadow("capped");
                fx.count(Counter::Capped);
                if is_settled(playbook, manner, standing, now) {
                    return false;
                }
            } else {
                task.count_for_cap(&who.tenant, &playbook.id, cap);
            }
        }
        let row = self.row.get_or_insert_with(|| Box::new(StandingRow { entity: who.clone(), standing: nothing }));
        let case = Case {
            entity: who,
            occurred_at: cause.occurred_at,
            event_id: cause.event_id,
            arrived_at: cause.arrived_at,
            now,
            incident_id: cause.incident_id,
        };
        let decision = decide(playbook, manner, &found, &mut row.standing, &case);
        self.is_changed = true;
        if let Some(due) = decision.due {
            task.set_due(due, &self.key);
        }
        let opened = decision.verdict.is_some();
        publish(decision, who, cause.incident_id, fx);
        opened
    }

    /// What a person asks for.
    pub(super) fn change(
        &mut self,
        task: &mut Task,
        who: &Entity,
        now: Millis,
        incident_id: Option<&str>,
        fx: &mut Effects,
        change: impl FnOnce(&mut Standing),
    ) {
        let row = self
            .row
            .get_or_insert_with(|| Box::new(StandingRow { entity: who.clone(), standing: Standing::default() }));
        change(&mut row.standing);
        self.is_changed = true;
        if let Some(change) = row.standing.settle(now) {
            publish_change(change, who, "lifted", incident_id, fx);
        }
        if let Some(due) = row.standing.next_end() {
            task.set_due(due, &self.key);
        }
    }

    /// Keeps playbooks off an entity with which good accounts were refused, and says so.
    pub(super) fn roll_back(
        &mut self,
        task: &mut Task,
        who: &Entity,
        harm: &Harm<'_>,
        cause: &Cause<'_>,
        fx: &mut Effects,
    ) {
        let until = cause.arrived_at.saturating_add(ROLLED_BACK_MS);
        fx.count(Counter::RolledBack);
        let Harm { claim, playbook_version, hurt } = *harm;
        let measures = BTreeMap::from([
            ("known_users_refused".to_owned(), hurt as f64),
            ("known_users_refused.threshold".to_owned(), hurt as f64),
        ]);
        fx.verdict(Box::new(Verdict {
            verdict_id: verdict_id(who, "collateral", cause.event_id, cause.occurred_at),
            tenant: who.tenant.to_string(),
            occurred_at: cause.occurred_at,
            playbook: claim.playbook.to_string(),
            playbook_version,
            mode: Mode::Live,
            finding: "collateral".to_owned(),
            severity: Severity::Medium,
            confidence: 1.0,
            scope: who.scope,
            value: who.value.to_string(),
            action: Action::None,
            until: Some(until),
            window_start: claim.since,
            window_end: cause.arrived_at,
            measures,
            explanation: format!(
                "{}: {hurt} accounts that had logged in from there for a day or longer were refused; it is lifted, and \
                 playbooks are kept off it for an hour.",
                who.value
            ),
            contributions: BTreeMap::new(),
            related: Vec::new(),
            evidence: vec![cause.event_id.to_owned()],
            tags: Vec::new(),
            incident_id: cause.incident_id.map(str::to_owned),
        }));
        self.change(task, who, task.now(), cause.incident_id, fx, |standing| standing.keep_off(until));
    }

    /// What an edge stopped keeps alive what stands against the entity, and opens nothing.
    pub(super) fn renew(&mut self, task: &mut Task, cause: &Cause<'_>, fx: &mut Effects) {
        let now = task.now();
        let Some(row) = &mut self.row else { return };
        if cause.is_spared || !cause.is_fresh || !row.standing.prolong(now, cause.arrived_at, |claim| claim.live) {
            return;
        }
        self.is_changed = true;
        if let Some(change) = row.standing.settle(now) {
            publish_change(change, &row.entity, "lifted", cause.incident_id, fx);
        }
        if let Some(due) = row.standing.next_end() {
            task.set_due(due, &self.key);
        }
    }

    /// Drops what withdrawn playbooks want.
    fn withdraw(&mut self, task: &Task, fx: &mut Effects) {
        let Some(row) = &mut self.row else { return };
        let before = row.standing.clone();
        let tenant = &row.entity.tenant;
        row.standing.withdraw(|playbook| task.is_withdrawn(tenant, playbook));
        if row.standing != before {
            self.is_changed = true;
            if let Some(change) = row.standing.settle(task.now()) {
                publish_change(change, &row.entity, "withdrawn", None, fx);
            }
        }
    }

    /// Puts it back, and writes it if it has changed.
    pub(super) fn put(self, task: &mut Task) {
        let Some(row) = self.row else { return };
        if self.is_changed {
            let forgotten_at = row.standing.forgotten_at();
            task.view.put(self.key, Row::Standing(row), forgotten_at);
        } else {
            task.view.put_back(&self.key, Row::Standing(row));
        }
    }
}

/// A claim has ended: the next one shows, or the entry is lifted.
pub(super) fn due(task: &mut Task, key: &Key, at: Millis, fx: &mut Effects) {
    let mut dock = Dock::take(task, key.clone(), fx);
    dock.let_end(at, fx);
    dock.withdraw(task, fx);
    let next = dock.row.as_ref().and_then(|row| row.standing.next_end());
    dock.put(task);
    if let Some(next) = next {
        task.set_due(next, key);
    }
}

/// What a decision publishes.
fn publish(decision: Decision, who: &Entity, incident_id: Option<&str>, fx: &mut Effects) {
    if let Some(verdict) = decision.verdict {
        if let Some(incident_id) = incident_id.filter(|_| verdict.mode == Mode::Live) {
            let by = [("playbook", verdict.playbook.as_str())];
            let at = [verdict.occurred_at, verdict.until.unwrap_or(verdict.occurred_at)];
            details::action(incident_id, &verdict.verdict_id, who, verdict.action, &by, at, fx);
        }
        fx.verdict(verdict);
    }
    if let Some(change) = decision.change {
        publish_change(change, who, "lifted", incident_id, fx);
    }
}

fn publish_change(change: Change, who: &Entity, cause: &'static str, incident_id: Option<&str>, fx: &mut Effects) {
    fx.count(match &change {
        Change::Put { shown, .. } if shown.action == Action::Block => Counter::Blocks,
        Change::Put { .. } => Counter::Restrictions,
        Change::Lift { .. } => Counter::Lifts,
    });
    let incident_id = incident_id.map(Into::into);
    fx.push(Output::Block(BlockChange { entity: who.clone(), change, cause, incident_id }));
}
