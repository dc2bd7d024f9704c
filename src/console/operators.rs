//! Who may act: the people of a file, each with a role and the hash of a token; or a proxy that names them.
//!
//! ```yaml
//! people:
//!   - { name: ada, role: operator, token_sha256: 5feceb66… }
//!   - { name: grace, role: operator }                         # comes by the proxy alone
//! proxy: { header: X-Forwarded-User, from: [10.1.2.3/32] }    # left out: no header is believed
//! origin: https://portcullis.example.com                      # under which people reach it, where a proxy stands before it
//! ```

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Uri};
use ipnet::IpNet;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::edge::server::TrustedProxies;

/// Most people of one file.
pub const PEOPLE_MAX: usize = 1_000;
/// Shortest token, in bytes: what can be guessed is no token.
pub const TOKEN_BYTES_MIN: usize = 16;
const NAME_BYTES_MAX: usize = 64;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and act.
    Operator,
}

impl Role {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
        }
    }
}

/// One of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    pub role: Role,
    /// Of their token; `None`: they come by the proxy alone.
    pub(super) digest: Option<[u8; 32]>,
}

/// Everybody who may act, and how they are known.
#[derive(Debug)]
pub struct Operators {
    people: Vec<Person>,
    proxy: Option<Proxy>,
    origin: Option<String>,
}

#[derive(Debug)]
struct Proxy {
    header: HeaderName,
    from: TrustedProxies,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    people: Vec<PersonLine>,
    proxy: Option<ProxyLine>,
    origin: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PersonLine {
    name: String,
    #[serde(default = "viewer")]
    role: Role,
    token_sha256: Option<String>,
}

const fn viewer() -> Role {
    Role::Viewer
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProxyLine {
    header: String,
    from: Vec<String>,
}

impl Operators {
    /// Reads the text of a file of operators.
    ///
    /// # Errors
    /// What is wrong, by field, and what to write instead; no hash is repeated.
    pub fn parse(text: &str) -> Result<Operators, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if file.people.is_empty() || file.people.len() > PEOPLE_MAX {
            return Err(format!("people: name 1 to {PEOPLE_MAX}"));
        }
        let mut people: Vec<Person> = Vec::with_capacity(file.people.len());
        for PersonLine { name, role, token_sha256 } in file.people {
            if !is_name(&name) {
                return Err("people: a name has 1 to 64 letters, digits, `-`, `_`, `.`, `@`, `+`".to_owned());
            }
            let digest = match token_sha256 {
                None if file.proxy.is_none() => {
                    return Err(format!(
                        "people: {name}: token_sha256 is missing; make a token with `openssl rand -hex 32`, and its hash \
                         with `printf %s TOKEN | sha256sum`"
                    ));
                }
                None => None,
                Some(hash) => Some(
                    digest_of_hex(&hash)
                        .ok_or_else(|| format!("people: {name}: token_sha256: 64 hexadecimal digits"))?,
                ),
            };
            let is_taken =
                |other: &Person| other.name.eq_ignore_ascii_case(&name) || (digest.is_some() && other.digest == digest);
            if people.iter().any(is_taken) {
                return Err(format!("people: {name}: this name or token stands above already"));
            }
            people.push(Person { name, role, digest });
        }
        let proxy = file.proxy.map(ProxyLine::checked).transpose()?;
        let origin = file.origin.map(|origin| origin_of(&origin)).transpose()?;
        Ok(Operators { people, proxy, origin })
    }

    /// Whose token this is. How long it takes says nothing about the tokens that there are.
    #[must_use]
    pub fn by_token(&self, token: &str) -> Option<&Person> {
        let presented: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for person in &self.people {
            let digest = person.digest.unwrap_or_default();
            let differs = digest.iter().zip(presented).fold(0, |all, (a, b)| all | (a ^ b));
            if differs == 0 && person.digest.is_some() {
                found = Some(person);
            }
        }
        found.filter(|_| token.len() >= TOKEN_BYTES_MIN)
    }

    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Person> {
        self.people.iter().find(|person| person.name == name)
    }

    /// Whom a proxy names, where one is believed: only from its addresses, once, and nobody that is not a name. Who is not
    /// in the file may look.
    #[must_use]
    pub fn by_proxy(&self, peer: IpAddr, headers: &HeaderMap) -> Option<Person> {
        let proxy = self.proxy.as_ref().filter(|proxy| proxy.from.trusts(peer))?;
        let mut values = headers.get_all(&proxy.header).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let name = value.to_str().ok().map(str::trim).filter(|name| is_name(name))?;
        let stranger = || Person { name: name.to_owned(), role: Role::Viewer, digest: None };
        Some(self.by_name(name).cloned().unwrap_or_else(stranger))
    }

    /// The origin under which people reach it, where a proxy stands before it.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Whether anybody has a token, so that there is something to sign in with.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.people.iter().any(|person| person.digest.is_some())
    }
}

impl ProxyLine {
    fn checked(self) -> Result<Proxy, String> {
        let header = HeaderName::from_bytes(self.header.as_bytes())
            .map_err(|_| "proxy.header: the name of a header, such as X-Forwarded-User".to_owned())?;
        let network = |text: &String| {
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>()
                .or_else(|_| address())
                .map_err(|_| format!("proxy.from: `{text}` is no address or range"))
        };
        let from = self.from.iter().map(network).collect::<Result<Vec<IpNet>, String>>()?;
        if from.is_empty() {
            return Err("proxy.from: name the proxy's addresses; a header from anywhere is anybody's".to_owned());
        }
        if from.iter().any(|net| net.prefix_len() == 0) {
            return Err("proxy.from: every address is no proxy's; name its own".to_owned());
        }
        Ok(Proxy { header, from: TrustedProxies::new(from) })
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain)
}

fn digest_of_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let text = text.trim();
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// `scheme://host[:port]`, in lower case, as a browser sends it.
fn origin_of(text: &str) -> Result<String, String> {
    let wrong = || "origin: as in a browser, such as https://portcullis.example.com".to_owned();
    let uri: Uri = text.trim().trim_end_matches('/').parse().map_err(|_| wrong())?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    match (is_web, authority, uri.path()) {
        (true, Some(authority), "" | "/") if uri.query().is_none() => {
            Ok(format!("{}://{authority}", uri.scheme_str().unwrap_or_default()).to_ascii_lowercase())
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn hash(token: &str) -> String {
        Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn people(rest: &str) -> Result<Operators, String> {
        Operators::parse(&format!(
            "people:\n  - {{name: ada, role: operator, token_sha256: {}}}\n  - {{name: bob, token_sha256: {}}}\n{rest}",
            hash(TOKEN),
            hash("short")
        ))
    }

    #[test]
    fn a_token_is_somebodys_and_nothing_else_is() {
        let operators = people("").unwrap();
        assert_eq!(operators.by_token(TOKEN).map(|person| (&*person.name, person.role)), Some(("ada", Role::Operator)));
        for wrong in ["", "short", &TOKEN[1..], &format!("{TOKEN} "), &hash(TOKEN), "ada"] {
            assert!(operators.by_token(wrong).is_none(), "{wrong}");
        }
        assert_eq!(operators.by_name("bob").map(|person| person.role), Some(Role::Viewer));
    }

    #[test]
    fn a_header_is_believed_from_the_proxy_alone() {
        let operators = people("proxy: {header: X-Forwarded-User, from: [10.0.0.0/8, '2001:db8::1']}\n").unwrap();
        let named = |peer: &str, names: &[&str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append("x-forwarded-user", HeaderValue::from_str(name).unwrap());
            }
            operators.by_proxy(peer.parse().unwrap(), &headers).map(|person| (person.name, person.role))
        };
        let ada = Some(("ada".to_owned(), Role::Operator));
        assert_eq!(named("10.1.2.3", &["ada"]), ada);
        assert_eq!(named("2001:db8::1", &["ada"]), ada);
        assert_eq!(named("10.1.2.3", &["eve"]), Some(("eve".to_owned(), Role::Viewer)));
        for (peer, names) in [
            ("127.0.0.1", vec!["ada"]),
            ("10.1.2.3", vec![]),
            ("10.1.2.3", vec!["ada", "eve"]),
            ("10.1.2.3", vec!["a b"]),
        ] {
            assert_eq!(named(peer, &names), None, "{peer} {names:?}");
        }
        let none = people("").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-user", HeaderValue::from_static("ada"));
        assert!(
            none.by_proxy("127.0.0.1".parse().unwrap(), &headers).is_none(),
            "nobody said that it is to be believed"
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_its_field() {
        for (text, field) in [
            ("people: []", "people: name 1"),
            ("people: [{name: a b, token_sha256: x}]", "people: a name has"),
            ("people: [{name: ada}]", "people: ada: token_sha256 is missing"),
            ("people: [{name: ada, token_sha256: abc}]", "people: ada: token_sha256: 64"),
            ("people: [{name: ada, rolle: operator}]", ""),
            ("people: [{name: ada}, {name: ADA}]\nproxy: {header: X-U, from: [10.0.0.1]}", "people: ADA: this name"),
            ("people: [{name: ada}]\nproxy: {header: X-U, from: []}", "proxy.from: name"),
            ("people: [{name: ada}]\nproxy: {header: X-U, from: [0.0.0.0/0]}", "proxy.from: every"),
            ("people: [{name: ada}]\nproxy: {header: 'X U', from: [10.0.0.1]}", "proxy.header"),
            ("people: [{name: ada}]\nproxy: {header: X-U, from: [10.0.0.1]}\norigin: portcullis", "origin"),
            ("people: [{name: ada}]\nproxy: {header: X-U, from: [10.0.0.1]}\norigin: https://a.example/x", "origin"),
        ] {
            let error = Operators::parse(text).unwrap_err();
            assert!(error.starts_with(field), "{text}: {error}");
        }
        let origin = people("origin: https://Portcullis.Example:8443/\n").unwrap();
        assert_eq!(origin.origin(), Some("https://portcullis.example:8443"));
    }
}
