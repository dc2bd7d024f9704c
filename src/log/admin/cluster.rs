//! The calls to a cluster: what it has, and what is to be made or changed.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::difference::{Cluster, Difference, Fix, FoundSetting, FoundTopic, What, compare};
use crate::log::client::{Traced, create};
use crate::log::{ClientOptions, Error};
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
        let before = self.read(topics)?;
        let to_do: Vec<Difference> = compare(topics, &before).into_iter().filter(|d| d.fix == Fix::Apply).collect();
        let mut done = Vec::with_capacity(to_do.len());
        for difference in to_do {
            let found = before.get(&difference.topic);
            let error = self.settle(&difference, found, replication)?;
            done.push(Done { difference, error });
        }
        let expected = done.iter().filter(|done| done.error.is_some()).count();
        for _ in 0..LOOKS_MAX {
            let left = self.plan(topics)?;
            if left.iter().filter(|d| d.fix == Fix::Apply).count() <= expected {
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
        let silent = |e: &KafkaError| Error::Kafka(format!("the cluster at {} does not answer: {e}", self.bootstrap));
        // Asking for all topics makes none; asking for one by its name could.
        let metadata = self.client.inner().fetch_metadata(None, ANSWER_MAX).map_err(|e| silent(&e))?;
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
        let answers = self.wait(self.client.describe_configs(&asked, &options())).map_err(|e| silent(&e))?;
        for (name, answer) in there.iter().zip(answers) {
            let resource = match answer {
                Ok(resource) => resource,
                // Deleted since.
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {
                    cluster.remove(*name);
                    continue;
                }
                Err(code) => return Err(Error::Kafka(format!("the settings of {name}: {}", told(code)))),
            };
            let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
            let Some(found) = cluster.get_mut(name) else { continue };
            found.settings = resource
                .entries
                .into_iter()
                .filter_map(|entry| {
                    let is_own = entry.source == ConfigSource::DynamicTopic;
                    Some((entry.name, FoundSetting { value: entry.value?, is_own }))
                })
                .collect();
        }
        Ok(cluster)
    }

    /// The cluster's refusal, if it refuses.
    fn settle(
        &self,
        difference: &Difference,
        found: Option<&FoundTopic>,
        replication: Option<i32>,
    ) -> Result<Option<String>, Error> {
        let name = difference.topic.as_str();
        let answer = match &difference.what {
            What::Missing { partitions, settings } => {
                let mut topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(replication.unwrap_or(-1)));
                for (setting, value) in settings {
                    topic = topic.set(setting, value);
                }
                let made = self.wait(self.client.create_topics([&topic], &options()));
                match made.map(|results| results.into_iter().find_map(Result::err)) {
                    // Somebody else made it in the meantime; the plan that follows shows whether as it should be.
                    Ok(Some((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(None),
                    other => other.map(|refused| refused.map(|(_, code)| code)),
                }
            }
            What::Partitions { wanted, .. } => {
                let wanted = NewPartitions::new(name, usize::try_from(*wanted).unwrap_or_default());
                let grown = self.wait(self.client.create_partitions([&wanted], &options()));
                grown.map(|results| results.into_iter().find_map(Result::err).map(|(_, code)| code))
            }
            What::Settings(changes) => {
                // The call replaces all settings of the topic, so those that somebody else set are told again.
                let mut settings: BTreeMap<&str, &str> = found
                    .into_iter()
                    .flat_map(|found| &found.settings)
                    .filter(|(_, setting)| setting.is_own)
                    .map(|(name, setting)| (name.as_str(), setting.value.as_str()))
                    .collect();
                settings.extend(changes.iter().map(|change| (change.name.as_str(), change.wanted.as_str())));
                let mut altered = AlterConfig::new(ResourceSpecifier::Topic(name));
                for (setting, value) in settings {
                    altered = altered.set(setting, value);
                }
                let altered = self.wait(self.client.alter_configs([&altered], &options()));
                altered.map(|results| results.into_iter().find_map(Result::err).map(|(_, code)| code))
            }
            What::Unexpected { .. } => Ok(None),
        };
        match answer {
            Ok(refused) => Ok(refused.map(told)),
            Err(e) => Err(Error::Kafka(format!("the cluster at {} does not answer: {e}", self.bootstrap))),
        }
    }

    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

/// A refusal with what to do about it.
fn told(code: RDKafkaErrorCode) -> String {
    let hint = if code == RDKafkaErrorCode::InvalidReplicationFactor {
        "; the cluster has fewer brokers than that: say --replication-factor"
    } else if [RDKafkaErrorCode::TopicAuthorizationFailed, RDKafkaErrorCode::ClusterAuthorizationFailed].contains(&code)
    {
        "; `portcullis topics acls --role admin` lists what this user needs"
    } else {
        ""
    };
    format!("{code}{hint}")
}
