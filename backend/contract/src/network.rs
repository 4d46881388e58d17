//! Who counts as one client, as far as an address tells.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What one client can be assumed to hold: an IPv4 address, or a /64 of IPv6.
///
/// A single customer is given a whole /64, so counting each of its addresses would count nobody.
/// An IPv4 address dressed as IPv6 is the IPv4 address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network(IpAddr);

/// What one customer can have of many networks: a /16 of IPv4, or a /48 of IPv6.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Site(IpAddr);

impl Network {
    /// The network of `client`.
    pub fn of(client: IpAddr) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & PREFIX)),
        })
    }

    /// The site that it is part of.
    pub fn site(self) -> Site {
        Site(match self.0 {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & SITE_V4)),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & SITE_V6)),
        })
    }
}

/// The first 16 bits of an IPv4 address.
const SITE_V4: u32 = !0 << 16;

/// The first 48 bits of an IPv6 address.
const SITE_V6: u128 = !0 << 80;

/// The first 64 bits of an IPv6 address.
const PREFIX: u128 = !0 << 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_one_client_count_as_one() {
        let network = |client: &str| Network::of(client.parse().unwrap());

        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"), "one /64");
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"), "two of them");
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"), "the same dressed up");
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }

    #[test]
    fn the_networks_of_one_customer_are_one_site() {
        let site = |client: &str| Network::of(client.parse().unwrap()).site();

        assert_eq!(site("2001:db8:1:2::1"), site("2001:db8:1:ffff::1"), "one /48");
        assert_ne!(site("2001:db8:1::1"), site("2001:db8:2::1"));
        assert_eq!(site("192.0.2.1"), site("192.0.77.1"), "one /16");
        assert_ne!(site("192.0.2.1"), site("192.1.2.1"));
    }
}
