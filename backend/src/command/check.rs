//! `check`: the settings in force, and whether everything they lead to is there.

use std::{error::Error, time::Duration};

use memoric_config::Invalid;

use super::{Console, Failure, block_on, config};
use crate::{
    backend::{ensure_right_key, ensure_same_sealing, ring_key},
    config::{Config, EncryptionKey, Listen},
    error::Chain,
    migrate,
    seal::{Keyring, ServiceKey},
    store::{Pools, Store},
};

/// What was tried, line by line.
#[derive(Default)]
struct Report {
    failed: usize,
}

pub(super) fn run(console: &Console) -> Result<(), Failure> {
    say!("{}", memoric_config::report(&console.loaded, &console.environment)?);
    let config = config(console)?;
    for (place, key) in config.token_ring.keys().keys().iter().enumerate() {
        let signs = if place == 0 { ", signs" } else { "" };
        say!("token key: {} {}{signs}", key.kid(), key.algorithm());
    }
    let failed = block_on(async { Ok(try_all(&config).await?.failed) })?;
    match failed {
        0 => Ok(()),
        1 => Err("1 check failed".into()),
        several => Err(format!("{several} checks failed").into()),
    }
}

async fn try_all(config: &Config) -> Result<Report, Failure> {
    let mut report = Report::default();
    let store = Store::new(Pools::new(&config.database)?);
    let pools = store.pools();
    report.tell("database as memoric_app", pools.app.ping().await);
    report.tell("database as memoric_auth", pools.auth.ping().await);
    report.tell("database as memoric_admin", pools.admin.ping().await);
    report.tell("database as memoric_maintenance", pools.maintenance.ping().await);
    report.tell("schema", migrate::ensure_compatible(&pools.auth).await);

    try_key(&mut report, &store, &config.encryption_key).await;
    try_sealing(&mut report, &store, config.seals_content).await;

    try_redis(&mut report, config).await;
    try_channel(&mut report, &config.listen);

    match migrate::findings(pools).await {
        Ok(findings) => findings.iter().for_each(|finding| say!("note    {}", finding.0)),
        Err(error) => report.tell("rights in the database", Err::<(), _>(error)),
    }
    Ok(report)
}

/// Holds the key against the database, and makes neither: that is for the first start.
async fn try_key(report: &mut Report, store: &Store, from: &EncryptionKey) {
    if let EncryptionKey::Generated(path) = from
        && !path.exists()
    {
        return say!("note    the first start will make an encryption key in {}", path.display());
    }
    let ring = match ring_key(from) {
        Ok(key) => Keyring::new(key, Vec::new()),
        Err(error) => return report.tell("encryption key", Err::<(), _>(error)),
    };
    match store.has_service_key(ServiceKey::AuditHash.number()).await {
        Ok(true) => report.tell("encryption key", ensure_right_key(store, &ring).await),
        Ok(false) => say!("note    nothing was sealed in this database yet"),
        Err(error) => report.tell("encryption key", Err::<(), _>(error)),
    }
}

/// Whether Redis answers, and what about it would be wrong if it had the only copy of anything.
async fn try_redis(report: &mut Report, config: &Config) {
    report.tell("redis", config.redis.ping(PATIENCE).await);
    for place in config.redis.places() {
        match place.shortcomings().await {
            Ok(found) => found.iter().for_each(|short| say!("note    redis at {place}: {short}")),
            Err(error) => say!("note    redis at {place} says nothing of itself: {error}"),
        }
    }
}

/// Whether the gateway can be known when it connects.
fn try_channel(report: &mut Report, listen: &Listen) {
    match listen {
        Listen::Socket(_) => report.tell::<Invalid>("channel: a Unix socket", Ok(())),
        Listen::Loopback(_) => report.tell::<Invalid>("channel: in clear on loopback", Ok(())),
        Listen::Tls { tls, .. } => {
            let usable = tls.read().and_then(|read| read.server().map(drop));
            let channel = format!("channel: mutual TLS 1.3 with {}", tls.name().to_str());
            report.tell(&channel, usable);
        }
    }
}

/// Whether content goes on as it was begun. A database that was not begun goes either way.
async fn try_sealing(report: &mut Report, store: &Store, wanted: bool) {
    match store.sealing().await {
        Ok(Some(begun_with)) => report.tell("sealing", ensure_same_sealing(wanted, begun_with)),
        Ok(None) => {}
        Err(error) => report.tell("sealing", Err::<(), _>(error)),
    }
}

impl Report {
    fn tell<E: Error + 'static>(&mut self, what: &str, tried: Result<(), E>) {
        match tried {
            Ok(()) => say!("ok      {what}"),
            Err(error) => {
                self.failed += 1;
                say!("failed  {what}: {}", Chain(&error));
            }
        }
    }
}

/// How long Redis may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
