//! A gateway, from its settings to its last request.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use memoric_config::{Invalid, command::Chain, redis::Redis};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::{select, sync::oneshot, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    archive::ArchiveOpenError,
    authn::Authenticator,
    backend::BackendClient,
    config::Config,
    exchange::Exchanges,
    journal::Journal,
    listener::{Certificate, CertificateError, Listener, Reception, server_config},
    metrics::Metrics,
    private::Private,
    proxy::Proxy,
    spool::SpoolOpenError,
};

/// A gateway that has its ports and is ready to serve.
pub struct Gateway {
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    listeners: Vec<Listener>,
    private: Option<Private>,
    journal: Arc<Journal>,
    authenticator: Arc<Authenticator>,
    certificate: Option<Arc<Certificate>>,
    reception: Arc<Reception<Proxy>>,
    background: Background,
}

/// What can be changed while a gateway serves.
#[derive(Clone)]
pub struct Reins {
    authenticator: Arc<Authenticator>,
    certificate: Option<Arc<Certificate>>,
}

/// Why a gateway could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port is taken, or not ours to take.
    #[error("{setting}: cannot listen on {addr}")]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// The port, with its address.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// There is no TLS to be had.
    #[error("gateway.https: TLS cannot be spoken")]
    Tls(#[from] rustls::Error),
    /// The way to the backend cannot be used.
    #[error(transparent)]
    Channel(#[from] Invalid),
    /// The way to a service cannot be used.
    #[error("gateway.routes: {0}")]
    Route(String),
    /// The only copy of what was revoked would be with a Redis that may forget it.
    #[error("{setting}: {found}")]
    Redis {
        /// The setting that says where it is.
        setting: &'static str,
        /// What is wrong with it.
        found: String,
    },
    /// There is no folder in which records could rest.
    #[error("audit.archive: {0}")]
    Archive(#[from] ArchiveOpenError),
    /// There is no folder in which records could wait for the backend.
    #[error("audit.spool.folder: {0}")]
    Spool(#[source] SpoolOpenError),
    /// The log has no thread of its own.
    #[error("the log cannot be written")]
    Log(#[source] io::Error),
    /// Two metrics have one name.
    #[error("the metrics cannot be kept")]
    Metrics(#[from] prometheus::Error),
}

/// Work that goes on beside requests, until the gateway has ended or is dropped.
pub(crate) struct Background {
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Gateway {
    /// Takes the ports and builds everything, but serves nobody yet.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        let certificate = config.https.as_ref().map(Certificate::read).transpose()?.map(Arc::new);
        let tls = certificate.clone().map(server_config).transpose()?;
        let https = config.https.as_ref().map(|https| https.addr).zip(tls);
        let http = config.http.map(|addr| listen("gateway.http", addr, None)).transpose()?;
        let https =
            https.map(|(addr, tls)| listen("gateway.https", addr, Some(tls))).transpose()?;
        let private = match config.metrics {
            Some(addr) => Some(
                Private::bind(addr, Arc::clone(&metrics))
                    .await
                    .map_err(unheard("gateway.metrics", addr))?,
            ),
            None => None,
        };

        let background = Background::new();
        let backend = config.backend.as_ref().map(BackendClient::open).transpose()?.map(Arc::new);
        if backend.is_none() {
            ensure_lasting(&config.redis).await?;
        }
        let journal = Journal::open(&config, backend.clone(), &metrics)?;
        let exchanges =
            Exchanges::new(Arc::clone(&metrics), Arc::clone(&journal)).map_err(StartError::Log)?;
        let authenticator =
            Arc::new(Authenticator::new(config.token_keys.clone(), config.legacy_until));
        let proxy = Proxy::new(
            &config,
            Arc::clone(&authenticator),
            backend,
            Arc::clone(&exchanges),
            &background,
        )
        .map_err(|error| StartError::Route(error.to_string()))?;
        Ok(Self {
            http: http.as_ref().map(Listener::addr),
            https: https.as_ref().map(Listener::addr),
            listeners: http.into_iter().chain(https).collect(),
            private,
            journal,
            authenticator,
            certificate,
            reception: Reception::new(proxy, &config, exchanges, metrics),
            background,
        })
    }

    /// Where clients connect in clear.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where clients connect by TLS.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Where Prometheus connects.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.private.as_ref().map(Private::addr)
    }

    /// What can be changed while it serves.
    pub fn reins(&self) -> Reins {
        let certificate = self.certificate.clone();
        Reins { authenticator: Arc::clone(&self.authenticator), certificate }
    }

    /// Serves until `shutdown` resolves, then lets requests in flight end.
    ///
    /// What goes on beside requests ends after them: they need it to the last. What they left to
    /// be delivered is delivered then, as far as the settings give it time.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (beside, deliveries) = (Background::new(), Background::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let (close, closed) = oneshot::channel::<()>();
        let journal = self.journal;
        deliveries.spawn(async move { journal.deliver(async { drop(closed.await) }).await });
        if let Some(private) = self.private {
            beside.spawn(private.run(async { drop(stopped.await) }));
        }
        self.reception.run(self.listeners, shutdown).await;
        self.background.end().await;
        drop(close);
        deliveries.idle().await;
        drop(stop);
        let _ = timeout(LAST_SCRAPE, beside.idle()).await;
        beside.end().await;
    }
}

impl Reins {
    /// Believes tokens by the keys of `config` from now on, and by no others, and shows the certificate
    /// that its files hold now. Everything else stays as it was, and so does a certificate whose files
    /// cannot be used.
    pub fn take_up(&self, config: Config) {
        tracing::info!(keys = ?config.token_keys, "the keys of access tokens are in force");
        self.authenticator.replace_keys(config.token_keys, config.legacy_until);
        let Some((shown, https)) = self.certificate.as_ref().zip(config.https) else { return };
        match shown.renew(&https) {
            Ok(()) => tracing::info!("the certificate is in force"),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the certificate was refused: the one in force stays");
            }
        }
    }
}

impl Background {
    pub(crate) fn new() -> Self {
        let stop = CancellationToken::new();
        Self { tasks: TaskTracker::new(), _stop: stop.clone().drop_guard(), stop }
    }

    /// Does `work` until it ends or is no longer needed.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Resolves when all work has ended by itself.
    async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends all work, wherever it stands.
    async fn end(self) {
        self.stop.cancel();
        self.idle().await;
    }
}

/// Refuses a Redis that may forget what it is told. One that cannot be asked is looked at later, and
/// nobody is let in before that.
async fn ensure_lasting(redis: &Redis) -> Result<(), StartError> {
    match redis.shortcomings().await {
        Ok(found) if found.is_empty() => Ok(()),
        Ok(found) => Err(StartError::Redis { setting: redis.setting(), found: found.join("; ") }),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "revocations cannot be read yet");
            Ok(())
        }
    }
}

fn listen(
    setting: &'static str,
    addr: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
) -> Result<Listener, StartError> {
    Listener::bind(addr, tls).map_err(unheard(setting, addr))
}

fn unheard(setting: &'static str, addr: SocketAddr) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Listen { setting, addr, source }
}

/// How long the last scrape may take.
const LAST_SCRAPE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use memoric_config::Settings;
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::config::tests::environment;

    fn settings() -> (TempDir, Settings) {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.audit.spool.folder = folder.path().join("spool");
        settings.gateway.http = Some(([127, 0, 0, 1], 0).into());
        settings.gateway.https = None;
        settings.gateway.metrics = ([127, 0, 0, 1], 0).into();
        (folder, settings)
    }

    async fn bind(settings: &Settings) -> Result<Gateway, StartError> {
        Gateway::bind(Config::new(settings, &environment()).unwrap()).await
    }

    async fn ask(addr: SocketAddr, path: &str) -> String {
        let mut client = TcpStream::connect(addr).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_gateway_counts_what_it_did_where_clients_do_not_come() {
        let (_folder, settings) = settings();
        let gateway = bind(&settings).await.unwrap();
        let (http, metrics) = (gateway.http_addr().unwrap(), gateway.metrics_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(gateway.run(async { drop(stopped.await) }));

        ask(http, "/nowhere").await;
        let counted = ask(metrics, "/metrics").await;
        stop.send(()).unwrap();
        running.await.unwrap();

        assert!(counted.contains("memoric_gateway_requests_total{"), "{counted}");
        assert!(counted.contains("memoric_gateway_spool_written_total{log=\"strangers\"} 1"));
        assert!(!counted.contains("nowhere"), "labels are words of our own");
        assert!(TcpStream::connect(http).await.is_err());
        assert!(TcpStream::connect(metrics).await.is_err());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let (_folder, mut settings) = settings();
        let first = bind(&settings).await.unwrap();
        settings.gateway.http = first.http_addr();

        let refused = bind(&settings).await.err().unwrap().to_string();

        let addr = first.http_addr().unwrap();
        assert_eq!(refused, format!("gateway.http: cannot listen on {addr}"));
    }

    #[tokio::test]
    async fn a_gateway_that_could_write_nothing_down_does_not_start() {
        let (folder, mut settings) = settings();
        std::fs::write(folder.path().join("file"), "").unwrap();
        settings.audit.spool.folder = folder.path().join("file/spool");

        let refused = bind(&settings).await.err().unwrap().to_string();

        assert!(refused.starts_with("audit.spool.folder: the spool in /"), "{refused}");
    }

    #[tokio::test]
    async fn a_gateway_that_counts_for_nobody_opens_no_private_port() {
        let (_folder, mut settings) = settings();
        settings.observability.metrics.enabled = false;

        assert_eq!(bind(&settings).await.unwrap().metrics_addr(), None);
    }
}
