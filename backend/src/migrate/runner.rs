//! Applies what is missing, one transaction each, with nobody else at it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

use super::{
    MigrateError,
    roles::OWNER,
    script::{Rows, RunsAs, Script},
};
use crate::{
    config::MigrateConfig,
    store::{
        pool::{Login, StoreError},
        tls::{Connector, Driver},
    },
};

/// The two connections that migrations run on, under the lock.
pub(super) struct Runner {
    owner: Line,
    admin: Option<Line>,
}

/// A connection that is closed with its last user.
pub(super) struct Line {
    pub(super) client: Client,
    _driver: Driver,
}

/// What is remembered of a migration that was applied.
struct Applied {
    name: String,
    checksum: Vec<u8>,
}

impl Line {
    pub(super) async fn open(login: &Login) -> Result<Self, StoreError> {
        let (client, driver) = login.connect().await?;
        Ok(Self { client, _driver: driver })
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<(), StoreError> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

impl Runner {
    /// Connects as the owner, and waits for its turn.
    pub(super) async fn start(
        config: &MigrateConfig,
        admin: Option<Line>,
    ) -> Result<Self, MigrateError> {
        let database = &config.database;
        let connector = Connector::new(database.endpoint.tls())?;
        let password = database.password_of(OWNER);
        let login =
            Login::new(&database.endpoint, connector, &database.name, OWNER, Some(&password));
        let owner = match Line::open(&login).await {
            Ok(owner) => owner,
            Err(error) if admin.is_none() && (is_absent(&error) || is_unknown(&error)) => {
                return Err(MigrateError::NeedsAdmin {
                    what: format!("{error}. A first run, or a new password,"),
                });
            }
            Err(error) => return Err(error.into()),
        };
        wait_for_lock(&owner.client).await?;
        owner.execute(RECORD).await?;
        Ok(Self { owner, admin })
    }

    /// What has yet to be applied, if the rest is as it was.
    pub(super) async fn pending<'a>(
        &self,
        scripts: &'a [Script],
    ) -> Result<Vec<&'a Script>, MigrateError> {
        let applied = self.applied().await?;
        let pending = missing(&applied, scripts)?;
        match pending.iter().find(|script| script.runs_as == RunsAs::Admin) {
            Some(script) if self.admin.is_none() => {
                Err(MigrateError::NeedsAdmin { what: format!("migration {}", script.title()) })
            }
            _ => Ok(pending),
        }
    }

    /// Applies one migration and remembers that it did.
    pub(super) async fn apply(&mut self, script: &Script) -> Result<(), MigrateError> {
        let failed =
            |source| MigrateError::Failed { number: script.number, name: script.name, source };
        if script.is_bare {
            self.owner.execute(script.sql).await.map_err(failed)?;
            ensure_valid_indexes(&self.owner.client, script).await?;
            return remember(&self.owner.client, script).await.map_err(failed);
        }
        let line = match script.runs_as {
            RunsAs::Owner => &mut self.owner,
            RunsAs::Admin => self
                .admin
                .as_mut()
                .ok_or_else(|| MigrateError::NeedsAdmin { what: script.title() })?,
        };
        // Dropped without a commit, the transaction rolls back.
        let transaction = line.client.transaction().await.map_err(|error| failed(error.into()))?;
        let client = transaction.client();
        within(client, script).await?;
        remember(client, script).await.map_err(failed)?;
        transaction.commit().await.map_err(|error| failed(error.into()))
    }

    async fn applied(&self) -> Result<BTreeMap<i32, Applied>, StoreError> {
        let rows = self.owner.client.query(APPLIED, &[]).await?;
        let mut applied = BTreeMap::new();
        for row in rows {
            let record = Applied { name: row.try_get("name")?, checksum: row.try_get("checksum")? };
            applied.insert(row.try_get("number")?, record);
        }
        Ok(applied)
    }
}

/// Whether the database or its schema is simply not there yet.
pub(super) fn is_absent(error: &StoreError) -> bool {
    let absent = [
        &SqlState::INVALID_CATALOG_NAME,
        &SqlState::INVALID_SCHEMA_NAME,
        &SqlState::UNDEFINED_TABLE,
    ];
    error.code().is_some_and(|code| absent.contains(&code))
}

/// Whether the server does not know our role, or not by this password.
pub(super) fn is_unknown(error: &StoreError) -> bool {
    let unknown = [&SqlState::INVALID_PASSWORD, &SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
    error.code().is_some_and(|code| unknown.contains(&code))
}

/// Those of `scripts` that are not in `applied`. History only grows at its end.
fn missing<'a>(
    applied: &BTreeMap<i32, Applied>,
    scripts: &'a [Script],
) -> Result<Vec<&'a Script>, MigrateError> {
    let newest = applied.keys().next_back().copied().unwrap_or_default();
    for (place, script) in (1..).zip(scripts) {
        let number = script.number;
        match applied.get(&number) {
            _ if number != place => {
                return Err(MigrateError::OutOfOrder {
                    number,
                    reason: "its number is not the next",
                });
            }
            None if number < newest => {
                return Err(MigrateError::OutOfOrder {
                    number,
                    reason: "later ones have been applied without it",
                });
            }
            Some(record) if record.checksum != script.checksum() || record.name != script.name => {
                return Err(MigrateError::Changed { number });
            }
            Some(_) | None => {}
        }
    }
    Ok(scripts.iter().filter(|script| script.number > newest).collect())
}

async fn within(client: &Client, script: &Script) -> Result<(), MigrateError> {
    let failed = |source| MigrateError::Failed { number: script.number, name: script.name, source };
    let untrue = |reason| MigrateError::Untrue { number: script.number, name: script.name, reason };

    client.batch_execute(LIMITS).await.map_err(|error| failed(error.into()))?;
    let before = lift(client, &script.lifts_force).await.map_err(failed)?;
    let touched = touched(client, script.sql).await.map_err(failed)?;
    // A script may have become somebody else, or left a path behind.
    client.batch_execute("RESET ROLE").await.map_err(|error| failed(error.into()))?;
    let after = count(client, &script.lifts_force).await.map_err(failed)?;
    if before != after {
        return Err(untrue(format!("{before} rows were there and {after} are")));
    }
    if script.rows == Rows::Every && touched != before {
        return Err(untrue(format!("{before} rows were to be touched and {touched} were")));
    }
    for table in &script.lifts_force {
        client
            .batch_execute(&format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY"))
            .await
            .map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// Lets the owner see the rows of `tables` until the transaction ends, and counts them.
async fn lift(client: &Client, tables: &[&str]) -> Result<u64, StoreError> {
    for table in tables {
        client.batch_execute(&format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")).await?;
    }
    count(client, tables).await
}

async fn count(client: &Client, tables: &[&str]) -> Result<u64, StoreError> {
    let mut rows = 0;
    for table in tables {
        let row = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?;
        rows += row.try_get::<_, i64>(0)?.unsigned_abs();
    }
    Ok(rows)
}

/// Runs a script of any number of statements and adds up the rows that they touched.
async fn touched(client: &Client, sql: &str) -> Result<u64, StoreError> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => *rows,
        _ => 0,
    });
    Ok(rows.sum())
}

async fn remember(client: &Client, script: &Script) -> Result<(), StoreError> {
    let checksum = script.checksum();
    client
        .execute(
            REMEMBER,
            &[&script.number, &script.name, &checksum.as_slice(), &script.compatible_from],
        )
        .await?;
    Ok(())
}

/// An index that was built concurrently and failed stays behind, and `IF NOT EXISTS` would take it for the real one.
async fn ensure_valid_indexes(client: &Client, script: &Script) -> Result<(), MigrateError> {
    let invalid = client.query(INVALID_INDEXES, &[]).await.map_err(StoreError::from)?;
    let Some(index) = invalid.first() else { return Ok(()) };

    let index: String = index.try_get("name").map_err(StoreError::from)?;
    let reason = format!("the index {index} is invalid: drop it and run migrate again");
    Err(MigrateError::Untrue { number: script.number, name: script.name, reason })
}

/// Waits for the lock by asking again. Whoever waits inside PostgreSQL holds a snapshot, which an
/// index that is being built concurrently waits for in turn.
pub(super) async fn wait_for_lock(client: &Client) -> Result<(), MigrateError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let row = client
            .query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&LOCK])
            .await
            .map_err(StoreError::from)?;
        if row.try_get(0).map_err(StoreError::from)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(MigrateError::Locked);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// "memoric" and a zero, as a number.
const LOCK: i64 = i64::from_be_bytes(*b"memoric\0");

/// For another migration to end.
const PATIENCE: Duration = Duration::from_secs(600);

const RECORD: &str = "\
CREATE SCHEMA IF NOT EXISTS memoric;
CREATE TABLE IF NOT EXISTS memoric.migrations (
    number int PRIMARY KEY,
    name text NOT NULL,
    checksum bytea NOT NULL,
    compatible_from int NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
GRANT USAGE ON SCHEMA memoric TO memoric_app, memoric_auth, memoric_admin, memoric_maintenance;
GRANT SELECT ON memoric.migrations TO memoric_app, memoric_auth, memoric_admin, memoric_maintenance;";

const APPLIED: &str = "SELECT number, name, checksum FROM memoric.migrations";

const REMEMBER: &str = "INSERT INTO memoric.migrations (number, name, checksum, compatible_from) VALUES ($1, $2, $3, $4)";

const LIMITS: &str = "\
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '30s';
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;";

const INVALID_INDEXES: &str = "\
SELECT pg_index.indexrelid::regclass::text AS name
FROM pg_catalog.pg_index
JOIN pg_catalog.pg_class ON pg_class.oid = pg_index.indexrelid
JOIN pg_catalog.pg_namespace ON pg_namespace.oid = pg_class.relnamespace
WHERE NOT pg_index.indisvalid AND pg_namespace.nspname IN ('memoric', 'audit', 'credentials', 'sec')";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pool::cluster::Cluster;

    #[tokio::test]
    async fn a_migration_that_fails_leaves_nothing() {
        let (cluster, config, mut runner) = world().await;

        let error = apply(
            &mut runner,
            "-- True.\n-- as: owner\nCREATE TABLE memoric.half (id int); SELECT 1 / 0",
        )
        .await
        .unwrap_err();

        assert!(matches!(error, MigrateError::Failed { number: 9000, .. }), "{error:?}");
        let left = cluster.as_superuser(&config, "SELECT to_regclass('memoric.half') IS NULL AND NOT EXISTS (SELECT FROM memoric.migrations WHERE number = 9000)").await;
        assert_eq!(left, ["t"]);
    }

    #[tokio::test]
    async fn an_update_that_sees_no_row_is_not_taken_for_done() {
        let (_, _, mut runner) = world().await;
        let unlifted = "-- True.\n-- as: owner\nUPDATE memoric.probe SET note = 'new'";
        let missed = "-- True.\n-- as: owner\n-- lifts-force: memoric.probe\n-- rows: every\nUPDATE memoric.probe SET note = 'new' WHERE user_id = 7";

        assert_eq!(touched(&runner.owner.client, unlifted).await.unwrap(), 0, "this is why");
        let error = apply(&mut runner, missed).await.unwrap_err();

        assert!(error.to_string().ends_with("2 rows were to be touched and 1 were"), "{error}");
    }

    #[tokio::test]
    async fn a_migration_may_see_every_row_and_force_is_back_after_it() {
        let (cluster, config, mut runner) = world().await;
        let update = "-- True.\n-- as: owner\n-- lifts-force: memoric.probe\n-- rows: every\nUPDATE memoric.probe SET note = 'new'";

        apply(&mut runner, update).await.unwrap();

        assert_eq!(
            cluster.as_superuser(&config, "SELECT DISTINCT note FROM memoric.probe").await,
            ["new"]
        );
        let forced =
            "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'memoric.probe'::regclass";
        assert_eq!(cluster.as_superuser(&config, forced).await, ["t"]);
    }

    #[tokio::test]
    async fn a_migration_that_loses_rows_is_undone() {
        let (cluster, config, mut runner) = world().await;
        let delete = "-- True.\n-- as: owner\n-- lifts-force: memoric.probe\nDELETE FROM memoric.probe WHERE user_id = 7";

        let error = apply(&mut runner, delete).await.unwrap_err();

        assert!(error.to_string().ends_with("2 rows were there and 1 are"), "{error}");
        assert_eq!(
            cluster.as_superuser(&config, "SELECT count(*) FROM memoric.probe").await,
            ["2"]
        );
    }

    #[tokio::test]
    async fn an_index_is_built_without_a_transaction() {
        let (cluster, config, mut runner) = world().await;

        apply(&mut runner, "-- True.\n-- as: owner\n-- no-transaction\nCREATE INDEX CONCURRENTLY probe_note ON memoric.probe (note)").await.unwrap();

        assert_eq!(
            cluster
                .as_superuser(&config, "SELECT name FROM memoric.migrations WHERE number = 9000")
                .await,
            ["probe"]
        );
    }

    #[tokio::test]
    async fn an_index_that_was_left_invalid_is_not_taken_for_built() {
        let (cluster, config, mut runner) = world().await;
        cluster
            .as_superuser(&config, "INSERT INTO memoric.probe VALUES (9, 'same'), (9, 'same')")
            .await;
        let build = "-- True.\n-- as: owner\n-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS probe_unique ON memoric.probe (user_id, note)";

        assert!(matches!(
            apply(&mut runner, build).await.unwrap_err(),
            MigrateError::Failed { .. }
        ));
        let error = apply(&mut runner, build).await.unwrap_err();

        assert!(error.to_string().contains("memoric.probe_unique is invalid"), "{error}");
    }

    #[tokio::test]
    async fn a_migration_of_the_admins_names_the_setting_where_there_is_none() {
        let (_, _, mut runner) = world().await;
        runner.admin = None;
        let scripts = [Script::parse("0001_probe.sql", "-- True.\n-- as: admin\n").unwrap()];

        assert!(missing(&BTreeMap::new(), &scripts).is_ok());
        let error = apply(&mut runner, "-- True.\n-- as: admin\nSELECT 1").await.unwrap_err();

        assert!(error.to_string().contains("database.admin"), "{error}");
    }

    #[tokio::test]
    async fn whoever_comes_second_waits() {
        let (_, config, runner) = world().await;

        let second =
            tokio::time::timeout(Duration::from_millis(500), Runner::start(&config, None)).await;
        assert!(second.is_err(), "the lock is held");
        drop(runner);

        Runner::start(&config, None).await.unwrap();
    }

    async fn world() -> (&'static Cluster, MigrateConfig, Runner) {
        let cluster = Cluster::shared();
        let config = cluster.migrated().await;
        let admin = super::super::roles::prepare(&config).await.unwrap();
        let runner = Runner::start(&config, admin).await.unwrap();
        runner.owner.execute(PROBE).await.unwrap();
        cluster
            .as_superuser(
                &config,
                "INSERT INTO memoric.probe VALUES (7, 'alice''s'), (8, 'bob''s')",
            )
            .await;
        (cluster, config, runner)
    }

    async fn apply(runner: &mut Runner, sql: &'static str) -> Result<(), MigrateError> {
        runner.apply(&Script::parse("9000_probe.sql", sql).unwrap()).await
    }

    const PROBE: &str = "\
CREATE TABLE memoric.probe (user_id bigint, note text);
ALTER TABLE memoric.probe ENABLE ROW LEVEL SECURITY;
ALTER TABLE memoric.probe FORCE ROW LEVEL SECURITY;";
}
