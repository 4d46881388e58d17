//! What the gateway asks on its own behalf.

use std::time::{Duration, Instant, SystemTime};

use axum::{body::Body, http::StatusCode};
use memoric_contract::{
    PresentedBy,
    api_key::Verdict,
    token::foreign::{Linked, Subject, is_subject, without_admin},
};
use serde_json::json;

use super::{Answer, body, json, query::Asked};
use crate::{app::App, caller::Call};

/// Whether the backend can serve.
pub(super) async fn probe_health(app: &App) -> Answer {
    let database = app.is_database_up().await;
    let status = if database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(json(status, &json!({ "database": database })))
}

/// The revocations since a cursor: at once where there are any, or else when there are, or after a while.
///
/// Only what this process revokes is heard of here; what others do is looked for, a few times a second.
///
/// The answer is always read after the request came, so that to a gateway it confirms that its list
/// was complete when it asked.
pub(super) async fn follow_revocations(app: &App, call: &Call) -> Answer {
    let mut asked = Asked::read(call.target())?;
    let cursor = asked.text("cursor", LONGEST_CURSOR);
    let wait = asked.number("wait_ms", 0..=LONGEST_WAIT_MS, 0);
    let (Some(cursor), Some(wait)) = (cursor, wait) else { return Err(asked.refusal()) };
    let cursor = cursor.unwrap_or_default();
    let until = Instant::now() + Duration::from_millis(wait.unsigned_abs());

    loop {
        let left = until.saturating_duration_since(Instant::now());
        let news = app.courier.news(left.min(PAUSE));
        let page = app.store.revocations_since(&cursor).await?;
        if left.is_zero() || !page.revocations.is_empty() {
            return Ok(json(StatusCode::OK, &page));
        }
        news.await;
    }
}

/// Whether the caller's credential still lives.
pub(super) async fn check_live(app: &App, call: &Call) -> Answer {
    let identity = call.identity()?;
    let live = match &identity.presented {
        PresentedBy::AccessToken { jti, sid, generation, .. } => {
            app.store.is_live(identity.user, *jti, *sid, *generation).await?
        }
        PresentedBy::ForeignToken { id, generation, .. } => {
            app.store.is_foreign_live(identity.user, *id, *generation).await?
        }
        PresentedBy::ApiKey { id, generation, .. } => {
            app.store.is_key_live(identity.user, id, *generation).await?
        }
    };
    Ok(json(StatusCode::OK, &json!({ "live": live })))
}

/// Whose an API key is, and whether it lives.
///
/// The gateway has checked the key's MAC already; who forges that has the check key, and must still
/// hit the hash.
pub(super) async fn resolve_api_key(app: &App, body: Body) -> Answer {
    let text = body::whole(body, LONGEST_KEY).await?;
    let key = std::str::from_utf8(&text).ok().and_then(|text| app.api_keys.read(text).ok());
    let standing = match key {
        Some(key) => app.store.resolve_key(key.id(), app.api_keys.hash(&key)).await?,
        None => None,
    };
    let verdict = standing.map_or(Verdict::Unknown, |standing| Verdict::Lives(Box::new(standing)));
    Ok(json(StatusCode::OK, &verdict))
}

/// Which user the subject of a foreign token is, and never an admin. The gateway has verified the token.
pub(super) async fn resolve_subject(app: &App, body: Body) -> Answer {
    let text = body::whole(body, LONGEST_SUBJECT).await?;
    let subject: Option<Subject> = serde_json::from_slice(&text).ok();
    let believed = |subject: &Subject| {
        is_subject(&subject.subject)
            && (subject.issuer.is_some() || app.tokens.takes_legacy(SystemTime::now()))
    };
    let linked = match subject.filter(believed) {
        Some(subject) => app.store.resolve_subject(&subject).await?,
        None => None,
    };
    let linked = linked.map(|linked| Linked { roles: without_admin(linked.roles), ..linked });
    Ok(json(StatusCode::OK, &linked))
}

/// Bytes of an API key, and more than it has.
const LONGEST_KEY: usize = 128;

/// Bytes of an issuer and a subject, with every character escaped.
const LONGEST_SUBJECT: usize = 8 * 1024;

/// Bytes of a cursor: two snapshots of the database, and more numbers.
const LONGEST_CURSOR: usize = 24 * 1024;

const LONGEST_WAIT_MS: i64 = 1_000;

/// Between two looks at what others have revoked.
const PAUSE: Duration = Duration::from_millis(100);
