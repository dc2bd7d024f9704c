//! Redis: one key for each entry, with its time to live, and a channel that tells each change.
//!
//! ```text
//! portcullis:block:shop|IP|203.0.113.9      {"tenant":"shop","scope":"IP", … }      PX until its end
//! PUBLISH portcullis:changes                 {"key":"shop|IP|203.0.113.9","entry":{ … } or null}
//! ```
//!
//! Whoever wants to know asks for the key, or listens. A key ends by itself though the sink is dead. All keys are read at
//! start, after a failure and once in a while; otherwise a mark tells whether Redis is still the
//! one that was written: one that was emptied or took over from another has no mark, or another one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::adapter::reads_all_at;
use super::{Actual, Adapter, Change, ENTRIES_MAX, Edge, Element, Elements, Error, Plan, Reach, Width, Written};
use crate::event::{BlocklistEntry, Entity, Millis};

/// Commands that are sent before their answers are read.
const COMMANDS_AT_ONCE: usize = 500;
/// Keys asked for in one step of a reading.
const KEYS_AT_ONCE: &str = "1000";
/// Longest wait for the connection, for each thing that is read or written.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest string of an answer, in bytes: keys and values of ours are far shorter.
const STRING_BYTES_MAX: usize = 1 << 20;
/// Most items of an answer, and how deep they lie.
const ITEMS_MAX: usize = 1 << 20;
const DEPTH_MAX: u32 = 3;
/// Most keys of somebody else that are remembered, to be taken away.
const FOREIGN_MAX: usize = 100_000;

/// Which Redis, and under what names.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisOptions {
    /// `host:port`, or the path of a socket.
    pub address: String,
    pub database: u32,
    pub user: Option<String>,
    pub password: Option<String>,
    /// What every key and the channel begin with, such as `portcullis:`.
    pub prefix: String,
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RedisOptions { address, database, user, password: _, prefix } = self;
        write!(f, "RedisOptions {{ {address}, {database}, {user:?}, {prefix} }}")
    }
}

/// A Redis as an edge.
#[derive(Debug)]
pub struct RedisEdge {
    options: RedisOptions,
    connection: Option<Connection>,
    /// What it has as far as is known, and the mark that was left there; `None`: read it.
    known: Option<(Arc<Elements>, String)>,
    /// Keys under our prefix that are none of ours.
    foreign: Vec<Vec<u8>>,
    /// When to read all of it again.
    reads_all_at: Millis,
}

impl RedisEdge {
    /// # Errors
    /// The prefix has characters that would mean something in a pattern.
    pub fn new(options: RedisOptions) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ":._{}-".contains(c);
        if options.prefix.is_empty() || !options.prefix.chars().all(is_plain) {
            return Err("the prefix is made of letters, digits and `:._{}-`".to_owned());
        }
        Ok(RedisEdge { options, connection: None, known: None, foreign: Vec::new(), reads_all_at: Millis::MIN })
    }

    fn keys(&self) -> String {
        format!("{}block:", self.options.prefix)
    }

    fn mark(&self) -> String {
        format!("{}mark", self.options.prefix)
    }

    /// Sends commands and gives their answers; one that is an error is one here.
    fn ask(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<Vec<Reply>, Error> {
        let asked = self.try_ask(commands);
        if asked.is_err() {
            // What was half said on it would be taken for the next answer.
            self.connection = None;
            self.known = None;
        }
        let address = &self.options.address;
        asked.map_err(|why| Error::Away { edge: "Redis".to_owned(), why: format!("{address}: {why}") })
    }

    fn try_ask(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<Vec<Reply>, String> {
        let mut replies = Vec::with_capacity(commands.len());
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.options)?,
        };
        let connection = self.connection.insert(connection);
        for chunk in commands.chunks(COMMANDS_AT_ONCE) {
            connection.exchange(chunk, &mut replies)?;
        }
        Ok(replies)
    }

    fn ask_one(&mut self, command: &[&str]) -> Result<Reply, Error> {
        let command = command.iter().map(|word| word.as_bytes().to_vec()).collect();
        Ok(self.ask(&[command])?.pop().unwrap_or(Reply::Nothing))
    }

    fn has_mark(&mut self, mark: &str) -> Result<bool, Error> {
        let key = self.mark();
        Ok(self.ask_one(&["GET", &key])? == Reply::Text(mark.as_bytes().to_vec()))
    }

    fn read_all(&mut self) -> Result<Actual, Error> {
        let (prefix, mut cursor) = (self.keys(), "0".to_owned());
        let (mut elements, mut foreign) = (Elements::new(), Vec::new());
        let pattern = format!("{prefix}*");
        loop {
            let step = self.ask_one(&["SCAN", &cursor, "MATCH", &pattern, "COUNT", KEYS_AT_ONCE])?;
            let (next, keys) = step.scanned().ok_or_else(|| self.nonsense())?;
            if !keys.is_empty() {
                let command = std::iter::once(b"MGET".to_vec()).chain(keys.iter().cloned()).collect();
                let values = self.ask(&[command])?.pop().unwrap_or(Reply::Nothing);
                let values = values.items().ok_or_else(|| self.nonsense())?;
                for (key, value) in keys.into_iter().zip(values) {
                    match (ours(&prefix, &key, &value), value) {
                        (Some((name, element)), _) => drop(elements.insert(name, element)),
                        // It ended in between.
                        (None, Reply::Nothing) => {}
                        (None, _) if foreign.len() < FOREIGN_MAX => foreign.push(key),
                        (None, _) => {}
                    }
                }
            }
            cursor = next;
            if cursor == "0" || elements.len() > 2 * ENTRIES_MAX {
                break;
            }
        }
        self.foreign = foreign;
        Ok(Actual { elements: Arc::new(elements), foreign: self.foreign.len(), missing: false, unsettled: false })
    }

    fn nonsense(&mut self) -> Error {
        self.connection = None;
        Error::Away { edge: "Redis".to_owned(), why: format!("{} answers nonsense", self.options.address) }
    }
}

impl Adapter for RedisEdge {
    fn edge(&self) -> Edge {
        Edge { reach: Reach::Records, width: Width::Route, capacity: ENTRIES_MAX, nests: true }
    }

    fn read(&mut self, now: Millis) -> Result<Actual, Error> {
        if let Some((known, mark)) = self.known.clone()
            && now < self.reads_all_at
            && self.has_mark(&mark)?
        {
            return Ok(Actual { elements: known, ..Actual::default() });
        }
        self.known = None;
        let actual = self.read_all()?;
        self.reads_all_at = reads_all_at(now, actual.elements.len());
        Ok(actual)
    }

    fn write(&mut self, target: Arc<Elements>, plan: &Plan, now: Millis) -> Result<Written, Error> {
        self.known = None;
        let (prefix, channel) = (self.keys(), format!("{}changes", self.options.prefix));
        let mut commands: Vec<Vec<Vec<u8>>> = Vec::with_capacity(2 * plan.changes_count() + 2);
        for key in std::mem::take(&mut self.foreign) {
            commands.push(vec![b"UNLINK".to_vec(), key]);
        }
        for change in plan.changes(&target) {
            let key = format!("{prefix}{}", change.name()).into_bytes();
            let told = match change {
                Change::Remove(_) => {
                    commands.push(vec![b"UNLINK".to_vec(), key]);
                    told(change.name(), "null")
                }
                Change::Put(_, element) | Change::Add(_, element) => {
                    commands.push(set(key, element, now));
                    told(change.name(), &element.body)
                }
            };
            commands.push(vec![b"PUBLISH".to_vec(), channel.clone().into_bytes(), told.into_bytes()]);
        }
        // Another number at every write, so that two sinks of one prefix find each other out.
        let mark = format!("{now}-{}-{}", std::process::id(), target.len());
        commands.push(vec![b"SET".to_vec(), self.mark().into_bytes(), mark.clone().into_bytes()]);
        self.ask(&commands)?;
        self.known = Some((target, mark));
        Ok(Written::default())
    }
}

fn set(key: Vec<u8>, element: &Element, now: Millis) -> Vec<Vec<u8>> {
    let mut command = vec![b"SET".to_vec(), key, element.body.as_bytes().to_vec()];
    if let Some(until) = element.until {
        command.extend([b"PX".to_vec(), until.saturating_sub(now).max(1).to_string().into_bytes()]);
    }
    command
}

/// The element's body is the entry as JSON.
fn told(name: &str, entry: &str) -> String {
    format!("{{\"key\":{},\"entry\":{entry}}}", serde_json::Value::from(name))
}

/// A key and its value as we write them; `None` for those of somebody else.
fn ours(prefix: &str, key: &[u8], value: &Reply) -> Option<(Box<str>, Element)> {
    let name = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    let Reply::Text(value) = value else { return None };
    let body = std::str::from_utf8(value).ok()?;
    let entry: BlocklistEntry = serde_json::from_str(body).ok()?;
    let until = entry.until;
    let entity = Entity { tenant: entry.tenant.into(), scope: entry.scope, value: entry.value.into() };
    (entity.key() == name).then(|| (name.into(), Element { body: body.to_owned().into(), until }))
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

struct Connection(BufReader<Box<dyn Stream>>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    fn open(options: &RedisOptions) -> Result<Self, String> {
        let stream = connect(&options.address).map_err(|e| e.to_string())?;
        let mut connection = Connection(BufReader::new(stream));
        let words = |words: &[&str]| words.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>();
        let mut greeting = Vec::new();
        match (&options.user, &options.password) {
            (Some(user), Some(password)) => greeting.push(words(&["AUTH", user, password])),
            (None, Some(password)) => greeting.push(words(&["AUTH", password])),
            (Some(_) | None, None) => {}
        }
        if options.database != 0 {
            greeting.push(words(&["SELECT", &options.database.to_string()]));
        }
        connection.exchange(&greeting, &mut Vec::new())?;
        Ok(connection)
    }

    fn exchange(&mut self, commands: &[Vec<Vec<u8>>], replies: &mut Vec<Reply>) -> Result<(), String> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
            for word in command {
                bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                bytes.extend_from_slice(word);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.0.get_mut().write_all(&bytes).map_err(|e| e.to_string())?;
        for _ in commands {
            match reply(&mut self.0, DEPTH_MAX)? {
                Reply::Error(why) => return Err(why),
                reply @ (Reply::Text(_) | Reply::Number(_) | Reply::Items(_) | Reply::Nothing) => replies.push(reply),
            }
        }
        Ok(())
    }
}

fn connect(address: &str) -> std::io::Result<Box<dyn Stream>> {
    if address.contains('/') {
        let stream = UnixStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        return Ok(Box::new(stream));
    }
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER_MAX) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                stream.set_write_timeout(Some(ANSWER_MAX))?;
                stream.set_nodelay(true)?;
                return Ok(Box::new(stream));
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// An answer of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Text(Vec<u8>),
    Number(i64),
    Error(String),
    Items(Vec<Reply>),
    Nothing,
}

impl Reply {
    fn items(self) -> Option<Vec<Reply>> {
        match self {
            Reply::Items(items) => Some(items),
            Reply::Text(_) | Reply::Number(_) | Reply::Error(_) | Reply::Nothing => None,
        }
    }

    fn text(self) -> Option<Vec<u8>> {
        match self {
            Reply::Text(text) => Some(text),
            Reply::Items(_) | Reply::Number(_) | Reply::Error(_) | Reply::Nothing => None,
        }
    }

    /// The answer of SCAN: the next cursor, and keys.
    fn scanned(self) -> Option<(String, Vec<Vec<u8>>)> {
        let [cursor, keys] = <[Reply; 2]>::try_from(self.items()?).ok()?;
        let cursor = String::from_utf8(cursor.text()?).ok()?;
        Some((cursor, keys.items()?.into_iter().map(Reply::text).collect::<Option<_>>()?))
    }
}

fn reply(from: &mut impl BufRead, depth: u32) -> Result<Reply, String> {
    let mut line = Vec::new();
    from.take(STRING_BYTES_MAX as u64).read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
    let line = String::from_utf8(line).map_err(|_| "it answers nonsense".to_owned())?;
    let Some(line) = line.strip_suffix("\r\n") else { return Err("it closed the connection".to_owned()) };
    let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
    let number = |max: usize| rest.parse::<i64>().ok().filter(|n| *n <= max as i64).ok_or("it answers nonsense");
    match kind {
        "+" => Ok(Reply::Text(rest.as_bytes().to_vec())),
        "-" => Ok(Reply::Error(rest.chars().take(200).collect())),
        ":" => Ok(Reply::Number(number(usize::MAX >> 1)?)),
        "$" => match usize::try_from(number(STRING_BYTES_MAX)?) {
            Err(_) => Ok(Reply::Nothing),
            Ok(length) => {
                let mut text = vec![0; length + 2];
                from.read_exact(&mut text).map_err(|e| e.to_string())?;
                text.truncate(length);
                Ok(Reply::Text(text))
            }
        },
        "*" if depth > 0 => match usize::try_from(number(ITEMS_MAX)?) {
            Err(_) => Ok(Reply::Nothing),
            Ok(count) => (0..count).map(|_| reply(from, depth - 1)).collect::<Result<_, _>>().map(Reply::Items),
        },
        _ => Err("it answers nonsense".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str, expected: Result<Reply, &str>) {
        let seen = reply(&mut bytes.as_bytes(), DEPTH_MAX);
        assert_eq!(seen, expected.map_err(str::to_owned), "{bytes:?}");
    }

    #[test]
    fn answers_are_read_and_nonsense_is_an_error() {
        let text = |text: &str| Reply::Text(text.as_bytes().to_vec());
        check("+OK\r\n", Ok(text("OK")));
        check(":7\r\n", Ok(Reply::Number(7)));
        check("-ERR no\r\n", Ok(Reply::Error("ERR no".to_owned())));
        check("$3\r\na\r\n\r\n", Ok(text("a\r\n")));
        check("$-1\r\n", Ok(Reply::Nothing));
        check("*2\r\n$1\r\n0\r\n*1\r\n$1\r\nk\r\n", Ok(Reply::Items(vec![text("0"), Reply::Items(vec![text("k")])])));
        check("", Err("it closed the connection"));
        check("$3\r\na", Err("failed to fill whole buffer"));
        for nonsense in [
            "HTTP/1.1 400\r\n",
            "\r\n",
            "$many\r\n",
            "$99999999999\r\n",
            "*99999999999\r\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n",
        ] {
            check(nonsense, Err("it answers nonsense"));
        }
    }

    #[test]
    fn a_key_is_ours_when_its_entry_says_the_same() {
        let entry = include_str!("../../schemas/examples/blocklist-entry/address.json");
        let value = Reply::Text(entry.as_bytes().to_vec());
        let ours = |key: &str, value: &Reply| ours("p:block:", key.as_bytes(), value).map(|(name, _)| name);
        assert_eq!(ours("p:block:shop|IP|203.0.113.9", &value).as_deref(), Some("shop|IP|203.0.113.9"));
        for key in ["p:block:shop|IP|203.0.113.8", "p:block:", "x"] {
            assert_eq!(ours(key, &value), None);
        }
        assert_eq!(ours("p:block:shop|IP|203.0.113.9", &Reply::Text(b"1".to_vec())), None);
    }
}
