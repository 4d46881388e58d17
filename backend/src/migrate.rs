//! The schema's history, and how a database is brought up to it.

mod findings;
mod roles;
mod runner;
mod script;

use std::error::Error;

use memoric_config::{Environment, Invalid, Settings};

#[cfg(test)]
pub(crate) use self::findings::NOBODYS;
pub(crate) use self::findings::findings;
use self::script::{Malformed, Script};
use crate::{
    config::MigrateConfig,
    store::{
        pool::{Auth, DatabaseRole as _, Pool, StoreError},
        tls::TlsError,
    },
};

/// Why the schema could not be brought up to date, or is not fit to be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    /// The authority's certificate cannot be used.
    #[error("database.ca")]
    Tls(#[from] TlsError),
    /// The database said no, or nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Our own scripts are at odds with themselves.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is something to do that only a superuser may.
    #[error("{what} needs a superuser: set database.admin for this run")]
    NeedsAdmin {
        /// What there is to do.
        what: String,
    },
    /// A migration did not go through. Nothing of it remains, unless it ran without a transaction.
    #[error("migration {number:04}_{name}: {source}")]
    Failed {
        /// Its number.
        number: i32,
        /// Its name.
        name: &'static str,
        /// What the database said.
        source: StoreError,
    },
    /// A migration went through and did not do what it says.
    #[error("migration {number:04}_{name}: {reason}")]
    Untrue {
        /// Its number.
        number: i32,
        /// Its name.
        name: &'static str,
        /// What is not so.
        reason: String,
    },
    /// History has been rewritten, here or there.
    #[error("migration {number:04} is not the one that was applied to this database")]
    Changed {
        /// Its number.
        number: i32,
    },
    /// The database holds a migration between ours that we do not have, or lacks an earlier one.
    #[error("migration {number:04} is out of order: {reason}")]
    OutOfOrder {
        /// Its number.
        number: i32,
        /// In which way.
        reason: &'static str,
    },
    /// Another `migrate` is at work and does not end.
    #[error("another migrate holds the lock")]
    Locked,
    /// Nothing was ever applied.
    #[error("incompatible schema: the database has none, run memoric-backend migrate")]
    Unmigrated,
    /// The server does not know one of our roles by its password.
    #[error(
        "the database does not let {role} in: MEMORIC_DB_PASSWORD has changed, or memoric-backend migrate never ran"
    )]
    Unknown {
        /// The role.
        role: &'static str,
    },
    /// The database is behind this program.
    #[error(
        "incompatible schema: the database is at {found:04} and this program needs {needed:04}, run memoric-backend migrate"
    )]
    Behind {
        /// The newest migration that was applied.
        found: i32,
        /// The newest that this program has.
        needed: i32,
    },
    /// The database is too far ahead of this program.
    #[error(
        "incompatible schema: the database serves programs from {minimum:04} on, and this one has {ours:04}"
    )]
    Ahead {
        /// The least a program must have.
        minimum: i32,
        /// The newest that this program has.
        ours: i32,
    },
    /// The database is not one that a schema of ours can live in.
    #[error("{0}")]
    Unfit(#[from] Invalid),
}

/// Brings the database that the settings name up to date.
pub async fn migrate(
    settings: &Settings,
    environment: &Environment,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    Ok(run(&MigrateConfig::new(settings, environment)?, |_| {}).await?)
}

/// Brings the database up to date and tells each migration that it applied.
pub(crate) async fn run(
    config: &MigrateConfig,
    mut applied: impl FnMut(&str),
) -> Result<(), MigrateError> {
    let scripts = scripts()?;
    let admin = roles::prepare(config).await?;
    let mut runner = runner::Runner::start(config, admin).await?;
    for script in runner.pending(&scripts).await? {
        runner.apply(script).await?;
        applied(&script.title());
    }
    Ok(())
}

/// Refuses a database whose schema this program does not understand.
pub(crate) async fn ensure_compatible(auth: &Pool<Auth>) -> Result<(), MigrateError> {
    let rows = match auth.call(STATE, &[]).await {
        Ok(rows) => rows,
        Err(error) if runner::is_absent(&error) => return Err(MigrateError::Unmigrated),
        Err(error) if runner::is_unknown(&error) => {
            return Err(MigrateError::Unknown { role: Auth::NAME });
        }
        Err(error) => return Err(error.into()),
    };
    let row = rows.first().ok_or(MigrateError::Unmigrated)?;
    let found: Option<i32> = row.try_get("newest").map_err(StoreError::from)?;
    let minimum: Option<i32> = row.try_get("minimum").map_err(StoreError::from)?;
    fits(found, minimum.unwrap_or_default(), newest())
}

fn fits(found: Option<i32>, minimum: i32, ours: i32) -> Result<(), MigrateError> {
    match found {
        None => Err(MigrateError::Unmigrated),
        Some(found) if found < ours => Err(MigrateError::Behind { found, needed: ours }),
        Some(_) if minimum > ours => Err(MigrateError::Ahead { minimum, ours }),
        Some(_) => Ok(()),
    }
}

/// The number of the newest migration that this program has.
fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

fn scripts() -> Result<Vec<Script>, Malformed> {
    MIGRATIONS.iter().map(|(file, text)| Script::parse(file, text)).collect()
}

const STATE: &str = "\
SELECT max(migrations.number) AS newest, max(migrations.compatible_from) AS minimum FROM memoric.migrations AS migrations";

/// Every file of `backend/migrations`, in order.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_database.sql", include_str!("../migrations/0001_database.sql")),
    ("0002_context.sql", include_str!("../migrations/0002_context.sql")),
    ("0003_tables.sql", include_str!("../migrations/0003_tables.sql")),
    ("0004_trail.sql", include_str!("../migrations/0004_trail.sql")),
    ("0005_append.sql", include_str!("../migrations/0005_append.sql")),
    ("0006_credentials.sql", include_str!("../migrations/0006_credentials.sql")),
    ("0007_remember.sql", include_str!("../migrations/0007_remember.sql")),
    ("0008_deliver.sql", include_str!("../migrations/0008_deliver.sql")),
    ("0009_tighter.sql", include_str!("../migrations/0009_tighter.sql")),
    ("0010_believed.sql", include_str!("../migrations/0010_believed.sql")),
    ("0011_crossing.sql", include_str!("../migrations/0011_crossing.sql")),
    ("0012_sessions.sql", include_str!("../migrations/0012_sessions.sql")),
    ("0013_refresh.sql", include_str!("../migrations/0013_refresh.sql")),
    ("0014_api_keys.sql", include_str!("../migrations/0014_api_keys.sql")),
    ("0015_key_functions.sql", include_str!("../migrations/0015_key_functions.sql")),
    ("0016_resets.sql", include_str!("../migrations/0016_resets.sql")),
    ("0017_accounts.sql", include_str!("../migrations/0017_accounts.sql")),
    ("0018_sessions_across.sql", include_str!("../migrations/0018_sessions_across.sql")),
    ("0019_feed.sql", include_str!("../migrations/0019_feed.sql")),
    ("0020_foreign.sql", include_str!("../migrations/0020_foreign.sql")),
    ("0021_on_record.sql", include_str!("../migrations/0021_on_record.sql")),
    ("0022_sooner.sql", include_str!("../migrations/0022_sooner.sql")),
    ("0023_ended.sql", include_str!("../migrations/0023_ended.sql")),
    ("0024_told_once.sql", include_str!("../migrations/0024_told_once.sql")),
    ("0025_keys_end.sql", include_str!("../migrations/0025_keys_end.sql")),
    ("0026_overlaps.sql", include_str!("../migrations/0026_overlaps.sql")),
    ("0027_bounded.sql", include_str!("../migrations/0027_bounded.sql")),
    ("0028_told_again.sql", include_str!("../migrations/0028_told_again.sql")),
];

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::store::pool::{Pools, cluster::Cluster};

    #[test]
    fn the_list_is_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let files: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();

        assert_eq!(
            MIGRATIONS.iter().map(|(file, _)| (*file).to_owned()).collect::<Vec<_>>(),
            files.into_iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_migration_is_well_formed_and_in_its_place() {
        for (place, script) in (1..).zip(scripts().unwrap()) {
            assert_eq!(script.number, place, "{}", script.title());
        }
    }

    #[test]
    fn a_program_serves_the_schema_it_knows_and_those_that_still_know_it() {
        assert!(fits(Some(7), 0, 7).is_ok());
        assert!(fits(Some(9), 7, 7).is_ok(), "one release behind");

        assert!(matches!(fits(None, 0, 7), Err(MigrateError::Unmigrated)));
        assert!(matches!(fits(Some(6), 0, 7), Err(MigrateError::Behind { found: 6, needed: 7 })));
        assert!(matches!(fits(Some(9), 8, 7), Err(MigrateError::Ahead { minimum: 8, ours: 7 })));
    }

    #[tokio::test]
    async fn a_fresh_server_is_brought_up_once() {
        let config = Cluster::shared().fresh();
        let mut first = Vec::new();
        let mut second = Vec::new();

        run(&config, |title| first.push(title.to_owned())).await.unwrap();
        run(&config, |title| second.push(title.to_owned())).await.unwrap();

        assert_eq!(first.len(), MIGRATIONS.len());
        assert_eq!(first[0], "0001_database");
        assert_eq!(second, [""; 0]);
        ensure_compatible(&Pools::new(&config.database).unwrap().auth).await.unwrap();
    }

    #[tokio::test]
    async fn two_at_once_apply_everything_once() {
        let config = Cluster::shared().fresh();
        let (mut here, mut there) = (0, 0);

        let (one, other) = tokio::join!(run(&config, |_| here += 1), run(&config, |_| there += 1));

        one.unwrap();
        other.unwrap();
        assert_eq!(here + there, MIGRATIONS.len());
    }

    #[tokio::test]
    async fn after_the_first_run_no_superuser_is_needed() {
        let mut config = Cluster::shared().migrated().await;
        config.admin = None;

        run(&config, |title| panic!("{title} was applied already")).await.unwrap();
    }

    #[tokio::test]
    async fn a_first_run_without_a_superuser_names_the_setting() {
        let cluster = Cluster::start();
        let mut config = cluster.fresh();
        config.admin = None;

        let error = run(&config, |_| {}).await.unwrap_err();

        assert!(matches!(error, MigrateError::NeedsAdmin { .. }), "{error:?}");
        assert!(error.to_string().contains("database.admin"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[tokio::test]
    async fn a_database_that_was_never_migrated_is_not_served() {
        let cluster = Cluster::shared();
        let migrated = cluster.migrated().await;
        let absent = cluster.fresh();
        cluster.as_superuser(&migrated, "CREATE DATABASE empty_one").await;
        let empty = cluster.config(
            "empty_one",
            std::str::from_utf8(migrated.database.password().expose()).unwrap(),
        );

        for config in [absent, empty] {
            let error =
                ensure_compatible(&Pools::new(&config.database).unwrap().auth).await.unwrap_err();
            assert!(matches!(error, MigrateError::Unmigrated), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_password_that_migrate_did_not_set_is_named_as_the_reason() {
        let cluster = Cluster::shared();
        let name = cluster.migrated().await.database.name;
        let config = cluster.config(&name, "not the password that was used, but long");

        let error =
            ensure_compatible(&Pools::new(&config.database).unwrap().auth).await.unwrap_err();

        assert!(matches!(error, MigrateError::Unknown { role: "memoric_auth" }), "{error:?}");
    }

    #[tokio::test]
    async fn a_migration_that_was_rewritten_stops() {
        let cluster = Cluster::shared();
        let config = cluster.migrated().await;
        cluster
            .as_superuser(
                &config,
                "UPDATE memoric.migrations SET checksum = '\\x00' WHERE number = 2",
            )
            .await;

        let error = run(&config, |_| {}).await.unwrap_err();

        assert!(matches!(error, MigrateError::Changed { number: 2 }), "{error:?}");
    }

    #[tokio::test]
    async fn a_gap_in_history_stops() {
        let cluster = Cluster::shared();
        let config = cluster.migrated().await;
        cluster.as_superuser(&config, "DELETE FROM memoric.migrations WHERE number = 2").await;

        let error = run(&config, |_| {}).await.unwrap_err();

        assert!(matches!(error, MigrateError::OutOfOrder { number: 2, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn the_release_before_serves_a_newer_schema_until_it_is_told_not_to() {
        let cluster = Cluster::shared();
        let config = cluster.migrated().await;
        let auth = Pools::new(&config.database).unwrap().auth;
        let newer = newest() + 1;
        let insert = format!("INSERT INTO memoric.migrations VALUES ({newer}, 'later', '', 0)");
        cluster.as_superuser(&config, &insert).await;

        ensure_compatible(&auth).await.unwrap();
        run(&config, |title| panic!("{title} was applied already")).await.unwrap();
        cluster
            .as_superuser(
                &config,
                &format!(
                    "UPDATE memoric.migrations SET compatible_from = {newer} WHERE number = {newer}"
                ),
            )
            .await;

        let error = ensure_compatible(&auth).await.unwrap_err();
        assert!(error.to_string().starts_with("incompatible schema"), "{error}");
    }
}
