//! Sinks: what should be enforced against what an edge has.
//!
//! ```text
//! blocklist ──▶ Desired ──▶ wanted(edge, now) ───┐
//! exemptions ─▶    │                              ├─▶ plan ──▶ Adapter::write ──▶ nginx, HAProxy …
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
mod expansion;
mod file;
mod haproxy;
mod nftables;
mod nginx;
mod receipts;
mod reconcile;
mod redis;
mod replace;
mod run;
pub mod server;
mod wanted;

pub use adapter::{Actual, Adapter, Edge, Element, Elements, Error, Reach, Width, Written};
pub use desired::{
    Desired, ENDED_KEPT_MS, ENTRIES_MAX, ENTRY_BYTES_MAX, LIFTED_MAX, Refusal, Standing, Taken, Tenants,
};
pub use expansion::{EXPANDED_MAX, EXPANSION_MAX, EXPANSIONS_MAX, Expansion, Expansions};
pub use file::FileEdge;
pub use haproxy::{HaproxyEdge, HaproxyOptions};
pub use nftables::{NftablesEdge, NftablesOptions};
pub use nginx::{NginxEdge, NginxOptions, Reload};
pub use receipts::{Confirmed, Receipts, Said};
pub use reconcile::{Change, Plan, SHRINK_FREE, Shrink, plan};
pub use redis::{RedisEdge, RedisOptions};
pub use run::{Applied, DRIFT_CHECK_MS, INTERVAL_MS, RETRY_MS_MAX, RETRY_MS_MIN, Sink, SinkOptions, Status, Tick};
pub use wanted::{Fate, LeftOut, Wanted, fate, wanted};
