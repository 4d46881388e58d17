//! Where what a person said becomes bytes that tell nothing, and the keys that turn them back.

mod envelope;
mod keyring;
mod service;
mod terms;

use secrecy::{ExposeSecret, SecretBox};

#[cfg(test)]
pub(crate) use self::service::tests::known as known_secrets;

pub(crate) use self::{
    envelope::{Envelope, OpenError, Place, Purpose, SealError, Sealing, seal},
    keyring::{DataKey, IndexKey, KeyFileError, KeyTextError, Keyring, RingId, RingKey},
    service::{ServiceError, ServiceKey, ServiceSecret, ServiceSecrets},
    terms::Term,
};

/// Thirty-two secret bytes. They cannot be printed and are gone when dropped.
#[derive(Debug)]
struct Key(SecretBox<[u8; 32]>);

impl Key {
    fn random() -> Result<Self, SealError> {
        let mut bytes = Box::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(SecretBox::new(bytes)))
    }

    fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(SecretBox::new(Box::new(bytes))))
    }

    fn expose(&self) -> &[u8; 32] {
        self.0.expose_secret()
    }
}
