//! Playbooks changed while the job runs: what stands on the topic `playbooks` over the folder, and commands that put
//! something there. Checked here as every task will check it, so that what is refused is refused before it is published.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::settings::Settings;
use super::{Connection, Ending, Output, commands, topology};
use crate::event::wire::format_millis;
use crate::event::{Command, CommandKind, Millis, Scope};
use crate::log::follow::{Follower, ReadFrom};
use crate::log::publish::Publisher;
use crate::log::{Error, Incoming};
use crate::topology::{
    Asked, Edit, Effective, HeldChange, OVERRIDE, OVERRIDE_MS_MAX, PLAYBOOK_BYTES_MAX, Plan, Playbook, PlaybookChange,
    PlaybookMode, PlaybookSet, edited, format_duration, parse_duration, read_change,
};

/// The topic, without its prefix.
const TOPIC: &str = "playbooks";
/// Longest wait for a delivery.
const DELIVERY_MAX: Duration = Duration::from_secs(30);
/// Longest value of a field that is shown to people.
const SHOWN_CHARS_MAX: usize = 160;
/// Longest record of which fields change.
const DETAIL_BYTES_MAX: usize = 900;
/// Most records that are not taken that are told.
const REJECTED_MAX: usize = 20;

/// Put a playbook on the topic: every instance uses it within a second
///
/// The playbook takes the place of the one with its id, or is added. It must have a version above the one that it
/// replaces. With --for it is an override, which ends by itself: what stood there before is back then.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portcullis playbooks set ip-account-fanout.yaml --reason 'one try per account' --for 30m --raise"
)]
pub struct SetArgs {
    /// The playbook, as in topology/playbooks
    pub file: PathBuf,
    /// Why; stands beside the change for good
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who
    #[arg(long, env = "USER", value_name = "NAME")]
    pub actor: String,
    /// End by itself after this long, at most 31d
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    pub lasting: Option<Millis>,
    /// Take this mode and not the file's
    #[arg(long, value_enum)]
    pub mode: Option<ModeName>,
    /// Give it the next free version if the file's is taken
    #[arg(long)]
    pub raise: bool,
    /// Check and show what would change; publish nothing
    #[arg(long)]
    pub dry_run: bool,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Take a changed playbook off the topic: the folder's holds again, or none
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portcullis playbooks remove ip-account-fanout --override --reason 'it is over'")]
pub struct RemoveArgs {
    /// The playbook's id
    pub id: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who
    #[arg(long, env = "USER", value_name = "NAME")]
    pub actor: String,
    /// End its override now, and leave what stands below
    #[arg(long = "override")]
    pub is_override: bool,
    /// Check and show what would change; publish nothing
    #[arg(long)]
    pub dry_run: bool,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    Shadow,
    Live,
    Off,
}

impl ModeName {
    const fn as_str(self) -> &'static str {
        match self {
            ModeName::Shadow => "shadow",
            ModeName::Live => "live",
            ModeName::Off => "off",
        }
    }

    const fn mode(self) -> PlaybookMode {
        match self {
            ModeName::Shadow => PlaybookMode::Shadow,
            ModeName::Live => PlaybookMode::Live,
            ModeName::Off => PlaybookMode::Off,
        }
    }
}

fn lasting(text: &str) -> Result<Millis, String> {
    parse_duration(text)
        .filter(|ms| *ms <= OVERRIDE_MS_MAX)
        .ok_or_else(|| format!("`{text}` is no duration up to {}, such as 30m", format_duration(OVERRIDE_MS_MAX)))
}

/// Where a playbook in effect comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Origin {
    Folder,
    Topic { actor: String, reason: String, since: Millis },
    Override { actor: String, reason: String, since: Millis, until: Millis },
}

/// A playbook in effect.
#[derive(Debug, Clone)]
pub struct Standing {
    pub playbook: Playbook,
    pub text: String,
    pub origin: Origin,
    /// Versions that stand below it and hold when it goes: of the topic, of the folder.
    pub below: Vec<i32>,
}

/// A record of the topic that nobody takes.
#[derive(Debug, Clone, Serialize)]
pub struct RejectedRecord {
    pub key: String,
    pub offset: i64,
    pub why: String,
}

/// The folder and what stands on the topic over it.
#[derive(Debug)]
pub struct OnTopic {
    pub set: PlaybookSet,
    folder_texts: BTreeMap<String, String>,
    /// Of the changes that are held.
    texts: BTreeMap<Box<str>, String>,
    /// The last few.
    pub rejected: Vec<RejectedRecord>,
    /// The offset behind the last record.
    end: i64,
}

impl OnTopic {
    /// Reads the folder and the topic to its end.
    ///
    /// # Errors
    /// The folder is wrong, or the cluster does not answer.
    pub fn read(settings: &Settings, connection: &Connection) -> Result<OnTopic> {
        let mut on_topic = OnTopic::of_folder(settings)?;
        let mut follower = Follower::new(&connection.client, &[connection.topics.public(TOPIC)], ReadFrom::Start)?;
        follower.to_end::<Error>(|record| {
            on_topic.take(record);
            Ok(())
        })?;
        Ok(on_topic)
    }

    /// The folder alone, before anything is read of the topic.
    ///
    /// # Errors
    /// The folder is wrong.
    pub fn of_folder(settings: &Settings) -> Result<OnTopic> {
        let wrong = |e: anyhow::Error| Error::Setup(format!("{e:#}"));
        let env = topology::env(settings, None).map_err(wrong)?;
        let folder_texts = topology::playbook_texts(settings).map_err(wrong)?;
        Ok(OnTopic {
            set: PlaybookSet::new(std::sync::Arc::clone(&env.playbooks), env.plan.clone()),
            folder_texts,
            texts: BTreeMap::new(),
            rejected: Vec::new(),
            end: 0,
        })
    }

    /// Takes the next record of the topic.
    pub(super) fn take(&mut self, record: &Incoming) {
        self.end = self.end.max(record.offset + 1);
        let header = |name: &str| record.header(name);
        let read = read_change(record.key.as_deref(), record.value.as_deref(), header, record.timestamp);
        let shown_key =
            || String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).chars().take(80).collect();
        let rejected = match read {
            Ok((key, change)) => match self.set.apply(&key, record.offset, change.as_ref()) {
                Ok(applied) => {
                    for ended in &applied.ended {
                        self.texts.remove(ended);
                    }
                    match change {
                        Some(change) => drop(self.texts.insert(key, change.text.into())),
                        None => drop(self.texts.remove(&key)),
                    }
                    return;
                }
                Err(why) => why,
            },
            Err(why) => why,
        };
        if self.rejected.len() == REJECTED_MAX {
            self.rejected.remove(0);
        }
        self.rejected.push(RejectedRecord { key: shown_key(), offset: record.offset, why: rejected });
    }

    /// The set in effect at a time, by id, each with where it comes from.
    #[must_use]
    pub fn standing(&self, now: Millis) -> Vec<Standing> {
        let effective = self.set.effective(now);
        let held: BTreeMap<&str, &HeldChange> = self.set.held().collect();
        let left_out = |key: &str| effective.left_out.iter().any(|(left, _)| **left == *key);
        let mut all: Vec<Standing> = Vec::with_capacity(effective.playbooks.len());
        for playbook in &effective.playbooks {
            let id = playbook.id.as_str();
            let over = format!("{id}{OVERRIDE}");
            let in_place = |key: &str| held.get(key).copied().filter(|_| !left_out(key));
            let an_override = in_place(&over).filter(|held| held.expires_at.is_some_and(|end| end > now));
            let of_topic = in_place(id);
            let of_folder = self.set.folder().iter().find(|p| p.id == id);
            let who = |held: &HeldChange| (held.actor.to_string(), held.reason.to_string(), held.at);
            let text = |key: &str| self.texts.get(key).cloned().unwrap_or_default();
            let (origin, text) = match (an_override, of_topic) {
                (Some(held), _) => {
                    let (actor, reason, since) = who(held);
                    let until = held.expires_at.unwrap_or(Millis::MAX);
                    (Origin::Override { actor, reason, since, until }, text(&over))
                }
                (None, Some(held)) => {
                    let (actor, reason, since) = who(held);
                    (Origin::Topic { actor, reason, since }, text(id))
                }
                (None, None) => (Origin::Folder, self.folder_texts.get(id).cloned().unwrap_or_default()),
            };
            let below_override = of_topic.filter(|_| an_override.is_some()).map(|held| held.playbook.version);
            let below_topic = of_folder.filter(|_| an_override.is_some() || of_topic.is_some()).map(|p| p.version);
            let below = below_override.into_iter().chain(below_topic).collect();
            all.push(Standing { playbook: playbook.clone(), text, origin, below });
        }
        all.sort_by(|a, b| a.playbook.id.cmp(&b.playbook.id));
        all
    }

    /// The text under a key, or the folder's of that id.
    fn text_of(&self, key: &str) -> Option<&str> {
        let of_folder = || self.folder_texts.get(key);
        self.texts.get(key).or_else(of_folder).map(String::as_str)
    }

    /// The version above all that this playbook has.
    fn next_version(&self, id: &str) -> i32 {
        let over = format!("{id}{OVERRIDE}");
        let held = self.set.held().filter(|(key, _)| *key == id || *key == over).map(|(_, held)| held.playbook.version);
        let folder = self.set.folder().iter().filter(|p| p.id == id).map(|p| p.version);
        held.chain(folder).max().unwrap_or(0).saturating_add(1)
    }
}

/// One field that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub field: String,
    /// As JSON; `None`: not given.
    pub old: Option<String>,
    pub new: Option<String>,
}

/// What a change did, or would do.
#[derive(Debug, Serialize)]
struct Changed {
    key: String,
    version: Option<i32>,
    published: bool,
    /// Its place on the topic.
    offset: Option<i64>,
    expires_at: Option<Millis>,
    differences: Vec<Difference>,
    notes: Vec<String>,
}

/// `playbooks set`.
///
/// # Errors
/// Everything that is wrong with the playbook, and what to do; or the cluster does not take it.
pub fn set(
    args: &SetArgs,
    settings: &Settings,
    connection: &Connection,
    now: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    let refused = |what: String| Error::Setup(format!("{}: {what}", args.file.display()));
    let mut text = std::fs::read_to_string(&args.file).with_context(|| format!("{}", args.file.display()))?;
    if text.len() > PLAYBOOK_BYTES_MAX {
        return Err(refused(format!("{} bytes; a playbook has at most {PLAYBOOK_BYTES_MAX}", text.len())).into());
    }
    let parse = |text: &str| Playbook::parse(text).map_err(|what| refused(topology::playbook_words(&what)));
    let mut playbook = parse(&text)?;
    let mut on_topic = OnTopic::read(settings, connection)?;
    if let Some(mode) = args.mode.filter(|mode| mode.mode() != playbook.mode) {
        let wanted = Playbook { mode: mode.mode(), ..playbook };
        text = with_line(&text, "mode", mode.as_str());
        playbook = parse(&text).ok().filter(|edited| *edited == wanted).ok_or_else(|| {
            refused(format!("--mode: its text is laid out in another way; write `mode: {}` in the file", mode.as_str()))
        })?;
    }
    let next = on_topic.next_version(&playbook.id);
    if args.raise && playbook.version < next && !on_topic.holds(&playbook) {
        let wanted = Playbook { version: next, ..playbook };
        text = with_line(&text, "version", &next.to_string());
        parse(&text).ok().filter(|edited| *edited == wanted).ok_or_else(|| {
            refused(format!("--raise: its text is laid out in another way; write `version: {next}` in the file"))
        })?;
    }
    let at = now();
    let by = (args.actor.as_str(), args.reason.as_str());
    let (proposed, mut changed) = propose(&mut on_topic, &text, by, args.lasting, at).map_err(|what| {
        let raise = if what.starts_with("version:") { ", or add --raise" } else { "" };
        refused(format!("{what}{raise}"))
    })?;
    if proposed.is_changed && !args.dry_run {
        let changing = Changing { settings, connection, now: &now };
        changed.offset = Some(changing.publish(&proposed)?);
        changed.published = true;
        changing.record(record_of(&args.actor, &args.reason, &proposed, &changed.differences))?;
    } else if !proposed.is_changed {
        changed.notes.push("the same stands there already; nothing to publish".to_owned());
    }
    args.output.write(out, &changed, &changed.describe(args.dry_run))?;
    Ok(Ending::Well)
}

/// A change that every task will take, as far as the topic was read.
struct Proposed {
    key: String,
    /// The text, and how the change reads; `None` removes.
    change: Option<(String, PlaybookChange)>,
    headers: Vec<(&'static str, String)>,
    at: Millis,
    /// The same does not stand there already.
    is_changed: bool,
}

/// Checks a text over what stands on the topic, which then holds it.
///
/// # Errors
/// Why it will not be taken.
fn propose(
    on_topic: &mut OnTopic,
    text: &str,
    (actor, reason): (&str, &str),
    lasting: Option<Millis>,
    at: Millis,
) -> Result<(Proposed, Changed), String> {
    let playbook = Playbook::parse(text)?;
    let key = if lasting.is_some() { format!("{}{OVERRIDE}", playbook.id) } else { playbook.id.clone() };
    let expires_at = lasting.map(|ms| at.saturating_add(ms));
    let headers = headers(actor, reason, Some(playbook.version), expires_at);
    let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_bytes());
    let (_, change) = read_change(Some(key.as_bytes()), Some(text.as_bytes()), header, at)?;
    let before = on_topic.set.effective(at);
    // An override is compared with what it lies over, and anything else with what it takes the place of.
    let old = on_topic.text_of(&playbook.id).map(str::to_owned);
    let applied = on_topic.set.apply(&key, on_topic.end, change.as_ref())?;
    let changed = Changed {
        key: key.clone(),
        version: Some(playbook.version),
        published: false,
        offset: None,
        expires_at,
        differences: differences(old.as_deref(), Some(text)),
        notes: notes(&before, &on_topic.set.effective(at), &playbook, lasting.is_some(), on_topic, at),
    };
    let change = change.map(|change| (text.to_owned(), change));
    Ok((Proposed { key, change, headers, at, is_changed: applied.is_changed }, changed))
}

/// Where changes of playbooks go.
pub(super) struct Changing<'a> {
    pub(super) settings: &'a Settings,
    pub(super) connection: &'a Connection,
    pub(super) now: &'a dyn Fn() -> Millis,
}

impl Changing<'_> {
    /// Publishes a change, and reads back whether it stands there. Gives its place.
    fn publish(&self, proposed: &Proposed) -> Result<i64> {
        let text = proposed.change.as_ref().map(|(text, _)| text.as_str());
        publish(self.connection, &proposed.key, text, &proposed.headers, proposed.at)?;
        confirm(self.settings, self.connection, &proposed.key, proposed.change.as_ref().map(|(_, change)| change))
    }

    /// Writes down who changed what: the topic of playbooks keeps only what stands.
    fn record(&self, command: Command) -> Result<Command> {
        let asked = Asked::new(command).map_err(Error::Setup)?;
        commands::publish(self.connection, &asked.records, asked.command.at)
            .context("the playbook is changed, and nobody wrote down by whom")?;
        Ok(asked.command)
    }
}

fn record_of(actor: &str, reason: &str, proposed: &Proposed, differences: &[Difference]) -> Command {
    let id = proposed.key.strip_suffix(OVERRIDE).unwrap_or(&proposed.key);
    let by = commands::giver(actor, reason, proposed.at);
    let mut command = by.command(CommandKind::Playbook, "", Scope::Other, id);
    command.until = proposed.change.as_ref().and_then(|(_, change)| change.expires_at);
    command.detail = in_words(differences);
    command
}

/// Lays an override over a playbook as it stands, until the end that the command says; gives the command as it is written
/// down.
///
/// # Errors
/// There is no such playbook, the change will not be taken, or the cluster does not take it.
pub(super) fn lay_override(changing: &Changing<'_>, mut command: Command, edit: Edit) -> Result<Command> {
    let refused = |what: String| Error::Setup(what);
    let mut on_topic = OnTopic::read(changing.settings, changing.connection)?;
    let id = command.value.clone();
    let at = (changing.now)();
    let standing = on_topic.standing(at).into_iter().find(|of| of.playbook.id == id);
    let standing = standing.ok_or_else(|| refused(format!("there is no playbook {id:?} in effect")))?;
    let edit = Edit { version: on_topic.next_version(&id), ..edit };
    let (text, _) = edited(&standing.text, &edit).map_err(refused)?;
    let lasting = command.until.map(|until| until.saturating_sub(at)).filter(|ms| *ms > 0);
    let lasting = lasting.ok_or_else(|| refused("an override says when it ends".to_owned()))?;
    let by = (command.actor.as_str(), command.reason.as_str());
    let (proposed, mut changed) = propose(&mut on_topic, &text, by, Some(lasting), at).map_err(refused)?;
    // Against what stands there now, which may be an override itself.
    changed.differences = differences(Some(&standing.text), Some(&text));
    changing.publish(&proposed)?;
    command.detail = in_words(&changed.differences);
    changing.record(command)
}

/// Removes the override that a command laid, or that lies there; gives the command as it is written down.
///
/// # Errors
/// There is none, or the cluster does not take it.
pub(super) fn end_override(changing: &Changing<'_>, mut command: Command, dry_run: bool) -> Result<Command> {
    let mut on_topic = OnTopic::read(changing.settings, changing.connection)?;
    let key = format!("{}{OVERRIDE}", command.value);
    if !on_topic.set.held().any(|(held, _)| held == key) {
        return Err(Error::Setup(format!("{}: has no override on the topic", command.value)).into());
    }
    let at = (changing.now)();
    on_topic.set.apply(&key, on_topic.end, None).map_err(|what| Error::Setup(format!("{}: {what}", command.value)))?;
    command.until = Some(command.at);
    if dry_run {
        return Ok(command);
    }
    let headers = headers(&command.actor, &command.reason, None, None);
    changing.publish(&Proposed { key, change: None, headers, at, is_changed: true })?;
    changing.record(command)
}

/// Which fields change, for the record.
fn in_words(differences: &[Difference]) -> String {
    let mut text = String::new();
    // Cases that are played are no part of what a playbook does.
    for of in differences.iter().filter(|of| of.field != "version" && of.field != "fixtures") {
        let separator = if text.is_empty() { "" } else { "; " };
        let _written =
            write!(text, "{separator}{}: {} -> {}", of.field, shown(of.old.as_deref()), shown(of.new.as_deref()));
        if text.len() > DETAIL_BYTES_MAX {
            let end = (0..=DETAIL_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
            text.truncate(end);
            text.push('…');
            break;
        }
    }
    text
}

fn shown(value: Option<&str>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.chars().count() > SHOWN_CHARS_MAX => {
            format!("{}…", value.chars().take(SHOWN_CHARS_MAX).collect::<String>())
        }
        Some(value) => value.to_owned(),
    }
}

/// `playbooks remove`.
///
/// # Errors
/// There is nothing to remove, the others do not go together without it, or the cluster does not take it.
pub fn remove(
    args: &RemoveArgs,
    settings: &Settings,
    connection: &Connection,
    now: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    let mut on_topic = OnTopic::read(settings, connection)?;
    let key = if args.is_override { format!("{}{OVERRIDE}", args.id) } else { args.id.clone() };
    if !on_topic.set.held().any(|(held, _)| held == key) {
        let what = if args.is_override { "has no override on the topic" } else { "does not stand on the topic" };
        let hint = if on_topic.folder_texts.contains_key(&args.id) && !args.is_override {
            "; to switch off the folder's: portcullis playbooks set FILE --mode off"
        } else {
            "; see: portcullis playbooks list --in-effect"
        };
        return Err(Error::Setup(format!("{}: {what}{hint}", args.id)).into());
    }
    let at = now();
    let old = on_topic.text_of(&key).map(str::to_owned);
    on_topic.set.apply(&key, on_topic.end, None).map_err(|what| Error::Setup(format!("{}: {what}", args.id)))?;
    on_topic.texts.remove(key.as_str());
    let new = on_topic.text_of(&args.id).map(str::to_owned);
    let mut changed = Changed {
        key: key.clone(),
        version: None,
        published: false,
        offset: None,
        expires_at: None,
        differences: differences(old.as_deref(), new.as_deref()),
        notes: Vec::new(),
    };
    if new.is_none() {
        changed.notes.push(format!("the folder has no `{}`: it is gone", args.id));
    }
    if !args.dry_run {
        let headers = headers(&args.actor, &args.reason, None, None);
        let proposed = Proposed { key, change: None, headers, at, is_changed: true };
        let changing = Changing { settings, connection, now: &now };
        changed.offset = Some(changing.publish(&proposed)?);
        changed.published = true;
        let mut record = record_of(&args.actor, &args.reason, &proposed, &changed.differences);
        record.until = Some(at);
        changing.record(record)?;
    }
    args.output.write(out, &changed, &changed.describe(args.dry_run))?;
    Ok(Ending::Well)
}

/// `playbooks list --in-effect`.
///
/// # Errors
/// The folder is wrong, or the cluster does not answer.
pub fn list(
    output: Output,
    settings: &Settings,
    connection: &Connection,
    now: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    #[derive(Serialize)]
    struct Listed {
        id: String,
        version: i32,
        mode: &'static str,
        #[serde(flatten)]
        origin: Origin,
        below: Vec<i32>,
        description: String,
    }
    #[derive(Serialize)]
    struct List {
        playbooks: Vec<Listed>,
        left_out: Vec<(String, String)>,
        rejected: Vec<RejectedRecord>,
    }
    let on_topic = OnTopic::read(settings, connection)?;
    let at = now();
    let listed = |of: Standing| Listed {
        id: of.playbook.id.clone(),
        version: of.playbook.version,
        mode: of.playbook.mode.as_str(),
        origin: of.origin,
        below: of.below,
        description: of.playbook.describe(),
    };
    let left_out = on_topic.set.effective(at).left_out.into_iter().map(|(key, why)| (key.into(), why)).collect();
    let list = List {
        playbooks: on_topic.standing(at).into_iter().map(listed).collect(),
        left_out,
        rejected: on_topic.rejected.clone(),
    };
    let mut text = String::new();
    for of in &list.playbooks {
        let _written = writeln!(text, "{} v{} {}  {}", of.id, of.version, of.mode, of.origin.describe());
        let _written = writeln!(text, "    {}", of.description);
    }
    for (key, why) in &list.left_out {
        let _written = writeln!(text, "left out: {key}: {why}");
    }
    for of in &list.rejected {
        let _written = writeln!(text, "not taken: {:?} at offset {}: {}", of.key, of.offset, of.why);
    }
    output.write(out, &list, text.trim_end())?;
    Ok(Ending::Well)
}

impl Origin {
    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Origin::Folder => "folder".to_owned(),
            Origin::Topic { actor, reason, since } => {
                format!("topic, by {actor:?} since {}: {reason:?}", format_millis(*since))
            }
            Origin::Override { actor, reason, since, until } => format!(
                "override until {}, by {actor:?} since {}: {reason:?}",
                format_millis(*until),
                format_millis(*since)
            ),
        }
    }
}

impl OnTopic {
    /// Whether exactly this playbook is held or in the folder: it needs no other version.
    fn holds(&self, playbook: &Playbook) -> bool {
        let held = self.set.held().any(|(_, held)| held.playbook == *playbook);
        held || self.set.folder().contains(playbook)
    }
}

impl Changed {
    fn describe(&self, dry_run: bool) -> String {
        let mut text = match (self.published, dry_run) {
            (true, _) => format!("{}: published", self.key),
            (false, true) => format!("{}: not published, as told", self.key),
            (false, false) => format!("{}: nothing changes", self.key),
        };
        if let Some(end) = self.expires_at {
            let _written = write!(text, "; ends at {}", format_millis(end));
        }
        for of in &self.differences {
            let (old, new) = (shown(of.old.as_deref()), shown(of.new.as_deref()));
            let _written = write!(text, "\n  {}: {old} -> {new}", of.field);
        }
        for note in &self.notes {
            let _written = write!(text, "\n  note: {note}");
        }
        text
    }
}

/// What a person should know of a change besides its fields.
fn notes(
    before: &Effective,
    after: &Effective,
    playbook: &Playbook,
    is_override: bool,
    on_topic: &OnTopic,
    now: Millis,
) -> Vec<String> {
    let mut notes = Vec::new();
    let kept = |plan: &Plan| plan.kept();
    let (old, new) = (kept(&before.plan), kept(&after.plan));
    if playbook.mode != PlaybookMode::Off && new.difference(&old).next().is_some() {
        notes.push(format!(
            "nothing was counted for it so far: what it sees begins now, and it stays in shadow for {}",
            format_duration(playbook.over)
        ));
    }
    let over = format!("{}{OVERRIDE}", playbook.id);
    let hides = |held: &HeldChange| held.expires_at.filter(|end| *end > now);
    let hidden = on_topic.set.held().find(|(key, _)| *key == over).and_then(|(_, held)| hides(held));
    if let (false, Some(end)) = (is_override, hidden) {
        notes.push(format!("an override lies over it until {}", format_millis(end)));
    }
    notes
}

fn headers(actor: &str, reason: &str, version: Option<i32>, expires_at: Option<Millis>) -> Vec<(&'static str, String)> {
    let mut headers = vec![("actor", actor.to_owned()), ("reason", reason.to_owned())];
    headers.extend(version.map(|version| ("version", version.to_string())));
    headers.extend(expires_at.map(|end| ("expires_at", format_millis(end))));
    headers
}

fn publish(
    connection: &Connection,
    key: &str,
    text: Option<&str>,
    headers: &[(&'static str, String)],
    at: Millis,
) -> Result<()> {
    let publisher = Publisher::new(&connection.client)?;
    let topic = connection.topics.public(TOPIC);
    publisher.check(&topic)?;
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    publisher.send_control(&topic, key.as_bytes(), text.map(str::as_bytes), &headers, at)?;
    let deliveries = publisher.flush(DELIVERY_MAX)?;
    match deliveries.first_failure {
        None => Ok(()),
        Some(why) => Err(Error::Kafka(format!("{topic} did not take it: {why}; nothing changed")).into()),
    }
}

/// Reads back what was published: whether it is what stands there, or somebody was quicker. Gives its place.
fn confirm(settings: &Settings, connection: &Connection, key: &str, change: Option<&PlaybookChange>) -> Result<i64> {
    let on_topic = OnTopic::read(settings, connection)?;
    let held = on_topic.set.held().find(|(held, _)| *held == key).map(|(_, held)| held);
    let is_ours = match (held, change) {
        (None, None) => true,
        (Some(held), Some(change)) => {
            let is_same = change.playbook(key).is_ok_and(|ours| ours == held.playbook);
            is_same && held.actor == change.actor && held.expires_at == change.expires_at
        }
        (Some(_), None) | (None, Some(_)) => false,
    };
    if is_ours {
        return Ok(held.map_or(on_topic.end - 1, |held| held.offset));
    }
    let why = on_topic.rejected.iter().rev().find(|of| of.key == key).map(|of| format!(": {}", of.why));
    let why = why.unwrap_or_default();
    Err(Error::Kafka(format!(
        "{key}: somebody else changed it at the same time{why}\nsee: portcullis playbooks list --in-effect"
    ))
    .into())
}

/// A text with one of its first-level fields changed, or added.
fn with_line(text: &str, field: &str, value: &str) -> String {
    let new = format!("{field}: {value}");
    let is_it = |line: &&str| line.strip_prefix(field).is_some_and(|rest| rest.trim_start().starts_with(':'));
    let has_it = text.lines().any(|line| is_it(&line));
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        if is_it(&line) {
            lines.push(&new);
            continue;
        }
        lines.push(line);
        if !has_it && line.starts_with("version:") {
            lines.push(&new);
        }
    }
    lines.join("\n") + "\n"
}

/// Field by field, old against new; by the texts, so that a default that is not written is not shown.
fn differences(old: Option<&str>, new: Option<&str>) -> Vec<Difference> {
    let fields = |text: Option<&str>| {
        let mut fields = BTreeMap::new();
        if let Some(Ok(value)) = text.map(serde_saphyr::from_str::<Value>) {
            flatten(&mut fields, String::new(), &value);
        }
        fields
    };
    let (old, new) = (fields(old), fields(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed
        .map(|name| Difference { field: name.clone(), old: old.get(name).cloned(), new: new.get(name).cloned() })
        .collect()
}

fn flatten(fields: &mut BTreeMap<String, String>, path: String, value: &Value) {
    match value {
        Value::Object(of) => of.iter().for_each(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            flatten(fields, path, value);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            fields.insert(path, value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "id: a\nversion: 1\nowner: us\ntrigger:\n  failures: {at_least: 10}\n";

    #[test]
    fn a_field_is_changed_where_it_stands_or_added_behind_the_version() {
        assert_eq!(with_line(TEXT, "version", "7"), TEXT.replace("version: 1", "version: 7"));
        assert_eq!(with_line(TEXT, "mode", "live"), TEXT.replace("version: 1", "version: 1\nmode: live"));
    }

    #[test]
    fn only_fields_that_differ_are_shown() {
        let new = TEXT.replace("10", "{calm: 5, elevated: 3, attack: 2}").replace("owner: us\n", "");
        let shown: Vec<String> = differences(Some(TEXT), Some(&new))
            .into_iter()
            .map(|d| format!("{} {:?} {:?}", d.field, d.old.as_deref(), d.new.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                r#"owner Some("\"us\"") None"#,
                r#"trigger.failures.at_least Some("10") None"#,
                r#"trigger.failures.at_least.attack None Some("2")"#,
                r#"trigger.failures.at_least.calm None Some("5")"#,
                r#"trigger.failures.at_least.elevated None Some("3")"#,
            ]
        );
        assert!(differences(Some(TEXT), Some(TEXT)).is_empty());
    }
}
