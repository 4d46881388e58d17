//! A Redis of a test's own, to be stopped, killed and started anew.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use redis::{Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _, TlsCertificates};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{Program, Started, binary::free_address, world::write_certificate};

/// One process of Redis. It is killed when this is dropped.
pub struct Redis {
    recipe: RedisRecipe,
    process: Started,
}

/// How a Redis is started. It begins empty each time.
pub struct RedisRecipe {
    folder: TempDir,
    port: Option<u16>,
    is_tls: bool,
    arguments: Vec<String>,
    /// Whom the test is, and with which password.
    admin: Option<(String, String)>,
}

impl RedisRecipe {
    /// By a socket file, and by no port.
    pub fn on_a_socket() -> Self {
        let recipe = Self::new(None);
        let socket = recipe.folder.path().join("redis.sock").display().to_string();
        recipe.with(&["--port", "0", "--unixsocket", &socket])
    }

    /// By a port of loopback, in clear.
    pub fn on_a_port() -> Self {
        let port = free_address().port();
        Self::new(Some(port)).with(&["--port", &port.to_string(), "--bind", "127.0.0.1"])
    }

    /// By a port of loopback, by TLS alone, with the certificate of `shown`, in which it believes too.
    pub fn by_tls(shown: &Path) -> Self {
        let port = free_address().port();
        let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| path(shown, name));
        Self { is_tls: true, ..Self::new(Some(port)) }
            .with(&["--port", "0", "--tls-port", &port.to_string(), "--bind", "127.0.0.1"])
            .with(&["--tls-cert-file", &certificate, "--tls-key-file", &key])
            .with(&["--tls-ca-cert-file", &certificate, "--tls-replication", "yes"])
    }

    /// Adds arguments.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Makes it a sentinel with the configuration of `lines`, on the port that it has.
    #[must_use]
    pub fn sentinel(mut self, lines: &str) -> Self {
        let file = self.folder.path().join("sentinel.conf");
        std::fs::write(&file, lines).expect("the folder is ours");
        let rest = std::mem::take(&mut self.arguments);
        self.arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        self.arguments.extend(rest);
        self
    }

    /// Says who the test is to it.
    #[must_use]
    pub fn administered_by(mut self, user: &str, password: &str) -> Self {
        self.admin = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port.expect("it has a port")
    }

    /// Where it will be.
    pub fn url(&self) -> String {
        match (self.port, self.is_tls) {
            (Some(port), true) => format!("rediss://127.0.0.1:{port}"),
            (Some(port), false) => format!("redis://127.0.0.1:{port}"),
            (None, _) => format!("redis+unix://{}", path(self.folder.path(), "redis.sock")),
        }
    }

    /// Starts it, and waits until it answers.
    pub async fn start(self) -> Redis {
        let redis = Redis { process: self.launch(), recipe: self };
        redis.wait().await;
        redis
    }

    fn new(port: Option<u16>) -> Self {
        let folder = tempfile::Builder::new().prefix("redis-").tempdir_in("/tmp");
        let folder = folder.expect("a folder");
        Self { folder, port, is_tls: false, arguments: Vec::new(), admin: None }
    }

    fn launch(&self) -> Started {
        let folder = self.folder.path().display().to_string();
        let arguments = self.arguments.iter().map(String::as_str);
        Program::named("redis-server").args(arguments).args(["--dir", &folder]).start()
    }
}

impl Redis {
    /// Where it is.
    pub fn url(&self) -> String {
        self.recipe.url()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.recipe.port()
    }

    /// What it answers.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// What it answers, if it does.
    pub async fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.client()?.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    /// Keeps it from doing anything: it is there, and does not answer.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on where it stopped.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it anew. It knows nothing of before.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = self.recipe.launch();
        self.wait().await;
    }

    async fn wait(&self) {
        let began = Instant::now();
        while let Err(error) = self.try_ask::<redis::Value>(&["PING"]).await {
            let said = self.process.stdout();
            assert!(began.elapsed() < Duration::from_secs(60), "{error}: {said}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn client(&self) -> redis::RedisResult<Client> {
        let mut info = self.url().into_connection_info()?;
        if let Some((user, password)) = &self.recipe.admin {
            let settings = info.redis_settings().clone();
            info = info.set_redis_settings(settings.set_username(user).set_password(password));
        }
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Client::open(info);
        }
        let at = |flag: &str| self.recipe.arguments.iter().skip_while(|word| *word != flag).nth(1);
        let file = |flag| std::fs::read(at(flag).expect("TLS has files")).expect("they are there");
        let [client_cert, client_key] = ["--tls-cert-file", "--tls-key-file"].map(file);
        let root_cert = Some(client_cert.clone());
        let client_tls = Some(redis::ClientTlsConfig { client_cert, client_key });
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
    }
}

/// A folder with a certificate for this machine and its key, as `certificate.pem` and `key.pem`.
pub fn certificate() -> TempDir {
    let folder = tempfile::Builder::new().prefix("tls-").tempdir_in("/tmp").expect("a folder");
    write_certificate(folder.path());
    folder
}

fn path(folder: &Path, name: &str) -> String {
    let file: PathBuf = folder.join(name);
    file.display().to_string()
}
