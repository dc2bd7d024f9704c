//! Playbooks: if this is seen about an entity, then that is done. Parsed from YAML, then checked against themselves
//! and each other, so that what contradicts itself stops `run` at its start and not an honest user in the night.

mod check;
mod edit;
mod filter;
mod fixture;
mod measure;
mod price;
mod response;
mod words;

use schemars::JsonSchema;
use serde::Deserialize;

pub use check::{Problem, check};
pub use edit::{Edit, aggressive, edited, thresholds};
pub use filter::{Field, Filter, Where};
pub use fixture::{Fixture, Step};
pub use measure::{Amount, Bound, Bounds, Measure, Moment, Set, Thresholds};
pub use price::{ENTITY_BYTES_MAX, Price, ROWS_MAX};
pub use response::{Cap, Escalation, LADDER_STEPS_MAX, Response};

use super::duration::duration;
use crate::event::{AttackState, Millis, Mode, Severity};

/// Most bytes of one playbook's text.
pub const PLAYBOOK_BYTES_MAX: usize = 64 << 10;

/// One playbook, as in `topology/playbooks/<id>.yaml`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Playbook {
    /// Permanent name; lower-case words joined by `-`, equal to the file name.
    pub id: String,
    /// Raised at every change; stands in each verdict.
    pub version: i32,
    /// The team to ask.
    pub owner: String,
    /// One sentence for people.
    pub description: String,
    #[serde(default)]
    pub mode: PlaybookMode,
    #[serde(default = "severity_default")]
    pub severity: Severity,
    /// Which detector looks; `threshold` reads `where`, `over` and `trigger`.
    #[serde(default)]
    pub detector: Detector,
    /// The word that its verdicts carry: one of the known ones, or one of your own.
    pub finding: Finding,
    /// The entity it watches and acts on.
    pub per: Per,
    /// Length of the sliding window, such as `10m`.
    #[serde(deserialize_with = "duration")]
    #[schemars(with = "String")]
    pub over: Millis,
    /// Which attempts it looks at; without it, all logins.
    #[serde(default, rename = "where")]
    pub only: Option<Where>,
    /// Every bound must hold at once.
    #[serde(default)]
    pub trigger: Bounds,
    /// Nothing is done while one of these holds.
    #[serde(default)]
    pub unless: Bounds,
    /// The tenant's states in which it acts; without it, all.
    #[serde(default)]
    pub states: Vec<AttackState>,
    /// Raise lower bounds by `1 + log2(1 + good accounts)` of the source, so that an office is not taken for a botnet.
    #[serde(default)]
    pub scale_by_good_accounts: bool,
    /// Whose failures are counted.
    #[serde(default)]
    pub failures_of: FailuresOf,
    pub then: Response,
    /// Cases in which it must fire, and cases in which it must not: `portcullis playbooks test` plays them.
    #[serde(default)]
    pub fixtures: Vec<Fixture>,
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its author knows that it takes in whole countries or networks, or everybody; without it such a playbook is refused. It
    /// also lets its entries reach edges that cut off a whole machine, such as a firewall.
    #[serde(default)]
    pub wide: bool,
}

fn severity_default() -> Severity {
    Severity::Medium
}

/// Whose failures a playbook counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailuresOf {
    /// Those of pairs that are not known, and the same wrong password of one pair once.
    #[default]
    Strangers,
    /// Those of known pairs: people who mistype, or whose stored password is old. Such a playbook may report and not
    /// restrict.
    KnownPairs,
    /// Every one. It takes people who mistype for attackers, so such a playbook may report and not restrict. Where every
    /// playbook of the set is one, nobody's successes matter, and intake passes on failures alone.
    Everybody,
}

/// Whether a playbook acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlaybookMode {
    Off,
    /// Verdicts are published and marked SHADOW; nothing is blocked.
    #[default]
    Shadow,
    Live,
}

impl PlaybookMode {
    /// The mode its verdicts carry; `None` when it is off.
    #[must_use]
    pub const fn verdict_mode(self) -> Option<Mode> {
        match self {
            PlaybookMode::Off => None,
            PlaybookMode::Shadow => Some(Mode::Shadow),
            PlaybookMode::Live => Some(Mode::Live),
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PlaybookMode::Off => "off",
            PlaybookMode::Shadow => "shadow",
            PlaybookMode::Live => "live",
        }
    }
}

/// The closed list of detectors (one file each in `detect`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Bounds on measures of one entity over a sliding window.
    #[default]
    Threshold,
    /// A success by a stranger from a source that is blocked, then or later.
    Compromise,
    /// Failures over the whole site that are no longer chance.
    Campaign,
    /// How likely a source takes part in an attack that is on, from what it did and what the site tells.
    Posterior,
    /// An address that carries over a fifth of a tenant's successes. Unless the playbook is off, it is
    /// never blocked.
    Proxy,
    /// Whoever touches what a person watches, or a range that a person blocked.
    Tripwire,
}

impl Detector {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Detector::Threshold => "threshold",
            Detector::Compromise => "compromise",
            Detector::Campaign => "campaign",
            Detector::Posterior => "posterior",
            Detector::Proxy => "proxy",
            Detector::Tripwire => "tripwire",
        }
    }
}

/// What was found, in a word: `[a-z][a-z0-9_]*`, at most 48 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Finding(Box<str>);

impl TryFrom<String> for Finding {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let is_word = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 48 && text.bytes().all(plain);
        if is_word {
            Ok(Finding(text.into()))
        } else {
            Err("finding: a word of a-z, 0-9 and `_` that begins with a letter, at most 48 bytes".to_owned())
        }
    }
}

impl Finding {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The entity a playbook watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// One IPv4 address or one IPv6 /64.
    Address,
    /// IPv4 /24 or IPv6 /48.
    Network,
    Account,
    /// A device by the id that the publisher gives it.
    Device,
    /// One address on one account.
    Pair,
    /// An autonomous system, from the sums of the whole site; as all below it, only counts and shares.
    Asn,
    Country,
    UserAgent,
    TlsFingerprint,
    Tenant,
    /// One wrong password, by the tag that the publisher gives it: it may report and not restrict.
    PasswordTag,
}

impl Per {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Per::Address => "address",
            Per::Network => "network",
            Per::Account => "account",
            Per::Device => "device",
            Per::Pair => "pair",
            Per::Asn => "asn",
            Per::Country => "country",
            Per::UserAgent => "user_agent",
            Per::TlsFingerprint => "tls_fingerprint",
            Per::Tenant => "tenant",
            Per::PasswordTag => "password_tag",
        }
    }

    /// Entities that many sources share, of whom the site stage keeps sums.
    pub const TRAITS: [Per; 5] = [Per::Asn, Per::Country, Per::UserAgent, Per::TlsFingerprint, Per::PasswordTag];

    #[must_use]
    pub fn is_trait(self) -> bool {
        Per::TRAITS.contains(&self)
    }
}

impl Playbook {
    /// Parses one playbook.
    ///
    /// # Errors
    /// Too long, or the YAML, with the line and a snippet.
    pub fn parse(text: &str) -> Result<Playbook, String> {
        if text.len() > PLAYBOOK_BYTES_MAX {
            return Err(format!("{} bytes; a playbook has at most {PLAYBOOK_BYTES_MAX}", text.len()));
        }
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }

    /// The JSON schema of a playbook's file, for editors.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        let mut schema = schemars::schema_for!(Playbook);
        schema.insert("title".to_owned(), "Portcullis playbook".into());
        schema.to_value()
    }

    /// Which kinds of attempts can make it fire.
    #[must_use]
    pub fn fires_at(&self, moment: Moment) -> bool {
        self.trigger.iter().any(|(measure, bound)| bound.at_least.is_some() && measure.grows_with() == Some(moment))
    }

    /// Every measure that it asks for.
    pub fn measures(&self) -> impl Iterator<Item = Measure> + '_ {
        self.trigger.keys().chain(self.unless.keys()).copied()
    }
}
