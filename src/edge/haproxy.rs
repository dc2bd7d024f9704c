//! HAProxy: a map in its memory, by the commands of its stats socket. Nothing is reloaded.
//!
//! ```text
//! http-request deny deny_status 403 if { path_beg /login } { src,map_ip(/etc/haproxy/portcullis.map) -m found }
//! ```
//!
//! The map's value is the end of the entry in milliseconds, or `-`, so that a sink that comes back knows it. A few changes
//! are made one by one; many, or anything that does not go as it should, become a new version of the map, which takes the
//! place of the old one at once. The list is read at every look: a HAProxy that was reloaded has what its file had, and
//! gets the rest within one look.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::{Actual, Adapter, Change, ENTRIES_MAX, Edge, Element, Elements, Error, Plan, Reach, Width, Written};
use crate::event::{Millis, Scope};
use crate::topology::exemptions::prefix_of;

/// Longest command, in bytes: half of the default `tune.bufsize`, over which a command is dropped without a word.
const COMMAND_BYTES_MAX: usize = 8 << 10;
/// Up to so many changes are made one by one.
const CHANGES_ONE_BY_ONE_MAX: usize = 500;
/// Longest wait for the socket, for each thing that is read or written.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest answer, in bytes: a million lines are 45 MB.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
const NO_END: &str = "-";

/// Where HAProxy listens for commands, and which map is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyOptions {
    /// A path, or `host:port`.
    pub socket: String,
    /// The map as its configuration names it: a path, or `#` and its number.
    pub map: String,
}

/// A running HAProxy as an edge.
#[derive(Debug)]
pub struct HaproxyEdge {
    options: HaproxyOptions,
}

impl HaproxyEdge {
    /// # Errors
    /// The name of the map has characters that the socket takes for the end of a command.
    pub fn new(options: HaproxyOptions) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_graphic() && c != ';' && c != '\\';
        if options.map.is_empty() || !options.map.chars().all(is_plain) {
            return Err(format!("the map `{}` cannot be named in a command: no spaces, `;` or `\\`", options.map));
        }
        Ok(HaproxyEdge { options })
    }

    fn ask(&self, command: &str) -> Result<String, Error> {
        let asked = if self.options.socket.contains('/') {
            UnixStream::connect(&self.options.socket).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                stream.set_write_timeout(Some(ANSWER_MAX))?;
                exchange(stream, command)
            })
        } else {
            connect(&self.options.socket).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                stream.set_write_timeout(Some(ANSWER_MAX))?;
                exchange(stream, command)
            })
        };
        asked.map_err(|e| away(format!("{}: {e}", self.options.socket)))
    }

    /// A command that says nothing when all is well.
    fn tell(&self, command: &str) -> Result<(), Error> {
        let answer = self.ask(command)?;
        match answer.trim() {
            "" => Ok(()),
            said => Err(away(first_line(said))),
        }
    }

    /// A whole new version, which takes the place of the old one when it is complete.
    fn replace(&self, target: &Elements) -> Result<(), Error> {
        let map = &self.options.map;
        let answer = self.ask(&format!("prepare map {map}"))?;
        let version = answer.trim().strip_prefix("New version created: ").and_then(|n| n.trim().parse::<u32>().ok());
        let version = version.ok_or_else(|| away(first_line(answer.trim())))?;
        let head = format!("add map @{version} {map} <<\n");
        let mut command = head.clone();
        for (name, element) in target {
            let before = command.len();
            let _written = writeln!(command, "{name} {}", value(element));
            if command.len() > COMMAND_BYTES_MAX {
                let last = command.split_off(before);
                self.tell(&command)?;
                command.clone_from(&head);
                command.push_str(&last);
            }
        }
        if command.len() > head.len() {
            self.tell(&command)?;
        }
        self.tell(&format!("commit map @{version} {map}"))
    }

    fn change(&self, plan: &Plan, target: &Elements) -> Result<(), Error> {
        let map = &self.options.map;
        let mut line = String::new();
        for change in plan.changes(target) {
            let before = line.len();
            let _written = match change {
                Change::Remove(name) => write!(line, "del map {map} {name};"),
                Change::Put(name, element) => write!(line, "set map {map} {name} {};", value(element)),
                Change::Add(name, element) => write!(line, "add map {map} {name} {};", value(element)),
            };
            if line.len() > COMMAND_BYTES_MAX {
                let last = line.split_off(before);
                self.tell(&line)?;
                line = last;
            }
        }
        if line.is_empty() { Ok(()) } else { self.tell(&line) }
    }
}

impl Adapter for HaproxyEdge {
    fn edge(&self) -> Edge {
        Edge { reach: Reach::Addresses, width: Width::Route, capacity: ENTRIES_MAX, nests: true }
    }

    fn read(&mut self, _now: Millis) -> Result<Actual, Error> {
        let answer = self.ask(&format!("show map {}", self.options.map))?;
        parse(&answer).map_err(away)
    }

    fn write(&mut self, target: Arc<Elements>, plan: &Plan, _now: Millis) -> Result<Written, Error> {
        let is_small = !plan.repair && plan.changes_count() <= CHANGES_ONE_BY_ONE_MAX;
        // What does not go one by one, for whatever reason, is put right as a whole.
        if !is_small || self.change(plan, &target).is_err() {
            self.replace(&target)?;
        }
        Ok(Written::default())
    }
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER_MAX) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// One command, or several with `;` between; the other side closes when it has answered.
fn exchange(mut stream: impl Read + Write, command: &str) -> std::io::Result<String> {
    stream.write_all(command.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    if answer.is_empty() {
        // Every command is answered, if only by an empty line: what gets none was not carried out.
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no answer; is the command too long?"));
    }
    String::from_utf8(answer).map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer is no text"))
}

fn away(why: String) -> Error {
    Error::Away { edge: "HAProxy".to_owned(), why }
}

fn first_line(said: &str) -> String {
    said.lines().next().unwrap_or_default().chars().take(200).collect()
}

fn value(element: &Element) -> String {
    element.until.map_or_else(|| NO_END.to_owned(), |until| until.to_string())
}

/// The lines of `show map`: where it lies in memory, key, value.
fn parse(answer: &str) -> Result<Actual, String> {
    let mut elements = Elements::new();
    let mut foreign = 0;
    for line in answer.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split(' ');
        let (place, name, value, rest) = (words.next(), words.next(), words.next(), words.next());
        if !place.is_some_and(|place| place.starts_with("0x")) {
            return Err(first_line(line));
        }
        let element = name.zip(value).filter(|_| rest.is_none()).and_then(|(name, value)| ours(name, value));
        let is_new = element.is_some_and(|(name, element)| elements.insert(name, element).is_none());
        foreign += usize::from(!is_new);
    }
    Ok(Actual { elements: Arc::new(elements), foreign, missing: false, unsettled: false })
}

/// A line as we write it; `None` for one of somebody else.
fn ours(name: &str, value: &str) -> Option<(Box<str>, Element)> {
    prefix_of(Scope::Ip, name).or_else(|| prefix_of(Scope::Cidr, name))?;
    let until = if value == NO_END { None } else { Some(value.parse().ok()?) };
    Some((name.into(), Element { body: "1".into(), until }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_as_it_was_written() {
        let answer = "0x7f68 203.0.113.9 1561683290000\n0x7f69 203.0.113.0/24 -\n0x7f6a 2001:db8:1:2::/64 5\n\n";
        let read = parse(answer).unwrap();
        let seen: Vec<_> = read.elements.iter().map(|(name, element)| (&**name, element.until)).collect();
        let expected =
            [("2001:db8:1:2::/64", Some(5)), ("203.0.113.0/24", None), ("203.0.113.9", Some(1_561_683_290_000))];
        assert_eq!((&seen[..], read.foreign, read.missing), (&expected[..], 0, false));
        assert_eq!(parse("\n").unwrap().elements.len(), 0);
    }

    #[test]
    fn what_somebody_else_put_there_is_foreign_and_an_error_is_an_error() {
        for line in ["0x1 203.0.113.9 blocked", "0x1 example.org 5", "0x1 203.0.113.9", "0x1 203.0.113.9 5 6"] {
            assert_eq!(parse(line).unwrap().foreign, 1, "{line}");
        }
        assert_eq!(parse("0x1 203.0.113.9 5\n0x2 203.0.113.9 5").unwrap().foreign, 1, "a key twice");
        let error = parse("Unknown map identifier. Please use #<id> or <file>.\n").unwrap_err();
        assert_eq!(error, "Unknown map identifier. Please use #<id> or <file>.");
    }

    #[test]
    fn a_name_that_would_end_a_command_is_refused() {
        let new = |map: &str| HaproxyEdge::new(HaproxyOptions { socket: "/s".to_owned(), map: map.to_owned() });
        assert!(new("/etc/haproxy/portcullis.map").is_ok() && new("#0").is_ok());
        for map in ["", "a b", "a;clear map #0", "a\nclear map #0", "a\\"] {
            assert!(new(map).is_err(), "{map:?}");
        }
    }
}
