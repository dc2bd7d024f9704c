//! How events come from the site to where they are judged: at once, or over a bad road, as from publishers that buffer,
//! send again, and have wrong clocks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::dice::{Dice, hash};
use crate::event::Millis;
use crate::ingest::jsonl;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;

/// Events that come twice; in a million.
const TWICE: u64 = 30_000;
/// Of a hundred events: how many come within two seconds, within a minute, and within the grace; the rest is late.
const SOON: u64 = 75;
const WITHIN_A_MINUTE: u64 = 95;
const WITHIN_THE_GRACE: u64 = 98;
/// Clocks of the publishers, by how much they are ahead.
const CLOCKS: [Millis; 8] = [0, 0, 0, 0, 0, 0, 90 * SECOND, -45 * SECOND];
/// Most events under way.
const UNDER_WAY_MAX: usize = 200_000;

/// An event that arrives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivered {
    pub at: Millis,
    /// Tells apart what arrives at the same time.
    number: u64,
    pub value: Vec<u8>,
}

/// What is under way, in the order of arrival.
#[derive(Debug)]
pub struct Road {
    /// `None`: everything comes at once.
    dice: Option<Dice>,
    /// What happened before comes at once in any case.
    from: Millis,
    under_way: BinaryHeap<Reverse<Delivered>>,
    sent: u64,
}

impl Road {
    pub(super) fn good() -> Self {
        Road { dice: None, from: Millis::MIN, under_way: BinaryHeap::new(), sent: 0 }
    }

    pub(super) fn bad(seed: u64, from: Millis) -> Self {
        Road { dice: Some(Dice::new(seed, "road")), from, ..Road::good() }
    }

    /// Sends an event of `at`, as JSON with its id.
    pub fn send(&mut self, at: Millis, event_id: &str, value: Vec<u8>) {
        let Some(dice) = self.dice.as_mut().filter(|_| at >= self.from && self.under_way.len() < UNDER_WAY_MAX) else {
            return self.put(at, value);
        };
        let ahead = CLOCKS[(hash(event_id.as_bytes()) % CLOCKS.len() as u64) as usize];
        let value = if ahead == 0 { value } else { jsonl::shift(&value, ahead).unwrap_or(value) };
        let takes = match dice.below(100) {
            0..SOON => dice.between(0, 2 * SECOND),
            SOON..WITHIN_A_MINUTE => dice.between(2 * SECOND, MINUTE),
            WITHIN_A_MINUTE..WITHIN_THE_GRACE => dice.between(MINUTE, 4 * MINUTE),
            _ => dice.between(6 * MINUTE, 20 * MINUTE),
        };
        let again = dice.chance(TWICE).then(|| takes + dice.between(0, 30 * SECOND));
        for takes in [Some(takes), again].into_iter().flatten() {
            let at = at + takes;
            // Whoever reads the file learns from it when an event arrived.
            let mut value = value.clone();
            if value.pop() == Some(b'}') {
                value.extend(format!(",\"received_at\":{at}}}").into_bytes());
            }
            self.put(at, value);
        }
    }

    /// The next that arrives by `until`.
    pub fn next(&mut self, until: Millis) -> Option<Delivered> {
        let is_due = self.under_way.peek().is_some_and(|Reverse(next)| next.at <= until);
        if is_due { self.under_way.pop().map(|Reverse(next)| next) } else { None }
    }

    fn put(&mut self, at: Millis, value: Vec<u8>) {
        self.sent += 1;
        self.under_way.push(Reverse(Delivered { at, number: self.sent, value }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(mut road: Road) -> Vec<Delivered> {
        let mut arrived = Vec::new();
        for n in 0..10_000 {
            let at = n * 100;
            road.send(at, &n.to_string(), format!("{{\"n\":{n},\"occurred_at\":{at}}}").into_bytes());
            arrived.extend(std::iter::from_fn(|| road.next(at)));
        }
        arrived.extend(std::iter::from_fn(|| road.next(Millis::MAX)));
        arrived
    }

    #[test]
    fn a_good_road_changes_nothing() {
        let arrived = drive(Road::good());
        assert_eq!(arrived.len(), 10_000);
        assert!((0..).zip(&arrived).all(|(n, d)| d.at == n * 100 && jsonl::arrival_of(&d.value) == Some(d.at)));
    }

    #[test]
    fn a_bad_road_brings_all_late_out_of_order_some_twice_and_with_wrong_clocks() {
        let arrived = drive(Road::bad(7, 0));
        assert!((10_200..10_400).contains(&arrived.len()), "{}", arrived.len());
        assert!(arrived.windows(2).all(|pair| pair[0].at <= pair[1].at));
        let read: Vec<(i64, i64, Millis)> = arrived
            .iter()
            .map(|d| {
                let event: serde_json::Value = serde_json::from_slice(&d.value).unwrap();
                assert_eq!(event["received_at"].as_i64(), Some(d.at));
                (event["n"].as_i64().unwrap(), event["occurred_at"].as_i64().unwrap(), d.at)
            })
            .collect();
        let count = |test: &dyn Fn(&(i64, i64, Millis)) -> bool| read.iter().filter(|event| test(event)).count();
        assert!((150..280).contains(&count(&|(n, _, at)| at - n * 100 > 5 * MINUTE)), "late");
        assert!((1_100..1_500).contains(&count(&|(n, occurred, _)| occurred - n * 100 == 90 * SECOND)), "ahead");
        assert!(read.windows(2).filter(|pair| pair[0].0 > pair[1].0).count() > 3_000, "out of order");
        assert_eq!(arrived, drive(Road::bad(7, 0)), "one seed, one road");
    }
}
