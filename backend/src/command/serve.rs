//! `serve`: answers the gateway until it is told to stop.

use tokio::signal::unix::{SignalKind, signal};

use super::{Console, Failure, config};
use crate::{Backend, Config};

/// Serves until SIGTERM or SIGINT, then drains.
pub(super) fn run(console: &Console) -> Result<(), Failure> {
    let _telling = memoric_config::log::start(&console.loaded.settings.observability.logging)?;
    let config = config(console)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let threads = console.loaded.settings.backend.threads;
    if threads > 0 {
        runtime.worker_threads(threads);
    }
    runtime.enable_all().build()?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let backend = Backend::bind(config).await?;
    tracing::info!(addr = %backend.addr()?, "serving");

    backend
        .run(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        })
        .await;
    tracing::info!("stopped");
    Ok(())
}
