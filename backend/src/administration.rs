//! An admin's work on accounts, for as long as they are one.

use memoric_contract::{Operation, Role, UserId};

use crate::{
    caller::Call,
    error::ApiError,
    store::{Context, Store},
};

/// One act of an admin's, or of the operator's at the console, on one account or on the list of them.
///
/// What it changes is changed only where the database, in the same transaction, finds who acts to be an
/// admin still.
pub(crate) struct Administration {
    context: Context,
}

impl Administration {
    /// Begins an act of who asks, an admin by the gateway's word. `None`: on no account in particular.
    pub(crate) fn of(call: &Call, target: Option<UserId>) -> Result<Self, ApiError> {
        let identity = call.identity()?;
        let needed = call.operation().and_then(Operation::needs);
        if !needed.is_some_and(|needed| identity.may(needed)) {
            return Err(ApiError::Forbidden);
        }
        let context = Context {
            user: identity.user,
            target: target.unwrap_or(identity.user),
            role: Role::Admin.name(),
            namespace: identity.namespace.clone(),
            purpose: call.operation_name(),
        };
        Ok(Self { context })
    }

    /// The same for what only shows accounts: who asks is an admin by the database's word too.
    pub(crate) async fn to_see(
        store: &Store,
        call: &Call,
        target: Option<UserId>,
    ) -> Result<Self, ApiError> {
        let administration = Self::of(call, target)?;
        match store.is_admin(&administration).await? {
            true => Ok(administration),
            false => Err(ApiError::Forbidden),
        }
    }

    /// Begins an act of the operator's at the console, who acts as user 0.
    pub(crate) fn at_the_console(operation: Operation, target: UserId) -> Self {
        Self { context: Context::at_the_console(operation.name(), target) }
    }

    /// Whose account it is about.
    pub(crate) fn target(&self) -> UserId {
        self.context.target
    }

    /// What the database is told.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}
