//! What the topics say, in memory: incidents, attack status, what is in force, verdicts, traffic, edges, playbooks.
//!
//! ```text
//! attack-status, incidents, activity, verdicts ──┐
//! blocklist, exemptions, commands ───────────────┼─▶ Board ──▶ pages, exports, commands
//! incident-details, receipts ──▶ Disk ───────────┘
//! ```
//!
//! Records and the time go in; nothing here reads Kafka or a clock. Everything is bounded: what finds no room is counted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::activity::Traffic;
use super::disk::{Disk, STORE_BYTES_MAX, StoreError};

use super::sinks::Sinks;
use super::trail::Trail;
use super::who::{Explained, Known, VERDICTS_SHOWN_MAX, Who};
use crate::edge::Standing;
use crate::edge::server::{Lists, STATUSES_MAX};
use crate::event::wire::decode_output;
use crate::event::{
    Action, ActivitySlice, AttackStatus, DetailKind, Incident, IncidentDetail, IncidentState, Millis, Mode, Receipt,
    Verdict, split_key,
};
use crate::topology::exemptions::{Exemptions, is_tenant};

/// Most incidents that are held; the oldest that are over go first, with their lines.
pub const INCIDENTS_MAX: usize = 10_000;
/// Most verdicts that are held, the newest ones.
pub const VERDICTS_MAX: usize = 20_000;
/// Longest record, in bytes.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// The topics that a board is made from, by their names in the contract.
pub const TOPICS: [&str; 9] = [
    "attack-status", "incidents", "incident-details", "activity", "verdicts", "blocklist", "exemptions", "receipts",
    "commands",
];

/// How a tenant stands, as far as anybody knows.
#[derive(Debug, Clone, Copy)]
pub enum Heard<'a> {
    /// The last status holds.
    Holds(&'a AttackStatus),
    /// The last status has run out and nobody has said another: nobody watches, which is not calm.
    RanOut(&'a AttackStatus),
}

/// A playbook in effect, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlaybookLine {
    pub id: String,
    pub version: i32,
    pub mode: String,
    /// Where it comes from: the folder, the topic or an override, who and why.
    pub origin: String,
    pub is_override: bool,
    pub until: Option<Millis>,
    /// What it does, in a sentence, and read aloud.
    pub description: String,
    pub text: String,
    /// Versions that stand below it and hold when it goes.
    pub below: Vec<i32>,
    /// What of its trigger a person may change for a while.
    pub thresholds: Vec<ThresholdLine>,
}

/// A lower bound in CALM, ELEVATED and ATTACK: as it is, and what would be aggressive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThresholdLine {
    /// The measure, by its name in a playbook, and as a person says it.
    pub measure: String,
    pub words: String,
    pub now: [String; 3],
    pub aggressive: [String; 3],
}

/// What is in force of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// By action.
    pub by_action: BTreeMap<Action, usize>,
    pub exempted: usize,
}

impl InForce {
    #[must_use]
    pub fn all(&self) -> usize {
        self.by_action.values().sum()
    }
}

/// Everything but what lies on disk.
#[derive(Debug)]
pub struct Board {
    lists: Lists,
    statuses: BTreeMap<String, AttackStatus>,
    incidents: BTreeMap<String, Incident>,
    verdicts: BTreeMap<(Millis, String), Verdict>,
    verdict_times: BTreeMap<String, Millis>,
    /// Verdicts read, those let go included.
    verdicts_read: u64,
    traffic: Traffic,
    sinks: Sinks,
    trail: Trail,
    playbooks: Vec<PlaybookLine>,
    /// Records of the topic `playbooks` that nobody takes.
    playbooks_rejected: Vec<String>,
    in_force: BTreeMap<String, InForce>,
    /// Incidents with new lines since they were last counted, by the number of the change.
    lines_changed: BTreeMap<String, u64>,
    refused: BTreeMap<&'static str, u64>,
    is_disk_full: bool,
    changes: u64,
}

impl Board {
    #[must_use]
    pub fn new(exemptions: Exemptions) -> Self {
        Board {
            lists: Lists::new(None, exemptions),
            statuses: BTreeMap::new(),
            incidents: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            verdict_times: BTreeMap::new(),
            verdicts_read: 0,
            traffic: Traffic::default(),
            sinks: Sinks::default(),
            trail: Trail::default(),
            playbooks: Vec::new(),
            playbooks_rejected: Vec::new(),
            in_force: BTreeMap::new(),
            lines_changed: BTreeMap::new(),
            refused: BTreeMap::new(),
            is_disk_full: false,
            changes: 0,
        }
    }

    /// Takes one record of a topic of [`TOPICS`]; `generation` is the header of a tombstone of `blocklist`.
    ///
    /// # Errors
    /// The store on disk does not write.
    pub fn take(
        &mut self,
        disk: &Disk,
        topic: &str,
        key: &[u8],
        value: Option<&[u8]>,
        generation: Option<i64>,
    ) -> Result<(), StoreError> {
        self.changes += 1;
        let taken = if value.is_some_and(|value| value.len() > RECORD_BYTES_MAX) {
            None
        } else {
            match topic {
                "blocklist" => {
                    self.lists.block(key, value, generation);
                    Some(())
                }
                "exemptions" => {
                    self.lists.exempt(key, value);
                    Some(())
                }
                "attack-status" => self.status(key, value),
                "incidents" => self.incident(disk, key, value),
                "incident-details" => self.detail(disk, key, value)?,
                "activity" => self.slice(value),
                "verdicts" => self.verdict(value),
                "receipts" => self.receipt(disk, key, value)?,
                "commands" => self.trail.take(value),
                _ => None,
            }
        };
        if taken.is_none() {
            let name = TOPICS.into_iter().find(|name| *name == topic).unwrap_or("other");
            *self.refused.entry(name).or_default() += 1;
        }
        Ok(())
    }

    fn status(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<()> {
        let tenant = std::str::from_utf8(key).ok().filter(|tenant| is_tenant(tenant))?;
        let Some(value) = value else {
            self.statuses.remove(tenant);
            return Some(());
        };
        let status: AttackStatus = decode_output("attack-status", value).ok()?;
        let held = self.statuses.get(tenant);
        if status.tenant != tenant || (held.is_none() && self.statuses.len() >= STATUSES_MAX) {
            return None;
        }
        if held.is_none_or(|held| held.updated_at <= status.updated_at) {
            self.statuses.insert(tenant.to_owned(), status);
        }
        Some(())
    }

    fn incident(&mut self, disk: &Disk, key: &[u8], value: Option<&[u8]>) -> Option<()> {
        let id = std::str::from_utf8(key).ok()?;
        let Some(value) = value else {
            self.incidents.remove(id);
            disk.forget(id);
            return Some(());
        };
        let incident: Incident = decode_output("incidents", value).ok()?;
        if incident.incident_id != id {
            return None;
        }
        self.incidents.insert(id.to_owned(), incident);
        if self.incidents.len() > INCIDENTS_MAX {
            let oldest = self
                .incidents
                .values()
                .min_by_key(|incident| (incident.state == IncidentState::Open, incident.started_at))
                .map(|incident| incident.incident_id.clone());
            if let Some(oldest) = oldest {
                self.incidents.remove(&oldest);
                self.lines_changed.remove(&oldest);
                disk.forget(&oldest);
            }
        }
        Some(())
    }

    fn detail(&mut self, disk: &Disk, key: &[u8], value: Option<&[u8]>) -> Result<Option<()>, StoreError> {
        let Some(value) = value else {
            let key = std::str::from_utf8(key).ok().and_then(split_key);
            let Some((incident, kind, value)) = key else { return Ok(None) };
            if let Some(kind) = DetailKind::from_name(kind) {
                disk.remove(incident, kind, value);
                self.touch(incident);
            }
            return Ok(Some(()));
        };
        let Ok(detail) = decode_output::<IncidentDetail>("incident-details", value) else { return Ok(None) };
        if self.is_disk_full {
            return Ok(None);
        }
        let taken = disk.take(&detail)?;
        if taken.is_ok() {
            self.touch(&detail.incident_id);
        }
        Ok(taken.ok())
    }

    fn touch(&mut self, incident: &str) {
        // More incidents than are held have lines only until theirs are let go.
        if self.lines_changed.len() < 2 * INCIDENTS_MAX || self.lines_changed.contains_key(incident) {
            match self.lines_changed.get_mut(incident) {
                Some(changed) => *changed = self.changes,
                None => drop(self.lines_changed.insert(incident.to_owned(), self.changes)),
            }
        }
    }

    fn slice(&mut self, value: Option<&[u8]>) -> Option<()> {
        self.traffic.take(decode_output::<ActivitySlice>("activity", value?).ok()?)
    }

    fn verdict(&mut self, value: Option<&[u8]>) -> Option<()> {
        let verdict: Verdict = decode_output("verdicts", value?).ok()?;
        self.verdicts_read += 1;
        let key = (verdict.occurred_at, verdict.verdict_id.clone());
        self.verdict_times.insert(verdict.verdict_id.clone(), verdict.occurred_at);
        self.verdicts.insert(key, verdict);
        while self.verdicts.len() > VERDICTS_MAX {
            if let Some(((at, id), _)) = self.verdicts.pop_first()
                && self.verdict_times.get(&id) == Some(&at)
            {
                self.verdict_times.remove(&id);
            }
        }
        Some(())
    }

    fn receipt(&mut self, disk: &Disk, key: &[u8], value: Option<&[u8]>) -> Result<Option<()>, StoreError> {
        // `sink|tenant|SCOPE|value`.
        let key = std::str::from_utf8(key).ok().and_then(|key| key.split_once('|'));
        let Some((sink, entry)) = key else { return Ok(None) };
        let receipt = match value.map(|value| decode_output::<Receipt>("receipts", value)) {
            Some(Ok(receipt)) => Some(receipt),
            Some(Err(_)) => return Ok(None),
            None => None,
        };
        if !self.is_disk_full {
            disk.receipt(entry, sink, receipt.as_ref())?;
        }
        Ok(self.sinks.take(sink, entry, receipt.as_ref()))
    }

    /// Does what is due about once a second.
    pub fn tick(&mut self, disk: &Disk, now: Millis) {
        self.lists.forget(0, now);
        self.is_disk_full = disk.bytes() > STORE_BYTES_MAX;
        let mut in_force: BTreeMap<String, InForce> = BTreeMap::new();
        let desired = self.lists.desired();
        for (_, entry) in desired.entries() {
            let standing = desired.standing(entry, now);
            if standing == Standing::Ended {
                continue;
            }
            let of_tenant = match in_force.get_mut(&entry.tenant) {
                Some(of_tenant) => of_tenant,
                None => in_force.entry(entry.tenant.clone()).or_default(),
            };
            match standing {
                Standing::Enforced => *of_tenant.by_action.entry(entry.action).or_default() += 1,
                Standing::Exempted => of_tenant.exempted += 1,
                Standing::Ended => {}
            }
        }
        if self.in_force != in_force {
            self.in_force = in_force;
            self.changes += 1;
        }
    }

    /// Takes the playbooks in effect, and what of the topic nobody takes.
    pub fn set_playbooks(&mut self, playbooks: Vec<PlaybookLine>, rejected: Vec<String>) {
        if self.playbooks != playbooks || self.playbooks_rejected != rejected {
            self.playbooks = playbooks;
            self.playbooks_rejected = rejected;
            self.changes += 1;
        }
    }

    /// Larger whenever something is different.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// The number of the change that brought an incident's newest line.
    #[must_use]
    pub fn lines_changed(&self, incident: &str) -> u64 {
        self.lines_changed.get(incident).copied().unwrap_or_default()
    }

    /// Every tenant that anything is known of.
    #[must_use]
    pub fn tenants(&self) -> BTreeSet<&str> {
        let of_statuses = self.statuses.keys().map(String::as_str);
        of_statuses.chain(self.traffic.tenants()).chain(self.in_force.keys().map(String::as_str)).collect()
    }

    /// The last that was said of a tenant, if anything was.
    #[must_use]
    pub fn heard(&self, tenant: &str, now: Millis) -> Option<Heard<'_>> {
        let status = self.statuses.get(tenant)?;
        Some(if status.expires_at > now { Heard::Holds(status) } else { Heard::RanOut(status) })
    }

    #[must_use]
    pub fn in_force(&self, tenant: &str) -> InForce {
        self.in_force.get(tenant).cloned().unwrap_or_default()
    }

    /// The newest first.
    #[must_use]
    pub fn incidents(&self) -> Vec<&Incident> {
        let mut all: Vec<&Incident> = self.incidents.values().collect();
        all.sort_by(|a, b| (b.started_at, &b.incident_id).cmp(&(a.started_at, &a.incident_id)));
        all
    }

    #[must_use]
    pub fn incident_of(&self, id: &str) -> Option<&Incident> {
        self.incidents.get(id)
    }

    /// A verdict that is still held.
    #[must_use]
    pub fn verdict_of(&self, id: &str) -> Option<&Verdict> {
        let at = self.verdict_times.get(id)?;
        self.verdicts.get(&(*at, id.to_owned()))
    }

    /// The newest first.
    pub fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.values().rev()
    }

    #[must_use]
    pub const fn verdicts_read(&self) -> u64 {
        self.verdicts_read
    }

    #[must_use]
    pub const fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    #[must_use]
    pub const fn sinks(&self) -> &Sinks {
        &self.sinks
    }

    /// What people asked for.
    #[must_use]
    pub const fn trail(&self) -> &Trail {
        &self.trail
    }

    #[must_use]
    pub const fn lists(&self) -> &Lists {
        &self.lists
    }

    #[must_use]
    pub fn playbooks(&self) -> &[PlaybookLine] {
        &self.playbooks
    }

    #[must_use]
    pub fn playbooks_rejected(&self) -> &[String] {
        &self.playbooks_rejected
    }

    /// How often each playbook spoke since `since`, as far as its verdicts are held: live, in shadow.
    #[must_use]
    pub fn spoke(&self, since: Millis) -> BTreeMap<&str, [u64; 2]> {
        let mut spoke: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
        for verdict in self.verdicts().take_while(|verdict| verdict.occurred_at >= since) {
            spoke.entry(&verdict.playbook).or_default()[usize::from(verdict.mode == Mode::Shadow)] += 1;
        }
        spoke
    }

    /// Records that could not be used, by topic.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        let mut refused = self.refused.clone();
        let entries: u64 = self.lists.desired().refused().values().sum();
        if entries > 0 {
            *refused.entry("blocklist").or_default() += entries;
        }
        if self.lists.records_refused() > 0 {
            *refused.entry("exemptions").or_default() += self.lists.records_refused();
        }
        refused
    }

    /// Whether lines of incidents are refused because no more may lie on disk.
    #[must_use]
    pub const fn is_disk_full(&self) -> bool {
        self.is_disk_full
    }

    /// What is known of somebody.
    #[must_use]
    pub fn explain(&self, disk: &Disk, text: &str, who: &Who, tenant: Option<&str>, now: Millis) -> Explained {
        let is_theirs = |verdict: &&Verdict| {
            tenant.is_none_or(|tenant| tenant == verdict.tenant) && who.is_concerned(verdict.scope, &verdict.value)
        };
        let mut verdicts_on_topic = 0;
        let mut verdicts = Vec::new();
        for verdict in self.verdicts().filter(is_theirs) {
            verdicts_on_topic += 1;
            if verdicts.len() < VERDICTS_SHOWN_MAX {
                verdicts.push(verdict.clone());
            }
        }
        let is_asked = |status: &&AttackStatus| tenant.is_none_or(|tenant| tenant == status.tenant);
        let known = Known {
            lists: &self.lists,
            verdicts,
            verdicts_on_topic,
            statuses: self.statuses.values().filter(is_asked).cloned().collect(),
            receipts: &|key| disk.receipts(key),
        };
        Explained::new(text, who, tenant, known, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETAIL: &str = r#"{"kind":"TARGET","sealed_account":null,"counts":{},"first_at":1,"last_at":1"#;

    fn incident(n: usize, state: &str) -> String {
        format!(
            r#"{{"incident_id":"i{n}","tenant":"shop","kind":"OTHER","state":"{state}","severity":"LOW","started_at":{n},
            "updated_at":{n},"ended_at":null,"summary":"","attempts":0,"failures":0,"stopped_at_edge":0,"sources":0,
            "accounts_targeted":0,"accounts_unknown":0,"blocked":0,"compromised":[],"top_networks":[],"top_countries":[],
            "top_user_agents":[],"playbooks":[],"disposition":"UNDETERMINED"}}"#
        )
    }

    #[test]
    fn the_oldest_incident_that_is_over_goes_with_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::make(folder.path()).unwrap();
        let mut board = Board::new(Exemptions::default());
        let mut take = |topic: &str, key: &str, value: &str| {
            board.take(&disk, topic, key.as_bytes(), Some(value.as_bytes()), None).unwrap();
        };
        for n in 0..2 {
            let detail = format!(r#"{DETAIL},"incident_id":"i{n}","value":"ada"}}"#);
            take("incident-details", &format!("i{n}|TARGET|ada"), &detail);
        }
        for n in 0..=INCIDENTS_MAX {
            take("incidents", &format!("i{n}"), &incident(n, if n == 0 { "OPEN" } else { "CLOSED" }));
        }
        disk.flush().unwrap();
        assert_eq!(board.incidents().len(), INCIDENTS_MAX);
        assert!(board.incident_of("i0").is_some() && board.incident_of("i1").is_none());
        let lines = |id: &str| disk.lines(id, DetailKind::Target).count();
        assert_eq!((lines("i0"), lines("i1")), (1, 0));
        assert_eq!(board.refused(), BTreeMap::new());
    }

    #[test]
    fn what_cannot_be_used_is_counted_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::make(folder.path()).unwrap();
        let mut board = Board::new(Exemptions::default());
        let long = "x".repeat(RECORD_BYTES_MAX + 1);
        for topic in TOPICS.into_iter().filter(|topic| !matches!(*topic, "blocklist" | "exemptions")) {
            for value in ["", "{}", "\0\0\0\0\u{1}", &long] {
                board.take(&disk, topic, b"\xff|a", Some(value.as_bytes()), None).unwrap();
            }
        }
        // Of another incident than its key says, and a receipt of another edge.
        board.take(&disk, "incidents", b"i2", Some(incident(1, "OPEN").as_bytes()), None).unwrap();
        assert_eq!(board.refused().values().sum::<u64>(), 7 * 4 + 1);
        assert!(board.incidents().is_empty() && board.tenants().is_empty() && board.sinks().is_empty());
    }
}
