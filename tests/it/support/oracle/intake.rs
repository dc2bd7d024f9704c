//! Intake anew: which events become attempts, and what the stamp of their arrival is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::frames::Source;
use super::{Millis, Read};

/// What an attempt must carry, to be counted once: tenant, id, source, account, outcome, both times.
pub type Came = (String, String, Source, String, String, Millis, Millis);

/// What intake must have made of the events: how often each attempt, and how many dead letters.
#[derive(Debug, Default)]
pub struct Taken {
    pub attempts: BTreeMap<Came, usize>,
    pub dead_letters: usize,
}

/// Works off `login-events`: JSON objects, or what is none. An arrival is the record's time, and never goes back
/// within a partition.
pub fn intake_stage(input: &[Vec<Read>]) -> Taken {
    let mut taken = Taken::default();
    for records in input {
        let mut arrived_at = Millis::MIN;
        for record in records {
            arrived_at = arrived_at.max(record.timestamp);
            match came(record.value.as_deref().unwrap_or_default(), arrived_at) {
                Some(came) => *taken.attempts.entry(came).or_default() += 1,
                None => taken.dead_letters += 1,
            }
        }
    }
    taken
}

fn came(value: &[u8], arrived_at: Millis) -> Option<Came> {
    let event: Value = serde_json::from_slice(value).ok()?;
    let text = |name: &str| event[name].as_str().map(str::to_owned);
    let source = match event["source_ip"].as_str()?.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(v4) => Source::V4(v4.to_bits()),
        IpAddr::V6(v6) => Source::V6(u64::try_from(v6.to_bits() >> 64).unwrap()),
    };
    let occurred_at = event["occurred_at"].as_i64()?.min(arrived_at);
    let account = text("account").unwrap_or_default().trim().to_lowercase();
    let tenant = text("tenant").unwrap_or_else(|| "default".to_owned());
    Some((tenant, text("event_id")?, source, account, text("outcome")?, occurred_at, arrived_at))
}
