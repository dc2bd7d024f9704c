//! What may be too much for memory, on disk: every target, source, minute, deed and step behind incidents, and what
//! edges said of each entry.
//!
//! A database of this process's own, emptied at start and built from `incident-details` and `receipts` again, so that an
//! incident of a million accounts needs no memory and none of them is left out. Keys are `incident 0 KIND value`, so what
//! belongs together lies together and is read in order, a piece at a time; receipts are `0 entry 0 sink`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};
use serde::{Deserialize, Serialize};

use crate::event::{DetailKind, IncidentDetail, Millis, Receipt};

/// Most bytes that may lie on disk; lines that come after that are refused and counted.
pub const STORE_BYTES_MAX: u64 = 20 << 30;
/// Longest id of an incident, and longest value, in bytes.
const ID_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Most counts of one line, and most of what it is about.
const COUNTS_MAX: usize = 32;
/// Most receipts of one entry that are read.
const RECEIPTS_MAX: usize = 100;
/// What of it is kept in memory for reading, and each of two buffers for writing.
const CACHE_BYTES: usize = 16 << 20;
const BUFFER_BYTES: usize = 16 << 20;
/// Lines that wait to be written.
const BATCH_MAX: usize = 1_000;
/// Lines that are read at a time.
pub const PAGE_LINES: usize = 1_000;

/// One line, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub value: String,
    pub counts: BTreeMap<String, i64>,
    pub first_at: Millis,
    pub last_at: Millis,
    pub about: BTreeMap<String, String>,
}

impl Line {
    /// A count by its name; what is not counted is 0.
    #[must_use]
    pub fn count(&self, name: &str) -> i64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// What it is about, by name; nothing where it does not say.
    #[must_use]
    pub fn about(&self, name: &str) -> &str {
        self.about.get(name).map_or("", String::as_str)
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    counts: Vec<(String, i64)>,
    first_at: Millis,
    last_at: Millis,
    about: Vec<(String, String)>,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the console's own store {path}: {what}")]
pub struct StoreError {
    path: String,
    what: String,
}

/// Lines of all incidents.
pub struct Disk {
    db: DB,
    path: String,
    waiting: std::sync::Mutex<WriteBatch>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({})", self.path)
    }
}

impl Disk {
    /// Makes an empty store in a folder; one that is there is removed first.
    ///
    /// # Errors
    /// The folder is in use, or cannot be written.
    pub fn make(path: &Path) -> Result<Disk, StoreError> {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(BUFFER_BYTES);
        options.set_max_background_jobs(2);
        options.set_max_open_files(256);
        options.set_keep_log_file_num(1);
        let name = path.display().to_string();
        let broken = |e: rocksdb::Error| StoreError { path: name.clone(), what: e.to_string() };
        DB::destroy(&options, path).map_err(broken)?;
        let db = DB::open(&options, path).map_err(broken)?;
        Ok(Disk { db, path: name, waiting: std::sync::Mutex::default() })
    }

    /// Takes one line; the newest of a key counts. What is out of bounds is told with its reason.
    ///
    /// # Errors
    /// The store does not write.
    pub fn take(&self, detail: &IncidentDetail) -> Result<Result<(), &'static str>, StoreError> {
        if detail.incident_id.is_empty()
            || detail.incident_id.len() > ID_BYTES_MAX
            || detail.incident_id.contains('\0')
            || detail.value.len() > VALUE_BYTES_MAX
            || detail.counts.len() > COUNTS_MAX
            || detail.about.len() > COUNTS_MAX
        {
            return Ok(Err("an id, a value or its counts are too long"));
        }
        let kept = Kept {
            counts: detail.counts.iter().map(|(name, n)| (name.clone(), *n)).collect(),
            first_at: detail.first_at,
            last_at: detail.last_at,
            about: detail.about.iter().map(|(name, text)| (name.clone(), text.clone())).collect(),
        };
        let Ok(bytes) = postcard::to_stdvec(&kept) else { return Ok(Err("it cannot be kept")) };
        let mut waiting = self.waiting();
        waiting.put(key(&detail.incident_id, detail.kind, &detail.value), bytes);
        if waiting.len() >= BATCH_MAX { self.write(&mut waiting).map(Ok) } else { Ok(Ok(())) }
    }

    /// Takes one line back.
    pub fn remove(&self, incident: &str, kind: DetailKind, value: &str) {
        self.waiting().delete(key(incident, kind, value));
    }

    /// Takes what an edge says of an entry, or takes it back.
    ///
    /// # Errors
    /// The store does not write.
    pub fn receipt(&self, entry: &str, sink: &str, receipt: Option<&Receipt>) -> Result<(), StoreError> {
        if entry.len() > VALUE_BYTES_MAX || sink.len() > ID_BYTES_MAX || entry.contains('\0') {
            return Ok(());
        }
        let mut waiting = self.waiting();
        match receipt.and_then(|receipt| postcard::to_stdvec(receipt).ok()) {
            Some(bytes) => waiting.put(receipt_key(entry, sink), bytes),
            None => waiting.delete(receipt_key(entry, sink)),
        }
        if waiting.len() >= BATCH_MAX { self.write(&mut waiting) } else { Ok(()) }
    }

    /// What edges said of an entry.
    #[must_use]
    pub fn receipts(&self, entry: &str) -> Vec<Receipt> {
        let prefix = receipt_key(entry, "");
        let mut end = prefix.clone();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let mut read = ReadOptions::default();
        read.set_iterate_range(prefix..end);
        let rows = self.db.iterator_opt(IteratorMode::Start, read).take(RECEIPTS_MAX);
        rows.filter_map(|row| postcard::from_bytes(&row.ok()?.1).ok()).collect()
    }

    /// Lets go of an incident.
    pub fn forget(&self, incident: &str) {
        let (from, to) = ([incident.as_bytes(), &[0]].concat(), [incident.as_bytes(), &[1]].concat());
        self.waiting().delete_range(from, to);
    }

    /// Makes what was taken visible.
    ///
    /// # Errors
    /// The store does not write.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.write(&mut self.waiting())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, WriteBatch> {
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, waiting: &mut WriteBatch) -> Result<(), StoreError> {
        if waiting.is_empty() {
            return Ok(());
        }
        // What a crash takes is read from the topic again.
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(std::mem::take(waiting), &options).map_err(|e| self.broken(&e))
    }

    fn broken(&self, error: &rocksdb::Error) -> StoreError {
        StoreError { path: self.path.clone(), what: error.to_string() }
    }

    /// Bytes on disk and in buffers, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let property = |name| self.db.property_int_value(name).ok().flatten().unwrap_or_default();
        property("rocksdb.total-sst-files-size") + property("rocksdb.cur-size-all-mem-tables")
    }

    /// One line.
    ///
    /// # Errors
    /// The store does not read.
    pub fn get(&self, incident: &str, kind: DetailKind, value: &str) -> Result<Option<Line>, StoreError> {
        let bytes = self.db.get(key(incident, kind, value)).map_err(|e| self.broken(&e))?;
        Ok(bytes.and_then(|bytes| line(value.to_owned(), &bytes)))
    }

    /// Every line of a kind, in the order of the values.
    pub fn lines(&self, incident: &str, kind: DetailKind) -> impl Iterator<Item = Result<Line, StoreError>> {
        let prefix = key(incident, kind, "");
        let mut end = prefix.clone();
        // The kind is the last byte and below 255.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let skip = prefix.len();
        let mut read = ReadOptions::default();
        read.set_iterate_range(prefix..end);
        // Who reads a million lines once leaves the cache to others.
        read.fill_cache(false);
        let rows = self.db.iterator_opt(IteratorMode::Start, read);
        rows.filter_map(move |row| match row {
            Ok((key, value)) => {
                let name = String::from_utf8(key.get(skip..)?.to_vec()).ok()?;
                line(name, &value).map(Ok)
            }
            Err(e) => Some(Err(self.broken(&e))),
        })
    }

    /// At most [`PAGE_LINES`] lines behind `after`, so that who writes them out holds no more than these.
    ///
    /// # Errors
    /// The store does not read.
    pub fn page(&self, incident: &str, kind: DetailKind, after: Option<&str>) -> Result<Vec<Line>, StoreError> {
        let prefix = key(incident, kind, "");
        let mut end = prefix.clone();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        // The smallest key behind another one has a zero byte more.
        let start = after.map_or_else(|| prefix.clone(), |after| [&key(incident, kind, after)[..], &[0]].concat());
        let skip = prefix.len();
        let mut read = ReadOptions::default();
        read.set_iterate_range(start..end);
        read.fill_cache(false);
        let mut lines = Vec::new();
        for row in self.db.iterator_opt(IteratorMode::Start, read).take(PAGE_LINES) {
            let (key, value) = row.map_err(|e| self.broken(&e))?;
            let name = key.get(skip..).and_then(|name| String::from_utf8(name.to_vec()).ok());
            lines.extend(name.and_then(|name| line(name, &value)));
        }
        Ok(lines)
    }
}

fn line(value: String, bytes: &[u8]) -> Option<Line> {
    let Kept { counts, first_at, last_at, about } = postcard::from_bytes(bytes).ok()?;
    let (counts, about) = (counts.into_iter().collect(), about.into_iter().collect());
    Some(Line { value, counts, first_at, last_at, about })
}

/// What stands for a kind in keys.
const fn code(kind: DetailKind) -> u8 {
    match kind {
        DetailKind::Other => 1,
        DetailKind::Target => 2,
        DetailKind::Source => 3,
        DetailKind::Minute => 4,
        DetailKind::Action => 5,
        DetailKind::Trail => 6,
    }
}

fn receipt_key(entry: &str, sink: &str) -> Vec<u8> {
    [&[0], entry.as_bytes(), &[0], sink.as_bytes()].concat()
}

fn key(incident: &str, kind: DetailKind, value: &str) -> Vec<u8> {
    [incident.as_bytes(), &[0, code(kind)], value.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(incident: &str, kind: DetailKind, value: &str, attempts: i64) -> IncidentDetail {
        IncidentDetail {
            incident_id: incident.to_owned(),
            kind,
            value: value.to_owned(),
            sealed_account: None,
            counts: BTreeMap::from([("attempts".to_owned(), attempts)]),
            first_at: 1,
            last_at: 2,
            about: BTreeMap::new(),
        }
    }

    #[test]
    fn every_line_is_kept_once_and_read_in_order_a_piece_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::make(folder.path()).unwrap();
        for n in 0..2_500 {
            let value = format!("user{n:04}@example.org");
            assert_eq!(disk.take(&detail("a", DetailKind::Target, &value, 1)).unwrap(), Ok(()));
            assert_eq!(disk.take(&detail("a", DetailKind::Target, &value, n)).unwrap(), Ok(()));
            assert_eq!(disk.take(&detail("a1", DetailKind::Target, &value, 1)).unwrap(), Ok(()));
        }
        assert_eq!(disk.take(&detail("a", DetailKind::Source, "203.0.113.9", 1)).unwrap(), Ok(()));
        assert!(disk.take(&detail("a", DetailKind::Target, &"x".repeat(70_000), 1)).unwrap().is_err());
        assert!(disk.take(&detail("a\0b", DetailKind::Target, "x", 1)).unwrap().is_err());
        disk.flush().unwrap();
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = disk.page("a", DetailKind::Target, after.as_deref()).unwrap();
            assert!(page.len() <= PAGE_LINES);
            let Some(last) = page.last() else { break };
            after = Some(last.value.clone());
            all.extend(page);
        }
        assert_eq!(all.len(), 2_500);
        assert!(all.iter().enumerate().all(|(n, line)| line.count("attempts") == n as i64 && line.first_at == 1));
        assert_eq!(disk.lines("a", DetailKind::Target).count(), 2_500);
        assert_eq!(disk.lines("a", DetailKind::Source).count(), 1);
        assert_eq!(disk.lines("a", DetailKind::Minute).count(), 0);

        disk.remove("a", DetailKind::Source, "203.0.113.9");
        disk.forget("a1");
        disk.flush().unwrap();
        assert_eq!(disk.lines("a", DetailKind::Source).count(), 0);
        assert_eq!(disk.lines("a1", DetailKind::Target).count(), 0);
        assert_eq!(disk.lines("a", DetailKind::Target).count(), 2_500);
        assert_eq!(disk.get("a", DetailKind::Target, "user0007@example.org").unwrap().unwrap().count("attempts"), 7);
        drop(disk);
        let again = Disk::make(folder.path()).unwrap();
        assert_eq!(again.lines("a", DetailKind::Target).count(), 0, "it is built from the topics again");
    }
}
