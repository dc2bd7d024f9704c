//! `portcullis ingest` in this process, and how events are sent to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use axum::Router;
use clap::Parser;
use portcullis::app::clock::ProcessClock;
use portcullis::app::ingest::{IngestArgs, IngestContext, adapters, run, sources};
use portcullis::app::{Connection, Ending};
use portcullis::console::Shown;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::edge::{Reply, ask};
use super::records::DEADLINE;
use super::until;

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub const SECRET: &str = "fedcba9876543210fedcba9876543210";

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: IngestArgs,
}

/// The file of sources of most tests: one that may speak for `shop` alone, one for anybody, one that signs, one that is
/// slow, and one for one route.
pub fn sources_file() -> String {
    let hash = |token: &str| Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let [shop, any, slow, okta] = [TOKEN, "any", "slow", "okta"].map(hash);
    format!(
        "sources:
  - {{name: shop-web, tenants: [shop], bearer_sha256: {shop}}}
  - {{name: any, tenants: ['*'], bearer_sha256: {any}}}
  - {{name: slow, tenants: [shop], bearer_sha256: {slow}, events_per_second: 5}}
  - {{name: okta, tenants: [shop], bearer_sha256: {okta}, routes: [okta]}}
  - {{name: billing, tenants: [shop], hmac_secret_file: billing.secret}}
"
    )
}

/// A gateway in threads of its own.
pub struct Door {
    pub address: SocketAddr,
    pub shown: Arc<dyn Shown>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
    _folder: tempfile::TempDir,
}

impl Door {
    /// Starts it with further flags; it may not be ready yet.
    #[track_caller]
    pub fn start(connection: &Connection, flags: &str) -> Door {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sources.yaml");
        std::fs::write(&file, sources_file()).unwrap();
        std::fs::write(folder.path().join("billing.secret"), format!("{SECRET}\n")).unwrap();
        let line = format!("ingest --listen 127.0.0.1:0 --sources {} {flags}", file.display());
        let args = Line::try_parse_from(line.split_whitespace()).unwrap().args;
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_stop, connection) = (Arc::clone(&stop), connection.clone());
        let (tell, told) = mpsc::channel::<(SocketAddr, Arc<dyn Shown>)>();
        let thread = std::thread::spawn(move || {
            let adapters = adapters(args.mappings.as_deref()).unwrap();
            let context = IngestContext {
                connection: &connection,
                sources: sources(&args, &adapters).unwrap(),
                adapters,
                clock: Arc::new(ProcessClock::real()),
                stop: thread_stop,
            };
            let (tell_shown, told_shown) = mpsc::channel();
            let page = |shown| {
                drop(tell_shown.send(shown));
                Ok(Router::new())
            };
            let listening = |address| drop(tell.send((address, told_shown.recv().unwrap())));
            match run(&args, context, page, listening) {
                Ok(Ending::Well) => Ok(()),
                Ok(Ending::Different) => Err("different".to_owned()),
                Err(e) => Err(format!("{e:#}")),
            }
        });
        let (address, shown) = told.recv_timeout(DEADLINE).unwrap();
        Door { address, shown, stop, thread: Some(thread), _folder: folder }
    }

    /// Starts it and waits until it takes events.
    #[track_caller]
    pub fn ready(connection: &Connection, flags: &str) -> Door {
        let door = Door::start(connection, flags);
        door.until_ready();
        door
    }

    #[track_caller]
    pub fn until_ready(&self) {
        until(DEADLINE, "the gateway to be ready", || self.shown.is_ready().then_some(()));
    }

    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        ask(self.address, method, path, headers, body).unwrap()
    }

    /// Posts with the token of the tenant `shop`.
    #[track_caller]
    pub fn post(&self, path: &str, kind: &str, body: &str) -> (u16, Value) {
        self.post_as(TOKEN, path, kind, body)
    }

    #[track_caller]
    pub fn post_as(&self, token: &str, path: &str, kind: &str, body: &str) -> (u16, Value) {
        let bearer = format!("Bearer {token}");
        let reply = self.ask("POST", path, &[("Authorization", &bearer), ("Content-Type", kind)], body);
        (reply.status, serde_json::from_str(&reply.body).unwrap_or_default())
    }

    /// Posts events of the contract.
    #[track_caller]
    pub fn send(&self, events: &[Value]) -> (u16, Value) {
        self.post("/v1/events", "application/json", &json!(events).to_string())
    }

    /// Waits for a gateway that ends by itself.
    pub fn end(mut self) -> Result<(), String> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn stop(mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A login event of now.
pub fn event(id: &str) -> Value {
    use portcullis::log::Clock;
    json!({
        "event_id": id, "occurred_at": ProcessClock::real().now(), "account": "ada@example.com", "outcome": "FAILURE",
        "failure_reason": "WRONG_PASSWORD", "source_ip": "203.0.113.9",
    })
}
