//! The listener for those who run the gateway: what it counts, and whether it is there.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// A listener that clients must not reach.
pub(crate) struct Private {
    socket: TcpListener,
    addr: SocketAddr,
    metrics: Arc<Metrics>,
}

impl Private {
    /// Takes the port `addr`; port 0 lets the system choose.
    pub(crate) async fn bind(addr: SocketAddr, metrics: Arc<Metrics>) -> io::Result<Self> {
        let socket = TcpListener::bind(addr).await?;
        Ok(Self { addr: socket.local_addr()?, socket, metrics })
    }

    /// Where operators connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` resolves.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(|| async { "ok\n" }))
            .with_state(self.metrics);
        if let Err(error) = axum::serve(self.socket, router).with_graceful_shutdown(shutdown).await
        {
            tracing::error!(%error, "the private listener ended");
        }
    }
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written out");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
