//! From a presented API key to a known identity: refused at sight, or asked about once and
//! remembered for a while.

pub(crate) mod lookups;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use memoric_contract::{
    Identity, KeyId, Permissions, PresentedBy,
    api_key::{ApiKey, CheckKey, Standing, Verdict},
};
use quick_cache::sync::Cache;

use self::lookups::FailedLookups;
use crate::{
    authn::{self, Disbelief},
    backend::BackendClient,
    rejection::Rejection,
    revocation::Revocations,
};

/// Knows which API keys are worth anything.
///
/// What the backend said of a key is remembered by the SHA-256 of all its bytes, good and bad apart,
/// so that a flood of bad ones cannot drive out good ones. Whether a key has expired or comes from
/// where it may is asked at every use; whether it was revoked, behind here.
pub(crate) struct ApiKeys {
    check: CheckKey,
    backend: Arc<BackendClient>,
    revocations: Arc<Revocations>,
    lookups: FailedLookups,
    good: Cache<[u8; 32], Arc<Remembered>>,
    bad: Cache<[u8; 32], Instant>,
}

/// A key that lived when the backend was asked.
struct Remembered {
    identity: Arc<Identity>,
    /// From where it may be used. None: from anywhere.
    from: Vec<IpNet>,
    asked: Instant,
}

impl ApiKeys {
    pub(crate) fn new(
        check: CheckKey,
        backend: Arc<BackendClient>,
        revocations: Arc<Revocations>,
    ) -> Self {
        let (good, bad) = (Cache::new(REMEMBERED), Cache::new(REMEMBERED));
        let lookups = FailedLookups::new(Instant::now());
        Self { check, backend, revocations, lookups, good, bad }
    }

    /// Believes a key only if it is one of ours that lives at `now` (epoch seconds) and may be used
    /// from `client`.
    pub(crate) async fn verify(
        &self,
        text: &str,
        client: Option<IpAddr>,
        now: u64,
    ) -> Result<Arc<Identity>, Disbelief> {
        let key = ApiKey::read(text, &self.check)
            .map_err(|_| Disbelief::Never(Rejection::BadCredential("it is no API key of ours")))?;
        let remembered = match self.recollect(&key.digest()) {
            Some(remembered) => remembered,
            None => self.ask(&key, client).await?,
        };
        let identity = authn::unexpired(Arc::clone(&remembered.identity), now)?;
        if remembered.may_come_from(client) {
            Ok(identity)
        } else {
            Err(Disbelief::Elsewhere(identity))
        }
    }

    /// What is remembered of a key, unless it is too old, or its user has changed since.
    fn recollect(&self, digest: &[u8; 32]) -> Option<Arc<Remembered>> {
        let remembered = self.good.get(digest)?;
        let is_fresh = remembered.asked.elapsed() < MEMORY
            && self.revocations.is_current(&remembered.identity);
        if !is_fresh {
            self.good.remove(digest);
        }
        is_fresh.then_some(remembered)
    }

    /// Asks the backend. That costs it something, so failures are budgeted.
    async fn ask(
        &self,
        key: &ApiKey,
        client: Option<IpAddr>,
    ) -> Result<Arc<Remembered>, Disbelief> {
        let digest = key.digest();
        if self.bad.get(&digest).is_some_and(|asked| asked.elapsed() < MEMORY) {
            return Err(UNKNOWN);
        }
        let asked = Instant::now();
        let attempt = self.lookups.begin(client, asked)?;
        let verdict = match self.backend.resolve_key(key.expose()).await {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::debug!(%error, "an API key cannot be looked up");
                attempt.forgive();
                return Err(Rejection::BackendUnavailable.into());
            }
        };
        let remembered = match verdict {
            Verdict::Lives(standing) => Remembered::of(key.id(), &standing, asked),
            Verdict::Unknown => None,
        };
        let Some(remembered) = remembered.map(Arc::new) else {
            self.bad.insert(digest, asked);
            return Err(UNKNOWN);
        };
        attempt.forgive();
        self.good.insert(digest, Arc::clone(&remembered));
        Ok(remembered)
    }
}

impl Remembered {
    /// `None`: the standing is not one that a backend of ours gives.
    fn of(id: &KeyId, standing: &Standing, asked: Instant) -> Option<Self> {
        let presented = PresentedBy::ApiKey {
            id: id.clone(),
            scopes: Permissions::from_bits(standing.scopes)?,
            generation: standing.generation,
            expires_at: standing.expires_at,
        };
        let identity = Identity {
            user: standing.user,
            roles: standing.roles,
            namespace: standing.namespace.clone(),
            presented,
        };
        let from = standing.allowed_addresses.iter().map(|network| network.parse().ok());
        Some(Self { identity: Arc::new(identity), from: from.collect::<Option<_>>()?, asked })
    }

    fn may_come_from(&self, client: Option<IpAddr>) -> bool {
        self.from.is_empty()
            || client.is_some_and(|client| self.from.iter().any(|from| from.contains(&client)))
    }
}

const UNKNOWN: Disbelief = Disbelief::Never(Rejection::BadCredential("it is not known"));

/// How long it is remembered what the backend said of a key.
const MEMORY: Duration = Duration::from_secs(30);

/// How many keys are remembered, of each kind.
const REMEMBERED: usize = 10_000;
