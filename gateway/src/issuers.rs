//! From a token that another has minted to a known identity.

mod fetch;
mod source;

use std::{net::IpAddr, sync::Arc};

use memoric_contract::{
    FieldWriter, Identity, PresentedBy, Roles,
    token::foreign::{Foreign, Linked, Minter, Subject, without_admin},
};
use sha2::{Digest as _, Sha256};

use self::source::Source;
use crate::{
    api_keys::memory::{Memory, UNKNOWN},
    authn::{self, Authenticator, Disbelief, TokenDigest},
    backend::{BackendClient, BackendError},
    config::Issuer,
    gateway::Background,
    metrics::Metrics,
    rejection::Rejection,
    revocation::Revocations,
};

/// Knows who else is believed about who somebody is.
///
/// What a token says is verified once, and remembered until its issuer's keys change. Whom a subject
/// stands for the backend is asked once; what it said is remembered for a while, or until its user changes.
pub(crate) struct Issuers {
    sources: Vec<Arc<Source>>,
    authenticator: Arc<Authenticator>,
    /// Knows whom a subject stands for. Without it nobody else is believed.
    backend: Option<Arc<BackendClient>>,
    revocations: Arc<Revocations>,
    memory: Memory<Linked>,
}

impl Issuers {
    pub(crate) fn new(
        issuers: &[Issuer],
        authenticator: Arc<Authenticator>,
        backend: Option<Arc<BackendClient>>,
        (revocations, metrics): (Arc<Revocations>, &Arc<Metrics>),
    ) -> Self {
        let source = |issuer: &Issuer| Arc::new(Source::new(issuer.clone(), Arc::clone(metrics)));
        Self {
            sources: issuers.iter().map(source).collect(),
            authenticator,
            backend,
            revocations,
            memory: Memory::new(),
        }
    }

    /// Keeps the keys of each issuer fresh, beside requests.
    pub(crate) fn follow(&self, background: &Background) {
        for source in &self.sources {
            let source = Arc::clone(source);
            background.spawn(async move { source.follow().await });
        }
    }

    /// Believes `token` only if who says to have minted it is believed, it is theirs, and `now` (epoch
    /// seconds) is within its life; and only about somebody whom the backend knows. `None`: it is for us
    /// to judge.
    pub(crate) async fn verify(
        &self,
        token: &str,
        digest: TokenDigest,
        (client, now): (Option<IpAddr>, u64),
    ) -> Option<Result<Arc<Identity>, Disbelief>> {
        let said = match self.recall(&digest) {
            Some(said) => Ok(said),
            None => self.judge(token, digest, self.minter_of(token, now)?, now).await,
        };
        Some(match said {
            Ok((foreign, may_grant_roles)) => {
                self.identify(&foreign, may_grant_roles, (client, now)).await
            }
            Err(disbelief) => Err(disbelief),
        })
    }

    /// What the token of `digest` says, if it was verified by keys that its issuer still has, and whether
    /// its roles count.
    fn recall(&self, digest: &TokenDigest) -> Option<(Arc<Foreign>, bool)> {
        let may_grant = |source: &Source| source.issuer.may_grant_roles;
        self.sources.iter().find_map(|source| Some((source.recall(digest)?, may_grant(source))))
    }

    /// Who says to have minted `token`, where that may be somebody else than we. Where nobody else is
    /// believed, it is not looked at.
    fn minter_of(&self, token: &str, now: u64) -> Option<Minter> {
        if self.sources.is_empty() && !self.authenticator.takes_legacy(now) {
            return None;
        }
        match Minter::of(token) {
            Ok(Minter::Us) | Err(_) => None,
            Ok(minter) => Some(minter),
        }
    }

    /// What `token` says, if `minter` is believed and it is theirs, and whether its roles count.
    async fn judge(
        &self,
        token: &str,
        digest: TokenDigest,
        minter: Minter,
        now: u64,
    ) -> Result<(Arc<Foreign>, bool), Disbelief> {
        match minter {
            Minter::Us => Err(UNKNOWN),
            Minter::Nobody => Ok((Arc::new(self.authenticator.verify_legacy(token, now)?), false)),
            Minter::Other(name) => {
                let is_theirs = |source: &&Arc<Source>| source.issuer.name == name;
                let source = self.sources.iter().find(is_theirs).ok_or(UNKNOWN)?;
                let foreign = source.verify(token, digest, now).await?;
                Ok((foreign, source.issuer.may_grant_roles))
            }
        }
    }

    /// Whom `foreign` stands for, if it has not ended at `now` (epoch seconds).
    async fn identify(
        &self,
        foreign: &Foreign,
        may_grant_roles: bool,
        (client, now): (Option<IpAddr>, u64),
    ) -> Result<Arc<Identity>, Disbelief> {
        // It may have been verified a while ago.
        if foreign.expires_at <= now {
            return Err(Rejection::TokenExpired.into());
        }
        let is_current =
            |linked: &Linked| self.revocations.is_current(&identity(foreign, linked, linked.roles));
        let asked = self.ask(foreign);
        let linked = self.memory.find(&digest(foreign), client, is_current, asked).await?;
        if !linked.admits(foreign) {
            return Err(Disbelief::Never(Rejection::Revoked));
        }
        let roles = if may_grant_roles { foreign.roles } else { linked.roles };
        authn::unexpired(Arc::new(identity(foreign, &linked, roles)), now)
    }

    /// Who the subject of `foreign` is, as the backend says.
    async fn ask(&self, foreign: &Foreign) -> Result<Option<Linked>, BackendError> {
        let Foreign { issuer, subject, .. } = foreign;
        let subject = Subject { issuer: issuer.clone(), subject: subject.clone() };
        match &self.backend {
            Some(backend) => backend.resolve_subject(&subject).await,
            None => Ok(None),
        }
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
            is_named: foreign.is_named,
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
