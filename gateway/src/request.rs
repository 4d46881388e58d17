//! The parts of a request that the checks may look at.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version, header::HOST};
use pingora::{http::RequestHeader, proxy::Session};

use crate::{exchange::Exchange, forward::REQUEST_ID};

/// A request as the client sent it, without what a client may not say. Nothing in here is trusted.
pub(crate) struct Request<'a> {
    /// Where it came from, an IPv4 address never dressed as IPv6.
    pub(crate) client: Option<IpAddr>,
    /// Whether the client spoke TLS, with us or with a proxy that we trust.
    pub(crate) over_tls: bool,
    /// Whether a body comes behind its head, were it only the frame of an empty one.
    pub(crate) has_body: bool,
    head: &'a RequestHeader,
    /// The bytes of the head, where it came over HTTP/1. Pingora's parser forgives some of them.
    raw: Option<Bytes>,
}

impl<'a> Request<'a> {
    /// The request of `session`, which came as `exchange` took note of.
    pub(crate) fn new(session: &'a mut Session, exchange: &Exchange) -> Self {
        let has_body = !session.is_body_empty();
        Self {
            client: exchange.client,
            over_tls: exchange.arrival.is_secure,
            has_body,
            head: session.req_header(),
            raw: session.as_http1().map(|http1| http1.get_headers_raw_bytes()),
        }
    }

    pub(crate) fn method(&self) -> &'a Method {
        &self.head.method
    }

    pub(crate) fn version(&self) -> Version {
        self.head.version
    }

    pub(crate) fn headers(&self) -> &'a HeaderMap<HeaderValue> {
        &self.head.headers
    }

    /// The bytes of the head, where it came over HTTP/1.
    pub(crate) fn raw(&self) -> Option<&[u8]> {
        self.raw.as_deref()
    }

    /// The target as it was sent. Pingora drops a fragment from its own copy without a word.
    pub(crate) fn target(&self) -> &[u8] {
        self.raw().and_then(raw_target).unwrap_or_else(|| self.head.raw_path())
    }

    /// The authority that is asked: `:authority`, or `Host`.
    pub(crate) fn authority(&self) -> Option<&'a [u8]> {
        let host = || self.headers().get(HOST).map(HeaderValue::as_bytes);
        self.head.uri.authority().map(|authority| authority.as_str().as_bytes()).or_else(host)
    }
}

/// Takes out of `head` everything by which a client could speak as someone else.
///
/// Names are compared as the most forgiving server would: in lower case (which they are in here)
/// and with `_` read as `-`. As CGI, WSGI and their kin cannot tell the two apart, a name with `_`
/// goes whatever it says: none is read here, and none is passed on by name either, so there is nobody
/// for whom some would have to be let through.
pub(crate) fn cleanse(head: &mut RequestHeader) {
    let forbidden: Vec<_> =
        head.headers.keys().filter(|name| is_forbidden(name.as_str())).cloned().collect();
    for name in &forbidden {
        head.remove_header(name);
    }
}

/// What a client calls its request, for the access log alone: one short word in which nothing can be
/// hidden from whoever reads a log, and which no credential of ours fits into.
pub(crate) fn called(headers: &HeaderMap<HeaderValue>) -> Option<Box<str>> {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    let id = ids.next().filter(|_| ids.next().is_none())?.to_str().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/+=".contains(&byte);
    let is_short = (1..=LONGEST_ID).contains(&id.len());
    (is_short && id.bytes().all(is_plain)).then(|| id.into())
}

fn is_forbidden(name: &str) -> bool {
    name.contains('_')
        || FORBIDDEN.contains(&name)
        || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The second word of the request line. Empty lines before it are allowed (RFC 9112, section 2.2).
fn raw_target(head: &[u8]) -> Option<&[u8]> {
    let line = head.trim_ascii_start().split(|byte| *byte == b'\r').next()?;
    line.split(|byte| *byte == b' ').nth(1)
}

/// Bytes of what a client calls its request: a UUID or a trace fits. The shortest credential that we
/// give out, a token by which a password is reset, has one byte more.
const LONGEST_ID: usize = 46;

/// Names that tell who someone is, where they are, or that the request is not what it looks like.
const FORBIDDEN: [&str; 22] = [
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "proxy",
    "remote-addr",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-email",
    "x-groups",
    "x-host",
    "x-namespace",
    "x-real-ip",
    "x-request-id",
    "x-role",
    "x-roles",
    "x-scope-orgid",
];

/// Beginnings of such names. `http2-settings` and `upgrade` begin a talk that we do not hold.
const FORBIDDEN_PREFIXES: [&str; 26] = [
    "cf-access-",
    "cf-connecting-",
    "http2-settings",
    "tailscale-",
    "upgrade",
    "x-amzn-oidc-",
    "x-auth",
    "x-client-cert",
    "x-consumer-",
    "x-credential-",
    "x-envoy-",
    "x-forwarded",
    "x-goog-",
    "x-http-method",
    "x-identity",
    "x-jwt-",
    "x-memoric-",
    "x-method-override",
    "x-ms-client-principal",
    "x-original-",
    "x-pomerium-",
    "x-remote-",
    "x-rewrite-",
    "x-ssl-",
    "x-tenant",
    "x-user",
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request over HTTP/1 with this head, as Pingora would hand it over.
    pub(crate) struct Parsed {
        head: RequestHeader,
        raw: Bytes,
    }

    impl Parsed {
        pub(crate) fn new(head: &str) -> Self {
            let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
            let mut words = lines.next().unwrap().split(' ');
            let (method, target) = (words.next().unwrap(), words.next().unwrap());
            let mut parsed = RequestHeader::build(method, target.as_bytes(), None).unwrap();
            parsed.set_version(match words.next().unwrap() {
                "HTTP/1.0" => Version::HTTP_10,
                _ => Version::HTTP_11,
            });
            for line in lines.flat_map(|line| line.split('\n')) {
                let (name, value) = line.split_once(':').unwrap();
                parsed.append_header(name.to_owned(), value.trim()).unwrap();
            }
            if parsed.headers.contains_key("transfer-encoding") {
                parsed.remove_header("content-length");
            }
            Self { head: parsed, raw: Bytes::copy_from_slice(head.as_bytes()) }
        }

        pub(crate) fn request(&self) -> Request<'_> {
            Request {
                client: Some([192, 0, 2, 1].into()),
                over_tls: true,
                has_body: ["content-length", "transfer-encoding"]
                    .into_iter()
                    .any(|name| self.head.headers.get(name).is_some_and(|value| value != "0")),
                head: &self.head,
                raw: Some(self.raw.clone()),
            }
        }
    }

    /// A request over HTTP/2.
    pub(crate) fn http2<'a>(head: &'a RequestHeader) -> Request<'a> {
        let client = Some([192, 0, 2, 1].into());
        Request { client, over_tls: true, has_body: false, head, raw: None }
    }

    #[test]
    fn no_spelling_of_an_identity_header_is_left() {
        let names = [
            "X-Memoric-Assertion",
            "x_memoric_assertion",
            "X-User-Id",
            "x-user_id",
            "X_USER_ID",
            "X-Forwarded-User",
            "X-Forwarded-For",
            "Forwarded",
            "X-Auth-Request-User",
            "Remote-User",
            "REMOTE_USER",
            "X-Real-IP",
            "X-UserId",
            "X-Request-Id",
            "X-Original-URL",
            "Proxy",
            "X-HTTP-Method-Override",
            "X-Tenant-Id",
            "any_thing",
        ];
        let mut head = RequestHeader::build("GET", b"/memories", None).unwrap();
        for name in names {
            head.append_header(name, "1").unwrap();
            head.append_header(name, "2").unwrap();
        }
        head.append_header("Accept", "*/*").unwrap();
        head.append_header("User-Agent", "curl").unwrap();

        cleanse(&mut head);

        let mut left: Vec<_> = head.headers.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "user-agent"]);
    }

    #[test]
    fn what_a_client_calls_its_request_is_one_short_plain_word() {
        let called = |ids: &[&[u8]]| {
            let line = |id: &&[u8]| (REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            called(&ids.iter().map(line).collect())
        };
        let uuid = "0195c0de-7a3b-7c11-9e2f-0123456789ab";
        assert_eq!(called(&[uuid.as_bytes()]).as_deref(), Some(uuid));
        assert!(called(&[&[b'a'; 46]]).is_some());
        assert!(called(&[&[b'a'; 47]]).is_none(), "as long as a reset token");
        for odd in [&b""[..], b"a b", b"a\tb", b"a\"b", b"{}", b"a\\n", b"<a>", b"a%0ab", b"\xff"] {
            assert!(called(&[odd]).is_none(), "{odd:?}");
        }
        assert!(called(&[b"a", b"a"]).is_none());
        assert!(called(&[]).is_none());
    }

    #[test]
    fn the_target_is_the_one_that_was_sent() {
        assert_eq!(raw_target(b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"), Some(&b"/a#b"[..]));
        assert_eq!(raw_target(b"\r\nGET /a HTTP/1.1\r\n\r\n"), Some(&b"/a"[..]));
    }
}
