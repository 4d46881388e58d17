//! Redis where there is no backend: what it does not know nobody knows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use memoric_config::redis::Redis;
use memoric_contract::Identity;
use tokio::time::sleep;

use super::Lookup;
use crate::{metrics::Metrics, rejection::Rejection};

/// Redis with the only copy of every revocation.
pub(crate) struct SoleCopy {
    redis: Arc<Redis>,
    lookup: Lookup,
    /// Whether it was there when it was last looked at, and would keep what it is told.
    is_fit: AtomicBool,
    metrics: Arc<Metrics>,
}

impl SoleCopy {
    pub(crate) fn new(redis: Arc<Redis>, metrics: Arc<Metrics>) -> Self {
        let (lookup, is_fit) = (Lookup::new(Arc::clone(&redis)), AtomicBool::new(false));
        Self { redis, lookup, is_fit, metrics }
    }

    /// Rejects an identity whose credential was revoked, and everybody while Redis cannot tell, or may
    /// have forgotten.
    pub(super) async fn ensure_live(&self, identity: &Identity) -> Result<(), Rejection> {
        if !self.is_fit() {
            return Err(Rejection::RevocationsUnavailable);
        }
        match self.lookup.revokes(identity).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(Rejection::Revoked),
            Err(error) => {
                tracing::debug!(%error, "revocations cannot be read");
                Err(Rejection::RevocationsUnavailable)
            }
        }
    }

    /// Whether it is there, and would keep what it is told.
    pub(crate) fn is_fit(&self) -> bool {
        self.is_fit.load(Ordering::Relaxed)
    }

    /// Looks at it now and then until it is dropped: one that was started anew may have been so with
    /// other settings.
    pub(crate) async fn watch(&self) {
        loop {
            let found = self.redis.shortcomings().await;
            let is_fit = found.as_ref().is_ok_and(Vec::is_empty);
            if self.is_fit.swap(is_fit, Ordering::Relaxed) != is_fit {
                match found {
                    Ok(found) if found.is_empty() => tracing::info!("revocations can be read"),
                    Ok(found) => {
                        let found = found.join("; ");
                        tracing::error!(found, "redis may forget revocations: nobody is let in");
                    }
                    Err(error) => tracing::error!(%error, "revocations cannot be read"),
                }
            }
            if is_fit {
                self.metrics.feed_confirmed(Instant::now());
            }
            sleep(PAUSE).await;
        }
    }
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
