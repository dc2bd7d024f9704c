//! Readers of whole topics: what they give out, and when they say that they have caught up.

use std::ffi::{CStr, CString};
use std::time::Duration;

use portcullis::log::ClientOptions;
use portcullis::log::follow::{Followed, Follower, ReadFrom};
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, Producer};

use crate::support::kafka::shared;
use crate::support::records::{
    DEADLINE, admin, flush, latest, make_topic, next_record, producer, read_all, read_to_end, send, wait,
};
use crate::support::until;

fn client() -> ClientOptions {
    ClientOptions::new(shared().bootstrap())
}

fn follower(topics: &[&str], from: ReadFrom) -> Follower {
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    Follower::new(&client(), &topics, from).unwrap()
}

/// One transaction of records `<name>0` … on one partition, left open.
fn begin(producer: &BaseProducer, topic: &str, partition: i32, name: &str, count: usize) {
    producer.begin_transaction().unwrap();
    for i in 0..count {
        send(producer, topic, Some(partition), format!("{name}{i}").as_bytes(), Some(b"v"), None);
    }
    flush(producer);
}

fn keys(records: &[portcullis::log::Incoming]) -> Vec<String> {
    let mut keys: Vec<String> =
        records.iter().map(|r| String::from_utf8(r.key.clone().unwrap_or_default()).unwrap()).collect();
    keys.sort();
    keys
}

#[test]
fn committed_records_come_aborted_ones_do_not_and_the_end_is_reached_over_both() {
    let topic = "follow-transactions";
    make_topic(shared().bootstrap(), topic, 3, &[]);
    let producer = producer(shared().bootstrap(), Some("follow-transactions"));
    begin(&producer, topic, 0, "kept", 3);
    producer.commit_transaction(DEADLINE).unwrap();
    // Partition 0 ends with aborted records and their marker, partition 1 holds nothing else, partition 2 is empty.
    for partition in [0, 1] {
        begin(&producer, topic, partition, "aborted", 5);
        producer.abort_transaction(DEADLINE).unwrap();
    }
    let mut follower = follower(&[topic], ReadFrom::Start);
    assert_eq!(follower.behind(), 2);
    assert_eq!(keys(&read_to_end(&mut follower)), ["kept0", "kept1", "kept2"]);
    begin(&producer, topic, 2, "later", 1);
    producer.commit_transaction(DEADLINE).unwrap();
    assert_eq!(keys(&[next_record(&mut follower)]), ["later0"]);
    assert_eq!(follower.failures(), 0);
}

#[test]
fn a_transaction_that_is_open_is_not_waited_for() {
    let topic = "follow-open";
    make_topic(shared().bootstrap(), topic, 1, &[]);
    let producer = producer(shared().bootstrap(), Some("follow-open"));
    begin(&producer, topic, 0, "first", 1);
    producer.commit_transaction(DEADLINE).unwrap();
    begin(&producer, topic, 0, "open", 2);
    let mut follower = follower(&[topic], ReadFrom::Start);
    assert_eq!(keys(&read_to_end(&mut follower)), ["first0"]);
    producer.commit_transaction(DEADLINE).unwrap();
    assert_eq!(keys(&[next_record(&mut follower), next_record(&mut follower)]), ["open0", "open1"]);
}

#[test]
fn holes_of_compaction_are_no_obstacle() {
    let topic = "follow-compacted";
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
    ];
    make_topic(shared().bootstrap(), topic, 1, &settings);
    let producer = producer(shared().bootstrap(), None);
    let mut round = 0;
    // Every round begins a segment, and what lies before it is compacted by and by.
    let read = until(DEADLINE, "the cleaner", || {
        for key in ["a", "b", "gone"] {
            send(&producer, topic, Some(0), key.as_bytes(), Some(format!("{round}").as_bytes()), None);
        }
        send(&producer, topic, Some(0), b"gone", None, None);
        flush(&producer);
        round += 1;
        let read = read_all(&client(), topic);
        let offsets: Vec<i64> = read.iter().map(|record| record.offset).collect();
        offsets.windows(2).any(|pair| pair[1] > pair[0] + 1).then_some(read)
    });
    let last = (round - 1).to_string();
    let expected = [("a".to_owned(), last.clone()), ("b".to_owned(), last)];
    assert_eq!(latest(&read).into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn from_the_end_only_what_comes_later_is_given_out() {
    let topic = "follow-end";
    make_topic(shared().bootstrap(), topic, 2, &[]);
    let producer = producer(shared().bootstrap(), None);
    send(&producer, topic, Some(0), b"before", Some(b"v"), None);
    flush(&producer);
    let mut follower = follower(&[topic], ReadFrom::End);
    assert_eq!(follower.poll(Duration::ZERO).unwrap(), Followed::CaughtUp);
    send(&producer, topic, Some(0), b"after", Some(b"v"), None);
    flush(&producer);
    assert_eq!(keys(&[next_record(&mut follower)]), ["after"]);
}

#[test]
fn partitions_that_are_added_are_read_too() {
    let topic = "follow-added";
    make_topic(shared().bootstrap(), topic, 1, &[]);
    let mut follower = follower(&[topic], ReadFrom::Start);
    assert!(read_to_end(&mut follower).is_empty());
    let more = NewPartitions::new(topic, 2);
    wait(admin(shared().bootstrap()).create_partitions([&more], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
    let producer = producer(shared().bootstrap(), None);
    send(&producer, topic, Some(1), b"new", Some(b"v"), None);
    flush(&producer);
    let record = until(DEADLINE, "the added partition", || {
        follower.refresh().unwrap();
        match follower.poll(Duration::from_millis(20)).unwrap() {
            Followed::Record(record) => Some(record),
            Followed::CaughtUp | Followed::Idle => None,
        }
    });
    assert_eq!((record.part.partition, keys(&[record])), (1, vec!["new".to_owned()]));
}

#[test]
fn a_topic_that_is_missing_is_named_with_the_command_that_makes_it() {
    let error = Follower::new(&client(), &["follow-nowhere".to_owned()], ReadFrom::Start).unwrap_err().to_string();
    assert_eq!(error, "the topic `follow-nowhere` does not exist; make it with `portcullis topics apply`");
}

#[test]
fn a_header_name_that_is_no_text_does_no_harm() {
    let topic = "follow-headers";
    make_topic(shared().bootstrap(), topic, 1, &[]);
    let producer = producer(shared().bootstrap(), None);
    send_with_headers(
        &producer,
        topic,
        &[(c"gen\xff\xfe", Some(b"1")), (c"generation", None), (c"generation", Some(b"7"))],
    );
    flush(&producer);
    let read = read_all(&client(), topic);
    let expected = [("gen\u{fffd}\u{fffd}", b"1".as_slice()), ("generation", b""), ("generation", b"7")];
    assert_eq!(read[0].headers, expected.map(|(name, value)| (name.to_owned(), value.to_vec())));
    assert_eq!(read[0].header("generation"), Some(b"7".as_slice()));
}

/// Hands over a record with headers as bytes; the wrapper takes texts only.
#[expect(unsafe_code, reason = "a name that is not UTF-8 is what a hostile publisher writes, and no safe call does")]
fn send_with_headers(producer: &BaseProducer, topic: &str, headers: &[(&CStr, Option<&[u8]>)]) {
    use rdkafka::bindings::{
        rd_kafka_produceva, rd_kafka_vtype_t as Kind, rd_kafka_vu_s__bindgen_ty_1 as Value,
        rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 as HeaderValue, rd_kafka_vu_t as Argument,
    };
    let topic = CString::new(topic).unwrap();
    let mut arguments = vec![Argument { vtype: Kind::RD_KAFKA_VTYPE_TOPIC, u: Value { cstr: topic.as_ptr() } }];
    for (name, value) in headers {
        let val = value.map_or(std::ptr::null(), |value| value.as_ptr().cast());
        let header = HeaderValue { name: name.as_ptr(), val, size: value.map_or(0, |v| v.len() as isize) };
        arguments.push(Argument { vtype: Kind::RD_KAFKA_VTYPE_HEADER, u: Value { header } });
    }
    // SAFETY: producer, topic and headers live until the call returns, which copies what it needs of them.
    let error = unsafe { rd_kafka_produceva(producer.client().native_ptr(), arguments.as_ptr(), arguments.len()) };
    assert!(error.is_null());
}

#[test]
fn a_broker_that_goes_away_is_waited_for() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 2, 1).unwrap();
    let client = ClientOptions::new(&cluster.bootstrap_servers());
    let producer = producer(&client.bootstrap, None);
    send(&producer, "t", Some(0), b"before", Some(b"v"), None);
    flush(&producer);
    let mut follower = Follower::new(&client, &["t".to_owned()], ReadFrom::Start).unwrap();
    assert_eq!(keys(&read_to_end(&mut follower)), ["before"]);
    cluster.broker_down(1).unwrap();
    until(DEADLINE, "the reader to notice", || {
        assert_eq!(follower.poll(Duration::from_millis(20)).unwrap(), Followed::Idle);
        (follower.failures() > 0).then_some(())
    });
    assert!(follower.refresh().is_err());
    cluster.broker_up(1).unwrap();
    send(&producer, "t", Some(1), b"after", Some(b"v"), None);
    flush(&producer);
    assert_eq!(keys(&[next_record(&mut follower)]), ["after"]);
}
