//! A deterministic Kafka in memory: what the loop's correctness rests on, and every way in which a network makes it hard.
//!
//! [`ModelCluster`] holds topics with data and markers, transactions with epochs, and classic consumer groups;
//! [`ModelLog`] is one client of it behind [`Log`](super::Log), as careful as [`KafkaLog`](super::kafka::KafkaLog).
//! What becomes of a request on its way, and how long a marker takes, a [`Weather`] decides. Time is the cluster's own
//! ([`ModelCluster::pass`]) and is the [`Clock`](super::Clock) of whoever runs on it, so one seed is one history.
//!
//! ```text
//! ModelLog ── send, TxnOffsetCommit, EndTxn ──▶ network ──▶ transaction ── markers ──▶ partition, group
//!     ▲                                        (Weather)                                   │      │
//!     └──────────── records up to the last stable offset, generations, offsets ◀───────────┴──────┘
//! ```
//!
//! Not modelled: replicas and brokers that fail, idempotent sequences (a record that is sent arrives once), limits of
//! size, KIP-848, and `max.poll.interval.ms`. A client that waits lets the cluster's time pass, since there is one thread.

mod brokers;
mod client;
mod cluster;
mod group;
mod membership;
mod network;
mod partition;
mod transaction;

pub use client::{ClientId, ModelLog, ModelOptions};
pub use cluster::{ModelCluster, Timeouts};
pub use network::{Answer, Calm, Passage, Refusal, Request, Weather};
