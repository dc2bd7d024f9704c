//! The incident of a tenant: opened with what its last minutes saw, grown by partial sums, published now and then,
//! closed with the attack.

use std::collections::{BTreeMap, BTreeSet};

use super::details::counts;
use super::env::Env;
use super::frame::{Fallen, Partial};
use super::io::{Effects, Output};
use super::row::{MinuteSum, OpenIncident, Recent, SiteRow};
use crate::decide::verdict_id;
use crate::detect::Feature;
use crate::event::{
    AttackState, Compromise, Counted, DetailKind, Disposition, Entity, Incident, IncidentDetail, IncidentKind,
    IncidentState, Millis, Severity,
};
use crate::window::{Ever, SLICES, Tops};

/// An open incident is published again at most this often.
const EVERY_MS: Millis = 10_000;
/// Blocks and compromises this old still belong to an incident that opens now.
const RECENT_MS: Millis = 10 * 60_000;
/// The slices in which recent blocks are remembered.
const RECENT_SLICE_MS: Millis = RECENT_MS / SLICES;
/// Most compromised accounts listed in one incident; the others are counted.
const FALLEN_MAX: usize = 1_000;
/// Most playbooks named by one incident.
const PLAYBOOKS_MAX: usize = 64;
/// Length of a line of the timeline.
const MINUTE_MS: Millis = 60_000;
/// Most networks, countries and agents named by one incident, each.
const TOPS_MAX: usize = 10;

pub(super) fn open(env: &Env, tenant: &str, row: &mut SiteRow, now: Millis) {
    let last = row.minute.slice_of(now);
    let [attempts, failures, unknown, stopped, _, _] = row.minute.sums(last);
    let epoch = row.campaign.epoch();
    let recent = std::mem::take(&mut row.recent);
    let campaigns = env.plan.campaign.iter().map(|playbook| playbook.id.as_str().into());
    let sources = Ever::of_window(&recent.sources, last);
    let accounts = Ever::of_window(&recent.accounts, last);
    let blocked = Ever::of_window(&recent.blocked, now.div_euclid(RECENT_SLICE_MS));
    // An epoch may be longer than the minute that is remembered of everything else.
    let attempts = attempts.max(epoch.attempts).saturating_add(stopped);
    let (failures, unknown) = (failures.max(epoch.strangers), unknown.max(epoch.unknown));
    // What came before the timeline began stands in its first minute, so that its sums are those of the incident.
    let first = MinuteSum {
        attempts,
        failures,
        unknown,
        stopped,
        sources: sources.clone(),
        accounts: accounts.clone(),
        blocked: blocked.count(),
        fallen: recent.compromised.len() as u64,
        ..MinuteSum::new(now)
    };
    row.incident = Some(Box::new(OpenIncident {
        id: verdict_id(&Entity::tenant(tenant), "incident", "", now).into(),
        started_at: row.campaign.since().or_else(|| row.minute.begins(last)).unwrap_or(now),
        published_at: Millis::MIN,
        attempts,
        failures,
        unknown,
        stopped,
        sources,
        accounts,
        unknown_accounts: Ever::of_window(&recent.unknown_accounts, last),
        blocked,
        playbooks: campaigns.chain(recent.playbooks.into_keys()).collect::<BTreeSet<Box<str>>>(),
        compromised_count: recent.compromised.len() as u64,
        compromised: recent.compromised,
        asns: Tops::default(),
        countries: Tops::default(),
        user_agents: Tops::default(),
        changed: true,
        minutes: vec![first],
    }));
}

impl Recent {
    /// Adds sums of slice `slice` of the minute that ends with slice `last`.
    pub(super) fn merge(&mut self, env: &Env, partial: &Partial, slice: i64, last: i64, now: Millis) {
        for (into, from) in [
            (&mut self.sources, &partial.sources),
            (&mut self.accounts, &partial.accounts),
            (&mut self.unknown_accounts, &partial.unknown_accounts),
        ] {
            from.iter().for_each(|hashed| into.add(*hashed, slice, last));
        }
        let after = now.saturating_sub(RECENT_MS);
        self.playbooks.retain(|_, at| *at > after);
        self.compromised.retain(|fallen| fallen.flagged_at > after);
        for (entity, playbook) in &partial.blocked {
            let [slice, last] = [partial.at, now].map(|at| at.div_euclid(RECENT_SLICE_MS));
            self.blocked.add(env.entity(entity), slice, last);
            if self.playbooks.len() < PLAYBOOKS_MAX {
                self.playbooks.insert(playbook.clone(), now);
            }
        }
        let room = FALLEN_MAX.saturating_sub(self.compromised.len());
        self.compromised.extend(partial.compromised.iter().take(room).cloned());
    }
}

impl MinuteSum {
    /// The minute of this time.
    fn new(at: Millis) -> Self {
        MinuteSum {
            start: at.div_euclid(MINUTE_MS) * MINUTE_MS,
            attempts: 0,
            failures: 0,
            unknown: 0,
            stopped: 0,
            sources: Ever::default(),
            accounts: Ever::default(),
            blocked: 0,
            fallen: 0,
        }
    }

    fn merge(&mut self, partial: &Partial) {
        self.attempts += u64::from(partial.attempts) + u64::from(partial.stopped);
        self.failures += u64::from(partial.failures);
        self.unknown += u64::from(partial.unknown);
        self.stopped += u64::from(partial.stopped);
        partial.sources.iter().for_each(|hashed| self.sources.add(*hashed));
        partial.accounts.iter().for_each(|hashed| self.accounts.add(*hashed));
        self.blocked += partial.blocked.len() as u64;
        self.fallen += partial.compromised.len() as u64;
    }

    fn line(&self, incident_id: &str) -> IncidentDetail {
        let named = [
            ("attempts", self.attempts),
            ("failures", self.failures),
            ("unknown", self.unknown),
            ("stopped", self.stopped),
            ("sources", self.sources.count()),
            ("accounts", self.accounts.count()),
            ("blocked", self.blocked),
            ("fallen", self.fallen),
        ];
        IncidentDetail {
            incident_id: incident_id.to_owned(),
            kind: DetailKind::Minute,
            value: self.start.to_string(),
            sealed_account: None,
            counts: counts(named),
            first_at: self.start,
            last_at: self.start.saturating_add(MINUTE_MS - 1),
            about: BTreeMap::new(),
        }
    }
}

impl OpenIncident {
    pub(super) fn merge(&mut self, env: &Env, partial: &Partial) {
        // A partial that comes late, by a second at most, counts in the minute that goes on.
        let is_next = self.minutes.last().is_none_or(|minute| partial.at >= minute.start.saturating_add(MINUTE_MS));
        if is_next {
            self.minutes.push(MinuteSum::new(partial.at));
        }
        if let Some(minute) = self.minutes.last_mut() {
            minute.merge(partial);
        }
        self.attempts += u64::from(partial.attempts) + u64::from(partial.stopped);
        self.failures += u64::from(partial.failures);
        self.unknown += u64::from(partial.unknown);
        self.stopped += u64::from(partial.stopped);
        for (into, from) in [
            (&mut self.sources, &partial.sources),
            (&mut self.accounts, &partial.accounts),
            (&mut self.unknown_accounts, &partial.unknown_accounts),
        ] {
            from.iter().for_each(|hashed| into.add(*hashed));
        }
        for (entity, playbook) in &partial.blocked {
            self.blocked.add(env.entity(entity));
            if self.playbooks.len() < PLAYBOOKS_MAX {
                self.playbooks.insert(playbook.clone());
            }
        }
        for sum in partial.profiles.iter().filter(|sum| sum.bad > 0) {
            for (tops, feature) in [
                (&mut self.asns, Feature::Asn),
                (&mut self.countries, Feature::Country),
                (&mut self.user_agents, Feature::UserAgent),
            ] {
                sum.profile.value(feature).into_iter().for_each(|value| tops.add(&value, sum.bad.into()));
            }
        }
        self.compromised_count += partial.compromised.len() as u64;
        let room = FALLEN_MAX.saturating_sub(self.compromised.len());
        self.compromised.extend(partial.compromised.iter().take(room).cloned());
        self.changed = true;
    }
}

/// Publishes the incident when it has news, and closes it when the tenant is calm.
pub(super) fn publish(tenant: &str, row: &mut SiteRow, now: Millis, fx: &mut Effects) {
    let (state, quiet_since) = (row.state, row.quiet_since);
    let Some(incident) = &mut row.incident else { return };
    let closes = state == AttackState::Calm;
    while incident.minutes.len() > 1 {
        fx.push(Output::Detail(Box::new(incident.minutes.remove(0).line(&incident.id))));
    }
    let has_news = incident.changed && now.saturating_sub(incident.published_at) >= EVERY_MS;
    if !has_news && !closes {
        return;
    }
    incident.changed = false;
    incident.published_at = now;
    let ended_at = closes.then_some(quiet_since);
    fx.push(Output::Incident(Box::new(record(tenant, incident, ended_at, now))));
    if let Some(minute) = incident.minutes.last() {
        fx.push(Output::Detail(Box::new(minute.line(&incident.id))));
    }
    if closes {
        row.incident = None;
    }
}

fn record(tenant: &str, incident: &OpenIncident, ended_at: Option<Millis>, now: Millis) -> Incident {
    let compromised: Vec<Compromise> = incident.compromised.iter().map(compromise).collect();
    Incident {
        incident_id: incident.id.to_string(),
        tenant: tenant.to_owned(),
        kind: IncidentKind::CredentialStuffing,
        state: if ended_at.is_some() { IncidentState::Closed } else { IncidentState::Open },
        severity: if compromised.is_empty() { Severity::High } else { Severity::Critical },
        started_at: incident.started_at,
        updated_at: now,
        ended_at,
        summary: summary(incident, ended_at.is_some()),
        attempts: whole(incident.attempts),
        failures: whole(incident.failures),
        stopped_at_edge: whole(incident.stopped),
        sources: whole(incident.sources.count()),
        accounts_targeted: whole(incident.accounts.count()),
        accounts_unknown: whole(incident.unknown_accounts.count()),
        blocked: whole(incident.blocked.count()),
        compromised,
        top_networks: tops(&incident.asns, "AS"),
        top_countries: tops(&incident.countries, ""),
        top_user_agents: tops(&incident.user_agents, ""),
        playbooks: incident.playbooks.iter().map(ToString::to_string).collect(),
        disposition: Disposition::Undetermined,
    }
}

fn tops(tops: &Tops, prefix: &str) -> Vec<Counted> {
    let counted = |(value, count): (&str, u64)| Counted { value: format!("{prefix}{value}"), attempts: whole(count) };
    tops.top(TOPS_MAX).into_iter().map(counted).collect()
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn compromise(fallen: &Fallen) -> Compromise {
    Compromise {
        account: fallen.account.to_string(),
        source_ip: fallen.source.to_string(),
        at: fallen.at,
        flagged_at: fallen.flagged_at,
        event_id: fallen.event_id.to_string(),
    }
}

fn summary(incident: &OpenIncident, is_over: bool) -> String {
    let unseen = if is_over && incident.stopped == 0 {
        " No edge reported that it stopped anything, so attempts that it stopped are not among these."
    } else {
        ""
    };
    format!(
        "Credential stuffing from {} sources: {} attempts, {} failed on {} accounts ({} of them nobody's), {} stopped \
         at the edge; {} entities blocked, {} accounts entered.{unseen}",
        incident.sources.count(),
        incident.attempts,
        incident.failures,
        incident.accounts.count(),
        incident.unknown_accounts.count(),
        incident.stopped,
        incident.blocked.count(),
        incident.compromised_count,
    )
}
