//! The way to the backend.

use std::{
    fmt,
    net::SocketAddr,
    num::NonZeroU16,
    path::{Path, PathBuf},
};

use memoric_config::{
    Invalid,
    mutual_tls::{MutualTls, server_name},
    schema,
};

/// The way to the backend, one that nobody else can listen on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Channel {
    /// A socket file, and the uid that must be at its other end.
    Unix { path: PathBuf, uid: u32 },
    /// A port of this machine alone.
    Loopback(SocketAddr),
    /// A host and a port anywhere, each end proven by its certificate.
    Tls { authority: String, tls: MutualTls },
}

impl TryFrom<&schema::Gateway> for Channel {
    type Error = Invalid;

    /// Plain TCP that leaves the machine is refused: whoever listens there would read every memory.
    fn try_from(gateway: &schema::Gateway) -> Result<Self, Invalid> {
        let written = gateway.backend.as_str();
        if let Some(path) = written.strip_prefix("unix:") {
            return unix(PathBuf::from(path), gateway.backend_uid);
        }
        if let Some(authority) = written.strip_prefix("https://") {
            return tls(authority, &gateway.backend_tls);
        }
        match written.strip_prefix("http://").map(str::parse::<SocketAddr>) {
            Some(Ok(addr)) if addr.ip().is_loopback() => Ok(Self::Loopback(addr)),
            Some(Ok(_)) => Err(invalid("must not leave this machine in clear")),
            _ => Err(invalid(
                "must be unix:/path, https://host:port, or http:// with a loopback address and a port",
            )),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, uid } => {
                write!(f, "a Unix socket, {}, of uid {uid}", path.display())
            }
            Self::Loopback(addr) => write!(f, "{addr}, in clear within this machine"),
            Self::Tls { authority, tls } => {
                write!(f, "{authority}, mutual TLS 1.3 with {}", tls.name().to_str())
            }
        }
    }
}

fn unix(path: PathBuf, uid: Option<u32>) -> Result<Channel, Invalid> {
    ensure_socket(&path).map_err(invalid)?;
    let uid = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    Ok(Channel::Unix { path, uid })
}

/// Says why no Unix socket can be at `path`.
pub(super) fn ensure_socket(path: &Path) -> Result<(), &'static str> {
    match path {
        path if !path.is_absolute() => Err("must be unix: and an absolute path"),
        path if path.as_os_str().len() > SOCKET_PATH => {
            Err("is longer than the path of a Unix socket may be (107 bytes)")
        }
        _ => Ok(()),
    }
}

/// The host in an authority that names one and a port.
pub(super) fn host(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    port.parse::<NonZeroU16>().ok()?;
    server_name(host).map(|_| host)
}

fn tls(authority: &str, written: &schema::ChannelTls) -> Result<Channel, Invalid> {
    let unclear = || invalid("must be https://host:port, and nothing behind it");
    let host = host(authority).ok_or_else(unclear)?;
    let tls = MutualTls::new("gateway.backend_tls", written, "gateway.backend", Some(host))?;
    Ok(Channel::Tls { authority: authority.to_owned(), tls })
}

fn invalid(reason: &str) -> Invalid {
    Invalid::new("gateway.backend", reason)
}

/// How long the path of a Unix socket may be.
const SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_backend_never_leaves_the_machine_in_clear() {
        assert_eq!(backend("unix:/run/memoric/backend.sock"), "accepted");
        assert_eq!(backend("http://127.0.0.1:7000"), "accepted");
        assert_eq!(backend("http://[::1]:7000"), "accepted");
        for refused in [
            "http://10.0.0.1:7000",
            "http://0.0.0.0:1",
            "unix:backend.sock",
            "tcp:1",
            "",
            "http://localhost:1",
        ] {
            assert!(backend(refused).starts_with("gateway.backend: "), "{refused}");
        }
        assert!(
            backend(&format!("unix:/{}", "a".repeat(107))).contains("107"),
            "the kernel would cut it"
        );
    }

    #[test]
    fn elsewhere_each_end_is_proven() {
        for (written, told) in [
            (
                "https://backend.example:8801",
                "backend.example:8801, mutual TLS 1.3 with backend.example",
            ),
            ("https://10.0.0.1:8801", "10.0.0.1:8801, mutual TLS 1.3 with 10.0.0.1"),
            ("https://[2001:db8::1]:8801", "[2001:db8::1]:8801, mutual TLS 1.3 with 2001:db8::1"),
        ] {
            assert_eq!(parse(written, whole()).unwrap().to_string(), told);
        }
        for refused in [
            "https://backend.example",
            "https://backend.example:0",
            "https://backend.example:65536",
            "https://backend.example:8801/",
            "https://:8801",
            "https://back_end:8801",
            "https://a@b:1",
            "HTTPS://backend.example:8801",
        ] {
            let told = parse(refused, whole()).unwrap_err().to_string();
            assert!(told.starts_with("gateway.backend: "), "{refused}: {told}");
        }
        let told = parse("https://a:1", schema::ChannelTls::default()).unwrap_err().to_string();
        assert_eq!(
            told,
            "gateway.backend_tls.certificate: is not set, and gateway.backend needs it"
        );
    }

    fn backend(written: &str) -> String {
        let parsed = parse(written, schema::ChannelTls::default());
        parsed.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    }

    fn parse(written: &str, backend_tls: schema::ChannelTls) -> Result<Channel, Invalid> {
        let backend = written.to_owned();
        Channel::try_from(&schema::Gateway { backend, backend_tls, ..Default::default() })
    }

    fn whole() -> schema::ChannelTls {
        let file = || Some(PathBuf::from("/some.pem"));
        schema::ChannelTls { certificate: file(), key: file(), ca: file(), name: None }
    }
}
