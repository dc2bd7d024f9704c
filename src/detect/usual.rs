//! What is usual at a site: how many of a block of attempts fail, and by how much that varies.
//!
//! The counts of blocks are taken for beta-binomial and told by their moments, which are sums: they forget by being
//! multiplied, and two memories are added up. Half of everything is forgotten in a week.

use serde::{Deserialize, Serialize};

use super::campaign::{STATISTICS, Tried};
use crate::event::Millis;

/// Half of what was learnt is forgotten in this time.
const HALF_LIFE_MS: f64 = 7.0 * 86_400_000.0;
/// What is known of all hours counts for an hour like so many attempts of its own: an hour has a usual of its own once it
/// has more.
const SHARED_ATTEMPTS: f64 = 50_000.0;
/// Estimates are taken this many standard errors too high: an alarm level that was solved for too little gives false alarms.
const ERRORS: f64 = 2.0;
/// Hours of a week: each may have its own usual.
pub const HOURS: u8 = 168;

/// The hour of the week of a time, in UTC; a week begins on a Thursday, as time did.
#[must_use]
pub fn hour_of_week(at: Millis) -> u8 {
    at.div_euclid(3_600_000).rem_euclid(i64::from(HOURS)) as u8
}

/// Sums over blocks, weighted by how much of each is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Moments {
    blocks: f64,
    attempts: f64,
    /// Attempts that were learnt, however much of them is forgotten.
    seen: f64,
    /// Of the attempts of each block, squared.
    squares: f64,
    counts: [Counted; STATISTICS],
    /// When it was last forgotten from.
    at: Millis,
}

/// Sums of one statistic.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Counted {
    sum: f64,
    /// Of the count of each block, squared.
    squares: f64,
    /// Of count times attempts of each block.
    by_attempts: f64,
}

/// What is usual of one statistic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub share: f64,
    /// Correlation within a block: how much more it varies than by chance alone.
    pub rho: f64,
}

impl Moments {
    /// Attempts that were learnt, however much of them is forgotten: a small site settles as well as a large one.
    #[must_use]
    pub const fn seen(&self) -> f64 {
        self.seen
    }

    /// Learns a block that ended at `at`.
    pub fn learn(&mut self, block: &Tried, at: Millis) {
        self.forget(at);
        let n = block.attempts as f64;
        if n == 0.0 {
            return;
        }
        self.blocks += 1.0;
        self.attempts += n;
        self.seen += n;
        self.squares += n * n;
        for (into, x) in self.counts.iter_mut().zip(block.failed_by_statistic()) {
            let x = x as f64;
            into.sum += x;
            into.squares += x * x;
            into.by_attempts += n * x;
        }
    }

    /// Adds what another one learnt, which may have been held back for a while.
    pub fn add(&mut self, other: &Moments, at: Millis) {
        self.forget(at);
        let mut other = *other;
        other.forget(at);
        self.plus(&other, 1.0);
    }

    /// The usual of an hour, from what was learnt of it and of all hours; each statistic estimated from above, so that little
    /// history makes a chart slow and not nervous.
    #[must_use]
    pub fn rates(hour: &Moments, all: &Moments, at: Millis) -> [Rate; STATISTICS] {
        let both = Moments::blend(hour, all, at);
        let n = both.attempts / both.blocks.max(f64::MIN_POSITIVE);
        both.estimates().map(|rate| {
            let varies = 1.0 + (n - 1.0).max(0.0) * rate.rho;
            let error = (rate.share * (1.0 - rate.share) * varies / both.attempts.max(1.0)).sqrt();
            let varies_most = varies * (1.0 + ERRORS * (2.0 / both.blocks.max(1.0)).sqrt());
            let rho = if n > 1.0 { (varies_most - 1.0) / (n - 1.0) } else { rate.rho };
            Rate { share: rate.share + ERRORS * error + 1.0 / both.attempts.max(1.0), rho }
        })
    }

    /// The plain estimates of the same.
    #[must_use]
    pub fn means(hour: &Moments, all: &Moments, at: Millis) -> [f64; STATISTICS] {
        Moments::blend(hour, all, at).estimates().map(|rate| rate.share)
    }

    fn blend(hour: &Moments, all: &Moments, at: Millis) -> Moments {
        let (mut both, mut all) = (*hour, *all);
        both.forget(at);
        all.forget(at);
        if all.attempts > 0.0 {
            both.plus(&all, (SHARED_ATTEMPTS / all.attempts).min(1.0));
        }
        both
    }

    /// Method of moments.
    fn estimates(&self) -> [Rate; STATISTICS] {
        self.counts.map(|count| {
            let share = (count.sum / self.attempts.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
            let spread = share * (1.0 - share);
            let squared_errors = count.squares - 2.0 * share * count.by_attempts + share * share * self.squares;
            let pairs = self.squares - self.attempts;
            // The expectation of the squared errors is `spread * (attempts + rho * pairs)`.
            let rho = if spread > 0.0 && pairs > 0.0 { (squared_errors / spread - self.attempts) / pairs } else { 0.0 };
            Rate { share, rho: rho.clamp(0.0, 0.5) }
        })
    }

    fn forget(&mut self, at: Millis) {
        let passed = at.saturating_sub(self.at);
        if passed <= 0 {
            return;
        }
        self.at = at;
        let kept = (-(passed as f64) / HALF_LIFE_MS).exp2();
        let learnt = std::mem::replace(self, Moments { at, ..Moments::default() });
        self.plus(&learnt, kept);
    }

    fn plus(&mut self, other: &Moments, weight: f64) {
        self.blocks += weight * other.blocks;
        self.attempts += weight * other.attempts;
        self.seen += other.seen;
        self.squares += weight * other.squares;
        for (into, from) in self.counts.iter_mut().zip(&other.counts) {
            into.sum += weight * from.sum;
            into.squares += weight * from.squares;
            into.by_attempts += weight * from.by_attempts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::campaign::tests::Draw;
    use super::*;

    const WEEK: Millis = 7 * 86_400_000;

    #[test]
    fn the_share_and_the_correlation_of_a_site_are_learnt_from_blocks_of_any_size() {
        let mut draw = Draw::new(7);
        let mut learnt = Moments::default();
        for _ in 0..20_000 {
            let n = 100 + draw.below(60);
            learnt.learn(&draw.block(n, [0.015, 0.04, 0.12], 0.02), 0);
        }
        let [unknown, strangers, all] = learnt.estimates();
        for (rate, share) in [(unknown, 0.015), (strangers, 0.04), (all, 0.12)] {
            assert!((rate.share / share - 1.0).abs() < 0.02, "{rate:?} {share}");
            assert!((rate.rho / 0.02 - 1.0).abs() < 0.1, "{rate:?}");
        }
        // With much history the careful estimate lies hardly above; with little it does.
        let [_, _, careful] = Moments::rates(&learnt, &learnt, 0);
        assert!(careful.share > all.share && careful.share < 1.01 * all.share, "{careful:?}");
        let mut little = Moments::default();
        (0..100).for_each(|_| little.learn(&draw.block(100, [0.015, 0.04, 0.12], 0.02), 0));
        let [_, _, careful] = Moments::rates(&Moments::default(), &little, 0);
        assert!(careful.share > 0.125 && careful.rho > 0.02, "{careful:?}");
    }

    #[test]
    fn half_is_forgotten_in_a_week_and_an_hour_needs_some_history_to_differ() {
        let mut draw = Draw::new(8);
        let mut all = Moments::default();
        (0..1_000).for_each(|_| all.learn(&draw.block(100, [0.01, 0.02, 0.1], 0.01), 0));
        let mut later = all;
        later.forget(WEEK);
        assert!((later.attempts - 50_000.0).abs() < 1e-6, "{later:?}");
        assert!((later.seen() - 100_000.0).abs() < 1e-6, "{later:?}");
        let mut hour = Moments::default();
        (0..10).for_each(|_| hour.learn(&draw.block(100, [0.01, 0.02, 0.4], 0.01), 0));
        let [_, _, share] = Moments::means(&hour, &all, 0);
        assert!(share > 0.1 && share < 0.12, "{share}");
        (0..5_000).for_each(|_| hour.learn(&draw.block(100, [0.01, 0.02, 0.4], 0.01), 0));
        let [_, _, share] = Moments::means(&hour, &all, 0);
        assert!(share > 0.35, "{share}");
        assert_eq!(hour_of_week(-1), HOURS - 1);
        assert_eq!(hour_of_week(WEEK + 3_600_000), 1);
    }
}
