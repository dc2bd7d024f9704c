//! What people ask for in the middle of an attack: carried out by a running job, obeyed by a real edge, written down.

use portcullis::engine::{ControlChange, Emission, Output, Pipeline};
use portcullis::event::{
    Action, AttackState, ChallengePolicy, Command, CommandKind, DetailKind, Exemption, LoginEvent, Millis, Mode, Scope,
    Verdict,
};
use portcullis::topology::Request;
use serde_json::{Value, json};

use crate::support::core::{Core, Record, START, default_env, failure, few_make_a_campaign};
use crate::support::job::Installed;
use crate::support::kept::EndBy;
use crate::support::nginx::Nginx;
use crate::support::records::{DEADLINE, read_all};
use crate::support::until;

#[test]
fn a_person_blocks_lifts_and_switches_off_and_the_edge_obeys() {
    const GUESSES: &str = "203.0.113.9";
    const OTHER: &str = "198.51.100.7";
    let installed = Installed::new("commands");
    installed.done(&["topics", "apply"]);
    let _job = installed.run(EndBy::Term);
    let geo_file = installed.folder.path().join("portcullis.geo");
    let nginx = Nginx::start(&geo_file);
    let (conf, pid) = (nginx.conf(), nginx.pid_file());
    let sink = ["sink", "nginx", "--all-tenants", "--interval", "100ms", "--file", geo_file.to_str().unwrap()];
    let sink = [&sink[..], &["--conf", conf.to_str().unwrap(), "--pid-file", pid.to_str().unwrap()]].concat();
    let _sink = installed.start(&sink, EndBy::Term);
    let about = |who: &'static str| [who, "--tenant", "shop", "--actor", "ada", "--reason", "seen at night"];
    let at_edge = |who: &str, status: u16| {
        until(DEADLINE, &format!("{status} for {who}"), || (nginx.status_for(who) == status).then_some(()));
    };

    // A block that is carried out is told so, and holds at the edge.
    let words = [&["block"][..], &about(OTHER), &["--for", "1h", "--output", "json"]].concat();
    let done: Value = serde_json::from_str(&installed.done(&words)).unwrap();
    assert_eq!((&done["published"], &done["entry"]["actor"]), (&json!(true), &json!("ada")));
    assert_eq!((&done["entry"]["action"], &done["entry"]["playbook"]), (&json!("BLOCK"), &Value::Null));
    at_edge(OTHER, 403);
    assert!(installed.done(&["explain", OTHER]).contains("seen at night"));

    // What a playbook blocks can be lifted, and stays lifted though it goes on.
    let events = installed.folder.path().join("events.jsonl");
    let guess = |from: i64| {
        let lines = (from..from + 60).map(|n| {
            let event = json!({"event_id": format!("e{n}"), "occurred_at": 1_561_682_400_000_i64 + n * 100,
                "tenant": "shop", "account": format!("user{n}@example.org"), "outcome": "FAILURE",
                "failure_reason": "WRONG_PASSWORD", "source_ip": GUESSES});
            format!("{event}\n")
        });
        std::fs::write(&events, lines.collect::<String>()).unwrap();
        installed.done(&["produce", events.to_str().unwrap()]);
    };
    guess(0);
    at_edge(GUESSES, 403);
    let lifted = installed.done(&[&["unblock"][..], &about(GUESSES), &["--mistake"]].concat());
    assert!(lifted.contains("MARK_FALSE_POSITIVE IP \"203.0.113.9\"") && lifted.contains("published"), "{lifted}");
    at_edge(GUESSES, 200);
    guess(100);
    installed.done(&[&["block"][..], &about("192.0.2.5")].concat());
    at_edge("192.0.2.5", 403);
    assert_eq!(nginx.status_for(GUESSES), 200, "what came before the other block changed nothing");

    // The kill switch empties the edge at once, and what is blocked comes back with it.
    let off = ["kill-switch", "on", "--tenant", "shop", "--actor", "ada", "--reason", "customers are locked out"];
    installed.done(&off);
    at_edge(OTHER, 200);
    at_edge("192.0.2.5", 200);
    installed.done(&["kill-switch", "off", "--tenant", "shop", "--actor", "ada", "--reason", "it was another thing"]);
    at_edge(OTHER, 403);
    at_edge("192.0.2.5", 403);

    // Nobody restricts themselves out of the house, and very many people only in two.
    for (words, told) in [
        (vec!["block", "10.0.0.0/24"], "private"),
        (vec!["block", "198.48.0.0/13"], "a second person"),
        (vec!["block", "AS64500", "--approved-by", "ada"], "a second person"),
        (vec!["block", "203.0.113.9", "--scope", "cidr"], "not a range"),
    ] {
        let words = [&words[..], &["--tenant", "shop", "--actor", "ada", "--reason", "r"]].concat();
        let output = installed.output(&words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(told), "{words:?}: {text}");
    }
    // The topic is the trail: who, what, why, in order, and nothing that was refused.
    let trail = read_all(&installed.connection().client, &installed.topic("commands"));
    let trail: Vec<Command> =
        trail.iter().map(|record| serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()).collect();
    let kinds: Vec<CommandKind> = trail.iter().map(|command| command.kind).collect();
    use CommandKind::{Block, KillSwitch, MarkFalsePositive};
    assert_eq!(kinds, [Block, MarkFalsePositive, Block, KillSwitch, KillSwitch]);
    assert!(trail.iter().all(|command| command.actor == "ada" && !command.reason.is_empty()));
}

fn ask(kind: CommandKind, scope: Scope, value: &str) -> Command {
    Command {
        command_id: format!("{kind}-{value}"),
        at: START,
        actor: "ada".to_owned(),
        role: "operator".to_owned(),
        tenant: "shop".to_owned(),
        kind,
        scope,
        value: value.to_owned(),
        action: Action::Block,
        until: None,
        reason: "they came from there in June".to_owned(),
        incident_id: None,
        undoes: None,
        approved_by: None,
        pending_until: None,
        answers: None,
        detail: String::new(),
    }
}

fn give(pipeline: &mut Pipeline, at: Millis, command: &Command) -> Vec<Emission> {
    let request = Box::new(Request::of(command, at).unwrap());
    pipeline.control(at, |version| ControlChange::Command { version, request })
}

fn verdicts(emitted: Vec<Emission>, playbook: &str) -> Vec<Verdict> {
    let verdicts = emitted.into_iter().filter_map(|e| if let Output::Verdict(v) = e.output { Some(*v) } else { None });
    verdicts.filter(|verdict| verdict.playbook == playbook).collect()
}

#[test]
fn whoever_touches_what_is_watched_is_told_once_an_hour() {
    let mut pipeline = Pipeline::new(default_env());
    let touch = |pipeline: &mut Pipeline, at: Millis, n: i64, source: &str, account: &str| {
        let event = LoginEvent {
            asn: Some(64_500).filter(|_| source.starts_with("203.")),
            ..failure(START + at, n, source, account)
        };
        let told = Core::feed(pipeline, &Record::json(START + at, &event));
        verdicts(told, "tripwire").into_iter().map(|v| (v.value, v.explanation)).collect::<Vec<_>>()
    };
    assert_eq!(touch(&mut pipeline, 0, 0, "198.51.100.9", "ada"), []);
    give(&mut pipeline, START + 1_000, &ask(CommandKind::Watch, Scope::Cidr, "198.51.100.0/24"));
    give(&mut pipeline, START + 1_000, &ask(CommandKind::Watch, Scope::Asn, "64500"));
    give(&mut pipeline, START + 1_000, &ask(CommandKind::Watch, Scope::Account, "canary@example.org"));
    let told = touch(&mut pipeline, 2_000, 1, "198.51.100.9", "ada");
    let [(who, why)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(who, "198.51.100.9");
    assert_eq!(why, "198.51.100.9 touched CIDR 198.51.100.0/24, which ada watches: they came from there in June");
    assert_eq!(touch(&mut pipeline, 3_000, 2, "198.51.100.9", "bob"), [], "once");
    assert_eq!(touch(&mut pipeline, 3_000, 3, "198.51.100.10", "bob").len(), 1, "and another address");
    assert_eq!(touch(&mut pipeline, 3_000, 4, "203.0.113.1", "bob").len(), 1, "the system of an address");
    assert_eq!(touch(&mut pipeline, 3_000, 5, "192.0.2.1", "canary@example.org").len(), 1, "an account of nobody");
    assert_eq!(touch(&mut pipeline, 3_000, 6, "192.0.2.2", "bob"), []);
    assert_eq!(touch(&mut pipeline, 3_700_000, 7, "198.51.100.9", "bob").len(), 1, "an hour later again");
    // A lift ends it; a block of a range begins it.
    give(&mut pipeline, START + 3_800_000, &ask(CommandKind::Lift, Scope::Cidr, "198.51.100.0/24"));
    assert_eq!(touch(&mut pipeline, 7_900_000, 8, "198.51.100.9", "bob"), []);
    give(&mut pipeline, START + 8_000_000, &ask(CommandKind::Block, Scope::Cidr, "198.51.100.0/22"));
    assert_eq!(touch(&mut pipeline, 8_100_000, 9, "198.51.100.9", "bob").len(), 1);
}

#[test]
fn a_killed_tenant_is_judged_in_shadow_and_nobody_is_challenged() {
    let mut env = std::sync::Arc::unwrap_or_clone(default_env());
    env.limits.campaign = few_make_a_campaign();
    let mut pipeline = Pipeline::new(std::sync::Arc::new(env));
    let mut told = Vec::new();
    let attack = |pipeline: &mut Pipeline, from: i64| -> Vec<Emission> {
        let events = (from..from + 200).map(|n| {
            let source = format!("198.51.{}.9", n % 100);
            failure(START + n * 500, n, &source, &format!("nobody{n}@example.org"))
        });
        events.flat_map(|event| Core::feed(pipeline, &Record::json(event.occurred_at, &event))).collect()
    };
    told.extend(attack(&mut pipeline, 0));
    let challenge = |told: &[Emission]| {
        let mut statuses = told.iter().filter_map(|e| if let Output::Status(s) = &e.output { Some(s) } else { None });
        statuses.next_back().map(|s| (s.state, s.challenge))
    };
    assert_eq!(challenge(&told), Some((AttackState::Attack, ChallengePolicy::UnknownPairs)));
    let at = START + 200 * 500;
    let exemption = Exemption {
        tenant: "shop".to_owned(),
        scope: Scope::Tenant,
        value: "shop".to_owned(),
        since: at,
        until: Some(at + 150_000),
        reason: "locked out".to_owned(),
        actor: Some("ada".to_owned()),
        generation: at,
    };
    let key = "shop|TENANT|shop";
    pipeline.control(at, |version| ControlChange::Exemption {
        version,
        key: key.into(),
        exemption: Some(exemption.clone()),
    });
    let off = attack(&mut pipeline, 200);
    assert_eq!(challenge(&off), Some((AttackState::Attack, ChallengePolicy::Nobody)));
    let live = |told: &[Emission]| {
        let verdicts = told.iter().filter_map(|e| if let Output::Verdict(v) = &e.output { Some(v) } else { None });
        verdicts.filter(|v| v.mode == Mode::Live && v.action.restricts()).count()
    };
    let blocks = |told: &[Emission]| told.iter().filter(|e| matches!(e.output, Output::Block(_))).count();
    assert_eq!(live(&off), 0);
    let puts = off.iter().filter(|e| matches!(&e.output, Output::Block(change) if change.entry().is_some())).count();
    assert_eq!(puts, 0, "of {} changes of the list", blocks(&off));
    let on = attack(&mut pipeline, 600);
    assert_eq!(challenge(&on), Some((AttackState::Attack, ChallengePolicy::UnknownPairs)));
    assert!(live(&on) > 0 && blocks(&on) > 0);
}

#[test]
fn what_a_person_did_stands_in_the_incident() {
    let mut env = std::sync::Arc::unwrap_or_clone(default_env());
    env.limits.campaign = few_make_a_campaign();
    let mut pipeline = Pipeline::new(std::sync::Arc::new(env));
    for n in 0..200 {
        let source = format!("198.51.{}.9", n % 100);
        let event = failure(START + n * 500, n, &source, &format!("nobody{n}@example.org"));
        Core::feed(&mut pipeline, &Record::json(event.occurred_at, &event));
    }
    let told = give(&mut pipeline, START + 100_000, &ask(CommandKind::Block, Scope::Ip, "192.0.2.77"));
    let mut details =
        told.iter().filter_map(|e| if let Output::Detail(detail) = &e.output { Some(detail) } else { None });
    let line = details.rfind(|detail| detail.kind == DetailKind::Action);
    let line = line.expect("a line of the incident");
    assert_eq!((&*line.value, &*line.about["actor"], &*line.about["value"]), ("BLOCK-192.0.2.77", "ada", "192.0.2.77"));
    let entry = told.iter().find_map(|e| if let Output::Block(change) = &e.output { change.entry() } else { None });
    let entry = entry.expect("an entry");
    assert_eq!((entry.until, entry.actor.as_deref(), entry.wide), (None, Some("ada"), true));
    assert_eq!(entry.incident_id.as_deref(), Some(&*line.incident_id));
}
