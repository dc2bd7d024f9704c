//! The network of the simulation: requests that come late, twice or not at all, and markers that take their time.

use portcullis::event::Millis;
use portcullis::log::model::{Passage, Request, Weather};

use super::simulation_dice::Dice;

/// How bad it is; drawn for each seed.
#[derive(Debug, Clone, Copy)]
pub struct Severity {
    /// One request in so many meets something.
    pub requests: u64,
    /// One marker in so many is late.
    pub markers: u64,
    /// One piece of news of the group in so many is.
    pub news: u64,
}

/// Until it clears up, which it does when the weather is replaced.
pub struct Storm {
    pub dice: Dice,
    pub severity: Severity,
}

impl Weather for Storm {
    fn passage(&mut self, _request: Request) -> Passage {
        if !self.dice.one_in(self.severity.requests) {
            return Passage::Through;
        }
        // Sooner than the next transaction, in its midst, or long after it.
        let after = match self.dice.below(3) {
            0 => self.dice.between(1, 20),
            1 => self.dice.between(20, 200),
            _ => self.dice.between(200, 1_500),
        };
        match self.dice.below(5) {
            0 => Passage::AnswerLost,
            1 => Passage::Lost,
            2 => Passage::Repeated { after },
            _ => Passage::Late { after },
        }
    }

    fn marker_delay(&mut self) -> Millis {
        if self.dice.one_in(self.severity.markers) { self.dice.between(1, 300) } else { 0 }
    }

    fn hears_late(&mut self) -> bool {
        self.dice.one_in(self.severity.news)
    }
}
