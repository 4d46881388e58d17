//! `check`: shows the settings in force, and tries what they name.

use std::{io::Write as _, path::Path, time::Duration};

use memoric_config::{command::Chain, redis::Redis, report};
use tokio::{runtime, time::timeout};

use super::{Console, Failure, config, table};
use crate::{
    Config, archive, backend::BackendClient, config::Backend, listener::Certificate, spool,
};

/// Prints every setting and who may do what, then whether each thing that the gateway needs is there.
pub(super) fn run(console: &Console) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(report(&console.loaded, &console.environment)?.as_bytes())?;
    out.write_all(table::permissions().as_bytes())?;
    let has_backend = console.loaded.settings.gateway.has_backend();
    out.write_all(table::operations(has_backend).as_bytes())?;
    let config = config(console)?;
    out.write_all(table::routes(&config.routes).as_bytes())?;

    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let mut findings = vec![("certificate", certificate(&config))];
    match &config.backend {
        Some(shared) => {
            findings.push(("backend", runtime.block_on(within(backend(shared)))));
            let redis = runtime.block_on(config.redis.ping(PATIENCE));
            findings.push(("redis", redis.map_err(Failure::from)));
            writeln!(out, "channel: {}", shared.channel)?;
        }
        None => {
            findings.push(("redis", runtime.block_on(lasting(&config.redis))));
            findings.push(("archive", archive(&config.archive)));
            writeln!(out, "channel: none, there is no backend")?;
        }
    }
    findings.push(("spool", spool::ensure_usable(&config.spool.folder).map_err(Failure::from)));
    for key in config.token_keys.keys() {
        writeln!(out, "token key: {} {}", key.kid(), key.algorithm())?;
    }
    for (name, finding) in &findings {
        match finding {
            Ok(()) => writeln!(out, "{name}: ok")?,
            Err(failure) => writeln!(out, "{name}: {failure}")?,
        }
    }
    if has_backend {
        for note in runtime.block_on(shortcomings(&config.redis)) {
            writeln!(out, "note: {note}")?;
        }
    }
    match findings.iter().filter(|(_, finding)| finding.is_err()).count() {
        0 => Ok(()),
        1 => Err("one thing is not as it should be".into()),
        faults => Err(format!("{faults} things are not as they should be").into()),
    }
}

/// Whether the certificate can be shown, where one is to be.
fn certificate(config: &Config) -> Result<(), Failure> {
    config.https.as_ref().map(Certificate::read).transpose()?;
    Ok(())
}

/// Whether the backend answers us, and its database answers it.
async fn backend(shared: &Backend) -> Result<(), Failure> {
    let health = BackendClient::open(shared)?.health().await?;
    if health.database { Ok(()) } else { Err("its database does not answer".into()) }
}

/// Whether Redis answers, and would keep what nobody else knows.
async fn lasting(redis: &Redis) -> Result<(), Failure> {
    let found = redis.shortcomings().await;
    let found = found.map_err(|error| format!("{}: {error}", redis.setting()))?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!("{}: {}", redis.setting(), found.join("; ")).into()),
    }
}

/// Whether records could rest in `folder`.
fn archive(folder: &Path) -> Result<(), Failure> {
    let usable = archive::ensure_usable(folder);
    usable.map_err(|error| format!("audit.archive: {}", Chain(&error)).into())
}

/// What about each Redis would be wrong if it had the only copy of anything.
async fn shortcomings(redis: &Redis) -> Vec<String> {
    let mut told = Vec::new();
    for place in redis.places() {
        match place.shortcomings().await {
            Ok(found) => {
                told.extend(found.iter().map(|short| format!("redis at {place}: {short}")))
            }
            Err(error) => told.push(format!("redis at {place} says nothing of itself: {error}")),
        }
    }
    told
}

async fn within(attempt: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    match timeout(PATIENCE, attempt).await {
        Ok(finding) => finding,
        Err(_) => Err("no answer in time".into()),
    }
}

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
