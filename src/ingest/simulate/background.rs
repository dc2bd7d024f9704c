//! People who log in, with the mistakes that people make.
//!
//! [`Arrivals`] says who comes when, [`Session`] takes one person from the first try to the last, [`Stale`] are the
//! programs that go on with an old password. The shares are those of StopGuessing's simulator
//! (`Simulator/ExperimentalConfiguration.cs`) unless a comment says otherwise; together about 12 % of tries fail and
//! 1.6 % name an account that does not exist. A person's choices depend on the seed and the number of the login alone,
//! never on what the site does to others, so a closed and an open run have the same people at the same times.

use super::dice::{Dice, hash, mix};
use super::names;
use super::population::{ACCOUNTS, Agent, Person, Population, SAME_ADDRESS, SAME_DEVICE, agent};
use super::site::Handled;
use super::space::Place;
use crate::event::{FailureReason, LoginEvent, Millis, Outcome};

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
const HOUR_US: u64 = 3_600_000_000;
const DAY: Millis = 24 * HOUR;

/// Logins that begin with a wrong password; in a million.
const TYPO: u64 = 20_000;
/// The same of people who have not been here for long; in a million. An assumption.
const TYPO_AFTER_LONG: u64 = 100_000;
/// After a wrong password comes another; in a million.
const TYPO_AGAIN: u64 = 666_667;
/// After so many the person gives up.
const TYPOS_MAX: u32 = 6;
/// Logins that begin with a wrong account name; in a million.
const WRONG_NAME: u64 = 20_000;
/// Wrong names that are somebody else's; in a million. An assumption.
const NAME_OF_ANOTHER: u64 = 100_000;
/// Between two tries of one person, about 7 s.
const BETWEEN_TRIES: (Millis, Millis) = (5 * SECOND, 9 * SECOND);
/// Between two tries of a person whom the site refuses or fails.
const BETWEEN_REFUSALS: (Millis, Millis) = (8 * SECOND, 30 * SECOND);
/// Most tries of a person whom the site refuses or fails.
const REFUSALS_MAX: u32 = 4;

/// How many people come in a local hour, in thousandths of the mean, from midnight on.
const SWING: [u64; 24] = [
    350, 220, 150, 120, 130, 220, 500, 900, 1250, 1400, 1400, 1400, 1400, 1350, 1350, 1350, 1350, 1400, 1450, 1450,
    1510, 1500, 1150, 700,
];
/// Local time is two hours ahead of UTC, as in Paris in summer.
const LOCAL: Millis = 2 * HOUR;

/// A launch brings so many times the usual traffic at first, in thousandths more, and less and less until it is over.
const LAUNCH_EXTRA: u64 = 5_000;
/// Who comes during a launch and is anybody with an account, not one of those who come often; in a million.
const LAUNCH_CROWD: u64 = 400_000;

/// The version of the application that [`Mishap::BrokenRelease`] is about: of a fourteenth of all people.
const BROKEN_AGENT: &str = "Shop/5.4.2 (Android 9; okhttp/3.12.1)";
/// One account in so many has an expired password in [`Mishap::PasswordExpiry`].
const EXPIRED: u64 = 5;

/// What is wrong, or new, on an ordinary day, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    /// Nothing.
    None,
    /// The site cannot check passwords: every try fails with SYSTEM_ERROR.
    Outage(Span),
    /// One version of the application sends every password wrong.
    BrokenRelease(Span),
    /// A fifth of the passwords have expired: whoever has one fails with it first.
    PasswordExpiry(Span),
    /// A launch: many more people than usual, many of whom have not been here for long.
    Launch(Span),
}

/// From a time up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Millis,
    pub(super) to: Millis,
}

impl Span {
    const fn holds(self, at: Millis) -> bool {
        self.from <= at && at < self.to
    }
}

/// Everything about honest people that does not change during a simulation.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    pub(super) seed: u64,
    pub(super) tenant: String,
    pub(super) population: Population,
    /// Logins an hour, on the mean of a day.
    pub(super) per_hour: u64,
    /// Whether the hour of the day matters.
    pub(super) swings: bool,
    pub(super) mishap: Mishap,
}

impl Crowd {
    /// Logins an hour at a time.
    fn per_hour_at(&self, at: Millis) -> u64 {
        let mut per_hour = self.per_hour;
        if self.swings {
            per_hour = per_hour * swing(at) / 1_000;
        }
        if let Mishap::Launch(span) = self.mishap
            && span.holds(at)
        {
            let left = (span.to - at).unsigned_abs();
            let extra = LAUNCH_EXTRA * left / (span.to - span.from).unsigned_abs().max(1);
            per_hour = per_hour * (1_000 + extra) / 1_000;
        }
        per_hour.max(1)
    }

    /// A try of `person` as the site would log it if it did not stop it, before its outcome.
    pub(super) fn attempt(&self, dice: &mut Dice, at: Millis, place: Place, agent: Agent) -> LoginEvent {
        LoginEvent {
            event_id: dice.uuid(),
            occurred_at: at,
            tenant: self.tenant.clone(),
            application: Some(agent.application.to_owned()),
            source_ip: place.ip.to_string(),
            user_agent: Some(agent.text.to_owned()),
            asn: Some(i64::from(place.asn)),
            country: Some(place.country.to_owned()),
            ..LoginEvent::default()
        }
    }
}

/// Thousandths of the mean at a time, from one full hour to the next in a straight line.
fn swing(at: Millis) -> u64 {
    let of_day = (at + LOCAL).rem_euclid(DAY);
    let (hour, rest) = ((of_day / HOUR).unsigned_abs(), (of_day % HOUR).unsigned_abs());
    let at_hour = |hour: u64| super::dice::nth(&SWING, hour % 24).copied().unwrap_or(1_000);
    let full = HOUR.unsigned_abs();
    (at_hour(hour) * (full - rest) + at_hour(hour + 1) * rest) / full
}

/// A person comes to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Login {
    pub(super) at: Millis,
    /// Unique among all logins of a simulation.
    pub(super) number: u64,
    pub(super) person: u64,
}

/// Who comes when, without end: a Poisson process.
#[derive(Debug, Clone)]
pub(super) struct Arrivals {
    dice: Dice,
    /// Microseconds since the start, so that rounding does not slow the traffic.
    at_us: u64,
    from: Millis,
    number: u64,
}

impl Arrivals {
    pub(super) fn new(seed: u64, from: Millis) -> Self {
        Arrivals { dice: Dice::new(seed, "arrivals"), at_us: 0, from, number: 0 }
    }

    pub(super) fn next(&mut self, crowd: &Crowd) -> Login {
        let per_hour = crowd.per_hour_at(self.now());
        self.at_us += self.dice.wait(HOUR_US / per_hour);
        let at = self.now();
        let mut person = Population::somebody(&mut self.dice);
        if let Mishap::Launch(span) = crowd.mishap
            && span.holds(at)
            && self.dice.chance(LAUNCH_CROWD)
        {
            person = self.dice.below(ACCOUNTS);
        }
        self.number += 1;
        Login { at, number: self.number, person }
    }

    fn now(&self) -> Millis {
        self.from + (self.at_us / 1_000).cast_signed()
    }
}

/// One person from the first try until the login succeeds or the person gives up.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) person_number: u64,
    dice: Dice,
    person: Person,
    place: Place,
    device: Option<String>,
    agent: Agent,
    wrong_names: u32,
    wrong_passwords: u32,
    /// Every wrong password is the same one: an old one, not a slip.
    same_password: bool,
    gives_up: bool,
    refusals: u32,
    /// Whether the site has challenged, and refused, this login before.
    pub(super) was_challenged: bool,
    pub(super) was_denied: bool,
    pub(super) is_first_try: bool,
}

impl Session {
    pub(super) fn begin(crowd: &Crowd, login: Login) -> Self {
        let mut dice = Dice::new(mix(crowd.seed, login.number), "login");
        let person = crowd.population.person(login.person);
        let at_home = dice.chance(SAME_ADDRESS);
        let elsewhere = crowd.population.elsewhere(&mut dice);
        let place = if at_home { person.home } else { elsewhere };
        let (device, agent) = if dice.chance(SAME_DEVICE) {
            (Some(person.device.clone()), person.agent)
        } else if dice.below(2) == 0 {
            (None, person.agent)
        } else {
            let second = mix(hash(person.device.as_bytes()), 2);
            (Some(format!("{second:016x}")), agent(second))
        };
        Session::with(crowd, login, dice, person, place, device, agent)
    }

    /// The same from the usual address with the usual device.
    pub(super) fn begin_at_home(crowd: &Crowd, login: Login) -> Self {
        let dice = Dice::new(mix(crowd.seed, login.number), "login");
        let person = crowd.population.person(login.person);
        let (place, device, agent) = (person.home, Some(person.device.clone()), person.agent);
        Session::with(crowd, login, dice, person, place, device, agent)
    }

    fn with(
        crowd: &Crowd,
        login: Login,
        mut dice: Dice,
        person: Person,
        place: Place,
        device: Option<String>,
        agent: Agent,
    ) -> Self {
        let typo = match crowd.mishap {
            Mishap::Launch(span) if span.holds(login.at) => TYPO_AFTER_LONG,
            Mishap::None
            | Mishap::Outage(_)
            | Mishap::BrokenRelease(_)
            | Mishap::PasswordExpiry(_)
            | Mishap::Launch(_) => TYPO,
        };
        let wrong_names = u32::from(dice.chance(WRONG_NAME));
        let mut wrong_passwords = u32::from(dice.chance(typo));
        while wrong_passwords > 0 && wrong_passwords < TYPOS_MAX && dice.chance(TYPO_AGAIN) {
            wrong_passwords += 1;
        }
        let mut session = Session {
            number: login.number,
            person_number: login.person,
            same_password: dice.below(2) == 0,
            gives_up: wrong_passwords == TYPOS_MAX,
            dice,
            person,
            place,
            device,
            agent,
            wrong_names,
            wrong_passwords,
            refusals: 0,
            was_challenged: false,
            was_denied: false,
            is_first_try: true,
        };
        session.suffer(crowd, login);
        session
    }

    /// What a mishap changes about the whole login.
    fn suffer(&mut self, crowd: &Crowd, login: Login) {
        match crowd.mishap {
            Mishap::BrokenRelease(span) if span.holds(login.at) && self.agent.text == BROKEN_AGENT => {
                // The application sends one wrong password again and again until its user gives up.
                (self.wrong_names, self.wrong_passwords) = (0, 4);
                (self.same_password, self.gives_up) = (true, true);
            }
            Mishap::PasswordExpiry(span) if span.holds(login.at) && mix(login.person, 5).is_multiple_of(EXPIRED) => {
                self.wrong_passwords = self.wrong_passwords.max(1 + u32::from(self.dice.below(2) == 0));
                self.same_password = true;
            }
            Mishap::None
            | Mishap::Outage(_)
            | Mishap::BrokenRelease(_)
            | Mishap::PasswordExpiry(_)
            | Mishap::Launch(_) => {}
        }
    }

    /// The next try as it ends if the site does not stop it.
    pub(super) fn attempt(&mut self, crowd: &Crowd, at: Millis) -> LoginEvent {
        let mut event = crowd.attempt(&mut self.dice, at, self.place, self.agent);
        event.device_id.clone_from(&self.device);
        if is_out(crowd, at) {
            own(&mut event, self.person_number, &self.person);
            fail(&mut event, FailureReason::SystemError);
        } else if self.wrong_names > 0 {
            self.wrong_names -= 1;
            self.name_wrongly(crowd, &mut event);
        } else if self.wrong_passwords > 0 {
            let which = if self.same_password { 0 } else { self.wrong_passwords };
            self.wrong_passwords -= 1;
            own(&mut event, self.person_number, &self.person);
            fail(&mut event, FailureReason::WrongPassword);
            event.password_tag = Some(tag(&self.person.account, u64::from(which)));
        } else {
            own(&mut event, self.person_number, &self.person);
            succeed(&mut event);
        }
        event
    }

    fn name_wrongly(&mut self, crowd: &Crowd, event: &mut LoginEvent) {
        if self.dice.chance(NAME_OF_ANOTHER) {
            let number = self.dice.below(ACCOUNTS);
            own(event, number, &crowd.population.person(number));
            fail(event, FailureReason::WrongPassword);
        } else {
            event.account = names::misspelt(&self.person.account, self.dice.below(2));
            event.account_exists = Some(false);
            fail(event, FailureReason::UnknownAccount);
        }
        // The password is the right one, of the wrong account.
        event.password_tag = Some(tag(&self.person.account, u64::MAX));
    }

    /// Whether the person passes a CAPTCHA.
    pub(super) fn passes_challenge(&mut self) -> bool {
        // 97 % of people succeed shortly after being asked (Google, in `challenges`).
        self.dice.chance(970_000)
    }

    /// When the person tries again after a try that ended like this; `None` when the login is over.
    pub(super) fn again(&mut self, handled: Handled, event: &LoginEvent) -> Option<Millis> {
        self.is_first_try = false;
        let at = event.occurred_at;
        let broken = event.failure_reason == FailureReason::SystemError;
        match (handled, event.outcome) {
            (Handled::Challenged, _) | (Handled::Through | Handled::Passed, Outcome::Success) => None,
            (Handled::Through | Handled::Passed, _) if !broken => {
                let over = self.gives_up && self.wrong_names == 0 && self.wrong_passwords == 0;
                (!over).then(|| at + self.dice.between(BETWEEN_TRIES.0, BETWEEN_TRIES.1))
            }
            (Handled::Through | Handled::Passed | Handled::Blocked, _) => {
                self.refusals += 1;
                let stays = self.refusals < REFUSALS_MAX && self.dice.below(2) == 0;
                stays.then(|| at + self.dice.between(BETWEEN_REFUSALS.0, BETWEEN_REFUSALS.1))
            }
        }
    }
}

fn is_out(crowd: &Crowd, at: Millis) -> bool {
    matches!(crowd.mishap, Mishap::Outage(span) if span.holds(at))
}

/// Fills in what a site knows of an account that exists.
pub(super) fn own(event: &mut LoginEvent, number: u64, person: &Person) {
    event.account.clone_from(&person.account);
    event.account_exists = Some(true);
    event.subject_id = Some(format!("u{number}"));
    event.account_created_at = Some(person.created_at);
}

pub(super) fn fail(event: &mut LoginEvent, reason: FailureReason) {
    event.outcome = Outcome::Failure;
    event.failure_reason = reason;
}

pub(super) fn succeed(event: &mut LoginEvent) {
    event.outcome = Outcome::Success;
    event.session_id = Some(format!("{:016x}", mix(hash(event.event_id.as_bytes()), 1)));
}

/// 24 bits of a wrong password: the same for the same one of an account.
pub(super) fn tag(account: &str, which: u64) -> String {
    format!("{:06x}", mix(hash(account.as_bytes()), which) & 0xff_ffff)
}

/// Programs that go on with an old password every five minutes: mail clients, televisions, a telephone in a drawer.
///
/// One login in 2,500 leaves one behind, for up to a day. They are many enough to run at any time, so here is a fixed
/// number of places, each with a new program twice a day: what they add up to does not swing with the hour.
#[derive(Debug)]
pub(super) struct Stale {
    from: Millis,
    programs: u64,
    tries: u64,
}

impl Stale {
    const EVERY: Millis = 5 * MINUTE;
    /// On the mean a program is noticed after half a day: after so many tries.
    const TRIES: u64 = 144;
    const LOGINS_EACH: u64 = 2_500;

    pub(super) fn new(crowd: &Crowd, from: Millis) -> Self {
        Stale { from, programs: crowd.per_hour * 12 / Self::LOGINS_EACH, tries: 0 }
    }

    /// When the next of them tries; `None` when there is none.
    pub(super) fn next_at(&self) -> Option<Millis> {
        (self.programs > 0).then(|| {
            // The places take turns; within its turn each comes a little early or late.
            let turn = Self::EVERY.unsigned_abs() / self.programs;
            let start = self.tries / self.programs * Self::EVERY.unsigned_abs() + self.tries % self.programs * turn;
            self.from + (start + mix(self.tries, 4) % turn.max(1)).cast_signed()
        })
    }

    /// Everybody whose program will try until `to`.
    pub(super) fn owners(&self, crowd: &Crowd, to: Millis) -> Vec<u64> {
        let turns = ((to - self.from).max(0) / Self::EVERY).unsigned_abs();
        let firsts = (0..=turns).step_by(Self::TRIES as usize);
        // Within so many turns each place changes hands at most once.
        let turns = firsts.chain([turns]).collect::<Vec<u64>>();
        (0..self.programs).flat_map(|place| turns.iter().map(move |turn| Self::owner(crowd, place, *turn))).collect()
    }

    /// Whose program is at a place: another one's every so many turns.
    fn owner(crowd: &Crowd, place: u64, turn: u64) -> u64 {
        let program = (turn + mix(crowd.seed, place) % Self::TRIES) / Self::TRIES;
        Population::somebody(&mut Dice::new(mix(mix(crowd.seed, place), program), "stale"))
    }

    /// The next try, and whose program it is.
    pub(super) fn attempt(&mut self, crowd: &Crowd, at: Millis) -> (u64, LoginEvent) {
        let (place, turn) = (self.tries % self.programs.max(1), self.tries / self.programs.max(1));
        self.tries += 1;
        let number = Self::owner(crowd, place, turn);
        let person = crowd.population.person(number);
        let mut id = Dice::new(mix(mix(crowd.seed, place), turn), "stale try");
        let mut event = crowd.attempt(&mut id, at, person.home, person.agent);
        event.device_id = Some(person.device.clone());
        own(&mut event, number, &person);
        if is_out(crowd, at) {
            fail(&mut event, FailureReason::SystemError);
        } else {
            fail(&mut event, FailureReason::WrongPassword);
            event.password_tag = Some(tag(&person.account, 0));
        }
        (number, event)
    }
}

const _: () = {
    // What swings around the mean must have it.
    let (mut sum, mut hour) = (0, 0);
    while hour < SWING.len() {
        sum += SWING[hour];
        hour += 1;
    }
    assert!(sum == 24_000);
};
