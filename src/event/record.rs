//! The records of the output topics, field for field as in `schemas/*.avsc`. They derive serde because JSON with the
//! same field names is one of their two public encodings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names::named;
use super::{Millis, Scope};

named! {
    /// What is to be done. The order is not the order of strength: see [`Action::strength`].
    Action default None {
        None = "NONE", Notify = "NOTIFY", Throttle = "THROTTLE", Challenge = "CHALLENGE", Block = "BLOCK",
        StepUp = "STEP_UP", LockAccount = "LOCK_ACCOUNT", RevokeSessions = "REVOKE_SESSIONS",
    }
}
named! {
    /// SHADOW: recorded and counted, never enforced.
    Mode default Shadow { Live = "LIVE", Shadow = "SHADOW" }
}
named! {
    Severity default Info { Info = "INFO", Low = "LOW", Medium = "MEDIUM", High = "HIGH", Critical = "CRITICAL" }
}
named! {
    /// Whether a tenant is under attack.
    AttackState default Calm { Calm = "CALM", Elevated = "ELEVATED", Attack = "ATTACK" }
}
named! {
    /// Whom the login page should challenge before it checks the password.
    ChallengePolicy default Nobody {
        Nobody = "NOBODY", AttackedTraits = "ATTACKED_TRAITS", UnknownPairs = "UNKNOWN_PAIRS", Everybody = "EVERYBODY",
    }
}
named! {
    IncidentKind default Other {
        Other = "OTHER", CredentialStuffing = "CREDENTIAL_STUFFING", PasswordSpraying = "PASSWORD_SPRAYING",
        AccountGuessing = "ACCOUNT_GUESSING", Enumeration = "ENUMERATION", ProductFault = "PRODUCT_FAULT",
        AuthOutage = "AUTH_OUTAGE",
    }
}
named! { IncidentState default Open { Open = "OPEN", Closed = "CLOSED" } }
named! {
    Disposition default Undetermined {
        Undetermined = "UNDETERMINED", Confirmed = "CONFIRMED", FalsePositive = "FALSE_POSITIVE",
    }
}
named! {
    /// What became of one entry at one edge.
    ReceiptOutcome default Other {
        Other = "OTHER", Applied = "APPLIED", Lifted = "LIFTED", Expired = "EXPIRED", Exempted = "EXEMPTED",
        Refused = "REFUSED", Failed = "FAILED",
    }
}

named! {
    /// What a person asks for.
    CommandKind default Other {
        Other = "OTHER", Block = "BLOCK", Watch = "WATCH", Allow = "ALLOW", Lift = "LIFT",
        MarkConfirmed = "MARK_CONFIRMED", MarkFalsePositive = "MARK_FALSE_POSITIVE", KillSwitch = "KILL_SWITCH",
        Playbook = "PLAYBOOK", Reject = "REJECT",
    }
}
named! {
    /// What a line behind an incident tells.
    DetailKind default Other {
        Other = "OTHER", Target = "TARGET", Source = "SOURCE", Minute = "MINUTE", Action = "ACTION", Trail = "TRAIL",
    }
}

impl Action {
    /// Which of two actions on one entity shows: the larger. Distinct for every action.
    #[must_use]
    pub const fn strength(self) -> u8 {
        match self {
            Action::None => 0,
            Action::Notify => 1,
            Action::Throttle => 2,
            Action::Challenge => 3,
            Action::StepUp => 4,
            Action::Block => 5,
            Action::RevokeSessions => 6,
            Action::LockAccount => 7,
        }
    }

    /// Whether it restricts anybody, and so belongs on the blocklist.
    #[must_use]
    pub const fn restricts(self) -> bool {
        self.strength() > Action::Notify.strength()
    }
}

/// What a playbook found, about whom, on what evidence, and what is to be done until when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub verdict_id: String,
    pub tenant: String,
    pub occurred_at: Millis,
    pub playbook: String,
    pub playbook_version: i32,
    pub mode: Mode,
    pub finding: String,
    pub severity: Severity,
    pub confidence: f64,
    pub scope: Scope,
    pub value: String,
    pub action: Action,
    pub until: Option<Millis>,
    pub window_start: Millis,
    pub window_end: Millis,
    pub measures: BTreeMap<String, f64>,
    pub explanation: String,
    pub contributions: BTreeMap<String, f64>,
    pub related: Vec<Related>,
    pub evidence: Vec<String>,
    pub tags: Vec<String>,
    pub incident_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    pub scope: Scope,
    pub value: String,
}

/// One active restriction; a null value on the topic lifts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocklistEntry {
    pub tenant: String,
    pub scope: Scope,
    pub value: String,
    pub action: Action,
    pub since: Millis,
    pub until: Option<Millis>,
    pub generation: i64,
    pub reason: String,
    pub playbook: Option<String>,
    pub verdict_id: Option<String>,
    pub incident_id: Option<String>,
    pub actor: Option<String>,
    /// Its playbook says `wide: true`: an edge that refuses a whole machine may take it, as it may take an operator's.
    /// Records of before the field lack it.
    #[serde(default)]
    pub wide: bool,
}

/// What the login page needs before it checks a password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttackStatus {
    pub tenant: String,
    pub state: AttackState,
    pub since: Millis,
    pub updated_at: Millis,
    pub expires_at: Millis,
    pub challenge: ChallengePolicy,
    pub bad_to_good: f64,
    pub attempts_per_second: f64,
    pub failure_share: f64,
    pub usual_failure_share: f64,
    pub traits: Vec<Trait>,
    pub incident_id: Option<String>,
    /// Playbooks that did harm, and do nothing until then. Records of before the field lack it.
    #[serde(default)]
    pub withdrawn: Vec<Withdrawn>,
    /// Of the strangers who get in, how many are the attack's to one who is not: with 95 % certainty at least so many. Records
    /// of before the field lack it.
    #[serde(default)]
    pub entered_bad_to_good: f64,
}

/// A playbook that restricts nobody for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    pub playbook: String,
    pub until: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trait {
    pub feature: String,
    pub value: String,
    pub lift: f64,
    pub share: f64,
}

/// One attack from its first attempt to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub incident_id: String,
    pub tenant: String,
    pub kind: IncidentKind,
    pub state: IncidentState,
    pub severity: Severity,
    pub started_at: Millis,
    pub updated_at: Millis,
    pub ended_at: Option<Millis>,
    pub summary: String,
    pub attempts: i64,
    pub failures: i64,
    pub stopped_at_edge: i64,
    pub sources: i64,
    pub accounts_targeted: i64,
    pub accounts_unknown: i64,
    pub blocked: i64,
    pub compromised: Vec<Compromise>,
    pub top_networks: Vec<Counted>,
    pub top_countries: Vec<Counted>,
    pub top_user_agents: Vec<Counted>,
    pub playbooks: Vec<String>,
    pub disposition: Disposition,
}

/// One line of what stands behind an incident. Its key is [`IncidentDetail::key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncidentDetail {
    pub incident_id: String,
    pub kind: DetailKind,
    /// An account, an address or range, the start of a minute in milliseconds, a verdict's or command's id, an event's id and its account.
    pub value: String,
    /// Names are not sealed yet.
    pub sealed_account: Option<Vec<u8>>,
    pub counts: BTreeMap<String, i64>,
    pub first_at: Millis,
    pub last_at: Millis,
    /// What the line is about, by name, where its value is an id; and what an address came with.
    #[serde(default)]
    pub about: BTreeMap<String, String>,
}

impl IncidentDetail {
    /// `incident_id|KIND|value`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}|{}|{}", self.incident_id, self.kind.as_str(), self.value)
    }
}

/// Ten seconds of a tenant's logins beside what is usual, and how near an alarm is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActivitySlice {
    pub tenant: String,
    /// `None`: all of them together, which is what is told.
    pub application: Option<String>,
    pub slice_start: Millis,
    pub slice_end: Millis,
    pub attempts: i64,
    pub failures: i64,
    pub unknown_accounts: i64,
    pub stopped: i64,
    pub usual_attempts: f64,
    pub usual_failures: f64,
    pub usual_unknown_accounts: f64,
    pub statistic: f64,
    pub alarm_level: f64,
    pub state: AttackState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compromise {
    pub account: String,
    pub source_ip: String,
    pub at: Millis,
    pub flagged_at: Millis,
    pub event_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub value: String,
    pub attempts: i64,
}

/// What one sink did with one change of the blocklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub sink: String,
    /// The key of the entry.
    pub key: String,
    pub generation: i64,
    pub outcome: ReceiptOutcome,
    pub applied_at: Millis,
    pub detail: Option<String>,
}

/// What a person asked for: a request that the owner of the entity carries out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub command_id: String,
    pub at: Millis,
    pub actor: String,
    pub role: String,
    pub tenant: String,
    pub kind: CommandKind,
    #[serde(default = "no_scope")]
    pub scope: Scope,
    #[serde(default)]
    pub value: String,
    #[serde(default = "no_action")]
    pub action: Action,
    /// When it ends by itself; `None`: it does not, or its kind says when.
    #[serde(default)]
    pub until: Option<Millis>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub incident_id: Option<String>,
    #[serde(default)]
    pub undoes: Option<String>,
    /// A second person, where the command is a wide one.
    #[serde(default)]
    pub approved_by: Option<String>,
    /// A request that waits for a second person until then, and does nothing by itself.
    #[serde(default)]
    pub pending_until: Option<Millis>,
    /// The request that this one carries out or rejects.
    #[serde(default)]
    pub answers: Option<String>,
    /// What the other fields do not say, in words.
    #[serde(default)]
    pub detail: String,
}

const fn no_scope() -> Scope {
    Scope::Other
}

const fn no_action() -> Action {
    Action::None
}

/// Who is never restricted. On the topic `exemptions`, and in `topology/exemptions.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exemption {
    /// Empty in the file: every tenant.
    #[serde(default)]
    pub tenant: String,
    pub scope: Scope,
    pub value: String,
    #[serde(default)]
    pub since: Millis,
    #[serde(default)]
    pub until: Option<Millis>,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub actor: Option<String>,
    #[serde(default)]
    pub generation: i64,
}
