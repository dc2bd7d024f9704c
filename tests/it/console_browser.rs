//! A real browser for tests: Chromium, driven by `tests/browser/driver.mjs` in Node.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::repository;

pub struct Browser {
    driver: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts one for a server at this port of this machine.
    pub fn start(port: u16) -> Browser {
        let mut driver = Command::new("node")
            .arg(repository().join("tests/browser/driver.mjs"))
            .args([modules(), chromium()])
            .arg(format!("http://127.0.0.1:{port}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node: run `make setup`");
        let commands = driver.stdin.take();
        let answers = BufReader::new(driver.stdout.take().unwrap());
        Browser { driver, commands, answers }
    }

    /// Does one thing and gives the answer.
    #[track_caller]
    pub fn ask(&mut self, command: &Value) -> Value {
        let commands = self.commands.as_mut().unwrap();
        writeln!(commands, "{command}").unwrap();
        commands.flush().unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{command}: {e}: {line:?}"));
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["answer"].clone()
    }

    #[track_caller]
    pub fn goto(&mut self, path: &str) {
        assert_eq!(self.ask(&json!({"what": "goto", "path": path})), 200, "{path}");
    }

    /// The text of the first element that a selector finds, once there is one.
    #[track_caller]
    pub fn wait(&mut self, selector: &str) -> String {
        self.ask(&json!({"what": "wait", "selector": selector})).as_str().unwrap().to_owned()
    }

    /// The text of all elements that a selector finds now.
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> Vec<String> {
        serde_json::from_value(self.ask(&json!({"what": "text", "selector": selector}))).unwrap()
    }

    #[track_caller]
    pub fn count(&mut self, selector: &str) -> u64 {
        self.ask(&json!({"what": "count", "selector": selector})).as_u64().unwrap()
    }

    #[track_caller]
    pub fn fill(&mut self, selector: &str, text: &str) {
        self.ask(&json!({"what": "fill", "selector": selector, "text": text}));
    }

    /// Presses a button, and waits for the page that comes of it.
    #[track_caller]
    pub fn submit(&mut self, selector: &str) {
        self.ask(&json!({"what": "submit", "selector": selector}));
    }

    #[track_caller]
    pub fn press(&mut self, key: &str) {
        self.ask(&json!({"what": "press", "key": key}));
    }

    #[track_caller]
    pub fn scheme(&mut self, scheme: &str) {
        self.ask(&json!({"what": "scheme", "scheme": scheme}));
    }

    #[track_caller]
    pub fn size(&mut self, width: u32, height: u32) {
        self.ask(&json!({"what": "size", "width": width, "height": height}));
    }

    /// What an accessibility check finds.
    #[track_caller]
    pub fn violations(&mut self) -> Vec<String> {
        serde_json::from_value(self.ask(&json!({"what": "axe"}))).unwrap()
    }

    /// What pages did since the last call that none must do: dialogs, errors, requests to elsewhere.
    #[track_caller]
    pub fn problems(&mut self) -> Vec<String> {
        serde_json::from_value(self.ask(&json!({"what": "problems"}))).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser when nobody tells it anything any more.
        drop(self.commands.take());
        drop(self.driver.wait());
    }
}

/// Where `make setup` put what Node needs: by the lock file, so that another lock is another folder.
fn modules() -> PathBuf {
    let lock = include_bytes!("../browser/package-lock.json");
    let digest: String = Sha256::digest(lock).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let cache = std::env::var("PORTCULLIS_CACHE")
        .unwrap_or_else(|_| format!("{}/.cache/portcullis", std::env::var("HOME").unwrap()));
    let modules = Path::new(&cache).join(format!("tools/browser-{digest}"));
    assert!(modules.join("node_modules/playwright-core").is_dir(), "{}: run `make setup`", modules.display());
    modules
}

fn chromium() -> PathBuf {
    let places = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    places.into_iter().find(|place| place.is_file()).expect("chromium: run `make setup`")
}
