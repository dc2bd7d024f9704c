//! The form of an action: what, whom, for how long and why. And the links that lead to it.

use maud::{Markup, html};

use super::{Look, Place, entity, name, page, query_value, sentence, time, until, wrong_with};
use crate::console::acting::PENDING_MS;
use crate::console::board::Board;
use crate::console::text::how_long;
use crate::console::trail::ENTRIES_ALONE_MAX;
use crate::console::wishes::{Deed, Form, Of, STATES, threshold_field};
use crate::event::wire::TEXT_BYTES_MAX;
use crate::event::{Action, Millis, Scope};

/// The kinds of entity that a form offers.
const SCOPES: [(Scope, &str); 9] = [
    (Scope::Ip, "address"),
    (Scope::Cidr, "range"),
    (Scope::Account, "account"),
    (Scope::Asn, "autonomous system"),
    (Scope::Country, "country"),
    (Scope::Device, "device"),
    (Scope::IpAccount, "address on account"),
    (Scope::UserAgent, "user agent"),
    (Scope::TlsFingerprint, "TLS fingerprint"),
];
const ACTIONS: [(Action, &str); 6] = [
    (Action::Block, "block"),
    (Action::Challenge, "challenge"),
    (Action::Throttle, "throttle"),
    (Action::StepUp, "ask for a second factor"),
    (Action::LockAccount, "lock the account"),
    (Action::RevokeSessions, "end its sessions"),
];

/// What a deed is called, and what comes of it.
const fn words(deed: Deed) -> (&'static str, &'static str) {
    match deed {
        Deed::Block => ("Block", "Restricted whatever playbooks say, also at edges that cut off whole machines."),
        Deed::Watch => ("Watch", "Restricts nobody: whoever touches it is told of, once an hour for each address."),
        Deed::Allow => ("Allow", "Never restricted by any playbook or person, at any edge, until the end."),
        Deed::EndAllow => ("End the exemption", "Playbooks and people may restrict it again, at once."),
        Deed::Lift => ("Lift", "What restricts it ends, and playbooks keep off it for this long."),
        Deed::Mistake => (
            "Mark as a mistake",
            "A false positive: what restricts it is lifted, and playbooks keep off it for 24 hours.",
        ),
        Deed::Confirm => ("Mark as confirmed", "Written down: it was an attack. Nothing else changes."),
        Deed::KillOn => (
            "Stop all enforcement",
            "The kill switch empties the tenant's edges at once and challenges nobody. Playbooks go on in shadow, and what is blocked comes back when it ends.",
        ),
        Deed::KillOff => ("Start enforcement again", "What is blocked comes back at every edge, at once."),
        Deed::Tighten => (
            "Tighten for a while",
            "An override: it takes the place of one that lies there, ends by itself, and what stood below is back.",
        ),
        Deed::Mode => (
            "Switch the mode for a while",
            "An override: it takes the place of one that lies there, ends by itself, and what stood below is back.",
        ),
        Deed::EndOverride => ("End the override", "What stands below it holds again, at once."),
        Deed::Undo => ("Undo", "What it asked for is taken back."),
    }
}

pub(super) fn called(deed: Deed) -> &'static str {
    words(deed).0
}

/// A link to the form of a deed about an entity.
pub(super) fn link(deed: Deed, tenant: &str, scope: Scope, value: &str) -> String {
    let (tenant, value) = (query_value(tenant), query_value(value));
    format!("/act?do={}&tenant={tenant}&scope={}&value={value}", deed.as_str(), scope.as_str())
}

/// Links to what can be done about an entity; nothing for whoever may not.
pub(super) fn deeds(look: &Look<'_>, tenant: &str, scope: Scope, value: &str) -> Markup {
    let mut offered = vec![Deed::Block, Deed::Lift, Deed::Allow, Deed::Mistake, Deed::Confirm];
    if matches!(scope, Scope::Ip | Scope::Cidr | Scope::Asn | Scope::Account) {
        offered.insert(1, Deed::Watch);
    }
    html! {
        @if look.may_act() && value.len() <= super::LINK_BYTES_MAX {
            nav.deeds aria-label="What can be done" { ul { @for deed in offered {
                li { a.button href=(link(deed, tenant, scope, value)) { (called(deed)) } }
            } } }
        }
    }
}

/// A small link with whom it is about, for whoever does not see the row it stands in.
pub(super) fn small(deed: Deed, href: &str, whom: &str) -> Markup {
    html! { a href=(href) { (called(deed)) span.unseen { " " (super::Plain::name(whom)) } } }
}

/// # Panics
/// Never: a form without a deed shows nothing to fill in.
pub(in crate::console) fn act(look: &Look<'_>, form: &Form, id: &str, wrong: Option<&str>) -> Markup {
    let deed = form.deed().unwrap_or(Deed::Undo);
    let (title, says) = words(deed);
    let (board, now) = (look.board(), look.now());
    let main = html! {
        h1 { (title) @match deed.of() {
            Of::Entity => { @if !form.get("value").is_empty() { ": " (name(form.get("value"))) } },
            Of::Tenant => { ": " (name(form.get("tenant"))) },
            Of::Playbook => { ": " (name(form.get("playbook"))) },
            Of::Command => {},
        } }
        (wrong_with(wrong))
        p.summary { (says) }
        form.deed method="post" action="/act" {
            input type="hidden" name="form" value=(look.form_token());
            input type="hidden" name="id" value=(id);
            input type="hidden" name="do" value=(deed.as_str());
            @for hidden in ["incident", "verdict"] {
                @if !form.get(hidden).is_empty() { input type="hidden" name=(hidden) value=(form.get(hidden)); }
            }
            @match deed.of() {
                Of::Entity => (of_entity(deed, form)),
                Of::Tenant => (of_tenant(form)),
                Of::Playbook => (of_playbook(deed, form, &board, now)),
                Of::Command => (of_command(look, form, &board)),
            }
            @if !deed.lengths().is_empty() { (lengths(deed, form)) }
            div.field {
                label for="reason" { "Why" }
                textarea #reason name="reason" required rows="2" maxlength=(TEXT_BYTES_MAX) aria-describedby="reason-says" { (form.get("reason")) }
                p.quiet #reason-says { "Stands beside it for good, with your name" @if let Some(person) = &look.viewer.person { ", " (name(&person.name)) } "." }
            }
            button.do type="submit" { (title) }
        }
        @if matches!(deed, Deed::Block | Deed::Allow) {
            p.quiet {
                "A range wider than /20 (IPv6 /40), an autonomous system, a country, an agent, a fingerprint, or what frees more than "
                (ENTRIES_ALONE_MAX) " entries needs a second operator, who is asked and has " (how_long(PENDING_MS)) "."
            }
        }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    page(look, Place::Actions, title, &main)
}

fn of_entity(deed: Deed, form: &Form) -> Markup {
    let chosen = Scope::from_name(form.get("scope"));
    html! {
        div.field { label for="tenant" { "Tenant" } input #tenant name="tenant" required maxlength="63" value=(form.get("tenant")) autocomplete="off"; }
        div.field {
            label for="scope" { "What it is" }
            select #scope name="scope" { @for (scope, words) in SCOPES {
                option value=(scope.as_str()) selected[chosen == Some(scope)] { (words) }
            } }
        }
        div.field { label for="value" { "Whom" } input #value name="value" required maxlength="1024" value=(form.get("value")) autocomplete="off"; }
        @if deed == Deed::Block {
            @let chosen = Action::from_name(form.get("action"));
            div.field {
                label for="action" { "How" }
                select #action name="action" { @for (action, words) in ACTIONS {
                    option value=(action.as_str()) selected[chosen == Some(action)] { (words) }
                } }
            }
        }
    }
}

fn of_tenant(form: &Form) -> Markup {
    html! {
        input type="hidden" name="tenant" value=(form.get("tenant"));
        div.field {
            label for="confirm" { "Write the tenant's name, " (name(form.get("tenant"))) ", to say that you mean it" }
            input #confirm name="confirm" required maxlength="63" autocomplete="off" value=(form.get("confirm"));
        }
    }
}

fn of_playbook(deed: Deed, form: &Form, board: &Board, now: Millis) -> Markup {
    let id = form.get("playbook");
    let Some(playbook) = board.playbooks().iter().find(|playbook| playbook.id == id) else {
        return html! { input type="hidden" name="playbook" value=(id); p.notice.stale { "There is no playbook of this name in effect." } };
    };
    let is_aggressive = !form.get("aggressive").is_empty();
    html! {
        input type="hidden" name="playbook" value=(id);
        p { (sentence(&playbook.description)) }
        p.quiet { (sentence(&playbook.origin)) @if playbook.is_override { ", " (until(playbook.until, now)) } }
        @match deed {
            Deed::Mode => div.field {
                label for="mode" { "Mode, now " (playbook.mode) }
                select #mode name="mode" { @for mode in ["shadow", "live", "off"] { @if mode != playbook.mode {
                    option value=(mode) selected[form.get("mode") == mode] { (mode) }
                } } }
            },
            Deed::Tighten => {
                p { "It acts when all of these are reached. " @if !is_aggressive {
                    a href={ "/act?do=tighten&playbook=" (query_value(id)) "&aggressive=yes" } { "Fill in what is aggressive" } ": as in an attack, whatever the state."
                } @else {
                    "Filled in is what is aggressive: as in an attack, whatever the state. " a href={ "/act?do=tighten&playbook=" (query_value(id)) } { "As it is now" } "."
                } }
                @for line in &playbook.thresholds {
                    fieldset {
                        legend { "At least, " (line.words) }
                        div.thresholds { @for (index, state) in STATES.iter().enumerate() {
                            @let field = threshold_field(&line.measure, state);
                            @let [now_is, aggressive] = [&line.now, &line.aggressive].map(|of| of.get(index).map_or("", String::as_str));
                            @let filled = Some(form.get(&field)).filter(|text| !text.is_empty()).unwrap_or(if is_aggressive { aggressive } else { now_is });
                            div.field {
                                label for=(field) { (state.to_uppercase()) span.quiet { ", now " (now_is) } }
                                input id=(field) name=(field) inputmode="decimal" required maxlength="20" value=(filled) autocomplete="off";
                            }
                        } }
                    }
                }
            },
            Deed::Block | Deed::Watch | Deed::Allow | Deed::EndAllow | Deed::Lift | Deed::Mistake | Deed::Confirm
            | Deed::KillOn | Deed::KillOff | Deed::EndOverride | Deed::Undo => {},
        }
    }
}

fn of_command(look: &Look<'_>, form: &Form, board: &Board) -> Markup {
    let id = form.get("of");
    html! {
        input type="hidden" name="of" value=(id);
        @match board.trail().get(id) {
            Some(done) => p {
                (done.kind.as_str()) " " (entity(&done.tenant, done.scope.as_str(), &done.value)) ", asked for by " (name(&done.actor)) " "
                (time(done.at)) ": " (sentence(&done.reason))
            },
            None => p.notice.stale { "There is no such action, or it is too long ago." },
        }
        @if !look.freshness().is_live() { p.notice.stale { "What is shown is stale." } }
    }
}

fn lengths(deed: Deed, form: &Form) -> Markup {
    let chosen = form.get("for");
    html! {
        div.field {
            label for="for" { "For how long" }
            select #for name="for" { @for length in deed.lengths() {
                option value=(length) selected[chosen == *length && !chosen.is_empty()] { (in_words(length)) }
            } }
        }
    }
}

/// `15m` as people say it.
fn in_words(length: &str) -> String {
    let Some(unit) = length.chars().next_back() else { return "no end".to_owned() };
    let number = length.trim_end_matches(unit);
    let unit = match unit {
        'm' => "minute",
        'h' => "hour",
        'd' => "day",
        _ => return length.to_owned(),
    };
    format!("{number} {unit}{}", if number == "1" { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_said_as_people_do() {
        let said = ["15m", "1h", "30d", ""].map(in_words);
        assert_eq!(said, ["15 minutes", "1 hour", "30 days", "no end"]);
    }

    #[test]
    fn a_link_to_a_form_holds_nothing_but_its_values() {
        let link = link(Deed::Lift, "shop", Scope::Account, "a&do=kill-switch-on\"><b>");
        assert_eq!(link, "/act?do=lift&tenant=shop&scope=ACCOUNT&value=a%26do%3Dkill-switch-on%22%3E%3Cb%3E");
    }
}
