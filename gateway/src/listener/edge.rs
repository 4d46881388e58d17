//! Pingora's engine, within our bounds.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{
        ServerSession,
        v2::server::{H2Options, default_h2_options},
    },
    proxy::{HttpProxy, ProxyHttp, http_proxy},
    server::configuration::ServerConf,
};
use tokio::{select, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::config::{Bounds, Config};

/// Pingora's engine with a total deadline on each exchange, HTTP/1 and HTTP/2 alike.
///
/// HTTP/1 has its deadline from the watch of its connection. Pingora spawns HTTP/2 streams on
/// tasks of their own, so those get it here, and hear of the end of the gateway here too. When a
/// deadline falls, `logging` does not run: what must happen anyway hangs on the exchange's `Drop`.
pub(super) struct Edge<P> {
    engine: Arc<HttpProxy<P>>,
    exchange: Duration,
    cut: CancellationToken,
}

impl<P> Edge<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    /// The engine around `proxy`, until `cut` says that it is over.
    pub(super) fn new(proxy: P, config: &Config, cut: CancellationToken) -> Arc<Self> {
        let conf = ServerConf {
            threads: config.workers(),
            max_retries: ATTEMPTS,
            // The backend is believed by its own authorities alone, so the system's roots are
            // neither read (Pingora panics on those it cannot read) nor kept in memory.
            ca_file: Some("/dev/null".to_owned()),
            ..ServerConf::default()
        };
        let mut engine = http_proxy(&Arc::new(conf), proxy);
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(config.timeouts.idle);
        // So that a CONNECT is refused like any other request, in our words and on the record.
        options.allow_connect_method_proxying = true;
        engine.server_options = Some(options);
        engine.h2_options = Some(h2_options(config.bounds));
        Arc::new(Self { engine: Arc::new(engine), exchange: config.timeouts.exchange, cut })
    }
}

#[async_trait]
impl<P> HttpServerApp for Edge<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        session.set_total_drain_timeout(Some(DRAIN));
        if let Some(connection) = Connection::behind(&session) {
            connection.wait();
            if session.get_keepalive().is_some() {
                session.set_keepalive(FOR_EVER);
            }
            return self.engine.process_new_http(session, shutdown).await;
        }
        select! {
            reused = self.engine.process_new_http(session, shutdown) => reused,
            () = sleep(self.exchange) => None,
            () = self.cut.cancelled() => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.engine.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.engine.server_options()
    }

    async fn http_cleanup(&self) {
        self.engine.http_cleanup().await;
    }
}

/// What one HTTP/2 connection may make us hold.
fn h2_options(bounds: Bounds) -> H2Options {
    let header_list = u32::try_from(bounds.header_bytes).unwrap_or(u32::MAX);
    let mut options = default_h2_options();
    options
        .max_header_list_size(header_list)
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(RESETS));
    options
}

/// How often a request is tried: once more when a kept-alive connection turned out to be dead.
const ATTEMPTS: usize = 2;

/// How long the rest of a body that nobody wants may take, before the connection goes instead.
const DRAIN: Duration = Duration::from_secs(1);

/// How Pingora spells a keep-alive without a limit: the idle time is the watch's.
const FOR_EVER: Option<u64> = Some(0);

const STREAMS: u32 = 64;
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What may wait for a client that does not read, for each of its streams.
const SEND_BUFFER: usize = 64 * 1024;

/// How many streams a client may make us reset before its connection ends (MadeYouReset).
const RESETS: usize = 128;
