//! Where the gateway finds the backend.

use std::{fmt, net::SocketAddr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use memoric_config::{Invalid, mutual_tls::MutualTls, schema};

/// A place that nobody but the gateway gets through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Listen {
    /// A Unix socket.
    Socket(PathBuf),
    /// An address of the loopback interface.
    Loopback(SocketAddr),
    /// Any address, each end proven by its certificate.
    Tls { address: SocketAddr, tls: MutualTls },
}

impl TryFrom<&schema::Backend> for Listen {
    type Error = Invalid;

    /// Plain TCP that others could reach is refused, because the channel carries memories.
    fn try_from(backend: &schema::Backend) -> Result<Self, Invalid> {
        let written = backend.listen.as_str();
        if let Some(path) = written.strip_prefix("unix:") {
            return socket(PathBuf::from(path)).map(Self::Socket);
        }
        match written.strip_prefix("https://") {
            Some(address) => tls(address, &backend.gateway_tls),
            None => loopback(written).map(Self::Loopback),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Loopback(address) => address.fmt(f),
            Self::Tls { address, .. } => write!(f, "https://{address}"),
        }
    }
}

fn socket(path: PathBuf) -> Result<PathBuf, Invalid> {
    if !path.is_absolute() {
        return Err(refused("the path of a socket must begin with /"));
    }
    if path.as_os_str().as_bytes().len() > SOCKET_PATH {
        return Err(refused(&format!("the path of a socket has at most {SOCKET_PATH} bytes")));
    }
    Ok(path)
}

fn loopback(text: &str) -> Result<SocketAddr, Invalid> {
    let address: SocketAddr = text.parse().map_err(|_| {
        refused(
            "must be unix:/path, https://address:port, or a loopback address and port such as \
             127.0.0.1:8001",
        )
    })?;
    if !address.ip().is_loopback() {
        return Err(refused(
            "must be a Unix socket, a loopback address or https://: others could listen in",
        ));
    }
    Ok(address)
}

fn tls(text: &str, written: &schema::ChannelTls) -> Result<Listen, Invalid> {
    let address = text.parse().map_err(|_| {
        refused("must have an address and a port behind https://, such as 0.0.0.0:8001")
    })?;
    let tls = MutualTls::new("backend.gateway_tls", written, "backend.listen", None)?;
    Ok(Listen::Tls { address, tls })
}

fn refused(reason: &str) -> Invalid {
    Invalid::new("backend.listen", reason)
}

/// What the system takes (`sun_path`), less the zero at its end.
const SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_or_a_loopback_address_is_taken() {
        let socket = parse("unix:/run/memoric/backend.sock").unwrap();
        assert_eq!(socket, Listen::Socket("/run/memoric/backend.sock".into()));

        for text in ["127.0.0.1:0", "127.9.9.9:8001", "[::1]:8001"] {
            assert_eq!(parse(text).unwrap(), Listen::Loopback(text.parse().unwrap()));
        }
    }

    #[test]
    fn anything_that_others_could_reach_is_refused() {
        for text in [
            "0.0.0.0:8001",
            "10.0.0.1:8001",
            "[::]:8001",
            "[::ffff:127.0.0.1]:8001",
            "localhost:8001",
            "",
            "http://127.0.0.1:1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn elsewhere_each_end_is_proven() {
        let file = || Some(PathBuf::from("/some.pem"));
        let whole = schema::ChannelTls {
            certificate: file(),
            key: file(),
            ca: file(),
            name: Some("gateway".to_owned()),
        };

        let listen = with("https://0.0.0.0:8001", whole.clone()).unwrap();

        assert!(matches!(listen, Listen::Tls { .. }));
        assert!(with("https://localhost:8001", whole.clone()).is_err());
        let anybody = schema::ChannelTls { name: None, ..whole };
        assert_eq!(
            with("https://0.0.0.0:8001", anybody).unwrap_err().to_string(),
            "backend.gateway_tls.name: is not set, and backend.listen needs it"
        );
    }

    #[test]
    fn a_path_that_the_system_would_cut_off_is_refused() {
        let longest = format!("unix:/{}", "x".repeat(106));
        assert!(parse(&longest).is_ok());

        assert!(parse(&format!("{longest}x")).is_err(), "108 bytes");
        assert!(parse("unix:backend.sock").is_err(), "relative to wherever it was started");
    }

    fn parse(text: &str) -> Result<Listen, Invalid> {
        with(text, schema::ChannelTls::default())
    }

    fn with(text: &str, gateway_tls: schema::ChannelTls) -> Result<Listen, Invalid> {
        let listen = text.to_owned();
        Listen::try_from(&schema::Backend { listen, gateway_tls, ..Default::default() })
    }
}
