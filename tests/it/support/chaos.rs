//! A job of several processes on a broker of its own, for faults to be done to.

use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::app::Connection;
use portcullis::log::ClientOptions;
use portcullis::topology::Topics;

use super::chaos_broker::Broker;
use super::kept::{EndBy, Kept, folder};
use super::{repository, until};

/// How long a member may be silent before its partitions go to others.
pub const SESSION_MS: u64 = 4_000;
/// How long the coordinator waits for the end of a transaction.
const TRANSACTION_MS: u64 = 5_000;
/// Instances that run at a time.
pub const INSTANCES: usize = 3;
/// State folders that wait for an instance: their stores grow old meanwhile.
const SPARE_FOLDERS: usize = 1;
const PREFIX: &str = "chaos.";

/// `SIGXFSZ` is ignored, so that a file that may not grow is an error of a write and not the end of the process.
const RUN: &str = r#"trap '' XFSZ; log=$1; shift; echo "$$" >"$log.pid"; exec "$@" >>"$log" 2>&1"#;

/// One process.
pub struct Instance {
    kept: Kept,
    pub pid: String,
    pub state: PathBuf,
    pub log: PathBuf,
    pub is_stopped: bool,
}

impl Instance {
    /// `KILL`, `STOP`, `CONT` or `TERM`.
    pub fn signal(&self, name: &str) {
        // One that has just ended cannot be signalled, which is found out elsewhere.
        drop(Command::new("kill").args(["-s", name, &self.pid]).output().expect("kill starts"));
    }

    /// The status it ended with, when it has.
    pub fn status(&mut self) -> Option<i32> {
        self.kept.status()
    }

    /// No file of it may grow by much from now on: a full disk, for one process. `false`: it has ended already.
    pub fn fill_disk(&self) -> bool {
        let written = std::fs::metadata(&self.log).map_or(0, |log| log.len());
        let limit = format!("--fsize={}", written + (4 << 10));
        Command::new("prlimit").args(["--pid", &self.pid, &limit]).output().expect("prlimit starts").status.success()
    }

    pub fn last_words(&self) -> String {
        super::tail(&self.log, 12)
    }
}

/// The job.
pub struct Job {
    pub broker: Broker,
    pub topology: PathBuf,
    pub instances: Vec<Instance>,
    spares: Vec<PathBuf>,
    starts: usize,
    folders: usize,
}

impl Job {
    /// Topics made, instances started.
    pub fn start() -> Job {
        let broker = Broker::start();
        let topology = broker.folder().join("topology");
        copy_topology(&repository().join("topology"), &topology);
        let mut job = Job { broker, topology, instances: Vec::new(), spares: Vec::new(), starts: 0, folders: 0 };
        let mut apply = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let done = apply.args(["topics", "apply"]).args(job.places(job.broker.bootstrap())).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        for _ in 0..SPARE_FOLDERS {
            let spare = job.new_folder();
            job.spares.push(spare);
        }
        for _ in 0..INSTANCES {
            let state = job.new_folder();
            let instance = job.run(state);
            job.instances.push(instance);
        }
        job
    }

    pub fn connection(&self) -> Connection {
        let text = std::fs::read_to_string(self.topology.join("topics.yaml")).unwrap();
        let topics = Topics::parse(&text, "portcullis", PREFIX, None).unwrap();
        Connection { client: ClientOptions::new(self.broker.bootstrap()), topics }
    }

    fn places(&self, bootstrap: &str) -> Vec<String> {
        let topology = self.topology.display().to_string();
        ["--bootstrap", bootstrap, "--topic-prefix", PREFIX, "--topology", &topology].map(str::to_owned).to_vec()
    }

    fn new_folder(&mut self) -> PathBuf {
        self.folders += 1;
        self.broker.folder().join(format!("state-{}", self.folders))
    }

    /// Starts a process over a state folder.
    pub fn run(&mut self, state: PathBuf) -> Instance {
        self.starts += 1;
        let log = self.broker.folder().join(format!("run-{:04}.log", self.starts));
        let pid_file = PathBuf::from(format!("{}.pid", log.display()));
        let mut command: Vec<String> = ["sh", "-c", RUN, "run"].map(str::to_owned).to_vec();
        command.push(log.display().to_string());
        command.push(env!("CARGO_BIN_EXE_portcullis").to_owned());
        command.extend([
            "run".to_owned(),
            "--no-warm-up".to_owned(),
            "--state-dir".to_owned(),
            state.display().to_string(),
        ]);
        command.extend(self.places(&self.broker.proxied()));
        for (name, value) in [
            ("session.timeout.ms", SESSION_MS),
            ("heartbeat.interval.ms", SESSION_MS / 5),
            ("transaction.timeout.ms", TRANSACTION_MS),
            ("reconnect.backoff.max.ms", 500),
        ] {
            command.extend(["-X".to_owned(), format!("{name}={value}")]);
        }
        let mut kept = Kept::start(folder("portcullis-run-"), EndBy::Kill, command);
        let pid = until(super::records::DEADLINE, "the process id of an instance", || {
            assert!(!kept.has_ended(), "{}", kept.last_words());
            std::fs::read_to_string(&pid_file).ok()?.strip_suffix('\n').map(str::to_owned)
        });
        Instance { kept, pid, state, log, is_stopped: false }
    }

    /// Puts another process in place of one that has ended, over this folder.
    pub fn replace(&mut self, at: usize, state: PathBuf) {
        self.instances[at] = self.run(state);
    }

    /// A state folder of another member, in exchange for this one.
    pub fn exchange(&mut self, state: PathBuf) -> PathBuf {
        self.spares.push(state);
        self.spares.remove(0)
    }
}

impl Job {
    /// Copies every log into a folder.
    pub fn keep_logs(&self, folder: &Path) {
        self.broker.keep_log();
        for entry in std::fs::read_dir(self.broker.folder()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "log") {
                std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
}

/// A folder of what went wrong, which stays.
pub fn folder_of_failure() -> PathBuf {
    folder("portcullis-chaos-failed-")
}

impl Drop for Job {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let folder = folder_of_failure();
            self.keep_logs(&folder);
            eprintln!("the logs of the job are in {}", folder.display());
        }
        // A stopped process does not end by a signal that it can see.
        self.instances.iter().for_each(|instance| instance.signal("KILL"));
    }
}

/// The shipped topology with times that pass while a test looks, and with topics that keep everything.
fn copy_topology(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            copy_topology(&path, &to.join(&name));
        } else {
            let text = shortened(&name, &std::fs::read_to_string(&path).unwrap());
            std::fs::write(to.join(&name), text).unwrap();
        }
    }
}

fn shortened(name: &str, text: &str) -> String {
    let edits: &[(&str, &str)] = match name {
        "topics.yaml" => &[
            ("stage_partitions: 8", "stage_partitions: 4"),
            ("partitions: 8\n    ours: false", "partitions: 4\n    ours: false"),
            ("cleanup: compact,delete", "cleanup: delete"),
            ("cleanup: compact", "cleanup: delete"),
        ],
        // The oracle knows logins alone and no `where`, and weighs no evidence.
        "ip-enumeration.yaml" | "account-reset-flood.yaml" | "source-posterior.yaml" | "canary-name.yaml" => {
            &[("mode: live", "mode: off")]
        }
        "ip-account-fanout.yaml" => &[
            ("over: 10m", "over: 20s"),
            ("calm: 10, elevated: 5, attack: 3", "calm: 6, elevated: 4, attack: 3"),
            ("ladder: [15m, 1h, 4h, 12h]", "ladder: [12s, 20s, 40s]\n  ladder_memory: 90s"),
        ],
        "ip-failure-rate.yaml" => &[
            ("over: 10m", "over: 20s"),
            ("calm: 20, elevated: 12, attack: 8", "calm: 8, elevated: 6, attack: 4"),
            ("ladder: [15m, 1h, 4h, 12h]", "ladder: [12s, 20s, 40s]\n  ladder_memory: 90s"),
        ],
        "network-rollup.yaml" => &[
            ("over: 10m", "over: 20s"),
            ("at_least: 5", "at_least: 3"),
            ("ladder: [1h, 4h, 12h]", "ladder: [15s, 30s]\n  ladder_memory: 90s"),
        ],
        "account-distributed-guessing.yaml" => &[
            ("over: 30m", "over: 30s"),
            ("at_least: 10", "at_least: 6"),
            ("at_least: 8", "at_least: 4"),
            ("[12h]", "[20s]"),
        ],
        "account-compromised.yaml" => &[("over: 15m", "over: 60s"), ("[12h]", "[25s]")],
        _ => &[],
    };
    let mut text = text.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{name} has no `{from}` any more");
        text = text.replace(from, to);
    }
    text
}
