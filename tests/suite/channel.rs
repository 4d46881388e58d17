//! Between gateway and backend each knows the other, and nobody listens in.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use harness::{Edge, Recipe, World, counted, free_address, until};
use memoric_config::{Settings, pem, schema::ChannelTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{Method, Response, StatusCode};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer},
    version::{TLS12, TLS13},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

#[tokio::test]
async fn what_is_remembered_over_mutual_tls_is_recalled_over_it() {
    let authority = Authority::new();
    let world = over_tls(authority.end("gateway", "backend"), authority.end("backend", "gateway"));
    let world = world.await;
    let alice = world.register("alice").await;

    world.remember(&alice, json!({"content": "in the safe"})).await;

    assert_eq!(world.contents(&alice).await, ["in the safe"]);
    assert_eq!(strangers(&world).await, 0.0);
}

#[tokio::test]
async fn a_gateway_that_the_settings_do_not_name_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let forged = ChannelTls { ca: ours.end("x", "x").ca, ..theirs.end("gateway", "backend") };

    for (whose, gateway) in [
        ("of another authority", forged),
        ("of another name", ours.end("other", "backend")),
        ("the backend's own", ours.end("backend", "backend")),
    ] {
        let world = over_tls(gateway, ours.end("backend", "gateway")).await;

        let answer = world.try_log_in("alice", "whatever it is").await;

        // By TLS 1.3 a client hears of it after it has spoken.
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{whose}");
        until(whose, async || strangers(&world).await >= 1.0).await;
    }
}

#[tokio::test]
async fn a_backend_that_the_settings_do_not_name_is_told_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    for (whose, shown, version) in [
        ("another authority's", theirs.end("backend", "x"), &TLS13),
        ("another name's", ours.end("other", "x"), &TLS13),
        ("ours, by TLS 1.2", ours.end("backend", "x"), &TLS12),
    ] {
        let impostor = Impostor::start(&shown, version).await;
        let edge = impostor.behind_a_gateway(ours.end("gateway", "backend")).await;

        let answer = log_in(&edge).await.expect("an answer");

        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{whose}");
        impostor.wait_until("it is met", |met| met.shaken >= 2).await;
        assert_eq!(impostor.heard(), "", "{whose}");
    }
}

#[tokio::test]
async fn a_socket_that_another_user_listens_at_is_told_nothing() {
    let ours = rustix::process::geteuid().as_raw();
    for (uid, status) in [(ours, StatusCode::OK), (ours + 1, StatusCode::SERVICE_UNAVAILABLE)] {
        let edge = Edge::with(|settings| settings.gateway.backend_uid = Some(uid)).await;

        let answer = log_in(&edge).await.expect("an answer");

        assert_eq!(answer.status(), status, "{uid}");
        let heard = edge.origin.bytes().concat();
        assert_eq!(heard.is_empty(), uid != ours, "{}", String::from_utf8_lossy(&heard));
    }
}

#[tokio::test]
async fn these_tests_would_notice_what_an_impostor_is_told() {
    let ours = Authority::new();
    let impostor = Impostor::start(&ours.end("backend", "x"), &TLS13).await;
    let edge = impostor.behind_a_gateway(ours.end("gateway", "backend")).await;

    let asked = tokio::spawn(async move { log_in(&edge).await });

    for told in ["/internal/health", "hunter2"] {
        impostor.wait_until(told, |met| String::from_utf8_lossy(&met.heard).contains(told)).await;
    }
    asked.abort();
}

#[tokio::test]
async fn certificates_that_cannot_be_used_stop_the_start_by_setting_and_file() {
    let ours = Authority::new();
    let address = free_address();
    for (program, section, place) in [
        ("memoric-backend", "MEMORIC_BACKEND__GATEWAY_TLS", "MEMORIC_BACKEND__LISTEN"),
        ("memoric-gateway", "MEMORIC_GATEWAY__BACKEND_TLS", "MEMORIC_GATEWAY__BACKEND"),
    ] {
        let recipe = Recipe::new().await.set(place, &format!("https://{address}"));
        let recipe = with_end(recipe, section, &ours.end("one", "other"));
        let setting = section.trim_start_matches("MEMORIC_").to_lowercase().replace("__", ".");
        let told = |name: &str, value: &str| {
            let started = recipe.program(program).env(&format!("{section}__{name}"), value);
            let output = started.args(["serve"]).run();
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };

        for name in ["CERTIFICATE", "KEY", "CA"] {
            let refused = told(name, "/nowhere/file.pem");
            let expected = format!("{setting}.{}: /nowhere/file.pem: ", name.to_lowercase());
            assert!(refused.contains(&expected), "{program}: {refused}");
        }
        let other = path(&ours.end("another", "other").key);
        assert!(told("KEY", &other).contains(&format!("{setting}.key: {other}: ")));
        assert!(told("NAME", "under_score").contains(&format!("{setting}.name: ")));
    }
}

#[tokio::test]
async fn check_tells_how_the_two_speak() {
    let ours = Authority::new();
    let address = free_address();
    let mut recipe = Recipe::new().await;
    for (place, section, end) in [
        ("MEMORIC_BACKEND__LISTEN", "MEMORIC_BACKEND__GATEWAY_TLS", ours.end("backend", "gateway")),
        (
            "MEMORIC_GATEWAY__BACKEND",
            "MEMORIC_GATEWAY__BACKEND_TLS",
            ours.end("gateway", "backend"),
        ),
    ] {
        recipe = with_end(recipe.set(place, &format!("https://{address}")), section, &end);
    }
    let memoric = recipe.start().await;

    for (program, told) in [
        ("memoric-gateway", format!("channel: {address}, mutual TLS 1.3 with backend")),
        ("memoric-backend", "ok      channel: mutual TLS 1.3 with gateway".to_owned()),
    ] {
        let checked = memoric.program(program).args(["check"]).run();
        let shown = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{shown}");
        assert!(shown.lines().any(|line| line == told), "{shown}");
    }
}

/// The variables of one `section`, set to `end`.
fn with_end(recipe: Recipe, section: &str, end: &ChannelTls) -> Recipe {
    recipe
        .set(&format!("{section}__CERTIFICATE"), &path(&end.certificate))
        .set(&format!("{section}__KEY"), &path(&end.key))
        .set(&format!("{section}__CA"), &path(&end.ca))
        .set(&format!("{section}__NAME"), end.name.as_deref().expect("it is named"))
}

fn path(file: &Option<PathBuf>) -> String {
    file.as_ref().expect("there is one").display().to_string()
}

/// A whole Memoric whose two halves speak TLS.
async fn over_tls(gateway: ChannelTls, backend: ChannelTls) -> World {
    let address = free_address();
    let settings = move |settings: &mut Settings| {
        settings.backend.listen = format!("https://{address}");
        settings.backend.gateway_tls = backend;
        settings.gateway.backend = format!("https://{address}");
        settings.gateway.backend_tls = gateway;
    };
    World::with(settings).start().await
}

/// How many have come to the backend that were not the gateway.
async fn strangers(world: &World) -> f64 {
    counted(world.backend_metrics, "memoric_backend_strangers_total").await
}

fn log_in(edge: &Edge) -> impl Future<Output = reqwest::Result<Response>> + use<> {
    let credentials = json!({"username": "alice", "password": "hunter2"});
    edge.ask(Method::POST, "/auth/login").json(&credentials).send()
}

/// Somebody in the backend's place, who keeps what they are told.
struct Impostor {
    address: SocketAddr,
    met: watch::Receiver<Met>,
    serving: JoinHandle<()>,
}

/// How many handshakes were begun, and what was said after them.
#[derive(Default)]
struct Met {
    shaken: usize,
    heard: Vec<u8>,
}

impl Impostor {
    async fn start(shown: &ChannelTls, version: &'static SupportedProtocolVersion) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (chain, key) = read(shown);
        let config = ServerConfig::builder_with_protocol_versions(&[version])
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (news, met) = watch::channel(Met::default());
        let serving = tokio::spawn(async move {
            let mut guests = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                guests.spawn(listen(acceptor.clone(), stream, news.clone()));
            }
        });
        Self { address, met, serving }
    }

    /// A gateway that takes it for its backend.
    async fn behind_a_gateway(&self, backend_tls: ChannelTls) -> Edge {
        let backend = format!("https://{}", self.address);
        Edge::with(|settings| {
            settings.gateway.backend = backend;
            settings.gateway.backend_tls = backend_tls;
        })
        .await
    }

    fn heard(&self) -> String {
        String::from_utf8_lossy(&self.met.borrow().heard).into_owned()
    }

    async fn wait_until(&self, what: &str, is_so: impl FnMut(&Met) -> bool) {
        let mut met = self.met.clone();
        let waited = timeout(Duration::from_secs(20), met.wait_for(is_so)).await;
        assert!(waited.is_ok(), "{what}");
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn listen(acceptor: TlsAcceptor, stream: TcpStream, news: watch::Sender<Met>) {
    let shaken = acceptor.accept(stream).await;
    news.send_modify(|met| met.shaken += 1);
    let Ok(mut stream) = shaken else { return };
    let mut said = Vec::new();
    while stream.read_buf(&mut said).await.is_ok_and(|bytes| bytes > 0) {
        news.send_modify(|met| met.heard.append(&mut said));
    }
}

fn read(shown: &ChannelTls) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let (certificate, key) = (shown.certificate.as_ref().unwrap(), shown.key.as_ref().unwrap());
    (pem::certificates(certificate).unwrap(), pem::private_key(key).unwrap())
}

/// An authority, and the certificates that it has signed.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        Self { folder, issuer }
    }

    /// The end of the channel called `own`, which expects the one called `other`.
    fn end(&self, own: &str, other: &str) -> ChannelTls {
        let file = |name: String| self.folder.path().join(name);
        let (certificate, key) = (file(format!("{own}.pem")), file(format!("{own}.key")));
        let pair = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([own.to_owned()]).expect("a name");
        let signed = params.signed_by(&pair, &self.issuer).expect("a certificate");
        std::fs::write(&certificate, signed.pem()).expect("written");
        std::fs::write(&key, pair.serialize_pem()).expect("written");
        ChannelTls {
            certificate: Some(certificate),
            key: Some(key),
            ca: Some(file("ca.pem".to_owned())),
            name: Some(other.to_owned()),
        }
    }
}
