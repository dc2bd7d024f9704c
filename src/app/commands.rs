//! What a person asks for in the middle of an attack: block, unblock, allow, watch, and the kill switch. Each becomes a
//! record of the topic `commands`, which is the audit trail; the owner of the entity carries it out.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::Serialize;

use super::run::new_instance;
use super::{Connection, Ending, Output};
use crate::event::wire::{decode_output, format_millis};
use crate::event::{Action, BlocklistEntry, Command, CommandKind, Entity, Exemption, Millis, Scope, Source};
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::log::publish::Publisher;
use crate::log::{Error, Incoming};
use crate::topology::exemptions::canonical;
use crate::topology::{Ask, Request, parse_duration};

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

/// What a value names when nobody says it.
fn guessed(who: &str) -> Scope {
    let is_asn = |text: &str| {
        let digits = text.strip_prefix("AS").or_else(|| text.strip_prefix("as"));
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    if who.parse::<Source>().is_ok() {
        Scope::Ip
    } else if who.parse::<IpNet>().is_ok() {
        Scope::Cidr
    } else if is_asn(who) {
        Scope::Asn
    } else {
        Scope::Account
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

/// A command of this person, at this time.
fn command(by: &By, kind: CommandKind, (scope, value): (Scope, String), at: Millis) -> Command {
    Command {
        command_id: new_instance(),
        at,
        actor: by.actor.clone(),
        role: ROLE.to_owned(),
        tenant: by.tenant.clone(),
        kind,
        scope,
        value,
        action: Action::None,
        until: None,
        reason: by.reason.clone(),
        incident_id: by.incident.clone(),
        undoes: None,
        approved_by: None,
    }
}

fn entity(about: &About) -> (Scope, String) {
    (about.scope.map_or_else(|| guessed(&about.who), ScopeName::scope), about.who.clone())
}

/// `block`.
///
/// # Errors
/// It makes no sense, the cluster does not take it, or nobody carries it out.
pub fn block(args: &BlockArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let mut command = command(&args.about.by, CommandKind::Block, entity(&args.about), at);
    command.action = args.action.action();
    command.until = args.lasting.map(|ms| at.saturating_add(ms));
    command.approved_by.clone_from(&args.approved_by);
    carry_out(command, &args.about.by, args.wait, connection, out)
}

/// `unblock`.
///
/// # Errors
/// As [`block`].
pub fn unblock(args: &UnblockArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let kind = if args.mistake { CommandKind::MarkFalsePositive } else { CommandKind::Lift };
    let mut command = command(&args.about.by, kind, entity(&args.about), at);
    command.until = args.lasting.map(|ms| at.saturating_add(ms));
    carry_out(command, &args.about.by, args.wait, connection, out)
}

/// `watch`.
///
/// # Errors
/// As [`block`].
pub fn watch(args: &WatchArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let mut command = command(&args.about.by, CommandKind::Watch, entity(&args.about), at);
    command.until = args.lasting.map(|ms| at.saturating_add(ms));
    carry_out(command, &args.about.by, 0, connection, out)
}

/// `allow`.
///
/// # Errors
/// As [`block`].
pub fn allow(args: &AllowArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let (scope, value) = entity(&args.about);
    let canonical = canonical(scope, &value).map_err(Error::Setup)?;
    let mut command = command(&args.about.by, CommandKind::Allow, canonical, at);
    command.until = if args.remove { Some(at) } else { args.lasting.map(|ms| at.saturating_add(ms)) };
    exempt(command, &args.about.by, args.remove, connection, out)
}

/// `kill-switch`.
///
/// # Errors
/// As [`block`].
pub fn kill_switch(args: &KillSwitchArgs, connection: &Connection, at: Millis, out: &mut dyn Write) -> Result<Ending> {
    let is_off = args.state == Switch::Off;
    let tenant = (Scope::Tenant, args.by.tenant.clone());
    let mut command = command(&args.by, CommandKind::KillSwitch, tenant, at);
    command.until = if is_off { Some(at) } else { args.lasting.map(|ms| at.saturating_add(ms)) };
    exempt(command, &args.by, is_off, connection, out)
}

/// What stages and edges obey at once is an exemption; the command is its record.
fn exempt(command: Command, by: &By, ends: bool, connection: &Connection, out: &mut dyn Write) -> Result<Ending> {
    let request = Request::of(&command, command.at).map_err(Error::Setup)?;
    let key = request.entity.key();
    let exemption = Exemption {
        tenant: command.tenant.clone(),
        scope: command.scope,
        value: command.value.clone(),
        since: command.at,
        until: command.until,
        reason: command.reason.clone(),
        actor: Some(command.actor.clone()),
        generation: command.at,
    };
    let record = (!ends).then(|| serde_json::to_vec(&exemption)).transpose()?;
    if !by.dry_run {
        let publisher = Publisher::new(&connection.client)?;
        send(&publisher, connection, "exemptions", &key, record.as_deref(), command.at)?;
        send(
            &publisher,
            connection,
            "commands",
            &command.command_id,
            Some(&serde_json::to_vec(&command)?),
            command.at,
        )?;
    }
    let done = Done { published: !by.dry_run, command, entry: None, note: None };
    by.output.write(out, &done, &done.to_string())?;
    Ok(Ending::Well)
}

/// Publishes a command that its owner carries out, and waits until the blocklist shows it.
fn carry_out(
    mut command: Command,
    by: &By,
    wait_ms: Millis,
    connection: &Connection,
    out: &mut dyn Write,
) -> Result<Ending> {
    let request = Request::of(&command, command.at).map_err(Error::Setup)?;
    (command.scope, command.value) = (request.entity.scope, request.entity.value.to_string());
    command.until = request.until;
    let mut done = Done { published: false, command, entry: None, note: None };
    if by.dry_run {
        by.output.write(out, &done, &done.to_string())?;
        return Ok(Ending::Well);
    }
    let mut list =
        if wait_ms > 0 && request.ask != Ask::Watch { Some(Listed::read(connection, &request.entity)?) } else { None };
    let publisher = Publisher::new(&connection.client)?;
    let value = serde_json::to_vec(&done.command)?;
    send(&publisher, connection, "commands", &done.command.command_id, Some(&value), done.command.at)?;
    done.published = true;
    if let Some(list) = &mut list {
        match request.ask {
            // What is not on the list cannot be seen to leave it.
            Ask::Lift if list.entry.is_none() => done.note = Some("nothing restricted it".to_owned()),
            Ask::Block(_) | Ask::Lift | Ask::Watch | Ask::Recorded => {
                if !list.wait(wait_ms, |entry| shows(&request, entry))? {
                    let topic = connection.topics.public("commands");
                    return Err(Error::Kafka(format!(
                        "{topic} has it ({}), but nobody carried it out in time: does `portcullis run` run, and is its \
                         /status free of lag?",
                        done.command.command_id
                    ))
                    .into());
                }
                done.entry.clone_from(&list.entry);
            }
        }
    }
    by.output.write(out, &done, &done.to_string())?;
    Ok(Ending::Well)
}

/// Whether the blocklist shows what was asked for. A block may stand behind a stronger one.
fn shows(request: &Request, entry: Option<&BlocklistEntry>) -> bool {
    match request.ask {
        Ask::Block(action) => entry.is_some_and(|entry| {
            entry.actor.as_deref() == Some(&*request.actor) || entry.action.strength() > action.strength()
        }),
        Ask::Lift => entry.is_none(),
        Ask::Watch | Ask::Recorded => true,
    }
}

fn send(
    publisher: &Publisher,
    connection: &Connection,
    topic: &str,
    key: &str,
    value: Option<&[u8]>,
    at: Millis,
) -> Result<()> {
    let topic = connection.topics.public(topic);
    publisher.check(&topic)?;
    publisher.send_control(&topic, key.as_bytes(), value, &[], at)?;
    match publisher.flush(DELIVERY_MAX)?.first_failure {
        None => Ok(()),
        Some(why) => Err(Error::Kafka(format!("{topic} did not take it: {why}; nothing changed")).into()),
    }
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
    fn what_a_value_names_shows() {
        for (who, scope) in [
            ("203.0.113.9", Scope::Ip),
            ("2001:db8::1", Scope::Ip),
            ("198.51.100.0/24", Scope::Cidr),
            ("AS64500", Scope::Asn),
            ("as", Scope::Account),
            ("ada@example.com", Scope::Account),
            ("203.0.113", Scope::Account),
        ] {
            assert_eq!(guessed(who), scope, "{who}");
        }
        assert_eq!(lasting("0s"), Ok(0));
        assert_eq!(lasting("30m"), Ok(1_800_000));
        assert!(lasting("400d").is_err() && lasting("soon").is_err());
    }
}
