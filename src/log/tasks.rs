//! The tasks that one loop owns: feeding them, replaying, and what a commit and a checkpoint make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::outbox::Outbox;
use super::{Clock, Error, Incoming, Outgoing, Part, Place, Schemas};
use crate::engine::frame::{FrameReader, FrameWriter, item_bytes};
use crate::engine::{ControlChange, Counter, Counts, Effects, Env, Input, Item, Key, Output, Raw, Task, Write};
use crate::event::wire::{Encoding, decode_output, encoding_of};
use crate::event::{AttackStatus, Command, Exemption, Millis, Reason, Reject};
use crate::state::{self, META_VERSION, Meta, Store};
use crate::topology::networks::Networks;
use crate::topology::{Request, Stage, Topics, read_change};

/// Where stores come from.
pub trait Stores: Send {
    /// Opens the store of a task.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(&mut self, stage: Stage, partition: i32) -> Result<Box<dyn Store>, state::Error>;

    /// Removes the store of a task; it must not be open.
    ///
    /// # Errors
    /// It cannot be removed.
    fn wipe(&mut self, stage: Stage, partition: i32) -> Result<(), state::Error>;
}

/// What a partition of the group's topics is to the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The input of a stage.
    Stage(Stage),
    /// A control topic, read by intake and remembered by the tasks behind it.
    Control(Control),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    AttackStatus,
    Exemptions,
    Playbooks,
    Commands,
}

/// Names that the loop looks up for each assigned partition.
#[derive(Debug)]
pub(super) struct Roles(BTreeMap<Arc<str>, Role>);

impl Roles {
    pub(super) fn new(topics: &Topics) -> Self {
        let stages = Stage::ALL.into_iter().map(|stage| (topics.input(stage).into(), Role::Stage(stage)));
        let control = [
            ("attack-status", Control::AttackStatus),
            ("exemptions", Control::Exemptions),
            ("playbooks", Control::Playbooks),
            ("commands", Control::Commands),
        ];
        let control = control.into_iter().map(|(name, kind)| (topics.public(name).into(), Role::Control(kind)));
        Roles(stages.chain(control).collect())
    }

    pub(super) fn of(&self, topic: &str) -> Option<Role> {
        self.0.get(topic).copied()
    }

    /// Every topic that the group subscribes to.
    pub(super) fn topics(topics: &Topics) -> Vec<String> {
        Stage::ALL.into_iter().map(|stage| topics.input(stage)).chain(topics.control()).collect()
    }
}

/// One open task.
pub(super) struct Running {
    pub(super) role: Role,
    part: Part,
    pub(super) task: Task,
    /// `None` for a control partition: the tasks behind it remember what it said.
    pub(super) store: Option<Kept>,
    /// Next input offset, of the batch in hand.
    pub(super) next: i64,
    /// Next input offset, as last committed. While `next` is below it the task replays what it did since its last
    /// checkpoint: the same steps, and nothing comes out, since it came out before.
    pub(super) committed: i64,
    /// Something happened since the last commit.
    pub(super) touched: bool,
    /// Something happened since the last checkpoint.
    unsaved: bool,
    /// Process time of the last tick (intake).
    pub(super) ticked_at: Millis,
    /// It ticked since the last checkpoint.
    has_ticked: bool,
    /// Build and playbooks of this process.
    steps_id: u64,
    /// The rows of the last checkpoint came to be under others.
    is_changed: bool,
    /// When the last checkpoint was made.
    saved_at: Duration,
    effects: Effects,
    /// Kept for its memory.
    keys: Vec<Key>,
}

/// A store with its position.
pub(super) struct Kept {
    pub(super) rows: Box<dyn Store>,
    pub(super) meta: Meta,
    pub(super) changelog: Part,
}

/// What stays the same for all tasks of a loop.
pub(super) struct Around<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) schemas: &'a dyn Schemas,
    /// The tenant that the input topic is bound to.
    pub(super) tenant: Option<&'a str>,
    pub(super) networks: Arc<Networks>,
    /// What steps panic on, and is set aside.
    pub(super) poison: &'a BTreeSet<Place>,
}

/// Where what steps bring about goes until the commit.
pub(super) struct Out<'a> {
    pub(super) outbox: &'a mut Outbox,
    pub(super) counts: &'a mut Counts,
    pub(super) voice: Voice,
}

/// How much of what steps bring about is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    All,
    /// A replay under other playbooks or by another build than at first: state and blocklist must agree, and an entry that
    /// was there already is written once more. All else came out before.
    Blocks,
    /// A replay: everything came out before.
    Silent,
}

/// Longest time between two checkpoints of a task that has something to save: after a crash at most this much is
/// replayed.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(5);
/// Most changed rows of a task before a checkpoint is due.
const CHECKPOINT_ROWS_MAX: usize = 20_000;

impl Running {
    /// A task over its store. `committed`: the group's offset; `None` when there is none yet.
    ///
    /// # Errors
    /// The store does not read.
    pub(super) fn open(
        stage: Stage,
        rows: Box<dyn Store>,
        meta: Meta,
        changelog: Part,
        committed: Option<i64>,
        part: &Part,
        (env, steps_id): (&Arc<Env>, u64),
    ) -> Result<Running, Error> {
        let rows_in_hand = state::read_singletons(rows.as_ref()).map_err(|e| {
            Error::Setup(format!(
                "{part}: {e}. With the instance stopped, remove {stage}/{} from its state folder: the changelog restores it",
                part.partition
            ))
        })?;
        let task = Task::open(stage, rows_in_hand, env).speaking(stage == Stage::Site && part.partition == 0);
        let (saved, meta_steps) = (meta.input_offset, meta.steps_id);
        if committed.is_some_and(|committed| committed < saved) {
            tracing::warn!(%part, state = saved, ?committed, "the group's offset was set back behind the state");
        }
        Ok(Running {
            role: Role::Stage(stage),
            part: part.clone(),
            task,
            store: Some(Kept { rows, meta, changelog }),
            // Set back by somebody: reading again from there is what was asked for.
            next: committed.map_or(saved, |committed| committed.min(saved)),
            committed: committed.unwrap_or(saved),
            touched: false,
            unsaved: false,
            ticked_at: Millis::MIN,
            has_ticked: false,
            steps_id,
            is_changed: meta_steps != steps_id,
            saved_at: Duration::ZERO,
            effects: Effects::default(),
            keys: Vec::new(),
        })
    }

    /// A control partition: no state, only its place.
    pub(super) fn control(control: Control, part: &Part, next: i64, env: &Arc<Env>) -> Running {
        Running {
            role: Role::Control(control),
            part: part.clone(),
            task: Task::open(Stage::Intake, Vec::new(), env),
            store: None,
            next,
            committed: next,
            touched: false,
            unsaved: false,
            ticked_at: Millis::MIN,
            has_ticked: false,
            steps_id: 0,
            is_changed: false,
            saved_at: Duration::ZERO,
            effects: Effects::default(),
            keys: Vec::new(),
        }
    }

    /// Goes on at the first offset that its input still holds, when that lies behind its own.
    pub(super) fn skip_to(&mut self, beginning: i64) {
        let Some(kept) = &mut self.store else { return };
        if self.next >= beginning {
            return;
        }
        tracing::warn!(part = %self.part, from = self.next, to = beginning, "input is gone; going on without it, as told");
        self.next = beginning;
        self.committed = self.committed.max(beginning);
        kept.meta.input_offset = kept.meta.input_offset.max(beginning);
        // The next start finds no gap.
        self.touched = true;
        self.unsaved = true;
    }

    /// Forgets everything since the last checkpoint; what was committed since then is replayed.
    pub(super) fn rewind(&mut self) -> Result<(), Error> {
        let (rows, saved) = match &self.store {
            Some(kept) => (state::read_singletons(kept.rows.as_ref())?, kept.meta.input_offset),
            None => (Vec::new(), self.committed),
        };
        self.task = self.task.reopened(rows);
        self.next = saved.min(self.committed);
        self.touched = false;
        self.unsaved = false;
        self.has_ticked = false;
        Ok(())
    }

    /// How much is still to be replayed: the next offset, and where it ends.
    pub(super) fn replaying(&self) -> Option<(i64, i64)> {
        (self.next < self.committed).then_some((self.next, self.committed))
    }

    /// Everything before the committed offset was read, though the last of it was a marker and no record.
    pub(super) fn is_at_end(&mut self) {
        self.next = self.next.max(self.committed);
    }

    /// Works off records of its partition.
    pub(super) fn feed(&mut self, around: &Around<'_>, records: &[Incoming], out: &mut Out<'_>) -> Result<(), Error> {
        let records = &records[records.partition_point(|record| record.offset < self.next)..];
        let (again, new) = records.split_at(records.partition_point(|record| record.offset < self.committed));
        let voice = if self.is_changed { Voice::Blocks } else { Voice::Silent };
        self.feed_some(around, again, &mut Out { voice, ..out.again() })?;
        self.feed_some(around, new, out)
    }

    fn feed_some(&mut self, around: &Around<'_>, records: &[Incoming], out: &mut Out<'_>) -> Result<(), Error> {
        let Some(last) = records.last() else { return Ok(()) };
        self.touched |= out.voice == Voice::All;
        self.unsaved = true;
        self.next = last.offset + 1;
        match self.role {
            Role::Stage(Stage::Intake) => records.iter().try_for_each(|record| self.raw(around, record, out)),
            Role::Stage(Stage::Source | Stage::Account | Stage::Site) => self.frames(around, records, out),
            Role::Control(kind) => {
                records.iter().try_for_each(|record| match control_change(kind, record, around.clock.now()) {
                    Ok(change) => self.step(Input::Control(change), &Cause::Item(record, 0), out),
                    Err(error) => {
                        let (part, offset) = (&record.part, record.offset);
                        tracing::warn!(%part, offset, error, "control record does not read; it changes nothing");
                        out.counts.add(Counter::PlaybooksRejected, u64::from(kind == Control::Playbooks));
                        Ok(())
                    }
                })
            }
        }
    }

    fn raw(&mut self, around: &Around<'_>, record: &Incoming, out: &mut Out<'_>) -> Result<(), Error> {
        let cause = Cause::Item(record, 0);
        if !around.poison.is_empty() && around.poison.contains(&cause.place(&self.part)) {
            self.set_aside(record, None, out);
            return Ok(());
        }
        let value = record.value.as_deref();
        let schema_header = record.header("__value_schema_id");
        let writer = self.guarded(&cause, |_| match encoding_of(value, schema_header) {
            Ok(Encoding::Avro { schema_id, .. }) => around.schemas.writer(schema_id),
            Ok(Encoding::Json { .. }) | Err(_) => None,
        })?;
        let raw = Raw {
            value,
            schema_header,
            writer: writer.as_deref(),
            traceparent: record.header("traceparent").and_then(|h| std::str::from_utf8(h).ok()),
            timestamp: record.timestamp,
            clock: around.clock.now(),
            tenant: around.tenant,
            networks: Some(&around.networks),
        };
        self.step(Input::Raw(raw), &cause, out)
    }

    fn frames(&mut self, around: &Around<'_>, records: &[Incoming], out: &mut Out<'_>) -> Result<(), Error> {
        // One frame at a time: its rows are asked for together, and are still in the processor's cache when they are used.
        for record in records {
            let inputs = self.inputs(around, record, out);
            let mut keys = std::mem::take(&mut self.keys);
            keys.clear();
            for (_, input) in &inputs {
                self.task.reads(input, &mut keys);
            }
            self.load(&mut keys)?;
            self.keys = keys;
            let mut has_turned = false;
            for (cause, input) in inputs {
                has_turned |= self.feed_due(around, &input, out)?;
                has_turned |= self.turn_to(&input, &cause, out)?;
                if has_turned {
                    // Under another plan it may touch other rows.
                    self.read(&input)?;
                }
                self.step(input, &cause, out)?;
            }
        }
        Ok(())
    }

    /// Brings the task's plan to the time of an input; `true` when it became another one.
    fn turn_to(&mut self, input: &Input<'_>, cause: &Cause<'_>, out: &mut Out<'_>) -> Result<bool, Error> {
        if !self.task.turns_at(input) {
            return Ok(false);
        }
        let mut effects = std::mem::take(&mut self.effects);
        self.guarded(cause, |running| running.task.turn_to(input, &mut effects))?;
        let done = out.take(&mut effects, cause.record());
        self.effects = effects;
        done.map(|()| true)
    }

    /// Has the rows in hand that an input touches.
    fn read(&mut self, input: &Input<'_>) -> Result<(), Error> {
        let mut keys = std::mem::take(&mut self.keys);
        keys.clear();
        self.task.reads(input, &mut keys);
        self.load(&mut keys)?;
        self.keys = keys;
        Ok(())
    }

    /// The items of a frame. What does not read, and what made a step panic again and again, is set aside.
    fn inputs<'a>(
        &self,
        around: &Around<'_>,
        record: &'a Incoming,
        out: &mut Out<'_>,
    ) -> Vec<(Cause<'a>, Input<'static>)> {
        let stage = self.task.stage();
        let items = match FrameReader::new(record.value.as_deref().unwrap_or_default()) {
            Ok(items) => items,
            Err(reject) => {
                out.broken(&reject, stage, record, None);
                return Vec::new();
            }
        };
        let mut inputs = Vec::with_capacity(FrameWriter::ITEMS_MAX);
        for (number, item) in items.enumerate() {
            let cause = Cause::Item(record, number);
            if !around.poison.is_empty() && around.poison.contains(&cause.place(&self.part)) {
                self.set_aside(record, item.ok().map(|item| item_bytes(&item)), out);
                continue;
            }
            match item.map(|item| input_of(stage, item)) {
                Ok(Some(input)) => inputs.push((cause, input)),
                Ok(None) => {
                    let reject = Reject::new(Reason::BrokenFrame, "an item that this stage does not take");
                    out.broken(&reject, stage, record, None);
                }
                Err((reject, bytes)) => out.broken(&reject, stage, record, Some(bytes)),
            }
        }
        inputs
    }

    /// A record, or one item of it, on which steps panic: a dead letter.
    fn set_aside(&self, record: &Incoming, item: Option<Vec<u8>>, out: &mut Out<'_>) {
        let reject =
            Reject::new(Reason::Poison, "a step panicked on it several times; the log of the job has its words");
        let stage = self.task.stage();
        if stage == Stage::Intake && out.voice == Voice::All {
            out.counts.add(Counter::EventsIn, 1);
            out.counts.add(Counter::DeadLetters, 1);
            out.outbox.dead_letter(&reject, stage, record, None);
        } else {
            out.broken(&reject, stage, record, item.as_deref());
        }
    }

    /// What must come before an input; `true` when the plan became another one meanwhile.
    fn feed_due(&mut self, around: &Around<'_>, input: &Input<'_>, out: &mut Out<'_>) -> Result<bool, Error> {
        let mut has_turned = false;
        loop {
            let due = self.task.due_before(input);
            if due.is_empty() {
                return Ok(has_turned);
            }
            let mut keys = Vec::new();
            for (at, what) in &due {
                self.task.reads(&Input::Due(*at, what.clone()), &mut keys);
            }
            self.load(&mut keys)?;
            for (at, what) in due {
                // What fell due may have made something else fall due, sooner than what comes next here.
                if !self.task.is_due_next(at, &what) {
                    break;
                }
                let cause = Cause::Due(at, what.clone());
                if !around.poison.is_empty() && around.poison.contains(&cause.place(&self.part)) {
                    tracing::error!(part = %self.part, at, ?what, "due, and steps panic on it; dropped");
                    self.task.drop_due(at, &what);
                    continue;
                }
                let input = Input::Due(at, what);
                if self.turn_to(&input, &cause, out)? {
                    has_turned = true;
                    self.read(&input)?;
                }
                self.step(input, &cause, out)?;
            }
        }
    }

    /// Intake: tells the stages behind it the time.
    pub(super) fn tick(&mut self, at: Millis, out: &mut Out<'_>) -> Result<(), Error> {
        self.touched = true;
        self.unsaved = true;
        self.has_ticked = true;
        self.step(Input::Tick(at), &Cause::Tick, out)
    }

    /// Has the rows of these keys in hand.
    fn load(&mut self, keys: &mut Vec<Key>) -> Result<(), Error> {
        let Some(kept) = &self.store else { return Ok(()) };
        let view = self.task.view_mut();
        keys.retain(|key| !view.holds(key));
        if keys.is_empty() {
            return Ok(());
        }
        keys.sort_unstable();
        keys.dedup();
        let rows = state::read_rows(kept.rows.as_ref(), keys)?;
        for (key, row) in keys.drain(..).zip(rows) {
            view.load(key, row);
        }
        Ok(())
    }

    fn step(&mut self, input: Input<'_>, cause: &Cause<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        let mut effects = std::mem::take(&mut self.effects);
        self.guarded(cause, |running| running.task.step(input, &mut effects))?;
        if self.task.view_mut().unread() > 0 {
            return Err(Error::Kafka(format!(
                "{}: a step touched a row that was not read for it; this is a defect, and going on could lose a row",
                self.task.stage()
            )));
        }
        let done = out.take(&mut effects, cause.record());
        self.effects = effects;
        done
    }

    /// Does something that may panic. What a panic leaves behind is thrown away: the loop goes back to the last
    /// checkpoint.
    fn guarded<T>(&mut self, cause: &Cause<'_>, act: impl FnOnce(&mut Self) -> T) -> Result<T, Error> {
        catch_unwind(AssertUnwindSafe(|| act(self)))
            .map_err(|panic| Error::Panicked { place: cause.place(&self.part), words: words_of(panic.as_ref()) })
    }

    /// Whether it is time for a checkpoint. Intake has one with every tick, which is in no log.
    pub(super) fn wants_checkpoint(&self, now: Duration) -> bool {
        let Some(kept) = &self.store else { return false };
        // The first one says that there is state, so that state which went missing is noticed.
        self.unsaved
            && (self.has_ticked
                || kept.meta.checkpoints == 0
                || self.task.dirty_len() >= CHECKPOINT_ROWS_MAX
                || now.saturating_sub(self.saved_at) >= CHECKPOINT_AFTER)
    }

    /// Whether its checkpoint can wait for the next commit.
    pub(super) fn is_patient(&self) -> bool {
        self.task.stage() != Stage::Intake
            && self.task.dirty_len() < CHECKPOINT_ROWS_MAX
            && self.store.as_ref().is_some_and(|kept| kept.meta.checkpoints > 0)
    }

    /// Whether there is something that a checkpoint would save.
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved && self.store.is_some()
    }

    /// Rows changed since the last checkpoint, and the position they belong to.
    pub(super) fn checkpoint(&mut self) -> Option<Checkpoint> {
        let kept = self.store.as_ref()?;
        let writes = self.task.seal();
        // Should its transaction fail, everything goes back to the last one.
        self.unsaved = false;
        self.has_ticked = false;
        let meta = Meta {
            input_offset: self.next,
            stream_time: self.task.now(),
            steps_id: self.steps_id,
            checkpoints: kept.meta.checkpoints + 1,
            ..kept.meta.clone()
        };
        Some(Checkpoint { writes, meta, changelog: kept.changelog.clone() })
    }

    /// A commit up to this offset has succeeded.
    pub(super) fn committed(&mut self, next: i64) {
        self.committed = next;
    }

    /// The commit that held this checkpoint has succeeded: the same rows go into the store, with their position.
    pub(super) fn save(&mut self, saved: &Checkpoint, end: Option<i64>, now: Duration) -> Result<(), Error> {
        let Some(kept) = &mut self.store else { return Ok(()) };
        let changelog_offset = end.unwrap_or(kept.meta.changelog_offset);
        kept.meta = Meta { changelog_offset, ..saved.meta.clone() };
        kept.rows.apply(&saved.writes, &kept.meta)?;
        self.is_changed = false;
        self.saved_at = now;
        Ok(())
    }
}

/// What a task saves at once.
pub(super) struct Checkpoint {
    pub(super) writes: Vec<Write>,
    pub(super) meta: Meta,
    pub(super) changelog: Part,
}

impl Checkpoint {
    /// The records of the changelog. The position comes last.
    pub(super) fn records(&self) -> impl Iterator<Item = Outgoing> + '_ {
        let record = |key: &[u8], value: Option<Vec<u8>>| Outgoing {
            topic: Arc::clone(&self.changelog.topic),
            partition: Some(self.changelog.partition),
            key: Some(key.to_vec()),
            value,
            headers: Vec::new(),
        };
        let rows = self.writes.iter().map(move |(key, value)| record(key.as_bytes(), value.clone()));
        rows.chain(std::iter::once_with(move || record(state::POSITION_KEY, Some(self.meta.encode()))))
    }
}

/// What a step was woken by.
enum Cause<'a> {
    Item(&'a Incoming, usize),
    Due(Millis, Key),
    Tick,
}

impl Cause<'_> {
    const fn record(&self) -> Option<&Incoming> {
        match self {
            Cause::Item(record, _) => Some(record),
            Cause::Due(..) | Cause::Tick => None,
        }
    }

    fn place(&self, part: &Part) -> Place {
        match self {
            Cause::Item(record, item) => Place::Item { part: part.clone(), offset: record.offset, item: *item },
            Cause::Due(at, what) => Place::Due { part: part.clone(), at: *at, what: what.clone() },
            Cause::Tick => Place::Tick { part: part.clone() },
        }
    }
}

impl Out<'_> {
    /// The same, borrowed anew.
    fn again(&mut self) -> Out<'_> {
        Out { outbox: self.outbox, counts: self.counts, voice: self.voice }
    }

    /// Carries out what a step brought about, and leaves it empty. In silence it happened before.
    fn take(&mut self, effects: &mut Effects, cause: Option<&Incoming>) -> Result<(), Error> {
        if self.voice != Voice::All {
            effects.counts = Counts::default();
            let speaks = self.voice == Voice::Blocks;
            effects.outputs.retain(|output| speaks && matches!(output, Output::Block(_)));
        }
        self.counts.merge(&effects.counts);
        effects.counts = Counts::default();
        effects.outputs.drain(..).try_for_each(|output| self.outbox.put(output, cause))
    }

    fn broken(&mut self, reject: &Reject, stage: Stage, record: &Incoming, item: Option<&[u8]>) {
        if self.voice == Voice::All {
            self.counts.add(Counter::BrokenItems, 1);
            self.outbox.dead_letter(reject, stage, record, item);
        }
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|words| (*words).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".to_owned())
}

/// The input of an item at a stage; `None` when the item has no business there.
fn input_of(stage: Stage, item: Item) -> Option<Input<'static>> {
    match (stage, item) {
        (Stage::Source, Item::Attempt(attempt)) => Some(Input::Attempt(attempt)),
        (Stage::Account, Item::Sourced(sourced)) => Some(Input::Sourced(sourced)),
        (Stage::Account, Item::Device(sourced)) => Some(Input::Device(sourced)),
        (Stage::Account, Item::Note(note)) => Some(Input::Note(note)),
        (Stage::Site, Item::Partial(partial)) => Some(Input::Partial(partial)),
        (Stage::Source | Stage::Account | Stage::Site, Item::Mark(mark)) => Some(Input::Mark(mark)),
        (Stage::Source | Stage::Account | Stage::Site, Item::Request(request)) => Some(Input::Request(request)),
        (
            Stage::Intake | Stage::Source | Stage::Account | Stage::Site,
            Item::Attempt(_)
            | Item::Sourced(_)
            | Item::Device(_)
            | Item::Note(_)
            | Item::Partial(_)
            | Item::Mark(_)
            | Item::Request(_),
        ) => None,
    }
}

/// A record of a control topic as a change; its offset is its version.
///
/// # Errors
/// It does not read, and changes nothing.
fn control_change(kind: Control, record: &Incoming, clock: Millis) -> Result<ControlChange, String> {
    let version = record.offset;
    let value = record.value.as_deref();
    let key = || {
        let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        key.map(Into::into).ok_or_else(|| "no key, or one that is no text".to_owned())
    };
    match kind {
        Control::AttackStatus => {
            let status = value.map(|v| decode_output::<AttackStatus>("attack-status", v)).transpose();
            let status = status.map_err(|e| e.to_string())?;
            Ok(ControlChange::Status { version, tenant: key()?, status: status.as_ref().map(Into::into) })
        }
        Control::Exemptions => {
            let exemption = value.map(|v| decode_output::<Exemption>("exemptions", v)).transpose();
            Ok(ControlChange::Exemption { version, key: key()?, exemption: exemption.map_err(|e| e.to_string())? })
        }
        Control::Commands => {
            let value = value.ok_or("no value")?;
            let command = decode_output::<Command>("commands", value).map_err(|e| e.to_string())?;
            let request = Box::new(Request::of(&command, record.timestamp.min(clock))?);
            Ok(ControlChange::Command { version, request })
        }
        Control::Playbooks => {
            if record.part.partition != 0 {
                return Err("the topic of playbooks has one partition, or its changes had no order".to_owned());
            }
            let at = record.timestamp.min(clock);
            let (key, change) = read_change(record.key.as_deref(), value, |name| record.header(name), at)?;
            Ok(ControlChange::Playbook { version, key, change })
        }
    }
}

/// The position of a store that was never written.
pub(super) fn fresh_meta(application_id: &str, partitions: i32, env: &Env) -> Meta {
    Meta {
        version: META_VERSION,
        application_id: application_id.to_owned(),
        partitions,
        hash_key_id: env.hash_key.id(),
        input_offset: 0,
        changelog_offset: 0,
        stream_time: Millis::MIN,
        steps_id: env.steps_id(),
        checkpoints: 0,
    }
}
