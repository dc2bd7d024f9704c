//! What one file says of all addresses: ranges that touch but never overlap, each with what is known of it.

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use rustc_hash::FxHashMap;

use super::Facts;
use crate::event::Source;

/// Most ranges of one file, and of all files together. A file of the whole internet by country and network has about a
/// million.
pub const RANGES_MAX: usize = 8_000_000;
/// Most different facts of one file, and of all files together.
pub const FACTS_MAX: usize = 1_000_000;

/// The facts that a range without any points to.
pub(super) const NOTHING: u32 = 0;

/// One family of addresses: where each range starts, and what is known of it until the next start. IPv4 addresses are their
/// number, IPv6 sources the upper 64 bits of theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    starts: Vec<u64>,
    facts: Vec<u32>,
    /// Of the 65,536 equal parts of the family: how many ranges start before each. Empty: it was not made.
    parts: Vec<u32>,
    /// How many bits below those that name a part.
    part_bits: u32,
}

/// Parts of a family, so that a search begins near its end: most of its time is misses of the processor's cache.
const PARTS: u64 = 1 << 16;

impl Ranges {
    /// What is known at a place.
    pub(super) fn at(&self, place: u64) -> u32 {
        let part = (place >> self.part_bits) as usize;
        let bound = |part: usize| self.parts.get(part).map(|count| *count as usize);
        let (from, to) = (bound(part).unwrap_or(0), bound(part.saturating_add(1)).unwrap_or(self.starts.len()));
        let after = self.starts.get(from..to).unwrap_or_default().partition_point(|start| *start <= place) + from;
        after.checked_sub(1).and_then(|index| self.facts.get(index)).copied().unwrap_or(NOTHING)
    }

    /// Makes looking up quick. `bits` is the length of the family's numbers.
    fn index(&mut self, bits: u32) {
        self.part_bits = bits - PARTS.ilog2();
        let before = |part: u64| self.starts.partition_point(|start| *start < part << self.part_bits);
        self.parts = (0..PARTS).map(|part| u32::try_from(before(part)).unwrap_or(u32::MAX)).collect();
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    fn is_empty(&self) -> bool {
        self.facts.iter().all(|facts| *facts == NOTHING)
    }

    fn append(&mut self, start: u64, facts: u32) {
        if self.facts.last().copied().unwrap_or(NOTHING) != facts {
            self.starts.push(start);
            self.facts.push(facts);
        }
    }

    /// First and last place of each range of which `holds` is true, as long as they can be; `last` ends the family.
    fn spans(&self, last: u64, holds: impl Fn(u32) -> bool) -> Vec<(u64, u64)> {
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for (index, (start, facts)) in self.starts.iter().zip(&self.facts).enumerate() {
            if !holds(*facts) {
                continue;
            }
            let end = self.starts.get(index + 1).map_or(last, |next| next.saturating_sub(1));
            match spans.last_mut() {
                Some((_, before)) if before.checked_add(1) == Some(*start) => *before = end,
                Some(_) | None => spans.push((*start, end)),
            }
        }
        spans
    }

    /// Two families laid over each other: `both` says what is known where each of them says this.
    fn over(&self, other: &Ranges, mut both: impl FnMut(u32, u32) -> Result<u32, String>) -> Result<Ranges, String> {
        let mut merged = Ranges::default();
        let (mut own, mut others) = (Cursor::new(self), Cursor::new(other));
        loop {
            let Some(start) = own.next_start().into_iter().chain(others.next_start()).min() else { return Ok(merged) };
            own.pass(start);
            others.pass(start);
            merged.append(start, both(own.facts, others.facts)?);
            if merged.len() > RANGES_MAX {
                return Err(format!("over {RANGES_MAX} ranges"));
            }
        }
    }
}

/// How far one of two families has been read.
struct Cursor<'a> {
    of: &'a Ranges,
    next: usize,
    facts: u32,
}

impl<'a> Cursor<'a> {
    const fn new(of: &'a Ranges) -> Self {
        Cursor { of, next: 0, facts: NOTHING }
    }

    fn next_start(&self) -> Option<u64> {
        self.of.starts.get(self.next).copied()
    }

    fn pass(&mut self, start: u64) {
        if self.next_start() == Some(start) {
            self.facts = self.of.facts.get(self.next).copied().unwrap_or(NOTHING);
            self.next += 1;
        }
    }
}

/// Makes [`Ranges`] of ranges in ascending order.
#[derive(Debug)]
pub(super) struct RangesBuilder {
    ranges: Ranges,
    /// The first place that nothing was said of; `None` at the end of the family.
    next: Option<u64>,
}

impl RangesBuilder {
    pub(super) fn new() -> Self {
        RangesBuilder { ranges: Ranges::default(), next: Some(0) }
    }

    /// Says what is known from `start` to `last`. What was said before stands.
    pub(super) fn push(&mut self, start: u64, last: u64, facts: u32) -> Result<(), String> {
        let Some(next) = self.next else { return Ok(()) };
        let start = start.max(next);
        if last < start {
            return Ok(());
        }
        if start > next {
            self.ranges.append(next, NOTHING);
        }
        self.ranges.append(start, facts);
        self.next = last.checked_add(1);
        if self.ranges.len() > RANGES_MAX {
            return Err(format!("over {RANGES_MAX} ranges"));
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Ranges {
        if let Some(next) = self.next {
            self.ranges.append(next, NOTHING);
        }
        self.ranges
    }
}

/// Different facts, each once.
#[derive(Debug)]
pub(super) struct Known {
    all: Vec<Facts>,
    places: FxHashMap<Facts, u32>,
}

impl Known {
    pub(super) fn new() -> Self {
        // The first is nothing.
        Known { all: vec![Facts::default()], places: FxHashMap::from_iter([(Facts::default(), NOTHING)]) }
    }

    /// The number of these facts.
    ///
    /// # Errors
    /// There are too many different ones.
    pub(super) fn number_of(&mut self, facts: Facts) -> Result<u32, String> {
        if let Some(number) = self.places.get(&facts) {
            return Ok(*number);
        }
        let number = u32::try_from(self.all.len()).ok().filter(|_| self.all.len() < FACTS_MAX);
        let number = number.ok_or_else(|| format!("over {FACTS_MAX} different networks"))?;
        self.all.push(facts.clone());
        self.places.insert(facts, number);
        Ok(number)
    }

    fn into_all(self) -> Box<[Facts]> {
        self.all.into()
    }
}

/// What one file, or all of them together, says of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    v4: Ranges,
    v6: Ranges,
    facts: Box<[Facts]>,
}

impl Default for Layer {
    fn default() -> Self {
        Layer { v4: Ranges::default(), v6: Ranges::default(), facts: Box::new([Facts::default()]) }
    }
}

impl Layer {
    pub(super) fn new(v4: RangesBuilder, v6: RangesBuilder, known: Known) -> Self {
        Layer { v4: v4.finish(), v6: v6.finish(), facts: known.into_all() }
    }

    /// Makes looking up quick, at the price of half a megabyte.
    pub(super) fn index(&mut self) {
        self.v4.index(u32::BITS);
        self.v6.index(u64::BITS);
    }

    /// What is known of a source; `None` when it lies in no range.
    pub(super) fn look_up(&self, source: Source) -> Option<&Facts> {
        let number = match source {
            Source::V4(bits) => self.v4.at(u64::from(bits)),
            Source::V6(bits) => self.v6.at(bits),
        };
        if number == NOTHING { None } else { self.facts.get(number as usize) }
    }

    /// Whether it knows nothing of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// How many ranges it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Both: where they contradict each other, what this one says.
    pub(super) fn over(&self, other: &Layer) -> Result<Layer, String> {
        let mut known = Known::new();
        let mut pairs: FxHashMap<(u32, u32), u32> = FxHashMap::default();
        let facts = |layer: &'_ Layer, number: u32| layer.facts.get(number as usize).cloned().unwrap_or_default();
        let mut both = |own: u32, others: u32| {
            if let Some(number) = pairs.get(&(own, others)) {
                return Ok(*number);
            }
            let number = known.number_of(facts(self, own).or(facts(other, others)))?;
            pairs.insert((own, others), number);
            Ok(number)
        };
        let v4 = self.v4.over(&other.v4, &mut both)?;
        let v6 = self.v6.over(&other.v6, &mut both)?;
        Ok(Layer { v4, v6, facts: known.into_all() })
    }

    /// The fewest prefixes that hold whatever has such facts and nothing else, in order; `None` when there are more than
    /// `most`.
    pub(super) fn prefixes(&self, holds: impl Fn(&Facts) -> bool, most: usize) -> Option<Vec<IpNet>> {
        let wanted: Vec<bool> = self.facts.iter().map(holds).collect();
        let holds = |number: u32| wanted.get(number as usize).copied().unwrap_or_default();
        let v4 = self.v4.spans(u64::from(u32::MAX), holds).into_iter().flat_map(|(start, last)| {
            let (start, last) = (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(last).unwrap_or(u32::MAX));
            Ipv4Subnets::new(start.into(), last.into(), 0).map(IpNet::from)
        });
        let v6 = self.v6.spans(u64::MAX, holds).into_iter().flat_map(|(start, last)| {
            let (start, last) = (u128::from(start) << 64, (u128::from(last) << 64) | u128::from(u64::MAX));
            Ipv6Subnets::new(start.into(), last.into(), 0).map(IpNet::from)
        });
        let prefixes: Vec<IpNet> = v4.chain(v6).take(most.saturating_add(1)).collect();
        (prefixes.len() <= most).then_some(prefixes)
    }
}
