//! The stage loop: *poll → step → produce → commit*. One thread, one [`Log`], any number of tasks of any stage.
//!
//! ```text
//!            Assigned                      Revoked / stop
//!   (none) ───────────▶ open: committed offset, then changelog end, restore ──▶ running ──▶ commit ──▶ closed
//!                                                                                 │  ▲
//!   records ─▶ batch ─▶ step ─▶ frames, records, dead letters ─▶ open transaction ─┘  │ apply rows
//!                                                                      │ commit ──────┘
//!                                       aborted: forget, go back ◀─────┤
//!        unknown: new producer, read the committed offsets back ◀──────┘  ours: apply · before: go back · else: close
//! ```
//!
//! Rows reach a store only after the transaction that holds the same rows in the changelog, so a store is always a
//! committed prefix. Nothing in here may be dropped on a rebalance except a batch that was never committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::{Outbox, Wiring};
use super::progress::{Progress, TaskProgress};
use super::tasks::{Around, Opening, Out, Role, Roles, Running, Stores, fresh_meta};
use super::{Error, Incoming, Log, Outcome, Outgoing, Part, Polled};
use crate::engine::{Counts, Env, Write};
use crate::event::Millis;
use crate::event::wire::WriterSchema;
use crate::topology::Stage;

/// Times of a process. Both are read by `app` alone and handed in.
pub trait Clock: Send + Sync {
    /// Milliseconds since the epoch: what records and marks carry. The demo's runs faster than the world's.
    fn now(&self) -> Millis;

    /// Time since some start, which never goes back: for intervals between commits.
    fn elapsed(&self) -> Duration;
}

/// Writer schemas of Avro events.
pub trait Schemas: Send + Sync {
    /// The schema of an id; `None` when it is not known.
    fn writer(&self, id: u32) -> Option<Arc<WriterSchema>>;
}

/// How a loop behaves.
#[derive(Debug, Clone)]
pub struct StageOptions {
    pub application_id: String,
    /// Time between two commits while there is something to commit.
    pub commit_interval: Duration,
    /// The tenant that the input topic is bound to; it overwrites what events say.
    pub tenant: Option<String>,
}

/// Most records worked off before their rows are asked for together.
const BATCH_RECORDS_MAX: usize = 1_000;
/// Most bytes of them.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Most bytes of events that wait for older ones of other partitions.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Longest time that they wait: a partition that brings nothing may have lost its broker.
const WAITING_MAX: Duration = Duration::from_secs(2);
/// Most changed rows before a commit is due early.
const DIRTY_ROWS_MAX: usize = 100_000;
/// Longest wait in one poll, so that a stop is noticed.
const POLL_MAX: Duration = Duration::from_millis(50);
/// Intake tells the time at least this often, by the process clock.
const TICK_MS: Millis = 1_000;

/// Everything that a loop is made of besides its log.
pub struct Parts {
    pub env: Arc<Env>,
    pub wiring: Arc<Wiring>,
    pub stores: Box<dyn Stores>,
    pub schemas: Arc<dyn Schemas>,
    pub clock: Arc<dyn Clock>,
    pub progress: Arc<Progress>,
    pub options: StageOptions,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The loop.
pub struct StageLoop<L> {
    log: L,
    of: Parts,
    roles: Roles,
    outbox: Outbox,
    tasks: BTreeMap<Part, Running>,
    batch: Vec<Incoming>,
    /// Records and bytes polled since the last time that the batch was worked off.
    polled: usize,
    batch_bytes: usize,
    /// Events that were polled, until it is their turn.
    waiting: BTreeMap<Part, VecDeque<Incoming>>,
    waiting_bytes: usize,
    waiting_since: Duration,
    /// Since the last commit.
    counts: Counts,
    committed_at: Duration,
}

impl<L> fmt::Debug for StageLoop<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageLoop").field("tasks", &self.tasks.keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl<L: Log> StageLoop<L> {
    #[must_use]
    pub fn new(log: L, of: Parts) -> Self {
        StageLoop {
            log,
            roles: Roles::new(&of.wiring.topics),
            outbox: Outbox::new(Arc::clone(&of.wiring)),
            tasks: BTreeMap::new(),
            batch: Vec::new(),
            polled: 0,
            batch_bytes: 0,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            waiting_since: Duration::ZERO,
            counts: Counts::default(),
            committed_at: of.clock.elapsed(),
            of,
        }
    }

    /// Commits what is in hand, closes every task and leaves the group.
    ///
    /// # Errors
    /// The commit cannot be made.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.process()?;
        self.commit()?;
        let parts: Vec<Part> = self.tasks.keys().cloned().collect();
        self.close(&parts);
        self.log.release(&parts)?;
        self.log.close();
        Ok(())
    }

    /// One turn: one poll, and what it makes due.
    ///
    /// # Errors
    /// The log or a store is broken for good; what was not committed is not lost, since its input is still there.
    pub fn turn(&mut self) -> Result<(), Error> {
        let left = (self.committed_at + self.of.options.commit_interval).saturating_sub(self.of.clock.elapsed());
        let wait = if self.polled == 0 { left.min(POLL_MAX) } else { Duration::ZERO };
        let mut is_idle = false;
        match self.log.poll(wait)? {
            Polled::Record(record) => self.take(record),
            Polled::Assigned(parts) => {
                self.process()?;
                self.commit()?;
                self.open(parts)?;
            }
            Polled::Revoked { parts, lost } => self.revoke(&parts, lost)?,
            Polled::Idle => is_idle = true,
        }
        let is_full = self.polled >= BATCH_RECORDS_MAX || self.batch_bytes >= BATCH_BYTES_MAX;
        let is_due = self.of.clock.elapsed().saturating_sub(self.committed_at) >= self.of.options.commit_interval;
        if is_full || is_idle || is_due {
            self.process()?;
        }
        let dirty: usize = self.tasks.values().map(|running| running.task.dirty_len()).sum();
        if is_due || dirty >= DIRTY_ROWS_MAX {
            self.commit()?;
        }
        Ok(())
    }

    /// Whether nothing is in hand: every record polled has been committed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.batch.is_empty() && self.waiting.is_empty() && self.tasks.values().all(|running| !running.touched)
    }

    fn take(&mut self, record: Incoming) {
        let bytes = record.value.as_ref().map_or(0, Vec::len);
        self.batch_bytes += bytes;
        self.polled += 1;
        if self.tasks.get(&record.part).is_some_and(|running| running.role == Role::Stage(Stage::Intake)) {
            if self.waiting.is_empty() {
                self.waiting_since = self.of.clock.elapsed();
            }
            self.waiting_bytes += bytes;
            self.waiting.entry(record.part.clone()).or_default().push_back(record);
        } else {
            self.batch.push(record);
        }
    }

    /// Partitions of which everything there was has been polled.
    fn at_their_ends(&self) -> BTreeSet<Part> {
        self.log.lags().into_iter().filter(|(_, lag)| *lag == 0).map(|(part, _)| part).collect()
    }

    /// Events whose turn it is: oldest first over all partitions of this thread, as long as no partition that is still
    /// behind could bring an older one. Else a partition that is read faster than others would carry stream time past
    /// what the others still hold, and windows would end under them.
    fn ripe(&mut self) -> Vec<Incoming> {
        let mut ripe = Vec::new();
        if self.waiting.is_empty() {
            return ripe;
        }
        let waited = self.of.clock.elapsed().saturating_sub(self.waiting_since);
        let goes_anyway = self.waiting_bytes > WAITING_BYTES_MAX || waited > WAITING_MAX;
        let done = self.at_their_ends();
        let is_intake = |running: &Running| running.role == Role::Stage(Stage::Intake);
        let mut behind: BTreeSet<&Part> =
            self.tasks.iter().filter(|(_, running)| is_intake(running)).map(|(part, _)| part).collect();
        behind.retain(|part| !done.contains(*part) && !self.waiting.contains_key(*part));
        while behind.is_empty() || goes_anyway {
            let oldest = self.waiting.iter().filter_map(|(part, of)| Some((of.front()?.timestamp, part))).min();
            let Some(part) = oldest.map(|(_, part)| part.clone()) else { break };
            let Some(of) = self.waiting.get_mut(&part) else { break };
            ripe.extend(of.pop_front());
            if of.is_empty() {
                self.waiting.remove(&part);
                if !done.contains(&part) && !goes_anyway {
                    break;
                }
            }
        }
        let bytes: usize = ripe.iter().map(|record| record.value.as_ref().map_or(0, Vec::len)).sum();
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        if !ripe.is_empty() {
            self.waiting_since = self.of.clock.elapsed();
        }
        ripe
    }

    /// Works off the batch, partition by partition.
    fn process(&mut self) -> Result<(), Error> {
        self.batch_bytes = 0;
        self.polled = 0;
        let mut by_part: BTreeMap<Part, Vec<Incoming>> = BTreeMap::new();
        for record in std::mem::take(&mut self.batch) {
            match by_part.get_mut(&record.part) {
                Some(records) => records.push(record),
                None => {
                    by_part.insert(record.part.clone(), vec![record]);
                }
            }
        }
        let ripe = self.ripe();
        let around = around(&self.of);
        let mut out = Out { outbox: &mut self.outbox, log: &mut self.log, counts: &mut self.counts };
        // Runs of one partition together; their order stays.
        for run in ripe.chunk_by(|a, b| a.part == b.part) {
            let running = run.first().and_then(|first| self.tasks.get_mut(&first.part));
            if let Some(running) = running {
                running.feed(&around, run, &mut out)?;
            }
        }
        for (part, records) in by_part {
            // A record of a partition that was taken away meanwhile is its new owner's.
            if let Some(running) = self.tasks.get_mut(&part) {
                running.feed(&around, &records, &mut out)?;
            }
        }
        self.outbox.flush(&mut self.log)
    }

    /// Ticks, what is due, changed rows, offsets: one transaction.
    fn commit(&mut self) -> Result<(), Error> {
        let started = self.of.clock.elapsed();
        self.pass_time()?;
        let mut pending: Vec<(Part, Vec<Write>)> = Vec::new();
        for (part, running) in self.tasks.iter_mut().filter(|(_, running)| running.touched) {
            let writes = running.seal(&self.of.env);
            if let Some(kept) = &running.store {
                for (key, value) in &writes {
                    self.log.send(Outgoing {
                        topic: Arc::clone(&kept.changelog.topic),
                        partition: Some(kept.changelog.partition),
                        key: Some(key.as_bytes().to_vec()),
                        value: value.clone(),
                        headers: Vec::new(),
                    })?;
                }
            }
            pending.push((part.clone(), writes));
        }
        self.committed_at = started;
        if pending.is_empty() {
            self.show();
            return Ok(());
        }
        self.outbox.flush(&mut self.log)?;
        let offsets: Vec<(Part, i64)> =
            pending.iter().filter_map(|(part, _)| Some((part.clone(), self.tasks.get(part)?.next))).collect();
        match self.log.commit(&offsets)? {
            Outcome::Committed(ends) => self.apply(&pending, &ends),
            Outcome::Aborted(why) => {
                tracing::warn!(%why, "transaction aborted; going back to the last commit");
                self.of.progress.aborted();
                self.rewind()
            }
            Outcome::Unknown(why) => {
                tracing::warn!(%why, "outcome of a commit is unknown; reading the committed offsets back");
                self.of.progress.unknown();
                self.decide(&pending, &offsets)
            }
        }
    }

    fn pass_time(&mut self) -> Result<(), Error> {
        let clock = self.of.clock.now();
        let done = self.at_their_ends();
        let around = around(&self.of);
        let mut out = Out { outbox: &mut self.outbox, log: &mut self.log, counts: &mut self.counts };
        for (part, running) in &mut self.tasks {
            if running.role == Role::Stage(Stage::Intake) {
                let is_done = done.contains(part) && !self.waiting.contains_key(part);
                let floor = self.of.progress.floor(part, is_done, running.task.now(), clock);
                if clock.saturating_sub(running.ticked_at) >= TICK_MS || running.ticked_at > clock {
                    running.ticked_at = clock;
                    let at = if is_done { floor } else { running.task.now() };
                    running.tick(&around, at, &mut out)?;
                }
            }
            running.feed_due(&around, &mut out)?;
        }
        Ok(())
    }

    /// The transaction is visible: the stores follow.
    fn apply(&mut self, pending: &[(Part, Vec<Write>)], ends: &[(Part, i64)]) -> Result<(), Error> {
        let ends: BTreeMap<Part, i64> = ends.iter().cloned().collect();
        for (part, writes) in pending {
            if let Some(running) = self.tasks.get_mut(part) {
                running.apply(writes, &ends)?;
            }
        }
        super::metric::committed(&self.counts, self.of.clock.elapsed().saturating_sub(self.committed_at));
        self.of.progress.committed(&std::mem::take(&mut self.counts));
        self.show();
        Ok(())
    }

    fn show(&self) {
        let lags: BTreeMap<Part, i64> = self.log.lags().into_iter().collect();
        let tasks = self.tasks.iter().map(|(part, running)| (part.clone(), shown_as(running, lags.get(part).copied())));
        self.of.progress.show(tasks);
    }

    /// Drops everything since the last commit, of every task, and reads it again.
    fn rewind(&mut self) -> Result<(), Error> {
        self.batch.clear();
        self.batch_bytes = 0;
        self.polled = 0;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.outbox.clear();
        self.counts = Counts::default();
        for running in self.tasks.values_mut() {
            running.rewind()?;
        }
        let back: Vec<(Part, i64)> =
            self.tasks.iter().map(|(part, running)| (part.clone(), running.committed)).collect();
        self.log.seek(&back)
    }

    /// Ends the doubt: a new producer of the same id closes what the old one left open, then the committed offsets
    /// tell whether the transaction happened.
    fn decide(&mut self, pending: &[(Part, Vec<Write>)], offsets: &[(Part, i64)]) -> Result<(), Error> {
        self.log.recreate()?;
        let parts: Vec<Part> = offsets.iter().map(|(part, _)| part.clone()).collect();
        let found = self.log.committed(&parts)?;
        let happened = offsets.iter().zip(&found).all(|((_, ours), found)| *found == Some(*ours));
        if happened {
            // Where the changelog ended is not known; restoring a little more than needed changes nothing.
            return self.apply(pending, &[]);
        }
        let gone: Vec<Part> = offsets
            .iter()
            .zip(&found)
            .filter(|((part, _), found)| {
                let before = self.tasks.get(part).map(|running| running.committed);
                // No commit at all is as it was before the first one.
                found.is_some() && before != **found
            })
            .map(|((part, _), _)| part.clone())
            .collect();
        if !gone.is_empty() {
            // Its new owner restores from the changelog, where this transaction is not.
            tracing::warn!(parts = ?gone.iter().map(ToString::to_string).collect::<Vec<_>>(), "moved on without us; closed");
            self.close(&gone);
        }
        self.rewind()
    }

    fn open(&mut self, parts: Vec<Part>) -> Result<(), Error> {
        self.of.progress.rebalanced();
        let committed = self.log.committed(&parts)?;
        let mut from = Vec::with_capacity(parts.len());
        for (part, committed) in parts.into_iter().zip(committed) {
            let Some(role) = self.roles.of(&part.topic) else { continue };
            let running = match role {
                Role::Control(kind) => {
                    let next = match committed {
                        Some(offset) => offset,
                        None => self.log.beginning(&part)?,
                    };
                    Running::control(kind, next)
                }
                Role::Stage(stage) => {
                    let partitions = self.log.partitions(&part.topic)?.unwrap_or(1);
                    let fresh = fresh_meta(&self.of.options.application_id, partitions, &self.of.env);
                    let changelog =
                        Part { topic: self.of.wiring.topics.changelog(stage).into(), partition: part.partition };
                    let opening = Opening { stage, part: &part, committed, fresh, changelog };
                    Running::open(&mut self.log, self.of.stores.as_mut(), &self.of.progress, opening)?
                }
            };
            from.push((part.clone(), running.next));
            self.of.progress.opened(&part, shown_as(&running, None));
            if running.role == Role::Stage(Stage::Intake) {
                // Until its end is seen, nobody is told that it is now.
                self.of.progress.floor(&part, false, running.task.now(), Millis::MAX);
            }
            self.tasks.insert(part, running);
        }
        self.log.assign(&from)
    }

    fn revoke(&mut self, parts: &[Part], lost: bool) -> Result<(), Error> {
        self.of.progress.rebalanced();
        if lost {
            self.log.abort()?;
            self.close(parts);
            self.rewind()?;
        } else {
            self.process()?;
            self.commit()?;
            self.close(parts);
        }
        self.log.release(parts)
    }

    fn close(&mut self, parts: &[Part]) {
        for part in parts {
            self.tasks.remove(part);
            let waited = self.waiting.remove(part).unwrap_or_default();
            self.waiting_bytes -= waited.iter().map(|record| record.value.as_ref().map_or(0, Vec::len)).sum::<usize>();
            self.of.progress.closed(part);
        }
    }
}

fn around(of: &Parts) -> Around<'_> {
    Around {
        env: &of.env,
        clock: of.clock.as_ref(),
        schemas: of.schemas.as_ref(),
        tenant: of.options.tenant.as_deref(),
    }
}

fn shown_as(running: &Running, lag: Option<i64>) -> TaskProgress {
    TaskProgress {
        stage: match running.role {
            Role::Stage(stage) => stage.as_str(),
            Role::Control(_) => "control",
        },
        offset: running.committed,
        lag,
        stream_time: Some(running.task.now()).filter(|at| *at > Millis::MIN),
    }
}

/// Every topic that a loop's log must subscribe to.
#[must_use]
pub fn subscription(topics: &crate::topology::Topics) -> Vec<String> {
    Roles::topics(topics)
}
