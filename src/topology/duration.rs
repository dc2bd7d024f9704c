//! Durations as people write them: `90s`, `15m`, `4h`, `30d`, `250ms`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::event::Millis;

/// Milliseconds of a text such as `15m`; `None` when it is no such text or not positive.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Millis> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<Millis>().ok()?.checked_mul(unit_ms).filter(|ms| *ms > 0)
}

/// The shortest exact text of a duration in milliseconds.
#[must_use]
pub fn format_duration(ms: Millis) -> String {
    for (unit_ms, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms >= unit_ms && ms % unit_ms == 0 {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

/// For `#[serde(deserialize_with)]`.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom(format_args!("`{text}` is no duration such as 90s, 15m or 4h")))
}

/// For `#[serde(deserialize_with)]`: a list of durations.
pub(super) fn durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Millis>, D::Error> {
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .map(|text| {
            parse_duration(text).ok_or_else(|| D::Error::custom(format_args!("`{text}` is no duration such as 15m")))
        })
        .collect()
}
