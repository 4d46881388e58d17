//! The TLS that clients are spoken to with.

use std::{path::PathBuf, sync::Arc};

use memoric_config::pem::{PemError, certificates, private_key};
use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::ring,
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};
use thiserror::Error;

use crate::config::Https;

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

/// TLS 1.2 and 1.3 with the certificate of `https`, for HTTP/2 and HTTP/1.1.
pub(crate) fn server_config(https: &Https) -> Result<Arc<ServerConfig>, CertificateError> {
    let chain = certificates(&https.certificate)?;
    let key = private_key(&https.key)?;
    let refused = |source| refusal(https, source);

    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed from tickets under a key that is renewed every six hours, so that
    // strangers leave nothing behind with us.
    config.ticketer = ring::Ticketer::new().map_err(refused)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
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
