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

use crate::{
    error::Chain,
    metrics::Metrics,
    store::{Began, Changed, Refreshed},
};

/// What came of a change that may have ended a credential.
pub(crate) trait Ends {
    /// What it ended.
    fn ended(&self) -> Option<&Revocation>;
}

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
    pub(crate) async fn carry(&self, revocation: &Revocation) {
        self.news.notify_waiters();
        let commands = self.commands(revocation, SystemTime::now());
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

    /// What Redis is told: to remember it for as long as it matters, and to pass it on.
    ///
    /// Of two backends that end one user's generations, whichever is heard last, the higher stays.
    fn commands(&self, revocation: &Revocation, now: SystemTime) -> Vec<Cmd> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // By our own clock: Redis may have another.
        let left = revocation.expires_at.saturating_sub(now);
        if left == 0 {
            return Vec::new();
        }
        let (mut keep, mut publish) = (redis::cmd("EVAL"), redis::cmd("PUBLISH"));
        keep.arg(KEEP)
            .arg(1)
            .arg(self.redis.name(&revocation.redis_key()))
            .arg(revocation.redis_value())
            .arg(left);
        publish.arg(self.redis.name(CHANNEL)).arg(revocation.message());
        vec![keep, publish]
    }
}

impl Ends for Option<Revocation> {
    fn ended(&self) -> Option<&Revocation> {
        self.as_ref()
    }
}

impl Ends for Option<Began> {
    fn ended(&self) -> Option<&Revocation> {
        self.as_ref().and_then(|began| began.ended.as_ref())
    }
}

impl Ends for Changed {
    fn ended(&self) -> Option<&Revocation> {
        match self {
            Self::Done(ended, _) => Some(ended),
            Self::Forbidden | Self::Absent | Self::LastAdmin => None,
        }
    }
}

impl Ends for Refreshed {
    fn ended(&self) -> Option<&Revocation> {
        match self {
            Self::Reused(ended) => Some(ended),
            Self::On { .. } | Self::Late | Self::Ended => None,
        }
    }
}

/// Keeps the higher of two values, and the longer of two lives, of one key.
const KEEP: &str = "\
local kept = tonumber(redis.call('GET', KEYS[1]) or '') or 0
local value = ARGV[1]
if kept > tonumber(value) then value = string.format('%.0f', kept) end
local life = math.max(tonumber(ARGV[2]), redis.call('TTL', KEYS[1]))
return redis.call('SET', KEYS[1], value, 'EX', life)";

/// How long an answer to a client waits for Redis. The feed is no slower than a few of these.
const PATIENCE: Duration = Duration::from_millis(200);
