//! The state folder of one process: who may use it, and where each task's store lies in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::Error;
use crate::topology::Stage;

/// A state folder, held by this process until it is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked while this process lives; the operating system lets go of it however the process ends.
    _lock: File,
    instance: String,
}

impl Folder {
    /// Takes a folder for an application, and makes it when it is not there.
    ///
    /// # Errors
    /// It cannot be made, another process holds it, or it belongs to another application.
    pub fn take(path: &Path, application_id: &str, new_instance: &str) -> Result<Self, Error> {
        let unusable = |what: String| Error::Unusable { path: path.display().to_string(), what };
        fs::create_dir_all(path).map_err(|e| unusable(format!("{e}; choose another with state_dir")))?;
        let lock = File::create(path.join("LOCK")).map_err(|e| unusable(e.to_string()))?;
        lock.try_lock()
            .map_err(|_| unusable("another process is using it; give each instance its own state_dir".to_owned()))?;
        let owner = read_or_write(&path.join("APPLICATION"), application_id).map_err(|e| unusable(e.to_string()))?;
        if owner != application_id {
            return Err(unusable(format!("belongs to the application `{owner}`; choose another state_dir")));
        }
        let instance = read_or_write(&path.join("INSTANCE"), new_instance).map_err(|e| unusable(e.to_string()))?;
        Ok(Folder { path: path.to_owned(), _lock: lock, instance })
    }

    /// A name that stays with the folder: transactional ids and group membership are made of it, so that a restart
    /// fences its own past at once.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where a task's store lies.
    #[must_use]
    pub fn task(&self, stage: Stage, partition: i32) -> PathBuf {
        self.path.join(stage.as_str()).join(partition.to_string())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_or_write(path: &Path, text: &str) -> std::io::Result<String> {
    if !path.exists() {
        let part = path.with_extension("part");
        fs::write(&part, text)?;
        fs::rename(part, path)?;
    }
    Ok(fs::read_to_string(path)?.trim().to_owned())
}
