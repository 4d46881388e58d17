//! Memories, kept and recalled.

use axum::{body::Body, http::StatusCode};
use memoric_contract::{
    Operation, UserId,
    audit::{Action, EventType, Record, Resource},
};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Answer, body, deny, json, query::Asked};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    memories::{NewMemory, Payload, Recalled, Relevance, Standing, Weights},
    scope::Scope,
    seal::{Envelope, Place, Purpose, seal},
    store::{MemoryRow, NewMemoryRow},
    vault::UserKeys,
};

/// A memory that was opened, and how relevant it is now.
struct Opened {
    row: MemoryRow,
    payload: Zeroizing<Vec<u8>>,
    relevance: Relevance,
}

/// Keeps a new memory of the caller's.
pub(super) async fn remember(app: &App, call: &Call, body: Body) -> Answer {
    let scope = Scope::of(call)?;
    call.concerns(scope.owner());
    let memory = read_memory(call, body).await?.of(scope.owner());

    let keys = app.vault.keys_to_write(&app.store, &scope).await?;
    let key = keys.current()?;
    let place = place(scope.owner(), Uuid::now_v7(), FIRST_VERSION);
    let payload = memory.payload().map_err(ApiError::unwritable)?;
    let row = NewMemoryRow {
        uuid: place.record,
        payload: seal(app.sealing, key, &place, &payload).map_err(ApiError::unwritable)?,
        key_version: key.version(),
        thread_term: memory.thread().map(|thread| keys.index().thread(thread)),
        importance: memory.importance(),
        seen: memory.seen(),
        tier: memory.tier(),
        score: memory.score(),
    };

    let record = Record {
        digest: Some(app.scribe.record_digest(place.record, place.version)),
        ..creation(call, scope.owner())
    };
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let id = app.store.remember(&scope, &row, &entry).await?;
    Ok(json(StatusCode::OK, &json!({ "id": id, "message": "Memory created successfully" })))
}

/// A memory as it was sent. Of the body, which may be six times as long, nothing is held any longer.
async fn read_memory(call: &Call, body: Body) -> Result<NewMemory, ApiError> {
    let body = body::read(call.headers(), body, Operation::RememberMemory).await?;
    NewMemory::parse(&body).map_err(ApiError::Invalid)
}

/// The caller's memories, the most relevant first.
pub(super) async fn recall(app: &App, call: &Call) -> Answer {
    let scope = Scope::of(call)?;
    let mut asked = Asked::read(call.target())?;
    let owner = asked.text("user_id", LONGEST_USER_ID);
    let thread = asked.text("thread_id", LONGEST_THREAD);
    let top_k = asked.number("top_k", 0..=MOST, USUAL);
    let (Some(owner), Some(thread), Some(top_k)) = (owner, thread, top_k) else {
        return Err(asked.refusal());
    };
    if let Some(owner) = owner {
        ensure_own(app, call, &owner).await?;
    }
    call.concerns(scope.owner());
    let top_k = usize::try_from(if top_k == 0 { LEAST } else { top_k }).unwrap_or_default();

    let opened = open_best(app, &scope, thread.as_deref(), top_k).await?;
    let payloads = opened.iter().map(|each| Payload::read(&each.payload));
    let payloads = payloads.collect::<Result<Vec<_>, _>>().map_err(ApiError::unreadable)?;
    let recalled: Vec<_> = opened
        .iter()
        .zip(&payloads)
        .filter(|(_, payload)| thread.is_none() || payload.thread() == thread.as_deref())
        .map(|(each, payload)| Recalled::new(&each.row.facts, payload, each.relevance))
        .collect();
    Ok(json(StatusCode::OK, &recalled))
}

/// Another's memories are for admins, who cannot have them here yet.
async fn ensure_own(app: &App, call: &Call, owner: &str) -> Result<(), ApiError> {
    let identity = call.identity()?;
    let owner = UserId::parse(owner);
    if owner == Some(identity.user) {
        return Ok(());
    }
    if identity.is_admin() {
        return Err(ApiError::NotImplemented);
    }
    Err(deny(app, call, "another user's memories", (Resource::Memory, owner)).await)
}

/// The `top_k` most relevant of the owner's memories, opened.
async fn open_best(
    app: &App,
    scope: &Scope,
    thread: Option<&str>,
    top_k: usize,
) -> Result<Vec<Opened>, ApiError> {
    let Some(mut keys) = app.vault.keys_to_read(&app.store, scope).await? else {
        return Ok(Vec::new());
    };
    let term = thread.map(|thread| keys.index().thread(thread));
    let rows = best(app.store.recall(scope, term, top_k).await?, top_k);

    let is_missing =
        |keys: &UserKeys| rows.iter().any(|(row, _)| keys.data(row.key_version).is_none());
    if is_missing(&keys) {
        // Another backend has made a new key since ours were read.
        keys = app.vault.read_keys(&app.store, scope).await?.unwrap_or(keys);
    }
    rows.into_iter()
        .map(|(row, relevance)| open(app, scope.owner(), &keys, row, relevance))
        .collect()
}

fn open(
    app: &App,
    owner: UserId,
    keys: &UserKeys,
    row: MemoryRow,
    relevance: Relevance,
) -> Result<Opened, ApiError> {
    let key = keys
        .data(row.key_version)
        .ok_or(ApiError::unreadable(crate::vault::VaultError::Incomplete))?;
    let place = place(owner, row.uuid, row.version);
    let opened =
        Envelope::parse(&row.payload).and_then(|envelope| envelope.open(app.sealing, key, &place));
    let payload = opened.map_err(ApiError::unreadable)?;
    Ok(Opened { row, payload, relevance })
}

/// The best of what the database found, which is the best of each importance and seen count.
fn best(rows: Vec<MemoryRow>, top_k: usize) -> Vec<(MemoryRow, Relevance)> {
    let (weights, now) = (Weights::default(), OffsetDateTime::now_utc());
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let relevance = weights.relevance(row.importance, row.seen, row.facts.updated_at, now);
            (Standing { relevance, updated_at: row.facts.updated_at, id: row.facts.id }, row)
        })
        .collect();
    rows.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    rows.truncate(top_k);
    rows.into_iter().map(|(standing, row)| (row, standing.relevance)).collect()
}

fn creation(call: &Call, owner: UserId) -> Record {
    Record {
        owner: Some(owner),
        action: Some(Action::Create),
        resource: Some(Resource::Memory),
        ..audit::about(call, EventType::MemoryCreated, StatusCode::OK.as_u16())
    }
}

fn place(owner: UserId, record: Uuid, version: i64) -> Place {
    Place { purpose: Purpose::Memory, owner: owner.0, record, version }
}

/// The first writing of a memory.
const FIRST_VERSION: i64 = 1;

/// How many memories come where nobody says how many.
const USUAL: i64 = 20;

/// How many 0 stands for.
const LEAST: i64 = 10;

/// The most that come at once.
const MOST: i64 = 1_000;

/// Characters of a thread's name.
const LONGEST_THREAD: usize = 128;

/// Characters of what may be a user's id.
const LONGEST_USER_ID: usize = 256;
