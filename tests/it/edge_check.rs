//! The check route: a real cluster, a real nginx that asks for every request, and a login page that asks with a name.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis::engine::KnownBy;
use portcullis::event::wire::{Encoding, canonical, decode};
use portcullis::event::{Action, Attempt, ChallengePolicy, Millis, Outcome, Scope};
use portcullis::log::follow::{Follower, ReadFrom};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;

use crate::support::edge::{Edge, KEY, START, Teller};
use crate::support::kafka::shared;
use crate::support::mmdb;
use crate::support::nginx::Nginx;
use crate::support::records::{DEADLINE, connection, connection_with_topics, next_record};
use crate::support::until;

const HOUR: Millis = 3_600_000;

/// As README.md says it, with times that a busy machine keeps.
fn nginx_that_asks(edge: &Edge) -> Nginx {
    let http = format!("upstream portcullis {{ server {}; keepalive 16; }}", edge.address);
    let server = format!(
        r#"
        location = /login {{
            auth_request /_portcullis;
            auth_request_set $verdict $upstream_http_x_portcullis_verdict;
            error_page 500 502 503 504 = @unchecked;
            add_header X-Verdict $verdict;
            try_files /nginx.conf =404;
        }}
        location @unchecked {{
            add_header X-Verdict unchecked;
            return 200 "login\n";
        }}
        location = /_portcullis {{
            internal;
            proxy_pass http://portcullis/v1/check?tenant=shop;
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header X-Api-Key {KEY};
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_connect_timeout 5s;
            proxy_read_timeout 5s;
        }}
        root .;"#
    );
    Nginx::start_with(&http, &server)
}

#[track_caller]
fn answers(nginx: &Nginx, ip: &str, status: u16, verdict: Option<&str>) {
    let verdict = verdict.map(|verdict| format!("X-Verdict: {verdict}\r\n"));
    until(DEADLINE, &format!("{status} {verdict:?} for {ip}"), || {
        let (seen, answer) = nginx.answer_for(ip);
        (seen == status && verdict.as_ref().is_none_or(|verdict| answer.contains(verdict))).then_some(())
    });
}

#[test]
fn nginx_asks_and_does_as_it_is_told() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-nginx");
    let teller = Teller::new(&connection);
    teller.exempt("203.0.113.4");
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, None, 1);
    teller.restrict(Scope::Ip, "203.0.113.4", Action::Block, None, 1);
    teller.restrict(Scope::Cidr, "192.0.2.0/24", Action::Block, None, 1);
    teller.restrict(Scope::Cidr, "2001:db8:17:4f::/64", Action::Challenge, None, 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let nginx = nginx_that_asks(&edge);
    answers(&nginx, "203.0.113.1", 403, None);
    answers(&nginx, "203.0.113.2", 200, Some("allow"));
    answers(&nginx, "203.0.113.4", 200, Some("allow"));
    answers(&nginx, "192.0.2.77", 403, None);
    answers(&nginx, "2001:db8:17:4f::a8", 200, Some("challenge"));
    // What a client says about itself is not what nginx says about it.
    let (_, denied) = nginx.answer_for("203.0.113.1");
    assert!(!denied.contains("a test") && !denied.contains("fanout"), "{denied}");

    // Told while it runs, then lifted, and ended by the clock alone.
    teller.restrict(Scope::Ip, "203.0.113.2", Action::Block, Some(START + HOUR), 1);
    answers(&nginx, "203.0.113.2", 403, None);
    edge.pass(HOUR);
    answers(&nginx, "203.0.113.2", 200, Some("allow"));
    teller.lift(Scope::Ip, "203.0.113.1", 2);
    answers(&nginx, "203.0.113.1", 200, Some("allow"));

    // An attack: nginx knows no account, so everybody is a stranger to it; who is exempt is not asked.
    teller.attack(ChallengePolicy::UnknownPairs, edge.now(), edge.now() + HOUR);
    answers(&nginx, "203.0.113.1", 200, Some("challenge"));
    assert!(nginx.answer_for("203.0.113.4").1.contains("X-Verdict: allow\r\n"));
    assert_eq!(nginx.status_for("192.0.2.77"), 403);

    // Without the server everybody is let in.
    assert_eq!(edge.stop(), Ok(()));
    answers(&nginx, "192.0.2.77", 200, Some("unchecked"));
}

#[test]
fn a_login_page_asks_about_pairs() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-page");
    let teller = Teller::new(&connection);
    let home = "203.0.113.1".parse().unwrap();
    teller.knows("ada@example.com", KnownBy::Source(home));
    teller.knows("ada@example.com", KnownBy::Device("phone"));
    teller.restrict(Scope::Account, "ben@example.com", Action::LockAccount, Some(START + HOUR), 1);
    teller.attack(ChallengePolicy::UnknownPairs, START, START + HOUR);
    let edge = Edge::start(&connection, "--account-rate 100000");
    edge.until_ready();
    let ask = |question| edge.check(&question)["verdict"].as_str().unwrap().to_owned();
    assert_eq!(ask(json!({"ip": "203.0.113.1", "account": " Ada@Example.com"})), "allow");
    assert_eq!(ask(json!({"ip": "203.0.113.2", "account": "ada@example.com"})), "challenge");
    assert_eq!(ask(json!({"ip": "203.0.113.2", "account": "ada@example.com", "device": "phone"})), "allow");
    assert_eq!(ask(json!({"ip": "203.0.113.1", "account": "eve@example.com", "device": "phone"})), "challenge");
    let answer = edge.check(&json!({"ip": "203.0.113.9", "account": "ben@example.com"}));
    assert_eq!((&answer["verdict"], &answer["action"]), (&json!("deny"), &json!("LOCK_ACCOUNT")), "{answer}");
    assert_eq!((&answer["attack"], &answer["playbook"]), (&json!("ATTACK"), &json!("ip-account-fanout")));

    // Taken back, as when the source turns out to be an attacker's.
    let key = portcullis::engine::pair_key(
        &portcullis::window::HashKey::new([7; 16]),
        "shop",
        "ada@example.com",
        KnownBy::Source(home),
    );
    teller.put("known-pairs", &key.to_be_bytes(), None, None);
    until(DEADLINE, "a stranger", || {
        (ask(json!({"ip": "203.0.113.1", "account": "ada@example.com"})) == "challenge").then_some(())
    });
    // A success of the day of START counts for thirty days more.
    edge.pass(31 * 24 * HOUR);
    teller.attack(ChallengePolicy::UnknownPairs, edge.now(), edge.now() + HOUR);
    until(DEADLINE, "no pair known any more", || {
        let question = json!({"ip": "203.0.113.2", "account": "ada@example.com", "device": "phone"});
        (ask(question) == "challenge").then_some(())
    });
}

#[test]
fn a_question_without_a_right_to_it_or_without_sense_is_not_answered() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-refusals");
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, None, 1);
    // What cannot be used changes nothing.
    teller.put("blocklist", b"shop|IP|203.0.113.5", Some(b"{\"tenant\":\"shop\""), None);
    teller.put("blocklist", &[0xff, 0xfe], Some(b"{}"), None);
    teller.put("known-pairs", b"short", Some(&[0, 0, 0, 1]), None);
    teller.put("known-pairs", &[1; 16], Some(b"not a day"), None);
    teller.put("attack-status", b"shop", Some(b"\x00\x00\x00\x00\x04broken"), None);
    teller.put("attack-status", b"Not A Tenant", Some(b"{}"), None);
    teller.put("exemptions", b"shop|IP|nobody", Some(b"{}"), None);
    let edge = Edge::start(&connection, "--account-rate 2 --trusted-proxy 10.0.0.0/8");
    edge.until_ready();
    assert_eq!((&edge.status()["entries_refused"], &edge.status()["records_refused"]), (&json!(2), &json!(5)));
    assert_eq!(edge.get("/v1/attack-status/shop").status, 200);
    let key = [("X-Api-Key", KEY)];
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("anybody:{KEY}")));
    for authorization in [&*format!("Bearer {KEY}"), &basic] {
        let headers = [("Authorization", authorization)];
        assert_eq!(edge.ask("GET", "/v1/check?ip=203.0.113.1", &headers, "").status, 403);
    }

    // A proxy must not take a fault for a deny; a page is told what it did wrong.
    for (method, path, headers, body, status) in [
        ("GET", "/v1/check", &[][..], "", 500),
        ("GET", "/v1/check", &[("X-Api-Key", "fedcba9876543210")][..], "", 500),
        ("GET", "/v1/check", &[("Authorization", "Basic YW55Ym9keQ")][..], "", 500),
        ("GET", "/v1/check", &[("Authorization", "Basic ???")][..], "", 500),
        ("GET", "/v1/check", &[("Authorization", "Digest")][..], "", 500),
        ("GET", "/v1/check?ip=203.0.113", &key[..], "", 500),
        ("GET", "/v1/check?adress=203.0.113.1", &key[..], "", 500),
        ("GET", "/v1/check?tenant=bank", &key[..], "", 500),
        ("GET", "/v1/check/bank/login", &key[..], "", 500),
        ("POST", "/v1/check", &[][..], "{}", 401),
        ("POST", "/v1/check", &key[..], "", 400),
        ("POST", "/v1/check", &key[..], "{\"ip\": 7}", 400),
        ("POST", "/v1/check", &key[..], "{\"tenant\": \"bank\"}", 400),
        ("GET", "/v1/attack-status/bank", &key[..], "", 400),
        ("GET", "/v1/attack-status/shop", &[][..], "", 401),
        ("DELETE", "/v1/check", &key[..], "", 405),
    ] {
        let reply = edge.ask(method, path, headers, body);
        assert_eq!(reply.status, status, "{method} {path} {body}: {}", reply.body);
    }
    let large = json!({"account": "x".repeat(100_000)}).to_string();
    assert_eq!(edge.ask("POST", "/v1/check", &key, &large).status, 400);

    // The address is what a trusted proxy says, and this machine is none here.
    let forwarded = [key[0], ("X-Forwarded-For", "203.0.113.1")];
    assert_eq!(edge.ask("GET", "/v1/check/shop", &forwarded, "").status, 200);

    assert!(edge.status()["without_client"].as_u64() > Some(0));

    // Twice as many as a second's at once, and then no more until time passes.
    let asked: Vec<u16> = (0..6).map(|_| edge.get("/v1/check?account=ada").status).collect();
    assert_eq!(asked, [200, 200, 200, 200, 503, 503]);
    assert_eq!(edge.ask("POST", "/v1/check", &key, "{\"account\": \"ada\"}").status, 429);
    assert_eq!(edge.get("/v1/check?ip=203.0.113.1").status, 403, "without an account there is no limit");
    edge.pass(1_000);
    assert_eq!(edge.get("/v1/check?account=ada").status, 200);
}

#[test]
fn a_proxy_that_appends_the_clients_path_is_answered_about_the_client_alone() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-paths");
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, None, 1);
    teller.restrict(Scope::UserAgent, "curl/8", Action::Challenge, None, 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let from = |ip| [("X-Api-Key", KEY), ("X-Forwarded-For", ip)];
    // Envoy's ext_authz: its path prefix, then the client's own path and query.
    let path = "/v1/check/shop/login?ip=198.51.100.1&stealth=true&account=ada";
    assert_eq!(edge.ask("GET", path, &from("203.0.113.1"), "").status, 403);
    assert_eq!(edge.ask("GET", "/v1/check/shop/", &from("203.0.113.1"), "").status, 403);
    assert_eq!(edge.ask("GET", path, &from("203.0.113.2"), "").status, 200);
    // With the client's own method, and whatever it made of its path.
    for (method, path) in [("POST", path), ("DELETE", path), ("POST", "/v1/check/shop/%ff//..%2f?%zz")] {
        assert_eq!(edge.ask(method, path, &from("203.0.113.1"), "").status, 403, "{method} {path}");
        assert_eq!(edge.ask(method, path, &from("203.0.113.2"), "").status, 200, "{method} {path}");
    }
    let agent = [("X-Api-Key", KEY), ("X-Forwarded-For", "203.0.113.2"), ("User-Agent", "curl/8")];
    let reply = edge.ask("GET", path, &agent, "");
    assert_eq!((reply.status, reply.header("x-portcullis-verdict")), (200, Some("challenge")));

    // Let through in stealth, for a page that shows a wrong password.
    let reply = edge.ask("GET", "/v1/check?stealth=true", &from("203.0.113.1"), "");
    assert_eq!((reply.status, reply.header("x-portcullis-verdict")), (200, Some("deny")));
    assert_eq!(reply.header("x-portcullis-action"), Some("BLOCK"));
    let stealthy = Edge::start(&connection, "--stealth");
    stealthy.until_ready();
    assert_eq!(stealthy.ask("GET", "/v1/check", &from("203.0.113.1"), "").status, 200);
    assert_eq!(stealthy.ask("GET", "/v1/check?stealth=false", &from("203.0.113.1"), "").status, 403);
}

#[test]
fn who_listens_is_told_of_every_other_status() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-events");
    let teller = Teller::new(&connection);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    assert_eq!(edge.ask("GET", "/v1/attack-status/shop/events", &[], "").status, 401);
    assert_eq!(edge.get("/v1/attack-status/bank/events").status, 400);
    let mut stream = TcpStream::connect(edge.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET /v1/attack-status/shop/events HTTP/1.1\r\nHost: edge\r\nX-Api-Key: {KEY}\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next = || loop {
        let line = lines.next()?.ok()?;
        if let Some(data) = line.strip_prefix("data: ") {
            let status: serde_json::Value = serde_json::from_str(data).unwrap();
            return Some((status["state"].clone(), status["challenge"].clone()));
        }
    };
    assert_eq!(next(), Some((json!("CALM"), json!("NOBODY"))));
    teller.attack(ChallengePolicy::UnknownPairs, START, START + HOUR);
    assert_eq!(next(), Some((json!("ATTACK"), json!("UNKNOWN_PAIRS"))));
    teller.attack(ChallengePolicy::Everybody, START + 1, START + HOUR);
    assert_eq!(next(), Some((json!("ATTACK"), json!("EVERYBODY"))));
    // It runs out by the clock alone.
    edge.pass(HOUR);
    assert_eq!(next(), Some((json!("CALM"), json!("NOBODY"))));
    // A listener does not hold up the end.
    assert_eq!(edge.stop(), Ok(()));
    assert_eq!(next(), None);
}

#[test]
fn what_is_denied_is_published_as_blocked_attempts() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-stops");
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, None, 1);
    teller.restrict(Scope::Ip, "203.0.113.2", Action::Challenge, None, 1);
    let edge = Edge::start(&connection, "--report-stops");
    edge.until_ready();
    for _ in 0..3 {
        assert_eq!(edge.get("/v1/check?ip=203.0.113.1").status, 403);
    }
    edge.check(&json!({"ip": "203.0.113.1", "account": "Ada"}));
    edge.check(&json!({"ip": "203.0.113.2", "account": "Ada"}));
    edge.pass(1_000);
    let topic = connection.topics.public("login-events");
    let mut follower = Follower::new(&connection.client, &[topic], ReadFrom::Start).unwrap();
    let told: Vec<Attempt> = (0..2)
        .map(|_| {
            let event =
                decode(&next_record(&mut follower).value.unwrap(), Encoding::Json { body: 0 }, None).unwrap().event;
            canonical(event, edge.now(), None).unwrap()
        })
        .collect();
    let mut seen: Vec<_> = told.iter().map(|a| (a.source.to_string(), &*a.account, a.outcome, a.count)).collect();
    seen.sort_unstable_by_key(|(.., count)| *count);
    let source = || "203.0.113.1".to_owned();
    assert_eq!(seen, [(source(), "ada", Outcome::Blocked, 1), (source(), "", Outcome::Blocked, 3)]);
    assert_ne!(told[0].event_id, told[1].event_id);
}

/// The program itself.
#[test]
fn the_program_says_what_is_wrong_with_its_keys() {
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join("keys");
    let run = |keys: &std::path::Path, more: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["edge", "--listen", "127.0.0.1:0", "--bootstrap", "127.0.0.1:1", "--keys"])
            .arg(keys)
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&keys, &["--tenant", "shop"]);
    assert!(code == Some(2) && said.contains("the file of keys"), "{code:?} {said}");
    std::fs::write(&keys, "nginx: secret\n").unwrap();
    let (code, said) = run(&keys, &["--tenant", "shop"]);
    assert!(code == Some(2) && said.contains("line 1: a key has 16") && !said.contains("secret\n"), "{code:?} {said}");
    std::fs::write(&keys, format!("nginx: {KEY}\n")).unwrap();
    for (more, words) in [
        (&[][..], "--tenant"),
        (&["--tenant", "shop", "--all-tenants"][..], "cannot be used with"),
        (&["--tenant", "shop", "--trusted-proxy", "10.0.0.1/40"][..], "--trusted-proxy"),
        (&["--tenant", "shop", "--threads", "0"][..], "--threads"),
    ] {
        let (code, said) = run(&keys, more);
        assert!(code == Some(2) && said.contains(words), "{more:?}: {code:?} {said}");
    }
    // No cluster.
    let (code, said) = run(&keys, &["--tenant", "shop"]);
    assert!(code == Some(1) && said.contains("the cluster does not answer"), "{code:?} {said}");
}

#[test]
fn nothing_is_answered_before_the_topics_are_read_to_their_ends() {
    let cluster = MockCluster::new(1).unwrap();
    let connection = connection(&cluster.bootstrap_servers(), "edge-behind");
    for name in ["blocklist", "exemptions", "attack-status", "known-pairs"] {
        cluster.create_topic(&connection.topics.public(name), 1, 1).unwrap();
    }
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, None, 1);
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 1_000];
    cluster.request_errors(RDKafkaApiKey::Fetch, &refusals);
    let edge = Edge::start(&connection, "");
    until(DEADLINE, "its start", || (edge.status()["partitions_behind"] == 1).then_some(()));
    let reply = edge.get("/v1/check?ip=203.0.113.1");
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{}", reply.body);
    // An nginx in front lets everybody in meanwhile.
    let nginx = nginx_that_asks(&edge);
    answers(&nginx, "203.0.113.1", 200, Some("unchecked"));
    cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    edge.until_ready();
    answers(&nginx, "203.0.113.1", 403, None);
}

#[test]
fn a_missing_topic_ends_the_server_with_what_to_do() {
    let connection = connection(shared().bootstrap(), "edge-nowhere");
    let edge = Edge::start(&connection, "");
    let error = edge.end().unwrap_err();
    assert_eq!(error, "the topic `edge-nowhere.blocklist` does not exist; make it with `portcullis topics apply`");
}

/// What the question leaves out is looked up; what it says stands. Lists to pull have the prefixes.
#[test]
fn an_address_is_looked_up_where_its_system_or_country_is_blocked() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-networks");
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Asn, "64500", Action::Block, None, 1);
    teller.restrict(Scope::Country, "NL", Action::Challenge, None, 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let verdict = |question: serde_json::Value| edge.check(&question)["verdict"].as_str().unwrap().to_owned();
    let list = || edge.get("/v1/blocklist").body;
    let (rented, dutch) = ("203.0.113.9", "198.51.100.9");
    assert_eq!([rented, dutch].map(|ip| verdict(json!({"ip": ip}))), ["allow", "allow"]);
    assert_eq!(list(), "");

    edge.networks.set(mmdb::networks(&[
        ("203.0.113.0/24", json!({"autonomous_system_number": 64500, "country": {"iso_code": "FR"}})),
        ("198.51.100.0/24", json!({"autonomous_system_number": 64501, "country": {"iso_code": "NL"}})),
    ]));
    edge.pass(1_000);
    until(DEADLINE, "the files to be looked into", || (verdict(json!({"ip": rented})) == "deny").then_some(()));
    assert_eq!(edge.check(&json!({"ip": rented}))["scope"], "ASN");
    for (question, expected) in [
        (json!({"ip": dutch}), "challenge"),
        (json!({"ip": dutch, "country": "FR"}), "allow"),
        (json!({"ip": rented, "asn": 64_501}), "allow"),
        (json!({"ip": "192.0.2.1"}), "allow"),
        (json!({"ip": "192.0.2.1", "asn": 64_500}), "deny"),
    ] {
        assert_eq!(verdict(question.clone()), expected, "{question}");
    }
    assert_eq!(list(), "203.0.113.0/24\n");
    teller.exempt("203.0.113.9");
    until(DEADLINE, "the exemption", || (verdict(json!({"ip": rented})) == "allow").then_some(()));
    edge.pass(1_000);
    until(DEADLINE, "a list without it", || (list().lines().count() == 8).then_some(()));
    assert!(!list().lines().any(|line| line == rented), "{}", list());
}
