//! Deterministic traffic: people who log in, and attacks on them, with the truth beside each attempt.
//!
//! [`population`] has the people, `background` lets them log in with the mistakes that people make, `history` is what
//! they did before, `raid` plays an attack, [`night`] is the attack of 28 June 2019, [`scenario`] says what is played
//! when, [`simulation`] plays it, [`site`] is the site that obeys blocks and challenges, [`tally`] keeps score, [`truth`]
//! is what is written beside a simulated file. The same seed gives the same bytes on every machine: whole numbers only,
//! no clock, no order of a hash table.
//!
//! ```
//! use portcullis::ingest::simulate::{Edge, Options, Scenario, Simulation, Site};
//!
//! let mut site = Site::new("default", Edge::AddressList);
//! let mut night = Simulation::new(Scenario::Night, 1, Options::default())?;
//! let first = night.next(&mut site).expect("a night has events");
//! assert_eq!(night.from(), first.at - first.at.rem_euclid(60_000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod background;
mod dice;
mod history;
mod names;
pub mod night;
pub mod population;
mod raid;
pub mod road;
pub mod scenario;
pub mod simulation;
pub mod site;
mod space;
pub mod tally;
#[cfg(test)]
mod tests;
pub mod truth;

pub use history::HISTORY_MAX_MS;
pub use raid::ADDRESSES_MAX;
pub use road::{Delivered, Road};
pub use scenario::{Attacker, Options, OutOfBounds, Scenario, UnknownAttacker, UnknownScenario};
pub use simulation::{Planned, Simulation};
pub use site::{Edge, Handled, Site, UnknownEdge};
pub use space::HOSTING_ASNS;
pub use tally::{Fallen, Logins, Sums, Tally};
pub use truth::{Label, Summary, Truth, TruthLine};
