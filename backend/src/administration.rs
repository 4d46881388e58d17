//! An admin's work on what is not their own, for as long as they are one.

use memoric_contract::{Operation, Role, UserId};

use crate::{
    caller::Call,
    error::ApiError,
    presented::Presented,
    scope::Custody,
    store::{
        Context, Pools,
        pool::{Admin, Pool},
    },
};

/// One act of an admin's, or of the operator's at the console, on one account, on the list of them or on
/// the trail. Nothing else makes a context for an admin.
///
/// What it changes is changed only where the database, in the same transaction, finds who acts to be an
/// admin still.
pub(crate) struct Administration {
    context: Context,
}

impl Administration {
    /// Begins an act of who asks, who is an admin by the gateway's word and has shown that they are one.
    /// `None`: on no account in particular.
    pub(crate) fn of(call: &Call, _: &Presented, target: Option<UserId>) -> Result<Self, ApiError> {
        Self::ensure_by_an_admin(call)?;
        let identity = call.identity()?;
        let context = Context {
            user: identity.user,
            target: target.unwrap_or(identity.user),
            role: Role::Admin.name(),
            namespace: identity.namespace.clone(),
            purpose: call.operation_name(),
        };
        Ok(Self { context })
    }

    /// Refuses whoever is no admin by the gateway's own word, or has a credential that was made for less.
    ///
    /// The database would show them nothing, which looks like a trail without a record.
    pub(crate) fn ensure_by_an_admin(call: &Call) -> Result<(), ApiError> {
        let (identity, operation) = (call.identity()?, call.operation());
        let needed = operation.ok_or(ApiError::Forbidden)?.needs_about_another();
        let may = needed.iter().all(|needed| identity.may(needed));
        match may && identity.roles.contains(Role::Admin) {
            true => Ok(()),
            false => Err(ApiError::Forbidden),
        }
    }

    /// Begins an act of the operator's at the console, who acts as user 0.
    pub(crate) fn at_the_console(operation: Operation, target: UserId) -> Self {
        Self { context: Context::at_the_console(operation.name(), target) }
    }

    /// An act in any context, as only a test may have it.
    #[cfg(test)]
    pub(crate) fn in_context(context: Context) -> Self {
        Self { context }
    }
}

impl Custody for Administration {
    type Keeper = Admin;

    fn credentials(pools: &Pools) -> &Pool<Admin> {
        &pools.admin
    }

    fn context(&self) -> &Context {
        &self.context
    }
}
