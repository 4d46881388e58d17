//! The roles, their passwords and the database itself, as a superuser makes them.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use memoric_config::{ExposeSecret as _, Invalid, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_postgres::error::SqlState;

use super::{
    MigrateError,
    runner::{Line, wait_for_lock},
};
use crate::{
    config::{Admin, MigrateConfig},
    store::{
        pool::{Login, StoreError},
        tls::Connector,
    },
};

/// A password as PostgreSQL keeps it (RFC 5803).
struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
}

/// Makes or corrects what only a superuser can, and hands the superuser's connection to the
/// database on. Without `database.admin` there is nothing to do.
pub(super) async fn prepare(config: &MigrateConfig) -> Result<Option<Line>, MigrateError> {
    let MigrateConfig { database, admin: Some(admin) } = config else { return Ok(None) };

    let line = Line::open(&login(admin, &admin.database)?).await?;
    // Roles belong to the whole server, so the lock within our database is not enough.
    wait_for_lock(&line.client).await?;
    for role in WITH_LOGIN {
        ensure_role(&line, role, "LOGIN").await?;
        ensure_password(&line, role, &database.password_of(role)).await?;
    }
    for role in WITHOUT_LOGIN {
        ensure_role(&line, role, "NOLOGIN").await?;
    }
    ensure_no_membership(&line).await?;
    ensure_database(&line, &database.name).await?;
    ensure_rights(&line, &database.name).await?;
    drop(line);
    Ok(Some(Line::open(&login(admin, &database.name)?).await?))
}

fn login(admin: &Admin, database: &str) -> Result<Login, MigrateError> {
    let connector = Connector::new(admin.endpoint.tls())?;
    Ok(Login::new(&admin.endpoint, connector, database, &admin.user, admin.password.as_ref()))
}

async fn ensure_role(line: &Line, role: &str, login: &str) -> Result<(), StoreError> {
    let rows = line.client.query(ATTRIBUTES, &[&role, &(login == "LOGIN")]).await?;
    match rows.first() {
        None => line.execute(&format!("CREATE ROLE {role} {login} {POWERLESS}")).await,
        // A server that is not ours refuses to be told even what is so already.
        Some(row) if row.try_get::<_, bool>("as_it_should_be")? => Ok(()),
        Some(_) => line.execute(&format!("ALTER ROLE {role} {login} {POWERLESS}")).await,
    }
}

/// Sets the password, unless it is set. Only its verifier crosses the wire.
async fn ensure_password(
    line: &Line,
    role: &str,
    password: &SecretString,
) -> Result<(), StoreError> {
    let password = password.expose_secret().as_bytes();
    let kept = match line.client.query_opt(VERIFIER, &[&role]).await.map_err(StoreError::from) {
        Ok(row) => row.map(|row| row.try_get::<_, Option<String>>(0)).transpose()?.flatten(),
        // Where the operator of the server is not us, verifiers cannot be read.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => None,
        Err(error) => return Err(error),
    };
    if kept.is_some_and(|kept| {
        Verifier::parse(&kept).is_some_and(|verifier| verifier.verifies(password))
    }) {
        return Ok(());
    }
    let verifier = postgres_protocol::password::scram_sha_256(password);
    line.execute(&format!("ALTER ROLE {role} PASSWORD '{}'", verifier.replace('\'', "''"))).await
}

/// A role that is a member of another could become it.
async fn ensure_no_membership(line: &Line) -> Result<(), StoreError> {
    let ours: Vec<&str> = WITH_LOGIN.into_iter().chain(WITHOUT_LOGIN).collect();
    for row in line.client.query(MEMBERSHIPS, &[&ours]).await? {
        let (role, member): (String, String) = (row.try_get("role")?, row.try_get("member")?);
        line.execute(&format!("REVOKE {role} FROM {member}")).await?;
        tracing::warn!(role, member, "a membership was revoked");
    }
    Ok(())
}

async fn ensure_database(line: &Line, name: &str) -> Result<(), MigrateError> {
    let quoted = quote(name);
    let Some(row) = line.client.query_opt(DATABASE, &[&name]).await.map_err(StoreError::from)?
    else {
        // Compared byte by byte: the order of text must not change with the system's libraries.
        let create = format!(
            "CREATE DATABASE {quoted} OWNER {OWNER} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        );
        return Ok(line.execute(&create).await?);
    };
    let encoding: String = row.try_get("encoding").map_err(StoreError::from)?;
    let owner: String = row.try_get("owner").map_err(StoreError::from)?;
    if encoding != "UTF8" {
        return Err(Invalid::new(
            "database.name",
            format!("{name} is encoded in {encoding} and must be in UTF8"),
        )
        .into());
    }
    if owner != OWNER {
        line.execute(&format!("ALTER DATABASE {quoted} OWNER TO {OWNER}")).await?;
    }
    Ok(())
}

/// Looked at in every run, because a dump does not carry the rights on the database itself.
async fn ensure_rights(line: &Line, name: &str) -> Result<(), StoreError> {
    let roles: Vec<&str> = WITH_LOGIN.into();
    let row = line.client.query_one(RIGHTS, &[&name, &roles]).await?;
    if row.try_get("as_they_should_be")? {
        return Ok(());
    }
    let quoted = quote(name);
    line.execute(&format!(
        "REVOKE ALL ON DATABASE {quoted} FROM PUBLIC; GRANT CONNECT ON DATABASE {quoted} TO {}",
        WITH_LOGIN.join(", ")
    ))
    .await
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Verifier {
    fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, _server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: iterations
                .parse()
                .ok()
                .filter(|iterations| (1..=MOST_ITERATIONS).contains(iterations))?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: BASE64.decode(stored_key).ok()?,
        })
    }

    /// Whether it was made of `password` (RFC 5802, section 3).
    fn verifies(&self, password: &[u8]) -> bool {
        let client_key = salted(password, &self.salt, self.iterations)
            .and_then(|salted| mac(&salted, &[b"Client Key"]));
        client_key.is_some_and(|key| Sha256::digest(key).as_slice().ct_eq(&self.stored_key).into())
    }
}

/// `Hi` of RFC 5802, which is PBKDF2 with one block.
fn salted(password: &[u8], salt: &[u8], iterations: u32) -> Option<[u8; 32]> {
    let mut round = mac(password, &[salt, &1_u32.to_be_bytes()])?;
    let mut sum = round;
    for _ in 1..iterations {
        round = mac(password, &[&round])?;
        sum.iter_mut().zip(round).for_each(|(sum, byte)| *sum ^= byte);
    }
    Some(sum)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    parts.iter().for_each(|part| mac.update(part));
    Some(mac.finalize().into_bytes().into())
}

/// Owns the tables and their history.
pub(super) const OWNER: &str = "memoric_owner";

const WITH_LOGIN: [&str; 5] =
    [OWNER, "memoric_app", "memoric_auth", "memoric_admin", "memoric_maintenance"];

/// Own what runs in another's name: contexts, credentials, the trail.
const WITHOUT_LOGIN: [&str; 3] = ["memoric_context", "memoric_credentials", "memoric_trail"];

const POWERLESS: &str =
    "NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1";

/// Beyond this a verifier is made anew rather than checked.
const MOST_ITERATIONS: u32 = 1_000_000;

const ATTRIBUTES: &str = "\
SELECT rolcanlogin = $2 AND rolconnlimit = -1 AND NOT (rolinherit OR rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls) AS as_it_should_be
FROM pg_catalog.pg_roles WHERE rolname = $1";

const VERIFIER: &str = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1";

const MEMBERSHIPS: &str = "\
SELECT pg_auth_members.roleid::regrole::text AS role, pg_auth_members.member::regrole::text AS member
FROM pg_catalog.pg_auth_members
JOIN pg_catalog.pg_roles ON pg_roles.oid = pg_auth_members.member
WHERE pg_roles.rolname = ANY ($1)";

const RIGHTS: &str = "\
SELECT NOT pg_catalog.has_database_privilege('public', $1, 'CONNECT, TEMPORARY, CREATE')
   AND (SELECT pg_catalog.bool_and(pg_catalog.has_database_privilege(role, $1, 'CONNECT'))
        FROM pg_catalog.unnest($2::text[]) AS roles (role)) AS as_they_should_be";

const DATABASE: &str = "\
SELECT pg_catalog.pg_get_userbyid(datdba)::text AS owner, pg_catalog.pg_encoding_to_char(encoding)::text AS encoding
FROM pg_catalog.pg_database WHERE datname = $1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        migrate,
        store::pool::{Auth, Pool, cluster::Cluster},
    };

    #[test]
    fn a_verifier_knows_its_password_and_no_other() {
        let verifier =
            Verifier::parse(&postgres_protocol::password::scram_sha_256(b"pencil")).unwrap();

        assert!(verifier.verifies(b"pencil"));
        assert!(!verifier.verifies(b"pencils"));
        assert!(!verifier.verifies(b""));
    }

    #[test]
    fn a_verifier_is_read_as_the_standard_writes_it() {
        // The exchange printed in RFC 7677, section 3.
        let stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

        assert!(Verifier::parse(stored).unwrap().verifies(b"pencil"));
    }

    #[test]
    fn what_is_not_a_verifier_is_made_anew() {
        for text in [
            "",
            "md5aaaa",
            "SCRAM-SHA-256$0:AA==$AA==:AA==",
            "SCRAM-SHA-256$99999999:AA==$AA==:AA==",
            "SCRAM-SHA-256$4096:AA==$AA==",
        ] {
            assert!(Verifier::parse(text).is_none(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_password_is_set_once_and_anew_when_it_changes() {
        let cluster = Cluster::start();
        let config = cluster.migrated().await;
        let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'memoric_auth'";
        let first = cluster.as_superuser(&config, verifier).await;
        let changed =
            cluster.config(&config.database.name, "another password of the tests, long enough");

        migrate::run(&config, |_| {}).await.unwrap();
        assert_eq!(cluster.as_superuser(&config, verifier).await, first, "left as it is");
        migrate::run(&changed, |_| {}).await.unwrap();

        assert_ne!(cluster.as_superuser(&config, verifier).await, first);
        Pool::<Auth>::of(&changed, 1).ping().await.unwrap();
        Pool::<Auth>::of(&config, 1).ping().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_role_that_was_given_more_is_cut_back() {
        let cluster = Cluster::start();
        let config = cluster.migrated().await;
        cluster
            .as_superuser(&config, "ALTER ROLE memoric_app SUPERUSER BYPASSRLS INHERIT; GRANT memoric_owner TO memoric_app; ALTER ROLE memoric_trail LOGIN; ALTER DATABASE memoric_0 OWNER TO postgres; GRANT TEMPORARY ON DATABASE memoric_0 TO PUBLIC")
            .await;

        migrate::run(&config, |_| {}).await.unwrap();

        let state = "SELECT concat_ws(' ',
            (SELECT rolsuper OR rolbypassrls OR rolinherit FROM pg_roles WHERE rolname = 'memoric_app'),
            (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'memoric_trail'),
            pg_has_role('memoric_app', 'memoric_owner', 'MEMBER'),
            has_database_privilege('memoric_app', 'memoric_0', 'TEMPORARY'),
            (SELECT datdba::regrole FROM pg_database WHERE datname = 'memoric_0'))";
        assert_eq!(cluster.as_superuser(&config, state).await, ["f f f f memoric_owner"]);
    }

    #[tokio::test]
    async fn no_role_can_become_another() {
        let config = Cluster::shared().migrated().await;
        let app = Pool::<crate::store::pool::App>::of(&config, 1);

        for role in WITH_LOGIN
            .into_iter()
            .chain(WITHOUT_LOGIN)
            .chain(["postgres"])
            .filter(|role| *role != "memoric_app")
        {
            let turn: &'static str = Box::leak(format!("SET ROLE {role}").into_boxed_str());
            let error = app.call(turn, &[]).await.unwrap_err();
            assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{role}");
        }
    }

    #[tokio::test]
    async fn a_database_in_another_encoding_is_refused() {
        let cluster = Cluster::shared();
        let migrated = cluster.migrated().await;
        cluster
            .as_superuser(&migrated, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'")
            .await;
        let config = cluster
            .config("latin", std::str::from_utf8(migrated.database.password().expose()).unwrap());

        let error = migrate::run(&config, |_| {}).await.unwrap_err();

        assert!(error.to_string().contains("LATIN1"), "{error}");
    }
}
