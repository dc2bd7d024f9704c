//! What stands against one entity: who asked for what until when, and the one entry that shows.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::frames::State;
use super::playbook::{Playbook, does_restrict, strength};
use super::said::{Block, Said, Verdict, number};
use super::window::Window;
use super::{ENFORCEMENT_MS, Millis, Who};

#[derive(Debug, Clone)]
pub struct Claim {
    pub playbook: String,
    action: String,
    /// It restricts; otherwise it only keeps an episode open.
    live: bool,
    since: Millis,
    pub until: Millis,
    step: Millis,
    pub verdict_id: String,
}

#[derive(Debug)]
struct Offence {
    playbook: String,
    live: bool,
    count: usize,
    forgotten_at: Millis,
}

#[derive(Debug, Clone, PartialEq)]
struct Shown {
    action: String,
    since: Millis,
    until: Millis,
    playbook: String,
    verdict_id: String,
}

#[derive(Debug, Default)]
struct Standing {
    claims: Vec<Claim>,
    offences: Vec<Offence>,
    generation: i64,
    shown: Option<Shown>,
}

/// What is known when an entity is judged.
#[derive(Debug)]
pub struct Cause<'a> {
    pub event_id: &'a str,
    pub occurred_at: Millis,
    pub arrived_at: Millis,
    pub delay_ms: Millis,
    pub incident_id: Option<&'a str>,
    /// An exemption or the address itself protects it.
    pub is_spared: bool,
    pub because: &'a str,
}

/// What a detector saw.
#[derive(Debug, Clone)]
pub struct Found {
    pub measures: BTreeMap<String, String>,
    pub window: (Millis, Millis),
}

/// The standings of one task, and what falls due.
#[derive(Debug, Default)]
pub struct Standings {
    all: BTreeMap<Who, Standing>,
    due: BTreeSet<(Millis, Who)>,
}

impl Standing {
    /// The last of those that end last, of the strongest.
    fn in_force(&self, now: Millis) -> Option<&Claim> {
        self.claims.iter().filter(|c| c.live && c.until > now).max_by_key(|c| (strength(&c.action), c.until))
    }

    fn next_end(&self) -> Option<Millis> {
        self.claims.iter().map(|c| c.until).min()
    }

    /// Brings the entry in line with the claims.
    fn settle(&mut self, now: Millis) -> Option<Result<Shown, ()>> {
        self.claims.retain(|c| c.until > now);
        let since = self.shown.as_ref().map(|shown| shown.since);
        let wanted = self.in_force(now).map(|c| Shown {
            action: c.action.clone(),
            since: since.unwrap_or(c.since),
            until: c.until,
            playbook: c.playbook.clone(),
            verdict_id: c.verdict_id.clone(),
        });
        if wanted == self.shown {
            return None;
        }
        self.shown.clone_from(&wanted);
        self.generation = (self.generation + 1).max(now);
        Some(wanted.ok_or(()))
    }

    /// A claim is prolonged once half of its step has passed.
    fn prolong(&mut self, now: Millis, arrived_at: Millis, which: impl Fn(&Claim) -> bool) -> bool {
        let mut any = false;
        for claim in &mut self.claims {
            if claim.until > now && claim.until - arrived_at <= claim.step / 2 && which(claim) {
                claim.until = arrived_at + claim.step;
                any = true;
            }
        }
        any
    }

    fn offend(&mut self, playbook: &Playbook, now: Millis) -> usize {
        self.offences.retain(|o| o.forgotten_at > now);
        let forgotten_at = now + playbook.ladder_memory();
        let live = playbook.restricts();
        match self.offences.iter_mut().find(|o| o.playbook == playbook.id && o.live == live) {
            Some(offence) => {
                offence.count += 1;
                offence.forgotten_at = forgotten_at;
                offence.count
            }
            None => {
                self.offences.push(Offence { playbook: playbook.id.clone(), live, count: 1, forgotten_at });
                1
            }
        }
    }

    /// Whether nothing of it matters any more.
    fn is_forgotten(&self, now: Millis) -> bool {
        self.claims.is_empty() && self.offences.iter().all(|o| o.forgotten_at <= now) && self.generation < now
    }
}

impl Standings {
    /// What falls due until an input of this time, or has fallen due already: it comes before the input.
    pub fn pass(&mut self, clock: &mut Millis, until: Millis, said: &mut Said) {
        while let Some((at, who)) = self.due.first().filter(|(at, _)| *at <= until.max(*clock)).cloned() {
            *clock = (*clock).max(at);
            self.due.remove(&(at, who.clone()));
            self.look(&who, *clock, said);
            if let Some(next) = self.all.get(&who).and_then(Standing::next_end) {
                self.due.insert((next, who));
            }
        }
    }

    /// Lets end what has ended by now, each claim at its own time.
    pub fn look(&mut self, who: &Who, now: Millis, said: &mut Said) {
        let Some(standing) = self.all.get_mut(who) else { return };
        if standing.is_forgotten(now) {
            self.all.remove(who);
            return;
        }
        while let Some(end) = standing.next_end().filter(|end| *end <= now) {
            if let Some(change) = standing.settle(end) {
                let block = block(change, standing.generation, "expired", None);
                said.block(who.key(), block, &format!("a claim ended at {end}"));
            }
        }
    }

    /// The block on an entity that ends last.
    pub fn blocked_by(&self, who: &Who, now: Millis) -> Option<&Claim> {
        let claims = &self.all.get(who)?.claims;
        claims.iter().filter(|c| c.live && c.until > now && c.action == "BLOCK").max_by_key(|c| c.until)
    }

    /// Asks a playbook about an entity; `true` when it said something new.
    pub fn ask(
        &mut self,
        playbook: &Playbook,
        who: &Who,
        now: Millis,
        cause: &Cause<'_>,
        said: &mut Said,
        look: impl FnOnce() -> Option<Found>,
    ) -> bool {
        let live = playbook.restricts();
        let open = |c: &&Claim| c.playbook == playbook.id && c.live == live && c.until > now;
        let episode = self.all.get(who).and_then(|standing| standing.claims.iter().find(open)).cloned();
        if episode.as_ref().is_some_and(|c| c.until - now > c.step / 2) {
            return false;
        }
        let Some(found) = look() else { return false };
        if cause.is_spared {
            said.count("spared");
            return false;
        }
        // Too old to act upon, or whatever it opened would have ended by now.
        if cause.delay_ms > ENFORCEMENT_MS || cause.arrived_at + playbook.step(1) <= now {
            said.count("too old");
            return false;
        }
        let standing = self.all.entry(who.clone()).or_default();
        let mut verdict = None;
        if episode.is_some() {
            standing.prolong(now, cause.arrived_at, |c| c.playbook == playbook.id);
        } else {
            let step =
                if playbook.has_ladder() { playbook.step(standing.offend(playbook, now)) } else { playbook.over() };
            let until = cause.arrived_at + step;
            let verdict_id = verdict_id(who, playbook, cause);
            standing.claims.retain(|c| c.playbook != playbook.id && c.until > now);
            standing.claims.push(Claim {
                playbook: playbook.id.clone(),
                action: playbook.action().to_owned(),
                live,
                since: now,
                until,
                step,
                verdict_id: verdict_id.clone(),
            });
            verdict = Some(Verdict {
                verdict_id,
                occurred_at: cause.occurred_at,
                playbook: playbook.id.clone(),
                mode: if playbook.is_live() { "LIVE" } else { "SHADOW" }.to_owned(),
                finding: playbook.finding.clone(),
                severity: playbook.severity.clone(),
                action: playbook.action().to_owned(),
                until: does_restrict(playbook.action()).then_some(until),
                window_start: found.window.0,
                window_end: found.window.1,
                measures: found.measures,
                evidence: vec![cause.event_id.to_owned()],
                incident_id: cause.incident_id.map(str::to_owned),
            });
        }
        let is_new = verdict.is_some();
        if let Some(verdict) = verdict {
            said.verdict(who.key(), verdict, cause.because);
        }
        if let Some(change) = standing.settle(now) {
            said.block(who.key(), block(change, standing.generation, "lifted", cause.incident_id), cause.because);
        }
        self.due.extend(standing.next_end().map(|end| (end, who.clone())));
        is_new
    }

    /// What an edge stopped keeps alive what stands, and opens nothing.
    pub fn renew(&mut self, who: &Who, now: Millis, cause: &Cause<'_>, said: &mut Said) {
        let Some(standing) = self.all.get_mut(who) else { return };
        if cause.is_spared || cause.delay_ms > ENFORCEMENT_MS || !standing.prolong(now, cause.arrived_at, |c| c.live) {
            return;
        }
        if let Some(change) = standing.settle(now) {
            said.block(who.key(), block(change, standing.generation, "lifted", cause.incident_id), cause.because);
        }
        self.due.extend(standing.next_end().map(|end| (end, who.clone())));
    }
}

fn block(change: Result<Shown, ()>, generation: i64, cause: &str, incident_id: Option<&str>) -> Block {
    match change {
        Ok(shown) => Block::Put {
            action: shown.action,
            since: shown.since,
            until: Some(shown.until),
            generation,
            playbook: Some(shown.playbook),
            verdict_id: Some(shown.verdict_id),
            incident_id: incident_id.map(str::to_owned),
        },
        Err(()) => Block::Lift { generation, cause: cause.to_owned() },
    }
}

/// The first half of the SHA-256 of tenant, playbook, scope, value and event, each behind its length, and the time.
fn verdict_id(who: &Who, playbook: &Playbook, cause: &Cause<'_>) -> String {
    let mut text = Vec::new();
    for part in [&who.tenant, &playbook.id, who.scope, &who.value, cause.event_id] {
        text.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        text.extend(part.as_bytes());
    }
    text.extend(cause.occurred_at.to_be_bytes());
    Sha256::digest(&text)[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares the measures of an entity with the bounds of a playbook. All must hold.
pub fn within_bounds(
    playbook: &Playbook,
    window: Option<&Window>,
    addresses_blocked: usize,
    good_accounts: usize,
    state: State,
) -> Option<Found> {
    let scale = if playbook.scale_by_good_accounts { 1.0 + ((1 + good_accounts) as f64).log2() } else { 1.0 };
    let mut measures = BTreeMap::new();
    for (measure, bound) in &playbook.trigger {
        let (attempts, failures) = window.map_or((0, 0), |window| (window.attempts(), window.failures()));
        let (value, grows) = match measure.as_str() {
            "attempts" => (attempts as f64, true),
            "failures" => (failures as f64, true),
            "failure_share" if attempts == 0 => (0.0, false),
            "failure_share" => (failures as f64 / attempts as f64, false),
            "accounts_failed" => (window.map_or(0, Window::accounts_failed) as f64, true),
            "sources" => (window.map_or(0, Window::sources) as f64, true),
            "addresses_blocked" => (addresses_blocked as f64, false),
            "good_accounts" => (good_accounts as f64, false),
            other => panic!("measure {other}"),
        };
        measures.insert(measure.clone(), number(value));
        let least = bound.at_least.as_ref().map(|least| least.at(state));
        let least = least.map(|least| if grows { (least * scale).ceil() } else { least });
        if least.is_some_and(|least| value < least) || bound.at_most.is_some_and(|most| value > most) {
            return None;
        }
        if let Some(threshold) = least.or(bound.at_most) {
            measures.insert(format!("{measure}.threshold"), number(threshold));
        }
    }
    Some(Found { measures, window: window.map_or((0, 0), Window::span) })
}
