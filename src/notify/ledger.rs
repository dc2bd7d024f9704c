//! What one destination was told, and what it is to be told next. Pure: the incidents and the time go in, a message or a
//! time comes out. There is no queue of messages: what is told next follows from what was told last and how the
//! incidents stand now, so that whatever waits is merged and nothing of it is lost.
//!
//! ```text
//! Ledger::next ──▶ Next::Send(message) ──▶ sent │ failed ──▶ Ledger::next …
//!        └───────▶ Next::Wait(until)
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::incidents::{Held, Incidents};
use super::message::{ITEMS_MAX, Item, Message};
use super::news::{self, Due, Told};
use crate::event::{IncidentState, Millis, Severity};

/// Messages that may go at once, and after how long each may be followed by one more.
pub const BURST: u32 = 10;
pub const REFILL_MS: Millis = 30_000;
/// What is older than this is no news: an incident of which nothing was told is let be then.
pub const NEWS_AGE_MAX_MS: Millis = 24 * 3_600_000;
/// What was told is remembered for this much longer than anything may be told.
const KEPT_MS: Millis = 2 * NEWS_AGE_MAX_MS;
/// Most incidents that are remembered as told; of what is over the oldest goes first, and nothing older is told any more.
pub const TOLD_MAX: usize = 20_000;
/// The wait after a first failure, doubled with every one in a row, and the longest.
pub const RETRY_MS_MIN: Millis = 1_000;
pub const RETRY_MS_MAX: Millis = 5 * 60_000;
/// Longest wait that a receiver may ask for.
pub const ASKED_MS_MAX: Millis = 15 * 60_000;
/// A message that could not be delivered for this long is made anew, of what is news then.
pub const TRIED_MS_MAX: Millis = 3_600_000;
/// The same after so many refusals of the message itself.
pub const REFUSALS_MAX: u32 = 3;
/// How long what stood in a message that was given up waits before it is told in another one.
pub const HELD_MS: Millis = 20 * 60_000;

/// What a destination is to be told, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The name of the destination.
    pub destination: String,
    /// `None`: every tenant.
    pub tenants: Option<Vec<String>>,
    /// Incidents are told from this severity on, and to their end from then on.
    pub severity: Severity,
    /// See [`news::due`].
    pub digest_ms: Option<Millis>,
    pub burst: u32,
    pub refill_ms: Millis,
    /// Where the console is, for links.
    pub console: Option<String>,
}

/// What one destination was told. What it holds is written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// When it was begun: what was over before that is told to nobody.
    since: Millis,
    told: BTreeMap<String, Told>,
    /// When the allowance is whole again.
    full_at: Millis,
    sending: Option<Sending>,
    /// Incidents whose message was given up, and until when they wait.
    held: BTreeMap<String, Millis>,
}

/// A message on its way. It stays the same until it is delivered or given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sending {
    message: Message,
    /// How the incidents stand once it is delivered.
    after: BTreeMap<String, Told>,
    tries: u32,
    refusals: u32,
    not_before: Millis,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// To be delivered now, and then [`Ledger::sent`] or [`Ledger::failed`].
    Send(Box<Message>),
    /// Nothing before that; `None`: nothing until an incident changes.
    Wait(Option<Millis>),
}

/// What became of a message that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It is tried again at that time.
    Retry(Millis),
    /// It is given up; its news is told in another message.
    GivenUp,
}

impl Ledger {
    /// Whether a message is on its way.
    #[must_use]
    pub const fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// A ledger that begins now.
    #[must_use]
    pub const fn new(since: Millis) -> Self {
        Ledger { since, told: BTreeMap::new(), full_at: Millis::MIN, sending: None, held: BTreeMap::new() }
    }

    /// What is to be done at `now`.
    pub fn next(&mut self, incidents: &Incidents, wish: &Wish, now: Millis) -> Next {
        if let Some(sending) = &self.sending {
            // A clock that was set back makes nobody wait for longer than the longest wait.
            let waits = sending.not_before > now && sending.not_before <= now.saturating_add(ASKED_MS_MAX);
            return if waits {
                Next::Wait(Some(sending.not_before))
            } else {
                Next::Send(Box::new(sending.message.clone()))
            };
        }
        self.forget(incidents, now);
        // Nor is an allowance ever further from whole than when all of it was used just now.
        self.full_at = self.full_at.min(now.saturating_add(full_after(wish)).saturating_add(wish.refill_ms));
        let waiting = self.waiting(incidents, wish, now);
        let ready: Vec<&(&Held, Due)> = waiting.iter().filter(|(_, due)| due.at <= now).collect();
        let allowed = self.allowed(wish, now);
        if ready.is_empty() {
            return Next::Wait(waiting.iter().map(|(_, due)| due.at).min());
        }
        if allowed == 0 {
            return Next::Wait(Some(self.full_at.saturating_sub(full_after(wish))));
        }
        // As long as there is room for a message each, each has one of its own.
        let together = if ready.len() <= allowed { 1 } else { ITEMS_MAX };
        let chosen = ready.into_iter().take(together);
        let mut after = BTreeMap::new();
        let items: Vec<Item> = chosen
            .map(|(held, due)| {
                let incident = &held.incident;
                let told = self.told.get(&incident.incident_id);
                let then = news::after(told, incident, &due.occasions, now);
                after.insert(incident.incident_id.clone(), Told { heard: held.heard, ..then });
                Item::new(incident, told, due.occasions.clone(), held.heard, wish.console.as_deref())
            })
            .collect();
        let message = Message::new(&wish.destination, items, now);
        self.full_at = self.full_at.max(now).saturating_add(wish.refill_ms);
        let sending = Sending { message: message.clone(), after, tries: 0, refusals: 0, not_before: now };
        self.sending = Some(sending);
        Next::Send(Box::new(message))
    }

    /// The message of the last [`next`](Self::next) was taken.
    pub fn sent(&mut self, now: Millis) {
        if let Some(sending) = self.sending.take() {
            for (id, told) in sending.after {
                self.held.remove(&id);
                self.told.insert(id, Told { at: now, ..told });
            }
        }
    }

    /// It was not. `asked` is how long the receiver wants to be let alone; `is_refusal`: the same message will not be
    /// taken later either.
    pub fn failed(&mut self, asked: Option<Millis>, is_refusal: bool, now: Millis) -> Left {
        let Some(sending) = &mut self.sending else { return Left::GivenUp };
        sending.tries = sending.tries.saturating_add(1);
        sending.refusals = sending.refusals.saturating_add(u32::from(is_refusal));
        let is_old = now.saturating_sub(sending.message.at) >= TRIED_MS_MAX;
        if is_old || sending.refusals >= REFUSALS_MAX {
            let hold = if sending.refusals > 0 { HELD_MS } else { RETRY_MS_MAX };
            for id in sending.after.keys() {
                self.held.insert(id.clone(), now.saturating_add(hold));
            }
            self.sending = None;
            return Left::GivenUp;
        }
        let doublings = sending.tries.saturating_sub(1).min(16);
        let backoff = RETRY_MS_MIN.saturating_mul(1 << doublings).min(RETRY_MS_MAX);
        let wait = backoff.max(asked.unwrap_or(0).min(ASKED_MS_MAX));
        sending.not_before = now.saturating_add(wait);
        Left::Retry(sending.not_before)
    }

    /// Incidents of which there is something to tell, whether it may be told already or not, what is on its way included.
    #[must_use]
    pub fn untold(&self, incidents: &Incidents, wish: &Wish, now: Millis) -> usize {
        self.waiting(incidents, wish, now)
            .iter()
            .filter(|(_, due)| !due.occasions.contains(&news::Occasion::Digest))
            .count()
    }

    fn waiting<'a>(&self, incidents: &'a Incidents, wish: &Wish, now: Millis) -> Vec<(&'a Held, Due)> {
        let of = |(id, held): (&str, &'a Held)| {
            let told = self.told.get(id);
            if told.is_none() && !self.is_news(held, wish, now) {
                return None;
            }
            let mut due = news::due(told, &held.incident, wish.digest_ms, now)?;
            if let Some(until) = self.held.get(id) {
                due.at = due.at.max((*until).min(now.saturating_add(HELD_MS)));
            }
            Some((held, due))
        };
        let mut waiting: Vec<(&Held, Due)> = incidents.iter().filter_map(of).collect();
        // Who fell first, then the more severe, then the older.
        waiting.sort_by_key(|(held, due)| {
            let fell = due.occasions.contains(&news::Occasion::Fell);
            (!fell, std::cmp::Reverse(held.incident.severity), held.incident.started_at)
        });
        waiting
    }

    /// Whether an incident of which nothing was told is one to tell of.
    fn is_news(&self, held: &Held, wish: &Wish, now: Millis) -> bool {
        let incident = &held.incident;
        let is_wanted = incident.severity >= wish.severity
            && wish.tenants.as_ref().is_none_or(|tenants| tenants.contains(&incident.tenant));
        let after = now.saturating_sub(NEWS_AGE_MAX_MS);
        let after = if incident.state == IncidentState::Closed { after.max(self.since) } else { after };
        is_wanted && incident.updated_at > after
    }

    /// How many messages may go now.
    fn allowed(&self, wish: &Wish, now: Millis) -> usize {
        let (owed, refill) = (self.full_at.saturating_sub(now).max(0), wish.refill_ms.max(1));
        let used = owed.div_euclid(refill) + i64::from(owed.rem_euclid(refill) > 0);
        usize::try_from(i64::from(wish.burst.max(1)) - used).unwrap_or(0)
    }

    /// Lets go what cannot be told again anyway.
    fn forget(&mut self, incidents: &Incidents, now: Millis) {
        let before = now.saturating_sub(KEPT_MS);
        let is_open = |id: &str| incidents.get(id).is_some_and(|held| held.incident.state == IncidentState::Open);
        self.told.retain(|id, told| told.revision.max(told.at) >= before || is_open(id));
        self.held.retain(|_, until| *until > now);
        while self.told.len() > TOLD_MAX {
            let oldest = self.told.iter().min_by_key(|(_, told)| (!told.is_over, told.revision));
            let Some((id, revision)) = oldest.map(|(id, told)| (id.clone(), told.revision)) else { break };
            self.told.remove(&id);
            self.since = self.since.max(revision);
        }
    }
}

/// How long an allowance of which one message less than all is used needs to be whole again.
fn full_after(wish: &Wish) -> Millis {
    i64::from(wish.burst.max(1) - 1).saturating_mul(wish.refill_ms)
}
