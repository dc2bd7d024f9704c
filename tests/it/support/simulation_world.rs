//! The simulated installation: several workers over one model of Kafka, and dice that say who turns and what goes wrong.
//!
//! A stop at a call runs the rest of the world inside that call, so a worker may stand still anywhere between two
//! requests, and everything is still one thread and one history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use portcullis::engine::{Counter, Counts, Env, Key, Limits};
use portcullis::event::Millis;
use portcullis::event::wire::{Encoder, Format, SchemaIds};
use portcullis::log::model::{Calm, ClientId, ModelCluster, ModelLog, ModelOptions, Timeouts};
use portcullis::log::{
    Clock, Error, Incoming, Log, Outgoing, Part, Parts, Progress, StageLoop, StageOptions, Wiring, subscription,
};
use portcullis::topology::{Exemptions, Stage, Topics};

use super::core::{default_playbooks, env, few_make_a_campaign};
use super::simulation_dice::Dice;
use super::simulation_log::{Fate, Meddled, Undefended};
use super::simulation_traffic::{Planned, plan};
use super::simulation_weather::{Severity, Storm};
use super::stages::{Bundled, Disks};

pub const START: Millis = 1_561_682_400_000;
const WORKERS: usize = 3;
pub const PARTITIONS: i32 = 2;
const TIMEOUTS: Timeouts = Timeouts { session_ms: 2_500, transaction_ms: 3_000 };
/// Stops inside of stops.
const DEPTH_MAX: usize = 2;
/// Turns that the world may take to come to rest.
const SETTLE_MAX: usize = 60_000;
/// A partition of a stage.
type Place = (Stage, i32);

const CRASH: &str = "crashed by the dice";

/// What a seed does.
#[derive(Debug, Clone, Copy)]
struct Rates {
    /// One call in so many.
    crashes: u64,
    stops: u64,
    /// One commit in so many.
    aborts: u64,
    /// Of commits under way, one in so many takes longer each time that somebody looks.
    dawdles: u64,
    /// One step in so many.
    kills: u64,
    freezes: u64,
    departures: u64,
    cleanings: u64,
    /// Of lost processes one in so many loses its disk.
    wipes: u64,
}

/// What was done to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    pub crashes: u64,
    pub kills: u64,
    pub stops: u64,
    pub departures: u64,
    pub cleanings: u64,
    pub wipes: u64,
    pub fenced: u64,
    pub turns: u64,
    pub commits: u64,
    pub aborts: u64,
    pub unknown: u64,
    pub rebalances: u64,
    pub events: u64,
    pub blocks: u64,
    pub lifts: u64,
}

impl Told {
    pub fn add(&mut self, other: &Told) {
        self.crashes += other.crashes;
        self.kills += other.kills;
        self.stops += other.stops;
        self.departures += other.departures;
        self.cleanings += other.cleanings;
        self.wipes += other.wipes;
        self.fenced += other.fenced;
        self.turns += other.turns;
        self.commits += other.commits;
        self.aborts += other.aborts;
        self.unknown += other.unknown;
        self.rebalances += other.rebalances;
        self.events += other.events;
        self.blocks += other.blocks;
        self.lifts += other.lifts;
    }
}

pub struct World {
    pub cluster: ModelCluster,
    pub topics: Topics,
    pub env: Arc<Env>,
    pub wiring: Arc<Wiring>,
    is_defended: bool,
    is_static: bool,
    /// Whether every call is printed.
    is_told: bool,
    rates: Rates,
    /// Rows that a worker keeps in hand: all of them, a few, or none.
    rows_in_hand: usize,
    inner: Mutex<Inner>,
    me: Weak<World>,
}

struct Inner {
    dice: Dice,
    workers: Vec<Worker>,
    plan: VecDeque<Planned>,
    /// What was published, with its place.
    published: Vec<(Part, i64, Planned)>,
    is_calm: bool,
    depth: usize,
    failure: Option<String>,
    told: Told,
    counts: Counts,
}

impl Inner {
    /// A process has ended: what it counted stays.
    fn take_progress(&mut self, worker: usize) {
        let progress = std::mem::take(&mut self.workers[worker].progress);
        self.counts.merge(&progress.counts());
        let snapshot = progress.snapshot();
        self.told.commits += snapshot.commits;
        self.told.aborts += snapshot.aborts;
        self.told.unknown += snapshot.unknown_outcomes;
        self.told.rebalances += snapshot.rebalances;
    }
}

struct Worker {
    disks: Disks,
    /// Of its present process.
    progress: Arc<Progress>,
    slot: Slot,
    client: ClientId,
    /// Its process has ended, and whatever it still calls fails.
    is_dead: bool,
    frozen_until: Option<Millis>,
}

enum Slot {
    Down(Millis),
    Up(Box<StageLoop<Meddled>>),
    /// It is being turned just now.
    Out,
}

/// What is left when everything has come to rest.
pub struct Rest {
    pub published: Vec<(Part, i64, Planned)>,
    /// The stores of the tasks that ran at the end.
    pub stores: BTreeMap<Place, BTreeMap<Key, Vec<u8>>>,
    /// Sums of what the processes say that they counted.
    pub counts: Counts,
    pub told: Told,
}

/// The shipped playbooks, and a site that is on its guard sooner.
fn env_of_the_simulation() -> Env {
    let limits = Limits { campaign: few_make_a_campaign(), ..Limits::default() };
    Env { limits, ..env(&default_playbooks(), Exemptions::default()) }
}

impl World {
    pub fn new(seed: u64, is_defended: bool, is_told: bool) -> Arc<World> {
        let mut dice = Dice::new(seed, 0);
        let text = include_str!("../../../topology/topics.yaml");
        let topics = Topics::parse(text, "test", "", Some(PARTITIONS)).unwrap();
        let severity = Severity {
            requests: *dice.pick(&[0, 3, 10, 30]),
            markers: *dice.pick(&[0, 2, 8]),
            news: *dice.pick(&[0, 2, 5]),
        };
        let cluster = ModelCluster::new(TIMEOUTS, Box::new(Storm { dice: Dice::new(seed, 1), severity }));
        for mut topic in topics.all() {
            let is_input = topic.name == "login-events" || topic.name == topics.changelog(Stage::Intake);
            topic.partitions = if is_input { PARTITIONS } else { topic.partitions.min(PARTITIONS) };
            cluster.create(&topic);
        }
        cluster.set_now(START);
        let rates = Rates {
            crashes: *dice.pick(&[0, 5_000, 15_000, 40_000]),
            stops: *dice.pick(&[0, 5_000, 20_000]),
            aborts: *dice.pick(&[0, 10, 40]),
            dawdles: *dice.pick(&[0, 2, 2, 10]),
            kills: *dice.pick(&[0, 200, 600]),
            freezes: *dice.pick(&[0, 200, 600]),
            departures: *dice.pick(&[0, 300, 800]),
            cleanings: *dice.pick(&[0, 100, 400]),
            wipes: *dice.pick(&[0, 2, 4]),
        };
        let encoder = Encoder::new(Format::Json, SchemaIds::default()).unwrap();
        let partitions = Stage::ALL.into_iter().map(|stage| (stage, PARTITIONS)).collect();
        let wiring = Arc::new(Wiring { topics: topics.clone(), encoder, partitions });
        let is_static = dice.one_in(2);
        let rows_in_hand = *dice.pick(&[0, 200, 10_000]);
        let plan = plan(&mut Dice::new(seed, 2), START + 1_000, PARTITIONS).into();
        let worker = |n: usize| Worker {
            disks: Disks::default(),
            progress: Arc::default(),
            slot: Slot::Down(n as Millis * 20),
            client: 0,
            is_dead: false,
            frozen_until: None,
        };
        let inner = Inner {
            dice: Dice::new(seed, 3),
            workers: (0..WORKERS).map(worker).collect(),
            plan,
            published: Vec::new(),
            is_calm: false,
            depth: 0,
            failure: None,
            told: Told::default(),
            counts: Counts::default(),
        };
        Arc::new_cyclic(|me| World {
            cluster,
            topics,
            env: Arc::new(env_of_the_simulation()),
            wiring,
            is_defended,
            is_static,
            is_told,
            rates,
            rows_in_hand,
            inner: Mutex::new(inner),
            me: me.clone(),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap())
    }

    fn elapsed(&self) -> Millis {
        self.cluster.elapsed().as_millis() as Millis
    }

    fn has_failed(&self) -> bool {
        self.with(|inner| inner.failure.is_some())
    }

    /// Plays the whole history and lets it come to rest.
    ///
    /// # Errors
    /// What a worker said that it must never say, or that there is no rest.
    pub fn play(&self) -> Result<Rest, String> {
        while self.with(|inner| inner.failure.is_none() && !inner.plan.is_empty()) {
            self.step();
        }
        self.settle();
        let owners = self.owners();
        self.finish();
        self.with(|inner| {
            (0..WORKERS).for_each(|n| inner.take_progress(n));
            let counts = inner.counts.clone();
            inner.told.events = counts.get(Counter::EventsIn);
            inner.told.blocks = counts.get(Counter::Blocks);
            inner.told.lifts = counts.get(Counter::Lifts);
            let store =
                |(place, worker): (Place, usize)| Some((place, inner.workers[worker].disks.rows().remove(&place)?));
            let stores = owners.into_iter().filter_map(store).collect();
            // What still runs holds the world, which holds what runs.
            let failure = inner.failure.take();
            let rest = Rest { published: std::mem::take(&mut inner.published), stores, counts, told: inner.told };
            failure.map_or(Ok(rest), Err)
        })
    }

    /// Which worker has which task.
    fn owners(&self) -> BTreeMap<Place, usize> {
        let mut owners = BTreeMap::new();
        for n in 0..WORKERS {
            let tasks = self.with(|inner| inner.workers[n].progress.snapshot().tasks);
            for stage in Stage::ALL {
                let held = |partition: &i32| tasks.contains_key(&format!("{}[{partition}]", self.topics.input(stage)));
                owners.extend((0..PARTITIONS).filter(held).map(|partition| ((stage, partition), n)));
            }
        }
        owners
    }

    /// Time passes, something is published, something may go wrong, and somebody turns.
    fn step(&self) {
        let (ms, speed) = self.with(|inner| {
            let next = inner.plan.front().map_or(0, |planned| planned.at);
            // Nothing is published for a while: clocks leap.
            let is_near = next.saturating_sub(self.cluster.now()) < 30_000;
            (inner.dice.between(1, 30), if is_near { 10 } else { 300 })
        });
        self.cluster.set_speed(speed);
        self.cluster.pass(ms);
        self.publish();
        self.go_wrong();
        self.wake_and_start();
        for _ in 0..self.with(|inner| inner.dice.between(1, 4)) {
            let n = self.with(|inner| inner.dice.below(WORKERS as u64) as usize);
            self.turn(n);
        }
    }

    fn publish(&self) {
        let now = self.cluster.now();
        while let Some(planned) = self.with(|inner| {
            let is_due = inner.plan.front().is_some_and(|planned| planned.at <= now);
            if is_due { inner.plan.pop_front() } else { None }
        }) {
            let record = Outgoing {
                topic: planned.topic.into(),
                partition: planned.partition,
                key: planned.key.clone().map(String::into_bytes),
                value: planned.value.clone(),
                headers: planned.headers.clone(),
            };
            let (part, offset) = self.cluster.publish(record).unwrap();
            // A worker that stands still keeps whoever publishes waiting as well.
            let published = Planned { at: self.cluster.now(), ..planned };
            self.with(|inner| inner.published.push((part, offset, published)));
        }
    }

    fn go_wrong(&self) {
        let rates = self.rates;
        let victim = self.with(|inner| inner.dice.below(WORKERS as u64) as usize);
        if self.with(|inner| inner.dice.one_in(rates.kills)) {
            let killed = self.with(|inner| {
                let down = Slot::Down(self.elapsed() + inner.dice.between(10, 4_000));
                let worker = &mut inner.workers[victim];
                match std::mem::replace(&mut worker.slot, down) {
                    Slot::Up(running) => {
                        inner.told.kills += 1;
                        Some(running)
                    }
                    other @ (Slot::Down(_) | Slot::Out) => {
                        worker.slot = other;
                        None
                    }
                }
            });
            if killed.is_some() {
                drop(killed);
                self.lose_disk(victim);
            }
        }
        if self.with(|inner| inner.dice.one_in(rates.freezes)) {
            self.with(|inner| {
                let until = self.elapsed() + inner.dice.between(50, 6_000);
                let worker = &mut inner.workers[victim];
                if matches!(worker.slot, Slot::Up(_)) && worker.frozen_until.is_none() {
                    worker.frozen_until = Some(until);
                    self.cluster.stop(worker.client);
                    inner.told.stops += 1;
                }
            });
        }
        if self.with(|inner| inner.dice.one_in(rates.departures)) {
            self.depart(victim);
        }
        if self.with(|inner| inner.dice.one_in(rates.cleanings)) {
            self.cluster.clean();
            self.with(|inner| inner.told.cleanings += 1);
        }
    }

    /// The disk of a process that ended may be gone with it.
    fn lose_disk(&self, n: usize) {
        self.with(|inner| {
            if inner.dice.one_in(self.rates.wipes) {
                inner.workers[n].disks = Disks::default();
                inner.told.wipes += 1;
            }
            inner.workers[n].frozen_until = None;
        });
    }

    /// A worker ends by itself.
    fn depart(&self, n: usize) {
        let Some(mut running) = self.take(n) else { return };
        let done = running.finish();
        drop(running);
        let until = self.elapsed() + self.with(|inner| inner.dice.between(10, 4_000));
        self.with(|inner| {
            inner.workers[n].slot = Slot::Down(until);
            inner.told.departures += 1;
        });
        if let Err(error) = done {
            self.ended(n, &error);
        }
    }

    fn wake_and_start(&self) {
        let now = self.elapsed();
        for n in 0..WORKERS {
            let starts = self.with(|inner| {
                let is_calm = inner.is_calm;
                let worker = &mut inner.workers[n];
                if worker.frozen_until.is_some_and(|until| until <= now || is_calm) {
                    worker.frozen_until = None;
                    self.cluster.wake(worker.client);
                }
                matches!(worker.slot, Slot::Down(until) if until <= now || is_calm)
            });
            if starts {
                self.start(n);
            }
        }
    }

    fn start(&self, n: usize) {
        let options = ModelOptions {
            group: self.topics.group(),
            member: format!("worker-{n}"),
            topics: subscription(&self.topics),
            static_membership: self.is_static,
        };
        let log = ModelLog::new(&self.cluster, options);
        let client = log.id();
        let inner: Box<dyn Log> = if self.is_defended { Box::new(log) } else { Box::new(Undefended(log, None)) };
        let log = Meddled { inner, worker: n, fate: self.me.upgrade().unwrap(), unsent: None, ended: None };
        self.with(|inner| {
            inner.take_progress(n);
            let worker = &mut inner.workers[n];
            let parts = Parts {
                env: Arc::clone(&self.env),
                wiring: Arc::clone(&self.wiring),
                stores: Box::new(worker.disks.clone()),
                schemas: Arc::new(Bundled),
                clock: Arc::new(self.cluster.clone()),
                progress: Arc::clone(&worker.progress),
                networks: Arc::default(),
                options: StageOptions {
                    application_id: "test".to_owned(),
                    commit_interval: Duration::from_millis(100),
                    backlog_commit_interval: Duration::from_millis(200),
                    tenant: None,
                    rows_in_hand: self.rows_in_hand,
                },
            };
            worker.client = client;
            worker.is_dead = false;
            worker.slot = Slot::Up(Box::new(StageLoop::new(log, parts)));
        });
    }

    fn take(&self, n: usize) -> Option<Box<StageLoop<Meddled>>> {
        self.with(|inner| {
            let worker = &mut inner.workers[n];
            if worker.frozen_until.is_some() {
                return None;
            }
            match std::mem::replace(&mut worker.slot, Slot::Out) {
                Slot::Up(running) => Some(running),
                other @ (Slot::Down(_) | Slot::Out) => {
                    worker.slot = other;
                    None
                }
            }
        })
    }

    fn turn(&self, n: usize) {
        if self.has_failed() {
            return;
        }
        let Some(mut running) = self.take(n) else { return };
        let done = running.turn();
        self.with(|inner| inner.told.turns += 1);
        match done {
            Ok(()) => self.with(|inner| inner.workers[n].slot = Slot::Up(running)),
            Err(error) => {
                drop(running);
                self.ended(n, &error);
            }
        }
    }

    /// A process ended: by the dice, or because somebody has taken its name over. Anything else must not be.
    fn ended(&self, n: usize, error: &Error) {
        let until = self.elapsed();
        self.with(|inner| {
            let is_ours = inner.workers[n].is_dead;
            match error {
                _ if is_ours => inner.told.crashes += 1,
                Error::Fenced(_) => inner.told.fenced += 1,
                other @ (Error::Kafka(_) | Error::Setup(_) | Error::Panicked { .. } | Error::State(_)) => {
                    let _kept = inner.failure.get_or_insert_with(|| format!("worker {n} ended: {other}"));
                }
            }
            let pause = inner.dice.between(10, 4_000);
            inner.workers[n].slot = Slot::Down(until + pause);
        });
        self.lose_disk(n);
    }

    /// Nothing goes wrong any more, clocks stand still, and everything is worked off.
    fn settle(&self) {
        self.with(|inner| inner.is_calm = true);
        self.cluster.set_weather(Box::new(Calm));
        self.cluster.set_speed(0);
        // Whoever has just begun has something to say at its first commit.
        let mut was_at_rest = false;
        for round in 0..SETTLE_MAX {
            if self.has_failed() {
                return;
            }
            self.cluster.pass(7);
            self.wake_and_start();
            (0..WORKERS).for_each(|n| self.turn(n));
            if round % 32 == 31 {
                let is_at_rest = self.is_at_rest();
                if is_at_rest && was_at_rest {
                    return;
                }
                was_at_rest = is_at_rest;
            }
        }
        let unfinished = self.cluster.unfinished();
        let left: Vec<String> =
            self.left_over().iter().map(|record| format!("{}@{}", record.part, record.offset)).collect();
        self.with(|inner| inner.failure = Some(format!("no rest: {unfinished:?}, not worked off: {left:?}")));
    }

    fn is_at_rest(&self) -> bool {
        let settled = self.with(|inner| {
            inner.workers.iter().all(|worker| matches!(&worker.slot, Slot::Up(running) if running.is_settled()))
        });
        // A member that is gone without a word keeps its partitions for a session, and until then nobody has them.
        let tasks = Stage::ALL.len() * PARTITIONS as usize;
        settled && self.owners().len() == tasks && self.cluster.unfinished().is_empty() && self.left_over().is_empty()
    }

    /// Committed records of the group's topics that its committed offsets do not cover.
    fn left_over(&self) -> Vec<Incoming> {
        let committed = self.cluster.committed(&self.topics.group());
        let mut left = Vec::new();
        for topic in subscription(&self.topics) {
            let records = self.cluster.records(&topic).into_iter();
            left.extend(records.filter(|record| committed.get(&record.part).is_none_or(|next| record.offset >= *next)));
        }
        left
    }

    /// Every worker ends by itself, and lets go of the world.
    fn finish(&self) {
        for n in 0..WORKERS {
            if let Some(mut running) = self.take(n)
                && !self.has_failed()
                && let Err(error) = running.finish()
            {
                self.with(|inner| inner.failure = Some(format!("worker {n} could not finish: {error}")));
            }
        }
    }
}

impl Fate for World {
    fn meets(&self, worker: usize) -> Result<(), Error> {
        enum Met {
            Nothing,
            Crash,
            Stop(Millis),
        }
        let met = self.with(|inner| {
            if inner.workers[worker].is_dead {
                return Met::Crash;
            }
            if inner.is_calm {
                return Met::Nothing;
            }
            if inner.dice.one_in(self.rates.crashes) {
                inner.workers[worker].is_dead = true;
                return Met::Crash;
            }
            if inner.depth < DEPTH_MAX && inner.dice.one_in(self.rates.stops) {
                inner.depth += 1;
                inner.told.stops += 1;
                return Met::Stop(inner.dice.between(20, 6_000));
            }
            Met::Nothing
        });
        match met {
            Met::Nothing => Ok(()),
            Met::Crash => Err(Error::Kafka(CRASH.to_owned())),
            Met::Stop(ms) => {
                let client = self.with(|inner| inner.workers[worker].client);
                self.cluster.stop(client);
                let until = self.elapsed() + ms;
                while self.elapsed() < until && !self.has_failed() {
                    self.step();
                }
                self.cluster.wake(client);
                self.with(|inner| inner.depth -= 1);
                Ok(())
            }
        }
    }

    fn aborts(&self) -> bool {
        self.with(|inner| !inner.is_calm && inner.dice.one_in(self.rates.aborts))
    }

    fn dawdles(&self) -> bool {
        self.with(|inner| !inner.is_calm && inner.dice.one_in(self.rates.dawdles))
    }

    fn hears(&self, worker: usize, what: &dyn Fn() -> String) {
        if self.is_told {
            eprintln!("{:>6} worker {worker}: {}", self.elapsed(), what());
        }
    }
}
