//! Chance from a seed: the same history on every machine.

use rand_core::RngCore;
use rand_pcg::Pcg64Mcg;

#[derive(Debug, Clone)]
pub struct Dice(Pcg64Mcg);

impl Dice {
    /// Dice of one seed that differ in their number are independent.
    pub fn new(seed: u64, number: u64) -> Dice {
        let spread = |n: u64| n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = Dice(Pcg64Mcg::new((u128::from(spread(seed)) << 64) | u128::from(spread(number ^ 0x5eed))));
        // The first numbers of neighbouring states are alike.
        (0..4).for_each(|_| dice.0.advance(1));
        dice
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform from `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(high.abs_diff(low) + 1).cast_signed()
    }

    /// True once in so many times; never for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
