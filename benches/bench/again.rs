//! How long until a consumer group commits again, and how much its changelogs hold.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use portcullis::log::ClientOptions;
use portcullis::log::follow::{Followed, Follower, ReadFrom};
use rdkafka::consumer::Consumer as _;
use serde_json::{Value, json};

use crate::kafka::{ANSWER_MAX, Place, committed, consumer, ends};
use crate::meter::get;
use crate::process::{epoch_ms, now, pause};
use crate::{Result, print};

/// Wait until a group has committed new offsets of every partition of some topics that get new records
#[derive(Debug, Args)]
pub(crate) struct Again {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    group: String,
    #[arg(long, required = true)]
    topic: Vec<String>,
    /// What seconds are counted from, in milliseconds since the epoch
    #[arg(long)]
    since: i64,
    /// Seconds after which it is given up
    #[arg(long, default_value_t = 300)]
    limit: u64,
}

impl Again {
    pub(crate) fn run(&self) -> Result<()> {
        let group = consumer(&self.bootstrap, &self.group, &[])?;
        let places: Vec<Place> = ends(&group, &self.topic)?.into_keys().collect();
        let before = committed(&group, places.iter())?;
        let mut moved = BTreeMap::new();
        let started = now();
        while moved.len() < before.len() {
            if started.elapsed() > Duration::from_secs(self.limit) {
                return Err(format!("{} of {} partitions moved", moved.len(), before.len()).into());
            }
            pause(Duration::from_millis(20));
            let Ok(after) = committed(&group, places.iter()) else { continue };
            let seconds = (epoch_ms() - self.since) as f64 / 1e3;
            for (place, offset) in after {
                if before.get(&place).is_some_and(|before| offset > *before) {
                    moved.entry(place).or_insert(seconds);
                }
            }
        }
        let mut all = BTreeMap::<&str, f64>::new();
        for ((topic, _), seconds) in &moved {
            let last = all.entry(topic).or_default();
            *last = last.max(*seconds);
        }
        let first = moved.values().copied().fold(f64::INFINITY, f64::min);
        print(&json!({ "again": self.group, "first_seconds": first, "all_seconds": all }));
        Ok(())
    }
}

/// Wait until a group has committed all of some topics that get no new records
#[derive(Debug, Args)]
pub(crate) struct Drained {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    group: String,
    #[arg(long, required = true)]
    topic: Vec<String>,
    /// Seconds after which it is given up
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

impl Drained {
    pub(crate) fn run(&self) -> Result<()> {
        let group = consumer(&self.bootstrap, &self.group, &[])?;
        let ends = ends(&group, &self.topic)?;
        let started = now();
        while committed(&group, ends.keys())?.iter().any(|(place, at)| ends.get(place).is_some_and(|end| at < end)) {
            if started.elapsed() > Duration::from_secs(self.limit) {
                return Err("it is not through".into());
            }
            pause(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Wait until a job is ready, and say when that was
#[derive(Debug, Args)]
pub(crate) struct Ready {
    #[arg(long)]
    listen: String,
    /// Tasks of stages that must be there, none of them being restored
    #[arg(long, default_value_t = 1)]
    tasks: usize,
    /// What seconds are counted from, in milliseconds since the epoch
    #[arg(long)]
    since: i64,
    /// Seconds after which it is given up
    #[arg(long, default_value_t = 300)]
    limit: u64,
}

impl Ready {
    pub(crate) fn run(&self) -> Result<()> {
        let started = now();
        let mut restoring_from = None;
        while !self.is_ready(&mut restoring_from) {
            if started.elapsed() > Duration::from_secs(self.limit) {
                return Err("the job does not get ready".into());
            }
            pause(Duration::from_millis(10));
        }
        let at = epoch_ms();
        let restored = restoring_from.map(|from| (at - from) as f64 / 1e3);
        print(&json!({ "ready_at": at, "seconds": (at - self.since) as f64 / 1e3, "restore_seconds": restored }));
        Ok(())
    }
}

impl Ready {
    /// Whether it says so, and has all the tasks that it must have. Takes note of when it began to restore.
    fn is_ready(&self, restoring_from: &mut Option<i64>) -> bool {
        let status = get(&self.listen, "/status").and_then(|(_, body)| serde_json::from_str::<Value>(&body).ok());
        let Some(status) = status else { return false };
        let tasks = status["tasks"].as_object().map_or(0, |tasks| {
            tasks
                .values()
                .filter(|task| ["intake", "source", "account", "site"].iter().any(|s| task["stage"] == *s))
                .count()
        });
        let restoring = status["restoring"].as_object().map_or(0, serde_json::Map::len);
        if restoring > 0 {
            restoring_from.get_or_insert_with(epoch_ms);
        }
        let says_so = get(&self.listen, "/readyz").is_some_and(|(status, _)| status == 200);
        says_so && restoring == 0 && tasks >= self.tasks
    }
}

/// Wait until a group has no members any more
#[derive(Debug, Args)]
pub(crate) struct Empty {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    group: String,
    /// Seconds after which it is given up
    #[arg(long, default_value_t = 120)]
    limit: u64,
}

impl Empty {
    pub(crate) fn run(&self) -> Result<()> {
        let consumer = consumer(&self.bootstrap, "portcullis-bench-empty", &[])?;
        let started = now();
        loop {
            let list = consumer.fetch_group_list(Some(&self.group), ANSWER_MAX)?;
            if list.groups().iter().all(|group| group.members().is_empty()) {
                return Ok(());
            }
            if started.elapsed() > Duration::from_secs(self.limit) {
                return Err(format!("{} still has members", self.group).into());
            }
            pause(Duration::from_millis(200));
        }
    }
}

/// Count the committed records of some topics, and their bytes
#[derive(Debug, Args)]
pub(crate) struct Count {
    #[arg(long)]
    bootstrap: String,
    #[arg(long, required = true)]
    topic: Vec<String>,
}

impl Count {
    pub(crate) fn run(&self) -> Result<()> {
        let mut follower = Follower::new(&ClientOptions::new(&self.bootstrap), &self.topic, ReadFrom::Start)?;
        let (mut records, mut bytes) = (0u64, 0u64);
        loop {
            match follower.poll(Duration::from_millis(50))? {
                Followed::Record(record) => {
                    records += 1;
                    bytes += (record.key.map_or(0, |key| key.len()) + record.value.map_or(0, |v| v.len())) as u64;
                }
                Followed::CaughtUp => break,
                Followed::Idle => {}
            }
        }
        print(&json!({ "records": records, "mb": (bytes as f64 / 1e5).round() / 10.0 }));
        Ok(())
    }
}
