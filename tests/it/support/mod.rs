//! What the tests stand on: the real parts they start, and how they wait.

pub mod chaos;
pub mod chaos_broker;
pub mod chaos_check;
pub mod chaos_faults;
pub mod chaos_traffic;
pub mod core;
pub mod edge;
pub mod edges;
pub mod fleet;
pub mod ingest;
pub mod job;
pub mod kafka;
pub mod kept;
pub mod keycloak;
pub mod mmdb;
pub mod model_rig;
pub mod nginx;
pub mod notify;
pub mod oracle;
pub mod proxy;
pub mod records;
pub mod registry;
pub mod simulation_dice;
pub mod simulation_log;
pub mod simulation_oracle;
pub mod simulation_traffic;
pub mod simulation_weather;
pub mod simulation_world;
pub mod sink;
pub mod stages;

use std::path::Path;
use std::time::{Duration, Instant};

/// The checkout.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Waits for a condition: the first `Some` is the answer. Panics with `what` when the deadline passes, so `what` says
/// what was waited for ("203.0.113.9 on the blocklist").
///
/// A test never sleeps for a fixed time: it is either too short on a slow machine or too long on all others.
#[track_caller]
pub fn until<T>(deadline: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    const PARK_MAX: Duration = Duration::from_millis(50);
    let start = Instant::now();
    let mut park = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        std::thread::park_timeout(park);
        park = (park * 2).min(PARK_MAX);
    }
}

/// A TCP port of the loopback interface that nobody listens on. Another program may take it before it is used, so who
/// asks for one tries again when its server says that the address is in use.
pub fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, so that no two are the same.
    let listeners: [std::net::TcpListener; N] =
        std::array::from_fn(|_| std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

/// Asks a port of this machine; status 0 when nobody answers.
pub fn http(port: u16, path: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let ask = || -> std::io::Result<(u16, String)> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    };
    ask().unwrap_or_default()
}

/// The last lines of a log, for the text of a panic.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

mod waiting {
    use super::*;

    #[test]
    fn until_returns_the_first_answer() {
        let mut asked = 0;
        let answer = until(Duration::from_secs(10), "the third time", || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(answer, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for: rain")]
    fn until_names_what_it_waited_for() {
        until(Duration::from_millis(5), "rain", || None::<()>);
    }
}
