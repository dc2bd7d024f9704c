//! What one edge should have, and what of the list it cannot have. Pure: nothing here touches an edge.
//!
//! ```text
//! entry ──▶ fate: ended · exempted · left out · an element ──▶ disjoint ──▶ merged ──▶ the most valuable
//! ```
//!
//! The three steps on the right are taken only where the edge asks for them: it cannot nest ranges, or it is smaller
//! than the list. None of them restricts an address that no entry restricts.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Desired, Edge, Element, Elements, Expansion, Reach, Standing, Width};
use crate::event::{Action, BlocklistEntry, Millis, Scope};
use crate::topology::exemptions::prefix_of;

/// What becomes of one entry at one edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate<'a> {
    /// Its end is past.
    Ended,
    /// Somebody exempt would be restricted.
    Exempted,
    LeftOut(LeftOut),
    /// It is this element of the edge's list.
    Element(&'a str),
    /// It is all of these: an autonomous system or a country, by its prefixes.
    Elements(&'a [Box<str>]),
}

impl<'a> Fate<'a> {
    /// The elements that it is.
    pub fn names(self) -> impl Iterator<Item = &'a str> {
        let (one, several) = match self {
            Fate::Element(name) => (Some(name), &[][..]),
            Fate::Elements(names) => (None, names),
            Fate::Ended | Fate::Exempted | Fate::LeftOut(_) => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().map(|name| &**name))
    }
}

/// Why an edge does not take an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// It has no words for its scope.
    Scope,
    /// No file of networks knows an address of it, or whoever is at one is exempt.
    NoAddresses,
    /// It has more prefixes than an edge is given.
    TooManyPrefixes,
    /// It can only refuse, and the action is weaker: a challenge never becomes a block.
    TooWeak,
    /// It cuts off a whole machine, and the entry is neither of a wide playbook nor of an operator.
    NotWide,
    /// It is full of more valuable ones.
    Full,
}

impl LeftOut {
    /// In words, for a receipt.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LeftOut::Scope => "the edge has no words for this scope",
            LeftOut::NoAddresses => {
                "the edge knows only addresses, and no file of networks (--mmdb) has one of it to block"
            }
            LeftOut::TooManyPrefixes => "the edge knows only addresses, and these are over 262144 prefixes",
            LeftOut::TooWeak => "the edge can only block, and the action is weaker",
            LeftOut::NotWide => "the edge cuts off whole machines, and the playbook does not say `wide: true`",
            LeftOut::Full => "the edge is full of more valuable entries",
        }
    }
}

/// What one edge should have, and what of the list it cannot have.
#[derive(Debug, Default)]
pub struct Wanted {
    pub elements: Elements,
    /// Entries left out because somebody exempt would be restricted.
    pub exempted: u64,
    /// Entries that this edge has no words for, by scope. An action weaker than a block is among them.
    pub not_expressible: BTreeMap<Scope, u64>,
    /// How many of those only because of their action, such as a challenge: it never becomes a block.
    pub too_weak: u64,
    /// Entries left out because the edge cuts off whole machines, and they are neither of a wide playbook nor of an
    /// operator.
    pub not_wide: u64,
    /// Elements left out because the edge is full.
    pub over_capacity: u64,
}

/// What becomes of an entry, as far as it can be told without looking at the others.
#[must_use]
pub fn fate<'a>(desired: &'a Desired, edge: &Edge, key: &'a str, entry: &'a BlocklistEntry, now: Millis) -> Fate<'a> {
    let standing = match edge.reach {
        Reach::Addresses => desired.standing_shared(entry, now),
        Reach::Records => desired.standing(entry, now),
    };
    match standing {
        Standing::Ended => return Fate::Ended,
        Standing::Exempted => return Fate::Exempted,
        Standing::Enforced => {}
    }
    let elements = match edge.reach {
        Reach::Records => Fate::Element(key),
        Reach::Addresses => match desired.expansion(entry.scope, &entry.value) {
            None if !entry.scope.is_address() => return Fate::LeftOut(LeftOut::Scope),
            _ if entry.action.strength() < Action::Block.strength() => return Fate::LeftOut(LeftOut::TooWeak),
            None => Fate::Element(entry.value.as_str()),
            Some(Expansion::TooMany) => return Fate::LeftOut(LeftOut::TooManyPrefixes),
            Some(Expansion::Prefixes(names)) if names.is_empty() => return Fate::LeftOut(LeftOut::NoAddresses),
            Some(Expansion::Prefixes(names)) => Fate::Elements(names),
        },
    };
    match edge.width {
        Width::Host if !entry.wide && entry.actor.is_none() => Fate::LeftOut(LeftOut::NotWide),
        Width::Host | Width::Route => elements,
    }
}

/// What this edge should have at `now`.
#[must_use]
pub fn wanted(desired: &Desired, edge: &Edge, now: Millis) -> Wanted {
    let mut wanted = Wanted::default();
    for (key, entry) in desired.entries() {
        match fate(desired, edge, key, entry, now) {
            Fate::Ended => {}
            Fate::Exempted => wanted.exempted += 1,
            Fate::LeftOut(why) => wanted.leave_out(entry.scope, why),
            elements @ (Fate::Element(_) | Fate::Elements(_)) => elements.names().for_each(|name| match edge.reach {
                Reach::Addresses => wanted.put_address(name, entry),
                Reach::Records => wanted.put_record(name, entry),
            }),
        }
    }
    wanted.fit(desired, edge, now);
    wanted
}

impl Wanted {
    fn leave_out(&mut self, scope: Scope, why: LeftOut) {
        match why {
            LeftOut::Scope | LeftOut::NoAddresses | LeftOut::TooManyPrefixes => {
                *self.not_expressible.entry(scope).or_default() += 1
            }
            LeftOut::TooWeak => {
                *self.not_expressible.entry(scope).or_default() += 1;
                self.too_weak += 1;
            }
            LeftOut::NotWide => self.not_wide += 1,
            LeftOut::Full => self.over_capacity += 1,
        }
    }

    fn put_address(&mut self, name: &str, entry: &BlocklistEntry) {
        match self.elements.get_mut(name) {
            // Two tenants block one address: it stays until the later end.
            Some(element) => element.until = element.until.zip(entry.until).map(|(a, b)| a.max(b)),
            None => {
                self.elements.insert(name.into(), Element { body: "1".into(), until: entry.until });
            }
        }
    }

    fn put_record(&mut self, key: &str, entry: &BlocklistEntry) {
        match serde_json::to_string(entry) {
            Ok(line) => {
                self.elements.insert(key.into(), Element { body: line.into(), until: entry.until });
            }
            // A record of texts and numbers always has a JSON form; should that change, it shows here.
            Err(_) => self.leave_out(entry.scope, LeftOut::Scope),
        }
    }

    /// Makes it what the edge can hold.
    fn fit(&mut self, desired: &Desired, edge: &Edge, now: Millis) {
        let is_over = self.elements.len() > edge.capacity;
        if edge.reach == Reach::Addresses && (is_over || !edge.nests) {
            self.elements = disjoint(std::mem::take(&mut self.elements), is_over);
        }
        if self.elements.len() > edge.capacity {
            for name in least_valuable(desired, edge, &self.elements, now) {
                self.elements.remove(&name);
                self.over_capacity += 1;
            }
        }
    }
}

/// What an element is worth where not all of them fit: the larger stays. An operator's before a playbook's, the stronger
/// action, the later end (the ladder gives it to who was found more often), the newer change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    by_operator: bool,
    strength: u8,
    until: Millis,
    generation: i64,
}

/// The elements that must go so that the others fit; of equals the last by name.
fn least_valuable(desired: &Desired, edge: &Edge, elements: &Elements, now: Millis) -> Vec<Box<str>> {
    let mut worths: BTreeMap<&str, Worth> = BTreeMap::new();
    for (key, entry) in desired.entries() {
        let worth = Worth {
            by_operator: entry.actor.is_some(),
            strength: entry.action.strength(),
            until: entry.until.unwrap_or(Millis::MAX),
            generation: entry.generation,
        };
        for name in fate(desired, edge, key, entry, now).names() {
            let Some((name, _)) = carrier_of(elements, name) else { continue };
            let known = worths.entry(name).or_insert(worth);
            *known = worth.max(*known);
        }
    }
    let mut ordered: Vec<(std::cmp::Reverse<Option<Worth>>, &str)> =
        elements.keys().map(|name| (std::cmp::Reverse(worths.get(&**name).copied()), &**name)).collect();
    if edge.capacity < ordered.len() {
        ordered.select_nth_unstable(edge.capacity);
    }
    ordered.split_off(edge.capacity.min(ordered.len())).into_iter().map(|(_, name)| name.into()).collect()
}

/// The same addresses with no range inside another; `merges`: and as few ranges as they have. What is merged ends with
/// the first of its parts, and the next look takes it apart again.
fn disjoint(elements: Elements, merges: bool) -> Elements {
    let (mut ranges, mut others) = (Vec::new(), Elements::new());
    for (name, element) in elements {
        match range_of(&name) {
            Some(net) => ranges.push((net, element)),
            None => drop(others.insert(name, element)),
        }
    }
    // A range comes before everything inside of it.
    ranges.sort_by_key(|(net, _)| *net);
    let mut kept: Vec<(IpNet, Element)> = Vec::with_capacity(ranges.len());
    for (net, element) in ranges {
        if kept.last().is_some_and(|(last, _)| last.contains(&net)) {
            continue;
        }
        kept.push((net, element));
        while merges && let Some(merged) = halves(&kept) {
            kept.truncate(kept.len() - 2);
            kept.push(merged);
        }
    }
    others.extend(kept.into_iter().map(|(net, element)| (name_of(net).into(), element)));
    others
}

/// The range that the last two are the halves of.
fn halves(kept: &[(IpNet, Element)]) -> Option<(IpNet, Element)> {
    let [.., (left, left_element), (right, right_element)] = kept else { return None };
    let whole = left.supernet().filter(|_| left.prefix_len() == right.prefix_len())?;
    if right.supernet() != Some(whole) {
        return None;
    }
    let until = left_element.until.into_iter().chain(right_element.until).min();
    Some((whole, Element { body: left_element.body.clone(), until }))
}

/// The element that carries `name`: itself, or a range around it.
pub(super) fn carrier_of<'a>(elements: &'a Elements, name: &str) -> Option<(&'a str, &'a Element)> {
    let found = |name: &str| elements.get_key_value(name).map(|(name, element)| (&**name, element));
    if let Some(itself) = found(name) {
        return Some(itself);
    }
    let mut wider = range_of(name)?.supernet();
    while let Some(net) = wider {
        if let Some(around) = found(&name_of(net)) {
            return Some(around);
        }
        wider = net.supernet();
    }
    None
}

fn range_of(name: &str) -> Option<IpNet> {
    prefix_of(Scope::Ip, name).or_else(|| prefix_of(Scope::Cidr, name))
}

/// Its name in a list: one IPv4 address is written without a length.
pub(super) fn name_of(net: IpNet) -> String {
    match net {
        IpNet::V4(v4) if v4.prefix_len() == 32 => v4.addr().to_string(),
        IpNet::V4(_) | IpNet::V6(_) => net.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::edge::{ENTRIES_MAX, Tenants};
    use crate::topology::exemptions::Exemptions;

    const NOW: Millis = 1_561_682_490_000;

    fn entry(key: &str, action: Action, until: Option<Millis>, wide: bool, actor: bool) -> BlocklistEntry {
        let (tenant, scope, value) = crate::event::split_key(key).unwrap();
        BlocklistEntry {
            tenant: tenant.to_owned(),
            scope: Scope::from_name(scope).unwrap(),
            value: value.to_owned(),
            action,
            since: NOW,
            until,
            generation: 1,
            reason: String::new(),
            playbook: None,
            verdict_id: None,
            incident_id: None,
            actor: actor.then(|| "operator".to_owned()),
            wide,
        }
    }

    fn held(entries: &[(String, BlocklistEntry)]) -> Desired {
        let mut desired = Desired::new(Tenants::All, Exemptions::default());
        for (key, entry) in entries {
            desired.apply(key, Some(entry.clone()), None);
        }
        desired
    }

    const EVERYTHING: Edge = Edge { reach: Reach::Addresses, width: Width::Route, capacity: ENTRIES_MAX, nests: true };

    fn check(edge: Edge, entries: &[(&str, Action, bool, bool)], expected: &str, left_out: [u64; 4]) {
        let entries: Vec<_> = entries
            .iter()
            .map(|(key, action, wide, actor)| ((*key).to_owned(), entry(key, *action, None, *wide, *actor)))
            .collect();
        let wanted = wanted(&held(&entries), &edge, NOW);
        let names: Vec<&str> = wanted.elements.keys().map(|name| &**name).collect();
        assert_eq!(names.join(" "), expected);
        let words: u64 = wanted.not_expressible.values().sum();
        assert_eq!([words, wanted.too_weak, wanted.not_wide, wanted.over_capacity], left_out);
    }

    #[test]
    fn a_host_wide_edge_takes_wide_entries_and_those_of_operators() {
        let entries = [
            ("shop|IP|203.0.113.1", Action::Block, false, false),
            ("shop|IP|203.0.113.2", Action::Block, true, false),
            ("shop|IP|203.0.113.3", Action::Block, false, true),
            ("shop|IP|203.0.113.4", Action::Challenge, true, true),
            ("shop|ACCOUNT|ada", Action::Block, true, true),
        ];
        check(EVERYTHING, &entries, "203.0.113.1 203.0.113.2 203.0.113.3", [2, 1, 0, 0]);
        check(Edge { width: Width::Host, ..EVERYTHING }, &entries, "203.0.113.2 203.0.113.3", [2, 1, 1, 0]);
        let records = Edge { reach: Reach::Records, width: Width::Host, ..EVERYTHING };
        let names = "shop|ACCOUNT|ada shop|IP|203.0.113.2 shop|IP|203.0.113.3 shop|IP|203.0.113.4";
        check(records, &entries, names, [0, 0, 1, 0]);
    }

    #[test]
    fn a_small_edge_merges_what_it_can_and_keeps_the_most_valuable() {
        let block = |key| (key, Action::Block, false, false);
        let entries = [
            block("shop|IP|203.0.113.8"),
            block("shop|IP|203.0.113.9"),
            block("shop|CIDR|203.0.113.10/31"),
            block("shop|IP|203.0.113.13"),
            block("bank|IP|203.0.113.14"),
            ("shop|IP|203.0.113.20", Action::Block, false, true),
        ];
        check(
            Edge { capacity: 5, ..EVERYTHING },
            &entries,
            "203.0.113.13 203.0.113.14 203.0.113.20 203.0.113.8/30",
            [0; 4],
        );
        check(Edge { capacity: 2, ..EVERYTHING }, &entries, "203.0.113.13 203.0.113.20", [0, 0, 0, 2]);
        check(Edge { capacity: 0, ..EVERYTHING }, &entries, "", [0, 0, 0, 4]);
    }

    #[test]
    fn an_edge_that_cannot_nest_leaves_the_inner_to_the_outer() {
        let block = |key| (key, Action::Block, true, false);
        let entries =
            [block("shop|IP|203.0.113.8"), block("shop|CIDR|203.0.0.0/16"), block("shop|CIDR|203.0.113.0/24")];
        check(Edge { nests: false, ..EVERYTHING }, &entries, "203.0.0.0/16", [0; 4]);
        let elements = wanted(&held(&[]), &EVERYTHING, NOW).elements;
        assert_eq!(carrier_of(&elements, "203.0.113.8"), None);
    }

    /// Entries of a small world: addresses and ranges of 203.0.113.0/27, two tenants.
    fn entries() -> impl Strategy<Value = Vec<(String, BlocklistEntry)>> {
        let range = prop_oneof![2 => Just(32u8), 1 => 28u8..32];
        let one = (prop::bool::ANY, 0u32..32, range, 0usize..4, prop::option::of(1i64..6), prop::bool::ANY, 0u8..5);
        let made = one.prop_map(|(bank, host, length, action, ends, wide, actor)| {
            let base = u32::from(Ipv4Addr::new(203, 0, 113, 0)) + host;
            let net = ipnet::Ipv4Net::new(Ipv4Addr::from(base), length).unwrap().trunc();
            let (scope, value) = if length == 32 { ("IP", net.addr().to_string()) } else { ("CIDR", net.to_string()) };
            let key = format!("{}|{scope}|{value}", if bank { "bank" } else { "shop" });
            let actions = [Action::Block, Action::Block, Action::Block, Action::Challenge];
            let entry = entry(&key, actions[action], ends.map(|s| NOW + 1_000 * s), wide, actor == 0);
            (key, entry)
        });
        prop::collection::vec(made, 0..24)
    }

    /// The slow model: every address, one by one, against every entry.
    fn refused(entries: &Desired, edge: Edge, now: Millis) -> BTreeSet<IpAddr> {
        let takes = |entry: &BlocklistEntry| {
            entry.until.is_none_or(|end| end > now)
                && entry.action == Action::Block
                && (edge.width == Width::Route || entry.wide || entry.actor.is_some())
        };
        let holds = |entry: &BlocklistEntry, address: IpAddr| range_of(&entry.value).unwrap().contains(&address);
        let world = (0..=255).map(|host| IpAddr::V4(Ipv4Addr::new(203, 0, 113, host)));
        world.filter(|a| entries.entries().any(|(_, entry)| takes(entry) && holds(entry, *a))).collect()
    }

    fn covered(elements: &Elements) -> BTreeSet<IpAddr> {
        let nets: Vec<IpNet> = elements.keys().map(|name| range_of(name).unwrap()).collect();
        let world = (0..=255).map(|host| IpAddr::V4(Ipv4Addr::new(203, 0, 113, host)));
        world.filter(|a| nets.iter().any(|net| net.contains(a))).collect()
    }

    proptest! {
        /// Whatever is merged, left to an outer range or left out: nobody is refused whom no entry refuses, everybody is
        /// where there is room, and no element outlives the entries that it stands for.
        #[test]
        fn nobody_is_refused_whom_no_entry_refuses(
            entries in entries(),
            (host, nests, capacity) in (prop::bool::ANY, prop::bool::ANY, 0usize..12),
            later in 0i64..6_000,
        ) {
            let width = if host { Width::Host } else { Width::Route };
            let desired = held(&entries);
            for capacity in [capacity, ENTRIES_MAX] {
                let edge = Edge { reach: Reach::Addresses, width, capacity, nests };
                let wanted = wanted(&desired, &edge, NOW);
                prop_assert!(wanted.elements.len() <= capacity);
                let (is, should) = (covered(&wanted.elements), refused(&desired, edge, NOW));
                prop_assert!(is.is_subset(&should), "{:?}", wanted.elements);
                if wanted.over_capacity == 0 {
                    prop_assert_eq!(&is, &should);
                }
                if !nests {
                    let nets: Vec<IpNet> = wanted.elements.keys().map(|name| range_of(name).unwrap()).collect();
                    for (i, a) in nets.iter().enumerate() {
                        prop_assert!(nets.iter().skip(i + 1).all(|b| !a.contains(b) && !b.contains(a)));
                    }
                }
                // An edge that lets elements end by itself, at a later time and not looked at in between.
                let mut left = wanted.elements.clone();
                left.retain(|_, element| element.until.is_none_or(|end| end > NOW + later));
                prop_assert!(covered(&left).is_subset(&refused(&desired, edge, NOW + later)));
                for (key, entry) in desired.entries() {
                    let fate = fate(&desired, &edge, key, entry, NOW);
                    if let Fate::Element(name) = fate && wanted.over_capacity == 0 {
                        prop_assert!(carrier_of(&wanted.elements, name).is_some(), "{name}");
                    }
                }
            }
        }
    }
}
