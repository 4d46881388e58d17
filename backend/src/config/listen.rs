//! Where the gateway finds the backend.

use std::{net::SocketAddr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use memoric_config::Invalid;

/// A place that nobody outside this machine can reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Listen {
    /// A Unix socket.
    Socket(PathBuf),
    /// An address of the loopback interface.
    Loopback(SocketAddr),
}

impl Listen {
    /// Reads `unix:/path` or a loopback `address:port`. Anything else is refused, because the
    /// channel carries identities in clear.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text.strip_prefix("unix:") {
            Some(path) => socket(PathBuf::from(path)).map(Self::Socket),
            None => loopback(text).map(Self::Loopback),
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
        refused("must be unix:/path, or a loopback address and port such as 127.0.0.1:8001")
    })?;
    if !address.ip().is_loopback() {
        return Err(refused(
            "must be a Unix socket or a loopback address: the channel is not encrypted",
        ));
    }
    Ok(address)
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
        let socket = Listen::parse("unix:/run/memoric/backend.sock").unwrap();
        assert_eq!(socket, Listen::Socket("/run/memoric/backend.sock".into()));

        for text in ["127.0.0.1:0", "127.9.9.9:8001", "[::1]:8001"] {
            assert_eq!(Listen::parse(text).unwrap(), Listen::Loopback(text.parse().unwrap()));
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
            assert!(Listen::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_that_the_system_would_cut_off_is_refused() {
        let longest = format!("unix:/{}", "x".repeat(106));
        assert!(Listen::parse(&longest).is_ok());

        assert!(Listen::parse(&format!("{longest}x")).is_err(), "108 bytes");
        assert!(Listen::parse("unix:backend.sock").is_err(), "relative to wherever it was started");
    }
}
