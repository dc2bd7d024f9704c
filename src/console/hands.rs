//! Who carries out what people ask for in the console: whoever may write to the topics. The console itself only asks.

use std::fmt;
use std::sync::Arc;

use super::operators::Operators;
use super::sessions::Sessions;
use crate::event::Command;
use crate::topology::{Asked, Edit};

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It makes no sense, or somebody was quicker: the person must ask for something else.
    Wrong(String),
    /// The cluster does not take it now.
    Away(String),
}

/// Writes what is asked for. Each call returns when the cluster has confirmed it.
pub trait Hands: Send + Sync {
    /// Writes the records of a command.
    ///
    /// # Errors
    /// The cluster does not take them.
    fn ask(&self, asked: &Asked) -> Result<(), Undone>;

    /// Lays an override over a playbook, until the end that the command says, and writes the command down.
    ///
    /// # Errors
    /// The change does not pass the checks of the set, or the cluster does not take it.
    fn lay_override(&self, command: Command, edit: Edit) -> Result<(), Undone>;

    /// Removes a playbook's override, and writes the command down.
    ///
    /// # Errors
    /// There is none, or the cluster does not take it.
    fn end_override(&self, command: Command) -> Result<(), Undone>;
}

/// What a console needs where people may act.
pub struct Operating {
    pub operators: Operators,
    pub sessions: Sessions,
    pub hands: Arc<dyn Hands>,
}

impl fmt::Debug for Operating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operating").field("operators", &self.operators).finish_non_exhaustive()
    }
}
