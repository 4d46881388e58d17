//! Sessions as their owner sees and ends them.

use axum::http::StatusCode;
use memoric_contract::{
    UserId,
    audit::{Action, EventType, Record, Resource},
    revocation::Revocation,
};
use serde::Serialize;
use serde_json::json;
use std::net::IpAddr;
use uuid::Uuid;

use super::super::{Answer, json};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    memories::stored_time,
    scope::Scope,
};

/// A session that lives.
#[derive(Serialize)]
struct Shown {
    id: Uuid,
    created_at: String,
    last_used_at: String,
    /// When it ends unless it is refreshed.
    expires_at: String,
    /// Where it began.
    address: Option<IpAddr>,
    user_agent: Option<String>,
    /// Whether it is the one that asks.
    current: bool,
}

/// One's own sessions that live, the one used last first.
pub(in crate::api) async fn list_sessions(app: &App, call: &Call) -> Answer {
    let scope = Scope::of(call)?;
    let current = call.identity()?.presented.session();
    let rows = app.store.sessions(&scope, app.sessions.lives()).await?;
    let key = app.vault.subject_key(&app.store, scope.owner().0).await?;
    let shown: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let personal = app.scribe.reveal_session(&row, scope.owner(), key.as_ref().as_ref());
            Shown {
                id: row.id,
                created_at: stored_time(row.created_at),
                last_used_at: stored_time(row.last_used_at),
                expires_at: stored_time(row.ends_at),
                address: personal.address,
                user_agent: personal.user_agent,
                current: current == Some(row.id),
            }
        })
        .collect();
    Ok(json(StatusCode::OK, &json!({ "sessions": shown })))
}

/// Ends the session of the access token that was presented.
pub(in crate::api) async fn logout(app: &App, call: &Call) -> Answer {
    let session = call.identity()?.presented.session().ok_or(ApiError::NoSession)?;
    let ended = end(app, call, session).await?;
    ended.ok_or(ApiError::InvalidCredentials)?;
    Ok(json(StatusCode::OK, &json!({ "message": "Logged out successfully" })))
}

/// Ends one of one's own sessions.
pub(in crate::api) async fn end_session(app: &App, call: &Call) -> Answer {
    let ended = match Uuid::try_parse(call.last_segment()) {
        Ok(session) => end(app, call, session).await?,
        Err(_) => None,
    };
    ended.ok_or(ApiError::SessionNotFound)?;
    Ok(json(StatusCode::OK, &json!({ "message": "Session ended" })))
}

/// Ends all of one's own sessions, this one included.
pub(in crate::api) async fn logout_everywhere(app: &App, call: &Call) -> Answer {
    let scope = Scope::of(call)?;
    let record = Record {
        description: Some("all sessions".to_owned()),
        resource: Some(Resource::User),
        ..ending(call, scope.owner())
    };
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let ended = app.store.end_sessions(&scope, &entry).await?.ok_or(ApiError::UserNotFound)?;
    app.courier.carry(&[ended]).await;
    Ok(json(StatusCode::OK, &json!({ "message": "Logged out everywhere" })))
}

async fn end(app: &App, call: &Call, session: Uuid) -> Result<Option<Revocation>, ApiError> {
    let scope = Scope::of(call)?;
    let entry = app.scribe.entry(ending(call, scope.owner()), call, Named::Not).await?;
    let ended = app.store.end_session(&scope, session, &entry).await?;
    app.courier.carry(ended.as_slice()).await;
    Ok(ended)
}

fn ending(call: &Call, owner: UserId) -> Record {
    Record {
        owner: Some(owner),
        action: Some(Action::Delete),
        resource: Some(Resource::Session),
        ..audit::about(call, EventType::LoggedOut, StatusCode::OK.as_u16())
    }
}
