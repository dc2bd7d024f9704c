//! From the lines of one sshd process to its attempts.
//!
//! sshd serves each connection in a process of its own, so lines that explain each other share a process id and come
//! in order. A line that may still be explained (an unknown name, a PAM failure, the probe `Failed none`) waits for
//! the line that does, for the end of its process, or for [`SILENCE_MS_MAX`], whichever comes first. Process ids are
//! used again: what follows the end of a process begins a new one.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use super::line::Line;
use super::message::Message;
use crate::event::{FailureReason, Method, Millis, Outcome};

/// Most processes that are remembered at a time; beyond it the one that was silent longest is closed.
pub(super) const PROCESSES_MAX: usize = 4096;
/// A process that was silent this long is closed. sshd's own limit before a login is 120 s (`LoginGraceTime`).
pub(super) const SILENCE_MS_MAX: Millis = 150_000;
/// Lines about the end of a process follow each other within this; a later one is about another process.
const END_LINES_MS: Millis = 2_000;
/// Most attempts that one `message repeated N times` may stand for, as for one event of an edge.
const REPEATS_MAX: u32 = crate::event::wire::COUNT_MAX;

/// An attempt as far as the lines told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) at: Millis,
    pub(super) account: String,
    pub(super) exists: Option<bool>,
    pub(super) outcome: Outcome,
    pub(super) reason: FailureReason,
    pub(super) method: Method,
    pub(super) source: String,
}

/// A finished attempt and where it came from.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) draft: Draft,
    pub(super) completed_at: Millis,
    pub(super) host: String,
    pub(super) pid: u32,
    /// Running number of the process; starts again when a later second begins.
    pub(super) number: u32,
    copies: u32,
}

type Key = (String, u32);

/// The processes that may still say something, and the attempts that are ready.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_key: FxHashMap<Key, Process>,
    /// Oldest last line first; the numbers count lines.
    by_age: BTreeMap<u64, Key>,
    lines: u64,
    /// The highest time of any line.
    clock: Option<Millis>,
    ready: VecDeque<Ready>,
}

#[derive(Debug, Default)]
struct Process {
    /// Place in `by_age`, and the time of the last line.
    last_line: u64,
    last_at: Millis,
    ended_at: Option<Millis>,
    /// Something already says what this process was: an attempt, or a scan.
    explained: bool,
    waiting: Option<Waiting>,
    /// A name that exists but may not log in here: sshd goes on to call it invalid.
    not_allowed: Option<String>,
    second: Millis,
    number: u32,
}

/// An attempt that a later line may explain further.
#[derive(Debug)]
struct Waiting {
    draft: Draft,
    /// The PAM module that spoke; a second word of the same one is a second attempt.
    pam: Option<String>,
    /// Only asked which methods there are.
    probe: bool,
}

impl Processes {
    pub(super) fn pop(&mut self) -> Option<Ready> {
        let front = self.ready.front_mut()?;
        if front.copies <= 1 {
            return self.ready.pop_front();
        }
        front.copies -= 1;
        let copy = Ready { draft: front.draft.clone(), host: front.host.clone(), copies: 1, ..*front };
        front.number += 1;
        Some(copy)
    }

    pub(super) fn take(&mut self, line: &Line<'_>) {
        let clock = self.clock.map_or(line.at, |clock| clock.max(line.at));
        self.clock = Some(clock);
        self.close_silent(clock);
        let key = (line.host.to_owned(), line.pid);
        let mut process = self.by_key.remove(&key).unwrap_or_default();
        self.by_age.remove(&process.last_line);
        self.lines += 1;
        process.last_line = self.lines;
        process.last_at = line.at;
        let mut out = Out { ready: &mut self.ready, host: line.host, pid: line.pid, completed_at: clock };
        process.hear(line.at, Message::parse(line.message), &mut out);
        self.by_age.insert(self.lines, key.clone());
        self.by_key.insert(key, process);
        if self.by_key.len() > PROCESSES_MAX {
            self.close_oldest();
        }
    }

    /// Closes every process: the input has ended.
    pub(super) fn flush(&mut self) {
        while self.close_oldest() {}
    }

    fn close_silent(&mut self, clock: Millis) {
        while let Some((_, key)) = self.by_age.first_key_value() {
            if self.by_key.get(key).is_some_and(|process| process.last_at > clock - SILENCE_MS_MAX) {
                return;
            }
            self.close_oldest();
        }
    }

    fn close_oldest(&mut self) -> bool {
        let Some((_, key)) = self.by_age.pop_first() else { return false };
        if let Some(mut process) = self.by_key.remove(&key) {
            let completed_at = self.clock.unwrap_or(process.last_at);
            process.settle(&mut Out { ready: &mut self.ready, host: &key.0, pid: key.1, completed_at });
        }
        true
    }
}

/// Where finished attempts of one process go.
struct Out<'a> {
    ready: &'a mut VecDeque<Ready>,
    host: &'a str,
    pid: u32,
    completed_at: Millis,
}

impl Process {
    fn hear(&mut self, at: Millis, message: Message<'_>, out: &mut Out<'_>) {
        match message {
            Message::Other => {}
            Message::Ended => self.end(at, None, out),
            Message::LeftEarly { account, unknown_name, source } => {
                self.end(at, Some(Draft::failure(at, "", account, unknown_name, source)), out);
            }
            Message::Repeated { times, inner } => self.repeat(at, times, inner, out),
            Message::UnknownName { .. }
            | Message::NotAllowed { .. }
            | Message::PamFailure { .. }
            | Message::Failed { .. }
            | Message::Accepted { .. }
            | Message::TooManyAttempts { .. }
            | Message::Scan => {
                if self.ended_at.is_some() {
                    self.begin_anew();
                }
                self.hear_attempt(at, message, out);
            }
        }
    }

    fn hear_attempt(&mut self, at: Millis, message: Message<'_>, out: &mut Out<'_>) {
        match message {
            Message::UnknownName { account, source } => {
                self.settle(out);
                self.wait(Draft::failure(at, "", account, true, source), None, false);
            }
            Message::NotAllowed { account, source } => {
                self.settle(out);
                self.not_allowed = Some(account.to_owned());
                let failure = Draft::failure(at, "", account, false, source);
                let draft = Draft { reason: FailureReason::AccountDisabled, exists: None, ..failure };
                self.wait(draft, None, false);
            }
            Message::PamFailure { module, account, source } => self.pam_failure(at, module, account, source, out),
            Message::Failed { method, account, unknown_name, source } => {
                let mut draft = Draft::failure(at, method, account, unknown_name, source);
                if self.not_allowed.as_deref() == Some(account) {
                    (draft.exists, draft.reason) = (None, FailureReason::AccountDisabled);
                }
                if method == "none" {
                    self.probe(draft, out);
                } else {
                    self.finish(draft, 1, out);
                }
            }
            Message::Accepted { method, account, source } => {
                if self.waiting.as_ref().is_some_and(|waiting| waiting.probe) {
                    self.waiting = None;
                }
                self.settle(out);
                let draft = Draft::failure(at, method, account, false, source);
                let (outcome, reason) = (Outcome::Success, FailureReason::None);
                self.finish(Draft { outcome, reason, exists: None, ..draft }, 1, out);
            }
            Message::TooManyAttempts { account, unknown_name, source } => {
                self.settle(out);
                if !self.explained {
                    self.finish(Draft::failure(at, "", account, unknown_name, source), 1, out);
                }
            }
            Message::Scan => self.explained = true,
            Message::LeftEarly { .. } | Message::Ended | Message::Repeated { .. } | Message::Other => {}
        }
    }

    /// The probe `none` asks which methods there are; the attempt is what follows it, or the probe if nothing does.
    fn probe(&mut self, draft: Draft, out: &mut Out<'_>) {
        match &self.waiting {
            Some(waiting) if waiting.draft.account == draft.account => {}
            Some(_) | None => {
                self.settle(out);
                self.wait(draft, None, true);
            }
        }
    }

    fn pam_failure(&mut self, at: Millis, module: &str, account: &str, source: &str, out: &mut Out<'_>) {
        let same = |waiting: &Waiting| {
            let named = account.is_empty() || waiting.draft.account.is_empty() || waiting.draft.account == account;
            named && waiting.pam.as_deref() != Some(module)
        };
        match &mut self.waiting {
            Some(waiting) if same(waiting) => {
                if waiting.draft.account.is_empty() {
                    account.clone_into(&mut waiting.draft.account);
                }
                waiting.pam = Some(module.to_owned());
                waiting.probe = false;
            }
            Some(_) | None => {
                self.settle(out);
                let draft = Draft { exists: None, ..Draft::failure(at, "password", account, false, source) };
                self.wait(draft, Some(module.to_owned()), false);
            }
        }
    }

    /// The message inside, `times` times more. Only a verdict is an attempt each time.
    fn repeat(&mut self, at: Millis, times: u32, inner: &str, out: &mut Out<'_>) {
        // Some loggers put the whole line inside, time stamp and program included.
        let mut calendar = super::Calendar::new(None, at, 0);
        let inner = calendar.read(inner).map_or(inner, |line| line.message);
        let message = Message::parse(inner);
        match message {
            Message::Failed { method, account, unknown_name, source } if method != "none" => {
                let before = out.ready.len();
                self.hear(at, message, out);
                let more = times.min(REPEATS_MAX).saturating_sub(1);
                if more > 0 && out.ready.len() > before {
                    let mut draft = Draft::failure(at, method, account, unknown_name, source);
                    if self.not_allowed.as_deref() == Some(account) {
                        (draft.exists, draft.reason) = (None, FailureReason::AccountDisabled);
                    }
                    self.finish(draft, more, out);
                }
            }
            Message::Repeated { .. } => {}
            Message::Failed { .. }
            | Message::UnknownName { .. }
            | Message::NotAllowed { .. }
            | Message::PamFailure { .. }
            | Message::Accepted { .. }
            | Message::TooManyAttempts { .. }
            | Message::LeftEarly { .. }
            | Message::Ended
            | Message::Scan
            | Message::Other => self.hear(at, message, out),
        }
    }

    /// The process is over. `left` is the attempt that it was if nothing else says what it was.
    fn end(&mut self, at: Millis, left: Option<Draft>, out: &mut Out<'_>) {
        match self.ended_at {
            Some(ended_at) if at - ended_at <= END_LINES_MS => return,
            Some(_) => self.begin_anew(),
            None => {}
        }
        self.settle(out);
        if let Some(draft) = left.filter(|_| !self.explained) {
            self.finish(draft, 1, out);
        }
        self.ended_at = Some(at);
    }

    /// The process id is used again. Numbers go on, so that ids stay different within a second.
    fn begin_anew(&mut self) {
        let Process { last_line, last_at, second, number, .. } = *self;
        *self = Process { last_line, last_at, second, number, ..Process::default() };
    }

    fn wait(&mut self, draft: Draft, pam: Option<String>, probe: bool) {
        self.waiting = Some(Waiting { draft, pam, probe });
    }

    /// No line will explain the waiting attempt further.
    fn settle(&mut self, out: &mut Out<'_>) {
        if let Some(waiting) = self.waiting.take() {
            self.push(waiting.draft, 1, out);
        }
    }

    /// A verdict: the first of its attempts is the one that waits, when it is about the same name.
    fn finish(&mut self, mut draft: Draft, copies: u32, out: &mut Out<'_>) {
        if let Some(waiting) = self.waiting.take() {
            let named = waiting.draft.account.is_empty() || waiting.draft.account == draft.account;
            if named {
                draft.at = waiting.draft.at;
                if draft.source.parse::<IpAddr>().is_err() {
                    draft.source = waiting.draft.source;
                }
            } else {
                self.push(waiting.draft, 1, out);
            }
        }
        self.push(draft, copies, out);
    }

    fn push(&mut self, draft: Draft, copies: u32, out: &mut Out<'_>) {
        let second = draft.at.div_euclid(1000);
        if second > self.second {
            (self.second, self.number) = (second, 0);
        }
        let number = self.number;
        self.number = self.number.saturating_add(copies);
        self.explained = true;
        let Out { ready, host, pid, completed_at } = out;
        let (host, pid, completed_at) = ((*host).to_owned(), *pid, *completed_at);
        ready.push_back(Ready { draft, completed_at, host, pid, number, copies });
    }
}

impl Draft {
    fn failure(at: Millis, method: &str, account: &str, unknown_name: bool, source: &str) -> Self {
        // A key, a host key and a ticket are none of the contract's methods: no password, and no passkey, which would
        // claim that somebody checked a person. A line that names no method gets the contract's default.
        let kind = match method.split('/').next().unwrap_or_default() {
            "" | "none" | "password" | "keyboard-interactive" => Method::Password,
            _ => Method::Other,
        };
        let (exists, reason) = match method {
            _ if unknown_name => (Some(false), FailureReason::UnknownAccount),
            "" => (None, FailureReason::Unspecified),
            "none" => (Some(true), FailureReason::Unspecified),
            _ if kind == Method::Password => (Some(true), FailureReason::WrongPassword),
            _ => (Some(true), FailureReason::Unspecified),
        };
        let (account, source) = (account.to_owned(), source.to_owned());
        Draft { at, account, exists, outcome: Outcome::Failure, reason, method: kind, source }
    }
}
