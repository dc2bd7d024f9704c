//! Sinks that push: a real HAProxy, a real Redis, and a real firewall in a namespace of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use portcullis::app::Connection;
use portcullis::app::sink::{CommonArgs, EdgeArgs, HaproxyArgs, NftablesArgs, RedisArgs, Words};
use portcullis::event::wire::{Format, decode_output};
use portcullis::event::{Action, BlocklistEntry, Millis, Receipt, ReceiptOutcome, Scope};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use serde_json::json;

use crate::support::edges::{Haproxy, Host, Redis};
use crate::support::kafka::shared;
use crate::support::mmdb;
use crate::support::records::{DEADLINE, admin, connection_with_topics, read_all, wait};
use crate::support::sink::{HOUR, Publisher, Running, START, entry, now};
use crate::support::until;

/// The topics of one test. Receipts are kept though the clock of the test stands in 2019.
fn installed(test: &str) -> Connection {
    let connection = connection_with_topics(shared().bootstrap(), test);
    let topic = connection.topics.public("receipts");
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("retention.ms", "-1");
    let altered = wait(admin(shared().bootstrap()).alter_configs([&change], &AdminOptions::new())).unwrap();
    altered.into_iter().for_each(|result| drop(result.unwrap()));
    connection
}

fn common(name: &str) -> CommonArgs {
    CommonArgs { tenant: Some("shop".to_owned()), sink_name: Some(name.to_owned()), ..CommonArgs::default() }
}

fn range(value: &str, generation: i64, until: Option<Millis>) -> BlocklistEntry {
    BlocklistEntry { scope: Scope::Cidr, value: value.to_owned(), ..entry("shop", "", generation, until) }
}

/// The last receipt of every key, without the sink's name.
fn receipts(connection: &Connection, sink: &str) -> BTreeMap<String, (i64, ReceiptOutcome)> {
    let mut last = BTreeMap::new();
    for record in read_all(&connection.client, &connection.topics.public("receipts")) {
        let receipt: Receipt = decode_output("receipts", record.value.as_deref().unwrap()).unwrap();
        let key = String::from_utf8(record.key.unwrap()).unwrap();
        assert_eq!(key, format!("{sink}|{}", receipt.key));
        last.insert(receipt.key, (receipt.generation, receipt.outcome));
    }
    last
}

#[track_caller]
fn until_receipts(connection: &Connection, sink: &str, expected: &[(&str, i64, ReceiptOutcome)]) {
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(key, n, outcome)| ((*key).to_owned(), (*n, *outcome))).collect();
    until(DEADLINE, &format!("the receipts {expected:?}"), || (receipts(connection, sink) == expected).then_some(()));
}

fn haproxy_args(haproxy: &Haproxy) -> EdgeArgs {
    EdgeArgs::Haproxy(HaproxyArgs { socket: haproxy.socket(), map: haproxy.map(), common: common("edge-1") })
}

fn nftables_args(host: &Host, name: &str) -> EdgeArgs {
    let nft = Words(host.inside("nft"));
    EdgeArgs::Nftables(NftablesArgs { table: "portcullis".to_owned(), nft, common: common(name) })
}

fn redis_args(redis: &Redis) -> EdgeArgs {
    EdgeArgs::Redis(RedisArgs {
        redis: redis.socket(),
        database: 0,
        user: None,
        password_file: Some(redis.password_file()),
        prefix: "p:".to_owned(),
        common: common("redis-1"),
    })
}

#[track_caller]
fn says(haproxy: &Haproxy, ip: &str, status: u16) {
    until(DEADLINE, &format!("{status} for {ip}"), || (haproxy.status_for(ip) == status).then_some(()));
}

#[test]
fn haproxy_refuses_whom_the_blocklist_names_and_again_after_a_reload() {
    let connection = installed("sink-haproxy");
    let publisher = Publisher::new(&connection, Format::Json);
    let haproxy = Haproxy::start();
    // Somebody was here before.
    haproxy.command(&format!("add map {} 203.0.113.99 by-hand", haproxy.map()));
    assert_eq!(haproxy.status_for("203.0.113.99"), 403);
    publisher.block(&entry("shop", "203.0.113.1", 1, None));
    publisher.block(&range("198.51.100.0/24", 1, None));
    publisher.block(&BlocklistEntry { action: Action::Challenge, ..entry("shop", "203.0.113.2", 1, None) });
    // A narrow playbook is right for a login page.
    publisher.block(&BlocklistEntry { wide: false, ..entry("shop", "203.0.113.3", 1, Some(START + HOUR)) });

    let sink = Running::start(&connection, haproxy_args(&haproxy));
    says(&haproxy, "203.0.113.1", 403);
    assert_eq!(haproxy.status_for("198.51.100.7"), 403);
    assert_eq!(haproxy.status_for("203.0.113.3"), 403);
    assert_eq!(haproxy.status_for("203.0.113.2"), 200);
    assert_eq!(haproxy.status_for("203.0.113.99"), 200);
    let (applied, refused) = (ReceiptOutcome::Applied, ReceiptOutcome::Refused);
    let [one, two, three, net] =
        ["shop|IP|203.0.113.1", "shop|IP|203.0.113.2", "shop|IP|203.0.113.3", "shop|CIDR|198.51.100.0/24"];
    until_receipts(
        &connection,
        "edge-1",
        &[(one, 1, applied), (two, 1, refused), (three, 1, applied), (net, 1, applied)],
    );

    // One by one: longer, another, and one that goes.
    publisher.block(&entry("shop", "203.0.113.3", 2, Some(START + 2 * HOUR)));
    publisher.block(&entry("shop", "203.0.113.4", 1, None));
    publisher.lift("shop", "203.0.113.1", 2);
    says(&haproxy, "203.0.113.4", 403);
    says(&haproxy, "203.0.113.1", 200);
    sink.pass(2 * HOUR);
    says(&haproxy, "203.0.113.3", 200);
    until_receipts(
        &connection,
        "edge-1",
        &[
            (one, 2, ReceiptOutcome::Lifted),
            (two, 1, refused),
            (three, 2, ReceiptOutcome::Expired),
            ("shop|IP|203.0.113.4", 1, applied),
            (net, 1, applied),
        ],
    );

    // Its memory is lost, and somebody takes one away and puts another there twice.
    let drift = |sink: &Running| sink.watched.get().sink.drift_repaired;
    let before = drift(&sink);
    haproxy.reload();
    says(&haproxy, "203.0.113.4", 403);
    haproxy.command(&format!("del map {} 203.0.113.4", haproxy.map()));
    haproxy.command(&format!("add map {} 192.0.2.7 1;add map {} 192.0.2.7 1", haproxy.map(), haproxy.map()));
    says(&haproxy, "203.0.113.4", 403);
    says(&haproxy, "192.0.2.7", 200);
    until(DEADLINE, "drift in the status", || (drift(&sink) >= before + 4).then_some(()));

    // As many at once as do not fit one command.
    let mut many = Vec::new();
    for n in 0..1_200 {
        many.push(entry("shop", &format!("100.1.{}.{}", n / 250, n % 250), 1, None));
    }
    publisher.block_all(many.into_iter());
    // They come by several partitions, in no order between them.
    sink.until("all of them", |status| status.sink.enforced >= 1_200);
    says(&haproxy, "100.1.4.199", 403);
    says(&haproxy, "100.1.0.0", 403);
    assert_eq!(sink.stop(), Ok(String::new()));

    // Another one finds what it left, and what was lifted meanwhile.
    publisher.lift("shop", "203.0.113.4", 9);
    let sink = Running::start(&connection, haproxy_args(&haproxy));
    says(&haproxy, "203.0.113.4", 200);
    assert_eq!(haproxy.status_for("198.51.100.7"), 403);
    until(DEADLINE, "its receipt", || {
        (receipts(&connection, "edge-1").get("shop|IP|203.0.113.4") == Some(&(9, ReceiptOutcome::Lifted))).then_some(())
    });
    assert_eq!(sink.watched.get().sink.applications, 1);
    assert_eq!(sink.stop(), Ok(String::new()));
}

#[test]
fn the_firewall_drops_connections_of_wide_entries_alone_and_lets_go_without_the_sink() {
    let connection = installed("sink-nftables");
    let publisher = Publisher::new(&connection, Format::Avro);
    let clients =
        ["203.0.113.1", "203.0.113.2", "203.0.113.3", "198.51.100.7", "2001:db8:1:2::7", "203.0.113.4", "203.0.113.6"];
    let host = Host::start(&clients);
    let edge = || nftables_args(&host, "host-1");
    let dropped =
        |client: &str| until(DEADLINE, &format!("{client} dropped"), || (!host.answers(client)).then_some(()));
    let let_in = |client: &str| until(DEADLINE, &format!("{client} let in"), || host.answers(client).then_some(()));
    clients.iter().for_each(|client| let_in(client));

    publisher.block(&entry("shop", "203.0.113.1", 1, Some(START + HOUR)));
    publisher.block(&BlocklistEntry { wide: false, ..entry("shop", "203.0.113.2", 1, None) });
    publisher.block(&BlocklistEntry { action: Action::Challenge, ..entry("shop", "203.0.113.4", 1, None) });
    publisher.block(&BlocklistEntry {
        wide: false,
        actor: Some("operator".to_owned()),
        ..range("198.51.100.0/24", 1, None)
    });
    publisher.block(&range("2001:db8:1:2::/64", 1, None));
    let sink = Running::start(&connection, edge());
    dropped("203.0.113.1");
    dropped("198.51.100.7");
    dropped("2001:db8:1:2::7");
    assert!(host.answers("203.0.113.2") && host.answers("203.0.113.4") && host.answers("203.0.113.3"));
    let status = sink.watched.get().sink;
    assert_eq!((status.not_wide, status.too_weak), (1, 1));
    let [applied, refused] = [ReceiptOutcome::Applied, ReceiptOutcome::Refused];
    until_receipts(
        &connection,
        "host-1",
        &[
            ("shop|IP|203.0.113.1", 1, applied),
            ("shop|IP|203.0.113.2", 1, refused),
            ("shop|IP|203.0.113.4", 1, refused),
            ("shop|CIDR|198.51.100.0/24", 1, applied),
            ("shop|CIDR|2001:db8:1:2::/64", 1, applied),
        ],
    );

    // A range around one that is there, and then without it.
    publisher.block(&range("203.0.113.6/31", 1, None));
    dropped("203.0.113.6");
    publisher.block(&range("203.0.113.4/30", 1, None));
    dropped("203.0.113.4");
    assert!(!host.answers("203.0.113.6"));
    publisher.lift_key("shop|CIDR|203.0.113.4/30", 2);
    let_in("203.0.113.4");
    dropped("203.0.113.6");
    publisher.lift_key("shop|CIDR|203.0.113.6/31", 2);
    let_in("203.0.113.6");
    assert!(!host.answers("198.51.100.7"));

    // The table goes, and somebody adds an element of his own.
    host.run("nft", &["delete", "table", "inet", "portcullis"]);
    dropped("198.51.100.7");
    host.run("nft", &["add", "element", "inet", "portcullis", "addresses", "{ 203.0.113.3 }"]);
    assert!(!host.answers("203.0.113.3"));
    until(DEADLINE, "the look that reads everything", || {
        sink.pass(60_000);
        host.answers("203.0.113.3").then_some(())
    });
    dropped("198.51.100.7");
    // Ended, by the clock of the sink, whatever the kernel thinks.
    publisher.block(&entry("shop", "203.0.113.1", 2, Some(sink.now() + HOUR)));
    dropped("203.0.113.1");
    sink.pass(HOUR);
    let_in("203.0.113.1");
    // Ended by the kernel, with no sink.
    publisher.block(&entry("shop", "203.0.113.3", 5, Some(sink.now() + 12_000)));
    dropped("203.0.113.3");
    assert_eq!(sink.stop(), Ok(String::new()));
    let_in("203.0.113.3");
    assert!(!host.answers("198.51.100.7"), "{}", host.last_words());

    // Another sink finds everything as it should be.
    let sink = Running::start(&connection, edge());
    sink.until("a look", |status| status.sink.caught_up && status.sink.enforced >= 2);
    assert_eq!(sink.stop(), Ok(String::new()));
    assert!(!host.answers("198.51.100.7") && !host.answers("2001:db8:1:2::7"));
}

#[test]
fn a_firewall_that_is_not_allowed_is_told_and_tried_again() {
    let connection = installed("sink-nftables-away");
    let publisher = Publisher::new(&connection, Format::Json);
    publisher.block(&entry("shop", "203.0.113.1", 1, None));
    let nft = Words(["sh", "-c", "echo Operation not permitted >&2; exit 1"].map(str::to_owned).to_vec());
    let edge = EdgeArgs::Nftables(NftablesArgs { table: "portcullis".to_owned(), nft, common: common("host-2") });
    let sink = Running::start(&connection, edge);
    sink.until("two failures", |status| status.sink.failures >= 2);
    let error = sink.watched.get().sink.last_error.unwrap();
    assert!(error.starts_with("nftables: ") && error.contains("Operation not permitted"), "{error}");
    until_receipts(&connection, "host-2", &[("shop|IP|203.0.113.1", 1, ReceiptOutcome::Failed)]);
    assert_eq!(sink.stop(), Ok(String::new()));
}

#[test]
fn an_edge_that_answers_nonsense_or_is_not_there_is_told_and_tried_again() {
    let connection = installed("sink-nonsense");
    let publisher = Publisher::new(&connection, Format::Json);
    publisher.block(&entry("shop", "203.0.113.1", 1, None));
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("nonsense.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            // Whoever asked may be gone.
            drop((&stream).read(&mut [0; 4096]));
            drop((&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
            drop(stream.shutdown(std::net::Shutdown::Write));
            // Closed, it would break the pipe of whoever has not said everything yet.
            kept.push(stream);
        }
    });
    let (socket, nowhere) = (socket.display().to_string(), home.path().join("nowhere").display().to_string());
    let haproxy = |socket: &str| {
        let (socket, map) = (socket.to_owned(), "/etc/portcullis.map".to_owned());
        EdgeArgs::Haproxy(HaproxyArgs { socket, map, common: common("x") })
    };
    let redis = |redis: &str| {
        let (redis, prefix) = (redis.to_owned(), "p:".to_owned());
        EdgeArgs::Redis(RedisArgs { redis, database: 3, user: None, password_file: None, prefix, common: common("y") })
    };
    for (edge, expected) in [
        (haproxy(&socket), "HAProxy: HTTP/1.1 400"),
        (haproxy(&nowhere), "No such file"),
        (redis(&socket), "it answers nonsense"),
        (redis(&nowhere), "No such file"),
    ] {
        let sink = Running::start(&connection, edge);
        sink.until("two failures", |status| status.sink.failures >= 2);
        let status = sink.watched.get().sink;
        let error = status.last_error.unwrap();
        assert!(error.contains(expected), "{error}");
        assert_eq!((status.enforced, status.applications), (0, 0));
        assert_eq!(sink.stop(), Ok(String::new()));
    }
}

#[test]
fn redis_has_a_key_for_each_entry_until_its_end_and_tells_each_change() {
    let connection = installed("sink-redis");
    let publisher = Publisher::new(&connection, Format::Json);
    let redis = Redis::start();
    let (_listener, heard) = redis.listen("p:changes");
    let edge = || redis_args(&redis);
    let key = |ip: &str| format!("p:block:shop|IP|{ip}");
    let there = |ip: &str| {
        until(DEADLINE, &format!("a key for {ip}"), || (redis.command(&["EXISTS", &key(ip)]) == "1").then_some(()))
    };
    let gone = |ip: &str| {
        until(DEADLINE, &format!("no key for {ip}"), || (redis.command(&["EXISTS", &key(ip)]) == "0").then_some(()))
    };

    redis.command(&["SET", &key("203.0.113.99"), "1"]);
    redis.command(&["SET", "somebody:else", "1"]);
    publisher.block(&entry("shop", "203.0.113.1", 1, Some(START + HOUR)));
    publisher.block(&BlocklistEntry { action: Action::Challenge, ..entry("shop", "203.0.113.2", 1, None) });
    let sink = Running::start(&connection, edge());
    there("203.0.113.1");
    there("203.0.113.2");
    gone("203.0.113.99");
    let entry_there: BlocklistEntry = serde_json::from_str(&redis.command(&["GET", &key("203.0.113.2")])).unwrap();
    assert_eq!((entry_there.action, entry_there.generation), (Action::Challenge, 1));
    let left: Millis = redis.command(&["PTTL", &key("203.0.113.1")]).parse().unwrap();
    assert!((HOUR / 2..=HOUR).contains(&left), "{left}");
    assert_eq!(redis.command(&["PTTL", &key("203.0.113.2")]), "-1");

    publisher.lift("shop", "203.0.113.2", 2);
    gone("203.0.113.2");
    let heard = until(DEADLINE, "the changes", || {
        let text = std::fs::read_to_string(&heard).unwrap();
        text.contains(r#"{"key":"shop|IP|203.0.113.2","entry":null}"#).then_some(text)
    });
    assert!(heard.contains(r#"{"key":"shop|IP|203.0.113.1","entry":{"tenant":"shop","#), "{heard}");

    // Emptied by somebody: back within a look.
    redis.command(&["FLUSHALL"]);
    there("203.0.113.1");
    until_receipts(
        &connection,
        "redis-1",
        &[("shop|IP|203.0.113.1", 1, ReceiptOutcome::Applied), ("shop|IP|203.0.113.2", 2, ReceiptOutcome::Lifted)],
    );
    // More than one pipeline; and each ends by itself without the sink.
    let end = sink.now() + HOUR / 4;
    publisher.block_all((0..700).map(|n| entry("shop", &format!("100.1.{}.{}", n / 250, n % 250), 1, Some(end))));
    there("100.1.2.199");
    there("100.1.0.0");
    assert_eq!(sink.stop(), Ok(String::new()));
    assert_eq!(redis.command(&["EXISTS", &key("100.1.0.0")]), "1");
    let sink = Running::start(&connection, edge());
    sink.until("a look", |status| status.sink.caught_up && status.sink.enforced > 0);
    assert_eq!(sink.stop(), Ok(String::new()));
    there("203.0.113.1");
}

/// Measures, and asserts nothing about time: from a record on the topic to the edge, beside lists of several lengths, and
/// how long a sink takes that starts on them.
#[test]
#[ignore = "measures for a minute or two; its figures are in its output"]
fn how_long_from_the_record_to_the_edge() {
    let haproxy = Haproxy::start();
    let redis = Redis::start();
    let host = Host::start(&[]);
    // `nft get element` reads all sets first: what it confirmed is taken from the sink.
    for kind in ["haproxy", "redis", "nftables"] {
        for count in [1usize, 1_000, 100_000] {
            let connection = installed(&format!("latency-{kind}-{count}"));
            let publisher = Publisher::new(&connection, Format::Json);
            let start = now();
            let of = |n: usize, generation| {
                let ip = format!("{}.{}.{}.{}", 20 + (n >> 16), (n >> 8) & 255, n & 255, 7);
                entry("shop", &ip, generation, Some(start + HOUR))
            };
            publisher.block_all((0..count).map(|n| of(n, start)));
            let mut args = match kind {
                "haproxy" => haproxy_args(&haproxy),
                "redis" => redis_args(&redis),
                _ => nftables_args(&host, "host-1"),
            };
            // The single ones of the length before may go.
            match &mut args {
                EdgeArgs::Haproxy(HaproxyArgs { common, .. })
                | EdgeArgs::Redis(RedisArgs { common, .. })
                | EdgeArgs::Nftables(NftablesArgs { common, .. }) => common.allow_shrink = true,
                EdgeArgs::Nginx(_) | EdgeArgs::File(_) => {}
            }
            let began = std::time::Instant::now();
            let sink = Running::start_now(&connection, args);
            sink.until("the list", |status| status.sink.enforced == count);
            let started = began.elapsed();
            let has = |ip: &str, n: usize, sink: &Running| match kind {
                "haproxy" => haproxy.command(&format!("get map {} {ip}", haproxy.map())).contains("found=yes"),
                "redis" => redis.command(&["EXISTS", &format!("p:block:shop|IP|{ip}")]) == "1",
                _ => sink.watched.get().sink.enforced > count + n,
            };
            let mut took: Vec<u128> = Vec::new();
            for n in 0..60 {
                let entry = BlocklistEntry { value: format!("99.1.1.{n}"), ..of(0, now()) };
                let began = std::time::Instant::now();
                publisher.block(&entry);
                until(DEADLINE, "the entry", || has(&entry.value, n, &sink).then_some(()));
                took.push(began.elapsed().as_millis());
            }
            took.sort_unstable();
            let status = sink.watched.get();
            eprintln!(
                "{kind:>9} {count:>7} entries: start {:>5} ms, p50 {:>4} ms, p99 {:>4} ms, receipts {}",
                started.as_millis(),
                took[30],
                took[59],
                status.receipts.delivered
            );
            assert_eq!(sink.stop(), Ok(String::new()));
        }
    }
}

/// HAProxy knows nothing but addresses: what is blocked of an autonomous system and of a country follows from a file, and
/// changes with it. Whoever is exempt, and what must never be blocked, is left out.
#[test]
fn autonomous_systems_and_countries_are_refused_by_their_prefixes() {
    let connection = installed("sink-networks");
    let publisher = Publisher::new(&connection, Format::Json);
    let haproxy = Haproxy::start();
    let of = |scope, value: &str, generation| BlocklistEntry {
        scope,
        value: value.to_owned(),
        ..entry("shop", "", generation, None)
    };
    publisher.block(&of(Scope::Asn, "64500", 1));
    publisher.block(&of(Scope::Country, "NL", 1));
    publisher.block(&of(Scope::Asn, "64999", 1));
    publisher.block(&of(Scope::UserAgent, "curl", 1));
    publisher.exempt("203.0.113.77");
    let sink = Running::start(&connection, haproxy_args(&haproxy));
    let (applied, refused) = (ReceiptOutcome::Applied, ReceiptOutcome::Refused);
    let [asn, country, unknown, agent] =
        ["shop|ASN|64500", "shop|COUNTRY|NL", "shop|ASN|64999", "shop|USER_AGENT|curl"];
    let all = |system, land| [(asn, 1, system), (country, 1, land), (unknown, 1, refused), (agent, 1, refused)];
    // Without a file it has no words for them, and says so.
    until_receipts(&connection, "edge-1", &all(refused, refused));
    assert_eq!(haproxy.status_for("203.0.113.9"), 200);

    sink.networks.set(mmdb::networks(&[
        ("203.0.112.0/24", json!({"autonomous_system_number": 64500})),
        ("203.0.113.0/24", json!({"autonomous_system_number": 64500, "country": {"iso_code": "FR"}})),
        ("10.0.0.0/8", json!({"autonomous_system_number": 64500})),
        ("198.51.100.0/25", json!({"country": {"iso_code": "NL"}})),
        ("198.51.100.128/25", json!({"country": {"iso_code": "NL"}})),
    ]));
    for address in ["203.0.112.1", "203.0.113.9", "203.0.113.76", "203.0.113.78", "198.51.100.1", "198.51.100.200"] {
        says(&haproxy, address, 403);
    }
    for address in ["203.0.113.77", "10.1.2.3", "192.0.2.1"] {
        assert_eq!(haproxy.status_for(address), 200, "{address}");
    }
    until_receipts(&connection, "edge-1", &all(applied, applied));
    let status = sink.watched.get().sink;
    // A /24, what is left of another without one address, and two halves that are one.
    assert_eq!((status.enforced, status.not_expressible.values().sum::<u64>()), (1 + 8 + 1, 2));

    // Another file: the system has moved, and nobody knows the country.
    sink.networks.set(mmdb::networks(&[("192.0.2.0/24", json!({"autonomous_system_number": 64500}))]));
    says(&haproxy, "192.0.2.1", 403);
    says(&haproxy, "203.0.113.9", 200);
    says(&haproxy, "198.51.100.1", 200);
    until_receipts(&connection, "edge-1", &all(applied, refused));
    publisher.lift_key(asn, 2);
    says(&haproxy, "192.0.2.1", 200);
    sink.stop().unwrap();
}
