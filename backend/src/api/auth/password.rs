//! A change of password, which ends whatever was begun with the old one.

use axum::{body::Body, http::StatusCode};
use memoric_contract::{Operation, UserId, audit::Record};
use serde_json::json;

use super::{
    super::{Answer, body, json, recorded},
    guessing,
};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    guesses::Guesser,
    password_rules::{Chooser, Occasion},
    passwords::Verdict,
    scope::Scope,
};

/// Replaces one's own password, and ends every session begun with the old one, this one included.
pub(in crate::api) async fn change_password(app: &App, call: &Call, body: Body) -> Answer {
    let user = call.identity()?.user;
    call.concerns_account(user);
    let session = call.identity()?.presented.session().ok_or(ApiError::NoSession)?;
    let account = app.store.find_user(user).await?.ok_or(ApiError::UserNotFound)?;
    let chooser = Chooser { username: &account.username, email: &account.email };
    let (old, new) = body::fields(call.headers(), body, Operation::ChangePassword, |mut sent| {
        let (old, new) = (sent.secret("old_password"), sent.secret("new_password"));
        let new = new.and_then(|new| {
            sent.judged(app.password_rules.judge("new_password", new, chooser, Occasion::Change))
        });
        old.zip(new).ok_or_else(|| sent.refusal())
    })
    .await?;
    // Whoever holds the session answers for their guesses, whatever strangers guess meanwhile.
    let guess = guessing::take(app, Guesser::Known(user, session))?;
    let verified = app.passwords.verify(old, Some(&account.password_hash), call.network()).await;
    match verified {
        Ok(Verdict::Match { .. }) => guess.was_right(),
        Ok(Verdict::Mismatch) => {
            let status = StatusCode::BAD_REQUEST;
            guessing::record_wrong(app, call, guess, (Some(&account), status)).await?;
            return Err(password_not_changed(app, call, user).await);
        }
        Err(error) => {
            guess.was_none();
            return Err(error.into());
        }
    }
    let new_hash = app.passwords.hash(new, call.network()).await?;
    let record = audit::of_operation(call, Some(user), StatusCode::OK);
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let (store, scope) = (app.store.clone(), Scope::of(call)?);
    let changed = app.revoke(call, async move {
        store.change_password(&scope, &account.password_hash, &new_hash, &entry).await
    });
    if changed.await?.is_none() {
        return Err(password_not_changed(app, call, user).await);
    }
    Ok(json(StatusCode::OK, &json!({ "message": "Password changed successfully" })))
}

/// Records that a password was not changed, and makes the answer.
async fn password_not_changed(app: &App, call: &Call, user: UserId) -> ApiError {
    let record = Record {
        error_message: Some("Invalid old password".to_owned()),
        ..audit::of_operation(call, Some(user), StatusCode::BAD_REQUEST)
    };
    recorded(app, call, record, Named::Not, ApiError::PasswordNotChanged).await
}
