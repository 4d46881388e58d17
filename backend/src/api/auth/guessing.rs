//! Guesses at passwords, as requests make them.

use std::time::Instant;

use axum::http::StatusCode;
use memoric_contract::audit::{EventType, Record, Resource};

use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    error::ApiError,
    guesses::{Guess, Guesser},
    store::Account,
};

/// Takes a guess, or tells the client when to come back.
pub(super) fn take(app: &App, guesser: Guesser) -> Result<Guess, ApiError> {
    let taken = app.guesses.take(guesser, Instant::now());
    taken.map_err(|retry_after| ApiError::TooManyGuesses { retry_after })
}

/// Notes that a guess at `account`, or at nobody's, was wrong, and is answered with `status`; where that
/// begins a burst, the trail is told, once.
pub(super) async fn record_wrong(
    app: &App,
    call: &Call,
    guess: Guess,
    (account, status): (Option<&Account>, StatusCode),
) -> Result<(), ApiError> {
    let Some(burst) = guess.was_wrong(Instant::now()) else { return Ok(()) };
    let record = Record {
        // Beside the record of the request itself.
        number: 1,
        owner: account.map(|account| account.id),
        resource: Some(Resource::User),
        description: Some(burst.describe()),
        ..audit::about(call, EventType::SuspiciousActivity, status.as_u16())
    };
    let entry = app.scribe.entry(record, call, Named::Not).await?;
    Ok(app.store.append(&entry, None).await?)
}
