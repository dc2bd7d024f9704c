//! Is somebody restricted, by what, since when, and which edges have it: what a person asks whom a user has called.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::{Connection, Ending, Output};
use crate::console::{Explained, Known, VERDICTS_SHOWN_MAX, Who};
use crate::edge::server::Lists;
use crate::event::wire::decode_output;
use crate::event::{AttackStatus, Millis, Receipt, Verdict};
use crate::log::Incoming;
use crate::log::follow::{Follower, ReadFrom};
use crate::topology::exemptions::{Exemptions, is_tenant};

/// Say whether somebody is restricted, by what, since when, and which edges have it
///
/// Reads the topics to the end that they have now: blocklist, exemptions, verdicts, receipts, attack-status.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis explain 203.0.113.9\n  portcullis explain ada@example.com --tenant shop --output json"
)]
pub struct ExplainArgs {
    /// An address, a range, an account, or any other value of a blocklist entry
    #[arg(value_name = "ADDRESS|RANGE|ACCOUNT")]
    pub who: String,
    /// This tenant alone
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Reads the topics and answers.
///
/// # Errors
/// A topic is missing or may not be read, the cluster does not answer, `who` or `--tenant` makes no sense.
pub fn run(
    args: &ExplainArgs,
    connection: &Connection,
    exemptions: Exemptions,
    now: impl Fn() -> Millis,
    out: &mut dyn Write,
) -> Result<Ending> {
    let who = Who::parse(&args.who).map_err(|what| anyhow!(what))?;
    if let Some(tenant) = args.tenant.as_deref().filter(|tenant| !is_tenant(tenant)) {
        bail!("--tenant {tenant:?} is no tenant: it has 1 to 63 of a-z, 0-9, `.`, `_`, `-`");
    }
    let mut reading = Reading::new(&who, args.tenant.as_deref(), exemptions);
    reading.read(connection)?;
    let explained = reading.explain(&args.who, now());
    args.output.write(out, &explained, &explained.to_string())?;
    Ok(Ending::Well)
}

struct Reading<'a> {
    who: &'a Who,
    tenant: Option<&'a str>,
    lists: Lists,
    tenants: BTreeMap<String, AttackStatus>,
    verdicts: VecDeque<Verdict>,
    verdicts_on_topic: u64,
    /// By key and sink.
    receipts: BTreeMap<(String, String), Receipt>,
}

impl<'a> Reading<'a> {
    fn new(who: &'a Who, tenant: Option<&'a str>, exemptions: Exemptions) -> Self {
        Reading {
            who,
            tenant,
            lists: Lists::new(tenant, exemptions),
            tenants: BTreeMap::new(),
            verdicts: VecDeque::new(),
            verdicts_on_topic: 0,
            receipts: BTreeMap::new(),
        }
    }

    fn read(&mut self, connection: &Connection) -> Result<()> {
        let names = ["blocklist", "exemptions", "verdicts", "receipts", "attack-status"];
        let topics = names.map(|name| connection.topics.public(name));
        let mut follower = Follower::new(&connection.client, &topics, ReadFrom::Start)?;
        follower.to_end(|record| {
            let place = topics.iter().position(|topic| **topic == *record.part.topic);
            self.take(place.and_then(|place| names.get(place)).copied().unwrap_or_default(), record);
            Ok(())
        })
    }

    fn take(&mut self, topic: &str, record: &Incoming) {
        let (key, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref());
        match topic {
            "blocklist" => {
                let generation =
                    record.header("generation").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
                self.lists.block(key, value, generation);
            }
            "exemptions" => {
                self.lists.exempt(key, value);
            }
            "attack-status" => {
                let status = value.and_then(|value| decode_output::<AttackStatus>("attack-status", value).ok());
                let is_asked = |status: &AttackStatus| self.tenant.is_none_or(|tenant| status.tenant == tenant);
                if let Some(status) = status.filter(is_asked) {
                    self.tenants.insert(status.tenant.clone(), status);
                }
            }
            "verdicts" => self.verdict(key, value),
            "receipts" => self.receipt(key, value),
            _ => {}
        }
    }

    /// Whether a key `tenant|SCOPE|value` is theirs.
    fn is_theirs(&self, key: &str) -> bool {
        self.who.is_key_theirs(self.tenant, key)
    }

    fn verdict(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(value) = value.filter(|_| std::str::from_utf8(key).is_ok_and(|key| self.is_theirs(key))) else {
            return;
        };
        if let Ok(verdict) = decode_output::<Verdict>("verdicts", value) {
            self.verdicts_on_topic += 1;
            self.verdicts.push_back(verdict);
            // Partitions come one after the other: the newest of all are kept.
            if self.verdicts.len() > 2 * VERDICTS_SHOWN_MAX {
                self.keep_newest_verdicts();
            }
        }
    }

    fn keep_newest_verdicts(&mut self) {
        self.verdicts
            .make_contiguous()
            .sort_by(|a, b| (b.occurred_at, &b.verdict_id).cmp(&(a.occurred_at, &a.verdict_id)));
        self.verdicts.truncate(VERDICTS_SHOWN_MAX);
    }

    fn receipt(&mut self, key: &[u8], value: Option<&[u8]>) {
        // `sink|tenant|SCOPE|value`.
        let Some((sink, entry)) = std::str::from_utf8(key).ok().and_then(|key| key.split_once('|')) else { return };
        if !self.is_theirs(entry) {
            return;
        }
        let place = (entry.to_owned(), sink.to_owned());
        match value.and_then(|value| decode_output::<Receipt>("receipts", value).ok()) {
            Some(receipt) => self.receipts.insert(place, receipt),
            None => self.receipts.remove(&place),
        };
    }

    fn explain(mut self, who: &str, now: Millis) -> Explained {
        self.keep_newest_verdicts();
        let receipts = |key: &str| {
            let of_entry = self.receipts.range((key.to_owned(), String::new())..);
            of_entry.take_while(|((of, _), _)| of == key).map(|(_, receipt)| receipt.clone()).collect()
        };
        let known = Known {
            lists: &self.lists,
            verdicts: self.verdicts.into(),
            verdicts_on_topic: self.verdicts_on_topic,
            statuses: self.tenants.into_values().collect(),
            receipts: &receipts,
        };
        Explained::new(who, self.who, self.tenant, known, now)
    }
}
