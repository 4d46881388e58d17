//! How many look-ups of credentials may fail, from one network and from all.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use memoric_contract::Network;
use quick_cache::sync::Cache;

use crate::{limits::Budget, rejection::Rejection};

/// Failures of the last minute. A key that fails had a good check MAC, so it was revoked, has expired,
/// or is a guess by who has the check key: in each case asking again and again helps nobody.
pub(crate) struct Lookups {
    networks: Cache<Network, Window>,
    all: Mutex<Window>,
}

/// Failures since a moment.
#[derive(Clone, Copy)]
struct Window {
    began: Instant,
    failures: u32,
}

impl Lookups {
    pub(crate) fn new(now: Instant) -> Self {
        let networks = Cache::new(NETWORKS);
        Self { networks, all: Mutex::new(Window { began: now, failures: 0 }) }
    }

    /// Rejects a look-up where too many have failed.
    pub(crate) fn ensure_allowed(
        &self,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), Rejection> {
        let network = Network::of(client.ok_or(Rejection::Unaccountable)?);
        let here = self.networks.get(&network).map_or(Ok(()), |window| window.ensure(MOST, now));
        here.and_then(|()| self.all().ensure(MOST_OF_ALL, now))
    }

    /// Takes note of a look-up that failed.
    pub(crate) fn failed(&self, client: Option<IpAddr>, now: Instant) {
        if let Some(network) = client.map(Network::of) {
            let window = self.networks.get(&network).unwrap_or(Window { began: now, failures: 0 });
            self.networks.insert(network, window.after_another(now));
        }
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.after_another(now);
    }

    fn all(&self) -> Window {
        *self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn ensure(self, most: u32, now: Instant) -> Result<(), Rejection> {
        let left = MINUTE.saturating_sub(now.saturating_duration_since(self.began));
        if self.failures < most || left.is_zero() {
            return Ok(());
        }
        let budget = Budget { name: "lookups", burst: most, left: 0, window: MINUTE.as_secs() };
        Err(Rejection::TooMany { retry_after: left, budget })
    }

    fn after_another(self, now: Instant) -> Self {
        if now.saturating_duration_since(self.began) >= MINUTE {
            return Self { began: now, failures: 1 };
        }
        Self { failures: self.failures.saturating_add(1), ..self }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Failures in a minute from one network.
const MOST: u32 = 30;

/// Failures in a minute from everywhere.
const MOST_OF_ALL: u32 = 3_000;

/// Networks that are counted apart; one that is forgotten begins anew, and counts among all.
const NETWORKS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_budgeted_by_network_and_among_all() {
        let now = Instant::now();
        let lookups = Lookups::new(now);
        let (one, other) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        for _ in 0..MOST {
            assert_eq!(lookups.ensure_allowed(one, now), Ok(()));
            lookups.failed(one, now);
        }

        let refused = lookups.ensure_allowed(one, now + MINUTE / 2);
        let Err(Rejection::TooMany { retry_after, budget }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((retry_after, budget.burst), (MINUTE / 2, MOST));
        assert_eq!(lookups.ensure_allowed(other, now), Ok(()));
        assert_eq!(lookups.ensure_allowed(one, now + MINUTE), Ok(()), "as it was told");

        for host in 0..MOST_OF_ALL {
            lookups.failed(Some(host.to_be_bytes().into()), now);
        }
        assert!(lookups.ensure_allowed(other, now).is_err(), "nor from everywhere together");
    }

    #[test]
    fn who_has_no_address_looks_nothing_up() {
        let lookups = Lookups::new(Instant::now());
        assert_eq!(lookups.ensure_allowed(None, Instant::now()), Err(Rejection::Unaccountable));
    }
}
