//! The rows a task has in hand: those it read for this batch, those it changed, and hot ones kept from before.

use std::cell::Cell;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::key::{Key, Kind};
use super::row::Row;
use crate::event::Millis;

#[derive(Debug)]
struct Slot {
    row: Option<Row>,
    expires_at: Millis,
    dirty: bool,
}

/// A typed write-behind map. What was not loaded reads as absent, so every key that a step touches must come from
/// [`super::Task::reads`]; a touch of any other key is counted in [`View::unread`], because it may have lost a row.
#[derive(Debug, Default)]
pub struct View {
    slots: FxHashMap<Key, Slot>,
    dirty: Vec<Key>,
    /// There is no store behind it: what it does not hold does not exist.
    is_whole: bool,
    unread: Cell<u64>,
}

impl View {
    /// Rows kept in hand from batch to batch; beyond it all clean ones are let go after a commit.
    pub const KEPT_MAX: usize = 200_000;

    /// A view that is the whole store (replay, simulation).
    pub(super) fn whole() -> Self {
        View { is_whole: true, ..View::default() }
    }

    /// How often a step touched a key that was never loaded. Anything but 0 is a defect of this build.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.unread.get()
    }

    /// Whether the store need not be asked for this key.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        self.slots.contains_key(key)
    }

    /// Takes what the store said about a key.
    pub fn load(&mut self, key: Key, row: Option<(Row, Millis)>) {
        let (row, expires_at) = row.map_or((None, Millis::MAX), |(row, at)| (Some(row), at));
        self.slots.entry(key).or_insert(Slot { row, expires_at, dirty: false });
    }

    /// The row of a key unless it has expired at `now`: results never depend on when the store forgets.
    #[must_use]
    pub fn get(&self, key: &Key, now: Millis) -> Option<&Row> {
        match self.slots.get(key) {
            Some(slot) => slot.row.as_ref().filter(|_| slot.expires_at > now),
            None => {
                self.note_unread();
                None
            }
        }
    }

    /// Takes the row out, to be put back changed ([`View::put`]) or as it was ([`View::put_back`]).
    pub fn take(&mut self, key: &Key, now: Millis) -> Option<Row> {
        match self.slots.get_mut(key) {
            Some(slot) if slot.expires_at > now => slot.row.take(),
            Some(_) => None,
            None => {
                self.note_unread();
                None
            }
        }
    }

    /// Writes a row that may be forgotten from `expires_at` on.
    pub fn put(&mut self, key: Key, row: Row, expires_at: Millis) {
        let is_read = is_written_blindly(&key);
        if self.set(key, Some(row), expires_at) && !is_read {
            self.note_unread();
        }
    }

    /// Puts back a row that was taken and not changed.
    pub fn put_back(&mut self, key: &Key, row: Row) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.row = Some(row);
        }
    }

    /// Removes a row, whether it was loaded or not.
    pub fn remove(&mut self, key: Key) {
        self.set(key, None, Millis::MAX);
    }

    /// `true` when the key was not in hand.
    fn set(&mut self, key: Key, row: Option<Row>, expires_at: Millis) -> bool {
        // A whole view is never drained.
        let dirty = !self.is_whole;
        match self.slots.entry(key) {
            Entry::Occupied(mut held) => {
                if dirty && !held.get().dirty {
                    self.dirty.push(held.key().clone());
                }
                held.insert(Slot { row, expires_at, dirty });
                false
            }
            Entry::Vacant(place) => {
                if dirty {
                    self.dirty.push(place.key().clone());
                }
                place.insert(Slot { row, expires_at, dirty });
                true
            }
        }
    }

    fn note_unread(&self) {
        if !self.is_whole {
            self.unread.set(self.unread.get() + 1);
        }
    }

    /// Changed rows in the order of their first change: key, and bytes or `None` for a removal.
    pub fn drain_dirty(&mut self) -> Vec<(Key, Option<Vec<u8>>)> {
        let keys = std::mem::take(&mut self.dirty);
        let mut writes = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.dirty = false;
                let bytes = slot.row.as_ref().map(|row| row.encode(slot.expires_at));
                if is_written_blindly(&key) {
                    // The task holds it in its own form.
                    self.slots.remove(&key);
                }
                writes.push((key, bytes));
            }
        }
        writes
    }

    /// Drops rows that expired by `now`: for a view that is the whole store.
    pub fn sweep(&mut self, now: Millis) {
        self.slots.retain(|_, slot| slot.row.is_some() && slot.expires_at > now);
    }

    /// How many rows are changed and not yet drained.
    #[must_use]
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Lets go of what need not be kept, if there is more than `kept_max` of it. Only between commits: nothing is
    /// dirty then.
    pub fn trim(&mut self, kept_max: usize) {
        if self.slots.len() > kept_max && self.dirty.is_empty() {
            self.slots = FxHashMap::default();
        }
    }
}

/// Kinds that a task holds in hand beside the view, and writes without having read them there.
fn is_written_blindly(key: &Key) -> bool {
    [Kind::Clock, Kind::Control, Kind::Seen, Kind::Due].iter().any(|kind| *kind as u8 == key.kind_byte())
}
