//! What ends a credential early, carried to the gateways: fast by Redis, surely by the feed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use memoric_config::redis::Redis;
use memoric_contract::revocation::{CHANNEL, Revocation};
use prometheus::IntCounter;
use redis::Cmd;
use tokio::{sync::Notify, time::timeout};

use crate::{error::Chain, metrics::Metrics};

/// Tells the gateways of revocations that the database holds already.
///
/// PostgreSQL has the truth and the feed carries it. Whoever cannot be told here learns of it
/// there, half a second later, so nothing that goes wrong here undoes or delays a change.
pub(crate) struct Courier {
    redis: Arc<Redis>,
    failures: IntCounter,
    news: Notify,
}

impl Courier {
    /// Will connect when there is something to tell, and again whenever the connection breaks.
    pub(crate) fn new(redis: Arc<Redis>, metrics: &Metrics) -> Self {
        let failures = metrics.courier_failures.clone();
        Self { redis, failures, news: Notify::new() }
    }

    /// Tells whoever follows the feed here, and Redis, of what has been committed.
    pub(crate) async fn carry(&self, revocations: &[Revocation]) {
        if revocations.is_empty() {
            return;
        }
        self.news.notify_waiters();
        let commands = self.commands(revocations, SystemTime::now());
        if let Err(error) = self.redis.ask(&commands, PATIENCE).await {
            self.failures.inc();
            tracing::warn!(error = %Chain(&error), "a revocation goes by the feed alone");
        }
    }

    /// Resolves when this process has committed a revocation, or after `wait`.
    ///
    /// Call it before reading the feed and await it afterwards: it counts from the call.
    pub(crate) fn news(&self, wait: Duration) -> impl Future<Output = ()> {
        let news = self.news.notified();
        async move {
            let _ = timeout(wait, news).await;
        }
    }

    /// The Redis that is told.
    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }

    /// What Redis is told: to remember each for as long as it matters, and to pass it on.
    fn commands(&self, revocations: &[Revocation], now: SystemTime) -> Vec<Cmd> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let told = revocations.iter().filter(|revocation| revocation.expires_at > now);
        told.flat_map(|revocation| {
            let (mut set, mut publish) = (redis::cmd("SET"), redis::cmd("PUBLISH"));
            // By our own clock: Redis may have another.
            set.arg(self.redis.name(&revocation.redis_key()))
                .arg(revocation.redis_value())
                .arg("EX")
                .arg(revocation.expires_at - now);
            publish.arg(self.redis.name(CHANNEL)).arg(revocation.message());
            [set, publish]
        })
        .collect()
    }
}

/// How long an answer to a client waits for Redis. The feed is no slower than a few of these.
const PATIENCE: Duration = Duration::from_millis(200);
