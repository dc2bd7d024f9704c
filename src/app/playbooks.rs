//! `portcullis playbooks`: whether they are right, what they say, what they cost, and whether they fire when they must.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Value, json};

use super::networks::bundled_networks;
use super::playbook_changes::{self, RemoveArgs, SetArgs};
use super::settings::Settings;
use super::{Connection, Ending, Output, topology};
use crate::engine::{ControlChange, Emission, Env, Limits, Output as Out, Pipeline, Raw, StatusChange};
use crate::event::{AttackState, ChallengePolicy, Millis, Mode};
use crate::topology::{Exemptions, Fixture, Plan, Playbook, PlaybookMode, Price, parse_duration};

/// Read, check, test and explain playbooks, and change them while the job runs
#[derive(Debug, Args)]
pub struct PlaybooksArgs {
    #[command(subcommand)]
    pub command: PlaybooksCommand,
}

#[derive(Debug, Subcommand)]
pub enum PlaybooksCommand {
    /// Check playbooks against themselves and each other, and price them
    #[command(after_help = "Example:\n  portcullis playbooks check topology/playbooks")]
    Check(FolderArgs),
    /// Play the fixtures of playbooks: who must fire fires, who must not does not
    #[command(after_help = "Example:\n  portcullis playbooks test topology/playbooks")]
    Test(FolderArgs),
    /// List playbooks, a line each
    #[command(
        after_help = "Examples:\n  portcullis playbooks list --output json\n  portcullis playbooks list --in-effect    folder and topic together, and where each comes from"
    )]
    List(ListArgs),
    /// Read a playbook aloud: what it looks at, when it fires, what it does, what it costs
    #[command(after_help = "Example:\n  portcullis playbooks explain ip-account-fanout")]
    Explain(ExplainArgs),
    /// Write the JSON schema of a playbook, for editors
    #[command(
        after_help = "Example:\n  portcullis playbooks schema > playbook.schema.json\n\nIn the first line of a playbook, for the YAML language server:\n  # yaml-language-server: $schema=../playbook.schema.json"
    )]
    Schema,
    Set(SetArgs),
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub of: FolderArgs,
    /// Those that a job uses now: of the folder and of the topic `playbooks`, each with where it comes from
    #[arg(long, conflicts_with = "path")]
    pub in_effect: bool,
}

#[derive(Debug, Args)]
pub struct FolderArgs {
    /// Folder of playbooks, or one file [default: those of --topology, or the bundled ones]
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id of a playbook, or a file
    #[arg(value_name = "ID|FILE")]
    pub what: String,
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Output,
}

/// Carries out one of them. `connection` and the process clock are asked for by what talks to a cluster.
///
/// # Errors
/// A playbook does not read or contradicts itself (with every problem at once), the cluster does not do what is asked, or
/// the output cannot be written.
pub fn run(
    args: &PlaybooksArgs,
    settings: &Settings,
    connection: impl Fn() -> Result<Connection>,
    now: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    match &args.command {
        PlaybooksCommand::Set(args) => playbook_changes::set(args, settings, &connection()?, now, out),
        PlaybooksCommand::Remove(args) => playbook_changes::remove(args, settings, &connection()?, now, out),
        PlaybooksCommand::List(ListArgs { of, in_effect: true }) => {
            playbook_changes::list(of.output, settings, &connection()?, now, out)
        }
        PlaybooksCommand::Check(args) => check(args, settings, out),
        PlaybooksCommand::Test(args) => test(args, settings, out),
        PlaybooksCommand::List(args) => list(&args.of, settings, out),
        PlaybooksCommand::Explain(args) => explain(args, settings, out),
        PlaybooksCommand::Schema => {
            writeln!(out, "{}", serde_json::to_string_pretty(&Playbook::schema())?)?;
            Ok(Ending::Well)
        }
    }
}

fn load(path: Option<&Path>, settings: &Settings) -> Result<Vec<Playbook>> {
    match path {
        Some(file) if file.is_file() => topology::playbook_file(file).map(|playbook| vec![playbook]),
        Some(folder) => topology::playbooks(Some(folder)),
        None => topology::playbooks(settings.topology.as_ref().map(|folder| folder.join("playbooks")).as_deref()),
    }
}

#[derive(Serialize)]
struct Priced {
    id: String,
    rows: u32,
    bytes: u32,
    bytes_at_worst: u32,
}

fn check(args: &FolderArgs, settings: &Settings, out: &mut dyn Write) -> Result<Ending> {
    let playbooks = load(args.path.as_deref(), settings)?;
    Plan::compile(&playbooks)?;
    let priced: Vec<Priced> = playbooks
        .iter()
        .map(|p| {
            let Price { rows, bytes, bytes_at_worst } = Price::of(p);
            Priced { id: p.id.clone(), rows, bytes, bytes_at_worst }
        })
        .collect();
    let (sum, _) = Price::of_all(&playbooks);
    let mut text = String::new();
    for priced in &priced {
        let Priced { id, rows, bytes, bytes_at_worst } = priced;
        writeln!(text, "{id:<32} {rows:>2} rows an attempt, {bytes:>6} bytes an entity, {bytes_at_worst:>6} at worst")?;
    }
    writeln!(
        text,
        "{} playbooks are right. Together: {} rows an attempt, at most {} bytes an entity.",
        playbooks.len(),
        sum.rows,
        sum.bytes_at_worst
    )?;
    let value = json!({
        "playbooks": priced, "rows": sum.rows, "bytes": sum.bytes, "bytes_at_worst": sum.bytes_at_worst,
    });
    args.output.write(out, &value, &text)?;
    Ok(Ending::Well)
}

fn list(args: &FolderArgs, settings: &Settings, out: &mut dyn Write) -> Result<Ending> {
    let playbooks = load(args.path.as_deref(), settings)?;
    let values: Vec<Value> = playbooks.iter().map(summary).collect();
    let lines: Vec<String> = playbooks.iter().map(|p| format!("v{:<3} {}", p.version, p.describe())).collect();
    args.output.write(out, &values, &format!("{}\n", lines.join("\n")))?;
    Ok(Ending::Well)
}

fn summary(p: &Playbook) -> Value {
    json!({
        "id": p.id, "version": p.version, "owner": p.owner, "mode": p.mode.as_str(), "detector": p.detector.as_str(),
        "per": p.per.as_str(), "over_ms": p.over, "severity": p.severity, "action": p.then.action,
        "description": p.description, "tags": p.tags, "fixtures": p.fixtures.len(),
    })
}

fn explain(args: &ExplainArgs, settings: &Settings, out: &mut dyn Write) -> Result<Ending> {
    let path = Path::new(&args.what);
    let playbook = if path.is_file() {
        topology::playbook_file(path)?
    } else {
        let all = load(None, settings)?;
        let names: Vec<&str> = all.iter().map(|p| p.id.as_str()).collect();
        let at = all.iter().position(|p| p.id == args.what);
        let at = at.with_context(|| format!("no playbook `{}`; there are: {}", args.what, names.join(", ")))?;
        all.into_iter().nth(at).context("it was there")?
    };
    let price = Price::of(&playbook);
    let text = format!("{}\n  It costs {}.\n", playbook.read_aloud(), price.describe(&playbook));
    let mut value = summary(&playbook);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("text".to_owned(), text.clone().into());
        fields.insert("price".to_owned(), json!({ "rows": price.rows, "bytes": price.bytes }));
    }
    args.output.write(out, &value, &text)?;
    Ok(Ending::Well)
}

/// How a fixture ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Played {
    pub playbook: String,
    pub fixture: String,
    pub passed: bool,
    /// What came of it, in words.
    pub what: String,
}

fn test(args: &FolderArgs, settings: &Settings, out: &mut dyn Write) -> Result<Ending> {
    let playbooks = load(args.path.as_deref(), settings)?;
    let mut played = Vec::new();
    for playbook in &playbooks {
        for fixture in &playbook.fixtures {
            played.push(play(playbook, fixture)?);
        }
    }
    if played.is_empty() {
        bail!("no playbook has `fixtures`; add some, so that a change that breaks it is seen before it is made");
    }
    let mut text = String::new();
    for one in &played {
        let mark = if one.passed { "ok  " } else { "FAIL" };
        writeln!(text, "{mark} {}: {} ({})", one.playbook, one.fixture, one.what)?;
    }
    let without = playbooks.iter().filter(|p| p.fixtures.is_empty() && p.mode != PlaybookMode::Off).count();
    let failed = played.iter().filter(|one| !one.passed).count();
    writeln!(text, "{} fixtures, {failed} failed; {without} playbooks without any.", played.len())?;
    args.output.write(out, &json!({ "fixtures": played, "failed": failed, "without": without }), &text)?;
    Ok(if failed == 0 { Ending::Well } else { Ending::Different })
}

/// When fixtures begin: the night of the story.
const START: Millis = 1_561_682_400_000;

/// Plays one fixture with its playbook alone.
///
/// # Errors
/// The playbook does not compile, or a time of the fixture does not read.
pub fn play(playbook: &Playbook, fixture: &Fixture) -> Result<Played> {
    let live = Playbook { mode: PlaybookMode::Live, ..playbook.clone() };
    let env = Arc::new(Env {
        plan: Plan::compile(std::slice::from_ref(&live))?,
        playbooks: [live].into(),
        exemptions: Arc::new(Exemptions::default()),
        hash_key: crate::window::HashKey::new(*b"fixtures of play"),
        limits: Limits::default(),
        tenants: Vec::new(),
    });
    let networks = bundled_networks()?;
    let mut pipeline = Pipeline::new(env);
    if let Some(state) = fixture.state.filter(|state| *state != AttackState::Calm) {
        let status = StatusChange {
            state,
            challenge: ChallengePolicy::Nobody,
            since: START,
            expires_at: Millis::MAX,
            // As many bad attempts as good ones.
            odds_permille: 1_000,
            traits: Vec::new(),
            withdrawn: Vec::new(),
            entered_permille: 0,
            incident_id: None,
        };
        drop(pipeline.control(START, |version| ControlChange::Status {
            version,
            tenant: "shop".into(),
            status: Some(status),
        }));
    }
    let (mut at, mut number, mut fired) = (START, 0_u32, Vec::new());
    for step in &fixture.steps {
        let time = |text: &str| if text == "0s" { Some(0) } else { parse_duration(text) };
        if let Some(text) = &step.at {
            at = START + time(text).with_context(|| format!("at: {text}"))?;
        }
        let every = match &step.every {
            Some(text) => time(text).with_context(|| format!("every: {text}"))?,
            None => 1_000,
        };
        for n in 1..=step.n {
            number += 1;
            let bytes = event(step, number, n, at)?;
            let raw = Raw {
                value: Some(&bytes),
                schema_header: None,
                writer: None,
                traceparent: None,
                timestamp: at,
                clock: at,
                tenant: None,
                networks: Some(&networks),
            };
            fired.extend(verdicts(&playbook.id, pipeline.feed(raw), number)?);
            at += every;
        }
    }
    fired.extend(verdicts(&playbook.id, pipeline.advance(at + 2_000), number)?);
    Ok(judged(playbook, fixture, &fired, number))
}

/// Value of each live verdict of the playbook, and at which event it came.
fn verdicts(id: &str, emitted: Vec<Emission>, number: u32) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for emission in emitted {
        match emission.output {
            Out::Verdict(verdict) if verdict.playbook == id && verdict.mode == Mode::Live => {
                found.push((number, verdict.value.clone()));
            }
            Out::DeadLetter(letter) => bail!("event {number}: {}", letter.reject),
            Out::Verdict(_)
            | Out::Item { .. }
            | Out::MarkAll { .. }
            | Out::Block(_)
            | Out::Playbook(_)
            | Out::KnownPair(_)
            | Out::Status(_)
            | Out::Detail(_)
            | Out::Activity(_)
            | Out::Incident(_) => {}
        }
    }
    Ok(found)
}

fn judged(playbook: &Playbook, fixture: &Fixture, fired: &[(u32, String)], events: u32) -> Played {
    let upon = |value: &str| fired.iter().filter(|(_, found)| found == value).map(|(number, _)| *number).next();
    let first = match &fixture.value {
        Some(value) => upon(value),
        None => fired.first().map(|(number, _)| *number),
    };
    let passed = match (fixture.fires, first, fixture.at_event) {
        (true, Some(first), Some(at)) => first == at,
        (fires, first, _) => fires == first.is_some(),
    };
    let what = match first {
        Some(first) => format!("fired at event {first} of {events}"),
        None if fired.is_empty() => format!("{events} events, silent"),
        None => format!("fired, but upon {}", fired.first().map_or("nobody", |(_, value)| value)),
    };
    Played { playbook: playbook.id.clone(), fixture: fixture.name.clone(), passed, what }
}

/// The event as JSON, `{n}` filled in.
fn event(step: &crate::topology::Step, number: u32, n: u32, at: Millis) -> Result<Vec<u8>> {
    let mut fields = serde_json::Map::new();
    let defaults = [
        ("event_id", json!(format!("e{number}"))),
        ("tenant", json!("shop")),
        ("account", json!(format!("account{n}@example.org"))),
        ("outcome", json!("FAILURE")),
        ("source_ip", json!("203.0.113.7")),
        ("occurred_at", json!(at)),
    ];
    fields.extend(defaults.map(|(name, value)| (name.to_owned(), value)));
    for (name, value) in &step.event {
        let value = match value.as_str() {
            Some(text) => Value::String(text.replace("{n}", &n.to_string())),
            None => value.clone(),
        };
        fields.insert(name.clone(), value);
    }
    Ok(serde_json::to_vec(&fields)?)
}
