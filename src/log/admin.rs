//! Compares the topics of a cluster with `topology/topics.yaml`, and makes those that are missing.
