//! From an accepted socket to the engine, and to the end of both.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use pingora::{apps::ServerApp as _, protocols::Stream, proxy::ProxyHttp};
use prometheus::IntGauge;
use tokio::{
    net::TcpStream,
    select,
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Listener,
    admission::{Admission, Admitted, Refused},
    connection::Connection,
    downstream::{Downstream, Peer, Transport},
    edge::Edge,
    introduction,
    witness::Witness,
};
use crate::{
    config::{Bounds, Config, Timeouts, TrustedProxies},
    exchange::Exchanges,
    metrics::Metrics,
};

/// What receives clients, whichever listener they came by.
pub(crate) struct Reception<P> {
    edge: Arc<Edge<P>>,
    admission: Arc<Admission>,
    proxies: TrustedProxies,
    timeouts: Timeouts,
    bounds: Bounds,
    grace: Duration,
    metrics: Arc<Metrics>,
    exchanges: Arc<Exchanges>,
    connections: TaskTracker,
    /// True once no new request is taken; Pingora watches it too.
    closed: watch::Sender<bool>,
    /// Ends what is still there.
    cut: CancellationToken,
}

/// An open connection, for as long as it is counted as one.
struct Counted(IntGauge);

impl<P> Reception<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    pub(crate) fn new(
        proxy: P,
        config: &Config,
        exchanges: Arc<Exchanges>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let cut = CancellationToken::new();
        Arc::new(Self {
            edge: Edge::new(proxy, config, cut.clone()),
            admission: Admission::new(config.connections, config.proxies.clone()),
            proxies: config.proxies.clone(),
            timeouts: config.timeouts,
            bounds: config.bounds,
            grace: config.grace,
            metrics,
            exchanges,
            connections: TaskTracker::new(),
            closed: watch::Sender::new(false),
            cut,
        })
    }

    /// Receives clients at `listeners` until `shutdown` resolves. Requests in flight may then
    /// end, those who wait between two requests are sent home, and what is left after the
    /// grace is cut.
    pub(crate) async fn run(
        self: Arc<Self>,
        listeners: Vec<Listener>,
        shutdown: impl Future<Output = ()>,
    ) {
        // Whoever drops this future must not leave connections behind.
        let _cut = self.cut.clone().drop_guard();
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(listener.serve(Arc::clone(&self)));
        }
        shutdown.await;

        self.closed.send_replace(true);
        while accepting.join_next().await.is_some() {}
        self.edge.cleanup().await;
        self.drain().await;
    }

    async fn drain(&self) {
        if timeout(self.grace, self.exchanges.ended()).await.is_err() {
            tracing::warn!(requests = self.exchanges.len(), "stopped with requests in flight");
        }
        // Answers of HTTP/2 are written by the connection's task, so an exchange that has ended
        // may still be on its way.
        let farewell = Instant::now() + FAREWELL;
        self.connections.close();
        let _ = timeout_at(farewell, self.connections.wait()).await;
        self.cut.cancel();
        self.connections.wait().await;
        let _ = timeout(FAREWELL, self.exchanges.ended()).await;
    }

    /// Resolves once no new request is taken.
    pub(super) async fn closing(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Serves one client on a task of their own, if there is room for them.
    pub(super) fn receive(
        self: &Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) {
        let Some(mut seat) = self.seated(self.admission.admit(peer.ip())) else { return };
        let name = if tls.is_some() { "https" } else { "http" };
        let counted = Counted::new(self.metrics.connections.with_label_values(&[name]));
        let this = Arc::clone(self);
        // One deadline for all that comes before a request.
        let due = Instant::now() + self.timeouts.handshake;
        self.connections.spawn(async move {
            let serve = async {
                let mut tcp = tcp;
                if let Some(peer) = this.introduced(&mut tcp, (peer, due), &mut seat).await {
                    this.attend(tcp, peer, tls.map(|tls| (tls, due))).await;
                }
            };
            select! {
                () = serve => {}
                () = this.cut.cancelled() => {}
            }
            drop((seat, counted));
        });
    }

    /// Whose connection it is: that of `peer`, or of whom it introduces before it is `due`.
    async fn introduced(
        &self,
        tcp: &mut TcpStream,
        (peer, due): (SocketAddr, Instant),
        seat: &mut Admitted,
    ) -> Option<Peer> {
        if !self.proxies.introduce(peer.ip()) {
            return Some(Peer { addr: peer, is_untold: false });
        }
        let read = select! {
            read = timeout_at(due, introduction::read(tcp)) => read,
            () = self.closing() => return None,
        };
        let Ok(Ok(introduced)) = read else {
            self.metrics.failed_handshakes.with_label_values(&["introduction"]).inc();
            tracing::warn!(proxy = %peer.ip(), "a proxy did not say whose connection it is");
            return None;
        };
        let peer = Peer { addr: introduced.unwrap_or(peer), is_untold: introduced.is_none() };
        self.seated(seat.introduce(peer.addr.ip())).map(|()| peer)
    }

    /// What was let in. What was not is counted.
    fn seated<T>(&self, admitted: Result<T, Refused>) -> Option<T> {
        let refused = |refused: &Refused| {
            self.metrics.refused_connections.with_label_values(&[refused.name()]).inc();
        };
        admitted.inspect_err(refused).ok()
    }

    /// Serves one client for as long as their connection lives.
    async fn attend(&self, tcp: TcpStream, peer: Peer, tls: Option<(TlsAcceptor, Instant)>) {
        // Without it an answer in two segments waits for the client's acknowledgement.
        let _ = tcp.set_nodelay(true);
        let transport = match tls {
            None => Transport::Clear(tcp),
            Some((acceptor, due)) => match self.shake_hands(&acceptor, tcp, due).await {
                Some(transport) => transport,
                None => return,
            },
        };
        let witness = |protocol| Witness {
            metrics: Arc::clone(&self.metrics),
            exchanges: Arc::clone(&self.exchanges),
            client: peer.addr.ip(),
            protocol,
        };
        let connection = if transport.is_http2() {
            Connection::http2(self.timeouts, self.bounds, witness("http2"))
        } else {
            Connection::http1(self.timeouts, self.bounds, witness("http1"))
        };
        let stream: Stream = Box::new(Downstream::new(transport, peer, Arc::clone(&connection)));
        let closed = self.closed.subscribe();
        let serve = async {
            self.edge.process_new(stream, &closed).await;
        };
        connection.watch(serve).await;
    }

    async fn shake_hands(
        &self,
        acceptor: &TlsAcceptor,
        tcp: TcpStream,
        due: Instant,
    ) -> Option<Transport> {
        let shaken = select! {
            shaken = timeout_at(due, acceptor.accept(tcp)) => shaken,
            () = self.closing() => return None,
        };
        let reason = match shaken {
            Ok(Ok(tls)) => return Some(Transport::Tls(Box::new(tls))),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => "protocol",
            Ok(Err(_)) => "abandoned",
            Err(_) => "late",
        };
        self.metrics.failed_handshakes.with_label_values(&[reason]).inc();
        None
    }
}

impl Counted {
    fn new(open: IntGauge) -> Self {
        open.inc();
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How long the last bytes of an answer may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);
