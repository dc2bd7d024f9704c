//! From what identity providers and servers write to login events: bytes in, events out.
//!
//! Nearly all of it is data: a [`Mapping`] says which place of a producer's document is which field, and which of them
//! are attempts. The ones that come along stand in `builtin/`; a folder may have more, or others in their place. Only what
//! is no JSON is read by code of its own: access logs, Keycloak's log, OpenSSH's.

mod access_log;
mod document;
mod file;
mod keycloak;
mod mapping;
mod secure_shell;

use std::collections::BTreeMap;

use crate::event::{LoginEvent, Millis, Reject};

pub use document::Pointer;
pub use file::AdapterReader;
pub use mapping::{InputKind, MAPPING_BYTES_MAX, Mapping};

/// Most adapters of one gateway.
pub const ADAPTERS_MAX: usize = 256;

/// The mappings that come along.
const BUILTIN: &[&str] = &[
    include_str!("builtin/auth0.yaml"),
    include_str!("builtin/cognito.yaml"),
    include_str!("builtin/ecs.yaml"),
    include_str!("builtin/keycloak.yaml"),
    include_str!("builtin/kratos.yaml"),
    include_str!("builtin/nginx.yaml"),
    include_str!("builtin/ocsf.yaml"),
    include_str!("builtin/okta.yaml"),
];
/// Their names, in their order.
pub const BUILTIN_NAMES: &[&str] = &["auth0", "cognito", "ecs", "keycloak", "kratos", "nginx", "ocsf", "okta"];
/// OpenSSH's log, which tells an attempt in several lines.
pub const SSHD: &str = "sshd";

/// What a producer's event is.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    Event(Box<LoginEvent>),
    /// No attempt to log in.
    Ignored,
    Rejected(Reject),
}

/// All adapters, by name.
#[derive(Debug, Clone, Default)]
pub struct Adapters {
    mappings: BTreeMap<String, Mapping>,
}

impl Adapters {
    /// Those that come along, with the mappings of these texts beside them or in their place.
    ///
    /// # Errors
    /// What is wrong with which text, by the name given with it.
    pub fn new<'a>(more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Adapters, String> {
        let mut mappings = BTreeMap::new();
        for (index, text) in BUILTIN.iter().enumerate() {
            let mapping = Mapping::parse(text).map_err(|e| format!("built-in mapping {index}: {e}"))?;
            mappings.insert(mapping.name().to_owned(), mapping);
        }
        for (file, text) in more {
            let mapping = Mapping::parse(text).map_err(|e| format!("{file}: {e}"))?;
            if mapping.name() == SSHD {
                return Err(format!("{file}: `{SSHD}` is read by code of its own; choose another name"));
            }
            mappings.insert(mapping.name().to_owned(), mapping);
        }
        if mappings.len() >= ADAPTERS_MAX {
            return Err(format!("there are more than {ADAPTERS_MAX} mappings"));
        }
        Ok(Adapters { mappings })
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.mappings.keys().cloned().collect();
        names.push(SSHD.to_owned());
        names.sort();
        names
    }

    /// What a producer's bytes hold that came at `now`; `None`: there is no such adapter.
    ///
    /// # Errors
    /// The bytes as a whole cannot be read.
    #[must_use]
    pub fn read(&self, name: &str, body: &[u8], now: Millis) -> Option<Result<Vec<Read>, Reject>> {
        if name == SSHD {
            return Some(secure_shell::read(body, now));
        }
        let mapping = self.mappings.get(name)?;
        let documents = match mapping.input() {
            InputKind::Json => document::documents(body),
            InputKind::AccessLog => access_log::documents(body),
            InputKind::Keycloak => keycloak::documents(body),
        };
        Some(documents.and_then(|documents| mapping.read(documents, now)))
    }
}
