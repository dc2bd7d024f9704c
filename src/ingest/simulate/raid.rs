//! One attack: a list of accounts, addresses to try it from, a pace, and how it reacts to what the site does.

use std::collections::VecDeque;
use std::ops::Range;

use super::background::{Crowd, fail, own, succeed, tag};
use super::dice::{Dice, Shuffle, mix, scale};
use super::population::{ACCOUNTS, ACTIVE, Agent, Population};
use super::scenario::Attacker;
use super::site::Handled;
use super::space::{AttackSpace, Place, Pool};
use crate::event::{FailureReason, LoginEvent, Millis};

/// Most addresses an attacker has: beyond them no fresh one is taken.
pub const ADDRESSES_MAX: u64 = 100_000;
/// One address in so many is an honest person's home or a shared exit: 1 %, as StopGuessing has it.
const OVERLAP: u64 = 100;
/// An attacker who reacts stops after so many times the planned length, list done or not.
const PATIENCE: Millis = 4;
/// An attacker who slows down does so at most this often, and at most by [`SLOWEST`].
const SLOWS_EVERY: Millis = 10_000;
const SLOWEST: u64 = 64;

/// Who stands at a place of an attacker's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// A name that is nobody's, by its number.
    Nobody(u64),
    /// A person's account; whether the password on the list is the right one.
    Account { person: u64, enters: bool },
}

/// A stolen list of names and passwords. Every place of it holds another account.
#[derive(Debug, Clone)]
pub(super) struct List {
    pub(super) seed: u64,
    /// Names that are nobody's here; in a million.
    pub(super) nobody: u64,
    /// Passwords that are right, among the accounts that exist; in a million.
    pub(super) right: u64,
    /// Places whose account lies dormant and whose password is right, whatever the shares say.
    pub(super) victims: Vec<u64>,
}

impl List {
    fn target(&self, place: u64) -> Target {
        let people = Shuffle::new(ACCOUNTS, self.seed, "list");
        if let Some(which) = self.victims.iter().position(|victim| *victim == place) {
            return Target::Account { person: dormant(&people, which), enters: true };
        }
        let share = |name: u64| scale(mix(mix(self.seed, name), place), 1_000_000);
        if share(1) < self.nobody {
            Target::Nobody(place)
        } else {
            Target::Account { person: people.at(place), enters: share(2) < self.right }
        }
    }
}

/// A dormant account from the end of the shuffled accounts, where no list reaches.
fn dormant(people: &Shuffle, which: usize) -> u64 {
    let from_the_end = (0..ACCOUNTS).rev().map(|place| people.at(place));
    from_the_end.filter(|person| *person >= ACTIVE).nth(which).unwrap_or(ACTIVE)
}

/// Where an attack comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// So many addresses of a pool, so many at work at a time; each is used up and replaced.
    Botnet { addresses: u64, at_a_time: u64, pool: Pool },
    /// One address of a hosting provider in the Netherlands, at which a person sits who solves a challenge.
    Intruder,
}

/// When an attack tries.
#[derive(Debug, Clone)]
pub(super) enum Pace {
    /// Evenly over a time.
    Even { from: Millis, to: Millis },
    /// At these times, ascending.
    At(Vec<Millis>),
}

/// An attack as it is planned.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) campaign: &'static str,
    pub(super) list: List,
    /// The places of the list that are tried.
    pub(super) places: Range<u64>,
    pub(super) origin: Origin,
    pub(super) pace: Pace,
}

/// One source at work.
#[derive(Debug, Clone, Copy)]
struct Bot {
    place: Place,
    agent: Agent,
    /// Tries until it is replaced.
    left: u64,
}

/// A try that is under way: what the site says about it goes to [`Raid::learn`].
#[derive(Debug)]
pub(super) struct Try {
    pub(super) event: LoginEvent,
    pub(super) solves_challenge: bool,
    place: u64,
    bot: usize,
}

/// An attack under way.
#[derive(Debug)]
pub(super) struct Raid {
    pub(super) plan: Plan,
    attacker: Attacker,
    dice: Dice,
    space: AttackSpace,
    bots: Vec<Bot>,
    /// The next address never used.
    fresh: u64,
    next_place: u64,
    /// Places that were refused and are tried again.
    again: VecDeque<u64>,
    /// Microseconds since the start: the turn of the next try, the length of a turn, and where in it the try is.
    turn_us: u64,
    length_us: u64,
    within_us: u64,
    /// Tries made.
    tries: u64,
    slower: u64,
    slowed_at: Millis,
    last_at: Millis,
}

impl Raid {
    pub(super) fn new(seed: u64, plan: Plan, attacker: Attacker) -> Self {
        let dice = Dice::new(seed, plan.campaign);
        let tries = plan.places.end - plan.places.start;
        let length_us = match &plan.pace {
            Pace::Even { from, to } => (to - from).unsigned_abs() * 1_000 / tries.max(1),
            Pace::At(_) => 0,
        };
        let mut raid = Raid {
            attacker,
            dice,
            space: AttackSpace::new(seed),
            bots: Vec::new(),
            fresh: 0,
            next_place: plan.places.start,
            again: VecDeque::new(),
            turn_us: 0,
            length_us,
            within_us: 0,
            tries: 0,
            slower: 1,
            slowed_at: Millis::MIN,
            last_at: plan.pace.from(),
            plan,
        };
        raid.within_us = raid.dice.below(raid.length_us);
        raid
    }

    /// When the next try is due; `None` when the attack is over.
    pub(super) fn next_at(&self) -> Option<Millis> {
        if self.again.is_empty() && self.next_place >= self.plan.places.end {
            return None;
        }
        match &self.plan.pace {
            Pace::Even { from, to } => {
                let at = from + ((self.turn_us + self.within_us) / 1_000).cast_signed();
                let stops = match self.attacker {
                    Attacker::Fixed => *to,
                    Attacker::Rotate | Attacker::SlowDown => from + (to - from) * PATIENCE,
                };
                (at < stops).then_some(at)
            }
            Pace::At(times) => usize::try_from(self.tries).ok().and_then(|n| times.get(n)).copied(),
        }
    }

    /// The first millisecond after its last try, or after the next one if that is not yet made.
    pub(super) fn lasts_to(&self) -> Millis {
        self.next_at().unwrap_or(self.last_at) + 1
    }

    /// Places of the list tried at least once.
    pub(super) const fn targeted(&self) -> u64 {
        self.next_place - self.plan.places.start
    }

    /// The try that is due, as it ends if the site does not stop it.
    pub(super) fn attempt(&mut self, crowd: &Crowd, at: Millis) -> Option<Try> {
        let place = self.again.pop_front().or_else(|| {
            let next = Some(self.next_place).filter(|place| *place < self.plan.places.end);
            self.next_place += u64::from(next.is_some());
            next
        })?;
        self.turn_us += self.length_us * self.slower;
        self.within_us = self.dice.below(self.length_us * self.slower);
        self.tries += 1;
        self.last_at = at;
        let bot = self.pick(crowd)?;
        let source = self.bots.get_mut(bot)?;
        source.left = source.left.saturating_sub(1);
        let (place_of_bot, agent) = (source.place, source.agent);
        let event = self.event(crowd, at, place, place_of_bot, agent);
        Some(Try { event, solves_challenge: self.plan.origin == Origin::Intruder, place, bot })
    }

    /// The attacker sees what came of a try, and reacts.
    pub(super) fn learn(&mut self, crowd: &Crowd, tried: &Try, handled: Handled) {
        match (self.attacker, handled) {
            (Attacker::Fixed, _)
            | (_, Handled::Through | Handled::Passed)
            | (Attacker::Rotate, Handled::Challenged) => {}
            (Attacker::Rotate, Handled::Blocked) => {
                // The address is burnt; the account is tried again from a fresh one.
                if let Some(fresh) = self.take_fresh(crowd)
                    && let Some(bot) = self.bots.get_mut(tried.bot)
                {
                    *bot = fresh;
                    self.again.push_back(tried.place);
                }
            }
            (Attacker::SlowDown, Handled::Blocked | Handled::Challenged) => {
                if self.last_at.saturating_sub(self.slowed_at) >= SLOWS_EVERY && self.slower < SLOWEST {
                    self.slower *= 2;
                    self.slowed_at = self.last_at;
                }
            }
        }
    }

    /// A source that is not used up, by its index.
    fn pick(&mut self, crowd: &Crowd) -> Option<usize> {
        let wanted = match self.plan.origin {
            Origin::Botnet { at_a_time, addresses, .. } => at_a_time.min(addresses),
            Origin::Intruder => 1,
        };
        while (self.bots.len() as u64) < wanted
            && let Some(bot) = self.take_fresh(crowd)
        {
            self.bots.push(bot);
        }
        loop {
            let index = usize::try_from(self.dice.below(self.bots.len() as u64)).ok()?;
            if self.bots.get(index)?.left > 0 {
                return Some(index);
            }
            // Used up: replaced, or not, when no address is left; what is tried again then uses the last one on.
            if let Some(fresh) = self.take_fresh(crowd) {
                self.bots[index] = fresh;
            } else if self.bots.len() > 1 {
                self.bots.swap_remove(index);
            } else {
                self.bots[index].left = 1;
            }
        }
    }

    /// A source never used before; `None` when the attacker has no more.
    fn take_fresh(&mut self, crowd: &Crowd) -> Option<Bot> {
        let number = self.fresh;
        let planned = match self.plan.origin {
            Origin::Botnet { addresses, .. } => addresses,
            Origin::Intruder => 1,
        };
        // Who rotates takes as many as it needs, as long as there are any.
        let limit = match self.attacker {
            Attacker::Rotate => ADDRESSES_MAX,
            Attacker::Fixed | Attacker::SlowDown => planned,
        };
        if number >= limit {
            return None;
        }
        self.fresh += 1;
        let tries = self.plan.places.end - self.plan.places.start;
        Some(match self.plan.origin {
            Origin::Intruder => Bot { place: self.space.intruder(number), agent: BROWSER, left: u64::MAX },
            Origin::Botnet { addresses, pool, .. } => Bot {
                place: self.address(crowd, pool, number),
                agent: bot_agent(mix(crowd.seed, number)),
                left: life(number, tries, addresses),
            },
        })
    }

    fn address(&mut self, crowd: &Crowd, pool: Pool, number: u64) -> Place {
        let is_botnet = matches!(pool, Pool::Mixed | Pool::Residential);
        if is_botnet && number % OVERLAP == OVERLAP / 2 {
            let person = Population::somebody(&mut self.dice);
            return crowd.population.person(person).home;
        }
        self.space.of(pool, number)
    }

    fn event(&mut self, crowd: &Crowd, at: Millis, place: u64, source: Place, agent: Agent) -> LoginEvent {
        let mut event = crowd.attempt(&mut self.dice, at, source, agent);
        match self.plan.list.target(place) {
            Target::Nobody(number) => {
                event.account = crowd.population.nobody(number);
                event.account_exists = Some(false);
                fail(&mut event, FailureReason::UnknownAccount);
            }
            Target::Account { person, enters } => {
                own(&mut event, person, &crowd.population.person(person));
                if enters {
                    succeed(&mut event);
                } else {
                    fail(&mut event, FailureReason::WrongPassword);
                }
            }
        }
        if event.failure_reason != FailureReason::None {
            event.password_tag = Some(tag(&event.account, mix(place, 9)));
        }
        event
    }
}

impl Pace {
    fn from(&self) -> Millis {
        match self {
            Pace::Even { from, .. } => *from,
            Pace::At(times) => times.first().copied().unwrap_or_default(),
        }
    }
}

/// Tries of an address: the whole list is shared out to the last try, a little more to one and less to its neighbour.
fn life(number: u64, tries: u64, addresses: u64) -> u64 {
    let share = |n: u64| u64::try_from(u128::from(n) * u128::from(tries) / u128::from(addresses.max(1))).unwrap_or(1);
    let even = share(number + 1) - share(number);
    let pair = number / 2;
    // Neighbours that do not both belong to the plan have nobody to share with.
    if pair * 2 + 1 >= addresses {
        return even.max(1);
    }
    let least = (share(pair * 2 + 1) - share(pair * 2)).min(share(pair * 2 + 2) - share(pair * 2 + 1));
    let shift = scale(mix(pair, 8), least / 3 + 1);
    if number.is_multiple_of(2) { even + shift } else { even - shift }
}

const BROWSER: Agent = Agent {
    text: "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:67.0) Gecko/20100101 Firefox/67.0",
    application: "web",
};

/// What bots call themselves: browsers that people use too, most of them seldom.
fn bot_agent(bits: u64) -> Agent {
    let text = match scale(bits, 100) {
        0..60 => {
            "Mozilla/5.0 (Windows NT 6.1; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/70.0.3538.77 Safari/537.36"
        }
        60..85 => "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:60.0) Gecko/20100101 Firefox/60.0",
        _ => {
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/75.0.3770.100 Safari/537.36"
        }
    };
    Agent { text, application: "web" }
}
