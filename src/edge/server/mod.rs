//! The server that edges and login pages ask: `portcullis edge`.
//!
//! ```text
//! blocklist, exemptions ──▶ Lists ──▶ check ──▶ GET /v1/check          nginx, Caddy, Traefik, Envoy, a login page
//! attack-status ──────────▶   │  └──────────▶ GET /v1/attack-status
//! known-pairs ────────────▶   │
//!                             └─▶ Decisions ─▶ GET /v1/decisions …    CrowdSec's bouncers
//!                                      └─────▶ GET /v1/blocklist      appliances that pull
//! ```
//!
//! [`Lists`], [`check`](check()) and [`Decisions`] are values: records and the time go in, answers come out. [`routes`] puts
//! HTTP around them. One thread takes records, any number answer; what they share stands in [`Server`].

mod bouncers;
mod check;
mod client;
mod decisions;
mod events;
mod formats;
mod http;
mod keys;
mod known;
mod lapi;
mod lists;
mod shared;
mod stops;

pub use bouncers::{BOUNCERS_MAX, Bouncer};
pub use check::{Answer, Asked, Question, Verdict, check};
pub use client::{HOPS_MAX, TrustedProxies, VerifiedClient};
pub use decisions::{AGAIN_MAX, Decision, Decisions, GONE_KEPT_MS, GONE_MAX};
pub use events::LISTENERS_MAX;
use events::event_routes;
use formats::list_routes;
pub use http::routes;
pub use keys::{KEYS_MAX, Keys, Rate};
pub use known::{KNOWN_FOR_DAYS, KnownPairs, PAIRS_MAX};
use lapi::bouncer_routes;
pub use lists::{Lists, STATUSES_MAX, Told};
pub use shared::{EdgeStatus, Server, ServerOptions, WRITING_MAX};
pub use stops::STOPS_MAX;
