//! Times of the contract: integers in milliseconds, or RFC 3339 text.

use crate::event::Millis;

/// RFC 3339 text to milliseconds since the epoch; `None` when it is not such a text.
#[must_use]
pub fn parse_millis(text: &str) -> Option<Millis> {
    text.parse::<jiff::Timestamp>().ok().map(|t| t.as_millisecond())
}

/// Milliseconds as RFC 3339 text in UTC; the number itself when it lies outside the calendar.
#[must_use]
pub fn format_millis(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |t| format!("{t:.3}"))
}
