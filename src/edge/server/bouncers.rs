//! The bouncers that pull: what each has been told, and what each says that it stopped.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::decisions::{GONE_KEPT_MS, PULLS_KEPT, Since};
use crate::event::Millis;

/// Most bouncers that are remembered; the one that was silent longest is forgotten first, and gets everything next time.
pub const BOUNCERS_MAX: usize = 10_000;
/// Most bouncers that the status page shows.
const SHOWN_MAX: usize = 100;
/// Longest name and version that are kept of what a bouncer says about itself, in characters.
const WORDS_MAX: usize = 64;

/// Who pulls: a key from an address, as CrowdSec tells its bouncers apart.
pub(super) type Caller = (usize, IpAddr);

/// What is known of a bouncer, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bouncer {
    pub key: String,
    pub address: IpAddr,
    /// What it calls itself.
    pub agent: String,
    pub last_pull: Millis,
    /// What it says that it stopped and looked at, since this server began.
    pub dropped: u64,
    pub processed: u64,
}

/// What a bouncer reports with `POST /v1/usage-metrics`. Everything else in it is ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Usage {
    pub remediation_components: Vec<Component>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Component {
    #[serde(default)]
    metrics: Option<Vec<Metrics>>,
}

#[derive(Debug, Deserialize)]
struct Metrics {
    #[serde(default)]
    items: Option<Vec<Metric>>,
}

#[derive(Debug, Deserialize)]
struct Metric {
    name: String,
    value: f64,
}

/// All that are remembered.
#[derive(Debug, Default)]
pub(super) struct Bouncers {
    known: FxHashMap<Caller, Known>,
    by_time: BTreeSet<(u64, Caller)>,
    next: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Known {
    order: u64,
    /// The last change before each of the last pulls.
    changes: VecDeque<u64>,
    shown: Bouncer,
}

impl Bouncers {
    /// Notes a pull at `now`, when `last` is the last change; what the bouncer was told before, if it is remembered.
    pub(super) fn pull(
        &mut self,
        caller: Caller,
        who: Named<'_>,
        is_first: bool,
        last: u64,
        now: Millis,
    ) -> Option<Since> {
        let known = self.known(caller, who);
        let was_away = now.saturating_sub(known.shown.last_pull) >= GONE_KEPT_MS;
        if is_first || was_away {
            known.changes.clear();
        }
        let since =
            known.changes.front().zip(known.changes.back()).map(|(from, last)| Since { from: *from, last: *last });
        if known.changes.len() >= PULLS_KEPT {
            known.changes.pop_front();
        }
        known.changes.push_back(last);
        known.shown.last_pull = now;
        since
    }

    /// Adds what a bouncer reports.
    pub(super) fn report(&mut self, caller: Caller, who: Named<'_>, component: &Component) {
        let sum = |name: &str| -> u64 {
            let metrics = component.metrics.iter().flatten().flat_map(|metrics| metrics.items.iter().flatten());
            // A number beyond u64, or below nothing, is taken for its nearest.
            metrics.filter(|metric| metric.name == name).map(|metric| metric.value as u64).fold(0, u64::saturating_add)
        };
        let (dropped, processed) = (sum("dropped"), sum("processed"));
        let known = self.known(caller, who);
        known.shown.dropped = known.shown.dropped.saturating_add(dropped);
        known.shown.processed = known.shown.processed.saturating_add(processed);
        self.dropped = self.dropped.saturating_add(dropped);
    }

    /// The bouncer, now the one that was heard last.
    fn known(&mut self, caller: Caller, who: Named<'_>) -> &mut Known {
        self.next += 1;
        let order = self.next;
        if let Some(known) = self.known.get(&caller) {
            self.by_time.remove(&(known.order, caller));
        } else if self.known.len() >= BOUNCERS_MAX
            && let Some((_, silent)) = self.by_time.pop_first()
        {
            self.known.remove(&silent);
        }
        self.by_time.insert((order, caller));
        let known = self.known.entry(caller).or_insert_with(|| Known {
            order,
            changes: VecDeque::new(),
            shown: Bouncer {
                key: who.key.to_owned(),
                address: caller.1,
                agent: String::new(),
                last_pull: Millis::MIN,
                dropped: 0,
                processed: 0,
            },
        });
        known.order = order;
        if known.shown.agent != who.agent {
            known.shown.agent = who.agent.chars().take(WORDS_MAX).collect();
        }
        known
    }

    /// Everything that bouncers say that they stopped.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Those that were heard last.
    pub(super) fn latest(&self) -> Vec<Bouncer> {
        let callers = self.by_time.iter().rev().take(SHOWN_MAX);
        callers.filter_map(|(_, caller)| Some(self.known.get(caller)?.shown.clone())).collect()
    }
}

/// The name of a bouncer's key, and what it calls itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    pub key: &'a str,
    pub agent: &'a str,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const START: Millis = 1_561_682_490_000;
    const WHO: Named<'_> = Named { key: "nginx", agent: "crowdsec-nginx-bouncer/v1" };

    fn caller(n: usize) -> Caller {
        (n, IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    #[test]
    fn a_bouncer_that_nobody_remembers_gets_everything() {
        let mut bouncers = Bouncers::default();
        let mut pull = |n, is_first, last, now| bouncers.pull(caller(n), WHO, is_first, last, now);
        assert_eq!(pull(0, false, 5, START), None);
        assert_eq!(pull(0, false, 7, START), Some(Since { from: 5, last: 5 }));
        assert_eq!(pull(0, false, 8, START), Some(Since { from: 5, last: 7 }));
        assert_eq!(pull(0, false, 9, START), Some(Since { from: 5, last: 8 }));
        assert_eq!(pull(0, false, 9, START), Some(Since { from: 5, last: 9 }));
        assert_eq!(pull(0, false, 9, START), Some(Since { from: 7, last: 9 }));
        assert_eq!(pull(0, true, 9, START), None, "it begins anew");
        assert_eq!(pull(0, false, 9, START), Some(Since { from: 9, last: 9 }));
        assert_eq!(pull(0, false, 9, START + GONE_KEPT_MS), None, "it was away too long");
        for n in 1..=BOUNCERS_MAX {
            pull(n, true, 1, START);
        }
        assert_eq!(pull(0, false, 9, START), None, "others were heard since");
        assert_eq!((bouncers.known.len(), bouncers.by_time.len()), (BOUNCERS_MAX, BOUNCERS_MAX));
    }

    #[test]
    fn what_bouncers_report_is_added_up() {
        let mut bouncers = Bouncers::default();
        let usage = r#"{"remediation_components": [{"type": "nginx", "metrics": [{"meta": {"window_size_seconds": 30}, "items": [
            {"name": "dropped", "value": 7, "unit": "request", "labels": {"origin": "portcullis"}},
            {"name": "dropped", "value": 3.0}, {"name": "processed", "value": 100}, {"name": "dropped", "value": -5}]},
            {"items": null}]}], "log_processors": []}"#;
        let usage: Usage = serde_json::from_str(usage).unwrap();
        for _ in 0..2 {
            bouncers.report(caller(0), WHO, &usage.remediation_components[0]);
        }
        bouncers.report(caller(1), Named { key: "a", agent: &"x".repeat(1_000) }, &usage.remediation_components[0]);
        assert_eq!(bouncers.dropped(), 30);
        let latest = bouncers.latest();
        assert_eq!((latest[1].dropped, latest[1].processed, latest[0].agent.len()), (20, 200, WORDS_MAX));
    }
}
