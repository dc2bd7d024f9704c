//! What stands against one entity: its claims, and the one restriction they add up to.
//!
//! Every claim says who asked, for what and until when. The entry on the blocklist is their merge: the strongest
//! action, then the latest end. When a claim ends, the next one shows.

use serde::{Deserialize, Serialize};

use crate::event::{Action, Millis};

/// Most claims on one entity. A further playbook replaces the claim that ends first.
pub const CLAIMS_MAX: usize = 8;
/// Most offences remembered of one entity: each playbook's, live and in shadow.
const OFFENCES_MAX: usize = 2 * CLAIMS_MAX;

/// One playbook's wish about one entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub playbook: Box<str>,
    pub action: Action,
    /// A claim in shadow, or one that restricts nobody, holds its episode open and shows nothing.
    pub live: bool,
    pub since: Millis,
    pub until: Millis,
    /// By how much it is prolonged while the entity goes on: the step of the ladder that it stands on.
    pub step_ms: Millis,
    pub verdict_id: Box<str>,
    pub reason: Box<str>,
    /// Its playbook may keep the entity away from a whole machine, and not only from the login route.
    pub wide: bool,
    /// The person whose wish it is; `None`: a playbook's.
    pub actor: Option<Box<str>>,
}

impl Claim {
    /// Whether it is time to prolong it. Once half a step has passed and not before, so that a flood of attempts is
    /// not a flood of blocklist records.
    #[must_use]
    pub const fn wants_prolonging(&self, now: Millis) -> bool {
        self.until.saturating_sub(now) <= self.step_ms / 2
    }
}

/// How often a playbook found an entity: its place on the ladder. What happened in shadow is held against nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Offence {
    playbook: Box<str>,
    live: bool,
    count: u32,
    forgotten_at: Millis,
}

/// The restriction that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub action: Action,
    pub since: Millis,
    pub until: Millis,
    pub playbook: Box<str>,
    pub verdict_id: Box<str>,
    pub reason: Box<str>,
    /// That of the claim that shows: a wide claim behind a narrow one that lasts longer takes nobody's mail away.
    pub wide: bool,
    /// The person whose wish it is; `None`: a playbook's.
    pub actor: Option<Box<str>>,
}

/// A change of the published entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put { shown: Shown, generation: i64 },
    Lift { generation: i64 },
}

/// Everything that stands against one entity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    claims: Vec<Claim>,
    offences: Vec<Offence>,
    generation: i64,
    shown: Option<Shown>,
    /// Until when a person keeps playbooks off the entity: their claims do not show.
    lifted_until: Option<Millis>,
}

/// What stands in place of a playbook's id in a person's claim: no playbook can be called so.
pub const OPERATOR: &str = "@operator";

impl Standing {
    /// The claim of a playbook that is in force, in the same mode: a playbook that goes live does not go on with the
    /// episode it opened in shadow.
    #[must_use]
    pub fn claim(&self, playbook: &str, live: bool, now: Millis) -> Option<&Claim> {
        self.claims.iter().find(|c| &*c.playbook == playbook && c.live == live && c.until > now)
    }

    /// The strongest claim in force: what an edge does now.
    #[must_use]
    pub fn in_force(&self, now: Millis) -> Option<&Claim> {
        self.claims.iter().filter(|c| self.shows(c, now)).max_by_key(|c| (c.action.strength(), c.until))
    }

    /// Whether somebody is kept out now.
    #[must_use]
    pub fn blocked_by(&self, now: Millis) -> Option<&Claim> {
        self.claims.iter().filter(|c| self.shows(c, now) && c.action == Action::Block).max_by_key(|c| c.until)
    }

    fn shows(&self, claim: &Claim, now: Millis) -> bool {
        let is_lifted = claim.actor.is_none() && self.lifted_until.is_some_and(|end| end > now);
        claim.live && claim.until > now && !is_lifted
    }

    /// A person lifts what restricts the entity, other people's wishes among it, and keeps playbooks off it until `until`.
    pub fn lift(&mut self, until: Millis) {
        self.claims.retain(|claim| claim.actor.is_none());
        self.lifted_until = Some(until);
    }

    /// Keeps playbooks off the entity until `until`; what people want stays.
    pub fn keep_off(&mut self, until: Millis) {
        self.lifted_until = self.lifted_until.max(Some(until));
    }

    /// Drops what these playbooks want.
    pub fn withdraw(&mut self, is_withdrawn: impl Fn(&str) -> bool) {
        self.claims.retain(|claim| claim.actor.is_some() || !is_withdrawn(&claim.playbook));
    }

    /// A person wants the entity restricted: what was lifted counts again.
    pub fn ask(&mut self, claim: Claim) {
        self.lifted_until = None;
        self.add(claim);
    }

    /// Takes note of an offence and gives its number within the memory of the ladder, from 1.
    pub fn offend(&mut self, playbook: &str, live: bool, now: Millis, memory_ms: Millis) -> u32 {
        self.offences.retain(|o| o.forgotten_at > now);
        let forgotten_at = now.saturating_add(memory_ms);
        if let Some(offence) = self.offences.iter_mut().find(|o| &*o.playbook == playbook && o.live == live) {
            offence.count = offence.count.saturating_add(1);
            offence.forgotten_at = forgotten_at;
            return offence.count;
        }
        if self.offences.len() == OFFENCES_MAX {
            self.offences.remove(0);
        }
        self.offences.push(Offence { playbook: playbook.into(), live, count: 1, forgotten_at });
        1
    }

    /// Adds a claim, or puts it in place of the same playbook's earlier one.
    pub fn add(&mut self, claim: Claim) {
        self.claims.retain(|c| c.playbook != claim.playbook && c.until > claim.since);
        if self.claims.len() == CLAIMS_MAX {
            let first_to_end = self.claims.iter().enumerate().min_by_key(|(_, c)| c.until).map(|(at, _)| at);
            if let Some(at) = first_to_end {
                self.claims.remove(at);
            }
        }
        self.claims.push(claim);
    }

    /// Prolongs by its own step each claim that `which` takes and that wants it; whether any was.
    pub fn prolong(&mut self, now: Millis, arrived_at: Millis, which: impl Fn(&Claim) -> bool) -> bool {
        let mut any = false;
        for claim in &mut self.claims {
            if claim.until > now && claim.wants_prolonging(arrived_at) && which(claim) {
                claim.until = arrived_at.saturating_add(claim.step_ms);
                any = true;
            }
        }
        any
    }

    /// Lets every claim end that ended by `now`, each at its own time: what is published does not depend on when
    /// somebody looked.
    pub fn let_end(&mut self, now: Millis) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(end) = self.next_end().filter(|end| *end <= now) {
            changes.extend(self.settle(end));
        }
        changes
    }

    /// Brings the published entry in line with the claims at stream time `now`; `None` when it already is.
    pub fn settle(&mut self, now: Millis) -> Option<Change> {
        self.claims.retain(|c| c.until > now);
        self.lifted_until = self.lifted_until.filter(|end| *end > now);
        let wanted = self.in_force(now).map(|c| Shown {
            action: c.action,
            since: self.shown.as_ref().map_or(c.since, |s| s.since),
            until: c.until,
            playbook: c.playbook.clone(),
            verdict_id: c.verdict_id.clone(),
            reason: c.reason.clone(),
            wide: c.wide,
            actor: c.actor.clone(),
        });
        if wanted == self.shown {
            return None;
        }
        self.shown = wanted;
        self.generation = self.generation.saturating_add(1).max(now);
        let generation = self.generation;
        Some(match &self.shown {
            Some(shown) => Change::Put { shown: shown.clone(), generation },
            None => Change::Lift { generation },
        })
    }

    /// When the next claim, or a lift, ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Millis> {
        self.claims.iter().map(|c| c.until).chain(self.lifted_until).filter(|end| *end < Millis::MAX).min()
    }

    /// From when nothing of it matters any more: never while a claim is held, since its end must still be published.
    /// The generation is kept until stream time has passed it, so that the next one is larger without it.
    #[must_use]
    pub fn forgotten_at(&self) -> Millis {
        if !self.claims.is_empty() || self.lifted_until.is_some() {
            return Millis::MAX;
        }
        let offences = self.offences.iter().map(|o| o.forgotten_at);
        offences.max().unwrap_or(Millis::MIN).max(self.generation.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(playbook: &str, action: Action, since: Millis, until: Millis) -> Claim {
        Claim {
            playbook: playbook.into(),
            action,
            live: true,
            since,
            until,
            step_ms: until - since,
            verdict_id: playbook.into(),
            reason: "why".into(),
            wide: false,
            actor: None,
        }
    }

    #[test]
    fn the_strongest_claim_shows_and_the_next_one_when_it_ends() {
        let mut standing = Standing::default();
        standing.add(claim("a", Action::Challenge, 0, 900));
        assert!(matches!(standing.settle(0), Some(Change::Put { .. })));
        standing.add(Claim { wide: true, ..claim("b", Action::Block, 100, 400) });
        let Some(Change::Put { shown, .. }) = standing.settle(100) else { panic!() };
        assert_eq!((shown.action, shown.since, shown.until, shown.wide), (Action::Block, 0, 400, true));
        standing.add(claim("c", Action::Challenge, 200, 300));
        assert_eq!(standing.settle(200), None, "a weaker claim changes nothing that shows");
        let changes = standing.let_end(1_000);
        let [Change::Put { shown, generation: 400 }, Change::Lift { generation: 900 }] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!((shown.action, shown.until, shown.wide), (Action::Challenge, 900, false));
    }

    #[test]
    fn a_person_lifts_what_playbooks_say_and_asks_for_more() {
        let mut standing = Standing::default();
        standing.add(claim("a", Action::Block, 0, 900));
        standing.settle(0);
        standing.lift(500);
        assert!(matches!(standing.settle(100), Some(Change::Lift { generation: 100 })));
        standing.add(claim("b", Action::Block, 200, 950));
        assert_eq!(standing.settle(200), None, "nothing a playbook says shows");
        assert!(standing.blocked_by(200).is_none());
        let ada = Claim { actor: Some("ada".into()), ..claim(OPERATOR, Action::Challenge, 300, Millis::MAX) };
        standing.ask(ada.clone());
        let Some(Change::Put { shown, .. }) = standing.settle(300) else { panic!() };
        assert_eq!((shown.action, &*shown.playbook), (Action::Block, "b"), "what was lifted counts again");
        standing.lift(600);
        assert!(matches!(standing.settle(400), Some(Change::Lift { .. })), "another person's wish goes as well");
        let changes = standing.let_end(2_000);
        let [Change::Put { shown, generation: 600 }, Change::Lift { generation: 950 }] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!((&*shown.playbook, shown.until), ("b", 950));
        standing.ask(ada);
        standing.settle(2_000);
        assert_eq!((standing.next_end(), standing.forgotten_at()), (None, Millis::MAX), "it has no end");
    }

    #[test]
    fn a_full_list_gives_up_the_claim_that_ends_first() {
        let mut standing = Standing::default();
        for n in 0..=CLAIMS_MAX as i64 {
            standing.add(claim(&format!("p{n}"), Action::Block, 0, 100 + n));
        }
        assert_eq!(standing.claims.len(), CLAIMS_MAX);
        assert_eq!(standing.next_end(), Some(101));
    }

    proptest! {
        /// Whatever is claimed, prolonged and left to end, generations grow, the entry is what is in force, and a row
        /// that was forgotten when it says it may be goes on as if it had been kept.
        #[test]
        fn generations_grow_even_over_a_forgotten_row(
            steps in prop::collection::vec((0usize..4, 0i64..500, 1i64..400, any::<bool>()), 1..60),
        ) {
            let actions = [Action::Throttle, Action::Challenge, Action::Block, Action::Block];
            let mut standing = Standing::default();
            let (mut now, mut last, mut shown): (Millis, i64, Option<Shown>) = (1_000, 0, None);
            for (playbook, pause, length, renews) in steps {
                now += pause;
                let mut changes = standing.let_end(now);
                if standing.forgotten_at() <= now {
                    standing = Standing::default();
                }
                let id = format!("p{playbook}");
                if renews {
                    standing.prolong(now, now, |c| *c.playbook == *id);
                } else {
                    standing.offend(&id, true, now, 2 * length);
                    standing.add(claim(&id, actions[playbook], now, now + length));
                }
                changes.extend(standing.settle(now));
                for change in changes {
                    let generation = match change {
                        Change::Put { shown: put, generation } => {
                            shown = Some(put);
                            generation
                        }
                        Change::Lift { generation } => {
                            prop_assert!(shown.take().is_some(), "lifted what did not show");
                            generation
                        }
                    };
                    prop_assert!(generation > last, "{generation} after {last}");
                    last = generation;
                }
                let in_force = standing.in_force(now).map(|c| (c.action, c.until));
                prop_assert_eq!(in_force, shown.as_ref().map(|s| (s.action, s.until)));
            }
        }
    }
}
