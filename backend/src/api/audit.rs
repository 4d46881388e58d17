//! The audit trail, as admins read it.

use std::net::IpAddr;

use axum::http::StatusCode;
use memoric_contract::{UserId, audit::Personal};
use serde::Serialize;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::{Answer, json, query::Asked};
use crate::{
    app::App,
    caller::Call,
    error::ApiError,
    memories::stored_time,
    scope::Scope,
    store::{TrailFilter, TrailRow},
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

/// A record, key for key as clients know it. What was never kept is null.
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
}

/// The records that match, the newest first.
pub(super) async fn read(app: &App, call: &Call) -> Answer {
    let filter = filter(call)?;
    if let Some(subject) = filter.subject.filter(|subject| subject.0 > 0) {
        call.concerns(subject);
    }
    let found = app.store.read_trail(&Scope::of(call)?, &filter).await?;
    let logs = found.rows.iter().map(|row| Row::new(row, app.scribe.reveal(row))).collect();
    let page = Page { logs, total: found.total, offset: filter.offset, limit: filter.limit };
    Ok(json(StatusCode::OK, &page))
}

fn filter(call: &Call) -> Result<TrailFilter, ApiError> {
    let mut asked = Asked::read(call.target())?;
    let texts = FILTERS.map(|(name, limit)| asked.text(name, limit));
    let subject = asked.text("user_id", LONGEST_WORD);
    let success = asked.maybe_flag("success");
    let numbers = (
        asked.number("hours", 1..=720, 24),
        asked.number("limit", 1..=1_000, 100),
        asked.number("offset", 0..=i64::MAX, 0),
    );
    let (
        [Some(event_type), Some(resource_type), Some(resource_id), Some(severity)],
        Some(subject),
        Some(success),
        (Some(hours), Some(limit), Some(offset)),
    ) = (texts, subject, success, numbers)
    else {
        return Err(asked.refusal());
    };
    Ok(TrailFilter {
        event_type,
        // Nobody has an id that is not one.
        subject: subject.map(|subject| UserId::parse(&subject).unwrap_or(UserId(0))),
        resource_type,
        resource_id,
        severity,
        success,
        since: OffsetDateTime::now_utc() - Duration::hours(hours),
        limit,
        offset,
    })
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

/// Filters by equality, and the longest value that a record can have.
const FILTERS: [(&str, usize); 4] = [
    ("event_type", LONGEST_WORD),
    ("resource_type", LONGEST_WORD),
    ("resource_id", 256),
    ("severity", LONGEST_WORD),
];

const LONGEST_WORD: usize = 128;
