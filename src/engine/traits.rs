//! What many sources share: autonomous systems, countries, agents, fingerprints, wrong passwords. The site stage keeps sums
//! of those that a playbook watches, as long as its window; whatever an attacker invents is forgotten with it.

use super::dock::{Asked, Circumstances, Dock};
use super::env::Env;
use super::frame::Partial;
use super::held::Held;
use super::io::Effects;
use super::key::Key;
use super::row::{AccountRow, Row};
use super::task::Task;
use super::windows::{kept_ms, tally};
use crate::detect::{Measures, look};
use crate::event::{AttackState, Attempt, Entity, Scope};
use crate::topology::{Moment, Per, Watched};
use crate::window::{Tally, Timeliness};

/// Most bytes of a value: user agents have no end.
const VALUE_BYTES_MAX: usize = 256;

/// What an attempt says of a trait, as a blocklist would name it.
pub(super) fn trait_of(per: Per, a: &Attempt) -> Option<Box<str>> {
    let text = match per {
        Per::Asn => return a.asn.map(|asn| asn.to_string().into()),
        Per::PasswordTag => return a.password_tag.map(|tag| format!("{tag:06x}").into()),
        Per::Country => a.country.as_deref(),
        Per::UserAgent => a.user_agent.as_deref(),
        Per::TlsFingerprint => a.tls_fingerprint.as_deref(),
        Per::Address | Per::Network | Per::Account | Per::Device | Per::Pair | Per::Tenant => None,
    }?;
    text.get(..text.floor_char_boundary(VALUE_BYTES_MAX)).map(Into::into)
}

fn entity(tenant: &str, per: Per, value: &str) -> Entity {
    // No scope is a password's, and nobody can be restricted by one.
    if per == Per::PasswordTag {
        return Entity {
            tenant: tenant.into(),
            scope: Scope::Other,
            value: format!("{}|{value}", per.as_str()).into(),
        };
    }
    let scope = match per {
        Per::Asn => Scope::Asn,
        Per::Country => Scope::Country,
        Per::UserAgent => Scope::UserAgent,
        Per::TlsFingerprint => Scope::TlsFingerprint,
        Per::Address | Per::Network | Per::Account | Per::Device | Per::Pair | Per::Tenant | Per::PasswordTag => {
            Scope::Other
        }
    };
    Entity { tenant: tenant.into(), scope, value: value.into() }
}

pub(super) fn reads(env: &Env, partial: &Partial, keys: &mut Vec<Key>) {
    let tenant = &*partial.tenant;
    for (per, watched) in &env.plan.traits {
        keys.push(Key::of_trait(tenant, *per, 0));
        keys.extend(watched.watches.iter().filter_map(|watch| Some(Key::cap(tenant, watch.capped()?))));
    }
    for sum in &partial.traits {
        keys.push(Key::of_trait(tenant, sum.per, env.trait_value(&sum.value)));
        keys.push(Key::standing(&entity(tenant, sum.per, &sum.value)));
    }
}

/// Adds the sums of a partial, and asks the playbooks about each trait that failed in it.
pub(super) fn partial(task: &mut Task, env: &Env, partial: &Partial, fx: &mut Effects) {
    let tenant = &*partial.tenant;
    for (per, watched) in &env.plan.traits {
        let sums = || partial.traits.iter().filter(|sum| sum.per == *per);
        let (attempts, failures) = (sums().map(|sum| sum.attempts).sum(), sums().map(|sum| sum.failures).sum());
        let Some(all) = add(task, env, watched, Key::of_trait(tenant, *per, 0), partial, (attempts, failures)) else {
            continue;
        };
        for sum in sums() {
            let key = Key::of_trait(tenant, *per, env.trait_value(&sum.value));
            let added = add(task, env, watched, key, partial, (sum.attempts, sum.failures));
            if let Some(own) = added.filter(|_| sum.failures > 0) {
                judge(task, env, watched, &entity(tenant, *per, &sum.value), (&own, &all), partial, fx);
            }
        }
    }
}

/// Adds to the windows of one trait; gives them, or `None` when there is nothing to add.
fn add(
    task: &mut Task,
    env: &Env,
    watched: &Watched,
    key: Key,
    partial: &Partial,
    (attempts, failures): (u32, u32),
) -> Option<Vec<Tally>> {
    if attempts == 0 {
        return None;
    }
    let kept_to = task.now().saturating_add(kept_ms(watched, env.limits.timing.grace_ms));
    let mut held: Held<Box<AccountRow>> = Held::take(task, key, Row::account);
    let tallies = &mut held.change().tallies;
    tallies.retain(|tally| watched.windows.iter().any(|window| tally.is_of(window)));
    for window in &watched.windows {
        let place = tallies.iter().position(|tally| tally.is_of(window)).unwrap_or_else(|| {
            tallies.push(Tally::new(window));
            tallies.len() - 1
        });
        if let Some(tally) = tallies.get_mut(place) {
            tally.add(partial.at, attempts, failures);
        }
    }
    let all = tallies.clone();
    held.put(task, Row::Account, kept_to);
    Some(all)
}

fn judge(
    task: &mut Task,
    env: &Env,
    watched: &Watched,
    who: &Entity,
    (own, all): (&[Tally], &[Tally]),
    partial: &Partial,
    fx: &mut Effects,
) {
    let state = match task.view.get(&Key::site(&who.tenant), task.now()) {
        Some(Row::Site(site)) => site.state,
        Some(_) | None => AttackState::Calm,
    };
    let circumstances = Circumstances::of(task, &who.tenant, task.now(), Timeliness::Fresh);
    // Sums come from no single event; the second that they are of tells episodes apart.
    let cause = circumstances.cause("", partial.at, task.exempt_entity(env, who));
    let mut dock = Dock::take(task, Key::standing(who), fx);
    for watch in watched.watches.iter().filter(|watch| watch.fires_at(Moment::Failure)) {
        let site_failures = tally(all, watched, watch).map(|tally| tally.attempts_and_failures().1);
        let measures = Measures { tally: tally(own, watched, watch), site_failures, ..Measures::default() };
        let look = || look(&watch.playbook, &measures, state, &who.value);
        dock.ask(task, Asked::watching(task, env, watch, 1), who, &cause, fx, look);
    }
    dock.put(task);
}
