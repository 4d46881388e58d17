//! Where the gateway connects, and nobody else.

use std::{
    fmt,
    fs::{self, DirBuilder, Permissions},
    io,
    net::SocketAddr,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prometheus::IntCounter;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

use super::opening::StartError;
use crate::config::Listen;

/// A bound socket that only the gateway gets through.
pub(super) struct Listener {
    socket: Either<OwnedSocket, TcpListener>,
    gate: Gate,
}

/// What the gateway is known by.
#[derive(Clone)]
struct Gate {
    /// Its user, where it comes by a Unix socket.
    uid: u32,
    /// Its certificate, where it may come from anywhere.
    tls: Option<TlsAcceptor>,
    strangers: IntCounter,
}

/// Who has connected, and has proven nothing yet.
pub(super) struct Newcomer {
    stream: Either<UnixStream, TcpStream>,
    gate: Gate,
}

/// One connection of the gateway's.
pub(super) type Channel = Either<UnixStream, Either<TcpStream, Box<TlsStream<TcpStream>>>>;

/// Where a backend listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Addr {
    /// A Unix socket.
    Socket(PathBuf),
    /// A port.
    Tcp(SocketAddr),
}

/// A socket file that is ours, and goes when we stop listening.
struct OwnedSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that only the file we made is removed.
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Takes the place. A socket that somebody still listens on is not taken over.
    pub(super) async fn bind(
        listen: &Listen,
        gateway_uid: u32,
        strangers: IntCounter,
    ) -> Result<Self, StartError> {
        let taken = |source| StartError::Listen { at: listen.to_string(), source };
        let mut gate = Gate { uid: gateway_uid, tls: None, strangers };
        let socket = match listen {
            Listen::Socket(path) => Either::Left(OwnedSocket::bind(path).map_err(taken)?),
            Listen::Loopback(address) => {
                Either::Right(TcpListener::bind(address).await.map_err(taken)?)
            }
            Listen::Tls { address, tls } => {
                gate.tls = Some(TlsAcceptor::from(Arc::new(tls.read()?.server()?)));
                Either::Right(TcpListener::bind(address).await.map_err(taken)?)
            }
        };
        Ok(Self { socket, gate })
    }

    /// Where it listens.
    pub(super) fn addr(&self) -> io::Result<Addr> {
        match &self.socket {
            Either::Left(socket) => Ok(Addr::Socket(socket.path.clone())),
            Either::Right(listener) => listener.local_addr().map(Addr::Tcp),
        }
    }

    /// The next one to connect.
    pub(super) async fn accept(&self) -> Newcomer {
        loop {
            match self.accept_any().await {
                Ok(stream) => return Newcomer { stream, gate: self.gate.clone() },
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    // Out of file descriptors, most likely: trying again at once would spin.
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn accept_any(&self) -> io::Result<Either<UnixStream, TcpStream>> {
        match &self.socket {
            Either::Left(socket) => Ok(Either::Left(socket.listener.accept().await?.0)),
            Either::Right(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Either::Right(stream))
            }
        }
    }
}

impl Newcomer {
    /// The connection, if it is the gateway's.
    pub(super) async fn admit(self) -> Option<Channel> {
        let strangers = self.gate.strangers.clone();
        match self.prove().await {
            Ok(channel) => Some(channel),
            Err(reason) => {
                strangers.inc();
                tracing::warn!(%reason, "a connection was closed: it is not the gateway's");
                None
            }
        }
    }

    /// On loopback nothing is proven: the assertion of each request must do.
    async fn prove(self) -> io::Result<Channel> {
        let Gate { uid, tls, .. } = self.gate;
        match (self.stream, tls) {
            (Either::Left(stream), _) if stream.peer_cred()?.uid() == uid => {
                Ok(Either::Left(stream))
            }
            (Either::Left(_), _) => Err(io::Error::other("the peer is another user")),
            (Either::Right(stream), None) => Ok(Either::Right(Either::Left(stream))),
            (Either::Right(stream), Some(tls)) => {
                let proven = timeout(HANDSHAKE, tls.accept(stream)).await??;
                Ok(Either::Right(Either::Right(Box::new(proven))))
            }
        }
    }
}

impl OwnedSocket {
    fn bind(path: &Path) -> io::Result<Self> {
        make_folder(path)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        let identity = identity(path);
        let socket = Self { listener, path: path.to_owned(), identity };
        // The folder keeps strangers out; its group is the gateway's.
        fs::set_permissions(path, Permissions::from_mode(0o660))?;
        Ok(socket)
    }
}

impl Drop for OwnedSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.exists() => {
            DirBuilder::new().recursive(true).mode(0o750).create(folder)
        }
        _ => Ok(()),
    }
}

/// Removes what a backend that was killed left behind, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let in_use = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    if !found.file_type().is_socket() {
        return in_use("something that is not a socket is there");
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return in_use("another user's socket is there");
    }
    match StdUnixStream::connect(path) {
        Ok(_) => in_use("another backend listens there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// For which a newcomer may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Before the next try to accept.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_killed_backend_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener of the standard library leaves its file");

        let listener = bind(&path).await.unwrap();

        StdUnixStream::connect(&path).expect("somebody listens");
        drop(listener);
        assert!(!path.exists(), "ours takes its file along");
    }

    #[tokio::test]
    async fn a_socket_that_is_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.sock");
        let _first = bind(&path).await.unwrap();

        assert_eq!(refusal(&path).await, io::ErrorKind::AddrInUse);

        StdUnixStream::connect(&path).expect("the first one still listens");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.sock");
        fs::write(&path, "precious").unwrap();

        assert_eq!(refusal(&path).await, io::ErrorKind::AddrInUse);

        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_peer_of_another_user_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.sock");
        let strangers = IntCounter::new("strangers", "x").unwrap();
        let other = rustix::process::getuid().as_raw() + 1;
        let listener =
            Listener::bind(&Listen::Socket(path.clone()), other, strangers.clone()).await.unwrap();

        let _peer = UnixStream::connect(&path).await.unwrap();
        let admitted = listener.accept().await.admit().await;

        assert!(admitted.is_none(), "no connection comes through");
        assert_eq!(strangers.get(), 1);
    }

    async fn refusal(path: &Path) -> io::ErrorKind {
        match bind(path).await.err() {
            Some(StartError::Listen { source, .. }) => source.kind(),
            _ => panic!("it was bound"),
        }
    }

    async fn bind(path: &Path) -> Result<Listener, StartError> {
        let uid = rustix::process::getuid().as_raw();
        let strangers = IntCounter::new("strangers", "x").unwrap();
        Listener::bind(&Listen::Socket(path.to_owned()), uid, strangers).await
    }
}
