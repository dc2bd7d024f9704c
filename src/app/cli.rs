//! The command line: what can be said, and who carries it out.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use super::replay::{ReplayArgs, replay};
use super::run::{RunArgs, run, stop_on_signals};
use super::settings::{Overrides, Places, Settings};
use super::telemetry::{self, LogFormat};
use super::topology;

/// Finds account-takeover attacks in login events on Kafka while they run, and stops them at the edge.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done · 1 failed · 2 wrong flags or settings · 3 checked, and it differs · 4 fenced by another instance"
)]
pub struct Cli {
    #[command(flatten)]
    pub places: Places,
    /// Level of log lines on standard error: error, warn, info, debug, or per target
    #[arg(long, global = true, env = "PORTCULLIS_LOG", default_value = "info", value_name = "LEVEL")]
    pub log: String,
    /// How log lines are written
    #[arg(long, global = true, env = "PORTCULLIS_LOG_FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
    /// How results are written on standard output
    #[arg(long, global = true, default_value = "text", value_enum)]
    pub output: OutputFormat,
    #[command(subcommand)]
    pub command: Command,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Replay(ReplayArgs),
    /// Show the stages, topics and playbooks that a run would use, checked against each other
    #[command(after_help = "Example:\n  portcullis topology --topology ./topology")]
    Topology,
}

/// Settings or flags are wrong: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct Wrong(anyhow::Error);

/// Parses, carries out, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = telemetry::logs(&cli.log, cli.log_format) {
        return ended(&Err(Wrong(error).into()));
    }
    ended(&carry_out(&cli))
}

fn carry_out(cli: &Cli) -> Result<()> {
    let load = |over: Overrides| Settings::load(&cli.places, over).map_err(Wrong);
    match &cli.command {
        Command::Run(args) => {
            let over = Overrides { state_dir: args.state_dir.clone(), listen: args.listen.clone(), threads: args.threads };
            run(args, load(over)?, stop_on_signals()?)
        }
        Command::Replay(args) => show(cli.output, &replay(args, &load(Overrides::default())?)?),
        Command::Topology => {
            let settings = load(Overrides::default())?;
            let folder = settings.topology.as_ref().map(|folder| folder.join("playbooks"));
            let playbooks = topology::playbooks(folder.as_deref()).map_err(Wrong)?;
            topology::env(&settings, None).map_err(Wrong)?;
            let topics = topology::topics(&settings).map_err(Wrong)?;
            say(&crate::topology::describe(&topics, &playbooks));
            Ok(())
        }
    }
}

fn show<T: Serialize + std::fmt::Display>(format: OutputFormat, result: &T) -> Result<()> {
    match format {
        OutputFormat::Text => say(&result.to_string()),
        OutputFormat::Json => say(&serde_json::to_string(result)?),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "results belong on standard output")]
fn say(text: &str) {
    println!("{}", text.trim_end());
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn ended(result: &Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("portcullis: {error:#}");
    match error.downcast_ref::<crate::log::Error>() {
        Some(crate::log::Error::Fenced(_)) => ExitCode::from(4),
        Some(crate::log::Error::Setup(_)) => ExitCode::from(2),
        Some(_) => ExitCode::FAILURE,
        None if error.is::<Wrong>() => ExitCode::from(2),
        None => ExitCode::FAILURE,
    }
}
