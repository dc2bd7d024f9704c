//! What people look at: the console of an installation, and what any running process shows of itself.
//!
//! ```text
//! topics ──▶ Follower ──▶ Board (memory) ──▶ pages, live ──▶ a browser
//!                    └──▶ Disk (lines) ────▶ reports, exports ──▶ files, `portcullis incident`
//! ```
//!
//! The console is read-only and keeps nothing of its own: its store is emptied at start and built from the topics again,
//! so it can be killed, moved and multiplied.

mod activity;
mod board;
mod chart;
mod disk;
mod export;
mod http;
mod pages;
mod probes;
mod report;
mod shared;
mod sinks;
pub mod text;
mod who;

pub use activity::{SERIES_MAX, SLICES_MAX, Traffic};
pub use board::{Board, Heard, INCIDENTS_MAX, InForce, PlaybookLine, TOPICS, VERDICTS_MAX};
pub use disk::{Disk, Line, PAGE_LINES, STORE_BYTES_MAX, StoreError};
pub use export::{Export, FileKind};
pub use http::routes as console_routes;
pub use probes::{Shown, routes, serve};

pub use report::{Deed, Lines, Minute, Report};
pub use shared::{Console, ConsoleOptions, EXPORTS_MAX, Freshness, LISTENERS_MAX, STALE_AFTER};
pub use sinks::{Delay, SINKS_MAX, Sink, Sinks};
pub use who::{Explained, Known, Restriction, VERDICTS_SHOWN_MAX, Who};
