//! What the benches measure with: `cargo run --release --example bench -- --help`. The scripts beside it call it.

mod drain;
mod forget;
mod kafka;
mod meter;
mod process;

use clap::Parser;

/// A bench ends at the first error, with its text.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Parser)]
enum Command {
    Drain(drain::Drain),
    Forget(forget::Forget),
    Meter(meter::Meter),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Drain(drain) => drain.run(),
        Command::Forget(forget) => forget.run(),
        Command::Meter(meter) => meter.run(),
    }
}

/// One line of JSON on standard output.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn print(line: &serde_json::Value) {
    println!("{line}");
}
