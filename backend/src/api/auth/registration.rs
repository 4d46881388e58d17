//! A registration: an account that a stranger makes for themselves.

use axum::{body::Body, http::StatusCode};
use memoric_config::schema::Registration;
use memoric_contract::{Operation, audit::Record};
use secrecy::SecretString;

use super::{
    super::{
        Answer,
        body::{self, Sent},
        json, newcomer, recorded,
    },
    Profile,
};
use crate::{
    accounts::Wanted,
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    password_rules::PasswordRules,
    store::{StoreError, Taken},
};

/// Makes an account for a stranger, where strangers may have one. A namespace and roles are for admins to
/// give, so those that are sent are ignored.
pub(in crate::api) async fn register(app: &App, call: &Call, body: Body) -> Answer {
    // For the gateway to record or to count: nobody is to fill the trail with it.
    if app.registration == Registration::Closed {
        return Err(ApiError::RegistrationClosed);
    }
    let read = |sent: Sent<'_>| read(sent, &app.password_rules);
    let (wanted, password) = body::fields(call.headers(), body, Operation::Register, read).await?;

    let password_hash = app.passwords.hash(password, call.network()).await?;
    let id = app.store.new_user_id().await?;
    let record = audit::of_operation(call, Some(id), StatusCode::CREATED);
    let record = Record { subject: Some(id), ..record };
    let username = wanted.username.as_str();
    let (entry, key) = app.scribe.first_entry(record, call, (id, username))?;
    match app.store.register(&wanted.account(id, &password_hash), &key, &entry).await {
        Ok(account) => Ok(json(StatusCode::CREATED, &Profile::of(&account))),
        Err(error) => Err(not_made(app, call, (error, username), Named::Unknown(username)).await),
    }
}

fn read(mut sent: Sent<'_>, rules: &PasswordRules) -> Result<(Wanted, SecretString), ApiError> {
    let told = newcomer::take(&mut sent, |sent| sent.secret("password").map(Some), rules);
    let told = told.and_then(|(wanted, password)| Some((wanted, password?)));
    told.ok_or_else(|| sent.refusal())
}

/// Records that an account was not made because somebody else has its name or its address, and makes the
/// answer.
pub(in crate::api) async fn not_made(
    app: &App,
    call: &Call,
    (error, username): (StoreError, &str),
    named: Named<'_>,
) -> ApiError {
    let refused = match error.taken() {
        Some(Taken::Username) => ApiError::UsernameTaken(username.to_owned()),
        Some(Taken::Email) => ApiError::EmailTaken,
        None => return error.into(),
    };
    let record = Record {
        error_message: Some(refused.to_string()),
        ..audit::of_operation(call, None, refused.status())
    };
    recorded(app, call, record, named, refused).await
}
