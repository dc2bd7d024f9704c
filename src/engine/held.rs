//! A row that a step took out of the view: put back as it was, or written when it has changed.

use super::key::Key;
use super::row::Row;
use super::task::Task;
use crate::event::Millis;

/// A row in hand. One that did not exist is empty, and comes to exist only by a change.
#[derive(Debug)]
pub(super) struct Held<T> {
    key: Key,
    pub(super) row: T,
    existed: bool,
    is_changed: bool,
}

impl<T: Default> Held<T> {
    pub(super) fn take(task: &mut Task, key: Key, of_kind: fn(Row) -> Option<T>) -> Held<T> {
        let row = task.view.take(&key, task.now()).and_then(of_kind);
        Held { key, existed: row.is_some(), row: row.unwrap_or_default(), is_changed: false }
    }

    /// The row, to be changed: it will be written.
    pub(super) fn change(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.row
    }

    /// Puts it back. A changed row may be forgotten from `expires_at` on; an unchanged one when it already could.
    pub(super) fn put(self, task: &mut Task, to_row: fn(T) -> Row, expires_at: Millis) {
        if self.is_changed {
            task.view.put(self.key, to_row(self.row), expires_at);
        } else if self.existed {
            task.view.put_back(&self.key, to_row(self.row));
        }
    }
}
