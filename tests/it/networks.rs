//! What the files of networks say: every layout that is about, nothing that breaks on a broken file, and what it does to
//! attempts, verdicts and edges.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use portcullis::edge::{EXPANSION_MAX, Expansion, Expansions};
use portcullis::event::wire::login_event_to_json;
use portcullis::event::{LoginEvent, Scope, Source};
use portcullis::topology::exemptions::Exemptions;
use portcullis::topology::networks::{Database, Facts, Group, Learnt, ListKind, NetworkList, Networks};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::core::{START, failure};
use crate::support::job::Installed;
use crate::support::kept::EndBy;
use crate::support::mmdb::{self, BUILT_AT, Mmdb};
use crate::support::records::DEADLINE;
use crate::support::{repository, until};

fn networks(files: &[Mmdb], lists: &[(ListKind, &str)]) -> Networks {
    let databases: Vec<Database> = files.iter().map(|file| Database::read(&file.bytes()).unwrap()).collect();
    let lists: Vec<NetworkList> = lists.iter().map(|(kind, text)| NetworkList::parse(*kind, text).unwrap()).collect();
    Networks::new(databases.iter().map(|database| &database.layer), &lists).unwrap()
}

fn known(networks: &Networks, address: &str) -> Option<Facts> {
    networks.look_up(address.parse::<Source>().unwrap())
}

fn facts(asn: u32, organisation: &str, country: &str) -> Facts {
    Facts {
        asn: (asn > 0).then_some(asn),
        organisation: (!organisation.is_empty()).then(|| organisation.into()),
        country: (!country.is_empty()).then(|| country.into()),
        ..Facts::default()
    }
}

/// One record each, as the publishers' own documentation has it.
#[test]
fn every_layout_is_understood_by_the_names_of_its_fields() {
    let hosting = Facts { hosting: true, ..Facts::default() };
    let proxy = Facts { proxy: true, ..Facts::default() };
    for (kind, record, expected) in [
        (
            "GeoLite2-ASN",
            json!({"autonomous_system_number": 64500, "autonomous_system_organization": "Example Hosting"}),
            facts(64500, "Example Hosting", ""),
        ),
        (
            "GeoLite2-Country",
            json!({"continent": {"code": "EU", "geoname_id": 6255148}, "country": {"iso_code": "NL", "geoname_id": 2750405,
                "is_in_european_union": true, "names": {"en": "Netherlands"}}, "registered_country": {"iso_code": "US"}}),
            facts(0, "", "NL"),
        ),
        (
            "DBIP-ASN-Lite",
            json!({"autonomous_system_number": 64501, "autonomous_system_organization": "Ünternehmen GmbH"}),
            facts(64501, "Ünternehmen GmbH", ""),
        ),
        (
            "DBIP-Location-ISP",
            json!({"country": {"iso_code": "FR"}, "location": {"latitude": 48.85, "longitude": 2.35},
                "traits": {"autonomous_system_number": 64502, "autonomous_system_organization": "Société"}}),
            facts(64502, "Société", "FR"),
        ),
        (
            "ipinfo bundle_location_lite.mmdb",
            json!({"asn": "AS64503", "as_name": "Example, Inc.", "as_domain": "example.com", "country": "Japan",
                "country_code": "JP", "continent": "Asia", "continent_code": "AS"}),
            facts(64503, "Example, Inc.", "JP"),
        ),
        ("ipinfo country.mmdb", json!({"country": "br", "continent": "SA"}), facts(0, "", "BR")),
        (
            "ipinfo standard_asn.mmdb",
            json!({"asn": "AS64504", "name": "Example", "domain": "example.net", "route": "203.0.113.0/24", "type": "hosting"}),
            Facts { hosting: true, ..facts(64504, "Example", "") },
        ),
        ("ip-location-db country", json!({"country_code": "ID"}), facts(0, "", "ID")),
        ("GeoIP2-Anonymous-IP", json!({"is_anonymous": true, "is_hosting_provider": true}), hosting.clone()),
        ("GeoIP2-Anonymous-IP", json!({"is_anonymous": true, "is_tor_exit_node": true}), proxy.clone()),
        ("ipinfo privacy.mmdb", json!({"hosting": "true", "proxy": "", "tor": "", "vpn": ""}), hosting),
        ("ipinfo privacy.mmdb", json!({"hosting": "", "proxy": "", "tor": "", "vpn": "true"}), proxy),
    ] {
        for (version, size) in [(4, 24), (6, 24), (6, 28), (6, 32)] {
            let file = Mmdb::with(kind, version, size).put("203.0.113.0/24", &record);
            let networks = networks(&[file], &[]);
            assert_eq!(known(&networks, "203.0.113.77"), Some(expected.clone()), "{kind} {version} {size}");
            assert_eq!(known(&networks, "::ffff:203.0.113.0"), Some(expected.clone()), "{kind} {version} {size}");
            for other in ["203.0.112.255", "203.0.114.0", "2001:db8::1"] {
                assert_eq!(known(&networks, other), None, "{kind} {version} {size} {other}");
            }
        }
    }
}

#[test]
fn of_ipv6_a_source_is_looked_up_which_is_a_64() {
    let file = Mmdb::new("GeoLite2-ASN")
        .put("2001:db8:1::/48", &json!({"autonomous_system_number": 1}))
        .put("2001:db8:1:5::/64", &json!({"autonomous_system_number": 2}))
        .put("2001:db8:1:6::8000:0:0:0/65", &json!({"autonomous_system_number": 3}))
        .put("2001:db8:1:7::/65", &json!({"autonomous_system_number": 4}));
    let networks = networks(&[file], &[]);
    let asn = |address| known(&networks, address).and_then(|facts| facts.asn);
    assert_eq!(
        ["2001:db8:1::9", "2001:db8:1:5:8::1", "2001:db8:1:6::1", "2001:db8:1:7:ffff::1", "2001:db8:2::"].map(asn),
        [Some(1), Some(2), Some(1), Some(4), None]
    );
}

#[test]
fn of_several_files_the_first_that_knows_is_believed_and_lists_add_to_all() {
    let first = Mmdb::new("GeoLite2-ASN")
        .put("203.0.113.0/25", &json!({"autonomous_system_number": 64500, "autonomous_system_organization": "One"}));
    let second = Mmdb::new("ipinfo bundle_location_lite.mmdb")
        .put("203.0.113.0/24", &json!({"asn": "AS64501", "as_name": "Two", "country_code": "NL"}))
        .put("198.51.100.0/24", &json!({"asn": "AS64502", "as_name": "Three", "country_code": "FR"}));
    let lists = [
        (ListKind::Hosting, "# ours\nAS64501 ; rented\n\n64502 # a number is a system\n"),
        (ListKind::Proxy, "203.0.113.8\n198.51.100.128/25\n198.51.100.129\n2001:db8::7\nAS64500\n"),
    ];
    let networks = networks(&[first, second], &lists);
    for (address, expected) in [
        ("203.0.113.1", Some(Facts { proxy: true, ..facts(64500, "One", "NL") })),
        ("203.0.113.200", Some(Facts { hosting: true, ..facts(64501, "Two", "NL") })),
        ("198.51.100.1", Some(Facts { hosting: true, ..facts(64502, "Three", "FR") })),
        ("198.51.100.129", Some(Facts { hosting: true, proxy: true, ..facts(64502, "Three", "FR") })),
        ("2001:db8::ffff", Some(Facts { proxy: true, ..Facts::default() })),
        ("192.0.2.1", None),
    ] {
        assert_eq!(known(&networks, address), expected, "{address}");
    }
    let prefixes = |group| networks.prefixes(group, 10).unwrap().iter().map(IpNet::to_string).collect::<Vec<_>>();
    assert_eq!(prefixes(Group::Country("nl")), ["203.0.113.0/24"]);
    assert_eq!(prefixes(Group::Asn(64502)), ["198.51.100.0/24"]);
    assert_eq!(prefixes(Group::Asn(1)), Vec::<String>::new());
    for (text, named) in [("203.0.113.0/33", "line 1"), ("AS1\nexample.com", "line 2: `example.com`"), ("AS0", "AS0")] {
        let error = NetworkList::parse(ListKind::Proxy, text).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn the_shipped_list_is_read_and_leaves_out_those_through_whom_people_browse() {
    let text = fs::read_to_string(repository().join("topology/hosting.txt")).unwrap();
    let list = NetworkList::parse(ListKind::Hosting, &text).unwrap();
    assert!((40..500).contains(&list.len()), "{}", list.len());
    for left_out in ["AS15169", "AS13335"] {
        assert!(!text.lines().any(|line| line.starts_with(left_out)), "{left_out}");
    }
}

/// Every cut and every changed byte of a file: an answer or an error, never a panic and never a wait.
#[test]
fn a_broken_file_is_an_error_and_nothing_else() {
    let mut file = Mmdb::new("GeoLite2-ASN");
    for n in 0..8 {
        let record = json!({"autonomous_system_number": 64500 + n, "autonomous_system_organization": "Example",
            "more": {"list": [1, 2.5, true], "far": u64::MAX}});
        file.insert(format!("203.0.{n}.0/24").parse().unwrap(), &record);
    }
    let good = file.bytes();
    assert!(Database::read(&good).is_ok());
    for length in 0..good.len() {
        assert!(Database::read(&good[..length]).is_err(), "cut at {length}");
    }
    let (mut read, mut refused) = (0, 0);
    for place in 0..good.len() {
        for change in [0xff, 0x01, 0x80] {
            let mut bad = good.clone();
            bad[place] ^= change;
            match Database::read(&bad) {
                Ok(database) => {
                    read += 1;
                    let networks = Networks::new([&database.layer], []).unwrap();
                    drop(known(&networks, "203.0.3.7"));
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} {refused}");
    let cycle = Database::read(&file.biting_its_tail()).unwrap_err();
    assert!(cycle.contains("cycle"), "{cycle}");
    let useless = Mmdb::new("Words").put("203.0.113.0/24", &json!({"word": "a"})).bytes();
    assert!(Database::read(&useless).unwrap_err().contains("`Words`"));
    assert!(Database::read(b"<html>404</html>").unwrap_err().contains("no MMDB file"));
}

fn world() -> impl Iterator<Item = Ipv4Addr> {
    (0..=255).map(|host| Ipv4Addr::new(203, 0, 113, host))
}

proptest! {
    /// Against the slow model: the network that was put in last holds.
    #[test]
    fn look_ups_and_prefixes_are_those_of_the_slow_model(
        nets in prop::collection::vec((0u8..=255, 24u8..=32, 1u32..5), 0..12),
        others in prop::collection::vec((0u8..=255, 24u8..=32, 1u32..5), 0..6),
    ) {
        let net = |host: u8, length: u8| Ipv4Net::new(Ipv4Addr::new(203, 0, 113, host), length).unwrap().trunc();
        let file = |nets: &[(u8, u8, u32)]| {
            // The least specific first, as publishers do.
            let mut nets: Vec<(Ipv4Net, u32)> = nets.iter().map(|(host, length, asn)| (net(*host, *length), *asn)).collect();
            nets.sort_by_key(|(net, _)| net.prefix_len());
            let mut file = Mmdb::new("GeoLite2-ASN").put("198.51.100.0/24", &json!({"autonomous_system_number": 9}));
            for (net, asn) in &nets {
                file.insert(IpNet::V4(*net), &json!({"autonomous_system_number": asn}));
            }
            (file, nets)
        };
        let ((one, ones), (two, twos)) = (file(&nets), file(&others));
        let networks = networks(&[one, two], &[]);
        let slow = |address: Ipv4Addr| {
            let last = |nets: &[(Ipv4Net, u32)]| nets.iter().rfind(|(net, _)| net.contains(&address)).map(|(_, asn)| *asn);
            last(&ones).or_else(|| last(&twos))
        };
        for address in world() {
            let found = networks.look_up(address.into_source()).and_then(|facts| facts.asn);
            prop_assert_eq!(found, slow(address), "{}", address);
        }
        for asn in 1..5 {
            let prefixes = networks.prefixes(Group::Asn(asn), 1_000).unwrap();
            let held: BTreeSet<Ipv4Addr> =
                world().filter(|address| prefixes.iter().any(|net| net.contains(&std::net::IpAddr::V4(*address)))).collect();
            prop_assert_eq!(held, world().filter(|address| slow(*address) == Some(asn)).collect::<BTreeSet<_>>());
            prop_assert_eq!(IpNet::aggregate(&prefixes), prefixes, "they are the fewest");
        }
    }
}

proptest! {
    /// What edges are given of a system: all its addresses but those of whom somebody is exempt, by the fewest prefixes that
    /// can be.
    #[test]
    fn an_expansion_leaves_out_who_is_exempt_and_nobody_else(
        nets in prop::collection::vec((0u8..=255, 24u8..=32), 1..8),
        exempt in prop::collection::vec((0u8..=255, 26u8..=32), 0..6),
    ) {
        let net = |(host, length): (u8, u8)| Ipv4Net::new(Ipv4Addr::new(203, 0, 113, host), length).unwrap().trunc();
        let nets: Vec<Ipv4Net> = nets.into_iter().map(net).collect();
        let exempt: BTreeSet<Ipv4Net> = exempt.into_iter().map(net).collect();
        let record = json!({"autonomous_system_number": 64500});
        let records: Vec<(String, Value)> = nets.iter().map(|net| (net.to_string(), record.clone())).collect();
        let records: Vec<(&str, Value)> = records.iter().map(|(net, record)| (net.as_str(), record.clone())).collect();
        let lines = exempt.iter().map(|net| match net.prefix_len() {
            32 => format!("- {{scope: IP, value: {}, reason: a test}}\n", net.addr()),
            _ => format!("- {{scope: CIDR, value: {net}, reason: a test}}\n"),
        });
        let exemptions = Exemptions::parse(&lines.collect::<String>()).unwrap();
        let mut expansions = Expansions::default();
        expansions.turn(&Arc::new(mmdb::networks(&records)));
        expansions.refresh(&exemptions, [(Scope::Asn, "64500")].into_iter(), START);
        let Some(Expansion::Prefixes(names)) = expansions.get(Scope::Asn, "64500") else { panic!("no prefixes") };
        let prefixes: Vec<Ipv4Net> =
            names.iter().map(|name| name.parse().unwrap_or_else(|_| Ipv4Net::from(name.parse::<Ipv4Addr>().unwrap()))).collect();
        let held: BTreeSet<Ipv4Addr> = world().filter(|a| prefixes.iter().any(|net| net.contains(a))).collect();
        let slow = |a: &Ipv4Addr| nets.iter().any(|net| net.contains(a)) && !exempt.iter().any(|net| net.contains(a));
        prop_assert_eq!(held, world().filter(slow).collect::<BTreeSet<_>>());
        prop_assert_eq!(Ipv4Net::aggregate(&prefixes), prefixes);
    }
}

#[test]
fn an_expansion_has_limits_and_never_holds_what_must_not_be_blocked() {
    let system = json!({"autonomous_system_number": 64500, "country": {"iso_code": "NL"}});
    let mut many = Mmdb::new("GeoLite2-ASN");
    for n in 0..=u32::try_from(EXPANSION_MAX).unwrap() {
        many.insert(IpNet::new(Ipv4Addr::from(0x0b00_0000 + 2 * n).into(), 32).unwrap(), &system);
    }
    let many = networks(&[many], &[]);
    let expanded = |networks: Networks, exemptions: &str| {
        let mut expansions = Expansions::default();
        expansions.turn(&Arc::new(networks));
        let entries = [(Scope::Asn, "64500"), (Scope::Country, "NL"), (Scope::Account, "ada")];
        expansions.refresh(&Exemptions::parse(exemptions).unwrap(), entries.into_iter(), START);
        entries.map(|(scope, value)| expansions.get(scope, value).cloned())
    };
    let names = |all: &[&str]| Some(Expansion::Prefixes(all.iter().map(|name| Box::from(*name)).collect()));
    let networks = || {
        mmdb::networks(&[
            ("8.0.0.0/6", system.clone()),
            ("192.168.0.0/15", system.clone()),
            ("203.0.113.9/32", json!({"autonomous_system_number": 64501, "country": {"iso_code": "NL"}})),
            ("fe80::/9", system.clone()),
        ])
    };
    let own = ["8.0.0.0/7", "11.0.0.0/8", "192.169.0.0/16", "fec0::/10"];
    let land = ["8.0.0.0/7", "11.0.0.0/8", "192.169.0.0/16", "203.0.113.9", "fec0::/10"];
    assert_eq!(expanded(networks(), ""), [names(&own), names(&land), None]);
    // A system that is exempt is so within a country.
    let exempt = "- {scope: ASN, value: '64501', reason: ours}\n";
    assert_eq!(expanded(networks(), exempt), [names(&own), names(&own), None]);

    assert_eq!(expanded(many, ""), [Some(Expansion::TooMany), Some(Expansion::TooMany), None]);
    assert_eq!(expanded(Networks::default(), ""), [None, None, None]);
}

trait IntoSource {
    fn into_source(self) -> Source;
}

impl IntoSource for Ipv4Addr {
    fn into_source(self) -> Source {
        Source::from(std::net::IpAddr::V4(self))
    }
}

const FROM_HOSTING: &str = "
id: from-hosting
version: 1
owner: security
description: A machine for rent fails on three accounts.
mode: live
finding: hosting_fanout
per: address
over: 10m
where: { hosting: true, not: { proxy: true } }
trigger: { accounts_failed: { at_least: 3 } }
then: { action: BLOCK, ladder: [15m] }
fixtures:
  - { name: a well-known provider, fires: true, at_event: 3, steps: [{ n: 3, every: 1s, event: { asn: 16509 } }] }
  - { name: somebody at home, fires: false, steps: [{ n: 5, every: 1s, event: { asn: 64496 } }] }
";
const OF_ONE_SYSTEM: &str = "
id: of-one-system
version: 1
owner: security
description: An address of one autonomous system fails on three accounts.
mode: live
finding: system_fanout
per: address
over: 10m
where: { asn: 64500, country: NL, attributes: { asn_org: ['example *'] } }
trigger: { accounts_failed: { at_least: 3 } }
then: { action: BLOCK, ladder: [15m] }
fixtures:
  - name: that system
    fires: true
    at_event: 3
    steps: [{ n: 3, every: 1s, event: { asn: 64500, country: NL, attributes: { asn_org: Example Hosting } } }]
  - { name: another, fires: false, steps: [{ n: 5, every: 1s, event: { asn: 64501, country: NL } }] }
";

fn playbooks(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("from-hosting.yaml"), FROM_HOSTING).unwrap();
    fs::write(folder.join("of-one-system.yaml"), OF_ONE_SYSTEM).unwrap();
}

/// 203.0.113.0/24 is AS64500 in the Netherlands, 198.51.100.0/24 AS64501.
fn example() -> Mmdb {
    Mmdb::new("GeoLite2-ASN")
        .put(
            "203.0.113.0/24",
            &json!({"autonomous_system_number": 64500, "autonomous_system_organization": "Example Hosting",
                "country": {"iso_code": "NL"}}),
        )
        .put("198.51.100.0/24", &json!({"autonomous_system_number": 64501, "country": {"iso_code": "FR"}}))
}

/// What a publisher says beside the address.
type Say<'a> = &'a dyn Fn(&mut LoginEvent);

/// Three accounts fail from each of these, which their publisher may say something about.
fn lines(sources: &[(&str, Say<'_>)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (n, (source, say)) in sources.iter().enumerate() {
        for account in 0..3 {
            let at = START + 1_000 * (3 * n as i64 + account);
            let mut event =
                failure(at, format!("{source}-{account}"), source, &format!("user{n}-{account}@example.org"));
            say(&mut event);
            all.extend(login_event_to_json(&event));
            all.push(b'\n');
        }
    }
    all
}

/// A command that asks no cluster; what it wrote.
fn program(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.success(), out, err)
}

/// Verdicts of a replay, as playbook and value.
fn replayed(folder: &Path, flags: &[&str]) -> BTreeSet<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let (events, playbooks, out) = (path("events.jsonl"), path("playbooks"), path("out"));
    let replay = ["replay", "--events", &events, "--playbooks", &playbooks, "--out", &out, "--output", "json"];
    let (well, _, err) = program(&[&replay[..], flags].concat());
    assert!(well, "{err}");
    let verdicts = fs::read_to_string(folder.join("out/verdicts.jsonl")).unwrap();
    let verdicts = verdicts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    verdicts
        .map(|line| format!("{} {}", line["value"]["playbook"].as_str().unwrap(), line["key"].as_str().unwrap()))
        .collect()
}

#[test]
fn playbooks_fire_by_what_was_looked_up_and_the_publishers_word_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    playbooks(&path("playbooks"));
    let nothing: Say<'_> = &|_| ();
    let lines = lines(&[
        ("203.0.113.9", nothing),
        ("198.51.100.9", nothing),
        ("192.0.2.9", nothing),
        // Another system's number, and with it not the name of the looked-up one.
        ("203.0.113.77", &|event| event.asn = Some(64_999)),
        ("198.51.100.77", &|event| drop(event.attributes.insert("hosting".to_owned(), "false".to_owned()))),
        ("198.51.100.200", nothing),
        // By its publisher's word alone.
        ("192.0.2.77", &|event| event.asn = Some(16_509)),
    ]);
    fs::write(path("events.jsonl"), lines).unwrap();
    fs::write(path("asn.mmdb"), example().bytes()).unwrap();
    fs::write(path("hosting.txt"), "AS64501 # rents\n").unwrap();
    fs::write(path("proxies.txt"), "198.51.100.192/26\n").unwrap();
    let own_word = "from-hosting shop|IP|192.0.2.77".to_owned();
    assert_eq!(replayed(folder.path(), &[]), BTreeSet::from([own_word.clone()]));
    let [mmdb, hosting, proxies] =
        ["asn.mmdb", "hosting.txt", "proxies.txt"].map(|name| path(name).display().to_string());
    let flags = ["--mmdb", &mmdb, "--hosting-list", &hosting, "--proxy-list", &proxies];
    let found =
        [&own_word, "from-hosting shop|IP|198.51.100.9", "of-one-system shop|IP|203.0.113.9"].map(str::to_owned);
    assert_eq!(replayed(folder.path(), &flags), BTreeSet::from(found));
    let first = fs::read(path("out/verdicts.jsonl")).unwrap();
    // By the settings file, and the same bytes.
    let settings = path("settings.yaml").display().to_string();
    fs::write(&settings, format!("mmdb: [{mmdb}]\nhosting_lists: [{hosting}]\nproxy_lists: [{proxies}]\n")).unwrap();
    replayed(folder.path(), &["--settings", &settings]);
    assert_eq!(fs::read(path("out/verdicts.jsonl")).unwrap(), first);
    let (well, out, err) = program(&["playbooks", "test", &path("playbooks").display().to_string()]);
    assert!(well, "{out}{err}");
}

#[test]
fn a_bad_file_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("events.jsonl"), "").unwrap();
    fs::write(path("bad.mmdb"), "<html>").unwrap();
    fs::write(path("bad.txt"), "AS64500\nexample.com\n").unwrap();
    let (events, out) = (path("events.jsonl"), path("out"));
    for (flag, name, named) in [
        ("--mmdb", "bad.mmdb", "no MMDB file"),
        ("--mmdb", "none.mmdb", "none.mmdb"),
        ("--hosting-list", "bad.txt", "line 2: `example.com`"),
        ("--proxy-list", "bad.txt", "line 2"),
    ] {
        let (well, _, err) = program(&["replay", "--events", &events, "--out", &out, flag, &path(name)]);
        assert!(!well && err.contains(named) && err.contains(name), "{flag} {name}: {err}");
    }
}

#[test]
fn lookup_says_what_the_files_say() {
    let folder = tempfile::tempdir().unwrap();
    let mmdb = folder.path().join("asn.mmdb").display().to_string();
    fs::write(&mmdb, example().bytes()).unwrap();
    let (_, out, err) = program(&["lookup", "203.0.113.9", "192.0.2.1", "AS64501", "nl", "--mmdb", &mmdb]);
    for line in [
        "203.0.113.9: AS64500 Example Hosting, NL\n",
        "192.0.2.1: nothing is known\n",
        "AS64501: 1 prefixes\n  198.51.100.0/24\n",
        "nl: 1 prefixes\n  203.0.113.0/24\n",
        "(GeoLite2-ASN, made 2026-01-01T00:00:00.000Z)",
    ] {
        assert!(out.contains(line), "{line:?} is not in:\n{out}{err}");
    }
    let (_, out, _) = program(&["lookup", "203.0.113.9", "--mmdb", &mmdb, "--output", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["network"]["asn"], 64500);
    assert_eq!(answer["network"]["hosting"], false);
    let (well, _, err) = program(&["lookup", "example.org", "--mmdb", &mmdb]);
    assert!(!well && err.contains("is no address, no autonomous system"), "{err}");
    assert_eq!(BUILT_AT, 1_767_225_600);
}

/// A running job: what was looked up blocks; a broken file changes nothing and is counted; a new one is taken up.
#[test]
fn a_running_job_takes_up_another_file_and_keeps_the_old_one_when_the_new_one_is_bad() {
    let installed = Installed::new("networks").with_topology(|_, text| text);
    let path = |name: &str| -> PathBuf { installed.folder.path().join(name) };
    playbooks(&path("topology/playbooks"));
    let mmdb = path("asn.mmdb");
    fs::write(&mmdb, example().bytes()).unwrap();
    installed.done(&["topics", "apply"]);
    let _job = installed.run_with(&["--mmdb", mmdb.to_str().unwrap()], EndBy::Term);
    let nothing: Say<'_> = &|_| ();
    let is_blocked = |source: &str| {
        fs::write(path("events.jsonl"), lines(&[(source, nothing)])).unwrap();
        installed.done(&["produce", path("events.jsonl").to_str().unwrap()]);
        until(DEADLINE, "a block by what was looked up", || {
            let explained = installed.done(&["explain", source, "--tenant", "shop", "--output", "json"]);
            let explained: Value = serde_json::from_str(&explained).unwrap();
            (explained["restrictions"][0]["entry"]["playbook"] == "of-one-system").then_some(())
        });
    };
    let counted = |metric: &str, n: u64| {
        let line = format!("{metric}{{file=\"asn.mmdb\"}} {n}\n");
        until(DEADLINE, &line, || installed.get("/metrics").1.contains(&line).then_some(()));
    };
    is_blocked("203.0.113.9");
    counted("portcullis_networks_reload_failures_total", 0);
    let age = installed.get("/metrics").1;
    let age =
        age.lines().find(|line| line.starts_with("portcullis_networks_file_age_seconds{file=\"asn.mmdb\"}")).unwrap();
    assert!(age.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 1_000.0, "{age}");

    fs::write(&mmdb, b"<html>").unwrap();
    counted("portcullis_networks_reload_failures_total", 1);
    is_blocked("203.0.113.10");

    let other = Mmdb::new("GeoLite2-ASN").put(
        "192.0.2.0/24",
        &json!({"autonomous_system_number": 64500, "autonomous_system_organization": "Example Hosting",
            "country": {"iso_code": "NL"}}),
    );
    fs::write(path("new"), other.bytes()).unwrap();
    fs::rename(path("new"), &mmdb).unwrap();
    counted("portcullis_networks_reloads_total", 1);
    is_blocked("192.0.2.9");
    let known = known(&networks(&[other], &[]), "203.0.113.9");
    assert_eq!((known, installed.counted("networks_found"), installed.counted("networks_not_found")), (None, 9, 0));
}

/// `cargo test --release --test it networks::cost_of_a_look_up -- --ignored --nocapture`
#[test]
#[ignore = "measures; figures in benches/RESULTS.md"]
fn cost_of_a_look_up() {
    // As large as the files that are about: half a million networks, a tenth of them told apart.
    let mut file = Mmdb::new("GeoLite2-ASN");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..500_000 {
        let (net, asn) = (next(), 1 + next() % 50_000);
        let net = Ipv4Net::new(Ipv4Addr::from((net >> 32) as u32), 18 + (net % 7) as u8).unwrap().trunc();
        let land = ["NL", "FR", "US", "BR", "ID"][asn as usize % 5];
        let record = json!({"autonomous_system_number": asn, "autonomous_system_organization": format!("Organisation {asn}"),
            "country": {"iso_code": land}});
        file.insert(IpNet::V4(net), &record);
    }
    let bytes = file.bytes();
    let start = std::time::Instant::now();
    let database = Database::read(&bytes).unwrap();
    let read = start.elapsed();
    let list =
        NetworkList::parse(ListKind::Hosting, &fs::read_to_string(repository().join("topology/hosting.txt")).unwrap());
    let start = std::time::Instant::now();
    let networks = Networks::new([&database.layer], &[list.unwrap()]).unwrap();
    eprintln!(
        "{} bytes, {} ranges, read in {read:?}, laid together in {:?}",
        bytes.len(),
        networks.len(),
        start.elapsed()
    );

    let event = failure(START, "e", "203.0.113.9", "ada@example.org");
    let mut attempt = portcullis::event::wire::canonical(event, START, None).unwrap();
    const N: u64 = 1_000_000;
    let sources: Vec<Source> = (0..N).map(|_| Ipv4Addr::from((next() >> 32) as u32).into_source()).collect();
    let mut learn = |source: &Source, looks: bool| {
        (attempt.source, attempt.asn, attempt.country) = (*source, None, None);
        attempt.attributes = Vec::new();
        looks && networks.enrich(&mut attempt) == Learnt::Found
    };
    let mut measured = Vec::new();
    for _ in 0..5 {
        let start = on_cpu();
        let found = sources.iter().filter(|source| networks.place_of(**source).0.is_some()).count();
        let looked_up = on_cpu() - start;
        let without: usize = sources.iter().map(|source| usize::from(learn(source, false))).sum();
        let rest = on_cpu() - start - looked_up;
        let learnt: usize = sources.iter().map(|source| usize::from(learn(source, true))).sum();
        let written = (on_cpu() - start).saturating_sub(looked_up + 2 * rest);
        assert_eq!((learnt, without), (found, 0));
        measured.push((written / N, looked_up / N));
        eprintln!("{found} of {N} found; {} ns a look-up, {} ns with what is learnt", looked_up / N, written / N);
    }
    let each = measured.iter().min().unwrap().0;
    assert!(each < 1_000, "{each} ns");
}

/// How long this thread was on a processor, in nanoseconds: what others do on it meanwhile is left out.
fn on_cpu() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
