//! `portcullis console`: what people see of a real job in a real browser, what hostile names do there, and who may look.

use std::collections::BTreeSet;

use portcullis::console::text::grouped;
use portcullis::event::wire::{Encoder, Format, SchemaIds};
use portcullis::event::{
    Action, ActivitySlice, AttackState, AttackStatus, BlocklistEntry, ChallengePolicy, Compromise, Counted, DetailKind,
    Disposition, Incident, IncidentDetail, IncidentKind, IncidentState, Millis, Receipt, ReceiptOutcome, Scope,
    Severity,
};
use rdkafka::producer::BaseProducer;
use serde::Serialize;
use serde_json::{Value, json};

use crate::console_browser::Browser;
use crate::support::edge::{Reply, ask};
use crate::support::job::Installed;
use crate::support::kafka::{Kafka, shared};
use crate::support::kept::{EndBy, Kept, folder};
use crate::support::records::{DEADLINE, connection_with_topics, flush, producer, send};
use crate::support::{free_ports, until};

const INCIDENT: &str = "5c1a0de5c1a0de5c1a0de5c1a0de0001";
const PAGES: [&str; 7] = ["/", "/incidents", "/blocks", "/playbooks", "/edges", "/actions", "/who?value=203.0.113.9"];

/// A console as a user runs it.
struct Shown {
    port: u16,
    kept: Kept,
}

impl Shown {
    #[track_caller]
    fn start(bootstrap: &str, prefix: &str, flags: &[&str]) -> Shown {
        let [port] = free_ports();
        let listen = format!("127.0.0.1:{port}");
        let program = env!("CARGO_BIN_EXE_portcullis");
        let command = ["console", "--listen", &listen, "--bootstrap", bootstrap, "--topic-prefix", prefix];
        let kept = Kept::start(folder("portcullis-console-"), EndBy::Term, [&[program], &command[..], flags].concat());
        let mut shown = Shown { port, kept };
        shown.until_ready();
        shown
    }

    #[track_caller]
    fn until_ready(&mut self) {
        until(DEADLINE, "the console to have read the topics", || {
            assert!(!self.kept.has_ended(), "{}", self.kept.last_words());
            (self.get("/readyz").status == 200).then_some(())
        });
    }

    #[track_caller]
    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[])
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let refused = |e| Reply { status: 0, head: format!("{e}"), body: String::new() };
        ask(([127, 0, 0, 1], self.port).into(), method, path, headers, "").unwrap_or_else(refused)
    }
}

/// Writes what a job and its sinks would.
struct Writer {
    producer: BaseProducer,
    encoder: Encoder,
    prefix: String,
}

impl Writer {
    fn new(bootstrap: &str, prefix: &str) -> Writer {
        let encoder = Encoder::new(Format::Avro, SchemaIds::default()).unwrap();
        Writer { producer: producer(bootstrap, None), encoder, prefix: prefix.to_owned() }
    }

    fn put<T: Serialize>(&self, topic: &str, key: &str, record: &T) {
        let value = self.encoder.encode(topic, record).unwrap();
        send(&self.producer, &format!("{}{topic}", self.prefix), None, key.as_bytes(), Some(&value), None);
    }

    fn flush(&self) {
        flush(&self.producer);
    }

    fn detail(&self, kind: DetailKind, value: &str, counts: &[(&str, i64)], about: &[(&str, &str)], at: Millis) {
        let detail = IncidentDetail {
            incident_id: INCIDENT.to_owned(),
            kind,
            value: value.to_owned(),
            sealed_account: None,
            counts: counts.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect(),
            first_at: at,
            last_at: at + 1_000,
            about: about.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
        };
        self.put("incident-details", &detail.key(), &detail);
    }
}

fn now() -> Millis {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Millis::try_from(now.as_millis()).unwrap()
}

fn status(state: AttackState, at: Millis) -> AttackStatus {
    AttackStatus {
        tenant: "shop".to_owned(),
        state,
        since: at,
        updated_at: at,
        expires_at: at + 600_000,
        challenge: ChallengePolicy::UnknownPairs,
        bad_to_good: 12.0,
        attempts_per_second: 48.2,
        failure_share: 0.96,
        usual_failure_share: 0.08,
        traits: Vec::new(),
        incident_id: Some(INCIDENT.to_owned()),
        withdrawn: Vec::new(),
        entered_bad_to_good: 0.0,
    }
}

fn incident(at: Millis, account: &str) -> Incident {
    Incident {
        incident_id: INCIDENT.to_owned(),
        tenant: "shop".to_owned(),
        kind: IncidentKind::CredentialStuffing,
        state: IncidentState::Open,
        severity: Severity::Critical,
        started_at: at,
        updated_at: at + 60_000,
        ended_at: None,
        summary: format!("Credential stuffing; {account} was entered."),
        attempts: 1_234,
        failures: 1_200,
        stopped_at_edge: 30,
        sources: 77,
        accounts_targeted: 1_180,
        accounts_unknown: 1_000,
        blocked: 70,
        compromised: vec![Compromise {
            account: account.to_owned(),
            source_ip: "203.0.113.9".to_owned(),
            at: at + 1_000,
            flagged_at: at + 1_400,
            event_id: account.to_owned(),
        }],
        top_networks: vec![Counted { value: "AS64500".to_owned(), attempts: 700 }],
        top_countries: vec![Counted { value: "NL".to_owned(), attempts: 500 }],
        top_user_agents: vec![Counted { value: account.to_owned(), attempts: 300 }],
        playbooks: vec!["site-campaign".to_owned()],
        disposition: Disposition::Undetermined,
    }
}

/// An attack as large as that of the night, in forty seconds and as it happens, on a real job. The banner comes by itself,
/// and the report tells what happened.
#[test]
fn a_banner_appears_by_itself_and_the_report_has_the_numbers_of_the_attack() {
    let installed = Installed::new("console-attack");
    installed.done(&["topics", "apply"]);
    let _job = installed.run(EndBy::Term);
    let shown = Shown::start(shared().bootstrap(), &installed.topic(""), &[]);
    let mut browser = Browser::start(shown.port);
    browser.goto("/");
    assert_eq!(browser.count(".banner.attack"), 0);

    let truth = installed.folder.path().join("truth.jsonl").display().to_string();
    let lengths = ["--lead-in", "10s", "--length", "40s", "--after", "5s"];
    let attack = ["simulate", "rotating", "--publish", "--open", "--tenant", "shop", "--truth", &truth];
    let mut attack = installed.start(&[&attack[..], &lengths].concat(), EndBy::Term);
    // Nobody touches the page.
    let banner = browser.wait(".banner.attack .headline");
    assert!(banner.starts_with("shop is under attack since "), "{banner}");
    assert!(!attack.has_ended(), "it is told while it goes on");
    until(2 * DEADLINE, "the attack to end", || attack.has_ended().then_some(()));

    // Lines of accounts are told again at most every ten seconds, so the last ones come a little later.
    let told = truth_of(&std::fs::read_to_string(truth).unwrap());
    let id = until(DEADLINE, "the incident", || incident_id(&shown));
    let page = format!("/incidents/{id}");
    let listed = |file: &str| -> BTreeSet<String> {
        let lines = shown.get(&format!("{page}/{file}")).body;
        lines.lines().map(|line| value_of(line)["value"].as_str().unwrap().to_owned()).collect()
    };
    // Who was entered at the first try, before there was an incident, has no line: no failure told of it.
    until(DEADLINE, "every account that was tried", || {
        let listed = listed("targets.jsonl");
        let mut missing = told.accounts.difference(&listed);
        missing.all(|account| told.fallen.contains(account)).then_some(())
    });
    // Some only repeated what another one had tried, or succeeded at once.
    until(DEADLINE, "the sources that took part", || {
        let missing = told.sources.difference(&listed("sources.jsonl")).count();
        (missing * 100 < told.sources.len()).then_some(())
    });
    let targets = listed("targets.jsonl");
    // People mistype meanwhile, from where nobody knows them.
    assert!(targets.difference(&told.accounts).count() < told.accounts.len() / 20, "{}", targets.len());

    browser.goto(&page);
    let figures = browser.text("#report .figures > .figure");
    let tried = figures.iter().find(|figure| figure.contains("accounts tried")).unwrap();
    assert!(tried.contains(&grouped(i64::try_from(targets.len()).unwrap())), "{tried}");
    let rows = browser.text("#fallen tbody tr");
    assert!(!told.fallen.is_empty());
    // Where the attack shares an exit with people of whom nothing is known yet, one entry more is not seen to be its own.
    let unseen = told.fallen.iter().filter(|account| !rows.iter().any(|row| row.contains(account.as_str())));
    let unseen: Vec<&String> = unseen.collect();
    assert!(unseen.len() * 2 < told.fallen.len(), "{unseen:?} of {}: {rows:?}", told.fallen.len());
    assert_eq!(browser.count("#report svg path.failures"), 1);
    let csv = shown.get(&format!("{page}/targets.csv")).body;
    assert_eq!(csv.lines().count(), targets.len() + 1, "every one of them, and the names of the columns");
    let file = shown.get(&format!("{page}/report.html")).body;
    assert!(file.contains("<style>") && !file.contains("<script") && !file.contains("href=\"/"), "it stands alone");
    assert_eq!(browser.problems(), [] as [&str; 0]);

    // The same without a browser.
    let text = installed.done(&["incident", "show", "last"]);
    let list = installed.done(&["incident", "list", "--tenant", "shop"]);
    assert!(list.contains(&id[..12]) && !list.contains('\u{1b}'), "{list}");
    for account in told.fallen.iter().filter(|account| !unseen.contains(account)) {
        assert!(text.contains(&format!("{account} was entered at ")), "{account}: {text}");
    }
    let exported = installed.done(&["incident", "export", &id[..10], "--format", "csv"]);
    assert_eq!(exported.lines().count(), targets.len() + 1);
    let status: Value = serde_json::from_str(&installed.done(&["status", "--output", "json"])).unwrap();
    assert_eq!((&status["tenants"][0]["tenant"], &status["tenants"][0]["state"]), (&json!("shop"), &json!("ATTACK")));
    let tail = installed.done(&["tail", "incidents", "--from-start", "--limit", "1", "--output", "json"]);
    assert_eq!(value_of(tail.trim())["incident_id"], id);
    let none = installed.output(&["incident", "show", "0000nothing"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}

fn value_of(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:.200}"))
}

struct Truth {
    accounts: BTreeSet<String>,
    sources: BTreeSet<String>,
    fallen: BTreeSet<String>,
}

/// What the truth says of the attack.
fn truth_of(truth: &str) -> Truth {
    let mut accounts = BTreeSet::new();
    let mut sources = BTreeSet::new();
    let mut fallen = BTreeSet::new();
    for line in truth.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["label"] == "attack" {
            let account = line["account"].as_str().unwrap().to_lowercase();
            if line["would_be"] == "SUCCESS" {
                fallen.insert(account.clone());
            }
            accounts.insert(account);
            sources.insert(line["source"].as_str().unwrap().to_owned());
        }
    }
    Truth { accounts, sources, fallen }
}

fn incident_id(shown: &Shown) -> Option<String> {
    let list = shown.get("/incidents").body;
    let (_, rest) = list.split_once("href=\"/incidents/")?;
    Some(rest.split('"').next()?.to_owned())
}

/// Names that somebody would choose who wants this page to do something.
fn hostile() -> Vec<String> {
    [
        "\"><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "javascript:alert(1)",
        "=HYPERLINK(\"http://evil.example\",\"x\")",
        "\u{202e}moc.elgoog@ada\u{2066}",
        "\u{1b}[31mred\u{7}",
        "'; DROP TABLE users; --",
        "{{7*7}}${7*7}",
        "a|b|c",
        "</title></style></textarea><svg onload=alert(1)>",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("{}<script>alert(2)</script>", "x".repeat(60_000))])
    .collect()
}

/// A console over records in which everything that others choose is hostile.
fn hostile_console(test: &str) -> (Shown, Vec<String>) {
    let bootstrap = shared().bootstrap();
    let prefix = format!("{test}.");
    connection_with_topics(bootstrap, test);
    let writer = Writer::new(bootstrap, &prefix);
    let (at, names) = (now() - 300_000, hostile());
    writer.put("attack-status", "shop", &status(AttackState::Attack, at));
    writer.put("incidents", INCIDENT, &incident(at, &names[0]));
    for (n, name) in names.iter().enumerate() {
        let at = at + n as i64 * 1_000;
        writer.detail(DetailKind::Target, name, &[("attempts", 2), ("failures", 2)], &[], at);
        let about = [("asn", "64500"), ("country", name.as_str()), ("user_agent", name)];
        writer.detail(DetailKind::Source, &format!("203.0.113.{n}"), &[("attempts", 1)], &about, at);
        let deed = [("scope", "ACCOUNT"), ("value", name.as_str()), ("action", "BLOCK"), ("playbook", name)];
        writer.detail(DetailKind::Action, &format!("v{n}"), &[], &deed, at);
        let step =
            [("account", name.as_str()), ("source", "203.0.113.9"), ("outcome", "SUCCESS"), ("user_agent", name)];
        writer.detail(DetailKind::Trail, &format!("e{n}"), &[], &step, at);
        if name.len() < 1_000 {
            let entry = BlocklistEntry {
                tenant: "shop".to_owned(),
                scope: Scope::Account,
                value: name.clone(),
                action: Action::Challenge,
                since: at,
                until: Some(at + 86_400_000),
                generation: at,
                reason: name.clone(),
                playbook: Some(name.clone()),
                verdict_id: None,
                incident_id: None,
                actor: None,
                wide: false,
            };
            let key = format!("shop|ACCOUNT|{name}");
            writer.put("blocklist", &key, &entry);
            let outcome = if n % 2 == 0 { ReceiptOutcome::Applied } else { ReceiptOutcome::Failed };
            let (sink, detail) = ("nginx-1".to_owned(), Some(name.clone()));
            let receipt = Receipt { sink, key: key.clone(), generation: at, outcome, applied_at: at + 120, detail };
            writer.put("receipts", &format!("nginx-1|{key}"), &receipt);
        }
    }
    for minute in 0..5 {
        let start = (at / 60_000 + minute) * 60_000;
        let counts = [("attempts", 200 + minute * 10), ("failures", 190), ("stopped", 5 * minute), ("unknown", 150)];
        writer.detail(DetailKind::Minute, &start.to_string(), &counts, &[], start);
    }
    for n in 0..30 {
        let slice = ActivitySlice {
            tenant: "shop".to_owned(),
            application: None,
            slice_start: at + n * 10_000,
            slice_end: at + (n + 1) * 10_000,
            attempts: 100 + 20 * n,
            failures: 8 + 19 * n,
            unknown_accounts: n,
            stopped: n,
            usual_attempts: 100.0,
            usual_failures: 8.0,
            usual_unknown_accounts: 1.0,
            statistic: 5.0,
            alarm_level: 20.0,
            state: if n > 10 { AttackState::Attack } else { AttackState::Calm },
        };
        writer.put("activity", "shop", &slice);
    }
    writer.flush();
    (Shown::start(bootstrap, &prefix, &[]), names)
}

#[test]
fn hostile_names_do_nothing_and_nothing_stands_in_the_way_of_people() {
    let (shown, names) = hostile_console("console-hostile");
    let mut browser = Browser::start(shown.port);
    let report = format!("/incidents/{INCIDENT}");
    let long = names.last().unwrap().chars().take(900).collect::<String>();
    let asked = "/who?tenant=shop&value=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned();
    let pages = PAGES.into_iter().map(str::to_owned).chain([report.clone(), asked, format!("/who?value={long}")]);
    for path in pages {
        for scheme in ["light", "dark"] {
            browser.scheme(scheme);
            browser.size(1_280, 900);
            browser.goto(&path);
            assert_eq!(browser.count("script:not([src='/assets/console.js'])"), 0, "{path}");
            assert_eq!(browser.count("[onerror], [onload], img, iframe, [style]"), 0, "{path}");
            assert_eq!(browser.violations(), [] as [&str; 0], "{path} in {scheme}");
            // A telephone: nothing is wider than it.
            browser.size(360, 740);
            assert_eq!(browser.ask(&json!({"what": "overflow"})), 0, "{path}");
        }
    }
    assert_eq!(browser.problems(), [] as [&str; 0]);

    // Names are shown for what they are, each in a direction of its own.
    browser.size(1_280, 900);
    browser.goto(&report);
    let shown_names = browser.text("#targets tbody th bdi");
    assert_eq!(shown_names.len(), names.len());
    assert!(shown_names.iter().any(|name| name == "\"><script>alert(1)</script>"), "{shown_names:?}");
    assert!(shown_names.iter().any(|name| name.ends_with("… (60,025 characters)")), "{shown_names:?}");
    assert!(shown_names.iter().all(|name| !name.contains(['\u{202e}', '\u{1b}'])));
    assert!(browser.text("#report").join(" ").contains("Credential stuffing"));

    // By keyboard: past the menu, into the report.
    browser.press("Tab");
    assert_eq!(browser.ask(&json!({"what": "focused"})), "To the main part");
    browser.press("Enter");
    browser.press("Tab");
    assert_eq!(browser.ask(&json!({"what": "focused"})), "Incidents");

    // In files as well.
    let csv = shown.get(&format!("{report}/targets.csv")).body;
    assert_eq!(csv.lines().count(), names.len() + 1);
    assert!(csv.contains("\"'=HYPERLINK(\"\"http://evil.example\"\",\"\"x\"\")\""), "{csv:.2000}");
    let lines = shown.get(&format!("{report}/targets.jsonl")).body;
    let exact: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["value"].as_str().unwrap().to_owned())
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(exact, sorted, "as they are, cut nowhere");
    let whole: Value = serde_json::from_str(&shown.get(&format!("{report}/report.json")).body).unwrap();
    assert_eq!((whole["targets"].as_array().unwrap().len(), whole["trail"].as_array().unwrap().len()), (11, 11));
    let file = shown.get(&format!("{report}/report.html"));
    assert!(file.header("content-disposition").unwrap().starts_with("attachment; filename=\"incident-shop-"));
    assert!(!file.body.contains("<script") && file.body.contains("&lt;script&gt;"));
    let markdown = shown.get(&format!("{report}/report.md")).body;
    assert!(!markdown.contains("<script>") && markdown.contains("\\<script\\>"), "{markdown}");
}

#[test]
fn a_status_is_shown_while_one_looks_and_an_old_one_is_no_calm() {
    let bootstrap = shared().bootstrap();
    connection_with_topics(bootstrap, "console-live");
    let writer = Writer::new(bootstrap, "console-live.");
    writer.put("attack-status", "shop", &status(AttackState::Calm, now() - 1_000));
    writer.flush();
    let shown = Shown::start(bootstrap, "console-live.", &[]);
    let mut browser = Browser::start(shown.port);
    browser.goto("/");
    assert!(browser.wait(".banner.calm").contains("shop is calm"));
    writer.put("attack-status", "shop", &status(AttackState::Attack, now()));
    writer.flush();
    assert!(browser.wait(".banner.attack").contains("challenges whoever is not known"));
    assert!(browser.text("#said")[0].contains("shop: ATTACK."), "it is said aloud");
    // Its end has passed and nobody has said that it is over.
    let ran_out = AttackStatus { expires_at: now() - 1, ..status(AttackState::Attack, now()) };
    writer.put("attack-status", "shop", &ran_out);
    writer.flush();
    assert!(browser.wait(".banner.silent").contains("no word since"));
    assert_eq!(browser.count(".banner.calm"), 0);
    assert_eq!(browser.problems(), [] as [&str; 0]);
}

#[test]
fn a_cluster_that_is_gone_makes_everything_stale_and_nothing_calm() {
    let kafka = Kafka::start();
    connection_with_topics(kafka.bootstrap(), "console-stale");
    let writer = Writer::new(kafka.bootstrap(), "console-stale.");
    writer.put("attack-status", "shop", &status(AttackState::Calm, now()));
    writer.flush();
    let shown = Shown::start(kafka.bootstrap(), "console-stale.", &[]);
    let mut browser = Browser::start(shown.port);
    browser.goto("/");
    browser.wait(".banner.calm");
    drop(writer);
    drop(kafka);
    let told = browser.wait(".notice.stale:not([hidden])");
    assert!(told.contains("The cluster has not answered for "), "{told}");
    assert_eq!(browser.text("#aloud"), ["What is shown is stale."]);
    assert!(browser.wait(".banner.silent").contains("was calm when last heard"));
    assert_eq!(browser.count(".banner.calm"), 0);
    assert_eq!(shown.get("/readyz").status, 503);
    let asked = shown.get("/who?value=203.0.113.9").body;
    assert!(asked.contains("Not restricted when the cluster was last heard"), "{asked}");
}

#[test]
fn an_export_of_many_accounts_is_whole_and_needs_little_memory() {
    const ACCOUNTS: usize = 300_000;
    let bootstrap = shared().bootstrap();
    connection_with_topics(bootstrap, "console-export");
    let writer = Writer::new(bootstrap, "console-export.");
    let at = now() - 300_000;
    writer.put("incidents", INCIDENT, &incident(at, "ada@example.com"));
    for n in 0..ACCOUNTS {
        writer.detail(DetailKind::Target, &format!("user{n:07}@example.org"), &[("attempts", 1)], &[], at);
        if n % 10_000 == 0 {
            writer.flush();
        }
    }
    writer.flush();
    let shown = Shown::start(bootstrap, "console-export.", &[]);
    let export = || {
        for file in ["targets.csv", "targets.jsonl"] {
            let body = shown.get(&format!("/incidents/{INCIDENT}/{file}")).body;
            assert_eq!(body.lines().filter(|line| line.contains("@example.org")).count(), ACCOUNTS, "{file}");
            assert_eq!(body.matches("user0299999@example.org").count(), 1);
        }
    };
    // The first fills what every process keeps for itself; the others are 60 MB each, of which next to nothing stays: an
    // allocator keeps some of what it was given back.
    export();
    let before = resident_kib(&shown);
    (0..3).for_each(|_| export());
    let grown = resident_kib(&shown).saturating_sub(before);
    assert!(grown < 48 << 10, "grown by {grown} KiB");
    let page = shown.get(&format!("/incidents/{INCIDENT}")).body;
    assert!(page.contains("300,000"), "{page:.3000}");
}

/// Of the console's process.
fn resident_kib(shown: &Shown) -> u64 {
    let listening = format!("127.0.0.1:{}", shown.port);
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let ours = processes.filter(|path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"portcullis"))
            && words.any(|word| word == listening.as_bytes())
    });
    let status = ours
        .filter_map(|path| std::fs::read_to_string(path.join("status")).ok())
        .next()
        .expect("the console's process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn who_may_look_and_what_is_refused() {
    let bootstrap = shared().bootstrap();
    connection_with_topics(bootstrap, "console-keys");
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join("keys");
    std::fs::write(&keys, "ann: 0123456789abcdef\n").unwrap();
    let open = Shown::start(bootstrap, "console-keys.", &[]);
    assert_eq!(open.get("/").status, 200);
    // A name of somebody else's that points here.
    for path in ["/", "/incidents", "/events", "/status", "/assets/console.js"] {
        assert_eq!(open.ask("GET", path, &[("Host", "evil.example")]).status, 403, "{path}");
    }
    assert_eq!(open.ask("GET", "/", &[("Host", "localhost:8480")]).status, 200);
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(open.ask(method, "/", &[]).status, 405, "{method}");
    }
    for (path, status) in [
        ("/nothing", 404),
        ("/incidents/none", 404),
        ("/incidents/none/targets.csv", 404),
        ("/incidents/none/passwd", 404),
        ("/incidents/..%2f..%2fetc/targets.csv", 404),
        ("/who", 400),
        ("/who?value=x&tenant=No%20Tenant", 400),
        ("/blocks?page=999999999&value=%FF", 200),
    ] {
        assert_eq!(open.get(path).status, status, "{path}");
    }
    let policy = open.get("/").header("content-security-policy").unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

    let closed = Shown::start(bootstrap, "console-keys.", &["--keys", keys.to_str().unwrap()]);
    let refused = closed.get("/");
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().starts_with("Basic "));
    assert_eq!(closed.ask("GET", "/", &[("Authorization", "Bearer 0123456789abcdef")]).status, 200);
    // `any:0123456789abcdef`, as a browser sends it; and by whatever name it is reached.
    let basic = ("Authorization", "Basic YW55OjAxMjM0NTY3ODlhYmNkZWY=");
    assert_eq!(closed.ask("GET", "/", &[basic, ("Host", "console.example")]).status, 200);
    until(DEADLINE, "guessing to be slowed down", || {
        let guess = closed.ask("GET", "/status", &[("Authorization", "Bearer fedcba9876543210")]).status;
        assert!(guess == 401 || guess == 429, "{guess}");
        (guess == 429).then_some(())
    });

    let installed = Installed::new("console-keys");
    let wide = installed.output(&["console", "--listen", "0.0.0.0:0"]);
    let said = String::from_utf8_lossy(&wide.stderr).into_owned();
    assert_eq!((wide.status.code(), said.contains("needs --keys FILE")), (Some(2), true), "{said}");
}
