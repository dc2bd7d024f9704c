//! Writes MMDB files: just as much of the format as its readers must understand.
//! <https://maxmind.github.io/MaxMind-DB/>

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis::topology::networks::{Database, Networks};
use serde_json::Value;

/// When the files of tests were made: 2026-01-01.
pub const BUILT_AT: u64 = 1_767_225_600;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Child {
    Nothing,
    Node(usize),
    Data(usize),
}

/// What a file with these records says.
pub fn networks(records: &[(&str, Value)]) -> Networks {
    let mut file = Mmdb::new("a test");
    for (network, record) in records {
        file.insert(network.parse().unwrap(), record);
    }
    Networks::new([&Database::read(&file.bytes()).unwrap().layer], []).unwrap()
}

/// A file in the making. What is put in later stands over what was there, as with a more specific network.
#[derive(Debug, Clone)]
pub struct Mmdb {
    kind: &'static str,
    ip_version: u16,
    record_size: u16,
    nodes: Vec<[Child; 2]>,
    data: Vec<u8>,
    places: BTreeMap<String, usize>,
}

impl Mmdb {
    /// For both families, as all publishers make them.
    pub fn new(kind: &'static str) -> Mmdb {
        Mmdb::with(kind, 6, 28)
    }

    pub fn with(kind: &'static str, ip_version: u16, record_size: u16) -> Mmdb {
        let nodes = vec![[Child::Nothing; 2]];
        Mmdb { kind, ip_version, record_size, nodes, data: Vec::new(), places: BTreeMap::new() }
    }

    #[must_use]
    pub fn put(mut self, network: &str, record: &Value) -> Mmdb {
        self.insert(network.parse().unwrap(), record);
        self
    }

    pub fn insert(&mut self, network: IpNet, record: &Value) {
        let data = Child::Data(self.place_of(record));
        let bits = self.bits(network);
        let (last, way) = bits.split_last().unwrap();
        let mut node = 0;
        for bit in way {
            node = match self.nodes[node][*bit] {
                Child::Node(next) => next,
                // What held for the whole holds for both halves.
                held @ (Child::Nothing | Child::Data(_)) => {
                    self.nodes.push([held; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][*bit] = Child::Node(next);
                    next
                }
            };
        }
        self.nodes[node][*last] = data;
    }

    fn bits(&self, network: IpNet) -> Vec<usize> {
        let (number, width) = match network.addr() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        let own = (0..usize::from(network.prefix_len())).map(|n| (number >> (width - 1 - n)) as usize & 1);
        // IPv4 lies under ::/96.
        let before = if self.ip_version == 6 && width == 32 { 96 } else { 0 };
        std::iter::repeat_n(0, before).chain(own).collect()
    }

    fn place_of(&mut self, record: &Value) -> usize {
        let text = record.to_string();
        *self.places.entry(text).or_insert_with(|| {
            let place = self.data.len();
            encode(record, &mut self.data);
            place
        })
    }

    /// A tree whose root is its own child, both ways.
    pub fn biting_its_tail(mut self) -> Vec<u8> {
        self.nodes = vec![[Child::Node(0); 2]];
        self.bytes()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let nodes = self.nodes.len();
        let pointer = |child: Child| match child {
            Child::Nothing => nodes,
            Child::Node(node) => node,
            Child::Data(place) => nodes + 16 + place,
        };
        let mut bytes = Vec::new();
        for [left, right] in self.nodes.iter().map(|node| node.map(|child| u32::try_from(pointer(child)).unwrap())) {
            match self.record_size {
                24 => {
                    bytes.extend_from_slice(&left.to_be_bytes()[1..]);
                    bytes.extend_from_slice(&right.to_be_bytes()[1..]);
                }
                28 => {
                    bytes.extend_from_slice(&left.to_be_bytes()[1..]);
                    bytes.push((left >> 24 << 4 | right >> 24) as u8);
                    bytes.extend_from_slice(&right.to_be_bytes()[1..]);
                }
                32 => bytes.extend(left.to_be_bytes().into_iter().chain(right.to_be_bytes())),
                other => panic!("a record of {other} bits"),
            }
        }
        bytes.extend([0; 16]);
        bytes.extend(&self.data);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        self.metadata(&mut bytes);
        bytes
    }

    fn metadata(&self, out: &mut Vec<u8>) {
        control(7, 9, out);
        let mut field = |name: &str, write: &dyn Fn(&mut Vec<u8>)| {
            text(name, out);
            write(out);
        };
        field("binary_format_major_version", &|out| number(5, 2, out));
        field("binary_format_minor_version", &|out| number(5, 0, out));
        field("build_epoch", &|out| number(9, BUILT_AT, out));
        field("database_type", &|out| text(self.kind, out));
        field("description", &|out| encode(&serde_json::json!({"en": "a test"}), out));
        field("ip_version", &|out| number(5, self.ip_version.into(), out));
        field("languages", &|out| encode(&serde_json::json!(["en"]), out));
        field("node_count", &|out| number(6, self.nodes.len() as u64, out));
        field("record_size", &|out| number(5, self.record_size.into(), out));
    }
}

/// Type and size of what follows.
fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (low, more): (u8, Vec<u8>) = match size {
        0..29 => (size as u8, Vec::new()),
        29..285 => (29, vec![(size - 29) as u8]),
        _ => (30, ((size - 285) as u16).to_be_bytes().to_vec()),
    };
    // Types above 7 stand in a byte of their own.
    match kind {
        1..=7 => out.push(kind << 5 | low),
        _ => out.extend([low, kind - 7]),
    }
    out.extend(more);
}

fn text(text: &str, out: &mut Vec<u8>) {
    control(2, text.len(), out);
    out.extend(text.as_bytes());
}

fn number(kind: u8, number: u64, out: &mut Vec<u8>) {
    let bytes: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    control(kind, bytes.len(), out);
    out.extend(bytes);
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => panic!("the format has no null"),
        Value::Bool(yes) => control(14, usize::from(*yes), out),
        Value::Number(n) => match n.as_u64() {
            Some(n) if u32::try_from(n).is_ok() => number(6, n, out),
            Some(n) => number(9, n, out),
            None => {
                control(3, 8, out);
                out.extend(n.as_f64().unwrap().to_be_bytes());
            }
        },
        Value::String(held) => text(held, out),
        Value::Array(all) => {
            control(11, all.len(), out);
            all.iter().for_each(|one| encode(one, out));
        }
        Value::Object(all) => {
            control(7, all.len(), out);
            for (name, one) in all {
                text(name, out);
                encode(one, out);
            }
        }
    }
}
