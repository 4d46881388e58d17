//! The way to the backend, by which nobody else is reached.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use memoric_config::{Invalid, mutual_tls::MutualTls};
use pingora::{
    Error, ErrorType,
    connectors::L4Connect,
    prelude::HttpPeer,
    protocols::{
        Digest,
        l4::{socket::SocketAddr as PeerAddr, stream::Stream},
        tls::CaType,
    },
    upstreams::peer::Peer as _,
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use crate::config::Channel;

/// The way to the backend, ready for use.
pub(crate) enum Link {
    /// A socket file that the backend's user listens at.
    Unix(Arc<Socket>),
    /// A port of this machine alone.
    Loopback(SocketAddr),
    /// TLS in which each end shows a certificate.
    Tls(Sealed),
}

/// A connection to the backend, for what the gateway asks itself.
pub(crate) type Connected = Either<UnixStream, Either<TcpStream, Box<TlsStream<TcpStream>>>>;

/// A socket file, and the uid that must be at its other end.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    uid: u32,
}

/// A host that is spoken to by TLS alone.
pub(crate) struct Sealed {
    authority: Arc<Authority>,
    /// The name in its certificate.
    name: ServerName<'static>,
    connector: TlsConnector,
    /// What we show, and whom we believe, for Pingora.
    shown: Arc<CertKey>,
    authorities: Arc<CaType>,
}

/// A host by name or address, and a port.
#[derive(Debug)]
struct Authority(String);

impl Link {
    /// Reads what `channel` needs to be read.
    pub(crate) fn open(channel: &Channel) -> Result<Self, Invalid> {
        Ok(match channel {
            Channel::Unix { path, uid } => {
                Self::Unix(Arc::new(Socket { path: path.clone(), uid: *uid }))
            }
            Channel::Loopback(addr) => Self::Loopback(*addr),
            Channel::Tls { authority, tls } => Self::Tls(Sealed::read(authority, tls)?),
        })
    }

    /// A new connection, to the backend and nobody else.
    pub(crate) async fn connect(&self) -> io::Result<Connected> {
        Ok(match self {
            Self::Unix(socket) => Either::Left(socket.open().await?),
            Self::Loopback(addr) => Either::Right(Either::Left(TcpStream::connect(addr).await?)),
            Self::Tls(sealed) => Either::Right(Either::Right(Box::new(sealed.open().await?))),
        })
    }

    /// The same for Pingora, which keeps its connections.
    pub(crate) fn peer(&self) -> pingora::Result<Box<HttpPeer>> {
        let (mut peer, opener): (_, Option<Arc<dyn L4Connect + Send + Sync>>) = match self {
            Self::Unix(socket) => {
                let path = socket.path.to_string_lossy();
                (HttpPeer::new_uds(&path, false, String::new())?, Some(Arc::clone(socket) as _))
            }
            Self::Loopback(addr) => (HttpPeer::new(addr, false, String::new()), None),
            Self::Tls(sealed) => (sealed.peer(), Some(Arc::clone(&sealed.authority) as _)),
        };
        if let Some(options) = peer.get_mut_peer_options() {
            options.custom_l4 = opener;
        }
        Ok(Box::new(peer))
    }

    /// Refuses a connection of Pingora's that was made by less than we ask for: it knows of no way
    /// to be told to speak TLS 1.3 alone.
    pub(crate) fn ensure_fit(&self, digest: Option<&Digest>) -> pingora::Result<()> {
        let tls = digest.and_then(|digest| digest.ssl_digest.as_ref());
        match self {
            Self::Tls(_) if tls.is_none_or(|tls| tls.version != TLS13) => {
                Err(Error::explain(ErrorType::TLSHandshakeFailure, "not TLS 1.3").into_up())
            }
            _ => Ok(()),
        }
    }
}

impl Socket {
    /// Refuses a socket that somebody else than the backend's user listens at: they would read
    /// every memory that is sent there.
    async fn open(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.path).await?;
        if stream.peer_cred()?.uid() == self.uid {
            return Ok(stream);
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "another user than the backend's listens there",
        ))
    }
}

impl Sealed {
    fn read(authority: &str, tls: &MutualTls) -> Result<Self, Invalid> {
        let credentials = tls.read()?;
        // First the library that tells what is wrong with them: Pingora's panics.
        let connector = TlsConnector::from(Arc::new(credentials.client()?));
        let bytes = |certificate: &CertificateDer<'_>| certificate.to_vec();
        let shown = credentials.chain.iter().map(bytes).collect();
        let believed = |authority| WrappedX509::new(bytes(authority), parse_x509);
        Ok(Self {
            authority: Arc::new(Authority(authority.to_owned())),
            name: tls.name().clone(),
            connector,
            shown: Arc::new(CertKey::new(shown, credentials.key.secret_der().to_vec())),
            authorities: credentials.authorities.iter().map(believed).collect(),
        })
    }

    async fn open(&self) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), self.authority.open().await?).await
    }

    /// Pingora verifies the certificate and its name unless it is given no name.
    fn peer(&self) -> HttpPeer {
        // The host is looked up when it is connected to; Pingora takes this address for any.
        let mut peer =
            HttpPeer::new_mtls(ANYWHERE, self.name.to_str().into(), Arc::clone(&self.shown));
        peer.options.ca = Some(Arc::clone(&self.authorities));
        peer
    }
}

impl Authority {
    async fn open(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(&self.0).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

#[async_trait]
impl L4Connect for Socket {
    async fn connect(&self, _: &PeerAddr) -> pingora::Result<Stream> {
        self.open().await.map(Stream::from).map_err(unreachable)
    }
}

#[async_trait]
impl L4Connect for Authority {
    async fn connect(&self, _: &PeerAddr) -> pingora::Result<Stream> {
        self.open().await.map(Stream::from).map_err(unreachable)
    }
}

fn unreachable(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::ConnectError, "nobody is there", error)
}

/// Connects by TCP to whom `authority` names, as often as Pingora wants a connection.
pub(crate) fn opener(authority: &str) -> Arc<dyn L4Connect + Send + Sync> {
    Arc::new(Authority(authority.to_owned()))
}

/// Stands for the address of a host that is known by name.
pub(crate) const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// How Pingora spells the version.
const TLS13: &str = "TLSv1_3";
