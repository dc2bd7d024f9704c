//! The pure core under test: events in; verdicts, blocks, statuses and dead letters out.
//!
//! [`Stored`] runs the same steps over a store, as the stage loop does, and may forget everything that it holds in hand
//! after any commit. What [`Pipeline`] says in memory it must say as well.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};

use portcullis::detect::CampaignBounds;
use portcullis::engine::{
    ControlChange, Counts, Effects, Emission, Env, Input, Item, Key, Limits, Output, Pipeline, Raw, Row, SINGLETONS,
    Task,
};
use portcullis::event::wire::{self, WriterSchema};
use portcullis::event::{LoginEvent, Millis, Outcome};
use portcullis::topology::{Exemptions, Plan, Playbook, Stage, check};
use portcullis::window::HashKey;

use super::repository;

/// Where the clocks of the tests start: a Monday morning.
pub const START: Millis = 1_767_607_200_000;

/// The playbooks of `topology/playbooks`, in the order of their names.
pub fn default_playbooks() -> Vec<Playbook> {
    let mut files: Vec<_> = std::fs::read_dir(repository().join("topology/playbooks"))
        .expect("the playbooks")
        .map(|entry| entry.expect("a playbook").path())
        .collect();
    files.sort();
    let parse = |file: &std::path::PathBuf| {
        let text = std::fs::read_to_string(file).expect("a playbook");
        Playbook::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    files.iter().map(parse).collect()
}

/// What every step knows, with the shipped limits.
pub fn env(playbooks: &[Playbook], exemptions: Exemptions) -> Env {
    let problems = check(playbooks);
    assert!(problems.is_empty(), "{problems:?}");
    Env {
        plan: Plan::compile(playbooks).expect("few windows"),
        playbooks: playbooks.into(),
        exemptions: Arc::new(exemptions),
        hash_key: HashKey::new(*b"a key for tests."),
        limits: Limits::default(),
        tenants: Vec::new(),
    }
}

/// [`env`] of the shipped playbooks, without exemptions.
pub fn default_env() -> Arc<Env> {
    static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(env(&default_playbooks(), Exemptions::default())));
    Arc::clone(&ENV)
}

/// A failure of the tenant `shop`, to be changed where a test wants it.
pub fn failure(at: Millis, id: impl std::fmt::Display, source: &str, account: &str) -> LoginEvent {
    LoginEvent {
        event_id: id.to_string(),
        occurred_at: at,
        tenant: "shop".to_owned(),
        account: account.to_owned(),
        outcome: Outcome::Failure,
        source_ip: source.to_owned(),
        ..LoginEvent::default()
    }
}

/// One record of the input topic.
#[derive(Clone)]
pub struct Record {
    pub at: Millis,
    pub value: Option<Vec<u8>>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.as_deref().map(|value| value.escape_ascii().to_string());
        write!(f, "+{} ms {}", self.at - START, value.as_deref().unwrap_or("null"))
    }
}

impl Record {
    pub fn json(at: Millis, event: &LoginEvent) -> Record {
        Record { at, value: Some(wire::login_event_to_json(event)) }
    }

    /// The same event as the other encoding has it; what is no event stays as it is.
    #[must_use]
    pub fn as_avro(&self) -> Record {
        let event = self.value.as_deref().and_then(|value| wire::json_login_event(value).ok());
        let Some(decoded) = event else { return self.clone() };
        let mut value = vec![0, 0, 0, 0, 1];
        value.extend(wire::login_event_to_avro(&decoded.event));
        Record { at: self.at, value: Some(value) }
    }

    pub fn raw(&self) -> Raw<'_> {
        Raw {
            value: self.value.as_deref(),
            schema_header: None,
            writer: Some(&WriterSchema::Bundled),
            traceparent: None,
            timestamp: self.at,
            clock: self.at,
            tenant: None,
            networks: None,
        }
    }
}

/// Whatever takes records and says what came of them.
pub trait Core {
    fn feed(&mut self, record: &Record) -> Vec<Emission>;
    fn advance(&mut self, to: Millis) -> Vec<Emission>;
    fn control(&mut self, at: Millis, change: &dyn Fn(i64) -> ControlChange) -> Vec<Emission>;
    fn counts(&self) -> Counts;
}

impl Core for Pipeline {
    fn feed(&mut self, record: &Record) -> Vec<Emission> {
        Pipeline::feed(self, record.raw())
    }

    fn advance(&mut self, to: Millis) -> Vec<Emission> {
        Pipeline::advance(self, to)
    }

    fn control(&mut self, at: Millis, change: &dyn Fn(i64) -> ControlChange) -> Vec<Emission> {
        Pipeline::control(self, at, change)
    }

    fn counts(&self) -> Counts {
        Pipeline::counts(self).clone()
    }
}

/// What happens to a task after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterCommit {
    /// It keeps its rows in hand.
    Keep,
    /// It lets go of all of them.
    Trim,
    /// It is dropped, and opened from the store.
    Restart,
}

/// The four stages over stores, one task each.
pub struct Stored {
    env: Arc<Env>,
    stages: Vec<StoredTask>,
    queue: VecDeque<(Stage, Input<'static>)>,
    emitted: Vec<Emission>,
    counts: Counts,
    versions: i64,
    marked_at: Millis,
    /// Asked once per input.
    pub after_commit: Box<dyn FnMut() -> Option<AfterCommit>>,
}

struct StoredTask {
    task: Task,
    rows: BTreeMap<Key, Vec<u8>>,
}

impl StoredTask {
    fn open(stage: Stage, rows: BTreeMap<Key, Vec<u8>>, env: &Arc<Env>) -> StoredTask {
        let singletons = rows.iter().filter(|(key, _)| SINGLETONS.iter().any(|kind| *kind as u8 == key.kind_byte()));
        let rows_of_open = singletons.map(|(key, bytes)| (key.clone(), Row::decode(key, bytes).expect("a row")));
        let task = Task::open(stage, rows_of_open.collect(), env).speaking(stage == Stage::Site);
        StoredTask { task, rows }
    }

    /// As the loop does for a batch: read what the step names, step, and never touch anything else.
    fn step(&mut self, input: Input<'_>, fx: &mut Effects) {
        let mut keys = Vec::new();
        self.task.turn_to(&input, fx);
        self.task.reads(&input, &mut keys);
        for key in keys {
            if !self.task.view_mut().holds(&key) {
                let row = self.rows.get(&key).map(|bytes| {
                    let expires_at = Row::expires_at(bytes).expect("an expiry");
                    (Row::decode(&key, bytes).expect("a row"), expires_at)
                });
                self.task.view_mut().load(key, row);
            }
        }
        let shown = format!("{input:?}");
        self.task.step(input, fx);
        assert_eq!(self.task.view_mut().unread(), 0, "touched a row that was not read: {shown}");
    }

    fn commit(&mut self, env: &Arc<Env>, then: AfterCommit) {
        for (key, value) in self.task.seal() {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        match then {
            AfterCommit::Keep => {}
            AfterCommit::Trim => self.task.trim_to(0),
            AfterCommit::Restart => {
                // A store may forget what has expired, and need not.
                let now = self.task.now();
                self.rows.retain(|_, bytes| Row::expires_at(bytes).expect("an expiry") > now);
                *self = StoredTask::open(self.task.stage(), std::mem::take(&mut self.rows), env);
            }
        }
    }
}

impl Stored {
    pub fn new(env: Arc<Env>, after_commit: Box<dyn FnMut() -> Option<AfterCommit>>) -> Stored {
        Stored {
            stages: Stage::ALL.map(|stage| StoredTask::open(stage, BTreeMap::new(), &env)).into_iter().collect(),
            env,
            queue: VecDeque::new(),
            emitted: Vec::new(),
            counts: Counts::default(),
            versions: 0,
            marked_at: Millis::MIN,
            after_commit,
        }
    }

    /// Rows held by the stores of all stages, by the kind byte of their keys.
    pub fn row_counts(&self) -> BTreeMap<u8, usize> {
        let mut counts = BTreeMap::new();
        for key in self.stages.iter().flat_map(|stage| stage.rows.keys()) {
            *counts.entry(key.kind_byte()).or_default() += 1;
        }
        counts
    }

    fn pass_time(&mut self, to: Millis) {
        loop {
            let due = Stage::ALL.iter().filter_map(|stage| {
                let at = self.stages[*stage as usize].task.next_due()?;
                (at <= to).then_some((at, *stage))
            });
            let Some((at, stage)) = due.min() else { break };
            for (due_at, key) in self.stages[stage as usize].task.due(at) {
                self.step(stage, Input::Due(due_at, key), due_at);
                self.work_off(due_at);
            }
        }
        if to.saturating_sub(self.marked_at) >= 1_000 {
            self.marked_at = to;
            self.step(Stage::Intake, Input::Tick(to), to);
            self.work_off(to);
        }
    }

    fn work_off(&mut self, at: Millis) {
        while let Some((stage, input)) = self.queue.pop_front() {
            self.step(stage, input, at);
        }
    }

    fn step(&mut self, stage: Stage, input: Input<'_>, at: Millis) {
        let mut fx = Effects::default();
        self.stages[stage as usize].step(input, &mut fx);
        self.counts.merge(&fx.counts);
        for output in fx.outputs {
            match output {
                Output::Item { to, item, .. } => self.queue.push_back((to, input_of(item))),
                Output::MarkAll { to, mark } => self.queue.push_back((to, Input::Mark(mark))),
                Output::Status(status) => {
                    self.versions += 1;
                    let tenant = status.tenant.as_str().into();
                    let change =
                        ControlChange::Status { version: self.versions, tenant, status: Some((&*status).into()) };
                    self.queue.push_back((Stage::Intake, Input::Control(change)));
                    self.emitted.push(Emission { at, output: Output::Status(status) });
                }
                Output::Verdict(_)
                | Output::Block(_)
                | Output::Incident(_)
                | Output::KnownPair(_)
                | Output::Detail(_)
                | Output::Activity(_)
                | Output::DeadLetter(_)
                | Output::Playbook(_) => {
                    self.emitted.push(Emission { at, output });
                }
            }
        }
        if let Some(then) = (self.after_commit)() {
            self.stages[stage as usize].commit(&self.env, then);
        }
    }
}

fn input_of(item: Item) -> Input<'static> {
    match item {
        Item::Attempt(attempt) => Input::Attempt(attempt),
        Item::Sourced(sourced) => Input::Sourced(sourced),
        Item::Device(sourced) => Input::Device(sourced),
        Item::Note(note) => Input::Note(note),
        Item::Partial(partial) => Input::Partial(partial),
        Item::Mark(mark) => Input::Mark(mark),
        Item::Request(request) => Input::Request(request),
    }
}

impl Core for Stored {
    fn feed(&mut self, record: &Record) -> Vec<Emission> {
        self.pass_time(record.at);
        self.step(Stage::Intake, Input::Raw(record.raw()), record.at);
        self.work_off(record.at);
        std::mem::take(&mut self.emitted)
    }

    fn advance(&mut self, to: Millis) -> Vec<Emission> {
        self.pass_time(to);
        std::mem::take(&mut self.emitted)
    }

    fn control(&mut self, at: Millis, change: &dyn Fn(i64) -> ControlChange) -> Vec<Emission> {
        self.versions += 1;
        let change = change(self.versions);
        self.queue.push_back((Stage::Intake, Input::Control(change)));
        self.work_off(at);
        std::mem::take(&mut self.emitted)
    }

    fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

/// Bounds by which a handful of attempts is a campaign.
pub fn few_make_a_campaign() -> CampaignBounds {
    CampaignBounds {
        block: 10,
        attempts_per_false_alarm: 60.0,
        learnt_after: 60.0,
        settled_after: 120.0,
        sources: 3,
        logins: 12,
        ..CampaignBounds::default()
    }
}
