//! The transaction coordinator: one state per transactional id, fenced by epochs. As of clients without KIP-890: the
//! epoch changes only when a producer begins anew, so a request that comes late meets whatever transaction is open then.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Part;
use super::network::Refusal;
use super::partition::ProducerId;
use crate::event::Millis;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    /// Open since this time of the cluster.
    Ongoing(Millis),
    /// Decided, while some markers are on their way.
    Ending {
        commit: bool,
    },
    Ended {
        commit: bool,
    },
}

/// A producer as its requests name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProducerName {
    pub(super) transactional_id: String,
    pub(super) epoch: u32,
}

#[derive(Debug)]
pub(super) struct Transactional {
    pub(super) producer: ProducerId,
    pub(super) epoch: u32,
    pub(super) state: State,
    /// Where it has written.
    pub(super) parts: BTreeSet<Part>,
    /// Groups of which it holds offsets.
    pub(super) groups: BTreeSet<String>,
    /// Markers on their way.
    pub(super) markers: usize,
}

#[derive(Debug, Default)]
pub(super) struct Coordinator {
    of: BTreeMap<String, Transactional>,
}

/// What a transaction takes in.
#[derive(Debug)]
pub(super) enum Added<'a> {
    Part(&'a Part),
    Group(&'a str),
}

impl Coordinator {
    /// A producer begins under an id: the next epoch, which fences all before it. Nothing of theirs may be open.
    pub(super) fn init(&mut self, id: &str) -> ProducerName {
        let producer = self.of.len() as ProducerId + 1;
        let held = self.of.entry(id.to_owned()).or_insert_with(|| Transactional {
            producer,
            epoch: 0,
            state: State::Empty,
            parts: BTreeSet::new(),
            groups: BTreeSet::new(),
            markers: 0,
        });
        held.epoch += 1;
        held.state = State::Empty;
        ProducerName { transactional_id: id.to_owned(), epoch: held.epoch }
    }

    pub(super) fn get(&self, id: &str) -> Option<&Transactional> {
        self.of.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Transactional> {
        self.of.get_mut(id)
    }

    pub(super) fn id_of(&self, producer: ProducerId) -> Option<String> {
        self.of.iter().find(|(_, held)| held.producer == producer).map(|(id, _)| id.clone())
    }

    /// Its producer id, unless a later epoch has fenced it.
    pub(super) fn check(&self, name: &ProducerName) -> Result<&Transactional, Refusal> {
        match self.of.get(&name.transactional_id) {
            Some(held) if held.epoch == name.epoch => Ok(held),
            Some(_) | None => Err(Refusal::ProducerFenced),
        }
    }

    /// AddPartitionsToTxn and AddOffsetsToTxn: opens a transaction when none is open.
    pub(super) fn add(&mut self, name: &ProducerName, what: &Added<'_>, now: Millis) -> Result<(), Refusal> {
        self.check(name)?;
        let Some(held) = self.of.get_mut(&name.transactional_id) else { return Err(Refusal::ProducerFenced) };
        match held.state {
            // Kafka says CONCURRENT_TRANSACTIONS and the client asks again; here it waited before it asked.
            State::Ending { .. } => return Err(Refusal::InvalidTxnState),
            State::Empty | State::Ended { .. } => {
                held.state = State::Ongoing(now);
                held.parts.clear();
                held.groups.clear();
            }
            State::Ongoing(_) => {}
        }
        match what {
            Added::Part(part) => held.parts.insert((*part).clone()),
            Added::Group(group) => held.groups.insert((*group).to_owned()),
        };
        Ok(())
    }

    /// What a partition asks before it takes the first record of a transaction.
    pub(super) fn verify(&self, name: &ProducerName, what: &Added<'_>) -> Result<ProducerId, Refusal> {
        let held = self.check(name)?;
        let holds = match what {
            Added::Part(part) => held.parts.contains(*part),
            Added::Group(group) => held.groups.contains(*group),
        };
        match held.state {
            State::Ongoing(_) if holds => Ok(held.producer),
            State::Ongoing(_) | State::Empty | State::Ending { .. } | State::Ended { .. } => {
                Err(Refusal::InvalidTxnState)
            }
        }
    }

    /// EndTxn. `true`: markers must go out. Asked again for what it was asked before, it says yes once more.
    pub(super) fn end(&mut self, name: &ProducerName, commit: bool) -> Result<bool, Refusal> {
        self.check(name)?;
        let Some(held) = self.of.get_mut(&name.transactional_id) else { return Err(Refusal::ProducerFenced) };
        match held.state {
            State::Ongoing(_) => {
                held.state = State::Ending { commit };
                Ok(true)
            }
            State::Ending { commit: decided } | State::Ended { commit: decided } if decided == commit => Ok(false),
            State::Ending { .. } | State::Ended { .. } | State::Empty => Err(Refusal::InvalidTxnState),
        }
    }

    /// When the next open transaction has been open for too long.
    pub(super) fn next_timeout(&self, timeout_ms: Millis) -> Option<(Millis, String)> {
        let since = |held: &Transactional| match held.state {
            State::Ongoing(since) => Some(since.saturating_add(timeout_ms)),
            State::Empty | State::Ending { .. } | State::Ended { .. } => None,
        };
        self.of.iter().filter_map(|(id, held)| Some((since(held)?, id.clone()))).min()
    }

    /// Transactional ids whose transaction has not ended everywhere.
    pub(super) fn open(&self) -> impl Iterator<Item = &String> {
        let is_open = |held: &Transactional| matches!(held.state, State::Ongoing(_) | State::Ending { .. });
        self.of.iter().filter(move |(_, held)| is_open(held)).map(|(id, _)| id)
    }
}
