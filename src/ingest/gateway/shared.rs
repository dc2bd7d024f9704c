//! What requests share: sources, room, the producer, and what was counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, Rejected, Warning};
use super::check::Checked;
use super::sources::Sources;
use crate::event::{Millis, Reason, Reject};
use crate::ingest::adapters::Adapters;
use crate::log::Clock;
use crate::log::deliver::{Deliverer, Outgoing, Undelivered};

/// What requests may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body, in bytes.
    pub body_bytes: usize,
    /// Bodies that are read and worked on at a time, in bytes.
    pub buffered_bytes: usize,
    /// Events that wait for the cluster.
    pub queued_events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { body_bytes: 4 << 20, buffered_bytes: 64 << 20, queued_events: 50_000 }
    }
}

/// How a gateway works.
pub struct GatewayOptions {
    pub sources: Sources,
    pub adapters: Adapters,
    pub limits: Limits,
    /// `login-events`, as this cluster names it.
    pub topic: String,
    pub deliverer: Arc<Deliverer>,
    /// The clock of the process.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for GatewayOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayOptions").field("topic", &self.topic).finish_non_exhaustive()
    }
}

/// How the cluster was found last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Cluster {
    /// Not asked yet.
    Unknown,
    Up,
    /// It did not confirm what it was given; nobody is made to wait for it until it answers.
    Away,
}

/// A gateway, as its requests see it.
pub struct Gateway {
    pub(super) options: GatewayOptions,
    cluster: AtomicU8,
    is_stopping: AtomicBool,
    bytes: Arc<Semaphore>,
    events: Arc<Semaphore>,
    pub(super) counts: Counts,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Since the start. What is counted twice by nobody: a request ends in one of its counts, an event in one of its own.
#[derive(Debug, Default)]
pub(super) struct Counts {
    accepted: AtomicU64,
    ignored: AtomicU64,
    unavailable: AtomicU64,
    rejected: [AtomicU64; Reason::ALL.len()],
    warned: AtomicU64,
    faults: [AtomicU64; Fault::NAMES.len()],
    answered: AtomicU64,
}

/// What a running gateway shows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GatewayStatus {
    pub is_ready: bool,
    pub sources: usize,
    pub accepted: u64,
    pub ignored: u64,
    pub unavailable: u64,
    pub warned: u64,
    /// Events, by reason.
    pub rejected: Vec<(&'static str, u64)>,
    /// Requests with an answer to each event.
    pub answered: u64,
    /// Requests refused as a whole, by why.
    pub refused: Vec<(&'static str, u64)>,
    /// Events that wait for the cluster now, and bytes of bodies held.
    pub queued_events: usize,
    pub buffered_bytes: usize,
}

/// Why a request as a whole is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The cluster is not there, or the gateway stops.
    NotReady,
    NoKey,
    NotAllowed,
    /// Events of this source may come after so many seconds.
    OverRate(u64),
    /// No room now.
    Busy,
    BodyTooLarge(usize),
    SlowBody,
    Media(Reject),
    NotUnderstood(Reject),
    NoSuchAdapter,
}

impl Fault {
    pub(super) const NAMES: [&'static str; 10] = [
        "not_ready", "no_key", "not_allowed", "over_rate", "busy", "body_too_large", "slow_body", "media_type",
        "not_understood", "no_such_adapter",
    ];

    const fn index(&self) -> usize {
        match self {
            Fault::NotReady => 0,
            Fault::NoKey => 1,
            Fault::NotAllowed => 2,
            Fault::OverRate(_) => 3,
            Fault::Busy => 4,
            Fault::BodyTooLarge(_) => 5,
            Fault::SlowBody => 6,
            Fault::Media(_) => 7,
            Fault::NotUnderstood(_) => 8,
            Fault::NoSuchAdapter => 9,
        }
    }
}

/// One event of a request, before it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given {
    Event(Checked),
    Ignored,
    Rejected(Reject),
}

/// Bytes of room are counted in these, since a semaphore counts to no more than a few billions.
const ROOM_UNIT: usize = 1 << 10;

impl Gateway {
    #[must_use]
    pub fn new(options: GatewayOptions) -> Self {
        let limits = options.limits;
        Gateway {
            options,
            cluster: AtomicU8::new(Cluster::Unknown as u8),
            is_stopping: AtomicBool::new(false),
            bytes: Arc::new(Semaphore::new(limits.buffered_bytes / ROOM_UNIT)),
            events: Arc::new(Semaphore::new(limits.queued_events)),
            counts: Counts::default(),
        }
    }

    /// The topic is there: events are taken from here on.
    pub fn found(&self) {
        self.cluster.store(Cluster::Up as u8, Ordering::Release);
    }

    /// Whether the cluster must be asked before more is taken.
    #[must_use]
    pub fn is_to_be_asked(&self) -> bool {
        self.cluster.load(Ordering::Acquire) != Cluster::Up as u8
    }

    /// Nothing new is taken any more.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_to_be_asked() && !self.is_stopping.load(Ordering::Acquire)
    }

    pub(super) fn now(&self) -> Millis {
        self.options.clock.now()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.options.clock.elapsed()
    }

    /// Room for a body of so many bytes.
    pub(super) fn room_for_body(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let units = u32::try_from(bytes.div_ceil(ROOM_UNIT).max(1)).map_err(|_| Fault::Busy)?;
        Arc::clone(&self.bytes).try_acquire_many_owned(units).map_err(|_| Fault::Busy)
    }

    /// Writes what is good of a request and answers for all of it.
    pub(super) async fn write(&self, given: Vec<Given>) -> Result<Answer, Fault> {
        let mut answer = Answer::default();
        let (mut places, mut records) = (Vec::new(), Vec::new());
        for (index, given) in given.into_iter().enumerate() {
            match given {
                Given::Ignored => answer.ignored += 1,
                Given::Rejected(reject) => answer.rejected.push(Rejected::new(index, &reject)),
                Given::Event(checked) => {
                    answer.warnings.extend(checked.warning.map(|detail| Warning { index, detail }));
                    places.push(index);
                    records.push(Outgoing { key: checked.key, value: checked.value, headers: Vec::new() });
                }
            }
        }
        let many = u32::try_from(records.len()).map_err(|_| Fault::Busy)?;
        let room = Arc::clone(&self.events).try_acquire_many_owned(many).map_err(|_| Fault::Busy)?;
        let told = self.options.deliverer.hand_over(&self.options.topic, &records, self.now());
        // In a task of its own, so that the room is taken for as long as the records are under way, even where the
        // publisher hangs up.
        let told = tokio::spawn(async move {
            let outcomes = told.await;
            drop(room);
            outcomes
        });
        // A producer that is gone has confirmed nothing.
        let outcomes =
            told.await.ok().and_then(Result::ok).unwrap_or_else(|| vec![Some(Undelivered::Unavailable); places.len()]);
        for (index, outcome) in places.into_iter().zip(outcomes) {
            match outcome {
                None => answer.accepted += 1,
                Some(Undelivered::Unavailable) => answer.unavailable.push(index),
                Some(Undelivered::TooLarge) => {
                    let reject = Reject::new(Reason::TooLarge, "the cluster takes no record of this size");
                    answer.rejected.push(Rejected::new(index, &reject));
                }
            }
        }
        answer.rejected.sort_by_key(|rejected| rejected.index);
        answer.warnings.retain(|warning| !answer.unavailable.contains(&warning.index));
        if !answer.unavailable.is_empty() {
            self.cluster.store(Cluster::Away as u8, Ordering::Release);
        }
        self.count(&answer);
        Ok(answer)
    }

    fn count(&self, answer: &Answer) {
        let add = |count: &AtomicU64, n: usize| count.fetch_add(n as u64, Ordering::Relaxed);
        add(&self.counts.answered, 1);
        add(&self.counts.accepted, answer.accepted);
        add(&self.counts.ignored, answer.ignored);
        add(&self.counts.unavailable, answer.unavailable.len());
        add(&self.counts.warned, answer.warnings.len());
        for rejected in &answer.rejected {
            let reason =
                Reason::ALL.iter().zip(&self.counts.rejected).find(|(reason, _)| reason.as_str() == rejected.reason);
            if let Some((_, count)) = reason {
                add(count, 1);
            }
        }
    }

    pub(super) fn count_fault(&self, fault: &Fault) {
        if let Some(count) = self.counts.faults.get(fault.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn status(&self) -> GatewayStatus {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Limits { buffered_bytes, queued_events, .. } = self.options.limits;
        GatewayStatus {
            is_ready: self.is_ready(),
            sources: self.options.sources.len(),
            accepted: count(&self.counts.accepted),
            ignored: count(&self.counts.ignored),
            unavailable: count(&self.counts.unavailable),
            warned: count(&self.counts.warned),
            rejected: Reason::ALL
                .iter()
                .zip(&self.counts.rejected)
                .map(|(reason, n)| (reason.as_str(), count(n)))
                .collect(),
            answered: count(&self.counts.answered),
            refused: Fault::NAMES.iter().zip(&self.counts.faults).map(|(name, n)| (*name, count(n))).collect(),
            queued_events: queued_events.saturating_sub(self.events.available_permits()),
            buffered_bytes: (buffered_bytes / ROOM_UNIT).saturating_sub(self.bytes.available_permits()) * ROOM_UNIT,
        }
    }
}
