//! From a presented token to a known identity.

use std::sync::Arc;

use arc_swap::ArcSwap;
use memoric_contract::{
    Identity,
    token::{Claims, TokenError, TokenKeys, foreign::Foreign},
};
use quick_cache::sync::Cache;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::rejection::Rejection;

/// Why a token is not believed.
#[derive(Debug)]
pub(crate) enum Disbelief {
    /// It never was one of ours.
    Never(Rejection),
    /// It was good once, and this was its subject.
    Ended(Arc<Identity>),
    /// It is good, but not from where it came.
    Elsewhere(Arc<Identity>),
}

/// The SHA-256 of all the bytes of a token, by which one that was verified is known again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct TokenDigest([u8; 32]);

/// Knows which tokens are worth anything.
pub(crate) struct Authenticator {
    ring: ArcSwap<Ring>,
}

/// The keys in force, and what was verified by them. With the keys all of that goes: who was let in
/// by a key that is retired is not remembered past it.
struct Ring {
    keys: TokenKeys,
    /// Until when tokens of the Python server are taken, in epoch seconds.
    legacy_until: Option<u64>,
    /// Tokens that were verified. Whether they still live is asked at every use, here (expiry) and
    /// behind here (revocation).
    verified: Verified<Identity>,
}

/// What tokens were found to say by one set of keys, with which it is forgotten.
pub(crate) struct Verified<T>(Cache<TokenDigest, Arc<T>>);

impl TokenDigest {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl<T> Verified<T> {
    pub(crate) fn new() -> Self {
        Self(Cache::new(REMEMBERED))
    }

    /// What the token of `digest` says, if it was verified before.
    pub(crate) fn recall(&self, digest: &TokenDigest) -> Option<Arc<T>> {
        self.0.get(digest)
    }

    /// Remembers what a token says that was verified.
    pub(crate) fn remember(&self, digest: TokenDigest, said: T) -> Arc<T> {
        let said = Arc::new(said);
        self.0.insert(digest, Arc::clone(&said));
        said
    }
}

impl Authenticator {
    pub(crate) fn new(keys: TokenKeys, legacy_until: Option<u64>) -> Self {
        Self { ring: ArcSwap::from_pointee(Ring::new(keys, legacy_until)) }
    }

    /// Believes by `keys` from now on, and by no others.
    pub(crate) fn replace_keys(&self, keys: TokenKeys, legacy_until: Option<u64>) {
        self.ring.store(Arc::new(Ring::new(keys, legacy_until)));
    }

    /// Whether tokens of the Python server are taken at `now` (epoch seconds).
    pub(crate) fn takes_legacy(&self, now: u64) -> bool {
        self.ring.load().legacy_until.is_some_and(|until| now < until)
    }

    /// Believes `token` only if it is one of the Python server's, and those are taken at `now`.
    pub(crate) fn verify_legacy(&self, token: &str, now: u64) -> Result<Foreign, Disbelief> {
        if !self.takes_legacy(now) {
            return Err(Disbelief::Never(Rejection::BadCredential("it names no issuer")));
        }
        Ok(self.ring.load().keys.verify_legacy(token, now)?)
    }

    /// The public keys, for whoever wants to verify our tokens.
    pub(crate) fn public_keys(&self) -> Value {
        self.ring.load().keys.to_jwks()
    }

    /// What is known of the token of `digest` at `now` (epoch seconds). `None`: it is not one that was
    /// verified as ours, and may be anybody's.
    pub(crate) fn recall(
        &self,
        digest: &TokenDigest,
        now: u64,
    ) -> Option<Result<Arc<Identity>, Disbelief>> {
        let identity = self.ring.load().verified.recall(digest)?;
        Some(unexpired(identity, now))
    }

    /// Believes `token` only if it is one of ours and `now` (epoch seconds) is within its life.
    pub(crate) fn verify(
        &self,
        token: &str,
        digest: TokenDigest,
        now: u64,
    ) -> Result<Arc<Identity>, Disbelief> {
        let ring = self.ring.load();
        let claims = ring.keys.verify(token, now)?;
        Ok(ring.verified.remember(digest, identity_of(&claims)?))
    }
}

impl Ring {
    fn new(keys: TokenKeys, legacy_until: Option<u64>) -> Self {
        Self { keys, legacy_until, verified: Verified::new() }
    }
}

impl From<TokenError> for Disbelief {
    fn from(error: TokenError) -> Self {
        let reason = match error {
            TokenError::Malformed(reason) => reason,
            TokenError::UnknownKey => "it names a key that is not ours",
            TokenError::Forged => "it has a bad signature",
            TokenError::Early => "it is from the future",
            TokenError::Ended => return Self::Never(Rejection::TokenExpired),
            TokenError::Expired(claims) => {
                return identity_of(&claims)
                    .map_or_else(Self::from, |identity| Self::Ended(Arc::new(identity)));
            }
        };
        Self::Never(Rejection::BadCredential(reason))
    }
}

impl From<Rejection> for Disbelief {
    fn from(rejection: Rejection) -> Self {
        Self::Never(rejection)
    }
}

fn identity_of(claims: &Claims) -> Result<Identity, Rejection> {
    claims.identity().ok_or(Rejection::BadCredential("its subject is no user"))
}

/// The identity, unless its credential has ended by itself.
pub(crate) fn unexpired(identity: Arc<Identity>, now: u64) -> Result<Arc<Identity>, Disbelief> {
    match ensure_unexpired(&identity, now) {
        Ok(()) => Ok(identity),
        Err(_) => Err(Disbelief::Ended(identity)),
    }
}

/// Rejects an identity whose credential has ended by itself.
pub(crate) fn ensure_unexpired(identity: &Identity, now: u64) -> Result<(), Rejection> {
    if identity.presented.expires_at() <= now { Err(Rejection::TokenExpired) } else { Ok(()) }
}

/// How many verified tokens are remembered of each who mints them. Only verified ones are, so strangers
/// cannot fill it.
const REMEMBERED: usize = 10_000;

#[cfg(test)]
pub(crate) mod tests {
    use memoric_contract::{
        PresentedBy, Role, UserId,
        token::{ISSUER, TokenKey, TokenSigner},
    };
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_that_was_verified_once_ends_all_the_same() {
        let authenticator = Authenticator::new(TokenKeys::hs256(SECRET), None);
        let token = token(3);

        assert_eq!(believe(&authenticator, &token, NOW).unwrap().user.0, 3);
        let again = authenticator.recall(&TokenDigest::of(&token), NOW + 3599).unwrap();
        assert_eq!(again.unwrap().user.0, 3, "from memory");
        for authenticator in [authenticator, Authenticator::new(TokenKeys::hs256(SECRET), None)] {
            let refused = believe(&authenticator, &token, NOW + 3600);
            assert!(
                matches!(refused, Err(Disbelief::Ended(identity)) if identity.user.0 == 3),
                "and whose it was is known"
            );
        }
    }

    #[test]
    fn what_a_retired_key_signed_is_forgotten_with_it() {
        let authenticator = Authenticator::new(TokenKeys::hs256(SECRET), None);
        let token = token(3);
        believe(&authenticator, &token, NOW).unwrap();

        let both = [TokenKey::hs256(&[b'x'; 64]), TokenKey::hs256(SECRET)];
        authenticator.replace_keys(both.into_iter().collect(), None);
        assert_eq!(believe(&authenticator, &token, NOW).unwrap().user.0, 3, "nobody is logged out");
        authenticator.replace_keys(TokenKeys::hs256(&[b'x'; 64]), None);

        assert!(matches!(believe(&authenticator, &token, NOW), Err(Disbelief::Never(_))));
    }

    #[test]
    fn remembering_one_token_makes_no_other_good() {
        let authenticator = Authenticator::new(TokenKeys::hs256(SECRET), None);
        let token = token(3);
        believe(&authenticator, &token, NOW).unwrap();

        let (message, _) = token.rsplit_once('.').unwrap();
        for forged in [format!("{message}."), format!("{message}.AAAA"), format!("{token}=")] {
            let refused = believe(&authenticator, &forged, NOW);
            assert!(
                matches!(refused, Err(Disbelief::Never(Rejection::BadCredential(_)))),
                "{forged}"
            );
        }
    }

    /// Believes as the pipeline does where nobody else mints tokens.
    pub(crate) fn believe(
        authenticator: &Authenticator,
        token: &str,
        now: u64,
    ) -> Result<Arc<Identity>, Disbelief> {
        let digest = TokenDigest::of(token);
        let known = authenticator.recall(&digest, now);
        known.unwrap_or_else(|| authenticator.verify(token, digest, now))
    }

    /// A user of `role`, known by an access token.
    pub(crate) fn somebody(user: i64, role: Role) -> Identity {
        Identity {
            user: UserId(user),
            roles: [role].into_iter().collect(),
            namespace: None,
            presented: PresentedBy::AccessToken {
                jti: Uuid::from_u128(1),
                sid: Uuid::from_u128(2),
                ctr: 0,
                generation: 1,
                expires_at: NOW,
            },
        }
    }

    /// An access token of `user`, minted at [`NOW`].
    pub(crate) fn token(user: i64) -> String {
        let claims = Claims {
            sub: user.to_string(),
            roles: [Role::User].into_iter().collect(),
            namespace: None,
            iat: NOW,
            exp: NOW + 3600,
            jti: Uuid::from_u128(1),
            sid: Uuid::from_u128(2),
            ctr: 0,
            generation: 1,
            iss: ISSUER.to_owned(),
            nbf: None,
            aud: None,
        };
        TokenSigner::hs256(SECRET).sign(&claims).unwrap()
    }

    pub(crate) const SECRET: &[u8] = &[b's'; 64];
    pub(crate) const NOW: u64 = 1_800_000_000;
}
