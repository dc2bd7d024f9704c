//! The calls to a cluster: what it has, and what is to be made or changed.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
    TopicResult,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::difference::{Cluster, Difference, Fix, FoundTopic, What, compare};
use crate::log::client::{Traced, create};
use crate::log::{ClientOptions, Error, ffi};
use crate::topology::Topics;

/// How long the cluster may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// After an application: how often it is looked whether every broker that is asked shows it, and how long between.
const LOOKS_MAX: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A connection to a cluster, for its topics.
pub struct ClusterAdmin {
    client: AdminClient<Traced>,
    runtime: Runtime,
    bootstrap: String,
}

/// One difference that was to be settled, and how that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    #[serde(flatten)]
    pub difference: Difference,
    /// Why the cluster refused; `None` when it did as told.
    pub error: Option<String>,
}

impl std::fmt::Debug for ClusterAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterAdmin").field("bootstrap", &self.bootstrap).finish_non_exhaustive()
    }
}

impl ClusterAdmin {
    /// A connection; the cluster is not asked yet.
    ///
    /// # Errors
    /// [`Error::Setup`]: librdkafka refuses a property.
    pub fn new(client: &ClientOptions) -> Result<Self, Error> {
        let config = client.config(&[], &[("allow.auto.create.topics", "false")])?;
        let runtime = Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|e| Error::Kafka(format!("no executor for the calls to the cluster: {e}")))?;
        Ok(ClusterAdmin { client: create(&config, Traced)?, runtime, bootstrap: client.bootstrap.clone() })
    }

    /// What of these topics the cluster lacks or has otherwise.
    ///
    /// # Errors
    /// [`Error::Kafka`]: the cluster does not answer, or does not let this user ask.
    pub fn plan(&self, topics: &Topics) -> Result<Vec<Difference>, Error> {
        Ok(compare(topics, &self.read(topics)?))
    }

    /// Settles what [`Fix::Apply`] says of the plan, and waits until the cluster shows it. `replication` is that of new
    /// topics; `None`: the broker's default. Gives what was done, and what remains.
    ///
    /// # Errors
    /// [`Error::Kafka`]: the cluster does not answer. A refusal of one change is no error: it stands in its [`Done`].
    pub fn apply(&self, topics: &Topics, replication: Option<i32>) -> Result<(Vec<Done>, Vec<Difference>), Error> {
        let to_do = self.plan(topics)?.into_iter().filter(|difference| difference.fix == Fix::Apply);
        let mut done = Vec::new();
        for difference in to_do {
            let error = self.settle(&difference, replication)?;
            done.push(Done { difference, error });
        }
        let expected = done.iter().filter(|done| done.error.is_some()).count();
        for _ in 0..LOOKS_MAX {
            // A broker that has not heard of a new topic yet gives no settings.
            if let Ok(left) = self.plan(topics)
                && left.iter().filter(|d| d.fix == Fix::Apply).count() <= expected
            {
                return Ok((done, left));
            }
            self.runtime.block_on(async { tokio::time::sleep(BETWEEN_LOOKS).await });
        }
        Ok((done, self.plan(topics)?))
    }

    /// The topics of the cluster: all names and partitions, and the settings of those that should exist.
    ///
    /// # Errors
    /// [`Error::Kafka`]: the cluster does not answer, or does not let this user ask.
    pub fn read(&self, topics: &Topics) -> Result<Cluster, Error> {
        // Asking for all topics makes none; asking for one by its name could.
        let metadata = self.client.inner().fetch_metadata(None, ANSWER_MAX).map_err(|e| self.silent(&e))?;
        let mut cluster: Cluster = metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
            .map(|topic| {
                let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
                (topic.name().to_owned(), FoundTopic { partitions, settings: BTreeMap::new() })
            })
            .collect();
        let specs = topics.all();
        let there: Vec<&str> = specs.iter().map(|s| s.name.as_str()).filter(|n| cluster.contains_key(*n)).collect();
        if there.is_empty() {
            return Ok(cluster);
        }
        let asked: Vec<ResourceSpecifier<'_>> = there.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let answers = self.wait(self.client.describe_configs(&asked, &options())).map_err(|e| self.silent(&e))?;
        for answer in answers {
            let resource = answer.map_err(|code| Error::Kafka(told(code, &code.to_string())))?;
            let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
            // The wrapper passes a refusal on as a topic without settings, and every topic has many.
            if resource.entries.is_empty() {
                let code = RDKafkaErrorCode::TopicAuthorizationFailed;
                let why = told(code, "this user may not see them, or it is being deleted");
                return Err(Error::Kafka(format!("the settings of {name}: {why}")));
            }
            if let Some(found) = cluster.get_mut(name) {
                let settings = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                found.settings = settings.collect();
            }
        }
        Ok(cluster)
    }

    /// The cluster's refusal, if it refuses.
    fn settle(&self, difference: &Difference, replication: Option<i32>) -> Result<Option<String>, Error> {
        let name = difference.topic.as_str();
        let refused = match &difference.what {
            What::Missing { partitions, settings } => {
                let mut topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(replication.unwrap_or(-1)));
                for (setting, value) in settings {
                    topic = topic.set(setting, value);
                }
                self.refusal(self.client.create_topics([&topic], &options()))?
                    // Somebody else made it in the meantime; the plan that follows shows whether as it should be.
                    .filter(|code| *code != RDKafkaErrorCode::TopicAlreadyExists)
            }
            What::Partitions { wanted, .. } => {
                let wanted = NewPartitions::new(name, usize::try_from(*wanted).unwrap_or_default());
                self.refusal(self.client.create_partitions([&wanted], &options()))?
            }
            What::Settings(changes) => {
                let settings: Vec<(&str, &str)> =
                    changes.iter().map(|change| (change.name.as_str(), change.wanted.as_str())).collect();
                let set = ffi::set_topic_settings(self.client.inner(), name, &settings, ANSWER_MAX);
                return Ok(set.err().map(|(code, why)| told(code, &why)));
            }
            What::Unexpected { .. } => None,
        };
        Ok(refused.map(|code| told(code, &code.to_string())))
    }

    fn refusal(
        &self,
        answer: impl Future<Output = KafkaResult<Vec<TopicResult>>>,
    ) -> Result<Option<RDKafkaErrorCode>, Error> {
        let results = self.wait(answer).map_err(|e| self.silent(&e))?;
        Ok(results.into_iter().find_map(Result::err).map(|(_, code)| code))
    }

    fn silent(&self, error: &KafkaError) -> Error {
        Error::Kafka(format!("the cluster at {} does not answer: {error}", self.bootstrap))
    }

    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

/// A refusal with what to do about it.
fn told(code: RDKafkaErrorCode, why: &str) -> String {
    let hint = if code == RDKafkaErrorCode::InvalidReplicationFactor {
        "; the cluster has fewer brokers than that: say --replication-factor"
    } else if [RDKafkaErrorCode::TopicAuthorizationFailed, RDKafkaErrorCode::ClusterAuthorizationFailed].contains(&code)
    {
        "; `portcullis topics acls --role admin` lists what this user needs"
    } else {
        ""
    };
    format!("{why}{hint}")
}
