//! An incident as files: the report as one HTML page, Markdown or JSON, and every target and source as CSV or JSON lines.
//!
//! An [`Export`] is a value that gives one piece after the other, so that whoever writes it out, to a socket or a file,
//! never holds more than a piece, however many accounts there are.

use std::collections::VecDeque;
use std::fmt::Write as _;

use base64::Engine as _;
use maud::{DOCTYPE, PreEscaped, html};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::disk::{Disk, Line, StoreError};
use super::pages::{report_body, timeline};

use super::report::Report;
use super::text::{Plain, counted, csv_cell, date_time, grouped, how_long, markdown};
use crate::event::DetailKind;
use crate::event::wire::format_millis;

pub(super) const STYLE: &str = include_str!("console.css");
/// Rows of each list in a Markdown report.
const ROWS_MAX: usize = 20;

/// A file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    Html,
    Markdown,
    Json,
    TargetsCsv,
    TargetsJsonLines,
    SourcesCsv,
    SourcesJsonLines,
}

impl FileKind {
    /// By the name of a file of an incident.
    #[must_use]
    pub fn of_name(name: &str) -> Option<FileKind> {
        match name {
            "report.html" => Some(FileKind::Html),
            "report.md" => Some(FileKind::Markdown),
            "report.json" => Some(FileKind::Json),
            "targets.csv" => Some(FileKind::TargetsCsv),
            "targets.jsonl" => Some(FileKind::TargetsJsonLines),
            "sources.csv" => Some(FileKind::SourcesCsv),
            "sources.jsonl" => Some(FileKind::SourcesJsonLines),
            _ => None,
        }
    }

    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            FileKind::Html => "text/html; charset=utf-8",
            FileKind::Markdown => "text/markdown; charset=utf-8",
            FileKind::Json => "application/json",
            FileKind::TargetsCsv | FileKind::SourcesCsv => "text/csv; charset=utf-8; header=present",
            FileKind::TargetsJsonLines | FileKind::SourcesJsonLines => "application/jsonl",
        }
    }
}

/// A file in pieces.
#[derive(Debug)]
pub struct Export {
    incident: String,
    parts: VecDeque<Part>,
    /// The last line that was written of the part in front.
    after: Option<String>,
}

#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    Lines(DetailKind, Form),
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Csv(Columns),
    JsonLines,
    /// Between brackets that others write.
    JsonItems,
}

/// Columns of a table beside the times: the value, counts, and what a line is about, by their names.
#[derive(Debug, Clone, Copy)]
struct Columns {
    value: &'static str,
    counts: &'static [&'static str],
    about: &'static [&'static str],
}

const TARGETS: Columns = Columns {
    value: "account",
    counts: &["attempts", "failures", "stopped", "unknown", "successes", "fallen", "blocked"],
    about: &["entered_from"],
};
const SOURCES: Columns = Columns {
    value: "source",
    counts: &["attempts", "failures", "stopped", "unknown", "successes", "fallen", "blocked"],
    about: &["asn", "country", "user_agent"],
};

/// A line as an export names it.
#[derive(Serialize)]
struct Exported<'a> {
    value: &'a str,
    #[serde(flatten)]
    counts: &'a std::collections::BTreeMap<String, i64>,
    first_at: String,
    last_at: String,
    about: &'a std::collections::BTreeMap<String, String>,
}

impl Export {
    /// The pieces of a file of an incident.
    #[must_use]
    pub fn new(report: &Report, kind: FileKind) -> Export {
        let text = |text: String| Part::Text(text.into_bytes());
        let csv = |kind, columns: Columns| {
            let names = [&[columns.value], columns.counts, &["first_at", "last_at"], columns.about].concat();
            vec![text(format!("{}\r\n", names.join(","))), Part::Lines(kind, Form::Csv(columns))]
        };
        let parts = match kind {
            FileKind::Html => vec![text(html_file(report))],
            FileKind::Markdown => vec![text(markdown_file(report))],
            FileKind::Json => json_parts(report),
            FileKind::TargetsCsv => csv(DetailKind::Target, TARGETS),
            FileKind::SourcesCsv => csv(DetailKind::Source, SOURCES),
            FileKind::TargetsJsonLines => vec![Part::Lines(DetailKind::Target, Form::JsonLines)],
            FileKind::SourcesJsonLines => vec![Part::Lines(DetailKind::Source, Form::JsonLines)],
        };
        Export { incident: report.incident.incident_id.clone(), parts: parts.into(), after: None }
    }

    /// The next piece; nothing when that was all.
    ///
    /// # Errors
    /// The store does not read.
    pub fn next(&mut self, disk: &Disk) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let (kind, form) = match self.parts.front_mut() {
                None => return Ok(None),
                Some(Part::Text(text)) => {
                    let text = std::mem::take(text);
                    self.parts.pop_front();
                    return Ok(Some(text));
                }
                Some(Part::Lines(kind, form)) => (*kind, *form),
            };
            let lines = disk.page(&self.incident, kind, self.after.as_deref())?;
            let Some(last) = lines.last() else {
                self.parts.pop_front();
                self.after = None;
                continue;
            };
            let mut piece = String::with_capacity(lines.len() * 100);
            for (index, line) in lines.iter().enumerate() {
                let is_first = index == 0 && self.after.is_none();
                write_line(&mut piece, line, form, is_first);
            }
            self.after = Some(last.value.clone());
            return Ok(Some(piece.into_bytes()));
        }
    }
}

fn write_line(piece: &mut String, line: &Line, form: Form, is_first: bool) {
    match form {
        Form::Csv(columns) => {
            piece.push_str(&csv_cell(&line.value));
            for count in columns.counts {
                let _written = write!(piece, ",{}", line.count(count));
            }
            let _written = write!(piece, ",{},{}", format_millis(line.first_at), format_millis(line.last_at));
            for about in columns.about {
                piece.push(',');
                piece.push_str(&csv_cell(line.about(about)));
            }
            piece.push_str("\r\n");
        }
        Form::JsonLines | Form::JsonItems => {
            if matches!(form, Form::JsonItems) && !is_first {
                piece.push_str(",\n");
            }
            let exported = Exported {
                value: &line.value,
                counts: &line.counts,
                first_at: format_millis(line.first_at),
                last_at: format_millis(line.last_at),
                about: &line.about,
            };
            piece.push_str(&serde_json::to_string(&exported).unwrap_or_default());
            if matches!(form, Form::JsonLines) {
                piece.push('\n');
            }
        }
    }
}

fn json_parts(report: &Report) -> Vec<Part> {
    let mut parts = vec![Part::Text(
        format!("{{\"report\":{}", serde_json::to_string(report).unwrap_or_else(|_| "null".to_owned())).into_bytes(),
    )];
    for (name, kind) in [
        ("targets", DetailKind::Target),
        ("sources", DetailKind::Source),
        ("minutes", DetailKind::Minute),
        ("actions", DetailKind::Action),
        ("trail", DetailKind::Trail),
    ] {
        parts.push(Part::Text(format!(",\n\"{name}\":[").into_bytes()));
        parts.push(Part::Lines(kind, Form::JsonItems));
        parts.push(Part::Text(b"]".to_vec()));
    }
    parts.push(Part::Text(b"}\n".to_vec()));
    parts
}

/// A page that stands alone: its style inside, no script, nothing that is fetched.
fn html_file(report: &Report) -> String {
    let digest = base64::prelude::BASE64_STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!("default-src 'none'; style-src 'sha256-{digest}'");
    let incident = &report.incident;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Incident at " (incident.tenant) ", " (date_time(incident.started_at)) }
                style { (PreEscaped(STYLE)) }
            }
            body.file {
                main {
                    h1 { "Incident at " bdi { (Plain::name(&incident.tenant)) } ", " (date_time(incident.started_at)) }
                    (report_body(report, false))
                }
                footer { "Written by Portcullis at " (date_time(report.at)) " UTC. Times are UTC." }
            }
        }
    }
    .into_string()
}

fn safe(text: &str) -> String {
    markdown(&Plain::name(text).to_string())
}

/// For a chat or a ticket.
fn markdown_file(report: &Report) -> String {
    let incident = &report.incident;
    let mut out = String::new();
    let state = match incident.ended_at {
        Some(end) => format!("ended {}, lasted {}", date_time(end), how_long(report.lasted())),
        None => format!("open, so far {}", how_long(report.lasted())),
    };
    let _written = write!(
        out,
        "# Incident at {}, {} UTC\n\n**{}**, {}. {}\n\n{}\n\n",
        safe(&incident.tenant),
        date_time(incident.started_at),
        incident.severity,
        incident.kind.as_str().to_lowercase().replace('_', " "),
        state,
        markdown(&Plain::sentence(report.summary()).to_string()),
    );
    let _written = write!(
        out,
        "| attempts | failures | stopped | accounts | nobody's | sources | blocked | entered |\n| --: | --: | --: | --: | --: | --: | --: | --: |\n| {} | {} | {} | {} | {} | {} | {} | {} |\n\n",
        grouped(incident.attempts),
        grouped(incident.failures),
        grouped(incident.stopped_at_edge),
        grouped(report.targeted()),
        grouped(report.unknown()),
        grouped(report.sources()),
        grouped(incident.blocked),
        incident.compromised.len(),
    );
    out.push_str("## Who fell\n\n");
    if incident.compromised.is_empty() {
        out.push_str("Nobody, as far as is known.\n");
    }
    for of in &incident.compromised {
        let after = how_long(of.flagged_at - of.at);
        let _written = writeln!(
            out,
            "- {} at {}, seen {after} after, from {}",
            safe(&of.account),
            date_time(of.at),
            safe(&of.source_ip)
        );
    }
    if let Some(chart) = timeline(report) {
        let _written = write!(
            out,
            "\n## Minute by minute\n\n{}\n\n| minute | attempts | failures | stopped |\n| --- | --: | --: | --: |\n",
            chart.description
        );
        for minute in &report.lines.minutes {
            let _written = writeln!(
                out,
                "| {} | {} | {} | {} |",
                date_time(minute.at),
                minute.attempts,
                minute.failures,
                minute.stopped
            );
        }
    }
    for (title, of) in [
        ("Networks", &incident.top_networks),
        ("Countries", &incident.top_countries),
        ("User agents", &incident.top_user_agents),
    ] {
        if !of.is_empty() {
            let _written = write!(out, "\n## {title}\n\n");
        }
        for one in of.iter().take(ROWS_MAX) {
            let _written = writeln!(out, "- {}: {}", safe(&one.value), counted(one.attempts, "attempt", "attempts"));
        }
    }
    if !report.lines.top_sources.is_empty() {
        let all = i64::try_from(report.lines.sources).unwrap_or(i64::MAX);
        let _written = write!(out, "\n## Sources, of {}\n\n", grouped(all));
        for line in report.lines.top_sources.iter().take(ROWS_MAX) {
            let _written =
                writeln!(out, "- {}: {}", safe(&line.value), counted(line.count("attempts"), "attempt", "attempts"));
        }
    }
    if !report.deeds_by_playbook.is_empty() {
        out.push_str("\n## What was done\n\n");
        for (playbook, deeds) in &report.deeds_by_playbook {
            let _written = writeln!(
                out,
                "- {}: {} times, {} to {}",
                safe(playbook),
                deeds.count,
                date_time(deeds.first_at),
                date_time(deeds.last_at)
            );
        }
    }
    let _written = write!(
        out,
        "\nWritten by Portcullis at {} UTC. Times are UTC. Incident {}.\n",
        date_time(report.at),
        safe(&incident.incident_id)
    );
    out
}
