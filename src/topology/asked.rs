//! What a person asks for, made into the records that ask for it, and taken back again. The command line and the console
//! share it, so that both write the same. Nothing here reads a clock.
//!
//! ```text
//! Command ──▶ Asked { command, request, records } ──▶ exemptions, commands
//! ```

use ipnet::IpNet;

use super::commands::{Ask, Request};
use super::exemptions::canonical;
use crate::event::{Action, BlocklistEntry, Command, CommandKind, Exemption, Millis, Scope, Source};

/// A record of a control topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRecord {
    /// The topic, by its name in the contract.
    pub topic: &'static str,
    pub key: String,
    /// `None` takes back what stands under the key.
    pub value: Option<Vec<u8>>,
}

/// A command that makes sense, with what is to be written, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its entity in canonical form, its end as it will be.
    pub command: Command,
    pub request: Request,
    pub records: Vec<ControlRecord>,
}

impl Asked {
    /// Checks a command and makes its records. What stages and edges obey at once (ALLOW, KILL_SWITCH) is an exemption, and
    /// the command is its record; one whose end is not after its own time takes the exemption back.
    ///
    /// # Errors
    /// What is wrong, with the field and what to write instead.
    pub fn new(mut command: Command) -> Result<Asked, String> {
        if command.kind == CommandKind::Allow {
            (command.scope, command.value) = canonical(command.scope, &command.value)?;
        }
        let request = Request::of(&command, command.at)?;
        (command.scope, command.value) = (request.entity.scope, request.entity.value.to_string());
        command.until = request.until;
        let mut records = Vec::new();
        if matches!(command.kind, CommandKind::Allow | CommandKind::KillSwitch) && command.pending_until.is_none() {
            let value = if ends(&command) { None } else { Some(json(&exemption(&command))?) };
            records.push(ControlRecord { topic: "exemptions", key: request.entity.key(), value });
        }
        let value = Some(json(&command)?);
        records.push(ControlRecord { topic: "commands", key: command.command_id.clone(), value });
        Ok(Asked { command, request, records })
    }

    /// Whether the blocklist shows what was asked for. A block may stand behind a stronger one.
    #[must_use]
    pub fn is_shown_by(&self, entry: Option<&BlocklistEntry>) -> bool {
        match self.request.ask {
            Ask::Block(action) => entry.is_some_and(|entry| {
                entry.actor.as_deref() == Some(&*self.request.actor) || entry.action.strength() > action.strength()
            }),
            // What restricts it otherwise shows again when a block is taken back.
            Ask::Lift if self.command.undoes.is_some() => entry.is_none_or(|entry| entry.actor.is_none()),
            Ask::Lift => entry.is_none(),
            Ask::Watch | Ask::Recorded => true,
        }
    }
}

/// Whether a command takes back what one of its kind gave.
#[must_use]
pub fn ends(command: &Command) -> bool {
    command.until.is_some_and(|until| until <= command.at)
}

fn exemption(command: &Command) -> Exemption {
    Exemption {
        tenant: command.tenant.clone(),
        scope: command.scope,
        value: command.value.clone(),
        since: command.at,
        until: command.until,
        reason: command.reason.clone(),
        actor: Some(command.actor.clone()),
        generation: command.at,
    }
}

fn json<T: serde::Serialize>(record: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(record).map_err(|e| e.to_string())
}

/// Who gives a command, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Giver {
    pub command_id: String,
    pub at: Millis,
    pub actor: String,
    pub role: String,
    pub reason: String,
}

impl Giver {
    /// A command of theirs about an entity of a tenant, without anything that its kind may need besides.
    #[must_use]
    pub fn command(self, kind: CommandKind, tenant: &str, scope: Scope, value: &str) -> Command {
        Command {
            command_id: self.command_id,
            at: self.at,
            actor: self.actor,
            role: self.role,
            tenant: tenant.to_owned(),
            kind,
            scope,
            value: value.to_owned(),
            action: Action::None,
            until: None,
            reason: self.reason,
            incident_id: None,
            undoes: None,
            approved_by: None,
            pending_until: None,
            answers: None,
            detail: String::new(),
        }
    }
}

/// The kind of command that takes one back, or why there is none. A block and a watch are lifted, and what was lifted shows
/// again: in both cases nothing is kept off. An exemption ends; a playbook's override is removed.
///
/// # Errors
/// Why it cannot be taken back.
pub fn undone_by(done: &Command, now: Millis) -> Result<CommandKind, String> {
    if done.pending_until.is_some() {
        return Err("it waits for a second person, and does nothing by itself: reject it".to_owned());
    }
    let is_over = done.until.is_some_and(|until| until <= now);
    match done.kind {
        _ if is_over => Err("it is over, or took something back itself".to_owned()),
        CommandKind::Block | CommandKind::Watch | CommandKind::Lift | CommandKind::MarkFalsePositive => {
            Ok(CommandKind::Lift)
        }
        CommandKind::Allow | CommandKind::KillSwitch => Ok(done.kind),
        CommandKind::Playbook if done.until.is_some() => Ok(CommandKind::Playbook),
        CommandKind::Playbook => Err("it has no end; see `portcullis playbooks remove`".to_owned()),
        CommandKind::MarkConfirmed | CommandKind::Reject | CommandKind::Other => {
            Err(format!("{} is a record, and changed nothing that could be taken back", done.kind))
        }
    }
}

/// The command that takes another one back. For PLAYBOOK it is the record alone: the override is removed on its own topic.
///
/// # Errors
/// Why it cannot be taken back.
pub fn undo(done: &Command, by: Giver) -> Result<Command, String> {
    let kind = undone_by(done, by.at)?;
    let at = by.at;
    let mut command = by.command(kind, &done.tenant, done.scope, &done.value);
    command.until = Some(at);
    command.incident_id.clone_from(&done.incident_id);
    command.undoes = Some(done.command_id.clone());
    Ok(command)
}

/// Whether two commands are about the same, so that the later one has the last word.
#[must_use]
pub fn is_same_subject(a: &Command, b: &Command) -> bool {
    let of = |command: &Command| match command.kind {
        CommandKind::Block | CommandKind::Watch | CommandKind::Lift | CommandKind::MarkFalsePositive => 0,
        CommandKind::Allow => 1,
        CommandKind::KillSwitch => 2,
        CommandKind::Playbook => 3,
        CommandKind::MarkConfirmed | CommandKind::Reject | CommandKind::Other => 4,
    };
    let acts = |command: &Command| command.pending_until.is_none();
    acts(a) && acts(b) && of(a) == of(b) && a.tenant == b.tenant && a.scope == b.scope && a.value == b.value
}

/// What a value names when nobody says it.
#[must_use]
pub fn guessed_scope(who: &str) -> Scope {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn giver(id: &str, at: Millis) -> Giver {
        Giver {
            command_id: id.to_owned(),
            at,
            actor: "ada".to_owned(),
            role: "operator".to_owned(),
            reason: "seen at night".to_owned(),
        }
    }

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
            assert_eq!(guessed_scope(who), scope, "{who}");
        }
    }

    #[test]
    fn an_exemption_is_written_before_its_record_and_taken_back_by_a_tombstone() {
        let allow = Asked::new(giver("c1", 5).command(CommandKind::Allow, "shop", Scope::Ip, "2001:db8::9")).unwrap();
        let topics: Vec<_> = allow.records.iter().map(|record| (record.topic, &*record.key)).collect();
        assert_eq!(topics, [("exemptions", "shop|CIDR|2001:db8::/64"), ("commands", "c1")]);
        assert!(allow.records[0].value.is_some());
        let undone = Asked::new(undo(&allow.command, giver("c2", 6)).unwrap()).unwrap();
        assert_eq!((&undone.records[0].value, undone.command.undoes.as_deref()), (&None, Some("c1")));
        let waits = Command { pending_until: Some(99), ..allow.command };
        let waits = Asked::new(waits).unwrap();
        assert_eq!(waits.records.len(), 1, "nobody is exempt before a second person agrees");
    }

    #[test]
    fn what_can_be_taken_back_and_by_what() {
        use CommandKind::{Allow, Block, KillSwitch, Lift, MarkConfirmed, MarkFalsePositive, Playbook, Reject, Watch};
        let of = |kind, until| Command { until, ..giver("c1", 5).command(kind, "shop", Scope::Ip, "203.0.113.9") };
        for (kind, until, by) in [
            (Block, None, Some(Lift)),
            (Block, Some(9), Some(Lift)),
            (Block, Some(6), None),
            (Watch, None, Some(Lift)),
            (Lift, Some(99), Some(Lift)),
            (MarkFalsePositive, Some(99), Some(Lift)),
            (Allow, None, Some(Allow)),
            (Allow, Some(5), None),
            (KillSwitch, Some(99), Some(KillSwitch)),
            (Playbook, Some(99), Some(Playbook)),
            (Playbook, None, None),
            (MarkConfirmed, None, None),
            (Reject, None, None),
        ] {
            assert_eq!(undone_by(&of(kind, until), 7).ok(), by, "{kind} until {until:?}");
        }
        // What restricted it otherwise shows again at once.
        assert_eq!(undo(&of(Block, None), giver("c2", 7)).unwrap().until, Some(7));
        let pending = Command { pending_until: Some(99), ..of(Block, None) };
        assert!(undone_by(&pending, 7).unwrap_err().contains("second person"));
    }

    #[test]
    fn the_later_of_two_commands_about_the_same_has_the_last_word() {
        let of = |kind, value| giver("c", 5).command(kind, "shop", Scope::Ip, value);
        let block = of(CommandKind::Block, "203.0.113.9");
        assert!(is_same_subject(&block, &of(CommandKind::Lift, "203.0.113.9")));
        assert!(!is_same_subject(&block, &of(CommandKind::Lift, "203.0.113.8")));
        assert!(!is_same_subject(&block, &of(CommandKind::Allow, "203.0.113.9")));
        assert!(!is_same_subject(&block, &Command { pending_until: Some(9), ..block.clone() }));
    }
}
