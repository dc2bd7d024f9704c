//! Who is never restricted: the list of `topology/exemptions.yaml` and the records of the topic `exemptions`.
//!
//! Both kinds hold side by side: a tombstone on the topic takes back what the topic gave, never what the file says.
//! An address inside an exempt range is covered, a range inside an exempt range too. A range that merely holds an
//! exempt address is not covered, it [overlaps](Exemptions::overlaps), and must not be blocked as a whole.
//! Nothing here reads a clock or a file, and nothing here decides what happens to those who are covered.
//!
//! ```yaml
//! - {scope: CIDR, value: 198.51.100.0/24, reason: our office, tenant: shop, until: 2027-01-01T00:00:00Z}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::event::wire::{ACCOUNT_BYTES_MAX, TENANT_BYTES_MAX, TEXT_BYTES_MAX, normal_account, parse_millis};
use crate::event::{Entity, Exemption, Millis, Scope, Source, split_key};

/// Most exemptions held, those of the file and of the topic together.
pub const EXEMPTIONS_MAX: usize = 100_000;
/// Longest `reason`, in bytes.
pub const REASON_BYTES_MAX: usize = TEXT_BYTES_MAX;
/// An IPv6 customer has at least a /64: nothing longer is one source.
const IPV6_LENGTH_MAX: u8 = 64;
/// Smallest `until` taken as milliseconds (1973): a smaller number is a time in seconds, and would have ended long ago.
const UNTIL_MS_MIN: Millis = 100_000_000_000;
/// The scopes that can be exempt, for messages.
const SCOPES: &str = "IP, CIDR, ACCOUNT, IP_ACCOUNT, ASN, DEVICE, TENANT";

/// Everybody who is never restricted, indexed for one look-up per attempt.
#[derive(Debug, Clone, Default)]
pub struct Exemptions {
    prefixes: FxHashMap<IpNet, Listed>,
    /// The same prefixes in order, to find those inside a range.
    ordered: BTreeSet<IpNet>,
    /// How many prefixes there are of each length in use: only these are looked up.
    lengths_v4: BTreeMap<u8, usize>,
    lengths_v6: BTreeMap<u8, usize>,
    accounts: FxHashMap<Box<str>, Listed>,
    /// Keyed by `source|account`.
    pairs: FxHashMap<Box<str>, Listed>,
    asns: FxHashMap<u32, Listed>,
    devices: FxHashMap<Box<str>, Listed>,
    /// As a whole: the kill switch.
    tenants: FxHashMap<Box<str>, Listed>,
    ends: BTreeSet<(Millis, Origin, Entity)>,
    len: usize,
}

/// Where an exemption was written. The two never replace each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    File,
    Topic,
}

/// The exemptions of one entity: at most one per tenant and origin.
#[derive(Debug, Clone, Default)]
struct Listed(Vec<(Origin, Exemption)>);

/// An entity as the index holds it.
enum Place {
    Prefix(IpNet),
    Account(Box<str>),
    Pair(Box<str>),
    Asn(u32),
    Device(Box<str>),
    Tenant(Box<str>),
}

/// One item of the file. Values are read as text and checked here, so that a mistake is told with its line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    scope: Spanned<String>,
    value: Spanned<String>,
    reason: Spanned<String>,
    #[serde(default)]
    tenant: Option<Spanned<String>>,
    #[serde(default)]
    until: Option<Spanned<String>>,
}

impl Exemptions {
    /// Reads the list of a file. A value that is not canonical is brought into canonical form; an IPv6 address becomes
    /// its /64. A file without items is an empty list.
    ///
    /// # Errors
    /// What is wrong, with its line, and what to write instead.
    pub fn parse(text: &str) -> Result<Exemptions, String> {
        // The parser's own limits are for hostile input; this file is the operator's, and bounded by its item count.
        let options = serde_saphyr::options! { budget: None };
        let items: Option<Vec<Item>> = serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())?;
        let mut all = Exemptions::default();
        for item in items.unwrap_or_default() {
            let line = item.value.referenced.line();
            let exemption = item.exemption()?;
            let Some(place) = Place::of(exemption.scope, &exemption.value) else {
                return Err(format!("line {line}: value `{}` cannot be exempt", exemption.value));
            };
            if all.listed(&place).is_some_and(|l| l.position(Origin::File, &exemption.tenant).is_some()) {
                return Err(format!("line {line}: `{}` is exempt twice; keep one", exemption.value));
            }
            all.make_room().map_err(|e| format!("line {line}: {e}"))?;
            all.put(Origin::File, place, exemption);
        }
        Ok(all)
    }

    /// Takes one record (or tombstone) of the topic `exemptions`. Returns whether anything changed: a record of an
    /// older generation than the held one changes nothing.
    ///
    /// # Errors
    /// The record cannot be used, or the list is full; nothing changed.
    pub fn apply(&mut self, key: &str, value: Option<Exemption>) -> Result<bool, String> {
        let (tenant, scope, value_of_key) =
            split_key(key).ok_or_else(|| format!("key `{}` is not tenant|SCOPE|value", shown(key)))?;
        let scope = Scope::from_name(scope).ok_or_else(|| format!("scope `{}` is not known", shown(scope)))?;
        if !(tenant.is_empty() || is_tenant(tenant)) {
            return Err(format!("tenant `{}` is not a tenant name", shown(tenant)));
        }
        let place = Place::of(scope, value_of_key).ok_or_else(|| match canonical(scope, value_of_key) {
            Ok((scope, text)) => format!("value `{}` is not canonical; write {scope} {text}", shown(value_of_key)),
            Err(wrong) => wrong,
        })?;
        let Some(exemption) = value else { return Ok(self.take(Origin::Topic, &place, tenant)) };
        if exemption.tenant != tenant || exemption.scope != scope || exemption.value != value_of_key {
            return Err(format!("key `{}` and record disagree on whom they mean", shown(key)));
        }
        if exemption.reason.len() > REASON_BYTES_MAX {
            return Err(format!("the reason has {} bytes; at most {REASON_BYTES_MAX}", exemption.reason.len()));
        }
        match self.listed(&place).and_then(|l| l.get(Origin::Topic, tenant)) {
            Some(held) if held.generation > exemption.generation || *held == exemption => return Ok(false),
            Some(_) => {}
            None => self.make_room()?,
        }
        self.put(Origin::Topic, place, exemption);
        Ok(true)
    }

    /// The exemption that covers a source, if there is one at `now`.
    #[must_use]
    pub fn covers_source(&self, tenant: &str, source: Source, now: Millis) -> Option<&Exemption> {
        self.covers_prefix(Some(tenant), net_of_source(source), now)
    }

    /// The exemption that covers an account (in the form of [`normal_account`]).
    #[must_use]
    pub fn covers_account(&self, tenant: &str, account: &str, now: Millis) -> Option<&Exemption> {
        self.accounts.get(account)?.active(Some(tenant), now)
    }

    /// The exemption that covers an autonomous system.
    #[must_use]
    pub fn covers_asn(&self, tenant: &str, asn: u32, now: Millis) -> Option<&Exemption> {
        self.asns.get(&asn)?.active(Some(tenant), now)
    }

    /// The exemption that covers a device.
    #[must_use]
    pub fn covers_device(&self, tenant: &str, device: &str, now: Millis) -> Option<&Exemption> {
        self.devices.get(device)?.active(Some(tenant), now)
    }

    /// The exemption that covers a whole tenant: its kill switch. It covers nobody else's look-ups, so who enforces asks
    /// for it as well.
    #[must_use]
    pub fn covers_tenant(&self, tenant: &str, now: Millis) -> Option<&Exemption> {
        self.tenants.get(tenant)?.active(Some(tenant), now)
    }

    /// The exemption that covers an entity with a canonical value. A pair is covered by its own exemption, by its
    /// source's and by its account's. Countries, user agents and fingerprints cannot be exempt.
    #[must_use]
    pub fn covers_entity(&self, entity: &Entity, now: Millis) -> Option<&Exemption> {
        self.covers(Some(&entity.tenant), entity.scope, &entity.value, now)
    }

    /// Whether an exempt address or range lies inside this range, so that it must not be blocked as a whole. False
    /// for whatever is no range.
    #[must_use]
    pub fn overlaps(&self, entity: &Entity, now: Millis) -> bool {
        self.holds_exempt(Some(&entity.tenant), entity.scope, &entity.value, now)
    }

    /// Whether restricting this entity would restrict somebody exempt: it is covered, or it is a range that holds an
    /// exempt address. With no tenant, whichever tenant the exemption was given for: what an edge asks that keeps one
    /// list for several tenants.
    #[must_use]
    pub fn forbids(&self, tenant: Option<&str>, scope: Scope, value: &str, now: Millis) -> bool {
        !self.is_empty()
            && (self.covers(tenant, scope, value, now).is_some() || self.holds_exempt(tenant, scope, value, now))
    }

    /// Whether a whole range is exempt, whichever tenant the exemption was given for.
    #[must_use]
    pub fn covers_range(&self, range: &IpNet, now: Millis) -> bool {
        !self.is_empty() && self.covers_prefix(None, *range, now).is_some()
    }

    /// When the next exemption ends after `now`: whoever enforces must look again then.
    #[must_use]
    pub fn next_end(&self, now: Millis) -> Option<Millis> {
        self.ends.iter().map(|(end, _, _)| *end).find(|end| *end > now)
    }

    /// Forgets the exemptions that ended at `now` or before. They cover nobody; this gives their room back.
    pub fn forget_ended(&mut self, now: Millis) {
        while let Some((end, _, _)) = self.ends.first()
            && *end <= now
            && let Some((_, origin, entity)) = self.ends.pop_first()
        {
            if let Some(place) = Place::of(entity.scope, &entity.value) {
                self.take(origin, &place, &entity.tenant);
            }
        }
    }

    /// How many are held, ended ones included until they are forgotten.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn covers(&self, tenant: Option<&str>, scope: Scope, value: &str, now: Millis) -> Option<&Exemption> {
        match scope {
            Scope::Ip | Scope::Cidr => self.covers_prefix(tenant, prefix_of(scope, value)?, now),
            Scope::Account => self.accounts.get(value)?.active(tenant, now),
            Scope::Asn => self.asns.get(&asn_of(value)?)?.active(tenant, now),
            Scope::Device => self.devices.get(value)?.active(tenant, now),
            Scope::IpAccount => {
                let (source, account) = pair_of(value)?;
                let own = self.pairs.get(value).and_then(|l| l.active(tenant, now));
                own.or_else(|| self.accounts.get(account)?.active(tenant, now))
                    .or_else(|| self.covers_prefix(tenant, net_of_source(source), now))
            }
            Scope::Other | Scope::Country | Scope::UserAgent | Scope::TlsFingerprint | Scope::Tenant => None,
        }
    }

    /// One hash look-up for each prefix length in use that could hold `net`.
    fn covers_prefix(&self, tenant: Option<&str>, net: IpNet, now: Millis) -> Option<&Exemption> {
        let lengths = match net {
            IpNet::V4(_) => &self.lengths_v4,
            IpNet::V6(_) => &self.lengths_v6,
        };
        lengths
            .range(..=net.prefix_len())
            .rev()
            .find_map(|(length, _)| self.prefixes.get(&shortened(net, *length))?.active(tenant, now))
    }

    fn holds_exempt(&self, tenant: Option<&str>, scope: Scope, value: &str, now: Millis) -> bool {
        let Some(range) = prefix_of(scope, value) else { return false };
        // In order of first address and then length, everything inside the range stands together.
        let inside = range..=IpNet::new_assert(range.broadcast(), range.max_prefix_len());
        self.ordered
            .range(inside)
            .filter_map(|net| self.prefixes.get(net))
            .any(|listed| listed.active(tenant, now).is_some())
    }

    fn make_room(&self) -> Result<(), String> {
        if self.len < EXEMPTIONS_MAX {
            return Ok(());
        }
        Err(format!("there are {EXEMPTIONS_MAX} exemptions, the most that are held; remove some or use ranges"))
    }

    fn listed(&self, place: &Place) -> Option<&Listed> {
        match place {
            Place::Prefix(net) => self.prefixes.get(net),
            Place::Account(name) => self.accounts.get(name),
            Place::Pair(pair) => self.pairs.get(pair),
            Place::Asn(asn) => self.asns.get(asn),
            Place::Device(device) => self.devices.get(device),
            Place::Tenant(tenant) => self.tenants.get(tenant),
        }
    }

    /// Puts an exemption where it belongs, in place of an earlier one of the same tenant and origin.
    fn put(&mut self, origin: Origin, place: Place, exemption: Exemption) {
        self.take(origin, &place, &exemption.tenant);
        if let Some(end) = exemption.until {
            self.ends.insert((end, origin, entity_of(&exemption)));
        }
        let listed = match place {
            Place::Prefix(net) => {
                if self.ordered.insert(net) {
                    *self.lengths_of(net).entry(net.prefix_len()).or_default() += 1;
                }
                self.prefixes.entry(net).or_default()
            }
            Place::Account(name) => self.accounts.entry(name).or_default(),
            Place::Pair(pair) => self.pairs.entry(pair).or_default(),
            Place::Asn(asn) => self.asns.entry(asn).or_default(),
            Place::Device(device) => self.devices.entry(device).or_default(),
            Place::Tenant(tenant) => self.tenants.entry(tenant).or_default(),
        };
        listed.0.push((origin, exemption));
        self.len += 1;
    }

    /// Removes an exemption; whether there was one.
    fn take(&mut self, origin: Origin, place: &Place, tenant: &str) -> bool {
        let listed = match place {
            Place::Prefix(net) => self.prefixes.get_mut(net),
            Place::Account(name) => self.accounts.get_mut(name),
            Place::Pair(pair) => self.pairs.get_mut(pair),
            Place::Asn(asn) => self.asns.get_mut(asn),
            Place::Device(device) => self.devices.get_mut(device),
            Place::Tenant(tenant) => self.tenants.get_mut(tenant),
        };
        let Some(listed) = listed else { return false };
        let Some(at) = listed.position(origin, tenant) else { return false };
        let (_, gone) = listed.0.swap_remove(at);
        let none_left = listed.0.is_empty();
        if let Some(end) = gone.until {
            self.ends.remove(&(end, origin, entity_of(&gone)));
        }
        if none_left {
            self.forget_place(place);
        }
        self.len -= 1;
        true
    }

    fn forget_place(&mut self, place: &Place) {
        match place {
            Place::Prefix(net) => {
                self.prefixes.remove(net);
                self.ordered.remove(net);
                let lengths = self.lengths_of(*net);
                if let Some(count) = lengths.get_mut(&net.prefix_len()) {
                    *count -= 1;
                    if *count == 0 {
                        lengths.remove(&net.prefix_len());
                    }
                }
            }
            Place::Account(name) => drop(self.accounts.remove(name)),
            Place::Pair(pair) => drop(self.pairs.remove(pair)),
            Place::Asn(asn) => drop(self.asns.remove(asn)),
            Place::Device(device) => drop(self.devices.remove(device)),
            Place::Tenant(tenant) => drop(self.tenants.remove(tenant)),
        }
    }

    fn lengths_of(&mut self, net: IpNet) -> &mut BTreeMap<u8, usize> {
        match net {
            IpNet::V4(_) => &mut self.lengths_v4,
            IpNet::V6(_) => &mut self.lengths_v6,
        }
    }
}

impl Listed {
    fn position(&self, origin: Origin, tenant: &str) -> Option<usize> {
        self.0.iter().position(|(o, e)| *o == origin && e.tenant == tenant)
    }

    fn get(&self, origin: Origin, tenant: &str) -> Option<&Exemption> {
        self.0.iter().find(|(o, e)| *o == origin && e.tenant == tenant).map(|(_, e)| e)
    }

    /// One that holds at `now` for this tenant; for `None`, for whichever tenant it was given.
    fn active(&self, tenant: Option<&str>, now: Millis) -> Option<&Exemption> {
        self.0.iter().map(|(_, e)| e).find(|e| {
            e.until.is_none_or(|end| end > now) && (e.tenant.is_empty() || tenant.is_none_or(|t| t == e.tenant))
        })
    }
}

impl Place {
    /// Where the index holds an entity; `None` when its value is not canonical, or its scope cannot be exempt.
    fn of(scope: Scope, value: &str) -> Option<Place> {
        match scope {
            Scope::Ip | Scope::Cidr => prefix_of(scope, value).map(Place::Prefix),
            Scope::Asn => asn_of(value).map(Place::Asn),
            Scope::Account => is_canonical(scope, value).then(|| Place::Account(value.into())),
            Scope::Device => is_canonical(scope, value).then(|| Place::Device(value.into())),
            Scope::IpAccount => pair_of(value).map(|_| Place::Pair(value.into())),
            Scope::Tenant => is_tenant(value).then(|| Place::Tenant(value.into())),
            Scope::Other | Scope::Country | Scope::UserAgent | Scope::TlsFingerprint => None,
        }
    }
}

impl Item {
    fn exemption(self) -> Result<Exemption, String> {
        let at = |spanned: &Spanned<String>| spanned.referenced.line();
        let scope = Scope::from_name(&self.scope.value).ok_or_else(|| {
            format!("line {}: scope `{}` is none of {SCOPES}", at(&self.scope), shown(&self.scope.value))
        })?;
        let (scope, value) =
            canonical(scope, &self.value.value).map_err(|e| format!("line {}: {e}", at(&self.value)))?;
        let reason = self.reason.value.trim();
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(format!("line {}: `reason` takes 1 to {REASON_BYTES_MAX} bytes", at(&self.reason)));
        }
        let tenant = match self.tenant {
            Some(tenant) if !tenant.value.is_empty() && !is_tenant(&tenant.value) => {
                let shown = shown(&tenant.value);
                return Err(format!(
                    "line {}: tenant `{shown}` does not match [a-z0-9][a-z0-9._-]{{0,62}}",
                    at(&tenant)
                ));
            }
            Some(tenant) => tenant.value,
            None => String::new(),
        };
        let until = match self.until {
            Some(until) => Some(millis_of(&until.value).ok_or_else(|| {
                let shown = shown(&until.value);
                format!("line {}: until `{shown}` is neither RFC 3339 nor milliseconds since 1970", at(&until))
            })?),
            None => None,
        };
        let reason = reason.to_owned();
        Ok(Exemption { tenant, scope, value, since: 0, until, reason, actor: None, generation: 0 })
    }
}

/// Brings the value of an exemption into the form in which entities are compared; the scope may change with it, since
/// an IPv6 address is its /64 and a range of one address is that address.
///
/// # Errors
/// What is wrong with the value.
pub fn canonical(scope: Scope, value: &str) -> Result<(Scope, String), String> {
    let value = value.trim();
    let wrong = |what: &str| Err(format!("value `{}` is {what}", shown(value)));
    match scope {
        Scope::Ip => match value.parse::<Source>() {
            Ok(source) => Ok((source.scope(), source.to_string())),
            Err(_) => wrong("not an IPv4 or IPv6 address"),
        },
        Scope::Cidr => match value.parse::<IpNet>() {
            Ok(net) => Ok(canonical_net(net)),
            Err(_) => wrong("not a range such as 198.51.100.0/24"),
        },
        Scope::Account => {
            let name = normal_account(value);
            if name.is_empty() || name.len() > ACCOUNT_BYTES_MAX {
                return wrong("not an account name");
            }
            Ok((scope, name))
        }
        Scope::IpAccount => match value.split_once('|').map(|(ip, account)| (source_of(ip), account)) {
            Some((Some(source), account)) => {
                let (_, account) = canonical(Scope::Account, account)?;
                Ok((scope, format!("{source}|{account}")))
            }
            Some((None, _)) | None => wrong("not address|account"),
        },
        Scope::Asn => {
            let digits = value.strip_prefix("AS").or_else(|| value.strip_prefix("as")).unwrap_or(value);
            match digits.parse::<u32>() {
                Ok(asn) if asn > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok((scope, asn.to_string())),
                Ok(_) | Err(_) => wrong("not the number of an autonomous system"),
            }
        }
        Scope::Device if value.is_empty() || value.len() > TEXT_BYTES_MAX => wrong("not a device id"),
        Scope::Device => Ok((scope, value.to_owned())),
        Scope::Tenant if is_tenant(value) => Ok((scope, value.to_owned())),
        Scope::Tenant => wrong("not a tenant's name"),
        Scope::Other | Scope::Country | Scope::UserAgent | Scope::TlsFingerprint => {
            Err(format!("scope {scope} cannot be exempt; use one of {SCOPES}"))
        }
    }
}

/// The addresses that a canonical value of scope IP or CIDR means; `None` when it is not canonical: an IPv6 address, a
/// range of one address, host bits, another spelling.
#[must_use]
pub fn prefix_of(scope: Scope, value: &str) -> Option<IpNet> {
    match scope {
        Scope::Ip => value.parse::<Ipv4Addr>().ok().map(|a| IpNet::from(Ipv4Net::from(a))),
        Scope::Cidr => {
            let net = value.parse::<IpNet>().ok()?;
            (canonical_net(net) == (Scope::Cidr, value.to_owned())).then_some(net)
        }
        Scope::Other
        | Scope::Asn
        | Scope::Country
        | Scope::Account
        | Scope::IpAccount
        | Scope::Device
        | Scope::UserAgent
        | Scope::TlsFingerprint
        | Scope::Tenant => None,
    }
}

/// Source and account of a canonical IP_ACCOUNT value, `address|account`.
#[must_use]
pub fn pair_of(value: &str) -> Option<(Source, &str)> {
    let (ip, account) = value.split_once('|')?;
    let source = source_of(ip).filter(|s| s.to_string() == ip)?;
    (!account.is_empty()).then_some((source, account))
}

/// The number of a canonical ASN value.
#[must_use]
pub fn asn_of(value: &str) -> Option<u32> {
    let asn: u32 = value.parse().ok()?;
    (asn > 0 && asn.to_string() == value).then_some(asn)
}

/// Whether this is a tenant's name: `[a-z0-9][a-z0-9._-]{0,62}`.
#[must_use]
pub fn is_tenant(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = text.bytes();
    bytes.next().is_some_and(plain)
        && bytes.all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
        && text.len() <= TENANT_BYTES_MAX
}

fn canonical_net(net: IpNet) -> (Scope, String) {
    let net = match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
            v6.addr().to_ipv4_mapped().and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - 96).ok()).map_or(net, IpNet::V4)
        }
        IpNet::V6(_) | IpNet::V4(_) => net,
    };
    match net {
        IpNet::V4(v4) if v4.prefix_len() == 32 => (Scope::Ip, v4.addr().to_string()),
        IpNet::V4(v4) => (Scope::Cidr, v4.trunc().to_string()),
        IpNet::V6(v6) => (Scope::Cidr, shortened(IpNet::V6(v6), v6.prefix_len().min(IPV6_LENGTH_MAX)).to_string()),
    }
}

/// The prefix of this length (at most the net's own) that holds `net`.
fn shortened(net: IpNet, length: u8) -> IpNet {
    match net {
        IpNet::V4(v4) => Ipv4Net::new(v4.addr(), length).map_or(net, |n| IpNet::V4(n.trunc())),
        IpNet::V6(v6) => Ipv6Net::new(v6.addr(), length).map_or(net, |n| IpNet::V6(n.trunc())),
    }
}

fn net_of_source(source: Source) -> IpNet {
    let net = IpNet::from(source.first_address());
    match source {
        Source::V4(_) => net,
        Source::V6(_) => shortened(net, IPV6_LENGTH_MAX),
    }
}

/// A source as written: an address, or the /64 of an IPv6 one.
fn source_of(text: &str) -> Option<Source> {
    text.strip_suffix("/64").filter(|t| t.contains(':')).unwrap_or(text).parse().ok()
}

fn entity_of(exemption: &Exemption) -> Entity {
    Entity { tenant: exemption.tenant.as_str().into(), scope: exemption.scope, value: exemption.value.as_str().into() }
}

fn millis_of(text: &str) -> Option<Millis> {
    let text = text.trim();
    text.parse::<Millis>().ok().filter(|ms| *ms >= UNTIL_MS_MIN).or_else(|| parse_millis(text))
}

fn is_canonical(scope: Scope, value: &str) -> bool {
    canonical(scope, value).is_ok_and(|(_, text)| text == value)
}

/// A value for a message: short, without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    fn entity(tenant: &str, scope: Scope, value: &str) -> Entity {
        Entity { tenant: tenant.into(), scope, value: value.into() }
    }

    fn exemption(tenant: &str, scope: Scope, value: &str, generation: i64, until: Option<Millis>) -> Exemption {
        Exemption {
            tenant: tenant.to_owned(),
            scope,
            value: value.to_owned(),
            since: 0,
            until,
            reason: "test".to_owned(),
            actor: None,
            generation,
        }
    }

    fn check_parse(text: &str, expected: &str) {
        let seen = match Exemptions::parse(text) {
            Ok(all) => {
                let mut seen: Vec<String> = Vec::new();
                for scope in Scope::ALL {
                    for value in CANDIDATES {
                        if all.listed_at(*scope, value) {
                            seen.push(format!("{scope} {value}"));
                        }
                    }
                }
                seen.join(", ")
            }
            Err(e) => format!("refused: {e}"),
        };
        assert!(seen.starts_with(expected), "{text}\n gave {seen}\n not {expected}");
    }

    const CANDIDATES: [&str; 8] = [
        "198.51.100.7",
        "198.51.100.0/24",
        "2001:db8:1:2::/64",
        "ada@example.org",
        "198.51.100.7|ada@example.org",
        "2001:db8:1:2::/64|ada",
        "64500",
        "device-1",
    ];

    impl Exemptions {
        fn listed_at(&self, scope: Scope, value: &str) -> bool {
            Place::of(scope, value).is_some_and(|place| self.listed(&place).is_some())
        }
    }

    #[test]
    fn the_file_is_brought_into_canonical_form_or_refused_with_its_line() {
        let one = |scope: &str, value: &str| format!("- {{scope: {scope}, value: {value:?}, reason: because}}\n");
        check_parse("", "");
        check_parse("# only a comment\n", "");
        check_parse("[]", "");
        check_parse(&one("IP", "198.51.100.7"), "IP 198.51.100.7");
        check_parse(&one("IP", "::ffff:198.51.100.7"), "IP 198.51.100.7");
        check_parse(&one("IP", "2001:DB8:1:2::9"), "CIDR 2001:db8:1:2::/64");
        check_parse(&one("CIDR", "198.51.100.7/24"), "CIDR 198.51.100.0/24");
        check_parse(&one("CIDR", "198.51.100.7/32"), "IP 198.51.100.7");
        check_parse(&one("CIDR", "2001:db8:1:2::9/128"), "CIDR 2001:db8:1:2::/64");
        check_parse(&one("CIDR", "::ffff:198.51.100.0/120"), "CIDR 198.51.100.0/24");
        check_parse(&one("ACCOUNT", " Ada@Example.org "), "ACCOUNT ada@example.org");
        check_parse(&one("IP_ACCOUNT", "198.51.100.7|ADA@example.org"), "IP_ACCOUNT 198.51.100.7|ada@example.org");
        check_parse(&one("IP_ACCOUNT", "2001:db8:1:2::9|Ada"), "IP_ACCOUNT 2001:db8:1:2::/64|ada");
        check_parse("- scope: ASN\n  value: 64500\n  reason: x\n", "ASN 64500");
        check_parse(&one("ASN", "AS64500"), "ASN 64500");
        check_parse(&one("DEVICE", "device-1"), "DEVICE device-1");

        let good = one("IP", "192.0.2.1");
        for (bad, says) in [
            (one("IP", "198.51.100.0/24"), "refused: line 2: value `198.51.100.0/24` is not an IPv4"),
            (one("CIDR", "198.51.100.7"), "refused: line 2: value `198.51.100.7` is not a range"),
            (one("NETWORK", "198.51.100.7"), "refused: line 2: scope `NETWORK` is none of IP, CIDR"),
            (one("COUNTRY", "NL"), "refused: line 2: scope COUNTRY cannot be exempt"),
            (one("ASN", "0"), "refused: line 2: value `0`"),
            (one("ASN", "+5"), "refused: line 2: value `+5`"),
            (one("ACCOUNT", "  "), "refused: line 2: value"),
            (one("IP", "192.0.2.1"), "refused: line 2: `192.0.2.1` is exempt twice"),
            ("- {scope: IP, value: 192.0.2.2, reason: ''}".to_owned(), "refused: line 2: `reason`"),
            ("- {scope: IP, value: 192.0.2.2, reason: x, tenant: A}".to_owned(), "refused: line 2: tenant `A`"),
            ("- {scope: IP, value: 192.0.2.2, reason: x, until: soon}".to_owned(), "refused: line 2: until `soon`"),
            ("- {scope: IP, value: 192.0.2.2, reason: x, until: 1798761600}".to_owned(), "refused: line 2: until"),
        ] {
            check_parse(&format!("{good}{bad}"), says);
        }
        for bad in
            ["- {scope: IP, value: 192.0.2.2}", "- {scope: IP, value: 1.2.3.4, reason: x, unitl: 5}", "IP: 1.2.3.4"]
        {
            let says = Exemptions::parse(&format!("\n{bad}")).unwrap_err();
            assert!(says.contains("line 2"), "{bad}: {says}");
        }
    }

    #[test]
    fn the_shipped_file_is_read_and_exempts_nobody_who_could_be_blocked() {
        let all = Exemptions::parse(include_str!("../../topology/exemptions.yaml")).unwrap();
        for net in &all.ordered {
            for (_, exemption) in &all.prefixes[net].0 {
                let first = prefix_of(exemption.scope, &exemption.value).unwrap().network();
                assert!(!Source::from(first).is_blockable(), "{exemption:?}");
            }
        }
        assert_eq!((all.accounts.len(), all.pairs.len(), all.asns.len(), all.devices.len()), (0, 0, 0, 0));
    }

    #[test]
    fn who_is_covered() {
        let all = Exemptions::parse(
            "- {scope: CIDR, value: 198.51.100.0/24, reason: x}\n\
             - {scope: IP, value: 192.0.2.7, reason: x, tenant: shop}\n\
             - {scope: CIDR, value: '2001:db8::/32', reason: x}\n\
             - {scope: CIDR, value: '2001:db9:1:2::/64', reason: x}\n\
             - {scope: ACCOUNT, value: ada, reason: x, until: 2027-01-15T08:00:00Z}\n\
             - {scope: IP_ACCOUNT, value: 203.0.113.9|eve, reason: x}\n\
             - {scope: ASN, value: 64500, reason: x}\n\
             - {scope: DEVICE, value: d1, reason: x}\n",
        )
        .unwrap();
        // 2027-01-15T08:00:00Z is NOW exactly: an exemption does not hold at its end.
        assert_eq!(all.next_end(NOW - 1), Some(NOW));
        assert_eq!(all.next_end(NOW), None);
        for (tenant, scope, value, now, covered) in [
            ("shop", Scope::Ip, "198.51.100.9", NOW, true),
            ("bank", Scope::Ip, "198.51.100.9", NOW, true),
            ("shop", Scope::Ip, "198.51.101.9", NOW, false),
            ("shop", Scope::Ip, "192.0.2.7", NOW, true),
            ("bank", Scope::Ip, "192.0.2.7", NOW, false),
            ("shop", Scope::Cidr, "198.51.100.0/24", NOW, true),
            ("shop", Scope::Cidr, "198.51.100.128/25", NOW, true),
            ("shop", Scope::Cidr, "198.51.0.0/16", NOW, false),
            ("shop", Scope::Cidr, "2001:db8:1:2::/64", NOW, true),
            ("shop", Scope::Cidr, "2001:db9:1:3::/64", NOW, false),
            ("shop", Scope::Account, "ada", NOW - 1, true),
            ("shop", Scope::Account, "ada", NOW, false),
            ("shop", Scope::IpAccount, "203.0.113.8|ada", NOW - 1, true),
            ("shop", Scope::IpAccount, "203.0.113.8|ada", NOW, false),
            ("shop", Scope::IpAccount, "203.0.113.9|eve", NOW, true),
            ("shop", Scope::IpAccount, "198.51.100.9|eve", NOW, true),
            ("shop", Scope::IpAccount, "2001:db8:9::/64|eve", NOW, true),
            ("shop", Scope::IpAccount, "203.0.113.8|eve", NOW, false),
            ("shop", Scope::Ip, "203.0.113.9", NOW, false),
            ("shop", Scope::Asn, "64500", NOW, true),
            ("shop", Scope::Asn, "064500", NOW, false),
            ("shop", Scope::Device, "d1", NOW, true),
            ("shop", Scope::Device, "d2", NOW, false),
            ("shop", Scope::Country, "NL", NOW, false),
        ] {
            assert_eq!(
                all.covers_entity(&entity(tenant, scope, value), now).is_some(),
                covered,
                "{tenant} {scope} {value}"
            );
        }
        assert!(all.covers_source("bank", "2001:db8::5".parse().unwrap(), NOW).is_some());
        assert!(all.covers_source("bank", "192.0.2.7".parse().unwrap(), NOW).is_none());
        assert!(all.forbids(None, Scope::Ip, "192.0.2.7", NOW));
        assert!(!all.forbids(Some("bank"), Scope::Ip, "192.0.2.7", NOW));
        assert!(all.covers_account("shop", "ada", NOW - 1).is_some() && all.covers_asn("shop", 64500, NOW).is_some());
        assert!(all.covers_device("shop", "d1", NOW).is_some());
        for (tenant, value, overlapped) in [
            ("shop", "198.51.0.0/16", true),
            ("shop", "198.51.100.128/25", false),
            ("shop", "192.0.2.0/24", true),
            ("bank", "192.0.2.0/24", false),
            ("shop", "2001:d00::/24", true),
            ("shop", "2001:db9:1::/48", true),
            ("shop", "2001:db9:2::/48", false),
        ] {
            assert_eq!(all.overlaps(&entity(tenant, Scope::Cidr, value), NOW), overlapped, "{tenant} {value}");
        }
        assert!(all.forbids(None, Scope::Cidr, "192.0.2.0/24", NOW));
    }

    #[test]
    fn the_topic_adds_replaces_and_takes_back_what_it_gave() {
        let key = "shop|IP|192.0.2.7";
        let ip = entity("shop", Scope::Ip, "192.0.2.7");
        let mut all = Exemptions::parse("- {scope: IP, value: 192.0.2.8, reason: x}").unwrap();
        assert_eq!(all.apply(key, Some(exemption("shop", Scope::Ip, "192.0.2.7", 5, Some(NOW + 10)))), Ok(true));
        assert!(all.covers_entity(&ip, NOW).is_some());
        assert_eq!(all.apply(key, Some(exemption("shop", Scope::Ip, "192.0.2.7", 4, None))), Ok(false));
        assert!(all.covers_entity(&ip, NOW + 10).is_none(), "an older generation never wins");
        assert_eq!(all.apply(key, Some(exemption("shop", Scope::Ip, "192.0.2.7", 6, None))), Ok(true));
        assert!(all.covers_entity(&ip, NOW + 10).is_some());
        assert_eq!((all.len(), all.next_end(NOW)), (2, None));
        assert_eq!(all.apply(key, None), Ok(true));
        assert_eq!(all.apply(key, None), Ok(false));
        assert!(all.covers_entity(&ip, NOW).is_none());
        assert_eq!(all.apply("|IP|192.0.2.8", None), Ok(false), "the file is not the topic's to change");
        assert!(all.covers_entity(&entity("bank", Scope::Ip, "192.0.2.8"), NOW).is_some());

        for (bad, says) in [
            ("shop|IP", "not tenant|SCOPE|value"),
            ("shop|OTHER|x", "cannot be exempt"),
            ("SHOP|IP|192.0.2.7", "not a tenant"),
            ("shop|IP|2001:db8::1", "write CIDR 2001:db8::/64"),
            ("shop|ACCOUNT|Ada", "write ACCOUNT ada"),
            ("shop|IP|192.0.2.9", "disagree"),
        ] {
            let told = all.apply(bad, Some(exemption("shop", Scope::Ip, "192.0.2.7", 9, None))).unwrap_err();
            assert!(told.contains(says), "{bad}: {told}");
        }
    }

    #[test]
    fn ended_ones_are_forgotten_and_give_their_room_back() {
        let mut all = Exemptions::default();
        for i in 0..EXEMPTIONS_MAX {
            let value = Source::V4(0x0b00_0000 + u32::try_from(i).unwrap()).to_string();
            let until = (i < 10).then_some(NOW);
            all.apply(&format!("|IP|{value}"), Some(exemption("", Scope::Ip, &value, 1, until))).unwrap();
        }
        let more = || Some(exemption("", Scope::Ip, "198.51.100.1", 1, None));
        assert!(all.apply("|IP|198.51.100.1", more()).unwrap_err().contains("100000"));
        all.forget_ended(NOW - 1);
        assert_eq!(all.len(), EXEMPTIONS_MAX);
        all.forget_ended(NOW);
        assert_eq!(all.len(), EXEMPTIONS_MAX - 10);
        assert_eq!(all.apply("|IP|198.51.100.1", more()), Ok(true));
    }
}
