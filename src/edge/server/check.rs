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
use crate::engine::{KnownBy, day_of, pair_key};
use crate::event::wire::{ACCOUNT_BYTES_MAX, TEXT_BYTES_MAX, USER_AGENT_BYTES_MAX, normal_account};
use crate::event::{Action, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, Millis, Scope, Source, Trait};
use crate::window::HashKey;

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
#[derive(Debug)]
pub struct Asked<'a> {
    pub tenant: &'a str,
    pub source: Option<Source>,
    pub account: Option<String>,
    question: &'a Question,
}

/// Answers a question at `now`. Pairs are known under `hash_key`, that of the job.
#[must_use]
pub fn check(lists: &Lists, hash_key: &HashKey, asked: &Asked<'_>, now: Millis) -> Answer {
    let place = asked.place(lists);
    let known = asked.is_known(lists, hash_key, now);
    let status = lists.status_of(asked.tenant, now);
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
    let exempt = asked.is_exempt(lists, place, now);
    let mut strongest: Option<(Verdict, &BlocklistEntry)> = None;
    asked.each_key(lists, place, |key| {
        let Some(entry) = lists.desired().get(key) else { return };
        if lists.desired().standing(entry, now) != Standing::Enforced || (exempt && entry.scope != Scope::Account) {
            return;
        }
        let verdict = verdict_of(entry, known);
        let is_stronger =
            strongest.is_none_or(|(held, other)| (verdict, entry.action.strength()) > (held, other.action.strength()));
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
    if answer.verdict == Verdict::Allow && !exempt && asked.is_challenged_by(status, known, place) {
        answer.verdict = Verdict::Challenge;
    }
    answer
}

/// Where the client is.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    asn: Option<u32>,
    country: Option<&'a str>,
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
    /// A question about the tenant `tenant` and, unless it names another, the client `address`.
    ///
    /// # Errors
    /// It makes no sense: what is wrong with it.
    pub fn new(tenant: &'a str, address: Option<IpAddr>, question: &'a Question) -> Result<Self, String> {
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

    /// Whether the account logged in from this address or device before.
    fn is_known(&self, lists: &Lists, hash_key: &HashKey, now: Millis) -> bool {
        let Some(account) = &self.account else { return false };
        let by = [self.source.map(KnownBy::Source), self.device().map(KnownBy::Device)];
        by.into_iter().flatten().any(|by| {
            let key = pair_key(hash_key, self.tenant, account, by);
            lists.known().is_known(key, day_of(now))
        })
    }

    fn is_exempt(&self, lists: &Lists, place: Place<'_>, now: Millis) -> bool {
        let exemptions = lists.desired().exemptions();
        let by_tenant = || exemptions.covers_tenant(self.tenant, now);
        let by_source = || exemptions.covers_source(self.tenant, self.source?, now);
        let by_account = || exemptions.covers_account(self.tenant, self.account.as_deref()?, now);
        let by_device = || exemptions.covers_device(self.tenant, self.device()?, now);
        let by_asn = || exemptions.covers_asn(self.tenant, place.asn?, now);
        by_tenant().or_else(by_source).or_else(by_account).or_else(by_device).or_else(by_asn).is_some()
    }

    /// What the question says of the address; what it leaves out is looked up.
    fn place<'b>(&'b self, lists: &'b Lists) -> Place<'b> {
        let (asn, country) = self.source.map_or((None, None), |source| lists.place_of(source));
        Place { asn: self.question.asn.or(asn), country: self.question.country.as_deref().or(country) }
    }

    fn device(&self) -> Option<&str> {
        self.question.device.as_deref().filter(|device| !device.is_empty())
    }

    /// Calls `look` with every key under which an entry may stand against this attempt.
    fn each_key(&self, lists: &Lists, place: Place<'_>, mut look: impl FnMut(&str)) {
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
            (Scope::Country, place.country),
            (Scope::Tenant, Some(self.tenant)),
        ];
        for (scope, value) in named {
            if let Some(value) = value {
                each(scope, &value);
            }
        }
        if let Some(asn) = place.asn {
            each(Scope::Asn, &asn);
        }
    }

    fn is_challenged_by(&self, status: Option<&AttackStatus>, known: bool, place: Place<'_>) -> bool {
        let Some(status) = status else { return false };
        match status.challenge {
            ChallengePolicy::Nobody => false,
            ChallengePolicy::AttackedTraits => !known && status.traits.iter().any(|one| self.has_trait(one, place)),
            ChallengePolicy::UnknownPairs => !known,
            ChallengePolicy::Everybody => true,
        }
    }

    /// Whether it has a trait of an attack: one feature, or several joined by `+`, whose values U+001F separates.
    fn has_trait(&self, attacked: &Trait, place: Place<'_>) -> bool {
        let mut values = attacked.value.split('\u{1f}');
        let all = attacked.feature.split('+').all(|feature| {
            let own = match feature {
                "asn" => place.asn.map(|asn| asn.to_string()),
                "country" => place.country.map(str::to_owned),
                "user_agent" => self.question.user_agent.clone(),
                "tls_fingerprint" => self.question.tls_fingerprint.clone(),
                _ => None,
            };
            own.is_some_and(|own| values.next() == Some(own.as_str()))
        });
        all && values.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::topology::exemptions::Exemptions;

    const NOW: Millis = 1_561_682_490_000;

    fn key() -> HashKey {
        HashKey::new([7; 16])
    }

    fn lists() -> Lists {
        let exempt = "- {scope: CIDR, value: 198.51.100.0/24, reason: our office}\n- {scope: ACCOUNT, value: robot, reason: ours}";
        Lists::new(Some("shop"), Exemptions::parse(exempt).unwrap())
    }

    fn block(lists: &mut Lists, scope: &str, value: &str, action: &str, actor: Option<&str>) {
        let entry = json!({"tenant": "shop", "scope": scope, "value": value, "action": action, "since": 0,
            "until": NOW + 1_000, "generation": 1, "reason": "a test", "playbook": null, "verdict_id": null,
            "incident_id": null, "actor": actor});
        lists.block(format!("shop|{scope}|{value}").as_bytes(), Some(entry.to_string().as_bytes()), None);
    }

    fn status(lists: &mut Lists, challenge: &str, traits: serde_json::Value) {
        let status = json!({"tenant": "shop", "state": "ATTACK", "since": 0, "updated_at": NOW, "expires_at": NOW + 1_000,
            "challenge": challenge, "bad_to_good": 0.0, "attempts_per_second": 0.0, "failure_share": 0.0,
            "usual_failure_share": 0.0, "traits": traits, "incident_id": null});
        lists.status(b"shop", Some(status.to_string().as_bytes()));
    }

    fn knows(lists: &mut Lists, account: &str, by: KnownBy<'_>) {
        let pair = pair_key(&key(), "shop", account, by);
        lists.pair(&pair.to_be_bytes(), Some(&day_of(NOW).to_be_bytes()));
    }

    fn ask_at(lists: &Lists, question: serde_json::Value, now: Millis) -> Answer {
        let question: Question = serde_json::from_value(question).unwrap();
        check(lists, &key(), &Asked::new("shop", None, &question).unwrap(), now)
    }

    fn verdict(lists: &Lists, question: serde_json::Value) -> Verdict {
        ask_at(lists, question, NOW).verdict
    }

    use Verdict::{Allow, Challenge, Deny};

    #[test]
    fn whatever_is_blocked_is_denied_to_a_stranger_until_its_end() {
        let mut lists = lists();
        for (scope, value) in [
            ("IP", "203.0.113.1"),
            ("CIDR", "192.0.2.0/25"),
            ("CIDR", "2001:db8:1:2::/64"),
            ("CIDR", "2001:db8:9::/48"),
            ("ACCOUNT", "ada"),
            ("IP_ACCOUNT", "203.0.113.2|ben"),
            ("DEVICE", "d1"),
            ("USER_AGENT", "curl/8"),
            ("TLS_FINGERPRINT", "t1"),
            ("COUNTRY", "XX"),
            ("ASN", "64496"),
        ] {
            block(&mut lists, scope, value, "BLOCK", None);
        }
        for denied in [
            json!({"ip": "203.0.113.1"}),
            json!({"ip": "::ffff:203.0.113.1"}),
            json!({"ip": "192.0.2.127"}),
            json!({"ip": "2001:db8:1:2:3::4"}),
            json!({"ip": "2001:db8:9:1::4"}),
            json!({"account": " ADA "}),
            json!({"ip": "203.0.113.2", "account": "Ben"}),
            json!({"device": "d1"}),
            json!({"user_agent": "curl/8"}),
            json!({"tls_fingerprint": "t1"}),
            json!({"country": "XX"}),
            json!({"asn": 64496}),
        ] {
            assert_eq!(verdict(&lists, denied.clone()), Deny, "{denied}");
            assert_eq!(ask_at(&lists, denied.clone(), NOW + 1_000).verdict, Allow, "{denied}, ended");
        }
        for allowed in [
            json!({}),
            json!({"ip": "203.0.113.2"}),
            json!({"ip": "192.0.2.128"}),
            json!({"ip": "2001:db8:1:3::4"}),
            json!({"ip": "203.0.113.2", "account": "eve"}),
            json!({"ip": "203.0.113.3", "account": "ben"}),
            json!({"account": "ad"}),
            json!({"device": ""}),
            json!({"asn": 64497}),
        ] {
            assert_eq!(verdict(&lists, allowed.clone()), Allow, "{allowed}");
        }
        let answer = ask_at(&lists, json!({"ip": "203.0.113.1"}), NOW);
        assert_eq!((answer.action, answer.scope, answer.until), (Action::Block, Some(Scope::Ip), Some(NOW + 1_000)));
        assert_eq!(answer.reason.as_deref(), Some("a test"));
    }

    #[test]
    fn a_known_pair_passes_what_is_not_about_its_account_or_asked_for_by_a_person() {
        let mut lists = lists();
        let home: Source = "203.0.113.1".parse().unwrap();
        knows(&mut lists, "ada", KnownBy::Source(home));
        knows(&mut lists, "ada", KnownBy::Device("d1"));
        block(&mut lists, "IP", "203.0.113.1", "BLOCK", None);
        block(&mut lists, "IP", "203.0.113.2", "BLOCK", Some("eva"));
        block(&mut lists, "IP", "203.0.113.3", "CHALLENGE", None);
        block(&mut lists, "ACCOUNT", "ben", "BLOCK", None);
        knows(&mut lists, "ben", KnownBy::Device("d1"));
        let at =
            |ip: &str, account: &str, device: Option<&str>| json!({"ip": ip, "account": account, "device": device});
        assert!(ask_at(&lists, at("203.0.113.1", "Ada", None), NOW).known);
        assert_eq!(verdict(&lists, at("203.0.113.1", "Ada", None)), Allow);
        assert_eq!(verdict(&lists, at("203.0.113.1", "eve", None)), Deny);
        assert_eq!(verdict(&lists, at("203.0.113.3", "ada", None)), Challenge);
        assert_eq!(verdict(&lists, at("203.0.113.3", "ada", Some("d1"))), Allow);
        assert_eq!(verdict(&lists, at("203.0.113.2", "ada", Some("d1"))), Deny);
        assert_eq!(verdict(&lists, at("203.0.113.9", "ben", Some("d1"))), Deny);
        block(&mut lists, "ACCOUNT", "ada", "STEP_UP", None);
        assert_eq!(verdict(&lists, at("203.0.113.9", "ada", Some("d1"))), Allow);
        assert_eq!(verdict(&lists, at("203.0.113.9", "ada", Some("d2"))), Challenge);
        block(&mut lists, "DEVICE", "d1", "LOCK_ACCOUNT", None);
        assert_eq!(verdict(&lists, at("203.0.113.9", "ada", Some("d1"))), Deny);
    }

    #[test]
    fn the_attack_status_challenges_whom_it_says() {
        let mut lists = lists();
        knows(&mut lists, "ada", KnownBy::Device("d1"));
        let stranger = || json!({"ip": "203.0.113.1", "account": "ada"});
        let known = || json!({"ip": "203.0.113.1", "account": "ada", "device": "d1"});
        assert_eq!(verdict(&lists, stranger()), Allow);
        status(&mut lists, "UNKNOWN_PAIRS", json!([]));
        assert_eq!((verdict(&lists, stranger()), verdict(&lists, known())), (Challenge, Allow));
        // Without an account nobody is known.
        assert_eq!(verdict(&lists, json!({"ip": "203.0.113.1"})), Challenge);
        assert_eq!(ask_at(&lists, stranger(), NOW + 1_000).verdict, Allow, "it has expired");
        assert_eq!(ask_at(&lists, stranger(), NOW).attack, AttackState::Attack);
        status(&mut lists, "EVERYBODY", json!([]));
        assert_eq!((verdict(&lists, stranger()), verdict(&lists, known())), (Challenge, Challenge));
        status(&mut lists, "NOBODY", json!([]));
        assert_eq!(verdict(&lists, stranger()), Allow);
        let traits = json!([{"feature": "asn+user_agent", "value": "64496\u{1f}curl/8", "lift": 1.0, "share": 1.0}]);
        status(&mut lists, "ATTACKED_TRAITS", traits);
        assert_eq!(verdict(&lists, json!({"asn": 64496, "user_agent": "curl/8"})), Challenge);
        assert_eq!(verdict(&lists, json!({"asn": 64496, "user_agent": "curl/9"})), Allow);
        assert_eq!(verdict(&lists, json!({"asn": 64496})), Allow);
    }

    #[test]
    fn who_is_exempt_is_restricted_by_what_stands_against_the_account_alone() {
        let mut lists = lists();
        status(&mut lists, "EVERYBODY", json!([]));
        for (scope, value) in
            [("IP", "198.51.100.7"), ("USER_AGENT", "curl/8"), ("ACCOUNT", "ada"), ("ACCOUNT", "robot")]
        {
            block(&mut lists, scope, value, "BLOCK", None);
        }
        assert_eq!(verdict(&lists, json!({"ip": "198.51.100.7", "user_agent": "curl/8"})), Allow);
        assert_eq!(verdict(&lists, json!({"ip": "203.0.113.1", "account": "robot", "user_agent": "curl/8"})), Allow);
        assert_eq!(verdict(&lists, json!({"ip": "198.51.100.7", "account": "ada"})), Deny);
        assert_eq!(verdict(&lists, json!({"ip": "203.0.113.1", "user_agent": "curl/8"})), Deny);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let lists = lists();
        let ask = |question: Question| {
            let asked = Asked::new("shop", None, &question)?;
            Ok::<_, String>(check(&lists, &key(), &asked, NOW).verdict)
        };
        let long = Some("x".repeat(10_000));
        assert!(
            ask(Question { ip: Some("203.0.113".to_owned()), ..Question::default() }).unwrap_err().starts_with("ip:")
        );
        let error = ask(Question { account: long.clone(), ..Question::default() }).unwrap_err();
        assert!(error.starts_with("account:") && error.len() < 100, "{error}");
        assert!(ask(Question { device: long, ..Question::default() }).is_err());
        assert_eq!(ask(Question { account: Some("  ".to_owned()), ..Question::default() }), Ok(Allow));
    }
}
