//! What every command that talks to a cluster needs to know about it.

use crate::log::ClientOptions;
use crate::topology::Topics;

/// A cluster, and the names of what is ours in it.
#[derive(Debug, Clone)]
pub struct Connection {
    pub client: ClientOptions,
    pub topics: Topics,
}
