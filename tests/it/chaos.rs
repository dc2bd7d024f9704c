//! Exactly once, on a real Kafka: several processes, faults without end, and an oracle that knows what must have come
//! out (`support::oracle`). `make chaos` does a thousand faults; here are thirty.
//!
//! A failure prints its seed. `CHAOS_SEED` does the same faults to the same events again, at other moments: the machine
//! decides those. `CHAOS_ONLY='broker killed'` does one kind of fault and no other.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::chaos::Job;
use crate::support::chaos_check::{Checked, check};
use crate::support::chaos_faults::{Chaos, Done, Fault, schedule};
use crate::support::chaos_traffic::{Dice, Publisher};
use crate::support::until;

/// Events are published for so long before the first fault, and where there is none at all.
const CALM: Duration = Duration::from_secs(15);
/// Faults of one run; more of them are several runs, each with a broker of its own.
const FAULTS_OF_A_RUN: usize = 250;

#[test]
fn an_undisturbed_job_says_what_the_oracle_says() {
    let seed = 1;
    let job = Job::start();
    let publisher = Publisher::start(&job.connection(), seed);
    let enough = |publisher: &Publisher| (publisher.published() > 3_000).then_some(());
    until(CALM * 10, "3,000 events", || enough(&publisher));
    publisher.finish();
    let checked = check(job, seed);
    // Else nothing was compared.
    let tally = |what: &str| checked.tally.get(what).copied().unwrap_or(0);
    for what in [
        "verdicts", "entries", "tombstones", "duplicates", "conflicting ids", "late", "spared", "notes", "dead letters",
    ] {
        assert!(tally(what) > 0, "no {what}: {checked:?}");
    }
    eprintln!("{checked:?}");
}

#[test]
fn thirty_faults_lose_double_and_add_nothing() {
    run(30, seed());
}

#[test]
#[ignore = "many minutes: make chaos"]
fn as_many_faults_as_asked_for() {
    let asked = std::env::var("CHAOS_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let mut seed = seed();
    let mut left = asked;
    let mut sums = Done::default();
    let since = Instant::now();
    while left > 0 {
        let done = run(left.min(FAULTS_OF_A_RUN), seed);
        left = left.saturating_sub(usize::try_from(done.count()).unwrap().max(1));
        sums.missed += done.missed;
        for (fault, n) in done.faults {
            *sums.faults.entry(fault).or_default() += n;
        }
        for (words, n) in done.ended {
            *sums.ended.entry(words).or_default() += n;
        }
        seed += 1;
    }
    say(&format!("\nall runs, {:.0} s\n{}", since.elapsed().as_secs_f64(), table(&sums)));
}

/// A new one every time, unless one is asked for.
fn seed() -> u64 {
    let asked = std::env::var("CHAOS_SEED").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| u64::try_from(crate::support::chaos_traffic::now() % 1_000_000).unwrap())
}

/// One kind of fault, and no other, to look for what it brings about.
fn only() -> Option<Fault> {
    let name = std::env::var("CHAOS_ONLY").ok()?;
    let found = Fault::ALL.into_iter().find(|fault| fault.name() == name);
    Some(found.unwrap_or_else(|| panic!("CHAOS_ONLY={name}: one of {:?}", Fault::ALL.map(Fault::name))))
}

/// One run: a broker, three processes, so many faults, and the comparison.
fn run(faults: usize, seed: u64) -> Done {
    say(&format!("chaos: seed {seed}, {faults} faults"));
    let since = Instant::now();
    let mut job = Job::start();
    let publisher = Publisher::start(&job.connection(), seed);
    let mut dice = Dice::new(seed);
    let mut order = match only() {
        Some(fault) => vec![fault; faults],
        None => schedule(faults, &mut dice),
    }
    .into_iter();
    let mut chaos = Chaos::new(&mut job, &mut dice);
    until(CALM * 10, "the first events to be worked off", || {
        (publisher.published() > 500 && chaos.behind().is_some_and(|behind| behind < 300)).then_some(())
    });
    for (number, fault) in (1..).zip(order.by_ref()) {
        chaos.next(fault);
        if number % 10 == 0 {
            let behind = chaos.behind().map_or("?".to_owned(), |n| n.to_string());
            let (seconds, events) = (since.elapsed().as_secs(), publisher.published());
            say(&format!(
                "chaos: {number} of {faults}, {seconds} s, {events} events, {behind} behind, last: {}",
                fault.name()
            ));
        }
    }
    let done = chaos.finish();
    publisher.finish();
    let checked = check(job, seed);
    say(&report(seed, since.elapsed(), &done, &checked));
    done
}

fn report(seed: u64, took: Duration, done: &Done, checked: &Checked) -> String {
    let tally: Vec<String> = checked.tally.iter().map(|(what, n)| format!("{what} {n}")).collect();
    format!(
        "chaos: seed {seed}: nothing lost, doubled or extra; no transaction open. {:.0} s, drained in {:.0} s\n{}\n\
         events {}, {}",
        took.as_secs_f64(),
        checked.drained_in.as_secs_f64(),
        table(done),
        checked.events,
        tally.join(", ")
    )
}

fn table(done: &Done) -> String {
    let mut lines: Vec<String> = Fault::ALL
        .iter()
        .map(|fault| format!("{:>6}  {}", done.faults.get(fault).copied().unwrap_or(0), fault.name()))
        .collect();
    lines.push(format!("{:>6}  faults; {} more found no request to hurt", done.count(), done.missed));
    lines.extend(done.ended.iter().map(|(words, n)| format!("{n:>6}  ended by itself, {words}")));
    lines.join("\n")
}

/// Past the test harness, which shows nothing before the end.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
