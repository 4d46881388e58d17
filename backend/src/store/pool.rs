//! Connections to PostgreSQL: one pool per role, so that a query can only run as the role it was written for.

#[cfg(test)]
pub(crate) mod cluster;
mod usage;

use std::{
    collections::HashMap,
    error::Error as _,
    fmt, io,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_postgres::{Client, SimpleQueryMessage, Statement, error::SqlState};

use super::{
    context::Signer,
    tls::{Connector, Driver, TlsError},
};
use crate::config::{Database, Endpoint, Host};

/// A role of the database that serves requests.
pub(crate) trait DatabaseRole: Send + Sync + 'static {
    /// Its name in PostgreSQL.
    const NAME: &'static str;

    /// For an answer: a little longer than the server allows this role.
    const PATIENCE: Duration = Duration::from_secs(12);
}

/// Serves users: their own rows, within a signed context.
pub(crate) enum App {}

/// Serves strangers: definer functions that look at one credential at a time.
pub(crate) enum Auth {}

/// Serves admins: other people's rows, within a context that names both.
pub(crate) enum Admin {}

/// Serves nobody: retention and rewrapping.
pub(crate) enum Maintenance {}

/// Every way into the database that a serving backend has.
#[derive(Clone)]
pub(crate) struct Pools {
    pub(crate) app: Pool<App>,
    pub(crate) auth: Pool<Auth>,
    pub(crate) admin: Pool<Admin>,
    pub(crate) maintenance: Pool<Maintenance>,
    /// Signs the contexts of all of them.
    pub(crate) signer: Arc<Signer>,
}

/// Connections of one role, opened when first needed.
pub(crate) struct Pool<R> {
    shared: Arc<Shared>,
    role: PhantomData<fn() -> R>,
}

/// How one role comes to one database.
#[derive(Clone)]
pub(crate) struct Login {
    place: String,
    config: tokio_postgres::Config,
    connector: Connector,
}

/// One connection, known to be in no transaction when it rests in a pool.
pub(crate) struct Session {
    client: Client,
    _driver: Driver,
    pid: i32,
    statements: HashMap<&'static str, Statement>,
    opened: Instant,
    rested: Instant,
}

/// A connection on loan.
///
/// Dropping it closes the connection. Only [`Lease::settle`] gives it back, so that whatever
/// goes wrong or is cancelled, the next borrower never meets another's transaction.
pub(super) struct Lease {
    session: Session,
    patience: Duration,
    shared: Arc<Shared>,
    permit: OwnedSemaphorePermit,
}

/// Why the database did not do as it was told.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// Nobody answers at the address, or the connection broke.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// An answer did not come in time.
    #[error("the database did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// Every connection is on loan.
    #[error("no connection to the database came free within {} s", .0.as_secs())]
    Busy(Duration),
    /// The server said no.
    #[error("the database refused: {0}")]
    Refused(#[from] Refusal),
    /// A statement and our idea of it do not fit together.
    #[error("the database and the query disagree: {0}")]
    Mismatch(String),
    /// The context could not be signed.
    #[error("the tenant context cannot be signed: {0}")]
    Unsigned(&'static str),
    /// A connection came with a context that somebody left in its session.
    #[error("a connection carried a foreign context")]
    Tainted,
    /// A transaction was to be committed in which a statement had not succeeded.
    #[error("the transaction is not whole")]
    Broken,
}

/// What the server said, without what it quoted.
///
/// PostgreSQL repeats values in its messages ("Key (email)=(…) already exists"), so the
/// message is kept for those classes of error alone that cannot hold any.
#[derive(Debug, Error)]
pub(crate) struct Refusal {
    code: SqlState,
    constraint: Option<String>,
    message: Option<String>,
}

struct Shared {
    login: Login,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    signer: Arc<Signer>,
}

impl DatabaseRole for App {
    const NAME: &'static str = "memoric_app";
}

impl DatabaseRole for Auth {
    const NAME: &'static str = "memoric_auth";
}

impl DatabaseRole for Admin {
    const NAME: &'static str = "memoric_admin";
    const PATIENCE: Duration = Duration::from_secs(35);
}

impl DatabaseRole for Maintenance {
    const NAME: &'static str = "memoric_maintenance";
    const PATIENCE: Duration = Duration::from_secs(605);
}

impl Pools {
    /// Makes the pools. Nothing connects before it is asked to.
    pub(crate) fn new(database: &Database) -> Result<Self, TlsError> {
        let connector = Connector::new(database.endpoint.tls())?;
        let signer = Arc::new(Signer::default());
        let few = (database.connections / 4).max(2);
        Ok(Self {
            app: Pool::new(database, &connector, database.connections, &signer),
            auth: Pool::new(database, &connector, few, &signer),
            admin: Pool::new(database, &connector, few, &signer),
            maintenance: Pool::new(database, &connector, 2, &signer),
            signer,
        })
    }
}

impl<R: DatabaseRole> Pool<R> {
    fn new(database: &Database, connector: &Connector, size: usize, signer: &Arc<Signer>) -> Self {
        let password = database.password_of(R::NAME);
        let login = Login::new(
            &database.endpoint,
            connector.clone(),
            &database.name,
            R::NAME,
            Some(&password),
        );
        Self::with_login(login, size, signer)
    }

    fn with_login(login: Login, size: usize, signer: &Arc<Signer>) -> Self {
        let shared = Shared {
            login,
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::new(Vec::with_capacity(size)),
            signer: Arc::clone(signer),
        };
        Self { shared: Arc::new(shared), role: PhantomData }
    }

    /// Borrows a connection that is in no transaction.
    pub(super) async fn lease(&self) -> Result<Lease, StoreError> {
        let permits = Arc::clone(&self.shared.permits);
        let permit = timeout(WAIT, permits.acquire_owned())
            .await
            .map_err(|_| StoreError::Busy(WAIT))?
            .map_err(|_| StoreError::Unreachable("the pool is closed".to_owned()))?;
        let session = match self.shared.rested() {
            Some(session) => session,
            None => self.shared.login.open().await?,
        };
        Ok(Lease { session, patience: R::PATIENCE, shared: Arc::clone(&self.shared), permit })
    }

    /// Whether a connection can be had and answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        let lease = self.lease().await?;
        lease.answered(lease.client().check_connection()).await?;
        lease.settle();
        Ok(())
    }

    /// Whether a connection is one server process from beginning to end.
    ///
    /// A pooler that lends processes by the transaction gives an idle connection's away to
    /// whoever begins one, and then answers the idle connection from another.
    pub(crate) async fn has_sessions_of_its_own(&self) -> Result<bool, StoreError> {
        let idle = self.shared.login.open().await?;
        let mut busy = Vec::new();
        for _ in 0..3 {
            let session = self.shared.login.open().await?;
            answered(R::PATIENCE, session.client.batch_execute("BEGIN")).await?;
            busy.push(session);
        }
        let pid = answered(R::PATIENCE, idle.client.simple_query(WHICH_PROCESS))
            .await?
            .iter()
            .find_map(pid_in);
        Ok(pid == Some(idle.pid))
    }

    pub(super) fn signer(&self) -> &Signer {
        &self.shared.signer
    }
}

impl<R> Clone for Pool<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), role: PhantomData }
    }
}

impl Shared {
    /// The connection that came back last, if one is still good.
    fn rested(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(Session::is_good);
        idle.pop()
    }

    fn rest(&self, mut session: Session) {
        session.rested = Instant::now();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }
}

impl Login {
    /// Says how `user` comes to `database`.
    pub(crate) fn new(
        endpoint: &Endpoint,
        connector: Connector,
        database: &str,
        user: &str,
        password: Option<&SecretString>,
    ) -> Self {
        let mut config = tokio_postgres::Config::new();
        match endpoint.host() {
            Host::Socket(folder) => config.host_path(folder),
            Host::Name(name) => config.host(name),
        };
        config
            .port(endpoint.port())
            .dbname(database)
            .user(user)
            .application_name("memoric-backend")
            .connect_timeout(CONNECT);
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        Self { place: endpoint.to_string(), config, connector }
    }

    /// Opens a connection as it is, without limits on how long a statement may take.
    pub(crate) async fn connect(&self) -> Result<(Client, Driver), StoreError> {
        answered(CONNECT, self.connector.connect(&self.config)).await.map_err(|error| match error {
            StoreError::Unreachable(reason) => {
                StoreError::Unreachable(format!("{}: {reason}", self.place))
            }
            other => other,
        })
    }

    async fn open(&self) -> Result<Session, StoreError> {
        let (client, driver) = self.connect().await?;
        let pid = answered(CONNECT, client.simple_query(SET_UP)).await?.iter().find_map(pid_in);
        let pid = pid.ok_or_else(|| {
            StoreError::Mismatch("the server does not tell its process id".to_owned())
        })?;
        let now = Instant::now();
        Ok(Session {
            client,
            _driver: driver,
            pid,
            statements: HashMap::new(),
            opened: now,
            rested: now,
        })
    }
}

impl Session {
    fn is_good(&self) -> bool {
        !self.client.is_closed() && self.opened.elapsed() < LIFE && self.rested.elapsed() < REST
    }
}

impl Lease {
    pub(super) fn client(&self) -> &Client {
        &self.session.client
    }

    /// The server's process, which alone believes contexts that name it.
    pub(super) fn pid(&self) -> i32 {
        self.session.pid
    }

    /// The prepared form of `sql`, made on first use on each connection.
    pub(super) async fn statement(&mut self, sql: &'static str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.session.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.answered(self.session.client.prepare(sql)).await?;
        self.session.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Waits for an answer as long as this role may.
    pub(super) async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        answered(self.patience, answer).await
    }

    /// Gives the connection back. Its last transaction must have been acknowledged.
    pub(super) fn settle(self) {
        let Self { session, shared, permit, .. } = self;
        shared.rest(session);
        // Only now may the next in line look for it.
        drop(permit);
    }
}

impl StoreError {
    /// The constraint that a statement would have violated.
    pub(crate) fn constraint(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.constraint.as_deref(),
            _ => None,
        }
    }

    /// The five characters by which PostgreSQL names an error.
    pub(crate) fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            _ => None,
        }
    }

    /// Whether the server does not know the key that signed the context, or no longer.
    ///
    /// Not whether it refused the context: one that comes late, by a slow query or a clock that is
    /// wrong, does so whatever key it is signed with.
    pub(super) fn is_of_an_unknown_key(&self) -> bool {
        self.code().is_some_and(|code| code.code() == UNKNOWN_KEY)
    }

    /// Whether the server refused a value that the statement brought: it would again.
    pub(crate) fn is_of_a_value(&self) -> bool {
        self.code().is_some_and(|code| OF_VALUES.iter().any(|class| code.code().starts_with(class)))
    }

    /// Whether the server refused the statement for what was in it, and is itself well.
    pub(super) fn is_the_statements_fault(&self) -> bool {
        self.code().is_some_and(|code| HARMLESS.iter().any(|class| code.code().starts_with(class)))
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(said) = error.as_db_error() {
            let code = said.code().clone();
            let message = QUOTELESS
                .iter()
                .any(|class| code.code().starts_with(class))
                .then(|| said.message().to_owned());
            return Self::Refused(Refusal {
                code,
                constraint: said.constraint().map(str::to_owned),
                message,
            });
        }
        let text = error.to_string();
        match error.source() {
            // A value that does not fit its column is quoted in the cause; the channel has no values.
            Some(cause) if cause.is::<io::Error>() || OF_THE_LOGIN.contains(&text.as_str()) => {
                Self::Unreachable(format!("{text}: {cause}"))
            }
            None if error.is_closed() => Self::Unreachable(text),
            _ => Self::Mismatch(text),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code.code())?;
        if let Some(constraint) = &self.constraint {
            write!(f, " ({constraint})")?;
        }
        if let Some(message) = &self.message {
            write!(f, " {message}")?;
        }
        Ok(())
    }
}

/// Waits for an answer, but not for ever.
async fn answered<T>(
    patience: Duration,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    timeout(patience, answer)
        .await
        .map_err(|_| StoreError::Late(patience))?
        .map_err(StoreError::from)
}

fn pid_in(message: &SimpleQueryMessage) -> Option<i32> {
    match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok()??.parse().ok(),
        _ => None,
    }
}

/// What a session is held to. Names are written out in every query; for what is not, the
/// system's own come first and temporary ones last.
const SET_UP: &str = "SET search_path = pg_catalog, pg_temp; SELECT pg_catalog.pg_backend_pid()";

const WHICH_PROCESS: &str = "SELECT pg_catalog.pg_backend_pid()";

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// For a connection to come back from whoever has it.
const WAIT: Duration = Duration::from_secs(5);

/// After which a connection is made anew, so that what changed on the server is noticed.
const LIFE: Duration = Duration::from_secs(30 * 60);

/// After which a connection that nobody needs is closed.
const REST: Duration = Duration::from_secs(5 * 60);

/// What the driver says before a connection is there.
const OF_THE_LOGIN: [&str; 3] =
    ["authentication error", "error performing TLS handshake", "invalid configuration"];

/// How `sec.field` says that it does not know the key.
const UNKNOWN_KEY: &str = "28M01";

/// Classes of errors after which the connection is as good as before: data, integrity,
/// authorisation, conflicts with other transactions, and what our own functions raise.
const HARMLESS: [&str; 6] = ["22", "23", "28", "40", "42501", "P0"];

/// Classes of errors that lie in values: what they are, what they break, and how long they are.
const OF_VALUES: [&str; 3] = ["22", "23", "54"];

/// Classes whose messages name objects of the schema or of the server, never a value.
const QUOTELESS: [&str; 10] = ["08", "25", "28", "3D", "3F", "40", "42", "53", "57", "P0"];

#[cfg(test)]
mod tests {
    use super::{cluster::Cluster, *};

    #[tokio::test]
    async fn a_connection_that_was_settled_is_used_again() {
        let pool = pool(1).await;
        let first = pid(&pool).await;

        assert_eq!(pid(&pool).await, first);
    }

    #[tokio::test]
    async fn a_lease_that_is_dropped_closes_its_connection() {
        let pool = pool(1).await;
        let lease = pool.lease().await.unwrap();
        let first = lease.pid();

        drop(lease);

        assert_ne!(pid(&pool).await, first, "the server process that somebody was cut off from");
    }

    #[tokio::test]
    async fn whoever_waits_gets_what_comes_back() {
        let pool = pool(1).await;
        let lease = pool.lease().await.unwrap();
        let first = lease.pid();

        let (next, ()) = tokio::join!(pid(&pool), async { lease.settle() });

        assert_eq!(next, first);
    }

    #[tokio::test]
    async fn a_connection_that_the_server_closed_is_not_lent() {
        let cluster = Cluster::shared();
        let config = cluster.migrated().await;
        let pool = Pool::<Auth>::of(&config, 1);
        let first = pid(&pool).await;

        cluster.as_superuser(&config, &format!("SELECT pg_terminate_backend({first})")).await;
        while pool.shared.idle.lock().unwrap().iter().any(|session| !session.client.is_closed()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        assert_ne!(pid(&pool).await, first);
    }

    #[tokio::test]
    async fn each_role_is_itself() {
        let config = Cluster::shared().migrated().await;

        async fn name<R: DatabaseRole>(config: &crate::config::MigrateConfig) -> String {
            Pool::<R>::of(config, 1).call("SELECT current_user::text", &[]).await.unwrap()[0].get(0)
        }

        assert_eq!(name::<App>(&config).await, "memoric_app");
        assert_eq!(name::<Auth>(&config).await, "memoric_auth");
        assert_eq!(name::<Admin>(&config).await, "memoric_admin");
        assert_eq!(name::<Maintenance>(&config).await, "memoric_maintenance");
    }

    #[tokio::test]
    async fn a_direct_connection_has_a_session_of_its_own() {
        assert!(pool(1).await.has_sessions_of_its_own().await.unwrap());
    }

    #[tokio::test]
    async fn an_error_does_not_repeat_what_was_sent() {
        let pool = pool(1).await;

        let error =
            pool.call("SELECT ('canary-' || $1::text)::int", &[&"canary"]).await.unwrap_err();

        assert_eq!(error.code(), Some(&SqlState::INVALID_TEXT_REPRESENTATION));
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unreachable() {
        let mut settings = memoric_config::Settings::default();
        settings.database.host = "/nowhere".to_owned();
        let environment = memoric_config::Environment::from_iter([(
            "MEMORIC_DB_PASSWORD",
            "a password of the tests, long enough",
        )]);
        let pools = Pools::new(&Database::new(&settings.database, &environment).unwrap()).unwrap();

        let error = pools.app.ping().await.unwrap_err();

        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains("/nowhere, port 5432"), "{error}");
    }

    async fn pool(size: usize) -> Pool<Auth> {
        Pool::of(&Cluster::shared().migrated().await, size)
    }

    async fn pid(pool: &Pool<Auth>) -> i32 {
        let lease = pool.lease().await.unwrap();
        let pid = lease.pid();
        lease.settle();
        pid
    }
}
