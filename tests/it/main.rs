//! The one integration-test binary: one link step, one Kafka broker for all that need one.
//!
//! The broker tests need `make setup` once; `make test` runs it by itself.

#![allow(
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test fails by panicking, and here are the deadlines of its waits"
)]
#![allow(unreachable_pub, reason = "nothing outside of this binary uses it")]

mod acls;
mod attack_traits;
mod backtest;
mod bad_input;
mod chaos;
mod commands;
mod conformance;
mod console;
mod console_acting;
mod console_browser;
mod core;
mod crash_images;
mod edge_bouncers;
mod edge_check;
mod edge_lists;
mod edge_load;
mod explain;
mod follow;
mod forgotten;
mod governor;
mod incident_details;
mod ingest;
mod ingest_adapters;
mod ingest_load;
mod instances;
mod intruders;
mod job;
mod known_pairs;
mod login_page;
mod networks;
mod notify;
mod notify_mail;
mod notify_text;
mod playbook_changes;
mod playbook_language;
mod playbooks;
mod produce;
mod refusals;
mod registry;
mod scenarios;
mod schemas;
mod simulation;
mod sink_edges;
mod sink_status;
mod sinks;
mod stages;
mod state_tools;
mod support;
mod tidy;
mod tls;
mod topics;
