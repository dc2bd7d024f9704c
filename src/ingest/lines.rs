//! Lines of bounded length from a file of unknown content.

use std::fmt;
use std::io::{self, BufRead, ErrorKind};

use crate::event::wire::RECORD_BYTES_MAX;

/// Longest line that is kept whole. A longer one is read to its end and cut to one byte more than this.
pub const LINE_BYTES_MAX: usize = 2 << 20;

// What is cut must still be refused as too large at intake, never decoded as something shorter.
const _: () = assert!(LINE_BYTES_MAX > RECORD_BYTES_MAX);

/// Splits at line feeds, keeps at most [`LINE_BYTES_MAX`] + 1 bytes of each line, and skips blank ones.
pub(super) struct Lines<'a> {
    input: Box<dyn BufRead + 'a>,
}

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl<'a> Lines<'a> {
    pub(super) fn new(input: Box<dyn BufRead + 'a>) -> Self {
        Lines { input }
    }

    /// The next line that is not blank, without its line end; `None` at the end of the file.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            let found = self.read_one(&mut line)?;
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if line.iter().any(|b| !b.is_ascii_whitespace()) {
                return Ok(Some(line));
            }
            if !found {
                return Ok(None);
            }
        }
    }

    /// Reads up to and including the next line feed; `false` when the file ended before one.
    fn read_one(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if chunk.is_empty() {
                return Ok(false);
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let room = (LINE_BYTES_MAX + 1).saturating_sub(line.len());
            line.extend(chunk.iter().take(end.unwrap_or(chunk.len()).min(room)));
            let used = end.map_or(chunk.len(), |at| at + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    fn check(text: &[u8], buffer: usize, want: &[&[u8]]) {
        let mut lines = Lines::new(Box::new(BufReader::with_capacity(buffer, Cursor::new(text.to_vec()))));
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            seen.push(line);
        }
        assert_eq!(seen, want, "buffer of {buffer}");
    }

    #[test]
    fn line_ends_of_both_kinds_and_a_missing_last_one() {
        for buffer in [1, 3, 4096] {
            check(b"a\r\n\n  \nb c\n\r\nlast", buffer, &[b"a", b"b c", b"last"]);
            check(b"", buffer, &[]);
            check(b"\n\n", buffer, &[]);
        }
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 3 * LINE_BYTES_MAX];
        text.extend(b"\nnext\n");
        let mut lines = Lines::new(Box::new(Cursor::new(text)));
        assert_eq!(lines.next_line().unwrap().unwrap().len(), LINE_BYTES_MAX + 1);
        assert_eq!(lines.next_line().unwrap().unwrap(), b"next");
        assert_eq!(lines.next_line().unwrap(), None);
    }
}
