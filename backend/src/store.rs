//! The database. It cannot read anybody's rows without a scope that names whose.

mod administration;
mod api_keys;
pub(crate) mod context;
#[cfg(test)]
pub(crate) mod fixture;
mod keys;
mod links;
mod memories;
pub(crate) mod pool;
mod revocations;
mod sessions;
pub(crate) mod tls;
mod trail;
pub(crate) mod tx;
mod users;

use tokio_postgres::Row;

pub(crate) use self::{
    administration::{AccountChange, Changed},
    api_keys::{ApiKeyRow, NewApiKey, Rotated},
    context::Context,
    keys::WrappedKey,
    links::LinkOutcome,
    memories::{AtMost, MemoryRow, NewMemoryRow},
    pool::{Pools, StoreError},
    sessions::{Began, NewSession, RefreshEntries, Refreshed, SessionRow, Worthless},
    tls::TlsError,
    trail::{Delivered, TrailFilter, TrailPage, TrailRow},
    users::{Account, NewAccount, Taken},
};

/// Everything that is asked of the database, each query by the role that may ask it.
#[derive(Clone)]
pub(crate) struct Store {
    pools: Pools,
}

impl Store {
    /// Asks through `pools`.
    pub(crate) fn new(pools: Pools) -> Self {
        Self { pools }
    }

    /// The connections.
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Whether the database answers those who serve users.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.pools.app.ping().await
    }

    /// Makes the database believe what this process signs.
    pub(crate) async fn register_context_key(&self) -> Result<(), StoreError> {
        self.pools.signer.register(&self.pools.auth).await
    }

    /// The same for a command at the console, and for as long as one takes.
    pub(crate) async fn register_context_key_briefly(&self) -> Result<(), StoreError> {
        self.pools.signer.register_briefly(&self.pools.auth).await
    }

    /// Sees to it that the database goes on believing it, for as long as this is polled.
    pub(crate) async fn keep_context_key(&self) {
        self.pools.signer.keep(&self.pools.auth).await;
    }

    /// Makes the trail's partitions of this month and the next `ahead`.
    pub(crate) async fn make_partitions(&self, ahead: i32) -> Result<(), StoreError> {
        const SQL: &str = "SELECT audit.make_partitions($1)";
        self.pools.maintenance.call(SQL, &[&ahead]).await?;
        Ok(())
    }

    /// Forgets what has no effect any more.
    pub(crate) async fn purge(&self) -> Result<(), StoreError> {
        const SQL: &str = "SELECT credentials.purge(), audit.forget_event_ids()";
        self.pools.maintenance.call(SQL, &[]).await?;
        Ok(())
    }
}

/// The row of an answer that always has one.
fn sole(rows: Vec<Row>) -> Result<Row, StoreError> {
    let [row] = <[Row; 1]>::try_from(rows)
        .map_err(|rows| mismatch(format!("{} rows where there is always one", rows.len())))?;
    Ok(row)
}

/// The row of an answer that may have one.
fn first(rows: Vec<Row>) -> Option<Row> {
    rows.into_iter().next()
}

/// A value that none of our writers can have stored.
fn mismatch(what: impl Into<String>) -> StoreError {
    StoreError::Mismatch(what.into())
}

/// A number from the database, or for it, in a type that must hold it.
fn fitting<From, Into: TryFrom<From>>(number: From) -> Result<Into, StoreError> {
    Into::try_from(number).map_err(|_| mismatch("a number is out of its range"))
}

#[cfg(test)]
mod tests {
    use memoric_contract::{Operation, Role};

    use super::fixture::{World, memory, scope};
    use crate::scope::Custody as _;

    #[tokio::test]
    async fn every_table_of_users_rows_shows_nothing_even_to_its_owner() {
        let world = World::new().await;

        let open = world
            .as_superuser(
                "SELECT oid::regclass::text FROM pg_class
                 WHERE relnamespace IN ('memoric'::regnamespace, 'audit'::regnamespace) AND relkind IN ('r', 'p')
                   AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY 1",
            )
            .await;

        assert_eq!(open, crate::migrate::NOBODYS);
    }

    #[tokio::test]
    async fn nobody_has_what_was_not_granted() {
        let world = World::new().await;

        let callable = world
            .as_superuser(
                "SELECT oid::regprocedure::text FROM pg_proc
                 WHERE pronamespace IN ('sec'::regnamespace, 'memoric'::regnamespace, 'audit'::regnamespace, 'credentials'::regnamespace)
                   AND (proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 0))",
            )
            .await;
        assert_eq!(callable, [""; 0], "functions that anybody may call");

        let pathless = world
            .as_superuser(
                "SELECT oid::regprocedure::text FROM pg_proc
                 WHERE prosecdef AND pronamespace <> 'pg_catalog'::regnamespace
                   AND NOT ('search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}')))",
            )
            .await;
        assert_eq!(pathless, [""; 0], "definer functions that a search path could mislead");

        let members = world
            .as_superuser(
                "SELECT member::regrole::text FROM pg_auth_members
                 WHERE member::regrole::text LIKE 'memoric%' OR roleid::regrole::text LIKE 'memoric%'",
            )
            .await;
        assert_eq!(members, [""; 0], "roles that another can become");
    }

    #[tokio::test]
    async fn injected_sql_stays_within_its_statement_and_its_user() {
        let world = World::new().await;
        let scope = scope(world.alice, Role::User, Operation::RecallMemories);

        for hostile in [
            "DO $$ BEGIN END $$",
            "CREATE TEMPORARY TABLE memories ()",
            "CREATE SCHEMA mine",
            "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql RETURN 1",
            "SET ROLE memoric_owner",
            "SET SESSION AUTHORIZATION postgres",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_try_advisory_xact_lock(1, 2)",
            "SELECT lo_create(0)",
            "SELECT lo_from_bytea(0, 'x')",
            "SELECT pg_sleep(9)",
            "SELECT pg_terminate_backend(1)",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT query_to_xml('SELECT 1', true, true, '')",
            "SELECT cursor_to_xml('a', 1, true, true, '')",
            "SELECT * FROM ts_stat('SELECT tsvector ''a''')",
            "SELECT * FROM ts_stat('SELECT tsvector ''a''', 'a')",
            "SELECT ts_rewrite('a', 'SELECT tsquery ''a'', tsquery ''b''')",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT inner_pad FROM sec.key",
            "SELECT sec.register_key('0011223344556677', '', interval '1 hour')",
            "SELECT sec.pad('', 1)",
            "SELECT password_hash FROM memoric.users",
            "SELECT seed FROM memoric.sessions",
            "SELECT wrapped FROM memoric.service_keys",
            "SELECT value FROM memoric.revocations",
            "UPDATE memoric.isolation SET user_isolation = false",
            "UPDATE memoric.users SET roles = '{admin}'",
            "DELETE FROM memoric.memories",
            "UPDATE memoric.memories SET user_id = 1",
            "TRUNCATE memoric.memories",
            "ALTER TABLE memoric.memories DISABLE ROW LEVEL SECURITY",
            "SELECT credentials.end_all(1)",
            "SELECT id FROM credentials.find(1)",
            "SELECT canonical FROM audit.trail",
            "SELECT wrapped FROM audit.subject_keys",
        ] {
            let mut tx = world.store.pools().app.scoped(scope.context()).begin().await.unwrap();
            let refused = tx.query(hostile, &[]).await.expect_err(hostile);
            assert_eq!(refused.code().unwrap().code(), "42501", "{hostile}");
        }
    }

    #[tokio::test]
    async fn an_estimate_does_not_tell_who_owns_how_much() {
        let world = World::new().await;
        let writer = scope(world.alice, Role::User, Operation::RememberMemory);
        world.make_keys(&writer).await;
        for _ in 0..50 {
            let created = super::fixture::entry(
                memoric_contract::audit::EventType::MemoryCreated,
                Some(world.alice),
            );
            world.store.remember(&writer, &memory("low"), &created).await.unwrap();
        }
        world.as_superuser("ANALYZE memoric.memories").await;

        let estimate = async |owner: i64| {
            let (client, _driver) = world.superuser().await;
            let sql = format!("EXPLAIN SELECT id FROM memoric.memories WHERE user_id = {owner}");
            let plan = client.query(&sql, &[]).await.unwrap();
            let head: String = plan[0].get(0);
            head.split("rows=").nth(1).map(str::to_owned)
        };

        assert_eq!(estimate(world.alice.0).await, estimate(world.bob.0).await);
    }
}
