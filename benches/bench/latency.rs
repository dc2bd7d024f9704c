//! How long from an event to the record that says so, as a subscriber sees it: from when a publisher hands the event to its
//! client to when a reader of committed records has the verdict, the blocklist entry or the attack status in hand. Both by
//! one clock; the publisher's linger of a few milliseconds is in it.
//!
//! Among an ordinary crowd at a steady pace there are probes, each with names and addresses of its own:
//!
//! ```text
//! address   20 a second   one address fails on 10 accounts: through source
//! account   10 a second   10 addresses fail on one account: through source and account
//! status     1 a second   a tenant of its own, whose 120 logins fail: through source and site
//! ```
//!
//! A verdict names the event that completed its pattern, and the id of that event says when it was sent. A status names no
//! event; it is ATTACK from the 120th failure on, and the 120th is the last one sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use portcullis::event::{FailureReason, LoginEvent, Outcome};
use portcullis::log::ClientOptions;
use portcullis::log::publish::Publisher;
use rdkafka::Message as _;
use serde_json::{Map, Value, json};

use crate::histogram::Histograms;
use crate::kafka::{assign, consumer, ends};
use crate::load::{Crowd, TENANT, wire};
use crate::process::{cpu_seconds, epoch_ms, memory_mib, now, pause};
use crate::{Result, print};

/// What is sent before this time is not counted: caches are cold, and the first commits are of every size.
const WARM_UP: Duration = Duration::from_secs(10);
/// How long answers are waited for at the end.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// Failures that make a tenant nobody has met an attack: see `detect::campaign`.
const SURGE: u64 = 100;

/// Publish at a pace, and measure how long verdicts, blocks and attack statuses take
#[derive(Debug, Args)]
pub(crate) struct Latency {
    #[arg(long)]
    bootstrap: String,
    /// In front of every topic's name
    #[arg(long, default_value = "")]
    prefix: String,
    /// Events a second, probes among them
    #[arg(long)]
    rate: u64,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value_t = 1_000_000)]
    entities: u64,
    /// Number of the crowd's first event; another round goes on behind it
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Rounds on one job before this one, at most 7: whose probes are blocked by now
    #[arg(long, default_value_t = 0)]
    round: u64,
    /// What the line calls the load
    #[arg(long, default_value = "latency")]
    name: String,
    #[arg(long)]
    pid: u32,
    /// Where the job serves /metrics
    #[arg(long)]
    listen: String,
}

/// What was sent, as far as the reader cannot know it.
#[derive(Default)]
struct Sent {
    events: u64,
    probes: BTreeMap<&'static str, u64>,
    /// When the last failure of each tenant was sent, in microseconds since the epoch.
    surges: HashMap<String, i64>,
    /// The furthest that the publisher fell behind its own pace.
    behind: Duration,
}

/// What was read: when it came, in microseconds since the epoch.
#[derive(Default)]
struct Read {
    /// Kind of probe, when its event was sent, when the verdict came; by verdict id.
    verdicts: HashMap<String, (&'static str, i64, i64)>,
    /// By the verdict that they name.
    blocks: HashMap<String, i64>,
    /// ATTACK by tenant.
    statuses: HashMap<String, i64>,
}

impl Latency {
    pub(crate) fn run(&self) -> Result<()> {
        let is_over = AtomicBool::new(false);
        let topics = ["verdicts", "blocklist", "attack-status"].map(|topic| format!("{}{topic}", self.prefix));
        let reader = consumer(
            &self.bootstrap,
            "portcullis-bench-latency",
            &[("isolation.level", "read_committed"), ("fetch.wait.max.ms", "10"), ("fetch.min.bytes", "1")],
        )?;
        let from = ends(&reader, &topics)?;
        let from: Vec<_> = from.into_iter().map(|((topic, partition), end)| (topic, partition, end)).collect();
        assign(&reader, &from)?;
        let started_ms = epoch_ms();
        let cpu = cpu_seconds(self.pid).ok_or("the job has ended")?;
        let commits = Histograms::of(&self.listen);
        let (sent, read) = std::thread::scope(|scope| -> Result<(Sent, Read)> {
            let reading = scope.spawn(|| read(&reader, self.prefix.len(), &is_over));
            let sent = self.publish();
            pause(COOL_DOWN);
            is_over.store(true, Ordering::Relaxed);
            let read = reading.join().map_err(|_| "the reader panicked")??;
            Ok((sent?, read))
        })?;
        let cpu = cpu_seconds(self.pid).ok_or("the job has ended")? - cpu;
        let commits = Histograms::of(&self.listen).since(&commits);
        let counted_from = (started_ms + i64::try_from(WARM_UP.as_millis())?) * 1000;
        let mut line = Map::new();
        line.insert("latency".to_owned(), json!(self.name));
        line.insert("rate".to_owned(), json!(self.rate));
        line.insert("events".to_owned(), json!(sent.events));
        line.insert("publisher_behind_ms".to_owned(), json!(sent.behind.as_millis() as u64));
        line.insert("cpu_us_per_event".to_owned(), json!((cpu * 1e6 / sent.events as f64 * 1000.0).round() / 1000.0));
        line.insert("rss_mb".to_owned(), json!(memory_mib(self.pid, "VmRSS")));
        for kind in ["address", "account"] {
            let of_kind = read.verdicts.iter().filter(|(_, (held, at, _))| *held == kind && *at >= counted_from);
            let (mut verdicts, mut blocks) = (Vec::new(), Vec::new());
            for (id, (_, at, came)) in of_kind {
                verdicts.push(came - at);
                blocks.extend(read.blocks.get(id).map(|came| came - at));
            }
            line.insert(format!("{kind}_to_verdict_ms"), percentiles(verdicts));
            line.insert(format!("{kind}_to_blocklist_ms"), percentiles(blocks));
        }
        let surges = sent.surges.iter().filter(|(_, at)| **at >= counted_from);
        let statuses = surges.filter_map(|(tenant, at)| Some(read.statuses.get(tenant)? - at)).collect();
        line.insert("attack_status_ms".to_owned(), percentiles(statuses));
        line.insert("probes".to_owned(), json!(sent.probes));
        line.insert("commits".to_owned(), commits.shown());
        print(&Value::Object(line));
        Ok(())
    }

    fn publish(&self) -> Result<Sent> {
        let publisher = Publisher::new(&ClientOptions::new(&self.bootstrap))?;
        let topic = format!("{}login-events", self.prefix);
        publisher.check(&topic)?;
        let mut crowd = Crowd::new(7, self.entities);
        let mut probes = Probes::new(self.round);
        let mut sent = Sent::default();
        let started = now();
        let length = Duration::from_secs(self.seconds);
        let mut i = self.first;
        while started.elapsed() < length {
            let elapsed = started.elapsed();
            let wanted = (elapsed.as_secs_f64() * self.rate as f64) as u64;
            if sent.events >= wanted {
                publisher.poll(Duration::ZERO);
                pause(Duration::from_micros(500));
                continue;
            }
            sent.behind = sent.behind.max(Duration::from_secs_f64((wanted - sent.events) as f64 / self.rate as f64));
            // No new probe that could not be completed before the end.
            if elapsed + Duration::from_secs(2) < length {
                probes.schedule(elapsed, &mut sent);
            }
            // A millisecond's worth at most, or probes would wait behind a crowd that is late.
            for _ in 0..(wanted - sent.events).min(self.rate / 1000 + 1) {
                let at = epoch_us();
                match probes.next(elapsed, at) {
                    Some((event, tenant)) => {
                        publisher.send(&topic, None, &wire(&event), at / 1000)?;
                        if let Some(tenant) = tenant {
                            sent.surges.insert(tenant, at);
                        }
                    }
                    None => {
                        publisher.send(&topic, None, &wire(crowd.event(i, at / 1000)), at / 1000)?;
                        i += 1;
                    }
                }
                sent.events += 1;
            }
            publisher.poll(Duration::ZERO);
        }
        let deliveries = publisher.flush(Duration::from_secs(60))?;
        if deliveries.failed > 0 {
            return Err(
                format!("{} events were not delivered: {:?}", deliveries.failed, deliveries.first_failure).into()
            );
        }
        Ok(sent)
    }
}

/// Probes that were begun, and when their next events are due.
struct Probes {
    due: BTreeMap<(Duration, u64), Probe>,
    begun: BTreeMap<&'static str, u64>,
    round: u64,
    number: u64,
}

/// One event to be.
struct Probe {
    kind: &'static str,
    tenant: String,
    account: String,
    source: u32,
    /// The tenant's last.
    is_last: bool,
}

impl Probes {
    fn new(round: u64) -> Probes {
        Probes { due: BTreeMap::new(), begun: BTreeMap::new(), round, number: 0 }
    }

    /// Begins those that are due by now.
    fn schedule(&mut self, elapsed: Duration, sent: &mut Sent) {
        for (kind, per_second) in [("address", 20), ("account", 10), ("status", 1)] {
            while *self.begun.entry(kind).or_default() < (elapsed.as_secs_f64() * f64::from(per_second)) as u64 {
                let n = self.begun.get(kind).copied().unwrap_or_default();
                self.begin(kind, n, elapsed);
                self.begun.insert(kind, n + 1);
                *sent.probes.entry(kind).or_default() += 1;
            }
        }
    }

    fn begin(&mut self, kind: &'static str, n: u64, elapsed: Duration) {
        /// Networks of one kind and round.
        const NETWORKS: u64 = 8_192;
        let run = self.round;
        let events = if kind == "status" { SURGE } else { 10 };
        for k in 0..events {
            // A network of its own for each address, so that no range is blocked.
            let network =
                |base: u32, n: u64| (base << 24) + (((run * NETWORKS + n % NETWORKS) as u32 & 0xffff) << 8) + 66;
            let probe = Probe {
                kind,
                tenant: if kind == "status" { format!("t{run}-{n}") } else { TENANT.to_owned() },
                account: match kind {
                    "account" => format!("target{run}-{n}@mail.example"),
                    _ => format!("victim{run}-{n}-{k}@mail.example"),
                },
                source: match kind {
                    "address" => network(45, n),
                    "account" => network(46, n * 10 + k),
                    _ => network(47, n * SURGE + k),
                },
                is_last: kind == "status" && k + 1 == events,
            };
            self.number += 1;
            let gap = Duration::from_millis(if kind == "status" { 8 } else { 50 });
            self.due.insert((elapsed + gap * k as u32, self.number), probe);
        }
    }

    /// The next event that is due, and the tenant whose last it is.
    fn next(&mut self, elapsed: Duration, at_us: i64) -> Option<(LoginEvent, Option<String>)> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= elapsed)?;
        let ((_, number), probe) = entry.remove_entry();
        let event = LoginEvent {
            event_id: format!("{}-{at_us}-{number}", probe.kind),
            occurred_at: at_us / 1000,
            tenant: probe.tenant.clone(),
            account: probe.account,
            account_exists: Some(true),
            outcome: Outcome::Failure,
            failure_reason: FailureReason::WrongPassword,
            source_ip: std::net::Ipv4Addr::from(probe.source).to_string(),
            user_agent: Some("probe".to_owned()),
            ..LoginEvent::default()
        };
        Some((event, probe.is_last.then_some(probe.tenant)))
    }
}

fn read(reader: &rdkafka::consumer::BaseConsumer, prefix: usize, is_over: &AtomicBool) -> Result<Read> {
    let mut read = Read::default();
    while !is_over.load(Ordering::Relaxed) {
        let Some(message) = reader.poll(Duration::from_millis(10)) else { continue };
        let message = message?;
        let came = epoch_us();
        let Some(value) = message.payload() else { continue };
        let value: Value = serde_json::from_slice(value)?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        match message.topic().get(prefix..).unwrap_or_default() {
            "verdicts" => {
                let evidence = value["evidence"][0].as_str().unwrap_or_default();
                let mut parts = evidence.split('-');
                let kind = match parts.next() {
                    Some("address") => "address",
                    Some("account") => "account",
                    _ => continue,
                };
                let Some(at) = parts.next().and_then(|at| at.parse().ok()) else { continue };
                // Of several about one entity the first is the one that was waited for.
                read.verdicts.entry(text("verdict_id")).or_insert((kind, at, came));
            }
            "blocklist" => {
                read.blocks.entry(text("verdict_id")).or_insert(came);
            }
            _ if text("state") == "ATTACK" => {
                read.statuses.entry(text("tenant")).or_insert(came);
            }
            _ => {}
        }
    }
    Ok(read)
}

/// Of microseconds, in milliseconds.
fn percentiles(mut all: Vec<i64>) -> Value {
    all.sort_unstable();
    let at = |share: f64| {
        let place = ((all.len() as f64 * share).ceil() as usize).clamp(1, all.len().max(1)) - 1;
        all.get(place).map(|us| (*us as f64 / 100.0).round() / 10.0)
    };
    json!({ "n": all.len(), "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

#[expect(clippy::disallowed_methods, reason = "a bench compares with the time stamps of records")]
fn epoch_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
