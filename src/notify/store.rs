//! Where ledgers lie: one small file for each destination, in a folder that one process holds.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::ledger::Ledger;

/// Longest ledger that is read, in bytes.
const LEDGER_BYTES_MAX: u64 = 256 << 20;

/// What is wrong with the folder, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct StoreError {
    path: PathBuf,
    what: String,
}

/// The folder of ledgers, held by this process as long as the value lives.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Makes the folder where it is missing, and holds it.
    ///
    /// # Errors
    /// It cannot be made or written, or another process holds it.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        let fault = |what: String| StoreError { path: folder.to_owned(), what };
        fs::create_dir_all(folder).map_err(|error| fault(error.to_string()))?;
        let lock = File::create(folder.join("LOCK")).map_err(|error| fault(error.to_string()))?;
        lock.try_lock().map_err(|_| {
            fault("another `portcullis notify` works with this folder; give each its own --state-dir".to_owned())
        })?;
        Ok(Store { folder: folder.to_owned(), _lock: lock })
    }

    /// The ledger of a destination, whose name is fit for a file.
    #[must_use]
    pub fn ledger(&self, destination: &str) -> LedgerFile {
        LedgerFile::new(&self.folder, destination)
    }
}

/// The file of one ledger.
#[derive(Debug, Clone)]
pub struct LedgerFile(PathBuf);

impl LedgerFile {
    /// That of a folder which this process need not hold, to look into it.
    #[must_use]
    pub fn new(folder: &Path, destination: &str) -> LedgerFile {
        LedgerFile(folder.join(format!("{destination}.json")))
    }

    /// What it holds; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is no ledger.
    pub fn load(&self) -> Result<Option<Ledger>, StoreError> {
        let fault = |what: String| StoreError { path: self.0.clone(), what };
        match fs::metadata(&self.0) {
            Ok(found) if found.len() > LEDGER_BYTES_MAX => {
                return Err(fault("this is too long for a ledger".to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(error.to_string())),
        }
        let text = fs::read(&self.0).map_err(|error| fault(error.to_string()))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            fault(format!("this is no ledger ({error}); move it away, and incidents that are open are told once more"))
        })
    }

    /// Replaces what it holds, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, ledger: &Ledger) -> Result<(), StoreError> {
        let written = || -> io::Result<()> {
            let new = self.0.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(ledger)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.0)?;
            self.0.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        written().map_err(|error| StoreError { path: self.0.clone(), what: error.to_string() })
    }
}
