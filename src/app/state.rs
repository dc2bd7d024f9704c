//! `portcullis state inspect | verify`: what the state folder of a stopped instance holds, and whether its changelogs
//! would give the same back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::progress::Progress;
use super::{Connection, Ending, Output};
use crate::engine::{Env, Kind};
use crate::event::Millis;
use crate::event::wire::format_millis;
use crate::log::Part;
use crate::log::admin::ChangelogReader;
use crate::state::Meta;
use crate::state::inspect::{Changelog, Comparison, KindSum, LookedAt, LookedAtStore, ShownRow, shown};
use crate::topology::Stage;

/// Most records of a changelog whose keys are held at a time: with more, it is read several times, a share of its keys
/// each. About 100 bytes a key.
const SHARE_RECORDS: i64 = 4_000_000;
/// Records between two looks at the clock.
const RECORDS_BETWEEN_LOOKS: u64 = 4_096;

const EXAMPLES: &str = "Examples:
  portcullis state inspect /var/lib/portcullis
  portcullis state inspect /var/lib/portcullis --task source/3 --kind pair --limit 20
  portcullis state verify /var/lib/portcullis --output json     exit code 0 when equal, 3 when not

The instance must be stopped: both look at files that a running one is writing.";

/// Look into the state folder of a stopped instance, or compare it with its changelogs
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StateArgs {
    #[command(subcommand)]
    pub command: StateCommand,
}

#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Show what each task holds: position, rows and bytes by kind, sizes. Reads only, asks no cluster.
    #[command(
        after_help = "Example:\n  portcullis state inspect /var/lib/portcullis --task source/3 --kind pair --limit 20"
    )]
    Inspect(InspectArgs),
    /// Read the changelog of each task and compare: would a restore give the same rows? Changes nothing.
    #[command(after_help = "Example:\n  portcullis state verify /var/lib/portcullis --examples 20")]
    Verify(VerifyArgs),
}

/// Which folder, and how the answer is given.
#[derive(Debug, Args)]
pub struct FolderArgs {
    /// State folder [default: state_dir of the settings]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// One task only, such as source/3
    #[arg(long, value_name = "STAGE/PARTITION", value_parser = task)]
    pub task: Option<(Stage, i32)>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub of: FolderArgs,
    /// List rows of this kind, such as pair; names of accounts are hashed
    #[arg(long, value_name = "KIND", value_parser = kind)]
    pub kind: Option<Kind>,
    /// Most rows listed of each task
    #[arg(long, value_name = "N", default_value_t = 20, requires = "kind")]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub of: FolderArgs,
    /// Most differing rows shown of each task
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub examples: usize,
}

fn task(text: &str) -> Result<(Stage, i32), String> {
    let (stage, partition) = text.split_once('/').ok_or("write STAGE/PARTITION, such as source/3")?;
    let stages = Stage::ALL.map(Stage::as_str).join(", ");
    let stage = Stage::ALL.into_iter().find(|known| known.as_str() == stage);
    let stage = stage.ok_or_else(|| format!("the stages are {stages}"))?;
    Ok((stage, partition.parse().map_err(|_| format!("`{partition}` is no partition"))?))
}

fn kind(text: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.map(Kind::name).join(", ");
    Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("the kinds are {}", names()))
}

/// What the commands need to know besides their flags.
#[derive(Debug)]
pub struct StateContext<'a> {
    /// The state folder where none is named.
    pub state_dir: &'a PathBuf,
    /// Hides names of accounts under the key of the installation, so that they are the same as in keys.
    pub env: &'a Env,
}

impl StateContext<'_> {
    fn look(&self, of: &FolderArgs) -> Result<(LookedAt, Vec<(Stage, i32)>)> {
        let path = of.folder.as_ref().unwrap_or(self.state_dir);
        let folder = LookedAt::take(path)?;
        let mut tasks = folder.tasks()?;
        if let Some(wanted) = of.task {
            let held: Vec<String> = tasks.iter().map(|(stage, partition)| format!("{stage}/{partition}")).collect();
            tasks.retain(|task| *task == wanted);
            if tasks.is_empty() {
                let (stage, partition) = wanted;
                bail!("{} holds no task {stage}/{partition}; it holds {}", path.display(), held.join(", "));
            }
        }
        Ok((folder, tasks))
    }

    fn pseudonym(&self, tenant: &str, name: &str) -> String {
        format!("#{:016x}", self.env.account(tenant, name))
    }
}

/// Where a store stands.
#[derive(Debug, Serialize)]
struct Position {
    application_id: String,
    partitions: i32,
    input_offset: i64,
    changelog_offset: i64,
    /// Milliseconds since the epoch; `None` before the first input.
    stream_time: Option<Millis>,
    checkpoints: u64,
}

impl Position {
    fn of(meta: Meta) -> Position {
        // Named one by one, so that a field which is added is thought of here.
        let Meta {
            version: _,
            application_id,
            partitions,
            hash_key_id: _,
            input_offset,
            changelog_offset,
            stream_time,
            steps_id: _,
            checkpoints,
        } = meta;
        let stream_time = Some(stream_time).filter(|at| *at > Millis::MIN);
        Position { application_id, partitions, input_offset, changelog_offset, stream_time, checkpoints }
    }
}

/// What `inspect` says of one task.
#[derive(Debug, Serialize)]
struct Inspected {
    task: String,
    /// `None`: never written.
    position: Option<Position>,
    kinds: BTreeMap<String, KindSum>,
    sst_bytes: u64,
    rows: Vec<ShownRow>,
    /// Why the store cannot be read.
    error: Option<String>,
}

/// What `inspect` prints as JSON.
#[derive(Debug, Serialize)]
struct Inspection {
    application_id: String,
    tasks: Vec<Inspected>,
}

/// Shows a folder. A store that cannot be read is told and makes the command end with exit code 3.
///
/// # Errors
/// There is no such folder or task, or a process works on it.
pub fn inspect(args: &InspectArgs, context: &StateContext<'_>, out: &mut dyn Write) -> Result<Ending> {
    let (folder, tasks) = context.look(&args.of)?;
    let pseudonym = |tenant: &str, name: &str| context.pseudonym(tenant, name);
    let tasks: Vec<Inspected> = tasks
        .into_iter()
        .map(|(stage, partition)| {
            let task = format!("{stage}/{partition}");
            let looked = folder.open(stage, partition).and_then(|store| {
                let listed = args.kind.map_or_else(Vec::new, |kind| store.rows(Some(kind)).take(args.limit).collect());
                let rows = listed.into_iter().map(|row| row.map(|(key, value)| shown(&key, &value, &pseudonym)));
                let rows = rows.collect::<Result<Vec<_>, _>>()?;
                let position = store.meta()?.map(Position::of);
                Ok(Inspected {
                    task: task.clone(),
                    position,
                    kinds: store.kinds()?,
                    sst_bytes: store.sst_bytes()?,
                    rows,
                    error: None,
                })
            });
            looked.unwrap_or_else(|error| Inspected {
                task,
                position: None,
                kinds: BTreeMap::new(),
                sst_bytes: 0,
                rows: Vec::new(),
                error: Some(error.to_string()),
            })
        })
        .collect();
    let is_well = tasks.iter().all(|task| task.error.is_none() && task.kinds.values().all(|of| of.unreadable == 0));
    let inspection = Inspection { application_id: folder.application_id().to_owned(), tasks };
    args.of.output.write(out, &inspection, &inspected_text(&inspection))?;
    Ok(if is_well { Ending::Well } else { Ending::Different })
}

fn inspected_text(inspection: &Inspection) -> String {
    let mut text = format!("application {}, {} tasks", inspection.application_id, inspection.tasks.len());
    for task in &inspection.tasks {
        let _written = write!(text, "\n\n{}", task.task);
        match (&task.error, &task.position) {
            (Some(error), _) => {
                let _written = write!(text, "  cannot be read: {error}");
            }
            (None, None) => text.push_str("  was never written"),
            (None, Some(at)) => {
                let time = at.stream_time.map_or_else(|| "none yet".to_owned(), format_millis);
                let _written = write!(
                    text,
                    "  input {}, changelog {}, stream time {time}, {} checkpoints, made for {} partitions\n  {} of \
                     files",
                    at.input_offset,
                    at.changelog_offset,
                    at.checkpoints,
                    at.partitions,
                    bytes(task.sst_bytes)
                );
            }
        }
        for (kind, sum) in &task.kinds {
            let ends = match (sum.oldest_expiry, sum.newest_expiry) {
                (Some(oldest), Some(newest)) => {
                    format!(", forgotten from {} to {}", format_millis(oldest), format_millis(newest))
                }
                (None, _) | (_, None) => String::new(),
            };
            let unreadable = match sum.unreadable {
                0 => String::new(),
                n => format!(", {n} of them unreadable by this version"),
            };
            let _written = write!(text, "\n  {kind:<9} {:>9} rows {:>9}{ends}{unreadable}", sum.rows, bytes(sum.bytes));
        }
        for row in &task.rows {
            let end = row.expires_at.map_or_else(|| "never".to_owned(), format_millis);
            let _written = write!(text, "\n  {} {}|{} forgotten {end}\n    {}", row.kind, row.tenant, row.id, row.row);
        }
    }
    text
}

fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// What `verify` says of one task.
#[derive(Debug, Serialize)]
struct Verified {
    task: String,
    changelog: String,
    /// The store's place in its changelog, and where that ends.
    changelog_offset: i64,
    changelog_end: i64,
    faults: u64,
    #[serde(flatten)]
    comparison: Comparison,
    /// What is wrong besides rows.
    error: Option<String>,
}

/// What `verify` prints as JSON.
#[derive(Debug, Serialize)]
struct Verification {
    is_equal: bool,
    tasks: Vec<Verified>,
}

/// Compares a folder with the changelogs of its tasks.
///
/// # Errors
/// There is no such folder or task, a process works on it, or the cluster does not answer.
pub fn verify(
    args: &VerifyArgs,
    context: &StateContext<'_>,
    connection: &Connection,
    clock: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    let (folder, tasks) = context.look(&args.of)?;
    let reader = ChangelogReader::new(&connection.client)?;
    let mut verified = Vec::new();
    for (stage, partition) in tasks {
        let topic = connection.topics.changelog(stage);
        let mut task = Verified {
            task: format!("{stage}/{partition}"),
            changelog: format!("{topic}[{partition}]"),
            changelog_offset: 0,
            changelog_end: 0,
            faults: 0,
            comparison: Comparison::default(),
            error: None,
        };
        let opened = folder.open(stage, partition).and_then(|store| Ok((store.meta()?, store)));
        match opened {
            Err(error) => task.error = Some(error.to_string()),
            Ok((None, _)) => {}
            Ok((Some(meta), store)) => {
                let partitions = reader.partitions(&topic)?;
                if partition >= partitions {
                    task.error = Some(format!("{topic} has {partitions} partitions only"));
                } else {
                    let part = Part { topic: topic.into(), partition };
                    verify_task(&mut task, (&store, &meta), &part, &reader, args, context, &clock)?;
                }
            }
        }
        task.faults = task.comparison.faults();
        verified.push(task);
    }
    let is_equal = verified.iter().all(|task| task.faults == 0 && task.error.is_none());
    let verification = Verification { is_equal, tasks: verified };
    args.of.output.write(out, &verification, &verified_text(&verification))?;
    Ok(if is_equal { Ending::Well } else { Ending::Different })
}

fn verify_task(
    task: &mut Verified,
    (store, meta): (&LookedAtStore, &Meta),
    part: &Part,
    reader: &ChangelogReader,
    args: &VerifyArgs,
    context: &StateContext<'_>,
    clock: &impl Fn() -> Millis,
) -> Result<()> {
    let (low, high) = reader.ends(part)?;
    (task.changelog_offset, task.changelog_end) = (meta.changelog_offset, high);
    if meta.changelog_offset > high {
        task.error = Some(format!(
            "the store was written at offset {} of {part}, which ends at {high}: the topic was made anew, or belongs to \
             another cluster",
            meta.changelog_offset
        ));
        return Ok(());
    }
    let pseudonym = |tenant: &str, name: &str| context.pseudonym(tenant, name);
    let shares = ((high - low) / SHARE_RECORDS + 1).unsigned_abs();
    let total = (high - low).unsigned_abs() * shares;
    let mut progress = Progress::of_records("verifying", total);
    let mut records = 0u64;
    for share in 0..shares {
        let mut changelog = Changelog::new(meta.changelog_offset, (share, shares));
        let before = records;
        reader.read(part, (low, high), &mut |offset, key, value| {
            changelog.take(offset, key, value);
            // Offsets, since what compaction took is passed as well.
            records = before + (offset + 1 - low).unsigned_abs();
            if records.is_multiple_of(RECORDS_BETWEEN_LOOKS) {
                progress.at(0, records, clock());
            }
        })?;
        if let Err(what) = changelog.check_position(meta) {
            task.error = Some(what);
        }
        task.comparison.add(store, changelog, meta.stream_time, args.examples, &pseudonym)?;
    }
    progress.end();
    Ok(())
}

fn verified_text(verification: &Verification) -> String {
    let mut text = String::new();
    for task in &verification.tasks {
        let _written = writeln!(text, "{}  {}", task.task, told(task));
        for (kind, of) in task.comparison.kinds.iter().filter(|(_, of)| of.faults() > 0) {
            let _written = writeln!(
                text,
                "  {kind:<9} {} equal, {} differ, {} only in the state, {} only in the changelog, {} unreadable there",
                of.equal, of.differing, of.only_in_state, of.only_in_changelog, of.unreadable
            );
        }
        for fault in &task.comparison.examples {
            let at = fault.changelog_offset.map_or_else(String::new, |at| format!(", changelog offset {at}"));
            let state = fault.state.as_deref().unwrap_or("no row");
            let (kind, tenant, id) = (&fault.kind, &fault.tenant, &fault.id);
            let _written = writeln!(text, "  {kind} {tenant}|{id}: {}{at}\n    state: {state}", fault.what);
        }
    }
    text.push_str(if verification.is_equal {
        "Every row is as its changelog says."
    } else {
        "The state is not what its changelogs say. With the instance stopped, remove the folder of the task (STAGE/PARTITION \
         in the state folder): the next start restores it from its changelog."
    });
    text
}

fn told(task: &Verified) -> String {
    let sum = |of: fn(&crate::state::inspect::Compared) -> u64| task.comparison.kinds.values().map(of).sum::<u64>();
    match &task.error {
        Some(error) => error.clone(),
        None => format!(
            "{} rows equal, {} not, {} past their end, {} written again since; {} up to {} of {}",
            sum(|of| of.equal),
            task.faults,
            sum(|of| of.expired),
            sum(|of| of.newer),
            task.changelog,
            task.changelog_offset,
            task.changelog_end
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_and_kinds_are_read_from_their_names() {
        assert_eq!(task("source/3"), Ok((Stage::Source, 3)));
        assert!(task("sauce/3").unwrap_err().contains("intake, source, account, site"));
        assert!(task("source").is_err() && task("source/x").is_err());
        for known in Kind::ALL {
            assert_eq!(kind(&known.name()), Ok(known));
        }
        assert!(kind("pears").unwrap_err().contains("pair"));
    }
}
