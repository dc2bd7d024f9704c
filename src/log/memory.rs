//! A log in memory: atomic transactions, group offsets, and failures on demand. For tests of the loop.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Error, Incoming, Log, Outcome, Outgoing, Part, Polled, RestoreEach, Restored, check_start};
use crate::event::Millis;

/// How the next commit goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Aborts,
    /// The outcome is unknown, and it did happen.
    UnknownCommitted,
    /// The outcome is unknown, and it did not happen.
    UnknownLost,
}

/// Topics and group offsets, shared by handle.
#[derive(Debug, Clone, Default)]
pub struct MemoryBroker(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    topics: BTreeMap<Arc<str>, Vec<Vec<Incoming>>>,
    /// With the commit that wrote it.
    committed: BTreeMap<Part, (i64, u64)>,
    commits: u64,
    faults: VecDeque<Fault>,
    now: Millis,
}

impl MemoryBroker {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a topic.
    pub fn create(&self, topic: &str, partitions: i32) {
        self.with(|inner| {
            inner.topics.insert(topic.into(), vec![Vec::new(); partitions.max(1) as usize]);
        });
    }

    /// The time that records written by the loop get.
    pub fn set_now(&self, now: Millis) {
        self.with(|inner| inner.now = now);
    }

    /// Appends a record as a publisher would.
    pub fn publish(&self, topic: &str, partition: i32, timestamp: Millis, key: Option<&[u8]>, value: Option<&[u8]>) {
        let record = Outgoing {
            topic: topic.into(),
            partition: Some(partition),
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            headers: Vec::new(),
        };
        self.with(|inner| inner.append(record, timestamp));
    }

    /// The next commits go wrong, one after the other.
    pub fn fail_commits(&self, faults: &[Fault]) {
        self.with(|inner| inner.faults.extend(faults));
    }

    /// Everything of a topic, by partition, then offset.
    #[must_use]
    pub fn records(&self, topic: &str) -> Vec<Incoming> {
        self.with(|inner| inner.topics.get(topic).map(|parts| parts.concat()).unwrap_or_default())
    }
}

impl Inner {
    fn append(&mut self, record: Outgoing, timestamp: Millis) {
        let Some(parts) = self.topics.get_mut(&record.topic) else { return };
        let by_key =
            || record.key.as_deref().unwrap_or_default().iter().fold(7usize, |h, b| h * 31 % 65_521 + usize::from(*b));
        let partition = record.partition.map_or_else(by_key, |p| p as usize) % parts.len();
        let offset = parts[partition].len() as i64;
        parts[partition].push(Incoming {
            part: Part { topic: record.topic, partition: partition as i32 },
            offset,
            timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        });
    }
}

/// One member that owns every partition of its topics.
#[derive(Debug)]
pub struct MemoryLog {
    broker: MemoryBroker,
    /// Given out by the first poll.
    unassigned: Vec<Part>,
    positions: BTreeMap<Part, i64>,
    pending: Vec<Outgoing>,
    /// How the commit ended of which nobody asked yet.
    ended: Option<Outcome>,
    /// The last commit that was asked for.
    last: u64,
    /// Changelogs being read: next offset, and where each is done.
    restoring: BTreeMap<Part, (i64, i64)>,
    turn: usize,
}

/// Records of one changelog that are handed over at a time.
const RESTORED_MAX: usize = 64;

impl MemoryLog {
    /// A member that reads these topics.
    #[must_use]
    pub fn new(broker: &MemoryBroker, topics: &[String]) -> Self {
        let unassigned = broker.with(|inner| {
            let of = |topic: &String| {
                let topic: Arc<str> = topic.as_str().into();
                let partitions = inner.topics.get(&topic).map_or(0, Vec::len);
                (0..partitions as i32)
                    .map(move |partition| Part { topic: topic.clone(), partition })
                    .collect::<Vec<_>>()
            };
            topics.iter().flat_map(of).collect()
        });
        MemoryLog {
            broker: broker.clone(),
            unassigned,
            positions: BTreeMap::new(),
            pending: Vec::new(),
            ended: None,
            last: 0,
            restoring: BTreeMap::new(),
            turn: 0,
        }
    }
}

impl Log for MemoryLog {
    fn poll(&mut self, _wait: Duration) -> Result<Polled, Error> {
        if !self.unassigned.is_empty() {
            return Ok(Polled::Assigned(std::mem::take(&mut self.unassigned)));
        }
        let parts: Vec<Part> = self.positions.keys().cloned().collect();
        for step in 0..parts.len() {
            let part = &parts[(self.turn + step) % parts.len()];
            let position = self.positions[part];
            let record = self.broker.with(|inner| {
                let of = inner.topics.get(&part.topic).and_then(|parts| parts.get(part.partition as usize));
                of.and_then(|records| records.get(position as usize)).cloned()
            });
            if let Some(record) = record {
                self.turn = (self.turn + step) % parts.len();
                self.positions.insert(part.clone(), position + 1);
                return Ok(Polled::Record(record));
            }
        }
        Ok(Polled::Idle)
    }

    fn assign(&mut self, parts: &[(Part, i64)]) -> Result<(), Error> {
        self.positions.extend(parts.iter().cloned());
        Ok(())
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), Error> {
        parts.iter().for_each(|part| {
            self.positions.remove(part);
        });
        Ok(())
    }

    fn committed(&mut self, parts: &[Part]) -> Result<Vec<Option<i64>>, Error> {
        Ok(self.written(parts)?.into_iter().map(|(offset, _)| offset).collect())
    }

    fn written(&mut self, parts: &[Part]) -> Result<Vec<(Option<i64>, bool)>, Error> {
        let last = self.last;
        Ok(self.broker.with(|inner| {
            let of = |part: &Part| inner.committed.get(part).copied();
            parts
                .iter()
                .map(|part| (of(part).map(|(offset, _)| offset), of(part).is_some_and(|(_, by)| by == last)))
                .collect()
        }))
    }

    fn send(&mut self, record: Outgoing) -> Result<(), Error> {
        self.pending.push(record);
        Ok(())
    }

    fn commit(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        let pending = std::mem::take(&mut self.pending);
        let outcome = self.broker.with(|inner| {
            let fault = inner.faults.pop_front();
            inner.commits += 1;
            self.last = inner.commits;
            if matches!(fault, None | Some(Fault::UnknownCommitted)) {
                let now = inner.now;
                pending.into_iter().for_each(|record| inner.append(record, now));
                let by = inner.commits;
                inner.committed.extend(offsets.iter().map(|(part, offset)| (part.clone(), (*offset, by))));
            }
            let ends = inner.topics.iter().flat_map(|(topic, parts)| {
                let end = |(p, records): (usize, &Vec<Incoming>)| {
                    (Part { topic: topic.clone(), partition: p as i32 }, records.len() as i64)
                };
                parts.iter().enumerate().map(end).collect::<Vec<_>>()
            });
            match fault {
                None => Outcome::Committed(ends.collect()),
                Some(Fault::Aborts) => Outcome::Aborted("asked for".to_owned()),
                Some(Fault::UnknownCommitted | Fault::UnknownLost) => Outcome::Unknown("asked for".to_owned()),
            }
        });
        self.ended = Some(outcome);
        Ok(())
    }

    fn outcome(&mut self, _wait: Duration) -> Result<Option<Outcome>, Error> {
        Ok(self.ended.take())
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.pending.clear();
        Ok(())
    }

    fn recreate(&mut self) -> Result<(), Error> {
        self.pending.clear();
        Ok(())
    }

    fn seek(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        for (part, offset) in offsets {
            self.positions.insert(part.clone(), *offset);
        }
        Ok(())
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, Error> {
        Ok(self.broker.with(|inner| inner.topics.get(topic).map(|parts| parts.len() as i32)))
    }

    fn beginning(&mut self, _part: &Part) -> Result<i64, Error> {
        Ok(0)
    }

    fn lags(&self) -> Vec<(Part, i64)> {
        self.broker.with(|inner| {
            let end = |part: &Part| {
                let of = inner.topics.get(&part.topic).and_then(|parts| parts.get(part.partition as usize));
                of.map_or(0, |records| records.len() as i64)
            };
            self.positions.iter().map(|(part, position)| (part.clone(), end(part) - position)).collect()
        })
    }

    fn heard_end(&self, part: &Part) -> Option<i64> {
        self.broker.with(|inner| {
            let of = inner.topics.get(&part.topic).and_then(|parts| parts.get(part.partition as usize));
            of.map(|records| records.len() as i64)
        })
    }

    fn restore(&mut self, part: &Part, from: i64) -> Result<(), Error> {
        let end = self.broker.with(|inner| {
            let of = inner.topics.get(&part.topic).and_then(|parts| parts.get(part.partition as usize));
            of.map_or(0, Vec::len) as i64
        });
        check_start(part, from, end)?;
        self.restoring.insert(part.clone(), (from.max(0), end));
        Ok(())
    }

    fn restored(&mut self, _wait: Duration, each: &mut RestoreEach<'_>) -> Result<Vec<Restored>, Error> {
        let mut progress = Vec::new();
        for (part, (next, end)) in &mut self.restoring {
            let records: Vec<Incoming> = self.broker.with(|inner| {
                let of = inner.topics.get(&part.topic).and_then(|parts| parts.get(part.partition as usize));
                of.map(|records| records.iter().skip(*next as usize).take(RESTORED_MAX).cloned().collect())
                    .unwrap_or_default()
            });
            for record in records.iter().take_while(|record| record.offset < *end) {
                each(part, record.key.as_deref().unwrap_or_default(), record.value.as_deref())?;
                *next = record.offset + 1;
            }
            progress.push(Restored { part: part.clone(), next: *next, end: *end });
        }
        self.restoring.retain(|_, (next, end)| next < end);
        Ok(progress)
    }

    fn end_restore(&mut self, part: &Part) {
        self.restoring.remove(part);
    }

    fn close(&mut self) {
        self.positions.clear();
    }
}
