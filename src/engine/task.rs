//! One partition of one stage: its rows in hand, its due index, its control, its clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::counts::Counter;
use super::entrances::{self, Entrance};
use super::env::Env;
use super::frame::{Mark, Partial};
use super::io::{Became, ControlChange, Effects, Input, Output, PlaybookNews, StatusChange};
use super::key::{Key, Kind};
use super::playbooks::Playbooks;
use super::row::{CapRow, ClockRow, PlaybooksRow, Row};
use super::view::View;
use super::{account, details, device, dock, intake, orders, site, source, traits};
use crate::event::{AttackState, Entity, Exemption, Millis, Scope, Source, split_key};
use crate::topology::{Cap, Exemptions, PlaybookChange, Stage};
use crate::window::{Lately, Seen, Slices, Trace, slice_width};

/// Most due rows fed at a time.
pub const DUE_MAX: usize = 1_000;
/// Kinds of rows that a task holds in hand from its opening: the store gives them all to [`Task::open`].
pub const SINGLETONS: [Kind; 7] =
    [Kind::Clock, Kind::Control, Kind::Playbooks, Kind::Seen, Kind::Traces, Kind::Entrances, Kind::Due];

/// A changed row: key, and its bytes or `None` for a removal.
pub type Write = (Key, Option<Vec<u8>>);

/// One partition of one stage.
#[derive(Debug)]
pub struct Task {
    stage: Stage,
    /// Of its own: its plan is that of the playbooks in effect.
    env: Arc<Env>,
    playbooks: Playbooks,
    /// Of all tasks, this one says which changes of playbooks are not taken.
    is_spokesman: bool,
    pub(super) view: View,
    pub(super) seen: Seen,
    pub(super) traces: Lately<Trace>,
    pub(super) entrances: Lately<Entrance>,
    pub(super) clock: ClockRow,
    clock_changed: bool,
    due: BTreeSet<(Millis, Key)>,
    statuses: BTreeMap<Box<str>, StatusChange>,
    exemptions: Exemptions,
    /// Whom people watch, kept as exemptions are.
    watches: Exemptions,
    /// Version of each entry of control.
    versions: BTreeMap<String, i64>,
    /// Tenants with sums that were not sent yet.
    pub(super) partials: BTreeSet<Box<str>>,
    /// An incident became known since [`Task::turn_to`] was called, whose lines were not read.
    has_new_incident: bool,
}

impl Task {
    /// A task without a store: its rows live and die with it.
    pub(super) fn in_memory(stage: Stage, env: &Arc<Env>) -> Self {
        Task { view: View::whole(), ..Task::open(stage, Vec::new(), env).speaking(stage == Stage::Site) }
    }

    /// The same task over other rows of its [`SINGLETONS`].
    #[must_use]
    pub fn reopened(&self, rows: Vec<(Key, Row)>) -> Self {
        Task::open(self.stage, rows, self.playbooks.start()).speaking(self.is_spokesman)
    }

    /// Makes it the one that says which changes of playbooks are not taken: all tasks hear the same, and one is enough.
    #[must_use]
    pub fn speaking(self, is_spokesman: bool) -> Self {
        Task { is_spokesman, ..self }
    }

    /// A task over the rows of its [`SINGLETONS`].
    #[must_use]
    pub fn open(stage: Stage, rows: Vec<(Key, Row)>, env: &Arc<Env>) -> Self {
        let (playbooks, own) = Playbooks::open(env, PlaybooksRow::default(), Vec::new(), Millis::MIN);
        let mut task = Task {
            stage,
            env: own,
            playbooks,
            is_spokesman: false,
            view: View::default(),
            seen: Seen::default(),
            traces: Lately::default(),
            entrances: Lately::default(),
            clock: ClockRow::default(),
            clock_changed: false,
            due: BTreeSet::new(),
            statuses: BTreeMap::new(),
            exemptions: Exemptions::default(),
            watches: Exemptions::default(),
            versions: BTreeMap::new(),
            partials: BTreeSet::new(),
            has_new_incident: false,
        };
        let mut packs = Vec::new();
        let mut traces = Vec::new();
        let mut entrances = Vec::new();
        let mut changes = Vec::new();
        let mut heard = PlaybooksRow::default();
        for (key, row) in rows {
            match row {
                Row::Clock(row) => task.clock = row,
                Row::Control(change) if matches!(*change, ControlChange::Playbook { .. }) => changes.push(*change),
                Row::Playbooks(row) => heard = *row,
                // What was refused when it came is refused again; it was counted then.
                Row::Control(change) => drop(task.apply(&change)),
                Row::Seen(pack) => packs.extend(key.as_seen().map(|number| (number, pack))),
                Row::Traces(pack) => traces.extend(key.as_traces().map(|number| (number, pack))),
                Row::Entrances(pack) => entrances.extend(key.as_entrances().map(|number| (number, pack))),
                Row::Due => task.due.extend(key.as_due()),
                Row::Partial(_)
                | Row::Source(_)
                | Row::Network(_)
                | Row::Pair(_)
                | Row::Standing(_)
                | Row::Account(_)
                | Row::Familiar(_)
                | Row::Traffic(_)
                | Row::Cap(_)
                | Row::Usual(_)
                | Row::Values(_)
                | Row::Detail(_)
                | Row::Site(_) => {}
            }
        }
        // A partial falls due with its second, so the due index names the tenants that have one.
        let waiting = task.due.iter().filter(|(_, what)| what.kind_byte() == Kind::Partial as u8);
        task.partials = waiting.filter_map(|(_, what)| tenant_of(what)).collect();
        packs.sort_by_key(|(number, _)| *number);
        task.seen = Seen::from_packs(packs);
        task.traces = Lately::from_packs(traces);
        task.entrances = Lately::from_packs(entrances);
        (task.playbooks, task.env) = Playbooks::open(env, heard, changes, task.now());
        task
    }

    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Stream time: the highest arrival seen.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.clock.clock.now()
    }

    /// Stream time when the state began.
    #[must_use]
    pub(super) const fn began(&self) -> Millis {
        self.clock.began
    }

    /// Whether a playbook may newly restrict one more of a tenant's entities.
    pub(super) fn is_below_cap(&self, tenant: &str, playbook: &str, cap: Cap) -> bool {
        let now = self.now();
        match self.view.get(&Key::cap(tenant, playbook), now) {
            Some(Row::Cap(row)) if row.restricted.width_ms() == slice_width(cap.within) => {
                let [restricted] = row.restricted.sums(row.restricted.slice_of(now));
                restricted < u64::from(cap.entities)
            }
            Some(_) | None => true,
        }
    }

    /// Remembers that a playbook newly restricted somebody.
    pub(super) fn count_for_cap(&mut self, tenant: &str, playbook: &str, cap: Cap) {
        let now = self.now();
        let key = Key::cap(tenant, playbook);
        let held = self.view.take(&key, now).and_then(Row::cap);
        let held = held.filter(|row| row.restricted.width_ms() == slice_width(cap.within));
        let mut row = held.unwrap_or_else(|| CapRow { restricted: Slices::new(cap.within) });
        row.restricted.add(now, [1]);
        self.view.put(key, Row::Cap(row), now.saturating_add(2 * cap.within));
    }

    /// The rows that a step on this input may touch.
    pub fn reads(&self, input: &Input<'_>, keys: &mut Vec<Key>) {
        let env = &*self.env;
        match input {
            Input::Attempt(attempt) => {
                source::reads(env, attempt, keys);
                details::reads(self, env, &attempt.tenant, env.source(attempt.source), keys);
            }
            Input::Sourced(sourced) => self.reads_of_account(&sourced.attempt.tenant, &sourced.attempt.account, keys),
            Input::Device(sourced) => device::reads(env, &sourced.attempt, keys),
            Input::Note(note) => self.reads_of_account(&note.tenant, &note.account, keys),
            Input::Partial(partial) => {
                site::reads(partial, keys);
                traits::reads(env, partial, keys);
            }
            Input::Due(_, what) => {
                keys.push(what.clone());
                entrances::reads(self, what, keys);
            }
            Input::Request(request) => orders::reads(request, keys),
            // Sums that wait go out with the mark.
            Input::Mark(mark) => {
                keys.extend(self.partials.iter().map(|tenant| Key::partial(tenant)));
                // And those of a tenant of which an incident becomes known say whom strangers entered before.
                let opened = mark.changes.iter().filter_map(|change| self.opened_by(change));
                keys.extend(opened.map(|(tenant, ..)| Key::partial(&tenant)));
            }
            Input::Raw(_) | Input::Control(_) | Input::Tick(_) => {}
        }
    }

    fn reads_of_account(&self, tenant: &str, account: &str, keys: &mut Vec<Key>) {
        account::reads(&self.env, tenant, account, keys);
        details::reads(self, &self.env, tenant, self.env.account(tenant, account), keys);
    }

    /// Rows in hand; the loop loads into it what `reads` named.
    pub fn view_mut(&mut self) -> &mut View {
        &mut self.view
    }

    /// Whether the plan is another one for the input that comes next, or became one by an input since
    /// [`Task::turn_to`] was called, or an incident became known since: then what was read for inputs ahead may not be all that they touch.
    #[must_use]
    pub fn turns_at(&self, input: &Input<'_>) -> bool {
        self.playbooks.has_turned
            || self.has_new_incident
            || input.at().is_some_and(|at| self.playbooks.ends_by(at.max(self.now())))
    }

    /// Brings the plan to the time of the input that comes next.
    pub fn turn_to(&mut self, input: &Input<'_>, fx: &mut Effects) {
        if let Some(at) = input.at() {
            self.end_overrides(at.max(self.now()), fx);
        }
        self.playbooks.has_turned = false;
        self.has_new_incident = false;
    }

    /// One step. Deterministic in the input and the rows.
    pub fn step(&mut self, input: Input<'_>, fx: &mut Effects) {
        if let Some(at) = input.at() {
            self.end_overrides(at.max(self.now()), fx);
        }
        // It stays the same for the whole step, though a mark may bring the next one.
        let env = &*Arc::clone(&self.env);
        match input {
            Input::Raw(raw) => {
                self.clock_changed = true;
                intake::raw(env, &mut self.clock, &raw, fx);
            }
            Input::Tick(at) => {
                self.clock_changed = true;
                intake::tick(&mut self.clock, at, fx);
            }
            Input::Control(change) => intake::control(env, &self.clock, change, fx),
            Input::Request(request) => orders::obey(self, &request, fx),
            Input::Attempt(attempt) => {
                self.advance(attempt.arrived_at);
                source::attempt(self, env, *attempt, fx);
            }
            Input::Sourced(sourced) => {
                self.advance(sourced.attempt.arrived_at);
                account::sourced(self, env, &sourced, fx);
            }
            Input::Device(sourced) => {
                self.advance(sourced.attempt.arrived_at);
                device::sourced(self, env, &sourced, fx);
            }
            Input::Note(note) => {
                self.advance(note.known_at);
                account::note(self, env, &note, fx);
            }
            Input::Partial(partial) => {
                self.advance(partial.at);
                site::partial(self, env, &partial, fx);
                traits::partial(self, env, &partial, fx);
            }
            Input::Mark(mark) => self.mark(env, mark, fx),
            Input::Due(at, what) => self.fall_due(env, at, what, fx),
        }
    }

    fn advance(&mut self, at: Millis) {
        self.clock.clock.advance(at);
        if self.clock.began == 0 {
            self.clock.began = at;
        }
        self.clock_changed = true;
    }

    /// The plan without the overrides that have ended by this time.
    fn end_overrides(&mut self, now: Millis, fx: &mut Effects) {
        if self.playbooks.ends_by(now) {
            self.turn_plan(now, fx);
        }
    }

    fn turn_plan(&mut self, now: Millis, fx: &mut Effects) {
        let (env, news) = self.playbooks.turn(&self.env, now);
        self.env = env;
        self.put_playbooks_row();
        fx.outputs.extend(news.into_iter().map(Output::Playbook));
    }

    fn put_playbooks_row(&mut self) {
        self.view.put(Key::playbooks(), Row::Playbooks(Box::new(self.playbooks.row.clone())), Millis::MAX);
    }

    /// Hears a change of a playbook; `true` when it is taken and changes something.
    fn hear_playbook(&mut self, version: i64, key: &str, change: Option<&PlaybookChange>, fx: &mut Effects) -> bool {
        let name = |key: &str| Key::control(&ControlChange::playbook_name(key));
        let heard = self.playbooks.hear(version, key, change);
        self.put_playbooks_row();
        let mut tell = |became| {
            fx.push(Output::Playbook(PlaybookNews { key: key.into(), offset: version, became }));
        };
        let applied = match heard {
            Ok(applied) => applied,
            Err(why) => {
                if self.is_spokesman {
                    tell(Became::Rejected(why));
                    fx.count(Counter::PlaybooksRejected);
                }
                return false;
            }
        };
        for key in &applied.ended {
            self.view.remove(name(key));
        }
        if !applied.is_changed {
            return false;
        }
        match change {
            Some(change) => {
                tell(Became::InEffect(self.playbooks.describe(key)));
                let change = ControlChange::Playbook { version, key: key.into(), change: Some(change.clone()) };
                self.view.put(name(key), Row::Control(Box::new(change)), Millis::MAX);
            }
            None => {
                tell(Became::Removed);
                self.view.remove(name(key));
            }
        }
        true
    }

    /// Time and control: applied here and passed on.
    fn mark(&mut self, env: &Env, mark: Mark, fx: &mut Effects) {
        self.advance(mark.at);
        let mut news = Vec::new();
        let mut has_new_playbooks = false;
        for change in mark.changes {
            if let ControlChange::Playbook { version, key, change: playbook } = &change {
                // Its topic has one partition, and whoever sends on its changes does so in their order.
                if self.playbooks.is_news(*version) {
                    has_new_playbooks |= self.hear_playbook(*version, key, playbook.as_ref(), fx);
                    news.push(change);
                }
                continue;
            }
            // Of two versions the higher one holds, whatever way they came.
            if self.versions.get(&change.name()).is_some_and(|known| *known >= change.version()) {
                continue;
            }
            let opened = self.opened_by(&change);
            let shown_up = entrances::shown_up(self, &change);
            let withdraws = self.withdraws(&change);
            if self.apply(&change).is_err() {
                fx.count(Counter::RefusedControl);
            }
            if let Some(tenant) = withdraws {
                self.look_at_standings(&tenant);
            }
            let now = self.now();
            shown_up.iter().for_each(|entrance| self.set_due(now, entrance));
            if let Some((tenant, incident_id, since)) = opened {
                self.has_new_incident = true;
                details::look_back(self, env, &tenant, &incident_id, since, fx);
                entrances::tell_site(self, env, &tenant, since, fx);
            }
            self.view.put(Key::control(&change.name()), Row::Control(Box::new(change.clone())), Millis::MAX);
            news.push(change);
        }
        if has_new_playbooks {
            self.turn_plan(self.now(), fx);
        }
        self.flush_partials(env, fx);
        let now = self.now();
        let passes_on = self.stage == Stage::Source;
        if passes_on && (!news.is_empty() || now.saturating_sub(self.clock.marked_at) >= 1_000) {
            self.clock.marked_at = now;
            // The site makes the status itself, and restricts nobody who could be exempt but the tenant as a whole.
            let is_of_site = |change: &&ControlChange| match change {
                ControlChange::Playbook { .. } => true,
                // Its kill switch.
                ControlChange::Exemption { key, .. } => is_of_tenant(key),
                ControlChange::Status { .. } | ControlChange::Watch { .. } | ControlChange::Command { .. } => false,
            };
            let of_site = news.iter().filter(is_of_site).cloned().collect();
            fx.push(Output::MarkAll { to: Stage::Account, mark: Mark { at: now, changes: news } });
            fx.push(Output::MarkAll { to: Stage::Site, mark: Mark { at: now, changes: of_site } });
        }
    }

    /// The tenant for which a change withdraws a playbook that was not withdrawn before.
    fn withdraws(&self, change: &ControlChange) -> Option<Box<str>> {
        let ControlChange::Status { tenant, status: Some(status), .. } = change else { return None };
        let is_news = status.withdrawn.iter().any(|(of, _)| !self.is_withdrawn(tenant, of));
        is_news.then(|| tenant.clone())
    }

    /// Whatever stands against anybody of a tenant falls due now: something of it may not hold any more. All that can end
    /// is in the due index already.
    fn look_at_standings(&mut self, tenant: &str) {
        let now = self.now();
        let is_standing = |what: &Key| what.kind_byte() == Kind::Standing as u8;
        let theirs = self.due.iter().map(|(_, what)| what).filter(|what| is_standing(what));
        let theirs: BTreeSet<Key> = theirs.filter(|what| tenant_of(what).as_deref() == Some(tenant)).cloned().collect();
        for what in theirs {
            self.set_due(now, &what);
        }
    }

    /// The incident of a tenant that becomes known by a change, and when it began.
    fn opened_by(&self, change: &ControlChange) -> Option<(Box<str>, Box<str>, Millis)> {
        let ControlChange::Status { tenant, status: Some(status), .. } = change else { return None };
        let incident_id = status.incident_id.clone()?;
        let is_new = self.told_incident(tenant) != Some(&*incident_id);
        is_new.then(|| (tenant.clone(), incident_id, status.since))
    }

    /// # Errors
    /// An exemption that cannot be used, or one too many; the list is what it was.
    fn apply(&mut self, change: &ControlChange) -> Result<(), String> {
        self.versions.insert(change.name(), change.version());
        match change {
            ControlChange::Status { tenant, status: Some(status), .. } => {
                self.statuses.insert(tenant.clone(), status.clone());
            }
            ControlChange::Status { tenant, status: None, .. } => {
                self.statuses.remove(tenant);
            }
            ControlChange::Exemption { key, exemption, .. } => {
                self.exemptions.apply(key, exemption.clone())?;
            }
            ControlChange::Watch { key, watch, .. } => {
                self.watches.forget_ended(self.now());
                if watch.is_some() && self.watches.len() >= orders::WATCHES_MAX {
                    return Err(format!("{} entities are watched, the most that are", orders::WATCHES_MAX));
                }
                self.watches.apply(key, watch.clone())?;
            }
            // Intake sent it to its owner.
            ControlChange::Command { .. } => {}
            // Heard by itself.
            ControlChange::Playbook { .. } => {}
        }
        Ok(())
    }

    /// What the marks told last of a tenant's status, expired or not.
    pub(super) fn told_status(&self, tenant: &str) -> Option<&StatusChange> {
        self.statuses.get(tenant)
    }

    /// A tenant's status as the marks told it; `None` when there is none or it has expired, so that a silent detector fails
    /// open.
    pub(super) fn status_of(&self, tenant: &str) -> Option<&StatusChange> {
        self.statuses.get(tenant).filter(|status| status.expires_at > self.now())
    }

    /// The incident of a tenant that the marks told of last, expired or not.
    pub(super) fn told_incident(&self, tenant: &str) -> Option<&str> {
        self.statuses.get(tenant)?.incident_id.as_deref()
    }

    /// A tenant's state as the marks told it; CALM once it has expired.
    pub(super) fn state_of(&self, tenant: &str) -> (AttackState, Option<&str>) {
        let status = self.status_of(tenant);
        status.map_or((AttackState::Calm, None), |status| (status.state, status.incident_id.as_deref()))
    }

    /// Whether a tenant's kill switch is thrown: nothing restricts anybody there.
    pub(super) fn is_switched_off(&self, tenant: &str) -> bool {
        let now = self.now();
        [&self.env.exemptions, &self.exemptions].into_iter().any(|set| set.covers_tenant(tenant, now).is_some())
    }

    /// Whether a playbook is withdrawn for a tenant: it did harm there.
    pub(super) fn is_withdrawn(&self, tenant: &str, playbook: &str) -> bool {
        let now = self.now();
        let status = self.statuses.get(tenant);
        status.is_some_and(|s| s.withdrawn.iter().any(|(of, until)| **of == *playbook && *until > now))
    }

    /// Whom people watch.
    pub(super) const fn watches(&self) -> &Exemptions {
        &self.watches
    }

    /// Whether somebody asked that this source never be restricted.
    pub(super) fn exempt_source<'a>(&'a self, env: &'a Env, tenant: &str, source: Source) -> Option<&'a Exemption> {
        let now = self.now();
        env.exemptions.covers_source(tenant, source, now).or_else(|| self.exemptions.covers_source(tenant, source, now))
    }

    /// Whether restricting this entity would touch somebody who is exempt.
    pub(super) fn exempt_entity(&self, env: &Env, entity: &Entity) -> bool {
        let now = self.now();
        [&env.exemptions, &self.exemptions]
            .into_iter()
            .any(|set| set.covers_entity(entity, now).is_some() || set.overlaps(entity, now))
    }

    /// Remembers that something falls due.
    pub(super) fn set_due(&mut self, at: Millis, what: &Key) {
        if self.due.insert((at, what.clone())) {
            self.view.put(Key::due(at, what), Row::Due, Millis::MAX);
        }
    }

    /// When something falls due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether nothing falls due before this.
    #[must_use]
    pub fn is_due_next(&self, at: Millis, what: &Key) -> bool {
        self.due.first().is_some_and(|(first, key)| *first == at && key == what)
    }

    /// What must come before an input: everything due by the stream time that it brings, or that the task has reached
    /// already; oldest first, at most [`DUE_MAX`], so it is asked for until there is none. Dues are fed then and at no
    /// other time, so that the order of all steps, and with it every output, follows from the task's input alone.
    #[must_use]
    pub fn due_before(&self, input: &Input<'_>) -> Vec<(Millis, Key)> {
        input.at().map(|at| self.due(at.max(self.now()))).unwrap_or_default()
    }

    /// Forgets something that falls due and cannot be carried out.
    pub fn drop_due(&mut self, at: Millis, what: &Key) {
        if self.due.remove(&(at, what.clone())) {
            self.view.remove(Key::due(at, what));
        }
    }

    /// What is due at stream time, oldest first, at most [`DUE_MAX`].
    #[must_use]
    pub fn due(&self, up_to: Millis) -> Vec<(Millis, Key)> {
        let due = self.due.iter().take_while(|(at, _)| *at <= up_to);
        due.take(DUE_MAX).cloned().collect()
    }

    fn fall_due(&mut self, env: &Env, at: Millis, what: Key, fx: &mut Effects) {
        self.advance(at);
        self.due.remove(&(at, what.clone()));
        self.view.remove(Key::due(at, &what));
        match what.kind_byte() {
            k if k == Kind::Standing as u8 => dock::due(self, &what, at, fx),
            k if k == Kind::Partial as u8 => {
                if let Some(tenant) = tenant_of(&what) {
                    self.flush_partial(env, &tenant, fx);
                }
            }
            k if k == Kind::Site as u8 => site::due(self, env, &what, fx),
            k if k == Kind::Detail as u8 => details::due(self, &what, fx),
            k if k == Kind::Pair as u8 => entrances::due(self, env, &what, fx),
            _ => {}
        }
    }

    /// Adds to a tenant's sums for the site; those of an earlier second go first.
    pub(super) fn add_partial(&mut self, env: &Env, tenant: &str, fx: &mut Effects, add: impl FnOnce(&mut Partial)) {
        let now = self.now();
        let key = Key::partial(tenant);
        if matches!(self.view.get(&key, now), Some(Row::Partial(waiting)) if waiting.is_due(now)) {
            self.flush_partial(env, tenant, fx);
        }
        let mut partial = match self.view.take(&key, now) {
            Some(Row::Partial(partial)) => partial,
            Some(_) | None => Box::new(Partial::new(tenant, now)),
        };
        if self.partials.insert(tenant.into()) {
            self.set_due(partial.due_at(), &key);
        }
        add(&mut partial);
        let full = partial.is_full();
        self.view.put(key, Row::Partial(partial), Millis::MAX);
        if full {
            self.flush_partial(env, tenant, fx);
        }
    }

    fn flush_partials(&mut self, env: &Env, fx: &mut Effects) {
        let now = self.now();
        let due: Vec<Box<str>> = self
            .partials
            .iter()
            .filter(
                |tenant| matches!(self.view.get(&Key::partial(tenant), now), Some(Row::Partial(p)) if p.is_due(now)),
            )
            .cloned()
            .collect();
        for tenant in due {
            self.flush_partial(env, &tenant, fx);
        }
    }

    fn flush_partial(&mut self, env: &Env, tenant: &str, fx: &mut Effects) {
        let key = Key::partial(tenant);
        self.partials.remove(tenant);
        let Some(Row::Partial(partial)) = self.view.take(&key, self.now()) else { return };
        let due = (partial.due_at(), key.clone());
        if self.due.remove(&due) {
            self.view.remove(Key::due(due.0, &due.1));
        }
        self.view.remove(key);
        let route = env.route_tenant(tenant);
        fx.push(Output::Item { to: Stage::Site, route, item: super::Item::Partial(partial) });
    }

    /// Everything changed since the last call, for one commit.
    pub fn seal(&mut self) -> Vec<Write> {
        let (packs, gone) = self.seen.seal(self.now(), self.env.limits.seen_ms());
        for (number, pack) in packs {
            self.view.put(Key::seen(number), Row::Seen(pack), Millis::MAX);
        }
        for number in gone {
            self.view.remove(Key::seen(number));
        }
        let (packs, gone) = self.traces.seal(self.now());
        for (number, pack) in packs {
            self.view.put(Key::traces(number), Row::Traces(pack), Millis::MAX);
        }
        for number in gone {
            self.view.remove(Key::traces(number));
        }
        let (packs, gone) = self.entrances.seal(self.now());
        for (number, pack) in packs {
            self.view.put(Key::entrances(number), Row::Entrances(pack), Millis::MAX);
        }
        for number in gone {
            self.view.remove(Key::entrances(number));
        }
        if std::mem::take(&mut self.clock_changed) {
            self.view.put(Key::clock(), Row::Clock(self.clock.clone()), Millis::MAX);
        }
        self.view.drain_dirty()
    }

    /// For a task whose view is its whole store: drops what has expired.
    pub(super) fn sweep(&mut self) {
        let now = self.now();
        self.seen.seal(now, self.env.limits.seen_ms());
        self.traces.seal(now);
        self.entrances.seal(now);
        self.view.sweep(now);
    }

    /// Rows changed and not yet sealed: the loop commits early when there are many.
    #[must_use]
    pub fn dirty_len(&self) -> usize {
        self.view.dirty_len()
    }

    /// Rows in hand.
    #[must_use]
    pub fn held_len(&self) -> usize {
        self.view.held_len()
    }

    /// Lets go of rows that need not stay in hand, beyond `kept_max`. It changes no result.
    pub fn trim_to(&mut self, kept_max: usize) {
        self.view.trim(kept_max);
    }
}

/// Whether the key of an exemption names a whole tenant.
fn is_of_tenant(key: &str) -> bool {
    split_key(key).is_some_and(|(_, scope, _)| scope == Scope::Tenant.as_str())
}

pub(super) fn tenant_of(key: &Key) -> Option<Box<str>> {
    let (_, rest) = key.as_bytes().split_first()?;
    let (length, rest) = rest.split_first()?;
    let tenant = rest.get(..usize::from(*length))?;
    std::str::from_utf8(tenant).ok().map(Into::into)
}
