//! One key of the ring, which knows one algorithm, and what signs with one.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto, errors};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Claims;
use crate::{KeyPurpose, key_id};

/// A key that tokens are believed by. It knows one algorithm, so that a token's header has none to
/// choose from (RFC 8725, section 3.1).
#[derive(Clone)]
pub struct TokenKey {
    kid: String,
    key: Key,
}

#[derive(Clone)]
enum Key {
    /// HMAC with SHA-256: who verifies can sign as well.
    Hs256(DecodingKey),
    /// Ed25519, of which this is the public half.
    EdDsa(DecodingKey, [u8; 32]),
}

/// Mints access tokens. The backend alone has one.
#[derive(Clone)]
pub struct TokenSigner {
    header: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl TokenKey {
    /// An HS256 secret.
    pub fn hs256(secret: &[u8]) -> Self {
        let kid = hex::encode(key_id(secret, KeyPurpose::Jwt));
        Self { kid, key: Key::Hs256(DecodingKey::from_secret(secret)) }
    }

    /// The public half of an Ed25519 key (RFC 8037).
    pub fn ed25519(public: &[u8; 32]) -> Self {
        let kid = hex::encode(Sha256::digest(public).iter().take(8).copied().collect::<Vec<_>>());
        Self { kid, key: Key::EdDsa(DecodingKey::from_ed_der(public), *public) }
    }

    /// The same key by another name, for vectors of others' making.
    #[cfg(test)]
    pub(super) fn called(self, kid: &str) -> Self {
        Self { kid: kid.to_owned(), ..self }
    }

    /// What tokens call it: derived from the key, so that no setting can mix two of them up.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its one algorithm, as RFC 7518 and RFC 8037 spell it.
    pub const fn algorithm(&self) -> &'static str {
        match self.key {
            Key::Hs256(_) => "HS256",
            Key::EdDsa(..) => "EdDSA",
        }
    }

    /// What the world may know of it (RFC 8037, section 2), which of a secret is nothing.
    pub(super) fn to_jwk(&self) -> Option<Value> {
        let Key::EdDsa(_, public) = &self.key else { return None };
        Some(json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": BASE64.encode(public),
            "kid": self.kid,
            "alg": self.algorithm(),
            "use": "sig",
        }))
    }

    /// Whether `signature` is one of this key's over `message`.
    pub(super) fn signed(&self, message: &[u8], signature: &str) -> bool {
        let (key, algorithm) = match &self.key {
            Key::Hs256(key) => (key, Algorithm::HS256),
            Key::EdDsa(key, _) => (key, Algorithm::EdDSA),
        };
        crypto::verify(signature, message, key, algorithm).unwrap_or(false)
    }
}

impl TokenSigner {
    /// Signs with an HS256 secret.
    pub fn hs256(secret: &[u8]) -> Self {
        Self::new(&TokenKey::hs256(secret), Algorithm::HS256, EncodingKey::from_secret(secret))
    }

    /// Signs with an Ed25519 key, in PKCS #8, whose public half is `public`. One that is of another pair
    /// is refused here: what it signs nobody would believe.
    pub fn ed25519(private: &[u8], public: &[u8; 32]) -> Option<Self> {
        let key = TokenKey::ed25519(public);
        let signer = Self::new(&key, Algorithm::EdDSA, EncodingKey::from_ed_der(private));
        let signature = crypto::sign(PROBE.as_bytes(), &signer.key, signer.algorithm).ok()?;
        key.signed(PROBE.as_bytes(), &signature).then_some(signer)
    }

    /// The token that says `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<String, errors::Error> {
        let claims = serde_json::to_vec(claims).map_err(|_| errors::ErrorKind::InvalidToken)?;
        let message = format!("{}.{}", self.header, BASE64.encode(claims));
        let signature = crypto::sign(message.as_bytes(), &self.key, self.algorithm)?;
        Ok(format!("{message}.{signature}"))
    }

    fn new(key: &TokenKey, algorithm: Algorithm, encoding: EncodingKey) -> Self {
        let (alg, kid) = (key.algorithm(), key.kid());
        let header = format!(r#"{{"alg":"{alg}","typ":"JWT","kid":"{kid}"}}"#);
        Self { header: BASE64.encode(header), algorithm, key: encoding }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.kid)
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSigner(..)")
    }
}

/// What a key pair signs to show that it is one. No token is spelt like this.
const PROBE: &str = "memoric/pair/1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_signs_with_its_own_public_half_alone() {
        let (private, public) = (hex::decode(PRIVATE).unwrap(), public());
        assert!(TokenSigner::ed25519(&private, &public).is_some());
        assert!(TokenSigner::ed25519(&private, &[7; 32]).is_none(), "of another pair");
        assert!(TokenSigner::ed25519(b"no key", &public).is_none());
    }

    #[test]
    fn the_world_learns_public_keys_and_nothing_of_secrets() {
        assert_eq!(TokenKey::hs256(&[b's'; 64]).to_jwk(), None);
        let jwk = TokenKey::ed25519(&public()).to_jwk().unwrap();
        // RFC 8037, appendix A.2.
        assert_eq!(jwk["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(jwk["kid"], "21fe31dfa154a261", "SHA-256 of the public key");
    }

    fn public() -> [u8; 32] {
        BASE64.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap().try_into().unwrap()
    }

    /// The key of RFC 8037, appendix A.1, in PKCS #8.
    const PRIVATE: &str = "302e020100300506032b657004220420\
        9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
}
