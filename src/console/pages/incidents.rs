//! The list of incidents.

use maud::{Markup, html};

use super::{Look, Place, name, page, severity, table, time};
use crate::console::text::{grouped, how_long};
use crate::event::{Incident, IncidentState};

/// Most incidents of the list; the newest.
const LISTED_MAX: usize = 500;

pub(in crate::console) fn incidents(console: &Look<'_>) -> Markup {
    let board = console.board();
    let all = board.incidents();
    let left = all.len().saturating_sub(LISTED_MAX);
    let main = html! {
        h1 { "Incidents" }
        div #list data-live {
            (rows(all.into_iter().take(LISTED_MAX)))
            @if left > 0 { p { "And " (left) " older ones: portcullis incident list." } }
        }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    page(console, Place::Incidents, "Incidents", &main)
}

pub(super) fn rows<'a>(incidents: impl Iterator<Item = &'a Incident>) -> Markup {
    let incidents: Vec<&Incident> = incidents.collect();
    if incidents.is_empty() {
        return html! { p { "None." } };
    }
    let head = html! {
        th scope="col" { "Began (UTC)" } th scope="col" { "Tenant" } th scope="col" { "What" } th scope="col" { "State" }
        th.number scope="col" { "Attempts" } th.number scope="col" { "Accounts" } th.number scope="col" { "Sources" } th.number scope="col" { "Entered" }
    };
    let body = html! {
        @for incident in incidents {
            @let lasted = incident.ended_at.unwrap_or(incident.updated_at) - incident.started_at;
            tr {
                th scope="row" { a href={ "/incidents/" (super::query_value(&incident.incident_id)) } { (time(incident.started_at)) } }
                td { (name(&incident.tenant)) }
                td { (severity(incident.severity)) " " (kind(incident)) }
                td { @if incident.state == IncidentState::Open { strong { "open" } ", so far " (how_long(lasted)) } @else { "over, lasted " (how_long(lasted)) } }
                td.number { (grouped(incident.attempts)) }
                td.number { (grouped(incident.accounts_targeted)) }
                td.number { (grouped(incident.sources)) }
                td.number { (incident.compromised.len()) }
            }
        }
    };
    table("incidents-table", "Incidents", &head, &body)
}

/// `CREDENTIAL_STUFFING` as `credential stuffing`.
pub(super) fn kind(incident: &Incident) -> String {
    incident.kind.as_str().to_lowercase().replace('_', " ")
}
