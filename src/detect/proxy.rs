//! An address through which much of a site logs in: the site's own proxy, whose header the publisher does not read.
//!
//! Known gap: a proxy in front of fewer than [`CARRIED_MIN`] logins an hour.

use std::collections::BTreeMap;

use super::Found;
use crate::event::Millis;

/// How long successes are remembered for this, in milliseconds.
pub const CARRIED_OVER_MS: Millis = 3_600_000;
/// Fewer successes than this say nothing.
pub const CARRIED_MIN: u64 = 100;
/// More than this share of a tenant's successes is no client's.
pub const CARRIED_SHARE: f64 = 0.2;

/// What one address carries of a tenant's logins, each account at most once in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    pub own: u64,
    /// Successes of all other addresses.
    pub others: u64,
    pub window_start: Millis,
    pub window_end: Millis,
}

/// Judges an address. `who` is the address as people read it.
#[must_use]
pub fn proxy(carried: &Carried, who: &str) -> Option<Found> {
    let Carried { own, others, window_start, window_end } = *carried;
    let share = own as f64 / (own + others).max(1) as f64;
    if own < CARRIED_MIN || share <= CARRIED_SHARE {
        return None;
    }
    Some(Found {
        measures: BTreeMap::from([
            ("successes".to_owned(), own as f64),
            ("successes.threshold".to_owned(), CARRIED_MIN as f64),
            ("success_share".to_owned(), share),
            ("success_share.threshold".to_owned(), CARRIED_SHARE),
        ]),
        explanation: format!(
            "{who} carries {:.0} % of the tenant's logins of an hour ({own}): it is a proxy of yours and is never blocked. \
             Publish the client's address, from the header of the proxy that you trust.",
            share * 100.0
        ),
        window_start,
        window_end,
        contributions: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_and_a_number_make_a_proxy() {
        let is_proxy = |own, others| proxy(&Carried { own, others, window_start: 0, window_end: 1 }, "x").is_some();
        assert!(is_proxy(100, 399) && is_proxy(5_000, 0));
        assert!(!is_proxy(99, 0) && !is_proxy(100, 400) && !is_proxy(0, 0));
    }
}
