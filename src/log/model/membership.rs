//! The part of a client that goes on in the background: it joins, beats, joins again, and queues what the loop must hear.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::{Error, Part, Polled};
use super::brokers::{Client, Cluster};
use super::client::ClientId;
use super::group::MemberId;

impl Cluster {
    pub(super) fn client_of(&self, group: &str, member: MemberId) -> Option<&Client> {
        self.clients.values().find(|client| client.member == Some(member) && client.group == group)
    }

    /// Heartbeats of every client whose process runs.
    pub(super) fn hear(&mut self) {
        for client in self.clients.values().filter(|client| !client.is_stopped) {
            let group = self.groups.get_mut(&client.group);
            let member = group.and_then(|group| client.member.and_then(|member| group.members.get_mut(&member)));
            if let Some(member) = member {
                member.heard_at = self.elapsed;
            }
        }
    }

    /// A client joins its group. A static member that comes back has its partitions at once.
    pub(super) fn join(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let group = self.groups.entry(client.group.clone()).or_default();
        let member = group.join(client.instance.as_deref(), self.elapsed);
        client.member = Some(member);
        client.generation = -1;
        if !group.is_rebalancing {
            client.generation = group.generation;
            client.gained = group.members.get(&member).map(|member| member.assigned.clone()).unwrap_or_default();
        }
        self.rebalance();
    }

    /// What the loop must hear of its group next, if anything.
    pub(super) fn hear_group(&mut self, id: ClientId) -> Result<Option<Polled>, Error> {
        self.rebalance();
        let Some(client) = self.clients.get_mut(&id) else { return Ok(None) };
        if let Some(generation) = client.next_generation.take() {
            client.generation = generation;
            return Ok(None);
        }
        let Some(group) = self.groups.get(&client.group) else { return Ok(None) };
        if client.member.is_some_and(|member| group.is_fenced(member)) {
            return Err(Error::Fenced(client.instance.clone().unwrap_or_default()));
        }
        let is_gone = client.member.is_some_and(|member| !group.members.contains_key(&member));
        if is_gone && !client.is_lost {
            if self.weather.hears_late() {
                return Ok(None);
            }
            client.is_lost = true;
            client.gained.clear();
            client.revoked = client.owned.clone();
            client.was_told = false;
            if client.revoked.is_empty() {
                client.is_lost = false;
                self.join(id);
                return Ok(None);
            }
        }
        if !client.revoked.is_empty() {
            if std::mem::replace(&mut client.was_told, true) {
                return Ok(None);
            }
            let parts = client.revoked.iter().cloned().collect();
            return Ok(Some(Polled::Revoked { parts, lost: client.is_lost }));
        }
        if client.gained.is_empty() {
            return Ok(None);
        }
        let gained = std::mem::take(&mut client.gained);
        client.owned.extend(gained.iter().cloned());
        Ok(Some(Polled::Assigned(gained.into_iter().collect())))
    }

    /// A client lets go of partitions; when these were all that it had to, it joins again.
    pub(super) fn let_go(&mut self, id: ClientId, parts: &[Part]) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        for part in parts {
            client.owned.remove(part);
            client.revoked.remove(part);
        }
        if client.revoked.is_empty() && std::mem::take(&mut client.was_told) {
            if std::mem::take(&mut client.is_lost) {
                self.join(id);
            } else if let Some(group) = self.groups.get_mut(&client.group) {
                group.is_rebalancing = true;
            }
        }
    }

    /// A client is closed. A static member says nothing, so that it may come back.
    pub(super) fn leave(&mut self, id: ClientId, is_static: bool) {
        let Some(client) = self.clients.remove(&id) else { return };
        if let (Some(member), false) = (client.member, is_static)
            && let Some(group) = self.groups.get_mut(&client.group)
        {
            group.remove(member);
        }
    }

    /// Gives out the next generation of every group whose members have all joined again.
    pub(super) fn rebalance(&mut self) {
        let due = self.groups.iter().filter(|(_, group)| group.is_rebalancing);
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.rebalance_group(&name);
        }
    }

    fn rebalance_group(&mut self, name: &str) {
        let Some(group) = self.groups.get(name) else { return };
        let clients: Vec<Option<&Client>> = group.members.keys().map(|id| self.client_of(name, *id)).collect();
        // One that has to let go of something, or has not heard what it got, or stands still, has not joined again.
        let is_ready = |client: &Client| !client.is_stopped && client.revoked.is_empty() && client.gained.is_empty();
        if !clients.iter().all(|client| client.is_some_and(is_ready)) {
            return;
        }
        let topics: BTreeSet<&Arc<str>> = clients.iter().flatten().flat_map(|client| &client.topics).collect();
        let all: Vec<Part> = topics.into_iter().flat_map(|topic| self.parts_of(topic)).collect();
        let Some(group) = self.groups.get_mut(name) else { return };
        let clients = || self.clients.values().filter(|client| client.group == name);
        for client in clients() {
            if let Some(member) = client.member.and_then(|id| group.members.get_mut(&id)) {
                member.owned = client.owned.clone();
            }
        }
        group.rebalance(&all);
        for client in self.clients.values_mut().filter(|client| client.group == name) {
            let Some(member) = client.member.and_then(|id| group.members.get(&id)) else { continue };
            if self.weather.hears_late() {
                client.next_generation = Some(group.generation);
            } else {
                client.generation = group.generation;
                client.next_generation = None;
            }
            client.revoked = client.owned.difference(&member.assigned).cloned().collect();
            client.gained = member.assigned.difference(&client.owned).cloned().collect();
        }
    }
}
