//! A refresh: a refresh token traded for a new pair.

use std::time::SystemTime;

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
};
use memoric_contract::{
    Operation, UserId,
    audit::{EventType, Record, Resource, Severity},
    refresh::RefreshToken,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::{Answer, body, json as answer};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    store::{Account, RefreshEntries, Refreshed, Worthless},
    tokens::Bearer,
};

/// An access token, and the refresh token to come back with.
#[derive(Serialize)]
pub(super) struct Pair<'a> {
    pub(super) access_token: &'a str,
    pub(super) token_type: &'static str,
    /// Seconds.
    pub(super) expires_in: u64,
    pub(super) refresh_token: &'a str,
    /// Seconds after which the session ends unless it is refreshed.
    pub(super) refresh_expires_in: u64,
}

/// A refresh token that was made here, for a session that there is or was.
struct Believed {
    token: RefreshToken,
    user: UserId,
    seed: Vec<u8>,
}

/// Trades a refresh token for a new pair.
///
/// Whatever is wrong with the token, the answer is the same.
pub(in crate::api) async fn refresh(app: &App, call: &Call, body: Body) -> Answer {
    let text = presented(call, body).await?;
    let Some(believed) = believe(app, &text).await? else {
        // For the gateway to record or to count: nobody is to fill the trail with guesses.
        return Err(ApiError::InvalidCredentials);
    };
    let Some(account) =
        app.store.find_user(believed.user).await?.filter(|account| account.is_active)
    else {
        return Err(refused(app, call, &believed, Worthless::Inactive).await);
    };

    match carry_on(app, call, &believed).await? {
        Refreshed::On { counter, ends_at } => pair(app, &account, &believed, (counter, ends_at)),
        Refreshed::Reused(_) => Err(ApiError::InvalidCredentials),
        Refreshed::Late => Err(refused(app, call, &believed, Worthless::Late).await),
        Refreshed::Ended => Err(refused(app, call, &believed, Worthless::Ended).await),
    }
}

/// The token: behind `Bearer`, as the guide has it, or in a JSON body, and never in both.
async fn presented(call: &Call, body: Body) -> Result<SecretString, ApiError> {
    let (headers, operation) = (call.headers(), Operation::Refresh);
    let Some(token) = bearer(headers) else {
        return body::fields(headers, body, operation, |mut sent| {
            sent.secret("refresh_token").ok_or_else(|| sent.refusal())
        })
        .await;
    };
    let another = body::maybe_fields(headers, body, operation, |mut sent| {
        Ok(sent.secret("refresh_token").is_some())
    });
    match another.await {
        Ok(Some(true)) => Err(ApiError::SeveralCredentials),
        // Whatever else a client sends along is nothing to us, as it always was.
        Ok(_) | Err(ApiError::Invalid(_) | ApiError::UnsupportedMediaType) => {
            Ok(SecretString::from(token.to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Believes a token whose MAC is right.
async fn believe(app: &App, text: &SecretString) -> Result<Option<Believed>, ApiError> {
    let Some(token) = RefreshToken::read(text.expose_secret()) else { return Ok(None) };
    let found = app.store.find_session(token.session).await?;
    let believed = found.map(|(user, seed)| Believed { token, user, seed });
    Ok(believed.filter(|believed| app.sessions.made(&believed.token, &believed.seed)))
}

async fn carry_on(app: &App, call: &Call, believed: &Believed) -> Result<Refreshed, ApiError> {
    let (session, user) = (believed.token.session, believed.user);
    let about = |status| Record {
        subject: Some(user),
        session: Some(session),
        ..audit::of_operation(call, Some(user), status)
    };
    let refreshed = about(StatusCode::OK);
    let reused = Record {
        event: EventType::TokenReused,
        severity: Severity::Critical,
        description: Some("a refresh token came back after its successor had arrived".to_owned()),
        ..about(StatusCode::UNAUTHORIZED)
    };
    // An answer that was lost is told again, and so is one to whoever copied the token and was quick.
    let repeated =
        Record { metadata: Some(json!({ "told_again": true })), ..about(StatusCode::OK) };
    let elsewhere = Record {
        severity: Severity::Warning,
        description: Some("told again, to another network than before".to_owned()),
        ..repeated.clone()
    };
    let sealed = async |record| app.scribe.entry(record, call, Named::Not).await;
    let entries = RefreshEntries {
        refreshed: sealed(refreshed).await?,
        repeated: sealed(repeated).await?,
        elsewhere: sealed(elsewhere).await?,
        reused: sealed(reused).await?,
    };
    let (counter, lives) = (believed.token.counter, app.sessions.lives());
    let presented = (counter, app.scribe.network_hash(call.network()));
    let store = app.store.clone();
    let refresh = async move { store.refresh((session, user), presented, lives, &entries).await };
    app.revoke(call, refresh).await
}

fn pair(
    app: &App,
    account: &Account,
    believed: &Believed,
    (counter, ends_at): (u32, OffsetDateTime),
) -> Answer {
    let session = believed.token.session;
    let ends_at_second = u64::try_from(ends_at.unix_timestamp()).unwrap_or_default();
    let (access_token, expires_in) =
        access_token(app, account, (session, counter, ends_at_second))?;
    let refresh_token = app.sessions.token(session, counter, &believed.seed);
    let pair = Pair {
        access_token: &access_token,
        token_type: "bearer",
        expires_in,
        refresh_token: &refresh_token,
        refresh_expires_in: seconds_until(ends_at),
    };
    Ok(answer(StatusCode::OK, &pair))
}

/// An access token, of a session that ends at `session_ends_at` in epoch seconds, for who `account` is
/// now; and for how many seconds it is good.
pub(super) fn access_token(
    app: &App,
    account: &Account,
    (session, counter, session_ends_at): (Uuid, u32, u64),
) -> Result<(String, u64), ApiError> {
    let bearer = Bearer {
        user: account.id,
        roles: account.roles,
        namespace: account.namespace.clone(),
        generation: account.generation,
        session,
        counter,
        session_ends_at,
    };
    app.tokens.mint(&bearer, SystemTime::now()).map_err(ApiError::unwritable)
}

/// Records that a refresh token is good for nothing any more, and makes the answer. Of one session the
/// trail hears that once for each reason, and the rest is counted: nobody is to fill it with one token.
async fn refused(app: &App, call: &Call, believed: &Believed, why: Worthless) -> ApiError {
    let record = Record {
        owner: Some(believed.user),
        resource: Some(Resource::Session),
        description: Some("further ones of this session are counted only".to_owned()),
        error_message: Some(why.describe().to_owned()),
        ..audit::about(call, EventType::TokenInvalid, StatusCode::UNAUTHORIZED.as_u16())
    };
    let noted = async {
        let entry = app.scribe.entry(record, call, Named::Not).await?;
        Ok::<_, ApiError>(app.store.note_refusal(believed.token.session, why, &entry).await?)
    };
    match noted.await {
        Ok(true) => ApiError::InvalidCredentials,
        Ok(false) => {
            app.repeated_refusals.with_label_values(&[why.name()]).inc();
            // By the first of them. The gateway need not tell of this one either.
            call.recorded().note();
            ApiError::InvalidCredentials
        }
        Err(error) => error,
    }
}

fn seconds_until(end: OffsetDateTime) -> u64 {
    u64::try_from((end - OffsetDateTime::now_utc()).whole_seconds()).unwrap_or_default()
}
