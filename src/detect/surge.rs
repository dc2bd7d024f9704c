//! Failures over the whole site far above the usual: the plain site detector.
//!
//! It compares the last minute with a slow baseline that does not learn while anything stands out. Known gap: attacks
//! of less than the surge factor; sequential change detection takes its place.

use std::collections::BTreeMap;

use super::Found;
use crate::event::{AttackState, Millis};

/// What must hold at once for a state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurgeBound {
    /// Failures in the minute.
    pub failures: f64,
    /// The same as a multiple of the usual.
    pub times_usual: f64,
    /// Share of failures among checked attempts.
    pub share: f64,
    /// By how much that share must lie above the usual one.
    pub share_above_usual: f64,
}

/// Bounds of the surge detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurgeBounds {
    pub elevated: SurgeBound,
    pub attack: SurgeBound,
    /// The least that counts as usual: failures a minute.
    pub usual_floor: f64,
    /// The share of failures taken for usual while nothing was learnt: a site where half of all logins fail is
    /// nothing strange (single sign-on, old clients).
    pub usual_share_unlearnt: f64,
    /// Stopped attempts a minute that still stand out.
    pub stopped: f64,
}

impl Default for SurgeBounds {
    fn default() -> Self {
        SurgeBounds {
            elevated: SurgeBound { failures: 60.0, times_usual: 3.0, share: 0.4, share_above_usual: 0.1 },
            attack: SurgeBound { failures: 120.0, times_usual: 5.0, share: 0.5, share_above_usual: 0.2 },
            usual_floor: 20.0,
            usual_share_unlearnt: 0.5,
            stopped: 30.0,
        }
    }
}

/// What is usual in a minute of a tenant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    pub failures: f64,
    pub share: f64,
}

/// The last minute of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SiteFigures {
    pub attempts: f64,
    pub failures: f64,
    pub stopped: f64,
    /// `None` while too little was learnt.
    pub usual: Option<Usual>,
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
    let usual = figures.usual.map_or(0.0, |usual| usual.failures).max(bounds.usual_floor);
    let usual_share = figures.usual.map_or(bounds.usual_share_unlearnt, |usual| usual.share);
    let times = figures.failures / usual;
    let share = figures.failure_share();
    let share_min = |bound: &SurgeBound| bound.share.max(usual_share + bound.share_above_usual).min(1.0);
    let over = |bound: &SurgeBound| {
        figures.failures >= bound.failures && share >= share_min(bound) && times >= bound.times_usual
    };
    let state = if over(&bounds.attack) {
        AttackState::Attack
    } else if over(&bounds.elevated) {
        AttackState::Elevated
    } else {
        AttackState::Calm
    };
    let failures_min = bounds.attack.failures.max(bounds.attack.times_usual * usual);
    let usually = figures.usual.map_or_else(
        || "what is usual is not learnt yet".to_owned(),
        |learnt| format!("usually {:.0} and {:.0} %", learnt.failures, learnt.share * 100.0),
    );
    let found = Found {
        measures: BTreeMap::from([
            ("failures_per_minute".to_owned(), figures.failures),
            ("failures_per_minute.threshold".to_owned(), failures_min),
            ("failure_share".to_owned(), share),
            ("failure_share.threshold".to_owned(), share_min(&bounds.attack)),
        ]),
        explanation: format!(
            "{:.0} logins failed within a minute, {:.0} % of all; {usually}.",
            figures.failures,
            share * 100.0
        ),
        window_start: figures.window_start,
        window_end: figures.window_end,
    };
    SurgeJudgement { state, quiet: state == AttackState::Calm && figures.stopped < bounds.stopped, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(attempts: f64, failures: f64, usual: Option<(f64, f64)>, state: AttackState) {
        let usual = usual.map(|(failures, share)| Usual { failures, share });
        let figures = SiteFigures { attempts, failures, usual, ..SiteFigures::default() };
        assert_eq!(judge_surge(&figures, &SurgeBounds::default()).state, state, "{figures:?}");
    }

    #[test]
    fn a_surge_is_many_failures_and_a_larger_share_of_them_than_usual() {
        use AttackState::{Attack, Calm, Elevated};
        let quiet_site = Some((5.0, 0.1));
        check(200.0, 120.0, quiet_site, Attack);
        check(200.0, 119.0, quiet_site, Elevated);
        check(1_000.0, 120.0, quiet_site, Calm);
        check(80.0, 59.0, quiet_site, Calm);
        // Large sites have many failures every minute, and some see half of their logins fail.
        check(10_000.0, 4_700.0, Some((900.0, 0.1)), Elevated);
        check(10_000.0, 5_000.0, Some((900.0, 0.1)), Attack);
        check(10_000.0, 5_000.0, Some((4_000.0, 0.47)), Calm);
        check(20_000.0, 9_400.0, Some((1_500.0, 0.47)), Calm);
        // Before anything was learnt, half of them failing is nothing strange.
        check(1_000.0, 550.0, None, Calm);
        check(1_000.0, 650.0, None, Elevated);
        check(1_000.0, 700.0, None, Attack);
    }

    #[test]
    fn stopped_attempts_keep_it_from_being_quiet() {
        let bounds = SurgeBounds::default();
        let mut figures = SiteFigures { stopped: bounds.stopped - 1.0, ..SiteFigures::default() };
        assert!(judge_surge(&figures, &bounds).quiet);
        figures.stopped += 1.0;
        assert!(!judge_surge(&figures, &bounds).quiet);
    }
}
