//! What the shipped playbooks do, one folder per case: `tests/scenarios/<name>/scenario.yaml` says what happens and which
//! playbooks must fire, `expect.jsonl` what is published, line by line.
//!
//! `PORTCULLIS_BLESS=1` writes `expect.jsonl` anew; read the difference before you commit it.
//!
//! Each case runs four times: in memory from JSON, in memory from Avro, and twice over a store that forgets what it can
//! and restarts. All four must say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use portcullis::decide::Change;
use portcullis::engine::{ControlChange, Counts, Emission, Env, Output, Pipeline};
use portcullis::event::{AttackState, Exemption, IncidentState, Millis, Mode};
use portcullis::topology::{Exemptions, PlaybookMode, format_duration, parse_duration};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::core::{AfterCommit, Core, Record, START, Stored, default_playbooks, env};
use crate::support::repository;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// What the case shows, in a sentence.
    about: String,
    /// Every playbook that may say something here; `id!shadow` when it only says it.
    fires: BTreeSet<String>,
    /// Modes other than the shipped ones.
    #[serde(default)]
    modes: BTreeMap<String, PlaybookMode>,
    /// `topology/exemptions.yaml`.
    #[serde(default)]
    exemptions: String,
    steps: Vec<Step>,
    /// Until when time goes on after the last step.
    until: String,
}

/// Something that happens, `n` times with a pause between.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// Arrival since the start.
    at: String,
    #[serde(default = "once")]
    n: u32,
    #[serde(default)]
    every: Option<String>,
    /// How long before its arrival it happened; a minus says how long after.
    #[serde(default)]
    late: Option<String>,
    /// Fields of a login event; `{n}` counts from 1 and `{m}` from 0.
    #[serde(default)]
    event: Option<Map<String, Value>>,
    /// A record as it is.
    #[serde(default)]
    raw: Option<String>,
    /// A change on the topic `exemptions`: key, and when it ends (`null` takes it back).
    #[serde(default)]
    exempt: Option<Exempt>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exempt {
    key: String,
    until: Option<String>,
}

fn once() -> u32 {
    1
}

/// `0`, `90s`, `1h2m3s`.
fn time(text: &str) -> Millis {
    let mut rest = if text == "0" { "" } else { text };
    let mut sum = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |unit| digits + unit);
        sum += parse_duration(&rest[..end]).unwrap_or_else(|| panic!("`{text}` is no duration"));
        rest = &rest[end..];
    }
    sum
}

enum Happening {
    Record(Record),
    Exempt(Millis, String, Option<Exemption>),
}

impl Step {
    fn happenings(&self, number: usize) -> Vec<Happening> {
        let every = self.every.as_deref().map_or(0, time);
        (0..self.n)
            .map(|m| {
                let at = START + time(&self.at) + Millis::from(m) * every;
                if let Some(raw) = &self.raw {
                    return Happening::Record(Record { at, value: Some(raw.clone().into_bytes()) });
                }
                if let Some(exempt) = &self.exempt {
                    let until = exempt.until.as_deref().map(|until| START + time(until));
                    return Happening::Exempt(
                        at,
                        exempt.key.clone(),
                        until.map(|until| exemption(&exempt.key, at, until)),
                    );
                }
                let event = self.event.as_ref().expect("a step has an event, a raw record or an exemption");
                Happening::Record(Record { at, value: Some(self.line(event, number, m, at)) })
            })
            .collect()
    }

    fn line(&self, fields: &Map<String, Value>, number: usize, m: u32, at: Millis) -> Vec<u8> {
        let delay = self.late.as_deref().map_or(0, |late| match late.strip_prefix('-') {
            Some(ahead) => -time(ahead),
            None => time(late),
        });
        let mut event = json!({
            "event_id": format!("{number}-{}", m + 1), "occurred_at": at - delay, "tenant": "shop",
            "account": "user{n}@example.org", "outcome": "FAILURE", "source_ip": "203.0.113.7",
        });
        for (name, value) in fields {
            event[name] = value.clone();
        }
        let text = event.to_string().replace("{n}", &(m + 1).to_string()).replace("{m}", &m.to_string());
        text.into_bytes()
    }
}

fn exemption(key: &str, since: Millis, until: Millis) -> Exemption {
    let (tenant, scope, value) = portcullis::event::split_key(key).expect("a key");
    Exemption {
        tenant: tenant.to_owned(),
        scope: portcullis::event::Scope::from_name(scope).expect("a scope"),
        value: value.to_owned(),
        since,
        until: Some(until),
        reason: "tests".to_owned(),
        actor: None,
        generation: since,
    }
}

impl Scenario {
    fn env(&self) -> Arc<Env> {
        let mut playbooks = default_playbooks();
        for (id, mode) in &self.modes {
            let playbook = playbooks.iter_mut().find(|p| p.id == *id).unwrap_or_else(|| panic!("no playbook `{id}`"));
            playbook.mode = *mode;
        }
        Arc::new(env(&playbooks, Exemptions::parse(&self.exemptions).expect("exemptions")))
    }

    fn run(&self, core: &mut dyn Core, avro: bool) -> (Vec<Emission>, Counts) {
        let steps = self.steps.iter().enumerate();
        let mut happenings: Vec<Happening> = steps.flat_map(|(number, step)| step.happenings(number + 1)).collect();
        happenings.sort_by_key(|happening| match happening {
            Happening::Record(record) => record.at,
            Happening::Exempt(at, ..) => *at,
        });
        let mut emitted = Vec::new();
        for happening in happenings {
            emitted.extend(match happening {
                Happening::Record(record) => core.feed(&if avro { record.as_avro() } else { record }),
                Happening::Exempt(at, key, exemption) => core.control(at, &|version| ControlChange::Exemption {
                    version,
                    key: key.as_str().into(),
                    exemption: exemption.clone(),
                }),
            });
        }
        emitted.extend(core.advance(START + time(&self.until)));
        (emitted, core.counts())
    }
}

fn check(folder: &Path, faults: &mut String) {
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
    let text = std::fs::read_to_string(folder.join("scenario.yaml")).expect("scenario.yaml");
    let scenario: Scenario = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let env = scenario.env();
    let (emitted, counts) = scenario.run(&mut Pipeline::new(Arc::clone(&env)), false);
    let others: [(&str, &mut dyn Core, bool); 3] = [
        ("from Avro", &mut Pipeline::new(Arc::clone(&env)), true),
        ("trimmed", &mut Stored::new(Arc::clone(&env), Box::new(|| Some(AfterCommit::Trim))), false),
        ("restarted", &mut Stored::new(Arc::clone(&env), Box::new(ever_rarer_restarts())), false),
    ];
    for (how, core, avro) in others {
        let (other, _) = scenario.run(core, avro);
        // The first difference, not all that is said.
        other.iter().zip(&emitted).for_each(|(other, one)| assert_eq!(other, one, "{name}: {how}"));
        assert_eq!(other.len(), emitted.len(), "{name}: {how}");
    }
    let fires: BTreeSet<String> = emitted.iter().filter_map(|emission| fired(&emission.output)).collect();
    if fires != scenario.fires {
        *faults += &format!("{name}: {}\n  fires {fires:?}, should {:?}\n", scenario.about, scenario.fires);
    }
    let seen = shown(&emitted, &counts);
    let file = folder.join("expect.jsonl");
    if std::env::var("PORTCULLIS_BLESS").is_ok() {
        std::fs::write(&file, &seen).expect("expect.jsonl");
        return;
    }
    let expect = std::fs::read_to_string(&file).unwrap_or_default();
    if seen != expect {
        let missing = expect.lines().filter(|line| !seen.contains(line)).map(|line| format!("  - {line}\n"));
        let extra = seen.lines().filter(|line| !expect.contains(line)).map(|line| format!("  + {line}\n"));
        let lines: String = missing.chain(extra).collect();
        *faults += &format!("{name}: {}\n{lines}\n", scenario.about);
    }
}

/// After 1, 4, 9, 16 … steps, so that a long case does not take the square of its time.
fn ever_rarer_restarts() -> impl FnMut() -> Option<AfterCommit> {
    let mut step: u64 = 0;
    move || {
        step += 1;
        (step.isqrt().pow(2) == step).then_some(AfterCommit::Restart)
    }
}

fn fired(output: &Output) -> Option<String> {
    if let Output::Verdict(verdict) = output {
        let mark = match verdict.mode {
            Mode::Live => "",
            Mode::Shadow => "!shadow",
        };
        return Some(format!("{}{mark}", verdict.playbook));
    }
    None
}

/// One line per output: the time since the start, then what a reader of the topics sees. A status or an
/// incident that merely refreshes the one before is counted and not shown.
fn shown(emitted: &[Emission], counts: &Counts) -> String {
    let mut text = String::new();
    let (mut state, mut is_open, mut refreshed) = (AttackState::Calm, false, 0);
    for Emission { at, output } in emitted {
        let line = match output {
            Output::Verdict(v) => {
                let mut line = json!({
                    "verdict": format!("{}|{}|{}", v.tenant, v.scope, v.value), "playbook": v.playbook, "mode": v.mode,
                    "action": v.action, "until": v.until.map(since_start), "measures": v.measures,
                    "explanation": v.explanation, "evidence": v.evidence, "id": &v.verdict_id[..8],
                    "incident": v.incident_id.is_some(),
                });
                if !v.contributions.is_empty() {
                    line["contributions"] = json!(v.contributions);
                }
                line
            }
            Output::Block(change) => match &change.change {
                Change::Put { shown, generation } => json!({
                    "block": change.entity.key(), "action": shown.action, "since": since_start(shown.since),
                    "until": since_start(shown.until), "generation": since_start(*generation),
                    "playbook": &*shown.playbook,
                }),
                Change::Lift { generation } => json!({
                    "lift": change.entity.key(), "cause": change.cause, "generation": since_start(*generation),
                }),
            },
            // Shown by `known_pairs` and `incident_details`.
            Output::KnownPair(_) | Output::Detail(_) | Output::Activity(_) => continue,
            Output::Status(s) if s.state == state => {
                refreshed += 1;
                continue;
            }
            Output::Incident(i) if i.state == IncidentState::Open && is_open => {
                refreshed += 1;
                continue;
            }
            Output::Status(s) => json!({
                "status": s.tenant, "state": s.state, "since": since_start(s.since), "challenge": s.challenge,
                "expires_at": since_start(s.expires_at), "failure_share": format!("{:.2}", s.failure_share),
            }),
            Output::Incident(i) => json!({
                "incident": i.state, "severity": i.severity, "started_at": since_start(i.started_at),
                "ended_at": i.ended_at.map(since_start), "summary": i.summary, "playbooks": i.playbooks,
                "compromised": i.compromised.iter().map(|c| format!("{} from {} at {}, flagged at {}",
                    c.account, c.source_ip, since_start(c.at), since_start(c.flagged_at))).collect::<Vec<_>>(),
            }),
            Output::DeadLetter(letter) => json!({"dead_letter": letter.reject.reason, "detail": letter.reject.detail}),
            Output::Item { .. } | Output::MarkAll { .. } | Output::Playbook(_) => panic!("an inner output"),
        };
        if let Output::Status(status) = output {
            state = status.state;
        } else if let Output::Incident(incident) = output {
            is_open = incident.state == IncidentState::Open;
        }
        let mut line = line;
        line["at"] = since_start(*at).into();
        text += &format!("{line}\n");
    }
    let mut counts: BTreeMap<&str, u64> = counts.iter().map(|(counter, n)| (counter.as_str(), n)).collect();
    if refreshed > 0 {
        counts.insert("refreshed", refreshed);
    }
    text + &format!("{}\n", json!({ "counts": counts }))
}

fn since_start(at: Millis) -> String {
    let since = at - START;
    if since < 0 { format!("-{}", exact(-since)) } else { exact(since) }
}

/// `1h2m3s` rather than one unit alone.
fn exact(ms: Millis) -> String {
    if ms == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    let mut rest = ms;
    for unit in [86_400_000, 3_600_000, 60_000, 1_000, 1] {
        if rest >= unit {
            text.push_str(&format_duration(rest / unit * unit));
            rest %= unit;
        }
    }
    text
}

#[test]
fn scenarios() {
    let mut folders: Vec<_> = std::fs::read_dir(repository().join("tests/scenarios"))
        .expect("the scenarios")
        .map(|entry| entry.expect("a scenario").path())
        .collect();
    folders.sort();
    assert!(folders.len() > 20, "only {} scenarios were found", folders.len());
    let mut faults = String::new();
    folders.iter().for_each(|folder| check(folder, &mut faults));
    assert!(faults.is_empty(), "\n{faults}");
}
