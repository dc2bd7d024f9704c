//! What a job published against what the oracle says: the first difference of each kind, with the attempt it hangs on.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::Read;
use super::frames::{Item, items};
use super::intake::{Came, Taken};
use super::said::{Block, Passed, Said, Stated, Sums, Verdict};

/// Differences listed of one kind; the others are counted.
const SHOWN_MAX: usize = 3;

/// What differs, for people. Empty: nothing.
#[derive(Debug, Default)]
pub struct Differences {
    texts: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Differences {
    pub fn add(&mut self, kind: &'static str, text: impl FnOnce() -> String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= SHOWN_MAX {
            self.texts.push(format!("{kind}: {}", text()));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn text(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(kind, n)| format!("{n} of {kind}")).collect();
        format!("{}\n{}", counts.join(", "), self.texts.join("\n"))
    }
}

/// Attempts of the input topic of the source stage against the events.
pub fn attempts(taken: &Taken, by_source: &[Vec<Read>], found: &mut Differences) {
    let mut counted: BTreeMap<Came, usize> = BTreeMap::new();
    for (item, partition) in with_partition(by_source) {
        if let Item::Attempt(a) = item {
            let outcome = format!("{:?}", a.outcome).to_uppercase();
            let came = (a.tenant, a.event_id, a.source, a.account, outcome, a.occurred_at, a.arrived_at);
            if !taken.attempts.contains_key(&came) {
                found.add("attempts without an event", || format!("{came:?} in attempts-by-source[{partition}]"));
            }
            *counted.entry(came).or_default() += 1;
        }
    }
    for (came, expected) in &taken.attempts {
        let count = counted.get(came).copied().unwrap_or(0);
        if count != *expected {
            let kind = if count < *expected { "events lost" } else { "events doubled" };
            found.add(kind, || format!("{came:?} was published {expected} times and taken {count} times"));
        }
    }
}

/// Verdicts of addresses, networks and accounts.
pub fn verdicts(expected: &Said, seen: &BTreeMap<String, Vec<Verdict>>, found: &mut Differences) {
    sequences("verdicts", &expected.verdicts, seen, found);
}

/// Entries and tombstones of the blocklist.
pub fn blocks(expected: &Said, seen: &BTreeMap<String, Vec<Block>>, found: &mut Differences) {
    sequences("blocklist", &expected.blocks, seen, found);
}

/// The input of the account stage against what the source stage passes on.
pub fn passed(expected: &Said, by_source: &[Vec<Read>], by_account: &[Vec<Read>], found: &mut Differences) {
    let mut owner = BTreeMap::new();
    for (item, partition) in with_partition(by_source) {
        if let Item::Attempt(a) = item {
            let before = owner.insert((a.tenant.clone(), a.source.network()), partition);
            if before.is_some_and(|before| before != partition) {
                found.add("networks in two partitions", || format!("{} {:?}", a.tenant, a.source.address()));
            }
        }
    }
    let mut seen: BTreeMap<(i32, String), Vec<Passed>> = BTreeMap::new();
    for (item, partition) in with_partition(by_account) {
        let (tenant, account, source, passed) = match item {
            Item::Sourced(sourced) => {
                let a = sourced.attempt;
                let passed = Passed::Attempt {
                    tenant: a.tenant.clone(),
                    account: a.account.clone(),
                    event_id: a.event_id,
                    occurred_at: a.occurred_at,
                    arrived_at: a.arrived_at,
                    known_pair: sourced.known_pair,
                    sign: sourced.sign,
                    repeat: sourced.repeat,
                };
                (a.tenant, a.account, a.source, passed)
            }
            Item::Note(note) => (note.tenant.clone(), note.account.clone(), note.source, Passed::Note(note)),
            Item::Attempt(_) | Item::Partial(_) | Item::Mark(_) => continue,
        };
        match owner.get(&(tenant.clone(), source.network())) {
            Some(task) => seen.entry((*task, format!("{tenant}|{account}"))).or_default().push(passed),
            None => {
                found.add("items from nowhere", || format!("{passed:?} in attempts-by-account[{partition}]"));
            }
        }
    }
    sequences("attempts-by-account", &expected.passed, &seen, found);
}

/// Sums that the site was sent.
pub fn sums(expected: &Said, partials: &[Vec<Read>], found: &mut Differences) {
    let mut seen: BTreeMap<String, Sums> = BTreeMap::new();
    for (item, _) in with_partition(partials) {
        if let Item::Partial(partial) = item {
            let sums = seen.entry(partial.tenant.clone()).or_default();
            sums.attempts += u64::from(partial.attempts);
            sums.failures += u64::from(partial.failures);
            sums.unknown += u64::from(partial.unknown);
            sums.stopped += u64::from(partial.stopped);
            sums.blocked.extend(partial.blocked.into_iter().map(|((tenant, scope, value), playbook)| {
                // Positions of IP and CIDR in the contract's list of scopes.
                let scope = match scope {
                    1 => "IP",
                    2 => "CIDR",
                    other => panic!("scope {other} in a partial"),
                };
                (format!("{tenant}|{scope}|{value}"), playbook)
            }));
            sums.compromised.extend(partial.compromised);
        }
    }
    let sorted = |sums: Option<&Sums>| {
        let mut sums = sums.cloned().unwrap_or_default();
        sums.blocked.sort();
        sums.compromised.sort();
        sums
    };
    for tenant in expected.sums.keys().chain(seen.keys().filter(|tenant| !expected.sums.contains_key(*tenant))) {
        let (expected, seen) = (sorted(expected.sums.get(tenant)), sorted(seen.get(tenant)));
        if expected != seen {
            found.add("sums of a tenant", || format!("{tenant}: expected {expected:?}, found {seen:?}"));
        }
    }
}

/// Changes of control: each once for every partition of the source stage, and once from each of its tasks for every
/// partition of the account stage. `told` is every record of the control topics, as name and version.
pub fn control(
    told: &[(String, i64)],
    expected: &Said,
    by_source: &[Vec<Read>],
    by_account: &[Vec<Read>],
    found: &mut Differences,
) {
    let mut all: Vec<(String, i64)> = told.to_vec();
    all.sort();
    let mut passed_on: Vec<(String, i64)> = expected.news.values().flatten().cloned().collect();
    passed_on.sort();
    for (topic, input, wanted) in
        [("attempts-by-source", by_source, &all), ("attempts-by-account", by_account, &passed_on)]
    {
        for (partition, records) in input.iter().enumerate() {
            let mut changes = Vec::new();
            for item in records.iter().flat_map(items) {
                if let Item::Mark(mark) = item {
                    changes.extend(mark.changes.iter().map(|change| (change.name(), change.version())));
                }
            }
            changes.sort();
            if changes != *wanted {
                found.add("changes of control", || {
                    format!("{topic}[{partition}]: {} expected, {} found", first_odd(wanted, &changes), changes.len())
                });
            }
        }
    }
}

fn first_odd<T: PartialEq + Debug>(expected: &[T], seen: &[T]) -> String {
    let at = expected.iter().zip(seen).position(|(a, b)| a != b).unwrap_or(expected.len().min(seen.len()));
    format!("{} (from {at} on: {:?} and not {:?})", expected.len(), expected.get(at), seen.get(at))
}

fn with_partition(input: &[Vec<Read>]) -> impl Iterator<Item = (Item, i32)> {
    (0..).zip(input).flat_map(|(partition, records)| records.iter().flat_map(items).map(move |item| (item, partition)))
}

/// Compares what is said about each key, in its order.
fn sequences<K: Ord + Debug, T: PartialEq + Debug>(
    kind: &'static str,
    expected: &BTreeMap<K, Vec<Stated<T>>>,
    seen: &BTreeMap<K, Vec<T>>,
    found: &mut Differences,
) {
    let nothing = Vec::new();
    for (key, expected) in expected {
        let seen = seen.get(key).unwrap_or(&nothing);
        let at = expected.iter().zip(seen).position(|(expected, seen)| expected.what != *seen);
        let at = at.unwrap_or(expected.len().min(seen.len()));
        if at == expected.len() && at == seen.len() {
            continue;
        }
        found.add(kind, || {
            let told = |stated: Option<&Stated<T>>| match stated {
                Some(Stated { what, because }) => format!("{what:?}, because of {because}"),
                None => "nothing".to_owned(),
            };
            format!(
                "{key:?}: number {at} of {} expected and {} found\n  expected {}\n  found    {:?}\n  before   {}",
                expected.len(),
                seen.len(),
                told(expected.get(at)),
                seen.get(at),
                told(at.checked_sub(1).and_then(|before| expected.get(before))),
            )
        });
    }
    for (key, seen) in seen.iter().filter(|(key, _)| !expected.contains_key(key)) {
        found.add(kind, || format!("{key:?}: nothing expected, {} found, first {:?}", seen.len(), seen.first()));
    }
}

mod the_comparison {
    use super::*;

    /// What is lost, doubled, changed or comes from nowhere is seen, each with its key.
    #[test]
    fn sees_whatever_is_not_as_it_should_be() {
        let stated = |what| Stated { what, because: "of something".to_owned() };
        let expected = BTreeMap::from([("a", vec![stated(1), stated(2)]), ("b", vec![stated(3)])]);
        let differs = |a: &[i32], b: &[i32], c: &[i32]| {
            let all = [("a", a.to_vec()), ("b", b.to_vec()), ("c", c.to_vec())];
            let seen = all.into_iter().filter(|(_, said)| !said.is_empty()).collect();
            let mut found = Differences::default();
            sequences("things", &expected, &seen, &mut found);
            found.text().lines().nth(1).unwrap_or_default().to_owned()
        };
        assert_eq!(differs(&[1, 2], &[3], &[]), "");
        for (a, b, c, says) in [
            (&[1][..], &[3][..], &[][..], "\"a\": number 1 of 2 expected and 1 found"),
            (&[2], &[3], &[], "\"a\": number 0 of 2"),
            (&[1, 2, 2], &[3], &[], "\"a\": number 2 of 2 expected and 3 found"),
            (&[2, 1], &[3], &[], "\"a\": number 0 of 2"),
            (&[1, 2], &[], &[], "\"b\": number 0 of 1 expected and 0 found"),
            (&[1, 2], &[3], &[4], "\"c\": nothing expected, 1 found"),
        ] {
            let told = differs(a, b, c);
            assert!(told.contains(says), "{told} and not {says}");
        }
    }
}
