//! The client's own credential, verified again where the gateway's word for it is not enough.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use memoric_contract::{Identity, KeyId, Operation, PresentedBy, Roles};

use crate::{app::App, caller::Call, error::ApiError};

/// Proof that the client itself presented the credential that the gateway speaks of, and that it lives.
///
/// [`Presented::along`] is its only maker. Who has the gateway, or the key of its assertions, cannot
/// make one: that takes a living credential of the very user.
pub(crate) struct Presented(());

impl Presented {
    /// Looks at what came along with `call`: valid, alive, of the same user, session or key, and of
    /// roles that, as of now, allow what is asked.
    pub(crate) async fn along(app: &App, call: &Call) -> Result<Self, ApiError> {
        let identity = call.identity()?;
        let text = credential(call.headers()).ok_or(ApiError::NotPresented)?;
        let roles = match &identity.presented {
            PresentedBy::AccessToken { .. } => by_token(app, text, identity).await?,
            PresentedBy::ApiKey { id, .. } => by_key(app, text, id, identity).await?,
        };
        let needs = |operation: Operation| operation.needs().or(operation.needs_for_another());
        let needed = call.operation().and_then(needs);
        match needed.is_none_or(|needed| roles.allow(needed)) {
            true => Ok(Self(())),
            false => Err(ApiError::Forbidden),
        }
    }

    /// One for tests of what comes after it.
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self(())
    }
}

/// The roles, as of now, of who presented the access token `text`.
async fn by_token(app: &App, text: &str, identity: &Identity) -> Result<Roles, ApiError> {
    let shown = app.tokens.verify(text, SystemTime::now()).map_err(|_| ApiError::NotPresented)?;
    let PresentedBy::AccessToken { jti, sid, generation, .. } = shown.presented else {
        return Err(ApiError::NotPresented);
    };
    let is_live = shown == *identity && app.store.is_live(shown.user, jti, sid, generation).await?;
    let account = app.store.find_user(shown.user).await?;
    match account.filter(|account| is_live && account.is_active) {
        Some(account) => Ok(account.roles),
        None => Err(ApiError::NotPresented),
    }
}

/// The roles, as of now, of who presented the API key `text`.
async fn by_key(app: &App, text: &str, id: &KeyId, identity: &Identity) -> Result<Roles, ApiError> {
    let shown = app.api_keys.read(text).map_err(|_| ApiError::NotPresented)?;
    let standing = app.store.resolve_key(shown.id(), app.api_keys.hash(&shown)).await?;
    let is_theirs = |user| shown.id() == id && user == identity.user;
    match standing.filter(|standing| is_theirs(standing.user)) {
        Some(standing) => Ok(standing.roles),
        None => Err(ApiError::NotPresented),
    }
}

/// The one credential in `headers`, without the scheme in front of it.
fn credential(headers: &HeaderMap) -> Option<&str> {
    let (behind, alone) = (sole(headers, &AUTHORIZATION), sole(headers, &API_KEY));
    match (behind, alone) {
        (Some(value), None) => Some(value.to_str().ok()?.split_once(' ')?.1),
        (None, Some(value)) => value.to_str().ok(),
        (None, None) | (Some(_), Some(_)) => None,
    }
}

fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
