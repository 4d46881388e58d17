//! What we are called by those who ask us.

use std::net::{IpAddr, Ipv6Addr};

use crate::{rejection::Rejection, request::Request};

/// The names that are ours.
///
/// A name is whatever its owner says: a stranger's can be given our address, and then browsers take
/// us for that stranger's own server (DNS rebinding). An address can be nobody else's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    /// Those of `names`, in lower case; none of them means that any could be.
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Rejects what was meant for somebody else. Who asks for no name at all is no browser.
    pub(crate) fn ensure_ours(&self, request: &Request<'_>) -> Result<(), Rejection> {
        match request.authority() {
            Some(authority) if !self.0.is_empty() && !self.include(authority) => {
                Err(Rejection::Misdirected)
            }
            _ => Ok(()),
        }
    }

    /// Whether a page that was served by the authority that it asks, by `request`, was served by us.
    ///
    /// Where no names are set it is, unless it came in clear by loopback: nobody has a certificate for
    /// a stranger's name, and a client elsewhere finds us by a name that we cannot know, but a local
    /// one by an address or as `localhost`. Who comes by another address of this machine is elsewhere.
    pub(crate) fn are_of(&self, request: &Request<'_>) -> bool {
        let by_loopback = request.client.is_none_or(|client| client.is_loopback());
        let is_anybodys = self.0.is_empty() && (request.over_tls || !by_loopback);
        is_anybodys || request.authority().is_some_and(|authority| self.include(authority))
    }

    fn include(&self, authority: &[u8]) -> bool {
        let Ok(authority) = str::from_utf8(authority) else { return false };
        let host = host(authority).to_ascii_lowercase();
        is_address(&host) || is_localhost(&host) || self.0.contains(&host)
    }
}

/// The host of an authority, without its port and the dot that may end it.
fn host(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

fn is_address(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
    }
}

/// Whether browsers look for it nowhere but on their own machine (RFC 6761, section 6.3).
fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_ours_in_whatever_spelling_and_an_address_is_nobody_elses() {
        let names = Names::new(vec!["memoric.example".to_owned()]);
        for ours in [
            "memoric.example",
            "MEMORIC.example:8443",
            "memoric.example.",
            "memoric.example.:80",
            "localhost",
            "LOCALHOST:8000",
            "a.localhost:1",
            "127.0.0.1:8000",
            "192.0.2.1",
            "[::1]:8000",
            "[2001:db8::1]",
        ] {
            assert!(names.include(ours.as_bytes()), "{ours}");
        }
        for another in [
            "evil.example",
            "memoric.example.evil",
            "evil-memoric.example",
            "a.memoric.example",
            "localhost.evil",
            "127.0.0.1.evil",
            "evil.example:8000",
            "",
            ":8000",
            "[::1",
            "::1",
            "127.1",
        ] {
            assert!(!names.include(another.as_bytes()), "{another}");
        }
    }
}
