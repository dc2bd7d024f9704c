//! What each kind of client may do at least, as Kafka's own ACLs. Pure.
//!
//! READ and WRITE imply DESCRIBE at the broker, so it is not listed beside them. An idempotent producer needs nothing
//! more than WRITE on its topic.

use std::fmt;

use serde::Serialize;

use crate::log::follow::FOLLOW_GROUP;
use crate::log::outbox::OUTPUTS;
use crate::topology::{Stage, Topics};

/// A kind of client. Each should have a user of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `portcullis run`.
    Run,
    /// `portcullis sink …`.
    Sink,
    /// `portcullis edge`.
    Edge,
    /// `portcullis notify`.
    Notify,
    /// A service that publishes login events, `portcullis ingest` and `portcullis produce`.
    Publisher,
    /// A service that reads verdicts, blocklist or attack status.
    Subscriber,
    /// `portcullis playbooks set | remove | list` and `portcullis explain`.
    Operator,
    /// `portcullis topics plan | apply | check`.
    Admin,
}

impl Role {
    pub const ALL: [Role; 8] = [
        Role::Run,
        Role::Sink,
        Role::Edge,
        Role::Notify,
        Role::Publisher,
        Role::Subscriber,
        Role::Operator,
        Role::Admin,
    ];

    /// The name in the option `--role`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Run => "run",
            Role::Sink => "sink",
            Role::Edge => "edge",
            Role::Notify => "notify",
            Role::Publisher => "publisher",
            Role::Subscriber => "subscriber",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Resource {
    Topic,
    Group,
    #[serde(rename = "TRANSACTIONAL_ID")]
    TransactionalId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Pattern {
    Literal,
    /// Every name that starts so.
    Prefixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Operation {
    Read,
    Write,
    Create,
    Alter,
    Describe,
    AlterConfigs,
    DescribeConfigs,
}

/// What one role may do to some resources of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acl {
    pub role: Role,
    pub resource: Resource,
    pub pattern: Pattern,
    pub names: Vec<String>,
    pub operations: Vec<Operation>,
    /// What for.
    pub why: &'static str,
}

/// The ACLs of one role. `group` is the consumer group of a subscriber; without it, groups that start with
/// `<prefix>subscriber-`.
#[must_use]
pub fn acls(topics: &Topics, role: Role, group: Option<&str>) -> Vec<Acl> {
    use Operation::{Alter, AlterConfigs, Create, Describe, DescribeConfigs, Read, Write};
    let public = |names: &[&str]| names.iter().map(|name| topics.public(name)).collect::<Vec<_>>();
    let on = |resource, pattern, names: Vec<String>, operations: &[Operation], why| Acl {
        role,
        resource,
        pattern,
        names,
        operations: operations.to_vec(),
        why,
    };
    let topic = |names, operations: &[Operation], why| on(Resource::Topic, Pattern::Literal, names, operations, why);
    let follow_group = on(
        Resource::Group,
        Pattern::Literal,
        vec![FOLLOW_GROUP.to_owned()],
        &[Describe],
        "never joined; the client library asks who coordinates it",
    );
    match role {
        Role::Run => {
            let stages = Stage::ALL.into_iter();
            let inputs = stages.clone().filter(|stage| *stage != Stage::Intake).map(|stage| topics.input(stage));
            let internal = inputs.chain(stages.map(|stage| topics.changelog(stage))).collect();
            let mut read = vec![topics.input(Stage::Intake)];
            read.extend(topics.control());
            vec![
                topic(read, &[Read], "login events, and control"),
                topic(internal, &[Read, Write], "between the stages, and their memory"),
                topic(public(&OUTPUTS), &[Write], "what comes out"),
                topic(public(&["receipts"]), &[Describe], "the sinks' own; whether it is there"),
                on(Resource::Group, Pattern::Literal, vec![topics.group()], &[Read], "the group of the stages"),
                on(
                    Resource::Group,
                    Pattern::Literal,
                    vec![format!("{}-restore", topics.group())],
                    &[Describe],
                    "never joined; whoever restores gives it as its name",
                ),
                on(
                    Resource::TransactionalId,
                    Pattern::Prefixed,
                    vec![topics.transactional_prefix()],
                    &[Write],
                    "one transaction per commit; one id per thread and instance",
                ),
            ]
        }
        Role::Sink => {
            vec![
                topic(public(&["blocklist", "exemptions"]), &[Read], "whom to block, and whom never"),
                topic(public(&["receipts"]), &[Write], "what became of it at the edge"),
                follow_group,
            ]
        }
        Role::Edge => {
            let followed = public(&["blocklist", "exemptions", "attack-status", "known-pairs"]);
            vec![
                topic(followed, &[Read], "what questions are answered from"),
                topic(public(&["login-events"]), &[Write], "what is denied, with --report-stops"),
                follow_group,
            ]
        }
        Role::Notify => vec![topic(public(&["incidents"]), &[Read], "what people are told of"), follow_group],
        Role::Publisher => vec![topic(public(&["login-events"]), &[Write], "login events")],
        Role::Subscriber => {
            let topics_read = public(&[
                "verdicts", "blocklist", "attack-status", "incidents", "incident-details", "activity", "receipts",
            ]);
            let (pattern, name) = match group {
                Some(group) => (Pattern::Literal, group.to_owned()),
                None => (Pattern::Prefixed, format!("{}subscriber-", topics.prefix())),
            };
            vec![
                topic(topics_read, &[Read], "what Portcullis publishes"),
                on(Resource::Group, pattern, vec![name], &[Read], "the subscriber's own group"),
            ]
        }
        Role::Operator => {
            let asked = public(&[
                "blocklist", "exemptions", "verdicts", "receipts", "attack-status", "incidents", "incident-details",
                "activity",
            ]);
            vec![
                topic(public(&["playbooks"]), &[Read, Write], "playbooks, while the job runs"),
                topic(
                    public(&["commands", "exemptions"]),
                    &[Write],
                    "portcullis block, unblock, allow, watch, kill-switch",
                ),
                topic(asked, &[Read], "portcullis explain, incident, console"),
                follow_group,
            ]
        }
        Role::Admin => {
            let all = topics.all().into_iter().map(|spec| spec.name).collect();
            let operations = [Create, Alter, Describe, AlterConfigs, DescribeConfigs];
            vec![topic(all, &operations, "to compare, make and change topics")]
        }
    }
}

/// The same as commands of Kafka's own tool, one a line, with what each is for.
#[must_use]
pub fn commands(acls: &[Acl], principal: &str, bootstrap: &str) -> Vec<String> {
    acls.iter().map(|acl| command(acl, principal, bootstrap)).collect()
}

fn command(acl: &Acl, principal: &str, bootstrap: &str) -> String {
    let mut words = vec!["kafka-acls.sh".to_owned(), "--bootstrap-server".to_owned(), shell_word(bootstrap)];
    words.extend(["--add", "--allow-principal"].map(str::to_owned));
    words.push(shell_word(principal));
    for operation in &acl.operations {
        words.extend(["--operation".to_owned(), operation.tool_name().to_owned()]);
    }
    if acl.pattern == Pattern::Prefixed {
        words.extend(["--resource-pattern-type", "prefixed"].map(str::to_owned));
    }
    for name in &acl.names {
        words.extend([acl.resource.tool_flag().to_owned(), shell_word(name)]);
    }
    format!("# {}: {}\n{}", acl.role, acl.why, words.join(" "))
}

impl Resource {
    const fn tool_flag(self) -> &'static str {
        match self {
            Resource::Topic => "--topic",
            Resource::Group => "--group",
            Resource::TransactionalId => "--transactional-id",
        }
    }
}

impl Operation {
    const fn tool_name(self) -> &'static str {
        match self {
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Create => "Create",
            Operation::Alter => "Alter",
            Operation::Describe => "Describe",
            Operation::AlterConfigs => "AlterConfigs",
            Operation::DescribeConfigs => "DescribeConfigs",
        }
    }
}

/// A word that a shell takes as it is.
fn shell_word(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:/,=@+".contains(&b);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        Topics::parse(include_str!("../../../topology/topics.yaml"), "portcullis", "p.", None).unwrap()
    }

    fn text(role: Role, group: Option<&str>) -> String {
        commands(&acls(&topics(), role, group), "User:CN=one, O=two", "kafka:9092").join("\n")
    }

    #[test]
    fn a_sink_may_read_two_topics_write_one_and_no_more() {
        assert_eq!(
            text(Role::Sink, None),
            "# sink: whom to block, and whom never\n\
             kafka-acls.sh --bootstrap-server kafka:9092 --add --allow-principal 'User:CN=one, O=two' --operation Read \
             --topic p.blocklist --topic p.exemptions\n\
             # sink: what became of it at the edge\n\
             kafka-acls.sh --bootstrap-server kafka:9092 --add --allow-principal 'User:CN=one, O=two' --operation Write \
             --topic p.receipts\n\
             # sink: never joined; the client library asks who coordinates it\n\
             kafka-acls.sh --bootstrap-server kafka:9092 --add --allow-principal 'User:CN=one, O=two' \
             --operation Describe --group portcullis-follow"
        );
    }

    #[test]
    fn run_covers_every_topic_of_the_topology() {
        let topics = topics();
        let acls = acls(&topics, Role::Run, None);
        for spec in topics.all() {
            assert!(acls.iter().any(|acl| acl.names.contains(&spec.name)), "{}", spec.name);
        }
        let text = text(Role::Run, None);
        assert!(text.contains("--operation Read --group p.portcullis\n"), "{text}");
        assert!(
            text.ends_with("--operation Write --resource-pattern-type prefixed --transactional-id p.portcullis-"),
            "{text}"
        );
        for never in ["Create", "Alter", "Delete"] {
            assert!(!text.contains(never), "{text}");
        }
    }

    #[test]
    fn a_subscriber_has_its_own_group() {
        assert!(text(Role::Subscriber, None).ends_with("--resource-pattern-type prefixed --group p.subscriber-"));
        assert!(text(Role::Subscriber, Some("login-page")).ends_with("--operation Read --group login-page"));
        assert!(!text(Role::Subscriber, None).contains("login-events"));
    }

    #[test]
    fn an_acl_as_json() {
        assert_eq!(
            serde_json::to_string(&acls(&topics(), Role::Publisher, None)).unwrap(),
            r#"[{"role":"publisher","resource":"TOPIC","pattern":"LITERAL","names":["p.login-events"],"operations":["WRITE"],"why":"login events"}]"#
        );
    }

    #[test]
    fn words_are_safe_in_a_shell() {
        for (word, expected) in
            [("a-b.c", "a-b.c"), ("", "''"), ("a b", "'a b'"), ("a'b", r"'a'\''b'"), ("$(x)", "'$(x)'")]
        {
            assert_eq!(shell_word(word), expected);
        }
    }
}
