//! Mail to a real SMTP server: TLS by both ways, a login, what it says when it will not, and what a mail holds when
//! attackers chose its words.

use std::path::{Path, PathBuf};

use portcullis::event::wire::Format;
use portcullis::event::{Compromise, Millis};

use crate::support::kafka::shared;
use crate::support::kept::{EndBy, Kept, folder};
use crate::support::notify::{Incidents, Notify, Receiver, config, incident, slack};
use crate::support::records::{DEADLINE, connection_with_topics};
use crate::support::{free_ports, repository, until};

const START: Millis = 1_561_682_490_000;
const PASSWORD: &str = "a password for tests";

/// Python's aiosmtpd; ends when dropped.
struct MailServer {
    kept: Kept,
    folder: PathBuf,
    starttls: u16,
    implicit: u16,
}

impl MailServer {
    fn start() -> MailServer {
        let home = folder("portcullis-mail-");
        let (certificate, key) = (home.join("cert.pem"), home.join("key.pem"));
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args([Path::new("-out"), &certificate, Path::new("-keyout"), &key])
            .output()
            .expect("openssl: run `make setup`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let [starttls, implicit] = free_ports();
        let text = |path: &Path| path.display().to_string();
        let command = [
            "env".to_owned(),
            format!("PYTHONPATH={}", aiosmtpd().display()),
            "python3".to_owned(),
            text(&repository().join("tests/mail/server.py")),
            text(&home),
            text(&certificate),
            text(&key),
            "portcullis".to_owned(),
            PASSWORD.to_owned(),
            starttls.to_string(),
            implicit.to_string(),
        ];
        let kept = Kept::start(home.clone(), EndBy::Kill, command);
        let server = MailServer { kept, folder: home, starttls, implicit };
        until(DEADLINE, "the mail server", || {
            let words = server.kept.last_words();
            assert!(!words.contains("Error"), "{words}");
            words.contains("ready").then_some(())
        });
        server
    }

    /// What it answers from now on, `None` to take mails.
    fn behave(&self, answer: Option<&str>) {
        let file = self.folder.join("behave");
        match answer {
            Some(answer) => std::fs::write(file, answer).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
    }

    #[track_caller]
    fn until(&self, count: usize) -> Vec<serde_json::Value> {
        until(DEADLINE, &format!("{count} mails; the server says: {}", self.kept.last_words()), || {
            let text = std::fs::read_to_string(self.folder.join("mails")).unwrap_or_default();
            let mails: Vec<_> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert!(mails.len() <= count, "{mails:#?}");
            (mails.len() == count).then_some(mails)
        })
    }

    fn destination(&self, name: &str, port: u16, tls: &str, password: &str) -> String {
        let file = self.folder.join(format!("password-{name}"));
        std::fs::write(&file, format!("{password}\n")).unwrap();
        format!(
            "{{name: {name}, mail: {{host: localhost, port: {port}, tls: {tls}, user: portcullis, password_file: '{}', \
             ca_file: '{}', from: Portcullis <portcullis@example.com>, to: [on-call@example.com, ada@example.com]}}}}",
            file.display(),
            self.folder.join("cert.pem").display()
        )
    }
}

/// Where `make setup` put it.
fn aiosmtpd() -> PathBuf {
    let setup = include_str!("../../scripts/setup.sh");
    let version = setup.lines().find_map(|line| line.strip_prefix("aiosmtpd_version=")).unwrap();
    let cache = std::env::var("PORTCULLIS_CACHE")
        .unwrap_or_else(|_| format!("{}/.cache/portcullis", std::env::var("HOME").unwrap()));
    let lib = Path::new(&cache).join(format!("tools/aiosmtpd-{version}"));
    assert!(lib.join("aiosmtpd").is_dir(), "aiosmtpd is not in {}: run `make setup`", lib.display());
    lib
}

/// The value of a header, its lines joined.
fn header(content: &str, name: &str) -> Option<String> {
    let (head, _) = content.split_once("\r\n\r\n").unwrap();
    let head = head.replace("\r\n ", " ");
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

#[test]
fn a_mail_goes_by_both_kinds_of_tls_and_comes_again_as_the_same_mail() {
    let connection = connection_with_topics(shared().bootstrap(), "notify-mail");
    let (topic, home, server) =
        (Incidents::new(&connection, Format::Avro), tempfile::tempdir().unwrap(), MailServer::start());
    let destinations = [
        server.destination("starttls", server.starttls, "starttls", PASSWORD),
        server.destination("implicit", server.implicit, "implicit", PASSWORD),
    ];
    let config_of = |destinations: &[&str]| config(home.path(), destinations);
    let both = config_of(&destinations.each_ref().map(String::as_str));
    let mut now = incident("i-1", START);
    topic.tell(&now);
    let notify = Notify::start(&connection, &both, &home.path().join("state"), "", START);
    let mails = server.until(2);
    for mail in &mails {
        assert_eq!(
            (&mail["tls"], &mail["to"]),
            (&true.into(), &serde_json::json!(["on-call@example.com", "ada@example.com"]))
        );
        let content = mail["content"].as_str().unwrap();
        assert_eq!(header(content, "Subject").unwrap(), "[Portcullis] Credential stuffing on shop");
        assert_eq!(header(content, "From").unwrap(), "Portcullis <portcullis@example.com>");
        assert_eq!(header(content, "Auto-Submitted").unwrap(), "auto-generated");
        assert!(content.contains("multipart/alternative") && content.contains("text/html"), "{content}");
    }

    // It is not there, then it will not, then it takes it: the same mail each time.
    notify.settle(1);
    server.behave(Some("451 later"));
    notify.pass(1_000);
    let account = "ada@example.com\r\nBcc: everybody@example.com\r\n\r\n<script>alert(1)</script>\u{202e}moc";
    now.compromised.push(Compromise {
        account: account.to_owned(),
        source_ip: "203.0.113.9".to_owned(),
        at: notify.now(),
        flagged_at: notify.now(),
        event_id: "e".to_owned(),
    });
    now.summary = format!("{}\r\n.\r\nQUIT\r\n<b>bold</b>", "x".repeat(100_000));
    now.tenant = "shop\r\nBcc: everybody@example.com".to_owned();
    now.updated_at = notify.now();
    topic.tell(&now);
    server.until(4);
    notify.until("both failures", |of| of.destinations.values().all(|of| of.failures == 1));
    server.behave(None);
    notify.pass(1_000);
    let mails = server.until(6);
    notify.until("both mails", |of| of.destinations.values().all(|of| of.sent == 2));
    let content = |n: usize| mails[n]["content"].as_str().unwrap().to_owned();
    let ids: std::collections::BTreeSet<_> = (2..6).map(|n| header(&content(n), "Message-ID").unwrap()).collect();
    assert_eq!(ids.len(), 2, "one for each destination: {ids:?}");
    let references = |n: usize| header(&content(n), "References").unwrap();
    assert_eq!(references(0), references(5), "one conversation");
    for (n, mail) in mails.iter().enumerate().skip(2) {
        let content = content(n);
        let (head, body) = content.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("\r\nBcc:") && mail["to"].as_array().unwrap().len() == 2, "{head}");
        assert!(content.len() < 40_000, "{} bytes", content.len());
        // Long lines are folded within words.
        let (_, html) = body.split_once("text/html").unwrap();
        let html = html.replace("=\r\n", "");
        assert!(!html.contains("<script>") && !html.contains("<b>bold"), "{html}");
        assert!(html.contains("&lt;script&gt;"), "{html}");
    }
    assert_eq!(notify.stop(), Ok(String::new()));
}

#[test]
fn a_server_that_hangs_or_refuses_holds_up_nobody() {
    let connection = connection_with_topics(shared().bootstrap(), "notify-mail-faults");
    let (topic, home, server) =
        (Incidents::new(&connection, Format::Json), tempfile::tempdir().unwrap(), MailServer::start());
    let chat = Receiver::start();
    let mut hangs = server.destination("hangs", server.starttls, "starttls", PASSWORD);
    hangs.insert_str(hangs.len() - 1, ", timeout: 500ms");
    let wrong = server.destination("wrong", server.implicit, "implicit", "another password");
    // A server whose certificate nobody vouches for.
    let stranger = server.destination("stranger", server.starttls, "starttls", PASSWORD);
    let vouched = format!("ca_file: '{}', ", server.folder.join("cert.pem").display());
    let stranger = stranger.replace(&vouched, "");
    let file = config(home.path(), &[&hangs, &wrong, &stranger, &slack("chat", &chat, "")]);
    server.behave(Some("hang"));
    topic.tell(&incident("i-1", START));
    let notify = Notify::start(&connection, &file, &home.path().join("state"), "", START);
    chat.until(1);
    let status = notify.until("three failures", |of| {
        ["hangs", "wrong", "stranger"].iter().all(|name| of.destinations[*name].failures >= 1)
    });
    let why = |name: &str| status.destinations[name].last_error.clone().unwrap().to_lowercase();
    assert!(why("wrong").contains("535"), "{}", why("wrong"));
    assert!(why("stranger").contains("certificate"), "{}", why("stranger"));
    assert_eq!(why("hangs"), "the server has not answered within the timeout");
    assert!(!format!("{status:?}").contains("another password"));
    assert_eq!(notify.stop(), Ok(String::new()));
}
