//! `portcullis run`: the four stages as threads of one consumer group.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use super::clock::ProcessClock;
use super::settings::{GroupProtocolName, Settings};
use super::{networks, telemetry, topology};
use crate::console::Shown;
use crate::engine::Env;
use crate::event::wire::{Encoder, Format, SchemaIds};
use crate::log::kafka::{KafkaLog, topic_partitions};
use crate::log::options::{GroupProtocol, KafkaOptions, Membership};
use crate::log::registry::{Registry, RegistryOptions, SharedRegistry, register_outputs};
use crate::log::{Clock, Error, Parts, Progress, Schemas, StageLoop, StageOptions, Stores, Wiring, subscription};
use crate::state::{self, Folder, RocksStore, Shared};
use crate::topology::networks::CurrentNetworks;
use crate::topology::{Stage, Topics};

/// Run the job: read login events, keep state, publish verdicts and the blocklist
///
/// Start it as often as you like, each with a state folder of its own: all instances share the work. Stop it with
/// SIGTERM; it commits what is in hand first. One that is started again within session_timeout goes on with its tasks as
/// if nothing had been; one that shall not come back is started with --leave-on-stop.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  portcullis topics apply && portcullis run --state-dir /var/lib/portcullis --listen 127.0.0.1:9644"
)]
pub struct RunArgs {
    /// Folder for the state; one per instance [default: portcullis-state]
    #[arg(long, env = "PORTCULLIS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Address for /metrics, /livez, /readyz and /status [default: none]
    #[arg(long, env = "PORTCULLIS_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Stage threads of this process [default: 1]
    #[arg(long, env = "PORTCULLIS_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// When stopped, give the tasks to the other instances at once; without it they wait for a restart for the length of
    /// a session, and nothing moves
    #[arg(long)]
    pub leave_on_stop: bool,
    /// Let playbooks act from the first event on; without it a playbook says in shadow what it would do until its window
    /// was kept for its whole length since the state began
    #[arg(long)]
    pub no_warm_up: bool,
    /// Where input was deleted before it was read, go on with what is there; without it such a gap is an error, since
    /// what it would have told is lost
    #[arg(long)]
    pub skip_lost_input: bool,
    /// End once everything there was has been worked off
    #[arg(long)]
    pub until_caught_up: bool,
}

/// What a row takes in hand, about: half of `cache_mib` goes to such rows, the other half to RocksDB.
const ROW_BYTES: usize = 512;
/// Between two looks at how far restores are.
const SHOW_EVERY: std::time::Duration = std::time::Duration::from_millis(100);
/// With `--until-caught-up`: how long nothing must have happened.
const QUIET: std::time::Duration = std::time::Duration::from_secs(2);

/// Everything that the threads of a job share.
#[derive(Clone)]
pub struct Job {
    pub settings: Settings,
    pub env: Arc<Env>,
    pub topics: Topics,
    /// Partitions of every topic that exists.
    pub found: BTreeMap<String, i32>,
    pub clock: Arc<dyn Clock>,
    pub schemas: Arc<dyn Schemas>,
    pub ids: SchemaIds,
    pub progress: Arc<Progress>,
    /// What is known of networks, as the files say it now.
    pub networks: Arc<CurrentNetworks>,
    pub stop: Arc<AtomicBool>,
    /// Whether the cluster is a real one: the mock one knows no static members, and its aborts do nothing.
    pub is_real: bool,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Runs until it is told to stop.
///
/// # Errors
/// A setting, a topic or the state is wrong, or a thread ended with an error.
pub fn run(args: &RunArgs, settings: Settings, stop: Arc<AtomicBool>) -> Result<()> {
    let wrong = |e: anyhow::Error| Error::Setup(format!("{e:#}"));
    let env = topology::env(&settings, None).map_err(wrong)?;
    let topics = topology::topics(&settings).map_err(wrong)?;
    if settings.hash_key_is_derived {
        tracing::warn!("hash_key is not set: whoever knows the application id can choose names that collide");
    }
    let found = topic_partitions(&settings.client)?;
    check_topics(&topics, &found)?;
    let folder = Folder::take(&settings.state_dir, &settings.application_id, &new_instance())?;
    let metrics = telemetry::metrics()?;
    let progress = Arc::new(Progress::default());
    if let Some(listen) = &settings.listen {
        let address = telemetry::serve(listen, metrics, Arc::clone(&progress) as Arc<dyn Shown>)?;
        tracing::info!(%address, "serving /metrics, /livez, /readyz and /status");
    }
    let clock: Arc<dyn Clock> = Arc::new(ProcessClock::real());
    let (schemas, ids) = schemas(&settings, &clock)?;
    let networks = networks::watched(&settings).map_err(wrong)?;
    let job = Job { settings, env, topics, found, clock, schemas, ids, progress, networks, stop, is_real: true };
    let result = job.run(&Arc::new(folder), args.until_caught_up);
    let counts: Vec<String> =
        job.progress.counts().iter().map(|(counter, n)| format!("{} {n}", counter.as_str())).collect();
    tracing::info!(counts = counts.join(", "), "ended");
    result
}

impl Job {
    /// Starts the threads and waits for their end. The first error stops all.
    ///
    /// # Errors
    /// That of the first thread that failed.
    pub fn run(&self, folder: &Arc<Folder>, until_caught_up: bool) -> Result<()> {
        let shared = Shared::new((self.settings.cache_mib << 20) / 2);
        let failed: Arc<Mutex<Option<Error>>> = Arc::default();
        let mut threads = Vec::new();
        for number in 0..self.settings.threads {
            let (job, folder, shared, failed) = (self.clone(), Arc::clone(folder), shared.clone(), Arc::clone(&failed));
            let stages = thread::Builder::new().name(format!("stages-{number}"));
            threads.push(stages.spawn(move || {
                if let Err(error) = job.stages(number, &folder, shared, until_caught_up) {
                    tracing::error!(thread = number, %error, "stage thread ended");
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
                job.stop.store(true, Ordering::Relaxed);
            })?);
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let shower = self.show_restores(&is_over)?;
        let ended: Vec<_> = threads.into_iter().map(thread::JoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        shower.thread().unpark();
        if ended.into_iter().chain([shower.join()]).any(|ended| ended.is_err()) {
            return Err(anyhow!("a thread panicked; the log above has its words"));
        }
        let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// How far restores are, for whoever waits for them, until `is_over`.
    fn show_restores(&self, is_over: &Arc<AtomicBool>) -> std::io::Result<thread::JoinHandle<()>> {
        let (progress, clock, is_over) = (Arc::clone(&self.progress), Arc::clone(&self.clock), Arc::clone(is_over));
        thread::Builder::new().name("restores".to_owned()).spawn(move || {
            let mut shown: Option<super::progress::Progress> = None;
            while !is_over.load(Ordering::Relaxed) {
                match progress.restored_of() {
                    Some((done, of)) if of > 0 => {
                        let shown =
                            shown.get_or_insert_with(|| super::progress::Progress::of_records("restoring state", of));
                        shown.of(of);
                        shown.at(0, done, clock.now());
                    }
                    Some(_) => {}
                    None => shown.take().into_iter().for_each(super::progress::Progress::end),
                }
                thread::park_timeout(SHOW_EVERY);
            }
        })
    }

    fn membership(&self) -> Membership {
        let settings = &self.settings;
        let session_timeout = std::time::Duration::from_millis(settings.session_timeout_ms);
        let protocol = match settings.group_protocol {
            GroupProtocolName::Classic => GroupProtocol::Classic { session_timeout },
            GroupProtocolName::Consumer => GroupProtocol::Consumer,
        };
        Membership { protocol, is_static: self.is_real && !settings.leave_on_stop }
    }

    /// One thread: its log, its loop.
    fn stages(&self, number: usize, folder: &Arc<Folder>, shared: Shared, until_caught_up: bool) -> Result<(), Error> {
        let member = format!("{}{}-{number}", self.topics.transactional_prefix(), folder.instance());
        let options = KafkaOptions {
            client: self.settings.client.clone(),
            group: self.topics.group(),
            member,
            topics: subscription(&self.topics),
            changelogs: Stage::ALL.into_iter().map(|stage| self.topics.changelog(stage)).collect(),
            membership: self.membership(),
            may_abort: self.is_real,
        };
        let log = KafkaLog::new(options, Arc::clone(&self.clock))?;
        let encoder = Encoder::new(self.settings.format, self.ids).map_err(|e| Error::Setup(e.to_string()))?;
        let partitions = Stage::ALL
            .into_iter()
            .map(|stage| (stage, self.found.get(&self.topics.input(stage)).copied().unwrap_or(1)));
        let wiring = Wiring { topics: self.topics.clone(), encoder, partitions: partitions.collect() };
        let mut env = Env::clone(&self.env);
        let source_partitions = wiring.partitions.get(&Stage::Source).copied().unwrap_or(1);
        env.limits.source_partitions = u32::try_from(source_partitions).unwrap_or(1);
        let account_partitions = wiring.partitions.get(&Stage::Account).copied().unwrap_or(1);
        env.limits.account_partitions = u32::try_from(account_partitions).unwrap_or(1);
        env.limits.warms_up = self.settings.warm_up;
        let mut stages = StageLoop::new(
            log,
            Parts {
                env: Arc::new(env),
                wiring: Arc::new(wiring),
                stores: Box::new(OnDisk { folder: Arc::clone(folder), shared }),
                schemas: Arc::clone(&self.schemas),
                clock: Arc::clone(&self.clock),
                progress: Arc::clone(&self.progress),
                networks: Arc::clone(&self.networks),
                options: StageOptions {
                    application_id: self.settings.application_id.clone(),
                    commit_interval: std::time::Duration::from_millis(self.settings.commit_interval_ms),
                    backlog_commit_interval: std::time::Duration::from_millis(self.settings.backlog_commit_interval_ms),
                    tenant: self.settings.input_tenant.clone(),
                    rows_in_hand: (self.settings.cache_mib << 20) / 2 / ROW_BYTES / self.settings.threads,
                },
            },
        );
        if self.settings.skip_lost_input {
            stages = stages.skip_lost_input();
        }
        let (mut counts, mut changed_at) = (self.progress.counts(), self.clock.elapsed());
        while !self.stop.load(Ordering::Relaxed) {
            stages.turn()?;
            if until_caught_up {
                let now = self.progress.counts();
                if now != counts || !self.progress.is_ready() {
                    (counts, changed_at) = (now, self.clock.elapsed());
                }
                // Between two stages there is always a moment in which neither has anything to do.
                if self.clock.elapsed().saturating_sub(changed_at) > QUIET && self.progress.is_caught_up() {
                    break;
                }
            }
        }
        stages.finish()
    }
}

/// Stores in the state folder.
struct OnDisk {
    folder: Arc<Folder>,
    shared: Shared,
}

impl Stores for OnDisk {
    fn open(&mut self, stage: Stage, partition: i32) -> Result<Box<dyn state::Store>, state::Error> {
        let path = self.folder.task(stage, partition);
        std::fs::create_dir_all(&path)
            .map_err(|e| state::Error::Unusable { path: path.display().to_string(), what: e.to_string() })?;
        Ok(Box::new(RocksStore::open(&path, &self.shared)?))
    }

    fn wipe(&mut self, stage: Stage, partition: i32) -> Result<(), state::Error> {
        let path = self.folder.task(stage, partition);
        std::fs::remove_dir_all(&path)
            .map_err(|e| state::Error::Unusable { path: path.display().to_string(), what: e.to_string() })
    }
}

/// Where writer schemas come from, and the ids of our own: a registry when one is set, else those of the settings.
///
/// # Errors
/// The registry does not take our schemas.
pub fn schemas(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<(Arc<dyn Schemas>, SchemaIds)> {
    let options = settings.registry.as_deref().map(RegistryOptions::new);
    let ids = match &options {
        Some(options) if settings.format == Format::Avro => register_outputs(options, &settings.topic_prefix)?,
        Some(_) | None => SchemaIds::default(),
    };
    let registry = Registry::new(options, &settings.schema_ids);
    Ok((Arc::new(SharedRegistry::new(registry, Arc::clone(clock))), ids))
}

/// `run` makes no topics: it says what is missing and what to type.
pub(super) fn check_topics(topics: &Topics, found: &BTreeMap<String, i32>) -> Result<()> {
    let missing: Vec<String> =
        topics.all().into_iter().map(|t| t.name).filter(|name| !found.contains_key(name)).collect();
    if !missing.is_empty() {
        return Err(
            Error::Setup(format!("topics are missing: {}\ntype: portcullis topics apply", missing.join(", "))).into()
        );
    }
    for stage in Stage::ALL {
        let (input, changelog) = (topics.input(stage), topics.changelog(stage));
        let count = |name: &str| found.get(name).copied().unwrap_or_default();
        if count(&changelog) < count(&input) {
            return Err(Error::Setup(format!(
                "{input} has {} partitions and {changelog} only {}: every task needs one of its own\n\
                 set the partitions of login-events in topology/topics.yaml to {}, then type: portcullis topics apply",
                count(&input),
                count(&changelog),
                count(&input)
            ))
            .into());
        }
    }
    Ok(())
}

/// A name that no other instance has.
pub(super) fn new_instance() -> String {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{random:016x}")
}

/// Sets the flag on SIGTERM and SIGINT; a second signal ends the process at once.
///
/// # Errors
/// The signals cannot be listened to.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).context("signals")?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("signals")?;
    }
    Ok(stop)
}
