//! Every setting there is, as people write it, at its documented default.

mod audit;
mod auth;
mod backend;
mod channel;
mod cors;
mod database;
mod encryption;
mod gateway;
mod issuer;
mod observability;
mod privacy;
mod redis;
mod revocation;
mod route;
mod seconds;

use serde::{Deserialize, Serialize};

pub use self::{
    audit::{Audit, Durability, Spool},
    auth::{Algorithm, Auth, Jwt, JwtKey, PasswordRules, Registration},
    backend::Backend,
    channel::ChannelTls,
    cors::Cors,
    database::{Database, DatabaseTls},
    encryption::Encryption,
    gateway::{
        Bounds, Connections, Gateway, InFlight, Limits, Quota, Timeouts, Tls, TrustedHeader,
    },
    issuer::Issuer,
    observability::{Level, Logging, Metrics, Observability},
    privacy::Privacy,
    redis::Redis,
    revocation::{Check, Revocation},
    route::Route,
    seconds::Seconds,
};

/// The whole of `memoric.yaml`. Both processes read the same file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who may read what, and whether it is sealed.
    pub privacy: Privacy,
    /// Tokens, registration and passwords.
    pub auth: Auth,
    /// The edge.
    pub gateway: Gateway,
    /// Which web pages may call.
    pub cors: Cors,
    /// The vault.
    pub backend: Backend,
    /// PostgreSQL.
    pub database: Database,
    /// The courier of revocations.
    pub redis: Redis,
    /// How a gateway knows that a credential still lives.
    pub revocation: Revocation,
    /// Where the key-encryption key rests when none is given.
    pub encryption: Encryption,
    /// What is written down about requests.
    pub audit: Audit,
    /// Logs and metrics.
    pub observability: Observability,
}
