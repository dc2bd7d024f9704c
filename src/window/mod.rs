//! What is remembered about an entity over a sliding window: slices, tallies, distinct counts, duplicates, and time.
//!
//! Time is always an argument. Event time says into which slice an attempt falls; stream time (the highest arrival
//! seen) says what has expired.

mod clock;
mod distinct;
mod hash;
mod seen;
mod slices;
mod tally;
mod tops;
mod traces;

pub use clock::{StreamClock, Timeliness, Timing};
pub use distinct::{Distinct, EXACT_MAX, Ever};
pub use hash::{HashKey, Hashed};
pub use seen::{Seen, SeenPack, Sighting};
pub use slices::{SLICES, Slices, slice_width};
pub use tally::{Heard, Kind, REPEATS_MAX, Repeats, Tally, memory_ms};
pub use tops::Tops;
pub use traces::{Arrived, Lately, TRACES_KEPT_MS, TRACES_MAX, Trace, TracePack, Trial};
