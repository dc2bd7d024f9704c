//! Where rows live: RocksDB on disk, or a map in memory for tests. One store per task.
//!
//! A store changes only *after* the Kafka transaction of the same checkpoint has committed, and takes rows and position
//! in one write. So it always holds a committed prefix: a crash, an abort or a fence costs a rewind, never a wipe.

mod folder;
pub mod inspect;
mod memory;
mod meta;
mod rocks;

pub use folder::Folder;
pub use memory::MemoryStore;
pub use meta::{META_VERSION, Meta, POSITION_KEY};
pub use rocks::{RocksStore, Shared};

use crate::engine::{Key, Kind, Row, Write};
use crate::event::Millis;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("state {path}: {what}")]
    Unusable { path: String, what: String },
    #[error("state: {0}")]
    Rocks(#[from] rocksdb::Error),
    #[error("state: {0}")]
    Row(String),
}

/// The rows of one task.
pub trait Store: Send {
    /// Reads many keys at once, in their order.
    ///
    /// # Errors
    /// The store does not read.
    fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, Error>;

    /// All rows of a kind, in the order of their keys.
    ///
    /// # Errors
    /// The store does not read.
    fn scan(&self, kind: Kind) -> Result<Vec<(Key, Vec<u8>)>, Error>;

    /// Writes rows and the position that they belong to, both or neither.
    ///
    /// # Errors
    /// The store does not write.
    fn apply(&mut self, writes: &[Write], meta: &Meta) -> Result<(), Error>;

    /// The position of the rows; `None` for a new store.
    ///
    /// # Errors
    /// The store does not read, or was written by another version.
    fn meta(&self) -> Result<Option<Meta>, Error>;
}

/// Reads rows for a task: decoded, with the time from which each may be forgotten.
///
/// # Errors
/// The store does not read, or a row is broken.
pub fn read_rows(store: &dyn Store, keys: &[Key]) -> Result<Vec<Option<(Row, Millis)>>, Error> {
    let values = store.get_many(keys)?;
    keys.iter().zip(values).map(|(key, value)| value.map(|bytes| decode(key, &bytes)).transpose()).collect()
}

/// Everything that a task holds in hand from its opening.
///
/// # Errors
/// As [`read_rows`].
pub fn read_singletons(store: &dyn Store) -> Result<Vec<(Key, Row)>, Error> {
    let mut rows = Vec::new();
    for kind in crate::engine::SINGLETONS {
        for (key, bytes) in store.scan(kind)? {
            let (row, _) = decode(&key, &bytes)?;
            rows.push((key, row));
        }
    }
    Ok(rows)
}

fn decode(key: &Key, bytes: &[u8]) -> Result<(Row, Millis), Error> {
    let row = Row::decode(key, bytes).map_err(|e| Error::Row(e.to_string()))?;
    Ok((row, Row::expires_at(bytes).unwrap_or(Millis::MAX)))
}
