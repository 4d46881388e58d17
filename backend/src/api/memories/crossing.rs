//! Somebody else's memories, for admins, on the record.

use std::sync::Arc;

use memoric_contract::{
    UserId,
    audit::{Record, Resource},
};

use super::{Answer, Wanted, keep, open_all, tell, too_much};
use crate::{
    api::{
        owner::{cross_over, cross_over_by_query},
        query::Asked,
    },
    app::App,
    audit::Named,
    caller::Call,
    crossing::Crossing,
    error::ApiError,
    memories::Posted,
    scope::Custody as _,
    vault::UserKeys,
};

/// Keeps a new memory for `owner`, sealed with the key of theirs.
pub(super) async fn remember(
    app: &App,
    call: &Call,
    posted: Posted,
    owner: Option<UserId>,
) -> Answer {
    let Posted { memory, reason, .. } = posted;
    let given = reason.as_ref().ok().and_then(Option::as_deref);
    let crossing = cross_over(app, call, (owner, Resource::Memory), given).await?;
    let memory = match (memory, reason) {
        (Ok(memory), Ok(_)) => memory.of(crossing.owner()),
        (memory, reason) => {
            let faults = memory.err().into_iter().flatten().chain(reason.err());
            return Err(ApiError::Invalid(faults.collect()));
        }
    };
    keep(app, call, &crossing, (&memory, crossing.record(call))).await
}

/// The memories of `owner`, the most relevant first, once the trail says who reads them and why.
pub(super) async fn recall(
    app: &App,
    call: &Call,
    (asked, wanted): (Asked, &Wanted),
    owner: Option<UserId>,
) -> Answer {
    let crossing = cross_over_by_query(app, call, (owner, Resource::Memory), asked).await?;
    // As they are now: none is to be fetched while the transaction waits.
    let keys = app.vault.read_keys(&app.store, &crossing).await?;
    let mut number = 0;
    loop {
        match recall_once(app, call, (&crossing, number), (keys.clone(), wanted)).await {
            // The gateway asks again where the connection broke before our answer. That reading stands
            // in the trail, and so does this one.
            Err(ApiError::AlreadyServed) if number < MOST_REPEATED => number += 1,
            answer => {
                if number > 0 && answer.is_ok() {
                    call.recorded().note();
                }
                return answer;
            }
        }
    }
}

/// Reads them, on the record of that `number`.
async fn recall_once(
    app: &App,
    call: &Call,
    (crossing, number): (&Crossing, u32),
    (keys, wanted): (Option<Arc<UserKeys>>, &Wanted),
) -> Answer {
    let record = Record { number, ..crossing.record(call) };
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let term = wanted.thread.as_deref().zip(keys.as_deref());
    let term = term.map(|(thread, keys)| keys.index().thread(thread));
    let open = async |rows| match keys {
        Some(keys) => tell(&open_all(app, crossing, keys, rows).await?, wanted),
        // Nothing was ever written.
        None => tell(&[], wanted),
    };
    let told = app.store.recall_across(crossing, &entry, (term, wanted.most), open).await?;
    told.ok_or_else(too_much)
}

/// How often a reading is repeated under one request, at most.
const MOST_REPEATED: u32 = 3;
