//! The histograms of a job's /metrics about its commits, and what they gained between two looks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::meter::get;

/// Bucket bounds (seconds) with the counts up to them, the sum, and the count; by name and labels.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histograms(BTreeMap<String, Histogram>);

#[derive(Debug, Clone, Default)]
struct Histogram {
    up_to: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

impl Histograms {
    /// What a job shows now; nothing when it does not answer.
    pub(crate) fn of(listen: &str) -> Histograms {
        let mut all = Histograms::default();
        let page = get(listen, "/metrics").map(|(_, body)| body).unwrap_or_default();
        for line in page.lines().filter(|line| line.starts_with("portcullis_commit")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').filter(|l| !l.is_empty()).collect();
            let bound = labels.iter().position(|label| label.starts_with("le=")).map(|at| labels.remove(at));
            let Some((name, what)) = name.rsplit_once('_') else { continue };
            if !name.ends_with("_seconds") {
                continue;
            }
            let key = if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
            let histogram = all.0.entry(key).or_default();
            match (what, bound) {
                ("bucket", Some(bound)) => {
                    let bound = bound.trim_start_matches("le=").trim_matches('"');
                    histogram.up_to.push((bound.parse().unwrap_or(f64::INFINITY), value));
                }
                ("sum", _) => histogram.sum = value,
                ("count", _) => histogram.count = value,
                _ => {}
            }
        }
        all
    }

    /// What was added since an earlier look.
    pub(crate) fn since(mut self, before: &Histograms) -> Histograms {
        for (name, histogram) in &mut self.0 {
            let Some(before) = before.0.get(name) else { continue };
            histogram.sum -= before.sum;
            histogram.count -= before.count;
            for ((_, count), (_, earlier)) in histogram.up_to.iter_mut().zip(&before.up_to) {
                *count -= earlier;
            }
        }
        self
    }

    /// Number, mean, and the bounds below which half and 99 % lie, in milliseconds.
    pub(crate) fn shown(&self) -> Value {
        let shown = self.0.iter().map(|(name, histogram)| {
            let below = |share: f64| {
                let bucket = histogram.up_to.iter().find(|(_, count)| *count >= histogram.count * share);
                bucket.map(|(bound, _)| bound * 1e3)
            };
            let mean = histogram.sum / histogram.count.max(1.0) * 1e3;
            let value = json!({
                "n": histogram.count, "mean_ms": (mean * 100.0).round() / 100.0, "p50_below_ms": below(0.5),
                "p99_below_ms": below(0.99),
            });
            (name.clone(), value)
        });
        Value::Object(shown.collect())
    }
}
