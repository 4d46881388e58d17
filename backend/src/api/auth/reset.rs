//! A password set anew, by a token that an admin handed out.

use axum::{body::Body, http::StatusCode};
use memoric_contract::{Operation, UserId, audit::Record};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::super::{Answer, body, json, recorded};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    password_rules::{Chooser, Occasion},
};

/// Sets a password, once for each token, and ends every session.
pub(in crate::api) async fn reset_password(app: &App, call: &Call, body: Body) -> Answer {
    let (token, new) = body::fields(call.headers(), body, Operation::ResetPassword, |mut sent| {
        let (token, new) = (sent.secret("token"), sent.secret("new_password"));
        token.zip(new).ok_or_else(|| sent.refusal())
    })
    .await?;
    // A stranger's guess is for the gateway to record or to count: nobody is to fill the trail with them.
    let hash = app.resets.hash(token.expose_secret()).ok_or(ApiError::InvalidResetToken)?;
    let account = app.store.find_reset(hash).await?.ok_or(ApiError::InvalidResetToken)?;
    call.concerns_account(account.id);
    let chooser = Chooser { username: &account.username, email: &account.email };
    let new = app.password_rules.judge("new_password", new, chooser, Occasion::Change);
    let new = new.map_err(|fault| ApiError::Invalid(vec![fault]))?;
    let new_hash = app.passwords.hash(new, call.network()).await?;

    let user = account.id;
    let record =
        Record { subject: Some(user), ..audit::of_operation(call, Some(user), StatusCode::OK) };
    let entry = app.scribe.entry(record, call, Named::Known(&account.username)).await?;
    let store = app.store.clone();
    let ended =
        app.revoke(call, async move { store.reset_password(user, hash, &new_hash, &entry).await });
    if ended.await?.is_none() {
        return Err(not_reset(app, call, user).await);
    }
    Ok(json(StatusCode::OK, &json!({ "message": "Password reset successfully" })))
}

/// Records that a token was used or overtaken meanwhile, and makes the answer.
async fn not_reset(app: &App, call: &Call, user: UserId) -> ApiError {
    let record = Record {
        error_message: Some("Invalid or expired reset token".to_owned()),
        ..audit::of_operation(call, Some(user), StatusCode::BAD_REQUEST)
    };
    recorded(app, call, record, Named::Not, ApiError::InvalidResetToken).await
}
