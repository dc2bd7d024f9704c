//! A real Apache Kafka: one KRaft node that is broker and controller, started from the jars that `make setup` fetched.
//!
//! [`shared`] is one broker for the whole test binary; a test gives its topics, groups and transactional ids names of
//! their own. A test that stops or restarts brokers takes one for itself with [`Kafka::start`].

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::kept::{EndBy, Kept, folder};
use super::{free_ports, until};

/// A broker needs about 3 s on an idle machine; two cores that compile C++ beside it need many more.
pub(super) const START_MAX: Duration = Duration::from_secs(120);
const ATTEMPTS_MAX: usize = 3;

/// The broker of the whole test binary.
pub fn shared() -> &'static Kafka {
    static SHARED: OnceLock<Result<Kafka, String>> = OnceLock::new();
    match SHARED.get_or_init(Kafka::try_start) {
        Ok(kafka) => kafka,
        Err(error) => panic!("{error}"),
    }
}

#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    guarded: String,
    _server: Kept,
}

impl Kafka {
    /// A broker of one's own; it ends when the value is dropped.
    pub fn start() -> Kafka {
        Kafka::try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A broker of one's own that allows everything at [`bootstrap`](Self::bootstrap), and at
    /// [`guarded`](Self::guarded) what ACLs allow to these users: SASL PLAIN, the password is `<user>-password`.
    pub fn start_guarded(users: &[&str]) -> Kafka {
        Kafka::try_start_with(users, &[]).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A broker of one's own with other levels of its features than it comes with: `group.version=0`.
    pub fn start_with_features(features: &[&str]) -> Kafka {
        Kafka::try_start_with(&[], features).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `host:port`, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The same for users with a password.
    pub fn guarded(&self) -> &str {
        &self.guarded
    }

    fn try_start() -> Result<Kafka, String> {
        Kafka::try_start_with(&[], &[])
    }

    fn try_start_with(users: &[&str], features: &[&str]) -> Result<Kafka, String> {
        let libs = libs()?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            match Kafka::try_start_once(&libs, users, features) {
                Ok(kafka) => return Ok(kafka),
                // Somebody took the port between our asking and the broker's binding.
                Err(error) if error.contains("Address already in use") => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Nothing is deleted for its age: tests write records with the times of 2019.
    fn try_start_once(libs: &str, users: &[&str], features: &[&str]) -> Result<Kafka, String> {
        let [port, controller_port, guarded_port] = free_ports();
        let folder = folder("portcullis-kafka-");
        let (data, properties, log4j) =
            (folder.join("data"), folder.join("server.properties"), folder.join("log4j2.properties"));
        let text = server_properties(port, controller_port, &data);
        // Of a property that stands there twice, the last one holds.
        let guard = if users.is_empty() { String::new() } else { guard(port, guarded_port, controller_port, users) };
        write(&properties, &format!("{text}{guard}"));
        write(&log4j, LOG4J);
        // Two Java programs in one command, so that one keeper holds both.
        let script = r#"
libs=$1 folder=$2
shift 2
java -Xmx256m "-Dlog4j2.configurationFile=$folder/log4j2.properties" -cp "$libs/*" kafka.tools.StorageTool \
    format --cluster-id=portcullis-tests-00000 --config "$folder/server.properties" "$@" || exit 1
exec java -Xmx512m "-Dlog4j2.configurationFile=$folder/log4j2.properties" -cp "$libs/*" kafka.Kafka "$folder/server.properties"
"#;
        let path = folder.display().to_string();
        let features: Vec<&str> = features.iter().flat_map(|feature| ["--feature", feature]).collect();
        let mut server =
            Kept::start(folder, EndBy::Kill, [&["sh", "-c", script, "kafka", libs, &path], &features[..]].concat());
        let bootstrap = format!("127.0.0.1:{port}");
        let give_up = Instant::now() + START_MAX;
        let why = until(START_MAX * 2, "Kafka to start or to fail", || {
            if answers(&bootstrap) {
                Some(None)
            } else if server.has_ended() {
                Some(Some("ended while starting".to_owned()))
            } else {
                (Instant::now() > give_up).then(|| Some(format!("did not answer within {START_MAX:?}")))
            }
        });
        if let Some(why) = why {
            return Err(format!("Kafka {why}; the end of its log:\n{}", server.last_words()));
        }
        Ok(Kafka { bootstrap, guarded: format!("127.0.0.1:{guarded_port}"), _server: server })
    }
}

/// Of every broker here.
pub(super) fn server_properties(port: u16, controller_port: u16, data: &std::path::Path) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.backoff.ms=500
log.retention.ms=-1
",
        data.display()
    )
}

/// A second listener, at which users have names and an authorizer asks what they may do.
fn guard(port: u16, guarded_port: u16, controller_port: u16, users: &[&str]) -> String {
    let users: Vec<String> = users.iter().map(|user| format!("user_{user}=\"{user}-password\"")).collect();
    format!(
        "listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded_port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded_port}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT
listener.name.guarded.sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
",
        users.join(" ")
    )
}

/// Whether the broker serves metadata and knows itself; listening alone comes earlier than that.
pub(super) fn answers(bootstrap: &str) -> bool {
    let address = bootstrap.parse().expect("an address");
    if std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        return false;
    }
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        // Its complaints about a broker that is still starting are no news.
        .set("log_level", "0")
        .create()
        .expect("a consumer");
    consumer.fetch_metadata(None, Duration::from_secs(2)).is_ok_and(|metadata| !metadata.brokers().is_empty())
}

/// The folder of the jars.
pub(super) fn libs() -> Result<String, String> {
    let named = std::env::var("PORTCULLIS_KAFKA_LIBS").ok().filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = || {
        let named = std::env::var("PORTCULLIS_CACHE").ok().filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = || PathBuf::from(std::env::var("HOME").unwrap_or_default()).join(".cache/portcullis");
        named.unwrap_or_else(home).join(format!("kafka-{}/libs", version()))
    };
    let libs = named.unwrap_or_else(cache);
    if libs.is_dir() {
        Ok(libs.display().to_string())
    } else {
        Err(format!(
            "the jars of Apache Kafka are not in {}: run `make setup`, or name their folder in PORTCULLIS_KAFKA_LIBS",
            libs.display()
        ))
    }
}

/// The version stands in the pom and nowhere else.
fn version() -> &'static str {
    let (_, rest) = include_str!("../../kafka/pom.xml").split_once("<kafka.version>").expect("a version in pom.xml");
    rest.split('<').next().unwrap_or_default()
}

pub(super) fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

pub(super) const LOG4J: &str = "rootLogger.level = INFO
rootLogger.appenderRef.out.ref = OUT
appender.out.type = Console
appender.out.name = OUT
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %m (%c{1})%n
";

mod the_broker {
    use super::*;

    #[test]
    fn is_one_for_all_and_answers() {
        assert!(answers(shared().bootstrap()));
        assert_eq!(shared().bootstrap(), shared().bootstrap());
    }

    #[test]
    fn of_ones_own_is_another_and_ends_when_dropped() {
        let own = Kafka::start();
        let address = own.bootstrap().to_owned();
        assert_ne!(address, shared().bootstrap());
        assert!(answers(&address));
        drop(own);
        assert!(!answers(&address));
    }
}
