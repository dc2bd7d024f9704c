//! The difference between what an edge should have and what it has. Pure: nothing here touches an edge.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;

use super::{Actual, Element, Elements};
use crate::event::Millis;

/// So many elements may go in one step however short the list is: lifting the one block of a list of one is no
/// accident.
pub const SHRINK_FREE: usize = 10;

/// How much of an edge's list may go in one step before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrink {
    /// At most half of it, or this many elements if that is more. Default: [`SHRINK_FREE`].
    ByHalf { free: usize },
    /// Any part: an operator confirmed it.
    Allowed,
}

/// What is to be done to an edge, by names of elements in order.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub add: Vec<Box<str>>,
    /// Elements that enforce something else than they should.
    pub change: Vec<Box<str>>,
    /// Elements of which only the noted end is to change.
    pub refresh: Vec<Box<str>>,
    pub remove: Vec<Box<str>>,
    /// Elements that should go, and stay because too much of the list would go before its time.
    pub held_back: Vec<Box<str>>,
    /// Elements that are right.
    pub keep: usize,
    /// The list has foreign lines or is missing: it is written whatever else changes.
    pub repair: bool,
}

/// What has to change. Elements whose noted end is past may always go, and so may what somebody else put there since
/// the edge was made to have `applied`; the others only as far as `shrink` allows.
#[must_use]
pub fn plan(wanted: &Elements, actual: &Actual, applied: Option<&Elements>, shrink: Shrink, now: Millis) -> Plan {
    let mut plan = Plan { repair: actual.missing || actual.foreign > 0, ..Plan::default() };
    let mut early = Vec::new();
    let mut live = 0;
    for (name, sides) in both(wanted, &actual.elements) {
        let is_live = |element: &Element| element.until.is_none_or(|end| end > now);
        let is_guarded = sides.1.is_some_and(is_live) && applied.is_none_or(|applied| applied.contains_key(name));
        live += usize::from(is_guarded);
        match sides {
            (Some(_), None) => plan.add.push(name.into()),
            (Some(wanted), Some(actual)) if wanted.body != actual.body => plan.change.push(name.into()),
            (Some(wanted), Some(actual)) if wanted.until != actual.until => plan.refresh.push(name.into()),
            (Some(_), Some(_)) => plan.keep += 1,
            (None, Some(_)) if is_guarded => early.push(name.into()),
            (None, Some(_)) => plan.remove.push(name.into()),
            (None, None) => {}
        }
    }
    let allowed = match shrink {
        Shrink::Allowed => true,
        Shrink::ByHalf { free } => early.len() <= free || early.len() * 2 <= live,
    };
    if allowed {
        plan.remove.append(&mut early);
        plan.remove.sort_unstable();
    } else {
        plan.held_back = early;
    }
    plan
}

/// One change of an edge, for those that take changes one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    Remove(&'a str),
    /// There is an element of this name, of another body or end.
    Put(&'a str, &'a Element),
    Add(&'a str, &'a Element),
}

impl<'a> Change<'a> {
    /// The element's name.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        match self {
            Change::Remove(name) | Change::Put(name, _) | Change::Add(name, _) => name,
        }
    }
}

impl Plan {
    /// What leads to `target`: what goes, then what changes, then what is new.
    pub fn changes<'a>(&'a self, target: &'a Elements) -> impl Iterator<Item = Change<'a>> {
        let with = |name: &'a str| target.get(name).map(|element| (name, element));
        let gone = self.remove.iter().map(|name| Change::Remove(name));
        let put = self.change.iter().chain(&self.refresh).filter_map(move |name| with(name));
        let new = self.add.iter().filter_map(move |name| with(name));
        gone.chain(put.map(|(name, e)| Change::Put(name, e))).chain(new.map(|(name, e)| Change::Add(name, e)))
    }

    /// How many those are.
    #[must_use]
    pub fn changes_count(&self) -> usize {
        self.remove.len() + self.change.len() + self.refresh.len() + self.add.len()
    }

    /// Whether the edge would enforce something else afterwards.
    #[must_use]
    pub fn changes_set(&self) -> bool {
        self.repair || !(self.add.is_empty() && self.change.is_empty() && self.remove.is_empty())
    }

    /// Whether there is anything to write.
    #[must_use]
    pub fn changes_anything(&self) -> bool {
        self.changes_set() || !self.refresh.is_empty()
    }

    /// What the edge has once the plan is carried out: what it should have, and what is held back.
    #[must_use]
    pub fn target(&self, wanted: Elements, actual: &Actual) -> Elements {
        let mut target = wanted;
        for name in &self.held_back {
            if let Some(element) = actual.elements.get(name) {
                target.insert(name.clone(), element.clone());
            }
        }
        target
    }
}

impl fmt::Display for Plan {
    /// One line for each difference, then one that counts them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("+", &self.add),
            ("-", &self.remove),
            ("~", &self.change),
            ("until", &self.refresh),
            ("held back", &self.held_back),
        ];
        for (sign, names) in kinds {
            for name in names {
                writeln!(f, "{sign} {name}")?;
            }
        }
        let [add, remove, change, refresh, held_back] = kinds.map(|(_, names)| names.len());
        write!(f, "{add} to add, {remove} to remove, {change} to change, {refresh} with another end, ")?;
        write!(f, "{} right", self.keep)?;
        if held_back > 0 {
            write!(f, "; {held_back} held back: more than half of the list would go (--allow-shrink lets it)")?;
        }
        if self.repair {
            write!(f, "; the list is missing or has foreign lines and would be written anew")?;
        }
        Ok(())
    }
}

type Sides<'a> = (Option<&'a Element>, Option<&'a Element>);

/// Both lists side by side, in the order of their names.
fn both<'a>(left: &'a Elements, right: &'a Elements) -> impl Iterator<Item = (&'a str, Sides<'a>)> {
    let mut left = left.iter().peekable();
    let mut right = right.iter().peekable();
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (Some((l, _)), Some((r, _))) => l.cmp(r),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let l = if order.is_le() { left.next() } else { None };
        let r = if order.is_ge() { right.next() } else { None };
        let (name, _) = l.or(r)?;
        Some((&**name, (l.map(|(_, e)| e), r.map(|(_, e)| e))))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW: Millis = 1_561_682_490_000;

    /// `name`, `name=body`, `name@end` with the end in seconds from [`NOW`].
    fn elements(text: &str) -> Elements {
        let element = |word: &str| {
            let (name, end) = word.split_once('@').map_or((word, None), |(n, e)| (n, Some(e)));
            let (name, body) = name.split_once('=').unwrap_or((name, "1"));
            let until = end.map(|end| NOW + 1_000 * end.parse::<Millis>().unwrap());
            (name.into(), Element { body: body.to_owned().into(), until })
        };
        text.split_whitespace().map(element).collect()
    }

    fn check(wanted: &str, actual: &str, applied: Option<&str>, free: usize, expected: &str) {
        let found = Actual { elements: Arc::new(elements(actual)), ..Actual::default() };
        let applied = applied.map(elements);
        let plan = plan(&elements(wanted), &found, applied.as_ref(), Shrink::ByHalf { free }, NOW);
        let signs =
            [("+", &plan.add), ("-", &plan.remove), ("~", &plan.change), ("@", &plan.refresh), ("!", &plan.held_back)];
        let seen: Vec<String> =
            signs.iter().flat_map(|(s, names)| names.iter().map(move |n| format!("{s}{n}"))).collect();
        assert_eq!(seen.join(" "), expected, "{wanted} against {actual}");
        let target = plan.target(elements(wanted), &found);
        assert_eq!(target.len(), elements(wanted).len() + plan.held_back.len());
        assert_eq!(plan.keep + plan.add.len() + plan.change.len() + plan.refresh.len(), elements(wanted).len());
    }

    #[test]
    fn the_difference() {
        check("", "", None, 0, "");
        check("a b c", "b c d e", None, 9, "+a -d -e");
        check("a b", "a b=2", None, 0, "~b");
        check("a@5 b", "a@6 b@1", None, 0, "@a @b");
    }

    #[test]
    fn a_list_that_shrinks_by_more_than_half_is_held_back() {
        check("a b", "a b c d", None, 0, "-c -d");
        check("a", "a b c d", None, 0, "!b !c !d");
        check("a", "a b c d", None, 3, "-b -c -d");
        check("x y z", "a b c d", None, 0, "+x +y +z !a !b !c !d");
        // What has ended may go, and does not count.
        check("a", "a b@0 c@-5 d@-1", None, 0, "-b -c -d");
        check("a", "a b@1 c@-5 d@-1", None, 0, "-b -c -d");
        check("a", "a b@1 c@1 d@-1", None, 0, "-d !b !c");
        // What somebody else added is no part of the list.
        check("a", "a b c d", Some("a"), 0, "-b -c -d");
        check("a", "a b c d", Some("a b c"), 0, "-d !b !c");
    }

    #[test]
    fn a_plan_is_told_as_text_and_as_json() {
        let actual = Actual { elements: Arc::new(elements("b c d@-1 e f")), foreign: 1, ..Actual::default() };
        let plan = plan(&elements("a b@7"), &actual, None, Shrink::ByHalf { free: 1 }, NOW);
        assert_eq!(
            plan.to_string(),
            "+ a\n- d\nuntil b\nheld back c\nheld back e\nheld back f\n\
             1 to add, 1 to remove, 0 to change, 1 with another end, 0 right; \
             3 held back: more than half of the list would go (--allow-shrink lets it); \
             the list is missing or has foreign lines and would be written anew"
        );
        assert_eq!(
            serde_json::to_string(&plan).unwrap(),
            r#"{"add":["a"],"change":[],"refresh":["b"],"remove":["d"],"held_back":["c","e","f"],"keep":0,"repair":true}"#
        );
    }
}
