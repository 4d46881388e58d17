//! One budget for each of many, and one that all further share.

use std::{hash::Hash, num::NonZeroUsize};

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

use super::Budget;
use crate::rejection::Rejection;

/// The budgets of everyone who has asked for one kind of thing lately.
pub(super) struct Ledger<K: Hash + Eq + Clone> {
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

impl<K: Hash + Eq + Clone> Ledger<K> {
    pub(super) fn new(name: &'static str, quota: Quota, most: NonZeroUsize) -> Self {
        let clock = DefaultClock::default();
        let states = DashMapStateStore::default();
        let store = Capped { states, shared: InMemoryState::default(), most: most.get() };
        let limiter =
            RateLimiter::<_, _, _, NoOpMiddleware<QuantaInstant>>::new(quota, store, clock.clone());
        let limiter = limiter.with_middleware();
        Self { name, limiter, clock }
    }

    /// Spends one of what `key` has.
    pub(super) fn charge(&self, key: &K) -> Result<Budget, Rejection> {
        let left = self.limiter.check_key(key).map_err(|until: NotUntil<QuantaInstant>| {
            let retry_after = until.wait_time_from(self.clock.now());
            Rejection::TooMany { retry_after, budget: Budget::of(self.name, until.quota(), 0) }
        })?;
        Ok(Budget::of(self.name, left.quota(), left.remaining_burst_capacity()))
    }

    /// Forgets whoever has earned back everything.
    pub(super) fn tidy(&self) {
        self.limiter.retain_recent();
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
