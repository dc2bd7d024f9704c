//! `portcullis notify`: people are told of incidents, by Slack, by webhook and by mail.
//!
//! ```text
//! incidents ──▶ Follower ──▶ Incidents ──▶ a thread for each destination ──▶ its ledger, its receiver
//! ```
//!
//! The topic is read from its start; nothing is told before it was read to the end that it had at start, so that what
//! is over by now is not told as news.

mod settings;
mod watched;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

pub use settings::{DESTINATIONS_MAX, NotifySettings};
pub use watched::{NotifyStatus, NotifyWatched};

use super::{Connection, Ending, Output};
use crate::console::text::Plain;
use crate::event::Millis;
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::notify::{
    Destination, Incidents, Ledger, LedgerFile, NEWS_AGE_MAX_MS, Plan, SHIPPED, Store, Templates, sample,
};

/// Longest wait for a record; a stop is seen after it.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Longest wait of a destination before it looks again; a stop is seen after it.
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Most records taken before anything else is done.
const BATCH_MAX: usize = 5_000;
/// How often it is looked whether topics have more partitions now, and what is over is forgotten, in milliseconds.
const REFRESH_MS: Millis = 30_000;
/// How long deliveries that are under way at a stop may take.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Most messages that `--dry-run` prints of one destination.
const PRINTED_MAX: usize = 100;

const EXAMPLES: &str = "Examples:
  portcullis notify --config notify.yaml test                        a sample to every destination
  portcullis notify --config notify.yaml --dry-run                   what would be sent now
  portcullis notify --config notify.yaml --state-dir /var/lib/portcullis
  portcullis notify templates /etc/portcullis/templates              the shipped templates, to be changed

notify.yaml:
  console: https://portcullis.example.com          # for links to reports
  templates: /etc/portcullis/templates             # what is not in it is the shipped one
  destinations:
    - name: security
      slack: { url_file: /etc/portcullis/slack-url }
      severity: HIGH                               # from here on; and tenants: [shop]
    - name: soc
      webhook: { url: https://soc.example.com/portcullis, secret_file: /etc/portcullis/soc-secret }
    - name: on-call
      mail: { host: smtp.example.com, user: portcullis, password_file: /etc/portcullis/smtp-password,
              from: Portcullis <portcullis@example.com>, to: [on-call@example.com] }
      digest: never                                # default 20m after the last message, then twice as long, at most 4h
      at_most: { messages: 10, then_every: 30s }   # beyond it, several incidents share a message
      timeout: 10s

A webhook is signed as Standard Webhooks has it: the header webhook-signature is `v1,` and the base64 of the HMAC-SHA256,
by the key of secret_file, of `webhook-id.webhook-timestamp.body`. A message that comes twice has the same webhook-id.";

/// Tell people of incidents: by Slack, by webhook, by mail
///
/// One message when an incident opens, one when accounts fall, when it gets more severe and when it ends, and now and
/// then the figures. Follows the topic `incidents`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = false)]
pub struct NotifyArgs {
    #[command(subcommand)]
    pub what: Option<NotifyCommand>,
    /// Who is told, and how (YAML)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder for what was told [default: portcullis-state]
    #[arg(long, global = true, env = "PORTCULLIS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Address for /metrics, /livez, /readyz and /status [default: none]
    #[arg(long, env = "PORTCULLIS_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Print what would be sent now, and end
    #[arg(long)]
    pub dry_run: bool,
    /// How `--dry-run` and `test` print
    #[arg(long, global = true, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Send a sample to every destination, and say what became of it
    #[command(after_help = "Example:\n  portcullis notify --config notify.yaml test --destination on-call")]
    Test(TestArgs),
    /// Write the shipped templates into a folder; what is there already stays
    #[command(after_help = "Example:\n  portcullis notify templates /etc/portcullis/templates")]
    Templates(TemplatesArgs),
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// This destination alone
    #[arg(long, value_name = "NAME")]
    pub destination: Option<String>,
}

#[derive(Debug, Args)]
pub struct TemplatesArgs {
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// What it is given from outside.
pub struct NotifyContext<'a> {
    pub connection: &'a Connection,
    /// Below it, what was told lies in `notify`.
    pub state_dir: &'a Path,
    /// The clock of the process.
    pub clock: Arc<dyn Fn() -> Millis + Send + Sync>,
    /// Ends it when it becomes true.
    pub stop: Arc<AtomicBool>,
    pub watched: Arc<NotifyWatched>,
}

impl std::fmt::Debug for NotifyContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NotifyContext").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// Reads the file of `--config`, and the templates that it names.
///
/// # Errors
/// What is wrong, and where.
pub fn settings(args: &NotifyArgs) -> Result<(NotifySettings, Arc<Templates>)> {
    let path = args.config.as_deref().context("--config FILE is needed; `portcullis notify --help` has an example")?;
    let settings = NotifySettings::load(path)?;
    let sample = sample("sample", settings.console.as_deref(), 0);
    let templates = Templates::load(settings.templates.as_deref(), &sample)?;
    Ok((settings, Arc::new(templates)))
}

/// Tells until it is stopped; or prints what it would tell (`--dry-run`).
///
/// # Errors
/// What was told cannot be read, or another process holds it; the cluster cannot be read at start, or the client is
/// beyond repair. What goes wrong at a destination is told, counted and tried again.
pub fn run(
    args: &NotifyArgs,
    (settings, templates): (NotifySettings, Arc<Templates>),
    context: NotifyContext<'_>,
    out: &mut dyn Write,
) -> Result<Ending> {
    let folder = context.state_dir.join("notify");
    let store = if args.dry_run { None } else { Some(Store::open(&folder)?) };
    let shipped = Arc::new(Templates::load(None, &sample("sample", None, 0))?);
    let now = (context.clock)();
    let mut destinations = Vec::new();
    for (wish, channel) in settings.destinations {
        let file = store
            .as_ref()
            .map_or_else(|| LedgerFile::new(&folder, &wish.destination), |store| store.ledger(&wish.destination));
        let ledger = match file.load()? {
            Some(ledger) => ledger,
            None => {
                let ledger = Ledger::new(now);
                // What is over before this moment is told to nobody, however often it is started.
                if store.is_some() {
                    file.save(&ledger)?;
                }
                ledger
            }
        };
        let file = store.is_some().then_some(file);
        destinations.push(Destination::new(wish, channel, [&templates, &shipped], ledger, file));
    }
    if args.dry_run {
        return dry_run(args, destinations, &context, out);
    }
    tell(destinations, &context)
}

/// Sends a sample to each destination, or to the one that is named.
///
/// # Errors
/// There is no such destination.
pub fn test(
    args: &NotifyArgs,
    named: &TestArgs,
    (settings, templates): (NotifySettings, Arc<Templates>),
    clock: &dyn Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    let is_meant = |name: &str| named.destination.as_deref().is_none_or(|named| named == name);
    if !settings.destinations.iter().any(|(wish, _)| is_meant(&wish.destination)) {
        bail!("there is no destination `{}` in the file", named.destination.as_deref().unwrap_or_default());
    }
    let mut ending = Ending::Well;
    for (wish, channel) in &settings.destinations {
        let name = &wish.destination;
        if !is_meant(name) {
            continue;
        }
        let now = clock();
        let message = sample(name, settings.console.as_deref(), now);
        let sent = channel
            .render(&templates, &message)
            .map_err(|error| error.to_string())
            .and_then(|rendered| channel.send(&message, rendered, now).map_err(|failure| failure.why));
        let (is_sent, text) = match &sent {
            Ok(()) => (true, format!("{name}: sent by {}", channel.kind())),
            Err(why) => (false, format!("{name}: not sent by {}: {why}", channel.kind())),
        };
        if !is_sent {
            ending = Ending::Different;
        }
        let answer = serde_json::json!({
            "destination": name, "kind": channel.kind(), "sent": is_sent, "why": sent.err(), "id": message.id,
        });
        args.output.write(out, &answer, &text)?;
    }
    Ok(ending)
}

/// Writes the shipped templates into a folder.
///
/// # Errors
/// The folder or a file cannot be written.
pub fn templates(args: &TemplatesArgs, out: &mut dyn Write) -> Result<Ending> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    for (name, text) in SHIPPED {
        let path = folder.join(name);
        if path.exists() {
            writeln!(out, "{} stays as it is", path.display())?;
        } else {
            std::fs::write(&path, text).with_context(|| format!("the template {}", path.display()))?;
            writeln!(out, "{} written", path.display())?;
        }
    }
    Ok(Ending::Well)
}

fn follower(context: &NotifyContext<'_>) -> Result<Follower> {
    let topic = context.connection.topics.public("incidents");
    Ok(Follower::new(&context.connection.client, &[topic], ReadFrom::Start)?)
}

fn dry_run(
    args: &NotifyArgs,
    destinations: Vec<Destination>,
    context: &NotifyContext<'_>,
    out: &mut dyn Write,
) -> Result<Ending> {
    let mut incidents = Incidents::default();
    follower(context)?.to_end(|record| {
        incidents.take(record.key.as_deref().unwrap_or_default(), record.value.as_deref());
        anyhow::Ok(())
    })?;
    let mut printed = 0_usize;
    for mut destination in destinations {
        let now = (context.clock)();
        for _ in 0..PRINTED_MAX {
            if destination.plan(&incidents, now) != Plan::Deliver {
                break;
            }
            let Some((message, rendered)) = destination.pretend(now) else { break };
            printed += 1;
            let answer =
                serde_json::json!({ "destination": destination.name(), "message": message, "rendered": rendered });
            let text = format!("{}, {}:\n{}", destination.name(), message.id, watched::shown(&rendered));
            args.output.write(out, &answer, &text)?;
        }
    }
    if printed == 0 && args.output == Output::Text {
        writeln!(
            out,
            "nothing would be sent: {} incidents are on the topic, and none of them is news",
            incidents.len()
        )?;
    }
    Ok(Ending::Well)
}

fn tell(destinations: Vec<Destination>, context: &NotifyContext<'_>) -> Result<Ending> {
    let (ended, all_ended) = mpsc::channel::<()>();
    let panicked = Arc::new(AtomicBool::new(false));
    for mut destination in destinations {
        let name = destination.name().to_owned();
        let (watched, clock, stop) =
            (Arc::clone(&context.watched), Arc::clone(&context.clock), Arc::clone(&context.stop));
        // Dropped when the thread ends, however it ends.
        let life = Life { _ended: ended.clone(), panicked: Arc::clone(&panicked), stop: Arc::clone(&context.stop) };
        watched.set(&name, destination.status());
        std::thread::Builder::new().name(format!("to {}", Plain::name(&name))).spawn(move || {
            let _life = life;
            serve(&mut destination, &watched, &*clock, &stop);
        })?;
    }
    drop(ended);
    let followed = follow(context);
    context.stop.store(true, Ordering::Relaxed);
    context.watched.wake();
    // A receiver that hangs holds up no stop: its message is tried again at the next start.
    if all_ended.recv_timeout(DRAIN_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
        tracing::warn!("a delivery was still under way at the stop; it is tried again at the next start");
    }
    followed?;
    if panicked.load(Ordering::Relaxed) {
        bail!("a destination ended by a panic, which the log tells; what it was to be told is told at the next start");
    }
    Ok(Ending::Well)
}

/// A destination whose thread has panicked would be told nothing more, and nobody would notice: then all of it ends.
struct Life {
    _ended: mpsc::Sender<()>,
    panicked: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.panicked.store(true, Ordering::Relaxed);
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// The life of one destination.
fn serve(destination: &mut Destination, watched: &NotifyWatched, clock: &dyn Fn() -> Millis, stop: &AtomicBool) {
    let name = destination.name().to_owned();
    while !stop.load(Ordering::Relaxed) {
        let plan = watched.with_incidents(|incidents| destination.plan(incidents, clock()));
        match plan {
            None => watched.wait(LOOK_MAX),
            Some(Plan::Deliver) => destination.deliver(clock),
            Some(Plan::Wait(until)) => {
                watched.set(&name, destination.status());
                let left = until.map_or(Millis::MAX, |until| until.saturating_sub(clock())).max(0);
                watched.wait(LOOK_MAX.min(Duration::from_millis(left.unsigned_abs())));
            }
        }
        watched.set(&name, destination.status());
    }
}

fn follow(context: &NotifyContext<'_>) -> Result<()> {
    let (clock, watched) = (&context.clock, &context.watched);
    let mut follower = follower(context)?;
    let mut refresh_at = clock().saturating_add(REFRESH_MS);
    while !context.stop.load(Ordering::Relaxed) {
        let mut wait = WAIT_MAX;
        let mut records = Vec::new();
        let mut caught_up = false;
        while records.len() < BATCH_MAX {
            match follower.poll(wait)? {
                Followed::Record(record) => records.push(record),
                Followed::CaughtUp => caught_up = true,
                Followed::Idle => break,
            }
            wait = Duration::ZERO;
        }
        watched.take(&records);
        if caught_up {
            watched.caught_up();
            tracing::info!(incidents = watched.get().incidents, "the topic was read to the end that it had at start");
        }
        let now = clock();
        if now >= refresh_at {
            refresh_at = now.saturating_add(REFRESH_MS);
            watched.forget_over(now.saturating_sub(2 * NEWS_AGE_MAX_MS));
            if let Err(e) = follower.refresh() {
                tracing::warn!(error = %e, "it cannot be seen whether partitions were added");
            }
        }
        watched.read(follower.behind(), follower.failures());
    }
    Ok(())
}
