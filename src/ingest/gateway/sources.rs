//! Who may send events: the file of sources.
//!
//! ```yaml
//! sources:
//!   - name: shop-web
//!     tenants: [shop]                  # "*" is any
//!     bearer_sha256: 9f86d081884c…     # printf %s "$TOKEN" | sha256sum
//!   - name: billing
//!     tenants: [shop, shop-eu]
//!     hmac_secret_file: billing.secret
//!     events_per_second: 500
//!     routes: [events, keycloak]       # left out: all
//! ```
//!
//! Of a token only its hash is kept; a signature can be checked with the secret itself alone, so that one lies in a file
//! of its own. Of either there may be two in a list, while one follows the other.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::rate::Bucket;
use super::signature::{Signature, digest};
use crate::event::Millis;

/// Most sources of one gateway.
pub const SOURCES_MAX: usize = 1_000;
/// Most tokens or secrets of one source.
const SECRETS_MAX: usize = 2;
/// Shortest secret for signatures, in bytes.
const SECRET_BYTES_MIN: usize = 32;
const NAME_BYTES_MAX: usize = 63;
/// Most events a second that a source may be given.
const RATE_MAX: u32 = 1_000_000;

/// Everybody who may send.
#[derive(Debug)]
pub struct Sources {
    all: Vec<Source>,
}

/// One who may send, for whom, how and how much.
pub struct Source {
    name: String,
    /// Empty: any.
    tenants: Vec<String>,
    /// Empty: all.
    routes: Vec<String>,
    bearers: Vec<[u8; 32]>,
    secrets: Vec<Vec<u8>>,
    bucket: Option<Mutex<Bucket>>,
}

impl std::fmt::Debug for Source {
    /// Without hashes and secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).field("tenants", &self.tenants).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    tenants: Vec<String>,
    bearer_sha256: Option<OneOrMore>,
    hmac_secret_file: Option<OneOrMore>,
    events_per_second: Option<u32>,
    routes: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn texts(of: Option<Self>) -> Vec<String> {
        match of {
            None => Vec::new(),
            Some(OneOrMore::One(text)) => vec![text],
            Some(OneOrMore::More(texts)) => texts,
        }
    }
}

impl Sources {
    /// Reads the file; `read` gives the content of a file that it names, and `routes` are those that there are.
    ///
    /// # Errors
    /// What is wrong, with the source's name; no hash or secret is repeated.
    pub fn parse(
        text: &str,
        routes: &[String],
        read: impl Fn(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<Sources, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|e| {
            // What it shows of the text around may be a hash.
            let what = e.to_string();
            what.lines().next().unwrap_or_default().to_owned()
        })?;
        if file.sources.is_empty() || file.sources.len() > SOURCES_MAX {
            return Err(format!("`sources` has {} entries; 1 to {SOURCES_MAX} are right", file.sources.len()));
        }
        let mut all: Vec<Source> = Vec::new();
        for entry in file.sources {
            let name: String = entry.name.chars().take(NAME_BYTES_MAX + 1).collect();
            let source = entry.checked(routes, &read).map_err(|what| format!("source `{name}`: {what}"))?;
            if all.iter().any(|other| other.name == source.name) {
                return Err(format!("source `{name}`: this name stands above already"));
            }
            if all.iter().any(|other| other.bearers.iter().any(|bearer| source.bearers.contains(bearer))) {
                return Err(format!("source `{name}`: another one has the same token; give each its own"));
            }
            all.push(source);
        }
        Ok(Sources { all })
    }

    /// Whose token this is. How long it takes says nothing about the tokens that there are.
    #[must_use]
    pub fn by_token(&self, presented: &[u8]) -> Option<&Source> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let mut found = None;
        for source in &self.all {
            for bearer in &source.bearers {
                let differs = bearer.iter().zip(digest).fold(0, |all, (a, b)| all | (a ^ b));
                if differs == 0 {
                    found = Some(source);
                }
            }
        }
        found
    }

    /// The source of this name, if it signs.
    #[must_use]
    pub fn that_signs(&self, name: &str) -> Option<&Source> {
        self.all.iter().find(|source| source.name == name && !source.secrets.is_empty())
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.all.len()
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    #[cfg(test)]
    pub(super) fn only(&self) -> Option<&Source> {
        self.all.first()
    }
}

impl Entry {
    fn checked(
        self,
        known_routes: &[String],
        read: &impl Fn(&str) -> std::io::Result<Vec<u8>>,
    ) -> Result<Source, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !self.name.chars().all(is_plain) {
            return Err("`name` has 1 to 63 letters, digits, `-`, `_`, `.`".to_owned());
        }
        let any = self.tenants.iter().any(|tenant| tenant == "*");
        if self.tenants.is_empty() || (any && self.tenants.len() > 1) {
            return Err("`tenants` names those it may speak for, or is [\"*\"] for any".to_owned());
        }
        if let Some(wrong) = self.tenants.iter().find(|tenant| !any && !crate::topology::exemptions::is_tenant(tenant))
        {
            let shown: String = wrong.chars().take(64).collect();
            return Err(format!("`tenants`: `{shown}` does not match [a-z0-9][a-z0-9._-]{{0,62}}"));
        }
        let bearers: Option<Vec<[u8; 32]>> =
            OneOrMore::texts(self.bearer_sha256).iter().map(|text| digest(text)).collect();
        let Some(bearers) = bearers else {
            return Err("`bearer_sha256` is not 64 hexadecimal digits: printf %s \"$TOKEN\" | sha256sum".to_owned());
        };
        let mut secrets = Vec::new();
        for path in OneOrMore::texts(self.hmac_secret_file) {
            let secret = read(&path).map_err(|e| format!("`hmac_secret_file` {path}: {e}"))?;
            let secret = secret.trim_ascii().to_vec();
            if secret.len() < SECRET_BYTES_MIN {
                return Err(format!(
                    "`hmac_secret_file` {path}: a secret has at least {SECRET_BYTES_MIN} bytes; make one with `openssl rand -hex 32`"
                ));
            }
            secrets.push(secret);
        }
        if bearers.is_empty() == secrets.is_empty() {
            return Err("give it `bearer_sha256` or `hmac_secret_file`, and not both".to_owned());
        }
        if bearers.len().max(secrets.len()) > SECRETS_MAX {
            return Err(format!("it has more than {SECRETS_MAX} tokens or secrets at a time"));
        }
        let bucket = match self.events_per_second {
            None => None,
            Some(rate @ 1..=RATE_MAX) => Some(Mutex::new(Bucket::new(rate))),
            Some(_) => return Err(format!("`events_per_second` is a number from 1 to {RATE_MAX}")),
        };
        let routes = self.routes.unwrap_or_default();
        if let Some(wrong) = routes.iter().find(|route| !known_routes.contains(route)) {
            let shown: String = wrong.chars().take(64).collect();
            return Err(format!("`routes`: there is no `{shown}`; there are {}", known_routes.join(", ")));
        }
        let tenants = if any { Vec::new() } else { self.tenants };
        Ok(Source { name: self.name, tenants, routes, bearers, secrets, bucket })
    }
}

impl Source {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Those it may speak for; empty: any.
    #[must_use]
    pub fn tenants(&self) -> &[String] {
        &self.tenants
    }

    /// Whose events those are that name no tenant: the only tenant it may speak for.
    #[must_use]
    pub fn own_tenant(&self) -> Option<&str> {
        match self.tenants.as_slice() {
            [one] => Some(one),
            [] | [_, _, ..] => None,
        }
    }

    #[must_use]
    pub fn may_speak_for(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|own| own == tenant)
    }

    #[must_use]
    pub fn may_use(&self, route: &str) -> bool {
        self.routes.is_empty() || self.routes.iter().any(|own| own == route)
    }

    /// Takes so many events of its rate, or says after how many seconds they may come.
    pub(super) fn take(&self, events: usize, now: Millis) -> Result<(), u64> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        bucket.lock().unwrap_or_else(PoisonError::into_inner).take(events, now)
    }

    /// Whether it signed this body about now.
    pub(super) fn has_signed(&self, signature: &Signature, body: &[u8], now: Millis) -> bool {
        signature.is_fresh(now) && signature.is_of(&self.secrets, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Vec<String> {
        ["events", "okta"].map(str::to_owned).to_vec()
    }

    fn parse(text: &str) -> Result<Sources, String> {
        Sources::parse(text, &routes(), |path| match path {
            "long" => Ok(b"0123456789abcdef0123456789abcdef\n".to_vec()),
            "short" => Ok(b"hunter2".to_vec()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        })
    }

    /// Of `token-a` and `token-b`.
    fn hash(token: &str) -> String {
        Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_token_is_found_by_its_hash_and_nothing_else_is() {
        let text = format!(
            "sources:\n- {{name: web, tenants: [shop], bearer_sha256: [{}, {}]}}\n\
             - {{name: all, tenants: ['*'], bearer_sha256: {}, routes: [okta]}}\n\
             - {{name: signs, tenants: [a, b], hmac_secret_file: long, events_per_second: 5}}",
            hash("token-a"),
            hash("token-b"),
            hash("token-c"),
        );
        let sources = parse(&text).unwrap();
        let name = |token: &str| sources.by_token(token.as_bytes()).map(Source::name);
        assert_eq!(["token-a", "token-b", "token-c"].map(name), [Some("web"), Some("web"), Some("all")]);
        for wrong in ["", "token", "token-a ", "TOKEN-A", &hash("token-a")] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        let web = sources.by_token(b"token-a").unwrap();
        assert!(web.may_speak_for("shop") && !web.may_speak_for("shop2") && web.may_use("events"));
        assert_eq!(web.own_tenant(), Some("shop"));
        let all = sources.by_token(b"token-c").unwrap();
        assert!(all.may_speak_for("whoever") && !all.may_use("events") && all.may_use("okta"));
        assert_eq!(all.own_tenant(), None);
        assert_eq!(sources.that_signs("signs").map(Source::name), Some("signs"));
        assert!(sources.that_signs("web").is_none());
        assert!(!format!("{sources:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn a_wrong_file_is_told_by_name_and_without_its_secrets() {
        let good = hash("token-a");
        for (entry, what) in [
            ("", "`sources` has 0 entries"),
            ("{name: a, tenants: [x]}", "source `a`: give it `bearer_sha256` or"),
            ("{name: a, tenants: [x], bearer_sha256: '0123'}", "source `a`: `bearer_sha256` is not 64"),
            ("{name: a, tenants: [x], bearer_sha256: HASH, hmac_secret_file: long}", "and not both"),
            ("{name: a, tenants: [], bearer_sha256: HASH}", "`tenants` names"),
            ("{name: a, tenants: [x, '*'], bearer_sha256: HASH}", "`tenants` names"),
            ("{name: a, tenants: [Shop], bearer_sha256: HASH}", "`Shop` does not match"),
            ("{name: 'a b', tenants: [x], bearer_sha256: HASH}", "`name` has 1 to 63"),
            ("{name: a, tenants: [x], hmac_secret_file: none}", "`hmac_secret_file` none: entity not found"),
            ("{name: a, tenants: [x], hmac_secret_file: short}", "at least 32 bytes"),
            ("{name: a, tenants: [x], bearer_sha256: HASH, events_per_second: 0}", "from 1 to 1000000"),
            ("{name: a, tenants: [x], bearer_sha256: HASH, routes: [ocata]}", "there is no `ocata`; there are events"),
            ("{name: a, tenants: [x], bearer_sha256: [HASH, HASH, HASH]}", "more than 2"),
            (
                "{name: a, tenants: [x], bearer_sha256: HASH}\n- {name: a, tenants: [x], hmac_secret_file: long}",
                "above already",
            ),
            (
                "{name: a, tenants: [x], bearer_sha256: HASH}\n- {name: b, tenants: [x], bearer_sha256: HASH}",
                "the same token",
            ),
            ("{name: a, tenant: [x], bearer_sha256: HASH}", "tenant"),
        ] {
            let list =
                if entry.is_empty() { " []".to_owned() } else { format!("\n- {}", entry.replace("HASH", &good)) };
            let error = parse(&format!("sources:{list}")).unwrap_err();
            assert!(error.contains(what), "{entry}: {error}");
            assert!(!error.contains(&good) && !error.contains("hunter2"), "{error}");
        }
    }
}
