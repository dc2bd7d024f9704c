//! One cluster behind one face: the model, or the real broker. A scenario does not know which.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use portcullis::app::clock::ProcessClock;
use portcullis::log::kafka::KafkaLog;
use portcullis::log::model::{Calm, ModelCluster, ModelLog, ModelOptions, Timeouts};
use portcullis::log::options::{GroupProtocol, KafkaOptions, Membership};
use portcullis::log::{ClientOptions, Incoming, Log, Outcome, Outgoing, Part, Polled};
use portcullis::topology::{Cleanup, TopicSpec};
use rdkafka::producer::Producer;

use super::records::{DEADLINE, make_topic, producer, send};
use super::until;

/// Where a scenario is played.
pub enum Rig {
    Model(ModelCluster),
    /// The address, and what the names of topics, groups and members begin with.
    Kafka(String, String),
}

/// Topics of every scenario: name, partitions, whether it is a changelog.
const TOPICS: [(&str, i32, bool); 3] = [("in", 2, false), ("out", 2, false), ("changes", 1, true)];

impl Rig {
    pub fn model() -> Rig {
        let cluster = ModelCluster::new(Timeouts::default(), Box::new(Calm));
        for (name, partitions, compacts) in TOPICS {
            cluster.create(&TopicSpec {
                name: name.to_owned(),
                partitions,
                cleanup: if compacts { Cleanup::Compact } else { Cleanup::Delete },
                retention_ms: None,
                config: Default::default(),
                ours: true,
            });
        }
        Rig::Model(cluster)
    }

    pub fn kafka(bootstrap: &str, scenario: &str) -> Rig {
        let prefix = format!("conformance-{scenario}.");
        for (name, partitions, _) in TOPICS {
            make_topic(bootstrap, &format!("{prefix}{name}"), partitions, &[]);
        }
        Rig::Kafka(bootstrap.to_owned(), prefix)
    }

    fn name(&self, name: &str) -> String {
        match self {
            Rig::Model(_) => name.to_owned(),
            Rig::Kafka(_, prefix) => format!("{prefix}{name}"),
        }
    }

    pub fn part(&self, topic: &str, partition: i32) -> Part {
        Part { topic: self.name(topic).into(), partition }
    }

    /// A client that has joined a group for these topics, and has what the group gives it by then.
    pub fn open(&self, member: &str, group: &str, topics: &[&str]) -> Client<'_> {
        let topics: Vec<String> = topics.iter().map(|topic| self.name(topic)).collect();
        let (member, group) = (self.name(member), self.name(group));
        let log: Box<dyn Log> = match self {
            Rig::Model(cluster) => {
                Box::new(ModelLog::new(cluster, ModelOptions { group, member, topics, static_membership: false }))
            }
            Rig::Kafka(bootstrap, _) => {
                let options = KafkaOptions {
                    client: ClientOptions::new(bootstrap),
                    group,
                    member,
                    topics,
                    changelogs: BTreeSet::from([self.name("changes")]),
                    membership: Membership {
                        protocol: GroupProtocol::Classic { session_timeout: Duration::from_secs(10) },
                        is_static: false,
                    },
                    may_abort: true,
                };
                Box::new(KafkaLog::new(options, Arc::new(ProcessClock::real())).unwrap())
            }
        };
        Client { rig: self, log }
    }

    /// Appends a record as a publisher without transactions.
    pub fn publish(&self, topic: &str, partition: i32, value: &str) {
        match self {
            Rig::Model(cluster) => {
                cluster.publish(outgoing(topic, Some(partition), "k", Some(value))).unwrap();
            }
            Rig::Kafka(bootstrap, _) => {
                let producer = producer(bootstrap, None);
                send(&producer, &self.name(topic), Some(partition), b"k", Some(value.as_bytes()), None);
                producer.flush(DEADLINE).unwrap();
            }
        }
    }

    /// In the model nothing happens unless time passes.
    fn pass(&self) {
        if let Rig::Model(cluster) = self {
            cluster.pass(5);
        }
    }
}

fn outgoing(topic: &str, partition: Option<i32>, key: &str, value: Option<&str>) -> Outgoing {
    Outgoing {
        topic: topic.into(),
        partition,
        key: Some(key.as_bytes().to_vec()),
        value: value.map(|value| value.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

/// One client, with the waiting that a scenario does not want to see.
pub struct Client<'a> {
    rig: &'a Rig,
    pub log: Box<dyn Log>,
}

/// A group changed.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Assigned(Vec<Part>),
    Revoked(Vec<Part>),
}

impl Client<'_> {
    fn poll(&mut self) -> Polled {
        self.rig.pass();
        self.log.poll(Duration::from_millis(20)).unwrap()
    }

    /// Polls until the group says something; an empty assignment says nothing.
    pub fn news(&mut self) -> News {
        until(DEADLINE, "news of the group", || match self.poll() {
            Polled::Assigned(parts) if parts.is_empty() => {
                self.log.assign(&[]).unwrap();
                None
            }
            Polled::Assigned(parts) => Some(News::Assigned(parts)),
            Polled::Revoked { parts, .. } => Some(News::Revoked(parts)),
            Polled::Record(_) | Polled::Idle => None,
        })
    }

    /// Waits for so many partitions and reads them from where the group stands.
    #[must_use]
    pub fn joined(mut self, partitions: usize) -> Self {
        let mut held = 0;
        while held < partitions {
            let News::Assigned(parts) = self.news() else { panic!("revoked") };
            held += parts.len();
            let committed = self.log.committed(&parts).unwrap();
            let from: Vec<(Part, i64)> =
                parts.into_iter().zip(committed).map(|(part, at)| (part, at.unwrap_or(0))).collect();
            self.log.assign(&from).unwrap();
        }
        self
    }

    /// Polls until so many records have come; each as its value and its offset.
    pub fn read(&mut self, records: usize) -> Vec<String> {
        let mut read = Vec::new();
        until(DEADLINE, "records", || {
            if let Polled::Record(record) = self.poll() {
                read.push(shown(&record));
            }
            (read.len() >= records).then_some(())
        });
        // Partitions are read in any order.
        read.sort_by_key(|record| record.split_once('@').map(|(_, place)| place.to_owned()));
        read
    }

    /// Polls, and finds no record, until a partition is known to be so many offsets behind.
    pub fn wait_for_lag(&mut self, topic: &str, partition: i32, lag: i64) {
        let part = self.rig.part(topic, partition);
        until(DEADLINE, "a lag", || {
            if let Polled::Record(record) = self.poll() {
                panic!("read {}", shown(&record));
            }
            self.log.lags().contains(&(part.clone(), lag)).then_some(())
        });
    }

    pub fn send(&mut self, topic: &str, partition: Option<i32>, key: &str, value: Option<&str>) {
        self.log.send(outgoing(&self.rig.name(topic), partition, key, value)).unwrap();
    }

    /// Commits with the offset of `in[0]`; how it ended, and the ends of changelogs.
    pub fn commit(&mut self, offset: i64) -> String {
        let changes = self.rig.part("changes", 0);
        match self.log.commit_now(&[(self.rig.part("in", 0), offset)]) {
            Ok(Outcome::Committed(ends)) => {
                let end = ends.into_iter().find(|(part, _)| *part == changes).map(|(_, end)| end);
                end.map_or("committed".to_owned(), |end| format!("committed, changelog to {end}"))
            }
            Ok(Outcome::Aborted(_)) => "aborted".to_owned(),
            Ok(Outcome::Unknown(_)) => "unknown".to_owned(),
            Err(portcullis::log::Error::Fenced(_)) => "fenced".to_owned(),
            Err(error) => panic!("{error}"),
        }
    }

    /// The group's offset of `in[0]`.
    pub fn committed(&mut self) -> Option<i64> {
        self.log.committed(&[self.rig.part("in", 0)]).unwrap()[0]
    }

    /// Takes what a restore of the changelog brings, until it is done or `once` is enough; key=value, then how far.
    pub fn restored(&mut self, once: bool) -> Vec<String> {
        let mut read = Vec::new();
        let far = until(DEADLINE, "the end of the changelog", || {
            self.rig.pass();
            let mut each = |_: &Part, key: &[u8], value: Option<&[u8]>| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                read.push(format!("{}={}", text(key), value.map_or("gone".to_owned(), text)));
                Ok(())
            };
            let restored = self.log.restored(Duration::from_millis(20), &mut each).unwrap();
            let far = restored.first().expect("a restore").clone();
            (once || far.is_done()).then_some(far)
        });
        read.push(if far.is_done() { format!("done at {}", far.end) } else { "not done".to_owned() });
        read
    }
}

fn shown(record: &Incoming) -> String {
    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or(b"gone")).into_owned();
    format!("{}@{}/{}", value, record.part.partition, record.offset)
}
