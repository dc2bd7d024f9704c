//! The playbooks in effect: where each comes from, what it does, and how often it spoke.

use maud::{Markup, html};

use super::act::called;
use super::who::until;
use super::{Look, Place, name, page, query_value, sentence};
use crate::console::PlaybookLine;
use crate::console::text::{counted, grouped};
use crate::console::wishes::Deed;
use crate::event::Millis;

/// How far back it is counted how often they spoke.
const SPOKE_MS: Millis = 24 * 3_600_000;

pub(in crate::console) fn playbooks(console: &Look<'_>) -> Markup {
    let (board, now) = (console.board(), console.now());
    let spoke = board.spoke(now - SPOKE_MS);
    let main = html! {
        h1 { "Playbooks" }
        div #playbooks data-live {
            @if board.playbooks().is_empty() { p { "None are read yet." } }
            @for playbook in board.playbooks() {
                @let [live, shadow] = spoke.get(playbook.id.as_str()).copied().unwrap_or_default().map(|n| i64::try_from(n).unwrap_or(i64::MAX));
                section.card aria-labelledby={ "playbook-" (playbook.id) } {
                    h2 id={ "playbook-" (playbook.id) } { (name(&playbook.id)) " " span.badge.live[playbook.mode == "live"] { (playbook.mode) } " v" (playbook.version) }
                    p { (sentence(&playbook.description)) }
                    p.quiet {
                        (sentence(&playbook.origin))
                        @if playbook.is_override { ", " (until(playbook.until, now)) }
                        @if !playbook.below.is_empty() { "; below it: " @for version in &playbook.below { "v" (version) " " } }
                    }
                    p { "In the last 24 hours: " (counted(live, "live verdict", "live verdicts")) ", " (grouped(shadow)) " in shadow, among the newest that are held." }
                    @if console.may_act() { (deeds(playbook)) }
                    details id={ "text-" (playbook.id) } { summary { "Read aloud" } pre tabindex="0" { bdi { (playbook.text) } } }
                }
            }
            @for why in board.playbooks_rejected() { p.notice.reading { "Not taken from the topic: " (sentence(why)) } }
        }
    };
    // The page around it looks at the board as well, and a lock taken twice may wait for itself.
    drop(board);
    page(console, Place::Playbooks, "Playbooks", &main)
}

fn deeds(playbook: &PlaybookLine) -> Markup {
    let link = |deed: Deed| format!("/act?do={}&playbook={}", deed.as_str(), query_value(&playbook.id));
    let offered = [
        (!playbook.thresholds.is_empty()).then_some(Deed::Tighten),
        Some(Deed::Mode),
        playbook.is_override.then_some(Deed::EndOverride),
    ];
    html! {
        ul.deeds { @for deed in offered.into_iter().flatten() {
            li { a.button href=(link(deed)) { (called(deed)) span.unseen { " " (super::Plain::name(&playbook.id)) } } }
        } }
    }
}
