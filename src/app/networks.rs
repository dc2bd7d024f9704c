//! The files of networks: read at start, and again whenever one changes.
//!
//! What is bad never takes the place of what is good: a file that does not read any more leaves what it said last in force,
//! and is told and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::clock::ProcessClock;
use super::settings::Settings;
use crate::event::Millis;
use crate::log::Clock as _;
use crate::topology::networks::{
    CurrentNetworks, DATABASE_BYTES_MAX, Database, Facts, LIST_BYTES_MAX, ListKind, NetworkList, Networks,
};

/// Hosting providers that come with the program.
const HOSTING: &str = include_str!("../../topology/hosting.txt");
/// Its name in the folder `topology`.
const HOSTING_FILE: &str = "hosting.txt";
/// How often it is looked whether a file changed. One that still changes from one look to the next is left alone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const AGE: &str = "portcullis_networks_file_age_seconds";
const RELOADS: &str = "portcullis_networks_reloads_total";
const FAILURES: &str = "portcullis_networks_reload_failures_total";

/// Which files there are, by the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkPaths {
    /// MMDB files; of several that know a field the first is believed.
    pub mmdb: Vec<PathBuf>,
    pub hosting_lists: Vec<PathBuf>,
    pub proxy_lists: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mmdb,
    List(ListKind),
}

/// What a file said when it was good.
#[derive(Debug)]
enum Content {
    Mmdb(Database),
    List(NetworkList),
}

/// By what it is seen that a file is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

#[derive(Debug)]
struct NetworkFile {
    path: PathBuf,
    kind: Kind,
    content: Content,
    /// That of the content, or of what was refused since.
    seen: Option<Stamp>,
    /// That of the last look, where it is another one.
    changing: Option<Option<Stamp>>,
}

impl NetworkFile {
    fn open(path: PathBuf, kind: Kind) -> Result<NetworkFile> {
        let seen = stamp(&path);
        let content = read(&path, kind)?;
        Ok(NetworkFile { path, kind, content, seen, changing: None })
    }

    /// Its name in metrics.
    fn label(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether it has become another one, and stayed so since the last look.
    fn has_settled(&mut self) -> bool {
        let now = stamp(&self.path);
        if now == self.seen {
            self.changing = None;
            return false;
        }
        let has_settled = self.changing == Some(now);
        self.changing = Some(now);
        has_settled
    }

    /// Takes what stands in it now.
    ///
    /// # Errors
    /// It is bad; what it said last stands, and this state of it is not tried again.
    fn reload(&mut self) -> Result<()> {
        self.seen = self.changing.take().flatten();
        if self.seen.is_none() {
            return Err(anyhow!("{} is gone", self.path.display()));
        }
        self.content = read(&self.path, self.kind)?;
        Ok(())
    }

    /// When its data was made, in milliseconds since 1970.
    fn made_at(&self) -> Option<Millis> {
        match &self.content {
            Content::Mmdb(database) => i64::try_from(database.built_at).ok()?.checked_mul(1_000),
            Content::List(_) => {
                let since = self.seen?.modified?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                i64::try_from(since.as_millis()).ok()
            }
        }
    }
}

/// All of them, and the list that comes with the program.
#[derive(Debug)]
pub struct NetworkFiles {
    files: Vec<NetworkFile>,
    bundled: Option<NetworkList>,
}

impl NetworkFiles {
    /// Reads the files of the settings.
    ///
    /// # Errors
    /// One of them is missing or bad: which, and what is wrong.
    pub fn read(settings: &Settings) -> Result<NetworkFiles> {
        let paths = &settings.networks;
        let own = settings.topology.as_ref().map(|folder| folder.join(HOSTING_FILE)).filter(|path| path.exists());
        let bundled = own.is_none().then(bundled).transpose()?;
        let mmdb = paths.mmdb.iter().map(|path| (path, Kind::Mmdb));
        let hosting = own.iter().chain(&paths.hosting_lists).map(|path| (path, Kind::List(ListKind::Hosting)));
        let proxies = paths.proxy_lists.iter().map(|path| (path, Kind::List(ListKind::Proxy)));
        let all = mmdb.chain(hosting).chain(proxies);
        let files = all.map(|(path, kind)| NetworkFile::open(path.clone(), kind)).collect::<Result<_>>()?;
        Ok(NetworkFiles { files, bundled })
    }

    /// What all of them say together.
    ///
    /// # Errors
    /// It is too much.
    pub fn networks(&self) -> Result<Networks> {
        let databases = self.files.iter().filter_map(|file| match &file.content {
            Content::Mmdb(database) => Some(&database.layer),
            Content::List(_) => None,
        });
        let lists = self.files.iter().filter_map(|file| match &file.content {
            Content::List(list) => Some(list),
            Content::Mmdb(_) => None,
        });
        Networks::new(databases, lists.chain(&self.bundled)).map_err(|what| anyhow!(what))
    }

    /// The MMDB files: where each lies, what its publisher calls it, when it was made, in seconds since 1970.
    pub(super) fn databases(&self) -> impl Iterator<Item = (&Path, &Database)> {
        self.files.iter().filter_map(|file| match &file.content {
            Content::Mmdb(database) => Some((file.path.as_path(), database)),
            Content::List(_) => None,
        })
    }

    /// Reads again whatever changed; what they say now, when it is something else.
    fn look(&mut self) -> Option<Networks> {
        let mut has_changed = false;
        for file in &mut self.files {
            if !file.has_settled() {
                continue;
            }
            match file.reload() {
                Ok(()) => {
                    has_changed = true;
                    counter!(RELOADS, "file" => file.label()).increment(1);
                    tracing::info!(file = %file.path.display(), "a file of networks was read again");
                }
                Err(error) => {
                    counter!(FAILURES, "file" => file.label()).increment(1);
                    let error = format!("{error:#}");
                    tracing::error!(
                        error,
                        "a file of networks cannot be read again; what it said before stays in force"
                    );
                }
            }
        }
        if !has_changed {
            return None;
        }
        self.networks().inspect_err(|error| tracing::error!(%error, "the networks stay as they were")).ok()
    }

    fn show(&self, now: Millis) {
        for file in &self.files {
            if let Some(made_at) = file.made_at() {
                gauge!(AGE, "file" => file.label()).set(now.saturating_sub(made_at).max(0) as f64 / 1_000.0);
            }
        }
    }
}

/// What the list says that comes with the program.
///
/// # Errors
/// It does not read; a test keeps it so that it does.
fn bundled() -> Result<NetworkList> {
    NetworkList::parse(ListKind::Hosting, HOSTING).map_err(|what| anyhow!("bundled {HOSTING_FILE}: {what}"))
}

/// What is known without any file.
///
/// # Errors
/// As [`bundled`].
pub fn bundled_networks() -> Result<Networks> {
    Networks::new([], [&bundled()?]).map_err(|what| anyhow!(what))
}

/// Reads the files of the settings, once.
///
/// # Errors
/// As [`NetworkFiles::read`].
pub fn once(settings: &Settings) -> Result<Networks> {
    NetworkFiles::read(settings)?.networks()
}

/// Reads the files of the settings, and again whenever one of them changes, as long as somebody holds what is given back.
///
/// # Errors
/// As [`NetworkFiles::read`].
pub fn watched(settings: &Settings) -> Result<Arc<CurrentNetworks>> {
    let files = NetworkFiles::read(settings)?;
    let networks = files.networks()?;
    if !networks.is_empty() {
        tracing::info!(ranges = networks.len(), files = files.files.len(), "networks were read");
    }
    let current = Arc::new(CurrentNetworks::new(networks));
    if !files.files.is_empty() {
        describe_gauge!(AGE, metrics::Unit::Seconds, "since the data of a file of networks was made");
        describe_counter!(RELOADS, "a file of networks changed and was read again");
        describe_counter!(FAILURES, "a file of networks changed and does not read; what it said before is in force");
        for file in &files.files {
            counter!(RELOADS, "file" => file.label()).increment(0);
            counter!(FAILURES, "file" => file.label()).increment(0);
        }
        let watching = Arc::downgrade(&current);
        thread::Builder::new().name("networks".to_owned()).spawn(move || watch(files, &watching))?;
    }
    Ok(current)
}

fn watch(mut files: NetworkFiles, current: &Weak<CurrentNetworks>) {
    let clock = ProcessClock::real();
    loop {
        files.show(clock.now());
        thread::park_timeout(LOOK_EVERY);
        let Some(current) = current.upgrade() else { return };
        if let Some(networks) = files.look() {
            current.set(networks);
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { bytes: metadata.len(), modified: metadata.modified().ok(), inode: metadata.ino() })
}

fn read(path: &Path, kind: Kind) -> Result<Content> {
    let bytes_max = match kind {
        Kind::Mmdb => DATABASE_BYTES_MAX,
        Kind::List(_) => LIST_BYTES_MAX,
    };
    let what = match kind {
        Kind::Mmdb => "MMDB file",
        Kind::List(ListKind::Hosting) => "list of hosting networks",
        Kind::List(ListKind::Proxy) => "list of proxies",
    };
    let name = || format!("{what} {}", path.display());
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    read.with_context(name)?;
    if bytes.len() as u64 > bytes_max {
        return Err(anyhow!("{}: it has over {} MiB; larger ones are not taken", name(), bytes_max >> 20));
    }
    let content = match kind {
        Kind::Mmdb => Database::read(&bytes).map(Content::Mmdb),
        Kind::List(kind) => {
            let text = String::from_utf8(bytes).map_err(|_| anyhow!("{}: it is no UTF-8 text", name()))?;
            NetworkList::parse(kind, &text).map(Content::List)
        }
    };
    content.map_err(|what| anyhow!("{}: {what}", name()))
}

/// Facts as JSON has them.
pub(super) fn as_json(facts: &Facts) -> BTreeMap<&'static str, serde_json::Value> {
    BTreeMap::from([
        ("asn", facts.asn.into()),
        ("organisation", facts.organisation.as_deref().into()),
        ("country", facts.country.as_deref().into()),
        ("hosting", facts.hosting.into()),
        ("proxy", facts.proxy.into()),
    ])
}
