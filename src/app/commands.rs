//! What a person asks for in the middle of an attack: block, unblock, allow, watch, and the kill switch. Each becomes a
//! record of the topic `commands`, which is the audit trail; the owner of the entity carries it out.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::playbook_changes::{self, Changing};
use super::run::new_instance;
use super::settings::Settings;
use super::{Connection, Ending, Output};
use crate::console::Trail;
use crate::event::wire::{decode_output, format_millis};
use crate::event::{Action, BlocklistEntry, Command, CommandKind, Entity, Millis, Scope};
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::log::publish::Publisher;
use crate::log::{Error, Incoming};
use crate::topology::{Ask, Asked, ControlRecord, Giver, guessed_scope, parse_duration, undo as taken_back};

/// One wait for a record.
const WAIT: Duration = Duration::from_millis(100);
/// Longest wait for a delivery.
const DELIVERY_MAX: Duration = Duration::from_secs(30);
/// Longest time that anything is asked for, in milliseconds.
const LASTING_MS_MAX: Millis = 366 * 86_400_000;
/// The role of whoever may write to the topic.
const ROLE: &str = "operator";

/// About whom, why and who: the same for every command.
#[derive(Debug, Args)]
pub struct About {
    /// An address, a range, AS64500, an account, or any value with --scope
    #[arg(value_name = "ADDRESS|RANGE|AS|ACCOUNT")]
    pub who: String,
    /// What kind of entity it is, where it does not show
    #[arg(long, value_enum)]
    pub scope: Option<ScopeName>,
    #[command(flatten)]
    pub by: By,
}

#[derive(Debug, Args)]
pub struct By {
    /// Of this tenant
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub tenant: String,
    /// Why; stands beside it for good
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who
    #[arg(long, env = "USER", value_name = "NAME")]
    pub actor: String,
    /// The incident it belongs to; left out: the one that is on
    #[arg(long, value_name = "ID")]
    pub incident: Option<String>,
    /// Check it and show what would be asked for; publish nothing
    #[arg(long)]
    pub dry_run: bool,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeName {
    Ip,
    Cidr,
    Asn,
    Country,
    Account,
    IpAccount,
    Device,
    UserAgent,
    TlsFingerprint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ActionName {
    Throttle,
    Challenge,
    StepUp,
    Block,
    LockAccount,
    RevokeSessions,
}

/// Restrict somebody, whatever playbooks say
///
/// Edges obey within a second, those that cut off whole machines too. It holds until --for is over, or until `unblock`.
/// A range wider than /20 (IPv6 /40), an autonomous system, a country, an agent or a fingerprint needs a second person.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis block 203.0.113.9 --tenant shop --for 2h --reason 'stuffing since 02:40'\n  portcullis block 198.51.0.0/16 --tenant shop --for 1d --reason 'their whole range' --approved-by grace"
)]
pub struct BlockArgs {
    #[command(flatten)]
    pub about: About,
    /// End by itself after this long; left out: it does not
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    pub lasting: Option<Millis>,
    /// How it is restricted
    #[arg(long, value_enum, default_value = "block")]
    pub action: ActionName,
    /// A second person who agrees
    #[arg(long, value_name = "NAME")]
    pub approved_by: Option<String>,
    /// Wait this long for a running instance to carry it out; 0s: do not
    #[arg(long, value_name = "DURATION", value_parser = lasting, default_value = "10s")]
    pub wait: Millis,
}

/// Lift what restricts somebody, and keep playbooks off them for a while
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis unblock 203.0.113.9 --tenant shop --reason 'our own crawler'\n  portcullis unblock ada@example.com --tenant shop --reason 'it was her' --mistake"
)]
pub struct UnblockArgs {
    #[command(flatten)]
    pub about: About,
    /// Keep playbooks off for this long; left out: 1h, or 24h with --mistake
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    pub lasting: Option<Millis>,
    /// It should not have been restricted: recorded as a false positive
    #[arg(long)]
    pub mistake: bool,
    /// Wait this long for a running instance to carry it out; 0s: do not
    #[arg(long, value_name = "DURATION", value_parser = lasting, default_value = "10s")]
    pub wait: Millis,
}

/// Exempt somebody: never restricted by any playbook, at any edge
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis allow 198.51.100.0/24 --tenant shop --reason 'our offices'\n  portcullis allow 198.51.100.0/24 --tenant shop --reason 'they moved out' --remove"
)]
pub struct AllowArgs {
    #[command(flatten)]
    pub about: About,
    /// End by itself after this long; left out: it does not
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    pub lasting: Option<Millis>,
    /// Take it back
    #[arg(long, conflicts_with = "lasting")]
    pub remove: bool,
}

/// Report whoever touches an address, a range, an autonomous system or an account; restrict nobody
///
/// A tripwire: the playbook `tripwire` says it, once an hour for each address. A range that is blocked by a person is
/// watched by itself. `unblock` ends it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portcullis watch 198.51.100.0/24 --tenant shop --for 30d --reason 'they came from there in June'"
)]
pub struct WatchArgs {
    #[command(flatten)]
    pub about: About,
    /// End by itself after this long; left out: it does not
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    pub lasting: Option<Millis>,
}

/// Stop all enforcement for a tenant at every edge, or start it again
///
/// Playbooks go on in shadow, nobody is challenged, and what is blocked comes back when it is switched off.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis kill-switch on --tenant shop --for 30m --reason 'customers are locked out'\n  portcullis kill-switch off --tenant shop --reason 'it was the load balancer'"
)]
pub struct KillSwitchArgs {
    #[arg(value_enum)]
    pub state: Switch,
    /// End by itself after this long; left out: it does not
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    pub lasting: Option<Millis>,
    #[command(flatten)]
    pub by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Take back what somebody asked for, here or in the console
///
/// A block and a watch are lifted, what was lifted shows again, an exemption and the kill switch end, an override of a
/// playbook is removed. Only what nothing was asked for since can be taken back.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portcullis undo 5d1c0f0a9e3b7c42 --reason 'it was the load balancer'")]
pub struct UndoArgs {
    /// The id that the command printed, or that the console's page of actions shows
    #[arg(value_name = "ID")]
    pub id: String,
    /// Why; stands beside it for good
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Who
    #[arg(long, env = "USER", value_name = "NAME")]
    pub actor: String,
    /// Check it and show what would be asked for; publish nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Wait this long for a running instance to carry it out; 0s: do not
    #[arg(long, value_name = "DURATION", value_parser = lasting, default_value = "10s")]
    pub wait: Millis,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

fn lasting(text: &str) -> Result<Millis, String> {
    let parsed = if text == "0s" { Some(0) } else { parse_duration(text) };
    parsed
        .filter(|ms| *ms <= LASTING_MS_MAX)
        .ok_or_else(|| format!("`{text}` is no duration of at most 366d, such as 30m"))
}

impl ScopeName {
    const fn scope(self) -> Scope {
        match self {
            ScopeName::Ip => Scope::Ip,
            ScopeName::Cidr => Scope::Cidr,
            ScopeName::Asn => Scope::Asn,
            ScopeName::Country => Scope::Country,
            ScopeName::Account => Scope::Account,
            ScopeName::IpAccount => Scope::IpAccount,
            ScopeName::Device => Scope::Device,
            ScopeName::UserAgent => Scope::UserAgent,
            ScopeName::TlsFingerprint => Scope::TlsFingerprint,
        }
    }
}

impl ActionName {
    const fn action(self) -> Action {
        match self {
            ActionName::Throttle => Action::Throttle,
            ActionName::Challenge => Action::Challenge,
            ActionName::StepUp => Action::StepUp,
            ActionName::Block => Action::Block,
            ActionName::LockAccount => Action::LockAccount,
            ActionName::RevokeSessions => Action::RevokeSessions,
        }
    }
}

/// What became of a command.
#[derive(Debug, Serialize)]
struct Done {
    command: Command,
    published: bool,
    /// What the blocklist says of the entity now, where that was waited for.
    entry: Option<BlocklistEntry>,
    note: Option<String>,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Command { kind, scope, value, until, command_id, .. } = &self.command;
        write!(f, "{kind} {scope} {value:?}")?;
        if let Some(until) = until {
            write!(f, " until {}", format_millis(*until))?;
        }
        write!(f, " ({command_id}): {}", if self.published { "published" } else { "not published, as told" })?;
        if let Some(entry) = &self.entry {
            let until = entry.until.map_or_else(|| "taken back".to_owned(), format_millis);
            write!(f, "; on the blocklist: {} until {until}", entry.action)?;
        }
        if let Some(note) = &self.note {
            write!(f, "; {note}")?;
        }
        Ok(())
    }
}

impl By {
    fn giver(&self, at: Millis) -> Giver {
        giver(&self.actor, &self.reason, at)
    }

    fn command(&self, kind: CommandKind, (scope, value): (Scope, &str), at: Millis) -> Command {
        Command { incident_id: self.incident.clone(), ..self.giver(at).command(kind, &self.tenant, scope, value) }
    }

    fn how(&self) -> How {
        How { dry_run: self.dry_run, output: self.output }
    }
}

/// Whoever runs this command.
pub(super) fn giver(actor: &str, reason: &str, at: Millis) -> Giver {
    Giver { command_id: new_instance(), at, actor: actor.to_owned(), role: ROLE.to_owned(), reason: reason.to_owned() }
}

/// Whether it is done, and how it is told.
#[derive(Debug, Clone, Copy)]
struct How {
    dry_run: bool,
    output: Output,
}

fn entity(about: &About) -> (Scope, &str) {
    (about.scope.map_or_else(|| guessed_scope(&about.who), ScopeName::scope), &about.who)
}

/// `block`.
///
/// # Errors
/// It makes no sense, the cluster does not take it, or nobody carries it out.
pub fn block(args: &BlockArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let mut command = args.about.by.command(CommandKind::Block, entity(&args.about), at);
    command.action = args.action.action();
    command.until = args.lasting.map(|ms| at.saturating_add(ms));
    command.approved_by.clone_from(&args.approved_by);
    carry_out(command, args.about.by.how(), args.wait, connection, out)
}

/// `unblock`.
///
/// # Errors
/// As [`block`].
pub fn unblock(args: &UnblockArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let kind = if args.mistake { CommandKind::MarkFalsePositive } else { CommandKind::Lift };
    let mut command = args.about.by.command(kind, entity(&args.about), at);
    command.until = args.lasting.map(|ms| at.saturating_add(ms));
    carry_out(command, args.about.by.how(), args.wait, connection, out)
}

/// `watch`.
///
/// # Errors
/// As [`block`].
pub fn watch(args: &WatchArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let mut command = args.about.by.command(CommandKind::Watch, entity(&args.about), at);
    command.until = args.lasting.map(|ms| at.saturating_add(ms));
    carry_out(command, args.about.by.how(), 0, connection, out)
}

/// `allow`.
///
/// # Errors
/// As [`block`].
pub fn allow(args: &AllowArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let mut command = args.about.by.command(CommandKind::Allow, entity(&args.about), at);
    command.until = if args.remove { Some(at) } else { args.lasting.map(|ms| at.saturating_add(ms)) };
    carry_out(command, args.about.by.how(), 0, connection, out)
}

/// `kill-switch`.
///
/// # Errors
/// As [`block`].
pub fn kill_switch(args: &KillSwitchArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let is_off = args.state == Switch::Off;
    let mut command = args.by.command(CommandKind::KillSwitch, (Scope::Tenant, &args.by.tenant), at);
    command.until = if is_off { Some(at) } else { args.lasting.map(|ms| at.saturating_add(ms)) };
    carry_out(command, args.by.how(), 0, connection, out)
}

/// `undo`.
///
/// # Errors
/// There is no such command, it cannot be taken back, or as [`block`].
pub fn undo(
    args: &UndoArgs,
    settings: &Settings,
    connection: &Connection,
    now: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    let mut trail = Trail::default();
    let mut follower = Follower::new(&connection.client, &[connection.topics.public("commands")], ReadFrom::Start)?;
    follower.to_end::<Error>(|record| {
        // What does not read was no command of anybody's.
        let _read = trail.take(record.value.as_deref());
        Ok(())
    })?;
    let done = trail.get(&args.id).ok_or_else(|| {
        Error::Setup(format!(
            "{}: no command of this id on the topic; the console's page of actions has the ids",
            args.id
        ))
    })?;
    if let Some(newer) = trail.newer(done) {
        return Err(Error::Setup(format!(
            "{}: what it is about was changed since, by {} of {:?} ({}); undo that, or say what you want instead",
            args.id, newer.kind, newer.actor, newer.command_id
        ))
        .into());
    }
    let at = now();
    let command = taken_back(done, giver(&args.actor, &args.reason, at))
        .map_err(|why| Error::Setup(format!("{}: {why}", args.id)))?;
    let how = How { dry_run: args.dry_run, output: args.output };
    if command.kind != CommandKind::Playbook {
        return carry_out(command, how, args.wait, connection, out);
    }
    let changing = Changing { settings, connection, now: &now };
    let command = playbook_changes::end_override(&changing, command, args.dry_run)?;
    let done = Done { published: !args.dry_run, command, entry: None, note: None };
    args.output.write(out, &done, &done.to_string())?;
    Ok(Ending::Well)
}

/// Publishes what is asked for, and waits until the blocklist shows it where somebody carries it out.
fn carry_out(
    command: Command,
    how: How,
    wait_ms: Millis,
    connection: &Connection,
    out: &mut dyn Write,
) -> Result<Ending> {
    let asked = Asked::new(command).map_err(Error::Setup)?;
    let mut done = Done { published: false, command: asked.command.clone(), entry: None, note: None };
    if how.dry_run {
        how.output.write(out, &done, &done.to_string())?;
        return Ok(Ending::Well);
    }
    let is_seen = matches!(asked.request.ask, Ask::Block(_) | Ask::Lift);
    let list = if wait_ms > 0 && is_seen { Some(Listed::read(connection, &asked.request.entity)?) } else { None };
    publish(connection, &asked.records, done.command.at)?;
    done.published = true;
    if let Some(mut list) = list {
        // What is not on the list cannot be seen to leave it.
        if asked.request.ask == Ask::Lift && list.entry.is_none() {
            done.note = Some("nothing restricted it".to_owned());
        } else if !list.wait(wait_ms, |entry| asked.is_shown_by(entry))? {
            let topic = connection.topics.public("commands");
            return Err(Error::Kafka(format!(
                "{topic} has it ({}), but nobody carried it out in time: does `portcullis run` run, and is its /status free \
                 of lag?",
                done.command.command_id
            ))
            .into());
        }
        done.entry.clone_from(&list.entry);
    }
    how.output.write(out, &done, &done.to_string())?;
    Ok(Ending::Well)
}

/// Writes records of control topics, in their order: one is confirmed before the next is sent.
pub(super) fn publish(connection: &Connection, records: &[ControlRecord], at: Millis) -> Result<()> {
    let publisher = Publisher::new(&connection.client)?;
    for (written, ControlRecord { topic, key, value }) in records.iter().enumerate() {
        let topic = connection.topics.public(topic);
        publisher.check(&topic)?;
        publisher.send_control(&topic, key.as_bytes(), value.as_deref(), &[], at)?;
        if let Some(why) = publisher.flush(DELIVERY_MAX)?.first_failure {
            let changed = if written == 0 { "nothing changed" } else { "it is done, and not written down" };
            return Err(Error::Kafka(format!("{topic} did not take it: {why}; {changed}")).into());
        }
    }
    Ok(())
}

/// What the blocklist says of one entity.
struct Listed {
    key: String,
    follower: Follower,
    entry: Option<BlocklistEntry>,
}

impl Listed {
    /// Reads the blocklist to its end.
    fn read(connection: &Connection, entity: &Entity) -> Result<Listed> {
        let mut follower =
            Follower::new(&connection.client, &[connection.topics.public("blocklist")], ReadFrom::Start)?;
        let (key, mut entry) = (entity.key(), None);
        follower.to_end::<Error>(|record| {
            if let Some(said) = said_of(&key, record) {
                entry = said;
            }
            Ok(())
        })?;
        Ok(Listed { key, follower, entry })
    }

    /// Whether `is_there` holds within `wait_ms`, in steps of [`WAIT`].
    fn wait(&mut self, wait_ms: Millis, is_there: impl Fn(Option<&BlocklistEntry>) -> bool) -> Result<bool> {
        let mut waits = 0;
        while !is_there(self.entry.as_ref()) {
            match self.follower.poll(WAIT)? {
                Followed::Record(record) => {
                    if let Some(said) = said_of(&self.key, &record) {
                        self.entry = said;
                    }
                }
                Followed::CaughtUp | Followed::Idle => waits += 1,
            }
            if waits * WAIT.as_millis() > u128::try_from(wait_ms).unwrap_or_default() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a record of the blocklist says of a key: nothing, or the entry that stands under it now.
fn said_of(key: &str, record: &Incoming) -> Option<Option<BlocklistEntry>> {
    let is_theirs = record.key.as_deref() == Some(key.as_bytes());
    is_theirs.then(|| record.value.as_deref().and_then(|value| decode_output("blocklist", value).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_at_most_a_year() {
        assert_eq!(lasting("0s"), Ok(0));
        assert_eq!(lasting("30m"), Ok(1_800_000));
        assert!(lasting("400d").is_err() && lasting("soon").is_err());
    }
}
