//! The source stage anew: duplicates, pairs that are known, addresses and networks.

use std::collections::BTreeMap;

use super::control::Control;
use super::frames::{Activity, Attempt, FailureReason, Item, Note, Outcome, Sign, Source, State, items};
use super::playbook::{Playbook, Playbooks};
use super::said::{Passed, Said, Stated, number};
use super::standing::{Cause, Found, Standings, within_bounds};
use super::window::{Heard, Window, Windows, memory};
use super::{DAY_MS, GRACE_MS, Millis, Read, Who};

/// How long a repeat is recognised.
const SEEN_MS: Millis = GRACE_MS + 60_000;
/// How long a success makes a pair known.
const PAIR_MS: Millis = 30 * DAY_MS;
const HOUR_MS: Millis = 3_600_000;
const REPEATS_MAX: usize = 64;
const ENTRIES_MAX: usize = 64;
const GOOD_MAX: usize = 50;

/// What two records of one id share when they are one attempt.
type Content = (String, Outcome, FailureReason, Millis, String);
/// Tenant, source and id.
type Id = (String, Source, String);

/// What makes an attempt the same wrong password again, or the same stranger again.
#[derive(Debug, Clone, PartialEq)]
enum Again {
    Success(String, i64),
    Tag(String, u32),
    Minute(String, i64),
}

#[derive(Debug, Clone)]
struct Entry {
    account: String,
    event_id: String,
    at: Millis,
    arrived_at: Millis,
}

/// What is remembered of one source.
#[derive(Debug, Default)]
struct OfSource {
    windows: Windows,
    again: Vec<Again>,
    entries: Vec<Entry>,
    successes: Option<Window>,
    forgotten_at: Millis,
}

#[derive(Debug, Default)]
struct OfNetwork {
    windows: Windows,
    blocked: Vec<(Source, Millis)>,
    forgotten_at: Millis,
}

#[derive(Debug, Clone, Copy)]
struct Pair {
    known_from: Millis,
    last_success: Millis,
}

/// Account, first and last success.
type Good = Vec<(String, Millis, Millis)>;

/// One partition of the stage.
struct Task<'a> {
    playbooks: &'a Playbooks,
    partitions: i32,
    partition: i32,
    now: Millis,
    control: Control,
    first_seen: BTreeMap<Id, (Content, Millis)>,
    further_seen: BTreeMap<(Id, String), Millis>,
    sources: BTreeMap<(String, Source), OfSource>,
    networks: BTreeMap<(String, Source), OfNetwork>,
    traffic: BTreeMap<String, Window>,
    pairs: BTreeMap<(String, Source, String), Pair>,
    good_sources: BTreeMap<(String, Source), Good>,
    good_networks: BTreeMap<(String, Source), Good>,
    standings: Standings,
}

/// What the stage says over the committed records of its input, one partition after the other.
pub fn source_stage(playbooks: &Playbooks, input: &[Vec<Read>], said: &mut Said) {
    for (partition, records) in (0..).zip(input) {
        let mut task = Task {
            playbooks,
            partitions: i32::try_from(input.len()).unwrap(),
            partition,
            now: Millis::MIN,
            control: Control::default(),
            first_seen: BTreeMap::new(),
            further_seen: BTreeMap::new(),
            sources: BTreeMap::new(),
            networks: BTreeMap::new(),
            traffic: BTreeMap::new(),
            pairs: BTreeMap::new(),
            good_sources: BTreeMap::new(),
            good_networks: BTreeMap::new(),
            standings: Standings::default(),
        };
        for record in records {
            for item in items(record) {
                let place = format!("attempts-by-source[{partition}] offset {}", record.offset);
                match item {
                    Item::Attempt(attempt) => {
                        task.standings.pass(&mut task.now, attempt.arrived_at, said);
                        task.now = task.now.max(attempt.arrived_at);
                        let because = format!("{place}, event {} of {:?}", attempt.event_id, attempt.source.address());
                        task.attempt(&attempt, &because, said);
                    }
                    Item::Mark(mark) => {
                        task.standings.pass(&mut task.now, mark.at, said);
                        task.now = task.now.max(mark.at);
                        let news = task.control.take(&mark);
                        said.news.entry(partition).or_default().extend(news);
                    }
                    other @ (Item::Sourced(_) | Item::Note(_) | Item::Partial(_)) => panic!("{place}: {other:?}"),
                }
            }
        }
    }
}

impl Task<'_> {
    fn attempt(&mut self, a: &Attempt, because: &str, said: &mut Said) {
        said.count("attempts");
        let is_late = a.delay_ms() > GRACE_MS;
        if is_late {
            said.count("late");
            if !a.is_success() {
                return;
            }
        } else if self.is_duplicate(a, said) {
            said.count("duplicates");
            return;
        } else {
            said.count(if a.is_failure() || a.is_success() { "counted" } else { "not counted" });
        }
        let now = self.now;
        let (key, network_key) = ((a.tenant.clone(), a.source), (a.tenant.clone(), a.source.network()));
        let (who, who_network) = (a.source.who(&a.tenant), a.source.who_of_network(&a.tenant));
        self.standings.look(&who, now, said);
        self.standings.look(&who_network, now, said);
        self.sources.retain(|held, of| *held != key || of.forgotten_at > now);
        self.networks.retain(|held, of| *held != network_key || of.forgotten_at > now);

        let pair_key = (a.tenant.clone(), a.source, a.account.clone());
        let pair = self.pairs.get(&pair_key).copied().filter(|pair| !a.account.is_empty() && pair.known_from <= now);
        let (state, incident_id) = self.control.state_of(&a.tenant, now);
        let is_exempt = self.control.spares_source(&a.tenant, a.source, now);
        let is_strangers = pair.is_none() && !is_late;
        let repeat = is_strangers && self.repeats(a);
        let counts = is_strangers && a.is_failure() && !repeat;

        let is_heard = (counts || a.is_success())
            && !repeat
            && !is_late
            && pair.is_none_or(|pair| {
                let part = |at: Millis| at.div_euclid(self.playbooks.success_once());
                a.is_success() && part(pair.last_success) != part(now) && self.blocked_by(a, is_exempt).is_none()
            });
        if is_heard {
            self.hear(a, counts, pair.is_none());
        }

        let mut newly = Vec::new();
        let cause = |is_spared: bool| Cause {
            event_id: &a.event_id,
            occurred_at: a.occurred_at,
            arrived_at: a.arrived_at,
            delay_ms: a.delay_ms(),
            incident_id: incident_id.as_deref(),
            is_spared,
            because,
        };
        if counts {
            let of_source = self.judge_source(a, &who, state, cause, said);
            self.tell_network(a, &who);
            let of_network = self.judge_network(a, &who_network, state, cause, said);
            newly.extend(of_source.map(|playbook| (who.key(), playbook)));
            newly.extend(of_network.map(|playbook| (who_network.key(), playbook)));
            if !newly.is_empty() {
                self.identified(a, is_exempt, incident_id.as_deref(), because, said);
            }
        } else if a.is_stopped() && self.blocked_by(a, is_exempt).is_some() {
            for who in [&who, &who_network] {
                self.standings.renew(who, now, &cause(self.control.spares(who, now)), said);
            }
            self.tell_network(a, &who);
        }

        let blocked_by = self.blocked_by(a, is_exempt);
        if a.is_success() && !a.account.is_empty() && blocked_by.is_none() {
            self.learn(a, state);
        }
        if !is_late && a.activity == Activity::Login {
            let sums = said.sums.entry(a.tenant.clone()).or_default();
            sums.attempts += u64::from(a.is_failure() || a.outcome == Outcome::Success);
            sums.failures += u64::from(counts);
            sums.unknown += u64::from(counts && a.is_nobodys());
            sums.stopped += if a.is_stopped() { u64::from(a.count) } else { 0 };
            sums.blocked.extend(newly);
        }
        if !a.account.is_empty() {
            let passed = Passed::Attempt {
                tenant: a.tenant.clone(),
                account: a.account.clone(),
                event_id: a.event_id.clone(),
                occurred_at: a.occurred_at,
                arrived_at: a.arrived_at,
                known_pair: pair.is_some(),
                sign: blocked_by.map(Sign::Blocked),
                repeat,
            };
            self.pass_on(&a.tenant, &a.account, passed, because, said);
        }
    }

    fn pass_on(&self, tenant: &str, account: &str, what: Passed, because: &str, said: &mut Said) {
        said.count("passed on");
        let place = (self.partition, format!("{tenant}|{account}"));
        said.passed.entry(place).or_default().push(Stated { what, because: because.to_owned() });
    }

    /// A repeat has the id and the content of an attempt of the last six minutes.
    fn is_duplicate(&mut self, a: &Attempt, said: &mut Said) -> bool {
        let second = self.now.div_euclid(1_000);
        let oldest = (self.now - SEEN_MS).div_euclid(1_000);
        let id = (a.tenant.clone(), a.source, a.event_id.clone());
        let content: Content = (
            a.account.clone(),
            a.outcome,
            a.failure_reason,
            a.occurred_at + a.ahead_ms,
            a.user_agent.clone().unwrap_or_default(),
        );
        match self.first_seen.get_mut(&id) {
            Some((first, at)) if *at >= oldest => {
                if *first == content {
                    return true;
                }
                let further = (id, format!("{content:?}"));
                if self.further_seen.get(&further).is_some_and(|at| *at >= oldest) {
                    return true;
                }
                self.further_seen.insert(further, second);
                *at = (*at).max(second);
                said.count("conflicting ids");
            }
            Some(_) | None => {
                self.first_seen.insert(id, (content, second));
            }
        }
        false
    }

    /// The same wrong password again: equal tags of one pair, without a tag one pair in one minute. Or the same
    /// stranger again, who logged in not long ago.
    fn repeats(&mut self, a: &Attempt) -> bool {
        if a.account.is_empty() {
            return false;
        }
        let account = a.account.clone();
        let again = if a.is_success() {
            Again::Success(account, a.occurred_at.div_euclid(self.playbooks.success_once()))
        } else if !a.is_failure() {
            return false;
        } else if let Some(tag) = a.password_tag {
            Again::Tag(account, tag)
        } else {
            Again::Minute(account, a.occurred_at.div_euclid(60_000))
        };
        let of = self.of_source(a);
        if of.again.contains(&again) {
            return true;
        }
        if of.again.len() == REPEATS_MAX {
            of.again.remove(0);
        }
        of.again.push(again);
        false
    }

    /// What is remembered of the source, to be changed: it is remembered from now on for as long as it may matter. Who
    /// carries much is remembered for as long as it takes to tell a proxy.
    fn of_source(&mut self, a: &Attempt) -> &mut OfSource {
        let windows = memory(self.playbooks.address.iter().map(Playbook::over));
        let of = self.sources.entry((a.tenant.clone(), a.source)).or_default();
        let carries = of.successes.as_ref().is_some_and(|successes| successes.attempts() >= 50);
        let for_proxy = if carries { memory([HOUR_MS].into_iter()) } else { 0 };
        of.forgotten_at = self.now + windows.max(self.playbooks.entry_memory()).max(for_proxy);
        of
    }

    fn of_network(&mut self, a: &Attempt) -> &mut OfNetwork {
        let kept = self.now + memory(self.playbooks.network.iter().map(Playbook::over));
        let of = self.networks.entry((a.tenant.clone(), a.source.network())).or_default();
        of.forgotten_at = of.blocked.iter().map(|(_, until)| *until).fold(kept, Millis::max);
        of
    }

    fn hear(&mut self, a: &Attempt, counts: bool, is_strangers: bool) {
        let account = Some(a.account.clone()).filter(|account| !account.is_empty());
        let heard = Heard { at: a.occurred_at, failed: counts, account, source: None };
        let playbooks = self.playbooks;
        let (arrived_at, entry_memory) = (a.arrived_at, playbooks.entry_memory());
        if a.is_success() {
            self.traffic.entry(a.tenant.clone()).or_insert_with(|| Window::new(HOUR_MS)).hear(heard.clone());
            let of = self.of_source(a);
            of.successes.get_or_insert_with(|| Window::new(HOUR_MS)).hear(heard.clone());
        }
        let of = self.of_source(a);
        of.windows.hear(playbooks.address.iter().map(Playbook::over), &heard);
        if a.is_success() && is_strangers && !a.account.is_empty() {
            of.entries.retain(|entry| entry.arrived_at + entry_memory > arrived_at);
            if of.entries.len() == ENTRIES_MAX {
                of.entries.remove(0);
            }
            of.entries.push(Entry {
                account: a.account.clone(),
                event_id: a.event_id.clone(),
                at: a.occurred_at,
                arrived_at,
            });
        }
        let heard = Heard { source: Some(a.source), ..heard };
        self.of_network(a).windows.hear(playbooks.network.iter().map(Playbook::over), &heard);
    }

    /// The verdict that keeps the source out: its own, else its network's. Somebody exempt is never kept out.
    fn blocked_by(&self, a: &Attempt, is_exempt: bool) -> Option<String> {
        let of = |who: Who| self.standings.blocked_by(&who, self.now).map(|claim| claim.verdict_id.clone());
        of(a.source.who(&a.tenant)).or_else(|| of(a.source.who_of_network(&a.tenant))).filter(|_| !is_exempt)
    }

    /// The playbook that newly keeps the source out.
    fn judge_source<'c>(
        &mut self,
        a: &Attempt,
        who: &Who,
        state: State,
        cause: impl Fn(bool) -> Cause<'c>,
        said: &mut Said,
    ) -> Option<String> {
        let now = self.now;
        let proxy = self.proxy(a);
        let is_spared = !a.source.may_be_blocked() || self.control.spares(who, now);
        if let Some(found) = &proxy {
            for playbook in &self.playbooks.proxy {
                self.standings.ask(playbook, who, now, &cause(false), said, || Some(found.clone()));
            }
        }
        let cause = cause(is_spared || proxy.is_some());
        let key = (a.tenant.clone(), a.source);
        let good = self.good_sources.get(&key).into_iter().flatten();
        let good = good.filter(|(_, first, _)| first + DAY_MS <= now).count();
        let was_blocked = self.standings.blocked_by(who, now).is_some();
        for playbook in &self.playbooks.address {
            let window = self.sources.get(&key).and_then(|of| of.windows.of(playbook.over()));
            self.standings.ask(playbook, who, now, &cause, said, || within_bounds(playbook, window, 0, good, state));
        }
        self.newly_blocked(who, was_blocked)
    }

    fn judge_network<'c>(
        &mut self,
        a: &Attempt,
        who: &Who,
        state: State,
        cause: impl Fn(bool) -> Cause<'c>,
        said: &mut Said,
    ) -> Option<String> {
        let now = self.now;
        let may_be = a.source.network().may_be_blocked() && a.source.may_be_blocked() && self.proxy(a).is_none();
        let cause = cause(!may_be || self.control.spares(who, now));
        let key = (a.tenant.clone(), a.source.network());
        let of = self.networks.get(&key);
        let blocked = of.map_or(0, |of| of.blocked.iter().filter(|(_, until)| *until > now).count());
        let good = self.good_networks.get(&key).into_iter().flatten().filter(|(_, first, _)| *first <= now).count();
        let was_blocked = self.standings.blocked_by(who, now).is_some();
        for playbook in &self.playbooks.network {
            let window = of.and_then(|of| of.windows.of(playbook.over()));
            let look = || within_bounds(playbook, window, blocked, good, state);
            self.standings.ask(playbook, who, now, &cause, said, look);
        }
        self.newly_blocked(who, was_blocked)
    }

    fn newly_blocked(&self, who: &Who, was_blocked: bool) -> Option<String> {
        self.standings.blocked_by(who, self.now).filter(|_| !was_blocked).map(|claim| claim.playbook.clone())
    }

    /// Whether the source carries over a fifth of the tenant's logins of an hour, were the other tasks' like this one's.
    fn proxy(&self, a: &Attempt) -> Option<Found> {
        self.playbooks.proxy.first()?;
        let own = self.sources.get(&(a.tenant.clone(), a.source))?.successes.as_ref()?;
        let all = self.traffic.get(&a.tenant)?;
        let newest = all.newest();
        let (own, all_sum) = (own.attempts_until(newest), all.attempts_until(newest));
        let others = (all_sum - own) * usize::try_from(self.partitions).unwrap();
        let share = own as f64 / (own + others).max(1) as f64;
        if own < 100 || share <= 0.2 {
            return None;
        }
        let measures = [("successes", own as f64), ("successes.threshold", 100.0)];
        let shares = [("success_share", share), ("success_share.threshold", 0.2)];
        let measures = measures.into_iter().chain(shares).map(|(name, n)| (name.to_owned(), number(n))).collect();
        Some(Found { measures, window: all.span() })
    }

    /// Keeps the network's list of blocked addresses.
    fn tell_network(&mut self, a: &Attempt, who: &Who) {
        let Some(until) = self.standings.blocked_by(who, self.now).map(|claim| claim.until) else { return };
        let now = self.now;
        let key = (a.tenant.clone(), a.source.network());
        if self.networks.get(&key).is_some_and(|of| of.blocked.contains(&(a.source, until))) {
            return;
        }
        let of = self.of_network(a);
        of.blocked.retain(|(source, end)| *source != a.source && *end > now);
        of.blocked.push((a.source, until));
        of.forgotten_at = of.forgotten_at.max(until);
    }

    /// The source is identified: whoever it entered lately as a stranger is looked at again.
    fn identified(&mut self, a: &Attempt, is_exempt: bool, incident_id: Option<&str>, because: &str, said: &mut Said) {
        let key = (a.tenant.clone(), a.source);
        if self.sources.get(&key).is_none_or(|of| of.entries.is_empty()) {
            return;
        }
        let Some(verdict_id) = self.blocked_by(a, is_exempt) else { return };
        let entries = std::mem::take(&mut self.of_source(a).entries);
        for entry in entries {
            if entry.arrived_at + self.playbooks.entry_memory() <= a.arrived_at {
                continue;
            }
            self.pairs.remove(&(a.tenant.clone(), a.source, entry.account.clone()));
            let network_key = (a.tenant.clone(), a.source.network());
            let of_source = self.good_sources.get_mut(&key);
            for good in of_source.into_iter().chain(self.good_networks.get_mut(&network_key)) {
                good.retain(|(account, first, _)| *account != entry.account || *first < entry.arrived_at);
            }
            let note = Note {
                tenant: a.tenant.clone(),
                account: entry.account.clone(),
                source: a.source,
                event_id: entry.event_id,
                at: entry.at,
                sign: Sign::Blocked(verdict_id.clone()),
                known_at: a.arrived_at,
                incident_id: incident_id.map(str::to_owned),
            };
            said.count("notes");
            self.pass_on(&a.tenant, &entry.account, Passed::Note(note), because, said);
        }
    }

    /// A success makes the pair known: at once in CALM, after a day otherwise.
    fn learn(&mut self, a: &Attempt, state: State) {
        let now = self.now;
        let taught = if state == State::Calm { now } else { now + DAY_MS };
        let pair = self.pairs.entry((a.tenant.clone(), a.source, a.account.clone()));
        let pair = pair.or_insert(Pair { known_from: taught, last_success: now });
        *pair = Pair { known_from: pair.known_from.min(taught), last_success: now };
        if state != State::Calm || a.account_created_at.is_some_and(|at| at + 14 * DAY_MS > now) {
            return;
        }
        let source = self.good_sources.entry((a.tenant.clone(), a.source)).or_default();
        let network = self.good_networks.entry((a.tenant.clone(), a.source.network())).or_default();
        for good in [source, network] {
            good.retain(|(_, _, last)| last + PAIR_MS > now);
            if let Some((_, _, last)) = good.iter_mut().find(|(account, _, _)| *account == a.account) {
                *last = now;
            } else if good.len() < GOOD_MAX {
                good.push((a.account.clone(), now, now));
            }
        }
    }
}
