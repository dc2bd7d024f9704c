//! `portcullis notify` from the topic to its receivers: a real cluster, receivers that answer, fail, hang and ask to be
//! let alone, and a clock that a test moves by hand.

use std::path::Path;

use portcullis::app::Connection;
use portcullis::engine::{Output, Pipeline};
use portcullis::event::wire::Format;
use portcullis::event::{Compromise, Incident, IncidentState, Millis, Severity};
use portcullis::ingest::simulate::{Edge, Options, Scenario, Simulation, Site};
use portcullis::notify::{Channel, Http, HttpOptions, Keys, Templates, sample};

use crate::support::core::{Core, Record, default_env};
use crate::support::job::Installed;
use crate::support::kafka::shared;
use crate::support::kept::{EndBy, Kept, folder};
use crate::support::notify::{Behave, Incidents, Notify, Receiver, SECRET, config, incident, slack, webhook};
use crate::support::records::{DEADLINE, connection_with_topics};
use crate::support::{free_ports, http, repository, until};

const START: Millis = 1_561_682_490_000;
const MINUTE: Millis = 60_000;

fn fell(incident: &mut Incident, account: &str, at: Millis) {
    incident.severity = Severity::Critical;
    incident.updated_at = at;
    incident.compromised.push(Compromise {
        account: account.to_owned(),
        source_ip: "203.0.113.9".to_owned(),
        at: at - 1_000,
        flagged_at: at,
        event_id: format!("event-{at}"),
    });
}

fn over(incident: &mut Incident, at: Millis) {
    (incident.state, incident.updated_at, incident.ended_at) = (IncidentState::Closed, at, Some(at));
}

/// The occasions of each message of a webhook.
fn occasions(receiver: &Receiver) -> Vec<String> {
    let of = |post: &crate::support::notify::Post| {
        let named = post.json()["incidents"][0]["occasions"].clone();
        serde_json::from_value::<Vec<String>>(named).unwrap().join("+")
    };
    receiver.posts().iter().map(of).collect()
}

fn start(connection: &Connection, config: &Path, home: &Path, now: Millis) -> Notify {
    Notify::start(connection, config, &home.join("state"), "", now)
}

#[test]
fn what_matters_is_told_once_and_a_restart_tells_nothing_again() {
    let connection = connection_with_topics(shared().bootstrap(), "notify-life");
    let (topic, home) = (Incidents::new(&connection, Format::Avro), tempfile::tempdir().unwrap());
    let (chat, soc) = (Receiver::start(), Receiver::start());
    let destinations = [slack("chat", &chat, ""), webhook("soc", &soc, home.path(), "")];
    let config = config(home.path(), &destinations.each_ref().map(String::as_str));
    // From before anybody was to be told.
    let mut old = incident("old", START - 10 * MINUTE);
    over(&mut old, START - MINUTE);
    topic.tell(&old);
    let mut now = incident("i-1", START);
    topic.tell(&now);

    let notify = start(&connection, &config, home.path(), START);
    notify.settle(2);
    assert_eq!(occasions(&soc), ["OPENED"]);
    let [opened] = &chat.posts()[..] else { panic!("{:#?}", chat.posts()) };
    assert!(opened.text().starts_with("*Credential stuffing on shop* (HIGH)\n"), "{}", opened.text());
    assert!(opened.text().contains("<https://console.example.com/incidents/i-1|report>"), "{}", opened.text());

    // Figures alone are no news yet.
    for n in 1..4 {
        notify.pass(10_000);
        now.attempts += 1_000;
        now.updated_at = notify.now();
        topic.tell(&now);
        notify.settle(2 + n);
    }
    assert_eq!(occasions(&soc), ["OPENED"]);
    notify.pass(10_000);
    fell(&mut now, "ada@example.com", notify.now());
    topic.tell(&now);
    notify.settle(6);
    assert_eq!(occasions(&soc), ["OPENED", "FELL+ESCALATED"]);
    let told = &soc.posts()[1].json()["incidents"][0];
    assert_eq!((&told["merged"], &told["fallen_new"]), (&serde_json::json!(4), &serde_json::json!(1)));
    assert!(chat.posts()[1].text().contains("1 account entered"), "{}", chat.posts()[1].text());
    assert!(chat.posts()[1].text().contains("3,000 attempts"), "{}", chat.posts()[1].text());
    assert_eq!(notify.stop(), Ok(String::new()));

    // Another process, with the same folder, a minute later: it has nothing to say.
    let notify = start(&connection, &config, home.path(), now.updated_at + MINUTE);
    notify.settle(6);
    assert_eq!((soc.posts().len(), chat.posts().len()), (2, 2));
    // Nothing but figures for 20 minutes: they are told.
    notify.pass(20 * MINUTE);
    now.updated_at = notify.now();
    topic.tell(&now);
    notify.settle(7);
    over(&mut now, notify.now() + 1);
    topic.tell(&now);
    notify.settle(8);
    assert_eq!(occasions(&soc), ["OPENED", "FELL+ESCALATED", "DIGEST", "ENDED"]);
    for post in soc.posts() {
        let seconds: Millis = post.header("webhook-timestamp").unwrap().parse().unwrap();
        assert!(post.is_signed_by(SECRET, seconds * 1_000), "{post:?}");
    }
    let last = &soc.posts()[3];
    assert!(
        last.is_signed_by(SECRET, notify.now()) && !last.is_signed_by(&SECRET.replace("MfKQ", "MfKR"), notify.now())
    );
    assert_eq!(notify.stop(), Ok(String::new()));

    // A folder that is lost: what is over stays so.
    let notify = Notify::start(&connection, &config, &home.path().join("lost"), "", now.updated_at + MINUTE);
    notify.settle(8);
    assert_eq!((soc.posts().len(), chat.posts().len()), (4, 4));
    // One folder, one process.
    let second = Notify::start(&connection, &config, &home.path().join("lost"), "", START).end().unwrap_err();
    assert!(second.contains("another `portcullis notify` works with this folder"), "{second}");
}

#[test]
fn one_that_hangs_or_fails_holds_up_no_other_and_gets_the_same_message_again() {
    let connection = connection_with_topics(shared().bootstrap(), "notify-faults");
    let (topic, home) = (Incidents::new(&connection, Format::Json), tempfile::tempdir().unwrap());
    let (hangs, fails, closes, fine) = (Receiver::start(), Receiver::start(), Receiver::start(), Receiver::start());
    let of = |name: &str, receiver: &Receiver, more: &str| webhook(name, receiver, home.path(), more);
    let destinations = [
        of("hangs", &hangs, ", timeout: 1m"),
        of("fails", &fails, ""),
        of("closes", &closes, ""),
        of("fine", &fine, ""),
        format!("{{name: nowhere, slack: {{url: 'http://127.0.0.1:{}/'}}}}", free_ports::<1>()[0]),
    ];
    let config = config(home.path(), &destinations.each_ref().map(String::as_str));
    hangs.always(Some(Behave::Hang));
    fails.behave(&[Behave::Answer(500), Behave::Busy(429, 600), Behave::Answer(302)]);
    closes.behave(&[Behave::Close]);
    let mut now = incident("i-1", START);
    topic.tell(&now);

    let notify = start(&connection, &config, home.path(), START);
    let failed = |name: &'static str, count: u64| {
        notify.until(&format!("{count} failures of {name}"), |of| of.destinations[name].failures == count)
    };
    fine.until(1);
    hangs.until(1);
    for name in ["fails", "closes", "nowhere"] {
        failed(name, 1);
    }
    // The first retry after a second, the next when the receiver allows it.
    notify.pass(1_000);
    fails.until(2);
    let status = failed("fails", 2);
    assert_eq!(status.destinations["fails"].retry_at, Some(notify.now() + 600_000));
    closes.until(2);
    failed("nowhere", 2);
    notify.pass(599_000);
    assert_eq!(failed("nowhere", 3).destinations["fails"].failures, 2);
    notify.pass(1_000);
    // Where a redirect leads was never meant.
    fails.until(3);
    failed("fails", 3);
    notify.pass(10_000);
    fails.until(4);
    let posts = fails.posts();
    let of = |name: &str| posts.iter().map(|post| post.header(name).unwrap().to_owned()).collect::<Vec<_>>();
    assert!(of("webhook-id").windows(2).all(|pair| pair[0] == pair[1]), "{:?}", of("webhook-id"));
    assert!(posts.windows(2).all(|pair| pair[0].body == pair[1].body));
    assert_ne!(of("webhook-timestamp")[0], of("webhook-timestamp")[3], "each try is signed anew");

    // Others hear what comes while one still hangs.
    fell(&mut now, "ada@example.com", notify.now());
    topic.tell(&now);
    fine.until(2);
    fails.until(5);
    let status = notify.until("both", |of| of.destinations["fails"].sent == 2 && of.destinations["fine"].sent == 2);
    assert_eq!(status.destinations["hangs"].sent, 0);
    let said = status.destinations["nowhere"].last_error.clone().unwrap();
    assert!(!said.is_empty(), "{said}");
    assert_eq!(hangs.posts().len(), 1);

    // A stop does not wait for it. The next process tries the same message again, and then tells the news.
    let late = notify.now() + 3 * MINUTE;
    assert_eq!(notify.stop(), Ok(String::new()));
    hangs.always(None);
    let notify = start(&connection, &config, home.path(), late);
    let posts = hangs.until(3);
    assert_eq!((posts[0].header("webhook-id"), &posts[0].body), (posts[1].header("webhook-id"), &posts[1].body));
    assert_eq!(occasions(&hangs), ["OPENED", "OPENED", "FELL+ESCALATED"]);
    assert_eq!((fine.posts().len(), fails.posts().len(), closes.posts().len()), (2, 5, 3));
    assert_eq!(notify.stop(), Ok(String::new()));
}

#[test]
fn a_receiver_that_refuses_is_not_asked_for_ever_and_nothing_is_lost() {
    let connection = connection_with_topics(shared().bootstrap(), "notify-refuses");
    let (topic, home) = (Incidents::new(&connection, Format::Json), tempfile::tempdir().unwrap());
    let soc = Receiver::start();
    let config = config(home.path(), &[&webhook("soc", &soc, home.path(), "")]);
    soc.behave(&[Behave::Answer(400); 3]);
    let mut now = incident("i-1", START);
    topic.tell(&now);
    let notify = start(&connection, &config, home.path(), START);
    for tries in 1..=3 {
        soc.until(tries);
        notify.until("its failure", |of| of.destinations["soc"].failures == tries as u64);
        notify.pass(10_000);
    }
    let status = notify.until("its end", |of| of.destinations["soc"].given_up == 1);
    assert_eq!(status.destinations["soc"].untold, 1);
    fell(&mut now, "ada@example.com", notify.now());
    topic.tell(&now);
    notify.settle(2);
    notify.pass(20 * MINUTE);
    soc.until(4);
    assert_eq!(occasions(&soc)[3], "OPENED+FELL");
    assert_ne!(soc.posts()[3].header("webhook-id"), soc.posts()[2].header("webhook-id"));
    assert_eq!(notify.settle(2).destinations["soc"].untold, 0);
}

/// Every record of the incident that the stages tell of the night, in order.
fn night() -> Vec<Incident> {
    let mut site = Site::new("default", Edge::AddressList);
    let options = Options { history_ms: 14 * 86_400_000, ..Options::default() };
    let mut simulation = Simulation::new(Scenario::Night, 4, options).unwrap();
    let mut pipeline = Pipeline::new(default_env());
    let (mut told, mut last) = (Vec::new(), 0);
    let mut take = |emissions: Vec<portcullis::engine::Emission>| {
        for emission in emissions {
            if let Output::Incident(incident) = emission.output {
                told.push(*incident);
            }
        }
    };
    while let Some(next) = simulation.next(&mut site) {
        take(Core::feed(&mut pipeline, &Record::json(next.at, &next.event)));
        last = next.at;
    }
    take(pipeline.advance(last + 3 * 3_600_000));
    told
}

#[test]
fn the_night_is_one_incident_and_at_most_six_messages() {
    let connection = connection_with_topics(shared().bootstrap(), "notify-night");
    let (topic, home) = (Incidents::new(&connection, Format::Avro), tempfile::tempdir().unwrap());
    let (chat, soc) = (Receiver::start(), Receiver::start());
    let destinations = [slack("chat", &chat, ""), webhook("soc", &soc, home.path(), "")];
    let config = config(home.path(), &destinations.each_ref().map(String::as_str));
    let records = night();
    assert!(records.len() > 20, "{}", records.len());
    let notify = start(&connection, &config, home.path(), records[0].updated_at - MINUTE);
    notify.settle(0);
    for (number, incident) in records.iter().enumerate() {
        notify.set(incident.updated_at);
        topic.tell(incident);
        notify.settle(number as u64 + 1);
    }
    let of_soc = occasions(&soc);
    println!("{} records: {of_soc:?}", records.len());
    assert!(of_soc.len() <= 6, "{of_soc:?}");
    assert_eq!((&*of_soc[0], &*of_soc[of_soc.len() - 1]), ("OPENED", "ENDED"));
    let told =
        |name: &str| soc.posts().iter().map(|post| post.json()["incidents"][0][name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(told("fallen_new"), 2);
    // Every change of the incident is in one of them.
    assert_eq!(told("merged"), records.len() as u64);
    assert_eq!(chat.posts().len(), of_soc.len());
    let fallen = &records.last().unwrap().compromised;
    let named = |account: &str| chat.posts().iter().filter(|post| post.text().contains(account)).count();
    assert_eq!(fallen.iter().map(|fallen| named(&fallen.account)).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn the_command_says_what_it_would_send_tries_destinations_and_writes_templates() {
    let installed = Installed::new("notify-command");
    installed.done(&["topics", "apply"]);
    let connection = installed.connection();
    let topic = Incidents::new(&connection, Format::Json);
    let home = installed.folder.path();
    let (chat, soc) = (Receiver::start(), Receiver::start());
    let destinations = [slack("chat", &chat, ""), webhook("soc", &soc, home, "")];
    let file = config(home, &destinations.each_ref().map(String::as_str)).display().to_string();
    let state = home.join("state").display().to_string();
    // The command goes by the world's clock.
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let notify = ["notify", "--config", &file, "--state-dir", &state];
    let dry = installed.done(&[&notify[..], &["--dry-run"]].concat());
    assert!(dry.contains("nothing would be sent"), "{dry}");
    topic.tell(&incident("i-1", now));
    let dry = installed.done(&[&notify[..], &["--dry-run"]].concat());
    assert!(dry.contains("*Credential stuffing on shop*") && dry.contains("\"OPENED\""), "{dry}");
    let json = installed.done(&[&notify[..], &["--dry-run", "--output", "json"]].concat());
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["destination"].as_str().unwrap()).collect::<Vec<_>>(), ["chat", "soc"]);
    assert_eq!((chat.posts().len(), soc.posts().len()), (0, 0));
    assert!(!home.join("state").exists());

    soc.behave(&[Behave::Answer(403)]);
    let tried = installed.output(&[&notify[..], &["test"]].concat());
    let text = String::from_utf8_lossy(&tried.stdout).into_owned();
    assert_eq!(tried.status.code(), Some(3), "{text}");
    assert!(text.contains("chat: sent by slack\nsoc: not sent by webhook: it answers 403: said!\n"), "{text}");
    assert!(chat.posts()[0].text().starts_with("*This is a test."), "{}", chat.posts()[0].text());
    installed.done(&[&notify[..], &["test", "--destination", "soc"]].concat());
    assert!(soc.posts()[1].is_signed_by(SECRET, now) && soc.posts()[1].json()["test"] == true);
    for (arguments, told) in [
        (vec!["notify"], "--config FILE is needed"),
        ([&notify[..], &["test", "--destination", "nobody"]].concat(), "there is no destination `nobody`"),
    ] {
        let output = installed.output(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(told), "{arguments:?}: {text}");
    }

    // As a process of its own: ready once it has read the topic, and it counts.
    let [port] = free_ports();
    let listen = format!("127.0.0.1:{port}");
    let running = installed.start(&[&notify[..], &["--listen", &listen]].concat(), EndBy::Term);
    until(DEADLINE, "the command to tell", || {
        let counted = "portcullis_notify_sent_total{destination=\"soc\",kind=\"webhook\"} 1\n";
        http(port, "/metrics").1.contains(counted).then_some(())
    });
    assert_eq!(http(port, "/readyz").0, 200);
    let status: serde_json::Value = serde_json::from_str(&http(port, "/status").1).unwrap();
    assert_eq!((&status["records"], &status["destinations"]["chat"]["sent"]), (&1.into(), &1.into()));
    drop(running);

    // Templates of one's own: one that is wrong is told before anything is sent.
    let folder = home.join("templates");
    let written = installed.done(&["notify", "templates", &folder.display().to_string()]);
    assert_eq!(written.lines().filter(|line| line.ends_with("written")).count(), 5, "{written}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("templates: {}\n{text}", folder.display())).unwrap();
    std::fs::write(folder.join("slack.txt"), "mine: {{ message.headlin }}\n").unwrap();
    let output = installed.output(&[&notify[..], &["--dry-run"]].concat());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("template slack.txt, line 1"), "{told}");
    std::fs::write(folder.join("slack.txt"), "mine: {{ message.headline }}\n").unwrap();
    topic.tell(&incident("i-2", now));
    let dry = installed.done(&[&notify[..], &["--dry-run"]].concat());
    assert!(dry.contains("mine: Credential stuffing on shop\n"), "{dry}");
    let again = installed.done(&["notify", "templates", &folder.display().to_string()]);
    assert_eq!(again.lines().filter(|line| line.ends_with("stays as it is")).count(), 5, "{again}");
}

/// The receiver that the documentation shows, in Python.
#[test]
fn the_receiver_of_the_examples_takes_what_is_ours_once_and_nothing_else() {
    let home = folder("portcullis-receiver-");
    let secret = home.join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let [port] = free_ports();
    let script = repository().join("examples/webhook/receiver.py").display().to_string();
    let log = home.join("out.log");
    let command = ["python3".to_owned(), script, port.to_string(), secret.display().to_string()];
    let receiver = Kept::start(home, EndBy::Kill, command);
    until(DEADLINE, &format!("the receiver: {}", receiver.last_words()), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let channel = |secret: &str| {
        let url = format!("http://127.0.0.1:{port}/");
        let options = HttpOptions { url, ca: None, timeout: DEADLINE, allow_http: false };
        Channel::Webhook(Http::new(options).unwrap(), Keys::parse(secret).unwrap())
    };
    let templates = Templates::load(None, &sample("soc", None, now)).unwrap();
    let send = |channel: &Channel, at: Millis| {
        let message = sample("soc", None, now);
        channel.send(&message, channel.render(&templates, &message).unwrap(), at).map_err(|failure| failure.is_refusal)
    };
    // One that goes and one that comes: the receiver knows the second.
    let ours = channel(&format!("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n{SECRET}"));
    assert_eq!((send(&ours, now), send(&ours, now + 60_000)), (Ok(()), Ok(())));
    assert_eq!(send(&channel("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), now), Err(true));
    assert_eq!(send(&ours, now - 10 * MINUTE), Err(true), "an old one is somebody else's copy");
    let said = std::fs::read_to_string(log).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&sample("soc", None, now).id), "{said}");
}
