//! An MMDB file as a [`Layer`]. Format: <https://maxmind.github.io/MaxMind-DB/>; field names are those of MaxMind (GeoLite2,
//! GeoIP2), DB-IP, IPinfo and ip-location-db.
//!
//! The whole file is read when it comes: what is broken in it shows then, and not at an attempt of which it is asked. The
//! bytes are let go of afterwards.

use std::fmt;

use maxminddb::{Reader, WithinOptions};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};

use super::layer::{Known, RangesBuilder};
use super::{Facts, Layer, ORGANISATION_BYTES_MAX};

/// Largest MMDB file.
pub const DATABASE_BYTES_MAX: u64 = 512 << 20;
/// Leaves of a search tree to a node: two, and one for the root.
const LEAVES_PER_NODE: usize = 3;

/// What an MMDB file came to.
#[derive(Debug, Clone)]
pub struct Database {
    pub layer: Layer,
    /// When its publisher made it, in seconds since 1970.
    pub built_at: u64,
    /// What its publisher calls it, such as `GeoLite2-ASN`.
    pub kind: String,
}

impl Database {
    /// Reads a whole file.
    ///
    /// # Errors
    /// It is no MMDB file, it is broken, or nothing is in it that is of use here.
    pub fn read(bytes: &[u8]) -> Result<Database, String> {
        let reader = Reader::from_source(bytes).map_err(|error| format!("it is no MMDB file: {error}"))?;
        let metadata = reader.metadata();
        let (built_at, kind) = (metadata.build_epoch, metadata.database_type.chars().take(64).collect());
        let leaves_max = (metadata.node_count as usize).saturating_mul(LEAVES_PER_NODE);
        let (mut v4, mut v6, mut known) = (RangesBuilder::new(), RangesBuilder::new(), Known::new());
        let mut numbers: FxHashMap<usize, u32> = FxHashMap::default();
        // Those without data as well: so each step down the tree comes to a leaf that is counted, and a tree that bites
        // its own tail ends.
        let leaves = reader.networks(WithinOptions::default().include_networks_without_data()).map_err(broken)?;
        for (count, leaf) in leaves.enumerate() {
            if count > leaves_max {
                return Err("it is broken: its search tree has a cycle".to_owned());
            }
            let leaf = leaf.map_err(broken)?;
            let Some(offset) = leaf.offset() else { continue };
            let number = match numbers.get(&offset) {
                Some(number) => *number,
                None => {
                    let record: Option<Value> = leaf.decode().map_err(broken)?;
                    let number = known.number_of(record.as_ref().map(facts_of).unwrap_or_default())?;
                    numbers.insert(offset, number);
                    number
                }
            };
            match (leaf.network().map_err(broken)?.network(), leaf.network().map_err(broken)?.broadcast()) {
                (std::net::IpAddr::V4(first), std::net::IpAddr::V4(last)) => {
                    v4.push(u64::from(u32::from(first)), u64::from(u32::from(last)), number)?;
                }
                (std::net::IpAddr::V6(first), std::net::IpAddr::V6(last)) => {
                    // A source is a /64; where that is divided, it is what its first address is.
                    let (first, last) = (u128::from(first), u128::from(last));
                    if first << 64 == 0 {
                        v6.push((first >> 64) as u64, (last >> 64) as u64, number)?;
                    }
                }
                _ => {}
            }
        }
        let layer = Layer::new(v4, v6, known);
        if layer.is_empty() {
            return Err(format!(
                "no network of it has a field of an autonomous system, a country, hosting or proxies (it is a `{kind}`)"
            ));
        }
        Ok(Database { layer, built_at, kind })
    }
}

fn broken(error: maxminddb::MaxMindDbError) -> String {
    format!("it is broken: {error}")
}

/// Where an autonomous system's number stands.
const ASN: &[&[&str]] = &[
    &["autonomous_system_number"],
    &["traits", "autonomous_system_number"],
    &["asn"],
    &["asn", "asn"],
    &["as_number"],
];
const ORGANISATION: &[&[&str]] = &[
    &["autonomous_system_organization"],
    &["traits", "autonomous_system_organization"],
    &["as_name"],
    &["as_organization"],
    &["asn", "name"],
    &["name"],
    &["organization"],
];
const COUNTRY: &[&[&str]] = &[&["country", "iso_code"], &["country_code"], &["country"]];
const HOSTING: &[&[&str]] =
    &[&["is_hosting_provider"], &["traits", "is_hosting_provider"], &["is_hosting"], &["hosting"]];
const PROXY: &[&[&str]] = &[
    &["is_public_proxy"],
    &["is_anonymous_vpn"],
    &["is_tor_exit_node"],
    &["is_residential_proxy"],
    &["traits", "is_public_proxy"],
    &["traits", "is_anonymous_vpn"],
    &["traits", "is_tor_exit_node"],
    &["traits", "is_residential_proxy"],
    &["proxy"],
    &["vpn"],
    &["tor"],
];

fn facts_of(record: &Value) -> Facts {
    let any_of = |paths: &[&[&str]]| paths.iter().any(|path| record.at(path).is_some_and(Value::is_yes));
    Facts {
        asn: ASN.iter().find_map(|path| record.at(path)?.as_asn()),
        organisation: ORGANISATION.iter().find_map(|path| record.at(path)?.as_name()),
        country: COUNTRY.iter().find_map(|path| record.at(path)?.as_country()),
        hosting: any_of(HOSTING) || record.at(&["type"]).is_some_and(|value| value.is_text("hosting")),
        proxy: any_of(PROXY),
    }
}

/// A value of a record, as far as it is looked at.
#[derive(Debug)]
enum Value {
    Map(Vec<(String, Value)>),
    Text(String),
    Number(u64),
    Bool(bool),
    /// A list, a fraction, bytes.
    Other,
}

impl Value {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, name| match value {
            Value::Map(all) => all.iter().find(|(held, _)| held == name).map(|(_, value)| value),
            Value::Text(_) | Value::Number(_) | Value::Bool(_) | Value::Other => None,
        })
    }

    /// A number, or text such as `AS64500`; 0 is nobody's.
    fn as_asn(&self) -> Option<u32> {
        let asn = match self {
            Value::Number(number) => u32::try_from(*number).ok(),
            Value::Text(text) => text.trim_start_matches(['A', 'S', 'a', 's']).parse().ok(),
            Value::Map(_) | Value::Bool(_) | Value::Other => None,
        };
        asn.filter(|asn| *asn > 0)
    }

    fn as_name(&self) -> Option<Box<str>> {
        let Value::Text(text) = self else { return None };
        let mut name = String::new();
        for c in text.trim().chars().filter(|c| !c.is_control()) {
            if name.len() + c.len_utf8() > ORGANISATION_BYTES_MAX {
                break;
            }
            name.push(c);
        }
        (!name.is_empty()).then(|| name.into())
    }

    /// Two letters of ISO 3166-1.
    fn as_country(&self) -> Option<Box<str>> {
        let Value::Text(text) = self else { return None };
        let is_code = text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic());
        is_code.then(|| text.to_ascii_uppercase().into())
    }

    fn is_yes(&self) -> bool {
        matches!(self, Value::Bool(true) | Value::Number(1)) || self.is_text("true")
    }

    fn is_text(&self, wanted: &str) -> bool {
        matches!(self, Value::Text(text) if text == wanted)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = map.next_entry()? {
            all.push(entry);
        }
        Ok(Value::Map(all))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(u64::try_from(number).map_or(Value::Other, Value::Number))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Other)
    }
}
