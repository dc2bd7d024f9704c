//! The score of a simulation: what was let through, what was stopped, and who fell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::site::Handled;
use crate::event::wire::format_millis;
use crate::event::{
    Action, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, LoginEvent, Millis, Outcome, Source,
};

/// Most attempts of an attack that are remembered until it is found; later ones count for its being found at all.
const EARLY_MAX: usize = 100_000;

/// Tries by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sums {
    pub through: u64,
    /// Challenged and passed; their passwords were checked.
    pub passed: u64,
    pub challenged: u64,
    pub blocked: u64,
}

impl Sums {
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.through + self.passed + self.stopped()
    }

    #[must_use]
    pub const fn stopped(&self) -> u64 {
        self.challenged + self.blocked
    }

    /// Stopped over all, from 0 to 1; 0 when there were none.
    #[must_use]
    pub fn stopped_share(&self) -> f64 {
        share(self.stopped(), self.all())
    }

    const fn add(&mut self, handled: Handled) {
        match handled {
            Handled::Through => self.through += 1,
            Handled::Passed => self.passed += 1,
            Handled::Challenged => self.challenged += 1,
            Handled::Blocked => self.blocked += 1,
        }
    }
}

/// Honest logins, each counted once however many tries it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Logins {
    pub all: u64,
    /// Asked to prove something, passed or not.
    pub challenged: u64,
    /// Refused at least once; those of known pairs among them.
    pub denied: u64,
    pub known_denied: u64,
}

/// An account that an attacker entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fallen {
    pub account: String,
    pub source: IpAddr,
    pub at: Millis,
    pub event_id: String,
    /// When its source was blocked, before the success or after.
    pub source_blocked_at: Option<Millis>,
    /// When its sessions were revoked or it was locked.
    pub flagged_at: Option<Millis>,
}

/// How one address of an attack fared.
#[derive(Debug, Clone, Copy, Default)]
struct Fared {
    through: u64,
    refused: bool,
}

/// The score so far.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    pub attack: Sums,
    /// Of those, the ones after the attack was found.
    pub attack_after_found: Sums,
    pub honest: Sums,
    pub logins: Logins,
    /// Of those, the ones that began while strangers were challenged.
    pub logins_under_challenge: Logins,
    /// Honest tries before the simulation proper.
    pub history: u64,
    /// Attempts of the attack up to the moment at which a status said ATTACK.
    pub found_after: Option<u64>,
    pub first_attack_at: Option<Millis>,
    pub found_at: Option<Millis>,
    /// When a status said CALM again.
    pub calm_at: Option<Millis>,
    pub first_block_at: Option<Millis>,
    /// When the first try was stopped.
    pub first_stopped_at: Option<Millis>,
    pub statuses: u64,
    pub blocks: u64,
    pub records_ignored: u64,
    pub fallen: Vec<Fallen>,
    /// Addresses of the attack: seen, refused at least once, and the tries that they got through before that.
    pub sources: u64,
    pub sources_refused: u64,
    pub tries_before_refusal: u64,
    pub tries_before_refusal_max: u64,
    /// When the first attempt of the attack was stopped, and how many came before it.
    pub attack_stopped_at: Option<Millis>,
    pub attack_stopped_after: u64,
    #[serde(skip)]
    fared: BTreeMap<IpAddr, Fared>,
    /// Sources that were blocked, by themselves or as part of a range that they came from.
    #[serde(skip)]
    named: BTreeSet<Source>,
    /// Sources of the attack, with their tries.
    #[serde(skip)]
    attackers: BTreeMap<Source, u64>,
    #[serde(skip)]
    early: Vec<(Millis, Handled)>,
}

/// Where an honest login stands when one of its tries has been handled.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoginSoFar {
    pub(super) first_try: bool,
    pub(super) was_challenged: bool,
    pub(super) was_denied: bool,
    pub(super) known: bool,
}

impl Tally {
    /// Takes note of an attempt of the attack. `source_blocked`: its address is on the list, obeyed or not.
    pub(super) fn attack(&mut self, event: &LoginEvent, handled: Handled, source_blocked: bool) {
        let at = event.occurred_at;
        self.attack.add(handled);
        self.first_attack_at.get_or_insert(at);
        if self.found_at.is_some() {
            self.attack_after_found.add(handled);
        } else if self.early.len() < EARLY_MAX {
            self.early.push((at, handled));
        }
        self.stopped_at(at, handled);
        match handled {
            Handled::Challenged | Handled::Blocked => {
                self.attack_stopped_at.get_or_insert(at);
            }
            Handled::Through | Handled::Passed => {
                self.attack_stopped_after += u64::from(self.attack_stopped_at.is_none());
            }
        }
        let Ok(source) = event.source_ip.parse::<IpAddr>() else { return };
        *self.attackers.entry(source.into()).or_default() += 1;
        if source_blocked {
            self.named.insert(source.into());
        }
        let fared = self.fared.entry(source).or_default();
        match handled {
            Handled::Through | Handled::Passed => fared.through += 1,
            Handled::Blocked if !fared.refused => {
                fared.refused = true;
                self.sources_refused += 1;
                self.tries_before_refusal += fared.through;
                self.tries_before_refusal_max = self.tries_before_refusal_max.max(fared.through);
            }
            Handled::Blocked | Handled::Challenged => {}
        }
        self.sources = self.fared.len() as u64;
        if event.outcome == Outcome::Success {
            self.fallen.push(Fallen {
                account: event.account.clone(),
                source,
                at,
                event_id: event.event_id.clone(),
                source_blocked_at: source_blocked.then_some(at),
                flagged_at: None,
            });
        }
    }

    /// Takes note of an honest try.
    pub(super) fn honest(&mut self, at: Millis, handled: Handled, login: LoginSoFar, policy: ChallengePolicy) {
        self.honest.add(handled);
        self.stopped_at(at, handled);
        login.count(handled, &mut self.logins);
        match policy {
            ChallengePolicy::Nobody => {}
            ChallengePolicy::AttackedTraits | ChallengePolicy::UnknownPairs | ChallengePolicy::Everybody => {
                login.count(handled, &mut self.logins_under_challenge);
            }
        }
    }

    pub(super) fn status(&mut self, status: &AttackStatus) {
        self.statuses += 1;
        match status.state {
            AttackState::Attack if self.found_at.is_none() => {
                self.found_at = Some(status.updated_at);
                // What was tried until the site heard of it is not what was tried until it was known.
                let (before, after) =
                    self.early.split_at(self.early.partition_point(|(at, _)| *at <= status.updated_at));
                self.found_after = Some(before.len() as u64);
                after.iter().for_each(|(_, handled)| self.attack_after_found.add(*handled));
                self.early = Vec::new();
            }
            AttackState::Calm if self.found_at.is_some() && self.calm_at.is_none() => {
                self.calm_at = Some(status.updated_at);
            }
            AttackState::Attack | AttackState::Elevated | AttackState::Calm => {}
        }
    }

    /// A source is blocked at `at`, the generation of its entry, which is its owner's stream time.
    /// `source`: who it is, unless it is a range.
    pub(super) fn source_blocked(&mut self, at: Millis, source: Option<Source>, holds: impl Fn(IpAddr) -> bool) {
        self.blocks += 1;
        self.named.extend(source);
        self.first_block_at.get_or_insert(at);
        for fallen in self.fallen.iter_mut().filter(|f| f.source_blocked_at.is_none() && holds(f.source)) {
            fallen.source_blocked_at = Some(at);
        }
    }

    pub(super) fn account_flagged(&mut self, entry: &BlocklistEntry) {
        if !matches!(entry.action, Action::RevokeSessions | Action::LockAccount) {
            return;
        }
        let fallen = self.fallen.iter_mut().filter(|f| f.flagged_at.is_none() && f.account == entry.value);
        fallen.for_each(|f| f.flagged_at = Some(entry.generation.max(f.at)));
    }

    fn stopped_at(&mut self, at: Millis, handled: Handled) {
        match handled {
            Handled::Challenged | Handled::Blocked => {
                self.first_stopped_at.get_or_insert(at);
            }
            Handled::Through | Handled::Passed => {}
        }
    }

    /// Somebody honest comes from a source that is blocked.
    pub(super) fn honest_source_blocked(&mut self, source_ip: &str) {
        self.named.extend(source_ip.parse::<Source>());
    }

    /// Of the sources that were blocked, those of the attack; `None` when none was blocked.
    #[must_use]
    pub fn precision(&self) -> Option<f64> {
        let right = self.named.iter().filter(|source| self.attackers.contains_key(source)).count();
        (!self.named.is_empty()).then(|| right as f64 / self.named.len() as f64)
    }

    /// Of the sources of the attack that tried twice or more, those that were blocked; `None` when none did.
    #[must_use]
    pub fn recall(&self) -> Option<f64> {
        let repeating = || self.attackers.iter().filter(|(_, tries)| **tries >= 2);
        let found = repeating().filter(|(source, _)| self.named.contains(source)).count();
        let all = repeating().count();
        (all > 0).then(|| found as f64 / all as f64)
    }

    /// Accounts that fell and were flagged.
    #[must_use]
    pub fn flagged(&self) -> usize {
        self.fallen.iter().filter(|f| f.flagged_at.is_some()).count()
    }
}

impl LoginSoFar {
    fn count(self, handled: Handled, logins: &mut Logins) {
        logins.all += u64::from(self.first_try);
        match handled {
            Handled::Through => {}
            Handled::Passed | Handled::Challenged => logins.challenged += u64::from(!self.was_challenged),
            Handled::Blocked => {
                logins.denied += u64::from(!self.was_denied);
                logins.known_denied += u64::from(!self.was_denied && self.known);
            }
        }
    }
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

impl fmt::Display for Tally {
    /// A few lines for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sums = |f: &mut fmt::Formatter<'_>, name: &str, sums: &Sums| {
            let stopped = sums.stopped_share() * 100.0;
            let Sums { through, passed, challenged, blocked } = sums;
            write!(f, "{name:<14}{} attempts: {through} through", sums.all())?;
            if *passed > 0 {
                write!(f, ", {passed} through after a challenge")?;
            }
            writeln!(f, ", {challenged} stopped at a challenge, {blocked} refused; {stopped:.2} % stopped")
        };
        let clock = |at: Option<Millis>| at.map_or_else(|| "never".to_owned(), format_millis);
        if self.attack.all() > 0 {
            sums(f, "attack", &self.attack)?;
            let after = self.found_after.map_or_else(String::new, |n| format!(", after {n} of its attempts"));
            writeln!(f, "{:<14}found: {}{after}", "", clock(self.found_at))?;
            if self.found_at.is_some() {
                sums(f, "  after that", &self.attack_after_found)?;
            }
            write!(f, "{:<14}{} addresses, {} of them refused", "", self.sources, self.sources_refused)?;
            if self.sources_refused > 0 {
                let mean = share(self.tries_before_refusal, self.sources_refused);
                write!(f, " after {mean:.1} tries on average, {} at most", self.tries_before_refusal_max)?;
            }
            writeln!(f)?;
        }
        sums(f, "honest people", &self.honest)?;
        let logins = |f: &mut fmt::Formatter<'_>, name: &str, logins: &Logins| {
            let Logins { all, challenged, denied, known_denied } = logins;
            let (c, d) = (share(*challenged, *all) * 100.0, share(*denied, *all) * 100.0);
            writeln!(
                f,
                "{name:<14}{all} logins: {challenged} challenged ({c:.2} %), {denied} denied ({d:.3} %), {known_denied} of \
                 them known"
            )
        };
        logins(f, "", &self.logins)?;
        if self.logins_under_challenge.all > 0 {
            logins(f, "  challenge on", &self.logins_under_challenge)?;
        }
        writeln!(f, "first block   {}; calm again: {}", clock(self.first_block_at), clock(self.calm_at))?;
        writeln!(f, "fallen        {} accounts, {} of them flagged", self.fallen.len(), self.flagged())?;
        for fallen in self.fallen.iter().take(10) {
            let Fallen { account, source, at, source_blocked_at, flagged_at, .. } = fallen;
            writeln!(
                f,
                "{:<14}{} {account} from {source}; source blocked {}, flagged {}",
                "",
                format_millis(*at),
                clock(*source_blocked_at),
                clock(*flagged_at)
            )?;
        }
        Ok(())
    }
}
