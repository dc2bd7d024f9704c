//! What people use today, beside Portcullis on the same events: fail2ban's rule, CrowdSec's bucket, and an oracle.
//!
//! Both tools are played by their own defaults and not by playbooks that resemble them: they look at one address at a time,
//! an IPv6 address included, know no pairs, and refuse whoever comes from an address that they ban.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use anyhow::Result;

use crate::app::simulate::Feedback;
use crate::event::wire::json_login_event;
use crate::event::{FailureReason, Millis, Outcome};
use crate::ingest::simulate::{Edge, Simulation, Site};

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
/// Most addresses that a tool remembers; those that come after it are not watched.
const ADDRESSES_MAX: usize = 1_000_000;

/// Somebody else's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rival {
    /// `maxretry 5`, `findtime 10m`, `bantime 10m`: the defaults of `jail.conf`.
    Fail2ban,
    /// `ssh-bf` and `http-generic-bf` of CrowdSec's hub: a leaky bucket an address, capacity 5, that leaks one in ten seconds;
    /// the sixth failure overflows it, and the address is banned for four hours.
    Crowdsec,
    /// Knows every address of the attack before it comes, and refuses it; known pairs pass.
    Oracle,
}

impl Rival {
    pub(super) const ALL: [Rival; 3] = [Rival::Fail2ban, Rival::Crowdsec, Rival::Oracle];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Rival::Fail2ban => "fail2ban",
            Rival::Crowdsec => "crowdsec",
            Rival::Oracle => "oracle",
        }
    }

    /// The site with what stands in front of it when this is in use.
    pub(super) fn site(self, simulation: &Simulation) -> Site {
        match self {
            // A firewall, or a bouncer at the web server: whoever comes from the address.
            Rival::Fail2ban | Rival::Crowdsec => simulation.site(Edge::AddressList),
            Rival::Oracle => simulation.site(Edge::LoginPage).knowing_attackers(),
        }
    }
}

/// A rival at work.
#[derive(Debug)]
pub(super) struct Played {
    rival: Rival,
    delay_ms: Millis,
    /// Failures of each address: times of the last five, or what is in its bucket and since when.
    watched: BTreeMap<IpAddr, Watched>,
    on_its_way: VecDeque<(Millis, IpAddr, Millis)>,
}

#[derive(Debug, Default)]
struct Watched {
    failures: VecDeque<Millis>,
    /// Milliseconds that the bucket takes to run dry, at `at`.
    full_ms: Millis,
    at: Millis,
    banned_until: Option<Millis>,
}

impl Played {
    pub(super) fn new(rival: Rival, delay_ms: Millis) -> Self {
        Played { rival, delay_ms, watched: BTreeMap::new(), on_its_way: VecDeque::new() }
    }

    /// A failure of an address; until when it is banned for it.
    fn failed(&mut self, address: IpAddr, at: Millis) -> Option<Millis> {
        if self.watched.len() >= ADDRESSES_MAX && !self.watched.contains_key(&address) {
            return None;
        }
        let watched = self.watched.entry(address).or_default();
        if watched.banned_until.is_some_and(|until| at < until) {
            return None;
        }
        let is_over = match self.rival {
            Rival::Fail2ban => watched.tries_too_often(at),
            Rival::Crowdsec => watched.overflows(at),
            Rival::Oracle => false,
        };
        let length = match self.rival {
            Rival::Fail2ban => 10 * MINUTE,
            Rival::Crowdsec | Rival::Oracle => 4 * HOUR,
        };
        is_over.then(|| {
            let until = at.saturating_add(length);
            *watched = Watched { banned_until: Some(until), ..Watched::default() };
            until
        })
    }
}

impl Watched {
    /// The fifth within ten minutes.
    fn tries_too_often(&mut self, at: Millis) -> bool {
        self.failures.push_back(at);
        while self.failures.len() > 5 || self.failures.front().is_some_and(|first| at - first > 10 * MINUTE) {
            self.failures.pop_front();
        }
        self.failures.len() == 5
    }

    /// A bucket of five runs over.
    fn overflows(&mut self, at: Millis) -> bool {
        const LEAKS_IN: Millis = 10 * SECOND;
        self.full_ms = (self.full_ms - (at - self.at).max(0)).max(0) + LEAKS_IN;
        self.at = at.max(self.at);
        self.full_ms > 5 * LEAKS_IN
    }
}

impl Feedback for Played {
    fn publish(&mut self, at: Millis, value: &[u8]) -> Result<()> {
        let Ok(decoded) = json_login_event(value) else { return Ok(()) };
        let event = decoded.event;
        // What a log calls a failed login; the site's own fault is none.
        let is_failure = event.outcome == Outcome::Failure && event.failure_reason != FailureReason::SystemError;
        if is_failure
            && let Ok(address) = event.source_ip.parse()
            && let Some(until) = self.failed(address, at)
        {
            self.on_its_way.push_back((at.saturating_add(self.delay_ms), address, until));
        }
        Ok(())
    }

    fn tell(&mut self, at: Millis, site: &mut Site) -> Result<()> {
        while self.on_its_way.front().is_some_and(|(arrives, ..)| *arrives <= at) {
            if let Some((arrives, address, until)) = self.on_its_way.pop_front() {
                site.refuse(address, arrives, until);
            }
        }
        Ok(())
    }

    fn finish(&mut self, at: Millis, site: &mut Site) -> Result<()> {
        self.tell(at.saturating_add(self.delay_ms), site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banned(rival: Rival, times: &[Millis]) -> Vec<Option<Millis>> {
        let mut played = Played::new(rival, 0);
        let address = "203.0.113.7".parse().unwrap();
        times.iter().map(|at| played.failed(address, at * SECOND).map(|until| until / SECOND)).collect()
    }

    #[test]
    fn fail2ban_bans_at_the_fifth_failure_in_ten_minutes() {
        assert_eq!(banned(Rival::Fail2ban, &[0, 1, 2, 3, 4]), [None, None, None, None, Some(604)]);
        assert_eq!(banned(Rival::Fail2ban, &[0, 150, 300, 450, 600])[4], Some(1_200));
        assert_eq!(banned(Rival::Fail2ban, &[0, 150, 300, 450, 601]), [None; 5]);
        // Banned; then it counts anew.
        let again = banned(Rival::Fail2ban, &[0, 1, 2, 3, 4, 5, 700, 701, 702, 703, 704]);
        assert_eq!((again[5], again[9], again[10]), (None, None, Some(1_304)));
    }

    #[test]
    fn the_bucket_runs_over_at_the_sixth_unless_it_has_leaked() {
        assert_eq!(banned(Rival::Crowdsec, &[0; 6])[4..], [None, Some(4 * 3_600)]);
        assert_eq!(banned(Rival::Crowdsec, &[0, 0, 0, 0, 0, 9])[5], Some(9 + 4 * 3_600));
        assert_eq!(banned(Rival::Crowdsec, &[0, 0, 0, 0, 0, 10])[5], None);
        // One in ten seconds never runs it over.
        assert!(banned(Rival::Crowdsec, &(0..100).map(|n| n * 10).collect::<Vec<_>>()).iter().all(Option::is_none));
    }
}
