//! `serve`: answers the gateway until it is told to stop.

use tokio::signal::unix::{SignalKind, signal};

use super::{Console, Failure, config};
use crate::{Backend, Config, Reins, error::Chain};

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
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let backend = Backend::bind(config).await?;
    tracing::info!(addr = %backend.addr()?, "serving");

    let reins = backend.reins();
    backend
        .run(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => reload(console, &reins),
                }
            }
            tracing::info!("stopping");
        })
        .await;
    tracing::info!("stopped");
    Ok(())
}

/// Takes up what the settings now say of the keys of access tokens. Settings that are refused are
/// refused whole: those in force stay.
fn reload(console: &Console, reins: &Reins) {
    match console.reopen().and_then(|again| config(&again)) {
        Ok(config) => reins.take_up(config),
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the settings were refused: those in force stay");
        }
    }
}
