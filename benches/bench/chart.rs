//! Charts of one run as SVG, and the ratios that count. Bars and nothing else: a figure stands beside each.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::{Result, print};

/// Draw charts of the JSON lines of one run, and print its ratios
#[derive(Debug, Args)]
pub(crate) struct Chart {
    /// JSON lines of one run
    #[arg(long)]
    results: PathBuf,
    /// Folder for the charts
    #[arg(long)]
    charts: PathBuf,
}

/// One bar: its name, its figure, and whether it is ours.
struct Bar {
    name: String,
    figure: f64,
    is_ours: bool,
}

impl Chart {
    pub(crate) fn run(&self) -> Result<()> {
        let lines: Vec<Value> = std::fs::read_to_string(&self.results)?
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>()?;
        std::fs::create_dir_all(&self.charts)?;
        let systems: Vec<&Value> =
            lines.iter().filter(|line| line["system"].is_string() && line["scale"].is_null()).collect();
        let of_systems = |figure: &dyn Fn(&Value) -> Option<f64>| bars(&systems, &|line| text(&line["system"]), figure);
        self.draw("throughput", "Events a second", &of_systems(&|line| line["events_per_s"].as_f64()))?;
        self.draw("cpu", "CPU µs an event, with the broker", &of_systems(&cpu_with_broker))?;
        self.draw("memory", "Peak resident memory, MiB", &of_systems(&|line| line["peak_rss_mb"].as_f64()))?;
        let latencies: Vec<&Value> = lines.iter().filter(|line| line["latency"].is_string()).collect();
        let mut all = Vec::new();
        for line in &latencies {
            for (name, key) in LATENCIES {
                for point in ["p50", "p99"] {
                    let name = format!("{} /s, {name}, {point}", line["rate"]);
                    all.extend(line[key][point].as_f64().map(|figure| Bar { name, figure, is_ours: point == "p99" }));
                }
            }
        }
        self.draw("latency", "Event to record as a subscriber sees it, ms", &all)?;
        let restores: Vec<&Value> = lines.iter().filter(|line| line["restore"].is_string()).collect();
        let restored = bars(&restores, &|line| text(&line["restore"]), &|line| line["records_per_s"].as_f64());
        self.draw("restore", "Restored changelog records a second", &restored)?;
        let scales: Vec<&Value> = lines.iter().filter(|line| line["scale"].is_string()).collect();
        let named = |line: &Value| match text(&line["entities"]) {
            entities if entities.is_empty() => format!("{} events", line["events"]),
            entities => format!("{entities} entities"),
        };
        self.draw("scale-cpu", "CPU µs an event, with the broker", &bars(&scales, &named, &cpu_with_broker))?;
        let memory = bars(&scales, &named, &|line| line["peak_rss_mb"].as_f64());
        self.draw("scale-memory", "Peak resident memory, MiB", &memory)?;
        print(&ratios(&lines));
        Ok(())
    }

    /// Writes one chart; none where there is nothing to show.
    fn draw(&self, name: &str, title: &str, bars: &[Bar]) -> Result<()> {
        if !bars.is_empty() {
            std::fs::write(self.charts.join(format!("{name}.svg")), svg(title, bars)?)?;
        }
        Ok(())
    }
}

const LATENCIES: [(&str, &str); 5] = [
    ("address to verdict", "address_to_verdict_ms"),
    ("address to blocklist", "address_to_blocklist_ms"),
    ("account to verdict", "account_to_verdict_ms"),
    ("account to blocklist", "account_to_blocklist_ms"),
    ("attack status", "attack_status_ms"),
];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn cpu_with_broker(line: &Value) -> Option<f64> {
    let cpu = line["cpu_seconds"].as_f64()? + line["broker_cpu_seconds"].as_f64().unwrap_or(0.0);
    Some(cpu * 1e6 / line["events"].as_f64()?)
}

fn bars(lines: &[&Value], name: &dyn Fn(&Value) -> String, figure: &dyn Fn(&Value) -> Option<f64>) -> Vec<Bar> {
    let bar = |line: &&Value| {
        let name = name(line);
        let is_ours = name.starts_with("portcullis") || !line["scale"].is_null();
        Some(Bar { name, figure: figure(line)?, is_ours })
    };
    lines.iter().filter_map(bar).collect()
}

/// What DESIGN §9 asks for, of this run alone.
fn ratios(lines: &[Value]) -> Value {
    let of = |kind: &str, name: &str, figure: &str| {
        lines.iter().rev().find(|line| line[kind] == name && line["scale"].is_null()).and_then(|l| l[figure].as_f64())
    };
    let over = |a: Option<f64>, b: Option<f64>| Some((a? / b? * 100.0).round() / 100.0);
    let rate = |name: &str| of("system", name, "events_per_s");
    let (five, shipped) = (rate("portcullis-five-rules"), rate("portcullis-shipped"));
    let scale = |kind: &str| {
        let costs = lines.iter().filter(|line| line["scale"] == kind).filter_map(cpu_with_broker);
        let (least, most) = costs.fold((f64::INFINITY, 0.0), |(l, m): (f64, f64), cost| (l.min(cost), m.max(cost)));
        (most > 0.0).then_some((most / least * 100.0).round() / 100.0)
    };
    json!({
        "ratios": {
            "five_rules_over_dsl": over(five, rate("streams-dsl")),
            "five_rules_over_expert": over(five, rate("streams-expert")),
            "five_rules_over_expert_colocated": over(five, rate("streams-expert-colocated")),
            "shipped_over_dsl": over(shipped, rate("streams-dsl")),
            "shipped_over_expert": over(shipped, rate("streams-expert")),
            "shipped_over_drain_decode": over(shipped, rate("drain-decode")),
            "restore_over_streams": over(
                of("restore", "portcullis", "records_per_s"),
                of("restore", "streams-expert", "records_per_s"),
            ),
            "most_over_least_cost_by_events": scale("events"),
            "most_over_least_cost_by_entities": scale("entities"),
        }
    })
}

fn svg(title: &str, bars: &[Bar]) -> std::result::Result<String, std::fmt::Error> {
    const NAMES: f64 = 290.0;
    const LENGTH: f64 = 400.0;
    const STEP: usize = 24;
    let most = bars.iter().map(|bar| bar.figure).fold(f64::MIN_POSITIVE, f64::max);
    let height = 40 + bars.len() * STEP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"800\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n"
    );
    for (at, bar) in bars.iter().enumerate() {
        let (y, width) = (36 + at * STEP, bar.figure / most * LENGTH);
        let fill = if bar.is_ours { "#1f6f8b" } else { "#b8bec4" };
        let shown = if bar.figure >= 100.0 { grouped(bar.figure) } else { format!("{:.1}", bar.figure) };
        let end = NAMES + width + 6.0;
        writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{NAMES}\" y=\"{y}\" width=\"{width:.1}\" \
             height=\"16\" fill=\"{fill}\"/><text x=\"{end:.1}\" y=\"{}\">{shown}</text>",
            NAMES - 8.0,
            y + 13,
            bar.name,
            y + 13
        )?;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
