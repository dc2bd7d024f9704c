//! What a plan keeps about entities, by name: so that a plan which comes while others run can tell what it finds there
//! from what begins with it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Measure, Per, Plan, Playbook, Set, TooMany, Watched, Window};
use crate::event::Millis;

impl Plan {
    /// The kinds of entities that windows are kept about.
    fn kinds(&self) -> impl Iterator<Item = (Per, &Watched)> {
        let own = [
            (Per::Address, &self.address),
            (Per::Network, &self.network),
            (Per::Account, &self.account),
            (Per::Device, &self.device),
            (Per::Pair, &self.pair),
        ];
        own.into_iter().chain(self.traits.iter().map(|(per, watched)| (*per, watched)))
    }

    fn kinds_mut(&mut self) -> impl Iterator<Item = (Per, &mut Watched)> {
        let own = [
            (Per::Address, &mut self.address),
            (Per::Network, &mut self.network),
            (Per::Account, &mut self.account),
            (Per::Device, &mut self.device),
            (Per::Pair, &mut self.pair),
        ];
        own.into_iter().chain(self.traits.iter_mut().map(|(per, watched)| (*per, watched)))
    }

    /// One name for everything that is counted in windows: its kind of entity, its window and what it is. Two plans that
    /// share a name share what was heard under it.
    #[must_use]
    pub fn kept(&self) -> BTreeSet<Box<str>> {
        self.kinds().flat_map(|(per, of)| of.windows.iter().flat_map(move |window| of.names_of(per, window))).collect()
    }

    /// Keeps what another plan keeps as well, whoever needs it here: that plan is to come back.
    ///
    /// # Errors
    /// [`TooMany`] windows together.
    pub fn keep_also(&mut self, other: &Plan) -> Result<(), TooMany> {
        for (per, _) in &other.traits {
            if !self.traits.iter().any(|(held, _)| held == per) {
                self.traits.push((*per, Watched::default()));
            }
        }
        self.traits.sort_by_key(|(per, _)| *per);
        for (per, others) in other.kinds() {
            if let Some((_, own)) = self.kinds_mut().find(|(held, _)| *held == per) {
                own.keep_also(others);
                own.check(per.as_str())?;
            }
        }
        self.entry_memory_ms = self.entry_memory_ms.max(other.entry_memory_ms);
        self.success_once_ms = self.success_once_ms.max(other.success_once_ms);
        Ok(())
    }

    /// Tells each playbook since when what it looks at is kept. What is not named is kept for as long as there is state.
    pub fn begin(&mut self, since: &BTreeMap<Box<str>, Millis>) {
        for (per, of) in self.kinds_mut() {
            let Watched { watches, windows, .. } = of;
            for watch in watches {
                let Some(window) = windows.get(watch.window) else { continue };
                let names = needed_by(&watch.playbook).map(|part| name(per, window, part));
                watch.since = names.filter_map(|name| since.get(&name).copied()).max().unwrap_or(Millis::MIN);
            }
        }
    }
}

impl Watched {
    fn names_of<'a>(&'a self, per: Per, window: &'a Window) -> impl Iterator<Item = Box<str>> + 'a {
        let more = window.counts_more.then_some(Part::More);
        let successes = self.counts_successes.then_some(Part::Successes);
        let parts = [Part::Failures].into_iter().chain(more).chain(successes);
        parts.chain(window.sets.iter().map(|set| Part::Set(*set))).map(move |part| name(per, window, part))
    }

    fn keep_also(&mut self, other: &Watched) {
        for window in &other.windows {
            match self.windows.iter_mut().find(|own| own.over_ms == window.over_ms && own.id == window.id) {
                Some(own) => {
                    own.sets.extend_from_slice(&window.sets);
                    own.sets.sort_unstable();
                    own.sets.dedup();
                    own.counts_more |= window.counts_more;
                }
                None => self.windows.push(window.clone()),
            }
        }
        self.at_request |= other.at_request;
        self.looks_at_known |= other.looks_at_known;
        self.counts_successes |= other.counts_successes;
        self.over_max_ms = self.over_max_ms.max(other.over_max_ms);
    }
}

/// What of a window is counted only when somebody asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Always.
    Failures,
    Successes,
    /// Failures on nobody's names, and requests.
    More,
    Set(Set),
}

/// What of a window a playbook looks at.
fn needed_by(playbook: &Playbook) -> impl Iterator<Item = Part> + '_ {
    let of_measures = playbook.measures().flat_map(|measure| {
        let part = match measure {
            Measure::UnknownShare | Measure::Requests => Some(Part::More),
            Measure::Attempts | Measure::FailureShare | Measure::AccountsEntered => Some(Part::Successes),
            Measure::Failures
            | Measure::AccountsFailed
            | Measure::UnknownAccounts
            | Measure::AccountsAsked
            | Measure::Sources
            | Measure::Devices
            | Measure::UserAgents
            | Measure::TlsFingerprints
            | Measure::Countries
            | Measure::Asns
            | Measure::PasswordTags
            | Measure::AddressesBlocked
            | Measure::GoodAccounts
            | Measure::SeenFor
            | Measure::IdleFor
            | Measure::SiteShare => None,
        };
        part.into_iter().chain(measure.set().map(Part::Set))
    });
    [Part::Failures].into_iter().chain(of_measures)
}

fn name(per: Per, window: &Window, part: Part) -> Box<str> {
    let part = match part {
        Part::Failures => "failures".to_owned(),
        Part::Successes => "successes".to_owned(),
        Part::More => "more".to_owned(),
        Part::Set(set) => format!("set {}", set as u8),
    };
    format!("{} {} {} {part}", per.as_str(), window.over_ms, window.id).into()
}
