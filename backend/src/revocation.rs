//! What ends a credential early, carried to the gateways: fast by Redis, surely by the feed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use memoric_contract::revocation::{CHANNEL, Revocation};
use prometheus::IntCounter;
use redis::{
    RedisError, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use thiserror::Error;
use tokio::{sync::Notify, time::timeout};

use crate::error::Chain;

/// Tells the gateways of revocations that the database holds already.
///
/// PostgreSQL has the truth and the feed carries it. Whoever cannot be told here learns of it
/// there, half a second later, so nothing that goes wrong here undoes or delays a change.
pub(crate) struct Courier {
    redis: ConnectionManager,
    prefix: String,
    failures: IntCounter,
    news: Notify,
}

/// Why Redis was not told.
#[derive(Debug, Error)]
pub(crate) enum CourierError {
    #[error("redis: {0}")]
    Refused(#[from] RedisError),
    #[error("redis did not answer in time")]
    Late,
}

impl Courier {
    /// Will connect when there is something to tell, and again whenever the connection breaks.
    pub(crate) fn new(
        client: redis::Client,
        prefix: String,
        failures: IntCounter,
    ) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1)
            .set_max_delay(PATIENCE);
        let redis = ConnectionManager::new_lazy_with_config(client, config)?;
        Ok(Self { redis, prefix, failures, news: Notify::new() })
    }

    /// Tells whoever follows the feed here, and Redis, of what has been committed.
    pub(crate) async fn carry(&self, revocations: &[Revocation]) {
        if revocations.is_empty() {
            return;
        }
        self.news.notify_waiters();
        if let Err(error) = self.tell_redis(revocations, SystemTime::now()).await {
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

    /// Whether Redis answers.
    pub(crate) async fn ping(&self) -> Result<(), CourierError> {
        let mut redis = self.redis.clone();
        let ping = redis::cmd("PING");
        timeout(PATIENCE, ping.query_async::<()>(&mut redis))
            .await
            .map_err(|_| CourierError::Late)??;
        Ok(())
    }

    async fn tell_redis(
        &self,
        revocations: &[Revocation],
        now: SystemTime,
    ) -> Result<(), CourierError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut commands = redis::pipe();
        for revocation in revocations.iter().filter(|revocation| revocation.expires_at > now) {
            let key = format!("{}{}", self.prefix, revocation.redis_key());
            commands
                .cmd("SET")
                .arg(key)
                .arg(revocation.redis_value())
                .arg("EXAT")
                .arg(revocation.expires_at)
                .ignore();
            commands
                .cmd("PUBLISH")
                .arg(format!("{}{CHANNEL}", self.prefix))
                .arg(revocation.message())
                .ignore();
        }
        let mut redis = self.redis.clone();
        timeout(PATIENCE, commands.query_async::<()>(&mut redis))
            .await
            .map_err(|_| CourierError::Late)??;
        Ok(())
    }
}

/// How long an answer to a client waits for Redis. The feed is no slower than a few of these.
const PATIENCE: Duration = Duration::from_millis(200);
