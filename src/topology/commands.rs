//! What people ask for on the topic `commands`, checked: who, why, about whom, for how long. The owner of the entity
//! carries it out. Nothing here reads a clock.

use serde::{Deserialize, Serialize};

use super::exemptions::{canonical, is_tenant, prefix_of};
use crate::event::wire::{TEXT_BYTES_MAX, USER_AGENT_BYTES_MAX};
use crate::event::{Action, Command, CommandKind, Entity, Millis, Scope, Source, reserved_inside};

/// How long playbooks are kept off an entity by a lift that says no end.
pub const LIFT_MS: Millis = 3_600_000;
/// The same for what was marked as a mistake.
pub const MISTAKE_MS: Millis = 24 * 3_600_000;
/// Widest ranges that anybody may restrict.
const V4_LENGTH_MIN: u8 = 8;
const V6_LENGTH_MIN: u8 = 16;
/// Wider ranges than these need a second person.
const V4_ALONE_MIN: u8 = 20;
const V6_ALONE_MIN: u8 = 40;
/// Longest name of a person and of a command, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Restrict the entity so.
    Block(Action),
    /// End what restricts it, and keep playbooks off it until the end.
    Lift,
    /// Report whoever touches it, and restrict nobody.
    Watch,
    /// Nothing: it stands elsewhere (exemptions, playbooks), and here for the record.
    Recorded,
}

/// A command that makes sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub command_id: Box<str>,
    /// When it was given, as far as it is believed.
    pub at: Millis,
    pub actor: Box<str>,
    pub ask: Ask,
    pub entity: Entity,
    /// `None`: no end.
    pub until: Option<Millis>,
    pub reason: Box<str>,
    pub incident_id: Option<Box<str>>,
}

impl Request {
    /// Checks a command that arrived at `at`.
    ///
    /// # Errors
    /// What is wrong with it, with the field and what to write instead.
    pub fn of(command: &Command, at: Millis) -> Result<Request, String> {
        let named = |field: &str, text: &str| {
            let is_fine = !text.trim().is_empty() && text.len() <= NAME_BYTES_MAX;
            if is_fine { Ok(()) } else { Err(format!("{field}: 1 to {NAME_BYTES_MAX} bytes")) }
        };
        named("command_id", &command.command_id)?;
        named("actor", &command.actor)?;
        if command.reason.trim().is_empty() || command.reason.len() > TEXT_BYTES_MAX {
            return Err(format!("reason: say why, in at most {TEXT_BYTES_MAX} bytes"));
        }
        // Playbooks are of no tenant.
        let is_of_all = command.kind == CommandKind::Playbook && command.tenant.is_empty();
        if !is_of_all && !is_tenant(&command.tenant) {
            return Err("tenant: not a tenant's name, which matches [a-z0-9][a-z0-9._-]{0,62}".to_owned());
        }
        let ask = match command.kind {
            CommandKind::Block if command.action.restricts() => Ask::Block(command.action),
            CommandKind::Block => return Err(format!("action: {} restricts nobody", command.action)),
            CommandKind::Watch => Ask::Watch,
            CommandKind::Lift | CommandKind::MarkFalsePositive => Ask::Lift,
            CommandKind::Other
            | CommandKind::Allow
            | CommandKind::MarkConfirmed
            | CommandKind::KillSwitch
            | CommandKind::Playbook
            | CommandKind::Reject => Ask::Recorded,
        };
        let (scope, value) = match ask {
            Ask::Recorded => (command.scope, command.value.clone()),
            Ask::Block(_) | Ask::Lift | Ask::Watch => entity_value(command.scope, &command.value)?,
        };
        match ask {
            Ask::Block(_) => check_block(command, scope, &value)?,
            Ask::Watch => check_watch(scope)?,
            Ask::Lift | Ask::Recorded => {}
        }
        // A request is checked as what it asks for, so that nobody agrees to what makes no sense.
        let ask = if command.pending_until.is_some() { Ask::Recorded } else { ask };
        let until = match (command.kind, command.until) {
            (_, Some(until)) => Some(until),
            (CommandKind::Lift, None) => Some(at.saturating_add(LIFT_MS)),
            (CommandKind::MarkFalsePositive, None) => Some(at.saturating_add(MISTAKE_MS)),
            (_, None) => None,
        };
        Ok(Request {
            command_id: command.command_id.as_str().into(),
            at,
            actor: command.actor.as_str().into(),
            ask,
            entity: Entity { tenant: command.tenant.as_str().into(), scope, value: value.into() },
            until,
            reason: command.reason.as_str().into(),
            incident_id: command.incident_id.as_deref().map(Into::into),
        })
    }
}

/// The canonical form of what may be restricted.
fn entity_value(scope: Scope, value: &str) -> Result<(Scope, String), String> {
    let named = |bytes_max: usize| {
        let is_fine = !value.is_empty() && value.len() <= bytes_max;
        if is_fine { Ok((scope, value.to_owned())) } else { Err(format!("value: 1 to {bytes_max} bytes")) }
    };
    match scope {
        Scope::Ip | Scope::Cidr | Scope::Account | Scope::IpAccount | Scope::Asn | Scope::Device => {
            canonical(scope, value)
        }
        Scope::Country | Scope::TlsFingerprint => named(TEXT_BYTES_MAX),
        Scope::UserAgent => named(USER_AGENT_BYTES_MAX),
        Scope::Tenant => Err("scope: a whole tenant is not restricted by a command; its attack status is".to_owned()),
        Scope::Other => Err("scope: name the kind of entity, such as IP".to_owned()),
    }
}

/// Whether an entity may be very many people, so that one person does not decide about it alone: a range wider than /20
/// (IPv6 /40), an autonomous system, a country, an agent, a fingerprint.
#[must_use]
pub fn is_wide(scope: Scope, value: &str) -> bool {
    match prefix_of(scope, value) {
        Some(net) => net.prefix_len() < if net.addr().is_ipv4() { V4_ALONE_MIN } else { V6_ALONE_MIN },
        None => matches!(scope, Scope::Asn | Scope::Country | Scope::UserAgent | Scope::TlsFingerprint),
    }
}

fn check_block(command: &Command, scope: Scope, value: &str) -> Result<(), String> {
    if let Some(net) = prefix_of(scope, value) {
        let length_min = if net.addr().is_ipv4() { V4_LENGTH_MIN } else { V6_LENGTH_MIN };
        if !Source::from(net.network()).is_blockable() || reserved_inside(&net) {
            return Err(format!("value: {value} is a private, shared or reserved range, or holds one"));
        }
        if net.prefix_len() < length_min {
            return Err(format!("value: {value} is wider than /{length_min}"));
        }
    } else if scope == Scope::IpAccount
        && !super::exemptions::pair_of(value).is_some_and(|(source, _)| source.is_blockable())
    {
        return Err(format!("value: {value} names a private, shared or reserved address"));
    }
    let second = command.approved_by.as_deref().map(str::trim).filter(|second| !second.is_empty());
    if command.pending_until.is_none()
        && is_wide(scope, value)
        && second.is_none_or(|second| second == command.actor.trim())
    {
        return Err(format!("approved_by: {scope} {value} may be very many people; a second person must agree"));
    }
    Ok(())
}

fn check_watch(scope: Scope) -> Result<(), String> {
    match scope {
        Scope::Ip | Scope::Cidr | Scope::Asn | Scope::Account => Ok(()),
        Scope::Other
        | Scope::Country
        | Scope::IpAccount
        | Scope::Device
        | Scope::UserAgent
        | Scope::TlsFingerprint
        | Scope::Tenant => Err("scope: what can be watched is IP, CIDR, ASN or ACCOUNT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(kind: CommandKind, scope: Scope, value: &str) -> Command {
        Command {
            command_id: "c-1".to_owned(),
            at: 5,
            actor: "ada".to_owned(),
            role: "operator".to_owned(),
            tenant: "shop".to_owned(),
            kind,
            scope,
            value: value.to_owned(),
            action: Action::Block,
            until: None,
            reason: "seen in the logs".to_owned(),
            incident_id: None,
            undoes: None,
            approved_by: None,
            pending_until: None,
            answers: None,
            detail: String::new(),
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_field() {
        let block = |scope, value| command(CommandKind::Block, scope, value);
        for (command, field) in [
            (Command { actor: " ".into(), ..block(Scope::Ip, "203.0.113.9") }, "actor"),
            (Command { command_id: String::new(), ..block(Scope::Ip, "203.0.113.9") }, "command_id"),
            (Command { reason: String::new(), ..block(Scope::Ip, "203.0.113.9") }, "reason"),
            (Command { tenant: "No".into(), ..block(Scope::Ip, "203.0.113.9") }, "tenant"),
            (Command { action: Action::Notify, ..block(Scope::Ip, "203.0.113.9") }, "action"),
            (block(Scope::Ip, "203.0.113"), "value"),
            (block(Scope::Ip, "10.0.0.1"), "value"),
            (block(Scope::Cidr, "0.0.0.0/0"), "value"),
            (block(Scope::Cidr, "192.0.0.0/7"), "value"),
            (block(Scope::Cidr, "172.0.0.0/8"), "value"),
            (block(Scope::Cidr, "198.48.0.0/12"), "approved_by"),
            (block(Scope::Asn, "64500"), "approved_by"),
            (Command { approved_by: Some("ada".into()), ..block(Scope::Country, "FR") }, "approved_by"),
            (block(Scope::Tenant, "shop"), "scope"),
            (block(Scope::IpAccount, "10.0.0.1|bob"), "value"),
            (command(CommandKind::Watch, Scope::Device, "d"), "scope"),
        ] {
            let refused = Request::of(&command, 9).unwrap_err();
            assert!(refused.starts_with(field), "{refused}");
        }
    }

    #[test]
    fn values_become_canonical_and_a_lift_has_an_end() {
        let request = Request::of(&command(CommandKind::Block, Scope::Ip, "2001:db8::5"), 9).unwrap();
        assert_eq!((request.entity.scope, &*request.entity.value), (Scope::Cidr, "2001:db8::/64"));
        assert_eq!((request.ask, request.until, request.at), (Ask::Block(Action::Block), None, 9));
        let lift = Request::of(&command(CommandKind::Lift, Scope::Account, " Ada@Example.com "), 9).unwrap();
        assert_eq!((&*lift.entity.value, lift.until), ("ada@example.com", Some(9 + LIFT_MS)));
        let mistake = Request::of(&command(CommandKind::MarkFalsePositive, Scope::Ip, "203.0.113.9"), 9).unwrap();
        assert_eq!((mistake.ask, mistake.until), (Ask::Lift, Some(9 + MISTAKE_MS)));
        let second = Command { approved_by: Some("bob".into()), ..command(CommandKind::Block, Scope::Asn, "AS64500") };
        assert_eq!(&*Request::of(&second, 9).unwrap().entity.value, "64500");
        let pending = Command { pending_until: Some(99), ..command(CommandKind::Block, Scope::Asn, "AS64500") };
        assert_eq!(Request::of(&pending, 9).unwrap().ask, Ask::Recorded, "it waits for a second person");
        let wrong = Command { pending_until: Some(99), ..command(CommandKind::Block, Scope::Ip, "10.0.0.1") };
        assert!(Request::of(&wrong, 9).unwrap_err().starts_with("value"));
        let of_all = Command { tenant: String::new(), ..command(CommandKind::Playbook, Scope::Other, "a") };
        assert_eq!(Request::of(&of_all, 9).unwrap().ask, Ask::Recorded);
        let allow = command(CommandKind::Allow, Scope::Ip, "10.0.0.1");
        assert_eq!(Request::of(&allow, 9).unwrap().ask, Ask::Recorded);
    }
}
