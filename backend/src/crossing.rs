//! An admin's way to somebody else's rows, which does not open without a record.

use axum::http::StatusCode;
use memoric_contract::{
    Operation, Role, UserId,
    audit::{Action, EventType, Record, Resource, Severity, safe_text},
};

use crate::{
    audit,
    caller::Call,
    error::ApiError,
    presented::Presented,
    scope::Reach,
    store::{
        Context, Pools, Store,
        pool::{Admin, Pool},
    },
};

/// What an admin did, and to which kind of thing.
pub(crate) type Told = (EventType, Action, Resource);

/// One other user's rows, for one operation of an admin's.
///
/// [`Crossing::open`] is its only maker. The database reaches those rows as a role of its own,
/// and shows and takes none before [`Crossing::record`] stands in the trail.
pub(crate) struct Crossing {
    context: Context,
    reason: Option<String>,
}

impl Crossing {
    /// Refuses whoever is no admin by the gateway's own word.
    pub(crate) fn ensure_by_an_admin(call: &Call) -> Result<(), ApiError> {
        let identity = call.identity()?;
        let needed = call.operation().and_then(Operation::needs_for_another);
        match needed.is_some_and(|needed| identity.may(needed)) {
            true => Ok(()),
            false => Err(ApiError::Forbidden),
        }
    }

    /// Opens the way to the rows of `owner`, for the `reason` that the admin gives.
    ///
    /// Who asks must have shown so themself, and must be an admin by the gateway's word and, as of now, by the database's. Only
    /// then is it told whether there is such a user. Whether that user may log in does not matter:
    /// their rows are there for as long as their key is.
    pub(crate) async fn open(
        store: &Store,
        (call, _): (&Call, &Presented),
        owner: Option<UserId>,
        reason: Option<&str>,
    ) -> Result<Self, ApiError> {
        Self::ensure_by_an_admin(call)?;
        let identity = call.identity()?;
        if owner == Some(identity.user) {
            return Err(ApiError::Forbidden);
        }
        let context = Context {
            user: identity.user,
            target: owner.ok_or(ApiError::UserNotFound)?,
            role: Role::Admin.name(),
            namespace: identity.namespace.clone(),
            purpose: call.operation_name(),
        };
        let footing = store.footing(&context).await?;
        if !footing.is_admin {
            return Err(ApiError::Forbidden);
        }
        if !footing.is_there {
            return Err(ApiError::UserNotFound);
        }
        let reason = reason.map(|reason| safe_text(reason, reason.len()));
        Ok(Self { context, reason })
    }

    /// What the trail tells of it: who crossed over to whom, what for, and why.
    pub(crate) fn record(&self, call: &Call, (event, action, resource): Told) -> Record {
        let Context { target, purpose, .. } = &self.context;
        let reason = self.reason.as_deref().unwrap_or("no reason given");
        Record {
            owner: Some(*target),
            action: Some(action),
            resource: Some(resource),
            severity: Severity::Warning,
            description: Some(format!(
                "an admin crossed over to user {target}, {purpose}: {reason}"
            )),
            ..audit::about(call, event, StatusCode::OK.as_u16())
        }
    }
}

impl Reach for Crossing {
    type Role = Admin;

    fn pool(pools: &Pools) -> &Pool<Admin> {
        &pools.admin
    }

    type Keeper = Admin;

    fn credentials(pools: &Pools) -> &Pool<Admin> {
        &pools.admin
    }

    fn context(&self) -> &Context {
        &self.context
    }
}
