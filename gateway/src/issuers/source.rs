//! The keys of one issuer, kept fresh.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use memoric_contract::token::foreign::IssuerKeys;
use tokio::{
    select,
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::fetch::{FetchError, fetch};
use crate::{config::Issuer, metrics::Metrics};

/// An issuer, and the keys that it was last known to have.
///
/// What it had is believed for as long as it says nothing else: an issuer that is away logs nobody out.
pub(super) struct Source {
    pub(super) issuer: Issuer,
    keys: ArcSwapOption<IssuerKeys>,
    wanted: Notify,
    asked: watch::Sender<u64>,
    /// How often a token whose key is not known may make us ask.
    budget: DefaultDirectRateLimiter,
    metrics: Arc<Metrics>,
}

impl Source {
    pub(super) fn new(issuer: Issuer, metrics: Arc<Metrics>) -> Self {
        let quota = Quota::with_period(PAUSE)
            .unwrap_or_else(|| Quota::per_hour(NonZeroU32::MIN))
            .allow_burst(BURST);
        Self {
            issuer,
            keys: ArcSwapOption::empty(),
            wanted: Notify::new(),
            asked: watch::Sender::new(0),
            budget: RateLimiter::direct(quota),
            metrics,
        }
    }

    /// The keys, after another look where the one that `token` names is not among them. There are only
    /// so many other looks, however many such tokens come. `None`: there never were any.
    pub(super) async fn keys_for(&self, token: &str) -> Option<Arc<IssuerKeys>> {
        let known = self.keys.load_full();
        let is_known = known.as_ref().is_some_and(|keys| keys.know_key_of(token));
        if is_known || self.budget.check().is_err() {
            return known;
        }
        let mut asked = self.asked.subscribe();
        self.wanted.notify_one();
        let _ = timeout(PATIENCE, asked.changed()).await;
        self.keys.load_full()
    }

    /// Asks for the keys now and then, and when they are wanted, until it is dropped.
    pub(super) async fn follow(&self) {
        let mut pause = SOON;
        loop {
            pause = match self.look().await {
                Ok(()) => REFRESH,
                Err(error) => {
                    tracing::warn!(issuer = self.issuer.name, %error, "the keys of an issuer are not to be had");
                    if pause == REFRESH { SOON } else { (pause * 2).min(REFRESH / 2) }
                }
            };
            self.asked.send_modify(|times| *times = times.wrapping_add(1));
            select! {
                () = sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Asks once. Keys that are there take the place of the others whole.
    async fn look(&self) -> Result<(), FetchError> {
        let name = self.issuer.name.as_str();
        let keys = fetch(&self.issuer.place).await.and_then(|set| {
            IssuerKeys::read(&set, &self.issuer.algorithms).ok_or(FetchError::Unusable)
        });
        let outcome = if keys.is_ok() { "had" } else { "failed" };
        self.metrics.issuer_fetches.with_label_values(&[name, outcome]).inc();
        self.metrics.issuer_up.with_label_values(&[name]).set(i64::from(keys.is_ok()));
        let keys = keys?;
        tracing::debug!(issuer = name, ?keys, "the keys of an issuer are had");
        self.keys.store(Some(Arc::new(keys)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let at = i64::try_from(now).unwrap_or(i64::MAX);
        self.metrics.issuer_keys_at.with_label_values(&[name]).set(at);
        Ok(())
    }
}

/// Between two looks that nobody asked for.
const REFRESH: Duration = Duration::from_secs(300);

/// After the first look that came to nothing; each further pause is twice as long.
const SOON: Duration = Duration::from_secs(1);

/// How long a request waits for another look.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks for the sake of unknown keys: at once, and how often after that.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
const PAUSE: Duration = Duration::from_secs(20);
