//! What was denied, summed up, so that it can be published as BLOCKED attempts: an attack that an edge keeps out is
//! still an attack, and the detection must see it.

use std::collections::BTreeMap;

use crate::event::wire::COUNT_MAX;
use crate::event::{LoginEvent, Millis, Outcome, Source};

/// Most sources and accounts that are summed up at a time; further ones are counted and not told.
pub const STOPS_MAX: usize = 10_000;

/// Whom a denied attempt was by, and of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stop {
    tenant: Box<str>,
    source: Source,
    /// Empty when nobody said.
    account: Box<str>,
}

/// Denied attempts since they were last told.
#[derive(Debug, Default)]
pub(super) struct Stops {
    counted: BTreeMap<Stop, u32>,
    untold: u64,
}

impl Stops {
    pub(super) fn note(&mut self, tenant: &str, source: Source, account: Option<&str>) {
        let stop = Stop { tenant: tenant.into(), source, account: account.unwrap_or_default().into() };
        if let Some(count) = self.counted.get_mut(&stop) {
            *count = count.saturating_add(1).min(COUNT_MAX);
        } else if self.counted.len() >= STOPS_MAX {
            self.untold += 1;
        } else {
            self.counted.insert(stop, 1);
        }
    }

    /// The first of them as events at `now`, one a source and account. `prefix` and `number` make their ids, which must
    /// not come again.
    pub(super) fn tell(&mut self, most: usize, prefix: &str, number: &mut u64, now: Millis) -> Vec<LoginEvent> {
        let mut events = Vec::new();
        while events.len() < most
            && let Some((stop, count)) = self.counted.pop_first()
        {
            *number += 1;
            events.push(LoginEvent {
                event_id: format!("{prefix}-{number}"),
                occurred_at: now,
                tenant: stop.tenant.into(),
                account: stop.account.into(),
                outcome: Outcome::Blocked,
                source_ip: stop.source.first_address().to_string(),
                attributes: BTreeMap::from([("count".to_owned(), count.to_string())]),
                ..LoginEvent::default()
            });
        }
        events
    }

    /// How many were not told because too many came at a time.
    pub(super) const fn untold(&self) -> u64 {
        self.untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_of_one_source_and_account_are_one_event() {
        let (mut stops, mut number) = (Stops::default(), 0);
        let source: Source = "203.0.113.9".parse().unwrap();
        for account in [None, Some("ada"), None, Some("ben"), None] {
            stops.note("shop", source, account);
        }
        stops.note("shop", "2001:db8:1:2:3::4".parse().unwrap(), None);
        let first = stops.tell(2, "edge-1", &mut number, 7);
        let told: Vec<(&str, &str, &str)> =
            first.iter().map(|e| (&*e.event_id, &*e.account, &*e.attributes["count"])).collect();
        assert_eq!(told, [("edge-1-1", "", "3"), ("edge-1-2", "ada", "1")]);
        let rest = stops.tell(100, "edge-1", &mut number, 8);
        assert_eq!(rest.iter().map(|e| &*e.source_ip).collect::<Vec<_>>(), ["203.0.113.9", "2001:db8:1:2::"]);
        assert!(rest.iter().all(|e| e.outcome == Outcome::Blocked && e.occurred_at == 8));
        assert!(stops.tell(100, "edge-1", &mut number, 9).is_empty());
    }

    #[test]
    fn an_attacker_with_many_addresses_does_not_fill_the_memory() {
        let mut stops = Stops::default();
        for n in 0..STOPS_MAX as u32 + 5 {
            stops.note("shop", Source::V4(n), None);
        }
        stops.note("shop", Source::V4(0), None);
        assert_eq!((stops.counted.len(), stops.untold()), (STOPS_MAX, 5));
    }
}
