//! Compares the topics of a cluster with `topology/topics.yaml`, and makes those that are missing.
//!
//! ```text
//! read ──▶ Cluster ──▶ compare ──▶ [Difference] ──▶ apply ──▶ [Done]
//! ```
//!
//! [`compare`] is a function over values; [`ClusterAdmin`] alone talks to the cluster. [`acls`] says what each kind of
//! client may do at least.

mod acls;
mod changelog;
mod cluster;
mod difference;

pub use acls::{Acl, Operation, Pattern, Resource, Role, acls, commands};
pub use changelog::{ChangelogReader, TakeRecord};
pub use cluster::{ClusterAdmin, Done};
pub use difference::{Cluster, Difference, Fix, FoundTopic, SettingDifference, What, compare};
