//! A registration: an account that a stranger makes for themselves.

use axum::{body::Body, http::StatusCode};
use memoric_config::schema::Registration;
use memoric_contract::{
    Operation, Role,
    audit::{Action, EventType, Record, Resource},
};
use secrecy::SecretString;

use super::{
    super::{
        Answer,
        body::{self, Sent},
        json, recorded,
    },
    Profile,
};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    password_rules::{Occasion, Owner, PasswordRules},
    people::{Email, FullName, Username},
    store::{NewAccount, StoreError},
};

/// What a stranger who registers tells of themselves. A namespace is for admins to give, so one that
/// is sent is ignored.
struct Registrant {
    username: Username,
    email: Email,
    full_name: Option<FullName>,
    password: SecretString,
}

/// Makes an account for a stranger, where strangers may have one.
pub(in crate::api) async fn register(app: &App, call: &Call, body: Body) -> Answer {
    if app.registration == Registration::Closed {
        return Err(registration_failed(app, call, None, ApiError::RegistrationClosed).await);
    }
    let read = |sent: Sent<'_>| Registrant::read(sent, &app.password_rules);
    let registrant = body::fields(call.headers(), body, Operation::Register, read).await?;

    let password_hash = app.passwords.hash(registrant.password, call.network()).await?;
    let id = app.store.new_user_id().await?;
    let record =
        Record { subject: Some(id), owner: Some(id), ..attempt(call, StatusCode::CREATED) };
    let who = (id, registrant.username.as_str());
    let (entry, key) = app.scribe.first_entry(record, call, who)?;
    let account = NewAccount {
        id,
        username: registrant.username.as_str(),
        email: registrant.email.as_str(),
        password_hash: &password_hash,
        full_name: registrant.full_name.as_ref().map(FullName::as_str),
        namespace: None,
        roles: [Role::User].into_iter().collect(),
    };
    match app.store.register(&account, &key, &entry).await {
        Ok(account) => Ok(json(StatusCode::CREATED, &Profile::of(&account))),
        Err(error) => {
            let refused = taken(error, account.username)?;
            Err(registration_failed(app, call, Some(&registrant.username), refused).await)
        }
    }
}

impl Registrant {
    fn read(mut sent: Sent<'_>, rules: &PasswordRules) -> Result<Self, ApiError> {
        let username = sent.text("username").and_then(|name| sent.judged(Username::parse(&name)));
        let email = sent.text("email").and_then(|email| sent.judged(Email::parse(&email)));
        let password = sent.text("password");
        // Without a name there is nothing to hold the password against, and the answer is no anyway.
        let password = username.as_ref().zip(password).and_then(|(username, password)| {
            let email = email.as_ref().map_or("", Email::as_str);
            let owner = Owner { username: username.as_str(), email };
            sent.judged(rules.judge("password", password, owner, Occasion::Beginning))
        });
        let full_name = sent
            .maybe_text("full_name")
            .and_then(|name| sent.judged(name.map(|name| FullName::parse(&name)).transpose()));
        match (username, email, password, full_name) {
            (Some(username), Some(email), Some(password), Some(full_name)) => {
                Ok(Self { username, email, full_name, password })
            }
            _ => Err(sent.refusal()),
        }
    }
}

/// Records a registration that failed, and makes its answer.
async fn registration_failed(
    app: &App,
    call: &Call,
    name: Option<&Username>,
    refused: ApiError,
) -> ApiError {
    let record =
        Record { error_message: Some(refused.to_string()), ..attempt(call, refused.status()) };
    let named = name.map_or(Named::Not, |name| Named::Unknown(name.as_str()));
    recorded(app, call, record, named, refused).await
}

fn attempt(call: &Call, status: StatusCode) -> Record {
    Record {
        action: Some(Action::Create),
        resource: Some(Resource::User),
        ..audit::about(call, EventType::UserCreated, status.as_u16())
    }
}

/// The refusal, if it is that somebody else has the name or the address.
pub(in crate::api) fn taken(error: StoreError, username: &str) -> Result<ApiError, StoreError> {
    match error.constraint() {
        Some("users_username_unique") => Ok(ApiError::UsernameTaken(username.to_owned())),
        Some("users_email_unique") => Ok(ApiError::EmailTaken),
        _ => Err(error),
    }
}
