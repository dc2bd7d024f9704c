//! A sliding window as a ring of slices: exact counts, one slice of granularity in time, nothing to delete.
//!
//! The window of an entity ends with the newest slice in which it was seen and holds [`SLICES`] of them. Only slices
//! that hold something are kept, so an address that tried once costs a few bytes.

use serde::{Deserialize, Serialize};

use crate::event::Millis;

/// Slices of one window. The window slides by a twentieth of its length.
pub const SLICES: i64 = 20;

/// Counts of `N` kinds per slice, in ascending order of slices; at most [`SLICES`] of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slices<const N: usize>
where
    [u32; N]: Serialize + for<'a> Deserialize<'a>,
{
    width_ms: Millis,
    filled: Vec<(i64, [u32; N])>,
}

impl<const N: usize> Slices<N>
where
    [u32; N]: Serialize + for<'a> Deserialize<'a>,
{
    /// An empty window of `over_ms`, which is rounded up to whole slices.
    #[must_use]
    pub fn new(over_ms: Millis) -> Self {
        Slices { width_ms: slice_width(over_ms), filled: Vec::new() }
    }

    #[must_use]
    pub const fn width_ms(&self) -> Millis {
        self.width_ms
    }

    /// The slice of an event time.
    #[must_use]
    pub const fn slice_of(&self, at: Millis) -> i64 {
        at.div_euclid(self.width_ms)
    }

    /// The newest slice that holds something.
    #[must_use]
    pub fn newest(&self) -> Option<i64> {
        self.filled.last().map(|(slice, _)| *slice)
    }

    /// Adds at an event time. `false`: the slice lies before the window, and nothing was counted.
    pub fn add(&mut self, at: Millis, counts: [u32; N]) -> bool {
        let slice = self.slice_of(at);
        let newest = self.newest().unwrap_or(slice).max(slice);
        if slice <= newest - SLICES {
            return false;
        }
        self.filled.retain(|(held, _)| *held > newest - SLICES);
        let place = self.filled.partition_point(|(held, _)| *held < slice);
        match self.filled.get_mut(place) {
            Some((held, sums)) if *held == slice => {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum = sum.saturating_add(count);
                }
            }
            Some(_) | None => self.filled.insert(place, (slice, counts)),
        }
        true
    }

    /// Sums over the window that ends with slice `last`.
    #[must_use]
    pub fn sums(&self, last: i64) -> [u64; N] {
        let mut sums = [0; N];
        for (slice, counts) in &self.filled {
            if *slice > last - SLICES && *slice <= last {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum += u64::from(*count);
                }
            }
        }
        sums
    }

    /// The first millisecond of the first slice that holds something, in the window that ends with slice `last`.
    #[must_use]
    pub fn begins(&self, last: i64) -> Option<Millis> {
        let first = self.filled.iter().map(|(slice, _)| *slice).find(|slice| *slice > last - SLICES);
        first.filter(|slice| *slice <= last).map(|slice| slice.saturating_mul(self.width_ms))
    }

    /// First and last millisecond (exclusive) of the window that ends with slice `last`.
    #[must_use]
    pub const fn span(&self, last: i64) -> (Millis, Millis) {
        let end = last.saturating_add(1).saturating_mul(self.width_ms);
        (end.saturating_sub(SLICES * self.width_ms), end)
    }
}

/// Width of a slice of a window of `over_ms`, at least 1 ms.
#[must_use]
pub fn slice_width(over_ms: Millis) -> Millis {
    (over_ms.max(1) + SLICES - 1).div_euclid(SLICES).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the slow model: keep everything, sum what falls into the window.
        #[test]
        fn sums_equal_a_recount(times in prop::collection::vec(0i64..200_000, 1..200)) {
            let mut slices = Slices::<1>::new(20_000);
            let mut kept: Vec<i64> = Vec::new();
            for at in times {
                let slice = at / 1000;
                let newest = kept.iter().map(|t| t / 1000).max().unwrap_or(slice).max(slice);
                prop_assert_eq!(slices.add(at, [1]), slice > newest - SLICES);
                kept.push(at);
                let expect = kept.iter().filter(|t| **t / 1000 > newest - SLICES).count() as u64;
                // What fell outside once may not come back in: the newest slice only grows.
                prop_assert_eq!(slices.sums(newest)[0], expect);
                prop_assert!(slices.filled.len() <= SLICES as usize);
            }
        }
    }

    #[test]
    fn a_slice_is_in_until_the_window_has_passed_it() {
        let mut slices = Slices::<1>::new(20_000);
        assert!(slices.add(0, [1]));
        assert_eq!(slices.sums(19), [1]);
        assert_eq!(slices.sums(20), [0]);
        assert!(slices.add(20_000, [1]));
        assert!(!slices.add(999, [1]), "the window has passed this slice");
        assert_eq!(slices.span(20), (1_000, 21_000));
    }
}
