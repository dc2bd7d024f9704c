//! Portcullis finds account-takeover attacks in login events on Kafka while they run, and stops them at the edge.
//!
//! Thirteen rooms; a room uses only those above it, `app` alone knows all. `ARCHITECTURE.md` has the flow and the
//! invariants.

pub mod app;
pub mod console;
pub mod decide;
pub mod detect;
pub mod edge;
pub mod engine;
pub mod event;
pub mod ingest;
pub mod log;
pub mod notify;
pub mod state;
pub mod topology;
pub mod window;
