//! The printed ACLs on a real cluster that allows nothing else: each kind of client can do its work, and no more.

use std::ffi::CString;
use std::path::Path;
use std::process::Command;

use portcullis::log::ClientOptions;
use portcullis::log::admin::{Acl, Operation, Pattern, Resource, Role, acls};
use portcullis::log::follow::{Followed, Follower, ReadFrom};
use portcullis::log::publish::Publisher;
use portcullis::topology::Topics;
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;

use crate::support::kafka::Kafka;
use crate::support::records::{DEADLINE, admin, flush, producer, read_to_end, send};
use crate::support::{repository, until};

/// Names with a prefix, so that it is part of what is allowed.
const PREFIX: &str = "guarded.";

struct Guarded {
    kafka: Kafka,
    topics: Topics,
    home: tempfile::TempDir,
}

/// How a command ended: its exit code, and all that it said.
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Guarded {
    fn start() -> Guarded {
        let users: Vec<&str> = Role::ALL.iter().map(|role| role.as_str()).collect();
        let kafka = Kafka::start_guarded(&users);
        let topics = include_str!("../../topology/topics.yaml");
        let topics = Topics::parse(topics, "portcullis", PREFIX, None).unwrap();
        Guarded { kafka, topics, home: tempfile::tempdir().unwrap() }
    }

    /// As the printed commands would.
    fn allow(&self, role: Role) {
        allow(self.kafka.bootstrap(), &format!("User:{role}"), &acls(&self.topics, role, None));
    }

    fn properties(role: Role) -> [(&'static str, String); 4] {
        [
            ("security.protocol", "SASL_PLAINTEXT".to_owned()),
            ("sasl.mechanism", "PLAIN".to_owned()),
            ("sasl.username", role.to_string()),
            ("sasl.password", format!("{role}-password")),
        ]
    }

    fn client(&self, role: Role) -> ClientOptions {
        let properties = Guarded::properties(role).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        ClientOptions { bootstrap: self.kafka.guarded().to_owned(), properties }
    }

    /// Runs the program as the user of this role.
    fn portcullis(&self, role: Role, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["--bootstrap", self.kafka.guarded(), "--topic-prefix", PREFIX]);
        for (name, value) in Guarded::properties(role) {
            command.args(["-X", &format!("{name}={value}")]);
        }
        let output = command.args(arguments).current_dir(self.home.path()).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ended { code: output.status.code(), said }
    }

    #[track_caller]
    fn works(&self, role: Role, arguments: &[&str]) {
        let Ended { code, said } = self.portcullis(role, arguments);
        assert_eq!(code, Some(0), "{role}: {arguments:?}: {said}");
    }

    #[track_caller]
    fn is_refused(&self, role: Role, arguments: &[&str], expected: &str) {
        let Ended { code, said } = self.portcullis(role, arguments);
        assert!(
            code.is_some_and(|code| code != 0) && said.contains(expected),
            "{role}: {arguments:?}: {code:?} {said}"
        );
    }
}

#[test]
fn each_kind_of_client_can_do_its_work_with_them_and_no_more() {
    let guarded = Guarded::start();
    let sample = repository().join("tests/data/produce/web-logins.jsonl");
    let sample = sample.to_str().unwrap();
    let produce = ["produce", sample];
    let apply = ["topics", "apply"];
    let dry_run = ["sink", "file", "--file", "blocked.jsonl", "--all-tenants", "--dry-run"];
    let run = ["run", "--no-warm-up", "--state-dir", "state", "--until-caught-up"];

    guarded.is_refused(Role::Admin, &apply, "`portcullis topics acls --role admin` lists what this user needs");
    guarded.allow(Role::Admin);
    guarded.works(Role::Admin, &apply);
    guarded.works(Role::Admin, &["topics", "check"]);

    guarded.is_refused(Role::Publisher, &produce, "may not use the topic");
    guarded.allow(Role::Publisher);
    guarded.works(Role::Publisher, &produce);

    guarded.allow(Role::Run);
    guarded.works(Role::Run, &run);
    // Without its disk it restores.
    std::fs::remove_dir_all(guarded.home.path().join("state")).unwrap();
    guarded.works(Role::Run, &run);

    guarded.is_refused(Role::Sink, &dry_run, "may not use the topic");
    guarded.allow(Role::Sink);
    guarded.works(Role::Sink, &dry_run);

    let followed = ["blocklist", "exemptions", "attack-status", "known-pairs"].map(|name| guarded.topics.public(name));
    let edge = || Follower::new(&guarded.client(Role::Edge), &followed, ReadFrom::Start);
    assert!(edge().unwrap_err().to_string().contains("may not use the topic"));
    guarded.allow(Role::Edge);
    read_to_end(&mut edge().unwrap());

    let incidents = [guarded.topics.public("incidents")];
    let notify = || Follower::new(&guarded.client(Role::Notify), &incidents, ReadFrom::Start);
    assert!(notify().unwrap_err().to_string().contains("may not use the topic"));
    guarded.allow(Role::Notify);
    read_to_end(&mut notify().unwrap());

    let fanout = repository().join("topology/playbooks/ip-account-fanout.yaml");
    let set = ["playbooks", "set", fanout.to_str().unwrap(), "--raise", "--actor", "ann", "--reason", "as allowed"];
    guarded.is_refused(Role::Operator, &set, "may not use the topic");
    guarded.allow(Role::Operator);
    guarded.works(Role::Operator, &set);
    guarded.works(Role::Operator, &["playbooks", "list", "--in-effect"]);
    guarded.works(Role::Operator, &["explain", "203.0.113.9"]);

    guarded.allow(Role::Subscriber);
    subscriber_reads(&guarded);

    // What they have no business with.
    for role in [Role::Publisher, Role::Sink, Role::Subscriber, Role::Operator] {
        guarded.is_refused(role, &run, "");
        guarded.is_refused(role, &apply, "`portcullis topics acls --role admin` lists what this user needs");
    }
    for (role, topic) in [
        (Role::Publisher, "blocklist"),
        (Role::Subscriber, "login-events"),
        (Role::Sink, "verdicts"),
        (Role::Sink, "playbooks"),
        (Role::Sink, "known-pairs"),
        (Role::Edge, "verdicts"),
    ] {
        let topic = [guarded.topics.public(topic)];
        let error = Follower::new(&guarded.client(role), &topic, ReadFrom::Start).unwrap_err().to_string();
        assert!(error.contains("may not use the topic"), "{role}: {error}");
    }
    let publisher = Publisher::new(&guarded.client(Role::Sink)).unwrap();
    publisher.send(&guarded.topics.public("blocklist"), Some(b"k"), b"v", 0).unwrap();
    let deliveries = publisher.flush(DEADLINE).unwrap();
    assert_eq!((deliveries.delivered, deliveries.failed), (0, 1), "{deliveries:?}");
    publisher.send(&guarded.topics.public("receipts"), Some(b"k"), b"v", 0).unwrap();
    let deliveries = publisher.flush(DEADLINE).unwrap();
    assert_eq!((deliveries.delivered, deliveries.failed), (1, 1), "{deliveries:?}");
    assert!(!Path::new("blocked.jsonl").exists());
}

/// A member of a group of its own, as a service that reads the blocklist is, and a reader without one.
fn subscriber_reads(guarded: &Guarded) {
    let topic = guarded.topics.public("blocklist");
    let producer = producer(guarded.kafka.bootstrap(), None);
    send(&producer, &topic, None, b"shop|IP|203.0.113.9", Some(b"v"), None);
    flush(&producer);
    let group = [("group.id", "guarded.subscriber-login-page"), ("auto.offset.reset", "earliest")];
    let config = guarded.client(Role::Subscriber).config(&group, &[]).unwrap();
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[&topic]).unwrap();
    until(DEADLINE, "the record", || {
        let message = consumer.poll(std::time::Duration::from_millis(50))?.unwrap();
        (message.key() == Some(b"shop|IP|203.0.113.9")).then_some(())
    });
    let mut follower = Follower::new(&guarded.client(Role::Sink), &[topic], ReadFrom::Start).unwrap();
    until(DEADLINE, "the record again", || match follower.poll(std::time::Duration::from_millis(50)).unwrap() {
        Followed::Record(_) => Some(()),
        Followed::CaughtUp | Followed::Idle => None,
    });
    assert_eq!(follower.failures(), 0);
}

/// Makes ACLs; the wrapper has no call for it.
#[expect(unsafe_code, reason = "no safe call makes ACLs, and Kafka's own tool is not among the jars")]
fn allow(bootstrap: &str, principal: &str, acls: &[Acl]) {
    let text = |text: &str| CString::new(text).unwrap();
    let (principal, host) = (text(principal), text("*"));
    let admin = admin(bootstrap);
    let client = admin.inner().native_ptr();
    let mut bindings = Vec::new();
    for acl in acls {
        for (name, operation) in acl.names.iter().flat_map(|name| acl.operations.iter().map(move |o| (name, *o))) {
            let name = text(name);
            // SAFETY: all texts live until the call returns, which copies them.
            let binding = unsafe {
                c::rd_kafka_AclBinding_new(
                    kind(acl.resource),
                    name.as_ptr(),
                    pattern(acl.pattern),
                    principal.as_ptr(),
                    host.as_ptr(),
                    allowed(operation),
                    c::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                    std::ptr::null_mut(),
                    0,
                )
            };
            assert!(!binding.is_null());
            bindings.push(binding);
        }
    }
    // SAFETY: the client lives until the end of this function, the bindings until they are destroyed below, and event
    // and queue are destroyed once.
    unsafe {
        let queue = c::rd_kafka_queue_new(client);
        c::rd_kafka_CreateAcls(client, bindings.as_mut_ptr(), bindings.len(), std::ptr::null(), queue);
        let event = c::rd_kafka_queue_poll(queue, 60_000);
        assert!(!event.is_null(), "no answer to CreateAcls");
        assert_eq!(c::rd_kafka_event_error(event), c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
        let mut count = 0;
        let results = c::rd_kafka_CreateAcls_result_acls(c::rd_kafka_event_CreateAcls_result(event), &raw mut count);
        for i in 0..count {
            assert!(c::rd_kafka_acl_result_error(*results.add(i)).is_null(), "ACL {i} was refused");
        }
        assert_eq!(count, bindings.len());
        c::rd_kafka_event_destroy(event);
        c::rd_kafka_queue_destroy(queue);
        bindings.into_iter().for_each(|binding| c::rd_kafka_AclBinding_destroy(binding));
    }
}

fn kind(resource: Resource) -> c::rd_kafka_ResourceType_t {
    match resource {
        Resource::Topic => c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
        Resource::Group => c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_GROUP,
        Resource::TransactionalId => c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID,
    }
}

fn pattern(pattern: Pattern) -> c::rd_kafka_ResourcePatternType_t {
    match pattern {
        Pattern::Literal => c::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
        Pattern::Prefixed => c::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
    }
}

fn allowed(operation: Operation) -> c::rd_kafka_AclOperation_t {
    match operation {
        Operation::Read => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ,
        Operation::Write => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE,
        Operation::Create => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_CREATE,
        Operation::Alter => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_ALTER,
        Operation::Describe => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_DESCRIBE,
        Operation::AlterConfigs => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_ALTER_CONFIGS,
        Operation::DescribeConfigs => c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
    }
}
