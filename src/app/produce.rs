//! `portcullis produce FILE|-`: a file of login events onto the topic, with its times moved to now.
//!
//! ```text
//! file ──▶ reader ──▶ Selected (--from, --to, --limit) ──▶ shift by one offset ──▶ Publisher ──▶ login-events
//! ```
//!
//! `occurred_at` and the record's timestamp move together, all events by the same offset. Paced, the first attempt is
//! now; sent as fast as possible, the last one is, or the moment of `--to`. Broken lines pass as they are: it is intake
//! that refuses and counts.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::input::{FormatArgs, open, time};
use super::progress::Progress;
use super::{Connection, Ending, Output};
use crate::event::Millis;
use crate::event::wire::format_millis;
use crate::ingest::{Input, jsonl};
use crate::log::publish::{Deliveries, Publisher};

/// Most events at the start of a file that wait for the first one with a time.
const WAITING_MAX: usize = 1_000;
/// Longest wait of a paced run before it looks at the clock again, in milliseconds.
const PACE_MS_MAX: Millis = 20;
/// Between two looks at deliveries and progress, in events.
const EVENTS_BETWEEN_LOOKS: u64 = 256;
/// How long the last events may take to be delivered.
const FLUSH_MAX: Duration = Duration::from_secs(90);
const SPEED_MAX: f64 = 1e6;

const EXAMPLES: &str = "Examples:
  portcullis produce night.jsonl                    all at once; the last attempt is now
  portcullis produce night.jsonl --speed 1          as it happened; the first attempt is now
  portcullis produce /var/log/auth.log --format sshd --to 2019-12-10T09:30:00Z
  journalctl -u ssh -f -o short-iso | portcullis produce - --format sshd --time original";

/// Publish login events of a file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ProduceArgs {
    /// The file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub format: FormatArgs,
    /// How fast: 1 is as it happened, 20 is twenty times as fast, `max` is as fast as the cluster takes them
    #[arg(long, default_value = "max", value_name = "N|max")]
    pub speed: Speed,
    /// Send nothing after this moment of the file; with `--speed max` it becomes now
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<Millis>,
    /// Send nothing before this moment of the file
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub from: Option<Millis>,
    /// `now`: move all times by one offset. `original`: leave them
    #[arg(long, value_enum, default_value_t)]
    pub time: Times,
    /// Send at most so many events
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

impl ProduceArgs {
    /// The defaults of the command line.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        ProduceArgs {
            file,
            format: FormatArgs::default(),
            speed: Speed::Max,
            to: None,
            from: None,
            time: Times::Now,
            limit: None,
            output: Output::Text,
        }
    }
}

/// The option `--time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Times {
    #[default]
    Now,
    Original,
}

/// The option `--speed`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    Max,
    /// So many times as fast as it happened; positive.
    Paced(f64),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        let factor = text.parse::<f64>().ok().filter(|factor| *factor > 0.0 && *factor <= SPEED_MAX);
        factor.map(Speed::Paced).ok_or_else(|| "write a positive number, or max".to_owned())
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Events handed to the client.
    pub sent: u64,
    /// Events left out by `--from`.
    pub left_out: u64,
    /// Events without a usable time of their own, which passed as they are.
    pub unmoved: u64,
    /// How far all times were moved, in milliseconds.
    pub offset_ms: i64,
    /// Timestamps of the first and the last record.
    pub first_at: Option<Millis>,
    pub last_at: Option<Millis>,
    /// From the first event to the last delivery, by the clock of the process, in milliseconds.
    pub took_ms: Millis,
    #[serde(flatten)]
    pub deliveries: Deliveries,
}

/// Publishes a file until its end or until `stop` is true; the summary goes to `out`.
///
/// # Errors
/// The file cannot be read, the topic is missing, the cluster does not answer, or events could not be delivered: then
/// the summary says how many.
pub fn run(
    args: &ProduceArgs,
    connection: &Connection,
    clock: impl Fn() -> Millis,
    stop: &AtomicBool,
    out: &mut dyn Write,
) -> anyhow::Result<Ending> {
    let topic = connection.topics.public("login-events");
    let publisher = Publisher::new(&connection.client)?;
    publisher.check(&topic)?;
    let summary = publish(args, &publisher, &topic, &clock, stop)?;
    args.output.write(out, &summary, &summary.to_string())?;
    match &summary.deliveries {
        Deliveries { failed: 0, .. } => Ok(Ending::Well),
        Deliveries { failed, first_failure, .. } => {
            bail!(
                "{failed} of {} events were not delivered: {}",
                summary.sent,
                first_failure.as_deref().unwrap_or_default()
            )
        }
    }
}

fn publish(
    args: &ProduceArgs,
    publisher: &Publisher,
    topic: &str,
    clock: &impl Fn() -> Millis,
    stop: &AtomicBool,
) -> anyhow::Result<Summary> {
    let now = clock();
    let known_offset = match (args.time, args.speed) {
        (Times::Original, _) => Some(0),
        (Times::Now, Speed::Paced(_)) => None,
        (Times::Now, Speed::Max) => Some(offset_to_now(args, now)?),
    };
    let (input, length, read) = open(&args.file)?;
    let mut progress = Progress::new("publishing", length);
    let mut selected = Selected::new(args.format.reader(input, now), args);
    let mut summary = Summary::default();
    let start = clock();
    let mut first_arrival = None;
    for event in selected.by_ref() {
        let Event { value, arrival } = event.with_context(|| format!("cannot read {}", args.file.display()))?;
        let arrival = arrival.unwrap_or(now.saturating_sub(known_offset.unwrap_or_default()));
        let first_arrival = *first_arrival.get_or_insert(arrival);
        if let Speed::Paced(factor) = args.speed {
            let since_first = arrival.saturating_sub(first_arrival) as f64 / factor;
            wait_until(start.saturating_add(since_first as Millis), publisher, clock, stop);
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let offset = known_offset.unwrap_or_else(|| start.saturating_sub(first_arrival));
        summary.offset_ms = offset;
        let value = moved(value, offset, &mut summary);
        // A file that is played faster than it happened runs ahead of the clock, and a cluster refuses what is from
        // the future. Intake would set such an arrival to its own clock anyway.
        let timestamp = arrival.saturating_add(offset).min(clock()).max(0);
        publisher.send(topic, source_of(&value).as_deref().map(str::as_bytes), &value, timestamp)?;
        summary.sent += 1;
        summary.first_at.get_or_insert(timestamp);
        summary.last_at = Some(timestamp);
        if summary.sent % EVENTS_BETWEEN_LOOKS == 0 {
            publisher.poll(Duration::ZERO);
            progress.at(read.get(), summary.sent, clock());
        }
    }
    summary.left_out = selected.left_out;
    progress.end();
    summary.deliveries = publisher.flush(FLUSH_MAX)?;
    summary.took_ms = clock().saturating_sub(start).max(0);
    Ok(summary)
}

/// Moves the times of one event.
fn moved(value: Vec<u8>, offset: i64, summary: &mut Summary) -> Vec<u8> {
    if offset == 0 {
        return value;
    }
    jsonl::shift(&value, offset).unwrap_or_else(|| {
        summary.unmoved += 1;
        value
    })
}

fn wait_until(due: Millis, publisher: &Publisher, clock: &impl Fn() -> Millis, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let left = due.saturating_sub(clock());
        if left <= 0 {
            return;
        }
        publisher.poll(Duration::from_millis(left.min(PACE_MS_MAX).unsigned_abs()));
    }
}

/// The offset that makes the last event, or `--to`, now. Without `--to` the file is read once for that.
fn offset_to_now(args: &ProduceArgs, now: Millis) -> anyhow::Result<i64> {
    if let Some(to) = args.to {
        return Ok(now.saturating_sub(to));
    }
    if is_standard_input(args) {
        bail!(
            "which attempt is the last one is not known before standard input ends: give that moment with --to TIME, \
             or say --speed 1, or --time original"
        );
    }
    let (input, length, read) = open(&args.file)?;
    let mut progress = Progress::new("looking for the last attempt", length);
    let mut last = None;
    for (event, number) in Selected::new(args.format.reader(input, now), args).zip(1..) {
        let event = event.with_context(|| format!("cannot read {}", args.file.display()))?;
        last = event.arrival.or(last);
        if number % EVENTS_BETWEEN_LOOKS == 0 {
            progress.at(read.get(), number, now);
        }
    }
    progress.end();
    Ok(last.map_or(0, |last| now.saturating_sub(last)))
}

fn is_standard_input(args: &ProduceArgs) -> bool {
    args.file.as_os_str() == "-"
}

/// The source address as the event writes it. As the key of the record it keeps the attempts of one source in order.
fn source_of(value: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct OfSource<'a> {
        #[serde(borrow)]
        source_ip: Cow<'a, str>,
    }
    let found: Result<OfSource<'_>, _> = serde_json::from_slice(value);
    found.ok().map(|found| found.source_ip)
}

/// One event that is sent.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    value: Vec<u8>,
    /// `None` only when nothing in the file so far has a time.
    arrival: Option<Millis>,
}

/// The events of a file that the options choose. Those at its start that have no time, broken lines, take the first
/// one that comes. A file is in arrival order, so it ends with the first event after `--to`.
struct Selected<'a> {
    inputs: Box<dyn Iterator<Item = io::Result<Input>> + 'a>,
    from: Option<Millis>,
    to: Option<Millis>,
    left: u64,
    waiting: VecDeque<Input>,
    first: Option<Millis>,
    left_out: u64,
}

impl<'a> Selected<'a> {
    fn new(inputs: Box<dyn Iterator<Item = io::Result<Input>> + 'a>, args: &ProduceArgs) -> Self {
        Selected {
            inputs,
            from: args.from,
            to: args.to,
            left: args.limit.unwrap_or(u64::MAX),
            waiting: VecDeque::new(),
            first: None,
            left_out: 0,
        }
    }

    fn next_input(&mut self) -> Option<io::Result<Input>> {
        while self.first.is_none() && self.waiting.len() < WAITING_MAX {
            match self.inputs.next() {
                Some(Ok(input)) => {
                    self.first = input.arrival;
                    self.waiting.push_back(input);
                }
                Some(Err(e)) => return Some(Err(e)),
                None => break,
            }
        }
        self.waiting.pop_front().map(Ok).or_else(|| self.inputs.next())
    }
}

impl Iterator for Selected<'_> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let input = match self.next_input()? {
                Ok(input) => input,
                Err(e) => return Some(Err(e)),
            };
            let arrival = input.arrival.or(self.first);
            let is_beyond = |limit: Option<Millis>, side: fn(&Millis, &Millis) -> bool| {
                arrival.zip(limit).is_some_and(|(at, limit)| side(&at, &limit))
            };
            if is_beyond(self.to, Millis::gt) {
                self.left = 0;
            } else if is_beyond(self.from, Millis::lt) {
                self.left_out += 1;
            } else {
                self.left -= 1;
                return Some(Ok(Event { value: input.value, arrival }));
            }
        }
        None
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Deliveries { delivered, failed, .. } = &self.deliveries;
        write!(f, "{delivered} events published in {:.1} s", self.took_ms as f64 / 1_000.0)?;
        if let Some((first, last)) = self.first_at.zip(self.last_at) {
            write!(f, ", from {} to {}", format_millis(first), format_millis(last))?;
        }
        if *failed > 0 {
            write!(f, "; {failed} not delivered")?;
        }
        if self.sent == 0 {
            write!(
                f,
                "; no event lies between --from and --to (if the file's times name no year, say which with --year)"
            )?;
        }
        if self.unmoved > 0 {
            write!(f, "; {} without a usable time passed as they are", self.unmoved)?;
        }
        if self.left_out > 0 {
            write!(f, "; {} left out by --from", self.left_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::ingest::{FileFormat, SshdOptions, reader};

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ProduceArgs,
    }

    #[test]
    fn the_command_line_is_sound() {
        Line::command().debug_assert();
        let line = [
            "produce", "-", "--format", "sshd", "--speed", "20", "--to", "1000", "--zone", "-08:00", "--time",
            "original",
        ];
        let args = Line::try_parse_from(line).unwrap().args;
        let FormatArgs { format, zone, .. } = args.format;
        let seen = (args.file.to_str(), format, args.speed, args.to, zone, args.time);
        assert_eq!(seen, (Some("-"), FileFormat::Sshd, Speed::Paced(20.0), Some(1_000), -480, Times::Original));
        assert!(Line::try_parse_from(["produce", "x", "--speed", "0"]).is_err());
    }

    fn chosen(text: &str, change: impl FnOnce(&mut ProduceArgs)) -> String {
        let mut args = ProduceArgs::new(PathBuf::from("-"));
        change(&mut args);
        let input = Box::new(io::Cursor::new(text.to_owned()));
        let mut selected = Selected::new(reader(FileFormat::Jsonl, input, SshdOptions::default()), &args);
        let events: Vec<String> = selected
            .by_ref()
            .map(|event| event.map(|e| e.arrival.map_or("-".to_owned(), |at| at.to_string())).unwrap())
            .collect();
        format!("{} / {}", events.join(" "), selected.left_out)
    }

    #[test]
    fn events_are_chosen_by_their_arrival_and_leading_ones_without_take_the_first() {
        let text = "x\n{\"occurred_at\":1000}\ny\n{\"occurred_at\":2000}\n{\"occurred_at\":1500}\n";
        assert_eq!(chosen(text, |_| ()), "1000 1000 1000 2000 1500 / 0");
        assert_eq!(chosen(text, |a| a.from = Some(1_500)), "2000 1500 / 3");
        assert_eq!(chosen(text, |a| a.to = Some(1_500)), "1000 1000 1000 / 0");
        assert_eq!(chosen(text, |a| a.limit = Some(2)), "1000 1000 / 0");
        assert_eq!(chosen("x\ny\n", |a| a.from = Some(1)), "- - / 0");
        assert_eq!(chosen("", |_| ()), " / 0");
    }

    #[test]
    fn a_file_that_never_has_a_time_is_not_kept_in_memory() {
        let text = "x\n".repeat(3 * WAITING_MAX);
        let args = ProduceArgs::new(PathBuf::from("-"));
        let input = Box::new(io::Cursor::new(text));
        let mut selected = Selected::new(reader(FileFormat::Jsonl, input, SshdOptions::default()), &args);
        let mut count = 0;
        while let Some(event) = selected.next() {
            assert_eq!(event.unwrap().arrival, None);
            assert!(selected.waiting.len() < WAITING_MAX);
            count += 1;
        }
        assert_eq!(count, 3 * WAITING_MAX);
    }

    #[test]
    fn options_are_read_as_people_write_them() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("0.5".parse(), Ok(Speed::Paced(0.5)));
        for wrong in ["", "0", "-1", "NaN", "inf", "fast", "1e7"] {
            assert!(wrong.parse::<Speed>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_key_is_the_source_and_a_broken_line_has_none() {
        let source = |text: &str| source_of(text.as_bytes()).map(Cow::into_owned);
        assert_eq!(source(r#"{"a":1,"source_ip":"203.0.113.9"}"#).as_deref(), Some("203.0.113.9"));
        assert_eq!(source(r#"{"source_ip":"2\u0030"}"#).as_deref(), Some("20"));
        for broken in ["", "x", "{}", r#"{"source_ip":1}"#, r#"{"source_ip":"a","source_ip":"b"}"#] {
            assert_eq!(source(broken), None, "{broken}");
        }
    }
}
