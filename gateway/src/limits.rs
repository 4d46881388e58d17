//! How often anyone may ask.

use std::{hash::Hash, net::IpAddr, num::NonZeroUsize, time::Duration};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock, QuantaInstant},
    middleware::{NoOpMiddleware, StateInformationMiddleware},
    nanos::Nanos,
    state::{
        InMemoryState, NotKeyed, StateStore,
        keyed::{DashMapStateStore, ShrinkableKeyedStateStore},
    },
};
use http::Method;
use memoric_contract::{Identity, LimitClass, Network, Operation, UserId};
use tokio::time::{MissedTickBehavior, interval};

use crate::{config, rejection::Rejection};

/// The budgets of everyone who has asked lately.
pub(crate) struct Limits {
    addresses: Ledger<Network>,
    probes: Ledger<Network>,
    credentials: Ledger<Network>,
    identities: Ledger<UserId>,
    reads: Ledger<Payer>,
    writes: Ledger<Payer>,
    administration: Ledger<Payer>,
}

/// What is left of a budget after a charge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Budget {
    /// What it is for.
    pub(crate) name: &'static str,
    /// How many may be asked at once when all is left.
    pub(crate) burst: u32,
    /// How many of them are left.
    pub(crate) left: u32,
    /// How many seconds it takes to earn all of them back.
    pub(crate) window: u64,
}

/// Who is charged for what an operation does: whoever asks, wherever they connect from, or else
/// where they connect from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Payer {
    User(UserId),
    Network(Network),
}

struct Ledger<K: Hash + Eq + Clone> {
    name: &'static str,
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
        let keys = limits.keys;
        Self {
            addresses: Ledger::new("address", limits.address, keys),
            probes: Ledger::new("health", limits.health, keys),
            credentials: Ledger::new("credentials", limits.credentials, keys),
            identities: Ledger::new("identity", limits.identity, keys),
            reads: Ledger::new("read", limits.read, keys),
            writes: Ledger::new("write", limits.write, keys),
            administration: Ledger::new("admin", limits.admin, keys),
        }
    }

    /// Charges the address a request came from, before we know who sent it.
    ///
    /// Whoever shares an address with a probe must not keep it from its answer, so what asks for
    /// health has a budget of its own.
    pub(crate) fn charge_client(
        &self,
        client: Option<IpAddr>,
        operation: Option<Operation>,
    ) -> Result<Budget, Rejection> {
        match operation.map(Operation::limit_class) {
            Some(LimitClass::Health) => self.probes.charge(&network(client)?),
            _ => self.addresses.charge(&network(client)?),
        }
    }

    /// Charges whoever asks for an operation, once for asking and once for what it does. Where a
    /// secret could be guessed that is the address, whoever they say they are.
    ///
    /// Returns what is left of the budget of which least is left.
    pub(crate) fn charge_operation(
        &self,
        identity: Option<&Identity>,
        client: Option<IpAddr>,
        operation: Operation,
    ) -> Result<Option<Budget>, Rejection> {
        let asking = identity.map(|identity| self.identities.charge(&identity.user)).transpose()?;
        let payer = || match identity {
            Some(identity) => Ok(Payer::User(identity.user)),
            None => network(client).map(Payer::Network),
        };
        let doing = match operation.limit_class() {
            // It was charged for already.
            LimitClass::Health => None,
            LimitClass::Credentials => Some(self.credentials.charge(&network(client)?)?),
            LimitClass::Read => Some(self.reads.charge(&payer()?)?),
            LimitClass::Write => Some(self.writes.charge(&payer()?)?),
            LimitClass::Admin => Some(self.administration.charge(&payer()?)?),
        };
        Ok(Budget::tightest([asking, doing]))
    }

    /// Charges whoever asks a service, once for asking and once for reading, or for writing where the
    /// `method` may change something. Returns what is left of the budget of which least is left.
    pub(crate) fn charge_route(
        &self,
        identity: &Identity,
        method: &Method,
    ) -> Result<Budget, Rejection> {
        let asking = self.identities.charge(&identity.user)?;
        let ledger = if method.is_safe() { &self.reads } else { &self.writes };
        let doing = ledger.charge(&Payer::User(identity.user))?;
        Ok(if doing.left < asking.left { doing } else { asking })
    }

    /// Forgets, now and then, whoever has earned back everything.
    pub(crate) async fn tidy(&self) {
        let mut due = interval(TIDYING);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            for ledger in [&self.addresses, &self.probes, &self.credentials] {
                ledger.limiter.retain_recent();
            }
            self.identities.limiter.retain_recent();
            for ledger in [&self.reads, &self.writes, &self.administration] {
                ledger.limiter.retain_recent();
            }
        }
    }
}

impl Budget {
    /// The one of which least is left.
    pub(crate) fn tightest(budgets: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        budgets.into_iter().flatten().min_by_key(|budget| budget.left)
    }
}

impl<K: Hash + Eq + Clone> Ledger<K> {
    fn new(name: &'static str, quota: Quota, most: NonZeroUsize) -> Self {
        let clock = DefaultClock::default();
        let states = DashMapStateStore::default();
        let store = Capped { states, shared: InMemoryState::default(), most: most.get() };
        let limiter =
            RateLimiter::<_, _, _, NoOpMiddleware<QuantaInstant>>::new(quota, store, clock.clone());
        let limiter = limiter.with_middleware();
        Self { name, limiter, clock }
    }

    fn charge(&self, key: &K) -> Result<Budget, Rejection> {
        let left = self.limiter.check_key(key).map_err(|until: NotUntil<QuantaInstant>| {
            let retry_after = until.wait_time_from(self.clock.now());
            Rejection::TooMany { retry_after, budget: self.budget(until.quota(), 0) }
        })?;
        Ok(self.budget(left.quota(), left.remaining_burst_capacity()))
    }

    fn budget(&self, quota: Quota, left: u32) -> Budget {
        let window = quota.burst_size_replenished_in();
        Budget {
            name: self.name,
            burst: quota.burst_size().get(),
            left,
            window: window.as_secs() + u64::from(window.subsec_nanos() > 0),
        }
    }
}

impl<K: Hash + Eq + Clone> StateStore for Capped<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        // What is likely first: to count them takes every lock of the map.
        if self.states.contains_key(key) || self.states.len() < self.most {
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

fn network(client: Option<IpAddr>) -> Result<Network, Rejection> {
    client.map(Network::of).ok_or(Rejection::Unaccountable)
}

/// How often the budgets are looked through for those that are full again.
const TIDYING: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, num::NonZeroU32};

    use memoric_contract::Role;

    use super::*;
    use crate::authn::tests::somebody;

    #[test]
    fn a_burst_is_spent_and_the_wait_is_told() {
        let limits = limits(3, 1000);
        let charge = || limits.charge_client(Some([192, 0, 2, 1].into()), None);
        assert_eq!(charge().unwrap().left, 2);
        assert!(charge().is_ok() && charge().is_ok());
        let Err(Rejection::TooMany { retry_after, budget }) = charge() else { panic!("a fourth") };
        assert!(retry_after <= Duration::from_secs(1) && !retry_after.is_zero());
        assert_eq!(budget, Budget { name: "address", burst: 3, left: 0, window: 3 });
    }

    #[test]
    fn addresses_of_one_customer_are_one() {
        let limits = limits(1, 1000);
        let charge =
            |address: &str| limits.charge_client(Some(address.parse().unwrap()), None).is_ok();
        assert!(charge("2001:db8::1") && !charge("2001:db8::2"), "a /64 is one customer");
        assert!(charge("2001:db8:0:1::1"), "and the next /64 another");
        assert!(charge("192.0.2.1") && !charge("::ffff:192.0.2.1"), "in whatever dress");
        assert!(limits.charge_client(None, None).is_err(), "nobody is not let in for free");
    }

    #[test]
    fn those_without_room_share_one_budget() {
        let limits = limits(2, 1);
        let charge = |last: u8| limits.charge_client(Some([192, 0, 2, last].into()), None).is_ok();
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

    #[test]
    fn each_class_has_a_budget_of_its_own() {
        let limits = Limits::new(&config::Limits { identity: quota(100), ..quotas(1, 1000) });
        let charge = |operation| charge_user(&limits, operation);
        let operations = [
            Operation::RecallMemories,
            Operation::RememberMemory,
            Operation::ReadAudit,
            Operation::ChangePassword,
        ];

        for operation in operations {
            assert_eq!(charge(operation).unwrap().map(|budget| budget.left), Some(0));
        }
        for operation in operations {
            assert!(charge(operation).is_err(), "{operation:?}");
        }
        for health in [Operation::ShowHealth, Operation::ShowReadiness] {
            let told = charge(health).unwrap().unwrap();
            assert_eq!(told.name, "identity", "it was charged for before");
        }
    }

    #[test]
    fn a_service_is_asked_at_the_expense_of_reads_or_of_writes() {
        let limits = Limits::new(&config::Limits { identity: quota(100), ..quotas(1, 1000) });
        let charge = |method| limits.charge_route(&somebody(7, Role::User), &method);

        assert_eq!(charge(Method::GET).unwrap().name, "read");
        assert!(charge(Method::HEAD).is_err() && charge_user(&limits, Operation::ShowMe).is_err());
        assert_eq!(charge(Method::POST).unwrap().name, "write");
        assert!(charge(Method::DELETE).is_err());
    }

    #[test]
    fn health_is_asked_at_nobody_elses_expense() {
        let limits = limits(1, 1000);
        let charge = |operation| limits.charge_client(CLIENT, operation).map(|budget| budget.name);

        assert_eq!(charge(None), Ok("address"));
        assert!(charge(Some(Operation::RecallMemories)).is_err(), "one budget for all the rest");
        assert_eq!(charge(Some(Operation::ShowReadiness)), Ok("health"));
        assert!(charge(Some(Operation::ShowHealth)).is_err(), "and one for health");
    }

    #[test]
    fn the_budget_is_told_of_which_least_is_left() {
        let limits = Limits::new(&config::Limits { read: quota(5), ..quotas(9, 1000) });
        let told = |operation| charge_user(&limits, operation).unwrap().unwrap();

        assert_eq!(told(Operation::RecallMemories).name, "read");
        assert_eq!(told(Operation::RecallMemories).left, 3);
        let told = told(Operation::RememberMemory);
        assert_eq!((told.name, told.left), ("identity", 6));
    }

    /// Charges one user for it.
    fn charge_user(limits: &Limits, operation: Operation) -> Result<Option<Budget>, Rejection> {
        limits.charge_operation(Some(&somebody(7, Role::User)), CLIENT, operation)
    }

    fn limits(burst: u32, keys: usize) -> Limits {
        Limits::new(&quotas(burst, keys))
    }

    fn quotas(burst: u32, keys: usize) -> config::Limits {
        config::Limits {
            address: quota(burst),
            identity: quota(burst),
            health: quota(burst),
            credentials: quota(burst),
            read: quota(burst),
            write: quota(burst),
            admin: quota(burst),
            keys: NonZeroUsize::new(keys).unwrap(),
        }
    }

    /// One in a second, and so many at once.
    fn quota(burst: u32) -> Quota {
        Quota::per_second(NonZeroU32::MIN).allow_burst(NonZeroU32::new(burst).unwrap())
    }

    const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
}
