//! One PostgreSQL and one Redis for the whole run.

use std::path::{Path, PathBuf};

use memoric_config::{Environment, ExposeSecret as _, Settings};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

use crate::{
    daemon::{Daemon, scratch},
    wait::until,
};

/// The shared servers, reached by socket files so that no port can clash.
#[derive(Debug)]
pub struct Servers {
    dir: PathBuf,
    _postgres: Daemon,
    _redis: Daemon,
}

/// What the passwords of the roles are derived from.
pub const DATABASE_PASSWORD: &str = "a database password of the test run";

/// The superuser's password.
pub const SUPERUSER_PASSWORD: &str = "the superuser of the test run";

/// Serialises copies: PostgreSQL copies no template that is being copied.
static COPYING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
static SERVERS: OnceCell<Servers> = OnceCell::const_new();

const TEMPLATE: &str = "memoric_template";

/// Quick, for tests: nothing has to outlive a crash.
const FORGETFUL: [&str; 4] =
    ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=500"];

/// For measurements: on disk before it is acknowledged, and no checkpoint or vacuum at the expense
/// of whoever happens to be measured.
const DURABLE: [&str; 4] =
    ["max_connections=200", "autovacuum=off", "checkpoint_timeout=1h", "max_wal_size=16GB"];

impl Servers {
    /// The servers of this run, started on first use.
    pub async fn get() -> &'static Self {
        SERVERS.get_or_init(|| Self::start(&FORGETFUL)).await
    }

    /// Servers of one's own that keep what they are told, and do nothing on their own account meanwhile.
    pub async fn durable() -> Self {
        Self::start(&DURABLE).await
    }

    /// The folder of PostgreSQL: its files, its log and its socket.
    pub fn postgres(&self) -> PathBuf {
        self.dir.join("pg")
    }

    /// The URL of Redis.
    pub fn redis(&self) -> String {
        format!("redis+unix://{}", self.dir.join("redis/redis.sock").display())
    }

    /// The name of a migrated database of your own.
    pub async fn database(&self) -> String {
        let name = format!("world_{}", Uuid::new_v4().simple());
        let _one_at_a_time = COPYING.lock().await;
        let admin = self.superuser("postgres").await;
        let create = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY");
        admin.batch_execute(&create).await.expect("the template is free");
        // A copy has the tables' rights and settings, but not the database's own.
        let rights = format!(
            "UPDATE pg_database SET datacl = (SELECT datacl FROM pg_database WHERE datname = '{TEMPLATE}') WHERE datname = '{name}';
             INSERT INTO pg_db_role_setting
             SELECT copy.oid, setrole, setconfig FROM pg_db_role_setting, pg_database AS copy
             WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = '{TEMPLATE}') AND copy.datname = '{name}'"
        );
        admin.batch_execute(&rights).await.expect("the superuser may");
        name
    }

    /// The name of an empty database of your own, never migrated.
    pub async fn empty_database(&self) -> String {
        let name = format!("empty_{}", Uuid::new_v4().simple());
        let admin = self.superuser("postgres").await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("the database is new");
        name
    }

    /// A session of the superuser, for what only a test may do.
    pub async fn superuser(&self, database: &str) -> Client {
        connect(&self.postgres(), database, "postgres", SUPERUSER_PASSWORD)
            .await
            .expect("PostgreSQL is up")
    }

    /// A session of `role`, as the backend would have it.
    pub async fn session(&self, database: &str, role: &str) -> Client {
        let password = memoric_backend::role_password(DATABASE_PASSWORD.as_bytes(), role);
        connect(&self.postgres(), database, role, password.expose_secret())
            .await
            .expect("the role may connect")
    }

    /// The settings that reach these servers.
    pub fn settings(&self, database: &str) -> Settings {
        let mut settings = Settings::default();
        settings.database.host = self.postgres().display().to_string();
        settings.database.name = database.to_owned();
        settings.database.pool = 8;
        settings.redis.url = self.redis();
        settings.redis.prefix = format!("{database}:");
        settings
    }

    async fn start(postgres: &[&str]) -> Self {
        let dir = scratch("memoric-");
        let (pg, redis) = (dir.join("pg"), dir.join("redis"));
        let folders = format!("mkdir {} {}", pg.display(), redis.display());
        Daemon::run(&dir, &["sh", "-c", &folders]);
        let password = pg.join("password");
        let init = format!(
            "umask 077; printf %s '{SUPERUSER_PASSWORD}' > password && {} -D data -U postgres -A scram-sha-256 --pwfile={} --no-sync --locale=C --encoding=UTF8",
            postgres_program("initdb"),
            password.display()
        );
        Daemon::run(&pg, &["sh", "-c", &init]);
        let servers =
            Self { _postgres: start_postgres(&pg, postgres), _redis: start_redis(&redis), dir };
        servers.prepare_template().await;
        servers
    }

    /// Migrates the database that every other one is copied from.
    async fn prepare_template(&self) {
        until("PostgreSQL is up", async || {
            connect(&self.postgres(), "postgres", "postgres", SUPERUSER_PASSWORD).await.is_ok()
        })
        .await;
        let mut settings = self.settings(TEMPLATE);
        settings.database.admin = Some(self.superuser_dsn());
        let environment: Environment = [
            ("MEMORIC_DB_PASSWORD", DATABASE_PASSWORD),
            ("MEMORIC_DB_ADMIN_PASSWORD", SUPERUSER_PASSWORD),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        memoric_backend::migrate(&settings, &environment).await.expect("the migrations apply");
    }

    /// The DSN of the superuser.
    fn superuser_dsn(&self) -> String {
        format!("postgresql:///postgres?host={}&user=postgres", self.postgres().display())
    }
}

/// The path of a program of PostgreSQL's, which Debian keeps off the PATH.
pub fn postgres_program(name: &str) -> String {
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.exists())
    });
    let debian = || {
        let mut versions: Vec<_> =
            std::fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(Result::ok).collect();
        versions.sort_by_key(|version| version.file_name());
        versions.pop().map(|version| version.path().join("bin").join(name))
    };
    on_path.or_else(debian).expect("PostgreSQL is installed").display().to_string()
}

fn start_postgres(dir: &Path, settings: &[&str]) -> Daemon {
    let socket = dir.display().to_string();
    let program = postgres_program("postgres");
    let mut command = vec![program.as_str(), "-D", "data", "-h", "", "-k", &socket];
    command.extend(settings.iter().flat_map(|setting| ["-c", setting]));
    Daemon::start(dir, &command)
}

fn start_redis(dir: &Path) -> Daemon {
    Daemon::start(
        dir,
        &[
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            "redis.sock",
            "--unixsocketperm",
            "777",
            "--save",
            "",
        ],
    )
}

async fn connect(
    host: &Path,
    database: &str,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(host).dbname(database).user(user).password(password);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
