//! Accounts, as admins see, make and change them.

mod wanted;

use axum::{body::Body, http::StatusCode};
use memoric_contract::{
    Operation, UserId,
    audit::{Record, Resource},
};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;

use self::wanted::{NewUser, Wish};
use super::{
    Answer,
    auth::{Profile, not_made},
    body, deny, json,
    query::Asked,
};
use crate::{
    accounts,
    administration::Administration,
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    presented::Presented,
    resets::{self, ResetToken},
    store::{Account, Changed},
};

/// An account as an admin sees it, with the token that they asked for. Nothing shows it again.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    profile: Profile<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_token: Option<&'a str>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_expires_in: Option<u64>,
}

/// Every account, page by page, in the order of their ids.
pub(super) async fn list_users(app: &App, call: &Call, presented: &Presented) -> Answer {
    let act = Administration::of(call, presented, None)?;
    let mut asked = Asked::read(call.target())?;
    let (limit, cursor) = (asked.number("limit", 1..=MOST, USUAL), asked.text("cursor", 100));
    let after = cursor.and_then(|cursor| match cursor {
        None => Some(0),
        Some(cursor) => app.cursors.read(call.operation_name(), &cursor).or_else(|| {
            asked.fault("cursor", "not_a_cursor", "Input should be a cursor of this list")
        }),
    });
    let (Some(limit), Some(after)) = (limit, after) else { return Err(asked.refusal()) };

    let mut accounts = app.store.list_users(&act, after, limit + 1).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = accounts.len() > page;
    accounts.truncate(page);
    let last = accounts.last().filter(|_| has_more);
    let next = last.map(|last| app.cursors.behind(call.operation_name(), last.id.0));
    let users: Vec<_> = accounts.iter().map(Profile::of).collect();
    Ok(json(StatusCode::OK, &json!({ "users": users, "next_cursor": next })))
}

/// One account.
pub(super) async fn show_user(app: &App, call: &Call, presented: &Presented) -> Answer {
    let user = UserId::parse(call.last_segment()).ok_or(ApiError::UserNotFound)?;
    let act = Administration::of(call, presented, Some(user))?;
    call.concerns_account(user);
    let account = app.store.show_user(&act).await?.ok_or(ApiError::UserNotFound)?;
    Ok(json(StatusCode::OK, &Profile::of(&account)))
}

/// Makes an account for somebody. Without a password they choose one themselves, by a token.
pub(super) async fn create_user(
    app: &App,
    call: &Call,
    presented: &Presented,
    body: Body,
) -> Answer {
    let read = |sent: body::Sent<'_>| NewUser::read(sent, &app.password_rules);
    let NewUser { wanted, password } =
        body::fields(call.headers(), body, Operation::CreateUser, read).await?;
    let token = password.is_none().then(|| app.resets.mint()).transpose();
    let token = token.map_err(ApiError::unwritable)?;
    let password = password.map_or_else(|| unknown_password(app), Ok)?;
    let password_hash = app.passwords.hash(password, call.network()).await?;

    let id = app.store.new_user_id().await?;
    let act = Administration::of(call, presented, Some(id))?;
    let record = Record {
        metadata: Some(json!({ "roles": wanted.roles })),
        ..audit::of_operation(call, Some(id), StatusCode::CREATED)
    };
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let account = wanted.account(id, &password_hash);
    let reset = token.as_ref().map(|token| token.hash);
    match app.store.create_user(&act, &account, reset, &entry).await {
        Ok(Some(made)) => {
            call.concerns_account(id);
            Ok(json(StatusCode::CREATED, &Shown::with(&made, token.as_ref())))
        }
        Ok(None) => Err(denied(app, call, None).await),
        Err(error) => Err(not_made(app, call, (error, wanted.username.as_str()), Named::Not).await),
    }
}

/// Changes an account, and ends what was begun with it.
pub(super) async fn change_user(
    app: &App,
    call: &Call,
    presented: &Presented,
    body: Body,
) -> Answer {
    let wish = body::fields(call.headers(), body, Operation::ChangeUser, Wish::read).await?;
    let user = UserId::parse(call.last_segment()).ok_or(ApiError::UserNotFound)?;
    let act = Administration::of(call, presented, Some(user))?;
    call.concerns_account(user);
    let token = wish.resets.then(|| app.resets.mint()).transpose().map_err(ApiError::unwritable)?;
    let change = wish.change(token.as_ref().map(|token| token.hash));

    let about = |event| Record { event, ..audit::of_operation(call, Some(user), StatusCode::OK) };
    let mut entries = Vec::with_capacity(2);
    for record in accounts::records(&change, about) {
        entries.push(app.scribe.entry(record, call, Named::Not).await?);
    }
    let store = app.store.clone();
    let changed =
        app.revoke(call, async move { store.change_user(&act, &change, &entries).await }).await?;
    match changed {
        Changed::Done(_, account) => {
            Ok(json(StatusCode::OK, &Shown::with(&account, token.as_ref())))
        }
        Changed::Forbidden => Err(denied(app, call, Some(user)).await),
        Changed::Absent => Err(ApiError::UserNotFound),
        Changed::LastAdmin => Err(ApiError::LastAdmin),
    }
}

impl<'a> Shown<'a> {
    fn with(account: &'a Account, token: Option<&'a ResetToken>) -> Self {
        Self {
            profile: Profile::of(account),
            reset_token: token.map(ResetToken::expose),
            reset_expires_in: token.map(|_| resets::LIFE.as_secs()),
        }
    }
}

/// Records that who asks is no admin any more, and makes the answer.
async fn denied(app: &App, call: &Call, target: Option<UserId>) -> ApiError {
    deny(app, call, "accounts", (Resource::User, target)).await
}

/// What nobody knows, in the place of a password that is yet to be chosen.
fn unknown_password(app: &App) -> Result<SecretString, ApiError> {
    let unknown = app.resets.mint().map_err(ApiError::unwritable)?;
    Ok(SecretString::from(unknown.expose()))
}

/// Accounts on a page.
const MOST: i64 = 1_000;
const USUAL: i64 = 50;
