//! `portcullis score`: every shape of attack and of harmless trouble, with several seeds, in numbers side by side. Of the
//! seeds the worst counts. Beside the playbooks play what people use today, on the same events and each in a loop of its own:
//! what it would have stopped is stopped.

mod rivals;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use self::rivals::{Played, Rival};
use super::settings::Settings;
use super::simulate::{Core, CoreFigures, Lines, Watch, play};
use super::{Ending, Output, topology};
use crate::engine::Env;
use crate::event::Millis;
use crate::ingest::simulate::{Attacker, Edge, Options, Scenario, Simulation, Site, Summary};
use crate::topology::parse_duration;

/// Most seeds of one run.
const SEEDS_MAX: u64 = 100;

/// Play every scenario with several seeds and show how the playbooks fare, the worst seed of each
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  portcullis score --seeds 5\n  portcullis score --scenario night --scenario v6-48 --against mine=my-playbooks --alone\n\nFor Portcullis and the oracle the site is a login page that refuses and challenges before it checks a password, and\nknows whom it knows. fail2ban (5 failures in 10 minutes, 10 minutes) and CrowdSec (a bucket of 5 that leaks one in 10 s,\n4 hours) refuse whoever comes from an address. The oracle knows every address of the attack before it comes. Every\ndecision is a second under way."
)]
pub struct ScoreArgs {
    /// Scenarios to play [default: all]
    #[arg(long = "scenario", value_name = "NAME", value_parser = scenarios())]
    pub scenarios: Vec<Scenario>,
    /// How many seeds, from 1 on
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=SEEDS_MAX))]
    pub seeds: u64,
    /// For how long the site has run before
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = duration)]
    pub history: Millis,
    /// Ordinary traffic before what a scenario is about; from 2h on a site's usual is settled
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub lead_in: Millis,
    /// How the attacker reacts to being stopped
    #[arg(long, default_value_t = Attacker::Fixed, value_parser = attackers())]
    pub attacker: Attacker,
    /// Other playbooks to play beside, by a name of your own
    #[arg(long, value_name = "NAME=DIR")]
    pub against: Vec<String>,
    /// Without fail2ban, CrowdSec and the oracle beside
    #[arg(long)]
    pub alone: bool,
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Output,
}

fn scenarios() -> impl clap::builder::TypedValueParser<Value = Scenario> {
    PossibleValuesParser::new(Scenario::ALL.iter().map(|s| s.as_str())).try_map(|name| name.parse::<Scenario>())
}

fn attackers() -> impl clap::builder::TypedValueParser<Value = Attacker> {
    PossibleValuesParser::new(Attacker::ALL.iter().map(|a| a.as_str())).try_map(|name| name.parse::<Attacker>())
}

fn duration(text: &str) -> Result<Millis, String> {
    parse_duration(text).ok_or_else(|| "no duration such as 3h or 14d".to_owned())
}

/// How a set of playbooks fared in a scenario: over the seeds, the worst of each figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    pub scenario: &'static str,
    pub playbooks: String,
    pub seeds: usize,
    /// Attempts of the attack; 0 where there is none.
    pub attempts: u64,
    /// In how many seeds a campaign was told; where there is no attack, falsely.
    pub found: usize,
    /// Attempts and seconds of the attack before that, the worst seed; `None` when some seed never told.
    pub found_after_attempts: Option<u64>,
    pub found_after_s: Option<f64>,
    /// The first attempt of the attack that was stopped: how many came before it, and seconds; `None`: in some seed none was.
    pub stopped_after_attempts: Option<u64>,
    pub stopped_after_s: Option<f64>,
    /// Shares of the attack that were stopped: of all, in the seed where it was least, and of that what was refused and what
    /// was challenged; and of what came after it was found.
    pub stopped: f64,
    pub refused: f64,
    pub challenged_attack: f64,
    pub stopped_after_found: Option<f64>,
    /// Sources of the attack that were refused, over all of them.
    pub sources_refused: f64,
    /// Sources of the attack among those that were blocked; and of those that tried twice or more, the blocked ones.
    pub precision: Option<f64>,
    pub recall: Option<f64>,
    /// Accounts that were entered, and those of them that were flagged, over all seeds.
    pub fallen: usize,
    pub flagged: usize,
    /// Seconds from the success to its flag, at worst.
    pub flagged_after_s: Option<f64>,
    /// Honest logins that were denied and challenged; those of known pairs that were denied, over all seeds.
    pub denied: f64,
    pub challenged: f64,
    pub challenged_under_challenge: f64,
    pub known_denied: u64,
    pub incidents: u64,
}

impl Score {
    fn of(scenario: Scenario, playbooks: &str, runs: &[(Summary, CoreFigures)]) -> Score {
        let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
        let tallies = || runs.iter().map(|(summary, _)| &summary.tally);
        let worst = |figures: &mut dyn Iterator<Item = f64>| figures.fold(0.0, f64::max);
        let least = |figures: &mut dyn Iterator<Item = f64>| figures.fold(1.0, f64::min);
        let is_attack = tallies().any(|tally| tally.attack.all() > 0);
        let all_found = is_attack && tallies().all(|tally| tally.found_after.is_some());
        let all_stopped = is_attack && tallies().all(|tally| tally.attack_stopped_at.is_some());
        let worst_stopped = tallies()
            .filter(|tally| tally.attack.all() > 0)
            .min_by(|a, b| a.attack.stopped_share().total_cmp(&b.attack.stopped_share()));
        let began = |summary: &Summary| summary.tally.first_attack_at;
        let found_after_s = |summary: &Summary| Some((summary.tally.found_at? - began(summary)?) as f64 / 1000.0);
        let fallen = || tallies().flat_map(|tally| &tally.fallen);
        let flagged_after = |fallen: &crate::ingest::simulate::Fallen| {
            Some((fallen.flagged_at? - fallen.at.max(fallen.source_blocked_at.unwrap_or(fallen.at))) as f64 / 1000.0)
        };
        Score {
            scenario: scenario.as_str(),
            playbooks: playbooks.to_owned(),
            seeds: runs.len(),
            attempts: tallies().map(|tally| tally.attack.all()).max().unwrap_or(0),
            found: tallies().filter(|tally| tally.found_at.is_some()).count(),
            found_after_attempts: tallies().filter_map(|tally| tally.found_after).max().filter(|_| all_found),
            found_after_s: runs
                .iter()
                .filter_map(|(summary, _)| found_after_s(summary))
                .reduce(f64::max)
                .filter(|_| all_found),
            stopped_after_attempts: tallies()
                .filter(|tally| tally.attack_stopped_at.is_some())
                .map(|tally| tally.attack_stopped_after)
                .max()
                .filter(|_| all_stopped),
            stopped_after_s: runs
                .iter()
                .filter_map(|(summary, _)| Some((summary.tally.attack_stopped_at? - began(summary)?) as f64 / 1000.0))
                .reduce(f64::max)
                .filter(|_| all_stopped),
            refused: worst_stopped.map_or(0.0, |tally| share(tally.attack.blocked, tally.attack.all())),
            challenged_attack: worst_stopped.map_or(0.0, |tally| share(tally.attack.challenged, tally.attack.all())),
            precision: tallies().filter_map(crate::ingest::simulate::Tally::precision).reduce(f64::min),
            recall: tallies().filter_map(crate::ingest::simulate::Tally::recall).reduce(f64::min),
            stopped: if is_attack { least(&mut tallies().map(|tally| tally.attack.stopped_share())) } else { 0.0 },
            stopped_after_found: all_found
                .then(|| least(&mut tallies().map(|tally| tally.attack_after_found.stopped_share()))),
            sources_refused: if is_attack {
                least(&mut tallies().map(|tally| share(tally.sources_refused, tally.sources)))
            } else {
                0.0
            },
            fallen: fallen().count(),
            flagged: fallen().filter(|fallen| fallen.flagged_at.is_some()).count(),
            flagged_after_s: fallen().filter_map(flagged_after).reduce(f64::max),
            denied: worst(&mut tallies().map(|tally| share(tally.logins.denied, tally.logins.all))),
            challenged: worst(&mut tallies().map(|tally| share(tally.logins.challenged, tally.logins.all))),
            challenged_under_challenge: worst(
                &mut tallies()
                    .map(|tally| share(tally.logins_under_challenge.challenged, tally.logins_under_challenge.all)),
            ),
            known_denied: tallies().map(|tally| tally.logins.known_denied).sum(),
            incidents: runs.iter().map(|(_, core)| core.incidents).max().unwrap_or(0),
        }
    }

    fn line(&self) -> String {
        let found = match (self.attempts, self.found_after_attempts, self.found_after_s) {
            (0, _, _) if self.found == 0 => "no attack".to_owned(),
            (0, _, _) => format!("FALSE {}/{}", self.found, self.seeds),
            (_, Some(attempts), Some(seconds)) => format!("{attempts} in {seconds:.0} s"),
            _ if self.found == 0 => "-".to_owned(),
            _ => format!("{}/{} seeds", self.found, self.seeds),
        };
        let first = match (self.stopped_after_attempts, self.stopped_after_s) {
            (Some(attempts), Some(seconds)) => format!("{attempts} in {seconds:.0} s"),
            _ => "-".to_owned(),
        };
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        let of_attack = |figure: f64| if self.attempts == 0 { "-".to_owned() } else { percent(figure) };
        let maybe = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), percent);
        let fallen = match self.fallen {
            0 => "-".to_owned(),
            all => format!("{}/{all}", self.flagged),
        };
        let flagged_after = self.flagged_after_s.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
        format!(
            "{:<16} {:<11} {found:>15} {first:>15} {:>8} {:>8} {:>8} {:>6} {:>6} {fallen:>9} {flagged_after:>8} {:>8} \
             {:>6} {:>9} {:>9}",
            self.scenario,
            self.playbooks.chars().take(11).collect::<String>(),
            of_attack(self.refused),
            of_attack(self.challenged_attack),
            maybe(self.stopped_after_found),
            maybe(self.precision),
            maybe(self.recall),
            format!("{:.3}", self.denied * 100.0),
            self.known_denied,
            percent(self.challenged),
            percent(self.challenged_under_challenge),
        )
    }
}

const HEAD: &str = concat!(
    "                             ------ of the attack, until -----  ------ % of it ------  -- sources, % --",
    "  --- entered ---  ------ honest logins, % ------\n",
    "scenario         by                    found   first stopped  refused challngd after it  prec. recall",
    "   flagged  after s   denied  known  challngd while on",
);

struct Unwatched;

impl Watch for Unwatched {
    fn is_at(&mut self, _: Millis, _: Millis, _: &Site) {}

    fn done(&mut self) {}
}

/// Who decides what is stopped.
#[derive(Debug)]
enum Player {
    Playbooks(Arc<Env>),
    Rival(Rival),
}

/// One scenario, seed and set of playbooks.
#[derive(Debug, Clone)]
struct Job {
    scenario: Scenario,
    seed: u64,
    set: usize,
}

/// Plays all of it.
///
/// # Errors
/// Playbooks do not read, or a simulation cannot be made.
pub fn run(args: &ScoreArgs, settings: &Settings, out: &mut dyn Write) -> Result<Ending> {
    let mut sets = vec![("portcullis".to_owned(), Player::Playbooks(topology::env(settings, None)?))];
    for against in &args.against {
        let (name, folder) = against.split_once('=').with_context(|| format!("--against {against}: write NAME=DIR"))?;
        if sets.iter().any(|(held, _)| held == name) {
            bail!("--against {against}: the name `{name}` is taken");
        }
        let env = topology::env(settings, Some(PathBuf::from(folder).as_path()))?;
        sets.push((name.to_owned(), Player::Playbooks(env)));
    }
    if !args.alone {
        sets.extend(Rival::ALL.map(|rival| (rival.as_str().to_owned(), Player::Rival(rival))));
    }
    let scenarios = if args.scenarios.is_empty() { Scenario::ALL.to_vec() } else { args.scenarios.clone() };
    let jobs: Vec<Job> = scenarios
        .iter()
        .flat_map(|scenario| (0..sets.len()).map(move |set| (*scenario, set)))
        .flat_map(|(scenario, set)| (1..=args.seeds).map(move |seed| Job { scenario, seed, set }))
        .collect();
    let played = play_all(&jobs, args, &sets)?;
    let mut scores = Vec::new();
    for scenario in &scenarios {
        for (set, (name, _)) in sets.iter().enumerate() {
            let runs: Vec<(Summary, CoreFigures)> = jobs
                .iter()
                .zip(&played)
                .filter(|(job, _)| job.scenario == *scenario && job.set == set)
                .map(|(_, run)| run.clone())
                .collect();
            scores.push(Score::of(*scenario, name, &runs));
        }
    }
    let mut text = format!("attacker {}, {} seeds, the worst of each\n{HEAD}\n", args.attacker, args.seeds);
    for score in &scores {
        writeln!(text, "{}", score.line())?;
    }
    args.output.write(out, &scores, &text)?;
    Ok(Ending::Well)
}

/// On all cores; results in the order of the jobs.
fn play_all(jobs: &[Job], args: &ScoreArgs, sets: &[(String, Player)]) -> Result<Vec<(Summary, CoreFigures)>> {
    let bar = bar(jobs.len());
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<(Summary, CoreFigures)>>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((at, job)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, jobs.get(at)?)))
                {
                    let played = play_one(job, args, sets);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(at, played);
                    bar.inc(1);
                    bar.set_message(job.scenario.as_str());
                    if bar.is_hidden() {
                        tracing::info!(scenario = %job.scenario, seed = job.seed, done = done.len(), of = jobs.len(), "played");
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_values().collect()
}

fn bar(jobs: usize) -> ProgressBar {
    let is_watched = std::io::stderr().is_terminal();
    let target = if is_watched { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(jobs as u64), target);
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len}  {msg}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn play_one(job: &Job, args: &ScoreArgs, sets: &[(String, Player)]) -> Result<(Summary, CoreFigures)> {
    let (_, player) = sets.get(job.set).ok_or_else(|| anyhow!("no such set"))?;
    let options =
        Options { attacker: args.attacker, history_ms: args.history, lead_in_ms: args.lead_in, ..Options::default() };
    let mut simulation = Simulation::new(job.scenario, job.seed, options)?;
    match player {
        Player::Playbooks(env) => {
            let mut site = simulation.site(Edge::LoginPage);
            let mut core = Core::new(Arc::clone(env), DELAY_MS);
            let summary = play(&mut simulation, &mut site, &mut core, &mut Lines::none(), &mut Unwatched)?;
            Ok((summary, core.figures()))
        }
        Player::Rival(rival) => {
            let mut site = rival.site(&simulation);
            let mut played = Played::new(*rival, DELAY_MS);
            let summary = play(&mut simulation, &mut site, &mut played, &mut Lines::none(), &mut Unwatched)?;
            Ok((summary, CoreFigures::default()))
        }
    }
}

/// How long a decision takes to reach the site.
const DELAY_MS: Millis = 1_000;
