//! How long a CUSUM chart stays silent while nothing is wrong, exactly: the Markov chain of Brook and Evans.
//!
//! The chart adds up, block by block of `n` attempts, by how much a count lies above a reference value: `S = max(0, S + x -
//! c)`, and gives an alarm when `S > H`. With whole numbers the chart is a chain of `H + 1` states, so the mean number of
//! blocks before an alarm is the solution of linear equations, and the smallest `H` for a wanted one can be searched for.
//! The count is beta-binomial: its chance differs from block to block, as that of people does (`rho`, the correlation within
//! a block; 0 is the binomial). A simulation would need billions of blocks to tell as much.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Count in a block while nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BetaBinomial {
    /// Attempts of a block.
    pub n: u32,
    /// Mean share, above 0 and below 1.
    pub share: f64,
    /// Correlation within a block, from 0 to below 1.
    pub rho: f64,
}

/// Below this the correlation is taken for none: beta's parameters would be too large to tell apart.
const RHO_MIN: f64 = 1e-6;
/// No alarm level beyond this is looked for: the chart is then never asked.
const LEVEL_MAX: u32 = 1_000;
/// Most solved alarm levels that are kept.
const SOLVED_MAX: usize = 4_096;

impl BetaBinomial {
    /// Mean count.
    #[must_use]
    pub fn mean(&self) -> f64 {
        f64::from(self.n) * self.share
    }

    /// Standard deviation of the count.
    #[must_use]
    pub fn deviation(&self) -> f64 {
        let n = f64::from(self.n);
        (n * self.share * (1.0 - self.share) * (1.0 + (n - 1.0) * self.rho)).sqrt()
    }

    /// Chance of each count from 0 to `n`.
    #[must_use]
    pub fn chances(&self) -> Vec<f64> {
        let n = f64::from(self.n);
        let (p, q) = (self.share, 1.0 - self.share);
        // The chance of a run of counts is a product over the attempts that came before: alpha grows with each that
        // counted, beta with each that did not. `weight` is what one of them is worth against the prior share.
        let weight = if self.rho < RHO_MIN { 0.0 } else { self.rho / (1.0 - self.rho) };
        let log_of_none: f64 =
            (0..self.n).map(|k| ((q + f64::from(k) * weight) / (1.0 + f64::from(k) * weight)).ln()).sum();
        let mut logs = Vec::with_capacity(self.n as usize + 1);
        let mut log = log_of_none;
        logs.push(log);
        for x in 0..self.n {
            let x = f64::from(x);
            log += ((n - x) / (x + 1.0)).ln() + (p + x * weight).ln() - (q + (n - x - 1.0) * weight).ln();
            logs.push(log);
        }
        logs.into_iter().map(f64::exp).collect()
    }
}

/// Mean number of blocks from `S = 0` until an alarm, with counts of these chances.
#[must_use]
pub fn run_length(chances: &[f64], reference: u32, level: u32) -> f64 {
    let (c, h) = (reference as usize, level as usize);
    let width = h + 1;
    // I - P, row by row: what is left of the chain when an alarm ends it.
    let mut matrix = vec![0.0; width * width];
    for s in 0..width {
        matrix[s * width + s] += 1.0;
        for (x, chance) in chances.iter().enumerate() {
            let next = (s + x).saturating_sub(c);
            if next > h {
                break;
            }
            matrix[s * width + next] -= chance;
        }
    }
    let mut right = vec![1.0; width];
    // The matrix is diagonally dominant with nothing positive beside the diagonal, so elimination needs no pivots. Nobody
    // falls by more than the reference value, so only so many rows below the diagonal hold something.
    for pivot in 0..width {
        let below = (pivot + 1)..(pivot + 1 + c).min(width);
        for row in below {
            let factor = matrix[row * width + pivot] / matrix[pivot * width + pivot];
            if factor == 0.0 {
                continue;
            }
            let (upper, lower) = matrix.split_at_mut(row * width);
            let from = &upper[pivot * width + pivot..(pivot + 1) * width];
            for (into, from) in lower[pivot..width].iter_mut().zip(from) {
                *into -= factor * from;
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..width).rev() {
        let known: f64 = ((row + 1)..width).map(|column| matrix[row * width + column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row * width + row];
    }
    right[0]
}

/// The smallest alarm level with at least `blocks` blocks between false alarms; `None` when there is none within reason: a
/// chart whose reference value a block cannot exceed, or does not exceed by its mean, says nothing.
#[must_use]
pub fn alarm_level(usual: &BetaBinomial, reference: u32, blocks: f64) -> Option<u32> {
    if reference >= usual.n || f64::from(reference) <= usual.mean() {
        return None;
    }
    let key = (usual.n, usual.share.to_bits(), usual.rho.to_bits(), reference, blocks.to_bits());
    if let Ok(solved) = SOLVED.lock()
        && let Some(level) = solved.get(&key)
    {
        return *level;
    }
    let level = search(&usual.chances(), reference, blocks);
    if let Ok(mut solved) = SOLVED.lock() {
        if solved.len() >= SOLVED_MAX {
            solved.clear();
        }
        solved.insert(key, level);
    }
    level
}

/// What was solved. The same question has the same answer, so it decides nothing but how long it takes.
static SOLVED: Mutex<BTreeMap<Question, Option<u32>>> = Mutex::new(BTreeMap::new());
/// Attempts, share, rho, reference value, wanted blocks.
type Question = (u32, u64, u64, u32, u64);

fn search(chances: &[f64], reference: u32, blocks: f64) -> Option<u32> {
    let is_enough = |level| run_length(chances, reference, level) >= blocks;
    let (mut too_low, mut high) = (0, 16);
    if is_enough(too_low) {
        return Some(too_low);
    }
    while !is_enough(high) {
        (too_low, high) = (high, high * 2);
        if high > LEVEL_MAX {
            return None;
        }
    }
    while high - too_low > 1 {
        let middle = too_low + (high - too_low) / 2;
        if is_enough(middle) {
            high = middle;
        } else {
            too_low = middle;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts while a share of all attempts is an attack's, each of which counts with chance `counted`.
    fn under_attack(usual: BetaBinomial, share: f64, counted: f64) -> Vec<f64> {
        let binomial = |n, share| BetaBinomial { n, share, rho: 0.0 }.chances();
        let mut all = vec![0.0; usual.n as usize + 1];
        for (attack, chance) in (0..).zip(binomial(usual.n, share)) {
            let bad = binomial(attack, counted);
            let good = BetaBinomial { n: usual.n - attack, ..usual }.chances();
            for (x, bad) in bad.iter().enumerate() {
                for (y, good) in good.iter().enumerate() {
                    all[x + y] += chance * bad * good;
                }
            }
        }
        all
    }

    #[test]
    fn run_lengths_are_those_of_the_report() {
        let all = BetaBinomial { n: 100, share: 0.12, rho: 0.01 };
        assert_eq!(run_length(&all.chances(), 14, 56).round() as u64, 100_484);
        let unknown = BetaBinomial { n: 100, share: 0.015, rho: 0.01 };
        assert_eq!(run_length(&unknown.chances(), 3, 19).round() as u64, 158_875);
        // The level is the smallest one: one less is not enough.
        assert_eq!(alarm_level(&all, 14, 100_000.0), Some(56));
        assert_eq!(alarm_level(&unknown, 3, 100_000.0), Some(19));
        assert_eq!(alarm_level(&unknown, 2, 100_000.0), Some(34));
    }

    #[test]
    fn delays_are_those_of_the_report() {
        let unknown = BetaBinomial { n: 100, share: 0.015, rho: 0.01 };
        let delay = |attack, reference, level| {
            (100.0 * run_length(&under_attack(unknown, attack, 0.9), reference, level)).round() as u64
        };
        assert_eq!(delay(0.1, 3, 19), 325);
        assert_eq!(delay(0.05, 3, 19), 748);
        assert_eq!(delay(0.02, 2, 34), 2_819);
        let all = BetaBinomial { n: 100, share: 0.12, rho: 0.01 };
        assert_eq!((100.0 * run_length(&under_attack(all, 0.05, 0.995), 14, 56)).round() as u64, 2_434);
    }

    #[test]
    fn chances_have_the_mean_and_the_deviation_that_they_should() {
        for (share, rho) in [(0.12, 0.01), (0.5, 0.03), (0.002, 0.0), (0.9, 0.2), (0.3, 1e-9)] {
            let usual = BetaBinomial { n: 100, share, rho };
            let chances = usual.chances();
            let moment = |f: &dyn Fn(f64) -> f64| (0..).zip(&chances).map(|(x, p)| f(f64::from(x)) * p).sum::<f64>();
            assert!((moment(&|_| 1.0) - 1.0).abs() < 1e-9, "{usual:?}");
            assert!((moment(&|x| x) - usual.mean()).abs() < 1e-7, "{usual:?}");
            let spread = moment(&|x| (x - usual.mean()).powi(2)).sqrt();
            assert!((spread / usual.deviation() - 1.0).abs() < 1e-6, "{usual:?}: {spread}");
        }
    }

    #[test]
    fn a_chart_that_could_only_be_wrong_has_no_level() {
        let usual = BetaBinomial { n: 20, share: 0.1, rho: 0.01 };
        assert_eq!(alarm_level(&usual, 2, 1_000.0), None, "its reference value is what is usual");
        assert_eq!(alarm_level(&usual, 20, 1_000.0), None, "no block lies above it");
        assert!(alarm_level(&usual, 4, 1_000.0).is_some());
    }
}
