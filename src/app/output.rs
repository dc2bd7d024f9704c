//! How commands answer: as text for people or as JSON for programs, and with an exit code.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// The option `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

impl Output {
    /// Writes `value` as one line of JSON, or `text` and a line end.
    pub(crate) fn write<T: Serialize>(self, out: &mut dyn Write, value: &T, text: &str) -> io::Result<()> {
        match self {
            Output::Text => writeln!(out, "{text}"),
            Output::Json => {
                serde_json::to_writer(&mut *out, value)?;
                writeln!(out)
            }
        }
    }
}

/// How a command that did its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything is as it should be.
    Well,
    /// What was looked at is not as it should be.
    Different,
}

impl Ending {
    /// The exit code of the process. 1 is that of a failure, 2 that of a wrong command line.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Ending::Well => 0,
            Ending::Different => 3,
        }
    }
}
