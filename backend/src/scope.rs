//! Whose rows an operation may touch.

use memoric_contract::{Permission, Role, UserId};

use crate::{caller::Call, error::ApiError, store::Context};

/// One user's own rows, for one operation.
///
/// It can be made only from a request that the gateway vouches for, and nothing of anybody's is
/// read or written without it. So no handler can name someone else's rows by mistake.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    context: Context,
}

impl Scope {
    /// The rows of whoever asks.
    pub(crate) fn of(call: &Call) -> Result<Self, ApiError> {
        let identity = call.identity()?;
        let role = match identity.roles.strongest() {
            Some(role) if identity.may(Permission::WriteMemories) => role.name(),
            Some(_) => Role::Readonly.name(),
            None => NO_ROLE,
        };
        let context = Context {
            user: identity.user,
            target: identity.user,
            role,
            namespace: identity.namespace.clone(),
            purpose: call.operation_name(),
        };
        Ok(Self { context })
    }

    /// Whose rows they are.
    pub(crate) fn owner(&self) -> UserId {
        self.context.target
    }

    /// What the database is told.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}

/// The role of those who have none. No policy knows it.
const NO_ROLE: &str = "none";
