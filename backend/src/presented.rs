//! The client's own credential, verified again where the gateway's word for it is not enough.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use memoric_contract::{Identity, KeyId, Permissions, PresentedBy};

use crate::{app::App, caller::Call, error::ApiError};

/// Proof that the client itself presented the credential that the gateway speaks of, that it lives, and
/// that it allows what is asked, about another user too.
///
/// [`Presented::along`] is its only maker. Who has the gateway, or the key of its assertions, cannot
/// make one: that takes a living credential of the very user.
pub(crate) struct Presented(());

impl Presented {
    /// Looks at what came along with `call`: valid, alive, of the same user, session or key, and, as of
    /// now, good for all that the operation needs.
    pub(crate) async fn along(app: &App, call: &Call) -> Result<Self, ApiError> {
        let identity = call.identity()?;
        let text = credential(call.headers()).ok_or(ApiError::NotPresented)?;
        let allowed = match &identity.presented {
            // In boxes, or every handler that asks for it would carry them about on the stack.
            PresentedBy::AccessToken { .. } => Box::pin(by_token(app, text, identity)).await?,
            PresentedBy::ForeignToken { .. } => return Err(ApiError::NotPresented),
            PresentedBy::ApiKey { id, .. } => Box::pin(by_key(app, text, id, identity)).await?,
        };
        let operation = call.operation().ok_or(ApiError::Forbidden)?;
        match operation.needs_about_another().is_within(allowed) {
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

/// What the roles of who presented the access token `text` allow, as of now.
async fn by_token(app: &App, text: &str, identity: &Identity) -> Result<Permissions, ApiError> {
    let shown = app.tokens.verify(text, SystemTime::now()).map_err(|_| ApiError::NotPresented)?;
    let PresentedBy::AccessToken { jti, sid, generation, .. } = shown.presented else {
        return Err(ApiError::NotPresented);
    };
    if shown != *identity {
        return Err(ApiError::NotPresented);
    }
    let (is_live, account) = tokio::try_join!(
        app.store.is_live(shown.user, jti, sid, generation),
        app.store.find_user(shown.user)
    )?;
    match account.filter(|account| is_live && account.is_active) {
        Some(account) => Ok(account.roles.permissions()),
        None => Err(ApiError::NotPresented),
    }
}

/// What the API key `text` was made for, as far as the roles of who presented it allow that as of now.
async fn by_key(
    app: &App,
    text: &str,
    id: &KeyId,
    identity: &Identity,
) -> Result<Permissions, ApiError> {
    let shown = app.api_keys.read(text).map_err(|_| ApiError::NotPresented)?;
    if shown.id() != id {
        return Err(ApiError::NotPresented);
    }
    let standing = app.store.resolve_key(id, app.api_keys.hash(&shown)).await?;
    let standing = standing.filter(|standing| standing.user == identity.user);
    let standing = standing.ok_or(ApiError::NotPresented)?;
    let scopes = Permissions::from_bits(standing.scopes).unwrap_or_default();
    Ok(scopes.within(standing.roles.permissions()))
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
