//! `portcullis tail`: what is said, as it is said.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::table::{Tone, toned};
use super::{Connection, Ending, Output};
use crate::console::text::{Plain, date_time};
use crate::event::wire::decode_output;
use crate::event::{BlocklistEntry, Incident, IncidentState, Mode, Severity, Verdict, split_key};
use crate::log::Incoming;
use crate::log::follow::{Followed, Follower, ReadFrom};
use crate::topology::exemptions::is_tenant;

/// Longest wait for a record; a stop is seen after it.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Show verdicts, changes of the blocklist, or incidents as they come
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portcullis tail verdicts --tenant shop\n  portcullis tail blocklist --from-start\n  portcullis tail incidents --output json | jq .summary"
)]
pub struct TailArgs {
    /// What is shown
    #[arg(value_enum, value_name = "TOPIC")]
    pub of: TailOf,
    /// This tenant alone
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// What is there already as well
    #[arg(long)]
    pub from_start: bool,
    /// End after so many
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<u64>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TailOf {
    Verdicts,
    Blocklist,
    Incidents,
}

impl TailOf {
    const fn topic(self) -> &'static str {
        match self {
            TailOf::Verdicts => "verdicts",
            TailOf::Blocklist => "blocklist",
            TailOf::Incidents => "incidents",
        }
    }
}

/// Shows what comes until it is stopped.
///
/// # Errors
/// The topic is missing or may not be read, the client is beyond repair, or nobody reads what is written.
pub fn run(
    args: &TailArgs,
    connection: &Connection,
    stop: &AtomicBool,
    has_colours: bool,
    out: &mut dyn Write,
) -> Result<Ending> {
    if let Some(tenant) = args.tenant.as_deref().filter(|tenant| !is_tenant(tenant)) {
        bail!("--tenant {tenant:?} is no tenant: it has 1 to 63 of a-z, 0-9, `.`, `_`, `-`");
    }
    let from = if args.from_start { ReadFrom::Start } else { ReadFrom::End };
    let mut follower = Follower::new(&connection.client, &[connection.topics.public(args.of.topic())], from)?;
    let (mut shown, mut unread) = (0, 0_u64);
    while !stop.load(Ordering::Relaxed) && args.limit.is_none_or(|limit| shown < limit) {
        let Followed::Record(record) = follower.poll(WAIT_MAX)? else { continue };
        let Some(said) = said(args.of, &record) else {
            unread += 1;
            continue;
        };
        if args.tenant.as_ref().is_some_and(|tenant| *tenant != said.tenant) {
            continue;
        }
        args.output.write(out, &said.value, &said.text(has_colours))?;
        out.flush()?;
        shown += 1;
    }
    if unread > 0 {
        tracing::warn!(records = unread, topic = args.of.topic(), "could not be read");
    }
    Ok(Ending::Well)
}

/// One record, for programs and for people.
struct Said {
    tenant: String,
    value: Value,
    at: i64,
    word: String,
    tone: Tone,
    rest: String,
}

impl Said {
    fn text(&self, has_colours: bool) -> String {
        let Said { tenant, word, tone, rest, .. } = self;
        format!("{}  {}  {}  {rest}", date_time(self.at), Plain::name(tenant), toned(word, *tone, has_colours))
    }
}

fn said(of: TailOf, record: &Incoming) -> Option<Said> {
    let value = record.value.as_deref();
    match of {
        TailOf::Verdicts => decode_output(of.topic(), value?).ok().and_then(verdict),
        TailOf::Incidents => decode_output(of.topic(), value?).ok().and_then(incident),
        TailOf::Blocklist => match value {
            Some(value) => decode_output(of.topic(), value).ok().and_then(entry),
            None => lifted(record),
        },
    }
}

fn verdict(verdict: Verdict) -> Option<Said> {
    let is_live = verdict.mode == Mode::Live;
    let tone = match verdict.severity {
        Severity::Critical | Severity::High if is_live => Tone::Bad,
        Severity::Critical | Severity::High | Severity::Medium | Severity::Low | Severity::Info => Tone::Plain,
    };
    Some(Said {
        value: serde_json::to_value(&verdict).ok()?,
        at: verdict.occurred_at,
        word: format!("{} {}", verdict.severity, verdict.action),
        tone,
        rest: format!(
            "{} {} by {}{}: {}",
            verdict.scope,
            Plain::name(&verdict.value),
            Plain::name(&verdict.playbook),
            if is_live { "" } else { " (shadow)" },
            Plain::sentence(&verdict.explanation)
        ),
        tenant: verdict.tenant,
    })
}

fn entry(entry: BlocklistEntry) -> Option<Said> {
    let until = entry.until.map_or("without an end".to_owned(), |until| format!("until {}", date_time(until)));
    let by = entry.actor.as_deref().or(entry.playbook.as_deref()).unwrap_or("nobody named");
    Some(Said {
        value: serde_json::to_value(&entry).ok()?,
        at: entry.generation,
        word: entry.action.as_str().to_owned(),
        tone: Tone::Warn,
        rest: format!(
            "{} {} {until} by {}: {}",
            entry.scope,
            Plain::name(&entry.value),
            Plain::name(by),
            Plain::sentence(&entry.reason)
        ),
        tenant: entry.tenant,
    })
}

fn lifted(record: &Incoming) -> Option<Said> {
    let (tenant, scope, value) = split_key(std::str::from_utf8(record.key.as_deref()?).ok()?)?;
    let header = |name: &str| record.header(name).map(|text| String::from_utf8_lossy(text).into_owned());
    let cause = header("cause").unwrap_or_else(|| "lifted".to_owned());
    let generation = header("generation").and_then(|text| text.parse::<i64>().ok());
    Some(Said {
        tenant: tenant.to_owned(),
        value: json!({ "tenant": tenant, "scope": scope, "value": value, "lifted": true, "cause": cause, "generation": generation }),
        at: generation.unwrap_or(record.timestamp),
        word: Plain::name(&cause).to_string(),
        tone: Tone::Good,
        rest: format!("{} {}", Plain::name(scope), Plain::name(value)),
    })
}

fn incident(incident: Incident) -> Option<Said> {
    let is_open = incident.state == IncidentState::Open;
    Some(Said {
        value: serde_json::to_value(&incident).ok()?,
        at: incident.updated_at,
        word: format!("{} {}", incident.severity, incident.state),
        tone: if is_open { Tone::Bad } else { Tone::Plain },
        rest: format!(
            "{}: {}",
            incident
                .incident_id
                .chars()
                .take(12)
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '?' })
                .collect::<String>(),
            Plain::sentence(&incident.summary)
        ),
        tenant: incident.tenant,
    })
}
