//! Whether the service is there, can serve, and what it needs for that.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use http::StatusCode;
use memoric_config::redis::Redis;
use memoric_contract::Operation;
use serde_json::{Value, json};
use time::{
    OffsetDateTime, UtcOffset, format_description::BorrowedFormatItem, macros::format_description,
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{backend::BackendClient, journal::Journal, metrics::Metrics, revocation::SoleCopy};

/// Probes what the gateway depends on, and answers from the last probe: however many ask, the
/// dependencies are asked twice a second.
pub(crate) struct Health {
    probed: ArcSwap<Probed>,
    needs: Needs,
    journal: Arc<Journal>,
    metrics: Arc<Metrics>,
    began: Instant,
    began_at: SystemTime,
    features: Features,
}

/// What the gateway cannot serve without.
pub(crate) enum Needs {
    /// The backend, and its database behind it. Redis only brings revocations sooner.
    Backend(Arc<BackendClient>, Arc<Redis>),
    /// There is no backend: Redis, which alone knows what was revoked.
    Redis(Arc<SoleCopy>),
}

/// Which parts are switched on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    pub(crate) metrics: bool,
    pub(crate) cors: bool,
}

/// What the last probe found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Probed {
    vault: Vault,
    redis: bool,
    /// What is done can be written down; without it nothing is done for anybody.
    journal: bool,
}

/// Who holds what is asked for, and whether they can be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Vault {
    /// The backend.
    Backend { backend: bool, database: bool },
    /// Nobody of ours: there is no backend.
    Nobody,
}

/// A question that a disk may take for ever to answer.
///
/// It is asked on a thread that may wait, and not again before it is answered: a disk that hangs
/// costs one thread.
#[derive(Default)]
struct Trial(Option<JoinHandle<bool>>);

impl Health {
    pub(crate) fn new(
        needs: Needs,
        journal: Arc<Journal>,
        metrics: Arc<Metrics>,
        features: Features,
    ) -> Self {
        Self {
            probed: ArcSwap::default(),
            needs,
            journal,
            metrics,
            began: Instant::now(),
            began_at: SystemTime::now(),
            features,
        }
    }

    /// Probes until it is dropped.
    pub(crate) async fn watch(&self) {
        let mut trial = Trial::default();
        loop {
            let (vault, redis) = self.needs.look().await;
            let journal = Arc::clone(&self.journal);
            let journal = trial.asks(move || journal.is_taking()).await;
            let probed = Probed { vault, redis, journal };
            self.metrics.backend_up.set(i64::from(probed.backend().unwrap_or_default()));
            self.metrics.redis_up.set(i64::from(probed.redis));
            if **self.probed.load() != probed {
                tracing::info!(
                    backend = probed.backend(),
                    database = probed.database(),
                    probed.redis,
                    probed.journal,
                    "health changed"
                );
            }
            self.probed.store(Arc::new(probed));
            sleep(PAUSE).await;
        }
    }

    /// The answer to one of the operations that ask.
    pub(crate) fn answer(&self, operation: Operation) -> Option<(StatusCode, Value)> {
        let ready = self.probed.load().can_serve();
        match operation {
            Operation::ShowService => Some((StatusCode::OK, self.service())),
            Operation::ShowHealth => Some((StatusCode::OK, self.liveness())),
            Operation::ShowReadiness if ready => Some((StatusCode::OK, self.readiness())),
            Operation::ShowReadiness => {
                let told = json!({ "detail": self.readiness() });
                Some((StatusCode::SERVICE_UNAVAILABLE, told))
            }
            Operation::ShowDetailedHealth => Some((StatusCode::OK, self.details())),
            _ => None,
        }
    }

    fn service(&self) -> Value {
        let uptime = self.began.elapsed().as_secs();
        let (hours, minutes, seconds) = (uptime / 3600, uptime / 60 % 60, uptime % 60);
        json!({
            "status": "ok",
            "service": "memoric-api",
            "start_time": stamp(self.began_at),
            "uptime_seconds": uptime,
            "uptime_human": format!("{hours}:{minutes:02}:{seconds:02}"),
        })
    }

    fn liveness(&self) -> Value {
        json!({
            "status": "healthy",
            "message": "Service is alive",
            "details": { "uptime_seconds": self.began.elapsed().as_secs() },
            "timestamp": stamp(SystemTime::now()),
        })
    }

    fn readiness(&self) -> Value {
        let probed = **self.probed.load();
        json!({
            "status": probed.status(),
            "message": match probed.status() {
                "healthy" => "Service is ready to handle traffic",
                "degraded" => "Service is ready to handle traffic, without its courier of revocations",
                _ => "Service cannot handle traffic",
            },
            "details": {
                "database": probed.database().map(|is_up| component(is_up, "Database")),
                "redis": component(probed.redis, "Redis"),
                "authentication": feature(),
                "audit_logging": feature(),
            },
            "timestamp": stamp(SystemTime::now()),
        })
    }

    fn details(&self) -> Value {
        let probed = **self.probed.load();
        json!({
            "service": self.service(),
            "liveness": healthy(true, self.liveness()),
            "readiness": healthy(probed.can_serve(), self.readiness()),
            "backend": probed.backend().map(|is_up| component(is_up, "Backend")),
            "database": probed.database().map(|is_up| component(is_up, "Database")),
            "redis": component(probed.redis, "Redis"),
            "features": {
                "authentication": "enabled",
                "audit_logging": "enabled",
                "metrics": switched(self.features.metrics),
                "cors": switched(self.features.cors),
            },
            "timestamp": stamp(SystemTime::now()),
        })
    }
}

impl Needs {
    /// Who can be asked, and whether Redis is there.
    async fn look(&self) -> (Vault, bool) {
        let (client, redis) = match self {
            Self::Backend(client, redis) => (client, redis),
            Self::Redis(redis) => return (Vault::Nobody, redis.is_fit()),
        };
        let health = client.health().await;
        if let Err(error) = &health {
            tracing::debug!(%error, "the backend is not healthy");
        }
        let database = health.as_ref().is_ok_and(|health| health.database);
        (Vault::Backend { backend: health.is_ok(), database }, redis.answers())
    }
}

impl Default for Vault {
    fn default() -> Self {
        Self::Backend { backend: false, database: false }
    }
}

impl Trial {
    /// What `ask` says, or what it said that was asked before; no answer in time is no.
    async fn asks(&mut self, ask: impl FnOnce() -> bool + Send + 'static) -> bool {
        let asked = self.0.get_or_insert_with(|| spawn_blocking(ask));
        match timeout(PATIENCE, asked).await {
            Ok(answer) => {
                self.0 = None;
                answer.unwrap_or(false)
            }
            Err(_) => false,
        }
    }
}

impl Probed {
    /// Where there is a backend, Redis only brings revocations sooner, so the service serves without it.
    fn can_serve(self) -> bool {
        let can_be_asked = match self.vault {
            Vault::Backend { backend, database } => backend && database,
            Vault::Nobody => self.redis,
        };
        can_be_asked && self.journal
    }

    /// Whether the backend is up, where there is one.
    fn backend(self) -> Option<bool> {
        match self.vault {
            Vault::Backend { backend, .. } => Some(backend),
            Vault::Nobody => None,
        }
    }

    /// Whether its database is.
    fn database(self) -> Option<bool> {
        match self.vault {
            Vault::Backend { database, .. } => Some(database),
            Vault::Nobody => None,
        }
    }

    fn status(self) -> &'static str {
        match (self.can_serve(), self.redis) {
            (true, true) => "healthy",
            (true, false) => "degraded",
            (false, _) => "unhealthy",
        }
    }
}

fn component(is_up: bool, name: &str) -> Value {
    let status = if is_up { "healthy" } else { "unhealthy" };
    json!({ "healthy": is_up, "status": status, "message": format!("{name} is {status}") })
}

/// The same, saying in one word how it is.
fn healthy(is_up: bool, mut told: Value) -> Value {
    if let Some(told) = told.as_object_mut() {
        told.insert("healthy".to_owned(), is_up.into());
    }
    told
}

const fn switched(on: bool) -> &'static str {
    if on { "enabled" } else { "disabled" }
}

fn feature() -> Value {
    json!({ "enabled": true, "status": "enabled" })
}

/// A computed time, as existing clients read it: six digits, and the zone.
fn stamp(time: SystemTime) -> String {
    OffsetDateTime::from(time).to_offset(UtcOffset::UTC).format(STAMP).unwrap_or_default()
}

const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00");

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the disk may take.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_is_asked_once_and_holds_nobody_up() {
        let (answer, hears) = mpsc::channel();
        let mut trial = Trial::default();

        assert!(!trial.asks(move || hears.recv().unwrap()).await, "no answer in time");
        assert!(!trial.asks(|| panic!("asked twice")).await);
        answer.send(true).unwrap();
        assert!(trial.asks(|| panic!("asked twice")).await, "the answer to the first question");
        assert!(trial.asks(|| true).await && !trial.asks(|| false).await);
    }

    #[test]
    fn only_what_is_needed_to_serve_makes_unready() {
        let vault = |backend, database| Vault::Backend { backend, database };
        let well = Probed { vault: vault(true, true), redis: true, journal: true };
        assert_eq!(well.status(), "healthy");
        assert_eq!(Probed { redis: false, ..well }.status(), "degraded");
        assert_eq!(Probed { vault: vault(true, false), ..well }.status(), "unhealthy");
        assert_eq!(Probed { journal: false, ..well }.status(), "unhealthy");
        assert_eq!(Probed { vault: vault(false, false), ..well }.status(), "unhealthy");
        let alone = Probed { vault: Vault::Nobody, ..well };
        assert_eq!(alone.status(), "healthy");
        assert_eq!(Probed { redis: false, ..alone }.status(), "unhealthy", "nobody else knows");
        assert_eq!(
            Probed::default().status(),
            "unhealthy",
            "before the first probe nothing is known"
        );
    }

    #[test]
    fn a_time_is_written_as_the_python_server_wrote_it() {
        assert_eq!(stamp(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000000+00:00");
    }
}
