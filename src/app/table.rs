//! Tables for a terminal: columns as wide as they must be, colours only where somebody looks.

use std::fmt::Write as _;

use crate::console::text::Plain;

/// Widest cell, in characters.
const CELL_CHARS_MAX: usize = 60;

/// How a cell is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Bad,
    Warn,
    Good,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Tone::Plain => "",
            Tone::Bad => "\u{1b}[1;31m",
            Tone::Warn => "\u{1b}[33m",
            Tone::Good => "\u{1b}[32m",
        }
    }
}

/// Text in the colour of its tone, where colours are wanted.
pub(super) fn toned(text: &str, tone: Tone, has_colours: bool) -> String {
    if has_colours && tone != Tone::Plain { format!("{}{text}\u{1b}[0m", tone.code()) } else { text.to_owned() }
}

/// Rows under a head. What others chose is made plain here.
#[derive(Debug)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Self {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<(String, Tone)>) {
        let plain = |(text, tone): (String, Tone)| {
            let text = Plain::name(&text).to_string();
            let cut: String = text.chars().take(CELL_CHARS_MAX).collect();
            (if cut.len() < text.len() { format!("{cut}…") } else { text }, tone)
        };
        self.rows.push(cells.into_iter().map(plain).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The last column is as wide as its text.
    pub(super) fn text(&self, has_colours: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
            cells.chain(self.head.get(column).map(|name| name.chars().count())).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        let head = self.head.iter().map(|name| ((*name).to_owned(), Tone::Plain)).collect::<Vec<_>>();
        for row in std::iter::once(&head).chain(&self.rows) {
            for (column, (text, tone)) in row.iter().enumerate() {
                let is_last = column + 1 == row.len();
                let pad = widths.get(column).map_or(0, |width| width.saturating_sub(text.chars().count()));
                let pad = if is_last { 0 } else { pad + 2 };
                let _written = write!(out, "{}{:pad$}", toned(text, *tone, has_colours), "");
            }
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_with_and_without_colours() {
        let mut table = Table::new(&["tenant", "state"]);
        table.row(vec![("shop".to_owned(), Tone::Plain), ("ATTACK".to_owned(), Tone::Bad)]);
        table.row(vec![("a-longer-name".to_owned(), Tone::Plain), ("\u{1b}[2J".to_owned(), Tone::Plain)]);
        let plain = table.text(false);
        assert_eq!(plain, "tenant         state\nshop           ATTACK\na-longer-name  \u{fffd}[2J\n");
        let coloured = table.text(true);
        assert_eq!(coloured.replace("\u{1b}[1;31m", "").replace("\u{1b}[0m", ""), plain);
        assert!(coloured.contains("\u{1b}[1;31mATTACK\u{1b}[0m"));
    }
}
