//! What a request asks for.

use std::sync::Arc;

use memoric_contract::{Demands, Operation, UserId};

use crate::{authz, config::Route, target::Target};

/// An operation of ours, or whatever the service behind a configured route makes of it.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Operation(Operation),
    Route(Arc<Route>),
}

impl Asked {
    /// The operation, where it is one.
    pub(crate) fn operation(&self) -> Option<Operation> {
        match self {
            Self::Operation(operation) => Some(*operation),
            Self::Route(_) => None,
        }
    }

    /// The route, where it is by one.
    pub(crate) fn route(&self) -> Option<&Route> {
        match self {
            Self::Operation(_) => None,
            Self::Route(route) => Some(route),
        }
    }

    /// The name in metrics: never what a client made up.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Operation(operation) => operation.name(),
            Self::Route(route) => &route.name,
        }
    }

    /// The name in the access log, and the path as it is declared there.
    pub(crate) fn declared(&self) -> (&str, &str) {
        match self {
            Self::Operation(operation) => (operation.name(), operation.path()),
            Self::Route(route) => (Route::NAME, &route.path),
        }
    }

    /// Which credential it demands. Nobody in particular asks a service.
    pub(crate) fn demands(&self) -> Demands {
        match self {
            Self::Operation(operation) => operation.demands(),
            Self::Route(_) => Demands::Access,
        }
    }

    /// Bytes of its body at most.
    pub(crate) fn most_body(&self) -> usize {
        match self {
            Self::Operation(operation) => operation.takes().most(),
            Self::Route(route) => route.body_bytes,
        }
    }

    /// Whose data `target` names, where it is somebody's that is asked for.
    pub(crate) fn owner(&self, target: &Target) -> Option<UserId> {
        let named = match self {
            Self::Operation(operation) => authz::named_owner(*operation, target),
            Self::Route(_) => target.user_id(),
        };
        named.and_then(UserId::parse)
    }
}

impl From<Operation> for Asked {
    fn from(operation: Operation) -> Self {
        Self::Operation(operation)
    }
}
