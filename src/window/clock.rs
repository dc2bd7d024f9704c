//! Stream time, and whether an attempt came in time.

use serde::{Deserialize, Serialize};

use crate::event::Millis;

/// The highest arrival time a task has seen. It never goes back, and no publisher's clock moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamClock(Millis);

impl Default for StreamClock {
    fn default() -> Self {
        StreamClock(Millis::MIN)
    }
}

impl StreamClock {
    /// Takes note of an arrival and gives stream time.
    pub fn advance(&mut self, arrived_at: Millis) -> Millis {
        self.0 = self.0.max(arrived_at);
        self.0
    }

    #[must_use]
    pub const fn now(self) -> Millis {
        self.0
    }
}

/// How much delay between event and arrival is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Beyond it an attempt enters no window. Default 5 min.
    pub grace_ms: Millis,
    /// Beyond it an attempt causes no new block. Default 60 s.
    pub enforcement_ms: Millis,
}

/// A property of one attempt alone: never of backlog, never of other events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeliness {
    Fresh,
    /// Counted, but too old to block anybody for.
    Stale,
    /// Outside the grace: enters no window.
    Late,
}

impl Timing {
    /// Judges a delay (arrival minus event time, in milliseconds).
    #[must_use]
    pub const fn judge(self, delay_ms: Millis) -> Timeliness {
        if delay_ms > self.grace_ms {
            Timeliness::Late
        } else if delay_ms > self.enforcement_ms {
            Timeliness::Stale
        } else {
            Timeliness::Fresh
        }
    }
}
