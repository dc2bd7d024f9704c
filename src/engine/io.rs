//! What goes into a step and what comes out: two closed enums and nothing else.

use serde::{Deserialize, Serialize};

use super::counts::{Counter, Counts};
use super::frame::{Item, Mark, Note, Partial, Sourced};
use super::intake::Raw;
use super::key::Key;
use super::known::KnownPair;
use crate::decide::Change;
use crate::detect::{Feature, ODDS_MAX, Profile, TRAITS_MAX, is_intruder, weight_of};
use crate::event::{
    ActivitySlice, AttackState, AttackStatus, Attempt, BlocklistEntry, ChallengePolicy, Entity, Exemption, Incident,
    IncidentDetail, Millis, Mode, Reject, Trait, Verdict,
};
use crate::topology::{PlaybookChange, Request, Stage};
use crate::window::Hashed;

/// Everything that can wake a task.
#[derive(Debug)]
pub enum Input<'a> {
    /// Intake: one record of `login-events`.
    Raw(Raw<'a>),
    /// Intake: one record of a control topic, decoded; its place in that topic is its version.
    Control(ControlChange),
    /// Intake: time passed. `at` is the clock at the end of the partition, otherwise the last arrival.
    Tick(Millis),
    /// Source: an attempt.
    Attempt(Box<Attempt>),
    /// Account: an attempt with what the source stage knows.
    Sourced(Box<Sourced>),
    /// Account: the same for the owner of the device.
    Device(Box<Sourced>),
    /// Account: an earlier success, seen in a new light.
    Note(Note),
    /// Site: sums.
    Partial(Box<Partial>),
    /// Everywhere behind intake: time and control.
    Mark(Mark),
    /// Behind intake: what a person asks for. It brings no time: whoever asks knows nothing of a backlog.
    Request(Box<Request>),
    /// Something fell due at this time.
    Due(Millis, Key),
}

impl Input<'_> {
    /// The stream time that it brings; `None` for what only intake is fed, and for what people ask. What fell due until then comes first: so
    /// the order of inputs and dues, and with it every output, follows from the log and not from how it was cut into
    /// batches.
    #[must_use]
    pub fn at(&self) -> Option<Millis> {
        match self {
            Input::Attempt(attempt) => Some(attempt.arrived_at),
            Input::Sourced(sourced) | Input::Device(sourced) => Some(sourced.attempt.arrived_at),
            Input::Note(note) => Some(note.known_at),
            Input::Partial(partial) => Some(partial.at),
            Input::Mark(mark) => Some(mark.at),
            Input::Due(at, _) => Some(*at),
            Input::Raw(_) | Input::Control(_) | Input::Tick(_) | Input::Request(_) => None,
        }
    }
}

/// A change of control, and its version: the offset in its topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlChange {
    Status {
        version: i64,
        tenant: Box<str>,
        status: Option<StatusChange>,
    },
    Exemption {
        version: i64,
        key: Box<str>,
        exemption: Option<Exemption>,
    },
    /// `None`: what stood under this key is removed.
    Playbook {
        version: i64,
        key: Box<str>,
        change: Option<PlaybookChange>,
    },
    /// Who is watched; `None`: no more.
    Watch {
        version: i64,
        key: Box<str>,
        watch: Option<Exemption>,
    },
    /// What a person asks for. Intake sends it to its owner, so no mark holds one.
    Command {
        version: i64,
        request: Box<Request>,
    },
}

impl ControlChange {
    /// Its name among the rows of control.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            ControlChange::Status { tenant, .. } => format!("status|{tenant}"),
            ControlChange::Exemption { key, .. } => format!("exemption|{key}"),
            ControlChange::Playbook { key, .. } => ControlChange::playbook_name(key),
            ControlChange::Watch { key, .. } => format!("watch|{key}"),
            ControlChange::Command { request, .. } => format!("command|{}", request.command_id),
        }
    }

    pub(super) fn playbook_name(key: &str) -> String {
        format!("playbook|{key}")
    }

    #[must_use]
    pub const fn version(&self) -> i64 {
        match self {
            ControlChange::Status { version, .. }
            | ControlChange::Exemption { version, .. }
            | ControlChange::Playbook { version, .. }
            | ControlChange::Watch { version, .. }
            | ControlChange::Command { version, .. } => *version,
        }
    }
}

/// What judging a source needs of an attack status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusChange {
    pub state: AttackState,
    pub challenge: ChallengePolicy,
    pub since: Millis,
    pub expires_at: Millis,
    /// Bad attempts to a good one, in thousandths: what is thought of a source before anything is seen of it.
    pub odds_permille: u32,
    pub incident_id: Option<Box<str>>,
    /// What the bad attempts share.
    pub traits: Vec<TraitChange>,
    /// Playbooks that are withdrawn, and until when.
    pub withdrawn: Vec<(Box<str>, Millis)>,
    /// Of the strangers who get in, how many are the attack's to one who is not, in thousandths.
    pub entered_permille: u32,
}

/// Most playbooks of a tenant that are withdrawn at a time.
pub(super) const WITHDRAWN_MAX: usize = 64;

/// A trait of an attack, for judging a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraitChange {
    pub feature: Feature,
    pub value: Box<str>,
    /// Share of attempts over the usual one, in thousandths.
    pub lift_permille: u64,
}

impl StatusChange {
    /// What the traits of an attack add to the odds that somebody is bad who has them, in nats.
    #[must_use]
    pub(super) fn weight_of(&self, profile: &Profile) -> f64 {
        let traits = self.traits.iter().map(|t| (t.feature, &*t.value, t.lift_permille as f64 / 1_000.0));
        weight_of(profile, traits, f64::from(self.odds_permille) / 1_000.0)
    }

    /// Whether a stranger who gets in with this profile is taken for an intruder.
    pub(super) fn shows_intruder(&self, profile: &Profile) -> bool {
        self.entered_permille > 0 && is_intruder(self.weight_of(profile), f64::from(self.entered_permille) / 1_000.0)
    }

    /// The traits of the attack that a profile has.
    pub(super) fn shared_by(&self, profile: &Profile) -> impl Iterator<Item = &TraitChange> {
        self.traits.iter().filter(|t| profile.value(t.feature).is_some_and(|own| *own == *t.value))
    }
}

impl From<&AttackStatus> for StatusChange {
    fn from(status: &AttackStatus) -> Self {
        StatusChange {
            state: status.state,
            challenge: status.challenge,
            since: status.since,
            expires_at: status.expires_at,
            odds_permille: (status.bad_to_good * 1_000.0).clamp(0.0, f64::from(ODDS_MAX)) as u32,
            incident_id: status.incident_id.as_deref().map(Into::into),
            traits: status.traits.iter().filter_map(TraitChange::of).take(TRAITS_MAX).collect(),
            withdrawn: status
                .withdrawn
                .iter()
                .take(WITHDRAWN_MAX)
                .map(|of| (of.playbook.as_str().into(), of.until))
                .collect(),
            entered_permille: (status.entered_bad_to_good * 1_000.0).clamp(0.0, f64::from(ODDS_MAX)) as u32,
        }
    }
}

impl TraitChange {
    /// `None`: of a feature that this build does not know.
    fn of(told: &Trait) -> Option<TraitChange> {
        let lift_permille = (told.lift * 1_000.0).clamp(0.0, f64::from(u32::MAX)) as u64;
        Some(TraitChange { feature: Feature::of(&told.feature)?, value: told.value.as_str().into(), lift_permille })
    }
}

/// One effect. The loop carries each out; a new variant must not compile until it does.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// An item for the partition of a stage that `route` names.
    Item {
        to: Stage,
        route: Hashed,
        item: Item,
    },
    /// A mark for every partition of a stage.
    MarkAll {
        to: Stage,
        mark: Mark,
    },
    Verdict(Box<Verdict>),
    Block(BlockChange),
    Status(Box<AttackStatus>),
    Incident(Box<Incident>),
    Detail(Box<IncidentDetail>),
    Activity(Box<ActivitySlice>),
    KnownPair(KnownPair),
    DeadLetter(DeadLetter),
    /// For the log of the process.
    Playbook(PlaybookNews),
}

/// What became of a change of a playbook at this task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaybookNews {
    /// The playbook's id, or `id#override`.
    pub key: Box<str>,
    /// Its place on the topic `playbooks`.
    pub offset: i64,
    pub became: Became,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// It is in effect from this input on: version, who, why.
    InEffect(String),
    Removed,
    /// The override's time is over.
    Ended,
    /// It is not taken, and nothing changed.
    Rejected(String),
    /// It was taken, and does not go with the others now.
    LeftOut(String),
}

/// A change on the topic `blocklist`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockChange {
    pub entity: Entity,
    pub change: Change,
    /// Why a tombstone was written, for its header: `expired` when the last claim ended by time, otherwise `lifted`.
    pub cause: &'static str,
    pub incident_id: Option<Box<str>>,
}

impl BlockChange {
    /// The record for the topic; `None` is a tombstone.
    #[must_use]
    pub fn entry(&self) -> Option<BlocklistEntry> {
        let Change::Put { shown, generation } = &self.change else { return None };
        Some(BlocklistEntry {
            tenant: self.entity.tenant.to_string(),
            scope: self.entity.scope,
            value: self.entity.value.to_string(),
            action: shown.action,
            since: shown.since,
            until: Some(shown.until).filter(|until| *until < Millis::MAX),
            generation: *generation,
            reason: shown.reason.to_string(),
            playbook: shown.actor.is_none().then(|| shown.playbook.to_string()),
            verdict_id: shown.actor.is_none().then(|| shown.verdict_id.to_string()),
            incident_id: self.incident_id.as_deref().map(str::to_owned),
            actor: shown.actor.as_deref().map(str::to_owned),
            wide: shown.wide,
        })
    }

    #[must_use]
    pub const fn generation(&self) -> i64 {
        match &self.change {
            Change::Put { generation, .. } | Change::Lift { generation } => *generation,
        }
    }
}

/// The current input cannot be used. The loop knows its bytes and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub reject: Reject,
}

/// What steps brought about since the last commit.
#[derive(Debug, Default)]
pub struct Effects {
    pub outputs: Vec<Output>,
    pub counts: Counts,
}

impl Effects {
    pub fn push(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub fn count(&mut self, counter: Counter) {
        self.counts.add(counter, 1);
    }

    pub(super) fn verdict(&mut self, verdict: Box<Verdict>) {
        self.count(match verdict.mode {
            Mode::Live => Counter::Verdicts,
            Mode::Shadow => Counter::ShadowVerdicts,
        });
        self.push(Output::Verdict(verdict));
    }
}
