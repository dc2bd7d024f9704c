//! Where things are: one small file, environment, flags; the later wins. What exists stands in `topology/` instead, and
//! how one run behaves in its command's flags.
//!
//! ```yaml
//! bootstrap: kafka-1:9092,kafka-2:9092
//! application_id: portcullis
//! state_dir: /var/lib/portcullis
//! hash_key_file: /etc/portcullis/hash-key
//! kafka: { security.protocol: SSL, ssl.ca.location: /etc/ssl/certs/kafka.pem }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::networks::NetworkPaths;
use crate::event::wire::Format;
use crate::log::ClientOptions;
use crate::topology::parse_duration;
use crate::window::HashKey;

/// Flags and environment that say where things are. Every one of them can stand in the settings file as well.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where things are")]
pub struct Places {
    /// Settings file (YAML); keys are these flags with `_`, and `kafka:` for librdkafka's properties
    #[arg(long, global = true, env = "PORTCULLIS_SETTINGS", value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Kafka brokers, host:port joined by commas [default: localhost:9092]
    #[arg(long, global = true, env = "PORTCULLIS_BOOTSTRAP", value_name = "HOST:PORT")]
    pub bootstrap: Option<String>,
    /// Names the consumer group and the internal topics [default: portcullis]
    #[arg(long, global = true, env = "PORTCULLIS_APPLICATION_ID", value_name = "NAME")]
    pub application_id: Option<String>,
    /// In front of every topic's name [default: none]
    #[arg(long, global = true, env = "PORTCULLIS_TOPIC_PREFIX", value_name = "TEXT")]
    pub topic_prefix: Option<String>,
    /// Schema registry with Confluent's API; without it the bundled schemas hold
    #[arg(long, global = true, env = "PORTCULLIS_REGISTRY", value_name = "URL")]
    pub registry: Option<String>,
    /// Folder with topics.yaml, playbooks/ and exemptions.yaml [default: ./topology, else the bundled one]
    #[arg(long, global = true, env = "PORTCULLIS_TOPOLOGY", value_name = "DIR")]
    pub topology: Option<PathBuf>,
    /// MMDB file of autonomous systems, countries or kinds of networks, as often as needed; of several the first that
    /// knows is believed [default: none]
    #[arg(long, global = true, value_name = "FILE")]
    pub mmdb: Vec<PathBuf>,
    /// List of hosting networks beside that of the topology folder, as often as needed: a range or AS64500 a line
    #[arg(long, global = true, value_name = "FILE")]
    pub hosting_list: Vec<PathBuf>,
    /// List of proxies, VPNs and the like, as often as needed
    #[arg(long, global = true, value_name = "FILE")]
    pub proxy_list: Vec<PathBuf>,
    /// A librdkafka property, as often as needed: -X security.protocol=SSL
    #[arg(short = 'X', global = true, value_name = "NAME=VALUE")]
    pub property: Vec<String>,
}

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub client: ClientOptions,
    pub application_id: String,
    pub topic_prefix: String,
    pub registry: Option<String>,
    /// `None`: the bundled one.
    pub topology: Option<PathBuf>,
    pub format: Format,
    /// Ids under which the bundled login-event schema is known without a registry.
    pub schema_ids: Vec<u32>,
    pub state_dir: PathBuf,
    pub hash_key: HashKey,
    /// The hash key follows from the application id, so it is no secret.
    pub hash_key_is_derived: bool,
    pub tenants: Vec<String>,
    pub input_tenant: Option<String>,
    pub listen: Option<String>,
    pub threads: usize,
    pub commit_interval_ms: u64,
    /// The same in a backlog.
    pub backlog_commit_interval_ms: u64,
    /// How long the tasks of an instance that is silent wait for it (classic protocol).
    pub session_timeout_ms: u64,
    pub group_protocol: GroupProtocolName,
    pub leave_on_stop: bool,
    /// Playbooks judge in shadow until their windows were kept for their whole length.
    pub warm_up: bool,
    /// By a flag only: it is decided once, about one gap.
    pub skip_lost_input: bool,
    pub cache_mib: usize,
    pub networks: NetworkPaths,
}

/// Who hands out the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocolName {
    #[default]
    Classic,
    /// KIP-848: the broker.
    Consumer,
}

/// The file. Every key is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    bootstrap: Option<String>,
    application_id: Option<String>,
    topic_prefix: Option<String>,
    registry: Option<String>,
    topology: Option<PathBuf>,
    format: Option<Format>,
    schema_ids: Option<Vec<u32>>,
    state_dir: Option<PathBuf>,
    hash_key: Option<Secret>,
    hash_key_file: Option<PathBuf>,
    tenants: Option<Vec<String>>,
    input_tenant: Option<String>,
    listen: Option<String>,
    threads: Option<usize>,
    commit_interval: Option<String>,
    backlog_commit_interval: Option<String>,
    session_timeout: Option<String>,
    group_protocol: Option<GroupProtocolName>,
    leave_on_stop: Option<bool>,
    warm_up: Option<bool>,
    cache_mib: Option<usize>,
    mmdb: Option<Vec<PathBuf>>,
    hosting_lists: Option<Vec<PathBuf>>,
    proxy_lists: Option<Vec<PathBuf>>,
    kafka: Option<BTreeMap<String, Scalar>>,
}

/// Names of the file, for "did you mean".
const NAMES: &[&str] = &[
    "bootstrap",
    "application_id",
    "topic_prefix",
    "registry",
    "topology",
    "format",
    "schema_ids",
    "state_dir",
    "hash_key",
    "hash_key_file",
    "tenants",
    "input_tenant",
    "listen",
    "threads",
    "commit_interval",
    "backlog_commit_interval",
    "session_timeout",
    "group_protocol",
    "leave_on_stop",
    "warm_up",
    "cache_mib",
    "mmdb",
    "hosting_lists",
    "proxy_lists",
    "kafka",
];
/// Environment variables that are no settings of the program.
const OTHER_VARIABLES: &[&str] = &["PORTCULLIS_CACHE", "PORTCULLIS_KAFKA_LIBS", "PORTCULLIS_BLESS"];
/// Those that are.
const VARIABLES: &[&str] = &[
    "PORTCULLIS_SETTINGS",
    "PORTCULLIS_BOOTSTRAP",
    "PORTCULLIS_APPLICATION_ID",
    "PORTCULLIS_TOPIC_PREFIX",
    "PORTCULLIS_REGISTRY",
    "PORTCULLIS_TOPOLOGY",
    "PORTCULLIS_STATE_DIR",
    "PORTCULLIS_LISTEN",
    "PORTCULLIS_LOG",
    "PORTCULLIS_LOG_FORMAT",
    "PORTCULLIS_THREADS",
];
/// Most threads of one process.
pub const THREADS_MAX: usize = 64;
/// Most files of networks of a kind.
pub const NETWORK_FILES_MAX: usize = 16;

/// A text that no log shows.
#[derive(Clone, Deserialize)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A value of librdkafka: people write `true` and `10` without quotes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Number(i64),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Number(value) => write!(f, "{value}"),
            Scalar::Text(value) => f.write_str(value),
        }
    }
}

/// What a command's own flags say over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub state_dir: Option<PathBuf>,
    pub listen: Option<String>,
    pub threads: Option<usize>,
    /// Said by a flag, which has no opposite.
    pub leave_on_stop: bool,
    pub no_warm_up: bool,
    pub skip_lost_input: bool,
}

impl Settings {
    /// Reads the file, then what stands over it.
    ///
    /// # Errors
    /// What is wrong, in which file and line, and what to write instead.
    pub fn load(places: &Places, over: Overrides) -> Result<Settings> {
        check_environment()?;
        let file = match &places.settings {
            Some(path) => read_file(path)?,
            None => SettingsFile::default(),
        };
        let application_id =
            places.application_id.clone().or(file.application_id).unwrap_or_else(|| "portcullis".to_owned());
        check_name("application_id", &application_id)?;
        let topic_prefix = places.topic_prefix.clone().or(file.topic_prefix).unwrap_or_default();
        if !topic_prefix.is_empty() {
            check_name("topic_prefix", &topic_prefix)?;
        }
        let secret = secret(file.hash_key, file.hash_key_file.as_deref())?;
        let hash_key_is_derived = secret.is_none();
        let commit_interval_ms = interval("commit_interval", file.commit_interval.as_deref())?.unwrap_or(100);
        let in_a_backlog = interval("backlog_commit_interval", file.backlog_commit_interval.as_deref())?;
        let backlog_commit_interval_ms = in_a_backlog.unwrap_or_else(|| (commit_interval_ms * 4).min(5_000));
        let group_protocol = file.group_protocol.unwrap_or_default();
        if file.session_timeout.is_some() && group_protocol == GroupProtocolName::Consumer {
            bail!(
                "session_timeout: with group_protocol: consumer the broker says how long a session is (its \
                 group.consumer.session.timeout.ms); take it out"
            );
        }
        let session_timeout = file.session_timeout.unwrap_or_else(|| "10s".to_owned());
        let session_timeout_ms = duration_within("session_timeout", &session_timeout, ("1s", "5m"))?;
        let threads = over.threads.or(file.threads).unwrap_or(1);
        if !(1..=THREADS_MAX).contains(&threads) {
            bail!("threads: {threads} is not from 1 to {THREADS_MAX}");
        }
        let mut properties: BTreeMap<String, String> =
            file.kafka.unwrap_or_default().into_iter().map(|(name, value)| (name, value.to_string())).collect();
        for property in &places.property {
            let (name, value) = property.split_once('=').ok_or_else(|| anyhow!("-X {property}: write NAME=VALUE"))?;
            properties.insert(name.to_owned(), value.to_owned());
        }
        let registry = places.registry.clone().or(file.registry).filter(|url| !url.is_empty());
        let format = file.format.unwrap_or(if registry.is_some() { Format::Avro } else { Format::Json });
        Ok(Settings {
            client: ClientOptions {
                bootstrap: places.bootstrap.clone().or(file.bootstrap).unwrap_or_else(|| "localhost:9092".to_owned()),
                properties,
            },
            hash_key: HashKey::new(secret.unwrap_or_else(|| derive(application_id.as_bytes()))),
            hash_key_is_derived,
            application_id,
            topic_prefix,
            registry,
            topology: places.topology.clone().or(file.topology).or_else(default_topology),
            format,
            schema_ids: file.schema_ids.unwrap_or_else(|| vec![1]),
            state_dir: over.state_dir.or(file.state_dir).unwrap_or_else(|| PathBuf::from("portcullis-state")),
            tenants: file.tenants.unwrap_or_default(),
            input_tenant: file.input_tenant,
            listen: over.listen.or(file.listen),
            threads,
            commit_interval_ms,
            backlog_commit_interval_ms,
            session_timeout_ms,
            group_protocol,
            warm_up: !over.no_warm_up && file.warm_up.unwrap_or(true),
            leave_on_stop: over.leave_on_stop || file.leave_on_stop.unwrap_or(false),
            skip_lost_input: over.skip_lost_input,
            cache_mib: file.cache_mib.unwrap_or(512).max(8),
            networks: NetworkPaths {
                mmdb: files("mmdb", &places.mmdb, file.mmdb)?,
                hosting_lists: files("hosting_lists", &places.hosting_list, file.hosting_lists)?,
                proxy_lists: files("proxy_lists", &places.proxy_list, file.proxy_lists)?,
            },
        })
    }
}

/// What the flags name, or else the settings file.
fn files(setting: &str, flags: &[PathBuf], file: Option<Vec<PathBuf>>) -> Result<Vec<PathBuf>> {
    let paths = if flags.is_empty() { file.unwrap_or_default() } else { flags.to_vec() };
    if paths.len() > NETWORK_FILES_MAX {
        bail!("{setting}: {} files; at most {NETWORK_FILES_MAX}", paths.len());
    }
    Ok(paths)
}

/// Milliseconds of a duration that lies within two others.
fn duration_within(setting: &str, text: &str, (least, most): (&str, &str)) -> Result<u64> {
    let within = parse_duration(least)..=parse_duration(most);
    let ms = Some(parse_duration(text)).filter(|ms| ms.is_some() && within.contains(ms)).flatten();
    ms.and_then(|ms| u64::try_from(ms).ok())
        .ok_or_else(|| anyhow!("{setting}: `{text}` is no duration from {least} to {most}"))
}

/// A time between commits, in milliseconds.
fn interval(name: &str, text: Option<&str>) -> Result<Option<u64>> {
    text.map(|text| duration_within(name, text, ("1ms", "5s"))).transpose()
}

fn default_topology() -> Option<PathBuf> {
    let here = PathBuf::from("topology");
    here.join("topics.yaml").exists().then_some(here)
}

fn read_file(path: &Path) -> Result<SettingsFile> {
    let text = std::fs::read_to_string(path).with_context(|| format!("settings file {}", path.display()))?;
    parse_file(&text).map_err(|what| anyhow!("{}: {what}", path.display()))
}

fn parse_file(text: &str) -> Result<SettingsFile, String> {
    let parsed: Result<Option<SettingsFile>, _> = serde_saphyr::from_str(text);
    parsed.map(Option::unwrap_or_default).map_err(|error| with_suggestion(&error.to_string(), NAMES))
}

/// Adds what was probably meant to a message about an unknown key.
#[must_use]
pub fn with_suggestion(message: &str, names: &[&str]) -> String {
    let unknown =
        message.split_once("unknown field `").and_then(|(_, rest)| rest.split_once('`')).map(|(name, _)| name);
    match unknown.and_then(|name| nearest(name, names)) {
        Some(name) => format!("{message}\ndid you mean `{name}`?"),
        None => message.to_owned(),
    }
}

/// The name that is most like a mistyped one, if any is like it.
#[must_use]
pub fn nearest<'a>(typed: &str, names: &[&'a str]) -> Option<&'a str> {
    let scored = names.iter().map(|name| (strsim::jaro_winkler(typed, name), *name));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[expect(clippy::disallowed_methods, reason = "settings are read here and nowhere else")]
fn check_environment() -> Result<()> {
    for (name, _) in std::env::vars() {
        let is_ours = name.starts_with("PORTCULLIS_") && !OTHER_VARIABLES.contains(&name.as_str());
        if is_ours && !VARIABLES.contains(&name.as_str()) {
            let meant = nearest(&name, VARIABLES).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            bail!("environment variable {name} is no setting{meant}");
        }
    }
    Ok(())
}

fn check_name(setting: &str, name: &str) -> Result<()> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 100 || !name.chars().all(is_fine) {
        bail!("{setting}: `{name}` cannot be part of a topic's name; use letters, digits, `.`, `_`, `-`");
    }
    Ok(())
}

fn secret(inline: Option<Secret>, file: Option<&Path>) -> Result<Option<[u8; 16]>> {
    let text = match (inline, file) {
        (Some(_), Some(_)) => bail!("hash_key and hash_key_file are both set; keep one"),
        (Some(Secret(text)), None) => text,
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("hash_key_file {}", path.display()))?
        }
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    if text.len() < 16 {
        bail!("hash_key: {} characters are too few to be a secret; make one with `openssl rand -hex 32`", text.len());
    }
    Ok(Some(derive(text.as_bytes())))
}

/// 16 bytes from any text.
fn derive(text: &[u8]) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&Sha256::new().chain_update(b"portcullis hash key").chain_update(text).finalize()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_told_with_its_line_and_what_was_meant() {
        let error = parse_file("bootstrap: a:1\nstat_dir: x\n").unwrap_err();
        assert!(
            error.contains("stat_dir") && error.contains('2') && error.contains("did you mean `state_dir`?"),
            "{error}"
        );
        assert!(parse_file("").is_ok());
        assert!(parse_file("threads: many\n").unwrap_err().contains("1"));
    }

    #[test]
    fn properties_of_librdkafka_pass_through_as_they_are() {
        let file = parse_file("kafka: {security.protocol: SSL, socket.timeout.ms: 500, log_cache: true}\n").unwrap();
        let texts: Vec<String> = file.kafka.unwrap().values().map(ToString::to_string).collect();
        assert_eq!(texts, ["true", "SSL", "500"]);
    }

    #[test]
    fn durations_have_their_limits() {
        let within = |text| duration_within("session_timeout", text, ("1s", "5m"));
        assert_eq!([within("1s").unwrap(), within("5m").unwrap(), within("250s").unwrap()], [1_000, 300_000, 250_000]);
        for text in ["999ms", "6m", "10", "soon", ""] {
            let error = within(text).unwrap_err().to_string();
            assert!(error.contains("session_timeout") && error.contains("from 1s to 5m"), "{error}");
        }
    }

    #[test]
    fn a_session_is_the_brokers_with_the_consumer_protocol() {
        let load = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let places = Places { settings: Some(file.path().to_owned()), ..Places::default() };
            Settings::load(&places, Overrides::default())
        };
        assert_eq!(load("group_protocol: consumer\n").unwrap().group_protocol, GroupProtocolName::Consumer);
        let both = load("group_protocol: consumer\nsession_timeout: 20s\n").unwrap_err().to_string();
        assert!(both.contains("group.consumer.session.timeout.ms"), "{both}");
        let mistyped = format!("{:#}", load("group_protocol: consume\n").unwrap_err());
        assert!(mistyped.contains("classic"), "{mistyped}");
    }

    #[test]
    fn a_name_far_from_all_is_not_guessed() {
        assert_eq!(nearest("zzz", NAMES), None);
        assert_eq!(nearest("bootstrp", NAMES), Some("bootstrap"));
    }
}
