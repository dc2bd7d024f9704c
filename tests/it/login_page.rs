//! The examples for a login page, against the real check route: a client in each language, and a page in a real browser.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use portcullis::engine::KnownBy;
use portcullis::event::wire::{Encoding, decode, normal_account};
use portcullis::event::{Action, ChallengePolicy, Millis, Scope};
use serde_json::json;

use crate::console_browser::Browser;
use crate::support::edge::{Edge, KEY, START, Teller};
use crate::support::kafka::shared;
use crate::support::kept::{EndBy, Kept, folder};
use crate::support::notify::{Behave, Receiver};
use crate::support::records::{DEADLINE, connection_with_topics};
use crate::support::{free_ports, http, repository, until};

const HOUR: Millis = 3_600_000;
/// What every client here promises, and how much later a busy machine may notice.
const TIMEOUT_MS: u64 = 300;
const SLACK_MS: u64 = 2_000;

fn examples() -> PathBuf {
    repository().join("examples/login-page")
}

/// How each client is started; those that need it are compiled once.
fn clients() -> &'static [(&'static str, Vec<String>)] {
    static CLIENTS: OnceLock<Vec<(&'static str, Vec<String>)>> = OnceLock::new();
    CLIENTS.get_or_init(|| {
        let built = folder("portcullis-clients-");
        let text = |path: &Path| path.display().to_string();
        let done = |command: &mut Command| {
            let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}: run `make setup`"));
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let program = built.join("client");
        let rust = ["--edition", "2024", "-O", "-D", "warnings", "-o", &text(&program)].map(str::to_owned);
        done(Command::new("rustc").current_dir(repository()).args(rust).arg(examples().join("client.rs")));
        done(
            Command::new("javac")
                .args(["-Werror", "-Xlint:all", "-d", &text(&built)])
                .arg(examples().join("Client.java")),
        );
        vec![
            ("Rust", vec![text(&program)]),
            ("Python", vec!["python3".to_owned(), text(&examples().join("client.py"))]),
            ("Node", vec!["node".to_owned(), text(&examples().join("client.mjs"))]),
            ("Java", vec!["java".to_owned(), "-cp".to_owned(), text(&built), "Client".to_owned()]),
        ]
    })
}

/// What a client says: verdict, whether it was answered, how long that took, whom to challenge.
#[derive(Debug)]
struct Said {
    verdict: String,
    answered: bool,
    took_ms: u64,
    challenge: String,
}

#[track_caller]
fn ask(language: &str, port: u16, key: &str, ip: &str, account: &str, device: Option<&str>) -> Said {
    let (_, command) = clients().iter().find(|(name, _)| *name == language).unwrap();
    let address = format!("127.0.0.1:{port}");
    let url = if language == "Rust" { address } else { format!("http://{address}") };
    let mut all = Command::new(&command[0]);
    all.args(&command[1..]).args([&url, "shop", ip, account]).args(device).env("EDGE_KEY", key);
    let output = all.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let [verdict, how, took, challenge] = words[..] else {
        panic!("{language}: {text}{}", String::from_utf8_lossy(&output.stderr));
    };
    assert!(how == "answered" || how == "open", "{language}: {text}");
    Said {
        verdict: verdict.to_owned(),
        answered: how == "answered",
        took_ms: took.parse().unwrap(),
        challenge: challenge.to_owned(),
    }
}

/// The verdict of a client that was answered; a busy machine may let it wait for too long, so it may ask again.
#[track_caller]
fn verdict(language: &str, port: u16, ip: &str, account: &str, device: Option<&str>) -> String {
    until(DEADLINE, &format!("an answer for {language}"), || {
        let said = ask(language, port, KEY, ip, account, device);
        (said.answered || !said.verdict.eq("allow")).then_some(said.verdict)
    })
}

/// Names that would end a text, a line, a header or an argument where they were pasted instead of written.
const HOSTILE: [&str; 5] = [
    "\"},\"ip\":\"203.0.113.77\",\"x\":{\"",
    "a\\\"b\\",
    "a\r\nX-Api-Key: b\r\n\r\n",
    "\u{202e}moc.elpmaxe@ada \u{1f511} \u{7f}\u{1}\u{2028}",
    "'; DROP TABLE accounts; -- <script>alert(1)</script> ${jndi:ldap://e} %00 {{7*7}}",
];

#[test]
fn every_client_does_as_the_check_route_says() {
    let connection = connection_with_topics(shared().bootstrap(), "login-clients");
    let teller = Teller::new(&connection);
    let home = "203.0.113.1".parse().unwrap();
    teller.knows("ada@example.com", KnownBy::Source(home));
    teller.knows("ada@example.com", KnownBy::Device("phone"));
    for name in HOSTILE {
        teller.knows(&normal_account(name), KnownBy::Source(home));
    }
    teller.restrict(Scope::Ip, "203.0.113.9", Action::Block, Some(START + HOUR), 1);
    teller.restrict(Scope::Account, "eve@example.com", Action::Challenge, Some(START + HOUR), 1);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let port = edge.address.port();
    for (language, _) in clients() {
        let of = |ip: &str, account: &str, device| verdict(language, port, ip, account, device);
        // Calm: nobody but who is blocked, and the one account that is attacked.
        assert_eq!(of("203.0.113.2", "ada@example.com", None), "allow", "{language}");
        assert_eq!(of("203.0.113.9", "ben@example.com", None), "deny", "{language}");
        assert_eq!(of("203.0.113.2", "eve@example.com", None), "challenge", "{language}");
        assert_eq!(ask(language, port, KEY, "203.0.113.2", "a", None).challenge, "NOBODY", "{language}");
        // A key that nobody gave, and a question that makes no sense, lock nobody out.
        let said = ask(language, port, "another key, which is wrong", "203.0.113.9", "a", None);
        assert_eq!((&*said.verdict, said.answered), ("allow", false), "{language}");
        let said = ask(language, port, KEY, "no address", &"x".repeat(100_000), None);
        assert_eq!((&*said.verdict, said.answered), ("allow", false), "{language}");
    }
    teller.attack(ChallengePolicy::UnknownPairs, edge.now(), edge.now() + HOUR);
    let asked = json!({"ip": "203.0.113.2", "account": "ada@example.com"});
    until(DEADLINE, "the attack", || (edge.check(&asked)["verdict"] == "challenge").then_some(()));
    for (language, _) in clients() {
        let of = |ip: &str, account: &str, device| verdict(language, port, ip, account, device);
        assert_eq!(of("203.0.113.2", "ada@example.com", None), "challenge", "{language}");
        assert_eq!(of("203.0.113.1", "ada@example.com", None), "allow", "{language}");
        assert_eq!(of("203.0.113.2", "ada@example.com", Some("phone")), "allow", "{language}");
        until(DEADLINE, "whom to challenge", || {
            (ask(language, port, KEY, "203.0.113.2", "a", None).challenge == "UNKNOWN_PAIRS").then_some(())
        });
        for name in HOSTILE {
            assert_eq!(of("203.0.113.1", name, None), "allow", "{language}: {name:?} is known");
            assert_eq!(of("203.0.113.2", name, None), "challenge", "{language}: {name:?} is a stranger");
        }
    }
    // Without a server everybody gets in, at once; a server that hangs costs no more than was promised.
    assert_eq!(edge.stop(), Ok(()));
    let (hangs, drips) = (Receiver::start(), Receiver::start());
    hangs.always(Some(Behave::Hang));
    drips.always(Some(Behave::Drip));
    for (language, _) in clients() {
        let gone = ask(language, port, KEY, "203.0.113.9", "ada@example.com", None);
        assert_eq!((&*gone.verdict, gone.answered), ("allow", false), "{language}");
        let (least, most) = (TIMEOUT_MS - 10, TIMEOUT_MS + SLACK_MS);
        assert!(gone.took_ms < most, "{language}: {gone:?}");
        for receiver in [&hangs, &drips] {
            let said = ask(language, receiver.port, KEY, "203.0.113.9", "ada@example.com", None);
            assert_eq!((&*said.verdict, said.answered, &*said.challenge), ("allow", false, "NOBODY"), "{language}");
            assert!((least..most).contains(&said.took_ms), "{language}: {said:?}");
        }
        assert_eq!(gone.challenge, "NOBODY", "{language}");
    }
}

/// The page of the examples, which tells its attempts as login events.
struct Page {
    kept: Kept,
    port: u16,
}

impl Page {
    fn start(edge: &Edge) -> Page {
        let [port] = free_ports();
        let command = [
            "env".to_owned(),
            format!("EDGE_KEY={KEY}"),
            "python3".to_owned(),
            examples().join("server.py").display().to_string(),
            port.to_string(),
            format!("http://{}", edge.address),
            "shop".to_owned(),
        ];
        let page = Page { kept: Kept::start(folder("portcullis-login-"), EndBy::Kill, command), port };
        until(DEADLINE, "the login page", || (http(port, "/login").0 == 200).then_some(()));
        page
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.kept.folder().join("out.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    fn outcomes(&self) -> Vec<String> {
        self.events().iter().map(|event| event["outcome"].as_str().unwrap().to_owned()).collect()
    }
}

/// Fills in the form and sends it.
fn log_in(browser: &mut Browser, account: &str, password: &str) {
    browser.goto("/login");
    browser.fill("#account", account);
    browser.fill("#password", password);
    browser.submit("#send");
}

#[test]
fn a_page_shows_a_challenge_while_it_should_and_to_whom_it_should() {
    let connection = connection_with_topics(shared().bootstrap(), "login-page");
    let teller = Teller::new(&connection);
    let edge = Edge::start(&connection, "");
    edge.until_ready();
    let page = Page::start(&edge);
    let mut browser = Browser::start(page.port);

    // Calm: no challenge, and a device that is remembered.
    log_in(&mut browser, "ada@example.com", "wrong");
    assert_eq!((browser.wait("[role=alert]"), browser.count("#challenge")), ("That is not right.".to_owned(), 0));
    assert_eq!(browser.violations(), Vec::<String>::new());
    log_in(&mut browser, "Ada@example.com", "correct horse");
    assert_eq!(browser.wait("#welcome"), "Welcome, Ada@example.com.");
    let device = page.events()[1]["device_id"].as_str().unwrap().to_owned();
    teller.knows("ada@example.com", KnownBy::Device(&device));

    // An attack: whom the page knows logs in as ever, a stranger is asked, and the answer counts once.
    teller.attack(ChallengePolicy::UnknownPairs, edge.now(), edge.now() + HOUR);
    let asked =
        |account: &str, device: &str| edge.check(&json!({"ip": "127.0.0.1", "account": account, "device": device}));
    until(DEADLINE, "the attack", || (asked("eve@example.com", &device)["verdict"] == "challenge").then_some(()));
    until(DEADLINE, "the pair", || (asked("ada@example.com", &device)["verdict"] == "allow").then_some(()));
    log_in(&mut browser, "ada@example.com", "correct horse");
    assert_eq!(browser.wait("#welcome"), "Welcome, ada@example.com.");
    log_in(&mut browser, "eve@example.com", "battery staple");
    assert_eq!((browser.count("#challenge"), browser.count("#welcome")), (1, 0));
    assert_eq!(browser.violations(), Vec::<String>::new());
    let question = browser.text("#challenge label")[0].clone();
    let digits: Vec<u32> = question.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [a, b] = digits[..] else { panic!("{question}") };
    let answer_with = |browser: &mut Browser, answer: u32| {
        browser.fill("#password", "battery staple");
        browser.fill("#answer", &answer.to_string());
        browser.submit("#send");
    };
    answer_with(&mut browser, a + b + 1);
    assert_eq!((browser.count("#challenge"), browser.count("#welcome")), (1, 0), "a wrong answer");
    let question = browser.text("#challenge label")[0].clone();
    let sum: u32 = question.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u32>().ok()).sum();
    answer_with(&mut browser, sum);
    assert_eq!(browser.wait("#welcome"), "Welcome, eve@example.com.");

    // Names are shown and obeyed by nobody.
    for name in ["\"><img src=x onerror=alert(1)>", "</main><script>alert(1)</script>", "{said}", "\u{202e}\u{1b}[31m"]
    {
        log_in(&mut browser, name, "x");
        assert_eq!((browser.count("#challenge"), browser.count("img"), browser.count("script")), (1, 0, 0), "{name}");
    }

    // Blocked: the right password looks like a wrong one.
    teller.restrict(Scope::Account, "eve@example.com", Action::LockAccount, Some(edge.now() + HOUR), 1);
    until(DEADLINE, "the block", || (asked("eve@example.com", &device)["verdict"] == "deny").then_some(()));
    log_in(&mut browser, "eve@example.com", "battery staple");
    assert_eq!((browser.wait("[role=alert]"), browser.count("#challenge")), ("That is not right.".to_owned(), 0));

    // It is over, by the clock alone.
    edge.pass(HOUR);
    log_in(&mut browser, "eve@example.com", "battery staple");
    assert_eq!(browser.wait("#welcome"), "Welcome, eve@example.com.");
    let outcomes = page.outcomes();
    let expected = [
        "FAILURE", "SUCCESS", "SUCCESS", "CHALLENGED", "CHALLENGED", "SUCCESS", "CHALLENGED", "CHALLENGED",
        "CHALLENGED", "CHALLENGED", "BLOCKED", "SUCCESS",
    ];
    assert_eq!(outcomes, expected);
    for event in page.events() {
        let bytes = event.to_string().into_bytes();
        assert!(decode(&bytes, Encoding::Json { body: 0 }, None).is_ok(), "{event}");
    }

    // The server is gone, in the middle of an attack: nobody is locked out.
    teller.attack(ChallengePolicy::Everybody, edge.now(), edge.now() + HOUR);
    until(DEADLINE, "the attack", || (asked("ada@example.com", &device)["verdict"] == "challenge").then_some(()));
    assert_eq!(edge.stop(), Ok(()));
    log_in(&mut browser, "ada@example.com", "correct horse");
    assert_eq!(browser.wait("#welcome"), "Welcome, ada@example.com.");
    assert_eq!(browser.problems(), Vec::<String>::new());
}
