//! The file sink: every active entry as one line of JSON, in the order of the keys. For programs that read a file, and
//! to see what a sink would do. It never tells anybody that the file changed.

use std::path::PathBuf;
use std::sync::Arc;

use super::replace::{Stamp, read_text, replace, resolved, stamp};
use super::{Actual, Adapter, ENTRIES_MAX, Edge, Element, Elements, Error, Plan, Reach, Width, Written};
use crate::event::{BlocklistEntry, Entity, Millis};

/// A JSON Lines file as an edge.
#[derive(Debug)]
pub struct FileEdge {
    path: PathBuf,
    /// What was found or written last, as long as the file is the same.
    seen: Option<(Stamp, Actual)>,
}

impl FileEdge {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        FileEdge { path: resolved(path), seen: None }
    }
}

impl Adapter for FileEdge {
    fn edge(&self) -> Edge {
        Edge { reach: Reach::Records, width: Width::Route, capacity: ENTRIES_MAX, nests: true }
    }

    fn read(&mut self, _now: Millis) -> Result<Actual, Error> {
        let Some(stamp) = stamp(&self.path)? else { return Ok(Actual { missing: true, ..Actual::default() }) };
        if let Some((known, actual)) = &self.seen
            && *known == stamp
        {
            return Ok(actual.clone());
        }
        let actual = parse(&read_text(&self.path)?);
        self.seen = Some((stamp, actual.clone()));
        Ok(actual)
    }

    fn write(&mut self, target: Arc<Elements>, plan: &Plan, _now: Millis) -> Result<Written, Error> {
        if plan.changes_anything() {
            self.seen = None;
            replace(&self.path, render(&target).as_bytes())?;
            let actual = Actual { elements: target, ..Actual::default() };
            self.seen = stamp(&self.path)?.map(|stamp| (stamp, actual));
        }
        Ok(Written::default())
    }
}

fn render(elements: &Elements) -> String {
    let mut text = String::with_capacity(elements.values().map(|e| e.body.len() + 1).sum());
    for element in elements.values() {
        text.push_str(&element.body);
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Actual {
    let mut elements = Elements::new();
    let mut foreign = 0;
    for line in text.lines() {
        let Ok(entry) = serde_json::from_str::<BlocklistEntry>(line) else {
            foreign += 1;
            continue;
        };
        let entity = Entity { tenant: entry.tenant.into(), scope: entry.scope, value: entry.value.into() };
        let element = Element { body: line.to_owned().into(), until: entry.until };
        foreign += usize::from(elements.insert(entity.key().into(), element).is_some());
    }
    // A last line without its end was cut by somebody else: ours end with one.
    foreign += usize::from(!text.is_empty() && !text.ends_with('\n'));
    Actual { elements: Arc::new(elements), foreign, missing: false, unsettled: false }
}
