//! The stage loop: *poll → step → produce → commit*. One thread, one [`Log`], any number of tasks of any stage.
//!
//! ```text
//!            Assigned                                                   Revoked / stop
//!   (none) ───────────▶ Opening: committed offset, then changelog end,  ───────────────▶ checkpoint ──▶ closed
//!                       restore while other tasks go on                      ▲
//!                         │ assign from the checkpoint                       │
//!                         ▼                                                  │
//!                       replay up to the committed offset, silent ──▶ running
//!
//!   records ─▶ batch ─▶ step ─▶ frames, records, dead letters ─▶ open transaction ─▶ commit (─▶ store, at a checkpoint)
//!                        ▲                                             │     │ under way: steps go on, what they bring
//!                        └─────────────────────────────────────────────│─────┘ about waits for the next transaction
//!           aborted, or a step panicked: back to the checkpoints ◀─────┤
//!        unknown: new producer, read the committed offsets back ◀──────┘  ours: go on · before: back · else: close
//! ```
//!
//! While a commit is under way nothing is sent, and its outcome is heard before anything else that matters happens: a
//! rebalance, the next commit, a panic. What was stepped meanwhile stands or falls with it.
//!
//! A commit holds outputs and input offsets. Now and then it holds a *checkpoint* of some task as well: the rows that
//! changed since the last one, and the position they belong to, for the changelog; after the commit the store gets the
//! same. Steps are deterministic in the input, so what a task did between its checkpoint and its committed offset is
//! had again by replaying its input in silence. A store is always a committed prefix. Nothing in here may be dropped on
//! a rebalance except a batch that was never committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::metric::Phase;
use super::opening::{Finished, Opening};
use super::outbox::{Outbox, Wiring};
use super::progress::{Progress, TaskProgress};
use super::tasks::{Around, Checkpoint, Out, Role, Roles, Running, Stores, Voice, fresh_meta};
use super::{Error, Incoming, Log, OUTCOME_LOOK, Outcome, Part, Place, Polled};
use crate::engine::{Counts, Env};
use crate::event::Millis;
use crate::event::wire::WriterSchema;
use crate::topology::Stage;
use crate::topology::networks::CurrentNetworks;

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
    /// Time between two commits while there is something to commit. A loop that keeps up with its input commits sooner.
    pub commit_interval: Duration,
    /// The same in a backlog: larger transactions cost less.
    pub backlog_commit_interval: Duration,
    /// The tenant that the input topic is bound to; it overwrites what events say.
    pub tenant: Option<String>,
    /// Rows that all tasks of the loop keep in hand, besides those that are still to be saved.
    pub rows_in_hand: usize,
}

/// Most records worked off before their rows are asked for together.
const BATCH_RECORDS_MAX: usize = 1_000;
/// How long a poll waits for more when there is something in hand. What steps bring about is out with the commit and no
/// sooner, so small batches only cost.
const GATHER: Duration = Duration::from_millis(2);
/// Records between two looks at the clock: it costs as much as polling one.
const LOOK_EVERY: usize = 25;
/// Most bytes of them.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Most bytes of events that wait for older ones of other partitions.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Longest time that they wait: a partition that brings nothing may have lost its broker.
const WAITING_MAX: Duration = Duration::from_secs(2);
/// Most bytes of outputs in one transaction.
const OUT_BYTES_MAX: usize = 32 << 20;
/// What part of the commit interval a loop waits that keeps up with its input.
const QUICK_SHARE: u32 = 4;
/// So many records left to read are no backlog, however few were read.
const FEW_RECORDS: usize = 100;
/// Checkpoints that one commit makes because of their age; the others wait for the next.
const CHECKPOINTS_MAX: usize = 2;
/// Panics on one item before it is set aside.
const PANICS_MAX: u32 = 3;
/// Most items that are set aside before the loop gives up: a defect that hits everything is no poison.
const POISON_MAX: usize = 1_000;
/// Longest wait for restores while there is nothing else to do.
const RESTORE_WAIT: Duration = Duration::from_millis(5);
/// Longest wait in one poll while a commit is under way, so that its outcome is heard.
const OUTCOME_POLL: Duration = Duration::from_millis(1);
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
    pub networks: Arc<CurrentNetworks>,
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
    opening: BTreeMap<Part, Opening>,
    batch: Vec<Incoming>,
    /// Records and bytes polled since the last time that the batch was worked off.
    polled: usize,
    batch_bytes: usize,
    /// Events that were polled, until it is their turn.
    waiting: BTreeMap<Part, VecDeque<Incoming>>,
    waiting_bytes: usize,
    waiting_since: Duration,
    /// Since the last commit began.
    counts: Counts,
    committed_at: Duration,
    under_way: Option<UnderWay>,
    pace: Pace,
    /// Records polled since the last commit began.
    worked_off: usize,
    /// Places on which steps panicked, and how often; those that are set aside.
    panics: BTreeMap<Place, u32>,
    poison: BTreeSet<Place>,
    /// Somebody said to go on without what was deleted before it was read.
    skips_lost_input: bool,
}

/// How often to commit. What steps brought about is out with the commit and no sooner; but in a backlog nobody is served by
/// many small transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// The loop keeps up with its input.
    Quick,
    /// As set.
    Set,
    /// It has been behind for two commits or more.
    Backlog,
}

/// A commit whose outcome is not known yet.
struct UnderWay {
    offsets: Vec<(Part, i64)>,
    saved: BTreeMap<Part, Checkpoint>,
    counts: Counts,
    since: Duration,
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
            opening: BTreeMap::new(),
            batch: Vec::new(),
            polled: 0,
            batch_bytes: 0,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            waiting_since: Duration::ZERO,
            counts: Counts::default(),
            committed_at: of.clock.elapsed(),
            under_way: None,
            pace: Pace::Quick,
            worked_off: 0,
            panics: BTreeMap::new(),
            poison: BTreeSet::new(),
            skips_lost_input: false,
            of,
        }
    }

    /// Goes on where input begins, should some of it have been deleted before it was read or replayed; without this, such
    /// a gap ends the loop.
    #[must_use]
    pub fn skip_lost_input(mut self) -> Self {
        self.skips_lost_input = true;
        self
    }

    /// Commits what is in hand, saves and closes every task and leaves the group.
    ///
    /// # Errors
    /// The commit cannot be made.
    pub fn finish(&mut self) -> Result<(), Error> {
        let parts: Vec<Part> = self.tasks.keys().chain(self.opening.keys()).cloned().collect();
        self.let_go(&parts)?;
        self.log.release(&parts)?;
        self.log.close();
        Ok(())
    }

    /// One turn: one poll, and what it makes due.
    ///
    /// # Errors
    /// The log or a store is broken for good; what was not committed is not lost, since its input is still there.
    pub fn turn(&mut self) -> Result<(), Error> {
        if self.polled.is_multiple_of(LOOK_EVERY) {
            self.hear_outcome(Duration::ZERO)?;
        }
        self.restore_some()?;
        let wait = self.poll_wait();
        let mut is_idle = false;
        match self.log.poll(wait)? {
            Polled::Record(record) => self.take(record),
            Polled::Assigned(parts) => {
                self.work_off(&[])?;
                self.open(parts)?;
            }
            Polled::Revoked { parts, lost } => self.revoke(&parts, lost)?,
            Polled::Idle => is_idle = true,
        }
        if !is_idle && !self.polled.is_multiple_of(LOOK_EVERY) && self.batch_bytes < BATCH_BYTES_MAX {
            return Ok(());
        }
        let is_full = self.polled >= BATCH_RECORDS_MAX || self.batch_bytes >= BATCH_BYTES_MAX;
        // Under way there is one already.
        let is_due =
            self.under_way.is_none() && self.of.clock.elapsed().saturating_sub(self.committed_at) >= self.interval();
        if is_full || is_idle || is_due {
            match self.process() {
                Err(Error::Panicked { place, words }) => return self.panicked(place, &words),
                done => done?,
            }
        }
        if is_due || self.outbox.bytes() >= OUT_BYTES_MAX {
            self.commit_or_go_back(&[])?;
        }
        Ok(())
    }

    /// How long a poll may wait: until the next commit, but not long while something is in hand.
    fn poll_wait(&self) -> Duration {
        if !self.opening.is_empty() {
            return Duration::ZERO;
        }
        // While records come fast there is no wait, and the clock need not be asked.
        if self.polled > 0 {
            return GATHER;
        }
        if self.under_way.is_some() {
            return OUTCOME_POLL;
        }
        let left = (self.committed_at + self.interval()).saturating_sub(self.of.clock.elapsed());
        let has_touched = self.tasks.values().any(|running| running.touched);
        // What waits for its commit is out soon when nothing more comes.
        left.min(if has_touched { self.of.options.commit_interval / QUICK_SHARE } else { POLL_MAX })
    }

    /// The time between commits as things are.
    fn interval(&self) -> Duration {
        match self.pace {
            Pace::Quick => self.of.options.commit_interval / QUICK_SHARE,
            Pace::Set => self.of.options.commit_interval,
            Pace::Backlog => self.of.options.backlog_commit_interval.max(self.of.options.commit_interval),
        }
    }

    /// Chooses the pace of the next commits: slower while more is left to read than was read since the last one.
    fn choose_pace(&mut self) {
        let left: i64 = self.log.lags().into_iter().map(|(_, lag)| lag).sum();
        let worked_off = std::mem::take(&mut self.worked_off).max(FEW_RECORDS);
        let is_behind = usize::try_from(left).is_ok_and(|left| left > worked_off);
        self.pace = match (self.pace, is_behind) {
            (Pace::Quick, true) | (Pace::Backlog, false) => Pace::Set,
            (Pace::Set | Pace::Backlog, true) => Pace::Backlog,
            (Pace::Quick | Pace::Set, false) => Pace::Quick,
        };
    }

    /// What is in hand, to the end: processed and committed, with checkpoints of these tasks.
    fn work_off(&mut self, closing: &[Part]) -> Result<(), Error> {
        self.await_outcome()?;
        self.work_off_beside(closing)?;
        self.await_outcome()
    }

    fn work_off_beside(&mut self, closing: &[Part]) -> Result<(), Error> {
        match self.process() {
            Err(Error::Panicked { place, words }) => self.panicked(place, &words),
            done => {
                done?;
                self.commit_or_go_back(closing)
            }
        }
    }

    fn commit_or_go_back(&mut self, closing: &[Part]) -> Result<(), Error> {
        match self.commit(closing) {
            Err(Error::Panicked { place, words }) => self.panicked(place, &words),
            done => done,
        }
    }

    /// A step panicked. Its task is in no known state, so everything goes back to the last checkpoints and is tried
    /// again; an item on which steps panic each time is set aside.
    fn panicked(&mut self, place: Place, words: &str) -> Result<(), Error> {
        self.await_outcome()?;
        self.of.progress.panicked();
        let times = self.panics.entry(place.clone()).or_insert(0);
        *times += 1;
        tracing::error!(%place, times, words, "a step panicked; going back to the last checkpoint");
        if *times >= PANICS_MAX {
            self.panics.remove(&place);
            if self.poison.len() >= POISON_MAX || matches!(place, Place::Tick { .. }) {
                return Err(Error::Panicked { place, words: words.to_owned() });
            }
            self.poison.insert(place);
        } else if self.panics.len() > POISON_MAX {
            return Err(Error::Panicked { place, words: words.to_owned() });
        }
        self.log.abort()?;
        self.rewind()
    }

    /// Goes on with what is being restored.
    fn restore_some(&mut self) -> Result<(), Error> {
        if self.opening.is_empty() {
            return Ok(());
        }
        let wait = if self.tasks.is_empty() { RESTORE_WAIT } else { Duration::ZERO };
        let opening = &mut self.opening;
        let mut each = |changelog: &Part, key: &[u8], value: Option<&[u8]>| match opening
            .values_mut()
            .find(|opening| opening.changelog == *changelog)
        {
            Some(opening) => opening.take(key, value),
            None => Ok(()),
        };
        let restored = self.log.restored(wait, &mut each)?;
        let mut ready = Vec::new();
        for of in restored {
            let Some(opening) = self.opening.values_mut().find(|opening| opening.changelog == of.part) else {
                continue;
            };
            opening.went(&of, &self.of.progress);
            if of.is_done() {
                ready.push((opening.part.clone(), of.end));
            }
        }
        let mut from = Vec::with_capacity(ready.len());
        for (part, end) in ready {
            let Some(opening) = self.opening.remove(&part) else { continue };
            match opening.finish(&mut self.log, end, &self.of.progress, &self.of.env)? {
                Finished::Running(mut running) => {
                    if self.skips_lost_input {
                        running.skip_to(self.log.beginning(&part)?);
                    }
                    from.push((part.clone(), running.next));
                    self.opened(part, *running);
                }
                Finished::Again(opening) => {
                    self.opening.insert(part, *opening);
                }
            }
        }
        if from.is_empty() { Ok(()) } else { self.log.assign(&from) }
    }

    fn opened(&mut self, part: Part, running: Running) {
        self.of.progress.opened(&part, shown_as(&running, None));
        if let Some((next, end)) = running.replaying() {
            self.of.progress.restoring(&part, 0, end - next);
        }
        if running.role == Role::Stage(Stage::Intake) {
            // Until its end is seen, nobody is told that it is now.
            self.of.progress.floor(&part, false, running.task.now(), Millis::MAX);
        }
        self.tasks.insert(part, running);
    }

    /// Whether nothing is in hand: every record polled has been committed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.batch.is_empty()
            && self.waiting.is_empty()
            && self.under_way.is_none()
            && self.tasks.values().all(|running| !running.touched)
    }

    fn take(&mut self, record: Incoming) {
        let bytes = record.value.as_ref().map_or(0, Vec::len);
        self.batch_bytes += bytes;
        self.polled += 1;
        self.worked_off += 1;
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
        let around = around(&self.of, &self.poison);
        let mut out = Out { outbox: &mut self.outbox, counts: &mut self.counts, voice: Voice::All };
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
        if self.under_way.is_none() {
            self.outbox.hand_over(&mut self.log)?;
        }
        Ok(())
    }

    /// Ticks, outputs, offsets, and what is to be saved: one transaction. It begins to end here.
    fn commit(&mut self, closing: &[Part]) -> Result<(), Error> {
        self.await_outcome()?;
        let started = self.of.clock.elapsed();
        self.pass_time()?;
        let saved = self.checkpoints(closing);
        let offsets: Vec<(Part, i64)> = self
            .tasks
            .iter()
            .filter(|(part, running)| running.replaying().is_none() && (running.touched || saved.contains_key(part)))
            .map(|(part, running)| (part.clone(), running.next))
            .collect();
        self.committed_at = started;
        self.choose_pace();
        if offsets.is_empty() {
            self.show();
            return Ok(());
        }
        for record in saved.values().flat_map(Checkpoint::records) {
            self.log.send(record)?;
        }
        self.outbox.flush(&mut self.log)?;
        super::metric::phase(Phase::Prepare, self.of.clock.elapsed().saturating_sub(started));
        self.log.commit(&offsets)?;
        for (part, _) in &offsets {
            if let Some(running) = self.tasks.get_mut(part) {
                running.touched = false;
            }
        }
        let counts = std::mem::take(&mut self.counts);
        self.under_way = Some(UnderWay { offsets, saved, counts, since: started });
        Ok(())
    }

    /// Waits for the outcome of the commit under way, if there is one.
    fn await_outcome(&mut self) -> Result<(), Error> {
        while self.under_way.is_some() {
            self.hear_outcome(OUTCOME_LOOK)?;
        }
        Ok(())
    }

    /// Carries out what the commit under way has come to, if that is known within `wait`.
    fn hear_outcome(&mut self, wait: Duration) -> Result<(), Error> {
        if self.under_way.is_none() {
            return Ok(());
        }
        let Some(outcome) = self.log.outcome(wait)? else { return Ok(()) };
        let Some(committing) = self.under_way.take() else { return Ok(()) };
        match outcome {
            Outcome::Committed(ends) => self.apply(committing, &ends),
            Outcome::Aborted(why) => {
                tracing::warn!(%why, "transaction aborted; going back to the last checkpoint");
                self.of.progress.aborted();
                self.rewind()
            }
            Outcome::Unknown(why) => {
                tracing::warn!(%why, "outcome of a commit is unknown; reading the committed offsets back");
                self.of.progress.unknown();
                self.decide(committing)
            }
        }
    }

    /// The checkpoints that this commit makes: of every task that is to be closed, and of some whose time has come, so
    /// that not all are made at once.
    fn checkpoints(&mut self, closing: &[Part]) -> BTreeMap<Part, Checkpoint> {
        let now = self.of.clock.elapsed();
        let mut by_age = 0;
        let mut saved = BTreeMap::new();
        for (part, running) in &mut self.tasks {
            if running.replaying().is_some() || !running.is_unsaved() {
                continue;
            }
            if !closing.contains(part) {
                if !running.wants_checkpoint(now) {
                    continue;
                }
                if running.is_patient() {
                    by_age += 1;
                    if by_age > CHECKPOINTS_MAX {
                        continue;
                    }
                }
            }
            saved.extend(running.checkpoint().map(|checkpoint| (part.clone(), checkpoint)));
        }
        saved
    }

    fn pass_time(&mut self) -> Result<(), Error> {
        let clock = self.of.clock.now();
        let done = self.at_their_ends();
        self.end_replays(&done);
        let mut out = Out { outbox: &mut self.outbox, counts: &mut self.counts, voice: Voice::All };
        for (part, running) in &mut self.tasks {
            if running.role == Role::Stage(Stage::Intake) {
                let is_done = done.contains(part) && !self.waiting.contains_key(part);
                let floor = self.of.progress.floor(part, is_done, running.task.now(), clock);
                // A replay says nothing, the time neither.
                let is_time = clock.saturating_sub(running.ticked_at) >= TICK_MS || running.ticked_at > clock;
                if is_time && running.replaying().is_none() {
                    running.ticked_at = clock;
                    let at = if is_done { floor } else { running.task.now() };
                    running.tick(at, &mut out)?;
                }
            }
        }
        Ok(())
    }

    /// Replays that are over, or that have nothing left to read: the last of it may be markers and no records.
    fn end_replays(&mut self, done: &BTreeSet<Part>) {
        for (part, running) in &mut self.tasks {
            // An end before the committed offset is one of long ago.
            let is_end = |end: i64| end >= running.committed;
            if done.contains(part) && !self.waiting.contains_key(part) && self.log.heard_end(part).is_some_and(is_end) {
                running.is_at_end();
            }
            match running.replaying() {
                Some((next, end)) => self.of.progress.restoring(part, next, end),
                None => self.of.progress.restored(part),
            }
        }
    }

    /// The transaction is visible: stores follow.
    fn apply(&mut self, committed: UnderWay, ends: &[(Part, i64)]) -> Result<(), Error> {
        let UnderWay { offsets, saved, counts, since } = committed;
        let ends: BTreeMap<&Part, i64> = ends.iter().map(|(part, end)| (part, *end)).collect();
        let now = self.of.clock.elapsed();
        for (part, next) in &offsets {
            let Some(running) = self.tasks.get_mut(part) else { continue };
            running.committed(*next);
            if let Some(checkpoint) = saved.get(part) {
                running.save(checkpoint, ends.get(&checkpoint.changelog).copied(), now)?;
            }
        }
        self.trim(&saved);
        super::metric::phase(Phase::Store, self.of.clock.elapsed().saturating_sub(now));
        super::metric::committed(&counts, self.of.clock.elapsed().saturating_sub(since));
        self.of.progress.committed(&counts);
        self.show();
        Ok(())
    }

    /// Lets go of rows when all tasks together hold too many; each keeps its share.
    fn trim(&mut self, saved: &BTreeMap<Part, Checkpoint>) {
        let held: usize = self.tasks.values().map(|running| running.task.held_len()).sum();
        if held <= self.of.options.rows_in_hand {
            return;
        }
        let share = self.of.options.rows_in_hand as f64 / held as f64;
        for part in saved.keys() {
            if let Some(running) = self.tasks.get_mut(part) {
                let rows = running.task.held_len() as f64 * share;
                running.task.trim_to(rows as usize);
            }
        }
    }

    fn show(&self) {
        let lags: BTreeMap<Part, i64> = self.log.lags().into_iter().collect();
        let tasks = self.tasks.iter().map(|(part, running)| (part.clone(), shown_as(running, lags.get(part).copied())));
        self.of.progress.show(tasks);
    }

    /// Drops everything since the last checkpoint, of every task, and reads it again.
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
        let back: Vec<(Part, i64)> = self.tasks.iter().map(|(part, running)| (part.clone(), running.next)).collect();
        self.log.seek(&back)
    }

    /// Ends the doubt: a new producer of the same id closes what the old one left open, then the signs beside the committed
    /// offsets tell whether the transaction happened.
    fn decide(&mut self, doubted: UnderWay) -> Result<(), Error> {
        self.log.recreate()?;
        let parts: Vec<Part> = doubted.offsets.iter().map(|(part, _)| part.clone()).collect();
        let found = self.log.written(&parts)?;
        // A transaction writes all of its offsets or none; some may have been written anew by a new owner since.
        let happened = found.iter().any(|(_, is_ours)| *is_ours);
        let before = |part: &Part| self.tasks.get(part).map(|running| running.committed);
        // No commit at all is as it was before the first one.
        let stands = |part: &Part, found: Option<i64>| found.is_none() || found == before(part);
        let is_gone = |part: &Part, (found, is_ours): (Option<i64>, bool)| {
            if happened { !is_ours } else { !stands(part, found) }
        };
        let gone: Vec<Part> =
            parts.into_iter().zip(found).filter(|(part, found)| is_gone(part, *found)).map(|(part, _)| part).collect();
        if happened {
            // Where the changelog ended is not known; restoring a little more than needed changes nothing.
            self.apply(doubted, &[])?;
        }
        if !gone.is_empty() {
            // Its new owner has restored it from the changelog.
            tracing::warn!(parts = ?gone.iter().map(ToString::to_string).collect::<Vec<_>>(), "moved on without us; closed");
            self.close(&gone);
        }
        // What was stepped since goes on from what happened; but what a task that is gone brought about meanwhile is its new
        // owner's to say.
        if happened && gone.is_empty() { Ok(()) } else { self.rewind() }
    }

    fn open(&mut self, parts: Vec<Part>) -> Result<(), Error> {
        self.of.progress.rebalanced();
        // The offsets first: they wait out the transactions of earlier owners, so that the ends of the changelogs, which
        // are asked for afterwards, cover those.
        let committed = self.log.committed(&parts)?;
        let mut from = Vec::new();
        for (part, committed) in parts.into_iter().zip(committed) {
            let Some(role) = self.roles.of(&part.topic) else { continue };
            match role {
                Role::Control(kind) => {
                    let next = match committed {
                        Some(offset) => offset,
                        None => self.log.beginning(&part)?,
                    };
                    from.push((part.clone(), next));
                    let running = Running::control(kind, &part, next, &self.of.env);
                    self.opened(part, running);
                }
                Role::Stage(stage) => {
                    let partitions = self.log.partitions(&part.topic)?.unwrap_or(1);
                    let fresh = fresh_meta(&self.of.options.application_id, partitions, &self.of.env);
                    let changelog =
                        Part { topic: self.of.wiring.topics.changelog(stage).into(), partition: part.partition };
                    let place = (stage, part.clone(), changelog);
                    self.of.progress.restoring(&part, 0, 0);
                    let opening = Opening::begin(&mut self.log, self.of.stores.as_mut(), place, committed, fresh)?;
                    self.opening.insert(part, opening);
                }
            }
        }
        // Said even of none: the group waits for the answer to its assignment.
        self.log.assign(&from)
    }

    fn revoke(&mut self, parts: &[Part], lost: bool) -> Result<(), Error> {
        self.of.progress.rebalanced();
        if lost {
            self.await_outcome()?;
            self.log.abort()?;
            self.close(parts);
            self.rewind()?;
        } else {
            self.let_go(parts)?;
        }
        self.log.release(parts)
    }

    /// Works off what is in hand, saves these tasks and closes them.
    fn let_go(&mut self, parts: &[Part]) -> Result<(), Error> {
        self.work_off(parts)?;
        self.close(parts);
        Ok(())
    }

    fn close(&mut self, parts: &[Part]) {
        for part in parts {
            if let Some(opening) = self.opening.remove(part) {
                self.log.end_restore(&opening.changelog);
            }
            self.tasks.remove(part);
            let waited = self.waiting.remove(part).unwrap_or_default();
            self.waiting_bytes -= waited.iter().map(|record| record.value.as_ref().map_or(0, Vec::len)).sum::<usize>();
            self.of.progress.closed(part);
        }
    }
}

fn around<'a>(of: &'a Parts, poison: &'a BTreeSet<Place>) -> Around<'a> {
    Around {
        clock: of.clock.as_ref(),
        schemas: of.schemas.as_ref(),
        tenant: of.options.tenant.as_deref(),
        networks: of.networks.get(),
        poison,
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
