//! What a person fills into a form, made into a command. Fields in, a command out; nothing here reads a clock.

use std::collections::BTreeMap;

use super::board::{Board, PlaybookLine};
use crate::event::wire::TEXT_BYTES_MAX;
use crate::event::{Action, Command, CommandKind, Millis, Scope};
use crate::topology::exemptions::is_tenant;
use crate::topology::{Edit, Giver, Measure, PlaybookMode, format_duration, parse_duration, undo};

/// Longest time that anything is asked for.
const LASTING_MS_MAX: Millis = 366 * 86_400_000;
/// Longest value of a field, in bytes.
pub(super) const FIELD_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX;
/// Most fields of a form.
const FIELDS_MAX: usize = 100;
/// The states of a threshold, in their order.
pub(super) const STATES: [&str; 3] = ["calm", "elevated", "attack"];

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Block,
    Watch,
    Allow,
    EndAllow,
    Lift,
    Mistake,
    Confirm,
    KillOn,
    KillOff,
    Tighten,
    Mode,
    EndOverride,
    Undo,
}

impl Deed {
    const ALL: [(Deed, &str); 13] = [
        (Deed::Block, "block"),
        (Deed::Watch, "watch"),
        (Deed::Allow, "allow"),
        (Deed::EndAllow, "end-allow"),
        (Deed::Lift, "lift"),
        (Deed::Mistake, "mistake"),
        (Deed::Confirm, "confirm"),
        (Deed::KillOn, "kill-switch-on"),
        (Deed::KillOff, "kill-switch-off"),
        (Deed::Tighten, "tighten"),
        (Deed::Mode, "mode"),
        (Deed::EndOverride, "end-override"),
        (Deed::Undo, "undo"),
    ];

    pub(super) fn from_name(name: &str) -> Option<Deed> {
        Deed::ALL.into_iter().find(|(_, own)| *own == name).map(|(deed, _)| deed)
    }

    /// As in a form and a link.
    pub(super) fn as_str(self) -> &'static str {
        Deed::ALL.into_iter().find(|(deed, _)| *deed == self).map_or("", |(_, name)| name)
    }

    /// Of whom it is: an entity of a tenant, a tenant as a whole, a playbook, or another command.
    pub(super) const fn of(self) -> Of {
        match self {
            Deed::Block | Deed::Watch | Deed::Allow | Deed::EndAllow | Deed::Lift | Deed::Mistake | Deed::Confirm => {
                Of::Entity
            }
            Deed::KillOn | Deed::KillOff => Of::Tenant,
            Deed::Tighten | Deed::Mode | Deed::EndOverride => Of::Playbook,
            Deed::Undo => Of::Command,
        }
    }

    /// How long it may be asked for, the usual one first; the empty text is no end. Nothing: it has no end to be asked for.
    pub(super) const fn lengths(self) -> &'static [&'static str] {
        match self {
            Deed::Block => &["1h", "15m", "4h", "1d", "7d", ""],
            Deed::Watch => &["30d", "1d", "7d", ""],
            Deed::Allow => &["1d", "1h", "30d", ""],
            Deed::Lift => &["1h", "15m", "4h", "1d"],
            Deed::KillOn => &["30m", "15m", "1h", "4h", ""],
            Deed::Tighten | Deed::Mode => &["30m", "1h", "4h", "1d", "7d", "31d"],
            Deed::EndAllow | Deed::Mistake | Deed::Confirm | Deed::KillOff | Deed::EndOverride | Deed::Undo => &[],
        }
    }
}

/// What a deed is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Entity,
    Tenant,
    Playbook,
    Command,
}

/// The fields of a form or of a link to one.
#[derive(Debug, Clone, Default)]
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    /// # Errors
    /// There is more in it than any form has.
    pub(super) fn new(fields: BTreeMap<String, String>) -> Result<Form, String> {
        let is_fine = fields.len() <= FIELDS_MAX
            && fields.iter().all(|(name, value)| name.len() + value.len() <= FIELD_BYTES_MAX);
        if is_fine { Ok(Form(fields)) } else { Err(format!("a field has at most {FIELD_BYTES_MAX} bytes")) }
    }

    /// A field without white space around it; empty when there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    pub(super) fn deed(&self) -> Option<Deed> {
        Deed::from_name(self.get("do"))
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wish {
    Command(Command),
    Override(Command, Edit),
    EndOverride(Command),
}

/// What a form asks for.
///
/// # Errors
/// What is wrong, with the field and what to write instead.
pub(super) fn wish(form: &Form, by: Giver, board: &Board) -> Result<Wish, String> {
    let deed = form.deed().ok_or("do: say what is to be done")?;
    if by.reason.is_empty() || by.reason.len() > TEXT_BYTES_MAX {
        return Err(format!("reason: say why, in at most {TEXT_BYTES_MAX} bytes; it stands beside it for good"));
    }
    let at = by.at;
    let until = lasting(deed, form.get("for"))?.map(|ms| at.saturating_add(ms));
    match deed.of() {
        Of::Entity => of_entity(deed, form, by, until).map(Wish::Command),
        Of::Tenant => of_tenant(deed, form, by, until).map(Wish::Command),
        Of::Playbook => of_playbook(deed, form, by, until, board),
        Of::Command => of_command(form, by, board),
    }
}

fn lasting(deed: Deed, text: &str) -> Result<Option<Millis>, String> {
    let may_be_without = deed.lengths().is_empty() || deed.lengths().contains(&"");
    match parse_duration(text).filter(|ms| *ms > 0 && *ms <= LASTING_MS_MAX) {
        _ if text.is_empty() && may_be_without => Ok(None),
        Some(ms) if !deed.lengths().is_empty() => Ok(Some(ms)),
        Some(_) => Ok(None),
        None => Err(format!("for: how long, such as 30m, at most {}", format_duration(LASTING_MS_MAX))),
    }
}

fn of_entity(deed: Deed, form: &Form, by: Giver, until: Option<Millis>) -> Result<Command, String> {
    let scope = Scope::from_name(form.get("scope")).filter(|scope| *scope != Scope::Other);
    let scope = scope.ok_or("scope: name the kind of entity, such as IP")?;
    let (tenant, value, at) = (form.get("tenant"), form.get("value"), by.at);
    if !is_tenant(tenant) {
        return Err("tenant: whose, such as `shop`".to_owned());
    }
    if value.is_empty() {
        return Err("value: whom, such as 203.0.113.9".to_owned());
    }
    let kind = match deed {
        Deed::Block => CommandKind::Block,
        Deed::Watch => CommandKind::Watch,
        Deed::Allow | Deed::EndAllow => CommandKind::Allow,
        Deed::Mistake => CommandKind::MarkFalsePositive,
        Deed::Confirm => CommandKind::MarkConfirmed,
        Deed::Lift | Deed::KillOn | Deed::KillOff | Deed::Tighten | Deed::Mode | Deed::EndOverride | Deed::Undo => {
            CommandKind::Lift
        }
    };
    let mut command = by.command(kind, tenant, scope, value);
    command.until = if deed == Deed::EndAllow { Some(at) } else { until };
    if deed == Deed::Block {
        let action =
            if form.get("action").is_empty() { Some(Action::Block) } else { Action::from_name(form.get("action")) };
        command.action = action.ok_or("action: how it is restricted, such as BLOCK")?;
    }
    let incident = form.get("incident");
    command.incident_id = (!incident.is_empty()).then(|| incident.to_owned());
    let verdict = form.get("verdict");
    if !verdict.is_empty() {
        command.detail = format!("verdict {verdict}");
    }
    Ok(command)
}

fn of_tenant(deed: Deed, form: &Form, by: Giver, until: Option<Millis>) -> Result<Command, String> {
    let (tenant, at) = (form.get("tenant"), by.at);
    if !is_tenant(tenant) {
        return Err("tenant: whose, such as `shop`".to_owned());
    }
    if form.get("confirm") != tenant {
        return Err(format!("confirm: write the tenant's name, {tenant}, to say that you mean it"));
    }
    let mut command = by.command(CommandKind::KillSwitch, tenant, Scope::Tenant, tenant);
    command.until = if deed == Deed::KillOff { Some(at) } else { until };
    Ok(command)
}

fn of_playbook(deed: Deed, form: &Form, by: Giver, until: Option<Millis>, board: &Board) -> Result<Wish, String> {
    let id = form.get("playbook");
    let playbook = board.playbooks().iter().find(|playbook| playbook.id == id);
    let playbook = playbook.ok_or("playbook: there is none of this name in effect")?;
    let at = by.at;
    let mut command = by.command(CommandKind::Playbook, "", Scope::Other, id);
    command.until = until;
    match deed {
        Deed::EndOverride if !playbook.is_override => Err("playbook: no override lies over it".to_owned()),
        Deed::EndOverride => {
            command.until = Some(at);
            Ok(Wish::EndOverride(command))
        }
        Deed::Mode => {
            let mode = match form.get("mode") {
                "live" => PlaybookMode::Live,
                "shadow" => PlaybookMode::Shadow,
                "off" => PlaybookMode::Off,
                _ => return Err("mode: live, shadow or off".to_owned()),
            };
            if playbook.mode == mode.as_str() {
                return Err(format!("mode: it is {} already", mode.as_str()));
            }
            Ok(Wish::Override(command, Edit { mode: Some(mode), ..Edit::default() }))
        }
        Deed::Block
        | Deed::Watch
        | Deed::Allow
        | Deed::EndAllow
        | Deed::Lift
        | Deed::Mistake
        | Deed::Confirm
        | Deed::KillOn
        | Deed::KillOff
        | Deed::Tighten
        | Deed::Undo => {
            let edit = Edit { at_least: tightened(form, playbook)?, ..Edit::default() };
            Ok(Wish::Override(command, edit))
        }
    }
}

/// The thresholds that a form changes.
fn tightened(form: &Form, playbook: &PlaybookLine) -> Result<BTreeMap<Measure, [f64; 3]>, String> {
    let mut changed = BTreeMap::new();
    for line in &playbook.thresholds {
        let mut of = [0.0; 3];
        for (to, (state, was)) in of.iter_mut().zip(STATES.iter().zip(&line.now)) {
            let field = threshold_field(&line.measure, state);
            let text = Some(form.get(&field)).filter(|text| !text.is_empty()).unwrap_or(was);
            let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
            *to = number.ok_or_else(|| format!("{field}: a number, such as {was}"))?;
        }
        let is_same = of.iter().zip(&line.now).all(|(n, was)| was.parse() == Ok(*n));
        if !is_same {
            let measure = serde_json::from_value::<Measure>(line.measure.as_str().into()).map_err(|e| e.to_string())?;
            changed.insert(measure, of);
        }
    }
    if changed.is_empty() {
        return Err("thresholds: change at least one of them".to_owned());
    }
    Ok(changed)
}

/// The name of a threshold's field.
pub(super) fn threshold_field(measure: &str, state: &str) -> String {
    format!("{measure}.{state}")
}

fn of_command(form: &Form, by: Giver, board: &Board) -> Result<Wish, String> {
    let done = board.trail().get(form.get("of")).ok_or("of: there is no such action, or it is too long ago")?;
    if let Some(newer) = board.trail().newer(done) {
        return Err(format!(
            "of: {} asked for something else about it since; undo that ({})",
            newer.actor, newer.command_id
        ));
    }
    let command = undo(done, by).map_err(|why| format!("of: {why}"))?;
    Ok(if command.kind == CommandKind::Playbook { Wish::EndOverride(command) } else { Wish::Command(command) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::board::ThresholdLine;
    use crate::topology::Exemptions;

    fn by() -> Giver {
        Giver {
            command_id: "c1".to_owned(),
            at: 1_000,
            actor: "ada".to_owned(),
            role: "operator".to_owned(),
            reason: "seen at night".to_owned(),
        }
    }

    fn board() -> Board {
        let mut board = Board::new(Exemptions::default());
        let [ten, three] = ["10", "3"].map(|n| [n, n, n].map(str::to_owned));
        let line =
            ThresholdLine { measure: "accounts_failed".to_owned(), words: String::new(), now: ten, aggressive: three };
        let playbook = PlaybookLine {
            id: "a".to_owned(),
            version: 1,
            mode: "live".to_owned(),
            origin: String::new(),
            is_override: false,
            until: None,
            description: String::new(),
            text: String::new(),
            below: Vec::new(),
            thresholds: vec![line],
        };
        board.set_playbooks(vec![playbook], Vec::new());
        board
    }

    fn asked(fields: &str) -> Result<Wish, String> {
        let fields = fields.split('&').filter_map(|field| field.split_once('='));
        let form = Form::new(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()).unwrap();
        wish(&form, by(), &board())
    }

    fn command(fields: &str) -> Command {
        match asked(fields) {
            Ok(Wish::Command(command) | Wish::Override(command, _) | Wish::EndOverride(command)) => command,
            Err(why) => panic!("{fields}: {why}"),
        }
    }

    #[test]
    fn a_form_becomes_a_command() {
        let entity = "tenant=shop&scope=IP&value= 203.0.113.9 ";
        for (fields, kind, until) in [
            ("do=block&for=1h", CommandKind::Block, Some(3_601_000)),
            ("do=block&for=", CommandKind::Block, None),
            ("do=watch&for=30d", CommandKind::Watch, Some(1_000 + 30 * 86_400_000)),
            ("do=allow&for=", CommandKind::Allow, None),
            ("do=end-allow", CommandKind::Allow, Some(1_000)),
            ("do=lift&for=1h", CommandKind::Lift, Some(3_601_000)),
            ("do=mistake", CommandKind::MarkFalsePositive, None),
            ("do=confirm&verdict=v1", CommandKind::MarkConfirmed, None),
        ] {
            let command = command(&format!("{fields}&{entity}"));
            assert_eq!((command.kind, command.until, &*command.value), (kind, until, "203.0.113.9"), "{fields}");
            assert_eq!((&*command.actor, &*command.reason), ("ada", "seen at night"));
        }
        let off = command("do=kill-switch-off&tenant=shop&confirm=shop");
        assert_eq!((off.kind, off.until, &*off.value), (CommandKind::KillSwitch, Some(1_000), "shop"));
    }

    #[test]
    fn what_a_form_lacks_is_told_by_its_field() {
        for (fields, field) in [
            ("do=", "do"),
            ("do=everything", "do"),
            ("do=block&scope=IP&value=203.0.113.9&for=1h", "tenant"),
            ("do=block&tenant=shop&value=203.0.113.9&for=1h", "scope"),
            ("do=block&tenant=shop&scope=IP&for=1h", "value"),
            ("do=block&tenant=shop&scope=IP&value=203.0.113.9&for=soon", "for"),
            ("do=block&tenant=shop&scope=IP&value=203.0.113.9&for=400d", "for"),
            ("do=lift&tenant=shop&scope=IP&value=203.0.113.9&for=", "for"),
            ("do=block&tenant=shop&scope=IP&value=203.0.113.9&for=1h&action=HUG", "action"),
            ("do=kill-switch-on&tenant=shop&for=30m", "confirm"),
            ("do=kill-switch-on&tenant=shop&for=30m&confirm=forum", "confirm"),
            ("do=tighten&playbook=none&for=30m", "playbook"),
            ("do=tighten&playbook=a&for=30m", "thresholds"),
            ("do=tighten&playbook=a&for=30m&accounts_failed.calm=-1", "accounts_failed.calm"),
            ("do=tighten&playbook=a&for=30m&accounts_failed.calm=NaN", "accounts_failed.calm"),
            ("do=tighten&playbook=a&for=&accounts_failed.calm=3", "for"),
            ("do=mode&playbook=a&for=30m&mode=live", "mode"),
            ("do=end-override&playbook=a", "playbook"),
            ("do=undo&of=c9", "of"),
        ] {
            let why = asked(fields).unwrap_err();
            assert!(why.starts_with(&format!("{field}: ")), "{fields}: {why}");
        }
        let without = Giver { reason: String::new(), ..by() };
        assert!(wish(&Form::default(), without, &board()).is_err());
    }

    #[test]
    fn only_thresholds_that_change_are_edited() {
        let Ok(Wish::Override(command, edit)) = asked("do=tighten&playbook=a&for=30m&accounts_failed.calm=3") else {
            panic!("an override");
        };
        assert_eq!((&*command.value, command.until), ("a", Some(1_801_000)));
        assert_eq!(edit.at_least, BTreeMap::from([(Measure::AccountsFailed, [3.0, 10.0, 10.0])]));
        let Ok(Wish::Override(_, edit)) = asked("do=mode&playbook=a&for=30m&mode=shadow") else {
            panic!("an override")
        };
        assert_eq!((edit.mode, edit.at_least.len()), (Some(PlaybookMode::Shadow), 0));
    }
}
