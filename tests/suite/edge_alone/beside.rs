//! Services beside a backend.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use harness::{Edge, Origin, Received, token, until};
use memoric_config::schema::Route;
use memoric_contract::{
    ASSERTION_HEADER, Role, UserId,
    audit::{EventType, Record},
    revocation::{REVOKED_HEADER, Revocation, Revoked},
    spool::Delivery,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{Method, RequestBuilder, StatusCode};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::Service;

#[tokio::test]
async fn a_service_hears_who_asks_by_our_word_and_no_clients() {
    let (service, edge) = beside(&[]).await;
    let planted = [
        ("X-User-Id", "1"),
        ("x-user-id", "1"),
        ("X_User_Id", "1"),
        ("X-USER-ROLES", "admin"),
        ("X-User-Namespace", "planted"),
        ("X-Roles", "admin"),
        ("X-Forwarded-For", "planted"),
        ("X-Forwarded-Proto", "planted"),
        ("Forwarded", "for=planted"),
        ("X-Request-Id", "planted"),
        ("X-Memoric-Assertion", "planted"),
        ("X-Memoric-Owner", "1"),
        ("Cookie", "session=planted"),
        ("X-Anything", "planted"),
        ("Connection", "x-user-roles"),
    ];
    let path = "/tools/hammer?nail=1";
    let in_clear = edge.client.post(format!("http://{}{path}", edge.http));
    for (proto, ask) in [("http", in_clear), ("https", edge.ask(Method::POST, path))] {
        let ask = planted.into_iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        let ask = ask.bearer_auth(token(7, &[Role::User])).header("Accept", "text/plain");

        let answer = ask.body("a body").send().await.unwrap();

        assert_eq!(answer.status(), StatusCode::OK);
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let [heard] = &service.origin.requests()[..] else { panic!("one arrives") };
        assert_eq!((heard.method.as_str(), heard.target.as_str()), ("POST", path));
        assert_eq!(heard.body, b"a body");
        for (name, told) in [
            ("x-user-id", "7"),
            ("x-user-roles", "user"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", proto),
            ("x-request-id", &id),
            ("host", "localhost"),
            ("accept", "text/plain"),
        ] {
            assert_eq!(heard.values(name), [told], "{name} by {proto}");
        }
        let fields = heard.fields.iter().map(|(name, _)| name.to_lowercase());
        let rest: Vec<_> = fields.filter(|name| !name.starts_with("x-")).collect();
        assert_eq!(rest.len(), 3, "and how long the body is: {rest:?}");
        assert_eq!(heard.fields.len(), 8, "no credential, and nothing of a client's: {heard:?}");
        assert!(!String::from_utf8_lossy(&heard.raw).contains("planted"), "{heard:?}");
        service.origin.forget();
    }
}

#[tokio::test]
async fn operations_and_services_are_served_side_by_side_and_each_hears_its_own() {
    let (service, edge) = beside(&[]).await;
    let ask = |path| edge.ask(Method::GET, path).bearer_auth(token(7, &[Role::User]));

    for path in ["/memories", "/tools", "/tools/", "/memories?top_k=1", "/%74ools/x/y"] {
        assert_eq!(status(ask(path)).await, StatusCode::OK, "{path}");
    }

    let targets = |origin: &Origin| -> Vec<_> {
        origin.requests().into_iter().map(|request| request.target).collect()
    };
    assert_eq!(targets(&edge.origin), ["/memories", "/memories?top_k=1"]);
    assert_eq!(targets(&service.origin), ["/tools", "/tools", "/tools/x/y"]);
    let vouched = |request: &Received| !request.values(ASSERTION_HEADER).is_empty();
    assert!(edge.origin.requests().iter().all(vouched));
    assert!(!service.origin.requests().iter().any(vouched), "our word is for the backend alone");
    let series = "memoric_gateway_requests_total{code=\"-\",operation=\"route:/tools\",outcome=\"forwarded\",status=\"200\"}";
    until("each is counted by its route", async || edge.counted(series).await == 3.0).await;
}

#[tokio::test]
async fn who_may_not_ask_is_not_heard_of_behind_us() {
    let (service, edge) = beside(&["admin"]).await;
    let ask = |method, path| edge.ask(method, path);
    let by = |role| token(7, &[role]);

    for (asked, told) in [
        (ask(Method::GET, "/tools"), 401),
        (ask(Method::GET, "/tools").bearer_auth("a.b.c"), 401),
        (ask(Method::GET, "/tools").bearer_auth("mrt_a"), 401),
        (ask(Method::GET, "/tools").bearer_auth(by(Role::User)), 403),
        (ask(Method::GET, "/tools/x").bearer_auth(by(Role::Readonly)), 403),
        (ask(Method::GET, "/tools").bearer_auth(token(7, &[])), 403),
        (ask(Method::PUT, "/tools").bearer_auth(by(Role::Admin)), 405),
        (ask(Method::HEAD, "/tools").bearer_auth(by(Role::Admin)), 405),
        (ask(Method::OPTIONS, "/tools").bearer_auth(by(Role::Admin)), 405),
        (ask(Method::GET, "/toolshed").bearer_auth(by(Role::Admin)), 404),
        (ask(Method::GET, "/tool").bearer_auth(by(Role::Admin)), 404),
        (ask(Method::GET, "/").header("x-original-url", "/tools"), 200),
        (ask(Method::GET, "/tools/..%2fx").bearer_auth(by(Role::Admin)), 400),
        (ask(Method::GET, "/tools/..;/x").bearer_auth(by(Role::Admin)), 400),
        (
            ask(Method::POST, "/tools")
                .bearer_auth(by(Role::Admin))
                .header("origin", "https://evil.example"),
            403,
        ),
        (ask(Method::POST, "/tools").bearer_auth(by(Role::Admin)).body(vec![b'x'; 1001]), 413),
        (ask(Method::POST, "/tools").bearer_auth(by(Role::Admin)).header("x-api-key", "mk_x"), 400),
    ] {
        let shown = format!("{asked:?}");
        assert_eq!(status(asked).await.as_u16(), told, "{shown}");
    }
    assert_eq!(service.origin.requests(), []);
    assert_eq!(status(ask(Method::GET, "/tools").bearer_auth(by(Role::Admin))).await, 200);
    let another = ask(Method::GET, "/tools?user_id=8").bearer_auth(by(Role::Admin));
    assert_eq!(status(another).await, 200, "as everywhere");
}

#[tokio::test]
async fn anothers_user_id_is_for_admins_at_services_too() {
    let (service, edge) = beside(&[]).await;
    let ask = |query: &str| {
        let asked = edge.ask(Method::GET, &format!("/tools?{query}"));
        status(asked.bearer_auth(token(7, &[Role::User])))
    };

    assert_eq!(ask("user_id=8").await, StatusCode::FORBIDDEN);
    assert_eq!(ask("user%5Fid=8").await, StatusCode::FORBIDDEN);
    assert_eq!(service.origin.requests(), []);
    assert_eq!(ask("user_id=7").await, StatusCode::OK);
}

#[tokio::test]
async fn what_is_for_the_backend_alone_to_tell_us_no_service_tells() {
    let (service, edge) = beside(&[]).await;
    let token = token(7, &[Role::User]);
    let ask = || edge.ask(Method::GET, "/tools").bearer_auth(&token);
    let ended = Revocation { user: UserId(7), revoked: Revoked::Before(9), expires_at: u64::MAX };
    service.says(&format!(
        "{REVOKED_HEADER}: {}\r\nX-Memoric-Recorded: 1\r\nX-Memoric-Owner: 8\r\n\
         X-Memoric-Resource: planted\r\nServer: planted\r\nSet-Cookie: planted\r\n\
         Access-Control-Allow-Origin: *\r\nX-Request-Id: planted\r\nAlt-Svc: planted\r\n",
        ended.message()
    ));

    for _ in 0..2 {
        let answer = ask().send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "no service ends a session");
        let told = format!("{:?}", answer.headers());
        for name in ["planted", "x-memoric", "set-cookie", "access-control-allow-origin"] {
            assert!(!told.contains(name), "{told}");
        }
        assert_eq!(answer.text().await.unwrap(), "from the service");
    }

    until("both are on record", async || records(&edge).len() == 2).await;
    for record in records(&edge) {
        assert_eq!((record.event, record.status), (EventType::AccessGranted, Some(200)));
        assert_eq!((record.subject, record.owner), (Some(UserId(7)), None));
        assert_eq!(record.metadata, Some(json!({"route": "/tools", "method": "GET"})));
    }
}

#[tokio::test]
async fn a_browser_that_wonders_is_answered_by_us_and_not_by_the_service() {
    let service = Service::start();
    let routes = vec![service.at("/tools", &[])];
    let edge = Edge::with(|settings| {
        settings.gateway.routes = routes;
        settings.cors.origins = vec!["https://app.example".to_owned()];
    })
    .await;
    let wonder = |origin: &str, method: &str| {
        let asked = edge.ask(Method::OPTIONS, "/tools/x").header("origin", origin);
        asked.header("access-control-request-method", method).send()
    };

    let answer = wonder("https://app.example", "DELETE").await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    assert_eq!(answer.headers()["access-control-allow-methods"], "GET, POST, DELETE");
    let refused = wonder("https://app.example", "PUT").await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let refused = wonder("https://evil.example", "GET").await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(service.origin.requests(), []);
}

#[tokio::test]
async fn a_service_that_is_away_takes_nobody_else_along() {
    let (service, edge) = beside(&[]).await;
    service.origin.stop();
    let ask = |path| edge.ask(Method::GET, path).bearer_auth(token(7, &[Role::User]));

    assert_eq!(status(ask("/tools")).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(ask("/memories")).await, StatusCode::OK);
    until("both are on record", async || records(&edge).len() == 2).await;
}

#[tokio::test]
async fn a_refusal_at_a_route_is_on_record_under_its_path() {
    let (_service, edge) = beside(&["admin"]).await;

    let asked =
        edge.ask(Method::POST, "/tools/secret-of-a-path").bearer_auth(token(7, &[Role::User]));
    assert_eq!(status(asked).await, StatusCode::FORBIDDEN);

    until("it is on record", async || records(&edge).len() == 1).await;
    let record = records(&edge).remove(0);
    assert_eq!((record.event, record.success), (EventType::AccessDenied, false));
    let expected = json!({"code": "forbidden", "route": "/tools", "method": "POST"});
    assert_eq!(record.metadata, Some(expected), "and nothing that the client made up");
}

#[tokio::test]
async fn a_service_elsewhere_proves_by_its_certificate_who_it_is() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let believed = || Some(ours.file.clone());
    for (why, authority, name, ca, is_heard) in [
        ("it is who it should be", &ours, "localhost", believed(), true),
        ("another authority's", &theirs, "localhost", believed(), false),
        ("another name", &ours, "other.example", believed(), false),
        ("nobody's whom the system trusts", &ours, "localhost", None, false),
    ] {
        let service = authority.serve(name).await;
        let route = Route {
            upstream: format!("https://localhost:{}", service.port),
            ca,
            ..super::route("/tools", Path::new("/nobody"), &[])
        };
        let edge = Edge::with(|settings| settings.gateway.routes = vec![route]).await;

        let asked = edge.ask(Method::GET, "/tools/x").bearer_auth(token(7, &[Role::User]));
        let status = status(asked).await;

        let heard = service.heard.lock().unwrap().clone();
        match is_heard {
            true => {
                assert_eq!(status, StatusCode::OK, "{why}");
                let host = format!("host: localhost:{}\r\n", service.port);
                assert!(heard.starts_with("GET /tools/x HTTP/1.1\r\n"), "{heard}");
                assert!(heard.to_lowercase().contains(&host), "{heard}");
            }
            false => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}");
                assert_eq!(heard, "", "{why}");
            }
        }
    }
}

/// A gateway with a backend, and a service at `/tools` for whoever has one of `roles`.
async fn beside(roles: &[&str]) -> (Service, Edge) {
    let service = Service::start();
    let routes = vec![service.at("/tools", roles)];
    let edge = Edge::with(|settings| settings.gateway.routes = routes).await;
    (service, edge)
}

async fn status(asked: RequestBuilder) -> StatusCode {
    asked.send().await.unwrap().status()
}

/// The records that the backend was given.
fn records(edge: &Edge) -> Vec<Record> {
    let record = |delivery: Delivery| match delivery {
        Delivery::Report(report) => report.record().clone(),
        Delivery::Poisoned(poisoned) => panic!("{poisoned:?}"),
    };
    edge.origin.deliveries().into_iter().map(record).collect()
}

/// An authority of a test's own.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate, as a PEM file.
    file: std::path::PathBuf,
    _folder: TempDir,
}

/// A service that speaks TLS, and what it has been told.
struct Sealed {
    port: u16,
    heard: Arc<Mutex<String>>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file, _folder: folder }
    }

    /// Serves under a certificate for `name`.
    async fn serve(&self, name: &str) -> Sealed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let shown = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from(shown)];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(String::new()));
        tokio::spawn(attend(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&heard)));
        Sealed { port, heard }
    }
}

/// Answers one request of every connection whose client believes in the certificate.
async fn attend(listener: TcpListener, acceptor: TlsAcceptor, heard: Arc<Mutex<String>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(mut stream) = acceptor.accept(stream).await else { continue };
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") && matches!(stream.read_buf(&mut bytes).await, Ok(1..))
        {
        }
        heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}
