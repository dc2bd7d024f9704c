//! `portcullis sink status`: which sinks there are, what each of them has, and what it should have, by the topics alone.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::table::{Table, Tone};
use super::{Connection, Ending, Output};
use crate::console::text::{Plain, date_time, grouped, how_long};
use crate::console::{SINKS_MAX, Sinks};
use crate::edge::server::Lists;
use crate::edge::{ENTRIES_MAX, Standing};
use crate::event::wire::decode_output;
use crate::event::{Millis, Receipt, ReceiptOutcome, split_key};
use crate::log::Incoming;
use crate::log::follow::{Follower, ReadFrom};
use crate::topology::exemptions::Exemptions;

/// Most receipts that are held; those beyond it are counted and not looked at.
const RECEIPTS_MAX: usize = 4 * ENTRIES_MAX;
/// What a sink was told shorter ago is on its way.
const ON_ITS_WAY_MS: Millis = 5_000;
/// Most entries that are named of what a sink does not have.
const NAMED_MAX: usize = 10;

/// Say which sinks there are, when each last wrote a receipt, and whether it has what it should have
///
/// Reads the topics `blocklist`, `exemptions` and `receipts` to the end that they have now. A sink is compared with the
/// entries of those tenants of which it wrote receipts. Exit code 3 when one is behind or has too much.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  portcullis sink status\n  portcullis sink status --output json")]
pub struct SinkStatusArgs {
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Serialize)]
struct Answer {
    at: Millis,
    /// Entries that are to be enforced now.
    in_force: usize,
    sinks: Vec<Line>,
    /// Receipts that could not be used, or were beyond what is held.
    receipts_left_out: u64,
}

#[derive(Debug, Default, Serialize)]
struct Line {
    sink: String,
    tenants: Vec<String>,
    last_receipt_at: Millis,
    /// From a change to its receipt, half of those of the last quarter of an hour, in milliseconds.
    median_ms: Option<Millis>,
    /// Entries in force that it confirmed.
    holds: usize,
    /// Entries in force that it said it does not take, and entries that failed there.
    refused: usize,
    failed: usize,
    /// Entries in force, of its tenants, of which it has said nothing, or nothing of their last change.
    behind: usize,
    /// How long the oldest of these has waited.
    lag_ms: Option<Millis>,
    /// Entries that it confirmed and never said to be gone, and that are in force no more.
    too_much: usize,
    /// Some of those it is behind with or has too much.
    named: Vec<String>,
}

/// Reads the topics and answers.
///
/// # Errors
/// A topic is missing or may not be read, or the cluster does not answer.
pub fn run(
    args: &SinkStatusArgs,
    connection: &Connection,
    exemptions: Exemptions,
    now: impl Fn() -> Millis,
    has_colours: bool,
    out: &mut dyn Write,
) -> Result<Ending> {
    let mut reading = Reading::new(exemptions);
    reading.read(connection)?;
    let answer = reading.answer(now());
    args.output.write(out, &answer, answer.text(has_colours).trim_end())?;
    let differs = answer.sinks.iter().any(|sink| sink.behind > 0 || sink.too_much > 0 || sink.failed > 0);
    Ok(if differs { Ending::Different } else { Ending::Well })
}

/// The last thing that a sink said of an entry.
#[derive(Debug, Clone, Copy)]
struct Said {
    generation: i64,
    outcome: ReceiptOutcome,
}

struct Reading {
    lists: Lists,
    sinks: Sinks,
    said: BTreeMap<String, BTreeMap<String, Said>>,
    receipts: usize,
    left_out: u64,
}

impl Reading {
    fn new(exemptions: Exemptions) -> Self {
        let (lists, sinks) = (Lists::new(None, exemptions), Sinks::default());
        Reading { lists, sinks, said: BTreeMap::new(), receipts: 0, left_out: 0 }
    }

    fn read(&mut self, connection: &Connection) -> Result<()> {
        let topics = ["blocklist", "exemptions", "receipts"].map(|name| connection.topics.public(name));
        let mut follower = Follower::new(&connection.client, &topics, ReadFrom::Start)?;
        follower.to_end(|record| {
            let (key, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref());
            match topics.iter().position(|topic| **topic == *record.part.topic) {
                Some(0) => drop(self.lists.block(key, value, generation_of(record))),
                Some(1) => drop(self.lists.exempt(key, value)),
                _ => self.receipt(key, value),
            }
            Ok(())
        })
    }

    fn receipt(&mut self, key: &[u8], value: Option<&[u8]>) {
        // `sink|tenant|SCOPE|value`.
        let key = std::str::from_utf8(key).ok().and_then(|key| key.split_once('|'));
        let receipt = value.map(|value| decode_output::<Receipt>("receipts", value)).transpose();
        let (Some((sink, entry)), Ok(receipt)) = (key, receipt) else {
            self.left_out += 1;
            return;
        };
        if self.sinks.take(sink, entry, receipt.as_ref()).is_none() {
            self.left_out += 1;
            return;
        }
        let Some(receipt) = receipt else {
            let gone = self.said.get_mut(sink).and_then(|said| said.remove(entry));
            self.receipts -= usize::from(gone.is_some());
            return;
        };
        if self.receipts >= RECEIPTS_MAX {
            self.left_out += 1;
            return;
        }
        let said = Said { generation: receipt.generation, outcome: receipt.outcome };
        let before = self.said.entry(sink.to_owned()).or_default().insert(entry.to_owned(), said);
        self.receipts += usize::from(before.is_none());
    }

    fn answer(&self, now: Millis) -> Answer {
        let desired = self.lists.desired();
        let sinks = self.sinks.iter().take(SINKS_MAX).map(|(name, sink)| Line {
            sink: name.to_owned(),
            last_receipt_at: sink.last_at,
            median_ms: sink.delay(now).map(|delay| delay.median_ms),
            ..self.compared(name, now)
        });
        let is_in_force = |(_, entry): &(&str, &_)| desired.standing(entry, now) == Standing::Enforced;
        Answer {
            at: now,
            in_force: desired.entries().filter(is_in_force).count(),
            sinks: sinks.collect(),
            receipts_left_out: self.left_out,
        }
    }

    fn compared(&self, sink: &str, now: Millis) -> Line {
        let (desired, nothing) = (self.lists.desired(), BTreeMap::new());
        let said = self.said.get(sink).unwrap_or(&nothing);
        let tenant_of = |key: &str| split_key(key).map(|(tenant, ..)| tenant.to_owned());
        let mut tenants: Vec<String> = said.keys().filter_map(|key| tenant_of(key)).collect();
        tenants.dedup();
        let mut line = Line::default();
        for (key, entry) in desired.entries() {
            if desired.standing(entry, now) != Standing::Enforced || tenants.binary_search(&entry.tenant).is_err() {
                continue;
            }
            match said.get(key).filter(|said| said.generation >= entry.generation).map(|said| said.outcome) {
                Some(ReceiptOutcome::Applied) => line.holds += 1,
                // Somebody of another tenant is exempt, on a list that all share.
                Some(ReceiptOutcome::Refused | ReceiptOutcome::Exempted) => line.refused += 1,
                Some(ReceiptOutcome::Failed) => line.failed += 1,
                Some(ReceiptOutcome::Other | ReceiptOutcome::Lifted | ReceiptOutcome::Expired) | None => {
                    let waits = now.saturating_sub(entry.generation);
                    if waits > ON_ITS_WAY_MS {
                        line.behind += 1;
                        line.lag_ms = line.lag_ms.max(Some(waits));
                        line.name(key);
                    }
                }
            }
        }
        for (key, said) in said.iter().filter(|(_, said)| said.outcome == ReceiptOutcome::Applied) {
            let entry = desired.get(key);
            let is_in_force = entry.is_some_and(|entry| desired.standing(entry, now) == Standing::Enforced);
            let ended = entry.and_then(|entry| entry.until).filter(|until| *until <= now);
            let has_just_ended = ended.is_some_and(|until| now.saturating_sub(until) <= ON_ITS_WAY_MS);
            if !is_in_force && !has_just_ended && now.saturating_sub(said.generation) > ON_ITS_WAY_MS {
                line.too_much += 1;
                line.name(key);
            }
        }
        line.tenants = tenants;
        line
    }
}

fn generation_of(record: &Incoming) -> Option<i64> {
    record.header("generation").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
}

impl Line {
    fn name(&mut self, key: &str) {
        if self.named.len() < NAMED_MAX {
            self.named.push(key.to_owned());
        }
    }
}

impl Answer {
    fn text(&self, has_colours: bool) -> String {
        if self.sinks.is_empty() {
            return "No sink has written a receipt.".to_owned();
        }
        let plain = |text: String| (text, Tone::Plain);
        let number = |n: usize, bad: Tone| {
            let text = grouped(i64::try_from(n).unwrap_or(i64::MAX));
            (text, if n > 0 { bad } else { Tone::Plain })
        };
        let mut table = Table::new(&[
            "sink", "tenants", "last receipt (UTC)", "median", "has", "refuses", "failed", "behind", "by", "too much",
        ]);
        for of in &self.sinks {
            table.row(vec![
                plain(of.sink.clone()),
                plain(of.tenants.join(" ")),
                plain(format!("{}, {} ago", date_time(of.last_receipt_at), how_long(self.at - of.last_receipt_at))),
                plain(of.median_ms.map_or_else(|| "-".to_owned(), how_long)),
                number(of.holds, Tone::Plain),
                number(of.refused, Tone::Plain),
                number(of.failed, Tone::Bad),
                number(of.behind, Tone::Bad),
                plain(of.lag_ms.map_or_else(|| "-".to_owned(), how_long)),
                number(of.too_much, Tone::Bad),
            ]);
        }
        let mut text = table.text(has_colours);
        for of in self.sinks.iter().filter(|of| !of.named.is_empty()) {
            let named: Vec<String> = of.named.iter().map(|key| Plain::name(key).to_string()).collect();
            text.push_str(&format!("{} differs in: {}\n", Plain::name(&of.sink), named.join(", ")));
        }
        text
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("receipts", &self.receipts).finish_non_exhaustive()
    }
}
