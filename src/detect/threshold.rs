//! Bounds on the measures of one entity over a sliding window.
//!
//! Known gap: an attack that stays below every bound per entity. That is the campaign detector's.

use std::collections::BTreeMap;

use super::Found;
use crate::event::AttackState;
use crate::topology::{Measure, Playbook, format_duration};
use crate::window::Tally;

/// Everything that a bound may compare, about one entity. A measure is taken when a bound asks for it, and not before:
/// distinct counts of large sets cost something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measures<'a> {
    /// Of the playbook's window; `None` when nothing was heard in it.
    pub tally: Option<&'a Tally>,
    pub addresses_blocked: u64,
    pub good_accounts: u64,
}

impl Measures<'_> {
    fn value(&self, measure: Measure) -> f64 {
        let (attempts, failures) = self.tally.map(Tally::attempts_and_failures).unwrap_or_default();
        match measure {
            Measure::Attempts => attempts as f64,
            Measure::Failures => failures as f64,
            Measure::FailureShare if attempts == 0 => 0.0,
            Measure::FailureShare => failures as f64 / attempts as f64,
            Measure::AccountsFailed => self.tally.map_or(0, Tally::accounts_failed) as f64,
            Measure::Sources => self.tally.map_or(0, Tally::sources) as f64,
            Measure::AddressesBlocked => self.addresses_blocked as f64,
            Measure::GoodAccounts => self.good_accounts as f64,
        }
    }
}

/// Compares; `None` when a bound does not hold. `who` is the entity as people read it.
#[must_use]
pub fn look(playbook: &Playbook, measures: &Measures<'_>, state: AttackState, who: &str) -> Option<Found> {
    let scale = if playbook.scale_by_good_accounts { 1.0 + ((1 + measures.good_accounts) as f64).log2() } else { 1.0 };
    for (measure, bound) in &playbook.trigger {
        let value = measures.value(*measure);
        let least = bound.at_least.map(|t| threshold(*measure, t.at(state), scale));
        if least.is_some_and(|n| value < n) || bound.at_most.is_some_and(|n| value > n) {
            return None;
        }
    }
    Some(explain(playbook, measures, state, scale, who))
}

fn threshold(measure: Measure, at_least: f64, scale: f64) -> f64 {
    if measure.is_count() { (at_least * scale).ceil() } else { at_least }
}

fn explain(playbook: &Playbook, measures: &Measures<'_>, state: AttackState, scale: f64, who: &str) -> Found {
    let (window_start, window_end) = measures.tally.map(Tally::span).unwrap_or_default();
    let mut compared = BTreeMap::new();
    let mut parts = Vec::new();
    for (measure, bound) in &playbook.trigger {
        let value = measures.value(*measure);
        compared.insert(measure.as_str().to_owned(), value);
        if let Some(least) = bound.at_least {
            let least = threshold(*measure, least.at(state), scale);
            compared.insert(format!("{}.threshold", measure.as_str()), least);
            parts.push(phrase(*measure, value, least));
        } else if let Some(most) = bound.at_most {
            compared.insert(format!("{}.threshold", measure.as_str()), most);
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
        Measure::AccountsFailed => format!("failed on {value} accounts (at least {least})"),
        Measure::Sources => format!("failures from {value} sources (at least {least})"),
        Measure::AddressesBlocked => format!("{value} of its addresses are blocked (at least {least})"),
        Measure::GoodAccounts => format!("{value} good accounts (at least {least})"),
    }
}
