//! What web pages may ask and read, and what browsers are told with every answer.

use std::{net::SocketAddr, time::Duration};

use harness::{Answer, Edge, Received, token};
use memoric_config::Settings;
use memoric_contract::Role;
use reqwest::{Method, StatusCode, header::HeaderMap};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

#[tokio::test]
async fn only_the_very_origin_on_the_list_may_read() {
    let edge = edge(|_| {}).await;
    for (target, status) in [("/memories", 200), ("/memories?answer=500", 500), ("/nowhere", 404)] {
        let ours = tell(&edge, "GET", target, &[&origin(PAGE), &bearer()]).await;
        assert_eq!((ours.status, ours.value("access-control-allow-origin")), (status, PAGE));
        assert!(ours.value("access-control-expose-headers").contains("Retry-After"));
        assert!(!ours.has("access-control-allow-credentials"), "unless the settings say so");

        for stranger in STRANGERS {
            let theirs = tell(&edge, "GET", target, &[&origin(stranger), &bearer()]).await;
            assert_eq!(theirs.status, status, "{stranger}: that it was asked is no harm");
            assert!(!theirs.has("access-control-"), "{stranger}: {theirs:?}");
        }
    }
}

#[tokio::test]
async fn credentials_are_for_pages_only_where_the_settings_say_so() {
    let edge = edge(|settings| settings.cors.allow_credentials = true).await;

    for stranger in ["null", "https://evil.example"] {
        let theirs = tell(&edge, "GET", "/memories", &[&origin(stranger), &bearer()]).await;
        assert!(!theirs.has("access-control-"), "{theirs:?}");
    }
    let ours = tell(&edge, "GET", "/memories", &[&origin(PAGE), &bearer()]).await;
    assert_eq!(ours.value("access-control-allow-credentials"), "true");
    assert_eq!(ours.value("access-control-allow-origin"), PAGE, "never *");
}

#[tokio::test]
async fn what_the_backend_tells_pages_goes_no_further() {
    let edge = edge(|_| {}).await;
    edge.origin.answer_with(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nserver: origin\r\nvary: Accept\r\n\
          access-control-allow-origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
          access-control-expose-headers: x-secret\r\naccess-control-allow-private-network: true\r\n\
          x-memoric-owner: 3\r\n\r\n"
            .to_vec()
    });

    let theirs =
        tell(&edge, "GET", "/memories", &[&origin("https://evil.example"), &bearer()]).await;
    let ours = tell(&edge, "GET", "/memories", &[&origin(PAGE), &bearer()]).await;

    for answer in [&theirs, &ours] {
        assert!(!answer.has("server") && !answer.has("x-memoric-"), "{answer:?}");
        assert!(!answer.has("access-control-allow-credentials"), "{answer:?}");
        assert!(!answer.has("access-control-allow-private-network"), "{answer:?}");
        let vary: Vec<_> = answer.values("vary").collect();
        assert_eq!(vary, ["Accept", "Origin"], "what the backend heeds, and what we do");
    }
    assert!(!theirs.has("access-control-"), "{theirs:?}");
    assert_eq!(ours.value("access-control-allow-origin"), PAGE);
}

/// Its owner has given the name our address, so browsers take us for where the page came from.
#[tokio::test]
async fn a_page_whose_name_was_given_our_address_is_a_strangers() {
    let edge = edge(|_| {}).await;
    let named = Edge::with(|settings| {
        settings.gateway.names = vec!["memoric.example".to_owned()];
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
    })
    .await;
    let change = async |edge: &Edge, host: &str, told: &str| {
        let request = format!(
            "POST /memories HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n{}\r\n{told}\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}",
            bearer()
        );
        send(edge.http, &request).await.status
    };
    let afar = "X-Forwarded-For: 192.0.2.7\r\n";

    for stranger in ["evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example"] {
        assert_eq!(change(&edge, stranger, "").await, 403, "{stranger}");
        assert_eq!(change(&named, stranger, "").await, 421, "{stranger}");
        assert_eq!(change(&named, stranger, afar).await, 421, "{stranger}, from wherever");
        let read = format!("GET /health HTTP/1.1\r\nHost: {stranger}\r\n\r\n");
        assert_eq!(send(named.http, &read).await.status, 421, "it reads nothing either");
    }
    assert!(edge.origin.requests().is_empty() && named.origin.requests().is_empty());
    for own in ["localhost:8000", "127.0.0.1", "[::1]:8000"] {
        assert_eq!(change(&edge, own, "").await, 200, "{own}");
        assert_eq!(change(&named, own, "").await, 200, "{own}");
    }
    assert_eq!(change(&named, "memoric.example:8000", afar).await, 200);
    assert_eq!(change(&edge, "memoric.example", "").await, 403, "nobody knows that it is ours");
}

#[tokio::test]
async fn a_browser_that_asks_first_is_answered_and_charged_to_nobody() {
    let edge = edge(|settings| {
        settings.gateway.limits.identity.per_second = 0.001;
        settings.gateway.limits.identity.burst = 1;
    })
    .await;
    let wanted = ask_first("POST", "authorization, content-type, X-API-Key");

    for _ in 0..5 {
        let answer =
            tell(&edge, "OPTIONS", "/memories", &[&origin(PAGE), &wanted, &bearer()]).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.value("access-control-allow-origin"), PAGE);
        assert_eq!(answer.value("access-control-allow-methods"), "GET, POST");
        let allowed = answer.value("access-control-allow-headers");
        assert_eq!(allowed, "Authorization, Content-Type, X-API-Key");
        assert!(answer.value("access-control-max-age").parse::<u32>().unwrap() <= 7200);
        assert!(!answer.has("access-control-allow-credentials"));
    }
    assert_eq!(edge.origin.requests().len(), 0, "it is never forwarded");
    let asked = tell(&edge, "GET", "/memories", &[&origin(PAGE), &bearer()]).await;
    assert_eq!(asked.status, 200, "the budget was untouched");
    let again = tell(&edge, "GET", "/memories", &[&origin(PAGE), &bearer()]).await;
    assert_eq!(again.status, 429, "and there is one");
}

#[tokio::test]
async fn a_browser_that_asks_first_is_refused_without_a_word_for_the_page() {
    let edge = edge(|_| {}).await;
    let refused = async |target: &str, page: &str, wanted: String, status| {
        let answer = tell(&edge, "OPTIONS", target, &[&origin(page), &wanted]).await;
        assert_eq!(answer.status, status, "{target} {page} {wanted}");
        answer
    };

    for stranger in STRANGERS {
        let answer = refused("/memories", stranger, ask_first("POST", ""), 403).await;
        assert!(!answer.has("access-control-"), "{stranger}: {answer:?}");
    }
    for wanted in [
        ask_first("DELETE", ""),
        ask_first("post", ""),
        ask_first("", ""),
        ask_first("POST", "x-user-id"),
        ask_first("POST", "content-type, x-memoric-assertion"),
        ask_first("POST", "*"),
    ] {
        let answer = refused("/memories", PAGE, wanted, 403).await;
        assert!(!answer.has("access-control-"), "{answer:?}");
    }
    refused("/nowhere", PAGE, ask_first("GET", ""), 404).await;
    refused("/internal/health", PAGE, ask_first("GET", ""), 404).await;
    assert_eq!(edge.origin.requests().len(), 0);
}

#[tokio::test]
async fn a_strangers_page_changes_nothing_and_is_refused_before_anyone_is_asked_who_they_are() {
    let edge = edge(|_| {}).await;
    let kinds = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json",
    ];

    for stranger in STRANGERS {
        for kind in kinds {
            let kind = format!("Content-Type: {kind}");
            for (target, credential) in [
                ("/auth/login", String::new()),
                ("/memories", bearer()),
                ("/memories", BAD.to_owned()),
            ] {
                let fields = [origin(stranger), kind.clone(), credential];
                let fields: Vec<_> = fields.iter().map(String::as_str).collect();
                let answer = submit(&edge, target, &fields, r#"{"content":"x"}"#).await;
                assert_eq!(answer.status, 403, "{stranger} {kind} {target}");
                assert!(!answer.has("access-control-"), "{stranger} {target}");
            }
        }
    }
    assert_eq!(edge.origin.requests().len(), 0, "nothing of it arrives");
}

#[tokio::test]
async fn a_page_of_our_own_or_on_the_list_and_no_page_at_all_may_change_things() {
    let edge = edge(|_| {}).await;
    let json = "Content-Type: application/json";

    for page in [origin(PAGE), origin("http://localhost"), String::new()] {
        let kept = submit(&edge, "/memories", &[&page, json, &bearer()], "{}").await;
        assert_eq!(kept.status, 200, "{page}");
        let unlabelled = submit(&edge, "/auth/login", &[&page], "{}").await;
        assert_eq!(unlabelled.status, 200, "{page}: whoever logs in need not say that it is JSON");
    }
    for page in ["https://localhost", "http://localhost:8080"] {
        let answer = submit(&edge, "/memories", &[&origin(page), json, &bearer()], "{}").await;
        assert_eq!(answer.status, 403, "{page}: by another scheme or port it is another");
    }
    let twice = [&origin(PAGE), &origin("https://evil.example"), json, &bearer()];
    assert_eq!(submit(&edge, "/memories", &twice, "{}").await.status, 400);
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful_with_it() {
    let edge = edge(|_| {}).await;

    for (what, status, bytes) in every_answer() {
        let answer = send(edge.http, &bytes).await;

        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert_careful(what, &answer);
        assert!(!answer.has("strict-transport-security"), "{what}: in clear it means nothing");
    }
    let bounded = self::edge(|settings| {
        settings.gateway.limits.health.per_second = 0.001;
        settings.gateway.limits.health.burst = 1;
    })
    .await;
    tell(&bounded, "GET", "/health", &[]).await;
    let refused = tell(&bounded, "GET", "/health", &[&origin(PAGE)]).await;
    assert_eq!(refused.status, 429);
    assert_careful("429", &refused);
}

#[tokio::test]
async fn every_answer_over_tls_tells_browsers_to_come_back_over_tls() {
    let edge = edge(|settings| settings.gateway.tls.hsts = Some(true)).await;
    for (method, path, status) in [
        (Method::GET, "/health", 200),
        (Method::GET, "/memories", 200),
        (Method::GET, "/memories?answer=500", 500),
        (Method::GET, "/nowhere", 404),
        (Method::DELETE, "/memories", 405),
        (Method::OPTIONS, "/memories", 204),
    ] {
        let request = edge.ask(method.clone(), path).bearer_auth(token(1, &[Role::User]));
        let request = request.header("origin", PAGE).header("access-control-request-method", "GET");
        let answer = request.send().await.unwrap();

        assert_eq!(answer.status(), status, "{method} {path}");
        let answer = Head::of(answer.status(), answer.headers());
        assert_careful(path, &answer);
        assert_eq!(answer.value("strict-transport-security"), "max-age=31536000", "{path}");
    }
}

/// What every answer carries, whoever gives it and whoever gets it.
fn assert_careful(what: &str, answer: &Head) {
    let vary: Vec<_> = answer.values("vary").flat_map(|vary| vary.split(", ")).collect();
    let origins = vary.iter().filter(|name| name.eq_ignore_ascii_case("origin")).count();
    assert_eq!(origins, 1, "{what}: {answer:?}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.value(name), value, "{what}: {answer:?}");
    }
    assert_eq!(answer.value("x-request-id").len(), 36, "{what}: {answer:?}");
    assert!(!answer.has("server"), "{what}: {answer:?}");
}

/// A request for every kind of answer there is, and the status of each.
fn every_answer() -> Vec<(&'static str, u16, String)> {
    let bearer = bearer();
    let get = |target: &str, fields: &[&str]| request("GET", target, fields, "");
    let known = |target: &str| get(target, &[&bearer]);
    let post = |fields: &[&str], body: &str| {
        let fields: Vec<_> = fields.iter().copied().chain([bearer.as_str()]).collect();
        request("POST", "/memories", &fields, body)
    };
    let json = "Content-Type: application/json";
    vec![
        ("ours", 200, get("/health", &[])),
        ("ours without its body", 200, request("HEAD", "/health", &[], "")),
        ("the backend's", 200, known("/memories")),
        ("the backend's 404", 404, known("/memories?answer=404")),
        ("the backend's 422", 422, known("/memories?answer=422")),
        ("the backend's 500", 500, known("/memories?answer=500")),
        ("the backend's nonsense", 502, known("/memories?answer=nonsense")),
        ("the backend's silence", 503, known("/memories?answer=")),
        ("a preflight's", 204, preflight(PAGE)),
        ("a refused preflight's", 403, preflight("https://evil.example")),
        ("nothing there", 404, known("/nowhere")),
        ("another method", 405, request("DELETE", "/memories", &[&bearer], "")),
        ("nobody known", 401, get("/memories", &[])),
        ("a bad token", 401, get("/memories", &[BAD])),
        ("no permission", 403, known("/audit/logs")),
        ("a strange page", 403, post(&[json, "Origin: https://evil.example"], "{}")),
        ("a path that is none", 400, known("/memories/..")),
        ("two hosts", 400, known("/memories").replacen("Host", "Host: a\r\nHost", 1)),
        ("two lengths", 400, post(&[json, "Content-Length: 2"], "{}")),
        ("a large body", 413, post(&[json, "Content-Length: 99999999"], "")),
        ("another kind of body", 415, post(&["Content-Type: text/plain"], "{}")),
        ("another expectation", 417, post(&[json, "Expect: wonders"], "{}")),
        ("a large head", 431, get("/memories", &[&format!("X: {}", "x".repeat(20_000))])),
        ("a key that is none", 401, get("/memories", &["X-API-Key: mk_0"])),
        ("no request", 400, "GET\r\n\r\n".to_owned()),
        ("no field", 400, "GET /health HTTP/1.1\r\nHost: a\r\nno field\r\n\r\n".to_owned()),
        ("another protocol", 400, "\u{16}\u{3}\u{1}\r\n\r\n".to_owned()),
        ("a tunnel", 405, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned()),
    ]
}

/// A gateway whose backend answers as its query asks.
async fn edge(change: impl FnOnce(&mut Settings)) -> Edge {
    let edge = Edge::with(|settings| {
        settings.cors.origins = vec!["https://other.example".to_owned(), PAGE.to_owned()];
        change(settings);
    })
    .await;
    edge.origin.answer_with(answer);
    edge
}

fn answer(received: &Received) -> Vec<u8> {
    match received.target.split_once("answer=") {
        None => Answer::ok("application/json", b"[]"),
        Some((_, "")) => Vec::new(),
        Some((_, "nonsense")) => b"HTTP/1.1 banana\r\n\r\n".to_vec(),
        Some((_, status)) => {
            format!("HTTP/1.1 {status} Some Reason\r\ncontent-length: 2\r\n\r\n{{}}").into_bytes()
        }
    }
}

/// Asks something without a body.
async fn tell(edge: &Edge, method: &str, target: &str, fields: &[&str]) -> Head {
    send(edge.http, &request(method, target, fields, "")).await
}

/// Asks for a change.
async fn submit(edge: &Edge, target: &str, fields: &[&str], body: &str) -> Head {
    send(edge.http, &request("POST", target, fields, body)).await
}

fn request(method: &str, target: &str, fields: &[&str], body: &str) -> String {
    let lines = fields.iter().filter(|field| !field.is_empty());
    let fields: String = lines.map(|field| format!("{field}\r\n")).collect();
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n{body}")
}

fn preflight(page: &str) -> String {
    request("OPTIONS", "/memories", &[&origin(page), &ask_first("POST", "content-type")], "")
}

fn origin(page: &str) -> String {
    format!("Origin: {page}")
}

fn ask_first(method: &str, fields: &str) -> String {
    format!("Access-Control-Request-Method: {method}\r\nAccess-Control-Request-Headers: {fields}")
}

fn bearer() -> String {
    format!("Authorization: Bearer {}", token(1, &[Role::User]))
}

/// The head of an answer.
#[derive(Debug)]
struct Head {
    status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let text = |value: &reqwest::header::HeaderValue| value.to_str().expect("text").to_owned();
        let fields = headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        Self { status: status.as_u16(), fields: fields.collect() }
    }

    fn read(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let fields = lines.filter_map(|line| line.split_once(": "));
        let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Self { status: status.unwrap_or_else(|| panic!("{head}")), fields: fields.collect() }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The one value of the field `name`; nothing where there is none, or more than one.
    fn value(&self, name: &str) -> &str {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none()).unwrap_or_default()
    }

    /// Whether there is a field whose name begins like this.
    fn has(&self, beginning: &str) -> bool {
        self.fields.iter().any(|(name, _)| name.starts_with(beginning))
    }
}

/// Sends `bytes` and reads the head of what comes back.
async fn send(address: SocketAddr, bytes: &str) -> Head {
    let mut stream = TcpStream::connect(address).await.expect("the gateway listens");
    stream.write_all(bytes.as_bytes()).await.expect("it takes what is sent");
    let mut told = Vec::new();
    let read = async {
        while !told.windows(4).any(|window| window == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut told).await.expect("an answer"), 0, "{bytes:?}");
        }
    };
    timeout(Duration::from_secs(20), read).await.expect("an answer in time");
    let told = String::from_utf8_lossy(&told);
    Head::read(told.split("\r\n\r\n").next().unwrap_or_default())
}

/// The page that may ask.
const PAGE: &str = "https://app.example";

/// A credential that nobody accepts.
const BAD: &str = "Authorization: Bearer a.b.c";

/// Origins that are not that page, however much they look like it.
const STRANGERS: [&str; 20] = [
    "null",
    "*",
    "",
    "https://",
    "app.example",
    "http://app.example",
    "https://app.example:443",
    "https://app.example:444",
    "https://app.example/",
    "https://app.example.",
    "https://app.example.evil",
    "https://app.example@evil.example",
    "https://app.example, https://evil.example",
    "https://app.example https://evil.example",
    "https://app.example%00.evil",
    "https://app_example",
    "https://APP.EXAMPLE",
    "https://evil-app.example",
    "https://evil.app.example",
    "https://evil.example",
];
