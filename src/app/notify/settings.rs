//! The file of `portcullis notify`: who is told, by which way, and of what.
//!
//! ```yaml
//! console: https://portcullis.example.com
//! destinations:
//!   - name: security
//!     slack: { url_file: /etc/portcullis/slack-url }
//!     severity: HIGH
//!   - name: soc
//!     webhook: { url: https://soc.example.com/portcullis, secret_file: /etc/portcullis/soc-secret }
//!   - name: on-call
//!     mail: { host: smtp.example.com, user: portcullis, password_file: /etc/portcullis/smtp-password,
//!             from: Portcullis <portcullis@example.com>, to: [on-call@example.com] }
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use crate::app::settings::with_suggestion;
use crate::event::{Millis, Severity};
use crate::notify::news::DIGEST_MS;
use crate::notify::{BURST, Channel, Http, HttpOptions, Keys, MailOptions, Mailer, REFILL_MS, Security, Wish};
use crate::topology::exemptions::is_tenant;
use crate::topology::parse_duration;

/// Most destinations of one process; each has a thread.
pub const DESTINATIONS_MAX: usize = 64;
/// Longest name of one, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest delivery, unless the file says otherwise.
const TIMEOUT: &str = "10s";
const TIMEOUT_RANGE: (&str, &str) = ("100ms", "1m");
const DIGEST_RANGE: (&str, &str) = ("1m", "1d");
const EVERY_RANGE: (&str, &str) = ("1s", "1h");
const BURST_MAX: u32 = 1_000;

/// What the file says, checked.
#[derive(Debug)]
pub struct NotifySettings {
    /// A folder of templates that stand above the shipped ones.
    pub templates: Option<PathBuf>,
    pub console: Option<String>,
    pub destinations: Vec<(Wish, Channel)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotifyFile {
    templates: Option<PathBuf>,
    console: Option<String>,
    destinations: Vec<DestinationFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationFile {
    name: String,
    slack: Option<SlackFile>,
    webhook: Option<WebhookFile>,
    mail: Option<MailFile>,
    tenants: Option<Vec<String>>,
    severity: Option<Severity>,
    digest: Option<String>,
    at_most: Option<AtMostFile>,
    timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AtMostFile {
    messages: Option<u32>,
    then_every: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SlackFile {
    url: Option<String>,
    url_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    allow_http: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookFile {
    url: Option<String>,
    url_file: Option<PathBuf>,
    secret_file: PathBuf,
    ca_file: Option<PathBuf>,
    #[serde(default)]
    allow_http: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MailFile {
    host: String,
    port: Option<u16>,
    #[serde(default)]
    tls: TlsName,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    from: String,
    to: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TlsName {
    #[default]
    Starttls,
    Implicit,
    None,
}

// Addresses of webhooks are secrets.
impl std::fmt::Debug for SlackFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlackFile").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WebhookFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookFile").finish_non_exhaustive()
    }
}

/// Names of the file, for "did you mean".
const NAMES: &[&str] = &[
    "templates", "console", "destinations", "name", "slack", "webhook", "mail", "tenants", "severity", "digest",
    "at_most", "messages", "then_every", "timeout", "url", "url_file", "secret_file", "ca_file", "allow_http", "host",
    "port", "tls", "user", "password_file", "from", "to",
];

impl NotifySettings {
    /// Reads the file, and the files that it names.
    ///
    /// # Errors
    /// What is wrong, of which destination, and what to write instead.
    pub fn load(path: &Path) -> Result<NotifySettings> {
        let text = std::fs::read_to_string(path).with_context(|| format!("the file of --config {}", path.display()))?;
        NotifySettings::parse(&text).map_err(|error| anyhow!("{}: {error:#}", path.display()))
    }

    fn parse(text: &str) -> Result<NotifySettings> {
        let file: NotifyFile =
            serde_saphyr::from_str(text).map_err(|error| anyhow!(with_suggestion(&error.to_string(), NAMES)))?;
        if file.destinations.is_empty() || file.destinations.len() > DESTINATIONS_MAX {
            bail!("destinations: name at least one, and at most {DESTINATIONS_MAX}");
        }
        let console = file.console.map(console).transpose()?;
        let mut names = BTreeSet::new();
        let mut destinations = Vec::new();
        for of in file.destinations {
            let name = of.name.clone();
            if !names.insert(name.clone()) {
                bail!("destinations: there are two with the name `{name}`");
            }
            destinations
                .push(destination(of, console.as_deref()).map_err(|error| anyhow!("destination `{name}`: {error:#}"))?);
        }
        Ok(NotifySettings { templates: file.templates, console, destinations })
    }
}

fn destination(file: DestinationFile, console: Option<&str>) -> Result<(Wish, Channel)> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_name = file.name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && file.name.len() <= NAME_BYTES_MAX
        && file.name.chars().all(is_plain);
    if !is_name {
        bail!("name: a letter or digit, then letters, digits, `.`, `_` and `-`, at most {NAME_BYTES_MAX}");
    }
    for tenant in file.tenants.iter().flatten() {
        if !is_tenant(tenant) {
            bail!("tenants: `{tenant}` is no name of a tenant");
        }
    }
    let digest_ms = match file.digest.as_deref() {
        Some("never") => None,
        Some(text) => Some(within("digest", text, DIGEST_RANGE).context("or write never")?),
        None => Some(DIGEST_MS),
    };
    let at_most = file.at_most.as_ref();
    let burst = at_most.and_then(|at_most| at_most.messages).unwrap_or(BURST);
    if !(1..=BURST_MAX).contains(&burst) {
        bail!("at_most: messages: {burst} is not from 1 to {BURST_MAX}");
    }
    let every = at_most.and_then(|at_most| at_most.then_every.as_deref());
    let refill_ms = every.map_or(Ok(REFILL_MS), |text| within("at_most: then_every", text, EVERY_RANGE))?;
    let timeout = within("timeout", file.timeout.as_deref().unwrap_or(TIMEOUT), TIMEOUT_RANGE)?;
    let timeout = Duration::from_millis(timeout.unsigned_abs());
    let channel = channel(&file, timeout)?;
    let wish = Wish {
        destination: file.name,
        tenants: file.tenants,
        severity: file.severity.unwrap_or(Severity::Info),
        digest_ms,
        burst,
        refill_ms,
        console: console.map(str::to_owned),
    };
    Ok((wish, channel))
}

fn channel(file: &DestinationFile, timeout: Duration) -> Result<Channel> {
    Ok(match (&file.slack, &file.webhook, &file.mail) {
        (Some(slack), None, None) => {
            Channel::Slack(http(&slack.url, &slack.url_file, &slack.ca_file, slack.allow_http, timeout)?)
        }
        (None, Some(webhook), None) => {
            let keys = Keys::parse(&text_of("secret_file", &webhook.secret_file)?)
                .map_err(|what| anyhow!("secret_file {}: {what}", webhook.secret_file.display()))?;
            Channel::Webhook(
                http(&webhook.url, &webhook.url_file, &webhook.ca_file, webhook.allow_http, timeout)?,
                keys,
            )
        }
        (None, None, Some(mail)) => Channel::Mail(mailer(mail, timeout)?),
        _ => bail!("write one of slack, webhook and mail"),
    })
}

fn http(
    url: &Option<String>,
    url_file: &Option<PathBuf>,
    ca_file: &Option<PathBuf>,
    allow_http: bool,
    timeout: Duration,
) -> Result<Http> {
    let url = match (url, url_file) {
        (Some(url), None) => url.clone(),
        (None, Some(file)) => text_of("url_file", file)?.trim().to_owned(),
        _ => bail!("write one of url and url_file"),
    };
    let ca = ca_file.as_deref().map(|file| bytes_of("ca_file", file)).transpose()?;
    Http::new(HttpOptions { url, ca, timeout, allow_http }).map_err(anyhow::Error::msg)
}

fn mailer(file: &MailFile, timeout: Duration) -> Result<Mailer> {
    let login = match (&file.user, &file.password_file) {
        (Some(user), Some(password)) => {
            Some((user.clone(), text_of("password_file", password)?.trim_end_matches(['\r', '\n']).to_owned()))
        }
        (None, None) => None,
        _ => bail!("mail: user and password_file go together"),
    };
    let options = MailOptions {
        host: file.host.clone(),
        port: file.port,
        security: match file.tls {
            TlsName::Starttls => Security::StartTls,
            TlsName::Implicit => Security::Implicit,
            TlsName::None => Security::Clear,
        },
        login,
        ca: file.ca_file.as_deref().map(|file| bytes_of("ca_file", file)).transpose()?,
        from: file.from.clone(),
        to: file.to.clone(),
        timeout,
    };
    Mailer::new(&options).map_err(|what| anyhow!("mail: {what}"))
}

/// An address that paths can be written behind.
fn console(text: String) -> Result<String> {
    let is_address = (text.starts_with("https://") || text.starts_with("http://"))
        && text.chars().all(|c| c.is_ascii_graphic() && !"<>\"'|`\\?#".contains(c));
    if !is_address {
        bail!("console: write its address, as https://portcullis.example.com");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn within(setting: &str, text: &str, (least, most): (&str, &str)) -> Result<Millis> {
    let within = parse_duration(least)..=parse_duration(most);
    Some(parse_duration(text))
        .filter(|ms| ms.is_some() && within.contains(ms))
        .flatten()
        .ok_or_else(|| anyhow!("{setting}: `{text}` is no duration from {least} to {most}"))
}

fn bytes_of(setting: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{setting} {}", path.display()))
}

fn text_of(setting: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{setting} {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", NotifySettings::parse(text).unwrap_err())
    }

    #[test]
    fn what_is_not_said_has_a_sensible_default() {
        let settings = NotifySettings::parse(
            "console: https://p.example.com/\ndestinations: [{name: a, slack: {url: 'https://hooks.example.com/T/B/x'}}]\n",
        )
        .unwrap();
        let [(wish, channel)] = &settings.destinations[..] else { panic!() };
        assert_eq!((wish.burst, wish.refill_ms, wish.digest_ms), (BURST, REFILL_MS, Some(DIGEST_MS)));
        assert_eq!((wish.severity, wish.console.as_deref()), (Severity::Info, Some("https://p.example.com")));
        assert_eq!(channel.kind(), "slack");
        assert!(!format!("{channel:?}").contains("T/B/x"), "{channel:?}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_destination_and_what_to_write() {
        let of = |rest: &str| error(&format!("destinations: [{{name: a, {rest}}}]\n"));
        let slack = "slack: {url: 'https://h.example.com/x'}";
        for (error, told) in [
            (error("destinations: []\n"), "name at least one"),
            (error("destination: []\n"), "did you mean `destinations`?"),
            (of("slak: {url: 'https://h/x'}"), "did you mean `slack`?"),
            (of("tenants: [shop]"), "destination `a`: write one of slack, webhook and mail"),
            (of(&format!("{slack}, mail: {{host: h, from: a@b.c, to: [a@b.c]}}")), "write one of"),
            (of("slack: {}"), "write one of url and url_file"),
            (of("slack: {url: 'http://h.example.com/x'}"), "https://, or allow_http: true"),
            (of("slack: {url: 'ftp://h.example.com/x'}"), "write it with https://"),
            (of("slack: {url: 'https:///x'}"), "url: "),
            (of("slack: {url_file: /nowhere/x}"), "url_file /nowhere/x"),
            (of(&format!("{slack}, severity: SEVERE")), "SEVERE"),
            (of(&format!("{slack}, digest: soon")), "digest: `soon` is no duration from 1m to 1d"),
            (of(&format!("{slack}, at_most: {{messages: 0}}")), "0 is not from 1 to 1000"),
            (of(&format!("{slack}, at_most: {{then_every: 1ms}}")), "from 1s to 1h"),
            (of(&format!("{slack}, timeout: 1h")), "timeout: `1h`"),
            (of(&format!("{slack}, tenants: [Shop]")), "`Shop` is no name of a tenant"),
            (of("mail: {host: h, from: nobody, to: [a@b.c]}"), "from: `nobody` is no address"),
            (of("mail: {host: h, from: a@b.c, to: []}"), "to: name at least one"),
            (of("mail: {host: h, from: a@b.c, to: [a@b.c], user: u}"), "user and password_file go together"),
            (of("webhook: {url: 'https://h.example.com/x', secret_file: /nowhere/x}"), "secret_file /nowhere/x"),
            (error(&format!("console: here\ndestinations: [{{name: a, {slack}}}]\n")), "console: write its address"),
            (error(&format!("destinations: [{{name: ../a, {slack}}}]\n")), "name: a letter or digit"),
            (error(&format!("destinations: [{{name: a, {slack}}}, {{name: a, {slack}}}]\n")), "two with the name `a`"),
        ] {
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn no_password_goes_in_clear_to_another_machine() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a password\n").unwrap();
        let of = |host: &str| {
            NotifySettings::parse(&format!(
                "destinations: [{{name: a, mail: {{host: {host}, tls: none, user: u, password_file: {}, from: a@b.c, to: [a@b.c]}}}}]\n",
                file.path().display()
            ))
        };
        assert!(of("localhost").is_ok());
        let error = format!("{:#}", of("smtp.example.com").unwrap_err());
        assert!(error.contains("in clear; write starttls or implicit"), "{error}");
    }
}
