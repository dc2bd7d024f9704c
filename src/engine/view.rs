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
    /// Changed since the last checkpoint.
    dirty: bool,
    /// The store may hold a row of this key.
    stored: bool,
    /// Asked for since rows were let go the last time.
    recent: bool,
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
    /// A view that is the whole store (replay, simulation).
    pub(super) fn whole() -> Self {
        View { is_whole: true, ..View::default() }
    }

    /// How often a step touched a key that was never loaded. Anything but 0 is a defect of this build.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.unread.get()
    }

    /// Whether the store need not be asked for this key, which is about to be used.
    pub fn holds(&mut self, key: &Key) -> bool {
        match self.slots.get_mut(key) {
            Some(slot) => {
                slot.recent = true;
                true
            }
            None => false,
        }
    }

    /// Takes what the store said about a key.
    pub fn load(&mut self, key: Key, row: Option<(Row, Millis)>) {
        let stored = row.is_some();
        let (row, expires_at) = row.map_or((None, Millis::MAX), |(row, at)| (Some(row), at));
        self.slots.entry(key).or_insert(Slot { row, expires_at, dirty: false, stored, recent: true });
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

    /// Changes a row that is there, and that may be forgotten when it could before.
    pub fn change(&mut self, key: &Key, now: Millis, change: impl FnOnce(&mut Row)) {
        match self.slots.get_mut(key) {
            Some(slot) => {
                let Some(row) = slot.row.as_mut().filter(|_| slot.expires_at > now) else { return };
                change(row);
                if !self.is_whole && !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push(key.clone());
                }
                slot.recent = true;
            }
            None => self.note_unread(),
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
                let held = held.get_mut();
                (held.row, held.expires_at, held.dirty, held.recent) = (row, expires_at, dirty, true);
                false
            }
            Entry::Vacant(place) => {
                if dirty {
                    self.dirty.push(place.key().clone());
                }
                // What falls due is put once under its key, so the store holds it only when it is removed unseen.
                let stored = row.is_none() || place.key().kind_byte() != Kind::Due as u8;
                place.insert(Slot { row, expires_at, dirty, stored, recent: true });
                true
            }
        }
    }

    fn note_unread(&self) {
        if !self.is_whole {
            self.unread.set(self.unread.get() + 1);
        }
    }

    /// Changed rows in the order of their first change: key, and bytes or `None` for a removal. What came and went
    /// since the last time is not among them.
    pub fn drain_dirty(&mut self) -> Vec<(Key, Option<Vec<u8>>)> {
        let keys = std::mem::take(&mut self.dirty);
        let mut writes = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.dirty = false;
                let bytes = slot.row.as_ref().map(|row| row.encode(slot.expires_at));
                let was_stored = std::mem::replace(&mut slot.stored, bytes.is_some());
                if is_written_blindly(&key) {
                    // The task holds it in its own form.
                    self.slots.remove(&key);
                }
                if bytes.is_some() || was_stored {
                    writes.push((key, bytes));
                }
            }
        }
        writes
    }

    /// Drops rows that expired by `now`: for a view that is the whole store.
    pub fn sweep(&mut self, now: Millis) {
        self.slots.retain(|_, slot| slot.row.is_some() && slot.expires_at > now);
    }

    /// How many rows are in hand, those that are known to be absent among them.
    #[must_use]
    pub fn held_len(&self) -> usize {
        self.slots.len()
    }

    /// How many rows are changed and not yet drained.
    #[must_use]
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Lets go of rows that nobody asked for lately, if there are more than `kept_max`. Changed ones stay.
    pub fn trim(&mut self, kept_max: usize) {
        if self.slots.len() <= kept_max.saturating_add(self.dirty.len()) {
            return;
        }
        self.slots.retain(|_, slot| slot.dirty || slot.recent);
        if self.slots.len() > kept_max.saturating_add(self.dirty.len()) {
            self.slots.retain(|_, slot| slot.dirty);
        }
        self.slots.values_mut().for_each(|slot| slot.recent = false);
    }
}

/// Kinds that a task holds in hand beside the view, and writes without having read them there.
fn is_written_blindly(key: &Key) -> bool {
    super::task::SINGLETONS.iter().any(|kind| *kind as u8 == key.kind_byte())
}
