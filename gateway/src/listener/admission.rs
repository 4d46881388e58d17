//! How many may be connected.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memoric_contract::Network;

use crate::{
    config::{Connections, TrustedProxies},
    tally::Tally,
};

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

#[derive(Default)]
struct Present {
    total: usize,
    by_network: Tally<Network>,
}

impl Admission {
    pub(crate) fn new(limits: Connections, proxies: TrustedProxies) -> Arc<Self> {
        Arc::new(Self { limits, proxies, present: Mutex::default() })
    }

    /// Lets one more in from `client`, if there is room.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr) -> Result<Admitted, Refused> {
        let mut present = self.present();
        if present.total >= self.limits.total {
            return Err(Refused::Full);
        }
        let network = present.seat(client, self)?;
        present.total += 1;
        drop(present);
        Ok(Admitted { admission: Arc::clone(self), network })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// Counts it as that of `client`, whom a proxy has introduced.
    pub(crate) fn introduce(&mut self, client: IpAddr) -> Result<(), Refused> {
        self.network = self.admission.present().seat(client, &self.admission)?;
        Ok(())
    }
}

impl Present {
    /// Counts one more from `client`, unless it is a proxy that speaks for many.
    fn seat(&mut self, client: IpAddr, house: &Admission) -> Result<Option<Network>, Refused> {
        if house.proxies.trust(client) {
            return Ok(None);
        }
        let network = Network::of(client);
        match self.by_network.add(network, house.limits.per_address) {
            true => Ok(Some(network)),
            false => Err(Refused::Crowded),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut present = self.admission.present();
        present.total = present.total.saturating_sub(1);
        if let Some(network) = self.network {
            present.by_network.remove(network);
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
}
