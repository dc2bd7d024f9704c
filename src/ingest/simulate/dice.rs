//! Chance from a seed, in whole numbers: the same on every machine.

use rand_core::RngCore;
use rand_pcg::Pcg64;

/// A random stream. Streams of one seed that differ in their name are independent.
#[derive(Debug, Clone)]
pub(super) struct Dice(Pcg64);

impl Dice {
    pub(super) fn new(seed: u64, name: &str) -> Self {
        let name = hash(name.as_bytes());
        let state = (u128::from(mix(seed, name)) << 64) | u128::from(mix(name, seed));
        Dice(Pcg64::new(state, u128::from(name)))
    }

    /// Uniform in `0..n`; 0 when `n` is 0.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        scale(self.0.next_u64(), n)
    }

    /// Uniform from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(high.abs_diff(low) + 1).cast_signed()
    }

    /// True in `per_million` of a million.
    pub(super) fn chance(&mut self, per_million: u64) -> bool {
        self.below(1_000_000) < per_million
    }

    /// How long until the next of events that come by chance, `mean` apart on average (the exponential distribution).
    pub(super) fn wait(&mut self, mean: u64) -> u64 {
        ((u128::from(mean) * u128::from(surprise(self.0.next_u64()))) >> 16) as u64
    }

    /// A text in the form of a version 4 UUID.
    pub(super) fn uuid(&mut self) -> String {
        let (high, low) = (self.0.next_u64(), self.0.next_u64());
        let bits =
            ((u128::from(high) << 64) | u128::from(low)) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let (a, b, c) = (bits >> 96, (bits >> 80) & 0xffff, (bits >> 64) & 0xffff);
        format!("{a:08x}-{b:04x}-{c:04x}-{:04x}-{:012x}", (bits >> 48) & 0xffff, bits & 0xffff_ffff_ffff)
    }
}

/// A number in `0..n` from one in the whole range of 64 bits.
pub(super) fn scale(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// The negative natural logarithm of a uniform number in (0, 1], given as its 64 bits, in units of 2^-16: by squaring,
/// one binary digit at a time, so that no machine's floating point has a say.
fn surprise(bits: u64) -> u64 {
    const DIGITS: u32 = 16;
    /// ln 2 in units of 2^-16.
    const LN_2: u64 = 45_426;
    let number = u128::from(bits) + 1;
    let whole = number.ilog2();
    // The mantissa, from 1 up to 2, in units of 2^-63.
    let mut mantissa = if whole <= 63 { number << (63 - whole) } else { number >> 1 };
    let mut log2 = u64::from(whole);
    for _ in 0..DIGITS {
        mantissa = (mantissa * mantissa) >> 63;
        let digit = mantissa >> 64;
        mantissa >>= digit;
        log2 = (log2 << 1) | digit as u64;
    }
    (((64 << DIGITS) - log2) * LN_2) >> DIGITS
}

/// A well-spread number from two (the finaliser of SplitMix64).
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_add(b.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number from bytes.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |state, byte| mix(state, u64::from(*byte)))
}

/// `items[n]` for `n` within the list, which the caller computes modulo its length; the first one otherwise.
pub(super) fn nth<T>(items: &[T], n: u64) -> Option<&T> {
    usize::try_from(n).ok().and_then(|n| items.get(n)).or(items.first())
}

/// A shuffled order of `0..n`, without keeping it: a small Feistel cipher whose values beyond `n` are walked past.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shuffle {
    n: u64,
    half_bits: u32,
    key: u64,
}

impl Shuffle {
    pub(super) fn new(n: u64, seed: u64, name: &str) -> Self {
        let bits = 64 - n.max(2).saturating_sub(1).leading_zeros();
        Shuffle { n: n.max(1), half_bits: bits.div_ceil(2), key: mix(seed, hash(name.as_bytes())) }
    }

    /// The number at a place; each number of `0..n` stands at exactly one place of `0..n`.
    pub(super) fn at(&self, place: u64) -> u64 {
        let mut x = place % self.n;
        loop {
            x = self.round_trip(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn round_trip(&self, x: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (mix(self.key ^ round, right) & mask));
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_holds_each_number_once() {
        for n in [1, 2, 3, 10, 700, 4096, 43_387] {
            let shuffle = Shuffle::new(n, 7, "test");
            let mut seen: Vec<u64> = (0..n).map(|place| shuffle.at(place)).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..n), "{n}");
        }
    }

    #[test]
    fn dice_are_even_and_their_values_never_change() {
        let mut dice = Dice::new(1, "test");
        let hits = (0..100_000).filter(|_| dice.chance(120_000)).count();
        assert!((11_500..12_500).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| (-3..=3).contains(&dice.between(-3, 3))));
        assert_eq!((mix(1, 2), hash(b"portcullis")), (17_911_839_290_282_890_590, 7_705_334_468_293_626_775));
        assert_eq!(Dice::new(1, "a").uuid(), Dice::new(1, "a").uuid());
        assert_ne!(Dice::new(1, "a").uuid(), Dice::new(1, "b").uuid());
        let uuid = Dice::new(1, "a").uuid();
        assert_eq!((uuid.len(), uuid.as_bytes()[14]), (36, b'4'));
    }

    #[test]
    fn waits_have_the_mean_and_the_spread_of_chance() {
        assert_eq!((surprise(u64::MAX), surprise(u64::MAX / 2), surprise(0)), (0, 45_426, 64 * 45_426));
        let mut dice = Dice::new(1, "test");
        let waits: Vec<u64> = (0..100_000).map(|_| dice.wait(1_000_000)).collect();
        let mean = waits.iter().sum::<u64>() / 100_000;
        assert!((990_000..1_010_000).contains(&mean), "{mean}");
        let longer = waits.iter().filter(|wait| **wait > 2_000_000).count();
        assert!((13_100..14_000).contains(&longer), "{longer} of 100,000, and 13,534 by the formula");
    }
}
