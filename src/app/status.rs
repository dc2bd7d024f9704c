//! `portcullis status`: how each tenant stands, and how soon edges obey.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::board::ReadBoard;
use super::table::{Table, Tone};
use super::{Connection, Ending, Output};
use crate::console::text::{date_time, grouped, how_long, percent};
use crate::console::{Board, Delay, Heard};
use crate::event::{AttackState, AttackStatus, IncidentState, Millis, ReceiptOutcome};
use crate::topology::exemptions::Exemptions;

/// Say how each tenant stands, what is in force, and how soon edges have it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  portcullis status\n  portcullis status --output json")]
pub struct StatusArgs {
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

#[derive(Serialize)]
struct Status {
    at: Millis,
    tenants: Vec<TenantStatus>,
    edges: Vec<EdgeLine>,
}

#[derive(Serialize)]
struct TenantStatus {
    tenant: String,
    /// CALM, ELEVATED, ATTACK; NO_WORD: the last was not CALM and has run out.
    state: &'static str,
    status: Option<AttackStatus>,
    /// End of the newest slice of its traffic.
    heard_at: Option<Millis>,
    in_force: usize,
    open_incidents: Vec<String>,
}

#[derive(Serialize)]
struct EdgeLine {
    edge: String,
    last_at: Millis,
    delay: Option<Delay>,
    not_taken: usize,
    receipts: BTreeMap<ReceiptOutcome, u64>,
}

/// Reads the topics and answers.
///
/// # Errors
/// A topic is missing or may not be read, or the cluster does not answer.
pub fn run(
    args: &StatusArgs,
    connection: &Connection,
    exemptions: Exemptions,
    now: impl Fn() -> Millis,
    has_colours: bool,
    out: &mut dyn Write,
) -> Result<Ending> {
    let mut read = ReadBoard::new(exemptions)?;
    let topics = ["attack-status", "incidents", "activity", "blocklist", "exemptions", "receipts"];
    read.read(connection, &topics, |_| true, now())?;
    let at = now();
    let status = Status { at, tenants: tenants(&read.board, at), edges: edges(&read.board, at) };
    args.output.write(out, &status, status.text(has_colours).trim_end())?;
    Ok(Ending::Well)
}

fn tenants(board: &Board, now: Millis) -> Vec<TenantStatus> {
    let of_tenant = |tenant: &str| {
        let (state, status) = match board.heard(tenant, now) {
            Some(Heard::Holds(status)) => (status.state.as_str(), Some(status.clone())),
            Some(Heard::RanOut(status)) if status.state != AttackState::Calm => ("NO_WORD", Some(status.clone())),
            Some(Heard::RanOut(_)) | None => (AttackState::Calm.as_str(), None),
        };
        let open = board.incidents().into_iter().filter(|of| of.tenant == tenant && of.state == IncidentState::Open);
        TenantStatus {
            tenant: tenant.to_owned(),
            state,
            status,
            heard_at: board.traffic().last(tenant).map(|slice| slice.slice_end),
            in_force: board.in_force(tenant).all(),
            open_incidents: open.map(|of| of.incident_id.clone()).collect(),
        }
    };
    board.tenants().into_iter().map(of_tenant).collect()
}

fn edges(board: &Board, now: Millis) -> Vec<EdgeLine> {
    let edge = |(name, sink): (&str, &crate::console::Sink)| EdgeLine {
        edge: name.to_owned(),
        last_at: sink.last_at,
        delay: sink.delay(now),
        not_taken: sink.failing.len(),
        receipts: sink.outcomes.clone(),
    };
    board.sinks().iter().map(edge).collect()
}

impl Status {
    fn text(&self, has_colours: bool) -> String {
        if self.tenants.is_empty() && self.edges.is_empty() {
            return "Nothing is known of any tenant or edge yet.".to_owned();
        }
        let plain = |text: String| (text, Tone::Plain);
        let mut tenants = Table::new(&[
            "tenant", "state", "since (UTC)", "challenge", "attempts/s", "fail", "usually", "in force", "last traffic",
            "incidents",
        ]);
        for of in &self.tenants {
            let tone = match of.state {
                "ATTACK" => Tone::Bad,
                "CALM" => Tone::Good,
                _ => Tone::Warn,
            };
            let figure = |figure: fn(&AttackStatus) -> String| of.status.as_ref().map_or("-".to_owned(), figure);
            tenants.row(vec![
                plain(of.tenant.clone()),
                (of.state.to_owned(), tone),
                plain(figure(|status| date_time(status.since))),
                plain(figure(|status| status.challenge.as_str().to_owned())),
                plain(figure(|status| format!("{:.1}", status.attempts_per_second))),
                plain(figure(|status| percent(status.failure_share))),
                plain(figure(|status| percent(status.usual_failure_share))),
                plain(grouped(i64::try_from(of.in_force).unwrap_or(i64::MAX))),
                plain(of.heard_at.map_or("-".to_owned(), |at| format!("{} ago", how_long(self.at - at)))),
                plain(
                    of.open_incidents
                        .iter()
                        .map(|id| id.chars().take(12).collect::<String>())
                        .collect::<Vec<_>>()
                        .join(" "),
                ),
            ]);
        }
        let mut edges = Table::new(&["edge", "last confirmed (UTC)", "median", "99 of 100", "not taken"]);
        for of in &self.edges {
            let delay = |figure: fn(Delay) -> Millis| of.delay.map_or("-".to_owned(), |delay| how_long(figure(delay)));
            edges.row(vec![
                plain(of.edge.clone()),
                plain(format!("{}, {} ago", date_time(of.last_at), how_long(self.at - of.last_at))),
                plain(delay(|delay| delay.median_ms)),
                plain(delay(|delay| delay.p99_ms)),
                (of.not_taken.to_string(), if of.not_taken > 0 { Tone::Bad } else { Tone::Plain }),
            ]);
        }
        let edges =
            if edges.is_empty() { "No edge has confirmed anything.".to_owned() } else { edges.text(has_colours) };
        format!("{}\n{edges}", tenants.text(has_colours))
    }
}
