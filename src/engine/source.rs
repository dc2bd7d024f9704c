//! The source stage: everything that is keyed by an address. All attempts of a network meet here.
//!
//! For each attempt: is it late, is it a duplicate, is the pair known; count it for its source and its network; ask
//! the playbooks; pass it on with what is known of source and pair. When a source is identified, what its entries
//! taught is unlearnt, and a note goes to the owner of each account it entered lately.

use super::counts::Counter;
use super::details::{self, About, Part, came_with};
use super::dock::{Asked, Circumstances, Dock, Harm};
use super::entrances::{Entrance, shown};
use super::env::Env;
use super::frame::{Item, Note, ProfileSum, Sourced};
use super::held::Held;
use super::io::{Effects, Output};
use super::key::Key;
use super::known::{KnownPair, keys_of};
use super::memory::{known_pair_of, learn_pair, unlearn_pair};
use super::orders::touched;
use super::row::{AccountRow, ENTRIES_MAX, Entry, GoodRow, NetworkRow, PairRow, Row, SourceRow, TrafficRow};
use super::task::Task;
use super::traits::trait_of;
use super::windows::{Counts, hear, kept_ms, tally};
use crate::decide::Claim;
use crate::detect::{
    CARRIED_MIN, CARRIED_OVER_MS, Carried, Deed, Found, Measures, Profile, Sign, SourceFacts, Standpoint, look,
    posterior as posterior_of, proxy,
};
use crate::event::{Activity, AttackState, Attempt, DetailKind, Entity, Millis, Outcome};
use crate::topology::{Stage, Watched};
use crate::window::{Hashed, Sighting, Slices, Timeliness, memory_ms};

/// Most blocked addresses of one network that are remembered: an IPv4 /24 holds no more.
const BLOCKED_MAX: usize = 256;
/// So many people who have always come from a source, or a network, are refused before it is lifted: one may be the owner of
/// the machine that attacks.
const HURT_AT_SOURCE: usize = 2;
const HURT_IN_NETWORK: usize = 3;
/// While a tenant is calm, the profile of one in so many attempts is told to the site.
const SAMPLED_OF: u64 = 16;

pub(super) fn reads(env: &Env, a: &Attempt, keys: &mut Vec<Key>) {
    let network = a.source.network();
    keys.push(Key::source(&a.tenant, a.source));
    keys.push(Key::network(&a.tenant, network));
    keys.push(Key::standing_of_source(&a.tenant, a.source));
    keys.push(Key::standing_of_network(&a.tenant, network));
    keys.push(Key::partial(&a.tenant));
    keys.push(Key::traffic(&a.tenant));
    if !a.account.is_empty() && !env.plan.failures_alone {
        let account = env.account(&a.tenant, &a.account);
        let pair = env.pair(a.source, account);
        keys.push(Key::pair(&a.tenant, a.source, pair));
        if !env.plan.pair.is_empty() {
            keys.push(Key::pair_windows(&a.tenant, pair));
            keys.push(Key::standing(&Entity::pair(&a.tenant, a.source, &a.account)));
        }
    }
    let watches = [&env.plan.address, &env.plan.network, &env.plan.pair].into_iter().flat_map(|of| &of.watches);
    keys.extend(watches.filter_map(|watch| Some(Key::cap(&a.tenant, watch.capped()?))));
}

pub(super) fn attempt(task: &mut Task, env: &Env, a: Attempt, fx: &mut Effects) {
    let timeliness = env.limits.timing.judge(a.delay_ms());
    let mut is_sampled = false;
    if timeliness == Timeliness::Late {
        // Its repeats are late as well, so nobody need remember it to recognise them.
        fx.count(Counter::Late);
        // No window takes it; only a success still means something.
        if !a.is_success() {
            return;
        }
    } else {
        let id = env.event_id(&a.tenant, a.source, &a.event_id);
        is_sampled = id.is_multiple_of(SAMPLED_OF);
        match task.seen.sight(id, content(env, &a), task.now(), env.limits.seen_ms()) {
            Sighting::Duplicate => return fx.count(Counter::Duplicates),
            Sighting::Conflict => fx.count(Counter::ConflictingIds),
            Sighting::New => {}
        }
        let checked = a.is_failure() || a.is_success();
        fx.count(if checked { Counter::Counted } else { Counter::NotCounted });
        fx.counts.outcome(a.outcome);
    }
    let mut scene = Scene::open(task, env, a, timeliness, fx);
    scene.is_sampled = is_sampled;
    scene.hear(task.now(), env);
    scene.judge(task, env, fx);
    scene.remember_success(task, env, fx);
    scene.remember_entrance(task, env);
    scene.tell_details(task, env, fx);
    scene.tell_site(task, env, fx);
    scene.close(task, env, fx);
}

/// What makes two events with one id the same attempt.
fn content(env: &Env, a: &Attempt) -> u32 {
    env.content(&[
        a.account.as_bytes(),
        a.outcome.as_str().as_bytes(),
        a.failure_reason.as_str().as_bytes(),
        // As published: a clock that runs ahead is set to arrival, and a repeat arrives at another time.
        &a.occurred_at.saturating_add(a.ahead_ms).to_be_bytes(),
        a.user_agent.as_deref().unwrap_or_default().as_bytes(),
    ])
}

/// One attempt with everything that is known of its source and pair.
struct Scene {
    a: Attempt,
    timeliness: Timeliness,
    case: Circumstances,
    account: Option<Hashed>,
    /// The pair, when it is known.
    known_pair: Option<PairRow>,
    /// Somebody asked that this source never be restricted.
    is_exempt: bool,
    /// The same wrong password again, or the same stranger's success again.
    repeat: bool,
    /// A known pair's wrong password again.
    known_repeat: bool,
    /// A failure that counts against the source.
    counts: bool,
    /// It tells nothing new of a known pair.
    says_nothing: bool,
    /// One of those by which the site learns what is usual.
    is_sampled: bool,
    /// What the traits of the attack that it has weigh against it.
    traits: f64,
    /// A stranger got in with what the attack's intruders share.
    shares: Option<Box<str>>,
    /// What it is to the windows of source, network and pair; nothing where it is late, or says nothing new.
    heard: [Counts; 3],
    source: Held<Box<SourceRow>>,
    network: Held<Box<NetworkRow>>,
    traffic: Held<TrafficRow>,
    /// Whether the windows of the source, and of its network, changed.
    source_heard: bool,
    network_heard: bool,
    source_dock: Dock,
    network_dock: Dock,
    /// Windows and standing of the pair, where a playbook watches pairs.
    pair: Option<(Held<Box<AccountRow>>, Dock)>,
    /// Entities newly kept out by this attempt, with the playbook.
    blocked: Vec<(Entity, Box<str>)>,
    /// The playbook whose block this attempt rolled back.
    rolled_back: Option<Box<str>>,
}

impl Scene {
    fn open(task: &mut Task, env: &Env, a: Attempt, timeliness: Timeliness, fx: &mut Effects) -> Scene {
        let network = a.source.network();
        let account = (!a.account.is_empty()).then(|| env.account(&a.tenant, &a.account));
        let known_pair = account.filter(|_| !env.plan.failures_alone);
        let known_pair = known_pair.and_then(|account| known_pair_of(task, env, &a, account));
        let source_key = Key::source(&a.tenant, a.source);
        let network_key = Key::network(&a.tenant, network);
        let mut scene = Scene {
            timeliness,
            case: Circumstances::of(task, &a.tenant, a.arrived_at, timeliness),
            account,
            known_pair,
            is_exempt: task.exempt_source(env, &a.tenant, a.source).is_some(),
            repeat: false,
            known_repeat: false,
            counts: false,
            says_nothing: false,
            is_sampled: false,
            traits: 0.0,
            shares: None,
            heard: [Counts::default(); 3],
            source: Held::take(task, source_key, Row::source),
            network: Held::take(task, network_key, Row::network),
            traffic: Held::take(task, Key::traffic(&a.tenant), Row::traffic),
            source_heard: false,
            network_heard: false,
            source_dock: Dock::take(task, Key::standing_of_source(&a.tenant, a.source), fx),
            network_dock: Dock::take(task, Key::standing_of_network(&a.tenant, network), fx),
            pair: account.filter(|_| !env.plan.pair.is_empty() && !env.plan.failures_alone).map(|account| {
                let windows = Key::pair_windows(&a.tenant, env.pair(a.source, account));
                let standing = Key::standing(&Entity::pair(&a.tenant, a.source, &a.account));
                (Held::take(task, windows, Row::account), Dock::take(task, standing, fx))
            }),
            blocked: Vec::new(),
            rolled_back: None,
            a,
        };
        // What is forgotten is a change like any other, so that a row in hand is always the row that is stored.
        let (now, memory_ms) = (task.now(), env.limits.pair_memory_ms);
        if scene.source.row.is_stale(now, memory_ms) {
            scene.source.change().forget(now, memory_ms);
        }
        if scene.network.row.is_stale(now, memory_ms) {
            scene.network.change().forget(now, memory_ms);
        }
        let strange = known_pair.is_none() && timeliness != Timeliness::Late;
        scene.repeat = strange && scene.is_repeat(env);
        scene.known_repeat = scene.known_pair.is_some()
            && timeliness != Timeliness::Late
            && scene.a.is_failure()
            && scene.is_repeat(env);
        scene.counts = strange && scene.a.is_failure() && !scene.repeat;
        let status = task.status_of(&scene.a.tenant).filter(|status| !status.traits.is_empty());
        if scene.counts {
            scene.traits = status.map_or(0.0, |status| status.weight_of(&Profile::of(&scene.a)));
        }
        if known_pair.is_none() && scene.a.is_success() {
            scene.shares = status.and_then(|status| shown(status, &Profile::of(&scene.a)));
        }
        scene
    }

    /// Whether an attempt repeats an earlier one: equal tags of one pair, without a tag a stranger's in one minute and a known
    /// pair's in one hour; a stranger's successes in one [`success_once_ms`](crate::topology::Plan::success_once_ms).
    fn is_repeat(&mut self, env: &Env) -> bool {
        let Some(account) = self.account.filter(|_| !env.plan.failures_alone) else { return false };
        let at = self.a.occurred_at;
        let print = match self.a.password_tag {
            _ if self.a.is_success() => env.repeat(account, b"success", at.div_euclid(env.plan.success_once_ms)),
            _ if !self.a.is_failure() => return false,
            Some(tag) => env.repeat(account, b"tag", i64::from(tag)),
            None if self.known_pair.is_some() => env.repeat(account, b"hour", at.div_euclid(3_600_000)),
            None => env.repeat(account, b"minute", at.div_euclid(60_000)),
        };
        let is_known = self.known_pair.is_some();
        let row = self.source_windows();
        if is_known { row.known_repeats.is_repeat(print) } else { row.repeats.is_repeat(print) }
    }

    /// Counts the attempt for its source, its network and its pair.
    fn hear(&mut self, now: Millis, env: &Env) {
        if self.repeat || self.timeliness == Timeliness::Late {
            return;
        }
        let strange = self.known_pair.is_none();
        let plan = &env.plan;
        let says_nothing = self.says_nothing(now, env);
        self.says_nothing = says_nothing;
        let counts = |watched: &Watched| {
            let counts = Counts::of(&self.a, self.counts, strange, watched);
            if says_nothing { Counts { strangers: None, ..counts } } else { counts }
        };
        self.heard = [counts(&plan.address), counts(&plan.network), counts(&plan.pair)];
        self.weigh(now, env, says_nothing);
        let [of_source, of_network, of_pair] = self.heard;
        if self.a.is_success() && !says_nothing {
            let at = self.a.occurred_at;
            add_success(&mut self.source_windows().successes, at);
            add_success(&mut self.traffic.change().successes, at);
        }
        if of_source.count_for(&plan.address) {
            self.source_heard = true;
            let a = &self.a;
            let row = self.source.change();
            hear(&mut row.tallies, &plan.address, a, of_source, &|set| env.member(set, a));
            row.first_seen = if row.first_seen == 0 { now } else { row.first_seen };
        }
        if of_network.count_for(&plan.network) {
            self.network_heard = true;
            let a = &self.a;
            hear(&mut self.network.change().tallies, &plan.network, a, of_network, &|set| env.member(set, a));
        }
        if let Some((windows, _)) = self.pair.as_mut().filter(|_| of_pair.count_for(&plan.pair)) {
            let a = &self.a;
            hear(&mut windows.change().tallies, &plan.pair, a, of_pair, &|set| env.member(set, a));
        }
        if self.a.is_success() && self.account.is_some() && strange {
            self.source_heard = true;
            let known_by = keys_of(&env.hash_key, &self.a).collect();
            self.source.change().enter(&self.a, known_by, env.plan.entry_memory_ms);
        }
    }

    /// Remembers that a stranger got in, and with what, until it is known what the intruders of an attack share.
    fn remember_entrance(&self, task: &mut Task, env: &Env) {
        let is_strange = self.account.is_some() && self.known_pair.is_none() && !self.repeat;
        let is_news = is_strange && self.shares.is_none() && self.timeliness != Timeliness::Late;
        if !self.a.is_success() || !is_news || env.plan.campaign.is_empty() || env.plan.failures_alone {
            return;
        }
        let profile = Profile::of(&self.a);
        if !profile.is_empty() {
            let entrance = Entrance::of(env, &self.a, task.now(), profile);
            task.entrances.note(entrance);
        }
    }

    /// Remembers what speaks for or against the source.
    fn weigh(&mut self, now: Millis, env: &Env, says_nothing: bool) {
        let deed = if self.counts {
            Deed::Failed { is_unknown: self.a.is_unknown_account(), account: self.account }
        } else if self.a.is_success() && self.known_pair.is_some() && !says_nothing {
            Deed::KnownSuccess
        } else if self.a.is_success() && self.known_pair.is_none() && self.account.is_some() {
            Deed::Entered
        } else {
            return;
        };
        if !env.plan.posterior.is_empty() {
            let traits = self.traits;
            let row = self.source_windows();
            row.evidence.take(deed, now);
            row.evidence.share(traits, now);
            row.first_seen = if row.first_seen == 0 { now } else { row.first_seen };
        }
    }

    /// Whether the attempt is of a known pair and says nothing new about its source. A known pair's failure never does:
    /// it counts for nobody. Its success says that the source is also somebody's home, a shared exit perhaps whose
    /// strangers are not all there is to it, and counts as an attempt that did not fail; but as seldom as a stranger's does,
    /// or an attacker who owns one known account would dilute the share of failures at will. The row of the pair tells
    /// when it last logged in, so that this holds however many people share an exit, exactly and with nothing more to
    /// remember. A source that is kept out teaches nothing, so nothing there would
    /// tell a second success from the first: none counts.
    fn says_nothing(&self, now: Millis, env: &Env) -> bool {
        let Some(pair) = self.known_pair else { return false };
        let part = |at: Millis| at.div_euclid(env.plan.success_once_ms);
        !self.a.is_success() || part(pair.last_success) == part(now) || self.blocked_by(now).is_some()
    }

    /// Asks the playbooks about the source, then about its network. What an edge stopped opens nothing and keeps
    /// alive what is open.
    fn judge(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        self.judge_touch(task, env, fx);
        let identified = if self.a.is_stopped() {
            if self.blocked_by(task.now()).is_some() {
                self.renew(task, env, fx);
                self.tell_network(task.now());
                self.roll_back(task, env, fx);
            }
            false
        } else {
            let source = self.judge_source(task, env, fx);
            self.judge_pair(task, env, fx);
            // Of the network's other sources, those blocked themselves were identified before.
            self.judge_network(task, env, fx) || source
        };
        if identified {
            self.source_identified(task, env, fx);
        }
    }

    /// Asks whether the attempt, whatever it is, touches what a person watches.
    fn judge_touch(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        if env.plan.tripwire.is_empty() {
            return;
        }
        let Some((who, found)) = touched(task, &self.a) else { return };
        let is_spared = !self.a.source.is_blockable() || task.exempt_entity(env, &who);
        let cause = self.case.cause(&self.a.event_id, self.a.occurred_at, is_spared);
        let was_blocked = self.source_dock.blocked_by(task.now()).is_some();
        for playbook in &env.plan.tripwire {
            self.source_dock.ask(task, Asked::plainly(playbook), &who, &cause, fx, || Some(found.clone()));
        }
        let newly = self.source_dock.blocked_by(task.now()).filter(|_| !was_blocked);
        self.blocked.extend(newly.map(|claim| (who, claim.playbook.clone())));
    }

    /// `true` when the source is newly kept out.
    fn judge_source(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) -> bool {
        let now = task.now();
        let [heard, ..] = self.heard;
        let mut asked = heard.asks(&env.plan.address, &self.a).peekable();
        let posterior = Some(&env.plan.posterior).filter(|_| self.counts && self.case.state != AttackState::Calm);
        let posterior = posterior.into_iter().flatten();
        if asked.peek().is_none() && (!self.counts || (env.plan.proxy.is_empty() && env.plan.posterior.is_empty())) {
            return false;
        }
        let who = Entity::source(&self.a.tenant, self.a.source);
        let proxied = self.proxied(env, &who.value);
        let is_spared = !self.a.source.is_blockable() || task.exempt_entity(env, &who);
        let cause = |is_spared| self.case.cause(&self.a.event_id, self.a.occurred_at, is_spared);
        if let Some(found) = &proxied {
            for playbook in &env.plan.proxy {
                let plainly = Asked::plainly(playbook);
                self.source_dock.ask(task, plainly, &who, &cause(false), fx, || Some(found.clone()));
            }
        }
        let cause = cause(is_spared || proxied.is_some());
        let good_accounts = self.source.row.good.count(now, env.limits.good_age_ms);
        let was_blocked = self.source_dock.blocked_by(now).is_some();
        for watch in asked {
            let tally = tally(&self.source.row.tallies, &env.plan.address, watch);
            let seen_for_ms = Some(now.saturating_sub(self.source.row.first_seen));
            let measures = Measures { tally, good_accounts, seen_for_ms, ..Measures::default() };
            let look = || look(&watch.playbook, &measures, self.case.state, &who.value);
            let asked = Asked::watching(task, env, watch, env.limits.source_partitions);
            self.source_dock.ask(task, asked, &who, &cause, fx, look);
        }
        for playbook in posterior {
            let Some(status) = task.status_of(&self.a.tenant) else { break };
            let row = &self.source.row;
            let from = Standpoint {
                odds_permille: status.odds_permille,
                is_new: row.first_seen >= status.since && row.good.accounts.is_empty(),
                good_accounts,
            };
            let look = || posterior_of(&row.evidence, &from, playbook.then.action, now, &who.value);
            self.source_dock.ask(task, Asked::plainly(playbook), &who, &cause, fx, look);
        }
        let newly = self.source_dock.blocked_by(now).filter(|_| !was_blocked);
        self.blocked.extend(newly.map(|claim| (who, claim.playbook.clone())));
        let is_new = newly.is_some();
        self.tell_network(now);
        is_new
    }

    /// Asks about the source on this account alone.
    fn judge_pair(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        let [_, _, heard] = self.heard;
        let mut asked = heard.asks(&env.plan.pair, &self.a).peekable();
        let Some((windows, dock)) = self.pair.as_mut().filter(|_| asked.peek().is_some()) else { return };
        let now = task.now();
        let who = Entity::pair(&self.a.tenant, self.a.source, &self.a.account);
        // A known pair is its owner's, whoever mistypes.
        let is_spared = self.known_pair.is_some()
            || self.is_exempt
            || !self.a.source.is_blockable()
            || task.exempt_entity(env, &who);
        let cause = self.case.cause(&self.a.event_id, self.a.occurred_at, is_spared);
        let good_accounts = self.source.row.good.count(now, env.limits.good_age_ms);
        for watch in asked {
            let tally = tally(&windows.row.tallies, &env.plan.pair, watch);
            let seen_for_ms = Some(now.saturating_sub(self.source.row.first_seen));
            let measures = Measures { tally, good_accounts, seen_for_ms, ..Measures::default() };
            let look = || look(&watch.playbook, &measures, self.case.state, &who.value);
            let asked = Asked::watching(task, env, watch, env.limits.source_partitions);
            dock.ask(task, asked, &who, &cause, fx, look);
        }
    }

    /// What says that the source is a proxy of the tenant's own. Of the other tasks of the stage it is only known that they
    /// see as much of the tenant's other traffic as this one does.
    fn proxied(&self, env: &Env, who: &str) -> Option<Found> {
        env.plan.proxy.first()?;
        let own = self.source.row.successes.as_ref()?;
        let all = self.traffic.row.successes.as_ref()?;
        let newest = all.newest().unwrap_or_default();
        let ([own], [all]) = (own.sums(newest), all.sums(newest));
        let (window_start, window_end) =
            self.traffic.row.successes.as_ref().map(|s| s.span(newest)).unwrap_or_default();
        let others = all.saturating_sub(own).saturating_mul(u64::from(env.limits.source_partitions.max(1)));
        proxy(&Carried { own, others, window_start, window_end }, who)
    }

    /// `true` when the network is newly kept out.
    fn judge_network(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) -> bool {
        let [_, heard, _] = self.heard;
        let mut asked = heard.asks(&env.plan.network, &self.a).peekable();
        if asked.peek().is_none() {
            return false;
        }
        let now = task.now();
        let network = self.a.source.network();
        let who = Entity::network(&self.a.tenant, network);
        let is_proxy = self.proxied(env, &who.value).is_some();
        let blockable = network.is_blockable() && self.a.source.is_blockable() && !is_proxy;
        let cause = self.case.cause(&self.a.event_id, self.a.occurred_at, !blockable || task.exempt_entity(env, &who));
        let addresses_blocked = self.network.row.blocked.iter().filter(|(_, until)| *until > now).count() as u64;
        let good_accounts = self.network.row.good.count(now, 0);
        let was_blocked = self.network_dock.blocked_by(now).is_some();
        for watch in asked {
            let tally = tally(&self.network.row.tallies, &env.plan.network, watch);
            let measures = Measures { tally, addresses_blocked, good_accounts, ..Measures::default() };
            let look = || look(&watch.playbook, &measures, self.case.state, &who.value);
            let asked = Asked::watching(task, env, watch, env.limits.source_partitions);
            self.network_dock.ask(task, asked, &who, &cause, fx, look);
        }
        let newly = self.network_dock.blocked_by(now).filter(|_| !was_blocked);
        self.blocked.extend(newly.map(|claim| (who, claim.playbook.clone())));
        newly.is_some()
    }

    fn renew(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        let source = Entity::source(&self.a.tenant, self.a.source);
        let network = Entity::network(&self.a.tenant, self.a.source.network());
        for (dock, who) in [(&mut self.source_dock, source), (&mut self.network_dock, network)] {
            dock.renew(task, &self.case.cause(&self.a.event_id, self.a.occurred_at, task.exempt_entity(env, &who)), fx);
        }
    }

    /// People who have always come from here are refused with the source, or with its network: what keeps it out is lifted.
    fn roll_back(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        let (Some(account), Some(pair), now) = (self.account, self.known_pair, task.now()) else { return };
        let by_source = self.source_dock.blocked_by(now);
        let Some(claim) = by_source.or_else(|| self.network_dock.blocked_by(now)).cloned() else { return };
        // Who became known in a hurry, or since, may be the attacker's.
        if claim.actor.is_some() || pair.known_from.saturating_add(env.limits.good_age_ms) > claim.since {
            return;
        }
        let is_source = by_source.is_some();
        let hurt = if is_source { &mut self.source_windows().hurt } else { &mut self.network_windows().hurt };
        if hurt.contains(&account) {
            return;
        }
        hurt.push(account);
        let enough = if is_source { HURT_AT_SOURCE } else { HURT_IN_NETWORK };
        if hurt.len() < enough {
            return;
        }
        hurt.clear();
        let tenant = &self.a.tenant;
        let (dock, who) = if is_source {
            (&mut self.source_dock, Entity::source(tenant, self.a.source))
        } else {
            (&mut self.network_dock, Entity::network(tenant, self.a.source.network()))
        };
        let cause = self.case.cause(&self.a.event_id, self.a.occurred_at, false);
        let version = env.playbooks.iter().find(|p| *p.id == *claim.playbook).map_or(0, |p| p.version);
        let harm = Harm { claim: &claim, playbook_version: version, hurt: enough };
        dock.roll_back(task, &who, &harm, &cause, fx);
        self.rolled_back = Some(claim.playbook);
    }

    /// The claim that keeps the source out now: on itself, or on its network. An exempt source is not kept out,
    /// whatever was published before.
    fn blocked_by(&self, now: Millis) -> Option<&Claim> {
        let block = self.source_dock.blocked_by(now).or_else(|| self.network_dock.blocked_by(now));
        block.filter(|_| !self.is_exempt)
    }

    /// Keeps the network's list of blocked addresses in line with this source's standing.
    fn tell_network(&mut self, now: Millis) {
        let Some(until) = self.source_dock.blocked_by(now).map(|claim| claim.until) else { return };
        if !self.network.row.blocked.contains(&(self.a.source, until)) {
            let source = self.a.source;
            let blocked = &mut self.network_windows().blocked;
            blocked.retain(|(held, end)| *held != source && *end > now);
            if blocked.len() < BLOCKED_MAX {
                blocked.push((source, until));
            }
        }
    }

    /// The source is identified: whoever it entered lately as a stranger must be looked at again, and what these
    /// entries taught is unlearnt.
    fn source_identified(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        let now = task.now();
        if self.source.row.entries.is_empty() || self.source.row.evidence.is_mixed(now) {
            return;
        }
        let Some(sign) = self.blocked_by(now).map(|claim| Sign::Blocked(claim.verdict_id.clone())) else { return };
        let entries = std::mem::take(&mut self.source_windows().entries);
        for entry in entries {
            if !entry.is_recent(self.a.arrived_at, env.plan.entry_memory_ms) {
                continue;
            }
            self.unlearn(task, env, &entry, fx);
            let note = Note {
                tenant: self.a.tenant.clone(),
                account: entry.account,
                source: self.a.source,
                event_id: entry.event_id,
                at: entry.at,
                sign: sign.clone(),
                known_at: self.a.arrived_at,
                incident_id: self.case.incident_id.clone(),
            };
            let route = env.route_account(&note.tenant, &note.account);
            fx.push(Output::Item { to: Stage::Account, route, item: Item::Note(note) });
        }
    }

    /// Nothing is learnt from a source that is kept out, nor from who shares what intruders do: that success is flagged.
    fn remember_success(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        let blocked_by = self.blocked_by(task.now());
        if let (true, Some(account), None, None) = (self.a.is_success(), self.account, blocked_by, &self.shares) {
            let counts_as_good = learn_pair(task, env, &self.a, account, self.case.state == AttackState::Calm, fx);
            if counts_as_good {
                let (now, memory_ms) = (task.now(), env.limits.pair_memory_ms);
                if self.source.row.good.wants(account, now) {
                    self.source.change().good.note(account, now, memory_ms);
                }
                if self.network.row.good.wants(account, now) {
                    self.network.change().good.note(account, now, memory_ms);
                }
            }
        }
    }

    /// Takes back what an entry taught.
    fn unlearn(&mut self, task: &mut Task, env: &Env, entry: &Entry, fx: &mut Effects) {
        let account = env.account(&self.a.tenant, &entry.account);
        fx.outputs.extend(entry.known_by.iter().map(|key| Output::KnownPair(KnownPair::taken_back(*key))));
        unlearn_pair(task, env, &self.a, account);
        if self.source.row.good.holds_since(account, entry.arrived_at) {
            self.source.change().good.forget(account, entry.arrived_at);
        }
        if self.network.row.good.holds_since(account, entry.arrived_at) {
            self.network.change().good.forget(account, entry.arrived_at);
        }
    }

    /// The source's row, to have its windows changed.
    fn source_windows(&mut self) -> &mut SourceRow {
        self.source_heard = true;
        self.source.change()
    }

    /// The network's row, to have its windows changed.
    fn network_windows(&mut self) -> &mut NetworkRow {
        self.network_heard = true;
        self.network.change()
    }

    /// What the profile of the attempt tells of traits: how many it stands for, whether a known pair got in, whether it is
    /// bad. `None` where it tells nothing.
    fn profiled(&self, env: &Env) -> Option<(u32, bool, bool)> {
        if env.plan.campaign.is_empty() || env.plan.failures_alone {
            None
        } else if self.a.is_stopped() {
            Some((self.a.count, false, true))
        } else if self.counts {
            Some((1, false, true))
        } else if self.a.is_success() && !self.repeat && !self.says_nothing {
            Some((1, self.known_pair.is_some(), false))
        } else {
            None
        }
    }

    /// What the source was to an incident.
    fn tell_details(&self, task: &mut Task, env: &Env, fx: &mut Effects) {
        if self.timeliness == Timeliness::Late || self.a.activity != Activity::Login {
            return;
        }
        let part = Part::of(&self.a, self.known_pair.is_none(), self.repeat);
        let part = Part { blocked: self.blocked.len() as u64, ..part };
        let (tenant, kind, who) = (&*self.a.tenant, DetailKind::Source, env.source(self.a.source));
        let about = About { tenant, kind, who, value: &self.a.source };
        details::note(task, env, about, part, || came_with(&self.a), fx);
    }

    fn tell_site(&mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        if self.timeliness == Timeliness::Late || self.a.activity != Activity::Login {
            return;
        }
        let source = env.source(self.a.source);
        let blocked = std::mem::take(&mut self.blocked);
        let rolled_back = self.rolled_back.take();
        let kept_out = self.blocked_by(task.now()).is_some();
        let ends =
            [&self.source_dock, &self.network_dock].map(|dock| dock.blocked_by(task.now()).map(|claim| claim.until));
        let blocked_until = ends.into_iter().flatten().max().filter(|_| !blocked.is_empty()).unwrap_or_default();
        let is_calm = self.case.state == AttackState::Calm;
        let profiled = self.profiled(env).filter(|_| !is_calm || (self.is_sampled && !self.a.is_stopped()));
        let profiled = profiled.map(|profiled| (Profile::of(&self.a), profiled)).filter(|(of, _)| !of.is_empty());
        let (a, account, counts, is_known) = (&self.a, self.account, self.counts, self.known_pair.is_some());
        let is_repeat = (self.repeat || self.known_repeat) && a.is_failure();
        task.add_partial(env, &a.tenant, fx, |partial| {
            match a.outcome {
                Outcome::Success => partial.attempts += 1,
                Outcome::Failure if a.is_failure() => partial.attempts += 1,
                Outcome::Blocked | Outcome::Challenged => {
                    partial.stopped = partial.stopped.saturating_add(a.count);
                    let is_first = !partial.sources.contains(&source);
                    partial.refused += u32::from(a.outcome == Outcome::Blocked && kept_out && is_first);
                }
                Outcome::Failure | Outcome::Unknown => {}
            }
            if counts || a.is_stopped() {
                partial.note_target(source, account, counts && a.is_unknown_account());
            }
            partial.known_failures += u32::from(a.is_failure() && is_known);
            partial.repeats += u32::from(is_repeat && !is_known);
            partial.known_repeats += u32::from(is_repeat && is_known);
            if counts || a.is_success() {
                for (per, _) in &env.plan.traits {
                    if let Some(value) = trait_of(*per, a) {
                        partial.add_trait(*per, &value, counts);
                    }
                }
            }
            if let Some((profile, (count, known, bad))) = profiled {
                let sums = if is_calm { &mut partial.sampled } else { &mut partial.profiles };
                ProfileSum::add(sums, profile, count, known, bad);
            }
            if counts {
                partial.failures += 1;
                partial.unknown += u32::from(a.is_unknown_account());
            }
            partial.blocked_until = partial.blocked_until.max(blocked_until);
            partial.blocked.extend(blocked);
            partial.rolled_back.extend(rolled_back);
        });
    }

    /// Puts back what was taken, and passes the attempt on to the owner of its account with what is known here.
    fn close(mut self, task: &mut Task, env: &Env, fx: &mut Effects) {
        let now = task.now();
        let is_mixed = self.source.row.evidence.is_mixed(now);
        let blocked_by = self.blocked_by(now).filter(|_| !is_mixed).map(|claim| claim.verdict_id.clone());
        let sign = blocked_by.map(Sign::Blocked).or(self.shares.take().map(Sign::Shares));
        let grace = env.limits.timing.grace_ms;
        let mut kept = kept_ms(&env.plan.address, grace).max(env.plan.entry_memory_ms);
        // Only who carries much is remembered for as long as it takes to tell a proxy.
        let carried = self.source.row.successes.as_ref().and_then(|s| Some(s.sums(s.newest()?)));
        if carried.is_some_and(|[n]| n >= CARRIED_MIN / 2) {
            kept = kept.max(memory_ms(CARRIED_OVER_MS, grace));
        }
        let memory_ms = env.limits.pair_memory_ms;
        if self.source_heard {
            self.source.row.forgotten_at = now.saturating_add(kept);
        }
        let kept_to = self.source.row.forgotten_at.max(self.source.row.good.kept_to(memory_ms));
        self.source.put(task, Row::Source, kept_to);
        if self.network_heard {
            let blocked_to = self.network.row.blocked.iter().map(|(_, until)| *until).max().unwrap_or(now);
            self.network.row.forgotten_at = now.saturating_add(kept_ms(&env.plan.network, grace)).max(blocked_to);
        }
        let kept_to = self.network.row.forgotten_at.max(self.network.row.good.kept_to(memory_ms));
        self.network.put(task, Row::Network, kept_to);
        let kept_to = now.saturating_add(crate::window::memory_ms(CARRIED_OVER_MS, grace));
        self.traffic.put(task, Row::Traffic, kept_to);
        self.source_dock.put(task);
        self.network_dock.put(task);
        if let Some((windows, dock)) = self.pair {
            windows.put(task, Row::Account, now.saturating_add(kept_ms(&env.plan.pair, grace)));
            dock.put(task);
        }
        let facts = SourceFacts { known_pair: self.known_pair.is_some(), sign };
        let device = self.a.device_id.as_ref().filter(|_| !env.plan.device.is_empty());
        if let Some(device) = device {
            let route = env.route_device(&self.a.tenant, device);
            let sourced = Sourced { attempt: self.a.clone(), facts: facts.clone(), repeat: self.repeat };
            fx.push(Output::Item { to: Stage::Account, route, item: Item::Device(Box::new(sourced)) });
        }
        if self.a.account.is_empty() {
            return;
        }
        let route = env.route_account(&self.a.tenant, &self.a.account);
        let sourced = Sourced { attempt: self.a, facts, repeat: self.repeat };
        fx.push(Output::Item { to: Stage::Account, route, item: Item::Sourced(Box::new(sourced)) });
    }
}

impl SourceRow {
    /// Whether a part of it is forgotten by `now` and still there.
    fn is_stale(&self, now: Millis, memory_ms: Millis) -> bool {
        (!self.good.accounts.is_empty() && self.good.kept_to(memory_ms) <= now)
            || (self.forgotten_at != 0 && self.forgotten_at <= now)
    }

    /// Forgets what is forgotten by `now`, each part at its own time, though the row was kept for the other.
    fn forget(&mut self, now: Millis, memory_ms: Millis) {
        if self.good.kept_to(memory_ms) <= now {
            self.good = GoodRow::default();
        }
        if self.forgotten_at <= now {
            *self = SourceRow { good: std::mem::take(&mut self.good), ..SourceRow::default() };
        }
    }

    /// Remembers whom a stranger entered.
    fn enter(&mut self, a: &Attempt, known_by: Vec<u128>, memory_ms: Millis) {
        self.entries.retain(|entry| entry.is_recent(a.arrived_at, memory_ms));
        if self.entries.len() == ENTRIES_MAX {
            self.entries.remove(0);
        }
        self.entries.push(Entry {
            account: a.account.clone(),
            event_id: a.event_id.clone(),
            at: a.occurred_at,
            arrived_at: a.arrived_at,
            known_by,
        });
    }
}

impl NetworkRow {
    /// As [`SourceRow::is_stale`].
    fn is_stale(&self, now: Millis, memory_ms: Millis) -> bool {
        (!self.good.accounts.is_empty() && self.good.kept_to(memory_ms) <= now)
            || (self.forgotten_at != 0 && self.forgotten_at <= now)
    }

    /// As [`SourceRow::forget`].
    fn forget(&mut self, now: Millis, memory_ms: Millis) {
        if self.good.kept_to(memory_ms) <= now {
            self.good = GoodRow::default();
        }
        if self.forgotten_at <= now {
            *self = NetworkRow { good: std::mem::take(&mut self.good), ..NetworkRow::default() };
        }
    }
}

impl Entry {
    /// Whether it is looked back upon by an attempt that arrived at `now`. Both are arrivals, so a backlog is judged
    /// as it would have been at its time.
    fn is_recent(&self, now: Millis, memory_ms: Millis) -> bool {
        self.arrived_at.saturating_add(memory_ms) > now
    }
}

/// Counts a success, for telling a proxy.
fn add_success(successes: &mut Option<Slices<1>>, at: Millis) {
    successes.get_or_insert_with(|| Slices::new(CARRIED_OVER_MS)).add(at, [1]);
}
