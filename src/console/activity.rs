//! Traffic beside what is usual, in slices of some seconds, by tenant and application.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::event::{ActivitySlice, Millis};
use crate::topology::exemptions::is_tenant;

/// Most slices of a series: six hours of ten seconds.
pub const SLICES_MAX: usize = 2_160;
/// Most series: tenants, and applications of tenants.
pub const SERIES_MAX: usize = 500;
/// Longest name of an application, in bytes.
const APPLICATION_BYTES_MAX: usize = 256;

/// By tenant and application; no application: all of a tenant together.
#[derive(Debug, Default)]
pub struct Traffic {
    series: BTreeMap<(String, Option<String>), VecDeque<ActivitySlice>>,
}

impl Traffic {
    /// Takes a slice; the newest that is told of the same time counts. `None`: it cannot be used.
    pub fn take(&mut self, slice: ActivitySlice) -> Option<()> {
        let is_fit = is_tenant(&slice.tenant)
            && slice.slice_start < slice.slice_end
            && slice.application.as_ref().is_none_or(|name| name.len() <= APPLICATION_BYTES_MAX);
        if !is_fit {
            return None;
        }
        let key = (slice.tenant.clone(), slice.application.clone());
        if !self.series.contains_key(&key) && self.series.len() >= SERIES_MAX {
            return None;
        }
        let series = self.series.entry(key).or_default();
        let at = series.partition_point(|held| held.slice_start < slice.slice_start);
        match series.get_mut(at) {
            Some(held) if held.slice_start == slice.slice_start => *held = slice,
            Some(_) | None => series.insert(at, slice),
        }
        if series.len() > SLICES_MAX {
            series.pop_front();
        }
        Some(())
    }

    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        let tenants: BTreeSet<&str> = self.series.keys().map(|(tenant, _)| tenant.as_str()).collect();
        tenants.into_iter()
    }

    /// Applications of a tenant that are told apart.
    pub fn applications<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = &'a str> {
        self.series.keys().filter(move |(of, _)| of == tenant).filter_map(|(_, name)| name.as_deref())
    }

    /// A tenant's slices that begin in a time, oldest first: all services together, or summed where only the services are
    /// told.
    #[must_use]
    pub fn slices(&self, tenant: &str, from: Millis, to: Millis) -> Vec<ActivitySlice> {
        let within = |series: &VecDeque<ActivitySlice>| -> Vec<ActivitySlice> {
            series.iter().filter(|slice| slice.slice_start >= from && slice.slice_start < to).cloned().collect()
        };
        if let Some(all) = self.series.get(&(tenant.to_owned(), None)) {
            return within(all);
        }
        let mut sums: BTreeMap<Millis, ActivitySlice> = BTreeMap::new();
        for (_, series) in self.series.iter().filter(|((of, _), _)| of == tenant) {
            for slice in within(series) {
                match sums.get_mut(&slice.slice_start) {
                    Some(sum) => add(sum, &slice),
                    None => drop(sums.insert(slice.slice_start, slice)),
                }
            }
        }
        sums.into_values().collect()
    }

    /// The newest slice of a tenant.
    #[must_use]
    pub fn last(&self, tenant: &str) -> Option<&ActivitySlice> {
        let of_tenant = self.series.iter().filter(|((of, _), _)| of == tenant);
        of_tenant.filter_map(|(_, series)| series.back()).max_by_key(|slice| slice.slice_end)
    }
}

fn add(sum: &mut ActivitySlice, slice: &ActivitySlice) {
    sum.attempts = sum.attempts.saturating_add(slice.attempts);
    sum.failures = sum.failures.saturating_add(slice.failures);
    sum.unknown_accounts = sum.unknown_accounts.saturating_add(slice.unknown_accounts);
    sum.stopped = sum.stopped.saturating_add(slice.stopped);
    sum.usual_attempts += slice.usual_attempts;
    sum.usual_failures += slice.usual_failures;
    sum.usual_unknown_accounts += slice.usual_unknown_accounts;
    // A statistic means something only against its own level.
    if slice.alarm_level > 0.0 && slice.statistic * sum.alarm_level >= sum.statistic * slice.alarm_level {
        (sum.statistic, sum.alarm_level) = (slice.statistic, slice.alarm_level);
    }
    sum.state = sum.state.max(slice.state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::AttackState;

    fn slice(application: Option<&str>, at: Millis, attempts: i64) -> ActivitySlice {
        ActivitySlice {
            tenant: "shop".to_owned(),
            application: application.map(str::to_owned),
            slice_start: at,
            slice_end: at + 10_000,
            attempts,
            failures: 1,
            unknown_accounts: 0,
            stopped: 0,
            usual_attempts: 5.0,
            usual_failures: 0.5,
            usual_unknown_accounts: 0.0,
            statistic: 0.0,
            alarm_level: 0.0,
            state: AttackState::Calm,
        }
    }

    #[test]
    fn the_newest_of_a_time_counts_in_the_order_of_time() {
        let mut traffic = Traffic::default();
        for (at, attempts) in [(10_000, 1), (30_000, 3), (20_000, 2), (30_000, 4)] {
            assert_eq!(traffic.take(slice(None, at, attempts)), Some(()));
        }
        // The whole is not added to its parts.
        assert_eq!(traffic.take(slice(Some("web"), 20_000, 7)), Some(()));
        let seen: Vec<i64> = traffic.slices("shop", 0, 40_000).iter().map(|slice| slice.attempts).collect();
        assert_eq!(seen, [1, 2, 4]);
        assert_eq!(traffic.slices("shop", 20_000, 30_000).len(), 1);
        assert_eq!(traffic.last("shop").unwrap().attempts, 4);
        assert_eq!(traffic.applications("shop").collect::<Vec<_>>(), ["web"]);
    }

    #[test]
    fn services_are_summed_where_nobody_tells_the_whole() {
        let mut traffic = Traffic::default();
        for (name, attempts) in [("web", 1), ("app", 2)] {
            assert_eq!(traffic.take(slice(Some(name), 10_000, attempts)), Some(()));
        }
        let all = traffic.slices("shop", 0, 40_000);
        assert_eq!((all.len(), all[0].attempts, all[0].usual_attempts as i64), (1, 3, 10));
    }

    #[test]
    fn neither_a_series_nor_their_number_grows_without_end() {
        let mut traffic = Traffic::default();
        for at in 0..SLICES_MAX as i64 + 10 {
            assert_eq!(traffic.take(slice(None, at * 10_000, 1)), Some(()));
        }
        assert_eq!(traffic.slices("shop", 0, Millis::MAX).len(), SLICES_MAX);
        for number in 0..SERIES_MAX {
            let fits = traffic.take(slice(Some(&format!("service{number}")), 0, 1));
            assert_eq!(fits.is_some(), number + 1 < SERIES_MAX, "the tenant as a whole is one");
        }
        assert_eq!(traffic.take(slice(Some("one more"), 0, 1)), None);
        assert_eq!(traffic.take(ActivitySlice { slice_end: 0, ..slice(None, 0, 1) }), None);
        assert_eq!(traffic.take(ActivitySlice { tenant: "No Tenant".to_owned(), ..slice(None, 0, 1) }), None);
    }
}
