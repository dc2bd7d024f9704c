//! The end of a transaction, on a thread of its own: it takes tens of milliseconds, nearly all of them waiting for brokers,
//! and the loop steps on meanwhile.
//!
//! The wrapper's flush waits in steps of 100 ms, so records are drained here first. And librdkafka retries by itself where
//! a connection breaks, and says nothing of it: whoever began is told when a call took as long as such a retry takes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::util::Timeout;

use super::client::{trace_error, trace_line};
use super::kafka::{ASK_MAX, SEND_MAX};
use super::member::Name;
use super::metric::{Phase, phase};
use super::stage::Clock;
use super::{Error, ffi};

/// What became of records handed to the producer.
#[derive(Default)]
pub(super) struct Deliveries {
    inner: Mutex<Delivered>,
}

#[derive(Default)]
struct Delivered {
    /// After the last record of each changelog partition.
    ends: BTreeMap<(String, i32), i64>,
    failed: Option<String>,
}

impl Deliveries {
    fn with<T>(&self, f: impl FnOnce(&mut Delivered) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The transaction cannot be committed.
    pub(super) fn fail(&self, why: impl FnOnce() -> String) {
        self.with(|inner| {
            inner.failed.get_or_insert_with(why);
        });
    }

    fn has_failed(&self) -> bool {
        self.with(|inner| inner.failed.is_some())
    }

    /// A transaction is over: its changelogs' ends.
    pub(super) fn over(&self) -> BTreeMap<(String, i32), i64> {
        self.with(std::mem::take).ends
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        trace_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        trace_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    /// Whether the record belongs to a changelog.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, is_changelog: usize) {
        match result {
            Ok(message) if is_changelog == 1 => {
                let place = (message.topic().to_owned(), message.partition());
                let end = message.offset() + 1;
                self.with(|inner| {
                    let held = inner.ends.entry(place).or_insert(0);
                    *held = (*held).max(end);
                });
            }
            Ok(_) => {}
            Err((error, message)) => self.fail(|| format!("{}: {error}", message.topic())),
        }
    }
}

/// A transaction that is to end with these offsets.
pub(super) struct Job {
    pub(super) producer: Arc<BaseProducer<Deliveries>>,
    /// In whose name.
    pub(super) name: Name,
    pub(super) offsets: TopicPartitionList,
    /// A call that took so long may have been sent twice.
    pub(super) repeats_after: Option<Duration>,
}

/// How it ended.
pub(super) enum Ended {
    /// Before its end was asked for.
    Failed(String),
    /// The group no longer knows the member by the name under which it was given its partitions; by which one, if any.
    Nameless(String),
    /// Whether a request of it may have been sent twice; or how its end failed.
    Asked(Result<bool, KafkaError>),
}

/// The thread, and at most one job.
pub(super) struct Committer {
    jobs: Sender<Job>,
    answers: Receiver<Ended>,
    is_busy: bool,
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("is_busy", &self.is_busy).finish_non_exhaustive()
    }
}

impl Committer {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let (jobs, to_do) = channel::<Job>();
        let (told, answers) = channel();
        let work = move || {
            while let Ok(job) = to_do.recv() {
                let ended = end(&job, clock.as_ref());
                // Whoever hears the answer may end the producer, and must be the last to hold it.
                drop(job);
                if told.send(ended).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("commits".to_owned())
            .spawn(work)
            .map_err(|e| Error::Setup(format!("no thread for commits: {e}")))?;
        Ok(Committer { jobs, answers, is_busy: false })
    }

    /// Whether a job is under way of which nobody has heard the end.
    pub(super) const fn is_busy(&self) -> bool {
        self.is_busy
    }

    pub(super) fn begin(&mut self, job: Job) -> Result<(), Error> {
        self.is_busy = true;
        self.jobs.send(job).map_err(|_| gone())
    }

    /// How the job under way ended; `None` while it has not, after waiting at most `wait`.
    pub(super) fn ended(&mut self, wait: Duration) -> Result<Option<Ended>, Error> {
        if !self.is_busy {
            return Ok(None);
        }
        // Asked between records, it must not cost a look at the clock.
        let answer = match self.answers.try_recv() {
            Err(TryRecvError::Empty) if !wait.is_zero() => self.answers.recv_timeout(wait),
            Err(TryRecvError::Empty) => Err(RecvTimeoutError::Timeout),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Ok(ended) => Ok(ended),
        };
        match answer {
            Ok(ended) => {
                self.is_busy = false;
                Ok(Some(ended))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

fn gone() -> Error {
    Error::Kafka("the thread of commits is gone; the log above has its words".to_owned())
}

fn end(job: &Job, clock: &dyn Clock) -> Ended {
    let since = clock.elapsed();
    if let Err(why) = drain(&job.producer, clock) {
        return Ended::Failed(why);
    }
    phase(Phase::Drain, clock.elapsed().saturating_sub(since));
    // As late as can be: with a generation that is over nothing is committed.
    match job.name.metadata() {
        Ok(group) => Ended::Asked(offsets_with_commit(job, &group, clock)),
        Err(name) => Ended::Nameless(name),
    }
}

/// Waits until the brokers have everything that was handed over.
fn drain(producer: &BaseProducer<Deliveries>, clock: &dyn Clock) -> Result<(), String> {
    let give_up = clock.elapsed() + SEND_MAX;
    // What is left of a transaction that has failed goes nowhere.
    while producer.in_flight_count() > 0 && !producer.context().has_failed() {
        ffi::nudge(producer);
        producer.poll(Duration::ZERO);
        if clock.elapsed() > give_up {
            return Err(format!("records were not taken within {SEND_MAX:?}"));
        }
    }
    producer.poll(Duration::ZERO);
    let failed = producer.context().with(|inner| inner.failed.take());
    failed.map_or(Ok(()), Err)
}

/// Whether it may have been sent twice.
fn offsets_with_commit(job: &Job, group: &ConsumerGroupMetadata, clock: &dyn Clock) -> Result<bool, KafkaError> {
    let mut since = clock.elapsed();
    let may_be_repeated =
        |since: Duration| job.repeats_after.is_some_and(|after| clock.elapsed().saturating_sub(since) >= after);
    let mut is_repeated = false;
    if job.offsets.count() > 0 {
        job.producer.send_offsets_to_transaction(&job.offsets, group, ASK_MAX)?;
        is_repeated |= may_be_repeated(since);
        phase(Phase::Offsets, clock.elapsed().saturating_sub(since));
        since = clock.elapsed();
    }
    job.producer.commit_transaction(Timeout::Never)?;
    phase(Phase::End, clock.elapsed().saturating_sub(since));
    Ok(is_repeated | may_be_repeated(since))
}
