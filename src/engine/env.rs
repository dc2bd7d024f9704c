//! What every step knows besides its input and its rows: the compiled topology, the hash key, the limits.

use std::sync::Arc;

use crate::detect::CampaignBounds;
use crate::event::{Attempt, Entity, Millis, Source};
use crate::topology::{Exemptions, Plan, Playbook, Set};
use crate::window::{HashKey, Hashed, Timing};

/// Named limits and times of the engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub timing: Timing,
    /// `occurred_at` this far ahead of arrival is a wrong clock and set to arrival.
    pub ahead_max_ms: Millis,
    /// Arrival may run this far ahead of intake's clock.
    pub arrival_ahead_ms: Millis,
    /// How long a success makes a pair known.
    pub pair_memory_ms: Millis,
    /// A success teaches a pair only after this long while the tenant is not CALM.
    pub teach_delay_ms: Millis,
    /// A good account has been known behind a source for at least this long.
    pub good_age_ms: Millis,
    /// Partitions of the source stage: a task sees so many of a tenant's networks.
    pub source_partitions: u32,
    /// Partitions of the account stage.
    pub account_partitions: u32,
    /// Playbooks judge in shadow until their windows were kept for their whole length since the state began.
    pub warms_up: bool,
    /// Tenants that the settings do not name.
    pub tenants_max: usize,
    /// Neither failures nor stopped attempts stand out for this long: CALM.
    pub calm_after_ms: Millis,
    /// Where nothing is reported as stopped, a state steps down by one level after this long.
    pub step_down_ms: Millis,
    /// A status holds this long unless refreshed, so that a silent detector fails open.
    pub status_ttl_ms: Millis,
    pub campaign: CampaignBounds,
}

impl Default for Limits {
    fn default() -> Self {
        const MINUTE: Millis = 60_000;
        const DAY: Millis = 24 * 60 * MINUTE;
        Limits {
            timing: Timing { grace_ms: 5 * MINUTE, enforcement_ms: MINUTE },
            ahead_max_ms: 5_000,
            arrival_ahead_ms: 5_000,
            pair_memory_ms: 30 * DAY,
            teach_delay_ms: DAY,
            good_age_ms: DAY,
            source_partitions: 1,
            account_partitions: 1,
            warms_up: false,
            tenants_max: 1_000,
            calm_after_ms: 20 * MINUTE,
            step_down_ms: 15 * MINUTE,
            status_ttl_ms: 5 * MINUTE,
            campaign: CampaignBounds::default(),
        }
    }
}

impl Limits {
    /// How long a fingerprint is kept: an older repeat is late.
    #[must_use]
    pub const fn seen_ms(&self) -> Millis {
        self.timing.grace_ms.saturating_add(60_000)
    }
}

/// What all tasks of a process start from. A task has a copy of its own, whose `plan` is that of the playbooks in effect
/// at its stream time; all else never changes while it runs.
#[derive(Debug, Clone)]
pub struct Env {
    pub plan: Plan,
    /// From the folder, those that are off among them; the topic's come with the marks.
    pub playbooks: Arc<[Playbook]>,
    /// From the file; the topic's come with the marks.
    pub exemptions: Arc<Exemptions>,
    pub hash_key: HashKey,
    pub limits: Limits,
    /// Tenants that do not count against `tenants_max`.
    pub tenants: Vec<String>,
}

/// Uses of the keyed hash, kept apart.
mod domain {
    pub(super) const ROUTE: u8 = 1;
    pub(super) const ACCOUNT: u8 = 2;
    pub(super) const SOURCE: u8 = 3;
    pub(super) const PAIR: u8 = 4;
    pub(super) const EVENT_ID: u8 = 5;
    pub(super) const CONTENT: u8 = 6;
    pub(super) const REPEAT: u8 = 7;
    pub(super) const ENTITY: u8 = 8;
    pub(super) const MEMBER: u8 = 9;
    pub(super) const DEVICE: u8 = 10;
    // 11: `known`.
    pub(super) const INCIDENT: u8 = 12;
}

impl Env {
    /// What may be written down of everything besides the input that decides what steps do: this build, the playbooks of
    /// the folder, the exemptions of the file, the limits. The same number, the same steps. What the topics say comes with the input.
    #[must_use]
    pub fn steps_id(&self) -> u64 {
        let text =
            format!("{:?} {:?} {:?} {:?} {:?}", self.plan, self.playbooks, self.exemptions, self.limits, self.tenants);
        self.hash(0xfe, &[env!("CARGO_PKG_VERSION").as_bytes(), text.as_bytes()])
    }

    fn hash(&self, domain: u8, parts: &[&[u8]]) -> Hashed {
        self.hash_key.hash(domain, parts)
    }

    /// Where all attempts of a network are processed.
    #[must_use]
    pub fn route_network(&self, tenant: &str, source: Source) -> Hashed {
        self.hash(domain::ROUTE, &[tenant.as_bytes(), &source_bytes(source.network().first_source())])
    }

    /// Where all attempts of a device are processed.
    #[must_use]
    pub fn route_device(&self, tenant: &str, device: &str) -> Hashed {
        self.hash(domain::ROUTE, &[tenant.as_bytes(), device.as_bytes(), b"device"])
    }

    /// Where all attempts on an account are processed.
    #[must_use]
    pub fn route_account(&self, tenant: &str, account: &str) -> Hashed {
        self.hash(domain::ROUTE, &[tenant.as_bytes(), account.as_bytes(), b"account"])
    }

    #[must_use]
    pub fn route_tenant(&self, tenant: &str) -> Hashed {
        self.hash(domain::ROUTE, &[tenant.as_bytes()])
    }

    #[must_use]
    pub fn account(&self, tenant: &str, account: &str) -> Hashed {
        self.hash(domain::ACCOUNT, &[tenant.as_bytes(), account.as_bytes()])
    }

    #[must_use]
    pub fn source(&self, source: Source) -> Hashed {
        self.hash(domain::SOURCE, &[&source_bytes(source)])
    }

    #[must_use]
    pub fn pair(&self, source: Source, account: Hashed) -> Hashed {
        self.hash(domain::PAIR, &[&source_bytes(source), &account.to_be_bytes()])
    }

    #[must_use]
    pub(super) fn trait_value(&self, value: &str) -> Hashed {
        // 0 stands for all of them.
        self.hash(domain::MEMBER, &[value.as_bytes()]).max(1)
    }

    #[must_use]
    pub(super) fn device(&self, tenant: &str, device: &str) -> Hashed {
        self.hash(domain::DEVICE, &[tenant.as_bytes(), device.as_bytes()])
    }

    /// What an attempt adds to a set; `None` when it says nothing of it.
    #[must_use]
    pub(super) fn member(&self, set: Set, a: &Attempt) -> Option<Hashed> {
        let text = |text: &Option<Box<str>>| text.as_ref().map(|text| self.hash(domain::MEMBER, &[text.as_bytes()]));
        let number = |number: Option<u32>| number.map(|n| self.hash(domain::MEMBER, &[&n.to_be_bytes()]));
        match set {
            Set::AccountsFailed | Set::UnknownAccounts | Set::AccountsEntered | Set::AccountsAsked => {
                (!a.account.is_empty()).then(|| self.account(&a.tenant, &a.account))
            }
            Set::Sources => Some(self.source(a.source)),
            Set::Devices => text(&a.device_id),
            Set::UserAgents => text(&a.user_agent),
            Set::TlsFingerprints => text(&a.tls_fingerprint),
            Set::Countries => text(&a.country),
            Set::Asns => number(a.asn),
            Set::PasswordTags => number(a.password_tag),
        }
    }

    #[must_use]
    pub(super) fn incident(&self, incident_id: &str) -> Hashed {
        self.hash(domain::INCIDENT, &[incident_id.as_bytes()])
    }

    #[must_use]
    pub(super) fn event_id(&self, tenant: &str, source: Source, id: &str) -> Hashed {
        self.hash(domain::EVENT_ID, &[tenant.as_bytes(), &source_bytes(source), id.as_bytes()])
    }

    #[must_use]
    pub(super) fn content(&self, parts: &[&[u8]]) -> u32 {
        self.hash(domain::CONTENT, parts) as u32
    }

    #[must_use]
    pub(super) fn repeat(&self, account: Hashed, kind: &[u8], what: i64) -> Hashed {
        self.hash(domain::REPEAT, &[&account.to_be_bytes(), kind, &what.to_be_bytes()])
    }

    #[must_use]
    pub(super) fn entity(&self, entity: &Entity) -> Hashed {
        self.hash(domain::ENTITY, &[entity.key().as_bytes()])
    }
}

pub(super) fn source_bytes(source: Source) -> [u8; 9] {
    let (kind, bits) = match source {
        Source::V4(bits) => (4, u64::from(bits)),
        Source::V6(bits) => (6, bits),
    };
    let mut bytes = [kind; 9];
    bytes[1..].copy_from_slice(&bits.to_be_bytes());
    bytes
}
