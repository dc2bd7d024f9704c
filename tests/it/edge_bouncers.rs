//! CrowdSec's protocol: what the routes answer, and what real clients make of it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use portcullis::event::{Action, Millis, Scope};
use serde_json::{Value, json};

use crate::support::edge::{Edge, KEY, Reply, START, Teller};
use crate::support::kafka::shared;
use crate::support::kept::{EndBy, Kept, folder};
use crate::support::records::{DEADLINE, connection_with_topics};
use crate::support::until;

const HOUR: Millis = 3_600_000;

fn parsed(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

/// The values of a list of decisions.
fn values(decisions: &Value) -> Vec<&str> {
    decisions.as_array().unwrap().iter().map(|decision| decision["value"].as_str().unwrap()).collect()
}

#[track_caller]
fn until_in_force(edge: &Edge, count: usize) {
    until(DEADLINE, "the decisions", || {
        let body = edge.get("/v1/decisions").body;
        let all: Value = serde_json::from_str(&body).unwrap();
        (all.as_array().map_or(0, Vec::len) == count).then_some(())
    });
}

#[test]
fn the_routes_answer_as_crowdsec_does() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-lapi");
    let teller = Teller::new(&connection);
    teller.exempt("203.0.113.4");
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, Some(START + 239_000), 1);
    teller.restrict(Scope::Ip, "203.0.113.4", Action::Block, None, 1);
    teller.restrict(Scope::Cidr, "192.0.2.0/24", Action::Challenge, Some(START + HOUR), 1);
    teller.restrict(Scope::Account, "ada", Action::LockAccount, Some(START + HOUR), 1);
    teller.restrict(Scope::Ip, "203.0.113.5", Action::Block, Some(START - 1_000), 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();

    assert_eq!(parsed(&edge.get("/health")), json!({"status": "up"}));
    for headers in [&[][..], &[("X-Api-Key", "wrong")], &[("X-Api-Key", "")]] {
        let reply = edge.ask("GET", "/v1/decisions/stream?startup=true", headers, "");
        assert_eq!((reply.status, &*reply.body), (403, "{\"message\":\"access forbidden\"}"));
    }
    // A HEAD asks for nothing and changes nothing.
    let head = edge.ask("HEAD", "/v1/decisions/stream?startup=true", &[("X-Api-Key", KEY)], "");
    assert_eq!((head.status, &*head.body), (200, ""));

    let all = parsed(&edge.get("/v1/decisions/stream?startup=true"));
    let mut seen = values(&all["new"]);
    seen.sort_unstable();
    assert_eq!(seen, ["192.0.2.0/24", "203.0.113.1"]);
    // One ended before the server began and one is exempt: a client may hold either.
    let mut gone = values(&all["deleted"]);
    gone.sort_unstable();
    assert_eq!(gone, ["203.0.113.4", "203.0.113.5"]);
    let of = |all: &Value, value: &str| all.as_array().unwrap().iter().find(|d| d["value"] == value).unwrap().clone();
    let mut block = of(&all["new"], "203.0.113.1");
    assert!(block["id"].is_u64());
    block["id"] = json!(0);
    assert_eq!(
        block,
        json!({"id": 0, "origin": "portcullis", "type": "ban", "scope": "Ip", "value": "203.0.113.1", "duration": "3m59s",
            "scenario": "portcullis/ip-account-fanout"})
    );
    let range = of(&all["new"], "192.0.2.0/24");
    assert_eq!(
        (&range["type"], &range["scope"], &range["duration"]),
        (&json!("captcha"), &json!("Range"), &json!("1h0m0s"))
    );
    let names = parsed(&edge.get("/v1/decisions/stream?startup=true&scopes=Username"));
    assert_eq!((values(&names["new"]), &names["new"][0]["type"]), (vec!["ada"], &json!("ban")));

    // Nothing is new, then something is, and twice so that a lost answer does no harm.
    let empty = json!({"new": [], "deleted": []});
    let pull = || parsed(&edge.get("/v1/decisions/stream?startup=false&community_pull=false&origins="));
    assert_eq!(parsed(&edge.get("/v1/decisions/stream?")), empty);
    teller.restrict(Scope::Ip, "203.0.113.2", Action::Block, Some(START + HOUR), 1);
    teller.lift(Scope::Cidr, "192.0.2.0/24", 2);
    until(DEADLINE, "both", || {
        let told = pull();
        (values(&told["new"]) == ["203.0.113.2"] && values(&told["deleted"]) == ["192.0.2.0/24"]).then_some(())
    });
    assert_eq!(values(&pull()["new"]), ["203.0.113.2"]);
    // The natural end is told as well.
    edge.pass(239_000);
    let deleted = pull()["deleted"].clone();
    assert!(values(&deleted).contains(&"203.0.113.1") && deleted[0]["duration"] == "0s", "{deleted}");

    // Another address with the same key is another bouncer.
    let other = [("X-Api-Key", KEY), ("X-Forwarded-For", "198.51.100.1"), ("User-Agent", "crowdsec-x-bouncer/v1")];
    let all = parsed(&edge.ask("GET", "/v1/decisions/stream", &other, ""));
    assert_eq!((values(&all["new"]), all["deleted"].as_array().unwrap().len()), (vec!["203.0.113.2"], 4));

    // The live mode.
    let live = |query: &str| edge.get(&format!("/v1/decisions?{query}"));
    assert_eq!(live("ip=203.0.113.9").body, "null");
    assert_eq!(values(&parsed(&live("ip=203.0.113.2"))), ["203.0.113.2"]);
    assert_eq!(live("ip=203.0.113.2&type=captcha").body, "null");
    teller.restrict(Scope::Cidr, "203.0.113.0/30", Action::Challenge, None, 1);
    until_in_force(&edge, 3);
    assert_eq!(values(&parsed(&live("ip=203.0.113.2"))), ["203.0.113.2", "203.0.113.0/30"], "the strongest first");
    assert_eq!(values(&parsed(&live("range=203.0.113.2/31"))), ["203.0.113.0/30"]);
    assert_eq!(values(&parsed(&live("scope=username&value=ada"))), ["ada"]);
    for wrong in ["ip=foo", "range=foo", "scope=galaxy&value=x"] {
        assert_eq!(live(wrong).status, 400, "{wrong}");
    }

    // What a bouncer says that it stopped.
    let usage = |body: &str, more: Option<(&str, &str)>| {
        let headers: Vec<_> =
            [("X-Api-Key", KEY), ("User-Agent", "crowdsec-nginx-bouncer/v1.0")].into_iter().chain(more).collect();
        edge.ask("POST", "/v1/usage-metrics", &headers, body).status
    };
    let report = r#"{"remediation_components":[{"type":"nginx","metrics":[{"items":[{"name":"dropped","value":7,"unit":"request"}]}]}]}"#;
    assert_eq!(usage(report, None), 201);
    assert_eq!(usage("{\"remediation_components\":[]}", None), 400);
    assert_eq!(usage("{", None), 422);
    assert_eq!(usage(report, Some(("Content-Encoding", "gzip"))), 415);
    assert_eq!(usage(&"x".repeat(3_000_000), None), 413);
    assert_eq!(edge.ask("POST", "/v1/usage-metrics", &[], report).status, 403);
    let status = edge.status();
    assert_eq!(status["dropped_by_bouncers"], 7);
    assert_eq!(status["bouncers"][0]["agent"], "crowdsec-nginx-bouncer/v1.0", "{status}");
}

#[test]
fn a_bouncer_forgets_nothing_over_a_restart_of_the_server() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-restart");
    let teller = Teller::new(&connection);
    // Records bear the time of the machine, so this clock goes by it as well.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = Millis::try_from(now.as_millis()).unwrap() + HOUR / 60;
    let edge = Edge::start_at(&connection, "", now);
    edge.until_ready();
    for last in 1..=3 {
        teller.restrict(Scope::Ip, &format!("203.0.113.{last}"), Action::Block, Some(now + HOUR), 1);
    }
    until_in_force(&edge, 3);
    let told = parsed(&edge.get("/v1/decisions/stream?startup=true"));
    assert_eq!(told["new"].as_array().unwrap().len(), 3);
    assert_eq!(edge.stop(), Ok(()));

    teller.lift(Scope::Ip, "203.0.113.2", 2);
    // And one that this server never saw in force.
    teller.lift(Scope::Ip, "203.0.113.9", 2);
    let edge = Edge::start_at(&connection, "", now);
    edge.until_ready();
    let told = parsed(&edge.get("/v1/decisions/stream?startup=false"));
    let (mut new, mut deleted) = (values(&told["new"]), values(&told["deleted"]));
    new.sort_unstable();
    deleted.sort_unstable();
    assert_eq!((new, deleted), (vec!["203.0.113.1", "203.0.113.3"], vec!["203.0.113.2", "203.0.113.9"]));
}

/// Debian's crowdsec-custom-bouncer, on the official Go client: it calls a program for every decision.
#[test]
fn debians_custom_bouncer_adds_and_deletes() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-custom");
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, Some(START + HOUR), 1);
    teller.restrict(Scope::Cidr, "192.0.2.0/24", Action::Block, Some(START + HOUR), 1);
    teller.restrict(Scope::Cidr, "2001:db8:1:2::/64", Action::Challenge, Some(START + HOUR), 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();

    let home = folder("portcullis-bouncer-");
    let (program, told, config) = (home.join("told.sh"), home.join("told"), home.join("bouncer.yaml"));
    std::fs::write(&program, format!("#!/bin/sh\necho \"$1 $2 $4\" >> '{}'\n", told.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "bin_path: {}\nfeed_via_stdin: false\npiddir: {}\nupdate_frequency: 1s\ncache_retention_duration: 10s\n\
         daemonize: false\nlog_mode: stdout\nlog_level: info\napi_url: http://{}/\napi_key: {KEY}\n\
         prometheus:\n  enabled: false\n",
        program.display(),
        home.display(),
        edge.address
    );
    std::fs::write(&config, text).unwrap();
    let command = ["crowdsec-custom-bouncer", "-c", &config.display().to_string()].map(str::to_owned);
    let bouncer = Kept::start(home, EndBy::Term, command);
    let hears = |line: &str| {
        until(DEADLINE, &format!("`{line}`; the bouncer says: {}", bouncer.last_words()), || {
            let said = std::fs::read_to_string(&told).unwrap_or_default();
            said.lines().any(|said| said == line).then_some(())
        });
    };
    let scenario = "portcullis/ip-account-fanout";
    hears(&format!("add 203.0.113.1 {scenario}"));
    hears(&format!("add 192.0.2.0/24 {scenario}"));
    hears(&format!("add 2001:db8:1:2::/64 {scenario}"));
    teller.restrict(Scope::Ip, "203.0.113.2", Action::Block, Some(START + HOUR), 1);
    hears(&format!("add 203.0.113.2 {scenario}"));
    teller.lift(Scope::Ip, "203.0.113.1", 2);
    hears(&format!("del 203.0.113.1 {scenario}"));
    // The natural end.
    edge.pass(HOUR);
    hears(&format!("del 203.0.113.2 {scenario}"));
    hears(&format!("del 192.0.2.0/24 {scenario}"));
}

/// Where `make setup` put it.
fn pycrowdsec() -> PathBuf {
    let setup = include_str!("../../scripts/setup.sh");
    let version = setup.lines().find_map(|line| line.strip_prefix("pycrowdsec_version=")).unwrap();
    let cache = std::env::var("PORTCULLIS_CACHE")
        .unwrap_or_else(|_| format!("{}/.cache/portcullis", std::env::var("HOME").unwrap()));
    let lib = Path::new(&cache).join(format!("tools/pycrowdsec-{version}"));
    assert!(lib.join("pycrowdsec").is_dir(), "pycrowdsec is not in {}: run `make setup`", lib.display());
    lib
}

/// Writes what it holds as one line of JSON, as often as it pulls.
const WATCH: &str = r#"
import json, sys, time
from pycrowdsec.client import QueryClient, StreamClient
url, key, out = sys.argv[1:]
stream = StreamClient(api_key=key, lapi_url=url, interval=1)
stream.run()
live = QueryClient(api_key=key, lapi_url=url)
while True:
    held = {"all": stream.get_current_decisions(), "inside": stream.get_action_for("192.0.2.77"),
            "outside": stream.get_action_for("198.51.100.1")}
    try:
        held["live"] = live.get_action_for("192.0.2.77")
    except TypeError:
        held["live"] = None  # null: nothing stands against it
    with open(out + ".new", "w") as file:
        json.dump(held, file)
    import os
    os.replace(out + ".new", out)
    time.sleep(0.2)
"#;

/// pycrowdsec ignores durations, so whatever is not told as deleted stays with it for ever.
#[test]
fn pycrowdsec_holds_what_is_in_force_and_nothing_else() {
    let connection = connection_with_topics(shared().bootstrap(), "edge-python");
    let teller = Teller::new(&connection);
    teller.restrict(Scope::Ip, "203.0.113.1", Action::Block, Some(START + HOUR), 1);
    teller.restrict(Scope::Cidr, "192.0.2.0/24", Action::Block, Some(START + HOUR), 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let home = folder("portcullis-python-");
    let (script, out) = (home.join("watch.py"), home.join("held"));
    std::fs::write(&script, WATCH).unwrap();
    let command = [
        "env",
        &format!("PYTHONPATH={}", pycrowdsec().display()),
        "python3",
        &script.display().to_string(),
        &format!("http://{}/", edge.address),
        KEY,
        &out.display().to_string(),
    ]
    .map(str::to_owned);
    let client = Kept::start(home, EndBy::Kill, command);
    let holds = |what: &str, wanted: &Value| {
        let mut last = Value::Null;
        until(DEADLINE, &format!("{what}: {wanted}; the client says: {}", client.last_words()), || {
            last = serde_json::from_str(&std::fs::read_to_string(&out).ok()?).ok()?;
            (last == *wanted).then_some(())
        });
    };
    holds(
        "everything",
        &json!({"all": {"203.0.113.1/32": "ban", "192.0.2.0/24": "ban"}, "inside": "ban", "outside": null, "live": "ban"}),
    );
    // Weaker, which takes two pulls.
    teller.restrict(Scope::Cidr, "192.0.2.0/24", Action::Challenge, Some(START + HOUR), 2);
    teller.lift(Scope::Ip, "203.0.113.1", 2);
    holds(
        "the weaker type",
        &json!({"all": {"192.0.2.0/24": "captcha"}, "inside": "captcha", "outside": null, "live": "captcha"}),
    );
    edge.pass(HOUR);
    holds("nothing", &json!({"all": {}, "inside": null, "outside": null, "live": null}));
}
