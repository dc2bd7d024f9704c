//! What the thread that takes records and those that answer share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::board::Board;
use super::disk::{Disk, StoreError};
use super::hands::Operating;
use super::probes::Shown;
use super::report::{Lines, Report};
use crate::edge::server::Keys;
use crate::event::Millis;
use crate::log::Clock;

/// A cluster that has not answered for so long makes what is shown stale.
pub const STALE_AFTER: Duration = Duration::from_secs(10);
/// Most pages that are written at a time, most exports, and most listeners.
pub(super) const PAGES_MAX: usize = 8;
pub const EXPORTS_MAX: usize = 4;
/// Most actions that wait for the cluster at a time: pages never wait behind them.
pub const ACTS_MAX: usize = 4;
pub const LISTENERS_MAX: usize = 500;
/// Most incidents whose counted lines are remembered.
const COUNTED_MAX: usize = 32;
/// While lines of an incident come in, they are counted again at most this often.
const COUNT_EVERY: Duration = Duration::from_secs(2);

/// How a console answers.
pub struct ConsoleOptions {
    /// Who may look; `None`: whoever reaches the address, or whoever is signed in.
    pub keys: Option<Keys>,
    /// Whether only this machine reaches the address.
    pub is_local: bool,
    /// Who may act; `None`: nobody.
    pub operating: Option<Operating>,
    /// The clock of the process.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for ConsoleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOptions")
            .field("keys", &self.keys)
            .field("operating", &self.operating)
            .finish_non_exhaustive()
    }
}

/// How old what is shown may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Freshness {
    /// The topics are still being read for the first time.
    Reading,
    /// The cluster has answered within [`STALE_AFTER`].
    Live { age_ms: u64 },
    /// It has not.
    Stale { age_ms: u64, heard_at: Millis },
}

impl Freshness {
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Freshness::Live { .. })
    }
}

/// When the cluster last answered: by the clock, and by the time that never goes back.
#[derive(Debug, Clone, Copy, Default)]
struct HeardAt {
    at: Millis,
    elapsed: Duration,
}

struct Counted {
    changed: u64,
    counted_at: Duration,
    lines: Arc<Lines>,
}

/// The console: its board, its store, and who may look.
pub struct Console {
    board: RwLock<Board>,
    disk: Disk,
    options: ConsoleOptions,
    heard: Mutex<HeardAt>,
    is_ready: AtomicBool,
    partitions_behind: AtomicU64,
    counted: Mutex<BTreeMap<String, Counted>>,
    /// Changes with the board; gone when the console stops.
    told: Mutex<Option<watch::Sender<u64>>>,
    pages: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    acts: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
    wrong_keys: Mutex<(Duration, u32)>,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("disk", &self.disk).finish_non_exhaustive()
    }
}

/// Wrong keys that are looked at, a second; more are refused unseen, so that none is guessed.
const WRONG_KEYS_A_SECOND: u32 = 10;

impl Console {
    #[must_use]
    pub fn new(board: Board, disk: Disk, options: ConsoleOptions) -> Self {
        Console {
            board: RwLock::new(board),
            disk,
            options,
            heard: Mutex::default(),
            is_ready: AtomicBool::new(false),
            partitions_behind: AtomicU64::new(0),
            counted: Mutex::default(),
            told: Mutex::new(Some(watch::channel(0).0)),
            pages: Arc::new(Semaphore::new(PAGES_MAX)),
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            acts: Arc::new(Semaphore::new(ACTS_MAX)),
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
            wrong_keys: Mutex::default(),
        }
    }

    pub fn board(&self) -> RwLockReadGuard<'_, Board> {
        self.board.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the thread that takes records; what it changed is told by [`tell`](Self::tell).
    pub fn board_mut(&self) -> RwLockWriteGuard<'_, Board> {
        self.board.write().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub const fn disk(&self) -> &Disk {
        &self.disk
    }

    #[must_use]
    pub fn now(&self) -> Millis {
        self.options.clock.now()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.options.clock.elapsed()
    }

    /// The cluster has answered just now.
    pub fn heard(&self) {
        *lock(&self.heard) = HeardAt { at: self.now(), elapsed: self.elapsed() };
    }

    /// Everything was read that was there at start.
    pub fn caught_up(&self) {
        self.is_ready.store(true, Ordering::Release);
    }

    pub fn set_partitions_behind(&self, partitions: usize) {
        self.partitions_behind.store(partitions as u64, Ordering::Relaxed);
    }

    /// Makes what was taken visible, and tells whoever listens.
    ///
    /// # Errors
    /// The store does not write.
    pub fn tell(&self) -> Result<(), StoreError> {
        self.disk.flush()?;
        let changes = self.board().changes();
        if let Some(told) = &*lock(&self.told) {
            told.send_if_modified(|last| std::mem::replace(last, changes) != changes);
        }
        Ok(())
    }

    /// Nobody waits for news any more, so that the console can end.
    pub fn close(&self) {
        lock(&self.told).take();
    }

    /// What changes with the board; closed when the console stops.
    pub(super) fn told(&self) -> watch::Receiver<u64> {
        match &*lock(&self.told) {
            Some(told) => told.subscribe(),
            None => watch::channel(0).1,
        }
    }

    #[must_use]
    pub fn freshness(&self) -> Freshness {
        let heard = *lock(&self.heard);
        let age = self.elapsed().saturating_sub(heard.elapsed);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        if age > STALE_AFTER {
            Freshness::Stale { age_ms, heard_at: heard.at }
        } else if self.is_ready.load(Ordering::Acquire) {
            Freshness::Live { age_ms }
        } else {
            Freshness::Reading
        }
    }

    /// The report of an incident as it stands; `None`: there is none of this id.
    ///
    /// # Errors
    /// The store does not read.
    pub fn report(&self, id: &str) -> Result<Option<Report>, StoreError> {
        let changed = {
            let board = self.board();
            if board.incident_of(id).is_none() {
                return Ok(None);
            }
            board.lines_changed(id)
        };
        let now = self.elapsed();
        let remembered = lock(&self.counted).get(id).and_then(|counted| {
            let is_good = counted.changed == changed || now.saturating_sub(counted.counted_at) < COUNT_EVERY;
            is_good.then(|| Arc::clone(&counted.lines))
        });
        let lines = match remembered {
            Some(lines) => lines,
            None => {
                // Not under a lock: a million lines take a second.
                let lines = Arc::new(Lines::read(&self.disk, id)?);
                let mut counted = lock(&self.counted);
                counted.insert(id.to_owned(), Counted { changed, counted_at: now, lines: Arc::clone(&lines) });
                if counted.len() > COUNTED_MAX {
                    let oldest = counted.iter().min_by_key(|(_, of)| of.counted_at).map(|(id, _)| id.clone());
                    oldest.and_then(|oldest| counted.remove(&oldest));
                }
                lines
            }
        };
        Ok(Report::new(&self.board(), id, (*lines).clone(), self.now()))
    }

    /// Whether somebody who presents this may look. A wrong key costs one of a few a second.
    pub(super) fn admits(&self, presented: Option<&[u8]>) -> Admission {
        let Some(keys) = &self.options.keys else { return Admission::Welcome };
        let Some(presented) = presented else { return Admission::NoKey };
        let now = self.elapsed();
        let mut wrong = lock(&self.wrong_keys);
        if now.saturating_sub(wrong.0) >= Duration::from_secs(1) {
            *wrong = (now, 0);
        }
        if wrong.1 >= WRONG_KEYS_A_SECOND {
            return Admission::TooMany;
        }
        if keys.find(presented).is_some() {
            return Admission::Welcome;
        }
        wrong.1 += 1;
        Admission::NoKey
    }

    /// Whether anybody who reaches the address may look.
    pub(super) const fn is_open(&self) -> bool {
        self.options.keys.is_none() && self.options.is_local
    }

    pub(super) const fn has_keys(&self) -> bool {
        self.options.keys.is_some()
    }

    /// Who may act, and how it is done.
    pub(super) const fn operating(&self) -> Option<&Operating> {
        self.options.operating.as_ref()
    }

    pub(super) async fn room_for_page(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.pages).acquire_owned().await.ok()
    }

    pub(super) fn room_for_export(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.exports).try_acquire_owned().ok()
    }

    pub(super) fn room_to_act(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.acts).try_acquire_owned().ok()
    }

    pub(super) fn room_to_listen(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.listeners).try_acquire_owned().ok()
    }
}

/// Whether somebody may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Welcome,
    NoKey,
    TooMany,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shown for Console {
    fn is_ready(&self) -> bool {
        self.freshness().is_live()
    }

    fn status(&self) -> serde_json::Value {
        let board = self.board();
        serde_json::json!({
            "is_ready": Shown::is_ready(self),
            "freshness": self.freshness(),
            "partitions_behind": self.partitions_behind.load(Ordering::Relaxed),
            "incidents": board.incidents().len(),
            "tenants": board.tenants().len(),
            "entries": board.lists().desired().len(),
            "commands": board.trail().len(),
            "verdicts_read": board.verdicts_read(),
            "records_refused": board.refused(),
            "store_bytes": self.disk.bytes(),
        })
    }

    fn set_gauges(&self) {
        let board = self.board();
        let age_ms = match self.freshness() {
            Freshness::Reading => 0,
            Freshness::Live { age_ms } | Freshness::Stale { age_ms, .. } => age_ms,
        };
        metrics::gauge!("portcullis_console_age_seconds").set(age_ms as f64 / 1_000.0);
        metrics::gauge!("portcullis_console_incidents").set(board.incidents().len() as f64);
        metrics::gauge!("portcullis_console_entries").set(board.lists().desired().len() as f64);
        metrics::gauge!("portcullis_console_store_bytes").set(self.disk.bytes() as f64);
        for (topic, refused) in board.refused() {
            metrics::counter!("portcullis_console_records_refused_total", "topic" => topic).absolute(refused);
        }
    }
}
