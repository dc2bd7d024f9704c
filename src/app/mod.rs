//! Wires everything and decides nothing: commands, settings, telemetry, and the only clock.

pub mod bar;
pub mod cli;
pub mod clock;
pub mod replay;
pub mod run;
pub mod settings;
pub mod telemetry;
pub mod topology;
