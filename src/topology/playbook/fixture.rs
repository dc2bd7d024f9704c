//! Cases that belong to a playbook: what happens, and whether it must fire.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::event::AttackState;

/// Most fixtures of one playbook.
pub(super) const FIXTURES_MAX: usize = 50;
/// Most events of one fixture.
pub(super) const FIXTURE_EVENTS_MAX: u64 = 20_000;

/// One case. `portcullis playbooks test` plays it with this playbook alone, as if it were live.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// What it shows.
    pub name: String,
    /// Whether the playbook must fire.
    pub fires: bool,
    /// Upon whom it must fire, where that matters: the value of its verdict.
    #[serde(default)]
    pub value: Option<String>,
    /// At which event it must fire first, from 1, where that matters.
    #[serde(default)]
    pub at_event: Option<u32>,
    /// The tenant's state meanwhile.
    #[serde(default)]
    pub state: Option<AttackState>,
    pub steps: Vec<Step>,
}

/// Something that happens, `n` times with a pause between.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When it happens first, since the start: `0s`, `90s`. Without it: when the step before ended.
    #[serde(default)]
    pub at: Option<String>,
    #[serde(default = "once")]
    pub n: u32,
    /// The pause between; without it, a second.
    #[serde(default)]
    pub every: Option<String>,
    /// Fields of a login event; `{n}` counts from 1 over the step. Without them: a failure of 203.0.113.7 on
    /// `account{n}@example.org`.
    #[serde(default)]
    pub event: serde_json::Map<String, serde_json::Value>,
}

fn once() -> u32 {
    1
}
