//! What the spool holds, for whenever Prometheus asks.

use std::{collections::HashMap, sync::Arc};

use prometheus::{
    Result,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use time::OffsetDateTime;

use crate::spool::{LogFigures, Spool, SpoolFigures};

/// Reads the figures of a spool each time they are asked for.
pub(super) struct Figures {
    spool: Arc<Spool>,
    descriptions: Vec<Desc>,
}

/// One thing to be told of a `T`.
struct Figure<T> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    of: fn(&T) -> f64,
}

impl Figures {
    pub(super) fn new(spool: Arc<Spool>) -> Result<Self> {
        let of_logs = OF_LOGS.iter().map(|figure| figure.describe(&["log"]));
        let descriptions = of_logs.chain(OF_ALL.iter().map(|figure| figure.describe(&[])));
        Ok(Self { spool, descriptions: descriptions.collect::<Result<_>>()? })
    }
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let figures = self.spool.figures();
        let logs = [("known", &figures.known), ("strangers", &figures.strangers)];
        let of_logs = OF_LOGS.iter().map(|figure| {
            figure.family(logs.map(|(name, log)| figure.metric(log, vec![labelled(name)])).into())
        });
        let of_all =
            OF_ALL.iter().map(|figure| figure.family(vec![figure.metric(&figures, Vec::new())]));
        of_logs.chain(of_all).collect()
    }
}

impl<T> Figure<T> {
    const fn counter(name: &'static str, help: &'static str, of: fn(&T) -> f64) -> Self {
        Self { name, help, kind: MetricType::COUNTER, of }
    }

    const fn gauge(name: &'static str, help: &'static str, of: fn(&T) -> f64) -> Self {
        Self { name, help, kind: MetricType::GAUGE, of }
    }

    fn describe(&self, labels: &[&str]) -> Result<Desc> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new())
    }

    fn metric(&self, from: &T, labels: Vec<LabelPair>) -> Metric {
        let mut metric = Metric::from_label(labels);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value((self.of)(from));
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value((self.of)(from));
            metric.set_gauge(gauge);
        }
        metric
    }

    fn family(&self, metrics: Vec<Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(metrics);
        family
    }
}

fn labelled(log: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name("log".to_owned());
    label.set_value(log.to_owned());
    label
}

/// Seconds since the oldest record that waits; 0 where none does.
fn age(log: &LogFigures) -> f64 {
    let age = log.oldest.map(|oldest| OffsetDateTime::now_utc() - oldest);
    age.map_or(0.0, |age| age.as_seconds_f64().max(0.0))
}

/// A count as Prometheus has it, which is a fraction; exact below 2^53.
fn number(count: u64) -> f64 {
    count as f64
}

const OF_LOGS: [Figure<LogFigures>; 12] = [
    Figure::counter("memoric_gateway_spool_written_total", "Records that were written.", |log| {
        number(log.appended)
    }),
    Figure::counter(
        "memoric_gateway_spool_delivered_total",
        "Records that the backend has taken.",
        |log| number(log.acknowledged),
    ),
    Figure::gauge("memoric_gateway_spool_waiting", "Records that wait for the backend.", |log| {
        number(log.records)
    }),
    Figure::gauge("memoric_gateway_spool_bytes", "Bytes that wait for the backend.", |log| {
        number(log.bytes)
    }),
    Figure::gauge(
        "memoric_gateway_spool_oldest_seconds",
        "Since the oldest record that waits for the backend was made.",
        age,
    ),
    Figure::counter(
        "memoric_gateway_spool_full_total",
        "Requests or records that were refused because the spool was full.",
        |log| number(log.refused_full),
    ),
    Figure::counter(
        "memoric_gateway_spool_disk_refused_total",
        "Records that were refused because of the disk.",
        |log| number(log.refused_disk),
    ),
    Figure::gauge(
        "memoric_gateway_spool_disk_failing",
        "Whether the disk does not take what it is given.",
        |log| f64::from(u8::from(log.is_failing)),
    ),
    Figure::counter(
        "memoric_gateway_spool_damaged_bytes_total",
        "Bytes that were found changed, and delivered as such.",
        |log| number(log.damaged),
    ),
    Figure::counter(
        "memoric_gateway_spool_syncs_total",
        "How often records were brought to the disk.",
        |log| number(log.sync.syncs),
    ),
    Figure::counter(
        "memoric_gateway_spool_sync_seconds_total",
        "How long the first record of each sync waited for its end.",
        |log| log.sync.waited.as_secs_f64(),
    ),
    Figure::gauge(
        "memoric_gateway_spool_sync_longest_seconds",
        "The longest of these waits.",
        |log| log.sync.longest.as_secs_f64(),
    ),
];

const OF_ALL: [Figure<SpoolFigures>; 4] = [
    Figure::counter(
        "memoric_gateway_spool_counted_total",
        "Refusals of strangers that were only counted.",
        |all| number(all.counted),
    ),
    Figure::counter("memoric_gateway_spool_batches_total", "Batches that were sent.", |all| {
        number(all.sent)
    }),
    Figure::counter(
        "memoric_gateway_spool_batches_undelivered_total",
        "Batches that did not arrive.",
        |all| number(all.undelivered),
    ),
    Figure::counter(
        "memoric_gateway_spool_poisoned_total",
        "Records that were delivered as bytes, because the backend refused them.",
        |all| number(all.poisoned),
    ),
];
