//! The HTTP door for login events: `portcullis ingest`.
//!
//! ```text
//! POST /v1/events ─▶ source ─▶ body ─▶ items ─▶ checked ─▶ queue ─▶ login-events ─▶ 202
//! ```
//!
//! Nothing is answered 202 before the cluster has it on all in-sync replicas. The gateway keeps nothing: the same event
//! sent again is written again and answered the same, and the job drops it by its `event_id`. So any number of gateways
//! may run, and whoever gets no answer sends again.
//!
//! [`body`], [`checked`](check) and [`Sources`] are values: bytes and the time go in, items and refusals come out.
//! [`routes`] puts HTTP around them.

mod answer;
pub mod body;
pub mod check;
mod http;
mod rate;
mod shared;
mod signature;
mod sources;

pub use answer::{Answer, Rejected, Warning, fix};
pub use http::{BODY_WAIT_MAX, OPENAPI, route_names, routes};
pub use shared::{Gateway, GatewayOptions, GatewayStatus, Limits};
pub use sources::{SOURCES_MAX, Source, Sources};
