//! Where a request comes from, as far as anybody whom we trust knows.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use memoric_config::schema::TrustedHeader;

use crate::config::TrustedProxies;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Client {
    /// The address, an IPv4 address never dressed as IPv6.
    pub(crate) address: IpAddr,
    /// Whether TLS was spoken with the proxy that tells it, where it says so.
    pub(crate) is_secure: Option<bool>,
}

impl Client {
    /// Whoever is at `address`, of whom nobody tells more.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self { address: address.to_canonical(), is_secure: None }
    }
}

impl TrustedProxies {
    /// Whom `peer` speaks for, by the `headers` of its request.
    ///
    /// Each proxy writes behind what it was sent, so the list is read from its end, for as long as
    /// proxies of ours wrote it: what stands before that is a client's own story. Where one of them
    /// wrote what is no address, the request is that proxy's own.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap<HeaderValue>) -> Client {
        let mut client = Client::at(peer);
        if !self.trust(client.address) {
            return client;
        }
        let (name, hop): (_, fn(&str) -> Option<Client>) = match self.header {
            TrustedHeader::XForwardedFor => (X_FORWARDED_FOR, node),
            TrustedHeader::Forwarded => (FORWARDED, element),
        };
        let lines = headers.get_all(name).iter().rev();
        let mut told = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        while self.trust(client.address)
            && let Some(hop) = told.next().and_then(|told| hop(str::from_utf8(told).ok()?))
        {
            client = hop;
        }
        if self.header == TrustedHeader::XForwardedFor {
            client.is_secure = scheme(headers);
        }
        client
    }
}

/// What `X-Forwarded-Proto` says. More than one word is nobody's word.
fn scheme(headers: &HeaderMap<HeaderValue>) -> Option<bool> {
    let mut words = headers.get_all(X_FORWARDED_PROTO).iter();
    let word = words.next()?;
    Some(words.next().is_none() && word.as_bytes().trim_ascii().eq_ignore_ascii_case(b"https"))
}

/// One entry of `X-Forwarded-For`.
fn node(told: &str) -> Option<Client> {
    Some(Client { address: address(told.trim_matches(BLANK))?, is_secure: None })
}

/// One element of `Forwarded` (RFC 7239, section 4). A comma or a semicolon in quotes ends it early:
/// what is left of the quotes is then no value, and so nothing in them is taken for an element.
fn element(told: &str) -> Option<Client> {
    let (mut node, mut scheme) = (None, None);
    for pair in told.split(';') {
        let (name, value) = pair.trim_matches(BLANK).split_once('=')?;
        let value = unquoted(value)?;
        let said_before = match name {
            name if name.eq_ignore_ascii_case("for") => node.replace(value),
            name if name.eq_ignore_ascii_case("proto") => scheme.replace(value),
            _ => None,
        };
        if said_before.is_some() {
            return None;
        }
    }
    let is_secure = scheme.map(|scheme| scheme.eq_ignore_ascii_case("https"));
    Some(Client { address: address(node?)?, is_secure })
}

/// A value, without the quotes around it. One that needs escapes is none that we look for.
fn unquoted(value: &str) -> Option<&str> {
    let plain = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => value,
    };
    (!plain.contains(['"', '\\'])).then_some(plain)
}

/// An address, with or without a port. `unknown` and obfuscated names are none.
fn address(node: &str) -> Option<IpAddr> {
    if let Ok(address) = node.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = match node.strip_prefix('[') {
        Some(bracketed) => {
            let (address, rest) = bracketed.split_once(']')?;
            (IpAddr::V6(address.parse().ok()?), rest.strip_prefix(':'))
        }
        None => {
            let (address, port) = node.split_once(':')?;
            (IpAddr::V4(address.parse().ok()?), Some(port))
        }
    };
    let is_whole = port.map_or_else(|| node.ends_with(']'), is_port);
    is_whole.then(|| address.to_canonical())
}

/// A number, or an obfuscated one (RFC 7239, section 6.3).
fn is_port(port: &str) -> bool {
    let is_obfuscated = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match port.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(is_obfuscated),
        None => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// White space within a line.
const BLANK: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::proxies;

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_is_the_client() {
        for (told, client) in [
            ("198.51.100.7", "198.51.100.7"),
            ("203.0.113.1, 198.51.100.7", "198.51.100.7"),
            ("203.0.113.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("203.0.113.1,198.51.100.7\t,10.0.0.3 , 10.0.0.2", "198.51.100.7"),
            ("10.0.0.9, 198.51.100.7", "198.51.100.7"),
            ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
            ("2001:DB8::7", "2001:db8::7"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("198.51.100.7:4711", "198.51.100.7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("198.51.100.7, [::ffff:10.0.0.2]:1", "198.51.100.7"),
        ] {
            assert_eq!(by_x(&[told]), client, "{told}");
        }
    }

    #[test]
    fn lines_are_one_list() {
        assert_eq!(by_x(&["203.0.113.1", "198.51.100.7, 10.0.0.3", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(by_x(&["198.51.100.7", "203.0.113.1"]), "203.0.113.1");
    }

    #[test]
    fn what_is_no_address_is_the_proxys_own_that_wrote_it() {
        for told in [
            "",
            ",",
            "198.51.100.7,",
            "198.51.100.7, unknown",
            "198.51.100.7, _hidden",
            "198.51.100.7, 1.2.3",
            "198.51.100.7, 010.0.0.1",
            "198.51.100.7, 1.2.3.4:",
            "198.51.100.7, 1.2.3.4:99999",
            "198.51.100.7, 1.2.3.4:+1",
            "198.51.100.7, [2001:db8::7",
            "198.51.100.7, [2001:db8::7]x",
            "198.51.100.7, [2001:db8::7]:",
            "198.51.100.7, [1.2.3.4]:1",
            "198.51.100.7, \"1.2.3.4\"",
            "198.51.100.7, for=1.2.3.4",
            "198.51.100.7, fe80::1%eth0",
            "198.51.100.7, unix:",
            "198.51.100.7 203.0.113.1",
        ] {
            assert_eq!(by_x(&[told]), "10.0.0.1", "{told:?}");
        }
        assert_eq!(by_x(&["198.51.100.7, junk, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(by_x(&[]), "10.0.0.1");
    }

    #[test]
    fn a_stranger_is_believed_nothing() {
        let headers = headers(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        let client = trusted(TrustedHeader::XForwardedFor).client(ip("198.51.100.7"), &headers);

        assert_eq!(client, Client { address: ip("198.51.100.7"), is_secure: None });
    }

    #[test]
    fn only_the_header_that_proxies_write_is_read() {
        let both = headers(&[("x-forwarded-for", "203.0.113.1"), ("forwarded", "for=203.0.113.2")]);
        let by = |header| trusted(header).client(ip("10.0.0.1"), &both).address.to_string();

        assert_eq!(by(TrustedHeader::XForwardedFor), "203.0.113.1");
        assert_eq!(by(TrustedHeader::Forwarded), "203.0.113.2");
    }

    #[test]
    fn the_element_of_a_forwarded_that_is_no_proxys_tells_address_and_scheme() {
        for (told, address, is_secure) in [
            ("for=198.51.100.7", "198.51.100.7", None),
            ("For=\"198.51.100.7:4711\";Proto=https", "198.51.100.7", Some(true)),
            ("for=198.51.100.7;proto=http;by=_x", "198.51.100.7", Some(false)),
            ("for=\"[2001:db8::7]:_port\"; proto=HTTPS", "2001:db8::7", Some(true)),
            ("for=203.0.113.1, for=198.51.100.7;host=a", "198.51.100.7", None),
            (
                "for=203.0.113.1, for=198.51.100.7;proto=https, for=10.0.0.2;proto=http",
                "198.51.100.7",
                Some(true),
            ),
        ] {
            let client = by_forwarded(told);
            assert_eq!((client.address, client.is_secure), (ip(address), is_secure), "{told}");
        }
    }

    #[test]
    fn nobody_forges_an_element_in_the_words_of_a_proxy() {
        for told in [
            "for=unknown",
            "for=_secret",
            "for=",
            "proto=https",
            "for=203.0.113.1;for=203.0.113.2",
            "for=203.0.113.1;proto=http;proto=https",
            "for=\"203.0.113.1",
            "203.0.113.1",
            "for=203.0.113.1;",
            "for =203.0.113.1",
            "for=10.0.0.2;host=\"a, for=203.0.113.1\"",
            "for=10.0.0.2;host=\"a, for=203.0.113.1;x=\"",
            "for=10.0.0.2;host=\"a, for=203.0.113.1;x=\\\"\"",
        ] {
            assert_eq!(by_forwarded(told).address, ip("10.0.0.1"), "{told}");
        }
        assert_eq!(
            by_forwarded("for=\", for=198.51.100.7").address,
            ip("198.51.100.7"),
            "open quotes"
        );
    }

    #[test]
    fn the_scheme_is_one_word() {
        let scheme = |words: &[&str]| {
            let lines: Vec<_> = words.iter().map(|word| ("x-forwarded-proto", *word)).collect();
            trusted(TrustedHeader::XForwardedFor).client(ip("10.0.0.1"), &headers(&lines)).is_secure
        };
        assert_eq!(scheme(&["HTTPS"]), Some(true));
        assert_eq!(scheme(&["http"]), Some(false));
        assert_eq!(scheme(&["https", "https"]), Some(false));
        assert_eq!(scheme(&["https, http"]), Some(false));
        assert_eq!(scheme(&[]), None);
    }

    fn by_x(lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let proxies = trusted(TrustedHeader::XForwardedFor);
        proxies.client(ip("::ffff:10.0.0.1"), &headers(&lines)).address.to_string()
    }

    fn by_forwarded(line: &str) -> Client {
        trusted(TrustedHeader::Forwarded).client(ip("10.0.0.1"), &headers(&[("forwarded", line)]))
    }

    fn trusted(header: TrustedHeader) -> TrustedProxies {
        proxies(header, &["10.0.0.0/8"])
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap<HeaderValue> {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
