//! `portcullis sink status`: by the topics alone, of sinks that run and of one that has stopped.

use portcullis::event::wire::Format;
use portcullis::event::{Action, BlocklistEntry};
use serde_json::{Value, json};

use crate::support::job::Installed;
use crate::support::kept::EndBy;
use crate::support::records::DEADLINE;
use crate::support::sink::{Publisher, entry, now};
use crate::support::until;

#[test]
fn which_sinks_there_are_and_what_each_lacks() {
    let installed = Installed::new("sink-status");
    installed.done(&["topics", "apply"]);
    let connection = installed.connection();
    let publisher = Publisher::new(&connection, Format::Json);
    assert_eq!(installed.done(&["sink", "status"]), "No sink has written a receipt.\n");

    let minute_ago = || now() - 60_000;
    let block = |ip: &str| publisher.block(&entry("shop", ip, minute_ago(), None));
    block("203.0.113.1");
    block("203.0.113.2");
    publisher.block(&BlocklistEntry { action: Action::Challenge, ..entry("shop", "203.0.113.3", minute_ago(), None) });
    // Of a tenant that the sinks do not serve.
    publisher.block(&entry("bank", "203.0.113.4", minute_ago(), None));
    let path = |name: &str| installed.folder.path().join(name).display().to_string();
    let start = |name: &str| {
        let file = path(name);
        let sink = ["sink", "file", "--tenant", "shop", "--sink-name", name, "--interval", "50ms", "--file", &file];
        installed.start(&sink, EndBy::Term)
    };
    let status = || {
        let output = installed.output(&["sink", "status", "--output", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), answer)
    };
    // What of a sink is of interest here.
    let figures = |line: &Value| json!([line["sink"], line["holds"], line["behind"], line["too_much"], line["failed"]]);
    let until_status = |code: i32, expected: &[Value]| {
        until(DEADLINE, &format!("{code} and {expected:?}"), || {
            let (ended, answer) = status();
            let sinks: Vec<Value> = answer["sinks"].as_array().unwrap().iter().map(figures).collect();
            (ended == Some(code) && sinks == expected).then_some(answer)
        })
    };
    let (one, two) = (start("one"), start("two"));
    let answer = until_status(0, &[json!(["one", 3, 0, 0, 0]), json!(["two", 3, 0, 0, 0])]);
    assert_eq!((&answer["in_force"], &answer["sinks"][0]["tenants"]), (&json!(4), &json!(["shop"])));

    drop(two);
    block("203.0.113.5");
    publisher.lift("shop", "203.0.113.1", now());
    let answer = until_status(3, &[json!(["one", 3, 0, 0, 0]), json!(["two", 2, 1, 1, 0])]);
    let behind = &answer["sinks"][1];
    assert!(behind["lag_ms"].as_i64().unwrap() >= 60_000, "{behind}");
    assert_eq!(behind["named"], json!(["shop|IP|203.0.113.5", "shop|IP|203.0.113.1"]));
    let text = String::from_utf8(installed.output(&["sink", "status"]).stdout).unwrap();
    assert!(text.starts_with("sink  tenants") && text.contains("two differs in: shop|IP|203.0.113.5, "), "{text}");

    let _two = start("two");
    until_status(0, &[json!(["one", 3, 0, 0, 0]), json!(["two", 3, 0, 0, 0])]);
    drop(one);
}
