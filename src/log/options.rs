//! What a loop's clients are told: who they are in the group, and the properties of consumer, producer and restorer.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use super::Error;
use super::client::ClientOptions;

/// How long librdkafka waits before it sends a request again, give or take a fifth.
const RETRY_MS: &str = "200";
/// How long the coordinator keeps a transaction of a producer that is gone.
const TRANSACTION_MS: &str = "10000";

/// What one loop's log needs to know.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    pub client: ClientOptions,
    /// The consumer group: the application id.
    pub group: String,
    /// Stays the same over restarts of one thread of one instance.
    pub member: String,
    pub topics: Vec<String>,
    /// Changelog topics: the ends of what was written to them are told by a commit.
    pub changelogs: BTreeSet<String>,
    pub membership: Membership,
    /// Whether the cluster aborts transactions. Where it does not, what should be aborted ends the loop instead.
    pub may_abort: bool,
}

/// How a loop is a member of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    pub protocol: GroupProtocol,
    /// The member is the same one after a restart: its tasks wait for it for a session, and nobody else's move. Without
    /// it a stop leaves the group at once and a start joins it anew.
    pub is_static: bool,
}

/// Who decides which member gets which partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// One of the members does, and all wait for each other. A member that is silent for a session is out.
    Classic { session_timeout: Duration },
    /// The broker does (KIP-848), member by member; the length of a session is the broker's as well.
    Consumer,
}

/// Between two heartbeats of a classic member: a tenth of its session, within these limits. Members learn from the answers
/// that partitions are to move, and the partitions stand still until the last member has learnt it.
const HEARTBEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

pub(super) fn consumer_config(options: &KafkaOptions) -> Result<ClientConfig, Error> {
    let mut defaults = vec![
        ("max.poll.interval.ms", "300000"),
        ("fetch.wait.max.ms", "50"),
        ("fetch.queue.backoff.ms", "10"),
        ("fetch.message.max.bytes", "1048576"),
        ("queued.min.messages", "10000"),
        ("queued.max.messages.kbytes", "4096"),
    ];
    let mut fixed = vec![
        ("group.id", options.group.as_str()),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
    ];
    let (session, heartbeat);
    match options.membership.protocol {
        GroupProtocol::Classic { session_timeout } => {
            let (least, most) = HEARTBEAT;
            session = session_timeout.as_millis().to_string();
            heartbeat = (session_timeout / 10).clamp(least, most).as_millis().to_string();
            defaults.extend([("session.timeout.ms", session.as_str()), ("heartbeat.interval.ms", heartbeat.as_str())]);
            fixed.extend([("group.protocol", "classic"), ("partition.assignment.strategy", "cooperative-sticky")]);
        }
        // Sessions and heartbeats are the broker's; the client refuses to be told.
        GroupProtocol::Consumer => {
            fixed.extend([("group.protocol", "consumer"), ("group.remote.assignor", "uniform")]);
        }
    }
    let mut config = options.client.config(&defaults, &fixed)?;
    if options.membership.is_static {
        config.set("group.instance.id", &options.member);
    }
    Ok(config)
}

pub(super) fn producer_config(options: &KafkaOptions) -> Result<ClientConfig, Error> {
    options.client.config(
        &[
            ("linger.ms", "5"),
            ("batch.size", "1000000"),
            ("batch.num.messages", "10000"),
            ("compression.codec", "lz4"),
            ("queue.buffering.max.messages", "500000"),
            ("queue.buffering.max.kbytes", "262144"),
            ("retry.backoff.ms", RETRY_MS),
            ("transaction.timeout.ms", TRANSACTION_MS),
        ],
        &[("transactional.id", &options.member), ("partitioner", "murmur2_random")],
    )
}

/// No member of any group: partitions are assigned by hand and nothing is committed.
pub(super) fn restore_config(options: &KafkaOptions, isolation: &str) -> Result<ClientConfig, Error> {
    let group = format!("{}-restore", options.group);
    options.client.config(
        &[
            ("fetch.queue.backoff.ms", "10"),
            ("fetch.message.max.bytes", "4194304"),
            ("queued.max.messages.kbytes", "65536"),
        ],
        &[
            ("group.id", &group),
            ("isolation.level", isolation),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
        ],
    )
}
