//! Memories, kept and recalled.

mod crossing;

use std::sync::Arc;

use axum::{body::Body, http::StatusCode};
use memoric_contract::{Operation, UserId, audit::Record};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Answer, body, json, owner::Owner, query::Asked};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    memories::{Facts, Memory, Payload, Posted, Recalled, Relevance, Standing, Weights},
    scope::{Custody as _, Reach, Scope},
    seal::{Envelope, Place, Purpose, seal},
    store::{AtMost, MemoryRow, NewMemoryRow},
    vault::{UserKeys, VaultError},
};

/// Which memories are wanted.
struct Wanted {
    thread: Option<String>,
    most: AtMost,
}

/// A memory that was opened, and how relevant it is now.
struct Opened {
    facts: Facts,
    payload: Zeroizing<Vec<u8>>,
    relevance: Relevance,
}

/// Keeps a new memory: the caller's, or where an admin says so, somebody else's.
pub(super) async fn remember(app: &App, call: &Call, body: Body) -> Answer {
    let identity = call.identity()?;
    let posted = read_posted(call, body).await.inspect_err(|_| call.concerns(identity.user))?;
    match Owner::named(identity, posted.owner) {
        Owner::Caller => remember_own(app, call, posted).await,
        Owner::Another(owner) => crossing::remember(app, call, posted, owner).await,
    }
}

/// Memories, the most relevant first: the caller's, or where an admin says so, somebody else's.
pub(super) async fn recall(app: &App, call: &Call) -> Answer {
    let mut asked = Asked::read(call.target())?;
    let owner = Owner::asked(&mut asked, call.identity()?);
    let thread = asked.text("thread_id", LONGEST_THREAD);
    let top_k = asked.number("top_k", 0..=MOST, USUAL);
    let (Some(owner), Some(thread), Some(top_k)) = (owner, thread, top_k) else {
        return Err(asked.refusal());
    };
    let rows = usize::try_from(if top_k == 0 { LEAST } else { top_k }).unwrap_or_default();
    let wanted = Wanted { thread, most: AtMost { rows, bytes: MOST_BYTES } };
    match owner {
        Owner::Caller => recall_own(app, call, &wanted).await,
        Owner::Another(owner) => crossing::recall(app, call, (asked, &wanted), owner).await,
    }
}

/// What was sent to be remembered. Of the body, which may be six times as long, nothing is held any longer.
async fn read_posted(call: &Call, body: Body) -> Result<Posted, ApiError> {
    let body = body::read(call.headers(), body, Operation::RememberMemory).await?;
    Posted::parse(&body).map_err(|fault| ApiError::Invalid(vec![fault]))
}

async fn remember_own(app: &App, call: &Call, posted: Posted) -> Answer {
    let scope = Scope::of(call)?;
    call.concerns(scope.owner());
    let memory = posted.memory.map_err(ApiError::Invalid)?.of(scope.owner());
    let record = audit::of_operation(call, Some(scope.owner()), StatusCode::OK);
    keep(app, call, &scope, (&memory, record)).await
}

async fn recall_own(app: &App, call: &Call, wanted: &Wanted) -> Answer {
    let scope = Scope::of(call)?;
    call.concerns(scope.owner());
    let Some(keys) = app.vault.keys_to_read(&app.store, &scope).await? else {
        return tell(&[], wanted);
    };
    let term = wanted.thread.as_deref().map(|thread| keys.index().thread(thread));
    let rows = app.store.recall(&scope, term, wanted.most).await?.ok_or_else(too_much)?;
    tell(&open_all(app, &scope, keys, rows).await?, wanted)
}

/// Seals a memory of the reach's owner and keeps it, together with its record.
async fn keep(
    app: &App,
    call: &Call,
    reach: &impl Reach,
    (memory, record): (&Memory, Record),
) -> Answer {
    let keys = app.vault.keys_to_write(&app.store, reach).await?;
    let key = keys.current()?;
    let place = place(reach.owner(), Uuid::now_v7(), FIRST_VERSION);
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

    let digest = Some(app.scribe.record_digest(place.record, place.version));
    let entry = app.scribe.entry(Record { digest, ..record }, call, Named::Not).await?;
    let id = app.store.remember(reach, &row, &entry).await?;
    Ok(json(StatusCode::OK, &json!({ "id": id, "message": "Memory created successfully" })))
}

/// What was opened, as the client is told of it.
fn tell(opened: &[Opened], wanted: &Wanted) -> Answer {
    let payloads = opened.iter().map(|each| Payload::read(&each.payload));
    let payloads = payloads.collect::<Result<Vec<_>, _>>().map_err(ApiError::unreadable)?;
    let thread = wanted.thread.as_deref();
    let recalled: Vec<_> = opened
        .iter()
        .zip(&payloads)
        .filter(|(_, payload)| thread.is_none() || payload.thread() == thread)
        .map(|(each, payload)| Recalled::new(&each.facts, payload, each.relevance))
        .collect();
    Ok(json(StatusCode::OK, &recalled))
}

/// What was found, opened, the most relevant first.
async fn open_all(
    app: &App,
    reach: &impl Reach,
    mut keys: Arc<UserKeys>,
    rows: Vec<MemoryRow>,
) -> Result<Vec<Opened>, ApiError> {
    let rows = in_order(rows);
    let is_missing =
        |keys: &UserKeys| rows.iter().any(|(row, _)| keys.data(row.key_version).is_none());
    if is_missing(&keys) {
        // Another backend has made a new key since ours were read.
        keys = app.vault.read_keys(&app.store, reach).await?.unwrap_or(keys);
    }
    rows.into_iter()
        .map(|(row, relevance)| open(app, reach.owner(), &keys, row, relevance))
        .collect()
}

fn open(
    app: &App,
    owner: UserId,
    keys: &UserKeys,
    row: MemoryRow,
    relevance: Relevance,
) -> Result<Opened, ApiError> {
    let key =
        keys.data(row.key_version).ok_or_else(|| ApiError::unreadable(VaultError::Incomplete))?;
    let place = place(owner, row.uuid, row.version);
    let opened =
        Envelope::parse(&row.payload).and_then(|envelope| envelope.open(app.sealing, key, &place));
    let payload = opened.map_err(ApiError::unreadable)?;
    Ok(Opened { facts: row.facts, payload, relevance })
}

/// What the database found, in the order of how relevant it is now.
fn in_order(rows: Vec<MemoryRow>) -> Vec<(MemoryRow, Relevance)> {
    let (weights, now) = (Weights::default(), OffsetDateTime::now_utc());
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let relevance = weights.relevance(row.importance, row.seen, row.facts.updated_at, now);
            (Standing { relevance, updated_at: row.facts.updated_at, id: row.facts.id }, row)
        })
        .collect();
    rows.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    rows.into_iter().map(|(standing, row)| (row, standing.relevance)).collect()
}

fn too_much() -> ApiError {
    let message = "The memories asked for have more than 64 MiB together, ask for fewer";
    ApiError::field("top_k", "too_large", message)
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

/// Sealed bytes of all that come at once: the backend holds them several times over while it answers.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// Characters of a thread's name.
const LONGEST_THREAD: usize = 128;
