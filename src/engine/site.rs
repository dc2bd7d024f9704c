//! The site stage: one tenant as a whole. Merges the partial sums, says whether an attack is on, keeps the incident.

use std::collections::BTreeSet;

use super::counts::Counter;
use super::env::Env;
use super::frame::{Fallen, Partial};
use super::io::{Effects, Output};
use super::key::Key;
use super::row::{OpenIncident, Recent, Row, SiteRow};
use super::task::Task;
use crate::decide::{Case, Decision, Standing, decide, verdict_id};
use crate::detect::{SiteFigures, SurgeJudgement, judge_surge};
use crate::event::{
    AttackState, AttackStatus, ChallengePolicy, Compromise, Disposition, Entity, Incident, IncidentKind,
    IncidentState, Millis, Severity,
};
use crate::window::{Distinct, SLICES, Slices};

const MINUTE: Millis = 60_000;
/// A status is published again at least this often while it holds.
const REFRESH_MS: Millis = MINUTE;
/// An open incident is published again at most this often.
const INCIDENT_EVERY_MS: Millis = 10_000;
/// Blocks and compromises this old still belong to an incident that opens now.
const RECENT_MS: Millis = 10 * MINUTE;
/// Most blocks and compromises remembered for an incident that may open.
const RECENT_MAX: usize = 4_096;
/// Most compromised accounts listed in one incident record.
const FALLEN_MAX: usize = 1_000;
/// Weight of a new minute in what is usual: half of it is forgotten in about an hour.
const LEARN: f64 = 0.0115;

impl SiteRow {
    fn new(now: Millis) -> Self {
        SiteRow {
            minute: Slices::new(MINUTE),
            usual_failures: 0.0,
            usual_attempts: 0.0,
            learnt_to: now.div_euclid(MINUTE),
            state: AttackState::Calm,
            since: now,
            quiet_since: now,
            published_at: Millis::MIN,
            incident: None,
            recent: Recent::default(),
        }
    }

    fn figures(&self, now: Millis) -> SiteFigures {
        let last = self.minute.slice_of(now);
        let [attempts, failures, stopped] = self.minute.sums(last);
        let (window_start, window_end) = self.minute.span(last);
        SiteFigures {
            attempts: attempts as f64,
            failures: failures as f64,
            stopped: stopped as f64,
            usual_failures: self.usual_failures,
            usual_share: if self.usual_attempts > 0.0 { self.usual_failures / self.usual_attempts } else { 0.0 },
            window_start,
            window_end,
        }
    }
}

/// Sums from a source or account task.
pub(super) fn partial(task: &mut Task, env: &Env, partial: &Partial, fx: &mut Effects) {
    let now = task.now();
    let key = Key::site(&partial.tenant);
    let (mut row, is_new) = match task.view.take(&key, now) {
        Some(Row::Site(row)) => (row, false),
        Some(_) | None => (Box::new(SiteRow::new(now)), true),
    };
    row.minute.add(partial.at, [partial.attempts, partial.failures, partial.stopped]);
    if let Some(incident) = &mut row.incident {
        incident.merge(partial);
    } else {
        row.recent.merge(partial, now);
    }
    if is_new {
        task.set_due(now.saturating_add(REFRESH_MS), &key);
    }
    judge(task, env, &partial.tenant, &mut row, fx);
    task.view.put(key, Row::Site(row), Millis::MAX);
}

/// A minute has passed since this tenant was last looked at: refresh, calm down, close.
pub(super) fn due(task: &mut Task, env: &Env, key: &Key, at: Millis, fx: &mut Effects) {
    let now = task.now().max(at);
    let Some(Row::Site(mut row)) = task.view.take(key, now) else { return };
    let tenant = super::task::tenant_of(key).unwrap_or_default();
    judge(task, env, &tenant, &mut row, fx);
    let idle = row.state == AttackState::Calm && row.figures(now).attempts == 0.0 && row.recent.is_empty();
    task.view.put(key.clone(), Row::Site(row), Millis::MAX);
    if !idle {
        task.set_due(now.saturating_add(REFRESH_MS), key);
    } else {
        // Nothing left to watch: the next partial starts it again.
        task.set_due(now.saturating_add(10 * REFRESH_MS), key);
    }
}

fn judge(task: &mut Task, env: &Env, tenant: &str, row: &mut SiteRow, fx: &mut Effects) {
    let now = task.now();
    learn(row, now);
    let figures = row.figures(now);
    let judgement = judge_surge(&figures, &env.limits.surge);
    if !judgement.quiet {
        row.quiet_since = now;
    }
    let before = row.state;
    let watched = env.plan.surge.iter().any(|p| p.mode == crate::topology::PlaybookMode::Live);
    if watched {
        step_state(env, row, &judgement, now);
    }
    if row.state != before {
        row.since = now;
    }
    let opened = row.state == AttackState::Attack && row.incident.is_none();
    if opened {
        open_incident(env, tenant, row, &figures, now);
        report_campaign(task, env, tenant, row, &judgement, fx);
    }
    publish_incident(tenant, row, now, false, fx);
    if row.state == AttackState::Calm && row.incident.is_some() {
        publish_incident(tenant, row, now, true, fx);
        row.incident = None;
    }
    let refresh = before != AttackState::Calm || row.state != AttackState::Calm;
    if row.state != before || (refresh && now.saturating_sub(row.published_at) >= REFRESH_MS) {
        row.published_at = now;
        fx.push(Output::Status(Box::new(status(env, tenant, row, &figures, now))));
    }
}

/// What is usual does not learn while anything stands out, so that an attack cannot train it.
fn learn(row: &mut SiteRow, now: Millis) {
    let minute = now.div_euclid(MINUTE);
    if minute <= row.learnt_to {
        return;
    }
    let figures = row.figures(minute * MINUTE - 1);
    row.learnt_to = minute;
    if row.state == AttackState::Calm && row.quiet_since <= now.saturating_sub(MINUTE) {
        // A short history follows at once, a long one slowly.
        let first = row.usual_attempts == 0.0;
        let weight = if first { 1.0 } else { LEARN };
        row.usual_failures += weight * (figures.failures - row.usual_failures);
        row.usual_attempts += weight * (figures.attempts - row.usual_attempts);
    }
}

fn step_state(env: &Env, row: &mut SiteRow, judgement: &SurgeJudgement, now: Millis) {
    if judgement.state > row.state {
        row.state = judgement.state;
    } else if row.state != AttackState::Calm && now.saturating_sub(row.quiet_since) >= env.limits.calm_after_ms {
        row.state = AttackState::Calm;
    }
}

fn status(env: &Env, tenant: &str, row: &SiteRow, figures: &SiteFigures, now: Millis) -> AttackStatus {
    let good = (figures.attempts - figures.failures).max(0.5);
    AttackStatus {
        tenant: tenant.to_owned(),
        state: row.state,
        since: row.since,
        updated_at: now,
        expires_at: now.saturating_add(env.limits.status_ttl_ms),
        challenge: match row.state {
            AttackState::Attack => ChallengePolicy::UnknownPairs,
            AttackState::Elevated | AttackState::Calm => ChallengePolicy::Nobody,
        },
        bad_to_good: (figures.failures - figures.usual_share * figures.attempts).max(0.0) / good,
        attempts_per_second: (figures.attempts + figures.stopped) / 60.0,
        failure_share: figures.failure_share(),
        usual_failure_share: figures.usual_share,
        traits: Vec::new(),
        incident_id: row.incident.as_ref().map(|i| i.id.to_string()),
    }
}

fn open_incident(env: &Env, tenant: &str, row: &mut SiteRow, figures: &SiteFigures, now: Millis) {
    let entity = Entity::tenant(tenant);
    let playbook = env.plan.surge.first().map_or("site-campaign", |p| p.id.as_str());
    let recent = std::mem::take(&mut row.recent);
    let mut incident = OpenIncident {
        id: verdict_id(&entity, "incident", &now.to_string()).into(),
        started_at: figures.window_start.max(now - MINUTE),
        published_at: Millis::MIN,
        attempts: (figures.attempts + figures.stopped) as u64,
        failures: figures.failures as u64,
        unknown: 0,
        stopped: figures.stopped as u64,
        sources: Distinct::default(),
        accounts: Distinct::default(),
        unknown_accounts: Distinct::default(),
        blocked: Distinct::default(),
        playbooks: BTreeSet::from([playbook.into()]),
        compromised: recent.compromised,
        changed: true,
    };
    for (entity, _) in recent.blocked {
        incident.blocked.add(entity_print(&entity), 0, 0);
    }
    row.incident = Some(Box::new(incident));
}

/// One verdict for the campaign: who reads verdicts sees it open.
fn report_campaign(
    task: &mut Task,
    env: &Env,
    tenant: &str,
    row: &SiteRow,
    judgement: &SurgeJudgement,
    fx: &mut Effects,
) {
    let entity = Entity::tenant(tenant);
    let id = row.incident.as_ref().map(|i| i.id.clone());
    let now = task.now();
    for playbook in &env.plan.surge {
        let event_id = id.as_deref().unwrap_or_default();
        let case = Case { entity: &entity, occurred_at: now, event_id, now, incident_id: id.as_deref() };
        let mut nothing_stands = Standing::default();
        let Decision { verdict, .. } = decide(playbook, &judgement.found, &mut nothing_stands, &case);
        if let Some(mut verdict) = verdict {
            // Its evidence is the minute, not one attempt.
            verdict.evidence.clear();
            fx.count(Counter::Verdicts);
            fx.push(Output::Verdict(verdict));
        }
    }
}

impl Recent {
    fn is_empty(&self) -> bool {
        self.blocked.is_empty() && self.compromised.is_empty()
    }

    fn merge(&mut self, partial: &Partial, now: Millis) {
        let after = now.saturating_sub(RECENT_MS);
        self.blocked.retain(|(_, at)| *at > after);
        self.compromised.retain(|fallen| fallen.flagged_at > after);
        let room = RECENT_MAX.saturating_sub(self.blocked.len());
        self.blocked.extend(partial.blocked.iter().take(room).map(|(entity, _)| (entity.clone(), partial.at)));
        let room = FALLEN_MAX.saturating_sub(self.compromised.len());
        self.compromised.extend(partial.compromised.iter().take(room).cloned());
    }
}

impl OpenIncident {
    fn merge(&mut self, partial: &Partial) {
        self.attempts += u64::from(partial.attempts) + u64::from(partial.stopped);
        self.failures += u64::from(partial.failures);
        self.unknown += u64::from(partial.unknown);
        self.stopped += u64::from(partial.stopped);
        for source in &partial.sources {
            self.sources.add(*source, 0, 0);
        }
        for account in &partial.accounts {
            self.accounts.add(*account, 0, 0);
        }
        for account in &partial.unknown_accounts {
            self.unknown_accounts.add(*account, 0, 0);
        }
        for (entity, playbook) in &partial.blocked {
            self.blocked.add(entity_print(entity), 0, 0);
            self.playbooks.insert(playbook.clone());
        }
        let room = FALLEN_MAX.saturating_sub(self.compromised.len());
        self.compromised.extend(partial.compromised.iter().take(room).cloned());
        self.changed = true;
    }
}

/// Spreads an entity over 64 bits. Only counts rest on it, and an entity is there because a playbook put it there.
fn entity_print(entity: &Entity) -> u64 {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = siphasher::sip::SipHasher13::new();
    entity.hash(&mut hasher);
    hasher.finish()
}

fn publish_incident(tenant: &str, row: &mut SiteRow, now: Millis, closes: bool, fx: &mut Effects) {
    let (state, quiet_since) = (row.state, row.quiet_since);
    let Some(incident) = &mut row.incident else { return };
    let due = incident.changed && now.saturating_sub(incident.published_at.max(0)) >= INCIDENT_EVERY_MS;
    if !due && !closes {
        return;
    }
    incident.changed = false;
    incident.published_at = now;
    let compromised: Vec<Compromise> = incident.compromised.iter().map(compromise).collect();
    let record = Incident {
        incident_id: incident.id.to_string(),
        tenant: tenant.to_owned(),
        kind: IncidentKind::CredentialStuffing,
        state: if closes { IncidentState::Closed } else { IncidentState::Open },
        severity: if compromised.is_empty() { Severity::High } else { Severity::Critical },
        started_at: incident.started_at,
        updated_at: now,
        ended_at: closes.then_some(quiet_since),
        summary: summary(incident, state),
        attempts: incident.attempts as i64,
        failures: incident.failures as i64,
        stopped_at_edge: incident.stopped as i64,
        sources: incident.sources.count(0) as i64,
        accounts_targeted: incident.accounts.count(0) as i64,
        accounts_unknown: incident.unknown_accounts.count(0) as i64,
        blocked: incident.blocked.count(0) as i64,
        compromised,
        top_networks: Vec::new(),
        top_countries: Vec::new(),
        top_user_agents: Vec::new(),
        playbooks: incident.playbooks.iter().map(ToString::to_string).collect(),
        disposition: Disposition::Undetermined,
    };
    fx.push(Output::Incident(Box::new(record)));
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

fn summary(incident: &OpenIncident, state: AttackState) -> String {
    format!(
        "Credential stuffing from {} sources: {} attempts, {} failed on {} accounts ({} of them nobody's), {} stopped \
         at the edge; {} entities blocked, {} accounts entered. State {state}.",
        incident.sources.count(0),
        incident.attempts,
        incident.failures,
        incident.accounts.count(0),
        incident.unknown_accounts.count(0),
        incident.stopped,
        incident.blocked.count(0),
        incident.compromised.len(),
    )
}

// The minute's window and the slices it is made of must agree, or `span` would lie.
const _: () = assert!(MINUTE % SLICES == 0);
