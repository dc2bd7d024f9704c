//! The site stage: one tenant as a whole. Merges the partial sums, says whether an attack is on, keeps the incident.

use std::collections::BTreeMap;

use super::details;
use super::env::Env;
use super::frame::Partial;
use super::governor;
use super::incident;
use super::io::{Effects, Output};
use super::key::Key;
use super::row::{ActivitySum, Recent, Row, SiteRow};
use super::surge;
use super::task::Task;
use crate::decide::{Case, Decision, Manner, Standing, decide};
use crate::detect::{Campaign, CampaignBounds, Found, Moments, Reference, Tried, hour_of_week};
use crate::event::{ActivitySlice, AttackState, AttackStatus, ChallengePolicy, Entity, Millis, Mode};
use crate::topology::Playbook;
use crate::window::{SLICES, Slices};

const MINUTE: Millis = 60_000;
/// Length of a slice of activity.
const ACTIVITY_MS: Millis = 10_000;
/// A status is published again at least this often while it holds.
const REFRESH_MS: Millis = MINUTE;
/// And with other traits at most this often.
const NEWS_EVERY_MS: Millis = 5_000;
/// Weight of a new minute in what is usual in a minute: half of it is forgotten in about an hour.
const LEARN: f64 = 0.0115;
/// What is usual in a minute is known after this many quiet minutes.
const LEARN_MINUTES: u32 = 5;
/// What is usual is forgotten when nobody logged in for so long: a 256th of it is left by then.
pub(super) const USUAL_KEPT_MS: Millis = 8 * 7 * 86_400_000;
/// Successes a minute below this part of the usual, of no more than this many times the usual attempts, are an outage.
const OUT_BELOW: f64 = 0.2;
const OUT_TIMES_ATTEMPTS: f64 = 3.0;

/// The last minute of a tenant.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    attempts: f64,
    /// Of everybody.
    failures: f64,
    /// Blocked or challenged before the password was checked.
    stopped: f64,
}

impl Figures {
    fn share(part: f64, of: f64) -> f64 {
        if of > 0.0 { part / of } else { 0.0 }
    }

    /// Whether so many are stopped that somebody must be at work.
    fn stopped_stand_out(&self, usual_share: f64, bounds: &CampaignBounds) -> bool {
        let share = Figures::share(self.stopped, self.attempts + self.stopped);
        self.stopped >= bounds.stopped && share >= (usual_share + bounds.stopped_share_above_usual).min(1.0)
    }
}

impl SiteRow {
    fn new(env: &Env, now: Millis) -> Self {
        let mut campaign = Campaign::default();
        campaign.reset(now);
        SiteRow {
            minute: Slices::new(MINUTE),
            campaign,
            reference: Reference::unlearnt(&env.limits.campaign),
            held: Moments::default(),
            usual_successes: 0.0,
            usual_attempts: 0.0,
            minutes_learnt: 0,
            learnt_to: now.div_euclid(MINUTE),
            state: AttackState::Calm,
            since: now,
            quiet_since: now,
            stepped_at: now,
            is_off: false,
            keeps_challenge: false,
            saw_stopped: false,
            blocked_until: Millis::MIN,
            published_at: Millis::MIN,
            is_watched: false,
            shadowed_until: Millis::MIN,
            traits: Vec::new(),
            traits_at: Millis::MIN,
            traits_are_news: false,
            entered_bad_to_good: 0.0,
            entered_told: 0.0,
            incident: None,
            governed: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            withdrawn_is_news: false,
            activity: ActivitySum::default(),
            recent: Recent::default(),
        }
    }

    /// The minute that ends at `now`.
    fn figures(&self, now: Millis) -> Figures {
        let last = self.minute.slice_of(now);
        let [attempts, strangers, _, stopped, _, known] = self.minute.sums(last);
        Figures { attempts: attempts as f64, failures: (strangers + known) as f64, stopped: stopped as f64 }
    }

    /// Share of failures that is usual.
    const fn usual_share(&self) -> f64 {
        let [_, _, share] = self.reference.usual;
        share
    }

    /// Hardly anybody gets in any more since the epoch began, and no more try than usual: the site cannot check passwords.
    fn is_out(&self, now: Millis) -> bool {
        let Some(since) = self.campaign.since().filter(|_| self.minutes_learnt >= LEARN_MINUTES) else { return false };
        let epoch = self.campaign.epoch();
        let minutes = now.saturating_sub(since).max(1) as f64 / MINUTE as f64;
        let usual = |a_minute: f64, times: f64| a_minute * minutes * times;
        (epoch.successes() as f64) < usual(self.usual_successes, OUT_BELOW)
            && epoch.attempts as f64 <= usual(self.usual_attempts, OUT_TIMES_ATTEMPTS)
    }

    fn judged(&self, env: &Env, now: Millis) -> AttackState {
        self.campaign.judge(&self.reference, &env.limits.campaign, self.is_out(now))
    }
}

/// The rows that a step on these sums may touch.
pub(super) fn reads(partial: &Partial, keys: &mut Vec<Key>) {
    keys.push(Key::site(&partial.tenant));
    keys.push(Key::usual(&partial.tenant, Some(hour_of_week(partial.at))));
    keys.push(Key::usual(&partial.tenant, None));
    surge::reads(partial, keys);
}

/// Sums from a source or account task.
pub(super) fn partial(task: &mut Task, env: &Env, partial: &Partial, fx: &mut Effects) {
    let now = task.now();
    let key = Key::site(&partial.tenant);
    let mut row = task.view.take(&key, now).and_then(Row::site).unwrap_or_else(|| Box::new(SiteRow::new(env, now)));
    let Partial { attempts, failures, known_failures, unknown, stopped, refused, .. } = *partial;
    tell_activity(&partial.tenant, &mut row, now, fx);
    row.activity.add(partial);
    governor::partial(&mut row, partial, now);
    row.minute.add(partial.at, [attempts, failures, unknown, stopped, refused, known_failures]);
    match &mut row.incident {
        Some(incident) => incident.merge(env, partial),
        None => row.recent.merge(env, partial, row.minute.slice_of(partial.at), row.minute.slice_of(now), now),
    }
    row.saw_stopped |= stopped > 0 && row.state != AttackState::Calm;
    row.blocked_until = row.blocked_until.max(partial.blocked_until);
    if !env.plan.campaign.is_empty() {
        count(task, env, partial, &mut row);
        let bad_to_good = bad_to_good(&row, &row.figures(now));
        surge::partial(task, env, partial, &mut row, bad_to_good);
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
    tell_activity(&tenant, &mut row, now, fx);
    judge(task, env, &tenant, &mut row, fx);
    let figures = row.figures(now);
    // Nobody is there any more: the next partial starts the watch again.
    row.is_watched = row.state != AttackState::Calm || figures.attempts + figures.stopped > 0.0;
    if row.is_watched {
        task.set_due(now.saturating_add(REFRESH_MS), key);
    }
    task.view.put(key.clone(), Row::Site(row), Millis::MAX);
}

impl ActivitySum {
    fn add(&mut self, partial: &Partial) {
        self.attempts += u64::from(partial.attempts) + u64::from(partial.stopped);
        self.failures += u64::from(partial.failures) + u64::from(partial.known_failures);
        self.unknown += u64::from(partial.unknown);
        self.stopped += u64::from(partial.stopped);
    }
}

/// Tells the slice of activity that is over by `now`, if there was any in it, and begins the one of `now`. What comes late,
/// by a second at most, counts in the slice that goes on.
fn tell_activity(tenant: &str, row: &mut SiteRow, now: Millis, fx: &mut Effects) {
    let start = now.div_euclid(ACTIVITY_MS) * ACTIVITY_MS;
    if start <= row.activity.start {
        return;
    }
    let of = std::mem::replace(&mut row.activity, ActivitySum { start, ..ActivitySum::default() });
    if of.attempts == 0 {
        return;
    }
    let checked = of.attempts.saturating_sub(of.stopped) as f64;
    let [unknown, _, failures] = row.reference.usual;
    let [statistic, alarm_level] = row.campaign.highest(&row.reference).unwrap_or_default();
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    fx.push(Output::Activity(Box::new(ActivitySlice {
        tenant: tenant.to_owned(),
        application: None,
        slice_start: of.start,
        slice_end: of.start.saturating_add(ACTIVITY_MS),
        attempts: whole(of.attempts),
        failures: whole(of.failures),
        unknown_accounts: whole(of.unknown),
        stopped: whole(of.stopped),
        usual_attempts: row.usual_attempts * ACTIVITY_MS as f64 / MINUTE as f64,
        usual_failures: failures * checked,
        usual_unknown_accounts: unknown * checked,
        statistic,
        alarm_level,
        state: row.state,
    })));
}

/// Lets the charts count, and learns from a block that ended.
fn count(task: &mut Task, env: &Env, partial: &Partial, row: &mut SiteRow) {
    let (now, bounds) = (task.now(), &env.limits.campaign);
    for source in &partial.sources {
        row.campaign.note_source(*source, now);
    }
    // A program whose stored password is old tries it all day: at night that would be half of a site's failures. Nor may
    // repeats of the same make an attack's failures look few.
    let repeats = partial.repeats.saturating_add(partial.known_repeats);
    let tried = Tried {
        attempts: partial.attempts.saturating_sub(repeats).into(),
        unknown: partial.unknown.into(),
        strangers: partial.failures.into(),
        known: partial.known_failures.saturating_sub(partial.known_repeats).into(),
        refused: partial.refused.into(),
    };
    let counted = row.campaign.count(&tried, now, &row.reference, bounds);
    if row.campaign.stands_out(&counted, &row.reference, bounds) {
        row.quiet_since = now;
    }
    if let Some(block) = counted.block {
        learn_block(task, env, partial, row, &block);
    }
}

/// What is usual learns from blocks while the tenant is calm. Once it is settled, a block is held back while a chart stands
/// high: it is learnt when the chart has come down again, and dropped with an alarm, so that an attack does not train what it
/// is held against. Until then nothing is held back, since alarms may be no more than a site that differs from what was taken
/// for usual.
fn learn_block(task: &mut Task, env: &Env, partial: &Partial, row: &mut SiteRow, block: &Tried) {
    let (now, bounds) = (task.now(), &env.limits.campaign);
    let was_settled = row.reference.is_settled;
    let is_suspicious = row.state != AttackState::Calm || row.judged(env, now) != AttackState::Calm;
    if is_suspicious || (was_settled && row.campaign.since().is_some()) {
        row.held = Moments::default();
        return;
    }
    row.held.learn(block, now);
    if was_settled && row.campaign.stands_above(bounds.frozen_above, &row.reference) {
        return;
    }
    let held = std::mem::take(&mut row.held);
    let mut learn = |hour| {
        let key = Key::usual(&partial.tenant, hour);
        let mut learnt = task.view.take(&key, now).and_then(Row::usual).unwrap_or_default();
        learnt.add(&held, now);
        let usual = *learnt;
        task.view.put(key, Row::Usual(learnt), now.saturating_add(USUAL_KEPT_MS));
        usual
    };
    let (hour, all) = (learn(Some(hour_of_week(partial.at))), learn(None));
    if let Some(learnt) = Reference::learnt(&hour, &all, now, bounds) {
        if learnt.is_settled != was_settled || !row.reference.is_learnt {
            row.campaign.reset(now);
        }
        row.reference = learnt;
    }
}

fn judge(task: &mut Task, env: &Env, tenant: &str, row: &mut SiteRow, fx: &mut Effects) {
    let now = task.now();
    learn_minute(row, now);
    let figures = row.figures(now);
    if figures.stopped_stand_out(row.usual_share(), &env.limits.campaign) {
        row.quiet_since = now;
    }
    let judged = row.judged(env, now);
    let before = row.state;
    for playbook in &env.plan.campaign {
        match playbook.mode.verdict_mode() {
            Some(Mode::Live) => step_state(env, row, judged, now),
            Some(Mode::Shadow) => shadow(env, tenant, row, playbook, judged, now, fx),
            None => {}
        }
    }
    if row.state == AttackState::Calm
        && is_quiet_for(row, now, env.limits.calm_after_ms)
        && row.campaign.since().is_some()
    {
        // Nothing came of it, or nobody listens.
        row.campaign.reset(now);
    }
    if row.state == AttackState::Attack && row.incident.is_none() {
        incident::open(env, tenant, row, now);
        report_campaign(env, tenant, row, now, fx);
    }
    incident::publish(tenant, row, now, fx);
    let told_for = now.saturating_sub(row.published_at);
    let is_news = row.traits_are_news && told_for >= NEWS_EVERY_MS;
    let is_off = task.is_switched_off(tenant);
    let is_switched = before != AttackState::Calm && row.is_off != is_off;
    row.is_off = is_off;
    let holds = before != AttackState::Calm && (told_for >= REFRESH_MS || is_news || is_switched);
    if row.state != before || holds || row.withdrawn_is_news {
        row.withdrawn_is_news = false;
        row.published_at = now;
        row.traits_are_news = false;
        row.entered_told = row.entered_bad_to_good;
        fx.push(Output::Status(Box::new(status(env, tenant, row, &figures, now))));
    }
}

fn is_quiet_for(row: &SiteRow, now: Millis, length_ms: Millis) -> bool {
    now.saturating_sub(row.quiet_since.max(row.stepped_at)) >= length_ms
}

/// What is usual in a minute does not learn while anything stands out.
fn learn_minute(row: &mut SiteRow, now: Millis) {
    let minute = now.div_euclid(MINUTE);
    if minute <= row.learnt_to {
        return;
    }
    let figures = row.figures(minute * MINUTE - 1);
    row.learnt_to = minute;
    if row.state == AttackState::Calm && row.campaign.since().is_none() {
        // A plain mean while there is little history, then slowly.
        row.minutes_learnt = row.minutes_learnt.saturating_add(1);
        let weight = LEARN.max(1.0 / f64::from(row.minutes_learnt));
        row.usual_successes += weight * (figures.attempts - figures.failures - row.usual_successes);
        row.usual_attempts += weight * (figures.attempts - row.usual_attempts);
    }
}

/// Up at once; down when nothing stood out for long enough. Where the edge reports what it stops, that is twenty minutes, and
/// then CALM. Where nothing was reported, an attack may go on unseen behind the blocks and the challenge: the state steps
/// down one level a quarter of an hour, and the challenge is kept on until the last block has ended.
fn step_state(env: &Env, row: &mut SiteRow, judged: AttackState, now: Millis) {
    if judged > row.state {
        row.state = judged;
        row.since = row.campaign.since().unwrap_or(now);
        row.keeps_challenge &= judged != AttackState::Attack;
        return;
    }
    let is_blind = !row.saw_stopped;
    match row.state {
        AttackState::Calm => {}
        AttackState::Attack if is_blind => {
            if is_quiet_for(row, now, env.limits.step_down_ms) {
                row.state = AttackState::Elevated;
                row.since = now;
                row.stepped_at = now;
                row.keeps_challenge = true;
                row.campaign.let_rest();
            }
        }
        AttackState::Elevated if row.keeps_challenge => {
            if is_quiet_for(row, now, env.limits.step_down_ms) && row.blocked_until <= now {
                calm_down(row, now);
            }
        }
        AttackState::Elevated | AttackState::Attack => {
            if is_quiet_for(row, now, env.limits.calm_after_ms) {
                calm_down(row, now);
            }
        }
    }
}

fn calm_down(row: &mut SiteRow, now: Millis) {
    row.state = AttackState::Calm;
    row.since = now;
    row.keeps_challenge = false;
    row.saw_stopped = false;
    row.traits.clear();
    row.traits_are_news = false;
    row.entered_bad_to_good = 0.0;
    row.campaign.reset(now);
}

/// A campaign playbook in shadow says once what it saw, until it would have calmed down.
fn shadow(
    env: &Env,
    tenant: &str,
    row: &mut SiteRow,
    playbook: &Playbook,
    judged: AttackState,
    now: Millis,
    fx: &mut Effects,
) {
    if judged == AttackState::Attack {
        if row.shadowed_until <= now {
            let found = row.campaign.found(&row.reference, &env.limits.campaign, now);
            campaign_verdict(playbook, &Entity::tenant(tenant), &found, None, now, fx);
        }
        row.shadowed_until = now.saturating_add(env.limits.calm_after_ms);
    }
}

fn status(env: &Env, tenant: &str, row: &SiteRow, figures: &Figures, now: Millis) -> AttackStatus {
    AttackStatus {
        tenant: tenant.to_owned(),
        state: row.state,
        since: row.since,
        updated_at: now,
        expires_at: now.saturating_add(env.limits.status_ttl_ms),
        challenge: if !row.is_off && (row.state == AttackState::Attack || row.keeps_challenge) {
            ChallengePolicy::UnknownPairs
        } else {
            ChallengePolicy::Nobody
        },
        bad_to_good: bad_to_good(row, figures),
        attempts_per_second: (figures.attempts + figures.stopped) / 60.0,
        failure_share: Figures::share(figures.failures, figures.attempts),
        usual_failure_share: row.usual_share(),
        traits: row.traits.clone(),
        incident_id: row.incident.as_ref().map(|i| i.id.to_string()),
        withdrawn: governor::withdrawn(row, now),
        entered_bad_to_good: row.entered_bad_to_good,
    }
}

/// Bad attempts to a good one while something is on: in the epoch, or in the last minute with everything that was stopped,
/// where that is more. Once an edge stops most of an attack, what is still checked tells little of it.
fn bad_to_good(row: &SiteRow, figures: &Figures) -> f64 {
    if row.state == AttackState::Calm {
        return 0.0;
    }
    let good = (figures.attempts - figures.failures + 0.5) / row.reference.success_share();
    let minute = ((figures.attempts - good).max(0.0) + figures.stopped) / good;
    row.campaign.bad_to_good(&row.reference).estimate.max(minute)
}

/// One verdict for the campaign: who reads verdicts sees it open.
fn report_campaign(env: &Env, tenant: &str, row: &SiteRow, now: Millis, fx: &mut Effects) {
    let incident_id = row.incident.as_ref().map(|i| &*i.id);
    let found = row.campaign.found(&row.reference, &env.limits.campaign, now);
    for playbook in env.plan.campaign.iter().filter(|p| p.mode.verdict_mode() == Some(Mode::Live)) {
        campaign_verdict(playbook, &Entity::tenant(tenant), &found, incident_id, now, fx);
    }
}

fn campaign_verdict(
    playbook: &Playbook,
    entity: &Entity,
    found: &Found,
    incident_id: Option<&str>,
    now: Millis,
    fx: &mut Effects,
) {
    // Its evidence is the epoch, not one attempt, and its episode is the incident.
    let case = Case { entity, occurred_at: now, event_id: "", arrived_at: now, now, incident_id };
    let Some(manner) = Manner::of(playbook) else { return };
    let Decision { verdict, .. } = decide(playbook, manner, found, &mut Standing::default(), &case);
    if let Some(mut verdict) = verdict {
        verdict.evidence.clear();
        if let Some(incident_id) = incident_id {
            let by = [("playbook", verdict.playbook.as_str())];
            details::action(incident_id, &verdict.verdict_id, entity, verdict.action, &by, [now, now], fx);
        }
        fx.verdict(verdict);
    }
}

// The minute's window and the slices it is made of must agree, or `span` would lie.
const _: () = assert!(MINUTE % SLICES == 0);
