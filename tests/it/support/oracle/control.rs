//! What marks told a task: the state of each tenant, and who is exempt.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::frames::{Change, Exemption, Mark, Source, State, Status};
use super::{Millis, Who};

#[derive(Debug, Default)]
pub struct Control {
    versions: BTreeMap<String, i64>,
    statuses: BTreeMap<String, Status>,
    exemptions: BTreeMap<String, Exemption>,
}

impl Control {
    /// Takes what is new in a mark and gives it back, in its order.
    pub fn take(&mut self, mark: &Mark) -> Vec<(String, i64)> {
        let mut news = Vec::new();
        for change in &mark.changes {
            if self.versions.get(&change.name()).is_some_and(|known| *known >= change.version()) {
                continue;
            }
            self.versions.insert(change.name(), change.version());
            news.push((change.name(), change.version()));
            match change.clone() {
                Change::Status { tenant, status: Some(status), .. } => {
                    self.statuses.insert(tenant, status);
                }
                Change::Status { tenant, status: None, .. } => {
                    self.statuses.remove(&tenant);
                }
                Change::Exemption { key, exemption: None, .. } => {
                    self.exemptions.remove(&key);
                }
                Change::Exemption { key, exemption: Some(exemption), .. } => {
                    let held = self.exemptions.get(&key);
                    if held.is_none_or(|held| held.generation <= exemption.generation) {
                        self.exemptions.insert(key, exemption);
                    }
                }
            }
        }
        news
    }

    /// CALM when nothing holds any more.
    pub fn state_of(&self, tenant: &str, now: Millis) -> (State, Option<String>) {
        match self.statuses.get(tenant) {
            Some(status) if status.expires_at > now => (status.state, status.incident_id.clone()),
            Some(_) | None => (State::Calm, None),
        }
    }

    fn holding(&self, tenant: &str, now: Millis) -> impl Iterator<Item = &Exemption> {
        self.exemptions
            .values()
            .filter(move |e| (e.tenant.is_empty() || e.tenant == tenant) && e.until.is_none_or(|until| until > now))
    }

    /// Whether an exempt address or range holds this source.
    pub fn spares_source(&self, tenant: &str, source: Source, now: Millis) -> bool {
        let Some(range) = range_of(&source.who(tenant)) else { return false };
        self.holding(tenant, now).any(|e| range_of_text(&e.value).is_some_and(|exempt| exempt.contains(&range)))
    }

    /// Whether restricting somebody would restrict somebody exempt: an exempt range holds it, or it holds one.
    pub fn spares(&self, who: &Who, now: Millis) -> bool {
        let Some(range) = range_of(who) else {
            return self.holding(&who.tenant, now).any(|e| e.scope == SCOPE_ACCOUNT && e.value == who.value);
        };
        self.holding(&who.tenant, now)
            .any(|e| range_of_text(&e.value).is_some_and(|exempt| exempt.contains(&range) || range.contains(&exempt)))
    }
}

/// Position of ACCOUNT in the contract's list of scopes.
const SCOPE_ACCOUNT: u32 = 5;

fn range_of(who: &Who) -> Option<IpNet> {
    if who.scope == "ACCOUNT" { None } else { range_of_text(&who.value) }
}

fn range_of_text(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
}
