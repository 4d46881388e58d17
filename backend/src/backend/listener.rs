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
    time::Duration,
};

use prometheus::IntCounter;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::sleep,
};
use tokio_util::either::Either;

use crate::config::Listen;

/// A bound socket that only the gateway's user gets through, or a loopback port.
pub(super) struct Listener {
    socket: Either<OwnedSocket, TcpListener>,
    gateway_uid: u32,
    strangers: IntCounter,
}

/// One connection of the gateway's.
pub(super) type Channel = Either<UnixStream, TcpStream>;

/// Where a backend listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Addr {
    /// A Unix socket.
    Socket(PathBuf),
    /// A loopback port.
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
    ) -> io::Result<Self> {
        let socket = match listen {
            Listen::Socket(path) => Either::Left(OwnedSocket::bind(path)?),
            Listen::Loopback(address) => Either::Right(TcpListener::bind(address).await?),
        };
        Ok(Self { socket, gateway_uid, strangers })
    }

    /// Where it listens.
    pub(super) fn addr(&self) -> io::Result<Addr> {
        match &self.socket {
            Either::Left(socket) => Ok(Addr::Socket(socket.path.clone())),
            Either::Right(listener) => listener.local_addr().map(Addr::Tcp),
        }
    }

    /// The next connection of the gateway's.
    pub(super) async fn accept(&self) -> Channel {
        loop {
            match self.accept_any().await {
                Ok(channel) if self.is_gateway(&channel) => return channel,
                Ok(_) => {
                    self.strangers.inc();
                    tracing::warn!("a connection was closed: the peer is not the gateway's user");
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    // Out of file descriptors, most likely: trying again at once would spin.
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn accept_any(&self) -> io::Result<Channel> {
        match &self.socket {
            Either::Left(socket) => Ok(Either::Left(socket.listener.accept().await?.0)),
            Either::Right(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Either::Right(stream))
            }
        }
    }

    /// Whether the peer runs as the gateway does. A TCP peer shows no user; its assertions must do.
    fn is_gateway(&self, channel: &Channel) -> bool {
        match channel {
            Either::Left(stream) => {
                stream.peer_cred().is_ok_and(|peer| peer.uid() == self.gateway_uid)
            }
            Either::Right(_) => true,
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

        assert_eq!(bind(&path).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);

        StdUnixStream::connect(&path).expect("the first one still listens");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backend.sock");
        fs::write(&path, "precious").unwrap();

        assert_eq!(bind(&path).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);

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
        let accepted = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;

        assert!(accepted.is_err(), "no connection comes through");
        assert_eq!(strangers.get(), 1);
    }

    async fn bind(path: &Path) -> io::Result<Listener> {
        let uid = rustix::process::getuid().as_raw();
        let strangers = IntCounter::new("strangers", "x").unwrap();
        Listener::bind(&Listen::Socket(path.to_owned()), uid, strangers).await
    }
}
