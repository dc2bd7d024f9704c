//! To which position of the log the rows of a store belong, and whose they are.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::event::Millis;

/// Version of this record; another one is refused at start.
pub const META_VERSION: u8 = 2;

/// The key of the position: below every kind of row. In a changelog it is the last record of each checkpoint.
pub const POSITION_KEY: &[u8] = &[0];

/// Written in the same batch as the rows, and with them into the changelog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub version: u8,
    pub application_id: String,
    /// Partitions of the input topic: another count means other keys here.
    pub partitions: i32,
    /// What may be written down of the hash key.
    pub hash_key_id: u64,
    /// Next offset of the task's input.
    pub input_offset: i64,
    /// Next offset of the changelog partition: restoring starts here. In the changelog itself it says nothing.
    pub changelog_offset: i64,
    pub stream_time: Millis,
    /// Build and playbooks under which the rows came to be, see [`Env::steps_id`](crate::engine::Env::steps_id): others
    /// replay the input differently.
    pub steps_id: u64,
    /// Checkpoints so far.
    pub checkpoints: u64,
}

impl Meta {
    /// The bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Writing into memory does not fail for plain fields.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads the record back.
    ///
    /// # Errors
    /// Another version, or bytes that are no position.
    pub fn decode(bytes: &[u8]) -> Result<Meta, Error> {
        if bytes.first() != Some(&META_VERSION) {
            return Err(Error::Row(
                "written by another version; remove the folder, the changelog restores it".to_owned(),
            ));
        }
        postcard::from_bytes(bytes).map_err(|e| Error::Row(format!("position: {e}")))
    }
}
