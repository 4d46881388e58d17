//! Settings that have been checked and are ready to use.

mod backend;
mod channel;
mod issuer;
mod proxies;
mod route;

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use governor::Quota;
use http::HeaderValue;
use memoric_config::{ConfigError, Environment, Invalid, Settings, redis::Redis, schema};
use memoric_contract::token::TokenKeys;

pub(crate) use self::{
    backend::Backend,
    channel::Channel,
    issuer::{Issuer, Place},
    proxies::TrustedProxies,
    route::{Route, Service},
};
use crate::{
    names::Names,
    routes::is_served,
    spool::{Durability, Rate, SpoolSettings, StrangersRate},
};

/// Everything the gateway needs to start.
pub struct Config {
    /// Where clients connect in clear.
    pub(crate) http: Option<SocketAddr>,
    /// Where clients connect by TLS.
    pub(crate) https: Option<Https>,
    /// Whether browsers are told to come by TLS alone.
    pub(crate) is_tls_only: bool,
    /// Whose word about where a request comes from is taken.
    pub(crate) proxies: TrustedProxies,
    /// What we are called.
    pub(crate) names: Names,
    /// Where Prometheus connects.
    pub(crate) metrics: Option<SocketAddr>,
    /// The backend, where there is one.
    pub(crate) backend: Option<Backend>,
    /// What other services answer.
    pub(crate) routes: Vec<Arc<Route>>,
    /// Worker threads; `None` is one per core.
    pub(crate) threads: Option<NonZeroUsize>,
    /// How long running requests may take to end after a stop.
    pub(crate) grace: Duration,
    /// How often is too often.
    pub(crate) limits: Limits,
    /// How long is too long.
    pub(crate) timeouts: Timeouts,
    /// How much is too much.
    pub(crate) bounds: Bounds,
    /// How many may be connected.
    pub(crate) connections: Connections,
    /// How many requests may be with the backend at once.
    pub(crate) in_flight: InFlight,
    /// Which web pages may call.
    pub(crate) cors: CorsPolicy,
    /// Where records wait for the backend, and how many may.
    pub(crate) spool: SpoolSettings,
    /// Where they rest where there is no backend.
    pub(crate) archive: PathBuf,
    /// What access tokens are believed by.
    pub(crate) token_keys: TokenKeys,
    /// Until when tokens of the Python server are taken, in epoch seconds.
    pub(crate) legacy_until: Option<u64>,
    /// Who else is believed about who somebody is.
    pub(crate) issuers: Vec<Issuer>,
    /// The courier of revocations, not yet connected.
    pub(crate) redis: Arc<Redis>,
    /// What is looked at to know that a credential still lives.
    pub(crate) revocation_check: schema::Check,
}

/// A listener for TLS, and the certificate it shows.
#[derive(Clone, Debug)]
pub(crate) struct Https {
    pub(crate) addr: SocketAddr,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// How often is too often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) address: Quota,
    pub(crate) identity: Quota,
    pub(crate) health: Quota,
    pub(crate) credentials: Quota,
    pub(crate) read: Quota,
    pub(crate) write: Quota,
    pub(crate) admin: Quota,
    /// Addresses and identities that are counted apart.
    pub(crate) keys: NonZeroUsize,
}

/// How long is too long. None of them is zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) handshake: Duration,
    pub(crate) head: Duration,
    pub(crate) body: Duration,
    pub(crate) exchange: Duration,
    pub(crate) idle: Duration,
}

/// How much is too much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) header_bytes: usize,
    pub(crate) headers: usize,
    pub(crate) body_bytes: usize,
    pub(crate) body_rate: NonZeroUsize,
}

/// How fast a body has to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How long it may take, were it only one byte.
    pub(crate) grace: Duration,
    /// Bytes that buy it another second.
    pub(crate) rate: NonZeroUsize,
}

/// How many may be connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connections {
    pub(crate) total: usize,
    pub(crate) per_address: usize,
}

/// How many requests may be with the backend at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) total: usize,
    pub(crate) per_address: usize,
    pub(crate) per_identity: usize,
}

/// Which web pages may call.
#[derive(Clone, Debug)]
pub(crate) struct CorsPolicy {
    /// Exact origins, as a browser sends them.
    pub(crate) origins: Vec<HeaderValue>,
    /// Whether browsers may send cookies along.
    pub(crate) allow_credentials: bool,
}

impl Config {
    /// Checks `settings`, and takes the gateway's secrets from `environment`.
    pub fn new(settings: &Settings, environment: &Environment) -> Result<Self, ConfigError> {
        memoric_config::ensure_possible(settings)?;
        let gateway = &settings.gateway;
        let (token_keys, backend) = backend::checked(settings, environment)?;
        let has_backend = backend.is_some();
        if gateway.http.is_none() && gateway.https.is_none() {
            Err(Invalid::new("gateway.http", "is null, and so is gateway.https; set one"))?;
        }
        Ok(Self {
            http: gateway.http,
            https: https(gateway)?,
            is_tls_only: gateway.tls.hsts.unwrap_or(gateway.http.is_none()),
            proxies: TrustedProxies::try_from(gateway)?,
            names: Names::new(gateway.names.clone()),
            metrics: settings.observability.metrics.enabled.then_some(gateway.metrics),
            backend,
            routes: route::checked(gateway, |operation| is_served(operation, has_backend))?,
            threads: NonZeroUsize::new(gateway.threads),
            grace: gateway.grace.duration(),
            limits: Limits::from(&gateway.limits),
            timeouts: Timeouts::from(&gateway.timeouts),
            bounds: Bounds::from(&gateway.bounds),
            connections: Connections::from(&gateway.connections),
            in_flight: InFlight::from(&gateway.in_flight),
            cors: CorsPolicy::try_from(&settings.cors)?,
            spool: SpoolSettings::from(&settings.audit),
            archive: settings.audit.archive.clone(),
            token_keys,
            legacy_until: memoric_config::legacy_until(&settings.auth)?,
            issuers: issuer::checked(&settings.auth.issuers)?,
            redis: Arc::new(Redis::new(&settings.redis, environment)?),
            revocation_check: settings.revocation.check,
        })
    }

    /// How fast a body has to come.
    pub(crate) fn pace(&self) -> Pace {
        Pace { grace: self.timeouts.body, rate: self.bounds.body_rate }
    }

    /// How many file descriptors may be needed: for every client, for every request with the backend
    /// (of which one HTTP/2 client may have many), and for ourselves.
    pub(crate) fn descriptors(&self) -> u64 {
        let needed = [self.connections.total, self.in_flight.total, OWN_DESCRIPTORS];
        needed.into_iter().fold(0, |sum, each| sum.saturating_add(each as u64))
    }

    /// How many threads work.
    pub(crate) fn workers(&self) -> usize {
        let cores = || available_parallelism().map_or(1, NonZeroUsize::get);
        self.threads.map_or_else(cores, NonZeroUsize::get)
    }
}

impl Pace {
    /// How long a body may take of which `bytes` have come.
    pub(crate) fn time_for(self, bytes: usize) -> Duration {
        let seconds = bytes as f64 / self.rate.get() as f64;
        self.grace.saturating_add(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

impl From<&schema::Limits> for Limits {
    fn from(limits: &schema::Limits) -> Self {
        Self {
            address: quota(limits.address),
            identity: quota(limits.identity),
            health: quota(limits.health),
            credentials: quota(limits.credentials),
            read: quota(limits.read),
            write: quota(limits.write),
            admin: quota(limits.admin),
            keys: positive(limits.keys),
        }
    }
}

impl From<&schema::Timeouts> for Timeouts {
    fn from(timeouts: &schema::Timeouts) -> Self {
        Self {
            handshake: timeouts.handshake.duration(),
            head: timeouts.head.duration(),
            body: timeouts.body.duration(),
            exchange: timeouts.exchange.duration(),
            idle: timeouts.idle.duration(),
        }
    }
}

impl From<&schema::Bounds> for Bounds {
    fn from(bounds: &schema::Bounds) -> Self {
        let schema::Bounds { header_bytes, headers, body_bytes, body_rate } = *bounds;
        Self { header_bytes, headers, body_bytes, body_rate: positive(body_rate) }
    }
}

impl From<&schema::Connections> for Connections {
    fn from(connections: &schema::Connections) -> Self {
        Self { total: connections.total, per_address: connections.per_address }
    }
}

impl From<&schema::InFlight> for InFlight {
    fn from(bounds: &schema::InFlight) -> Self {
        let schema::InFlight { total, per_address, per_identity } = *bounds;
        Self { total, per_address, per_identity }
    }
}

impl TryFrom<&schema::Cors> for CorsPolicy {
    type Error = Invalid;

    fn try_from(cors: &schema::Cors) -> Result<Self, Invalid> {
        let origin = |origin: &String| {
            HeaderValue::from_str(origin)
                .map_err(|_| Invalid::new("cors.origins", "is not an origin"))
        };
        let origins = cors.origins.iter().map(origin).collect::<Result<_, _>>()?;
        Ok(Self { origins, allow_credentials: cors.allow_credentials })
    }
}

impl From<&schema::Audit> for SpoolSettings {
    fn from(audit: &schema::Audit) -> Self {
        let schema::Spool { folder, known_bytes, strangers_bytes, drain } = &audit.spool;
        let rate = |strangers| {
            let quota = quota(strangers);
            Rate { every: quota.replenish_interval(), burst: quota.burst_size().get() }
        };
        Self {
            folder: folder.clone(),
            known: *known_bytes,
            strangers: *strangers_bytes,
            segment: (*known_bytes.min(strangers_bytes) / SEGMENTS).min(LARGEST_SEGMENT),
            durability: match audit.durability {
                schema::Durability::Group => Durability::Group,
                schema::Durability::Strict => Durability::Strict,
            },
            rate: StrangersRate {
                each: rate(audit.strangers),
                total: rate(audit.strangers_total),
                keys: STRANGERS,
            },
            drain: drain.duration(),
        }
    }
}

fn https(gateway: &schema::Gateway) -> Result<Option<Https>, Invalid> {
    let Some(addr) = gateway.https else { return Ok(None) };
    let given = |field, file: &Option<PathBuf>| {
        let missing = || Invalid::new(field, "is not set, and gateway.https needs it (or be null)");
        file.clone().ok_or_else(missing)
    };
    Ok(Some(Https {
        addr,
        certificate: given("gateway.tls.certificate", &gateway.tls.certificate)?,
        key: given("gateway.tls.key", &gateway.tls.key)?,
    }))
}

/// A quota that is possible; of an impossible one, the least.
fn quota(quota: schema::Quota) -> Quota {
    let burst = NonZeroU32::new(quota.burst).unwrap_or(NonZeroU32::MIN);
    let period = Duration::try_from_secs_f64(1.0 / quota.per_second);
    let steady = period.ok().and_then(Quota::with_period);
    steady.unwrap_or(Quota::per_hour(NonZeroU32::MIN)).allow_burst(burst)
}

/// A number that is possible; of an impossible one, the least.
fn positive(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
}

/// Listeners, the spool, Redis, our own questions, and connections to the backend that rest.
const OWN_DESCRIPTORS: usize = 256;

/// How many segments a spool has at least, so that it has room again long before it is empty.
const SEGMENTS: u64 = 8;

/// Bytes. Larger ones would be no faster, and take longer to look through at a start.
const LARGEST_SEGMENT: u64 = 4 * 1024 * 1024;

/// Reasons and networks of strangers that are told apart.
const STRANGERS: usize = 10_000;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    pub(crate) use super::{
        proxies::tests::proxies,
        route::tests::{route, routes, written},
    };

    /// The secrets that a gateway needs, known to every test.
    pub(crate) fn environment() -> Environment {
        Environment::from_iter([
            (
                "MEMORIC_JWT_SECRET",
                "ce25a17ef9e9c5f5c203227b25ce3a39d3649c58125184f26ce89ba403d8beb5\
                 51032b3affa35cd3c845f40021331471a7b82acf6f4e4daf76f65f3fdf4f78f0",
            ),
            (
                "MEMORIC_ASSERTION_KEY",
                "bee53cb415952ccd6b98998bbb464e8ed5853925ac6c453e236e12186a34e6f5",
            ),
            (
                "MEMORIC_CHECK_KEY",
                "3a7d1f9c5b2e8046f1d3a5c7e9b0d2f4a6c8e0b1d3f5a7c9e2b4d6f8a0c1e3b5",
            ),
        ])
    }

    pub(super) fn refusal(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        settings.gateway.https = None;
        change(&mut settings);
        match Config::new(&settings, &environment()) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn records_are_as_durable_as_the_settings_say() {
        for (set, durability) in [
            (schema::Durability::Group, Durability::Group),
            (schema::Durability::Strict, Durability::Strict),
        ] {
            let mut settings = Settings::default();
            settings.audit.durability = set;
            let config = Config::new(&settings, &environment()).unwrap();
            assert_eq!(config.spool.durability, durability);
        }
    }

    #[test]
    fn https_needs_a_certificate() {
        let refused = refusal(|settings| settings.gateway.https = Some(([127, 0, 0, 1], 0).into()));

        assert_eq!(
            refused,
            "gateway.tls.certificate: is not set, and gateway.https needs it (or be null)"
        );
    }

    #[test]
    fn every_request_with_the_backend_takes_a_descriptor_beside_its_client() {
        let descriptors = |clients, requests| {
            let mut settings = Settings::default();
            settings.gateway.https = None;
            settings.gateway.connections.total = clients;
            settings.gateway.in_flight.total = requests;
            Config::new(&settings, &environment()).unwrap().descriptors()
        };

        assert_eq!(
            descriptors(10, 1000) - descriptors(10, 100),
            900,
            "by HTTP/2, from ten clients"
        );
        assert!(descriptors(1000, 100) > 1100);
    }

    #[test]
    fn browsers_are_kept_to_tls_where_there_is_nothing_else() {
        let is_tls_only = |http: Option<SocketAddr>, hsts| {
            let mut settings = Settings::default();
            (settings.gateway.http, settings.gateway.tls.hsts) = (http, hsts);
            settings.gateway.https = Some(([127, 0, 0, 1], 0).into());
            settings.gateway.tls.certificate = Some("certificate.pem".into());
            settings.gateway.tls.key = Some("key.pem".into());
            Config::new(&settings, &environment()).unwrap().is_tls_only
        };
        let http = Some(([127, 0, 0, 1], 0).into());

        assert!(is_tls_only(None, None) && !is_tls_only(http, None));
        assert!(is_tls_only(http, Some(true)) && !is_tls_only(None, Some(false)));
    }

    #[test]
    fn impossible_numbers_are_refused_by_name() {
        let rate = |per_second| {
            refusal(|settings| settings.gateway.limits.address.per_second = per_second)
        };

        assert_eq!(rate(0.001), "accepted", "once in a quarter of an hour");
        for impossible in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
            assert!(
                rate(impossible).starts_with("gateway.limits.address.per_second"),
                "{impossible}"
            );
        }
        assert_eq!(
            refusal(|s| s.gateway.limits.identity.burst = 0),
            "gateway.limits.identity.burst: must be between 1 and 1000000"
        );
        assert_eq!(
            refusal(|s| s.gateway.timeouts.head = schema::Seconds::whole(0)),
            "gateway.timeouts.head: must be longer than 0 seconds"
        );
        assert!(refusal(|s| s.gateway.bounds.headers = 1000).starts_with("gateway.bounds.headers"));
        assert!(
            refusal(|s| (s.gateway.http, s.gateway.https) = (None, None))
                .starts_with("gateway.http")
        );
    }
}
