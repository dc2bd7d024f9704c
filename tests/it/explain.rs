//! `portcullis explain`: what a person is told whom a user has called, from the topics of a running job and a sink.

use serde_json::{Value, json};

use crate::support::job::Installed;
use crate::support::kept::EndBy;
use crate::support::records::DEADLINE;
use crate::support::until;

const GUESSES: &str = "203.0.113.9";

#[test]
fn who_is_restricted_by_what_and_at_which_edge() {
    let installed = Installed::new("explain");
    installed.done(&["topics", "apply"]);
    let events = installed.folder.path().join("events.jsonl");
    let lines = (0..60).map(|n| {
        let event = json!({"event_id": format!("e{n}"), "occurred_at": 1_561_682_400_000_i64 + n * 100, "tenant": "shop",
            "account": format!("user{n}@example.org"), "outcome": "FAILURE", "failure_reason": "WRONG_PASSWORD",
            "source_ip": GUESSES});
        format!("{event}\n")
    });
    std::fs::write(&events, lines.collect::<String>()).unwrap();
    let _job = installed.run(EndBy::Term);
    let list = installed.folder.path().join("blocked.jsonl");
    let sink = ["sink", "file", "--all-tenants", "--sink-name", "files", "--file", list.to_str().unwrap()];
    let _sink = installed.start(&sink, EndBy::Term);

    let calm = installed.done(&["explain", GUESSES]);
    assert_eq!(calm, format!("{GUESSES}: not restricted now\n\n"));
    installed.done(&["produce", events.to_str().unwrap()]);
    let explained: Value = until(DEADLINE, "a block that an edge has", || {
        let explained = installed.done(&["explain", GUESSES, "--tenant", "shop", "--output", "json"]);
        let explained: Value = serde_json::from_str(&explained).unwrap();
        explained["restrictions"][0]["edges"][0]["outcome"].is_string().then_some(explained)
    });
    assert_eq!(explained["restricted"], true);
    let restriction = &explained["restrictions"][0];
    assert_eq!(restriction["key"], format!("shop|IP|{GUESSES}"));
    assert_eq!(
        (&restriction["edges"][0]["sink"], &restriction["edges"][0]["outcome"]),
        (&json!("files"), &json!("APPLIED"))
    );
    let verdicts = explained["verdicts"].as_array().unwrap();
    assert!(verdicts.iter().any(|verdict| verdict["playbook"] == restriction["entry"]["playbook"]), "{explained}");

    let text = installed.done(&["explain", "203.0.113.0/24"]);
    for told in [
        "203.0.113.0/24: restricted",
        "BLOCK shop|IP|203.0.113.9 (enforced), until",
        "edge files APPLIED",
        "verdicts, ",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert!(installed.done(&["explain", "somebody@example.org"]).contains("not restricted now"));
    assert!(installed.done(&["explain", GUESSES, "--tenant", "other"]).contains("not restricted now"));
    let wrong = installed.output(&["explain", GUESSES, "--tenant", "No Tenant"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("is no tenant"), "{wrong:?}");
}
