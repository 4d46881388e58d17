//! Origins of web pages and names of hosts, exactly as browsers send them.

use std::net::{IpAddr, Ipv6Addr};

use crate::error::Invalid;

/// Refuses an origin that no browser sends, for it would never match, and `*` and `null`, for
/// they would match anybody.
pub(super) fn ensure_exact(origins: &[String]) -> Result<(), Invalid> {
    for (place, origin) in origins.iter().enumerate() {
        if let Some(reason) = fault(origin) {
            return Err(Invalid::new(format!("cors.origins[{place}]"), reason));
        }
    }
    Ok(())
}

/// Refuses what is no name of a host, as browsers write it: it would never be asked for.
pub(super) fn ensure_names(names: &[String]) -> Result<(), Invalid> {
    match names.iter().position(|name| !is_host(name) || name.parse::<IpAddr>().is_ok()) {
        None => Ok(()),
        Some(place) => Err(Invalid::new(format!("gateway.names[{place}]"), NOT_A_NAME)),
    }
}

fn fault(origin: &str) -> Option<&'static str> {
    if origin == "*" || origin == "null" {
        return Some("must be an origin: * and null would let anybody in");
    }
    let Some((scheme, authority)) = origin.split_once("://") else {
        return Some("must be an origin such as https://app.example");
    };
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Some("must begin with http:// or https://, in lower case"),
    };
    if authority.contains(['/', '?', '#', '@']) {
        return Some("must end with the host or the port: no path, no slash, no user");
    }
    let (host, port) = split(authority);
    if !is_host(host) {
        return Some("must name one host in lower-case letters, digits, dots and dashes");
    }
    let number = port.map(|text| (text, text.parse::<u16>()));
    match number {
        None => None,
        Some((_, Ok(port))) if port == default => {
            Some("must leave out its default port, as browsers do")
        }
        Some((text, Ok(port))) if port > 0 && text == port.to_string() => None,
        Some(_) => Some("must have a port between 1 and 65535, or none"),
    }
}

/// The host and the port. The colons of an IPv6 address stand in brackets.
fn split(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
    }
    let is_plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    host.split('.').all(|label| !label.is_empty() && label.bytes().all(is_plain))
}

const NOT_A_NAME: &str =
    "must be a host such as memoric.example, in lower case and without its port";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_send_is_taken() {
        for origin in [
            "https://yourdomain.com",
            "https://app.yourdomain.com",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:5173",
            "https://xn--bcher-kva.example",
        ] {
            assert_eq!(fault(origin), None, "{origin}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused() {
        for origin in [
            "",
            "*",
            "null",
            "https://*.example",
            "app.example",
            "https://",
            "ftp://app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example?x",
            "https://user@app.example",
            "https://App.example",
            "HTTPS://app.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://app.example:0",
            "https://app.example:08443",
            "https://app.example:65536",
            "https://app.example:",
            "https://bücher.example",
            "https://app..example",
            "https://app.example, https://b.example",
            "https://[::1",
            "https://[0:0::1]",
        ] {
            assert!(fault(origin).is_some(), "{origin}");
        }
    }

    #[test]
    fn a_name_is_a_host_alone() {
        let refused = |name: &str| ensure_names(&["memoric".to_owned(), name.to_owned()]);
        assert_eq!(refused("memoric.example"), Ok(()));
        for name in [
            "",
            "Memoric.example",
            "memoric.example:8443",
            "https://a",
            "*.a",
            "a.",
            "a/b",
            "10.0.0.1",
        ] {
            assert_eq!(refused(name).unwrap_err().field, "gateway.names[1]", "{name}");
        }
    }

    #[test]
    fn the_place_in_the_list_is_named() {
        let origins = ["https://app.example".to_owned(), "*".to_owned()];
        assert_eq!(ensure_exact(&origins).unwrap_err().field, "cors.origins[1]");
    }
}
