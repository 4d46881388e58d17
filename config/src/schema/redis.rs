//! `redis`: the courier of revocations.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The courier of revocations. PostgreSQL holds the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// One server: `redis://host:port/db`, `rediss://` or `redis+unix:///path`, without a password.
    pub url: String,
    /// In place of `url`, sentinels that know the master: `redis://host:port` or `rediss://`.
    pub sentinels: Vec<String>,
    /// The name under which the sentinels know it.
    pub master: Option<String>,
    /// In place of `url`, some nodes of a cluster: `redis://host:port` or `rediss://`.
    pub cluster: Vec<String>,
    /// The user of Redis' access control list.
    pub user: Option<String>,
    /// PEM file of the authorities that may sign Redis' certificates.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate that Redis is shown, with those above it.
    pub certificate: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// What every key and channel begins with.
    pub prefix: String,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: "redis+unix:///run/redis/redis.sock".to_owned(),
            sentinels: Vec::new(),
            master: None,
            cluster: Vec::new(),
            user: None,
            ca: None,
            certificate: None,
            key: None,
            prefix: "memoric:".to_owned(),
        }
    }
}
