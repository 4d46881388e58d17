//! Secrets of the service itself, which outlive the ring that wraps them.

use memoric_contract::{FieldWriter, KeyPurpose, key_id};
use thiserror::Error;
use uuid::Uuid;

use super::{Key, Keyring, OpenError, terms::hmac};

/// Which secret of the service. The number is stored with it and never given to another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ServiceKey {
    /// Under which API keys are stored.
    ApiKeyPepper = 1,
    /// Under which refresh tokens are authenticated.
    RefreshRing = 2,
    /// Under which the trail's searchable fields are hashed.
    AuditHash = 3,
    /// Under which cursors are authenticated.
    Cursors = 4,
}

/// A random secret of the service.
#[derive(Debug)]
pub(crate) struct ServiceSecret(Key);

/// Every secret of the service, opened.
#[derive(Debug)]
pub(crate) struct ServiceSecrets {
    pub(crate) api_key_pepper: ServiceSecret,
    pub(crate) refresh_ring: ServiceSecret,
    pub(crate) audit_hash: ServiceSecret,
    pub(crate) cursors: ServiceSecret,
}

/// Why the service's secrets are not there.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum ServiceError {
    #[error("service secret {0:?} is not stored")]
    Missing(ServiceKey),
    #[error("service secret {which:?} does not open")]
    Closed { which: ServiceKey, source: OpenError },
}

impl ServiceKey {
    /// Every secret there is.
    pub(crate) const ALL: [Self; 4] =
        [Self::ApiKeyPepper, Self::RefreshRing, Self::AuditHash, Self::Cursors];

    /// The number under which it is stored and wrapped.
    pub(crate) const fn number(self) -> i32 {
        self as i32
    }
}

impl ServiceSecret {
    pub(super) fn new(key: Key) -> Self {
        Self(key)
    }

    /// Names it, for what is authenticated with it.
    pub(crate) fn id(&self, purpose: KeyPurpose) -> [u8; 8] {
        key_id(self.0.expose(), purpose)
    }

    /// HMAC-SHA256 of a message under this secret.
    pub(crate) fn mac(&self, message: &[u8]) -> [u8; 32] {
        hmac(self.0.expose(), message)
    }
}

impl ServiceSecrets {
    /// Opens what is stored; `wrapped` finds the bytes of each.
    pub(crate) fn open<'a>(
        ring: &Keyring,
        wrapped: impl Fn(ServiceKey) -> Option<&'a [u8]>,
    ) -> Result<Self, ServiceError> {
        let open = |which| {
            let wrapped = wrapped(which).ok_or(ServiceError::Missing(which))?;
            ring.service_secret(which, wrapped)
                .map_err(|source| ServiceError::Closed { which, source })
        };
        Ok(Self {
            api_key_pepper: open(ServiceKey::ApiKeyPepper)?,
            refresh_ring: open(ServiceKey::RefreshRing)?,
            audit_hash: open(ServiceKey::AuditHash)?,
            cursors: open(ServiceKey::Cursors)?,
        })
    }

    /// What the trail searches by in place of `value`. The same value under another label has another hash.
    pub(crate) fn audit_hash(&self, label: &str, value: &str) -> [u8; 32] {
        self.audit_hash.mac(&FieldWriter::new().text(label).text(value).finish())
    }

    /// What the trail keeps of one writing of a record, so that an old row put back is found.
    pub(crate) fn record_digest(&self, record: Uuid, version: i64) -> [u8; 32] {
        self.audit_hash
            .mac(&FieldWriter::new().text("record").uuid(record).integer(version).finish())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_number_names_one_secret_for_ever() {
        assert_eq!(ServiceKey::ALL.map(ServiceKey::number), [1, 2, 3, 4]);
    }

    #[test]
    fn a_missing_secret_is_named() {
        let ring = Keyring::random();
        let (_, pepper) = ring.new_service_secret(ServiceKey::ApiKeyPepper).unwrap();
        let stored = |which| (which == ServiceKey::ApiKeyPepper).then_some(pepper.as_slice());
        assert_eq!(
            ServiceSecrets::open(&ring, stored).unwrap_err(),
            ServiceError::Missing(ServiceKey::RefreshRing)
        );
    }

    #[test]
    fn secrets_come_back_as_they_were_made() {
        let ring = Keyring::random();
        let made = ServiceKey::ALL.map(|which| ring.new_service_secret(which).unwrap());

        let stored = |which: ServiceKey| {
            ServiceKey::ALL
                .iter()
                .zip(&made)
                .find(|(key, _)| **key == which)
                .map(|(_, (_, wrapped))| wrapped.as_slice())
        };
        let secrets = ServiceSecrets::open(&ring, stored).unwrap();

        assert_eq!(secrets.cursors.mac(b"x"), made[3].0.mac(b"x"));
        assert_ne!(secrets.cursors.mac(b"x"), secrets.audit_hash.mac(b"x"));
    }

    #[test]
    fn a_hash_in_the_trail_is_what_the_format_says() {
        let secrets = known();
        let hash = secrets.audit_hash("address", "203.0.113.7");
        assert_eq!(
            hex::encode(hash),
            "612bb26ecc570d3e91533c4a81409bc98405b79db63731acec66e877a5ebf1b2"
        );
        let digest =
            secrets.record_digest(Uuid::from_u128(0x018f_2e4a_7b1c_7d3e_8f90_a1b2_c3d4_e5f6), 3);
        assert_eq!(
            hex::encode(digest),
            "ef28e39a429e16d63b16072735fbb7d648836ecf75ed40fa43f94b741d8c37e6"
        );
        assert_ne!(hash, secrets.audit_hash("username", "203.0.113.7"), "another label");
    }

    pub(crate) fn known() -> ServiceSecrets {
        let key = || {
            ServiceSecret::new(
                Key::from_slice(&std::array::from_fn::<u8, 32, _>(|n| n as u8)).unwrap(),
            )
        };
        ServiceSecrets {
            api_key_pepper: key(),
            refresh_ring: key(),
            audit_hash: key(),
            cursors: key(),
        }
    }
}
