//! `portcullis console`: pages for people, from the topics.
//!
//! ```text
//! topics ──▶ Follower ──▶ Board, Disk ──▶ pages, exports, news
//! ```
//!
//! One thread follows the topics from their start; the server answers on threads of its own, and says until then that it
//! is still reading. The store is emptied at start: what a console shows is what the topics hold, wherever it runs.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use clap::Args;

use super::playbook_changes::{OnTopic, Origin, Standing};
use super::serving::Serving;
use super::settings::Settings;
use super::{Connection, Ending};
use crate::console::{Board, Console, ConsoleOptions, Disk, PlaybookLine, Shown, TOPICS, console_routes};
use crate::edge::server::{Keys, Rate};
use crate::event::Millis;
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::log::{Clock, Incoming};
use crate::topology::exemptions::Exemptions;

/// Longest wait for a record; a stop is seen after it.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Most records taken before anything else is done.
const BATCH_MAX: usize = 5_000;
/// How often what is due is done, and how often the cluster is asked whether it is there.
const TICK_EVERY: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_secs(3);
/// How often it is looked which overrides have ended.
const PLAYBOOKS_EVERY: Duration = Duration::from_secs(5);
/// Threads that answer; pages are written on others.
const THREADS: usize = 2;
const PLAYBOOKS: &str = "playbooks";

const EXAMPLES: &str = "Examples:
  portcullis console                                              http://127.0.0.1:8480, for this machine alone
  ssh -L 8480:localhost:8480 server                               and the same from elsewhere
  portcullis console --listen 0.0.0.0:8480 --keys /etc/portcullis/console-keys

The file of keys has one a line, as `name: key`; a browser asks for one as the password, with any user name. This speaks
plain HTTP: put a proxy with TLS in front of it where others share the network.";

/// Show people what goes on: overview, incidents and their reports, blocks, playbooks, edges; live, read-only
///
/// Reads the topics from their start into a store of its own, and follows them.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ConsoleArgs {
    /// Address for pages, and for /metrics, /livez, /readyz and /status
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8480")]
    pub listen: String,
    /// File of the keys with which one may look, one a line: `name: key`; without it only this machine may
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Folder for the console's own store, emptied at start [default: one that goes at the end]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

/// What the console is given from outside.
pub struct ConsoleContext<'a> {
    pub connection: &'a Connection,
    pub settings: &'a Settings,
    /// Those of `topology/exemptions.yaml`; the topic's are read beside the blocklist.
    pub exemptions: Exemptions,
    pub clock: Arc<dyn Clock>,
    /// Ends the console when it becomes true.
    pub stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for ConsoleContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleContext").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// Reads the file of keys; none is needed where only this machine gets in.
///
/// # Errors
/// The file does not read, or the address is not this machine's alone and there is no file.
pub fn keys(args: &ConsoleArgs) -> Result<Option<Keys>> {
    let Some(path) = &args.keys else {
        let mut addresses =
            args.listen.to_socket_addrs().with_context(|| format!("--listen {}: no address", args.listen))?;
        if addresses.any(|address| !address.ip().is_loopback()) {
            bail!(
                "--listen {}: others reach this address, so the console needs --keys FILE; make a key with `openssl rand -hex 32`",
                args.listen
            );
        }
        return Ok(None);
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("the file of keys {}", path.display()))?;
    // Pages are not counted by account, so the rate is of no use here.
    let keys = Keys::parse(&text, Rate { per_second: 1 }).map_err(|what| anyhow!("{}: {what}", path.display()))?;
    Ok(Some(keys))
}

/// Answers until it is stopped. `page` makes the routes that every process shows; `listening` is told the address.
///
/// # Errors
/// The address cannot be listened on, the store cannot be made, the cluster cannot be read at start, or the client is
/// beyond repair.
pub fn run(
    args: &ConsoleArgs,
    keys: Option<Keys>,
    context: ConsoleContext<'_>,
    page: impl FnOnce(Arc<dyn Shown>) -> Result<Router>,
    listening: impl FnOnce(SocketAddr),
) -> Result<Ending> {
    let ConsoleContext { connection, settings, exemptions, clock, stop } = context;
    let folder = StoreFolder::new(args.store.as_deref())?;
    let disk = Disk::make(folder.path())?;
    let options = ConsoleOptions { keys, clock: Arc::clone(&clock) };
    let console = Arc::new(Console::new(Board::new(exemptions), disk, options));
    let probes = page(Arc::clone(&console) as Arc<dyn Shown>)?;
    // Before anybody can ask: from here on it is still reading, and not stale.
    console.heard();
    let routes = console_routes(Arc::clone(&console), probes);
    let serving = Serving::start(&args.listen, ("console", THREADS), routes, None, Arc::clone(&stop))?;
    listening(serving.address);
    let followed = follow(connection, settings, &console, &*clock, &stop);
    stop.store(true, Ordering::Relaxed);
    console.close();
    serving.end();
    followed.map(|()| Ending::Well)
}

fn follow(
    connection: &Connection,
    settings: &Settings,
    console: &Console,
    clock: &dyn Clock,
    stop: &AtomicBool,
) -> Result<()> {
    let mut reading = Reading::new(connection, settings)?;
    let (mut tick_at, mut ask_at, mut playbooks_at) = (Duration::ZERO, clock.elapsed() + ASK_EVERY, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let brought = reading.batch(console)?;
        let elapsed = clock.elapsed();
        if brought > 0 {
            console.heard();
        }
        if elapsed >= tick_at {
            tick_at = elapsed + TICK_EVERY;
            console.board_mut().tick(console.disk(), clock.now());
        }
        if elapsed >= playbooks_at || reading.playbooks_changed {
            playbooks_at = elapsed + PLAYBOOKS_EVERY;
            reading.show_playbooks(console, clock.now());
        }
        if elapsed >= ask_at {
            // A cluster that says nothing new must still say that it is there.
            match reading.follower.refresh() {
                Ok(()) => console.heard(),
                Err(error) => tracing::warn!(%error, "the cluster does not answer; what is shown grows old"),
            }
            ask_at = clock.elapsed() + ASK_EVERY;
        }
        console.set_partitions_behind(reading.follower.behind());
        console.tell()?;
    }
    Ok(())
}

/// The topics, and what of them is not the board's.
struct Reading {
    follower: Follower,
    /// Names in this cluster, beside those of the contract.
    topics: Vec<(String, &'static str)>,
    playbooks: OnTopic,
    playbooks_changed: bool,
}

impl Reading {
    fn new(connection: &Connection, settings: &Settings) -> Result<Self> {
        let names = TOPICS.into_iter().chain([PLAYBOOKS]);
        let topics: Vec<(String, &'static str)> = names.map(|name| (connection.topics.public(name), name)).collect();
        let all: Vec<String> = topics.iter().map(|(topic, _)| topic.clone()).collect();
        let follower = Follower::new(&connection.client, &all, ReadFrom::Start)?;
        Ok(Reading { follower, topics, playbooks: OnTopic::of_folder(settings)?, playbooks_changed: true })
    }

    /// Takes what is there, up to a limit; gives how many records that were.
    fn batch(&mut self, console: &Console) -> Result<usize> {
        let mut brought = 0;
        let mut wait = WAIT_MAX;
        while brought < BATCH_MAX {
            match self.follower.poll(wait)? {
                Followed::Record(record) => {
                    brought += 1;
                    self.take(console, &record)?;
                }
                Followed::CaughtUp => {
                    console.caught_up();
                    tracing::info!("the topics were read to the end that they had at start");
                }
                Followed::Idle => break,
            }
            wait = Duration::ZERO;
        }
        Ok(brought)
    }

    fn take(&mut self, console: &Console, record: &Incoming) -> Result<()> {
        let name = self.topics.iter().find(|(topic, _)| **topic == *record.part.topic).map(|(_, name)| *name);
        let Some(name) = name else { return Ok(()) };
        if name == PLAYBOOKS {
            self.playbooks.take(record);
            self.playbooks_changed = true;
            return Ok(());
        }
        let generation = record.header("generation").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let key = record.key.as_deref().unwrap_or_default();
        console.board_mut().take(console.disk(), name, key, record.value.as_deref(), generation)?;
        Ok(())
    }

    fn show_playbooks(&mut self, console: &Console, now: Millis) {
        self.playbooks_changed = false;
        let standing = self.playbooks.standing(now).into_iter().map(playbook_line).collect();
        let rejected =
            self.playbooks.rejected.iter().map(|of| format!("{} at offset {}: {}", of.key, of.offset, of.why));
        console.board_mut().set_playbooks(standing, rejected.collect());
    }
}

fn playbook_line(standing: Standing) -> PlaybookLine {
    let until = match &standing.origin {
        Origin::Override { until, .. } => Some(*until),
        Origin::Folder | Origin::Topic { .. } => None,
    };
    PlaybookLine {
        id: standing.playbook.id.clone(),
        version: standing.playbook.version,
        mode: standing.playbook.mode.as_str().to_owned(),
        origin: standing.origin.describe(),
        is_override: until.is_some(),
        until,
        description: standing.playbook.describe(),
        text: standing.playbook.read_aloud(),
        below: standing.below,
    }
}

/// Where the store lies: a folder that somebody named, or one that goes at the end.
#[derive(Debug)]
pub(super) struct StoreFolder {
    path: PathBuf,
    is_ours: bool,
}

impl StoreFolder {
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn new(named: Option<&Path>) -> Result<StoreFolder> {
        let (path, is_ours) = match named {
            // One level below, so that nothing that somebody keeps there is emptied.
            Some(named) => (named.join("portcullis-console"), false),
            None => (std::env::temp_dir().join(format!("portcullis-console-{}", super::run::new_instance())), true),
        };
        std::fs::create_dir_all(&path).with_context(|| format!("the console's store {}", path.display()))?;
        Ok(StoreFolder { path, is_ours })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StoreFolder {
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::debug!(%error, "the console's store stays");
        }
    }
}
