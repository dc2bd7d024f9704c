//! OpenSSH's own log lines as login events.
//!
//! One attempt is one event, though sshd may write several lines about it. [`message`] says what one line means,
//! [`process`] puts the lines of one process together, [`line`] knows the time of a line that names no year.
//!
//! What counts as an attempt: each `Failed` and `Accepted` line; an `Invalid user`, `not allowed` or PAM line that no
//! `Failed` line of its process follows; and a disconnect before authentication of a process that said nothing else
//! (a key-only host at the default log level), which has no name. What does not: a scan that never spoke the protocol,
//! and a `fatal:` line, which names no address. The 6,501 attempts of the file `ssh-auth.log` are 1,489 with a name
//! and 5,012 without, on 225 names as typed (223 after normalising, and the empty one). They come from 46 addresses:
//! the 57 that its README names are the different words after `from`, addresses with a colon behind them and
//! scanners included.

mod line;
mod message;
mod process;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use sha2::{Digest, Sha256};

use self::line::Calendar;
use self::process::{Draft, Processes, Ready};
use super::Input;
use super::lines::Lines;
use crate::event::{LoginEvent, Millis, wire};

/// What a log line does not say by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshdOptions {
    /// Year of the first line whose time stamp names none. Without it, the latest year that does not put this line
    /// more than a day after `now`. Later lines stay near each other: a step from December to January is a new year.
    pub year: Option<i32>,
    /// The reference for a missing year; milliseconds since the epoch.
    pub now: Millis,
    /// Minutes east of UTC of time stamps that name no zone, -1,439 to 1,439.
    pub zone_minutes: i32,
    /// Tenant of every event.
    pub tenant: String,
}

impl Default for SshdOptions {
    /// UTC, tenant `default`, and 1970 as the year of a line that names none: give `now` or `year`.
    fn default() -> Self {
        SshdOptions { year: None, now: 0, zone_minutes: 0, tenant: LoginEvent::default().tenant }
    }
}

/// The name under which every event names its application.
pub const APPLICATION: &str = "ssh";

/// Reads sshd's lines and gives the attempts in the order in which they were completed. An attempt carries the time
/// of its first line; its arrival is the time of the line that completed it, and never goes back.
#[derive(Debug)]
pub struct SshdReader<'a> {
    lines: Lines<'a>,
    calendar: Calendar,
    tenant: String,
    processes: Processes,
    ended: bool,
}

impl<'a> SshdReader<'a> {
    #[must_use]
    pub fn new(input: Box<dyn BufRead + 'a>, options: SshdOptions) -> Self {
        SshdReader {
            lines: Lines::new(input),
            calendar: Calendar::new(options.year, options.now, options.zone_minutes),
            tenant: options.tenant,
            processes: Processes::default(),
            ended: false,
        }
    }

    fn input(&self, ready: &Ready) -> Input {
        let Draft { at, account, exists, outcome, reason, method, source } = &ready.draft;
        let mut attributes = BTreeMap::new();
        if !ready.host.is_empty() {
            attributes.insert("host".to_owned(), ready.host.clone());
        }
        let event = LoginEvent {
            event_id: event_id(&ready.host, ready.pid, *at, ready.number),
            occurred_at: *at,
            tenant: self.tenant.clone(),
            application: Some(APPLICATION.to_owned()),
            account: account.clone(),
            account_exists: *exists,
            outcome: *outcome,
            failure_reason: *reason,
            method: *method,
            source_ip: source.clone(),
            attributes,
            ..LoginEvent::default()
        };
        Input { value: wire::login_event_to_json(&event), arrival: Some(ready.completed_at) }
    }
}

impl Iterator for SshdReader<'_> {
    type Item = io::Result<Input>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.processes.pop() {
                return Some(Ok(self.input(&ready)));
            }
            if self.ended {
                return None;
            }
            match self.lines.next_line() {
                Ok(Some(bytes)) => {
                    let text = String::from_utf8_lossy(&bytes);
                    if let Some(line) = self.calendar.read(&text) {
                        self.processes.take(&line);
                    }
                }
                Ok(None) => {
                    self.ended = true;
                    self.processes.flush();
                }
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// The same line gives the same id however often a file is read, so that reading it twice counts it once.
fn event_id(host: &str, pid: u32, at: Millis, number: u32) -> String {
    let hash = Sha256::digest(format!("sshd\n{host}\n{pid}\n{at}\n{number}"));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
