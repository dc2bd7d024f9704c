//! Several `run` processes of one installation, and a paced publisher that is watched until its events are through.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};

use portcullis::engine::frame::FrameReader;
use portcullis::engine::{Item, Sourced};
use portcullis::event::wire::login_event_to_json;
use portcullis::event::{LoginEvent, Outcome};
use portcullis::log::follow::{Followed, Follower, ReadFrom};
use portcullis::log::publish::Publisher;
use serde_json::Value;

use super::job::Installed;
use super::kafka::shared;
use super::kept::{EndBy, Kept, folder};
use super::{free_ports, until};

/// A rebalance may take a session, and two cores are shared by many tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One `run` process. Its state folder stays when it ends, so that it can be started again.
pub struct Instance {
    listen: u16,
    pid: u32,
    kept: Kept,
}

impl Instance {
    /// Starts one that has a state folder of this name in the installation's; it is ready when it has a task.
    pub fn start(installed: &Installed, name: &str, flags: &[&str]) -> Instance {
        let [listen] = free_ports();
        let state = installed.folder.path().join(name);
        let folder = folder("portcullis-instance-");
        let pid_file = folder.join("pid");
        let listen_at = format!("127.0.0.1:{listen}");
        let [state_dir, pid_path] = [&state, &pid_file].map(|path| path.display().to_string());
        let prefix = installed.topic("");
        // Its process id, so that it can be signalled; the program then takes the shell's place.
        let shell = ["sh", "-c", r#"echo $$ >"$0"; exec "$@""#, &pid_path, env!("CARGO_BIN_EXE_portcullis")];
        let run = ["run", "--no-warm-up", "--state-dir", &state_dir, "--listen", &listen_at, "--topic-prefix", &prefix];
        let bootstrap = ["--bootstrap", shared().bootstrap()];
        let mut kept = Kept::start(folder, EndBy::Kill, [&shell[..], &run, &bootstrap, flags].concat());
        let pid = until(PATIENCE, "a process id", || {
            std::fs::read_to_string(&pid_file).ok()?.strip_suffix('\n')?.parse::<u32>().ok()
        });
        let ready = || super::http(listen, "/readyz").0 == 200;
        until(PATIENCE, "the instance to have a task", || {
            assert!(!kept.has_ended(), "{name} ended: {}", kept.last_words());
            ready().then_some(())
        });
        Instance { listen, pid, kept }
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&super::http(self.listen, "/status").1).unwrap_or_default()
    }

    /// Names of its tasks, control among them.
    pub fn tasks(&self) -> Vec<String> {
        self.status()["tasks"].as_object().map(|tasks| tasks.keys().cloned().collect()).unwrap_or_default()
    }

    pub fn rebalances(&self) -> u64 {
        self.status()["rebalances"].as_u64().unwrap_or_default()
    }

    /// Sends SIGTERM and waits for its end; gives what it counted in its life.
    pub fn stop(mut self) -> BTreeMap<String, u64> {
        let told = Command::new("kill").args(["-s", "TERM", &self.pid.to_string()]).status().unwrap();
        assert!(told.success());
        until(PATIENCE, "the instance to end", || self.kept.has_ended().then_some(()));
        let words = self.kept.last_words();
        let counts = words.rsplit_once("counts=\"").and_then(|(_, rest)| rest.split_once('"'));
        let (counts, _) = counts.unwrap_or_else(|| panic!("no last counts: {words}"));
        let pairs = counts.split(", ").filter_map(|pair| pair.split_once(' '));
        pairs.map(|(name, n)| (name.to_owned(), n.parse().unwrap())).collect()
    }
}

/// Waits until the tasks lie with these instances, each with as many as another or one more, and nothing is restored.
pub fn wait_until_shared(what: &str, all_tasks: usize, instances: &[&Instance]) -> Vec<usize> {
    let fair = all_tasks / instances.len();
    until(PATIENCE, what, || {
        let held: Vec<usize> = instances.iter().map(|instance| instance.tasks().len()).collect();
        let is_done = instances.iter().all(|i| i.status()["restoring"].as_object().is_some_and(|of| of.is_empty()));
        let is_fair = held.iter().all(|n| (fair..=fair + 1).contains(n));
        (is_done && is_fair && held.iter().sum::<usize>() == all_tasks).then_some(held)
    })
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Publishes to several installations at an even pace until it is told to stop: honest people, addresses that guess at
/// many accounts, and accounts that many addresses guess at. All events of an address go to one partition, in order.
pub struct Publishing {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<u64>>,
    thread: Option<JoinHandle<()>>,
}

impl Publishing {
    pub fn start(installed: &[&Installed], per_second: u32) -> Publishing {
        let stop = Arc::new(AtomicBool::new(false));
        let sent: Arc<Mutex<u64>> = Arc::default();
        let topics: Vec<String> = installed.iter().map(|installed| installed.topic("login-events")).collect();
        let publisher = Publisher::new(&installed[0].connection().client).unwrap();
        let (told, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let between = Duration::from_secs(1) / per_second;
        let thread = std::thread::spawn(move || {
            let mut due = Instant::now();
            for number in 0.. {
                while Instant::now() < due {
                    park_timeout(due.saturating_duration_since(Instant::now()));
                }
                if told.load(Ordering::SeqCst) {
                    break;
                }
                let at = now();
                let event = event(number, at);
                for topic in &topics {
                    let key = event.source_ip.as_bytes();
                    publisher.send(topic, Some(key), &login_event_to_json(&event), at).unwrap();
                }
                publisher.poll(Duration::ZERO);
                *count.lock().unwrap() = number + 1;
                due += between;
            }
            assert_eq!(publisher.flush(PATIENCE).unwrap().failed, 0);
        });
        Publishing { stop, sent, thread: Some(thread) }
    }

    pub fn sent(&self) -> u64 {
        *self.sent.lock().unwrap()
    }

    /// Waits for so many more.
    pub fn wait_for_more(&self, events: u64) {
        let target = self.sent() + events;
        until(PATIENCE, "more events", || (self.sent() >= target).then_some(()));
    }

    /// Ends it, and gives how many events were published.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.sent()
    }
}

/// The event of a number. One in four fails for an attacker, so that the site stays calm and thresholds stay where they
/// are: else it would hang on the moment of a mark where they change.
fn event(number: u64, at: i64) -> LoginEvent {
    let round = number / 8;
    let (account, source_ip, outcome) = match number % 8 {
        // An address guesses at 40 accounts, then the next one does.
        0 => (format!("guessed{number}"), format!("45.1.{}.9", round / 40 % 250), Outcome::Failure),
        // An account is guessed at from 40 addresses, each in a network of its own, then the next one is.
        1 => (format!("wanted{}", round / 40), format!("46.{}.{}.9", round / 200, round % 200), Outcome::Failure),
        _ => {
            let person = number.wrapping_mul(2_654_435_761) % 400;
            (format!("person{person}"), format!("81.2.{}.{}", person / 4, person % 4 + 1), Outcome::Success)
        }
    };
    LoginEvent {
        event_id: format!("paced-{number}"),
        occurred_at: at,
        account: format!("{account}@mail.example"),
        outcome,
        source_ip,
        ..LoginEvent::default()
    }
}

/// One event that came through: when it was published and when it was seen, in milliseconds since the epoch.
#[derive(Debug, Clone)]
pub struct Through {
    pub event_id: String,
    pub published_at: i64,
    pub seen_at: i64,
}

/// Reads one internal topic while the instances work, and notes what came through when.
pub struct Watching {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Through>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    pub fn start(installed: &Installed, topic: &str) -> Watching {
        let stop = Arc::new(AtomicBool::new(false));
        let seen: Arc<Mutex<Vec<Through>>> = Arc::default();
        let mut follower =
            Follower::new(&installed.connection().client, &[installed.topic(topic)], ReadFrom::Start).unwrap();
        let (told, notes) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                let Followed::Record(record) = follower.poll(Duration::from_millis(20)).unwrap() else { continue };
                let seen_at = now();
                let through = items(record.value.as_deref().unwrap()).into_iter().filter_map(|item| match item {
                    Item::Attempt(attempt) => Some(*attempt),
                    Item::Sourced(sourced) => Some(Sourced::clone(&sourced).attempt),
                    Item::Device(_) | Item::Note(_) | Item::Partial(_) | Item::Mark(_) | Item::Request(_) => None,
                });
                let through = through.map(|attempt| Through {
                    event_id: attempt.event_id.to_string(),
                    published_at: attempt.arrived_at,
                    seen_at,
                });
                notes.lock().unwrap().extend(through);
            }
        });
        Watching { stop, seen, thread: Some(thread) }
    }

    /// Waits until so many came through, then ends and gives them all.
    pub fn wait_for(mut self, events: u64) -> Vec<Through> {
        let count = || self.seen.lock().unwrap().len() as u64;
        until(PATIENCE, "every event downstream", || (count() >= events).then_some(()));
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// The items of a frame; all of them must read.
pub fn items(frame: &[u8]) -> Vec<Item> {
    FrameReader::new(frame).unwrap().map(|item| item.unwrap()).collect()
}

/// The longest time that an event published within a span took to come through, in milliseconds.
pub fn longest(seen: &[Through], span: (i64, i64)) -> i64 {
    let within = seen.iter().filter(|through| (span.0..span.1).contains(&through.published_at));
    within.map(|through| through.seen_at - through.published_at).max().unwrap_or_default()
}

/// Names spans of time one after the other.
#[derive(Debug, Default)]
pub struct Spans(Vec<(String, i64)>);

impl Spans {
    pub fn begin(&mut self, name: &str) {
        self.0.push((name.to_owned(), now()));
    }

    /// Each span with its begin and end; the last one ends now.
    pub fn ended(&self) -> Vec<(String, (i64, i64))> {
        let ends = self.0.iter().skip(1).map(|(_, at)| *at).chain([now()]);
        self.0.iter().zip(ends).map(|((name, from), to)| (name.clone(), (*from, to))).collect()
    }
}
