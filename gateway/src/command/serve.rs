//! `serve`: answers clients until it is told to stop, and looks at its keys again when told to.

use memoric_config::command::Chain;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime, select,
    signal::unix::{SignalKind, signal},
};

use super::{Console, Failure, config};
use crate::{Config, Gateway, gateway::Reins};

/// Serves until SIGTERM or SIGINT, then drains. At SIGHUP, reloads.
pub(super) fn run(console: &Console) -> Result<(), Failure> {
    let _telling = memoric_config::log::start(&console.loaded.settings.observability.logging)?;
    let config = config(console)?;
    raise_descriptors(&config);
    let mut runtime = runtime::Builder::new_multi_thread();
    runtime.worker_threads(config.workers()).enable_all().build()?.block_on(serve(console, config))
}

async fn serve(console: &Console, config: Config) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let gateway = Gateway::bind(config).await?;
    tracing::info!(
        http = gateway.http_addr().map(tracing::field::display),
        https = gateway.https_addr().map(tracing::field::display),
        metrics = gateway.metrics_addr().map(tracing::field::display),
        "serving"
    );

    let reins = gateway.reins();
    gateway
        .run(async move {
            loop {
                select! {
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
