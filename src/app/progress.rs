//! How far a long task is: a bar where a person looks at a terminal, otherwise a line in the log now and then.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::event::Millis;

/// Between two lines in the log, in milliseconds.
const LINES_MS: Millis = 10_000;
const BAR: &str = "{msg} [{bar:40}] {bytes} of {total_bytes}, {eta} left";
const SPINNER: &str = "{spinner} {msg} {bytes}";

/// The progress of one task over a number of bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: Option<u64>,
    told_at: Option<Millis>,
}

impl Progress {
    /// `total`: how many bytes there are, when that is known.
    pub(crate) fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = match total {
                Some(total) => (ProgressBar::new(total), BAR),
                None => (ProgressBar::new_spinner(), SPINNER),
            };
            // A template that does not parse leaves the usual style.
            let style = ProgressStyle::with_template(template).ok();
            let bar = if let Some(style) = style { bar.with_style(style) } else { bar };
            bar.with_message(what)
        });
        Progress { bar, what, total, told_at: None }
    }

    /// `bytes` are behind, which were so many records.
    pub(crate) fn at(&mut self, bytes: u64, records: u64, now: Millis) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            return;
        }
        let told_at = *self.told_at.get_or_insert(now);
        if now.saturating_sub(told_at) >= LINES_MS {
            self.told_at = Some(now);
            tracing::info!(records, bytes, of = self.total, "{}", self.what);
        }
    }

    pub(crate) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
