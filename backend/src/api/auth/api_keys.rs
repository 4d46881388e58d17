//! API keys as their owner makes, sees, renews and ends them.

use std::time::Duration;

use axum::{body::Body, http::StatusCode};
use memoric_contract::{
    KeyId, Operation, PresentedBy,
    audit::{Record, Resource},
};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::super::{
    Answer,
    body::{self, Sent},
    deny, json,
};
use crate::{
    api_keys::{self, DAY, MOST_DAYS, USUAL_DAYS, Wanted},
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    memories::stored_time,
    scope::{Custody as _, Scope},
    store::{ApiKeyRow, Rotated},
};

/// A key as its owner sees it. Its secret is shown once, when it is made.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
    scopes: Vec<&'static str>,
    allowed_addresses: &'a [String],
    created_at: String,
    expires_at: String,
    last_used_at: Option<String>,
    /// Until when the secret before the last rotation is good, or of those before it the last.
    previous_expires_at: Option<String>,
}

/// Makes a key, and shows it this once.
pub(in crate::api) async fn create_api_key(app: &App, call: &Call, body: Body) -> Answer {
    let wanted = body::fields(call.headers(), body, Operation::CreateApiKey, take_wanted).await?;
    let scopes =
        wanted.scopes_of(call.identity()?.roles).map_err(|fault| ApiError::Invalid(vec![fault]))?;
    let (scope, key) = (Scope::of(call)?, app.api_keys.mint().map_err(ApiError::unwritable)?);
    let record = Record {
        metadata: Some(json!({ "scopes": scopes.names() })),
        ..audit::of_operation(call, Some(scope.owner()), StatusCode::CREATED)
    };
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let new = app.api_keys.kept(&key, &wanted, scopes);
    let made = app.store.create_key(&scope, &new, &entry).await?.ok_or(ApiError::TooManyKeys)?;
    Ok(json(StatusCode::CREATED, &Shown::with(&made, Some(key.expose()))))
}

/// One's own keys that live, without their secrets.
pub(in crate::api) async fn list_api_keys(app: &App, call: &Call) -> Answer {
    let rows = app.store.api_keys(&Scope::of(call)?).await?;
    let shown: Vec<_> = rows.iter().map(|row| Shown::with(row, None)).collect();
    Ok(json(StatusCode::OK, &json!({ "api_keys": shown })))
}

/// Gives a key another secret, and shows it this once. The one before is good for a while.
pub(in crate::api) async fn rotate_api_key(app: &App, call: &Call, body: Body) -> Answer {
    let overlap =
        body::maybe_fields(call.headers(), body, Operation::RotateApiKey, take_overlap).await?;
    let overlap = overlap.unwrap_or(USUAL_OVERLAP);
    let (scope, id) = (Scope::of(call)?, key_id(call.segment(ROTATED))?);

    let key = app.api_keys.mint_again(id).map_err(ApiError::unwritable)?;
    let record = audit::of_operation(call, Some(scope.owner()), StatusCode::OK);
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let secret = (app.api_keys.hash(&key), Duration::from_secs(overlap));
    let rotated = app.store.rotate_key(&scope, key.id(), secret, &entry).await?;
    match rotated {
        Rotated::Done(rotated) => {
            Ok(json(StatusCode::OK, &Shown::with(&rotated, Some(key.expose()))))
        }
        Rotated::Full(until) => {
            let left = (until - OffsetDateTime::now_utc()).unsigned_abs();
            Err(ApiError::RotatedTooOften { retry_after: left })
        }
        Rotated::Absent => Err(ApiError::KeyNotFound),
    }
}

/// Ends a key. A key ends itself and no other: one that was stolen locks nobody out.
pub(in crate::api) async fn revoke_api_key(app: &App, call: &Call) -> Answer {
    let (scope, id) = (Scope::of(call)?, key_id(call.last_segment())?);
    if let PresentedBy::ApiKey { id: shown, .. } = &call.identity()?.presented
        && *shown != id
    {
        let whose = (Resource::ApiKey, Some(scope.owner()));
        return Err(deny(app, call, "another key than the one presented", whose).await);
    }
    let record = audit::of_operation(call, Some(scope.owner()), StatusCode::OK);
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let store = app.store.clone();
    let revoked =
        app.revoke(call, async move { store.revoke_key(&scope, &id, &entry).await }).await?;
    revoked.ok_or(ApiError::KeyNotFound)?;
    Ok(json(StatusCode::OK, &json!({ "message": "API key revoked" })))
}

impl<'a> Shown<'a> {
    fn with(row: &'a ApiKeyRow, api_key: Option<&'a str>) -> Self {
        Self {
            id: &row.id,
            name: &row.name,
            api_key,
            scopes: row.scopes.names(),
            allowed_addresses: &row.allowed_addresses,
            created_at: stored_time(row.created_at),
            expires_at: stored_time(row.expires_at),
            last_used_at: row.last_used_at.map(stored_time),
            previous_expires_at: row.previous_until.map(stored_time),
        }
    }
}

fn take_wanted(mut sent: Sent<'_>) -> Result<Wanted, ApiError> {
    let name = sent.text("name").and_then(|name| sent.judged(api_keys::named(name)));
    let days = sent.number("expires_days", 1..=MOST_DAYS, USUAL_DAYS);
    let scopes = sent.maybe_texts("scopes").and_then(|names| sent.judged(api_keys::scopes(names)));
    let from = sent.maybe_texts("allowed_addresses").map(Option::unwrap_or_default);
    let from = from.and_then(|from| sent.judged(api_keys::networks(&from)));
    let (Some(name), Some(days), Some(scopes), Some(allowed_addresses)) =
        (name, days, scopes, from)
    else {
        return Err(sent.refusal());
    };
    Ok(Wanted { name, life: Duration::from_secs(days * DAY), scopes, allowed_addresses })
}

fn take_overlap(mut sent: Sent<'_>) -> Result<u64, ApiError> {
    sent.number("overlap_seconds", LEAST_OVERLAP..=MOST_OVERLAP, USUAL_OVERLAP)
        .ok_or_else(|| sent.refusal())
}

fn key_id(segment: &str) -> Result<KeyId, ApiError> {
    KeyId::parse(segment).ok_or(ApiError::KeyNotFound)
}

/// The segment of the path that names the key that is given another secret.
const ROTATED: usize = 3;

/// Seconds that the secret before a rotation is good: a minute to a week, a day where nobody says.
const LEAST_OVERLAP: u64 = 60;
const USUAL_OVERLAP: u64 = DAY;
const MOST_OVERLAP: u64 = 7 * DAY;
