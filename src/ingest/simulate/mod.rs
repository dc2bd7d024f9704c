//! Deterministic traffic: people who log in, and attacks on them, with the truth beside each attempt.
//!
//! [`population`] has the people, [`background`] lets them log in with the mistakes that people make, [`raid`] plays
//! an attack, [`night`] is the attack of 28 June 2019, [`scenario`] mixes them, [`site`] is the site that obeys blocks
//! and challenges, [`truth`] is what is written beside a simulated file. The same seed gives the same bytes on every
//! machine: whole numbers only, no clock, no order of a hash table.

mod background;
mod dice;
mod names;
pub mod night;
pub mod population;
mod raid;
pub mod scenario;
pub mod site;
mod space;
#[cfg(test)]
mod tests;
pub mod truth;

pub use scenario::{Attacker, Planned, Scenario, Simulation, Truth, UnknownScenario, plan};
pub use site::{Fallen, Site, Tally};
pub use space::HOSTING_ASNS;
pub use truth::{Summary, TruthLine};
