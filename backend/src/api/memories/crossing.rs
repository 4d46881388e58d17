//! Somebody else's memories, for admins, on the record.

use memoric_contract::{
    UserId,
    audit::{Action, EventType, Resource},
};

use super::{Answer, Wanted, keep, open_all, tell, too_much};
use crate::{
    api::{
        owner::{cross_over, reason},
        query::Asked,
    },
    app::App,
    audit::Named,
    caller::Call,
    error::ApiError,
    memories::Posted,
    scope::Reach as _,
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
    let record =
        crossing.record(call, (EventType::MemoryCreated, Action::Create, Resource::Memory));
    keep(app, call, &crossing, (&memory, record)).await
}

/// The memories of `owner`, the most relevant first, once the trail says who reads them and why.
pub(super) async fn recall(
    app: &App,
    call: &Call,
    (mut asked, wanted): (Asked, &Wanted),
    owner: Option<UserId>,
) -> Answer {
    let reason = reason(&mut asked);
    let given = reason.as_ref().and_then(Option::as_deref);
    let crossing = cross_over(app, call, (owner, Resource::Memory), given).await?;
    if reason.is_none() {
        return Err(asked.refusal());
    }
    let keys = app.vault.keys_to_read(&app.store, &crossing).await?;
    let term = wanted.thread.as_deref().zip(keys.as_deref());
    let term = term.map(|(thread, keys)| keys.index().thread(thread));
    let record =
        crossing.record(call, (EventType::MemoryRetrieved, Action::Read, Resource::Memory));
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    let found = app.store.recall_across(&crossing, &entry, term, wanted.most).await?;
    let rows = found.ok_or_else(too_much)?;
    match keys {
        Some(keys) => tell(&open_all(app, &crossing, keys, rows).await?, wanted),
        // Nothing was ever written.
        None => tell(&[], wanted),
    }
}
