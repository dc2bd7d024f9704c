//! nginx: a file that a `geo` block includes, a test of the whole configuration, and a reload.
//!
//! ```nginx
//! geo $portcullis_blocked { default 0; include /etc/nginx/portcullis.geo; }
//! location /login { if ($portcullis_blocked) { return 403; } … }
//! ```
//!
//! Beside the file stands `.<name>.previous` from before a new list is in place until nginx was told of it: what nginx
//! was told of last. It is put back when nginx refuses the new one, and its presence says after a crash that a reload is
//! owed. nginx's own configuration is never written.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::replace::{Stamp, beside, read_text, remove, replace, resolved, stamp};
use super::{Actual, Adapter, ENTRIES_MAX, Edge, Element, Elements, Error, Plan, Reach, Width, Written, command};
use crate::event::wire::{format_millis, parse_millis};
use crate::event::{Millis, Scope};
use crate::topology::exemptions::prefix_of;

/// Default for how long a test or a reload may take, in milliseconds.
const COMMAND_MS_MAX: u64 = 10_000;
const HEADER: &str = "# Written by `portcullis sink nginx`; what is edited here is undone.\n\
    # geo $portcullis_blocked { default 0; include <this file>; }  and where people log in:\n\
    # if ($portcullis_blocked) { return 403; }\n";
const LINE_END: &str = " 1;";
const UNTIL: &str = " # until ";

/// How nginx is told to take up a new list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// SIGHUP to the process whose number stands in this file.
    PidFile(PathBuf),
    /// A program and its arguments.
    Command(Vec<String>),
    /// Not at all: somebody else does it.
    Never,
}

/// Where the list goes and how nginx is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxOptions {
    /// The file that a `geo` block includes.
    pub file: PathBuf,
    /// Program and arguments that test the configuration; empty for none.
    pub test: Vec<String>,
    pub reload: Reload,
    /// How long one of the two may take, in milliseconds.
    pub command_ms_max: u64,
}

impl NginxOptions {
    /// `nginx -t` and `nginx -s reload`, with `-c` and `-p` where the configuration or the prefix is not the usual one.
    #[must_use]
    pub fn new(file: PathBuf, config: Option<&Path>, prefix: Option<&Path>) -> Self {
        let mut nginx = vec!["nginx".to_owned()];
        for (flag, path) in [("-c", config), ("-p", prefix)] {
            if let Some(path) = path {
                nginx.extend([flag.to_owned(), path.display().to_string()]);
            }
        }
        let with = |more: &[&str]| nginx.iter().cloned().chain(more.iter().map(|m| (*m).to_owned())).collect();
        NginxOptions {
            file,
            test: with(&["-t", "-q"]),
            reload: Reload::Command(with(&["-s", "reload"])),
            command_ms_max: COMMAND_MS_MAX,
        }
    }
}

/// A real nginx as an edge.
#[derive(Debug)]
pub struct NginxEdge {
    options: NginxOptions,
    previous: PathBuf,
    /// What was found or written last, as long as the file is the same.
    seen: Option<(Stamp, Actual)>,
}

impl NginxEdge {
    #[must_use]
    pub fn new(mut options: NginxOptions) -> Self {
        options.file = resolved(options.file);
        let previous = beside(&options.file, "previous");
        NginxEdge { options, previous, seen: None }
    }

    /// Keeps what nginx was told of last, unless an earlier one is still owed a reload.
    fn keep_previous(&self, actual: &Actual) -> Result<(), Error> {
        if stamp(&self.previous)?.is_some() {
            return Ok(());
        }
        // Foreign lines must not come back, so of such a file only what is ours is kept. A link costs nothing, and not
        // every file system has them.
        let is_ours = !actual.missing && actual.foreign == 0;
        if is_ours && fs::hard_link(&self.options.file, &self.previous).is_ok() {
            return Ok(());
        }
        replace(&self.previous, render(&actual.elements).as_bytes())
    }

    fn put_back(&self, said: String) -> Error {
        match fs::rename(&self.previous, &self.options.file) {
            Ok(()) => Error::Refused(said),
            Err(e) => Error::io("put back (the configuration does not pass its test)", &self.options.file)(e),
        }
    }

    fn test(&self) -> Result<(), String> {
        if self.options.test.is_empty() { Ok(()) } else { command::run(&self.options.test, self.limit()) }
    }

    fn reload(&self) -> Result<(), String> {
        match &self.options.reload {
            Reload::Never => Ok(()),
            Reload::Command(argv) => command::run(argv, self.limit()),
            Reload::PidFile(path) => {
                let id = nginx_process(path)?;
                command::run(&["kill".to_owned(), "-HUP".to_owned(), id.to_string()], self.limit())
            }
        }
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.options.command_ms_max)
    }
}

impl Adapter for NginxEdge {
    fn edge(&self) -> Edge {
        Edge { reach: Reach::Addresses, width: Width::Route, capacity: ENTRIES_MAX, nests: true }
    }

    fn read(&mut self, _now: Millis) -> Result<Actual, Error> {
        let unsettled = stamp(&self.previous)?.is_some();
        let Some(stamp) = stamp(&self.options.file)? else {
            self.seen = None;
            return Ok(Actual { missing: true, unsettled, ..Actual::default() });
        };
        let known = self.seen.take().filter(|(known, _)| *known == stamp);
        let (_, mut actual) = match known {
            Some(known) => known,
            None => (stamp, parse(&read_text(&self.options.file)?)),
        };
        actual.unsettled = unsettled;
        self.seen = Some((stamp, actual.clone()));
        Ok(actual)
    }

    fn write(&mut self, target: Arc<Elements>, plan: &Plan, _now: Millis) -> Result<Written, Error> {
        let found = self.seen.take().map(|(_, actual)| actual);
        if plan.changes_set() {
            self.keep_previous(&found.unwrap_or(Actual { missing: true, ..Actual::default() }))?;
        }
        if plan.changes_anything() {
            replace(&self.options.file, render(&target).as_bytes())?;
        }
        let owed = stamp(&self.previous)?.is_some();
        if owed && let Err(said) = self.test() {
            return Err(self.put_back(said));
        }
        let pending = if owed { self.reload().err() } else { None };
        if owed && pending.is_none() {
            remove(&self.previous)?;
        }
        let actual = Actual { elements: target, ..Actual::default() };
        self.seen = stamp(&self.options.file)?.map(|stamp| (stamp, actual));
        let is_told = self.options.reload != Reload::Never;
        Ok(Written { reloaded: owed && is_told && pending.is_none(), pending })
    }
}

/// The process that a pid file names, if it is an nginx: a number left behind may be anybody's.
fn nginx_process(path: &Path) -> Result<u32, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|e| format!("nginx is not running: {shown}: {e}"))?;
    let id = text.trim().parse::<u32>().ok().filter(|id| *id > 1);
    let id = id.ok_or_else(|| format!("nginx is not running: there is no process number in {shown}"))?;
    match fs::read_to_string(format!("/proc/{id}/comm")) {
        Ok(name) if name.trim() == "nginx" => Ok(id),
        Ok(name) => Err(format!("nginx is not running: process {id} of {shown} is `{}`", name.trim())),
        Err(_) if Path::new("/proc/self").exists() => {
            Err(format!("nginx is not running: there is no process {id}, as {shown} says"))
        }
        Err(_) => Ok(id),
    }
}

fn render(elements: &Elements) -> String {
    let mut text = String::with_capacity(HEADER.len() + elements.len() * 64);
    text.push_str(HEADER);
    for (name, element) in elements {
        text.push_str(name);
        text.push_str(LINE_END);
        if let Some(until) = element.until {
            text.push_str(UNTIL);
            text.push_str(&format_millis(until));
        }
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Actual {
    let mut elements = Elements::new();
    let mut foreign = 0;
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let is_new = parse_line(line).is_some_and(|(name, element)| elements.insert(name, element).is_none());
        foreign += usize::from(!is_new);
    }
    Actual { elements: Arc::new(elements), foreign, missing: false, unsettled: false }
}

/// One line exactly as [`render`] writes it.
fn parse_line(line: &str) -> Option<(Box<str>, Element)> {
    let (name, rest) = line.split_once(LINE_END)?;
    prefix_of(Scope::Ip, name).or_else(|| prefix_of(Scope::Cidr, name))?;
    let until = match rest.strip_prefix(UNTIL) {
        Some(until) => Some(parse_millis(until).or_else(|| until.parse().ok())?),
        None if rest.is_empty() => None,
        None => return None,
    };
    Some((name.into(), Element { body: "1".into(), until }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(line: &str, expected: Option<(&str, Option<i64>)>) {
        let seen = parse_line(line);
        let seen = seen.as_ref().map(|(name, element)| (&**name, element.until));
        assert_eq!(seen, expected, "{line}");
    }

    #[test]
    fn only_lines_of_ours_are_understood() {
        check_line("203.0.113.9 1;", Some(("203.0.113.9", None)));
        check_line("203.0.113.0/24 1;", Some(("203.0.113.0/24", None)));
        check_line("2001:db8:1:2::/64 1;", Some(("2001:db8:1:2::/64", None)));
        check_line("203.0.113.9 1; # until 2019-06-28T00:54:50.000Z", Some(("203.0.113.9", Some(1_561_683_290_000))));
        check_line("203.0.113.9 1; # until 99999999999999999", Some(("203.0.113.9", Some(99_999_999_999_999_999))));
        for line in [
            "203.0.113.9 0;",
            "203.0.113.9",
            "default 1;",
            " 203.0.113.9 1;",
            "203.0.113.9  1;",
            "203.0.113.9/32 1;",
            "203.0.113.9/24 1;",
            "2001:db8::1 1;",
            "2001:DB8::/64 1;",
            "203.0.113.9 1; # until soon",
            "203.0.113.9 1; 203.0.113.10 1;",
            "include /etc/passwd;",
            "localhost 1;",
        ] {
            check_line(line, None);
        }
    }

    #[test]
    fn a_list_is_read_back_as_it_was_written() {
        let one = |name: &str, until: Option<i64>| (name.into(), Element { body: "1".into(), until });
        let elements = Elements::from([
            one("203.0.113.9", None),
            one("203.0.113.10", Some(1_561_683_290_123)),
            one("198.51.0.0/16", Some(i64::MAX)),
            one("2001:db8::/64", Some(0)),
        ]);
        let read = parse(&render(&elements));
        assert_eq!((&*read.elements, read.foreign), (&elements, 0));
        assert_eq!(parse(&format!("{}203.0.113.9 1;\nx\n", render(&elements))).foreign, 2);
    }

    #[test]
    fn a_pid_file_that_names_no_nginx_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nginx.pid");
        let check = |expected: &str| {
            let seen = nginx_process(&path).unwrap_err();
            assert!(seen.starts_with("nginx is not running") && seen.contains(expected), "{seen}");
        };
        check("No such file");
        for (text, expected) in [("", "no process number"), ("1\n", "no process number"), ("-5", "no process number")] {
            fs::write(&path, text).unwrap();
            check(expected);
        }
        fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        check("is `");
        fs::write(&path, "4194304\n").unwrap();
        check("there is no process 4194304");
    }
}
