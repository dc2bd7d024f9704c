//! What is going on now, tenant by tenant.

use maud::{Markup, html};
use serde::Deserialize;

use super::act::called;
use super::{Look, Place, figure, name, page, time};
use crate::console::board::{Board, Heard};
use crate::console::chart::{Chart, Drawn, Mark, Series};

use crate::console::text::{self, Plain, counted, grouped, how_long, percent};
use crate::console::wishes::Deed;
use crate::event::{ActivitySlice, AttackState, AttackStatus, ChallengePolicy, IncidentState, Millis};

/// Most tenants that are drawn; others are listed.
const DRAWN_MAX: usize = 12;
/// What a chart shows.
const CHART_MS: Millis = 60 * 60_000;
/// Traffic that was last heard of longer ago is told so.
const QUIET_AFTER_MS: Millis = 5 * 60_000;
/// Most traits that are named.
const TRAITS_MAX: usize = 6;

#[derive(Debug, Default, Deserialize)]
pub(in crate::console) struct OverviewQuery {
    tenant: Option<String>,
}

/// How a tenant is shown.
enum Word<'a> {
    On(&'a AttackStatus),
    /// A status that was not calm has run out.
    Silent(&'a AttackStatus),
    Calm,
}

pub(in crate::console) fn overview(console: &Look<'_>, query: &OverviewQuery) -> Markup {
    let (board, now) = (console.board(), console.now());
    let mut tenants: Vec<(&str, Word<'_>)> =
        board.tenants().into_iter().map(|tenant| (tenant, word(&board, tenant, now))).collect();
    if let Some(wanted) = &query.tenant {
        tenants.retain(|(tenant, _)| tenant == wanted);
    }
    tenants.sort_by_key(|(tenant, word)| (std::cmp::Reverse(gravity(word)), *tenant));
    let is_live = console.freshness().is_live();
    let main = html! {
        h1 { "Overview" }
        div #banners data-live {
            @if tenants.is_empty() {
                p { @if is_live { "Nothing is known of any tenant yet: no login event has been judged." } @else { "Nothing is known yet." } }
            }
            @for (tenant, word) in tenants.iter().take(DRAWN_MAX) { (banner(&board, tenant, word, is_live, now)) }
        }
        // Only this is read aloud when it changes, and not the figures, which change all the time.
        p #said.unseen aria-live="assertive" data-live {
            @for (tenant, word) in &tenants {
                @match word {
                    Word::On(status) => { (tenant) ": " (status.state.as_str()) ". " }
                    Word::Silent(_) => { (tenant) ": no word any more. " }
                    Word::Calm => {}
                }
            }
        }
        @for (tenant, _) in tenants.iter().take(DRAWN_MAX) {
            section aria-labelledby={ "tenant-" (tenant) } {
                h2 id={ "tenant-" (tenant) } { (name(tenant)) }
                div id={ "switch-" (tenant) } data-live { (kill_switch(console, &board, tenant, now)) }
                div id={ "now-" (tenant) } data-live { (figures(&board, tenant, now)) }
                div id={ "traffic-" (tenant) } data-live { (traffic(&board, tenant, now)) }
            }
        }
        @if tenants.len() > DRAWN_MAX {
            h2 { "More tenants" }
            ul.names { @for (tenant, _) in tenants.iter().skip(DRAWN_MAX) { li { a href={ "/?tenant=" (tenant) } { (name(tenant)) } } } }
        }
        section aria-labelledby="incidents-title" {
            h2 #incidents-title { "Latest incidents" }
            div #latest data-live { (super::incidents::rows(board.incidents().into_iter().take(5))) }
        }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    page(console, Place::Overview, "Overview", &main)
}

/// Whether all enforcement is stopped, and the way to stop it or to start it again.
fn kill_switch(look: &Look<'_>, board: &Board, tenant: &str, now: Millis) -> Markup {
    let switched_off = board.lists().desired().exemptions().covers_tenant(tenant, now);
    let deed = if switched_off.is_some() { Deed::KillOff } else { Deed::KillOn };
    html! {
        @if let Some(exemption) = switched_off {
            p.banner.elevated {
                strong { "All enforcement is stopped" } " " (super::until(exemption.until, now)) ", by "
                (name(exemption.actor.as_deref().unwrap_or("nobody named"))) ": " (super::sentence(&exemption.reason))
            }
        }
        @if look.may_act() {
            p { a href={ "/act?do=" (deed.as_str()) "&tenant=" (super::query_value(tenant)) } { (called(deed)) span.unseen { " at " (Plain::name(tenant)) } } }
        }
    }
}

fn word<'a>(board: &'a Board, tenant: &str, now: Millis) -> Word<'a> {
    match board.heard(tenant, now) {
        Some(Heard::Holds(status)) if status.state != AttackState::Calm => Word::On(status),
        Some(Heard::RanOut(status)) if status.state != AttackState::Calm => Word::Silent(status),
        Some(Heard::Holds(_) | Heard::RanOut(_)) | None => Word::Calm,
    }
}

const fn gravity(word: &Word<'_>) -> u8 {
    match word {
        Word::On(AttackStatus { state: AttackState::Attack, .. }) => 3,
        Word::Silent(_) => 2,
        Word::On(_) => 1,
        Word::Calm => 0,
    }
}

fn banner(board: &Board, tenant: &str, word: &Word<'_>, is_live: bool, now: Millis) -> Markup {
    html! {
        @match word {
            Word::On(status) => div.banner.attack[status.state == AttackState::Attack].elevated[status.state != AttackState::Attack] {
                p.headline {
                    (name(tenant)) " " @if status.state == AttackState::Attack { "is under attack" } @else { "is on guard (elevated)" }
                    " since " (time(status.since)) ", " (how_long(now - status.since))
                    @if !is_live { " — as far as was heard" }
                }
                p {
                    (percent(status.failure_share)) " of attempts fail, usually " (percent(status.usual_failure_share)) "; "
                    (format!("{:.1}", status.attempts_per_second)) " attempts a second; "
                    (format!("{:.1}", status.bad_to_good)) " bad attempts for each good one. " (challenge(status.challenge))
                }
                @if !status.traits.is_empty() {
                    p { "They share: " @for (index, of) in status.traits.iter().take(TRAITS_MAX).enumerate() {
                        @if index > 0 { ", " }
                        (of.feature) " " (name(&text::pair_of_values(&of.value))) " (" (percent(of.share)) ", "
                        (format!("{:.0}", of.lift)) " times as often as usual)"
                    } "." }
                }
                @if let Some(id) = &status.incident_id { p { a href={ "/incidents/" (super::query_value(id)) } { "The incident's report" } } }
            },
            Word::Silent(status) => div.banner.silent {
                p.headline { (name(tenant)) ": no word since " (time(status.updated_at)) }
                p {
                    "The last status said " (status.state.as_str()) " and ran out at " (time(status.expires_at))
                    ". Nobody has said since that it is over: is the job running?"
                }
            },
            Word::Calm => div.banner.calm[is_live].silent[!is_live] {
                p.headline { (name(tenant)) @if is_live { " is calm" } @else { " was calm when last heard" } }
                @if let Some(last) = board.traffic().last(tenant) {
                    @let age = now - last.slice_end;
                    @if age > QUIET_AFTER_MS { p { "No traffic was told for " (how_long(age)) "." } }
                }
            },
        }
    }
}

const fn challenge(policy: ChallengePolicy) -> &'static str {
    match policy {
        ChallengePolicy::Nobody => "The login page challenges nobody.",
        ChallengePolicy::AttackedTraits => "The login page challenges whoever shares what the attack shares.",
        ChallengePolicy::UnknownPairs => "The login page challenges whoever is not known.",
        ChallengePolicy::Everybody => "The login page challenges everybody.",
    }
}

fn figures(board: &Board, tenant: &str, now: Millis) -> Markup {
    let in_force = board.in_force(tenant);
    let open = board.incidents().into_iter().filter(|i| i.tenant == tenant && i.state == IncidentState::Open).count();
    let last = board.traffic().last(tenant);
    html! {
        dl.figures {
            (figure(&grouped(whole(in_force.all())), "restrictions in force"))
            @for (action, count) in &in_force.by_action { (figure(&grouped(whole(*count)), &action.as_str().to_lowercase().replace('_', " "))) }
            @if in_force.exempted > 0 { (figure(&grouped(whole(in_force.exempted)), "exempted")) }
            (figure(&grouped(whole(open)), "open incidents"))
            @if let Some(delay) = board.sinks().delay(now) {
                (figure(&how_long(delay.median_ms), "until in force at an edge, median"))
                (figure(&how_long(delay.p99_ms), "until in force, 99 of 100"))
            } @else if board.sinks().is_empty() { (figure("–", "no edge has confirmed anything")) }
            @else { (figure("–", "until in force: nothing applied lately")) }
            @if board.sinks().failing() > 0 { (figure(&grouped(whole(board.sinks().failing())), "entries that some edge does not take")) }
            @if let Some(last) = last {
                @if last.alarm_level > 0.0 { (figure(&percent(last.statistic / last.alarm_level), "of the alarm level")) }
            }
        }
    }
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn traffic(board: &Board, tenant: &str, now: Millis) -> Markup {
    let slices = board.traffic().slices(tenant, now - CHART_MS, now + CHART_MS);
    let Some(chart) = chart(&slices, &format!("traffic-of-{tenant}"), tenant) else {
        return html! { p { "No figures of its traffic yet." } };
    };
    let applications: Vec<&str> = board.traffic().applications(tenant).take(DRAWN_MAX).collect();
    html! {
        (chart.markup())
        @if applications.len() > 1 { p { "Services: " @for name_of in &applications { (name(name_of)) " " } } }
    }
}

/// Attempts and failures against the usual.
fn chart(slices: &[ActivitySlice], id: &str, tenant: &str) -> Option<Chart> {
    let (first, last) = (slices.first()?, slices.last()?);
    let step_ms = first.slice_end - first.slice_start;
    let steps = usize::try_from((last.slice_start - first.slice_start) / step_ms).ok()? + 1;
    // As many as an hour has, and no more if somebody's slices are finer.
    if steps > 4_000 {
        return None;
    }
    let mut of: [Vec<f64>; 5] = std::array::from_fn(|_| vec![0.0; steps]);
    let mut marks = Vec::new();
    let mut before = first.state;
    for slice in slices {
        let Ok(index) = usize::try_from((slice.slice_start - first.slice_start) / step_ms) else { continue };
        let counts = [slice.attempts, slice.failures, slice.stopped].map(|n| n as f64);
        let figures = counts.into_iter().chain([slice.usual_attempts, slice.usual_failures]);
        for (values, figure) in of.iter_mut().zip(figures) {
            if let Some(value) = values.get_mut(index) {
                *value = figure;
            }
        }
        if slice.state != before {
            let class = if slice.state == AttackState::Calm { "calmed" } else { "alarm" };
            marks.push(Mark { at: slice.slice_start, class, label: slice.state.as_str().to_owned() });
            before = slice.state;
        }
    }
    let sums = slices.iter().fold((0_i64, 0_i64, 0_i64), |sums, slice| {
        (sums.0 + slice.attempts, sums.1 + slice.failures, sums.2 + slice.stopped)
    });
    let [attempts, failures, stopped, usual, usual_failures] = of;
    Some(Chart {
        id: id.to_owned(),
        title: format!("Attempts to log in at {} in slices of {}", Plain::name(tenant), how_long(step_ms)),
        description: format!(
            "{}, of which {} failed and {} were stopped, in {}.",
            counted(sums.0, "attempt", "attempts"),
            grouped(sums.1),
            grouped(sums.2),
            how_long(last.slice_end - first.slice_start)
        ),
        from: first.slice_start,
        step_ms,
        series: vec![
            Series { name: "attempts", class: "attempts", drawn: Drawn::Area, values: attempts },
            Series { name: "failures", class: "failures", drawn: Drawn::Area, values: failures },
            Series { name: "stopped", class: "stopped", drawn: Drawn::Line, values: stopped },
            Series { name: "usual attempts", class: "usual", drawn: Drawn::Dashed, values: usual },
            Series { name: "usual failures", class: "usual-failures", drawn: Drawn::Dashed, values: usual_failures },
        ],
        marks,
    })
}
