//! Failures over the whole site far above the usual: the plain site detector.
//!
//! It compares the last minute with a slow baseline that does not learn while anything stands out. What is refused
//! because its source is blocked counts as if it had failed, or good blocks would hide the attack from whoever must be
//! told of it. What is stopped for another reason does not: challenges are there because of the state, and must not
//! keep it up by raising it. Known gap: attacks of less than the surge factor; sequential change detection takes its
//! place.

use std::collections::BTreeMap;

use super::Found;
use crate::event::{AttackState, Millis};

/// What must hold at once for a state. Bad attempts are failures and refused ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurgeBound {
    /// Bad attempts in the minute.
    pub failures: f64,
    /// The same as a multiple of the usual failures.
    pub times_usual: f64,
    /// Share of bad attempts among those that were checked or refused, were all of them failures. It keeps an outage or
    /// a broken release, in which people fail, from being taken for an attack; what is refused comes from sources that
    /// were judged one by one, so the bound shrinks with the part of failures among the bad.
    pub share: f64,
    /// By how much that share must lie above the usual one of failures.
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
    /// By how much their share of all attempts must lie above the usual one of failures, once that is learnt: one in ten
    /// may give up at a challenge, which is many at a large site, and must not keep it on by that.
    pub stopped_share_above_usual: f64,
}

impl Default for SurgeBounds {
    fn default() -> Self {
        SurgeBounds {
            elevated: SurgeBound { failures: 60.0, times_usual: 3.0, share: 0.4, share_above_usual: 0.1 },
            attack: SurgeBound { failures: 120.0, times_usual: 5.0, share: 0.5, share_above_usual: 0.2 },
            usual_floor: 20.0,
            usual_share_unlearnt: 0.5,
            stopped: 30.0,
            stopped_share_above_usual: 0.2,
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
    /// Blocked or challenged before the password was checked.
    pub stopped: f64,
    /// Refused because their source is blocked; of one source hardly more than one a second.
    pub refused: f64,
    /// `None` while too little was learnt.
    pub usual: Option<Usual>,
    pub window_start: Millis,
    pub window_end: Millis,
}

impl SiteFigures {
    /// Failures over checked attempts; 0 when there were none.
    #[must_use]
    pub fn failure_share(&self) -> f64 {
        share(self.failures, self.attempts)
    }

    /// Bad attempts: failures and refused.
    fn bad(&self) -> f64 {
        self.failures + self.refused
    }

    /// Bad attempts over those that were checked or refused; 0 when there were none.
    fn bad_share(&self) -> f64 {
        share(self.bad(), self.attempts + self.refused)
    }

    /// Whether so many are stopped that somebody must be at work.
    fn stopped_stand_out(&self, bounds: &SurgeBounds) -> bool {
        let share = share(self.stopped, self.attempts + self.stopped);
        let share_min = self.usual.map_or(0.0, |usual| (usual.share + bounds.stopped_share_above_usual).min(1.0));
        self.stopped >= bounds.stopped && share >= share_min
    }
}

fn share(part: f64, of: f64) -> f64 {
    if of > 0.0 { part / of } else { 0.0 }
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
    let (bad, share) = (figures.bad(), figures.bad_share());
    let times = bad / usual;
    let failed_part = if bad > 0.0 { figures.failures / bad } else { 1.0 };
    let share_min =
        |bound: &SurgeBound| (bound.share * failed_part).max(usual_share + bound.share_above_usual).min(1.0);
    let over = |bound: &SurgeBound| bad >= bound.failures && share >= share_min(bound) && times >= bound.times_usual;
    let state = if over(&bounds.attack) {
        AttackState::Attack
    } else if over(&bounds.elevated) {
        AttackState::Elevated
    } else {
        AttackState::Calm
    };
    let bad_min = bounds.attack.failures.max(bounds.attack.times_usual * usual);
    let usually = figures.usual.map_or_else(
        || "what is usual is not learnt yet".to_owned(),
        |learnt| format!("usually {:.0} and {:.0} %", learnt.failures, learnt.share * 100.0),
    );
    let refused = match figures.refused {
        refused if refused > 0.0 => format!(" and {refused:.0} were refused at blocked sources"),
        _ => String::new(),
    };
    let found = Found {
        measures: BTreeMap::from([
            ("failures_per_minute".to_owned(), figures.failures),
            ("refused_per_minute".to_owned(), figures.refused),
            ("bad_per_minute".to_owned(), bad),
            ("bad_per_minute.threshold".to_owned(), bad_min),
            ("bad_share".to_owned(), share),
            ("bad_share.threshold".to_owned(), share_min(&bounds.attack)),
        ]),
        explanation: format!(
            "{:.0} logins failed{refused} within a minute, {:.0} % of all; {usually}.",
            figures.failures,
            share * 100.0
        ),
        window_start: figures.window_start,
        window_end: figures.window_end,
    };
    SurgeJudgement { state, quiet: state == AttackState::Calm && !figures.stopped_stand_out(bounds), found }
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
        // Of six hundred logins a minute some give up at a challenge.
        figures = SiteFigures { attempts: 600.0, failures: 60.0, usual: USUAL, ..figures };
        figures.stopped = 257.0;
        assert!(judge_surge(&figures, &bounds).quiet);
        figures.stopped = 258.0;
        assert!(!judge_surge(&figures, &bounds).quiet);
        // Where nothing is known to be usual, thirty are thirty.
        figures = SiteFigures { usual: None, stopped: 30.0, ..figures };
        assert!(!judge_surge(&figures, &bounds).quiet);
    }

    const USUAL: Option<Usual> = Some(Usual { failures: 60.0, share: 0.1 });

    #[test]
    fn what_blocked_sources_are_refused_counts_as_failed_and_a_challenge_does_not() {
        use AttackState::{Attack, Calm, Elevated};
        let ordinary = SiteFigures { attempts: 600.0, failures: 60.0, usual: USUAL, ..SiteFigures::default() };
        let check = |stopped: f64, refused: f64, state: AttackState| {
            let figures = SiteFigures { stopped, refused, ..ordinary };
            assert_eq!(judge_surge(&figures, &SurgeBounds::default()).state, state, "{figures:?}");
        };
        check(10_000.0, 0.0, Calm);
        // Three and five times the usual sixty, together with the sixty that failed.
        check(119.0, 119.0, Calm);
        check(120.0, 120.0, Elevated);
        check(239.0, 239.0, Elevated);
        check(240.0, 240.0, Attack);
        // So many are a trifle where ten times as many log in.
        let large = SiteFigures { attempts: 6_000.0, refused: 240.0, stopped: 240.0, ..ordinary };
        assert_eq!(judge_surge(&large, &SurgeBounds::default()).state, Calm);
    }
}
