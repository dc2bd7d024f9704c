//! The model of Kafka against Kafka: the same scenarios, and what each must tell, on both.
//!
//! What only the model can be made to do, since it depends on when a request arrives, stands at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis::log::model::{
    Answer, Calm, ModelCluster, ModelLog, ModelOptions, Passage, Refusal, Request, Timeouts, Weather,
};
use portcullis::log::{Log, Outcome, Outgoing, Part, Polled};
use portcullis::topology::{Cleanup, TopicSpec};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::support::kafka;
use crate::support::model_rig::{News, Rig};
use crate::support::records::{DEADLINE, make_topic, producer};
use crate::support::until;

/// What a scenario tells.
type Story = Vec<String>;

/// Name, what is done, and what it must tell.
type Scenario = (&'static str, fn(&Rig) -> Story, &'static [&'static str]);

const SCENARIOS: &[Scenario] = &[
    ("a-commit", a_commit, &["committed", "Some(1)", "x@0/0 y@0/1", "committed", "Some(2)", "z@0/3"]),
    ("an-abort", an_abort, &["None", "committed", "y@0/2", "Some(1)"]),
    ("fenced", fenced, &["committed", "unknown", "committed", "first@0/0 second@0/2", "Some(2)"]),
    ("open", open, &["committed", "sent@0/0 published@0/1"]),
    ("markers", markers, &["committed", "x@0/0"]),
    ("crashed", crashed, &["committed", "Some(1)", "committed", "x@0/0 z@0/4", "Some(2)"]),
    ("restored", restored, &["committed, changelog to 2", "committed, changelog to 7", "a=1 b=1 a=2 b=gone done at 8"]),
    (
        "restored-open",
        restored_open,
        &["committed, changelog to 1", "a=1 not done", "committed, changelog to 3", "a=2 done at 3"],
    ),
    ("by-key", by_key, &["committed", KEYS_BY_PARTITION]),
    ("seek", seek, &["x@0/0", "y@0/1", "x@0/0", "y@0/1"]),
    ("moved", moved, &["first has 2", "first loses 1", "second has 1", "first has 1 again"]),
    ("missing", missing, &["Some(2)", "None", "0"]),
];

/// What `by_key` tells; checked on Kafka itself.
const KEYS_BY_PARTITION: &str = "a@0/0 ab@0/1 abcd@0/2 abcdef@0/3 abc@1/0 abcde@1/1 abcdefghijkl@1/2";

#[test]
fn the_model_tells_every_scenario_as_it_must() {
    tell(|_| Rig::model());
}

#[test]
fn kafka_tells_every_scenario_as_the_model_does() {
    let bootstrap = kafka::shared().bootstrap();
    tell(|name| Rig::kafka(bootstrap, name));
}

/// Plays every scenario and compares what each tells.
fn tell(rig: impl Fn(&str) -> Rig) {
    let told = SCENARIOS.iter().map(|(name, play, must)| (*name, play(&rig(name)), *must));
    let other: Vec<_> = told.filter(|(_, told, must)| told != must).collect();
    assert!(other.is_empty(), "name, told, and what it must be: {other:#?}");
}

fn told(of: impl std::fmt::Debug) -> String {
    format!("{of:?}")
}

fn a_commit(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    writer.send("out", Some(0), "k", Some("x"));
    writer.send("out", Some(0), "k", Some("y"));
    let mut story = vec![writer.commit(1), told(writer.committed()), reader.read(2).join(" ")];
    writer.send("out", Some(0), "k", Some("z"));
    story.extend([writer.commit(2), told(writer.committed()), reader.read(1).join(" ")]);
    story
}

fn an_abort(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    writer.send("out", Some(0), "k", Some("x"));
    // An abort would take a record that is not with the broker yet out of the client's queue.
    reader.wait_for_lag("out", 0, 1);
    writer.log.abort().unwrap();
    let mut story = vec![told(writer.committed())];
    writer.send("out", Some(0), "k", Some("y"));
    story.extend([writer.commit(1), reader.read(1).join(" "), told(writer.committed())]);
    story
}

fn fenced(rig: &Rig) -> Story {
    let mut first = rig.open("writer", "stages", &["in"]).joined(2);
    first.send("out", Some(0), "k", Some("first"));
    let mut story = vec![first.commit(1)];
    let mut second = rig.open("writer", "others", &["in"]).joined(2);
    story.push(first.commit(9));
    second.send("out", Some(0), "k", Some("second"));
    story.push(second.commit(2));
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    story.extend([reader.read(2).join(" "), told(second.committed())]);
    story
}

fn open(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    writer.send("out", Some(0), "k", Some("sent"));
    reader.wait_for_lag("out", 0, 1);
    rig.publish("out", 0, "published");
    reader.wait_for_lag("out", 0, 2);
    vec![writer.commit(1), reader.read(2).join(" ")]
}

/// What is left of a partition may be markers: nothing comes, and there is no lag.
fn markers(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    writer.send("out", Some(0), "k", Some("x"));
    let story = vec![writer.commit(1), reader.read(1).join(" ")];
    reader.wait_for_lag("out", 0, 0);
    writer.send("out", Some(0), "k", Some("y"));
    reader.wait_for_lag("out", 0, 1);
    writer.log.abort().unwrap();
    reader.wait_for_lag("out", 0, 0);
    story
}

fn crashed(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    writer.send("out", Some(0), "k", Some("x"));
    let mut story = vec![writer.commit(1)];
    reader.read(1);
    writer.send("out", Some(0), "k", Some("y"));
    reader.wait_for_lag("out", 0, 1);
    drop(writer);
    // Another group, since the old member is still in the first one.
    let mut again = rig.open("writer", "others", &["in"]).joined(2);
    let mut asks = rig.open("asks", "stages", &["out"]);
    story.push(told(asks.committed()));
    again.send("out", Some(0), "k", Some("z"));
    story.push(again.commit(2));
    let mut reader = rig.open("reader-2", "readers-2", &["out"]).joined(2);
    story.extend([reader.read(2).join(" "), told(again.committed())]);
    story
}

fn restored(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let mut reader = rig.open("reader", "readers", &["changes"]).joined(1);
    writer.send("changes", Some(0), "a", Some("1"));
    writer.send("changes", Some(0), "b", Some("1"));
    let mut story = vec![writer.commit(1)];
    reader.read(2);
    reader.wait_for_lag("changes", 0, 0);
    writer.send("changes", Some(0), "a", Some("aborted"));
    reader.wait_for_lag("changes", 0, 1);
    writer.log.abort().unwrap();
    writer.send("changes", Some(0), "a", Some("2"));
    writer.send("changes", Some(0), "b", None);
    story.push(writer.commit(2));
    let part = rig.part("changes", 0);
    reader.log.restore(&part, 0).unwrap();
    story.push(reader.restored(false).join(" "));
    story
}

fn restored_open(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let mut reader = rig.open("reader", "readers", &["changes"]).joined(1);
    writer.send("changes", Some(0), "a", Some("1"));
    let mut story = vec![writer.commit(1)];
    reader.read(1);
    reader.wait_for_lag("changes", 0, 0);
    writer.send("changes", Some(0), "a", Some("2"));
    reader.wait_for_lag("changes", 0, 1);
    let part = rig.part("changes", 0);
    reader.log.restore(&part, 0).unwrap();
    // The record that is committed comes; the one whose transaction is open does not.
    let mut told = BTreeSet::new();
    until(DEADLINE, "the committed record", || {
        told.extend(reader.restored(true));
        told.contains("a=1").then_some(())
    });
    story.push(told.into_iter().collect::<Vec<_>>().join(" "));
    story.push(writer.commit(2));
    story.push(reader.restored(false).join(" "));
    story
}

fn by_key(rig: &Rig) -> Story {
    let mut writer = rig.open("writer", "stages", &["in"]).joined(2);
    let keys = ["a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefghijkl"];
    for key in keys {
        writer.send("out", None, key, Some(key));
    }
    let story = vec![writer.commit(1)];
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    let read = reader.read(keys.len()).join(" ");
    story.into_iter().chain([read]).collect()
}

fn seek(rig: &Rig) -> Story {
    rig.publish("out", 0, "x");
    rig.publish("out", 0, "y");
    let mut reader = rig.open("reader", "readers", &["out"]).joined(2);
    let mut story = vec![reader.read(1).join(" "), reader.read(1).join(" ")];
    reader.log.seek(&[(rig.part("out", 0), 0)]).unwrap();
    story.extend([reader.read(1).join(" "), reader.read(1).join(" ")]);
    story
}

/// A partition goes from one member to another in two steps, and comes back.
fn moved(rig: &Rig) -> Story {
    let mut first = rig.open("first", "stages", &["in"]).joined(2);
    let mut story = vec!["first has 2".to_owned()];
    let second = rig.open("second", "stages", &["in"]);
    let News::Revoked(gone) = first.news() else { panic!("nothing is taken away") };
    story.push(format!("first loses {}", gone.len()));
    first.log.release(&gone).unwrap();
    let mut second = {
        // Both must poll for the group to move on.
        let mut second = second;
        let news = std::thread::scope(|scope| {
            let polled = scope.spawn(move || {
                let news = second.news();
                (second, news)
            });
            while !polled.is_finished() {
                if let Polled::Assigned(parts) = first.log.poll(Duration::from_millis(20)).unwrap() {
                    assert!(parts.is_empty(), "{parts:?}");
                    first.log.assign(&[]).unwrap();
                }
            }
            polled.join().unwrap()
        });
        let (second, News::Assigned(parts)) = news else { panic!("revoked") };
        assert_eq!(parts, gone);
        story.push(format!("second has {}", parts.len()));
        second
    };
    let offsets: Vec<(Part, i64)> = gone.iter().map(|part| (part.clone(), 0)).collect();
    second.log.assign(&offsets).unwrap();
    second.log.release(&gone).unwrap();
    second.log.close();
    drop(second);
    let News::Assigned(back) = first.news() else { panic!("revoked") };
    assert_eq!(back, gone);
    story.push(format!("first has {} again", back.len()));
    story
}

fn missing(rig: &Rig) -> Story {
    let mut client = rig.open("reader", "readers", &["out"]).joined(2);
    let part = rig.part("out", 0);
    vec![
        told(client.log.partitions(&part.topic).unwrap()),
        told(client.log.partitions("conformance-no-such-topic").unwrap()),
        told(client.log.beginning(&part).unwrap()),
    ]
}

/// Offsets that a member sends as of a generation that is over.
#[test]
fn a_stale_generation_is_refused_by_both() {
    let weather = |hears_late| Box::new(Scripted { passages: Vec::new(), hears_late });
    let cluster = cluster(weather(true));
    let (mut first, part) = (client(&cluster, "first"), Part { topic: "in".into(), partition: 0 });
    let assigned = (0..3).find_map(|_| match first.poll(Duration::ZERO).unwrap() {
        Polled::Assigned(parts) => Some(parts),
        Polled::Record(_) | Polled::Revoked { .. } | Polled::Idle => None,
    });
    assert_eq!(assigned.map(|parts| parts.len()), Some(1));
    let _second = client(&cluster, "second");
    cluster.pass(1);
    // It has joined the next generation in the background, and has not been told.
    let on_the_model = first.send_offsets(&[(part, 1)]);
    assert_eq!(on_the_model, Answer::Refused(Refusal::IllegalGeneration));

    let bootstrap = kafka::shared().bootstrap();
    make_topic(bootstrap, "conformance-stale.in", 2, &[]);
    let member = || -> BaseConsumer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "conformance-stale")
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&["conformance-stale.in"]).unwrap();
        consumer
    };
    let first = member();
    let holds = |consumer: &BaseConsumer, n: usize| {
        consumer.poll(Duration::from_millis(20));
        consumer.assignment().unwrap().count() == n
    };
    until(DEADLINE, "the first member's partitions", || holds(&first, 2).then_some(()));
    let stale = first.group_metadata().unwrap();
    let second = member();
    until(DEADLINE, "the second member's partition", || {
        holds(&first, 1);
        holds(&second, 1).then_some(())
    });
    let producer = producer(bootstrap, Some("conformance-stale"));
    producer.begin_transaction().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset("conformance-stale.in", 0, Offset::Offset(1)).unwrap();
    let Err(KafkaError::Transaction(error)) = producer.send_offsets_to_transaction(&offsets, &stale, DEADLINE) else {
        panic!("it was taken")
    };
    assert_eq!((error.code(), error.txn_requires_abort()), (RDKafkaErrorCode::IllegalGeneration, true));
}

/// Says what becomes of one request after the other; all others pass.
struct Scripted {
    passages: Vec<Passage>,
    hears_late: bool,
}

impl Weather for Scripted {
    fn passage(&mut self, request: Request) -> Passage {
        match request {
            Request::EndTxn if !self.passages.is_empty() => self.passages.remove(0),
            Request::EndTxn | Request::TxnOffsetCommit => Calm.passage(request),
        }
    }

    fn marker_delay(&mut self) -> i64 {
        0
    }

    fn hears_late(&mut self) -> bool {
        self.hears_late
    }
}

fn cluster(weather: Box<dyn Weather>) -> ModelCluster {
    let cluster = ModelCluster::new(Timeouts { session_ms: 1_000, transaction_ms: 1_000 }, weather);
    for (name, cleanup) in [("in", Cleanup::Delete), ("out", Cleanup::Delete), ("changes", Cleanup::Compact)] {
        cluster.create(&TopicSpec {
            name: name.to_owned(),
            partitions: 1,
            cleanup,
            retention_ms: Some(1_000),
            config: [("delete.retention.ms".to_owned(), "1000".to_owned())].into(),
            ours: true,
        });
    }
    cluster
}

fn client(cluster: &ModelCluster, member: &str) -> ModelLog {
    ModelLog::new(
        cluster,
        ModelOptions {
            group: "stages".to_owned(),
            member: member.to_owned(),
            topics: vec!["in".to_owned()],
            static_membership: false,
        },
    )
}

/// A client with its one partition.
fn joined(cluster: &ModelCluster, member: &str) -> ModelLog {
    let mut client = client(cluster, member);
    let Polled::Assigned(parts) = client.poll(Duration::ZERO).unwrap() else { panic!("no partition") };
    client.assign(&parts.into_iter().map(|part| (part, 0)).collect::<Vec<_>>()).unwrap();
    client
}

fn put(client: &mut ModelLog, topic: &str, key: &str, value: Option<&str>) {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let record = Outgoing {
        topic: topic.into(),
        partition: Some(0),
        key: Some(bytes(key)),
        value: value.map(bytes),
        headers: Vec::new(),
    };
    client.send(record).unwrap();
}

fn values(cluster: &ModelCluster, topic: &str) -> Vec<String> {
    let text = |bytes: Option<Vec<u8>>| bytes.map_or("gone".to_owned(), |bytes| String::from_utf8(bytes).unwrap());
    cluster.records(topic).into_iter().map(|record| text(record.value)).collect()
}

fn offset(n: i64) -> [(Part, i64); 1] {
    [(Part { topic: "in".into(), partition: 0 }, n)]
}

/// The hole that KIP-890 closes on the broker and that we close by a new producer: an EndTxn that comes late ends the
/// next transaction of its epoch.
#[test]
fn a_late_end_ends_the_next_transaction_of_its_epoch_and_not_that_of_the_next_epoch() {
    for is_defended in [false, true] {
        let late = Passage::Late { after: 100 };
        let cluster = cluster(Box::new(Scripted { passages: vec![late], hears_late: false }));
        let mut client = joined(&cluster, "worker");
        put(&mut client, "out", "k", Some("x"));
        if is_defended {
            assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Unknown(_))));
            client.recreate().unwrap();
            put(&mut client, "out", "k", Some("x again"));
        } else {
            assert_eq!((client.send_offsets(&offset(1)), client.end(true)), (Answer::Done, Answer::Silence));
            assert_eq!(client.end(true), Answer::Done, "asked again");
            client.forget();
        }
        put(&mut client, "out", "k", Some("half of the next"));
        cluster.pass(200);
        let seen = values(&cluster, "out");
        if is_defended {
            assert!(seen.is_empty(), "the first was aborted, and the second is open: {seen:?}");
            assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Committed(_))));
            assert_eq!(values(&cluster, "out"), ["x again", "half of the next"]);
        } else {
            assert_eq!(seen, ["x", "half of the next"], "without its offsets, and before it was whole");
        }
    }
}

/// What the client repeats by itself, and hears "done" to, may still come once more; so its transactions go on under a
/// new epoch.
#[test]
fn what_the_client_repeated_by_itself_does_not_end_the_next_transaction() {
    let repeated = Passage::Repeated { after: 100 };
    let cluster = cluster(Box::new(Scripted { passages: vec![repeated], hears_late: false }));
    let mut client = joined(&cluster, "worker");
    put(&mut client, "out", "k", Some("x"));
    assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Committed(_))));
    put(&mut client, "out", "k", Some("half of the next"));
    cluster.pass(200);
    assert_eq!(values(&cluster, "out"), ["x"]);
}

#[test]
fn what_is_unknown_is_told_by_the_offsets() {
    for (passage, happened) in [(Passage::AnswerLost, true), (Passage::Lost, false)] {
        let cluster = cluster(Box::new(Scripted { passages: vec![passage], hears_late: false }));
        let mut client = joined(&cluster, "worker");
        put(&mut client, "out", "k", Some("x"));
        assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Unknown(_))));
        client.recreate().unwrap();
        let [(part, _)] = offset(1);
        assert_eq!(client.committed(&[part]).unwrap(), [happened.then_some(1)], "{passage:?}");
        assert_eq!(values(&cluster, "out").len(), usize::from(happened), "{passage:?}");
    }
}

#[test]
fn a_transaction_that_stays_open_is_aborted_and_its_producer_fenced() {
    let cluster = cluster(Box::new(Calm));
    let mut client = joined(&cluster, "worker");
    put(&mut client, "out", "k", Some("x"));
    cluster.pass(999);
    assert_eq!(cluster.unfinished().len(), 2, "the transaction and its partition");
    cluster.pass(1);
    assert!(cluster.unfinished().is_empty());
    assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Unknown(why)) if why == "ProducerFenced"));
    client.recreate().unwrap();
    assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Committed(_))), "and a new one goes on");
    assert!(values(&cluster, "out").is_empty());
}

#[test]
fn compaction_keeps_what_a_reader_needs_and_retention_what_is_young() {
    let cluster = cluster(Box::new(Calm));
    let mut client = joined(&cluster, "worker");
    for (key, value) in [("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("b", None)] {
        put(&mut client, "changes", key, value);
        put(&mut client, "out", key, value);
    }
    assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Committed(_))));
    put(&mut client, "changes", "a", Some("3"));
    cluster.clean();
    assert_eq!(values(&cluster, "changes"), ["2", "gone"]);
    // The tombstone is met now, and goes a second later.
    cluster.set_now(1_000);
    cluster.clean();
    assert_eq!(values(&cluster, "changes"), ["2"]);
    assert!(matches!(client.commit_now(&offset(1)), Ok(Outcome::Committed(_))));
    assert_eq!(values(&cluster, "changes"), ["2", "3"]);
    assert_eq!(values(&cluster, "out").len(), 4);
    cluster.set_now(1_001);
    cluster.clean();
    assert!(values(&cluster, "out").is_empty());
}

#[test]
fn a_member_that_is_not_heard_leaves_and_wakes_as_nobody() {
    let cluster = cluster(Box::new(Calm));
    let mut first = joined(&cluster, "first");
    let mut second = client(&cluster, "second");
    assert!(matches!(second.poll(Duration::ZERO), Ok(Polled::Idle)), "there is one partition");
    cluster.stop(first.id());
    cluster.pass(1_000);
    assert!(matches!(second.poll(Duration::ZERO), Ok(Polled::Assigned(parts)) if parts.len() == 1));
    cluster.wake(first.id());
    put(&mut first, "out", "k", Some("x"));
    assert!(matches!(first.commit_now(&offset(1)), Ok(Outcome::Aborted(why)) if why == "UnknownMemberId"));
    assert!(matches!(first.poll(Duration::ZERO), Ok(Polled::Revoked { lost: true, .. })));
}

#[test]
fn a_static_member_that_comes_back_in_time_has_its_partitions_at_once() {
    let cluster = cluster(Box::new(Calm));
    let open = || {
        let options = ModelOptions {
            group: "stages".to_owned(),
            member: "worker".to_owned(),
            topics: vec!["in".to_owned()],
            static_membership: true,
        };
        ModelLog::new(&cluster, options)
    };
    let mut first = open();
    assert!(matches!(first.poll(Duration::ZERO), Ok(Polled::Assigned(_))));
    let mut second = open();
    assert!(matches!(second.poll(Duration::ZERO), Ok(Polled::Assigned(parts)) if parts.len() == 1));
    assert!(matches!(first.poll(Duration::ZERO), Err(portcullis::log::Error::Fenced(_))));
    drop(first);
    put(&mut second, "out", "k", Some("x"));
    assert!(matches!(second.commit_now(&offset(1)), Ok(Outcome::Committed(_))), "in the generation of before");
}
