//! The room as a whole: events out, and what the site was told in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::event::wire::{canonical, json_login_event, login_event_to_json};
use crate::event::{
    Action, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, ChallengeResult, FailureReason, Millis,
    Outcome, Scope, Source,
};

const MINUTE: Millis = 60_000;
const HOUR: Millis = 60 * MINUTE;

/// Everything that happens, with `told` called before each event.
fn play(
    scenario: Scenario,
    seed: u64,
    options: &Options,
    edge: Edge,
    mut told: impl FnMut(Millis, Option<&Planned>, &mut Site),
) -> (Vec<Planned>, Site, Summary) {
    let mut simulation = Simulation::new(scenario, seed, options.clone()).unwrap();
    let mut site = Site::new(&options.tenant, edge);
    let mut all: Vec<Planned> = Vec::new();
    while let Some(at) = simulation.next_at() {
        told(at, all.last(), &mut site);
        let planned = simulation.next(&mut site).unwrap();
        assert_eq!(planned.at, at);
        all.push(planned);
    }
    let summary = simulation.summary(&site);
    (all, site, summary)
}

fn open(scenario: Scenario, seed: u64, options: &Options) -> (Vec<Planned>, Site, Summary) {
    play(scenario, seed, options, Edge::Open, |_, _, _| {})
}

/// Little before, nothing after.
fn short() -> Options {
    Options { lead_in_ms: MINUTE, after_ms: 0, ..Options::default() }
}

fn is_attack(planned: &Planned) -> bool {
    matches!(planned.truth.label, Label::Attack { .. })
}

fn source(planned: &Planned) -> IpAddr {
    planned.event.source_ip.parse().unwrap()
}

fn block(value: &str, until: Millis) -> BlocklistEntry {
    BlocklistEntry {
        tenant: "default".to_owned(),
        scope: Scope::Ip,
        value: value.to_owned(),
        action: Action::Block,
        since: until - HOUR,
        until: Some(until),
        generation: until - HOUR,
        reason: String::new(),
        playbook: None,
        verdict_id: None,
        incident_id: None,
        actor: None,
        wide: false,
    }
}

fn unknown_pairs(at: Millis) -> AttackStatus {
    AttackStatus {
        tenant: "default".to_owned(),
        state: AttackState::Attack,
        since: at,
        updated_at: at,
        expires_at: at + 3 * HOUR,
        challenge: ChallengePolicy::UnknownPairs,
        bad_to_good: 1.0,
        attempts_per_second: 1.0,
        failure_share: 0.5,
        usual_failure_share: 0.1,
        traits: Vec::new(),
        incident_id: None,
        withdrawn: Vec::new(),
        entered_bad_to_good: 0.0,
    }
}

#[test]
fn the_night_has_its_exact_numbers() {
    for seed in [1, 2, 77] {
        let (all, site, summary) = open(Scenario::Night, seed, &short());
        let attack: Vec<&Planned> = all.iter().filter(|p| is_attack(p)).collect();
        assert_eq!(attack.len(), 43_387);
        let accounts: BTreeSet<&str> = attack.iter().map(|p| p.event.account.as_str()).collect();
        assert_eq!(accounts.len(), 43_387, "each account is tried once");
        let (first, last) = (attack[0].at, attack.last().unwrap().at);
        assert!((night::STARTS_AT..night::STARTS_AT + 100).contains(&first), "{first}");
        assert!((night::ENDS_AT - 1_000..night::ENDS_AT).contains(&last), "{last}");

        let nobody = attack.iter().filter(|p| p.event.account_exists == Some(false)).count();
        assert!((36_400..37_400).contains(&nobody), "{nobody} of 43,387 names are nobody's");

        let mut tries: BTreeMap<IpAddr, Vec<Millis>> = BTreeMap::new();
        attack.iter().for_each(|p| tries.entry(source(p)).or_default().push(p.at));
        assert!((690..=701).contains(&tries.len()), "{} addresses", tries.len());
        let most = tries.values().map(Vec::len).max().unwrap();
        assert!((62..=165).contains(&most), "{most} tries from one address");
        // They change all the time: in any minute only a part of them is at work.
        let in_minute =
            tries.values().filter(|at| at.iter().any(|at| (first + 7 * MINUTE..first + 8 * MINUTE).contains(at)));
        let in_minute = in_minute.count();
        assert!((100..250).contains(&in_minute), "{in_minute} at work in the eighth minute");

        let entered: Vec<&&Planned> = attack.iter().filter(|p| p.event.outcome == Outcome::Success).collect();
        let minutes: Vec<Millis> = entered.iter().map(|p| (p.at - night::STARTS_AT) / MINUTE).collect();
        assert_eq!(minutes, [4, 9], "02:44 and 02:49");
        assert_eq!(source(entered[0]), source(entered[1]), "from one address");
        for planned in &entered {
            assert_eq!((planned.event.country.as_deref(), planned.event.asn), (Some("NL"), Some(64_650)));
            assert!(HOSTING_ASNS.contains(&64_650));
            let years = (night::STARTS_AT - planned.event.account_created_at.unwrap()) / (365 * 24 * HOUR);
            assert!(years >= 2, "an old account");
        }
        let used = |p: &&Planned| entered.iter().any(|e| e.event.account == p.truth.account) && !is_attack(p);
        assert_eq!(all.iter().filter(used).count(), 0, "an unused account");
        let fallen = &site.tally().fallen;
        assert_eq!(fallen.iter().map(|f| f.at).collect::<Vec<_>>(), entered.iter().map(|p| p.at).collect::<Vec<_>>());
        assert_eq!(
            (summary.attack_attempts, summary.accounts_targeted, summary.accounts_compromised),
            (43_387, 43_387, 2)
        );
        assert_eq!(summary.attack_addresses, tries.len() as u64);
    }
}

#[test]
fn one_seed_is_one_sequence_of_bytes() {
    let options = Options { length_ms: Some(2 * MINUTE), history_ms: 6 * HOUR, ..short() };
    for scenario in Scenario::ALL {
        let bytes = |seed| -> Vec<Vec<u8>> {
            let (all, ..) = open(*scenario, seed, &options);
            all.iter().map(|p| login_event_to_json(&p.event)).collect()
        };
        let first = bytes(3);
        assert!(first == bytes(3), "{scenario}");
        assert!(first != bytes(4), "{scenario}");
    }
}

/// The same on any machine and in any build: if this changes, old seeds mean something else.
#[test]
fn a_seed_keeps_its_meaning() {
    let (all, ..) = open(Scenario::SingleSource, 3, &Options { history_ms: HOUR, ..short() });
    let bytes = all.iter().flat_map(|p| login_event_to_json(&p.event));
    let print = dice::hash(&bytes.collect::<Vec<u8>>());
    assert_eq!((all.len(), print), (16_909, 7_058_415_333_295_319_925));
}

#[test]
fn events_come_in_order_have_ids_of_their_own_and_are_what_intake_takes() {
    let options = Options { length_ms: Some(4 * MINUTE), after_ms: MINUTE, history_ms: 24 * HOUR, ..short() };
    for scenario in Scenario::ALL {
        let (all, ..) = open(*scenario, 5, &options);
        assert!(all.len() > 2_000, "{scenario}: {}", all.len());
        assert!(all.windows(2).all(|pair| pair[0].at <= pair[1].at), "{scenario}");
        let ids: BTreeSet<&str> = all.iter().map(|p| p.event.event_id.as_str()).collect();
        assert_eq!(ids.len(), all.len(), "{scenario}");
        for planned in &all {
            let decoded = json_login_event(&login_event_to_json(&planned.event)).unwrap();
            assert_eq!((&decoded.event, decoded.unknown_names), (&planned.event, 0));
            let attempt = canonical(decoded.event, planned.at, None).unwrap();
            assert!(attempt.source.is_blockable() && attempt.occurred_at == planned.at);
            assert_eq!(&*attempt.account, planned.truth.account, "names are written as they are compared");
        }
    }
}

#[test]
fn honest_people_fail_as_often_as_people_do() {
    let options = Options { lead_in_ms: 0, after_ms: 0, logins_per_hour: 9_000, ..Options::default() };
    let (all, _, summary) = open(Scenario::Ordinary, 1, &options);
    assert!(all.iter().all(|p| !is_attack(p)));
    let share = |test: fn(&Planned) -> bool| all.iter().filter(|p| test(p)).count() as f64 / all.len() as f64;
    let failures = share(|p| p.event.outcome == Outcome::Failure);
    assert!((0.10..0.125).contains(&failures), "{failures}");
    let unknown = share(|p| p.event.failure_reason == FailureReason::UnknownAccount);
    assert!((0.013..0.018).contains(&unknown), "{unknown}");
    let v6 = share(|p| p.event.source_ip.contains(':'));
    assert!((0.05..0.09).contains(&v6), "{v6}");

    // 216,000 logins a day at 9,000 an hour, most of them in the evening.
    let logins: BTreeSet<u64> = all.iter().filter_map(|p| login_of(p).map(|(_, login)| login)).collect();
    assert!((214_000..218_000).contains(&logins.len()), "{}", logins.len());
    let hour = |hour: i64| all.iter().filter(|p| (p.at - summary.from) / HOUR == hour).count();
    assert!(hour(20) > 5 * hour(3), "{} and {}", hour(20), hour(3));

    // Equal wrong passwords have equal tags, different ones different tags.
    let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for planned in all.iter().filter(|p| login_of(p).is_some_and(|(_, login)| login != 0)) {
        assert_eq!(planned.event.password_tag.is_some(), planned.event.outcome == Outcome::Failure);
        let tag = planned.event.password_tag.as_deref();
        tag.into_iter().for_each(|tag| tags.entry(&planned.truth.account).or_default().push(tag));
    }
    let several = tags.values().filter(|tags| tags.len() >= 3);
    let (same, other): (Vec<_>, Vec<_>) = several.partition(|tags| tags.iter().all(|tag| tag == &tags[0]));
    assert!(same.len() > 500 && other.len() > 500, "{} and {}", same.len(), other.len());
}

fn login_of(planned: &Planned) -> Option<(u64, u64)> {
    match planned.truth.label {
        Label::Honest { person, login } => Some((person, login)),
        Label::Attack { .. } => None,
    }
}

#[test]
fn most_people_come_from_where_they_usually_do_with_what_they_usually_have() {
    let (all, ..) = open(Scenario::Ordinary, 2, &Options { length_ms: Some(3 * HOUR), ..short() });
    let population = population::Population::new(2, night::STARTS_AT);
    let (mut logins, mut with_device, mut from_home) = (0, 0, 0);
    let mut behind: BTreeMap<IpAddr, u64> = BTreeMap::new();
    for planned in &all {
        let Some((person, 1..)) = login_of(planned) else { continue };
        if planned.event.outcome != Outcome::Success {
            continue;
        }
        let usual = population.person(person);
        logins += 1;
        with_device += u64::from(planned.event.device_id.as_deref() == Some(&usual.device));
        if source(planned) == usual.home.ip {
            from_home += 1;
            *behind.entry(source(planned)).or_default() += 1;
        }
    }
    let share = |n: u64, of: u64| n * 1_000 / of;
    assert!((840..=860).contains(&share(from_home, logins)), "{}", share(from_home, logins));
    assert!((890..=910).contains(&share(with_device, logins)), "{}", share(with_device, logins));
    // 90 exits, each in front of hundreds of homes.
    let shared: u64 = behind.values().filter(|n| **n >= 30).sum();
    assert!((180..=220).contains(&share(shared, from_home)), "{}", share(shared, from_home));
}

#[test]
fn programs_with_an_old_password_come_back_every_five_minutes_with_one_tag() {
    let (all, ..) = open(Scenario::Ordinary, 3, &Options { length_ms: Some(2 * HOUR), ..short() });
    let mut programs: BTreeMap<u64, Vec<&Planned>> = BTreeMap::new();
    for planned in &all {
        if let Some((person, 0)) = login_of(planned) {
            programs.entry(person).or_default().push(planned);
        }
    }
    assert!((160..240).contains(&programs.len()), "{}", programs.len());
    // 24 turns in two hours; whoever has more has two programs.
    for tries in programs.values().filter(|tries| (20..=25).contains(&tries.len())) {
        let between = tries.windows(2).map(|pair| pair[1].at - pair[0].at).collect::<Vec<_>>();
        assert!(between.iter().all(|ms| (ms - 5 * MINUTE).abs() < 5_000), "{between:?}");
        assert!(tries.iter().all(|p| p.event.password_tag == tries[0].event.password_tag));
        assert!(tries.iter().all(|p| p.event.failure_reason == FailureReason::WrongPassword));
    }
}

#[test]
fn attacks_have_the_shapes_that_their_names_say() {
    for (scenario, tries, addresses, most) in [
        (Scenario::OnePerAddress, 43_387, 42_900..=43_000, 2..=4),
        (Scenario::Rotating, 43_387, 9_900..=10_000, 6..=20),
        (Scenario::SingleSource, 3_000, 1..=1, 3_000..=3_000),
    ] {
        let (all, site, summary) = open(scenario, 6, &short());
        let mut from: BTreeMap<IpAddr, usize> = BTreeMap::new();
        all.iter().filter(|p| is_attack(p)).for_each(|p| *from.entry(source(p)).or_default() += 1);
        assert_eq!(from.values().sum::<usize>(), tries, "{scenario}");
        assert!(addresses.contains(&from.len()), "{scenario}: {}", from.len());
        assert!(most.contains(from.values().max().unwrap()), "{scenario}: {:?}", from.values().max());
        assert_eq!(summary.attack_addresses, from.len() as u64);
        // About one in 200 of the accounts that exist.
        let fallen = site.tally().fallen.len();
        assert!((1..=60).contains(&fallen), "{scenario}: {fallen}");
    }
    let (all, ..) = open(Scenario::Slow, 6, &Options { lead_in_ms: 0, after_ms: 0, ..Options::default() });
    let attack = all.iter().filter(|p| is_attack(p)).count() * 1_000 / all.len();
    assert!((42..=53).contains(&attack), "{attack} in a thousand");
}

#[test]
fn attacks_come_from_where_their_names_say() {
    let attack = |scenario: Scenario| -> (Vec<Planned>, Site) {
        let (mut all, site, _) = open(scenario, 6, &short());
        all.retain(is_attack);
        assert_eq!(all.len(), 43_387, "{scenario}");
        (all, site)
    };
    let addresses = |all: &[Planned]| all.iter().map(source).collect::<BTreeSet<IpAddr>>();
    let asns = |all: &[Planned]| all.iter().filter_map(|p| p.event.asn).collect::<BTreeSet<i64>>();
    let hosted = |asns: &BTreeSet<i64>| HOSTING_ASNS.iter().filter(|asn| asns.contains(&i64::from(**asn))).count();

    let (all, site) = attack(Scenario::NineThousand);
    assert!((8_900..=9_001).contains(&addresses(&all).len()), "{}", addresses(&all).len());
    assert_eq!(site.tally().fallen.len(), 2, "the intruder is there as well");

    let (all, _) = attack(Scenario::Residential);
    assert!(addresses(&all).len() > 42_900);
    assert_eq!(hosted(&asns(&all)), 0);

    let (all, _) = attack(Scenario::OneProvider);
    assert_eq!((addresses(&all).len(), asns(&all).len(), hosted(&asns(&all))), (500, 1, 1));

    for (scenario, networks) in [(Scenario::V6Customer, 1..=1), (Scenario::V6Site, 20_000..=40_000)] {
        let (all, _) = attack(scenario);
        let sources: Vec<Source> = addresses(&all).into_iter().map(Source::from).collect();
        assert!(sources.len() > 43_000, "{scenario}: another address for each try, {}", sources.len());
        let of_sources: BTreeSet<&Source> = sources.iter().collect();
        assert!(networks.contains(&of_sources.len()), "{scenario}: {}", of_sources.len());
        assert_eq!(sources.iter().map(|source| source.network()).collect::<BTreeSet<_>>().len(), 1, "{scenario}");
    }

    let (mut all, ..) =
        open(Scenario::SharedExits, 6, &Options { lead_in_ms: HOUR, after_ms: 0, ..Options::default() });
    let honest: BTreeSet<IpAddr> = all.iter().filter(|p| !is_attack(p)).map(source).collect();
    all.retain(is_attack);
    let shared = addresses(&all).intersection(&honest).count();
    assert!(shared * 4 > addresses(&all).len() * 3, "{shared} of {} are honest people's", addresses(&all).len());

    let (_, site) = attack(Scenario::FreshList);
    assert!((3_500..4_300).contains(&site.tally().fallen.len()), "{}", site.tally().fallen.len());
}

#[test]
fn what_hides_is_a_small_part_of_what_it_hides_in() {
    let (all, ..) = open(Scenario::Hidden, 6, &short());
    let (attack, honest) = all.iter().partition::<Vec<&Planned>, _>(|p| is_attack(p));
    assert_eq!(attack.len(), 12_000);
    assert!(honest.len() > 15 * attack.len(), "{}", honest.len());
    let options = Options { lead_in_ms: 0, after_ms: 0, logins_per_hour: 9_000, ..Options::default() };
    let (all, ..) = open(Scenario::SlowSpray, 6, &options);
    let attack: Vec<Millis> = all.iter().filter(|p| is_attack(p)).map(|p| p.at).collect();
    assert_eq!(attack.len(), 9_000 * 24 / 200);
    assert!(attack.windows(2).all(|pair| pair[1] - pair[0] < 5 * MINUTE), "all day");
}

#[test]
fn an_account_is_at_one_of_the_twelve_tenants_and_each_obeys_its_own_list() {
    let mut simulation = Simulation::new(Scenario::TwelveTenants, 6, short()).unwrap();
    let mut site = simulation.site(Edge::AddressList);
    let mut of_account: BTreeMap<String, String> = BTreeMap::new();
    let (mut tries, mut told) = (BTreeMap::<String, u64>::new(), None);
    while let Some(planned) = simulation.next(&mut site) {
        let (tenant, at) = (planned.event.tenant.clone(), planned.at);
        let account = planned.truth.account.clone();
        assert_eq!(*of_account.entry(account).or_insert_with(|| tenant.clone()), tenant);
        if let Some((of, source)) = &told {
            // Blocked at one, and at none of the others.
            let is_blocked = planned.truth.handled == Handled::Blocked;
            assert_eq!(is_blocked, (of, source) == (&tenant, &planned.event.source_ip));
        }
        if is_attack(&planned) {
            *tries.entry(tenant.clone()).or_default() += 1;
            if told.is_none() {
                let source = planned.event.source_ip.clone();
                let entry = BlocklistEntry { tenant: tenant.clone(), ..block(&source, at + HOUR) };
                site.blocklist(&format!("{tenant}|IP|{source}"), Some(&entry));
                told = Some((tenant, source));
            }
        }
    }
    assert_eq!(tries.len(), 12);
    assert!(tries.values().all(|n| (3_200..4_100).contains(n)), "{tries:?}");
    assert!(site.tally().attack.blocked > 0);
}

#[test]
fn a_site_that_knows_its_attackers_refuses_them_and_whoever_comes_from_where_they_do() {
    let options = Options { history_ms: 14 * 24 * HOUR, ..short() };
    let mut simulation = Simulation::new(Scenario::SharedExits, 6, options).unwrap();
    let mut site = simulation.site(Edge::LoginPage).knowing_attackers();
    while simulation.next(&mut site).is_some() {}
    let tally = site.tally();
    // Who lives behind such an exit is known there, and whoever tries the account from it is taken for its owner.
    assert!((43_300..=43_387).contains(&tally.attack.blocked), "{:?}", tally.attack);
    assert_eq!((tally.attack_stopped_after, tally.precision(), tally.recall()), (0, Some(1.0), Some(1.0)));
    assert!(tally.logins.denied > 20 && tally.logins.known_denied == 0, "{:?}", tally.logins);
}

#[test]
fn mishaps_look_as_they_do() {
    let options = Options { lead_in_ms: 5 * MINUTE, after_ms: 5 * MINUTE, ..Options::default() };
    let window = |scenario: Scenario, options: &Options| {
        let (all, _, summary) = open(scenario, 7, options);
        assert!(all.iter().all(|p| !is_attack(p)));
        let from = summary.from + options.lead_in_ms;
        (all, from)
    };
    let (all, from) = window(Scenario::Outage, &options);
    for planned in &all {
        let out = (from..from + 10 * MINUTE).contains(&planned.at);
        assert_eq!(out, planned.event.failure_reason == FailureReason::SystemError, "{planned:?}");
    }
    let (all, from) = window(Scenario::BrokenRelease, &options);
    let version =
        |p: &&Planned| p.event.user_agent.as_deref().is_some_and(|agent| agent.starts_with("Shop/5.4.2 (Android 9"));
    let inside = |p: &&Planned| (from + MINUTE..from + HOUR).contains(&p.at);
    let broken = all.iter().filter(version).filter(inside);
    let failed = broken.clone().filter(|p| p.event.failure_reason == FailureReason::WrongPassword).count();
    assert_eq!(failed, broken.count(), "nobody gets in with that version");
    assert!(failed > 3_000, "{failed}");
    let rest = || all.iter().filter(|p| !version(p)).filter(inside);
    let share = rest().filter(|p| p.event.outcome == Outcome::Failure).count() * 100 / rest().count();
    assert!(share < 14, "{share} % of the others fail");

    let (all, _) = window(Scenario::PasswordExpiry, &Options { length_ms: Some(HOUR), ..options.clone() });
    let share = all.iter().filter(|p| p.event.outcome == Outcome::Failure).count() * 100 / all.len();
    assert!((20..40).contains(&share), "{share} % fail");

    let (all, from) = window(Scenario::Launch, &options);
    let rate = |at: Millis| all.iter().filter(|p| (at..at + MINUTE).contains(&p.at)).count();
    assert!(rate(from) > 5 * rate(from - MINUTE), "{} after {}", rate(from), rate(from - MINUTE));
    assert!(rate(from + 2 * HOUR) * 3 < rate(from) * 2);
}

#[test]
fn a_history_makes_people_known_before_they_come() {
    let known_share = |history_ms| {
        let options = Options { length_ms: Some(30 * MINUTE), history_ms, ..short() };
        let (all, site, summary) = open(Scenario::Ordinary, 8, &options);
        let (before, now): (Vec<&Planned>, Vec<&Planned>) = all.iter().partition(|p| p.truth.history);
        assert_eq!((before.len() as u64, now.len() as u64), (site.tally().history, site.tally().honest.all()));
        assert!(before.iter().all(|p| (summary.from - history_ms..summary.from).contains(&p.at)));
        // Compact: two logins for each who comes, and no more.
        assert!(before.len() < 3 * now.len(), "{} before {}", before.len(), now.len());
        let first = now.iter().filter(|p| login_of(p).is_some_and(|(_, login)| login != 0));
        first.clone().filter(|p| p.truth.known).count() * 1_000 / first.count()
    };
    let (none, hours, weeks) = (known_share(0), known_share(3 * HOUR), known_share(14 * 24 * HOUR));
    assert!(none < 100, "{none}");
    assert!((300..900).contains(&hours), "{hours}");
    // Who comes from elsewhere without the usual device is a stranger, and misspelt names are: some 3 %.
    assert!(weeks > 950, "{weeks}");
}

#[test]
fn a_blocked_address_is_refused_and_says_nothing_of_accounts() {
    let mut first = None;
    let (all, site, _) = play(Scenario::Night, 9, &short(), Edge::AddressList, |at, last, site| {
        if first.is_none()
            && let Some(planned) = last.filter(|p| is_attack(p))
        {
            let key = format!("default|IP|{}", planned.event.source_ip);
            site.blocklist(&key, Some(&block(&planned.event.source_ip, at + HOUR)));
            first = Some((planned.event.source_ip.clone(), planned.at));
        }
    });
    let (ip, at) = first.unwrap();
    let later: Vec<&Planned> = all.iter().filter(|p| p.event.source_ip == ip && p.at > at).collect();
    assert!(later.len() > 30, "a fixed attacker plays on: {}", later.len());
    for planned in &later {
        let event = &planned.event;
        assert_eq!((event.outcome, planned.truth.handled), (Outcome::Blocked, Handled::Blocked));
        assert_eq!((event.account.as_str(), event.account_exists, &event.password_tag), ("", None, &None));
        assert!(!planned.truth.account.is_empty());
        assert_eq!(planned.truth.would_be, Outcome::Failure);
    }
    let tally = site.tally();
    assert_eq!((tally.attack.blocked, tally.sources_refused), (later.len() as u64, 1));
    assert_eq!((tally.tries_before_refusal, tally.tries_before_refusal_max), (1, 1));
    assert_eq!(tally.attack.through, 43_387 - later.len() as u64);
}

#[test]
fn a_challenge_stops_bots_and_never_asks_a_known_pair() {
    let options = Options { history_ms: 14 * 24 * HOUR, ..short() };
    let mut told = false;
    let (all, site, _) = play(Scenario::Night, 10, &options, Edge::AddressList, |at, _, site| {
        if !told && at >= night::STARTS_AT + MINUTE {
            told = true;
            site.status(&unknown_pairs(at));
        }
    });
    let after = || all.iter().filter(|p| p.at >= night::STARTS_AT + MINUTE);
    assert!(after().filter(|p| p.truth.known).count() > 3_000);
    assert!(after().filter(|p| p.truth.known).all(|p| p.truth.handled == Handled::Through));
    for planned in after().filter(|p| !p.truth.known) {
        let event = &planned.event;
        match (planned.truth.label, planned.truth.handled) {
            (Label::Attack { campaign: "night" }, handled) => {
                assert_eq!((handled, event.outcome), (Handled::Challenged, Outcome::Challenged));
                assert_eq!((event.challenge, event.account_exists), (ChallengeResult::Failed, None));
                assert!(!event.account.is_empty(), "the login page knows who was asked");
            }
            (_, handled) => {
                assert!(matches!(handled, Handled::Passed | Handled::Challenged), "{planned:?}");
                let passed = handled == Handled::Passed;
                assert_eq!(passed, event.challenge == ChallengeResult::Passed);
                assert_eq!(passed, event.outcome == planned.truth.would_be);
            }
        }
    }
    let tally = site.tally();
    assert!(tally.honest.passed > 20 * tally.honest.challenged.min(1), "most people pass");
    let under = tally.logins_under_challenge;
    assert!(under.all > 8_000 && under.challenged * 20 < under.all, "{under:?}");
    assert_eq!((under.denied, tally.found_at), (0, Some(tally.found_at.unwrap())));
    assert!(tally.found_after.unwrap().abs_diff(43_387 / 15) < 100, "{:?}", tally.found_after);
    // The person at the intruder's address solves what he is asked.
    assert_eq!(tally.fallen.len(), 2);
}

/// A site that blocks every address of the attack at its second try.
fn strict(attacker: Attacker) -> (Vec<Planned>, Site, Summary) {
    let mut tries: BTreeMap<String, u32> = BTreeMap::new();
    play(Scenario::Night, 11, &Options { attacker, ..short() }, Edge::AddressList, |at, last, site| {
        if let Some(planned) = last.filter(|p| is_attack(p)) {
            let seen = tries.entry(planned.event.source_ip.clone()).or_default();
            *seen += 1;
            if *seen == 2 {
                let key = format!("default|IP|{}", planned.event.source_ip);
                site.blocklist(&key, Some(&block(&planned.event.source_ip, at + HOUR)));
            }
        }
    })
}

#[test]
fn attackers_react_as_they_are_told_to() {
    let (fixed, fixed_site, summary) = strict(Attacker::Fixed);
    assert_eq!((summary.attack_attempts, summary.attack_addresses <= 701), (43_387, true));
    assert!(fixed_site.tally().attack.stopped_share() > 0.9);

    let (rotating, site, summary) = strict(Attacker::Rotate);
    assert!(summary.attack_addresses > 15_000, "fresh addresses: {}", summary.attack_addresses);
    // A refused address is never used again, and its account is tried again: nearly every account is checked in the
    // end. What the intruder must leave is what he had no time for.
    assert!((43_360..=43_387).contains(&summary.accounts_targeted), "{}", summary.accounts_targeted);
    // One address in a hundred is somebody's home, and of shared ones there are few: those may come twice.
    let (mut refused, mut again) = (BTreeSet::new(), 0);
    for planned in rotating.iter().filter(|p| is_attack(p)) {
        again += usize::from(refused.contains(&planned.event.source_ip));
        if planned.truth.handled == Handled::Blocked {
            refused.insert(planned.event.source_ip.clone());
        }
    }
    assert!(again * 50 < refused.len(), "{again} of {} used again", refused.len());
    let checked = rotating.iter().filter(|p| is_attack(p) && p.truth.handled == Handled::Through);
    let checked: BTreeSet<&str> = checked.map(|p| p.truth.account.as_str()).collect();
    assert!(checked.len() > 43_340, "{}", checked.len());
    assert_eq!(site.tally().sources_refused, refused.len() as u64);

    let (slow, _, summary) = strict(Attacker::SlowDown);
    let minute = |all: &[Planned], from: Millis| {
        let at = night::STARTS_AT + from;
        all.iter().filter(|p| is_attack(p) && (at..at + MINUTE).contains(&p.at)).count()
    };
    assert!(minute(&slow, 5 * MINUTE) * 20 < minute(&fixed, 5 * MINUTE));
    assert!(summary.attack_attempts < 10_000 && summary.to > night::ENDS_AT, "it goes on for longer than planned");
}

#[test]
fn people_do_the_same_in_an_open_and_in_a_closed_run() {
    let people = |all: &[Planned]| -> BTreeSet<(Millis, u64)> {
        let mut seen = BTreeSet::new();
        let first = all.iter().filter(|p| login_of(p).is_some_and(|(_, login)| login != 0 && seen.insert(login)));
        first.map(|p| (p.at, login_of(p).unwrap().0)).collect()
    };
    let (closed, ..) = strict(Attacker::Fixed);
    let (open, ..) = open(Scenario::Night, 11, &short());
    assert_eq!(people(&closed), people(&open));
}

#[test]
fn truth_is_one_json_line() {
    let (all, ..) = open(Scenario::SingleSource, 12, &short());
    let honest = serde_json::to_value(TruthLine::new(&all[0].event, &all[0].truth)).unwrap();
    let attack = all.iter().find(|p| is_attack(p)).unwrap();
    let attack_line = serde_json::to_value(TruthLine::new(&attack.event, &attack.truth)).unwrap();
    assert_eq!((&honest["label"], honest["event_id"].as_str()), (&"honest".into(), Some(&*all[0].event.event_id)));
    assert!(honest["person"].is_u64() && honest["login"].is_u64() && honest["campaign"].is_null());
    assert_eq!((&attack_line["label"], &attack_line["campaign"]), (&"attack".into(), &"single-source".into()));
    assert_eq!((&attack_line["handled"], attack_line["at"].as_i64()), (&"through".into(), Some(attack.at)));
    assert!(["SUCCESS", "FAILURE"].contains(&attack_line["would_be"].as_str().unwrap()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the site is told, and however the attacker reacts: time goes on, every attempt is scored once, and the
    /// simulation ends.
    #[test]
    fn any_scenario_ends_and_adds_up(
        scenario in prop::sample::select(Scenario::ALL),
        attacker in prop::sample::select(Attacker::ALL),
        edge in prop::sample::select(Edge::ALL),
        seed: u64,
        logins_per_hour in 1u64..20_000,
        blocks_every in 1usize..50,
        challenge in prop::sample::select(ChallengePolicy::ALL),
    ) {
        let options = Options {
            attacker,
            logins_per_hour,
            length_ms: Some(2 * MINUTE),
            lead_in_ms: MINUTE,
            after_ms: MINUTE,
            history_ms: HOUR,
            ..Options::default()
        };
        let mut count = 0;
        let (all, site, summary) = play(scenario, seed, &options, edge, |at, last, site| {
            count += 1;
            if let Some(planned) = last.filter(|_| count % blocks_every == 0) {
                let key = format!("default|IP|{}", planned.event.source_ip);
                site.blocklist(&key, Some(&block(&planned.event.source_ip, at + 10_000)));
                site.status(&AttackStatus { challenge, expires_at: at + 20_000, ..unknown_pairs(at) });
            }
        });
        prop_assert!(all.windows(2).all(|pair| pair[0].at <= pair[1].at));
        let tally = site.tally();
        let attack = all.iter().filter(|p| is_attack(p)).count() as u64;
        prop_assert_eq!(tally.attack.all(), attack);
        prop_assert_eq!(tally.history + tally.honest.all() + attack, all.len() as u64);
        prop_assert_eq!(summary.events, all.len() as u64);
        prop_assert!(tally.attack_after_found.all() <= attack);
        let stopped = |p: &&Planned| matches!(p.event.outcome, Outcome::Blocked | Outcome::Challenged);
        let stopped = all.iter().filter(|p| !p.truth.history).filter(stopped).count();
        prop_assert_eq!(tally.attack.stopped() + tally.honest.stopped(), stopped as u64);
        if edge == Edge::Open {
            prop_assert_eq!(stopped, 0);
        }
        if challenge != ChallengePolicy::Everybody {
            prop_assert!(all.iter().all(|p| !p.truth.known || p.truth.handled != Handled::Challenged));
        }
    }
}
