//! What Portcullis found with the peers' five rules beside what the peers found, on the same topic, with the reason for
//! every pair of rule and entity that only one of them has.
//!
//! The reasons are recounted here from the events, in the order of event time and without any code of the engine: known
//! pairs (this pair logged in before) and repeats (the same pair within a minute) are left out one after the other, and the
//! first that brings an entity below the threshold of its rule is why it is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use portcullis::event::wire::{avro_login_event, normal_account};
use portcullis::event::{FailureReason, Outcome};
use portcullis::log::ClientOptions;
use portcullis::log::follow::{Followed, Follower, ReadFrom};
use serde_json::{Value, json};

use crate::{Result, print};

/// Compare the verdicts of the five rules with the detections of a peer
#[derive(Debug, Args)]
pub(crate) struct Compare {
    #[arg(long)]
    bootstrap: String,
    /// Topic with the detections of a peer
    #[arg(long)]
    detections: String,
    /// The verdicts of Portcullis, as JSON lines
    #[arg(long)]
    verdicts: PathBuf,
    /// What the lines call the set of playbooks
    #[arg(long, default_value = "five-rules")]
    name: String,
}

/// A rule and an entity, as the peers write it.
type Found = (String, String);

const RULES: [&str; 5] = ["R1", "R2", "R3", "R4", "R5"];

impl Compare {
    pub(crate) fn run(&self) -> Result<()> {
        let (theirs, ours) = (self.theirs()?, self.ours()?);
        let events = self.events()?;
        let recounts = [
            Recount::of(&events, Counted::All),
            Recount::of(&events, Counted::Strangers),
            Recount::of(&events, Counted::StrangersOnceAMinute),
        ];
        for rule in RULES {
            let of_rule = |found: &BTreeSet<Found>| found.iter().filter(|(held, _)| held == rule).count();
            let mut why = BTreeMap::<&str, usize>::new();
            for missing in theirs.difference(&ours).filter(|(held, _)| held == rule) {
                *why.entry(reason(missing, &recounts)).or_default() += 1;
            }
            let extra: Vec<&Found> = ours.difference(&theirs).filter(|(held, _)| held == rule).collect();
            print(&json!({
                "compare": format!("{rule}, {}", self.name),
                "peer": of_rule(&theirs),
                "portcullis": of_rule(&ours),
                "both": theirs.intersection(&ours).filter(|(held, _)| held == rule).count(),
                "missing": why,
                "extra": extra.len(),
                "extra_first": extra.iter().take(5).map(|(_, entity)| entity).collect::<Vec<_>>(),
                "unexplained_first": theirs.difference(&ours)
                    .filter(|missing| missing.0 == rule && reason(missing, &recounts) == UNEXPLAINED)
                    .take(5).map(|(_, entity)| entity).collect::<Vec<_>>(),
            }));
        }
        Ok(())
    }

    fn theirs(&self) -> Result<BTreeSet<Found>> {
        let mut found = BTreeSet::new();
        read(&self.bootstrap, &self.detections, |value| {
            let detection: Value = serde_json::from_slice(value)?;
            let text = |name: &str| detection[name].as_str().unwrap_or_default().to_owned();
            found.insert((text("rule"), text("entity")));
            Ok(())
        })?;
        Ok(found)
    }

    fn ours(&self) -> Result<BTreeSet<Found>> {
        let mut found = BTreeSet::new();
        for line in std::io::BufReader::new(std::fs::File::open(&self.verdicts)?).lines() {
            let verdict: Value = serde_json::from_str(&line?)?;
            let text = |name: &str| verdict[name].as_str().unwrap_or_default().to_owned();
            // r1-address-failures
            let rule = text("playbook").split('-').next().unwrap_or_default().to_uppercase();
            let entity = if rule == "R5" { text("tenant") } else { format!("{}/{}", text("tenant"), text("value")) };
            found.insert((rule, entity));
        }
        Ok(found)
    }

    /// Every failure and success, in the order of event time.
    fn events(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        read(&self.bootstrap, "login-events", |value| {
            let event = avro_login_event(value.get(5..).unwrap_or_default()).map_err(|reject| reject.detail)?;
            let failed = match event.outcome {
                Outcome::Failure if event.failure_reason != FailureReason::SystemError => true,
                Outcome::Success => false,
                Outcome::Failure | Outcome::Blocked | Outcome::Challenged | Outcome::Unknown => return Ok(()),
            };
            let network = event.source_ip.rsplit_once('.').map(|(start, _)| format!("{}/{start}.0/24", event.tenant));
            let account = format!("{}/{}", event.tenant, normal_account(&event.account));
            events.push(Event {
                at: event.occurred_at,
                failed,
                is_nobody: event.account_exists == Some(false),
                address: hash(&format!("{}/{}", event.tenant, event.source_ip)),
                network: network.map(|network| hash(&network)),
                account: hash(&account),
            });
            Ok(())
        })?;
        events.sort_by_key(|event| event.at);
        Ok(events)
    }
}

const UNEXPLAINED: &str = "unexplained";

fn reason(missing: &Found, [all, strangers, once]: &[Recount; 3]) -> &'static str {
    if !all.fires(missing) {
        "the recount does not have it either"
    } else if !strangers.fires(missing) {
        "failures of known pairs count for nobody"
    } else if !once.fires(missing) {
        "the same pair counts once a minute"
    } else if missing.0 == "R3" && once.nobody.contains(&hash(&missing.1)) {
        "a name that belongs to nobody"
    } else {
        UNEXPLAINED
    }
}

/// One checked attempt; names as hashes, for there are millions.
struct Event {
    at: i64,
    failed: bool,
    is_nobody: bool,
    address: u64,
    network: Option<u64>,
    account: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    All,
    Strangers,
    StrangersOnceAMinute,
}

/// Failures and distinct accounts of every entity over the whole topic: a run of less than ten minutes.
struct Recount {
    failures: HashMap<u64, u32>,
    accounts: HashMap<u64, HashSet<u64>>,
    nobody: HashSet<u64>,
}

impl Recount {
    fn of(events: &[Event], counted: Counted) -> Recount {
        let mut recount = Recount { failures: HashMap::new(), accounts: HashMap::new(), nobody: HashSet::new() };
        let (mut known, mut counted_at) = (HashSet::new(), HashMap::new());
        for event in events {
            let pair = (event.address, event.account);
            if !event.failed {
                known.insert(pair);
                continue;
            }
            if event.is_nobody {
                recount.nobody.insert(event.account);
            }
            if counted != Counted::All && known.contains(&pair) {
                continue;
            }
            let minute = event.at.div_euclid(60_000);
            if counted == Counted::StrangersOnceAMinute && counted_at.insert(pair, minute) == Some(minute) {
                continue;
            }
            for entity in [event.address, event.account] {
                *recount.failures.entry(entity).or_default() += 1;
            }
            for entity in [Some(event.address), event.network].into_iter().flatten() {
                recount.accounts.entry(entity).or_default().insert(event.account);
            }
        }
        recount
    }

    fn fires(&self, (rule, entity): &Found) -> bool {
        let entity = hash(entity);
        let failures = self.failures.get(&entity).copied().unwrap_or(0);
        let accounts = self.accounts.get(&entity).map_or(0, HashSet::len);
        match rule.as_str() {
            "R1" => failures >= 20,
            "R2" => accounts >= 10,
            "R3" => failures >= 10,
            "R4" => accounts >= 50,
            _ => false,
        }
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(text)
}

/// Every committed record of a topic.
fn read(bootstrap: &str, topic: &str, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut follower = Follower::new(&ClientOptions::new(bootstrap), &[topic.to_owned()], ReadFrom::Start)?;
    loop {
        match follower.poll(Duration::from_millis(50))? {
            Followed::Record(record) => each(&record.value.unwrap_or_default())?,
            Followed::CaughtUp => return Ok(()),
            Followed::Idle => {}
        }
    }
}
