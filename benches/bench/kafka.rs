//! The few questions that the benches ask a cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::Result;

pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A partition of a topic.
pub(crate) type Place = (String, i32);

/// A consumer that joins no group; it reads what is not committed yet as well, unless it is told otherwise.
pub(crate) fn consumer(bootstrap: &str, group: &str, further: &[(&str, &str)]) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group).set("enable.auto.commit", "false");
    config.set("isolation.level", "read_uncommitted").set("fetch.queue.backoff.ms", "10").set("log_level", "3");
    for (name, value) in further {
        config.set(*name, *value);
    }
    Ok(config.create()?)
}

/// How many partitions a topic has.
pub(crate) fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
    let found = metadata.topics().first().map_or(0, |found| found.partitions().len());
    if found == 0 {
        return Err(format!("there is no topic {topic}").into());
    }
    Ok(i32::try_from(found)?)
}

/// Every partition of some topics, with its end.
pub(crate) fn ends(consumer: &BaseConsumer, topics: &[String]) -> Result<BTreeMap<Place, i64>> {
    let mut ends = BTreeMap::new();
    for topic in topics {
        for partition in 0..partitions(consumer, topic)? {
            let (_, high) = consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
            ends.insert((topic.clone(), partition), high);
        }
    }
    Ok(ends)
}

/// Starts reading at these offsets.
pub(crate) fn assign(consumer: &BaseConsumer, from: &[(String, i32, i64)]) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in from {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(consumer.assign(&list)?)
}

/// What the group of the consumer has committed.
pub(crate) fn committed<'a>(
    consumer: &BaseConsumer,
    places: impl Iterator<Item = &'a Place>,
) -> Result<BTreeMap<Place, i64>> {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    let answer = consumer.committed_offsets(list, ANSWER_MAX)?;
    let offset = |offset| if let Offset::Offset(offset) = offset { offset } else { 0 };
    let elements = answer.elements();
    Ok(elements.iter().map(|e| ((e.topic().to_owned(), e.partition()), offset(e.offset()))).collect())
}

/// For each partition of a topic, the offset after the last record that is no later than a time. What stands behind it
/// are markers of transactions, and later records.
pub(crate) fn ends_at(bootstrap: &str, topic: &str, time: i64) -> Result<BTreeMap<Place, i64>> {
    /// Records that may stand behind the one we look for.
    const TAIL: i64 = 2_000;
    let consumer = consumer(bootstrap, "portcullis-bench-tail", &[("enable.partition.eof", "true")])?;
    let ends = ends(&consumer, &[topic.to_owned()])?;
    let from: Vec<(String, i32, i64)> =
        ends.iter().map(|((topic, partition), end)| (topic.clone(), *partition, (end - TAIL).max(0))).collect();
    assign(&consumer, &from)?;
    let mut last: BTreeMap<Place, i64> = ends.keys().map(|place| (place.clone(), 0)).collect();
    let mut unread = ends.len();
    while unread > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.timestamp().to_millis().is_some_and(|at| at <= time) => {
                last.insert((message.topic().to_owned(), message.partition()), message.offset() + 1);
            }
            Some(Ok(_)) | None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => unread -= 1,
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(last)
}
