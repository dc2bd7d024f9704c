//! The most frequent of very many texts, in bounded memory: Space-Saving (Metwally and others, 2005). A count is never too
//! small, and too large by at most the smallest one that is kept.

use serde::{Deserialize, Serialize};

/// Texts that are kept.
const KEPT_MAX: usize = 64;

/// Counts of the most frequent texts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tops(Vec<(Box<str>, u64)>);

impl Tops {
    /// Counts a text.
    pub fn add(&mut self, text: &str, count: u64) {
        if let Some((_, held)) = self.0.iter_mut().find(|(held, _)| **held == *text) {
            *held = held.saturating_add(count);
        } else if self.0.len() < KEPT_MAX {
            self.0.push((text.into(), count));
        } else if let Some(least) = self.0.iter_mut().min_by_key(|(_, held)| *held) {
            *least = (text.into(), least.1.saturating_add(count));
        }
    }

    /// The most frequent ones, the first of equals by its text.
    #[must_use]
    pub fn top(&self, most: usize) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> = self.0.iter().map(|(text, count)| (&**text, *count)).collect();
        all.sort_unstable_by_key(|(text, count)| (std::cmp::Reverse(*count), *text));
        all.truncate(most);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whoever_is_frequent_is_kept_and_is_not_counted_short(texts in prop::collection::vec(0u32..400, 0..3_000)) {
            let (mut tops, mut exact) = (Tops::default(), BTreeMap::<String, u64>::new());
            // Some are frequent.
            for text in texts.iter().map(|n| if n % 3 == 0 { n % 10 } else { *n }) {
                tops.add(&text.to_string(), 1);
                *exact.entry(text.to_string()).or_default() += 1;
            }
            let kept: BTreeMap<&str, u64> = tops.top(KEPT_MAX).into_iter().collect();
            let all = texts.len() as u64;
            for (text, count) in &exact {
                match kept.get(text.as_str()) {
                    Some(held) => prop_assert!(*held >= *count && *held <= *count + all / KEPT_MAX as u64),
                    None => prop_assert!(*count <= all / KEPT_MAX as u64, "{text}: {count} of {all}"),
                }
            }
        }
    }
}
