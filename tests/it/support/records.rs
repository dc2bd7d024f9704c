//! Topics and records of a test on a real cluster or on the mock one: made, written and read back.

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis::app::Connection;
use portcullis::log::admin::ClusterAdmin;
use portcullis::log::follow::{Followed, Follower, ReadFrom};
use portcullis::log::{ClientOptions, Incoming};
use portcullis::topology::Topics;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

pub const DEADLINE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// The topology with names that no other test uses.
pub fn connection(bootstrap: &str, test: &str) -> Connection {
    let text = include_str!("../../../topology/topics.yaml");
    let topics = Topics::parse(text, "portcullis", &format!("{test}."), None).unwrap();
    Connection { client: ClientOptions::new(bootstrap), topics }
}

/// The same, with its topics made.
pub fn connection_with_topics(bootstrap: &str, test: &str) -> Connection {
    let connection = connection(bootstrap, test);
    let (done, left) = ClusterAdmin::new(&connection.client).unwrap().apply(&connection.topics, None).unwrap();
    assert!(done.iter().all(|done| done.error.is_none()) && left.is_empty(), "{done:?}\n{left:?}");
    connection
}

pub fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap()
}

/// Makes one topic with settings of its own.
pub fn make_topic(bootstrap: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
    let admin = admin(bootstrap);
    for result in wait(admin.create_topics([&topic], &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
    super::until(DEADLINE, "the new topic", || {
        let metadata = admin.inner().fetch_metadata(None, DEADLINE).unwrap();
        metadata.topics().iter().any(|t| t.name() == name && t.partitions().len() == partitions as usize).then_some(())
    });
}

/// Waits for one answer of an admin client.
pub fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}

/// A producer of its own; with a transactional id it is ready for its first transaction.
pub fn producer(bootstrap: &str, transactional_id: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("partitioner", "murmur2_random").set("linger.ms", "0");
    if let Some(id) = transactional_id {
        config.set("transactional.id", id);
    }
    let producer: BaseProducer = config.create().unwrap();
    if transactional_id.is_some() {
        producer.init_transactions(DEADLINE).unwrap();
    }
    producer
}

/// Hands over one record; a header `generation` where one is given.
pub fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: Option<i32>,
    key: &[u8],
    value: Option<&[u8]>,
    generation: Option<i64>,
) {
    let mut record = BaseRecord::<[u8], [u8]>::to(topic).key(key);
    record.partition = partition;
    record.payload = value;
    if let Some(generation) = generation {
        let text = generation.to_string();
        record = record.headers(OwnedHeaders::new().insert(Header { key: "generation", value: Some(&text) }));
    }
    producer.send(record).map_err(|(e, _)| e).unwrap();
}

pub fn flush(producer: &BaseProducer) {
    super::until(DEADLINE, "the deliveries", || {
        producer.poll(STEP);
        (producer.in_flight_count() == 0).then_some(())
    });
}

/// Everything that a reader gives out before it has caught up.
pub fn read_to_end(follower: &mut Follower) -> Vec<Incoming> {
    let mut records = Vec::new();
    super::until(DEADLINE, "the reader to catch up", || {
        loop {
            match follower.poll(STEP).unwrap() {
                // At once to the next: there may be thousands.
                Followed::Record(record) => records.push(record),
                Followed::CaughtUp => return Some(()),
                Followed::Idle => return None,
            }
        }
    });
    records
}

/// The next record; a reader that tells that it caught up is asked again.
pub fn next_record(follower: &mut Follower) -> Incoming {
    super::until(DEADLINE, "one more record", || match follower.poll(STEP).unwrap() {
        Followed::Record(record) => Some(record),
        Followed::CaughtUp | Followed::Idle => None,
    })
}

/// Everything on a topic now.
pub fn read_all(client: &ClientOptions, topic: &str) -> Vec<Incoming> {
    read_to_end(&mut Follower::new(client, &[topic.to_owned()], ReadFrom::Start).unwrap())
}

/// The last value of each key, as text; a removed key is not there.
pub fn latest(records: &[Incoming]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut latest = BTreeMap::new();
    for record in records {
        let key = text(record.key.as_deref().unwrap_or_default());
        match &record.value {
            Some(value) => latest.insert(key, text(value)),
            None => latest.remove(&key),
        };
    }
    latest
}
