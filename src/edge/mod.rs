//! Sinks: what should be enforced against what an edge has.
//!
//! ```text
//! blocklist ──▶ Desired ──▶ wanted(reach, now) ──┐
//! exemptions ─▶    │                              ├─▶ plan ──▶ Adapter::write ──▶ nginx, file …
//!                  └── ends by the clock          │
//! the edge ───▶ Adapter::read ────────────────────┘
//! ```
//!
//! [`Sink`] is the whole loop body as a value: records and the time go in, an application and the time of the next call
//! come out. Nothing here reads Kafka or a clock. Nothing is unblocked by a failure, and nothing changes before the
//! feed has been read to the end that it had at start.

mod adapter;
mod command;
mod desired;
mod file;
mod nginx;
mod reconcile;
mod replace;
mod run;
pub mod server;

pub use adapter::{Actual, Adapter, Element, Elements, Error, Reach, Written};
pub use desired::{
    Desired, ENDED_KEPT_MS, ENTRIES_MAX, ENTRY_BYTES_MAX, LIFTED_MAX, Refusal, Standing, Taken, Tenants,
};
pub use file::FileEdge;
pub use nginx::{NginxEdge, NginxOptions, Reload};
pub use reconcile::{Plan, SHRINK_FREE, Shrink, Wanted, plan, wanted};
pub use run::{Applied, DRIFT_CHECK_MS, INTERVAL_MS, RETRY_MS_MAX, RETRY_MS_MIN, Sink, SinkOptions, Status, Tick};
