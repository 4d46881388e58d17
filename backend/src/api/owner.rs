//! Whose things a request means: the caller's own, or for an admin, somebody else's.

use memoric_contract::{Identity, UserId, audit::Resource};

use super::{deny, query::Asked};
use crate::{
    app::App, caller::Call, crossing::Crossing, error::ApiError, memories::MAX_REASON,
    presented::Presented, scope::Reach as _,
};

/// Whose things a request means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    /// The caller's own.
    Caller,
    /// Somebody else's. `None`: a name that is no user's id.
    Another(Option<UserId>),
}

impl Owner {
    /// Whose they are, where a client has `named` somebody, or a name that is no user's id.
    pub(super) fn named(identity: &Identity, named: Option<Option<UserId>>) -> Self {
        match named {
            None => Self::Caller,
            Some(owner) if owner == Some(identity.user) => Self::Caller,
            Some(owner) => Self::Another(owner),
        }
    }

    /// Whose they are by the query.
    pub(super) fn asked(asked: &mut Asked, identity: &Identity) -> Option<Self> {
        let named = asked.text("user_id", LONGEST_USER_ID)?;
        Some(Self::named(identity, named.map(|name| UserId::parse(&name))))
    }
}

/// Why an admin crosses over, by the query.
pub(super) fn reason(asked: &mut Asked) -> Option<Option<String>> {
    asked.text("reason", MAX_REASON)
}

/// Opens the way to what is `owner`'s. Who may not have it is told so, and the trail is told who asked
/// for which `resource`.
pub(super) async fn cross_over(
    app: &App,
    call: &Call,
    (owner, resource): (Option<UserId>, Resource),
    reason: Option<&str>,
) -> Result<Crossing, ApiError> {
    let opened = async {
        Crossing::ensure_by_an_admin(call)?;
        let presented = Presented::along(app, call).await?;
        Crossing::open(&app.store, (call, &presented), owner, reason).await
    };
    match opened.await {
        Err(ApiError::Forbidden) => {
            let what = match resource {
                Resource::Session => "another user's sessions",
                _ => "another user's memories",
            };
            Err(deny(app, call, what, (resource, owner)).await)
        }
        opened => opened.inspect(|crossing| call.concerns(crossing.owner())),
    }
}

/// Characters of what may be a user's id.
const LONGEST_USER_ID: usize = 256;
