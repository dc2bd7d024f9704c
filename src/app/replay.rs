//! `portcullis replay`: the same core over a file, without Kafka. Bit-identical from run to run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::clock::ProcessClock;
use super::input::{FormatArgs, open, time};
use super::progress::Progress;
use super::settings::Settings;
use super::{networks, topology};
use crate::engine::{Emission, Output, Pipeline, Raw};
use crate::event::wire::{WriterSchema, format_millis};
use crate::event::{Entity, Millis, Mode};
use crate::log::Clock as _;

/// Longest part of a bad record in `dead-letters.jsonl`, in characters.
const DEAD_LETTER_CHARS_MAX: usize = 1_024;
/// How often progress is shown.
const EVENTS_BETWEEN_LOOKS: u64 = 1_024;
/// Names of the files, by topic.
const FILES: [&str; 7] =
    ["verdicts", "blocklist", "attack-status", "incidents", "incident-details", "activity", "dead-letters"];

/// Run the detection over a file of login events, without Kafka
///
/// The file is in arrival order. Writes verdicts.jsonl, blocklist.jsonl, attack-status.jsonl, incidents.jsonl and
/// dead-letters.jsonl, a line each {"at": ms, "key": "…", "value": record or null}.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  portcullis replay --events /var/log/auth.log --format sshd --out replayed")]
pub struct ReplayArgs {
    /// File to read; - for standard input
    #[arg(long, value_name = "FILE|-")]
    pub events: PathBuf,
    #[command(flatten)]
    pub format: FormatArgs,
    /// Leave out what arrived after this moment of the file
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub to: Option<Millis>,
    /// Folder with playbooks to try instead of the live ones
    #[arg(long, value_name = "DIR")]
    pub playbooks: Option<PathBuf>,
    /// Folder for the results; made when it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub answer: super::Output,
}

/// What a replay came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReplaySummary {
    pub events: u64,
    pub first_at: Option<Millis>,
    pub last_at: Option<Millis>,
    /// What became of the events, by counter.
    pub counts: BTreeMap<&'static str, u64>,
    /// Verdicts by playbook; those in shadow apart.
    pub verdicts: BTreeMap<String, u64>,
    pub shadow_verdicts: BTreeMap<String, u64>,
    /// Entities that were restricted at some time, by scope.
    pub restricted: BTreeMap<String, usize>,
    pub incidents: usize,
    pub seconds: f64,
}

/// Replays.
///
/// # Errors
/// The file or the folder cannot be used, or a playbook is wrong.
pub fn replay(args: &ReplayArgs, settings: &Settings) -> Result<ReplaySummary> {
    let clock = ProcessClock::real();
    let env = topology::env(settings, args.playbooks.as_deref())?;
    let networks = networks::once(settings)?;
    let mut pipeline = Pipeline::new(env);
    let mut out = Results::create(&args.out)?;
    let (input, length, read) = open(&args.events)?;
    let mut progress = Progress::new("replaying", length);
    let mut summary = ReplaySummary::default();
    let mut arrival = 0;
    for event in args.format.reader(input, clock.now()) {
        let event = event.with_context(|| format!("reading {}", args.events.display()))?;
        arrival = event.arrival.unwrap_or(arrival);
        if args.to.is_some_and(|to| arrival > to) {
            break;
        }
        if summary.events.is_multiple_of(EVENTS_BETWEEN_LOOKS) {
            progress.at(read.get(), summary.events, clock.now());
        }
        summary.events += 1;
        summary.first_at.get_or_insert(arrival);
        summary.last_at = Some(arrival);
        for emission in pipeline.feed(Raw { networks: Some(&networks), ..raw(&event.value, arrival) }) {
            let line = summary.events;
            out.write(&mut summary, &emission, line, &event.value)?;
        }
    }
    out.finish()?;
    progress.end();
    summary.counts = pipeline.counts().iter().map(|(counter, n)| (counter.as_str(), n)).collect();
    summary.restricted = out.restricted();
    summary.incidents = out.incidents.len();
    summary.seconds = clock.elapsed().as_secs_f64();
    Ok(summary)
}

/// One record of a file as intake takes it: its arrival is its clock.
#[must_use]
pub fn raw(value: &[u8], arrival: Millis) -> Raw<'_> {
    Raw {
        value: Some(value),
        schema_header: None,
        writer: Some(&WriterSchema::Bundled),
        traceparent: None,
        timestamp: arrival,
        clock: arrival,
        tenant: None,
        networks: None,
    }
}

/// A record of an output topic: topic, key, value.
#[must_use]
pub fn record_of(output: &Output) -> Option<(&'static str, String, Value)> {
    let value = |record: Result<Value, serde_json::Error>| record.unwrap_or(Value::Null);
    match output {
        Output::Verdict(verdict) => {
            let entity = Entity {
                tenant: verdict.tenant.as_str().into(),
                scope: verdict.scope,
                value: verdict.value.as_str().into(),
            };
            Some(("verdicts", entity.key(), value(serde_json::to_value(verdict))))
        }
        Output::Block(change) => Some(("blocklist", change.entity.key(), value(serde_json::to_value(change.entry())))),
        Output::Status(status) => Some(("attack-status", status.tenant.clone(), value(serde_json::to_value(status)))),
        Output::Incident(incident) => {
            Some(("incidents", incident.incident_id.clone(), value(serde_json::to_value(incident))))
        }
        Output::Detail(detail) => Some(("incident-details", detail.key(), value(serde_json::to_value(detail)))),
        Output::Activity(slice) => Some(("activity", slice.tenant.clone(), value(serde_json::to_value(slice)))),
        Output::KnownPair(_)
        | Output::DeadLetter(_)
        | Output::Playbook(_)
        | Output::Item { .. }
        | Output::MarkAll { .. } => None,
    }
}

/// The files of one replay.
struct Results {
    files: BTreeMap<&'static str, BufWriter<File>>,
    restricted: BTreeMap<String, String>,
    incidents: std::collections::BTreeSet<String>,
}

impl Results {
    fn create(folder: &Path) -> Result<Results> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        let open = |name: &'static str| {
            let path = folder.join(format!("{name}.jsonl"));
            let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
            Ok((name, BufWriter::new(file)))
        };
        let files = FILES.into_iter().map(open).collect::<Result<_>>()?;
        Ok(Results { files, restricted: BTreeMap::new(), incidents: std::collections::BTreeSet::new() })
    }

    fn write(&mut self, summary: &mut ReplaySummary, emission: &Emission, line: u64, value: &[u8]) -> Result<()> {
        self.note(summary, &emission.output);
        let record = if let Output::DeadLetter(letter) = &emission.output {
            let text: String = String::from_utf8_lossy(value).chars().take(DEAD_LETTER_CHARS_MAX).collect();
            let (reason, detail) = (letter.reject.reason.as_str(), &letter.reject.detail);
            let value = json!({"reason": reason, "detail": detail, "line": line, "length": value.len(), "text": text});
            Some(("dead-letters", line.to_string(), value))
        } else {
            record_of(&emission.output)
        };
        let Some((topic, key, value)) = record else { return Ok(()) };
        let Some(file) = self.files.get_mut(topic) else { return Ok(()) };
        serde_json::to_writer(&mut *file, &json!({"at": emission.at, "key": key, "value": value}))?;
        file.write_all(b"\n")?;
        Ok(())
    }

    fn note(&mut self, summary: &mut ReplaySummary, output: &Output) {
        match output {
            Output::Verdict(verdict) => {
                let list = match verdict.mode {
                    Mode::Live => &mut summary.verdicts,
                    Mode::Shadow => &mut summary.shadow_verdicts,
                };
                *list.entry(verdict.playbook.clone()).or_default() += 1;
            }
            Output::Block(change) => {
                self.restricted.insert(change.entity.key(), change.entity.scope.as_str().to_owned());
            }
            Output::Incident(incident) => {
                self.incidents.insert(incident.incident_id.clone());
            }
            Output::Status(_)
            | Output::Detail(_)
            | Output::Activity(_)
            | Output::KnownPair(_)
            | Output::DeadLetter(_)
            | Output::Playbook(_)
            | Output::Item { .. }
            | Output::MarkAll { .. } => {}
        }
    }

    fn restricted(&self) -> BTreeMap<String, usize> {
        let mut by_scope = BTreeMap::new();
        for scope in self.restricted.values() {
            *by_scope.entry(scope.clone()).or_default() += 1;
        }
        by_scope
    }

    fn finish(&mut self) -> Result<()> {
        self.files.values_mut().try_for_each(|file| file.flush()).context("writing the results")
    }
}

impl std::fmt::Display for ReplaySummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = |at: Option<Millis>| at.map_or_else(|| "-".to_owned(), format_millis);
        writeln!(
            f,
            "{} events from {} to {}, in {:.2} s",
            self.events,
            time(self.first_at),
            time(self.last_at),
            self.seconds
        )?;
        list(f, "what became of them", &self.counts)?;
        list(f, "verdicts", &self.verdicts)?;
        list(f, "verdicts in shadow", &self.shadow_verdicts)?;
        list(f, "restricted", &self.restricted)?;
        write!(f, "incidents: {}", self.incidents)
    }
}

fn list<K: std::fmt::Display, V: std::fmt::Display>(
    f: &mut std::fmt::Formatter<'_>,
    title: &str,
    items: &BTreeMap<K, V>,
) -> std::fmt::Result {
    let items: Vec<String> = items.iter().map(|(name, n)| format!("{name} {n}")).collect();
    writeln!(f, "{title}: {}", if items.is_empty() { "none".to_owned() } else { items.join(", ") })
}
