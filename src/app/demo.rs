//! `portcullis demo`: the night of 28 June 2019 through the real job, on librdkafka's mock cluster in this process.
//!
//! Everything but the brokers is real: the stages, their state in RocksDB, the topics, the file sink, and a simulated site
//! that obeys what it reads. The mock cluster keeps nothing and aborts nothing, so durability is no part of it.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rdkafka::mocking::MockCluster;

use super::clock::ProcessClock;
use super::console::{ConsoleArgs, ConsoleContext};
use super::live::{Live, Unread};
use super::receipts::ReceiptOptions;
use super::run::{Job, check_topics, new_instance, schemas};
use super::settings::Settings;
use super::simulate::{Lines, Watch, play};
use super::sink::{self, CommonArgs, EdgeArgs, FileArgs, SinkContext, Watched};
use super::{Connection, Ending, console, networks, telemetry, topology};
use crate::console::routes;
use crate::event::Millis;
use crate::event::wire::Format;
use crate::ingest::simulate::{Attacker, Edge, Options, Scenario, Simulation, Site, Summary};
use crate::log::kafka::topic_partitions;
use crate::log::{ClientOptions, Clock, Progress};
use crate::state::Folder;

/// Fewest partitions of a topic: the mock cluster keeps 5 MiB of each.
const PARTITIONS_MIN: i32 = 8;
/// Most published bytes that the job has not read, well below what the mock cluster keeps.
const UNREAD_BYTES_MAX: u64 = 2 << 20;
/// How long the job may take to be ready, and to work off the rest.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the view is drawn, and how often a line is logged where there is no terminal.
const DRAW_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Honest people known from before the night.
const HISTORY_MS: Millis = 14 * 86_400_000;
const AFTER_MS: Millis = 4 * 60_000;
/// The zone of the night, ahead of UTC.
const ZONE_MS: Millis = 2 * 3_600_000;

/// See the night of 28 June 2019 being found and stopped, in a minute
///
/// 43,387 accounts, one try each, some 700 addresses: the whole job runs in this process, on a mock of Kafka, and a
/// simulated site obeys the blocklist and the attack status. Needs no Kafka, no Java, no Docker.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  portcullis demo --seed 7 --edge login-page\n  portcullis demo --console 127.0.0.1:8480    and http://127.0.0.1:8480 in a browser"
)]
pub struct DemoArgs {
    /// Everything about the traffic follows from this number
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// How many times as fast as it happened
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub speed: u32,
    /// What stands in front of the login page: address-list refuses whoever comes from a blocked address, login-page
    /// lets known pairs pass
    #[arg(long, default_value = "address-list", value_name = "EDGE")]
    pub edge: Edge,
    /// How the attacker reacts: fixed, rotate, slow-down
    #[arg(long, default_value = "fixed", value_name = "HOW")]
    pub attacker: Attacker,
    /// Keep the enforced list of the file sink here; without it, it goes when the demo ends
    #[arg(long, value_name = "FILE")]
    pub blocked: Option<PathBuf>,
    /// Show the console here while it runs and after it, until Ctrl-C
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:8480")]
    pub console: Option<String>,
    /// File of the people who may act in it, as of `portcullis console`
    #[arg(long, value_name = "FILE", requires = "console")]
    pub operators: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub output: super::Output,
}

/// Plays the night.
///
/// # Errors
/// The mock cluster or the job does not come up, or something fails on the way.
pub fn run(args: &DemoArgs, settings: Settings, stop: Arc<AtomicBool>, out: &mut dyn Write) -> Result<Ending> {
    let folder = Temporary::new()?;
    let cluster = MockCluster::new(1).context("the mock cluster")?;
    let settings = Settings {
        client: ClientOptions::new(&cluster.bootstrap_servers()),
        registry: None,
        format: Format::Json,
        // The night begins at once, and nothing came before it.
        warm_up: false,
        ..settings
    };
    let topics = topology::topics(&settings)?;
    for topic in topics.all() {
        cluster
            .create_topic(&topic.name, topic.partitions.max(PARTITIONS_MIN), 1)
            .with_context(|| topic.name.clone())?;
    }
    let mut simulation = simulation(args)?;
    let clock = ProcessClock::stopped(simulation.from(), args.speed);
    let connection = Connection { client: settings.client.clone(), topics };
    let job = job(&settings, &connection, &clock, &stop)?;
    let stages = start_job(job.clone(), &folder.path().join("state"))?;
    let blocked = args.blocked.clone().unwrap_or_else(|| folder.path().join("blocked.jsonl"));
    let watched = Arc::new(Watched::default());
    let has_console = args.console.is_some();
    let sink = start_sink(&connection, &settings, &clock, &stop, &watched, (blocked.clone(), has_console))?;
    let shown = |listen| (listen, args.operators.as_deref());
    let console =
        args.console.as_deref().map(|listen| start_console(shown(listen), &connection, &settings, &clock, &stop));
    let console = console.transpose()?;
    wait_until_ready(&job.progress, &stop);

    let limit = Unread { progress: Arc::clone(&job.progress), bytes_max: UNREAD_BYTES_MAX };
    let mut live = Live::new(&connection, clock.clone(), 0, &stop, Some(limit))?;
    let mut site = Site::new("default", args.edge);
    let mut view = View::new(clock.clone(), simulation.from(), Arc::clone(&job.progress));
    let played = play(&mut simulation, &mut site, &mut live, &mut Lines::none(), &mut view);
    let heard = live.hear_out(&mut site, || job.progress.is_caught_up(), PATIENCE);
    let enforced = watched.get().sink.enforced;
    let is_over = played.is_ok() && heard.is_ok();
    if let (Some(listen), true) = (&args.console, is_over) {
        let summary = simulation.summary(&site);
        args.output.write(out, &summary, &report(&summary, args, &job, enforced, &blocked))?;
        out.flush()?;
        tracing::info!("the night is over; the console stays at http://{listen} until Ctrl-C");
        while !stop.load(Ordering::Relaxed) && !stages.is_finished() {
            thread::park_timeout(DRAW_EVERY);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let threads = [stages, sink].into_iter().chain(console);
    let ended = threads.map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
    ended.collect::<Result<Vec<()>>>()?;
    played?;
    heard?;
    if args.console.is_none() {
        let summary = simulation.summary(&site);
        args.output.write(out, &summary, &report(&summary, args, &job, enforced, &blocked))?;
    }
    Ok(Ending::Well)
}

fn simulation(args: &DemoArgs) -> Result<Simulation> {
    let options = Options {
        attacker: args.attacker,
        lead_in_ms: 0,
        after_ms: AFTER_MS,
        history_ms: HISTORY_MS,
        ..Options::default()
    };
    Ok(Simulation::new(Scenario::Night, args.seed, options)?)
}

fn job(settings: &Settings, connection: &Connection, clock: &ProcessClock, stop: &Arc<AtomicBool>) -> Result<Job> {
    let found = topic_partitions(&settings.client)?;
    check_topics(&connection.topics, &found)?;
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let (schemas, ids) = schemas(settings, &clock)?;
    Ok(Job {
        settings: settings.clone(),
        env: topology::env(settings, None)?,
        topics: connection.topics.clone(),
        found,
        clock,
        schemas,
        ids,
        progress: Arc::default(),
        networks: networks::watched(settings)?,
        stop: Arc::clone(stop),
        is_real: false,
    })
}

fn start_job(job: Job, state: &Path) -> Result<JoinHandle<Result<()>>> {
    let folder = Arc::new(Folder::take(state, &job.settings.application_id, &new_instance())?);
    Ok(thread::Builder::new().name("job".to_owned()).spawn(move || job.run(&folder, false))?)
}

fn start_sink(
    connection: &Connection,
    settings: &Settings,
    clock: &ProcessClock,
    stop: &Arc<AtomicBool>,
    watched: &Arc<Watched>,
    (file, has_console): (PathBuf, bool),
) -> Result<JoinHandle<Result<()>>> {
    let exemptions = topology::exemptions(settings)?;
    let (connection, clock) = (connection.clone(), clock.clone());
    let (stop, watched) = (Arc::clone(stop), Arc::clone(watched));
    // Only a console asks where a block is in force, and the mock's partitions are small.
    let sink_name = has_console.then(|| "demo-file".to_owned());
    let common = CommonArgs { all_tenants: true, no_receipts: !has_console, sink_name, ..CommonArgs::default() };
    let edge = EdgeArgs::File(FileArgs { file, common });
    Ok(thread::Builder::new().name("sink".to_owned()).spawn(move || {
        let context = SinkContext {
            connection: &connection,
            exemptions,
            clock: || clock.now(),
            stop: &stop,
            watched: &watched,
            receipts: ReceiptOptions::default(),
            networks: Arc::default(),
        };
        sink::run(&edge, context, &mut std::io::sink()).map(|_| ())
    })?)
}

/// Ends by itself only with the demo.
fn start_console(
    (listen, operators): (&str, Option<&Path>),
    connection: &Connection,
    settings: &Settings,
    clock: &ProcessClock,
    stop: &Arc<AtomicBool>,
) -> Result<JoinHandle<Result<()>>> {
    let listen = listen.to_owned();
    let operators = operators.map(Path::to_path_buf);
    let args = ConsoleArgs { listen, keys: None, operators, session_key: None, store: None };
    let admitted = console::admitted(&args)?;
    let exemptions = topology::exemptions(settings)?;
    let (connection, settings, clock, stop) = (connection.clone(), settings.clone(), clock.clone(), Arc::clone(stop));
    Ok(thread::Builder::new().name("console".to_owned()).spawn(move || {
        let context = ConsoleContext {
            connection: &connection,
            settings: &settings,
            exemptions,
            clock: Arc::new(clock),
            stop: Arc::clone(&stop),
        };
        let page = |shown| Ok(routes(telemetry::metrics()?, shown));
        let told = |address| tracing::info!("the console is at http://{address}");
        // Without it there is nothing to see, so the demo ends with it.
        let ended = console::run(&args, admitted, context, page, told);
        stop.store(true, Ordering::Relaxed);
        ended.map(|_| ())
    })?)
}

fn wait_until_ready(progress: &Progress, stop: &AtomicBool) {
    let clock = ProcessClock::real();
    while !progress.is_ready() && !stop.load(Ordering::Relaxed) && clock.elapsed() < PATIENCE {
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// What a person sees while it runs: a few lines that change, or a line of the log now and then.
struct View {
    clock: ProcessClock,
    from: Millis,
    progress: Arc<Progress>,
    bar: ProgressBar,
    drawn_at: Duration,
}

impl View {
    fn new(clock: ProcessClock, from: Millis, progress: Arc<Progress>) -> View {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1_000), target);
        let style = ProgressStyle::with_template("{msg}\n{wide_bar}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        View { clock, from, progress, bar, drawn_at: Duration::ZERO }
    }
}

impl Watch for View {
    fn is_at(&mut self, at: Millis, ends_at: Millis, site: &Site) {
        if at < self.from {
            if self.drawn_at.is_zero() {
                self.drawn_at = self.clock.elapsed();
                tracing::info!("two weeks of honest logins first, so that people are known");
            }
            return;
        }
        let every = if self.bar.is_hidden() { LINE_EVERY } else { DRAW_EVERY };
        if self.clock.elapsed().saturating_sub(self.drawn_at) < every {
            return;
        }
        self.drawn_at = self.clock.elapsed();
        let tally = site.tally();
        let counts = self.progress.counts();
        let (attack, honest) = (&tally.attack, &tally.honest);
        let state = tally.found_at.map_or_else(|| "calm".to_owned(), |at| format!("ATTACK since {}", time_of(at)));
        if self.bar.is_hidden() {
            tracing::info!(
                attempts = attack.all(),
                through = attack.through,
                challenged = attack.challenged,
                refused = attack.blocked,
                honest = honest.all(),
                honest_refused = honest.blocked,
                blocks = tally.blocks,
                fallen = tally.fallen.len(),
                "{}  {state}",
                time_of(at)
            );
            return;
        }
        let mut text = format!("{}  {state}\n", time_of(at));
        let _written = writeln!(
            text,
            "attack   {:>6} attempts   {:>6} let through   {:>6} challenged   {:>6} refused",
            attack.all(),
            attack.through,
            attack.challenged,
            attack.blocked
        );
        let _written = writeln!(
            text,
            "people   {:>6} attempts   {:>6} failed in all  {:>6} challenged   {:>6} refused",
            honest.all(),
            counts.get(crate::engine::Counter::Failures),
            honest.challenged + honest.passed,
            honest.blocked
        );
        let _written =
            writeln!(text, "blocks   {:>6} of {} addresses seen attacking", tally.sources_refused, tally.sources);
        for fallen in &tally.fallen {
            let flagged =
                fallen.flagged_at.map_or_else(|| "not flagged yet".to_owned(), |at| format!("flagged {}", time_of(at)));
            let _written = writeln!(text, "fell     {} at {}, {flagged}", fallen.account, time_of(fallen.at));
        }
        let share = at.saturating_sub(self.from) * 1_000 / ends_at.saturating_sub(self.from).max(1);
        self.bar.set_position(share.clamp(0, 1_000).unsigned_abs());
        self.bar.set_message(text.trim_end().to_owned());
    }

    fn done(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Hours, minutes and seconds in the zone of the night.
fn time_of(at: Millis) -> String {
    let seconds = at.saturating_add(ZONE_MS).div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

fn report(summary: &Summary, args: &DemoArgs, job: &Job, enforced: usize, blocked: &Path) -> String {
    let counts: Vec<String> =
        job.progress.counts().iter().map(|(counter, n)| format!("{} {n}", counter.as_str())).collect();
    let list = if args.blocked.is_some() { format!(", in {}", blocked.display()) } else { String::new() };
    format!(
        "The night of 28 June 2019, at {} times its speed (times in UTC; 02:40 in Paris is 00:40)\n\n{}\n\
         job           {}\n\
         file sink     {enforced} entries enforced at the end{list}\n\n\
         This ran on a mock cluster in one process. It keeps nothing and aborts nothing: durability was not part of this \
         run.\nFor the real thing: docker compose up, or portcullis topics apply && portcullis run.",
        args.speed,
        summary.tally,
        counts.join(", ")
    )
}

/// A folder that goes when the demo ends.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Temporary> {
        let path = std::env::temp_dir().join(format!("portcullis-demo-{}", new_instance()));
        std::fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Temporary(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the demo's folder stays");
        }
    }
}
