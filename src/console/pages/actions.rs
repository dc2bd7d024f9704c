//! What people asked for: who, when, why, what came of it; with undo, and the second person's answer.

use maud::{Markup, html};

use super::{Look, Place, entity, name, page, query_value, sentence, table, time, wrong_with};
use crate::console::board::Board;
use crate::console::text::{grouped, how_long};
use crate::console::trail::Outcome;
use crate::event::wire::TEXT_BYTES_MAX;
use crate::event::{Action, Command, CommandKind, Millis};
use crate::topology::{ends, undone_by};

/// Actions of the list.
const LISTED_MAX: usize = 200;

pub(in crate::console) fn actions(look: &Look<'_>) -> Markup {
    let (board, now) = (look.board(), look.now());
    let commands: Vec<&Command> = board.trail().commands().take(LISTED_MAX).collect();
    let waiting: Vec<&Command> =
        commands.iter().copied().filter(|of| matches!(board.outcome(of, now), Outcome::Waits { .. })).collect();
    let main = html! {
        h1 { "Actions" }
        p.quiet { "What people asked for, here and on the command line: the topic " code { "commands" } ", which is kept for a year." }
        div #waiting data-live {
            @if !waiting.is_empty() {
                h2 { "A second person is asked" }
                ul { @for of in &waiting { li {
                    (what(of)) " by " (name(&of.actor)) ": " (sentence(&of.reason))
                    @if let Outcome::Waits { until } = board.outcome(of, now) { ", for " (how_long(until - now)) " more" }
                    ". " a href=(page_of(of)) { "Agree or reject" span.unseen { " " (super::Plain::name(&of.value)) } }
                } } }
            }
        }
        div #actions data-live {
            @if commands.is_empty() { p { "Nobody has asked for anything." } } @else {
                p.quiet { "The newest " (commands.len()) " of " (grouped(i64::try_from(board.trail().len()).unwrap_or(i64::MAX))) " that are held." }
                (table("actions-table", "Actions", &html! {
                    th scope="col" { "When (UTC)" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Why" } th scope="col" { "What came of it" }
                    @if look.may_act() { th scope="col" { "Undo" } }
                }, &html! { @for of in &commands { tr {
                    th scope="row" { a href=(page_of(of)) { (time(of.at)) } }
                    td { (name(&of.actor)) @if let Some(second) = &of.approved_by { ", " (name(second)) " agreed" } }
                    td { (what(of)) @if !of.detail.is_empty() { br; span.quiet { (sentence(&of.detail)) } } }
                    td.long { (sentence(&of.reason)) }
                    td { (outcome(&board.outcome(of, now), of)) }
                    @if look.may_act() { td { (undo(&board, of, now)) } }
                } } }))
            }
        }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    page(look, Place::Actions, "Actions", &main)
}

/// One action; `None`: there is none of this id.
pub(in crate::console) fn action(look: &Look<'_>, id: &str, wrong: Option<&str>) -> Option<Markup> {
    let (board, now) = (look.board(), look.now());
    let command = board.trail().get(id)?;
    let came = board.outcome(command, now);
    let main = html! {
        p.crumbs { a href="/actions" { "Actions" } }
        h1 { (what(command)) }
        (wrong_with(wrong))
        div #came data-live {
            p.summary role="status" { (outcome(&came, command)) }
            dl.facts {
                dt { "Asked for by" } dd { (name(&command.actor)) " (" (name(&command.role)) "), " (time(command.at)) }
                dt { "Why" } dd { (sentence(&command.reason)) }
                @if !command.detail.is_empty() { dt { "Besides" } dd { (sentence(&command.detail)) } }
                @if let Some(second) = &command.approved_by { dt { "Agreed to by" } dd { (name(second)) } }
                @if let Some(end) = command.until { dt { "Until" } dd { (time(end)) } }
                @if let Some(of) = &command.answers { dt { "Answers" } dd { a href={ "/actions/" (query_value(of)) } { (name(of)) } } }
                @if let Some(of) = &command.undoes { dt { "Takes back" } dd { a href={ "/actions/" (query_value(of)) } { (name(of)) } } }
                @if let Some(of) = &command.incident_id { dt { "Incident" } dd { a href={ "/incidents/" (query_value(of)) } { (name(of)) } } }
                dt { "Id" } dd { code { (name(&command.command_id)) } }
            }
            @if look.may_act() { p { (undo(&board, command, now)) } }
        }
        // Its text stands while it waits, so that nobody loses what they write.
        @if let Outcome::Waits { until } = came { div #answer data-live { (answer(look, command, until)) } }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    Some(page(look, Place::Actions, "Action", &main))
}

/// What is on the topic, and this console has not read yet.
pub(in crate::console) fn action_to_come(look: &Look<'_>) -> Markup {
    let main = html! {
        p.crumbs { a href="/actions" { "Actions" } }
        h1 { "Asked for" }
        div #to-come data-live { p.summary role="status" { "Pending: the topic has not said so yet. This page shows it when it does." } }
    };
    page(look, Place::Actions, "Action", &main)
}

fn page_of(command: &Command) -> String {
    format!("/actions/{}", query_value(&command.command_id))
}

/// What a command asks for, in a few words.
fn what(command: &Command) -> Markup {
    let kind = match (command.kind, ends(command)) {
        (CommandKind::Block, _) if command.action != Action::Block => {
            command.action.as_str().to_lowercase().replace('_', " ")
        }
        (CommandKind::Block, _) => "block".to_owned(),
        (CommandKind::Watch, _) => "watch".to_owned(),
        (CommandKind::Allow, false) => "allow".to_owned(),
        (CommandKind::Allow, true) => "end the exemption of".to_owned(),
        (CommandKind::Lift, _) => "lift".to_owned(),
        (CommandKind::MarkConfirmed, _) => "confirmed:".to_owned(),
        (CommandKind::MarkFalsePositive, _) => "mistake:".to_owned(),
        (CommandKind::KillSwitch, false) => "stop all enforcement for".to_owned(),
        (CommandKind::KillSwitch, true) => "start enforcement again for".to_owned(),
        (CommandKind::Playbook, false) => "change playbook".to_owned(),
        (CommandKind::Playbook, true) => "end the change of playbook".to_owned(),
        (CommandKind::Reject, _) => "reject:".to_owned(),
        (CommandKind::Other, _) => "something newer than this program:".to_owned(),
    };
    let is_entity = !matches!(command.kind, CommandKind::KillSwitch | CommandKind::Playbook);
    html! {
        (kind) " "
        @if is_entity {
            (command.scope.as_str()) " " (entity(&command.tenant, command.scope.as_str(), &command.value)) " at " (name(&command.tenant))
        } @else { (name(&command.value)) }
    }
}

fn outcome(came: &Outcome, command: &Command) -> Markup {
    html! {
        @match came {
            Outcome::Waits { until } => { strong { "Waits" } " for a second person until " (time(*until)) "." },
            Outcome::Approved { by, command_id } => { a href={ "/actions/" (query_value(command_id)) } { "Agreed to" } " by " (name(by)) "." },
            Outcome::Rejected { by, reason } => { strong { "Rejected" } " by " (name(by)) ": " (sentence(reason)) },
            Outcome::RanOut => "Nobody agreed in time; nothing was done.",
            Outcome::Refused(why) => { strong { "Not carried out: " } (sentence(why)) },
            Outcome::NotYet => { strong { "Pending" } ": asked for, and the topics do not show it yet." },
            Outcome::Done => { strong { "In effect" } @if let Some(end) = command.until { " until " (time(end)) } "." },
            Outcome::Behind => { strong { "In effect" } " behind something stronger." },
            Outcome::Over => "Over.",
            Outcome::Replaced { by, command_id } => {
                "Until " (name(by)) " asked for " a href={ "/actions/" (query_value(command_id)) } { "something else" } "."
            },
            Outcome::Recorded if command.kind == CommandKind::Watch => {
                "Written down: whoever touches it is told of" @if let Some(end) = command.until { " until " (time(end)) } "."
            },
            Outcome::Recorded => "Written down.",
        }
    }
}

fn undo(board: &Board, command: &Command, now: Millis) -> Markup {
    let is_last = board.trail().newer(command).is_none();
    html! {
        @if is_last && undone_by(command, now).is_ok() {
            a href={ "/act?do=undo&of=" (query_value(&command.command_id)) } {
                "Undo" span.unseen { " " (command.kind.as_str()) " " (super::Plain::name(&command.value)) }
            }
        }
    }
}

/// The second person's form.
fn answer(look: &Look<'_>, command: &Command, until: Millis) -> Markup {
    let is_own = look.viewer.person.as_ref().is_some_and(|person| person.name.eq_ignore_ascii_case(&command.actor));
    html! {
        h2 { "A second person" }
        p { "It may be very many people, so somebody else must agree before " (time(until)) "." }
        @if look.may_act() {
            @if is_own { p { "It was you who asked for it: you can take it back, and somebody else must agree." } }
            form.deed method="post" action={ (page_of(command)) "/answer" } {
                input type="hidden" name="form" value=(look.form_token());
                div.field {
                    label for="reason" { "Why" }
                    textarea #reason name="reason" required rows="2" maxlength=(TEXT_BYTES_MAX) {}
                }
                div.deeds {
                    @if !is_own { button.do type="submit" name="answer" value="approve" { "Agree" } " " }
                    button type="submit" name="answer" value="reject" { "Reject" }
                }
            }
        }
    }
}
