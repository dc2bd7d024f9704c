//! What one set of playbooks would have done with the past: whom it would have restricted, which attempts that would have
//! stopped, and whose logins were among them. Records go in, figures come out; no clock, no file.
//!
//! Each attempt is put to the very [`check`] that a check route answers with, on the lists as they stood when it arrived,
//! before anything that the attempt itself brings about. So a block counts from its `since` to its `until`, and a known
//! pair passes where it would have passed.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use super::story::Story;
use crate::edge::server::{Answer, Asked, Lists, Question, Verdict as Answered, check};
use crate::engine::{BlockChange, Counter, Counts, Emission, Env, Output, Pipeline, Raw};
use crate::event::{Action, Attempt, Millis, Mode, Scope, Verdict, wire};

/// Most entities that are told apart; what happened to further ones is in the sums alone.
pub const ENTITIES_MAX: usize = 500_000;
/// Most verdicts whose entity is remembered, for what they stop later.
const VERDICTS_MAX: usize = 2_000_000;
/// Most accounts that are told apart in each figure, and most that are known to have logged in before.
pub const ACCOUNTS_MAX: usize = 5_000_000;
/// The name under which stands what the attack status has challenged.
pub const BY_STATUS: &str = "attack-status";
/// Stream time between two occasions on which lists let go of what ended.
const FORGET_EVERY_MS: Millis = 60_000;

/// What became of the login of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Denied,
    Challenged,
    /// The pair was known, so what stood against its source did not hold for it.
    Spared,
}

/// A login that succeeded from what was restricted then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Met {
    pub at: Millis,
    pub tenant: String,
    pub account: String,
    pub source: String,
    pub event_id: String,
    pub fate: Fate,
    /// The account had logged in before in this history; else whoever came is new to it.
    pub known_user: bool,
    pub playbook: String,
    pub scope: Option<Scope>,
    pub action: Action,
}

/// Figures of a playbook, or of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    pub verdicts: u64,
    /// Of a playbook in shadow: what it would have said.
    pub shadow_verdicts: u64,
    /// Entities that would have been restricted, by what would have been done.
    pub entities: BTreeMap<&'static str, u64>,
    /// Attempts that reached the password check in the past and would not have: refused, and asked to prove something.
    pub attempts_denied: u64,
    pub attempts_challenged: u64,
    /// Attempts from what would have been restricted that were stopped in the past as well.
    pub attempts_stopped_anyway: u64,
    /// Accounts that logged in from what was refused, and from what was challenged: those that had logged in before in this
    /// history, and those that had not.
    pub known_users_denied: u64,
    pub known_users_challenged: u64,
    pub others_denied: u64,
    pub others_challenged: u64,
    /// Accounts that logged in all the same, because the pair was known.
    pub users_spared: u64,
}

impl Figures {
    /// Entities that would have been kept out.
    #[must_use]
    pub fn blocked(&self) -> u64 {
        self.of(&[Action::Block, Action::LockAccount])
    }

    /// Entities that would have been asked to prove something.
    #[must_use]
    pub fn challenged(&self) -> u64 {
        self.of(&[Action::Challenge, Action::StepUp])
    }

    fn of(&self, actions: &[Action]) -> u64 {
        actions.iter().filter_map(|action| self.entities.get(action.as_str())).sum()
    }
}

/// Somebody who would have been restricted at some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restricted {
    pub entity: Box<str>,
    /// The strongest, and the playbook that said so first.
    pub action: Action,
    pub playbook: Box<str>,
    pub since: Millis,
    /// The end of the last restriction.
    pub until: Millis,
    pub verdicts: u32,
    pub attempts_denied: u64,
    pub attempts_challenged: u64,
    /// Logins that succeeded from it in the past: of pairs that were not known, and of known ones.
    pub logins_stopped: u64,
    pub logins_spared: u64,
    #[serde(skip)]
    done: Vec<(Box<str>, Action)>,
}

/// Accounts, each once, as hashes.
#[derive(Debug, Default)]
struct Accounts(FxHashSet<u64>);

impl Accounts {
    fn put(&mut self, account: u64) {
        if self.0.len() < ACCOUNTS_MAX {
            self.0.insert(account);
        }
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

#[derive(Debug, Default)]
struct Sum {
    figures: Figures,
    known_denied: Accounts,
    known_challenged: Accounts,
    others_denied: Accounts,
    others_challenged: Accounts,
    spared: Accounts,
}

impl Sum {
    fn users(&mut self, fate: Fate, known_user: bool, account: u64) {
        let accounts = match (fate, known_user) {
            (Fate::Denied, true) => &mut self.known_denied,
            (Fate::Denied, false) => &mut self.others_denied,
            (Fate::Challenged, true) => &mut self.known_challenged,
            (Fate::Challenged, false) => &mut self.others_challenged,
            (Fate::Spared, _) => &mut self.spared,
        };
        accounts.put(account);
    }

    fn figures(&self) -> Figures {
        Figures {
            known_users_denied: self.known_denied.len(),
            known_users_challenged: self.known_challenged.len(),
            others_denied: self.others_denied.len(),
            others_challenged: self.others_challenged.len(),
            users_spared: self.spared.len(),
            ..self.figures.clone()
        }
    }
}

/// One set of playbooks, and what it did so far.
#[derive(Debug)]
pub struct Ledger {
    env: Arc<Env>,
    pipeline: Pipeline,
    lists: Lists,
    now: Millis,
    forgot_at: Millis,
    turns: usize,
    all: Sum,
    sums: BTreeMap<Box<str>, Sum>,
    entities: Vec<Restricted>,
    /// The place of an entity among them, by its key, and by the ids of its verdicts.
    places: BTreeMap<Box<str>, usize>,
    of_verdicts: FxHashMap<Box<str>, usize>,
    entities_left_out: u64,
    logged_in: Accounts,
    story: Story,
}

/// What stands against an attempt.
struct Stands {
    answer: Answer,
    /// The entry, or else the attack status, is what restricts it.
    by_entry: bool,
}

impl Stands {
    /// Whether the attempt takes place all the same.
    fn lets(stands: Option<&Stands>) -> bool {
        stands.is_none_or(|stands| stands.answer.verdict == Answered::Allow)
    }
}

impl Ledger {
    #[must_use]
    pub fn new(env: &Arc<Env>) -> Self {
        Ledger {
            pipeline: Pipeline::new(Arc::clone(env)),
            lists: Lists::new(None, (*env.exemptions).clone()),
            env: Arc::clone(env),
            now: Millis::MIN,
            forgot_at: Millis::MIN,
            turns: 0,
            all: Sum::default(),
            sums: BTreeMap::new(),
            entities: Vec::new(),
            places: BTreeMap::new(),
            of_verdicts: FxHashMap::default(),
            entities_left_out: 0,
            logged_in: Accounts::default(),
            story: Story::default(),
        }
    }

    /// Takes one record of the past. `counts`: what it brings about is counted; before that the past is only learnt from. A
    /// login that succeeded from what was restricted is told.
    pub fn feed(&mut self, raw: Raw<'_>, counts: bool) -> Option<Met> {
        self.now = self.now.max(raw.timestamp);
        // What fell due by now stood before the attempt came.
        let due = self.pipeline.advance(self.now);
        self.take(due, counts, true);
        let attempt = attempt_of(&raw, self.now);
        let stands = attempt.as_ref().and_then(|attempt| self.judge(attempt));
        // A login that would not have happened teaches nobody's pair.
        let happens = Stands::lets(stands.as_ref());
        let before = unused(self.pipeline.counts());
        let brought = self.pipeline.feed(raw);
        let is_used = unused(self.pipeline.counts()) == before;
        let met = attempt.filter(|_| is_used).and_then(|attempt| self.count(&attempt, stands, counts));
        self.take(brought, counts, happens);
        if self.now.saturating_sub(self.forgot_at) >= FORGET_EVERY_MS {
            self.forgot_at = self.now;
            self.turns += 1;
            self.lists.forget(self.turns, self.now);
        }
        met
    }

    /// What became of the records, by the engine's own counters.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        self.pipeline.counts()
    }

    /// Figures of all playbooks together.
    #[must_use]
    pub fn all(&self) -> Figures {
        let mut figures = self.all.figures();
        for entity in &self.entities {
            let mut actions: Vec<Action> = entity.done.iter().map(|(_, action)| *action).collect();
            actions.sort_unstable();
            actions.dedup();
            actions.into_iter().for_each(|action| *figures.entities.entry(action.as_str()).or_default() += 1);
        }
        figures
    }

    /// Figures of each playbook that said or stopped anything.
    #[must_use]
    pub fn by_playbook(&self) -> BTreeMap<Box<str>, Figures> {
        let mut all: BTreeMap<Box<str>, Figures> =
            self.sums.iter().map(|(playbook, sum)| (playbook.clone(), sum.figures())).collect();
        for (playbook, action) in self.entities.iter().flat_map(|entity| &entity.done) {
            *all.entry(playbook.clone()).or_default().entities.entry(action.as_str()).or_default() += 1;
        }
        all
    }

    /// Who would have been restricted, in the order of their keys.
    pub fn entities(&self) -> impl Iterator<Item = &Restricted> {
        self.places.values().filter_map(|place| self.entities.get(*place))
    }

    #[must_use]
    pub fn restricted(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Verdicts on entities beyond [`ENTITIES_MAX`].
    #[must_use]
    pub const fn entities_left_out(&self) -> u64 {
        self.entities_left_out
    }

    #[must_use]
    pub const fn story(&self) -> &Story {
        &self.story
    }

    fn judge(&self, attempt: &Attempt) -> Option<Stands> {
        let is_quiet = self.lists.status_of(&attempt.tenant, self.now).is_none();
        if is_quiet && self.lists.desired().is_empty() {
            return None;
        }
        let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        let question = Question {
            account: Some(attempt.account.to_string()),
            device: text(&attempt.device_id),
            user_agent: text(&attempt.user_agent),
            tls_fingerprint: text(&attempt.tls_fingerprint),
            asn: attempt.asn,
            country: text(&attempt.country),
            ..Question::default()
        };
        let asked = Asked::new(&attempt.tenant, Some(attempt.source.first_address()), &question).ok()?;
        let answer = check(&self.lists, &self.env.hash_key, &asked, self.now);
        let by_entry = match answer.verdict {
            Answered::Deny => true,
            Answered::Challenge => !answer.known && is_challenge(answer.action),
            Answered::Allow => false,
        };
        Some(Stands { answer, by_entry })
    }

    fn count(&mut self, attempt: &Attempt, stands: Option<Stands>, counts: bool) -> Option<Met> {
        let account = self.env.account(&attempt.tenant, &attempt.account);
        let is_login = attempt.is_success() && !attempt.account.is_empty();
        let known_user = self.logged_in.0.contains(&account);
        let happens = Stands::lets(stands.as_ref());
        if is_login && happens {
            self.logged_in.put(account);
        }
        let Stands { answer, by_entry } = stands.filter(|_| counts)?;
        let is_against = is_challenge(answer.action) || answer.action == Action::Block;
        let fate = match answer.verdict {
            Answered::Deny => Fate::Denied,
            Answered::Challenge => Fate::Challenged,
            Answered::Allow if answer.known && is_against => Fate::Spared,
            Answered::Allow => return None,
        };
        let by_entry = by_entry || fate == Fate::Spared;
        let playbook: Box<str> = match &answer.playbook {
            Some(playbook) if by_entry => playbook.as_str().into(),
            Some(_) | None => BY_STATUS.into(),
        };
        let sums = [Some(&mut self.all), Some(self.sums.entry(playbook.clone()).or_default())];
        let place = answer.verdict_id.as_deref().filter(|_| by_entry).and_then(|id| self.of_verdicts.get(id).copied());
        let entity = place.and_then(|place| self.entities.get_mut(place));
        let n = u64::from(attempt.count);
        for sum in sums.into_iter().flatten() {
            let figures = &mut sum.figures;
            match (attempt.is_stopped(), fate) {
                (_, Fate::Spared) => {}
                (true, Fate::Denied | Fate::Challenged) => figures.attempts_stopped_anyway += n,
                (false, Fate::Denied) => figures.attempts_denied += n,
                (false, Fate::Challenged) => figures.attempts_challenged += n,
            }
            if is_login {
                sum.users(fate, known_user, account);
            }
        }
        if let Some(entity) = entity {
            match (attempt.is_stopped(), fate) {
                (true, _) | (_, Fate::Spared) => {}
                (false, Fate::Denied) => entity.attempts_denied += n,
                (false, Fate::Challenged) => entity.attempts_challenged += n,
            }
            entity.logins_stopped += u64::from(is_login && fate != Fate::Spared);
            entity.logins_spared += u64::from(is_login && fate == Fate::Spared);
        }
        is_login.then(|| Met {
            at: self.now,
            tenant: attempt.tenant.to_string(),
            account: attempt.account.to_string(),
            source: attempt.source.to_string(),
            event_id: attempt.event_id.to_string(),
            fate,
            known_user,
            playbook: playbook.into(),
            scope: answer.scope.filter(|_| by_entry),
            action: if by_entry { answer.action } else { Action::Challenge },
        })
    }

    fn take(&mut self, emissions: Vec<Emission>, counts: bool, teaches: bool) {
        for Emission { at, output } in emissions {
            match output {
                Output::Verdict(verdict) if counts => {
                    self.story.verdict(at, &verdict);
                    self.verdict(at, &verdict);
                }
                Output::Block(change) => self.block(at, &change),
                Output::Status(status) => {
                    self.story.status(&status, counts);
                    // What has just been made can be written down.
                    if let Ok(value) = serde_json::to_vec(&status) {
                        self.lists.status(status.tenant.as_bytes(), Some(&value));
                    }
                }
                Output::Incident(incident) if counts => self.story.incident(&incident),
                Output::KnownPair(pair) if teaches || pair.day.is_none() => {
                    self.lists.pair(&pair.key.to_be_bytes(), pair.value().as_ref().map(|value| &value[..]));
                }
                Output::Verdict(_)
                | Output::Incident(_)
                | Output::KnownPair(_)
                | Output::DeadLetter(_)
                | Output::Detail(_)
                | Output::Activity(_)
                | Output::Playbook(_)
                | Output::Item { .. }
                | Output::MarkAll { .. } => {}
            }
        }
    }

    fn verdict(&mut self, at: Millis, verdict: &Verdict) {
        let sum = self.sums.entry(verdict.playbook.as_str().into()).or_default();
        for figures in [&mut self.all.figures, &mut sum.figures] {
            match verdict.mode {
                Mode::Live => figures.verdicts += 1,
                Mode::Shadow => figures.shadow_verdicts += 1,
            }
        }
        if verdict.mode == Mode::Shadow || !verdict.action.restricts() {
            return;
        }
        let key: Box<str> = format!("{}|{}|{}", verdict.tenant, verdict.scope.as_str(), verdict.value).into();
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.entities.len() >= ENTITIES_MAX => {
                self.entities_left_out += 1;
                return;
            }
            None => {
                self.places.insert(key.clone(), self.entities.len());
                self.entities.push(Restricted {
                    entity: key,
                    action: verdict.action,
                    playbook: verdict.playbook.as_str().into(),
                    since: at,
                    until: at,
                    verdicts: 0,
                    attempts_denied: 0,
                    attempts_challenged: 0,
                    logins_stopped: 0,
                    logins_spared: 0,
                    done: Vec::new(),
                });
                self.entities.len() - 1
            }
        };
        let Some(entity) = self.entities.get_mut(place) else { return };
        entity.verdicts += 1;
        entity.until = entity.until.max(verdict.until.unwrap_or(at));
        if verdict.action.strength() > entity.action.strength() {
            (entity.action, entity.playbook) = (verdict.action, verdict.playbook.as_str().into());
        }
        if !entity.done.iter().any(|(playbook, action)| **playbook == *verdict.playbook && *action == verdict.action) {
            entity.done.push((verdict.playbook.as_str().into(), verdict.action));
        }
        if self.of_verdicts.len() < VERDICTS_MAX {
            self.of_verdicts.insert(verdict.verdict_id.as_str().into(), place);
        }
    }

    fn block(&mut self, at: Millis, change: &BlockChange) {
        let key = change.entity.key();
        let entry = change.entry();
        if let Some(entity) = self.places.get(&*key).and_then(|place| self.entities.get_mut(*place)) {
            entity.until = match entry.as_ref().and_then(|entry| entry.until) {
                Some(until) => entity.until.max(until),
                // Lifted, or over.
                None => entity.until.min(at),
            };
        }
        let value = entry.map(|entry| serde_json::to_vec(&entry)).transpose();
        if let Ok(value) = value {
            self.lists.block(key.as_bytes(), value.as_deref(), Some(change.generation()));
        }
    }
}

const fn is_challenge(action: Action) -> bool {
    matches!(action, Action::Challenge | Action::StepUp)
}

/// Records of which nothing is counted: repeats, and what could not be read.
fn unused(counts: &Counts) -> u64 {
    counts.get(Counter::Duplicates) + counts.get(Counter::DeadLetters)
}

/// The attempt of a record, read through the same door as at intake; `None` where that is a dead letter.
#[must_use]
pub fn attempt_of(raw: &Raw<'_>, arrived_at: Millis) -> Option<Attempt> {
    let encoding = wire::encoding_of(raw.value, raw.schema_header).ok()?;
    let mut decoded = wire::decode(raw.value.unwrap_or_default(), encoding, raw.writer).ok()?;
    if let Some(tenant) = raw.tenant {
        decoded.event.tenant = tenant.to_owned();
    }
    wire::canonical(decoded.event, arrived_at, None).ok()
}
