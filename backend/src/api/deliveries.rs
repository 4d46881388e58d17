//! Records that gateways deliver, taken into the trail once each.

use axum::{
    body::Body,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse as _,
};
use memoric_contract::{
    AnsweredBy, Operation, RecordedBy, UserId,
    audit::{Emitter, Record, event_id},
    spool::{self, Delivery, LONGEST_BATCH, read_batch},
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{Answer, body};
use crate::{
    app::App,
    caller::Call,
    error::{ApiError, Chain},
    scope::Scope,
    store::Delivered,
    vault::VaultError,
};

/// Takes a batch, and says of each frame whether it is in the trail now or will never be.
///
/// What is said of neither is to be sent again: nothing is acknowledged that is not committed, and
/// nothing is refused but for what it holds.
pub(super) async fn take(app: &App, call: &Call, body: Body) -> Answer {
    let scope = Scope::of_gateway(call)?;
    let body = body::whole(body, LONGEST_BATCH + 1).await?;
    let batch = read_batch(&body)
        .ok_or_else(|| ApiError::field("body", "no_batch", "Body should be a batch of records"))?;

    let mut answer = spool::Answer::default();
    let received = OffsetDateTime::now_utc();
    let mut places = Vec::with_capacity(batch.len());
    let mut taken = Vec::with_capacity(batch.len());
    for (place, delivery) in (0..).zip(batch) {
        match judge(app, delivery, received).await? {
            Some(delivered) => {
                places.push(place);
                taken.push(delivered);
            }
            None => answer.refused.push(place),
        }
    }
    append(app, &scope, (&places, &taken), &mut answer).await?;
    if !answer.refused.is_empty() {
        tracing::warn!(refused = answer.refused.len(), "a gateway delivered what is no record");
    }
    let octets = (CONTENT_TYPE, "application/octet-stream");
    Ok((StatusCode::OK, [octets], answer.to_bytes()).into_response())
}

/// What a frame delivers, sealed. `None`: it is to be refused.
async fn judge(
    app: &App,
    delivery: Option<Delivery>,
    received: OffsetDateTime,
) -> Result<Option<Delivered>, ApiError> {
    let delivered = match delivery {
        Some(Delivery::Report(report)) if is_credible(report.record(), received) => {
            let (record, resource_id, personal) = report.into_parts();
            let instead_of = instead_of(&record);
            match app.scribe.delivered(record, personal, received).await {
                Ok(entry) => Delivered { entry, resource_id, instead_of },
                // The key of one subject is spoilt, and must not keep the others' records out.
                Err(VaultError::Closed(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Some(Delivery::Poisoned(poisoned)) => {
            let entry = app.scribe.poisoned(&poisoned, received).await?;
            Delivered { entry, resource_id: None, instead_of: None }
        }
        Some(Delivery::Report(_)) | None => return Ok(None),
    };
    Ok(Some(delivered))
}

/// Whether a gateway can have anything to do with what it says.
fn is_credible(record: &Record, received: OffsetDateTime) -> bool {
    let is_user = |user: UserId| user.0 > 0;
    record.event.emitters().contains(&Emitter::Gateway)
        && record.subject.is_none_or(is_user)
        && record.owner.is_none_or(is_user)
        && record.status.is_none_or(|status| (100..600).contains(&status))
        && record.occurred_at < received + FAST
}

/// The record of the backend's in whose place a gateway's stands: of every request, one record.
///
/// A gateway tells of a request that did not go well without knowing how far it went. The answer to
/// a change that was made, and recorded, may have been lost on its way.
fn instead_of(record: &Record) -> Option<Uuid> {
    let is_ours = |operation: Operation| {
        operation.answered_by() == AnsweredBy::Backend
            && (!record.success || operation.recorded_by() == RecordedBy::Backend)
    };
    let may_be_there = record.number == 0 && record.operation.is_some_and(is_ours);
    may_be_there.then(|| event_id(record.request, Emitter::Backend, 0))
}

/// Appends what was `taken` from its `places` in the batch. A part in which a value is refused is
/// halved until the culprit is alone.
async fn append(
    app: &App,
    scope: &Scope,
    whole: (&[u32], &[Delivered]),
    answer: &mut spool::Answer,
) -> Result<(), ApiError> {
    let mut parts = vec![whole];
    while let Some((places, taken)) = parts.pop().filter(|(places, _)| !places.is_empty()) {
        match (app.store.deliver(scope, taken).await, places) {
            (Ok(()), _) => {
                answer.acknowledged.extend(taken.iter().map(|told| told.entry.record.id()));
            }
            (Err(error), [place]) if error.is_of_a_value() => {
                tracing::error!(error = %Chain(&error), "the database refuses a record");
                answer.refused.push(*place);
            }
            (Err(error), _) if error.is_of_a_value() => {
                let half = taken.len() / 2;
                let ((few, more), (first, last)) = (places.split_at(half), taken.split_at(half));
                parts.extend([(more, last), (few, first)]);
            }
            (Err(error), _) if answer.acknowledged.is_empty() => return Err(error.into()),
            (Err(error), _) => {
                tracing::warn!(error = %Chain(&error), "a batch was taken in part");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// By how much a gateway's clock may be fast. Who reads the trail looks no further ahead.
const FAST: Duration = Duration::hours(1);
