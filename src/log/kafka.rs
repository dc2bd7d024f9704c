//! [`Log`] over rdkafka: one `BaseConsumer` and one transactional producer, used from one thread, and by [`Committer`] while
//! a commit is under way.
//!
//! Traps of the client are answered here, and one of groups in [`Member`]. An end of partition names no topic, so how far a
//! partition is behind is told by the offsets last heard. librdkafka lacks KIP-890: a transactional call whose outcome is
//! unknown must be followed by [`Log::recreate`], never by a retry. And it retries by itself where a connection breaks, and
//! says nothing of it: a call that took as long as such a retry takes is followed by a new producer as well, or what was
//! sent first might still arrive, and end the transaction that comes next.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{ClientOptions, Names, Traced, create, incoming};
use super::committer::{Committer, Deliveries, Ended, Job};
use super::member::Member;
use super::options::{KafkaOptions, producer_config, restore_config};
use super::stage::Clock;
use super::{Error, Log, Outcome, Outgoing, Part, Polled, RestoreEach, Restored, check_start, ffi};

/// How long the cluster may take to answer a question.
pub(super) const ASK_MAX: Duration = Duration::from_secs(30);
/// How long sending may be held up by a full queue.
pub(super) const SEND_MAX: Duration = Duration::from_secs(60);
/// How long a restore may stand still. Longer than a transaction can hang.
const RESTORE_STILL_MAX: Duration = Duration::from_secs(60);
/// How long restores are read at a time, while other tasks wait.
const RESTORED_FOR: Duration = Duration::from_millis(20);
/// Between two looks at how far restores are: each asks the client's own thread. Asked for `debug` lines, the client writes
/// one each time, which stands before records in its queue; without a pause nothing else would ever come.
const RESTORE_LOOKS: Duration = Duration::from_millis(5);
/// How long an abort waits for the answers to what is under way.
const ANSWERS_MAX: Duration = Duration::from_secs(1);
/// How often in a row a producer may find itself fenced. A transaction that timed out while the process stood still looks
/// the same as another instance with this one's state folder; but the latter goes on.
const FENCED_MAX: u32 = 3;

/// The client.
pub struct KafkaLog {
    options: KafkaOptions,
    clock: Arc<dyn Clock>,
    member: Member,
    producer: Option<Arc<BaseProducer<Deliveries>>>,
    committer: Committer,
    /// A name that no other log has, in this process or any other.
    life: String,
    /// Commits that were asked for.
    commits: u64,
    in_transaction: bool,
    /// A transactional call that took so long may have been sent twice.
    repeats_after: Duration,
    /// How often in a row the producer found itself fenced.
    fenced: u32,
    /// Topics met, so that records of one topic share its name.
    names: Names,
    /// Partitions being read, and the next offset of each.
    next: BTreeMap<Part, i64>,
    /// Those of which something was heard since they were assigned: what was heard before may be of long ago.
    heard: BTreeSet<Part>,
    /// Where the client said that it stood in a partition when it was told to stand elsewhere: it says so until it has
    /// read something from there.
    stood_at: BTreeMap<Part, i64>,
    /// Asks for ends that count open transactions; made when the first task is opened.
    ends: Option<BaseConsumer<Traced>>,
    /// Reads the changelogs of tasks that are being opened; there while there are some.
    restorer: Option<BaseConsumer<Traced>>,
    restoring: BTreeMap<Part, Reading>,
    looked_at: Duration,
    polls: u32,
}

/// How far a changelog was read.
struct Reading {
    next: i64,
    end: i64,
    /// There was something to read, so the restorer knows it.
    is_read: bool,
    /// When to give up, should nothing more come.
    give_up: Duration,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog").field("member", &self.options.member).finish_non_exhaustive()
    }
}

/// How the answer of a transactional call is to be taken.
enum Verdict {
    Abort(String),
    Unknown(String),
    Fenced(String),
}

fn judge(error: &KafkaError) -> Verdict {
    let text = error.to_string();
    let KafkaError::Transaction(cause) = error else { return Verdict::Unknown(text) };
    if matches!(cause.code(), RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced) {
        Verdict::Fenced(text)
    } else if cause.txn_requires_abort() {
        Verdict::Abort(text)
    } else {
        Verdict::Unknown(text)
    }
}

impl KafkaLog {
    /// Connects, ends what an earlier producer of this member left open, and joins the group.
    ///
    /// # Errors
    /// A property is refused, or the cluster does not answer.
    pub fn new(options: KafkaOptions, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let member = Member::join(&options)?;
        let committer = Committer::new(Arc::clone(&clock))?;
        let life = format!("{:016x}", RandomState::new().hash_one(&options.member));
        let mut log = KafkaLog {
            options,
            clock,
            member,
            producer: None,
            committer,
            life,
            commits: 0,
            in_transaction: false,
            repeats_after: Duration::ZERO,
            fenced: 0,
            names: Names::default(),
            next: BTreeMap::new(),
            heard: BTreeSet::new(),
            stood_at: BTreeMap::new(),
            ends: None,
            restorer: None,
            restoring: BTreeMap::new(),
            looked_at: Duration::ZERO,
            polls: 0,
        };
        log.recreate()?;
        Ok(log)
    }

    fn producer(&self) -> Result<&BaseProducer<Deliveries>, Error> {
        self.producer.as_deref().ok_or_else(no_producer)
    }

    fn begin(&mut self) -> Result<(), Error> {
        if !self.in_transaction {
            if let Err(error) = self.producer()?.begin_transaction() {
                tracing::warn!(%error, "no transaction can be begun; a new producer");
                self.recreate()?;
                self.producer()?.begin_transaction().map_err(|e| Error::Kafka(e.to_string()))?;
            }
            self.in_transaction = true;
        }
        Ok(())
    }

    fn part(&mut self, topic: &str, partition: i32) -> Part {
        Part { topic: self.names.get(topic), partition }
    }

    /// Whether a call took so long that librdkafka may have sent its request a second time, by itself and without a
    /// word: it does when a connection breaks. Then the first one may still be under way, and would end the next
    /// transaction in its midst, were it not for a new producer whose epoch refuses it.
    fn may_be_repeated(&self, since: Duration) -> bool {
        self.options.may_abort && self.clock.elapsed().saturating_sub(since) >= self.repeats_after
    }

    /// First and next offset, those of transactions that are still open included: a store restored only up to the last
    /// stable offset would miss what the task's previous owner committed a moment ago.
    fn end_with_open_transactions(&mut self, part: &Part) -> Result<(i64, i64), Error> {
        if self.ends.is_none() {
            self.ends = Some(create(&restore_config(&self.options, "read_uncommitted")?, Traced)?);
        }
        let Some(asker) = &self.ends else { return Ok((0, 0)) };
        asker.fetch_watermarks(&part.topic, part.partition, ASK_MAX).map_err(refused)
    }

    /// Has the restorer read a changelog from where it is.
    fn start_reading(&mut self, part: &Part, from: i64) -> Result<(), Error> {
        let reader = match self.restorer.take() {
            Some(reader) => reader,
            None => create(&restore_config(&self.options, "read_committed")?, Traced)?,
        };
        let started = reader.incremental_assign(&list(&[(part.clone(), from)]).map_err(refused)?);
        self.restorer = Some(reader);
        started.map_err(refused)
    }

    /// Lets go of a changelog, and of the restorer with the last.
    fn stop_reading(&mut self, part: &Part) -> Result<(), Error> {
        let Some(reading) = self.restoring.remove(part) else { return Ok(()) };
        if self.restoring.values().all(|other| !other.is_read) {
            self.restorer = None;
        } else if let Some(reader) = self.restorer.as_ref().filter(|_| reading.is_read) {
            let mut gone = TopicPartitionList::new();
            gone.add_partition(&part.topic, part.partition);
            reader.incremental_unassign(&gone).map_err(refused)?;
        }
        Ok(())
    }

    /// The next record of some partition is gone: which one, and how somebody can decide to go on without.
    fn not_there(&self, error: &KafkaError) -> Error {
        let gone = self.next.iter().filter_map(|(part, next)| {
            let (low, high) = self.member.consumer.fetch_watermarks(&part.topic, part.partition, ASK_MAX).ok()?;
            if *next < low {
                Some(format!(
                    "{part}: the next record to be read is {next}, and the topic begins at {low}: what lies between was \
                     deleted before it was read. To go on without it, start once with: portcullis run --skip-lost-input; \
                     to keep records longer, raise retention.ms of the topic"
                ))
            } else if *next > high {
                let (group, bootstrap) = (&self.options.group, &self.options.client.bootstrap);
                Some(format!(
                    "{part}: the next record to be read is {next}, and the topic ends at {high}: it was made anew, or lost \
                     records. To read what is there, type: kafka-consumer-groups.sh --bootstrap-server {bootstrap} \
                     --group {group} --topic {}:{} --reset-offsets --to-earliest --execute",
                    part.topic, part.partition
                ))
            } else {
                None
            }
        });
        let gone: Vec<String> = gone.collect();
        Error::Kafka(if gone.is_empty() { error.to_string() } else { gone.join("\n") })
    }

    /// Drops what was not sent yet, and waits a little for the answers to what was: an abort by itself would wait for
    /// them without asking. `false`: some did not come.
    fn clear(&self) -> Result<bool, Error> {
        let producer = self.producer()?;
        producer.purge(PurgeConfig::default().queue());
        let give_up = self.clock.elapsed() + ANSWERS_MAX;
        while producer.in_flight_count() > 0 && self.clock.elapsed() < give_up {
            producer.poll(Duration::from_millis(1));
        }
        Ok(producer.in_flight_count() == 0)
    }

    /// Takes note of where the client says that it stands in partitions which are to be read from elsewhere.
    fn stands_elsewhere(&mut self, parts: &[(Part, i64)]) {
        let position = self.member.consumer.position().ok();
        for (part, _) in parts {
            match offset_in(position.as_ref(), part) {
                Some(at) => self.stood_at.insert(part.clone(), at),
                None => self.stood_at.remove(part),
            };
        }
    }

    /// What stands beside the offsets of the last commit, and beside those of no other.
    fn sign(&self) -> String {
        format!("{}-{}", self.life, self.commits)
    }

    fn committed_list(&self, parts: &[Part]) -> Result<TopicPartitionList, Error> {
        let mut asked = TopicPartitionList::new();
        for part in parts {
            asked.add_partition(&part.topic, part.partition);
        }
        self.member.consumer.committed_offsets(asked, ASK_MAX).map_err(refused)
    }

    fn give_up(&mut self, why: String) -> Result<Outcome, Error> {
        // An abort that fails leaves the producer in a state that cannot be repaired; a new one ends it as well.
        self.abort()?;
        Ok(Outcome::Aborted(why))
    }
}

impl Log for KafkaLog {
    fn poll(&mut self, wait: Duration) -> Result<Polled, Error> {
        // Deliveries are heard now and then while records come fast, and whenever there is time.
        self.polls = self.polls.wrapping_add(1);
        let is_time = (!wait.is_zero() || self.polls.is_multiple_of(64)) && !self.committer.is_busy();
        if let Some(producer) = self.producer.as_ref().filter(|_| is_time) {
            producer.poll(Duration::ZERO);
        }
        let found = match self.member.consumer.poll(wait) {
            None => None,
            Some(Ok(message)) => Some(Ok(incoming(&message, &mut self.names))),
            Some(Err(error)) => Some(Err(error)),
        };
        if let Some(event) = self.member.rebalanced(&mut self.names) {
            // A record cannot come with a rebalance: one poll serves one event.
            return Ok(event);
        }
        match found {
            None => Ok(Polled::Idle),
            Some(Ok(record)) => {
                match self.next.get_mut(&record.part) {
                    Some(next) => *next = record.offset + 1,
                    None => return Ok(Polled::Idle),
                }
                if !self.heard.contains(&record.part) {
                    self.heard.insert(record.part.clone());
                }
                Ok(Polled::Record(record))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // It names no topic; what was heard is looked up for each.
                self.heard.extend(self.next.keys().filter(|part| part.partition == partition).cloned());
                Ok(Polled::Idle)
            }
            Some(Err(error)) => match (self.member.consumer.client().fatal_error(), error.rdkafka_error_code()) {
                (Some((code, text)), _) => Err(beyond_repair(code, &text)),
                (None, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)) => {
                    Err(self.not_there(&error))
                }
                (None, _) => poll_failed(&error),
            },
        }
    }

    fn assign(&mut self, parts: &[(Part, i64)]) -> Result<(), Error> {
        self.next.extend(parts.iter().cloned());
        self.member.assign(&list(parts).map_err(refused)?).map_err(refused)?;
        self.stands_elsewhere(parts);
        Ok(())
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), Error> {
        if self.member.join_again(&self.options)? {
            self.next.clear();
            self.heard.clear();
            self.stood_at.clear();
            return Ok(());
        }
        let mut gone = TopicPartitionList::new();
        for part in parts {
            // What was still being opened was never assigned.
            if self.next.remove(part).is_some() {
                gone.add_partition(&part.topic, part.partition);
            }
            self.heard.remove(part);
        }
        // Said even of none: the group waits for the answer to its revocation.
        if parts.is_empty() { Ok(()) } else { self.member.unassign(&gone).map_err(refused) }
    }

    fn committed(&mut self, parts: &[Part]) -> Result<Vec<Option<i64>>, Error> {
        let found = self.committed_list(parts)?;
        Ok(parts.iter().map(|part| offset_in(Some(&found), part)).collect())
    }

    fn written(&mut self, parts: &[Part]) -> Result<Vec<(Option<i64>, bool)>, Error> {
        let (found, sign) = (self.committed_list(parts)?, self.sign());
        let is_ours = |part: &Part| {
            found.find_partition(&part.topic, part.partition).is_some_and(|element| element.metadata() == sign)
        };
        Ok(parts.iter().map(|part| (offset_in(Some(&found), part), is_ours(part))).collect())
    }

    fn send(&mut self, record: Outgoing) -> Result<(), Error> {
        self.begin()?;
        let producer = self.producer()?;
        let is_changelog = usize::from(self.options.changelogs.contains(&*record.topic));
        let give_up = self.clock.elapsed() + SEND_MAX;
        let mut headers = None;
        for (name, value) in &record.headers {
            let so_far: OwnedHeaders = headers.take().unwrap_or_default();
            headers = Some(so_far.insert(Header { key: name, value: Some(value) }));
        }
        let mut outgoing: BaseRecord<'_, [u8], [u8], usize> = BaseRecord::with_opaque_to(&record.topic, is_changelog);
        outgoing.partition = record.partition;
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.value.as_deref();
        outgoing.timestamp = Some(self.clock.now());
        outgoing.headers = headers;
        loop {
            match producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    if self.clock.elapsed() > give_up {
                        return Err(Error::Kafka(format!("no room for a record within {SEND_MAX:?}")));
                    }
                    producer.poll(Duration::from_millis(5));
                    outgoing = back;
                }
                // The transaction has failed already: it will be aborted when it is to be committed.
                Err((error @ KafkaError::MessageProduction(RDKafkaErrorCode::State | RDKafkaErrorCode::Fatal), _)) => {
                    producer.context().fail(|| format!("{}: {error}", record.topic));
                    return Ok(());
                }
                Err((error, _)) => return Err(Error::Kafka(format!("{}: {error}", record.topic))),
            }
        }
    }

    fn commit(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        self.begin()?;
        self.commits += 1;
        let sign = self.sign();
        let offsets = list(offsets).map_err(refused)?;
        for mut element in offsets.elements() {
            element.set_metadata(&sign);
        }
        let Some(producer) = self.producer.clone() else { return Err(no_producer()) };
        let repeats_after = self.options.may_abort.then_some(self.repeats_after);
        self.committer.begin(Job { producer, name: self.member.name(), offsets, repeats_after })
    }

    fn outcome(&mut self, wait: Duration) -> Result<Option<Outcome>, Error> {
        let ended = match self.committer.ended(wait)? {
            None => return Ok(None),
            Some(Ended::Asked(ended)) => ended,
            Some(Ended::Failed(why)) => return self.give_up(why).map(Some),
            Some(Ended::Nameless(now)) => {
                let why = self.member.is_forgotten(&now);
                return self.give_up(why).map(Some);
            }
        };
        Ok(Some(match ended {
            Ok(is_repeated) => {
                self.in_transaction = false;
                self.fenced = 0;
                let ends = self.producer()?.context().over();
                if is_repeated {
                    tracing::info!("a commit took long, its end may have been sent twice; a new producer");
                    self.recreate()?;
                }
                let ends = ends.into_iter().map(|((topic, partition), end)| (self.part(&topic, partition), end));
                Outcome::Committed(ends.collect())
            }
            Err(error) => match judge(&error) {
                Verdict::Abort(why) => self.give_up(why)?,
                Verdict::Unknown(why) => Outcome::Unknown(why),
                Verdict::Fenced(why) if self.fenced >= FENCED_MAX => return Err(Error::Fenced(why)),
                Verdict::Fenced(why) => {
                    self.fenced += 1;
                    Outcome::Unknown(why)
                }
            },
        }))
    }

    fn abort(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.in_transaction) {
            return Ok(());
        }
        if !self.options.may_abort {
            return Err(Error::Kafka("a transaction had to be aborted, which this cluster cannot do".to_owned()));
        }
        if !self.clear()? {
            // What is on its way to a broker that does not answer cannot be waited for; a new producer ends it as well.
            return self.recreate();
        }
        let since = self.clock.elapsed();
        let aborted = self.producer()?.abort_transaction(ASK_MAX);
        if let Some(producer) = &self.producer {
            producer.context().over();
        }
        match aborted {
            Ok(()) if self.may_be_repeated(since) => self.recreate(),
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "abort failed; a new producer ends the transaction");
                self.recreate()
            }
        }
    }

    fn recreate(&mut self) -> Result<(), Error> {
        self.in_transaction = false;
        // The old one must be gone before the new one fences it, or it might still send.
        self.producer = None;
        let config = producer_config(&self.options)?;
        // A tenth less than the shortest wait, which is a fifth less than what is set.
        let retry_ms = config.get("retry.backoff.ms").and_then(|ms| ms.parse::<u64>().ok()).unwrap_or(0);
        self.repeats_after = Duration::from_millis(retry_ms * 7 / 10);
        let producer: BaseProducer<Deliveries> = create(&config, Deliveries::default())?;
        producer.init_transactions(SEND_MAX).map_err(|e| Error::Kafka(format!("init_transactions: {e}")))?;
        self.producer = Some(Arc::new(producer));
        Ok(())
    }

    fn seek(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        for (part, offset) in offsets {
            self.next.insert(part.clone(), *offset);
        }
        if offsets.is_empty() {
            return Ok(());
        }
        self.stands_elsewhere(offsets);
        let done = self.member.consumer.seek_partitions(list(offsets).map_err(refused)?, ASK_MAX).map_err(refused)?;
        done.elements().iter().try_for_each(|element| element.error().map_err(refused))
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, Error> {
        let metadata = self.member.consumer.fetch_metadata(Some(topic), ASK_MAX).map_err(refused)?;
        let count =
            metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none()).map(|t| t.partitions().len());
        Ok(count.filter(|n| *n > 0).and_then(|n| i32::try_from(n).ok()))
    }

    fn beginning(&mut self, part: &Part) -> Result<i64, Error> {
        let offsets = self.member.consumer.fetch_watermarks(&part.topic, part.partition, ASK_MAX).map_err(refused)?;
        Ok(offsets.0)
    }

    fn lags(&self) -> Vec<(Part, i64)> {
        let position = self.member.consumer.position().ok();
        let lag = |part: &Part, next: i64| {
            let (_, high) = ffi::heard_offsets(&self.member.consumer, &part.topic, part.partition)?;
            // An end before where reading goes on is one of an earlier assignment. Taken for the end, it would cut a replay
            // short: that a partition of this number is at its end may have been said of another topic's.
            if high < next {
                return None;
            }
            let position = offset_in(position.as_ref(), part).filter(|at| self.stood_at.get(part) != Some(at));
            Some((part.clone(), (high - position.map_or(next, |at| at.max(next))).max(0)))
        };
        let heard = self.next.iter().filter(|(part, _)| self.heard.contains(*part));
        heard.filter_map(|(part, next)| lag(part, *next)).collect()
    }

    fn heard_end(&self, part: &Part) -> Option<i64> {
        ffi::heard_offsets(&self.member.consumer, &part.topic, part.partition).map(|(_, high)| high)
    }

    fn restore(&mut self, part: &Part, from: i64) -> Result<(), Error> {
        let (low, high) = self.end_with_open_transactions(part)?;
        check_start(part, from, high)?;
        let next = from.max(low);
        let is_read = next < high;
        if is_read {
            self.start_reading(part, next)?;
        }
        let give_up = self.clock.elapsed() + RESTORE_STILL_MAX;
        self.restoring.insert(part.clone(), Reading { next, end: high, is_read, give_up });
        Ok(())
    }

    fn restored(&mut self, wait: Duration, each: &mut RestoreEach<'_>) -> Result<Vec<Restored>, Error> {
        let until = self.clock.elapsed() + RESTORED_FOR;
        let mut wait = wait;
        while let Some(answer) = self.restorer.as_ref().and_then(|reader| reader.poll(wait)) {
            wait = Duration::ZERO;
            match answer {
                Ok(message) => {
                    let part = Part { topic: self.names.get(message.topic()), partition: message.partition() };
                    let Some(reading) = self.restoring.get_mut(&part) else { continue };
                    if message.offset() < reading.end && message.offset() >= reading.next {
                        each(&part, message.key().unwrap_or_default(), message.payload())?;
                        reading.next = message.offset() + 1;
                    }
                    reading.give_up = until + RESTORE_STILL_MAX;
                }
                Err(KafkaError::PartitionEOF(_)) => {}
                // Only a broker that stays away ends it.
                Err(error) if is_away(&error) => {}
                Err(error) => return Err(Error::Kafka(format!("restoring: {error}"))),
            }
            if self.clock.elapsed() > until {
                break;
            }
        }
        // Markers of transactions move the position and are not handed over.
        let now = self.clock.elapsed();
        let is_time = now.saturating_sub(self.looked_at) >= RESTORE_LOOKS;
        let position = self.restorer.as_ref().filter(|_| is_time).and_then(|reader| reader.position().ok());
        if is_time {
            self.looked_at = now;
        }
        let mut progress = Vec::with_capacity(self.restoring.len());
        for (part, reading) in &mut self.restoring {
            reading.next = stands_at(position.as_ref(), part, reading.next).min(reading.end);
            if reading.next < reading.end && now > reading.give_up {
                return Err(Error::Kafka(format!(
                    "restoring {part}: nothing was read for {RESTORE_STILL_MAX:?} before offset {}; is a transaction left \
                     open on it? (kafka-transactions.sh find-hanging)",
                    reading.end
                )));
            }
            progress.push(Restored { part: part.clone(), next: reading.next, end: reading.end });
        }
        // A list of positions holds on to its client, which could not end before it.
        drop(position);
        for done in progress.iter().filter(|restored| restored.is_done()) {
            self.stop_reading(&done.part)?;
        }
        Ok(progress)
    }

    fn end_restore(&mut self, part: &Part) {
        if let Err(error) = self.stop_reading(part) {
            tracing::warn!(%part, %error, "restore did not end");
        }
    }

    fn close(&mut self) {
        self.member.leave();
        if !self.options.membership.is_static {
            self.member.consumer.unsubscribe();
        }
    }
}

/// What a client ended with.
fn beyond_repair(code: RDKafkaErrorCode, text: &str) -> Error {
    const FENCED: [RDKafkaErrorCode; 2] = [RDKafkaErrorCode::FencedInstanceId, RDKafkaErrorCode::UnreleasedInstanceId];
    const OLD: [RDKafkaErrorCode; 2] = [RDKafkaErrorCode::UnsupportedVersion, RDKafkaErrorCode::UnsupportedFeature];
    if FENCED.contains(&code) {
        Error::Fenced(text.to_owned())
    } else if OLD.contains(&code) {
        Error::Setup(format!(
            "the broker does not offer group_protocol consumer (KIP-848; Kafka 4.0 has it, with the feature group.version \
             at 1): {text}\nset group_protocol: classic, or type: kafka-features.sh upgrade --feature group.version=1"
        ))
    } else if code == RDKafkaErrorCode::UnsupportedAssignor {
        Error::Setup(format!(
            "the broker does not offer the assignor `uniform`: {text}\nadd it to group.consumer.assignors of the broker, \
             or set group_protocol: classic"
        ))
    } else if code == RDKafkaErrorCode::GroupAuthorizationFailed {
        Error::Setup(format!("{text}: grant what `portcullis topics acls --role run` lists"))
    } else {
        Error::Kafka(format!("the client is beyond repair: {text}"))
    }
}

/// An answer of polling that is no record: most are over by the next poll.
fn poll_failed(error: &KafkaError) -> Result<Polled, Error> {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
            Err(Error::Kafka(format!("{error}: grant what `portcullis topics acls` lists")))
        }
        Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId) => Err(Error::Fenced(error.to_string())),
        // The client tells it by itself, and here it comes once for every partition.
        Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure) => Ok(Polled::Idle),
        Some(_) | None => {
            tracing::warn!(%error, "kafka: poll");
            Ok(Polled::Idle)
        }
    }
}

/// Whether nobody answers for now.
fn is_away(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve
        )
    )
}

fn no_producer() -> Error {
    Error::Kafka("the producer is gone".to_owned())
}

/// Where reading of a partition stands, passed markers included.
fn stands_at(position: Option<&TopicPartitionList>, part: &Part, next: i64) -> i64 {
    offset_in(position, part).map_or(next, |offset| offset.max(next))
}

fn offset_in(list: Option<&TopicPartitionList>, part: &Part) -> Option<i64> {
    match list?.find_partition(&part.topic, part.partition)?.offset() {
        Offset::Offset(offset) => Some(offset),
        Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
    }
}

fn refused(error: KafkaError) -> Error {
    Error::Kafka(error.to_string())
}

fn list(offsets: &[(Part, i64)]) -> Result<TopicPartitionList, KafkaError> {
    let mut all = TopicPartitionList::with_capacity(offsets.len());
    for (part, offset) in offsets {
        all.add_partition_offset(&part.topic, part.partition, Offset::Offset(*offset))?;
    }
    Ok(all)
}

/// Partitions of every topic of a cluster, by name.
///
/// # Errors
/// The cluster does not answer.
pub fn topic_partitions(client: &ClientOptions) -> Result<BTreeMap<String, i32>, Error> {
    let reader: BaseConsumer<Traced> = create(&client.config(&[], &[])?, Traced)?;
    let metadata = reader.fetch_metadata(None, ASK_MAX).map_err(|e| {
        Error::Kafka(format!("{e}: no answer from {}; is the address right, and is the broker up?", client.bootstrap))
    })?;
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    // A topic that carries an error has no list of partitions to look at.
    let fine = metadata.topics().iter().filter(|topic| topic.error().is_none());
    Ok(fine.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect())
}
