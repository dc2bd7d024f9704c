//! Playbooks compiled for the hot path: who watches which entity, and which windows must be kept for that.

use std::collections::BTreeMap;

use super::{Detector, FailuresOf, Measure, Per, Playbook, PlaybookMode};
use crate::event::Millis;

/// Most distinct window lengths per kind of entity: each costs a ring of slices in every row.
pub const WINDOWS_MAX: usize = 4;

/// The compiled set; playbooks that are off are left out.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub address: Vec<Playbook>,
    pub network: Vec<Playbook>,
    pub account: Vec<Playbook>,
    pub compromise: Vec<Playbook>,
    pub surge: Vec<Playbook>,
    pub proxy: Vec<Playbook>,
    /// Distinct lengths of the windows, ascending, per kind.
    pub address_windows: Vec<Millis>,
    pub network_windows: Vec<Millis>,
    pub account_windows: Vec<Millis>,
    /// Whether a playbook asks for the distinct sources of a network.
    pub network_sources: bool,
    /// How far back the compromise playbooks look when a source is identified, in milliseconds.
    pub entry_memory_ms: Millis,
    /// Within this time the successes of one pair count once, in milliseconds: as long as entries are remembered, and no
    /// shorter than any window of sources and networks, or one account would fill a window with successes.
    pub success_once_ms: Millis,
    /// Every playbook counts everybody's failures and nothing else: successes need not be passed on.
    pub failures_alone: bool,
    /// Playbooks whose window began while the task ran, with the stream time of that: until a window later they have not
    /// seen all that they look at.
    pub since: BTreeMap<Box<str>, Millis>,
}

/// A kind of entity has too many window lengths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("playbooks per {per} use {count} different `over`; at most {WINDOWS_MAX}: let some share one")]
pub struct TooMany {
    pub per: &'static str,
    pub count: usize,
}

impl Plan {
    /// Compiles checked playbooks, in the order of their ids.
    ///
    /// # Errors
    /// [`TooMany`] window lengths.
    pub fn compile(playbooks: &[Playbook]) -> Result<Plan, TooMany> {
        let mut sorted: Vec<&Playbook> = playbooks.iter().filter(|p| p.mode != PlaybookMode::Off).collect();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let mut plan = Plan::default();
        for playbook in sorted {
            let list = match (playbook.detector, playbook.per) {
                (Detector::Compromise, _) => &mut plan.compromise,
                (Detector::FailureSurge, _) => &mut plan.surge,
                (Detector::Proxy, _) => &mut plan.proxy,
                (Detector::Threshold, Per::Address) => &mut plan.address,
                (Detector::Threshold, Per::Network) => &mut plan.network,
                (Detector::Threshold, Per::Account) => &mut plan.account,
                (Detector::Threshold, Per::Tenant) => continue,
            };
            list.push(playbook.clone());
        }
        plan.address_windows = windows("address", &plan.address)?;
        plan.network_windows = windows("network", &plan.network)?;
        plan.account_windows = windows("account", &plan.account)?;
        plan.entry_memory_ms = plan.compromise.iter().map(|p| p.over).max().unwrap_or_default();
        let over_sources = plan.address_windows.iter().chain(&plan.network_windows);
        plan.success_once_ms = over_sources.copied().fold(plan.entry_memory_ms, Millis::max).max(1);
        let mut all = playbooks.iter().filter(|p| p.mode != PlaybookMode::Off).peekable();
        plan.failures_alone = all.peek().is_some() && all.all(|p| p.failures_of == FailuresOf::Everybody);
        plan.network_sources = plan.network.iter().any(|p| p.trigger.contains_key(&Measure::Sources));
        Ok(plan)
    }
}

fn windows(per: &'static str, playbooks: &[Playbook]) -> Result<Vec<Millis>, TooMany> {
    let mut all: Vec<Millis> = playbooks.iter().map(|p| p.over).collect();
    all.sort_unstable();
    all.dedup();
    windows_fit(per, &all).map(|()| all)
}

pub(super) fn windows_fit(per: &'static str, all: &[Millis]) -> Result<(), TooMany> {
    if all.len() > WINDOWS_MAX { Err(TooMany { per, count: all.len() }) } else { Ok(()) }
}
