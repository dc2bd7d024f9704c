//! Topics as data: `topology/topics.yaml` for the public ones, the stages for the internal ones.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Playbook;

/// The four stages, in the order of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Intake,
    Source,
    Account,
    Site,
}

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Intake, Stage::Source, Stage::Account, Stage::Site];

    /// Permanent name: in topics, state folders, metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Intake => "intake",
            Stage::Source => "source",
            Stage::Account => "account",
            Stage::Site => "site",
        }
    }

    /// The part of its internal input topic's name behind the application id; intake reads the public input.
    #[must_use]
    pub const fn input_suffix(self) -> Option<&'static str> {
        match self {
            Stage::Intake => None,
            Stage::Source => Some("attempts-by-source"),
            Stage::Account => Some("attempts-by-account"),
            Stage::Site => Some("site-partials"),
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a topic forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
pub enum Cleanup {
    #[serde(rename = "delete")]
    Delete,
    #[serde(rename = "compact")]
    Compact,
    #[serde(rename = "compact,delete")]
    CompactDelete,
}

impl Cleanup {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
            Cleanup::CompactDelete => "compact,delete",
        }
    }

    /// Equal whatever the order a broker lists the policies in.
    #[must_use]
    pub fn matches(self, text: &str) -> bool {
        let mut parts: Vec<&str> = text.split(',').map(str::trim).collect();
        parts.sort_unstable();
        parts.join(",") == self.as_str()
    }
}

/// One topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSpec {
    pub name: String,
    /// The input's own partition count when left out for an internal topic.
    pub partitions: i32,
    #[serde(default = "cleanup_default")]
    pub cleanup: Cleanup,
    /// Left to the broker or the owner when absent.
    #[serde(default)]
    pub retention_ms: Option<i64>,
    /// Further topic settings, by the broker's names.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Portcullis writes it (and so `topics apply` makes it); false for the publishers' own.
    #[serde(default = "ours_default")]
    pub ours: bool,
}

fn cleanup_default() -> Cleanup {
    Cleanup::Delete
}

fn ours_default() -> bool {
    true
}

impl TopicSpec {
    /// All settings that are compared and set, by the broker's names.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut all = self.config.clone();
        all.insert("cleanup.policy".to_owned(), self.cleanup.as_str().to_owned());
        if let Some(ms) = self.retention_ms {
            all.insert("retention.ms".to_owned(), ms.to_string());
        }
        all
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicsFile {
    /// Partitions of the internal topics.
    stage_partitions: i32,
    topics: Vec<TopicSpec>,
}

/// Every topic of one installation, by name.
#[derive(Debug, Clone)]
pub struct Topics {
    application_id: String,
    prefix: String,
    public: Vec<TopicSpec>,
    stage_partitions: i32,
}

impl Topics {
    /// Parses `topology/topics.yaml`. `partitions` overrides the internal topics' count.
    ///
    /// # Errors
    /// The YAML with its line, or a topic that the contract names and the file lacks.
    pub fn parse(text: &str, application_id: &str, prefix: &str, partitions: Option<i32>) -> Result<Topics, String> {
        let file: TopicsFile = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        for name in REQUIRED {
            if !file.topics.iter().any(|t| t.name == *name) {
                return Err(format!("topics.yaml: the topic `{name}` is missing; the contract names it"));
            }
        }
        let stage_partitions = partitions.unwrap_or(file.stage_partitions);
        if stage_partitions < 1 || file.topics.iter().any(|t| t.partitions < 1) {
            return Err("topics.yaml: a topic has at least 1 partition".to_owned());
        }
        let mut public = file.topics;
        for topic in &mut public {
            topic.name = format!("{prefix}{}", topic.name);
        }
        Ok(Topics { application_id: application_id.to_owned(), prefix: prefix.to_owned(), public, stage_partitions })
    }

    /// A public topic's name with its prefix.
    #[must_use]
    pub fn public(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The topic a stage reads.
    #[must_use]
    pub fn input(&self, stage: Stage) -> String {
        match stage.input_suffix() {
            None => self.public("login-events"),
            Some(suffix) => format!("{}{}-{suffix}", self.prefix, self.application_id),
        }
    }

    /// The changelog of a stage's store.
    #[must_use]
    pub fn changelog(&self, store: Stage) -> String {
        format!("{}{}-{store}-changelog", self.prefix, self.application_id)
    }

    /// What every name starts with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The consumer group of the stages.
    #[must_use]
    pub fn group(&self) -> String {
        format!("{}{}", self.prefix, self.application_id)
    }

    /// What every transactional id of the stages starts with.
    #[must_use]
    pub fn transactional_prefix(&self) -> String {
        format!("{}{}-", self.prefix, self.application_id)
    }

    /// Topics that only intake reads, besides its input: control.
    #[must_use]
    pub fn control(&self) -> Vec<String> {
        CONTROL.iter().map(|name| self.public(name)).collect()
    }

    /// Every topic as it should be. Intake's changelog has as many partitions as its input, which is the publishers'.
    #[must_use]
    pub fn all(&self) -> Vec<TopicSpec> {
        let mut all = self.public.clone();
        let input_partitions =
            self.public.iter().find(|t| t.name == self.public("login-events")).map_or(1, |t| t.partitions);
        for stage in Stage::ALL {
            let partitions = if stage == Stage::Intake { input_partitions } else { self.stage_partitions };
            if stage != Stage::Intake {
                all.push(TopicSpec {
                    name: self.input(stage),
                    partitions,
                    cleanup: Cleanup::Delete,
                    retention_ms: Some(24 * 3_600_000),
                    config: BTreeMap::from([("message.timestamp.type".to_owned(), "CreateTime".to_owned())]),
                    ours: true,
                });
            }
            all.push(TopicSpec {
                name: self.changelog(stage),
                partitions,
                cleanup: Cleanup::CompactDelete,
                retention_ms: Some(31 * 86_400_000),
                config: BTreeMap::from([("min.cleanable.dirty.ratio".to_owned(), "0.2".to_owned())]),
                ours: true,
            });
        }
        all
    }
}

const CONTROL: [&str; 4] = ["attack-status", "exemptions", "playbooks", "commands"];
const REQUIRED: &[&str] = &[
    "login-events", "login-events-dlq", "verdicts", "blocklist", "attack-status", "incidents", "exemptions",
    "playbooks", "commands",
];

/// The graph as text: stages with their topics, then the playbooks, from the live values.
#[must_use]
pub fn describe(topics: &Topics, playbooks: &[Playbook]) -> String {
    let stages = Stage::ALL.into_iter().map(|stage| {
        format!("stage {stage}: reads {}, remembers in {}\n", topics.input(stage), topics.changelog(stage))
    });
    let control = format!("control (intake only): {}\n", topics.control().join(", "));
    let playbooks = playbooks.iter().map(|playbook| format!("playbook {}\n", playbook.describe()));
    stages.chain([control]).chain(playbooks).collect()
}
