//! The four stages as pure steps: an input and what is remembered in, writes and outputs out.
//!
//! A [`Task`] is one partition of one stage. Its loop (`log::stage`) asks [`Task::reads`] for the rows of a batch, has
//! the store fetch them at once, calls [`Task::step`] for each input, and takes the changed rows from [`Task::seal`]
//! when it commits. The same step over the same input and rows gives the same bytes.

mod account;
mod counts;
mod details;
mod device;
mod dock;
mod entrances;
mod env;
pub mod frame;
mod governor;
mod held;
mod incident;
mod intake;
mod io;
mod key;
mod known;
mod memory;
mod orders;
mod pipeline;
mod playbooks;
mod row;
mod site;
mod source;
mod surge;
mod task;
mod traits;
mod view;
mod windows;

pub use counts::{Counter, Counts};
pub use entrances::Entrance;
pub use env::{Env, Limits};
pub use frame::{Item, Mark, Note, Partial, Sourced};
pub use intake::Raw;
pub use io::{Became, BlockChange, ControlChange, DeadLetter, Effects, Input, Output, PlaybookNews, StatusChange};
pub use key::{Key, Kind};
pub use known::{KnownBy, KnownPair, day_of, pair_key};
pub use pipeline::{Emission, Pipeline};
pub use row::Row;
pub use task::{DUE_MAX, SINGLETONS, Task, Write};
pub use view::View;
