//! A loop as a member of its group: its consumer, what the group has given to it, and under which name.
//!
//! The coordinator takes offsets from whoever names a member that it knows and the present generation; it does not look
//! at who owns the partitions. librdkafka joins again by itself, under a new name, when the group has forgotten it, and
//! where it learns that from the answer to a join, it tells nobody that its partitions are gone (2.12: with the
//! cooperative protocol only another error revokes). Until the next rebalance is through, two members would then commit
//! for the same partition, and both would be believed. So what was given to one name is never committed under another:
//! a member whose name has changed has lost all, and joins as a new consumer that claims nothing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::client::{Names, create, trace_error, trace_line};
use super::options::{KafkaOptions, consumer_config};
use super::{Error, Part, Polled, ffi};

/// Longest wait for a consumer to close.
const CLOSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Member {
    pub(super) consumer: Arc<BaseConsumer<Events>>,
    /// What the group has given to this consumer, and the name that it had then.
    owned: BTreeSet<Part>,
    name: String,
    standing: Standing,
    /// Handed on to the loop, which has not answered yet.
    unanswered: Option<Rebalanced>,
    /// The last field: it waits for the end of the first.
    ending: Ending,
}

/// The name under which a member was given what it has.
pub(super) struct Name {
    consumer: Arc<BaseConsumer<Events>>,
    name: String,
}

impl Name {
    /// Whom a commit is to name; `Err`: nobody, since what is owned was given to a name that is no longer ours, but this.
    pub(super) fn metadata(&self) -> Result<ConsumerGroupMetadata, String> {
        let metadata = self.consumer.group_metadata();
        // Asked for afterwards: a name that is gone does not come back, so the metadata had it as well.
        let now = ffi::member_name(&self.consumer).unwrap_or_default();
        metadata.filter(|_| now == self.name).ok_or(now)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Member,
    /// All is lost, and the loop is to be told.
    Lost,
    /// The loop has been told, and lets go of everything next.
    Told,
}

impl Member {
    /// Joins the group.
    pub(super) fn join(options: &KafkaOptions) -> Result<Member, Error> {
        let context = Events { queue: Mutex::default(), course: AtomicU8::new(ASKED) };
        let consumer: Arc<BaseConsumer<Events>> = Arc::new(create(&consumer_config(options)?, context)?);
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|e| Error::Setup(format!("kafka: {e}")))?;
        Ok(Member {
            consumer,
            owned: BTreeSet::new(),
            name: String::new(),
            standing: Standing::Member,
            unanswered: None,
            ending: Ending::default(),
        })
    }

    /// Begins to read what was assigned, which answers the rebalance.
    pub(super) fn assign(&mut self, parts: &TopicPartitionList) -> Result<(), KafkaError> {
        self.unanswered = None;
        self.consumer.incremental_assign(parts)
    }

    /// Reads no more of what was revoked, which answers the rebalance.
    pub(super) fn unassign(&mut self, parts: &TopicPartitionList) -> Result<(), KafkaError> {
        self.unanswered = None;
        self.consumer.incremental_unassign(parts)
    }

    /// The next change of what is owned.
    pub(super) fn rebalanced(&mut self, names: &mut Names) -> Option<Polled> {
        if self.standing == Standing::Lost {
            self.standing = Standing::Told;
            return Some(Polled::Revoked { parts: self.owned.iter().cloned().collect(), lost: true });
        }
        let event = self.consumer.context().queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        self.unanswered = Some(event.clone());
        let mut named = |parts: Vec<(String, i32)>| -> Vec<Part> {
            parts.into_iter().map(|(topic, partition)| Part { topic: names.get(&topic), partition }).collect()
        };
        Some(match event {
            Rebalanced::Assigned(parts) => {
                let parts = named(parts);
                if self.owned.is_empty() {
                    self.name = ffi::member_name(&self.consumer).unwrap_or_default();
                }
                self.owned.extend(parts.iter().cloned());
                Polled::Assigned(parts)
            }
            Rebalanced::Revoked(parts) => {
                let parts = named(parts);
                self.owned.retain(|part| !parts.contains(part));
                // Under another name it may have been taken away in good order; what was not committed is lost all the same.
                let forgotten = ffi::member_name(&self.consumer).unwrap_or_default() != self.name;
                Polled::Revoked { parts, lost: forgotten || self.consumer.assignment_lost() }
            }
        })
    }

    /// In whose name a commit is made.
    pub(super) fn name(&self) -> Name {
        Name { consumer: Arc::clone(&self.consumer), name: self.name.clone() }
    }

    /// The group knows this member by another name than the one that its partitions were given to. Why nothing can be
    /// committed.
    pub(super) fn is_forgotten(&mut self, now: &str) -> String {
        // Without a name it is about to be told that all is lost, or to get another name.
        if !now.is_empty() {
            self.standing = Standing::Lost;
        }
        format!("the group knows this member as `{now}` and gave its partitions to `{}`", self.name)
    }

    /// The loop has let go of everything that was lost: a new consumer takes the place of this one.
    pub(super) fn join_again(&mut self, options: &KafkaOptions) -> Result<bool, Error> {
        if self.standing != Standing::Told {
            return Ok(false);
        }
        tracing::warn!("the group has forgotten this member; joining anew");
        *self = Member::join(options)?;
        Ok(true)
    }

    /// Says yes to every rebalance that was heard of and not answered: a consumer waits for that when it is closed, for
    /// ever.
    fn answer_all(&mut self) {
        let heard = std::mem::take(&mut *self.consumer.context().queue.lock().unwrap_or_else(PoisonError::into_inner));
        for event in self.unanswered.take().into_iter().chain(heard) {
            let done = match event {
                // With nothing: taking away what was never begun to be read is refused, and then nothing was answered. What
                // is being read ends with the consumer.
                Rebalanced::Assigned(_) => self.consumer.incremental_assign(&TopicPartitionList::new()),
                Rebalanced::Revoked(_) => self.consumer.incremental_unassign(&TopicPartitionList::new()),
            };
            if let Err(error) = done {
                tracing::debug!(%error, "a rebalance while closing");
            }
        }
    }

    /// Nobody asks for rebalances any more: the wrapper polls until the consumer has closed, and would wait for ever on
    /// a revocation that is left to somebody else.
    pub(super) fn leave(&self) {
        self.consumer.context().course.store(LEFT, Ordering::Relaxed);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
        self.answer_all();
        self.ending.begin(Arc::clone(&self.consumer));
    }
}

/// Ends a consumer on a thread of its own, and waits for that only for so long: the wrapper polls until the consumer has
/// closed, and a group that never lets go must not keep a process from ending. Its session ends without it.
#[derive(Default)]
struct Ending {
    begin: Option<Sender<()>>,
    ended: Option<Receiver<()>>,
}

impl Ending {
    fn begin(&mut self, consumer: Arc<BaseConsumer<Events>>) {
        let (begin, begins) = channel::<()>();
        let (ends, ended) = channel::<()>();
        let close = move || {
            // When the member's own hold on it is gone.
            let _gone = begins.recv();
            consumer.context().course.store(CLOSING, Ordering::Relaxed);
            drop(consumer);
            drop(ends);
        };
        match std::thread::Builder::new().name("closing".to_owned()).spawn(close) {
            Ok(_) => (self.begin, self.ended) = (Some(begin), Some(ended)),
            Err(error) => tracing::warn!(%error, "no thread to close a consumer on"),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.begin.take());
        let Some(ended) = self.ended.take() else { return };
        if ended.recv_timeout(CLOSE_MAX) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the group did not let go of this member; its session will end");
        }
    }
}

/// Rebalances, queued for the loop: nothing is done inside the callback.
pub(super) struct Events {
    queue: Mutex<VecDeque<Rebalanced>>,
    /// One of the four that follow.
    course: AtomicU8,
}

/// The loop asks the queue.
const ASKED: u8 = 0;
/// Nobody asks it any more.
const LEFT: u8 = 1;
/// The consumer closes: its group is told to end before the next rebalance is heard of.
const CLOSING: u8 = 2;
/// And one was answered since, with which everything is given up.
const ANSWERED: u8 = 3;

#[derive(Clone)]
enum Rebalanced {
    Assigned(Vec<(String, i32)>),
    Revoked(Vec<(String, i32)>),
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        trace_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition is news for the loop, not an error.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            trace_error(&error, reason);
        }
    }
}

impl ConsumerContext for Events {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let parts = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let is_assign = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let course = self.course.load(Ordering::Relaxed);
        if course == ANSWERED {
            // While it ends, librdkafka (2.12) takes the first answer for all, and there may have been two to give. The second
            // may come to it when it has just ended: then it throws the question away, and whoever asked waits for ever.
            return;
        }
        if course == CLOSING {
            self.course.store(ANSWERED, Ordering::Relaxed);
        }
        if course != ASKED {
            let nothing = TopicPartitionList::new();
            let done =
                if is_assign { consumer.incremental_assign(&nothing) } else { consumer.incremental_unassign(list) };
            if let Err(error) = done {
                tracing::debug!(%error, "unassign while closing");
            }
            return;
        }
        let event = if is_assign { Rebalanced::Assigned(parts) } else { Rebalanced::Revoked(parts) };
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }
}
