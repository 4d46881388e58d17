//! Whose things a request means: the caller's own, or for an admin, somebody else's.

use memoric_contract::{Identity, UserId, audit::Resource};

use super::{deny, query::Asked};
use crate::{
    administration::Administration, app::App, caller::Call, crossing::Crossing, error::ApiError,
    memories::MAX_REASON, presented::Presented, scope::Custody as _,
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

/// Opens the way to what is `owner`'s. Who may not have it is told so, and the trail is told who asked
/// for which `resource`.
pub(super) async fn cross_over(
    app: &App,
    call: &Call,
    (owner, resource): (Option<UserId>, Resource),
    reason: Option<&str>,
) -> Result<Crossing, ApiError> {
    let opened = async {
        Administration::ensure_by_an_admin(call)?;
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

/// The same, where the query says why. Who may not cross over is told that first.
pub(super) async fn cross_over_by_query(
    app: &App,
    call: &Call,
    whose: (Option<UserId>, Resource),
    mut asked: Asked,
) -> Result<Crossing, ApiError> {
    let reason = asked.text("reason", MAX_REASON);
    let given = reason.as_ref().and_then(Option::as_deref);
    let crossing = cross_over(app, call, whose, given).await?;
    if reason.is_none() {
        return Err(asked.refusal());
    }
    Ok(crossing)
}

/// Characters of what may be a user's id.
const LONGEST_USER_ID: usize = 256;
