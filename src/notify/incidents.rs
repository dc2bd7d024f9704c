//! The incidents as the topic has them now. Records go in; nothing here reads Kafka or a clock.

use std::collections::BTreeMap;

use crate::event::wire::decode_output;
use crate::event::{Incident, IncidentState, Millis};

/// Most incidents that are held; the oldest that are over go first.
pub const INCIDENTS_MAX: usize = 10_000;
/// Longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// An incident, and how many records it was heard in.
#[derive(Debug, Clone)]
pub struct Held {
    pub incident: Incident,
    pub heard: u64,
}

/// All of them, by id.
#[derive(Debug, Default)]
pub struct Incidents {
    held: BTreeMap<String, Held>,
    taken: u64,
    refused: u64,
}

impl Incidents {
    /// Takes one record of the topic; gives whether anything is another than before.
    pub fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> bool {
        self.taken = self.taken.saturating_add(1);
        let Ok(id) = std::str::from_utf8(key) else { return self.refuse() };
        let Some(value) = value else { return self.held.remove(id).is_some() };
        if value.len() > RECORD_BYTES_MAX {
            return self.refuse();
        }
        let Ok(incident) = decode_output::<Incident>("incidents", value) else { return self.refuse() };
        if incident.incident_id != id {
            return self.refuse();
        }
        let heard = match self.held.get(id) {
            Some(held) if held.incident == incident => return false,
            Some(held) => held.heard,
            None => 0,
        };
        self.held.insert(id.to_owned(), Held { incident, heard: heard.saturating_add(1) });
        if self.held.len() > INCIDENTS_MAX {
            self.let_one_go();
        }
        true
    }

    fn refuse(&mut self) -> bool {
        self.refused = self.refused.saturating_add(1);
        false
    }

    fn let_one_go(&mut self) {
        let age = |held: &Held| (held.incident.state == IncidentState::Open, held.incident.updated_at);
        let oldest = self.held.iter().min_by_key(|(_, held)| age(held)).map(|(id, _)| id.clone());
        if let Some(oldest) = oldest {
            self.held.remove(&oldest);
        }
    }

    /// Lets go what has been over since before `before`.
    pub fn forget_over(&mut self, before: Millis) {
        self.held.retain(|_, held| held.incident.state == IncidentState::Open || held.incident.updated_at >= before);
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Held> {
        self.held.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.held.iter().map(|(id, held)| (id.as_str(), held))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Records that were taken, those that could not be used among them.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// Records that could not be used.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}
