//! The only clock of a process. It has a start and a speed, so that the demo can live a night in a minute; producing,
//! stages and sinks all go by it.

use std::time::{Duration, Instant, SystemTime};

use crate::event::Millis;
use crate::log::Clock;

/// Process time and elapsed time.
#[derive(Debug, Clone, Copy)]
pub struct ProcessClock {
    started: Instant,
    origin: Millis,
    speed: u32,
}

impl ProcessClock {
    /// The world's time.
    #[must_use]
    pub fn real() -> Self {
        let since_epoch = system_now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ProcessClock::at(i64::try_from(since_epoch.as_millis()).unwrap_or(Millis::MAX), 1)
    }

    /// A time that begins at `origin` now, and passes `speed` times as fast as the world's.
    #[must_use]
    pub fn at(origin: Millis, speed: u32) -> Self {
        ProcessClock { started: instant_now(), origin, speed: speed.max(1) }
    }

    /// How long to wait in the world until process time `at`; nothing when it has passed.
    #[must_use]
    pub fn wait_for(&self, at: Millis) -> Duration {
        let ahead = u64::try_from(at.saturating_sub(self.now())).unwrap_or(0);
        Duration::from_micros(ahead.saturating_mul(1_000) / u64::from(self.speed))
    }
}

impl Clock for ProcessClock {
    fn now(&self) -> Millis {
        let passed = self.started.elapsed().as_micros().saturating_mul(u128::from(self.speed)) / 1_000;
        self.origin.saturating_add(i64::try_from(passed).unwrap_or(Millis::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one clock of the process")]
fn system_now() -> SystemTime {
    SystemTime::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the one clock of the process")]
fn instant_now() -> Instant {
    Instant::now()
}
