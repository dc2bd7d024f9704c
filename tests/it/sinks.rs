//! Sinks from the topic to the edge: a real cluster, a real nginx, and a clock that a test moves by hand.

use std::path::{Path, PathBuf};

use portcullis::app::Output;
use portcullis::app::sink::{CommonArgs, EdgeArgs, FileArgs, NginxArgs};
use portcullis::event::wire::Format;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::support::kafka::shared;
use crate::support::nginx::Nginx;
use crate::support::records::{DEADLINE, connection_with_topics};
use crate::support::sink::{HOUR, LOOK, Publisher, Running, START, entry};
use crate::support::until;

fn nginx_args(file: &Path, nginx: &Nginx, by_pid_file: bool) -> EdgeArgs {
    let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| Path::new(path).exists());
    EdgeArgs::Nginx(NginxArgs {
        file: file.to_owned(),
        conf: Some(nginx.conf()),
        prefix: Some(nginx.prefix().to_owned()),
        pid_file: by_pid_file.then(|| nginx.pid_file()),
        no_reload: false,
        no_test: false,
        nginx: program.unwrap_or("nginx").to_owned(),
        common: CommonArgs { tenant: Some("shop".to_owned()), ..CommonArgs::default() },
    })
}

fn file_args(file: PathBuf, common: CommonArgs) -> EdgeArgs {
    EdgeArgs::File(FileArgs { file, common })
}

#[track_caller]
fn answers(nginx: &Nginx, ip: &str, status: u16) {
    until(DEADLINE, &format!("{status} for {ip}"), || (nginx.status_for(ip) == status).then_some(()));
}

#[test]
fn nginx_refuses_whom_the_blocklist_names_as_long_as_it_names_them() {
    let connection = connection_with_topics(shared().bootstrap(), "sink-nginx");
    let publisher = Publisher::new(&connection, Format::Avro);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("portcullis.geo");
    let nginx = Nginx::start(&file);
    publisher.exempt("203.0.113.4");
    publisher.block(&entry("shop", "203.0.113.1", 1, None));

    let sink = Running::start(&connection, nginx_args(&file, &nginx, true));
    answers(&nginx, "203.0.113.1", 403);
    assert_eq!(nginx.status_for("203.0.113.2"), 200);

    // Lifted, before its end.
    publisher.lift("shop", "203.0.113.1", 2);
    answers(&nginx, "203.0.113.1", 200);

    // Ended, by the clock alone.
    publisher.block(&entry("shop", "203.0.113.2", 1, Some(sink.now() + HOUR)));
    answers(&nginx, "203.0.113.2", 403);
    sink.pass(HOUR);
    answers(&nginx, "203.0.113.2", 200);

    // Past its end already, exempt, malformed, of another tenant: never. The last record of all shows that every one of
    // them was read.
    publisher.block(&entry("shop", "203.0.113.3", 1, Some(START)));
    publisher.block(&entry("shop", "203.0.113.4", 1, None));
    publisher.put("blocklist", "shop|IP|203.0.113.5", Some(b"{\"tenant\":\"shop\""), None);
    publisher.put("blocklist", "shop|IP|203.0.113.6", Some(b"\x00\x00\x00\x00\x03broken"), None);
    publisher.put(
        "blocklist",
        "shop|IP|127.0.0.1",
        Some(&publisher.encoder.encode("blocklist", &entry("shop", "127.0.0.1", 1, None)).unwrap()),
        None,
    );
    publisher.block(&entry("bank", "203.0.113.7", 1, None));
    publisher.block(&entry("shop", "203.0.113.8", 1, None));
    sink.until("eleven records", |status| status.records == 11 && status.sink.exempted == 1);
    answers(&nginx, "203.0.113.8", 403);
    for never in 3..=7 {
        assert_eq!(nginx.status_for(&format!("203.0.113.{never}")), 200);
    }
    let status = sink.watched.get().sink;
    let refused: Vec<(&str, u64)> = status.refused.into_iter().collect();
    assert_eq!((refused, status.other_tenants), (vec![("malformed", 2), ("unblockable", 1)], 1));
    assert_eq!(sink.stop(), Ok(String::new()));

    // What changed while it was away, and what somebody did to the file.
    publisher.lift("shop", "203.0.113.8", 2);
    publisher.block(&entry("shop", "203.0.113.9", 1, None));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}198.51.100.1 1;\n")).unwrap();
    let sink = Running::start(&connection, nginx_args(&file, &nginx, false));
    answers(&nginx, "203.0.113.9", 403);
    answers(&nginx, "203.0.113.8", 200);
    answers(&nginx, "198.51.100.1", 200);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("198.51.100.1"));
    // The clock of the second run began before the end of the second entry.
    answers(&nginx, "203.0.113.2", 403);
    assert_eq!(sink.stop(), Ok(String::new()));
}

#[test]
fn nothing_changes_before_the_topics_are_read_to_their_ends() {
    let cluster = MockCluster::new(1).unwrap();
    let connection = crate::support::records::connection(&cluster.bootstrap_servers(), "behind");
    for name in ["blocklist", "exemptions"] {
        cluster.create_topic(&connection.topics.public(name), 1, 1).unwrap();
    }
    let publisher = Publisher::new(&connection, Format::Json);
    publisher.block(&entry("shop", "203.0.113.1", 1, None));
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("blocked.jsonl");
    let before = "{\"tenant\":\"shop\",\"scope\":\"IP\",\"value\":\"203.0.113.99\",\"action\":\"BLOCK\",\"since\":0,\"until\":null,\
                  \"generation\":1,\"reason\":\"\",\"playbook\":null,\"verdict_id\":null,\"incident_id\":null,\"actor\":null}\n";
    std::fs::write(&file, before).unwrap();

    // Nothing can be read, however often it is tried.
    let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 1_000];
    cluster.request_errors(RDKafkaApiKey::Fetch, &refusals);
    let sink = Running::start(&connection, file_args(file.clone(), CommonArgs::default()));
    sink.until("its start", |status| status.partitions_behind == 1);
    sink.pass(HOUR);
    let passed = sink.now();
    until(DEADLINE, "twenty looks", || (sink.now() > passed + 20 * LOOK).then_some(()));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert!(!sink.watched.get().sink.caught_up);

    cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    sink.until("the list", |status| status.sink.caught_up && status.sink.applications == 1);
    let after = std::fs::read_to_string(&file).unwrap();
    assert!(after.contains("203.0.113.1\"") && !after.contains("203.0.113.99"), "{after}");
    assert_eq!(sink.stop(), Ok(String::new()));
}

#[test]
fn a_dry_run_prints_the_difference_and_changes_nothing() {
    let connection = connection_with_topics(shared().bootstrap(), "sink-dry");
    let publisher = Publisher::new(&connection, Format::Json);
    publisher.block(&entry("shop", "203.0.113.1", 1, None));
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("blocked.jsonl");
    let dry = |output| CommonArgs { dry_run: true, output, ..CommonArgs::default() };
    let text = Running::start(&connection, file_args(file.clone(), dry(Output::Text))).end().unwrap();
    assert!(text.starts_with("+ shop|IP|203.0.113.1\n1 to add, 0 to remove"), "{text}");
    let json = Running::start(&connection, file_args(file.clone(), dry(Output::Json))).end().unwrap();
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["add"], serde_json::json!(["shop|IP|203.0.113.1"]));
    assert!(!file.exists());
}

#[test]
fn a_list_of_several_tenants_wants_to_know_which() {
    let connection = connection_with_topics(shared().bootstrap(), "sink-tenants");
    let publisher = Publisher::new(&connection, Format::Json);
    publisher.block(&entry("shop", "203.0.113.1", 1, None));
    publisher.block(&entry("bank", "203.0.113.2", 1, None));
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("blocked.jsonl");
    let error = Running::start(&connection, file_args(file.clone(), CommonArgs::default())).end().unwrap_err();
    assert!(error.contains("--tenant NAME") && !file.exists(), "{error}");
    let all = CommonArgs { all_tenants: true, ..CommonArgs::default() };
    let sink = Running::start(&connection, file_args(file.clone(), all));
    sink.until("both", |status| status.sink.enforced == 2);
    assert_eq!(sink.stop(), Ok(String::new()));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
}

#[test]
fn a_missing_topic_ends_a_sink_with_what_to_do() {
    let connection = crate::support::records::connection(shared().bootstrap(), "sink-nowhere");
    let home = tempfile::tempdir().unwrap();
    let error = Running::start(&connection, file_args(home.path().join("x"), CommonArgs::default())).end().unwrap_err();
    assert_eq!(error, "the topic `sink-nowhere.blocklist` does not exist; make it with `portcullis topics apply`");
}
