//! Who a request acts for, once the gateway has made sure.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Permission, Permissions, Roles, base62::is_base62};

/// A caller whose credential has been verified.
///
/// Claims from a token are a stranger's word; an `Identity` is ours. The gateway makes one
/// after verifying a credential, and the backend receives it inside an
/// [`Assertion`](crate::Assertion).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Who acts.
    pub user: UserId,
    /// What they are.
    pub roles: Roles,
    /// The namespace that an admin put them in.
    pub namespace: Option<String>,
    /// The credential that was presented, for revocation and audit.
    pub presented: PresentedBy,
}

/// The credential behind an identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PresentedBy {
    /// An access token.
    AccessToken {
        /// The token's own id.
        jti: Uuid,
        /// The session it belongs to.
        sid: Uuid,
        /// The refresh counter it was minted at.
        ctr: u32,
        /// The user's generation it was minted in.
        generation: u64,
        /// When it ends, in epoch seconds.
        expires_at: u64,
    },
    /// A token that another issuer, or the Python server, has minted.
    ForeignToken {
        /// Made of what it says.
        id: Uuid,
        /// Whether its minter told it from every other by a `jti`. One that is not told apart cannot be
        /// ended without others that say the same.
        is_named: bool,
        /// The user's generation when the backend was asked whose it is.
        generation: u64,
        /// When it ends, in epoch seconds.
        expires_at: u64,
    },
    /// An API key.
    ApiKey {
        /// The key's own id.
        id: KeyId,
        /// What it was made for: less than the roles allow, or as much.
        scopes: Permissions,
        /// The user's generation when the backend was asked about it.
        generation: u64,
        /// When it ends, in epoch seconds.
        expires_at: u64,
    },
}

/// Which kind of credential was presented.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum CredentialKind {
    /// An access token.
    AccessToken,
    /// A token of another issuer's.
    ForeignToken,
    /// An API key.
    ApiKey,
}

/// Whoever the gateway speaks for: a verified identity, or nobody in particular.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A stranger, or the gateway itself.
    Anonymous,
    /// A known subject.
    Known(Identity),
}

/// Names a user. Positive in the database; never a secret.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct UserId(pub i64);

/// Names an API key: twelve characters of base62.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

/// Names one request, from the client's socket to the database row.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(transparent)]
pub struct RequestId(pub Uuid);

impl UserId {
    /// No user has this id: the operator at the console, a gateway on its own behalf.
    pub const NOBODY: Self = Self(0);
}

impl Identity {
    /// Whether the roles allow `permission`, and the credential was made for it.
    pub fn may(&self, permission: Permission) -> bool {
        let is_scoped = match &self.presented {
            PresentedBy::AccessToken { .. } | PresentedBy::ForeignToken { .. } => true,
            PresentedBy::ApiKey { scopes, .. } => scopes.contains(permission),
        };
        is_scoped && self.roles.allow(permission)
    }
}

impl KeyId {
    /// Reads an id in its one spelling.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 12 && is_base62(text)).then(|| Self(text.to_owned()))
    }
}

impl PresentedBy {
    /// Which kind it is.
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::AccessToken { .. } => CredentialKind::AccessToken,
            Self::ForeignToken { .. } => CredentialKind::ForeignToken,
            Self::ApiKey { .. } => CredentialKind::ApiKey,
        }
    }

    /// The id of the credential, as the audit trail names it.
    pub fn id(&self) -> String {
        match self {
            Self::AccessToken { jti: id, .. } | Self::ForeignToken { id, .. } => id.to_string(),
            Self::ApiKey { id, .. } => id.0.clone(),
        }
    }

    /// The session, where the credential belongs to one.
    pub fn session(&self) -> Option<Uuid> {
        match self {
            Self::AccessToken { sid, .. } => Some(*sid),
            Self::ForeignToken { .. } | Self::ApiKey { .. } => None,
        }
    }

    /// When it ends by itself, in epoch seconds.
    pub const fn expires_at(&self) -> u64 {
        match self {
            Self::AccessToken { expires_at, .. }
            | Self::ForeignToken { expires_at, .. }
            | Self::ApiKey { expires_at, .. } => *expires_at,
        }
    }
}

impl CredentialKind {
    /// The name in logs and in the trail.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::ForeignToken => "foreign_token",
            Self::ApiKey => "api_key",
        }
    }
}

impl UserId {
    /// Reads a user id as a token's `sub` spells it: decimal, positive, one spelling only.
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.parse::<i64>().ok().filter(|id| *id > 0)?;
        (id.to_string() == text).then_some(Self(id))
    }
}

impl RequestId {
    /// A new one, sortable by time.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The one form of an address: an IPv4 address mapped into IPv6 is the IPv4 address.
pub(crate) fn canonical_address(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_has_one_spelling() {
        assert_eq!(UserId::parse("42"), Some(UserId(42)));
        for text in ["", "0", "-1", "+1", "042", " 42", "4.2", "9223372036854775808", "٤٢"] {
            assert_eq!(UserId::parse(text), None, "{text}");
        }
    }
}
