//! The audit trail, as admins read it.

mod catalogue;

use std::net::IpAddr;

use axum::http::StatusCode;
use memoric_contract::{
    UserId,
    audit::{Emitter, LONGEST_NAME, Personal},
};
use serde::Serialize;
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

pub(super) use self::catalogue::{list_event_types, list_severities};
use super::{Answer, json, query::Asked};
use crate::{
    administration::Administration,
    app::App,
    caller::Call,
    error::ApiError,
    memories::stored_time,
    presented::Presented,
    store::{TrailFilter, TrailPage, TrailRow},
};

/// One page of the trail, key for key as clients know it.
#[derive(Serialize)]
struct Page<'a> {
    logs: Vec<Row<'a>>,
    /// How many records match, on this page and beyond.
    total: i64,
    offset: i64,
    limit: i64,
}

/// The newest records of one kind, key for key as clients know them.
#[derive(Serialize)]
struct Newest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    logs: Vec<Row<'a>>,
    /// How many records match, here and beyond.
    total: i64,
    start_time: String,
}

/// How many records there are, key for key as clients know it.
#[derive(Serialize)]
struct Statistics {
    total_events: i64,
    events_by_type: Map<String, Value>,
    failed_operations: i64,
    unique_users: i64,
    start_time: String,
    end_time: Option<String>,
}

/// A record, key for key as clients know it, and then what they do not. What was never kept is null.
#[derive(Serialize)]
struct Row<'a> {
    id: i64,
    event_type: &'a str,
    severity: &'a str,
    description: Option<&'a str>,
    user_id: Option<String>,
    username: Option<String>,
    session_id: Option<String>,
    ip_address: Option<IpAddr>,
    user_agent: Option<String>,
    resource_type: Option<&'a str>,
    resource_id: Option<&'a str>,
    namespace: Option<&'a str>,
    action: Option<&'a str>,
    before_state: Option<&'a Value>,
    after_state: Option<&'a Value>,
    request_method: Option<&'a str>,
    request_path: Option<&'a str>,
    request_params: Option<&'a Value>,
    success: bool,
    error_message: Option<&'a str>,
    status_code: Option<i16>,
    metadata: Option<&'a Value>,
    tags: Option<&'a Value>,
    timestamp: String,
    compliance_tags: Option<&'static [&'static str]>,
    retention_policy: Option<&'a str>,
    /// Whose data or account it was about.
    owner_id: Option<String>,
    operation: Option<&'a str>,
    credential_type: Option<&'a str>,
    credential_id: Option<&'a str>,
    request_id: Uuid,
    /// Who wrote the record.
    emitter: Option<&'static str>,
}

/// The records that match, the newest first.
pub(super) async fn read(app: &App, call: &Call, presented: &Presented) -> Answer {
    let filter = filter(app, call)?;
    let found = find(app, (call, presented), &filter).await?;
    let (logs, total) = (rows(app, &found), found.total);
    let page = Page { logs, total, offset: filter.offset, limit: filter.limit };
    Ok(json(StatusCode::OK, &page))
}

/// What one user did, the newest first.
pub(super) async fn read_of_user(app: &App, call: &Call, presented: &Presented) -> Answer {
    let user = call.last_segment();
    let filter = TrailFilter { subject: Some(subject(user)), ..newest(call)? };
    let found = find(app, (call, presented), &filter).await?;
    let (logs, total) = (rows(app, &found), found.total);
    let start_time = computed_time(filter.since);
    Ok(json(StatusCode::OK, &Newest { user_id: Some(user), logs, total, start_time }))
}

/// What failed, or is worse than it should be, the newest first.
pub(super) async fn read_notable(app: &App, call: &Call, presented: &Presented) -> Answer {
    let filter = TrailFilter { only_notable: true, ..newest(call)? };
    let found = find(app, (call, presented), &filter).await?;
    let (logs, total) = (rows(app, &found), found.total);
    let start_time = computed_time(filter.since);
    Ok(json(StatusCode::OK, &Newest { user_id: None, logs, total, start_time }))
}

/// How many records there are, and of what.
pub(super) async fn count(app: &App, call: &Call, presented: &Presented) -> Answer {
    let mut asked = Asked::read(call.target())?;
    let Some(since) = since(&mut asked) else { return Err(asked.refusal()) };
    let counts = app.store.count_trail(&Administration::of(call, presented, None)?, since).await?;
    let by_event = counts.by_event.into_iter();
    let statistics = Statistics {
        total_events: counts.total,
        events_by_type: by_event.map(|(event, count)| (event, count.into())).collect(),
        failed_operations: counts.failed,
        unique_users: counts.subjects,
        start_time: computed_time(since),
        end_time: None,
    };
    Ok(json(StatusCode::OK, &statistics))
}

async fn find(
    app: &App,
    (call, presented): (&Call, &Presented),
    filter: &TrailFilter,
) -> Result<TrailPage, ApiError> {
    if let Some(subject) = filter.subject.filter(|subject| *subject != UserId::NOBODY) {
        call.concerns(subject);
    }
    let act = Administration::of(call, presented, None)?;
    Ok(app.store.read_trail(&act, filter).await?)
}

fn rows<'a>(app: &App, found: &'a TrailPage) -> Vec<Row<'a>> {
    found.rows.iter().map(|row| Row::new(row, app.scribe.reveal(row))).collect()
}

fn filter(app: &App, call: &Call) -> Result<TrailFilter, ApiError> {
    let mut asked = Asked::read(call.target())?;
    let texts = FILTERS.map(|(name, limit)| asked.text(name, limit));
    let address = asked.maybe_address("ip_address");
    let success = asked.maybe_flag("success");
    let since = since(&mut asked);
    let numbers = (limit(&mut asked), asked.number("offset", 0..=FURTHEST, 0));
    let (
        [
            Some(event_type),
            Some(user),
            Some(resource_type),
            Some(resource_id),
            Some(severity),
            Some(username),
        ],
        Some(address),
        Some(success),
        Some(since),
        (Some(limit), Some(offset)),
    ) = (texts, address, success, since, numbers)
    else {
        return Err(asked.refusal());
    };
    Ok(TrailFilter {
        event_type,
        subject: user.as_deref().map(subject),
        resource_type,
        resource_id,
        severity,
        success,
        address_hash: address.map(|address| app.scribe.address_hash(address)),
        username_hash: username.map(|name| app.scribe.username_hash(&name)),
        offset,
        ..TrailFilter::recent(since, limit)
    })
}

/// The newest of a time.
fn newest(call: &Call) -> Result<TrailFilter, ApiError> {
    let mut asked = Asked::read(call.target())?;
    let (Some(since), Some(limit)) = (since(&mut asked), limit(&mut asked)) else {
        return Err(asked.refusal());
    };
    Ok(TrailFilter::recent(since, limit))
}

fn since(asked: &mut Asked) -> Option<OffsetDateTime> {
    let hours = asked.number("hours", 1..=720, 24)?;
    Some(OffsetDateTime::now_utc() - Duration::hours(hours))
}

fn limit(asked: &mut Asked) -> Option<i64> {
    asked.number("limit", 1..=1_000, 100)
}

/// Nobody has an id that is not one.
fn subject(user: &str) -> UserId {
    UserId::parse(user).unwrap_or(UserId::NOBODY)
}

/// A time of our own making on the wire: with its zone.
fn computed_time(time: OffsetDateTime) -> String {
    stored_time(time) + "+00:00"
}

impl<'a> Row<'a> {
    fn new(row: &'a TrailRow, personal: Personal) -> Self {
        let Personal { address, user_agent, username } = personal;
        Self {
            id: row.id,
            event_type: &row.event_type,
            severity: &row.severity,
            description: row.description.as_deref(),
            user_id: row.subject.map(|subject| subject.to_string()),
            username,
            session_id: row.session_id.map(|session| session.to_string()),
            ip_address: address,
            user_agent,
            resource_type: row.resource_type.as_deref(),
            resource_id: row.resource_id.as_deref(),
            namespace: row.namespace.as_deref(),
            action: row.action.as_deref(),
            before_state: None,
            after_state: None,
            request_method: row.method.as_deref(),
            request_path: row.path.as_deref(),
            request_params: None,
            success: row.success,
            error_message: row.error_message.as_deref(),
            status_code: row.status,
            metadata: row.metadata.as_ref(),
            tags: None,
            timestamp: stored_time(row.occurred_at),
            compliance_tags: compliance_tags(&row.event_type),
            retention_policy: None,
            owner_id: row.owner.map(|owner| owner.to_string()),
            operation: row.operation.as_deref(),
            credential_type: row.credential_kind.as_deref(),
            credential_id: row.credential_id.as_deref(),
            request_id: row.request_id,
            emitter: emitter(row.emitter),
        }
    }
}

/// Which obligations a kind of event is filed under, as it always was.
fn compliance_tags(event_type: &str) -> Option<&'static [&'static str]> {
    match event_type.split_once('.')? {
        ("auth", _) => Some(&["auth", "security"]),
        ("authz", _) => Some(&["authorization", "security"]),
        ("memory", _) => Some(&["data_access"]),
        _ => None,
    }
}

fn emitter(code: i16) -> Option<&'static str> {
    let stored = |emitter: &Emitter| i16::from(emitter.code()) == code;
    Emitter::ALL.into_iter().find(stored).map(Emitter::name)
}

/// Filters by equality, and the longest value that a record can have.
const FILTERS: [(&str, usize); 6] = [
    ("event_type", LONGEST_WORD),
    ("user_id", LONGEST_WORD),
    ("resource_type", LONGEST_WORD),
    ("resource_id", LONGEST_NAME),
    ("severity", LONGEST_WORD),
    ("username", LONGEST_NAME),
];

const LONGEST_WORD: usize = 128;

/// How many records may be passed over: each is looked at. Who wants what is behind them narrows by
/// the time or another filter.
const FURTHEST: i64 = 10_000;
