//! What the HTTP door costs beside writing to the topic itself. Nothing here can fail by being slow:
//! `cargo test --release --test it -- ingest_load --ignored --nocapture` prints figures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use portcullis::log::publish::Publisher;
use serde_json::json;

use crate::support::ingest::{TOKEN, event, sources_file};
use crate::support::kafka::Kafka;
use crate::support::records::{DEADLINE, connection_with_topics};
use crate::support::{free_ports, http, until};

const SECONDS: u64 = 5;
/// Events that are written, as often as there is time for: so many that they compress as different ones do.
const EVENTS: usize = 100_000;
/// Each of the events is another one, of another source.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn an_event() -> serde_json::Value {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut event = event(&format!("01890a5d-ac96-774b-bcce-{n:012x}"));
    event["account"] = json!(format!("user{}@example.com", n % 100_000));
    event["source_ip"] = json!(format!("203.{}.{}.{}", n % 200, n % 251, n % 253));
    event["user_agent"] = json!("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0");
    event["tenant"] = json!("shop");
    event
}

fn request(batch: usize) -> Vec<u8> {
    let body = if batch == 1 {
        an_event().to_string()
    } else {
        json!((0..batch).map(|_| an_event()).collect::<Vec<_>>()).to_string()
    };
    let length = body.len();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Api-Key: {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// The status of the next answer.
fn answer(stream: &mut BufReader<TcpStream>) -> u16 {
    let (mut line, mut status, mut length) = (String::new(), 0, 0);
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let text = line.trim_end().to_ascii_lowercase();
        if let Some(code) = text.strip_prefix("http/1.1 ") {
            status = code[..3].parse().unwrap();
        } else if let Some(n) = text.strip_prefix("content-length: ") {
            length = n.parse().unwrap();
        } else if text.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).unwrap();
    status
}

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[ignore = "prints figures: -- ingest_load --ignored --nocapture"]
fn events_a_second_beside_writing_them_oneself() {
    let kafka = Kafka::start();
    let connection = connection_with_topics(kafka.bootstrap(), "ingest-load");
    let topic = connection.topics.public("login-events");
    let folder = tempfile::tempdir().unwrap();
    let sources = folder.path().join("sources.yaml");
    std::fs::write(&sources, sources_file()).unwrap();
    std::fs::write(folder.path().join("billing.secret"), "fedcba9876543210fedcba9876543210").unwrap();

    // Raw: the same events, handed to the same client by one thread.
    let events: Vec<(String, Vec<u8>)> = (0..EVENTS)
        .map(|_| {
            let event = an_event();
            (event["source_ip"].as_str().unwrap().to_owned(), event.to_string().into_bytes())
        })
        .collect();
    let publisher = Publisher::new(&connection.client).unwrap();
    publisher.check(&topic).unwrap();
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < Duration::from_secs(SECONDS) {
        for (key, value) in &events {
            publisher.send(&topic, Some(key.as_bytes()), value, 1_561_682_490_000).unwrap();
        }
        sent += events.len();
    }
    assert_eq!(publisher.flush(DEADLINE).unwrap().failed, 0);
    let raw = sent as f64 / began.elapsed().as_secs_f64();
    eprintln!("raw produce, one thread: {raw:.0} events/s, {} bytes each", events[0].1.len());

    let [port] = free_ports();
    let gateway = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["ingest", "--listen", &format!("127.0.0.1:{port}"), "--sources", &sources.display().to_string()])
        .args(["--bootstrap", kafka.bootstrap(), "--topic-prefix", "ingest-load.", "--log", "warn"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let gateway = Gateway(gateway);
    until(DEADLINE, "the gateway to be ready", || (http(port, "/readyz").0 == 200).then_some(()));

    for (batch, connections) in [(1, 64), (10, 16), (100, 8), (1_000, 4)] {
        let ready = Arc::new(Barrier::new(connections + 1));
        let of = |_| (0..EVENTS / batch / connections).map(|_| request(batch)).collect::<Vec<_>>();
        let all: Vec<Vec<Vec<u8>>> = (0..connections).map(of).collect();
        let clients: Vec<_> = all
            .into_iter()
            .map(|requests| {
                let ready = Arc::clone(&ready);
                std::thread::spawn(move || {
                    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    let (mut writer, mut reader) = (stream.try_clone().unwrap(), BufReader::new(stream));
                    let mut times = Vec::new();
                    ready.wait();
                    let until = Instant::now() + Duration::from_secs(SECONDS);
                    for request in requests.iter().cycle() {
                        let sent = Instant::now();
                        if sent > until {
                            break;
                        }
                        writer.write_all(request).unwrap();
                        assert_eq!(answer(&mut reader), 202);
                        times.push(sent.elapsed().as_secs_f64() * 1_000.0);
                    }
                    times
                })
            })
            .collect();
        let before = cpu(gateway.0.id());
        ready.wait();
        let began = Instant::now();
        let mut times: Vec<f64> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let took = began.elapsed().as_secs_f64();
        times.sort_by(f64::total_cmp);
        let quantile = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
        let (requests, used) = (times.len() as f64, cpu(gateway.0.id()) - before);
        let events = requests * batch as f64;
        eprintln!(
            "{batch} a request, {connections} connections: {:.0} requests/s, {:.0} events/s ({:.2} of raw), {:.1} µs of CPU an event, ms p50 {:.1} p99 {:.1}",
            requests / took,
            events / took,
            events / took / raw,
            used * 1e6 / events,
            quantile(0.5),
            quantile(0.99),
        );
    }
}
