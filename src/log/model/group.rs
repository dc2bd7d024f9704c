//! A classic consumer group with cooperative rebalances: members, generations, and offsets that wait for a marker.
//!
//! ```text
//!                 somebody joins, leaves, expires, or has let go
//!   stable ──────────────────────────────────────────────────▶ rebalancing
//!     ▲                                                            │ every member has joined again:
//!     └──── next generation: each keeps what it may, surplus is ◀──┘ not while it owes an answer or is stopped
//!           taken away now and given to another one in the next
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::super::Part;
use super::client::ClientId;
use super::network::Refusal;
use super::partition::ProducerId;
use crate::event::Millis;

pub(super) type MemberId = u64;
/// A client, and which of its commits.
pub(super) type CommitName = (ClientId, u64);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<String>,
    /// What it held when it joined last.
    pub(super) owned: BTreeSet<Part>,
    /// What the present generation gives it.
    pub(super) assigned: BTreeSet<Part>,
    /// When it was last heard.
    pub(super) heard_at: Millis,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) generation: i32,
    pub(super) members: BTreeMap<MemberId, Member>,
    /// Former ids of static members, which somebody else has taken over.
    fenced: BTreeSet<MemberId>,
    pub(super) is_rebalancing: bool,
    offsets: BTreeMap<Part, i64>,
    /// The commit that wrote each: what Kafka keeps as the metadata of an offset.
    written_by: BTreeMap<Part, CommitName>,
    /// Offsets of transactions whose marker has not come.
    pending: BTreeMap<ProducerId, BTreeMap<Part, (i64, CommitName)>>,
    members_so_far: MemberId,
}

/// How a member names itself when it commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberName {
    pub(super) member: MemberId,
    pub(super) generation: i32,
}

impl Group {
    /// A client joins. A static member that comes back takes its former self's place and partitions, and fences it;
    /// then there is nothing to rebalance.
    pub(super) fn join(&mut self, instance: Option<&str>, now: Millis) -> MemberId {
        self.members_so_far += 1;
        let id = self.members_so_far;
        let former =
            self.members.iter().find(|(_, member)| instance.is_some() && member.instance.as_deref() == instance);
        let former = former.map(|(former, _)| *former);
        let assigned = match former.and_then(|former| Some((former, self.members.remove(&former)?))) {
            Some((former, member)) => {
                self.fenced.insert(former);
                // What it had to let go of, and never said that it did, nobody would be given.
                self.is_rebalancing |= !member.owned.is_subset(&member.assigned);
                member.assigned
            }
            None => {
                self.is_rebalancing = true;
                BTreeSet::new()
            }
        };
        let owned = assigned.clone();
        self.members.insert(id, Member { instance: instance.map(str::to_owned), owned, assigned, heard_at: now });
        id
    }

    pub(super) fn is_fenced(&self, member: MemberId) -> bool {
        self.fenced.contains(&member)
    }

    /// A member is gone, by its own word or because nothing was heard of it.
    pub(super) fn remove(&mut self, member: MemberId) {
        self.is_rebalancing |= self.members.remove(&member).is_some();
    }

    /// Everybody has joined: the next generation.
    pub(super) fn rebalance(&mut self, all: &[Part]) {
        self.is_rebalancing = false;
        self.generation += 1;
        let held: BTreeSet<&Part> = self.members.values().flat_map(|member| &member.owned).collect();
        let mut free: Vec<Part> = all.iter().filter(|part| !held.contains(part)).cloned().collect();
        let (n, members) = (all.len(), self.members.len().max(1));
        // The first so many may have one more than the others.
        let mut room_for_more = n % members;
        for member in self.members.values_mut() {
            let mut quota = n / members;
            if member.owned.len() > quota && room_for_more > 0 {
                room_for_more -= 1;
                quota += 1;
            }
            member.assigned = member.owned.iter().take(quota).cloned().collect();
        }
        while let Some(part) = free.pop() {
            let Some(poorest) = self.members.values_mut().min_by_key(|member| member.assigned.len()) else { break };
            poorest.assigned.insert(part);
        }
    }

    /// TxnOffsetCommit: the member must be of this generation. Whether it rebalances just now is not asked.
    pub(super) fn put(
        &mut self,
        producer: ProducerId,
        by: MemberName,
        offsets: &[(Part, i64)],
        commit: CommitName,
    ) -> Result<(), Refusal> {
        if self.is_fenced(by.member) {
            return Err(Refusal::FencedInstanceId);
        }
        if !self.members.contains_key(&by.member) {
            return Err(Refusal::UnknownMemberId);
        }
        if by.generation != self.generation {
            return Err(Refusal::IllegalGeneration);
        }
        let pending = offsets.iter().map(|(part, offset)| (part.clone(), (*offset, commit)));
        self.pending.entry(producer).or_default().extend(pending);
        Ok(())
    }

    /// The marker of a transaction.
    pub(super) fn mark(&mut self, producer: ProducerId, committed: bool) {
        let offsets = self.pending.remove(&producer).unwrap_or_default();
        if committed {
            for (part, (offset, commit)) in offsets {
                self.offsets.insert(part.clone(), offset);
                self.written_by.insert(part, commit);
            }
        }
    }

    /// Whether a transaction that is open could still change the offset of one of these.
    pub(super) fn is_unstable(&self, parts: &[Part]) -> bool {
        self.pending.values().any(|pending| parts.iter().any(|part| pending.contains_key(part)))
    }

    pub(super) fn committed(&self, part: &Part) -> Option<i64> {
        self.offsets.get(part).copied()
    }

    pub(super) fn written_by(&self, part: &Part) -> Option<CommitName> {
        self.written_by.get(part).copied()
    }

    /// Every offset that was ever committed.
    pub(super) const fn offsets(&self) -> &BTreeMap<Part, i64> {
        &self.offsets
    }
}
