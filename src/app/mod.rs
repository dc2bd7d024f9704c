//! Wires everything and decides nothing: commands, settings, telemetry, and the only clock.
