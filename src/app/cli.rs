//! The command line: what can be said, and who carries it out.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, Subcommand};

use super::backtest::BacktestArgs;
use super::clock::ProcessClock;
use super::commands::{AllowArgs, BlockArgs, KillSwitchArgs, UnblockArgs, UndoArgs, WatchArgs};
use super::console::{ConsoleArgs, ConsoleContext};
use super::demo::DemoArgs;
use super::edge::{EdgeArgs, EdgeContext};
use super::explain::ExplainArgs;
use super::incident::IncidentArgs;
use super::ingest::{IngestArgs, IngestContext};
use super::lookup::LookupArgs;
use super::notify::{NotifyArgs, NotifyCommand, NotifyContext, NotifyWatched};
use super::playbooks::PlaybooksArgs;
use super::produce::ProduceArgs;
use super::receipts::ReceiptOptions;
use super::replay::ReplayArgs;
use super::run::{RunArgs, stop_on_signals};
use super::score::ScoreArgs;
use super::settings::{Overrides, Places, Settings};
use super::simulate::SimulateArgs;
use super::sink::{SinkArgs, SinkCommand, SinkContext, Watched};
use super::state::{StateArgs, StateCommand, StateContext};
use super::status::StatusArgs;
use super::tail::TailArgs;
use super::telemetry::{self, LogFormat};
use super::topics::TopicsArgs;
use super::{
    Connection, Ending, backtest, commands, console, demo, edge, explain, incident, ingest, lookup, networks, notify,
    playbooks, produce, replay, run, score, simulate, sink, sink_status, state, status, tail, topics, topology,
};
use crate::console::{Shown, routes};
use crate::edge::server::Rate;
use crate::log::Clock;
use crate::log::registry::RegistryOptions;

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
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    /// Make the topics of `topology/topics.yaml`, or compare them with what is there
    Topics(TopicsArgs),
    State(StateArgs),
    /// Keep an edge equal to the blocklist
    Sink(SinkArgs),
    Edge(EdgeArgs),
    Ingest(IngestArgs),
    Console(ConsoleArgs),
    Notify(NotifyArgs),
    Explain(ExplainArgs),
    Lookup(LookupArgs),
    Incident(IncidentArgs),
    Status(StatusArgs),
    Tail(TailArgs),
    Block(BlockArgs),
    Unblock(UnblockArgs),
    Allow(AllowArgs),
    Watch(WatchArgs),
    KillSwitch(KillSwitchArgs),
    Undo(UndoArgs),
    /// Publish login events of a file
    Produce(ProduceArgs),
    Replay(ReplayArgs),
    Backtest(BacktestArgs),
    Simulate(SimulateArgs),
    Demo(DemoArgs),
    Playbooks(PlaybooksArgs),
    Score(ScoreArgs),
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

fn carry_out(cli: &Cli) -> Result<Ending> {
    let load = |over: Overrides| Settings::load(&cli.places, over).map_err(Wrong);
    let plain = || load(Overrides::default());
    let clock = ProcessClock::real();
    let mut out = std::io::stdout();
    let has_colours = out.is_terminal();
    match &cli.command {
        Command::Run(args) => {
            let over = Overrides {
                state_dir: args.state_dir.clone(),
                listen: args.listen.clone(),
                threads: args.threads,
                leave_on_stop: args.leave_on_stop,
                no_warm_up: args.no_warm_up,
                skip_lost_input: args.skip_lost_input,
            };
            run::run(args, load(over)?, stop_on_signals()?)?;
            Ok(Ending::Well)
        }
        Command::Score(args) => score::run(args, &plain()?, &mut out),
        Command::Topics(args) => topics::run(args, &connection(&plain()?)?, &mut out),
        Command::Playbooks(args) => {
            let settings = plain()?;
            let done = playbooks::run(args, &settings, || connection(&settings), || clock.now(), &mut out);
            done.map_err(wrong_or_refused)
        }
        Command::State(args) => {
            let settings = plain()?;
            let env = topology::env(&settings, None).map_err(Wrong)?;
            let context = StateContext { state_dir: &settings.state_dir, env: &env };
            match &args.command {
                StateCommand::Inspect(args) => state::inspect(args, &context, &mut out),
                StateCommand::Verify(args) => {
                    state::verify(args, &context, &connection(&settings)?, || clock.now(), &mut out)
                }
            }
        }
        Command::Sink(SinkArgs { what: SinkCommand::Status(args), .. }) => {
            let settings = plain()?;
            let exemptions = topology::exemptions(&settings).map_err(Wrong)?;
            sink_status::run(args, &connection(&settings)?, exemptions, || clock.now(), has_colours, &mut out)
        }
        Command::Sink(SinkArgs { what: SinkCommand::Edge(edge), listen }) => {
            let over = Overrides { listen: listen.clone(), ..Overrides::default() };
            let settings = load(over)?;
            let watched = Arc::new(Watched::default());
            if let Some(listen) = &settings.listen {
                let shown = Arc::clone(&watched) as Arc<dyn Shown>;
                let address = telemetry::serve(listen, telemetry::metrics()?, shown)?;
                tracing::info!(%address, "serving /metrics, /livez, /readyz and /status");
            }
            let context = SinkContext {
                connection: &connection(&settings)?,
                exemptions: topology::exemptions(&settings).map_err(Wrong)?,
                clock: || clock.now(),
                stop: &*stop_on_signals()?,
                watched: &watched,
                networks: networks::watched(&settings).map_err(Wrong)?,
                receipts: ReceiptOptions {
                    format: settings.format,
                    registry: settings.registry.as_deref().map(RegistryOptions::new),
                },
            };
            sink::run(edge, context, &mut out)
        }
        Command::Edge(args) => {
            let settings = plain()?;
            let keys = edge::keys(&args.keys, Rate { per_second: args.account_rate }).map_err(Wrong)?;
            let context = EdgeContext {
                connection: &connection(&settings)?,
                exemptions: topology::exemptions(&settings).map_err(Wrong)?,
                hash_key: settings.hash_key.clone(),
                networks: networks::watched(&settings).map_err(Wrong)?,
                clock: Arc::new(move || clock.now()),
                stop: stop_on_signals()?,
            };
            let page = |shown| Ok(routes(telemetry::metrics()?, shown));
            edge::run(args, keys, context, page, |address| {
                tracing::info!(%address, "answering /v1/check, /v1/attack-status, and /metrics, /livez, /readyz, /status");
            })
        }
        Command::Ingest(args) => {
            let settings = plain()?;
            let adapters = ingest::adapters(args.mappings.as_deref()).map_err(Wrong)?;
            let context = IngestContext {
                connection: &connection(&settings)?,
                sources: ingest::sources(args, &adapters).map_err(Wrong)?,
                adapters,
                clock: Arc::new(clock),
                stop: stop_on_signals()?,
            };
            let page = |shown| Ok(routes(telemetry::metrics()?, shown));
            ingest::run(args, context, page, |address| {
                tracing::info!(%address, "taking login events at /v1/events; /v1/openapi.json says how");
            })
        }
        Command::Console(args) => {
            let settings = plain()?;
            let context = ConsoleContext {
                connection: &connection(&settings)?,
                settings: &settings,
                exemptions: topology::exemptions(&settings).map_err(Wrong)?,
                clock: Arc::new(clock),
                stop: stop_on_signals()?,
            };
            let page = |shown| Ok(routes(telemetry::metrics()?, shown));
            console::run(args, console::admitted(args).map_err(Wrong)?, context, page, |address| {
                tracing::info!("the console is at http://{address}");
            })
        }
        Command::Notify(args) => {
            let told = || notify::settings(args).map_err(Wrong);
            let now = || clock.now();
            match &args.what {
                Some(NotifyCommand::Templates(args)) => notify::templates(args, &mut out),
                Some(NotifyCommand::Test(named)) => {
                    notify::test(args, named, told()?, &now, &mut out).map_err(wrong_or_refused)
                }
                None => {
                    let over = Overrides {
                        state_dir: args.state_dir.clone(),
                        listen: args.listen.clone(),
                        ..Overrides::default()
                    };
                    let (settings, watched) = (load(over)?, Arc::new(NotifyWatched::default()));
                    if let Some(listen) = settings.listen.as_ref().filter(|_| !args.dry_run) {
                        let shown = Arc::clone(&watched) as Arc<dyn Shown>;
                        let address = telemetry::serve(listen, telemetry::metrics()?, shown)?;
                        tracing::info!(%address, "serving /metrics, /livez, /readyz and /status");
                    }
                    let context = NotifyContext {
                        connection: &connection(&settings)?,
                        state_dir: &settings.state_dir,
                        clock: Arc::new(move || clock.now()),
                        stop: stop_on_signals()?,
                        watched,
                    };
                    notify::run(args, told()?, context, &mut out)
                }
            }
        }
        Command::Explain(args) => {
            let settings = plain()?;
            let exemptions = topology::exemptions(&settings).map_err(Wrong)?;
            let done = explain::run(args, &connection(&settings)?, exemptions, || clock.now(), &mut out);
            done.map_err(wrong_or_refused)
        }
        Command::Lookup(args) => lookup::run(args, &plain()?, &mut out).map_err(|error| Wrong(error).into()),
        Command::Incident(args) => {
            let done = incident::run(args, &connection(&plain()?)?, || clock.now(), has_colours, &mut out);
            done.map_err(wrong_or_refused)
        }
        Command::Status(args) => {
            let settings = plain()?;
            let exemptions = topology::exemptions(&settings).map_err(Wrong)?;
            status::run(args, &connection(&settings)?, exemptions, || clock.now(), has_colours, &mut out)
        }
        Command::Tail(args) => {
            let done = tail::run(args, &connection(&plain()?)?, &*stop_on_signals()?, has_colours, &mut out);
            done.map_err(wrong_or_refused)
        }
        Command::Block(args) => commands::block(args, &connection(&plain()?)?, clock.now(), &mut out),
        Command::Unblock(args) => commands::unblock(args, &connection(&plain()?)?, clock.now(), &mut out),
        Command::Allow(args) => commands::allow(args, &connection(&plain()?)?, clock.now(), &mut out),
        Command::Watch(args) => commands::watch(args, &connection(&plain()?)?, clock.now(), &mut out),
        Command::KillSwitch(args) => commands::kill_switch(args, &connection(&plain()?)?, clock.now(), &mut out),
        Command::Undo(args) => {
            let settings = plain()?;
            commands::undo(args, &settings, &connection(&settings)?, || clock.now(), &mut out)
        }
        Command::Produce(args) => {
            produce::run(args, &connection(&plain()?)?, || clock.now(), &*stop_on_signals()?, &mut out)
        }
        Command::Replay(args) => {
            let summary = replay::replay(args, &plain()?)?;
            args.answer.write(&mut out, &summary, &summary.to_string())?;
            Ok(Ending::Well)
        }
        Command::Backtest(args) => {
            let settings = plain()?;
            let topic = topology::topics(&settings).map_err(Wrong)?.public("login-events");
            let clock: Arc<dyn Clock> = Arc::new(clock);
            let done = backtest::run(args, &settings, (&settings.client, &topic), &clock, &mut out);
            done.map_err(wrong_or_refused)
        }
        Command::Simulate(args) if args.publish => {
            let summary = simulate::publish(args, &connection(&plain()?)?, &clock, &*stop_on_signals()?)?;
            args.output.write(&mut out, &summary, &summary.tally.to_string())?;
            Ok(Ending::Well)
        }
        Command::Simulate(args) => {
            let report = simulate::simulate(args, &topology::env(&plain()?, None).map_err(Wrong)?)?;
            // The events may be on standard output; then what is said about them goes where people look.
            if args.out.as_deref().is_some_and(|out| out.as_os_str() == "-") {
                args.output.write(&mut std::io::stderr(), &report, &report.to_string())?;
            } else {
                args.output.write(&mut out, &report, &report.to_string())?;
            }
            Ok(Ending::Well)
        }
        Command::Demo(args) => demo::run(args, plain()?, stop_on_signals()?, &mut out),
        Command::Topology => {
            let settings = plain()?;
            let folder = settings.topology.as_ref().map(|folder| folder.join("playbooks"));
            let playbooks = topology::playbooks(folder.as_deref()).map_err(Wrong)?;
            topology::env(&settings, None).map_err(Wrong)?;
            let topics = topology::topics(&settings).map_err(Wrong)?;
            out.write_all(crate::topology::describe(&topics, &playbooks).as_bytes())?;
            Ok(Ending::Well)
        }
    }
}

/// What is wrong with what was asked for; what a cluster says is no mistake of that kind.
fn wrong_or_refused(error: anyhow::Error) -> anyhow::Error {
    if error.is::<crate::log::Error>() { error } else { Wrong(error).into() }
}

fn connection(settings: &Settings) -> Result<Connection> {
    Ok(Connection { client: settings.client.clone(), topics: topology::topics(settings).map_err(Wrong)? })
}

fn ended(result: &Result<Ending>) -> ExitCode {
    let error = match result {
        Ok(ending) => return ExitCode::from(ending.code()),
        Err(error) => error,
    };
    // On a full disk the log has no room for it either.
    drop(writeln!(std::io::stderr(), "portcullis: {error:#}"));
    match error.downcast_ref::<crate::log::Error>() {
        Some(crate::log::Error::Fenced(_)) => ExitCode::from(4),
        Some(crate::log::Error::Setup(_)) => ExitCode::from(2),
        Some(crate::log::Error::Kafka(_) | crate::log::Error::State(_) | crate::log::Error::Panicked { .. }) => {
            ExitCode::FAILURE
        }
        None if error.is::<Wrong>() => ExitCode::from(2),
        None => ExitCode::FAILURE,
    }
}
