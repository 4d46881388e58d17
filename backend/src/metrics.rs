//! What the backend counts.
//!
//! Labels come from our own lists (operations, codes, roles), never from a client, so nobody can
//! make a series of their own.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    Result, TextEncoder, core::Collector,
};

/// The backend's own registry, and the hands that write to it.
pub(crate) struct Metrics {
    /// Connections closed because the peer is not the gateway.
    pub(crate) strangers: IntCounter,
    /// Whether Redis answers.
    pub(crate) redis_up: IntGauge,
    /// Revocations that Redis was not told of. The feed carries them all the same.
    pub(crate) courier_failures: IntCounter,
    /// Refused refreshes that the trail has told of before, by reason.
    pub(crate) repeated_refusals: IntCounterVec,
    /// Connections to the database, by role and state.
    pub(crate) database_connections: IntGaugeVec,
    /// Passwords at work or waiting to be.
    pub(crate) passwords_waiting: IntGauge,
    /// Background work that came to nothing, by task.
    pub(crate) task_failures: IntCounterVec,
    requests: IntCounterVec,
    durations: HistogramVec,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self> {
        let registry = Registry::new();
        let counters = |name, help, labels: &[&str]| {
            enlist(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let counter = |name, help| enlist(&registry, IntCounter::new(name, help));
        let durations = HistogramOpts::new(
            "memoric_backend_request_duration_seconds",
            "From the head of a request to the head of its answer.",
        );
        Ok(Self {
            requests: counters(
                "memoric_backend_requests_total",
                "Requests that were answered.",
                &["operation", "outcome"],
            )?,
            durations: enlist(
                &registry,
                HistogramVec::new(durations.buckets(BUCKETS.to_vec()), &["operation"]),
            )?,
            strangers: counter(
                "memoric_backend_strangers_total",
                "Connections closed because the peer is not the gateway.",
            )?,
            redis_up: enlist(
                &registry,
                IntGauge::new("memoric_backend_redis_up", "Whether Redis answers."),
            )?,
            courier_failures: counter(
                "memoric_backend_courier_failures_total",
                "Revocations that Redis was not told of.",
            )?,
            repeated_refusals: counters(
                "memoric_backend_repeated_refusals_total",
                "Refused refreshes of sessions whose trail has one for the same reason.",
                &["reason"],
            )?,
            database_connections: enlist(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "memoric_backend_database_connections",
                        "Connections to the database.",
                    ),
                    &["role", "state"],
                ),
            )?,
            passwords_waiting: enlist(
                &registry,
                IntGauge::new(
                    "memoric_backend_passwords_waiting",
                    "Passwords at work or waiting to be.",
                ),
            )?,
            task_failures: counters(
                "memoric_backend_task_failures_total",
                "Background work that came to nothing.",
                &["task"],
            )?,
            registry,
        })
    }

    /// Counts one request and how it ended: `ok`, or the code of the refusal.
    pub(crate) fn count(&self, operation: &str, outcome: &str, took: Duration) {
        self.requests.with_label_values(&[operation, outcome]).inc();
        self.durations.with_label_values(&[operation]).observe(took.as_secs_f64());
    }

    /// Everything counted so far, in Prometheus' text form.
    pub(crate) fn render(&self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn enlist<C: Collector + Clone + 'static>(registry: &Registry, made: Result<C>) -> Result<C> {
    let collector = made?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Half a millisecond to the longest exchange that the gateway lets live.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
