//! How far a long task is: a bar where a person looks at a terminal, otherwise a line in the log now and then.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::event::Millis;

/// Between two lines in the log, in milliseconds.
const LINES_MS: Millis = 10_000;
const BAR: &str = "{msg} [{bar:40}] {bytes} of {total_bytes}, {eta} left";
const RECORDS_BAR: &str = "{msg} [{bar:40}] {pos} of {len} records, {eta} left";
const SPINNER: &str = "{spinner} {msg} {bytes}";

/// The progress of one task over a number of bytes, or of records.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: Option<u64>,
    counts_records: bool,
    told_at: Option<Millis>,
}

impl Progress {
    /// `total`: how many bytes there are, when that is known.
    pub(crate) fn new(what: &'static str, total: Option<u64>) -> Self {
        Progress::with(what, total, if total.is_some() { BAR } else { SPINNER })
    }

    /// Over so many records.
    pub(crate) fn of_records(what: &'static str, total: u64) -> Self {
        Progress { counts_records: true, ..Progress::with(what, Some(total), RECORDS_BAR) }
    }

    fn with(what: &'static str, total: Option<u64>, template: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            // A template that does not parse leaves the usual style.
            let style = ProgressStyle::with_template(template).ok();
            let bar = if let Some(style) = style { bar.with_style(style) } else { bar };
            bar.with_message(what)
        });
        Progress { bar, what, total, counts_records: false, told_at: None }
    }

    /// There is more to do than was thought.
    pub(crate) fn of(&mut self, total: u64) {
        self.total = Some(total);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// `bytes` are behind, which were so many records.
    pub(crate) fn at(&mut self, bytes: u64, records: u64, now: Millis) {
        if let Some(bar) = &self.bar {
            bar.set_position(if self.counts_records { records } else { bytes });
            return;
        }
        let told_at = *self.told_at.get_or_insert(now);
        if now.saturating_sub(told_at) < LINES_MS {
            return;
        }
        self.told_at = Some(now);
        if self.counts_records {
            tracing::info!(records, of = self.total, "{}", self.what);
        } else {
            tracing::info!(records, bytes, of = self.total, "{}", self.what);
        }
    }

    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
