//! How often anyone may ask.

use std::{hash::Hash, net::IpAddr, num::NonZeroUsize, time::Duration};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock, QuantaInstant},
    middleware::{NoOpMiddleware, StateInformationMiddleware, StateSnapshot},
    nanos::Nanos,
    state::{
        InMemoryState, NotKeyed, StateStore,
        keyed::{DashMapStateStore, ShrinkableKeyedStateStore},
    },
};
use memoric_contract::{Identity, LimitClass, Operation, UserId};
use tokio::time::{MissedTickBehavior, interval};

use crate::{config, listener::Network, rejection::Rejection};

/// The budgets of everyone who has asked lately.
pub(crate) struct Limits {
    addresses: Ledger<Network>,
    identities: Ledger<UserId>,
    credentials: Ledger<Network>,
}

/// What is left of a budget after a charge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Budget {
    /// How many may be asked at once when all is left.
    pub(crate) burst: u32,
    /// How many of them are left.
    pub(crate) left: u32,
    /// How many seconds it takes to earn all of them back.
    pub(crate) window: u64,
}

impl Budget {
    /// The same with nothing left.
    pub(crate) fn spent(self) -> Self {
        Self { left: 0, ..self }
    }
}

struct Ledger<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, Capped<K>, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
}

/// A state for each key up to a number of them, and one that all further keys share.
///
/// A flood of addresses can so neither make the map grow nor pass for want of room in it. A key
/// that is in the map keeps its own state.
struct Capped<K: Hash + Eq + Clone> {
    states: DashMapStateStore<K>,
    shared: InMemoryState,
    most: usize,
}

impl Limits {
    pub(crate) fn new(limits: &config::Limits) -> Self {
        Self {
            addresses: Ledger::new(limits.address, limits.keys),
            identities: Ledger::new(limits.identity, limits.keys),
            credentials: Ledger::new(limits.credentials, limits.keys),
        }
    }

    /// Charges the address a request came from, before we know who sent it.
    pub(crate) fn charge_client(&self, client: Option<IpAddr>) -> Result<Budget, Rejection> {
        self.addresses.charge(&network(client)?)
    }

    /// Charges whoever asks for an operation: a known caller for asking, wherever they connect
    /// from, and the address as well where a secret could be guessed.
    pub(crate) fn charge_operation(
        &self,
        identity: Option<&Identity>,
        client: Option<IpAddr>,
        operation: Operation,
    ) -> Result<Option<Budget>, Rejection> {
        let budget = identity.map(|identity| self.identities.charge(&identity.user)).transpose()?;
        if operation.limit_class() == LimitClass::Credentials {
            self.credentials.charge(&network(client)?)?;
        }
        Ok(budget)
    }

    /// Forgets, now and then, whoever has earned back everything.
    pub(crate) async fn tidy(&self) {
        let mut due = interval(TIDYING);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            self.addresses.limiter.retain_recent();
            self.identities.limiter.retain_recent();
            self.credentials.limiter.retain_recent();
        }
    }
}

impl<K: Hash + Eq + Clone> Ledger<K> {
    fn new(quota: Quota, most: NonZeroUsize) -> Self {
        let clock = DefaultClock::default();
        let states = DashMapStateStore::default();
        let store = Capped { states, shared: InMemoryState::default(), most: most.get() };
        let limiter =
            RateLimiter::<_, _, _, NoOpMiddleware<QuantaInstant>>::new(quota, store, clock.clone());
        let limiter = limiter.with_middleware();
        Self { limiter, clock }
    }

    fn charge(&self, key: &K) -> Result<Budget, Rejection> {
        let left = self.limiter.check_key(key);
        left.map(budget).map_err(|until: NotUntil<QuantaInstant>| Rejection::TooMany {
            retry_after: until.wait_time_from(self.clock.now()),
        })
    }
}

impl<K: Hash + Eq + Clone> StateStore for Capped<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if self.states.len() < self.most || self.states.contains_key(key) {
            self.states.measure_and_replace(key, decide)
        } else {
            self.shared.measure_and_replace(&NotKeyed::NonKey, decide)
        }
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for Capped<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        self.states.retain_recent(drop_below);
    }

    fn len(&self) -> usize {
        self.states.len()
    }

    fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

fn budget(left: StateSnapshot) -> Budget {
    let quota = left.quota();
    let window = quota.burst_size_replenished_in();
    Budget {
        burst: quota.burst_size().get(),
        left: left.remaining_burst_capacity(),
        window: window.as_secs() + u64::from(window.subsec_nanos() > 0),
    }
}

fn network(client: Option<IpAddr>) -> Result<Network, Rejection> {
    client.map(Network::of).ok_or(Rejection::Unaccountable)
}

/// How often the budgets are looked through for those that are full again.
const TIDYING: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn a_burst_is_spent_and_the_wait_is_told() {
        let limits = limits(3, 1000);
        let charge = || limits.charge_client(Some([192, 0, 2, 1].into()));
        assert_eq!(charge().unwrap().left, 2);
        assert!(charge().is_ok() && charge().is_ok());
        let Err(Rejection::TooMany { retry_after }) = charge() else { panic!("a fourth") };
        assert!(retry_after <= Duration::from_secs(1) && !retry_after.is_zero());
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let limits = limits(1, 1000);
        let charge = |address: &str| limits.charge_client(Some(address.parse().unwrap())).is_ok();
        assert!(charge("2001:db8::1") && !charge("2001:db8::2"), "a /64 is one customer");
        assert!(charge("2001:db8:0:1::1"), "and the next /64 another");
        assert!(charge("192.0.2.1") && !charge("::ffff:192.0.2.1"), "in whatever dress");
        assert!(limits.charge_client(None).is_err(), "nobody is not let in for free");
    }

    #[test]
    fn those_without_room_share_one_budget() {
        let limits = limits(2, 1);
        let charge = |last: u8| limits.charge_client(Some([192, 0, 2, last].into())).is_ok();
        assert!(charge(1));
        assert!(charge(2) && charge(3), "two for all the rest together");
        assert!(!charge(4) && !charge(2));
        assert!(charge(1), "who has a place keeps it");
    }

    #[test]
    fn a_secret_is_guessed_at_the_addresss_expense() {
        let limits = limits(1, 1000);
        let charge =
            |operation| limits.charge_operation(None, Some([192, 0, 2, 1].into()), operation);
        assert!(charge(Operation::Login).is_ok());
        assert!(charge(Operation::Register).is_err(), "one budget for every guess");
        assert!(charge(Operation::ShowOpenApi).is_ok());
    }

    fn limits(burst: u32, keys: usize) -> Limits {
        let quota = Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(burst).unwrap());
        let keys = NonZeroUsize::new(keys).unwrap();
        Limits::new(&config::Limits { address: quota, identity: quota, credentials: quota, keys })
    }
}
