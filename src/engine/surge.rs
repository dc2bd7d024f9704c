//! What the attempts of a tenant have in common: sums of the values of each feature, and which of them the bad attempts
//! share while something is on.

use super::env::Env;
use super::frame::{Partial, ProfileSum};
use super::key::Key;
use super::row::{Row, SiteRow};
use super::site::USUAL_KEPT_MS;
use super::task::Task;
use crate::detect::{Feature, Seen, Values, When, entered_bad_to_good, surging};
use crate::event::{AttackState, Millis, Trait};

/// Traits are looked for at most this often.
const EVERY_MS: Millis = 1_000;
/// From then on, how many strangers who get in are the attack's is news when it has doubled, or is half of what it was.
const ENTERED_NEWS: f64 = 0.1;
/// What is now fades by half in a minute: of what lies longer back hardly anything is left.
const REMEMBERED_MS: Millis = 90_000;

pub(super) fn reads(partial: &Partial, keys: &mut Vec<Key>) {
    if !(partial.profiles.is_empty() && partial.sampled.is_empty()) {
        keys.extend(Feature::ALL.iter().map(|feature| Key::values(&partial.tenant, *feature)));
    }
}

/// Adds the profiles of a partial to what is usual while the tenant is calm, and to what is now; looks for traits
/// while it is not. `bad_to_good`: of the tenant.
pub(super) fn partial(task: &mut Task, env: &Env, partial: &Partial, row: &mut SiteRow, bad_to_good: f64) {
    // Suspicious traffic teaches nothing.
    let is_usual = row.state == AttackState::Calm && row.campaign.since().is_none();
    for feature in Feature::ALL {
        if is_usual {
            add(task, env, partial, &partial.sampled, feature, When::Usual);
        }
        add(task, env, partial, &partial.profiles, feature, When::Now);
    }
    let now = task.now();
    let is_time = now.saturating_sub(row.traits_at) >= EVERY_MS && !partial.profiles.is_empty();
    if row.state != AttackState::Calm && is_time {
        row.traits_at = now;
        // As much as is remembered of now, and of the epoch at most.
        let remembered = now.saturating_sub(row.since).clamp(0, REMEMBERED_MS) as f64;
        let expected = row.usual_attempts * remembered / 60_000.0;
        look(task, partial, row, bad_to_good, expected);
    }
}

fn add(task: &mut Task, env: &Env, partial: &Partial, sums: &[ProfileSum], feature: Feature, when: When) {
    let now = task.now();
    let key = Key::values(&partial.tenant, feature);
    let mut of_feature = sums.iter().filter_map(|sum| Some((sum.profile.value(feature)?, sum))).peekable();
    if of_feature.peek().is_none() {
        return;
    }
    let mut values = task.view.take(&key, now).and_then(Row::values).unwrap_or_default();
    for (text, sum) in of_feature {
        let entered = sum.attempts.saturating_sub(sum.known).saturating_sub(sum.bad);
        let [attempts, known, entered] = [sum.attempts, sum.known, entered].map(f64::from);
        let seen = Seen { attempts, known, entered };
        values.add(&text, env.trait_value(&text), when, seen, now);
    }
    task.view.put(key, Row::Values(values), now.saturating_add(USUAL_KEPT_MS));
}

fn look(task: &Task, partial: &Partial, row: &mut SiteRow, bad_to_good: f64, expected: f64) {
    let keys = Feature::ALL.map(|feature| (feature, Key::values(&partial.tenant, feature)));
    let values = keys.iter().filter_map(|(feature, key)| match task.view.get(key, task.now()) {
        Some(Row::Values(values)) => Some((*feature, &**values)),
        Some(_) | None => None,
    });
    let values: Vec<(Feature, &Values)> = values.collect();
    row.entered_bad_to_good = entered_bad_to_good(values.iter().map(|(_, values)| *values), expected);
    let [most, least] = [f64::max, f64::min].map(|of| of(row.entered_bad_to_good, row.entered_told));
    row.traits_are_news |= most >= ENTERED_NEWS && most > 2.0 * least;
    let found: Vec<Trait> = surging(values, bad_to_good)
        .into_iter()
        .map(|found| Trait {
            feature: found.feature.as_str().to_owned(),
            value: found.value.into(),
            lift: found.lift,
            share: found.share,
        })
        .collect();
    let names = |traits: &[Trait]| traits.iter().map(|t| (t.feature.clone(), t.value.clone())).collect::<Vec<_>>();
    let mut sorted = [names(&row.traits), names(&found)];
    sorted.iter_mut().for_each(|names| names.sort_unstable());
    let [before, after] = sorted;
    row.traits_are_news |= before != after;
    row.traits = found;
}
