//! The stage loop over the model of Kafka: several workers, and everything that can go wrong, from a seed.
//!
//! `PORTCULLIS_SEED=7` plays one seed and prints every call; `PORTCULLIS_SEEDS=10000` plays so many
//! (`make simulation`). In `make test` it plays as many as take a few seconds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::simulation_oracle::check;
use crate::support::simulation_world::{Told, World};

/// Seeds that `make test` plays.
const SEEDS: u64 = 500;
/// Seeds within which a client without the defence must have lost or doubled something.
const UNDEFENDED_SEEDS: u64 = 100;

/// Plays one seed.
fn play(seed: u64, is_defended: bool, is_told: bool) -> Result<Told, String> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let world = World::new(seed, is_defended, is_told);
        let rest = world.play()?;
        check(&world, &rest).map(|()| rest.told)
    }));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("a number"))
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_doubled_or_different() {
    if let Some(seed) = number("PORTCULLIS_SEED") {
        match play(seed, true, true) {
            Ok(told) => return eprintln!("seed {seed}: {told:?}"),
            Err(why) => panic!("seed {seed}:\n{why}"),
        }
    }
    let seeds = number("PORTCULLIS_SEEDS");
    let (of, next, done) = (seeds.unwrap_or(SEEDS), AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Vec<(u64, String)>> = Mutex::default();
    let sums: Mutex<Told> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= of {
                        return;
                    }
                    match play(seed, true, false) {
                        Ok(told) => sums.lock().unwrap().add(&told),
                        Err(why) => {
                            eprintln!("seed {seed} failed");
                            failed.lock().unwrap().push((seed, why));
                        }
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if seeds.is_some() && done.is_multiple_of(100) {
                        let failed = failed.lock().unwrap().len();
                        eprintln!("{done} of {of} seeds, {failed} failed: {:?}", sums.lock().unwrap());
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    let first = failed.iter().take(3).map(|(seed, why)| {
        format!("PORTCULLIS_SEED={seed} cargo test --release --test it -- simulation::whatever\n{why}\n")
    });
    let all: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} of {of} seeds failed: {all:?}\n{}", all.len(), first.collect::<String>());
}

#[test]
fn without_the_defence_against_late_requests_something_is_lost_or_doubled() {
    // That a worker or the whole came to a halt would be no proof.
    let is_proof = |why: &String| !["worker", "no rest", "a panic"].iter().any(|halt| why.starts_with(halt));
    let faults =
        (0..UNDEFENDED_SEEDS).filter_map(|seed| Some((seed, play(seed, false, false).err().filter(is_proof)?)));
    let mut faults = faults;
    let (seed, why) = faults.next().expect("no seed shows the hole, so the simulation would not see it either");
    eprintln!("seed {seed}: {}", why.lines().next().unwrap_or_default());
}
