//! `portcullis incident`: what happened, in a table, in a report, and with every account in a file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::board::ReadBoard;
use super::table::{Table, Tone, toned};
use super::{Connection, Ending, Output};
use crate::console::text::{Plain, counted, date_time, grouped, how_long};
use crate::console::{Export, FileKind, Lines, Report};
use crate::event::{Incident, IncidentState, Millis, Severity};
use crate::topology::exemptions::{Exemptions, is_tenant};

/// Deeds, steps and sources that are shown on a terminal.
const SHOWN_MAX: usize = 10;

/// List incidents, tell one, or write it to a file with every account and source
#[derive(Debug, Args)]
pub struct IncidentArgs {
    #[command(subcommand)]
    pub command: IncidentCommand,
}

#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// List incidents, the newest first
    #[command(
        after_help = "Examples:\n  portcullis incident list --tenant shop\n  portcullis incident list --open --output json"
    )]
    List(ListArgs),
    /// Tell an incident: what, how many, who fell and when, what was done
    #[command(
        after_help = "Examples:\n  portcullis incident show last\n  portcullis incident show 2ad91f --output json"
    )]
    Show(ShowArgs),
    /// Write an incident to a file: the report, or every account that was tried
    #[command(
        after_help = "Examples:\n  portcullis incident export last --format html --out report.html\n  portcullis incident export 2ad91f --format csv > targets.csv       every account that was tried\n  portcullis incident export 2ad91f --format jsonl --of sources"
    )]
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// This tenant alone
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Those alone that are not over
    #[arg(long)]
    pub open: bool,
    /// So many, the newest
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    pub limit: usize,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Its id, how its id begins, or `last`
    #[arg(value_name = "ID")]
    pub id: String,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Its id, how its id begins, or `last`
    #[arg(value_name = "ID")]
    pub id: String,
    /// html, md: the report; json: the report and every line; csv, jsonl: every line of --of
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: ExportFormat,
    /// What a table holds
    #[arg(long, value_enum, default_value_t)]
    pub of: ExportOf,
    /// Where it goes [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ExportFormat {
    #[default]
    Html,
    Md,
    Json,
    Csv,
    Jsonl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ExportOf {
    #[default]
    Targets,
    Sources,
}

impl ExportArgs {
    const fn kind(&self) -> FileKind {
        match (self.format, self.of) {
            (ExportFormat::Html, _) => FileKind::Html,
            (ExportFormat::Md, _) => FileKind::Markdown,
            (ExportFormat::Json, _) => FileKind::Json,
            (ExportFormat::Csv, ExportOf::Targets) => FileKind::TargetsCsv,
            (ExportFormat::Csv, ExportOf::Sources) => FileKind::SourcesCsv,
            (ExportFormat::Jsonl, ExportOf::Targets) => FileKind::TargetsJsonLines,
            (ExportFormat::Jsonl, ExportOf::Sources) => FileKind::SourcesJsonLines,
        }
    }
}

/// Carries out one of them; `has_colours`: somebody looks at what is written.
///
/// # Errors
/// There is no such incident, a topic is missing or may not be read, the cluster does not answer, or the file cannot be
/// written.
pub fn run(
    args: &IncidentArgs,
    connection: &Connection,
    now: impl Fn() -> Millis,
    has_colours: bool,
    out: &mut dyn Write,
) -> Result<Ending> {
    match &args.command {
        IncidentCommand::List(args) => list(args, connection, now(), has_colours, out),
        IncidentCommand::Show(args) => {
            let (report, _) = read(&args.id, connection, now())?;
            args.output.write(out, &report, tell(&report, has_colours).trim_end())?;
            Ok(Ending::Well)
        }
        IncidentCommand::Export(args) => {
            let (report, read) = read(&args.id, connection, now())?;
            let mut export = Export::new(&report, args.kind());
            match &args.out {
                None => write_all(&mut export, &read, out)?,
                Some(path) => {
                    let file = File::create(path).with_context(|| format!("{}", path.display()))?;
                    let mut file = BufWriter::new(file);
                    write_all(&mut export, &read, &mut file).with_context(|| format!("{}", path.display()))?;
                }
            }
            Ok(Ending::Well)
        }
    }
}

fn write_all(export: &mut Export, read: &ReadBoard, out: &mut dyn Write) -> Result<()> {
    while let Some(piece) = export.next(&read.disk)? {
        out.write_all(&piece)?;
    }
    out.flush()?;
    Ok(())
}

fn list(
    args: &ListArgs,
    connection: &Connection,
    now: Millis,
    has_colours: bool,
    out: &mut dyn Write,
) -> Result<Ending> {
    if let Some(tenant) = args.tenant.as_deref().filter(|tenant| !is_tenant(tenant)) {
        bail!("--tenant {tenant:?} is no tenant: it has 1 to 63 of a-z, 0-9, `.`, `_`, `-`");
    }
    let mut read = ReadBoard::new(Exemptions::default())?;
    read.read(connection, &["incidents"], |_| true, now)?;
    let mut incidents = read.board.incidents();
    incidents.retain(|incident| {
        let is_of_tenant = args.tenant.as_ref().is_none_or(|tenant| *tenant == incident.tenant);
        is_of_tenant && (!args.open || incident.state == IncidentState::Open)
    });
    let left = incidents.len().saturating_sub(args.limit);
    incidents.truncate(args.limit);
    let mut table =
        Table::new(&["id", "tenant", "began (UTC)", "state", "severity", "attempts", "accounts", "sources", "entered"]);
    for incident in &incidents {
        let (state, state_tone) = state_of(incident);
        table.row(vec![
            (incident.incident_id.chars().take(12).collect(), Tone::Plain),
            (incident.tenant.clone(), Tone::Plain),
            (date_time(incident.started_at), Tone::Plain),
            (state, state_tone),
            (incident.severity.as_str().to_owned(), tone_of(incident.severity)),
            (grouped(incident.attempts), Tone::Plain),
            (grouped(incident.accounts_targeted), Tone::Plain),
            (grouped(incident.sources), Tone::Plain),
            (
                incident.compromised.len().to_string(),
                if incident.compromised.is_empty() { Tone::Plain } else { Tone::Bad },
            ),
        ]);
    }
    let mut text = if table.is_empty() { "No incident.".to_owned() } else { table.text(has_colours) };
    if left > 0 {
        let _written = writeln!(text, "and {left} older ones");
    }
    args.output.write(out, &incidents, text.trim_end())?;
    Ok(Ending::Well)
}

fn state_of(incident: &Incident) -> (String, Tone) {
    let lasted = how_long(incident.ended_at.unwrap_or(incident.updated_at) - incident.started_at);
    match incident.state {
        IncidentState::Open => (format!("open, {lasted} so far"), Tone::Bad),
        IncidentState::Closed => (format!("over, lasted {lasted}"), Tone::Plain),
    }
}

const fn tone_of(severity: Severity) -> Tone {
    match severity {
        Severity::Critical | Severity::High => Tone::Bad,
        Severity::Medium => Tone::Warn,
        Severity::Low | Severity::Info => Tone::Plain,
    }
}

/// One incident with all of its lines.
fn read(asked: &str, connection: &Connection, now: Millis) -> Result<(Report, ReadBoard)> {
    let mut read = ReadBoard::new(Exemptions::default())?;
    read.read(connection, &["incidents"], |_| true, now)?;
    let found: Vec<String> = {
        let all = read.board.incidents();
        let is_asked = |incident: &&&Incident| match asked {
            "last" => true,
            _ => incident.incident_id.starts_with(asked),
        };
        let found = all.iter().filter(is_asked).map(|incident| incident.incident_id.clone());
        if asked == "last" { found.take(1).collect() } else { found.collect() }
    };
    let id = match found.as_slice() {
        [] => bail!("no incident {:?}; see: portcullis incident list", Plain::name(asked).to_string()),
        [id] => id.clone(),
        [..] if found.iter().any(|id| id == asked) => asked.to_owned(),
        [..] => bail!("{} incidents begin with {asked:?}: write more of the id", found.len()),
    };
    let prefix = format!("{id}|");
    read.read(connection, &["incident-details"], |key| key.starts_with(prefix.as_bytes()), now)?;
    read.read(connection, &["verdicts", "activity"], |_| true, now)?;
    let lines = Lines::read(&read.disk, &id)?;
    let report = Report::new(&read.board, &id, lines, now).with_context(|| format!("no incident {id}"))?;
    Ok((report, read))
}

/// For people.
fn tell(report: &Report, has_colours: bool) -> String {
    let incident = &report.incident;
    let mut out = String::new();
    let (state, tone) = state_of(incident);
    let _written = writeln!(
        out,
        "{} at {}, {} UTC, {}\n\n{}\n",
        toned(incident.severity.as_str(), tone_of(incident.severity), has_colours),
        Plain::name(&incident.tenant),
        date_time(incident.started_at),
        toned(&state, tone, has_colours),
        Plain::sentence(report.summary()),
    );
    let _written = writeln!(
        out,
        "{}, {} failed, {} stopped at an edge; {}, {} of them nobody's; {}; {} entities blocked\n",
        counted(incident.attempts, "attempt", "attempts"),
        grouped(incident.failures),
        grouped(incident.stopped_at_edge),
        counted(report.targeted(), "account", "accounts"),
        grouped(report.unknown()),
        counted(report.sources(), "source", "sources"),
        grouped(incident.blocked),
    );
    if incident.compromised.is_empty() {
        out.push_str("Nobody fell, as far as is known.\n");
    }
    for of in &incident.compromised {
        let fell = format!("{} was entered", Plain::name(&of.account));
        let _written = writeln!(
            out,
            "{} at {} from {}, seen {} after",
            toned(&fell, Tone::Bad, has_colours),
            date_time(of.at),
            Plain::name(&of.source_ip),
            how_long(of.flagged_at - of.at)
        );
    }
    if !report.lines.minutes.is_empty() {
        let mut table = Table::new(&["minute (UTC)", "attempts", "failures", "nobody's", "stopped"]);
        for minute in &report.lines.minutes {
            let counts = [minute.attempts, minute.failures, minute.unknown, minute.stopped];
            let cells = counts.map(|n| (grouped(n), Tone::Plain));
            table.row(std::iter::once((date_time(minute.at), Tone::Plain)).chain(cells).collect());
        }
        let _written = write!(out, "\n{}", table.text(has_colours));
    }
    if !report.deeds_by_playbook.is_empty() {
        let mut table = Table::new(&["done by", "times", "first (UTC)", "last"]);
        for (playbook, deeds) in &report.deeds_by_playbook {
            let times = [date_time(deeds.first_at), date_time(deeds.last_at)];
            let cells = [playbook.clone(), deeds.count.to_string()].into_iter().chain(times);
            table.row(cells.map(|cell| (cell, Tone::Plain)).collect());
        }
        let _written = write!(out, "\n{}", table.text(has_colours));
    }
    if !report.lines.top_sources.is_empty() {
        let mut table = Table::new(&["source", "attempts", "succeeded", "network", "agent"]);
        for line in report.lines.top_sources.iter().take(SHOWN_MAX) {
            let network = format!("AS{} {}", line.about("asn"), line.about("country"));
            let counts = [line.count("attempts"), line.count("successes")].map(grouped);
            let cells =
                std::iter::once(line.value.clone()).chain(counts).chain([network, line.about("user_agent").to_owned()]);
            table.row(cells.map(|cell| (cell, Tone::Plain)).collect());
        }
        let _written = write!(out, "\n{}", table.text(has_colours));
    }
    let id = &incident.incident_id;
    let _written = write!(out, "\nEvery account: portcullis incident export {} --format csv\n", Plain::name(id));
    out
}
