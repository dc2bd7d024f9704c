//! Known pairs: who logged in to which account from where, as the compacted topic `known-pairs` tells it.
//!
//! A record's key is a keyed hash of 128 bits, of which 64 are kept: among ten million pairs one stranger in 10^12 is
//! taken for a known pair, and nobody without the key of the installation can look for one. A pair takes 10 bytes in one
//! of 256 tables that grow one at a time, so that growing never needs the memory twice.

use rustc_hash::FxHashMap;

/// How many days after its last success a pair is known.
pub const KNOWN_FOR_DAYS: i32 = 30;
/// Most pairs held: 184 MB. Who comes after them stays a stranger.
pub const PAIRS_MAX: usize = 14_000_000;
const SHARDS: usize = 256;

/// The pairs, with the day of the last success of each.
#[derive(Debug)]
pub struct KnownPairs {
    shards: Vec<FxHashMap<[u8; 8], u16>>,
    len: usize,
    refused: u64,
}

impl Default for KnownPairs {
    fn default() -> Self {
        KnownPairs { shards: vec![FxHashMap::default(); SHARDS], len: 0, refused: 0 }
    }
}

impl KnownPairs {
    /// Takes one record: the day of the last success, in days since 1970, or nothing when the pair is taken back.
    pub fn set(&mut self, key: u128, day: Option<i32>) {
        let (shard, key) = place(key);
        let Some(day) = day.filter(|day| *day >= 0) else {
            self.len -= usize::from(self.shards[shard].remove(&key).is_some());
            return;
        };
        // Two bytes reach to the year 2149.
        let day = u16::try_from(day).unwrap_or(u16::MAX);
        if let Some(held) = self.shards[shard].get_mut(&key) {
            *held = day;
        } else if self.len >= PAIRS_MAX {
            self.refused += 1;
        } else {
            self.shards[shard].insert(key, day);
            self.len += 1;
        }
    }

    /// Whether the pair of this key logged in within the last [`KNOWN_FOR_DAYS`].
    #[must_use]
    pub fn is_known(&self, key: u128, today: i32) -> bool {
        let (shard, key) = place(key);
        self.shards[shard].get(&key).is_some_and(|day| is_recent(*day, today))
    }

    /// Forgets the pairs of one table whose last success is too long ago; called for one after the other, so that
    /// nobody waits long.
    pub fn forget_old(&mut self, turn: usize, today: i32) {
        let shard = &mut self.shards[turn % SHARDS];
        let before = shard.len();
        shard.retain(|_, day| is_recent(*day, today));
        self.len -= before - shard.len();
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many were not taken because [`PAIRS_MAX`] are held.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}

fn is_recent(day: u16, today: i32) -> bool {
    today.saturating_sub(i32::from(day)) <= KNOWN_FOR_DAYS
}

fn place(key: u128) -> (usize, [u8; 8]) {
    let bytes = key.to_be_bytes();
    let mut kept = [0; 8];
    kept.copy_from_slice(&bytes[8..]);
    (usize::from(bytes[0]), kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: i32 = 20_000;

    #[test]
    fn a_pair_is_known_until_it_is_taken_back_or_too_old() {
        let mut pairs = KnownPairs::default();
        let (ada, ben, eve) = (7 << 120 | 1, 7 << 120 | 2, 7 << 120 | 3);
        pairs.set(ada, Some(TODAY));
        pairs.set(ben, Some(TODAY - KNOWN_FOR_DAYS - 1));
        assert!(pairs.is_known(ada, TODAY) && pairs.is_known(ada, TODAY + KNOWN_FOR_DAYS));
        assert!(!pairs.is_known(ada, TODAY + KNOWN_FOR_DAYS + 1));
        assert!(!pairs.is_known(ben, TODAY) && !pairs.is_known(eve, TODAY));
        pairs.set(ben, Some(TODAY));
        assert!(pairs.is_known(ben, TODAY));
        pairs.set(ben, None);
        pairs.set(eve, None);
        assert!(!pairs.is_known(ben, TODAY));
        assert_eq!((pairs.len(), pairs.refused()), (1, 0));
    }

    #[test]
    fn days_that_no_calendar_has_are_no_panic() {
        let mut pairs = KnownPairs::default();
        pairs.set(1, Some(-1));
        pairs.set(2, Some(i32::MIN));
        assert!(pairs.is_empty());
        pairs.set(3, Some(i32::MAX));
        assert!(pairs.is_known(3, i32::MIN) && pairs.is_known(3, 20_000));
    }

    #[test]
    fn what_is_too_old_is_forgotten_one_table_after_the_other() {
        let mut pairs = KnownPairs::default();
        for shard in 0..256_u128 {
            pairs.set(shard << 120 | 1, Some(TODAY - 40));
            pairs.set(shard << 120 | 2, Some(TODAY));
        }
        pairs.forget_old(3, TODAY);
        assert_eq!(pairs.len(), 511);
        for turn in 0..300 {
            pairs.forget_old(turn, TODAY);
        }
        assert_eq!(pairs.len(), 256);
        assert!(pairs.is_known(9 << 120 | 2, TODAY) && !pairs.is_known(9 << 120 | 1, TODAY));
    }
}
