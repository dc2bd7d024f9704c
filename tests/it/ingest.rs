//! The HTTP door: what it answers, that what it answers 202 is on a real topic whatever happens, and what it refuses.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use portcullis::app::Connection;
use portcullis::app::clock::ProcessClock;
use portcullis::event::wire::{Encoding, WriterSchema, canonical, decode, encoding_of};
use portcullis::ingest::gateway::OPENAPI;
use portcullis::log::{ClientOptions, Clock, Incoming};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::chaos_broker::Broker;
use crate::support::edge::ask;
use crate::support::ingest::{Door, SECRET, TOKEN, event, sources_file};
use crate::support::job::Installed;
use crate::support::kafka::shared;
use crate::support::kept::EndBy;
use crate::support::keycloak::{ADMIN, Keycloak};
use crate::support::proxy::{Api, Hurt};
use crate::support::records::{DEADLINE, connection, connection_with_topics, read_all};
use crate::support::{free_ports, http, until};

fn now() -> i64 {
    ProcessClock::real().now()
}

fn written(connection: &Connection) -> Vec<Incoming> {
    read_all(&connection.client, &connection.topics.public("login-events"))
}

/// The ids on the topic, in no order.
fn ids(records: &[Incoming]) -> Vec<String> {
    let id = |record: &Incoming| -> String {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        value["event_id"].as_str().unwrap().to_owned()
    };
    let mut ids: Vec<String> = records.iter().map(id).collect();
    ids.sort();
    ids
}

#[test]
fn events_of_every_form_are_on_the_topic_when_they_are_answered() {
    let connection = connection_with_topics(shared().bootstrap(), "ingest-forms");
    let door = Door::ready(&connection, "");
    let before = now();
    let cloud = |id: &str| {
        let mut data = event("");
        data.as_object_mut().unwrap().remove("event_id");
        json!({"specversion": "1.0", "id": id, "source": "/web", "type": "login", "data": data})
    };
    let (json, lines) = ("application/json", "application/x-ndjson");
    for (kind, body, n) in [
        (json, event("one").to_string(), 1),
        (json, json!([event("a1"), event("a2")]).to_string(), 2),
        (lines, format!("{}\n\n{}\n", event("l1"), event("l2")), 2),
        ("application/cloudevents+json; charset=utf-8", cloud("c1").to_string(), 1),
        ("application/cloudevents-batch+json", json!([cloud("c2"), cloud("c3")]).to_string(), 2),
    ] {
        assert_eq!(
            door.post("/v1/events", kind, &body),
            (202, json!({"accepted": n, "ignored": 0, "rejected": []})),
            "{body}"
        );
    }
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("ce-specversion", "1.0"),
        ("ce-id", "c%204"),
        ("ce-source", "/web"),
        ("ce-type", "login"),
    ];
    let mut plain = cloud("c4")["data"].clone();
    plain["user_agent"] = json!("Mozilla/5.0 \u{e9}");
    assert_eq!(door.ask("POST", "/v1/events", &headers, &plain.to_string()).status, 202);

    let records = written(&connection);
    let expected = ["/web#c 4", "/web#c1", "/web#c2", "/web#c3", "a1", "a2", "l1", "l2", "one"];
    assert_eq!(ids(&records), expected);
    for record in &records {
        // As intake reads it.
        let encoding = encoding_of(record.value.as_deref(), record.header("__value_schema_id")).unwrap();
        assert!(matches!(encoding, Encoding::Json { .. }));
        let decoded = decode(record.value.as_deref().unwrap(), encoding, Some(&WriterSchema::Bundled)).unwrap();
        let attempt = canonical(decoded.event, record.timestamp, None).unwrap();
        assert_eq!(&*attempt.tenant, "shop");
        assert_eq!(record.key.as_deref(), Some(b"203.0.113.9".as_slice()));
        // Each process clock counts on from its own start, so two of them are not alike to the millisecond.
        let around = before - 1_000..=now() + 1_000;
        assert!(around.contains(&record.timestamp), "it arrived now, by the clock of the gateway");
    }
    assert_eq!(door.shown.status()["accepted"], 9);
    assert_eq!(door.stop(), Ok(()));
}

#[test]
fn the_good_part_of_a_batch_is_taken_and_the_rest_is_answered_item_by_item() {
    let connection = connection_with_topics(shared().bootstrap(), "ingest-mixed");
    let door = Door::ready(&connection, "--body-limit 1");
    let mut late = event("late");
    late["occurred_at"] = json!(now() - 3_600_000);
    let mut foreign = event("foreign");
    foreign["tenant"] = json!("bank");
    let mut wrong = event("wrong");
    wrong["source_ip"] = json!("203.0.113.9:80");
    let batch = [event("good"), json!({"event_id": "no"}), foreign, wrong, json!(7), late, event("good2")];
    let (status, answer) = door.send(&batch);
    assert_eq!((status, &answer["accepted"]), (207, &json!(3)), "{answer}");
    let rejected = answer["rejected"].as_array().unwrap();
    let told: Vec<Value> =
        rejected.iter().map(|r| json!([r["index"], r["reason"], r["field"], r["fix"].is_string()])).collect();
    let expected = json!([
        [1, "missing_field", "occurred_at", true],
        [2, "bad_tenant", "tenant", true],
        [3, "bad_address", "source_ip", true],
        [4, "wrong_type", null, true],
    ]);
    assert_eq!(json!(told), expected, "{answer}");
    assert_eq!(answer["warnings"][0]["index"], 5, "{answer}");
    assert!(answer["warnings"][0]["detail"].as_str().unwrap().starts_with("field `occurred_at`: 36"));
    assert_eq!(ids(&written(&connection)), ["good", "good2", "late"]);

    // Whoever may speak for anybody speaks for a tenant by naming it, and for the contract's default by naming none.
    let (status, answer) = door.post_as("any", "/v1/events", "application/json", &batch[2].to_string());
    assert_eq!(status, 202, "{answer}");
    assert_eq!(door.post_as("any", "/v1/events", "application/json", &event("plain").to_string()).0, 202);

    for (kind, body, status, what) in [
        ("application/json", "{", 400, "broken_json"),
        ("application/json", "", 400, "empty"),
        ("application/json", "[]", 400, "empty"),
        ("application/json", "[{}", 400, "broken_json"),
        ("application/json", "[7]", 400, "wrong_type"),
        ("application/json", &format!("[{}7]", "7,".repeat(1_000)), 413, "1000"),
        ("application/json", &"x".repeat((1 << 20) + 1), 413, "1048576"),
        ("text/plain", "{}", 415, "text/plain"),
        ("application/x-www-form-urlencoded", "{}", 415, "application/json"),
        ("application/cloudevents+json", r#"{"specversion":"0.3"}"#, 400, "0.3"),
    ] {
        let (seen, answer) = door.post("/v1/events", kind, body);
        let shown: String = body.chars().take(50).collect();
        assert_eq!((seen, &answer["accepted"]), (status, &json!(0)), "{shown}: {answer}");
        assert!(answer.to_string().contains(what), "{shown}: {answer}");
    }
    let gzip = [("X-Api-Key", TOKEN), ("Content-Encoding", "gzip")];
    assert_eq!(door.ask("POST", "/v1/events", &gzip, "x").status, 415);
    assert_eq!(door.ask("GET", "/v1/events", &[], "").status, 405);
    assert_eq!(door.ask("GET", "/v1/event", &[], "").status, 404);
    assert_eq!(ids(&written(&connection)).len(), 5);
    let status = door.shown.status();
    assert_eq!((&status["rejected"]["bad_tenant"], &status["requests_refused"]["media_type"]), (&json!(1), &json!(3)));
}

#[test]
fn who_may_send_is_known_by_a_token_or_a_signature() {
    let connection = connection_with_topics(shared().bootstrap(), "ingest-keys");
    let door = Door::ready(&connection, "");
    let body = event("e").to_string();
    let status = |headers: &[(&str, &str)]| door.ask("POST", "/v1/events", headers, &body).status;
    for (name, value) in [
        ("X-Api-Key", TOKEN.to_owned()),
        ("Authorization", format!("Bearer {TOKEN}")),
        ("Authorization", TOKEN.to_owned()),
        // whoever:the token
        ("Authorization", "Basic d2hvZXZlcjowMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg==".to_owned()),
    ] {
        assert_eq!(status(&[(name, &value)]), 202, "{name}: {value}");
    }
    for wrong in ["", "Bearer ", "Bearer wrong", "Basic !", "Bearer 0123456789abcdef0123456789abcdeF"] {
        assert_eq!(status(&[("Authorization", wrong)]), 401, "{wrong}");
    }
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("X-Api-Key", "okta")]), 403, "it may use another route alone");

    let signed = |at: i64, secret: &str, body: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{at}.{body}").as_bytes());
        let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={at},v1={digits}")
    };
    let seconds = now() / 1_000;
    for (name, signature, expected) in [
        ("billing", signed(seconds, SECRET, &body), 202),
        ("billing", signed(seconds - 240, SECRET, &body), 202),
        ("billing", signed(seconds - 400, SECRET, &body), 401),
        ("billing", signed(seconds + 400, SECRET, &body), 401),
        ("billing", signed(seconds, "another secret, as long as this", &body), 401),
        ("billing", signed(seconds, SECRET, "{}"), 401),
        ("shop-web", signed(seconds, SECRET, &body), 401),
        ("nobody", signed(seconds, SECRET, &body), 401),
        ("billing", "t=1".to_owned(), 401),
    ] {
        let headers = [("X-Portcullis-Source", name), ("X-Portcullis-Signature", signature.as_str())];
        assert_eq!(status(&headers), expected, "{name} {signature}");
    }
    // A signature that does not hold is not made up for by a token.
    let both = [("X-Api-Key", TOKEN), ("X-Portcullis-Source", "billing"), ("X-Portcullis-Signature", "t=1,v1=00")];
    assert_eq!(status(&both), 401);
}

#[test]
fn a_source_over_its_rate_is_told_when_to_come_again() {
    let connection = connection_with_topics(shared().bootstrap(), "ingest-rate");
    let door = Door::ready(&connection, "");
    let ten: Vec<Value> = (0..10).map(|n| event(&format!("e{n}"))).collect();
    let body = json!(ten).to_string();
    let before = Instant::now();
    assert_eq!(door.post_as("slow", "/v1/events", "application/json", &body).0, 202);
    let reply = door.ask("POST", "/v1/events", &[("X-Api-Key", "slow")], &body);
    assert_eq!(reply.status, 429, "{}", reply.body);
    assert!(matches!(reply.header("Retry-After"), Some("1" | "2")), "{:?}", reply.header("Retry-After"));
    // Others are not held up.
    assert_eq!(door.send(&[event("other")]).0, 202);
    assert_eq!(ids(&written(&connection)).len(), 11, "what was refused was not written");
    until(DEADLINE, "the rate to allow it", || {
        (door.post_as("slow", "/v1/events", "application/json", &body).0 == 202).then_some(())
    });
    // Ten events at five a second, however long all of it took.
    assert!(before.elapsed() > Duration::from_millis(1_900), "{:?}", before.elapsed());
}

#[test]
fn the_same_event_again_is_answered_the_same_and_counted_once() {
    let installed = Installed::new("ingest-twice");
    installed.done(&["topics", "apply"]);
    let door = Door::ready(&installed.connection(), "");
    let twice = event("twice");
    let other_gateway = Door::ready(&installed.connection(), "");
    let first = door.send(std::slice::from_ref(&twice));
    assert_eq!(first, other_gateway.send(std::slice::from_ref(&twice)));
    assert_eq!(first, door.send(&[twice]));
    assert_eq!(ids(&written(&installed.connection())), ["twice"; 3]);
    let _job = installed.run(EndBy::Term);
    until(DEADLINE, "the job to have counted it", || (installed.counted("events_duplicate") == 2).then_some(()));
}

fn behind_proxy(broker: &Broker, name: &str) -> Connection {
    let made = connection_with_topics(broker.bootstrap(), name);
    Connection { client: ClientOptions::new(&broker.proxied()), topics: made.topics }
}

#[test]
fn a_cluster_that_goes_and_comes_loses_nothing_that_was_answered() {
    let mut broker = Broker::start();
    let through = behind_proxy(&broker, "ingest-away");
    let past = Connection { client: ClientOptions::new(broker.bootstrap()), topics: through.topics.clone() };
    let door = Door::ready(&through, "--patience 3 --queue 1000");

    // The broker writes it, and its answer is lost: it is asked again, and there is one.
    broker.proxy.arm(Api::Produce, Hurt::CutAfter);
    assert_eq!(door.send(&[event("cut")]).0, 202);
    assert_eq!(ids(&written(&past)), ["cut"]);

    // Nothing is confirmed: those who wait fill the queue, who comes then is sent away at once.
    broker.proxy.arm(Api::Produce, Hurt::Hold);
    let many: Vec<Value> = (0..600).map(|n| event(&format!("held{n}"))).collect();
    let (address, body) = (door.address, json!(many).to_string());
    let waiting =
        std::thread::spawn(move || ask(address, "POST", "/v1/events", &[("X-Api-Key", TOKEN)], &body).unwrap().status);
    until(DEADLINE, "the first to wait", || (broker.proxy.fired() == 2).then_some(()));
    assert_eq!(door.shown.status()["queued_events"], 600);
    let began = Instant::now();
    let reply = door.ask("POST", "/v1/events", &[("X-Api-Key", TOKEN)], &json!(many).to_string());
    assert_eq!((reply.status, reply.header("Retry-After")), (503, Some("1")), "{}", reply.body);
    assert!(began.elapsed() < Duration::from_secs(2), "it waited {:?}", began.elapsed());
    broker.proxy.let_go();
    assert_eq!(waiting.join().unwrap(), 202);
    assert_eq!(ids(&written(&past)).len(), 601);

    broker.kill();
    let (status, answer) = door.send(&[event("away"), json!(1)]);
    assert_eq!(status, 503, "{answer}");
    assert_eq!((&answer["unavailable"], &answer["rejected"][0]["index"]), (&json!([0]), &json!(1)), "{answer}");
    assert!(!door.shown.is_ready());
    // From now on nobody is made to wait.
    let began = Instant::now();
    let reply = door.ask("POST", "/v1/events", &[("X-Api-Key", TOKEN)], &event("again").to_string());
    assert_eq!((reply.status, reply.header("Retry-After")), (503, Some("1")));
    assert!(began.elapsed() < Duration::from_secs(2), "it waited {:?}", began.elapsed());

    broker.live();
    door.until_ready();
    assert_eq!(door.send(&[event("again")]).0, 202);
    let all: BTreeSet<String> = ids(&written(&past)).into_iter().collect();
    assert!(all.contains("again") && all.contains("cut") && all.contains("held599"));
    assert_eq!(door.stop(), Ok(()));
}

#[test]
fn a_gateway_that_is_killed_loses_nothing_that_it_answered() {
    let installed = Installed::new("ingest-killed");
    installed.done(&["topics", "apply"]);
    let sources = installed.folder.path().join("sources.yaml");
    std::fs::write(&sources, sources_file()).unwrap();
    std::fs::write(installed.folder.path().join("billing.secret"), SECRET).unwrap();
    let sources = sources.display().to_string();
    let answered: Arc<Mutex<Vec<String>>> = Arc::default();
    for life in 0..3 {
        let [port] = free_ports();
        let listen = format!("127.0.0.1:{port}");
        let mut gateway =
            installed.start(&["ingest", "--listen", &listen, "--sources", &sources, "--threads", "2"], EndBy::Kill);
        until(DEADLINE, "the gateway to be ready", || {
            assert!(!gateway.has_ended(), "{}", gateway.last_words());
            (http(port, "/readyz").0 == 200).then_some(())
        });
        let over = Arc::new(AtomicBool::new(false));
        let before = answered.lock().unwrap().len();
        let publishers: Vec<_> = (0..8)
            .map(|publisher| {
                let (answered, over) = (Arc::clone(&answered), Arc::clone(&over));
                std::thread::spawn(move || {
                    for n in 0.. {
                        let id = format!("{life}-{publisher}-{n}");
                        let address = format!("127.0.0.1:{port}").parse().unwrap();
                        let reply =
                            ask(address, "POST", "/v1/events", &[("X-Api-Key", TOKEN)], &event(&id).to_string());
                        match reply {
                            Ok(reply) if reply.status == 202 => answered.lock().unwrap().push(id),
                            Ok(_) | Err(_) if over.load(Ordering::Relaxed) => return,
                            Ok(reply) => panic!("{}: {}", reply.status, reply.body),
                            // It is just being killed.
                            Err(_) => {}
                        }
                    }
                })
            })
            .collect();
        until(DEADLINE, "200 answers", || (answered.lock().unwrap().len() > before + 200).then_some(()));
        over.store(true, Ordering::Relaxed);
        // By signal 9, in the middle of it.
        drop(gateway);
        for publisher in publishers {
            publisher.join().unwrap();
        }
    }
    let there: BTreeSet<String> = ids(&written(&installed.connection())).into_iter().collect();
    let answered = answered.lock().unwrap();
    let lost: Vec<&String> = answered.iter().filter(|id| !there.contains(*id)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), answered.len());
}

#[test]
fn a_stop_answers_who_waits_and_a_missing_topic_is_told() {
    let broker = Broker::start();
    let through = behind_proxy(&broker, "ingest-stop");
    let door = Door::ready(&through, "");
    broker.proxy.arm(Api::Produce, Hurt::Hold);
    let address = door.address;
    let waiting = std::thread::spawn(move || {
        ask(address, "POST", "/v1/events", &[("X-Api-Key", TOKEN)], &event("last").to_string()).unwrap().status
    });
    until(DEADLINE, "it to wait", || (broker.proxy.fired() == 1).then_some(()));
    let stopping = std::thread::spawn(move || door.stop());
    until(DEADLINE, "the door to be shut", || TcpStream::connect(address).is_err().then_some(()));
    broker.proxy.let_go();
    assert_eq!(waiting.join().unwrap(), 202);
    assert_eq!(stopping.join().unwrap(), Ok(()));

    let error = Door::start(&connection(broker.bootstrap(), "ingest-no-topic"), "").end().unwrap_err();
    assert!(error.contains("does not exist; make it with `portcullis topics apply`"), "{error}");
}

#[test]
fn memory_for_bodies_is_bounded_and_given_back() {
    let connection = connection_with_topics(shared().bootstrap(), "ingest-memory");
    let door = Door::ready(&connection, "--body-limit 1 --memory 2");
    // Two who say that they send a megabyte, and do not.
    let slow: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(door.address).unwrap();
            let length = 1 << 20;
            write!(
                stream,
                "POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Api-Key: {TOKEN}\r\nContent-Length: {length}\r\n\r\n["
            )
            .unwrap();
            stream
        })
        .collect();
    until(DEADLINE, "both to be read", || (door.shown.status()["buffered_bytes"] == 2 << 20).then_some(()));
    let reply = door.ask("POST", "/v1/events", &[("X-Api-Key", TOKEN)], &event("e").to_string());
    assert_eq!((reply.status, reply.header("Retry-After")), (503, Some("1")), "{}", reply.body);
    // Whoever has no key takes none of it.
    assert_eq!(door.ask("POST", "/v1/events", &[], "{}").status, 401);
    drop(slow);
    until(DEADLINE, "room again", || (door.send(&[event("e")]).0 == 202).then_some(()));
    assert_eq!(door.shown.status()["buffered_bytes"], 0);

    // A body without a length that is longer than it may be.
    let mut stream = TcpStream::connect(door.address).unwrap();
    write!(stream, "POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Api-Key: {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let sent = (0..32).take_while(|_| stream.write_all(chunk.as_bytes()).is_ok()).count();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413", "after {sent} chunks");
}

#[test]
fn producers_are_understood_at_their_own_addresses() {
    let connection = connection_with_topics(shared().bootstrap(), "ingest-adapters");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.yaml"), include_str!("../ingest/own-portal/own-portal.yaml")).unwrap();
    let door = Door::ready(&connection, &format!("--mappings {}", folder.path().display()));

    let asked = door.ask("GET", "/v1/adapters/okta", &[("x-okta-verification-challenge", "a\"b")], "");
    assert_eq!((asked.status, asked.body.as_str()), (200, r#"{"verification":"a\"b"}"#));
    assert_eq!(door.ask("GET", "/v1/adapters/okta", &[], "").status, 405);

    let hook = include_str!("../ingest/okta/event-hook.in.json");
    let reply = door.ask("POST", "/v1/adapters/okta", &[("Authorization", "okta")], hook);
    assert_eq!(reply.status, 202, "{}", reply.body);
    let answer: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((&answer["accepted"], &answer["ignored"]), (&json!(8), &json!(2)), "{answer}");

    let bad = include_str!("../ingest/okta/half-bad.in.json");
    let (status, answer) = door.post("/v1/adapters/okta", "application/json", bad);
    assert_eq!(status, 207, "{answer}");
    let newer = include_str!("../ingest/okta/newer-version.in.json");
    let (status, answer) = door.post("/v1/adapters/okta", "application/json", newer);
    assert_eq!((status, &answer["rejected"][0]["reason"]), (400, &json!("unknown_encoding")), "{answer}");

    let log = include_str!("../ingest/nginx/combined.in.log");
    assert_eq!(door.post("/v1/adapters/nginx", "text/plain", log).0, 202);
    let own = include_str!("../ingest/own-portal/batch.in.json");
    assert_eq!(door.post("/v1/adapters/own-portal", "application/json", own).0, 207);
    assert_eq!(door.post("/v1/adapters/ocata", "application/json", "{}").0, 404);

    // All of them are the tenant's, and the job could read them.
    for record in written(&connection) {
        let encoding = encoding_of(record.value.as_deref(), None).unwrap();
        let decoded = decode(record.value.as_deref().unwrap(), encoding, None).unwrap();
        assert_eq!(&*canonical(decoded.event, record.timestamp, None).unwrap().tenant, "shop");
    }
}

#[test]
fn the_description_is_served_and_says_what_is_so() {
    let connection = connection_with_topics(shared().bootstrap(), "ingest-openapi");
    let door = Door::ready(&connection, "");
    let served = door.ask("GET", "/v1/openapi.json", &[], "");
    assert_eq!((served.status, served.body.as_str()), (200, OPENAPI));
    let described: Value = serde_json::from_str(OPENAPI).unwrap();

    // Its login event is that of the contract.
    let schema: Value = serde_json::from_str(WriterSchema::BUNDLED_TEXT).unwrap();
    let of = &described["components"]["schemas"]["LoginEvent"];
    let fields = schema["fields"].as_array().unwrap();
    let names: BTreeSet<&str> = fields.iter().map(|field| field["name"].as_str().unwrap()).collect();
    assert_eq!(names, of["properties"].as_object().unwrap().keys().map(String::as_str).collect());
    let required: Vec<&Value> =
        fields.iter().filter(|field| field.get("default").is_none()).map(|field| &field["name"]).collect();
    assert_eq!(json!(required), of["required"]);
    for field in fields {
        if let Some(symbols) = field["type"].get("symbols") {
            assert_eq!(&of["properties"][field["name"].as_str().unwrap()]["enum"], symbols, "{field}");
        }
    }
    let reasons: Vec<&str> = portcullis::event::Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(described["components"]["schemas"]["Rejected"]["properties"]["reason"]["enum"], json!(reasons));

    // Its routes are there, and answer with statuses that it names.
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in ["get", "post"] {
            let Some(method_described) = methods.get(method) else { continue };
            let asked = path.replace("{name}", "okta");
            for headers in [&[][..], &[("X-Api-Key", TOKEN)][..]] {
                let status = door.ask(&method.to_uppercase(), &asked, headers, "").status;
                let known = method_described["responses"].as_object().unwrap();
                assert!(known.contains_key(&status.to_string()), "{method} {path}: {status}");
            }
        }
    }
}

/// Its log is what a real Keycloak writes without anything added to it.
#[test]
fn a_real_keycloak_is_seen_on_the_topic() {
    let keycloak = Keycloak::start();
    let connection = connection_with_topics(shared().bootstrap(), "ingest-keycloak");
    let door = Door::ready(&connection, "");
    // A name that tries to be more than a name.
    let hostile = r#"x", ipAddress="198.51.100.1", sessionId="s, type=LOGIN"#;
    assert_eq!(keycloak.log_in(ADMIN.0, ADMIN.1, "203.0.113.9"), 200);
    assert_eq!(keycloak.log_in(ADMIN.0, "wrong", "203.0.113.10"), 401);
    assert_eq!(keycloak.log_in(hostile, "wrong", "203.0.113.11"), 401);
    let events = |lines: &[String]| lines.iter().filter(|line| line.contains("org.keycloak.events")).count();
    let log = until(DEADLINE, "three events in its log", || Some(keycloak.log()).filter(|log| events(log) >= 3));
    let (status, answer) = door.post("/v1/adapters/keycloak", "application/x-ndjson", &log.join("\n"));
    assert_eq!((status, &answer["accepted"], &answer["rejected"]), (202, &json!(3), &json!([])), "{answer}");
    assert!(answer["ignored"].as_u64().unwrap() > 0, "the rest of its log: {answer}");
    assert!(answer.get("warnings").is_none(), "its clock is ours: {answer}");

    let records = written(&connection);
    let mut told: Vec<Value> = records
        .iter()
        .map(|record| {
            let event: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            json!([
                event["source_ip"],
                event["outcome"],
                event["failure_reason"],
                event["account"],
                event["account_exists"],
                event["attributes"]["realm"],
                event["session_id"].is_string(),
                event["tenant"]
            ])
        })
        .collect();
    told.sort_by_key(|event| event[0].to_string());
    let expected = json!([
        ["203.0.113.10", "FAILURE", "WRONG_PASSWORD", "admin", true, "master", false, "shop"],
        ["203.0.113.11", "FAILURE", "UNKNOWN_ACCOUNT", hostile, false, "master", false, "shop"],
        ["203.0.113.9", "SUCCESS", null, "admin", true, "master", true, "shop"],
    ]);
    assert_eq!(json!(told), expected);
    // The shipper sends its log again, as shippers do.
    assert_eq!(door.post("/v1/adapters/keycloak", "application/x-ndjson", &log.join("\n")), (status, answer));
    let again: BTreeSet<String> = ids(&written(&connection)).into_iter().collect();
    assert_eq!(again.len(), 3, "the same ids");
}
