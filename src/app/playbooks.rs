//! `portcullis playbooks set | remove | list`: the playbooks of an installation.

use std::io::Write;

use clap::{Args, Subcommand};

use super::playbook_changes::{self, ListArgs, RemoveArgs, SetArgs};
use super::settings::Settings;
use super::{Connection, Ending};
use crate::event::Millis;

const EXAMPLES: &str = "Examples:
  portcullis playbooks list
  portcullis playbooks set ip-account-fanout.yaml --reason 'one try per account since 02:40' --for 30m
  portcullis playbooks remove ip-account-fanout --override --reason 'it is over'";

/// Show the playbooks in effect, and change them while the job runs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PlaybooksArgs {
    #[command(subcommand)]
    pub command: PlaybooksCommand,
}

#[derive(Debug, Subcommand)]
pub enum PlaybooksCommand {
    Set(SetArgs),
    Remove(RemoveArgs),
    List(ListArgs),
}

/// Carries out a command. `now`: the process clock.
///
/// # Errors
/// The command cannot be carried out; the message says what to do.
pub fn run(
    args: &PlaybooksArgs,
    settings: &Settings,
    connection: &Connection,
    now: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> anyhow::Result<Ending> {
    match &args.command {
        PlaybooksCommand::Set(args) => playbook_changes::set(args, settings, connection, now, out),
        PlaybooksCommand::Remove(args) => playbook_changes::remove(args, settings, connection, now, out),
        PlaybooksCommand::List(args) => playbook_changes::list(args, settings, connection, now, out),
    }
}
