//! `serve`: answers the gateway until it is told to stop.

use memoric_config::command::Signals;

use super::{Console, Failure, config};
use crate::{Backend, Config};

/// Serves until SIGTERM or SIGINT, then drains. At SIGHUP, reloads.
pub(super) fn run(console: &Console) -> Result<(), Failure> {
    let _telling = memoric_config::log::start(&console.loaded.settings.observability.logging)?;
    let config = config(console)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let threads = console.loaded.settings.backend.threads;
    if threads > 0 {
        runtime.worker_threads(threads);
    }
    runtime.enable_all().build()?.block_on(serve(console, config))
}

async fn serve(console: &Console, config: Config) -> Result<(), Failure> {
    let signals = Signals::hear()?;
    let backend = Backend::bind(config).await?;
    tracing::info!(addr = %backend.addr()?, "serving");

    let reins = backend.reins();
    let take_up = |again: &Console| super::config(again).map(|config| reins.take_up(config));
    backend.run(signals.stop(console, take_up)).await;
    tracing::info!("stopped");
    Ok(())
}
