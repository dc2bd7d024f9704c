//! Playbooks that change while the job runs: the records of the topic `playbooks` over those of the folder.
//!
//! ```text
//! folder ──▶ what stands on the topic under `id` ──▶ `id#override`, until its end ──▶ the set in effect
//! ```
//!
//! Everybody hears the changes in the order of the topic, and whether one is taken follows from those before it and from
//! the folder: never from a clock, and not from what has ended where. So all who hear the same take the same. What is not
//! taken leaves things as they were. Which overrides are in effect follows from the time that is asked for, and from
//! nothing else.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{PLAYBOOK_BYTES_MAX, Plan, Playbook, PlaybookMode, Problem, check, format_duration};
use crate::event::Millis;
use crate::event::wire::{ARRIVAL_MS_MAX, TEXT_BYTES_MAX, format_millis, parse_millis};

/// Most playbooks of one set, those of the folder among them; and most changes that are held.
pub const PLAYBOOKS_MAX: usize = 1_000;
/// All texts of the topic together: every task holds them.
pub const CHANGES_BYTES_MAX: usize = 4 << 20;
/// Longest time that an override may be in effect: 31 days.
pub const OVERRIDE_MS_MAX: Millis = 31 * 86_400_000;
/// What the key of an override has behind the playbook's id.
pub const OVERRIDE: &str = "#override";
/// Longest name of whoever makes a change.
pub const ACTOR_BYTES_MAX: usize = 256;
/// Longest reason that is given for not taking a change.
const WHY_CHARS_MAX: usize = 1_000;

/// A record of the topic `playbooks`, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaybookChange {
    /// YAML.
    pub text: Box<str>,
    pub actor: Box<str>,
    pub reason: Box<str>,
    /// When it was put on the topic.
    pub at: Millis,
    /// When an override ends; `None` for a change that stays.
    pub expires_at: Option<Millis>,
}

/// Reads a record of the topic: its key, and the change; `None` for a tombstone.
///
/// # Errors
/// Why it cannot be taken, whatever else stands on the topic.
pub fn read_change<'a>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    header: impl Fn(&str) -> Option<&'a [u8]>,
    at: Millis,
) -> Result<(Box<str>, Option<PlaybookChange>), String> {
    let key = key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
    if !is_id(key.strip_suffix(OVERRIDE).unwrap_or(key)) {
        return Err(format!("key `{}`: a playbook's id, or `id{OVERRIDE}`", one_line(key, 64)));
    }
    let Some(value) = value else { return Ok((key.into(), None)) };
    if value.len() > PLAYBOOK_BYTES_MAX {
        return Err(format!("{} bytes of text; at most {PLAYBOOK_BYTES_MAX}", value.len()));
    }
    let text = std::str::from_utf8(value).map_err(|_| "the text is not UTF-8".to_owned())?;
    let said = |name: &str, bytes_max: usize| match header(name).map(std::str::from_utf8) {
        Some(Ok(said)) if !said.trim().is_empty() && said.len() <= bytes_max => Ok(said),
        Some(Ok(_) | Err(_)) | None => Err(format!("header `{name}`: 1 to {bytes_max} bytes of text are needed")),
    };
    let expires_at = match header("expires_at") {
        None => None,
        Some(bytes) => Some(time(bytes).ok_or("header `expires_at`: RFC 3339 text, or milliseconds")?),
    };
    let change = PlaybookChange {
        text: text.into(),
        actor: said("actor", ACTOR_BYTES_MAX)?.into(),
        reason: said("reason", TEXT_BYTES_MAX)?.into(),
        at: at.clamp(-ARRIVAL_MS_MAX, ARRIVAL_MS_MAX),
        expires_at,
    };
    let playbook = change.playbook(key)?;
    if header("version").is_some_and(|version| version != playbook.version.to_string().as_bytes()) {
        return Err(format!("header `version`: the text has version {}", playbook.version));
    }
    Ok((key.into(), Some(change)))
}

fn time(bytes: &[u8]) -> Option<Millis> {
    let text = std::str::from_utf8(bytes).ok()?;
    let at = text.parse().ok().or_else(|| parse_millis(text))?;
    (-ARRIVAL_MS_MAX..=ARRIVAL_MS_MAX).contains(&at).then_some(at)
}

/// As the ids of playbooks are.
fn is_id(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain)
}

impl PlaybookChange {
    /// The playbook, checked by itself and against its key.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn playbook(&self, key: &str) -> Result<Playbook, String> {
        let id = key.strip_suffix(OVERRIDE);
        match (id, self.expires_at) {
            (Some(_), None) => return Err("an override says when it ends, in the header `expires_at`".to_owned()),
            (None, Some(_)) => {
                return Err(format!(
                    "what ends by itself has the key `{key}{OVERRIDE}`, so that compaction leaves the base"
                ));
            }
            (Some(_), Some(end)) if end <= self.at => return Err("it ends before it begins".to_owned()),
            (Some(_), Some(end)) if end.saturating_sub(self.at) > OVERRIDE_MS_MAX => {
                return Err(format!("an override lasts at most {}", format_duration(OVERRIDE_MS_MAX)));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        let playbook = Playbook::parse(&self.text).map_err(|what| one_line(&what, WHY_CHARS_MAX))?;
        if playbook.id != id.unwrap_or(key) {
            return Err(format!("the text is of `{}`, the key of `{key}`", one_line(&playbook.id, 64)));
        }
        all_of(&check(std::slice::from_ref(&playbook)))?;
        Ok(playbook)
    }

    /// Whether it has no end, or one that is not reached.
    #[must_use]
    pub fn is_in_effect(&self, now: Millis) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }
}

/// A change that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldChange {
    pub playbook: Playbook,
    pub actor: Box<str>,
    pub reason: Box<str>,
    pub at: Millis,
    pub expires_at: Option<Millis>,
    /// Its place on the topic.
    pub offset: i64,
    bytes: usize,
}

impl HeldChange {
    fn is_in_effect(&self, now: Millis) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }
}

/// What came of a change that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The same stood there before, otherwise.
    pub is_changed: bool,
    /// Keys of overrides that had ended and made room.
    pub ended: Vec<Box<str>>,
}

/// The playbooks of the folder and the changes that were taken.
#[derive(Debug, Clone)]
pub struct PlaybookSet {
    folder: Arc<[Playbook]>,
    /// The folder's alone.
    folder_plan: Plan,
    held: BTreeMap<Box<str>, HeldChange>,
    /// Of all texts held.
    bytes: usize,
}

/// A set at some time, compiled.
#[derive(Debug, Clone)]
pub struct Effective {
    pub playbooks: Vec<Playbook>,
    pub plan: Plan,
    /// The next end of an override; `Millis::MAX` when none ends.
    pub until: Millis,
    /// Changes that are held and do not go with the others now, with the reason: the folder may have changed since they
    /// were taken, or overrides that went together do not when one of them has ended.
    pub left_out: Vec<(Box<str>, String)>,
}

impl PlaybookSet {
    /// The folder's playbooks, checked, and their plan.
    #[must_use]
    pub fn new(folder: Arc<[Playbook]>, folder_plan: Plan) -> Self {
        PlaybookSet { folder, folder_plan, held: BTreeMap::new(), bytes: 0 }
    }

    /// The changes that were taken and not removed, by key.
    pub fn held(&self) -> impl Iterator<Item = (&str, &HeldChange)> {
        self.held.iter().map(|(key, held)| (&**key, held))
    }

    /// The folder's.
    #[must_use]
    pub fn folder(&self) -> &[Playbook] {
        &self.folder
    }

    /// Holds again what was taken before. One that does not read any more is left out.
    ///
    /// # Errors
    /// It does not read.
    pub fn restore(&mut self, key: &str, offset: i64, change: &PlaybookChange) -> Result<(), String> {
        let held = held(change, change.playbook(key)?, offset);
        self.put(key, held);
        Ok(())
    }

    /// Takes the next change of the topic, or a tombstone.
    ///
    /// # Errors
    /// Why it is not taken; nothing changed.
    pub fn apply(&mut self, key: &str, offset: i64, change: Option<&PlaybookChange>) -> Result<Applied, String> {
        let Some(change) = change else { return self.remove(key) };
        let playbook = change.playbook(key)?;
        if let Some(same) = self.held.get(key).filter(|held| held.playbook == playbook)
            && same.expires_at == change.expires_at
        {
            return Ok(Applied::default());
        }
        self.check_version(&playbook)?;
        let new = held(change, playbook, offset);
        let ended = self.ended_for(key, &new)?;
        let before = self.put(key, new);
        if let Err(why) = self.check(change.at) {
            match before {
                Some(before) => drop(self.put(key, before)),
                None => drop(self.take(key)),
            }
            return Err(why);
        }
        for key in &ended {
            self.take(key);
        }
        Ok(Applied { is_changed: true, ended })
    }

    fn remove(&mut self, key: &str) -> Result<Applied, String> {
        let Some(before) = self.take(key) else { return Ok(Applied::default()) };
        // The base goes without its overrides anyway; and what it is replaced by again may not go with what came since.
        if !key.ends_with(OVERRIDE)
            && let Err(why) = self.base(&mut Vec::new(), true)
        {
            self.put(key, before);
            return Err(format!("without it the others do not go together: {why}"));
        }
        Ok(Applied { is_changed: true, ended: Vec::new() })
    }

    /// Of one playbook no two versions are the same and different.
    fn check_version(&self, new: &Playbook) -> Result<(), String> {
        let id = new.id.as_str();
        let base = self.held.get(id).map(|held| &held.playbook).or_else(|| self.folder.iter().find(|p| p.id == id));
        let over = self.held.get(format!("{id}{OVERRIDE}").as_str()).map(|held| &held.playbook);
        let highest = base.into_iter().chain(over).filter(|p| *p != new).map(|p| p.version).max();
        match highest {
            Some(highest) if new.version <= highest => Err(format!(
                "version: {} is not above {highest}, which this playbook has already{}; write `version: {}`",
                new.version,
                if over.is_some_and(|over| over.version == highest) { " in its override" } else { "" },
                highest.saturating_add(1)
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Overrides that have ended and must go to make room for one more.
    fn ended_for(&self, key: &str, new: &HeldChange) -> Result<Vec<Box<str>>, String> {
        let replaced = self.held.get(key);
        let bytes = self.bytes - replaced.map_or(0, |held| held.bytes) + new.bytes;
        let count = self.held.len() + usize::from(replaced.is_none());
        if count <= PLAYBOOKS_MAX && bytes <= CHANGES_BYTES_MAX {
            return Ok(Vec::new());
        }
        let ended = self.held.iter().filter(|(held, of)| &***held != key && !of.is_in_effect(new.at));
        let (mut keys, mut freed) = (Vec::new(), 0);
        for (key, of) in ended {
            keys.push(key.clone());
            freed += of.bytes;
        }
        if count - keys.len() > PLAYBOOKS_MAX || bytes - freed > CHANGES_BYTES_MAX {
            return Err(format!(
                "the topic holds as much as is taken: {PLAYBOOKS_MAX} playbooks, {} KiB of text; remove some",
                CHANGES_BYTES_MAX >> 10
            ));
        }
        Ok(keys)
    }

    fn put(&mut self, key: &str, held: HeldChange) -> Option<HeldChange> {
        self.bytes += held.bytes;
        let before = self.held.insert(key.into(), held);
        self.bytes -= before.as_ref().map_or(0, |before| before.bytes);
        before
    }

    fn take(&mut self, key: &str) -> Option<HeldChange> {
        let held = self.held.remove(key)?;
        self.bytes -= held.bytes;
        Some(held)
    }

    /// Whether the bases go together, and the overrides that have not ended at `at` with them.
    fn check(&self, at: Millis) -> Result<(), String> {
        let (mut all, base) = self.base(&mut Vec::new(), true)?;
        let overrides = self.held.iter().filter(|(key, held)| key.ends_with(OVERRIDE) && held.is_in_effect(at));
        let overrides: Vec<&HeldChange> = overrides.map(|(_, held)| held).collect();
        if overrides.is_empty() {
            return Ok(());
        }
        overrides.into_iter().for_each(|held| lay(&mut all, &held.playbook));
        self.compile(&all, Some(&base)).map(drop)
    }

    /// The set in effect at a time.
    #[must_use]
    pub fn effective(&self, now: Millis) -> Effective {
        let mut left_out = Vec::new();
        let (mut playbooks, mut plan) = match self.base(&mut left_out, false) {
            Ok(base) => base,
            // The folder was checked when it was read, so this is what is left out of it: nothing.
            Err(_) => (self.folder.to_vec(), self.folder_plan.clone()),
        };
        let overrides = || self.held.iter().filter(|(key, held)| key.ends_with(OVERRIDE) && held.is_in_effect(now));
        let until = overrides().filter_map(|(_, held)| held.expires_at).min().unwrap_or(Millis::MAX);
        if until < Millis::MAX {
            let base = plan.clone();
            (playbooks, plan) = self.lay_all(overrides(), (playbooks, plan), Some(&base), &mut left_out);
        }
        Effective { playbooks, plan, until, left_out }
    }

    /// The folder's playbooks with what stands on the topic for good.
    fn base(&self, left_out: &mut Vec<(Box<str>, String)>, is_strict: bool) -> Result<(Vec<Playbook>, Plan), String> {
        let changes = || self.held.iter().filter(|(key, _)| !key.ends_with(OVERRIDE));
        if is_strict {
            let mut all = self.folder.to_vec();
            changes().for_each(|(_, held)| lay(&mut all, &held.playbook));
            let plan = self.compile(&all, None)?;
            return Ok((all, plan));
        }
        Ok(self.lay_all(changes(), (self.folder.to_vec(), self.folder_plan.clone()), None, left_out))
    }

    /// Lays changes over a set that compiles: all of them, or, should they not go together, each that goes with those
    /// before it on the topic.
    fn lay_all<'a>(
        &self,
        changes: impl Iterator<Item = (&'a Box<str>, &'a HeldChange)>,
        (before, plan_before): (Vec<Playbook>, Plan),
        base: Option<&Plan>,
        left_out: &mut Vec<(Box<str>, String)>,
    ) -> (Vec<Playbook>, Plan) {
        let mut changes: Vec<(&Box<str>, &HeldChange)> = changes.collect();
        if changes.is_empty() {
            return (before, plan_before);
        }
        let mut all = before.clone();
        changes.iter().for_each(|(_, held)| lay(&mut all, &held.playbook));
        if let Ok(plan) = self.compile(&all, base) {
            return (all, plan);
        }
        changes.sort_by_key(|(_, held)| held.offset);
        let mut taken = (before, plan_before);
        for (key, held) in changes {
            let mut all = taken.0.clone();
            lay(&mut all, &held.playbook);
            match self.compile(&all, base) {
                Ok(plan) => taken = (all, plan),
                Err(why) => left_out.push((key.clone(), why)),
            }
        }
        taken
    }

    /// `base`: keep its windows as well, since it comes back.
    fn compile(&self, playbooks: &[Playbook], base: Option<&Plan>) -> Result<Plan, String> {
        if playbooks.len() > PLAYBOOKS_MAX {
            return Err(format!("{} playbooks; at most {PLAYBOOKS_MAX}", playbooks.len()));
        }
        all_of(&check(playbooks))?;
        let mut plan = Plan::compile(playbooks).map_err(|e| e.to_string())?;
        let failures_alone = self.folder_plan.failures_alone;
        if playbooks.iter().any(|p| p.mode != PlaybookMode::Off) && plan.failures_alone != failures_alone {
            return Err(
                "failures_of: whose failures a set counts cannot change while it runs; change the folder, and \
                        restart"
                    .to_owned(),
            );
        }
        plan.failures_alone = failures_alone;
        if let Some(base) = base {
            let too_many = |e| format!("an override keeps the windows of what it replaces as well: {e}");
            plan.keep_also(base).map_err(too_many)?;
        }
        Ok(plan)
    }
}

fn held(change: &PlaybookChange, playbook: Playbook, offset: i64) -> HeldChange {
    HeldChange {
        playbook,
        actor: change.actor.clone(),
        reason: change.reason.clone(),
        at: change.at,
        expires_at: change.expires_at,
        offset,
        bytes: change.text.len() + change.actor.len() + change.reason.len(),
    }
}

/// Puts a playbook in the place of the one of its id, or adds it.
fn lay(all: &mut Vec<Playbook>, playbook: &Playbook) {
    match all.iter_mut().find(|p| p.id == playbook.id) {
        Some(place) => *place = playbook.clone(),
        None => all.push(playbook.clone()),
    }
}

fn all_of(problems: &[Problem]) -> Result<(), String> {
    if problems.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.playbook, p.text)).collect();
    Err(one_line(texts.join("; "), WHY_CHARS_MAX))
}

/// A text that anybody may have written, fit for a line of a log.
fn one_line(text: impl Display, chars_max: usize) -> String {
    let text = text.to_string();
    let shown = text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c });
    shown.collect()
}

impl HeldChange {
    /// Who, why, and until when, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let end = self.expires_at.map(|end| format!(" until {}", format_millis(end))).unwrap_or_default();
        format!(
            "version {} by {} since {}{end}: {}",
            self.playbook.version,
            one_line(&self.actor, ACTOR_BYTES_MAX),
            format_millis(self.at),
            one_line(&self.reason, TEXT_BYTES_MAX)
        )
    }
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
