//! The cluster as who runs a test holds it: topics, time, stops, and what there is to see from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::{Clock, Incoming, Outgoing, Part};
use super::brokers::{Cluster, Topic};
use super::client::ClientId;
use super::network::Weather;
use super::partition::Partition;
use crate::event::Millis;
use crate::topology::{Cleanup, TopicSpec};

/// How long the brokers wait for a client, in milliseconds of the cluster's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a member that is not heard leaves its group.
    pub session_ms: Millis,
    /// Until an open transaction is aborted.
    pub transaction_ms: Millis,
}

impl Default for Timeouts {
    /// As [`KafkaLog`](super::super::kafka::KafkaLog) asks for.
    fn default() -> Self {
        Timeouts { session_ms: 10_000, transaction_ms: 10_000 }
    }
}

/// A cluster, shared by handle.
#[derive(Debug, Clone)]
pub struct ModelCluster(Arc<Mutex<Cluster>>);

impl ModelCluster {
    #[must_use]
    pub fn new(timeouts: Timeouts, weather: Box<dyn Weather>) -> Self {
        ModelCluster(Arc::new(Mutex::new(Cluster::new(timeouts, weather))))
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Cluster) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a topic.
    pub fn create(&self, spec: &TopicSpec) {
        /// What brokers take where a topic says nothing.
        const TOMBSTONE_MS: Millis = 86_400_000;
        let tombstone_ms = spec.config.get("delete.retention.ms").and_then(|ms| ms.parse().ok());
        let deletes = matches!(spec.cleanup, Cleanup::Delete | Cleanup::CompactDelete);
        let topic = Topic {
            partitions: (0..spec.partitions.max(1)).map(|_| Partition::default()).collect(),
            compacts: matches!(spec.cleanup, Cleanup::Compact | Cleanup::CompactDelete),
            retention_ms: spec.retention_ms.filter(|_| deletes),
            tombstone_ms: tombstone_ms.unwrap_or(TOMBSTONE_MS),
        };
        self.with(|cluster| cluster.topics.insert(spec.name.as_str().into(), topic));
    }

    /// From now on the weather is this.
    pub fn set_weather(&self, weather: Box<dyn Weather>) {
        self.with(|cluster| cluster.weather = weather);
    }

    /// Time passes: what is due arrives, and who was not heard for too long is given up.
    pub fn pass(&self, ms: Millis) {
        self.with(|cluster| cluster.pass_to(cluster.elapsed.saturating_add(ms)));
    }

    /// Clocks show this time.
    pub fn set_now(&self, now: Millis) {
        self.with(|cluster| cluster.now = now);
    }

    /// Clocks run so many times as fast as timeouts; at 0 they stand still.
    pub fn set_speed(&self, speed: Millis) {
        self.with(|cluster| cluster.speed = speed);
    }

    /// Appends a record as a publisher without transactions would. Gives its partition and offset.
    pub fn publish(&self, record: Outgoing) -> Option<(Part, i64)> {
        self.with(|cluster| {
            let part = cluster.place(&record)?;
            let now = cluster.now;
            let offset = cluster.partition_mut(&part)?.append(record, now, None);
            Some((part, offset))
        })
    }

    /// The committed records of a topic, by partition, then offset.
    #[must_use]
    pub fn records(&self, topic: &str) -> Vec<Incoming> {
        self.with(|cluster| {
            let mut all = Vec::new();
            for part in cluster.parts_of(topic) {
                let mut position = 0;
                while let Some(partition) = cluster.partition(&part) {
                    let (record, next) = partition.read(&part, position);
                    position = next;
                    match record {
                        Some(record) => all.push(record),
                        None => break,
                    }
                }
            }
            all
        })
    }

    /// Compaction and retention run over every topic.
    pub fn clean(&self) {
        self.with(|cluster| {
            let now = cluster.now;
            for topic in cluster.topics.values_mut() {
                for partition in &mut topic.partitions {
                    if topic.compacts {
                        partition.compact(now, topic.tombstone_ms);
                    }
                    if let Some(retention) = topic.retention_ms {
                        partition.forget_before(now.saturating_sub(retention));
                    }
                }
            }
        });
    }

    /// The process of a client stands still: nothing is heard of it.
    pub fn stop(&self, client: ClientId) {
        self.set_stopped(client, true);
    }

    /// It goes on.
    pub fn wake(&self, client: ClientId) {
        self.set_stopped(client, false);
    }

    fn set_stopped(&self, client: ClientId, is_stopped: bool) {
        self.with(|cluster| {
            if let Some(client) = cluster.clients.get_mut(&client) {
                client.is_stopped = is_stopped;
            }
        });
    }

    /// Transactional ids whose transaction is open, and requests and markers that are still on their way.
    #[must_use]
    pub fn unfinished(&self) -> Vec<String> {
        self.with(|cluster| {
            let open = cluster.coordinator.open().map(|id| format!("the transaction of {id}"));
            let flights = cluster.flights.iter().map(|((due, _), flight)| format!("{flight:?}, due at {due}"));
            let unstable = cluster.topics.iter().flat_map(|(topic, of)| {
                let partitions = of.partitions.iter().enumerate();
                let unstable = partitions.filter(|(_, partition)| partition.stable_end() < partition.end());
                unstable.map(move |(n, _)| format!("{topic}[{n}] is not stable"))
            });
            open.chain(flights).chain(unstable).collect()
        })
    }

    /// Every offset that a group has committed.
    #[must_use]
    pub fn committed(&self, group: &str) -> BTreeMap<Part, i64> {
        self.with(|cluster| cluster.groups.get(group).map(|group| group.offsets().clone()).unwrap_or_default())
    }
}

impl Clock for ModelCluster {
    fn now(&self) -> Millis {
        self.with(|cluster| cluster.now)
    }

    fn elapsed(&self) -> Duration {
        self.with(|cluster| Duration::from_millis(cluster.elapsed.max(0).unsigned_abs()))
    }
}
