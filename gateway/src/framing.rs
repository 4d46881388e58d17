//! Where a message ends, and whether it is one at all.

use http::{
    HeaderName, HeaderValue, Method, Version,
    header::{
        ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE,
        EXPECT, HOST, ORIGIN, TRANSFER_ENCODING,
    },
};

use memoric_contract::{Operation, Takes};

use crate::{asked::Asked, config::Bounds, rejection::Rejection, request::Request};

/// Rejects what could be read in two ways, or is larger than anyone needs.
///
/// The backend must see exactly the message that we judged, so an ambiguous one is turned away
/// rather than repaired (RFC 9112, section 6.3). Pingora's parser repairs several.
pub(crate) fn check(request: &Request<'_>, bounds: Bounds) -> Result<(), Rejection> {
    check_size(request, bounds)?;
    check_lines(request)?;
    check_method(request.method())?;
    check_host(request)?;
    check_singles(request)?;
    check_connection(request)?;
    check_length(request, bounds)?;
    check_expectation(request)
}

/// Rejects a body that what is `asked` does not take, before a byte of it is read where its length is
/// told. What is told of no body is ignored.
pub(crate) fn check_body(request: &Request<'_>, asked: &Asked) -> Result<(), Rejection> {
    if !request.has_body {
        return Ok(());
    }
    match asked {
        Asked::Operation(operation) => check_kind(request, *operation)?,
        // Some servers read a body behind these two, and some take it for the next request.
        Asked::Route(_) if [Method::GET, Method::HEAD].contains(request.method()) => {
            return Err(Rejection::BodyUnwanted);
        }
        Asked::Route(route) if route.body_bytes == 0 => return Err(Rejection::BodyUnwanted),
        Asked::Route(_) => {}
    }
    match request.headers().get(CONTENT_LENGTH) {
        Some(length) if !is_at_most(length, asked.most_body()) => Err(Rejection::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Rejects a body of another kind than `operation` takes. Of what a service takes we know nothing.
fn check_kind(request: &Request<'_>, operation: Operation) -> Result<(), Rejection> {
    let claimed = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    match operation.takes() {
        Takes::Nothing => Err(Rejection::BodyUnwanted),
        takes if !takes.allows(claimed) => Err(Rejection::UnsupportedMediaType),
        _ => Ok(()),
    }
}

fn check_size(request: &Request<'_>, bounds: Bounds) -> Result<(), Rejection> {
    let fields = || {
        let sizes = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        request.target().len() + sizes.map(|size| size + FIELD_OVERHEAD).sum::<usize>()
    };
    let bytes = request.raw().map_or_else(fields, <[u8]>::len);
    if bytes > bounds.header_bytes || request.headers().len() > bounds.headers {
        return Err(Rejection::HeadTooLarge);
    }
    Ok(())
}

/// A line that ends in LF alone is the end of a line to some servers and not to others.
fn check_lines(request: &Request<'_>) -> Result<(), Rejection> {
    for line in request.raw().unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
        if !line.ends_with(b"\r\n") {
            return Err(Rejection::Misframed("A line of the request head does not end in CR LF"));
        }
        if is_disguised(line) {
            return Err(Rejection::Misframed("A field is called nearly like a length"));
        }
    }
    Ok(())
}

/// Whether CGI and its kin, to whom `_` and `-` are the same, would read a length here. The field
/// itself is gone by now, as is every one with a `_` in its name.
fn is_disguised(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is = |other: &[u8]| {
        name.len() == other.len()
            && name.iter().zip(other).all(|(byte, other)| match byte {
                b'_' => *other == b'-',
                byte => byte.eq_ignore_ascii_case(other),
            })
    };
    name.contains(&b'_') && (is(b"content-length") || is(b"transfer-encoding"))
}

fn check_method(method: &Method) -> Result<(), Rejection> {
    if METHODS.contains(&method.as_str()) {
        Ok(())
    } else {
        Err(Rejection::UnknownMethod { allow: METHODS.join(", ") })
    }
}

fn check_host(request: &Request<'_>) -> Result<(), Rejection> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Rejection::Ambiguous("The request has more than one Host"));
    }
    let Some(authority) = request.authority() else {
        return match request.version() {
            Version::HTTP_10 => Ok(()),
            _ => Err(Rejection::Ambiguous("The request has no Host")),
        };
    };
    if host.is_some_and(|host| host.as_bytes() != authority) {
        return Err(Rejection::Ambiguous("Host and :authority differ"));
    }
    if authority.is_empty() || !authority.iter().all(|byte| is_host_byte(*byte)) {
        return Err(Rejection::Ambiguous("Host is not a host"));
    }
    Ok(())
}

/// What two servers might each take another one of.
fn check_singles(request: &Request<'_>) -> Result<(), Rejection> {
    let repeated = |name: &HeaderName| request.headers().get_all(name).iter().nth(1).is_some();
    let api_key = HeaderName::from_static("x-api-key");
    if repeated(&AUTHORIZATION) {
        Err(Rejection::Ambiguous("The request has more than one Authorization"))
    } else if repeated(&api_key) {
        Err(Rejection::Ambiguous("The request has more than one X-API-Key"))
    } else if [&CONTENT_TYPE, &ORIGIN, &ACCESS_CONTROL_REQUEST_METHOD, &EXPECT]
        .into_iter()
        .any(repeated)
    {
        Err(Rejection::Ambiguous("A field that stands once stands twice"))
    } else {
        Ok(())
    }
}

/// Rejects a `Connection` that would take away what the message means (RFC 9110, section 7.6.1).
fn check_connection(request: &Request<'_>) -> Result<(), Rejection> {
    let mut nominated = 0;
    for value in request.headers().get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.is_empty() {
                continue;
            }
            nominated += 1;
            let name = HeaderName::from_bytes(option)
                .map_err(|_| Rejection::Ambiguous("Connection names what is no field"))?;
            if nominated > NOMINATIONS || is_essential(&name) {
                return Err(Rejection::Ambiguous("Connection names fields that are not its own"));
            }
        }
    }
    Ok(())
}

fn is_essential(name: &HeaderName) -> bool {
    [AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING]
        .contains(name)
        || ["cookie", "x-api-key"].contains(&name.as_str())
        || name.as_str().starts_with("x-forwarded-")
}

fn check_length(request: &Request<'_>, bounds: Bounds) -> Result<(), Rejection> {
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        return check_chunked(request, coding, codings.next());
    }
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    if lengths.next().is_some() {
        return Err(TWO_LENGTHS);
    }
    let digits = length.as_bytes();
    // A zero before other digits makes some read them as octal.
    let is_plain = digits == b"0" || !digits.starts_with(b"0");
    if digits.is_empty() || !is_plain || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Rejection::Misframed("Content-Length is not a number"));
    }
    if is_at_most(length, bounds.body_bytes) { Ok(()) } else { Err(Rejection::BodyTooLarge) }
}

/// Whether digits say no more than `most`. More of them than fit are more bytes than anyone may send.
fn is_at_most(length: &HeaderValue, most: usize) -> bool {
    length
        .to_str()
        .ok()
        .and_then(|digits| digits.parse().ok())
        .is_some_and(|length: usize| length <= most)
}

/// Accepts one `chunked` alone. Pingora has dropped a `Content-Length` beside it without a word,
/// so the bytes are asked.
fn check_chunked(
    request: &Request<'_>,
    coding: &HeaderValue,
    second: Option<&HeaderValue>,
) -> Result<(), Rejection> {
    if second.is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Rejection::Misframed("Transfer-Encoding is not chunked alone"));
    }
    let Some(raw) = request.raw().filter(|_| request.version() == Version::HTTP_11) else {
        return Err(Rejection::Misframed("Transfer-Encoding belongs to HTTP/1.1"));
    };
    let is_length = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"content-length")
    };
    if raw.split(|byte| *byte == b'\n').any(is_length) { Err(TWO_LENGTHS) } else { Ok(()) }
}

fn check_expectation(request: &Request<'_>) -> Result<(), Rejection> {
    match request.headers().get(EXPECT) {
        Some(expected) if !expected.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Rejection::UnknownExpectation)
        }
        _ => Ok(()),
    }
}

/// The bytes of a name (what is unreserved by RFC 3986: container networks have names with `_`), an
/// address, brackets and a port.
const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']')
}

const TWO_LENGTHS: Rejection = Rejection::Misframed("The request has more than one length");

/// What a method may be.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// What HTTP/2 counts on top of name and value of each field (RFC 9113, section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// How many options `Connection` may hold; Pingora gives up on ten.
const NOMINATIONS: usize = 9;

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use memoric_config::schema;
    use pingora::http::RequestHeader;

    use super::*;
    use crate::{
        config::tests::{route, written},
        request::tests::{Parsed, http2},
    };

    #[test]
    fn a_message_has_at_most_one_length() {
        assert_eq!(with(""), Ok(()));
        assert_eq!(with("Content-Length: 4\r\n"), Ok(()));
        assert_eq!(with("Transfer-Encoding: chunked\r\n"), Ok(()));
        assert_eq!(with("Transfer-Encoding: Chunked\r\n"), Ok(()));

        let refused = [
            ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "the classic smuggle"),
            ("Transfer-Encoding: chunked\r\ncontent-LENGTH: 4\r\n", "the other way round"),
            ("Content-Length: 4\r\nContent-Length: 4\r\n", "even if they agree"),
            ("Content-Length: 4, 4\r\n", "a list of equals"),
            ("Content-Length: +4\r\n", "a sign"),
            ("Content-Length: 0x4\r\n", "another base"),
            ("Content-Length: 010\r\n", "octal to some"),
            ("Content-Length: -1\r\n", "less than nothing"),
            ("Content-Length:\r\n", "no length at all"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "two lines"),
            ("Transfer-Encoding: gzip, chunked\r\n", "another coding first"),
            ("Transfer-Encoding: chunked, identity\r\n", "and one after"),
            ("Transfer-Encoding: xchunked\r\n", "another coding"),
            ("Transfer-Encoding: \"chunked\"\r\n", "in quotes"),
        ];
        for (headers, why) in refused {
            let refused = with(headers).unwrap_err();
            assert!(refused.ends_connection(), "{why}: {refused:?}");
        }
    }

    #[test]
    fn a_body_has_a_bound() {
        assert_eq!(with("Content-Length: 100\r\n"), Ok(()));
        assert_eq!(with("Content-Length: 101\r\n"), Err(Rejection::BodyTooLarge));
        let endless = format!("Content-Length: {}\r\n", "9".repeat(40));
        assert_eq!(with(&endless), Err(Rejection::BodyTooLarge));
    }

    #[test]
    fn a_body_is_of_the_kind_and_size_that_its_operation_takes() {
        let ask = |operation: Operation, fields: &str| {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            check_body(&Parsed::new(&head).request(), &operation.into())
        };
        let json = "Content-Type: application/json\r\n";
        let large = "Content-Length: 20000\r\n";
        let huge = format!("Content-Length: {}\r\n", Operation::RememberMemory.takes().most() + 1);

        assert_eq!(ask(Operation::RecallMemories, "Content-Length: 0\r\n"), Ok(()));
        assert_eq!(ask(Operation::RecallMemories, "Content-Type: x\r\n"), Ok(()), "of none");
        for body in ["Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n"] {
            let refused = ask(Operation::RecallMemories, body);
            assert_eq!(refused, Err(Rejection::BodyUnwanted), "{body}");
        }
        assert_eq!(ask(Operation::RememberMemory, &format!("{json}{large}")), Ok(()));
        let refused = ask(Operation::RememberMemory, &format!("{json}{huge}"));
        assert_eq!(refused, Err(Rejection::BodyTooLarge));
        let refused = ask(Operation::Login, large);
        assert_eq!(refused, Err(Rejection::BodyTooLarge), "of two names");
        assert_eq!(ask(Operation::Login, "Content-Length: 9\r\n"), Ok(()), "as the guide does");
        let refused = ask(Operation::RememberMemory, "Content-Length: 9\r\n");
        assert_eq!(refused, Err(Rejection::UnsupportedMediaType));
    }

    #[test]
    fn a_body_for_a_service_is_of_any_kind_and_as_long_as_its_route_says() {
        let ask = |method: &str, body_bytes, fields: &str| {
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let asked = Asked::Route(route(schema::Route { body_bytes, ..written("/tools") }));
            check_body(&Parsed::new(&head).request(), &asked)
        };

        assert_eq!(ask("POST", 9, "Content-Length: 9\r\n"), Ok(()));
        assert_eq!(ask("POST", 9, "Content-Type: x/y\r\nContent-Length: 9\r\n"), Ok(()));
        assert_eq!(ask("POST", 9, "Transfer-Encoding: chunked\r\n"), Ok(()), "counted as it comes");
        assert_eq!(ask("POST", 9, "Content-Length: 10\r\n"), Err(Rejection::BodyTooLarge));
        assert_eq!(ask("POST", 0, "Content-Length: 1\r\n"), Err(Rejection::BodyUnwanted));
        for method in ["GET", "HEAD"] {
            let refused = ask(method, 9, "Content-Length: 1\r\n");
            assert_eq!(refused, Err(Rejection::BodyUnwanted), "{method}");
        }
    }

    #[test]
    fn a_head_has_bounds() {
        let many: String = (0..20).map(|n| format!("X-{n}: 1\r\n")).collect();
        assert_eq!(with(&many), Err(Rejection::HeadTooLarge), "too many fields");
        let long = format!("X-Long: {}\r\n", "x".repeat(1000));
        assert_eq!(with(&long), Err(Rejection::HeadTooLarge), "too many bytes");
    }

    #[test]
    fn a_request_is_for_one_host() {
        let hosts =
            |version: &str, hosts: &str| check_head(&format!("GET / {version}\r\n{hosts}\r\n"));
        assert!(hosts("HTTP/1.1", "").is_err(), "for none");
        assert!(hosts("HTTP/1.0", "").is_ok(), "which HTTP/1.0 allows");
        assert!(hosts("HTTP/1.1", "Host: a\r\nHost: a\r\n").is_err(), "for two");
        assert!(hosts("HTTP/1.1", "Host: \r\n").is_err());
        assert!(hosts("HTTP/1.1", "Host: a b\r\n").is_err());
        for refused in ["a/b", "a@b", "a%41", "a!", "a,b", "a;b", "a'b", "a\\b", "a\"b"] {
            assert!(hosts("HTTP/1.1", &format!("Host: {refused}\r\n")).is_err(), "{refused}");
        }
        for known in ["memoric_gateway:8000", "a~b", "a-b.example", "127.0.0.1"] {
            assert!(hosts("HTTP/1.1", &format!("Host: {known}\r\n")).is_ok(), "{known}");
        }
        assert!(hosts("HTTP/1.1", "Host: [::1]:8443\r\n").is_ok());
    }

    #[test]
    fn http2_is_for_one_host_too() {
        let request = |host: &str| {
            let uri = http::Request::builder().version(Version::HTTP_2).uri("https://a.example/x");
            let parts = uri.header(HOST, host).body(()).unwrap().into_parts().0;
            check(&http2(&RequestHeader::from(parts)), BOUNDS)
        };
        assert_eq!(request("a.example"), Ok(()));
        assert!(request("b.example").is_err(), "the authority judged is not the host served");
    }

    #[test]
    fn what_stands_once_does_not_stand_twice() {
        for name in ["Authorization", "X-API-Key", "Origin", "Content-Type"] {
            assert!(with(&format!("{name}: a\r\n")).is_ok());
            assert!(with(&format!("{name}: a\r\n{name}: a\r\n")).is_err(), "{name}");
        }
    }

    #[test]
    fn methods_come_from_a_list() {
        let method = |method: &str| check_head(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(METHODS.into_iter().all(|allowed| method(allowed).is_ok()));
        for refused in ["TRACE", "CONNECT", "PROPFIND", "get", "PRI"] {
            assert!(method(refused).unwrap_err().ends_connection(), "{refused}");
        }
    }

    #[test]
    fn a_line_ends_in_two_bytes() {
        assert!(check_head("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n").is_err());
        assert!(check_head("GET / HTTP/1.1\nHost: a\r\n\r\n").is_err());
    }

    #[test]
    fn a_length_cannot_be_disguised() {
        for field in ["Content_Length: 5", "TRANSFER_ENCODING: chunked"] {
            let refused = with(&format!("{field}\r\n")).unwrap_err();
            assert!(refused.ends_connection(), "{field}");
        }
        assert_eq!(with("Content_Type: x\r\nX_Content_Length: 5\r\n"), Ok(()), "only dropped");
    }

    #[test]
    fn connection_cannot_take_away_what_a_message_means() {
        for fine in ["close", "keep-alive, TE", "x-user-id", "Upgrade, HTTP2-Settings"] {
            assert!(with(&format!("Connection: {fine}\r\n")).is_ok(), "{fine}");
        }
        for refused in [
            "close, Host",
            "content-length",
            "Authorization",
            "X-Forwarded-For",
            "a b",
            "\"close\"",
        ] {
            assert!(with(&format!("Connection: {refused}\r\n")).is_err(), "{refused}");
        }
        assert!(with(&format!("Connection: {}\r\n", ["a"; 10].join(","))).is_err());
    }

    #[test]
    fn only_one_thing_can_be_expected() {
        assert_eq!(with("Expect: 100-Continue\r\n"), Ok(()));
        assert_eq!(with("Expect: 200-maybe\r\n"), Err(Rejection::UnknownExpectation));
    }

    fn with(headers: &str) -> Result<(), Rejection> {
        check_head(&format!("POST /memories HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n"))
    }

    fn check_head(head: &str) -> Result<(), Rejection> {
        check(&Parsed::new(head).request(), BOUNDS)
    }

    const BOUNDS: Bounds =
        Bounds { header_bytes: 1000, headers: 20, body_bytes: 100, body_rate: NonZeroUsize::MIN };
}
