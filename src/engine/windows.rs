//! Windows of one entity: what an attempt is to each of them, and what the playbooks are shown.

use crate::event::{Activity, Attempt, Millis};
use crate::topology::{FailuresOf, Moment, Set, Watch, Watched, Window};
use crate::window::{Hashed, Heard, Kind, Tally, memory_ms};

/// What one attempt is to those who count: to those who look at strangers, and to those who look at known pairs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) strangers: Option<Kind>,
    pub(super) known: Option<Kind>,
}

impl Counts {
    /// `fails`: a stranger's failure that is no repeat. `strange`: whoever it was, the pair is not known.
    pub(super) fn of(a: &Attempt, fails: bool, strange: bool, watched: &Watched) -> Counts {
        let unknown = a.is_unknown_account();
        let failed = Kind::Failed { unknown };
        if a.activity != Activity::Login {
            return Counts { strangers: Some(Kind::Asked), known: None };
        }
        Counts {
            strangers: match (fails, a.is_success()) {
                (true, _) => Some(failed),
                (false, true) => Some(Kind::Succeeded { strange }),
                (false, false) => None,
            },
            known: match (strange || !watched.looks_at_known, a.is_failure(), a.is_success()) {
                (false, true, _) => Some(failed),
                (false, _, true) => Some(Kind::Succeeded { strange }),
                (_, _, _) => None,
            },
        }
    }

    /// The playbooks that this may make fire, each with its window.
    pub(super) fn asks<'a>(self, watched: &'a Watched, a: &'a Attempt) -> impl Iterator<Item = &'a Watch> + use<'a> {
        let fires = move |(watch, window): &(&Watch, &Window)| {
            self.to(window.failures_of).and_then(moment).is_some_and(|moment| watch.fires_at(moment))
        };
        let with_window = watched.watches.iter().filter_map(|watch| Some((watch, watched.windows.get(watch.window)?)));
        with_window.filter(fires).filter(move |(_, window)| window.takes(a)).map(|(watch, _)| watch)
    }

    /// Whether a window counts such an attempt, as far as its kind tells.
    pub(super) fn count_for(self, watched: &Watched) -> bool {
        watched.windows.iter().any(|window| match self.to(window.failures_of) {
            Some(Kind::Failed { .. }) => true,
            Some(Kind::Succeeded { .. }) => watched.counts_successes,
            Some(Kind::Asked) => watched.at_request,
            None => false,
        })
    }

    fn to(self, failures_of: FailuresOf) -> Option<Kind> {
        match failures_of {
            FailuresOf::Strangers | FailuresOf::Everybody => self.strangers,
            FailuresOf::KnownPairs => self.known,
        }
    }
}

/// At which moment of playbooks this is.
fn moment(kind: Kind) -> Option<Moment> {
    match kind {
        Kind::Failed { .. } => Some(Moment::Failure),
        Kind::Succeeded { strange } => strange.then_some(Moment::Success),
        Kind::Asked => Some(Moment::Request),
    }
}

/// Counts into each window that takes the attempt, keeping only those that the playbooks ask for. `false`: none took it.
pub(super) fn hear(
    tallies: &mut Vec<Tally>,
    watched: &Watched,
    a: &Attempt,
    counts: Counts,
    member: &dyn Fn(Set) -> Option<Hashed>,
) -> bool {
    tallies.retain(|tally| watched.windows.iter().any(|window| tally.is_of(window)));
    let mut any = false;
    for window in &watched.windows {
        let Some(kind) = counts.to(window.failures_of) else { continue };
        // Without a filter a window hears logins; what else is asked for is heard by those that name it.
        if (window.filter.is_none() && kind == Kind::Asked) || !window.takes(a) {
            continue;
        }
        any = true;
        let heard = Heard { at: a.occurred_at, kind, member };
        match tallies.iter_mut().find(|tally| tally.is_of(window)) {
            Some(tally) => {
                tally.hear(window, &heard);
            }
            None => {
                let mut tally = Tally::new(window);
                tally.hear(window, &heard);
                tallies.push(tally);
            }
        }
    }
    any
}

/// The tally of a playbook's window.
pub(super) fn tally<'a>(tallies: &'a [Tally], watched: &Watched, watch: &Watch) -> Option<&'a Tally> {
    let window = watched.windows.get(watch.window)?;
    tallies.iter().find(|tally| tally.is_of(window))
}

/// How long after its last attempt an entity's windows can matter.
pub(super) fn kept_ms(watched: &Watched, grace_ms: Millis) -> Millis {
    if watched.is_empty() { 0 } else { memory_ms(watched.over_max_ms, grace_ms) }
}
