//! The brokers and what is on its way between them: requests, markers, timeouts, in the order of the cluster's time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::super::{Outgoing, Part};
use super::client::ClientId;
use super::cluster::Timeouts;
use super::group::{CommitName, Group, MemberId, MemberName};
use super::network::{Answer, Passage, Refusal, Request, Weather};
use super::partition::{Partition, ProducerId, partition_of};
use super::transaction::{Added, Coordinator, ProducerName, State};
use crate::event::Millis;

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) partitions: Vec<Partition>,
    pub(super) compacts: bool,
    /// Retention, where it deletes by age.
    pub(super) retention_ms: Option<Millis>,
    pub(super) tombstone_ms: Millis,
}

/// A client as the brokers' side of the model sees it: the part of it that goes on in the background.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) group: String,
    pub(super) instance: Option<String>,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) member: Option<MemberId>,
    pub(super) generation: i32,
    /// A generation of which it will hear by its next poll.
    pub(super) next_generation: Option<i32>,
    /// What it was given and has not let go of.
    pub(super) owned: BTreeSet<Part>,
    /// Partitions that it has to let go of; it owes an answer.
    pub(super) revoked: BTreeSet<Part>,
    /// It was told so, or that it lost everything it had.
    pub(super) was_told: bool,
    pub(super) is_lost: bool,
    /// Partitions that are new to it.
    pub(super) gained: BTreeSet<Part>,
    /// Its process stands still: no heartbeats.
    pub(super) is_stopped: bool,
}

/// A request, or a marker, that comes later.
#[derive(Debug, Clone)]
pub(super) enum Flight {
    EndTxn { by: ProducerName, commit: bool },
    Offsets { by: ProducerName, group: String, member: MemberName, offsets: Vec<(Part, i64)>, commit: CommitName },
    Marker { producer: ProducerId, commit: bool, part: Part },
    GroupMarker { producer: ProducerId, commit: bool, group: String },
}

pub(super) struct Cluster {
    pub(super) topics: BTreeMap<Arc<str>, Topic>,
    pub(super) coordinator: Coordinator,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) clients: BTreeMap<ClientId, Client>,
    clients_so_far: ClientId,
    /// By the time at which it arrives, then in order.
    pub(super) flights: BTreeMap<(Millis, u64), Flight>,
    flights_so_far: u64,
    pub(super) weather: Box<dyn Weather>,
    timeouts: Timeouts,
    /// Milliseconds since the cluster began: timeouts go by it.
    pub(super) elapsed: Millis,
    /// What clocks show: records carry it, and retention goes by it.
    pub(super) now: Millis,
    /// By how much clocks run faster than timeouts.
    pub(super) speed: Millis,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("elapsed", &self.elapsed).field("now", &self.now).finish_non_exhaustive()
    }
}

impl Cluster {
    pub(super) fn new(timeouts: Timeouts, weather: Box<dyn Weather>) -> Self {
        Cluster {
            topics: BTreeMap::new(),
            coordinator: Coordinator::default(),
            groups: BTreeMap::new(),
            clients: BTreeMap::new(),
            clients_so_far: 0,
            flights: BTreeMap::new(),
            flights_so_far: 0,
            weather,
            timeouts,
            elapsed: 0,
            now: 0,
            speed: 0,
        }
    }

    pub(super) fn partition(&self, part: &Part) -> Option<&Partition> {
        self.topics.get(&part.topic)?.partitions.get(usize::try_from(part.partition).ok()?)
    }

    pub(super) fn partition_mut(&mut self, part: &Part) -> Option<&mut Partition> {
        self.topics.get_mut(&part.topic)?.partitions.get_mut(usize::try_from(part.partition).ok()?)
    }

    pub(super) fn parts_of(&self, topic: &str) -> Vec<Part> {
        let Some((name, of)) = self.topics.get_key_value(topic) else { return Vec::new() };
        (0..of.partitions.len() as i32).map(|partition| Part { topic: Arc::clone(name), partition }).collect()
    }

    pub(super) fn partitions(&self, topic: &str) -> Option<i32> {
        self.topics.get(topic).map(|of| of.partitions.len() as i32)
    }

    /// Where a record goes.
    pub(super) fn place(&self, record: &Outgoing) -> Option<Part> {
        let (topic, of) = self.topics.get_key_value(&record.topic)?;
        let partition = match record.partition {
            Some(partition) => partition,
            None => partition_of(record.key.as_deref().unwrap_or_default(), of.partitions.len()) as i32,
        };
        Some(Part { topic: Arc::clone(topic), partition })
    }

    pub(super) fn register(&mut self, client: Client) -> ClientId {
        self.clients_so_far += 1;
        self.clients.insert(self.clients_so_far, client);
        self.clients_so_far
    }

    /// The next thing that time brings.
    fn next_event(&self) -> Option<Millis> {
        let flight = self.flights.keys().next().map(|(due, _)| *due);
        let timeout = self.coordinator.next_timeout(self.timeouts.transaction_ms).map(|(due, _)| due);
        let members = self.groups.iter().flat_map(|(name, group)| group.members.iter().map(move |of| (name, of)));
        let expiry = members.filter_map(|(group, (id, member))| {
            let is_heard = self.client_of(group, *id).is_some_and(|client| !client.is_stopped);
            (!is_heard).then_some(member.heard_at.saturating_add(self.timeouts.session_ms))
        });
        flight.into_iter().chain(timeout).chain(expiry).min()
    }

    /// Waits for whatever comes next; `false` when nothing ever will. A client that waits has nothing else to do, and
    /// there is one thread.
    pub(super) fn wait(&mut self) -> bool {
        let next = self.next_event();
        next.inspect(|next| self.pass_to(*next)).is_some()
    }

    pub(super) fn pass_to(&mut self, to: Millis) {
        while let Some(next) = self.next_event().filter(|next| *next <= to) {
            self.set_elapsed(next);
            self.bring();
        }
        self.set_elapsed(to);
        self.rebalance();
    }

    fn set_elapsed(&mut self, to: Millis) {
        let passed = to.saturating_sub(self.elapsed).max(0);
        self.elapsed = self.elapsed.saturating_add(passed);
        self.now = self.now.saturating_add(passed.saturating_mul(self.speed));
        self.hear();
    }

    /// Everything that is due now.
    fn bring(&mut self) {
        while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= self.elapsed) {
            let flight = entry.remove();
            // Nobody hears the answer of what comes late.
            self.arrive(flight);
        }
        let timed_out = self.coordinator.next_timeout(self.timeouts.transaction_ms);
        if let Some((_, id)) = timed_out.filter(|(due, _)| *due <= self.elapsed) {
            self.abort_of(&id);
        }
        let (now, session_ms) = (self.elapsed, self.timeouts.session_ms);
        for group in self.groups.values_mut() {
            let silent = group.members.iter().filter(|(_, member)| member.heard_at.saturating_add(session_ms) <= now);
            for id in silent.map(|(id, _)| *id).collect::<Vec<_>>() {
                group.remove(id);
            }
        }
        self.rebalance();
    }

    /// Aborts what is open under an id, and fences whoever opened it.
    fn abort_of(&mut self, id: &str) {
        let Some(held) = self.coordinator.get_mut(id) else { return };
        held.epoch += 1;
        held.state = State::Ending { commit: false };
        self.send_markers(id, false);
    }

    /// InitProducerId: what was open is over before the new producer begins.
    pub(super) fn init(&mut self, id: &str) -> ProducerName {
        if self.coordinator.get(id).is_some_and(|held| matches!(held.state, State::Ongoing(_))) {
            self.abort_of(id);
        }
        self.wait_for_markers(id);
        self.coordinator.init(id)
    }

    pub(super) fn wait_for_markers(&mut self, id: &str) {
        let is_ending = |cluster: &Cluster| {
            cluster.coordinator.get(id).is_some_and(|held| matches!(held.state, State::Ending { .. }))
        };
        while is_ending(self) && self.wait() {}
    }

    /// Sends a request through the weather.
    pub(super) fn call(&mut self, kind: Request, request: Flight) -> (Answer, bool) {
        match self.weather.passage(kind) {
            Passage::Through => (self.arrive(request), false),
            Passage::Repeated { after } => {
                self.fly(after, request.clone());
                (self.arrive(request), true)
            }
            Passage::AnswerLost => {
                self.arrive(request);
                (Answer::Silence, false)
            }
            Passage::Late { after } => {
                self.fly(after, request);
                (Answer::Silence, false)
            }
            Passage::Lost => (Answer::Silence, false),
        }
    }

    fn fly(&mut self, after: Millis, flight: Flight) {
        self.flights_so_far += 1;
        self.flights.insert((self.elapsed.saturating_add(after.max(0)), self.flights_so_far), flight);
    }

    fn arrive(&mut self, flight: Flight) -> Answer {
        let refused = match flight {
            Flight::EndTxn { by, commit } => match self.coordinator.end(&by, commit) {
                Ok(true) => {
                    self.send_markers(&by.transactional_id, commit);
                    Ok(())
                }
                Ok(false) => Ok(()),
                Err(refusal) => Err(refusal),
            },
            Flight::Offsets { by, group, member, offsets, commit } => {
                let producer = self.coordinator.verify(&by, &Added::Group(&group));
                let group = self.groups.entry(group).or_default();
                producer.and_then(|producer| group.put(producer, member, &offsets, commit))
            }
            Flight::Marker { producer, commit, part } => {
                let now = self.now;
                if let Some(partition) = self.partition_mut(&part) {
                    partition.mark(producer, commit, now);
                }
                self.marker_came(producer, commit);
                Ok(())
            }
            Flight::GroupMarker { producer, commit, group } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.mark(producer, commit);
                }
                self.marker_came(producer, commit);
                Ok(())
            }
        };
        match refused {
            Ok(()) => Answer::Done,
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    fn send_markers(&mut self, id: &str, commit: bool) {
        let Some(held) = self.coordinator.get_mut(id) else { return };
        let producer = held.producer;
        let parts = held.parts.iter().cloned().map(|part| Flight::Marker { producer, commit, part });
        let groups = held.groups.iter().cloned().map(|group| Flight::GroupMarker { producer, commit, group });
        let markers: Vec<Flight> = parts.chain(groups).collect();
        held.markers = markers.len();
        for marker in markers {
            match self.weather.marker_delay() {
                0 => drop(self.arrive(marker)),
                delay => self.fly(delay, marker),
            }
        }
    }

    fn marker_came(&mut self, producer: ProducerId, commit: bool) {
        let id = self.coordinator.id_of(producer);
        if let Some(held) = id.and_then(|id| self.coordinator.get_mut(&id)) {
            held.markers = held.markers.saturating_sub(1);
            if held.markers == 0 {
                held.state = State::Ended { commit };
            }
        }
    }

    /// AddPartitionsToTxn and AddOffsetsToTxn; waits for the markers of the transaction before.
    pub(super) fn add(&mut self, by: &ProducerName, what: &Added<'_>) -> Result<(), Refusal> {
        self.wait_for_markers(&by.transactional_id);
        self.coordinator.add(by, what, self.elapsed)
    }

    /// Produce: the first record of a transaction in a partition is taken only when the coordinator knows of it.
    pub(super) fn produce(&mut self, by: &ProducerName, part: &Part, record: Outgoing) -> Result<i64, Refusal> {
        let producer = self.coordinator.verify(by, &Added::Part(part))?;
        let now = self.now;
        let partition = self.partition_mut(part).ok_or(Refusal::UnknownTopicOrPartition)?;
        Ok(partition.append(record, now, Some(producer)))
    }
}
