//! How many look-ups of credentials may fail, from one network and from all.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use memoric_contract::Network;
use quick_cache::sync::Cache;
use tokio::{sync::Notify, time::timeout};

use crate::{limits::Budget, rejection::Rejection};

/// Failures of a minute, and look-ups that are on their way, of which there are never more together
/// than may fail. A key that fails had a good check MAC, so it was revoked, has expired, or is a guess
/// by who has the check key: in each case asking again and again helps nobody.
pub(crate) struct FailedLookups {
    networks: Cache<Network, Arc<Window>>,
    all: Arc<Window>,
}

/// A look-up that was allowed. It counts as failed, also where nobody stays to hear its answer, unless
/// it is said to have gone well.
pub(crate) struct Attempt([Place; 2]);

/// One of the look-ups that a window has room for, until it is dropped.
struct Place {
    window: Arc<Window>,
    has_failed: bool,
}

/// Failures since a moment.
struct Window {
    count: Mutex<Count>,
    /// A look-up has ended.
    ended: Notify,
}

#[derive(Clone, Copy)]
struct Count {
    began: Instant,
    failures: u32,
    asking: u32,
}

impl FailedLookups {
    pub(crate) fn new(now: Instant) -> Self {
        Self { networks: Cache::new(NETWORKS), all: Arc::new(Window::new(now)) }
    }

    /// Allows one more look-up, unless too many have failed. Where too many might, it waits a while for
    /// others to end.
    pub(crate) async fn begin(
        &self,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Result<Attempt, Rejection> {
        let network = Network::of(client.ok_or(Rejection::Unaccountable)?);
        let new = || Ok::<_, Infallible>(Arc::new(Window::new(now)));
        let Ok(here) = self.networks.get_or_insert_with(&network, new);
        let places =
            async { Ok([here.place(MOST, now).await?, self.all.place(MOST_OF_ALL, now).await?]) };
        let places = timeout(PATIENCE, places).await;
        let places = places.unwrap_or(Err(Rejection::BackendUnavailable))?;
        let mut attempt = Attempt(places);
        attempt.judge(true);
        Ok(attempt)
    }
}

impl Attempt {
    /// It has found what it looked for, or nobody could be asked.
    pub(crate) fn forgive(mut self) {
        self.judge(false);
    }

    fn judge(&mut self, has_failed: bool) {
        self.0.iter_mut().for_each(|place| place.has_failed = has_failed);
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        let count = Count { began: now, failures: 0, asking: 0 };
        Self { count: Mutex::new(count), ended: Notify::new() }
    }

    /// A place among `most`, as soon as there is one. Whoever has waited wakes the next.
    async fn place(self: &Arc<Self>, most: u32, now: Instant) -> Result<Place, Rejection> {
        loop {
            let is_taken = self.count().take(most, now);
            if is_taken == Ok(false) {
                self.ended.notified().await;
                continue;
            }
            self.ended.notify_one();
            return is_taken.map(|_| Place { window: Arc::clone(self), has_failed: false });
        }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    /// Counts one more that asks, if there is room among `most`. Where that many have failed in this
    /// minute, it is refused until the next.
    fn take(&mut self, most: u32, now: Instant) -> Result<bool, Rejection> {
        let left = MINUTE.saturating_sub(now.saturating_duration_since(self.began));
        if left.is_zero() {
            (self.began, self.failures) = (now, 0);
        }
        if self.failures >= most {
            let budget = Budget { name: "lookups", burst: most, left: 0, window: MINUTE.as_secs() };
            return Err(Rejection::TooMany { retry_after: left, budget });
        }
        let has_room = self.failures.saturating_add(self.asking) < most;
        self.asking += u32::from(has_room);
        Ok(has_room)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut count = self.window.count();
        count.asking = count.asking.saturating_sub(1);
        count.failures = count.failures.saturating_add(self.has_failed.into());
        drop(count);
        self.window.ended.notify_one();
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Failures in a minute from one network.
pub(super) const MOST: u32 = 30;

/// Failures in a minute from everywhere.
const MOST_OF_ALL: u32 = 3_000;

/// Networks that are counted apart; one that is forgotten begins anew, and counts among all.
const NETWORKS: usize = 10_000;

/// How long a look-up waits for others to end.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_budgeted_by_network_and_among_all() {
        let now = Instant::now();
        let lookups = FailedLookups::new(now);
        let (one, other) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        for _ in 0..MOST {
            assert!(lookups.begin(one, now).await.is_ok());
        }

        let refused = lookups.begin(one, now + MINUTE / 2).await.err();
        let Some(Rejection::TooMany { retry_after, budget }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((retry_after, budget.burst), (MINUTE / 2, MOST));
        lookups.begin(other, now).await.ok().unwrap().forgive();
        assert!(lookups.begin(one, now + MINUTE).await.is_ok(), "as it was told");

        for host in 1..MOST_OF_ALL {
            assert!(lookups.begin(Some(host.to_be_bytes().into()), now + MINUTE).await.is_ok());
        }
        assert!(lookups.begin(other, now + MINUTE).await.is_err(), "nor from everywhere together");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_on_their_way_than_may_fail_and_what_goes_well_costs_nothing() {
        let now = Instant::now();
        let lookups = FailedLookups::new(now);
        let begin = |now| lookups.begin(Some([192, 0, 2, 1].into()), now);
        let mut asking = Vec::new();
        for _ in 0..MOST {
            asking.push(begin(now).await.ok().unwrap());
        }
        let refused = begin(now).await.err();
        assert_eq!(refused, Some(Rejection::BackendUnavailable), "none has failed, nor ended");

        let mut waiting = Box::pin(begin(now));
        assert!(waiting.as_mut().now_or_never().is_none());
        asking.pop().unwrap().forgive();
        waiting.await.ok().unwrap().forgive();
        for _ in 1..MOST {
            drop(asking.pop().unwrap());
        }
        drop(begin(now).await);
        let refused = begin(now).await.err();
        assert!(matches!(refused, Some(Rejection::TooMany { .. })), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_hears_that_too_many_have_failed() {
        let now = Instant::now();
        let lookups = FailedLookups::new(now);
        let begin = || lookups.begin(Some([192, 0, 2, 1].into()), now);
        let mut asking = Vec::new();
        for _ in 0..MOST {
            asking.push(begin().await.ok().unwrap());
        }
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(begin())).collect();
        assert!(waiting.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));

        drop(asking);

        for one in waiting {
            let heard = one.await.err();
            assert!(matches!(heard, Some(Rejection::TooMany { .. })), "{heard:?}");
        }
    }

    #[tokio::test]
    async fn who_has_no_address_looks_nothing_up() {
        let lookups = FailedLookups::new(Instant::now());
        let refused = lookups.begin(None, Instant::now()).await.err();
        assert_eq!(refused, Some(Rejection::Unaccountable));
    }
}
