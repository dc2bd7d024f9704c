//! The stage loop over the log in memory: one process, all four stages, failures on demand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis::engine::{Counts, Env};
use portcullis::event::Millis;
use portcullis::event::wire::{Encoder, Format, SchemaIds, WriterSchema};
use portcullis::log::memory::{MemoryBroker, MemoryLog};
use portcullis::log::{Clock, Parts, Progress, Schemas, StageLoop, StageOptions, Stores, Wiring, subscription};
use portcullis::state::{Error, MemoryStore, Store};
use portcullis::topology::{Stage, Topics};

use super::core::default_env;

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct TestClock {
    now: AtomicI64,
    elapsed_ms: AtomicU64,
}

impl Clock for TestClock {
    fn now(&self) -> Millis {
        self.now.load(Ordering::SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst))
    }
}

/// Stores that outlive the loop, as disks do.
#[derive(Debug, Clone, Default)]
pub struct Disks(Arc<Mutex<BTreeMap<(Stage, i32), MemoryStore>>>);

impl Stores for Disks {
    fn open(&mut self, stage: Stage, partition: i32) -> Result<Box<dyn Store>, Error> {
        Ok(Box::new(self.0.lock().unwrap().entry((stage, partition)).or_default().clone()))
    }

    fn wipe(&mut self, stage: Stage, partition: i32) -> Result<(), Error> {
        self.0.lock().unwrap().remove(&(stage, partition));
        Ok(())
    }
}

impl Disks {
    /// Every row of every store.
    pub fn rows(&self) -> BTreeMap<(Stage, i32), BTreeMap<portcullis::engine::Key, Vec<u8>>> {
        self.0.lock().unwrap().iter().map(|(place, store)| (*place, store.rows())).collect()
    }
}

/// The schema id that makes a step panic, as a defect would.
pub const PANICKING: u32 = 13;

/// Knows the schema that this build bundles, under the id 1.
pub struct Bundled;

impl Schemas for Bundled {
    fn writer(&self, id: u32) -> Option<Arc<WriterSchema>> {
        assert_ne!(id, PANICKING, "a defect");
        (id == 1).then(|| Arc::new(WriterSchema::Bundled))
    }
}

/// One installation on the log in memory.
pub struct Installation {
    pub broker: MemoryBroker,
    pub disks: Disks,
    pub topics: Topics,
    env: Arc<Env>,
    clock: Arc<TestClock>,
    pub progress: Arc<Progress>,
    running: Option<StageLoop<MemoryLog>>,
    /// Instead of `disks`.
    stores: Option<Box<dyn Fn() -> Box<dyn Stores>>>,
    partitions: i32,
    /// How much time each turn takes.
    pub turn_ms: u64,
}

impl Installation {
    pub fn new(partitions: i32) -> Installation {
        let text = include_str!("../../../topology/topics.yaml");
        let topics = Topics::parse(text, "test", "", Some(partitions)).unwrap();
        let broker = MemoryBroker::default();
        for topic in topics.all() {
            broker.create(&topic.name, if topic.name == "login-events" { partitions } else { topic.partitions });
        }
        Installation {
            broker,
            disks: Disks::default(),
            topics,
            env: default_env(),
            clock: Arc::new(TestClock::default()),
            progress: Arc::default(),
            running: None,
            stores: None,
            partitions,
            turn_ms: 37,
        }
    }

    /// From the next start on, stores are opened here and not in `disks`.
    pub fn keep_stores_in(&mut self, stores: impl Stores + Clone + 'static) {
        self.stores = Some(Box::new(move || Box::new(stores.clone())));
    }

    /// Publishes an event as JSON at an arrival time.
    pub fn publish(&self, partition: i32, at: Millis, json: &str) {
        self.broker.publish("login-events", partition, at, None, Some(json.as_bytes()));
    }

    /// The process ends, as by SIGKILL: whatever was in hand is gone, the disks stay.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// The process ends when it is told to: everything is committed and saved.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.finish().unwrap();
        }
    }

    /// The clock shows a time, at which records are written as well.
    pub fn set_now(&self, now: Millis) {
        self.clock.now.store(now, Ordering::SeqCst);
        self.broker.set_now(now);
    }

    /// One turn of the loop; the process is started when it is not running.
    pub fn turn(&mut self) {
        self.try_turn().unwrap();
    }

    pub fn try_turn(&mut self) -> Result<(), portcullis::log::Error> {
        self.clock.elapsed_ms.fetch_add(self.turn_ms, Ordering::SeqCst);
        let running = self.running.get_or_insert_with(|| {
            let encoder = Encoder::new(Format::Json, SchemaIds::default()).unwrap();
            let partitions = Stage::ALL.into_iter().map(|stage| (stage, self.partitions)).collect();
            let wiring = Wiring { topics: self.topics.clone(), encoder, partitions };
            let parts = Parts {
                env: Arc::clone(&self.env),
                wiring: Arc::new(wiring),
                stores: self.stores.as_ref().map_or_else(|| Box::new(self.disks.clone()) as _, |make| make()),
                schemas: Arc::new(Bundled),
                clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
                progress: Arc::clone(&self.progress),
                networks: Arc::default(),
                options: StageOptions {
                    application_id: "test".to_owned(),
                    commit_interval: Duration::from_millis(100),
                    backlog_commit_interval: Duration::from_millis(400),
                    tenant: None,
                    rows_in_hand: 10_000,
                },
            };
            StageLoop::new(MemoryLog::new(&self.broker, &subscription(&self.topics)), parts)
        });
        running.turn()
    }

    /// Whether everything published has been worked off by all stages.
    pub fn is_at_rest(&self) -> bool {
        self.progress.is_caught_up() && self.running.as_ref().is_some_and(StageLoop::is_settled)
    }

    /// Turns until everything published has been worked off by all stages.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            self.turn();
            if self.is_at_rest() {
                return;
            }
        }
        panic!("the stages do not come to rest");
    }

    pub fn counts(&self) -> Counts {
        self.progress.counts()
    }

    /// The records of an output topic: key and value, in the order of their partitions.
    pub fn output(&self, topic: &str) -> Vec<(String, Option<serde_json::Value>)> {
        let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|b| String::from_utf8(b.clone()).unwrap());
        let records = self.broker.records(topic);
        let of = |record: &portcullis::log::Incoming| {
            let value = record.value.as_ref().map(|v| serde_json::from_slice(v).unwrap());
            (text(&record.key).unwrap_or_default(), value)
        };
        records.iter().map(of).collect()
    }
}
