//! Both programs as people start them, on a database of their own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    ASSERTION_SECRET, CHECK_SECRET, ENCRYPTION_KEY, JWT_SECRET, Program, Started,
    binary::free_address,
    program,
    servers::{DATABASE_PASSWORD, Servers},
    world::write_certificate,
};

/// A backend and a gateway, running as processes.
pub struct Deployment {
    /// Where clients connect in clear.
    pub http: SocketAddr,
    /// Where clients connect by TLS.
    pub https: SocketAddr,
    /// The database's name.
    pub database: String,
    /// The backend's process.
    pub backend: Started,
    /// The gateway's process.
    pub gateway: Started,
    variables: Vec<(String, String)>,
    folder: TempDir,
}

/// What both programs are started with, before a test changes it.
pub struct Recipe {
    variables: Vec<(String, String)>,
    folder: TempDir,
    database: String,
}

impl Recipe {
    /// A database of its own, free addresses, good secrets.
    pub async fn new() -> Self {
        let servers = Servers::get().await;
        let database = servers.database().await;
        Self::on(servers, database)
    }

    /// The same on a database that is there.
    pub fn on(servers: &Servers, database: String) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder =
            tempfile::Builder::new().prefix("recipe-").tempdir_in("/tmp").expect("a folder");
        write_certificate(folder.path());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let socket = format!("unix:{}", path("backend.sock"));
        let variables = [
            ("MEMORIC_JWT_SECRET", JWT_SECRET.to_owned()),
            ("MEMORIC_ASSERTION_KEY", ASSERTION_SECRET.to_owned()),
            ("MEMORIC_CHECK_KEY", CHECK_SECRET.to_owned()),
            ("MEMORIC_ENCRYPTION_KEY", ENCRYPTION_KEY.to_owned()),
            ("MEMORIC_DB_PASSWORD", DATABASE_PASSWORD.to_owned()),
            ("MEMORIC_DATABASE__HOST", servers.postgres().display().to_string()),
            ("MEMORIC_DATABASE__NAME", database.clone()),
            ("MEMORIC_REDIS__URL", servers.redis()),
            ("MEMORIC_REDIS__PREFIX", format!("{database}:")),
            ("MEMORIC_BACKEND__LISTEN", socket.clone()),
            ("MEMORIC_GATEWAY__BACKEND", socket),
            ("MEMORIC_AUDIT__SPOOL__FOLDER", path("spool")),
            ("MEMORIC_GATEWAY__TLS__CERTIFICATE", path("certificate.pem")),
            ("MEMORIC_GATEWAY__TLS__KEY", path("key.pem")),
            ("MEMORIC_HTTP", free_address().to_string()),
            ("MEMORIC_HTTPS", free_address().to_string()),
            ("MEMORIC_GATEWAY_METRICS", free_address().to_string()),
            ("MEMORIC_BACKEND_METRICS", free_address().to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { variables, folder, database }
    }

    /// Sets one variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self = self.unset(name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lifts every limit of how often somebody may ask beyond what a test reaches.
    #[must_use]
    pub fn unlimited(self) -> Self {
        let quotas = ["ADDRESS", "IDENTITY", "HEALTH", "CREDENTIALS", "READ", "WRITE", "ADMIN"];
        quotas.into_iter().fold(self, |recipe, whose| {
            recipe
                .set(&format!("MEMORIC_GATEWAY__LIMITS__{whose}__PER_SECOND"), "1000000")
                .set(&format!("MEMORIC_GATEWAY__LIMITS__{whose}__BURST"), "1000000")
        })
    }

    /// Takes one variable away.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// The value of one variable.
    pub fn value(&self, name: &str) -> &str {
        value(&self.variables, name)
    }

    /// A folder that goes with the recipe.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One of the programs, with these variables.
    pub fn program(&self, name: &str) -> Program {
        with(program(name), &self.variables)
    }

    /// Starts both and waits until they are ready.
    pub async fn start(self) -> Deployment {
        let backend = self.program("memoric-backend").args(["serve"]).start();
        let gateway = self.program("memoric-gateway").args(["serve"]).start();
        let address = |name| self.value(name).parse().expect("an address");
        let deployment = Deployment {
            http: address("MEMORIC_HTTP"),
            https: address("MEMORIC_HTTPS"),
            database: self.database,
            variables: self.variables,
            folder: self.folder,
            backend,
            gateway,
        };
        deployment.wait_until_ready().await
    }
}

impl Deployment {
    /// One of the programs, with the variables of this deployment.
    pub fn program(&self, name: &str) -> Program {
        with(program(name), &self.variables)
    }

    /// A folder that goes with this deployment.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The value of one variable.
    pub fn value(&self, name: &str) -> &str {
        value(&self.variables, name)
    }

    /// Ends the gateway as a crash would.
    pub fn kill_gateway(&mut self) {
        self.gateway.kill();
    }

    /// Ends the backend as a crash would.
    pub fn kill_backend(&mut self) {
        self.backend.kill();
    }

    /// Starts whatever does not run, and waits for nothing.
    pub fn revive(&mut self) {
        if !self.backend.is_running() {
            self.backend = self.program("memoric-backend").args(["serve"]).start();
        }
        if !self.gateway.is_running() {
            self.gateway = self.program("memoric-gateway").args(["serve"]).start();
        }
    }

    /// Waits until both are ready.
    pub async fn wait_until_ready(mut self) -> Self {
        let began = Instant::now();
        let url = format!("http://{}/ready", self.http);
        while !reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            let (backend, gateway) = (self.backend.is_running(), self.gateway.is_running());
            let told = format!("{}{}", self.backend.stderr(), self.gateway.stderr());
            assert!(
                backend && gateway && began.elapsed() < Duration::from_secs(60),
                "not ready: {told}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self
    }
}

fn value<'a>(variables: &'a [(String, String)], name: &str) -> &'a str {
    let (_, value) = variables.iter().find(|(known, _)| known == name).expect("it is set");
    value
}

fn with(program: Program, variables: &[(String, String)]) -> Program {
    variables.iter().fold(program, |program, (name, value)| program.env(name, value))
}
