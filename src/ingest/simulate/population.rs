//! The people of the site: names, homes, devices, habits. Nothing is kept for a person; all follows from the seed
//! and the person's number, so a population costs no memory.
//!
//! Shares are those of StopGuessing's simulator where it has one (`Simulator/ExperimentalConfiguration.cs`).

use super::dice::{Dice, Shuffle, mix, nth, scale};
use super::names::{self, NAMES};
use super::space::{self, HOME_ADDRESSES, OFFICE_ADDRESSES, Place, SHARED_ADDRESSES};
use crate::event::Millis;

/// People who log in now and then.
pub const ACTIVE: u64 = 200_000;
/// Accounts that nobody uses any more.
pub const DORMANT: u64 = 100_000;
/// All accounts of the site.
pub const ACCOUNTS: u64 = ACTIVE + DORMANT;

/// People whose home shares its address with about a thousand others; in a million.
const SHARED_EXIT: u64 = 200_000;
/// People who log in from an office; in a million.
const IN_OFFICE: u64 = 60_000;
/// People whose home speaks IPv6; in a million.
const SPEAKS_V6: u64 = 80_000;
/// Logins from the usual address; in a million.
pub const SAME_ADDRESS: u64 = 850_000;
/// Logins that bring the cookie of the usual device; in a million.
pub const SAME_DEVICE: u64 = 900_000;

const _: () = assert!(ACCOUNTS <= HOME_ADDRESSES && ACCOUNTS < NAMES / 2);
const DAY_MS: Millis = 86_400_000;

/// What a client calls itself, and which application it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agent {
    pub text: &'static str,
    pub application: &'static str,
}

macro_rules! agents {
    ($($share:literal $application:literal $text:literal)*) => {
        const AGENTS: &[(u64, Agent)] = &[$(($share, Agent { text: $text, application: $application })),*];
    };
}
// Shares in a thousand, about those of European web traffic in the middle of 2019.
agents! {
    210 "web" "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/75.0.3770.100 Safari/537.36"
    70 "web" "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/74.0.3729.169 Safari/537.36"
    12 "web" "Mozilla/5.0 (Windows NT 6.1; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/70.0.3538.77 Safari/537.36"
    50 "web" "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_5) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/75.0.3770.100 Safari/537.36"
    55 "web" "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.1 Safari/605.1.15"
    75 "web" "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:67.0) Gecko/20100101 Firefox/67.0"
    8 "web" "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:60.0) Gecko/20100101 Firefox/60.0"
    15 "web" "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:67.0) Gecko/20100101 Firefox/67.0"
    35 "web" "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.140 Safari/537.36 Edge/18.17763"
    20 "web" "Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; rv:11.0) like Gecko"
    110 "web" "Mozilla/5.0 (iPhone; CPU iPhone OS 12_3_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.1 Mobile/15E148 Safari/604.1"
    30 "web" "Mozilla/5.0 (iPad; CPU OS 12_3_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1.1 Mobile/15E148 Safari/604.1"
    60 "web" "Mozilla/5.0 (Linux; Android 9; SM-G960F) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/75.0.3770.101 Mobile Safari/537.36"
    45 "web" "Mozilla/5.0 (Linux; Android 8.0.0; ANE-LX1) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/75.0.3770.101 Mobile Safari/537.36"
    25 "web" "Mozilla/5.0 (Linux; Android 9; SAMSUNG SM-A505FN) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/9.2 Chrome/67.0.3396.87 Mobile Safari/537.36"
    80 "ios" "Shop/5.4.1 (iPhone; iOS 12.3.1; Scale/2.00)"
    15 "ios" "Shop/5.3.0 (iPhone; iOS 12.2; Scale/3.00)"
    70 "android" "Shop/5.4.2 (Android 9; okhttp/3.12.1)"
    15 "android" "Shop/5.2.0 (Android 7.0; okhttp/3.11.0)"
}

/// One account and the person behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub account: String,
    pub created_at: Millis,
    /// Where the person usually logs in from.
    pub home: Place,
    /// The cookie or application instance of the usual device.
    pub device: String,
    pub agent: Agent,
}

/// Everybody with an account, by number below [`ACCOUNTS`].
#[derive(Debug, Clone, Copy)]
pub struct Population {
    seed: u64,
    /// When the simulation begins; accounts are older than this.
    start: Millis,
    names: Shuffle,
    homes: Shuffle,
}

impl Population {
    #[must_use]
    pub fn new(seed: u64, start: Millis) -> Self {
        let (names, homes) = (Shuffle::new(NAMES, seed, "names"), Shuffle::new(HOME_ADDRESSES, seed, "homes"));
        Population { seed, start, names, homes }
    }

    /// The person with a number; beyond [`ACCOUNTS`] they begin again.
    #[must_use]
    pub fn person(&self, number: u64) -> Person {
        let number = number % ACCOUNTS;
        Person {
            account: self.account(number),
            created_at: self.created_at(number),
            home: self.home(number),
            device: format!("{:016x}", self.trait_of(number, "device")),
            agent: agent(self.trait_of(number, "agent")),
        }
    }

    #[must_use]
    pub fn account(&self, number: u64) -> String {
        names::name(self.names.at(number % ACCOUNTS))
    }

    /// A name that is nobody's; different numbers below 2^27 are different names.
    #[must_use]
    pub fn nobody(&self, number: u64) -> String {
        names::name(self.names.at(ACCOUNTS + number % (NAMES - ACCOUNTS)))
    }

    /// Accounts are up to eight years old; one in fifty of those in use is younger than two weeks, and none that
    /// lies dormant is younger than two years.
    #[must_use]
    pub fn created_at(&self, number: u64) -> Millis {
        let bits = self.trait_of(number, "created");
        let (youngest, oldest) = match number % ACCOUNTS {
            dormant if dormant >= ACTIVE => (730, 2_920),
            _ if bits.is_multiple_of(50) => (0, 14),
            _ => (14, 2_920),
        };
        let span = (oldest - youngest) * DAY_MS;
        self.start - youngest * DAY_MS - scale(mix(bits, 1), span.unsigned_abs()).cast_signed()
    }

    /// Somebody who logs in now. A few log in often and many seldom: the number is a product of two uniform ones.
    pub(super) fn somebody(dice: &mut Dice) -> u64 {
        let often = dice.below(ACTIVE);
        dice.below(often + 1)
    }

    /// An address that is not the usual one: mostly a mobile network, or somebody else's home, seldom a tunnel.
    pub(super) fn elsewhere(&self, dice: &mut Dice) -> Place {
        let bits = dice.below(u64::MAX);
        match dice.below(100) {
            0..70 => space::mobile(bits),
            70..95 => space::home(scale(bits, HOME_ADDRESSES)),
            _ => space::tunnel(bits),
        }
    }

    fn home(&self, number: u64) -> Place {
        let bits = self.trait_of(number, "where");
        let share = scale(self.trait_of(number, "home"), 1_000_000);
        if share < SHARED_EXIT {
            space::shared(scale(bits, SHARED_ADDRESSES))
        } else if share < SHARED_EXIT + IN_OFFICE {
            space::office(scale(bits, OFFICE_ADDRESSES))
        } else if share < SHARED_EXIT + IN_OFFICE + SPEAKS_V6 {
            space::home_v6(number)
        } else {
            space::home(self.homes.at(number))
        }
    }

    fn trait_of(&self, number: u64, name: &str) -> u64 {
        mix(mix(self.seed, super::dice::hash(name.as_bytes())), number)
    }
}

/// Some person's client, from 64 random bits.
pub(super) fn agent(bits: u64) -> Agent {
    let mut rest = scale(bits, AGENTS.iter().map(|(share, _)| share).sum());
    for (share, agent) in AGENTS {
        if rest < *share {
            return *agent;
        }
        rest -= share;
    }
    nth(AGENTS, 0).map_or(Agent { text: "", application: "web" }, |(_, agent)| *agent)
}
