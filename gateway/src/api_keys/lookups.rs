//! How many look-ups of credentials may fail, from one network and from all.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use memoric_contract::Network;
use quick_cache::sync::Cache;

use crate::{limits::Budget, rejection::Rejection};

/// Failures of a minute, and look-ups that are not known to be better. A key that fails had a good check MAC, so it was revoked, has expired,
/// or is a guess by who has the check key: in each case asking again and again helps nobody.
pub(crate) struct FailedLookups {
    networks: Cache<Network, Arc<Window>>,
    all: Arc<Window>,
}

/// A look-up that was allowed. It counts as failed, also where nobody stays to hear its answer, until
/// it is said to have gone well.
pub(crate) struct Attempt([(Arc<Window>, Instant); 2]);

/// Failures since a moment.
struct Window(Mutex<Count>);

#[derive(Clone, Copy)]
struct Count {
    began: Instant,
    failures: u32,
}

impl FailedLookups {
    pub(crate) fn new(now: Instant) -> Self {
        Self { networks: Cache::new(NETWORKS), all: Arc::new(Window::new(now)) }
    }

    /// Allows one more look-up, unless too many have failed.
    pub(crate) fn begin(&self, client: Option<IpAddr>, now: Instant) -> Result<Attempt, Rejection> {
        let network = Network::of(client.ok_or(Rejection::Unaccountable)?);
        let new = || Ok::<_, Infallible>(Arc::new(Window::new(now)));
        let Ok(here) = self.networks.get_or_insert_with(&network, new);
        let counted_here = here.charge(MOST, now)?;
        let counted = self.all.charge(MOST_OF_ALL, now);
        let counted = counted.inspect_err(|_| here.refund(counted_here))?;
        Ok(Attempt([(here, counted_here), (Arc::clone(&self.all), counted)]))
    }
}

impl Attempt {
    /// It has found what it looked for, or nobody could be asked.
    pub(crate) fn forgive(self) {
        for (window, counted) in self.0 {
            window.refund(counted);
        }
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self(Mutex::new(Count { began: now, failures: 0 }))
    }

    /// Counts one more, of which there may be `most` in a minute. Returns in which minute it counts.
    fn charge(&self, most: u32, now: Instant) -> Result<Instant, Rejection> {
        let mut count = self.count();
        let left = MINUTE.saturating_sub(now.saturating_duration_since(count.began));
        if left.is_zero() {
            *count = Count { began: now, failures: 0 };
        }
        if count.failures >= most {
            let budget = Budget { name: "lookups", burst: most, left: 0, window: MINUTE.as_secs() };
            return Err(Rejection::TooMany { retry_after: left, budget });
        }
        count.failures += 1;
        Ok(count.began)
    }

    /// Takes one back, if the minute in which it was `counted` is not over.
    fn refund(&self, counted: Instant) {
        let mut count = self.count();
        if count.began == counted {
            count.failures = count.failures.saturating_sub(1);
        }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let lookups = FailedLookups::new(now);
        let (one, other) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        for _ in 0..MOST {
            assert!(lookups.begin(one, now).is_ok());
        }

        let refused = lookups.begin(one, now + MINUTE / 2).err();
        let Some(Rejection::TooMany { retry_after, budget }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((retry_after, budget.burst), (MINUTE / 2, MOST));
        lookups.begin(other, now).ok().unwrap().forgive();
        assert!(lookups.begin(one, now + MINUTE).is_ok(), "as it was told");

        let from_everywhere = (0..MOST_OF_ALL).map(|host| Some(host.to_be_bytes().into()));
        from_everywhere.for_each(|host| drop(lookups.begin(host, now + MINUTE)));
        assert!(lookups.begin(other, now + MINUTE).is_err(), "nor from everywhere together");
    }

    #[test]
    fn no_more_are_on_their_way_than_may_fail_and_what_goes_well_costs_nothing() {
        let now = Instant::now();
        let lookups = FailedLookups::new(now);
        let begin = |now| lookups.begin(Some([192, 0, 2, 1].into()), now);
        let mut asking: Vec<_> = (0..MOST).map(|_| begin(now).ok().unwrap()).collect();
        let late = asking.pop().unwrap();
        assert!(begin(now).is_err(), "none of them has failed yet");

        asking.into_iter().for_each(Attempt::forgive);
        let failed = (1..MOST).filter(|_| begin(now).is_ok()).count();
        assert_eq!(failed + 1, MOST as usize, "one is still asking");
        assert!(begin(now).is_err());

        let failed = (0..MOST).filter(|_| begin(now + MINUTE).is_ok()).count();
        late.forgive();
        assert_eq!(failed, MOST as usize);
        assert!(begin(now + MINUTE).is_err(), "that was another minute");
    }

    #[test]
    fn who_has_no_address_looks_nothing_up() {
        let lookups = FailedLookups::new(Instant::now());
        let refused = lookups.begin(None, Instant::now()).err();
        assert_eq!(refused, Some(Rejection::Unaccountable));
    }
}
