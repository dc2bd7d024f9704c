//! Detectors: pure functions from what is remembered to a finding. One file each. A finding says what was seen and
//! why; what to do about it is `decide`'s.

mod compromise;
mod proxy;
mod surge;
mod threshold;

use std::collections::BTreeMap;

pub use compromise::{SourceFacts, SuccessFacts, stranger_success};
pub use proxy::{CARRIED_MIN, CARRIED_OVER_MS, CARRIED_SHARE, Carried, proxy};
pub use surge::{SiteFigures, SurgeBound, SurgeBounds, SurgeJudgement, Usual, judge_surge};
pub use threshold::{Measures, look};

use crate::event::Millis;

/// What a detector saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The numbers compared, by name, and their thresholds as `<name>.threshold`.
    pub measures: BTreeMap<String, f64>,
    /// One sentence, from the live numbers.
    pub explanation: String,
    pub window_start: Millis,
    pub window_end: Millis,
}
