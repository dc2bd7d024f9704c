//! The simulated site: it obeys the blocklist and the attack status as they arrive, and keeps score.
//!
//! Two places can stop a try. At the *edge*, addresses and ranges are refused; whether the edge knows who is at such an
//! address is a matter of what it is, see [`Edge`]. At the *login page*, before the password is checked, everything else
//! is looked up: pairs, accounts, devices, agents, and whom the attack status wants challenged. The page recognises a
//! known pair by its own cookie or address: one that logged in before the attack is a stranger to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::dice::{hash, mix};
use super::tally::Tally;
use crate::event::{
    Action, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, ChallengeResult, FailureReason, LoginEvent,
    Millis, Outcome, Scope, Source, Trait, split_key,
};
use crate::topology::exemptions::prefix_of;

/// Most entries of the blocklist that are held; further ones are counted as ignored.
pub const ENTRIES_MAX: usize = 1_000_000;
/// Most known pairs; nobody is learnt beyond.
pub const PAIRS_MAX: usize = 4_000_000;

/// What stands in front of the login page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Nothing is obeyed: an open loop. What would have been stopped is not.
    Open,
    /// A list of addresses, as the nginx sink writes it. It refuses whoever comes from one, and an event of it has no
    /// account.
    AddressList,
    /// The login page asks for every try, account and cookie in hand: known pairs pass a block of their address.
    LoginPage,
}

impl Edge {
    pub const ALL: &'static [Edge] = &[Edge::Open, Edge::AddressList, Edge::LoginPage];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Edge::Open => "open",
            Edge::AddressList => "address-list",
            Edge::LoginPage => "login-page",
        }
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name is none of [`Edge`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no edge; use open, address-list or login-page")]
pub struct UnknownEdge(String);

impl FromStr for Edge {
    type Err = UnknownEdge;

    fn from_str(name: &str) -> Result<Self, UnknownEdge> {
        let known = Edge::ALL.iter().copied().find(|known| known.as_str() == name);
        known.ok_or_else(|| UnknownEdge(name.chars().take(64).collect()))
    }
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Handled {
    /// Its password was checked.
    Through,
    /// It was challenged, passed, and its password was checked.
    Passed,
    /// It was challenged and stopped there.
    Challenged,
    /// It was refused.
    Blocked,
}

/// What the site does with a try before its password is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Through,
    Challenge,
    RefuseAtEdge,
    Refuse(FailureReason),
}

/// An entry in force.
#[derive(Debug, Clone, Copy)]
struct Held {
    action: Action,
    until: Option<Millis>,
}

impl Held {
    fn at(&self, now: Millis) -> Option<Action> {
        self.until.is_none_or(|until| until > now).then_some(self.action)
    }
}

/// The simulated site.
#[derive(Debug)]
pub struct Site {
    edge: Edge,
    /// What holds at each tenant.
    tenants: BTreeMap<String, Told>,
    /// Hashes of account and address, and of account and device, that logged in.
    known: BTreeSet<u64>,
    /// It is told of every attacker before it comes.
    knows_attackers: bool,
    pub(super) tally: Tally,
}

/// What a tenant's blocklist and status say.
#[derive(Debug, Default)]
struct Told {
    prefixes: BTreeMap<IpNet, Held>,
    /// How many prefixes there are of each length, IPv4 and IPv6 apart.
    lengths: BTreeMap<(bool, u8), usize>,
    others: BTreeMap<(Scope, String), Held>,
    status: Option<AttackStatus>,
}

impl Site {
    #[must_use]
    pub fn new(tenant: &str, edge: Edge) -> Self {
        Site::of_all([tenant.to_owned()], edge)
    }

    /// One of several tenants.
    pub fn of_all(tenants: impl IntoIterator<Item = String>, edge: Edge) -> Self {
        Site {
            edge,
            tenants: tenants.into_iter().map(|tenant| (tenant, Told::default())).collect(),
            known: BTreeSet::new(),
            knows_attackers: false,
            tally: Tally::default(),
        }
    }

    /// The same, told of every attacker's address before it comes: what refusing addresses could do at best, and whom it
    /// hits at that.
    #[must_use]
    pub fn knowing_attackers(mut self) -> Self {
        self.knows_attackers = true;
        self
    }

    /// Refuses an address for a while, as a tool does that speaks to the edge by itself. `at`: now.
    pub fn refuse(&mut self, address: IpAddr, at: Millis, until: Millis) {
        let prefix = IpNet::from(address);
        for told in self.tenants.values_mut() {
            if told.has_room(&prefix) {
                told.set_prefix(prefix, Some(Held { action: Action::Block, until: Some(until) }));
            }
        }
        self.tally.source_blocked(at, Some(Source::from(address)), |source| source == address);
    }

    /// An attacker is about to come.
    pub(super) fn expect(&mut self, event: &LoginEvent) {
        /// For how long an address is refused that is not used again.
        const REFUSED_MS: Millis = 900_000;
        if self.knows_attackers
            && let Ok(address) = event.source_ip.parse()
        {
            self.refuse(address, event.occurred_at, event.occurred_at + REFUSED_MS);
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes one record of `blocklist`; `None` lifts. Records of other tenants, and what is no entry, are ignored.
    pub fn blocklist(&mut self, key: &str, entry: Option<&BlocklistEntry>) {
        let parts = split_key(key)
            .and_then(|(tenant, scope, value)| Some((self.tenants.get_mut(tenant)?, Scope::from_name(scope)?, value)));
        let Some((told, scope, value)) = parts else {
            self.tally.records_ignored += 1;
            return;
        };
        let held = entry.filter(|e| e.action.restricts()).map(|e| Held { action: e.action, until: e.until });
        if let Some(prefix) = prefix_of(scope, value) {
            let has_room = told.has_room(&prefix);
            told.set_prefix(prefix, held.filter(|_| has_room));
            if let Some(entry) = entry.filter(|e| e.action == Action::Block) {
                let source = Source::from(prefix.addr());
                let is_one =
                    prefix == prefix.trunc() && prefix.prefix_len() >= if prefix.addr().is_ipv6() { 64 } else { 32 };
                self.tally
                    .source_blocked(entry.generation, is_one.then_some(source), |source| prefix.contains(&source));
            }
            return;
        }
        told.set_other((scope, value.to_owned()), held);
        if let (Scope::Account, Some(entry)) = (scope, entry) {
            self.tally.account_flagged(entry);
        }
    }

    /// Takes one record of `attack-status`. Those of other tenants are ignored.
    pub fn status(&mut self, status: &AttackStatus) {
        let Some(told) = self.tenants.get_mut(&status.tenant) else {
            self.tally.records_ignored += 1;
            return;
        };
        self.tally.status(status);
        told.status = Some(status.clone());
    }

    /// Whether the page knows this pair: a cookie or an address with which this account logged in before the attack.
    pub(super) fn knows(&self, event: &LoginEvent) -> bool {
        pairs(event).any(|pair| self.known.contains(&pair))
    }

    /// What the site does with a try.
    pub(super) fn ask(&self, event: &LoginEvent, known: bool) -> Answer {
        let (now, stranger) = (event.occurred_at, !known);
        if self.edge == Edge::Open {
            return Answer::Through;
        }
        let by_address = self.by_address(event, now);
        match (by_address, self.edge) {
            (Some(Action::Block), Edge::AddressList) => return Answer::RefuseAtEdge,
            (Some(Action::Block), Edge::LoginPage) if stranger => return Answer::Refuse(FailureReason::None),
            _ => {}
        }
        let mut challenge = by_address == Some(Action::Challenge) && stranger;
        for (scope, action) in self.by_name(event, now) {
            match action {
                // Whoever it is: somebody decided that nobody enters for now.
                Action::LockAccount => return Answer::Refuse(FailureReason::AccountLocked),
                Action::Block if stranger || scope == Scope::Account => return Answer::Refuse(FailureReason::None),
                Action::Challenge | Action::StepUp => challenge |= stranger,
                Action::Block | Action::None | Action::Notify | Action::Throttle | Action::RevokeSessions => {}
            }
        }
        challenge |= match self.policy(&event.tenant, now) {
            ChallengePolicy::Nobody => false,
            ChallengePolicy::AttackedTraits => stranger && self.has_attacked_trait(event),
            ChallengePolicy::UnknownPairs => stranger,
            ChallengePolicy::Everybody => true,
        };
        if challenge { Answer::Challenge } else { Answer::Through }
    }

    /// Whom the login page challenges now; nobody once the status has expired.
    pub(super) fn policy(&self, tenant: &str, now: Millis) -> ChallengePolicy {
        self.status_of(tenant, now).map_or(ChallengePolicy::Nobody, |s| s.challenge)
    }

    fn status_of(&self, tenant: &str, now: Millis) -> Option<&AttackStatus> {
        self.tenants.get(tenant)?.status.as_ref().filter(|status| status.expires_at > now)
    }

    /// A success teaches the pair, as long as no attack is on: then it might be the attacker's.
    pub(super) fn learn(&mut self, event: &LoginEvent) {
        let status = self.status_of(&event.tenant, event.occurred_at);
        let calm = status.is_none_or(|s| s.state == AttackState::Calm);
        if calm && event.outcome == Outcome::Success && self.known.len() + 2 <= PAIRS_MAX {
            self.known.extend(pairs(event));
        }
    }

    /// Whether the source of a try is blocked, obeyed or not.
    pub(super) fn blocks_source(&self, event: &LoginEvent) -> bool {
        self.by_address(event, event.occurred_at) == Some(Action::Block)
    }

    /// The strongest of what stands against the address and the ranges that hold it.
    fn by_address(&self, event: &LoginEvent, now: Millis) -> Option<Action> {
        let address: IpAddr = event.source_ip.parse().ok()?;
        let told = self.tenants.get(&event.tenant)?;
        let lengths = told.lengths.keys().filter(|(v6, _)| *v6 == address.is_ipv6());
        let nets = lengths.filter_map(|(_, length)| IpNet::new(address, *length).ok());
        let actions = nets.filter_map(|net| told.prefixes.get(&net.trunc())?.at(now));
        actions.max_by_key(|action| action.strength())
    }

    /// What stands against anything else about the try.
    fn by_name(&self, event: &LoginEvent, now: Millis) -> Vec<(Scope, Action)> {
        let Some(told) = self.tenants.get(&event.tenant).filter(|told| !told.others.is_empty()) else {
            return Vec::new();
        };
        let source = event.source_ip.parse::<Source>().map(|source| source.to_string()).unwrap_or_default();
        let names = [
            (Scope::Account, Some(event.account.clone())),
            (Scope::IpAccount, Some(format!("{source}|{}", event.account))),
            (Scope::Device, event.device_id.clone()),
            (Scope::UserAgent, event.user_agent.clone()),
            (Scope::TlsFingerprint, event.tls_fingerprint.clone()),
            (Scope::Asn, event.asn.map(|asn| asn.to_string())),
            (Scope::Country, event.country.clone()),
            (Scope::Tenant, Some(event.tenant.clone())),
        ];
        let held = names.into_iter().filter_map(|(scope, value)| {
            let action = told.others.get(&(scope, value?))?.at(now)?;
            Some((scope, action))
        });
        held.collect()
    }

    fn has_attacked_trait(&self, event: &LoginEvent) -> bool {
        let status = self.tenants.get(&event.tenant).and_then(|told| told.status.as_ref());
        status.is_some_and(|status| status.traits.iter().any(|known| matches_trait(event, known)))
    }
}

impl Told {
    fn has_room(&self, prefix: &IpNet) -> bool {
        self.prefixes.len() + self.others.len() < ENTRIES_MAX || self.prefixes.contains_key(prefix)
    }

    fn set_other(&mut self, name: (Scope, String), held: Option<Held>) {
        let has_room = self.prefixes.len() + self.others.len() < ENTRIES_MAX || self.others.contains_key(&name);
        match held.filter(|_| has_room) {
            Some(held) => {
                self.others.insert(name, held);
            }
            None => {
                self.others.remove(&name);
            }
        }
    }

    fn set_prefix(&mut self, prefix: IpNet, held: Option<Held>) {
        let length = (matches!(prefix, IpNet::V6(_)), prefix.prefix_len());
        let before = match held {
            Some(held) => self.prefixes.insert(prefix, held),
            None => self.prefixes.remove(&prefix),
        };
        match (before.is_some(), held.is_some()) {
            (false, true) => *self.lengths.entry(length).or_default() += 1,
            (true, false) => {
                let left = self.lengths.get_mut(&length).map_or(0, |count| {
                    *count -= 1;
                    *count
                });
                if left == 0 {
                    self.lengths.remove(&length);
                }
            }
            (true, true) | (false, false) => {}
        }
    }
}

/// A trait, or a pair of them, of an attack status.
fn matches_trait(event: &LoginEvent, known: &Trait) -> bool {
    let mut values = known.value.split('\u{1f}');
    let all = known.feature.split('+').all(|feature| {
        let value = values.next();
        value.is_some()
            && match feature {
                "asn" => event.asn.map(|asn| asn.to_string()).as_deref() == value,
                "country" => event.country.as_deref() == value,
                "user_agent" => event.user_agent.as_deref() == value,
                "tls_fingerprint" => event.tls_fingerprint.as_deref() == value,
                _ => false,
            }
    });
    all && values.next().is_none()
}

fn pairs(event: &LoginEvent) -> impl Iterator<Item = u64> {
    let account = hash(event.account.as_bytes());
    let source = event.source_ip.parse::<Source>().ok();
    let source = source.map(|source| mix(account, hash(source.to_string().as_bytes())));
    let device = event.device_id.as_ref().map(|device| mix(mix(account, 1), hash(device.as_bytes())));
    source.into_iter().chain(device)
}

/// The event of a try that was stopped: what nobody found out is not in it.
pub(super) fn stopped(event: &mut LoginEvent, answer: Answer) {
    event.account_exists = None;
    event.subject_id = None;
    event.account_created_at = None;
    event.session_id = None;
    event.password_tag = None;
    (event.outcome, event.failure_reason, event.challenge) = match answer {
        Answer::RefuseAtEdge => {
            // A list of addresses sees a request, not what is in it.
            event.account.clear();
            event.device_id = None;
            (Outcome::Blocked, FailureReason::None, ChallengeResult::None)
        }
        Answer::Refuse(reason) => (Outcome::Blocked, reason, ChallengeResult::None),
        Answer::Challenge | Answer::Through => {
            (Outcome::Challenged, FailureReason::ChallengeFailed, ChallengeResult::Failed)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ip: &str, account: &str) -> LoginEvent {
        LoginEvent {
            occurred_at: 1_000,
            source_ip: ip.to_owned(),
            account: account.to_owned(),
            user_agent: Some("agent".to_owned()),
            asn: Some(64_601),
            country: Some("FR".to_owned()),
            outcome: Outcome::Success,
            ..LoginEvent::default()
        }
    }

    fn entry(action: Action, until: Option<Millis>) -> BlocklistEntry {
        BlocklistEntry {
            tenant: "default".to_owned(),
            scope: Scope::Other,
            value: String::new(),
            action,
            since: 0,
            until,
            generation: 1,
            reason: String::new(),
            playbook: None,
            verdict_id: None,
            incident_id: None,
            actor: None,
            wide: false,
        }
    }

    fn status(challenge: ChallengePolicy, traits: Vec<Trait>) -> AttackStatus {
        AttackStatus {
            tenant: "default".to_owned(),
            state: AttackState::Attack,
            since: 0,
            updated_at: 0,
            expires_at: 2_000,
            challenge,
            bad_to_good: 0.0,
            attempts_per_second: 0.0,
            failure_share: 0.0,
            usual_failure_share: 0.0,
            traits,
            incident_id: None,
            withdrawn: Vec::new(),
            entered_bad_to_good: 0.0,
        }
    }

    /// What a stranger from `ip` on `account` is told while `records` stand.
    fn answer(records: &[(&str, Action)], ip: &str, account: &str) -> Answer {
        let mut site = Site::new("default", Edge::AddressList);
        for (key, action) in records {
            site.blocklist(key, Some(&entry(*action, None)));
        }
        site.ask(&event(ip, account), false)
    }

    #[test]
    fn every_scope_is_matched() {
        let block = Action::Block;
        let refused = Answer::Refuse(FailureReason::None);
        assert_eq!(answer(&[("default|IP|203.0.113.7", block)], "203.0.113.7", "a"), Answer::RefuseAtEdge);
        assert_eq!(answer(&[("default|IP|203.0.113.7", block)], "203.0.113.8", "a"), Answer::Through);
        assert_eq!(answer(&[("default|CIDR|203.0.113.0/24", block)], "203.0.113.8", "a"), Answer::RefuseAtEdge);
        assert_eq!(answer(&[("default|CIDR|203.0.113.0/24", block)], "203.0.114.8", "a"), Answer::Through);
        assert_eq!(answer(&[("default|CIDR|2001:db8:1:2::/64", block)], "2001:db8:1:2::9", "a"), Answer::RefuseAtEdge);
        assert_eq!(answer(&[("default|CIDR|2001:db8:1::/48", block)], "2001:db8:1:7::9", "a"), Answer::RefuseAtEdge);
        assert_eq!(answer(&[("default|CIDR|2001:db8:1::/48", block)], "2001:db8:2:7::9", "a"), Answer::Through);
        assert_eq!(answer(&[("default|IP_ACCOUNT|203.0.113.7|a", block)], "203.0.113.7", "a"), refused);
        assert_eq!(answer(&[("default|IP_ACCOUNT|203.0.113.7|a", block)], "203.0.113.7", "b"), Answer::Through);
        assert_eq!(
            answer(&[("default|ACCOUNT|a", Action::LockAccount)], "203.0.113.7", "a"),
            Answer::Refuse(FailureReason::AccountLocked)
        );
        assert_eq!(answer(&[("default|ACCOUNT|a", Action::StepUp)], "203.0.113.7", "a"), Answer::Challenge);
        assert_eq!(answer(&[("default|USER_AGENT|agent", block)], "203.0.113.7", "a"), refused);
        assert_eq!(answer(&[("default|ASN|64601", block)], "203.0.113.7", "a"), refused);
        assert_eq!(answer(&[("default|COUNTRY|FR", Action::Challenge)], "203.0.113.7", "a"), Answer::Challenge);
        assert_eq!(answer(&[("other|IP|203.0.113.7", block)], "203.0.113.7", "a"), Answer::Through);
        // The strongest of several holds, and what restricts nobody is none.
        let both = [("default|CIDR|203.0.113.0/24", Action::Throttle), ("default|IP|203.0.113.7", block)];
        assert_eq!(answer(&both, "203.0.113.7", "a"), Answer::RefuseAtEdge);
        assert_eq!(answer(&[("default|IP|203.0.113.7", Action::Notify)], "203.0.113.7", "a"), Answer::Through);
    }

    #[test]
    fn a_block_ends_at_its_time_or_when_it_is_lifted() {
        let mut site = Site::new("default", Edge::AddressList);
        let (from, key) = (event("203.0.113.7", "a"), "default|IP|203.0.113.7");
        site.blocklist(key, Some(&entry(Action::Block, Some(1_001))));
        assert_eq!(site.ask(&from, false), Answer::RefuseAtEdge);
        assert_eq!(site.ask(&LoginEvent { occurred_at: 1_001, ..from.clone() }, false), Answer::Through);
        site.blocklist(key, Some(&entry(Action::Block, None)));
        assert_eq!(site.ask(&from, false), Answer::RefuseAtEdge);
        site.blocklist(key, None);
        assert_eq!((site.ask(&from, false), site.tenants["default"].lengths.len()), (Answer::Through, 0));
    }

    #[test]
    fn what_an_edge_is_decides_whom_it_stops() {
        for (edge, stranger, known) in [
            (Edge::Open, Answer::Through, Answer::Through),
            (Edge::AddressList, Answer::RefuseAtEdge, Answer::RefuseAtEdge),
            (Edge::LoginPage, Answer::Refuse(FailureReason::None), Answer::Through),
        ] {
            let mut site = Site::new("default", edge);
            site.blocklist("default|IP|203.0.113.7", Some(&entry(Action::Block, None)));
            let from = event("203.0.113.7", "a");
            assert_eq!((site.ask(&from, false), site.ask(&from, true)), (stranger, known), "{edge}");
        }
    }

    #[test]
    fn the_status_says_whom_to_challenge_until_it_expires() {
        let (through, challenge) = (Answer::Through, Answer::Challenge);
        let pair = |value: &str| Trait { feature: "asn+user_agent".into(), value: value.into(), lift: 9.0, share: 0.5 };
        let hit = vec![pair("64601\u{1f}agent")];
        let miss = vec![pair("64601\u{1f}other"), pair("64601"), pair("64601\u{1f}agent\u{1f}FR")];
        for (policy, traits, stranger, known) in [
            (ChallengePolicy::Nobody, vec![], through, through),
            (ChallengePolicy::AttackedTraits, hit, challenge, through),
            (ChallengePolicy::AttackedTraits, miss, through, through),
            (ChallengePolicy::UnknownPairs, vec![], challenge, through),
            (ChallengePolicy::Everybody, vec![], challenge, challenge),
        ] {
            let mut site = Site::new("default", Edge::AddressList);
            site.status(&status(policy, traits));
            let from = event("203.0.113.7", "a");
            assert_eq!((site.ask(&from, false), site.ask(&from, true)), (stranger, known), "{policy}");
            assert_eq!(site.ask(&LoginEvent { occurred_at: 2_000, ..from }, false), through);
        }
    }

    #[test]
    fn a_pair_is_known_by_address_or_cookie_and_never_learnt_in_an_attack() {
        let mut site = Site::new("default", Edge::AddressList);
        let with = |ip: &str, account: &str, device: &str| LoginEvent {
            device_id: Some(device.to_owned()),
            ..event(ip, account)
        };
        site.learn(&with("203.0.113.7", "a", "x"));
        assert!(site.knows(&with("203.0.113.7", "a", "y")) && site.knows(&with("203.0.113.8", "a", "x")));
        assert!(!site.knows(&with("203.0.113.8", "a", "y")) && !site.knows(&with("203.0.113.7", "b", "x")));
        site.learn(&LoginEvent { outcome: Outcome::Failure, ..with("203.0.113.9", "a", "z") });
        site.status(&status(ChallengePolicy::Nobody, vec![]));
        site.learn(&with("203.0.113.10", "a", "z"));
        assert!(!site.knows(&with("203.0.113.9", "a", "z")) && !site.knows(&with("203.0.113.10", "a", "z")));
    }
}
