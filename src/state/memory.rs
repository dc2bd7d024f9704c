//! A store in memory, shared by handle so that a test can "restart" a task over the same rows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Error, Meta, Store};
use crate::engine::{Key, Kind, Write};

/// Rows and position in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<Key, Vec<u8>>,
    meta: Option<Meta>,
}

impl MemoryStore {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every row, for comparisons.
    #[must_use]
    pub fn rows(&self) -> BTreeMap<Key, Vec<u8>> {
        self.with(|inner| inner.rows.clone())
    }
}

impl Store for MemoryStore {
    fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        Ok(self.with(|inner| keys.iter().map(|key| inner.rows.get(key).cloned()).collect()))
    }

    fn scan(&self, kind: Kind) -> Result<Vec<(Key, Vec<u8>)>, Error> {
        Ok(self.with(|inner| {
            let of_kind = inner.rows.iter().filter(|(key, _)| key.kind_byte() == kind as u8);
            of_kind.map(|(key, value)| (key.clone(), value.clone())).collect()
        }))
    }

    fn apply(&mut self, writes: &[Write], meta: &Meta) -> Result<(), Error> {
        self.with(|inner| {
            for (key, value) in writes {
                match value {
                    Some(value) => inner.rows.insert(key.clone(), value.clone()),
                    None => inner.rows.remove(key),
                };
            }
            inner.meta = Some(meta.clone());
        });
        Ok(())
    }

    fn meta(&self) -> Result<Option<Meta>, Error> {
        Ok(self.with(|inner| inner.meta.clone()))
    }
}
