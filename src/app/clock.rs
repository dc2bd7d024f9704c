//! The only clock of a process. It has a start and a speed, so that the demo can live a night in a minute; producing,
//! stages and sinks all go by it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crate::event::Millis;
use crate::log::Clock;

/// Process time and elapsed time. Clones are one clock.
#[derive(Debug, Clone)]
pub struct ProcessClock {
    made: Instant,
    started: Arc<OnceLock<Instant>>,
    origin: Millis,
    speed: u32,
}

impl ProcessClock {
    /// The world's time.
    #[must_use]
    pub fn real() -> Self {
        let since_epoch = system_now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = ProcessClock::stopped(i64::try_from(since_epoch.as_millis()).unwrap_or(Millis::MAX), 1);
        clock.start();
        clock
    }

    /// A time that stands at `origin` until it is started, and then passes `speed` times as fast as the world's.
    #[must_use]
    pub fn stopped(origin: Millis, speed: u32) -> Self {
        ProcessClock { made: instant_now(), started: Arc::default(), origin, speed: speed.max(1) }
    }

    /// Lets time pass from here on; it does not start twice.
    pub fn start(&self) {
        self.started.get_or_init(instant_now);
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
        let passed = self.started.get().map_or(0, |started| started.elapsed().as_micros());
        let passed = passed.saturating_mul(u128::from(self.speed)) / 1_000;
        self.origin.saturating_add(i64::try_from(passed).unwrap_or(Millis::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.made.elapsed()
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
