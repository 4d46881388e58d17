//! How many may be connected.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::config::{Connections, TrustedProxies};

/// Counts who is connected, and turns the rest away.
///
/// A proxy that we trust speaks for many, so its connections count in all, and not by address.
pub(super) struct Admission {
    limits: Connections,
    proxies: TrustedProxies,
    present: Mutex<Present>,
}

/// A connection that was let in. Dropping it makes room.
pub(super) struct Admitted {
    admission: Arc<Admission>,
    network: Option<Network>,
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// Too many are connected.
    Full,
    /// Too many are connected from there.
    Crowded,
}

/// What one client can be assumed to hold: an IPv4 address, or a /64 of IPv6.
///
/// A single customer is given a whole /64, so counting each of its addresses would count nobody.
/// An IPv4 address dressed as IPv6 is the IPv4 address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Network(IpAddr);

#[derive(Default)]
struct Present {
    total: usize,
    /// Nobody is listed with none, so it is no longer than `total`.
    by_network: HashMap<Network, usize>,
}

impl Admission {
    pub(crate) fn new(limits: Connections, proxies: TrustedProxies) -> Arc<Self> {
        Arc::new(Self { limits, proxies, present: Mutex::default() })
    }

    /// Lets one more in from `client`, if there is room.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Admitted, Refused> {
        let network = (!self.proxies.trust(client)).then(|| Network::of(client));
        let mut present = self.present();
        if present.total >= self.limits.total {
            return Err(Refused::Full);
        }
        if let Some(network) = network {
            let from_there = present.by_network.entry(network).or_default();
            if *from_there >= self.limits.per_address {
                return Err(Refused::Crowded);
            }
            *from_there += 1;
        }
        present.total += 1;
        Ok(Admitted { admission: Arc::clone(self), network })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut present = self.admission.present();
        present.total = present.total.saturating_sub(1);
        let Some(network) = self.network else { return };
        if let Entry::Occupied(mut from_there) = present.by_network.entry(network) {
            match from_there.get().saturating_sub(1) {
                0 => drop(from_there.remove()),
                left => *from_there.get_mut() = left,
            }
        }
    }
}

impl Refused {
    /// The name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Full => "total",
            Self::Crowded => "address",
        }
    }
}

impl Network {
    /// The network of `client`.
    pub(crate) fn of(client: IpAddr) -> Self {
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
    use memoric_config::schema::TrustedHeader;

    use super::*;
    use crate::config::tests::proxies;

    fn admission(total: usize, per_address: usize) -> Arc<Admission> {
        let proxies = proxies(TrustedHeader::default(), &["10.0.0.1"]);
        Admission::new(Connections { total, per_address }, proxies)
    }

    #[test]
    fn one_client_cannot_take_every_seat() {
        let admission = admission(10, 2);
        let enter = |client: &str| admission.admit(client.parse().unwrap());

        let seats = [enter("192.0.2.1"), enter("192.0.2.1")];

        assert!(seats.iter().all(Result::is_ok));
        assert_eq!(enter("192.0.2.1").err(), Some(Refused::Crowded));
        assert!(enter("192.0.2.2").is_ok(), "the neighbour is let in");
        drop(seats);
        assert!(enter("192.0.2.1").is_ok(), "the seats are free again");
    }

    #[test]
    fn a_proxy_that_speaks_for_many_is_counted_in_all_alone() {
        let admission = admission(4, 1);
        let enter = |client: &str| admission.admit(client.parse().unwrap());

        let seats = ["10.0.0.1"; 4].map(enter);

        assert!(seats.iter().all(Result::is_ok));
        assert_eq!(enter("10.0.0.1").err(), Some(Refused::Full));
        drop(seats);
        let seat = enter("10.0.0.2");
        assert_eq!(enter("10.0.0.2").err(), Some(Refused::Crowded), "a neighbour is no proxy");
        drop(seat);
    }

    #[test]
    fn the_house_has_a_limit_of_its_own() {
        let admission = admission(2, 2);
        let seats =
            ["192.0.2.1", "192.0.2.2"].map(|client| admission.admit(client.parse().unwrap()));

        assert_eq!(admission.admit("192.0.2.3".parse().unwrap()).err(), Some(Refused::Full));
        drop(seats);
        assert!(admission.present().by_network.is_empty(), "nobody is remembered who has left");
    }

    #[test]
    fn the_addresses_of_one_client_count_as_one() {
        let network = |client: &str| Network::of(client.parse().unwrap());

        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"), "one /64");
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"), "two of them");
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"), "the same dressed up");
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
