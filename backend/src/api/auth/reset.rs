//! A password set anew, by a token that an admin handed out.

use std::time::SystemTime;

use axum::{body::Body, http::StatusCode};
use memoric_contract::{Operation, UserId, audit::Record, revocation::Revoked};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::super::{Answer, body, json, recorded};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    devices::Device,
    error::ApiError,
    password_rules::{Chooser, Occasion},
};

/// Sets a password, once for each token, and ends every session.
///
/// The answer brings a device token as a login's does: whoever cannot log in for what strangers guess at
/// their account is let past them by an admin.
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
    let Some(ended) = ended.await? else {
        return Err(not_reset(app, call, user).await);
    };
    Ok(json(StatusCode::OK, &told(app, user, ended.revoked)))
}

/// What the answer says of a password of `user`'s that was set, which ended `ended`.
fn told(app: &App, user: UserId, ended: Revoked) -> Value {
    const MESSAGE: &str = "Password reset successfully";
    // A reset ends all before the generation that it begins, and nothing less.
    let Revoked::Before(generation) = ended else { return json!({ "message": MESSAGE }) };
    let token = app.devices.token(Device::new(user, generation), SystemTime::now());
    json!({ "message": MESSAGE, "device_token": *token })
}

/// Records that a token was used or overtaken meanwhile, and makes the answer.
async fn not_reset(app: &App, call: &Call, user: UserId) -> ApiError {
    let record = Record {
        error_message: Some("Invalid or expired reset token".to_owned()),
        ..audit::of_operation(call, Some(user), StatusCode::BAD_REQUEST)
    };
    recorded(app, call, record, Named::Not, ApiError::InvalidResetToken).await
}
