//! Revocations as Redis brings them: sooner than the feed, and never instead of it.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use memoric_contract::revocation::{CHANNEL, Revocation};
use redis::{Client, RedisResult};
use tokio::time::{sleep, timeout};

use super::Revocations;

/// Listens where the backend publishes.
pub(crate) struct Courier {
    pub(crate) redis: Client,
    pub(crate) channel: String,
    pub(crate) revocations: Arc<Revocations>,
}

impl Courier {
    /// The courier of `revocations`, on the channel behind `prefix`.
    pub(crate) fn new(redis: Client, prefix: &str, revocations: Arc<Revocations>) -> Self {
        Self { redis, channel: format!("{prefix}{CHANNEL}"), revocations }
    }

    /// Listens until it is dropped. While Redis is away, the feed alone has to do.
    pub(crate) async fn run(self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::debug!(%error, "no courier of revocations");
            }
            sleep(PAUSE).await;
        }
    }

    async fn listen(&self) -> RedisResult<()> {
        let connect = timeout(PATIENCE, self.redis.get_async_pubsub());
        let mut subscription = connect.await.unwrap_or_else(|_| Err(late()))?;
        subscription.subscribe(&self.channel).await?;
        let mut messages = subscription.on_message();
        while let Some(message) = messages.next().await {
            match message.get_payload::<String>().ok().as_deref().and_then(Revocation::parse) {
                Some(revocation) => self.revocations.apply(revocation),
                None => tracing::warn!("a message of the courier is not one of ours"),
            }
        }
        Ok(())
    }
}

fn late() -> redis::RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// How long Redis may take to let us in.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to leave Redis alone that is away.
const PAUSE: Duration = Duration::from_millis(200);
