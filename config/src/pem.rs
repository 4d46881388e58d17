//! Certificates and private keys that rest in files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use thiserror::Error;

/// Why a file holds nothing that can be used.
#[derive(Debug, Error)]
pub enum PemError {
    /// It is missing, or not ours to read.
    #[error("{}: cannot be read: {reason}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {reason}", .file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The certificates in `file`, in order. There is at least one.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable(file, "is not PEM"))?;
    if chain.is_empty() {
        return Err(unusable(file, "holds no certificate"));
    }
    Ok(chain)
}

/// The first private key in `file`.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(file, "holds no private key"),
        _ => unusable(file, "is not PEM"),
    })
}

fn read(file: &Path) -> Result<Vec<u8>, PemError> {
    fs::read(file).map_err(|reason| PemError::Unreadable { file: file.to_owned(), reason })
}

fn unusable(file: &Path, reason: &'static str) -> PemError {
    PemError::Unusable { file: file.to_owned(), reason }
}
