//! What every edge can do for the reconciler: say what it has, and take what it should have. Adapters decide nothing
//! about who is blocked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::Plan;
use crate::event::Millis;

/// What an edge has or should have: one element a line, by its name at the edge (an address, a range, a topic key).
pub type Elements = BTreeMap<Box<str>, Element>;

/// One element of an edge's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// What the edge keeps under the name. Two elements with one body enforce the same.
    pub body: Cow<'static, str>,
    /// When it ends by itself; `None` for no end. Kept beside the body at the edge, so that after a restart it is still
    /// known which elements may go because their time is over.
    pub until: Option<Millis>,
}

/// What an edge is able to do. Adapters state it, and the reconciler goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    pub reach: Reach,
    pub width: Width,
    /// Most elements that it should hold; [`ENTRIES_MAX`](super::ENTRIES_MAX) for no limit of its own.
    pub capacity: usize,
    /// Whether a range may hold another element. Where it may not, the inner one is left to the outer.
    pub nests: bool,
}

/// How wide an edge cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The routes that somebody chose for it, such as the login page.
    Route,
    /// A whole machine or network, with whatever else runs there. It takes only entries of wide playbooks and of
    /// operators.
    Host,
}

/// What an edge's list can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Addresses and ranges that are refused: no other scope, nothing weaker than a block, one list for all tenants.
    Addresses,
    /// Whole records: every scope and action, tenants apart.
    Records,
}

/// What an edge has.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    pub elements: Arc<Elements>,
    /// How many lines are not ours, or are there twice. They go with the next write.
    pub foreign: usize,
    /// There is no list yet, not even an empty one.
    pub missing: bool,
    /// The list was written, and the edge may not have taken it up.
    pub unsettled: bool,
}

/// What came of a write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The edge was told to take up the list.
    pub reloaded: bool,
    /// The list is right, and the edge could not be told yet: why. The next write tries again.
    pub pending: Option<String>,
}

/// An edge that does not do as it is told. Every one of these is tried again; none of them unblocks anybody.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: String, source: std::io::Error },
    #[error("the edge refuses the list, the previous one is in place again: {0}")]
    Refused(String),
    /// It does not answer, answers nonsense, or refuses a part of a change.
    #[error("{edge}: {why}")]
    Away { edge: String, why: String },
}

impl Error {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.display().to_string();
        move |source| Error::Io { what, path, source }
    }
}

/// Shortest time between two readings of a whole list that takes long to read, in milliseconds.
const READ_ALL_MS: Millis = 60_000;
/// The same for each element: reading one takes about a hundredth of it.
const READ_ALL_MS_EACH: Millis = 3;

/// When an edge that was read in full at `now` is to be read in full again.
pub(super) fn reads_all_at(now: Millis, elements: usize) -> Millis {
    let each = READ_ALL_MS_EACH.saturating_mul(Millis::try_from(elements).unwrap_or(Millis::MAX));
    now.saturating_add(each.max(READ_ALL_MS))
}

/// An edge. The order is always [`read`](Self::read), then at most one [`write`](Self::write).
pub trait Adapter {
    /// What it is able to do.
    fn edge(&self) -> Edge;

    /// What it has. Where that takes long it may be what was written last, as long as the edge looks the same, and
    /// [`reads_all_at`] tells when to read everything again.
    ///
    /// # Errors
    /// It cannot be asked.
    fn read(&mut self, now: Millis) -> Result<Actual, Error>;

    /// Makes it have `target`. `plan` is the difference to what [`read`](Self::read) found, for edges that take changes
    /// one by one; `now` is for those that want to be told for how long.
    ///
    /// # Errors
    /// It has what it had before, or a part of the change: the next read tells.
    fn write(&mut self, target: Arc<Elements>, plan: &Plan, now: Millis) -> Result<Written, Error>;
}
