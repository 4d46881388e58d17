//! Credentials that were good once.
//!
//! The truth is the backend's; the [`feed`] brings it here, and Redis as a courier brings it
//! sooner. What is here is a list in memory, and the moment at which it was known to be complete.
//! Where there is no backend the truth is Redis', which is then asked about every request.

mod courier;
mod feed;
mod list;
mod lookup;
mod sole;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue};
use memoric_contract::{
    Identity,
    revocation::{REVOKED_HEADER, Revocation},
};

use self::list::List;
use crate::{backend::BackendClient, metrics::Metrics, rejection::Rejection};

pub(crate) use self::{courier::Courier, feed::Feed, lookup::Lookup, sole::SoleCopy};

/// Knows which credentials were revoked.
pub(crate) struct Revocations {
    list: List,
    truth: Truth,
    metrics: Arc<Metrics>,
}

/// Who has the last word about what was revoked.
enum Truth {
    /// The backend; where there is a look-up, Redis is asked as well.
    Backend(Arc<BackendClient>, Option<Lookup>),
    /// Redis: there is no backend.
    Redis(Arc<SoleCopy>),
}

impl Revocations {
    pub(crate) fn new(
        backend: Arc<BackendClient>,
        lookup: Option<Lookup>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { list: List::default(), truth: Truth::Backend(backend, lookup), metrics }
    }

    /// Where there is no backend, so that Redis is asked about every request.
    pub(crate) fn alone(redis: Arc<SoleCopy>, metrics: Arc<Metrics>) -> Self {
        Self { list: List::default(), truth: Truth::Redis(redis), metrics }
    }

    /// Rejects an identity whose credential was revoked.
    ///
    /// Not knowing counts as revoked: where the list may be incomplete, or Redis is to be asked and
    /// does not answer, the backend is asked, and where it does not answer nobody comes in.
    pub(crate) async fn ensure_live(&self, identity: &Identity) -> Result<(), Rejection> {
        let (backend, lookup) = match &self.truth {
            Truth::Backend(backend, lookup) => (backend, lookup.as_ref()),
            Truth::Redis(redis) => return redis.ensure_live(identity).await,
        };
        // Asked first: what makes the list complete after it was read says nothing about that.
        let is_complete = self.list.is_complete(Instant::now(), TRUSTED);
        if self.list.revokes(identity) {
            return Err(Rejection::Revoked);
        }
        if is_complete && is_clear(identity, lookup).await? {
            return Ok(());
        }
        match backend.is_live(identity).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Rejection::Revoked),
            Err(error) => {
                tracing::debug!(%error, "revocations cannot be read");
                Err(Rejection::RevocationsUnavailable)
            }
        }
    }

    /// Takes note of what the backend has revoked by the request that it answers: whoever hears this
    /// answer must not get in any more.
    pub(crate) fn heed(&self, headers: &HeaderMap<HeaderValue>) {
        for message in headers.get_all(REVOKED_HEADER) {
            match message.to_str().ok().and_then(Revocation::parse) {
                Some(revocation) => self.apply(revocation),
                None => tracing::error!("a revocation beside an answer cannot be read"),
            }
        }
    }

    /// Whether what is known of `identity` is as new as its user's generation. An API key outlives a
    /// generation, but what it may do has to be asked again.
    pub(crate) fn is_current(&self, identity: &Identity) -> bool {
        self.list.is_current(identity)
    }

    /// Rejects an identity whose credential is known here to have ended, or of which not everything is
    /// true any more that it was judged by. In that case the credential may live on: whoever asks again
    /// is judged by what is true then. Nobody is asked.
    pub(crate) fn ensure_current(&self, identity: &Identity) -> Result<(), Rejection> {
        let has_ended = self.list.revokes(identity) || !self.is_current(identity);
        if has_ended { Err(Rejection::Revoked) } else { Ok(()) }
    }

    /// Takes note of a revocation, from wherever it was heard. Hearing it again does no harm.
    pub(super) fn apply(&self, revocation: Revocation) {
        self.list.add(revocation);
    }

    /// The list has everything that was committed before `at`.
    pub(super) fn confirm(&self, at: Instant) {
        self.list.confirm(at);
        self.metrics.feed_confirmed(at);
    }

    /// Forgets what has ended by itself by `now`, in epoch seconds.
    pub(super) fn forget_expired(&self, now: u64) {
        self.list.forget_expired(now);
    }
}

/// Whether Redis, where it is to be asked, knows nothing against `identity`.
async fn is_clear(identity: &Identity, lookup: Option<&Lookup>) -> Result<bool, Rejection> {
    let Some(lookup) = lookup else { return Ok(true) };
    match lookup.revokes(identity).await {
        Ok(false) => Ok(true),
        Ok(true) => Err(Rejection::Revoked),
        Err(error) => {
            tracing::debug!(%error, "the backend is asked in place of redis");
            Ok(false)
        }
    }
}

/// How long the list is trusted after it was known to be complete.
const TRUSTED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use memoric_contract::{AssertionKey, UserId, revocation::Revoked, token::TokenKeys};
    use uuid::Uuid;

    use super::*;
    use crate::{
        authn::{
            Authenticator,
            tests::{NOW, SECRET, believe, token},
        },
        config::Channel,
        link::Link,
    };

    #[tokio::test]
    async fn a_remembered_token_is_refused_at_once_when_it_is_revoked() {
        let revocations = revocations();
        let authenticator = Authenticator::new(TokenKeys::hs256(SECRET), None);
        let token = token(3);
        revocations.confirm(Instant::now());
        let identity = believe(&authenticator, &token, NOW).unwrap();
        assert_eq!(revocations.ensure_live(&identity).await, Ok(()));

        let revoked = Revoked::Token(Uuid::from_u128(1));
        revocations.apply(Revocation { user: UserId(3), revoked, expires_at: NOW + 3600 });

        let remembered = believe(&authenticator, &token, NOW).unwrap();
        assert!(Arc::ptr_eq(&identity, &remembered), "it is remembered all the same");
        assert_eq!(revocations.ensure_live(&remembered).await, Err(Rejection::Revoked));
    }

    #[tokio::test]
    async fn not_knowing_counts_as_revoked() {
        let authenticator = Authenticator::new(TokenKeys::hs256(SECRET), None);
        let identity = believe(&authenticator, &token(3), NOW).unwrap();

        let refused = revocations().ensure_live(&identity).await;

        assert_eq!(refused, Err(Rejection::RevocationsUnavailable), "nobody could be asked");
    }

    fn revocations() -> Revocations {
        let nowhere = Channel::Unix { path: "/nonexistent/backend.sock".into(), uid: 0 };
        let link = Arc::new(Link::open(&nowhere).unwrap());
        let backend = Arc::new(BackendClient::new(link, AssertionKey::new([7; 32])));
        Revocations::new(backend, None, Arc::new(Metrics::new().unwrap()))
    }
}
