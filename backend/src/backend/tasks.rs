//! What goes on in the background for as long as a backend serves.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::App,
    error::Chain,
    metrics::Metrics,
    store::{Store, StoreError},
};

/// The background work of one backend.
pub(super) struct Tasks {
    app: App,
    metrics: Arc<Metrics>,
}

impl Tasks {
    pub(super) fn new(app: &App, metrics: &Arc<Metrics>) -> Self {
        Self { app: app.clone(), metrics: Arc::clone(metrics) }
    }

    /// Begins all of it under `tracker`; each ends when `stop` says so.
    pub(super) fn spawn(self, tracker: &TaskTracker, stop: &CancellationToken) {
        let Self { app, metrics } = self;
        let store = app.store.clone();
        spawn(tracker, stop, async move { store.keep_context_key().await });

        let vault = Arc::clone(&app.vault);
        spawn(tracker, stop, async move {
            let mut ticks = ticks(LOCK_UP);
            loop {
                ticks.tick().await;
                vault.forget_the_old();
            }
        });

        let courier = Arc::clone(&app.courier);
        spawn(tracker, stop, async move { courier.redis().keep().await });

        let store = app.store;
        spawn(tracker, stop, async move {
            let mut ticks = ticks(HOUSEKEEPING);
            loop {
                ticks.tick().await;
                keep_house(&store, &metrics).await;
            }
        });
    }
}

fn spawn(
    tracker: &TaskTracker,
    stop: &CancellationToken,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tracker.spawn(async move {
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Makes room for the records of the months to come, and forgets what has no effect any more.
async fn keep_house(store: &Store, metrics: &Metrics) {
    let told = |task, done: Result<(), StoreError>| {
        if let Err(error) = done {
            metrics.task_failures.with_label_values(&[task]).inc();
            tracing::error!(task, error = %Chain(&error), "background work came to nothing");
        }
    };
    told("partitions", store.make_partitions(MONTHS_AHEAD).await);
    told("purge", store.purge().await);
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// How often keys that are too old are let go of.
const LOCK_UP: Duration = Duration::from_secs(10);

/// How often the database is put in order.
const HOUSEKEEPING: Duration = Duration::from_secs(10 * 60);

/// Months for which the trail has partitions.
const MONTHS_AHEAD: i32 = 3;
