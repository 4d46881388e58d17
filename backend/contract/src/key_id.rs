//! The names of keys, derived from the keys themselves so that no configuration can mix them up.

use hkdf::Hkdf;
use sha2::Sha256;

/// What a key is for. One key under two purposes has two ids.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyPurpose {
    /// Signs access tokens.
    Jwt,
    /// Signs the gateway's word about a request.
    Assertion,
    /// Wraps data keys.
    KeyEncryption,
    /// Authenticates refresh tokens.
    Refresh,
}

/// The first 8 bytes of HKDF-SHA256 of the key, under a label of its purpose.
pub fn key_id(key: &[u8], purpose: KeyPurpose) -> [u8; 8] {
    let mut id = [0; 8];
    // Eight bytes are within HKDF's bound, so this cannot be refused.
    let _ = Hkdf::<Sha256>::new(None, key).expand(purpose.label(), &mut id);
    id
}

impl KeyPurpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Jwt => b"memoric/id/jwt/1",
            Self::Assertion => b"memoric/id/assertion/1",
            Self::KeyEncryption => b"memoric/id/kek/1",
            Self::Refresh => b"memoric/id/refresh/1",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_is_what_hkdf_says() {
        // python: HKDF(SHA256, 8, salt=None, info=b"memoric/id/jwt/1").derive(b"k" * 64)
        assert_eq!(hex::encode(key_id(&[b'k'; 64], KeyPurpose::Jwt)), VECTOR);
    }

    #[test]
    fn one_key_has_another_id_for_another_purpose() {
        let ids: HashSet<_> = [
            KeyPurpose::Jwt,
            KeyPurpose::Assertion,
            KeyPurpose::KeyEncryption,
            KeyPurpose::Refresh,
        ]
        .into_iter()
        .map(|purpose| key_id(b"key", purpose))
        .collect();
        assert_eq!(ids.len(), 4);
    }

    const VECTOR: &str = "0179a60fbb9d4f26";
}
