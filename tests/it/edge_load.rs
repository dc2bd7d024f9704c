//! What questions and pulls cost with a hundred thousand entries and ten million known pairs. Nothing here can fail by
//! being slow: `cargo test --release --test it -- edge_load --ignored --nocapture` prints figures.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::edge::server::{Keys, KnownPairs, Lists, Rate, Server, ServerOptions, TrustedProxies, routes};
use portcullis::event::{Action, Millis, Scope};
use portcullis::topology::exemptions::Exemptions;
use portcullis::window::HashKey;

use crate::support::edge::{Edge, KEY, START, Teller, ask, entry};
use crate::support::kafka::shared;
use crate::support::records::connection_with_topics;

const ENTRIES: u32 = 100_000;
const PAIRS: u64 = 10_000_000;
const CONNECTIONS: usize = 32;

fn address(n: u32) -> IpAddr {
    IpAddr::V4((0xb000_0000 + 7 * n).into())
}

fn put(server: &Server, n: u32, until: Millis, generation: i64) {
    let mut entry = entry(Scope::Ip, &address(n).to_string(), Action::Block, Some(until), generation);
    entry.reason =
        "in 10m: 100 % of strangers' attempts failed (at least 80 %), failed on 7 accounts (at least 5)".to_owned();
    let value = serde_json::to_vec(&entry).unwrap();
    server.take_block(format!("shop|IP|{}", entry.value).as_bytes(), Some(&value), None, START);
}

/// Kilobytes of memory in use.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn start(threads: usize) -> (Arc<Server>, SocketAddr, tokio::runtime::Runtime) {
    let options = ServerOptions {
        keys: Keys::parse(&format!("load: {KEY}"), Rate { per_second: 1_000_000 }).unwrap(),
        proxies: TrustedProxies::loopback(),
        hash_key: HashKey::new([7; 16]),
        stealth: false,
        report_stops: false,
        networks: Arc::default(),
        clock: Box::new(|| START),
    };
    let server = Arc::new(Server::new(Lists::new(Some("shop"), Exemptions::default()), options));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("answering")
        .enable_all()
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    let service = routes(Arc::clone(&server)).into_make_service_with_connect_info::<SocketAddr>();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, service).await.unwrap();
    });
    (server, at, runtime)
}

/// Asks `rate` questions a second for `seconds`, each at its own time whatever became of the ones before; the times to
/// their answers in microseconds, in order.
fn load(at: SocketAddr, rate: u64, seconds: u64, question: impl Fn(u64) -> String) -> Vec<u64> {
    let mut connections: Vec<(TcpStream, Vec<Instant>, usize)> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(at).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            (stream, Vec::new(), 0)
        })
        .collect();
    let (begin, all) = (Instant::now(), rate * seconds);
    let (mut sent, mut times) = (0, Vec::new());
    let mut buffer = [0; 4096];
    while (times.len() as u64) < all {
        let due = begin + Duration::from_nanos(sent * 1_000_000_000 / rate);
        if sent < all && Instant::now() >= due {
            let (stream, waiting, _) = &mut connections[sent as usize % CONNECTIONS];
            stream.write_all(question(sent).as_bytes()).unwrap();
            waiting.push(due);
            sent += 1;
        }
        for (stream, waiting, done) in &mut connections {
            if *done == waiting.len() {
                continue;
            }
            match stream.read(&mut buffer) {
                // An answer has one blank line; none is cut here, being far smaller than a segment.
                Ok(read) => {
                    let answers = buffer[..read].windows(9).filter(|part| part == b"HTTP/1.1 ").count();
                    for _ in 0..answers {
                        times.push(waiting[*done].elapsed().as_micros() as u64);
                        *done += 1;
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
    times.sort_unstable();
    times
}

/// Hundredths of a second that the threads which answer have used.
fn answering() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let of = |task: std::path::PathBuf| {
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        // The name may hold anything; what follows it does not.
        let (name, rest) = stat.rsplit_once(')')?;
        let used = rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
        name.contains("answering").then(|| used.sum::<u64>())
    };
    tasks.filter_map(of).sum()
}

fn ask_and_tell(what: &str, at: SocketAddr, rate: u64, question: impl Fn(u64) -> String) {
    const SECONDS: u64 = 5;
    let before = answering();
    let times = load(at, rate, SECONDS, question);
    let cpu = (answering() - before) as f64 * 10_000.0 / times.len() as f64;
    let part = |part: usize| times[(times.len() - 1) * part / 1_000];
    let (p50, p90, p99, most) = (part(500), part(900), part(990), part(1_000));
    eprintln!("{what}, {rate}/s: p50 {p50} µs, p90 {p90} µs, p99 {p99} µs, most {most} µs; {cpu:.1} µs of CPU each");
}

#[test]
#[ignore = "prints figures"]
fn figures_of_questions_and_pulls() {
    let before = resident();
    let (server, at, _runtime) = start(1);
    let begin = Instant::now();
    for n in 0..ENTRIES {
        put(&server, n, START + 3_600_000, 1);
    }
    eprintln!("{ENTRIES} entries taken in {:?}, {} MB", begin.elapsed(), (resident() - before) / 1024);
    let before = resident();
    for n in 0..PAIRS {
        let key = u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        server.take_pair(&key.to_be_bytes(), Some(&portcullis::engine::day_of(START).to_be_bytes()));
    }
    eprintln!("{PAIRS} known pairs: {} MB", (resident() - before) / 1024);
    server.caught_up();
    let head = format!("HTTP/1.1\r\nHost: edge\r\nX-Api-Key: {KEY}\r\n");
    let by_address = |n: u64| {
        // Half of them blocked.
        let client = address((n * 7_919 % u64::from(2 * ENTRIES)) as u32);
        format!("GET /v1/check?tenant=shop {head}X-Forwarded-For: {client}\r\n\r\n")
    };
    let by_account = |n: u64| {
        let client = address((n * 7_919 % u64::from(2 * ENTRIES)) as u32);
        format!("GET /v1/check?ip={client}&account=user{n}@example.com&device=d{n} {head}\r\n")
    };
    for rate in [5_000, 10_000, 15_000] {
        ask_and_tell("by address", at, rate, by_address);
    }
    ask_and_tell("by account and device", at, 10_000, by_account);

    let pull = |query: &str| {
        let begin = Instant::now();
        let reply = ask(at, "GET", query, &[("X-Api-Key", KEY)], "").unwrap();
        eprintln!("{query}: {:?}, {} kB", begin.elapsed(), reply.body.len() / 1024);
    };
    let before = resident();
    pull("/v1/decisions/stream?startup=true");
    eprintln!("which took {} MB", resident().saturating_sub(before) / 1024);
    pull("/v1/decisions/stream");
    for n in 0..1_000 {
        put(&server, n, START + 7_200_000, 2);
    }
    pull("/v1/decisions/stream");
    for format in ["text", "json", "nginx", "haproxy", "nft"] {
        pull(&format!("/v1/blocklist?format={format}"));
    }

    // The same while lists change and a bouncer is given everything.
    let changing = Arc::clone(&server);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let until = Arc::clone(&done);
    let changer = std::thread::spawn(move || {
        for generation in 3.. {
            for n in 0..500 {
                put(&changing, n, START + 7_200_000 + generation, generation);
            }
            ask(at, "GET", "/v1/decisions/stream?startup=true", &[("X-Api-Key", KEY)], "").unwrap();
            if until.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
    });
    ask_and_tell("by address, while 500 entries change and a bouncer starts, twice a second", at, 10_000, by_address);
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    changer.join().unwrap();
}

/// From a record of the blocklist, as it is handed to Kafka, to the first deny.
#[test]
#[ignore = "prints figures"]
fn figures_of_the_way_from_a_record_to_a_deny() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-way");
    let teller = Teller::new(&connection);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let mut times: Vec<u64> = (0..500)
        .map(|n| {
            let ip = address(n).to_string();
            let begin = Instant::now();
            teller.restrict(Scope::Ip, &ip, Action::Block, None, 1);
            while edge.get(&format!("/v1/check?ip={ip}")).status != 403 {}
            begin.elapsed().as_micros() as u64
        })
        .collect();
    times.sort_unstable();
    eprintln!("record to deny: p50 {} µs, p99 {} µs, most {} µs", times[249], times[494], times[499]);
}

#[test]
fn a_million_pairs_are_told_from_a_million_strangers() {
    let mut pairs = KnownPairs::default();
    let key = |n: u64| u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    for n in 0..PAIRS / 10 {
        pairs.set(key(n), Some(18_000));
    }
    assert_eq!(pairs.len() as u64, PAIRS / 10);
    assert!((0..PAIRS / 10).all(|n| pairs.is_known(key(n), 18_030)));
    assert!(!(PAIRS / 10..PAIRS / 5).any(|n| pairs.is_known(key(n), 18_030)));
}
