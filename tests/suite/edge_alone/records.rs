//! Without a backend: programs as people start them, what they refuse, and what they leave on the disk.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Output,
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{
    JWT_SECRET, Program, Redis, RedisRecipe, Started, free_address, program, token, until,
};
use memoric_contract::Role;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{Service, alone::lasting};

#[tokio::test]
async fn every_answer_has_its_line_on_the_disk_however_often_the_gateway_is_killed() {
    let (service, redis) = (Service::start(), lasting().start().await);
    let site = Site::new(&service, &redis);
    let mut gateway = site.serve().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let asking: Vec<_> = [Role::User, Role::Readonly]
        .map(|role| tokio::spawn(ask_on(site.http, token(7, &[role]), Arc::clone(&told))))
        .into();

    for round in 0..10 {
        let before = told.lock().unwrap().len();
        until("more is answered", async || told.lock().unwrap().len() > before + 5).await;
        sleep(Duration::from_millis(17 * round)).await;
        gateway.kill();
        gateway = site.serve().await;
    }
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    let told = std::mem::take(&mut *told.lock().unwrap());

    until("all is in the archive", async || {
        let lines = site.lines();
        told.iter().all(|(id, _)| lines.iter().any(|line| line["request"] == **id))
    })
    .await;
    let mut known = HashMap::<String, Vec<Value>>::new();
    for line in site.lines() {
        known.entry(line["id"].as_str().unwrap().to_owned()).or_default().push(line);
    }
    let answers: HashMap<_, _> = told.into_iter().collect();
    for (id, lines) in known {
        assert!(lines.iter().all(|line| *line == lines[0]), "{id}: at most the same again");
        let Some(status) = answers.get(lines[0]["request"].as_str().unwrap()) else { continue };
        assert_eq!(lines[0]["status"], status.as_u16(), "{lines:?}");
        assert_eq!(
            (&lines[0]["user"], &lines[0]["metadata"]["route"]),
            (&7.into(), &"/tools".into())
        );
    }
    assert!(answers.values().any(|status| *status == StatusCode::OK));
    assert!(answers.values().any(|status| *status == StatusCode::FORBIDDEN));
    for file in site.files() {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_redis_that_may_forget_and_a_folder_that_is_none_are_refused_and_named() {
    let service = Service::start();
    let evicting = lasting().with(&["--maxmemory-policy", "allkeys-lru"]);
    let fleeting = RedisRecipe::on_a_socket().with(&["--save", "", "--appendonly", "no"]);
    for (recipe, fault) in [(evicting, "allkeys-lru"), (fleeting, "appendonly")] {
        let redis = recipe.start().await;
        let site = Site::new(&service, &redis);

        for command in ["check", "serve"] {
            let refused = site.program().args([command]).run();

            assert_eq!(refused.status.code(), Some(1), "{command}: {}", said(&refused));
            let line = said(&refused);
            let line = line.lines().find(|line| line.contains("redis.url: "));
            assert!(line.is_some_and(|line| line.contains(fault)), "{command}: {}", said(&refused));
        }
    }
    let redis = lasting().start().await;
    let site = Site::new(&service, &redis);
    let elsewhere = ["check", "--set", "audit.archive=/dev/null/archive"];
    let refused = site.program().args(elsewhere).run();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    let named = "archive: audit.archive: /dev/null/archive cannot be used";
    assert!(said(&refused).contains(named), "{}", said(&refused));
    let checked = site.program().args(["check"]).run();
    assert!(checked.status.success(), "{}", said(&checked));
    assert!(said(&checked).contains("/tools"), "{}", said(&checked));
}

#[tokio::test]
async fn a_redis_that_is_not_there_fails_the_check_and_keeps_a_gateway_from_being_ready() {
    let (service, mut redis) = (Service::start(), lasting().start().await);
    let site = Site::new(&service, &redis);
    redis.kill();

    let checked = site.program().args(["check"]).run();
    assert_eq!(checked.status.code(), Some(1), "{}", said(&checked));
    assert!(said(&checked).contains("redis: redis.url: "), "{}", said(&checked));

    let _gateway = site.program().args(["serve"]).start();
    until("it answers", async || site.status("/health", "").await == Some(200)).await;
    assert_eq!(site.status("/ready", "").await, Some(503));
    let token = token(7, &[Role::User]);
    assert_eq!(site.status("/tools", &token).await, Some(503));
    redis.restart().await;
    until("it is ready", async || site.status("/ready", "").await == Some(200)).await;
    assert_eq!(site.status("/tools", &token).await, Some(200));
}

#[tokio::test]
async fn what_needs_a_backend_is_refused_by_name() {
    let (service, redis) = (Service::start(), lasting().start().await);
    let site = Site::new(&service, &redis);
    for (set, field) in [
        ("auth.legacy_tokens=2099-01-31", "auth.legacy_tokens"),
        ("gateway.backend=nobody", "gateway.backend"),
        ("gateway.bounds.body_bytes=1024", "gateway.routes[0].body_bytes"),
        ("audit.archive=/dev/null/archive", "audit.archive"),
    ] {
        let refused = site.program().args(["serve", "--set", set]).run();
        assert_eq!(refused.status.code(), Some(1), "{set}: {}", said(&refused));
        assert!(said(&refused).contains(&format!("{field}: ")), "{set}: {}", said(&refused));
        assert_eq!(String::from_utf8_lossy(&refused.stderr).lines().count(), 1, "{set}");
    }
    fs::write(site.folder.path().join("memoric.yaml"), "gateway:\n  backend: none\n").unwrap();
    let refused = site.program().args(["check"]).run();
    assert!(said(&refused).contains("gateway.routes"), "{}", said(&refused));
    assert_eq!(refused.status.code(), Some(1));
}

/// What a gateway without a backend is started with.
struct Site {
    http: SocketAddr,
    variables: Vec<(&'static str, String)>,
    folder: TempDir,
}

impl Site {
    fn new(service: &Service, redis: &Redis) -> Self {
        let folder = tempfile::Builder::new().prefix("alone-").tempdir_in("/tmp").unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let settings = format!(
            "gateway:\n  backend: none\n  routes:\n    - path: /tools\n      upstream: unix:{}\n      \
             methods: [GET, POST]\n      roles: [user]\n      body_bytes: 2048\n",
            service.socket.display()
        );
        fs::write(path("memoric.yaml"), settings).unwrap();
        let http = free_address();
        let variables = vec![
            ("MEMORIC_CONFIG", path("memoric.yaml")),
            ("MEMORIC_JWT_SECRET", JWT_SECRET.to_owned()),
            ("MEMORIC_REDIS__URL", redis.url()),
            ("MEMORIC_AUDIT__SPOOL__FOLDER", path("spool")),
            ("MEMORIC_AUDIT__ARCHIVE", path("archive")),
            ("MEMORIC_HTTP", http.to_string()),
            ("MEMORIC_GATEWAY_METRICS", free_address().to_string()),
        ];
        Self { http, variables, folder }
    }

    fn program(&self) -> Program {
        let gateway = program("memoric-gateway");
        self.variables.iter().fold(gateway, |program, (name, value)| program.env(name, value))
    }

    /// Starts it, and waits until it is ready.
    async fn serve(&self) -> Started {
        let gateway = self.program().args(["serve"]).start();
        until("it is ready", async || self.status("/ready", "").await == Some(200)).await;
        gateway
    }

    async fn status(&self, path: &str, token: &str) -> Option<u16> {
        let asked = Client::new().get(format!("http://{}{path}", self.http)).bearer_auth(token);
        Some(asked.send().await.ok()?.status().as_u16())
    }

    /// The files of the archive.
    fn files(&self) -> Vec<std::path::PathBuf> {
        let files = fs::read_dir(self.folder.path().join("archive")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|name| name == "jsonl")).collect()
    }

    /// Every whole line of them.
    fn lines(&self) -> Vec<Value> {
        let lines = |file: &Path| {
            let text = fs::read_to_string(file).unwrap();
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            let lines = text[..whole].lines().map(|line| serde_json::from_str(line).unwrap());
            lines.collect::<Vec<Value>>()
        };
        self.files().iter().flat_map(|file| lines(file)).collect()
    }
}

/// Asks and asks, and tells under which id it was answered how.
async fn ask_on(http: SocketAddr, token: String, told: Arc<Mutex<Vec<(String, StatusCode)>>>) {
    let client = Client::new();
    loop {
        let asked = client.get(format!("http://{http}/tools/x")).bearer_auth(&token);
        if let Ok(answer) = asked.send().await {
            let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
            if [StatusCode::OK, StatusCode::FORBIDDEN].contains(&answer.status()) {
                told.lock().unwrap().push((id, answer.status()));
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    format!("{out}{err}")
}
