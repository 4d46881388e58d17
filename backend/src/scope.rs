//! Whose rows an operation may touch.

use memoric_contract::{Permission, Role, UserId};

use crate::{
    caller::{Asked, Call},
    error::ApiError,
    store::{
        Context, Pools,
        pool::{App, Auth, DatabaseRole, Pool},
    },
};

/// Whose credentials an operation may touch, and by which role of the database it comes to them.
pub(crate) trait Custody: Sync {
    /// The role that comes to them, by functions alone.
    type Keeper: DatabaseRole;

    /// The connections of that role.
    fn credentials(pools: &Pools) -> &Pool<Self::Keeper>;

    /// What the database is told.
    fn context(&self) -> &Context;

    /// Whose they are.
    fn owner(&self) -> UserId {
        self.context().target
    }
}

/// Whose rows an operation may touch besides, and by which role it comes to them.
pub(crate) trait Reach: Custody {
    /// The role that comes to them.
    type Role: DatabaseRole;

    /// The connections of that role.
    fn pool(pools: &Pools) -> &Pool<Self::Role>;
}

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

    /// Nobody's rows, for what a gateway asks on its own behalf.
    pub(crate) fn of_gateway(call: &Call) -> Result<Self, ApiError> {
        match call.asked() {
            Asked::Internal(operation) => {
                let context = Context {
                    user: UserId::NOBODY,
                    target: UserId::NOBODY,
                    role: NO_ROLE,
                    namespace: None,
                    purpose: operation.name(),
                };
                Ok(Self { context })
            }
            Asked::Public(_) => Err(ApiError::NobodyKnown),
        }
    }

    /// Rows in any context, as only a test may have them.
    #[cfg(test)]
    pub(crate) fn in_context(context: Context) -> Self {
        Self { context }
    }
}

impl Custody for Scope {
    type Keeper = Auth;

    fn credentials(pools: &Pools) -> &Pool<Auth> {
        &pools.auth
    }

    fn context(&self) -> &Context {
        &self.context
    }
}

impl Reach for Scope {
    type Role = App;

    fn pool(pools: &Pools) -> &Pool<App> {
        &pools.app
    }
}

/// The role of those who have none. No policy knows it.
const NO_ROLE: &str = "none";
