//! Intake: decodes, checks, stamps the arrival, looks up the network, routes. It keeps no attempts, and it alone reads control.

use super::counts::Counter;
use super::env::Env;
use super::frame::{Item, Mark};
use super::io::{ControlChange, DeadLetter, Effects, Output};
use super::orders;
use super::row::ClockRow;
use crate::event::wire::{self, WriterSchema};
use crate::event::{Attempt, Millis, Reason, Reject};
use crate::topology::Stage;
use crate::topology::networks::{Learnt, Networks};

/// One record of the input topic.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    pub value: Option<&'a [u8]>,
    /// Header `__value_schema_id`.
    pub schema_header: Option<&'a [u8]>,
    /// The writer schema of an Avro record, when it is known.
    pub writer: Option<&'a WriterSchema>,
    /// Header `traceparent`.
    pub traceparent: Option<&'a str>,
    /// Record timestamp.
    pub timestamp: Millis,
    /// Intake's own clock.
    pub clock: Millis,
    /// The tenant this input topic is bound to; it overwrites what the event says.
    pub tenant: Option<&'a str>,
    /// What is known of networks now. What is learnt goes into the attempt, so nobody behind intake looks up again.
    pub networks: Option<&'a Networks>,
}

/// When a record arrived, as its timestamp says within what can be.
pub(super) fn arrival(env: &Env, raw: &Raw<'_>) -> Millis {
    let ceiling = raw.clock.saturating_add(env.limits.arrival_ahead_ms);
    raw.timestamp.min(ceiling).clamp(-wire::ARRIVAL_MS_MAX, wire::ARRIVAL_MS_MAX)
}

/// One record of `login-events`.
pub(super) fn raw(env: &Env, row: &mut ClockRow, raw: &Raw<'_>, fx: &mut Effects) {
    fx.count(Counter::EventsIn);
    // Arrival never goes back within the partition, and never runs far ahead of the clock here.
    let arrived_at = row.clock.advance(arrival(env, raw));
    match attempt(env, row, raw, arrived_at, fx) {
        Ok(attempt) if env.plan.failures_alone && !attempt.is_failure() => {
            // Nobody behind this stage wants it. Late ones and duplicates are not told apart here.
            let is_checked = attempt.is_success();
            fx.count(if is_checked { Counter::Counted } else { Counter::NotCounted });
            fx.counts.outcome(attempt.outcome);
        }
        Ok(attempt) => {
            let route = env.route_network(&attempt.tenant, attempt.source);
            fx.push(Output::Item { to: Stage::Source, route, item: Item::Attempt(Box::new(attempt)) });
        }
        Err(reject) => {
            fx.count(Counter::DeadLetters);
            fx.push(Output::DeadLetter(DeadLetter { reject }));
        }
    }
}

fn attempt(
    env: &Env,
    row: &mut ClockRow,
    raw: &Raw<'_>,
    arrived_at: Millis,
    fx: &mut Effects,
) -> Result<Attempt, Reject> {
    let encoding = wire::encoding_of(raw.value, raw.schema_header)?;
    let mut decoded = wire::decode(raw.value.unwrap_or_default(), encoding, raw.writer)?;
    if let Some(tenant) = raw.tenant {
        decoded.event.tenant = tenant.to_owned();
    }
    let mut attempt = wire::canonical(decoded.event, arrived_at, raw.traceparent)?;
    admit_tenant(env, row, &attempt.tenant)?;
    match raw.networks.map_or(Learnt::NoFile, |networks| networks.enrich(&mut attempt)) {
        Learnt::NoFile => {}
        Learnt::Found => fx.count(Counter::NetworksFound),
        Learnt::NotFound => fx.count(Counter::NetworksNotFound),
    }
    if attempt.ahead_ms > env.limits.ahead_max_ms {
        fx.count(Counter::Ahead);
    }
    fx.counts.add(Counter::UnknownNames, u64::from(decoded.unknown_names));
    Ok(attempt)
}

/// Tenants cost state for good, so a publisher cannot invent them without end.
fn admit_tenant(env: &Env, row: &mut ClockRow, tenant: &str) -> Result<(), Reject> {
    if row.tenants.contains(tenant) || env.tenants.iter().any(|t| t == tenant) {
        return Ok(());
    }
    if row.tenants.len() >= env.limits.tenants_max {
        return Err(Reject::new(
            Reason::TooManyTenants,
            format!("field `tenant`: over {} tenants; name this one in the setting `tenants`", env.limits.tenants_max),
        ));
    }
    row.tenants.insert(tenant.into());
    Ok(())
}

/// Time passed: tell every partition of the next stage.
pub(super) fn tick(row: &mut ClockRow, at: Millis, fx: &mut Effects) {
    // The time of a mark is no arrival: an event that was under way meanwhile keeps its own.
    let now = row.clock.now().max(at);
    row.marked_at = now;
    fx.push(Output::MarkAll { to: Stage::Source, mark: Mark { at: now, changes: Vec::new() } });
}

/// Control changed: tell every partition of the next stage at once.
pub(super) fn control(env: &Env, row: &ClockRow, change: ControlChange, fx: &mut Effects) {
    if let ControlChange::Command { version, request } = change {
        return orders::send(env, version, *request, row.clock.now(), fx);
    }
    // A control partition has no arrivals of its own; its mark moves nobody's time back.
    fx.push(Output::MarkAll { to: Stage::Source, mark: Mark { at: row.clock.now(), changes: vec![change] } });
}
