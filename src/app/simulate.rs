//! `portcullis simulate`: traffic made up from a seed, against a site that obeys what the core decides.
//!
//! [`play`] is the whole loop. Where the blocks and statuses come from is a [`Feedback`]: [`Core`] is the core itself in
//! this process, without Kafka and with the delay that an edge would have; over Kafka it is whoever publishes the events
//! and reads the topics back.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Connection;
use super::clock::ProcessClock;
use super::live::Live;
use super::replay::raw;
use crate::engine::{Emission, Env, Output, Pipeline};
use crate::event::wire::{format_millis, login_event_to_json};
use crate::event::{AttackStatus, BlocklistEntry, IncidentState, Millis};
use crate::ingest::simulate::{
    Attacker, Edge, HISTORY_MAX_MS, Options, Planned, Road, Scenario, Simulation, Site, Summary, TruthLine,
};
use crate::log::Clock as _;
use crate::topology::{format_duration, parse_duration};

const EXAMPLES: &str = "\
Examples:
  portcullis simulate night --seed 7 --history 14d --out night.jsonl --truth truth.jsonl
  portcullis simulate night --publish --lead-in 8m --after 5m
  portcullis simulate one-per-address --attacker rotate --edge login-page
  portcullis simulate ordinary --length 6h --out - | portcullis replay --events - --out replayed";

/// Makes login events of an attack, or of an ordinary day, from a seed: the same seed gives the same bytes.
///
/// The loop is closed: the simulated site refuses and challenges as the core decides, stopped attempts become BLOCKED
/// and CHALLENGED events, and the attacker may react. Prints what was stopped and what slipped through.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// What to simulate
    #[arg(value_parser = scenarios())]
    pub scenario: Scenario,
    /// Everything follows from this number
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Where the events go, one JSON object a line; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Publish to the topic login-events instead, as time passes, and obey the topics blocklist and attack-status
    #[arg(long, conflicts_with_all = ["out", "delay"])]
    pub publish: bool,
    /// Where the truth goes: a line for each event, with who it was and how it would have ended
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// For how long the site has run before, so that people are known: 14d, say (at most 45d)
    #[arg(long, value_name = "TIME", value_parser = history)]
    pub history: Option<Millis>,
    /// How the attacker reacts to being stopped
    #[arg(long, default_value_t = Attacker::Fixed, value_parser = attackers())]
    pub attacker: Attacker,
    /// Play a fixed list: the site obeys nothing
    #[arg(long, conflicts_with = "edge")]
    pub open: bool,
    /// What stands in front of the login page: a list of addresses, as nginx has it, refuses whoever comes from one; a
    /// login page that asks for every attempt lets known pairs pass
    #[arg(long, default_value_t = Edge::AddressList, value_parser = edges())]
    pub edge: Edge,
    /// How long a decision takes to reach the site
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration_or_none)]
    pub delay: Millis,
    /// Ordinary traffic before what the scenario is about
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration_or_none)]
    pub lead_in: Millis,
    /// Ordinary traffic after it; CALM takes 20 minutes to return
    #[arg(long, value_name = "TIME", default_value = "25m", value_parser = duration_or_none)]
    pub after: Millis,
    /// How long that lasts, in place of the scenario's own length; the night has its own in any case
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub length: Option<Millis>,
    /// Honest logins an hour, on the mean of a day
    #[arg(long, value_name = "N", default_value_t = 36_000)]
    pub logins_per_hour: u64,
    /// The tenant of all events
    #[arg(long, default_value = "default")]
    pub tenant: String,
    #[arg(long, value_enum, default_value_t)]
    pub output: super::Output,
}

fn scenarios() -> impl TypedValueParser<Value = Scenario> {
    PossibleValuesParser::new(Scenario::ALL.iter().map(|s| s.as_str())).try_map(|name| name.parse::<Scenario>())
}

fn attackers() -> impl TypedValueParser<Value = Attacker> {
    PossibleValuesParser::new(Attacker::ALL.iter().map(|a| a.as_str())).try_map(|name| name.parse::<Attacker>())
}

fn edges() -> impl TypedValueParser<Value = Edge> {
    let closed = Edge::ALL.iter().filter(|edge| **edge != Edge::Open);
    PossibleValuesParser::new(closed.map(|e| e.as_str())).try_map(|name| name.parse::<Edge>())
}

fn duration(text: &str) -> Result<Millis, String> {
    parse_duration(text).ok_or_else(|| "no duration such as 90s, 15m, 4h or 14d".to_owned())
}

fn duration_or_none(text: &str) -> Result<Millis, String> {
    if text == "0" { Ok(0) } else { duration(text) }
}

fn history(text: &str) -> Result<Millis, String> {
    let length = duration_or_none(text)?;
    if length > HISTORY_MAX_MS {
        return Err(format!("longer than {}: a pair is known for 30 days", format_duration(HISTORY_MAX_MS)));
    }
    Ok(length)
}

impl SimulateArgs {
    /// What the site in front of the simulated people obeys.
    #[must_use]
    pub const fn edge(&self) -> Edge {
        if self.open { Edge::Open } else { self.edge }
    }

    /// The simulation that these arguments ask for, at its beginning.
    ///
    /// # Errors
    /// An option is out of bounds.
    pub fn simulation(&self) -> anyhow::Result<Simulation> {
        let options = Options {
            attacker: self.attacker,
            tenant: self.tenant.clone(),
            logins_per_hour: self.logins_per_hour,
            lead_in_ms: self.lead_in,
            after_ms: self.after,
            length_ms: self.length,
            history_ms: self.history.unwrap_or(0),
        };
        Ok(Simulation::new(self.scenario, self.seed, options)?)
    }
}

/// Where the events of a simulation go, and where its site hears of blocks and statuses.
pub trait Feedback {
    /// Makes one event public. Events come in the order of time; those before [`Simulation::from`] are history, which
    /// nobody needs to wait for.
    ///
    /// # Errors
    /// It cannot be made public, and the simulation ends.
    fn publish(&mut self, at: Millis, value: &[u8]) -> anyhow::Result<()>;

    /// Tells the site what has reached it until `at`, when the next event is due. Who plays in real time waits here.
    ///
    /// # Errors
    /// Nothing can be heard any more, and the simulation ends.
    fn tell(&mut self, at: Millis, site: &mut Site) -> anyhow::Result<()>;

    /// The last event is public; the simulation is over at `at`.
    ///
    /// # Errors
    /// Not all events are known to be public.
    fn finish(&mut self, at: Millis, site: &mut Site) -> anyhow::Result<()>;
}

/// The core in this process. A decision reaches the site a fixed time after the event that caused it.
#[derive(Debug)]
pub struct Core {
    pipeline: Pipeline,
    delay_ms: Millis,
    /// What is on its way, in order.
    on_its_way: VecDeque<(Millis, Record)>,
    figures: CoreFigures,
    incidents: BTreeSet<String>,
}

/// What the core did, besides what the site saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CoreFigures {
    pub verdicts: u64,
    pub incidents: u64,
    pub incidents_closed: u64,
    pub dead_letters: u64,
}

#[derive(Debug)]
enum Record {
    Block(String, Option<Box<BlocklistEntry>>),
    Status(Box<AttackStatus>),
}

impl Core {
    #[must_use]
    pub fn new(env: Arc<Env>, delay_ms: Millis) -> Self {
        Core {
            pipeline: Pipeline::new(env),
            delay_ms,
            on_its_way: VecDeque::new(),
            figures: CoreFigures::default(),
            incidents: BTreeSet::new(),
        }
    }

    #[must_use]
    pub const fn figures(&self) -> CoreFigures {
        self.figures
    }

    #[must_use]
    pub const fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn send(&mut self, emissions: Vec<Emission>) {
        for Emission { at, output } in emissions {
            let record = match output {
                Output::Block(change) => Record::Block(change.entity.key(), change.entry().map(Box::new)),
                Output::Status(status) => Record::Status(status),
                Output::Verdict(_) => {
                    self.figures.verdicts += 1;
                    continue;
                }
                Output::Incident(incident) => {
                    self.figures.incidents_closed += u64::from(incident.state == IncidentState::Closed);
                    self.incidents.insert(incident.incident_id);
                    self.figures.incidents = self.incidents.len() as u64;
                    continue;
                }
                Output::DeadLetter(_) => {
                    self.figures.dead_letters += 1;
                    continue;
                }
                // Between stages the pipeline keeps these to itself; and nobody changes a playbook here.
                Output::Item { .. }
                | Output::MarkAll { .. }
                | Output::Playbook(_)
                | Output::KnownPair(_)
                | Output::Detail(_)
                | Output::Activity(_) => continue,
            };
            self.on_its_way.push_back((at.saturating_add(self.delay_ms), record));
        }
    }
}

impl Feedback for Core {
    fn publish(&mut self, at: Millis, value: &[u8]) -> anyhow::Result<()> {
        let emissions = self.pipeline.feed(raw(value, at));
        self.send(emissions);
        Ok(())
    }

    fn tell(&mut self, at: Millis, site: &mut Site) -> anyhow::Result<()> {
        while self.on_its_way.front().is_some_and(|(arrives, _)| *arrives <= at) {
            match self.on_its_way.pop_front() {
                Some((_, Record::Block(key, entry))) => site.blocklist(&key, entry.as_deref()),
                Some((_, Record::Status(status))) => site.status(&status),
                None => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, at: Millis, site: &mut Site) -> anyhow::Result<()> {
        let emissions = self.pipeline.advance(at);
        self.send(emissions);
        self.tell(at.saturating_add(self.delay_ms), site)
    }
}

/// Where the lines of a simulation are written.
pub struct Lines {
    events: Option<Box<dyn Write>>,
    truth: Option<Box<dyn Write>>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines {{ events: {}, truth: {} }}", self.events.is_some(), self.truth.is_some())
    }
}

impl Lines {
    /// Nowhere.
    #[must_use]
    pub const fn none() -> Self {
        Lines { events: None, truth: None }
    }

    /// Opens the files.
    ///
    /// # Errors
    /// A file cannot be created.
    pub fn create(events: Option<&Path>, truth: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Lines { events: events.map(create).transpose()?, truth: truth.map(create).transpose()? })
    }

    fn event(&mut self, value: &[u8]) -> io::Result<()> {
        if let Some(events) = &mut self.events {
            events.write_all(value)?;
            events.write_all(b"\n")?;
        }
        Ok(())
    }

    fn truth(&mut self, planned: &Planned) -> io::Result<()> {
        if let Some(truth) = &mut self.truth {
            serde_json::to_writer(&mut *truth, &TruthLine::new(&planned.event, &planned.truth))?;
            truth.write_all(b"\n")?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        [&mut self.events, &mut self.truth].into_iter().flatten().try_for_each(Write::flush)
    }
}

fn create(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout().lock())));
    }
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
}

/// Who looks on while a simulation is played.
pub trait Watch {
    /// The simulation has come to `at`, and will end at about `ends_at`.
    fn is_at(&mut self, at: Millis, ends_at: Millis, site: &Site);

    /// It is over.
    fn done(&mut self);
}

/// Plays a simulation to its end: tell the site, let the next event happen, write it down, make it public.
///
/// # Errors
/// A line cannot be written, or the feedback ends.
pub fn play(
    simulation: &mut Simulation,
    site: &mut Site,
    feedback: &mut dyn Feedback,
    lines: &mut Lines,
    watch: &mut dyn Watch,
) -> anyhow::Result<Summary> {
    let mut road = simulation.road();
    while let Some(at) = simulation.next_at() {
        deliver(&mut road, at, site, feedback, lines)?;
        feedback.tell(at, site)?;
        let Some(planned) = simulation.next(site) else { break };
        lines.truth(&planned).context(LINES)?;
        road.send(planned.at, &planned.event.event_id, login_event_to_json(&planned.event));
        deliver(&mut road, at, site, feedback, lines)?;
        watch.is_at(planned.at, simulation.ends_at(), site);
    }
    deliver(&mut road, Millis::MAX, site, feedback, lines)?;
    feedback.finish(simulation.ends_at(), site)?;
    lines.flush().context(LINES)?;
    watch.done();
    Ok(simulation.summary(site))
}

const LINES: &str = "cannot write the simulation's lines";

/// Makes public what has come by `until`.
fn deliver(
    road: &mut Road,
    until: Millis,
    site: &mut Site,
    feedback: &mut dyn Feedback,
    lines: &mut Lines,
) -> anyhow::Result<()> {
    while let Some(delivered) = road.next(until) {
        if delivered.at < until {
            feedback.tell(delivered.at, site)?;
        }
        lines.event(&delivered.value).context(LINES)?;
        feedback.publish(delivered.at, &delivered.value)?;
    }
    Ok(())
}

/// How far a simulation is: a bar where a person watches, a line of the log now and then otherwise.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    from: Millis,
    /// Tenths of the simulated time that are told.
    told: i64,
    moved_at: Millis,
}

impl Progress {
    /// Simulated time between two movements of the bar.
    const STEP_MS: Millis = 1_000;

    /// A bar on the standard error, if that is a terminal.
    #[must_use]
    pub fn from(from: Millis) -> Self {
        let target =
            if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Progress { bar, from, told: 0, moved_at: Millis::MIN }
    }
}

impl Watch for Progress {
    fn is_at(&mut self, at: Millis, ends_at: Millis, _site: &Site) {
        if at < self.from || at.saturating_sub(self.moved_at) < Self::STEP_MS {
            return;
        }
        self.moved_at = at;
        let (done, all) = (at - self.from, (ends_at - self.from).max(1));
        if self.bar.is_hidden() {
            let tenth = done * 10 / all;
            if tenth > self.told {
                self.told = tenth;
                tracing::info!(simulated_to = format_millis(at), percent = tenth * 10, "simulating");
            }
            return;
        }
        self.bar.set_length(all.unsigned_abs());
        self.bar.set_position(done.unsigned_abs());
        self.bar.set_message(format_millis(at));
    }

    fn done(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What a simulation in this process came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub summary: Summary,
    pub core: CoreFigures,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { summary: Summary { scenario, seed, attacker, from, to, events, tally, .. }, core } = self;
        let (from, to) = (format_millis(*from), format_millis(*to));
        writeln!(f, "{scenario}, seed {seed}, attacker {attacker}: {events} events from {from} to {to}")?;
        write!(f, "{tally}")?;
        let CoreFigures { verdicts, incidents, incidents_closed, dead_letters } = core;
        writeln!(
            f,
            "core          {verdicts} verdicts, {incidents} incidents ({incidents_closed} closed), {dead_letters} dead letters"
        )
    }
}

/// Plays a scenario against the core in this process and writes files.
///
/// # Errors
/// An option is out of bounds, or a file cannot be written.
pub fn simulate(args: &SimulateArgs, env: &Arc<Env>) -> anyhow::Result<Report> {
    let mut simulation = args.simulation()?;
    let mut site = simulation.site(args.edge());
    let mut core = Core::new(Arc::clone(env), args.delay);
    let mut lines = Lines::create(args.out.as_deref(), args.truth.as_deref())?;
    let mut progress = Progress::from(simulation.from());
    let summary = play(&mut simulation, &mut site, &mut core, &mut lines, &mut progress)?;
    Ok(Report { summary, core: core.figures() })
}

/// Plays a scenario into the topic, its first ordinary login now, and hears from the topics what a real job decides.
///
/// # Errors
/// As [`simulate`], or the cluster does not answer.
pub fn publish(
    args: &SimulateArgs,
    connection: &Connection,
    clock: &ProcessClock,
    stop: &AtomicBool,
) -> anyhow::Result<Summary> {
    let mut simulation = args.simulation()?;
    let offset_ms = clock.now().saturating_sub(simulation.from());
    let mut live = Live::new(connection, clock.clone(), offset_ms, stop, None)?;
    let mut site = simulation.site(args.edge());
    let mut lines = Lines::create(None, args.truth.as_deref())?;
    let mut progress = Progress::from(simulation.from());
    play(&mut simulation, &mut site, &mut live, &mut lines, &mut progress)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::topology;
    use super::*;
    use crate::engine::Limits;
    use crate::ingest::simulate::Handled;
    use crate::topology::{Exemptions, Plan};
    use crate::window::HashKey;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn args(line: &str) -> SimulateArgs {
        Cli::try_parse_from(std::iter::once("simulate").chain(line.split(' '))).unwrap().args
    }

    /// The playbooks as shipped.
    fn env() -> Arc<Env> {
        let playbooks = topology::playbooks(None).unwrap();
        Arc::new(Env {
            plan: Plan::compile(&playbooks).unwrap(),
            playbooks: playbooks.into(),
            exemptions: Arc::new(Exemptions::default()),
            hash_key: HashKey::new([7; 16]),
            limits: Limits::default(),
            tenants: Vec::new(),
        })
    }

    #[test]
    fn arguments_are_read_and_wrong_ones_are_told_what_is_right() {
        let read = args("night --seed 7 --history 14d --attacker slow-down --lead-in 0 --edge login-page");
        assert_eq!((read.scenario, read.seed, read.history), (Scenario::Night, 7, Some(14 * 86_400_000)));
        assert_eq!((read.attacker, read.lead_in, read.edge()), (Attacker::SlowDown, 0, Edge::LoginPage));
        assert_eq!((args("ordinary --open").edge(), args("ordinary").edge()), (Edge::Open, Edge::AddressList));
        for (line, told) in [
            ("nite", "one-per-address"),
            ("night --attacker quick", "slow-down"),
            ("night --history 60d", "45d"),
            ("night --after soon", "15m"),
            ("night --edge open", "login-page"),
            ("night --open --edge login-page", "cannot be used with"),
        ] {
            let error =
                Cli::try_parse_from(std::iter::once("simulate").chain(line.split(' '))).unwrap_err().to_string();
            assert!(error.contains(told), "{line}: {error}");
        }
        let error = args("night --logins-per-hour 0").simulation().unwrap_err().to_string();
        assert_eq!(error, "logins per hour must be from 1 to 36000000");
    }

    #[test]
    fn the_night_in_a_closed_loop_is_found_stopped_and_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let (out, truth) = (folder.path().join("events.jsonl"), folder.path().join("truth.jsonl"));
        let mut args = args("night --seed 3 --history 14d --after 1m");
        (args.out, args.truth) = (Some(out.clone()), Some(truth.clone()));
        let report = simulate(&args, &env()).unwrap();
        let tally = &report.summary.tally;
        assert!(tally.attack_after_found.stopped_share() > 0.98, "{report}");
        assert!(tally.honest.stopped_share() < 0.05, "{report}");
        assert_eq!((report.core.incidents, report.core.dead_letters), (1, 0), "{report}");
        assert_eq!(tally.flagged(), tally.fallen.len(), "{report}");
        assert!(report.to_string().contains("attack        43387 attempts"), "{report}");

        let lines = |path: &Path| -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let (events, truths) = (lines(&out), lines(&truth));
        assert_eq!((events.len() as u64, truths.len()), (report.summary.events, events.len()));
        assert!(events.iter().zip(&truths).all(|(event, truth)| event["event_id"] == truth["event_id"]));
        let blocked = events.iter().filter(|event| event["outcome"] == "BLOCKED").count() as u64;
        assert_eq!(blocked, tally.attack.blocked + tally.honest.blocked);

        // The file alone, fed to the core again, brings about the same: the loop is closed by what is in the events.
        let mut again = Core::new(env(), 0);
        let mut site = Site::new("default", Edge::Open);
        for line in std::fs::read_to_string(&out).unwrap().lines() {
            let at = serde_json::from_str::<serde_json::Value>(line).unwrap()["occurred_at"].as_i64().unwrap();
            again.publish(at, line.as_bytes()).unwrap();
        }
        again.finish(report.summary.to, &mut site).unwrap();
        assert_eq!(again.figures(), report.core);
    }

    #[test]
    fn a_decision_reaches_the_site_after_its_delay() {
        let first_stopped = |delay: &str| {
            let args = args(&format!("single-source --seed 3 --after 0 --delay {delay}"));
            let mut simulation = args.simulation().unwrap();
            let (mut site, mut core) = (Site::new("default", args.edge()), Core::new(env(), args.delay));
            let mut seen = Vec::new();
            while let Some(at) = simulation.next_at() {
                core.tell(at, &mut site).unwrap();
                let planned = simulation.next(&mut site).unwrap();
                core.publish(planned.at, &login_event_to_json(&planned.event)).unwrap();
                seen.push(planned);
            }
            let blocked_at = site.tally().first_block_at.unwrap();
            let refused = seen.iter().find(|planned| planned.truth.handled == Handled::Blocked).unwrap();
            refused.at - blocked_at
        };
        assert!((0..1_000).contains(&first_stopped("0")));
        assert!((10_000..11_000).contains(&first_stopped("10s")));
    }
}
