//! The difference between the topics that should exist and those of a cluster. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::topology::{Cleanup, Stage, TopicSpec, Topics};

/// The topics of a cluster, by name. Those of others may be among them.
pub type Cluster = BTreeMap<String, FoundTopic>;

/// One topic as a cluster has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundTopic {
    pub partitions: i32,
    /// All that hold for it, by the broker's names; empty when nobody asked.
    pub settings: BTreeMap<String, String>,
}

/// One thing about one topic that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub topic: String,
    pub what: What,
    pub fix: Fix,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Missing {
        partitions: i32,
        settings: BTreeMap<String, String>,
    },
    Partitions {
        found: i32,
        wanted: i32,
    },
    Settings(Vec<SettingDifference>),
    /// Named as an internal topic of this application, and of no stage.
    Unexpected {
        partitions: i32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingDifference {
    pub name: String,
    /// `None`: the broker knows no such setting.
    pub found: Option<String>,
    pub wanted: String,
}

/// What is to be done about a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fix {
    /// `topics apply` does it.
    Apply,
    /// A person has to decide: why, and what to do.
    ByHand(String),
    /// Nothing has to be done.
    Nothing(String),
}

/// Every difference, in the order of the topics' names.
#[must_use]
pub fn compare(topics: &Topics, cluster: &Cluster) -> Vec<Difference> {
    let specs = expected(topics, cluster);
    let mut all: Vec<Difference> =
        specs.iter().flat_map(|spec| compare_one(topics, spec, cluster.get(&spec.name))).collect();
    let known: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    all.extend(cluster.iter().filter(|(name, _)| !known.contains(name.as_str())).filter_map(|(name, found)| {
        let is_named_as_ours = name.starts_with(&topics.transactional_prefix());
        is_named_as_ours.then(|| Difference {
            topic: name.clone(),
            what: What::Unexpected { partitions: found.partitions },
            fix: Fix::Nothing(
                "no stage uses it: another application's, or left behind by an earlier version".to_owned(),
            ),
        })
    }));
    all.sort_by(|a, b| a.topic.cmp(&b.topic));
    all
}

/// Intake keeps one memory per partition of its input, and how many those are is the publishers' choice.
fn expected(topics: &Topics, cluster: &Cluster) -> Vec<TopicSpec> {
    let input = cluster.get(&topics.input(Stage::Intake)).map(|found| found.partitions);
    let mut specs = topics.all();
    for spec in &mut specs {
        if spec.name == topics.changelog(Stage::Intake) {
            spec.partitions = input.unwrap_or(spec.partitions);
        }
    }
    specs
}

fn compare_one(topics: &Topics, spec: &TopicSpec, found: Option<&FoundTopic>) -> Vec<Difference> {
    let difference = |what, fix| Difference { topic: spec.name.clone(), what, fix };
    let Some(found) = found else {
        let what = What::Missing { partitions: spec.partitions, settings: spec.settings() };
        return vec![difference(what, Fix::Apply)];
    };
    let mut all = Vec::new();
    if !spec.ours {
        return all;
    }
    if found.partitions != spec.partitions {
        let what = What::Partitions { found: found.partitions, wanted: spec.partitions };
        all.push(difference(what, fix_of_partitions(topics, spec, found.partitions)));
    }
    let settings: Vec<SettingDifference> = spec
        .settings()
        .into_iter()
        .filter_map(|(name, wanted)| {
            let value = found.settings.get(&name).cloned();
            let is_right = value.as_deref().is_some_and(|value| is_same(spec, &name, value, &wanted));
            (!is_right).then_some(SettingDifference { name, found: value, wanted })
        })
        .collect();
    if !settings.is_empty() {
        all.push(difference(What::Settings(settings), Fix::Apply));
    }
    all
}

fn is_same(spec: &TopicSpec, name: &str, found: &str, wanted: &str) -> bool {
    if name == "cleanup.policy" {
        return spec.cleanup.matches(found);
    }
    let number = |text: &str| text.trim().parse::<f64>().ok();
    // 0.2 and 0.20 are one ratio.
    found == wanted || number(found).zip(number(wanted)).is_some_and(|(a, b)| a.total_cmp(&b).is_eq())
}

fn fix_of_partitions(topics: &Topics, spec: &TopicSpec, found: i32) -> Fix {
    let is_of_a_stage = Stage::ALL.into_iter().any(|stage| {
        spec.name == topics.changelog(stage) || (stage != Stage::Intake && spec.name == topics.input(stage))
    });
    let follows_the_input = spec.name == topics.changelog(Stage::Intake);
    let is_compacted = match spec.cleanup {
        Cleanup::Compact | Cleanup::CompactDelete => true,
        Cleanup::Delete => false,
    };
    if follows_the_input && found > spec.partitions {
        Fix::ByHand(format!(
            "it has a partition for each one that {} had; was that topic made anew? With `run` stopped, delete {} and \
             apply again",
            topics.input(Stage::Intake),
            spec.name
        ))
    } else if follows_the_input {
        Fix::Apply
    } else if is_of_a_stage {
        Fix::ByHand(format!(
            "records are placed by the hash of their entity, and another count would part every entity from its memory: \
             set stage_partitions to {found} if all internal topics have so many, or start anew under another \
             application id"
        ))
    } else if found > spec.partitions {
        Fix::ByHand(format!("Kafka takes no partition away: set `partitions: {found}` in topics.yaml"))
    } else if is_compacted {
        Fix::ByHand(format!(
            "it is compacted, and a key whose partition changes would keep its last record in the old one for ever: set \
             `partitions: {found}` in topics.yaml"
        ))
    } else {
        Fix::Apply
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (&self.fix, &self.what) {
            (Fix::Apply, What::Missing { .. }) => "+",
            (Fix::Apply, What::Partitions { .. } | What::Settings(_) | What::Unexpected { .. }) => "~",
            (Fix::ByHand(_), _) => "!",
            (Fix::Nothing(_), _) => "?",
        };
        write!(f, "{sign} {}: {}", self.topic, self.what)?;
        match &self.fix {
            Fix::Apply => Ok(()),
            Fix::ByHand(why) | Fix::Nothing(why) => write!(f, "; {why}"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Missing { partitions, settings } => {
                write!(f, "missing; {partitions} partitions")?;
                settings.iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
            }
            What::Partitions { found, wanted } => write!(f, "{found} partitions, should be {wanted}"),
            What::Settings(settings) => {
                for (i, setting) in settings.iter().enumerate() {
                    let found = setting.found.as_deref().unwrap_or("unknown to the broker");
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{} is {found}, should be {}", setting.name, setting.wanted)?;
                }
                Ok(())
            }
            What::Unexpected { partitions } => write!(f, "not known here; {partitions} partitions"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = include_str!("../../../topology/topics.yaml");

    fn topics() -> Topics {
        Topics::parse(YAML, "portcullis", "p.", None).unwrap()
    }

    /// A cluster that is as it should be.
    fn right(topics: &Topics) -> Cluster {
        let found = |spec: TopicSpec| {
            let settings = spec.settings();
            (spec.name, FoundTopic { partitions: spec.partitions, settings })
        };
        topics.all().into_iter().map(found).collect()
    }

    fn set(cluster: &mut Cluster, topic: &str, name: &str, value: &str) {
        cluster.get_mut(topic).unwrap().settings.insert(name.to_owned(), value.to_owned());
    }

    /// What [`compare`] says once `change` was done to a cluster that was right.
    fn said(change: impl FnOnce(&mut Cluster)) -> String {
        let topics = topics();
        let mut cluster = right(&topics);
        change(&mut cluster);
        let lines: Vec<String> = compare(&topics, &cluster).iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Cluster), starts: &[&str]) {
        let said = said(change);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), starts.len(), "{said}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}\ndoes not start with\n{start}");
        }
    }

    #[test]
    fn a_cluster_that_is_right_has_no_difference_and_an_empty_one_lacks_everything() {
        check(|_| (), &[]);
        let topics = topics();
        let all = compare(&topics, &Cluster::new());
        assert_eq!(all.len(), topics.all().len());
        assert!(all.iter().all(|d| matches!((&d.what, &d.fix), (What::Missing { .. }, Fix::Apply))));
    }

    #[test]
    fn a_missing_topic_is_told_with_all_it_will_have() {
        check(
            |c| drop(c.remove("p.blocklist")),
            &["+ p.blocklist: missing; 4 partitions, cleanup.policy=compact, delete.retention.ms=604800000, \
               min.cleanable.dirty.ratio=0.2"],
        );
    }

    #[test]
    fn settings_are_compared_by_what_they_mean() {
        check(|c| set(c, "p.blocklist", "min.cleanable.dirty.ratio", "0.20"), &[]);
        check(|c| set(c, "p.portcullis-site-changelog", "cleanup.policy", "delete,compact"), &[]);
        check(
            |c| {
                set(c, "p.blocklist", "cleanup.policy", "delete");
                set(c, "p.blocklist", "delete.retention.ms", "1");
                c.get_mut("p.verdicts").unwrap().settings.remove("retention.ms");
            },
            &[
                "~ p.blocklist: cleanup.policy is delete, should be compact, delete.retention.ms is 1, should be 604800000",
                "~ p.verdicts: retention.ms is unknown to the broker, should be 2592000000",
            ],
        );
    }

    #[test]
    fn partitions_are_added_only_where_no_key_loses_its_place() {
        let with =
            |topic: &'static str, partitions| move |c: &mut Cluster| c.get_mut(topic).unwrap().partitions = partitions;
        check(with("p.verdicts", 4), &["~ p.verdicts: 4 partitions, should be 8"]);
        check(with("p.verdicts", 9), &["! p.verdicts: 9 partitions, should be 8; Kafka takes no partition away"]);
        check(with("p.blocklist", 2), &["! p.blocklist: 2 partitions, should be 4; it is compacted"]);
        check(
            with("p.portcullis-source-changelog", 4),
            &["! p.portcullis-source-changelog: 4 partitions, should be 8; records are placed by the hash"],
        );
        check(
            with("p.portcullis-attempts-by-source", 16),
            &["! p.portcullis-attempts-by-source: 16 partitions, should be 8; records"],
        );
    }

    #[test]
    fn the_publishers_topic_is_theirs_and_intakes_memory_follows_it() {
        let grown = |partitions| {
            move |c: &mut Cluster| {
                c.get_mut("p.login-events").unwrap().partitions = partitions;
                set(c, "p.login-events", "cleanup.policy", "compact");
            }
        };
        check(grown(12), &["~ p.portcullis-intake-changelog: 8 partitions, should be 12"]);
        check(grown(3), &["! p.portcullis-intake-changelog: 8 partitions, should be 3; it has a partition for each"]);
    }

    #[test]
    fn what_is_named_like_an_internal_topic_is_told_and_what_is_somebody_elses_is_not() {
        check(
            |c| {
                for name in ["orders", "p.orders", "p.portcullis-old-changelog"] {
                    c.insert(name.to_owned(), FoundTopic { partitions: 3, ..FoundTopic::default() });
                }
            },
            &["? p.portcullis-old-changelog: not known here; 3 partitions; no stage uses it"],
        );
    }

    #[test]
    fn a_difference_as_json() {
        let topics = topics();
        let mut cluster = right(&topics);
        cluster.get_mut("p.verdicts").unwrap().partitions = 4;
        assert_eq!(
            serde_json::to_string(&compare(&topics, &cluster)).unwrap(),
            r#"[{"topic":"p.verdicts","what":{"partitions":{"found":4,"wanted":8}},"fix":"apply"}]"#
        );
    }
}
