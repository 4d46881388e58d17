//! One test's own Memoric.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use memoric_backend::Backend;
use memoric_config::{Environment, Settings};
use memoric_contract::AssertionKey;
use memoric_gateway::Gateway;
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_postgres::Client as Session;

use crate::{PASSWORD, Person, servers::DATABASE_PASSWORD, servers::Servers};

/// A gateway and a backend, both running in this process, and a database of their own.
pub struct World {
    /// The database's name.
    pub database: String,
    /// Where clients connect in clear.
    pub http: SocketAddr,
    /// Where clients connect by TLS.
    pub https: SocketAddr,
    /// Where Prometheus finds the gateway.
    pub gateway_metrics: SocketAddr,
    /// Where Prometheus finds the backend.
    pub backend_metrics: SocketAddr,
    /// The backend's socket.
    pub backend: PathBuf,
    /// The certificate, as a PEM file.
    pub certificate: PathBuf,
    /// A client that trusts the certificate.
    pub client: Client,
    gateway: Option<Process>,
    vault: Option<Process>,
    settings: Settings,
    variables: Vec<(String, String)>,
    folder: TempDir,
}

/// One more gateway of a [`World`].
pub struct Door {
    /// Where clients connect by TLS.
    pub https: SocketAddr,
    client: Client,
    _gateway: Process,
    _folder: TempDir,
}

/// What a test wants to be otherwise.
pub struct WorldBuilder {
    change: Box<dyn FnOnce(&mut Settings) + Send>,
    variables: Vec<(String, String)>,
    database: Option<String>,
}

pub(crate) struct Process {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

/// The secret that tokens are signed with.
pub const JWT_SECRET: &str = "5f1c9a7d3e8b2046c1d9e7f8a0b3c5d2e4f6a8b0c2d4e6f81a3b5c7d9e0f2a4b";

/// The secret of the channel, in hex.
pub const ASSERTION_SECRET: &str =
    "8d3f6a1c5e7b9024d6f8a0b2c4e6d8f1a3b5c7e9d1f3a5b7c9e0d2f4a6b8c0d3";

/// What API keys are told from guesses by, in hex.
pub const CHECK_SECRET: &str = "1b4e7a0d3c6f9258e1f4a7d0c3b6e9f2a5d8c1b4e7f0a3d6c9b2e5f8d1a4c7b0";

/// The key-encryption key, as the guide makes it.
pub const ENCRYPTION_KEY: &str = "mUGZpEL9Ywx4nS0bDqvtR2kHfJ7cXoWi3eTgA6VlB8s=";

/// The key that gateways of tests sign their assertions with.
pub fn assertion_key() -> AssertionKey {
    let secret = hex::decode(ASSERTION_SECRET).expect("hex").try_into().expect("32 bytes");
    AssertionKey::new(secret)
}

/// A port that the system chooses.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl World {
    /// Starts everything as it comes, with open registration.
    pub async fn start() -> Self {
        Self::with(|_| {}).start().await
    }

    /// Starts everything with other settings.
    pub fn with(change: impl FnOnce(&mut Settings) + Send + 'static) -> WorldBuilder {
        WorldBuilder { change: Box::new(change), variables: Vec::new(), database: None }
    }

    /// A request to the gateway from nobody in particular, by TLS.
    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("https://localhost:{}{path}", self.https.port()))
    }

    /// A request to the gateway from `person`.
    pub fn ask_as(&self, person: &Person, method: Method, path: &str) -> RequestBuilder {
        self.ask(method, path).bearer_auth(&person.token)
    }

    /// Someone new, with a password and a token.
    pub async fn register(&self, name: &str) -> Person {
        let account =
            json!({"username": name, "email": format!("{name}@example.com"), "password": PASSWORD});
        let answer = self
            .ask(Method::POST, "/auth/register")
            .json(&account)
            .send()
            .await
            .expect("the gateway answers");
        assert_eq!(
            answer.status(),
            StatusCode::CREATED,
            "{}",
            answer.text().await.unwrap_or_default()
        );
        self.log_in(name).await
    }

    /// Someone new with other roles, given by an operator.
    pub async fn person_with(&self, name: &str, roles: &[&str]) -> Person {
        let person = self.register(name).await;
        let superuser = self.superuser().await;
        let roles: Vec<_> = roles.iter().map(|role| (*role).to_owned()).collect();
        let change = "UPDATE memoric.users SET roles = $2 WHERE id = $1";
        assert_eq!(
            superuser.execute(change, &[&person.id, &roles]).await.expect("the table is there"),
            1
        );
        self.log_in(name).await
    }

    /// Logs `name` in.
    pub async fn log_in(&self, name: &str) -> Person {
        Person::let_in(name, self.try_log_in(name, PASSWORD).await).await
    }

    /// Tries to log in.
    pub async fn try_log_in(&self, name: &str, password: &str) -> Response {
        let credentials = json!({"username": name, "password": password});
        self.ask(Method::POST, "/auth/login")
            .json(&credentials)
            .send()
            .await
            .expect("the gateway answers")
    }

    /// Stores a memory for `person`, and returns its id.
    pub async fn remember(&self, person: &Person, memory: Value) -> i64 {
        let answer = self
            .ask_as(person, Method::POST, "/memories")
            .json(&memory)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap_or_default());
        answer.json::<Value>().await.expect("JSON")["id"].as_i64().expect("an id")
    }

    /// What `person` remembers.
    pub async fn recall(&self, person: &Person) -> Vec<Value> {
        let answer = self
            .ask_as(person, Method::GET, "/memories?top_k=1000")
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap_or_default());
        answer.json().await.expect("JSON")
    }

    /// The contents of what `person` remembers.
    pub async fn contents(&self, person: &Person) -> Vec<String> {
        let content = |memory: Value| memory["content"].as_str().expect("a content").to_owned();
        self.recall(person).await.into_iter().map(content).collect()
    }

    /// A superuser's session in this database, for what only a test may do.
    pub async fn superuser(&self) -> Session {
        Servers::get().await.superuser(&self.database).await
    }

    /// A session of `role` in this database.
    pub async fn session(&self, role: &str) -> Session {
        Servers::get().await.session(&self.database, role).await
    }

    /// Lets nobody but superusers into the database, or everybody again.
    pub async fn shut_database(&self, is_shut: bool) {
        let database = &self.database;
        let limit = if is_shut { 0 } else { -1 };
        let change = format!(
            "ALTER DATABASE {database} CONNECTION LIMIT {limit};
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '{database}' AND usename LIKE 'memoric%'"
        );
        self.superuser().await.batch_execute(&change).await.expect("a superuser may");
    }

    /// Another gateway in front of the same backend, with other settings.
    pub async fn door(&self, change: impl FnOnce(&mut Settings)) -> Door {
        let mut settings = self.settings.clone();
        let folder = tempfile::Builder::new().prefix("door-").tempdir_in("/tmp");
        let folder = folder.expect("a folder");
        settings.audit.spool.folder = folder.path().join("spool");
        change(&mut settings);
        let environment = environment(self.variables.clone());
        let config = memoric_gateway::Config::new(&settings, &environment).expect("the settings");
        let gateway = Gateway::bind(config).await.expect("the gateway starts");
        Door {
            https: gateway.https_addr().expect("HTTPS is on"),
            client: self.client.clone(),
            _gateway: begin(|stop| gateway.run(stop)),
            _folder: folder,
        }
    }

    /// A folder that goes with this world.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Tells the gateway to stop, and waits until it has.
    pub async fn stop_gateway(&mut self) {
        end(self.gateway.take()).await;
    }

    /// Tells the backend to stop, and waits until it has.
    pub async fn stop_backend(&mut self) {
        end(self.vault.take()).await;
    }
}

impl WorldBuilder {
    /// Sets a variable of both processes.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uses a database that exists.
    #[must_use]
    pub fn on(mut self, database: &str) -> Self {
        self.database = Some(database.to_owned());
        self
    }

    /// Starts everything and waits for nothing: every address is taken already.
    pub async fn start(self) -> World {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder =
            tempfile::Builder::new().prefix("world-").tempdir_in("/tmp").expect("a folder");
        let servers = Servers::get().await;
        let database = match self.database {
            Some(database) => database,
            None => servers.database().await,
        };
        let (mut settings, root) = settings(servers, &database, &folder);
        (self.change)(&mut settings);
        let environment = environment(self.variables.clone());

        let vault =
            memoric_backend::Config::new(&settings, &environment).expect("the backend's settings");
        let vault = Backend::bind(vault).await.expect("the backend starts");
        let gateway =
            memoric_gateway::Config::new(&settings, &environment).expect("the gateway's settings");
        let gateway = Gateway::bind(gateway).await.expect("the gateway starts");

        World {
            http: gateway.http_addr().expect("HTTP is on"),
            https: gateway.https_addr().expect("HTTPS is on"),
            gateway_metrics: gateway.metrics_addr().expect("metrics are on"),
            backend_metrics: vault.metrics_addr().expect("metrics are on"),
            backend: folder.path().join("backend.sock"),
            certificate: folder.path().join("certificate.pem"),
            client: Client::builder().tls_certs_only([root]).build().expect("a client"),
            vault: Some(begin(|stop| vault.run(stop))),
            gateway: Some(begin(|stop| gateway.run(stop))),
            database,
            settings,
            variables: self.variables,
            folder,
        }
    }
}

impl Door {
    /// A request to this gateway from `person`, by TLS.
    pub fn ask_as(&self, person: &Person, method: Method, path: &str) -> RequestBuilder {
        let url = format!("https://localhost:{}{path}", self.https.port());
        self.client.request(method, url).bearer_auth(&person.token)
    }
}

fn settings(servers: &Servers, database: &str, folder: &TempDir) -> (Settings, Certificate) {
    let mut settings = servers.settings(database);
    let root = equip(&mut settings, folder.path());
    settings.auth.registration = memoric_config::schema::Registration::Open;
    settings.backend.listen = settings.gateway.backend.clone();
    settings.backend.metrics = ANYWHERE;
    (settings, root)
}

/// Gives a gateway ports, a certificate and the way to a backend, all of them in `folder`, and
/// limits that no test runs into by accident.
pub(crate) fn equip(settings: &mut Settings, folder: &Path) -> Certificate {
    let root = Certificate::from_pem(write_certificate(folder).as_bytes()).expect("just made");
    settings.gateway.backend = format!("unix:{}", folder.join("backend.sock").display());
    settings.gateway.http = Some(ANYWHERE);
    settings.gateway.https = Some(ANYWHERE);
    settings.gateway.metrics = ANYWHERE;
    settings.gateway.threads = 1;
    settings.audit.spool.folder = folder.join("spool");
    settings.gateway.tls.certificate = Some(folder.join("certificate.pem"));
    settings.gateway.tls.key = Some(folder.join("key.pem"));
    for quota in [
        &mut settings.gateway.limits.address,
        &mut settings.gateway.limits.identity,
        &mut settings.gateway.limits.health,
        &mut settings.gateway.limits.credentials,
        &mut settings.gateway.limits.read,
        &mut settings.gateway.limits.write,
        &mut settings.gateway.limits.admin,
    ] {
        (quota.per_second, quota.burst) = (10_000.0, 10_000);
    }
    root
}

pub(crate) fn environment(variables: Vec<(String, String)>) -> Environment {
    let ours = [
        ("MEMORIC_JWT_SECRET", JWT_SECRET),
        ("MEMORIC_ASSERTION_KEY", ASSERTION_SECRET),
        ("MEMORIC_CHECK_KEY", CHECK_SECRET),
        ("MEMORIC_ENCRYPTION_KEY", ENCRYPTION_KEY),
        ("MEMORIC_DB_PASSWORD", DATABASE_PASSWORD),
    ];
    ours.into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .chain(variables)
        .collect()
}

/// Puts a new certificate for localhost, and its key, into `folder`. Returns the certificate as PEM.
pub(crate) fn write_certificate(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("a certificate");
    std::fs::write(folder.join("certificate.pem"), made.cert.pem()).expect("written");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
    made.cert.pem()
}

pub(crate) fn begin<R, F>(
    run: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> F,
) -> Process
where
    F: Future<Output = R> + Send + 'static,
{
    let (stop, stopped) = oneshot::channel();
    let running = run(Box::pin(async { drop(stopped.await) }));
    Process { stop, ended: tokio::spawn(async { drop(running.await) }) }
}

pub(crate) async fn end(process: Option<Process>) {
    let Some(process) = process else { return };
    drop(process.stop);
    process.ended.await.expect("it ended by itself");
}
