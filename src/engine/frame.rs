//! Frames: what internal topics carry. One record holds many items for one partition.
//!
//! Layout: version byte, then per item its length (varint) and its bytes. The lengths make it possible to set one
//! poison item aside and use the rest.

use serde::{Deserialize, Serialize};

use super::io::ControlChange;
use crate::detect::{Profile, Sign, SourceFacts};
use crate::event::{Attempt, Entity, Millis, Reason, Reject, Source};
use crate::topology::{Per, Request};
use crate::window::Hashed;

/// One item of a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Item {
    /// To source.
    Attempt(Box<Attempt>),
    /// To account.
    Sourced(Box<Sourced>),
    /// To account.
    Note(Note),
    /// To site.
    Partial(Box<Partial>),
    /// To every stage behind intake.
    Mark(Mark),
    /// To account: the same attempt for the owner of its device.
    Device(Box<Sourced>),
    /// To the owner of its entity: what a person asks for.
    Request(Box<Request>),
}

/// An attempt with what its source's owner knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sourced {
    pub attempt: Attempt,
    pub facts: SourceFacts,
    /// A failure that repeats the same wrong password of the same pair.
    pub repeat: bool,
}

/// A success that looks different now that its source, or what it shares with an attack, is identified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub tenant: Box<str>,
    pub account: Box<str>,
    pub source: Source,
    pub event_id: Box<str>,
    /// Event time of the success.
    pub at: Millis,
    /// What points to an intruder, and the arrival of what told it.
    pub sign: Sign,
    pub known_at: Millis,
    pub incident_id: Option<Box<str>>,
}

/// Time and control, in the log. `at`: arrival time up to which its sender has seen everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub at: Millis,
    pub changes: Vec<ControlChange>,
}

/// Sums of one task for one tenant since the last partial: never one record per attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Partial {
    pub tenant: Box<str>,
    /// Stream time of its first attempt; all of it lies within one second.
    pub at: Millis,
    pub attempts: u32,
    /// Failures of pairs that are not known; a repeated wrong password counts once.
    pub failures: u32,
    /// Failures of known pairs.
    pub known_failures: u32,
    /// Failures on names that belong to nobody.
    pub unknown: u32,
    pub stopped: u32,
    /// Sources that were refused because they are kept out, each once: one that hammers at its block is no campaign.
    pub refused: u32,
    /// Keyed hashes behind the failures and stopped attempts, each once.
    pub sources: Vec<Hashed>,
    pub accounts: Vec<Hashed>,
    pub unknown_accounts: Vec<Hashed>,
    /// Entities newly restricted, with the playbook.
    pub blocked: Vec<(Entity, Box<str>)>,
    /// When the last of these ends, unless it is prolonged; 0 when there is none.
    pub blocked_until: Millis,
    pub compromised: Vec<Fallen>,
    /// Playbooks whose block was rolled back, once for each entity.
    pub rolled_back: Vec<Box<str>>,
    /// What many sources share, where a playbook watches it.
    pub traits: Vec<TraitSum>,
    /// What was tried with, of every attempt while the tenant is not calm, and of a sample of them while it is.
    pub profiles: Vec<ProfileSum>,
    pub sampled: Vec<ProfileSum>,
    /// Of the attempts: strangers' failures that repeat one, and those of known pairs. They say nothing new of anybody.
    pub repeats: u32,
    pub known_repeats: u32,
}

/// Attempts of one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileSum {
    pub profile: Profile,
    /// Strangers' attempts, what was stopped, and what is counted next.
    pub attempts: u32,
    /// Successes of known pairs, each pair once in a while.
    pub known: u32,
    /// Failures of strangers, and what was stopped.
    pub bad: u32,
}

/// Attempts and failures of one autonomous system, country, agent or fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraitSum {
    pub per: Per,
    pub value: Box<str>,
    pub attempts: u32,
    pub failures: u32,
}

/// An account that fell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallen {
    pub account: Box<str>,
    pub source: Source,
    pub at: Millis,
    pub flagged_at: Millis,
    pub event_id: Box<str>,
}

impl Partial {
    /// A partial is sent when it holds this many attempts, or when its second is over. No list of it holds more than
    /// what these attempts brought, so nothing is left out.
    pub const ATTEMPTS_MAX: u32 = 64;

    #[must_use]
    pub fn new(tenant: &str, at: Millis) -> Self {
        Partial { tenant: tenant.into(), at, ..Partial::default() }
    }

    /// When its second is over and it must go.
    #[must_use]
    pub const fn due_at(&self) -> Millis {
        (self.at.div_euclid(1000).saturating_add(1)).saturating_mul(1000)
    }

    /// Whether it must go before something of stream time `now` is added.
    #[must_use]
    pub const fn is_due(&self, now: Millis) -> bool {
        now >= self.due_at()
    }

    /// Whether it must go now: none of its lists ever grows beyond what one more attempt adds to a full one.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let most = Self::ATTEMPTS_MAX as usize;
        let lists =
            [self.sources.len(), self.accounts.len(), self.blocked.len(), self.compromised.len(), self.profiles.len()];
        // Each roll-back is of a stopped attempt.
        self.attempts.saturating_add(self.stopped) >= Self::ATTEMPTS_MAX || lists.into_iter().any(|len| len >= most)
    }

    /// Takes note of who tried and at whom.
    pub(super) fn note_target(&mut self, source: Hashed, account: Option<Hashed>, is_unknown: bool) {
        remember(&mut self.sources, source);
        if let Some(account) = account {
            remember(&mut self.accounts, account);
            if is_unknown {
                remember(&mut self.unknown_accounts, account);
            }
        }
    }
}

impl Partial {
    /// Adds an attempt to the sums of a trait.
    pub(super) fn add_trait(&mut self, per: Per, value: &str, failed: bool) {
        let place = self.traits.iter().position(|sum| sum.per == per && *sum.value == *value).unwrap_or_else(|| {
            self.traits.push(TraitSum { per, value: value.into(), attempts: 0, failures: 0 });
            self.traits.len() - 1
        });
        if let Some(sum) = self.traits.get_mut(place) {
            sum.attempts += 1;
            sum.failures += u32::from(failed);
        }
    }
}

impl ProfileSum {
    /// Adds an attempt to the sums of its profile.
    pub(super) fn add(sums: &mut Vec<ProfileSum>, profile: Profile, count: u32, is_known: bool, is_bad: bool) {
        let place = sums.iter().position(|sum| sum.profile == profile).unwrap_or_else(|| {
            sums.push(ProfileSum { profile, attempts: 0, known: 0, bad: 0 });
            sums.len() - 1
        });
        if let Some(sum) = sums.get_mut(place) {
            sum.attempts = sum.attempts.saturating_add(count);
            sum.known += u32::from(is_known);
            sum.bad = sum.bad.saturating_add(if is_bad { count } else { 0 });
        }
    }
}

fn remember(list: &mut Vec<Hashed>, value: Hashed) {
    if !list.contains(&value) {
        list.push(value);
    }
}

const VERSION: u8 = 6;
/// Largest frame that is written; the loop starts another one beyond it.
pub const FRAME_BYTES_MAX: usize = 256 << 10;

/// The bytes of one item, as they stand in a frame.
#[must_use]
pub fn item_bytes(item: &Item) -> Vec<u8> {
    // Writing into memory fails only for types that postcard cannot express; items hold none.
    postcard::to_allocvec(item).unwrap_or_default()
}

/// A frame under construction.
#[derive(Debug, Default)]
pub struct FrameWriter {
    bytes: Vec<u8>,
    items: usize,
    /// Bytes of the last frame.
    usual: usize,
    /// The item that is being appended; kept for its memory.
    scratch: Vec<u8>,
}

impl FrameWriter {
    /// Most items of one frame.
    pub const ITEMS_MAX: usize = 100;

    /// Appends an item.
    pub fn push(&mut self, item: &Item) {
        if self.bytes.is_empty() {
            self.bytes.reserve(self.usual);
            self.bytes.push(VERSION);
        }
        self.scratch.clear();
        // As in `item_bytes`, into memory that is kept.
        self.scratch = postcard::to_extend(item, std::mem::take(&mut self.scratch)).unwrap_or_default();
        let mut rest = self.scratch.len();
        while rest >= 0x80 {
            self.bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
        self.bytes.extend_from_slice(&self.scratch);
        self.items += 1;
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Whether the frame should be sent before more is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.items >= Self::ITEMS_MAX || self.bytes.len() >= FRAME_BYTES_MAX
    }

    /// The record value; the writer is empty afterwards.
    #[must_use]
    pub fn finish(&mut self) -> Vec<u8> {
        self.items = 0;
        self.usual = self.bytes.len();
        std::mem::take(&mut self.bytes)
    }
}

/// Reads a frame item by item; an item that does not decode is given as its own error and the next is read.
#[derive(Debug)]
pub struct FrameReader<'a> {
    rest: &'a [u8],
}

impl<'a> FrameReader<'a> {
    /// # Errors
    /// The value is no frame of this version.
    pub fn new(value: &'a [u8]) -> Result<Self, Reject> {
        match value.split_first() {
            Some((&VERSION, rest)) => Ok(FrameReader { rest }),
            Some(_) | None => Err(Reject::new(Reason::BrokenFrame, "not a frame of this version")),
        }
    }
}

impl<'a> Iterator for FrameReader<'a> {
    type Item = Result<Item, (Reject, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut length = 0usize;
        for shift in 0..5 {
            let Some((&byte, rest)) = self.rest.split_first() else { break };
            self.rest = rest;
            length |= usize::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                break;
            }
        }
        if length > self.rest.len() {
            let rest = std::mem::take(&mut self.rest);
            return Some(Err((Reject::new(Reason::BrokenFrame, "an item is longer than its frame"), rest)));
        }
        let (item, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some(postcard::from_bytes(item).map_err(|e| (Reject::new(Reason::BrokenFrame, e.to_string()), item)))
    }
}
