//! After the faults: everything is worked off, every process has ended well, no transaction is open, and what stands on
//! the topics is what the oracle says, no more and no less.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis::app::Connection;
use portcullis::log::Incoming;
use portcullis::topology::Stage;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::chaos::{Job, folder_of_failure};
use super::oracle::compare::{self, Differences};
use super::oracle::{Block, Playbooks, Read, Verdict, account_stage, frames, intake_stage, source_stage};
use super::records::read_all;
use super::until;

/// How long the job may take to work off what is there, once it is left alone.
const DRAIN_MAX: Duration = Duration::from_secs(240);
const ASK_MAX: Duration = Duration::from_secs(20);
/// Sums wait for the next second, so the stages go on a little after the last event.
const AFTER_LAST_EVENT: Duration = Duration::from_secs(4);

/// Watches the group's offsets past the proxy.
pub struct Watch {
    group: BaseConsumer,
    uncommitted: BaseConsumer,
    connection: Connection,
}

impl Watch {
    pub fn new(connection: Connection) -> Watch {
        let consumer = |isolation: &str| {
            ClientConfig::new()
                .set("bootstrap.servers", &connection.client.bootstrap)
                .set("group.id", connection.topics.group())
                .set("isolation.level", isolation)
                .set("enable.auto.commit", "false")
                .set("log_level", "0")
                .create()
                .unwrap()
        };
        let (group, uncommitted) = (consumer("read_committed"), consumer("read_uncommitted"));
        Watch { group, uncommitted, connection }
    }

    fn partitions(&self, topic: &str) -> i32 {
        self.connection.topics.all().iter().find(|t| t.name == topic).map(|t| t.partitions).expect("a known topic")
    }

    /// The group's next offset of each partition; `None` while the coordinator does not say.
    pub fn committed(&self, topic: &str) -> Option<Vec<i64>> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(topic, 0, self.partitions(topic) - 1);
        let found = self.group.committed_offsets(asked, ASK_MAX).ok()?;
        let offset = |e: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match e.offset() {
            Offset::Offset(offset) => offset,
            Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => 0,
        };
        Some(found.elements_for_topic(topic).into_iter().map(offset).collect())
    }

    /// Ends of the committed records, and ends of all records.
    fn ends(&self, topic: &str) -> Option<Vec<(i64, i64)>> {
        (0..self.partitions(topic))
            .map(|p| {
                let (_, stable) = self.group.fetch_watermarks(topic, p, ASK_MAX).ok()?;
                let (_, end) = self.uncommitted.fetch_watermarks(topic, p, ASK_MAX).ok()?;
                Some((stable, end))
            })
            .collect()
    }

    /// How many records of the events the group has not committed yet.
    pub fn behind(&self) -> Option<i64> {
        let topic = self.connection.topics.input(Stage::Intake);
        let (committed, ends) = (self.committed(&topic)?, self.ends(&topic)?);
        Some(ends.iter().zip(committed).map(|((end, _), committed)| end - committed).sum())
    }

    /// Sum of what is committed of the inputs of all stages: it grows as long as anything goes on.
    pub fn progress(&self) -> Option<i64> {
        let inputs = Stage::ALL.map(|stage| self.connection.topics.input(stage));
        inputs.iter().map(|topic| self.committed(topic).map(|offsets| offsets.iter().sum::<i64>())).sum()
    }

    /// Waits until each stage has worked off what the one before it wrote, beginning with the events. The end of an
    /// internal topic is the marker of a transaction, which is passed when the next mark comes, a second later.
    fn drain(&self) {
        let passed = |topic: &str, ends: &[i64]| {
            self.committed(topic).is_some_and(|at| at.iter().zip(ends).all(|(at, end)| at >= end)).then_some(())
        };
        for stage in Stage::ALL {
            let topic = self.connection.topics.input(stage);
            let ends = |(stable, _): &(i64, i64)| *stable;
            if stage == Stage::Source {
                let since = Instant::now();
                until(AFTER_LAST_EVENT * 2, "time to pass", || (since.elapsed() > AFTER_LAST_EVENT).then_some(()));
            }
            let ends: Vec<i64> = until(DRAIN_MAX, "ends", || self.ends(&topic)).iter().map(ends).collect();
            until(DRAIN_MAX, &format!("{topic} to be worked off, up to {ends:?}"), || passed(&topic, &ends));
        }
    }
}

/// What was found, for the table.
#[derive(Debug)]
pub struct Checked {
    pub events: usize,
    pub tally: BTreeMap<&'static str, u64>,
    pub drained_in: Duration,
}

/// Lets the job come to its end and compares. Panics with what differs, after the topics lie in a folder.
pub fn check(mut job: Job, seed: u64) -> Checked {
    let connection = job.connection();
    let watch = Watch::new(connection);
    let since = Instant::now();
    watch.drain();
    let drained_in = since.elapsed();
    stop_all(&mut job);
    let mut found = Differences::default();
    no_transaction_is_open(&watch, &mut found);
    let topics = Topics::read(&watch);
    let tally = compare_all(&topics, &watch, &Playbooks::read(&job.topology.join("playbooks")), &mut found);
    let events = topics.of("login-events").len();
    if !found.is_empty() {
        let folder = topics.dump(&job);
        panic!(
            "seed {seed}: the job differs from the oracle; topics and logs are in {}\n{}",
            folder.display(),
            found.text()
        );
    }
    Checked { events, tally, drained_in }
}

/// Every process ends well when it is told to.
fn stop_all(job: &mut Job) {
    job.instances.iter().for_each(|instance| instance.signal("TERM"));
    for instance in &mut job.instances {
        let status = until(DRAIN_MAX, "an instance to end", || instance.status());
        assert_eq!(status, 0, "an instance ended badly:\n{}", instance.last_words());
    }
}

fn no_transaction_is_open(watch: &Watch, found: &mut Differences) {
    for topic in watch.connection.topics.all() {
        let ends = until(DRAIN_MAX, "ends", || watch.ends(&topic.name));
        for (partition, (stable, end)) in ends.into_iter().enumerate() {
            if stable != end {
                found.add("open transactions", || format!("{}[{partition}]: stable {stable}, end {end}", topic.name));
            }
        }
    }
}

/// Every committed record of every topic.
struct Topics {
    records: BTreeMap<String, Vec<Incoming>>,
}

impl Topics {
    fn read(watch: &Watch) -> Topics {
        let names = watch.connection.topics.all().into_iter().map(|topic| topic.name);
        let names = names.filter(|name| !name.ends_with("-changelog"));
        Topics { records: names.map(|name| (name.clone(), read_all(&watch.connection.client, &name))).collect() }
    }

    /// By the end of the name.
    fn of(&self, suffix: &str) -> &[Incoming] {
        let found = self.records.iter().find(|(name, _)| name.ends_with(suffix));
        found.map(|(_, records)| records.as_slice()).expect("a known topic")
    }

    /// Records before these offsets, by partition.
    fn before(&self, suffix: &str, offsets: &[i64]) -> Vec<Vec<Read>> {
        let mut all = vec![Vec::new(); offsets.len()];
        for record in self.of(suffix) {
            let at = usize::try_from(record.part.partition).unwrap();
            if record.offset < offsets[at] {
                all[at].push(Read {
                    partition: record.part.partition,
                    offset: record.offset,
                    timestamp: record.timestamp,
                    value: record.value.clone(),
                });
            }
        }
        all.iter_mut().for_each(|records| records.sort_by_key(|record| record.offset));
        all
    }

    /// By key, in the order of a partition.
    fn by_key<T>(&self, suffix: &str, of: impl Fn(&Incoming) -> Option<T>) -> BTreeMap<String, Vec<T>> {
        let mut sorted: Vec<&Incoming> = self.of(suffix).iter().collect();
        sorted.sort_by_key(|record| (record.part.partition, record.offset));
        let mut all: BTreeMap<String, Vec<T>> = BTreeMap::new();
        for record in sorted {
            let key = String::from_utf8(record.key.clone().unwrap_or_default()).unwrap();
            if let Some(value) = of(record) {
                all.entry(key).or_default().push(value);
            }
        }
        all
    }

    /// Writes everything down, one file a topic, with the logs beside it.
    fn dump(&self, job: &Job) -> PathBuf {
        let folder = folder_of_failure();
        for (name, records) in &self.records {
            let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join(name)).unwrap());
            let mut sorted: Vec<&Incoming> = records.iter().collect();
            sorted.sort_by_key(|record| (record.part.partition, record.offset));
            for record in sorted {
                let place = format!("[{}] {} at {}", record.part.partition, record.offset, record.timestamp);
                let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
                writeln!(file, "{place} {key} {}", readable(name, record)).unwrap();
            }
        }
        job.keep_logs(&folder);
        folder
    }
}

fn readable(topic: &str, record: &Incoming) -> String {
    let Some(value) = &record.value else {
        return format!(
            "null {:?}",
            record.headers.iter().map(|(n, v)| (n, String::from_utf8_lossy(v))).collect::<Vec<_>>()
        );
    };
    if ["attempts-by-source", "attempts-by-account", "site-partials"].iter().any(|end| topic.ends_with(end)) {
        let read = Read {
            partition: record.part.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            value: Some(value.clone()),
        };
        let items: Vec<String> = frames::items(&read).iter().map(|item| format!("\n    {item:?}")).collect();
        return items.concat();
    }
    String::from_utf8_lossy(value).into_owned()
}

fn compare_all(
    topics: &Topics,
    watch: &Watch,
    playbooks: &Playbooks,
    found: &mut Differences,
) -> BTreeMap<&'static str, u64> {
    let committed = |topic: &str| until(DRAIN_MAX, "committed offsets", || watch.committed(topic));
    let input = |stage: Stage, suffix: &str| topics.before(suffix, &committed(&watch.connection.topics.input(stage)));
    let events = input(Stage::Intake, "login-events");
    let all_by_source = topics.before("attempts-by-source", &[i64::MAX; 4]);
    let by_source = input(Stage::Source, "attempts-by-source");
    let all_by_account = topics.before("attempts-by-account", &[i64::MAX; 4]);
    let by_account = input(Stage::Account, "attempts-by-account");
    let partials = topics.before("site-partials", &[i64::MAX; 4]);

    let taken = intake_stage(&events);
    compare::attempts(&taken, &all_by_source, found);
    let dead_letters = topics.of("login-events-dlq").len();
    if dead_letters != taken.dead_letters {
        found.add("dead letters", || format!("{} expected, {dead_letters} found", taken.dead_letters));
    }
    let mut of_source = Default::default();
    source_stage(playbooks, &by_source, &mut of_source);
    compare::passed(&of_source, &by_source, &all_by_account, found);
    compare::control(&told(topics, watch), &of_source, &all_by_source, &all_by_account, found);
    let mut of_account = Default::default();
    account_stage(playbooks, &by_account, &mut of_account);
    let said = of_source.join(of_account);
    let is_sites =
        |record: &Incoming| record.key.as_deref().is_some_and(|key| key.windows(8).any(|w| w == b"|TENANT|"));
    let verdict = |record: &Incoming| Some(Verdict::read(record.value.as_deref()?)).filter(|_| !is_sites(record));
    compare::verdicts(&said, &topics.by_key("verdicts", verdict), found);
    let block = |record: &Incoming| {
        let header = |name: &str| record.header(name).map(|text| String::from_utf8_lossy(text).into_owned());
        Some(Block::read(record.value.as_deref(), header))
    };
    compare::blocks(&said, &topics.by_key("blocklist", block), found);
    compare::sums(&said, &partials, found);
    let mut tally = said.tally;
    tally.insert("dead letters", dead_letters as u64);
    tally.insert("changes of control", topics.of("attack-status").len() as u64 + topics.of("exemptions").len() as u64);
    tally
}

/// Every change of control that intake has read, as name and version.
fn told(topics: &Topics, watch: &Watch) -> Vec<(String, i64)> {
    let mut all = Vec::new();
    for (suffix, kind) in [("attack-status", "status of"), ("exemptions", "exemption")] {
        let name = watch.connection.topics.public(suffix);
        let committed = until(DRAIN_MAX, "committed offsets", || watch.committed(&name));
        for record in topics.of(suffix) {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
            if record.offset < committed[usize::try_from(record.part.partition).unwrap()] {
                all.push((format!("{kind} {key}"), record.offset));
            }
        }
    }
    all
}
