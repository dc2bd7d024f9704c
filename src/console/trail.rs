//! What people asked for, by the topic `commands`, and what came of it.

use std::collections::BTreeMap;

use super::board::Board;
use crate::edge::Standing;
use crate::event::wire::decode_output;
use crate::event::{Command, CommandKind, Entity, Millis};
use crate::topology::exemptions::prefix_of;
use crate::topology::{Request, ends, is_same_subject, is_wide};

/// Most commands that are held, the newest ones.
pub const COMMANDS_MAX: usize = 10_000;
/// A command that takes away more entries than this needs a second person.
pub const ENTRIES_ALONE_MAX: usize = 1_000;

/// The newest commands.
#[derive(Debug, Default)]
pub struct Trail {
    by_time: BTreeMap<(Millis, String), Command>,
    times: BTreeMap<String, Millis>,
    /// By request, the command that answered it first.
    answers: BTreeMap<String, String>,
}

impl Trail {
    /// Takes a record of the topic; `None` when it is no command. The same id twice is one command.
    pub fn take(&mut self, value: Option<&[u8]>) -> Option<()> {
        let command: Command = decode_output("commands", value?).ok()?;
        if self.times.contains_key(&command.command_id) {
            return Some(());
        }
        if let Some(request) = &command.answers
            && !self.answers.contains_key(request)
        {
            self.answers.insert(request.clone(), command.command_id.clone());
        }
        self.times.insert(command.command_id.clone(), command.at);
        self.by_time.insert((command.at, command.command_id.clone()), command);
        while self.by_time.len() > COMMANDS_MAX {
            if let Some(((_, id), gone)) = self.by_time.pop_first() {
                self.times.remove(&id);
                self.answers.remove(&id);
                if let Some(request) = gone.answers {
                    self.answers.remove(&request);
                }
            }
        }
        Some(())
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Command> {
        let at = self.times.get(id)?;
        self.by_time.get(&(*at, id.to_owned()))
    }

    /// The newest first.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.by_time.values().rev()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// The newest command about the same that came after this one.
    #[must_use]
    pub fn newer(&self, than: &Command) -> Option<&Command> {
        let place = (than.at, than.command_id.clone());
        self.commands()
            .take_while(|of| (of.at, &of.command_id) > (place.0, &place.1))
            .find(|of| is_same_subject(of, than))
    }

    /// The command that carried out or rejected a request.
    #[must_use]
    pub fn answer_to(&self, request: &str) -> Option<&Command> {
        self.get(self.answers.get(request)?)
    }
}

/// What came of a command, as far as the topics say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A second person is asked.
    Waits {
        until: Millis,
    },
    Approved {
        by: String,
        command_id: String,
    },
    Rejected {
        by: String,
        reason: String,
    },
    /// Nobody answered in time.
    RanOut,
    /// Whoever carries it out will not: it makes no sense.
    Refused(String),
    /// It is on its topic and not carried out yet.
    NotYet,
    /// It is in effect.
    Done,
    /// It stands in effect behind something stronger.
    Behind,
    /// Its end has passed, or it took something back.
    Over,
    /// Somebody asked for something else since.
    Replaced {
        by: String,
        command_id: String,
    },
    /// It changes nothing that a topic shows.
    Recorded,
}

impl Board {
    /// What came of a command.
    #[must_use]
    pub fn outcome(&self, command: &Command, now: Millis) -> Outcome {
        if let Some(until) = command.pending_until {
            return match self.trail().answer_to(&command.command_id) {
                Some(answer) if answer.kind == CommandKind::Reject => {
                    Outcome::Rejected { by: answer.actor.clone(), reason: answer.reason.clone() }
                }
                Some(answer) => Outcome::Approved {
                    by: answer.approved_by.clone().unwrap_or_default(),
                    command_id: answer.command_id.clone(),
                },
                None if until > now => Outcome::Waits { until },
                None => Outcome::RanOut,
            };
        }
        if let Err(why) = Request::of(command, command.at) {
            return Outcome::Refused(why);
        }
        match command.kind {
            CommandKind::MarkConfirmed | CommandKind::Reject | CommandKind::Other => return Outcome::Recorded,
            CommandKind::Block
            | CommandKind::Watch
            | CommandKind::Allow
            | CommandKind::Lift
            | CommandKind::MarkFalsePositive
            | CommandKind::KillSwitch
            | CommandKind::Playbook => {}
        }
        if let Some(newer) = self.trail().newer(command) {
            return Outcome::Replaced { by: newer.actor.clone(), command_id: newer.command_id.clone() };
        }
        let is_over = command.until.is_some_and(|until| until <= now);
        if is_over && !ends(command) {
            return Outcome::Over;
        }
        let is_seen = match command.kind {
            CommandKind::Block => return self.outcome_of_block(command),
            CommandKind::Watch => return Outcome::Recorded,
            // One that takes a block back leaves what restricts it otherwise.
            CommandKind::Lift if command.undoes.is_some() => {
                self.lists().desired().get(&key_of(command)).is_none_or(|entry| entry.actor.is_none())
            }
            CommandKind::Lift | CommandKind::MarkFalsePositive => {
                let desired = self.lists().desired();
                let entry = desired.get(&key_of(command));
                entry.is_none_or(|entry| desired.standing(entry, now) != Standing::Enforced)
            }
            CommandKind::Allow | CommandKind::KillSwitch => self.is_exempt(command, now) != ends(command),
            CommandKind::Playbook => self.is_overridden(command) != ends(command),
            CommandKind::MarkConfirmed | CommandKind::Reject | CommandKind::Other => true,
        };
        match (is_seen, ends(command)) {
            (false, _) => Outcome::NotYet,
            (true, true) => Outcome::Over,
            (true, false) => Outcome::Done,
        }
    }

    fn outcome_of_block(&self, command: &Command) -> Outcome {
        match self.lists().desired().get(&key_of(command)) {
            Some(entry) if entry.verdict_id.as_deref() == Some(&command.command_id) => Outcome::Done,
            Some(entry) if entry.actor.as_deref() == Some(&command.actor) => Outcome::Done,
            Some(entry) if entry.action.strength() > command.action.strength() => Outcome::Behind,
            Some(_) | None => Outcome::NotYet,
        }
    }

    fn is_exempt(&self, command: &Command, now: Millis) -> bool {
        let exemptions = self.lists().desired().exemptions();
        let covers = match command.kind {
            CommandKind::KillSwitch => exemptions.covers_tenant(&command.tenant, now),
            CommandKind::Other
            | CommandKind::Block
            | CommandKind::Watch
            | CommandKind::Allow
            | CommandKind::Lift
            | CommandKind::MarkConfirmed
            | CommandKind::MarkFalsePositive
            | CommandKind::Playbook
            | CommandKind::Reject => exemptions.covers_entity(&entity_of(command), now),
        };
        // A wider one, or one of the file, is another one.
        covers.is_some_and(|exemption| exemption.value == command.value)
    }

    fn is_overridden(&self, command: &Command) -> bool {
        let of = self.playbooks().iter().find(|playbook| playbook.id == command.value);
        of.is_some_and(|playbook| match command.until {
            Some(until) if !ends(command) => playbook.is_override && playbook.until == Some(until),
            Some(_) => playbook.is_override,
            None => !playbook.is_override,
        })
    }

    /// Why a command needs a second person, if it does.
    #[must_use]
    pub fn needs_second(&self, command: &Command, now: Millis) -> Option<String> {
        let restricts_or_frees = matches!(command.kind, CommandKind::Block | CommandKind::Allow) && !ends(command);
        if !restricts_or_frees {
            return None;
        }
        if is_wide(command.scope, &command.value) {
            return Some(format!("{} {} may be very many people", command.scope, command.value));
        }
        let freed = if command.kind == CommandKind::Allow { self.entries_inside(command, now) } else { 0 };
        (freed > ENTRIES_ALONE_MAX).then(|| format!("it frees {freed} entries at once, more than {ENTRIES_ALONE_MAX}"))
    }

    /// Entries in force inside of a range.
    fn entries_inside(&self, command: &Command, now: Millis) -> usize {
        let Some(net) = prefix_of(command.scope, &command.value) else { return 0 };
        let desired = self.lists().desired();
        let inside = desired.entries().filter(|(_, entry)| {
            entry.tenant == command.tenant
                && prefix_of(entry.scope, &entry.value).is_some_and(|own| net.contains(&own))
                && desired.standing(entry, now) == Standing::Enforced
        });
        inside.count()
    }
}

fn entity_of(command: &Command) -> Entity {
    Entity { tenant: command.tenant.as_str().into(), scope: command.scope, value: command.value.as_str().into() }
}

fn key_of(command: &Command) -> String {
    entity_of(command).key()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Action, BlocklistEntry, Scope};
    use crate::topology::{Exemptions, Giver};

    fn command(id: &str, at: Millis, kind: CommandKind, value: &str) -> Command {
        let by = Giver {
            command_id: id.to_owned(),
            at,
            actor: "ada".to_owned(),
            role: "operator".to_owned(),
            reason: "seen".to_owned(),
        };
        let scope = if kind == CommandKind::KillSwitch { Scope::Tenant } else { Scope::Ip };
        Command { action: Action::Block, ..by.command(kind, "shop", scope, value) }
    }

    struct Told {
        board: Board,
        disk: super::super::Disk,
        _folder: tempfile::TempDir,
    }

    impl Told {
        fn new() -> Told {
            let folder = tempfile::tempdir().unwrap();
            let disk = super::super::Disk::make(folder.path()).unwrap();
            Told { board: Board::new(Exemptions::default()), disk, _folder: folder }
        }

        fn put<T: serde::Serialize>(&mut self, topic: &str, key: &str, record: &T) {
            let value = serde_json::to_vec(record).unwrap();
            self.board.take(&self.disk, topic, key.as_bytes(), Some(&value), None).unwrap();
        }

        fn ask(&mut self, command: &Command) {
            self.put("commands", &command.command_id, command);
        }

        fn entry(&mut self, value: &str, actor: Option<&str>, verdict: &str, generation: i64) {
            let entry = BlocklistEntry {
                tenant: "shop".to_owned(),
                scope: Scope::Ip,
                value: value.to_owned(),
                action: Action::Block,
                since: generation,
                until: Some(1_000_000),
                generation,
                reason: String::new(),
                playbook: None,
                verdict_id: Some(verdict.to_owned()),
                incident_id: None,
                actor: actor.map(str::to_owned),
                wide: false,
            };
            self.put("blocklist", &format!("shop|IP|{value}"), &entry);
        }
    }

    #[test]
    fn a_block_is_pending_until_the_list_shows_it_and_replaced_when_it_is_lifted() {
        const WHO: &str = "203.0.113.9";
        let mut told = Told::new();
        let block = command("c1", 10, CommandKind::Block, WHO);
        told.ask(&block);
        assert_eq!(told.board.outcome(&block, 20), Outcome::NotYet);
        told.entry(WHO, Some("ada"), "c1", 11);
        assert_eq!(told.board.outcome(&block, 20), Outcome::Done);
        let lift = Command { until: Some(3_600_000), ..command("c2", 30, CommandKind::Lift, WHO) };
        told.ask(&lift);
        assert_eq!(told.board.outcome(&lift, 40), Outcome::NotYet, "the entry still stands");
        let replaced = Outcome::Replaced { by: "ada".to_owned(), command_id: "c2".to_owned() };
        assert_eq!(told.board.outcome(&block, 40), replaced);
        told.board.take(&told.disk, "blocklist", b"shop|IP|203.0.113.9", None, Some(41)).unwrap();
        assert_eq!(told.board.outcome(&lift, 50), Outcome::Done);
        assert_eq!(told.board.outcome(&lift, 4_000_000), Outcome::Over);
    }

    #[test]
    fn a_request_waits_is_answered_once_or_runs_out() {
        let mut told = Told::new();
        let request = Command { pending_until: Some(100), ..command("r1", 10, CommandKind::Block, "198.48.0.0/13") };
        told.ask(&request);
        assert_eq!(told.board.outcome(&request, 50), Outcome::Waits { until: 100 });
        assert_eq!(told.board.outcome(&request, 100), Outcome::RanOut);
        let no = Command {
            answers: Some("r1".to_owned()),
            actor: "grace".to_owned(),
            ..command("r1-no", 60, CommandKind::Reject, "198.48.0.0/13")
        };
        told.ask(&no);
        let late =
            Command { answers: Some("r1".to_owned()), ..command("r1-yes", 61, CommandKind::Block, "198.48.0.0/13") };
        told.ask(&late);
        let rejected = Outcome::Rejected { by: "grace".to_owned(), reason: "seen".to_owned() };
        assert_eq!(told.board.outcome(&request, 100), rejected);
    }

    #[test]
    fn the_kill_switch_is_on_when_the_exemption_says_so() {
        let mut told = Told::new();
        let on = command("c1", 10, CommandKind::KillSwitch, "shop");
        told.ask(&on);
        assert_eq!(told.board.outcome(&on, 20), Outcome::NotYet);
        let asked = crate::topology::Asked::new(on.clone()).unwrap();
        let exemption = &asked.records[0];
        told.board.take(&told.disk, "exemptions", exemption.key.as_bytes(), exemption.value.as_deref(), None).unwrap();
        assert_eq!(told.board.outcome(&on, 20), Outcome::Done);
        let off = Command { until: Some(30), ..command("c2", 30, CommandKind::KillSwitch, "shop") };
        told.ask(&off);
        assert_eq!(told.board.outcome(&off, 40), Outcome::NotYet);
        told.board.take(&told.disk, "exemptions", exemption.key.as_bytes(), None, None).unwrap();
        assert_eq!(told.board.outcome(&off, 40), Outcome::Over);
    }

    #[test]
    fn who_frees_or_restricts_very_many_needs_a_second_person() {
        let mut told = Told::new();
        let allow = Command { scope: Scope::Cidr, ..command("c1", 10, CommandKind::Allow, "198.51.96.0/20") };
        for n in 0..=ENTRIES_ALONE_MAX {
            let who = format!("198.51.{}.{}", 96 + n / 250, 1 + n % 250);
            told.entry(&who, None, "v", 1);
            assert_eq!(told.board.needs_second(&allow, 20).is_some(), n == ENTRIES_ALONE_MAX, "{n}");
        }
        let wide = Command { scope: Scope::Asn, ..command("c2", 10, CommandKind::Block, "64500") };
        assert!(told.board.needs_second(&wide, 20).is_some());
        assert!(told.board.needs_second(&Command { kind: CommandKind::Watch, ..wide.clone() }, 20).is_none());
        let ended = Command { until: Some(10), kind: CommandKind::Allow, ..wide };
        assert!(told.board.needs_second(&ended, 20).is_none(), "what is taken back is no risk");
    }

    #[test]
    fn the_oldest_go_and_what_is_no_command_is_told_so() {
        let mut trail = Trail::default();
        assert_eq!(trail.take(Some(b"{}")), None);
        assert_eq!(trail.take(None), None);
        for n in 0..=COMMANDS_MAX {
            let command = command(&format!("c{n}"), n as Millis, CommandKind::Watch, "203.0.113.9");
            trail.take(Some(&serde_json::to_vec(&command).unwrap())).unwrap();
        }
        assert_eq!((trail.len(), trail.get("c0").is_none(), trail.get("c1").is_some()), (COMMANDS_MAX, true, true));
    }
}
