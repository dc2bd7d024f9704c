//! What stands between a loop and its log in the simulation: crashes and stops at any call, and for the negative proof a
//! client that lacks the defence against KIP-890.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use portcullis::log::model::{Answer, ModelLog};
use portcullis::log::{Error, Log, Outcome, Outgoing, Part, Polled, RestoreEach, Restored};

/// What happens to a worker around a call.
pub trait Fate: Send + Sync {
    /// An error is the end of the worker's process; a stop is over when it returns.
    fn meets(&self, worker: usize) -> Result<(), Error>;

    /// Whether the transaction that is to be committed now is aborted instead.
    fn aborts(&self) -> bool;

    /// Whether a commit under way takes longer still: before its requests go out, or before their answers are heard.
    fn dawdles(&self) -> bool;

    /// For whoever looks into one seed.
    fn hears(&self, worker: usize, what: &dyn Fn() -> String);
}

/// A log that calls the fate before and after every call.
pub struct Meddled {
    pub inner: Box<dyn Log>,
    pub worker: usize,
    pub fate: Arc<dyn Fate>,
    /// A commit that is under way and of which nothing was sent yet.
    pub unsent: Option<Vec<(Part, i64)>>,
    /// How it ended, without the log.
    pub ended: Option<Outcome>,
}

impl Meddled {
    fn around<T: Debug>(
        &mut self,
        what: &dyn Fn() -> String,
        call: impl FnOnce(&mut dyn Log) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.fate.meets(self.worker)?;
        let answer = call(self.inner.as_mut());
        self.fate.hears(self.worker, &|| format!("{} -> {answer:?}", what()));
        self.fate.meets(self.worker)?;
        answer
    }
}

impl Log for Meddled {
    fn poll(&mut self, wait: Duration) -> Result<Polled, Error> {
        self.around(&|| "poll".to_owned(), |log| log.poll(wait))
    }

    fn assign(&mut self, parts: &[(Part, i64)]) -> Result<(), Error> {
        self.around(&|| format!("assign {parts:?}"), |log| log.assign(parts))
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), Error> {
        self.around(&|| format!("release {parts:?}"), |log| log.release(parts))
    }

    fn committed(&mut self, parts: &[Part]) -> Result<Vec<Option<i64>>, Error> {
        self.around(&|| format!("committed {parts:?}"), |log| log.committed(parts))
    }

    fn written(&mut self, parts: &[Part]) -> Result<Vec<(Option<i64>, bool)>, Error> {
        self.around(&|| format!("written {parts:?}"), |log| log.written(parts))
    }

    fn send(&mut self, record: Outgoing) -> Result<(), Error> {
        let place = (Arc::clone(&record.topic), record.partition, record.key.clone());
        self.around(&|| format!("send {place:?}"), |log| log.send(record))
    }

    fn commit(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        if self.fate.aborts() {
            self.around(&|| "abort".to_owned(), |log| log.abort())?;
            self.ended = Some(Outcome::Aborted("by the dice".to_owned()));
            return Ok(());
        }
        if self.fate.dawdles() {
            self.unsent = Some(offsets.to_vec());
            return Ok(());
        }
        self.around(&|| format!("commit {offsets:?}"), |log| log.commit(offsets))
    }

    fn outcome(&mut self, wait: Duration) -> Result<Option<Outcome>, Error> {
        if wait.is_zero() && self.fate.dawdles() {
            return Ok(None);
        }
        if let Some(ended) = self.ended.take() {
            return Ok(Some(ended));
        }
        if let Some(offsets) = self.unsent.take() {
            self.around(&|| format!("commit {offsets:?}, late"), |log| log.commit(&offsets))?;
        }
        self.around(&|| "outcome".to_owned(), |log| log.outcome(wait))
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.around(&|| "abort".to_owned(), |log| log.abort())
    }

    fn recreate(&mut self) -> Result<(), Error> {
        self.around(&|| "recreate".to_owned(), |log| log.recreate())
    }

    fn seek(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        self.around(&|| format!("seek {offsets:?}"), |log| log.seek(offsets))
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, Error> {
        self.inner.partitions(topic)
    }

    fn beginning(&mut self, part: &Part) -> Result<i64, Error> {
        self.around(&|| format!("beginning {part:?}"), |log| log.beginning(part))
    }

    fn heard_end(&self, part: &Part) -> Option<i64> {
        self.inner.heard_end(part)
    }

    fn lags(&self) -> Vec<(Part, i64)> {
        self.inner.lags()
    }

    fn restore(&mut self, part: &Part, from: i64) -> Result<(), Error> {
        self.around(&|| format!("restore {part} from {from}"), |log| log.restore(part, from))
    }

    fn restored(&mut self, wait: Duration, each: &mut RestoreEach<'_>) -> Result<Vec<Restored>, Error> {
        self.around(&|| "restored".to_owned(), |log| log.restored(wait, each))
    }

    fn end_restore(&mut self, part: &Part) {
        self.inner.end_restore(part);
    }

    fn close(&mut self) {
        self.inner.close();
    }
}

/// A client that treats silence as every client without KIP-890 would: it asks the same producer again, and takes "done"
/// for an answer to what it asked.
pub struct Undefended(pub ModelLog, pub Option<Outcome>);

/// How often it asks before it gives up.
const ASKED_MAX: usize = 10;

impl Undefended {
    /// `None`: there was no answer at all.
    fn insist(&mut self, ask: impl Fn(&mut ModelLog) -> Answer) -> Option<Answer> {
        (0..ASKED_MAX).map(|_| ask(&mut self.0)).find(|answer| *answer != Answer::Silence)
    }
}

impl Undefended {
    fn end_with(&mut self, offsets: &[(Part, i64)]) -> Result<Outcome, Error> {
        let unknown = || Ok(Outcome::Unknown("no answer, however often it asked".to_owned()));
        if self.0.failed().is_some() {
            self.abort()?;
            return Ok(Outcome::Aborted("a record was refused".to_owned()));
        }
        match self.insist(|log| log.send_offsets(offsets)) {
            Some(Answer::Done) => {}
            Some(Answer::Refused(_)) => {
                self.abort()?;
                return Ok(Outcome::Aborted("offsets were refused".to_owned()));
            }
            Some(Answer::Silence) | None => return unknown(),
        }
        match self.insist(|log| log.end(true)) {
            Some(Answer::Done) => Ok(Outcome::Committed(self.0.forget())),
            Some(Answer::Refused(_) | Answer::Silence) | None => unknown(),
        }
    }
}

impl Log for Undefended {
    fn commit(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        self.0.begin_commit();
        self.1 = Some(self.end_with(offsets)?);
        Ok(())
    }

    fn outcome(&mut self, _wait: Duration) -> Result<Option<Outcome>, Error> {
        Ok(self.1.take())
    }

    fn abort(&mut self) -> Result<(), Error> {
        match self.insist(|log| log.end(false)) {
            Some(Answer::Done) => {
                self.0.forget();
                Ok(())
            }
            Some(Answer::Refused(_) | Answer::Silence) | None => self.0.recreate(),
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<Polled, Error> {
        self.0.poll(wait)
    }

    fn assign(&mut self, parts: &[(Part, i64)]) -> Result<(), Error> {
        self.0.assign(parts)
    }

    fn release(&mut self, parts: &[Part]) -> Result<(), Error> {
        self.0.release(parts)
    }

    fn committed(&mut self, parts: &[Part]) -> Result<Vec<Option<i64>>, Error> {
        self.0.committed(parts)
    }

    fn written(&mut self, parts: &[Part]) -> Result<Vec<(Option<i64>, bool)>, Error> {
        self.0.written(parts)
    }

    fn send(&mut self, record: Outgoing) -> Result<(), Error> {
        self.0.send(record)
    }

    fn recreate(&mut self) -> Result<(), Error> {
        self.0.recreate()
    }

    fn seek(&mut self, offsets: &[(Part, i64)]) -> Result<(), Error> {
        self.0.seek(offsets)
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, Error> {
        self.0.partitions(topic)
    }

    fn beginning(&mut self, part: &Part) -> Result<i64, Error> {
        self.0.beginning(part)
    }

    fn heard_end(&self, part: &Part) -> Option<i64> {
        self.0.heard_end(part)
    }

    fn lags(&self) -> Vec<(Part, i64)> {
        self.0.lags()
    }

    fn restore(&mut self, part: &Part, from: i64) -> Result<(), Error> {
        self.0.restore(part, from)
    }

    fn restored(&mut self, wait: Duration, each: &mut RestoreEach<'_>) -> Result<Vec<Restored>, Error> {
        self.0.restored(wait, each)
    }

    fn end_restore(&mut self, part: &Part) {
        self.0.end_restore(part);
    }

    fn close(&mut self) {
        self.0.close();
    }
}
