//! What a playbook costs: rows that each attempt reads for it, and bytes that it keeps about one entity at worst.

use super::{Measure, Per, Playbook, PlaybookMode};
use crate::topology::format_duration;

/// Most rows that a set of playbooks may add to an attempt.
pub const ROWS_MAX: u32 = 12;
/// Most bytes that a set may keep about one entity at worst.
pub const ENTITY_BYTES_MAX: u32 = 64 << 10;

/// Bytes of a window's counts: twenty slices of two or four numbers.
const COUNTS_BYTES: u32 = 20 * 14;
const MORE_BYTES: u32 = 20 * 14;
/// Bytes of a set at worst: twenty sketches of half a kibibyte, when it outgrew what is kept one by one.
const SET_BYTES: u32 = 20 * 540;
/// Bytes of the same while it is small, as nearly every one is: 128 members of eight bytes, with their slices.
const SMALL_SET_BYTES: u32 = 128 * 14;

/// The price of one playbook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    /// Rows that an attempt reads and writes for it, besides those that every set needs.
    pub rows: u32,
    /// Bytes about one entity: as long as few are counted, and at worst.
    pub bytes: u32,
    pub bytes_at_worst: u32,
}

impl Price {
    /// What it would cost alone. Playbooks that share window and `where` share most of it.
    #[must_use]
    pub fn of(playbook: &Playbook) -> Price {
        if playbook.trigger.is_empty() {
            return Price::default();
        }
        let sets = u32::try_from(playbook.measures().filter(|measure| measure.set().is_some()).count()).unwrap_or(0);
        let needs_more = playbook.measures().any(|m| matches!(m, Measure::UnknownShare | Measure::Requests));
        let more = if needs_more { MORE_BYTES } else { 0 };
        // Sources, networks and accounts have their rows anyway.
        let rows = match playbook.per {
            Per::Address | Per::Network | Per::Account | Per::Tenant => 0,
            // Sums of up to 64 attempts travel together.
            Per::Asn | Per::Country | Per::UserAgent | Per::TlsFingerprint | Per::PasswordTag => 0,
            // Windows and standing; a device's attempts travel twice as well.
            Per::Pair | Per::Device => 2,
        };
        Price {
            rows: rows + u32::from(playbook.then.cap.is_some()),
            bytes: COUNTS_BYTES + more + sets * SMALL_SET_BYTES,
            bytes_at_worst: COUNTS_BYTES + more + sets * SET_BYTES,
        }
    }

    /// The sum of a set, and what is too much about it. What is off keeps nothing.
    #[must_use]
    pub fn of_all(playbooks: &[Playbook]) -> (Price, Vec<String>) {
        let mut sum = Price::default();
        let mut problems = Vec::new();
        // Entities of different kinds have rows of their own; rows of one attempt add up.
        let kinds = [Per::Address, Per::Network, Per::Account, Per::Device, Per::Pair];
        for per in kinds.into_iter().chain(Per::TRAITS) {
            let running = playbooks.iter().filter(|p| p.per == per && p.mode != PlaybookMode::Off);
            let of_kind: Vec<Price> = running.map(Price::of).collect();
            let bytes: u32 = of_kind.iter().map(|price| price.bytes_at_worst).sum();
            let rows = of_kind.iter().map(|price| price.rows).max().unwrap_or(0);
            sum.rows += rows;
            sum.bytes = sum.bytes.max(of_kind.iter().map(|price| price.bytes).sum());
            sum.bytes_at_worst = sum.bytes_at_worst.max(bytes);
            if bytes > ENTITY_BYTES_MAX {
                problems.push(format!(
                    "per {}: {bytes} bytes about one entity at worst; at most {ENTITY_BYTES_MAX}: let playbooks share \
                     `over` and `where`, or count fewer different things",
                    per.as_str()
                ));
            }
        }
        if sum.rows > ROWS_MAX {
            problems.push(format!("{} rows more an attempt; at most {ROWS_MAX}", sum.rows));
        }
        (sum, problems)
    }

    /// For people.
    #[must_use]
    pub fn describe(&self, playbook: &Playbook) -> String {
        format!(
            "{} rows an attempt, {} bytes about one {} ({} at worst) for {}",
            self.rows,
            self.bytes,
            playbook.per.as_str(),
            self.bytes_at_worst,
            format_duration(playbook.over)
        )
    }
}
