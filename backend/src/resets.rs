//! Tokens by which a person sets a password anew, handed to them by an admin.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::seal::ServiceSecrets;

/// Makes reset tokens, and what is stored of them.
pub(crate) struct Resets {
    secrets: Arc<ServiceSecrets>,
}

/// A reset token, shown once.
pub(crate) struct ResetToken {
    text: Zeroizing<String>,
    /// What is stored of it.
    pub(crate) hash: [u8; 32],
}

impl Resets {
    pub(crate) fn new(secrets: Arc<ServiceSecrets>) -> Self {
        Self { secrets }
    }

    /// A new token: `mpr_` base64url(32 random bytes).
    pub(crate) fn mint(&self) -> Result<ResetToken, getrandom::Error> {
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(random.as_mut_slice())?;
        let encoded = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(*random));
        let text = Zeroizing::new(format!("{PREFIX}{}", *encoded));
        Ok(ResetToken { hash: self.keyed(&text), text })
    }

    /// What is stored of a token: without the pepper, which is not, nobody can try tokens against it.
    /// `None`: it is none. API keys are hashed under the same pepper, and begin otherwise.
    pub(crate) fn hash(&self, token: &str) -> Option<[u8; 32]> {
        token.starts_with(PREFIX).then(|| self.keyed(token))
    }

    fn keyed(&self, token: &str) -> [u8; 32] {
        self.secrets.api_key_pepper.mac(token.as_bytes())
    }
}

impl ResetToken {
    /// In the form that a person is given.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }
}

/// For which a token is good, unless it is used or the account is changed before.
pub(crate) const LIFE: Duration = Duration::from_secs(3600);

const PREFIX: &str = "mpr_";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::known_secrets;

    #[test]
    fn a_token_is_known_by_what_is_stored_of_it() {
        let resets = Resets::new(Arc::new(known_secrets()));
        let (one, other) = (resets.mint().unwrap(), resets.mint().unwrap());

        assert_eq!(resets.hash(one.expose()), Some(one.hash));
        assert_ne!(one.hash, other.hash);
        assert_eq!(one.expose().len(), 47);
        assert_eq!(resets.hash("mk_x"), None, "nothing else is hashed under it");
    }
}
