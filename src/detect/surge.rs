//! Failures over the whole site far above the usual: the plain site detector.
//!
//! It compares the last minute with a slow baseline that does not learn while anything stands out. Known gap: attacks
//! of less than the surge factor; sequential change detection takes its place.

use super::Found;
use crate::event::{AttackState, Millis};
use std::collections::BTreeMap;

/// Bounds of the surge detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurgeBounds {
    /// Failures in the minute, share of failures among checked attempts, times the usual failures a minute.
    pub elevated: (f64, f64, f64),
    pub attack: (f64, f64, f64),
    /// What counts as usual before anything was learnt: failures a minute.
    pub usual_floor: f64,
    /// Stopped attempts a minute that still stand out.
    pub stopped: f64,
}

impl Default for SurgeBounds {
    fn default() -> Self {
        SurgeBounds { elevated: (60.0, 0.4, 3.0), attack: (120.0, 0.5, 5.0), usual_floor: 20.0, stopped: 30.0 }
    }
}

/// The last minute of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SiteFigures {
    pub attempts: f64,
    pub failures: f64,
    pub stopped: f64,
    /// Learnt failures a minute and failure share.
    pub usual_failures: f64,
    pub usual_share: f64,
    pub window_start: Millis,
    pub window_end: Millis,
}

impl SiteFigures {
    /// Failures over checked attempts; 0 when there were none.
    #[must_use]
    pub fn failure_share(&self) -> f64 {
        if self.attempts > 0.0 { self.failures / self.attempts } else { 0.0 }
    }
}

/// What the figures say.
#[derive(Debug, Clone, PartialEq)]
pub struct SurgeJudgement {
    pub state: AttackState,
    /// Neither failures nor stopped attempts stand out.
    pub quiet: bool,
    pub found: Found,
}

/// Judges a minute.
#[must_use]
pub fn judge_surge(figures: &SiteFigures, bounds: &SurgeBounds) -> SurgeJudgement {
    let usual = figures.usual_failures.max(bounds.usual_floor);
    let times = figures.failures / usual;
    let share = figures.failure_share();
    let over = |(failures, share_min, times_min): (f64, f64, f64)| {
        figures.failures >= failures && share >= share_min && times >= times_min
    };
    let state = if over(bounds.attack) {
        AttackState::Attack
    } else if over(bounds.elevated) {
        AttackState::Elevated
    } else {
        AttackState::Calm
    };
    let found = Found {
        measures: BTreeMap::from([
            ("failures_per_minute".to_owned(), figures.failures),
            ("failures_per_minute.threshold".to_owned(), bounds.attack.0.max(bounds.attack.2 * usual)),
            ("failure_share".to_owned(), share),
            ("failure_share.threshold".to_owned(), bounds.attack.1),
            ("times_usual".to_owned(), times),
            ("times_usual.threshold".to_owned(), bounds.attack.2),
        ]),
        explanation: format!(
            "{:.0} failed logins in a minute, {:.1} times the usual {usual:.0}; {:.0} % of attempts fail, usually {:.0} %.",
            figures.failures,
            times,
            share * 100.0,
            figures.usual_share * 100.0
        ),
        window_start: figures.window_start,
        window_end: figures.window_end,
    };
    SurgeJudgement { state, quiet: state == AttackState::Calm && figures.stopped < bounds.stopped, found }
}
