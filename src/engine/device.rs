//! The account stage again: everything that is keyed by a device. An attempt that names one is sent to its owner as well.

use super::dock::{Asked, Circumstances, Dock};
use super::env::Env;
use super::frame::Sourced;
use super::held::Held;
use super::io::Effects;
use super::key::Key;
use super::row::{AccountRow, Row};
use super::task::Task;
use super::windows::{Counts, hear, kept_ms, tally};
use crate::detect::{Measures, look};
use crate::event::{Attempt, Entity};
use crate::window::Timeliness;

pub(super) fn reads(env: &Env, a: &Attempt, keys: &mut Vec<Key>) {
    let Some(device) = &a.device_id else { return };
    keys.push(Key::device(&a.tenant, env.device(&a.tenant, device)));
    keys.push(Key::standing(&Entity::device(&a.tenant, device)));
    keys.extend(env.plan.device.watches.iter().filter_map(|watch| Some(Key::cap(&a.tenant, watch.capped()?))));
}

/// An attempt that named the device.
pub(super) fn sourced(task: &mut Task, env: &Env, sourced: &Sourced, fx: &mut Effects) {
    let (a, watched) = (&sourced.attempt, &env.plan.device);
    let Some(device) = a.device_id.as_deref() else { return };
    let timeliness = env.limits.timing.judge(a.delay_ms());
    if timeliness == Timeliness::Late || sourced.repeat {
        return;
    }
    let strange = !sourced.facts.known_pair;
    let counts = Counts::of(a, a.is_failure() && strange, strange, &env.plan.device);
    if !counts.count_for(watched) {
        return;
    }
    let now = task.now();
    let who = Entity::device(&a.tenant, device);
    let key = Key::device(&a.tenant, env.device(&a.tenant, device));
    let mut windows: Held<Box<AccountRow>> = Held::take(task, key, Row::account);
    if hear(&mut windows.change().tallies, watched, a, counts, &|set| env.member(set, a)) {
        let circumstances = Circumstances::of(task, &a.tenant, a.arrived_at, timeliness);
        let cause = circumstances.cause(&a.event_id, a.occurred_at, task.exempt_entity(env, &who));
        let mut dock = Dock::take(task, Key::standing(&who), fx);
        for watch in counts.asks(watched, a) {
            let tally = tally(&windows.row.tallies, watched, watch);
            let measures = Measures { tally, ..Measures::default() };
            let look = || look(&watch.playbook, &measures, circumstances.state, &who.value);
            let asked = Asked::watching(task, env, watch, env.limits.account_partitions);
            dock.ask(task, asked, &who, &cause, fx, look);
        }
        dock.put(task);
    }
    windows.put(task, Row::Account, now.saturating_add(kept_ms(watched, env.limits.timing.grace_ms)));
}
