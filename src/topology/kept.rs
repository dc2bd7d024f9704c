//! What a plan keeps about entities, by name: so that a plan which comes while others run can tell what it finds there
//! from what begins with it.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::windows_fit;
use super::{Plan, TooMany};
use crate::event::Millis;

impl Plan {
    /// One name for everything that is kept in windows: its kind of entity and its length. Two plans that share a name
    /// share what was heard under it.
    #[must_use]
    pub fn kept(&self) -> BTreeSet<Box<str>> {
        let kinds = [
            ("address", &self.address_windows),
            ("network", &self.network_windows),
            ("account", &self.account_windows),
        ];
        kinds.into_iter().flat_map(|(per, all)| all.iter().map(move |over| name(per, *over))).collect()
    }

    /// Keeps what another plan keeps as well, whoever needs it here: that plan is to come back.
    ///
    /// # Errors
    /// [`TooMany`] windows together.
    pub fn keep_also(&mut self, other: &Plan) -> Result<(), TooMany> {
        let unite = |per, own: &mut Vec<Millis>, others: &[Millis]| {
            own.extend_from_slice(others);
            own.sort_unstable();
            own.dedup();
            windows_fit(per, own)
        };
        unite("address", &mut self.address_windows, &other.address_windows)?;
        unite("network", &mut self.network_windows, &other.network_windows)?;
        unite("account", &mut self.account_windows, &other.account_windows)?;
        self.network_sources |= other.network_sources;
        self.entry_memory_ms = self.entry_memory_ms.max(other.entry_memory_ms);
        self.success_once_ms = self.success_once_ms.max(other.success_once_ms);
        Ok(())
    }

    /// Tells each playbook since when what it looks at is kept. What is not named is kept for as long as there is state.
    pub fn begin(&mut self, since: &BTreeMap<Box<str>, Millis>) {
        let lists = [("address", &self.address), ("network", &self.network), ("account", &self.account)];
        let all = lists.into_iter().flat_map(|(per, list)| list.iter().map(move |p| (&p.id, name(per, p.over))));
        let young = all.filter_map(|(id, kept)| Some((id.as_str().into(), *since.get(&kept)?)));
        self.since = young.collect();
    }
}

fn name(per: &str, over: Millis) -> Box<str> {
    format!("{per} {over}").into()
}
