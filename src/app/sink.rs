//! `portcullis sink nginx | haproxy | nftables | redis | file`: one edge kept equal to the blocklist.
//!
//! ```text
//! blocklist, exemptions ──▶ Follower ──▶ Sink ──▶ the edge
//!                                         └─────▶ receipts
//! ```
//!
//! The topics are read from their start; nothing changes at the edge before both were read to the ends they had then.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::receipts::{ReceiptOptions, ReceiptStatus, Sender};
use super::sink_status::SinkStatusArgs;
use super::{Connection, Ending, Output};
use crate::edge::{
    Adapter, ENTRIES_MAX, FileEdge, HaproxyEdge, HaproxyOptions, INTERVAL_MS, NftablesEdge, NftablesOptions, NginxEdge,
    NginxOptions, RETRY_MS_MAX, RedisEdge, RedisOptions, Reload, SHRINK_FREE, Shrink, Sink, SinkOptions, Status,
    Tenants,
};
use crate::event::Millis;
use crate::log::Incoming;
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::topology::exemptions::Exemptions;
use crate::topology::networks::CurrentNetworks;
use crate::topology::parse_duration;

/// Longest wait for a record; a stop is seen after it.
const WAIT_MAX_MS: Millis = 100;
/// Most records taken before the edge is looked at.
const BATCH_MAX: u64 = 10_000;
/// How often it is looked whether topics have more partitions now, in milliseconds.
const REFRESH_MS: Millis = 30_000;
/// Shortest time between two changes of an edge that takes them one by one, in milliseconds.
const QUICK_INTERVAL_MS: Millis = 100;

const EXAMPLES: &str = "Examples:
  portcullis sink nginx --file /etc/nginx/portcullis.geo --tenant shop
  portcullis sink nginx --file /etc/nginx/portcullis.geo --tenant shop --dry-run
  portcullis sink haproxy --socket /run/haproxy/admin.sock --map /etc/haproxy/portcullis.map --tenant shop
  portcullis sink nftables --tenant shop --mmdb /var/lib/mmdb/asn.mmdb
  portcullis sink redis --redis 127.0.0.1:6379 --tenant shop
  portcullis sink file --file /var/lib/portcullis/blocked.jsonl --all-tenants
  portcullis sink status

nginx includes the file like this:
  geo $portcullis_blocked { default 0; include /etc/nginx/portcullis.geo; }
  location /login { if ($portcullis_blocked) { return 403; } ... }

HAProxy looks into the map like this (the file must exist, and may be empty):
  stats socket /run/haproxy/admin.sock mode 600 level admin
  http-request deny deny_status 403 if { path_beg /login } { src,map_ip(/etc/haproxy/portcullis.map) -m found }";

/// Longest name of a sink, in bytes.
const SINK_NAME_BYTES_MAX: usize = 64;

/// Keep an edge equal to the blocklist.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SinkArgs {
    #[command(subcommand)]
    pub what: SinkCommand,
    /// Address for /metrics, /livez, /readyz and /status [default: none]
    #[arg(long, global = true, env = "PORTCULLIS_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum SinkCommand {
    #[command(flatten)]
    Edge(Box<EdgeArgs>),
    Status(SinkStatusArgs),
}

#[derive(Debug, Subcommand)]
pub enum EdgeArgs {
    /// A list that nginx includes; tested and reloaded at every change.
    Nginx(NginxArgs),
    /// A map in the memory of a running HAProxy, by its stats socket.
    Haproxy(HaproxyArgs),
    /// The kernel's firewall: what comes from a blocked address is dropped, whatever it asks for.
    ///
    /// It takes only entries of playbooks that say `wide: true`, and those of operators. It makes a table of its own and
    /// touches no other. Needs the right to change the firewall (root, or CAP_NET_ADMIN).
    Nftables(NftablesArgs),
    /// Keys in a Redis with their time to live, and a channel that tells each change.
    Redis(RedisArgs),
    /// A file of one blocklist entry per line, as JSON.
    File(FileArgs),
}

#[derive(Debug, Args)]
pub struct RedisArgs {
    /// Where it listens: HOST:PORT, or the path of a socket; without TLS
    #[arg(long, value_name = "ADDRESS")]
    pub redis: String,
    /// Its database
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub database: u32,
    /// The user, where there are several
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// A file with the password
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// What keys and channel begin with: PREFIXblock:tenant|SCOPE|value and PREFIXchanges. Every other key under
    /// PREFIXblock: is taken away
    #[arg(long, value_name = "PREFIX", default_value = "portcullis:")]
    pub prefix: String,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct HaproxyArgs {
    /// The stats socket, of level admin: a path, or HOST:PORT
    #[arg(long, value_name = "SOCKET")]
    pub socket: String,
    /// The map, as HAProxy's configuration names it
    #[arg(long, value_name = "FILE")]
    pub map: String,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct NftablesArgs {
    /// The table, in the family inet: made when it is missing, and all of it ours
    #[arg(long, value_name = "NAME", default_value = "portcullis", value_parser = table)]
    pub table: String,
    /// The program, with what stands before it, such as `ip netns exec blue nft`
    #[arg(long, value_name = "COMMAND", default_value = "nft", value_parser = words)]
    pub nft: Words,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// A program and its arguments, as they were given with spaces between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

fn words(text: &str) -> Result<Words, String> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() { Err("name a program".to_owned()) } else { Ok(Words(words)) }
}

/// A name that nft takes for nothing else.
fn table(name: &str) -> Result<String, String> {
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_name { Ok(name.to_owned()) } else { Err("a letter, then letters, digits or _, at most 64".to_owned()) }
}

#[derive(Debug, Args)]
pub struct NginxArgs {
    /// The list: the file that a `geo` block of nginx includes
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// nginx's configuration [default: that of nginx]
    #[arg(long, value_name = "FILE")]
    pub conf: Option<PathBuf>,
    /// nginx's prefix, as in `nginx -p` [default: that of nginx]
    #[arg(long, value_name = "FOLDER")]
    pub prefix: Option<PathBuf>,
    /// Reload by a SIGHUP to the process of this file [default: `nginx -s reload`]
    #[arg(long, value_name = "FILE", conflicts_with = "no_reload")]
    pub pid_file: Option<PathBuf>,
    /// Somebody else tells nginx to reload
    #[arg(long)]
    pub no_reload: bool,
    /// Do not test nginx's configuration before a reload; for an nginx that cannot be started from here
    #[arg(long)]
    pub no_test: bool,
    /// The program
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    pub nginx: String,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// The list
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Apply the entries of this tenant
    #[arg(long, value_name = "NAME", conflicts_with = "all_tenants")]
    pub tenant: Option<String>,
    /// Apply the entries of every tenant
    #[arg(long)]
    pub all_tenants: bool,
    /// Shortest time between two changes of the edge, such as 500ms or 2s, at most 30s [default: 1s where every change
    /// is a whole file, else 100ms]
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Millis>,
    /// Most entries that the edge should hold: ranges are merged, and then the most valuable are kept (an operator's
    /// first, then the stronger action, the later end, the newer change)
    #[arg(long, value_name = "COUNT")]
    pub capacity: Option<usize>,
    /// The name in receipts, one for each place of enforcement [default: the edge's kind and the host's name]
    #[arg(long, value_name = "NAME", value_parser = sink_name)]
    pub sink_name: Option<String>,
    /// Do not write to the topic `receipts` what the edge confirmed
    #[arg(long)]
    pub no_receipts: bool,
    /// Let more than half of the list go at once
    #[arg(long)]
    pub allow_shrink: bool,
    /// Print the difference between the blocklist and the edge, and end
    #[arg(long)]
    pub dry_run: bool,
    /// How `--dry-run` prints
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

impl Default for CommonArgs {
    fn default() -> Self {
        CommonArgs {
            tenant: None,
            all_tenants: false,
            interval: None,
            capacity: None,
            sink_name: None,
            no_receipts: false,
            allow_shrink: false,
            dry_run: false,
            output: Output::Text,
        }
    }
}

fn sink_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = !name.is_empty() && name.len() <= SINK_NAME_BYTES_MAX && name.chars().all(is_plain);
    if is_name { Ok(name.to_owned()) } else { Err("letters, digits, `.`, `_` and `-`, at most 64".to_owned()) }
}

/// What a sink is called that was given no name: two on one host want names.
fn default_name(edge: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    sink_name(&format!("{edge}-{}", host.trim())).unwrap_or_else(|_| edge.to_owned())
}

fn interval(text: &str) -> Result<Millis, String> {
    let interval = parse_duration(text).ok_or_else(|| "write it as 500ms or 2s".to_owned())?;
    if interval > RETRY_MS_MAX { Err("at most 30s".to_owned()) } else { Ok(interval) }
}

/// How a sink stands, for metrics and the status page.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SinkStatus {
    /// Which kind of edge, such as `nginx`.
    pub edge: &'static str,
    /// Its name in receipts.
    pub name: String,
    /// Records read since start.
    pub records: u64,
    /// Partitions not yet read to the end that they had at start.
    pub partitions_behind: usize,
    /// Failures of the cluster that were waited out, since start.
    pub cluster_failures: u64,
    pub receipts: ReceiptStatus,
    pub sink: Status,
}

/// The status of a running sink, to be read by another thread.
#[derive(Debug, Default)]
pub struct Watched(Mutex<SinkStatus>);

impl Watched {
    #[must_use]
    pub fn get(&self) -> SinkStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, status: SinkStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// What a sink is given from outside.
#[derive(Debug)]
pub struct SinkContext<'a, C> {
    pub connection: &'a Connection,
    /// Those of `topology/exemptions.yaml`; the topic's are read beside the blocklist.
    pub exemptions: Exemptions,
    /// The clock of the process.
    pub clock: C,
    /// Ends the sink when it becomes true.
    pub stop: &'a AtomicBool,
    pub watched: &'a Watched,
    /// How receipts are encoded.
    pub receipts: ReceiptOptions,
    /// Of which addresses autonomous systems and countries are, as the files say it now.
    pub networks: Arc<CurrentNetworks>,
}

/// Runs a sink until it is stopped, or prints a difference (`--dry-run`) to `out`.
///
/// # Errors
/// The cluster cannot be read at start, the list holds several tenants and none was named, or the client is beyond
/// repair. What goes wrong at the edge is told, counted and tried again.
pub fn run<C: Fn() -> Millis>(
    edge: &EdgeArgs,
    context: SinkContext<'_, C>,
    out: &mut dyn Write,
) -> anyhow::Result<Ending> {
    match edge {
        EdgeArgs::Nginx(nginx) => {
            let edge = NginxEdge::new(nginx_options(nginx));
            drive(Kind { name: "nginx", interval_ms: INTERVAL_MS }, edge, &nginx.common, context, out)
        }
        EdgeArgs::Haproxy(haproxy) => {
            let options = HaproxyOptions { socket: haproxy.socket.clone(), map: haproxy.map.clone() };
            let edge = HaproxyEdge::new(options).map_err(anyhow::Error::msg)?;
            drive(Kind { name: "haproxy", interval_ms: QUICK_INTERVAL_MS }, edge, &haproxy.common, context, out)
        }
        EdgeArgs::Nftables(nftables) => {
            let options = NftablesOptions { nft: nftables.nft.0.clone(), table: nftables.table.clone() };
            let kind = Kind { name: "nftables", interval_ms: QUICK_INTERVAL_MS };
            drive(kind, NftablesEdge::new(options), &nftables.common, context, out)
        }
        EdgeArgs::Redis(redis) => {
            let edge = RedisEdge::new(redis_options(redis)?).map_err(anyhow::Error::msg)?;
            drive(Kind { name: "redis", interval_ms: QUICK_INTERVAL_MS }, edge, &redis.common, context, out)
        }
        EdgeArgs::File(file) => {
            let edge = FileEdge::new(file.file.clone());
            drive(Kind { name: "file", interval_ms: INTERVAL_MS }, edge, &file.common, context, out)
        }
    }
}

/// A kind of edge.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    /// Shortest time between two changes when nothing else is said, in milliseconds.
    interval_ms: Millis,
}

fn redis_options(args: &RedisArgs) -> anyhow::Result<RedisOptions> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    };
    Ok(RedisOptions {
        address: args.redis.clone(),
        database: args.database,
        user: args.user.clone(),
        password: args.password_file.as_ref().map(read).transpose()?,
        prefix: args.prefix.clone(),
    })
}

fn nginx_options(args: &NginxArgs) -> NginxOptions {
    let mut options = NginxOptions::new(args.file.clone(), args.conf.as_deref(), args.prefix.as_deref());
    let program = |argv: &mut Vec<String>| {
        if let Some(first) = argv.first_mut() {
            first.clone_from(&args.nginx);
        }
    };
    program(&mut options.test);
    if args.no_test {
        options.test.clear();
    }
    if args.no_reload {
        options.reload = Reload::Never;
    } else if let Some(pid_file) = &args.pid_file {
        options.reload = Reload::PidFile(pid_file.clone());
    } else if let Reload::Command(argv) = &mut options.reload {
        program(argv);
    }
    options
}

fn sink_options(args: &CommonArgs, kind: Kind, exemptions: Exemptions) -> SinkOptions {
    let tenants = match &args.tenant {
        Some(tenant) => Tenants::One(tenant.as_str().into()),
        None if args.all_tenants => Tenants::All,
        None => Tenants::Unset,
    };
    let shrink = if args.allow_shrink { Shrink::Allowed } else { Shrink::ByHalf { free: SHRINK_FREE } };
    let interval_ms = args.interval.unwrap_or(kind.interval_ms);
    SinkOptions { tenants, exemptions, interval_ms, shrink, capacity: args.capacity.unwrap_or(ENTRIES_MAX) }
}

fn drive<A: Adapter, C: Fn() -> Millis>(
    kind: Kind,
    adapter: A,
    args: &CommonArgs,
    context: SinkContext<'_, C>,
    out: &mut dyn Write,
) -> anyhow::Result<Ending> {
    let SinkContext { connection, exemptions, clock, stop, watched, receipts, networks } = context;
    let blocklist = connection.topics.public("blocklist");
    let topics = [blocklist.clone(), connection.topics.public("exemptions")];
    let mut follower = Follower::new(&connection.client, &topics, ReadFrom::Start)?;
    let mut sink = Sink::new(sink_options(args, kind, exemptions), adapter);
    let name = args.sink_name.clone().unwrap_or_else(|| default_name(kind.name));
    let wants_receipts = !args.no_receipts && !args.dry_run;
    let mut sender = wants_receipts.then(|| Sender::start(connection, receipts, name.clone())).transpose()?;
    let mut status = SinkStatus { edge: kind.name, name, ..SinkStatus::default() };
    let mut next = clock();
    let mut refresh_at = next.saturating_add(REFRESH_MS);
    while !stop.load(Ordering::Relaxed) {
        let wait = next.saturating_sub(clock()).clamp(0, WAIT_MAX_MS);
        status.records += read(&mut follower, &mut sink, &blocklist, Duration::from_millis(wait.unsigned_abs()))?;
        let now = clock();
        sink.turn_to(&networks.get());
        let is_caught_up = sink.is_caught_up();
        if is_caught_up && sink.several_tenants() {
            bail!(
                "the blocklist holds several tenants: say which one this edge serves with --tenant NAME, or --all-tenants"
            );
        }
        if args.dry_run && is_caught_up {
            let plan = sink.difference(now).context("the edge cannot be asked")?;
            args.output.write(out, &plan, &plan.to_string())?;
            break;
        }
        next = if args.dry_run { now.saturating_add(WAIT_MAX_MS) } else { sink.tick(now).next };
        if let Some(sender) = &mut sender {
            if sender.send(&mut sink, clock())? {
                next = now;
            }
            status.receipts = sender.status();
        }
        if now >= refresh_at {
            refresh_at = now.saturating_add(REFRESH_MS);
            if let Err(e) = follower.refresh() {
                tracing::warn!(error = %e, "it cannot be seen whether partitions were added");
            }
        }
        status.partitions_behind = follower.behind();
        status.cluster_failures = follower.failures();
        status.sink = sink.status();
        watched.set(status.clone());
    }
    if let Some(sender) = sender {
        sender.finish();
    }
    Ok(Ending::Well)
}

/// Takes what is there, after waiting at most `wait` for the first record; gives the number of records.
fn read<A: Adapter>(
    follower: &mut Follower,
    sink: &mut Sink<A>,
    blocklist: &str,
    mut wait: Duration,
) -> anyhow::Result<u64> {
    let mut records = 0;
    while records < BATCH_MAX {
        match follower.poll(wait)? {
            Followed::Record(record) => {
                records += 1;
                take(sink, blocklist, &record);
            }
            Followed::CaughtUp => {
                sink.caught_up();
                tracing::info!(held = sink.desired().len(), "the blocklist was read to the end that it had at start");
            }
            Followed::Idle => break,
        }
        wait = Duration::ZERO;
    }
    Ok(records)
}

fn take<A: Adapter>(sink: &mut Sink<A>, blocklist: &str, record: &Incoming) {
    let key = record.key.as_deref().unwrap_or_default();
    let value = record.value.as_deref();
    if *record.part.topic == *blocklist {
        let generation = record.header("generation").and_then(|text| std::str::from_utf8(text).ok());
        sink.record(key, value, generation.and_then(|text| text.parse().ok()));
    } else {
        sink.exemption(key, value);
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SinkArgs,
    }

    fn parse(line: &str) -> Result<EdgeArgs, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| match line.args.what {
            SinkCommand::Edge(edge) => *edge,
            SinkCommand::Status(args) => panic!("{args:?}"),
        })
    }

    #[test]
    fn the_command_line_is_sound() {
        Line::command().debug_assert();
        // That of docker-compose.yml.
        let line = "sink nginx --file=/edge/portcullis.geo --conf=/etc/nginx/nginx.conf --pid-file=/edge/nginx.pid --all-tenants";
        let Ok(EdgeArgs::Nginx(args)) = parse(line) else { panic!("{line}") };
        assert!(args.common.all_tenants && !args.common.dry_run && !args.common.allow_shrink);
        assert_eq!((args.common.interval, args.pid_file), (None, Some(PathBuf::from("/edge/nginx.pid"))));
        let Ok(EdgeArgs::File(args)) = parse("sink file --file x --tenant shop --interval 250ms --dry-run") else {
            panic!()
        };
        assert_eq!(
            (args.common.interval, args.common.tenant.as_deref(), args.common.dry_run),
            (Some(250), Some("shop"), true)
        );
        let Ok(EdgeArgs::Nftables(args)) = parse("sink nftables --all-tenants --capacity 10 --sink-name edge-1") else {
            panic!()
        };
        assert_eq!(
            (args.table.as_str(), &args.nft.0[..], args.common.capacity),
            ("portcullis", &["nft".to_owned()][..], Some(10))
        );
        for wrong in [
            "sink",
            "sink nginx",
            "sink file --file x --interval 31s",
            "sink file --file x --interval soon",
            "sink file --file x --tenant a --all-tenants",
            "sink nginx --file x --pid-file p --no-reload",
            "sink haproxy --map m",
            "sink nftables --table a;b",
            "sink nftables --capacity some",
            "sink file --file x --sink-name a|b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nginx_is_told_as_the_options_say() {
        let edge = |line: &str| match parse(line) {
            Ok(EdgeArgs::Nginx(args)) => nginx_options(&args),
            other => panic!("{other:?}"),
        };
        let options = edge("sink nginx --file x --conf c --prefix p --nginx /opt/nginx");
        assert_eq!(options.test, ["/opt/nginx", "-c", "c", "-p", "p", "-t", "-q"]);
        let reload = ["/opt/nginx", "-c", "c", "-p", "p", "-s", "reload"].map(str::to_owned);
        assert_eq!(options.reload, Reload::Command(reload.to_vec()));
        assert_eq!(edge("sink nginx --file x --pid-file p").reload, Reload::PidFile(PathBuf::from("p")));
        let options = edge("sink nginx --file x --no-reload --no-test");
        assert_eq!((options.reload, options.test.len()), (Reload::Never, 0));
    }
}
