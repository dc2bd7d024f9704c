//! About whom something is remembered, said or blocked: scope and canonical value, per tenant.

use serde::{Deserialize, Serialize};

use super::names::named;
use super::{Network, Source};

named! {
    /// The kind of an entity, as the contract names it.
    Scope default Other {
        Other = "OTHER", Ip = "IP", Cidr = "CIDR", Asn = "ASN", Country = "COUNTRY", Account = "ACCOUNT",
        IpAccount = "IP_ACCOUNT", Device = "DEVICE", UserAgent = "USER_AGENT", TlsFingerprint = "TLS_FINGERPRINT",
        Tenant = "TENANT",
    }
}

impl Scope {
    /// Whether its values are addresses or ranges of them.
    #[must_use]
    pub fn is_address(self) -> bool {
        matches!(self, Scope::Ip | Scope::Cidr)
    }
}

/// One entity of one tenant. Its key on every topic is `tenant|SCOPE|value`, split at the first two `|`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entity {
    pub tenant: Box<str>,
    pub scope: Scope,
    pub value: Box<str>,
}

impl Entity {
    #[must_use]
    pub fn source(tenant: &str, source: Source) -> Self {
        Entity { tenant: tenant.into(), scope: source.scope(), value: source.to_string().into() }
    }

    #[must_use]
    pub fn network(tenant: &str, network: Network) -> Self {
        Entity { tenant: tenant.into(), scope: Scope::Cidr, value: network.to_string().into() }
    }

    #[must_use]
    pub fn account(tenant: &str, account: &str) -> Self {
        Entity { tenant: tenant.into(), scope: Scope::Account, value: account.into() }
    }

    #[must_use]
    pub fn device(tenant: &str, device: &str) -> Self {
        Entity { tenant: tenant.into(), scope: Scope::Device, value: device.into() }
    }

    /// A source on one account: `address|account`.
    #[must_use]
    pub fn pair(tenant: &str, source: Source, account: &str) -> Self {
        Entity { tenant: tenant.into(), scope: Scope::IpAccount, value: format!("{source}|{account}").into() }
    }

    #[must_use]
    pub fn tenant(tenant: &str) -> Self {
        Entity { tenant: tenant.into(), scope: Scope::Tenant, value: tenant.into() }
    }

    /// `tenant|SCOPE|value`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}|{}|{}", self.tenant, self.scope.as_str(), self.value)
    }
}

/// Splits a topic key at its first two `|`; the rest is the value, whatever it holds.
#[must_use]
pub fn split_key(key: &str) -> Option<(&str, &str, &str)> {
    let (tenant, rest) = key.split_once('|')?;
    let (scope, value) = rest.split_once('|')?;
    Some((tenant, scope, value))
}
