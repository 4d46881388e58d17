//! Certificates and private keys that rest in files.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer,
    pem::{self, PemObject as _},
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret;

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
    certificates_in(&read(file)?, file)
}

/// The first private key in `file`. One that others may read is told of in the log.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    private_key_in(&read_secret(file)?, file)
}

/// The text of `file`, in which there are certificates.
pub(crate) fn certificates_text(file: &Path) -> Result<Vec<u8>, PemError> {
    let text = read(file)?;
    certificates_in(&text, file).map(|_| text)
}

/// The text of `file`, in which there is a private key.
pub(crate) fn private_key_text(file: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    let text = read_secret(file)?;
    private_key_in(&text, file).map(|_| text)
}

fn certificates_in(text: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable(file, "is not PEM"))?;
    if chain.is_empty() {
        return Err(unusable(file, "holds no certificate"));
    }
    Ok(chain)
}

fn private_key_in(text: &[u8], file: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(file, "holds no private key"),
        _ => unusable(file, "is not PEM"),
    })
}

/// The Ed25519 public key in `file`, as `openssl pkey -pubout` writes it (RFC 8410, section 4).
pub fn ed25519_public_key(file: &Path) -> Result<[u8; 32], PemError> {
    let info =
        SubjectPublicKeyInfoDer::from_pem_slice(&read(file)?).map_err(|error| match error {
            pem::Error::NoItemsFound => unusable(file, "holds no public key"),
            _ => unusable(file, "is not PEM"),
        })?;
    let key = info.strip_prefix(ED25519_INFO).and_then(|key| key.try_into().ok());
    key.ok_or_else(|| unusable(file, "holds no Ed25519 public key"))
}

fn read(file: &Path) -> Result<Vec<u8>, PemError> {
    fs::read(file).map_err(|reason| unreadable(file, reason))
}

fn read_secret(file: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    secret::file::bytes(file, "private key").map_err(|reason| unreadable(file, reason))
}

fn unreadable(file: &Path, reason: io::Error) -> PemError {
    PemError::Unreadable { file: file.to_owned(), reason }
}

fn unusable(file: &Path, reason: &'static str) -> PemError {
    PemError::Unusable { file: file.to_owned(), reason }
}

/// What DER has in front of the 32 bytes of an Ed25519 public key.
const ED25519_INFO: &[u8] =
    &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
