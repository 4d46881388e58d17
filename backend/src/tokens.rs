//! Access tokens, minted.

use std::time::{Duration, SystemTime};

use memoric_contract::{
    Roles, UserId,
    token::{Claims, ISSUER, TokenSigner},
};
use uuid::Uuid;

/// Mints access tokens of one life.
pub(crate) struct Tokens {
    signer: TokenSigner,
    ttl: Duration,
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
}

impl Tokens {
    /// Mints with `signer`, for `ttl` at a time.
    pub(crate) fn new(signer: TokenSigner, ttl: Duration) -> Self {
        Self { signer, ttl }
    }

    /// How long a token lives.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A token for `bearer`, as of `now`.
    pub(crate) fn mint(
        &self,
        bearer: &Bearer,
        now: SystemTime,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let iat = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            sub: bearer.user.to_string(),
            roles: bearer.roles,
            namespace: bearer.namespace.clone(),
            iat,
            exp: iat.saturating_add(self.ttl.as_secs()),
            jti: Uuid::new_v4(),
            sid: bearer.session,
            ctr: bearer.counter,
            generation: bearer.generation,
            iss: ISSUER.to_owned(),
            nbf: None,
            aud: None,
        };
        self.signer.sign(&claims)
    }
}
