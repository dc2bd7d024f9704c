//! Keys of the state: `kind | length of tenant | tenant | the rest`. Bytes that may never change: kinds are retired,
//! not used again.

use std::fmt;

use smallvec::SmallVec;

use crate::detect::Feature;
use crate::event::{Entity, Millis, Network, Scope, Source};
use crate::topology::Per;
use crate::window::Hashed;

/// The first byte of a key: which row type it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Stream time, and what intake knows of its partition.
    Clock = 1,
    /// One entry of control.
    Control = 2,
    /// Duplicate fingerprints of one commit.
    Seen = 3,
    /// Something that falls due.
    Due = 4,
    /// Sums for the site that were not sent yet.
    Partial = 5,
    /// How far the topic of playbooks was heard, and what began with it.
    Playbooks = 6,
    /// Bad attempts of the last quarter of an hour.
    Traces = 7,
    /// Whom strangers entered in the last quarter of an hour.
    Entrances = 8,
    /// Windows of a source.
    Source = 16,
    /// Windows of a network.
    Network = 17,
    /// A pair that succeeded. (19 was used until row version 2.)
    Pair = 18,
    /// What stands against an entity.
    Standing = 20,
    /// Windows of an account.
    Account = 21,
    /// Long memory of an account.
    Familiar = 22,
    /// A tenant's minute and its incident.
    Site = 23,
    /// A tenant's successes at this task.
    Traffic = 24,
    /// Windows of a device.
    Device = 25,
    /// Windows of a source on an account.
    PairWindows = 26,
    /// Whom a playbook restricted lately.
    Cap = 27,
    /// Sums of what many sources share.
    Trait = 28,
    /// What is usual at a tenant, in an hour of the week or in all of them.
    Usual = 29,
    /// What is usual and what is now of a feature's values.
    Values = 30,
    /// What a source or an account was to an incident.
    Detail = 31,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 23] = [
        Kind::Clock,
        Kind::Control,
        Kind::Seen,
        Kind::Due,
        Kind::Partial,
        Kind::Playbooks,
        Kind::Traces,
        Kind::Entrances,
        Kind::Source,
        Kind::Network,
        Kind::Pair,
        Kind::Standing,
        Kind::Account,
        Kind::Familiar,
        Kind::Site,
        Kind::Traffic,
        Kind::Device,
        Kind::PairWindows,
        Kind::Cap,
        Kind::Trait,
        Kind::Usual,
        Kind::Values,
        Kind::Detail,
    ];

    /// Name for people: `clock`, `pair`.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The kind of a key's first byte.
    #[must_use]
    pub fn of(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Bytes of a key; most fit without an allocation.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(SmallVec<[u8; 36]>);

impl Key {
    /// A key as it was stored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Key(SmallVec::from_slice(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The kind byte; 0 for an empty key.
    #[must_use]
    pub fn kind_byte(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The tenant and what stands behind it; `None` for a key of another layout.
    #[must_use]
    pub fn parts(&self) -> Option<(&str, &[u8])> {
        let (length, rest) = self.0.get(1..)?.split_first()?;
        let (tenant, rest) = rest.split_at_checked(usize::from(*length))?;
        Some((std::str::from_utf8(tenant).ok()?, rest))
    }

    fn of(kind: Kind, tenant: &str, rest: &[u8]) -> Self {
        let mut bytes = SmallVec::new();
        bytes.push(kind as u8);
        // A tenant has at most 63 bytes (`wire::TENANT_BYTES_MAX`).
        bytes.push(tenant.len() as u8);
        bytes.extend_from_slice(tenant.as_bytes());
        bytes.extend_from_slice(rest);
        Key(bytes)
    }

    #[must_use]
    pub fn clock() -> Self {
        Key::of(Kind::Clock, "", &[])
    }

    #[must_use]
    pub fn control(name: &str) -> Self {
        Key::of(Kind::Control, "", name.as_bytes())
    }

    #[must_use]
    pub fn playbooks() -> Self {
        Key::of(Kind::Playbooks, "", &[])
    }

    #[must_use]
    pub fn seen(number: u64) -> Self {
        Key::of(Kind::Seen, "", &number.to_be_bytes())
    }

    /// What falls due at `at`: ordered by time, so a range of them is what is due.
    #[must_use]
    pub fn due(at: Millis, what: &Key) -> Self {
        let mut bytes = SmallVec::new();
        bytes.push(Kind::Due as u8);
        bytes.extend_from_slice(&sortable(at));
        bytes.extend_from_slice(&what.0);
        Key(bytes)
    }

    /// The time and the subject of a due key.
    #[must_use]
    pub fn as_due(&self) -> Option<(Millis, Key)> {
        let (kind, rest) = self.0.split_first()?;
        let (at, what) = rest.split_first_chunk::<8>()?;
        (*kind == Kind::Due as u8).then(|| (unsortable(*at), Key::from_bytes(what)))
    }

    /// The number of a row of fingerprints.
    #[must_use]
    pub fn as_seen(&self) -> Option<u64> {
        let rest = self.0.strip_prefix(&[Kind::Seen as u8, 0])?;
        rest.try_into().ok().map(u64::from_be_bytes)
    }

    #[must_use]
    pub fn traces(number: u64) -> Self {
        Key::of(Kind::Traces, "", &number.to_be_bytes())
    }

    /// The number of a row of traces.
    #[must_use]
    pub fn as_traces(&self) -> Option<u64> {
        let rest = self.0.strip_prefix(&[Kind::Traces as u8, 0])?;
        rest.try_into().ok().map(u64::from_be_bytes)
    }

    #[must_use]
    pub fn entrances(number: u64) -> Self {
        Key::of(Kind::Entrances, "", &number.to_be_bytes())
    }

    /// The number of a row of entrances.
    #[must_use]
    pub fn as_entrances(&self) -> Option<u64> {
        let rest = self.0.strip_prefix(&[Kind::Entrances as u8, 0])?;
        rest.try_into().ok().map(u64::from_be_bytes)
    }

    #[must_use]
    pub fn partial(tenant: &str) -> Self {
        Key::of(Kind::Partial, tenant, &[])
    }

    #[must_use]
    pub fn source(tenant: &str, source: Source) -> Self {
        Key::of(Kind::Source, tenant, &address(source))
    }

    #[must_use]
    pub fn network(tenant: &str, network: Network) -> Self {
        Key::of(Kind::Network, tenant, &address(network.first_source()))
    }

    #[must_use]
    pub fn pair(tenant: &str, source: Source, pair: Hashed) -> Self {
        // The source stands first, so that what is known of one source lies together.
        let mut rest = SmallVec::<[u8; 24]>::from_slice(&address(source));
        rest.extend_from_slice(&pair.to_be_bytes());
        Key::of(Kind::Pair, tenant, &rest)
    }

    #[must_use]
    pub fn standing(entity: &Entity) -> Self {
        Key::standing_of(&entity.tenant, entity.scope, &entity.value)
    }

    #[must_use]
    pub fn standing_of(tenant: &str, scope: Scope, value: &str) -> Self {
        let mut rest = SmallVec::<[u8; 32]>::new();
        rest.push(scope as u8);
        rest.extend_from_slice(value.as_bytes());
        Key::of(Kind::Standing, tenant, &rest)
    }

    /// As [`Key::standing_of`] for a source.
    #[must_use]
    pub fn standing_of_source(tenant: &str, source: Source) -> Self {
        let mut rest = SmallVec::<[u8; 32]>::new();
        rest.push(source.scope() as u8);
        source.write_to(&mut rest);
        Key::of(Kind::Standing, tenant, &rest)
    }

    /// As [`Key::standing_of`] for a network.
    #[must_use]
    pub fn standing_of_network(tenant: &str, network: Network) -> Self {
        let mut rest = SmallVec::<[u8; 32]>::new();
        rest.push(Scope::Cidr as u8);
        network.write_to(&mut rest);
        Key::of(Kind::Standing, tenant, &rest)
    }

    #[must_use]
    pub fn account(tenant: &str, account: Hashed) -> Self {
        Key::of(Kind::Account, tenant, &account.to_be_bytes())
    }

    #[must_use]
    pub fn device(tenant: &str, device: Hashed) -> Self {
        Key::of(Kind::Device, tenant, &device.to_be_bytes())
    }

    #[must_use]
    pub fn pair_windows(tenant: &str, pair: Hashed) -> Self {
        Key::of(Kind::PairWindows, tenant, &pair.to_be_bytes())
    }

    /// Sums of a trait by its hash; 0: of the whole site.
    #[must_use]
    pub fn of_trait(tenant: &str, per: Per, value: Hashed) -> Self {
        let mut rest = SmallVec::<[u8; 16]>::new();
        rest.push(per as u8);
        rest.extend_from_slice(&value.to_be_bytes());
        Key::of(Kind::Trait, tenant, &rest)
    }

    #[must_use]
    pub fn cap(tenant: &str, playbook: &str) -> Self {
        Key::of(Kind::Cap, tenant, playbook.as_bytes())
    }

    #[must_use]
    pub fn traffic(tenant: &str) -> Self {
        Key::of(Kind::Traffic, tenant, &[])
    }

    #[must_use]
    pub fn familiar(tenant: &str, account: Hashed) -> Self {
        Key::of(Kind::Familiar, tenant, &account.to_be_bytes())
    }

    /// What is usual in an hour of the week; `None`: in all of them.
    #[must_use]
    pub fn usual(tenant: &str, hour: Option<u8>) -> Self {
        Key::of(Kind::Usual, tenant, &[hour.unwrap_or(u8::MAX)])
    }

    /// What is usual and what is now of a feature's values.
    #[must_use]
    pub fn values(tenant: &str, feature: Feature) -> Self {
        Key::of(Kind::Values, tenant, feature.as_str().as_bytes())
    }

    /// What a source or an account, by its hash, was to an incident, by its hash.
    #[must_use]
    pub fn detail(tenant: &str, incident: Hashed, who: Hashed) -> Self {
        let mut rest = SmallVec::<[u8; 16]>::from_slice(&incident.to_be_bytes());
        rest.extend_from_slice(&who.to_be_bytes());
        Key::of(Kind::Detail, tenant, &rest)
    }

    #[must_use]
    pub fn site(tenant: &str) -> Self {
        Key::of(Kind::Site, tenant, &[])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

/// Big-endian with the sign flipped, so that bytes sort as numbers do.
fn sortable(at: Millis) -> [u8; 8] {
    ((at as u64) ^ (1 << 63)).to_be_bytes()
}

fn unsortable(bytes: [u8; 8]) -> Millis {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}

fn address(source: Source) -> SmallVec<[u8; 12]> {
    let mut bytes = SmallVec::new();
    match source {
        Source::V4(bits) => {
            bytes.push(4);
            bytes.extend_from_slice(&bits.to_be_bytes());
        }
        Source::V6(bits) => {
            bytes.push(6);
            bytes.extend_from_slice(&bits.to_be_bytes());
        }
    }
    bytes
}
