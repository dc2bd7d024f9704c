//! A simulation over Kafka: events go to `login-events` when their time comes, and the simulated site obeys what it reads
//! from `blocklist` and `attack-status`, as any edge and login page would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::Connection;
use super::clock::ProcessClock;
use super::simulate::Feedback;
use crate::engine::Counter;
use crate::event::wire::decode_output;
use crate::event::{AttackStatus, BlocklistEntry, Millis};
use crate::ingest::jsonl;
use crate::ingest::simulate::Site;
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::log::publish::Publisher;
use crate::log::{Clock as _, Incoming, Progress};

/// Longest single wait, so that a stop and new blocks are seen.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// How long the last events may take to be delivered.
const FLUSH_MAX: Duration = Duration::from_secs(60);

/// Events out, blocks and statuses in.
pub struct Live<'a> {
    publisher: Publisher,
    follower: Follower,
    clock: ProcessClock,
    /// What is added to simulated time to get the clock's.
    offset_ms: Millis,
    topic: String,
    blocklist: String,
    stop: &'a AtomicBool,
    limit: Option<Unread>,
    sent: u64,
    sent_bytes: u64,
}

/// How much may be published that the job has not read: a cluster that keeps little must not lose it.
#[derive(Debug)]
pub struct Unread {
    pub progress: Arc<Progress>,
    pub bytes_max: u64,
}

impl std::fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("topic", &self.topic).field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl<'a> Live<'a> {
    /// # Errors
    /// The cluster does not answer, or a topic is missing.
    pub fn new(
        connection: &Connection,
        clock: ProcessClock,
        offset_ms: Millis,
        stop: &'a AtomicBool,
        limit: Option<Unread>,
    ) -> Result<Self> {
        let topic = connection.topics.public("login-events");
        let blocklist = connection.topics.public("blocklist");
        let publisher = Publisher::new(&connection.client)?;
        publisher.check(&topic)?;
        let topics = [blocklist.clone(), connection.topics.public("attack-status")];
        let follower = Follower::new(&connection.client, &topics, ReadFrom::End)?;
        Ok(Live { publisher, follower, clock, offset_ms, topic, blocklist, stop, limit, sent: 0, sent_bytes: 0 })
    }

    fn hear(&mut self, wait: Duration, site: &mut Site) -> Result<()> {
        let mut wait = wait.min(WAIT_MAX);
        loop {
            match self.follower.poll(wait)? {
                Followed::Record(record) => self.take(&record, site),
                Followed::CaughtUp => {}
                Followed::Idle => return Ok(()),
            }
            wait = Duration::ZERO;
        }
    }

    fn take(&self, record: &Incoming, site: &mut Site) {
        let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) else { return };
        if *record.part.topic == *self.blocklist {
            let entry = record.value.as_deref().map(|v| decode_output::<BlocklistEntry>("blocklist", v)).transpose();
            match entry {
                Ok(entry) => site.blocklist(key, entry.map(|entry| self.back(entry)).as_ref()),
                Err(error) => tracing::warn!(%error, "blocklist record does not read"),
            }
        } else if let Some(value) = record.value.as_deref() {
            match decode_output::<AttackStatus>("attack-status", value) {
                Ok(mut status) => {
                    for at in [&mut status.since, &mut status.updated_at, &mut status.expires_at] {
                        *at = at.saturating_sub(self.offset_ms);
                    }
                    site.status(&status);
                }
                Err(error) => tracing::warn!(%error, "attack status does not read"),
            }
        }
    }

    /// An entry in simulated time.
    fn back(&self, mut entry: BlocklistEntry) -> BlocklistEntry {
        entry.until = entry.until.map(|until| until.saturating_sub(self.offset_ms));
        entry.since = entry.since.saturating_sub(self.offset_ms);
        entry.generation = entry.generation.saturating_sub(self.offset_ms);
        entry
    }

    /// Bytes published that no commit of the job has counted yet.
    fn unread_bytes(&self, progress: &Progress) -> u64 {
        let read = progress.counts().get(Counter::EventsIn).min(self.sent);
        (self.sent - read) * self.sent_bytes.checked_div(self.sent).unwrap_or_default()
    }

    fn is_over_limit(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| self.unread_bytes(&limit.progress) > limit.bytes_max)
    }
}

impl Feedback for Live<'_> {
    fn publish(&mut self, at: Millis, value: &[u8]) -> Result<()> {
        let moved = if self.offset_ms == 0 { None } else { jsonl::shift(value, self.offset_ms) };
        let value = moved.as_deref().unwrap_or(value);
        let timestamp = at.saturating_add(self.offset_ms);
        self.publisher.send(&self.topic, None, value, timestamp.max(0))?;
        self.sent += 1;
        self.sent_bytes += value.len() as u64;
        Ok(())
    }

    fn tell(&mut self, at: Millis, site: &mut Site) -> Result<()> {
        let due = at.saturating_add(self.offset_ms);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                bail!("stopped");
            }
            let left = self.clock.wait_for(due);
            if !left.is_zero() {
                // A clock that stood still while history was published: now time matters.
                self.clock.start();
            }
            let is_over = self.is_over_limit();
            let wait = if is_over { WAIT_MAX } else { left };
            // What came in is heard at once; between events that are due, only now and then.
            if !wait.is_zero() || self.sent.is_multiple_of(64) {
                self.hear(wait, site)?;
            }
            self.publisher.poll(Duration::ZERO);
            if left.is_zero() && !is_over {
                return Ok(());
            }
        }
    }

    fn finish(&mut self, _at: Millis, site: &mut Site) -> Result<()> {
        let deliveries = self.publisher.flush(FLUSH_MAX).context("the last events")?;
        if let Some(failure) = deliveries.first_failure {
            bail!("{} events were not delivered: {failure}", deliveries.failed);
        }
        self.hear(WAIT_MAX, site)
    }
}

impl Live<'_> {
    /// Waits for what the job still says about what was published.
    ///
    /// # Errors
    /// Nothing can be heard any more.
    pub fn hear_out(&mut self, site: &mut Site, until: impl Fn() -> bool, limit: Duration) -> Result<()> {
        let give_up = self.clock.elapsed() + limit;
        while !until() && self.clock.elapsed() < give_up && !self.stop.load(Ordering::Relaxed) {
            self.hear(WAIT_MAX, site)?;
        }
        self.hear(WAIT_MAX, site)
    }
}
