//! From a presented API key to a known identity: refused at sight, or asked about once and
//! remembered for a while.

mod lookups;
pub(crate) mod memory;

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use memoric_contract::{
    Identity, KeyId, Permissions, PresentedBy,
    api_key::{ApiKey, CheckKey, Standing, Verdict},
};

use self::memory::Memory;
use crate::{
    authn::{self, Disbelief},
    backend::{BackendClient, BackendError},
    rejection::Rejection,
    revocation::Revocations,
};

/// Knows which API keys are worth anything.
///
/// What the backend said of a key is remembered by the SHA-256 of all its bytes. Whether a key has
/// expired or comes from where it may is asked at every use; whether it was revoked, behind here.
pub(crate) struct ApiKeys {
    check: CheckKey,
    backend: Arc<BackendClient>,
    revocations: Arc<Revocations>,
    memory: Memory<Remembered>,
}

/// A key that lived when the backend was asked.
struct Remembered {
    identity: Arc<Identity>,
    /// From where it may be used. None: from anywhere.
    from: Vec<IpNet>,
}

impl ApiKeys {
    pub(crate) fn new(
        check: CheckKey,
        backend: Arc<BackendClient>,
        revocations: Arc<Revocations>,
    ) -> Self {
        Self { check, backend, revocations, memory: Memory::new() }
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
        let is_current =
            |remembered: &Remembered| self.revocations.is_current(&remembered.identity);
        let asked = self.ask(&key);
        let remembered = self.memory.find(&key.digest(), client, is_current, asked).await?;
        let identity = authn::unexpired(Arc::clone(&remembered.identity), now)?;
        if remembered.may_come_from(client) {
            Ok(identity)
        } else {
            Err(Disbelief::Elsewhere(identity))
        }
    }

    /// What the backend says of a key.
    async fn ask(&self, key: &ApiKey) -> Result<Option<Remembered>, BackendError> {
        Ok(match self.backend.resolve_key(key.expose()).await? {
            Verdict::Lives(standing) => Remembered::of(key.id(), &standing),
            Verdict::Unknown => None,
        })
    }
}

impl Remembered {
    /// `None`: the standing is not one that a backend of ours gives.
    fn of(id: &KeyId, standing: &Standing) -> Option<Self> {
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
        Some(Self { identity: Arc::new(identity), from: from.collect::<Option<_>>()? })
    }

    fn may_come_from(&self, client: Option<IpAddr>) -> bool {
        self.from.is_empty()
            || client.is_some_and(|client| self.from.iter().any(|from| from.contains(&client)))
    }
}
