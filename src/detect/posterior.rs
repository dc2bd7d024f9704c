//! Who takes part: how likely a source is an attacker's, from what the site tells in an epoch and what the source did itself.
//!
//! Wald's sequential test as odds: the logarithm of the odds that a source is bad starts at those of the site (bad attempts
//! to a good one), and each thing seen of the source adds the logarithm of how much more often attackers do it than honest
//! people. Weights are starting values of the domain report, 3.5. What one kind of evidence adds is capped, since ten typos
//! of one person are not ten times one typo, and all of it fades with a half-life of 30 minutes.
//!
//! Known gaps: weights are not learnt; devices and networks are not asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Found;
use crate::event::{Action, Millis};
use crate::window::Hashed;

/// Half of the evidence is forgotten in this time.
const HALF_LIFE_MS: f64 = 30.0 * 60_000.0;
/// From then on nothing is left of it.
const FORGOTTEN_MS: Millis = 4 * 60 * 60_000;
/// No kind of evidence adds or takes more.
const CAP: f64 = 4.0;
/// A stranger's failure on a name that belongs to nobody, and on one that belongs to somebody.
const UNKNOWN: f64 = 3.0;
const STRANGER: f64 = 1.0;
/// A known pair got in. It is told once in a while, or one account of his own would be an attacker's pass.
const KNOWN_SUCCESS: f64 = -4.0;
/// First seen since the attack began.
const NEW: f64 = 1.3;
/// Accounts that have long logged in from it: one, and ten.
const ONE_GOOD: f64 = -1.5;
const TEN_GOOD: f64 = -3.0;
/// Odds of the site beyond which they tell nothing more about one source, in thousandths.
pub const ODDS_MAX: u32 = 10_000;
/// Odds at which somebody is challenged, and at which he is kept out: nominally one in a hundred is wrong.
const CHALLENGE_ODDS: f64 = 9.0;
const BLOCK_ODDS: f64 = 99.0;
/// Whoever is kept out has failed on so many accounts, or on so many names of nobody. Fewer are one person's: first the
/// name is wrong, and then the password; and somebody else of a carrier's exit may come next.
const BLOCK_ACCOUNTS: f64 = 3.0;
const BLOCK_NAMES: u8 = 2;
/// Whoever fails with what the attack's attempts share, and hardly anybody else has, is no person who mistypes his own name:
/// one is enough, where nobody is at home.
const TELLING_TRAITS: f64 = 2.0;

/// What is remembered of a source.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Evidence {
    unknown: f64,
    strangers: f64,
    /// The heaviest traits of the attack that it failed with.
    traits: f64,
    known_successes: f64,
    /// The account of its last failure; how many times that was another one than before, and nobody's at that.
    account: Hashed,
    accounts: u8,
    names: u8,
    /// How often a stranger got in, each account once in a while.
    entered: u8,
    /// When it last faded.
    at: Millis,
}

/// Something that a source did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A stranger's failure that is no repeat; the account, where one is named.
    Failed {
        is_unknown: bool,
        account: Option<Hashed>,
    },
    KnownSuccess,
    /// A stranger got in, who had not lately.
    Entered,
}

/// What is known of a source besides its deeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standpoint {
    /// Bad attempts to a good one at the site, in thousandths.
    pub odds_permille: u32,
    /// It was first seen after the attack had begun.
    pub is_new: bool,
    pub good_accounts: u64,
}

impl Evidence {
    /// Adds a deed.
    pub fn take(&mut self, deed: Deed, now: Millis) {
        self.fade(now);
        match deed {
            Deed::Failed { is_unknown, account } => {
                // Failing again on the same account is one person forgetting one password.
                let is_another = account.is_none_or(|account| self.accounts == 0 || account != self.account);
                if !is_another {
                    return;
                }
                let sum = if is_unknown { &mut self.unknown } else { &mut self.strangers };
                *sum = (*sum + if is_unknown { UNKNOWN } else { STRANGER }).min(CAP);
                if let Some(account) = account {
                    self.account = account;
                    self.accounts = self.accounts.saturating_add(1);
                    self.names = self.names.saturating_add(u8::from(is_unknown));
                }
            }
            Deed::Entered => self.entered = self.entered.saturating_add(1),
            Deed::KnownSuccess => self.known_successes = (self.known_successes + KNOWN_SUCCESS).max(-CAP),
        }
    }

    /// It failed with traits of the attack that weigh so much, in nats.
    pub fn share(&mut self, weight: f64, now: Millis) {
        self.fade(now);
        self.traits = self.traits.max(weight.min(CAP));
    }

    fn fade(&mut self, now: Millis) {
        let passed = now.saturating_sub(self.at);
        if passed >= FORGOTTEN_MS {
            *self = Evidence { at: now, ..Evidence::default() };
        } else if passed > 0 {
            let kept = (-(passed as f64) / HALF_LIFE_MS).exp2();
            self.unknown *= kept;
            self.strangers *= kept;
            self.traits *= kept;
            self.known_successes *= kept;
            self.at = now;
        }
    }
}

/// What speaks for and against a source, when it is enough for an action; `None` otherwise.
#[must_use]
pub fn posterior(evidence: &Evidence, from: &Standpoint, action: Action, now: Millis, who: &str) -> Option<Found> {
    let mut evidence = *evidence;
    evidence.fade(now);
    // Of an attacker's list hardly anything fits. Where more strangers get in than fail, honest people live, of whom nothing is
    // known yet: an exit that hundreds share, soon after the state began.
    if evidence.entered > evidence.accounts {
        return None;
    }
    let odds = f64::from(from.odds_permille.clamp(1, ODDS_MAX)) / 1_000.0;
    let good = match from.good_accounts {
        0 => 0.0,
        1..10 => ONE_GOOD,
        _ => TEN_GOOD,
    };
    let parts = [
        ("site", odds.ln()),
        ("failures_on_nobodys_names", evidence.unknown),
        ("failures_of_strangers", evidence.strangers),
        ("traits_of_the_attack", evidence.traits),
        ("successes_of_known_pairs", evidence.known_successes),
        ("new_since_the_attack_began", if from.is_new { NEW } else { 0.0 }),
        ("good_accounts", good),
    ];
    let logit: f64 = parts.iter().map(|(_, part)| part).sum();
    // Where good accounts are at home, as many as any other playbook would ask for: an edge that knows nothing but
    // addresses refuses them as well.
    let accounts = BLOCK_ACCOUNTS * (1.0 + (1.0 + from.good_accounts as f64).log2());
    let names = if evidence.traits >= TELLING_TRAITS { 1 } else { BLOCK_NAMES };
    let is_one_person = f64::from(evidence.accounts) < accounts && (from.good_accounts > 0 || evidence.names < names);
    let keeps_out = action.strength() >= Action::Block.strength();
    let threshold = if keeps_out { BLOCK_ODDS } else { CHALLENGE_ODDS }.ln();
    if logit < threshold || (keeps_out && is_one_person) {
        return None;
    }
    let contributions: BTreeMap<String, f64> =
        parts.iter().filter(|(_, part)| *part != 0.0).map(|(name, part)| ((*name).to_owned(), *part)).collect();
    Some(Found {
        measures: BTreeMap::from([("logit".to_owned(), logit), ("logit.threshold".to_owned(), threshold)]),
        explanation: format!(
            "{who} takes part in the attack at odds of {:.0} to 1: {odds:.2} bad attempts to a good one at the site, and what \
             it did itself.",
            logit.exp()
        ),
        window_start: now.saturating_sub(HALF_LIFE_MS as Millis),
        window_end: now,
        contributions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHT: Standpoint = Standpoint { odds_permille: 4_000, is_new: true, good_accounts: 0 };

    fn failed(is_unknown: bool, account: u64) -> Deed {
        Deed::Failed { is_unknown, account: Some(account) }
    }

    #[track_caller]
    fn logit(deeds: &[Deed], from: Standpoint) -> f64 {
        let mut evidence = Evidence::default();
        deeds.iter().for_each(|deed| evidence.take(*deed, 0));
        let parts = posterior(&evidence, &from, Action::Challenge, 0, "it").map(|found| found.measures["logit"]);
        parts.unwrap_or(f64::NEG_INFINITY)
    }

    fn blocks(deeds: &[Deed], from: Standpoint) -> bool {
        let mut evidence = Evidence::default();
        deeds.iter().for_each(|deed| evidence.take(*deed, 0));
        posterior(&evidence, &from, Action::Block, 0, "it").is_some()
    }

    #[test]
    fn in_an_attack_two_or_three_failures_decide_and_in_calm_none_do() {
        assert!(!blocks(&[failed(true, 1)], NIGHT), "one typo keeps nobody out");
        assert!(logit(&[failed(true, 1)], NIGHT) > BLOCK_ODDS.ln());
        assert!(blocks(&[failed(true, 1), failed(true, 2)], NIGHT));
        assert!(blocks(&[failed(false, 1), failed(true, 2), failed(false, 3)], NIGHT));
        assert!(!blocks(&[failed(true, 1), failed(false, 2)], NIGHT), "the name was wrong, then the password");
        assert!(!blocks(&[failed(false, 1); 9], NIGHT), "the same account again is one person");
        let calm = Standpoint { odds_permille: 1, is_new: false, good_accounts: 0 };
        let many: Vec<Deed> = (0..50).flat_map(|n| [failed(true, n), failed(false, n)]).collect();
        assert!(!blocks(&many, calm) && logit(&many, calm) == f64::NEG_INFINITY);
    }

    #[test]
    fn with_the_traits_of_the_attack_one_try_decides_where_nobody_is_at_home() {
        let blocks = |deeds: &[Deed], weight: f64, from: Standpoint| {
            let mut evidence = Evidence::default();
            deeds.iter().for_each(|deed| evidence.take(*deed, 0));
            evidence.share(weight, 0);
            posterior(&evidence, &from, Action::Block, 0, "it").is_some()
        };
        let late = Standpoint { is_new: false, ..NIGHT };
        assert!(blocks(&[failed(true, 1)], 3.5, late) && !blocks(&[failed(true, 1)], 1.5, NIGHT));
        assert!(!blocks(&[failed(false, 1)], 4.0, NIGHT), "somebody's name may be mistyped by its owner");
        assert!(!blocks(&[failed(true, 1)], 4.0, Standpoint { good_accounts: 1, ..late }));
        let calm = Standpoint { odds_permille: 1, is_new: false, good_accounts: 0 };
        assert!(!blocks(&[failed(true, 1)], 4.0, calm));
    }

    #[test]
    fn good_people_behind_a_source_speak_for_it() {
        let office = Standpoint { is_new: false, good_accounts: 12, ..NIGHT };
        let slips = [failed(false, 1), failed(false, 2), failed(false, 3)];
        assert!(blocks(&slips, NIGHT) && !blocks(&slips, office));
        let one = Standpoint { is_new: false, good_accounts: 1, ..NIGHT };
        let many: Vec<Deed> = (0..6).map(|n| failed(n % 2 == 0, n)).collect();
        assert!(!blocks(&many[..5], one) && blocks(&many, one), "as many as any other playbook would ask for");
        let home = [Deed::KnownSuccess, failed(false, 1), failed(false, 2), failed(false, 3)];
        assert!(!blocks(&home, NIGHT));
        // An own account used again and again is worth no more than once.
        let own: Vec<Deed> =
            std::iter::repeat_n(Deed::KnownSuccess, 50).chain(slips).chain((4..9).map(|n| failed(true, n))).collect();
        assert!(blocks(&own, NIGHT));
    }

    #[test]
    fn evidence_fades_and_every_kind_is_capped() {
        let mut evidence = Evidence::default();
        (0..50).for_each(|n| evidence.take(failed(true, n), 0));
        assert!((evidence.unknown - CAP).abs() < 1e-9, "{evidence:?}");
        evidence.fade(30 * 60_000);
        assert!((evidence.unknown - CAP / 2.0).abs() < 1e-9, "{evidence:?}");
        evidence.fade(FORGOTTEN_MS + 30 * 60_000);
        assert!(evidence.unknown < 1e-9 && evidence.accounts == 0, "{evidence:?}");
    }

    #[test]
    fn contributions_add_up_to_the_finding() {
        let mut evidence = Evidence::default();
        evidence.take(failed(true, 1), 0);
        evidence.take(failed(false, 2), 0);
        evidence.take(failed(false, 3), 0);
        let found = posterior(&evidence, &NIGHT, Action::Block, 60_000, "it").expect("enough");
        let sum: f64 = found.contributions.values().sum();
        assert!((sum - found.measures["logit"]).abs() < 1e-9, "{found:?}");
        assert!(found.measures["logit"] > found.measures["logit.threshold"]);
    }
}
