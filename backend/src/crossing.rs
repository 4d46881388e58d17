//! An admin's way to somebody else's rows, which does not open without a record.

use axum::http::StatusCode;
use memoric_contract::{
    UserId,
    audit::{Record, Severity, safe_text},
};

use crate::{
    administration::Administration,
    audit,
    caller::Call,
    error::ApiError,
    presented::Presented,
    scope::{Custody, Reach},
    store::{
        Context, Pools, Store,
        pool::{Admin, Pool},
    },
};

/// One other user's rows, for one operation of an admin's.
///
/// [`Crossing::open`] is its only maker. The database reaches those rows as a role of its own,
/// and shows and takes none before [`Crossing::record`] stands in the trail.
pub(crate) struct Crossing {
    act: Administration,
    reason: Option<String>,
}

impl Crossing {
    /// Opens the way to the rows of `owner`, for the `reason` that the admin gives.
    ///
    /// Who asks must be an admin by the gateway's word, by what they have shown and, as of now, by the
    /// database's. Only then is it told whether there is such a user. Whether that user may log in does
    /// not matter: their rows are there for as long as their key is.
    pub(crate) async fn open(
        store: &Store,
        (call, presented): (&Call, &Presented),
        owner: Option<UserId>,
        reason: Option<&str>,
    ) -> Result<Self, ApiError> {
        let act = Administration::of(call, presented, owner)?;
        if owner == Some(call.identity()?.user) {
            return Err(ApiError::Forbidden);
        }
        owner.ok_or(ApiError::UserNotFound)?;
        let footing = store.footing(act.context()).await?;
        if !footing.is_admin {
            return Err(ApiError::Forbidden);
        }
        if !footing.is_there {
            return Err(ApiError::UserNotFound);
        }
        let reason = reason.map(|reason| safe_text(reason, reason.len()));
        Ok(Self { act, reason })
    }

    /// What the trail tells of it: who crossed over to whom, what for, and why.
    pub(crate) fn record(&self, call: &Call) -> Record {
        let Context { target, purpose, .. } = self.context();
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        Record {
            severity: Severity::Warning,
            description: Some(format!(
                "an admin crossed over to user {target}, {purpose}: {reason}"
            )),
            ..audit::of_operation(call, Some(*target), StatusCode::OK)
        }
    }
}

impl Custody for Crossing {
    type Keeper = Admin;

    fn credentials(pools: &Pools) -> &Pool<Admin> {
        &pools.admin
    }

    fn context(&self) -> &Context {
        self.act.context()
    }
}

impl Reach for Crossing {
    type Role = Admin;

    fn pool(pools: &Pools) -> &Pool<Admin> {
        &pools.admin
    }
}
