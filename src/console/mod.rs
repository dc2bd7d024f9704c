//! What people look at: the console of an installation, and what any running process shows of itself.
//!
//! ```text
//! topics ──▶ Follower ──▶ Board (memory) ──▶ pages, live ──▶ a browser
//!                    └──▶ Disk (lines) ────▶ reports, exports ──▶ files, `portcullis incident`
//! ```
//!
//! The console keeps nothing of its own: its store is emptied at start and built from the topics again, so it can be
//! killed, moved and multiplied. What people do in it becomes records of control topics, written by whoever has the
//! [`Hands`]; what came of it is read from the topics, as everything else.

mod acting;
mod activity;
mod board;
mod chart;
mod disk;
mod export;
mod hands;
mod http;
mod look;
mod operators;
mod pages;
mod probes;
mod report;
mod sessions;
mod shared;
mod sinks;
pub mod text;
mod trail;
mod who;
mod wishes;

pub use activity::{SERIES_MAX, SLICES_MAX, Traffic};
pub use board::{Board, Heard, INCIDENTS_MAX, InForce, PlaybookLine, TOPICS, ThresholdLine, VERDICTS_MAX};
pub use disk::{Disk, Line, PAGE_LINES, STORE_BYTES_MAX, StoreError};
pub use export::{Export, FileKind};
pub use hands::{Hands, Operating, Undone};
pub use http::routes as console_routes;
pub use operators::{Operators, PEOPLE_MAX, Person, Role, TOKEN_BYTES_MIN};
pub use probes::{Shown, routes, serve};

pub use report::{Deed, Lines, Minute, Report};
pub use sessions::{ACTIONS_MAX, FAILED_SIGN_INS_MAX, SESSION_MS, Sessions};
pub use shared::{ACTS_MAX, Console, ConsoleOptions, EXPORTS_MAX, Freshness, LISTENERS_MAX, STALE_AFTER};
pub use sinks::{Delay, SINKS_MAX, Sink, Sinks};
pub use trail::{COMMANDS_MAX, ENTRIES_ALONE_MAX, Outcome, Trail};
pub use who::{Explained, Known, Restriction, VERDICTS_SHOWN_MAX, Who};
