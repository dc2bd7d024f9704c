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
}

impl Error {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.display().to_string();
        move |source| Error::Io { what, path, source }
    }
}

/// An edge. The order is always [`read`](Self::read), then at most one [`write`](Self::write).
pub trait Adapter {
    /// What its list can say.
    fn reach(&self) -> Reach;

    /// What it has.
    ///
    /// # Errors
    /// It cannot be asked.
    fn read(&mut self) -> Result<Actual, Error>;

    /// Makes it have `target`. `plan` is the difference to what [`read`](Self::read) found, for edges that take changes
    /// one by one.
    ///
    /// # Errors
    /// It has what it had before.
    fn write(&mut self, target: Arc<Elements>, plan: &Plan) -> Result<Written, Error>;
}
