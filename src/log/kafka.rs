//! [`super::Log`] over rdkafka.
