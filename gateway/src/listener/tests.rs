//! The listener in front of an engine that answers by itself.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use memoric_config::{Settings, schema::Seconds};
use pingora::{
    Error, ErrorType,
    http::ResponseHeader,
    prelude::HttpPeer,
    proxy::{ProxyHttp, Session},
};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    backend::tests::client,
    config::{Config, TrustedProxies, tests::environment},
    exchange::{Exchange, Exchanges, Outcome},
    journal::Journal,
    metrics::Metrics,
};

/// A proxy that answers by itself, what the path says.
struct Answers(Arc<Exchanges>);

#[async_trait]
impl ProxyHttp for Answers {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        self.0.begin()
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        exchange.open(session, &TrustedProxies::default());
        Ok(())
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> pingora::Result<bool> {
        exchange.outcome = Outcome::Answered;
        let path = session.req_header().uri.path().to_owned();
        let body = match path.as_str() {
            "/slow" => {
                sleep(Duration::from_millis(800)).await;
                "late".repeat(100_000)
            }
            "/never" => std::future::pending().await,
            "/large" => "x".repeat(1 << 20),
            "/huge" => "x".repeat(1 << 26),
            "/refuse" => "no".to_owned(),
            "/read" => {
                let mut read = 0;
                while let Some(part) = session.read_request_body().await? {
                    read += part.len();
                }
                read.to_string()
            }
            _ => "ok".to_owned(),
        };
        let mut head = ResponseHeader::build(200, None)?;
        head.insert_header("content-length", body.len())?;
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(body.into()), true).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        _: &mut Session,
        _: &mut Exchange,
    ) -> pingora::Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "nothing is forwarded here")
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        exchange.close(session, error);
    }
}

/// A reception that runs, and the hands to stop it.
struct House {
    http: SocketAddr,
    https: SocketAddr,
    metrics: Arc<Metrics>,
    authority: reqwest::Certificate,
    roots: rustls::RootCertStore,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    _files: TempDir,
}

impl House {
    async fn open(change: impl FnOnce(&mut Settings)) -> Self {
        let files = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();

        let mut settings = Settings::default();
        settings.gateway.http = Some(anywhere());
        settings.gateway.https = Some(anywhere());
        settings.gateway.tls.certificate = Some(certificate);
        settings.gateway.tls.key = Some(key);
        settings.audit.spool.folder = files.path().join("spool");
        change(&mut settings);
        let config = Config::new(&settings, &environment()).unwrap();

        let metrics = Arc::new(Metrics::new().unwrap());
        let journal = Journal::open(&config, Some(client(&config)), &metrics).unwrap();
        let exchanges = Exchanges::new(Arc::clone(&metrics), journal).unwrap();
        let proxy = Answers(Arc::clone(&exchanges));
        let reception = Reception::new(proxy, &config, exchanges, Arc::clone(&metrics));
        let certificate = Certificate::read(config.https.as_ref().unwrap()).unwrap();
        let tls = server_config(Arc::new(certificate)).unwrap();
        let http = Listener::bind(config.http.unwrap(), None).unwrap();
        let https = Listener::bind(config.https.unwrap().addr, Some(tls)).unwrap();

        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let (stop, stopped) = oneshot::channel();
        Self {
            http: http.addr(),
            https: https.addr(),
            metrics,
            authority: reqwest::Certificate::from_der(made.cert.der()).unwrap(),
            roots,
            stop,
            running: tokio::spawn(reception.run(vec![http, https], async { drop(stopped.await) })),
            _files: files,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.http).await.unwrap()
    }

    async fn connect_tls(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.connect_tls_for(&[]).await
    }

    async fn connect_tls_for(
        &self,
        protocols: &[&[u8]],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let tcp = TcpStream::connect(self.https).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    fn client(&self) -> reqwest::Client {
        reqwest::Client::builder().tls_certs_only([self.authority.clone()]).build().unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.https.port())
    }

    /// The value of one series, 0 where it does not exist.
    fn counted(&self, series: &str) -> f64 {
        let rendered = self.metrics.render().unwrap();
        let line = rendered.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    async fn close(self) -> Duration {
        let began = Instant::now();
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
        began.elapsed()
    }
}

fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn milliseconds(milliseconds: u64) -> Seconds {
    Duration::from_millis(milliseconds).into()
}

/// Asks for `path` and keeps the connection.
async fn ask(client: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    answer(client).await
}

/// One answer whose body does not contain what ends a head.
async fn answer(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        let length: Option<usize> = text
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if let (Some(length), Some((head, _))) = (length, text.split_once("\r\n\r\n"))
            && answer.len() >= head.len() + 4 + length
        {
            return text.into_owned();
        }
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "closed after {answer:?}");
    }
}

/// How long the other side takes to close.
async fn closed(client: &mut (impl AsyncRead + Unpin)) -> Duration {
    let began = Instant::now();
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(8), client.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the connection is still open");
    began.elapsed()
}

#[tokio::test]
async fn a_head_that_drips_in_is_cut() {
    let house = House::open(|settings| settings.gateway.timeouts.head = milliseconds(400)).await;
    let (mut reader, mut writer) = house.connect().await.into_split();

    writer.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    let drip = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let took = closed(&mut reader).await;
    drip.await.unwrap();

    assert!((350..3000).contains(&took.as_millis()), "cut after {took:?}");
    assert_eq!(
        house.counted(r#"memoric_gateway_unparsed_total{protocol="http1",reason="late"}"#),
        1.0
    );
    house.close().await;
}

#[tokio::test]
async fn a_client_who_waits_between_requests_is_still_served() {
    let house = House::open(|settings| {
        settings.gateway.timeouts.head = milliseconds(200);
        settings.gateway.timeouts.exchange = milliseconds(300);
        settings.gateway.timeouts.idle = milliseconds(1500);
    })
    .await;
    let mut clear = house.connect().await;
    let mut tls = house.connect_tls().await;

    sleep(Duration::from_millis(600)).await;
    assert!(ask(&mut clear, "/").await.ends_with("ok"), "before the first request");
    assert!(ask(&mut tls, "/").await.ends_with("ok"));
    sleep(Duration::from_millis(600)).await;
    assert!(ask(&mut clear, "/").await.ends_with("ok"), "between two");
    assert!(ask(&mut tls, "/").await.ends_with("ok"));

    let took = closed(&mut clear).await;
    assert!((1200..5000).contains(&took.as_millis()), "idle, and closed after {took:?}");
    assert_eq!(
        house.counted(r#"memoric_gateway_unparsed_total{protocol="http1",reason="late"}"#),
        0.0
    );
    house.close().await;
}

#[tokio::test]
async fn a_silent_tls_client_is_cut() {
    let house =
        House::open(|settings| settings.gateway.timeouts.handshake = milliseconds(300)).await;
    let mut silent = TcpStream::connect(house.https).await.unwrap();

    let took = closed(&mut silent).await;

    assert!((250..3000).contains(&took.as_millis()), "cut after {took:?}");
    assert_eq!(house.counted(r#"memoric_gateway_handshakes_failed_total{reason="late"}"#), 1.0);
    house.close().await;
}

#[tokio::test]
async fn an_introduction_and_a_handshake_have_one_deadline() {
    let house = House::open(|settings| {
        settings.gateway.timeouts.handshake = milliseconds(2000);
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
        settings.gateway.proxy_protocol = true;
    })
    .await;
    let began = Instant::now();
    let mut slow = TcpStream::connect(house.https).await.unwrap();

    sleep(Duration::from_millis(1500)).await;
    slow.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n").await.unwrap();
    closed(&mut slow).await;

    let took = began.elapsed();
    assert!((1900..3200).contains(&took.as_millis()), "cut after {took:?}");
    assert_eq!(house.counted(r#"memoric_gateway_handshakes_failed_total{reason="late"}"#), 1.0);
    house.close().await;
}

#[tokio::test]
async fn http2_is_agreed_on_and_outlives_the_deadline_of_a_head() {
    let house = House::open(|settings| settings.gateway.timeouts.head = milliseconds(200)).await;
    let client = house.client();

    for _ in 0..2 {
        let answer = client.get(house.url("/")).send().await.unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        assert_eq!(answer.text().await.unwrap(), "ok");
        sleep(Duration::from_millis(500)).await;
    }

    assert_eq!(
        house.counted(r#"memoric_gateway_connections{listener="https"}"#),
        1.0,
        "one connection for both"
    );
    house.close().await;
}

#[tokio::test]
async fn an_http2_client_who_says_nothing_is_cut() {
    let house = House::open(|settings| settings.gateway.timeouts.head = milliseconds(300)).await;
    let mut silent = house.connect_tls_for(&[b"h2"]).await;
    let mut halting = house.connect_tls_for(&[b"h2"]).await;

    halting.write_all(b"PRI * HTTP/2.0").await.unwrap();
    let took = closed(&mut silent).await;
    closed(&mut halting).await;

    assert!((250..3000).contains(&took.as_millis()), "cut after {took:?}");
    assert_eq!(
        house.counted(r#"memoric_gateway_unparsed_total{protocol="http2",reason="late"}"#),
        1.0,
        "who said something"
    );
    house.close().await;
}

#[tokio::test]
async fn an_http2_connection_that_nobody_uses_is_closed() {
    let house = House::open(|settings| settings.gateway.timeouts.idle = milliseconds(300)).await;
    let client = house.client();
    client.get(house.url("/")).send().await.unwrap();
    assert_eq!(house.counted(r#"memoric_gateway_connections{listener="https"}"#), 1.0);

    sleep(Duration::from_millis(1000)).await;

    assert_eq!(house.counted(r#"memoric_gateway_connections{listener="https"}"#), 0.0);
    house.close().await;
}

#[tokio::test]
async fn http2_headers_beyond_the_bound_are_refused_and_the_connection_lives() {
    let house = House::open(|_| {}).await;
    let client = house.client();

    let refused =
        client.get(house.url("/")).header("x-large", "x".repeat(20_000)).send().await.unwrap();
    let served = client.get(house.url("/")).send().await.unwrap();

    assert_eq!(refused.status(), 431);
    assert_eq!(served.status(), 200);
    assert_eq!(house.counted(r#"memoric_gateway_connections{listener="https"}"#), 1.0);
    house.close().await;
}

#[tokio::test]
async fn a_client_who_does_not_read_is_cut() {
    let house =
        House::open(|settings| settings.gateway.timeouts.exchange = milliseconds(400)).await;
    let mut lazy = house.connect_tls().await;
    lazy.write_all(b"GET /huge HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();

    sleep(Duration::from_millis(1500)).await;

    assert_eq!(house.counted("memoric_gateway_requests_in_flight"), 0.0);
    assert_eq!(house.counted(r#"memoric_gateway_connections{listener="https"}"#), 0.0);
    house.close().await;
}

#[tokio::test]
async fn an_exchange_that_never_ends_is_cut_and_written_down_once() {
    let house =
        House::open(|settings| settings.gateway.timeouts.exchange = milliseconds(300)).await;
    let mut clear = house.connect().await;

    clear.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let took = closed(&mut clear).await;
    let stream = house.client().get(house.url("/never")).send().await;

    assert!((250..3000).contains(&took.as_millis()), "cut after {took:?}");
    assert!(stream.is_err(), "the stream is reset");
    let series =
        r#"memoric_gateway_requests_total{code="-",operation="-",outcome="answered",status="-"}"#;
    assert_eq!(house.counted(series), 2.0);
    assert_eq!(house.counted("memoric_gateway_requests_in_flight"), 0.0);
    house.close().await;
}

#[tokio::test]
async fn a_head_without_end_is_cut_while_it_is_read() {
    let house = House::open(|settings| settings.gateway.bounds.header_bytes = 4096).await;
    let mut client = house.connect().await;

    client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    let _ = client.write_all(&vec![b'x'; 1 << 20]).await;
    closed(&mut client).await;
    drop(client);
    sleep(Duration::from_millis(100)).await;

    assert_eq!(
        house.counted(r#"memoric_gateway_unparsed_total{protocol="http1",reason="oversized"}"#),
        1.0
    );
    house.close().await;
}

#[tokio::test]
async fn a_body_does_not_count_as_a_head() {
    let house = House::open(|settings| settings.gateway.bounds.header_bytes = 1024).await;
    let mut client = house.connect().await;
    let body = vec![b'x'; 300_000];

    for _ in 0..2 {
        let head = format!(
            "POST /read HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body).await.unwrap();
        assert!(answer(&mut client).await.ends_with("300000"));
    }

    house.close().await;
}

#[tokio::test]
async fn what_the_parser_refuses_is_counted() {
    let house = House::open(|_| {}).await;
    let mut malformed = house.connect().await;
    let mut abandoned = house.connect().await;

    malformed.write_all(b"not http at all\r\n\r\n").await.unwrap();
    abandoned.write_all(b"GET / HT").await.unwrap();
    abandoned.shutdown().await.unwrap();
    closed(&mut malformed).await;
    closed(&mut abandoned).await;
    drop((malformed, abandoned));
    sleep(Duration::from_millis(100)).await;

    assert_eq!(
        house.counted(r#"memoric_gateway_unparsed_total{protocol="http1",reason="malformed"}"#),
        1.0
    );
    assert_eq!(
        house.counted(r#"memoric_gateway_unparsed_total{protocol="http1",reason="abandoned"}"#),
        1.0
    );
    house.close().await;
}

#[tokio::test]
async fn a_client_who_connects_too_often_is_turned_away() {
    let house = House::open(|settings| settings.gateway.connections.per_address = 2).await;
    let mut first = house.connect().await;
    let mut second = house.connect_tls().await;
    assert!(ask(&mut first, "/").await.ends_with("ok"));
    assert!(ask(&mut second, "/").await.ends_with("ok"));

    let mut third = house.connect().await;
    closed(&mut third).await;
    assert_eq!(
        house.counted(r#"memoric_gateway_connections_refused_total{reason="address"}"#),
        1.0
    );

    drop(first);
    sleep(Duration::from_millis(200)).await;
    assert!(ask(&mut house.connect().await, "/").await.ends_with("ok"), "the seat is free again");
    house.close().await;
}

#[tokio::test]
async fn a_large_answer_arrives_whole() {
    let house = House::open(|_| {}).await;

    for path in ["/large", "/"] {
        let clear = ask(&mut house.connect().await, path).await;
        let tls = ask(&mut house.connect_tls().await, path).await;
        let http2 = house.client().get(house.url(path)).send().await.unwrap().text().await.unwrap();
        assert!(clear.ends_with(&http2) && tls.ends_with(&http2), "{path}");
        assert_eq!(http2.len(), if path == "/" { 2 } else { 1 << 20 });
    }

    house.close().await;
}

#[tokio::test]
async fn a_client_who_is_refused_in_the_middle_of_an_upload_sees_why() {
    let house = House::open(|_| {}).await;
    let (mut reader, mut writer) = tokio::io::split(house.connect().await);

    writer
        .write_all(b"POST /refuse HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2000000\r\n\r\n")
        .await
        .unwrap();
    let upload = tokio::spawn(async move {
        for _ in 0..20 {
            writer.write_all(&[b'x'; 1000]).await?;
            sleep(Duration::from_millis(20)).await;
        }
        io::Result::Ok(())
    });
    let seen = answer(&mut reader).await;

    assert!(seen.ends_with("no"), "{seen}");
    assert!(upload.await.unwrap().is_ok(), "a reset may overtake the answer");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_house_finishes_what_it_started() {
    let house = House::open(|_| {}).await;
    let (http, metrics) = (house.http, Arc::clone(&house.metrics));
    let (mut idle, mut idle_tls) = (house.connect().await, house.connect_tls().await);
    ask(&mut idle, "/").await;
    ask(&mut idle_tls, "/").await;
    let idle_http2 = house.client();
    idle_http2.get(house.url("/")).send().await.unwrap();

    let mut slow = house.connect_tls().await;
    let slow = tokio::spawn(async move { ask(&mut slow, "/slow").await });
    let slow_http2 = house.client().get(house.url("/slow")).send();
    let slow_http2 = tokio::spawn(async { slow_http2.await.unwrap().text().await.unwrap() });
    sleep(Duration::from_millis(300)).await;
    let closing = tokio::spawn(house.close());

    let idle = closed(&mut idle).await;
    closed(&mut idle_tls).await;
    assert!(
        idle < Duration::from_millis(400),
        "who waits is sent home at once, not after {idle:?}"
    );
    assert!(TcpStream::connect(http).await.is_err(), "the port is free");
    assert!(slow.await.unwrap().ends_with("late"), "HTTP/1");
    assert_eq!(slow_http2.await.unwrap().len(), 400_000, "HTTP/2");
    let took = closing.await.unwrap();
    assert!(took < Duration::from_secs(5), "drained in {took:?}");
    assert_eq!(Arc::strong_count(&metrics), 1, "nothing is left behind");
}

#[tokio::test]
async fn a_house_whose_grace_is_over_cuts_what_is_left() {
    let house = House::open(|settings| settings.gateway.grace = milliseconds(300)).await;
    let metrics = Arc::clone(&house.metrics);
    let mut stuck = house.connect().await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let stuck_http2 = house.client().get(house.url("/never")).send();
    let stuck_http2 = tokio::spawn(stuck_http2);
    sleep(Duration::from_millis(200)).await;

    let took = house.close().await;

    assert!((250..4000).contains(&took.as_millis()), "{took:?}");
    closed(&mut stuck).await;
    assert!(stuck_http2.await.unwrap().is_err());
    assert_eq!(Arc::strong_count(&metrics), 1, "nothing is left behind");
}

#[tokio::test]
async fn a_house_that_is_dropped_leaves_nobody_behind() {
    let house = House::open(|_| {}).await;
    let metrics = Arc::clone(&house.metrics);
    let mut client = house.connect_tls().await;
    ask(&mut client, "/").await;

    house.running.abort();
    closed(&mut client).await;
    drop(house);
    sleep(Duration::from_millis(200)).await;

    assert_eq!(Arc::strong_count(&metrics), 1);
}

#[test]
fn a_certificate_that_cannot_be_shown_is_refused_in_one_line() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let [one, other] = ["one", "other"]
        .map(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    std::fs::write(path("cert"), one.cert.pem()).unwrap();
    std::fs::write(path("key"), one.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("other"), other.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("empty"), "").unwrap();
    std::fs::write(path("torn"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    let try_with = |certificate: &str, key: &str| {
        let https = crate::config::Https {
            addr: anywhere(),
            certificate: path(certificate),
            key: path(key),
        };
        Certificate::read(&https).map(drop).map_err(|error| error.to_string())
    };

    assert_eq!(try_with("cert", "key"), Ok(()));
    for (certificate, key, reason) in [
        ("absent", "key", "absent: cannot be read"),
        ("cert", "absent", "absent: cannot be read"),
        ("empty", "key", "empty: holds no certificate"),
        ("key", "key", "key: holds no certificate"),
        ("torn", "key", "torn: is not PEM"),
        ("cert", "cert", "cert: holds no private key"),
        ("cert", "other", "other: is not the key of the certificate in"),
    ] {
        let refused = try_with(certificate, key).unwrap_err();
        assert!(refused.contains(reason) && !refused.contains('\n'), "{refused}");
    }
}
