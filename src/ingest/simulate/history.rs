//! What happened before: the honest logins of the weeks before a simulation begins, cut down to those that matter.
//!
//! A site that has run for two weeks knows nearly everybody who comes. Playing two weeks to get there would take twelve
//! million logins, so each is drawn (who, when) and only the first and the last of each person who appears later are
//! played, from the usual address with the usual device, with the mistakes that people make. Both matter: the last makes
//! the pair known, the first makes it old.

use super::background::{Arrivals, Crowd, Login, Stale};
use super::dice::Dice;
use super::population::{ACTIVE, Population, SAME_ADDRESS};
use crate::event::Millis;

/// The longest history, in milliseconds: a pair is known for 30 days.
pub const HISTORY_MAX_MS: Millis = 45 * 86_400_000;
const _: () = assert!(HISTORY_MAX_MS < u32::MAX as Millis);
const HOUR_MS: u64 = 3_600_000;
/// Logins of the history are numbered from here.
const FIRST_NUMBER: u64 = 1 << 48;

/// Logins before `from`, in the order of time, for everybody who arrives between `from` and `to`.
pub(super) fn logins(crowd: &Crowd, history_ms: Millis, from: Millis, to: Millis) -> Vec<Login> {
    let length = history_ms.clamp(0, HISTORY_MAX_MS);
    if length == 0 {
        return Vec::new();
    }
    let mut times = coming(crowd, from, to);
    let mut dice = Dice::new(crowd.seed, "history");
    let logins = (u128::from(crowd.per_hour) * u128::from(length.unsigned_abs()) / u128::from(HOUR_MS)) as u64;
    for _ in 0..logins {
        let person = Population::somebody(&mut dice);
        let at = dice.below(length.unsigned_abs()) as u32;
        let usual = dice.chance(SAME_ADDRESS);
        if let Some(Some((first, last))) = times.get_mut(person as usize)
            && usual
        {
            *first = at.min(*first);
            *last = at.max(*last);
        }
    }
    let mut logins = Vec::new();
    for (person, times) in (0..).zip(times) {
        // Somebody who comes for the first time has no history, and one login is not two.
        let Some((first, last)) = times.filter(|(first, last)| first <= last) else { continue };
        let mut put = |at| logins.push(Login { at: from - length + Millis::from(at), number: 0, person });
        put(first);
        if first < last {
            put(last);
        }
    }
    logins.sort_unstable();
    for (number, login) in (FIRST_NUMBER..).zip(&mut logins) {
        login.number = number;
    }
    logins
}

/// First and last login of each person who will come, none seen so far; `None` for everybody else.
fn coming(crowd: &Crowd, from: Millis, to: Millis) -> Vec<Option<(u32, u32)>> {
    let mut people = vec![None; ACTIVE as usize];
    let mut arrivals = Arrivals::new(crowd.seed, from);
    let arriving = std::iter::repeat_with(|| arrivals.next(crowd)).take_while(|login| login.at < to);
    let stale = Stale::new(crowd, from).owners(crowd, to);
    for number in arriving.map(|login| login.person).chain(stale) {
        if let Some(person) = people.get_mut(number as usize) {
            *person = Some((u32::MAX, 0));
        }
    }
    people
}
