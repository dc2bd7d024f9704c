//! What a running process tells about itself: logs, metrics, probes.

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use super::sink::Watched;
use crate::console::{self, Shown};

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
    // A line that cannot be written, to a file on a full disk, is no reason to panic: it is told on the same standard error.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false).with_writer(std::io::stderr);
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

/// Serves what a process shows, on a thread of its own until the process ends; gives the address it listens on.
///
/// # Errors
/// The address cannot be listened on.
pub fn serve(listen: &str, metrics: PrometheusHandle, shown: Arc<dyn Shown>) -> Result<std::net::SocketAddr> {
    console::serve(listen, metrics, shown)
        .with_context(|| format!("cannot listen on {listen}; choose another with --listen"))
}

impl Shown for Watched {
    fn is_ready(&self) -> bool {
        self.get().sink.caught_up
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.get()).unwrap_or_default()
    }

    fn set_gauges(&self) {
        let status = self.get();
        let sink = [("sink", status.edge)];
        gauge!("portcullis_sink_desired_entries", &sink).set(status.sink.desired as f64);
        gauge!("portcullis_sink_enforced_entries", &sink).set(status.sink.enforced as f64);
        for (why, n) in [
            ("exempted", status.sink.exempted),
            ("not_expressible", status.sink.not_expressible.values().sum()),
            ("not_wide", status.sink.not_wide),
            ("over_capacity", status.sink.over_capacity),
        ] {
            let labels = [("sink", status.edge), ("why", why)];
            gauge!("portcullis_sink_left_out_entries", &labels).set(n as f64);
        }
        gauge!("portcullis_sink_held_back_entries", &sink).set(status.sink.held_back as f64);
        if let Some(lag_ms) = status.sink.last_lag_ms {
            gauge!("portcullis_sink_lag_seconds", &sink).set(lag_ms as f64 / 1_000.0);
        }
        counter!("portcullis_sink_records_total", &sink).absolute(status.records);
        counter!("portcullis_sink_applied_total", &sink).absolute(status.sink.applications);
        counter!("portcullis_sink_failed_total", &sink).absolute(status.sink.failures);
        counter!("portcullis_sink_receipts_total", &sink).absolute(status.receipts.delivered);
        counter!("portcullis_sink_receipts_failed_total", &sink).absolute(status.receipts.failed);
        counter!("portcullis_sink_drift_repaired_total", &sink).absolute(status.sink.drift_repaired);
    }
}
