//! Topics as code, against a real cluster: made, compared, changed, and left alone where they must be.

use portcullis::app::topics::{AclsArgs, ApplyArgs, PlanArgs, RoleArg, TopicsArgs, TopicsCommand, run};
use portcullis::app::{Connection, Ending, Output};
use portcullis::topology::{Stage, Topics};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};

use crate::support::kafka::shared;
use crate::support::records::{admin, connection, connection_with_topics, make_topic, wait};

const PLAN: TopicsCommand = TopicsCommand::Plan(PlanArgs { output: Output::Text });
const CHECK: TopicsCommand = TopicsCommand::Check(PlanArgs { output: Output::Text });
const APPLY: TopicsCommand = TopicsCommand::Apply(ApplyArgs { replication_factor: None, output: Output::Text });

fn told(command: TopicsCommand, connection: &Connection) -> (Ending, String) {
    let mut out = Vec::new();
    let ending = run(&TopicsArgs { command }, connection, &mut out).unwrap();
    (ending, String::from_utf8(out).unwrap())
}

fn alter(topic: &str, settings: &[(&str, &str)]) {
    let change = settings.iter().fold(AlterConfig::new(ResourceSpecifier::Topic(topic)), |c, (n, v)| c.set(n, v));
    for result in wait(admin(shared().bootstrap()).alter_configs([&change], &AdminOptions::new())).unwrap() {
        result.map_err(|(_, code)| code).unwrap();
    }
}

/// A topic's settings as the cluster has them.
fn setting(topic: &str, name: &str) -> Option<String> {
    let asked = [ResourceSpecifier::Topic(topic)];
    let answers = wait(admin(shared().bootstrap()).describe_configs(&asked, &AdminOptions::new())).unwrap();
    let resource = answers.into_iter().next().unwrap().unwrap();
    resource.get(name).and_then(|entry| entry.value.clone())
}

#[test]
fn what_is_missing_is_planned_then_made_and_then_right() {
    let connection = connection(shared().bootstrap(), "made");
    let count = connection.topics.all().len();
    let (ending, plan) = told(PLAN, &connection);
    assert_eq!((ending, plan.matches("missing;").count()), (Ending::Well, count), "{plan}");
    assert_eq!(told(CHECK, &connection).0, Ending::Different);
    let (ending, applied) = told(APPLY, &connection);
    assert_eq!((ending, applied.matches("done: + ").count()), (Ending::Well, count), "{applied}");
    assert_eq!(told(CHECK, &connection), (Ending::Well, "The topics are as they should be.\n".to_owned()));
    assert_eq!(told(APPLY, &connection), (Ending::Well, "The topics are as they should be.\n".to_owned()));
    assert_eq!(setting("made.blocklist", "cleanup.policy").as_deref(), Some("compact"));
}

#[test]
fn drift_is_seen_and_undone_and_what_others_set_stays() {
    let connection = connection_with_topics(shared().bootstrap(), "drift");
    alter("drift.verdicts", &[("retention.ms", "1000"), ("max.message.bytes", "2000000")]);
    make_topic(shared().bootstrap(), "drift.portcullis-old-changelog", 1, &[]);
    let (ending, text) = told(CHECK, &connection);
    assert_eq!(ending, Ending::Different, "{text}");
    assert!(text.contains("~ drift.verdicts: retention.ms is 1000, should be 2592000000\n"), "{text}");
    assert!(text.contains("? drift.portcullis-old-changelog: not known here"), "{text}");
    let (ending, text) = told(APPLY, &connection);
    assert_eq!(ending, Ending::Well, "{text}");
    assert_eq!(setting("drift.verdicts", "retention.ms").as_deref(), Some("2592000000"));
    assert_eq!(setting("drift.verdicts", "max.message.bytes").as_deref(), Some("2000000"));
}

#[test]
fn the_publishers_topic_is_left_as_it_is_and_intakes_memory_fits_it() {
    let connection = connection(shared().bootstrap(), "theirs");
    make_topic(shared().bootstrap(), "theirs.login-events", 3, &[("cleanup.policy", "compact")]);
    assert_eq!(told(APPLY, &connection).0, Ending::Well);
    assert_eq!(setting("theirs.login-events", "cleanup.policy").as_deref(), Some("compact"));
    let metadata = admin(shared().bootstrap());
    let metadata = metadata.inner().fetch_metadata(None, std::time::Duration::from_secs(30)).unwrap();
    let partitions = |name: &str| metadata.topics().iter().find(|t| t.name() == name).map(|t| t.partitions().len());
    let changelog = connection.topics.changelog(Stage::Intake);
    assert_eq!([partitions("theirs.login-events"), partitions(&changelog)], [Some(3), Some(3)]);
}

#[test]
fn partitions_grow_where_no_key_loses_its_place() {
    let mut connection = connection_with_topics(shared().bootstrap(), "grown");
    let text = include_str!("../../topology/topics.yaml");
    let text = text.replace("- name: verdicts\n    partitions: 8", "- name: verdicts\n    partitions: 9");
    connection.topics = Topics::parse(&text, "portcullis", "grown.", Some(4)).unwrap();
    let (ending, told) = told(APPLY, &connection);
    assert_eq!(ending, Ending::Different, "{told}");
    assert!(told.contains("done: ~ grown.verdicts: 8 partitions, should be 9\n"), "{told}");
    let by_hand =
        told.lines().filter(|line| line.starts_with("! ") && line.contains("set stage_partitions to 8")).count();
    // Three stages behind intake, each with its input and its memory.
    assert_eq!(by_hand, 6, "{told}");
    assert!(told.ends_with("6 to settle by hand.\n"), "{told}");
}

#[test]
fn a_refusal_says_what_to_do() {
    let connection = connection(shared().bootstrap(), "refused");
    let apply = TopicsCommand::Apply(ApplyArgs { replication_factor: Some(3), output: Output::Json });
    let (ending, text) = told(apply, &connection);
    assert_eq!(ending, Ending::Different);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["is_right"], false);
    let errors: Vec<&str> = answer["done"].as_array().unwrap().iter().map(|d| d["error"].as_str().unwrap()).collect();
    assert_eq!(errors.len(), connection.topics.all().len());
    assert!(errors.iter().all(|e| e.contains("say --replication-factor")), "{errors:?}");
}

#[test]
fn a_setting_that_the_cluster_refuses_is_told_in_its_words() {
    let mut connection = connection_with_topics(shared().bootstrap(), "illegal");
    let text = include_str!("../../topology/topics.yaml");
    let text = text.replacen("min.cleanable.dirty.ratio: \"0.2\"", "min.cleanable.dirty.ratio: \"7\"", 1);
    connection.topics = Topics::parse(&text, "portcullis", "illegal.", None).unwrap();
    let (ending, told) = told(APPLY, &connection);
    assert_eq!(ending, Ending::Different, "{told}");
    assert!(
        told.starts_with("refused: ~ illegal.blocklist: min.cleanable.dirty.ratio is 0.2, should be 7: "),
        "{told}"
    );
    assert!(told.contains("Invalid value 7"), "{told}");
}

#[test]
fn acls_are_printed_without_a_cluster() {
    let connection = connection("127.0.0.1:1", "acls");
    let args = |role, output| TopicsCommand::Acls(AclsArgs { role, principal: None, group: None, output });
    let (_, text) = told(args(Some(RoleArg::Publisher), Output::Text), &connection);
    assert_eq!(
        text,
        "# publisher: login events\nkafka-acls.sh --bootstrap-server 127.0.0.1:1 --add --allow-principal \
         User:portcullis-publisher --operation Write --topic acls.login-events\n"
    );
    let (_, text) = told(args(None, Output::Json), &connection);
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 7 + 3 + 3 + 2 + 1 + 2 + 5 + 1, "{text}");
}
