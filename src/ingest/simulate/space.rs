//! Which addresses belong to whom.
//!
//! The ranges are public-looking and the assignments invented: autonomous systems have private numbers (RFC 6996), so
//! that no real network is spoken of. People and attackers share countries and some providers, never a /24.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dice::{Shuffle, mix, scale};

/// A run of /24 networks of one provider.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// The first network, as its upper 24 bits.
    pub(super) first: u32,
    /// How many /24 networks.
    pub(super) networks: u32,
    pub(super) asn: u32,
    pub(super) country: &'static str,
}

const fn block(a: u8, b: u8, c: u8, networks: u32, asn: u32, country: &'static str) -> Block {
    Block { first: ((a as u32) << 16) | ((b as u32) << 8) | (c as u32), networks, asn, country }
}

/// An address with its provider and country.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub ip: IpAddr,
    pub asn: u32,
    pub country: &'static str,
}

/// Homes with an address of their own: 30,720 networks, ten homes each.
const HOMES: &[Block] = &[
    block(90, 0, 0, 8192, 64_601, "FR"),
    block(86, 192, 0, 6144, 64_602, "FR"),
    block(109, 208, 0, 4096, 64_603, "FR"),
    block(87, 128, 0, 3072, 64_611, "DE"),
    block(83, 32, 0, 2048, 64_612, "ES"),
    block(86, 128, 0, 2048, 64_613, "GB"),
    block(81, 240, 0, 1536, 64_614, "BE"),
    block(79, 0, 0, 1024, 64_615, "IT"),
    block(84, 80, 0, 768, 64_616, "NL"),
    block(73, 16, 0, 512, 64_617, "US"),
    block(177, 0, 0, 512, 64_621, "BR"),
    block(113, 160, 0, 256, 64_622, "VN"),
    block(122, 160, 0, 256, 64_623, "IN"),
    block(95, 24, 0, 256, 64_624, "RU"),
];
/// Homes in one /24.
const HOMES_A_NETWORK: u64 = 10;
/// How many homes there are.
pub(super) const HOME_ADDRESSES: u64 = networks(HOMES) * HOMES_A_NETWORK;

/// Exits that a thousand homes share, 15 in each network.
const SHARED: &[Block] = &[block(92, 150, 16, 4, 64_602, "FR"), block(37, 170, 8, 2, 64_604, "FR")];
/// Gateways of mobile networks: whoever is not at home, 32 exits in each network.
const MOBILE: &[Block] =
    &[block(92, 184, 96, 32, 64_604, "FR"), block(37, 160, 0, 24, 64_605, "FR"), block(109, 40, 64, 8, 64_611, "DE")];
/// Offices, eight addresses each, 30 in each network.
const OFFICES: &[Block] = &[block(195, 25, 32, 2, 64_606, "FR"), block(194, 51, 80, 1, 64_607, "FR")];
/// What people with a private network in front of them come from.
const TUNNELS: &[Block] = &[block(146, 70, 48, 2, 64_651, "NL")];
/// Upper 32 bits of the homes that speak IPv6, 16 customers in each /48.
const HOMES_V6: u128 = 0x2a01_cb00;

/// Homes and small firms whose machines are not only their own.
const BOTNET: &[Block] = &[
    block(177, 32, 0, 4096, 64_621, "BR"),
    block(36, 64, 0, 3072, 64_631, "ID"),
    block(113, 170, 0, 2048, 64_622, "VN"),
    block(122, 172, 0, 2048, 64_623, "IN"),
    block(95, 28, 0, 1024, 64_624, "RU"),
    block(171, 96, 0, 1536, 64_632, "TH"),
    block(181, 128, 0, 1024, 64_633, "CO"),
    block(189, 128, 0, 1024, 64_634, "MX"),
    block(41, 96, 0, 512, 64_635, "DZ"),
    block(90, 96, 0, 256, 64_601, "FR"),
];
/// Hosting providers. The first network of each fills first, so that their addresses stand close together.
const HOSTING: &[Block] = &[
    block(45, 138, 96, 16, 64_641, "DE"),
    block(185, 161, 208, 16, 64_642, "RU"),
    block(193, 56, 16, 16, 64_643, "UA"),
    block(91, 200, 32, 16, 64_644, "FR"),
    block(5, 181, 64, 16, 64_645, "MD"),
    block(194, 87, 128, 16, 64_646, "RU"),
    block(107, 172, 96, 16, 64_647, "US"),
    block(103, 145, 32, 16, 64_648, "SG"),
];
/// The provider from which the two accounts of the night are entered.
const INTRUDER: Block = block(185, 187, 240, 4, 64_650, "NL");

/// The systems of [`HOSTING`], of the intruder's provider and of people's tunnels: what a list of hosting providers
/// would hold.
pub const HOSTING_ASNS: &[u32] = &[64_641, 64_642, 64_643, 64_644, 64_645, 64_646, 64_647, 64_648, 64_650, 64_651];

/// Host numbers used in a /24: 1 to 250.
const HOSTS: u64 = 250;
/// How many exits a network of each kind has.
const SHARED_EXITS: u64 = 15;
const MOBILE_EXITS: u64 = 32;
/// How many shared exits there are: with 300,000 people, a fifth of them behind these, about 670 people each.
pub(super) const SHARED_ADDRESSES: u64 = networks(SHARED) * SHARED_EXITS;
/// How many office addresses there are: 90 offices of 8.
pub(super) const OFFICE_ADDRESSES: u64 = networks(OFFICES) * 240;

const fn networks(blocks: &[Block]) -> u64 {
    let (mut sum, mut rest) = (0, blocks);
    while let [first, others @ ..] = rest {
        sum += first.networks as u64;
        rest = others;
    }
    sum
}

/// The home with a number below [`HOME_ADDRESSES`].
pub(super) fn home(number: u64) -> Place {
    let network = number / HOMES_A_NETWORK;
    let offset = mix(network, 1) % 20;
    place(HOMES, network, 10 + number % HOMES_A_NETWORK * 23 + offset)
}

/// The IPv6 home of a customer; below 2^20.
pub(super) fn home_v6(customer: u64) -> Place {
    let (prefix, line) = (u128::from(customer / 16 % 65_536), u128::from(customer % 16));
    let bits = (HOMES_V6 << 96) | (prefix << 80) | (line << 72) | u128::from(mix(customer, 2));
    Place { ip: IpAddr::V6(Ipv6Addr::from(bits)), asn: 64_601, country: "FR" }
}

pub(super) fn shared(number: u64) -> Place {
    place(SHARED, number / SHARED_EXITS, 10 + number % SHARED_EXITS * 4)
}

pub(super) fn office(number: u64) -> Place {
    place(OFFICES, number / 240, 8 + number % 240)
}

/// Some mobile exit, from 64 random bits.
pub(super) fn mobile(bits: u64) -> Place {
    let number = scale(bits, networks(MOBILE) * MOBILE_EXITS);
    place(MOBILE, number / MOBILE_EXITS, 20 + number % MOBILE_EXITS * 5)
}

/// Some exit of a tunnel, from 64 random bits.
pub(super) fn tunnel(bits: u64) -> Place {
    let number = scale(bits, networks(TUNNELS) * 40);
    place(TUNNELS, number / 40, 10 + number % 40)
}

/// A network of an IPv6 hosting customer, as its upper 48 bits.
const HOSTED_V6: u128 = 0x2a0b_4340_0171;

/// Where an attack takes its addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// A botnet, and every fourth of a hosting provider.
    Mixed,
    /// Homes and small firms alone.
    Residential,
    /// One hosting provider alone.
    OneProvider,
    /// Exits that many honest people share: of homes, of mobile networks, of tunnels.
    SharedExits,
    /// Addresses inside one IPv6 /64.
    OneV6Customer,
    /// The /64 networks inside one IPv6 /48.
    OneV6Site,
}

/// The addresses that an attack can use, in an order that depends on the seed. Every fourth is a hosting provider's.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttackSpace {
    botnet: Shuffle,
    hosting: Shuffle,
    intruder: u64,
}

/// Hosting addresses that fill before the next network of each provider begins.
const HOSTING_CHUNK: u64 = HOSTING.len() as u64 * HOSTS;

impl AttackSpace {
    pub(super) fn new(seed: u64) -> Self {
        AttackSpace {
            botnet: Shuffle::new(networks(BOTNET) * HOSTS, seed, "botnet"),
            hosting: Shuffle::new(HOSTING_CHUNK, seed, "hosting"),
            intruder: mix(seed, 3),
        }
    }

    /// The address with a number. The first hundred thousand are different from each other.
    pub(super) fn address(&self, number: u64) -> Place {
        if number % 4 == 3 {
            return self.hosted(number / 4);
        }
        let n = self.botnet.at(number - number / 4);
        place(BOTNET, n / HOSTS, 1 + n % HOSTS)
    }

    /// The address with a number, of a pool.
    pub(super) fn of(&self, pool: Pool, number: u64) -> Place {
        match pool {
            Pool::Mixed => self.address(number),
            Pool::Residential => {
                let n = self.botnet.at(number);
                place(BOTNET, n / HOSTS, 1 + n % HOSTS)
            }
            Pool::OneProvider => {
                let n = self.hosting.at(number % HOSTING_CHUNK);
                // As many addresses as one provider's networks have hosts.
                place(&HOSTING[..1], n / HOSTS % 16, 1 + n % HOSTS)
            }
            Pool::SharedExits => match number {
                0..SHARED_ADDRESSES => shared(number),
                _ if number % 8 == 7 => tunnel(mix(number, 11)),
                _ => mobile(mix(number, 11)),
            },
            Pool::OneV6Customer => hosted_v6(mix(self.intruder, 1) & 0xffff, mix(number, 12)),
            Pool::OneV6Site => hosted_v6(mix(number, 12) & 0xffff, mix(number, 13)),
        }
    }

    fn hosted(&self, number: u64) -> Place {
        let n = self.hosting.at(number % HOSTING_CHUNK);
        let provider = n / HOSTS;
        let network = number / HOSTING_CHUNK % 16;
        place(HOSTING, provider * 16 + network, 1 + n % HOSTS)
    }

    /// The address from which the two accounts of the night are entered, and those beside it for one who must move.
    pub(super) fn intruder(&self, number: u64) -> Place {
        let all = u64::from(INTRUDER.networks) * HOSTS;
        let n = (scale(self.intruder, all) + number * 37) % all;
        place(&[INTRUDER], n / HOSTS, 1 + n % HOSTS)
    }
}

fn hosted_v6(network: u64, host: u64) -> Place {
    let bits = (HOSTED_V6 << 80) | (u128::from(network) << 64) | u128::from(host);
    Place { ip: IpAddr::V6(Ipv6Addr::from(bits)), asn: 64_642, country: "RU" }
}

/// The address `host` in the network with a number, counted through the blocks; beyond them it begins again.
fn place(blocks: &[Block], network: u64, host: u64) -> Place {
    let mut rest = network % networks(blocks).max(1);
    for block in blocks {
        let size = u64::from(block.networks);
        if rest < size {
            let bits = (u64::from(block.first) + rest) << 8 | (host & 0xff);
            let ip = IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).unwrap_or_default()));
            return Place { ip, asn: block.asn, country: block.country };
        }
        rest -= size;
    }
    Place { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), asn: 0, country: "ZZ" }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::event::Source;

    #[test]
    fn no_network_belongs_to_two() {
        let intruder = [INTRUDER];
        let all = [HOMES, SHARED, MOBILE, OFFICES, TUNNELS, BOTNET, HOSTING, &intruder];
        let mut blocks: Vec<Block> = all.concat();
        blocks.sort_by_key(|block| block.first);
        for pair in blocks.windows(2) {
            assert!(pair[0].first + pair[0].networks <= pair[1].first, "{pair:?}");
        }
        for block in blocks {
            assert!(Source::V4(block.first << 8).is_blockable(), "{block:?}");
        }
    }

    #[test]
    fn addresses_are_different_and_a_quarter_is_hosted() {
        let space = AttackSpace::new(5);
        let places: Vec<Place> = (0..100_000).map(|n| space.address(n)).collect();
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 100_000);
        let hosted = places.iter().take(700).filter(|place| HOSTING_ASNS.contains(&place.asn)).count();
        assert_eq!(hosted, 175);
        assert!(places.iter().all(|place| place.ip != space.intruder(0).ip));
        let homes: BTreeSet<Place> = (0..50_000).map(home).collect();
        assert_eq!(homes.len(), 50_000);
    }
}
