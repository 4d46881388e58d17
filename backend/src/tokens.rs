//! Access tokens, minted, and known again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use memoric_config::{
    ExposeSecret as _, Invalid,
    jwt::{JwtKeyHeld, JwtKeys, JwtMaterial},
};
use memoric_contract::{
    Identity, Roles, UserId,
    token::{Claims, ISSUER, TokenError, TokenKey, TokenKeys, TokenSigner},
};
use uuid::Uuid;

/// Mints access tokens of one life, and knows its own.
pub(crate) struct Tokens {
    ring: ArcSwap<TokenRing>,
    ttl: Duration,
}

/// The keys of access tokens: one signs, all of them verify.
#[derive(Clone)]
pub(crate) struct TokenRing {
    signer: TokenSigner,
    keys: TokenKeys,
    /// Until when tokens of the Python server are taken, in epoch seconds.
    legacy_until: Option<u64>,
}

/// For whom a token is, and what it says of them.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    /// The user.
    pub(crate) user: UserId,
    /// Their roles at this moment.
    pub(crate) roles: Roles,
    /// Their namespace at this moment.
    pub(crate) namespace: Option<String>,
    /// Their generation at this moment.
    pub(crate) generation: u64,
    /// The session that the token belongs to.
    pub(crate) session: Uuid,
    /// The refresh counter of the session at this moment.
    pub(crate) counter: u32,
    /// When the session ends unless it is refreshed, in epoch seconds.
    pub(crate) session_ends_at: u64,
}

impl Tokens {
    /// Mints with the key of `ring` that signs, for `ttl` at a time.
    pub(crate) fn new(ring: TokenRing, ttl: Duration) -> Self {
        Self { ring: ArcSwap::from_pointee(ring), ttl }
    }

    /// Signs and believes by `ring` from now on.
    pub(crate) fn replace_keys(&self, ring: TokenRing) {
        self.ring.store(Arc::new(ring));
    }

    /// Whose `token` is, if it is one of ours and `now` is within its life.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Identity, TokenError> {
        let claims = self.ring.load().keys.verify(token, seconds(now))?;
        claims.identity().ok_or(TokenError::Malformed("its subject is no user"))
    }

    /// Whether tokens of the Python server are taken as of `now`.
    pub(crate) fn takes_legacy(&self, now: SystemTime) -> bool {
        self.ring.load().legacy_until.is_some_and(|until| seconds(now) < until)
    }

    /// A token for `bearer`, as of `now`, and how many seconds it lives: never past its session.
    pub(crate) fn mint(
        &self,
        bearer: &Bearer,
        now: SystemTime,
    ) -> Result<(String, u64), jsonwebtoken::errors::Error> {
        let iat = seconds(now);
        let exp = iat.saturating_add(self.ttl.as_secs()).min(bearer.session_ends_at);
        let claims = Claims {
            sub: bearer.user.to_string(),
            roles: bearer.roles,
            namespace: bearer.namespace.clone(),
            iat,
            exp,
            jti: Uuid::new_v4(),
            sid: bearer.session,
            ctr: bearer.counter,
            generation: bearer.generation,
            iss: ISSUER.to_owned(),
            nbf: None,
            aud: None,
        };
        Ok((self.ring.load().signer.sign(&claims)?, exp.saturating_sub(iat)))
    }
}

impl TokenRing {
    /// The keys that the settings name.
    pub(crate) fn new(keys: &JwtKeys, legacy_until: Option<u64>) -> Result<Self, Invalid> {
        // The pair of a key that does not sign yet is tried as well: better now than at its promotion.
        for key in keys.iter().filter(|key| has_private(key)) {
            signer(key)?;
        }
        Ok(Self {
            signer: signer(keys.signer())?,
            keys: keys.iter().map(token_key).collect(),
            legacy_until,
        })
    }

    /// What is believed, the key that signs before the others.
    pub(crate) fn keys(&self) -> &TokenKeys {
        &self.keys
    }

    /// One secret that signs and verifies.
    #[cfg(test)]
    pub(crate) fn hs256(secret: &[u8]) -> Self {
        let (signer, keys) = (TokenSigner::hs256(secret), TokenKeys::hs256(secret));
        Self { signer, keys, legacy_until: None }
    }
}

fn has_private(key: &JwtKeyHeld) -> bool {
    matches!(&key.material, JwtMaterial::Pair { private: Some(_), .. })
}

fn token_key(key: &JwtKeyHeld) -> TokenKey {
    match &key.material {
        JwtMaterial::Secret(secret) => TokenKey::hs256(secret.expose()),
        JwtMaterial::Pair { public, .. } => TokenKey::ed25519(public),
    }
}

fn signer(key: &JwtKeyHeld) -> Result<TokenSigner, Invalid> {
    let made = match &key.material {
        JwtMaterial::Secret(secret) => Some(TokenSigner::hs256(secret.expose())),
        JwtMaterial::Pair { public, private } => private
            .as_ref()
            .and_then(|private| TokenSigner::ed25519(private.expose_secret(), public)),
    };
    let field = || format!("{}.private_key_file", key.name);
    made.ok_or_else(|| Invalid::new(field(), "is not the Ed25519 key of public_key_file"))
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_outlives_its_session() {
        const NOW: u64 = 1_800_000_000;
        let tokens = Tokens::new(TokenRing::hs256(&[7; 64]), Duration::from_secs(3600));
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mint = |session_ends_at| {
            let bearer = Bearer {
                user: UserId(3),
                roles: Roles::default(),
                namespace: None,
                generation: 1,
                session: Uuid::from_u128(1),
                counter: 0,
                session_ends_at,
            };
            tokens.mint(&bearer, at(NOW)).unwrap()
        };

        let (long, lives) = mint(NOW + 86_400);
        assert_eq!(lives, 3600);
        assert!(tokens.verify(&long, at(NOW + 3599)).is_ok());
        let (short, lives) = mint(NOW + 60);
        assert_eq!(lives, 60, "what the client is told is true");
        assert!(tokens.verify(&short, at(NOW + 59)).is_ok());
        assert!(tokens.verify(&short, at(NOW + 60)).is_err());
    }
}
