//! `portcullis backtest`: what playbooks would have done with the past, old ones against new ones.
//!
//! [`history`] reads a file or a range of the topic, [`ledger`] plays one set of playbooks over it and keeps account,
//! [`story`] lines incidents up, [`report`] says it, [`suggest`] looks for a threshold. Nothing here enforces anything, and
//! nothing is written to Kafka.

mod history;
pub mod ledger;
pub mod report;
pub mod story;
pub mod suggest;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use self::history::History;
pub use self::history::Record;
use self::ledger::{Ledger, Met};
use self::report::{Gathered, Report, entities};
use self::suggest::{Budget, Sweep};
use super::input::{FormatArgs, time};
use super::progress::Progress;
use super::settings::Settings;
use super::{Ending, Output, networks, topology};
use crate::engine::Env;
use crate::event::Millis;
use crate::event::wire::format_millis;
use crate::log::registry::{Registry, RegistryOptions, SharedRegistry};
use crate::log::{ClientOptions, Clock, Schemas};
use crate::topology::{Plan, PlaybookMode, check, parse_duration};

/// How often progress is shown.
const EVENTS_BETWEEN_LOOKS: u64 = 1_024;

const EXAMPLES: &str = "\
Examples:
  portcullis backtest --events last-week.jsonl --playbooks mine --against topology/playbooks --out compared
  portcullis backtest --from 7d --playbooks mine --shadow-as-live
  portcullis backtest --from 2019-06-14T00:00:00Z --to 2019-06-29T00:00:00Z --count-from 2019-06-28T00:00:00Z
  portcullis backtest --from 14d --count-from 7d --suggest-for ip-account-fanout --false-positives 1/day

What an edge stopped in the past stays stopped: the past is that of the playbooks which were live then. Exemptions are
those of the file, playbooks those of the folders; what the topics said about them is not read.";

/// Say what playbooks would have done with the past, and what others would have done, without doing anything
///
/// Reads login events of a file, or of the topic `login-events` from a time to a time, and plays two sets of playbooks over
/// them. Known pairs have to be learnt from the past itself: give it two weeks, and count the last of them (--count-from).
/// The state is held in memory.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct BacktestArgs {
    /// File to read, in the order of arrival; - for standard input
    #[arg(long, value_name = "FILE|-")]
    pub events: Option<PathBuf>,
    #[command(flatten)]
    pub format: FormatArgs,
    /// From this arrival on; without --events, on the topic. A time, or how long ago: 7d
    #[arg(long, value_name = "TIME|AGO", value_parser = when)]
    pub from: Option<When>,
    /// Up to this arrival, itself left out [default: now, or the end of the file]
    #[arg(long, value_name = "TIME|AGO", value_parser = when)]
    pub to: Option<When>,
    /// Count from this arrival on; what came before is only learnt from
    #[arg(long, value_name = "TIME|AGO", value_parser = when)]
    pub count_from: Option<When>,
    /// Folder with the new playbooks [default: those in effect]
    #[arg(long, value_name = "DIR")]
    pub playbooks: Option<PathBuf>,
    /// Folder with the old ones [default: nothing to compare with]
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    /// Take playbooks in shadow for live ones
    #[arg(long)]
    pub shadow_as_live: bool,
    /// Folder for everything: entities.jsonl, logins.jsonl, incidents.jsonl; made when it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "suggest_for")]
    pub out: Option<PathBuf>,
    /// Instead of comparing, look for the threshold of this playbook that keeps a number of false positives
    #[arg(long, value_name = "PLAYBOOK", conflicts_with = "against")]
    pub suggest_for: Option<String>,
    /// How many false positives are wanted at most
    #[arg(long, value_name = "N/day|N/week", default_value = "1/day", requires = "suggest_for")]
    pub false_positives: Budget,
    /// Which of its measures [default: its first count]
    #[arg(long, value_name = "NAME", requires = "suggest_for")]
    pub measure: Option<String>,
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub answer: Output,
}

/// A moment, or a time before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(Millis),
    Ago(Millis),
}

impl When {
    const fn at(self, now: Millis) -> Millis {
        match self {
            When::At(at) => at,
            When::Ago(ago) => now.saturating_sub(ago),
        }
    }
}

fn when(text: &str) -> Result<When, String> {
    match parse_duration(text) {
        Some(ago) => Ok(When::Ago(ago)),
        None => time(text).map(When::At).map_err(|e| format!("{e}, or as how long ago: 7d")),
    }
}

/// The range that is read.
#[derive(Debug, Clone, Copy)]
struct Range {
    from: Millis,
    to: Millis,
    count_from: Option<Millis>,
}

impl Range {
    fn counts(&self, at: Millis) -> bool {
        self.count_from.is_none_or(|from| at >= from)
    }
}

/// Plays the past.
///
/// # Errors
/// What is wrong with what was asked for, with what to do; a file or the cluster cannot be read.
pub fn run(
    args: &BacktestArgs,
    settings: &Settings,
    client: (&ClientOptions, &str),
    clock: &Arc<dyn Clock>,
    out: &mut dyn Write,
) -> Result<Ending> {
    let now = clock.now();
    let range = range(args, now)?;
    let new = env(settings, args.playbooks.as_deref(), args.shadow_as_live)?;
    let old = args.against.as_deref().map(|folder| env(settings, Some(folder), args.shadow_as_live)).transpose()?;
    let mut sweep = match &args.suggest_for {
        Some(id) => Some(Sweep::new(&new, id, args.measure.as_deref()).map_err(|what| anyhow!(what))?),
        None => None,
    };
    let mut history = match &args.events {
        Some(path) => History::of_file(path, &args.format, range.from, range.to, now)?,
        None => {
            let options = settings.registry.as_deref().map(RegistryOptions::new);
            let registry = Registry::new(options, &settings.schema_ids);
            let schemas: Arc<dyn Schemas> = Arc::new(SharedRegistry::new(registry, Arc::clone(clock)));
            History::of_topic(client.0, client.1, range.from, range.to, schemas)?
        }
    };
    let networks = networks::once(settings)?;
    let tenant = settings.input_tenant.as_deref().filter(|_| history.is_topic);
    if let Some(sweep) = &mut sweep {
        let events = each(&mut history, clock, |record| {
            sweep.feed(record.raw(tenant, &networks), range.counts(record.arrived_at));
            Ok(())
        })?;
        is_some(events, args, &range, client.1)?;
        let suggestion = sweep.suggestion(args.false_positives);
        args.answer.write(out, &suggestion, &suggestion.to_string())?;
        return Ok(Ending::Well);
    }
    let mut sides = (old.as_ref().map(Ledger::new), Ledger::new(&new));
    let mut files = args.out.as_deref().map(Files::create).transpose()?;
    let mut gathered = Gathered { counted_from: range.count_from, ..Gathered::default() };
    let events = each(&mut history, clock, |record| {
        let counts = range.counts(record.arrived_at);
        gathered.first_at.get_or_insert(record.arrived_at);
        gathered.last_at = gathered.last_at.max(Some(record.arrived_at));
        let by_old = sides.0.as_mut().and_then(|old| old.feed(record.raw(tenant, &networks), counts));
        let by_new = sides.1.feed(record.raw(tenant, &networks), counts);
        by_new.iter().for_each(|met| gathered.note(met));
        files.as_mut().map_or(Ok(()), |files| files.met(by_old.as_ref(), by_new.as_ref()))
    })?;
    is_some(events, args, &range, client.1)?;
    gathered.events = events;
    let report = Report::new(gathered, sides.0.as_ref(), &sides.1);
    if let Some(files) = files {
        files.finish(&report, sides.0.as_ref(), &sides.1)?;
    }
    args.answer.write(out, &report, &report.to_string())?;
    Ok(Ending::Well)
}

fn range(args: &BacktestArgs, now: Millis) -> Result<Range> {
    let at = |when: Option<When>| when.map(|when| when.at(now));
    if args.events.is_none() && args.from.is_none() {
        bail!("say what to read: --events FILE, or --from TIME for the topic `login-events`");
    }
    let end = if args.events.is_some() { Millis::MAX } else { now };
    let range = Range {
        from: at(args.from).unwrap_or(Millis::MIN),
        to: at(args.to).unwrap_or(end),
        count_from: at(args.count_from),
    };
    if range.from >= range.to {
        bail!("--from {} is not before --to {}", format_millis(range.from), format_millis(range.to));
    }
    if range.count_from.is_some_and(|from| from >= range.to || from < range.from) {
        bail!("--count-from lies outside of what is read; take a time between --from and --to");
    }
    Ok(range)
}

/// Nothing to play is no result.
fn is_some(events: u64, args: &BacktestArgs, range: &Range, topic: &str) -> Result<()> {
    if events > 0 {
        return Ok(());
    }
    let shown = |at: Millis, open: &str| match at {
        Millis::MIN | Millis::MAX => open.to_owned(),
        at => format_millis(at),
    };
    let (from, to) = (shown(range.from, "its beginning"), shown(range.to, "its end"));
    match &args.events {
        Some(path) => {
            bail!("{}: no event from {from} to {to}; is it the right file, and its --format?", path.display())
        }
        None => bail!(
            "{topic}: no record from {from} to {to}; what is older than its retention is gone, so try another --from, or \
             --events with a file"
        ),
    }
}

/// Calls `take` with every record, and shows how far it is.
fn each(history: &mut History, clock: &Arc<dyn Clock>, mut take: impl FnMut(&Record) -> Result<()>) -> Result<u64> {
    let what = "playing the past";
    let mut progress = match history.length {
        Some(offsets) if history.is_topic => Progress::of_records(what, offsets),
        length => Progress::new(what, length),
    };
    let mut events = 0;
    while let Some(record) = history.next()? {
        if u64::is_multiple_of(events, EVENTS_BETWEEN_LOOKS) {
            progress.at(history.read(), events, clock.now());
        }
        events += 1;
        take(&record)?;
    }
    progress.end();
    Ok(events)
}

/// What every step knows, of a folder or as it is in effect.
fn env(settings: &Settings, folder: Option<&Path>, shadow_as_live: bool) -> Result<Arc<Env>> {
    let env = topology::env(settings, folder)?;
    if env.playbooks.is_empty() {
        let folder = folder.map_or_else(|| "the topology".to_owned(), |folder| folder.display().to_string());
        bail!("{folder}: no playbook in it; a playbook is a file <id>.yaml");
    }
    if !shadow_as_live {
        return Ok(env);
    }
    let mut playbooks = env.playbooks.to_vec();
    playbooks.iter_mut().filter(|p| p.mode == PlaybookMode::Shadow).for_each(|p| p.mode = PlaybookMode::Live);
    let problems: Vec<String> = check(&playbooks).into_iter().map(|p| format!("{}: {}", p.playbook, p.text)).collect();
    if !problems.is_empty() {
        bail!("with --shadow-as-live: {}", problems.join("\n"));
    }
    Ok(Arc::new(Env { plan: Plan::compile(&playbooks)?, playbooks: playbooks.into(), ..(*env).clone() }))
}

/// The files of `--out`.
struct Files {
    folder: PathBuf,
    logins: BufWriter<File>,
}

impl Files {
    fn create(folder: &Path) -> Result<Files> {
        std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        Ok(Files { logins: file(folder, "logins.jsonl")?, folder: folder.to_owned() })
    }

    fn met(&mut self, old: Option<&Met>, new: Option<&Met>) -> Result<()> {
        if old.is_none() && new.is_none() {
            return Ok(());
        }
        line(&mut self.logins, &json!({"old": old, "new": new}))
    }

    fn finish(mut self, report: &Report, old: Option<&Ledger>, new: &Ledger) -> Result<()> {
        self.logins.flush()?;
        let mut out = file(&self.folder, "entities.jsonl")?;
        entities(old, new).try_for_each(|entity| line(&mut out, &entity))?;
        out.flush()?;
        let mut out = file(&self.folder, "incidents.jsonl")?;
        report.incidents.iter().try_for_each(|incident| line(&mut out, incident))?;
        Ok(out.flush()?)
    }
}

fn file(folder: &Path, name: &str) -> Result<BufWriter<File>> {
    let path = folder.join(name);
    Ok(BufWriter::new(File::create(&path).with_context(|| format!("{}", path.display()))?))
}

fn line(out: &mut BufWriter<File>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(out.write_all(b"\n")?)
}
