//! Whom strangers entered lately, and with what: as soon as it is known what the intruders of an attack share, these are
//! looked at again. Their sources may have tried once and never come back, so nothing else would point to them.
//!
//! A status is told again and again; only whom the one before did not show to be an intruder is looked at. Whoever gets in
//! afterwards is told of at once (`source`). Each of those who are found falls due before anything else comes, since
//! its rows are not in hand when the mark is read.

use serde::{Deserialize, Serialize};

use super::details::BEFORE_MS;
use super::env::Env;
use super::frame::{Item, Note, ProfileSum};
use super::io::{ControlChange, Effects, Output, StatusChange, TraitChange};
use super::key::{Key, Kind};
use super::known::{KnownPair, keys_of};
use super::row::Row;
use super::task::Task;
use crate::detect::{Profile, Sign};
use crate::event::{Attempt, Millis, Source};
use crate::topology::Stage;
use crate::window::{Arrived, Hashed};

/// Most entrances of one task that are remembered; beyond it the oldest go early.
const ENTRANCES_MAX: usize = 4_096;
/// Most traits that a finding names.
const WORDS_MAX: usize = 3;

/// A stranger got in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrance {
    /// Arrival.
    at: Millis,
    tenant: Box<str>,
    source: Source,
    account: Box<str>,
    event_id: Box<str>,
    occurred_at: Millis,
    /// What `known-pairs` may have been told of it.
    known_by: Vec<u128>,
    /// Keyed hashes of the account, and of it at this source.
    hashed: Hashed,
    pair: Hashed,
    profile: Profile,
}

impl Arrived for Entrance {
    const MOST: usize = ENTRANCES_MAX;

    fn at(&self) -> Millis {
        self.at
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl Entrance {
    pub(super) fn of(env: &Env, a: &Attempt, at: Millis, profile: Profile) -> Self {
        let hashed = env.account(&a.tenant, &a.account);
        Entrance {
            at,
            tenant: a.tenant.clone(),
            source: a.source,
            account: a.account.clone(),
            event_id: a.event_id.clone(),
            occurred_at: a.occurred_at,
            known_by: keys_of(&env.hash_key, a).collect(),
            hashed,
            pair: env.pair(a.source, hashed),
            profile,
        }
    }

    fn key(&self) -> Key {
        Key::pair(&self.tenant, self.source, self.pair)
    }
}

/// What a stranger who got in shares with the attack, in words, when that shows an intruder: of a pair both values, each behind
/// its name.
pub(super) fn shown(status: &StatusChange, profile: &Profile) -> Option<Box<str>> {
    if !status.shows_intruder(profile) {
        return None;
    }
    let words = |of: &TraitChange| {
        let names = of.feature.as_str().split('+');
        names
            .zip(of.value.split('\u{1f}'))
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
            .join(" with ")
    };
    Some(status.shared_by(profile).take(WORDS_MAX).map(words).collect::<Vec<_>>().join(", ").into())
}

/// The pairs that are to be looked at again by a change of a tenant's status: who got in since the attack began with a
/// trait that shows intruders only now.
pub(super) fn shown_up(task: &Task, change: &ControlChange) -> Vec<Key> {
    let ControlChange::Status { tenant, status: Some(status), .. } = change else { return Vec::new() };
    if task.stage() != Stage::Source || status.entered_permille == 0 {
        return Vec::new();
    }
    let before = task.told_status(tenant).filter(|before| before.incident_id == status.incident_id);
    let was_shown = |profile: &Profile| before.is_some_and(|before| before.shows_intruder(profile));
    let is_news = |entrance: &&Entrance| status.shows_intruder(&entrance.profile) && !was_shown(&entrance.profile);
    let since = task.entrances.since(tenant, status.since.saturating_sub(BEFORE_MS), task.now());
    since.filter(is_news).map(Entrance::key).collect()
}

/// An incident becomes known that began at `since`: the site is told with what strangers got in until now. While a tenant is
/// calm it hears of a sample only.
pub(super) fn tell_site(task: &mut Task, env: &Env, tenant: &str, since: Millis, fx: &mut Effects) {
    if task.stage() != Stage::Source {
        return;
    }
    let profiles = task.entrances.since(tenant, since, task.now()).map(|entrance| entrance.profile.clone());
    for profile in profiles.collect::<Vec<_>>() {
        task.add_partial(env, tenant, fx, |partial| ProfileSum::add(&mut partial.profiles, profile, 1, false, false));
    }
}

/// The latest entrance of a pair.
fn of_pair<'a>(task: &'a Task, pair: &'a Key) -> Option<&'a Entrance> {
    let (tenant, rest) = pair.parts()?;
    let theirs = task.entrances.since(tenant, Millis::MIN, task.now());
    theirs.filter(|entrance| rest.ends_with(&entrance.pair.to_be_bytes()) && entrance.key() == *pair).last()
}

/// The rows that such a pair's look touches, beside its own.
pub(super) fn reads(task: &Task, pair: &Key, keys: &mut Vec<Key>) {
    if pair.kind_byte() != Kind::Pair as u8 {
        return;
    }
    if let Some(entrance) = of_pair(task, pair) {
        keys.push(Key::source(&entrance.tenant, entrance.source));
        keys.push(Key::network(&entrance.tenant, entrance.source.network()));
    }
}

/// A pair is looked at again: what its entrance taught is taken back, and the owner of the account is told.
pub(super) fn due(task: &mut Task, env: &Env, pair: &Key, fx: &mut Effects) {
    let now = task.now();
    let Some(entrance) = of_pair(task, pair).cloned() else { return };
    let Some(status) = task.status_of(&entrance.tenant) else { return };
    let Some(shown) = shown(status, &entrance.profile) else { return };
    let incident_id = status.incident_id.clone();
    let account = entrance.hashed;
    fx.outputs.extend(entrance.known_by.iter().map(|key| Output::KnownPair(KnownPair::taken_back(*key))));
    task.view.remove(pair.clone());
    forget_good(task, &Key::source(&entrance.tenant, entrance.source), account, entrance.at);
    forget_good(task, &Key::network(&entrance.tenant, entrance.source.network()), account, entrance.at);
    let route = env.route_account(&entrance.tenant, &entrance.account);
    let note = Note {
        tenant: entrance.tenant,
        account: entrance.account,
        source: entrance.source,
        event_id: entrance.event_id,
        at: entrance.occurred_at,
        sign: Sign::Shares(shown),
        known_at: now,
        incident_id,
    };
    fx.push(Output::Item { to: Stage::Account, route, item: Item::Note(note) });
}

/// The account no longer counts as one of the good ones of a source, or of a network, since then.
fn forget_good(task: &mut Task, key: &Key, account: Hashed, since: Millis) {
    let now = task.now();
    let good = match task.view.get(key, now) {
        Some(Row::Source(row)) => &row.good,
        Some(Row::Network(row)) => &row.good,
        Some(_) | None => return,
    };
    if good.holds_since(account, since) {
        task.view.change(key, now, |row| {
            if let Row::Source(row) = row {
                row.good.forget(account, since);
            } else if let Row::Network(row) = row {
                row.good.forget(account, since);
            }
        });
    }
}
