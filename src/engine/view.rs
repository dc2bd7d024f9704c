//! The rows a task has in hand: those it read for this batch, those it changed, and hot ones kept from before.

use rustc_hash::FxHashMap;

use super::key::Key;
use super::row::Row;
use crate::event::Millis;

#[derive(Debug)]
struct Slot {
    row: Option<Row>,
    expires_at: Millis,
    dirty: bool,
}

/// A typed write-behind map. What was not loaded reads as absent, so every key that a step touches must come from
/// [`super::Task::reads`].
#[derive(Debug, Default)]
pub struct View {
    slots: FxHashMap<Key, Slot>,
    dirty: Vec<Key>,
}

impl View {
    /// Rows kept in hand from batch to batch; beyond it all clean ones are let go after a commit.
    pub const KEPT_MAX: usize = 200_000;

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
        self.slots.get(key).filter(|slot| slot.expires_at > now).and_then(|slot| slot.row.as_ref())
    }

    /// Takes the row out, to be put back changed.
    pub fn take(&mut self, key: &Key, now: Millis) -> Option<Row> {
        self.slots.get_mut(key).filter(|slot| slot.expires_at > now).and_then(|slot| slot.row.take())
    }

    /// Writes a row that may be forgotten from `expires_at` on.
    pub fn put(&mut self, key: Key, row: Row, expires_at: Millis) {
        self.set(key, Some(row), expires_at);
    }

    /// Puts back a row that was taken and not changed.
    pub fn put_back(&mut self, key: &Key, row: Row) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.row = Some(row);
        }
    }

    pub fn remove(&mut self, key: Key) {
        self.set(key, None, Millis::MAX);
    }

    fn set(&mut self, key: Key, row: Option<Row>, expires_at: Millis) {
        match self.slots.get_mut(&key) {
            Some(slot) => {
                let was_dirty = slot.dirty;
                *slot = Slot { row, expires_at, dirty: true };
                if !was_dirty {
                    self.dirty.push(key);
                }
            }
            None => {
                self.dirty.push(key.clone());
                self.slots.insert(key, Slot { row, expires_at, dirty: true });
            }
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
                writes.push((key, bytes));
            }
        }
        writes
    }

    /// Forgets what was changed without encoding it, and drops rows that expired by `now`: for a view that is the
    /// whole store (replay, simulation).
    pub fn sweep(&mut self, now: Millis) {
        self.dirty.clear();
        self.slots.retain(|_, slot| slot.row.is_some() && slot.expires_at > now);
        for slot in self.slots.values_mut() {
            slot.dirty = false;
        }
    }

    /// How many rows are changed and not yet drained.
    #[must_use]
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Lets go of what need not be kept. Only between commits: nothing is dirty then.
    pub fn trim(&mut self) {
        if self.slots.len() > Self::KEPT_MAX && self.dirty.is_empty() {
            self.slots = FxHashMap::default();
        }
    }
}
