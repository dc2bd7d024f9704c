//! All four stages in one process without a log: what `replay` and `simulate` run. One partition a stage, each input
//! worked off to its end before the next, so that a file gives the same bytes in every run.

use std::collections::VecDeque;
use std::sync::Arc;

use super::counts::Counts;
use super::env::Env;
use super::frame::{Item, Mark};
use super::intake::Raw;
use super::io::{ControlChange, Effects, Input, Output};
use super::task::Task;
use crate::event::Millis;
use crate::topology::Stage;

/// Something for an output topic, and the time it belongs to: the arrival of the input that caused it, or when it
/// fell due.
#[derive(Debug, Clone, PartialEq)]
pub struct Emission {
    pub at: Millis,
    pub output: Output,
}

/// The stages, their state in memory.
#[derive(Debug)]
pub struct Pipeline {
    env: Arc<Env>,
    tasks: [Task; 4],
    queue: VecDeque<(Stage, Work)>,
    emitted: Vec<Emission>,
    counts: Counts,
    versions: i64,
    marked_at: Millis,
    inputs: u64,
}

#[derive(Debug)]
enum Work {
    Item(Item),
    Mark(Mark),
    Control(ControlChange),
}

/// Rows that expired are dropped every so many inputs.
const SWEEP_EVERY: u64 = 50_000;
const MARK_EVERY_MS: Millis = 1_000;

impl Pipeline {
    #[must_use]
    pub fn new(env: Arc<Env>) -> Self {
        Pipeline {
            tasks: Stage::ALL.map(|stage| Task::in_memory(stage, &env)),
            env,
            queue: VecDeque::new(),
            emitted: Vec::new(),
            counts: Counts::default(),
            versions: 0,
            marked_at: Millis::MIN,
            inputs: 0,
        }
    }

    /// What became of all events so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes one record and gives everything that came of it, in order.
    pub fn feed(&mut self, raw: Raw<'_>) -> Vec<Emission> {
        let at = super::intake::arrival(&self.env, &raw);
        self.pass_time(at);
        self.step(Stage::Intake, Input::Raw(raw), at);
        self.work_off(at);
        self.inputs += 1;
        if self.inputs.is_multiple_of(SWEEP_EVERY) {
            self.tasks.iter_mut().for_each(Task::sweep);
        }
        std::mem::take(&mut self.emitted)
    }

    /// Lets time pass without an input: marks, and what falls due.
    pub fn advance(&mut self, to: Millis) -> Vec<Emission> {
        self.pass_time(to);
        std::mem::take(&mut self.emitted)
    }

    /// Applies a change of control (an exemption, say) as intake would.
    pub fn control(&mut self, at: Millis, change: impl FnOnce(i64) -> ControlChange) -> Vec<Emission> {
        self.versions += 1;
        self.queue.push_back((Stage::Intake, Work::Control(change(self.versions))));
        self.work_off(at);
        std::mem::take(&mut self.emitted)
    }

    fn pass_time(&mut self, to: Millis) {
        while let Some((at, stage)) = self.next_due(to) {
            let due = self.tasks[stage as usize].due(at);
            for (due_at, key) in due {
                self.step(stage, Input::Due(due_at, key), due_at);
                self.work_off(due_at);
            }
        }
        if to.saturating_sub(self.marked_at) >= MARK_EVERY_MS {
            self.marked_at = to;
            self.step(Stage::Intake, Input::Tick(to), to);
            self.work_off(to);
        }
    }

    fn next_due(&self, to: Millis) -> Option<(Millis, Stage)> {
        let dues = Stage::ALL.iter().filter_map(|stage| {
            let at = self.tasks[*stage as usize].next_due()?;
            (at <= to).then_some((at, *stage))
        });
        dues.min()
    }

    fn work_off(&mut self, at: Millis) {
        while let Some((stage, work)) = self.queue.pop_front() {
            let input = match work {
                Work::Item(Item::Attempt(attempt)) => Input::Attempt(attempt),
                Work::Item(Item::Sourced(sourced)) => Input::Sourced(sourced),
                Work::Item(Item::Device(sourced)) => Input::Device(sourced),
                Work::Item(Item::Note(note)) => Input::Note(note),
                Work::Item(Item::Partial(partial)) => Input::Partial(partial),
                Work::Item(Item::Mark(mark)) | Work::Mark(mark) => Input::Mark(mark),
                Work::Item(Item::Request(request)) => Input::Request(request),
                Work::Control(change) => Input::Control(change),
            };
            self.step(stage, input, at);
        }
    }

    fn step(&mut self, stage: Stage, input: Input<'_>, at: Millis) {
        let mut fx = Effects::default();
        self.tasks[stage as usize].step(input, &mut fx);
        self.counts.merge(&fx.counts);
        for output in fx.outputs {
            match output {
                Output::Item { to, item, .. } => self.queue.push_back((to, Work::Item(item))),
                Output::MarkAll { to, mark } => self.queue.push_back((to, Work::Mark(mark))),
                Output::Status(status) => {
                    self.versions += 1;
                    let change = ControlChange::Status {
                        version: self.versions,
                        tenant: status.tenant.as_str().into(),
                        status: Some((&*status).into()),
                    };
                    self.queue.push_back((Stage::Intake, Work::Control(change)));
                    self.emitted.push(Emission { at, output: Output::Status(status) });
                }
                Output::Verdict(_)
                | Output::Block(_)
                | Output::Incident(_)
                | Output::Detail(_)
                | Output::Activity(_)
                | Output::KnownPair(_)
                | Output::DeadLetter(_)
                | Output::Playbook(_) => {
                    self.emitted.push(Emission { at, output });
                }
            }
        }
    }
}
