//! `portcullis notify` in this process, whose clock a test moves, and receivers that do as they are told.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use hmac::{Hmac, Mac};
use portcullis::app::notify::{NotifyArgs, NotifyContext, NotifyStatus, NotifyWatched, run, settings};
use portcullis::app::{Connection, Ending};
use portcullis::event::wire::{Encoder, Format, SchemaIds};
use portcullis::event::{Incident, Millis, Severity};
use portcullis::notify::Status;
use rdkafka::producer::BaseProducer;
use sha2::Sha256;

use super::records::{DEADLINE, flush, producer, send};
use super::until;

/// The secret of every webhook here, and what it stands for.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How a receiver answers.
#[derive(Debug, Clone, Copy)]
pub enum Behave {
    Answer(u16),
    /// With the header `Retry-After`, in seconds.
    Busy(u16, u32),
    /// Takes the message and never says so.
    Hang,
    /// Takes the message and closes.
    Close,
    /// Begins to answer and never comes to an end: no single step takes long.
    Drip,
}

/// A message as it was received.
#[derive(Debug, Clone)]
pub struct Post {
    pub head: String,
    pub body: String,
}

impl Post {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (held, value) = line.split_once(':')?;
            held.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The text of a Slack message.
    pub fn text(&self) -> String {
        self.json()["text"].as_str().unwrap().to_owned()
    }

    /// As a receiver checks it, by nothing but the specification.
    pub fn is_signed_by(&self, secret: &str, now: Millis) -> bool {
        let (Some(id), Some(seconds), Some(signature)) =
            (self.header("webhook-id"), self.header("webhook-timestamp"), self.header("webhook-signature"))
        else {
            return false;
        };
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = |signature: &str| {
            let signature = STANDARD.decode(signature.strip_prefix("v1,")?).ok()?;
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(format!("{id}.{seconds}.{}", self.body).as_bytes());
            mac.verify_slice(&signature).ok()
        };
        let is_fresh = (seconds.parse::<i64>().unwrap() - now / 1_000).abs() <= 300;
        is_fresh && signature.split(' ').any(|one| signed(one).is_some())
    }
}

#[derive(Default)]
struct Told {
    posts: Vec<Post>,
    next: VecDeque<Behave>,
    always: Option<Behave>,
}

/// A server of HTTP that keeps what it gets.
pub struct Receiver {
    pub port: u16,
    told: Arc<Mutex<Told>>,
}

impl Receiver {
    pub fn start() -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = Arc::new(Mutex::new(Told::default()));
        let of_thread = Arc::clone(&told);
        // It ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let told = Arc::clone(&of_thread);
                std::thread::spawn(move || drop(serve(stream, &told)));
            }
        });
        Receiver { port, told }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/services/T0/B0/secret", self.port)
    }

    /// What it answers to the next messages, in turn; after them 200.
    pub fn behave(&self, next: &[Behave]) {
        self.told.lock().unwrap().next.extend(next);
    }

    /// What it answers to all of them, `None` for 200.
    pub fn always(&self, behave: Option<Behave>) {
        self.told.lock().unwrap().always = behave;
    }

    pub fn posts(&self) -> Vec<Post> {
        self.told.lock().unwrap().posts.clone()
    }

    /// Waits until it has got so many.
    #[track_caller]
    pub fn until(&self, count: usize) -> Vec<Post> {
        until(DEADLINE, &format!("{count} messages"), || {
            let posts = self.posts();
            assert!(posts.len() <= count, "{} messages: {:#?}", posts.len(), posts);
            (posts.len() == count).then_some(posts)
        })
    }
}

fn serve(mut stream: TcpStream, told: &Mutex<Told>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let behave = {
            let mut told = told.lock().unwrap();
            told.posts.push(Post { head, body: String::from_utf8(body).unwrap() });
            told.always.or_else(|| told.next.pop_front()).unwrap_or(Behave::Answer(200))
        };
        match behave {
            Behave::Answer(status) => write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 5\r\n\r\nsaid!")?,
            Behave::Busy(status, seconds) => {
                write!(stream, "HTTP/1.1 {status} x\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n")?;
            }
            // Until the other side gives up.
            Behave::Hang => drop(reader.read(&mut [0])?),
            Behave::Close => return Ok(()),
            Behave::Drip => {
                write!(stream, "HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n{{")?;
                loop {
                    stream.write_all(b" ")?;
                    std::thread::park_timeout(std::time::Duration::from_millis(20));
                }
            }
        }
        stream.flush()?;
    }
}

/// A file of `--config` with these destinations.
pub fn config(folder: &Path, destinations: &[&str]) -> PathBuf {
    let file = folder.join("notify.yaml");
    std::fs::write(folder.join("secret"), SECRET).unwrap();
    let lines: String = destinations.iter().map(|destination| format!("  - {destination}\n")).collect();
    std::fs::write(&file, format!("console: https://console.example.com\ndestinations:\n{lines}")).unwrap();
    file
}

pub fn slack(name: &str, receiver: &Receiver, more: &str) -> String {
    format!("{{name: {name}, slack: {{url: '{}'}}{more}}}", receiver.url())
}

pub fn webhook(name: &str, receiver: &Receiver, folder: &Path, more: &str) -> String {
    let secret = folder.join("secret").display().to_string();
    format!("{{name: {name}, webhook: {{url: '{}', secret_file: '{secret}'}}{more}}}", receiver.url())
}

#[derive(Debug, clap::Parser)]
pub struct Line {
    #[command(flatten)]
    pub args: NotifyArgs,
}

/// `portcullis notify` in threads of its own, whose clock stands until a test moves it.
pub struct Notify {
    clock: Arc<AtomicI64>,
    pub watched: Arc<NotifyWatched>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<String, String>>>,
}

impl Notify {
    #[track_caller]
    pub fn start(connection: &Connection, config: &Path, state: &Path, flags: &str, now: Millis) -> Notify {
        let line = format!("notify --config {} {flags}", config.display());
        let args = Line::try_parse_from(line.split_whitespace()).unwrap().args;
        let (clock, stop) = (Arc::new(AtomicI64::new(now)), Arc::new(AtomicBool::new(false)));
        let watched = Arc::new(NotifyWatched::default());
        let (connection, state) = (connection.clone(), state.to_owned());
        let of_thread = (Arc::clone(&clock), Arc::clone(&stop), Arc::clone(&watched));
        let thread = std::thread::spawn(move || {
            let (clock, stop, watched) = of_thread;
            let context = NotifyContext {
                connection: &connection,
                state_dir: &state,
                clock: Arc::new(move || clock.load(Ordering::Relaxed)),
                stop,
                watched,
            };
            let mut out = Vec::new();
            let settings = settings(&args).map_err(|e| format!("{e:#}"))?;
            match run(&args, settings, context, &mut out) {
                Ok(Ending::Well) => Ok(String::from_utf8(out).unwrap()),
                Ok(Ending::Different) => Err("different".to_owned()),
                Err(e) => Err(format!("{e:#}")),
            }
        });
        Notify { clock, watched, stop, thread: Some(thread) }
    }

    pub fn now(&self) -> Millis {
        self.clock.load(Ordering::Relaxed)
    }

    pub fn set(&self, now: Millis) {
        self.clock.store(now, Ordering::Relaxed);
    }

    pub fn pass(&self, ms: Millis) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    #[track_caller]
    pub fn until(&self, what: &str, reached: impl Fn(&NotifyStatus) -> bool) -> NotifyStatus {
        until(DEADLINE, what, || {
            let status = self.watched.get();
            assert!(!self.thread.as_ref().unwrap().is_finished(), "it has ended");
            reached(&status).then_some(status)
        })
    }

    /// Waits until every destination has looked at what is there now and found nothing more to do.
    #[track_caller]
    pub fn settle(&self, records: u64) -> NotifyStatus {
        let now = self.now();
        self.until(&format!("{records} records at every destination"), |status| {
            let is_settled = |of: &Status| of.settled_records == records && of.settled_at >= Some(now);
            status.caught_up && status.destinations.values().all(is_settled)
        })
    }

    pub fn stop(mut self) -> Result<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits for one that ends by itself.
    pub fn end(mut self) -> Result<String, String> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Who writes to the topic `incidents`.
pub struct Incidents<'a> {
    producer: BaseProducer,
    connection: &'a Connection,
    encoder: Encoder,
}

impl<'a> Incidents<'a> {
    pub fn new(connection: &'a Connection, format: Format) -> Self {
        let encoder = Encoder::new(format, SchemaIds::default()).unwrap();
        Incidents { producer: producer(&connection.client.bootstrap, None), connection, encoder }
    }

    pub fn tell(&self, incident: &Incident) {
        self.put(incident.incident_id.as_bytes(), Some(&self.encoder.encode("incidents", incident).unwrap()));
    }

    pub fn put(&self, key: &[u8], value: Option<&[u8]>) {
        send(&self.producer, &self.connection.topics.public("incidents"), None, key, value, None);
        flush(&self.producer);
    }
}

/// An incident of `shop` that began at `at`.
pub fn incident(id: &str, at: Millis) -> Incident {
    let mut incident: Incident =
        serde_json::from_str(include_str!("../../../schemas/examples/incident/closed.json")).unwrap();
    id.clone_into(&mut incident.incident_id);
    incident.state = portcullis::event::IncidentState::Open;
    incident.severity = Severity::High;
    (incident.started_at, incident.updated_at, incident.ended_at) = (at, at, None);
    incident.compromised.clear();
    incident
}
