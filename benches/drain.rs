//! Reads a topic to its end with one plain consumer and counts: the ceiling beside which `run` is measured.
//!
//! ```text
//! cargo run --release --example drain -- localhost:9092 login-events
//! ```

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

#[allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a bench measures time and prints it")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic] = arguments.as_slice() else { return Err("usage: drain BOOTSTRAP TOPIC".into()) };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "portcullis-drain")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.max.messages.kbytes", "65536")
        .create()?;
    let wait = Duration::from_secs(10);
    let metadata = consumer.fetch_metadata(Some(topic), wait)?;
    let partitions = metadata.topics().first().map_or(0, |t| t.partitions().len());
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..i32::try_from(partitions)? {
        let (low, high) = consumer.fetch_watermarks(topic, partition, wait)?;
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        left += high - low;
    }
    consumer.assign(&assignment)?;
    let (mut records, mut bytes, started) = (0u64, 0u64, Instant::now());
    while records < u64::try_from(left)? {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            bytes += message?.payload().map_or(0, <[u8]>::len) as u64;
            records += 1;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{{\"records\":{records},\"bytes\":{bytes},\"seconds\":{seconds:.3},\"per_second\":{:.0}}}",
        records as f64 / seconds
    );
    Ok(())
}
