//! What is known of a network: autonomous system, organisation, country, whether it is for rent or hides somebody. Files'
//! bytes in, an immutable table out.
//!
//! ```text
//! MMDB files ──▶ Layer ─┐
//! lists ───────▶ Layer ─┴─▶ Networks ──▶ intake writes it into each attempt
//!                                    └─▶ prefixes of an autonomous system or a country, for edges
//! ```

mod database;
mod layer;
mod list;

use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;

pub use database::{DATABASE_BYTES_MAX, Database};
pub use layer::{FACTS_MAX, Layer, RANGES_MAX};
pub use list::{LIST_BYTES_MAX, ListKind, NetworkList};

use crate::event::{Attempt, Source};

/// Longest name of an organisation, in bytes; the rest is cut off.
pub const ORGANISATION_BYTES_MAX: usize = 128;
/// The attribute that holds an organisation.
pub const ORGANISATION: &str = "asn_org";
/// The attribute that says `true` of a network for rent.
pub const HOSTING: &str = "hosting";
/// The attribute that says `true` where somebody else may stand behind the address.
pub const PROXY: &str = "proxy";

/// What is known of a range of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Never 0.
    pub asn: Option<u32>,
    /// Of the autonomous system.
    pub organisation: Option<Box<str>>,
    /// ISO 3166-1, two capital letters.
    pub country: Option<Box<str>>,
    pub hosting: bool,
    pub proxy: bool,
}

impl Facts {
    fn or(self, other: Facts) -> Facts {
        // A name belongs to the number beside it.
        let (asn, organisation) = match (self.asn, other.asn) {
            (Some(own), Some(others)) if own == others => (self.asn, self.organisation.or(other.organisation)),
            (Some(_), _) => (self.asn, self.organisation),
            (None, _) => (other.asn, other.organisation.or(self.organisation)),
        };
        Facts {
            asn,
            organisation,
            country: self.country.or(other.country),
            hosting: self.hosting || other.hosting,
            proxy: self.proxy || other.proxy,
        }
    }
}

/// Whether a look-up found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learnt {
    /// There is no file to look into.
    NoFile,
    Found,
    NotFound,
}

/// Whose addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group<'a> {
    Asn(u32),
    /// By its code, in any case.
    Country(&'a str),
}

/// Everything that the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    layer: Layer,
    hosting: list::Asns,
    proxies: list::Asns,
    has_ranges: bool,
}

impl Networks {
    /// From MMDB files, of which the first that knows a field is believed, and lists.
    ///
    /// # Errors
    /// Together they are larger than [`RANGES_MAX`] or [`FACTS_MAX`].
    pub fn new<'a>(
        databases: impl IntoIterator<Item = &'a Layer>,
        lists: impl IntoIterator<Item = &'a NetworkList>,
    ) -> Result<Networks, String> {
        let mut networks = Networks::default();
        for layer in databases {
            networks.put(layer)?;
        }
        for list in lists {
            networks.put(&list.layer)?;
            match list.kind {
                ListKind::Hosting => networks.hosting.extend(&list.asns),
                ListKind::Proxy => networks.proxies.extend(&list.asns),
            }
        }
        networks.has_ranges = !networks.layer.is_empty();
        if networks.has_ranges {
            networks.layer.index();
        }
        Ok(networks)
    }

    fn put(&mut self, below: &Layer) -> Result<(), String> {
        if !below.is_empty() {
            let all = self.layer.over(below).map_err(|what| format!("the files of networks together: {what}"))?;
            self.layer = all;
        }
        Ok(())
    }

    /// How many ranges something is known of, and nothing between them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.layer.len()
    }

    /// Whether there is nothing to look up.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.has_ranges
    }

    /// What is known of a source; `None` when nothing is.
    #[must_use]
    pub fn look_up(&self, source: Source) -> Option<Facts> {
        let mut facts = self.layer.look_up(source)?.clone();
        facts.hosting |= facts.asn.is_some_and(|asn| self.hosting.contains(&asn));
        facts.proxy |= facts.asn.is_some_and(|asn| self.proxies.contains(&asn));
        Some(facts)
    }

    /// The autonomous system and country of a source, without a copy.
    #[must_use]
    pub fn place_of(&self, source: Source) -> (Option<u32>, Option<&str>) {
        self.layer.look_up(source).map_or((None, None), |facts| (facts.asn, facts.country.as_deref()))
    }

    /// Writes into an attempt what is known of its source. What its publisher said stands.
    pub fn enrich(&self, a: &mut Attempt) -> Learnt {
        let facts = if self.has_ranges { self.layer.look_up(a.source) } else { None };
        let told_asn = a.asn;
        if let Some(facts) = facts {
            a.asn = a.asn.or(facts.asn);
            if a.country.is_none() {
                a.country.clone_from(&facts.country);
            }
            // Of another system than the publisher's it would be the wrong name.
            if let Some(organisation) =
                facts.organisation.as_deref().filter(|_| told_asn.is_none() || told_asn == facts.asn)
            {
                attribute(a, ORGANISATION, organisation);
            }
        }
        if facts.is_some_and(|facts| facts.hosting) || a.asn.is_some_and(|asn| self.hosting.contains(&asn)) {
            attribute(a, HOSTING, "true");
        }
        if facts.is_some_and(|facts| facts.proxy) || a.asn.is_some_and(|asn| self.proxies.contains(&asn)) {
            attribute(a, PROXY, "true");
        }
        match facts {
            Some(_) => Learnt::Found,
            None if self.has_ranges => Learnt::NotFound,
            None => Learnt::NoFile,
        }
    }

    /// The fewest prefixes that hold all addresses of a group and nobody else's, in order; `None` when there are more than
    /// `most`.
    #[must_use]
    pub fn prefixes(&self, group: Group<'_>, most: usize) -> Option<Vec<IpNet>> {
        self.prefixes_but(group, |_| false, most)
    }

    /// The same without those of whom `is_spared` is true.
    #[must_use]
    pub fn prefixes_but(
        &self,
        group: Group<'_>,
        is_spared: impl Fn(&Facts) -> bool,
        most: usize,
    ) -> Option<Vec<IpNet>> {
        let is_of = |facts: &Facts| match group {
            Group::Asn(asn) => facts.asn == Some(asn),
            Group::Country(code) => facts.country.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(code)),
        };
        self.layer.prefixes(|facts| is_of(facts) && !is_spared(facts), most)
    }
}

/// Adds an attribute that the publisher did not give.
fn attribute(a: &mut Attempt, name: &str, value: &str) {
    if !a.attributes.iter().any(|(held, _)| **held == *name) {
        a.attributes.push((name.into(), value.into()));
    }
}

/// What is known now. Whoever reads the files puts another in its place while others look up.
#[derive(Debug, Default)]
pub struct CurrentNetworks(RwLock<Arc<Networks>>);

impl CurrentNetworks {
    #[must_use]
    pub fn new(networks: Networks) -> Self {
        CurrentNetworks(RwLock::new(Arc::new(networks)))
    }

    #[must_use]
    pub fn get(&self) -> Arc<Networks> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set(&self, networks: Networks) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(networks);
    }
}
