//! Where clients come in: our own sockets in front of Pingora's engine.

mod admission;
mod connection;
mod deadline;
mod downstream;
mod edge;
mod http1;
mod http2;
mod introduction;
mod reception;
mod tls;
mod witness;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use pingora::proxy::ProxyHttp;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket},
    select,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

pub use self::tls::CertificateError;
pub(crate) use self::{
    connection::Connection,
    deadline::BodyDue,
    downstream::is_untold,
    reception::Reception,
    tls::{Certificate, server_config},
};

/// A socket that clients connect to.
pub(crate) struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Takes the port `addr`; port 0 lets the system choose.
    pub(crate) fn bind(addr: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let socket = socket.listen(BACKLOG)?;
        Ok(Self { addr: socket.local_addr()?, socket, tls: tls.map(TlsAcceptor::from) })
    }

    /// Where clients connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Hands clients to `reception` until it closes. The port is free when this returns.
    async fn serve<P>(self, reception: Arc<Reception<P>>)
    where
        P: ProxyHttp + Send + Sync + 'static,
        P::CTX: Send + Sync,
    {
        loop {
            select! {
                () = reception.closing() => return,
                accepted = self.socket.accept() => match accepted {
                    Ok((tcp, peer)) => reception.receive(tcp, peer, self.tls.clone()),
                    Err(error) => recover(&error).await,
                }
            }
        }
    }
}

/// Goes on after an error of `accept`. One of a single client is nothing to us. One of our own,
/// such as no more file descriptors, does not go away by asking again at once.
async fn recover(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
    {
        return;
    }
    tracing::warn!(%error, "a connection could not be accepted");
    sleep(RECOVERY).await;
}

/// How many connections may wait for us to accept them.
const BACKLOG: u32 = 1024;

/// How long to leave the system alone that has nothing to give.
const RECOVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
