//! A server of HTTP on threads of its own, in clear or by TLS, until it is stopped.

mod connections;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;

pub use tls::{Tls, TlsArgs};

/// Longest wait until a stop is seen.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How long answers that are under way at a stop may take.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// The threads that answer.
pub(super) struct Serving {
    runtime: tokio::runtime::Runtime,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
    pub(super) address: SocketAddr,
}

impl Serving {
    /// Listens on an address and answers by `routes` until `stop`, with certificates where there are some.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(super) fn start(
        listen: &str,
        (name, threads): (&str, usize),
        routes: Router,
        tls: Option<Tls>,
        stop: Arc<AtomicBool>,
    ) -> Result<Serving> {
        let listening = || -> std::io::Result<(std::net::TcpListener, SocketAddr)> {
            let listener = std::net::TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) =
            listening().with_context(|| format!("cannot listen on {listen}; choose another with --listen"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .enable_all()
            .build()?;
        let task = runtime.spawn(async move {
            connections::serve(tokio::net::TcpListener::from_std(listener)?, routes, tls, stopped(stop)).await
        });
        Ok(Serving { runtime, task, address })
    }

    /// Waits for answers that are under way, for a while.
    pub(super) fn end(self) {
        self.end_within(DRAIN_MAX);
    }

    /// The same, for at most so long.
    pub(super) fn end_within(self, limit: Duration) {
        let Serving { runtime, task, .. } = self;
        runtime.block_on(async {
            match tokio::time::timeout(limit, task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::error!(%error, "the server ended"),
                Ok(Err(error)) => tracing::error!(%error, "the server ended"),
                Err(_) => tracing::warn!("some answers were still under way at the stop"),
            }
        });
        runtime.shutdown_background();
    }
}

async fn stopped(stop: Arc<AtomicBool>) {
    let mut looks = tokio::time::interval(WAIT_MAX);
    while !stop.load(Ordering::Relaxed) {
        looks.tick().await;
    }
}
