//! Text that others chose, made fit for a page, a terminal and a table.
//!
//! Attackers choose names, agents and addresses. Nothing of them may turn the direction of what stands beside it, hide
//! itself, move a cursor or become a formula.

use std::borrow::Cow;
use std::fmt;

use crate::event::Millis;
use crate::event::wire::format_millis;

/// Longest name that is shown; how long it is stands behind it then.
pub const NAME_CHARS_MAX: usize = 120;
/// Longest sentence that is shown.
pub const SENTENCE_CHARS_MAX: usize = 2_000;

/// Whether a character shows nothing, or changes how others are shown.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Text that others chose, on one line, without what would hide or be obeyed, cut with its length named.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a> {
    text: &'a str,
    chars_max: usize,
}

impl<'a> Plain<'a> {
    #[must_use]
    pub const fn name(text: &'a str) -> Self {
        Plain { text, chars_max: NAME_CHARS_MAX }
    }

    #[must_use]
    pub const fn sentence(text: &'a str) -> Self {
        Plain { text, chars_max: SENTENCE_CHARS_MAX }
    }
}

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.text.chars();
        chars.by_ref().take(self.chars_max).try_for_each(|c| {
            let shown = if is_hidden(c) { '\u{fffd}' } else { c };
            write!(f, "{shown}")
        })?;
        let left = chars.count();
        if left > 0 {
            write!(f, "… ({} characters)", grouped(i64::try_from(self.chars_max + left).unwrap_or(i64::MAX)))?;
        }
        Ok(())
    }
}

/// A cell of a CSV file, in quotes. What a spreadsheet would take for a formula begins with an apostrophe; the export as
/// JSON lines has every value as it is.
#[must_use]
pub fn csv_cell(value: &str) -> String {
    // A spreadsheet looks past white space and marks that show nothing.
    let first = value.chars().find(|c| !c.is_whitespace() && !is_hidden(*c));
    let is_formula = matches!(first, Some('=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠' | '|' | '%'))
        || value.starts_with(['\t', '\r', '\n']);
    let quoted = value.replace('"', "\"\"");
    if is_formula { format!("\"'{quoted}\"") } else { format!("\"{quoted}\"") }
}

/// Markdown in which nothing of a text is markup.
#[must_use]
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if matches!(
            c,
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '(' | ')' | '#' | '!' | '|' | '~' | '&'
        ) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// `43387` as `43,387`.
#[must_use]
pub fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if n < 0 {
        out.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A whole number of something: `1 account`, `43,387 accounts`.
#[must_use]
pub fn counted(n: i64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n), if n == 1 { one } else { many })
}

/// How long, in the largest unit that says enough: `850 ms`, `12 s`, `4 min`, `3 h`, `2 days`.
#[must_use]
pub fn how_long(ms: Millis) -> String {
    let ms = ms.max(0);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

/// The date and time of an instant, UTC, to the second: `2019-06-28 00:40:12`.
#[must_use]
pub fn date_time(at: Millis) -> String {
    let text = format_millis(at);
    match text.split_once('T') {
        Some((date, time)) => format!("{date} {}", time.get(..8).unwrap_or(time)),
        None => text,
    }
}

/// The time of day of an instant, UTC: `00:40:12`.
#[must_use]
pub fn time_of_day(at: Millis) -> String {
    let text = date_time(at);
    text.split_once(' ').map_or(text.clone(), |(_, time)| time.to_owned())
}

/// A share as whole percent, or with a decimal where it is small.
#[must_use]
pub fn percent(share: f64) -> String {
    let of_100 = share * 100.0;
    if of_100 > 0.0 && of_100 < 9.95 { format!("{of_100:.1} %") } else { format!("{of_100:.0} %") }
}

/// The two values of a pair of traits, as people read them.
#[must_use]
pub fn pair_of_values(value: &str) -> Cow<'_, str> {
    if value.contains('\u{1f}') { Cow::Owned(value.replace('\u{1f}', " + ")) } else { Cow::Borrowed(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_would_be_obeyed_or_hides_is_shown() {
        let text = "a\u{1b}[31mb\nc\u{202e}d\u{200b}e\u{feff}f\u{2066}g\u{e0041}";
        assert_eq!(
            Plain::name(text).to_string(),
            "a\u{fffd}[31mb\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}f\u{fffd}g\u{fffd}"
        );
        assert_eq!(Plain::name("ада <b>").to_string(), "ада <b>");
    }

    #[test]
    fn a_long_name_is_cut_and_its_length_told() {
        let long = "x".repeat(100_000);
        let shown = Plain::name(&long).to_string();
        assert_eq!(shown, format!("{}… (100,000 characters)", "x".repeat(NAME_CHARS_MAX)));
        let exact = "y".repeat(NAME_CHARS_MAX);
        assert_eq!(Plain::name(&exact).to_string(), exact);
    }

    #[test]
    fn no_cell_is_a_formula_or_leaves_its_quotes() {
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "\u{200b}=1", "%0A=1", "＝1"] {
            assert!(csv_cell(formula).starts_with("\"'"), "{formula:?}");
        }
        assert_eq!(csv_cell("ada@example.com"), "\"ada@example.com\"");
        assert_eq!(csv_cell("a\",\"b"), "\"a\"\",\"\"b\"");
        assert_eq!(csv_cell(""), "\"\"");
    }

    #[test]
    fn figures_read_as_people_write_them() {
        let shown = [0, 7, 999, 1_000, 43_387, -1_234_567].map(grouped);
        assert_eq!(shown, ["0", "7", "999", "1,000", "43,387", "-1,234,567"]);
        let long = [-5, 850, 1_250, 12_000, 119_999, 240_000, 7_200_000, 200_000_000].map(how_long);
        assert_eq!(long, ["0 ms", "850 ms", "1.2 s", "12 s", "119 s", "4 min", "2 h", "2 days"]);
        assert_eq!(date_time(1_561_682_412_345), "2019-06-28 00:40:12");
        assert_eq!(time_of_day(1_561_682_412_345), "00:40:12");
        assert_eq!([0.0, 0.012, 0.5, 1.0].map(percent), ["0 %", "1.2 %", "50 %", "100 %"]);
        assert_eq!(
            (counted(1, "account", "accounts"), counted(2, "account", "accounts")),
            ("1 account".into(), "2 accounts".into())
        );
    }

    #[test]
    fn markdown_holds_no_markup_of_others() {
        assert_eq!(markdown("[x](http://e) <b>|`*"), "\\[x\\]\\(http://e\\) \\<b\\>\\|\\`\\*");
    }
}
