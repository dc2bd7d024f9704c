//! What operators ask for in the console, written to the cluster as the command line writes it.

use std::sync::Arc;

use super::playbook_changes::{self, Changing};
use super::settings::Settings;
use super::{Connection, commands};
use crate::console::{Hands, Undone};
use crate::event::Command;
use crate::log::{Clock, Error};
use crate::topology::{Asked, Edit};

/// Whoever may write to the control topics.
pub(super) struct KafkaHands {
    connection: Connection,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl KafkaHands {
    pub(super) fn new(connection: Connection, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        KafkaHands { connection, settings, clock }
    }

    fn changing<T>(&self, change: impl FnOnce(&Changing<'_>) -> anyhow::Result<T>) -> Result<(), Undone> {
        let now = || self.clock.now();
        let changing = Changing { settings: &self.settings, connection: &self.connection, now: &now };
        change(&changing).map(drop).map_err(|error| undone(&error))
    }
}

impl Hands for KafkaHands {
    fn ask(&self, asked: &Asked) -> Result<(), Undone> {
        commands::publish(&self.connection, &asked.records, asked.command.at).map_err(|error| undone(&error))
    }

    fn lay_override(&self, command: Command, edit: Edit) -> Result<(), Undone> {
        self.changing(|changing| playbook_changes::lay_override(changing, command, edit))
    }

    fn end_override(&self, command: Command) -> Result<(), Undone> {
        self.changing(|changing| playbook_changes::end_override(changing, command, false))
    }
}

fn undone(error: &anyhow::Error) -> Undone {
    let what = format!("{error:#}");
    match error.downcast_ref::<Error>() {
        Some(Error::Setup(_)) => Undone::Wrong(what),
        Some(Error::Fenced(_) | Error::Kafka(_) | Error::State(_) | Error::Panicked { .. }) | None => {
            Undone::Away(what)
        }
    }
}
