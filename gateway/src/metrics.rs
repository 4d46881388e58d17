//! What the gateway counts.
//!
//! Labels come from our own lists (operations, outcomes, codes), never from a client, so nobody
//! can make a series of their own.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result, TextEncoder, core::Collector,
};

use crate::{asked::Asked, exchange::Exchange};

/// The gateway's own registry, and the hands that write to it.
pub(crate) struct Metrics {
    /// Requests in flight.
    pub(crate) in_flight: IntGauge,
    /// Open connections, by listener.
    pub(crate) connections: IntGaugeVec,
    /// Connections turned away before a byte was read, by reason.
    pub(crate) refused_connections: IntCounterVec,
    /// Handshakes of TLS, and introductions by a proxy, that came to nothing, by reason.
    pub(crate) failed_handshakes: IntCounterVec,
    /// What was sent and never became a request, by protocol and reason.
    pub(crate) unparsed: IntCounterVec,
    /// Whether Redis answers.
    pub(crate) redis_up: IntGauge,
    /// Whether the backend answers.
    pub(crate) backend_up: IntGauge,
    /// Whether the keys of an issuer were there when they were last asked for, by issuer.
    pub(crate) issuer_up: IntGaugeVec,
    /// When the keys of an issuer were last had, by issuer.
    pub(crate) issuer_keys_at: IntGaugeVec,
    /// How often the keys of an issuer were asked for, by issuer and outcome.
    pub(crate) issuer_fetches: IntCounterVec,
    /// Lines of the access log that nobody read.
    pub(crate) lost_lines: IntCounter,
    requests: IntCounterVec,
    durations: HistogramVec,
    feed_age: Gauge,
    feed_confirmed: Mutex<Option<Instant>>,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self> {
        let registry = Registry::new();
        let counter = |name, help, labels: &[&str]| {
            enlist(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name, help| enlist(&registry, IntGauge::new(name, help));

        let durations = HistogramOpts::new(
            "memoric_gateway_request_duration_seconds",
            "From the head of a request to the end of its answer.",
        );
        let build =
            Opts::new("memoric_gateway_build_info", "Always 1; the label says which build runs.");
        enlist(&registry, IntGaugeVec::new(build, &["version"]))?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        Ok(Self {
            requests: counter(
                "memoric_gateway_requests_total",
                "Requests that were answered or given up.",
                &["operation", "outcome", "status", "code"],
            )?,
            durations: enlist(
                &registry,
                HistogramVec::new(durations.buckets(BUCKETS.to_vec()), &["operation"]),
            )?,
            in_flight: gauge("memoric_gateway_requests_in_flight", "Requests in flight.")?,
            connections: enlist(
                &registry,
                IntGaugeVec::new(
                    Opts::new("memoric_gateway_connections", "Open connections."),
                    &["listener"],
                ),
            )?,
            refused_connections: counter(
                "memoric_gateway_connections_refused_total",
                "Connections turned away before a byte was read.",
                &["reason"],
            )?,
            failed_handshakes: counter(
                "memoric_gateway_handshakes_failed_total",
                "Handshakes of TLS, and introductions by a proxy, that came to nothing.",
                &["reason"],
            )?,
            unparsed: counter(
                "memoric_gateway_unparsed_total",
                "What was sent and never became a request.",
                &["protocol", "reason"],
            )?,
            issuer_up: enlist(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "memoric_gateway_issuer_up",
                        "Whether an issuer's keys were there when they were last asked for.",
                    ),
                    &["issuer"],
                ),
            )?,
            issuer_keys_at: enlist(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "memoric_gateway_issuer_keys_fetched_timestamp_seconds",
                        "When an issuer's keys were last had.",
                    ),
                    &["issuer"],
                ),
            )?,
            issuer_fetches: counter(
                "memoric_gateway_issuer_fetches_total",
                "How often an issuer's keys were asked for.",
                &["issuer", "outcome"],
            )?,
            lost_lines: enlist(
                &registry,
                IntCounter::new(
                    "memoric_gateway_log_lines_lost_total",
                    "Lines of the access log that were lost because nobody read them.",
                ),
            )?,
            redis_up: gauge("memoric_gateway_redis_up", "Whether Redis answers.")?,
            backend_up: gauge("memoric_gateway_backend_up", "Whether the backend answers.")?,
            feed_age: enlist(
                &registry,
                Gauge::new(
                    "memoric_gateway_revocation_feed_age_seconds",
                    "Since the list of revocations was last known to be complete.",
                ),
            )?,
            feed_confirmed: Mutex::new(None),
            registry,
        })
    }

    /// Counts an exchange that has ended.
    pub(crate) fn count(&self, exchange: &Exchange, took: Duration) {
        let operation = exchange.asked.as_ref().map_or(NONE, Asked::name);
        let outcome = exchange.outcome.name();
        let code = exchange.code.unwrap_or(NONE);
        let labels = match &exchange.status {
            Some(status) => [operation, outcome, status.as_str(), code],
            None => [operation, outcome, NONE, code],
        };
        self.requests.with_label_values(&labels).inc();
        self.durations.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// The list of revocations was known to be complete at `now`.
    pub(crate) fn feed_confirmed(&self, now: Instant) {
        *self.feed_confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Shows, from now on, what `figures` tell.
    pub(crate) fn include(&self, figures: impl Collector + 'static) -> Result<()> {
        self.registry.register(Box::new(figures))
    }

    /// Everything counted so far, in Prometheus' text form.
    pub(crate) fn render(&self) -> Result<String> {
        let confirmed = *self.feed_confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        self.feed_age.set(confirmed.map_or(f64::INFINITY, |at| at.elapsed().as_secs_f64()));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn enlist<C: Collector + Clone + 'static>(registry: &Registry, made: Result<C>) -> Result<C> {
    let collector = made?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Stands for what is not known.
const NONE: &str = "-";

/// Half a millisecond to the longest exchange that the default deadline lets live.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];
