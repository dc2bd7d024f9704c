//! The oracle: what the stages must have said, worked out anew from the records that they read.
//!
//! It is the slow, simple model of the source and the account stage. It keeps lists of attempts and counts by scanning
//! them, and it shares no code with the engine: frames, playbooks, windows, standings and ids are written down here a
//! second time, from what they mean. What it gives is compared with what the job published ([`compare`]).
//!
//! ```text
//! login-events ──▶ [intake] ──▶ attempts-by-source ──▶ [source] ──▶ verdicts, blocklist, attempts-by-account, sums
//!                                                attempts-by-account ──▶ [account] ──▶ verdicts, blocklist, sums
//! ```
//!
//! Between partitions Kafka fixes no order, so each stage is judged by its own input, partition by partition.
//!
//! Left out on purpose: limits that a workload must stay below (128 different accounts of an entity in one window, 64
//! repeats and 64 entries of a source, 8 claims of an entity, 1,000 things due at once), and the site stage, of which
//! only the sums that it was sent are checked.

mod account;
pub mod compare;
mod control;
pub mod frames;
mod intake;
pub mod playbook;
mod said;
mod source;
mod standing;
mod window;

pub use account::account_stage;
pub use intake::intake_stage;
pub use playbook::Playbooks;
pub use said::{Block, Verdict};
pub use source::source_stage;

/// Milliseconds since the epoch.
pub type Millis = i64;

/// How late an attempt may be to enter a window.
const GRACE_MS: Millis = 300_000;
/// How late an attempt may be to cause a block.
const ENFORCEMENT_MS: Millis = 60_000;
const DAY_MS: Millis = 86_400_000;

/// Whom something is said about: tenant, scope and value, as in the key of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    pub tenant: String,
    pub scope: &'static str,
    pub value: String,
}

impl Who {
    pub fn key(&self) -> String {
        format!("{}|{}|{}", self.tenant, self.scope, self.value)
    }
}

/// One record of an input topic, as it was committed.
#[derive(Debug, Clone)]
pub struct Read {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: Millis,
    pub value: Option<Vec<u8>>,
}
