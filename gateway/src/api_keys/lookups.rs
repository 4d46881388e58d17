//! How many look-ups of credentials may fail, from one network, from one site and from all.

use std::{
    convert::Infallible,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use memoric_contract::{Network, Site};
use quick_cache::sync::Cache;
use tokio::{sync::Notify, time::timeout};

use crate::{limits::Budget, rejection::Rejection};

/// Failures of a minute, and look-ups that are on their way, of which there are never more together
/// than may fail. A key that fails had a good check MAC, so it was revoked, has expired, or is a guess
/// by who has the check key: in each case asking again and again helps nobody.
///
/// Of what all may fail together a site has a part, since who has one has as many networks as they like.
pub(crate) struct FailedLookups {
    networks: Cache<Network, Arc<Window>>,
    sites: Cache<Site, Arc<Window>>,
    all: Arc<Window>,
    /// Of credentials that were good, none of which counts as failed.
    known: Arc<Window>,
}

/// A look-up that was allowed. It counts as failed, also where nobody stays to hear its answer, unless
/// it is said to have gone well.
pub(crate) struct Attempt(Vec<Place>);

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
        let [all, known] = [(); 2].map(|()| Arc::new(Window::new(now)));
        Self { networks: Cache::new(COUNTED), sites: Cache::new(COUNTED), all, known }
    }

    /// Allows one more look-up, unless too many have failed. Where too many might, it waits a while for
    /// others to end.
    pub(crate) async fn begin(
        &self,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Result<Attempt, Rejection> {
        let network = Network::of(client.ok_or(Rejection::Unaccountable)?);
        let here = window(&self.networks, &network, now);
        let site = window(&self.sites, &network.site(), now);
        let mut attempt =
            places([(here, MOST), (site, MOST_OF_SITE), (Arc::clone(&self.all), MOST_OF_ALL)], now)
                .await?;
        attempt.judge(true);
        Ok(attempt)
    }

    /// Allows one more look-up of a credential that was good when it was last asked about, however many
    /// others have failed: whoever has failed must not end what is not theirs. Where too many of these are
    /// on their way, it waits a while for others to end.
    pub(crate) async fn begin_again(&self, now: Instant) -> Result<Attempt, Rejection> {
        places([(Arc::clone(&self.known), MOST_AGAIN)], now).await
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

/// What is counted for `key`.
fn window<K: Clone + Eq + Hash>(
    windows: &Cache<K, Arc<Window>>,
    key: &K,
    now: Instant,
) -> Arc<Window> {
    let new = || Ok::<_, Infallible>(Arc::new(Window::new(now)));
    let Ok(window) = windows.get_or_insert_with(key, new);
    window
}

/// A place in each window, among so many.
async fn places(
    windows: impl IntoIterator<Item = (Arc<Window>, u32)>,
    now: Instant,
) -> Result<Attempt, Rejection> {
    let places = async {
        let mut places = Vec::new();
        for (window, most) in windows {
            places.push(window.place(most, now).await?);
        }
        Ok(Attempt(places))
    };
    timeout(PATIENCE, places).await.unwrap_or(Err(Rejection::BackendUnavailable))
}

const MINUTE: Duration = Duration::from_secs(60);

/// Failures in a minute from one network.
pub(super) const MOST: u32 = 30;

/// Failures in a minute from one site.
pub(super) const MOST_OF_SITE: u32 = MOST_OF_ALL / 10;

/// Failures in a minute from everywhere.
const MOST_OF_ALL: u32 = 3_000;

/// Look-ups at once of credentials that were good.
const MOST_AGAIN: u32 = 256;

/// Networks, and sites, that are counted apart; one that is forgotten begins anew, and counts among all.
const COUNTED: usize = 10_000;

/// How long a look-up waits for others to end.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_budgeted_by_network_and_by_site_and_among_all() {
        let now = Instant::now();
        let lookups = FailedLookups::new(now);
        let (one, other) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        let elsewhere = |site: u16| Some(IpAddr::from((u32::from(site) << 16).to_be_bytes()));
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

        for network in 1..MOST_OF_SITE {
            let [.., high, low] = network.to_be_bytes();
            let client = Some([192, 0, high + 3, low].into());
            assert!(lookups.begin(client, now + MINUTE).await.is_ok());
        }
        assert!(lookups.begin(other, now + MINUTE).await.is_err(), "nor from one site together");
        for site in 0..u16::try_from(MOST_OF_ALL - MOST_OF_SITE).unwrap() {
            assert!(lookups.begin(elsewhere(site), now + MINUTE).await.is_ok(), "{site}");
        }
        let refused = lookups.begin(elsewhere(9_999), now + MINUTE).await;
        assert!(refused.is_err(), "nor from everywhere together");
        assert!(lookups.begin_again(now + MINUTE).await.is_ok(), "what was good is asked about");
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
    async fn so_many_of_what_was_good_are_on_their_way_at_once_and_none_counts_as_failed() {
        let now = Instant::now();
        let lookups = FailedLookups::new(now);
        for _ in 0..3 {
            let mut asking = Vec::new();
            for _ in 0..MOST_AGAIN {
                asking.push(lookups.begin_again(now).await.ok().unwrap());
            }
            let refused = lookups.begin_again(now).await.err();
            assert_eq!(refused, Some(Rejection::BackendUnavailable));
        }
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
