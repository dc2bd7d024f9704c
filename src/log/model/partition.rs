//! One partition: records and markers at their offsets, the last stable offset, compaction and retention.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Incoming, Outgoing, Part};
use crate::event::Millis;

/// Names a producer to the brokers, over all its epochs.
pub(super) type ProducerId = u64;

/// What a reader of committed records makes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Visible,
    /// Of a transaction that has not ended.
    Open(ProducerId),
    Aborted,
}

#[derive(Debug, Clone)]
struct Entry {
    offset: i64,
    timestamp: Millis,
    fate: Fate,
    /// `None`: the marker of a transaction.
    data: Option<Data>,
    /// When compaction first met it, should it be a tombstone.
    met_at: Option<Millis>,
}

#[derive(Debug, Clone)]
struct Data {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// In the order of their offsets, of which compaction leaves some out.
    entries: Vec<Entry>,
    first: i64,
    next: i64,
    /// Transactions that have not ended, each with its first offset.
    open: BTreeMap<ProducerId, i64>,
}

impl Partition {
    /// Appends a record; of a transaction when a producer is named. Gives its offset.
    pub(super) fn append(&mut self, record: Outgoing, timestamp: Millis, producer: Option<ProducerId>) -> i64 {
        let data = Data {
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        };
        if let Some(producer) = producer {
            self.open.entry(producer).or_insert(self.next);
        }
        let fate = producer.map_or(Fate::Visible, Fate::Open);
        self.push(timestamp, fate, Some(data))
    }

    /// Ends a transaction here. The marker takes an offset of its own, also where the transaction wrote nothing.
    pub(super) fn mark(&mut self, producer: ProducerId, committed: bool, timestamp: Millis) {
        let fate = if committed { Fate::Visible } else { Fate::Aborted };
        if let Some(from) = self.open.remove(&producer) {
            let at = self.entries.partition_point(|entry| entry.offset < from);
            for entry in self.entries.iter_mut().skip(at).filter(|entry| entry.fate == Fate::Open(producer)) {
                entry.fate = fate;
            }
        }
        self.push(timestamp, fate, None);
    }

    fn push(&mut self, timestamp: Millis, fate: Fate, data: Option<Data>) -> i64 {
        let offset = self.next;
        self.entries.push(Entry { offset, timestamp, fate, data, met_at: None });
        self.next += 1;
        offset
    }

    /// The first offset that is still held.
    pub(super) const fn beginning(&self) -> i64 {
        self.first
    }

    /// The high watermark: the next offset, whatever is open.
    pub(super) const fn end(&self) -> i64 {
        self.next
    }

    /// The last stable offset: from there on a transaction is open.
    pub(super) fn stable_end(&self) -> i64 {
        self.open.values().copied().min().unwrap_or(self.next)
    }

    /// The next committed record at or after `from`, and the position behind what was read. Never passes the last
    /// stable offset; aborted records and markers are passed over.
    pub(super) fn read(&self, part: &Part, from: i64) -> (Option<Incoming>, i64) {
        let stable = self.stable_end();
        let at = self.entries.partition_point(|entry| entry.offset < from);
        let mut below = self.entries.iter().skip(at).take_while(|entry| entry.offset < stable);
        let found = below.find_map(|entry| match (&entry.data, entry.fate) {
            (Some(data), Fate::Visible) => Some(entry.incoming(part, data)),
            (Some(_) | None, Fate::Visible | Fate::Open(_) | Fate::Aborted) => None,
        });
        let position = found.as_ref().map_or(stable, |record| record.offset + 1);
        (found, position.max(from))
    }

    /// Keeps the last value of each key below the last stable offset, removes what was aborted, and removes tombstones
    /// `tombstone_ms` after it first met them.
    pub(super) fn compact(&mut self, now: Millis, tombstone_ms: Millis) {
        let stable = self.stable_end();
        let mut later: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for mut entry in std::mem::take(&mut self.entries).into_iter().rev() {
            let stays = match (&entry.data, entry.fate) {
                _ if entry.offset >= stable => true,
                (Some(data), Fate::Visible) => {
                    let is_last = data.key.as_ref().is_none_or(|key| later.insert(key.clone()));
                    let met_at = *entry.met_at.get_or_insert(now);
                    let is_gone = data.value.is_none() && met_at.saturating_add(tombstone_ms) <= now;
                    is_last && !is_gone
                }
                (Some(_), Fate::Open(_) | Fate::Aborted) | (None, _) => false,
            };
            if stays {
                kept.push(entry);
            }
        }
        kept.reverse();
        self.entries = kept;
    }

    /// Removes what was written before a time, from the front and below the last stable offset.
    pub(super) fn forget_before(&mut self, before: Millis) {
        let stable = self.stable_end();
        let gone = self.entries.iter().take_while(|entry| entry.offset < stable && entry.timestamp < before).count();
        if let Some(last) = gone.checked_sub(1).and_then(|last| self.entries.get(last)) {
            self.first = last.offset + 1;
            self.entries.drain(..gone);
        }
    }
}

impl Entry {
    fn incoming(&self, part: &Part, data: &Data) -> Incoming {
        Incoming {
            part: part.clone(),
            offset: self.offset,
            timestamp: self.timestamp,
            key: data.key.clone(),
            value: data.value.clone(),
            headers: data.headers.clone(),
        }
    }
}

/// Where a record of this key goes, as every Kafka client has it: murmur2, without the sign.
pub(super) fn partition_of(key: &[u8], partitions: usize) -> usize {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (n, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * n);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    ((hash ^ (hash >> 15)) & 0x7fff_ffff) as usize % partitions.max(1)
}
