//! A list of networks by people: one range, address or autonomous system a line. What follows `#` or `;` is a comment.

use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::FxHashSet;

use super::layer::{Known, RangesBuilder};
use super::{Facts, Layer};
use crate::event::Source;

/// Largest list, in bytes.
pub const LIST_BYTES_MAX: u64 = 64 << 20;

/// What those on a list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// Machines for rent, where no people sit.
    Hosting,
    /// Somebody else may stand behind the address: VPN, Tor, proxies.
    Proxy,
}

/// Autonomous systems of a list.
pub(super) type Asns = FxHashSet<u32>;

/// One list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkList {
    pub kind: ListKind,
    pub(super) asns: Asns,
    pub(super) layer: Layer,
}

impl NetworkList {
    /// Reads a list.
    ///
    /// # Errors
    /// A line that is neither, with its number.
    pub fn parse(kind: ListKind, text: &str) -> Result<NetworkList, String> {
        let (mut asns, mut nets) = (Asns::default(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let word = line.split(['#', ';']).next().unwrap_or_default().trim();
            if word.is_empty() {
                continue;
            }
            match Line::parse(word) {
                Some(Line::Asn(asn)) => drop(asns.insert(asn)),
                Some(Line::Range(first, last)) => nets.push((first, last)),
                None => {
                    let shown: String = word.chars().take(64).filter(|c| !c.is_control()).collect();
                    return Err(format!(
                        "line {}: `{shown}` is no range (198.51.100.0/24), no address and no autonomous system (AS64500)",
                        index + 1
                    ));
                }
            }
        }
        Ok(NetworkList { kind, asns, layer: layer(kind, nets)? })
    }

    /// How many autonomous systems and ranges it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.asns.len() + self.layer.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asns.is_empty() && self.layer.is_empty()
    }
}

enum Line {
    Asn(u32),
    /// First and last source.
    Range(Source, Source),
}

impl Line {
    fn parse(word: &str) -> Option<Line> {
        let number = word.strip_prefix("AS").or_else(|| word.strip_prefix("as")).unwrap_or(word);
        if number.bytes().all(|b| b.is_ascii_digit()) {
            return number.parse().ok().filter(|asn| *asn > 0).map(Line::Asn);
        }
        let net = word.parse::<IpNet>().ok().or_else(|| word.parse::<IpAddr>().ok().map(IpNet::from))?;
        Some(Line::Range(net.network().into(), net.broadcast().into()))
    }
}

fn layer(kind: ListKind, mut nets: Vec<(Source, Source)>) -> Result<Layer, String> {
    // A range comes before everything that begins inside of it.
    nets.sort_unstable_by_key(|(first, last)| (*first, std::cmp::Reverse(*last)));
    let (mut v4, mut v6, mut known) = (RangesBuilder::new(), RangesBuilder::new(), Known::new());
    let facts = match kind {
        ListKind::Hosting => Facts { hosting: true, ..Facts::default() },
        ListKind::Proxy => Facts { proxy: true, ..Facts::default() },
    };
    let number = known.number_of(facts)?;
    for net in nets {
        match net {
            (Source::V4(first), Source::V4(last)) => v4.push(first.into(), last.into(), number)?,
            (Source::V6(first), Source::V6(last)) => v6.push(first, last, number)?,
            // `::ffff:0:0/90` and the like: a range across both families.
            (Source::V4(_), Source::V6(_)) | (Source::V6(_), Source::V4(_)) => {}
        }
    }
    Ok(Layer::new(v4, v6, known))
}
