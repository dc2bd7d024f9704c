//! What the internal topics carry, read by structs of the oracle's own: a version byte, then each item behind its
//! length, in postcard. The order of fields and variants is the format.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use super::{Millis, Read, Who};

#[derive(Debug, Clone, Deserialize)]
pub enum Item {
    Attempt(Attempt),
    Sourced(Sourced),
    Note(Note),
    Partial(Partial),
    Mark(Mark),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Attempt {
    pub occurred_at: Millis,
    pub ahead_ms: Millis,
    pub arrived_at: Millis,
    pub tenant: String,
    pub event_id: String,
    pub source: Source,
    pub account: String,
    pub account_exists: Option<bool>,
    pub outcome: Outcome,
    pub failure_reason: FailureReason,
    /// Position in the contract's list.
    pub method: u32,
    pub activity: Activity,
    pub challenge: u32,
    pub application: Option<String>,
    pub user_agent: Option<String>,
    pub device_id: Option<String>,
    pub tls_fingerprint: Option<String>,
    pub asn: Option<u32>,
    pub country: Option<String>,
    pub credential_leaked: Option<bool>,
    pub password_tag: Option<u32>,
    pub subject_id: Option<String>,
    pub session_id: Option<String>,
    pub account_created_at: Option<Millis>,
    pub count: u32,
    pub attributes: Vec<(String, String)>,
    pub traceparent: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Outcome {
    Unknown,
    Success,
    Failure,
    Challenged,
    Blocked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum FailureReason {
    None,
    Unspecified,
    UnknownAccount,
    WrongPassword,
    AccountLocked,
    AccountDisabled,
    MfaFailed,
    ChallengeFailed,
    RateLimited,
    SystemError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Activity {
    Other,
    Login,
    RecoveryRequest,
    RecoveryConfirm,
    SignUp,
    StatusCheck,
}

/// An IPv4 address, or the upper half of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Source {
    V4(u32),
    V6(u64),
}

#[derive(Debug, Clone, Deserialize)]
pub struct Sourced {
    pub attempt: Attempt,
    pub known_pair: bool,
    pub sign: Option<Sign>,
    pub repeat: bool,
}

/// What points to an intruder: the verdict that blocks the source, or what he shares with others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub enum Sign {
    Blocked(String),
    Shares(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Note {
    pub tenant: String,
    pub account: String,
    pub source: Source,
    pub event_id: String,
    pub at: Millis,
    pub sign: Sign,
    pub known_at: Millis,
    pub incident_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[expect(dead_code, reason = "what is not asked for stands in the format, and in a dump")]
pub struct Partial {
    pub tenant: String,
    pub at: Millis,
    pub attempts: u32,
    pub failures: u32,
    pub known_failures: u32,
    pub unknown: u32,
    pub stopped: u32,
    pub refused: u32,
    pub sources: Vec<u64>,
    pub accounts: Vec<u64>,
    pub unknown_accounts: Vec<u64>,
    pub blocked: Vec<((String, u32, String), String)>,
    pub blocked_until: Millis,
    pub compromised: Vec<Fallen>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Fallen {
    pub account: String,
    pub source: Source,
    pub at: Millis,
    pub flagged_at: Millis,
    pub event_id: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Mark {
    pub at: Millis,
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, Deserialize)]
pub enum Change {
    Status { version: i64, tenant: String, status: Option<Status> },
    Exemption { version: i64, key: String, exemption: Option<Exemption> },
}

#[derive(Debug, Clone, Deserialize)]
#[expect(dead_code, reason = "what is not asked for stands in the format, and in a dump")]
pub struct Status {
    pub state: State,
    pub challenge: u32,
    pub since: Millis,
    pub expires_at: Millis,
    pub odds_permille: u32,
    pub incident_id: Option<String>,
    /// Feature, value, lift in thousandths.
    pub traits: Vec<(u32, String, u64)>,
    pub withdrawn: Vec<(String, Millis)>,
    pub entered_permille: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum State {
    Calm,
    Elevated,
    Attack,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Exemption {
    pub tenant: String,
    pub scope: u32,
    pub value: String,
    pub since: Millis,
    pub until: Option<Millis>,
    pub reason: String,
    pub actor: Option<String>,
    pub generation: i64,
}

impl Change {
    pub fn name(&self) -> String {
        match self {
            Change::Status { tenant, .. } => format!("status of {tenant}"),
            Change::Exemption { key, .. } => format!("exemption {key}"),
        }
    }

    pub const fn version(&self) -> i64 {
        match self {
            Change::Status { version, .. } | Change::Exemption { version, .. } => *version,
        }
    }
}

impl Attempt {
    /// A password was checked and found wrong.
    pub fn is_failure(&self) -> bool {
        self.activity == Activity::Login
            && self.outcome == Outcome::Failure
            && self.failure_reason != FailureReason::SystemError
    }

    pub fn is_success(&self) -> bool {
        self.activity == Activity::Login && self.outcome == Outcome::Success
    }

    /// An edge or a challenge stopped it.
    pub fn is_stopped(&self) -> bool {
        matches!(self.outcome, Outcome::Blocked | Outcome::Challenged)
    }

    pub fn is_nobodys(&self) -> bool {
        self.account_exists == Some(false) || self.failure_reason == FailureReason::UnknownAccount
    }

    pub fn delay_ms(&self) -> Millis {
        (self.arrived_at - self.occurred_at).max(0)
    }
}

impl Source {
    /// The lowest address of it.
    pub fn address(self) -> IpAddr {
        match self {
            Source::V4(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            Source::V6(upper) => IpAddr::V6(Ipv6Addr::from_bits(u128::from(upper) << 64)),
        }
    }

    pub fn who(self, tenant: &str) -> Who {
        let (scope, value) = match self {
            Source::V4(_) => ("IP", self.address().to_string()),
            Source::V6(_) => ("CIDR", format!("{}/64", self.address())),
        };
        Who { tenant: tenant.to_owned(), scope, value }
    }

    /// Its /24 or /48.
    pub fn network(self) -> Source {
        match self {
            Source::V4(bits) => Source::V4(bits & 0xffff_ff00),
            Source::V6(upper) => Source::V6(upper & 0xffff_ffff_ffff_0000),
        }
    }

    pub fn who_of_network(self, tenant: &str) -> Who {
        let network = self.network();
        let length = if matches!(network, Source::V4(_)) { 24 } else { 48 };
        Who { tenant: tenant.to_owned(), scope: "CIDR", value: format!("{}/{length}", network.address()) }
    }

    /// Private, loopback, link-local, shared, multicast and unspecified addresses stand for nobody in particular.
    pub fn may_be_blocked(self) -> bool {
        match self.address() {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                let of_many = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast();
                !(of_many || v4.is_broadcast() || a == 0 || (a == 100 && b & 0xc0 == 64))
            }
            IpAddr::V6(v6) => {
                let top = v6.segments()[0];
                let local = top >> 9 == 0xfc00 >> 9 || top >> 6 == 0xfe80 >> 6;
                !(local || v6.is_multicast() || self == Source::V6(0))
            }
        }
    }
}

/// The items of a record in their order. A frame that does not read is the job's fault, and ends the test.
pub fn items(record: &Read) -> Vec<Item> {
    let place = || format!("partition {} offset {}", record.partition, record.offset);
    let bytes = record.value.as_deref().unwrap_or_default();
    let (version, mut rest) = bytes.split_first().unwrap_or_else(|| panic!("an empty frame at {}", place()));
    assert_eq!(*version, 6, "version of the frame at {}", place());
    let mut items = Vec::new();
    while !rest.is_empty() {
        let mut length = 0;
        let mut digits = 0;
        loop {
            let byte = rest[0];
            rest = &rest[1..];
            length |= usize::from(byte & 0x7f) << (7 * digits);
            digits += 1;
            if byte < 0x80 {
                break;
            }
        }
        let (item, after) = rest.split_at(length);
        rest = after;
        items.push(postcard::from_bytes(item).unwrap_or_else(|e| panic!("an item at {}: {e}", place())));
    }
    items
}
