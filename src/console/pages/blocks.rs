//! What is in force, why, and until when.

use maud::{Markup, html};
use serde::Deserialize;

use super::act::{link, small};
use super::{Look, Place, entity, name, page, query_value, sentence, table, time};
use crate::console::text::grouped;
use crate::console::wishes::Deed;
use crate::edge::Standing;
use crate::event::BlocklistEntry;

/// Entries of a page.
const PAGE_ENTRIES: usize = 200;
/// Longest text that is looked for, in bytes.
const ASKED_BYTES_MAX: usize = 256;

#[derive(Debug, Default, Deserialize)]
pub(in crate::console) struct BlocksQuery {
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    page: usize,
}

pub(in crate::console) fn blocks(console: &Look<'_>, query: &BlocksQuery) -> Markup {
    let (board, now) = (console.board(), console.now());
    let desired = board.lists().desired();
    let wanted = query.value.trim();
    let wanted = wanted.get(..ASKED_BYTES_MAX).unwrap_or(wanted);
    let is_wanted = |entry: &BlocklistEntry| {
        (query.tenant.is_empty() || entry.tenant == query.tenant) && (wanted.is_empty() || entry.value.contains(wanted))
    };
    let in_force = desired.entries().filter(|(_, entry)| is_wanted(entry));
    let mut found: Vec<(&BlocklistEntry, &str)> = in_force
        .filter_map(|(_, entry)| match desired.standing(entry, now) {
            Standing::Enforced => Some((entry, "in force")),
            Standing::Exempted => Some((entry, "exempted")),
            Standing::Ended => None,
        })
        .collect();
    // The newest first.
    found.sort_by(|(a, _), (b, _)| (b.since, &a.tenant, &a.value).cmp(&(a.since, &b.tenant, &b.value)));
    let first = query.page.min(found.len() / PAGE_ENTRIES) * PAGE_ENTRIES;
    let shown: Vec<_> = found.iter().skip(first).take(PAGE_ENTRIES).collect();
    let part = |number: usize| {
        format!("/blocks?tenant={}&value={}&page={number}", query_value(&query.tenant), query_value(wanted))
    };
    let main = html! {
        h1 { "Blocks" }
        form.filter method="get" action="/blocks" {
            label for="tenant" { "Tenant" } input #tenant name="tenant" value=(query.tenant) maxlength="63";
            label for="value" { "Value holds" } input #value name="value" value=(wanted) maxlength="256";
            button type="submit" { "Filter" }
        }
        div #entries data-live {
            @if found.is_empty() { p { "Nothing is restricted." } } @else {
                p.quiet { (grouped(whole(first + 1))) " to " (grouped(whole(first + shown.len()))) " of " (grouped(whole(found.len()))) ", the newest first." }
                (table("blocks-table", "Restrictions in force", &html! {
                    th scope="col" { "Whom" } th scope="col" { "What" } th scope="col" { "Since (UTC)" } th scope="col" { "Until" }
                    th scope="col" { "By" } th scope="col" { "Why" } th scope="col" { "At edges" }
                    @if console.may_act() { th scope="col" { "Act" } }
                }, &html! { @for (entry, standing) in &shown { tr {
                    th scope="row" { (entry.scope.as_str()) " " (entity(&entry.tenant, entry.scope.as_str(), &entry.value)) " at " (name(&entry.tenant)) }
                    td { (entry.action.as_str()) @if *standing == "exempted" { " (exempted)" } }
                    td { (time(entry.since)) }
                    td { @match entry.until { Some(until) => (time(until)), None => "no end" } }
                    td { (name(entry.actor.as_deref().or(entry.playbook.as_deref()).unwrap_or("–"))) }
                    td.long { (sentence(&entry.reason)) }
                    td { (at_edges(console, entry)) }
                    @if console.may_act() { td { (small(Deed::Lift, &link(Deed::Lift, &entry.tenant, entry.scope, &entry.value), &entry.value)) } }
                } } }))
                nav aria-label="Parts of the list" { p {
                    @if first > 0 { a href=(part(first / PAGE_ENTRIES - 1)) { "Newer" } " " }
                    @if first + shown.len() < found.len() { a href=(part(first / PAGE_ENTRIES + 1)) { "Older" } }
                } }
            }
        }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    page(console, Place::Blocks, "Blocks", &main)
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// How many edges have exactly this state of the entry.
fn at_edges(console: &Look<'_>, entry: &BlocklistEntry) -> Markup {
    let key = format!("{}|{}|{}", entry.tenant, entry.scope.as_str(), entry.value);
    let receipts = console.disk().receipts(&key);
    let has_it = receipts
        .iter()
        .filter(|r| r.generation == entry.generation && r.outcome == crate::event::ReceiptOutcome::Applied);
    let (have, all) = (has_it.count(), receipts.len());
    html! { @if all == 0 { "none told" } @else { (have) " of " (all) } }
}
