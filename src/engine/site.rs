//! The site stage: one tenant as a whole. Merges the partial sums, says whether an attack is on, keeps the incident.

use super::env::Env;
use super::frame::Partial;
use super::incident;
use super::io::{Effects, Output};
use super::key::Key;
use super::row::{Recent, Row, SiteRow};
use super::task::Task;
use crate::decide::{Case, Decision, Manner, Standing, decide};
use crate::detect::{SiteFigures, SurgeJudgement, Usual, judge_surge};
use crate::event::{AttackState, AttackStatus, ChallengePolicy, Entity, Millis, Mode};
use crate::topology::Playbook;
use crate::window::{SLICES, Slices};

const MINUTE: Millis = 60_000;
/// A status is published again at least this often while it holds.
const REFRESH_MS: Millis = MINUTE;
/// Weight of a new minute in what is usual: half of it is forgotten in about an hour.
const LEARN: f64 = 0.0115;
/// What is usual is known after this many quiet minutes.
const LEARN_MINUTES: u32 = 5;

impl SiteRow {
    fn new(now: Millis) -> Self {
        SiteRow {
            minute: Slices::new(MINUTE),
            usual_failures: 0.0,
            usual_attempts: 0.0,
            minutes_learnt: 0,
            learnt_to: now.div_euclid(MINUTE),
            state: AttackState::Calm,
            since: now,
            quiet_since: now,
            published_at: Millis::MIN,
            is_watched: false,
            shadowed_until: Millis::MIN,
            incident: None,
            recent: Recent::default(),
        }
    }

    /// The minute that ends at `now`.
    pub(super) fn figures(&self, now: Millis) -> SiteFigures {
        let last = self.minute.slice_of(now);
        let [attempts, failures, _, stopped, refused] = self.minute.sums(last);
        let (window_start, window_end) = self.minute.span(last);
        let learnt = self.minutes_learnt >= LEARN_MINUTES && self.usual_attempts > 0.0;
        SiteFigures {
            attempts: attempts as f64,
            failures: failures as f64,
            stopped: stopped as f64,
            refused: refused as f64,
            usual: learnt
                .then(|| Usual { failures: self.usual_failures, share: self.usual_failures / self.usual_attempts }),
            window_start,
            window_end,
        }
    }
}

/// Sums from a source or account task.
pub(super) fn partial(task: &mut Task, env: &Env, partial: &Partial, fx: &mut Effects) {
    let now = task.now();
    let key = Key::site(&partial.tenant);
    let mut row = task.view.take(&key, now).and_then(Row::site).unwrap_or_else(|| Box::new(SiteRow::new(now)));
    let Partial { attempts, failures, unknown, stopped, refused, .. } = *partial;
    row.minute.add(partial.at, [attempts, failures, unknown, stopped, refused]);
    match &mut row.incident {
        Some(incident) => incident.merge(env, partial),
        None => row.recent.merge(env, partial, row.minute.slice_of(partial.at), row.minute.slice_of(now), now),
    }
    if !row.is_watched {
        row.is_watched = true;
        task.set_due(now.saturating_add(REFRESH_MS), &key);
    }
    judge(task, env, &partial.tenant, &mut row, fx);
    task.view.put(key, Row::Site(row), Millis::MAX);
}

/// A minute has passed since this tenant was last looked at: refresh, calm down, close.
pub(super) fn due(task: &mut Task, env: &Env, key: &Key, fx: &mut Effects) {
    let now = task.now();
    let Some(mut row) = task.view.take(key, now).and_then(Row::site) else { return };
    let tenant = super::task::tenant_of(key).unwrap_or_default();
    judge(task, env, &tenant, &mut row, fx);
    let figures = row.figures(now);
    // Nobody is there any more: the next partial starts the watch again.
    row.is_watched = row.state != AttackState::Calm || figures.attempts + figures.stopped > 0.0;
    if row.is_watched {
        task.set_due(now.saturating_add(REFRESH_MS), key);
    }
    task.view.put(key.clone(), Row::Site(row), Millis::MAX);
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
    for playbook in &env.plan.surge {
        match playbook.mode.verdict_mode() {
            Some(Mode::Live) => step_state(env, row, &judgement, now),
            Some(Mode::Shadow) => shadow(env, tenant, row, playbook, &judgement, now, fx),
            None => {}
        }
    }
    if row.state != before {
        row.since = now;
    }
    if row.state == AttackState::Attack && row.incident.is_none() {
        incident::open(env, tenant, row, now);
        report_campaign(env, tenant, row, &judgement, now, fx);
    }
    incident::publish(tenant, row, now, fx);
    let holds = before != AttackState::Calm && now.saturating_sub(row.published_at) >= REFRESH_MS;
    if row.state != before || holds {
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
        // A plain mean while there is little history, then slowly.
        row.minutes_learnt = row.minutes_learnt.saturating_add(1);
        let weight = LEARN.max(1.0 / f64::from(row.minutes_learnt));
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

/// A surge playbook in shadow says once what it saw, until it would have calmed down.
fn shadow(
    env: &Env,
    tenant: &str,
    row: &mut SiteRow,
    playbook: &Playbook,
    judgement: &SurgeJudgement,
    now: Millis,
    fx: &mut Effects,
) {
    if judgement.state == AttackState::Attack {
        if row.shadowed_until <= now {
            campaign_verdict(playbook, &Entity::tenant(tenant), judgement, None, now, fx);
        }
        row.shadowed_until = now.saturating_add(env.limits.calm_after_ms);
    }
}

fn status(env: &Env, tenant: &str, row: &SiteRow, figures: &SiteFigures, now: Millis) -> AttackStatus {
    let good = (figures.attempts - figures.failures).max(0.5);
    let usual_share = figures.usual.map_or(0.0, |usual| usual.share);
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
        bad_to_good: (figures.failures - usual_share * figures.attempts).max(0.0) / good,
        attempts_per_second: (figures.attempts + figures.stopped) / 60.0,
        failure_share: figures.failure_share(),
        usual_failure_share: usual_share,
        traits: Vec::new(),
        incident_id: row.incident.as_ref().map(|i| i.id.to_string()),
    }
}

/// One verdict for the campaign: who reads verdicts sees it open.
fn report_campaign(env: &Env, tenant: &str, row: &SiteRow, judgement: &SurgeJudgement, now: Millis, fx: &mut Effects) {
    let incident_id = row.incident.as_ref().map(|i| &*i.id);
    for playbook in env.plan.surge.iter().filter(|p| p.mode.verdict_mode() == Some(Mode::Live)) {
        campaign_verdict(playbook, &Entity::tenant(tenant), judgement, incident_id, now, fx);
    }
}

fn campaign_verdict(
    playbook: &Playbook,
    entity: &Entity,
    judgement: &SurgeJudgement,
    incident_id: Option<&str>,
    now: Millis,
    fx: &mut Effects,
) {
    // Its evidence is the minute, not one attempt, and its episode is the incident.
    let case = Case { entity, occurred_at: now, event_id: "", arrived_at: now, now, incident_id };
    let Some(manner) = Manner::of(playbook) else { return };
    let Decision { verdict, .. } = decide(playbook, manner, &judgement.found, &mut Standing::default(), &case);
    if let Some(mut verdict) = verdict {
        verdict.evidence.clear();
        fx.verdict(verdict);
    }
}

// The minute's window and the slices it is made of must agree, or `span` would lie.
const _: () = assert!(MINUTE % SLICES == 0);
