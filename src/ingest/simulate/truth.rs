//! What is written beside simulated events: who it was, and how it would have ended.

use serde::Serialize;

use super::scenario::{Options, Scenario};
use super::site::Handled;
use super::tally::Tally;
use crate::event::{LoginEvent, Millis, Outcome};

/// Who made a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "label", rename_all = "snake_case")]
pub enum Label {
    /// A person, by number, and which of the person's logins it belongs to; that of a program that goes on with an old
    /// password is 0.
    Honest { person: u64, login: u64 },
    /// An attack, by name.
    Attack { campaign: &'static str },
}

/// The truth about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    pub label: Label,
    /// The account that was tried, also where the event does not say.
    pub account: String,
    /// The outcome had the site stopped nothing.
    pub would_be: Outcome,
    pub handled: Handled,
    /// The login page knew this pair.
    pub known: bool,
    /// It belongs to the history before the simulation proper.
    pub history: bool,
}

/// One line of the truth file.
#[derive(Debug, Clone, Serialize)]
pub struct TruthLine<'a> {
    pub event_id: &'a str,
    pub at: Millis,
    #[serde(flatten)]
    pub label: Label,
    pub account: &'a str,
    pub source: &'a str,
    pub would_be: Outcome,
    pub handled: Handled,
    pub known: bool,
    pub history: bool,
}

impl<'a> TruthLine<'a> {
    #[must_use]
    pub fn new(event: &'a LoginEvent, truth: &'a Truth) -> Self {
        TruthLine {
            event_id: &event.event_id,
            at: event.occurred_at,
            label: truth.label,
            account: &truth.account,
            source: &event.source_ip,
            would_be: truth.would_be,
            handled: truth.handled,
            known: truth.known,
            history: truth.history,
        }
    }
}

/// Totals of a simulation.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    pub scenario: &'static str,
    pub seed: u64,
    pub attacker: &'static str,
    /// The first moment of full traffic, and the last.
    pub from: Millis,
    pub to: Millis,
    pub events: u64,
    pub attack_attempts: u64,
    pub honest_attempts: u64,
    /// Accounts that the attack tried at least once, those that are nobody's included.
    pub accounts_targeted: u64,
    pub accounts_compromised: usize,
    pub attack_addresses: u64,
    pub tally: Tally,
}

impl Summary {
    pub(super) fn new(scenario: Scenario, seed: u64, options: &Options, tally: &Tally) -> Self {
        Summary {
            scenario: scenario.as_str(),
            seed,
            attacker: options.attacker.as_str(),
            from: 0,
            to: 0,
            events: tally.history + tally.honest.all() + tally.attack.all(),
            attack_attempts: tally.attack.all(),
            honest_attempts: tally.honest.all(),
            accounts_targeted: 0,
            accounts_compromised: tally.fallen.len(),
            attack_addresses: tally.sources,
            tally: tally.clone(),
        }
    }
}
