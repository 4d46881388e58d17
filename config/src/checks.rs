//! What both processes refuse alike: settings that are understood and impossible.

mod dsn;
mod origin;

use std::ops::RangeInclusive;

use crate::{
    error::Invalid,
    jwt,
    schema::{Audit, Auth, Database, DatabaseTls, Gateway, Quota, Seconds, Settings},
};

/// Refuses settings that no process could keep. Whatever is loaded has passed it.
pub fn ensure_possible(settings: &Settings) -> Result<(), Invalid> {
    isolation(settings)?;
    jwt::ensure_possible(&settings.auth.jwt, settings.gateway.has_backend())?;
    crate::issuers::ensure_possible(&settings.auth)?;
    within("auth.session_idle", settings.auth.session_idle, 3_600..=7_776_000)?;
    within("auth.session_life", settings.auth.session_life, 3_600..=7_776_000)?;
    access_token_ttl(&settings.auth)?;
    within("auth.password_min_length", settings.auth.password_min_length, 8..=64)?;
    within("auth.password_queue", settings.auth.password_queue, 1..=100_000)?;
    gateway(&settings.gateway)?;
    origin::ensure_exact(&settings.cors.origins)?;
    named("backend.listen", &settings.backend.listen)?;
    within("backend.threads", settings.backend.threads, 0..=1024)?;
    database(&settings.database)?;
    redis(settings)?;
    named("encryption.generated_key", &settings.encryption.generated_key.to_string_lossy())?;
    audit(&settings.audit)
}

fn isolation(settings: &Settings) -> Result<(), Invalid> {
    if !settings.privacy.user_isolation {
        return Err(Invalid::new(
            "privacy.user_isolation",
            "must be true: false is not yet supported",
        ));
    }
    if settings.privacy.allow_global_scope {
        let reason = "must be false: true is not yet supported";
        return Err(Invalid::new("privacy.allow_global_scope", reason));
    }
    Ok(())
}

/// What no session may outlast would be cut short at the end of each, and nobody could tell why.
fn access_token_ttl(auth: &Auth) -> Result<(), Invalid> {
    const NAME: &str = "auth.access_token_ttl";
    within(NAME, auth.access_token_ttl, 60..=86_400)?;
    match auth.access_token_ttl {
        ttl if ttl > auth.session_idle => {
            Err(Invalid::new(NAME, "must not be greater than auth.session_idle"))
        }
        ttl if ttl > auth.session_life => {
            Err(Invalid::new(NAME, "must not be greater than auth.session_life"))
        }
        _ => Ok(()),
    }
}

fn gateway(gateway: &Gateway) -> Result<(), Invalid> {
    named("gateway.backend", &gateway.backend)?;
    origin::ensure_names(&gateway.names)?;
    within("gateway.threads", gateway.threads, 0..=1024)?;
    quota("gateway.limits.address", gateway.limits.address)?;
    quota("gateway.limits.identity", gateway.limits.identity)?;
    quota("gateway.limits.health", gateway.limits.health)?;
    quota("gateway.limits.credentials", gateway.limits.credentials)?;
    quota("gateway.limits.read", gateway.limits.read)?;
    quota("gateway.limits.write", gateway.limits.write)?;
    quota("gateway.limits.admin", gateway.limits.admin)?;
    within("gateway.limits.keys", gateway.limits.keys, 1..=100_000_000)?;
    some_time("gateway.timeouts.handshake", gateway.timeouts.handshake)?;
    some_time("gateway.timeouts.head", gateway.timeouts.head)?;
    some_time("gateway.timeouts.body", gateway.timeouts.body)?;
    some_time("gateway.timeouts.exchange", gateway.timeouts.exchange)?;
    some_time("gateway.timeouts.idle", gateway.timeouts.idle)?;
    // Less would refuse ordinary requests; more is more than the gateway's parser takes in.
    within("gateway.bounds.header_bytes", gateway.bounds.header_bytes, 1024..=262_144)?;
    within("gateway.bounds.headers", gateway.bounds.headers, 8..=256)?;
    within("gateway.bounds.body_bytes", gateway.bounds.body_bytes, 1024..=1_073_741_824)?;
    within("gateway.bounds.body_rate", gateway.bounds.body_rate, 1..=1_073_741_824)?;
    within("gateway.connections.total", gateway.connections.total, 1..=10_000_000)?;
    within("gateway.connections.per_address", gateway.connections.per_address, 1..=10_000_000)?;
    within("gateway.in_flight.total", gateway.in_flight.total, 1..=100_000)?;
    within("gateway.in_flight.per_address", gateway.in_flight.per_address, 1..=100_000)?;
    within("gateway.in_flight.per_identity", gateway.in_flight.per_identity, 1..=100_000)
}

fn quota(path: &str, quota: Quota) -> Result<(), Invalid> {
    if !(0.000_1..=1_000_000.0).contains(&quota.per_second) {
        let reason = "must be between 0.0001 and 1000000";
        return Err(Invalid::new(format!("{path}.per_second"), reason));
    }
    within(&format!("{path}.burst"), quota.burst, 1..=1_000_000)
}

fn database(database: &Database) -> Result<(), Invalid> {
    for (path, dsn) in [("database.url", &database.url), ("database.admin", &database.admin)] {
        if let Some(dsn) = dsn {
            dsn::ensure_usable(path, dsn)?;
        }
    }
    named("database.host", &database.host)?;
    named("database.name", &database.name)?;
    within("database.port", database.port, 1..=u16::MAX)?;
    within("database.pool", database.pool, 1..=1000)?;
    if database.tls == DatabaseTls::VerifyFull && database.ca.is_none() {
        return Err(Invalid::new("database.tls", "verify-full needs database.ca"));
    }
    Ok(())
}

fn redis(settings: &Settings) -> Result<(), Invalid> {
    crate::redis::ensure_possible(&settings.redis)?;
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
    // Braces would decide which node of a cluster holds a key.
    match settings.redis.prefix.as_str() {
        prefix if prefix.len() <= 64 && prefix.bytes().all(is_plain) => Ok(()),
        _ => {
            let reason = "must be at most 64 visible ASCII characters without braces";
            Err(Invalid::new("redis.prefix", reason))
        }
    }
}

fn audit(audit: &Audit) -> Result<(), Invalid> {
    named("audit.spool.folder", &audit.spool.folder.to_string_lossy())?;
    named("audit.archive", &audit.archive.to_string_lossy())?;
    within("audit.spool.known_bytes", audit.spool.known_bytes, SPOOL_BYTES)?;
    within("audit.spool.strangers_bytes", audit.spool.strangers_bytes, SPOOL_BYTES)?;
    quota("audit.strangers", audit.strangers)?;
    quota("audit.strangers_total", audit.strangers_total)
}

fn within<N: PartialOrd + std::fmt::Display>(
    path: &str,
    number: N,
    range: RangeInclusive<N>,
) -> Result<(), Invalid> {
    if range.contains(&number) {
        return Ok(());
    }
    Err(Invalid::new(path, format!("must be between {} and {}", range.start(), range.end())))
}

fn some_time(path: &str, seconds: Seconds) -> Result<(), Invalid> {
    if seconds.is_zero() {
        Err(Invalid::new(path, "must be longer than 0 seconds"))
    } else {
        Ok(())
    }
}

fn named(path: &str, text: &str) -> Result<(), Invalid> {
    if text.trim().is_empty() { Err(Invalid::new(path, "must not be empty")) } else { Ok(()) }
}

/// One frame is at most 64 KiB; nobody has a disk that is larger than a tebibyte for this.
const SPOOL_BYTES: RangeInclusive<u64> = 65_536..=1 << 40;
