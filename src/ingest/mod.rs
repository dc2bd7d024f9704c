//! From files and adapters to the bytes that would be the value of a record on `login-events`.
//!
//! A reader turns lines into [`Input`]s and judges nothing: what is broken, too long or impossible passes as it is and
//! becomes a dead letter at intake, where it is counted. Nothing here reads a clock; where a time is missing, the
//! caller gives one. [`simulate`] makes traffic instead of reading it. [`adapters`] read what
//! identity providers and servers write, and [`gateway`] is the HTTP door, which answers for each event and so refuses what is bad.

pub mod adapters;
pub mod gateway;
pub mod jsonl;
mod lines;
pub mod simulate;
pub mod sshd;

use std::fmt;
use std::io::{self, BufRead};
use std::str::FromStr;

use crate::event::Millis;

pub use lines::LINE_BYTES_MAX;
pub use sshd::SshdOptions;

/// One login event as it would arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The bytes that would be the value of the Kafka record.
    pub value: Vec<u8>,
    /// The arrival time, when the file gives one.
    pub arrival: Option<Millis>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// One login event of the contract per line, as JSON.
    Jsonl,
    /// OpenSSH's own log lines.
    Sshd,
    /// What a producer writes, one document or line a line, by one of [`adapters::BUILTIN_NAMES`].
    Adapter(&'static str),
}

impl FileFormat {
    /// The name in the option `--format`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FileFormat::Jsonl => "jsonl",
            FileFormat::Sshd => "sshd",
            FileFormat::Adapter(name) => name,
        }
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The name is none of [`FileFormat`]'s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no file format; use jsonl, sshd, {names}", names = adapters::BUILTIN_NAMES.join(", "))]
pub struct UnknownFormat(String);

impl FromStr for FileFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "jsonl" => Ok(FileFormat::Jsonl),
            "sshd" => Ok(FileFormat::Sshd),
            _ => {
                let adapter = adapters::BUILTIN_NAMES.iter().find(|adapter| **adapter == name);
                adapter
                    .map(|adapter| FileFormat::Adapter(adapter))
                    .ok_or_else(|| UnknownFormat(name.chars().take(64).collect()))
            }
        }
    }
}

/// Reads a file to its end; an item is an error only when reading itself fails. `sshd` matters for
/// [`FileFormat::Sshd`]; of an adapter, its tenant and its time.
#[must_use]
pub fn reader<'a>(
    format: FileFormat,
    input: Box<dyn BufRead + 'a>,
    sshd: SshdOptions,
) -> Box<dyn Iterator<Item = io::Result<Input>> + 'a> {
    match format {
        FileFormat::Jsonl => Box::new(jsonl::JsonlReader::new(input)),
        FileFormat::Sshd => Box::new(sshd::SshdReader::new(input, sshd)),
        FileFormat::Adapter(name) => Box::new(adapters::AdapterReader::new(name, input, sshd.now, sshd.tenant)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names_and_an_unknown_one_is_told_what_to_use() {
        for format in [FileFormat::Jsonl, FileFormat::Sshd, FileFormat::Adapter("okta")] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let error = "csv".parse::<FileFormat>().unwrap_err().to_string();
        assert!(error.starts_with("`csv` is no file format; use jsonl, sshd, auth0, "), "{error}");
    }
}
