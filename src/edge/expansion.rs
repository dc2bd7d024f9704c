//! Autonomous systems and countries as prefixes, for edges that know nothing but addresses. Pure: the files were read by
//! somebody else.
//!
//! Of an entry's addresses those are left out that must never be blocked, and those of whom somebody is exempt: the rest
//! stays on the list.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::wanted::name_of;
use crate::event::{Millis, Scope, Source, reserved_inside};
use crate::topology::exemptions::{Exemptions, asn_of};
use crate::topology::networks::{Group, Networks};

/// Most prefixes that one entry of an autonomous system or a country becomes. In a file as fine as they come the largest
/// country has 215,000.
pub const EXPANSION_MAX: usize = 262_144;
/// Most such entries that are turned into prefixes at a time.
pub const EXPANSIONS_MAX: usize = 1_000;
/// Most prefixes of all of them.
pub const EXPANDED_MAX: usize = super::ENTRIES_MAX;
/// No range that must never be blocked is wider.
const RESERVED_LENGTH_MIN: u8 = 7;

/// What an entry comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expansion {
    /// Names of its prefixes, as lists of edges have them. None: no file knows an address of it, or all are exempt.
    Prefixes(Box<[Box<str>]>),
    /// They are more than an edge is given.
    TooMany,
}

/// The entries that were turned into prefixes.
#[derive(Debug, Default)]
pub struct Expansions {
    /// `None`: nobody gave a file.
    networks: Option<Arc<Networks>>,
    known: BTreeMap<(Scope, Box<str>), Expansion>,
    prefixes: usize,
    /// Of which moment they are, as to exemptions.
    at: Millis,
    /// When the next exemption ends.
    until: Option<Millis>,
    is_stale: bool,
}

impl Expansions {
    /// Whether these are other networks than before; then everything is to be expanded anew.
    pub fn turn(&mut self, networks: &Arc<Networks>) -> bool {
        if networks.is_empty() || self.networks.as_ref().is_some_and(|held| Arc::ptr_eq(held, networks)) {
            return false;
        }
        self.networks = Some(Arc::clone(networks));
        self.is_stale = true;
        true
    }

    /// Somebody else is exempt now.
    pub const fn exemptions_changed(&mut self) {
        self.is_stale = true;
    }

    #[must_use]
    pub fn networks(&self) -> Option<&Networks> {
        self.networks.as_deref()
    }

    /// What an entry comes to; `None` when it is no autonomous system or country, or nobody gave a file.
    #[must_use]
    pub fn get(&self, scope: Scope, value: &str) -> Option<&Expansion> {
        self.networks.as_ref()?;
        group_of(scope, value)?;
        // Beyond the limit nothing is kept of it.
        Some(self.known.get(&(scope, value.into())).unwrap_or(&Expansion::TooMany))
    }

    /// Takes note of an entry that came.
    pub fn learn(&mut self, exemptions: &Exemptions, scope: Scope, value: &str) {
        let (Some(networks), Some(group)) = (&self.networks, group_of(scope, value)) else { return };
        let key = (scope, value.into());
        if self.known.contains_key(&key) {
            return;
        }
        if self.known.len() >= EXPANSIONS_MAX {
            // Some of those may not be on the list any more.
            self.is_stale = true;
            return;
        }
        let room = EXPANSION_MAX.min(EXPANDED_MAX.saturating_sub(self.prefixes));
        let expansion = expand(networks, exemptions, group, self.at, room);
        if let Expansion::Prefixes(names) = &expansion {
            self.prefixes += names.len();
        }
        self.known.insert(key, expansion);
    }

    /// Brings all of them to `now`.
    pub fn refresh<'a>(
        &mut self,
        exemptions: &Exemptions,
        entries: impl Iterator<Item = (Scope, &'a str)>,
        now: Millis,
    ) {
        let is_over = self.until.is_some_and(|until| until <= now);
        if self.networks.is_none() || !(self.is_stale || is_over) {
            return;
        }
        self.known.clear();
        self.prefixes = 0;
        self.at = now;
        self.until = exemptions.next_end(now);
        for (scope, value) in entries {
            self.learn(exemptions, scope, value);
        }
        self.is_stale = false;
    }
}

fn group_of(scope: Scope, value: &str) -> Option<Group<'_>> {
    match scope {
        Scope::Asn => asn_of(value).map(Group::Asn),
        Scope::Country => Some(Group::Country(value)),
        Scope::Other
        | Scope::Ip
        | Scope::Cidr
        | Scope::Account
        | Scope::IpAccount
        | Scope::Device
        | Scope::UserAgent
        | Scope::TlsFingerprint
        | Scope::Tenant => None,
    }
}

fn expand(networks: &Networks, exemptions: &Exemptions, group: Group<'_>, now: Millis, room: usize) -> Expansion {
    // An autonomous system that is exempt stays so within a country.
    let is_exempt = |asn: u32| exemptions.forbids(None, Scope::Asn, &asn.to_string(), now);
    let prefixes = networks.prefixes_but(group, |facts| facts.asn.is_some_and(is_exempt), room);
    let Some(mut open) = prefixes else { return Expansion::TooMany };
    let mut names: Vec<Box<str>> = Vec::new();
    open.reverse();
    while let Some(net) = open.pop() {
        match judged(exemptions, &net, now) {
            Judged::Whole if names.len() >= room => return Expansion::TooMany,
            Judged::Whole => names.push(name_of(net).into()),
            Judged::Nothing => {}
            Judged::Parts => {
                let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten().collect::<Vec<_>>();
                open.extend(halves.into_iter().rev());
            }
        }
    }
    Expansion::Prefixes(names.into())
}

/// What of a range may be blocked.
enum Judged {
    Whole,
    Parts,
    Nothing,
}

fn judged(exemptions: &Exemptions, net: &IpNet, now: Millis) -> Judged {
    let is_source = net.prefix_len() >= if matches!(net, IpNet::V4(_)) { 32 } else { 64 };
    let [first, last] = [net.network(), net.broadcast()].map(|address| !Source::from(address).is_blockable());
    let is_reserved = first && last && (net.prefix_len() >= RESERVED_LENGTH_MIN || is_source);
    let name = name_of(*net);
    let scope = if matches!(net, IpNet::V4(v4) if v4.prefix_len() == 32) { Scope::Ip } else { Scope::Cidr };
    if is_reserved || exemptions.covers_range(net, now) {
        Judged::Nothing
    } else if first || last || reserved_inside(net) || exemptions.forbids(None, scope, &name, now) {
        if is_source { Judged::Nothing } else { Judged::Parts }
    } else {
        Judged::Whole
    }
}
