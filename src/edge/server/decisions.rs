//! The blocklist as decisions, as CrowdSec's bouncers pull it: what is in force, and what changed since a client's last
//! pull.
//!
//! Every change of a value gets the next number, and a value stands under the number of its last change alone. So what
//! changed since some number is a range, in which every value is once: in force now, or gone. These hold, and are
//! tested against clients that apply answers as the real ones do:
//!
//! - one decision for a value, the strongest, then the latest end, over all tenants that are served;
//! - no value is both new and deleted in one answer, since clients apply them in different orders: a weaker type is
//!   told as deleted in one answer and as new in the next;
//! - a value is deleted when nothing stands against it any more, its natural end included, and stays so for a day;
//! - a later end is told at once, and again when the end told before has passed: some clients do not take the first;
//! - a client that nobody remembers gets everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::event::{Action, BlocklistEntry, Millis, Scope};
use crate::topology::exemptions::prefix_of;

/// How long what is gone is still told, in milliseconds: the longest that a client may be away and miss nothing.
pub const GONE_KEPT_MS: Millis = 24 * 3_600_000;
/// Most values that are remembered as gone; the oldest is forgotten first.
pub const GONE_MAX: usize = 1_000_000;
/// Most ends that are told again when they pass; beyond them only the later end is told.
pub const AGAIN_MAX: usize = 2_000_000;
/// What is told as the end of an entry that has none, from now on; it is told again before it passes.
const NO_END_MS: Millis = 7 * 24 * 3_600_000;
/// How many answers in a row may go lost on the way, so that what was in them comes with the next one.
const LOST_MAX: usize = 2;
/// Pulls that an answer reaches back over: a weaker type is new only in the second answer after it.
pub(super) const PULLS_KEPT: usize = LOST_MAX + 2;

/// What a decision is about.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub scope: Scope,
    pub value: Box<str>,
}

/// What is decided about a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub action: Action,
    pub until: Option<Millis>,
    /// Whether a person asked for it.
    pub by_operator: bool,
    /// Whether its playbook is meant for edges that refuse a whole machine.
    pub wide: bool,
    pub playbook: Option<Box<str>>,
}

impl Decision {
    #[must_use]
    pub fn of(entry: &BlocklistEntry) -> Decision {
        Decision {
            action: entry.action,
            until: entry.until,
            by_operator: entry.actor.is_some(),
            wide: entry.wide,
            playbook: entry.playbook.as_deref().map(Into::into),
        }
    }

    /// What is told as its end.
    fn end(&self, now: Millis) -> Millis {
        self.until.unwrap_or_else(|| now.saturating_add(NO_END_MS))
    }

    fn has_ended(&self, now: Millis) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// The largest shows.
    fn rank(&self) -> (u8, Millis) {
        (self.action.strength(), self.until.unwrap_or(Millis::MAX))
    }
}

/// A value that something stands against, or stood against within a day.
#[derive(Debug)]
struct Held {
    /// The number of its last change.
    change: u64,
    /// The number of the change that last made it weaker.
    weakened: u64,
    /// What each tenant says.
    claims: SmallVec<[(Arc<str>, Decision); 1]>,
    /// What shows; of a value that is gone, what showed last.
    shown: Decision,
    /// The end that was told last.
    told_end: Millis,
    gone_at: Option<Millis>,
}

/// All decisions.
#[derive(Debug, Default)]
pub struct Decisions {
    held: FxHashMap<Arc<Target>, Held>,
    by_change: BTreeMap<u64, Arc<Target>>,
    /// The end that was told last of each value in force.
    ends: BTreeSet<(Millis, Arc<Target>)>,
    /// Ends told before, of values that end later now.
    again: BTreeSet<(Millis, Arc<Target>)>,
    gone: BTreeSet<(Millis, Arc<Target>)>,
    /// Bit n: a range of this length was held at some time. IPv4, then IPv6.
    lengths: [u128; 2],
    /// The number of the last change.
    last: u64,
}

/// What a client has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// The answer reaches back to this change.
    pub from: u64,
    /// The last change before the client's last pull.
    pub last: u64,
}

/// One item of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    pub target: &'a Target,
    pub decision: &'a Decision,
    pub number: u64,
    /// The end that is told.
    pub end: Millis,
}

/// An answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer<'a> {
    pub new: Vec<Item<'a>>,
    pub deleted: Vec<Item<'a>>,
}

impl Decisions {
    /// Takes what one tenant's list says about a value now, or that it says nothing since `at`.
    pub fn set(
        &mut self,
        tenant: &str,
        scope: Scope,
        value: &str,
        decision: Option<Decision>,
        at: Millis,
        now: Millis,
    ) {
        let target = Target { scope, value: value.into() };
        let decision = decision.filter(|decision| !decision.has_ended(now));
        match self.held.get_mut(&target) {
            Some(held) => {
                let before = held.claims.iter().position(|(other, _)| **other == *tenant);
                match (before, decision) {
                    (Some(index), Some(decision)) if held.claims[index].1 == decision => return,
                    (Some(index), Some(decision)) => held.claims[index].1 = decision,
                    (Some(index), None) => drop(held.claims.remove(index)),
                    (None, Some(decision)) => held.claims.push((tenant.into(), decision)),
                    (None, None) => return,
                }
                self.look_at(&Arc::new(target), at, now);
            }
            None => self.begin(tenant, Arc::new(target), decision, at, now),
        }
    }

    /// The first that is heard of a value.
    fn begin(&mut self, tenant: &str, target: Arc<Target>, decision: Option<Decision>, at: Millis, now: Millis) {
        let change = self.next();
        let (shown, gone_at) = match decision {
            Some(decision) => (decision, None),
            // It was lifted before this server began; who was told of it must still hear that.
            None if at > now.saturating_sub(GONE_KEPT_MS) => {
                let shown = Decision {
                    action: Action::Block,
                    until: Some(at),
                    by_operator: false,
                    wide: false,
                    playbook: None,
                };
                (shown, Some(at))
            }
            None => return,
        };
        if let Some(net) = prefix_of(target.scope, &target.value) {
            self.lengths[usize::from(matches!(net, IpNet::V6(_)))] |= 1 << net.prefix_len().min(127);
        }
        let told_end = shown.end(now);
        let mut claims = SmallVec::new();
        match gone_at {
            Some(at) => drop(self.gone.insert((at, Arc::clone(&target)))),
            None => {
                self.ends.insert((told_end, Arc::clone(&target)));
                claims.push((tenant.into(), shown.clone()));
            }
        }
        self.by_change.insert(change, Arc::clone(&target));
        self.held.insert(target, Held { change, weakened: 0, claims, shown, told_end, gone_at });
    }

    /// Does what is due at `now`: ends, what is to be told again, and what may be forgotten.
    pub fn advance(&mut self, now: Millis) {
        while let Some((at, _)) = self.ends.first()
            && *at <= now
            && let Some((at, target)) = self.ends.pop_first()
        {
            self.look_at(&target, at, now);
        }
        while let Some((at, _)) = self.again.first()
            && *at <= now
            && let Some((_, target)) = self.again.pop_first()
        {
            self.tell_again(&target);
        }
        let over = now.saturating_sub(GONE_KEPT_MS);
        while let Some((at, _)) = self.gone.first()
            && (*at <= over || self.gone.len() > GONE_MAX)
            && let Some((_, target)) = self.gone.pop_first()
            && let Some(held) = self.held.remove(&target)
        {
            self.by_change.remove(&held.change);
        }
    }

    /// Brings what shows of a value up to date; `at` is when it is gone, if it is.
    fn look_at(&mut self, target: &Arc<Target>, at: Millis, now: Millis) {
        let change = self.last + 1;
        let Some(held) = self.held.get_mut(target) else { return };
        held.claims.retain(|(_, decision)| !decision.has_ended(now));
        let shown = held.claims.iter().map(|(_, decision)| decision).max_by_key(|decision| decision.rank()).cloned();
        let (was_gone, told_end) = (held.gone_at, held.told_end);
        match shown {
            Some(shown) => {
                if was_gone.is_none() && shown == held.shown && told_end > now {
                    return;
                }
                if kind(shown.action) != kind(held.shown.action) && shown.rank() < held.shown.rank() {
                    held.weakened = change;
                }
                held.told_end = shown.end(now);
                held.gone_at = None;
                held.shown = shown;
                self.ends.remove(&(told_end, Arc::clone(target)));
                self.ends.insert((held.told_end, Arc::clone(target)));
                // Who did not take the later end has nothing from the earlier one on.
                let is_later = was_gone.is_none() && told_end > now && held.told_end > told_end;
                if is_later && self.again.len() < AGAIN_MAX {
                    self.again.insert((told_end, Arc::clone(target)));
                }
            }
            None if was_gone.is_some() => return,
            None => {
                held.gone_at = Some(at);
                self.ends.remove(&(told_end, Arc::clone(target)));
            }
        }
        if let Some(before) = was_gone {
            self.gone.remove(&(before, Arc::clone(target)));
        }
        if let Some(at) = held.gone_at {
            self.gone.insert((at, Arc::clone(target)));
        }
        self.by_change.remove(&held.change);
        held.change = change;
        self.by_change.insert(change, Arc::clone(target));
        self.last = change;
    }

    fn tell_again(&mut self, target: &Arc<Target>) {
        let change = self.last + 1;
        let Some(held) = self.held.get_mut(target).filter(|held| held.gone_at.is_none()) else { return };
        self.by_change.remove(&held.change);
        held.change = change;
        self.by_change.insert(change, Arc::clone(target));
        self.last = change;
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Everything: what is in force, and what is gone.
    #[must_use]
    pub fn all(&self, wanted: impl Fn(&Target, &Decision) -> bool) -> Answer<'_> {
        let mut answer = Answer::default();
        for item in self.by_change.values().filter_map(|target| self.item(target)) {
            if !wanted(item.0.target, item.0.decision) {
                continue;
            }
            if item.1.gone_at.is_some() { answer.deleted.push(item.0) } else { answer.new.push(item.0) }
        }
        answer
    }

    /// What changed for a client. What it does not want any more is deleted for it.
    #[must_use]
    pub fn changed(&self, since: Since, wanted: impl Fn(&Target, &Decision) -> bool) -> Answer<'_> {
        let mut answer = Answer::default();
        for (item, held) in self.by_change.range(since.from + 1..).filter_map(|(_, target)| self.item(target)) {
            let is_in_force = held.gone_at.is_none() && wanted(item.target, item.decision);
            if is_in_force && held.weakened <= since.last { answer.new.push(item) } else { answer.deleted.push(item) }
        }
        answer
    }

    fn item<'a>(&'a self, target: &'a Arc<Target>) -> Option<(Item<'a>, &'a Held)> {
        let held = self.held.get(target)?;
        let item = Item { target, decision: &held.shown, number: held.change, end: held.told_end };
        Some((item, held))
    }

    /// What is in force against an address or a whole range, the strongest first.
    #[must_use]
    pub fn against(&self, net: IpNet) -> Vec<Item<'_>> {
        let lengths = self.lengths[usize::from(matches!(net, IpNet::V6(_)))];
        let lengths = (0..=net.prefix_len()).filter(|length| lengths & (1 << (*length).min(127)) != 0);
        let targets = lengths.filter_map(|length| {
            let wider = IpNet::new(net.network(), length).ok()?.trunc();
            Some(match wider {
                IpNet::V4(host) if length == 32 => Target { scope: Scope::Ip, value: host.addr().to_string().into() },
                IpNet::V4(_) | IpNet::V6(_) => Target { scope: Scope::Cidr, value: wider.to_string().into() },
            })
        });
        let mut found: Vec<Item<'_>> = targets.filter_map(|target| self.in_force(&target)).collect();
        found.sort_by_key(|item| std::cmp::Reverse(item.decision.rank()));
        found
    }

    /// What is in force against exactly this.
    #[must_use]
    pub fn in_force(&self, target: &Target) -> Option<Item<'_>> {
        let (target, held) = self.held.get_key_value(target)?;
        let item = Item { target, decision: &held.shown, number: held.change, end: held.told_end };
        held.gone_at.is_none().then_some(item)
    }

    /// The number of the last change.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }
}

/// What a client does: types that are one for it have one kind.
#[must_use]
pub(super) const fn kind(action: Action) -> &'static str {
    match action {
        Action::Block | Action::LockAccount => "ban",
        Action::Challenge | Action::StepUp => "captcha",
        Action::RevokeSessions => "revoke_sessions",
        Action::Throttle | Action::None | Action::Notify => "throttle",
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::edge::server::bouncers::{Bouncers, Caller, Named};

    const START: Millis = 1_561_682_490_000;
    const SECOND: Millis = 1_000;

    const WHO: Named<'_> = Named { key: "", agent: "" };

    fn client(n: usize) -> Caller {
        (n, IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn decision(action: Action, until: Option<Millis>) -> Decision {
        Decision { action, until, by_operator: false, wide: false, playbook: None }
    }

    fn is_wanted(_: &Target, _: &Decision) -> bool {
        true
    }

    /// How a client takes an answer.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Kind {
        /// Deleted, then new; a value has one type (pycrowdsec, nginx).
        DeletedFirst,
        /// New, then deleted (Traefik).
        NewFirst,
        /// A value has one entry for each type, which its own end ends (custom-bouncer).
        ByType,
        /// A value that is there already is not taken; its own end ends it (nftables).
        SkipsKnown,
    }

    /// What a client has, with the end that it was told.
    #[derive(Debug)]
    struct Model {
        kind: Kind,
        held: BTreeMap<(String, &'static str), Millis>,
        is_started: bool,
    }

    impl Model {
        fn new(kind: Kind) -> Self {
            Model { kind, held: BTreeMap::new(), is_started: false }
        }

        fn take(&mut self, answer: &Answer<'_>, now: Millis) {
            if matches!(self.kind, Kind::ByType | Kind::SkipsKnown) {
                self.held.retain(|_, end| *end > now);
            }
            if self.kind == Kind::NewFirst {
                self.add(answer);
                self.remove(answer);
            } else {
                self.remove(answer);
                self.add(answer);
            }
        }

        fn name(&self, item: &Item<'_>) -> (String, &'static str) {
            let kind = if self.kind == Kind::ByType { kind(item.decision.action) } else { "" };
            (item.target.value.to_string(), kind)
        }

        fn add(&mut self, answer: &Answer<'_>) {
            for item in &answer.new {
                let name = self.name(item);
                if self.kind != Kind::SkipsKnown || !self.held.contains_key(&name) {
                    self.held.insert(name, item.end);
                }
            }
        }

        fn remove(&mut self, answer: &Answer<'_>) {
            for item in &answer.deleted {
                let value = item.target.value.to_string();
                self.held.retain(|(held, _), _| *held != value);
            }
        }

        fn values(&self, now: Millis) -> BTreeSet<String> {
            let by_end = matches!(self.kind, Kind::ByType | Kind::SkipsKnown);
            let held = self.held.iter().filter(|(_, end)| !by_end || **end > now);
            held.map(|((value, _), _)| value.clone()).collect()
        }
    }

    /// One step of a history.
    #[derive(Debug, Clone)]
    enum Step {
        Set {
            tenant: u8,
            value: u8,
            action: Action,
            seconds: Option<u16>,
        },
        Lift {
            tenant: u8,
            value: u8,
        },
        Pass {
            seconds: u16,
        },
        Pull {
            client: u8,
        },
        /// The client asks, and never gets the answer.
        LostPull {
            client: u8,
        },
        Restart {
            client: u8,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let action = prop_oneof![Just(Action::Block), Just(Action::Challenge), Just(Action::Throttle)];
        let step = prop_oneof![
            4 => (0_u8..2, 0_u8..4, action, proptest::option::weighted(0.9, 1_u16..120))
                .prop_map(|(tenant, value, action, seconds)| Step::Set { tenant, value, action, seconds }),
            1 => (0_u8..2, 0_u8..4).prop_map(|(tenant, value)| Step::Lift { tenant, value }),
            2 => (0_u16..60).prop_map(|seconds| Step::Pass { seconds }),
            4 => (0_u8..4).prop_map(|client| Step::Pull { client }),
            1 => (0_u8..4).prop_map(|client| Step::LostPull { client }),
            1 => (0_u8..4).prop_map(|client| Step::Restart { client }),
        ];
        proptest::collection::vec(step, 1..120)
    }

    struct World {
        decisions: Decisions,
        clients: Bouncers,
        models: Vec<Model>,
        /// What each tenant says, by its own word.
        truth: BTreeMap<(u8, u8), (Action, Option<Millis>)>,
        lost: Vec<usize>,
        any_lost: Vec<bool>,
        now: Millis,
    }

    const VALUES: [&str; 4] = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"];

    impl World {
        fn new() -> Self {
            let kinds = [Kind::DeletedFirst, Kind::NewFirst, Kind::ByType, Kind::SkipsKnown];
            World {
                decisions: Decisions::default(),
                clients: Bouncers::default(),
                models: kinds.map(Model::new).into(),
                truth: BTreeMap::new(),
                lost: vec![0; kinds.len()],
                any_lost: vec![false; kinds.len()],
                now: START,
            }
        }

        fn set(&mut self, tenant: u8, value: u8, said: Option<(Action, Option<Millis>)>) {
            match said {
                Some(said) => drop(self.truth.insert((tenant, value), said)),
                None => drop(self.truth.remove(&(tenant, value))),
            }
            let said = said.map(|(action, until)| decision(action, until));
            let value = VALUES[usize::from(value)];
            self.decisions.set(&format!("t{tenant}"), Scope::Ip, value, said, self.now, self.now);
        }

        /// What stands against a value, the strongest and longest.
        fn truth_of(&self, value: &str) -> Option<(Action, Option<Millis>)> {
            let claims = self.truth.iter().filter(|((_, v), _)| VALUES[usize::from(*v)] == value);
            let claims = claims.map(|(_, said)| *said).filter(|(_, until)| until.is_none_or(|until| until > self.now));
            claims.max_by_key(|(action, until)| (action.strength(), until.unwrap_or(Millis::MAX)))
        }

        fn pull(&mut self, index: usize, is_lost: bool) {
            self.decisions.advance(self.now);
            let is_first = !self.models[index].is_started;
            let since = self.clients.pull(client(index), WHO, is_first, self.decisions.last(), self.now);
            let answer = match since {
                Some(since) => self.decisions.changed(since, is_wanted),
                None => self.decisions.all(is_wanted),
            };
            self.check(&answer);
            if is_lost && !is_first && self.lost[index] < LOST_MAX {
                self.lost[index] += 1;
                self.any_lost[index] = true;
                return;
            }
            self.lost[index] = 0;
            self.models[index].is_started = true;
            self.models[index].take(&answer, self.now);
        }

        fn check(&self, answer: &Answer<'_>) {
            let values = |items: &[Item<'_>]| items.iter().map(|item| item.target.value.clone()).collect::<Vec<_>>();
            let (new, deleted) = (values(&answer.new), values(&answer.deleted));
            let distinct: BTreeSet<_> = new.iter().chain(&deleted).collect();
            assert_eq!(distinct.len(), new.len() + deleted.len(), "a value stands twice in {answer:?}");
            for item in &answer.new {
                let truth = self.truth_of(&item.target.value);
                assert_eq!(truth, Some((item.decision.action, item.decision.until)), "{item:?}");
                assert!(item.end > self.now);
            }
        }

        /// Every client pulls twice, and has then what stands.
        fn converge(&mut self) {
            for index in 0..self.models.len() {
                // What went lost comes again within the answers that follow.
                for _ in 0..2 {
                    self.pull(index, false);
                }
                let model = &self.models[index];
                let values = VALUES.iter().filter(|value| self.truth_of(value).is_some());
                let truth: BTreeSet<String> = values.map(|value| (*value).to_owned()).collect();
                assert_eq!(model.values(self.now), truth, "{:?}", model.kind);
                if model.kind == Kind::ByType && !self.any_lost[index] {
                    for (value, held) in model.held.keys() {
                        // A weaker one of before, which it was told of then, may be there beside it.
                        let shown = self.truth_of(value).map(|(action, _)| action.strength());
                        let held = [Action::Throttle, Action::Challenge, Action::Block]
                            .into_iter()
                            .find(|a| kind(*a) == *held);
                        assert!(held.map(Action::strength) <= shown, "{value} {held:?}");
                    }
                }
                let mut again = Model::new(Kind::DeletedFirst);
                again.take(&self.decisions.all(is_wanted), self.now);
                assert_eq!(again.values(self.now), truth, "a fresh start");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn every_kind_of_client_ends_with_what_stands(steps in steps()) {
            let mut world = World::new();
            for step in steps {
                match step {
                    Step::Set { tenant, value, action, seconds } => {
                        let until = seconds.map(|seconds| world.now + Millis::from(seconds) * SECOND);
                        world.set(tenant, value, Some((action, until)));
                    }
                    Step::Lift { tenant, value } => world.set(tenant, value, None),
                    Step::Pass { seconds } => world.now += Millis::from(seconds) * SECOND,
                    Step::Pull { client } => world.pull(usize::from(client), false),
                    Step::LostPull { client } => world.pull(usize::from(client), true),
                    Step::Restart { client } => {
                        let kind = world.models[usize::from(client)].kind;
                        world.models[usize::from(client)] = Model::new(kind);
                        world.pull(usize::from(client), false);
                    }
                }
            }
            world.converge();
            world.now += 3_600 * SECOND;
            world.converge();
        }
    }

    fn names<'a>(items: &'a [Item<'a>]) -> Vec<&'a str> {
        items.iter().map(|item| kind(item.decision.action)).collect()
    }

    #[test]
    fn a_weaker_type_is_deleted_in_one_answer_and_new_in_the_next() {
        let (mut decisions, mut clients) = (Decisions::default(), Bouncers::default());
        let set = |decisions: &mut Decisions, action, now| {
            decisions.set("shop", Scope::Ip, VALUES[0], Some(decision(action, Some(START + 3_600_000))), now, now);
        };
        set(&mut decisions, Action::Block, START);
        let mut pull = |decisions: &Decisions, now| match clients.pull(client(0), WHO, false, decisions.last(), now) {
            Some(since) => {
                let answer = decisions.changed(since, is_wanted);
                (names(&answer.new).join(","), names(&answer.deleted).join(","))
            }
            None => (names(&decisions.all(is_wanted).new).join(","), "all".to_owned()),
        };
        assert_eq!(pull(&decisions, START), ("ban".to_owned(), "all".to_owned()));
        set(&mut decisions, Action::Challenge, START);
        assert_eq!(pull(&decisions, START + 1), (String::new(), "captcha".to_owned()));
        assert_eq!(pull(&decisions, START + 2), ("captcha".to_owned(), String::new()));
        // A stronger one at once.
        set(&mut decisions, Action::Block, START);
        assert_eq!(pull(&decisions, START + 3), ("ban".to_owned(), String::new()));
    }

    #[test]
    fn a_later_end_is_told_at_once_and_when_the_earlier_has_passed() {
        let (mut decisions, mut clients) = (Decisions::default(), Bouncers::default());
        let set = |decisions: &mut Decisions, seconds: i64, now| {
            let until = Some(START + seconds * SECOND);
            decisions.set("shop", Scope::Ip, VALUES[0], Some(decision(Action::Block, until)), now, now);
        };
        let mut pull = |decisions: &mut Decisions, seconds: i64| {
            let now = START + seconds * SECOND;
            decisions.advance(now);
            let since = clients.pull(client(0), WHO, false, decisions.last(), now);
            since.map_or(0, |since| decisions.changed(Since { from: since.last, ..since }, is_wanted).new.len())
        };
        set(&mut decisions, 60, START);
        assert_eq!(pull(&mut decisions, 0), 0);
        set(&mut decisions, 120, START + SECOND);
        assert_eq!(pull(&mut decisions, 1), 1);
        assert_eq!(pull(&mut decisions, 59), 0);
        assert_eq!(pull(&mut decisions, 60), 1);
        assert_eq!(pull(&mut decisions, 61), 0);
        assert_eq!(pull(&mut decisions, 120), 0);
        assert!(decisions.all(is_wanted).new.is_empty());
    }

    #[test]
    fn what_is_gone_is_told_for_a_day_even_if_it_went_before_the_server_began() {
        let mut decisions = Decisions::default();
        let now = START + GONE_KEPT_MS;
        decisions.set("shop", Scope::Ip, VALUES[0], None, START, now);
        decisions.set("shop", Scope::Ip, VALUES[1], None, START + 1, now);
        decisions.set("shop", Scope::Ip, VALUES[2], Some(decision(Action::Block, Some(now + 1))), now, now);
        decisions.advance(now);
        let deleted = |decisions: &Decisions| decisions.all(is_wanted).deleted.len();
        assert_eq!(deleted(&decisions), 1);
        decisions.advance(now + 1);
        assert_eq!(deleted(&decisions), 1);
        decisions.advance(now + GONE_KEPT_MS);
        assert_eq!(deleted(&decisions), 1);
        decisions.advance(now + GONE_KEPT_MS + 1);
        assert_eq!((deleted(&decisions), decisions.held.len(), decisions.by_change.len()), (0, 0, 0));
        assert!(decisions.ends.is_empty() && decisions.gone.is_empty() && decisions.again.is_empty());
    }

    #[test]
    fn an_address_is_held_by_its_ranges() {
        let mut decisions = Decisions::default();
        for (scope, value, action) in [
            (Scope::Ip, "203.0.113.9", Action::Challenge),
            (Scope::Cidr, "203.0.113.0/24", Action::Block),
            (Scope::Cidr, "2001:db8:1:2::/64", Action::Block),
            (Scope::Cidr, "2001:db8:1::/48", Action::Challenge),
        ] {
            decisions.set("shop", scope, value, Some(decision(action, None)), START, START);
        }
        let against = |text: &str| {
            let net = text.parse().unwrap_or_else(|_| IpNet::from(text.parse::<IpAddr>().unwrap()));
            names(&decisions.against(net)).join(",")
        };
        assert_eq!(against("203.0.113.9"), "ban,captcha");
        assert_eq!(against("203.0.113.10"), "ban");
        assert_eq!(against("203.0.113.0/25"), "ban");
        assert_eq!(against("203.0.112.0/23"), "");
        assert_eq!(against("2001:db8:1:2::9"), "ban,captcha");
        assert_eq!(against("2001:db8:1:3::9"), "captcha");
        assert_eq!(against("2001:db8:2::9"), "");
    }
}
