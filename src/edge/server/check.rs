//! May this client try this account now? What every edge and login page asks before a password is checked.
//!
//! | what stands against it | a stranger | a known pair |
//! | --- | --- | --- |
//! | `BLOCK` of address, range, agent, network, country | deny | allow, unless a person asked for the block |
//! | `BLOCK` of the pair, the device | deny | allow, unless a person asked for it |
//! | `BLOCK` or `LOCK_ACCOUNT` of the account, `LOCK_ACCOUNT` of anything | deny | deny |
//! | `CHALLENGE`, `STEP_UP` | challenge | allow, unless a person asked for it |
//! | attack status with `challenge` | as it says | allow, unless it says `EVERYBODY` |
//!
//! Known is a pair of this account and address, or this account and device, that logged in before
//! ([`KnownPairs`](super::KnownPairs)). Who is exempt is never challenged, and restricted only by what stands against
//! the account itself. `THROTTLE` and `REVOKE_SESSIONS` stop nobody at the login; the answer names them.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Lists;
use crate::edge::Standing;
use crate::event::wire::{ACCOUNT_BYTES_MAX, TEXT_BYTES_MAX, USER_AGENT_BYTES_MAX, normal_account};
use crate::event::{Action, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, Millis, Scope, Source, Trait};

/// What is asked, as it comes over the wire. Whatever is left out is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    /// May be left out where the server has one tenant.
    pub tenant: Option<String>,
    /// The client's address; left out, it is that of the request, by trusted proxies.
    pub ip: Option<String>,
    pub account: Option<String>,
    pub device: Option<String>,
    pub user_agent: Option<String>,
    pub tls_fingerprint: Option<String>,
    pub asn: Option<u32>,
    pub country: Option<String>,
    /// Let a denied request through to a page that shows it as a wrong password.
    pub stealth: Option<bool>,
}

/// What is to be done with the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Challenge,
    Deny,
}

impl Verdict {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Challenge => "challenge",
            Verdict::Deny => "deny",
        }
    }
}

/// The answer, for the service that asks: a client must not see more of it than what happens to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    pub verdict: Verdict,
    /// The strongest that stands against it, restricting or not; `NONE` when nothing does.
    pub action: Action,
    /// What it stands against.
    pub scope: Option<Scope>,
    /// When that ends.
    pub until: Option<Millis>,
    pub reason: Option<String>,
    pub playbook: Option<String>,
    pub verdict_id: Option<String>,
    /// Whether this account logged in from this address or device before; false without an account.
    pub known: bool,
    pub attack: AttackState,
    /// Whom the tenant's login page should challenge now.
    pub challenge: ChallengePolicy,
}

/// A question in canonical form.
struct Asked<'a> {
    tenant: &'a str,
    source: Option<Source>,
    account: Option<String>,
    question: &'a Question,
}

/// Answers a question about the tenant `tenant` and the client `address` at `now`.
///
/// # Errors
/// The question makes no sense: what is wrong with it.
pub fn check(
    lists: &Lists,
    tenant: &str,
    address: Option<IpAddr>,
    question: &Question,
    now: Millis,
) -> Result<Answer, String> {
    let asked = Asked::new(tenant, address, question)?;
    let known = asked.is_known(lists, now);
    let status = lists.status_of(tenant, now);
    let mut answer = Answer {
        verdict: Verdict::Allow,
        action: Action::None,
        scope: None,
        until: None,
        reason: None,
        playbook: None,
        verdict_id: None,
        known,
        attack: status.map_or(AttackState::Calm, |status| status.state),
        challenge: status.map_or(ChallengePolicy::Nobody, |status| status.challenge),
    };
    let exempt = asked.is_exempt(lists, now);
    let mut strongest: Option<(Verdict, &BlocklistEntry)> = None;
    asked.each_key(lists, |key| {
        let Some(entry) = lists.desired().get(key) else { return };
        if lists.desired().standing(entry, now) != Standing::Enforced || (exempt && entry.scope != Scope::Account) {
            return;
        }
        let verdict = verdict_of(entry, known);
        let is_stronger = strongest.is_none_or(|(held, other)| {
            (verdict, entry.action.strength()) > (held, other.action.strength())
        });
        if is_stronger {
            strongest = Some((verdict, entry));
        }
    });
    if let Some((verdict, entry)) = strongest {
        answer.verdict = verdict;
        answer.action = entry.action;
        answer.scope = Some(entry.scope);
        answer.until = entry.until;
        answer.reason = Some(entry.reason.clone());
        answer.playbook.clone_from(&entry.playbook);
        answer.verdict_id.clone_from(&entry.verdict_id);
    }
    if answer.verdict == Verdict::Allow && !exempt && asked.is_challenged_by(status, known) {
        answer.verdict = Verdict::Challenge;
    }
    Ok(answer)
}

/// What an entry in force means for an attempt.
fn verdict_of(entry: &BlocklistEntry, known: bool) -> Verdict {
    let spared = known && entry.actor.is_none();
    match entry.action {
        Action::LockAccount => Verdict::Deny,
        Action::Block if entry.scope == Scope::Account || !spared => Verdict::Deny,
        Action::Challenge | Action::StepUp if !spared => Verdict::Challenge,
        Action::Block
        | Action::Challenge
        | Action::StepUp
        | Action::None
        | Action::Notify
        | Action::Throttle
        | Action::RevokeSessions => Verdict::Allow,
    }
}

impl<'a> Asked<'a> {
    fn new(tenant: &'a str, address: Option<IpAddr>, question: &'a Question) -> Result<Self, String> {
        let limits = [
            ("device", &question.device, TEXT_BYTES_MAX),
            ("user_agent", &question.user_agent, USER_AGENT_BYTES_MAX),
            ("tls_fingerprint", &question.tls_fingerprint, TEXT_BYTES_MAX),
            ("country", &question.country, TEXT_BYTES_MAX),
            ("account", &question.account, ACCOUNT_BYTES_MAX),
        ];
        for (name, value, bytes_max) in limits {
            if value.as_ref().is_some_and(|value| value.len() > bytes_max) {
                return Err(format!("{name}: longer than {bytes_max} bytes"));
            }
        }
        let source = match &question.ip {
            Some(text) => Some(text.parse::<Source>().map_err(|e| format!("ip: {e}"))?),
            None => address.map(Source::from),
        };
        let account = question.account.as_deref().map(normal_account).filter(|account| !account.is_empty());
        Ok(Asked { tenant, source, account, question })
    }

    /// Whether the account logged in from this address or device before. Nobody is known while nothing writes the keys
    /// of known pairs.
    fn is_known(&self, lists: &Lists, now: Millis) -> bool {
        let _ = now;
        self.account.is_some() && !lists.known().is_empty() && false
    }

    fn is_exempt(&self, lists: &Lists, now: Millis) -> bool {
        let exemptions = lists.desired().exemptions();
        let by_source = || Some(exemptions.covers_source(self.tenant, self.source?, now)?);
        let by_account = || Some(exemptions.covers_account(self.tenant, self.account.as_deref()?, now)?);
        let by_device = || Some(exemptions.covers_device(self.tenant, self.device()?, now)?);
        let by_asn = || Some(exemptions.covers_asn(self.tenant, self.question.asn?, now)?);
        by_source().or_else(by_account).or_else(by_device).or_else(by_asn).is_some()
    }

    fn device(&self) -> Option<&str> {
        self.question.device.as_deref().filter(|device| !device.is_empty())
    }

    /// Calls `look` with every key under which an entry may stand against this attempt.
    fn each_key(&self, lists: &Lists, mut look: impl FnMut(&str)) {
        let mut key = String::with_capacity(128);
        let mut each = |scope: Scope, value: &dyn std::fmt::Display| {
            key.clear();
            // Writing to a text does not fail.
            if write!(key, "{}|{}|{value}", self.tenant, scope.as_str()).is_ok() {
                look(&key);
            }
        };
        if let Some(source) = self.source {
            let address = source.first_address();
            for length in lists.lengths(address.is_ipv6()) {
                match IpNet::new(address, length) {
                    Ok(IpNet::V4(_)) if length == 32 => each(Scope::Ip, &address),
                    Ok(net) => each(Scope::Cidr, &net.trunc()),
                    Err(_) => {}
                }
            }
        }
        if let Some(account) = &self.account {
            each(Scope::Account, account);
            if let Some(source) = self.source {
                each(Scope::IpAccount, &format_args!("{source}|{account}"));
            }
        }
        let question = self.question;
        let named = [
            (Scope::Device, self.device()),
            (Scope::UserAgent, question.user_agent.as_deref()),
            (Scope::TlsFingerprint, question.tls_fingerprint.as_deref()),
            (Scope::Country, question.country.as_deref()),
            (Scope::Tenant, Some(self.tenant)),
        ];
        for (scope, value) in named {
            if let Some(value) = value {
                each(scope, &value);
            }
        }
        if let Some(asn) = question.asn {
            each(Scope::Asn, &asn);
        }
    }

    fn is_challenged_by(&self, status: Option<&AttackStatus>, known: bool) -> bool {
        let Some(status) = status else { return false };
        match status.challenge {
            ChallengePolicy::Nobody => false,
            ChallengePolicy::AttackedTraits => !known && status.traits.iter().any(|one| self.has_trait(one)),
            ChallengePolicy::UnknownPairs => !known,
            ChallengePolicy::Everybody => true,
        }
    }

    /// Whether it has a trait of an attack: one feature, or several joined by `+`, whose values U+001F separates.
    fn has_trait(&self, attacked: &Trait) -> bool {
        let mut values = attacked.value.split('\u{1f}');
        let all = attacked.feature.split('+').all(|feature| {
            let own = match feature {
                "asn" => self.question.asn.map(|asn| asn.to_string()),
                "country" => self.question.country.clone(),
                "user_agent" => self.question.user_agent.clone(),
                "tls_fingerprint" => self.question.tls_fingerprint.clone(),
                _ => None,
            };
            own.is_some_and(|own| values.next() == Some(own.as_str()))
        });
        all && values.next().is_none()
    }
}
