//! The TLS that clients are spoken to with.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use memoric_config::pem::{PemError, certificates, private_key};
use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::ring,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use thiserror::Error;

use crate::config::Https;

/// The certificate that clients are shown, which can be renewed while they are served.
#[derive(Debug)]
pub(crate) struct Certificate(ArcSwap<CertifiedKey>);

/// Why the certificate cannot be shown.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file is missing, or not what it should be.
    #[error(transparent)]
    File(#[from] PemError),
    /// Certificate and key are those of two servers.
    #[error("{}: is not the key of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The TLS library refuses them.
    #[error("{}: cannot be used", .certificate.display())]
    Refused {
        /// The file of the certificate.
        certificate: PathBuf,
        /// What the library says.
        source: rustls::Error,
    },
}

impl Certificate {
    /// The certificate of `https`.
    pub(crate) fn read(https: &Https) -> Result<Self, CertificateError> {
        certified(https).map(|key| Self(ArcSwap::from_pointee(key)))
    }

    /// Shows what the files of `https` hold now, from the next handshake on. Where that cannot be
    /// used, it goes on showing what it does.
    pub(crate) fn renew(&self, https: &Https) -> Result<(), CertificateError> {
        certified(https).map(|key| self.0.store(Arc::new(key)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS 1.2 and 1.3 that shows `certificate`, for HTTP/2 and HTTP/1.1.
pub(crate) fn server_config(
    certificate: Arc<Certificate>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed from tickets under a key that is renewed every six hours, so that
    // strangers leave nothing behind with us.
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn certified(https: &Https) -> Result<CertifiedKey, CertificateError> {
    let chain = certificates(&https.certificate)?;
    let key = private_key(&https.key)?;
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
    certified.map_err(|source| refusal(https, source))
}

fn refusal(https: &Https, source: rustls::Error) -> CertificateError {
    let (certificate, key) = (https.certificate.clone(), https.key.clone());
    match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            CertificateError::Mismatch { certificate, key }
        }
        source => CertificateError::Refused { certificate, source },
    }
}
