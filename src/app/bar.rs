//! Progress of long work: a bar where there is a terminal, a log line every few seconds where there is none.

use std::io::{IsTerminal as _, Read};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often a log line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// One piece of long work.
#[derive(Debug, Clone)]
pub struct Bar {
    bar: ProgressBar,
    what: &'static str,
    told_at: std::cell::Cell<Duration>,
}

impl Bar {
    /// Over the bytes of a file; for standard input and what has no length, a count of bytes.
    #[must_use]
    pub fn of_file(what: &'static str, path: &Path) -> Bar {
        let length = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        let template = match length {
            Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        Bar::new(what, length, template)
    }

    /// Over a number of things; `None` when it is not known.
    #[must_use]
    pub fn of_count(what: &'static str, length: Option<u64>) -> Bar {
        let template = match length {
            Some(_) => "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}",
            None => "{msg} {spinner} {human_pos} {per_sec}",
        };
        Bar::new(what, length, template)
    }

    fn new(what: &'static str, length: Option<u64>, template: &str) -> Bar {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(length.unwrap_or(0))
        } else {
            ProgressBar::with_draw_target(length, indicatif::ProgressDrawTarget::hidden())
        };
        // A template of ours that is wrong shows the default bar, which is no harm.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what);
        Bar { bar, what, told_at: std::cell::Cell::new(Duration::ZERO) }
    }

    /// Moves on.
    pub fn advance(&self, by: u64) {
        self.bar.inc(by);
        let elapsed = self.bar.elapsed();
        if self.bar.is_hidden() && elapsed.saturating_sub(self.told_at.get()) >= LINE_EVERY {
            self.told_at.set(elapsed);
            tracing::info!(done = self.bar.position(), of = self.bar.length(), "{}", self.what);
        }
    }

    /// Moves on with what is read.
    pub fn reading<R: Read>(&self, input: R) -> Reading<R> {
        Reading { input, bar: self.clone() }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A reader that moves a bar.
#[derive(Debug)]
pub struct Reading<R> {
    input: R,
    bar: Bar,
}

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.bar.advance(n as u64);
        Ok(n)
    }
}
