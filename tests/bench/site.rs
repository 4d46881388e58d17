//! Memoric as people run it, on a PostgreSQL that keeps what it is told.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use harness::{PASSWORD, Person, Program, Recipe, Servers, Started, free_address};
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};

use crate::table::{Goal, Table};

/// Memoric's two processes and what they stand on.
pub struct Site {
    /// PostgreSQL and Redis.
    pub servers: Servers,
    /// The database's name.
    pub database: String,
    /// Where clients connect by TLS.
    pub https: SocketAddr,
    /// The vault.
    pub backend: Started,
    /// The edge in front of it.
    pub gateway: Started,
    /// A client that trusts the certificate.
    pub client: Client,
    recipe: Recipe,
}

/// A gateway with one worker, in front of an origin that costs nothing.
pub struct Edge {
    /// The process.
    pub gateway: Started,
    /// Where clients connect by TLS.
    pub https: SocketAddr,
}

impl Site {
    /// Starts everything, and notes in `table` how long that took and how large it is.
    pub async fn start(table: &mut Table) -> Self {
        let servers = Servers::durable().await;
        let database = servers.database().await;
        let recipe = Recipe::on(&servers, database.clone()).unlimited();
        let recipe = recipe.set("MEMORIC_AUTH__REGISTRATION", "open");
        let address = |name| recipe.value(name).parse::<SocketAddr>().expect("an address");
        let (http, https) = (address("MEMORIC_HTTP"), address("MEMORIC_HTTPS"));
        let client = client(&recipe);

        let health = format!("http://{}/health", address("MEMORIC_BACKEND_METRICS"));
        let began = Instant::now();
        let backend = recipe.program("memoric-backend").args(["serve"]).start();
        let backend = wait_for(&client, &health, StatusCode::OK, backend).await;
        let backend_took = began.elapsed();
        let began = Instant::now();
        let gateway = recipe.program("memoric-gateway").args(["serve"]).start();
        let ready = format!("http://{http}/ready");
        let gateway = wait_for(&client, &ready, StatusCode::OK, gateway).await;
        let gateway_took = began.elapsed();

        sleep(REST);
        for (who, program, took, most) in
            [("gateway", &gateway, gateway_took, 30.0), ("backend", &backend, backend_took, 40.0)]
        {
            let size = program.resident();
            table.number("start to ready", who, took.as_secs_f64(), "s", Goal::AtMost(1.0));
            table.number("resident, idle after the start", who, size, "MiB", Goal::AtMost(most));
        }
        Self { servers, database, https, backend, gateway, client, recipe }
    }

    /// A folder that goes with it.
    pub fn folder(&self) -> &Path {
        self.recipe.folder()
    }

    /// PEM files of the certificate that everybody shows, and of its key.
    pub fn certificate(&self) -> [PathBuf; 2] {
        ["certificate.pem", "key.pem"].map(|name| self.folder().join(name))
    }

    /// The socket of the backend.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("backend.sock")
    }

    /// Someone new, with a token.
    pub async fn register(&self, name: &str) -> Person {
        let email = format!("{name}@example.com");
        let account = json!({"username": name, "email": email, "password": PASSWORD});
        self.post("/auth/register", None, &account).await;
        self.log_in(name).await
    }

    /// The same with another token.
    pub async fn log_in(&self, name: &str) -> Person {
        let credentials = json!({"username": name, "password": PASSWORD});
        let answer = self.post("/auth/login", None, &credentials).await;
        Person {
            id: answer["user"]["id"].as_i64().expect("a user"),
            name: name.to_owned(),
            token: answer["access_token"].as_str().expect("a token").to_owned(),
        }
    }

    /// Posts `body`, and returns the answer, which has to be a good one.
    pub async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Value {
        let mut request = self.client.post(format!("https://{}{path}", self.https)).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.expect("the gateway answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }

    /// Another gateway with one worker in front of `origin`, that lets everybody ask as often as
    /// they like, or else nobody.
    pub async fn edge(&self, origin: &Path, lets_in: bool) -> Edge {
        let [http, https, metrics] = [(); 3].map(|()| free_address());
        let spool = self.folder().join(format!("spool-{}", https.port()));
        let mut program = self
            .recipe
            .program("memoric-gateway")
            .args(["serve"])
            .env("MEMORIC_GATEWAY__BACKEND", format!("unix:{}", origin.display()))
            .env("MEMORIC_GATEWAY__THREADS", "1")
            .env("MEMORIC_AUDIT__SPOOL__FOLDER", spool)
            .env("MEMORIC_HTTP", http.to_string())
            .env("MEMORIC_HTTPS", https.to_string())
            .env("MEMORIC_GATEWAY_METRICS", metrics.to_string());
        let (url, status) = if lets_in {
            (format!("http://{http}/ready"), StatusCode::OK)
        } else {
            program = program
                .env("MEMORIC_GATEWAY__LIMITS__ADDRESS__PER_SECOND", "0.0001")
                .env("MEMORIC_GATEWAY__LIMITS__ADDRESS__BURST", "1");
            (format!("https://{https}/memories"), StatusCode::TOO_MANY_REQUESTS)
        };
        let gateway = wait_for(&self.client, &url, status, listened_to(program)).await;
        Edge { gateway, https }
    }
}

/// Waits until `url` answers with `status`.
pub async fn wait_for(
    client: &Client,
    url: &str,
    status: StatusCode,
    mut program: Started,
) -> Started {
    let began = Instant::now();
    loop {
        match client.get(url).send().await {
            Ok(answer) if answer.status() == status => return program,
            answer => {
                let (runs, told) = (program.is_running(), program.stderr());
                let goes_on = runs && began.elapsed() < PATIENCE;
                assert!(goes_on, "{url}: {:?} {told}", answer.map(|answer| answer.status()));
            }
        }
        sleep(Duration::from_millis(1));
    }
}

/// Starts `program` with somebody at the other end of its output, as where a service writes its
/// log to a collector; in a file it would fill the disk.
fn listened_to(program: Program) -> Started {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    std::thread::spawn(move || drop(std::io::copy(&mut reader, &mut std::io::sink())));
    program.output(writer).start()
}

fn client(recipe: &Recipe) -> Client {
    let pem = std::fs::read(recipe.folder().join("certificate.pem")).expect("just written");
    let root = Certificate::from_pem(&pem).expect("just made");
    Client::builder().tls_certs_only([root]).http1_only().build().expect("a client")
}

/// How long a program may take to its first answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a program is left alone before its size is taken.
const REST: Duration = Duration::from_secs(2);
