//! One attempt to log in, as a publisher wrote it. Field meanings: `schemas/login-event.avsc`.

use std::collections::BTreeMap;

use super::Millis;
use super::names::named;

named! {
    /// How the attempt ended. Only SUCCESS and FAILURE say anything about a password.
    Outcome default Unknown {
        Unknown = "UNKNOWN", Success = "SUCCESS", Failure = "FAILURE",
        /// Stopped at a CAPTCHA or a second factor.
        Challenged = "CHALLENGED",
        /// Refused before the credentials were checked.
        Blocked = "BLOCKED",
    }
}
named! {
    /// Why it failed. SYSTEM_ERROR is the site's own fault and never counts against the client.
    FailureReason default Unspecified {
        None = "NONE", Unspecified = "UNSPECIFIED", UnknownAccount = "UNKNOWN_ACCOUNT",
        WrongPassword = "WRONG_PASSWORD", AccountLocked = "ACCOUNT_LOCKED", AccountDisabled = "ACCOUNT_DISABLED",
        MfaFailed = "MFA_FAILED", ChallengeFailed = "CHALLENGE_FAILED", RateLimited = "RATE_LIMITED",
        SystemError = "SYSTEM_ERROR",
    }
}
named! {
    /// What was presented.
    Method default Other {
        Password = "PASSWORD", Mfa = "MFA", Passkey = "PASSKEY", Sso = "SSO", Token = "TOKEN",
        Recovery = "RECOVERY", Other = "OTHER",
    }
}
named! {
    /// What the client wanted. Only LOGIN feeds login counts; the others feed enumeration.
    Activity default Other {
        Other = "OTHER", Login = "LOGIN", RecoveryRequest = "RECOVERY_REQUEST",
        RecoveryConfirm = "RECOVERY_CONFIRM", SignUp = "SIGN_UP", StatusCheck = "STATUS_CHECK",
    }
}
named! {
    /// What a CAPTCHA or a second step said before this outcome.
    ChallengeResult default None { None = "NONE", Shown = "SHOWN", Passed = "PASSED", Failed = "FAILED" }
}

/// A login event as published: syntactically right, not yet canonical.
#[derive(Debug, Clone, PartialEq)]
pub struct LoginEvent {
    pub event_id: String,
    pub occurred_at: Millis,
    pub tenant: String,
    pub application: Option<String>,
    pub account: String,
    pub account_exists: Option<bool>,
    pub outcome: Outcome,
    pub failure_reason: FailureReason,
    pub method: Method,
    pub source_ip: String,
    pub user_agent: Option<String>,
    pub device_id: Option<String>,
    pub tls_fingerprint: Option<String>,
    pub asn: Option<i64>,
    pub country: Option<String>,
    pub credential_leaked: Option<bool>,
    pub attributes: BTreeMap<String, String>,
    pub activity: Activity,
    pub subject_id: Option<String>,
    pub session_id: Option<String>,
    pub password_tag: Option<String>,
    pub challenge: ChallengeResult,
    pub account_created_at: Option<Millis>,
}

impl Default for LoginEvent {
    /// The defaults of the contract; the required fields are empty.
    fn default() -> Self {
        LoginEvent {
            event_id: String::new(),
            occurred_at: 0,
            tenant: "default".to_owned(),
            application: None,
            account: String::new(),
            account_exists: None,
            outcome: Outcome::Unknown,
            failure_reason: FailureReason::None,
            method: Method::Password,
            source_ip: String::new(),
            user_agent: None,
            device_id: None,
            tls_fingerprint: None,
            asn: None,
            country: None,
            credential_leaked: None,
            attributes: BTreeMap::new(),
            activity: Activity::Login,
            subject_id: None,
            session_id: None,
            password_tag: None,
            challenge: ChallengeResult::None,
            account_created_at: None,
        }
    }
}
