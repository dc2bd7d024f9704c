//! Which threshold a playbook may have for a wanted number of false positives.
//!
//! The playbook is played over the past many times at once, each time with another threshold, in shadow and unless it is ATTACK:
//! what fires is what the engine itself says, with its windows, exemptions and good accounts. ELEVATED
//! may stand for nothing, so it is not left out; what fires is ordinary traffic, or an attack too small to be noticed. An entity from
//! which known accounts logged in is taken for honest.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use serde::Serialize;

use super::ledger::attempt_of;
use crate::decide::CLAIMS_MAX;
use crate::edge::server::KnownPairs;
use crate::engine::{Env, KnownBy, Output, Pipeline, Raw, day_of, pair_key};
use crate::event::{AttackState, Attempt, Entity, Millis, Scope};
use crate::topology::{Amount, Detector, Measure, Per, Plan, Playbook, PlaybookMode, Thresholds, format_duration};

/// Thresholds of a count, and of a share, that are tried; the playbook's own is tried as well.
const COUNTS: [f64; 22] = [
    1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0,
    200.0, 300.0,
];
const SHARES: [f64; 12] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0];
/// Most entities that fire on a day, over all days, of one threshold; beyond it the figure is too low.
const FIRED_MAX: usize = 1_000_000;
/// Most entities with honest logins.
const GOOD_MAX: usize = 5_000_000;
const DAY_MS: f64 = 86_400_000.0;
/// Keeps the hashes here apart from those of the state.
const DOMAIN: u8 = 0xb7;

/// How many false positives are wanted at most, in a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Budget(pub f64);

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let parsed = || {
            let (number, span) = text.split_once('/').or_else(|| text.split_once("-per-"))?;
            let days = match span.trim() {
                "hour" | "h" => 1.0 / 24.0,
                "day" | "d" => 1.0,
                "week" | "w" => 7.0,
                "month" => 30.0,
                _ => return None,
            };
            let number: f64 = number.trim().parse().ok()?;
            (number.is_finite() && number >= 0.0).then_some(Budget(number / days))
        };
        parsed().ok_or_else(|| format!("`{text}`: write 1/day, 5/week or 0.5/hour"))
    }
}

/// How one threshold fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    pub threshold: f64,
    /// It is what the playbook says now.
    pub is_now: bool,
    /// Entities that fire, each once a day it fires on.
    pub fired: u64,
    pub fired_a_day: f64,
    /// Those of them from which known accounts logged in.
    pub with_known_users: u64,
    pub with_known_users_a_day: f64,
}

/// Thresholds and what they bring.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Suggestion {
    pub playbook: String,
    pub measure: &'static str,
    pub over: String,
    pub days: f64,
    pub budget_a_day: Budget,
    pub tried: Vec<Tried>,
    /// The lowest that keeps the budget, when those with known users are the false positives.
    pub threshold: Option<f64>,
    /// The same if everybody who fires were honest.
    pub threshold_if_all_are_honest: Option<f64>,
}

/// A playbook that is played with many thresholds.
#[derive(Debug)]
pub struct Sweep {
    env: Arc<Env>,
    playbook: Playbook,
    measure: Measure,
    thresholds: Vec<f64>,
    pipelines: Vec<Pipeline>,
    now: Millis,
    known: KnownPairs,
    good: FxHashSet<u64>,
    /// By threshold: entities and the days on which they fired.
    fired: Vec<FxHashSet<(u64, i32)>>,
    span: Option<(Millis, Millis)>,
}

impl Sweep {
    /// `measure`: the one whose threshold is looked for; the playbook's first count without it.
    ///
    /// # Errors
    /// Nothing can be suggested for this playbook: why not, and what to do.
    pub fn new(env: &Arc<Env>, id: &str, measure: Option<&str>) -> Result<Sweep, String> {
        let Some(playbook) = env.playbooks.iter().find(|playbook| playbook.id == id) else {
            let ids: Vec<&str> = env.playbooks.iter().map(|playbook| playbook.id.as_str()).collect();
            return Err(format!("`{id}` is none of the playbooks; they are {}", ids.join(", ")));
        };
        if playbook.detector != Detector::Threshold {
            return Err(format!("`{id}` has no threshold: its detector is {}", playbook.detector.as_str()));
        }
        if !playbook.states.is_empty() && !playbook.states.contains(&AttackState::Calm) {
            return Err(format!("`{id}` does not act in CALM, and false positives are counted there"));
        }
        let bounds = || playbook.trigger.iter().filter(|(_, bound)| bound.at_least.is_some());
        let found = match measure {
            Some(name) => bounds().find(|(measure, _)| measure.as_str() == name),
            None => bounds().find(|(measure, _)| measure.is_count()).or_else(|| bounds().next()),
        };
        let Some((measure, bound)) = found.filter(|(measure, _)| !measure.is_time()) else {
            let names: Vec<&str> = bounds().filter(|(m, _)| !m.is_time()).map(|(m, _)| m.as_str()).collect();
            return Err(format!("`{id}` has no lower bound on that; say --measure {}", names.join(" or ")));
        };
        let now = bound.at_least.map(|least| least.at(AttackState::Calm));
        let mut thresholds: Vec<f64> = if measure.is_share() { SHARES.to_vec() } else { COUNTS.to_vec() };
        thresholds.extend(now);
        thresholds.sort_by(f64::total_cmp);
        thresholds.dedup();
        let mut sweep = Sweep {
            env: Arc::clone(env),
            playbook: playbook.clone(),
            measure: *measure,
            fired: vec![FxHashSet::default(); thresholds.len()],
            thresholds,
            pipelines: Vec::new(),
            now: Millis::MIN,
            known: KnownPairs::default(),
            good: FxHashSet::default(),
            span: None,
        };
        sweep.begin()?;
        Ok(sweep)
    }

    /// As many pipelines as it takes for an entity to have a claim for each threshold.
    fn begin(&mut self) -> Result<(), String> {
        // The site's state decides which thresholds count; addresses that others block, where that is what is measured.
        let needs_blocks = self.playbook.measures().any(|measure| measure == Measure::AddressesBlocked);
        let others = self
            .env
            .playbooks
            .iter()
            .filter(|other| other.id != self.playbook.id && (needs_blocks || other.detector == Detector::Campaign));
        let others: Vec<Playbook> = others.cloned().collect();
        let beside = others.iter().filter(|other| other.per == self.playbook.per).count();
        let numbered: Vec<(usize, f64)> = self.thresholds.iter().copied().enumerate().collect();
        for some in numbered.chunks(CLAIMS_MAX.saturating_sub(beside).max(1)) {
            let mut playbooks = others.clone();
            playbooks.extend(some.iter().map(|(number, threshold)| self.with(*number, *threshold)));
            let env = Env {
                plan: Plan::compile(&playbooks).map_err(|e| e.to_string())?,
                playbooks: playbooks.into(),
                ..(*self.env).clone()
            };
            self.pipelines.push(Pipeline::new(Arc::new(env)));
        }
        Ok(())
    }

    fn with(&self, number: usize, threshold: f64) -> Playbook {
        let mut playbook = self.playbook.clone();
        playbook.id = number.to_string();
        playbook.mode = PlaybookMode::Shadow;
        playbook.states = vec![AttackState::Calm, AttackState::Elevated];
        playbook.then.cap = None;
        if let Some(bound) = playbook.trigger.get_mut(&self.measure) {
            bound.at_least = Some(Thresholds::Same(Amount(threshold)));
        }
        playbook
    }

    /// Takes one record of the past; what is not counted is only learnt from.
    pub fn feed(&mut self, raw: Raw<'_>, counts: bool) {
        self.now = self.now.max(raw.timestamp);
        if counts {
            self.span = Some((self.span.map_or(self.now, |(first, _)| first), self.now));
        }
        if let Some(attempt) = attempt_of(&raw, self.now).filter(|a| a.is_success() && !a.account.is_empty()) {
            self.note(&attempt);
        }
        for which in 0..self.pipelines.len() {
            let Some(pipeline) = self.pipelines.get_mut(which) else { continue };
            for emission in pipeline.feed(raw) {
                match emission.output {
                    Output::Verdict(verdict) if counts => {
                        let key = format!("{}|{}|{}", verdict.tenant, verdict.scope.as_str(), verdict.value);
                        let fired = verdict.playbook.parse().ok().and_then(|n: usize| self.fired.get_mut(n));
                        if let Some(fired) = fired.filter(|fired| fired.len() < FIRED_MAX) {
                            fired.insert((hash(&self.env, &key), day_of(emission.at)));
                        }
                    }
                    Output::KnownPair(pair) if which == 0 => self.known.set(pair.key, pair.day),
                    Output::Verdict(_)
                    | Output::KnownPair(_)
                    | Output::Block(_)
                    | Output::Status(_)
                    | Output::Incident(_)
                    | Output::DeadLetter(_)
                    | Output::Detail(_)
                    | Output::Activity(_)
                    | Output::Playbook(_)
                    | Output::Item { .. }
                    | Output::MarkAll { .. } => {}
                }
            }
        }
    }

    /// Takes note of a login of a pair that was known before.
    fn note(&mut self, attempt: &Attempt) {
        let by = [Some(KnownBy::Source(attempt.source)), attempt.device_id.as_deref().map(KnownBy::Device)];
        let is_known = by.into_iter().flatten().any(|by| {
            let key = pair_key(&self.env.hash_key, &attempt.tenant, &attempt.account, by);
            self.known.is_known(key, day_of(self.now))
        });
        if is_known
            && self.good.len() < GOOD_MAX
            && let Some(entity) = entity_of(self.playbook.per, attempt)
        {
            self.good.insert(hash(&self.env, &entity.key()));
        }
    }

    /// What each threshold has brought, and which keeps the budget.
    #[must_use]
    pub fn suggestion(&self, budget: Budget) -> Suggestion {
        let days = self.span.map_or(0.0, |(first, last)| (last - first) as f64 / DAY_MS);
        let a_day = |n: u64| if days > 0.0 { n as f64 / days } else { 0.0 };
        let own = self.playbook.trigger.get(&self.measure).and_then(|bound| bound.at_least);
        let own = own.map(|least| least.at(AttackState::Calm));
        let tried = self.thresholds.iter().zip(&self.fired).map(|(threshold, fired)| {
            let with_known = fired.iter().filter(|(entity, _)| self.good.contains(entity)).count() as u64;
            Tried {
                threshold: *threshold,
                is_now: own.is_some_and(|own| own.total_cmp(threshold).is_eq()),
                fired: fired.len() as u64,
                fired_a_day: a_day(fired.len() as u64),
                with_known_users: with_known,
                with_known_users_a_day: a_day(with_known),
            }
        });
        let tried: Vec<Tried> = tried.collect();
        // A higher threshold fires for no more entities, but a day's border may say so; all above must keep it as well.
        let is_silent = tried.iter().all(|tried| tried.fired == 0);
        let lowest = |figure: fn(&Tried) -> f64| {
            // Where not even the lowest fires, the past says nothing.
            if is_silent {
                return None;
            }
            let keeping = tried.iter().rev().take_while(|tried| figure(tried) <= budget.0);
            keeping.last().map(|tried| tried.threshold)
        };
        Suggestion {
            playbook: self.playbook.id.clone(),
            measure: self.measure.as_str(),
            over: format_duration(self.playbook.over),
            days,
            budget_a_day: budget,
            threshold: lowest(|tried| tried.with_known_users_a_day),
            threshold_if_all_are_honest: lowest(|tried| tried.fired_a_day),
            tried,
        }
    }

    /// What became of the records, by the engine's own counters.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.pipelines.first().map(Pipeline::counts);
        counts.into_iter().flat_map(|counts| counts.iter()).map(|(counter, n)| (counter.as_str(), n)).collect()
    }
}

fn hash(env: &Env, key: &str) -> u64 {
    env.hash_key.hash(DOMAIN, &[key.as_bytes()])
}

fn entity_of(per: Per, a: &Attempt) -> Option<Entity> {
    let named =
        |scope: Scope, value: Option<String>| Some(Entity { tenant: a.tenant.clone(), scope, value: value?.into() });
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    match per {
        Per::Address => Some(Entity::source(&a.tenant, a.source)),
        Per::Network => Some(Entity::network(&a.tenant, a.source.network())),
        Per::Account => Some(Entity::account(&a.tenant, &a.account)),
        Per::Device => a.device_id.as_deref().map(|device| Entity::device(&a.tenant, device)),
        Per::Pair => Some(Entity::pair(&a.tenant, a.source, &a.account)),
        Per::Asn => named(Scope::Asn, a.asn.map(|asn| asn.to_string())),
        Per::Country => named(Scope::Country, text(&a.country)),
        Per::UserAgent => named(Scope::UserAgent, text(&a.user_agent)),
        Per::TlsFingerprint => named(Scope::TlsFingerprint, text(&a.tls_fingerprint)),
        Per::Tenant => Some(Entity::tenant(&a.tenant)),
        Per::PasswordTag => named(Scope::Other, a.password_tag.map(|tag| format!("{tag:06x}"))),
    }
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Suggestion { playbook, measure, over, days, budget_a_day, .. } = self;
        writeln!(f, "{playbook}: {measure} over {over} unless it is ATTACK, measured over {days:.2} days")?;
        if *days < 1.0 {
            writeln!(f, "less than a day: figures a day are projected, and hours that are not in it are not known")?;
        }
        writeln!(f, "{:>10} {:>12} {:>12} {:>24}", "at least", "fire", "a day", "known users among, a day")?;
        for tried in &self.tried {
            let mark = if tried.is_now { "  as it is" } else { "" };
            writeln!(
                f,
                "{:>10} {:>12} {:>12.2} {:>24.2}{mark}",
                tried.threshold, tried.fired, tried.fired_a_day, tried.with_known_users_a_day
            )?;
        }
        if self.tried.iter().all(|tried| tried.fired == 0) {
            return write!(
                f,
                "nobody fires at any of them: this past says nothing; take more of it, or another measure"
            );
        }
        let say =
            |threshold: Option<f64>| threshold.map_or_else(|| "none that was tried".to_owned(), |t| t.to_string());
        writeln!(
            f,
            "the lowest that keeps {} a day: {}, counting entities from which known users log in",
            budget_a_day.0,
            say(self.threshold)
        )?;
        write!(f, "{} if everybody who fires were honest", say(self.threshold_if_all_are_honest))
    }
}
