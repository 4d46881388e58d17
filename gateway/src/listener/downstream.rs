//! A client's connection as Pingora sees it.

use std::{
    any::Any,
    fmt,
    future::Future as _,
    io::{self, IoSlice},
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest,
    Ssl, TimingDigest, UniqueID, l4::socket::SocketAddr as PeerAddr, raw_connect::ProxyDigest,
    tls::SslDigest,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::connection::{Connection, Fault, Turn};
use crate::respond;

/// A client's connection as Pingora sees it: what comes in is counted while a head is awaited,
/// and what goes out is gathered.
///
/// Head and body of an answer leave together, as one TLS record and one system call; sent apart
/// they cost 15 % more CPU per request. The buffer is given back while nothing is asked.
pub(super) struct Downstream {
    transport: Transport,
    connection: Arc<Connection>,
    socket: Arc<SocketDigest>,
    /// What is there where `Peer::is_untold`.
    untold: Option<Arc<ProxyDigest>>,
    tls: Option<Arc<SslDigest>>,
    established: SystemTime,
    /// What waits to be written: the bytes from `written` on.
    unsent: Vec<u8>,
    written: usize,
    /// Until when bytes are thrown away that come after the last answer.
    linger: Option<Pin<Box<Sleep>>>,
}

/// Whose a connection is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Where it comes from, as far as anybody tells.
    pub(super) addr: std::net::SocketAddr,
    /// A proxy, whose address this is then, was to tell whose it is, and did not. So it has written
    /// nothing in the requests either: what they say of where they come from is a client's own story.
    pub(super) is_untold: bool,
}

/// What a client's bytes come over.
pub(super) enum Transport {
    /// TCP alone.
    Clear(TcpStream),
    /// TLS. Boxed, because it is ten times the size.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Downstream {
    /// A connection from `peer`.
    pub(super) fn new(transport: Transport, peer: Peer, connection: Arc<Connection>) -> Self {
        let socket = SocketDigest::from_raw_fd(transport.tcp().as_raw_fd());
        // Known already: unset, it would cost a system call and be wrong behind a proxy.
        let _ = socket.peer_addr.set(Some(PeerAddr::Inet(peer.addr)));
        Self {
            tls: transport.tls_digest(),
            transport,
            connection,
            socket: Arc::new(socket),
            untold: peer.is_untold.then(|| Arc::new(untold())),
            established: SystemTime::now(),
            unsent: Vec::new(),
            written: 0,
            linger: None,
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn gather(&mut self, bytes: &[u8]) {
        self.connection.send(bytes);
        self.unsent.extend_from_slice(bytes);
    }

    /// Hands what was gathered to the transport.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.unsent.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(self.transport.pin().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.written += sent,
            }
        }
        self.unsent.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Says no where no head has come in, in place of whatever the engine would say.
    fn refuse(&mut self, fault: Fault) {
        let Some(id) = self.connection.give_up(fault) else { return };
        if let Ok(answer) = respond::unparsed(&fault.rejection(), id) {
            self.unsent.extend_from_slice(&answer);
        }
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.unsent.len().saturating_add(bytes) <= GATHERED
    }

    /// Gives the buffer back: most connections spend most of their life waiting.
    fn rest(&mut self) {
        if self.unsent.is_empty() && self.unsent.capacity() > 0 {
            self.unsent = Vec::new();
        }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let room = match this.connection.turn() {
                Turn::Read(room) => room,
                Turn::Wait => return Poll::Pending,
                Turn::Refuse(fault) => {
                    this.refuse(fault);
                    ready!(Pin::new(&mut *this).poll_shutdown(cx))?;
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Turn::Fail => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            };
            let before = buf.filled().len();
            let read = match room.filter(|room| *room < buf.remaining()) {
                None => this.transport.pin().poll_read(cx, buf),
                Some(room) => poll_read_at_most(room, &mut this.transport, cx, buf),
            };
            if read.is_pending() && room.is_some() {
                this.rest();
            }
            let came = buf.filled().get(before..).unwrap_or_default();
            let good = this.connection.receive(came);
            let is_all_bad = good == 0 && !came.is_empty();
            buf.set_filled(before + good);
            if !is_all_bad {
                return read;
            }
        }
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.connection.is_answered() {
            self.refuse(Fault::Malformed);
            return Poll::Ready(Ok(buf.len()));
        }
        if !self.has_room_for(buf.len()) {
            ready!(self.poll_send(cx))?;
        }
        if !self.has_room_for(buf.len()) {
            let written = ready!(self.transport.pin().poll_write(cx, buf))?;
            self.connection.send(buf.get(..written).unwrap_or_default());
            return Poll::Ready(Ok(written));
        }
        self.gather(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        if !self.connection.is_answered() {
            self.refuse(Fault::Malformed);
            return Poll::Ready(Ok(bytes));
        }
        if !self.has_room_for(bytes) {
            ready!(self.poll_send(cx))?;
        }
        if !self.has_room_for(bytes) {
            let written = ready!(self.transport.pin().poll_write_vectored(cx, bufs))?;
            let mut left = written;
            for buf in bufs {
                let part = buf.get(..left.min(buf.len())).unwrap_or_default();
                self.connection.send(part);
                left -= part.len();
            }
            return Poll::Ready(Ok(written));
        }
        bufs.iter().for_each(|buf| self.gather(buf));
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.transport.pin().poll_flush(cx)
    }

    /// Ends the connection after an answer, which is when Pingora calls this. Bytes that the client
    /// still sends are thrown away for a moment: closing on top of them would reset the connection,
    /// and the reset may overtake the answer, so that the client never sees why it was refused.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(this.poll_send(cx))?;
            ready!(this.transport.pin().poll_shutdown(cx))?;
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        this.transport.poll_discard(cx).map(Ok)
    }
}

/// Reads, but no more than `room`: the first byte over a bound must not come in.
fn poll_read_at_most(
    room: usize,
    transport: &mut Transport,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
    ready!(transport.pin().poll_read(cx, &mut part))?;
    let bytes = part.filled().len();
    buf.advance(bytes);
    Poll::Ready(Ok(()))
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Clear(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Reads until the client is done, keeping nothing and decrypting nothing.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let tcp = match self {
            Self::Clear(tcp) => tcp,
            Self::Tls(tls) => tls.get_mut().0,
        };
        let mut bin = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut bin);
            let read = ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    fn tls_digest(&self) -> Option<Arc<SslDigest>> {
        let Self::Tls(tls) = self else { return None };
        let version = match tls.get_ref().1.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLS",
        };
        Some(Arc::new(SslDigest::new("", version, None, None, Vec::new())))
    }

    /// The protocol that was agreed on. Without TLS there is none: HTTP/2 in clear waits without
    /// end for the rest of its preface.
    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Clear(_) => false,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    fn pin(&mut self) -> Pin<&mut Self> {
        Pin::new(self)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for Downstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Downstream")
    }
}

#[async_trait]
impl Shutdown for Downstream {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Downstream {
    fn id(&self) -> i32 {
        self.transport.tcp().as_raw_fd()
    }
}

impl Ssl for Downstream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.transport.is_http2() { ALPN::H2 } else { ALPN::H1 })
    }
}

impl Peek for Downstream {}

impl GetTimingDigest for Downstream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for Downstream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.untold.clone()
    }
}

/// Whether the connection behind `digest` is one of which [`Peer::is_untold`].
pub(crate) fn is_untold(digest: &Digest) -> bool {
    digest.proxy_digest.as_ref().is_some_and(|proxy| {
        proxy.user_data.as_deref().is_some_and(<dyn Any + Send + Sync>::is::<Untold>)
    })
}

/// Of all that Pingora keeps of a connection, for its streams of HTTP/2 as well, this alone has
/// room for a word of ours. The response in it is nobody's.
fn untold() -> ProxyDigest {
    let (response, ()) = http::Response::new(()).into_parts();
    ProxyDigest::new(Box::new(response.into()), Some(Box::new(Untold)))
}

struct Untold;

impl GetSocketDigest for Downstream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.socket = Arc::new(digest);
    }
}

/// What is gathered before it is sent: the most that one TLS record holds.
const GATHERED: usize = 16 * 1024;

/// How long a client who was answered may go on sending.
const LINGER: Duration = Duration::from_secs(1);
