//! From a token that another has minted to a known identity.

mod fetch;
mod source;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use memoric_contract::{
    FieldWriter, Identity, PresentedBy, Roles,
    token::foreign::{Foreign, Linked, Minter, Subject, without_admin},
};
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use self::source::Source;
use crate::{
    api_keys::lookups::FailedLookups,
    authn::{self, Authenticator, Disbelief},
    backend::BackendClient,
    config::Issuer,
    gateway::Background,
    metrics::Metrics,
    rejection::Rejection,
    revocation::Revocations,
};

/// Knows who else is believed about who somebody is.
///
/// Whom a subject stands for the backend is asked once; what it said is remembered for a while, or
/// until its user changes.
pub(crate) struct Issuers {
    sources: Vec<Arc<Source>>,
    authenticator: Arc<Authenticator>,
    backend: Arc<BackendClient>,
    revocations: Arc<Revocations>,
    lookups: FailedLookups,
    linked: Cache<[u8; 32], Arc<Remembered>>,
    strangers: Cache<[u8; 32], Instant>,
}

/// Who a subject was when the backend was asked.
struct Remembered {
    linked: Linked,
    asked: Instant,
}

impl Issuers {
    pub(crate) fn new(
        issuers: &[Issuer],
        authenticator: Arc<Authenticator>,
        backend: Arc<BackendClient>,
        (revocations, metrics): (Arc<Revocations>, &Arc<Metrics>),
    ) -> Self {
        let source = |issuer: &Issuer| Arc::new(Source::new(issuer.clone(), Arc::clone(metrics)));
        Self {
            sources: issuers.iter().map(source).collect(),
            authenticator,
            backend,
            revocations,
            lookups: FailedLookups::new(Instant::now()),
            linked: Cache::new(REMEMBERED),
            strangers: Cache::new(REMEMBERED),
        }
    }

    /// Keeps the keys of each issuer fresh, beside requests.
    pub(crate) fn follow(&self, background: &Background) {
        for source in &self.sources {
            let source = Arc::clone(source);
            background.spawn(async move { source.follow().await });
        }
    }

    /// Who says to have minted `token`, where that may be somebody else than we. Where nobody else is
    /// believed, it is not looked at.
    pub(crate) fn minter_of(&self, token: &str, now: u64) -> Option<Minter> {
        if self.sources.is_empty() && !self.authenticator.takes_legacy(now) {
            return None;
        }
        match Minter::of(token) {
            Ok(Minter::Us) | Err(_) => None,
            Ok(minter) => Some(minter),
        }
    }

    /// Believes `token` only if `minter` is believed, it is theirs, and `now` (epoch seconds) is within
    /// its life; and only about somebody whom the backend knows.
    pub(crate) async fn verify(
        &self,
        token: &str,
        minter: Minter,
        (client, now): (Option<IpAddr>, u64),
    ) -> Result<Arc<Identity>, Disbelief> {
        let (foreign, may_grant_roles) = match minter {
            Minter::Us => return Err(UNKNOWN),
            Minter::Nobody => (self.authenticator.verify_legacy(token, now)?, false),
            Minter::Other(name) => {
                let is_theirs = |source: &&Arc<Source>| source.issuer.name == name;
                let source = self.sources.iter().find(is_theirs).ok_or(UNKNOWN)?;
                let keys = source.keys_for(token).await.ok_or(Rejection::BackendUnavailable)?;
                let wanted = (name.as_str(), source.issuer.audience.as_str());
                (keys.verify(token, wanted, now)?, source.issuer.may_grant_roles)
            }
        };
        let linked = self.linked(&foreign, client).await?;
        let roles = if may_grant_roles { foreign.roles } else { linked.roles };
        authn::unexpired(Arc::new(identity(&foreign, &linked, roles)), now)
    }

    /// Who the subject of `foreign` is.
    async fn linked(&self, foreign: &Foreign, client: Option<IpAddr>) -> Result<Linked, Disbelief> {
        let digest = digest(foreign);
        if let Some(linked) = self.recollect(&digest, foreign) {
            return Ok(linked);
        }
        if self.strangers.get(&digest).is_some_and(|asked| asked.elapsed() < MEMORY) {
            return Err(UNKNOWN);
        }
        let asked = Instant::now();
        let attempt = self.lookups.begin(client, asked)?;
        let Foreign { issuer, subject, .. } = foreign;
        let subject = Subject { issuer: issuer.clone(), subject: subject.clone() };
        let linked = match self.backend.resolve_subject(&subject).await {
            Ok(linked) => linked,
            Err(error) => {
                tracing::debug!(%error, "a subject cannot be looked up");
                attempt.forgive();
                return Err(Rejection::BackendUnavailable.into());
            }
        };
        let Some(linked) = linked else {
            self.strangers.insert(digest, asked);
            return Err(UNKNOWN);
        };
        attempt.forgive();
        self.linked.insert(digest, Arc::new(Remembered { linked: linked.clone(), asked }));
        Ok(linked)
    }

    /// Who the subject was, unless that is too long ago, or the user has changed since.
    fn recollect(&self, digest: &[u8; 32], foreign: &Foreign) -> Option<Linked> {
        let Remembered { linked, asked } = &*self.linked.get(digest)?;
        let identity = identity(foreign, linked, linked.roles);
        let is_fresh = asked.elapsed() < MEMORY && self.revocations.is_current(&identity);
        if !is_fresh {
            self.linked.remove(digest);
        }
        is_fresh.then(|| linked.clone())
    }
}

/// The identity of `linked`, whom a foreign token never makes an admin.
fn identity(foreign: &Foreign, linked: &Linked, roles: Roles) -> Identity {
    Identity {
        user: linked.user,
        roles: without_admin(roles),
        namespace: linked.namespace.clone(),
        presented: PresentedBy::ForeignToken {
            id: foreign.id,
            generation: linked.generation,
            expires_at: foreign.expires_at,
        },
    }
}

fn digest(foreign: &Foreign) -> [u8; 32] {
    let Foreign { issuer, subject, .. } = foreign;
    let subject = FieldWriter::new().maybe_text(issuer.as_deref()).text(subject);
    Sha256::digest(subject.finish()).into()
}

const UNKNOWN: Disbelief = Disbelief::Never(Rejection::BadCredential("it is not known"));

/// How long it is remembered whom the backend took a subject for.
const MEMORY: Duration = Duration::from_secs(30);

/// How many subjects are remembered, of each kind.
const REMEMBERED: usize = 10_000;
