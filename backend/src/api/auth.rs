//! Accounts and tokens, as clients ask for them.

mod api_keys;
mod guessing;
mod login;
mod password;
mod refresh;
mod registration;
mod reset;
mod sessions;

use axum::http::StatusCode;
use memoric_contract::{Roles, UserId, audit::Resource};
use serde::Serialize;

pub(super) use self::{
    api_keys::{create_api_key, list_api_keys, revoke_api_key, rotate_api_key},
    login::login,
    password::change_password,
    refresh::refresh,
    registration::{not_made, register},
    reset::reset_password,
    sessions::{end_session, list_sessions, logout, logout_everywhere},
};
use super::{Answer, deny, json};
use crate::{
    administration::Administration, app::App, caller::Call, error::ApiError, memories::stored_time,
    people::Username, presented::Presented, store::Account,
};

/// An account as its owner and admins see it, key for key as clients know it.
#[derive(Serialize)]
pub(super) struct Profile<'a> {
    id: UserId,
    username: &'a str,
    email: &'a str,
    full_name: Option<&'a str>,
    namespace: Option<&'a str>,
    roles: Roles,
    is_active: bool,
    is_verified: bool,
    created_at: String,
    last_login_at: Option<String>,
}

/// One's own profile.
pub(super) async fn show_me(app: &App, call: &Call) -> Answer {
    let user = call.identity()?.user;
    call.concerns_account(user);
    let account = app.store.find_user(user).await?.ok_or(ApiError::UserNotFound)?;
    Ok(json(StatusCode::OK, &Profile::of(&account)))
}

/// A profile by name: one's own, or anybody's for an admin.
///
/// Anybody else's is refused before it is looked for, so that nobody learns who there is.
pub(super) async fn show_profile(app: &App, call: &Call) -> Answer {
    let identity = call.identity()?;
    let wanted = Username::parse(call.last_segment()).ok();
    let own = app.store.find_user(identity.user).await?;
    if let Some(own) =
        own.filter(|own| wanted.as_ref().is_some_and(|name| name.as_str() == own.username))
    {
        call.concerns_account(own.id);
        return Ok(json(StatusCode::OK, &Profile::of(&own)));
    }
    if Administration::ensure_by_an_admin(call).is_err() {
        return Err(deny(app, call, "another user's profile", (Resource::User, None)).await);
    }
    let presented = Presented::along(app, call).await?;
    let act = Administration::of(call, &presented, None)?;
    let found = match wanted {
        Some(name) => app.store.profile(&act, name.as_str()).await?,
        None => None,
    };
    let found = found.ok_or(ApiError::UserNotFound)?;
    call.concerns_account(found.id);
    Ok(json(StatusCode::OK, &Profile::of(&found)))
}

impl<'a> Profile<'a> {
    pub(super) fn of(account: &'a Account) -> Self {
        Self {
            id: account.id,
            username: &account.username,
            email: &account.email,
            full_name: account.full_name.as_deref(),
            namespace: account.namespace.as_deref(),
            roles: account.roles,
            is_active: account.is_active,
            is_verified: account.is_verified,
            created_at: stored_time(account.created_at),
            last_login_at: account.last_login_at.map(stored_time),
        }
    }
}
