//! How every client of the cluster is set up: where the cluster is, what librdkafka is told, and where its own lines go.
//!
//! Properties of the user pass through to librdkafka by its names. What a client's correctness rests on (`fixed`) cannot
//! be changed by them; what is only a good value (`defaults`) can.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};

use super::{Error, Incoming, Part, ffi};

/// How long a cluster may take for one answer outside of the stage loop.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Where the cluster is and what its clients are told, for every client of a process.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// Further properties, by librdkafka's names; passwords among them.
    pub properties: BTreeMap<String, String>,
}

impl ClientOptions {
    /// A cluster without further properties.
    #[must_use]
    pub fn new(bootstrap: &str) -> Self {
        ClientOptions { bootstrap: bootstrap.to_owned(), properties: BTreeMap::new() }
    }

    /// The configuration of one client: `defaults`, then the user's properties, then `fixed`.
    ///
    /// # Errors
    /// [`Error::Setup`] that names a property which is fixed and which the user set to something else.
    pub fn config(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::new();
        config.set("client.id", "portcullis");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        let address = ("bootstrap.servers", self.bootstrap.as_str());
        for (name, value) in fixed.iter().chain([&address]) {
            if self.properties.get(*name).is_some_and(|set| set != value) {
                return Err(Error::Setup(format!(
                    "the Kafka property `{name}` is set by Portcullis; take it out of the properties"
                )));
            }
            config.set(*name, *value);
        }
        // Which of its lines are shown is decided by the filter of `tracing`; asked for by `debug`, they are all made.
        let is_verbose = self.properties.contains_key("debug");
        config.set_log_level(if is_verbose { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        Ok(config)
    }
}

impl fmt::Debug for ClientOptions {
    /// Names of properties only: a value may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("ClientOptions").field("bootstrap", &self.bootstrap).field("properties", &names).finish()
    }
}

/// Creates a client.
///
/// # Errors
/// [`Error::Setup`] that names the property which librdkafka refuses, without its value.
pub fn create<T, C>(config: &ClientConfig, context: C) -> Result<T, Error>
where
    C: ClientContext,
    T: FromClientConfigAndContext<C>,
{
    config.create_with_context(context).map_err(|e| {
        if let KafkaError::ClientConfig(_, why, name, value) = e {
            // librdkafka repeats the value in some of its texts.
            let why = if value.is_empty() { why } else { why.replace(&value, "…") };
            return Error::Setup(format!(
                "librdkafka refuses the Kafka property `{name}`: {why}; its CONFIGURATION.md has the names and values"
            ));
        }
        Error::Setup(format!("librdkafka refuses the Kafka properties: {e}"))
    })
}

/// A context that sends librdkafka's own lines and errors to `tracing`, and wants nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traced;

impl ClientContext for Traced {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        trace_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        trace_error(&error, reason);
    }
}

impl ConsumerContext for Traced {}

/// One of librdkafka's lines, for contexts that need more than [`Traced`].
pub fn trace_line(level: RDKafkaLogLevel, facility: &str, line: &str) {
    // One set of properties serves consumers and producers, and each complains of those that are meant for the other.
    if facility == "CONFWARN" {
        tracing::debug!(target: "librdkafka", facility, "{line}");
        return;
    }
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{line}");
        }
        // A broker that is away is an error to it; the client goes on by itself.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Notice => tracing::info!(target: "librdkafka", facility, "{line}"),
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

/// One of librdkafka's errors, for contexts that need more than [`Traced`].
pub fn trace_error(error: &KafkaError, reason: &str) {
    // Thousands at a time, and beside each broker's own.
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
        return;
    }
    tracing::warn!(target: "librdkafka", %error, reason, "client error");
}

/// Partitions of a topic, which is not made by asking for it as long as `allow.auto.create.topics` is false.
///
/// # Errors
/// [`Error::Setup`] with what to do: it does not exist, or this user may not see it. [`Error::Kafka`]: no answer.
pub(super) fn partitions<C: ClientContext>(client: &Client<C>, topic: &str, limit: Duration) -> Result<i32, Error> {
    let metadata = client.fetch_metadata(Some(topic), limit);
    let metadata =
        metadata.map_err(|e| Error::Kafka(format!("the cluster does not answer; is bootstrap right? {e}")))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map(|found| (found.error(), found)) {
        Some((None, found)) => Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
        Some((Some(Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED), _)) => Err(Error::Setup(format!(
            "this user may not use the topic `{topic}`; `portcullis topics acls` lists what each role needs"
        ))),
        Some((Some(Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), _)) | None => {
            Err(Error::Setup(format!("the topic `{topic}` does not exist; make it with `portcullis topics apply`")))
        }
        Some((Some(code), _)) => {
            Err(Error::Kafka(format!("the topic `{topic}` cannot be used: {}", RDKafkaErrorCode::from(code))))
        }
    }
}

/// Names of topics, so that the records of one share one text. As many as were subscribed to.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<Arc<str>>);

impl Names {
    pub(super) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| ***known == *name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.push(Arc::clone(&new));
        new
    }
}

/// A record as a value of its own, so that librdkafka's buffer can go.
pub(super) fn incoming(message: &BorrowedMessage<'_>, names: &mut Names) -> Incoming {
    Incoming {
        part: Part { topic: names.get(message.topic()), partition: message.partition() },
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: ffi::headers(message),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn options(properties: &[(&str, &str)]) -> ClientOptions {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ClientOptions { bootstrap: "127.0.0.1:1".to_owned(), properties }
    }

    fn refusal(properties: &[(&str, &str)]) -> String {
        let config = options(properties).config(&[("group.id", "g")], &[("isolation.level", "read_committed")]);
        match config.and_then(|config| create::<BaseConsumer<Traced>, _>(&config, Traced)) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn properties_stand_above_defaults_and_below_what_is_fixed() {
        let config = options(&[("linger.ms", "7"), ("client.id", "mine")]);
        let config = config.config(&[("linger.ms", "5"), ("acks", "1")], &[("acks", "all")]).unwrap();
        let seen = ["linger.ms", "client.id", "acks", "bootstrap.servers"].map(|name| config.get(name));
        assert_eq!(seen, [Some("7"), Some("mine"), Some("all"), Some("127.0.0.1:1")]);
    }

    #[test]
    fn what_librdkafka_refuses_is_named_and_its_value_is_not() {
        assert_eq!(refusal(&[("isolation.level", "read_committed")]), "");
        for (property, expected) in [
            (("no.such.property", "secret"), "`no.such.property`"),
            (("fetch.wait.max.ms", "secret"), "`fetch.wait.max.ms`"),
            (("sasl.jaas.config", "secret"), "`sasl.jaas.config`"),
            (("isolation.level", "read_uncommitted"), "`isolation.level` is set by Portcullis"),
            (("bootstrap.servers", "secret:1"), "`bootstrap.servers` is set by Portcullis"),
        ] {
            let seen = refusal(&[property]);
            assert!(seen.contains(expected) && !seen.contains("secret"), "{seen}");
        }
    }

    #[test]
    fn debug_output_holds_no_value_of_a_property() {
        let text = format!("{:?}", options(&[("sasl.password", "hunter2")]));
        assert!(text.contains("sasl.password") && !text.contains("hunter2"), "{text}");
    }
}
