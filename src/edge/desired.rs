//! The set that should be enforced, from the records of the compacted topic `blocklist`.
//!
//! For one key the larger generation wins, and at one generation lifting wins, so it does not matter how often or in
//! which order records are read. Whatever is malformed is refused and counted, never applied; what was held under its
//! key stays until its own end. Exempted entries are held and not enforced: they come back when the exemption ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::{Expansion, Expansions};
use crate::event::wire::{ACCOUNT_BYTES_MAX, TEXT_BYTES_MAX, USER_AGENT_BYTES_MAX};
use crate::event::{BlocklistEntry, Exemption, Millis, Scope, Source, reserved_inside, split_key};
use crate::topology::exemptions::{Exemptions, asn_of, canonical, is_tenant, pair_of, prefix_of};
use crate::topology::networks::Networks;

/// Most entries held.
pub const ENTRIES_MAX: usize = 1_000_000;
/// Longest value of a record, in bytes: an entry is an entity and one sentence.
pub const ENTRY_BYTES_MAX: usize = 16 << 10;
/// Most lifted keys whose generation is remembered; the oldest is forgotten first.
pub const LIFTED_MAX: usize = 100_000;
/// How long an ended entry is still held, in milliseconds: a clock that is set back a little must not lose it.
pub const ENDED_KEPT_MS: Millis = 60_000;
/// Widest ranges that a sink takes: wider ones are taken for a mistake.
const V4_LENGTH_MIN: u8 = 8;
const V6_LENGTH_MIN: u8 = 16;

const _: () = assert!(USER_AGENT_BYTES_MAX + TEXT_BYTES_MAX < ENTRY_BYTES_MAX);

/// Whose entries a sink applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    One(Box<str>),
    All,
    /// Neither was said: right as long as the list holds one tenant only.
    Unset,
}

/// Why a record was not taken. The closed list of labels of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The key is not `tenant|SCOPE|value` in UTF-8.
    BadKey,
    /// The scope is OTHER, or one that this build does not know.
    UnknownScope,
    /// The value is no address, range, number or name, as its scope wants.
    BadValue,
    /// Another spelling of an entity: an IPv6 address that is not a /64, host bits, a range of one address.
    NotCanonical,
    /// A private, loopback, link-local, shared or multicast address, or a range that holds some.
    Unblockable,
    /// A range wider than IPv4 /8 or IPv6 /16.
    TooWide,
    /// Key or record are longer than any entry.
    TooLong,
    /// The record cannot be decoded.
    Malformed,
    /// Key and record disagree on whom they mean.
    Mismatch,
    /// The action restricts nobody.
    NoRestriction,
    /// [`ENTRIES_MAX`] are held.
    Full,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The set that should be enforced may be another one now.
    Changed,
    /// Known already, or older than what is held.
    Unchanged,
    /// Of a tenant that this sink does not apply.
    OtherTenant,
    Refused(Refusal),
}

/// How an entry stands at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Enforced,
    /// Somebody exempt would be restricted, or the tenant's kill switch is thrown.
    Exempted,
    /// Its end is past.
    Ended,
}

/// The entries of the blocklist that this sink applies, and who is exempt from them.
#[derive(Debug)]
pub struct Desired {
    tenants: Tenants,
    exemptions: Exemptions,
    held: BTreeMap<Arc<str>, BlocklistEntry>,
    ends: BTreeSet<(Millis, Arc<str>)>,
    lifted: Lifted,
    by_tenant: BTreeMap<Box<str>, usize>,
    refused: BTreeMap<Refusal, u64>,
    older: u64,
    other_tenants: u64,
    entries_max: usize,
    expansions: Expansions,
}

impl Desired {
    #[must_use]
    pub fn new(tenants: Tenants, exemptions: Exemptions) -> Self {
        Desired {
            tenants,
            exemptions,
            held: BTreeMap::new(),
            ends: BTreeSet::new(),
            lifted: Lifted::default(),
            by_tenant: BTreeMap::new(),
            refused: BTreeMap::new(),
            older: 0,
            other_tenants: 0,
            entries_max: ENTRIES_MAX,
            expansions: Expansions::default(),
        }
    }

    /// Takes one record of `blocklist`. `generation` is the header of a tombstone; one without it lifts whatever came
    /// before it in the log.
    pub fn apply(&mut self, key: &str, value: Option<BlocklistEntry>, generation: Option<i64>) -> Taken {
        if let Some(tenant) = key.split('|').next()
            && !self.applies_to(tenant)
        {
            self.other_tenants += 1;
            return Taken::OtherTenant;
        }
        let checked = match &value {
            Some(entry) => check_key(key).and_then(|()| check_entry(key, entry)),
            None => check_key(key),
        };
        match (checked, value) {
            (Err(refusal), _) => self.refuse(refusal),
            (Ok(()), Some(entry)) => self.hold(key, entry),
            (Ok(()), None) => self.lift(key, generation),
        }
    }

    /// Counts a record that could not even be decoded.
    pub fn refuse(&mut self, refusal: Refusal) -> Taken {
        *self.refused.entry(refusal).or_default() += 1;
        Taken::Refused(refusal)
    }

    /// Takes one record of `exemptions`; whether anything changed. Those of tenants that this sink does not apply are
    /// left out.
    ///
    /// # Errors
    /// The record cannot be used.
    pub fn exempt(&mut self, key: &str, value: Option<Exemption>) -> Result<bool, String> {
        let tenant = key.split('|').next().unwrap_or_default();
        if !tenant.is_empty() && !self.applies_to(tenant) {
            return Ok(false);
        }
        let has_changed = self.exemptions.apply(key, value)?;
        if has_changed {
            self.expansions.exemptions_changed();
        }
        Ok(has_changed)
    }

    /// Looks autonomous systems and countries up in these networks from now on; whether they are others than before.
    pub fn turn_to(&mut self, networks: &Arc<Networks>) -> bool {
        self.expansions.turn(networks)
    }

    /// Brings the prefixes of autonomous systems and countries to `now`.
    pub fn expand(&mut self, now: Millis) {
        let entries = self.held.values().map(|entry| (entry.scope, entry.value.as_str()));
        self.expansions.refresh(&self.exemptions, entries, now);
    }

    /// The prefixes of an autonomous system or a country, by the files that this process was given.
    #[must_use]
    pub fn expansion(&self, scope: Scope, value: &str) -> Option<&Expansion> {
        self.expansions.get(scope, value)
    }

    /// What is known of networks, when a file was given.
    #[must_use]
    pub fn networks(&self) -> Option<&Networks> {
        self.expansions.networks()
    }

    /// The entries to be enforced at `now`, by key.
    pub fn enforced(&self, now: Millis) -> impl Iterator<Item = (&str, &BlocklistEntry)> {
        self.entries().filter(move |(_, entry)| self.standing(entry, now) == Standing::Enforced)
    }

    /// Whether the kill switch of a tenant is thrown whose entries are held.
    #[must_use]
    pub fn is_switched_off(&self, now: Millis) -> bool {
        self.by_tenant.keys().any(|tenant| self.exemptions.covers_tenant(tenant, now).is_some())
    }

    /// Every held entry, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &BlocklistEntry)> {
        self.held.iter().map(|(key, entry)| (&**key, entry))
    }

    /// The held entry of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&BlocklistEntry> {
        self.held.get(key)
    }

    /// Who is exempt, by file and topic.
    #[must_use]
    pub const fn exemptions(&self) -> &Exemptions {
        &self.exemptions
    }

    /// Every held entry by its key as it is kept, for those who keep it as well.
    pub(super) fn held(&self) -> &BTreeMap<Arc<str>, BlocklistEntry> {
        &self.held
    }

    /// The generation under which a key was lifted or ended that is not held; the newest [`LIFTED_MAX`] are known.
    pub(super) fn gone(&self, key: &str) -> Option<i64> {
        self.lifted.generation(key)
    }

    /// All of those, the oldest first.
    pub(super) fn all_gone(&self) -> impl Iterator<Item = (&Arc<str>, i64)> {
        let current = |(number, key): &(u64, Arc<str>)| {
            self.lifted.generations.get(key).filter(|(_, newest)| newest == number).map(|(generation, _)| *generation)
        };
        self.lifted.order.iter().filter_map(move |item| Some((&item.1, current(item)?)))
    }

    /// How one of these entries stands, its own tenant's exemptions applied.
    #[must_use]
    pub fn standing(&self, entry: &BlocklistEntry, now: Millis) -> Standing {
        self.standing_for(Some(&entry.tenant), entry, now)
    }

    /// How one of these entries stands on a list that all tenants share: an exemption of any of them counts.
    #[must_use]
    pub fn standing_shared(&self, entry: &BlocklistEntry, now: Millis) -> Standing {
        self.standing_for(None, entry, now)
    }

    /// When an entry or an exemption ends next after `now`.
    #[must_use]
    pub fn next_end(&self, now: Millis) -> Option<Millis> {
        let nobody: Arc<str> = Arc::from("");
        let next_entry = self.ends.range((now.saturating_add(1), nobody)..).next().map(|(end, _)| *end);
        next_entry.into_iter().chain(self.exemptions.next_end(now)).min()
    }

    /// Lets go of what ended more than [`ENDED_KEPT_MS`] ago; the generations stay remembered.
    pub fn forget_ended(&mut self, now: Millis) {
        let over = now.saturating_sub(ENDED_KEPT_MS);
        self.exemptions.forget_ended(over);
        while let Some((end, key)) = self.ends.first()
            && *end <= over
        {
            let key = Arc::clone(key);
            if let Some(gone) = self.remove(&key) {
                self.lifted.put(key, gone.generation);
            }
        }
    }

    /// Whether nobody said which tenant to apply and the list holds several.
    #[must_use]
    pub fn several_tenants(&self) -> bool {
        match self.tenants {
            Tenants::Unset => self.by_tenant.len() > 1,
            Tenants::One(_) | Tenants::All => false,
        }
    }

    /// How many entries are held, ended and exempted ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many records were refused, by reason.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<Refusal, u64> {
        &self.refused
    }

    /// How many records were older than what was held.
    #[must_use]
    pub const fn older(&self) -> u64 {
        self.older
    }

    /// How many records were of other tenants.
    #[must_use]
    pub const fn other_tenants(&self) -> u64 {
        self.other_tenants
    }

    fn applies_to(&self, tenant: &str) -> bool {
        match &self.tenants {
            Tenants::One(one) => **one == *tenant,
            Tenants::All | Tenants::Unset => true,
        }
    }

    fn standing_for(&self, tenant: Option<&str>, entry: &BlocklistEntry, now: Millis) -> Standing {
        if entry.until.is_some_and(|end| end <= now) {
            Standing::Ended
        } else if self.exemptions.covers_tenant(&entry.tenant, now).is_some()
            || self.exemptions.forbids(tenant, entry.scope, &entry.value, now)
        {
            Standing::Exempted
        } else {
            Standing::Enforced
        }
    }

    fn hold(&mut self, key: &str, entry: BlocklistEntry) -> Taken {
        if self.lifted.generation(key).is_some_and(|lifted| entry.generation <= lifted) {
            self.older += 1;
            return Taken::Unchanged;
        }
        match self.held.get(key) {
            Some(held) if *held == entry => return Taken::Unchanged,
            Some(held) if held.generation > entry.generation => {
                self.older += 1;
                return Taken::Unchanged;
            }
            Some(_) => {}
            None if self.held.len() >= self.entries_max => return self.refuse(Refusal::Full),
            None => {}
        }
        self.remove(key);
        self.lifted.forget(key);
        let key: Arc<str> = key.into();
        if let Some(end) = entry.until {
            self.ends.insert((end, Arc::clone(&key)));
        }
        *self.by_tenant.entry(entry.tenant.as_str().into()).or_default() += 1;
        self.expansions.learn(&self.exemptions, entry.scope, &entry.value);
        self.held.insert(key, entry);
        Taken::Changed
    }

    fn lift(&mut self, key: &str, generation: Option<i64>) -> Taken {
        let held = self.held.get(key).map(|entry| entry.generation);
        let known = held.into_iter().chain(self.lifted.generation(key)).max();
        let Some(generation) = generation.or(known) else { return Taken::Unchanged };
        if known.is_some_and(|known| known > generation) {
            self.older += 1;
            return Taken::Unchanged;
        }
        self.lifted.put(key.into(), generation);
        if self.remove(key).is_some() { Taken::Changed } else { Taken::Unchanged }
    }

    fn remove(&mut self, key: &str) -> Option<BlocklistEntry> {
        let (key, gone) = self.held.remove_entry(key)?;
        if let Some(end) = gone.until {
            self.ends.remove(&(end, key));
        }
        if let Some(count) = self.by_tenant.get_mut(gone.tenant.as_str()) {
            *count -= 1;
            if *count == 0 {
                self.by_tenant.remove(gone.tenant.as_str());
            }
        }
        Some(gone)
    }
}

impl Refusal {
    /// Its label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::BadKey => "bad_key",
            Refusal::UnknownScope => "unknown_scope",
            Refusal::BadValue => "bad_value",
            Refusal::NotCanonical => "not_canonical",
            Refusal::Unblockable => "unblockable",
            Refusal::TooWide => "too_wide",
            Refusal::TooLong => "too_long",
            Refusal::Malformed => "malformed",
            Refusal::Mismatch => "mismatch",
            Refusal::NoRestriction => "no_restriction",
            Refusal::Full => "full",
        }
    }
}

/// Generations of keys that are not held any more, the newest [`LIFTED_MAX`].
#[derive(Debug, Default)]
struct Lifted {
    generations: FxHashMap<Arc<str>, (i64, u64)>,
    /// In the order in which they were lifted; an item whose number is not the map's is out of date.
    order: VecDeque<(u64, Arc<str>)>,
    next: u64,
}

impl Lifted {
    fn generation(&self, key: &str) -> Option<i64> {
        self.generations.get(key).map(|(generation, _)| *generation)
    }

    fn put(&mut self, key: Arc<str>, generation: i64) {
        self.next += 1;
        self.order.push_back((self.next, Arc::clone(&key)));
        self.generations.insert(key, (generation, self.next));
        if self.order.len() > LIFTED_MAX
            && let Some((number, oldest)) = self.order.pop_front()
            && self.generations.get(&oldest).is_some_and(|(_, n)| *n == number)
        {
            self.generations.remove(&oldest);
        }
    }

    fn forget(&mut self, key: &str) {
        self.generations.remove(key);
    }
}

/// Whether a key names an entity that could be restricted, in its one canonical spelling.
fn check_key(key: &str) -> Result<(), Refusal> {
    let (tenant, scope, value) = split_key(key).ok_or(Refusal::BadKey)?;
    if !is_tenant(tenant) {
        return Err(Refusal::BadKey);
    }
    let scope = Scope::from_name(scope).ok_or(Refusal::UnknownScope)?;
    match scope {
        Scope::Other => Err(Refusal::UnknownScope),
        Scope::Ip | Scope::Cidr => check_range(scope, value),
        Scope::IpAccount => match pair_of(value) {
            Some((source, account)) if source.is_blockable() => check_name(account, ACCOUNT_BYTES_MAX),
            Some(_) => Err(Refusal::Unblockable),
            None => Err(bad_or_not_canonical(scope, value)),
        },
        Scope::Asn => asn_of(value).map(|_| ()).ok_or_else(|| bad_or_not_canonical(scope, value)),
        Scope::Account => check_name(value, ACCOUNT_BYTES_MAX),
        Scope::UserAgent => check_name(value, USER_AGENT_BYTES_MAX),
        Scope::Country | Scope::Device | Scope::TlsFingerprint | Scope::Tenant => check_name(value, TEXT_BYTES_MAX),
    }
}

fn check_range(scope: Scope, value: &str) -> Result<(), Refusal> {
    let net = prefix_of(scope, value).ok_or_else(|| bad_or_not_canonical(scope, value))?;
    let length_min = match net {
        IpNet::V4(_) => V4_LENGTH_MIN,
        IpNet::V6(_) => V6_LENGTH_MIN,
    };
    if !Source::from(net.network()).is_blockable() || reserved_inside(&net) {
        Err(Refusal::Unblockable)
    } else if net.prefix_len() < length_min {
        Err(Refusal::TooWide)
    } else {
        Ok(())
    }
}

/// A value of whatever the publisher calls it: present, and no longer than an attempt may carry.
fn check_name(value: &str, bytes_max: usize) -> Result<(), Refusal> {
    if value.is_empty() {
        Err(Refusal::BadValue)
    } else if value.len() > bytes_max {
        Err(Refusal::TooLong)
    } else {
        Ok(())
    }
}

fn bad_or_not_canonical(scope: Scope, value: &str) -> Refusal {
    if canonical(scope, value).is_ok() { Refusal::NotCanonical } else { Refusal::BadValue }
}

fn check_entry(key: &str, entry: &BlocklistEntry) -> Result<(), Refusal> {
    let same = split_key(key).is_some_and(|(tenant, scope, value)| {
        tenant == entry.tenant && scope == entry.scope.as_str() && value == entry.value
    });
    if !same {
        Err(Refusal::Mismatch)
    } else if !entry.action.restricts() {
        Err(Refusal::NoRestriction)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use crate::event::Action;
    use crate::event::RESERVED;

    const NOW: Millis = 1_561_682_490_000;

    fn entry(key: &str, generation: i64, until: Option<Millis>) -> BlocklistEntry {
        let (tenant, scope, value) = split_key(key).unwrap_or(("shop", "IP", "203.0.113.9"));
        BlocklistEntry {
            tenant: tenant.to_owned(),
            scope: Scope::from_name(scope).unwrap_or(Scope::Other),
            value: value.to_owned(),
            action: Action::Block,
            since: NOW,
            until,
            generation,
            reason: "test".to_owned(),
            playbook: None,
            verdict_id: None,
            incident_id: None,
            actor: None,
            wide: false,
        }
    }

    fn all() -> Desired {
        Desired::new(Tenants::All, Exemptions::default())
    }

    fn enforced(desired: &Desired, now: Millis) -> String {
        desired.enforced(now).map(|(key, _)| key).collect::<Vec<_>>().join(" ")
    }

    fn check(key: &str, expected: Taken) {
        let mut desired = all();
        assert_eq!(desired.apply(key, Some(entry(key, 1, None)), None), expected, "{key}");
        assert_eq!(desired.len(), usize::from(expected == Taken::Changed), "{key}");
    }

    #[test]
    fn keys_that_are_taken() {
        for key in [
            "shop|IP|203.0.113.9",
            "shop|CIDR|203.0.113.0/24",
            "shop|CIDR|203.0.113.8/31",
            "shop|CIDR|11.0.0.0/8",
            "shop|CIDR|2001:db8:1:2::/64",
            "shop|CIDR|2001:db8::/32",
            "shop|ASN|64500",
            "shop|ACCOUNT|ada|eve",
            "shop|IP_ACCOUNT|203.0.113.9|ada|eve",
            "shop|IP_ACCOUNT|2001:db8:1:2::/64|ada",
            "shop|COUNTRY|NL",
            "shop|DEVICE|d",
            "shop|USER_AGENT|curl/8 | x",
            "shop|TLS_FINGERPRINT|t13d",
            "shop|TENANT|shop",
        ] {
            check(key, Taken::Changed);
        }
    }

    #[test]
    fn keys_that_are_refused() {
        let long = "x".repeat(ACCOUNT_BYTES_MAX + 1);
        for (key, refusal) in [
            ("shop", Refusal::BadKey),
            ("shop|IP", Refusal::BadKey),
            ("|IP|203.0.113.9", Refusal::BadKey),
            ("Shop|IP|203.0.113.9", Refusal::BadKey),
            ("shop|ip|203.0.113.9", Refusal::UnknownScope),
            ("shop|OTHER|x", Refusal::UnknownScope),
            ("shop|IP|", Refusal::BadValue),
            ("shop|IP|203.0.113.999", Refusal::BadValue),
            ("shop|IP|203.0.113.9 1;\ninclude /etc/shadow", Refusal::BadValue),
            ("shop|IP|example.org", Refusal::BadValue),
            ("shop|IP|2001:db8::1", Refusal::NotCanonical),
            ("shop|IP|::ffff:203.0.113.9", Refusal::NotCanonical),
            ("shop|IP| 203.0.113.9", Refusal::NotCanonical),
            ("shop|IP|203.0.113.009", Refusal::BadValue),
            ("shop|CIDR|203.0.113.9", Refusal::BadValue),
            ("shop|CIDR|203.0.113.9/32", Refusal::NotCanonical),
            ("shop|CIDR|203.0.113.9/24", Refusal::NotCanonical),
            ("shop|CIDR|203.0.113.0/024", Refusal::BadValue),
            ("shop|CIDR|2001:DB8::/64", Refusal::NotCanonical),
            ("shop|CIDR|2001:db8::/65", Refusal::NotCanonical),
            ("shop|IP|127.0.0.1", Refusal::Unblockable),
            ("shop|IP|100.64.3.4", Refusal::Unblockable),
            ("shop|CIDR|192.168.3.0/24", Refusal::Unblockable),
            ("shop|CIDR|192.0.0.0/8", Refusal::Unblockable),
            ("shop|CIDR|0.0.0.0/0", Refusal::Unblockable),
            ("shop|CIDR|::/0", Refusal::Unblockable),
            ("shop|CIDR|fe00::/7", Refusal::Unblockable),
            ("shop|CIDR|12.0.0.0/6", Refusal::TooWide),
            ("shop|CIDR|2000::/3", Refusal::TooWide),
            ("shop|IP_ACCOUNT|203.0.113.9", Refusal::BadValue),
            ("shop|IP_ACCOUNT|2001:db8::1|ada", Refusal::NotCanonical),
            ("shop|IP_ACCOUNT|10.0.0.1|ada", Refusal::Unblockable),
            ("shop|ASN|AS64500", Refusal::NotCanonical),
            ("shop|ASN|many", Refusal::BadValue),
            ("shop|ACCOUNT|", Refusal::BadValue),
            (&format!("shop|ACCOUNT|{long}"), Refusal::TooLong),
        ] {
            check(key, Taken::Refused(refusal));
        }
    }

    #[test]
    fn records_that_are_refused_are_counted_and_change_nothing() {
        let key = "shop|IP|203.0.113.9";
        let mut desired = all();
        desired.apply(key, Some(entry(key, 1, None)), None);
        let other = entry("shop|IP|203.0.113.8", 2, None);
        assert_eq!(desired.apply(key, Some(other), None), Taken::Refused(Refusal::Mismatch));
        let idle = BlocklistEntry { action: Action::Notify, ..entry(key, 3, None) };
        assert_eq!(desired.apply(key, Some(idle), None), Taken::Refused(Refusal::NoRestriction));
        desired.refuse(Refusal::Malformed);
        let counted: Vec<_> = desired.refused().iter().map(|(r, n)| (r.as_str(), *n)).collect();
        assert_eq!(counted, [("malformed", 1), ("mismatch", 1), ("no_restriction", 1)]);
        assert_eq!(enforced(&desired, NOW), key);
        desired.entries_max = 1;
        let more = "shop|IP|203.0.113.8";
        assert_eq!(desired.apply(more, Some(entry(more, 1, None)), None), Taken::Refused(Refusal::Full));
        assert_eq!(desired.apply(key, Some(entry(key, 2, None)), None), Taken::Changed);
    }

    /// Records of one key: a generation, `-` before it for a tombstone, a bare `-` for one without. The generation that
    /// is held in the end, if any.
    fn check_order(records: &str, expected: Option<i64>) {
        let key = "shop|IP|203.0.113.9";
        let mut desired = all();
        for record in records.split_whitespace() {
            match record.strip_prefix('-') {
                Some("") => desired.apply(key, None, None),
                Some(generation) => desired.apply(key, None, generation.parse().ok()),
                None => desired.apply(key, Some(entry(key, record.parse().unwrap(), None)), None),
            };
        }
        assert_eq!(desired.entries().map(|(_, e)| e.generation).next(), expected, "{records}");
    }

    #[test]
    fn the_larger_generation_wins_and_lifting_wins_a_tie() {
        check_order("1", Some(1));
        check_order("1 3 2", Some(3));
        check_order("1 -2", None);
        check_order("-2 1", None);
        check_order("3 -2", Some(3));
        check_order("2 -2", None);
        check_order("-2 2", None);
        check_order("-2 3", Some(3));
        check_order("1 -2 3 -2", Some(3));
        check_order("5 -", None);
        check_order("5 - 4", None);
        check_order("5 - 6", Some(6));
        check_order("-", None);
        check_order("- 1", Some(1));
        check_order("5 -7 - 6", None);
    }

    #[test]
    fn entries_end_by_the_clock_and_are_forgotten_a_little_later() {
        let mut desired = all();
        for (key, until) in
            [("shop|IP|203.0.113.1", Some(10)), ("shop|IP|203.0.113.2", Some(20)), ("shop|IP|203.0.113.3", None)]
        {
            desired.apply(key, Some(entry(key, 1, until.map(|s| NOW + s))), None);
        }
        assert_eq!(desired.next_end(NOW), Some(NOW + 10));
        assert_eq!(enforced(&desired, NOW + 9), "shop|IP|203.0.113.1 shop|IP|203.0.113.2 shop|IP|203.0.113.3");
        assert_eq!(enforced(&desired, NOW + 10), "shop|IP|203.0.113.2 shop|IP|203.0.113.3");
        assert_eq!((desired.next_end(NOW + 10), desired.next_end(NOW + 20)), (Some(NOW + 20), None));
        desired.forget_ended(NOW + 15);
        assert_eq!(desired.len(), 3);
        desired.forget_ended(NOW + 15 + ENDED_KEPT_MS);
        assert_eq!(desired.len(), 2);
        // Its generation is still known.
        let old = entry("shop|IP|203.0.113.1", 1, None);
        assert_eq!(desired.apply("shop|IP|203.0.113.1", Some(old), None), Taken::Unchanged);
        let renewed = entry("shop|IP|203.0.113.1", 2, Some(NOW + 90));
        assert_eq!(desired.apply("shop|IP|203.0.113.1", Some(renewed), None), Taken::Changed);
    }

    #[test]
    fn exempted_entries_come_back_when_the_exemption_ends() {
        let mut desired = all();
        for key in ["shop|IP|203.0.113.1", "shop|CIDR|203.0.0.0/16", "bank|IP|203.0.113.1", "shop|IP|203.0.114.1"] {
            desired.apply(key, Some(entry(key, 1, None)), None);
        }
        let exemption = Exemption {
            tenant: "shop".to_owned(),
            scope: Scope::Cidr,
            value: "203.0.113.0/24".to_owned(),
            since: 0,
            until: Some(NOW + 5),
            reason: "test".to_owned(),
            actor: None,
            generation: 1,
        };
        assert_eq!(desired.exempt("shop|CIDR|203.0.113.0/24", Some(exemption)), Ok(true));
        assert_eq!(enforced(&desired, NOW), "bank|IP|203.0.113.1 shop|IP|203.0.114.1");
        let shared: Vec<_> = desired.entries().map(|(_, e)| desired.standing_shared(e, NOW)).collect();
        assert_eq!(shared, [Standing::Exempted, Standing::Exempted, Standing::Exempted, Standing::Enforced]);
        assert_eq!(desired.next_end(NOW), Some(NOW + 5));
        assert_eq!(desired.enforced(NOW + 5).count(), 4);
    }

    #[test]
    fn tenants() {
        let keys = ["shop|IP|203.0.113.1", "bank|IP|203.0.113.2"];
        let filled = |tenants: Tenants| {
            let mut desired = Desired::new(tenants, Exemptions::default());
            for key in keys {
                desired.apply(key, Some(entry(key, 1, None)), None);
            }
            (desired.len(), desired.other_tenants(), desired.several_tenants())
        };
        assert_eq!(filled(Tenants::All), (2, 0, false));
        assert_eq!(filled(Tenants::One("shop".into())), (1, 1, false));
        assert_eq!(filled(Tenants::Unset), (2, 0, true));
        let mut one = Desired::new(Tenants::Unset, Exemptions::default());
        one.apply(keys[0], Some(entry(keys[0], 1, None)), None);
        one.apply(keys[1], Some(entry(keys[1], 1, None)), None);
        one.apply(keys[1], None, Some(2));
        assert!(!one.several_tenants());
    }

    #[test]
    fn lifted_keys_are_bounded() {
        let mut lifted = Lifted::default();
        for i in 0..LIFTED_MAX + 5 {
            lifted.put(i.to_string().into(), 7);
        }
        assert_eq!((lifted.generations.len(), lifted.order.len()), (LIFTED_MAX, LIFTED_MAX));
        assert_eq!((lifted.generation("4"), lifted.generation("5")), (None, Some(7)));
    }

    #[test]
    fn a_range_that_holds_an_address_which_is_never_blockable_starts_before_or_at_its_first() {
        for address in RESERVED {
            assert!(!Source::from(address).is_blockable(), "{address}");
            let before = match address {
                IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|b| IpAddr::V4(Ipv4Addr::from_bits(b))),
                IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|b| IpAddr::V6(Ipv6Addr::from_bits(b))),
            };
            // Broadcast lies behind other addresses that are reserved for nobody, and so does fe80::/10.
            assert!(before.is_none_or(|b| Source::from(b).is_blockable()), "{address} is not the first of its range");
        }
    }
}
