//! Is somebody restricted, by what, since when, and which edges have it: what a person asks whom a user has called.

use std::fmt;

use ipnet::IpNet;
use serde::Serialize;

use super::text::Plain;
use crate::edge::Standing;
use crate::edge::server::Lists;
use crate::event::wire::{format_millis, normal_account};
use crate::event::{
    AttackState, AttackStatus, BlocklistEntry, Exemption, Millis, Mode, Receipt, Scope, Source, Verdict, split_key,
};
use crate::topology::exemptions::{Exemptions, pair_of, prefix_of};
use crate::topology::format_duration;

/// Most verdicts that are shown.
pub const VERDICTS_SHOWN_MAX: usize = 20;
/// Most receipts of one entry that are shown.
const RECEIPTS_SHOWN_MAX: usize = 100;
/// Most entries that are shown: a range may hold very many addresses.
const RESTRICTIONS_SHOWN_MAX: usize = 100;

/// Whom it is about.
#[derive(Debug, Clone)]
pub enum Who {
    Net(IpNet),
    Named { account: String, value: String },
}

impl Who {
    /// # Errors
    /// The text names nobody.
    pub fn parse(text: &str) -> Result<Who, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("whom? Name an address, a range or an account".to_owned());
        }
        if let Some(net) = text.parse::<Source>().ok().and_then(net_of) {
            return Ok(Who::Net(net));
        }
        match text.parse::<IpNet>() {
            Ok(net) => Ok(Who::Net(net.trunc())),
            Err(_) => Ok(Who::Named { account: normal_account(text), value: text.to_owned() }),
        }
    }

    /// Whether an entry of this scope and value concerns them.
    #[must_use]
    pub fn is_concerned(&self, scope: Scope, value: &str) -> bool {
        match self {
            Who::Net(own) => match scope {
                Scope::Ip | Scope::Cidr => prefix_of(scope, value).is_some_and(|net| overlap(&net, own)),
                Scope::IpAccount => {
                    pair_of(value).and_then(|(source, _)| net_of(source)).is_some_and(|net| overlap(&net, own))
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

    /// Whether a key `tenant|SCOPE|value` is theirs, at this tenant or at any.
    #[must_use]
    pub fn is_key_theirs(&self, tenant: Option<&str>, key: &str) -> bool {
        let Some((of, scope, value)) = split_key(key) else { return false };
        tenant.is_none_or(|tenant| tenant == of)
            && self.is_concerned(Scope::from_name(scope).unwrap_or(Scope::Other), value)
    }

    fn exempted_by(&self, exemptions: &Exemptions, tenant: &str, now: Millis) -> Option<Exemption> {
        match self {
            Who::Net(net) => exemptions.covers_source(tenant, Source::from(net.addr()), now),
            Who::Named { account, .. } => exemptions.covers_account(tenant, account, now),
        }
        .cloned()
    }
}

fn net_of(source: Source) -> Option<IpNet> {
    let address = source.first_address();
    IpNet::new(address, if address.is_ipv6() { 64 } else { 32 }).ok()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// What is known of them.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub who: String,
    pub at: Millis,
    pub restricted: bool,
    pub restrictions: Vec<Restriction>,
    /// Entries that concern them beyond those shown.
    pub more_restrictions: usize,
    pub exemptions: Vec<Exemption>,
    /// The last ones, the newest first, and how many there are where they were read.
    pub verdicts: Vec<Verdict>,
    pub verdicts_on_topic: u64,
    /// Of tenants that are not calm.
    pub attack_status: Vec<AttackStatus>,
}

#[derive(Debug, Serialize)]
pub struct Restriction {
    pub key: String,
    pub standing: &'static str,
    pub entry: BlocklistEntry,
    pub edges: Vec<Receipt>,
}

/// What an answer is made from.
pub struct Known<'a> {
    pub lists: &'a Lists,
    /// Their newest verdicts, the newest first.
    pub verdicts: Vec<Verdict>,
    pub verdicts_on_topic: u64,
    pub statuses: Vec<AttackStatus>,
    /// What edges said of an entry.
    pub receipts: &'a dyn Fn(&str) -> Vec<Receipt>,
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("verdicts", &self.verdicts).finish_non_exhaustive()
    }
}

impl Explained {
    /// What is known at `now` of whoever `text` names, at one tenant or at all.
    #[must_use]
    pub fn new(text: &str, who: &Who, tenant: Option<&str>, known: Known<'_>, now: Millis) -> Explained {
        let desired = known.lists.desired();
        let theirs = desired.entries().filter(|(key, _)| who.is_key_theirs(tenant, key));
        let mut restrictions = Vec::new();
        let (mut restricted, mut more_restrictions) = (false, 0);
        for (key, entry) in theirs {
            let standing = match desired.standing(entry, now) {
                Standing::Enforced => "enforced",
                Standing::Exempted => "exempted",
                Standing::Ended => continue,
            };
            restricted |= standing == "enforced";
            if restrictions.len() >= RESTRICTIONS_SHOWN_MAX {
                more_restrictions += 1;
                continue;
            }
            let mut edges = (known.receipts)(key);
            edges.truncate(RECEIPTS_SHOWN_MAX);
            restrictions.push(Restriction { key: key.to_owned(), standing, entry: entry.clone(), edges });
        }
        let mut tenants: Vec<String> = match tenant {
            Some(tenant) => vec![tenant.to_owned()],
            None => {
                let named = known.verdicts.iter().map(|verdict| verdict.tenant.clone());
                named.chain(known.statuses.iter().map(|status| status.tenant.clone())).collect()
            }
        };
        tenants.extend(restrictions.iter().map(|restriction| restriction.entry.tenant.clone()));
        tenants.sort_unstable();
        tenants.dedup();
        let mut exemptions: Vec<Exemption> =
            tenants.iter().filter_map(|tenant| who.exempted_by(desired.exemptions(), tenant, now)).collect();
        exemptions.dedup();
        let is_on = |status: &AttackStatus| status.state != AttackState::Calm && status.expires_at > now;
        Explained {
            who: text.to_owned(),
            at: now,
            restricted,
            restrictions,
            more_restrictions,
            exemptions,
            verdicts: known.verdicts,
            verdicts_on_topic: known.verdicts_on_topic,
            attack_status: known.statuses.into_iter().filter(is_on).collect(),
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
        writeln!(
            f,
            "{}: {}",
            Plain::name(&self.who),
            if self.restricted { "restricted" } else { "not restricted now" }
        )?;
        for Restriction { key, standing, entry, edges } in &self.restrictions {
            writeln!(f, "\n  {} {} ({standing}), {}", entry.action, Plain::name(key), left(entry.until))?;
            let by = entry.actor.as_deref().or(entry.playbook.as_deref()).unwrap_or("nobody named");
            writeln!(
                f,
                "    by {} since {}, verdict {}",
                Plain::name(by),
                time(entry.since),
                Plain::name(entry.verdict_id.as_deref().unwrap_or("-"))
            )?;
            writeln!(f, "    {}", Plain::sentence(&entry.reason))?;
            if edges.is_empty() {
                writeln!(f, "    no edge has said that it has it")?;
            }
            for receipt in edges {
                let generation = if receipt.generation == entry.generation { "" } else { ", of an older state" };
                let after = format_duration((receipt.applied_at - entry.since).max(0));
                let detail = receipt
                    .detail
                    .as_deref()
                    .map(|detail| format!(": {}", Plain::sentence(detail)))
                    .unwrap_or_default();
                writeln!(
                    f,
                    "    edge {} {} {after} after{generation}{detail}",
                    Plain::name(&receipt.sink),
                    receipt.outcome
                )?;
            }
        }
        if self.more_restrictions > 0 {
            writeln!(f, "\n  and {} entries more", self.more_restrictions)?;
        }
        for exemption in &self.exemptions {
            let tenant = if exemption.tenant.is_empty() { "every tenant" } else { &exemption.tenant };
            writeln!(
                f,
                "\n  exempt at {}, {}: {}",
                Plain::name(tenant),
                left(exemption.until),
                Plain::sentence(&exemption.reason)
            )?;
        }
        if !self.verdicts.is_empty() {
            writeln!(f, "\n  verdicts, {} of {}", self.verdicts.len(), self.verdicts_on_topic)?;
        }
        for verdict in &self.verdicts {
            let mode = if verdict.mode == Mode::Shadow { " (shadow)" } else { "" };
            let (at, playbook, action) = (time(verdict.occurred_at), Plain::name(&verdict.playbook), verdict.action);
            writeln!(f, "    {at} {playbook}{mode} {action}: {}", Plain::sentence(&verdict.explanation))?;
        }
        for status in &self.attack_status {
            writeln!(f, "\n  {} is under {} since {}", Plain::name(&status.tenant), status.state, time(status.since))?;
        }
        Ok(())
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
}
