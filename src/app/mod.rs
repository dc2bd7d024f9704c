//! Wires everything and decides nothing: commands, settings, telemetry, and the only clock.

mod connection;
mod output;
pub mod produce;
mod progress;
pub mod sink;
pub mod topics;

pub use connection::Connection;
pub use output::{Ending, Output};
