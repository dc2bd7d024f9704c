//! The schema registry: ids of writer schemas, and registration of our own.
