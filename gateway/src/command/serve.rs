//! `serve`: answers clients until it is told to stop, and looks at its keys again when told to.

use memoric_config::command::Signals;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime;

use super::{Console, Failure, config};
use crate::{Config, Gateway};

/// Serves until SIGTERM or SIGINT, then drains. At SIGHUP, reloads.
pub(super) fn run(console: &Console) -> Result<(), Failure> {
    let _telling = memoric_config::log::start(&console.loaded.settings.observability.logging)?;
    let config = config(console)?;
    raise_descriptors(&config);
    let mut runtime = runtime::Builder::new_multi_thread();
    runtime.worker_threads(config.workers()).enable_all().build()?.block_on(serve(console, config))
}

async fn serve(console: &Console, config: Config) -> Result<(), Failure> {
    let signals = Signals::hear()?;
    let gateway = Gateway::bind(config).await?;
    tracing::info!(
        http = gateway.http_addr().map(tracing::field::display),
        https = gateway.https_addr().map(tracing::field::display),
        metrics = gateway.metrics_addr().map(tracing::field::display),
        "serving"
    );

    let reins = gateway.reins();
    let take_up = |again: &Console| super::config(again).map(|config| reins.take_up(config));
    gateway.run(signals.stop(console, take_up)).await;
    tracing::info!("stopped");
    Ok(())
}

/// Takes as many file descriptors as the system lets us have: with the customary 1024 a single
/// client could use them up, and nobody would reach the backend.
fn raise_descriptors(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let needed = config.descriptors();
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "fewer file descriptors than gateway.connections and gateway.in_flight need"
        );
    }
}
