//! `portcullis ingest`: the HTTP door for login events.
//!
//! ```text
//! publishers ──▶ Gateway ──▶ Deliverer ──▶ login-events
//! ```
//!
//! One thread tells deliveries, one asks a cluster that was away whether it is back, and any number answer. While the
//! cluster is away nobody is made to wait: everything is answered 503.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use axum::Router;
use clap::Args;
use metrics::{counter, gauge};

use super::serving::{Serving, TlsArgs};
use super::{Connection, Ending};
use crate::console::Shown;
use crate::ingest::adapters::Adapters;
use crate::ingest::gateway::{self, Gateway, GatewayOptions, Limits, Sources};
use crate::log::deliver::{DELIVERIES_MAX, Deliverer};
use crate::log::{Clock, Error};

/// Longest wait for a delivery; a stop is seen after it.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// Between two questions to a cluster that is away.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How much longer than a delivery may take the last ones are waited for at a stop.
const DRAIN_MORE: Duration = Duration::from_secs(1);
const THREADS_MAX: usize = 64;
const MEBIBYTE: usize = 1 << 20;

const EXAMPLES: &str = "Example:
  TOKEN=$(openssl rand -hex 32)
  cat > sources.yaml <<EOF
  sources:
    - name: shop-web
      tenants: [shop]
      bearer_sha256: $(printf %s \"$TOKEN\" | sha256sum | cut -d' ' -f1)
  EOF
  portcullis ingest --sources sources.yaml
  curl localhost:8490/v1/events -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' -d '{...}'

202 means that every event is on the topic; 207, that some are, with the others in the body; 429 and 503, to send the
request again after Retry-After seconds. GET /v1/openapi.json says everything.";

/// Take login events over HTTP and publish them
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct IngestArgs {
    /// Address for events, and for /metrics, /livez, /readyz and /status
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8490")]
    pub listen: String,
    /// File of those who may send (YAML): names, tenants, hashes of tokens or files of secrets
    #[arg(long, value_name = "FILE")]
    pub sources: PathBuf,
    /// Folder of mappings (*.yaml) for further producers, or in the place of those that come along
    #[arg(long, value_name = "DIR")]
    pub mappings: Option<PathBuf>,
    /// Largest body of a request, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub body_limit: u16,
    /// Bodies that are worked on at a time, in MiB; beyond it, 503
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub memory: u16,
    /// Events that wait for the cluster at a time; beyond it, 503
    #[arg(long, value_name = "NUMBER", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1_000..=DELIVERIES_MAX as i64))]
    pub queue: u32,
    /// Seconds that the cluster may take to confirm an event; then the request is answered 503
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=300))]
    pub patience: u16,
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

/// What the gateway is given from outside.
pub struct IngestContext<'a> {
    pub connection: &'a Connection,
    pub sources: Sources,
    pub adapters: Adapters,
    /// The clock of the process.
    pub clock: Arc<dyn Clock>,
    /// Ends the gateway when it becomes true.
    pub stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for IngestContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IngestContext").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// Reads the file of sources; secrets lie beside it unless their paths are absolute.
///
/// # Errors
/// It cannot be read, or what is wrong with which source.
pub fn sources(args: &IngestArgs, adapters: &Adapters) -> Result<Sources> {
    let path = &args.sources;
    let text = std::fs::read_to_string(path).with_context(|| format!("the file of sources {}", path.display()))?;
    let folder = path.parent().map(PathBuf::from).unwrap_or_default();
    let routes = gateway::route_names(adapters);
    let parsed = Sources::parse(&text, &routes, |secret| std::fs::read(folder.join(secret)));
    parsed.map_err(|what| anyhow!("{}: {what}", path.display()))
}

/// The adapters that come along, with the mappings of a folder.
///
/// # Errors
/// The folder cannot be read, or what is wrong with which mapping.
pub fn adapters(folder: Option<&Path>) -> Result<Adapters> {
    let mut files = Vec::new();
    if let Some(folder) = folder {
        let context = || format!("the folder of mappings {}", folder.display());
        for entry in std::fs::read_dir(folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                files.push((path.display().to_string(), text));
            }
        }
        if files.is_empty() {
            bail!("{} has no mapping; a mapping is a file *.yaml", folder.display());
        }
        files.sort();
    }
    let texts = files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    Adapters::new(texts).map_err(|what| anyhow!(what))
}

impl Shown for Gateway {
    fn is_ready(&self) -> bool {
        Gateway::is_ready(self)
    }

    fn status(&self) -> serde_json::Value {
        let status = Gateway::status(self);
        let table = |pairs: &[(&str, u64)]| -> serde_json::Value {
            pairs
                .iter()
                .filter(|(_, n)| *n > 0)
                .map(|(name, n)| ((*name).to_owned(), serde_json::Value::from(*n)))
                .collect()
        };
        serde_json::json!({
            "is_ready": status.is_ready,
            "sources": status.sources,
            "accepted": status.accepted,
            "ignored": status.ignored,
            "unavailable": status.unavailable,
            "warned": status.warned,
            "rejected": table(&status.rejected),
            "requests_answered": status.answered,
            "requests_refused": table(&status.refused),
            "queued_events": status.queued_events,
            "buffered_bytes": status.buffered_bytes,
        })
    }

    fn set_gauges(&self) {
        let status = Gateway::status(self);
        gauge!("portcullis_ingest_queued_events").set(status.queued_events as f64);
        gauge!("portcullis_ingest_buffered_bytes").set(status.buffered_bytes as f64);
        for (outcome, count) in
            [("accepted", status.accepted), ("ignored", status.ignored), ("unavailable", status.unavailable)]
        {
            counter!("portcullis_ingest_events_total", "outcome" => outcome).absolute(count);
        }
        for (reason, count) in status.rejected {
            counter!("portcullis_ingest_rejected_total", "reason" => reason).absolute(count);
        }
        counter!("portcullis_ingest_warned_total").absolute(status.warned);
        counter!("portcullis_ingest_requests_total", "refused" => "no").absolute(status.answered);
        for (why, count) in status.refused {
            counter!("portcullis_ingest_requests_total", "refused" => why).absolute(count);
        }
    }
}

/// Takes events until it is stopped. `page` makes the routes that every process shows; `listening` is told the address.
///
/// # Errors
/// The address cannot be listened on, the topic does not exist, or the client is beyond repair.
pub fn run(
    args: &IngestArgs,
    context: IngestContext<'_>,
    page: impl FnOnce(Arc<dyn Shown>) -> Result<Router>,
    listening: impl FnOnce(SocketAddr),
) -> Result<Ending> {
    let IngestContext { connection, sources, adapters, clock, stop } = context;
    let patience = Duration::from_secs(u64::from(args.patience));
    let deliverer = Arc::new(Deliverer::new(&connection.client, patience)?);
    let topic = connection.topics.public("login-events");
    let limits = Limits {
        body_bytes: usize::from(args.body_limit) * MEBIBYTE,
        buffered_bytes: usize::from(args.memory.max(args.body_limit)) * MEBIBYTE,
        queued_events: args.queue as usize,
    };
    let options =
        GatewayOptions { sources, adapters, limits, topic: topic.clone(), deliverer: Arc::clone(&deliverer), clock };
    let gateway = Arc::new(Gateway::new(options));
    let routes = gateway::routes(Arc::clone(&gateway)).merge(page(Arc::clone(&gateway) as Arc<dyn Shown>)?);
    let serving = Serving::start(&args.listen, ("ingest", args.threads), routes, args.tls.read()?, Arc::clone(&stop))?;
    listening(serving.address);
    let is_over = Arc::new(AtomicBool::new(false));
    let teller = tell(Arc::clone(&deliverer), Arc::clone(&is_over))?;
    let watched = watch(&gateway, &deliverer, &topic, &stop);
    stop.store(true, Ordering::Relaxed);
    gateway.stop();
    // Whoever waits for an answer gets it, as long as the cluster takes to confirm.
    serving.end_within(patience + DRAIN_MORE);
    is_over.store(true, Ordering::Relaxed);
    if teller.join().is_err() {
        bail!("the thread that tells deliveries ended");
    }
    match deliverer.drain(DRAIN_MORE) {
        0 => {}
        left => tracing::warn!(left, "some events were not confirmed, and nobody was told that they were"),
    }
    watched.map(|()| Ending::Well)
}

/// Tells deliveries on a thread of their own.
fn tell(deliverer: Arc<Deliverer>, is_over: Arc<AtomicBool>) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("deliveries".to_owned()).spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            deliverer.poll(WAIT_MAX);
        }
    })
}

/// Asks a cluster that did not confirm whether it is there, until the stop.
fn watch(gateway: &Gateway, deliverer: &Deliverer, topic: &str, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        if let Some(why) = deliverer.fatal() {
            bail!("the Kafka client can deliver nothing any more: {why}; start anew");
        }
        if !gateway.is_to_be_asked() {
            thread::park_timeout(WAIT_MAX);
            continue;
        }
        match deliverer.check(topic) {
            Ok(()) => {
                gateway.found();
                tracing::info!(topic, "the cluster answers; events are taken");
            }
            Err(Error::Kafka(why)) => {
                tracing::warn!(why, "the cluster is away; events are answered 503");
                thread::park_timeout(ASK_EVERY);
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: IngestArgs,
    }

    #[test]
    fn the_command_line_is_sound() {
        Line::command().debug_assert();
        let args = Line::try_parse_from(["ingest", "--sources", "s.yaml"]).unwrap().args;
        assert!(args.listen.starts_with("127.0.0.1:"), "nobody else's machine");
        for wrong in [["--body-limit", "0"], ["--queue", "10"], ["--threads", "0"], ["--patience", "0"]] {
            assert!(Line::try_parse_from(["ingest", "--sources", "s.yaml", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
        }
    }
}
