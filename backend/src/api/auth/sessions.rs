//! Sessions as their owner, or an admin in their place, sees and ends them.

use std::net::IpAddr;

use axum::http::StatusCode;
use memoric_contract::{
    PresentedBy, UserId,
    audit::{Record, Resource},
    revocation::Revocation,
};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::super::{
    Answer, json,
    owner::{Owner, cross_over_by_query},
    query::Asked,
};
use crate::{
    app::App,
    audit::{self, Entry, Named},
    caller::Call,
    crossing::Crossing,
    error::ApiError,
    memories::stored_time,
    scope::{Custody, Scope},
    store::SessionRow,
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

/// Whose sessions are meant, and the leave to come to them.
enum Meant {
    Own(Scope),
    Anothers(Crossing),
}

/// Sessions that live, the one used last first.
pub(in crate::api) async fn list_sessions(app: &App, call: &Call) -> Answer {
    let lives = app.sessions.lives();
    match Meant::by(app, call).await? {
        Meant::Own(scope) => {
            let rows = app.store.sessions(&scope, lives).await?;
            show(app, call, scope.owner(), rows).await
        }
        Meant::Anothers(crossing) => {
            let entry = app.scribe.entry(crossing.record(call), call, Named::Not).await?;
            let rows = app.store.sessions_across(&crossing, lives, &entry).await?;
            show(app, call, crossing.owner(), rows).await
        }
    }
}

/// Ends the session of the access token that was presented, or the token that another minted: whose
/// session that is, only its minter knows.
pub(in crate::api) async fn logout(app: &App, call: &Call) -> Answer {
    let scope = Scope::of(call)?;
    let record = ending(call, scope.owner());
    let ended = match &call.identity()?.presented {
        PresentedBy::AccessToken { sid, .. } => end(app, call, (scope, *sid), record).await?,
        PresentedBy::ForeignToken { id, is_named: true, expires_at, .. } => {
            end_foreign(app, call, scope, (*id, *expires_at), record).await?
        }
        PresentedBy::ForeignToken { is_named: false, .. } | PresentedBy::ApiKey { .. } => {
            return Err(ApiError::NoSession);
        }
    };
    ended.ok_or(ApiError::InvalidCredentials)?;
    Ok(json(StatusCode::OK, &json!({ "message": "Logged out successfully" })))
}

/// Ends one session.
pub(in crate::api) async fn end_session(app: &App, call: &Call) -> Answer {
    let meant = Meant::by(app, call).await?;
    let session = Uuid::try_parse(call.last_segment()).map_err(|_| ApiError::SessionNotFound)?;
    let ended = match meant {
        Meant::Own(scope) => {
            let record = ending(call, scope.owner());
            end(app, call, (scope, session), record).await?
        }
        Meant::Anothers(crossing) => {
            let record = crossing.record(call);
            end(app, call, (crossing, session), record).await?
        }
    };
    ended.ok_or(ApiError::SessionNotFound)?;
    Ok(json(StatusCode::OK, &json!({ "message": "Session ended" })))
}

/// Ends all sessions; where they are one's own, this one included.
pub(in crate::api) async fn logout_everywhere(app: &App, call: &Call) -> Answer {
    let ended = match Meant::by(app, call).await? {
        Meant::Own(scope) => {
            let record = Record {
                description: Some("all sessions".to_owned()),
                ..ending(call, scope.owner())
            };
            end_all(app, call, scope, record).await?
        }
        Meant::Anothers(crossing) => {
            let record = crossing.record(call);
            end_all(app, call, crossing, record).await?
        }
    };
    ended.ok_or(ApiError::UserNotFound)?;
    Ok(json(StatusCode::OK, &json!({ "message": "Logged out everywhere" })))
}

impl Meant {
    /// By the query of `call`. An admin may mean somebody else.
    async fn by(app: &App, call: &Call) -> Result<Self, ApiError> {
        let mut asked = Asked::read(call.target())?;
        match Owner::asked(&mut asked, call.identity()?) {
            None => Err(asked.refusal()),
            Some(Owner::Caller) => Ok(Self::Own(Scope::of(call)?)),
            Some(Owner::Another(owner)) => {
                let whose = (owner, Resource::Session);
                Ok(Self::Anothers(cross_over_by_query(app, call, whose, asked).await?))
            }
        }
    }
}

async fn end(
    app: &App,
    call: &Call,
    (whose, session): (impl Custody + Send + 'static, Uuid),
    record: Record,
) -> Result<Option<Revocation>, ApiError> {
    let (entry, all) = entries(app, call, record).await?;
    let store = app.store.clone();
    let work = async move { store.end_session(&whose, session, (&entry, &all)).await };
    app.revoke(call, work).await
}

/// Ends a token that another minted, which would have ended by itself at `expires_at`.
async fn end_foreign(
    app: &App,
    call: &Call,
    scope: Scope,
    (token, expires_at): (Uuid, u64),
    record: Record,
) -> Result<Option<Revocation>, ApiError> {
    let (entry, all) = entries(app, call, record).await?;
    let store = app.store.clone();
    let work = async move { store.end_foreign(&scope, (token, expires_at), (&entry, &all)).await };
    app.revoke(call, work).await
}

/// What is told of one end, and what besides where it has to be the end of all.
async fn entries(app: &App, call: &Call, record: Record) -> Result<(Entry, Entry), ApiError> {
    let everywhere = Record {
        number: 1,
        description: Some("all sessions: too many ended one by one".to_owned()),
        ..record.clone()
    };
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    Ok((entry, app.scribe.entry(everywhere, call, Named::Not).await?))
}

async fn end_all(
    app: &App,
    call: &Call,
    whose: impl Custody + Send + 'static,
    record: Record,
) -> Result<Option<Revocation>, ApiError> {
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let store = app.store.clone();
    app.revoke(call, async move { store.end_sessions(&whose, &entry).await }).await
}

async fn show(app: &App, call: &Call, owner: UserId, rows: Vec<SessionRow>) -> Answer {
    let current = call.identity()?.presented.session();
    let key = app.vault.subject_key(&app.store, owner.0).await?;
    let shown: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let personal = app.scribe.reveal_session(&row, owner, key.as_ref().as_ref());
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

fn ending(call: &Call, owner: UserId) -> Record {
    audit::of_operation(call, Some(owner), StatusCode::OK)
}
