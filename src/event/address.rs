//! Canonical network addresses: what counts as one source, and what it must never be blocked.
//!
//! An IPv4 source is one address. An IPv6 source is its /64, because one customer owns at least that much and an
//! attacker rotates inside it for nothing; it is written as CIDR, never as an address. IPv4-mapped IPv6 is unwrapped.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Scope;

/// The source of an attempt: one IPv4 address, or one IPv6 /64 (its upper 64 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    V4(u32),
    V6(u64),
}

/// The routing network of a source, which decides where it is processed: IPv4 /24 (upper 24 bits), IPv6 /48.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Network {
    V4(u32),
    V6(u64),
}

/// The text is no IPv4 or IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv4 or IPv6 address")]
pub struct NotAnAddress;

/// The first address of every range that must never be blocked ([`Source::is_blockable`] knows their extent): a range
/// that holds one of these holds at least a part of it.
pub const RESERVED: [IpAddr; 13] = [
    IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)),
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)),
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)),
    IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
];

/// Whether a range holds any part of one that must never be blocked.
#[must_use]
pub fn reserved_inside(net: &IpNet) -> bool {
    RESERVED.iter().any(|address| net.contains(address))
}

impl FromStr for Source {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        // A zone (`fe80::1%eth0`) says on which link the publisher saw it; it is no part of the address.
        let text = text.trim().split('%').next().unwrap_or_default();
        text.parse::<IpAddr>().map(Source::from).map_err(|_| NotAnAddress)
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source::V4(u32::from(v4)),
            IpAddr::V6(v6) => Source::V6((u128::from(v6) >> 64) as u64),
        }
    }
}

impl Source {
    /// The lowest address of the source.
    #[must_use]
    pub fn first_address(self) -> IpAddr {
        match self {
            Source::V4(bits) => IpAddr::V4(Ipv4Addr::from(bits)),
            Source::V6(bits) => IpAddr::V6(Ipv6Addr::from(u128::from(bits) << 64)),
        }
    }

    #[must_use]
    pub fn network(self) -> Network {
        match self {
            Source::V4(bits) => Network::V4(bits & 0xffff_ff00),
            Source::V6(bits) => Network::V6(bits & 0xffff_ffff_ffff_0000),
        }
    }

    /// IP for an IPv4 source, CIDR for an IPv6 one.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Source::V4(_) => Scope::Ip,
            Source::V6(_) => Scope::Cidr,
        }
    }

    /// Whether blocking it could ever be right: private, loopback, link-local, shared (100.64/10), multicast and
    /// unspecified addresses stand for a proxy or for nobody.
    #[must_use]
    pub fn is_blockable(self) -> bool {
        match self.first_address() {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                let shared = a == 100 && (64..128).contains(&b);
                !(v4.is_private()
                    || v4.is_loopback()
                    || v4.is_link_local()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || a == 0
                    || shared)
            }
            IpAddr::V6(v6) => {
                let top = v6.segments()[0];
                let unique_local = top & 0xfe00 == 0xfc00;
                let link_local = top & 0xffc0 == 0xfe80;
                // ::/64 holds loopback and the unspecified address.
                !(unique_local || link_local || v6.is_multicast() || u128::from(v6) >> 64 == 0)
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::V4(_) => write!(f, "{}", self.first_address()),
            Source::V6(_) => write!(f, "{}/64", self.first_address()),
        }
    }
}

/// Appends an address and the length of its prefix, as `Display` writes them: keys are made of this for every attempt,
/// and the formatting machinery costs more than the rest of the key.
fn write_v4(bits: u32, suffix: &[u8], out: &mut impl Extend<u8>) {
    for (place, byte) in bits.to_be_bytes().into_iter().enumerate() {
        if place > 0 {
            out.extend([b'.']);
        }
        if byte >= 100 {
            out.extend([b'0' + byte / 100]);
        }
        if byte >= 10 {
            out.extend([b'0' + byte / 10 % 10]);
        }
        out.extend([b'0' + byte % 10]);
    }
    out.extend(suffix.iter().copied());
}

impl Source {
    /// Appends what `Display` writes.
    pub fn write_to(self, out: &mut impl Extend<u8>) {
        match self {
            Source::V4(bits) => write_v4(bits, b"", out),
            Source::V6(_) => out.extend(self.to_string().into_bytes()),
        }
    }
}

impl Network {
    /// Appends what `Display` writes.
    pub fn write_to(self, out: &mut impl Extend<u8>) {
        match self {
            Network::V4(bits) => write_v4(bits, b"/24", out),
            Network::V6(_) => out.extend(self.to_string().into_bytes()),
        }
    }
}

impl Network {
    /// Whether blocking any of it could ever be right.
    #[must_use]
    pub fn is_blockable(self) -> bool {
        self.first_source().is_blockable()
    }

    #[must_use]
    pub const fn first_source(self) -> Source {
        match self {
            Network::V4(bits) => Source::V4(bits),
            Network::V6(bits) => Source::V6(bits),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = match self {
            Network::V4(_) => 24,
            Network::V6(_) => 48,
        };
        write!(f, "{}/{length}", self.first_source().first_address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, source: &str, network: &str, blockable: bool) {
        let parsed: Source = text.parse().unwrap();
        let seen = (parsed.to_string(), parsed.network().to_string(), parsed.is_blockable());
        assert_eq!(seen, (source.to_owned(), network.to_owned(), blockable), "{text}");
        let (mut written, mut written_network) = (Vec::new(), Vec::new());
        parsed.write_to(&mut written);
        parsed.network().write_to(&mut written_network);
        assert_eq!((written, written_network), (source.as_bytes().to_vec(), network.as_bytes().to_vec()), "{text}");
    }

    #[test]
    fn addresses_become_canonical() {
        check("203.0.113.7", "203.0.113.7", "203.0.113.0/24", true);
        check("9.10.99.100", "9.10.99.100", "9.10.99.0/24", true);
        check("::ffff:203.0.113.7", "203.0.113.7", "203.0.113.0/24", true);
        check("2001:DB8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48", true);
        check(" 203.0.113.7 ", "203.0.113.7", "203.0.113.0/24", true);
        check("fe80::1%eth0", "fe80::/64", "fe80::/48", false);
    }

    #[test]
    fn addresses_that_stand_for_many_or_nobody_are_not_blockable() {
        for text in [
            "10.0.65.171", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.1", "100.127.255.1",
            "0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "::", "fc00::1", "fd12::1", "ff02::1",
        ] {
            assert!(!text.parse::<Source>().unwrap().is_blockable(), "{text}");
        }
        for text in ["100.63.0.1", "100.128.0.1", "172.32.0.1", "11.0.0.1", "2a00::1"] {
            assert!(text.parse::<Source>().unwrap().is_blockable(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "999.1.1.1", "1.2.3", "1.2.3.4/24", "example.org", "1.2.3.4:80", "[::1]", "١.2.3.4"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }
}
