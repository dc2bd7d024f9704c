//! What a running process tells about itself: logs, metrics, probes.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::log::Progress;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Buckets of times, in seconds: from a quick commit to a slow one.
const SECONDS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Sends log lines to standard error. `filter` is a level, or per target as `tracing` has it.
///
/// # Errors
/// The filter does not read.
pub fn logs(filter: &str, format: LogFormat) -> Result<()> {
    let filter =
        EnvFilter::try_new(filter).with_context(|| format!("log level `{filter}`: write info, or portcullis=debug"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    // Set already: a second call in one process, as tests make, changes nothing.
    drop(set);
    Ok(())
}

/// Installs the metrics of this process.
///
/// # Errors
/// Another recorder is installed.
pub fn metrics() -> Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?;
    let handle = builder.install_recorder()?;
    crate::log::metric::describe();
    Ok(handle)
}

#[derive(Clone)]
struct Shown {
    metrics: PrometheusHandle,
    progress: Option<Arc<Progress>>,
    status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// Serves `/metrics`, `/livez`, `/readyz` and `/status` on a thread of its own until the process ends; gives the address
/// it listens on.
///
/// # Errors
/// The address cannot be listened on.
pub fn serve(
    listen: &str,
    metrics: PrometheusHandle,
    progress: Option<Arc<Progress>>,
    status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
) -> Result<std::net::SocketAddr> {
    let listener = std::net::TcpListener::bind(listen)
        .with_context(|| format!("cannot listen on {listen}; choose another with --listen"))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shown = Shown { metrics, progress, status };
    let routes = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(show_ready))
        .route("/status", get(show_status))
        .with_state(shown);
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, routes).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, "the status server ended");
            }
        });
    })?;
    Ok(address)
}

async fn show_metrics(State(shown): State<Shown>) -> impl IntoResponse {
    if let Some(progress) = &shown.progress {
        crate::log::metric::gauges(&progress.snapshot());
    }
    shown.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shown.metrics.render())
}

async fn show_ready(State(shown): State<Shown>) -> impl IntoResponse {
    match &shown.progress {
        Some(progress) if !progress.is_ready() => {
            (StatusCode::SERVICE_UNAVAILABLE, "no task runs yet, or one is being restored\n")
        }
        Some(_) | None => (StatusCode::OK, "ready\n"),
    }
}

async fn show_status(State(shown): State<Shown>) -> impl IntoResponse {
    axum::Json((shown.status)())
}
