//! Is somebody restricted, by what, since when, and which edges have it: what a person asks whom a user has called.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use ipnet::IpNet;
use serde::Serialize;

use super::{Connection, Ending, Output};
use crate::edge::Standing;
use crate::edge::server::Lists;
use crate::event::wire::{decode_output, format_millis, normal_account};
use crate::event::{
    AttackState, AttackStatus, BlocklistEntry, Exemption, Millis, Mode, Receipt, Scope, Source, Verdict, split_key,
};
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::log::{Error, Incoming};
use crate::topology::exemptions::{Exemptions, is_tenant, pair_of, prefix_of};
use crate::topology::format_duration;

/// One wait for a record, and how many that bring none are waited for before the cluster is given up.
const WAIT: Duration = Duration::from_millis(100);
const WAITS_MAX: u32 = 300;
/// Most verdicts, and most receipts of one entry, that are shown.
const VERDICTS_MAX: usize = 20;
const RECEIPTS_MAX: usize = 100;
/// Most entries that are shown: a range may hold very many addresses.
const RESTRICTIONS_MAX: usize = 100;

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

/// Whom it is about.
#[derive(Debug)]
enum Who {
    Net(IpNet),
    Named { account: String, value: String },
}

impl Who {
    fn parse(text: &str) -> Result<Who> {
        let text = text.trim();
        if text.is_empty() {
            bail!("whom? Name an address, a range or an account");
        }
        if let Ok(source) = text.parse::<Source>() {
            return Ok(Who::Net(net_of(source)?));
        }
        match text.parse::<IpNet>() {
            Ok(net) => Ok(Who::Net(net.trunc())),
            Err(_) => Ok(Who::Named { account: normal_account(text), value: text.to_owned() }),
        }
    }

    /// Whether an entry of this scope and value concerns them.
    fn is_concerned(&self, scope: Scope, value: &str) -> bool {
        match self {
            Who::Net(own) => match scope {
                Scope::Ip | Scope::Cidr => prefix_of(scope, value).is_some_and(|net| overlap(&net, own)),
                Scope::IpAccount => {
                    pair_of(value).and_then(|(source, _)| net_of(source).ok()).is_some_and(|net| overlap(&net, own))
                }
                Scope::Other
                | Scope::Asn
                | Scope::Country
                | Scope::Account
                | Scope::Device
                | Scope::UserAgent
                | Scope::TlsFingerprint
                | Scope::Tenant => false,
            },
            Who::Named { account, value: own } => match scope {
                Scope::Account => value == account,
                Scope::IpAccount => pair_of(value).is_some_and(|(_, name)| name == account),
                Scope::Ip
                | Scope::Cidr
                | Scope::Other
                | Scope::Asn
                | Scope::Country
                | Scope::Device
                | Scope::UserAgent
                | Scope::TlsFingerprint
                | Scope::Tenant => value == own,
            },
        }
    }

    fn exempted_by(&self, exemptions: &Exemptions, tenant: &str, now: Millis) -> Option<Exemption> {
        match self {
            Who::Net(net) => exemptions.covers_source(tenant, Source::from(net.addr()), now),
            Who::Named { account, .. } => exemptions.covers_account(tenant, account, now),
        }
        .cloned()
    }
}

fn net_of(source: Source) -> Result<IpNet> {
    let address = source.first_address();
    Ok(IpNet::new(address, if address.is_ipv6() { 64 } else { 32 })?)
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// What is known of them.
#[derive(Debug, Serialize)]
struct Explained {
    who: String,
    at: Millis,
    restricted: bool,
    restrictions: Vec<Restriction>,
    /// Entries that concern them beyond those shown.
    more_restrictions: usize,
    exemptions: Vec<Exemption>,
    /// The last ones, the newest first, and how many there are on the topic.
    verdicts: Vec<Verdict>,
    verdicts_on_topic: u64,
    /// Of tenants that are not calm.
    attack_status: Vec<AttackStatus>,
}

#[derive(Debug, Serialize)]
struct Restriction {
    key: String,
    standing: &'static str,
    entry: BlocklistEntry,
    edges: Vec<Receipt>,
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
    let who = Who::parse(&args.who)?;
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
        let mut waits = 0;
        loop {
            match follower.poll(WAIT)? {
                Followed::Record(record) => {
                    waits = 0;
                    let place = topics.iter().position(|topic| **topic == *record.part.topic);
                    self.take(place.and_then(|place| names.get(place)).copied().unwrap_or_default(), &record);
                }
                Followed::CaughtUp => return Ok(()),
                Followed::Idle => waits += 1,
            }
            if waits > WAITS_MAX {
                return Err(Error::Kafka("the cluster does not give what the topics hold".to_owned()).into());
            }
        }
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
        let Some((tenant, scope, value)) = split_key(key) else { return false };
        self.tenant.is_none_or(|own| own == tenant)
            && self.who.is_concerned(Scope::from_name(scope).unwrap_or(Scope::Other), value)
    }

    fn verdict(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(value) = value.filter(|_| std::str::from_utf8(key).is_ok_and(|key| self.is_theirs(key))) else {
            return;
        };
        if let Ok(verdict) = decode_output::<Verdict>("verdicts", value) {
            self.verdicts_on_topic += 1;
            self.verdicts.push_back(verdict);
            // Partitions come one after the other: the newest of all are kept.
            if self.verdicts.len() > 2 * VERDICTS_MAX {
                self.keep_newest_verdicts();
            }
        }
    }

    fn keep_newest_verdicts(&mut self) {
        self.verdicts
            .make_contiguous()
            .sort_by(|a, b| (b.occurred_at, &b.verdict_id).cmp(&(a.occurred_at, &a.verdict_id)));
        self.verdicts.truncate(VERDICTS_MAX);
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
        let desired = self.lists.desired();
        let theirs = desired.entries().filter(|(key, _)| self.is_theirs(key));
        let mut restrictions: Vec<Restriction> = theirs
            .filter_map(|(key, entry)| {
                let standing = match desired.standing(entry, now) {
                    Standing::Enforced => "enforced",
                    Standing::Exempted => "exempted",
                    Standing::Ended => return None,
                };
                let of_entry = self.receipts.iter().filter(|((of, _), _)| of == key);
                let edges = of_entry.map(|(_, receipt)| receipt.clone()).take(RECEIPTS_MAX).collect();
                Some(Restriction { key: key.to_owned(), standing, entry: entry.clone(), edges })
            })
            .collect();
        let restricted = restrictions.iter().any(|restriction| restriction.standing == "enforced");
        let more_restrictions = restrictions.len().saturating_sub(RESTRICTIONS_MAX);
        restrictions.truncate(RESTRICTIONS_MAX);
        let mut tenants: Vec<String> = match self.tenant {
            Some(tenant) => vec![tenant.to_owned()],
            None => self.verdicts.iter().map(|v| v.tenant.clone()).chain(self.tenants.keys().cloned()).collect(),
        };
        tenants.extend(restrictions.iter().map(|restriction| restriction.entry.tenant.clone()));
        tenants.sort_unstable();
        tenants.dedup();
        let mut exemptions: Vec<Exemption> =
            tenants.iter().filter_map(|tenant| self.who.exempted_by(desired.exemptions(), tenant, now)).collect();
        exemptions.dedup();
        let is_on = |status: &AttackStatus| status.state != AttackState::Calm && status.expires_at > now;
        Explained {
            who: who.to_owned(),
            at: now,
            restricted,
            restrictions,
            more_restrictions,
            exemptions,
            verdicts: self.verdicts.into(),
            verdicts_on_topic: self.verdicts_on_topic,
            attack_status: self.tenants.into_values().filter(is_on).collect(),
        }
    }
}

impl fmt::Display for Explained {
    /// For people. What attackers chose is shown without anything that a terminal would obey.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |at: Millis| format_millis(at);
        let left = |until: Option<Millis>| match until {
            Some(until) => {
                format!("until {}, {} from now", time(until), format_duration((until - self.at) / 1_000 * 1_000))
            }
            None => "without an end".to_owned(),
        };
        writeln!(f, "{}: {}", Plain(&self.who), if self.restricted { "restricted" } else { "not restricted now" })?;
        for Restriction { key, standing, entry, edges } in &self.restrictions {
            writeln!(f, "\n  {} {} ({standing}), {}", entry.action, Plain(key), left(entry.until))?;
            let by = entry.actor.as_deref().or(entry.playbook.as_deref()).unwrap_or("nobody named");
            writeln!(
                f,
                "    by {} since {}, verdict {}",
                Plain(by),
                time(entry.since),
                Plain(entry.verdict_id.as_deref().unwrap_or("-"))
            )?;
            writeln!(f, "    {}", Plain(&entry.reason))?;
            if edges.is_empty() {
                writeln!(f, "    no edge has said that it has it")?;
            }
            for receipt in edges {
                let generation = if receipt.generation == entry.generation { "" } else { ", of an older state" };
                let after = format_duration((receipt.applied_at - entry.since).max(0));
                let detail = receipt.detail.as_deref().map(|detail| format!(": {}", Plain(detail))).unwrap_or_default();
                writeln!(f, "    edge {} {} {after} after{generation}{detail}", Plain(&receipt.sink), receipt.outcome)?;
            }
        }
        if self.more_restrictions > 0 {
            writeln!(f, "\n  and {} entries more", self.more_restrictions)?;
        }
        for exemption in &self.exemptions {
            let tenant = if exemption.tenant.is_empty() { "every tenant" } else { &exemption.tenant };
            writeln!(f, "\n  exempt at {}, {}: {}", Plain(tenant), left(exemption.until), Plain(&exemption.reason))?;
        }
        if !self.verdicts.is_empty() {
            writeln!(f, "\n  verdicts, {} of {}", self.verdicts.len(), self.verdicts_on_topic)?;
        }
        for verdict in &self.verdicts {
            let mode = if verdict.mode == Mode::Shadow { " (shadow)" } else { "" };
            let (at, playbook, action) = (time(verdict.occurred_at), Plain(&verdict.playbook), verdict.action);
            writeln!(f, "    {at} {playbook}{mode} {action}: {}", Plain(&verdict.explanation))?;
        }
        for status in &self.attack_status {
            writeln!(f, "\n  {} is under {} since {}", Plain(&status.tenant), status.state, time(status.since))?;
        }
        Ok(())
    }
}

/// Text that others chose, on one line and without control characters.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 400;
        // Marks that turn the direction of what follows hide as well as escapes do.
        let is_hidden = |c: char| {
            c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        self.0.chars().take(CHARS_MAX).try_for_each(|c| write!(f, "{}", if is_hidden(c) { '\u{fffd}' } else { c }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_an_address_a_range_or_an_account() {
        let cases = [
            ("203.0.113.9", Scope::Ip, "203.0.113.9", true),
            ("203.0.113.9", Scope::Ip, "203.0.113.8", false),
            ("203.0.113.9", Scope::Cidr, "203.0.113.0/24", true),
            ("203.0.113.9", Scope::IpAccount, "203.0.113.9|ada@example.com", true),
            ("203.0.113.9", Scope::Account, "203.0.113.9", false),
            ("203.0.113.0/24", Scope::Ip, "203.0.113.8", true),
            ("203.0.113.0/24", Scope::Cidr, "203.0.0.0/16", true),
            ("203.0.113.0/24", Scope::Cidr, "198.51.100.0/24", false),
            ("2001:db8::1", Scope::Cidr, "2001:db8::/64", true),
            ("2001:db8::1", Scope::Cidr, "2001:db8:1::/48", false),
            (" Ada@Example.com", Scope::Account, "ada@example.com", true),
            ("ada@example.com", Scope::IpAccount, "203.0.113.9|ada@example.com", true),
            ("d-7", Scope::Device, "d-7", true),
            ("d-7", Scope::Device, "D-7", false),
        ];
        for (who, scope, value, concerned) in cases {
            assert_eq!(Who::parse(who).unwrap().is_concerned(scope, value), concerned, "{who} {scope} {value}");
        }
        assert!(Who::parse("  ").is_err());
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_shown() {
        assert_eq!(Plain("a\u{1b}[31mb\nc\u{202e}d").to_string(), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d");
        assert_eq!(Plain(&"x".repeat(9_000)).to_string().len(), 400);
    }
}
