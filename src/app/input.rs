//! The input files of commands: how they are written, and reading them with their progress.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, bail};
use clap::Args;

use crate::event::wire::parse_millis;
use crate::event::{LoginEvent, Millis};
use crate::ingest::{self, FileFormat, Input, SshdOptions};

/// How a file of login events is written.
#[derive(Debug, Clone, Args)]
pub struct FormatArgs {
    /// `jsonl`: one login event of the contract per line. `sshd`: OpenSSH's own log. Also what these write, one document
    /// a line: auth0, cognito, ecs, keycloak, kratos, nginx, ocsf, okta
    #[arg(long, default_value = "jsonl")]
    pub format: FileFormat,
    /// sshd: the year of the first line whose time names none [default: the latest that is not in the future]
    #[arg(long)]
    pub year: Option<i32>,
    /// sshd: the zone of times that name none, such as +01:00
    #[arg(long, default_value = "+00:00", value_name = "ZONE", value_parser = zone, allow_hyphen_values = true)]
    pub zone: i32,
    /// The tenant of every event that names none, as no format but jsonl does
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub tenant: String,
}

impl Default for FormatArgs {
    fn default() -> Self {
        FormatArgs { format: FileFormat::Jsonl, year: None, zone: 0, tenant: LoginEvent::default().tenant }
    }
}

impl FormatArgs {
    /// The events of a file; `now` is the reference for a missing year.
    pub(super) fn reader(&self, input: Box<dyn BufRead>, now: Millis) -> Box<dyn Iterator<Item = io::Result<Input>>> {
        let sshd = SshdOptions { year: self.year, now, zone_minutes: self.zone, tenant: self.tenant.clone() };
        ingest::reader(self.format, input, sshd)
    }
}

pub(super) fn time(text: &str) -> Result<Millis, String> {
    let at = parse_millis(text).or_else(|| text.parse().ok());
    at.ok_or_else(|| "write it as 2019-06-28T02:40:00+02:00, or in milliseconds since 1970".to_owned())
}

fn zone(text: &str) -> Result<i32, String> {
    let parse = || {
        let (sign, rest) = match text.split_at_checked(1)? {
            ("+", rest) => (1, rest),
            ("-", rest) => (-1, rest),
            _ => return None,
        };
        let (hours, minutes) = rest.split_once(':')?;
        let number = |digits: &str, max: i32| {
            let is_digits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<i32>().ok().filter(|n| is_digits && *n <= max)
        };
        Some(sign * (60 * number(hours, 23)? + number(minutes, 59)?))
    };
    parse().ok_or_else(|| "write it as +01:00".to_owned())
}

/// A file that is read: its lines, its length when it has one, and how many bytes were read of it so far.
pub(super) type Opened = (Box<dyn BufRead>, Option<u64>, Rc<Cell<u64>>);

/// The file, its length when it has one, and how many bytes were read of it so far.
pub(super) fn open(path: &Path) -> anyhow::Result<Opened> {
    let read = Rc::new(Cell::new(0));
    if path.as_os_str() == "-" {
        let input = Measured { inner: io::stdin(), read: Rc::clone(&read) };
        return Ok((Box::new(BufReader::new(input)), None, read));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if metadata.is_dir() {
        bail!("{} is a folder; name a file", path.display());
    }
    let length = metadata.is_file().then_some(metadata.len());
    let input = Measured { inner: file, read: Rc::clone(&read) };
    Ok((Box::new(BufReader::with_capacity(1 << 18, input)), length, read))
}

/// Counts the bytes that are read.
struct Measured<R> {
    inner: R,
    read: Rc<Cell<u64>>,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read.set(self.read.get() + n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_zones_are_read_as_people_write_them() {
        assert_eq!(["+00:00", "+01:30", "-08:00"].map(zone), [Ok(0), Ok(90), Ok(-480)]);
        for wrong in ["", "1:00", "+1:00", "+24:00", "+01:60", "+01", "é01:00", "++1:00"] {
            assert!(zone(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time("2019-06-28T02:40:00+02:00"), Ok(1_561_682_400_000));
        assert_eq!(time("1000"), Ok(1_000));
        assert!(time("yesterday").is_err());
    }
}
