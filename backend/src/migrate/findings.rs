//! What a database lets our roles do that it should not: the part of a promise that a managed server keeps back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::store::pool::{Pools, StoreError};

/// Something about the database that weakens what Memoric promises, in one sentence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Finding(pub(crate) String);

/// Looks at the database as the role that serves users sees it.
pub(crate) async fn findings(pools: &Pools) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for row in pools.app.call(WEAKNESSES, &[&NOBODYS.as_slice()]).await? {
        findings.push(Finding(row.try_get("finding")?));
    }
    if !pools.app.has_sessions_of_its_own().await? {
        findings.push(Finding(
            "a pooler shares connections by transaction, so no context is believed for long: pool by session or not at all".to_owned(),
        ));
    }
    findings.extend(clock_finding(pools).await?);
    Ok(findings)
}

/// Contexts are signed by our clock and judged by the server's, and live for ten seconds.
async fn clock_finding(pools: &Pools) -> Result<Option<Finding>, StoreError> {
    let rows = pools.app.call(CLOCK, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };

    let theirs = Duration::from_secs(row.try_get::<_, i64>("epoch")?.unsigned_abs());
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let apart = ours.abs_diff(theirs).as_secs();
    Ok((apart > 2).then(|| Finding(format!("the database's clock and ours are {apart} s apart"))))
}

const CLOCK: &str =
    "SELECT pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())::bigint AS epoch";

const WEAKNESSES: &str = "\
SELECT 'memoric_app may make temporary tables' AS finding
WHERE pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY')
UNION ALL
SELECT 'memoric_app may make schemas' WHERE pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
UNION ALL
SELECT 'memoric_app may make tables in ' || nspname FROM pg_catalog.pg_namespace
WHERE nspname !~ '^pg_' AND pg_catalog.has_schema_privilege(oid, 'CREATE')
UNION ALL
SELECT 'memoric_app may call ' || pg_catalog.string_agg(DISTINCT name, ', ') FROM memoric.risky
WHERE pg_catalog.has_function_privilege(oid, 'EXECUTE')
HAVING count(*) > 0
UNION ALL
SELECT 'memoric_app may run code in ' || lanname FROM pg_catalog.pg_language
WHERE lanpltrusted AND pg_catalog.has_language_privilege(oid, 'USAGE') AND lanname <> 'sql'
UNION ALL
SELECT rolname || ' has rights beyond its own' FROM pg_catalog.pg_roles
WHERE rolname ~ '^memoric_(owner|app|auth|admin|maintenance|context|credentials|trail)$'
  AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)
UNION ALL
SELECT pg_auth_members.member::regrole || ' may become ' || pg_auth_members.roleid::regrole FROM pg_catalog.pg_auth_members
WHERE pg_auth_members.member::regrole::text ~ '^memoric_(owner|app|auth|admin|maintenance|context|credentials|trail)$'
UNION ALL
SELECT 'the server logs up to ' || setting || ' bytes of each parameter' FROM pg_catalog.pg_settings
WHERE name = 'log_parameter_max_length' AND setting <> '0'
UNION ALL
SELECT 'the owner of ' || pg_class.oid::regclass || ' sees every row of it' FROM pg_catalog.pg_class
WHERE relnamespace IN ('memoric'::regnamespace, 'audit'::regnamespace) AND relkind IN ('r', 'p')
  AND NOT (relrowsecurity AND relforcerowsecurity) AND pg_class.oid <> ALL ($1::text[]::regclass[])";

/// The tables that hold nobody's rows. Of every other one even its owner sees none.
pub(crate) const NOBODYS: [&str; 5] = [
    "audit.event_ids",
    "memoric.isolation",
    "memoric.migrations",
    "memoric.ring",
    "memoric.service_keys",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pool::cluster::Cluster;

    #[tokio::test]
    async fn a_database_that_migrate_made_has_none() {
        let cluster = Cluster::start();
        let config = cluster.migrated().await;

        assert_eq!(findings(&Pools::new(&config.database).unwrap()).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_could_not_be_revoked_is_told() {
        let cluster = Cluster::start();
        let config = cluster.migrated().await;
        cluster.as_superuser(&config, WEAKENED).await;

        let told: Vec<String> = findings(&Pools::new(&config.database).unwrap())
            .await
            .unwrap()
            .into_iter()
            .map(|finding| finding.0)
            .collect();

        for part in [
            "temporary tables",
            "make tables in public",
            "call cursor_to_xml, lo_create, pg_advisory_lock, query_to_xml, ts_rewrite, ts_stat",
            "run code in plpgsql",
            "memoric_auth has rights beyond",
            "memoric_app may become memoric_trail",
            "the owner of memoric.memories sees",
            "the owner of audit.trail sees",
            "the owner of memoric.revocations sees",
            "the owner of memoric.later sees",
        ] {
            assert!(told.iter().any(|finding| finding.contains(part)), "{part}: {told:#?}");
        }
    }

    const WEAKENED: &str = "\
GRANT TEMPORARY ON DATABASE memoric_0 TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC;
GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint), lo_create(oid), ts_stat(text), ts_rewrite(tsquery, text),
    query_to_xml(text, boolean, boolean, text), cursor_to_xml(refcursor, integer, boolean, boolean, text) TO PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC;
ALTER ROLE memoric_auth CREATEDB;
GRANT memoric_trail TO memoric_app;
ALTER TABLE memoric.memories NO FORCE ROW LEVEL SECURITY;
ALTER TABLE memoric.revocations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE audit.trail DISABLE ROW LEVEL SECURITY;
CREATE TABLE memoric.later ();";
}
