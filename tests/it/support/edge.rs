//! `portcullis edge` in this process, what it is told, and how it is asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use clap::Parser;
use portcullis::app::edge::{EdgeArgs, EdgeContext, run};
use portcullis::app::{Connection, Ending};
use portcullis::console::Shown;
use portcullis::edge::server::{Keys, Rate};
use portcullis::engine::{KnownBy, day_of, pair_key};
use portcullis::event::wire::{Encoder, Format, SchemaIds};
use portcullis::event::{Action, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, Millis, Scope};
use portcullis::topology::exemptions::Exemptions;
use portcullis::topology::networks::CurrentNetworks;
use portcullis::window::HashKey;
use rdkafka::producer::BaseProducer;
use serde_json::json;

use super::records::{DEADLINE, flush, producer, send};
use super::sink::exemption;
use super::until;

pub const START: Millis = 1_561_682_490_000;
pub const KEY: &str = "0123456789abcdef";
const HASH_KEY: [u8; 16] = [7; 16];

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: EdgeArgs,
}

/// A server in threads of its own, whose clock stands until a test moves it.
pub struct Edge {
    pub address: SocketAddr,
    pub clock: Arc<AtomicI64>,
    /// Where it looks addresses up.
    pub networks: Arc<CurrentNetworks>,
    shown: Arc<dyn Shown>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Edge {
    /// Starts it for the tenant `shop`, with further flags.
    #[track_caller]
    pub fn start(connection: &Connection, flags: &str) -> Edge {
        Edge::start_at(connection, flags, START)
    }

    /// The same, with a clock that stands at `now`.
    #[track_caller]
    pub fn start_at(connection: &Connection, flags: &str, now: Millis) -> Edge {
        let line = format!("edge --listen 127.0.0.1:0 --keys unused --tenant shop {flags}");
        let args = Line::try_parse_from(line.split_whitespace()).unwrap().args;
        let keys = Keys::parse(&format!("tests: {KEY}"), Rate { per_second: args.account_rate }).unwrap();
        let (clock, stop) = (Arc::new(AtomicI64::new(now)), Arc::new(AtomicBool::new(false)));
        let (thread_clock, thread_stop, connection) = (Arc::clone(&clock), Arc::clone(&stop), connection.clone());
        let networks: Arc<CurrentNetworks> = Arc::default();
        let thread_networks = Arc::clone(&networks);
        let (tell, told) = mpsc::channel::<(SocketAddr, Arc<dyn Shown>)>();
        let thread = std::thread::spawn(move || {
            let context = EdgeContext {
                connection: &connection,
                exemptions: Exemptions::default(),
                hash_key: HashKey::new(HASH_KEY),
                networks: thread_networks,
                clock: Arc::new(move || thread_clock.load(Ordering::Relaxed)),
                stop: thread_stop,
            };
            let (tell_shown, told_shown) = mpsc::channel();
            let page = |shown| {
                drop(tell_shown.send(shown));
                Ok(Router::new())
            };
            let listening = |address| drop(tell.send((address, told_shown.recv().unwrap())));
            match run(&args, keys, context, page, listening) {
                Ok(Ending::Well) => Ok(()),
                Ok(Ending::Different) => Err("different".to_owned()),
                Err(e) => Err(format!("{e:#}")),
            }
        });
        let (address, shown) = told.recv_timeout(DEADLINE).unwrap();
        Edge { address, clock, networks, shown, stop, thread: Some(thread) }
    }

    #[track_caller]
    pub fn until_ready(&self) {
        until(DEADLINE, "the topics to be read", || self.shown.is_ready().then_some(()));
    }

    pub fn status(&self) -> serde_json::Value {
        self.shown.status()
    }

    pub fn now(&self) -> Millis {
        self.clock.load(Ordering::Relaxed)
    }

    pub fn pass(&self, ms: Millis) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    /// Asks with the key.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[("X-Api-Key", KEY)], "")
    }

    /// The whole answer of the check route.
    #[track_caller]
    pub fn check(&self, question: &serde_json::Value) -> serde_json::Value {
        let reply = self.ask("POST", "/v1/check", &[("X-Api-Key", KEY)], &question.to_string());
        assert_eq!(reply.status, 200, "{}", reply.body);
        serde_json::from_str(&reply.body).unwrap()
    }

    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        ask(self.address, method, path, headers, body).unwrap()
    }

    /// Waits for a server that ends by itself.
    pub fn end(mut self) -> Result<(), String> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn stop(mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (held, value) = line.split_once(':')?;
            held.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

pub fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n{lines}\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(answer.clone()))?;
    let status = head.get(9..12).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(head.to_owned()))?;
    Ok(Reply { status, head: head.to_owned(), body: body.to_owned() })
}

/// An entry of the tenant `shop`.
pub fn entry(scope: Scope, value: &str, action: Action, until: Option<Millis>, generation: i64) -> BlocklistEntry {
    let entry = json!({
        "tenant": "shop", "scope": scope, "value": value, "action": action, "since": START, "until": until,
        "generation": generation, "reason": "a test", "playbook": "ip-account-fanout", "verdict_id": null,
        "incident_id": null, "actor": null,
    });
    serde_json::from_value(entry).unwrap()
}

/// Writes to the topics that a server follows.
pub struct Teller<'a> {
    producer: BaseProducer,
    connection: &'a Connection,
    encoder: Encoder,
}

impl<'a> Teller<'a> {
    pub fn new(connection: &'a Connection) -> Self {
        let encoder = Encoder::new(Format::Avro, SchemaIds::default()).unwrap();
        Teller { producer: producer(&connection.client.bootstrap, None), connection, encoder }
    }

    pub fn put(&self, name: &str, key: &[u8], value: Option<&[u8]>, generation: Option<i64>) {
        send(&self.producer, &self.connection.topics.public(name), None, key, value, generation);
        flush(&self.producer);
    }

    /// Blocks, challenges or whatever the action says.
    pub fn restrict(&self, scope: Scope, value: &str, action: Action, until: Option<Millis>, generation: i64) {
        let entry = entry(scope, value, action, until, generation);
        let key = format!("shop|{}|{value}", scope.as_str());
        self.put("blocklist", key.as_bytes(), Some(&self.encoder.encode("blocklist", &entry).unwrap()), None);
    }

    pub fn lift(&self, scope: Scope, value: &str, generation: i64) {
        self.put("blocklist", format!("shop|{}|{value}", scope.as_str()).as_bytes(), None, Some(generation));
    }

    pub fn exempt(&self, ip: &str) {
        let value = serde_json::to_vec(&exemption(ip)).unwrap();
        self.put("exemptions", format!("shop|IP|{ip}").as_bytes(), Some(&value), None);
    }

    pub fn attack(&self, challenge: ChallengePolicy, updated_at: Millis, expires_at: Millis) {
        let status = AttackStatus {
            tenant: "shop".to_owned(),
            state: AttackState::Attack,
            since: START,
            updated_at,
            expires_at,
            challenge,
            bad_to_good: 0.0,
            attempts_per_second: 0.0,
            failure_share: 0.0,
            usual_failure_share: 0.0,
            traits: Vec::new(),
            incident_id: None,
            withdrawn: Vec::new(),
            entered_bad_to_good: 0.0,
        };
        self.put("attack-status", b"shop", Some(&self.encoder.encode("attack-status", &status).unwrap()), None);
    }

    /// As the source stage writes it.
    pub fn knows(&self, account: &str, by: KnownBy<'_>) {
        let key = pair_key(&HashKey::new(HASH_KEY), "shop", account, by);
        self.put("known-pairs", &key.to_be_bytes(), Some(&day_of(START).to_be_bytes()), None);
    }
}
