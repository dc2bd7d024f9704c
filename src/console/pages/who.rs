//! One address, range or account: what `portcullis explain` tells.

use maud::{Markup, html};
use serde::Deserialize;

use super::act::{deeds, link, small};
use super::{Look, Place, entity, linked, name, page, sentence, table, time};
use crate::console::board::VERDICTS_MAX;
use crate::console::text::{grouped, how_long};
use crate::console::who::{Explained, Restriction, Who};
use crate::console::wishes::Deed;
use crate::event::{Millis, Mode, Scope, Source};
use crate::topology::exemptions::is_tenant;
use crate::topology::guessed_scope;

#[derive(Debug, Default, Deserialize)]
pub(in crate::console) struct WhoQuery {
    #[serde(default)]
    value: String,
    tenant: Option<String>,
}

/// # Errors
/// The question names nobody.
pub(in crate::console) fn who(console: &Look<'_>, query: &WhoQuery) -> Result<Markup, String> {
    let who = Who::parse(&query.value)?;
    let tenant = query.tenant.as_deref().filter(|tenant| !tenant.is_empty());
    if tenant.is_some_and(|tenant| !is_tenant(tenant)) {
        return Err("such a tenant cannot be".to_owned());
    }
    let explained = console.board().explain(console.disk(), &query.value, &who, tenant, console.now());
    let main = html! {
        h1 { (name(query.value.trim())) }
        p.quiet { @match tenant { Some(tenant) => { "At " (name(tenant)) ". " }, None => { "At every tenant. " } } }
        (deeds(console, tenant.unwrap_or_default(), guessed_scope(query.value.trim()), query.value.trim()))
        @if let Some(network) = network_of(&query.value) { p { "Its network: " (linked(tenant.unwrap_or_default(), &network)) } }
        div #explained data-live { (body(console, &explained)) }
    };
    Ok(page(console, Place::Elsewhere, "Explained", &main))
}

/// The range that an address is judged with: its /24 or /48.
fn network_of(value: &str) -> Option<String> {
    let source = value.trim().parse::<Source>().ok()?;
    let address = source.first_address();
    let net = ipnet::IpNet::new(address, if address.is_ipv4() { 24 } else { 48 }).ok()?;
    Some(net.trunc().to_string())
}

fn body(look: &Look<'_>, explained: &Explained) -> Markup {
    let (now, is_live) = (explained.at, look.freshness().is_live());
    html! {
        p.summary {
            @if explained.restricted { strong { "Restricted." } }
            @else if is_live { "Not restricted now." }
            @else { "Not restricted when the cluster was last heard." }
        }
        @for status in &explained.attack_status {
            p { (name(&status.tenant)) " is under " (status.state.as_str()) " since " (time(status.since)) "." }
        }
        @for exemption in &explained.exemptions {
            p { strong { "Exempt" } " at " @if exemption.tenant.is_empty() { "every tenant" } @else { (name(&exemption.tenant)) }
                " " (until(exemption.until, now)) ": " (sentence(&exemption.reason))
                @if look.may_act() && exemption.scope != Scope::Tenant && is_tenant(&exemption.tenant) {
                    " " (small(Deed::EndAllow, &link(Deed::EndAllow, &exemption.tenant, exemption.scope, &exemption.value), &exemption.value))
                } }
        }
        @if !explained.restrictions.is_empty() { h2 { "Restrictions" } }
        @for restriction in &explained.restrictions { (restricted(look, restriction, now)) }
        @if !explained.restrictions.is_empty() && !look.may_act() {
            p.quiet { "To lift what should not be: " code { "portcullis unblock" } "." }
        }
        @if explained.more_restrictions > 0 { p { "And " (explained.more_restrictions) " entries more." } }
        h2 { "Verdicts" }
        @if explained.verdicts.is_empty() {
            p { "None among the newest " (grouped(i64::try_from(VERDICTS_MAX).unwrap_or(i64::MAX))) " of all. " code { "portcullis explain" } " reads the whole topic." }
        } @else {
            p.quiet { "The newest " (explained.verdicts.len()) " of " (explained.verdicts_on_topic) "." }
            (table("verdicts", "Verdicts", &html! {
                th scope="col" { "When (UTC)" } th scope="col" { "Playbook" } th scope="col" { "What" } th scope="col" { "Whom" } th scope="col" { "Why" }
                @if look.may_act() { th scope="col" { "Judge it" } }
            }, &html! { @for of in &explained.verdicts { tr {
                th scope="row" { (time(of.occurred_at)) }
                td { (name(&of.playbook)) " v" (of.playbook_version) @if of.mode == Mode::Shadow { " (shadow)" } }
                td { (of.action.as_str()) }
                td { (of.scope.as_str()) " " (entity(&of.tenant, of.scope.as_str(), &of.value)) }
                td.long { (sentence(&of.explanation)) }
                @if look.may_act() { td { @for deed in [Deed::Mistake, Deed::Confirm] {
                    @let href = format!("{}&verdict={}", link(deed, &of.tenant, of.scope, &of.value), super::query_value(&of.verdict_id));
                    (small(deed, &href, &of.value)) " "
                } } }
            } } }))
        }
    }
}

fn restricted(look: &Look<'_>, restriction: &Restriction, now: Millis) -> Markup {
    let Restriction { standing, entry, edges, .. } = restriction;
    html! {
        section.card {
            p { strong { (entry.action.as_str()) } " " (entry.scope.as_str()) " " (entity(&entry.tenant, entry.scope.as_str(), &entry.value)) " at " (name(&entry.tenant))
                ", " (standing) ", " (until(entry.until, now)) }
            p { (sentence(&entry.reason)) }
            p.quiet { "By " (name(entry.actor.as_deref().or(entry.playbook.as_deref()).unwrap_or("nobody named"))) " since " (time(entry.since))
                @if let Some(id) = &entry.verdict_id { ", verdict " code { (name(id)) } }
                @if let Some(id) = &entry.incident_id { ", " a href={ "/incidents/" (super::query_value(id)) } { "its incident" } } }
            @if look.may_act() { p { (small(Deed::Lift, &link(Deed::Lift, &entry.tenant, entry.scope, &entry.value), &entry.value)) } }
            @if edges.is_empty() { p { "No edge has said that it has it." } }
            ul { @for receipt in edges { li {
                (name(&receipt.sink)) ": " (receipt.outcome.as_str()) ", " (how_long(receipt.applied_at - entry.since)) " after"
                @if receipt.generation != entry.generation { ", of an older state" }
                @if let Some(detail) = &receipt.detail { ": " (sentence(detail)) }
            } } }
        }
    }
}

pub(super) fn until(until: Option<Millis>, now: Millis) -> Markup {
    html! {
        @match until {
            Some(until) => { "until " (time(until)) ", " (how_long(until - now)) " from now" },
            None => "without an end",
        }
    }
}
