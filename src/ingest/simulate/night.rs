//! The attack of 28 June 2019 with its numbers, and the same attack from other addresses.
//!
//! In fifteen minutes 43,387 accounts were tried, each once, from about 700 addresses that changed all the time, most of
//! the names nobody's. Two old, unused accounts were entered at 02:44 and 02:49 from one address of a hosting provider
//! in the Netherlands. All that is known. How the one at that address worked is not: here somebody sits there and tries,
//! by hand and solving every challenge, an account every half minute, of which those two let him in.

use super::dice::Dice;
use super::raid::{List, Origin, Pace, Plan};
use super::space::Pool;
use crate::event::Millis;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;

/// 02:40 in Paris, 2019-06-28T00:40:00Z.
pub const STARTS_AT: Millis = 1_561_682_400_000;
/// 02:55: it stops.
pub const ENDS_AT: Millis = STARTS_AT + 15 * MINUTE;
/// Accounts tried, once each.
pub const ACCOUNTS_TRIED: u64 = 43_387;
/// Addresses of the botnet.
pub const ADDRESSES: u64 = 700;
/// The minutes in which an account is entered, from the start.
pub const ENTERED_AT: [Millis; 2] = [4 * MINUTE, 9 * MINUTE];
/// Addresses at work at a time: each for about two minutes.
const AT_A_TIME: u64 = 100;
/// Names on the list that are nobody's; in a million. "The vast majority".
pub(super) const NOBODY: u64 = 850_000;
/// Between two tries of the intruder.
const INTRUDER_RESTS: (Millis, Millis) = (20 * SECOND, 35 * SECOND);

/// The attack, from its botnet and from the intruder's address.
pub(super) fn plans(seed: u64) -> [Plan; 2] {
    plans_from(seed, ADDRESSES)
}

/// The same list at the same times, from a botnet of so many addresses.
pub(super) fn plans_from(seed: u64, addresses: u64) -> [Plan; 2] {
    let times = intruder_times(seed);
    let first = ACCOUNTS_TRIED - times.len() as u64;
    let entered = |minute: Millis| {
        let place = times.iter().position(|at| *at >= STARTS_AT + minute);
        first + place.unwrap_or_default() as u64
    };
    let list = List { seed, nobody: NOBODY, right: 0, victims: ENTERED_AT.map(entered).to_vec() };
    let botnet = Plan {
        campaign: "night",
        list: list.clone(),
        places: 0..first,
        origin: Origin::Botnet { addresses, at_a_time: AT_A_TIME * addresses / ADDRESSES, pool: Pool::Mixed },
        pace: Pace::Even { from: STARTS_AT, to: ENDS_AT },
    };
    let intruder = Plan {
        campaign: "night-intruder",
        list,
        places: first..ACCOUNTS_TRIED,
        origin: Origin::Intruder,
        pace: Pace::At(times),
    };
    [botnet, intruder]
}

/// From the first account entered to the end, an account every half minute.
fn intruder_times(seed: u64) -> Vec<Millis> {
    let mut dice = Dice::new(seed, "intruder");
    let mut at = STARTS_AT + ENTERED_AT[0] + dice.between(2 * SECOND, 50 * SECOND);
    let mut times = Vec::new();
    while at < ENDS_AT {
        times.push(at);
        at += dice.between(INTRUDER_RESTS.0, INTRUDER_RESTS.1);
    }
    times
}

// The second account is entered within its minute only if the intruder never rests that long.
const _: () = assert!(INTRUDER_RESTS.1 < MINUTE);
