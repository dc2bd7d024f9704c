//! Detectors: pure functions from what is remembered to a finding. One file each. A finding says what was seen and
//! why; what to do about it is `decide`'s.

mod campaign;
mod compromise;
mod posterior;
mod proxy;
mod run_length;
mod surge;
mod threshold;
mod usual;

use std::collections::BTreeMap;

pub use campaign::{BadToGood, Campaign, CampaignBounds, Reference, Tried};
pub use compromise::{Sign, SourceFacts, SuccessFacts, stranger_success};
pub use posterior::{Deed, Evidence, ODDS_MAX, Standpoint, posterior};
pub use proxy::{CARRIED_MIN, CARRIED_OVER_MS, CARRIED_SHARE, Carried, proxy};
pub use run_length::{BetaBinomial, alarm_level, run_length};
pub use surge::{
    Feature, Profile, Seen, Surging, TRAITS_MAX, Values, When, entered_bad_to_good, is_intruder, surging, weight_of,
};
pub use threshold::{Measures, look};
pub use usual::{HOURS, Moments, Rate, hour_of_week};

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
    /// What speaks for it and against it, where a detector adds up evidence: logarithms of odds.
    pub contributions: BTreeMap<String, f64>,
}
