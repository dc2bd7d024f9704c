//! Reads a topic to its end with one plain consumer and counts: the ceiling beside which `run` is measured.

use std::time::Duration;

use clap::Args;
use rdkafka::Message as _;
use rdkafka::consumer::Consumer as _;
use serde_json::json;

use crate::kafka::{assign, consumer, partitions};
use crate::process::now;
use crate::{Result, print};

/// Read a topic to its end, and say how fast that went
#[derive(Debug, Args)]
pub(crate) struct Drain {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
}

impl Drain {
    pub(crate) fn run(&self) -> Result<()> {
        let consumer = consumer(&self.bootstrap, "portcullis-drain", &[("queued.max.messages.kbytes", "65536")])?;
        let (mut from, mut left) = (Vec::new(), 0);
        for partition in 0..partitions(&consumer, &self.topic)? {
            let (low, high) = consumer.fetch_watermarks(&self.topic, partition, crate::kafka::ANSWER_MAX)?;
            from.push((self.topic.clone(), partition, low));
            left += high - low;
        }
        assign(&consumer, &from)?;
        let (mut records, mut bytes, started) = (0u64, 0u64, now());
        while records < u64::try_from(left)? {
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                bytes += message?.payload().map_or(0, <[u8]>::len) as u64;
                records += 1;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        print(&json!({
            "system": "drain-librdkafka", "events": records, "bytes": bytes, "seconds": seconds,
            "events_per_s": (records as f64 / seconds).round(),
        }));
        Ok(())
    }
}
