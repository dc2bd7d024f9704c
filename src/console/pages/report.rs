//! The report of one incident, as a page and as the body of a file that stands alone.

use maud::{Markup, html};

use super::incidents::kind;
use super::{Look, Place, entity, figure, linked, name, page, sentence, severity, table, time};
use crate::console::chart::{Chart, Drawn, Mark, Series};
use crate::console::disk::Line;
use crate::console::report::{Deed, Report};
use crate::console::text::{counted, grouped, how_long, time_of_day};
use crate::event::{Counted, Disposition, Millis};

const MINUTE_MS: Millis = 60_000;
/// Marks of accounts that fell in a chart.
const MARKS_MAX: usize = 8;

pub(in crate::console) fn report(console: &Look<'_>, report: &Report) -> Markup {
    let incident = &report.incident;
    let id = super::query_value(&incident.incident_id);
    let main = html! {
        p.crumbs { a href="/incidents" { "Incidents" } }
        h1 { "Incident at " (name(&incident.tenant)) ", " (time(incident.started_at)) }
        nav.exports aria-label="Exports" {
            ul {
                li { a href={ "/incidents/" (id) "/report.html" } download { "Report as one HTML file" } }
                li { a href={ "/incidents/" (id) "/report.md" } download { "Markdown" } }
                li { a href={ "/incidents/" (id) "/report.json" } download { "JSON, with every line" } }
                li { a href={ "/incidents/" (id) "/targets.csv" } download { "Every target as CSV" } }
                li { a href={ "/incidents/" (id) "/targets.jsonl" } download { "as JSON lines" } }
                li { a href={ "/incidents/" (id) "/sources.csv" } download { "Every source as CSV" } }
                li { a href={ "/incidents/" (id) "/sources.jsonl" } download { "as JSON lines" } }
            }
        }
        div #report data-live { (body(report, true)) }
    };
    page(console, Place::Incidents, "Incident", &main)
}

/// The report itself. `links`: names lead to their pages.
pub(in crate::console) fn body(report: &Report, links: bool) -> Markup {
    let incident = &report.incident;
    let shown = |value: &str| if links { linked(&incident.tenant, value) } else { name(value) };
    let shown_entity =
        |scope: &str, value: &str| if links { entity(&incident.tenant, scope, value) } else { name(value) };
    html! {
        p.summary { (severity(incident.severity)) " " (kind(incident)) ". " (sentence(report.summary())) }
        dl.figures {
            (figure(&how_long(report.lasted()), if report.is_open() { "so far, still open" } else { "from begin to end" }))
            (figure(&grouped(incident.attempts), "attempts"))
            (figure(&grouped(incident.failures), "failures"))
            (figure(&grouped(incident.stopped_at_edge), "stopped at an edge"))
            (figure(&grouped(report.targeted()), "accounts tried"))
            (figure(&grouped(report.unknown()), "of them nobody's"))
            (figure(&grouped(report.sources()), "sources"))
            (figure(&grouped(incident.blocked), "entities blocked"))
            (figure(&grouped(whole(incident.compromised.len())), "accounts entered"))
        }
        p.quiet {
            "Began " (time(incident.started_at)) "; "
            @if let Some(end) = incident.ended_at { "ended " (time(end)) } @else { "last news " (time(incident.updated_at)) }
            ". " (disposition(incident.disposition)) " Id " code { (name(&incident.incident_id)) } "."
            @if report.lines.targets == 0 { " Its accounts and sources are not listed yet: their numbers are estimates." }
        }
        h2 { "Who fell" }
        (fallen(report, &shown))
        h2 { "Minute by minute" }
        @match timeline(report) {
            Some(chart) => {
                (chart.markup())
                @if !report.minutes_are_own { p.quiet { "These are all of the tenant's attempts, honest ones included." } }
            },
            None => p { "No minute is told yet." },
        }
        h2 { "Sources" }
        (sources(report, &shown))
        h2 { "Accounts tried" }
        (targets(report, &shown))
        h2 { "Networks, countries and agents" }
        div.columns {
            (tops("Networks", &incident.top_networks, incident.failures.max(1)))
            (tops("Countries", &incident.top_countries, incident.failures.max(1)))
            (tops("User agents", &incident.top_user_agents, incident.failures.max(1)))
        }
        h2 { "What was done" }
        (deeds(report, &shown_entity))
        h2 { "What intruders did" }
        (trail(report))
    }
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

const fn disposition(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Undetermined => "Nobody has judged it yet.",
        Disposition::Confirmed => "Confirmed by a person.",
        Disposition::FalsePositive => "A person says that it was none.",
    }
}

fn fallen(report: &Report, shown: &dyn Fn(&str) -> Markup) -> Markup {
    let compromised = &report.incident.compromised;
    if compromised.is_empty() {
        return html! { p { "Nobody, as far as is known." } };
    }
    let head = html! {
        th scope="col" { "Account" } th scope="col" { "Entered (UTC)" } th scope="col" { "Seen" } th scope="col" { "From" } th scope="col" { "Event" }
    };
    let rows = html! {
        @for of in compromised {
            tr {
                th scope="row" { (shown(&of.account)) }
                td { (time(of.at)) }
                td { (time(of.flagged_at)) ", " (how_long(of.flagged_at - of.at)) " after" }
                td { (shown(&of.source_ip)) }
                td { code { (name(&of.event_id)) } }
            }
        }
    };
    table("fallen", "Accounts that were entered", &head, &rows)
}

/// Attempts by the minute, with what happened.
pub(in crate::console) fn timeline(report: &Report) -> Option<Chart> {
    let minutes = &report.lines.minutes;
    let (from, last) = (minutes.first()?.at, minutes.last()?.at);
    let steps = usize::try_from((last - from) / MINUTE_MS).ok()? + 1;
    if steps > crate::console::report::MINUTES_MAX {
        return None;
    }
    let mut of: [Vec<f64>; 4] = std::array::from_fn(|_| vec![0.0; steps]);
    for minute in minutes {
        let Ok(index) = usize::try_from((minute.at - from) / MINUTE_MS) else { continue };
        let counts = [minute.attempts, minute.failures, minute.unknown, minute.stopped].map(|n| n as f64);
        for (values, count) in of.iter_mut().zip(counts) {
            if let Some(value) = values.get_mut(index) {
                *value += count;
            }
        }
    }
    let [attempts, failures, unknown, stopped] = of;
    let mut series = vec![
        Series { name: "attempts", class: "attempts", drawn: Drawn::Area, values: attempts },
        Series { name: "failures", class: "failures", drawn: Drawn::Area, values: failures },
        Series { name: "on nobody's accounts", class: "unknown", drawn: Drawn::Line, values: unknown },
        Series { name: "stopped", class: "stopped", drawn: Drawn::Line, values: stopped },
    ];
    if let Some(usual) = report.usual_failures_a_minute {
        let values = vec![usual; steps];
        series.push(Series { name: "usual failures", class: "usual-failures", drawn: Drawn::Dashed, values });
    }
    let incident = &report.incident;
    let mut marks = vec![Mark { at: incident.started_at, class: "alarm", label: "began".to_owned() }];
    marks.extend(report.deeds.first().map(|deed| Mark { at: deed.at, class: "deed", label: "first deed".to_owned() }));
    let fell = incident.compromised.iter().take(MARKS_MAX);
    marks.extend(fell.map(|of| Mark { at: of.at, class: "fell", label: "an account was entered".to_owned() }));
    marks.extend(incident.ended_at.map(|at| Mark { at, class: "calmed", label: "ended".to_owned() }));
    let most = minutes.iter().max_by_key(|minute| minute.attempts)?;
    Some(Chart {
        id: "timeline".to_owned(),
        title: "Attempts by the minute".to_owned(),
        description: format!(
            "{}. The fullest minute was {} with {}.",
            counted(whole(minutes.len()), "minute", "minutes"),
            time_of_day(most.at),
            counted(most.attempts, "attempt", "attempts")
        ),
        from,
        step_ms: MINUTE_MS,
        series,
        marks,
    })
}

fn sources(report: &Report, shown: &dyn Fn(&str) -> Markup) -> Markup {
    let lines = &report.lines.top_sources;
    if lines.is_empty() {
        return html! { p { "Not listed yet." } };
    }
    let head = html! {
        th scope="col" { "Source" } th.number scope="col" { "Attempts" } th.number scope="col" { "Failed" } th.number scope="col" { "Stopped" }
        th.number scope="col" { "Succeeded" } th scope="col" { "Network" } th scope="col" { "Agent" } th scope="col" { "First seen (UTC)" } th scope="col" { "Last seen" }
    };
    let rows = html! {
        @for line in lines {
            tr {
                th scope="row" { (shown(&line.value)) }
                @for count in ["attempts", "failures", "stopped", "successes"] { td.number { (grouped(line.count(count))) } }
                td { @if !line.about("asn").is_empty() { "AS" (name(line.about("asn"))) " " } (name(line.about("country"))) }
                td.long { (name(line.about("user_agent"))) }
                td { (time(line.first_at)) } td { (time(line.last_at)) }
            }
        }
    };
    html! {
        (shown_of(lines, report.lines.sources, "Those that succeeded first, then by attempts."))
        (table("sources", "Sources", &head, &rows))
    }
}

fn targets(report: &Report, shown: &dyn Fn(&str) -> Markup) -> Markup {
    let lines = &report.lines.top_targets;
    if lines.is_empty() {
        return html! { p { "Not listed yet." } };
    }
    let head = html! {
        th scope="col" { "Account" } th.number scope="col" { "Attempts" } th.number scope="col" { "Failed" } th.number scope="col" { "Stopped" }
        th scope="col" { "Whose" } th scope="col" { "First tried (UTC)" }
    };
    let rows = html! {
        @for line in lines {
            tr {
                th scope="row" { (shown(&line.value)) }
                @for count in ["attempts", "failures", "stopped"] { td.number { (grouped(line.count(count))) } }
                td { @if line.count("fallen") > 0 { strong { "entered" } } @else if line.count("unknown") > 0 { "nobody's" } @else { "a user's" } }
                td { (time(line.first_at)) }
            }
        }
    };
    html! {
        (shown_of(lines, report.lines.targets, "Those that were entered first, then by attempts."))
        (table("targets", "Accounts tried", &head, &rows))
    }
}

fn shown_of(lines: &[Line], all: u64, order: &str) -> Markup {
    let all = i64::try_from(all).unwrap_or(i64::MAX);
    html! { p.quiet { (grouped(whole(lines.len()))) " of " (grouped(all)) ". " (order) " The exports as CSV and JSON lines hold all." } }
}

fn tops(title: &str, of: &[Counted], failures: i64) -> Markup {
    html! {
        section {
            h3 { (title) }
            @if of.is_empty() { p { "Not told." } }
            ol.tops {
                @for one in of {
                    // A share as a bar that needs no style of its own.
                    li { (name(&one.value)) meter min="0" max=(failures.max(one.attempts)) value=(one.attempts) aria-label=(format!("{} attempts", one.attempts)) {} span.number { (grouped(one.attempts)) } }
                }
            }
        }
    }
}

fn deeds(report: &Report, shown: &dyn Fn(&str, &str) -> Markup) -> Markup {
    if report.deeds_by_playbook.is_empty() {
        return html! {
            p { "Nothing is told." @if !report.incident.playbooks.is_empty() { " Playbooks that spoke: " @for id in &report.incident.playbooks { (name(id)) " " } } }
        };
    }
    let of_playbooks = html! {
        @for (playbook, deeds) in &report.deeds_by_playbook {
            tr { th scope="row" { (name(playbook)) } td.number { (deeds.count) } td { (time(deeds.first_at)) } td { (time(deeds.last_at)) } }
        }
    };
    let head = html! { th scope="col" { "Playbook" } th.number scope="col" { "Times" } th scope="col" { "First (UTC)" } th scope="col" { "Last" } };
    let all: u64 = report.deeds_by_playbook.values().map(|deeds| deeds.count).sum();
    let each = html! { @for deed in &report.deeds { (deed_row(deed, shown)) } };
    let each_head = html! { th scope="col" { "When (UTC)" } th scope="col" { "What" } th scope="col" { "Whom" } th scope="col" { "Until" } th scope="col" { "Why" } };
    html! {
        (table("deeds-by-playbook", "What was done, by playbook", &head, &of_playbooks))
        details #deeds-each {
            summary { "One by one: the first " (report.deeds.len()) " of " (all) }
            (table("deeds", "What was done, one by one", &each_head, &each))
        }
    }
}

fn deed_row(deed: &Deed, shown: &dyn Fn(&str, &str) -> Markup) -> Markup {
    html! {
        tr {
            th scope="row" { (time(deed.at)) }
            td { (name(&deed.action)) " " (name(&deed.by)) @if deed.is_shadow { " (shadow)" } }
            td { (name(&deed.scope)) " " (shown(&deed.scope, &deed.value)) }
            td { @if let Some(until) = deed.until { (time(until)) } @else { "–" } }
            td.long { (sentence(&deed.why)) }
        }
    }
}

fn trail(report: &Report) -> Markup {
    if report.lines.steps.is_empty() {
        return html! { p { "Nothing is told." } };
    }
    let head = html! {
        th scope="col" { "When (UTC)" } th scope="col" { "Account" } th scope="col" { "From" } th scope="col" { "What" } th scope="col" { "With" } th scope="col" { "Event" }
    };
    let rows = html! {
        @for step in &report.lines.steps {
            @let about = |what: &str| step.about.get(what).map_or("", String::as_str);
            tr {
                th scope="row" { (time(step.at)) }
                td { (name(about("account"))) }
                td { (name(about("source"))) }
                td { (name(about("activity"))) " " (name(about("outcome"))) }
                td { (name(about("application"))) " " (name(about("user_agent"))) }
                td { code { (name(&step.event_id)) } }
            }
        }
    };
    html! {
        (table("trail", "Steps of intruders", &head, &rows))
        @if report.lines.steps_left_out > 0 { p.quiet { "And " (report.lines.steps_left_out) " more, in the export as JSON." } }
    }
}
