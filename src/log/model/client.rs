//! One client: a member of a group with a transactional producer, behind [`Log`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{Error, Log, Outcome, Outgoing, Part, Polled, RestoreEach, Restored, check_start};
use super::brokers::{Client, Flight};
use super::cluster::ModelCluster;
use super::group::MemberName;
use super::network::{Answer, Refusal, Request};
use super::transaction::{Added, ProducerName};

/// Names a client to [`ModelCluster::stop`].
pub type ClientId = u64;

/// What a client is told.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    pub group: String,
    /// Its transactional id.
    pub member: String,
    pub topics: Vec<String>,
    /// Whether `member` also names it in the group, so that it keeps its place over a restart.
    pub static_membership: bool,
}

/// A client of a [`ModelCluster`]. Dropping it is a crash: it says nothing to anybody.
#[derive(Debug)]
pub struct ModelLog {
    cluster: ModelCluster,
    options: ModelOptions,
    id: ClientId,
    producer: ProducerName,
    transaction: Transaction,
    /// How the commit ended of which nobody asked yet.
    ended: Option<Outcome>,
    /// Commits that were asked for.
    commits: u64,
    /// Partitions being read, with the next offset of each.
    positions: BTreeMap<Part, i64>,
    /// The ends that were last heard of them.
    heard: BTreeMap<Part, i64>,
    /// Changelogs being restored: the next offset, and where each is done.
    restoring: BTreeMap<Part, (i64, i64)>,
    /// How often in a row the producer found itself fenced.
    fenced: u32,
    /// Where the next poll begins to look.
    turn: usize,
}

/// As [`KafkaLog`](super::super::kafka::KafkaLog) has it.
const FENCED_MAX: u32 = 3;

/// Records of one changelog that are handed over at a time.
const RESTORED_MAX: usize = 16;

/// What the client knows of its transaction.
#[derive(Debug, Default)]
struct Transaction {
    parts: BTreeSet<Part>,
    has_offsets: bool,
    /// Why it cannot be committed.
    failed: Option<Refusal>,
    /// After the last record of each partition.
    ends: BTreeMap<Part, i64>,
    /// A request was repeated by the client itself, and the first one may still be under way.
    was_repeated: bool,
}

impl ModelLog {
    /// Connects, ends what an earlier producer of this name left open, and joins the group.
    #[must_use]
    pub fn new(cluster: &ModelCluster, options: ModelOptions) -> Self {
        let (id, producer) = cluster.with(|inner| {
            let producer = inner.init(&options.member);
            let instance = options.static_membership.then(|| options.member.clone());
            let topics = options.topics.iter().map(|topic| topic.as_str().into()).collect();
            let group = options.group.clone();
            let id = inner.register(Client { group, instance, topics, ..Client::default() });
            inner.join(id);
            (id, producer)
        });
        ModelLog {
            cluster: cluster.clone(),
            options,
            id,
            producer,
            transaction: Transaction::default(),
            ended: None,
            commits: 0,
            positions: BTreeMap::new(),
            heard: BTreeMap::new(),
            restoring: BTreeMap::new(),
            fenced: 0,
            turn: 0,
        }
    }

    #[must_use]
    pub const fn id(&self) -> ClientId {
        self.id
    }

    /// What is sent from now on belongs to another commit.
    pub const fn begin_commit(&mut self) {
        self.commits += 1;
    }

    /// Puts offsets into the transaction, as the member that it takes itself for. The request alone: what its answer
    /// means is for the caller to judge.
    pub fn send_offsets(&mut self, offsets: &[(Part, i64)]) -> Answer {
        let group = self.options.group.clone();
        let by = self.producer.clone();
        let (answer, repeated) = self.cluster.with(|inner| {
            let Some(client) = inner.clients.get(&self.id) else { return (Answer::Silence, false) };
            let Some(member) = client.member else { return (Answer::Refused(Refusal::UnknownMemberId), false) };
            let member = MemberName { member, generation: client.generation };
            if let Err(refusal) = inner.add(&by, &Added::Group(&group)) {
                return (Answer::Refused(refusal), false);
            }
            let request =
                Flight::Offsets { by, group, member, offsets: offsets.to_vec(), commit: (self.id, self.commits) };
            inner.call(Request::TxnOffsetCommit, request)
        });
        self.transaction.has_offsets = true;
        self.transaction.was_repeated |= repeated;
        answer
    }

    /// Ends the transaction. The request alone, like [`ModelLog::send_offsets`].
    pub fn end(&mut self, commit: bool) -> Answer {
        if self.transaction.parts.is_empty() && !self.transaction.has_offsets {
            return Answer::Done;
        }
        let by = self.producer.clone();
        let (answer, repeated) = self.cluster.with(|inner| inner.call(Request::EndTxn, Flight::EndTxn { by, commit }));
        self.transaction.was_repeated |= repeated;
        answer
    }

    /// Forgets the transaction that has ended; gives the ends of what it wrote.
    pub fn forget(&mut self) -> Vec<(Part, i64)> {
        std::mem::take(&mut self.transaction).ends.into_iter().collect()
    }

    /// Why the transaction cannot be committed, should a record of it have been refused.
    #[must_use]
    pub const fn failed(&self) -> Option<Refusal> {
        self.transaction.failed
    }

    fn give_up(&mut self, why: Refusal) -> Result<Outcome, Error> {
        self.abort()?;
        Ok(Outcome::Aborted(format!("{why:?}")))
    }

    /// The whole of a commit: offsets, then the end.
    fn end_with(&mut self, offsets: &[(Part, i64)]) -> Result<Outcome, Error> {
        if let Some(why) = self.transaction.failed {
            return self.give_up(why);
        }
        if !offsets.is_empty() {
            match self.send_offsets(offsets) {
                Answer::Done => {}
                Answer::Refused(Refusal::ProducerFenced) => return self.was_fenced(),
                Answer::Refused(why) => return self.give_up(why),
                Answer::Silence => return Ok(Outcome::Unknown("no answer to TxnOffsetCommit".to_owned())),
            }
        }
        match self.end(true) {
            Answer::Done => {
                self.fenced = 0;
                let was_repeated = self.transaction.was_repeated;
                let ends = self.forget();
                if was_repeated {
                    // The first one may still come, and would end the next transaction of this epoch.
                    self.recreate()?;
                }
                Ok(Outcome::Committed(ends))
            }
            Answer::Refused(Refusal::ProducerFenced) => self.was_fenced(),
            Answer::Refused(why) => Ok(Outcome::Unknown(format!("{why:?}"))),
            Answer::Silence => Ok(Outcome::Unknown("no answer to EndTxn".to_owned())),
        }
    }

    /// A transaction that timed out looks like another instance of the same name; but the latter goes on.
    fn was_fenced(&mut self) -> Result<Outcome, Error> {
        if self.fenced >= FENCED_MAX {
            return Err(Error::Fenced(self.options.member.clone()));
        }
        self.fenced += 1;
        Ok(Outcome::Unknown(format!("{:?}", Refusal::ProducerFenced)))
    }

    /// What the background of the client has to tell.
    fn rebalanced(&mut self) -> Result<Option<Polled>, Error> {
        let id = self.id;
        self.cluster.with(|inner| inner.hear_group(id))
    }
}

impl Drop for ModelLog {
    fn drop(&mut self) {
        self.cluster.with(|inner| inner.clients.remove(&self.id));
    }
}

impl Log for ModelLog {
    fn poll(&mut self, _wait: Duration) -> Result<Polled, Error> {
        if let Some(event) = self.rebalanced()? {
            return Ok(event);
        }
        let parts: Vec<Part> = self.positions.keys().cloned().collect();
        for step in 0..parts.len() {
            let at = (self.turn + step) % parts.len();
            let Some(part) = parts.get(at) else { continue };
            let Some(position) = self.positions.get_mut(part) else { continue };
            let (beginning, end, record) = self.cluster.with(|inner| {
                let Some(partition) = inner.partition(part) else { return (0, 0, None) };
                let (record, next) = partition.read(part, *position);
                let beginning = partition.beginning();
                if *position >= beginning {
                    *position = next;
                }
                (beginning, partition.end(), record)
            });
            if *position < beginning {
                return Err(Error::Kafka(format!("{part}: offset {position} is gone, it begins at {beginning}")));
            }
            self.heard.insert(part.clone(), end);
            if let Some(record) = record {
                self.turn = at;
                return Ok(Polled::Record(record));
            }
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(Polled::Idle)
    }

    fn assign(&mut self, parts: &[(Part, i64)]) -> Result<(), Error> {
        self.positions.extend(parts.iter().cloned());
        Ok(())
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), Error> {
        for part in parts {
            self.positions.remove(part);
            self.heard.remove(part);
        }
        let id = self.id;
        self.cluster.with(|inner| inner.let_go(id, parts));
        Ok(())
    }

    fn committed(&mut self, parts: &[Part]) -> Result<Vec<Option<i64>>, Error> {
        let group = self.options.group.clone();
        self.cluster.with(|inner| {
            while inner.groups.get(&group).is_some_and(|group| group.is_unstable(parts)) && inner.wait() {}
            let group = inner.groups.get(&group);
            Ok(parts.iter().map(|part| group.and_then(|group| group.committed(part))).collect())
        })
    }

    fn written(&mut self, parts: &[Part]) -> Result<Vec<(Option<i64>, bool)>, Error> {
        let offsets = self.committed(parts)?;
        let (group, last) = (self.options.group.clone(), (self.id, self.commits));
        let is_ours = |part: &Part| {
            self.cluster.with(|inner| inner.groups.get(&group).and_then(|group| group.written_by(part)) == Some(last))
        };
        Ok(offsets.into_iter().zip(parts.iter().map(is_ours)).collect())
    }

    fn send(&mut self, record: Outgoing) -> Result<(), Error> {
        let by = self.producer.clone();
        let transaction = &mut self.transaction;
        let sent = self.cluster.with(|inner| {
            let part = inner.place(&record).ok_or(Refusal::UnknownTopicOrPartition)?;
            if !transaction.parts.contains(&part) {
                inner.add(&by, &Added::Part(&part))?;
                transaction.parts.insert(part.clone());
            }
            let offset = inner.produce(&by, &part, record)?;
            Ok((part, offset))
        });
        match sent {
            Ok((part, offset)) => {
                transaction.ends.insert(part, offset + 1);
            }
            // It is told when the transaction is to be committed.
            Err(refusal) => {
                transaction.failed.get_or_insert(refusal);
            }
        }
        Ok(())
    }

    fn commit(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        self.begin_commit();
        self.ended = Some(self.end_with(offsets)?);
        Ok(())
    }

    fn outcome(&mut self, _wait: Duration) -> Result<Option<Outcome>, Error> {
        Ok(self.ended.take())
    }

    fn abort(&mut self) -> Result<(), Error> {
        match self.end(false) {
            Answer::Done if !self.transaction.was_repeated => {
                self.forget();
                Ok(())
            }
            // A new producer ends it as well.
            Answer::Done | Answer::Refused(_) | Answer::Silence => self.recreate(),
        }
    }

    fn recreate(&mut self) -> Result<(), Error> {
        self.transaction = Transaction::default();
        self.producer = self.cluster.with(|inner| inner.init(&self.options.member));
        Ok(())
    }

    fn seek(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        self.positions.extend(offsets.iter().cloned());
        Ok(())
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, Error> {
        Ok(self.cluster.with(|inner| inner.partitions(topic)))
    }

    fn beginning(&mut self, part: &Part) -> Result<i64, Error> {
        Ok(self.cluster.with(|inner| inner.partition(part).map_or(0, super::partition::Partition::beginning)))
    }

    fn lags(&self) -> Vec<(Part, i64)> {
        let lag = |(part, end): (&Part, &i64)| Some((part.clone(), (end - self.positions.get(part)?).max(0)));
        self.heard.iter().filter_map(lag).collect()
    }

    fn heard_end(&self, part: &Part) -> Option<i64> {
        self.heard.get(part).copied()
    }

    fn restore(&mut self, part: &Part, from: i64) -> Result<(), Error> {
        let (beginning, end) = self
            .cluster
            .with(|inner| inner.partition(part).map_or((0, 0), |partition| (partition.beginning(), partition.end())));
        check_start(part, from, end)?;
        self.restoring.insert(part.clone(), (from.max(beginning), end));
        Ok(())
    }

    fn restored(&mut self, _wait: Duration, each: &mut RestoreEach<'_>) -> Result<Vec<Restored>, Error> {
        let mut progress = Vec::with_capacity(self.restoring.len());
        for (part, (next, end)) in &mut self.restoring {
            for _ in 0..RESTORED_MAX {
                let record = self.cluster.with(|inner| {
                    let (record, behind) = inner.partition(part)?.read(part, *next);
                    *next = behind;
                    record
                });
                let Some(record) = record.filter(|record| record.offset < *end) else { break };
                each(part, record.key.as_deref().unwrap_or_default(), record.value.as_deref())?;
            }
            *next = (*next).min(*end);
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
        let (id, is_static) = (self.id, self.options.static_membership);
        self.cluster.with(|inner| inner.leave(id, is_static));
    }
}
