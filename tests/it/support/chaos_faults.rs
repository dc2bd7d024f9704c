//! The faults: which, in what order, and what is done. One seed gives one order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::chaos::{Instance, Job, SESSION_MS};
use super::chaos_check::Watch;
use super::chaos_traffic::Dice;
use super::proxy::{Api, Hurt};
use super::until;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL, and a new process over the same state folder.
    Kill,
    /// SIGKILL, and a new process over an empty one.
    KillAndWipe,
    /// SIGKILL, and another member in its place, whose state is as old as it is long that it was away.
    KillAndExchange,
    /// SIGSTOP for longer than the session timeout.
    Stop,
    /// The broker is killed and started again over its data.
    Broker,
    EndTxn,
    OffsetCommit,
    /// The files of one process may not grow any more, until it has ended.
    FullDisk,
    /// Every process is told to end and started again, one after the other.
    RollingRestart,
}

impl Fault {
    pub const ALL: [Fault; 9] = [
        Fault::Kill,
        Fault::KillAndWipe,
        Fault::KillAndExchange,
        Fault::Stop,
        Fault::Broker,
        Fault::EndTxn,
        Fault::OffsetCommit,
        Fault::FullDisk,
        Fault::RollingRestart,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::KillAndWipe => "kill, state wiped",
            Fault::KillAndExchange => "kill, another member",
            Fault::Stop => "stop beyond the session",
            Fault::Broker => "broker killed",
            Fault::EndTxn => "EndTxn hurt",
            Fault::OffsetCommit => "TxnOffsetCommit hurt",
            Fault::FullDisk => "disk full",
            Fault::RollingRestart => "rolling restart",
        }
    }

    /// How many of a thousand.
    const fn share(self) -> usize {
        match self {
            Fault::Kill => 90,
            Fault::KillAndWipe => 30,
            Fault::KillAndExchange => 30,
            Fault::Stop => 60,
            Fault::Broker => 25,
            Fault::EndTxn => 375,
            Fault::OffsetCommit => 375,
            Fault::FullDisk => 10,
            Fault::RollingRestart => 5,
        }
    }
}

/// So many faults in the order of a seed: each kind at least once where there are thirty, and by its share beyond that.
pub fn schedule(count: usize, dice: &mut Dice) -> Vec<Fault> {
    let mut all: Vec<Fault> = Fault::ALL
        .iter()
        .flat_map(|fault| std::iter::repeat_n(*fault, (fault.share() * count / 1000).max(usize::from(count >= 30))))
        .collect();
    // Those that a short run has too few of.
    for fault in [Fault::Kill, Fault::Stop].into_iter().filter(|_| (30..100).contains(&count)) {
        all.push(fault);
    }
    while all.len() < count {
        all.push(if all.len().is_multiple_of(2) { Fault::EndTxn } else { Fault::OffsetCommit });
    }
    all.truncate(count);
    for at in (1..all.len()).rev() {
        all.swap(at, usize::try_from(dice.below(at as u64 + 1)).unwrap());
    }
    all
}

/// What was done and what came of it.
#[derive(Debug, Default)]
pub struct Done {
    pub faults: BTreeMap<Fault, u64>,
    /// Faults that found no victim: no such request came.
    pub missed: u64,
    /// Processes that ended by themselves, by their last line.
    pub ended: BTreeMap<String, u64>,
}

impl Done {
    pub fn count(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// Who is stopped, and until when.
struct Stopped {
    at: usize,
    until: Instant,
}

/// Does the faults to a job.
pub struct Chaos<'a> {
    pub job: &'a mut Job,
    dice: &'a mut Dice,
    pub done: Done,
    stopped: Option<Stopped>,
    watch: Watch,
    progress: (i64, Instant),
}

/// How long nothing may be committed, however bad it gets.
const STILL_MAX: Duration = Duration::from_secs(240);
/// How long a fault waits for its request.
const REQUEST_MAX: Duration = Duration::from_secs(20);
/// After so long a process is told to end that has not noticed that its disk is full.
const DISK_MAX: Duration = Duration::from_secs(10);
const END_MAX: Duration = Duration::from_secs(120);
/// Requests that the proxy holds back are under way for at most so long, and then markers are written in milliseconds.
const MARKERS_WRITTEN_AFTER: Duration = Duration::from_secs(3);

impl<'a> Chaos<'a> {
    pub fn new(job: &'a mut Job, dice: &'a mut Dice) -> Chaos<'a> {
        let watch = Watch::new(job.connection());
        Chaos { job, dice, done: Done::default(), stopped: None, watch, progress: (-1, Instant::now()) }
    }

    /// One fault, and a pause.
    pub fn next(&mut self, fault: Fault) {
        match fault {
            Fault::Kill | Fault::KillAndWipe | Fault::KillAndExchange => self.kill(fault),
            Fault::Stop => self.stop(),
            Fault::Broker => self.broker(),
            Fault::EndTxn => self.hurt(Api::EndTxn, fault),
            Fault::OffsetCommit => self.hurt(Api::TxnOffsetCommit, fault),
            Fault::FullDisk => self.full_disk(),
            Fault::RollingRestart => self.rolling_restart(),
        }
        let pause = Duration::from_millis(200 + self.dice.below(1_000));
        self.pass(pause);
    }

    /// Lets time pass: who was stopped goes on, who ended is started again.
    fn pass(&mut self, time: Duration) {
        let since = Instant::now();
        until(time * 2 + END_MAX, "time to pass", || {
            self.look_after();
            (since.elapsed() >= time).then_some(())
        });
        if let Some(now) = self.watch.progress().filter(|now| *now != self.progress.0) {
            self.progress = (now, Instant::now());
        }
        let still = self.progress.1.elapsed();
        assert!(still < STILL_MAX, "nothing was committed for {still:?}\n{}", self.last_words());
    }

    pub fn last_words(&self) -> String {
        let words = self.job.instances.iter().map(|i| format!("{}:\n{}\n", i.log.display(), i.last_words()));
        words.collect()
    }

    fn look_after(&mut self) {
        if let Some(stopped) = self.stopped.take_if(|stopped| stopped.until <= Instant::now()) {
            let instance = &mut self.job.instances[stopped.at];
            instance.signal("CONT");
            instance.is_stopped = false;
            self.count(Fault::Stop);
        }
        for at in 0..self.job.instances.len() {
            if let Some(status) = self.job.instances[at].status() {
                self.ended_badly(at, status);
                let state = self.job.instances[at].state.clone();
                self.job.replace(at, state);
            }
        }
    }

    fn count(&mut self, fault: Fault) {
        *self.done.faults.entry(fault).or_default() += 1;
    }

    /// Somebody who is not stopped.
    fn victim(&mut self) -> usize {
        let awake: Vec<usize> =
            (0..self.job.instances.len()).filter(|at| !self.job.instances[*at].is_stopped).collect();
        awake[usize::try_from(self.dice.below(awake.len() as u64)).unwrap()]
    }

    fn end(&mut self, at: usize, signal: &str, deadline: Duration) -> i32 {
        self.job.instances[at].signal(signal);
        let instance = &mut self.job.instances[at];
        until(deadline, "a process to end", || instance.status())
    }

    fn kill(&mut self, fault: Fault) {
        let at = self.victim();
        self.end(at, "KILL", END_MAX);
        let mut state = self.job.instances[at].state.clone();
        if fault == Fault::KillAndWipe {
            drop(std::fs::remove_dir_all(&state));
        } else if fault == Fault::KillAndExchange {
            state = self.job.exchange(state);
        }
        // At once, or when the others have noticed.
        rest(Duration::from_millis(self.dice.below(2) * self.dice.below(SESSION_MS * 3 / 2)));
        self.job.replace(at, state);
        self.count(fault);
    }

    /// Others go on with the next fault meanwhile.
    fn stop(&mut self) {
        self.wake();
        let at = self.victim();
        let instance = &mut self.job.instances[at];
        instance.signal("STOP");
        instance.is_stopped = true;
        let time = Duration::from_millis(SESSION_MS + 1_000 + self.dice.below(2 * SESSION_MS));
        self.stopped = Some(Stopped { at, until: Instant::now() + time });
    }

    /// Waits until nobody is stopped.
    fn wake(&mut self) {
        until(Duration::from_secs(600), "a stopped process to go on", || {
            self.look_after();
            self.stopped.is_none().then_some(())
        });
    }

    /// With transactions open in every process, but none between the decision to commit and its markers: a Kafka of one
    /// broker skips the markers of partitions that have no leader while it starts ("these partitions are likely deleted
    /// already"), and the next transaction of the same producer then commits what should have been aborted. Commits of
    /// unknown outcome are brought about by the proxy instead.
    fn broker(&mut self) {
        let awake: Vec<usize> =
            (0..self.job.instances.len()).filter(|at| !self.job.instances[*at].is_stopped).collect();
        awake.iter().for_each(|at| self.job.instances[*at].signal("STOP"));
        rest(MARKERS_WRITTEN_AFTER);
        self.job.broker.kill();
        rest(Duration::from_millis(self.dice.below(2_000)));
        self.job.broker.live();
        awake.iter().for_each(|at| self.job.instances[*at].signal("CONT"));
        self.count(Fault::Broker);
    }

    fn hurt(&mut self, api: Api, fault: Fault) {
        let time = Duration::from_millis(50 + self.dice.below(2_500));
        let hurt = match self.dice.below(4) {
            0 => Hurt::Delay(time),
            1 => Hurt::CutBefore,
            2 => Hurt::CutAfter,
            _ => Hurt::Late(time),
        };
        let before = self.job.broker.proxy.fired();
        self.job.broker.proxy.arm(api, hurt);
        let since = Instant::now();
        let fired = until(REQUEST_MAX * 2, "a request to hurt", || {
            self.look_after();
            let fired = self.job.broker.proxy.fired() > before;
            (fired || since.elapsed() > REQUEST_MAX).then_some(fired)
        });
        if fired {
            self.count(fault);
        } else {
            self.job.broker.proxy.disarm();
            self.done.missed += 1;
        }
    }

    /// It must end in order, by itself or when it is told to; and go on where it was once there is room. One that has
    /// nothing to write for a while notices only when it closes its stores.
    fn full_disk(&mut self) {
        self.look_after();
        let at = self.victim();
        if !self.job.instances[at].fill_disk() {
            self.done.missed += 1;
            return;
        }
        let since = Instant::now();
        let mut is_told = false;
        let instance = &mut self.job.instances[at];
        let status = until(END_MAX, "a process with a full disk to end", || {
            if !is_told && since.elapsed() > DISK_MAX {
                is_told = true;
                instance.signal("TERM");
            }
            instance.status()
        });
        let words = instance.last_words();
        assert!(status < 128 && (is_told || status > 0), "with a full disk a process ended with {status}:\n{words}");
        let state = instance.state.clone();
        self.job.replace(at, state);
        self.count(Fault::FullDisk);
    }

    fn rolling_restart(&mut self) {
        self.wake();
        for at in 0..self.job.instances.len() {
            let status = self.end(at, "TERM", END_MAX);
            if status != 0 {
                self.ended_badly(at, status);
            }
            let state = self.job.instances[at].state.clone();
            self.job.replace(at, state);
        }
        self.count(Fault::RollingRestart);
    }

    fn ended_badly(&mut self, at: usize, status: i32) {
        let words = cause(&self.job.instances[at]);
        *self.done.ended.entry(format!("status {status}: {words}")).or_default() += 1;
    }

    /// The faults stop: whoever is stopped goes on.
    pub fn finish(mut self) -> Done {
        self.wake();
        self.job.broker.proxy.disarm();
        self.done
    }

    /// Events that wait, for the line of progress.
    pub fn behind(&self) -> Option<i64> {
        self.watch.behind()
    }
}

/// Lets time pass that is a part of a fault.
fn rest(time: Duration) {
    let since = Instant::now();
    until(time + END_MAX, "time to pass", || (since.elapsed() >= time).then_some(()));
}

/// What a process said last of why it ended, without what differs from one to the next.
fn cause(instance: &Instance) -> String {
    let words = super::tail(&instance.log, 400);
    let line =
        words.lines().rev().find(|line| line.contains("error") || line.contains("ERROR") || line.contains("panicked"));
    let line: String = line.unwrap_or("no word").chars().filter(|c| !c.is_control()).collect();
    let line = line.split_once("ended").map_or(line.as_str(), |(_, rest)| rest);
    line.chars().take(160).collect()
}
