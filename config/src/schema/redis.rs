//! `redis`: the courier of revocations.

use serde::{Deserialize, Serialize};

/// The courier of revocations. PostgreSQL holds the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:port/db` or `redis+unix:///path`, without a password.
    pub url: String,
    /// What every key and channel begins with.
    pub prefix: String,
}

impl Default for Redis {
    fn default() -> Self {
        Self { url: "redis+unix:///run/redis/redis.sock".to_owned(), prefix: "memoric:".to_owned() }
    }
}
