//! A workload whose number of entities is chosen: half of them accounts, half of them addresses.
//!
//! ```text
//! 90 %  people: every account in turn, from its one home address (ten to a /24); 7 % fail
//! 10 %  a botnet: one of (entities / 50) addresses, one name each, which belongs to nobody; all fail
//! ```
//!
//! Event `i` is a function of the seed and `i`, but for its time, which is when it is sent. Every entity is met once
//! `entities` events are out, and again every so many.

use std::time::Duration;

use clap::Args;
use portcullis::event::wire::login_event_to_avro;
use portcullis::event::{FailureReason, LoginEvent, Outcome};
use portcullis::log::ClientOptions;
use portcullis::log::publish::Publisher;
use serde_json::json;

use crate::process::{epoch_ms, now, pause};
use crate::{Result, print};

pub(crate) const TENANT: &str = "acme";
const FLUSH_MAX: Duration = Duration::from_secs(60);
/// Between two looks at the clock.
const BURST: u64 = 64;

/// Publish a workload with so many entities, at a pace
#[derive(Debug, Args)]
pub(crate) struct Load {
    #[arg(long)]
    bootstrap: String,
    #[arg(long, default_value = "login-events")]
    topic: String,
    #[arg(long)]
    events: u64,
    #[arg(long, default_value_t = 1_000_000)]
    entities: u64,
    /// Events a second; 0: as fast as possible
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Number of the first event
    #[arg(long, default_value_t = 0)]
    first: u64,
}

impl Load {
    pub(crate) fn run(&self) -> Result<()> {
        let publisher = Publisher::new(&ClientOptions::new(&self.bootstrap))?;
        publisher.check(&self.topic)?;
        let mut crowd = Crowd::new(self.seed, self.entities);
        let started = now();
        let mut at = epoch_ms();
        for i in 0..self.events {
            if i.is_multiple_of(BURST) {
                if self.rate > 0 {
                    let due = Duration::from_secs_f64(i as f64 / self.rate as f64);
                    pause(due.saturating_sub(started.elapsed()));
                }
                publisher.poll(Duration::ZERO);
                at = epoch_ms();
            }
            publisher.send(&self.topic, None, &wire(crowd.event(self.first + i, at)), at)?;
        }
        let deliveries = publisher.flush(FLUSH_MAX)?;
        let seconds = started.elapsed().as_secs_f64();
        print(&json!({
            "loaded": self.topic, "events": self.events, "entities": self.entities, "failed": deliveries.failed,
            "seconds": seconds, "events_per_s": (self.events as f64 / seconds).round(),
        }));
        Ok(())
    }
}

/// The event in the wire format of a schema registry, with schema id 1.
pub(crate) fn wire(event: &LoginEvent) -> Vec<u8> {
    let mut value = vec![0, 0, 0, 0, 1];
    value.extend(login_event_to_avro(event));
    value
}

/// Who logs in. It lends out one event again and again.
pub(crate) struct Crowd {
    seed: u64,
    accounts: u64,
    bots: u64,
    user_agents: Vec<String>,
    event: LoginEvent,
}

impl Crowd {
    pub(crate) fn new(seed: u64, entities: u64) -> Crowd {
        let user_agents = (0..400)
            .map(|n| {
                let version = 100 + n / 5;
                format!("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36 {n}")
            })
            .collect();
        Crowd {
            seed,
            accounts: (entities / 2).max(1),
            bots: (entities / 50).max(1),
            user_agents,
            event: LoginEvent { tenant: TENANT.to_owned(), ..LoginEvent::default() },
        }
    }

    /// Event number `i`, as if it happened at `at`.
    pub(crate) fn event(&mut self, i: u64, at: i64) -> &LoginEvent {
        let dice = mix(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i));
        let is_bot = dice % 10 == 9;
        let event = &mut self.event;
        event.event_id = format!("{:016x}{:016x}", dice, mix(dice));
        event.occurred_at = at;
        if is_bot {
            let bot = mix(dice ^ 1) % self.bots;
            event.account = format!("x{:x}@mail{}.example", mix(dice ^ 2), dice % 30);
            event.account_exists = Some(false);
            event.source_ip = address(91 << 24, bot);
            fail(event, FailureReason::UnknownAccount);
        } else {
            // Spread, so that neighbours in time are none in the store.
            let account = (i % self.accounts).wrapping_mul(PRIME) % self.accounts;
            event.account = format!("user{account}@mail{}.example", account % 30);
            event.account_exists = Some(true);
            event.source_ip = address(24 << 24, account);
            if (dice >> 8) % 100 < 7 {
                fail(event, FailureReason::WrongPassword);
            } else {
                event.outcome = Outcome::Success;
                event.failure_reason = FailureReason::None;
            }
        }
        let agent = self.user_agents.get((dice >> 32) as usize % self.user_agents.len());
        event.user_agent = agent.cloned();
        event
    }
}

/// No divisor of a number of accounts that anybody would choose.
const PRIME: u64 = 1_299_709;

fn fail(event: &mut LoginEvent, reason: FailureReason) {
    event.outcome = Outcome::Failure;
    event.failure_reason = reason;
}

/// The n-th address from a base on, ten to a /24.
pub(crate) fn address(base: u32, n: u64) -> String {
    let bits = base.wrapping_add(((n / 10) << 8) as u32).wrapping_add(20 + (n % 10) as u32);
    std::net::Ipv4Addr::from(bits).to_string()
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
