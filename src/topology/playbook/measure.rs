//! What a playbook may measure, and the bounds that it sets on it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::event::{AttackState, Millis};
use crate::topology::duration::parse_duration;

/// What is measured about one entity, over the window unless it says otherwise. All counts are of attempts that `where`
/// takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// `failures`, and successes of anybody; those of one pair count once in a while, see
    /// [`success_once_ms`](crate::topology::Plan::success_once_ms).
    Attempts,
    /// Failed attempts by pairs that are not known; a repeated wrong password counts once.
    Failures,
    /// `failures` over `attempts`.
    FailureShare,
    /// Failures on names that belong to nobody, over `failures`.
    UnknownShare,
    /// Distinct account names among the failures.
    AccountsFailed,
    /// Distinct names that belong to nobody among the failures.
    UnknownAccounts,
    /// Distinct accounts that strangers to them logged in to.
    AccountsEntered,
    /// What was asked for besides logins: resets, sign-ups, status checks. Needs `where.activity`.
    Requests,
    /// Distinct accounts among the requests.
    AccountsAsked,
    /// Distinct sources among the failures (for an account, a device or a network).
    Sources,
    /// Distinct devices among the failures.
    Devices,
    /// Distinct user agents among the failures.
    UserAgents,
    /// Distinct TLS fingerprints among the failures.
    TlsFingerprints,
    /// Distinct countries among the failures.
    Countries,
    /// Distinct autonomous systems among the failures.
    Asns,
    /// Distinct password tags among the failures: different passwords.
    PasswordTags,
    /// Addresses of the network that are blocked now.
    AddressesBlocked,
    /// Its failures over those of the whole site (for an autonomous system, a country, an agent, a fingerprint).
    SiteShare,
    /// Good accounts known behind the source.
    GoodAccounts,
    /// Time since the source was first seen, as far as it is remembered.
    SeenFor,
    /// Time since the account's last success that was not flagged; no bound on it holds for an account that never
    /// logged in.
    IdleFor,
}

/// A set whose different members a window counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, Deserialize)]
#[repr(u8)]
pub enum Set {
    AccountsFailed = 0,
    Sources = 1,
    UnknownAccounts = 2,
    AccountsEntered = 3,
    AccountsAsked = 4,
    Devices = 5,
    UserAgents = 6,
    TlsFingerprints = 7,
    Countries = 8,
    Asns = 9,
    PasswordTags = 10,
}

impl Set {
    /// Every set.
    pub const ALL: [Set; 11] = [
        Set::AccountsFailed,
        Set::Sources,
        Set::UnknownAccounts,
        Set::AccountsEntered,
        Set::AccountsAsked,
        Set::Devices,
        Set::UserAgents,
        Set::TlsFingerprints,
        Set::Countries,
        Set::Asns,
        Set::PasswordTags,
    ];
}

/// Which kinds of attempts can make a playbook fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// A failure that counts.
    Failure,
    /// A stranger's success.
    Success,
    /// Something besides a login.
    Request,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Measure; 21] = [
        Measure::Attempts,
        Measure::Failures,
        Measure::FailureShare,
        Measure::UnknownShare,
        Measure::AccountsFailed,
        Measure::UnknownAccounts,
        Measure::AccountsEntered,
        Measure::Requests,
        Measure::AccountsAsked,
        Measure::Sources,
        Measure::Devices,
        Measure::UserAgents,
        Measure::TlsFingerprints,
        Measure::Countries,
        Measure::Asns,
        Measure::PasswordTags,
        Measure::AddressesBlocked,
        Measure::SiteShare,
        Measure::GoodAccounts,
        Measure::SeenFor,
        Measure::IdleFor,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Measure::Attempts => "attempts",
            Measure::Failures => "failures",
            Measure::FailureShare => "failure_share",
            Measure::UnknownShare => "unknown_share",
            Measure::AccountsFailed => "accounts_failed",
            Measure::UnknownAccounts => "unknown_accounts",
            Measure::AccountsEntered => "accounts_entered",
            Measure::Requests => "requests",
            Measure::AccountsAsked => "accounts_asked",
            Measure::Sources => "sources",
            Measure::Devices => "devices",
            Measure::UserAgents => "user_agents",
            Measure::TlsFingerprints => "tls_fingerprints",
            Measure::Countries => "countries",
            Measure::Asns => "asns",
            Measure::PasswordTags => "password_tags",
            Measure::AddressesBlocked => "addresses_blocked",
            Measure::SiteShare => "site_share",
            Measure::GoodAccounts => "good_accounts",
            Measure::SeenFor => "seen_for",
            Measure::IdleFor => "idle_for",
        }
    }

    /// The set whose members it counts.
    #[must_use]
    pub const fn set(self) -> Option<Set> {
        match self {
            Measure::AccountsFailed => Some(Set::AccountsFailed),
            Measure::UnknownAccounts => Some(Set::UnknownAccounts),
            Measure::AccountsEntered => Some(Set::AccountsEntered),
            Measure::AccountsAsked => Some(Set::AccountsAsked),
            Measure::Sources => Some(Set::Sources),
            Measure::Devices => Some(Set::Devices),
            Measure::UserAgents => Some(Set::UserAgents),
            Measure::TlsFingerprints => Some(Set::TlsFingerprints),
            Measure::Countries => Some(Set::Countries),
            Measure::Asns => Some(Set::Asns),
            Measure::PasswordTags => Some(Set::PasswordTags),
            Measure::Attempts
            | Measure::Failures
            | Measure::FailureShare
            | Measure::UnknownShare
            | Measure::Requests
            | Measure::AddressesBlocked
            | Measure::SiteShare
            | Measure::GoodAccounts
            | Measure::SeenFor
            | Measure::IdleFor => None,
        }
    }

    /// Whether it grows with what an attacker does, and so may be scaled by the good accounts behind a source.
    #[must_use]
    pub const fn is_count(self) -> bool {
        matches!(self, Measure::Attempts | Measure::Failures | Measure::Requests) || self.set().is_some()
    }

    #[must_use]
    pub const fn is_share(self) -> bool {
        matches!(self, Measure::FailureShare | Measure::UnknownShare | Measure::SiteShare)
    }

    /// A time, in milliseconds.
    #[must_use]
    pub const fn is_time(self) -> bool {
        matches!(self, Measure::SeenFor | Measure::IdleFor)
    }

    /// What makes it grow; `None`: it is a circumstance, and moves by itself.
    #[must_use]
    pub const fn grows_with(self) -> Option<Moment> {
        match self {
            Measure::Requests | Measure::AccountsAsked => Some(Moment::Request),
            Measure::AccountsEntered => Some(Moment::Success),
            Measure::Failures
            | Measure::FailureShare
            | Measure::UnknownShare
            | Measure::AccountsFailed
            | Measure::UnknownAccounts
            | Measure::Sources
            | Measure::Devices
            | Measure::UserAgents
            | Measure::TlsFingerprints
            | Measure::Countries
            | Measure::Asns
            | Measure::PasswordTags
            | Measure::SiteShare
            | Measure::AddressesBlocked => Some(Moment::Failure),
            Measure::Attempts | Measure::GoodAccounts | Measure::SeenFor | Measure::IdleFor => None,
        }
    }

    /// As a person says it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Measure::Attempts => "attempts",
            Measure::Failures => "failed attempts by strangers",
            Measure::FailureShare => "failures among the attempts",
            Measure::UnknownShare => "names of nobody among the failures",
            Measure::AccountsFailed => "accounts failed on",
            Measure::UnknownAccounts => "names of nobody tried",
            Measure::AccountsEntered => "accounts entered by a stranger",
            Measure::Requests => "requests",
            Measure::AccountsAsked => "accounts asked about",
            Measure::Sources => "sources of failures",
            Measure::Devices => "devices",
            Measure::UserAgents => "user agents",
            Measure::TlsFingerprints => "TLS fingerprints",
            Measure::Countries => "countries",
            Measure::Asns => "autonomous systems",
            Measure::PasswordTags => "different passwords",
            Measure::AddressesBlocked => "of its addresses blocked",
            Measure::SiteShare => "of the site's failures",
            Measure::GoodAccounts => "good accounts behind it",
            Measure::SeenFor => "since it was first seen",
            Measure::IdleFor => "since the last login",
        }
    }
}

/// Bounds by measure; every one must hold at once.
pub type Bounds = BTreeMap<Measure, Bound>;

/// A bound on one measure. At least one of both.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    pub at_least: Option<Thresholds>,
    pub at_most: Option<Amount>,
}

/// A number, or a time such as `10m`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the shape that the JSON schema shows; read by hand below")]
enum AmountText {
    Number(f64),
    Time(&'static str),
}

/// A number; a time is one of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, JsonSchema)]
#[schemars(transparent)]
pub struct Amount(#[schemars(with = "AmountText")] pub f64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Amount;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, or a time such as 10m")
            }

            fn visit_f64<E>(self, n: f64) -> Result<Amount, E> {
                Ok(Amount(n))
            }

            fn visit_i64<E>(self, n: i64) -> Result<Amount, E> {
                Ok(Amount(n as f64))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Amount, E> {
                Ok(Amount(n as f64))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Amount, E> {
                let ms = |ms: Millis| Amount(ms as f64);
                parse_duration(text)
                    .map(ms)
                    .or_else(|| text.trim().parse().ok().map(Amount))
                    .ok_or_else(|| E::custom(format_args!("`{text}` is neither a number nor a time such as 10m")))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A threshold that tightens by itself while the tenant is under attack.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Thresholds {
    Same(Amount),
    ByState(ByState),
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByState {
    pub calm: Amount,
    pub elevated: Amount,
    pub attack: Amount,
}

impl Thresholds {
    #[must_use]
    pub const fn at(self, state: AttackState) -> f64 {
        match (self, state) {
            (Thresholds::Same(n), _) => n.0,
            (Thresholds::ByState(by), AttackState::Calm) => by.calm.0,
            (Thresholds::ByState(by), AttackState::Elevated) => by.elevated.0,
            (Thresholds::ByState(by), AttackState::Attack) => by.attack.0,
        }
    }
}
