//! A message: what is told of one incident, or of several at once. A value that is kept until it is delivered, is the
//! body of a webhook, and is what templates see.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::news::{Occasion, Told};
use crate::console::text::counted;
use crate::event::{Compromise, Counted, Incident, IncidentKind, IncidentState, Millis, Severity};

/// Most incidents that one message names; the rest waits for the next.
pub const ITEMS_MAX: usize = 200;
/// Most accounts that one message names of an incident; the others are counted, and stand in the incident's report.
pub const FALLEN_MAX: usize = 20;
/// Longest text that is taken over from an incident, in characters.
const TEXT_CHARS_MAX: usize = 2_000;
/// Longest account, address and the like that is taken over, in characters.
const NAME_CHARS_MAX: usize = 320;
/// Most networks, countries and agents of an incident, each.
const TOPS_MAX: usize = 3;
/// Tenants that a headline names.
const TENANTS_NAMED_MAX: usize = 3;

/// One message to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The same for every try of the same message: whoever gets it twice may forget one.
    pub id: String,
    /// When it was made, in milliseconds since the epoch.
    pub at: Millis,
    /// What it is about, on one line.
    pub headline: String,
    /// Made by `notify test`: nothing of it happened.
    pub test: bool,
    pub incidents: Vec<Item>,
}

/// What is told of one incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Why it is told.
    pub occasions: BTreeSet<Occasion>,
    /// This incident on one line.
    pub headline: String,
    pub incident_id: String,
    pub tenant: String,
    pub kind: IncidentKind,
    pub state: IncidentState,
    pub severity: Severity,
    pub started_at: Millis,
    pub updated_at: Millis,
    pub ended_at: Option<Millis>,
    pub summary: String,
    pub attempts: i64,
    pub failures: i64,
    pub stopped_at_edge: i64,
    pub sources: i64,
    pub accounts_targeted: i64,
    pub accounts_unknown: i64,
    pub blocked: i64,
    /// Accounts that were entered, all of them together.
    pub fallen: usize,
    /// How many of them are told for the first time here.
    pub fallen_new: usize,
    /// Those, as far as one message names them.
    pub fallen_named: Vec<Compromise>,
    pub top_networks: Vec<Counted>,
    pub top_countries: Vec<Counted>,
    pub top_user_agents: Vec<Counted>,
    pub playbooks: Vec<String>,
    /// Changes of the incident that this message tells in one.
    pub merged: u64,
    /// What the message before it told; `None` in the first.
    pub before: Option<Before>,
    /// Its page, where the settings say where the console is.
    pub url: Option<String>,
}

/// Figures of the message before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    pub at: Millis,
    pub severity: Severity,
    pub attempts: i64,
    pub stopped_at_edge: i64,
}

impl Item {
    /// What is told of an incident. `heard`: records in which it was heard so far.
    #[must_use]
    pub fn new(
        incident: &Incident,
        told: Option<&Told>,
        occasions: BTreeSet<Occasion>,
        heard: u64,
        console: Option<&str>,
    ) -> Item {
        let told_fallen = told.map_or(0, |told| told.fallen);
        let new = incident.compromised.get(told_fallen..).unwrap_or_default();
        let named = new.iter().take(FALLEN_MAX).map(|fallen| Compromise {
            account: cut(&fallen.account, NAME_CHARS_MAX),
            source_ip: cut(&fallen.source_ip, NAME_CHARS_MAX),
            at: fallen.at,
            flagged_at: fallen.flagged_at,
            event_id: cut(&fallen.event_id, NAME_CHARS_MAX),
        });
        Item {
            headline: headline(incident, &occasions, new.len()),
            occasions,
            incident_id: cut(&incident.incident_id, NAME_CHARS_MAX),
            tenant: cut(&incident.tenant, NAME_CHARS_MAX),
            kind: incident.kind,
            state: incident.state,
            severity: incident.severity,
            started_at: incident.started_at,
            updated_at: incident.updated_at,
            ended_at: incident.ended_at,
            summary: cut(&incident.summary, TEXT_CHARS_MAX),
            attempts: incident.attempts,
            failures: incident.failures,
            stopped_at_edge: incident.stopped_at_edge,
            sources: incident.sources,
            accounts_targeted: incident.accounts_targeted,
            accounts_unknown: incident.accounts_unknown,
            blocked: incident.blocked,
            fallen: incident.compromised.len(),
            fallen_new: new.len(),
            fallen_named: named.collect(),
            top_networks: tops(&incident.top_networks),
            top_countries: tops(&incident.top_countries),
            top_user_agents: tops(&incident.top_user_agents),
            playbooks: incident.playbooks.iter().take(FALLEN_MAX).map(|id| cut(id, NAME_CHARS_MAX)).collect(),
            merged: heard.saturating_sub(told.map_or(0, |told| told.heard)).max(1),
            before: told.map(|told| Before {
                at: told.at,
                severity: told.severity,
                attempts: told.attempts,
                stopped_at_edge: told.stopped_at_edge,
            }),
            url: console.map(|console| format!("{console}/incidents/{}", path_segment(&incident.incident_id))),
        }
    }
}

impl Message {
    /// A message of these items, made at `at` for a destination.
    #[must_use]
    pub fn new(destination: &str, incidents: Vec<Item>, at: Millis) -> Message {
        let headline = match &incidents[..] {
            [one] => one.headline.clone(),
            several => of_several(several),
        };
        Message { id: id(destination, &incidents), at, headline, test: false, incidents }
    }
}

/// What a message says is what makes it another one.
fn id(destination: &str, incidents: &[Item]) -> String {
    let mut digest = Sha256::new();
    let mut add = |part: &str| {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    };
    add(destination);
    for item in incidents {
        add(&item.incident_id);
        add(&item.updated_at.to_string());
        item.occasions.iter().for_each(|occasion| add(occasion.as_str()));
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn headline(incident: &Incident, occasions: &BTreeSet<Occasion>, fallen_new: usize) -> String {
    let what = match incident.kind {
        IncidentKind::CredentialStuffing => "Credential stuffing",
        IncidentKind::PasswordSpraying => "Password spraying",
        IncidentKind::AccountGuessing => "Account guessing",
        IncidentKind::Enumeration => "Enumeration of accounts",
        IncidentKind::ProductFault => "Fault of a release",
        IncidentKind::AuthOutage => "Outage of logins",
        IncidentKind::Other => "Attack",
    };
    let mut parts = Vec::new();
    if occasions.contains(&Occasion::Fell) {
        let n = i64::try_from(fallen_new).unwrap_or(i64::MAX);
        let more = if incident.compromised.len() > fallen_new { "more " } else { "" };
        parts.push(format!("{} entered", counted(n, &format!("{more}account"), &format!("{more}accounts"))));
    }
    // That somebody fell says it already.
    if occasions.contains(&Occasion::Escalated) && !occasions.contains(&Occasion::Fell) {
        parts.push(format!("now {}", incident.severity.as_str()));
    }
    if occasions.contains(&Occasion::Digest) {
        parts.push("goes on".to_owned());
    }
    if occasions.contains(&Occasion::Ended) {
        parts.push("it is over".to_owned());
    }
    let whom = format!("{what} on {}", cut(&incident.tenant, NAME_CHARS_MAX));
    if parts.is_empty() { whom } else { format!("{whom}: {}", parts.join(", ")) }
}

fn of_several(incidents: &[Item]) -> String {
    let tenants: BTreeSet<&str> = incidents.iter().map(|item| item.tenant.as_str()).collect();
    let mut named: Vec<String> = tenants.iter().take(TENANTS_NAMED_MAX).map(|name| (*name).to_owned()).collect();
    if let Some(left) = tenants.len().checked_sub(TENANTS_NAMED_MAX).filter(|left| *left > 0) {
        named.push(counted(i64::try_from(left).unwrap_or(i64::MAX), "other tenant", "other tenants"));
    }
    let fallen: usize = incidents.iter().map(|item| item.fallen_new).sum();
    let entered = match i64::try_from(fallen).unwrap_or(i64::MAX) {
        0 => String::new(),
        n => format!(": {} entered", counted(n, "account", "accounts")),
    };
    format!("News of {} incidents on {}{entered}", incidents.len(), named.join(", "))
}

fn tops(counted: &[Counted]) -> Vec<Counted> {
    let cut_one = |of: &Counted| Counted { value: cut(&of.value, NAME_CHARS_MAX), attempts: of.attempts };
    counted.iter().take(TOPS_MAX).map(cut_one).collect()
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A name as one part of an address: what is not plain is written in hexadecimal.
fn path_segment(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let written = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().take(NAME_CHARS_MAX).map(written).collect()
}
