//! The blast radius of playbooks: one whose blocks are rolled back again and again does harm, and is withdrawn for a while.
//!
//! A block is rolled back by its owner, when people who had always come from there are refused with it. Accounts of his own
//! that an attacker has made known long before roll back his own sources alone; to have a playbook withdrawn he needs that at a tenth of
//! all that it blocks.

use super::frame::Partial;
use super::io::WITHDRAWN_MAX;
use super::row::SiteRow;
use crate::event::{Millis, Withdrawn};
use crate::window::Slices;

/// What is counted lies within this time.
const OVER_MS: Millis = 10 * 60_000;
/// So many roll-backs are no accident, when they are this share of what was blocked.
const ROLLED_BACK_MIN: u64 = 20;
const BLOCKED_TO_ONE: u64 = 10;
/// How long a playbook is withdrawn.
const WITHDRAWN_MS: Millis = 3_600_000;
/// Most playbooks that are counted.
const PLAYBOOKS_MAX: usize = 256;

/// Counts what was blocked and rolled back, and withdraws whoever does harm.
pub(super) fn partial(row: &mut SiteRow, partial: &Partial, now: Millis) {
    for (_, playbook) in &partial.blocked {
        count(row, playbook, [1, 0], now);
    }
    for playbook in &partial.rolled_back {
        count(row, playbook, [0, 1], now);
    }
    row.withdrawn.retain(|_, until| *until > now);
    for playbook in &partial.rolled_back {
        let Some(counted) = row.governed.get(playbook) else { continue };
        let [blocked, rolled_back] = counted.sums(counted.slice_of(now));
        let is_harm = rolled_back >= ROLLED_BACK_MIN && rolled_back * BLOCKED_TO_ONE >= blocked;
        if is_harm && row.withdrawn.len() < WITHDRAWN_MAX && !row.withdrawn.contains_key(playbook) {
            row.withdrawn.insert(playbook.clone(), now.saturating_add(WITHDRAWN_MS));
            row.governed.remove(playbook);
            row.withdrawn_is_news = true;
        }
    }
}

fn count(row: &mut SiteRow, playbook: &str, counts: [u32; 2], now: Millis) {
    if row.governed.len() >= PLAYBOOKS_MAX && !row.governed.contains_key(playbook) {
        row.governed.retain(|_, counted| counted.sums(counted.slice_of(now)) != [0, 0]);
        if row.governed.len() >= PLAYBOOKS_MAX {
            return;
        }
    }
    row.governed.entry(playbook.into()).or_insert_with(|| Slices::new(OVER_MS)).add(now, counts);
}

/// Who is withdrawn at `now`, for the status.
pub(super) fn withdrawn(row: &SiteRow, now: Millis) -> Vec<Withdrawn> {
    let theirs = row.withdrawn.iter().filter(|(_, until)| **until > now);
    theirs.map(|(playbook, until)| Withdrawn { playbook: playbook.to_string(), until: *until }).collect()
}
