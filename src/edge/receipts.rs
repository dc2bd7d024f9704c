//! What is told of each entry: whether this edge has it, and why not. Pure: records come out, nobody sends them here.
//!
//! Each entry has one state at the edge, and a receipt is told when that state is another one than was told last. So it
//! does not matter how often this is asked, or that only so many are told at a time: what was left over differs still.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::wanted::carrier_of;
use super::{Desired, Edge, Elements, Expansion, Fate, LeftOut, fate};
use crate::event::{BlocklistEntry, Millis, ReceiptOutcome, Scope, split_key};

/// Longest detail, in characters.
const DETAIL_CHARS_MAX: usize = 200;
const HELD_BACK: &str = "held back: more than half of the list would go at once (--allow-shrink lets it)";

/// A receipt before its sink has signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub key: Arc<str>,
    pub generation: i64,
    pub outcome: ReceiptOutcome,
    pub detail: Option<Cow<'static, str>>,
}

/// What is known of the edge.
#[derive(Debug, Clone, Copy)]
pub struct Confirmed<'a> {
    /// What it was made to have last.
    pub in_force: &'a Elements,
    /// Elements among these that should be gone, by name.
    pub held_back: &'a [Box<str>],
    /// Why it has not taken what it should have; `None` when it has.
    pub failing: Option<&'a str>,
}

/// What was told of every entry.
#[derive(Debug, Default)]
pub struct Receipts {
    told: BTreeMap<Arc<str>, Told>,
    /// Keys lifted before this sink began were told of, or are in `told`.
    has_begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    generation: i64,
    outcome: ReceiptOutcome,
    why: Option<LeftOut>,
    until: Option<Millis>,
}

impl Receipts {
    /// Everything is told again: nobody knows which of them arrived.
    pub fn forget(&mut self) {
        *self = Receipts::default();
    }

    /// The next receipts, at most `room`; whether there are more.
    pub fn next(
        &mut self,
        desired: &Desired,
        edge: &Edge,
        confirmed: Confirmed<'_>,
        now: Millis,
        room: usize,
    ) -> (Vec<Said>, bool) {
        self.begin(desired, confirmed);
        let mut said = Vec::new();
        let mut changes: Vec<(Arc<str>, Option<Told>)> = Vec::new();
        let mut has_more = false;
        for (key, entry, told) in beside(desired.held(), &self.told) {
            let state = match entry {
                Some(entry) => state(desired, edge, confirmed, (key, entry), told, now),
                None => told.map(|told| gone(desired, edge, confirmed, key, told, now)),
            };
            let Some(state) = state else { continue };
            let (is_news, is_over) = (told != Some(&state), entry.is_none() && is_end(state.outcome));
            if is_news && said.len() == room {
                has_more = true;
                break;
            }
            if is_news || is_over {
                changes.push((Arc::clone(key), (!is_over).then_some(state)));
            }
            if is_news {
                said.push(Said {
                    key: Arc::clone(key),
                    generation: state.generation,
                    outcome: state.outcome,
                    detail: detail(state, confirmed),
                });
            }
        }
        for (key, told) in changes {
            match told {
                Some(told) => drop(self.told.insert(key, told)),
                None => drop(self.told.remove(&key)),
            }
        }
        (said, has_more)
    }

    /// Whatever was lifted while no sink was here may be in force by the last receipt.
    fn begin(&mut self, desired: &Desired, confirmed: Confirmed<'_>) {
        if self.has_begun || confirmed.failing.is_some() {
            return;
        }
        self.has_begun = true;
        for (key, generation) in desired.all_gone() {
            let told = Told { generation, outcome: ReceiptOutcome::Other, why: None, until: None };
            self.told.entry(Arc::clone(key)).or_insert(told);
        }
    }
}

const fn is_end(outcome: ReceiptOutcome) -> bool {
    match outcome {
        ReceiptOutcome::Lifted | ReceiptOutcome::Expired => true,
        ReceiptOutcome::Other
        | ReceiptOutcome::Applied
        | ReceiptOutcome::Exempted
        | ReceiptOutcome::Refused
        | ReceiptOutcome::Failed => false,
    }
}

/// The state of an entry that is held; `None` when there is nothing to say.
fn state(
    desired: &Desired,
    edge: &Edge,
    confirmed: Confirmed<'_>,
    (key, entry): (&str, &BlocklistEntry),
    told: Option<&Told>,
    now: Millis,
) -> Option<Told> {
    let as_it_is = |outcome, why| Told { generation: entry.generation, outcome, why, until: entry.until };
    let fate = fate(desired, edge, key, entry, now);
    if confirmed.failing.is_some() {
        // What it had by its last word it has still.
        let stands = told.filter(|told| told.generation == entry.generation).copied();
        return match fate {
            Fate::Ended => told.copied(),
            Fate::Exempted | Fate::LeftOut(_) | Fate::Element(_) | Fate::Elements(_) => {
                Some(stands.unwrap_or_else(|| as_it_is(ReceiptOutcome::Failed, None)))
            }
        };
    }
    match fate {
        // What had ended before anything was told of it is nobody's business.
        Fate::Ended => told.map(|_| as_it_is(ReceiptOutcome::Expired, None)),
        Fate::Exempted => Some(as_it_is(ReceiptOutcome::Exempted, None)),
        Fate::LeftOut(why) => Some(as_it_is(ReceiptOutcome::Refused, Some(why))),
        elements @ (Fate::Element(_) | Fate::Elements(_)) => {
            let is_there = elements.names().all(|name| carrier_of(confirmed.in_force, name).is_some());
            Some(match is_there {
                true => as_it_is(ReceiptOutcome::Applied, None),
                false => as_it_is(ReceiptOutcome::Refused, Some(LeftOut::Full)),
            })
        }
    }
}

/// The state of an entry that was told of and is not held any more.
fn gone(desired: &Desired, edge: &Edge, confirmed: Confirmed<'_>, key: &str, told: &Told, now: Millis) -> Told {
    if confirmed.failing.is_some() {
        return *told;
    }
    let generation = desired.gone(key).unwrap_or(told.generation).max(told.generation);
    let of = |outcome| Told { generation, outcome, why: None, until: told.until };
    let is_held = |name: &str| confirmed.held_back.binary_search_by(|held| (**held).cmp(name)).is_ok();
    let is_held_back = elements(desired, edge, key).any(is_held);
    if is_held_back {
        of(ReceiptOutcome::Failed)
    } else if told.outcome == ReceiptOutcome::Expired || told.until.is_some_and(|end| end <= now) {
        // An end that was told under the generation of the entry is not told again under that of its tombstone.
        Told { generation: told.generation, ..of(ReceiptOutcome::Expired) }
    } else {
        of(ReceiptOutcome::Lifted)
    }
}

/// The elements that an entry of this key would be.
fn elements<'a>(desired: &'a Desired, edge: &Edge, key: &'a str) -> impl Iterator<Item = &'a str> {
    let of_value = |(_, scope, value): (&'a str, &'a str, &'a str)| {
        let scope = Scope::from_name(scope)?;
        match desired.expansion(scope, value) {
            Some(Expansion::Prefixes(names)) => Some(Fate::Elements(names)),
            Some(Expansion::TooMany) => None,
            None => scope.is_address().then_some(Fate::Element(value)),
        }
    };
    let fate = match edge.reach {
        super::Reach::Records => Some(Fate::Element(key)),
        super::Reach::Addresses => split_key(key).and_then(of_value),
    };
    fate.into_iter().flat_map(Fate::names)
}

fn detail(state: Told, confirmed: Confirmed<'_>) -> Option<Cow<'static, str>> {
    match (state.outcome, confirmed.failing) {
        (ReceiptOutcome::Refused, _) => state.why.map(|why| why.as_str().into()),
        (ReceiptOutcome::Failed, Some(why)) => Some(why.chars().take(DETAIL_CHARS_MAX).collect::<String>().into()),
        (ReceiptOutcome::Failed, None) => Some(HELD_BACK.into()),
        (
            ReceiptOutcome::Other
            | ReceiptOutcome::Applied
            | ReceiptOutcome::Lifted
            | ReceiptOutcome::Expired
            | ReceiptOutcome::Exempted,
            _,
        ) => None,
    }
}

type Sides<'a> = (&'a Arc<str>, Option<&'a BlocklistEntry>, Option<&'a Told>);

/// Both maps side by side, in the order of their keys.
fn beside<'a>(
    held: &'a BTreeMap<Arc<str>, BlocklistEntry>,
    told: &'a BTreeMap<Arc<str>, Told>,
) -> impl Iterator<Item = Sides<'a>> {
    let (mut held, mut told) = (held.iter().peekable(), told.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (held.peek(), told.peek()) {
            (Some((h, _)), Some((t, _))) => h.cmp(t),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let h = if order.is_le() { held.next() } else { None };
        let t = if order.is_ge() { told.next() } else { None };
        let key = h.map(|(key, _)| key).or(t.map(|(key, _)| key))?;
        Some((key, h.map(|(_, entry)| entry), t.map(|(_, told)| told)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::edge::{ENDED_KEPT_MS, ENTRIES_MAX, Reach, Tenants, Width, wanted};
    use crate::event::Action;
    use crate::topology::exemptions::Exemptions;

    const NOW: Millis = 1_561_682_490_000;
    const EDGE: Edge = Edge { reach: Reach::Addresses, width: Width::Host, capacity: ENTRIES_MAX, nests: false };

    fn key(n: u8) -> String {
        format!("shop|IP|203.0.113.{n}")
    }

    fn entry(n: u8, generation: i64, until: Option<Millis>, wide: bool) -> BlocklistEntry {
        BlocklistEntry {
            tenant: "shop".to_owned(),
            scope: Scope::Ip,
            value: format!("203.0.113.{n}"),
            action: Action::Block,
            since: NOW,
            until,
            generation,
            reason: String::new(),
            playbook: None,
            verdict_id: None,
            incident_id: None,
            actor: None,
            wide,
        }
    }

    /// A sink that is asked for receipts, and what somebody who reads the topic knows.
    struct Rig {
        desired: Desired,
        in_force: Elements,
        receipts: Receipts,
        known: BTreeMap<String, (i64, ReceiptOutcome)>,
        now: Millis,
    }

    impl Rig {
        fn new() -> Rig {
            Rig {
                desired: Desired::new(Tenants::All, Exemptions::default()),
                in_force: Elements::new(),
                receipts: Receipts::default(),
                known: BTreeMap::new(),
                now: NOW,
            }
        }

        /// The edge takes the list, unless it fails; then receipts are told. Gives whether there are more.
        fn apply(&mut self, failing: bool, room: usize) -> bool {
            self.desired.forget_ended(self.now);
            if !failing {
                self.in_force = wanted(&self.desired, &EDGE, self.now).elements;
            }
            let failing = failing.then_some("it hangs");
            let confirmed = Confirmed { in_force: &self.in_force, held_back: &[], failing };
            let (said, has_more) = self.receipts.next(&self.desired, &EDGE, confirmed, self.now, room);
            assert!(said.len() <= room);
            for said in said {
                let before = self.known.insert(said.key.to_string(), (said.generation, said.outcome));
                assert_ne!(before, Some((said.generation, said.outcome)), "told twice: {}", said.key);
                assert!(before.is_none_or(|(generation, _)| generation <= said.generation), "{}", said.key);
            }
            has_more
        }

        fn known(&self) -> Vec<String> {
            let shown = |(key, (generation, outcome)): (&String, &(i64, ReceiptOutcome))| {
                format!("{} {generation} {outcome}", key.trim_start_matches("shop|IP|203.0.113."))
            };
            self.known.iter().map(shown).collect()
        }
    }

    #[test]
    fn every_state_is_told_once() {
        let mut rig = Rig::new();
        rig.desired.apply(&key(9), None, Some(4));
        rig.desired.apply(&key(1), Some(entry(1, 1, None, true)), None);
        rig.desired.apply(&key(2), Some(entry(2, 1, None, false)), None);
        rig.desired.apply(&key(3), Some(entry(3, 1, Some(NOW + 10), true)), None);
        assert!(rig.apply(false, 2));
        assert_eq!(rig.known(), ["1 1 APPLIED", "2 1 REFUSED"]);
        assert!(!rig.apply(false, 9));
        assert_eq!(rig.known(), ["1 1 APPLIED", "2 1 REFUSED", "3 1 APPLIED", "9 4 LIFTED"]);
        assert!(!rig.apply(false, 0), "nothing is left to tell");
        rig.desired.apply(&key(1), None, Some(2));
        rig.desired.apply(&key(2), Some(entry(2, 3, None, true)), None);
        rig.now += 10;
        rig.apply(true, 9);
        assert_eq!(rig.known(), ["1 1 APPLIED", "2 3 FAILED", "3 1 APPLIED", "9 4 LIFTED"]);
        rig.apply(false, 9);
        assert_eq!(rig.known(), ["1 2 LIFTED", "2 3 APPLIED", "3 1 EXPIRED", "9 4 LIFTED"]);
        rig.now += ENDED_KEPT_MS;
        rig.apply(false, 9);
        assert_eq!(rig.receipts.told.len(), 1, "what is over is forgotten");
    }

    #[test]
    fn what_is_held_back_is_told_as_failed_and_as_lifted_in_the_end() {
        let mut rig = Rig::new();
        rig.desired.apply(&key(1), Some(entry(1, 1, None, true)), None);
        rig.apply(false, 9);
        rig.desired.apply(&key(1), None, Some(2));
        let held_back = ["203.0.113.1".into()];
        let confirmed = Confirmed { in_force: &rig.in_force.clone(), held_back: &held_back, failing: None };
        let (said, _) = rig.receipts.next(&rig.desired, &EDGE, confirmed, NOW, 9);
        assert_eq!((said[0].generation, said[0].outcome), (2, ReceiptOutcome::Failed));
        assert!(said[0].detail.as_deref().is_some_and(|detail| detail.starts_with("held back")));
        rig.apply(false, 9);
        assert_eq!(rig.known(), ["1 2 LIFTED"]);
    }

    proptest! {
        /// Whatever comes, in whatever order, with an edge that fails at times and room for few: in the end the topic says
        /// of each entry what a look at the edge says, and nothing is told twice or with an older generation.
        #[test]
        fn in_the_end_the_topic_says_what_the_edge_has(
            steps in prop::collection::vec((0u8..6, 0u8..8, prop::option::of(1i64..90), any::<bool>(), 0usize..4), 1..80),
        ) {
            let mut rig = Rig::new();
            let mut generation = 0;
            for (what, n, seconds, wide, room) in steps {
                generation += 1;
                match what {
                    0..=2 => {
                        let until = seconds.map(|s| rig.now + 1_000 * s);
                        rig.desired.apply(&key(n), Some(entry(n, generation, until, wide)), None);
                    }
                    3 => drop(rig.desired.apply(&key(n), None, Some(generation))),
                    4 => rig.now += 1_000 * seconds.unwrap_or(1),
                    _ => drop(rig.apply(wide, room)),
                }
            }
            while rig.apply(false, 3) {}
            for n in 0..8 {
                let key = key(n);
                let known = rig.known.get(&key).copied();
                let held = rig.desired.entries().find(|(held, _)| *held == key).map(|(_, entry)| entry.clone());
                let is_live = |entry: &BlocklistEntry| entry.until.is_none_or(|end| end > rig.now);
                match held.filter(is_live) {
                    Some(entry) => {
                        let outcome = if entry.wide { ReceiptOutcome::Applied } else { ReceiptOutcome::Refused };
                        prop_assert_eq!(known, Some((entry.generation, outcome)), "{}", key);
                    }
                    None => {
                        let is_over = known.is_none_or(|(_, outcome)| is_end(outcome));
                        prop_assert!(is_over, "{}: {:?}", key, known);
                    }
                }
            }
            let held: Vec<&str> = rig.desired.entries().map(|(key, _)| key).collect();
            prop_assert!(rig.receipts.told.keys().all(|key| held.contains(&&**key)), "what is over is forgotten");
        }
    }
}
