//! Images of the state folder as a crash would leave it: at fail points around a store's write, and copied file by file
//! while flushes and compactions go on. Each must open as one committed prefix, rows and position together, and the loop
//! must go on from it to the same end.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use portcullis::engine::{Key, Kind, Write};
use portcullis::log::Stores;
use portcullis::state::{Error, Meta, RocksStore, Shared, Store};
use portcullis::topology::Stage;

use crate::support::fleet::PATIENCE;
use crate::support::stages::Installation;
use crate::support::until;

const START: i64 = 1_561_682_400_000;
/// So little that every few writes the buffers are flushed, and every few flushes files are compacted.
const MEMORY: usize = 256 << 10;
/// Images of each task that are kept at most.
const IMAGES_MAX: usize = 12;

type Place = (Stage, i32);
type Rows = BTreeMap<Key, Vec<u8>>;

/// Where a process dies, in a write of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Before,
    After,
}

/// Everything that was ever written to the stores, and where the next death is.
#[derive(Default)]
struct Recorded {
    rows: BTreeMap<Place, Rows>,
    /// Every committed prefix: its position, and a digest of its rows.
    prefixes: BTreeMap<Place, Vec<(Option<Meta>, u64)>>,
    writes: usize,
    dies_at: Option<(usize, Point)>,
}

/// A state folder whose stores note what they are told.
#[derive(Clone)]
struct Disk {
    folder: PathBuf,
    shared: Shared,
    recorded: Arc<Mutex<Recorded>>,
}

impl Disk {
    fn new(folder: PathBuf) -> Disk {
        Disk { folder, shared: Shared::new(MEMORY), recorded: Arc::default() }
    }

    /// The same history over another folder.
    fn moved_to(&self, folder: PathBuf) -> Disk {
        Disk { folder, shared: Shared::new(MEMORY), recorded: Arc::clone(&self.recorded) }
    }

    fn path(&self, (stage, partition): Place) -> PathBuf {
        task_folder(&self.folder, stage, partition)
    }

    fn installation(&self) -> Installation {
        let mut installation = Installation::new(1);
        installation.keep_stores_in(self.clone());
        // A checkpoint every few turns.
        installation.turn_ms = 1_700;
        installation
    }
}

fn task_folder(folder: &Path, stage: Stage, partition: i32) -> PathBuf {
    folder.join(stage.as_str()).join(partition.to_string())
}

impl Stores for Disk {
    fn open(&mut self, stage: Stage, partition: i32) -> Result<Box<dyn Store>, Error> {
        let place = (stage, partition);
        fs::create_dir_all(self.path(place)).unwrap();
        let inner = RocksStore::open(&self.path(place), &self.shared)?;
        let (meta, rows) = contents(&inner);
        let mut recorded = self.recorded.lock().unwrap();
        let prefixes = recorded.prefixes.entry(place).or_insert_with(|| vec![(None, digest(&Rows::new()))]);
        assert!(prefixes.contains(&(meta.clone(), digest(&rows))), "{place:?}: no committed prefix at {meta:?}");
        recorded.rows.insert(place, rows);
        drop(recorded);
        Ok(Box::new(Noting { inner, place, disk: self.clone() }))
    }

    fn wipe(&mut self, stage: Stage, partition: i32) -> Result<(), Error> {
        panic!("{stage}/{partition}: state was wiped");
    }
}

struct Noting {
    inner: RocksStore,
    place: Place,
    disk: Disk,
}

impl Store for Noting {
    fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.inner.get_many(keys)
    }

    fn scan(&self, kind: Kind) -> Result<Vec<(Key, Vec<u8>)>, Error> {
        self.inner.scan(kind)
    }

    fn apply(&mut self, writes: &[Write], meta: &Meta) -> Result<(), Error> {
        let mut recorded = self.disk.recorded.lock().unwrap();
        let number = recorded.writes;
        recorded.writes += 1;
        let dies = |point| recorded.dies_at == Some((number, point));
        let [dies_before, dies_after] = [Point::Before, Point::After].map(dies);
        if dies_before {
            return Err(Error::Row("died before a write".to_owned()));
        }
        self.inner.apply(writes, meta)?;
        let rows = recorded.rows.get_mut(&self.place).unwrap();
        for (key, value) in writes {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        let prefix = (Some(meta.clone()), digest(rows));
        recorded.prefixes.get_mut(&self.place).unwrap().push(prefix);
        if dies_after { Err(Error::Row("died after a write".to_owned())) } else { Ok(()) }
    }

    fn meta(&self) -> Result<Option<Meta>, Error> {
        self.inner.meta()
    }
}

/// Position and rows of a store.
fn contents(store: &dyn Store) -> (Option<Meta>, Rows) {
    let rows = Kind::ALL.into_iter().flat_map(|kind| store.scan(kind).unwrap()).collect();
    (store.meta().unwrap(), rows)
}

fn digest(rows: &Rows) -> u64 {
    let mut hasher = DefaultHasher::new();
    rows.hash(&mut hasher);
    hasher.finish()
}

/// Copies a state folder as it is at some moment, whatever is written meanwhile: the list of files as far as
/// it goes at that moment, and the files, which never change, by a link. `None` before all stores are there, and when a file
/// went in between: no crash leaves that.
fn image(from: &Path, to: &Path) -> Option<()> {
    Stage::ALL.into_iter().try_for_each(|stage| image_of_task(&task_folder(from, stage, 0), &task_folder(to, stage, 0)))
}

fn image_of_task(from: &Path, to: &Path) -> Option<()> {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    let current = fs::read_to_string(from.join("CURRENT")).ok()?;
    let manifest = from.join(current.trim());
    let length = || fs::metadata(&manifest).map(|of| of.len()).ok();
    let before = length()?;
    let names: Vec<String> =
        fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    // With no change of the list of files around this moment, every file that the manifest names is among them.
    if length()? != before {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(&manifest).ok()?.take(before).read_to_end(&mut bytes).ok()?;
    fs::write(to.join("CURRENT"), &current).unwrap();
    fs::write(to.join(current.trim()), bytes).unwrap();
    let tables = names.iter().filter(|name| name.ends_with(".sst"));
    tables.map(|name| fs::hard_link(from.join(name), to.join(name))).all(|linked| linked.is_ok()).then_some(())
}

/// Attackers that fail on many accounts, each from a network of its own, and people who log in.
fn traffic(installation: &Installation, events: i64) {
    for number in 0..events {
        let at = START + number * 10;
        let (ip, account, outcome) = match number % 3 {
            0 => (format!("203.{}.113.9", number / 90 % 200), format!("guessed{number}"), "FAILURE"),
            _ => (format!("81.2.{}.{}", number / 250 % 250, number % 250), format!("person{number}"), "SUCCESS"),
        };
        let json = format!(
            r#"{{"event_id":"e{number}","occurred_at":{at},"account":"{account}@mail.example","outcome":"{outcome}","source_ip":"{ip}"}}"#
        );
        installation.publish(0, at, &json);
    }
}

/// What is known at the end, and what was said. Without the clock, which moves with every mark, and without fingerprints,
/// which lie in packs of one commit each.
#[derive(Debug, PartialEq)]
struct End {
    rows: BTreeMap<Place, Rows>,
    said: Vec<(String, Option<serde_json::Value>)>,
}

/// When the events are all there, and when sums of the last second have gone to the site.
fn times(events: i64) -> [i64; 2] {
    [START + events * 10, START + events * 10 + 60_000]
}

fn end(installation: &mut Installation, disk: &Disk, events: i64) -> End {
    for now in times(events) {
        installation.set_now(now);
        for _ in 0..100 {
            installation.turn();
        }
        installation.settle();
    }
    let mut rows = disk.recorded.lock().unwrap().rows.clone();
    let packed = [Kind::Clock, Kind::Seen, Kind::Traces, Kind::Entrances].map(|kind| kind as u8);
    let compared = |key: &Key| !packed.contains(&key.kind_byte());
    rows.values_mut().for_each(|rows| rows.retain(|key, _| compared(key)));
    End { rows, said: [installation.output("verdicts"), installation.output("blocklist")].concat() }
}

/// The same until the process dies.
fn die(installation: &mut Installation, events: i64) {
    for now in times(events) {
        installation.set_now(now);
        for turn in 0..100_000 {
            if installation.try_turn().is_err() {
                return;
            }
            if turn > 100 && installation.is_at_rest() {
                break;
            }
        }
    }
    panic!("did not die");
}

fn assert_same(found: &End, expected: &End, what: &str) {
    assert_eq!(found.said, expected.said, "{what}");
    for (place, rows) in &expected.rows {
        let keys: std::collections::BTreeSet<&Key> = rows.keys().chain(found.rows[place].keys()).collect();
        let differing: Vec<_> = keys.into_iter().filter(|key| rows.get(*key) != found.rows[place].get(*key)).collect();
        assert!(differing.is_empty(), "{what}: {place:?}: {} rows: {differing:?}", differing.len());
    }
}

#[test]
fn a_death_around_any_write_of_a_store_costs_nothing() {
    const EVENTS: i64 = 60;
    let folder = tempfile::tempdir().unwrap();
    let calm = Disk::new(folder.path().join("calm"));
    let mut installation = calm.installation();
    traffic(&installation, EVENTS);
    let expected = end(&mut installation, &calm, EVENTS);
    let writes = calm.recorded.lock().unwrap().writes;
    assert!(writes > 8 && expected.said.len() > 2, "{writes} writes, {} records", expected.said.len());
    for number in (0..writes).step_by((writes / 24).max(1)) {
        for point in [Point::Before, Point::After] {
            let what = format!("{point:?} write {number} of {writes}");
            let disk = Disk::new(folder.path().join(&what));
            disk.recorded.lock().unwrap().dies_at = Some((number, point));
            let mut installation = disk.installation();
            traffic(&installation, EVENTS);
            die(&mut installation, EVENTS);
            let left = folder.path().join(format!("{what}, left"));
            until(PATIENCE, "a moment without a flush", || image(&disk.folder, &left));
            installation.kill();
            let disk = disk.moved_to(left);
            installation.keep_stores_in(disk.clone());
            assert_same(&end(&mut installation, &disk, EVENTS), &expected, &what);
        }
    }
}

#[test]
fn images_taken_while_files_change_are_committed_prefixes() {
    const EVENTS: i64 = 6_000;
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path().join("state"));
    let mut installation = disk.installation();
    traffic(&installation, EVENTS);
    let stop = Arc::new(AtomicBool::new(false));
    let (told, from, to) = (Arc::clone(&stop), disk.folder.clone(), folder.path().join("images"));
    let copying = std::thread::spawn(move || take_images(&from, &to, &told));
    let expected = end(&mut installation, &disk, EVENTS);
    stop.store(true, Ordering::SeqCst);
    let images = copying.join().unwrap();
    installation.kill();

    let mut in_the_middle = 0;
    for (stage, images) in &images {
        for image in images {
            // Opening changes files.
            let opened = folder.path().join("opened");
            copy_image(image, &opened);
            in_the_middle += usize::from(check_prefix(&disk, (*stage, 0), &opened));
            fs::remove_dir_all(&opened).unwrap();
        }
    }
    let counts: Vec<usize> = images.values().map(Vec::len).collect();
    let sst = images.values().flatten().map(|image| count(image, ".sst")).max().unwrap_or_default();
    eprintln!("images of each task {counts:?}, {in_the_middle} in the middle of the run, up to {sst} SST files");
    assert!(counts.len() == 4 && counts.iter().all(|n| *n >= 2), "{counts:?}");
    assert!(in_the_middle >= 1 && sst >= 1, "{in_the_middle} in the middle, {sst} SST files");

    // Each task from an image of its own, the loop goes on over the same log.
    for number in 1..4 {
        let what = format!("image {number} of 4");
        let on = folder.path().join(&what);
        for (stage, images) in &images {
            copy_image(&images[images.len() * number / 4], &task_folder(&on, *stage, 0));
        }
        let on = disk.moved_to(on);
        installation.keep_stores_in(on.clone());
        assert_same(&end(&mut installation, &on, EVENTS), &expected, &what);
        installation.kill();
    }
}

/// Images of every task, one after the other, until told to stop; those kept are spread over the whole time.
fn take_images(from: &Path, to: &Path, stop: &AtomicBool) -> BTreeMap<Stage, Vec<PathBuf>> {
    let mut images: BTreeMap<Stage, Vec<PathBuf>> = BTreeMap::new();
    let mut every: BTreeMap<Stage, usize> = BTreeMap::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let stage = Stage::ALL[number % Stage::ALL.len()];
        let every = every.entry(stage).or_insert(1);
        let target = to.join(number.to_string());
        if !(number / Stage::ALL.len()).is_multiple_of(*every)
            || image_of_task(&task_folder(from, stage, 0), &target).is_none()
        {
            continue;
        }
        let of_stage = images.entry(stage).or_default();
        of_stage.push(target);
        if of_stage.len() > IMAGES_MAX {
            // From now on half as many.
            *every *= 2;
            let mut n = 0;
            of_stage.retain(|path| {
                n += 1;
                n % 2 == 1 || fs::remove_dir_all(path).is_err()
            });
        }
    }
    images
}

fn copy_image(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Whether it lies strictly between the first and the last.
fn check_prefix(disk: &Disk, place: Place, image: &Path) -> bool {
    let (meta, rows) = contents(&RocksStore::open(image, &Shared::new(MEMORY)).unwrap());
    let recorded = disk.recorded.lock().unwrap();
    let prefixes = &recorded.prefixes[&place];
    let digest = digest(&rows);
    let Some(found) = prefixes.iter().position(|prefix| *prefix == (meta.clone(), digest)) else {
        panic!("{}: {place:?} is no committed prefix: {meta:?}, {} rows", image.display(), rows.len());
    };
    found > 0 && found + 1 < prefixes.len()
}

fn count(image: &Path, extension: &str) -> usize {
    let entries = fs::read_dir(image).unwrap();
    entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(extension)).count()
}
