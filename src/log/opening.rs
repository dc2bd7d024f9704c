//! A task that is being opened: its store is brought up to the end of its changelog, while other tasks go on.

use std::sync::Arc;

use super::progress::Progress;
use super::tasks::{Running, Stores};
use super::{Error, Log, Part, Restored};
use crate::engine::{Env, Key, Row, Write};
use crate::state::{Meta, POSITION_KEY, Store};
use crate::topology::Stage;

/// Rows that are written to a store at a time while it is restored.
const BATCH_ROWS: usize = 20_000;

/// A task between its assignment and its first input.
pub(super) struct Opening {
    pub(super) stage: Stage,
    pub(super) part: Part,
    pub(super) changelog: Part,
    /// The group's committed offset of its input.
    committed: Option<i64>,
    rows: Box<dyn Store>,
    meta: Meta,
    /// Neither the store nor, so far, the changelog has told a position.
    is_new: bool,
    /// Build and playbooks of this process.
    steps_id: u64,
    /// State and offsets did not fit together once, and both were asked for again.
    was_doubted: bool,
    batch: Vec<Write>,
    read: u64,
    from: i64,
}

/// What became of an [`Opening`] whose changelog is at its end.
pub(super) enum Finished {
    Running(Box<Running>),
    /// State and offsets do not fit together; it reads on from here.
    Again(Box<Opening>),
}

impl Opening {
    /// Opens the store and begins to read what it misses.
    ///
    /// # Errors
    /// The store does not open or was made under other conditions, or the changelog cannot be read.
    pub(super) fn begin(
        log: &mut dyn Log,
        stores: &mut dyn Stores,
        (stage, part, changelog): (Stage, Part, Part),
        committed: Option<i64>,
        fresh: Meta,
    ) -> Result<Opening, Error> {
        let rows = stores.open(stage, part.partition)?;
        let held = rows.meta()?;
        if let Some(held) = &held {
            check_same(held, &fresh, &part, stage)?;
        }
        // A store that read a changelog without a checkpoint, of markers and what was aborted, has a position all the same.
        let is_new = held.as_ref().is_none_or(|held| held.checkpoints == 0);
        let steps_id = fresh.steps_id;
        let meta = held.unwrap_or(fresh);
        let from = meta.changelog_offset;
        log.restore(&changelog, from)?;
        Ok(Opening {
            stage,
            part,
            changelog,
            committed,
            rows,
            meta,
            is_new,
            steps_id,
            was_doubted: false,
            batch: Vec::new(),
            read: 0,
            from,
        })
    }

    /// Takes one record of the changelog.
    ///
    /// # Errors
    /// It is no row of this application, or the store does not write.
    pub(super) fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        self.read += 1;
        if key == POSITION_KEY {
            let Some(value) = value else { return Err(self.corrupt("its position is a tombstone")) };
            let position = Meta::decode(value).map_err(|e| self.corrupt(&e.to_string()))?;
            check_same(&position, &self.meta, &self.part, self.stage)?;
            self.meta = Meta { changelog_offset: self.meta.changelog_offset, ..position };
            self.is_new = false;
            return Ok(());
        }
        let key = Key::from_bytes(key);
        if let Some(value) = value {
            Row::check(&key, value).map_err(|e| self.corrupt(&e.to_string()))?;
        }
        self.batch.push((key, value.map(<[u8]>::to_vec)));
        if self.batch.len() >= BATCH_ROWS {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        Ok(self.rows.apply(&batch, &self.meta)?)
    }

    fn corrupt(&self, what: &str) -> Error {
        Error::Setup(format!(
            "{}: record {} after offset {} does not belong here: {what}. Was the topic written by another program or \
             version? `portcullis state verify` compares it with a state folder; to do without it, stop every instance, \
             delete the topic's records and start under another application_id",
            self.changelog, self.read, self.from
        ))
    }

    /// Takes note of how far it is.
    pub(super) fn went(&mut self, restored: &Restored, progress: &Progress) {
        // Only what was written to the store counts as restored, should it be closed now.
        if self.batch.is_empty() {
            self.meta.changelog_offset = restored.next;
        }
        progress.restoring(&self.part, restored.next - self.from, restored.end - self.from);
    }

    /// The changelog is at its end: the task, at its last checkpoint.
    ///
    /// # Errors
    /// State and offsets do not fit together, or the store does not write.
    pub(super) fn finish(
        mut self,
        log: &mut dyn Log,
        end: i64,
        progress: &Progress,
        env: &Arc<Env>,
    ) -> Result<Finished, Error> {
        let was_read = end > self.from;
        self.meta.changelog_offset = end;
        if was_read {
            self.write()?;
            if self.read > 0 {
                tracing::info!(part = %self.part, records = self.read, "state restored");
            }
        }
        if self.committed.is_some() == self.is_new && !self.was_doubted {
            // If this process stood still for long, somebody else has the task by now: what he committed was not there
            // when the offset was asked for, and compaction has removed what his records replace.
            self.committed = log.committed(std::slice::from_ref(&self.part))?.first().copied().flatten();
            log.restore(&self.changelog, end)?;
            self.was_doubted = true;
            return Ok(Finished::Again(Box::new(self)));
        }
        let at = match (self.committed, self.is_new) {
            (None, true) => {
                self.meta.input_offset = log.beginning(&self.part)?;
                None
            }
            (Some(committed), false) => Some(committed),
            (None, false) => {
                return Err(Error::Setup(format!(
                    "{}: there is state for it, but the group has no committed offset (offsets are kept for a limited \
                     time, see the broker's offsets.retention.minutes). Set the group's offset of this partition to {} \
                     with kafka-consumer-groups.sh --reset-offsets, or start over under another application_id",
                    self.part, self.meta.input_offset
                )));
            }
            (Some(committed), true) => {
                return Err(Error::Setup(format!(
                    "{}: the group's committed offset is {committed}, but its changelog {} holds no state; was that topic \
                     made anew? To build the state again from what the input still holds, reset the offsets of this group \
                     with kafka-consumer-groups.sh --delete-offsets; or start over under another application_id",
                    self.part, self.changelog
                )));
            }
        };
        progress.restored(&self.part);
        let steps = (env, self.steps_id);
        let running = Running::open(self.stage, self.rows, self.meta, self.changelog, at, &self.part, steps)?;
        Ok(Finished::Running(Box::new(running)))
    }
}

/// What the state must have been written under.
fn check_same(held: &Meta, fresh: &Meta, part: &Part, stage: Stage) -> Result<(), Error> {
    if held.application_id != fresh.application_id {
        return Err(Error::Setup(format!("{part}: the state belongs to application `{}`", held.application_id)));
    }
    // Whoever publishes may add partitions to the input: nothing of intake is placed by them.
    if stage != Stage::Intake && held.partitions != fresh.partitions {
        return Err(Error::Setup(format!(
            "{part}: the state was made for {} partitions, the topic has {}; keys lie elsewhere now, and Kafka takes no \
             partition away. Start over under another name: portcullis topics apply --application-id NAME, and the same \
             for run",
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
