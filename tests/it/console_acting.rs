//! Operators act in the console: in a real browser, on a real job and a real edge; who may not, cannot.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;

use portcullis::event::{Command, CommandKind, Scope};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::console_browser::Browser;
use crate::support::edge::{Reply, ask};
use crate::support::job::Installed;
use crate::support::kept::{EndBy, Kept};
use crate::support::nginx::Nginx;
use crate::support::records::{DEADLINE, read_all};
use crate::support::{free_ports, until};

const ADA: &str = "ada-0123456789abcdef0123456789abcdef";
const GRACE: &str = "grace-0123456789abcdef0123456789abcdef";
const VIC: &str = "vic-0123456789abcdef0123456789abcdef";
const HOSTILE: &str = "</textarea><script>alert(1)</script>\"><img src=x onerror=alert(1)> \u{202e}\u{1b}[31m =1+1";

/// A file of operators: two that may act, and one that may look.
fn operators(installed: &Installed, rest: &str) -> PathBuf {
    let hash = |token: &str| Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let people = [("ada", "operator", ADA), ("grace", "operator", GRACE), ("vic", "viewer", VIC)];
    let people = people
        .map(|(name, role, token)| format!("  - {{name: {name}, role: {role}, token_sha256: {}}}\n", hash(token)));
    let file = installed.folder.path().join("operators.yaml");
    std::fs::write(&file, format!("people:\n{}{rest}", people.concat())).unwrap();
    file
}

/// A console as a user runs it.
struct Shown {
    port: u16,
    _kept: Kept,
}

impl Shown {
    #[track_caller]
    fn start(installed: &Installed, flags: &[&str]) -> Shown {
        let [port] = free_ports();
        let listen = format!("127.0.0.1:{port}");
        let mut kept = installed.start(&[&["console", "--listen", &listen], flags].concat(), EndBy::Term);
        let shown = |kept| Shown { port, _kept: kept };
        until(DEADLINE, "the console to have read the topics", || {
            assert!(!kept.has_ended(), "{}", kept.last_words());
            (crate::support::http(port, "/readyz").0 == 200).then_some(())
        });
        shown(kept)
    }

    /// With people who may act.
    #[track_caller]
    fn with_operators(installed: &Installed, rest: &str) -> Shown {
        let file = operators(installed, rest);
        Shown::start(installed, &["--operators", file.to_str().unwrap()])
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let host = format!("127.0.0.1:{}", self.port);
        let has_host = headers.iter().any(|(name, _)| *name == "Host");
        let host = [("Host", host.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
        let headers = [&host[usize::from(has_host)..], headers].concat();
        ask(([127, 0, 0, 1], self.port).into(), method, path, &headers, body).unwrap()
    }

    fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Signs in as a page of the console would.
    #[track_caller]
    fn sign_in(&self, token: &str) -> Signed<'_> {
        let reply = self.ask("POST", "/sign-in", &[("Origin", &self.origin())], &format!("token={token}&next=/blocks"));
        assert_eq!((reply.status, reply.header("location")), (303, Some("/blocks")), "{}", reply.body);
        let cookie = reply.header("set-cookie").unwrap();
        assert!(cookie.ends_with("; Path=/; Max-Age=28800; HttpOnly; SameSite=Strict"), "{cookie}");
        Signed { shown: self, cookie: cookie.split(';').next().unwrap().to_owned() }
    }
}

/// Somebody who is signed in, without a browser.
struct Signed<'a> {
    shown: &'a Shown,
    cookie: String,
}

impl Signed<'_> {
    #[track_caller]
    fn get(&self, path: &str) -> Reply {
        self.shown.ask("GET", path, &[("Cookie", &self.cookie)], "")
    }

    #[track_caller]
    fn post(&self, path: &str, body: &str) -> Reply {
        self.shown.ask("POST", path, &[("Cookie", &self.cookie), ("Origin", &self.shown.origin())], body)
    }

    /// The hidden fields of the form of an action.
    #[track_caller]
    fn hidden(&self, deed: &str) -> String {
        let page = self.get(&format!("/act?do={deed}"));
        assert_eq!(page.status, 200, "{}", page.body);
        format!("do={deed}&form={}&id={}", field(&page.body, "form"), field(&page.body, "id"))
    }

    /// Asks for something; gives the address of its page.
    #[track_caller]
    fn act(&self, deed: &str, fields: &str) -> String {
        let reply = self.post("/act", &format!("{}&{fields}", self.hidden(deed)));
        assert_eq!(reply.status, 303, "{deed} {fields}: {}", text_of(&reply));
        reply.header("location").unwrap().to_owned()
    }

    /// Waits until the page of an action says this.
    #[track_caller]
    fn until_said(&self, page: &str, words: &str) -> String {
        until(DEADLINE, &format!("{words:?} on {page}"), || {
            let body = self.get(page).body;
            body.contains(words).then_some(body)
        })
    }
}

#[track_caller]
fn field(page: &str, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    let (_, rest) = page.split_once(&start).unwrap_or_else(|| panic!("{name}: {page}"));
    rest.split('"').next().unwrap().to_owned()
}

/// The main part of a page, for messages.
fn text_of(reply: &Reply) -> String {
    reply.body.split_once("<main").map_or(&*reply.body, |(_, main)| main).chars().take(1_500).collect()
}

fn trail(installed: &Installed) -> Vec<Command> {
    let records = read_all(&installed.connection().client, &installed.topic("commands"));
    records.iter().map(|record| serde_json::from_slice(record.value.as_deref().unwrap()).unwrap()).collect()
}

/// Failures of one address on accounts of its own.
fn guess(installed: &Installed, source: &str, accounts: std::ops::Range<i64>) {
    let events = installed.folder.path().join("events.jsonl");
    let lines = accounts.map(|n| {
        let event = json!({"event_id": format!("{source}-{n}"), "occurred_at": 1_561_682_400_000_i64 + n * 100,
            "tenant": "shop", "account": format!("user{n}@example.org"), "outcome": "FAILURE",
            "failure_reason": "WRONG_PASSWORD", "source_ip": source});
        format!("{event}\n")
    });
    std::fs::write(&events, lines.collect::<String>()).unwrap();
    installed.done(&["produce", events.to_str().unwrap()]);
}

#[test]
fn a_threshold_is_tightened_and_a_block_is_lifted_from_the_page() {
    const GUESSES: &str = "203.0.113.9";
    let installed = Installed::new("console-acts");
    installed.done(&["topics", "apply"]);
    let _job = installed.run(EndBy::Term);
    let geo_file = installed.folder.path().join("portcullis.geo");
    let nginx = Nginx::start(&geo_file);
    let (conf, pid) = (nginx.conf(), nginx.pid_file());
    let sink = ["sink", "nginx", "--all-tenants", "--interval", "100ms", "--file", geo_file.to_str().unwrap()];
    let sink = [&sink[..], &["--conf", conf.to_str().unwrap(), "--pid-file", pid.to_str().unwrap()]].concat();
    let _sink = installed.start(&sink, EndBy::Term);
    let at_edge = |who: &str, status: u16| {
        until(DEADLINE, &format!("{status} for {who}"), || (nginx.status_for(who) == status).then_some(()));
    };
    let shown = Shown::with_operators(&installed, "");
    let mut browser = Browser::start(shown.port);

    // Signing in leads back to where one was.
    browser.goto("/playbooks");
    assert_eq!(browser.count("a[href^='/act?']"), 0, "nobody acts unseen");
    browser.goto("/sign-in?next=/playbooks");
    browser.fill("#token", ADA);
    browser.submit("form.deed button");
    assert!(browser.wait(".signed").contains("ada, operator"));
    browser.wait("#playbook-ip-account-fanout");

    // Five accounts are too few, by the folder's playbook.
    guess(&installed, GUESSES, 0..5);
    until(DEADLINE, "the attempts to be counted", || (installed.counted("events_in") >= 5).then_some(()));
    assert_eq!(nginx.status_for(GUESSES), 200);
    browser.submit("section[aria-labelledby='playbook-ip-account-fanout'] a[href^='/act?do=tighten']");
    browser.wait("#accounts_failed\\.calm");
    browser.fill("#accounts_failed\\.calm", "3");
    browser.fill("#accounts_failed\\.elevated", "3");
    browser.fill("#reason", "one try per account since 02:40");
    browser.submit("button.do");
    assert!(browser.wait("#came .summary:has-text('In effect')").contains("In effect until "));
    browser.goto("/playbooks");
    let card = browser.wait("section[aria-labelledby='playbook-ip-account-fanout']");
    assert!(card.contains("override until") && card.contains("one try per account since 02:40"), "{card}");
    // What was counted before is there: one more, and it is blocked.
    guess(&installed, GUESSES, 5..7);
    at_edge(GUESSES, 403);

    // The block is lifted from the page, and the edge lets the address in; the reason is whatever somebody wrote.
    browser.goto("/blocks");
    let lift = format!("#entries a[href*='do=lift'][href*='{GUESSES}']");
    browser.wait(&lift);
    browser.submit(&lift);
    browser.wait("#reason");
    browser.fill("#reason", HOSTILE);
    browser.submit("button.do");
    browser.wait("#came .summary:has-text('In effect')");
    at_edge(GUESSES, 200);
    browser.goto("/actions");
    let rows = browser.text("#actions-table tbody tr");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows[0].contains("</textarea><script>alert(1)</script>") && rows[0].contains("ada"), "{rows:?}");
    assert!(!rows[0].contains(['\u{202e}', '\u{1b}']));
    assert!(rows[1].contains("trigger.accounts_failed"), "what was changed is written down: {rows:?}");

    // Nothing stands in the way of people, by whatever they look and act with.
    let entity = format!("tenant=shop&scope=IP&value={GUESSES}");
    let ids: Vec<String> = trail(&installed).into_iter().map(|command| command.command_id).collect();
    let mut pages: Vec<String> = ["block", "watch", "allow", "lift", "mistake", "confirm"]
        .map(|deed| format!("/act?do={deed}&{entity}"))
        .to_vec();
    pages.extend(ids.iter().map(|id| format!("/actions/{id}")));
    pages.push(format!("/act?do=undo&of={}", ids[0]));
    let others = [
        "/act?do=tighten&playbook=ip-account-fanout&aggressive=yes",
        "/act?do=mode&playbook=ip-account-fanout",
        "/act?do=end-override&playbook=ip-account-fanout",
        "/act?do=kill-switch-on&tenant=shop",
        "/actions",
        "/blocks",
        "/playbooks",
        "/",
        "/sign-in",
        "/act?do=block&value=%3C%2Ftitle%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    ];
    pages.extend(others.map(str::to_owned));
    pages.push(format!("/who?tenant=shop&value={GUESSES}"));
    for path in pages {
        for scheme in ["light", "dark"] {
            browser.scheme(scheme);
            browser.size(1_280, 900);
            browser.goto(&path);
            assert_eq!(browser.violations(), [] as [&str; 0], "{path} in {scheme}");
            assert_eq!(
                browser.count("script:not([src='/assets/console.js']), [onerror], [onload], img, [style]"),
                0,
                "{path}"
            );
            browser.size(360, 740);
            assert_eq!(browser.ask(&json!({"what": "overflow"})), 0, "{path}");
        }
    }
    assert_eq!(browser.problems(), [] as [&str; 0]);

    // By keyboard alone: what goes wrong is said, and what was written stays.
    browser.size(1_280, 900);
    browser.goto(&format!("/act?do=block&{entity}"));
    browser.fill("#tenant", "No Tenant");
    browser.fill("#reason", "by keyboard");
    browser.press("Tab");
    browser.press("Enter");
    assert!(browser.wait(".wrong").contains("tenant: whose"));
    assert_eq!(browser.count("#reason:has-text('by keyboard')"), 1);

    // Taken back on the command line, by its id.
    let done = installed.done(&["undo", &ids[0], "--reason", "it is over", "--actor", "grace", "--output", "json"]);
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((&done["command"]["kind"], &done["command"]["undoes"]), (&json!("PLAYBOOK"), &json!(ids[0])));
    let card = "section[aria-labelledby='playbook-ip-account-fanout']:not(:has-text('override until'))";
    browser.goto("/playbooks");
    browser.wait(card);
    let again = installed.output(&["undo", &ids[0], "--reason", "again", "--actor", "grace"]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    let kinds: Vec<CommandKind> = trail(&installed).into_iter().map(|command| command.kind).collect();
    assert_eq!(kinds, [CommandKind::Playbook, CommandKind::Lift, CommandKind::Playbook]);
}

#[test]
fn what_is_asked_for_is_carried_out_and_can_be_taken_back() {
    const WHO: &str = "198.51.100.7";
    let installed = Installed::new("console-deeds");
    installed.done(&["topics", "apply"]);
    let _job = installed.run(EndBy::Term);
    let shown = Shown::with_operators(&installed, "");
    let ada = shown.sign_in(ADA);
    let entity = format!("tenant=shop&scope=IP&value={WHO}&reason=r");

    let block = ada.act("block", &format!("{entity}&for=1h&action=CHALLENGE"));
    ada.until_said(&block, "In effect");
    let id = block.rsplit('/').next().unwrap();
    // The same form again is the same command.
    let page = ada.get("/act?do=block").body;
    let again = ada.post("/act", &format!("do=block&form={}&id={id}&for=1h&{entity}", field(&page, "form")));
    assert_eq!((again.status, again.header("location")), (303, Some(&*block)));
    let undone = ada.act("undo", &format!("of={id}&reason=it%20was%20us"));
    ada.until_said(&undone, "Over.");
    ada.until_said(&block, "something else");
    assert!(!ada.get("/blocks").body.contains(WHO));

    let allow = ada.act("allow", &format!("{entity}&for="));
    ada.until_said(&allow, "In effect");
    assert!(ada.get(&format!("/who?tenant=shop&value={WHO}")).body.contains("End the exemption"));
    let ended = ada.act("end-allow", &entity);
    ada.until_said(&ended, "Over.");
    assert!(!ada.get(&format!("/who?tenant=shop&value={WHO}")).body.contains("End the exemption"));

    let off = ada.act("kill-switch-on", "tenant=shop&confirm=shop&for=30m&reason=customers");
    ada.until_said(&off, "In effect");
    let on = ada.act("kill-switch-off", "tenant=shop&confirm=shop&reason=it%20was%20another%20thing");
    ada.until_said(&on, "Over.");
    for (deed, said) in [("watch", "Written down"), ("confirm", "Written down"), ("mistake", "In effect")] {
        let lasting = if deed == "watch" { "&for=1d" } else { "" };
        let page = ada.act(deed, &format!("{entity}{lasting}"));
        ada.until_said(&page, said);
    }
    let shadow = ada.act("mode", "playbook=ip-enumeration&mode=shadow&for=30m&reason=r");
    assert!(shadow.starts_with("/actions/"));

    use CommandKind::{Allow, Block, KillSwitch, Lift, MarkConfirmed, MarkFalsePositive, Playbook, Watch};
    let trail = trail(&installed);
    let kinds: Vec<CommandKind> = trail.iter().map(|command| command.kind).collect();
    let wanted = [Block, Lift, Allow, Allow, KillSwitch, KillSwitch, Watch, MarkConfirmed, MarkFalsePositive, Playbook];
    assert_eq!(kinds, wanted);
    assert!(
        trail.iter().all(|command| command.actor == "ada" && command.role == "operator" && !command.reason.is_empty())
    );
    assert_eq!(trail[1].undoes.as_deref(), Some(id));
}

#[test]
fn very_many_people_are_restricted_only_by_two_and_whichever_console_they_use() {
    let installed = Installed::new("console-second");
    installed.done(&["topics", "apply"]);
    let _job = installed.run(EndBy::Term);
    let file = operators(&installed, "");
    let key = installed.folder.path().join("session-key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    let flags = ["--operators", file.to_str().unwrap(), "--session-key", key.to_str().unwrap()];
    let [one, other] = [0, 1].map(|_| Shown::start(&installed, &flags));
    let (ada, grace) = (one.sign_in(ADA), other.sign_in(GRACE));
    let asked = |value: &str, scope: &str| {
        let page = ada.act("block", &format!("tenant=shop&scope={scope}&value={value}&for=1d&reason=their%20provider"));
        ada.until_said(&page, "for a second person until");
        page
    };
    let answer = |of: &Signed<'_>, page: &str, answer: &str| {
        let form = field(&of.until_said(page, "A second person"), "form");
        of.post(&format!("{page}/answer"), &format!("form={form}&answer={answer}&reason=I%20saw%20it"))
    };

    let asn = asked("AS64500", "ASN");
    let range = asked("198.48.0.0%2F13", "CIDR");
    assert!(grace.until_said("/actions", "A second person is asked").contains("64500"));
    // Nothing is done, and not by whoever asked, even by hand.
    let own = answer(&ada, &asn, "approve");
    assert_eq!(own.status, 422, "{}", text_of(&own));
    assert!(own.body.contains("somebody else must agree"));
    assert!(!ada.get("/blocks").body.contains("64500"));
    let agreed = answer(&grace, &asn, "approve");
    assert_eq!((agreed.status, agreed.header("location")), (303, Some(&*asn)), "{}", text_of(&agreed));
    ada.until_said(&asn, "Agreed to");
    until(DEADLINE, "the block of the autonomous system", || ada.get("/blocks").body.contains("64500").then_some(()));
    grace.until_said(&asn, "Agreed to");
    let late = grace.post(
        &format!("{asn}/answer"),
        &format!("form={}&answer=reject&reason=r", field(&grace.get("/act?do=block").body, "form")),
    );
    assert_eq!(late.status, 422, "{}", text_of(&late));
    let no = answer(&grace, &range, "reject");
    assert_eq!(no.status, 303);
    assert!(ada.until_said(&range, "Rejected").contains("I saw it"));

    let trail = trail(&installed);
    let told: Vec<_> =
        trail.iter().map(|of| (of.kind, of.pending_until.is_some(), of.approved_by.as_deref())).collect();
    use CommandKind::{Block, Reject};
    assert_eq!(told, [(Block, true, None), (Block, true, None), (Block, false, Some("grace")), (Reject, false, None)]);
    assert_eq!(
        (trail[2].actor.as_str(), trail[2].scope, trail[2].answers.as_ref()),
        ("ada", Scope::Asn, Some(&trail[0].command_id))
    );
    // A session of one console is one of the other, and is over when it was signed out there.
    let elsewhere = other.ask("GET", "/blocks", &[("Cookie", &ada.cookie)], "").body;
    assert!(elsewhere.contains("ada</bdi>, operator"), "{elsewhere:.2000}");
}

#[test]
fn who_may_not_act_cannot() {
    let installed = Installed::new("console-viewer");
    installed.done(&["topics", "apply"]);
    let plain = Shown::start(&installed, &[]);
    let page = plain.ask("GET", "/", &[], "").body;
    assert!(page.contains("This console is read-only. Start it with --operators FILE"), "{page}");
    assert!(!page.contains("<form method=\"post\"") && !page.contains("/sign-in"));
    let block = "do=block&tenant=shop&scope=IP&value=203.0.113.9&for=1h&reason=r&id=0123456789abcdef";
    assert_eq!(plain.ask("POST", "/act", &[("Origin", &plain.origin())], block).status, 403);
    assert_eq!(plain.ask("GET", "/act?do=block", &[], "").status, 403);
    assert_eq!(plain.ask("GET", "/sign-in", &[], "").status, 404);

    let shown = Shown::with_operators(&installed, "");
    // A viewer: no way to act on any page, and none by hand.
    let vic = shown.sign_in(VIC);
    for path in ["/", "/blocks", "/playbooks", "/actions", "/who?tenant=shop&value=203.0.113.9"] {
        let page = vic.get(path).body;
        assert!(
            page.contains("vic</bdi>, viewer") && !page.contains("href=\"/act?") && !page.contains("action=\"/act\""),
            "{path}"
        );
    }
    assert_eq!(vic.get("/act?do=block").status, 403);
    let form = field(&vic.get("/").body, "form");
    let forged = vic.post("/act", &format!("{block}&form={form}"));
    assert_eq!((forged.status, forged.body.contains("only operators act")), (403, true), "{}", text_of(&forged));
    let answered = vic.post("/actions/0123456789abcdef/answer", &format!("form={form}&answer=approve&reason=r"));
    assert_eq!(answered.status, 403);

    // An operator's session in the hands of another page: of another origin, or without what only a form knows.
    let ada = shown.sign_in(ADA);
    let hidden = ada.hidden("block");
    let body = format!("{hidden}&tenant=shop&scope=IP&value=203.0.113.9&for=1h&reason=r");
    let cookie = ("Cookie", ada.cookie.as_str());
    let here = shown.origin();
    for headers in [
        vec![cookie],
        vec![cookie, ("Origin", "http://evil.example")],
        vec![cookie, ("Origin", "null")],
        vec![cookie, ("Origin", &here), ("Sec-Fetch-Site", "cross-site")],
        vec![cookie, ("Origin", &here), ("Sec-Fetch-Site", "same-site")],
        vec![("Origin", &here)],
        vec![("Origin", &here), ("Cookie", "portcullis=1|ada|0|9999999999999|00")],
        vec![("Origin", &here), ("X-Forwarded-User", "ada")],
    ] {
        let reply = shown.ask("POST", "/act", &headers, &body);
        assert_eq!(
            (reply.status, reply.body.contains("Nothing was done")),
            (403, true),
            "{headers:?}: {}",
            text_of(&reply)
        );
    }
    let others = vic.get("/").body;
    for form in ["", "00", &field(&others, "form")] {
        let reply = ada.post("/act", &format!("{block}&form={form}"));
        assert_eq!(reply.status, 403, "{form}: {}", text_of(&reply));
    }
    assert_eq!(ada.post("/act", &"x=".repeat(100_000)).status, 400);

    // In a browser: a page of somebody else's that sends the form, with whatever the browser adds.
    let evil = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://localhost:{}/", evil.local_addr().unwrap().port());
    let inputs: String = body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| format!("<input name='{name}' value='{value}'>"))
        .collect();
    let html = format!("<form method=post action='{here}/act'>{inputs}<button>Win a prize</button></form>");
    let serving = std::thread::spawn(move || {
        // The browser asks for an icon as well.
        for stream in evil.incoming().take(2) {
            let mut stream = stream.unwrap();
            let _read = stream.read(&mut [0; 4_096]);
            let length = html.len();
            let _written = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{html}"
            );
        }
    });
    let mut browser = Browser::start(shown.port);
    browser.goto("/sign-in");
    browser.fill("#token", ADA);
    browser.submit("form.deed button");
    browser.wait(".signed");
    assert_eq!(browser.ask(&json!({"what": "goto", "path": address})), 200);
    browser.submit("button");
    assert_eq!(browser.wait("h1"), "Nothing was done");
    drop(browser);
    drop(serving);

    // Signed out is signed out, also for whoever kept the cookie.
    let out = ada.post("/sign-out", &format!("form={}", field(&ada.get("/").body, "form")));
    assert_eq!(out.status, 303);
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    let sent = ada.get("/act?do=block");
    assert_eq!((sent.status, sent.header("location")), (303, Some("/sign-in?next=%2Fact%3Fdo%3Dblock")));

    // Guessing is slowed down; so is acting.
    let guess = || shown.ask("POST", "/sign-in", &[("Origin", &here)], "token=0123456789abcdef0123").status;
    let guesses: Vec<u16> = (0..12).map(|_| guess()).collect();
    assert!(guesses[..10].iter().all(|status| *status == 403) && guesses[11] == 429, "{guesses:?}");
    assert_eq!(shown.ask("POST", "/sign-in", &[("Origin", &here)], &format!("token={ADA}")).status, 429, "unseen");
    assert_eq!(trail(&installed).len(), 0, "nothing of all this was asked for");
}

#[test]
fn a_proxy_names_people_where_it_is_told_to_be_believed() {
    let installed = Installed::new("console-proxy");
    installed.done(&["topics", "apply"]);
    let rest = "proxy: {header: X-Forwarded-User, from: [127.0.0.1]}\norigin: https://portcullis.example.com\n";
    let shown = Shown::with_operators(&installed, rest);
    let host = ("Host", "portcullis.example.com");
    let by = |name: &'static str| [host, ("X-Forwarded-User", name)];
    let page = shown.ask("GET", "/", &by("ada"), "").body;
    assert!(page.contains("ada</bdi>, operator"), "{page}");
    assert!(shown.ask("GET", "/", &by("eve"), "").body.contains("eve</bdi>, viewer"));
    assert_eq!(shown.ask("GET", "/act?do=block", &by("eve"), "").status, 403);
    assert_eq!(shown.ask("GET", "/", &[("Host", "evil.example"), ("X-Forwarded-User", "ada")], "").status, 403);
    let form = shown.ask("GET", "/act?do=confirm", &by("ada"), "").body;
    let body = format!(
        "do=confirm&tenant=shop&scope=IP&value=203.0.113.9&reason=r&form={}&id={}",
        field(&form, "form"),
        field(&form, "id")
    );
    let from = |origin: &'static str| [host, ("X-Forwarded-User", "ada"), ("Origin", origin)];
    assert_eq!(shown.ask("POST", "/act", &from("https://evil.example"), &body).status, 403);
    let done = shown.ask("POST", "/act", &from("https://portcullis.example.com"), &body);
    assert_eq!(done.status, 303, "{}", text_of(&done));
    // Another's form is not theirs.
    let other = [host, ("X-Forwarded-User", "grace"), ("Origin", "https://portcullis.example.com")];
    assert_eq!(shown.ask("POST", "/act", &other, &body).status, 403);
    // A session's cookie behind TLS is given to nobody but this origin.
    let signed = [host, ("Origin", "https://portcullis.example.com")];
    let signed = shown.ask("POST", "/sign-in", &signed, &format!("token={GRACE}"));
    let cookie = signed.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-portcullis=") && cookie.ends_with("; Secure"), "{cookie}");
    let trail = trail(&installed);
    assert_eq!((trail.len(), trail[0].actor.as_str(), trail[0].kind), (1, "ada", CommandKind::MarkConfirmed));

    let wide = installed.output(&["console", "--listen", "0.0.0.0:0"]);
    let said = String::from_utf8_lossy(&wide.stderr).into_owned();
    assert_eq!((wide.status.code(), said.contains("--operators FILE")), (Some(2), true), "{said}");
    // Where others reach it, whoever is not signed in sees nothing.
    let file = operators(&installed, "");
    let [port] = free_ports();
    let listen = format!("0.0.0.0:{port}");
    let _kept = installed.start(&["console", "--listen", &listen, "--operators", file.to_str().unwrap()], EndBy::Term);
    until(DEADLINE, "the console to have read the topics", || {
        (crate::support::http(port, "/readyz").0 == 200).then_some(())
    });
    let get =
        |path: &str, headers: &[(&str, &str)]| ask(([127, 0, 0, 1], port).into(), "GET", path, headers, "").unwrap();
    for path in ["/", "/blocks", "/status", "/metrics", "/events", "/actions/0"] {
        assert_eq!(get(path, &[]).status, 401, "{path}");
        assert_eq!(get(path, &[("X-Forwarded-User", "ada")]).status, 401, "{path}: nobody told to believe it");
    }
    let sent = get("/who?value=a%20b", &[("Accept", "text/html")]);
    assert_eq!((sent.status, sent.header("location")), (303, Some("/sign-in?next=%2Fwho%3Fvalue%3Da%2520b")));
    assert_eq!(get("/sign-in", &[]).status, 200);
}
