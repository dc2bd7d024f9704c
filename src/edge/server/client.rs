//! Who asks, by a certificate, and whom a request is about: the client's address, told by the proxies that are trusted and
//! by nobody else.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderValue;
use ipnet::IpNet;

use super::shared::VERIFIED;

/// Most addresses of `X-Forwarded-For` that are looked at, from the right.
pub const HOPS_MAX: usize = 32;

/// The name of a client by its certificate, which an authority that is trusted has signed. Whoever takes connections puts
/// it beside their requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedClient(Arc<str>);

impl VerifiedClient {
    #[must_use]
    pub fn new(name: String) -> Self {
        VerifiedClient(name.into())
    }
}

/// A request with the verified name of its client, if it has one, where headers are looked for; what the client itself wrote
/// there is gone.
pub(super) async fn verified(mut request: Request) -> Request {
    request.headers_mut().remove(VERIFIED);
    let client = request.extensions_mut().remove::<VerifiedClient>();
    if let Some(name) = client.and_then(|client| HeaderValue::from_str(&client.0).ok()) {
        request.headers_mut().insert(VERIFIED, name);
    }
    request
}

/// Networks whose word about the address before them is taken.
#[derive(Debug, Clone)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        TrustedProxies(networks)
    }

    /// This machine alone.
    #[must_use]
    pub fn loopback() -> Self {
        let v4 = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
        TrustedProxies(vec![v4.into(), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST).into()])
    }

    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client behind a request from `peer`: the first address from the right that is no trusted proxy, or the
    /// outermost proxy when all are. `None` when a trusted proxy passed on what is no address: then nobody is named, and
    /// nobody is taken for somebody else.
    #[must_use]
    pub fn client<'a>(&self, peer: IpAddr, forwarded_for: impl DoubleEndedIterator<Item = &'a str>) -> Option<IpAddr> {
        let mut client = peer.to_canonical();
        let told = forwarded_for.rev().flat_map(|line| line.rsplit(',')).map(str::trim);
        for text in told.take(HOPS_MAX) {
            if !self.trusts(client) {
                return Some(client);
            }
            client = address_of(text)?;
        }
        Some(client)
    }
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text.parse::<IpAddr>();
    let with_port = || text.parse::<std::net::SocketAddr>().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    bare.or_else(|_| with_port()).ok().or_else(in_brackets).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> TrustedProxies {
        TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()])
    }

    #[track_caller]
    fn check(peer: &str, lines: &[&str], client: Option<&str>) {
        let seen = proxies().client(peer.parse().unwrap(), lines.iter().copied());
        assert_eq!(seen, client.map(|text| text.parse().unwrap()), "{peer} {lines:?}");
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        check("10.0.0.1", &["203.0.113.9"], Some("203.0.113.9"));
        check("198.51.100.1", &["203.0.113.9"], Some("198.51.100.1"));
        // What the client wrote itself stands to the left of what the proxy saw.
        check("10.0.0.1", &["192.0.2.1, 203.0.113.9"], Some("203.0.113.9"));
        check("10.0.0.1", &["192.0.2.1", "203.0.113.9, 10.0.0.2"], Some("203.0.113.9"));
        check("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], Some("203.0.113.9"));
        check("2001:db8:1::5", &["2001:db8:2::7"], Some("2001:db8:2::7"));
        check("10.0.0.1", &["10.0.0.3,10.0.0.2"], Some("10.0.0.3"));
        check("10.0.0.1", &[], Some("10.0.0.1"));
        check("10.0.0.1", &["203.0.113.9:4711"], Some("203.0.113.9"));
        check("10.0.0.1", &["[2001:db8::9]:4711"], Some("2001:db8::9"));
        check("10.0.0.1", &["[2001:db8::9]"], Some("2001:db8::9"));
    }

    #[test]
    fn what_is_no_address_names_nobody() {
        for text in ["", "unknown", "203.0.113", "203.0.113.9,", "<script>", "_hidden"] {
            check("10.0.0.1", &[text], None);
        }
        check("198.51.100.1", &["unknown"], Some("198.51.100.1"));
        let long = vec!["10.0.0.2"; 10_000].join(",");
        check("10.0.0.1", &[&format!("203.0.113.9,{long}")], Some("10.0.0.2"));
    }

    #[test]
    fn this_machine_trusts_itself() {
        let proxies = TrustedProxies::loopback();
        assert!(
            ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"].iter().all(|a| proxies.trusts(a.parse().unwrap()))
        );
        assert!(!["10.0.0.1", "::2", "203.0.113.9"].iter().any(|a| proxies.trusts(a.parse().unwrap())));
    }
}
