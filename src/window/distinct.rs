//! How many different ones over a sliding window: exact while there are few, then a HyperLogLog sketch per slice.
//!
//! Thresholds of playbooks lie far below [`EXACT_MAX`], so a decision never rests on an estimate.
//!
//! Estimates are the composite ones, from the registers alone. The library's usual estimate also depends on the order in
//! which values came, and a small sketch that was stored and read back holds its values in another order: a restart
//! would change what is said.

use datasketches::hll::{HllSketch, HllType, HllUnion};
use serde::{Deserialize, Serialize};

use super::Hashed;
use super::slices::SLICES;

/// Up to this many different values are kept one by one.
pub const EXACT_MAX: usize = 128;
/// 2^10 registers of 4 bits: 3 % standard error in half a kibibyte a slice.
const LG_K: u8 = 10;
/// 2^12 registers of 4 bits: 1.3 % in two kibibytes.
const LG_K_EVER: u8 = 12;

/// Distinct keyed hashes over the slices of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Distinct {
    /// Each value with the newest slice it was seen in.
    Exact(Vec<(Hashed, i64)>),
    /// One sketch per slice, ascending.
    Sketched(Vec<(i64, Sketch)>),
}

impl Default for Distinct {
    fn default() -> Self {
        Distinct::Exact(Vec::new())
    }
}

impl Distinct {
    /// Takes a value seen in `slice`, where the window ends with slice `newest`.
    pub fn add(&mut self, value: Hashed, slice: i64, newest: i64) {
        match self {
            Distinct::Exact(seen) => {
                if let Some((_, last)) = seen.iter_mut().find(|(held, _)| *held == value) {
                    *last = (*last).max(slice);
                    return;
                }
                if seen.len() == EXACT_MAX {
                    seen.retain(|(_, last)| *last > newest - SLICES);
                }
                if seen.len() < EXACT_MAX {
                    seen.push((value, slice));
                } else {
                    self.become_sketch();
                    self.add(value, slice, newest);
                }
            }
            Distinct::Sketched(slices) => {
                slices.retain(|(held, _)| *held > newest - SLICES);
                let place = slices.partition_point(|(held, _)| *held < slice);
                match slices.get_mut(place) {
                    Some((held, sketch)) if *held == slice => sketch.0.update(value),
                    Some(_) | None => {
                        if let Some(mut sketch) = Sketch::empty() {
                            sketch.0.update(value);
                            slices.insert(place, (slice, sketch));
                        }
                    }
                }
            }
        }
    }

    /// How many different values in the window that ends with slice `newest`.
    #[must_use]
    pub fn count(&self, newest: i64) -> u64 {
        match self {
            Distinct::Exact(seen) => seen.iter().filter(|(_, last)| *last > newest - SLICES).count() as u64,
            Distinct::Sketched(slices) => {
                let Ok(mut union) = HllUnion::new(LG_K) else { return 0 };
                for (slice, sketch) in slices {
                    if *slice > newest - SLICES {
                        union.update(&sketch.0);
                    }
                }
                union.composite_estimate().round() as u64
            }
        }
    }

    /// Whether counts are exact.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self, Distinct::Exact(_))
    }

    fn become_sketch(&mut self) {
        let Distinct::Exact(seen) = std::mem::take(self) else { return };
        *self = Distinct::Sketched(Vec::new());
        let newest = seen.iter().map(|(_, slice)| *slice).max().unwrap_or_default();
        for (value, slice) in seen {
            self.add(value, slice, newest);
        }
    }
}

/// Distinct keyed hashes for good: nearly exact for some hundreds, then within 2 %.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ever(Option<Sketch>);

impl Ever {
    /// Those of the window that ends with slice `newest`.
    #[must_use]
    pub fn of_window(distinct: &Distinct, newest: i64) -> Self {
        let is_in = |slice: i64| slice > newest - SLICES && slice <= newest;
        let mut ever = Ever::default();
        match distinct {
            Distinct::Exact(seen) => {
                seen.iter().filter(|(_, last)| is_in(*last)).for_each(|(value, _)| ever.add(*value));
            }
            Distinct::Sketched(slices) => {
                if let Ok(mut union) = HllUnion::new(LG_K) {
                    slices.iter().filter(|(slice, _)| is_in(*slice)).for_each(|(_, sketch)| union.update(&sketch.0));
                    ever.0 = Some(Sketch(union.to_sketch(HllType::Hll4)));
                }
            }
        }
        ever
    }

    pub fn add(&mut self, value: Hashed) {
        if self.0.is_none() {
            self.0 = HllSketch::new(LG_K_EVER, HllType::Hll4).ok().map(Sketch);
        }
        if let Some(sketch) = &mut self.0 {
            sketch.0.update(value);
        }
    }

    /// How many different values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, |sketch| sketch.0.composite_estimate().round() as u64)
    }
}

/// A sketch that is stored as its library's own bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch(HllSketch);

impl Sketch {
    fn empty() -> Option<Self> {
        HllSketch::new(LG_K, HllType::Hll4).ok().map(Sketch)
    }
}

impl Serialize for Sketch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.serialize())
    }
}

impl<'de> Deserialize<'de> for Sketch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        HllSketch::deserialize(&bytes).map(Sketch).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spreads small numbers as a keyed hash would.
    fn spread(n: u64) -> Hashed {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn exact_while_few_then_within_the_sketch_s_error_and_always_sliding() {
        for size in [1u64, 100, 128, 129, 1_000, 20_000] {
            let mut distinct = Distinct::default();
            for n in 0..size {
                distinct.add(spread(n), (n % 5) as i64, 4);
                distinct.add(spread(n), (n % 5) as i64, 4);
            }
            let counted = distinct.count(4) as f64;
            let error = (counted - size as f64).abs() / size as f64;
            assert_eq!(distinct.is_exact(), size <= EXACT_MAX as u64);
            assert!(error <= if distinct.is_exact() { 0.0 } else { 0.12 }, "{size}: {counted}");
            assert_eq!(distinct.count(4 + SLICES), 0, "{size}: all have left the window");
            let one_left = distinct.count(3 + SLICES);
            assert!((one_left as f64) <= size as f64 / 4.0 + 1.0, "{size}: {one_left}");
        }
    }

    #[test]
    fn what_is_counted_for_good_never_leaves() {
        for size in [5u64, 100, 5_000] {
            let mut distinct = Distinct::default();
            for n in 0..size {
                distinct.add(spread(n), 100 + (n % 5) as i64, 104);
            }
            let mut ever = Ever::of_window(&distinct, 104);
            let error = |counted: u64, size: u64| (counted as f64 / size as f64 - 1.0).abs();
            assert!(error(ever.count(), size) < 0.08, "{size}: {}", ever.count());
            assert_eq!(Ever::of_window(&distinct, 104 + SLICES).count(), 0, "{size}: all had left the window");
            for n in size..2 * size {
                ever.add(spread(n));
                ever.add(spread(n));
            }
            assert!(error(ever.count(), 2 * size) < 0.08, "{size}: {}", ever.count());
        }
        let mut ever = Ever::default();
        (0..300).for_each(|n| ever.add(spread(n)));
        assert_eq!(ever.count(), 300, "hundreds are counted exactly");
        (300..40_000).for_each(|n| ever.add(spread(n)));
        assert!((ever.count() as f64 / 40_000.0 - 1.0).abs() < 0.04, "{}", ever.count());
    }

    #[test]
    fn storing_in_between_changes_no_count() {
        let (mut kept, mut stored) = (Distinct::default(), Distinct::default());
        let mut sketched = 0;
        for n in 0..600 {
            let slice = (n / 30) as i64;
            kept.add(spread(n), slice, slice);
            stored.add(spread(n), slice, slice);
            stored = postcard::from_bytes(&postcard::to_allocvec(&stored).unwrap()).unwrap();
            assert_eq!(kept.count(slice), stored.count(slice), "{n}");
            assert_eq!(Ever::of_window(&kept, slice).count(), Ever::of_window(&stored, slice).count(), "{n}");
            sketched += u32::from(!stored.is_exact());
        }
        assert!(sketched > 400, "{sketched}");
    }

    #[test]
    fn a_row_reads_back_as_it_was() {
        let mut distinct = Distinct::default();
        for n in 0..300 {
            distinct.add(spread(n), 0, 0);
        }
        let bytes = postcard::to_allocvec(&distinct).unwrap();
        let back: Distinct = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back.count(0), distinct.count(0));
        assert_eq!(postcard::to_allocvec(&back).unwrap(), bytes);
    }
}
