//! What a sign-in service says happened, and the words of the public contract.
//!
//! Bytes become values in [`wire`] and nowhere else; everything behind it is typed, bounded and canonical.
//! Nothing here reads a clock, a file or a socket.

mod address;
mod attempt;
mod entity;
mod login_event;
mod names;
mod record;
mod reject;
pub mod wire;

pub use address::{Network, NotAnAddress, RESERVED, Source, reserved_inside};
pub use attempt::Attempt;
pub use entity::{Entity, Scope, split_key};
pub use login_event::{Activity, ChallengeResult, FailureReason, LoginEvent, Method, Outcome};
pub use record::{
    Action, ActivitySlice, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, Command, CommandKind,
    Compromise, Counted, DetailKind, Disposition, Exemption, Incident, IncidentDetail, IncidentKind, IncidentState,
    Mode, Receipt, ReceiptOutcome, Related, Severity, Trait, Verdict, Withdrawn,
};
pub use reject::{Reason, Reject};

/// Milliseconds since the Unix epoch, UTC. Event time and arrival time are both of this type; which one a value is
/// stands in its name.
pub type Millis = i64;
