//! The program as a user runs it: its commands as processes of their own, against the shared Kafka.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use portcullis::app::Connection;

use super::kafka::shared;
use super::kept::{EndBy, Kept, folder};
use super::records::connection;
use super::until;

/// One installation: topics under a prefix of its own, a folder for whatever it keeps.
pub struct Installed {
    prefix: String,
    pub folder: tempfile::TempDir,
    topology: Option<PathBuf>,
    listen: u16,
}

impl Installed {
    pub fn new(name: &str) -> Installed {
        let [listen] = super::free_ports();
        let folder = tempfile::tempdir().unwrap();
        Installed { prefix: format!("{name}."), folder, topology: None, listen }
    }

    /// The shipped topology, its files changed by `edit`.
    pub fn with_topology(mut self, edit: impl Fn(&str, String) -> String) -> Installed {
        let to = self.folder.path().join("topology");
        copy(&super::repository().join("topology"), &to, &edit);
        self.topology = Some(to);
        self
    }

    pub fn connection(&self) -> Connection {
        connection(shared().bootstrap(), self.prefix.trim_end_matches('.'))
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = vec![env!("CARGO_BIN_EXE_portcullis").to_owned()];
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        all.extend(["--bootstrap".to_owned(), shared().bootstrap().to_owned()]);
        all.extend(["--topic-prefix".to_owned(), self.prefix.clone()]);
        // A broker that all tests share is slow to answer when two cores are busy.
        all.extend(["-X".to_owned(), "session.timeout.ms=30000".to_owned()]);
        if let Some(topology) = &self.topology {
            all.extend(["--topology".to_owned(), topology.display().to_string()]);
        }
        all
    }

    /// Runs a command to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        let all = self.arguments(arguments);
        Command::new(&all[0]).args(&all[1..]).output().unwrap()
    }

    /// Runs a command to its end and gives what it wrote; it must succeed.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
        out
    }

    /// Starts a command that runs until the handle is dropped: by SIGTERM, or by SIGKILL.
    pub fn start(&self, arguments: &[&str], end_by: EndBy) -> Kept {
        Kept::start(folder("portcullis-job-"), end_by, self.arguments(arguments))
    }

    /// Starts `run` and waits until it is ready.
    pub fn run(&self, end_by: EndBy) -> Kept {
        self.run_with(&[], end_by)
    }

    /// The same, with further flags.
    pub fn run_with(&self, flags: &[&str], end_by: EndBy) -> Kept {
        let state = self.folder.path().join("state").display().to_string();
        let listen = format!("127.0.0.1:{}", self.listen);
        let run = [&["run", "--no-warm-up", "--state-dir", &state, "--listen", &listen], flags].concat();
        let mut kept = self.start(&run, end_by);
        until(super::records::DEADLINE, "the job to be ready", || {
            assert!(!kept.has_ended(), "{}", kept.last_words());
            (self.get("/readyz").0 == 200).then_some(())
        });
        kept
    }

    /// Asks the job; status 0 when nobody answers.
    pub fn get(&self, path: &str) -> (u16, String) {
        super::http(self.listen, path)
    }

    /// A counter of the job, as committed.
    pub fn counted(&self, name: &str) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&self.get("/status").1).unwrap_or_default();
        status["counts"][name].as_u64().unwrap_or(0)
    }
}

fn copy(from: &Path, to: &Path, edit: &impl Fn(&str, String) -> String) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target, edit);
        } else {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            std::fs::write(target, edit(&name, std::fs::read_to_string(&path).unwrap())).unwrap();
        }
    }
}
