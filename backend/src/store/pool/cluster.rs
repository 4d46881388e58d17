//! A private PostgreSQL for the tests of one process, gone when the process is.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use memoric_config::{Environment, Settings};

use super::{Login, Pool};
use crate::{
    config::MigrateConfig,
    migrate,
    store::{context::Signer, tls::Connector},
};

/// A server, its socket and its files in one folder.
pub(crate) struct Cluster {
    folder: PathBuf,
    databases: AtomicUsize,
    _keeper: Child,
}

impl Cluster {
    /// The one that tests share, started by the first of them.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// One of its own that listens on loopback too, with the certificate and key in the folder
    /// that `prepare` is given.
    pub(crate) fn with_tls(port: u16, prepare: impl FnOnce(&Path)) -> Self {
        let listening = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c ssl=on -c ssl_cert_file=../server.pem -c ssl_key_file=../server.key"
        );
        Self::prepared(&listening, |folder| {
            prepare(folder);
            let key = folder.join("server.key");
            fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = unprivileged() {
                chown(&key, Some(uid), Some(gid)).unwrap();
            }
        })
    }

    /// One of its own, for a test that changes what databases share.
    pub(crate) fn start() -> Self {
        Self::prepared("-c listen_addresses=", |_| {})
    }

    fn prepared(listening: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("memoric-").tempdir_in("/tmp").unwrap().keep();
        let runs_as = unprivileged();
        if let Some((uid, gid)) = runs_as {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        fs::write(folder.join("password"), "superuser-of-the-tests").unwrap();

        run(as_user(program("initdb"), runs_as)
            .arg("--pgdata")
            .arg(folder.join("data"))
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--pwfile",
            ])
            .arg(folder.join("password")));
        prepare(&folder);
        let keeper = keep(&folder, listening, runs_as);
        let cluster = Self { folder, databases: AtomicUsize::new(0), _keeper: keeper };
        cluster.wait();
        cluster
    }

    /// What `migrate` is told about a database that does not exist yet.
    pub(crate) fn fresh(&self) -> MigrateConfig {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        self.config(&format!("memoric_{number}"), PASSWORD)
    }

    /// The same, about a database that may.
    pub(crate) fn config(&self, name: &str, password: &str) -> MigrateConfig {
        let mut settings = Settings::default();
        settings.database.host = self.folder.to_str().unwrap().to_owned();
        settings.database.name = name.to_owned();
        settings.database.admin = Some("postgresql://postgres@/postgres".to_owned());
        let environment = Environment::from_iter([
            ("MEMORIC_DB_PASSWORD", password),
            ("MEMORIC_DB_ADMIN_PASSWORD", "superuser-of-the-tests"),
        ]);
        MigrateConfig::new(&settings, &environment).unwrap()
    }

    /// A new database with every migration applied.
    pub(crate) async fn migrated(&self) -> MigrateConfig {
        let config = self.fresh();
        migrate::run(&config, |_| {}).await.unwrap();
        config
    }

    /// Runs SQL as the superuser, in one of the databases.
    pub(crate) async fn as_superuser(&self, config: &MigrateConfig, sql: &str) -> Vec<String> {
        let (client, _driver) = superuser(config, &config.database.name).connect().await.unwrap();
        client
            .simple_query(sql)
            .await
            .unwrap()
            .into_iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect()
    }

    fn wait(&self) {
        for _ in 0..400 {
            // The socket is there before the server is; its state stands in this file.
            let state =
                fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
            if state.lines().any(|line| line.trim() == "ready") {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!(
            "PostgreSQL did not start: {}",
            fs::read_to_string(self.folder.join("log")).unwrap_or_default()
        );
    }
}

impl<R: super::DatabaseRole> Pool<R> {
    /// A pool of so many connections, to a database that was migrated.
    pub(crate) fn of(config: &MigrateConfig, size: usize) -> Self {
        Self::new(
            &config.database,
            &Connector::Plain,
            size,
            &std::sync::Arc::new(Signer::default()),
        )
    }
}

/// The superuser's way into `database`.
pub(crate) fn superuser(config: &MigrateConfig, database: &str) -> Login {
    let admin = config.admin.as_ref().unwrap();
    Login::new(&admin.endpoint, Connector::Plain, database, &admin.user, admin.password.as_ref())
}

/// Starts a server that ends, files and all, when this process lets go of its standard input.
fn keep(folder: &Path, listening: &str, runs_as: Option<(u32, u32)>) -> Child {
    let script = r#"
        exec 3<&0
        "$0" -D "$1/data" -k "$1" $2 -c fsync=off -c max_connections=200 </dev/null >"$1/log" 2>&1 &
        read -r _ <&3
        kill -INT $!
        wait $!
        rm -rf "$1"
    "#;
    as_user(PathBuf::from("sh"), runs_as)
        .args(["-c", script])
        .arg(program("postgres"))
        .arg(folder)
        .arg(listening)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// PostgreSQL refuses to run as root, so root runs it as its own user, or as nobody.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let fields: Vec<&str> = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields[0] == name)?;
        Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}

fn as_user(program: PathBuf, ids: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if let Some((uid, gid)) = ids {
        command.uid(uid).gid(gid);
    }
    command
}

/// Where Debian keeps the server's programs, or wherever the path finds them.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed =
        versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists());
    installed.max().unwrap_or_else(|| PathBuf::from(name))
}

const PASSWORD: &str = "a password of the tests, long enough";
