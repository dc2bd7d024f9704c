//! Whether playbooks contradict themselves or each other, or take in whom they do not say.

use std::collections::BTreeMap;

use super::fixture::{FIXTURE_EVENTS_MAX, FIXTURES_MAX};
use super::{
    Bound, Detector, FailuresOf, LADDER_STEPS_MAX, Measure, Moment, Per, Playbook, PlaybookMode, Price, Where,
};
use crate::event::{Action, AttackState, Millis};
use crate::topology::{format_duration, parse_duration};

/// Longest automatic block of an address or a range.
const BLOCK_MS_MAX: Millis = 12 * 3_600_000;
/// Longest window of a threshold playbook; days are the slow detectors' (not a ring of slices).
const WINDOW_MS_MAX: Millis = 86_400_000;

/// Something wrong with a playbook: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub playbook: String,
    pub text: String,
}

/// Checks playbooks against themselves and each other. Empty: all is well.
#[must_use]
pub fn check(playbooks: &[Playbook]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut ids = BTreeMap::new();
    for playbook in playbooks {
        if ids.insert(playbook.id.as_str(), ()).is_some() {
            problems.push(Problem {
                playbook: playbook.id.clone(),
                text: "this id is used twice; ids are permanent and unique, give one of them another".to_owned(),
            });
        }
        let texts = [
            check_names(playbook),
            check_looks(playbook),
            check_trigger(playbook),
            check_everybody(playbook),
            check_response(playbook),
            check_reach(playbook),
            check_fixtures(playbook),
        ];
        problems.extend(texts.into_iter().flatten().map(|text| Problem { playbook: playbook.id.clone(), text }));
    }
    let running = || playbooks.iter().filter(|p| p.mode != PlaybookMode::Off);
    let is_mixed = running().any(|p| p.failures_of == FailuresOf::Everybody)
        && running().any(|p| p.failures_of != FailuresOf::Everybody);
    if is_mixed {
        let strangers = running().filter(|p| p.failures_of == FailuresOf::Everybody);
        problems.extend(strangers.map(|p| Problem {
            playbook: p.id.clone(),
            text: "failures_of: a set counts everybody's failures in all of its playbooks or in none; let this one count \
                   strangers, or run the set under an application_id of its own"
                .to_owned(),
        }));
    }
    let of_set = Price::of_all(playbooks).1.into_iter();
    problems.extend(of_set.map(|text| Problem { playbook: "price of all".to_owned(), text }));
    problems
}

/// What goes with counting everybody's failures.
fn check_everybody(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    let whose = match p.failures_of {
        FailuresOf::Strangers => return found,
        FailuresOf::KnownPairs => "known_pairs",
        FailuresOf::Everybody => "everybody",
    };
    if p.detector != Detector::Threshold {
        found.push(format!("failures_of: {:?} decides by itself whom it looks at; remove it", p.detector));
    }
    if p.then.action.restricts() {
        found.push(format!(
            "failures_of: {whose} takes people who mistype for attackers; use NOTIFY, not {}",
            p.then.action
        ));
    }
    if p.failures_of == FailuresOf::KnownPairs {
        return found;
    }
    if p.scale_by_good_accounts {
        found.push("scale_by_good_accounts: nobody's successes are looked at with `failures_of: everybody`".to_owned());
    }
    let others = p.trigger.keys().filter(|measure| {
        !matches!(measure, Measure::Failures | Measure::AccountsFailed | Measure::Sources | Measure::AddressesBlocked)
    });
    found.extend(others.map(|measure| {
        format!("trigger.{}: needs successes, which `failures_of: everybody` does not look at", measure.as_str())
    }));
    found
}

fn check_names(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if p.id.is_empty() || p.id.len() > 64 || !p.id.bytes().all(plain) {
        found.push("id: use 1 to 64 of a-z, 0-9 and `-`".to_owned());
    }
    if p.version < 1 {
        found.push("version: starts at 1 and is raised at every change".to_owned());
    }
    if p.owner.trim().is_empty() {
        found.push("owner: name the team to ask".to_owned());
    }
    found
}

fn check_trigger(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    if p.over > WINDOW_MS_MAX {
        found.push(format!("over: at most {}", format_duration(WINDOW_MS_MAX)));
    }
    match (p.detector, p.trigger.is_empty()) {
        (Detector::Threshold, true) => {
            found.push("trigger: a threshold playbook without a bound matches everybody".to_owned())
        }
        (
            Detector::Compromise | Detector::Campaign | Detector::Posterior | Detector::Proxy | Detector::Tripwire,
            false,
        ) => {
            found.push("trigger: this detector has bounds of its own; remove `trigger`".to_owned());
        }
        (Detector::Threshold, false)
        | (
            Detector::Compromise | Detector::Campaign | Detector::Posterior | Detector::Proxy | Detector::Tripwire,
            true,
        ) => {}
    }
    let fits = match p.detector {
        Detector::Threshold => p.per != Per::Tenant,
        Detector::Compromise => p.per == Per::Account,
        Detector::Campaign => p.per == Per::Tenant,
        Detector::Proxy | Detector::Posterior | Detector::Tripwire => p.per == Per::Address,
    };
    if !fits {
        found.push(format!("per: {:?} does not go with detector {:?}", p.per, p.detector));
    }
    let mut bites = p.detector != Detector::Threshold;
    for (measure, bound) in &p.trigger {
        found.extend(check_bound(p, "trigger", *measure, *bound));
        bites |= bound.at_least.is_some() && measure.grows_with().is_some();
    }
    if !bites {
        found.push("trigger: no lower bound on failures, accounts, sources, blocked addresses or a share: it would match everybody".to_owned());
    }
    found
}

fn check_bound(p: &Playbook, list: &str, measure: Measure, bound: Bound) -> Vec<String> {
    let mut found = Vec::new();
    let name = measure.as_str();
    if bound.at_least.is_none() && bound.at_most.is_none() {
        found.push(format!("{list}.{name}: give at_least or at_most"));
    }
    let seen = is_measured(p.per, measure);
    if !seen {
        found.push(format!("{list}.{name}: not measured per {}", p.per.as_str()));
    }
    if let Some(least) = bound.at_least {
        let at = |state| least.at(state);
        let [calm, elevated, attack] = [at(AttackState::Calm), at(AttackState::Elevated), at(AttackState::Attack)];
        if ![calm, elevated, attack].iter().all(|n| n.is_finite() && *n > 0.0) {
            found.push(format!("{list}.{name}.at_least: must be above 0, or it matches everybody"));
        }
        if calm < elevated || elevated < attack {
            found.push(format!(
                "{list}.{name}.at_least: {calm}/{elevated}/{attack} loosens under attack; it must tighten or stay"
            ));
        }
        if measure.is_share() && calm > 1.0 {
            found.push(format!("{list}.{name}.at_least: a share is at most 1; this never fires"));
        }
        if bound.at_most.is_some_and(|most| most.0 < attack) {
            found.push(format!("{list}.{name}: at_most lies below at_least; this never fires"));
        }
    }
    found
}

fn check_response(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    let then = &p.then;
    if then.action.restricts() && p.per == Per::PasswordTag {
        found.push(format!("then.action: no edge sees passwords; use NOTIFY, not {}", then.action));
    }
    if then.action.restricts() && then.ladder.is_empty() {
        found.push("then.ladder: how long? For example [15m, 1h, 4h, 12h]".to_owned());
    }
    if !then.action.restricts() && !then.ladder.is_empty() {
        found.push(format!("then.ladder: {} restricts nobody; remove it", then.action));
    }
    if then.ladder.len() > LADDER_STEPS_MAX {
        found.push(format!("then.ladder: at most {LADDER_STEPS_MAX} steps"));
    }
    if then.ladder.windows(2).any(|pair| pair[0] > pair[1]) {
        found.push("then.ladder: a later step is shorter than an earlier one".to_owned());
    }
    if matches!(p.per, Per::Address | Per::Network | Per::Pair) && then.ladder.iter().any(|ms| *ms > BLOCK_MS_MAX) {
        found.push(format!("then.ladder: an address changes hands; at most {}", format_duration(BLOCK_MS_MAX)));
    }
    found.extend(check_action(p, "then.action", then.action));
    if let Some(escalate) = then.escalate {
        found.extend(check_action(p, "then.escalate.action", escalate.action));
        if escalate.from < 2 {
            found.push("then.escalate.from: the first offence has `then.action`; from 2 on".to_owned());
        }
        if !then.action.restricts() || escalate.action.strength() <= then.action.strength() {
            found.push(format!(
                "then.escalate.action: {} is not stronger than {}, or the first does not restrict",
                escalate.action, then.action
            ));
        }
    }
    if then.cap.is_some_and(|cap| cap.entities == 0) {
        found.push("then.cap.entities: at least 1; to restrict nobody use mode: shadow".to_owned());
    }
    if then.cap.is_some_and(|cap| cap.within > WINDOW_MS_MAX) {
        found.push(format!("then.cap.within: at most {}", format_duration(WINDOW_MS_MAX)));
    }
    if (then.cap.is_some() || then.jitter > 0.0) && !then.action.restricts() {
        found.push(format!("then: {} restricts nobody; remove `cap` and `jitter`", then.action));
    }
    found
}

fn check_action(p: &Playbook, name: &str, action: Action) -> Vec<String> {
    let mut found = Vec::new();
    let fits = match action {
        Action::None | Action::Notify => true,
        Action::Throttle | Action::Challenge | Action::Block => p.per != Per::Tenant,
        Action::StepUp | Action::LockAccount | Action::RevokeSessions => p.per == Per::Account,
    };
    if !fits {
        found.push(format!("{name}: {action} does not go with per {:?}", p.per));
    }
    if action == Action::Block && p.per == Per::Account {
        found.push(format!("{name}: blocking an account lets anybody lock its owner out; use STEP_UP"));
    }
    found
}

/// Whether the owner of such an entity can tell.
fn is_measured(per: Per, measure: Measure) -> bool {
    match per {
        _ if measure == Measure::SiteShare => per.is_trait(),
        Per::Asn | Per::Country | Per::UserAgent | Per::TlsFingerprint | Per::PasswordTag => {
            matches!(measure, Measure::Attempts | Measure::Failures | Measure::FailureShare)
        }
        Per::Address => !matches!(measure, Measure::AddressesBlocked | Measure::Sources | Measure::IdleFor),
        Per::Network => !matches!(measure, Measure::SeenFor | Measure::IdleFor),
        Per::Account => !matches!(
            measure,
            Measure::AddressesBlocked
                | Measure::GoodAccounts
                | Measure::AccountsFailed
                | Measure::UnknownAccounts
                | Measure::AccountsEntered
                | Measure::AccountsAsked
                | Measure::UnknownShare
                | Measure::SeenFor
        ),
        Per::Device => !matches!(
            measure,
            Measure::AddressesBlocked | Measure::GoodAccounts | Measure::Devices | Measure::SeenFor | Measure::IdleFor
        ),
        Per::Pair => {
            matches!(
                measure,
                Measure::Attempts
                    | Measure::Failures
                    | Measure::FailureShare
                    | Measure::PasswordTags
                    | Measure::UserAgents
                    | Measure::Devices
                    | Measure::TlsFingerprints
                    | Measure::GoodAccounts
                    | Measure::SeenFor
            )
        }
        Per::Tenant => false,
    }
}

/// Whom it looks at, and when.
fn check_looks(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(only) = &p.only {
        found.extend(only.problems("where"));
        if p.detector != Detector::Threshold {
            found.push(format!("where: {:?} decides by itself whom it looks at; remove it", p.detector));
        }
        if p.per.is_trait() {
            found.push(format!("where: not with per {}, of which the site knows sums alone", p.per.as_str()));
        }
        if p.failures_of == FailuresOf::Everybody {
            found.push("where: not with `failures_of: everybody`, of which one tally is kept".to_owned());
        }
    }
    if p.per.is_trait() && p.failures_of != FailuresOf::Strangers {
        found.push(format!(
            "failures_of: not with per {}, of which the site knows strangers' sums alone",
            p.per.as_str()
        ));
    }
    for (measure, bound) in &p.unless {
        found.extend(check_bound(p, "unless", *measure, *bound));
    }
    if p.detector != Detector::Threshold && !(p.unless.is_empty() && p.states.is_empty()) {
        found.push(format!("unless, states: {:?} has circumstances of its own; remove them", p.detector));
    }
    let asks = p.measures().any(|m| m.grows_with() == Some(Moment::Request));
    let named = p.only.as_ref().is_some_and(Where::asks_for_requests);
    if asks && !named {
        found.push(
            "where.activity: name what is asked for, such as [RECOVERY_REQUEST, STATUS_CHECK, SIGN_UP]".to_owned(),
        );
    }
    if named && !asks {
        found.push("trigger: what is no login is measured by `requests` and `accounts_asked`".to_owned());
    }
    found
}

/// Whether a pattern of accounts means some that its author has in mind: it begins with so many letters that are no wildcard.
/// Everybody at one provider is not named.
fn is_name(pattern: &str) -> bool {
    const LETTERS_MIN: usize = 6;
    pattern.bytes().take_while(|byte| *byte != b'*').count() >= LETTERS_MIN
}

/// Whether it takes in people who did next to nothing, without saying so.
fn check_reach(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    if p.wide || p.detector != Detector::Threshold || !p.then.action.restricts() {
        return found;
    }
    if p.per.is_trait() {
        found.push(format!(
            "per: restricting a whole {} takes in everybody in it; use NOTIFY, or write `wide: true` if that is meant",
            p.per.as_str()
        ));
        return found;
    }
    // Whom it names, nobody mistypes: a name that was planted, an account that nobody may try.
    let names_accounts = |only: &Where| only.account.as_ref().is_some_and(|all| all.iter().all(|name| is_name(name)));
    if p.only.as_ref().is_some_and(names_accounts) {
        return found;
    }
    let grown = || p.trigger.iter().filter(|(m, _)| m.grows_with().is_some() && m.is_count());
    let least = |state: AttackState| grown().filter_map(move |(_, bound)| bound.at_least.map(|n| n.at(state)));
    let acts_in = |state: &AttackState| p.states.is_empty() || p.states.contains(state);
    let shares_alone = grown().next().is_none() && !p.trigger.contains_key(&Measure::AddressesBlocked);
    let at_once = AttackState::ALL.iter().filter(|state| acts_in(state)).find(|state| least(**state).all(|n| n <= 1.0));
    if let (Some(state), false) = (at_once, p.trigger.contains_key(&Measure::AddressesBlocked)) {
        let why =
            if shares_alone { "a share alone says nothing of one or two attempts" } else { "one attempt is enough" };
        found.push(format!(
            "trigger: in {state} {why}, so whoever mistypes once is restricted; ask for more, or write `wide: true` if that \
             is meant"
        ));
    }
    found
}

fn check_fixtures(p: &Playbook) -> Vec<String> {
    let mut found = Vec::new();
    if p.fixtures.len() > FIXTURES_MAX {
        found.push(format!("fixtures: {}; at most {FIXTURES_MAX}", p.fixtures.len()));
    }
    for fixture in &p.fixtures {
        let name: String = fixture.name.chars().take(64).collect();
        let events: u64 = fixture.steps.iter().map(|step| u64::from(step.n)).sum();
        if events == 0 || events > FIXTURE_EVENTS_MAX {
            found.push(format!("fixtures `{name}`: {events} events; 1 to {FIXTURE_EVENTS_MAX}"));
        }
        let times = fixture.steps.iter().flat_map(|step| step.at.iter().chain(&step.every));
        found.extend(times.filter(|text| parse_duration(text).is_none() && *text != "0s").map(|text| {
            format!("fixtures `{name}`: `{}` is no time such as 90s", text.chars().take(32).collect::<String>())
        }));
        if !fixture.fires && (fixture.value.is_some() || fixture.at_event.is_some()) {
            found.push(format!("fixtures `{name}`: it must not fire, so `value` and `at_event` say nothing"));
        }
    }
    found
}
