//! What a start refuses: it says what happened and what to do, with an exit code, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::event::wire::login_event_to_json;
use portcullis::event::{LoginEvent, Outcome};
use portcullis::log::kafka::topic_partitions;
use portcullis::log::publish::Publisher;
use portcullis::state::{Folder, Meta, RocksStore, Shared, Store};
use portcullis::topology::Stage;
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::support::job::Installed;
use crate::support::kafka::shared;
use crate::support::records::{DEADLINE, admin, flush, make_topic, producer, send, wait};
use crate::support::until;

/// An installation that worked off some events and was stopped.
struct Stopped {
    installed: Installed,
    state: PathBuf,
}

const EVENTS: u64 = 80;

impl Stopped {
    fn after_a_run(name: &str) -> Stopped {
        let installed = Installed::new(name);
        installed.done(&["topics", "apply"]);
        let state = installed.folder.path().join("state");
        let stopped = Stopped { installed, state };
        stopped.publish();
        let output = stopped.run(&stopped.state, &[]);
        assert!(output.0 == Some(0), "{output:?}");
        stopped
    }

    fn publish(&self) {
        let publisher = Publisher::new(&self.installed.connection().client).unwrap();
        for number in 0..EVENTS {
            let event = LoginEvent {
                event_id: format!("event-{number}"),
                occurred_at: 1_767_607_200_000,
                account: format!("person{number}@mail.example"),
                outcome: Outcome::Success,
                source_ip: format!("81.2.{number}.1"),
                ..LoginEvent::default()
            };
            let key = number.to_string();
            let topic = self.installed.topic("login-events");
            publisher.send(&topic, Some(key.as_bytes()), &login_event_to_json(&event), 1_767_607_200_000).unwrap();
        }
        assert_eq!(publisher.flush(DEADLINE).unwrap().failed, 0);
    }

    /// Runs until everything is worked off, or it is refused: exit code and words.
    fn run(&self, state: &Path, flags: &[&str]) -> (Option<i32>, String) {
        let state = state.display().to_string();
        let run = ["run", "--no-warm-up", "--until-caught-up", "--leave-on-stop", "--state-dir", &state];
        let output = self.installed.output(&[&run, flags].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[track_caller]
    fn refused(&self, what: &str, state: &Path, flags: &[&str], code: i32, words: &[&str]) {
        let (found, said) = self.run(state, flags);
        assert_eq!(found, Some(code), "{what}: {said}");
        let last = said.lines().rev().take_while(|line| !line.contains(" INFO ")).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        for part in words {
            assert!(last.contains(part), "{what}: `{part}` is not in: {last}");
        }
    }

    /// A copy of the state folder.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.installed.folder.path().join(name);
        copy(&self.state, &to);
        to
    }

    fn offsets(&self) -> BTreeMap<(String, i32), Option<i64>> {
        let topics = self.installed.connection().topics;
        let group = topics.group();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", shared().bootstrap())
            .set("group.id", &group)
            .create()
            .unwrap();
        let mut asked = TopicPartitionList::new();
        for stage in Stage::ALL {
            asked.add_partition_range(&topics.input(stage), 0, 7);
        }
        let found = consumer.committed_offsets(asked, DEADLINE).unwrap();
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => None,
        };
        found.elements().iter().map(|e| ((e.topic().to_owned(), e.partition()), offset(e.offset()))).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Changes the position of `source/0` of a folder.
fn with_position(state: &Path, change: impl Fn(&mut Meta)) {
    let mut store = RocksStore::open(&state.join("source/0"), &Shared::new(8 << 20)).unwrap();
    let mut meta = store.meta().unwrap().unwrap();
    change(&mut meta);
    store.apply(&[], &meta).unwrap();
}

/// Writes a value of `source/0` without regard to what it is.
fn with_value(state: &Path, key: &[u8], value: &[u8]) {
    rocksdb::DB::open_default(state.join("source/0")).unwrap().put(key, value).unwrap();
}

/// What was done to a copy of the folder.
type Spoil = fn(&Path);

#[test]
fn a_state_folder_that_does_not_belong_here_is_refused_and_nothing_changes() {
    let stopped = Stopped::after_a_run("refusals-folder");
    let offsets = stopped.offsets();
    assert!(offsets.values().all(Option::is_some), "{offsets:?}");
    let cases: [(&str, Spoil, i32, &[&str]); 8] = [
        (
            "another application's folder",
            |state| fs::write(state.join("APPLICATION"), "somebody").unwrap(),
            1,
            &["belongs to the application `somebody`", "state_dir"],
        ),
        (
            "another application's task",
            |state| with_position(state, |meta| "somebody".clone_into(&mut meta.application_id)),
            2,
            &["attempts-by-source[0]", "belongs to application `somebody`"],
        ),
        (
            "another version's position",
            |state| with_value(state, &[0], &[250, 1, 1]),
            1,
            &["source/0", "another version", "remove"],
        ),
        (
            "another version's row",
            |state| with_value(state, &[1, 0], &[250, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            2,
            &["attempts-by-source[0]", "another version", "remove source/0"],
        ),
        (
            "another count of partitions",
            |state| with_position(state, |meta| meta.partitions = 4),
            2,
            &["attempts-by-source[0]", "made for 4 partitions, the topic has 8"],
        ),
        (
            "another hash key's task",
            |state| with_position(state, |meta| meta.hash_key_id ^= 1),
            2,
            &["attempts-by-source[0]", "another hash_key"],
        ),
        (
            "a store ahead of its changelog",
            |state| with_position(state, |meta| meta.changelog_offset += 1_000_000),
            2,
            &["source-changelog[0]", "ends at", "Remove the task's folder"],
        ),
        (
            "a damaged store",
            |state| fs::write(state.join("source/0/CURRENT"), "MANIFEST-999999\n").unwrap(),
            1,
            &["source/0", "may be removed: the changelog restores it"],
        ),
    ];
    for (what, spoil, code, words) in cases {
        let state = stopped.copy(what);
        spoil(&state);
        stopped.refused(what, &state, &[], code, words);
    }

    let settings = stopped.installed.folder.path().join("settings.yaml");
    fs::write(&settings, "hash_key: another secret of the installation\n").unwrap();
    let flags = ["--settings", settings.to_str().unwrap()];
    stopped.refused("another hash key", &stopped.copy("hash-key"), &flags, 2, &["another hash_key"]);
    let in_use = stopped.copy("in-use");
    let held = Folder::take(&in_use, "portcullis", "unused").unwrap();
    stopped.refused("a folder in use", &in_use, &[], 1, &["another process is using it", "state_dir"]);
    drop(held);

    assert_eq!(stopped.offsets(), offsets);
    let state = stopped.state.display().to_string();
    stopped.installed.done(&["state", "verify", &state]);
    // What was said about the damaged ones holds: without the task's folder the rest goes on.
    for what in ["a damaged store", "another version's position", "another version's row"] {
        let state = stopped.installed.folder.path().join(what);
        fs::remove_dir_all(state.join("source/0")).unwrap();
        let (code, words) = stopped.run(&state, &[]);
        assert_eq!(code, Some(0), "{what}: {words}");
    }
}

#[test]
fn a_changelog_with_a_record_that_is_no_row_is_refused() {
    let stopped = Stopped::after_a_run("refusals-changelog");
    let topic = stopped.installed.connection().topics.changelog(Stage::Source);
    let producer = producer(shared().bootstrap(), None);
    send(&producer, &topic, Some(0), b"\x12garbage", Some(b"nobody's row"), None);
    flush(&producer);
    let words = ["source-changelog[0]", "does not belong here", "portcullis state verify"];
    stopped.refused("with the disk kept", &stopped.state, &[], 2, &words);
    stopped.refused("with the disk lost", &stopped.installed.folder.path().join("new"), &[], 2, &words);
}

#[test]
fn state_without_committed_offsets_is_refused() {
    let stopped = Stopped::after_a_run("refusals-offsets");
    let admin = admin(shared().bootstrap());
    let group = stopped.installed.connection().topics.group();
    for result in wait(admin.delete_groups(&[&group], &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
    let words = ["no committed offset", "kafka-consumer-groups.sh", "application_id"];
    stopped.refused("with the disk kept", &stopped.state, &[], 2, &words);
    stopped.refused("with the disk lost", &stopped.installed.folder.path().join("new"), &[], 2, &words);
}

#[test]
fn input_deleted_before_it_was_read_is_refused_until_somebody_says_to_go_on() {
    let stopped = Stopped::after_a_run("refusals-input");
    stopped.publish();
    let topic = stopped.installed.topic("login-events");
    let admin = admin(shared().bootstrap());
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(&topic, 0, Offset::End).unwrap();
    wait(admin.delete_records(&all, &AdminOptions::new())).unwrap();
    let words = ["login-events[0]", "deleted before it was read", "portcullis run --skip-lost-input"];
    stopped.refused("what was deleted", &stopped.state, &[], 1, &words);
    // As the words say; and from then on without.
    for flags in [&["--skip-lost-input"][..], &[]] {
        let (code, words) = stopped.run(&stopped.state, flags);
        assert_eq!(code, Some(0), "{flags:?}: {words}");
    }
    let state = stopped.state.display().to_string();
    stopped.installed.done(&["state", "verify", &state]);
}

#[test]
fn partitions_that_were_added_are_refused_where_keys_would_lie_elsewhere() {
    let stopped = Stopped::after_a_run("refusals-grown");
    let topics = stopped.installed.connection().topics;
    let admin = admin(shared().bootstrap());
    for topic in [topics.input(Stage::Source), topics.changelog(Stage::Source)] {
        for result in wait(admin.create_partitions(&[NewPartitions::new(&topic, 12)], &AdminOptions::new())).unwrap() {
            result.unwrap();
        }
    }
    // A moment passes until everybody who asks is told of them.
    for topic in [topics.input(Stage::Source), topics.changelog(Stage::Source)] {
        until(DEADLINE, "twelve partitions", || {
            let found = topic_partitions(&stopped.installed.connection().client).unwrap();
            (found.get(&topic) == Some(&12)).then_some(())
        });
    }
    let words = ["attempts-by-source[", "made for 8 partitions, the topic has 12"];
    stopped.refused("with the disk kept", &stopped.state, &[], 2, &words);
    stopped.refused("with the disk lost", &stopped.installed.folder.path().join("new"), &[], 2, &words);
}

#[test]
fn a_changelog_with_too_few_partitions_is_refused() {
    let installed = Installed::new("refusals-narrow");
    make_topic(shared().bootstrap(), &installed.connection().topics.changelog(Stage::Site), 4, &[]);
    drop(installed.output(&["topics", "apply"]));
    let output = installed.output(&["run", "--until-caught-up"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("portcullis topics apply"), "{words}");
    assert!(words.contains("site-changelog only 4"), "{words}");
}

/// Whoever publishes may add partitions to the input: nothing of intake is placed by them.
#[test]
fn partitions_added_to_the_input_are_read_after_topics_apply() {
    let stopped = Stopped::after_a_run("refusals-wider");
    let topic = stopped.installed.topic("login-events");
    let admin = admin(shared().bootstrap());
    for result in wait(admin.create_partitions(&[NewPartitions::new(&topic, 12)], &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
    stopped.refused("before topics apply", &stopped.state, &[], 2, &["12 partitions", "portcullis topics apply"]);
    let topology = stopped.installed.folder.path().join("topology");
    copy(&crate::support::repository().join("topology"), &topology);
    let file = topology.join("topics.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("partitions: 8\n    ours", "partitions: 12\n    ours", 1)).unwrap();
    let flags = ["--topology", topology.to_str().unwrap()];
    stopped.installed.done(&[&["topics", "apply"][..], &flags].concat());
    stopped.publish();
    let (code, words) = stopped.run(&stopped.state, &flags);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains(&format!("events_in {EVENTS}")), "{words}");
}
