//! What happens between a client and the brokers.

use crate::event::Millis;

/// Requests that the weather decides about: those that end a transaction, or put offsets into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    TxnOffsetCommit,
    EndTxn,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// It arrives and is answered.
    Through,
    /// Its connection broke and the client repeated it by itself: the repeat is answered, the first one comes later.
    Repeated {
        /// Milliseconds until then.
        after: Millis,
    },
    /// It arrives, and its answer does not.
    AnswerLost,
    /// It arrives when the client has given up.
    Late {
        /// Milliseconds until then.
        after: Millis,
    },
    /// It never arrives.
    Lost,
}

/// Decides what the network and the brokers do. It must be deterministic.
pub trait Weather: Send {
    fn passage(&mut self, request: Request) -> Passage;

    /// Milliseconds from the end of a transaction until its marker stands in one partition.
    fn marker_delay(&mut self) -> Millis;

    /// Whether a client hears of a change of its group only by its next poll.
    fn hears_late(&mut self) -> bool;
}

/// Nothing goes wrong and everything happens at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Calm;

impl Weather for Calm {
    fn passage(&mut self, _request: Request) -> Passage {
        Passage::Through
    }

    fn marker_delay(&mut self) -> Millis {
        0
    }

    fn hears_late(&mut self) -> bool {
        false
    }
}

/// What a client learns of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused(Refusal),
    /// Nothing within the time allowed: it may have happened, and it may still.
    Silence,
}

/// Why a request was refused, by Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    IllegalGeneration,
    UnknownMemberId,
    FencedInstanceId,
    InvalidTxnState,
    ProducerFenced,
    UnknownTopicOrPartition,
}
