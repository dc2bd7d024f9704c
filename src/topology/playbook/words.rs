//! A playbook read aloud, from its live numbers, so that the documentation cannot lie about the configuration.

use super::{Bounds, Detector, FailuresOf, Measure, Per, Playbook, Thresholds};
use crate::event::AttackState;
use crate::topology::format_duration;

impl Playbook {
    /// One line for a list.
    #[must_use]
    pub fn describe(&self) -> String {
        let bounds: Vec<String> = self
            .trigger
            .iter()
            .flat_map(|(measure, bound)| {
                let least = bound.at_least.map(|t| match t {
                    Thresholds::Same(n) => format!("{} >= {}", measure.as_str(), number(*measure, n.0)),
                    Thresholds::ByState(s) => {
                        let [calm, elevated, attack] = [s.calm, s.elevated, s.attack].map(|n| number(*measure, n.0));
                        format!("{} >= {calm}/{elevated}/{attack}", measure.as_str())
                    }
                });
                let most = bound.at_most.map(|n| format!("{} <= {}", measure.as_str(), number(*measure, n.0)));
                least.into_iter().chain(most)
            })
            .collect();
        let steps: Vec<String> = self.then.ladder.iter().map(|ms| format_duration(*ms)).collect();
        format!(
            "{} [{:?}] per {:?} over {}: {} -> {} {}",
            self.id,
            self.mode,
            self.per,
            format_duration(self.over),
            if bounds.is_empty() { format!("{:?}", self.detector) } else { bounds.join(" and ") },
            self.then.action,
            steps.join(", ")
        )
    }

    /// The whole of it in sentences, a line each.
    #[must_use]
    pub fn read_aloud(&self) -> String {
        let mut lines = vec![format!("{} (version {}, {}, {})", self.id, self.version, self.owner, self.mode.as_str())];
        lines.push(format!("  {}", self.description));
        let looks = match &self.only {
            Some(only) => format!(" with {}", only.describe()),
            None => String::new(),
        };
        match self.detector {
            Detector::Threshold => {
                lines.push(format!("  If, for one {}, over {}{looks}:", who(self.per), format_duration(self.over)));
                lines.extend(bounds(&self.trigger).into_iter().map(|line| format!("    - {line}")));
            }
            Detector::Compromise | Detector::Campaign | Detector::Posterior | Detector::Proxy | Detector::Tripwire => {
                lines.push(format!("  If the detector `{}` says so of one {}:", self.detector.as_str(), who(self.per)));
            }
        }
        match self.failures_of {
            FailuresOf::Strangers => {}
            FailuresOf::KnownPairs => lines.push("  Counting the failures of known pairs alone.".to_owned()),
            FailuresOf::Everybody => lines.push("  Counting everybody's failures.".to_owned()),
        }
        if self.scale_by_good_accounts {
            lines.push("  Lower bounds of counts grow with the good accounts behind the address.".to_owned());
        }
        if !self.states.is_empty() {
            let states: Vec<&str> = self.states.iter().map(|state| state.as_str()).collect();
            lines.push(format!("  Only while the tenant is {}.", states.join(" or ")));
        }
        if !self.unless.is_empty() {
            lines.push("  Unless one of these holds:".to_owned());
            lines.extend(bounds(&self.unless).into_iter().map(|line| format!("    - {line}")));
        }
        lines.extend(self.response());
        lines.join("\n")
    }

    fn response(&self) -> Vec<String> {
        let then = &self.then;
        let steps: Vec<String> = then.ladder.iter().map(|ms| format_duration(*ms)).collect();
        let mut lines = vec![match steps.is_empty() {
            true => format!("  Then: {}.", then.action),
            false => format!(
                "  Then: {} for {} ({} within {}).",
                then.action,
                steps.join(", "),
                if steps.len() == 1 { "each time" } else { "the first, second, ... time" },
                format_duration(then.ladder_memory)
            ),
        }];
        if then.jitter > 0.0 {
            lines.push(format!("  Lengths vary by {:.0} % either way.", then.jitter * 100.0));
        }
        if let Some(escalate) = then.escalate {
            lines.push(format!("  From the {}. time on: {}.", escalate.from, escalate.action));
        }
        if let Some(cap) = then.cap {
            lines.push(format!(
                "  At most {} newly restricted within {}; beyond that it only says what it would have done.",
                cap.entities,
                format_duration(cap.within)
            ));
        }
        lines
    }
}

fn who(per: Per) -> &'static str {
    match per {
        Per::Address => "address (IPv4 address or IPv6 /64)",
        Per::Network => "network (IPv4 /24 or IPv6 /48)",
        Per::Account => "account",
        Per::Device => "device",
        Per::Pair => "address on one account",
        Per::Asn => "autonomous system",
        Per::Country => "country",
        Per::UserAgent => "user agent",
        Per::TlsFingerprint => "TLS fingerprint",
        Per::Tenant => "tenant",
        Per::PasswordTag => "password (by its tag)",
    }
}

fn number(measure: Measure, n: f64) -> String {
    if measure.is_time() { format_duration(n as i64) } else { n.to_string() }
}

fn bounds(bounds: &Bounds) -> Vec<String> {
    let amount = |measure: Measure, n: f64| match measure.is_share() {
        true => format!("{:.0} %", n * 100.0),
        false => number(measure, n),
    };
    bounds
        .iter()
        .flat_map(|(measure, bound)| {
            let at = |state| bound.at_least.map(|least| amount(*measure, least.at(state)));
            let [calm, elevated, attack] = [AttackState::Calm, AttackState::Elevated, AttackState::Attack].map(at);
            let least = calm.map(|calm| match (elevated, attack) {
                (Some(elevated), Some(attack)) if elevated != calm || attack != calm => {
                    format!("at least {calm} {} (under attack {attack}, before that {elevated})", measure.words())
                }
                _ => format!("at least {calm} {}", measure.words()),
            });
            let most = bound.at_most.map(|n| format!("at most {} {}", amount(*measure, n.0), measure.words()));
            least.into_iter().chain(most).collect::<Vec<_>>()
        })
        .collect()
}
