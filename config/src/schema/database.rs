//! `database`: PostgreSQL.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// PostgreSQL. Roles and their passwords are not settings: each process has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// A `postgresql://` DSN in place of `host`, `port` and `name`, without a password.
    pub url: Option<String>,
    /// The folder of a Unix socket, or a host name.
    pub host: String,
    /// The port, also part of the socket's name.
    pub port: u16,
    /// The database.
    pub name: String,
    /// Whether the connection is encrypted and the server's name verified.
    pub tls: DatabaseTls,
    /// PEM file of the authorities that may sign the server's certificate.
    pub ca: Option<PathBuf>,
    /// DSN of a superuser, for `migrate` alone, without a password.
    pub admin: Option<String>,
    /// Connections per role, 1 to 1000.
    pub pool: usize,
}

/// Whether the connection to PostgreSQL is encrypted and the server's name verified.
///
/// There is nothing between the two: encryption without verification protects from nobody
/// who can stand in the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseTls {
    /// In clear: for a Unix socket or loopback.
    #[default]
    Off,
    /// Encrypted, the certificate signed by `database.ca` for the host's name.
    VerifyFull,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            host: "/run/postgresql".to_owned(),
            port: 5432,
            name: "memoric".to_owned(),
            tls: DatabaseTls::Off,
            ca: None,
            admin: None,
            pool: 16,
        }
    }
}
