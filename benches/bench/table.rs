//! The figures of one run as tables for benches/RESULTS.md.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::Result;

/// Print the JSON lines of one run as tables in Markdown
#[derive(Debug, Args)]
pub(crate) struct Table {
    /// JSON lines of one run
    #[arg(long)]
    results: PathBuf,
}

/// Heading of a column, and what stands in it.
type Column<'a> = (&'a str, &'a dyn Fn(&Value) -> String);

impl Table {
    #[expect(clippy::print_stdout, reason = "its answer")]
    pub(crate) fn run(&self) -> Result<()> {
        let text = std::fs::read_to_string(&self.results)?;
        let lines = text.lines().filter(|line| line.starts_with('{')).map(serde_json::from_str::<Value>);
        let lines: Vec<Value> = lines.collect::<std::result::Result<_, _>>()?;
        let with = |key: &str| lines.iter().filter(|line| !line[key].is_null()).collect::<Vec<_>>();
        let mut out = String::new();
        let of_run: [Column<'_>; 10] = [
            ("events", &|l| whole(&l["events"])),
            ("seconds", &|l| tenths(&l["seconds"])),
            ("events/s", &|l| whole(&l["events_per_s"])),
            ("CPU s", &|l| tenths(&l["cpu_seconds"])),
            ("broker CPU s", &|l| tenths(&l["broker_cpu_seconds"])),
            ("others' CPU s", &|l| tenths(&l["others_cpu_seconds"])),
            ("CPU µs/event, both", &|l| both(l).map_or_else(String::new, |us| format!("{us:.2}"))),
            ("second half, events/s", &|l| whole(&l["warm_events_per_s"])),
            ("peak RSS MiB", &|l| whole(&l["peak_rss_mb"])),
            ("changelog MB", &|l| tenths(&l["changelog_mb"])),
        ];
        let systems: Vec<&Value> = with("system").into_iter().filter(|line| line["scale"].is_null()).collect();
        table(&mut out, "system", &|l| text_of(&l["system"]), &of_run, &systems)?;
        let compared: [Column<'_>; 5] = [
            ("peers", &|l| whole(&l["peer"])),
            ("Portcullis", &|l| whole(&l["portcullis"])),
            ("both", &|l| whole(&l["both"])),
            ("missing, and why", &|l| {
                let why = l["missing"].as_object().map(|why| why.iter().map(|(why, n)| format!("{n}: {why}")));
                why.map(|why| why.collect::<Vec<_>>().join("; ")).unwrap_or_default()
            }),
            ("extra", &|l| whole(&l["extra"])),
        ];
        table(&mut out, "rule", &|l| text_of(&l["compare"]), &compared, &with("compare"))?;
        let triple = |value: &Value| {
            format!("{} / {} / {}", tenths(&value["p50"]), tenths(&value["p99"]), tenths(&value["max"]))
        };
        let latency: [Column<'_>; 6] = [
            ("address → verdict", &|l| triple(&l["address_to_verdict_ms"])),
            ("address → blocklist", &|l| triple(&l["address_to_blocklist_ms"])),
            ("account → verdict", &|l| triple(&l["account_to_verdict_ms"])),
            ("account → blocklist", &|l| triple(&l["account_to_blocklist_ms"])),
            ("attack status", &|l| triple(&l["attack_status_ms"])),
            ("CPU µs/event", &|l| tenths(&l["cpu_us_per_event"])),
        ];
        table(&mut out, "events/s", &|l| whole(&l["rate"]), &latency, &with("latency"))?;
        let restored: [Column<'_>; 6] = [
            ("records", &|l| whole(&l["records"])),
            ("MB", &|l| tenths(&l["mb"])),
            ("seconds", &|l| tenths(&l["restore_seconds"])),
            ("records/s", &|l| whole(&l["records_per_s"])),
            ("MB/s", &|l| tenths(&l["mb_per_s"])),
            ("ready after, s", &|l| tenths(&l["ready_seconds"])),
        ];
        table(&mut out, "wiped disk", &|l| text_of(&l["restore"]), &restored, &with("restore"))?;
        let unclean: [Column<'_>; 2] = [
            ("first partition, s", &|l| tenths(&l["first_seconds"])),
            ("every partition, s", &|l| tenths(&l["again_seconds"])),
        ];
        table(&mut out, "kill -9, disk kept", &|l| text_of(&l["unclean"]), &unclean, &with("unclean"))?;
        let entities = |l: &Value| match text_of(&l["entities"]) {
            grows if grows.is_empty() => "grows".to_owned(),
            entities => entities.parse::<u64>().map_or(entities, |n| whole(&Value::from(n))),
        };
        table(&mut out, "entities", &entities, &of_run, &with("scale"))?;
        print!("{out}");
        Ok(())
    }
}

fn table(
    out: &mut String,
    first: &str,
    name: &dyn Fn(&Value) -> String,
    columns: &[Column<'_>],
    lines: &[&Value],
) -> std::result::Result<(), std::fmt::Error> {
    if lines.is_empty() {
        return Ok(());
    }
    let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
    writeln!(out, "| {first} | {} |\n|{}", heads.join(" | "), " --- |".repeat(columns.len() + 1))?;
    for line in lines {
        let cells: Vec<String> = columns.iter().map(|(_, cell)| cell(line)).collect();
        writeln!(out, "| {} | {} |", name(line), cells.join(" | "))?;
    }
    writeln!(out)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn whole(value: &Value) -> String {
    value.as_f64().map(crate::chart::grouped).unwrap_or_default()
}

fn tenths(value: &Value) -> String {
    value.as_f64().map(|figure| format!("{figure:.1}")).unwrap_or_default()
}

/// CPU of the system and of the broker, in microseconds an event.
fn both(line: &Value) -> Option<f64> {
    crate::chart::cpu_with_broker(line)
}
