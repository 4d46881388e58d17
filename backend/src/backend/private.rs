//! The listener for Prometheus and probes: private, because what it tells is nobody else's business.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::{app::App, metrics::Metrics};

/// A bound private port, and what it tells.
pub(super) struct Private {
    listener: TcpListener,
    addr: SocketAddr,
    router: Router,
}

/// A private port before there is anything to tell.
pub(super) struct Bound {
    listener: TcpListener,
    addr: SocketAddr,
}

#[derive(Clone)]
struct Told {
    app: App,
    metrics: Arc<Metrics>,
}

impl Private {
    /// Takes the port, if there is to be one.
    pub(super) async fn bind(at: Option<SocketAddr>) -> Result<Option<Bound>, StartError> {
        let Some(at) = at else { return Ok(None) };
        let bound = async {
            let listener = TcpListener::bind(at).await?;
            let addr = listener.local_addr()?;
            io::Result::Ok(Bound { listener, addr })
        };
        bound.await.map(Some).map_err(|source| StartError::Metrics { at, source })
    }

    /// The port that was taken.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let stopped = stop.clone().cancelled_owned();
        let serving = axum::serve(self.listener, self.router).with_graceful_shutdown(stopped);
        // Nobody is owed a scrape: when it is over, it is over.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = async { serving.await } => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the private listener ended");
                }
            }
        }
    }
}

impl Bound {
    /// Begins to tell of `app` and `metrics`.
    pub(super) fn serving(self, app: &App, metrics: &Arc<Metrics>) -> Private {
        let told = Told { app: app.clone(), metrics: Arc::clone(metrics) };
        let router = Router::new()
            .route("/metrics", get(show_metrics))
            .route("/health", get(show_health))
            .with_state(told);
        Private { listener: self.listener, addr: self.addr, router }
    }
}

async fn show_metrics(State(told): State<Told>) -> Response {
    told.app.measure(&told.metrics);
    match told.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn show_health(State(told): State<Told>) -> Response {
    let database = told.app.is_database_up().await;
    let status = if database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "database": database }))).into_response()
}
