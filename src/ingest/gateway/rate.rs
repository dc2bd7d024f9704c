//! How many events a source may send.

use crate::event::Millis;

/// A bucket that fills with time: `per_second` events a second on average, twice as many at once.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    per_second: u32,
    /// In thousandths of an event; below 0 after a batch that is larger than the bucket.
    left: i64,
    filled_at: Millis,
}

impl Bucket {
    pub(super) const fn new(per_second: u32) -> Self {
        Bucket { per_second, left: per_second as i64 * 2_000, filled_at: Millis::MIN }
    }

    const fn burst(&self) -> i64 {
        self.per_second as i64 * 2_000
    }

    /// Takes `events`, or says after how many seconds they may come. More events than the bucket holds need a full one,
    /// and the rest is owed.
    pub(super) fn take(&mut self, events: usize, now: Millis) -> Result<(), u64> {
        // One event a second is a thousandth a millisecond.
        let passed = now.saturating_sub(self.filled_at).max(0);
        let gained = passed.saturating_mul(i64::from(self.per_second));
        self.left = self.left.saturating_add(gained).min(self.burst());
        self.filled_at = now;
        let wanted = i64::try_from(events).unwrap_or(i64::MAX).saturating_mul(1_000);
        let missing = wanted.min(self.burst()) - self.left;
        if missing > 0 {
            let per_second = u64::from(self.per_second) * 1_000;
            return Err(missing.unsigned_abs().div_ceil(per_second.max(1)).max(1));
        }
        self.left = self.left.saturating_sub(wanted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_send_so_many_a_second_and_twice_as_many_at_once() {
        let mut bucket = Bucket::new(10);
        assert_eq!(bucket.take(20, 0), Ok(()));
        assert_eq!(bucket.take(1, 0), Err(1));
        assert_eq!(bucket.take(1, 99), Err(1));
        assert_eq!(bucket.take(1, 100), Ok(()));
        assert_eq!(bucket.take(15, 100), Err(2));
        assert_eq!(bucket.take(20, 2_100), Ok(()));
        // A clock that goes back gives nothing and takes nothing.
        assert_eq!(bucket.take(1, 0), Err(1));
    }

    #[test]
    fn a_batch_that_is_larger_than_the_bucket_is_owed() {
        let mut bucket = Bucket::new(10);
        assert_eq!(bucket.take(100, 0), Ok(()));
        assert_eq!(bucket.take(1, 8_000), Err(1));
        assert_eq!(bucket.take(1, 8_100), Ok(()));
        assert_eq!(bucket.take(100, 8_200), Err(2));
    }
}
