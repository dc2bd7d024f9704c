//! Places of enforcement: when each was last heard, how soon it obeys, what it does not take.

use maud::{Markup, html};

use super::{Look, Place, name, page, sentence, table, time};
use crate::console::text::{grouped, how_long};
use crate::event::ReceiptOutcome;

/// Entries that an edge does not take, that are listed.
const FAILING_SHOWN_MAX: usize = 50;

pub(in crate::console) fn edges(console: &Look<'_>) -> Markup {
    let (board, now) = (console.board(), console.now());
    let sinks: Vec<_> = board.sinks().iter().collect();
    let main = html! {
        h1 { "Edges" }
        div #edges data-live {
            @if sinks.is_empty() {
                p { "No edge has confirmed anything. Sinks write receipts unless they are told not to; bouncers that pull write none." }
            } @else {
                (table("edges-table", "Edges", &html! {
                    th scope="col" { "Edge" } th scope="col" { "Last confirmed (UTC)" } th.number scope="col" { "Median delay" } th.number scope="col" { "99 of 100" }
                    th.number scope="col" { "Applied" } th.number scope="col" { "Lifted or expired" } th.number scope="col" { "Not taken now" } th scope="col" { "Last failure" }
                }, &html! { @for (id, sink) in &sinks { @let delay = sink.delay(now); tr {
                    th scope="row" { (name(id)) }
                    td { (time(sink.last_at)) ", " (how_long(now - sink.last_at)) " ago" }
                    td.number { @if let Some(delay) = delay { (how_long(delay.median_ms)) } @else { "–" } }
                    td.number { @if let Some(delay) = delay { (how_long(delay.p99_ms)) } @else { "–" } }
                    td.number { (grouped(times(sink.outcomes.get(&ReceiptOutcome::Applied)))) }
                    td.number { (grouped(times(sink.outcomes.get(&ReceiptOutcome::Lifted)).saturating_add(times(sink.outcomes.get(&ReceiptOutcome::Expired))))) }
                    td.number { (sink.failing.len()) }
                    td { @if let Some(last) = &sink.last_failure { (time(last.applied_at)) " " (name(&last.key)) @if let Some(detail) = &last.detail { ": " (sentence(detail)) } } @else { "none" } }
                } } }))
                p.quiet { "Delays are those of the last quarter of an hour, from the change of an entry to its receipt." }
            }
            @for (id, sink) in &sinks {
                @if !sink.failing.is_empty() {
                    h2 { "Not taken by " (name(id)) }
                    ul { @for receipt in sink.failing.values().take(FAILING_SHOWN_MAX) { li {
                        (name(&receipt.key)) " " (receipt.outcome.as_str()) " " (time(receipt.applied_at)) @if let Some(detail) = &receipt.detail { ": " (sentence(detail)) }
                    } } }
                }
            }
        }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    page(console, Place::Edges, "Edges", &main)
}

fn times(count: Option<&u64>) -> i64 {
    count.map_or(0, |count| i64::try_from(*count).unwrap_or(i64::MAX))
}
