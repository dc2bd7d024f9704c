//! Playbooks compiled for the hot path: who watches which entity, and which windows must be kept for that.

use super::{Detector, FailuresOf, Filter, Measure, Moment, Per, Playbook, PlaybookMode, Set};
use crate::event::{Attempt, Millis};

/// Most distinct windows per kind of entity: each costs a ring of slices in every row.
pub const WINDOWS_MAX: usize = 8;

/// One window that is kept about each entity of a kind, for all playbooks that share length and `where`.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub over_ms: Millis,
    /// Which attempts it hears; `None`: all logins.
    pub filter: Option<Filter>,
    /// What tells windows of one length apart in a row: 0 without a filter, otherwise a hash of it and of whose failures
    /// count.
    pub id: u32,
    pub failures_of: FailuresOf,
    /// What is counted of it besides attempts and failures.
    pub sets: Vec<Set>,
    /// Failures on nobody's names, and requests, are counted too.
    pub counts_more: bool,
}

impl Window {
    /// Whether it hears an attempt at all.
    #[must_use]
    pub fn takes(&self, a: &Attempt) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.takes(a))
    }
}

/// A playbook that watches entities of a kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    pub playbook: Playbook,
    /// Its window, in the list of its kind.
    pub window: usize,
    /// At which moments it can fire, a bit each.
    moments: u8,
    /// Stream time since which all that it looks at is kept, see [`Plan::begin`]; `Millis::MIN`: as long as there is state.
    pub since: Millis,
}

impl Watch {
    /// The playbook's id, when it has a cap.
    #[must_use]
    pub fn capped(&self) -> Option<&str> {
        self.playbook.then.cap.map(|_| self.playbook.id.as_str())
    }

    /// Whether it can fire at such an attempt.
    #[must_use]
    pub const fn fires_at(&self, moment: Moment) -> bool {
        self.moments & (1 << moment as u8) != 0
    }
}

/// All that is watched about one kind of entity.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    pub watches: Vec<Watch>,
    pub windows: Vec<Window>,
    /// Whether one of them can fire at a request.
    pub at_request: bool,
    /// Whether one of them looks at known pairs.
    pub looks_at_known: bool,
    /// Whether one of them counts successes: a share of failures, all attempts, accounts entered.
    pub counts_successes: bool,
    /// The longest window.
    pub over_max_ms: Millis,
}

impl Watched {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Whether a window counts this set.
    #[must_use]
    pub fn counts(&self, set: Set) -> bool {
        self.windows.iter().any(|window| window.sets.contains(&set))
    }

    fn add(&mut self, playbook: &Playbook) {
        let filter = playbook.only.as_ref().map(Filter::compile);
        let id = match (&filter, playbook.failures_of) {
            (None, FailuresOf::Strangers | FailuresOf::Everybody) => 0,
            (filter, failures_of) => fold(&format!("{filter:?} {failures_of:?}")),
        };
        let place = self.windows.iter().position(|window| window.over_ms == playbook.over && window.id == id);
        let window = place.unwrap_or_else(|| {
            self.windows.push(Window {
                over_ms: playbook.over,
                filter,
                id,
                failures_of: playbook.failures_of,
                sets: Vec::new(),
                counts_more: false,
            });
            self.windows.len() - 1
        });
        if let Some(kept) = self.windows.get_mut(window) {
            kept.sets.extend(playbook.measures().filter_map(Measure::set));
            kept.sets.sort_unstable();
            kept.sets.dedup();
            kept.counts_more |= playbook.measures().any(|m| matches!(m, Measure::UnknownShare | Measure::Requests));
        }
        self.looks_at_known |= playbook.failures_of == FailuresOf::KnownPairs;
        self.at_request |= playbook.fires_at(Moment::Request);
        let counts_successes = |m| matches!(m, Measure::Attempts | Measure::FailureShare | Measure::AccountsEntered);
        self.counts_successes |= playbook.measures().any(counts_successes);
        self.over_max_ms = self.over_max_ms.max(playbook.over);
        let moments = [Moment::Failure, Moment::Success, Moment::Request];
        let moments = moments.into_iter().filter(|moment| playbook.fires_at(*moment));
        let moments = moments.fold(0, |bits, moment| bits | 1 << moment as u8);
        self.watches.push(Watch { playbook: playbook.clone(), window, moments, since: Millis::MIN });
    }

    pub(super) fn check(&self, per: &'static str) -> Result<(), TooMany> {
        let count = self.windows.len();
        if count > WINDOWS_MAX { Err(TooMany { per, count }) } else { Ok(()) }
    }
}

/// 32 bits of FNV-1a: tells some windows of one row apart. Two that fell together would share a window of one length, and with it what either of them hears.
fn fold(text: &str) -> u32 {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

/// The compiled set; playbooks that are off are left out.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub address: Watched,
    pub network: Watched,
    pub account: Watched,
    pub device: Watched,
    pub pair: Watched,
    /// What the site stage watches, in the order of [`Per::TRAITS`].
    pub traits: Vec<(Per, Watched)>,
    pub compromise: Vec<Playbook>,
    pub campaign: Vec<Playbook>,
    pub posterior: Vec<Playbook>,
    pub proxy: Vec<Playbook>,
    pub tripwire: Vec<Playbook>,
    /// How far back the compromise playbooks look when a source is identified, in milliseconds.
    pub entry_memory_ms: Millis,
    /// Within this time the successes of one pair count once, in milliseconds: as long as entries are remembered, and no
    /// shorter than any window of sources and networks up to a quarter of an hour, or one account would fill a window with
    /// successes. Into longer windows it can bring one each quarter; what else is counted by this must not wait for a day.
    pub success_once_ms: Millis,
    /// Every playbook counts everybody's failures and nothing else: successes need not be passed on.
    pub failures_alone: bool,
}

/// Longest window that says how often a success counts.
const ONCE_MS_MAX: Millis = 15 * 60_000;

/// A kind of entity has too many windows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("playbooks per {per} need {count} windows, by `over` and `where`; at most {WINDOWS_MAX}: let some share one")]
pub struct TooMany {
    pub per: &'static str,
    pub count: usize,
}

impl Plan {
    fn traits_of(&mut self, per: Per) -> &mut Watched {
        let place = self.traits.iter().position(|(held, _)| *held == per).unwrap_or_else(|| {
            self.traits.push((per, Watched::default()));
            self.traits.len() - 1
        });
        &mut self.traits[place].1
    }

    /// Compiles checked playbooks, in the order of their ids.
    ///
    /// # Errors
    /// [`TooMany`] windows.
    pub fn compile(playbooks: &[Playbook]) -> Result<Plan, TooMany> {
        let mut sorted: Vec<&Playbook> = playbooks.iter().filter(|p| p.mode != PlaybookMode::Off).collect();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let mut plan = Plan::default();
        for playbook in sorted {
            match (playbook.detector, playbook.per) {
                (Detector::Compromise, _) => plan.compromise.push(playbook.clone()),
                (Detector::Campaign, _) => plan.campaign.push(playbook.clone()),
                (Detector::Posterior, _) => plan.posterior.push(playbook.clone()),
                (Detector::Proxy, _) => plan.proxy.push(playbook.clone()),
                (Detector::Tripwire, _) => plan.tripwire.push(playbook.clone()),
                (Detector::Threshold, Per::Address) => plan.address.add(playbook),
                (Detector::Threshold, Per::Network) => plan.network.add(playbook),
                (Detector::Threshold, Per::Account) => plan.account.add(playbook),
                (Detector::Threshold, Per::Device) => plan.device.add(playbook),
                (Detector::Threshold, Per::Pair) => plan.pair.add(playbook),
                (Detector::Threshold, Per::Asn | Per::Country | Per::UserAgent | Per::TlsFingerprint) => {
                    plan.traits_of(playbook.per).add(playbook);
                }
                (Detector::Threshold, Per::Tenant) => {}
            }
        }
        let kinds = [
            ("address", &plan.address),
            ("network", &plan.network),
            ("account", &plan.account),
            ("device", &plan.device),
            ("pair", &plan.pair),
        ];
        kinds.iter().try_for_each(|(per, watched)| watched.check(per))?;
        plan.traits.sort_by_key(|(per, _)| *per);
        plan.traits.iter().try_for_each(|(per, watched)| watched.check(per.as_str()))?;
        plan.entry_memory_ms = plan.compromise.iter().map(|p| p.over).max().unwrap_or_default();
        let longest = plan.address.over_max_ms.max(plan.network.over_max_ms);
        plan.success_once_ms = plan.entry_memory_ms.max(longest.min(ONCE_MS_MAX)).max(1);
        let mut all = playbooks.iter().filter(|p| p.mode != PlaybookMode::Off).peekable();
        plan.failures_alone = all.peek().is_some() && all.all(|p| p.failures_of == FailuresOf::Everybody);
        Ok(plan)
    }
}
