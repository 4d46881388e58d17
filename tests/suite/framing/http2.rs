//! The same over HTTP/2, where a message has frames and becomes one with lines behind us.

use harness::{
    Edge, Received,
    http2::{Frame, Http2, Outcome, block},
    token,
};
use memoric_contract::Role;

#[tokio::test]
async fn a_request_becomes_one_message_with_one_length() {
    let edge = super::edge().await;
    let mut client = Http2::connect(&edge).await;
    let token = bearer();

    client.send(&post(1, &token, &[("content-length", "5")], &[b"he", b"", b"llo"])).await;
    assert_eq!(client.outcome(1).await, Outcome::Answered(200));
    client.send(&post(3, &token, &[], &[b"hello"])).await;
    assert_eq!(client.outcome(3).await, Outcome::Answered(200));
    client.ask(5, &get(&token, &[])).await;
    assert_eq!(client.outcome(5).await, Outcome::Answered(200));

    let seen = |request: Received| {
        let fields = ["content-length", "transfer-encoding", "te", "cookie", "host"];
        let fields = fields.map(|name| request.values(name).join("|"));
        (fields, String::from_utf8_lossy(&request.body).into_owned())
    };
    let arrived: Vec<_> = edge.origin.requests().into_iter().map(seen).collect();
    let fields =
        |length: &str, coding: &str| [length, coding, "", "", "backend"].map(str::to_owned);
    assert_eq!(arrived[0], (fields("5", ""), "hello".to_owned()));
    assert_eq!(arrived[1], (fields("", "chunked"), "hello".to_owned()));
    assert_eq!(arrived[2], (fields("", ""), String::new()));
}

#[tokio::test]
async fn data_that_does_not_keep_to_its_length_never_becomes_a_request() {
    let edge = super::edge().await;
    for (case, length, data) in [
        ("short", "6", &[&b"hello"[..]][..]),
        ("long", "4", &[b"hello"]),
        ("long in two", "4", &[b"hel", b"lo"]),
        ("none at all", "5", &[]),
        ("some where none is", "0", &[b"hello"]),
    ] {
        let mut client = Http2::connect(&edge).await;
        client.send(&post(1, &bearer(), &[("content-length", length)], data)).await;
        let outcome = client.outcome(1).await;
        assert!(
            matches!(outcome, Outcome::Reset(PROTOCOL_ERROR) | Outcome::Answered(400)),
            "{case}: {outcome:?}"
        );
    }
    assert!(edge.origin.requests().is_empty(), "{:#?}", edge.origin.requests());
}

#[tokio::test]
async fn what_has_no_place_in_http2_never_becomes_a_request() {
    let edge = super::edge().await;
    let token = bearer();
    let malformed: [(&str, &[(&str, &str)]); 17] = [
        ("a coding", &[("transfer-encoding", "chunked")]),
        ("a connection", &[("connection", "close")]),
        ("an upgrade", &[("upgrade", "h2c")]),
        ("a life", &[("keep-alive", "timeout=1")]),
        ("a proxy's connection", &[("proxy-connection", "close")]),
        ("another coding of transfers", &[("te", "gzip")]),
        ("a second method", &[(":method", "GET")]),
        ("a second path", &[(":path", "/clusters")]),
        ("a second authority", &[(":authority", "localhost")]),
        ("a second scheme", &[(":scheme", "https")]),
        ("an unknown pseudo-field", &[(":user", "1")]),
        ("the status of an answer", &[(":status", "200")]),
        ("a name in capitals", &[("X-User-Id", "1")]),
        ("a name of two words", &[("x user", "1")]),
        ("a name that ends a line", &[("x\r\nx-user-id", "1")]),
        ("a value that ends a line", &[("x", "y\r\nx-user-id: 1")]),
        ("a NUL", &[("x", "y\0z")]),
    ];
    let mut served = 0;
    for (case, fields) in malformed {
        let mut client = Http2::connect(&edge).await;
        client.ask(1, &get(&token, fields)).await;
        match client.outcome(1).await {
            Outcome::Reset(PROTOCOL_ERROR) => {
                client.ask(3, &get(&token, &[])).await;
                let next = client.outcome(3).await;
                assert_eq!(next, Outcome::Answered(200), "the next one, after {case}");
                served += 1;
            }
            other => assert_eq!(other, Outcome::WentAway(PROTOCOL_ERROR), "{case}"),
        }
    }
    for missing in [":method", ":path", ":scheme"] {
        let mut client = Http2::connect(&edge).await;
        let fields: Vec<_> =
            get(&token, &[]).into_iter().filter(|field| field.0 != missing).collect();
        client.ask(1, &fields).await;
        assert_eq!(client.outcome(1).await, Outcome::Reset(PROTOCOL_ERROR), "without {missing}");
    }

    assert_eq!(edge.origin.requests().len(), served, "the next ones");
    let series = r#"memoric_gateway_unparsed_total{protocol="http2",reason="malformed"}"#;
    assert_eq!(edge.counted(series).await, (malformed.len() + 3) as f64);
}

#[tokio::test]
async fn what_two_servers_would_read_in_two_ways_is_refused() {
    let edge = super::edge().await;
    let token = bearer();
    let mut client = Http2::connect(&edge).await;
    let ambiguous: [(&str, u16, &[(&str, &str)]); 10] = [
        ("another host", 400, &[("host", "other")]),
        ("two hosts", 400, &[("host", "localhost"), ("host", "localhost")]),
        ("a host with a user", 400, &[("host", "a@localhost")]),
        ("two tokens", 400, &[("authorization", &token)]),
        ("a token and a key", 400, &[("x-api-key", "mk_1")]),
        ("two keys", 400, &[("x-api-key", "a"), ("x-api-key", "a")]),
        ("two origins", 400, &[("origin", "https://a"), ("origin", "https://a")]),
        ("two lengths", 400, &[("content-length", "0"), ("content-length", "0")]),
        ("something to expect", 417, &[("expect", "200-ok")]),
        ("nothing, of trailers", 200, &[("te", "trailers")]),
    ];
    for (at, (case, status, fields)) in ambiguous.into_iter().enumerate() {
        let stream = 2 * at as u32 + 1;
        client.ask(stream, &get(&token, fields)).await;
        assert_eq!(client.outcome(stream).await, Outcome::Answered(status), "{case}");
    }
    assert_eq!(edge.origin.requests().len(), 1);
}

#[tokio::test]
async fn a_length_that_is_none_is_refused() {
    let edge = super::edge().await;
    for length in ["5, 5", "+5", "-5", "0x5", "", "5 5", "18446744073709551621"] {
        let mut client = Http2::connect(&edge).await;
        client.send(&post(1, &bearer(), &[("content-length", length)], &[b"hello"])).await;
        let outcome = client.outcome(1).await;
        let is_refused =
            matches!(outcome, Outcome::Reset(PROTOCOL_ERROR) | Outcome::Answered(400 | 413));
        assert!(is_refused, "{length:?}: {outcome:?}");
    }
    assert!(edge.origin.requests().is_empty());
}

#[tokio::test]
async fn nobody_gets_a_tunnel_or_their_request_back() {
    let edge = super::edge().await;
    let token = bearer();
    let mut client = Http2::connect(&edge).await;

    client.ask(1, &[(":method", "CONNECT"), (":authority", "localhost:443")]).await;
    assert_eq!(client.outcome(1).await, Outcome::Answered(405));
    for (stream, method) in [(3, "TRACE"), (5, "PROPFIND"), (7, "get")] {
        let mut fields = get(&token, &[]);
        fields[0].1 = method;
        client.ask(stream, &fields).await;
        assert_eq!(client.outcome(stream).await, Outcome::Answered(405), "{method}");
    }

    let refused = edge.client.request("TRACE".parse().unwrap(), url(&edge)).send().await.unwrap();
    assert!(refused.headers()["allow"].to_str().unwrap().contains("GET"));
    assert!(refused.text().await.unwrap().contains("method_not_allowed"));
    assert!(edge.origin.requests().is_empty());
}

#[tokio::test]
async fn a_body_where_none_is_taken_is_refused() {
    let edge = super::edge().await;
    let token = bearer();
    let mut client = Http2::connect(&edge).await;
    let head =
        |stream| Frame::new(Frame::HEADERS, Frame::END_HEADERS, stream, &block(&get(&token, &[])));
    let data = |stream| Frame::new(Frame::DATA, Frame::END_STREAM, stream, b"hello");

    client.send(&[head(1).bytes(), data(1).bytes()].concat()).await;

    assert_eq!(client.outcome(1).await, Outcome::Answered(400));
    assert!(edge.origin.requests().is_empty());
}

#[tokio::test]
async fn trailers_go_no_further() {
    let edge = super::edge().await;
    let mut client = Http2::connect(&edge).await;
    let mut request = post(1, &bearer(), &[], &[b"hello"]);
    let end = Frame::END_HEADERS | Frame::END_STREAM;
    let last_data = request.len() - b"hello".len() - 9;
    request[last_data + 4] = 0;
    let trailers =
        block(&[("x-user-id", "1"), ("content-length", "3"), ("x-memoric-assertion", "x")]);
    request.extend(Frame::new(Frame::HEADERS, end, 1, &trailers).bytes());

    client.send(&request).await;

    assert_eq!(client.outcome(1).await, Outcome::Answered(200));
    let [arrived] = &edge.origin.requests()[..] else { panic!("one request") };
    assert_eq!(arrived.body, b"hello");
    assert!(arrived.trailers.is_empty() && arrived.values("x-user-id").is_empty(), "{arrived:?}");
    assert_eq!(arrived.values("x-memoric-assertion").len(), 1, "ours");
}

fn bearer() -> String {
    format!("Bearer {}", token(super::ATTACKER, &[Role::User]))
}

fn url(edge: &Edge) -> String {
    format!("https://localhost:{}/memories", edge.https.port())
}

/// The fields of an ordinary request, with `others` behind them.
fn get<'a>(token: &'a str, others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/memories"),
        ("authorization", token),
    ];
    fields.extend_from_slice(others);
    fields
}

/// An ordinary request with a body in frames of `data`, the last of which ends it.
fn post(stream: u32, token: &str, others: &[(&str, &str)], data: &[&[u8]]) -> Vec<u8> {
    let mut fields = get(token, &[("content-type", "application/json")]);
    fields[0].1 = "POST";
    fields.extend_from_slice(others);
    let end = if data.is_empty() { Frame::END_STREAM } else { 0 };
    let mut bytes =
        Frame::new(Frame::HEADERS, Frame::END_HEADERS | end, stream, &block(&fields)).bytes();
    for (at, data_frame) in data.iter().enumerate() {
        let end = if at + 1 == data.len() { Frame::END_STREAM } else { 0 };
        bytes.extend(Frame::new(Frame::DATA, end, stream, data_frame).bytes());
    }
    bytes
}

const PROTOCOL_ERROR: u32 = 1;
