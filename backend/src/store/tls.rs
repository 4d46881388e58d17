//! The way to PostgreSQL: a socket, a loopback address, or TLS whose certificate is checked in full.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use memoric_config::pem::{PemError, certificates};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};
use tokio_postgres::{Client, Connection, NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Tls;

/// Opens connections, encrypted or not.
#[derive(Clone)]
pub(crate) enum Connector {
    /// In clear. Only a socket or a loopback address is reached this way; see [`crate::config`].
    Plain,
    /// TLS 1.2 or 1.3. The certificate must be the named host's, from the named authority.
    Verified(MakeRustlsConnect),
}

/// The task that moves bytes for one connection. Dropping it closes the socket at once.
pub(crate) struct Driver(JoinHandle<()>);

/// Why the authority's certificate cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    File(#[from] PemError),
    #[error("{}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

impl Connector {
    /// Reads the authority's certificate, where one is needed.
    pub(crate) fn new(tls: &Tls) -> Result<Self, TlsError> {
        match tls {
            Tls::Off => Ok(Self::Plain),
            Tls::VerifyFull { ca } => verified(ca).map(MakeRustlsConnect::new).map(Self::Verified),
        }
    }

    /// Opens one connection and starts to move its bytes.
    pub(crate) async fn connect(
        &self,
        config: &tokio_postgres::Config,
    ) -> Result<(Client, Driver), tokio_postgres::Error> {
        let mut config = config.clone();
        match self {
            Self::Plain => {
                let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
                Ok((client, Driver::start(connection)))
            }
            Self::Verified(tls) => {
                let (client, connection) =
                    config.ssl_mode(SslMode::Require).connect(tls.clone()).await?;
                Ok((client, Driver::start(connection)))
            }
        }
    }
}

impl Driver {
    fn start<S, T>(connection: Connection<S, T>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self(tokio::spawn(async move {
            // Whoever waits for an answer hears of it too, as the end of the connection.
            if let Err(error) = connection.await {
                tracing::debug!(error = %crate::store::pool::StoreError::from(error), "a database connection ended");
            }
        }))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn verified(ca: &Path) -> Result<ClientConfig, TlsError> {
    let refused = |reason: String| TlsError::Unusable { path: ca.into(), reason };

    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots
            .add(certificate)
            .map_err(|error| refused(format!("holds no usable certificate: {error}")))?;
    }
    // The provider is named, so that it does not matter which one the process has installed.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use memoric_config::{Environment, Settings, schema::DatabaseTls};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;
    use crate::{
        config::MigrateConfig,
        store::pool::{Pools, StoreError, cluster::Cluster},
    };

    type Authority = CertifiedIssuer<'static, KeyPair>;

    #[tokio::test]
    async fn only_the_named_host_with_a_certificate_of_the_authority_is_spoken_to() {
        let (ours, theirs) = (authority(), authority());
        let port = free_port();
        let cluster = Cluster::with_tls(port, |folder| certify(folder, &ours, "localhost"));
        let files = tempfile::tempdir().unwrap();
        let ca = |name: &str, authority: &Authority| {
            let path = files.path().join(name);
            fs::write(&path, authority.pem()).unwrap();
            path
        };
        let (right, wrong) = (ca("right.pem", &ours), ca("wrong.pem", &theirs));

        let migrated = verified(&cluster, port, "localhost", &right);
        crate::migrate::run(&migrated, |_| {}).await.unwrap();
        let seen = Pools::new(&migrated.database).unwrap().auth.call(ENCRYPTED, &[]).await.unwrap();
        assert!(seen[0].get::<_, bool>(0));

        let error = ping(&verified(&cluster, port, "localhost", &wrong)).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "another authority: {error}");
        let error = ping(&verified(&cluster, port, "127.0.0.1", &right)).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "another name: {error}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_not_spoken_to_in_clear() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("ca.pem");
        fs::write(&path, authority().pem()).unwrap();
        let config = configured("localhost", port, &path);
        let heard = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"N").await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            rest
        });

        ping(&config).await.unwrap_err();

        assert_eq!(heard.await.unwrap(), b"", "not even the name of the role");
    }

    #[test]
    fn an_authority_that_cannot_be_read_is_named() {
        let files = tempfile::tempdir().unwrap();
        let (absent, empty) = (files.path().join("absent.pem"), files.path().join("empty.pem"));
        fs::write(&empty, "no certificate").unwrap();

        for ca in [absent, empty] {
            let error = Connector::new(&Tls::VerifyFull { ca: ca.clone() }).err().unwrap();
            assert!(error.to_string().starts_with(ca.to_str().unwrap()), "{error}");
        }
    }

    async fn ping(config: &MigrateConfig) -> Result<(), StoreError> {
        Pools::new(&config.database).unwrap().auth.ping().await
    }

    fn verified(cluster: &Cluster, port: u16, host: &str, ca: &Path) -> MigrateConfig {
        let admin = cluster.config("memoric", PASSWORD).admin;
        MigrateConfig {
            admin: admin
                .map(|admin| crate::config::Admin { endpoint: endpoint(host, port, ca), ..admin }),
            ..configured(host, port, ca)
        }
    }

    fn endpoint(host: &str, port: u16, ca: &Path) -> crate::config::Endpoint {
        configured(host, port, ca).database.endpoint
    }

    fn configured(host: &str, port: u16, ca: &Path) -> MigrateConfig {
        let mut settings = Settings::default();
        settings.database.host = host.to_owned();
        settings.database.port = port;
        settings.database.tls = DatabaseTls::VerifyFull;
        settings.database.ca = Some(ca.into());
        let environment = Environment::from_iter([("MEMORIC_DB_PASSWORD", PASSWORD)]);
        MigrateConfig::new(&settings, &environment).unwrap()
    }

    fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn certify(folder: &Path, authority: &Authority, host: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, authority).unwrap();
        fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
        fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    }

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    const PASSWORD: &str = "a password of the tests, long enough";

    const ENCRYPTED: &str =
        "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
}
