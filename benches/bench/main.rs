//! What the benches measure with: `cargo run --release --example bench -- --help`. The scripts beside it call it.

mod again;
mod chart;
mod compare;
mod drain;
mod forget;
mod histogram;
mod kafka;
mod latency;
mod load;
mod meter;
mod process;
mod table;

use clap::Parser;

/// A bench ends at the first error, with its text.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Parser)]
enum Command {
    Again(again::Again),
    Compare(compare::Compare),
    Count(again::Count),
    Chart(chart::Chart),
    Drain(drain::Drain),
    Drained(again::Drained),
    Empty(again::Empty),
    Forget(forget::Forget),
    Latency(latency::Latency),
    Load(load::Load),
    Meter(meter::Meter),
    Ready(again::Ready),
    Table(table::Table),
    Topics(forget::Topics),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Again(again) => again.run(),
        Command::Compare(compare) => compare.run(),
        Command::Count(count) => count.run(),
        Command::Chart(chart) => chart.run(),
        Command::Drain(drain) => drain.run(),
        Command::Drained(drained) => drained.run(),
        Command::Empty(empty) => empty.run(),
        Command::Forget(forget) => forget.run(),
        Command::Latency(latency) => latency.run(),
        Command::Load(load) => load.run(),
        Command::Meter(meter) => meter.run(),
        Command::Ready(ready) => ready.run(),
        Command::Table(table) => table.run(),
        Command::Topics(topics) => topics.run(),
    }
}

/// One line of JSON on standard output.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn print(line: &serde_json::Value) {
    println!("{line}");
}
