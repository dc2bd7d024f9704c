//! Known pairs for the outside: what the topic `known-pairs` tells a check route, which has no state of the stages.
//!
//! A record's key is the [`pair_key`] of an account and where it logged in from; its value is the day of the last
//! success, days since 1970 as four bytes, big-endian; no value takes it back. Written when a pair becomes known and
//! then on each day of a success, at most once a day for an address, and never for what was learnt in the midst of an attack
//! before its time. Nobody learns a name from it: keys are hashed under the key of the installation.

use crate::event::{Attempt, Millis, Source};
use crate::window::HashKey;

use super::env::source_bytes;

const DAY_MS: Millis = 86_400_000;
/// Keeps these hashes apart from those of the state.
const DOMAIN: u8 = 11;

/// What somebody logged in from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy<'a> {
    Source(Source),
    /// The publisher's `device_id`.
    Device(&'a str),
}

/// The key of an account (in canonical form) and where it logged in from. Its bytes are big-endian in a record.
#[must_use]
pub fn pair_key(key: &HashKey, tenant: &str, account: &str, by: KnownBy<'_>) -> u128 {
    let (tenant, account) = (tenant.as_bytes(), account.as_bytes());
    match by {
        KnownBy::Source(source) => key.hash_wide(DOMAIN, &[tenant, account, b"source", &source_bytes(source)]),
        KnownBy::Device(device) => key.hash_wide(DOMAIN, &[tenant, account, b"device", device.as_bytes()]),
    }
}

/// A record of the topic `known-pairs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPair {
    pub key: u128,
    /// Days since 1970; `None` takes it back.
    pub day: Option<i32>,
}

impl KnownPair {
    /// What a success of `now` makes known.
    pub(super) fn learnt(key: &HashKey, a: &Attempt, now: Millis) -> impl Iterator<Item = KnownPair> {
        keys_of(key, a).map(move |key| KnownPair { key, day: Some(day_of(now)) })
    }

    #[must_use]
    pub const fn taken_back(key: u128) -> KnownPair {
        KnownPair { key, day: None }
    }

    /// The record's value.
    #[must_use]
    pub fn value(&self) -> Option<[u8; 4]> {
        self.day.map(i32::to_be_bytes)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// A key that has not sixteen bytes, or a value that has not four.
    pub fn of_record(key: &[u8], value: Option<&[u8]>) -> Result<KnownPair, String> {
        let key: [u8; 16] = key.try_into().map_err(|_| format!("a key of {} bytes, not 16", key.len()))?;
        let day = value.map(|value| {
            <[u8; 4]>::try_from(value).map_err(|_| format!("a value of {} bytes, not 4 (a day)", value.len()))
        });
        Ok(KnownPair { key: u128::from_be_bytes(key), day: day.transpose()?.map(i32::from_be_bytes) })
    }
}

/// Keys that a success of this attempt makes known.
pub(super) fn keys_of(key: &HashKey, a: &Attempt) -> impl Iterator<Item = u128> {
    let by = [Some(KnownBy::Source(a.source)), a.device_id.as_deref().map(KnownBy::Device)];
    by.into_iter().flatten().map(|by| pair_key(key, &a.tenant, &a.account, by))
}

/// The day of a time: days since 1970.
#[must_use]
pub fn day_of(at: Millis) -> i32 {
    // Within i32 for any time that a record may bear (`wire` bounds it).
    i32::try_from(at.div_euclid(DAY_MS)).unwrap_or(i32::MAX)
}
