//! A schema registry that speaks Confluent's protocol: writer schemas by id, and the registration of our own.
//!
//! Every call may wait for the network, so none belongs into a hot path. What was asked is remembered, bounded: a schema
//! for good (an id never changes its meaning), an id that nobody knows for [`UNKNOWN_KEPT_MS`], a registry that does not
//! answer for [`AWAY_KEPT_MS`]. Time is an argument. Without a registry only the ids of the settings are known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::tls::{TlsConfig, TlsProvider};

use super::{Clock, Error, Schemas};
use crate::event::Millis;
use crate::event::wire::{OUTPUT_SCHEMAS, SchemaIds, WriterSchema};

/// Most schemas that are remembered; beyond it the oldest goes.
pub const SCHEMAS_MAX: usize = 256;
/// Most unknown ids that are remembered; an id is whatever a publisher writes.
pub const UNKNOWN_MAX: usize = 4_096;
/// How long an id that the registry does not know stays unknown, in milliseconds.
pub const UNKNOWN_KEPT_MS: Millis = 60_000;
/// How long a registry that does not answer is left alone, in milliseconds.
pub const AWAY_KEPT_MS: Millis = 1_000;
/// How long a stage waits for a registry that does not answer before it takes an id for unknown; and then, how long it
/// waits for none at all.
pub const STALL_MAX: Duration = Duration::from_secs(10);
pub const AFTER_STALL: Duration = Duration::from_secs(30);
/// Between two tries of a stage that waits.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest call from its start to the last byte of the answer.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Longest part of an answer that is repeated in an error, in characters.
const SAID_MAX: usize = 300;
const JSON: &str = "application/vnd.schemaregistry.v1+json";

/// Where the registry is, and who we are to it.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryOptions {
    /// The address before `/schemas` and `/subjects`; for Apicurio it ends with `/apis/ccompat/v7`.
    pub url: String,
    /// User name and password, for basic authentication.
    pub login: Option<(String, String)>,
}

impl RegistryOptions {
    #[must_use]
    pub fn new(url: &str) -> Self {
        RegistryOptions { url: url.trim_end_matches('/').to_owned(), login: None }
    }
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|(user, _)| user);
        f.debug_struct("RegistryOptions").field("url", &self.url).field("user", &user).finish()
    }
}

/// What is known of a schema id.
#[derive(Debug, Clone)]
pub enum Lookup {
    Known(Arc<WriterSchema>),
    /// Nobody registered it, or it is no schema of a login event.
    Unknown,
    /// The registry does not answer; whether the id is known will show.
    Unavailable,
}

/// Writer schemas by id.
pub struct Registry {
    client: Option<Client>,
    /// By the settings; they stand above the registry.
    fixed: BTreeMap<u32, Arc<WriterSchema>>,
    known: Recent<Arc<WriterSchema>>,
    /// With the time until which each stays unknown.
    unknown: Recent<Millis>,
    away_until: Millis,
    status: RegistryStatus,
}

/// How a registry stands, since start.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RegistryStatus {
    /// Calls over the network.
    pub calls: u64,
    pub failures: u64,
    /// Why the last call failed; `None` once one went well.
    pub last_error: Option<String>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("client", &self.client.as_ref().map(|c| &c.options)).finish_non_exhaustive()
    }
}

impl Registry {
    /// The ids of the setting `schema_ids`, each the bundled login event, and those of a registry when there is one.
    #[must_use]
    pub fn new(options: Option<RegistryOptions>, schema_ids: &[u32]) -> Self {
        let bundled = Arc::new(WriterSchema::Bundled);
        Registry {
            client: options.map(Client::new),
            fixed: schema_ids.iter().map(|id| (*id, Arc::clone(&bundled))).collect(),
            known: Recent::new(SCHEMAS_MAX),
            unknown: Recent::new(UNKNOWN_MAX),
            away_until: Millis::MIN,
            status: RegistryStatus::default(),
        }
    }

    /// What is known of an id at `now`; asks the registry when that was not asked lately.
    pub fn get(&mut self, id: u32, now: Millis) -> Lookup {
        if let Some(schema) = self.fixed.get(&id).or_else(|| self.known.get(id)) {
            return Lookup::Known(Arc::clone(schema));
        }
        let Some(client) = &self.client else { return Lookup::Unknown };
        if self.unknown.get(id).is_some_and(|until| is_ahead(*until, now, UNKNOWN_KEPT_MS)) {
            return Lookup::Unknown;
        }
        if is_ahead(self.away_until, now, AWAY_KEPT_MS) {
            return Lookup::Unavailable;
        }
        self.status.calls += 1;
        match client.schema(id) {
            Ok(text) => {
                self.status.last_error = None;
                self.take(id, &text, now)
            }
            Err(Failure::NotThere) => {
                self.status.last_error = None;
                self.unknown.put(id, now.saturating_add(UNKNOWN_KEPT_MS));
                Lookup::Unknown
            }
            Err(Failure::Refused(why) | Failure::Away(why)) => {
                tracing::warn!(id, %why, "the schema registry gives no answer");
                self.status.failures += 1;
                self.status.last_error = Some(why);
                self.away_until = now.saturating_add(AWAY_KEPT_MS);
                Lookup::Unavailable
            }
        }
    }

    /// How it stands.
    #[must_use]
    pub const fn status(&self) -> &RegistryStatus {
        &self.status
    }

    fn take(&mut self, id: u32, answer: &SchemaAnswer, now: Millis) -> Lookup {
        let is_avro = answer.schema_type.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("AVRO"));
        let parsed = if is_avro {
            WriterSchema::parse(&answer.schema).map_err(|reject| reject.detail)
        } else {
            Err("it is no Avro schema".to_owned())
        };
        match parsed {
            Ok(schema) => {
                let schema = Arc::new(schema);
                self.known.put(id, Arc::clone(&schema));
                Lookup::Known(schema)
            }
            Err(why) => {
                tracing::warn!(id, %why, "a schema of the registry cannot be used");
                self.unknown.put(id, now.saturating_add(UNKNOWN_KEPT_MS));
                Lookup::Unknown
            }
        }
    }
}

/// The registry for the stage threads. A schema that was met before costs a look into a map; one that is new is asked
/// for, and the thread that met it waits: an event whose schema is a second late must not be set aside. A registry that
/// is away for longer than [`STALL_MAX`] stalls nobody further: its ids are unknown until it is back.
pub struct SharedRegistry {
    known: RwLock<BTreeMap<u32, Arc<WriterSchema>>>,
    asked: Mutex<Asked>,
    clock: Arc<dyn Clock>,
}

struct Asked {
    registry: Registry,
    /// Until this much time has elapsed, nobody waits.
    no_waiting_until: Duration,
}

impl fmt::Debug for SharedRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRegistry").finish_non_exhaustive()
    }
}

impl SharedRegistry {
    #[must_use]
    pub fn new(registry: Registry, clock: Arc<dyn Clock>) -> Self {
        let asked = Asked { registry, no_waiting_until: Duration::ZERO };
        SharedRegistry { known: RwLock::default(), asked: Mutex::new(asked), clock }
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> RegistryStatus {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).registry.status().clone()
    }

    fn ask(&self, id: u32) -> Option<Arc<WriterSchema>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = self.clock.elapsed();
        loop {
            match asked.registry.get(id, self.clock.now()) {
                Lookup::Known(schema) => return Some(schema),
                Lookup::Unknown => return None,
                Lookup::Unavailable => {}
            }
            let elapsed = self.clock.elapsed();
            if elapsed < asked.no_waiting_until {
                return None;
            }
            if elapsed.saturating_sub(begun) >= STALL_MAX {
                asked.no_waiting_until = elapsed.saturating_add(AFTER_STALL);
                tracing::error!(id, "the schema registry is away: events under ids not met yet become dead letters");
                return None;
            }
            std::thread::park_timeout(BETWEEN_TRIES);
        }
    }
}

impl Schemas for SharedRegistry {
    fn writer(&self, id: u32) -> Option<Arc<WriterSchema>> {
        if let Some(schema) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Some(Arc::clone(schema));
        }
        let schema = self.ask(id)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < SCHEMAS_MAX {
            known.insert(id, Arc::clone(&schema));
        }
        Some(schema)
    }
}

/// Whether a time lies ahead, by no more than it was set ahead: a clock that was set back must not keep it for ever.
const fn is_ahead(until: Millis, now: Millis, kept: Millis) -> bool {
    until > now && until <= now.saturating_add(kept)
}

/// Registers the output schemas under `<prefix><topic>-value`, and gives their ids. What is there already is found,
/// not written, so that a user who may only read will do once somebody has registered them.
///
/// # Errors
/// [`Error::Setup`]: the registry refuses a schema or the user; [`Error::Kafka`]: it does not answer.
pub fn register_outputs(options: &RegistryOptions, prefix: &str) -> Result<SchemaIds, Error> {
    let client = Client::new(options.clone());
    let mut ids = [0; OUTPUT_SCHEMAS.len()];
    for (id, (topic, schema)) in ids.iter_mut().zip(OUTPUT_SCHEMAS) {
        let subject = format!("{prefix}{topic}-value");
        *id = client.register(&subject, schema).map_err(|failure| match failure {
            Failure::NotThere => Error::Setup(format!(
                "{} is no schema registry: it knows no subjects; for Apicurio the address ends with /apis/ccompat/v7",
                options.url
            )),
            Failure::Refused(why) => Error::Setup(format!("the schema registry refuses the schema {subject}: {why}")),
            Failure::Away(why) => Error::Setup(format!("the schema registry does not answer: {why}")),
        })?;
    }
    let [verdict, blocklist_entry, attack_status, incident, receipt, incident_detail, activity] = ids;
    Ok(SchemaIds { verdict, blocklist_entry, attack_status, incident, receipt, incident_detail, activity })
}

/// Registers one schema under a subject, as a publisher would, and gives its id.
///
/// # Errors
/// As [`register_outputs`].
pub fn register(options: &RegistryOptions, subject: &str, schema: &str) -> Result<u32, Error> {
    Client::new(options.clone()).register(subject, schema).map_err(|failure| match failure {
        Failure::NotThere => Error::Setup(format!("{} is no schema registry", options.url)),
        Failure::Refused(why) | Failure::Away(why) => Error::Setup(format!("{subject}: {why}")),
    })
}

/// The protocol.
struct Client {
    agent: Agent,
    options: RegistryOptions,
    authorization: Option<String>,
}

/// How a call ended badly.
#[derive(Debug)]
enum Failure {
    /// The registry knows no such thing.
    NotThere,
    /// It answered, and another try will not help before somebody does something.
    Refused(String),
    Away(String),
}

#[derive(Debug, Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct IdAnswer {
    id: u32,
}

#[derive(Debug, Deserialize)]
struct ErrorAnswer {
    error_code: i64,
    #[serde(default)]
    message: String,
}

impl Client {
    fn new(options: RegistryOptions) -> Self {
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).build();
        let agent = Agent::config_builder()
            .timeout_global(Some(CALL_MAX))
            .timeout_connect(Some(CONNECT_MAX))
            .http_status_as_error(false)
            .proxy(None)
            .tls_config(tls)
            .build()
            .into();
        let authorization = options
            .login
            .as_ref()
            .map(|(user, password)| format!("Basic {}", base64(format!("{user}:{password}").as_bytes())));
        Client { agent, options, authorization }
    }

    fn schema(&self, id: u32) -> Result<SchemaAnswer, Failure> {
        let request = self.agent.get(format!("{}/schemas/ids/{id}", self.options.url)).header("accept", JSON);
        let request = match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        };
        answer(request.call())
    }

    fn register(&self, subject: &str, schema: &str) -> Result<u32, Failure> {
        let subject = path_segment(subject);
        let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO" }).to_string();
        match self.post(&format!("/subjects/{subject}"), &body) {
            Ok(found) => Ok(found.id),
            Err(Failure::NotThere) => Ok(self.post(&format!("/subjects/{subject}/versions"), &body)?.id),
            Err(other) => Err(other),
        }
    }

    fn post(&self, path: &str, body: &str) -> Result<IdAnswer, Failure> {
        let request = self.agent.post(format!("{}{path}", self.options.url)).header("accept", JSON);
        let request = request.header("content-type", JSON);
        let request = match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        };
        answer(request.send(body))
    }
}

type Answer = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

fn answer<T: for<'de> Deserialize<'de>>(answer: Answer) -> Result<T, Failure> {
    let mut answer = answer.map_err(|e| Failure::Away(e.to_string()))?;
    let status = answer.status().as_u16();
    let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
    let text = text.map_err(|e| Failure::Away(e.to_string()))?;
    if status == 200 {
        return serde_json::from_str(&text)
            .map_err(|e| Failure::Away(format!("its answer is no JSON of a registry: {e}")));
    }
    let said: Option<ErrorAnswer> = serde_json::from_str(&text).ok();
    let why = said.as_ref().map_or(text.as_str(), |said| said.message.as_str());
    let why: String = why.chars().take(SAID_MAX).collect();
    match (status, said) {
        // Only a registry has codes such as 40403: anything else that is not found is another server, or a wrong path,
        // and must not make every event of a topic unknown.
        (404, Some(said)) if (40_400..40_500).contains(&said.error_code) => Err(Failure::NotThere),
        (404, _) => Err(Failure::Away(format!("it answers 404, so the address may be wrong: {why}"))),
        (401 | 403, _) => Err(Failure::Refused(format!("it answers {status}; is the login right? {why}"))),
        (409 | 422, _) => Err(Failure::Refused(format!("it answers {status}: {why}"))),
        _ => Err(Failure::Away(format!("it answers {status}: {why}"))),
    }
}

/// A name as one part of a path.
fn path_segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (i, byte)| bits | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// A bounded memory by id, from which the oldest goes first.
struct Recent<T> {
    by_id: BTreeMap<u32, (u64, T)>,
    by_age: BTreeMap<u64, u32>,
    next_age: u64,
    max: usize,
}

impl<T> Recent<T> {
    const fn new(max: usize) -> Self {
        Recent { by_id: BTreeMap::new(), by_age: BTreeMap::new(), next_age: 0, max }
    }

    fn get(&self, id: u32) -> Option<&T> {
        self.by_id.get(&id).map(|(_, value)| value)
    }

    fn put(&mut self, id: u32, value: T) {
        if let Some((age, _)) = self.by_id.insert(id, (self.next_age, value)) {
            self.by_age.remove(&age);
        }
        self.by_age.insert(self.next_age, id);
        self.next_age += 1;
        if self.by_id.len() > self.max
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_id.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// A server that gives these answers, one a connection, and tells what it was asked.
    fn server(answers: Vec<(u16, String)>) -> (RegistryOptions, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = RegistryOptions::new(&format!("http://{}/", listener.local_addr().unwrap()));
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let mut request = String::new();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = n.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                    request.push_str(&line);
                }
                let mut content = vec![0; length];
                reader.read_exact(&mut content).unwrap();
                request.push_str(&String::from_utf8(content).unwrap());
                let head =
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                // Before the answer, so that whoever has it finds the request told.
                drop(tell.send(request));
                let mut stream = reader.into_inner();
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        (options, asked)
    }

    fn schema_answer(schema: &str) -> String {
        serde_json::json!({ "schema": schema }).to_string()
    }

    fn word(lookup: &Lookup) -> &'static str {
        match lookup {
            Lookup::Known(schema) if matches!(**schema, WriterSchema::Bundled) => "bundled",
            Lookup::Known(_) => "other",
            Lookup::Unknown => "unknown",
            Lookup::Unavailable => "unavailable",
        }
    }

    #[test]
    fn without_a_registry_only_the_ids_of_the_settings_are_known() {
        let mut registry = Registry::new(None, &[1, 9]);
        let seen = [1, 9, 2].map(|id| word(&registry.get(id, 0)));
        assert_eq!(seen, ["bundled", "bundled", "unknown"]);
    }

    #[test]
    fn a_schema_is_asked_for_once_and_an_unknown_id_again_after_its_time() {
        let other = r#"{"type":"record","name":"E","fields":[{"name":"event_id","type":"string"}]}"#;
        let (options, asked) = server(vec![
            (200, schema_answer(WriterSchema::BUNDLED_TEXT)),
            (200, schema_answer(other)),
            (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned()),
            (200, schema_answer(other)),
            (200, schema_answer(r#""string""#)),
            (200, r#"{"schema":"syntax = \"proto3\";","schemaType":"PROTOBUF"}"#.to_owned()),
        ]);
        let mut registry = Registry::new(Some(options), &[1]);
        let mut check = |id, now, expected| assert_eq!(word(&registry.get(id, now)), expected, "{id} at {now}");
        check(1, 0, "bundled");
        check(7, 0, "bundled");
        check(7, 1, "bundled");
        check(8, 0, "other");
        check(9, 0, "unknown");
        check(9, UNKNOWN_KEPT_MS - 1, "unknown");
        check(9, UNKNOWN_KEPT_MS, "other");
        check(10, 0, "unknown");
        check(11, 0, "unknown");
        let asked: Vec<String> = asked.try_iter().map(|r| r.lines().next().unwrap_or_default().to_owned()).collect();
        let expected = [7, 8, 9, 9, 10, 11].map(|id| format!("GET /schemas/ids/{id} HTTP/1.1"));
        assert_eq!(asked, expected);
    }

    #[test]
    fn a_registry_that_is_away_is_not_asked_at_every_record_and_makes_no_id_unknown() {
        let (options, asked) = server(vec![
            (503, String::new()),
            (404, "<html>not found</html>".to_owned()),
            (401, r#"{"error_code":401,"message":"who?"}"#.to_owned()),
            (200, "<html>a login page</html>".to_owned()),
            (200, schema_answer(WriterSchema::BUNDLED_TEXT)),
        ]);
        let mut registry = Registry::new(Some(options), &[]);
        let mut now = 0;
        for reason in ["503", "404, so the address may be wrong", "is the login right?", "no JSON"] {
            assert_eq!(word(&registry.get(7, now)), "unavailable");
            assert!(registry.status().last_error.as_ref().unwrap().contains(reason), "{:?}", registry.status());
            assert_eq!(word(&registry.get(7, now + AWAY_KEPT_MS - 1)), "unavailable");
            now += AWAY_KEPT_MS;
        }
        assert_eq!(word(&registry.get(7, now)), "bundled");
        assert_eq!(*registry.status(), RegistryStatus { calls: 5, failures: 4, last_error: None });
        assert_eq!(asked.try_iter().count(), 5);
    }

    #[test]
    fn nobody_who_listens_is_unavailable() {
        let mut registry = Registry::new(Some(RegistryOptions::new("http://127.0.0.1:1")), &[]);
        assert_eq!(word(&registry.get(7, 0)), "unavailable");
    }

    /// A clock that passes half a second at every look.
    #[derive(Default)]
    struct Passing(std::sync::atomic::AtomicU64);

    impl Clock for Passing {
        fn now(&self) -> Millis {
            self.elapsed().as_millis() as Millis
        }

        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.fetch_add(500, std::sync::atomic::Ordering::Relaxed))
        }
    }

    #[test]
    fn a_stage_waits_for_a_registry_that_is_away_for_a_moment() {
        let away = || (503, String::new());
        let (options, asked) = server(vec![away(), away(), (200, schema_answer(WriterSchema::BUNDLED_TEXT))]);
        let shared = SharedRegistry::new(Registry::new(Some(options), &[]), Arc::new(Passing::default()));
        assert!(shared.writer(7).is_some());
        assert!(shared.writer(7).is_some());
        assert_eq!(asked.try_iter().count(), 3);
    }

    #[test]
    fn a_registry_that_stays_away_stalls_a_stage_once_and_is_found_when_it_is_back() {
        let nobody = RegistryOptions::new("http://127.0.0.1:1");
        let clock = Arc::new(Passing::default());
        let shared = SharedRegistry::new(Registry::new(Some(nobody), &[1]), Arc::clone(&clock) as Arc<dyn Clock>);
        assert!(shared.writer(7).is_none());
        let after = clock.elapsed();
        assert!(after >= STALL_MAX);
        assert!(shared.writer(8).is_none());
        assert!(clock.elapsed() - after < STALL_MAX, "nobody waits again at once");
        assert!(shared.writer(1).is_some());
    }

    #[test]
    fn output_schemas_are_found_or_registered_and_a_refusal_says_why() {
        let mut answers = vec![
            (200, r#"{"subject":"p.verdicts-value","version":1,"id":11}"#.to_owned()),
            (404, r#"{"error_code":40401,"message":"Subject not found"}"#.to_owned()),
            (200, r#"{"id":12}"#.to_owned()),
            (200, r#"{"id":13}"#.to_owned()),
        ];
        answers.extend([14, 15, 16, 17].map(|id| (200, format!(r#"{{"id":{id}}}"#))));
        let (mut options, asked) = server(answers);
        options.login = Some(("user".to_owned(), "secret".to_owned()));
        let ids = register_outputs(&options, "p.").unwrap();
        let expected = SchemaIds {
            verdict: 11,
            blocklist_entry: 12,
            attack_status: 13,
            incident: 14,
            receipt: 15,
            incident_detail: 16,
            activity: 17,
        };
        assert_eq!(ids, expected);
        let asked: Vec<String> = asked.try_iter().collect();
        let paths: Vec<&str> = asked.iter().map(|r| r.split(' ').nth(1).unwrap_or_default()).collect();
        let expected = [
            "/subjects/p.verdicts-value",
            "/subjects/p.blocklist-value",
            "/subjects/p.blocklist-value/versions",
            "/subjects/p.attack-status-value",
            "/subjects/p.incidents-value",
            "/subjects/p.receipts-value",
            "/subjects/p.incident-details-value",
            "/subjects/p.activity-value",
        ];
        assert_eq!(paths, expected);
        assert!(asked.iter().all(|r| r.contains("authorization: Basic dXNlcjpzZWNyZXQ=")), "{asked:?}");

        let (options, _asked) = server(vec![
            (404, r#"{"error_code":40401,"message":"Subject not found"}"#.to_owned()),
            (409, r#"{"error_code":409,"message":"Schema being registered is incompatible"}"#.to_owned()),
        ]);
        let refused = register_outputs(&options, "").unwrap_err().to_string();
        assert!(refused.contains("verdicts-value") && refused.contains("incompatible"), "{refused}");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let mut recent = Recent::new(2);
        for id in [1, 2, 1, 3] {
            recent.put(id, id);
        }
        assert_eq!([1, 2, 3].map(|id| recent.get(id).copied()), [Some(1), None, Some(3)]);
        assert_eq!((recent.by_id.len(), recent.by_age.len()), (2, 2));
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_subject_is_one_part_of_a_path() {
        assert_eq!(path_segment("a/b c?-._~é"), "a%2Fb%20c%3F-._~%C3%A9");
    }
}
