//! Wires everything and decides nothing: commands, settings, telemetry, and the only clock.

pub mod backtest;
mod board;
pub mod cli;
pub mod clock;
pub mod commands;
mod connection;
pub mod console;
pub mod demo;
pub mod edge;
pub mod explain;
pub mod incident;
mod input;
pub mod live;
mod output;
pub mod playbook_changes;
pub mod playbooks;
pub mod produce;
mod progress;
pub mod receipts;
pub mod replay;
pub mod run;
pub mod score;
mod serving;
pub mod settings;
pub mod simulate;
pub mod sink;
pub mod state;
pub mod status;
mod table;
pub mod tail;
pub mod telemetry;
pub mod topics;
pub mod topology;

pub use connection::Connection;
pub use input::FormatArgs;
pub use output::{Ending, Output};
