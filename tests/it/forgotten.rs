//! A member that its group has forgotten while it was joining: nothing that it was given before is committed again.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use portcullis::app::clock::ProcessClock;
use portcullis::log::kafka::KafkaLog;
use portcullis::log::options::{GroupProtocol, KafkaOptions, Membership};
use portcullis::log::{ClientOptions, Log, Outcome, Part, Polled};

use crate::support::chaos_broker::Broker;
use crate::support::proxy::{Api, Hurt};
use crate::support::records::{DEADLINE, make_topic};
use crate::support::until;

const GROUP: &str = "forgotten";
const TOPIC: &str = "events";

fn member(bootstrap: &str, name: &str) -> KafkaLog {
    let options = KafkaOptions {
        client: ClientOptions::new(bootstrap),
        group: GROUP.to_owned(),
        member: name.to_owned(),
        topics: vec![TOPIC.to_owned()],
        changelogs: BTreeSet::new(),
        membership: Membership {
            protocol: GroupProtocol::Classic { session_timeout: Duration::from_secs(30) },
            is_static: true,
        },
        may_abort: true,
    };
    KafkaLog::new(options, Arc::new(ProcessClock::real())).unwrap()
}

fn poll(log: &mut KafkaLog) -> Polled {
    log.poll(Duration::from_millis(20)).unwrap()
}

/// Polls once, and says yes to a rebalance that changes nothing. What is to be given up is told.
fn answer_to_nothing(log: &mut KafkaLog) -> Option<Vec<Part>> {
    match poll(log) {
        Polled::Assigned(parts) if parts.is_empty() => log.assign(&[]).unwrap(),
        Polled::Revoked { parts, lost: false } if !parts.is_empty() => return Some(parts),
        Polled::Assigned(_) | Polled::Record(_) | Polled::Revoked { .. } | Polled::Idle => {}
    }
    None
}

/// Polls once; what the group gives is taken.
fn given_to(log: &mut KafkaLog) -> Option<Vec<Part>> {
    let Polled::Assigned(parts) = poll(log) else { return None };
    let from: Vec<(Part, i64)> = parts.iter().map(|part| (part.clone(), 0)).collect();
    log.assign(&from).unwrap();
    Some(parts).filter(|parts| !parts.is_empty())
}

fn assigned(log: &mut KafkaLog) -> Vec<Part> {
    until(DEADLINE, "partitions", || given_to(log))
}

/// Strikes a static member off the group, as an operator's tool does: `LeaveGroup`, version 3.
fn strike_off(bootstrap: &str, member: &str) {
    let text = |text: &str| [&i16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    let head = [13u16.to_be_bytes(), 3u16.to_be_bytes()].concat();
    let body = [text(GROUP), 1i32.to_be_bytes().to_vec(), text(""), text(member)].concat();
    let request = [head, 7i32.to_be_bytes().to_vec(), text("test"), body].concat();
    let mut stream = TcpStream::connect(bootstrap).unwrap();
    stream.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&request).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    // After correlation and throttle: the error of the whole; at the end: that of the one member.
    assert_eq!((&answer[8..10], &answer[answer.len() - 2..]), (&[0, 0][..], &[0, 0][..]), "{answer:?}");
}

/// Shorter than a member waits for its group before it ends all the same.
const LET_GO_MAX: Duration = Duration::from_secs(20);

/// Does on a thread of its own what ends a consumer: its group must let go of it.
#[track_caller]
fn lets_go<T: Send + 'static>(of: impl FnOnce() -> T + Send + 'static) -> T {
    let ending = std::thread::spawn(of);
    until(LET_GO_MAX, "the group to let go of the member", || ending.is_finished().then_some(()));
    ending.join().unwrap()
}

#[test]
fn a_member_ends_whatever_it_was_told_and_has_not_answered() {
    let broker = Broker::start();
    make_topic(broker.bootstrap(), TOPIC, 2, &[]);
    let given = |log: &mut KafkaLog| -> Vec<Part> {
        until(DEADLINE, "partitions", || match poll(log) {
            Polled::Assigned(parts) if !parts.is_empty() => Some(parts),
            Polled::Assigned(_) | Polled::Record(_) | Polled::Revoked { .. } | Polled::Idle => None,
        })
    };
    // What it was given is still being opened.
    let mut first = member(broker.bootstrap(), "first");
    given(&mut first);
    lets_go(|| drop(first));

    // Something is to be given up: of what it reads, and of what is still being opened.
    for reads in [true, false] {
        let mut first = member(broker.bootstrap(), "first");
        let from: Vec<(Part, i64)> = given(&mut first).into_iter().filter(|_| reads).map(|part| (part, 0)).collect();
        first.assign(&from).unwrap();
        let mut second = member(broker.bootstrap(), if reads { "second" } else { "third" });
        until(DEADLINE, "something to be given up", || {
            answer_to_nothing(&mut second);
            answer_to_nothing(&mut first)
        });
        lets_go(|| drop(first));
        lets_go(|| drop(second));
        strike_off(broker.bootstrap(), "first");
        strike_off(broker.bootstrap(), if reads { "second" } else { "third" });
    }
}

#[test]
fn what_a_forgotten_member_was_given_is_not_committed_under_its_new_name() {
    let broker = Broker::start();
    make_topic(broker.bootstrap(), TOPIC, 2, &[]);
    let mut old = member(&broker.proxied(), "old");
    let parts = assigned(&mut old);
    assert_eq!(parts.len(), 2);
    let offsets = |at: i64| parts.iter().map(|part| (part.clone(), at)).collect::<Vec<_>>();
    assert!(matches!(old.commit_now(&offsets(1)).unwrap(), Outcome::Committed(_)));
    assert_eq!(old.written(&parts).unwrap(), [(Some(1), true); 2]);
    assert!(matches!(old.commit_now(&offsets(1)[..1]).unwrap(), Outcome::Committed(_)));
    assert_eq!(old.written(&parts).unwrap(), [(Some(1), true), (Some(1), false)], "the same offset, of another commit");

    // Another joins. While the old one's answer to that is under way, it is struck off.
    broker.proxy.arm(Api::JoinGroup, Hurt::Hold);
    let mut new = member(broker.bootstrap(), "new");
    until(DEADLINE, "the old one to join again", || {
        assert!(matches!(poll(&mut new), Polled::Idle));
        (broker.proxy.fired() > 0).then_some(())
    });
    strike_off(broker.bootstrap(), "old");
    let taken = assigned(&mut new);
    assert_eq!(taken.iter().collect::<BTreeSet<_>>(), parts.iter().collect::<BTreeSet<_>>());
    assert!(matches!(new.commit_now(&offsets(2)).unwrap(), Outcome::Committed(_)));
    assert_eq!(new.written(&parts).unwrap(), [(Some(2), true); 2]);

    // It joins under a new name, and does not know yet that anything was taken from it.
    broker.proxy.let_go();
    let lost = until(DEADLINE, "everything to be lost", || {
        match old.commit_now(&offsets(3)).unwrap() {
            Outcome::Aborted(_) => {}
            other @ (Outcome::Committed(_) | Outcome::Unknown(_)) => {
                panic!("what belongs to another was committed: {other:?}")
            }
        }
        match poll(&mut old) {
            Polled::Revoked { parts, lost: true } => Some(parts),
            Polled::Assigned(_) | Polled::Record(_) | Polled::Revoked { .. } | Polled::Idle => None,
        }
    });
    assert_eq!(lost.iter().collect::<BTreeSet<_>>(), parts.iter().collect::<BTreeSet<_>>());
    assert_eq!(new.committed(&parts).unwrap(), [Some(2), Some(2)]);

    // And then it is a member like any other.
    let mut old = lets_go(move || {
        old.release(&lost).unwrap();
        old
    });
    let given = until(DEADLINE, "the new one to give something up", || {
        answer_to_nothing(&mut old);
        answer_to_nothing(&mut new)
    });
    new.release(&given).unwrap();
    let again = until(DEADLINE, "the old one to get it", || {
        answer_to_nothing(&mut new);
        given_to(&mut old)
    });
    // The new one may have had to give up more than this, since two had claimed the same.
    assert!(again.iter().all(|part| given.contains(part)), "{again:?} of {given:?}");
    let ours: Vec<(Part, i64)> = again.into_iter().map(|part| (part, 4)).collect();
    assert!(matches!(old.commit_now(&ours).unwrap(), Outcome::Committed(_)));
    lets_go(|| drop(new));
    lets_go(|| drop(old));
}
