//! What exists, as data: topics, playbooks, exemptions. Text in, checked values out; nothing here opens a file.

mod changes;
mod duration;
pub mod exemptions;
mod kept;
mod plan;
mod playbook;
mod topics;

pub use changes::{
    ACTOR_BYTES_MAX, Applied, CHANGE_BYTES_MAX, CHANGES_BYTES_MAX, Effective, HeldChange, OVERRIDE, OVERRIDE_MS_MAX,
    PLAYBOOKS_MAX, PlaybookChange, PlaybookSet, read_change,
};
pub use duration::{format_duration, parse_duration};
pub use exemptions::*;
pub use plan::{Plan, TooMany, WINDOWS_MAX};
pub use playbook::{
    Bound, Detector, FailuresOf, Finding, LADDER_STEPS_MAX, Measure, Per, Playbook, PlaybookMode, Problem, Response,
    Thresholds, check,
};
pub use topics::{Cleanup, Stage, TopicSpec, Topics, describe};
