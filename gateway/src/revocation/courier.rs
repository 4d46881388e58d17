//! Revocations as Redis brings them: sooner than the feed, and never instead of it.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use memoric_config::redis::{Place, Redis, RedisFailure};
use memoric_contract::revocation::{CHANNEL, Revocation};
use redis::{Msg, aio::PubSubSink};
use tokio::time::{interval, sleep, timeout};

use super::Revocations;

/// Listens where the backend publishes.
pub(crate) struct Courier {
    redis: Arc<Redis>,
    revocations: Arc<Revocations>,
}

impl Courier {
    /// The courier of `revocations`.
    pub(crate) fn new(redis: &Arc<Redis>, revocations: &Arc<Revocations>) -> Self {
        Self { redis: Arc::clone(redis), revocations: Arc::clone(revocations) }
    }

    /// Listens everywhere until it is dropped. While Redis is away, the feed alone has to do.
    pub(crate) async fn run(self) {
        join_all(self.redis.places().iter().map(|place| self.attend(place))).await;
    }

    async fn attend(&self, place: &Place) {
        loop {
            if let Err(error) = self.listen(place).await {
                tracing::debug!(%error, %place, "no courier of revocations");
            }
            sleep(PAUSE).await;
        }
    }

    /// Listens at `place` until there is nothing more to be heard. One that has fallen silent is
    /// given up: it may not be the place any more.
    async fn listen(&self, place: &Place) -> Result<(), RedisFailure> {
        let (mut sink, mut messages) = place.subscribe(&self.redis.name(CHANNEL)).await?.split();
        let heard = async {
            while let Some(message) = messages.next().await {
                self.take(&message);
            }
        };
        tokio::select! {
            () = heard => Ok(()),
            failure = silence(&mut sink) => Err(failure),
        }
    }

    fn take(&self, message: &Msg) {
        match message.get_payload::<String>().ok().as_deref().and_then(Revocation::parse) {
            Some(revocation) => self.revocations.apply(revocation),
            None => tracing::warn!("a message of the courier is not one of ours"),
        }
    }
}

/// Resolves when whoever is at the other end does not answer.
async fn silence(sink: &mut PubSubSink) -> RedisFailure {
    let mut ticks = interval(PROBING);
    loop {
        ticks.tick().await;
        match timeout(PATIENCE, sink.ping::<redis::Value>()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return RedisFailure::Late,
        }
    }
}

/// Between two questions whether Redis is still there.
const PROBING: Duration = Duration::from_secs(1);

/// How long Redis may take to say that it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to leave Redis alone that is away.
const PAUSE: Duration = Duration::from_millis(200);
