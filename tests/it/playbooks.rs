//! A playbook that contradicts itself is refused, with the field and what to do about it.

use portcullis::topology::{Plan, Playbook, PlaybookMode, check};

use crate::support::core::default_playbooks;

const GOOD: &str = "\
id: one
version: 1
owner: security
description: Tests.
finding: failure_rate
per: address
over: 10m
trigger:
  failures:
    at_least: 20
then:
  action: BLOCK
  ladder: [15m, 1h]
";

#[test]
fn the_shipped_playbooks_are_right() {
    let playbooks = default_playbooks();
    assert_eq!(check(&playbooks), []);
    assert!(playbooks.len() >= 6);
    assert!(Plan::compile(&playbooks).is_ok());
    for playbook in &playbooks {
        assert!(playbook.describe().starts_with(&playbook.id));
    }
}

/// `change` is a line of [`GOOD`] and what stands there instead.
#[track_caller]
fn refused(changes: &[(&str, &str)], says: &[&str]) {
    let mut text = GOOD.to_owned();
    for (line, instead) in changes {
        assert!(text.contains(line), "{line}");
        text = text.replace(line, instead);
    }
    let found: Vec<String> = match Playbook::parse(&text) {
        Err(error) => vec![error],
        Ok(playbook) => check(&[playbook]).into_iter().map(|problem| problem.text).collect(),
    };
    for words in says {
        assert!(found.iter().any(|text| text.contains(words)), "{changes:?} does not say `{words}`: {found:?}");
    }
}

#[test]
fn what_does_not_parse_is_told_with_its_line() {
    refused(&[("over: 10m", "over: soon")], &["`soon` is no duration such as 90s, 15m or 4h", "7"]);
    refused(&[("over: 10m", "over: 0m")], &["`0m` is no duration"]);
    refused(&[("at_least: 20", "at_least: .nan")], &["non-finite", "10"]);
    refused(&[("over: 10m", "ovre: 10m")], &["ovre"]);
    refused(&[("per: address", "per: adress")], &["adress", "6"]);
    refused(&[("  failures:", "  failure:")], &["failure"]);
    refused(&[("at_least: 20", "atleast: 20")], &["atleast"]);
    refused(&[("action: BLOCK", "action: BAN")], &["BAN"]);
    refused(&[("ladder: [15m, 1h]", "ladder: [15 minutes]")], &["15 minutes"]);
    refused(&[("version: 1", "version: one")], &["2"]);
    refused(&[("owner: security\n", "")], &["owner"]);
}

#[test]
fn what_contradicts_itself_is_told_with_its_field() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("id: one", "id: \"One Two\"")], "id: use 1 to 64 of a-z"),
        (&[("version: 1", "version: 0")], "version: starts at 1"),
        (&[("owner: security", "owner: \" \"")], "owner: name the team"),
        (&[("over: 10m", "over: 30d")], "over: at most 1d"),
        (&[("trigger:\n  failures:\n    at_least: 20\n", "")], "trigger: a threshold playbook without a bound"),
        (&[("at_least: 20", "at_most: 20")], "trigger: no lower bound"),
        (&[("  failures:", "  attempts:")], "trigger: no lower bound"),
        (&[("at_least: 20", "at_least: null")], "trigger.failures: give at_least or at_most"),
        (&[("at_least: 20", "at_least: 0")], "trigger.failures.at_least: must be above 0"),
        (&[("at_least: 20", "at_least: {calm: 5, elevated: 10, attack: 20}")], "loosens under attack"),
        (&[("at_least: 20", "at_least: 20\n    at_most: 10")], "at_most lies below at_least"),
        (&[("at_least: 20", "at_least: 20\n    at_most: -1")], "at_most lies below at_least"),
        (&[("  failures:\n    at_least: 20", "  failure_share:\n    at_least: 1.5")], "a share is at most 1"),
        (&[("  failures:", "  addresses_blocked:")], "trigger.addresses_blocked: not measured per address"),
        (&[("per: address", "per: tenant")], "per: Tenant does not go with detector Threshold"),
        (&[("per: address", "per: account\ndetector: campaign")], "per: Account does not go with detector Campaign"),
        (&[("per: address", "per: address\ndetector: compromise")], "trigger: this detector has bounds of its own"),
        (&[("  ladder: [15m, 1h]\n", "")], "then.ladder: how long?"),
        (&[("[15m, 1h]", "[1h, 15m]")], "then.ladder: a later step is shorter"),
        (&[("[15m, 1h]", "[15m, 24h]")], "then.ladder: an address changes hands; at most 12h"),
        (&[("[15m, 1h]", "[1m, 2m, 3m, 4m, 5m, 6m, 7m, 8m, 9m]")], "then.ladder: at most 8 steps"),
        (&[("action: BLOCK", "action: STEP_UP")], "then.action: STEP_UP does not go with per Address"),
        (&[("per: address", "per: account")], "then.action: blocking an account"),
        (&[("action: BLOCK", "action: NOTIFY")], "then.ladder: NOTIFY restricts nobody"),
        (&[("then:", "where: {}\nthen:")], "where: empty"),
        (&[("then:", "where: {source: office}\nthen:")], "where.source: `office` is no address"),
        (&[("then:", "where: {country: []}\nthen:")], "where.country: an empty list matches nothing"),
        (&[("then:", "where: {has: [asn], lacks: [asn]}\nthen:")], "cannot be there and be lacking"),
        (&[("then:", "where: {not: {not: {asn: 1}}}\nthen:")], "without the second `not`"),
        (&[("then:", "where: {activity: STATUS_CHECK}\nthen:")], "trigger: what is no login is measured by `requests`"),
        (&[("  failures:", "  requests:")], "where.activity: name what is asked for"),
        (&[("at_least: 20", "at_least: 1")], "in CALM one attempt is enough, so whoever mistypes once is restricted"),
        (&[("at_least: 20", "at_least: {calm: 9, elevated: 3, attack: 1}")], "in ATTACK one attempt is enough"),
        (
            &[("over: 10m", "over: 10m\nwhere: {account: '*@example.com'}"), ("at_least: 20", "at_least: 1")],
            "in CALM one attempt is enough",
        ),
        (&[("  failures:\n    at_least: 20", "  failure_share:\n    at_least: 0.9")], "a share alone says nothing"),
        (&[("then:", "unless:\n  sources: {at_least: 1}\nthen:")], "unless.sources: not measured per address"),
        (
            &[("  action: BLOCK", "  action: BLOCK\n  escalate: {from: 1, action: BLOCK}")],
            "then.escalate.from: the first",
        ),
        (&[("  action: BLOCK", "  action: BLOCK\n  escalate: {from: 2, action: CHALLENGE}")], "is not stronger"),
        (&[("  action: BLOCK", "  action: BLOCK\n  cap: {entities: 0, within: 1h}")], "then.cap.entities: at least 1"),
        (
            &[("then:", "fixtures:\n  - {name: none, fires: true, steps: []}\nthen:")],
            "fixtures `none`: 0 events; 1 to 20000",
        ),
        (&[("then:", "finding_: x\nthen:")], "finding_"),
        (&[("per: address", "per: country")], "per: restricting a whole country takes in everybody in it"),
        (&[("per: address", "per: asn\nwhere: {asn: 1}")], "where: not with per asn"),
        (&[("  failures:", "  site_share:")], "trigger.site_share: not measured per address"),
        (&[("finding: failure_rate", "finding: Bad Word")], "finding: a word of a-z"),
        (&[("then:", "failures_of: everybody\nthen:")], "failures_of: everybody takes people who mistype"),
        (
            &[("then:", "failures_of: everybody\nthen:"), ("  failures:", "  failure_share:"), (": 20", ": 0.8")],
            "trigger.failure_share: needs successes",
        ),
    ];
    for (changes, says) in cases {
        refused(changes, &[says]);
    }
}

#[test]
fn what_contradicts_another_is_told() {
    let good = Playbook::parse(GOOD).unwrap();
    let problems = check(&[good.clone(), good.clone()]);
    assert!(problems.iter().any(|p| p.playbook == "one" && p.text.contains("used twice")), "{problems:?}");
    let text = GOOD.replace("id: one", "id: two").replace("BLOCK\n  ladder: [15m, 1h]", "NOTIFY");
    let everybody = Playbook::parse(&format!("{text}failures_of: everybody\n")).unwrap();
    assert_eq!(check(std::slice::from_ref(&everybody)), []);
    assert!(Plan::compile(std::slice::from_ref(&everybody)).unwrap().failures_alone);
    let problems = check(&[
        Playbook { mode: PlaybookMode::Live, ..good.clone() },
        Playbook { mode: PlaybookMode::Live, ..everybody },
    ]);
    assert!(
        problems.iter().any(|p| p.playbook == "two" && p.text.contains("in all of its playbooks or in none")),
        "{problems:?}"
    );
    let many: Vec<Playbook> =
        (1..=9).map(|n| Playbook { id: format!("p{n}"), over: n * 60_000, ..good.clone() }).collect();
    assert!(Plan::compile(&many[..8]).is_ok());
    let too_many = Plan::compile(&many).unwrap_err();
    assert_eq!(
        too_many.to_string(),
        "playbooks per address need 9 windows, by `over` and `where`; at most 8: let some share one"
    );
}
