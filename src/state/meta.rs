//! To which position of the log the rows of a store belong, and whose they are.

use serde::{Deserialize, Serialize};

use super::Error;
use crate::event::Millis;

/// Version of this record; another one is refused at start.
pub const META_VERSION: u8 = 1;

/// Written in the same batch as the rows.
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
    /// Next offset of the changelog partition: restoring starts here.
    pub changelog_offset: i64,
    pub stream_time: Millis,
    /// Commits so far.
    pub commits: u64,
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Writing into memory does not fail for plain fields.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Meta, Error> {
        if bytes.first() != Some(&META_VERSION) {
            return Err(Error::Row(
                "written by another version; remove the folder, the changelog restores it".to_owned(),
            ));
        }
        postcard::from_bytes(bytes).map_err(|e| Error::Row(format!("position: {e}")))
    }
}
