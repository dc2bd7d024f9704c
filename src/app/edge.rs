//! `portcullis edge`: the server that edges and login pages ask.
//!
//! ```text
//! blocklist, exemptions, attack-status, known-pairs ──▶ Follower ──▶ Server ──▶ /v1/check, …
//! ```
//!
//! One thread follows the topics from their start; the server answers on threads of its own, and nothing before every
//! topic was read to the end that it had at start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use axum::Router;
use clap::Args;
use ipnet::IpNet;
use metrics::{counter, gauge};
use serde::Serialize;

use super::serving::{Serving, TlsArgs};
use super::{Connection, Ending};
use crate::console::Shown;
use crate::edge::server::{EdgeStatus, Keys, Lists, Rate, Server, ServerOptions, TrustedProxies};
use crate::event::Millis;
use crate::event::wire::login_event_to_json;
use crate::log::Incoming;
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::log::publish::Publisher;
use crate::topology::exemptions::Exemptions;
use crate::topology::networks::CurrentNetworks;
use crate::window::HashKey;

/// Longest wait for a record; a stop is seen after it.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Most records taken before anything else is done.
const BATCH_MAX: u64 = 10_000;
/// How often it is looked whether topics have more partitions now, in milliseconds.
const REFRESH_MS: Millis = 30_000;
/// How often what is due by the clock is done, in milliseconds. Answers go by the clock themselves.
const TICK_MS: Millis = 1_000;
/// Most events of what was denied that wait for their delivery.
const REPORTS_MAX: usize = 10_000;
/// How long what was reported last may take at a stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Most threads that answer.
const THREADS_MAX: usize = 64;

const EXAMPLES: &str = "Example:
  portcullis edge --keys /etc/portcullis/edge-keys --tenant shop --listen 127.0.0.1:8470
  curl -H \"X-Api-Key: $KEY\" 'localhost:8470/v1/check?ip=203.0.113.9&account=ada@example.com' -i

The file of keys has one a line, as `name: key`. With --tls-client-ca a client whose certificate has one of these names as
its common name may leave the key out.";

/// Answer edges and login pages: may this client try this account?
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct EdgeArgs {
    /// Address for questions, and for /metrics, /livez, /readyz and /status
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8470")]
    pub listen: String,
    /// File of the keys with which questions are asked, one a line: `name: key`
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
    /// Answer for this tenant
    #[arg(long, value_name = "NAME", conflicts_with = "all_tenants", required_unless_present = "all_tenants")]
    pub tenant: Option<String>,
    /// Answer for every tenant; questions say which
    #[arg(long)]
    pub all_tenants: bool,
    /// Proxies whose X-Forwarded-For is believed, as often as needed [default: this machine]
    #[arg(long, value_name = "CIDR")]
    pub trusted_proxy: Vec<IpNet>,
    /// Let a denied request pass with its verdict, for a page that shows it as a wrong password
    #[arg(long)]
    pub stealth: bool,
    /// Publish what is denied as BLOCKED attempts; leave it out where the login page publishes them
    #[arg(long)]
    pub report_stops: bool,
    /// Questions about accounts that one key may ask a second
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub account_rate: u32,
    /// Threads that answer
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = threads)]
    pub threads: usize,
    #[command(flatten)]
    pub tls: TlsArgs,
}

fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse::<usize>().ok().filter(|threads| (1..=THREADS_MAX).contains(threads));
    threads.ok_or_else(|| format!("write a number from 1 to {THREADS_MAX}"))
}

/// What the server is given from outside.
pub struct EdgeContext<'a> {
    pub connection: &'a Connection,
    /// Those of `topology/exemptions.yaml`; the topic's are read beside the blocklist.
    pub exemptions: Exemptions,
    /// That of the job, under which pairs are known.
    pub hash_key: HashKey,
    /// Where addresses are looked up, as the files say it now.
    pub networks: Arc<CurrentNetworks>,
    /// The clock of the process.
    pub clock: Arc<dyn Fn() -> Millis + Send + Sync>,
    /// Ends the server when it becomes true.
    pub stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for EdgeContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeContext").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// What the process shows of itself.
#[derive(Debug)]
pub struct EdgeShown {
    server: Arc<Server>,
    followed: Mutex<FollowStatus>,
}

/// How reading stands.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct FollowStatus {
    records: u64,
    partitions_behind: usize,
    cluster_failures: u64,
}

#[derive(Serialize)]
struct Everything {
    #[serde(flatten)]
    follow: FollowStatus,
    #[serde(flatten)]
    edge: EdgeStatus,
}

impl EdgeShown {
    fn follow(&self) -> FollowStatus {
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown for EdgeShown {
    fn is_ready(&self) -> bool {
        self.server.is_ready()
    }

    fn status(&self) -> serde_json::Value {
        let everything = Everything { follow: self.follow(), edge: self.server.status() };
        serde_json::to_value(everything).unwrap_or_default()
    }

    fn set_gauges(&self) {
        let (status, follow) = (self.server.status(), self.follow());
        gauge!("portcullis_edge_entries").set(status.entries as f64);
        gauge!("portcullis_edge_known_pairs").set(status.known_pairs as f64);
        counter!("portcullis_edge_records_total").absolute(follow.records);
        for (verdict, count) in [("allow", status.allowed), ("challenge", status.challenged), ("deny", status.denied)] {
            counter!("portcullis_edge_checks_total", "verdict" => verdict).absolute(count);
        }
        for (reason, count) in [
            ("not_ready", status.not_ready),
            ("no_key", status.without_key),
            ("not_understood", status.not_understood),
            ("over_rate", status.over_rate),
        ] {
            counter!("portcullis_edge_unanswered_total", "reason" => reason).absolute(count);
        }
        gauge!("portcullis_edge_bouncers").set(status.bouncers.len() as f64);
        counter!("portcullis_edge_bouncer_dropped_total").absolute(status.dropped_by_bouncers);
        let refused = status.entries_refused + status.records_refused + status.known_pairs_refused;
        counter!("portcullis_edge_checks_without_client_total").absolute(status.without_client);
        counter!("portcullis_edge_stops_untold_total").absolute(status.stops_untold);
        counter!("portcullis_edge_records_refused_total").absolute(refused);
    }
}

/// Reads the file of keys.
///
/// # Errors
/// It cannot be read, or what is wrong in which line.
pub fn keys(path: &Path, rate: Rate) -> Result<Keys> {
    let text = std::fs::read_to_string(path).with_context(|| format!("the file of keys {}", path.display()))?;
    Keys::parse(&text, rate).map_err(|what| anyhow!("{}: {what}", path.display()))
}

/// Answers until it is stopped. `page` makes the routes that every process shows; `listening` is told the address.
///
/// # Errors
/// The address cannot be listened on, the cluster cannot be read at start, or the client is beyond repair.
pub fn run(
    args: &EdgeArgs,
    keys: Keys,
    context: EdgeContext<'_>,
    page: impl FnOnce(Arc<dyn Shown>) -> Result<Router>,
    listening: impl FnOnce(SocketAddr),
) -> Result<Ending> {
    let EdgeContext { connection, exemptions, hash_key, networks, clock, stop } = context;
    let proxies = match args.trusted_proxy.as_slice() {
        [] => TrustedProxies::loopback(),
        networks => TrustedProxies::new(networks.to_vec()),
    };
    let own_clock = Arc::clone(&clock);
    let clock_of_answers = Box::new(move || own_clock());
    let options = ServerOptions {
        keys,
        proxies,
        hash_key,
        stealth: args.stealth,
        report_stops: args.report_stops,
        networks,
        clock: clock_of_answers,
    };
    let server = Arc::new(Server::new(Lists::new(args.tenant.as_deref(), exemptions), options));
    let shown = Arc::new(EdgeShown { server: Arc::clone(&server), followed: Mutex::default() });
    let routes = crate::edge::server::routes(Arc::clone(&server)).merge(page(Arc::clone(&shown) as Arc<dyn Shown>)?);
    let serving = Serving::start(&args.listen, ("edge", args.threads), routes, args.tls.read()?, Arc::clone(&stop))?;
    listening(serving.address);
    let reporter = args.report_stops.then(|| Reporter::new(connection, clock())).transpose();
    let followed = reporter.and_then(|reporter| follow(connection, &server, &shown, reporter, &*clock, &stop));
    stop.store(true, Ordering::Relaxed);
    server.close();
    serving.end();
    followed.map(|()| Ending::Well)
}

fn follow(
    connection: &Connection,
    server: &Server,
    shown: &EdgeShown,
    mut reporter: Option<Reporter>,
    clock: &dyn Fn() -> Millis,
    stop: &AtomicBool,
) -> Result<()> {
    let topics = Followings::of(connection);
    let mut follower = Follower::new(&connection.client, &topics.all(), ReadFrom::Start)?;
    let (mut records, mut turn, mut tick_at) = (0, 0_usize, clock());
    let mut ticked_at = tick_at;
    let mut refresh_at = tick_at.saturating_add(REFRESH_MS);
    while !stop.load(Ordering::Relaxed) {
        let mut wait = WAIT_MAX;
        for _ in 0..BATCH_MAX {
            match follower.poll(wait)? {
                Followed::Record(record) => {
                    records += 1;
                    topics.take(server, &record);
                }
                Followed::CaughtUp => {
                    server.caught_up();
                    tracing::info!(
                        entries = server.status().entries,
                        "the topics were read to the end that they had at start"
                    );
                }
                Followed::Idle => break,
            }
            wait = Duration::ZERO;
        }
        let now = clock();
        if now >= tick_at {
            tick_at = now.saturating_add(TICK_MS);
            server.tick(turn, ticked_at, now);
            ticked_at = now;
            if let Some(reporter) = &mut reporter {
                reporter.report(server, now)?;
            }
            turn = turn.wrapping_add(1);
        }
        if now >= refresh_at {
            refresh_at = now.saturating_add(REFRESH_MS);
            if let Err(e) = follower.refresh() {
                tracing::warn!(error = %e, "it cannot be seen whether partitions were added");
            }
        }
        *shown.followed.lock().unwrap_or_else(PoisonError::into_inner) =
            FollowStatus { records, partitions_behind: follower.behind(), cluster_failures: follower.failures() };
    }
    if let Some(reporter) = &mut reporter {
        reporter.report(server, clock())?;
        reporter.publisher.flush(DRAIN_MAX)?;
    }
    Ok(())
}

/// Publishes what was denied.
struct Reporter {
    publisher: Publisher,
    topic: String,
    /// Makes the ids of this process others than those of any other.
    prefix: String,
    number: u64,
}

impl Reporter {
    fn new(connection: &Connection, now: Millis) -> Result<Self> {
        let topic = connection.topics.public("login-events");
        let publisher = Publisher::new(&connection.client)?;
        publisher.check(&topic)?;
        let secret = std::hash::RandomState::new();
        let prefix = format!("edge-{now}-{:016x}", std::hash::BuildHasher::hash_one(&secret, std::process::id()));
        Ok(Reporter { publisher, topic, prefix, number: 0 })
    }

    /// What finds no room now is summed up further and told later, so that nothing waits for a cluster that is away.
    fn report(&mut self, server: &Server, now: Millis) -> Result<()> {
        self.publisher.poll(Duration::ZERO);
        let room = REPORTS_MAX.saturating_sub(self.publisher.in_flight());
        for event in server.stopped(room, &self.prefix, &mut self.number) {
            self.publisher.send(&self.topic, None, &login_event_to_json(&event), now)?;
        }
        Ok(())
    }
}

/// The topics that are followed, by their names in this cluster.
struct Followings {
    blocklist: String,
    exemptions: String,
    attack_status: String,
    known_pairs: String,
}

impl Followings {
    fn of(connection: &Connection) -> Self {
        let name = |name| connection.topics.public(name);
        Followings {
            blocklist: name("blocklist"),
            exemptions: name("exemptions"),
            attack_status: name("attack-status"),
            known_pairs: name("known-pairs"),
        }
    }

    fn all(&self) -> Vec<String> {
        [&self.blocklist, &self.exemptions, &self.attack_status, &self.known_pairs].map(Clone::clone).to_vec()
    }

    fn take(&self, server: &Server, record: &Incoming) {
        let (key, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref());
        let topic = &*record.part.topic;
        if topic == self.blocklist {
            let generation = record.header("generation").and_then(|text| std::str::from_utf8(text).ok());
            server.take_block(key, value, generation.and_then(|text| text.parse().ok()), record.timestamp);
        } else if topic == self.exemptions {
            server.take_exemption(key, value);
        } else if topic == self.attack_status {
            server.take_status(key, value);
        } else {
            server.take_pair(key, value);
        }
    }
}
