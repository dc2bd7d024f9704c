//! Rows of the state, and their bytes: a version, when the row may be forgotten, then the fields.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::entrances::Entrance;
use super::frame::{Fallen, Partial};
use super::io::ControlChange;
use super::key::{Key, Kind};
use crate::decide::Standing;
use crate::detect::{Campaign, Evidence, Moments, Reference, Values};
use crate::event::{AttackState, DetailKind, Entity, Millis, Source, Trait};
use crate::window::{Distinct, Ever, Hashed, Repeats, SeenPack, Slices, StreamClock, Tally, Tops, TracePack};

/// One row. The kind of its key says which variant it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Row {
    Clock(ClockRow),
    Control(Box<ControlChange>),
    Seen(SeenPack),
    Due,
    Partial(Box<Partial>),
    Playbooks(Box<PlaybooksRow>),
    Source(Box<SourceRow>),
    Network(Box<NetworkRow>),
    Pair(PairRow),
    Standing(Box<StandingRow>),
    Account(Box<AccountRow>),
    Familiar(FamiliarRow),
    Site(Box<SiteRow>),
    Traffic(TrafficRow),
    Cap(CapRow),
    Usual(Box<Moments>),
    Values(Box<Values>),
    Traces(TracePack),
    Entrances(Vec<Entrance>),
    Detail(Box<DetailRow>),
}

/// What a task knows of its input besides entities.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockRow {
    pub clock: StreamClock,
    /// Stream time when the state began; 0 before its first input.
    pub began: Millis,
    /// Stream time at which a mark was last passed on.
    pub marked_at: Millis,
    /// Intake: tenants met, besides those that the settings name.
    pub tenants: BTreeSet<Box<str>>,
}

/// What a task knows of changed playbooks besides the changes themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaybooksRow {
    /// The last offset of the topic that was heard, taken or not.
    pub heard: i64,
    /// What is kept since a change came, by [`Plan::kept`](crate::topology::Plan::kept), with the stream time of that.
    pub since: BTreeMap<Box<str>, Millis>,
}

impl Default for PlaybooksRow {
    fn default() -> Self {
        PlaybooksRow { heard: -1, since: BTreeMap::new() }
    }
}

/// Windows of one source.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SourceRow {
    pub tallies: Vec<Tally>,
    pub repeats: Repeats,
    /// The same of the pairs that are known here, who must not push out what strangers did.
    pub known_repeats: Repeats,
    /// The last successes of strangers: whom to warn about when the source is identified later.
    pub entries: Vec<Entry>,
    /// Its successes, to tell a proxy by.
    pub successes: Option<Slices<1>>,
    /// Accounts that logged in from it.
    pub good: GoodRow,
    /// Of these, who was refused since it was last blocked: see `collateral`.
    pub hurt: Vec<Hashed>,
    /// When it was first heard of, since it was last forgotten; 0: not yet.
    pub first_seen: Millis,
    /// What it did lately that speaks for an attacker or against one.
    pub evidence: Evidence,
    /// From when all but `good` counts as forgotten.
    pub forgotten_at: Millis,
}

/// Whom a playbook newly restricted lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapRow {
    pub restricted: Slices<1>,
}

/// A tenant's successes at one task of the source stage.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrafficRow {
    pub successes: Option<Slices<1>>,
}

/// One success of a pair that was not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub account: Box<str>,
    pub event_id: Box<str>,
    pub at: Millis,
    pub arrived_at: Millis,
    /// What `known-pairs` may have been told of it.
    pub known_by: Vec<u128>,
}

/// Most successes of a source that are remembered.
pub(super) const ENTRIES_MAX: usize = 64;

/// Windows of one network.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NetworkRow {
    pub tallies: Vec<Tally>,
    /// Addresses of it that are blocked, with their ends.
    pub blocked: Vec<(Source, Millis)>,
    /// Accounts that logged in from it.
    pub good: GoodRow,
    /// Of these, who was refused since it was last blocked: see `collateral`.
    pub hurt: Vec<Hashed>,
    /// From when all but `good` counts as forgotten.
    pub forgotten_at: Millis,
}

/// A pair that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairRow {
    /// From when it counts as known.
    pub known_from: Millis,
    pub last_success: Millis,
}

/// Accounts that logged in from a source, or in a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GoodRow {
    /// Account, first and last success.
    pub accounts: Vec<(Hashed, Millis, Millis)>,
}

/// Most good accounts that are counted behind a source.
pub(super) const GOOD_MAX: usize = 50;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingRow {
    pub entity: Entity,
    pub standing: Standing,
}

/// Windows of one account, of a device, of a source on an account, or of a trait.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AccountRow {
    pub tallies: Vec<Tally>,
}

/// Long memory of an account that exists: event times of its last two successes that were not flagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FamiliarRow {
    pub last: Option<Millis>,
    pub before: Option<Millis>,
}

/// What one source or one account was to an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetailRow {
    pub incident_id: Box<str>,
    pub kind: DetailKind,
    pub value: Box<str>,
    pub counts: DetailCounts,
    pub first_at: Millis,
    pub last_at: Millis,
    /// What it came with, where that was seen.
    pub about: Vec<(Box<str>, Box<str>)>,
    /// When it was told last, and whether it has changed since.
    pub told_at: Millis,
    pub is_due: bool,
    /// Steps of an intruder that were told.
    pub steps: u16,
}

/// What is counted of a source or an account in an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DetailCounts {
    /// Strangers' attempts, repeats among them, and what was stopped.
    pub attempts: u64,
    /// Strangers' failures; the same wrong password once.
    pub failures: u64,
    /// Failures on names that belong to nobody.
    pub unknown: u64,
    pub stopped: u64,
    /// Strangers' successes.
    pub successes: u64,
    /// Accounts that fell by it.
    pub fallen: u64,
    /// How often it was newly blocked.
    pub blocked: u64,
}

/// One minute of an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MinuteSum {
    /// Its first millisecond.
    pub start: Millis,
    pub attempts: u64,
    pub failures: u64,
    pub unknown: u64,
    pub stopped: u64,
    pub sources: Ever,
    pub accounts: Ever,
    pub blocked: u64,
    pub fallen: u64,
}

/// Ten seconds of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ActivitySum {
    /// Their first millisecond.
    pub start: Millis,
    pub attempts: u64,
    pub failures: u64,
    pub unknown: u64,
    pub stopped: u64,
}

/// A tenant's last minute, its charts, its status and its open incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRow {
    /// Attempts, failures of strangers, of those on nobody's names, stopped, refused sources, failures of known pairs; in
    /// slices of three seconds.
    pub minute: Slices<6>,
    pub campaign: Campaign,
    /// What the charts hold attempts against.
    pub reference: Reference,
    /// Blocks that are not learnt until it is certain that they are usual.
    pub held: Moments,
    /// Learnt successes and attempts a minute, and from how many minutes.
    pub usual_successes: f64,
    pub usual_attempts: f64,
    pub minutes_learnt: u32,
    /// The last minute that was learnt from or passed over.
    pub learnt_to: Millis,
    pub state: AttackState,
    pub since: Millis,
    /// Since when nothing stands out.
    pub quiet_since: Millis,
    /// When the state last stepped down by one level.
    pub stepped_at: Millis,
    /// The tenant's kill switch was thrown when its status was told last.
    pub is_off: bool,
    /// It stepped down, and the challenge is kept on.
    pub keeps_challenge: bool,
    /// Something was reported as stopped since the tenant was last calm: its edge can tell.
    pub saw_stopped: bool,
    /// When the last block that was heard of ends, unless it is prolonged.
    pub blocked_until: Millis,
    pub published_at: Millis,
    /// Whether a look at it is due.
    pub is_watched: bool,
    /// Until when a playbook in shadow has said what it saw.
    pub shadowed_until: Millis,
    /// What the bad attempts share, and when it was last looked for.
    pub traits: Vec<Trait>,
    pub traits_at: Millis,
    /// They are others than were told last.
    pub traits_are_news: bool,
    /// Of strangers who get in, how many are the attack's to one who is not, at least; and what was told of that last.
    pub entered_bad_to_good: f64,
    pub entered_told: f64,
    pub incident: Option<Box<OpenIncident>>,
    /// What playbooks blocked and what of it was rolled back, and until when those that did harm are withdrawn.
    pub governed: BTreeMap<Box<str>, Slices<2>>,
    pub withdrawn: BTreeMap<Box<str>, Millis>,
    pub withdrawn_is_news: bool,
    /// The ten seconds that go on.
    pub activity: ActivitySum,
    /// What an incident that opens would already have to tell.
    pub recent: Recent,
}

/// The last minute's sources and accounts in the slices of the minute; blocks and compromises of the last ten.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Recent {
    pub sources: Distinct,
    pub accounts: Distinct,
    pub unknown_accounts: Distinct,
    pub blocked: Distinct,
    /// Playbooks that blocked, with the last time.
    pub playbooks: BTreeMap<Box<str>, Millis>,
    pub compromised: Vec<Fallen>,
}

/// The incident as it grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenIncident {
    pub id: Box<str>,
    pub started_at: Millis,
    pub published_at: Millis,
    pub attempts: u64,
    pub failures: u64,
    pub unknown: u64,
    pub stopped: u64,
    pub sources: Ever,
    pub accounts: Ever,
    pub unknown_accounts: Ever,
    pub blocked: Ever,
    pub playbooks: BTreeSet<Box<str>>,
    pub compromised: Vec<Fallen>,
    /// How many fell; the list holds the first of them.
    pub compromised_count: u64,
    /// Bad attempts by autonomous system, country and agent.
    pub asns: Tops,
    pub countries: Tops,
    pub user_agents: Tops,
    pub changed: bool,
    /// Minutes that were not told to their end; the last one goes on.
    pub minutes: Vec<MinuteSum>,
}

// A view holds very many of them.
const _: () = assert!(size_of::<Row>() <= 56);

/// Version of the row format; a state of another version is refused at start.
pub(super) const ROW_VERSION: u8 = 10;

/// A stored row does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {key:?}: {what}")]
pub struct BrokenRow {
    pub key: Key,
    pub what: String,
}

macro_rules! of_kind {
    ($($name:ident: $variant:ident -> $row:ty),+ $(,)?) => {
        $(
            /// The row as one of this kind. The kind stands in its key, so another one is never found there.
            pub(super) fn $name(self) -> Option<$row> {
                if let Row::$variant(row) = self { Some(row) } else { None }
            }
        )+
    };
}

impl Row {
    of_kind! {
        source: Source -> Box<SourceRow>, network: Network -> Box<NetworkRow>,
        standing: Standing -> Box<StandingRow>, account: Account -> Box<AccountRow>, familiar: Familiar -> FamiliarRow,
        traffic: Traffic -> TrafficRow, cap: Cap -> CapRow, usual: Usual -> Box<Moments>, values: Values -> Box<Values>,
        site: Site -> Box<SiteRow>, detail: Detail -> Box<DetailRow>,
    }

    /// The bytes of the row, with the time from which it may be forgotten (`Millis::MAX`: never).
    #[must_use]
    pub fn encode(&self, expires_at: Millis) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.push(ROW_VERSION);
        bytes.extend_from_slice(&expires_at.to_be_bytes());
        let written = match self {
            Row::Clock(row) => postcard::to_extend(row, bytes),
            Row::Control(row) => postcard::to_extend(row, bytes),
            Row::Seen(row) => postcard::to_extend(row, bytes),
            Row::Due => Ok(bytes),
            Row::Partial(row) => postcard::to_extend(row, bytes),
            Row::Playbooks(row) => postcard::to_extend(row, bytes),
            Row::Source(row) => postcard::to_extend(row, bytes),
            Row::Network(row) => postcard::to_extend(row, bytes),
            Row::Pair(row) => postcard::to_extend(row, bytes),
            Row::Standing(row) => postcard::to_extend(row, bytes),
            Row::Account(row) => postcard::to_extend(row, bytes),
            Row::Familiar(row) => postcard::to_extend(row, bytes),
            Row::Traffic(row) => postcard::to_extend(row, bytes),
            Row::Cap(row) => postcard::to_extend(row, bytes),
            Row::Usual(row) => postcard::to_extend(row, bytes),
            Row::Values(row) => postcard::to_extend(row, bytes),
            Row::Traces(row) => postcard::to_extend(row, bytes),
            Row::Entrances(row) => postcard::to_extend(row, bytes),
            Row::Detail(row) => postcard::to_extend(row, bytes),
            Row::Site(row) => postcard::to_extend(row, bytes),
        };
        // Writing into memory fails only for types that postcard cannot express; none of the rows holds one.
        written.unwrap_or_default()
    }

    /// When the row of these bytes may be forgotten.
    #[must_use]
    pub fn expires_at(bytes: &[u8]) -> Option<Millis> {
        let (_, rest) = bytes.split_first()?;
        rest.first_chunk::<8>().map(|at| Millis::from_be_bytes(*at))
    }

    /// Whether bytes can be a row of this key, as far as their head tells: of this version, of a kind that is known.
    ///
    /// # Errors
    /// They cannot.
    pub fn check(key: &Key, bytes: &[u8]) -> Result<(), BrokenRow> {
        let broken = |what: &str| Err(BrokenRow { key: key.clone(), what: what.to_owned() });
        if bytes.first() != Some(&ROW_VERSION) {
            return broken("written by another version");
        }
        if bytes.len() < 9 {
            return broken("cut short");
        }
        if Kind::of(key.kind_byte()).is_none() {
            return broken("no row of this kind is known");
        }
        Ok(())
    }

    /// Reads a row back.
    ///
    /// # Errors
    /// Another version, or bytes that do not fit the kind of the key.
    pub fn decode(key: &Key, bytes: &[u8]) -> Result<Row, BrokenRow> {
        let broken = |what: &str| BrokenRow { key: key.clone(), what: what.to_owned() };
        if bytes.first() != Some(&ROW_VERSION) {
            return Err(broken("written by another version; restore the state from the changelog"));
        }
        let body = bytes.get(9..).ok_or_else(|| broken("cut short"))?;
        fn read<'a, T: Deserialize<'a>>(body: &'a [u8], make: fn(T) -> Row) -> Result<Row, postcard::Error> {
            postcard::from_bytes(body).map(make)
        }
        let kind = key.kind_byte();
        let row = match kind {
            k if k == Kind::Clock as u8 => read(body, Row::Clock),
            k if k == Kind::Control as u8 => read(body, Row::Control),
            k if k == Kind::Seen as u8 => read(body, Row::Seen),
            k if k == Kind::Due as u8 => Ok(Row::Due),
            k if k == Kind::Partial as u8 => read(body, Row::Partial),
            k if k == Kind::Playbooks as u8 => read(body, Row::Playbooks),
            k if k == Kind::Source as u8 => read(body, Row::Source),
            k if k == Kind::Network as u8 => read(body, Row::Network),
            k if k == Kind::Pair as u8 => read(body, Row::Pair),
            k if k == Kind::Standing as u8 => read(body, Row::Standing),
            k if k == Kind::Account as u8 => read(body, Row::Account),
            k if k == Kind::Familiar as u8 => read(body, Row::Familiar),
            k if k == Kind::Traffic as u8 => read(body, Row::Traffic),
            k if k == Kind::Device as u8 => read(body, Row::Account),
            k if k == Kind::PairWindows as u8 => read(body, Row::Account),
            k if k == Kind::Trait as u8 => read(body, Row::Account),
            k if k == Kind::Cap as u8 => read(body, Row::Cap),
            k if k == Kind::Usual as u8 => read(body, Row::Usual),
            k if k == Kind::Values as u8 => read(body, Row::Values),
            k if k == Kind::Traces as u8 => read(body, Row::Traces),
            k if k == Kind::Entrances as u8 => read(body, Row::Entrances),
            k if k == Kind::Detail as u8 => read(body, Row::Detail),
            k if k == Kind::Site as u8 => read(body, Row::Site),
            _ => return Err(broken("no row of this kind is known")),
        };
        row.map_err(|e| broken(&e.to_string()))
    }
}
