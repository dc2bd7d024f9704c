//! What is written to people, held against `tests/data/notify`; and what becomes of words that attackers chose.
//!
//! `PORTCULLIS_BLESS=1` writes the files anew; read the difference before you commit it.

use std::path::Path;

use portcullis::event::{Compromise, Counted};
use portcullis::notify::news::Occasion;
use portcullis::notify::{Item, Message, SLACK_BYTES_MAX, SUBJECT_CHARS_MAX, Templates, sample, slack};

use crate::support::notify::incident;
use crate::support::repository;

const NOW: i64 = 1_561_683_300_000;

fn templates() -> Templates {
    Templates::load(None, &sample("tests", None, NOW)).unwrap()
}

/// An incident whose every word an attacker chose.
fn hostile() -> Message {
    let evil = "<!channel> <https://evil.example.com|your bank> @here a@channel *bold* _it_ ~no~ `code` [x](http://e) \
                & </p><script>alert(1)</script> {{ 7 * 7 }} {% raw %} \u{202e}moc.elpmaxe \u{1b}[31mred\r\nBcc: all@example.com\r\n\"x\"";
    let mut incident = incident(evil, NOW - 900_000);
    incident.tenant = evil.to_owned();
    incident.summary = evil.to_owned();
    incident.top_networks = vec![Counted { value: evil.to_owned(), attempts: i64::MIN }];
    incident.top_user_agents = vec![Counted { value: evil.to_owned(), attempts: i64::MAX }];
    incident.attempts = i64::MAX;
    for account in [evil.to_owned(), "x".repeat(100_000), String::new(), "\u{ff20}\u{1f}=1+1".to_owned()] {
        incident.compromised.push(Compromise {
            account,
            source_ip: evil.to_owned(),
            at: i64::MAX,
            flagged_at: i64::MIN,
            event_id: evil.to_owned(),
        });
    }
    let item = Item::new(&incident, None, [Occasion::Opened, Occasion::Fell].into(), 1, Some("https://c.example.com"));
    Message::new("tests", vec![item], NOW)
}

fn several() -> Message {
    let of = |n: usize| {
        let mut incident = incident(&format!("i-{n}"), NOW - 60_000);
        incident.tenant = format!("shop-{}", n % 5);
        Item::new(&incident, None, [Occasion::Opened].into(), 1, None)
    };
    Message::new("tests", (0..25).map(of).collect(), NOW)
}

#[test]
fn every_text_is_as_it_was_agreed() {
    let folder = repository().join("tests/data/notify");
    let templates = templates();
    for (name, message) in [
        ("sample", sample("tests", Some("https://console.example.com"), NOW)),
        ("hostile", hostile()),
        ("several", several()),
    ] {
        let mail = templates.mail(&message).unwrap();
        let webhook: serde_json::Value = serde_json::from_str(&templates.webhook(&message).unwrap()).unwrap();
        for (kind, text) in [
            ("slack.txt", templates.slack(&message).unwrap()),
            ("mail.txt", format!("Subject: {}\n\n{}", mail.subject, mail.text)),
            ("mail.html", mail.html),
            ("webhook.json", format!("{webhook:#}\n")),
        ] {
            agree(&folder.join(format!("{name}.{kind}")), &text);
        }
    }
}

fn agree(file: &Path, text: &str) {
    if std::env::var("PORTCULLIS_BLESS").is_ok() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let agreed = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(text, agreed, "{}", file.display());
}

#[test]
fn a_webhook_carries_every_word_as_it_is() {
    let message = hostile();
    let body = templates().webhook(&message).unwrap();
    assert_eq!(serde_json::from_str::<Message>(&body).unwrap(), message);
    assert!(body.len() < 100_000 && body.is_ascii() || !body.contains('\u{1b}'), "{} bytes", body.len());
}

#[test]
fn nothing_that_others_chose_is_markup_a_mention_or_a_header() {
    let (message, templates) = (hostile(), templates());
    let text = templates.slack(&message).unwrap();
    for never in ["<!", "<https://evil", "@here", "@channel", "`code`", "](", "\u{1b}", "\u{202e}", "*bold*", " _it_ "]
    {
        assert!(!text.contains(never), "{never}: {text}");
    }
    assert!(text.contains("&lt;!channel&gt;") && text.contains("{{ 7"), "{text}");
    let mail = templates.mail(&message).unwrap();
    assert!(!mail.subject.contains(['\r', '\n', '\u{1b}', '\u{202e}']), "{}", mail.subject);
    assert!(mail.subject.chars().count() <= SUBJECT_CHARS_MAX);
    assert!(!mail.text.contains("\r\nBcc") && !mail.text.contains("\nBcc") && !mail.text.contains('\u{1b}'));
    for never in ["<script", "\u{202e}", "\u{1b}", "<https:"] {
        assert!(!mail.html.contains(never), "{never}: {}", mail.html);
    }
    assert!(mail.html.contains("&lt;script&gt;"));
}

#[test]
fn no_text_is_longer_than_its_channel_takes() {
    let mut message = several();
    for item in &mut message.incidents {
        item.summary = "<&>".repeat(2_000);
        item.headline = "&".repeat(500);
    }
    let text = templates().slack(&message).unwrap();
    assert!(text.len() <= SLACK_BYTES_MAX && text.ends_with('…'), "{} bytes", text.len());
    // Nothing is cut in the middle of what stands for one character.
    assert!(text.split('&').skip(1).all(|rest| ["amp;", "lt;", "gt;"].iter().any(|end| rest.starts_with(end))));
}

#[test]
fn slack_finds_nobody_to_call() {
    for (text, told) in [
        ("ada@example.com", "ada@example.com"),
        ("@ada", "\u{ff20}ada"),
        ("a @here b", "a \u{ff20}here b"),
        ("x@channel", "x\u{ff20}channel"),
        ("x@EVERYONE!", "x\u{ff20}EVERYONE!"),
        (".@all", ".\u{ff20}all"),
        ("a@allan.example", "a@allan.example"),
        ("<@U123>", "&lt;\u{ff20}U123&gt;"),
        ("a_b __c", "a_b \u{ff3f}\u{ff3f}c"),
        ("5 > 3 & 2", "5 &gt; 3 &amp; 2"),
    ] {
        assert_eq!(slack(text), told);
    }
}

#[test]
fn a_template_that_is_wrong_is_told_with_its_name_and_line() {
    let message = sample("tests", None, NOW);
    for (name, text, told) in [
        ("slack.txt", "one\n{{ message.headlin }}", "slack.txt, line 2: undefined value"),
        ("slack.txt", "one\n{% if %}", "slack.txt, line 2: syntax error"),
        ("mail.txt", "{{ message.headline | shout }}", "mail.txt, line 1: unknown filter"),
        ("webhook.json", "{\"text\": {{ message.headline }}", "webhook.json: what it makes is no JSON"),
        ("slak.txt", "x", "`slak.txt` is no template's name; there are slack.txt,"),
        ("mail.txt", &"x".repeat(70_000), "70000 bytes are more than 65536"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), text).unwrap();
        let error = Templates::load(Some(folder.path()), &message).unwrap_err().to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
    let missing = Templates::load(Some(Path::new("nowhere")), &message).unwrap_err().to_string();
    assert!(missing.contains("template nowhere"), "{missing}");
    // A webhook of another shape.
    let folder = tempfile::tempdir().unwrap();
    let text = "{\"routing_key\": \"k\", \"summary\": {{ message.headline }}, \"n\": {{ incidents | length }}}\n";
    std::fs::write(folder.path().join("webhook.json"), text).unwrap();
    let body = Templates::load(Some(folder.path()), &message).unwrap().webhook(&hostile()).unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["summary"], &body["n"]), (&hostile().headline.into(), &1.into()));
}
