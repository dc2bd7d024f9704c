//! The simulation itself: who comes next, what the site does with it, how they react.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::background::{Arrivals, Crowd, Login, Session, Stale};
use super::dice::hash;
use super::history;
use super::population::Population;
use super::raid::Raid;
use super::road::Road;
use super::scenario::{Options, OutOfBounds, Scenario};
use super::site::{Answer, Edge, Handled, Site, stopped};
use super::tally::LoginSoFar;
use super::truth::{Label, Summary, Truth};
use crate::event::{ChallengeResult, LoginEvent, Millis};

/// One event of a simulation, and the truth about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub at: Millis,
    pub event: LoginEvent,
    pub truth: Truth,
}

/// Traffic, one event at a time, in the order of time.
///
/// Memory does not grow with its length: who will come is worked out when they come, and only people who are about to
/// try again are held, of whom there are as many as come within half a minute. A history costs 16 bytes a login of it.
#[derive(Debug)]
pub struct Simulation {
    scenario: Scenario,
    seed: u64,
    options: Options,
    crowd: Crowd,
    from: Millis,
    /// When what the scenario is about ends by plan.
    about_to: Millis,
    history: std::vec::IntoIter<Login>,
    arrivals: Arrivals,
    arriving: Login,
    stale: Stale,
    sessions: BinaryHeap<Reverse<Waiting>>,
    raids: Vec<Raid>,
    tenants: u64,
    bad_road: bool,
}

/// A person who is about to try again.
#[derive(Debug)]
struct Waiting {
    at: Millis,
    session: Session,
}

impl Waiting {
    /// A login waits for one try at a time, so this is unique.
    const fn order(&self) -> (Millis, u64) {
        (self.at, self.session.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Where the next event comes from. The order decides between two of the same millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stream {
    History,
    Again,
    Arrivals,
    Stale,
    Raid(usize),
}

impl Simulation {
    /// # Errors
    /// An option is out of bounds.
    pub fn new(scenario: Scenario, seed: u64, options: Options) -> Result<Self, OutOfBounds> {
        options.check()?;
        let plot = scenario.plot(seed, &options);
        let crowd = Crowd {
            seed,
            tenant: options.tenant.clone(),
            population: Population::new(seed, plot.from),
            per_hour: options.logins_per_hour,
            swings: plot.swings,
            mishap: plot.mishap,
        };
        let ends = plot.about.to + options.after_ms;
        let history = history::logins(&crowd, options.history_ms, plot.from, ends);
        let mut arrivals = Arrivals::new(seed, plot.from);
        Ok(Simulation {
            scenario,
            seed,
            from: plot.from,
            about_to: plot.about.to,
            history: history.into_iter(),
            arriving: arrivals.next(&crowd),
            arrivals,
            stale: Stale::new(&crowd, plot.from),
            sessions: BinaryHeap::new(),
            raids: plot.plans.into_iter().map(|plan| Raid::new(seed, plan, options.attacker)).collect(),
            tenants: plot.tenants,
            bad_road: plot.bad_road,
            crowd,
            options,
        })
    }

    /// The first moment of full traffic, which a history precedes.
    #[must_use]
    pub const fn from(&self) -> Millis {
        self.from
    }

    /// The site at which it is played, with this in front of it.
    #[must_use]
    pub fn site(&self, edge: Edge) -> Site {
        if self.tenants == 1 {
            return Site::new(&self.options.tenant, edge);
        }
        Site::of_all((0..self.tenants).map(|number| tenant(&self.options.tenant, number)), edge)
    }

    /// How its events come to where they are judged.
    #[must_use]
    pub fn road(&self) -> Road {
        if self.bad_road { Road::bad(self.seed, self.from) } else { Road::good() }
    }

    fn settle(&self, event: &mut LoginEvent) {
        settle(self.tenants, event);
    }

    /// When it ends, as far as it is known: an attacker who reacts may go on for longer than planned.
    #[must_use]
    pub fn ends_at(&self) -> Millis {
        let attacks = self.raids.iter().map(Raid::lasts_to);
        attacks.chain([self.about_to]).max().unwrap_or(self.about_to) + self.options.after_ms
    }

    /// When the next event is due; `None` when it is over.
    #[must_use]
    pub fn next_at(&self) -> Option<Millis> {
        self.earliest().map(|(at, _)| at)
    }

    /// Plays the next event against the site: what happens to it depends on what the site has been told until then.
    pub fn next(&mut self, site: &mut Site) -> Option<Planned> {
        let (at, stream) = self.earliest()?;
        match stream {
            Stream::History => {
                let login = self.history.next()?;
                let session = Session::begin_at_home(&self.crowd, login);
                Some(self.honest(site, at, session))
            }
            Stream::Again => {
                let Reverse(Waiting { session, .. }) = self.sessions.pop()?;
                Some(self.honest(site, at, session))
            }
            Stream::Arrivals => {
                let login = std::mem::replace(&mut self.arriving, self.arrivals.next(&self.crowd));
                let session = Session::begin(&self.crowd, login);
                Some(self.honest(site, at, session))
            }
            Stream::Stale => Some(self.stale(site, at)),
            Stream::Raid(number) => self.attack(site, at, number),
        }
    }

    /// Totals so far.
    #[must_use]
    pub fn summary(&self, site: &Site) -> Summary {
        Summary {
            from: self.from,
            to: self.ends_at(),
            accounts_targeted: self.raids.iter().map(Raid::targeted).sum(),
            ..Summary::new(self.scenario, self.seed, &self.options, site.tally())
        }
    }

    fn earliest(&self) -> Option<(Millis, Stream)> {
        let ends = self.ends_at();
        let streams = [
            (self.history.as_slice().first().map(|login| login.at), Stream::History),
            (self.sessions.peek().map(|Reverse(waiting)| waiting.at), Stream::Again),
            (Some(self.arriving.at), Stream::Arrivals),
            (self.stale.next_at(), Stream::Stale),
        ];
        let raids = self.raids.iter().enumerate().map(|(number, raid)| (raid.next_at(), Stream::Raid(number)));
        let next = streams.into_iter().chain(raids).filter_map(|(at, stream)| Some((at?, stream))).min()?;
        (next.0 < ends).then_some(next)
    }

    /// One try of a person.
    fn honest(&mut self, site: &mut Site, at: Millis, mut session: Session) -> Planned {
        let mut event = session.attempt(&self.crowd, at);
        self.settle(&mut event);
        let known = site.knows(&event);
        let mut truth = Truth {
            label: Label::Honest { person: session.person_number, login: session.number },
            account: event.account.clone(),
            would_be: event.outcome,
            handled: Handled::Through,
            known,
            history: at < self.from,
        };
        let answer = site.ask(&event, known);
        if !truth.history && site.blocks_source(&event) {
            site.tally.honest_source_blocked(&event.source_ip);
        }
        truth.handled = conclude(&mut event, answer, || session.passes_challenge());
        site.learn(&event);
        if truth.history {
            site.tally.history += 1;
        } else {
            let login = LoginSoFar {
                first_try: session.is_first_try,
                was_challenged: session.was_challenged,
                was_denied: session.was_denied,
                known,
            };
            site.tally.honest(at, truth.handled, login, site.policy(&event.tenant, at));
        }
        session.was_challenged |= matches!(truth.handled, Handled::Passed | Handled::Challenged);
        session.was_denied |= truth.handled == Handled::Blocked;
        if let Some(again) = session.again(truth.handled, &event) {
            self.sessions.push(Reverse(Waiting { at: again, session }));
        }
        Planned { at, event, truth }
    }

    /// One try of a program with an old password. It passes no challenge and counts for no login of a person.
    fn stale(&mut self, site: &mut Site, at: Millis) -> Planned {
        let (person, mut event) = self.stale.attempt(&self.crowd, at);
        self.settle(&mut event);
        let known = site.knows(&event);
        let (account, would_be) = (event.account.clone(), event.outcome);
        let answer = site.ask(&event, known);
        let handled = conclude(&mut event, answer, || false);
        let login = LoginSoFar { first_try: false, was_challenged: true, was_denied: true, known };
        site.tally.honest(at, handled, login, site.policy(&event.tenant, at));
        let label = Label::Honest { person, login: 0 };
        Planned { at, event, truth: Truth { label, account, would_be, handled, known, history: false } }
    }

    /// One attempt of an attack.
    fn attack(&mut self, site: &mut Site, at: Millis, number: usize) -> Option<Planned> {
        let raid = self.raids.get_mut(number)?;
        let mut tried = raid.attempt(&self.crowd, at)?;
        settle(self.tenants, &mut tried.event);
        site.expect(&tried.event);
        let known = site.knows(&tried.event);
        let (account, would_be) = (tried.event.account.clone(), tried.event.outcome);
        let answer = site.ask(&tried.event, known);
        let handled = conclude(&mut tried.event, answer, || tried.solves_challenge);
        site.tally.attack(&tried.event, handled, site.blocks_source(&tried.event));
        raid.learn(&self.crowd, &tried, handled);
        let label = Label::Attack { campaign: raid.plan.campaign };
        let truth = Truth { label, account, would_be, handled, known, history: false };
        Some(Planned { at, event: tried.event, truth })
    }
}

/// Every account is at one of the tenants.
fn settle(tenants: u64, event: &mut LoginEvent) {
    if tenants > 1 {
        event.tenant = tenant(&event.tenant, hash(event.account.as_bytes()) % tenants);
    }
}

fn tenant(name: &str, number: u64) -> String {
    format!("{name}-{}", number + 1)
}

/// Turns a try into what the site says happened.
fn conclude(event: &mut LoginEvent, answer: Answer, passes: impl FnOnce() -> bool) -> Handled {
    match answer {
        Answer::Through => Handled::Through,
        Answer::Challenge if passes() => {
            event.challenge = ChallengeResult::Passed;
            Handled::Passed
        }
        Answer::Challenge => {
            stopped(event, answer);
            Handled::Challenged
        }
        Answer::RefuseAtEdge | Answer::Refuse(_) => {
            stopped(event, answer);
            Handled::Blocked
        }
    }
}
