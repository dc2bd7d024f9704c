//! What can be simulated, by name, and of what each scenario is made.

use std::fmt;
use std::str::FromStr;

use super::background::{Mishap, Span};
use super::history::HISTORY_MAX_MS;
use super::night;
use super::raid::{List, Origin, Pace, Plan};
use super::space::Pool;
use crate::event::Millis;

const MINUTE: Millis = 60_000;
const HOUR: Millis = 60 * MINUTE;
const DAY: Millis = 24 * HOUR;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $error:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The name on the command line and in records.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $($name::$variant => $text),+ } }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(name: &str) -> Result<Self, $error> {
                let known = Self::ALL.iter().copied().find(|known| known.as_str() == name);
                known.ok_or_else(|| $error(name.chars().take(64).collect()))
            }
        }

        #[doc = concat!("The name is none of [`", stringify!($name), "`]'s; the message lists them.")]
        #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
        #[error("`{0}` is no {what}; use one of {names}", what = $what, names = [$($text),+].join(", "))]
        pub struct $error(String);
    };
}

words! {
    /// A closed list of what can be simulated.
    Scenario, UnknownScenario, "scenario" {
        /// The attack of 28 June 2019: 43,387 accounts in 15 minutes from 700 addresses, two accounts entered.
        Night = "night",
        /// A day without an attack, busy in the evening and quiet at night.
        Ordinary = "ordinary",
        /// The list of the night from 43,000 addresses: hardly one uses its address twice.
        OnePerAddress = "one-per-address",
        /// The list of the night from 10,000 addresses: four tries each.
        Rotating = "rotating",
        /// The night, its two accounts entered as well, from a botnet of 9,000 addresses.
        NineThousand = "nine-thousand",
        /// One try per address and account from homes alone: no hosting provider is among them.
        Residential = "residential",
        /// The list from one IPv6 /64, another address of it for each try.
        V6Customer = "v6-64",
        /// The list from one IPv6 /48, another /64 of it for each try.
        V6Site = "v6-48",
        /// The list from 500 addresses of one hosting provider.
        OneProvider = "one-provider",
        /// The list from exits that many honest people share.
        SharedExits = "shared-exits",
        /// A fresh list: most names exist, and one password in ten is right.
        FreshList = "fresh-list",
        /// A list of people who are here, one in two hundred attempts, from 400 addresses over a whole day.
        SlowSpray = "slow-spray",
        /// 12,000 tries from 2,000 addresses within the crowd of a launch.
        Hidden = "hidden",
        /// The night at twelve tenants at once: each sees a twelfth of it.
        TwelveTenants = "twelve-tenants",
        /// The night over a bad road: late, out of order, some twice, and some clocks wrong.
        BadRoad = "bad-road",
        /// One address tries 3,000 accounts in 15 minutes.
        SingleSource = "single-source",
        /// Attempts of an attack are one in twenty, from 2,000 addresses, for two hours.
        Slow = "slow",
        /// For ten minutes the site cannot check passwords.
        Outage = "outage",
        /// For an hour one version of the application sends every password wrong.
        BrokenRelease = "broken-release",
        /// For a day, a fifth of the passwords have expired.
        PasswordExpiry = "password-expiry",
        /// A launch: six times the usual traffic, many who have not been here for long; over in two hours.
        Launch = "launch",
    }
}

words! {
    /// How an attacker reacts to what the site does.
    Attacker, UnknownAttacker, "attacker" {
        /// Not at all: plays its list to the end.
        Fixed = "fixed",
        /// Leaves an address that was refused and tries the account again from a fresh one.
        Rotate = "rotate",
        /// Halves its rate when it is refused or challenged.
        SlowDown = "slow-down",
    }
}

/// How a scenario is played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub attacker: Attacker,
    pub tenant: String,
    /// Honest logins an hour, on the mean of a day.
    pub logins_per_hour: u64,
    /// Undisturbed traffic before, and after, what the scenario is about.
    pub lead_in_ms: Millis,
    pub after_ms: Millis,
    /// How long that lasts; the scenario's own length when `None`.
    pub length_ms: Option<Millis>,
    /// For how long the site has run before: see [`HISTORY_MAX_MS`].
    pub history_ms: Millis,
}

impl Default for Options {
    /// Ten logins a second; ten minutes before and 25 after, so that CALM (20 minutes) can return; no history.
    fn default() -> Self {
        Options {
            attacker: Attacker::Fixed,
            tenant: "default".to_owned(),
            logins_per_hour: 36_000,
            lead_in_ms: 10 * MINUTE,
            after_ms: 25 * MINUTE,
            length_ms: None,
            history_ms: 0,
        }
    }
}

/// Most logins an hour.
pub const LOGINS_PER_HOUR_MAX: u64 = 36_000_000;
/// The longest time before, during, or after.
pub const LENGTH_MAX_MS: Millis = 366 * DAY;

/// An option is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be from {least} to {most}")]
pub struct OutOfBounds {
    pub what: &'static str,
    pub least: i64,
    pub most: i64,
}

impl Options {
    /// # Errors
    /// [`OutOfBounds`] names the option.
    pub(super) fn check(&self) -> Result<(), OutOfBounds> {
        let bounds = [
            ("logins per hour", self.logins_per_hour.cast_signed(), 1, LOGINS_PER_HOUR_MAX.cast_signed()),
            ("the lead-in in ms", self.lead_in_ms, 0, LENGTH_MAX_MS),
            ("the time after in ms", self.after_ms, 0, LENGTH_MAX_MS),
            ("the length in ms", self.length_ms.unwrap_or(1), 1, LENGTH_MAX_MS),
            ("the history in ms", self.history_ms, 0, HISTORY_MAX_MS),
        ];
        let out = bounds.into_iter().find(|(_, value, least, most)| value < least || value > most);
        out.map_or(Ok(()), |(what, _, least, most)| Err(OutOfBounds { what, least, most }))
    }
}

/// Of what a simulation is made.
#[derive(Debug)]
pub(super) struct Plot {
    /// Honest traffic, from its first moment on.
    pub(super) from: Millis,
    /// What the scenario is about.
    pub(super) about: Span,
    pub(super) swings: bool,
    pub(super) mishap: Mishap,
    pub(super) plans: Vec<Plan>,
    pub(super) tenants: u64,
    /// Events do not come as they happen.
    pub(super) bad_road: bool,
}

impl Scenario {
    /// When what it is about begins. Attacks begin at the hour of the night; days at midnight, a launch in the evening.
    const fn starts_at(self) -> Millis {
        match self {
            Scenario::Night
            | Scenario::OnePerAddress
            | Scenario::Rotating
            | Scenario::NineThousand
            | Scenario::Residential
            | Scenario::V6Customer
            | Scenario::V6Site
            | Scenario::OneProvider
            | Scenario::SharedExits
            | Scenario::FreshList
            | Scenario::TwelveTenants
            | Scenario::BadRoad
            | Scenario::SingleSource
            | Scenario::Slow
            | Scenario::Outage
            | Scenario::BrokenRelease => night::STARTS_AT,
            // Monday the 24th, 00:00 in Paris.
            Scenario::Ordinary | Scenario::PasswordExpiry | Scenario::SlowSpray => {
                night::STARTS_AT - 4 * DAY - 160 * MINUTE
            }
            // Thursday the 27th, 18:00 in Paris.
            Scenario::Launch | Scenario::Hidden => night::STARTS_AT - 520 * MINUTE,
        }
    }

    /// How long what it is about lasts.
    const fn length(self) -> Millis {
        match self {
            Scenario::Night
            | Scenario::OnePerAddress
            | Scenario::Rotating
            | Scenario::NineThousand
            | Scenario::Residential
            | Scenario::V6Customer
            | Scenario::V6Site
            | Scenario::OneProvider
            | Scenario::SharedExits
            | Scenario::FreshList
            | Scenario::TwelveTenants
            | Scenario::BadRoad
            | Scenario::SingleSource => 15 * MINUTE,
            Scenario::Outage => 10 * MINUTE,
            Scenario::BrokenRelease => HOUR,
            Scenario::Slow | Scenario::Launch | Scenario::Hidden => 2 * HOUR,
            Scenario::Ordinary | Scenario::PasswordExpiry | Scenario::SlowSpray => DAY,
        }
    }

    pub(super) fn plot(self, seed: u64, options: &Options) -> Plot {
        let from = self.starts_at();
        // The night has its own times: with others it would be another attack.
        let length = if self.is_night() { self.length() } else { options.length_ms.unwrap_or(self.length()) };
        let about = Span { from, to: from + length };
        let (mut mishap, mut plans) = (Mishap::None, Vec::new());
        let attempts = options.logins_per_hour * length.unsigned_abs() / HOUR.unsigned_abs();
        match self {
            Scenario::Night | Scenario::TwelveTenants | Scenario::BadRoad => plans.extend(night::plans(seed)),
            Scenario::NineThousand => plans.extend(night::plans_from(seed, 9_000)),
            Scenario::Ordinary => {}
            Scenario::OnePerAddress => plans.push(self.stuffing(seed, about, night::ACCOUNTS_TRIED, 43_000, 500)),
            Scenario::Rotating => plans.push(self.stuffing(seed, about, night::ACCOUNTS_TRIED, 10_000, 500)),
            Scenario::Residential => plans.push(self.from(Pool::Residential, seed, about, 43_000)),
            // Each try from an address of its own, in the one as in the other.
            Scenario::V6Customer => plans.push(self.from(Pool::OneV6Customer, seed, about, night::ACCOUNTS_TRIED)),
            Scenario::V6Site => plans.push(self.from(Pool::OneV6Site, seed, about, night::ACCOUNTS_TRIED)),
            Scenario::OneProvider => plans.push(self.from(Pool::OneProvider, seed, about, 500)),
            Scenario::SharedExits => plans.push(self.from(Pool::SharedExits, seed, about, 700)),
            Scenario::FreshList => {
                let mut plan = self.from(Pool::Mixed, seed, about, 10_000);
                (plan.list.nobody, plan.list.right) = (100_000, 100_000);
                plans.push(plan);
            }
            Scenario::SlowSpray => {
                let mut plan = self.stuffing(seed, about, (attempts / 200).clamp(1, LIST_MAX), 400, 40);
                plan.list.nobody = 100_000;
                plans.push(plan);
            }
            Scenario::SingleSource => plans.push(self.stuffing(seed, about, 3_000, 1, 1)),
            // One in twenty of all: a nineteenth of the honest ones.
            Scenario::Slow => plans.push(self.stuffing(seed, about, (attempts / 19).clamp(1, LIST_MAX), 2_000, 100)),
            Scenario::Hidden => {
                mishap = Mishap::Launch(about);
                plans.push(self.stuffing(seed, about, 12_000, 2_000, 100));
            }
            Scenario::Outage => mishap = Mishap::Outage(about),
            Scenario::BrokenRelease => mishap = Mishap::BrokenRelease(about),
            Scenario::PasswordExpiry => mishap = Mishap::PasswordExpiry(about),
            Scenario::Launch => mishap = Mishap::Launch(about),
        }
        let swings = matches!(
            self,
            Scenario::Ordinary | Scenario::PasswordExpiry | Scenario::Launch | Scenario::Hidden | Scenario::SlowSpray
        );
        let tenants = if self == Scenario::TwelveTenants { 12 } else { 1 };
        let bad_road = self == Scenario::BadRoad;
        Plot { from: from - options.lead_in_ms, about, swings, mishap, plans, tenants, bad_road }
    }

    const fn is_night(self) -> bool {
        matches!(self, Scenario::Night | Scenario::NineThousand | Scenario::TwelveTenants | Scenario::BadRoad)
    }

    /// The list of the night from so many addresses of a pool.
    fn from(self, pool: Pool, seed: u64, about: Span, addresses: u64) -> Plan {
        let mut plan = self.stuffing(seed, about, night::ACCOUNTS_TRIED, addresses, 500);
        plan.origin = Origin::Botnet { addresses, at_a_time: 500, pool };
        plan
    }

    /// The list of the night, or as much of it, tried evenly from so many addresses. One password in 200 is right.
    fn stuffing(self, seed: u64, about: Span, tries: u64, addresses: u64, at_a_time: u64) -> Plan {
        Plan {
            campaign: self.as_str(),
            list: List { seed, nobody: night::NOBODY, right: 5_000, victims: Vec::new() },
            places: 0..tries,
            origin: Origin::Botnet { addresses: addresses.min(tries), at_a_time, pool: Pool::Mixed },
            pace: Pace::Even { from: about.from, to: about.to },
        }
    }
}

/// Most accounts on a list: as many as there are to shuffle, so that each is another.
const LIST_MAX: u64 = super::population::ACCOUNTS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_an_unknown_one_is_told_which_there_are() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.to_string().parse(), Ok(*scenario));
        }
        for attacker in Attacker::ALL {
            assert_eq!(attacker.to_string().parse(), Ok(*attacker));
        }
        let error = "nite".parse::<Scenario>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`nite` is no scenario; use one of night, ordinary, one-per-address, rotating, nine-thousand, residential, v6-64, \
             v6-48, one-provider, shared-exits, fresh-list, slow-spray, hidden, twelve-tenants, bad-road, single-source, \
             slow, outage, broken-release, password-expiry, launch"
        );
        assert!("Fixed".parse::<Attacker>().unwrap_err().to_string().ends_with("fixed, rotate, slow-down"));
    }

    #[test]
    fn options_out_of_bounds_are_refused_by_name() {
        let error = |options: Options| options.check().unwrap_err().to_string();
        assert_eq!(Options::default().check(), Ok(()));
        assert_eq!(
            error(Options { logins_per_hour: 0, ..Options::default() }),
            "logins per hour must be from 1 to 36000000"
        );
        assert!(error(Options { history_ms: -1, ..Options::default() }).starts_with("the history"));
        assert!(error(Options { history_ms: 60 * DAY, ..Options::default() }).starts_with("the history"));
        assert!(error(Options { length_ms: Some(0), ..Options::default() }).starts_with("the length"));
    }
}
