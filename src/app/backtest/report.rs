//! Old against new, for people and for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::ledger::{Fate, Figures, Ledger, Met, Restricted};
use super::story::{Fared, SideBySide, side_by_side};
use crate::event::Millis;
use crate::event::wire::format_millis;
use crate::topology::format_duration;

/// Most entities of one side, and most logins, that are shown; the folder of `--out` has all.
pub const SHOWN_MAX: usize = 20;

/// What one set of playbooks came to.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    pub all: Figures,
    pub by_playbook: BTreeMap<Box<str>, Figures>,
    /// Verdicts on entities that were too many to be told apart.
    pub entities_left_out: u64,
}

impl Side {
    fn of(ledger: &Ledger) -> Side {
        Side { all: ledger.all(), by_playbook: ledger.by_playbook(), entities_left_out: ledger.entities_left_out() }
    }
}

/// A backtest, compared.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub events: u64,
    /// The first and the last arrival; what came before `counted_from` is only learnt from.
    pub first_at: Option<Millis>,
    pub last_at: Option<Millis>,
    pub counted_from: Option<Millis>,
    /// What became of the events.
    pub counts: BTreeMap<&'static str, u64>,
    pub old: Option<Side>,
    pub new: Side,
    pub incidents: Vec<SideBySide>,
    /// Entities that one of them alone would have restricted: how many, and the worst of them.
    pub only_old: u64,
    pub only_new: u64,
    pub only_old_first: Vec<Restricted>,
    pub only_new_first: Vec<Restricted>,
    /// Logins of known users that would have been refused by the new set.
    pub known_users_denied_first: Vec<Met>,
}

/// What is gathered while the past is read.
#[derive(Debug, Default)]
pub struct Gathered {
    pub events: u64,
    pub first_at: Option<Millis>,
    pub last_at: Option<Millis>,
    pub counted_from: Option<Millis>,
    pub denied: Vec<Met>,
}

impl Gathered {
    /// Takes note of a login that the new set would have met.
    pub fn note(&mut self, met: &Met) {
        if met.fate == Fate::Denied && met.known_user && self.denied.len() < SHOWN_MAX {
            self.denied.push(met.clone());
        }
    }
}

/// An entity, and who would have restricted it.
#[derive(Debug, Serialize)]
pub struct EntityLine<'a> {
    pub entity: &'a str,
    pub by: &'static str,
    pub old: Option<&'a Restricted>,
    pub new: Option<&'a Restricted>,
}

/// Every entity of either, in the order of their keys.
pub fn entities<'a>(old: Option<&'a Ledger>, new: &'a Ledger) -> impl Iterator<Item = EntityLine<'a>> {
    let mut all: BTreeMap<&str, (Option<&Restricted>, Option<&Restricted>)> = BTreeMap::new();
    for entity in old.into_iter().flat_map(Ledger::entities) {
        all.entry(&entity.entity).or_default().0 = Some(entity);
    }
    for entity in new.entities() {
        all.entry(&entity.entity).or_default().1 = Some(entity);
    }
    all.into_iter().map(|(entity, (old, new))| {
        let by = match (old, new) {
            (Some(_), Some(_)) => "both",
            (Some(_), None) => "old",
            (None, _) => "new",
        };
        EntityLine { entity, by, old, new }
    })
}

impl Report {
    #[must_use]
    pub fn new(gathered: Gathered, old: Option<&Ledger>, new: &Ledger) -> Report {
        let only = |of: Option<&Ledger>, other: Option<&Ledger>| {
            let entities = of.into_iter().flat_map(Ledger::entities);
            let mut only: Vec<&Restricted> =
                entities.filter(|own| other.is_some_and(|other| !other.restricted(&own.entity))).collect();
            let count = only.len() as u64;
            only.sort_by_key(|e| (u64::MAX - e.logins_stopped, u64::MAX - e.attempts_denied, &*e.entity));
            (count, only.into_iter().take(SHOWN_MAX).cloned().collect())
        };
        let (only_old, only_old_first) = only(old, Some(new));
        let (only_new, only_new_first) = only(Some(new), old);
        Report {
            events: gathered.events,
            first_at: gathered.first_at,
            last_at: gathered.last_at,
            counted_from: gathered.counted_from,
            counts: new.counts().iter().map(|(counter, n)| (counter.as_str(), n)).collect(),
            incidents: side_by_side(old.map(Ledger::story), new.story()),
            old: old.map(Side::of),
            new: Side::of(new),
            only_old,
            only_new,
            only_old_first,
            only_new_first,
            known_users_denied_first: gathered.denied,
        }
    }
}

type Line = (&'static str, fn(&Figures) -> u64);

const LINES: [Line; 12] = [
    ("verdicts", |f| f.verdicts),
    ("verdicts in shadow", |f| f.shadow_verdicts),
    ("entities blocked", Figures::blocked),
    ("entities challenged", Figures::challenged),
    ("attempts refused", |f| f.attempts_denied),
    ("attempts challenged", |f| f.attempts_challenged),
    ("attempts stopped in the past as well", |f| f.attempts_stopped_anyway),
    ("known users refused", |f| f.known_users_denied),
    ("known users challenged", |f| f.known_users_challenged),
    ("others who logged in refused", |f| f.others_denied),
    ("others who logged in challenged", |f| f.others_challenged),
    ("users spared, their pair being known", |f| f.users_spared),
];

/// Columns of the table by playbook: those of [`LINES`] that say most.
const COLUMNS: [(&str, usize); 8] = [
    ("verdicts", 0),
    ("in shadow", 1),
    ("blocked", 2),
    ("challenged", 3),
    ("tries refused", 4),
    ("challenged", 5),
    ("known refused", 7),
    ("challenged", 8),
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |at: Option<Millis>| at.map_or_else(|| "-".to_owned(), format_millis);
        writeln!(f, "{} events from {} to {}", self.events, time(self.first_at), time(self.last_at))?;
        if self.counted_from.is_some() {
            writeln!(f, "counted from {}; learnt from before that", time(self.counted_from))?;
        }
        let counts: Vec<String> = self.counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
        writeln!(f, "{}\n", counts.join(", "))?;
        self.sums(f)?;
        self.playbooks(f)?;
        self.attacks(f)?;
        if self.old.is_some() {
            list(f, "only the old ones would have restricted", self.only_old, &self.only_old_first)?;
            list(f, "only the new ones would have restricted", self.only_new, &self.only_new_first)?;
        }
        if !self.known_users_denied_first.is_empty() {
            writeln!(f, "\nknown users whom the new ones would have refused:")?;
        }
        for met in &self.known_users_denied_first {
            let Met { at, account, source, playbook, .. } = met;
            writeln!(f, "  {} {account} from {source}, by {playbook}", format_millis(*at))?;
        }
        write!(
            f,
            "\nKnown users had logged in before in this history, not from there; others had not: people who are new, or \
             intruders."
        )
    }
}

impl Report {
    fn sums(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.old {
            Some(old) => {
                writeln!(f, "{:<38} {:>12} {:>12}", "", "old", "new")?;
                for (name, of) in LINES {
                    writeln!(f, "{name:<38} {:>12} {:>12}", of(&old.all), of(&self.new.all))?;
                }
                Ok(())
            }
            None => LINES.iter().try_for_each(|(name, of)| writeln!(f, "{name:<38} {:>12}", of(&self.new.all))),
        }
    }

    fn playbooks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_old = self.old.iter().flat_map(|old| old.by_playbook.keys());
        let ids: BTreeSet<&Box<str>> = of_old.chain(self.new.by_playbook.keys()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let heads: Vec<String> = COLUMNS.iter().map(|(name, _)| format!("{name:>13}")).collect();
        writeln!(
            f,
            "\n{:<26} {}",
            if self.old.is_some() { "by playbook, old > new" } else { "by playbook" },
            heads.join(" ")
        )?;
        let nothing = Figures::default();
        for id in ids {
            let of = |side: &Side, at: usize| {
                let figures = side.by_playbook.get(id).unwrap_or(&nothing);
                LINES.get(at).map_or(0, |(_, figure)| figure(figures))
            };
            let cells = COLUMNS.iter().map(|(_, at)| match &self.old {
                Some(old) => format!("{:>13}", format!("{} > {}", of(old, *at), of(&self.new, *at))),
                None => format!("{:>13}", of(&self.new, *at)),
            });
            writeln!(f, "{id:<26} {}", cells.collect::<Vec<_>>().join(" "))?;
        }
        Ok(())
    }

    fn attacks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nincidents: {}", self.incidents.len())?;
        for incident in self.incidents.iter().take(SHOWN_MAX) {
            let SideBySide { tenant, from, to, old, new, .. } = incident;
            let lasted = to.map_or_else(|| "not over at the end".to_owned(), |to| format_duration((to - from).max(0)));
            writeln!(f, "  {tenant} {}, {lasted}", format_millis(*from))?;
            for (name, fared) in [("old", old.as_ref()), ("new", Some(new))] {
                let Some(Fared { attack_at, first_block_at, .. }) = fared else { continue };
                let after = |at: &Option<Millis>| {
                    at.map_or_else(|| "never".to_owned(), |at| format!("after {:.1} s", (at - from) as f64 / 1000.0))
                };
                writeln!(f, "    {name}: ATTACK {}, first block {}", after(attack_at), after(first_block_at))?;
            }
            let gained = [("ATTACK", incident.attack_minutes_gained), ("first block", incident.block_minutes_gained)];
            for (what, minutes) in gained.into_iter().filter_map(|(what, minutes)| Some((what, minutes?))) {
                writeln!(
                    f,
                    "    {what}: {:.2} minutes {}",
                    minutes.abs(),
                    if minutes < 0.0 { "lost" } else { "gained" }
                )?;
            }
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, count: u64, first: &[Restricted]) -> fmt::Result {
    writeln!(f, "\n{title}: {count}")?;
    for entity in first {
        let Restricted { entity, action, playbook, since, until, attempts_denied, logins_stopped, .. } = entity;
        let (since, until) = (format_millis(*since), format_millis(*until));
        writeln!(
            f,
            "  {entity} {action} by {playbook}, {since} to {until}: {attempts_denied} attempts refused, {logins_stopped} \
             logins met"
        )?;
    }
    if count > first.len() as u64 {
        writeln!(f, "  … all of them with --out DIR")?;
    }
    Ok(())
}
