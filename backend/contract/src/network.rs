//! Who counts as one client, as far as an address tells.

use std::net::{IpAddr, Ipv6Addr};

/// What one client can be assumed to hold: an IPv4 address, or a /64 of IPv6.
///
/// A single customer is given a whole /64, so counting each of its addresses would count nobody.
/// An IPv4 address dressed as IPv6 is the IPv4 address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network(IpAddr);

impl Network {
    /// The network of `client`.
    pub fn of(client: IpAddr) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & PREFIX)),
        })
    }
}

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
}
