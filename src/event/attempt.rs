//! A login event after intake: canonical, bounded, stamped with its arrival.

use serde::{Deserialize, Serialize};

use super::{Activity, ChallengeResult, FailureReason, Method, Millis, Outcome, Source};

/// One attempt as the stages see it. Written into frames (`engine::frame`), so its field order is a format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Event time; never later than arrival.
    pub occurred_at: Millis,
    /// By how much the published time lay ahead of arrival; 0 when it did not.
    pub ahead_ms: Millis,
    /// When `login-events` got it. Drives stream time.
    pub arrived_at: Millis,
    pub tenant: Box<str>,
    pub event_id: Box<str>,
    pub source: Source,
    /// Trimmed, NFKC, lower case; empty when the attempt ended before a name was known.
    pub account: Box<str>,
    pub account_exists: Option<bool>,
    pub outcome: Outcome,
    pub failure_reason: FailureReason,
    pub method: Method,
    pub activity: Activity,
    pub challenge: ChallengeResult,
    pub application: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
    pub device_id: Option<Box<str>>,
    pub tls_fingerprint: Option<Box<str>>,
    pub asn: Option<u32>,
    pub country: Option<Box<str>>,
    pub credential_leaked: Option<bool>,
    pub password_tag: Option<u32>,
    pub subject_id: Option<Box<str>>,
    pub session_id: Option<Box<str>>,
    pub account_created_at: Option<Millis>,
    /// How many attempts this event stands for (`attributes.count`, only for what an edge stopped). At least 1.
    pub count: u32,
    pub attributes: Vec<(Box<str>, Box<str>)>,
    /// W3C trace context of a sampled attempt, to be carried to what it causes.
    pub traceparent: Option<Box<str>>,
}

impl Attempt {
    /// A password that was checked and found wrong, or a name that does not exist: what counts against a client.
    /// A stopped attempt and the site's own fault never do.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.activity == Activity::Login
            && self.outcome == Outcome::Failure
            && self.failure_reason != FailureReason::SystemError
    }

    #[must_use]
    pub fn is_success(&self) -> bool {
        self.activity == Activity::Login && self.outcome == Outcome::Success
    }

    /// Stopped at the edge or at a challenge: keeps an attack open, feeds no failure count and no baseline.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        match self.outcome {
            Outcome::Blocked | Outcome::Challenged => true,
            Outcome::Unknown | Outcome::Success | Outcome::Failure => false,
        }
    }

    /// How long after it happened it arrived, in milliseconds; never negative.
    #[must_use]
    pub fn delay_ms(&self) -> Millis {
        self.arrived_at.saturating_sub(self.occurred_at).max(0)
    }

    /// Whether the publisher says that this name belongs to nobody.
    #[must_use]
    pub fn is_unknown_account(&self) -> bool {
        self.account_exists == Some(false) || self.failure_reason == FailureReason::UnknownAccount
    }
}
