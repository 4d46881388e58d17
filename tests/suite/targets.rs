//! The path that was judged is the path that is sent, whoever spelt it and however.

use std::{convert::Infallible, fs, net::SocketAddr};

use harness::{
    Edge, Program, Received, World, free_address,
    http2::{Http2, Outcome},
    token, until_some,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use memoric_contract::{ASSERTION_HEADER, Role};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use reqwest::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn a_target_has_one_spelling_behind_us() {
    let mut visitor = Visitor::arrive().await;
    for (sent, forwarded) in [
        ("/memories", "/memories"),
        ("/memories/", "/memories"),
        ("/%6demories", "/memories"),
        ("/%6Demor%69es/?", "/memories"),
        ("/memories?top_k=3&thread_id=a%2Fb", "/memories?top_k=3&thread_id=a%2Fb"),
        ("/memories?a=/../clusters", "/memories?a=/../clusters"),
        ("/memories?a=b?c=%5c%2e%2E%00", "/memories?a=b?c=%5c%2e%2E%00"),
        ("/memories?a=b?c=%5c%2e%2E", "/memories?a=b?c=%5c%2e%2E"),
        ("/auth/users/a%20b", "/auth/users/a%20b"),
        ("/auth/users/%7ea-%C3%a9", "/auth/users/~a-%C3%A9"),
        ("/auth/users/a:b@c;d=e,f", "/auth/users/a:b@c;d=e,f"),
        ("/auth/users/100%25", "/auth/users/100%25"),
        ("/auth/users/%3Fx%23y", "/auth/users/%3Fx%23y"),
    ] {
        visitor.expect(sent, Some(forwarded)).await;
    }
}

#[tokio::test]
async fn a_target_that_another_server_could_read_as_another_one_is_refused() {
    let mut visitor = Visitor::arrive().await;
    for target in [
        "/memories%00",
        "/memories%2f",
        "/memories%2F..%2Fclusters",
        "/auth/users/a%5cb",
        "/auth/users/a\\b",
        "/auth/users/..%5c..%5cmemories",
        "/auth/users/a%0d%0aX-User-Id:1",
        "/auth/users/a%7f",
        "/auth/users/a%c2%85",
        "/auth/users/%ff",
        "/auth/users/%c0%af",
        "/auth/users/%ed%a0%80",
        "/auth/users/a%252fb",
        "/auth/users/a%25%32%66b",
        "/auth/users/%",
        "/auth/users/%2",
        "/auth/users/%zz",
        "/auth/users/%u002f",
        "/./memories",
        "/auth/../memories",
        "/auth/%2e%2e/memories",
        "/auth/.%2e/memories",
        "/auth/users/..",
        "/auth/users/..;a",
        "/auth/users/..%3Ba=b",
        "/auth/users/.;",
        "/auth/users/%2e",
        "//memories",
        "/memories//",
        "/auth//users/a",
        "//",
        "/memories?a=%",
        "/memories?a%00=b",
        "/memories?a=%ff",
        "/memories?a=\"b\"",
        "/memories?user_id=7&user_id=7",
        "/memories?user_id=&user_id=8",
        "/memories?user_id&user_id=8",
        "/memories?user%5fid=7&user_id=8",
        "/memories?%75ser_id=7&a=b&user%5Fid=8",
        "/memories?user_id=7&a=b;&user_id=8",
    ] {
        visitor.expect(target, None).await;
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_asked_for_behind_us() {
    let mut visitor = Visitor::arrive().await;
    for target in [
        "/Memories",
        "/memories.json",
        "/memories;a=b",
        "/memories%20",
        "/auth/users/a/b",
        "/auth/users",
        "/internal/health",
        "/internal/live",
        "/internal/revocations?cursor=",
        "/%69nternal/live",
        "/internal/audit",
        "/metrics",
    ] {
        visitor.expect(target, None).await;
    }
}

/// Where HTTP/1 and HTTP/2 differ: a fragment never reaches a server that is asked over HTTP/2.
#[tokio::test]
async fn a_fragment_is_never_judged() {
    let mut visitor = Visitor::arrive().await;

    let over_http1 = visitor.ask_http1("/memories#/../clusters").await;
    let over_http2 = visitor.ask_http2("/memories#/../clusters").await;

    assert_eq!(over_http1, 400);
    match over_http2 {
        200 => assert_eq!(visitor.arrived().as_deref(), Some("/memories")),
        refused => assert_eq!((refused, visitor.arrived()), (400, None)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_is_refused_or_arrives_in_a_spelling_that_stays() {
    let mut visitor = Visitor::arrive().await;
    for target in targets() {
        let over_http2 = (visitor.ask_http2(&target).await, visitor.arrived());
        let over_http1 = (visitor.ask_http1(&target).await, visitor.arrived());

        assert_eq!(over_http1, over_http2, "{target:?} depends on the protocol");
        let (200, Some(forwarded)) = over_http1 else {
            assert!(over_http1.1.is_none() && [400, 404].contains(&over_http1.0), "{target:?}");
            continue;
        };
        assert_plain(&forwarded);
        visitor.expect(&forwarded, Some(&forwarded)).await;
    }
}

#[tokio::test]
async fn a_nul_in_a_value_is_refused_by_the_name_of_its_field() {
    let world = World::start().await;
    let alice = world.register("alice").await;

    for (path, field) in
        [("/memories?thread_id=a%00b", "thread_id"), ("/memories?top_k=%00", "top_k")]
    {
        let answer = world.ask_as(&alice, Method::GET, path).send().await.unwrap();

        assert_eq!(answer.status(), 422, "{path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}

/// Whoever stands behind us, or between us and the backend, finds the same path in what we send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_servers_route_what_we_forward_as_we_judged_it() {
    let mut visitor = Visitor::arrive().await;
    let mut forwarded = Vec::new();
    for target in targets().iter().take(TARGETS / 2) {
        visitor.ask_http1(target).await;
        forwarded.extend(visitor.arrived());
    }
    assert!(forwarded.len() > 50, "{}", forwarded.len());
    let (haproxy, nginx) = (free_address(), free_address());
    let file = |name: &str, text: &str, address: SocketAddr| {
        let file = visitor.edge.folder().join(name);
        fs::write(&file, text.replace("ADDRESS", &address.to_string())).unwrap();
        file.display().to_string()
    };
    let config = file("haproxy.cfg", HAPROXY, haproxy);
    let _haproxy = Program::named("haproxy").args(["-db", "-f", &config]).start();
    let config = file("nginx.conf", NGINX, nginx);
    let prefix = visitor.edge.folder().display().to_string();
    let said = ["-e", "stderr", "-p", &prefix, "-c", &config];
    let _nginx = Program::named("nginx").args(said).start();

    let servers: [(_, _, Reads); 3] = [
        ("HAProxy", haproxy, str::to_owned),
        ("hyper", hyper().await, str::to_owned),
        ("nginx", nginx, |path| format!("a user: {}", decoded(path))),
    ];
    for (server, address, reads) in servers {
        let mut stream = connected(address).await;
        for target in &forwarded {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let expected = format!("{} {query}", reads(path));

            assert_eq!(read_by(&mut stream, target).await, expected, "{server}: {target}");
        }
    }
}

/// What a server is to make of a path.
type Reads = fn(&str) -> String;

/// What the server behind `stream` takes for path and query of `target`.
async fn read_by(stream: &mut TcpStream, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: backend\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{target:?}");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200 "), "{target:?}: {head}");
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        if body.len() >= length.expect("a length").parse().unwrap() {
            return body.to_owned();
        }
    }
}

/// A connection to `address`, once somebody listens there.
async fn connected(address: SocketAddr) -> TcpStream {
    until_some("somebody listens", async || TcpStream::connect(address).await.ok()).await
}

/// The address of a hyper that says what it takes for path and query.
async fn hyper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let told = service_fn(async |request: http::Request<Incoming>| {
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            Ok::<_, Infallible>(http::Response::new(format!("{path} {query}")))
        });
        http1::Builder::new().serve_connection(TokioIo::new(stream), told).await
    });
    address
}

/// The same of HAProxy.
const HAPROXY: &str = r#"
global
    nbthread 1
defaults
    mode http
    timeout connect 20s
    timeout client 20s
    timeout server 20s
frontend targets
    bind ADDRESS
    http-request return status 200 content-type text/plain lf-string "%[path] %[query]"
"#;

/// The same of nginx, which decodes a path and takes its dots and slashes away before it looks where
/// it belongs.
const NGINX: &str = r#"
daemon off;
master_process off;
pid nginx.pid;
events { worker_connections 64; }
http {
    access_log off;
    default_type text/plain;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen ADDRESS;
        location ~ ^/auth/users/[^/]+$ { return 200 "a user: $uri $args"; }
        location / { return 200 "elsewhere: $uri $args"; }
    }
}
"#;

/// A client with one connection of each protocol.
struct Visitor {
    edge: Edge,
    token: String,
    http1: TcpStream,
    http2: Http2,
    stream: u32,
}

impl Visitor {
    async fn arrive() -> Self {
        let edge = Edge::start().await;
        let http1 = TcpStream::connect(edge.http).await.unwrap();
        let http2 = Http2::connect(&edge).await;
        let token = format!("Bearer {}", token(7, &[Role::User]));
        Self { edge, token, http1, http2, stream: 1 }
    }

    /// Asks for `target` both ways, and makes sure that it arrives as `forwarded`, or not at all.
    async fn expect(&mut self, target: &str, forwarded: Option<&str>) {
        for protocol in ["HTTP/1.1", "HTTP/2"] {
            let status = match protocol {
                "HTTP/2" => self.ask_http2(target).await,
                _ => self.ask_http1(target).await,
            };
            let expected = if forwarded.is_some() { &[200][..] } else { &[400, 404] };
            assert!(expected.contains(&status), "{target:?} over {protocol}: {status}");
            assert_eq!(self.arrived().as_deref(), forwarded, "{target:?} over {protocol}");
        }
    }

    /// The status of the answer over HTTP/1.1.
    async fn ask_http1(&mut self, target: &str) -> u16 {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n",
            self.token
        );
        let (mut answer, mut body) = (Vec::new(), None);
        self.http1.write_all(request.as_bytes()).await.unwrap();
        while body.is_none() {
            let read = self.http1.read_buf(&mut answer).await.unwrap();
            assert_ne!(read, 0, "{target:?} closed the connection");
            let text = String::from_utf8_lossy(&answer).to_lowercase();
            body = text.split_once("\r\n\r\n").and_then(|(head, body)| {
                let length = head.split("content-length: ").nth(1)?.lines().next()?;
                (body.len() >= length.parse().ok()?).then_some(())
            });
        }
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        if answer.contains("\r\nconnection: close\r\n") {
            self.http1 = TcpStream::connect(self.edge.http).await.unwrap();
        }
        answer[9..12].parse().unwrap()
    }

    /// The status of the answer over HTTP/2; of what the engine resets, 400.
    async fn ask_http2(&mut self, target: &str) -> u16 {
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", target),
            ("authorization", &self.token),
        ];
        self.http2.ask(self.stream, &fields).await;
        let outcome = self.http2.outcome(self.stream).await;
        self.stream += 2;
        match outcome {
            Outcome::Answered(status) => status,
            Outcome::Reset(1) => 400,
            other => panic!("{target:?}: {other:?}"),
        }
    }

    /// The one target that arrived, for which the gateway vouches.
    fn arrived(&self) -> Option<String> {
        let requests = self.edge.origin.requests();
        self.edge.origin.forget();
        assert!(requests.len() <= 1, "{requests:#?}");
        let ours = |request: &Received| request.values(ASSERTION_HEADER).len();
        assert!(requests.iter().all(|request| ours(request) == 1));
        requests.into_iter().next().map(|request| request.target)
    }
}

/// No server, however forgiving, reads `target` as another one.
fn assert_plain(target: &str) {
    let uri: http::Uri = target.parse().unwrap();
    let path = target.split('?').next().unwrap();
    assert_eq!(uri.path(), path, "a parser of another house");
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{target:?}");
    for segment in path.split('/').skip(1) {
        let decoded = decoded(segment);
        let parameters = decoded.find(';').unwrap_or(decoded.len());
        let is_plain = !decoded.is_empty()
            && ![".", ".."].contains(&&decoded[..parameters])
            && !decoded.contains(['/', '\\'])
            && !decoded.contains(char::is_control);
        assert!(is_plain, "{target:?}");
        assert_eq!(self::decoded(&decoded), decoded, "{target:?} has something left to decode");
    }
}

/// `text` without its escapes, those that are none left as they are.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let escape = after.get(..2).filter(|_| *first == b'%');
        let byte = escape.and_then(|digits| hex::decode(digits).ok());
        bytes.push(byte.as_ref().map_or(*first, |byte| byte[0]));
        rest = &after[if byte.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8(bytes).unwrap()
}

/// Targets that one could come up with, always the same ones.
fn targets() -> Vec<String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9._~-]",
        2 => "[!$&'()*+,;=:@]",
        3 => "%[0-9a-fA-F]{2}",
        1 => prop::sample::select(vec!["%2e", "%2F", "%25", "%C3%A9", "%00", ".", "..", "//", "%"]).prop_map(str::to_owned),
    ];
    let segment = prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    let query = prop_oneof![
        3 => Just(String::new()),
        1 => "\\?[a-z_]{0,4}=[a-zA-Z0-9/?:@%+.-]{0,8}",
        1 => Just("?user_id=7".to_owned()),
    ];
    let target = (segment, "/?", query)
        .prop_map(|(segment, slash, query)| format!("/auth/users/{segment}{slash}{query}"));
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    );
    (0..TARGETS).map(|_| target.new_tree(&mut runner).unwrap().current()).collect()
}

const TARGETS: usize = 600;
