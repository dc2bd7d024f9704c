//! What edges say: when each was last heard, how soon it has what it is told, and what it does not take.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::event::{Millis, Receipt, ReceiptOutcome};

/// Most edges.
pub const SINKS_MAX: usize = 1_000;
/// Most delays that are remembered of each edge.
const DELAYS_MAX: usize = 1_000;
/// Most entries that an edge does not take, of each edge.
const FAILING_MAX: usize = 1_000;
const NAME_BYTES_MAX: usize = 128;
/// Delays older than this say nothing about now.
pub(super) const DELAY_AGE_MAX_MS: Millis = 15 * 60_000;

/// One place of enforcement.
#[derive(Debug, Clone, Default)]
pub struct Sink {
    /// When it last confirmed anything, by its own clock.
    pub last_at: Millis,
    /// Receipts of each outcome since the topic's start, as far as it holds them.
    pub outcomes: BTreeMap<ReceiptOutcome, u64>,
    /// Entries that it did not take, by key.
    pub failing: BTreeMap<String, Receipt>,
    pub last_failure: Option<Receipt>,
    /// When something was applied, and how long after it was said.
    delays: VecDeque<(Millis, Millis)>,
}

/// How long edges take, over some receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Delay {
    pub receipts: usize,
    pub median_ms: Millis,
    pub p99_ms: Millis,
    pub max_ms: Millis,
}

impl Sink {
    fn take(&mut self, receipt: &Receipt) {
        self.last_at = self.last_at.max(receipt.applied_at);
        *self.outcomes.entry(receipt.outcome).or_default() += 1;
        let fails = matches!(receipt.outcome, ReceiptOutcome::Failed | ReceiptOutcome::Refused);
        if !fails {
            self.failing.remove(&receipt.key);
        } else if self.failing.len() < FAILING_MAX || self.failing.contains_key(&receipt.key) {
            self.failing.insert(receipt.key.clone(), receipt.clone());
        }
        if fails && self.last_failure.as_ref().is_none_or(|last| last.applied_at <= receipt.applied_at) {
            self.last_failure = Some(receipt.clone());
        }
        if receipt.outcome == ReceiptOutcome::Applied {
            // A generation is the time of the change, or barely more.
            let delay = receipt.applied_at.saturating_sub(receipt.generation);
            self.delays.push_back((receipt.applied_at, delay.max(0)));
            if self.delays.len() > DELAYS_MAX {
                self.delays.pop_front();
            }
        }
    }

    /// Of what was applied lately.
    #[must_use]
    pub fn delay(&self, now: Millis) -> Option<Delay> {
        Delay::of(self.recent(now).collect())
    }

    fn recent(&self, now: Millis) -> impl Iterator<Item = Millis> {
        let since = now.saturating_sub(DELAY_AGE_MAX_MS);
        self.delays.iter().filter(move |(at, _)| *at >= since).map(|(_, delay)| *delay)
    }
}

impl Delay {
    fn of(mut delays: Vec<Millis>) -> Option<Delay> {
        delays.sort_unstable();
        let at = |permille: usize| delays.get((delays.len().saturating_sub(1)) * permille / 1_000).copied();
        Some(Delay { receipts: delays.len(), median_ms: at(500)?, p99_ms: at(990)?, max_ms: at(1_000)? })
    }
}

/// All edges, by name.
#[derive(Debug, Default)]
pub struct Sinks {
    sinks: BTreeMap<String, Sink>,
}

impl Sinks {
    /// Takes what an edge said of an entry; a receipt that is gone leaves what it told. `None`: it cannot be used.
    pub fn take(&mut self, sink: &str, entry: &str, receipt: Option<&Receipt>) -> Option<()> {
        let Some(receipt) = receipt else {
            if let Some(held) = self.sinks.get_mut(sink) {
                held.failing.remove(entry);
            }
            return Some(());
        };
        let is_fit = receipt.sink == sink && receipt.key == entry && sink.len() <= NAME_BYTES_MAX;
        if !is_fit || (!self.sinks.contains_key(sink) && self.sinks.len() >= SINKS_MAX) {
            return None;
        }
        match self.sinks.get_mut(sink) {
            Some(held) => held.take(receipt),
            None => self.sinks.entry(sink.to_owned()).or_default().take(receipt),
        }
        Some(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Sink)> {
        self.sinks.iter().map(|(name, sink)| (name.as_str(), sink))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sinks.is_empty()
    }

    /// Over all edges.
    #[must_use]
    pub fn delay(&self, now: Millis) -> Option<Delay> {
        Delay::of(self.sinks.values().flat_map(|sink| sink.recent(now)).collect())
    }

    /// Entries that some edge does not take.
    #[must_use]
    pub fn failing(&self) -> usize {
        self.sinks.values().map(|sink| sink.failing.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(outcome: ReceiptOutcome, generation: i64, applied_at: Millis) -> Receipt {
        let key = "shop|IP|203.0.113.9".to_owned();
        Receipt { sink: "nginx-1".to_owned(), key, generation, outcome, applied_at, detail: None }
    }

    #[test]
    fn delays_of_lately_and_what_fails_now() {
        let mut sinks = Sinks::default();
        let mut take = |receipt: Receipt| sinks.take("nginx-1", "shop|IP|203.0.113.9", Some(&receipt));
        let now = 10 * DELAY_AGE_MAX_MS;
        assert_eq!(take(receipt(ReceiptOutcome::Applied, 0, 90_000)), Some(()));
        for delay in 1..=100 {
            assert_eq!(take(receipt(ReceiptOutcome::Applied, now - 1_000 - delay, now - 1_000)), Some(()));
        }
        assert_eq!(take(receipt(ReceiptOutcome::Failed, now, now)), Some(()));
        let sink = sinks.iter().next().unwrap().1;
        let delay = Delay { receipts: 100, median_ms: 50, p99_ms: 99, max_ms: 100 };
        assert_eq!((sink.delay(now), sinks.delay(now)), (Some(delay), Some(delay)));
        assert_eq!((sinks.failing(), sink.last_at), (1, now));
        assert_eq!(
            sinks.take("nginx-1", "shop|IP|203.0.113.9", Some(&receipt(ReceiptOutcome::Lifted, now, now))),
            Some(())
        );
        assert_eq!(sinks.failing(), 0);
        assert_eq!(sinks.delay(now + DELAY_AGE_MAX_MS), None);
        assert_eq!(sinks.take("other", "shop|IP|203.0.113.9", Some(&receipt(ReceiptOutcome::Applied, 1, 1))), None);
    }
}
