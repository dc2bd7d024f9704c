//! The pages: written by the server, from the board, for people with and without a mouse, a screen, or JavaScript.
//!
//! Whatever others chose goes through [`name`] or [`sentence`]: escaped, on one line, apart from the direction of what
//! stands beside it. Regions with `data-live` are what the script renews.

mod act;
mod actions;
mod blocks;
mod edges;
mod incidents;
mod overview;
mod playbooks;
mod report;
mod sign_in;
mod who;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub(super) use act::act;
pub(super) use actions::{action, action_to_come, actions};
pub(super) use blocks::{BlocksQuery, blocks};
pub(super) use edges::edges;
pub(super) use incidents::incidents;
pub(super) use overview::{OverviewQuery, overview};
pub(super) use playbooks::playbooks;
pub(super) use report::{body as report_body, report, timeline};
pub(super) use sign_in::sign_in;
use who::until;
pub(super) use who::{WhoQuery, who};

use super::look::Look;
use super::shared::{Console, Freshness};
use super::text::{self, Plain, date_time, how_long};
use crate::event::{Millis, Scope, Severity};

/// Longest value that is put into a link.
const LINK_BYTES_MAX: usize = 1_024;

/// What a console without operators says to whoever wants to act.
pub(super) const READ_ONLY: &str = "This console is read-only. Start it with --operators FILE, which names who may act; \
     portcullis console --help shows such a file.";

/// A page of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Incidents,
    Blocks,
    Playbooks,
    Edges,
    Actions,
    Elsewhere,
}

const MENU: [(Place, &str, &str); 6] = [
    (Place::Overview, "/", "Overview"),
    (Place::Incidents, "/incidents", "Incidents"),
    (Place::Blocks, "/blocks", "Blocks"),
    (Place::Playbooks, "/playbooks", "Playbooks"),
    (Place::Edges, "/edges", "Edges"),
    (Place::Actions, "/actions", "Actions"),
];

/// A whole page around its main part.
pub(super) fn page(console: &Look<'_>, place: Place, title: &str, main: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Portcullis" }
                link rel="stylesheet" href="/assets/console.css";
                link rel="icon" type="image/svg+xml" href="/assets/icon.svg";
                script src="/assets/console.js" defer {}
            }
            body {
                a.skip href="#main" { "To the main part" }
                header.top {
                    a.brand href="/" { (icon()) "Portcullis" }
                    nav aria-label="Pages" {
                        ul { @for (of, path, name) in MENU {
                            li { a href=(path) aria-current=[(of == place).then_some("page")] { (name) } }
                        } }
                    }
                    form.ask action="/who" method="get" role="search" {
                        label for="ask" { "Address, range or account" }
                        input #ask type="search" name="value" maxlength="1024" required placeholder="203.0.113.9";
                        button type="submit" { "Explain" }
                    }
                    (who_looks(console))
                }
                section aria-label="How old this is" {
                    div #freshness data-live { (freshness(console)) }
                    // Said once, and not again with every second of its age.
                    p #aloud.unseen aria-live="assertive" data-live {
                        @if matches!(console.freshness(), Freshness::Stale { .. }) { "What is shown is stale." }
                    }
                    p #lost.notice.stale role="alert" hidden {
                        "This page has lost its console and shows what it knew. It goes on by itself once the console answers."
                    }
                }
                main #main tabindex="-1" { (main) }
                footer { "Times are UTC. " (what_may_be_done(console)) }
            }
        }
    }
}

/// Who is signed in, and how to.
fn who_looks(look: &Look<'_>) -> Markup {
    let has_tokens = look.operating().is_some_and(|operating| operating.operators.has_tokens());
    html! {
        @match &look.viewer.person {
            Some(person) => div.signed {
                span { (name(&person.name)) ", " (person.role.as_str()) }
                @if look.viewer.session.is_some() {
                    form method="post" action="/sign-out" {
                        input type="hidden" name="form" value=(look.form_token());
                        button type="submit" { "Sign out" }
                    }
                }
            },
            None => { @if has_tokens { div.signed { a href="/sign-in" { "Sign in" } } } },
        }
    }
}

fn what_may_be_done(look: &Look<'_>) -> &'static str {
    match (look.operating(), &look.viewer.person) {
        (None, _) => READ_ONLY,
        (Some(_), _) if look.may_act() => "What you do here is written down with your name.",
        (Some(_), None) => "Whoever signs in as an operator may act.",
        (Some(_), Some(_)) => "You may look; operators act.",
    }
}

/// What is wrong with a form, said at once to whoever does not see it.
fn wrong_with(wrong: Option<&str>) -> Markup {
    html! { @if let Some(wrong) = wrong { p.notice.stale.wrong role="alert" { strong { "Not done. " } (Plain::sentence(wrong)) } } }
}

fn icon() -> Markup {
    PreEscaped(include_str!("../icon.svg").to_owned())
}

/// How old what is shown may be; nothing to see while it is live but a word.
fn freshness(console: &Console) -> Markup {
    let board = console.board();
    html! {
        @match console.freshness() {
            Freshness::Reading => p.notice.reading role="status" {
                strong { "Still reading. " } "What is shown is not everything yet, and may be long over."
            },
            Freshness::Stale { age_ms, heard_at } => p.notice.stale {
                strong { "Stale. " }
                "The cluster has not answered for " (how_long(i64::try_from(age_ms).unwrap_or(Millis::MAX)))
                ". Everything here is as of " (date_time(heard_at)) " or older; an attack may be on that is not shown."
            },
            Freshness::Live { .. } => p.live-word { span.dot aria-hidden="true" {} "Live, " (date_time(console.now())) },
        }
        @if board.is_disk_full() {
            p.notice.stale role="alert" {
                strong { "The console's store is full. " } "Lines of incidents that came since are not in its lists and exports."
            }
        }
        @for (topic, count) in board.refused() {
            p.notice.reading { (text::counted(i64::try_from(count).unwrap_or(i64::MAX), "record", "records")) " of " (topic) " could not be read." }
        }
    }
}

/// A page that is not there, or a fault.
pub(super) fn problem(console: &Look<'_>, title: &str, what: &str) -> Markup {
    page(console, Place::Elsewhere, title, &html! { h1 { (title) } p { (Plain::sentence(what)) } })
}

/// A name that others chose.
pub(super) fn name(text: &str) -> Markup {
    html! { bdi.name { (Plain::name(text)) } }
}

/// A sentence in which there may be such names.
pub(super) fn sentence(text: &str) -> Markup {
    html! { bdi { (Plain::sentence(text)) } }
}

/// A name that leads to its page.
pub(super) fn linked(tenant: &str, value: &str) -> Markup {
    if value.is_empty() || value.len() > LINK_BYTES_MAX {
        return name(value);
    }
    html! { a href={ "/who?tenant=" (tenant) "&value=" (query_value(value)) } { (name(value)) } }
}

/// The value of an entity of a scope, by the scope's name; of a pair, both.
pub(super) fn entity(tenant: &str, scope: &str, value: &str) -> Markup {
    match value.split_once('|').filter(|_| scope == Scope::IpAccount.as_str()) {
        Some((source, account)) => html! { (linked(tenant, source)) " on " (linked(tenant, account)) },
        None => linked(tenant, value),
    }
}

/// An instant that a program can read as well.
pub(super) fn time(at: Millis) -> Markup {
    let machine = crate::event::wire::format_millis(at);
    html! { time datetime=(machine) { (date_time(at)) } }
}

pub(super) fn severity(severity: Severity) -> Markup {
    let class = match severity {
        Severity::Critical => "badge critical",
        Severity::High => "badge high",
        Severity::Medium | Severity::Low | Severity::Info => "badge",
    };
    html! { span class=(class) { (severity.as_str()) } }
}

/// A figure with its name.
pub(super) fn figure(value: &str, what: &str) -> Markup {
    html! { div.figure { dt { (what) } dd { (value) } } }
}

/// A table that scrolls by itself on a small screen.
pub(super) fn table(id: &str, caption: &str, head: &Markup, rows: &Markup) -> Markup {
    html! {
        div.scroll id=(id) tabindex="0" role="region" aria-label=(caption) {
            table { caption.unseen { (caption) } thead { tr { (head) } } tbody { (rows) } }
        }
    }
}

/// A text as a value in a query.
pub(super) fn query_value(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_markup_and_links_lead_nowhere_else() {
        let hostile = "\"><script>alert(1)</script>\u{202e}&value=x|javascript:alert(1)";
        let shown = entity("shop", "IP_ACCOUNT", hostile).into_string();
        assert!(!shown.contains("<script") && !shown.contains('\u{202e}'), "{shown}");
        assert!(shown.contains("&lt;script&gt;"));
        assert!(shown.contains("href=\"/who?tenant=shop&amp;value=%22%3E%3Cscript%3E"), "{shown}");
        assert!(!linked("shop", &"x".repeat(5_000)).into_string().contains("href"));
    }
}
