//! What the server knows: the blocklist, who is exempt, the attack status of each tenant, and known pairs.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::KnownPairs;
use crate::edge::{Desired, ENTRY_BYTES_MAX, Expansion, Refusal, Standing, Taken, Tenants};
use crate::engine::{KnownPair, day_of};
use crate::event::wire::decode_output;
use crate::event::{AttackStatus, BlocklistEntry, Exemption, Millis, Scope, Source, split_key};
use crate::topology::exemptions::{Exemptions, is_tenant, prefix_of};
use crate::topology::networks::Networks;

/// Most tenants whose attack status is held.
pub const STATUSES_MAX: usize = 10_000;
/// Longest record of `attack-status`, in bytes.
const STATUS_BYTES_MAX: usize = 256 << 10;

/// What a record changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Nothing,
    /// What is held, or remembered as lifted, of this record's key.
    Entry,
    /// Who is exempt, so any entry may stand otherwise now.
    Exemptions,
}

/// Everything that questions are answered from.
#[derive(Debug)]
pub struct Lists {
    desired: Desired,
    statuses: BTreeMap<Box<str>, AttackStatus>,
    known: KnownPairs,
    /// Bit n: a range of this length was held at some time, and has to be looked up. IPv4, then IPv6.
    lengths: [u128; 2],
    tenant: Option<Box<str>>,
    /// Records of `exemptions`, `attack-status` and `known-pairs` that could not be used.
    records_refused: u64,
}

impl Lists {
    /// Those of one tenant, or of all.
    #[must_use]
    pub fn new(tenant: Option<&str>, exemptions: Exemptions) -> Self {
        let tenants = tenant.map_or(Tenants::All, |tenant| Tenants::One(tenant.into()));
        Lists {
            desired: Desired::new(tenants, exemptions),
            statuses: BTreeMap::new(),
            known: KnownPairs::default(),
            lengths: [0; 2],
            tenant: tenant.map(Into::into),
            records_refused: 0,
        }
    }

    /// Takes one record of `blocklist`; `generation` is the header of a tombstone.
    pub fn block(&mut self, key: &[u8], value: Option<&[u8]>, generation: Option<i64>) -> Told {
        let taken = self.take_block(key, value, generation);
        match taken {
            Taken::Refused(refusal) => tracing::debug!(reason = refusal.as_str(), "blocklist record refused"),
            Taken::Changed => return Told::Entry,
            // A key that is not held may have ended while nobody listened.
            Taken::Unchanged if value.is_none() => return Told::Entry,
            Taken::Unchanged | Taken::OtherTenant => {}
        }
        Told::Nothing
    }

    fn take_block(&mut self, key: &[u8], value: Option<&[u8]>, generation: Option<i64>) -> Taken {
        if value.is_some_and(|value| value.len() > ENTRY_BYTES_MAX) || key.len() > ENTRY_BYTES_MAX {
            return self.desired.refuse(Refusal::TooLong);
        }
        let Ok(key) = std::str::from_utf8(key) else { return self.desired.refuse(Refusal::BadKey) };
        let entry = value.map(|value| decode_output::<BlocklistEntry>("blocklist", value)).transpose();
        let Ok(entry) = entry else { return self.desired.refuse(Refusal::Malformed) };
        let taken = self.desired.apply(key, entry, generation);
        if taken == Taken::Changed
            && let Some((_, scope, range)) = split_key(key)
            && let Some(net) = Scope::from_name(scope).and_then(|scope| prefix_of(scope, range))
        {
            self.lengths[usize::from(matches!(net, IpNet::V6(_)))] |= 1 << net.prefix_len().min(127);
        }
        taken
    }

    /// Takes one record of `exemptions`. One that cannot be used is told, since somebody may be restricted who should
    /// not be.
    pub fn exempt(&mut self, key: &[u8], value: Option<&[u8]>) -> Told {
        let key = std::str::from_utf8(key).map_err(|_| "the key is not UTF-8".to_owned());
        let value = value.map(|v| decode_output::<Exemption>("exemptions", v).map_err(|e| e.to_string())).transpose();
        match key.and_then(|key| self.desired.exempt(key, value?)) {
            Ok(true) => Told::Exemptions,
            Ok(false) => Told::Nothing,
            Err(why) => {
                self.records_refused += 1;
                tracing::warn!(%why, "exemption refused");
                Told::Nothing
            }
        }
    }

    /// Takes one record of `attack-status`.
    pub fn status(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(tenant) = std::str::from_utf8(key).ok().filter(|tenant| is_tenant(tenant)) else {
            self.refuse("attack-status", "its key is no tenant");
            return;
        };
        if !self.serves(tenant) {
            return;
        }
        let Some(value) = value else {
            self.statuses.remove(tenant);
            return;
        };
        let status = match decode_output::<AttackStatus>("attack-status", value) {
            Ok(status) if value.len() <= STATUS_BYTES_MAX && status.tenant == tenant => status,
            Ok(_) => return self.refuse("attack-status", "key and record disagree, or it is too long"),
            Err(error) => return self.refuse("attack-status", &error.to_string()),
        };
        let held = self.statuses.get(tenant);
        if held.is_none() && self.statuses.len() >= STATUSES_MAX {
            self.refuse("attack-status", "too many tenants");
        } else if held.is_none_or(|held| held.updated_at <= status.updated_at) {
            self.statuses.insert(tenant.into(), status);
        }
    }

    /// Takes one record of `known-pairs`.
    pub fn pair(&mut self, key: &[u8], value: Option<&[u8]>) {
        match KnownPair::of_record(key, value) {
            Ok(pair) => self.known.set(pair.key, pair.day),
            Err(why) => self.refuse("known-pairs", &why),
        }
    }

    fn refuse(&mut self, topic: &str, why: &str) {
        self.records_refused += 1;
        tracing::warn!(topic, why, "a record cannot be used");
    }

    /// Whether questions about this tenant are answered.
    #[must_use]
    pub fn serves(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }

    /// The parts of a key whose value is given to everybody who enforces; where several tenants are served, the name of
    /// one's account means nothing to another, and only addresses are.
    pub(super) fn decided<'a>(&self, key: &'a str) -> Option<(&'a str, Scope, &'a str)> {
        let (tenant, scope, value) = split_key(key)?;
        let scope = Scope::from_name(scope)?;
        (self.tenant.is_some() || scope.is_address()).then_some((tenant, scope, value))
    }

    /// Autonomous system and country of a source, by the files that this server was given.
    #[must_use]
    pub fn place_of(&self, source: Source) -> (Option<u32>, Option<&str>) {
        self.desired.networks().map_or((None, None), |networks| networks.place_of(source))
    }

    /// Looks addresses up in these networks from now on, and brings what depends on them to `now`.
    pub fn turn_to(&mut self, networks: &Arc<Networks>, now: Millis) {
        self.desired.turn_to(networks);
        self.desired.expand(now);
    }

    /// Every prefix of the autonomous systems and countries that are restricted at `now`.
    pub(super) fn each_expanded(&self, now: Millis, mut each: impl FnMut(IpNet, &BlocklistEntry)) {
        for (_, entry) in self.desired.entries() {
            let Some(Expansion::Prefixes(names)) = self.desired.expansion(entry.scope, &entry.value) else { continue };
            if self.desired.standing_shared(entry, now) == Standing::Enforced {
                let nets = names.iter().filter_map(|name| net_of(name));
                nets.for_each(|net| each(net, entry));
            }
        }
    }

    /// The one tenant, when there is only one.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The attack status of a tenant that holds at `now`; none is CALM.
    #[must_use]
    pub fn status_of(&self, tenant: &str, now: Millis) -> Option<&AttackStatus> {
        self.statuses.get(tenant).filter(|status| status.expires_at > now)
    }

    #[must_use]
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// Lets go of what ended a while ago, and of a part of the pairs that are known no more; `turn` is another number at
    /// every call.
    pub fn forget(&mut self, turn: usize, now: Millis) {
        self.desired.forget_ended(now);
        self.known.forget_old(turn, day_of(now));
    }

    #[must_use]
    pub const fn known(&self) -> &KnownPairs {
        &self.known
    }

    /// Lengths of ranges that may be held, the longest first.
    pub(super) fn lengths(&self, is_v6: bool) -> impl Iterator<Item = u8> + use<> {
        let mut left = self.lengths[usize::from(is_v6)];
        std::iter::from_fn(move || {
            let length = (left != 0).then(|| 127 - left.leading_zeros())?;
            left &= !(1 << length);
            u8::try_from(length).ok()
        })
    }

    #[must_use]
    pub const fn records_refused(&self) -> u64 {
        self.records_refused
    }
}

/// An element of a list: an address, or a range.
fn net_of(name: &str) -> Option<IpNet> {
    prefix_of(Scope::Ip, name).or_else(|| prefix_of(Scope::Cidr, name))
}
