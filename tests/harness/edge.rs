//! A gateway with a raw origin behind it.

use std::{net::SocketAddr, path::PathBuf};

use memoric_config::Settings;
use memoric_contract::{
    Role,
    token::{Claims, ISSUER, TokenSigner},
};
use memoric_gateway::{Config, Gateway};
use reqwest::{Client, Method, RequestBuilder};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    JWT_SECRET, Origin, counted, now,
    world::{Process, begin, end, environment, equip},
};

/// A real gateway, and in the backend's place a socket that writes down what reaches it.
///
/// Nothing else runs: no database, no Redis. Whoever has a token of [`token`] is believed.
pub struct Edge {
    /// Where clients connect in clear.
    pub http: SocketAddr,
    /// Where clients connect by TLS.
    pub https: SocketAddr,
    /// Where Prometheus finds the gateway.
    pub metrics: SocketAddr,
    /// The certificate, as a PEM file.
    pub certificate: PathBuf,
    /// A client that trusts the certificate.
    pub client: Client,
    /// What is behind the gateway.
    pub origin: Origin,
    gateway: Option<Process>,
    folder: TempDir,
}

impl Edge {
    /// Starts both as they come.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts both with other settings.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("edge-").tempdir_in("/tmp").expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let mut settings = Settings::default();
        settings.redis.url = format!("redis+unix://{}", path("nobody.sock").display());
        let root = equip(&mut settings, folder.path());
        change(&mut settings);

        let origin = Origin::start(&path("backend.sock"));
        let config = Config::new(&settings, &environment(Vec::new())).expect("the settings");
        let gateway = Gateway::bind(config).await.expect("the gateway starts");
        Self {
            http: gateway.http_addr().expect("HTTP is on"),
            https: gateway.https_addr().expect("HTTPS is on"),
            metrics: gateway.metrics_addr().expect("metrics are on"),
            certificate: path("certificate.pem"),
            client: Client::builder().tls_certs_only([root]).build().expect("a client"),
            gateway: Some(begin(|stop| gateway.run(stop))),
            origin,
            folder,
        }
    }

    /// A request to the gateway from nobody in particular, by TLS.
    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("https://localhost:{}{path}", self.https.port()))
    }

    /// The value of one series of the gateway's metrics, 0 where it does not exist.
    pub async fn counted(&self, series: &str) -> f64 {
        counted(self.metrics, series).await
    }

    /// A folder that goes with this edge.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Tells the gateway to stop, and waits until it has.
    pub async fn stop_gateway(&mut self) {
        end(self.gateway.take()).await;
    }
}

/// An access token, good for an hour, of a user that no database need know.
pub fn token(user: i64, roles: &[Role]) -> String {
    let now = now();
    let claims = Claims {
        sub: user.to_string(),
        roles: roles.iter().copied().collect(),
        namespace: None,
        iat: now,
        exp: now + 3600,
        jti: Uuid::new_v4(),
        sid: Uuid::new_v4(),
        ctr: 0,
        generation: 1,
        iss: ISSUER.to_owned(),
        nbf: None,
        aud: None,
    };
    TokenSigner::hs256(JWT_SECRET.as_bytes()).sign(&claims).expect("a token")
}
