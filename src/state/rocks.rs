//! RocksDB: one database per task, one column family, so that what is durable is always a prefix with its position.
//!
//! There is no write-ahead log: a crash loses what was not flushed yet, rows and position alike, and the changelog gives
//! it back. It would double what is written for a tail that is bounded by the write buffers anyway. Expired rows are dropped by a compaction filter; since reads treat them as
//! absent, results never depend on when that happens.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType, IteratorMode, Options, ReadOptions, WriteBatch,
    WriteBufferManager, WriteOptions,
};

use super::{Error, Meta, POSITION_KEY, Store};
use crate::engine::{Key, Kind, Row, Write};
use crate::event::Millis;

/// Memory that all stores of a process share.
#[derive(Clone)]
pub struct Shared {
    cache: Cache,
    buffers: WriteBufferManager,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// A block cache of `bytes`, half of which write buffers may take: the more they hold, the less is written twice.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let cache = Cache::new_lru_cache(bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(bytes / 2, false, cache.clone());
        Shared { cache, buffers }
    }
}

/// One task's rows on disk.
pub struct RocksStore {
    db: DB,
    /// Stream time for the compaction filter; lowered by the longest time that a replayed input may lie behind.
    forget_before: Arc<AtomicI64>,
    path: String,
}

impl fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RocksStore({})", self.path)
    }
}

/// A row is dropped only this long after its end, so that a task that was rewound still finds it.
const FORGET_SLACK_MS: Millis = 10 * 60_000;

impl RocksStore {
    /// Opens or makes the store of a task.
    ///
    /// # Errors
    /// The folder does not open: in use, damaged, no permission.
    pub fn open(path: &Path, shared: &Shared) -> Result<Self, Error> {
        let forget_before = Arc::new(AtomicI64::new(Millis::MIN));
        let options = options(shared, Arc::clone(&forget_before));
        let db = DB::open(&options, path).map_err(|e| Error::Unusable {
            path: path.display().to_string(),
            what: format!(
                "{e}; is another process using it? A damaged folder may be removed: the changelog restores it"
            ),
        })?;
        let store = RocksStore { db, forget_before, path: path.display().to_string() };
        if let Some(meta) = store.meta()? {
            store.set_forget_before(meta.stream_time);
        }
        Ok(store)
    }

    fn set_forget_before(&self, stream_time: Millis) {
        self.forget_before.store(stream_time.saturating_sub(FORGET_SLACK_MS), Ordering::Relaxed);
    }
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        // Without it the next start would read the tail of the changelog again.
        if let Err(error) = self.db.flush() {
            tracing::warn!(store = self.path, %error, "not flushed; the changelog holds it");
        }
    }
}

fn options(shared: &Shared, forget_before: Arc<AtomicI64>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&shared.cache);
    table.set_block_size(16 << 10);
    table.set_bloom_filter(10.0, false);
    // Filters and indexes stay in memory outside the cache, a byte and a quarter and some bits for each row: most keys
    // that are asked for are not there, and asking the cache for the filter each time costs more than the filter.
    table.set_cache_index_and_filter_blocks(false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_manager(&shared.buffers);
    options.set_write_buffer_size(16 << 20);
    options.set_max_write_buffer_number(3);
    options.set_allow_concurrent_memtable_write(false);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.1);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(2);
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_compaction_filter("expired rows", move |_level, key, value| {
        let expired = Row::expires_at(value).is_some_and(|at| at < forget_before.load(Ordering::Relaxed));
        if key != POSITION_KEY && expired { Decision::Remove } else { Decision::Keep }
    });
    options
}

impl Store for RocksStore {
    fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys = keys.iter().map(Key::as_bytes);
        self.db.multi_get(keys).into_iter().map(|value| value.map_err(Error::from)).collect()
    }

    fn scan(&self, kind: Kind) -> Result<Vec<(Key, Vec<u8>)>, Error> {
        let mut read = ReadOptions::default();
        read.set_iterate_range([kind as u8]..[kind as u8 + 1]);
        let rows = self.db.iterator_opt(IteratorMode::Start, read);
        rows.map(|row| row.map(|(key, value)| (Key::from_bytes(&key), value.into_vec())).map_err(Error::from)).collect()
    }

    fn apply(&mut self, writes: &[Write], meta: &Meta) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.put(key.as_bytes(), value),
                None => batch.delete(key.as_bytes()),
            }
        }
        batch.put(POSITION_KEY, meta.encode());
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options)?;
        self.set_forget_before(meta.stream_time);
        Ok(())
    }

    fn meta(&self) -> Result<Option<Meta>, Error> {
        let position = self.db.get(POSITION_KEY)?.map(|bytes| Meta::decode(&bytes)).transpose();
        position.map_err(|e| Error::Unusable { path: self.path.clone(), what: e.to_string() })
    }
}
