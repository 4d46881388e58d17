//! Where the database is, and who we are there.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use hkdf::Hkdf;
use memoric_config::{
    ConfigError, DatabasePassword, Environment, Invalid, SecretString,
    schema::{self, DatabaseTls},
};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The database, as every role of ours reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// The server.
    pub(crate) endpoint: Endpoint,
    /// The name of the database on it.
    pub(crate) name: String,
    /// The most connections that serve users at one time.
    pub(crate) connections: usize,
    password: DatabasePassword,
}

/// A server, reached in a way that nobody between can read or change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Endpoint {
    host: Host,
    port: u16,
    tls: Tls,
}

/// Which machine, or which folder of this one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Host {
    /// The folder that holds the server's socket.
    Socket(PathBuf),
    /// A name or an address.
    Name(String),
}

/// How the connection is protected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Tls {
    /// In clear, so it never leaves this machine.
    Off,
    /// The certificate must be the host's own, signed by `ca`.
    VerifyFull {
        /// The authority's certificates, as PEM.
        ca: PathBuf,
    },
}

/// A superuser's way in.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// The server, which is everybody's, though perhaps by another way.
    pub(crate) endpoint: Endpoint,
    /// The superuser's name.
    pub(crate) user: String,
    /// The superuser's password. A socket may do without.
    pub(crate) password: Option<SecretString>,
    /// A database that exists already, to make ours from.
    pub(crate) database: String,
}

/// A DSN, taken apart.
#[derive(Debug, Default)]
struct Dsn {
    host: Option<Host>,
    port: Option<u16>,
    name: Option<String>,
    user: Option<String>,
    tls: Option<Tls>,
}

impl Database {
    /// Checks where the database is, and that its password is one.
    pub(crate) fn new(
        settings: &schema::Database,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let (endpoint, name) = match &settings.url {
            Some(url) => by_url(url, settings)?,
            None => {
                let tls = tls_of(settings)?;
                (
                    Endpoint::new("database.host", host(&settings.host), settings.port, tls)?,
                    settings.name.clone(),
                )
            }
        };
        if name.is_empty() || name.len() > 63 {
            return Err(Invalid::new("database.name", "must have 1 to 63 bytes").into());
        }
        let connections = match settings.pool {
            size @ 1..=1000 => size,
            _ => return Err(Invalid::new("database.pool", "must be between 1 and 1000").into()),
        };
        let password = environment.secret(PASSWORD)?.ok_or_else(|| {
            Invalid::new(PASSWORD, format!("is not set, and neither is {PASSWORD}_FILE"))
        })?;
        Ok(Self { endpoint, name, connections, password: DatabasePassword::check(password)? })
    }

    /// The password of one role.
    pub(crate) fn password_of(&self, role: &str) -> SecretString {
        role_password(self.password.expose(), role)
    }

    /// What all of them derive from.
    pub(crate) fn password(&self) -> &DatabasePassword {
        &self.password
    }
}

impl Admin {
    /// The superuser that `database.admin` names, if it does.
    pub(crate) fn new(
        settings: &schema::Database,
        environment: &Environment,
        everybody: &Endpoint,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(url) = &settings.admin else { return Ok(None) };

        let dsn = Dsn::parse("database.admin", url, settings.ca.as_deref())?;
        let endpoint = Endpoint::new(
            "database.admin",
            dsn.host.unwrap_or_else(|| everybody.host.clone()),
            dsn.port.unwrap_or(everybody.port),
            dsn.tls.unwrap_or_else(|| everybody.tls.clone()),
        )?;
        Ok(Some(Self {
            endpoint,
            user: dsn.user.ok_or_else(|| Invalid::new("database.admin", "must name a user"))?,
            password: environment.secret("MEMORIC_DB_ADMIN_PASSWORD")?,
            database: dsn.name.unwrap_or_else(|| "postgres".to_owned()),
        }))
    }
}

impl Endpoint {
    /// Refuses a way that crosses a network in clear: rows, names and contexts would be there to
    /// read, and answers there to change.
    fn new(field: &str, host: Host, port: u16, tls: Tls) -> Result<Self, Invalid> {
        let reason = match (&host, &tls) {
            (Host::Socket(_), Tls::VerifyFull { .. }) => {
                "a socket has no TLS: name a host, or set database.tls to off"
            }
            (Host::Name(name), Tls::Off) if !is_loopback(name) => {
                "is another machine, and database.tls is off: set it to verify-full"
            }
            (Host::Name(name), _) if name.is_empty() => "is empty",
            (Host::Socket(_) | Host::Name(_), Tls::Off | Tls::VerifyFull { .. }) => {
                return Ok(Self { host, port, tls });
            }
        };
        Err(Invalid::new(field, reason))
    }

    /// Which machine, or which folder.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// The port, which is part of a socket's name too.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How the connection is protected.
    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Socket(folder) => write!(f, "{}, port {}", folder.display(), self.port),
            Host::Name(name) => write!(f, "{name}, port {}", self.port),
        }
    }
}

impl Dsn {
    /// Takes a DSN apart. What it may hold is listed here; the rest is refused, because an
    /// option that is quietly ignored is one that somebody relies on.
    fn parse(field: &str, url: &str, ca: Option<&Path>) -> Result<Self, Invalid> {
        let refused = |reason: String| Invalid::new(field, reason);
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            return Err(refused("must begin with postgresql://".to_owned()));
        }

        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let mut known = Vec::new();
        let (mut mode, mut root) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => root = Some(value),
                Some(("host" | "port" | "user" | "dbname", _)) => known.push(pair),
                Some(("password", _)) => return Err(refused(NO_PASSWORD.to_owned())),
                Some((name, _)) => return Err(refused(format!("the option {name} is not known"))),
                None => return Err(refused(format!("{pair} has no value"))),
            }
        }
        let parsed: tokio_postgres::Config = format!("{place}?{}", known.join("&"))
            .parse()
            .map_err(|_| refused("is not a DSN".to_owned()))?;
        if parsed.get_password().is_some() {
            return Err(refused(NO_PASSWORD.to_owned()));
        }
        Ok(Self {
            host: only(parsed.get_hosts()).map_err(refused)?.map(Host::from),
            port: only(parsed.get_ports()).map_err(refused)?.copied(),
            name: parsed.get_dbname().map(str::to_owned),
            user: parsed.get_user().map(str::to_owned),
            tls: tls_of_dsn(mode, root, ca).map_err(refused)?,
        })
    }
}

impl From<&tokio_postgres::config::Host> for Host {
    fn from(host: &tokio_postgres::config::Host) -> Self {
        match host {
            tokio_postgres::config::Host::Tcp(name) => Self::Name(name.clone()),
            tokio_postgres::config::Host::Unix(folder) => Self::Socket(folder.clone()),
        }
    }
}

fn by_url(url: &str, settings: &schema::Database) -> Result<(Endpoint, String), Invalid> {
    let dsn = Dsn::parse("database.url", url, settings.ca.as_deref())?;
    if dsn.user.is_some() {
        return Err(Invalid::new(
            "database.url",
            "must not name a user: each role of ours has its own name",
        ));
    }
    let tls = match dsn.tls {
        Some(tls) => tls,
        None => tls_of(settings)?,
    };
    let host = dsn.host.unwrap_or_else(|| host(&settings.host));
    let endpoint = Endpoint::new("database.url", host, dsn.port.unwrap_or(settings.port), tls)?;
    Ok((endpoint, dsn.name.unwrap_or_else(|| settings.name.clone())))
}

fn host(text: &str) -> Host {
    if text.starts_with('/') {
        Host::Socket(PathBuf::from(text))
    } else {
        Host::Name(text.to_owned())
    }
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls_of(settings: &schema::Database) -> Result<Tls, Invalid> {
    match (settings.tls, &settings.ca) {
        (DatabaseTls::Off, _) => Ok(Tls::Off),
        (DatabaseTls::VerifyFull, Some(ca)) => Ok(Tls::VerifyFull { ca: ca.clone() }),
        (DatabaseTls::VerifyFull, None) => {
            Err(Invalid::new("database.ca", "is not set, and database.tls is verify-full"))
        }
    }
}

/// Translates libpq's words; `ca` is believed where they name no authorities. Those in between encrypt without knowing for whom, or fall back to clear.
fn tls_of_dsn(
    mode: Option<&str>,
    root: Option<&str>,
    ca: Option<&Path>,
) -> Result<Option<Tls>, String> {
    match (mode, root) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("sslrootcert has no sslmode=verify-full beside it".to_owned()),
        (Some("disable"), _) => Ok(Some(Tls::Off)),
        (Some("verify-full"), None) => {
            let ca = ca.ok_or("sslmode=verify-full needs sslrootcert, or database.ca")?;
            Ok(Some(Tls::VerifyFull { ca: ca.to_owned() }))
        }
        (Some("verify-full"), Some("system")) => Err("sslrootcert must be a file".to_owned()),
        (Some("verify-full"), Some(root)) => Ok(Some(Tls::VerifyFull { ca: decoded(root)? })),
        (Some(mode), _) => Err(format!(
            "sslmode={mode} does not make sure who the server is: use verify-full, or disable on this machine"
        )),
    }
}

/// Undoes percent-encoding, by the same rules as for the rest of a DSN.
fn decoded(value: &str) -> Result<PathBuf, String> {
    let parsed: Result<tokio_postgres::Config, _> =
        format!("postgresql:///?application_name={value}").parse();
    let name = parsed.ok().and_then(|config| config.get_application_name().map(PathBuf::from));
    name.ok_or_else(|| "sslrootcert is not a path".to_owned())
}

fn only<T>(all: &[T]) -> Result<Option<&T>, String> {
    match all {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err("names more than one server".to_owned()),
    }
}

const PASSWORD: &str = "MEMORIC_DB_PASSWORD";

const NO_PASSWORD: &str =
    "must not hold a password: secrets come from the environment, or from files it names";

/// The password of one role, derived from the one that the operator gives. From a role's own
/// password no other can be found.
pub fn role_password(password: &[u8], role: &str) -> SecretString {
    let mut derived = Zeroizing::new([0; 32]);
    // 32 bytes are within HKDF's bound, so this cannot be refused.
    let _ = Hkdf::<Sha256>::new(None, password)
        .expand_multi_info(&[b"memoric/db/", role.as_bytes()], derived.as_mut_slice());
    SecretString::from(hex::encode(derived.as_slice()))
}

#[cfg(test)]
mod tests {
    use memoric_config::{ExposeSecret as _, Settings};

    use super::*;

    #[test]
    fn the_default_is_a_socket_in_clear() {
        let database = database(|_| {}).unwrap();

        assert_eq!(database.endpoint.host(), &Host::Socket("/run/postgresql".into()));
        assert_eq!((database.endpoint.tls(), database.name.as_str()), (&Tls::Off, "memoric"));
    }

    #[test]
    fn nothing_crosses_a_network_in_clear() {
        for host in ["localhost", "127.0.0.1", "127.1.2.3", "::1"] {
            assert!(database(|settings| settings.host = host.to_owned()).is_ok(), "{host}");
        }
        for host in
            ["db", "10.0.0.1", "0.0.0.0", "localhost.example.com", "127.0.0.1.example.com", ""]
        {
            let error = database(|settings| settings.host = host.to_owned()).unwrap_err();
            assert!(error.starts_with("database.host: "), "{host}: {error}");
        }
        let error = url("postgresql://db/memoric?sslmode=disable").unwrap_err();
        assert!(error.contains("verify-full"), "{error}");
    }

    #[test]
    fn a_host_is_verified_in_full_or_not_used() {
        let verified = |settings: &mut schema::Database| {
            settings.host = "db".to_owned();
            settings.tls = DatabaseTls::VerifyFull;
        };

        assert!(database(verified).unwrap_err().starts_with("database.ca: "));
        let database = database(|settings| {
            verified(settings);
            settings.ca = Some("/ca.pem".into());
        });
        assert_eq!(database.unwrap().endpoint.tls(), &Tls::VerifyFull { ca: "/ca.pem".into() });
    }

    #[test]
    fn a_socket_cannot_be_verified() {
        let error = database(|settings| {
            settings.tls = DatabaseTls::VerifyFull;
            settings.ca = Some("/ca.pem".into());
        });

        assert!(error.unwrap_err().contains("a socket has no TLS"));
    }

    #[test]
    fn a_dsn_is_translated() {
        let database =
            url("postgresql://db:6432/mine?sslmode=verify-full&sslrootcert=%2Fetc%2Fca%20file.pem")
                .unwrap();

        assert_eq!(database.endpoint.host(), &Host::Name("db".to_owned()));
        assert_eq!((database.endpoint.port(), database.name.as_str()), (6432, "mine"));
        assert_eq!(database.endpoint.tls(), &Tls::VerifyFull { ca: "/etc/ca file.pem".into() });
    }

    #[test]
    fn a_dsn_that_names_no_authorities_means_those_that_are_set_beside_it() {
        let verified = |settings: &mut schema::Database| {
            settings.url = Some("postgresql://db/mine?sslmode=verify-full".to_owned());
        };

        assert!(database(verified).unwrap_err().contains("database.ca"));
        for (root, ca) in [("", "/ca.pem"), ("&sslrootcert=/own.pem", "/own.pem")] {
            let database = database(|settings| {
                settings.url = Some(format!("postgresql://db/mine?sslmode=verify-full{root}"));
                settings.ca = Some("/ca.pem".into());
            });
            assert_eq!(database.unwrap().endpoint.tls(), &Tls::VerifyFull { ca: ca.into() });
        }
    }

    #[test]
    fn a_dsn_may_name_a_socket() {
        for text in
            ["postgresql:///mine?host=/tmp/pg&port=6000", "postgres://%2Ftmp%2Fpg:6000/mine"]
        {
            let database = url(text).unwrap();
            assert_eq!(database.endpoint.host(), &Host::Socket("/tmp/pg".into()), "{text}");
            assert_eq!(
                (database.endpoint.port(), database.name.as_str()),
                (6000, "mine"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_a_dsn_leaves_out_is_as_set_beside_it() {
        let database = url("postgresql://localhost").unwrap();

        assert_eq!((database.endpoint.port(), database.name.as_str()), (5432, "memoric"));
    }

    #[test]
    fn a_dsn_that_promises_less_or_more_than_we_keep_is_refused() {
        for (text, reason) in [
            ("postgresql://db/m?sslmode=require", "sslmode=require"),
            ("postgresql://db/m?sslmode=prefer", "sslmode=prefer"),
            ("postgresql://db/m?sslmode=allow", "sslmode=allow"),
            ("postgresql://db/m?sslmode=verify-ca&sslrootcert=/ca", "sslmode=verify-ca"),
            ("postgresql://db/m?sslmode=VERIFY-FULL&sslrootcert=/ca", "sslmode=VERIFY-FULL"),
            ("postgresql://db/m?sslmode=verify-full", "sslrootcert"),
            ("postgresql://db/m?sslmode=verify-full&sslrootcert=system", "sslrootcert"),
            ("postgresql://db/m?sslrootcert=/ca", "sslmode"),
            ("postgresql://db/m", "verify-full"),
            ("postgresql://one,two/m", "more than one"),
            ("postgresql://localhost/m?options=-csearch_path%3Devil", "options"),
            ("postgresql://localhost/m?target_session_attrs=any", "target_session_attrs"),
            ("postgresql://localhost/m?sslmode", "no value"),
            ("postgresql://memoric_app@localhost/m", "user"),
            ("postgresql://localhost/m?user=memoric_app", "user"),
            ("postgresql://:canary@localhost/m", "password"),
            ("postgresql://localhost/m?password=canary", "password"),
            ("postgresql://localhost:port/m", "not a DSN"),
            ("mysql://localhost/m", "postgresql://"),
            ("host=localhost", "postgresql://"),
        ] {
            let error = url(text).unwrap_err();
            assert!(
                error.starts_with("database.url: ") && error.contains(reason),
                "{text}: {error}"
            );
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_superuser_comes_the_same_way_unless_told_otherwise() {
        let admin = admin("postgresql://postgres@/").unwrap().unwrap();

        assert_eq!(admin.endpoint.host(), &Host::Socket("/run/postgresql".into()));
        assert_eq!((admin.user.as_str(), admin.database.as_str()), ("postgres", "postgres"));
        assert_eq!(admin.password.unwrap().expose_secret(), "of the superuser");
    }

    #[test]
    fn a_superuser_has_a_name_and_no_password_in_the_file() {
        assert!(admin("postgresql://localhost/postgres").unwrap_err().contains("user"));
        assert!(admin("postgresql://postgres:canary@localhost/").unwrap_err().contains("password"));
        assert!(admin("postgresql://postgres@elsewhere/").unwrap_err().contains("verify-full"));
    }

    #[test]
    fn every_role_has_a_password_of_its_own() {
        let database = database(|_| {}).unwrap();

        assert_eq!(database.password_of("memoric_app").expose_secret(), APP);
        assert_ne!(database.password_of("memoric_auth").expose_secret(), APP);
    }

    #[test]
    fn without_a_password_nothing_starts() {
        let error =
            Database::new(&schema::Database::default(), &Environment::default()).unwrap_err();

        assert!(error.to_string().starts_with("MEMORIC_DB_PASSWORD: "), "{error}");
    }

    #[test]
    fn a_database_shows_no_password() {
        let shown = format!("{:?}", database(|_| {}).unwrap());

        assert!(!shown.contains("correct horse"), "{shown}");
    }

    fn database(change: impl FnOnce(&mut schema::Database)) -> Result<Database, String> {
        let mut settings = Settings::default().database;
        change(&mut settings);
        Database::new(&settings, &environment()).map_err(|error| error.to_string())
    }

    fn url(text: &str) -> Result<Database, String> {
        database(|settings| settings.url = Some(text.to_owned()))
    }

    fn admin(text: &str) -> Result<Option<Admin>, String> {
        let settings =
            schema::Database { admin: Some(text.to_owned()), ..schema::Database::default() };
        let everybody = database(|_| {}).unwrap().endpoint;
        Admin::new(&settings, &environment(), &everybody).map_err(|error| error.to_string())
    }

    fn environment() -> Environment {
        Environment::from_iter([
            ("MEMORIC_DB_PASSWORD", "correct horse battery staple"),
            ("MEMORIC_DB_ADMIN_PASSWORD", "of the superuser"),
        ])
    }

    // python: HKDF(SHA256, 32, salt=None, info=b"memoric/db/memoric_app").derive(b"correct horse battery staple").hex()
    const APP: &str = "5163e35350a1429afd993cc9b76a2992e50f25d052e02bb5fead018aa6cc2786";
}
