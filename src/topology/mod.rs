//! What exists, as data: topics, playbooks, exemptions, networks. Text in, checked values out; nothing here opens a file.

mod asked;
mod changes;
mod commands;
mod duration;
pub mod exemptions;
mod kept;
pub mod networks;
mod plan;
mod playbook;
mod topics;

pub use asked::{Asked, ControlRecord, Giver, ends, guessed_scope, is_same_subject, undo, undone_by};
pub use changes::{
    ACTOR_BYTES_MAX, Applied, CHANGES_BYTES_MAX, Effective, HeldChange, OVERRIDE, OVERRIDE_MS_MAX, PLAYBOOKS_MAX,
    PlaybookChange, PlaybookSet, read_change,
};
pub use commands::{Ask, LIFT_MS, MISTAKE_MS, Request, is_wide};
pub use duration::{format_duration, parse_duration};
pub use exemptions::*;
pub use plan::{Plan, TooMany, WINDOWS_MAX, Watch, Watched, Window};
pub use playbook::{
    Amount, Bound, Bounds, Cap, Detector, ENTITY_BYTES_MAX, Edit, Escalation, FailuresOf, Field, Filter, Finding,
    Fixture, LADDER_STEPS_MAX, Measure, Moment, PLAYBOOK_BYTES_MAX, Per, Playbook, PlaybookMode, Price, Problem,
    ROWS_MAX, Response, Set, Step, Thresholds, Where, aggressive, check, edited, thresholds,
};
pub use topics::{Cleanup, Stage, TopicSpec, Topics, describe};
