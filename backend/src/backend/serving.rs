//! Connections served, and drained when it is time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::listener::{Listener, Newcomer};
use crate::api::Api;

/// Serves what comes through `listener` until `shutdown` resolves; then waits up to `grace` for what
/// is under way, and cuts off the rest.
pub(super) async fn serve(
    listener: Listener,
    api: Arc<Api>,
    grace: Duration,
    shutdown: impl Future<Output = ()> + Send,
) {
    let connections = Connections::default();
    tokio::select! {
        () = shutdown => {}
        () = connections.accept(&listener, &api) => {}
    }
    // The place is given up first, so that the next backend can take it while this one drains.
    drop(listener);
    connections.drain(grace).await;
}

/// The connections that are open, and how they are told to end.
#[derive(Default)]
struct Connections {
    tracker: TaskTracker,
    drain: CancellationToken,
    cut: CancellationToken,
}

impl Connections {
    /// Serves whoever connects, for ever.
    async fn accept(&self, listener: &Listener, api: &Arc<Api>) {
        let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        while let Ok(place) = Arc::clone(&free).acquire_owned().await {
            let newcomer = listener.accept().await;
            let connection = converse(newcomer, Arc::clone(api), self.drain.clone());
            let cut = self.cut.clone();
            self.tracker.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = cut.cancelled() => {}
                }
                drop(place);
            });
        }
    }

    /// Lets requests under way end within `grace`, and cuts off those that do not.
    async fn drain(self, grace: Duration) {
        self.drain.cancel();
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            let connections = self.tracker.len();
            tracing::warn!(connections, "requests are cut off: they took longer than the grace");
            self.cut.cancel();
            self.tracker.wait().await;
        }
    }
}

/// Serves one connection until its end, or until the request under way is answered once `drain` says so.
/// Strangers get no further than its beginning.
async fn converse(newcomer: Newcomer, api: Arc<Api>, drain: CancellationToken) {
    let admitted = tokio::select! {
        admitted = newcomer.admit() => admitted,
        () = drain.cancelled() => None,
    };
    let Some(channel) = admitted else { return };
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(request.map(Body::new)).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(MOST_HEAD);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(channel), answer));

    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Three gateways' worth: requests in flight, connections kept for the next ones, and what each asks
/// for itself, by default.
const MOST_CONNECTIONS: usize = 4096;

/// Bytes of a head: the 256 KiB that the settings may let a client's have, and the assertion, which
/// repeats its target (64 KiB at most) in base64. Room is made as they come.
const MOST_HEAD: usize = 512 * 1024;

/// For which a connection may rest, or take to send a head. Longer than the gateway keeps one, so
/// that it is never the one to be surprised.
const IDLE: Duration = Duration::from_secs(300);
