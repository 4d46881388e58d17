//! Sessions: how long they live, and the refresh tokens that carry them on.

use std::{sync::Arc, time::Duration};

use memoric_contract::{KeyPurpose, refresh::RefreshToken};
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{error::Chain, seal::ServiceSecrets, store::Store};

/// Makes refresh tokens, and knows its own.
pub(crate) struct Sessions {
    secrets: Arc<ServiceSecrets>,
    ring_id: [u8; 8],
    lives: Lives,
    /// The highest counter of each session that was noted as received.
    received: Cache<Uuid, u32>,
}

/// How long sessions live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lives {
    /// Without being refreshed.
    pub(crate) idle: Duration,
    /// However often they are refreshed.
    pub(crate) life: Duration,
}

impl Lives {
    /// How long a session lives that has just begun and is not refreshed.
    pub(crate) fn unrefreshed(self) -> Duration {
        self.idle.min(self.life)
    }
}

impl Sessions {
    pub(crate) fn new(secrets: Arc<ServiceSecrets>, lives: Lives) -> Self {
        let ring_id = secrets.refresh_ring.id(KeyPurpose::Refresh);
        Self { secrets, ring_id, lives, received: Cache::new(MOST_NOTED) }
    }

    /// How long sessions live.
    pub(crate) fn lives(&self) -> Lives {
        self.lives
    }

    /// The refresh token of `session` at `counter`, in the form that a client keeps.
    ///
    /// It is the same however often it is made, so an answer that was lost can be given again.
    pub(crate) fn token(&self, session: Uuid, counter: u32, seed: &[u8]) -> Zeroizing<String> {
        let mac = self.mac(session, counter, seed);
        RefreshToken { ring_id: self.ring_id, session, counter, mac }.expose()
    }

    /// Whether `token` was made here, for a session whose random value is `seed`.
    pub(crate) fn made(&self, token: &RefreshToken, seed: &[u8]) -> bool {
        let mac = self.mac(token.session, token.counter, seed);
        token.ring_id == self.ring_id && bool::from(mac.ct_eq(&token.mac))
    }

    /// Notes, once, that the answer to a refresh has arrived: an access token that came with it was
    /// presented. From then on the refresh token before it is good for nothing.
    ///
    /// Where it cannot be noted the earlier token is good for longer, so the request goes on.
    pub(crate) async fn note_received(&self, store: &Store, session: Uuid, counter: u32) {
        if counter == 0 || self.received.get(&session).is_some_and(|noted| noted >= counter) {
            return;
        }
        match store.note_received(session, counter).await {
            Ok(()) => self.received.insert(session, counter),
            Err(error) => tracing::warn!(error = %Chain(&error), "a refresh was not noted"),
        }
    }

    /// Over what the token says and the session's random value: neither the ring nor the database
    /// alone can forge one.
    fn mac(&self, session: Uuid, counter: u32, seed: &[u8]) -> [u8; 32] {
        let covered = RefreshToken::covered(self.ring_id, session, counter);
        self.secrets.refresh_ring.mac(&Zeroizing::new([&covered[..], seed].concat()))
    }
}

/// Sessions of which it is known what was noted. Of one that is forgotten it is noted again.
const MOST_NOTED: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::known_secrets;

    #[test]
    fn only_what_was_made_here_for_this_session_is_believed() {
        let sessions = sessions();
        let (session, seed) = (Uuid::from_u128(1), [2; 32]);
        let token = RefreshToken::read(&sessions.token(session, 3, &seed)).unwrap();

        assert!(sessions.made(&token, &seed));
        assert!(!sessions.made(&token, &[3; 32]), "of a session with another random value");
        for forged in [
            RefreshToken { counter: 4, ..token.clone() },
            RefreshToken { session: Uuid::from_u128(2), ..token.clone() },
            RefreshToken { ring_id: [0; 8], ..token.clone() },
            RefreshToken { mac: [0; 32], ..token.clone() },
        ] {
            assert!(!sessions.made(&forged, &seed), "{forged:?}");
        }
    }

    #[test]
    fn an_answer_can_be_given_again() {
        let token = || sessions().token(Uuid::from_u128(1), 3, &[2; 32]);
        assert_eq!(token(), token());
    }

    fn sessions() -> Sessions {
        let lives = Lives { idle: Duration::from_secs(1), life: Duration::from_secs(2) };
        Sessions::new(Arc::new(known_secrets()), lives)
    }
}
