//! A sink's loop body as a value: records and the time go in, what was applied and when to call again come out.
//!
//! It holds no thread, no clock and no Kafka. Whoever drives it reads `blocklist` and `exemptions` from their starts,
//! says [`Sink::caught_up`] once both were read to the ends they had at start, and calls [`Sink::tick`] after every batch
//! and at the time that the last tick named.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{
    Actual, Adapter, Confirmed, Desired, ENTRIES_MAX, ENTRY_BYTES_MAX, Edge, Elements, Error, Plan, Receipts, Refusal,
    SHRINK_FREE, Said, Shrink, Taken, Tenants, Wanted, Written, plan, wanted,
};
use crate::event::wire::decode_output;
use crate::event::{BlocklistEntry, Exemption, Millis};
use crate::topology::exemptions::Exemptions;
use crate::topology::networks::Networks;

/// Default for the shortest time between two applications, in milliseconds.
pub const INTERVAL_MS: Millis = 1_000;
/// How often the edge is looked at though nothing was told, in milliseconds.
pub const DRIFT_CHECK_MS: Millis = 5_000;
/// First wait before a failed application is tried again; it doubles up to [`RETRY_MS_MAX`].
pub const RETRY_MS_MIN: Millis = 1_000;
/// Longest such wait.
pub const RETRY_MS_MAX: Millis = 30_000;

const _: () = assert!(RETRY_MS_MIN <= RETRY_MS_MAX && INTERVAL_MS <= RETRY_MS_MAX);

/// How a sink behaves.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    pub tenants: Tenants,
    /// Those of the file; the topic's come as records.
    pub exemptions: Exemptions,
    /// Shortest time between two applications, in milliseconds; at most [`RETRY_MS_MAX`].
    pub interval_ms: Millis,
    pub shrink: Shrink,
    /// Most elements that the edge should hold, whatever it could.
    pub capacity: usize,
}

impl Default for SinkOptions {
    fn default() -> Self {
        SinkOptions {
            tenants: Tenants::Unset,
            exemptions: Exemptions::default(),
            interval_ms: INTERVAL_MS,
            shrink: Shrink::ByHalf { free: SHRINK_FREE },
            capacity: ENTRIES_MAX,
        }
    }
}

/// One edge kept equal to the blocklist.
#[derive(Debug)]
pub struct Sink<A> {
    desired: Desired,
    adapter: A,
    edge: Edge,
    interval_ms: Millis,
    shrink: Shrink,
    caught_up: bool,
    /// Something was told since the last application.
    told: bool,
    /// The oldest thing told since then, by its generation, which is its owner's stream time.
    told_since: Option<Millis>,
    /// No application before this: the interval, or the wait after a failure.
    not_before: Millis,
    /// When to look though nothing was told.
    look_at: Millis,
    failures_in_a_row: u32,
    /// What the edge was made to have last; whatever it has else is drift.
    applied: Option<Arc<Elements>>,
    /// Elements of those that should be gone, in order.
    held_back: Vec<Box<str>>,
    /// Why the edge has not taken what it should have.
    failing: Option<String>,
    receipts: Receipts,
    /// Something may have to be told of an entry.
    owes_receipts: bool,
    status: Status,
}

/// What one call did, and when the next is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// What was written to the edge; `None` when there was nothing to write, or it failed ([`Status::last_error`]).
    pub applied: Option<Applied>,
    /// When to call again if nothing is told before: the next end, a retry, the rate limit, a look at the edge.
    pub next: Millis,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    pub added: usize,
    pub removed: usize,
    pub changed: usize,
    /// Elements of which only the noted end changed.
    pub refreshed: usize,
    /// Elements that should go and were held back.
    pub held_back: usize,
    /// Elements now in force.
    pub enforced: usize,
    /// Differences that somebody else had made.
    pub drift: usize,
    pub reloaded: bool,
    /// Why the edge could not be told to take the list up, when it could not.
    pub pending: Option<String>,
    /// From the oldest change that this application brought to `now`, in milliseconds; `None` when it brought none.
    pub lag_ms: Option<Millis>,
}

/// How a sink stands. Counters count from its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Status {
    pub caught_up: bool,
    /// Entries held, ended and exempted ones included.
    pub held: usize,
    /// Elements that should be in force, at the last look.
    pub desired: usize,
    /// Elements in force, as far as the edge could be told.
    pub enforced: usize,
    /// Entries left out because somebody exempt would be restricted.
    pub exempted: u64,
    /// Records refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Records of the topic `exemptions` that could not be used.
    pub exemptions_refused: u64,
    /// Entries that this edge has no words for, by scope.
    pub not_expressible: BTreeMap<&'static str, u64>,
    /// How many of those only because their action is weaker than a block.
    pub too_weak: u64,
    /// Entries left out because the edge cuts off whole machines, and they are neither of a wide playbook nor of an
    /// operator.
    pub not_wide: u64,
    /// Elements left out because the edge is full.
    pub over_capacity: u64,
    /// Records older than what was held.
    pub older: u64,
    /// Records of tenants that this sink does not apply.
    pub other_tenants: u64,
    pub applications: u64,
    pub reloads: u64,
    /// Why the edge could not be told of the last list yet.
    pub reload_pending: Option<String>,
    /// Differences that somebody else made at the edge, and that were undone.
    pub drift_repaired: u64,
    /// Elements that should go and are held back because too much of the list would go at once.
    pub held_back: usize,
    pub failures: u64,
    /// The last failure; `None` once an application went well.
    pub last_error: Option<String>,
    pub last_applied_at: Option<Millis>,
    /// From the oldest change of the last application to its end, in milliseconds.
    pub last_lag_ms: Option<Millis>,
}

impl<A: Adapter> Sink<A> {
    #[must_use]
    pub fn new(options: SinkOptions, adapter: A) -> Self {
        let edge = adapter.edge();
        Sink {
            desired: Desired::new(options.tenants, options.exemptions),
            adapter,
            edge: Edge { capacity: edge.capacity.min(options.capacity), ..edge },
            interval_ms: options.interval_ms.clamp(0, RETRY_MS_MAX),
            shrink: options.shrink,
            caught_up: false,
            told: true,
            told_since: None,
            not_before: Millis::MIN,
            look_at: Millis::MIN,
            failures_in_a_row: 0,
            applied: None,
            held_back: Vec::new(),
            failing: None,
            receipts: Receipts::default(),
            owes_receipts: false,
            status: Status::default(),
        }
    }

    /// Takes one record of `blocklist`; `generation` is the header of a tombstone.
    pub fn record(&mut self, key: &[u8], value: Option<&[u8]>, generation: Option<i64>) -> Taken {
        let taken = self.take(key, value, generation);
        match taken {
            Taken::Changed => self.told = true,
            Taken::Refused(refusal) => tracing::debug!(reason = refusal.as_str(), "blocklist record refused"),
            Taken::Unchanged | Taken::OtherTenant => {}
        }
        taken
    }

    /// Takes one record of `exemptions`. One that cannot be used is counted and told, since somebody may be restricted
    /// who should not be.
    pub fn exemption(&mut self, key: &[u8], value: Option<&[u8]>) {
        let key = std::str::from_utf8(key).map_err(|_| "the key is not UTF-8".to_owned());
        let value = value.map(|v| decode_output::<Exemption>("exemptions", v).map_err(|e| e.to_string())).transpose();
        match key.and_then(|key| self.desired.exempt(key, value?)) {
            Ok(changed) => self.told |= changed,
            Err(why) => {
                self.status.exemptions_refused += 1;
                tracing::warn!(%why, "exemption refused");
            }
        }
    }

    /// Looks autonomous systems and countries up in these networks from now on.
    pub fn turn_to(&mut self, networks: &Arc<Networks>) {
        self.told |= self.desired.turn_to(networks);
    }

    /// Both topics were read to the ends that they had at start: from here on the edge may be changed.
    pub const fn caught_up(&mut self) {
        self.caught_up = true;
    }

    /// Whether the edge may be changed.
    #[must_use]
    pub const fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Whether nobody said which tenant to apply and the list holds several. Nothing is applied then, and the sink
    /// should end with that message.
    #[must_use]
    pub fn several_tenants(&self) -> bool {
        self.desired.several_tenants()
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Millis) -> Tick {
        self.desired.forget_ended(now);
        if !self.caught_up || !self.is_due(now) {
            return Tick { applied: None, next: self.next_call(now) };
        }
        if self.several_tenants() {
            let why = "the list holds several tenants: say --tenant NAME or --all-tenants";
            self.fail(now, why.to_owned());
            return Tick { applied: None, next: self.next_call(now) };
        }
        let applied = match self.reconcile(now) {
            Ok(applied) => applied,
            Err(e) => {
                self.fail(now, e.to_string());
                None
            }
        };
        Tick { applied, next: self.next_call(now) }
    }

    /// What an application at `now` would do. Changes nothing.
    ///
    /// # Errors
    /// The edge cannot be asked.
    pub fn difference(&mut self, now: Millis) -> Result<Plan, Error> {
        self.desired.expand(now);
        let actual = self.adapter.read(now)?;
        let wanted = wanted(&self.desired, &self.edge, now);
        Ok(plan(&wanted.elements, &actual, self.applied.as_deref(), self.shrink_at(now), now))
    }

    /// A kill switch is a person's word that everything shall go.
    fn shrink_at(&self, now: Millis) -> Shrink {
        if self.desired.is_switched_off(now) { Shrink::Allowed } else { self.shrink }
    }

    /// Lets the list shrink by any part from now on: an operator confirmed it.
    pub const fn allow_shrink(&mut self) {
        self.shrink = Shrink::Allowed;
        self.told = true;
    }

    /// What is to be told of entries since the last call, at most `room`; there may be more. Nothing before the first
    /// application.
    pub fn receipts(&mut self, now: Millis, room: usize) -> Vec<Said> {
        let nothing = Elements::new();
        if !self.owes_receipts {
            return Vec::new();
        }
        let confirmed = Confirmed {
            in_force: self.applied.as_deref().unwrap_or(&nothing),
            held_back: &self.held_back,
            failing: self.failing.as_deref(),
        };
        let (said, has_more) = self.receipts.next(&self.desired, &self.edge, confirmed, now, room);
        self.owes_receipts = has_more;
        said
    }

    /// Whether a call of [`receipts`](Self::receipts) may give some.
    #[must_use]
    pub const fn owes_receipts(&self) -> bool {
        self.owes_receipts
    }

    /// Receipts were lost: all are told again.
    pub fn receipts_lost(&mut self) {
        self.receipts.forget();
        self.owes_receipts = self.applied.is_some();
    }

    /// The entries that this sink holds.
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            caught_up: self.caught_up,
            held: self.desired.len(),
            refused: self.desired.refused().iter().map(|(reason, n)| (reason.as_str(), *n)).collect(),
            older: self.desired.older(),
            other_tenants: self.desired.other_tenants(),
            ..self.status.clone()
        }
    }

    fn take(&mut self, key: &[u8], value: Option<&[u8]>, generation: Option<i64>) -> Taken {
        if key.len() > ENTRY_BYTES_MAX || value.is_some_and(|v| v.len() > ENTRY_BYTES_MAX) {
            return self.desired.refuse(Refusal::TooLong);
        }
        let Ok(key) = std::str::from_utf8(key) else { return self.desired.refuse(Refusal::BadKey) };
        let entry = match value.map(|v| decode_output::<BlocklistEntry>("blocklist", v)).transpose() {
            Ok(entry) => entry,
            Err(_) => return self.desired.refuse(Refusal::Malformed),
        };
        let told_at = entry.as_ref().map(|e| e.generation).or(generation);
        let taken = self.desired.apply(key, entry, generation);
        if taken == Taken::Changed && self.caught_up {
            self.told_since = self.told_since.into_iter().chain(told_at).min();
        }
        taken
    }

    fn is_due(&self, now: Millis) -> bool {
        // A clock that was set back must not make a sink wait for longer than its longest wait.
        let may = self.not_before <= now || self.not_before > now.saturating_add(RETRY_MS_MAX);
        may && (self.told || self.look_at <= now || self.look_at > now.saturating_add(DRIFT_CHECK_MS))
    }

    fn next_call(&self, now: Millis) -> Millis {
        if !self.caught_up {
            return now.saturating_add(self.interval_ms);
        }
        let wanted = if self.told { now } else { self.look_at };
        wanted.max(self.not_before).max(now)
    }

    fn reconcile(&mut self, now: Millis) -> Result<Option<Applied>, Error> {
        self.desired.expand(now);
        let actual = self.adapter.read(now)?;
        let drift = self.drift(&actual, now);
        let Wanted { elements, exempted, not_expressible, too_weak, not_wide, over_capacity } =
            wanted(&self.desired, &self.edge, now);
        self.status.desired = elements.len();
        self.status.exempted = exempted;
        self.status.not_expressible = not_expressible.iter().map(|(scope, n)| (scope.as_str(), *n)).collect();
        self.status.too_weak = too_weak;
        self.status.not_wide = not_wide;
        self.status.over_capacity = over_capacity;

        let plan = plan(&elements, &actual, self.applied.as_deref(), self.shrink_at(now), now);
        let is_needed = plan.changes_anything() || actual.unsettled;
        let target = if is_needed { Arc::new(plan.target(elements, &actual)) } else { Arc::clone(&actual.elements) };
        let written = if is_needed { self.adapter.write(Arc::clone(&target), &plan, now)? } else { Written::default() };

        // What the edge was not told of is not there yet: its lag goes on.
        let arrived = if written.pending.is_some() { None } else { self.told_since.take() };
        let lag_ms = arrived.map(|since| now.saturating_sub(since).max(0));
        let applied = is_needed.then(|| Applied {
            added: plan.add.len(),
            removed: plan.remove.len(),
            changed: plan.change.len(),
            refreshed: plan.refresh.len(),
            held_back: plan.held_back.len(),
            enforced: target.len(),
            drift,
            reloaded: written.reloaded,
            pending: written.pending.clone(),
            lag_ms,
        });
        self.applied = Some(target);
        self.held_back.clone_from(&plan.held_back);
        self.failing.clone_from(&written.pending);
        self.owes_receipts = true;
        self.schedule(now, is_needed, written.pending.is_some());
        self.note(now, &plan, applied.as_ref(), written);
        Ok(applied)
    }

    /// How many differences somebody else made since the last application. At start, when nothing is known, what is not
    /// ours.
    fn drift(&self, actual: &Actual, now: Millis) -> usize {
        let Some(applied) = &self.applied else { return actual.foreign };
        if Arc::ptr_eq(applied, &actual.elements) {
            return actual.foreign;
        }
        let made = plan(applied, actual, None, Shrink::Allowed, Millis::MIN);
        let missing = usize::from(actual.missing && applied.is_empty());
        // Some edges let go of what has ended by themselves.
        let is_live = |name: &str| applied.get(name).is_some_and(|element| element.until.is_none_or(|end| end > now));
        let taken = made.add.iter().filter(|name| is_live(name)).count();
        taken + made.change.len() + made.refresh.len() + made.remove.len() + actual.foreign + missing
    }

    fn schedule(&mut self, now: Millis, is_written: bool, is_pending: bool) {
        self.told = false;
        self.failures_in_a_row = if is_pending { self.failures_in_a_row.saturating_add(1) } else { 0 };
        if is_written {
            self.not_before = now.saturating_add(self.interval_ms);
        }
        let mut look_at = now.saturating_add(DRIFT_CHECK_MS);
        if let Some(end) = self.desired.next_end(now) {
            look_at = look_at.min(end);
        }
        if is_pending {
            look_at = look_at.min(now.saturating_add(self.retry_ms()));
        }
        self.look_at = look_at;
    }

    fn note(&mut self, now: Millis, plan: &Plan, applied: Option<&Applied>, written: Written) {
        self.status.held_back = plan.held_back.len();
        self.status.reload_pending = written.pending;
        self.status.last_error = (!plan.held_back.is_empty()).then(|| {
            format!(
                "{} of {} elements would go at once and are held back; --allow-shrink lets them go",
                plan.held_back.len(),
                plan.held_back.len() + plan.remove.len() + plan.keep + plan.change.len() + plan.refresh.len()
            )
        });
        if self.status.reload_pending.is_none() {
            self.status.enforced = self.applied.as_ref().map_or(0, |a| a.len());
        }
        let Some(applied) = applied else { return };
        self.status.applications += 1;
        self.status.reloads += u64::from(applied.reloaded);
        self.status.drift_repaired += applied.drift as u64;
        self.status.last_applied_at = Some(now);
        self.status.last_lag_ms = applied.lag_ms.or(self.status.last_lag_ms);
        tracing::info!(
            added = applied.added,
            removed = applied.removed,
            enforced = applied.enforced,
            held_back = applied.held_back,
            drift = applied.drift,
            reloaded = applied.reloaded,
            pending = applied.pending.as_deref(),
            "list applied"
        );
    }

    fn fail(&mut self, now: Millis, why: String) {
        self.told = true;
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.not_before = now.saturating_add(self.retry_ms());
        self.status.failures += 1;
        tracing::warn!(%why, retry_ms = self.retry_ms(), "list not applied");
        self.failing = Some(why.clone());
        self.owes_receipts = true;
        self.status.last_error = Some(why);
    }

    /// Doubles with every failure in a row.
    fn retry_ms(&self) -> Millis {
        let doublings = self.failures_in_a_row.saturating_sub(1).min(16);
        RETRY_MS_MIN.saturating_mul(1 << doublings).min(RETRY_MS_MAX)
    }
}
