//! `make up`: one command, four processes, and nothing left of them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use harness::{Program, Started, checkout, free_address};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

/// One `make up`, with a folder and addresses of its own.
struct Up {
    run: Option<Started>,
    home: PathBuf,
    addresses: [String; 4],
    _folder: TempDir,
}

#[tokio::test]
async fn two_instances_run_side_by_side_and_keep_apart() {
    let (one, two) = tokio::join!(Up::start(), Up::start());
    let (alice, bob) = (one.register("alice").await, two.register("bob").await);

    one.remember(&alice, "of the first").await;
    two.remember(&bob, "of the second").await;

    assert_eq!(one.contents(&alice).await, ["of the first"]);
    assert_eq!(two.contents(&bob).await, ["of the second"]);
    assert_eq!(two.status(&alice).await, 401, "secrets are each instance's own");
    one.stop(Signal::INT);
    two.stop(Signal::TERM);
}

#[tokio::test]
async fn a_stopped_instance_leaves_no_process_and_starts_again_with_its_data() {
    let mut up = Up::start().await;
    assert!(up.said().contains("password "), "the first run shows an admin");
    let admin = up.admin_token().await;
    let alice = up.register("alice").await;
    up.remember(&alice, "kept").await;
    let running = up.processes();
    for program in ["memoric-gateway", "memoric-backend", "postgres", "redis-server"] {
        assert!(running.iter().any(|command| command.contains(program)), "{program}: {running:?}");
    }

    up.end(Signal::TERM);
    assert_eq!(up.processes(), [""; 0]);
    up.start_again().await;

    assert!(!up.said().contains("password "), "and only the first");
    assert_eq!(up.contents(&alice).await, ["kept"]);
    assert_eq!(up.status(&admin).await, 200);
    up.end(Signal::INT);
    assert_eq!(up.processes(), [""; 0]);
}

#[tokio::test]
async fn a_password_is_shown_only_for_an_admin_that_was_made() {
    let mut up = Up::start().await;
    up.end(Signal::TERM);
    // As if the first run had never told: the next one makes a password, and no admin.
    std::fs::remove_file(up.home.join("greeted")).unwrap();
    // Empty is nowhere: it is reached by HTTPS alone.
    up.addresses[0].clear();

    up.start_again().await;

    assert!(up.said().contains("user admin is there already"), "{}", up.said());
    assert!(!up.said().contains("  HTTP  ") && up.said().contains("  HTTPS "), "{}", up.said());
    assert!(!up.said().contains("password "), "{}", up.said());
    up.end(Signal::TERM);
}

#[tokio::test]
async fn a_run_that_was_killed_before_it_told_the_password_has_lost_none() {
    let mut up = Up::prepare();
    let mut run = up.launch();
    let migrated = up.home.join("log/migrate.log");
    let is_made =
        || std::fs::read_to_string(&migrated).is_ok_and(|log| log.contains("created admin"));
    let began = Instant::now();
    while !is_made() {
        assert!(run.is_running() && began.elapsed() < Duration::from_secs(120), "{}", run.stderr());
        sleep(Duration::from_millis(1)).await;
    }
    run.kill();
    assert!(!run.stdout().contains("password "), "it was killed too late");

    up.start_again().await;

    let admin = up.admin_token().await;
    assert_eq!(up.status(&admin).await, 200);
    up.end(Signal::TERM);
}

#[tokio::test]
async fn a_killed_run_is_recovered_by_the_next_one() {
    let mut up = Up::start().await;
    let alice = up.register("alice").await;
    up.remember(&alice, "kept").await;

    let killed = up.run.take().unwrap();
    killed.signal(Signal::KILL);
    killed.wait(Duration::from_secs(30));
    up.start_again().await;

    assert_eq!(up.contents(&alice).await, ["kept"]);
    up.end(Signal::TERM);
    assert_eq!(up.processes(), [""; 0]);
}

#[tokio::test]
async fn secrets_are_for_their_owner_alone_and_are_made_once() {
    let mut up = Up::start().await;
    let before = up.secrets();
    let modes: Vec<_> = before
        .lines()
        .filter(|line| line.starts_with(|char: char| char.is_ascii_digit()) && line.contains(' '))
        .collect();
    assert!(!modes.is_empty() && modes.iter().all(|line| line.starts_with("600 ")), "{modes:?}");

    up.end(Signal::TERM);
    up.start_again().await;

    assert_eq!(up.secrets(), before);
    up.end(Signal::TERM);
}

#[tokio::test]
async fn each_process_has_its_own_secrets_alone_and_clients_come_by_tls_as_the_readme_prints() {
    let mut up = Up::start().await;

    let (gateway, backend) = (up.variables("memoric-gateway"), up.variables("memoric-backend"));
    let has =
        |variables: &[String], name: &str| variables.iter().any(|each| each.starts_with(name));
    for name in ["MEMORIC_JWT_SECRET", "MEMORIC_ASSERTION_KEY", "MEMORIC_CHECK_KEY"] {
        assert!(has(&gateway, name) && has(&backend, name), "{name}: {gateway:?}");
    }
    for name in ["MEMORIC_ENCRYPTION_KEY", "MEMORIC_DB_PASSWORD"] {
        assert!(!has(&gateway, name) && has(&backend, name), "{name} opens what is stored");
    }
    for name in ["MEMORIC_DB_ADMIN_PASSWORD", "ADMIN_PASSWORD"] {
        assert!(!has(&gateway, name) && !has(&backend, name), "{name} is for who migrates");
    }

    let certificate = up.home.join("tls/localhost.pem").display().to_string();
    let port = up.addresses[1].rsplit_once(':').unwrap().1;
    let url = format!("https://localhost:{port}/ready");
    let curl = |trusted: &[&str]| {
        let arguments = ["-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
        Command::new("curl").args(trusted).args(arguments).output().unwrap()
    };
    assert_eq!(curl(&["--cacert", &certificate]).stdout, b"200");
    assert!(!curl(&[]).status.success(), "nobody else vouches for it");
    up.end(Signal::TERM);
}

#[tokio::test]
async fn a_taken_port_is_told_and_everything_is_stopped_again() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut up = Up::prepare();
    up.addresses[1] = taken.local_addr().unwrap().to_string();

    let output = up.launch().wait(Duration::from_secs(90));

    assert!(!output.status.success());
    let told = [output.stdout, output.stderr].concat();
    assert!(
        String::from_utf8_lossy(&told).contains(&up.addresses[1]),
        "{}",
        String::from_utf8_lossy(&told)
    );
    assert_eq!(up.processes(), [""; 0]);
}

impl Up {
    fn prepare() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("up-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let addresses = [(); 4].map(|()| free_address().to_string());
        Self { run: None, home: folder.path().join("home of one"), addresses, _folder: folder }
    }

    async fn start() -> Self {
        let mut up = Self::prepare();
        up.start_again().await;
        up
    }

    fn launch(&self) -> Started {
        let names =
            ["MEMORIC_HTTP", "MEMORIC_HTTPS", "MEMORIC_GATEWAY_METRICS", "MEMORIC_BACKEND_METRICS"];
        let program = Program::new(&checkout().join("deploy/up"))
            .env("MEMORIC_BINARIES", Program::folder())
            .env("MEMORIC_HOME", &self.home)
            .env("HOME", &self.home);
        names
            .into_iter()
            .zip(&self.addresses)
            .fold(program, |program, (name, address)| program.env(name, address))
            .start()
    }

    async fn start_again(&mut self) {
        let mut run = self.launch();
        let began = Instant::now();
        while !run.stdout().contains("ready; ") {
            let told = format!("{}{}", run.stdout(), run.stderr());
            assert!(run.is_running() && began.elapsed() < Duration::from_secs(90), "{told}");
            sleep(Duration::from_millis(50)).await;
        }
        self.run = Some(run);
    }

    fn said(&self) -> String {
        self.run.as_ref().map(Started::stdout).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) {
        let run = self.run.take().unwrap();
        run.signal(signal);
        let output = run.wait(Duration::from_secs(120));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn stop(mut self, signal: Signal) {
        self.end(signal);
        assert_eq!(self.processes(), [""; 0]);
    }

    /// Every secret and its mode.
    fn secrets(&self) -> String {
        let script = format!("cd '{}/secrets' && stat -c '%a %n' * && cat *", self.home.display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The environment of this instance's process of that `program`.
    fn variables(&self, program: &str) -> Vec<String> {
        let home = self.home.display().to_string();
        let told = |process: &Path, what| {
            let bytes = std::fs::read(process.join(what)).unwrap_or_default();
            let parts = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            parts.map(std::borrow::Cow::into_owned).collect::<Vec<_>>()
        };
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let is_it = |process: &PathBuf| {
            let command = told(process, "cmdline");
            command[0].ends_with(program) && command.iter().any(|word| word == "serve")
        };
        let ours = processes.map(|entry| entry.path()).filter(is_it);
        let mut environments = ours.map(|process| told(&process, "environ"));
        environments.find(|each| each.iter().any(|variable| variable.contains(&home))).unwrap()
    }

    /// Every process that works in this instance's folder or has it in its command line or environment.
    fn processes(&self) -> Vec<String> {
        let home = self.home.display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let read = |what| {
                let bytes = std::fs::read(entry.path().join(what)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let command = read("cmdline");
            let works_here = std::fs::read_link(entry.path().join("cwd"))
                .is_ok_and(|cwd| cwd.starts_with(Path::new(&home)));
            // Whoever is not root runs the two programs from where they were built.
            if command.contains(&home) || works_here || read("environ").contains(&home) {
                found.push(command);
            }
        }
        found
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses[0])
    }

    async fn admin_token(&self) -> String {
        let said = self.said();
        let password =
            said.split("password ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        self.log_in("admin", password).await
    }

    async fn register(&self, name: &str) -> String {
        let account = json!({"username": name, "email": format!("{name}@example.com"), "password": harness::PASSWORD});
        let answer = reqwest::Client::new()
            .post(self.url("/auth/register"))
            .json(&account)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "registration is open here");
        self.log_in(name, harness::PASSWORD).await
    }

    async fn log_in(&self, name: &str, password: &str) -> String {
        let login = json!({"username": name, "password": password});
        let answer =
            reqwest::Client::new().post(self.url("/auth/login")).json(&login).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    }

    async fn remember(&self, token: &str, content: &str) {
        let memory = json!({"content": content});
        let answer = reqwest::Client::new()
            .post(self.url("/memories"))
            .bearer_auth(token)
            .json(&memory)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    }

    async fn contents(&self, token: &str) -> Vec<String> {
        let answer = reqwest::Client::new()
            .get(self.url("/memories"))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        let memories: Vec<Value> = answer.json().await.unwrap();
        memories.iter().map(|memory| memory["content"].as_str().unwrap().to_owned()).collect()
    }

    async fn status(&self, token: &str) -> u16 {
        reqwest::Client::new()
            .get(self.url("/memories"))
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    }
}

impl Drop for Up {
    /// A test that failed leaves nothing running either.
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            run.signal(Signal::TERM);
            run.wait(Duration::from_secs(120));
        }
    }
}
