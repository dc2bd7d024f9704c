//! A state folder that is looked at and never changed: what each task holds, and whether that is what its changelog says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use rocksdb::{DB, Direction, IteratorMode, Options, ReadOptions};
use serde::Serialize;
use serde_json::Value;
use siphasher::sip::SipHasher13;

use super::{Error, Meta, POSITION_KEY};
use crate::engine::{Key, Kind, Row};
use crate::event::Millis;
use crate::topology::Stage;

/// The longest text of a listed row; the rest is left out.
const SHOWN_MAX: usize = 4_000;

/// A state folder that no process works on, for as long as this value lives.
#[derive(Debug)]
pub struct LookedAt {
    path: PathBuf,
    /// Shared with others who look, and kept from a process that would work on it.
    _lock: File,
    application_id: String,
}

impl LookedAt {
    /// # Errors
    /// There is no state folder, or a process works on it.
    pub fn take(path: &Path) -> Result<LookedAt, Error> {
        let unusable = |what: String| Error::Unusable { path: path.display().to_string(), what };
        let lock = path.join("LOCK");
        let file = File::open(&lock).map_err(|e| unusable(format!("no state folder: {}: {e}", lock.display())))?;
        file.try_lock_shared().map_err(|_| {
            unusable(format!(
                "a process works on it and holds {}; stop that instance first, or look at a copy of the folder",
                lock.display()
            ))
        })?;
        let owner = path.join("APPLICATION");
        let application_id =
            fs::read_to_string(&owner).map_err(|e| unusable(format!("{}: {e}", owner.display())))?.trim().to_owned();
        Ok(LookedAt { path: path.to_owned(), _lock: file, application_id })
    }

    #[must_use]
    pub fn application_id(&self) -> &str {
        &self.application_id
    }

    /// The tasks that have a store here, in the order of the flow.
    ///
    /// # Errors
    /// A folder does not read.
    pub fn tasks(&self) -> Result<Vec<(Stage, i32)>, Error> {
        let mut tasks = Vec::new();
        for stage in Stage::ALL {
            let folder = self.path.join(stage.as_str());
            if !folder.is_dir() {
                continue;
            }
            let entries = fs::read_dir(&folder).map_err(|e| unusable(&folder, &e))?;
            for entry in entries {
                let name = entry.map_err(|e| unusable(&folder, &e))?.file_name();
                tasks.extend(name.to_str().and_then(|name| name.parse().ok()).map(|partition| (stage, partition)));
            }
        }
        tasks.sort_unstable();
        Ok(tasks)
    }

    /// Opens the store of a task for reading.
    ///
    /// # Errors
    /// It does not open.
    pub fn open(&self, stage: Stage, partition: i32) -> Result<LookedAtStore, Error> {
        let path = self.path.join(stage.as_str()).join(partition.to_string());
        let mut options = Options::default();
        options.set_max_open_files(256);
        let db = DB::open_for_read_only(&options, &path, false).map_err(|e| unusable(&path, &e))?;
        Ok(LookedAtStore { db, path })
    }
}

fn unusable(path: &Path, what: &dyn std::fmt::Display) -> Error {
    Error::Unusable { path: path.display().to_string(), what: what.to_string() }
}

/// The store of one task, for reading.
pub struct LookedAtStore {
    db: DB,
    path: PathBuf,
}

impl std::fmt::Debug for LookedAtStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LookedAtStore({})", self.path.display())
    }
}

/// What a store holds of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KindSum {
    pub rows: u64,
    /// Of keys and values.
    pub bytes: u64,
    /// When the first and the last of its rows may be forgotten, milliseconds since the epoch; `None` where none ever may.
    pub oldest_expiry: Option<Millis>,
    pub newest_expiry: Option<Millis>,
    /// Rows that this version cannot read.
    pub unreadable: u64,
}

impl LookedAtStore {
    /// The position of the rows; `None` for a store that was never written.
    ///
    /// # Errors
    /// It does not read, or was written by another version.
    pub fn meta(&self) -> Result<Option<Meta>, Error> {
        self.db.get(POSITION_KEY)?.map(|bytes| Meta::decode(&bytes)).transpose()
    }

    /// Rows in the order of their keys; of one kind, or all. The position is none of them.
    pub fn rows(&self, kind: Option<Kind>) -> impl Iterator<Item = Result<(Key, Vec<u8>), Error>> {
        let mut read = ReadOptions::default();
        read.fill_cache(false);
        if let Some(kind) = kind {
            read.set_iterate_range([kind as u8]..[kind as u8 + 1]);
        }
        // The least key behind that of the position.
        let behind_position = [POSITION_KEY, &[0]].concat();
        let rows = self.db.iterator_opt(IteratorMode::From(&behind_position, Direction::Forward), read);
        rows.map(|row| row.map(|(key, value)| (Key::from_bytes(&key), value.into_vec())).map_err(Error::from))
    }

    /// Rows and bytes by the name of their kind.
    ///
    /// # Errors
    /// The store does not read.
    pub fn kinds(&self) -> Result<BTreeMap<String, KindSum>, Error> {
        let mut sums: BTreeMap<String, KindSum> = BTreeMap::new();
        for row in self.rows(None) {
            let (key, value) = row?;
            let sum = sums.entry(kind_name(&key)).or_default();
            sum.rows += 1;
            sum.bytes += (key.as_bytes().len() + value.len()) as u64;
            sum.unreadable += u64::from(Row::decode(&key, &value).is_err());
            if let Some(at) = Row::expires_at(&value).filter(|at| *at < Millis::MAX) {
                sum.oldest_expiry = Some(sum.oldest_expiry.map_or(at, |oldest| oldest.min(at)));
                sum.newest_expiry = Some(sum.newest_expiry.map_or(at, |newest| newest.max(at)));
            }
        }
        Ok(sums)
    }

    /// Bytes of the files that hold its rows, compressed and with what compaction has not dropped yet.
    ///
    /// # Errors
    /// The folder does not read.
    pub fn sst_bytes(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for entry in fs::read_dir(&self.path).map_err(|e| unusable(&self.path, &e))? {
            let entry = entry.map_err(|e| unusable(&self.path, &e))?;
            if entry.path().extension().is_some_and(|extension| extension == "sst") {
                sum += entry.metadata().map_err(|e| unusable(&entry.path(), &e))?.len();
            }
        }
        Ok(sum)
    }
}

/// The name of a key's kind, also of one that this version does not know.
#[must_use]
pub fn kind_name(key: &Key) -> String {
    Kind::of(key.kind_byte()).map_or_else(|| format!("unknown-{}", key.kind_byte()), Kind::name)
}

/// Hides a name of a tenant: what stands for it, the same in every row.
pub type Pseudonym<'a> = dyn Fn(&str, &str) -> String + 'a;

/// One row for people and programs: plain ASCII whatever publishers wrote, and no account's name in clear.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownRow {
    pub kind: String,
    pub tenant: String,
    /// What stands behind the tenant in the key, in hexadecimal; a digest where a name may stand in it.
    pub id: String,
    /// When it may be forgotten, milliseconds since the epoch; `None`: never.
    pub expires_at: Option<Millis>,
    /// JSON; the words of the error for a row that this version cannot read.
    pub row: String,
}

/// A row as it may be shown.
#[must_use]
pub fn shown(key: &Key, value: &[u8], pseudonym: &Pseudonym<'_>) -> ShownRow {
    // What falls due is told by when and of what kind it is.
    let due = key.as_due();
    let subject = due.as_ref().map_or(key, |(_, what)| what);
    let (tenant, rest) = subject.parts().unwrap_or(("", subject.as_bytes().get(1..).unwrap_or_default()));
    let id = match Kind::of(subject.kind_byte()) {
        Some(Kind::Standing | Kind::Control) | None => format!("#{:016x}", digest(rest)),
        Some(_) => rest.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let id = due.as_ref().map_or(id.clone(), |(at, what)| format!("{at}/{}/{id}", kind_name(what)));
    let row = match Row::decode(key, value).map(|row| serde_json::to_value(&row)) {
        Ok(Ok(mut json)) => {
            let mut names = Vec::new();
            names_in(&json, &mut names);
            // A longer name first, so that no rest of it stays.
            names.sort_by_key(|name| std::cmp::Reverse(name.len()));
            let hidden: Vec<(String, String)> =
                names.into_iter().map(|name| (name.clone(), pseudonym(tenant, &name))).collect();
            hide(&mut json, &hidden);
            // The variant is the kind.
            let inner = json.as_object().and_then(|variant| variant.values().next()).cloned().unwrap_or_default();
            ascii(&inner.to_string())
        }
        Ok(Err(error)) => ascii(&error.to_string()),
        Err(error) => ascii(&error.what),
    };
    ShownRow {
        kind: kind_name(key),
        tenant: ascii(tenant),
        id,
        expires_at: Row::expires_at(value).filter(|at| *at < Millis::MAX),
        row,
    }
}

/// Names of accounts in a row: fields that are called so, and values of entities that are accounts or hold one.
fn names_in(json: &Value, names: &mut Vec<String>) {
    let mut name = |value: Option<&Value>| {
        names.extend(value.and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned));
    };
    match json {
        Value::Object(fields) => {
            name(fields.get("account"));
            let scope = fields.get("scope").and_then(Value::as_str).unwrap_or_default();
            // Lines and traces of incidents: of sources, too, which cannot be told apart here.
            let is_target =
                fields.get("kind").and_then(Value::as_str) == Some("TARGET") || fields.contains_key("trial");
            if is_target || ["ACCOUNT", "IP_ACCOUNT", "DEVICE"].contains(&scope) {
                name(fields.get("value"));
            }
            fields.values().for_each(|value| names_in(value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| names_in(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Replaces names wherever they stand: explanations repeat them.
fn hide(json: &mut Value, hidden: &[(String, String)]) {
    match json {
        Value::Object(fields) => fields.values_mut().for_each(|value| hide(value, hidden)),
        Value::Array(values) => values.iter_mut().for_each(|value| hide(value, hidden)),
        Value::String(text) => {
            for (name, instead) in hidden {
                if text.contains(name.as_str()) {
                    *text = text.replace(name.as_str(), instead);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Nothing but printable ASCII: a terminal obeys other characters, and some turn the direction of what follows.
fn ascii(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if plain.len() >= SHOWN_MAX {
            plain.push_str("...");
            break;
        }
        if c == ' ' || c.is_ascii_graphic() {
            plain.push(c);
        } else {
            plain.extend(c.escape_unicode());
        }
    }
    plain
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What a changelog says of one key up to an offset.
#[derive(Debug, Clone, Copy)]
struct Said {
    /// Of the last value; `None`: it was removed.
    digest: Option<u64>,
    offset: i64,
    expires_at: Option<Millis>,
    /// There is a record at the offset or behind it: compaction may have taken the one that counts.
    is_newer: bool,
    is_readable: bool,
}

/// A changelog, or one of several equal shares of its keys, as far as it is needed for a comparison.
#[derive(Debug)]
pub struct Changelog {
    said: BTreeMap<Key, Said>,
    up_to: i64,
    share: (u64, u64),
    /// The last position up to the offset, as it reads.
    position: Option<Result<Meta, String>>,
    /// There is a position behind the offset: compaction may have taken the one that counts.
    has_newer_position: bool,
}

impl Changelog {
    /// The keys of share `share.0` of `share.1`, up to an offset.
    #[must_use]
    pub const fn new(up_to: i64, share: (u64, u64)) -> Changelog {
        Changelog { said: BTreeMap::new(), up_to, share, position: None, has_newer_position: false }
    }

    fn is_mine(&self, key: &Key) -> bool {
        let (share, of) = self.share;
        digest(key.as_bytes()) % of.max(1) == share
    }

    /// Whether the store's position is the one that its changelog tells.
    ///
    /// # Errors
    /// How they differ.
    pub fn check_position(&self, held: &Meta) -> Result<(), String> {
        if self.has_newer_position {
            return Ok(());
        }
        match &self.position {
            // In the changelog it does not say where it lies.
            Some(Ok(told)) if (Meta { changelog_offset: held.changelog_offset, ..told.clone() }) == *held => Ok(()),
            Some(Ok(told)) => Err(format!(
                "the state stands at input {} and stream time {}, its changelog at input {} and stream time {}",
                held.input_offset, held.stream_time, told.input_offset, told.stream_time
            )),
            Some(Err(what)) => Err(format!("the position in the changelog does not read: {what}")),
            None => Err("the changelog tells no position".to_owned()),
        }
    }

    /// Takes a record.
    pub fn take(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) {
        let key = Key::from_bytes(key);
        if key.as_bytes() == POSITION_KEY {
            if offset >= self.up_to {
                self.has_newer_position = true;
            } else {
                let read = value.map(|value| Meta::decode(value).map_err(|e| e.to_string()));
                self.position = Some(read.unwrap_or_else(|| Err("removed".to_owned())));
            }
            return;
        }
        if !self.is_mine(&key) {
            return;
        }
        let is_readable = value.is_none_or(|value| Row::decode(&key, value).is_ok());
        let new = Said {
            digest: value.map(digest),
            offset,
            expires_at: value.and_then(Row::expires_at),
            is_newer: false,
            is_readable,
        };
        match self.said.get_mut(&key) {
            Some(said) if offset >= self.up_to => said.is_newer = true,
            Some(said) => *said = new,
            None => {
                self.said.insert(key, Said { is_newer: offset >= self.up_to, ..new });
            }
        }
    }
}

/// How rows compare, of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Compared {
    pub equal: u64,
    /// In both, with other bytes.
    pub differing: u64,
    /// The changelog would not restore them.
    pub only_in_state: u64,
    /// The state has lost them.
    pub only_in_changelog: u64,
    /// In one of them and past their end: each may forget them when it likes.
    pub expired: u64,
    /// Written again behind the position of this store, which another instance has taken over since. Not compared.
    pub newer: u64,
    /// Records of the changelog that this version cannot read.
    pub unreadable: u64,
}

impl Compared {
    /// Rows that are not as they should be.
    #[must_use]
    pub const fn faults(&self) -> u64 {
        self.differing + self.only_in_state + self.only_in_changelog + self.unreadable
    }
}

/// One row that is not as it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    pub kind: String,
    pub tenant: String,
    pub id: String,
    /// `differs`, `only in state`, `only in changelog`, `unreadable in changelog`.
    pub what: &'static str,
    /// The row of the state.
    pub state: Option<String>,
    /// Where the changelog has its own.
    pub changelog_offset: Option<i64>,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Comparison {
    pub kinds: BTreeMap<String, Compared>,
    /// The first of them.
    pub examples: Vec<Fault>,
}

impl Comparison {
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.kinds.values().map(Compared::faults).sum()
    }

    /// Compares a store with its changelog, or a share of it; `stream_time` is the store's. At most `examples_max`
    /// examples are kept.
    ///
    /// # Errors
    /// The store does not read.
    pub fn add(
        &mut self,
        store: &LookedAtStore,
        changelog: Changelog,
        stream_time: Millis,
        examples_max: usize,
        pseudonym: &Pseudonym<'_>,
    ) -> Result<(), Error> {
        let is_over = |at: Option<Millis>| at.is_some_and(|at| at < stream_time);
        let mut rest = changelog;
        for row in store.rows(None) {
            let (key, value) = row?;
            if !rest.is_mine(&key) {
                continue;
            }
            let of = self.kinds.entry(kind_name(&key)).or_default();
            let said = rest.said.remove(&key);
            let (sum, what) = match said {
                Some(said) if said.is_newer => (&mut of.newer, None),
                Some(said) if !said.is_readable => (&mut of.unreadable, Some("unreadable in changelog")),
                Some(Said { digest: Some(theirs), .. }) if theirs == digest(&value) => (&mut of.equal, None),
                Some(Said { digest: Some(_), .. }) => (&mut of.differing, Some("differs")),
                Some(Said { digest: None, .. }) | None if is_over(Row::expires_at(&value)) => (&mut of.expired, None),
                Some(Said { digest: None, .. }) | None => (&mut of.only_in_state, Some("only in state")),
            };
            *sum += 1;
            if let Some(what) = what {
                self.example(&key, what, Some(&value), said, examples_max, pseudonym);
            }
        }
        for (key, said) in rest.said {
            let of = self.kinds.entry(kind_name(&key)).or_default();
            let (sum, what) = match said.digest {
                _ if said.is_newer => (&mut of.newer, None),
                _ if !said.is_readable => (&mut of.unreadable, Some("unreadable in changelog")),
                None => continue,
                Some(_) if is_over(said.expires_at) => (&mut of.expired, None),
                Some(_) => (&mut of.only_in_changelog, Some("only in changelog")),
            };
            *sum += 1;
            if let Some(what) = what {
                self.example(&key, what, None, Some(said), examples_max, pseudonym);
            }
        }
        Ok(())
    }

    fn example(
        &mut self,
        key: &Key,
        what: &'static str,
        value: Option<&[u8]>,
        said: Option<Said>,
        examples_max: usize,
        pseudonym: &Pseudonym<'_>,
    ) {
        if self.examples.len() < examples_max {
            let shown = shown(key, value.unwrap_or_default(), pseudonym);
            self.examples.push(Fault {
                kind: shown.kind,
                tenant: shown.tenant,
                id: shown.id,
                what,
                state: value.map(|_| shown.row),
                changelog_offset: said.map(|said| said.offset),
            });
        }
    }
}
