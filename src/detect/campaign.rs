//! A campaign: failures over the whole site that are no longer chance. Sequential change detection (CUSUM) over three
//! statistics of blocks of attempts, after Javed and Paxson: failures on names that belong to nobody, failures of
//! strangers, all failures.
//!
//! Each statistic has two charts, a patient one and a quick one. Their alarm levels are solved so that all six together
//! give one false alarm in a stated number of attempts ([`super::alarm_level`]). The clock is the attempt, not the minute:
//! how busy a site is changes nothing.
//!
//! An alarm says that something changed. Whether that is an attack is asked of the epoch, everything since the chart that
//! gave the alarm last stood at zero: how many bad attempts there are to a good one (Herley and Schechter: an attack brings
//! no successes worth mentioning, so the successes tell how much of the traffic is good), whether they come from many
//! sources, and whether it is not the site's own fault.
//!
//! What is refused because its source is blocked counts as if it had failed, or good blocks would hide the attack from
//! whoever must be told of it; it never enters what is usual. What is stopped for another reason does not: challenges are
//! there because of the state, and must not keep it up by raising it.
//!
//! Known gaps: a usual that changes for good stays ELEVATED until somebody restarts with it learnt anew; an attack that
//! stays below 0.5 standard deviations of a block is not seen here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Found;
use super::run_length::{BetaBinomial, alarm_level};
use super::usual::{Moments, Rate};
use crate::event::{AttackState, Millis};
use crate::window::Hashed;

/// Failures on nobody's names, failures of strangers, all failures; in this order everywhere.
pub(super) const STATISTICS: usize = 3;
/// Place of the failures on nobody's names.
const UNKNOWN: usize = 0;
const NAMES: [&str; STATISTICS] = ["unknown_share", "stranger_share", "failure_share"];
/// By how many standard deviations of a block the reference values lie above the mean: patient and quick.
const ABOVE_MEAN: [f64; 2] = [0.5, 1.0];
/// Failing sources that are remembered, with when they were last seen: twice as many as make an attack.
const SOURCES_MAX: usize = 64;
/// After so many logins without an attack the epoch is measured anew: a surge must not hide behind a long trickle.
const MEASURED_ANEW: u64 = 1_000;
/// A chart above this part of its alarm level stands out in an epoch.
const STANDS_OUT: f64 = 0.5;
/// Standard errors of a 95 % bound on one side.
const ONE_SIDED: f64 = 1.645;

/// Bounds of the campaign detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CampaignBounds {
    /// Attempts of a block.
    pub block: u32,
    /// Attempts between two false alarms, of all charts together.
    pub attempts_per_false_alarm: f64,
    /// What is usual is taken for learnt after so many attempts.
    pub learnt_after: f64,
    /// And for settled after so many: until then a site may turn out to differ from the little that was seen of it, so an
    /// alarm counts only where bad attempts are as many as in an attack.
    pub settled_after: f64,
    /// Taken for usual while nothing is learnt. Nobody is known at a new site, so all failures are strangers'.
    pub unlearnt: [Rate; STATISTICS],
    /// And the share of successes in good traffic that is expected at least: a site where half of all logins fail is
    /// nothing strange (single sign-on, old clients). It costs an attack of less than two thirds of the traffic in the
    /// first hours, and spares every honest user of such a site.
    pub success_share_unlearnt: f64,
    /// Nothing is learnt for good while a chart stands above this part of its alarm level.
    pub frozen_above: f64,
    /// Bad attempts to a good one that make an attack.
    pub bad_to_good: f64,
    /// Failing sources, and logins, that make an attack.
    pub sources: usize,
    pub logins: u64,
    /// Stopped attempts a minute that still stand out.
    pub stopped: f64,
    /// By how much their share of all attempts must lie above the usual one of failures: one in ten may give up at a
    /// challenge, which is many at a large site, and must not keep it on by that.
    pub stopped_share_above_usual: f64,
}

impl Default for CampaignBounds {
    fn default() -> Self {
        CampaignBounds {
            block: 100,
            attempts_per_false_alarm: 10_000_000.0,
            learnt_after: 10_000.0,
            settled_after: 100_000.0,
            unlearnt: [
                Rate { share: 0.05, rho: 0.03 },
                Rate { share: 0.15, rho: 0.03 },
                Rate { share: 0.15, rho: 0.03 },
            ],
            success_share_unlearnt: 0.5,
            frozen_above: 0.3,
            bad_to_good: 0.3,
            sources: 30,
            logins: 100,
            stopped: 30.0,
            stopped_share_above_usual: 0.2,
        }
    }
}

/// Attempts by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tried {
    /// Checked attempts: successes and failures.
    pub attempts: u64,
    /// Failures of strangers on names that belong to nobody.
    pub unknown: u64,
    /// Failures of strangers, those included.
    pub strangers: u64,
    /// Failures of known pairs.
    pub known: u64,
    /// Refused because their source is blocked, each source about once a second.
    pub refused: u64,
}

impl Tried {
    fn add(&mut self, more: &Tried) {
        self.attempts += more.attempts;
        self.unknown += more.unknown;
        self.strangers += more.strangers;
        self.known += more.known;
        self.refused += more.refused;
    }

    /// What came since `earlier`.
    const fn since(&self, earlier: &Tried) -> Tried {
        Tried {
            attempts: self.attempts.saturating_sub(earlier.attempts),
            unknown: self.unknown.saturating_sub(earlier.unknown),
            strangers: self.strangers.saturating_sub(earlier.strangers),
            known: self.known.saturating_sub(earlier.known),
            refused: self.refused.saturating_sub(earlier.refused),
        }
    }

    /// All failures.
    #[must_use]
    pub const fn failed(&self) -> u64 {
        self.strangers + self.known
    }

    /// Checked or refused.
    const fn logins(&self) -> u64 {
        self.attempts + self.refused
    }

    /// All successes.
    #[must_use]
    pub const fn successes(&self) -> u64 {
        self.attempts.saturating_sub(self.failed())
    }

    /// What was checked, by statistic: what is usual is learnt from this.
    #[must_use]
    pub const fn failed_by_statistic(&self) -> [u64; STATISTICS] {
        [self.unknown, self.strangers, self.failed()]
    }

    /// The same with what was refused, of which nobody knows whose name it was.
    const fn bad_by_statistic(&self) -> [u64; STATISTICS] {
        [self.unknown, self.strangers + self.refused, self.failed() + self.refused]
    }
}

/// Reference value and alarm level of a chart, for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Level {
    reference: u32,
    alarm: u32,
}

/// What the charts hold attempts against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// `None`: this chart says nothing.
    levels: [[Option<Level>; 2]; STATISTICS],
    /// Usual shares of the statistics.
    pub usual: [f64; STATISTICS],
    /// Share of successes in good traffic.
    success_share: f64,
    /// From history, and not from what is taken for usual without one.
    pub is_learnt: bool,
    /// From so much of it that whatever differs is strange.
    pub is_settled: bool,
}

impl Reference {
    /// Before anything was learnt.
    #[must_use]
    pub fn unlearnt(bounds: &CampaignBounds) -> Self {
        Reference {
            levels: levels(&bounds.unlearnt, bounds),
            usual: bounds.unlearnt.map(|rate| rate.share),
            success_share: bounds.success_share_unlearnt,
            is_learnt: false,
            is_settled: false,
        }
    }

    /// Share of successes in good traffic.
    #[must_use]
    pub const fn success_share(&self) -> f64 {
        self.success_share.max(0.01)
    }

    /// From what was learnt of an hour and of all of them; `None` while that is too little.
    #[must_use]
    pub fn learnt(hour: &Moments, all: &Moments, at: Millis, bounds: &CampaignBounds) -> Option<Self> {
        if all.seen() < bounds.learnt_after {
            return None;
        }
        let mut reference = Reference::of(&Moments::rates(hour, all, at), Moments::means(hour, all, at), bounds);
        reference.is_settled = all.seen() >= bounds.settled_after;
        Some(reference)
    }

    /// From careful estimates of what is usual, and plain ones.
    fn of(rates: &[Rate; STATISTICS], usual: [f64; STATISTICS], bounds: &CampaignBounds) -> Self {
        let [_, _, failed] = usual;
        Reference {
            levels: levels(rates, bounds),
            usual,
            success_share: 1.0 - failed,
            is_learnt: true,
            is_settled: true,
        }
    }
}

fn levels(rates: &[Rate; STATISTICS], bounds: &CampaignBounds) -> [[Option<Level>; 2]; STATISTICS] {
    let charts = (STATISTICS * ABOVE_MEAN.len()) as f64;
    // Whatever the charts have in common, alarms of all of them are at most the sum of the alarms of each.
    let blocks = charts * bounds.attempts_per_false_alarm / f64::from(bounds.block);
    rates.map(|rate| {
        let usual = on_grid(bounds.block, rate);
        ABOVE_MEAN.map(|above| {
            let mean = usual.mean();
            let reference = (mean + above * usual.deviation()).round().max(mean.floor() + 1.0) as u32;
            alarm_level(&usual, reference, blocks).map(|alarm| Level { reference, alarm })
        })
    })
}

/// The next coarser usual above: few different ones, so that each is solved once.
fn on_grid(n: u32, rate: Rate) -> BetaBinomial {
    let up = |value: f64, step: f64| (value / step).ceil() * step;
    let share_step = if rate.share < 0.02 { 0.001 } else { 0.0025 };
    let rho_step = if rate.rho < 0.03 { 0.0025 } else { 0.01 };
    BetaBinomial {
        n,
        share: up(rate.share, share_step).clamp(0.002, 0.98),
        rho: up(rate.rho, rho_step).clamp(0.0025, 0.5),
    }
}

/// A moment, and everything tried until then.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Point {
    at: Millis,
    tried: Tried,
}

/// One chart.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Chart {
    sum: f64,
    /// How many times its alarm level was passed, since the tenant was last calm.
    alarms: u32,
    /// When it last stood at zero.
    zero: Point,
}

/// The charts of a tenant, and the epoch that they opened.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Campaign {
    charts: [[Chart; 2]; STATISTICS],
    /// The block that is not full yet.
    block: Tried,
    all: Tried,
    /// Whether there is an epoch.
    is_open: bool,
    /// Where it begins.
    measured: Point,
    /// Failing sources with the last time, oldest first.
    sources: Vec<(Hashed, Millis)>,
}

/// What came of some attempts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Counted {
    /// A chart passed its alarm level.
    pub is_alarm: bool,
    /// The block that ended: it is full, or the alarm was certain before it was.
    pub block: Option<Tried>,
}

/// Bad attempts to a good one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BadToGood {
    pub estimate: f64,
    /// It is hardly less than this (95 %).
    pub at_least: f64,
}

impl Campaign {
    /// Takes attempts of one second at most, in the order of arrival. Of those of one call the order is not known, so a block
    /// may be longer than the bound. Its reference value is then larger in proportion; a longer block is cut off at zero
    /// less often than the chain that the alarm level was solved for, and a false alarm comes no sooner.
    ///
    /// Failures only add up within a block, so an alarm that the rest of the block cannot take back is given at once.
    pub fn count(&mut self, tried: &Tried, at: Millis, reference: &Reference, bounds: &CampaignBounds) -> Counted {
        self.all.add(tried);
        self.block.add(tried);
        let n = self.block.logins();
        let is_full = n >= u64::from(bounds.block);
        let bad = self.block.bad_by_statistic();
        // The reference value of the block if it were to end now, and of one that is not full.
        let part = n as f64 / f64::from(bounds.block);
        let full = part.max(1.0);
        let charts = || (0..STATISTICS).flat_map(|statistic| (0..ABOVE_MEAN.len()).map(move |k| (statistic, k)));
        let is_proven = charts().any(|(statistic, k)| {
            reference.levels[statistic][k].is_some_and(|level| {
                self.charts[statistic][k].sum + bad[statistic] as f64 - full * f64::from(level.reference)
                    > f64::from(level.alarm)
            })
        });
        if !is_full && !is_proven {
            return Counted::default();
        }
        let now = Point { at, tried: self.all };
        let reference_is_settled = reference.is_settled;
        let mut first: Option<Point> = None;
        for (statistic, k) in charts() {
            let Some(level) = reference.levels[statistic][k] else { continue };
            let chart = &mut self.charts[statistic][k];
            let (reference, alarm) = (f64::from(level.reference), f64::from(level.alarm));
            let sum = chart.sum + bad[statistic] as f64;
            if sum - full * reference > alarm {
                let times = ((sum - full * reference) / alarm.max(1.0)).min(1_000.0) as u32;
                chart.alarms = chart.alarms.saturating_add(times.max(1));
                first = Some(first.filter(|held| held.at <= chart.zero.at).unwrap_or(chart.zero));
                *chart = Chart { sum: 0.0, zero: now, ..*chart };
            } else {
                chart.sum = (sum - part * reference).clamp(0.0, alarm);
                if chart.sum == 0.0 {
                    chart.zero = now;
                }
            }
        }
        if let Some(zero) = first {
            // Alarms may come with every block: an epoch that began anew with each that it is long enough for an attack
            // would never be seen to be one.
            self.open(zero, if reference_is_settled { MEASURED_ANEW } else { 2 * bounds.logins });
        }
        let block = std::mem::take(&mut self.block);
        Counted { is_alarm: first.is_some(), block: Some(block) }
    }

    /// Opens an epoch that begins at `zero`, unless there is one that is measured from not so many logins ago.
    fn open(&mut self, zero: Point, logins: u64) {
        if !self.is_open || self.epoch().logins() >= logins {
            self.measured = zero;
        }
        self.is_open = true;
    }

    /// Takes note of a failing source.
    pub fn note_source(&mut self, source: Hashed, at: Millis) {
        if let Some(place) = self.sources.iter().position(|(held, _)| *held == source) {
            self.sources.remove(place);
        } else if self.sources.len() >= SOURCES_MAX {
            self.sources.remove(0);
        }
        self.sources.push((source, at));
    }

    /// Nothing is going on any more, or everything is held against another usual from now on.
    pub fn reset(&mut self, at: Millis) {
        let zero = Point { at, tried: self.all };
        self.charts = [[Chart { zero, ..Chart::default() }; 2]; STATISTICS];
        self.is_open = false;
        self.measured = zero;
    }

    /// What happened is dealt with, the epoch goes on: an alarm must come anew.
    pub fn let_rest(&mut self) {
        self.charts.iter_mut().flatten().for_each(|chart| chart.alarms = 0);
    }

    /// Everything tried since the epoch is measured.
    #[must_use]
    pub const fn epoch(&self) -> Tried {
        self.all.since(&self.measured.tried)
    }

    /// Begin of the epoch; `None` while there is none.
    #[must_use]
    pub fn since(&self) -> Option<Millis> {
        self.is_open.then_some(self.measured.at)
    }

    /// Whether a chart stands above this part of its alarm level.
    #[must_use]
    pub fn stands_above(&self, part: f64, reference: &Reference) -> bool {
        let charts = self.charts.iter().flatten().zip(reference.levels.iter().flatten());
        charts.into_iter().any(|(chart, level)| level.is_some_and(|level| chart.sum > part * f64::from(level.alarm)))
    }

    /// The chart that stands nearest to its alarm level, and that level; one that passed it since the tenant was last calm
    /// stands there. `None`: there is no level yet.
    #[must_use]
    pub fn highest(&self, reference: &Reference) -> Option<[f64; 2]> {
        let charts = self.charts.iter().flatten().zip(reference.levels.iter().flatten());
        let stands = charts.filter_map(|(chart, level)| {
            let alarm = f64::from((*level)?.alarm);
            Some([if chart.alarms > 0 { chart.sum.max(alarm) } else { chart.sum }, alarm])
        });
        stands.max_by(|a, b| (a[0] * b[1]).total_cmp(&(b[0] * a[1])))
    }

    /// Whether failures still stand out, after what was counted last. At a site that is not settled, charts that stand high
    /// mean something only where bad attempts are as many as in an attack.
    #[must_use]
    pub fn stands_out(&self, counted: &Counted, reference: &Reference, bounds: &CampaignBounds) -> bool {
        let is_high = counted.is_alarm || (self.is_open && self.stands_above(STANDS_OUT, reference));
        is_high && (reference.is_settled || self.bad_to_good(reference).at_least >= bounds.bad_to_good)
    }

    /// Bad attempts to a good one in the epoch; nothing while there is none.
    #[must_use]
    pub fn bad_to_good(&self, reference: &Reference) -> BadToGood {
        if self.is_open {
            bad_to_good(&self.epoch(), reference.success_share)
        } else {
            BadToGood { estimate: 0.0, at_least: 0.0 }
        }
    }

    /// What the epoch is. `is_out`: hardly anybody gets in any more, and no more people try than usual.
    #[must_use]
    pub fn judge(&self, reference: &Reference, bounds: &CampaignBounds, is_out: bool) -> AttackState {
        let ratio = self.bad_to_good(reference).at_least;
        let is_many = ratio >= bounds.bad_to_good;
        if !self.is_open || (!reference.is_settled && !is_many) {
            return AttackState::Calm;
        }
        let alarmed = self.charts.map(|charts| charts.iter().any(|chart| chart.alarms > 0));
        if !alarmed.contains(&true) {
            return AttackState::Calm;
        }
        let is_strong = self.charts.iter().flatten().any(|chart| chart.alarms >= 2)
            || alarmed.iter().filter(|alarmed| **alarmed).count() >= 2;
        let epoch = self.epoch();
        // A release that sends wrong passwords, or passwords that expire, hit those who have always come; a site that cannot
        // check passwords hits everybody. None of that brings names that belong to nobody.
        let is_fault = !alarmed[UNKNOWN] && (epoch.known > epoch.strangers + epoch.refused || is_out);
        let sources = self.sources.iter().filter(|(_, last)| *last >= self.measured.at).count();
        if is_strong && is_many && !is_fault && sources >= bounds.sources && epoch.logins() >= bounds.logins {
            AttackState::Attack
        } else {
            AttackState::Elevated
        }
    }

    /// The finding in numbers.
    #[must_use]
    pub fn found(&self, reference: &Reference, bounds: &CampaignBounds, now: Millis) -> Found {
        let epoch = self.epoch();
        let ratio = self.bad_to_good(reference);
        let logins = epoch.logins().max(1) as f64;
        let bad = epoch.bad_by_statistic();
        let mut measures = BTreeMap::from([
            ("logins".to_owned(), epoch.logins() as f64),
            ("logins.threshold".to_owned(), bounds.logins as f64),
            ("bad_to_good".to_owned(), ratio.at_least),
            ("bad_to_good.threshold".to_owned(), bounds.bad_to_good),
        ]);
        for (statistic, name) in NAMES.iter().enumerate() {
            measures.insert((*name).to_owned(), bad[statistic] as f64 / logins);
            measures.insert(format!("{name}.usual"), reference.usual[statistic]);
        }
        let usually = |statistic: usize| match reference.is_learnt {
            true => format!("usually {:.1} %", 100.0 * reference.usual[statistic]),
            false => "what is usual is not learnt yet".to_owned(),
        };
        let refused = match epoch.refused {
            0 => String::new(),
            refused => format!(", {refused} of them refused at blocked sources"),
        };
        let explanation = format!(
            "Of {} logins, {} failed or were refused{refused} ({:.0} %, {}); strangers' were {} ({}), on names of nobody {} \
             ({}). That makes {:.1} bad attempts to a good one.",
            epoch.logins(),
            bad[2],
            100.0 * bad[2] as f64 / logins,
            usually(2),
            bad[1],
            usually(1),
            bad[0],
            usually(0),
            ratio.estimate,
        );
        Found {
            measures,
            explanation,
            window_start: self.measured.at.min(now),
            window_end: now,
            contributions: BTreeMap::new(),
        }
    }
}

/// Herley and Schechter: an attack brings hardly a success, so the successes tell how many attempts are good, and the rest
/// is bad. What was refused comes from sources that were judged one by one.
fn bad_to_good(epoch: &Tried, success_share: f64) -> BadToGood {
    let successes = epoch.successes() as f64;
    let ratio = |successes: f64| {
        let good = successes / success_share.max(0.01);
        ((epoch.attempts as f64 - good).max(0.0) + epoch.refused as f64) / good
    };
    // Half a success more (Jeffreys), so that none at all does not make it infinite.
    BadToGood {
        estimate: ratio(successes + 0.5),
        at_least: ratio(successes + 0.5 + ONE_SIDED * (successes + 1.0).sqrt()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Blocks by chance: a share that differs from block to block (beta, from two gammas), then as many failures.
    pub(in crate::detect) struct Draw(u64);

    impl Draw {
        pub(in crate::detect) fn new(seed: u64) -> Self {
            Draw(seed)
        }

        /// splitmix64.
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub(in crate::detect) fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }

        fn unit(&mut self) -> f64 {
            (self.next() >> 11) as f64 / (1u64 << 53) as f64
        }

        /// Marsaglia and Tsang.
        fn gamma(&mut self, shape: f64) -> f64 {
            if shape < 1.0 {
                let boost = (1.0 - self.unit()).powf(1.0 / shape);
                return self.gamma(shape + 1.0) * boost;
            }
            let d = shape - 1.0 / 3.0;
            let c = 1.0 / (9.0 * d).sqrt();
            loop {
                let normal = (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
                let v = (1.0 + c * normal).powi(3);
                if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
                    return d * v;
                }
            }
        }

        /// A block of `n` attempts: shares of failures on nobody's names, of strangers, of all. The kinds of attempts are
        /// drawn from a Dirichlet-multinomial, whose sums are beta-binomial each with the same correlation.
        pub(in crate::detect) fn block(&mut self, n: u64, usual: [f64; STATISTICS], rho: f64) -> Tried {
            let [unknown, strangers, all] = usual;
            let both = 1.0 / rho - 1.0;
            let kinds = [unknown, strangers - unknown, all - strangers, 1.0 - all];
            let drawn = kinds.map(|share| self.gamma(share * both));
            let whole: f64 = drawn.iter().sum();
            let mut block = Tried { attempts: n, ..Tried::default() };
            for _ in 0..n {
                let place = self.unit() * whole;
                block.unknown += u64::from(place < drawn[0]);
                if place < drawn[0] + drawn[1] {
                    block.strangers += 1;
                } else if place < drawn[0] + drawn[1] + drawn[2] {
                    block.known += 1;
                }
            }
            block
        }
    }

    const USUAL: [f64; STATISTICS] = [0.015, 0.04, 0.12];
    const RHO: f64 = 0.01;

    fn learnt(usual: [f64; STATISTICS], bounds: &CampaignBounds) -> Reference {
        Reference::of(&usual.map(|share| Rate { share, rho: RHO }), usual, bounds)
    }

    /// The charts as the definition says, over whole blocks.
    fn slow(blocks: &[[u64; STATISTICS]], statistic: usize, level: Level) -> Vec<usize> {
        let mut sum = 0i64;
        let mut alarms = Vec::new();
        for (number, block) in blocks.iter().enumerate() {
            sum = (sum + block[statistic] as i64 - i64::from(level.reference)).max(0);
            if sum > i64::from(level.alarm) {
                alarms.push(number);
                sum = 0;
            }
        }
        alarms
    }

    proptest! {
        /// Against the definition: of blocks that come whole, a chart gives its alarms in the same blocks.
        #[test]
        fn charts_do_what_the_definition_says(
            blocks in prop::collection::vec((0u64..8, 0u64..12, 0u64..24), 1..120),
        ) {
            let bounds = CampaignBounds::default();
            let reference = learnt(USUAL, &bounds);
            let (mut campaign, mut seen) = (Campaign::default(), vec![Vec::new(); 6]);
            let mut counts = Vec::new();
            for (number, (unknown, strangers, known)) in blocks.into_iter().enumerate() {
                let block = Tried { attempts: 100, unknown, strangers: unknown + strangers, known, refused: 0 };
                counts.push(block.failed_by_statistic());
                let before: Vec<u32> = campaign.charts.iter().flatten().map(|chart| chart.alarms).collect();
                prop_assert_eq!(campaign.count(&block, 0, &reference, &bounds).block, Some(block));
                for (chart, (after, before)) in campaign.charts.iter().flatten().zip(before).enumerate() {
                    if after.alarms > before {
                        seen[chart].push(number);
                    }
                }
            }
            for (chart, level) in reference.levels.iter().flatten().enumerate() {
                prop_assert_eq!(&seen[chart], &slow(&counts, chart / 2, level.unwrap()));
            }
        }
    }

    /// Feeds a site with seconds of `a_second` attempts, of which an attack is `attack`, on nobody's names for the most part.
    /// After how many attempts a state was reached, and how many of them were the attack's.
    fn attacked(seed: u64, attack: f64, wanted: AttackState, attempts_max: u64) -> Option<(u64, u64)> {
        let bounds = CampaignBounds::default();
        let reference = learnt(USUAL, &bounds);
        let (mut draw, mut campaign) = (Draw::new(seed), Campaign::default());
        let (mut tried, mut bad, mut source) = (0, 0, 0);
        while tried < attempts_max {
            let mut second = draw.block(10, USUAL, RHO);
            let at = Millis::try_from(tried).unwrap_or_default() * 100;
            let n = (0..).take_while(|_| draw.unit() < attack).take(50).count() as u64;
            let unknown = (0..n).filter(|_| draw.unit() < 0.85).count() as u64;
            second.add(&Tried { attempts: n, unknown, strangers: n, known: 0, refused: 0 });
            for _ in 0..second.strangers {
                source += 1;
                campaign.note_source(source, at);
            }
            tried += second.attempts;
            bad += n;
            campaign.count(&second, at, &reference, &bounds);
            if campaign.judge(&reference, &bounds, false) >= wanted {
                return Some((tried, bad));
            }
        }
        None
    }

    #[test]
    fn an_attack_is_found_after_few_of_its_attempts() {
        for seed in 1..=5 {
            // About five sixths of the traffic, as on the night.
            let (_, bad) = attacked(seed, 0.98, AttackState::Attack, 100_000).expect("found");
            assert!(bad <= 300, "seed {seed}: {bad}");
            // One attempt in twenty: the site is on its guard, and no more.
            let (tried, _) = attacked(seed, 0.34, AttackState::Elevated, 100_000).expect("noticed");
            assert!(tried <= 3_000, "seed {seed}: {tried}");
            assert_eq!(attacked(seed, 0.34, AttackState::Attack, 100_000), None, "seed {seed}");
        }
    }

    /// Four million attempts of each of two sites, learnt as they come, in pieces of a second: no alarm at all.
    #[test]
    fn ordinary_traffic_gives_no_alarm() {
        let bounds = CampaignBounds::default();
        for (seed, usual, rho) in [(1, USUAL, RHO), (2, [0.004, 0.2, 0.4], 0.03)] {
            let mut draw = Draw::new(seed);
            let (mut campaign, mut moments) = (Campaign::default(), Moments::default());
            let mut reference = Reference::unlearnt(&bounds);
            let mut held = Moments::default();
            for number in 0..40_000u64 {
                // Chance differs from block to block: a block comes as seconds that share one.
                let block = draw.block(100, usual, rho);
                let mut left = block;
                let mut at = Millis::try_from(number).unwrap_or_default() * 10_000;
                while left.attempts > 0 {
                    let n = (1 + draw.below(64)).min(left.attempts);
                    let part = |x: u64| if n == left.attempts { x } else { x * n / left.attempts };
                    let [unknown, strangers] = [left.unknown, left.strangers].map(part);
                    let piece = Tried { attempts: n, unknown, strangers, known: part(left.known), refused: 0 };
                    left = left.since(&piece);
                    at += 100;
                    let counted = campaign.count(&piece, at, &reference, &bounds);
                    assert!(!counted.is_alarm || !reference.is_settled, "site {seed}, block {number}: {campaign:?}");
                    assert_eq!(campaign.judge(&reference, &bounds, false), AttackState::Calm, "site {seed}");
                    let Some(block) = counted.block else { continue };
                    held.learn(&block, at);
                    if reference.is_settled && campaign.stands_above(bounds.frozen_above, &reference) {
                        continue;
                    }
                    moments.add(&std::mem::take(&mut held), at);
                    if let Some(learnt) = Reference::learnt(&Moments::default(), &moments, at, &bounds) {
                        if !reference.is_learnt {
                            campaign.reset(at);
                        }
                        reference = learnt;
                    }
                }
            }
            assert!(campaign.all.attempts >= 4_000_000);
        }
    }

    #[test]
    fn the_successes_tell_how_much_is_good() {
        let epoch = Tried { attempts: 1_000, unknown: 500, strangers: 560, known: 0, refused: 0 };
        let ratio = bad_to_good(&epoch, 0.88);
        assert!((ratio.estimate - 1.0).abs() < 0.01, "{ratio:?}");
        assert!(ratio.at_least > 0.8 && ratio.at_least < ratio.estimate);
        let none = bad_to_good(&Tried { attempts: 100, strangers: 100, ..Tried::default() }, 0.88);
        assert!(none.at_least.is_finite() && none.at_least > 10.0);
        let refused = bad_to_good(&Tried { attempts: 50, refused: 100, ..Tried::default() }, 0.5);
        assert!(refused.at_least > 0.6, "{refused:?}");
    }

    /// What a site feels that cannot check passwords, or whose clients send wrong ones, is no attack.
    #[test]
    fn its_own_fault_is_no_attack() {
        let bounds = CampaignBounds::default();
        let reference = learnt(USUAL, &bounds);
        let run = |second: Tried, is_out: bool| {
            let mut campaign = Campaign::default();
            for n in 0..60 {
                campaign.note_source(n, n.cast_signed());
                campaign.count(&second, n.cast_signed(), &reference, &bounds);
            }
            campaign.judge(&reference, &bounds, is_out)
        };
        // Everybody's password is wrong, and eight in ten have always come.
        let release = Tried { attempts: 10, unknown: 0, strangers: 2, known: 8, refused: 0 };
        assert_eq!(run(release, false), AttackState::Elevated);
        let strangers = Tried { attempts: 10, unknown: 0, strangers: 8, known: 2, refused: 0 };
        assert_eq!(run(strangers, false), AttackState::Attack);
        assert_eq!(run(strangers, true), AttackState::Elevated);
        // Names of nobody come from a list and not from a fault.
        let list = Tried { unknown: 5, ..release };
        assert_eq!(run(Tried { strangers: 5, known: 5, ..list }, true), AttackState::Attack);
    }

    #[test]
    fn sources_are_remembered_in_the_order_in_which_they_were_last_seen() {
        let mut campaign = Campaign::default();
        for n in 0..100u64 {
            campaign.note_source(n, n.cast_signed());
            campaign.note_source(0, n.cast_signed());
        }
        assert_eq!(campaign.sources.len(), SOURCES_MAX);
        assert_eq!(campaign.sources.last(), Some(&(0, 99)));
        assert!(campaign.sources.is_sorted_by_key(|(_, at)| *at));
    }
}
