//! What any running process shows: `/metrics`, `/livez`, `/readyz` and `/status`.

use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::log::Progress;

/// What a process shows of itself. Each is asked when somebody asks.
pub trait Shown: Send + Sync {
    /// Whether it does its work.
    fn is_ready(&self) -> bool;

    /// Everything, for people and scripts.
    fn status(&self) -> serde_json::Value;

    /// Sets the gauges.
    fn set_gauges(&self);
}

impl Shown for Progress {
    fn is_ready(&self) -> bool {
        Progress::is_ready(self)
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.snapshot()).unwrap_or_default()
    }

    fn set_gauges(&self) {
        crate::log::metric::gauges(&self.snapshot());
    }
}

#[derive(Clone)]
struct Page {
    metrics: PrometheusHandle,
    shown: Arc<dyn Shown>,
}

/// Serves `/metrics`, `/livez`, `/readyz` and `/status` on a thread of its own until the process ends; gives the address
/// it listens on.
///
/// # Errors
/// The address cannot be listened on.
pub fn serve(listen: &str, metrics: PrometheusHandle, shown: Arc<dyn Shown>) -> std::io::Result<std::net::SocketAddr> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let routes = routes(metrics, shown);
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

/// What [`serve`] serves, for a process that has a server of its own.
pub fn routes(metrics: PrometheusHandle, shown: Arc<dyn Shown>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(show_ready))
        .route("/status", get(show_status))
        .with_state(Page { metrics, shown })
}

async fn show_metrics(State(page): State<Page>) -> impl IntoResponse {
    page.shown.set_gauges();
    page.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page.metrics.render())
}

async fn show_ready(State(page): State<Page>) -> impl IntoResponse {
    if page.shown.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: still joining, restoring, or reading the list for the first time\n",
        )
    }
}

async fn show_status(State(page): State<Page>) -> impl IntoResponse {
    axum::Json(page.shown.status())
}
