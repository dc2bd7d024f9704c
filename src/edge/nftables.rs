//! nftables: a table of its own with three sets and a chain that drops what comes from their elements.
//!
//! ```text
//! table inet portcullis {
//!     set addresses { type ipv4_addr; flags timeout; }              hosts, a hash
//!     set ranges4   { type ipv4_addr; flags interval, timeout; }    may not overlap, so ranges are disjoint
//!     set ranges6   { type ipv6_addr; flags interval, timeout; }
//!     chain refuse  { type filter hook prerouting priority mangle; policy accept; ip saddr @addresses drop; … }
//! }
//! ```
//!
//! It cuts off the whole machine. Elements carry their time-out, so a block ends though the sink is dead, and their end
//! as a comment, so that a sink that comes back knows it. Another end is `add`, `delete`, `add` within one transaction,
//! since older kernels keep the first end otherwise. Only our table is touched.
//!
//! The list is read in full at start, after a failure and once in a while: 100,000 elements take the better part of a
//! second. Otherwise it is looked at whether the sets are there.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::adapter::reads_all_at;
use super::{
    Actual, Adapter, Change, ENTRIES_MAX, Edge, Element, Elements, Error, Plan, Reach, Width, Written, command,
};
use crate::event::{Millis, Scope};
use crate::topology::exemptions::prefix_of;

/// Most elements a transaction: some thousands more do not fit the buffer of the kernel's socket.
const ELEMENTS_A_TRANSACTION: usize = 1_000;
/// How long `nft` may take, in milliseconds.
const COMMAND_MS_MAX: u64 = 20_000;
const ADDRESSES: &str = "addresses";
const RANGES4: &str = "ranges4";
const RANGES6: &str = "ranges6";
/// The name of our chain.
const CHAIN: &str = "refuse";
/// An element that ends so soon may have ended before the kernel hears of it, in milliseconds.
const OVER_MS: Millis = 2_000;
/// Shortest time-out: none would be no end.
const TIMEOUT_MS_MIN: Millis = 1;

/// Which table, and how it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftablesOptions {
    /// Program and first arguments, such as `nft`, or `ip netns exec blue nft`.
    pub nft: Vec<String>,
    /// The table's name, in the family `inet`.
    pub table: String,
}

/// The firewall of a kernel as an edge.
#[derive(Debug)]
pub struct NftablesEdge {
    options: NftablesOptions,
    /// What it has as far as is known; `None`: read it.
    known: Option<Arc<Elements>>,
    /// What it had at the last reading.
    found: Arc<Elements>,
    /// Somebody else's elements were there at the last reading.
    has_foreign: bool,
    /// When to read all of it again.
    reads_all_at: Millis,
}

impl NftablesEdge {
    #[must_use]
    pub fn new(options: NftablesOptions) -> Self {
        NftablesEdge { options, known: None, found: Arc::default(), has_foreign: false, reads_all_at: Millis::MIN }
    }

    fn nft(&self, arguments: &[&str], input: &str) -> Result<String, Error> {
        let argv: Vec<String> =
            self.options.nft.iter().cloned().chain(arguments.iter().map(|a| (*a).to_owned())).collect();
        command::talk(&argv, input.as_bytes(), Duration::from_millis(COMMAND_MS_MAX))
            .map_err(|why| Error::Away { edge: "nftables".to_owned(), why })
    }

    /// Whether our sets are there. `nft` reads every set of the kernel before it lists anything, and nothing before it
    /// adds an element: so one that is nobody's is added, and taken away within the same transaction.
    fn has_sets(&self) -> bool {
        let nobody = ["0.0.0.0".to_owned()];
        self.nft(&["-f", "-"], &self.commands(ADDRESSES, &[("add", &nobody), ("delete", &nobody)])).is_ok()
    }

    fn has_table(&self) -> Result<bool, Error> {
        let tables: Listing = listing(&self.nft(&["-j", "list", "tables", "inet"], "")?)?;
        Ok(tables.nftables.iter().any(|o| o.table.as_ref().is_some_and(|t| t.name == self.options.table)))
    }

    fn read_all(&self) -> Result<Actual, Error> {
        let text = match self.nft(&["-j", "list", "table", "inet", &self.options.table], "") {
            Ok(text) => text,
            Err(e) if self.has_table()? => return Err(e),
            Err(_) => return Ok(Actual { missing: true, ..Actual::default() }),
        };
        let listed: Listing = listing(&text)?;
        let mut elements = Elements::new();
        let mut foreign = 0;
        let (mut sets, mut rules) = (0, 0);
        for object in listed.nftables {
            rules += usize::from(object.rule.is_some());
            let Some(set) = object.set.filter(|s| [ADDRESSES, RANGES4, RANGES6].contains(&s.name.as_str())) else {
                continue;
            };
            sets += 1;
            for element in set.elem {
                match ours(&set.name, element) {
                    Some((name, element)) => drop(elements.insert(name, element)),
                    None => foreign += 1,
                }
            }
        }
        // Without all of its parts it does not do what it should, whatever is listed.
        let is_whole = sets == 3 && rules == 3;
        Ok(Actual { elements: Arc::new(elements), foreign, missing: !is_whole, unsettled: false })
    }

    /// Table, sets and chain as they should be. `anew`: with empty sets.
    fn frame(&self, anew: bool) -> String {
        let table = &self.options.table;
        let mut text = format!("add table inet {table}\n");
        if anew {
            let _written = writeln!(text, "delete table inet {table}\nadd table inet {table}");
        }
        for (set, kind) in [
            (ADDRESSES, "type ipv4_addr; flags timeout;"),
            (RANGES4, "type ipv4_addr; flags interval, timeout;"),
            (RANGES6, "type ipv6_addr; flags interval, timeout;"),
        ] {
            let _written = writeln!(text, "add set inet {table} {set} {{ {kind} }}");
        }
        let _written = writeln!(
            text,
            "add chain inet {table} {CHAIN} {{ type filter hook prerouting priority -150; policy accept; }}\n\
             flush chain inet {table} {CHAIN}\n\
             add rule inet {table} {CHAIN} ip saddr @{ADDRESSES} counter drop\n\
             add rule inet {table} {CHAIN} ip saddr @{RANGES4} counter drop\n\
             add rule inet {table} {CHAIN} ip6 saddr @{RANGES6} counter drop"
        );
        text
    }

    /// What has ended, or will before this is through, goes first and apart: the kernel may have let go of it already, so
    /// it is put there to be taken away, and nft takes such a range for one that is still in the way of others.
    fn apply(&self, changes: &[Change<'_>], now: Millis) -> Result<(), Error> {
        let is_over = |change: &Change<'_>| match change {
            Change::Remove(name) => {
                let end = self.found.get(*name).map_or(Some(Millis::MIN), |element| element.until);
                end.is_some_and(|end| end <= now.saturating_add(OVER_MS))
            }
            Change::Put(..) | Change::Add(..) => false,
        };
        let (over, others): (Vec<_>, Vec<_>) = changes.iter().copied().partition(is_over);
        for chunk in over.chunks(ELEMENTS_A_TRANSACTION) {
            self.transact(|set| self.commands(set, &[("add", &names(set, chunk)), ("delete", &names(set, chunk))]))?;
        }
        for chunk in others.chunks(ELEMENTS_A_TRANSACTION) {
            let of = |wanted: fn(&Change<'_>) -> bool| chunk.iter().copied().filter(wanted).collect::<Vec<_>>();
            let gone = of(|change| matches!(change, Change::Remove(_)));
            let put = of(|change| matches!(change, Change::Put(..)));
            self.transact(|set| {
                let put = names(set, &put);
                self.commands(
                    set,
                    &[
                        ("delete", &names(set, &gone)),
                        ("add", &put),
                        ("delete", &put),
                        ("add", &whole(set, chunk, now)),
                    ],
                )
            })?;
        }
        Ok(())
    }

    fn transact(&self, of_set: impl Fn(&str) -> String) -> Result<(), Error> {
        let text: String = [ADDRESSES, RANGES4, RANGES6].into_iter().map(of_set).collect();
        self.nft(&["-f", "-"], &text).map(drop)
    }

    fn commands(&self, set: &str, commands: &[(&str, &[String])]) -> String {
        let table = &self.options.table;
        let some = commands.iter().filter(|(_, elements)| !elements.is_empty());
        some.map(|(verb, list)| format!("{verb} element inet {table} {set} {{ {} }}\n", list.join(", "))).collect()
    }
}

/// The names of a set's elements among these.
fn names(set: &str, changes: &[Change<'_>]) -> Vec<String> {
    changes.iter().map(Change::name).filter(|name| set_of(name) == set).map(str::to_owned).collect()
}

/// The elements of a set that should be there, with their ends.
fn whole(set: &str, changes: &[Change<'_>], now: Millis) -> Vec<String> {
    let element = |change: &Change<'_>| match *change {
        Change::Add(name, element) | Change::Put(name, element) => {
            (set_of(name) == set).then(|| with_end(name, element, now))
        }
        Change::Remove(_) => None,
    };
    changes.iter().filter_map(element).collect()
}

impl Adapter for NftablesEdge {
    fn edge(&self) -> Edge {
        Edge { reach: Reach::Addresses, width: Width::Host, capacity: ENTRIES_MAX, nests: false }
    }

    fn read(&mut self, now: Millis) -> Result<Actual, Error> {
        let is_known = self.known.is_some() && now < self.reads_all_at && self.has_sets();
        if let Some(known) = self.known.as_ref().filter(|_| is_known) {
            self.found = Arc::clone(known);
            return Ok(Actual { elements: Arc::clone(known), ..Actual::default() });
        }
        self.known = None;
        let actual = self.read_all()?;
        self.reads_all_at = reads_all_at(now, actual.elements.len());
        self.found = Arc::clone(&actual.elements);
        self.has_foreign = actual.foreign > 0;
        if !actual.missing && actual.foreign == 0 {
            self.known = Some(Arc::clone(&actual.elements));
        }
        Ok(actual)
    }

    fn write(&mut self, target: Arc<Elements>, plan: &Plan, now: Millis) -> Result<Written, Error> {
        self.known = None;
        // What is not ours goes with the whole table; so does one that is not what we would make.
        let is_anew = plan.repair && (self.has_foreign || self.nft(&["-f", "-"], &self.frame(false)).is_err());
        if is_anew {
            self.nft(&["-f", "-"], &self.frame(true))?;
            let all: Vec<_> = target.iter().map(|(name, element)| Change::Add(name, element)).collect();
            self.apply(&all, now)?;
        } else {
            self.apply(&plan.changes(&target).collect::<Vec<_>>(), now)?;
        }
        self.known = Some(target);
        Ok(Written { reloaded: false, pending: None })
    }
}

fn set_of(name: &str) -> &'static str {
    match (name.contains(':'), name.contains('/')) {
        (true, _) => RANGES6,
        (false, true) => RANGES4,
        (false, false) => ADDRESSES,
    }
}

fn with_end(name: &str, element: &Element, now: Millis) -> String {
    match element.until {
        None => name.to_owned(),
        Some(until) => {
            let left = until.saturating_sub(now).max(TIMEOUT_MS_MIN);
            format!("{name} timeout {}s{}ms comment \"{until}\"", left / 1_000, left % 1_000)
        }
    }
}

#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Debug, Deserialize)]
struct Object {
    table: Option<Named>,
    set: Option<Set>,
    rule: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Set {
    name: String,
    #[serde(default)]
    elem: Vec<Listed>,
}

/// An element: bare, or with what is said of it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Listed {
    With { elem: With },
    Bare(Value),
}

#[derive(Debug, Deserialize)]
struct With {
    val: Value,
    #[serde(default)]
    timeout: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    comment: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Address(String),
    Range {
        prefix: Prefix,
    },
    /// Something that is none of ours, such as a range of two ends.
    Other(serde::de::IgnoredAny),
}

#[derive(Debug, Deserialize)]
struct Prefix {
    addr: String,
    len: u8,
}

fn listing(text: &str) -> Result<Listing, Error> {
    serde_json::from_str(text)
        .map_err(|e| Error::Away { edge: "nftables".to_owned(), why: format!("its list does not read: {e}") })
}

/// An element as we write it; `None` for one of somebody else.
fn ours(set: &str, listed: Listed) -> Option<(Box<str>, Element)> {
    let (value, has_timeout, comment) = match listed {
        Listed::With { elem } => (elem.val, elem.timeout.is_some(), elem.comment),
        Listed::Bare(value) => (value, false, None),
    };
    let name = match value {
        Value::Address(address) => address,
        Value::Range { prefix } => format!("{}/{}", prefix.addr, prefix.len),
        Value::Other(_) => return None,
    };
    prefix_of(Scope::Ip, &name).or_else(|| prefix_of(Scope::Cidr, &name)).filter(|_| set_of(&name) == set)?;
    let until = match (has_timeout, comment) {
        (true, Some(comment)) => Some(comment.parse().ok()?),
        (false, None) => None,
        (true, None) | (false, Some(_)) => return None,
    };
    Some((name.into(), Element { body: "1".into(), until }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(set: &str, listed: &str, expected: Option<(&str, Option<Millis>)>) {
        let listed: Listed = serde_json::from_str(listed).unwrap();
        let seen = ours(set, listed);
        let seen = seen.as_ref().map(|(name, element)| (&**name, element.until));
        assert_eq!(seen, expected);
    }

    #[test]
    fn elements_are_read_as_they_were_written() {
        check(ADDRESSES, r#""203.0.113.9""#, Some(("203.0.113.9", None)));
        let ends = r#"{"elem": {"val": "203.0.113.9", "timeout": 300, "expires": 2, "comment": "1561683290000"}}"#;
        check(ADDRESSES, ends, Some(("203.0.113.9", Some(1_561_683_290_000))));
        check(RANGES4, r#"{"prefix": {"addr": "203.0.113.0", "len": 24}}"#, Some(("203.0.113.0/24", None)));
        check(RANGES6, r#"{"prefix": {"addr": "2001:db8:1:2::", "len": 64}}"#, Some(("2001:db8:1:2::/64", None)));
    }

    #[test]
    fn what_somebody_else_put_there_is_foreign() {
        check(ADDRESSES, r#"{"elem": {"val": "203.0.113.9", "timeout": 300, "expires": 2}}"#, None);
        check(ADDRESSES, r#"{"elem": {"val": "203.0.113.9", "comment": "mine"}}"#, None);
        check(RANGES4, r#"{"range": ["203.0.113.1", "203.0.113.9"]}"#, None);
        check(RANGES4, r#""203.0.113.9""#, None);
        check(RANGES6, r#"{"prefix": {"addr": "2001:db8::", "len": 65}}"#, None);
        check(ADDRESSES, "7", None);
    }

    #[test]
    fn time_outs_are_in_milliseconds_and_never_none() {
        let until = |ms: Millis| Element { body: "1".into(), until: Some(1_000 + ms) };
        assert_eq!(with_end("a", &until(61_500), 1_000), "a timeout 61s500ms comment \"62500\"");
        assert_eq!(with_end("a", &until(-5), 1_000), "a timeout 0s1ms comment \"995\"");
        assert_eq!(with_end("a", &Element { body: "1".into(), until: None }, 1_000), "a");
    }
}
