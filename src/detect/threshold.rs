//! Bounds on the measures of one entity over a sliding window.
//!
//! Known gap: an attack that stays below every bound per entity. That is the campaign detector's.

use std::collections::BTreeMap;

use super::Found;
use crate::event::{AttackState, Millis};
use crate::topology::{Bound, Measure, Playbook, format_duration};
use crate::window::Tally;

/// Everything that a bound may compare, about one entity. A measure is taken when a bound asks for it, and not before:
/// distinct counts of large sets cost something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measures<'a> {
    /// Of the playbook's window; `None` when nothing was heard in it.
    pub tally: Option<&'a Tally>,
    pub addresses_blocked: u64,
    pub good_accounts: u64,
    /// Failures of the whole site over the same window.
    pub site_failures: Option<u64>,
    /// Time since the source was first seen; `None` where nobody knows.
    pub seen_for_ms: Option<Millis>,
    /// Time since the account's last success; `None`: it never had one.
    pub idle_for_ms: Option<Millis>,
}

impl Measures<'_> {
    /// `None`: nothing is known of it, and no bound on it holds.
    fn value(&self, measure: Measure) -> Option<f64> {
        let (attempts, failures) = self.tally.map(Tally::attempts_and_failures).unwrap_or_default();
        let unknown_and_asked = || self.tally.map(Tally::unknown_and_asked).unwrap_or_default();
        let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        Some(match measure {
            Measure::Attempts => attempts as f64,
            Measure::Failures => failures as f64,
            Measure::FailureShare => share(failures, attempts),
            Measure::UnknownShare => share(unknown_and_asked().0, failures),
            Measure::Requests => unknown_and_asked().1 as f64,
            Measure::AddressesBlocked => self.addresses_blocked as f64,
            Measure::SiteShare => share(failures, self.site_failures?),
            Measure::GoodAccounts => self.good_accounts as f64,
            Measure::SeenFor => self.seen_for_ms? as f64,
            Measure::IdleFor => self.idle_for_ms? as f64,
            Measure::AccountsFailed
            | Measure::UnknownAccounts
            | Measure::AccountsEntered
            | Measure::AccountsAsked
            | Measure::Sources
            | Measure::Devices
            | Measure::UserAgents
            | Measure::TlsFingerprints
            | Measure::Countries
            | Measure::Asns
            | Measure::PasswordTags => {
                self.tally.zip(measure.set()).map_or(0, |(tally, set)| tally.distinct(set)) as f64
            }
        })
    }

    /// Whether a bound holds.
    fn holds(&self, measure: Measure, bound: Bound, state: AttackState, scale: f64) -> bool {
        let Some(value) = self.value(measure) else { return false };
        let least = bound.at_least.map(|t| threshold(measure, t.at(state), scale));
        least.is_none_or(|n| value >= n) && bound.at_most.is_none_or(|n| value <= n.0)
    }
}

/// Compares; `None` when a bound does not hold, or one of `unless` does. `who` is the entity as people read it.
#[must_use]
pub fn look(playbook: &Playbook, measures: &Measures<'_>, state: AttackState, who: &str) -> Option<Found> {
    if !playbook.states.is_empty() && !playbook.states.contains(&state) {
        return None;
    }
    let scale = if playbook.scale_by_good_accounts { 1.0 + ((1 + measures.good_accounts) as f64).log2() } else { 1.0 };
    let fires = playbook.trigger.iter().all(|(measure, bound)| measures.holds(*measure, *bound, state, scale))
        && !playbook.unless.iter().any(|(measure, bound)| measures.holds(*measure, *bound, state, 1.0));
    fires.then(|| explain(playbook, measures, state, scale, who))
}

fn threshold(measure: Measure, at_least: f64, scale: f64) -> f64 {
    if measure.is_count() { (at_least * scale).ceil() } else { at_least }
}

fn explain(playbook: &Playbook, measures: &Measures<'_>, state: AttackState, scale: f64, who: &str) -> Found {
    let (window_start, window_end) = measures.tally.map(Tally::span).unwrap_or_default();
    let mut compared = BTreeMap::new();
    let mut parts = Vec::new();
    for (measure, bound) in &playbook.trigger {
        let value = measures.value(*measure).unwrap_or_default();
        compared.insert(measure.as_str().to_owned(), value);
        if let Some(least) = bound.at_least {
            let least = threshold(*measure, least.at(state), scale);
            compared.insert(format!("{}.threshold", measure.as_str()), least);
            parts.push(phrase(*measure, value, least));
        } else if let Some(most) = bound.at_most {
            compared.insert(format!("{}.threshold", measure.as_str()), most.0);
        }
    }
    Found {
        measures: compared,
        explanation: format!(
            "{} in {}: {} ({}).",
            readable(who),
            format_duration(playbook.over),
            parts.join(", "),
            state.as_str().to_ascii_lowercase()
        ),
        window_start,
        window_end,
        contributions: BTreeMap::new(),
    }
}

/// A name that an attacker may have chosen, as a part of a sentence: cut, and without control characters.
fn readable(who: &str) -> String {
    const CHARS_MAX: usize = 128;
    who.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(CHARS_MAX).collect()
}

fn phrase(measure: Measure, value: f64, least: f64) -> String {
    match measure {
        Measure::Attempts => format!("{value} attempts (at least {least})"),
        Measure::Failures => format!("{value} failed attempts by strangers (at least {least})"),
        Measure::FailureShare => {
            format!("{:.0} % of attempts failed (at least {:.0} %)", value * 100.0, least * 100.0)
        }
        Measure::UnknownShare => {
            format!("{:.0} % of the names are nobody's (at least {:.0} %)", value * 100.0, least * 100.0)
        }
        Measure::AccountsFailed => format!("failed on {value} accounts (at least {least})"),
        Measure::UnknownAccounts => format!("tried {value} names of nobody (at least {least})"),
        Measure::AccountsEntered => format!("entered {value} accounts as a stranger (at least {least})"),
        Measure::Requests => format!("{value} requests (at least {least})"),
        Measure::AccountsAsked => format!("asked about {value} accounts (at least {least})"),
        Measure::Sources => format!("failures from {value} sources (at least {least})"),
        Measure::Devices => format!("failures from {value} devices (at least {least})"),
        Measure::UserAgents => format!("failures with {value} user agents (at least {least})"),
        Measure::TlsFingerprints => format!("failures with {value} TLS fingerprints (at least {least})"),
        Measure::Countries => format!("failures from {value} countries (at least {least})"),
        Measure::Asns => format!("failures from {value} autonomous systems (at least {least})"),
        Measure::PasswordTags => format!("{value} different passwords (at least {least})"),
        Measure::AddressesBlocked => format!("{value} of its addresses are blocked (at least {least})"),
        Measure::SiteShare => {
            format!("{:.0} % of the site's failures (at least {:.0} %)", value * 100.0, least * 100.0)
        }
        Measure::GoodAccounts => format!("{value} good accounts (at least {least})"),
        Measure::SeenFor => format!("seen for {} (at least {})", time(value), time(least)),
        Measure::IdleFor => format!("no login for {} (at least {})", time(value), time(least)),
    }
}

/// A time in words, to the second.
fn time(ms: f64) -> String {
    format_duration((ms / 1000.0).round() as Millis * 1000)
}
