//! Topics read to the end that they have now, into a board as the console has it: for commands that answer and end.

use anyhow::Result;

use super::Connection;
use super::console::StoreFolder;
use crate::console::{Board, Disk};
use crate::event::Millis;
use crate::log::Incoming;
use crate::log::follow::{Follower, ReadFrom};
use crate::topology::exemptions::Exemptions;

/// A board and what lies on disk for it; the folder goes with it.
#[derive(Debug)]
pub(super) struct ReadBoard {
    pub(super) board: Board,
    pub(super) disk: Disk,
    _folder: StoreFolder,
}

impl ReadBoard {
    /// # Errors
    /// The folder for what is read cannot be made.
    pub(super) fn new(exemptions: Exemptions) -> Result<ReadBoard> {
        let folder = StoreFolder::new(None)?;
        Ok(ReadBoard { board: Board::new(exemptions), disk: Disk::make(folder.path())?, _folder: folder })
    }

    /// Reads these topics to the end that they have now; `is_wanted` is asked about each key.
    ///
    /// # Errors
    /// A topic is missing or may not be read, or the cluster does not give what they hold.
    pub(super) fn read(
        &mut self,
        connection: &Connection,
        names: &[&str],
        is_wanted: impl Fn(&[u8]) -> bool,
        now: Millis,
    ) -> Result<()> {
        let topics: Vec<String> = names.iter().map(|name| connection.topics.public(name)).collect();
        let mut follower = Follower::new(&connection.client, &topics, ReadFrom::Start)?;
        follower.to_end(|record| {
            let place = topics.iter().position(|topic| **topic == *record.part.topic);
            place.and_then(|place| names.get(place)).map_or(Ok(()), |name| self.take(name, record, &is_wanted))
        })?;
        self.disk.flush()?;
        self.board.tick(&self.disk, now);
        Ok(())
    }

    fn take(&mut self, name: &str, record: &Incoming, is_wanted: impl Fn(&[u8]) -> bool) -> Result<()> {
        let key = record.key.as_deref().unwrap_or_default();
        if !is_wanted(key) {
            return Ok(());
        }
        let generation = record.header("generation").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        self.board.take(&self.disk, name, key, record.value.as_deref(), generation)?;
        Ok(())
    }
}
