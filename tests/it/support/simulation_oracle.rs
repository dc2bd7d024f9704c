//! What must have come of it, said without a loop, a log or a fault: each stage's committed input, worked off step by
//! step by one fresh task, gives the committed outputs of that stage and its state, to the byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use portcullis::engine::frame::FrameReader;
use portcullis::engine::{
    ControlChange, Counter, Counts, Effects, Entrance, Env, Input, Item, Key, Kind, Output, Raw, Row, Task,
};
use portcullis::event::{Command, Entity, Millis};
use portcullis::log::Incoming;
use portcullis::topology::{Ask, Request, Stage, read_change};
use portcullis::window::{Arrived, TRACES_KEPT_MS, Trace};

use super::simulation_world::{PARTITIONS, Rest, World};

/// Faults that are told of one seed.
const FAULTS_MAX: usize = 12;

/// One partition of one stage.
type Place = (Stage, i32);

/// A public record: value and headers.
type Public = (Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

/// A fresh task that has worked off its whole input.
struct Replayed {
    rows: BTreeMap<Key, Vec<u8>>,
    now: Millis,
}

#[derive(Default)]
struct Expected {
    /// Items for each task, by the task that sends them, in its order.
    items: BTreeMap<(Place, Place), Vec<Item>>,
    /// Public records by topic and key, in the order of their one owner.
    public: BTreeMap<(&'static str, String), Vec<Public>>,
    tasks: BTreeMap<Place, Replayed>,
    /// Dead letters: partition and offset of `login-events`.
    dead: Vec<(i32, i64)>,
    counts: Counts,
}

struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: impl FnOnce() -> String) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(fault());
        }
    }

    fn equal<T: PartialEq + Debug>(&mut self, what: &str, found: &[T], expected: &[T]) {
        if found == expected {
            return;
        }
        let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
        self.add(|| {
            format!(
                "{what}: {} instead of {}; the first that differs is number {at}: {:?} instead of {:?}",
                found.len(),
                expected.len(),
                found.get(at),
                expected.get(at)
            )
        });
    }

    /// The same whatever the order.
    fn same<T: Ord + Debug>(&mut self, what: &str, found: Vec<T>, expected: Vec<T>) {
        let mut sums: BTreeMap<T, i64> = BTreeMap::new();
        found.into_iter().for_each(|one| *sums.entry(one).or_default() += 1);
        expected.into_iter().for_each(|one| *sums.entry(one).or_default() -= 1);
        sums.retain(|_, sum| *sum != 0);
        if let Some((one, sum)) = sums.iter().next() {
            self.add(|| format!("{what}: {} differ; {sum:+} of {one:?}", sums.len()));
        }
    }
}

/// Compares everything that is committed with what it must be.
///
/// # Errors
/// What is lost, doubled, extra or different.
pub fn check(world: &World, rest: &Rest) -> Result<(), String> {
    let mut faults = Faults(Vec::new());
    let unfinished = world.cluster.unfinished();
    if !unfinished.is_empty() {
        faults.add(|| format!("not finished: {unfinished:?}"));
    }
    let input = records(world, Stage::Intake);
    let published: Vec<(i32, i64)> = rest
        .published
        .iter()
        .filter(|(_, _, planned)| planned.topic == "login-events")
        .map(|(part, offset, _)| (part.partition, *offset))
        .collect();
    let unreadable = rest.published.iter().filter(|(part, offset, planned)| {
        let record = Incoming {
            part: part.clone(),
            offset: *offset,
            timestamp: planned.at,
            key: planned.key.clone().map(String::into_bytes),
            value: planned.value.clone(),
            headers: planned.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        planned.topic == "playbooks" && !is_readable(&record)
    });
    let unreadable = unreadable.count() as u64;
    let held: Vec<(i32, i64)> = input.iter().map(|record| (record.part.partition, record.offset)).collect();
    faults.same("login-events", held, published);

    let mut expected = Expected::default();
    for partition in 0..PARTITIONS {
        replay_intake(world, partition, &input, &mut expected);
        for stage in [Stage::Source, Stage::Account, Stage::Site] {
            replay(world, (stage, partition), &mut expected);
        }
    }
    expected.counts.add(Counter::PlaybooksRejected, unreadable);
    // What compaction took before intake read it was seen by nobody.
    let unseen = if rest.told.cleanings > 0 { unreadable } else { 0 };
    check_counts(rest, &expected, unseen, input.len() as u64, &mut faults);
    check_items(world, &expected, &mut faults);
    check_control(world, &mut faults);
    check_requests(world, &mut faults);
    check_public(world, rest, &expected, &mut faults);
    check_dead_letters(world, &expected, &mut faults);
    check_state(world, rest, &expected, &mut faults);
    if faults.0.is_empty() { Ok(()) } else { Err(faults.0.join("\n")) }
}

fn records(world: &World, stage: Stage) -> Vec<Incoming> {
    world.cluster.records(&world.topics.input(stage))
}

fn items_of(record: &Incoming) -> Vec<Item> {
    let reader = FrameReader::new(record.value.as_deref().unwrap_or_default()).expect("a frame");
    reader.map(|item| item.expect("an item")).collect()
}

/// Intake's part that follows from its log: attempts and dead letters. Its ticks follow from its clock.
fn replay_intake(world: &World, partition: i32, input: &[Incoming], expected: &mut Expected) {
    let mut task = Task::open(Stage::Intake, Vec::new(), &world.env);
    for record in input.iter().filter(|record| record.part.partition == partition) {
        let raw = Raw {
            value: record.value.as_deref(),
            schema_header: None,
            writer: None,
            traceparent: None,
            timestamp: record.timestamp,
            clock: record.timestamp,
            tenant: None,
            networks: None,
        };
        let mut effects = Effects::default();
        task.step(Input::Raw(raw), &mut effects);
        expected.counts.merge(&effects.counts);
        for output in effects.outputs {
            match output {
                Output::DeadLetter(_) => expected.dead.push((partition, record.offset)),
                Output::Item { .. }
                | Output::MarkAll { .. }
                | Output::Verdict(_)
                | Output::Block(_)
                | Output::Status(_)
                | Output::Incident(_)
                | Output::KnownPair(_)
                | Output::Detail(_)
                | Output::Activity(_)
                | Output::Playbook(_) => expected.take((Stage::Intake, partition), output, world),
            }
        }
    }
}

fn replay(world: &World, place: Place, expected: &mut Expected) {
    let (stage, partition) = place;
    let mut task = Task::open(stage, Vec::new(), &world.env).speaking(place == (Stage::Site, 0));
    for record in records(world, stage).iter().filter(|record| record.part.partition == partition) {
        for item in items_of(record) {
            let input = match item {
                Item::Attempt(attempt) => Input::Attempt(attempt),
                Item::Sourced(sourced) => Input::Sourced(sourced),
                Item::Device(sourced) => Input::Device(sourced),
                Item::Note(note) => Input::Note(note),
                Item::Partial(partial) => Input::Partial(partial),
                Item::Mark(mark) => Input::Mark(mark),
                Item::Request(request) => Input::Request(request),
            };
            // What has fallen due by the time that an input brings, or that was reached before, comes before it. What
            // people ask brings none.
            let until = input.at().map_or(Millis::MIN, |at| at.max(task.now()));
            while let Some(due) = task.due(until).first().cloned() {
                step(world, place, &mut task, Input::Due(due.0, due.1), expected);
            }
            step(world, place, &mut task, input, expected);
        }
    }
    let now = task.now();
    let rows = task.seal().into_iter().filter_map(|(key, row)| Some((key, row?))).collect();
    expected.tasks.insert(place, Replayed { rows, now });
}

fn step(world: &World, place: Place, task: &mut Task, input: Input<'_>, expected: &mut Expected) {
    let mut keys = Vec::new();
    let mut effects = Effects::default();
    task.turn_to(&input, &mut effects);
    task.reads(&input, &mut keys);
    for key in keys {
        if !task.view_mut().holds(&key) {
            task.view_mut().load(key, None);
        }
    }
    task.step(input, &mut effects);
    expected.counts.merge(&effects.counts);
    effects.outputs.into_iter().for_each(|output| expected.take(place, output, world));
}

impl Expected {
    fn take(&mut self, from: Place, output: Output, world: &World) {
        let json = |name: &str, record: &dyn erased::Record| record.encode(name, world);
        match output {
            Output::Item { to, route, item } => {
                let partition = (route % PARTITIONS as u64) as i32;
                self.items.entry(((to, partition), from)).or_default().push(item);
            }
            Output::MarkAll { to, mark } => (0..PARTITIONS).for_each(|partition| {
                let item = Item::Mark(mark.clone());
                self.items.entry(((to, partition), from)).or_default().push(item);
            }),
            Output::Verdict(verdict) => {
                let key = Entity {
                    tenant: verdict.tenant.as_str().into(),
                    scope: verdict.scope,
                    value: verdict.value.as_str().into(),
                };
                self.publish("verdicts", key.key(), Some(json("verdicts", &*verdict)), Vec::new());
            }
            Output::Block(change) => {
                let (value, headers) = match change.entry() {
                    Some(entry) => (Some(json("blocklist", &entry)), Vec::new()),
                    None => {
                        let generation = ("generation".to_owned(), change.generation().to_string().into_bytes());
                        (None, vec![generation, ("cause".to_owned(), change.cause.as_bytes().to_vec())])
                    }
                };
                self.publish("blocklist", change.entity.key(), value, headers);
            }
            Output::Status(status) => {
                let value = json("attack-status", &*status);
                self.publish("attack-status", status.tenant.clone(), Some(value), Vec::new());
            }
            Output::Incident(incident) => {
                let value = json("incidents", &*incident);
                self.publish("incidents", incident.incident_id.clone(), Some(value), Vec::new());
            }
            Output::Detail(detail) => {
                let value = json("incident-details", &*detail);
                self.publish("incident-details", detail.key(), Some(value), Vec::new());
            }
            Output::Activity(slice) => {
                let value = json("activity", &*slice);
                self.publish("activity", slice.tenant.clone(), Some(value), Vec::new());
            }
            Output::KnownPair(pair) => {
                let key = key_text("known-pairs", &pair.key.to_be_bytes());
                self.publish("known-pairs", key, pair.value().map(Vec::from), Vec::new());
            }
            Output::Playbook(_) => {}
            Output::DeadLetter(letter) => panic!("{from:?}: {letter:?}"),
        }
    }

    fn publish(&mut self, topic: &'static str, key: String, value: Option<Vec<u8>>, headers: Vec<(String, Vec<u8>)>) {
        self.public.entry((topic, key)).or_default().push((value, headers));
    }
}

/// Records of several types, encoded by their topic.
mod erased {
    use super::World;

    pub trait Record {
        fn encode(&self, name: &str, world: &World) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Record for T {
        fn encode(&self, name: &str, world: &World) -> Vec<u8> {
            world.wiring.encoder.encode(name, self).expect("a record of its schema")
        }
    }
}

/// Every event ends in one of the five ways; and no process has counted what was not committed.
fn check_counts(rest: &Rest, expected: &Expected, unseen: u64, events: u64, faults: &mut Faults) {
    let accounted = (expected.counts.get(Counter::EventsIn), expected.counts.accounted());
    if accounted != (events, events) {
        faults.add(|| format!("{events} events, but in and accounted for are {accounted:?}"));
    }
    let told = &rest.told;
    // A process that ends between the transaction and its counting takes the counts with it, and so does one whose tasks
    // are taken over and moved on while it is in doubt: nothing tells it any more. One that stands still in a doubt may
    // find the very offsets that it wanted, committed by its successor, and both have counted.
    let may_miss = told.crashes + told.kills + told.fenced + told.unknown > 0;
    let may_double = told.stops > 0;
    for counter in Counter::ALL {
        let (told, must) = (rest.counts.get(*counter), expected.counts.get(*counter));
        let unseen = if *counter == Counter::PlaybooksRejected { unseen } else { 0 };
        if (told > must && !may_double) || (told + unseen < must && !may_miss) {
            faults.add(|| format!("counter {}: {told} instead of {must}", counter.as_str()));
        }
    }
}

/// The task that sent an item, where the item says so.
fn sender(env: &Env, item: &Item) -> Option<Place> {
    let partition = |route: u64| (route % PARTITIONS as u64) as i32;
    match item {
        Item::Attempt(attempt) => {
            let (_, partition) = attempt.event_id.split_once('@').expect("an id with its partition");
            Some((Stage::Intake, partition.parse().expect("a partition")))
        }
        Item::Sourced(sourced) | Item::Device(sourced) => {
            let attempt = &sourced.attempt;
            Some((Stage::Source, partition(env.route_network(&attempt.tenant, attempt.source))))
        }
        Item::Note(note) => Some((Stage::Source, partition(env.route_network(&note.tenant, note.source)))),
        Item::Partial(_) | Item::Mark(_) | Item::Request(_) => None,
    }
}

fn bytes(item: &Item) -> Vec<u8> {
    postcard::to_allocvec(item).expect("an item")
}

/// Between stages: each sender's items in its order; sums and marks whatever their order.
fn check_items(world: &World, expected: &Expected, faults: &mut Faults) {
    for stage in [Stage::Source, Stage::Account, Stage::Site] {
        for partition in 0..PARTITIONS {
            let mut found: BTreeMap<Place, Vec<Item>> = BTreeMap::new();
            let mut loose = Vec::new();
            for record in records(world, stage).iter().filter(|record| record.part.partition == partition) {
                for item in items_of(record) {
                    match sender(&world.env, &item) {
                        Some(sender) => found.entry(sender).or_default().push(item),
                        None if matches!(item, Item::Request(_)) => {}
                        None => loose.push(item),
                    }
                }
            }
            let mut must: BTreeMap<Place, Vec<Item>> = BTreeMap::new();
            let mut loose_must = Vec::new();
            let to_here = expected.items.iter().filter(|((to, _), _)| *to == (stage, partition));
            for item in to_here.flat_map(|(_, items)| items) {
                match sender(&world.env, item) {
                    Some(sender) => must.entry(sender).or_default().push(item.clone()),
                    None => loose_must.push(item.clone()),
                }
            }
            for sender in found.keys().chain(must.keys()).copied().collect::<BTreeSet<_>>() {
                let what = format!("from {sender:?} to {stage}[{partition}]");
                let (found, must) = (found.remove(&sender), must.remove(&sender));
                faults.equal(&what, &found.unwrap_or_default(), &must.unwrap_or_default());
            }
            if stage != Stage::Source {
                let what = format!("sums and marks to {stage}[{partition}]");
                let shown = |items: Vec<Item>| items.iter().map(|item| (bytes(item), format!("{item:?}"))).collect();
                faults.same(&what, shown(loose), shown(loose_must));
            }
        }
    }
}

/// What people ask for reaches one task, once.
fn check_requests(world: &World, faults: &mut Faults) {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for record in [Stage::Source, Stage::Account, Stage::Site].into_iter().flat_map(|stage| records(world, stage)) {
        for item in items_of(&record) {
            if let Item::Request(request) = item {
                *found.entry(request.command_id.to_string()).or_default() += 1;
            }
        }
    }
    let commands = world.cluster.records("commands");
    let must: BTreeMap<String, usize> = commands
        .iter()
        .filter_map(|record| serde_json::from_slice::<Command>(record.value.as_deref()?).ok())
        .filter(|command| Request::of(command, 0).is_ok_and(|request| request.ask != Ask::Watch))
        .map(|command| (command.command_id, 1))
        .collect();
    if found != must {
        faults.add(|| format!("requests {found:?} instead of {must:?}"));
    }
}

/// Whether intake passes a change of a playbook on.
fn is_readable(record: &Incoming) -> bool {
    let header = |name: &str| record.header(name);
    read_change(record.key.as_deref(), record.value.as_deref(), header, record.timestamp).is_ok()
}

/// Each change of control reaches each source task once.
fn check_control(world: &World, faults: &mut Faults) {
    for partition in 0..PARTITIONS {
        let mut found = Vec::new();
        for record in records(world, Stage::Source).iter().filter(|record| record.part.partition == partition) {
            for item in items_of(record) {
                if let Item::Mark(mark) = item {
                    found.extend(mark.changes.iter().map(|change: &ControlChange| (change.name(), change.version())));
                }
            }
        }
        let name = |topic: &str, record: &Incoming| {
            let key = String::from_utf8(record.key.clone().unwrap_or_default()).expect("a key");
            (format!("{topic}|{key}"), record.offset)
        };
        let mut must = Vec::new();
        for (topic, kind) in [("attack-status", "status"), ("exemptions", "exemption"), ("playbooks", "playbook")] {
            let records = world.cluster.records(topic);
            let told = records.iter().filter(|record| topic != "playbooks" || is_readable(record));
            must.extend(told.map(|record| name(kind, record)));
        }
        // What was compacted away was told as well, so only what is still there must be there.
        let held: BTreeSet<&(String, i64)> = must.iter().collect();
        let doubled = found.len() - found.iter().collect::<BTreeSet<_>>().len();
        if doubled > 0 {
            faults.add(|| format!("{doubled} changes of control came twice to source[{partition}]"));
        }
        let lost: Vec<_> = held.into_iter().filter(|change| !found.contains(change)).collect();
        if !lost.is_empty() {
            faults.add(|| format!("source[{partition}] never heard of {lost:?}"));
        }
    }
}

/// A record's key as text: as it is, or its digits where it is a hash.
fn key_text(topic: &str, key: &[u8]) -> String {
    match topic {
        "known-pairs" => key.iter().map(|byte| format!("{byte:02x}")).collect(),
        _ => String::from_utf8(key.to_vec()).expect("a key"),
    }
}

/// Public topics, key by key. Once compaction has run, only the last record of a key is sure to be there.
fn check_public(world: &World, rest: &Rest, expected: &Expected, faults: &mut Faults) {
    let mut found: BTreeMap<(&'static str, String), Vec<Public>> = BTreeMap::new();
    for topic in ["verdicts", "blocklist", "attack-status", "incidents", "incident-details", "activity", "known-pairs"]
    {
        for record in world.cluster.records(topic) {
            let key = key_text(topic, &record.key.unwrap_or_default());
            found.entry((topic, key)).or_default().push((record.value, record.headers));
        }
    }
    for place in found.keys().chain(expected.public.keys()).cloned().collect::<BTreeSet<_>>() {
        let is_compacted = !["verdicts", "activity"].contains(&place.0) && rest.told.cleanings > 0;
        let what = format!("{}, {}", place.0, place.1);
        let (found, must) = (found.remove(&place).unwrap_or_default(), expected.public.get(&place));
        let must: &[Public] = must.map_or(&[], Vec::as_slice);
        if is_compacted && found.len() < must.len() && !found.is_empty() {
            let left = found.iter().filter(|record| must.contains(record)).count();
            if left < found.len() || found.last() != must.last() {
                faults.equal(&what, &shown(&found), &shown(must));
            }
        } else {
            faults.equal(&what, &shown(&found), &shown(must));
        }
    }
}

fn shown(records: &[Public]) -> Vec<String> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let one = |(value, headers): &Public| {
        let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
        format!("{} {headers:?}", value.as_ref().map_or("tombstone".to_owned(), text))
    };
    records.iter().map(one).collect()
}

fn check_dead_letters(world: &World, expected: &Expected, faults: &mut Faults) {
    let number = |record: &Incoming, name: &str| -> i64 {
        std::str::from_utf8(record.header(name).unwrap_or_default()).unwrap_or_default().parse().unwrap_or(-1)
    };
    let letters = world.cluster.records("login-events-dlq");
    let others: Vec<_> = letters.iter().filter(|record| record.header("stage") != Some(b"intake")).collect();
    if !others.is_empty() {
        faults.add(|| format!("dead letters of other stages: {others:?}"));
    }
    let found = letters.iter().map(|record| (number(record, "partition") as i32, number(record, "offset")));
    faults.same("dead letters", found.collect(), expected.dead.clone());
}

/// A row as it is compared: fingerprints and traces one by one, since packs are cut by commits.
#[derive(Debug, PartialEq)]
enum Held {
    Row(Box<Row>, Millis),
    Print(u32),
    Trace(Trace),
    Entrance(Box<Entrance>),
}

/// What of a store means anything at stream time, by key.
fn meaning(rows: &BTreeMap<Key, Vec<u8>>, now: Millis, keep_ms: Millis) -> BTreeMap<(Key, u64), Held> {
    let mut held = BTreeMap::new();
    let mut traces = 0;
    for (key, bytes) in rows.iter().filter(|(key, _)| key.kind_byte() != 0) {
        let expires_at = Row::expires_at(bytes).expect("an expiry");
        if key.kind_byte() == Kind::Seen as u8 {
            // Fields of `window::SeenPack`, behind version and expiry.
            type Pack = (i64, Vec<(u64, u32, u32)>);
            let (newest, prints): Pack = postcard::from_bytes(&bytes[9..]).expect("a pack");
            for (id, content, age_s) in prints {
                let at_s = newest - i64::from(age_s);
                if at_s >= (now - keep_ms).div_euclid(1000) {
                    // A print that was taken anew stands in several packs.
                    let place = (Key::from_bytes(&[key.kind_byte()]), id);
                    let same = at_s as u32 ^ content;
                    held.insert(place, Held::Print(same));
                }
            }
        } else if key.kind_byte() == Kind::Traces as u8 {
            let Ok(Row::Traces(pack)) = Row::decode(key, bytes) else { panic!("a pack of traces") };
            for trace in pack.into_iter().filter(|trace| trace.at >= now - TRACES_KEPT_MS) {
                traces += 1;
                held.insert((Key::from_bytes(&[key.kind_byte()]), traces), Held::Trace(trace));
            }
        } else if key.kind_byte() == Kind::Entrances as u8 {
            let Ok(Row::Entrances(pack)) = Row::decode(key, bytes) else { panic!("a pack of entrances") };
            for entrance in pack.into_iter().filter(|entrance| entrance.at() >= now - TRACES_KEPT_MS) {
                traces += 1;
                held.insert((Key::from_bytes(&[key.kind_byte()]), traces), Held::Entrance(Box::new(entrance)));
            }
        } else if expires_at > now {
            let row = Row::decode(key, bytes).expect("a row");
            held.insert((key.clone(), 0), Held::Row(Box::new(row), expires_at));
        }
    }
    held
}

/// The store of each task, its changelog, and the fresh run hold the same.
fn check_state(world: &World, rest: &Rest, expected: &Expected, faults: &mut Faults) {
    let keep_ms = world.env.limits.seen_ms();
    for (place, replayed) in &expected.tasks {
        let (stage, partition) = *place;
        let Some(store) = rest.stores.get(place) else {
            faults.add(|| format!("nobody has the store of {stage}[{partition}]"));
            continue;
        };
        let mut changelog: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for record in world.cluster.records(&world.topics.changelog(stage)) {
            if record.part.partition == partition {
                let key = Key::from_bytes(record.key.as_deref().unwrap_or_default());
                match record.value {
                    Some(value) => changelog.insert(key, value),
                    None => changelog.remove(&key),
                };
            }
        }
        let fresh = meaning(&replayed.rows, replayed.now, keep_ms);
        for (what, rows) in [("store", store), ("changelog", &changelog)] {
            let found = meaning(rows, replayed.now, keep_ms);
            let differ: Vec<_> = found
                .keys()
                .chain(fresh.keys())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .filter(|key| found.get(*key) != fresh.get(*key))
                .collect();
            if let Some(first) = differ.first() {
                faults.add(|| {
                    format!(
                        "{what} of {stage}[{partition}]: {} rows differ; {first:?}: {:?} instead of {:?}",
                        differ.len(),
                        found.get(*first),
                        fresh.get(*first)
                    )
                });
            }
        }
    }
}
