//! The tasks that one loop owns: opening them over their stores, restoring, feeding them, and what a commit makes of
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::outbox::Outbox;
use super::progress::Progress;
use super::{Clock, Error, Incoming, Log, Part, Schemas};
use crate::engine::frame::FrameReader;
use crate::engine::{ControlChange, Counter, Counts, Effects, Env, Input, Item, Key, Raw, Task, Write};
use crate::event::wire::{Encoding, decode_output, encoding_of};
use crate::event::{AttackStatus, Exemption, Millis, Reason, Reject};
use crate::state::{self, META_VERSION, Meta, Store};
use crate::topology::{Stage, Topics};

/// Rows of a changelog that are written to a store at a time while it is restored.
const RESTORE_BATCH: usize = 10_000;

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
}

/// Names that the loop looks up for each assigned partition.
#[derive(Debug)]
pub(super) struct Roles(BTreeMap<Arc<str>, Role>);

impl Roles {
    pub(super) fn new(topics: &Topics) -> Self {
        let stages = Stage::ALL.into_iter().map(|stage| (topics.input(stage).into(), Role::Stage(stage)));
        let control = [("attack-status", Control::AttackStatus), ("exemptions", Control::Exemptions)];
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
    pub(super) task: Task,
    /// `None` for a control partition: the tasks behind it remember what it said.
    pub(super) store: Option<Kept>,
    /// Next input offset, of the batch in hand.
    pub(super) next: i64,
    /// Next input offset, as last committed.
    pub(super) committed: i64,
    /// Something happened since the last commit.
    pub(super) touched: bool,
    /// Process time of the last tick (intake).
    pub(super) ticked_at: Millis,
}

/// A task that is to be opened.
pub(super) struct Opening<'a> {
    pub(super) stage: Stage,
    pub(super) part: &'a Part,
    /// The group's committed offset of its input.
    pub(super) committed: Option<i64>,
    /// The position of its store, should that be new.
    pub(super) fresh: Meta,
    pub(super) changelog: Part,
}

/// A store with its position.
pub(super) struct Kept {
    pub(super) rows: Box<dyn Store>,
    pub(super) meta: Meta,
    pub(super) changelog: Part,
}

/// What stays the same for all tasks of a loop.
pub(super) struct Around<'a> {
    pub(super) env: &'a Env,
    pub(super) clock: &'a dyn Clock,
    pub(super) schemas: &'a dyn Schemas,
    /// The tenant that the input topic is bound to.
    pub(super) tenant: Option<&'a str>,
}

/// Where what steps bring about goes until the commit.
pub(super) struct Out<'a> {
    pub(super) outbox: &'a mut Outbox,
    pub(super) log: &'a mut dyn Log,
    pub(super) counts: &'a mut Counts,
}

impl Running {
    /// Opens the task of a stage's partition: its store, brought up to the changelog's end.
    pub(super) fn open(
        log: &mut dyn Log,
        stores: &mut dyn Stores,
        progress: &Progress,
        opening: Opening<'_>,
    ) -> Result<Running, Error> {
        let Opening { stage, part, committed, fresh, changelog } = opening;
        let mut rows = stores.open(stage, part.partition)?;
        let mut meta = rows.meta()?;
        if let Some(held) = &meta {
            check_same(held, &fresh, part)?;
            // A store ahead of the log means another log: this cannot come of a crash, since rows follow commits.
            if committed.is_some_and(|committed| held.input_offset > committed) {
                tracing::warn!(%part, held = held.input_offset, ?committed, "store is ahead of the log; restoring anew");
                drop(rows);
                stores.wipe(stage, part.partition)?;
                rows = stores.open(stage, part.partition)?;
                meta = None;
            }
        }
        let is_new = meta.is_none();
        let mut meta = meta.unwrap_or(fresh);
        let restored = restore(log, rows.as_mut(), &mut meta, &changelog, progress, part)?;
        let next = match committed {
            Some(committed) => committed,
            None if is_new && restored > 0 => {
                return Err(Error::Setup(format!(
                    "{part}: its changelog holds state, but the group has no committed offset for it (offsets are kept \
                     for a limited time, see the broker's offsets.retention.minutes); set the group's offsets with \
                     kafka-consumer-groups.sh, or start over under another application_id"
                )));
            }
            None if is_new => log.beginning(part)?,
            None => meta.input_offset,
        };
        meta.input_offset = next;
        let task = Task::open(stage, state::read_singletons(rows.as_ref())?);
        Ok(Running {
            role: Role::Stage(stage),
            task,
            store: Some(Kept { rows, meta, changelog }),
            next,
            committed: next,
            touched: false,
            ticked_at: Millis::MIN,
        })
    }

    /// A control partition: no state, only its place.
    pub(super) fn control(control: Control, next: i64) -> Running {
        Running {
            role: Role::Control(control),
            task: Task::open(Stage::Intake, Vec::new()),
            store: None,
            next,
            committed: next,
            touched: false,
            ticked_at: Millis::MIN,
        }
    }

    /// Forgets everything since the last commit.
    pub(super) fn rewind(&mut self) -> Result<(), Error> {
        let rows = match &self.store {
            Some(kept) => state::read_singletons(kept.rows.as_ref())?,
            None => Vec::new(),
        };
        self.task = Task::open(self.task.stage(), rows);
        self.next = self.committed;
        self.touched = false;
        Ok(())
    }

    /// Works off records of its partition.
    pub(super) fn feed(&mut self, around: &Around<'_>, records: &[Incoming], out: &mut Out<'_>) -> Result<(), Error> {
        let fresh: Vec<&Incoming> = records.iter().filter(|record| record.offset >= self.next).collect();
        let Some(last) = fresh.last() else { return Ok(()) };
        self.touched = true;
        self.next = last.offset + 1;
        match self.role {
            Role::Stage(Stage::Intake) => fresh.into_iter().try_for_each(|record| self.raw(around, record, out)),
            Role::Stage(Stage::Source | Stage::Account | Stage::Site) => self.frames(around, &fresh, out),
            Role::Control(kind) => {
                let changes = fresh.into_iter().filter_map(|record| control_change(kind, record));
                let changes: Vec<ControlChange> = changes.collect();
                changes.into_iter().try_for_each(|change| self.step(around, Input::Control(change), None, out))
            }
        }
    }

    fn raw(&mut self, around: &Around<'_>, record: &Incoming, out: &mut Out<'_>) -> Result<(), Error> {
        let value = record.value.as_deref();
        let schema_header = record.header("__value_schema_id");
        let writer = match encoding_of(value, schema_header) {
            Ok(Encoding::Avro { schema_id, .. }) => around.schemas.writer(schema_id),
            Ok(Encoding::Json { .. }) | Err(_) => None,
        };
        let raw = Raw {
            value,
            schema_header,
            writer: writer.as_deref(),
            traceparent: record.header("traceparent").and_then(|h| std::str::from_utf8(h).ok()),
            timestamp: record.timestamp,
            clock: around.clock.now(),
            tenant: around.tenant,
        };
        self.step(around, Input::Raw(raw), Some(record), out)
    }

    fn frames(&mut self, around: &Around<'_>, records: &[&Incoming], out: &mut Out<'_>) -> Result<(), Error> {
        let stage = self.task.stage();
        let mut inputs = Vec::new();
        for record in records {
            let items = match FrameReader::new(record.value.as_deref().unwrap_or_default()) {
                Ok(items) => items,
                Err(reject) => {
                    out.counts.add(Counter::BrokenItems, 1);
                    out.outbox.dead_letter(out.log, &reject, stage, record, None)?;
                    continue;
                }
            };
            for item in items {
                match item.map(|item| input_of(stage, item)) {
                    Ok(Some(input)) => inputs.push((*record, input)),
                    Ok(None) => {
                        out.counts.add(Counter::BrokenItems, 1);
                        let reject = Reject::new(Reason::BrokenFrame, "an item that this stage does not take");
                        out.outbox.dead_letter(out.log, &reject, stage, record, None)?;
                    }
                    Err((reject, bytes)) => {
                        out.counts.add(Counter::BrokenItems, 1);
                        out.outbox.dead_letter(out.log, &reject, stage, record, Some(bytes))?;
                    }
                }
            }
        }
        let mut keys = Vec::new();
        for (_, input) in &inputs {
            self.task.reads(around.env, input, &mut keys);
        }
        self.load(keys)?;
        for (record, input) in inputs {
            // What falls due before an input comes before it, so that outputs follow from the log and not from how
            // batches were cut.
            if self.task.next_due().is_some_and(|due| input.at().is_some_and(|at| at >= due)) {
                let at = input.at().unwrap_or(Millis::MIN);
                self.feed_due_until(around, at, out)?;
            }
            self.step(around, input, Some(record), out)?;
        }
        Ok(())
    }

    /// Feeds what is due at stream time; one transaction takes a bounded number.
    pub(super) fn feed_due(&mut self, around: &Around<'_>, out: &mut Out<'_>) -> Result<(), Error> {
        self.feed_due_until(around, self.task.now(), out)
    }

    fn feed_due_until(&mut self, around: &Around<'_>, at: Millis, out: &mut Out<'_>) -> Result<(), Error> {
        let due = self.task.due(at);
        if due.is_empty() {
            return Ok(());
        }
        self.touched = true;
        let mut keys = Vec::new();
        for (at, what) in &due {
            self.task.reads(around.env, &Input::Due(*at, what.clone()), &mut keys);
        }
        self.load(keys)?;
        for (at, what) in due {
            self.step(around, Input::Due(at, what), None, out)?;
        }
        Ok(())
    }

    /// Intake: tells the stages behind it the time.
    pub(super) fn tick(&mut self, around: &Around<'_>, at: Millis, out: &mut Out<'_>) -> Result<(), Error> {
        self.touched = true;
        self.step(around, Input::Tick(at), None, out)
    }

    fn load(&mut self, mut keys: Vec<Key>) -> Result<(), Error> {
        let Some(kept) = &self.store else { return Ok(()) };
        let view = self.task.view_mut();
        keys.retain(|key| !view.holds(key));
        keys.sort_unstable();
        keys.dedup();
        for (key, row) in keys.iter().zip(state::read_rows(kept.rows.as_ref(), &keys)?) {
            view.load(key.clone(), row);
        }
        Ok(())
    }

    fn step(
        &mut self,
        around: &Around<'_>,
        input: Input<'_>,
        cause: Option<&Incoming>,
        out: &mut Out<'_>,
    ) -> Result<(), Error> {
        let mut effects = Effects::default();
        self.task.step(around.env, input, &mut effects);
        if self.task.view_mut().unread() > 0 {
            return Err(Error::Kafka(format!(
                "{}: a step touched a row that was not read for it; this is a defect, and going on could lose a row",
                self.task.stage()
            )));
        }
        out.counts.merge(&effects.counts);
        effects.outputs.into_iter().try_for_each(|output| out.outbox.put(out.log, output, cause))
    }

    /// The changed rows, for the changelog and the store.
    pub(super) fn seal(&mut self, env: &Env) -> Vec<Write> {
        if self.store.is_some() { self.task.seal(env) } else { Vec::new() }
    }

    /// After the commit: the same rows go into the store, with the position that they belong to.
    pub(super) fn apply(&mut self, writes: &[Write], ends: &BTreeMap<Part, i64>) -> Result<(), Error> {
        self.committed = self.next;
        self.touched = false;
        let stream_time = self.task.now();
        let Some(kept) = &mut self.store else { return Ok(()) };
        kept.meta.input_offset = self.next;
        if let Some(end) = ends.get(&kept.changelog) {
            kept.meta.changelog_offset = *end;
        }
        kept.meta.stream_time = stream_time;
        kept.meta.commits += 1;
        kept.rows.apply(writes, &kept.meta)?;
        self.task.trim();
        Ok(())
    }
}

/// What the store must have been written under.
fn check_same(held: &Meta, fresh: &Meta, part: &Part) -> Result<(), Error> {
    if held.application_id != fresh.application_id {
        return Err(Error::Setup(format!("{part}: the store belongs to application `{}`", held.application_id)));
    }
    if held.partitions != fresh.partitions {
        return Err(Error::Setup(format!(
            "{part}: the state was made for {} partitions, the topic has {}; keys lie elsewhere now. Give the topic its \
             old count back, or start over under another application_id",
            held.partitions, fresh.partitions
        )));
    }
    if held.hash_key_id != fresh.hash_key_id {
        return Err(Error::Setup(format!(
            "{part}: the state was made under another hash_key; set that one again, or start over under another \
             application_id"
        )));
    }
    Ok(())
}

/// Brings a store up to the end of its changelog; gives how many records were read.
fn restore(
    log: &mut dyn Log,
    rows: &mut dyn Store,
    meta: &mut Meta,
    changelog: &Part,
    progress: &Progress,
    part: &Part,
) -> Result<u64, Error> {
    let mut batch: Vec<Write> = Vec::new();
    let (mut read, from) = (0u64, meta.changelog_offset);
    let mut applied = meta.clone();
    let end = {
        let mut each = |key: &[u8], value: Option<&[u8]>, (offset, end): (i64, i64)| -> Result<(), Error> {
            batch.push((Key::from_bytes(key), value.map(<[u8]>::to_vec)));
            read += 1;
            if batch.len() >= RESTORE_BATCH {
                applied.changelog_offset = offset + 1;
                rows.apply(&batch, &applied)?;
                batch.clear();
                progress.restoring(part, offset + 1 - from, end - from);
            }
            Ok(())
        };
        log.restore(changelog, from, &mut each)?
    };
    meta.changelog_offset = end;
    if !batch.is_empty() || end > from {
        rows.apply(&batch, meta)?;
    }
    progress.restored(part);
    if read > 0 {
        tracing::info!(%part, records = read, "state restored");
    }
    Ok(read)
}

/// The input of an item at a stage; `None` when the item has no business there.
fn input_of(stage: Stage, item: Item) -> Option<Input<'static>> {
    match (stage, item) {
        (Stage::Source, Item::Attempt(attempt)) => Some(Input::Attempt(attempt)),
        (Stage::Account, Item::Sourced(sourced)) => Some(Input::Sourced(sourced)),
        (Stage::Account, Item::Note(note)) => Some(Input::Note(note)),
        (Stage::Site, Item::Partial(partial)) => Some(Input::Partial(partial)),
        (Stage::Source | Stage::Account | Stage::Site, Item::Mark(mark)) => Some(Input::Mark(mark)),
        (
            Stage::Intake | Stage::Source | Stage::Account | Stage::Site,
            Item::Attempt(_) | Item::Sourced(_) | Item::Note(_) | Item::Partial(_) | Item::Mark(_),
        ) => None,
    }
}

/// A record of a control topic as a change; its offset is its version. One that does not read changes nothing.
fn control_change(kind: Control, record: &Incoming) -> Option<ControlChange> {
    let key = std::str::from_utf8(record.key.as_deref()?).ok()?;
    let version = record.offset;
    match kind {
        Control::AttackStatus => {
            let status = record.value.as_deref().map(|v| decode_output::<AttackStatus>("attack-status", v)).transpose();
            match status {
                Ok(status) => {
                    Some(ControlChange::Status { version, tenant: key.into(), status: status.as_ref().map(Into::into) })
                }
                Err(error) => unreadable(record, &error),
            }
        }
        Control::Exemptions => {
            let exemption = record.value.as_deref().map(|v| decode_output::<Exemption>("exemptions", v)).transpose();
            match exemption {
                Ok(exemption) => Some(ControlChange::Exemption { version, key: key.into(), exemption }),
                Err(error) => unreadable(record, &error),
            }
        }
    }
}

fn unreadable(record: &Incoming, error: &dyn std::fmt::Display) -> Option<ControlChange> {
    tracing::warn!(part = %record.part, offset = record.offset, %error, "control record does not read; it changes nothing");
    None
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
        commits: 0,
    }
}
